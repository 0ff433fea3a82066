/* SPDX-License-Identifier: MIT */
/*
 * The index of a sharded model, NAME.safetensors.index.json (written by transformers, diffusers
 * and huggingface_hub): {"metadata":{"total_size":BYTES},"weight_map":{TENSOR:FILE}}.
 *
 * Read by format/json.h and not by json-c, which ends a key at a NUL, takes {'weight_map':{}} even
 * when told to be strict, merges keys that stand twice, and makes a tree of fifteen times the text.
 *
 * The text is kept, and each name stays where it stands in it, its escapes undone in place (no
 * character is longer than its escape). An entry is 8 bytes, its slot in the table 8 to 16: at the
 * worst some three times the text, until stfs_index_forget().
 *
 * Invariants of an index that was read (tests: unit/test_index.c):
 *   I1  names are unique; stfs_index_find() finds each (reads_files_once_in_natural_order,
 *       refuses).
 *   I2  files are unique, single components of a path, in natural order, 1 to STFS_SHARDS_MAX
 *       (finds_among_names_that_natural_order_holds_equal, bounds_the_number_of_files).
 */
#ifndef STFS_FORMAT_INDEX_H
#define STFS_FORMAT_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "format/nametable.h"

/* An index larger than this is refused unread: 30 times that of a 405B model. */
#define STFS_INDEX_BITS 25
#define STFS_INDEX_MAX (1u << STFS_INDEX_BITS)
/* More shards than this are refused: some 20 times those of the largest published model. */
#define STFS_SHARDS_MAX 4096

struct stfs_index_entry {
	uint64_t name_pos : STFS_INDEX_BITS; /* in the text */
	uint64_t name_len : STFS_INDEX_BITS;
	uint64_t file : 13; /* number in `files`, below STFS_SHARDS_MAX */
};

struct stfs_index {
	char *text; /* owned; names unescaped in place, no JSON any more */
	struct stfs_index_entry *entries; /* owned; in the order of weight_map */
	uint32_t count;
	struct stfs_nametable by_name; /* owned: numbers of entries */
	struct stfs_buf file_names;    /* the strings of `files` */
	const char **files; /* owned array: each shard's name once, in natural order */
	uint32_t file_count;
	uint64_t total_size;
	bool has_total_size; /* it is there, a whole number, written as such or as 7.0 */
};

/*
 * Reads the `len` bytes at `text`, of which (malloc'ed) it takes ownership in every case. 0;
 * -EBADMSG with `err` saying what is wrong and where; -ENOMEM; another -errno when there are no
 * random numbers. `index` is to be freed in every case.
 */
int stfs_index_read(char *text, size_t len, struct stfs_index *index, struct stfs_err *err);
void stfs_index_free(struct stfs_index *index);

/* Frees all but total_size, for an index whose names have been compared with the shards. */
void stfs_index_forget(struct stfs_index *index);

/* The number in `files` of the shard that the index names for a tensor, or STFS_NO_NUMBER. */
uint32_t stfs_index_find(const struct stfs_index *index, struct stfs_str name);

/* The tensor of entry number `entry`; valid until the index forgets. */
struct stfs_str stfs_index_name(const struct stfs_index *index, uint32_t entry);

#endif
