/* SPDX-License-Identifier: MIT */
/* The problem in order: what is kept, what is new, where the data may begin, in which order it lies. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "layout/internal.h"

/* A longer header gets room to grow: a page, and an eighth of its own length. */
#define SLACK_LEAST 4096
#define SLACK_SHARE 8
/* More reserve than this is not left to a header where blocks cannot be removed. The official loader
 * refuses a header of more than 100,000,000 bytes (safetensors, MAX_HEADER_SIZE). */
#define SLACK_MOST (4u << 20)
/* Items below this come last in a tail: they are the next edit's fillers. */
#define SMALL (64u << 10)

static int by_place(const void *left, const void *right, void *data)
{
	const struct stfs_layout_item *items = data;
	const struct stfs_layout_item *a = &items[*(const uint32_t *)left];
	const struct stfs_layout_item *b = &items[*(const uint32_t *)right];

	if (a->old != b->old)
		return a->old < b->old ? -1 : 1;
	return a->size < b->size ? -1 : a->size > b->size; /* empty ones first */
}

/* Kept and new items apart, the kept ones by place. -EINVAL when they overlap or lie outside. */
static int fill(struct stfs_layout_view *view, const struct stfs_layout_problem *problem)
{
	uint64_t end = problem->file.data_start;

	for (uint32_t i = 0; i < problem->count; i++) {
		if (stfs_item_is_new(&problem->items[i])) {
			view->added[view->added_count++] = i;
			if (stfs_add_overflows(view->added_bytes, problem->items[i].size,
					       &view->added_bytes))
				return -EINVAL;
		} else {
			view->kept[view->kept_count++] = i;
		}
	}
	qsort_r(view->kept, view->kept_count, sizeof(*view->kept), by_place,
		(void *)(uintptr_t)problem->items);
	for (uint32_t k = 0; k < view->kept_count; k++) {
		const struct stfs_layout_item *item = &problem->items[view->kept[k]];

		if (item->old < end || item->old > problem->file.length ||
		    item->size > problem->file.length - item->old)
			return -EINVAL;
		end = stfs_item_end(item);
		view->bytes_before[k + 1] = view->bytes_before[k] + item->size;
	}
	return 0;
}

int stfs_view_open(struct stfs_layout_view *view, const struct stfs_layout_problem *problem, bool shifting)
{
	const struct stfs_layout_file *file = &problem->file;
	bool by_blocks = file->block && (file->can_shift || file->can_clone);
	size_t room = problem->count ? problem->count : 1;
	uint64_t slack = stfs_max_u64(SLACK_LEAST, problem->header_need / SLACK_SHARE);

	*view = (struct stfs_layout_view){.problem = problem, .items = problem->items};
	if (by_blocks && shifting)
		view->block = file->block;
	view->header_min = stfs_align_up(8 + problem->header_need, 8);
	if (problem->compact) {
		view->header_good = view->header_min;
		view->header_most = view->header_min + (file->block ? file->block : SLACK_LEAST) - 1;
	} else {
		view->header_good = stfs_align_up(view->header_min + slack, 8);
		view->header_most = view->header_good + (by_blocks ? 2 * file->block : SLACK_MOST);
	}
	view->kept = calloc(room, sizeof(*view->kept));
	view->added = calloc(room, sizeof(*view->added));
	view->bytes_before = calloc(room + 1, sizeof(*view->bytes_before));
	if (!view->kept || !view->added || !view->bytes_before)
		return -ENOMEM;
	return fill(view, problem);
}

void stfs_view_close(struct stfs_layout_view *view)
{
	free(view->kept);
	free(view->added);
	free(view->bytes_before);
}

