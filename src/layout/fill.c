/* SPDX-License-Identifier: MIT */
/* Which small tensors fill up a gap, and in which order items lie so that all are aligned. */
#include <stdlib.h>

#include "layout/internal.h"

/* More candidates than this are not looked at: the smallest of them are enough in practice. */
#define CANDIDATES_MOST 64
/* Residues modulo the block, in units of what all sizes share. */
#define RESIDUES_MOST 8192

static uint64_t gcd(uint64_t a, uint64_t b)
{
	while (b) {
		uint64_t rest = a % b;

		a = b;
		b = rest;
	}
	return a;
}

static bool is_block_multiple(const struct stfs_layout_view *view, const struct stfs_layout_item *item)
{
	return view->block && item->size % view->block == 0;
}

/* A sort key: what should lie first is small. Blocks first, then by falling alignment. */
static unsigned tail_rank(const struct stfs_layout_view *view, uint32_t number)
{
	const struct stfs_layout_item *item = &view->items[number];

	if (is_block_multiple(view, item) && item->size)
		return 0;
	return 64 - (unsigned)stfs_item_alignment(item);
}

/* Stable insertion by rank: tails are short, and what is equal keeps the order it came in. */
static void sort_by_rank(const struct stfs_layout_view *view, uint32_t *items, uint32_t count)
{
	uint32_t buckets[66] = {0}, sum = 0;
	uint32_t *copy = malloc((count ? count : 1) * sizeof(*copy));

	if (!copy)
		return; /* the order is then as it came, and the alignment check says whether it does */
	for (uint32_t i = 0; i < count; i++)
		buckets[tail_rank(view, items[i]) + 1]++;
	for (unsigned r = 1; r < 66; r++) {
		sum += buckets[r];
		buckets[r] = sum;
	}
	for (uint32_t i = 0; i < count; i++)
		copy[buckets[tail_rank(view, items[i])]++] = items[i];
	for (uint32_t i = 0; i < count; i++)
		items[i] = copy[i];
	free(copy);
}

static bool all_aligned(const struct stfs_layout_view *view, const uint32_t *items, uint32_t count,
			uint64_t at)
{
	for (uint32_t i = 0; i < count; i++) {
		if (at % stfs_item_alignment(&view->items[items[i]]))
			return false;
		at += view->items[items[i]].size;
	}
	return true;
}

bool stfs_order_aligned(const struct stfs_layout_view *view, uint32_t *items, uint32_t count,
			uint64_t start)
{
	/* Odd sizes at the end are worth more than the old order: the next edit moves less. */
	sort_by_rank(view, items, count);
	return all_aligned(view, items, count, start);
}

/* What a candidate costs as a filler: a mover is copied anyway, a new item once more. */
static uint64_t price(const struct stfs_layout_view *view, uint32_t number)
{
	const struct stfs_layout_item *item = &view->items[number];

	return (stfs_item_is_new(item) ? item->size : 0) + item->size / 64 + 1;
}

struct table {
	uint64_t unit;
	uint32_t residues;
	uint64_t *cost;  /* owned; of the best set found for each residue */
	uint64_t *bytes; /* owned; its size */
	uint64_t *set;   /* owned; its members, a bit a candidate */
};

/* The smallest usable candidates, by price. */
static uint32_t shortlist(const struct stfs_layout_view *view, const uint32_t *candidates,
			  uint32_t count, const bool *taken, uint64_t gap, uint32_t *list)
{
	uint32_t used = 0;

	for (uint32_t i = 0; i < count; i++) {
		uint32_t number = candidates[i], at;
		uint64_t size = view->items[number].size;

		if (taken[number] || size == 0 || size > gap)
			continue;
		/* Exactly as long as the gap beats all that is merely small. */
		for (at = used; at > 0; at--) {
			uint32_t before = list[at - 1];
			bool exact = size == gap && view->items[before].size != gap;

			if (!exact && price(view, before) <= price(view, number))
				break;
			if (at < CANDIDATES_MOST)
				list[at] = before;
		}
		if (at < CANDIDATES_MOST)
			list[at] = number;
		if (used < CANDIDATES_MOST)
			used++;
	}
	return used;
}

