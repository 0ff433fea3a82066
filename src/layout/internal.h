/* SPDX-License-Identifier: MIT */
/* What the parts of the planner share: the problem in order, a target, its evaluation. */
#ifndef STFS_LAYOUT_INTERNAL_H
#define STFS_LAYOUT_INTERNAL_H

#include "layout/layout.h"

/* Where a mover or a new item goes. */
#define STFS_IN_TAIL UINT32_MAX

/* The problem, checked and in order: prepared once, read by every candidate. */
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
};

/*
 * A choice: the kept items run[0 .. run_count) stay fixed, in that order. Gap k lies before run[k],
 * for k from 1; what is before run[0] is the header's, what is behind the last is the tail.
 */
struct stfs_target {
	uint32_t *run; /* owned: numbers into view->kept */
	uint32_t run_count;
	uint32_t *gap_of;     /* owned, by item: the gap it fills, or STFS_IN_TAIL; fixed: unused */
	uint32_t *fill_order; /* owned: fillers, by gap and then as they lie in it */
	uint32_t fill_count;
	uint32_t *tail;       /* owned: the tail's items in order */
	uint32_t tail_count;
	uint64_t tail_bytes;
	uint64_t data_start;
	struct stfs_plan_cost cost;
};

static inline uint64_t stfs_item_end(const struct stfs_layout_item *item)
{
	return item->old + item->size;
}

static inline bool stfs_item_is_new(const struct stfs_layout_item *item)
{
	return item->old == STFS_LAYOUT_NEW;
}

/* The alignment that a place must have for the item: its elements', if it had it or is new. */
static inline uint64_t stfs_item_alignment(const struct stfs_layout_item *item)
{
	return stfs_item_is_new(item) || item->old % item->alignment == 0 ? item->alignment : 1;
}

/*
 * Chooses fillers among `candidates` (items; those with taken[item] are passed over) for a gap of
 * `gap` bytes that begins at `start`, so that the rest is a multiple of `block` (0: so that there is
 * no rest). Writes them to `chosen` as they shall lie and returns their number, or -1.
 * New items are the last choice: they are written twice.
 */
int stfs_fill_gap(const struct stfs_layout_view *view, const uint32_t *candidates, uint32_t count,
		  const bool *taken, uint64_t gap, uint64_t start, uint32_t *chosen, uint32_t most);

/* Puts `items` into an order in which each is aligned when the first is at `start`: whether it can. */
bool stfs_order_aligned(const struct stfs_layout_view *view, uint32_t *items, uint32_t count,
			uint64_t start);

/* Turns a target into places and steps, in place or rebuilt. 0 or -ENOMEM. */
int stfs_steps_in_place(const struct stfs_layout_view *view, const struct stfs_target *target,
			struct stfs_plan *plan);
int stfs_steps_rebuild(const struct stfs_layout_view *view, const struct stfs_target *target,
		       struct stfs_plan *plan);

#endif
