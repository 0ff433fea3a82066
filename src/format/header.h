/* SPDX-License-Identifier: MIT */
/*
 * The header of a safetensors file: the table of its tensors, read from and written to memory.
 *
 *   byte 0      N, u64 little-endian: bytes of the header's text
 *   byte 8      the text: {"name":{"dtype":D,"shape":[...],"data_offsets":[begin,end]},...,
 *               "__metadata__":{"key":"value",...}} and trailing spaces (the slack)
 *   byte 8 + N  the data buffer, to which begin and end are relative, to the end of the file
 *
 * (safetensors README, "Format"; what its loader enforces: safetensors/src/tensor.rs, 0.8.)
 *
 * A struct stfs_header keeps the text and, for each tensor, where its parts stand in it. Shapes are
 * read from the text when asked for. Memory is thus the text plus 64 bytes a tensor.
 *
 * Invariants of a header whose findings are below STFS_LEVEL_REFUSED (tests: unit/test_header.c):
 *   H1  names are unique; stfs_header_find() finds each.
 *   H2  in by_offset order, tensor i begins where i - 1 ended, the first at 0, the last ends at
 *       data_len; so no tensor reaches beyond the file.
 *   H3  end - begin is the product of the shape times the bits of the dtype, over 8.
 * In tolerant mode H1, H3 and "no two tensors overlap" still hold; `complete` says of each tensor
 * whether it lies within data_len.
 */
#ifndef STFS_FORMAT_HEADER_H
#define STFS_FORMAT_HEADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "format/dtype.h"
#include "format/nametable.h"
#include "format/rules.h"

#define STFS_LENGTH_WORD 8
/* MAX_HEADER_SIZE of tensor.rs. */
#define STFS_HEADER_MAX 100000000u
/* A commit sets it in the length word while nobody may read the file: no loader takes such a length. */
#define STFS_POISON (1ull << 63)

/* Whether a length word is one that a commit has poisoned, and not merely far too large. */
static inline bool stfs_header_poisoned(uint64_t word)
{
	return word & STFS_POISON && (word & ~STFS_POISON) <= STFS_HEADER_MAX;
}

/* No index of a tensor in a header, no id of one in a model. */
#define STFS_NO_TENSOR STFS_NO_NUMBER

struct stfs_tensor {
	uint64_t begin, end; /* data_offsets: bytes in the data buffer */
	uint64_t elements;   /* product of the shape */
	uint32_t key_pos;    /* of the key's content in the text */
	uint32_t name_pos;   /* in the text, or in `names` when the key has escapes */
	uint32_t name_len;
	uint32_t entry_pos, entry_len; /* of the value in the text: for the writer */
	uint32_t shape_pos;            /* of the shape's '[' in the text */
	uint32_t rank;
	uint8_t dtype; /* enum stfs_dtype */
	bool name_escaped : 1;
	bool usable : 1;   /* dtype, shape and offsets were read; false only where findings say why */
	bool overflow : 1; /* the product of the shape, from the left, passes 2^64 - 1 */
	bool complete : 1; /* lies within data_len */
	bool shadowed : 1; /* a later entry has the same name (duplicate-key) */
	bool hidden : 1;   /* set by the store: another shard owns the tensor of this name */
};

struct stfs_header {
	char *text; /* owned; text_len bytes, not terminated */
	uint32_t text_len;
	uint64_t data_len; /* bytes behind the header in the file */
	struct stfs_tensor *tensors; /* owned; in key order; of those not usable the first alone */
	uint32_t count;
	uint32_t *by_offset; /* owned; usable tensors by (begin, end) */
	uint32_t by_offset_count;
	struct stfs_nametable by_name; /* owned; of two entries of a name the later */
	struct stfs_buf names; /* unescaped names */
	bool text_read;        /* to its end; else findings say why, and there are no tensors */
	uint32_t slack;        /* trailing spaces of the text */
	uint32_t metadata_pos; /* of the object in the text */
	uint32_t metadata_len; /* 0: the file has no __metadata__ */
	uint32_t metadata_index; /* tensors before it, in key order */
};

