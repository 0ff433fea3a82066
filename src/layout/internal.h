/* SPDX-License-Identifier: MIT */
/* What the parts of the planner share: the problem in order, a choice, the target that comes of it. */
#ifndef STFS_LAYOUT_INTERNAL_H
#define STFS_LAYOUT_INTERNAL_H

#include "layout/layout.h"

/* Where a mover or a new item goes. */
#define STFS_IN_TAIL UINT32_MAX

/* What a block shift costs beside data, in bytes that could be written instead: its call, its extents, */
#define STFS_SHIFT_CALL_COST (16u << 10)
#define STFS_SHIFTED_PER_COST 2048
/* and the cached pages that it drops: a twentieth for that (docs/benchmarks.md), the rest for who reads them again. */
#define STFS_CACHED_PER_COST 16

/* ---- view.c: the problem, checked and in order; made once, read by every choice ---- */

struct stfs_layout_view {
	const struct stfs_layout_problem *problem;
	const struct stfs_layout_item *items;
	uint32_t *kept;     /* owned: items that lie in the old file, by place */
	uint32_t kept_count;
	uint32_t *added;    /* owned: new items */
	uint32_t added_count;
	uint64_t *bytes_before; /* owned: kept_count + 1 sums of kept sizes */
	uint64_t added_bytes;
	uint64_t block;     /* places keep their value modulo this; 0: only equal places will do */
	uint64_t header_min, header_good; /* least and wanted byte at which the data begins */
	uint64_t header_most; /* a larger one is reserve that nobody wants */
};

/* Without `shifting` no block is shifted though the file allows it. 0, -EINVAL or -ENOMEM; close in any case. */
int stfs_view_open(struct stfs_layout_view *view, const struct stfs_layout_problem *problem, bool shifting);
void stfs_view_close(struct stfs_layout_view *view);

/*
 * The new place of kept[first] as the first fixed one: where it is, or blocks away; without blocks,
 * where others must lie before it, the place of the first of those. UINT64_MAX: none.
 */
uint64_t stfs_place_of_first(const struct stfs_layout_view *view, uint32_t first);

static inline const struct stfs_layout_item *stfs_kept(const struct stfs_layout_view *view, uint32_t k)
{
	return &view->items[view->kept[k]];
}

static inline uint64_t stfs_item_end(const struct stfs_layout_item *item)
{
	return item->old + item->size;
}

static inline bool stfs_item_is_new(const struct stfs_layout_item *item)
{
	return item->old == STFS_LAYOUT_NEW;
}

/* The alignment that a place must have for the item: its elements', if it had it or is new (L4). */
static inline uint64_t stfs_item_alignment(const struct stfs_layout_view *view,
					   const struct stfs_layout_item *item)
{
	if (view->problem->compact || view->problem->aligned || stfs_item_is_new(item) ||
	    item->old % item->alignment == 0)
		return item->alignment;
	return 1;
}

/* Whether the item may stay at its place modulo the block. */
static inline bool stfs_item_can_stay(const struct stfs_layout_view *view,
				      const struct stfs_layout_item *item)
{
	return item->old % stfs_item_alignment(view, item) == 0;
}

/* Puts `items` into an order in which each is aligned when the first is at `start`: whether it can. */
bool stfs_order_aligned(const struct stfs_layout_view *view, uint32_t *items, uint32_t count,
			uint64_t start);

/* ---- fill.c: the items that can fill gaps ---- */

#define STFS_FILLERS_MOST 64

struct stfs_pool {
	const struct stfs_layout_view *view;
	struct stfs_pool_entry *entries; /* owned, by item */
	uint32_t *heads;    /* owned: lists of items whose sizes differ by blocks */
	uint32_t head_mask;
	uint32_t *odd;      /* owned: the cheapest that are no whole blocks, by price */
	uint32_t odd_count;
	uint64_t *work;     /* borrowed: what has been spent on looking */
};

