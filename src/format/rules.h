/* SPDX-License-Identifier: MIT */
/*
 * What can be said against a safetensors file, one rule a line, and the list of what was found.
 * The levels follow from two questions: does the official loader 0.8 take the file, and do we? Of a PyTorch
 * checkpoint, which that loader never takes, they say how far it can be trusted and used.
 */
#ifndef STFS_FORMAT_RULES_H
#define STFS_FORMAT_RULES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum stfs_level {
	STFS_LEVEL_NOTE,      /* valid, worth knowing: alignment */
	STFS_LEVEL_DEVIATION, /* both take it, the specification does not, or is silent */
	STFS_LEVEL_REFUSED,   /* the official loader takes it; we do not: readers disagree on it */
	STFS_LEVEL_ERROR,     /* the official loader refuses it, and so do we */
};

enum stfs_rule {
	/* the file */
	STFS_RULE_FILE_TOO_SMALL,
	STFS_RULE_HEADER_TOO_LARGE,
	STFS_RULE_HEADER_BEYOND_FILE,
	STFS_RULE_CHECKPOINT, /* it begins as a PyTorch checkpoint, and is refused as one */
	/* the header's text */
	STFS_RULE_NOT_UTF8,
	STFS_RULE_JSON_SYNTAX,
	STFS_RULE_LEADING_SPACE,
	STFS_RULE_TRAILING_SPACE,
	STFS_RULE_DUPLICATE_KEY,
	/* __metadata__ */
	STFS_RULE_METADATA_TWICE,
	STFS_RULE_METADATA_NULL,
	STFS_RULE_METADATA_TYPE,
	STFS_RULE_METADATA_VALUE,
	/* a tensor's entry */
	STFS_RULE_ENTRY_TYPE,
	STFS_RULE_ENTRY_ARRAY,
	STFS_RULE_ENTRY_FIELD_TWICE,
	STFS_RULE_ENTRY_FIELD_MISSING,
	STFS_RULE_ENTRY_EXTRA_KEY,
	STFS_RULE_DTYPE_TYPE,
	STFS_RULE_DTYPE_OBJECT,
	STFS_RULE_DTYPE_UNKNOWN,
	STFS_RULE_SHAPE_TYPE,
	STFS_RULE_SHAPE_OVERFLOW,
	STFS_RULE_SHAPE_ORDER,
	STFS_RULE_OFFSETS_TYPE,
	/* the layout */
	STFS_RULE_OFFSETS_REVERSED,
	STFS_RULE_SUB_BYTE,
	STFS_RULE_SIZE_MISMATCH,
	STFS_RULE_OVERLAP,
	STFS_RULE_HOLE,
	STFS_RULE_TRUNCATED,
	STFS_RULE_TRAILING_BYTES,
	STFS_RULE_UNALIGNED_DATA,
	STFS_RULE_UNALIGNED_TENSOR,
	/* a sharded model */
	STFS_RULE_INDEX,
	STFS_RULE_SHARD_UNREADABLE,
	STFS_RULE_SHARD_INCONSISTENT,
	STFS_RULE_TENSOR_IN_TWO_SHARDS,
	STFS_RULE_TENSOR_MISSING,
	STFS_RULE_TENSOR_NOT_IN_INDEX,
	STFS_RULE_TOTAL_SIZE,
	/* a PyTorch checkpoint that is not refused */
	STFS_RULE_DAMAGED_STORAGE,
	STFS_RULE_HARMLESS_GLOBAL,
	STFS_RULE_REFUSED_TENSOR,
	STFS_RULE_OUTSIZED_TENSOR,
	STFS_RULE_UNVERIFIED_STORAGE,
	STFS_RULE_LEFT_OUT,
	STFS_RULE_CHECKPOINT_NOTE,
	/* a file of any kind */
	STFS_RULE_TWO_FORMATS, /* other readers would take it for something else */
	STFS_RULE_NOT_ALL_SEARCHED,
};
#define STFS_RULE_COUNT 50

struct stfs_rule_info {
	const char *name; /* stable, for programs */
	enum stfs_level level;
	bool tolerable; /* the tolerant read-only mode reads such a file all the same */
};

const struct stfs_rule_info *stfs_rule_info(enum stfs_rule rule);
const char *stfs_level_name(enum stfs_level level);

struct stfs_finding {
	enum stfs_rule rule;
	uint64_t position; /* byte in the file, or STFS_NO_POSITION */
	char *tensor;      /* owned: its name, may hold NUL; NULL when of no tensor */
	size_t tensor_len;
	char *message; /* owned: one line for a person, names quoted */
};

/*
 * Findings in the order in which they were met. A hostile header can break a rule a million
 * times: the list keeps the first of them, STFS_FINDINGS_MAX of each rule, and counts the rest.
 */
#define STFS_FINDINGS_MAX 100
/* A name is kept up to this many bytes (a name may be as long as the header). */
#define STFS_FINDING_NAME_MAX 1024

struct stfs_findings {
	struct stfs_finding *items; /* owned */
	size_t count;
	size_t counts[STFS_RULE_COUNT]; /* of every rule, those left out of the list too */
};

#define STFS_FINDINGS_INIT {0}

void stfs_findings_free(struct stfs_findings *findings);

/*
 * Adds one. `tensor` has a NULL ptr when the finding is of no tensor. 0 or -ENOMEM; when the list
 * holds enough of that rule, the finding is only counted.
 */
int stfs_findings_add(struct stfs_findings *findings, enum stfs_rule rule, uint64_t position,
		      struct stfs_str tensor, const char *format, ...)
	__attribute__((format(printf, 5, 6)));

/* The highest level among them; STFS_LEVEL_NOTE when there are none. */
enum stfs_level stfs_findings_level(const struct stfs_findings *findings);

/* Whether all that makes us refuse the file is what the tolerant mode can live with. */
bool stfs_findings_tolerable(const struct stfs_findings *findings);

/*
 * Fills `err` from the first finding for which the file is refused (in tolerant mode: the first
 * that is not tolerable). Returns -EBADMSG, or 0 when there is none.
 */
int stfs_findings_error(const struct stfs_findings *findings, bool tolerant, struct stfs_err *err);

#endif
