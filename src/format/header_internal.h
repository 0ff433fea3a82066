/* SPDX-License-Identifier: MIT */
/* What the three parts of the header reader share: the text's pass, the entries, the layout. */
#ifndef STFS_FORMAT_HEADER_INTERNAL_H
#define STFS_FORMAT_HEADER_INTERNAL_H

#include "format/header.h"
#include "format/json.h"
#include "format/keyset.h"

struct stfs_header_reader {
	struct stfs_json json;
	struct stfs_header *header;
	struct stfs_findings *findings;
	struct stfs_keyset keys; /* of all objects that are open, but for the outermost */
	struct stfs_buf scratch; /* the last unescaped string */
	uint32_t tensor_cap;
	uint32_t unusable; /* entries that could not be read */
	bool metadata_seen;
	struct stfs_str tensor; /* whose entry is being read; NULL ptr outside of one */
	int status;             /* -ENOMEM from a callback that cannot return it */
};

/* What a tensor's entry must hold, once each. */
enum stfs_field { STFS_FIELD_DTYPE, STFS_FIELD_SHAPE, STFS_FIELD_OFFSETS, STFS_FIELD_COUNT };

const char *stfs_field_name(enum stfs_field field);

/* The field of that name, or STFS_FIELD_COUNT. */
enum stfs_field stfs_field_find(struct stfs_str key);

/* As stfs_json_plain(), into reader->scratch. */
static inline int stfs_header_plain(struct stfs_header_reader *reader, struct stfs_json_string raw,
				    struct stfs_str *out)
{
	return stfs_json_plain(&reader->json, raw, &reader->scratch, out);
}

/* Adds a finding at a position of the text, of the tensor being read. 0 or -ENOMEM. */
#define STFS_HEADER_SAY(reader, rule, pos, ...)                                                    \
	stfs_findings_add((reader)->findings, rule, STFS_LENGTH_WORD + (uint64_t)(pos),            \
			  (reader)->tensor, __VA_ARGS__)

/* Skips a value, whatever it is, and reports keys that stand twice in an object inside it. */
int stfs_header_skip(struct stfs_header_reader *reader);

/* Reports the keys of the object that ends here, from index `from` on, that stand there twice. */
int stfs_header_close_keys(struct stfs_header_reader *reader, size_t from);

/* Reads the value of a tensor's key into `tensor`. 0, -EBADMSG (syntax) or -ENOMEM. */
int stfs_header_read_entry(struct stfs_header_reader *reader, struct stfs_tensor *tensor);

/* Judges offsets and sizes of all tensors together; fills by_offset. 0 or -ENOMEM. */
int stfs_header_judge_layout(struct stfs_header *header, struct stfs_findings *findings);

/* Fills the name table; marks entries that a later one of the same name shadows. 0 or -ENOMEM. */
int stfs_header_index_names(struct stfs_header *header, const struct stfs_sipkey *key,
			    struct stfs_findings *findings);

/* The name of tensor number `index` of a struct stfs_header, for its table. */
struct stfs_str stfs_header_name_of(const void *header, uint32_t index);

#endif
