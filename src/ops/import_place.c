/* SPDX-License-Identifier: MIT */
/*
 * An import in place: which tensors stay where they are. Those that do cost no room; where there is none the
 * planner slides them, in the order in which they lie (layout/slide.c), and then each must come out aligned.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "ops/import_internal.h"

static uint64_t place_of(const struct stfs_import *import, const struct stfs_torch_tensor *tensor)
{
	uint32_t count;

	return stfs_torch_storages(import->torch, &count)[tensor->storage].offset + tensor->begin;
}

struct candidate {
	struct stfs_import_item *item;
	uint64_t at;
};

static int by_place(const void *left, const void *right)
{
	const struct candidate *a = left, *b = right;

	if (a->at != b->at)
		return a->at < b->at ? -1 : 1;
	/* Of several over the same bytes the largest stays. */
	return a->item->tensor->bytes > b->item->tensor->bytes ? -1 : a->item->tensor->bytes < b->item->tensor->bytes;
}

/* Bytes of two tensors can stay for one of them only. */
static size_t drop_overlaps(struct candidate *found, size_t count)
{
	uint64_t end = STFS_LENGTH_WORD;
	size_t kept = 0;

	for (size_t i = 0; i < count; i++) {
		if (found[i].at < end)
			continue;
		end = found[i].at + found[i].item->tensor->bytes;
		found[kept++] = found[i];
	}
	return kept;
}

static uint64_t alignment_of(const struct candidate *candidate)
{
	return stfs_dtype_alignment((enum stfs_dtype)candidate->item->tensor->dtype);
}

/*
 * Has those stay that need no larger alignment than `most`, but for those of a size that would leave one behind
 * them unaligned. Returns the bytes of the others.
 */
static uint64_t let_stay(struct candidate *found, size_t count, uint64_t most)
{
	uint64_t alignment = 1, moved = 0;

	for (size_t i = count; i-- > 0;) {
		uint64_t bytes = found[i].item->tensor->bytes;
		bool stays = alignment_of(&found[i]) <= most && bytes % alignment == 0;

		found[i].item->stays = stays;
		if (stays)
			alignment = stfs_max_u64(alignment, alignment_of(&found[i]));
		else
			moved += bytes;
	}
	return moved;
}

/* A few numbers of 8 bytes must not send all that is odd away, nor one that is odd all the others. */
static void choose(struct candidate *found, size_t count)
{
	uint64_t best = 8, least = UINT64_MAX;

	for (uint64_t most = 8; most > 0; most /= 2) {
		uint64_t moved = let_stay(found, count, most);

		if (moved < least) {
			least = moved;
			best = most;
		}
	}
	let_stay(found, count, best);
}

int stfs_import_find_place(struct stfs_import *import)
{
	STFS_AUTO_FREE struct candidate *found = calloc(import->count ? import->count : 1, sizeof(*found));
	size_t count = 0;

	if (!found)
		return -ENOMEM;
	for (size_t i = 0; i < import->count; i++) {
		const struct stfs_torch_tensor *tensor = import->items[i].tensor;

		if (tensor->bytes && stfs_torch_is_plain(import->torch, tensor))
			found[count++] = (struct candidate){&import->items[i], place_of(import, tensor)};
	}
	qsort(found, count, sizeof(*found), by_place);
	count = drop_overlaps(found, count);
	choose(found, count);
	return 0;
}
