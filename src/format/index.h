/* SPDX-License-Identifier: MIT */
/*
 * The index of a sharded model, NAME.safetensors.index.json (written by transformers, diffusers
 * and huggingface_hub): {"metadata":{"total_size":BYTES},"weight_map":{TENSOR:FILE}}.
 */
#ifndef STFS_FORMAT_INDEX_H
#define STFS_FORMAT_INDEX_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/* An index larger than this is refused unread: 30 times that of a 405B model. */
#define STFS_INDEX_MAX (32u << 20)
/* More shards than this are refused: some 20 times those of the largest published model. */
#define STFS_SHARDS_MAX 4096

struct json_object;

struct stfs_index {
	struct json_object *root; /* owned; the strings below are its own */
	struct json_object *weight_map;
	const char **files; /* owned array: each shard's name once, in natural order */
	uint32_t file_count;
	uint64_t total_size;
	bool has_total_size;
};

/*
 * Reads the `len` bytes at `text`. Every shard's name is a single component of a path: not
 * empty, ".", "..", and without '/' or NUL. 0; -EBADMSG with `err` saying what is wrong and where;
 * -ENOMEM. `index` is to be freed in every case.
 */
int stfs_index_read(const char *text, size_t len, struct stfs_index *index, struct stfs_err *err);
void stfs_index_free(struct stfs_index *index);

/* The number in `files` of the shard that the index names for a tensor, or UINT32_MAX. */
uint32_t stfs_index_find(const struct stfs_index *index, struct stfs_str name);

#endif