uint64_t stfs_place_of_first(const struct stfs_layout_view *view, uint32_t first)
{
	const struct stfs_layout_problem *problem = view->problem;
	uint64_t old = stfs_kept(view, first)->old, blocks;

	/* A file whose data was never aligned may keep it where it is; nothing moves it so. */
	if (old % 8 && (problem->compact || old != problem->file.data_start))
		return UINT64_MAX;
	/* What lies where it lay costs nothing, whatever reserve it leaves, unless that is to go. */
	if (old >= view->header_min &&
	    (old <= view->header_most || (old == problem->file.data_start && !problem->compact)))
		return old;
	if (old % 8 || (!view->block && old < view->header_min))
		return UINT64_MAX;
	if (!view->block)
		return view->header_good; /* if others can be put before it */
	if (old < view->header_min) {
		blocks = (view->header_good - old + view->block - 1) / view->block;
		return old + blocks * view->block;
	}
	/* Too much reserve (tensors were deleted at the front): blocks of it go. */
	blocks = (old - view->header_good) / view->block;
	return old - blocks * view->block;
}

/* ---- The order in which items lie ---- */

#define RANKS 32

/* What should lie first is small: whole blocks, then by falling alignment, small items last. */
static unsigned tail_rank(const struct stfs_layout_view *view, uint32_t number)
{
	const struct stfs_layout_item *item = &view->items[number];
	uint64_t block = view->problem->file.block;

	if (block && item->size && item->size % block == 0)
		return 0;
	return 1 + 2 * (8 - (unsigned)stfs_item_alignment(view, item)) + (item->size < SMALL);
}

/* By rank; what is equal keeps the order it came in. */
static void sort_by_rank(const struct stfs_layout_view *view, uint32_t *items, uint32_t count)
{
	uint32_t buckets[RANKS + 1] = {0};
	uint32_t *copy = malloc((count ? count : 1) * sizeof(*copy));

	if (!copy)
		return; /* the order is then as it came, and the alignment check says whether it does */
	for (uint32_t i = 0; i < count; i++)
		buckets[tail_rank(view, items[i]) + 1]++;
	for (unsigned r = 1; r <= RANKS; r++)
		buckets[r] += buckets[r - 1];
	for (uint32_t i = 0; i < count; i++)
		copy[buckets[tail_rank(view, items[i])]++] = items[i];
	memcpy(items, copy, count * sizeof(*copy));
	free(copy);
}

/* The number of the first item that is not aligned, its place in *at; `count` when all are. */
static uint32_t first_unaligned(const struct stfs_layout_view *view, const uint32_t *items,
				uint32_t count, uint64_t *at)
{
	for (uint32_t i = 0; i < count; i++) {
		if (*at % stfs_item_alignment(view, &view->items[items[i]]))
			return i;
		*at += view->items[items[i]].size;
	}
	return count;
}

/* Moves the smallest item that fits at `at` and leaves it better aligned to the front: whether. */
static bool mend_alignment(const struct stfs_layout_view *view, uint32_t *items, uint32_t count,
			   uint64_t at)
{
	uint64_t grain = at & -at;
	uint32_t best = count, number;

	for (uint32_t i = 0; i < count; i++) {
		const struct stfs_layout_item *item = &view->items[items[i]];

		if (grain % stfs_item_alignment(view, item) || item->size % (2 * grain) != grain)
			continue;
		if (best == count || item->size < view->items[items[best]].size)
			best = i;
	}
	if (best == count)
		return false;
	number = items[best];
	memmove(items + 1, items, best * sizeof(*items));
	items[0] = number;
	return true;
}

bool stfs_order_aligned(const struct stfs_layout_view *view, uint32_t *items, uint32_t count,
			uint64_t start)
{
	uint64_t at = start;
	uint32_t i = 0;

	/* Odd sizes at the end are worth more than the old order: the next edit moves less. */
	sort_by_rank(view, items, count);
	for (;;) {
		i += first_unaligned(view, items + i, count - i, &at);
		if (i == count)
			return true;
		if (!mend_alignment(view, items + i, count - i, at))
			return false;
	}
}
