/* SPDX-License-Identifier: MIT */
#include "ops/segments.h"

#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "store/checkpoint.h"

const char *stfs_segment_name(enum stfs_segment_kind kind)
{
	static const char *const names[STFS_SEGMENT_KINDS] = {
		"header", "slack", "tensor", "container", "unused", "hole", "overlap", "trailing", "missing", "unknown"};

	return names[kind];
}

bool stfs_segment_is_fault(enum stfs_segment_kind kind)
{
	return kind >= STFS_SEGMENT_HOLE;
}

void stfs_segments_free(struct stfs_segments *segments)
{
	free(segments->items);
	*segments = (struct stfs_segments){0};
}

/*
 * Where the walk over a file has come to. Tensors come in order of their beginning, so two ends are
 * all there is to know of those before: up to `second` bytes belong to several of them, from there
 * to `high` to one, `owner`.
 */
struct walk {
	const struct stfs_shard *shard;
	struct stfs_segments *segments;
	size_t cap;
	uint64_t at; /* byte of the file: all before it is told */
	uint64_t high, second;
	uint32_t owner;
	uint32_t latest; /* the last tensor met: one of those that overlap */
	bool gaps_known; /* every entry could be read: what lies between tensors is a hole */
};

/* Adds [at, end) and moves on; nothing when it is empty and of no tensor. 0 or -ENOMEM. */
static int add(struct walk *walk, enum stfs_segment_kind kind, uint32_t tensor, uint64_t end)
{
	struct stfs_segments *segments = walk->segments;
	struct stfs_segment *items;

	if (end == walk->at && tensor == STFS_NO_TENSOR)
		return 0;
	if (segments->count == walk->cap) {
		walk->cap = walk->cap ? 2 * walk->cap : 16;
		items = reallocarray(segments->items, walk->cap, sizeof(*items));
		if (!items)
			return -ENOMEM;
		segments->items = items;
	}
	segments->items[segments->count++] =
		(struct stfs_segment){.kind = kind, .tensor = tensor,
				      .begin = walk->at, .end = end};
	segments->totals[kind] += end - walk->at;
	walk->at = end;
	return 0;
}

/* Up to `end` all is one tensor's: what is in the file, what is beyond its end. */
static int add_tensor(struct walk *walk, uint64_t end)
{
	uint64_t inside = stfs_min_u64(end, stfs_max_u64(walk->shard->size, walk->at));
	int r = 0;

	if (inside > walk->at)
		r = add(walk, STFS_SEGMENT_TENSOR, walk->owner, inside);
	if (r == 0 && end > walk->at)
		r = add(walk, STFS_SEGMENT_MISSING, walk->owner, end);
	return r;
}

/* Tells all that lies before byte `end`, where the next tensor begins. */
static int advance(struct walk *walk, uint64_t end)
{
	uint64_t shared = stfs_min_u64(end, walk->second), owned = stfs_min_u64(end, walk->high);
	int r = 0;

	if (shared > walk->at)
		r = add(walk, STFS_SEGMENT_OVERLAP, walk->latest, shared);
	if (r == 0 && owned > walk->at)
		r = add_tensor(walk, owned);
	if (r == 0 && end > walk->at)
		r = add(walk, walk->gaps_known ? STFS_SEGMENT_HOLE : STFS_SEGMENT_UNKNOWN,
			STFS_NO_TENSOR, end);
	return r;
}

static int walk_tensor(struct walk *walk, uint32_t index)
{
	const struct stfs_header *header = walk->shard->header;
	const struct stfs_tensor *tensor = &header->tensors[index];
	uint64_t start = stfs_header_data_start(header), end;
	int r;

	if (tensor->end < tensor->begin || stfs_add_overflows(start, tensor->end, &end))
		return 0;
	r = advance(walk, start + tensor->begin);
	if (r == 0 && tensor->begin == tensor->end)
		return add(walk, STFS_SEGMENT_TENSOR, index, walk->at);
	walk->latest = index;
	if (end > walk->high) {
		walk->second = stfs_max_u64(walk->second, walk->high);
		walk->high = end;
		walk->owner = index;
	} else {
		walk->second = stfs_max_u64(walk->second, end);
	}
	return r;
}

static int walk_data(struct walk *walk)
{
	const struct stfs_header *header = walk->shard->header;
	int r = 0;

	walk->gaps_known = header->text_read;
	for (uint32_t i = 0; i < header->count; i++)
		walk->gaps_known &= header->tensors[i].usable;
	for (uint32_t i = 0; r == 0 && i < header->by_offset_count; i++)
		r = walk_tensor(walk, header->by_offset[i]);
	return r == 0 ? advance(walk, stfs_max_u64(walk->at, walk->high)) : r;
}