int stfs_pool_open(struct stfs_pool *pool, const struct stfs_layout_view *view, uint64_t *work);
void stfs_pool_close(struct stfs_pool *pool);
void stfs_pool_add(struct stfs_pool *pool, uint32_t number);
bool stfs_pool_is_taken(const struct stfs_pool *pool, uint32_t number);
void stfs_pool_take(struct stfs_pool *pool, uint32_t number);
void stfs_pool_release(struct stfs_pool *pool, uint32_t number);

/*
 * Chooses fillers for a gap of `gap` bytes that begins at `start`, so that the rest is a multiple of
 * the block (without blocks: so that there is no rest). Writes them to `chosen`, which has room for
 * STFS_FILLERS_MOST, as they shall lie; *extra gets what they cost beyond a move that is due anyway.
 * The number of them, or -1.
 */
int stfs_pool_fill(struct stfs_pool *pool, uint64_t gap, uint64_t start, uint32_t *chosen,
		   uint64_t *extra);

/* ---- choice.c: one choice and what it comes to ---- */

/* kept[first .. last) shall stay fixed, but for kept[window .. window_end), which moves along. */
struct stfs_choice {
	uint32_t first, last;
	uint32_t window, window_end;
};

/*
 * The items run[0 .. run_count) stay fixed, in that order. Gap k lies before run[k], for k from 1;
 * what is before run[0] is the header's, what is behind the last is the tail. Only where nothing can be
 * shifted a gap 0 has fillers: they lie right before run[0], and leave the header what they do not
 * need.
 */
struct stfs_target {
	struct stfs_choice choice; /* that it came of */
	uint32_t *run; /* owned: numbers into view->kept */
	uint32_t run_count;
	uint32_t *gap_of;     /* owned, by item: the gap it fills, or STFS_IN_TAIL; fixed: unused */
	bool *twice;          /* owned, by item: a filler that first goes behind the file's end */
	uint32_t *fill_order; /* owned: fillers, by gap and then as they lie in it */
	uint32_t fill_count;
	uint32_t *tail;       /* owned: the tail's items in order */
	uint32_t tail_count;
	uint64_t tail_bytes;
	uint64_t data_start;
	struct stfs_plan_cost cost;
};

int stfs_target_open(struct stfs_target *t, size_t count);
void stfs_target_close(struct stfs_target *t);

/*
 * Works out a choice. 0; -ENOENT when it cannot be done, would cost `limit` or more, or needs more
 * room than there is; -ENOMEM. Frees what it made when it fails. Adds its work to *work.
 */
int stfs_choose(const struct stfs_layout_view *view, struct stfs_choice choice, uint64_t limit,
		uint64_t *work, struct stfs_target *t);

/* ---- search.c: which choices are looked at ---- */

/* The best target with a fixed run, below `limit`; best->run stays NULL when there is none. */
int stfs_search(const struct stfs_layout_view *view, uint64_t limit, struct stfs_target *best);

/* ---- steps.c, slide.c: places and steps. 0 or -ENOMEM ---- */

int stfs_steps_in_place(const struct stfs_layout_view *view, const struct stfs_target *target,
			struct stfs_plan *plan);
int stfs_steps_rebuild(const struct stfs_layout_view *view, const struct stfs_target *target,
		       struct stfs_plan *plan);

/*
 * Everything slides to its new place in the old order, in pieces no longer than the way they go, or
 * by way of the room behind the file. Costs and space are filled. Also -ENOENT: too many steps.
 */
int stfs_steps_slide(const struct stfs_layout_view *view, struct stfs_plan *plan);

/* What it costs that `shifted` bytes lie behind block shifts, beside the calls. */
uint64_t stfs_shift_cost(const struct stfs_layout_file *file, uint64_t shifted);

/* What the plan's steps cost, and the room that must be free while they run. */
void stfs_plan_reckon(const struct stfs_layout_view *view, struct stfs_plan *plan);

/* A step more; neighbouring copies become one where they may. */
struct stfs_steps {
	struct stfs_plan *plan;
	size_t cap;
	int status; /* 0 or -ENOMEM */
};
void stfs_step_push(struct stfs_steps *steps, struct stfs_step step);

#endif
