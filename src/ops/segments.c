/* SPDX-License-Identifier: MIT */
#include "ops/segments.h"

#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"

const char *stfs_segment_name(enum stfs_segment_kind kind)
{
	static const char *const names[STFS_SEGMENT_KINDS] = {
		"header", "slack", "tensor", "hole", "overlap", "trailing", "missing", "unknown"};

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

int stfs_segments_make(const struct stfs_shard *shard, struct stfs_segments *segments)
{
	struct walk walk = {.shard = shard, .segments = segments};
	int r = 0;

	*segments = (struct stfs_segments){0};
	if (shard->header) {
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