/* ---- Checkpoints ---- */

/* What a storage or a tensor takes of the file; of a deflated storage all of it. */
struct extent {
	uint64_t begin, end;
	uint32_t number;
};

static int by_begin(const void *left, const void *right)
{
	const struct extent *a = left, *b = right;

	if (a->begin != b->begin)
		return a->begin < b->begin ? -1 : 1;
	return a->number < b->number ? -1 : a->number > b->number;
}

static void find_extents(const struct stfs_torch *torch, struct extent *storages, struct extent *tensors)
{
	uint32_t storage_count, tensor_count;
	const struct stfs_torch_storage *s = stfs_torch_storages(torch, &storage_count);
	const struct stfs_torch_tensor *t = stfs_torch_tensors(torch, &tensor_count);

	for (uint32_t i = 0; i < storage_count; i++)
		storages[i] = (struct extent){s[i].offset, s[i].offset + s[i].stored, i};
	for (uint32_t i = 0; i < tensor_count; i++) {
		tensors[i] = storages[t[i].storage];
		if (!s[t[i].storage].deflated)
			tensors[i].begin += t[i].bytes ? t[i].begin : 0;
		if (!s[t[i].storage].deflated || t[i].bytes == 0)
			tensors[i].end = tensors[i].begin + (t[i].bytes ? t[i].span : 0);
		tensors[i].number = i;
	}
	qsort(storages, storage_count, sizeof(*storages), by_begin);
	qsort(tensors, tensor_count, sizeof(*tensors), by_begin);
}

/* The next storage, and the tensors that begin in it: *next is the first that may. */
static int walk_storage(struct walk *walk, const struct extent *storage, const struct extent *tensors, uint32_t count,
			uint32_t *next)
{
	int r = 0;

	if (storage->begin > walk->at && storage->end > storage->begin)
		r = add(walk, STFS_SEGMENT_CONTAINER, STFS_NO_TENSOR, storage->begin);
	for (; r == 0 && *next < count && tensors[*next].begin < storage->end; ++*next) {
		const struct extent *tensor = &tensors[*next];

		if (tensor->end <= walk->at)
			continue;
		if (tensor->begin > walk->at)
			r = add(walk, STFS_SEGMENT_UNUSED, STFS_NO_TENSOR, tensor->begin);
		if (r == 0)
			r = add(walk, STFS_SEGMENT_TENSOR, tensor->number, tensor->end);
	}
	return r == 0 && storage->end > walk->at ? add(walk, STFS_SEGMENT_UNUSED, STFS_NO_TENSOR, storage->end) : r;
}

static int walk_checkpoint(struct walk *walk)
{
	const struct stfs_torch *torch = walk->shard->torch;
	STFS_AUTO_FREE struct extent *storages = NULL, *tensors = NULL;
	uint32_t storage_count, tensor_count, next = 0;
	int r = 0;

	stfs_torch_storages(torch, &storage_count);
	stfs_torch_tensors(torch, &tensor_count);
	storages = calloc(storage_count + 1ul, sizeof(*storages));
	tensors = calloc(tensor_count + 1ul, sizeof(*tensors));
	if (!storages || !tensors)
		return -ENOMEM;
	find_extents(torch, storages, tensors);
	for (uint32_t i = 0; r == 0 && i < storage_count; i++)
		r = walk_storage(walk, &storages[i], tensors, tensor_count, &next);
	return r == 0 && walk->at < walk->shard->size
		       ? add(walk, STFS_SEGMENT_CONTAINER, STFS_NO_TENSOR, walk->shard->size) : r;
}

int stfs_segments_make(const struct stfs_shard *shard, struct stfs_segments *segments)
{
	struct walk walk = {.shard = shard, .segments = segments};
	int r = 0;

	*segments = (struct stfs_segments){0};
	if (shard->header && shard->torch) {
		r = walk_checkpoint(&walk);
	} else if (shard->header) {
		uint64_t start = stfs_header_data_start(shard->header);

		r = add(&walk, STFS_SEGMENT_HEADER, STFS_NO_TENSOR, start - shard->header->slack);
		if (r == 0)
			r = add(&walk, STFS_SEGMENT_SLACK, STFS_NO_TENSOR, start);
		if (r == 0)
			r = walk_data(&walk);
	}
	if (r == 0 && walk.at < shard->size)
		r = add(&walk, walk.gaps_known ? STFS_SEGMENT_TRAILING : STFS_SEGMENT_UNKNOWN,
			STFS_NO_TENSOR, shard->size);
	if (r < 0)
		stfs_segments_free(segments);
	return r;
}