/* One more candidate: every set with and without it, the cheaper for each residue. */
static void widen(struct table *t, const struct stfs_layout_view *view, uint32_t number, unsigned bit,
		  uint64_t gap, uint64_t *cost, uint64_t *bytes, uint64_t *set)
{
	uint64_t size = view->items[number].size, paid = price(view, number);
	uint32_t step = (uint32_t)((size / t->unit) % t->residues);

	for (uint32_t r = 0; r < t->residues; r++) {
		uint32_t to = (r + step) % t->residues;

		if (t->cost[r] == UINT64_MAX || t->bytes[r] + size > gap ||
		    t->cost[r] + paid >= cost[to])
			continue;
		cost[to] = t->cost[r] + paid;
		bytes[to] = t->bytes[r] + size;
		set[to] = t->set[r] | (uint64_t)1 << bit;
	}
}

/* The cheapest set for `wanted`: its members as bits, 0 when there is none. */
static uint64_t best_set(const struct stfs_layout_view *view, const uint32_t *list, uint32_t count,
			 struct table *t, uint32_t wanted, uint64_t gap)
{
	size_t n = t->residues;
	uint64_t *cost = malloc(n * sizeof(*cost)), *bytes = malloc(n * sizeof(*bytes));
	uint64_t *set = malloc(n * sizeof(*set)), found = 0;

	t->cost = malloc(n * sizeof(*t->cost));
	t->bytes = calloc(n, sizeof(*t->bytes));
	t->set = calloc(n, sizeof(*t->set));
	if (cost && bytes && set && t->cost && t->bytes && t->set) {
		for (size_t r = 0; r < n; r++)
			t->cost[r] = r ? UINT64_MAX : 0;
		for (uint32_t i = 0; i < count; i++) {
			for (size_t r = 0; r < n; r++) {
				cost[r] = t->cost[r];
				bytes[r] = t->bytes[r];
				set[r] = t->set[r];
			}
			widen(t, view, list[i], i, gap, cost, bytes, set);
			for (size_t r = 0; r < n; r++) {
				t->cost[r] = cost[r];
				t->bytes[r] = bytes[r];
				t->set[r] = set[r];
			}
		}
		found = t->cost[wanted] == UINT64_MAX ? 0 : t->set[wanted];
	}
	free(cost);
	free(bytes);
	free(set);
	free(t->cost);
	free(t->bytes);
	free(t->set);
	return found;
}

/* A single candidate that fills the gap exactly, or fits modulo the block; -1 when there is none. */
static int single(const struct stfs_layout_view *view, const uint32_t *list, uint32_t count, uint64_t gap)
{
	for (uint32_t i = 0; i < count; i++) {
		uint64_t rest = gap - view->items[list[i]].size;

		if (rest == 0 || (view->block && rest % view->block == 0))
			return (int)i;
	}
	return -1;
}

int stfs_fill_gap(const struct stfs_layout_view *view, const uint32_t *candidates, uint32_t count,
		  const bool *taken, uint64_t gap, uint64_t start, uint32_t *chosen, uint32_t most)
{
	uint32_t list[CANDIDATES_MOST], used, filled = 0;
	struct table t = {.unit = view->block};
	uint64_t set;
	int one;

	if (gap == 0 || (view->block && gap % view->block == 0))
		return 0;
	used = shortlist(view, candidates, count, taken, gap, list);
	one = single(view, list, used, gap);
	if (one >= 0 && most >= 1) {
		chosen[0] = list[one];
		return all_aligned(view, chosen, 1, start) ? 1 : -1;
	}
	if (!view->block)
		return -1;
	for (uint32_t i = 0; i < used; i++)
		t.unit = gcd(t.unit, view->items[list[i]].size % view->block);
	t.unit = t.unit ? t.unit : view->block;
	t.residues = (uint32_t)(view->block / t.unit);
	if (gap % view->block % t.unit || t.residues > RESIDUES_MOST)
		return -1;
	set = best_set(view, list, used, &t, (uint32_t)(gap % view->block / t.unit), gap);
	for (uint32_t i = 0; i < used; i++) {
		if (!(set >> i & 1))
			continue;
		if (filled == most)
			return -1;
		chosen[filled++] = list[i];
	}
	if (!filled)
		return -1;
	return stfs_order_aligned(view, chosen, filled, start) ? (int)filled : -1;
}
