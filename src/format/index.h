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

/* ---- Writing (index_write.c) ---- */

/* What happens to one tensor. A name with a NULL ptr is none; an empty name is one. */
struct stfs_index_change {
	struct stfs_str name;     /* borrowed: as the index has it; none: a tensor is added */
	struct stfs_str new_name; /* borrowed: what it is called then; none: it is removed */
	const char *file;         /* borrowed: its shard then; NULL: as before */
};

struct stfs_index_changes {
	const struct stfs_index_change *items; /* they take effect together: names may be swapped */
	size_t count;
	bool set_total_size; /* where the index has one: none is added */
	uint64_t total_size;
};

/*
 * Appends to `out` the index `text` with `changes` made. All else stays as it is, byte for byte:
 * other members, their order, the layout of lines. weight_map is written in the style of its first
 * members. If its names are sorted (as transformers leaves them), they stay so; else a renamed
 * tensor keeps its place and an added one comes last. An index need not name every tensor of its
 * shards, so removing one that it has not got changes nothing, renaming one adds it, and adding one
 * that is there sets its shard.
 *
 * What is written, stfs_index_read() reads. 0; -EBADMSG when it refuses `text`; -ENOENT when a
 * tensor that the index has not got is renamed without a shard; -EINVAL when it would refuse the
 * result (a name twice or not UTF-8, no file name, no tensor left, too large); -ENOMEM. On failure
 * `out` holds what it held.
 */
int stfs_index_write(struct stfs_str text, const struct stfs_index_changes *changes,
		     struct stfs_buf *out, struct stfs_err *err);

#endif