/*
 * Judges the length word of a file of `file_len` bytes, of which `word_len` (at most 8) were read.
 * A file may grow between the two: what counts is the smaller. Sets *text_len. 0, -EBADMSG after
 * adding to `findings`, or -ENOMEM.
 */
int stfs_header_length(const void *word, size_t word_len, uint64_t file_len, uint32_t *text_len,
		       struct stfs_findings *findings);

/*
 * Reads a header. Takes ownership of `text` (malloc'ed) in every case. All that is wrong or worth
 * knowing goes to `findings`; what could be read all the same is in *header. Returns 0 with
 * *header set, whatever the findings say: the caller decides by their level (stfs_findings_error).
 * -ENOMEM, or another -errno of the system, when there is no answer.
 */
int stfs_header_read(char *text, uint32_t text_len, uint64_t data_len, struct stfs_header **header,
		     struct stfs_findings *findings);
void stfs_header_free(struct stfs_header *header);

/* Byte of the file at which the data buffer begins. */
static inline uint64_t stfs_header_data_start(const struct stfs_header *header)
{
	return STFS_LENGTH_WORD + (uint64_t)header->text_len;
}

/* The name of a tensor; valid as long as the header. */
struct stfs_str stfs_header_name(const struct stfs_header *header, const struct stfs_tensor *tensor);

/* Index of the tensor `name`, or STFS_NO_TENSOR. */
uint32_t stfs_header_find(const struct stfs_header *header, struct stfs_str name);

/* The dimensions of a usable tensor, tensor->rank of them, into `dims`. */
void stfs_header_shape(const struct stfs_header *header, const struct stfs_tensor *tensor,
		       uint64_t *dims);

/*
 * Calls `each` with every pair of __metadata__, in order, unescaped; the strings are valid during
 * the call. Stops at the first non-zero result and returns it. 0, or -ENOMEM.
 */
int stfs_header_metadata(const struct stfs_header *header,
			 int (*each)(void *data, struct stfs_str key, struct stfs_str value), void *data);

/* ---- Writing (header_write.c) ---- */

struct stfs_header_item {
	struct stfs_str name;
	enum stfs_dtype dtype;
	const uint64_t *dims; /* borrowed; rank of them */
	size_t rank;
	uint64_t begin, end;
	/* The text of the entry that this one was read as (a valid object): the order of its keys
	 * and its unknown keys are kept. A NULL ptr for a new tensor. */
	struct stfs_str source;
};

struct stfs_header_pair {
	struct stfs_str key, value;
};

struct stfs_header_parts {
	const struct stfs_header_item *items;
	size_t item_count;
	const struct stfs_header_pair *pairs; /* of __metadata__; none: it is left out */
	size_t pair_count;
	size_t metadata_index; /* items that stand before __metadata__; if fewer: it comes last */
};

/*
 * Appends the length word and the text to `out`: compact, in the order given, padded with spaces
 * to at least `min_text_len` bytes and so that the data begins at a multiple of 8. The same parts
 * give the same bytes. 0; -E2BIG when the text passes STFS_HEADER_MAX; -EINVAL when a name
 * stands twice, is "__metadata__" or is not UTF-8, or the like of a pair; -ENOMEM. On failure `out` is as it was.
 */
int stfs_header_write(const struct stfs_header_parts *parts, size_t min_text_len,
		      struct stfs_buf *out, struct stfs_err *err);

/*
 * Bytes of a written header's text without the spaces behind it. Its length word is at `at`, and
 * nothing stands behind it in `out`.
 */
size_t stfs_header_written_len(const struct stfs_buf *out, size_t at);

/*
 * Gives such a header a text of exactly `text_len` bytes, which need not be a multiple of 8 (files
 * of other writers have such), by adding or taking away spaces. 0; -ENOSPC when that is less than
 * stfs_header_written_len(); -E2BIG above STFS_HEADER_MAX; -ENOMEM. On failure the header is as it
 * was.
 */
int stfs_header_fit(struct stfs_buf *out, size_t at, uint64_t text_len);

#endif
