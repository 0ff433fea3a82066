/* SPDX-License-Identifier: MIT */
/*
 * The verdict on a model: what `check` tells, from the findings of an opening with STFS_OPEN_JUDGE.
 */
#ifndef STFS_OPS_CHECK_H
#define STFS_OPS_CHECK_H

#include "ops/scan.h"
#include "store/model.h"

/* In rising order; also the exit codes of `check`. */
enum stfs_verdict {
	STFS_VERDICT_CLEAN,      /* nothing but notes */
	STFS_VERDICT_DEVIATIONS, /* everybody takes it, the specification does not; a checkpoint of which
				  * something is not shown, or not taken by torch's weights_only */
	STFS_VERDICT_REFUSED,    /* the official loader refuses it, or we do; a checkpoint that is damaged */
	STFS_VERDICT_UNREADABLE, /* no verdict: a file could not be read */
	STFS_VERDICT_DANGEROUS,  /* a checkpoint that names a global which may do anything */
};

struct stfs_check_file {
	const struct stfs_shard *shard; /* borrowed */
	struct stfs_findings scanned;   /* the shard's, and what was found beyond */
	const struct stfs_findings *findings; /* these, or the shard's */
	struct stfs_suspects suspects;  /* globals that are in no list of a checkpoint's own */
	int status; /* 0, or -errno when it could not be read */
	enum stfs_verdict verdict;
	bool official;         /* the official loader takes it; of a checkpoint nothing is known */
	bool tolerant;         /* the tolerant read-only mode takes it */
	uint64_t header_bytes; /* length word and text; 0 when there is no header */
	uint32_t tensors;      /* entries of the header that could be read at all */
	uint32_t intact;       /* of those: all bytes are there */
};

struct stfs_check {
	enum stfs_verdict verdict; /* the highest of the files' and of what is said of all */
	bool official;             /* all files, and the index */
	bool tolerant;
	struct stfs_check_file *files; /* owned; file_count of them, none where it is unread */
	uint32_t file_count;
	uint32_t tensors, intact;
};

/* `model` was opened with STFS_OPEN_JUDGE and outlives `check`. 0 or -ENOMEM. */
int stfs_check_make(const struct stfs_model *model, const struct stfs_scan_options *options,
		    struct stfs_check *check);
void stfs_check_free(struct stfs_check *check);

/* "clean", "deviations", "refused", "unreadable", "dangerous". */
const char *stfs_verdict_name(enum stfs_verdict verdict);

/*
 * What a file that is no safetensors file seems to be, by its first bytes, as the end of the
 * sentence "it looks like ..."; NULL when it is like nothing known.
 */
const char *stfs_check_lookalike(const struct stfs_shard *shard);

#endif
