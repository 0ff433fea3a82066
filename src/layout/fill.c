/* SPDX-License-Identifier: MIT */
/*
 * Which small tensors fill up a gap. The pool holds every item that moves anyway; it answers two
 * questions: which single item has the gap's size, but for whole blocks (lists by size modulo the
 * block), and which set of the cheapest odd ones sums up to that (a table by what is left over).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "layout/internal.h"

#define NONE UINT32_MAX
/* So many of the cheapest odd items are kept apart; STFS_FILLERS_MOST of them are looked at. */
#define ODD_MOST 256
/* So far a list of items of one size modulo the block is followed. */
#define LIST_MOST 32
/* Residues modulo the block, in units of what all sizes share. */
#define RESIDUES_MOST 8192
/* Sets are looked for until so much work is spent: a batch of thousands of holes does without. */
#define SETS_WORK_MOST 60000000

struct stfs_pool_entry {
	uint32_t next; /* in its list */
	bool listed, taken;
};

int stfs_pool_open(struct stfs_pool *pool, const struct stfs_layout_view *view, uint64_t *work)
{
	size_t count = view->problem->count ? view->problem->count : 1, heads = 16;

	while (heads < 2 * count && heads < 1u << 16)
		heads *= 2;
	*pool = (struct stfs_pool){.view = view, .work = work, .head_mask = (uint32_t)heads - 1};
	pool->entries = calloc(count, sizeof(*pool->entries));
	pool->heads = malloc(heads * sizeof(*pool->heads));
	pool->odd = malloc(ODD_MOST * sizeof(*pool->odd));
	if (!pool->entries || !pool->heads || !pool->odd)
		return -ENOMEM;
	memset(pool->heads, 0xff, heads * sizeof(*pool->heads));
	return 0;
}

void stfs_pool_close(struct stfs_pool *pool)
{
	free(pool->entries);
	free(pool->heads);
	free(pool->odd);
}

/* Sizes that fill the same gaps have the same residue. */
static uint64_t residue_of(const struct stfs_pool *pool, uint64_t size)
{
	return pool->view->block ? size % pool->view->block : size;
}

static uint32_t *head_of(struct stfs_pool *pool, uint64_t residue)
{
	return &pool->heads[(residue * 0x9e3779b97f4a7c15u >> 40) & pool->head_mask];
}

/* What an item costs as a filler: a mover is copied anyway, a new item once more. */
static uint64_t price(const struct stfs_pool *pool, uint32_t number)
{
	const struct stfs_layout_item *item = &pool->view->items[number];

	return (stfs_item_is_new(item) ? item->size : 0) + item->size / 64 + 1;
}

static void add_odd(struct stfs_pool *pool, uint32_t number)
{
	uint64_t paid = price(pool, number);
	uint32_t from = 0, to = pool->odd_count, mid;

	while (from < to) {
		mid = (from + to) / 2;
		if (price(pool, pool->odd[mid]) <= paid)
			from = mid + 1;
		else
			to = mid;
	}
	if (from == ODD_MOST)
		return;
	if (pool->odd_count < ODD_MOST)
		pool->odd_count++;
	memmove(pool->odd + from + 1, pool->odd + from,
		(pool->odd_count - 1 - from) * sizeof(*pool->odd));
	pool->odd[from] = number;
}

static void list(struct stfs_pool *pool, uint32_t number)
{
	uint32_t *head = head_of(pool, residue_of(pool, pool->view->items[number].size));

	pool->entries[number].next = *head;
	pool->entries[number].listed = true;
	*head = number;
}

void stfs_pool_add(struct stfs_pool *pool, uint32_t number)
{
	uint64_t size = pool->view->items[number].size;

	if (size == 0)
		return;
	list(pool, number);
	if (pool->view->block && size % pool->view->block)
		add_odd(pool, number);
}

bool stfs_pool_is_taken(const struct stfs_pool *pool, uint32_t number)
{
	return pool->entries[number].taken;
}

void stfs_pool_take(struct stfs_pool *pool, uint32_t number)
{
	pool->entries[number].taken = true; /* its list drops it when it is next looked at */
}

void stfs_pool_release(struct stfs_pool *pool, uint32_t number)
{
	pool->entries[number].taken = false;
	if (!pool->entries[number].listed)
		list(pool, number);
}

/* The cheapest single item that leaves whole blocks of the gap, or NONE; *paid is its price. */
static uint32_t single(struct stfs_pool *pool, uint64_t gap, uint64_t start, uint64_t *paid)
{
	uint64_t residue = residue_of(pool, gap);
	uint32_t *link = head_of(pool, residue), best = NONE;

	for (uint32_t looked = 0; *link != NONE && looked < LIST_MOST; looked++) {
		uint32_t number = *link;
		const struct stfs_layout_item *item = &pool->view->items[number];
		uint64_t costs = price(pool, number);

		if (pool->entries[number].taken) {
			pool->entries[number].listed = false;
			*link = pool->entries[number].next;
			continue;
		}
		link = &pool->entries[number].next;
		costs += item->size < gap ? STFS_SHIFT_CALL_COST : 0;
		if (item->size > gap || residue_of(pool, item->size) != residue ||
		    start % stfs_item_alignment(pool->view, item))
			continue;
		if (best == NONE || costs < *paid) {
			best = number;
			*paid = costs;
		}
	}
	*pool->work += LIST_MOST;
	return best;
}

/* ---- Sets ---- */

static uint64_t gcd(uint64_t a, uint64_t b)
{
	while (b) {
		uint64_t rest = a % b;

		a = b;
		b = rest;
	}
	return a;
}

/* The cheapest set found that leaves a residue: none when its cost is UINT64_MAX. */
struct cell {
	uint64_t cost, bytes;
	uint64_t set; /* a bit a candidate */
};

/* One more candidate: every set with and without it, the cheaper for each residue. */
static void widen(struct cell *now, const struct cell *before, uint32_t residues, uint32_t step,
		  struct cell more, uint64_t gap)
{
	uint32_t to = step;

	for (uint32_t r = 0; r < residues; r++) {
		const struct cell *from = &before[r];

		if (from->cost != UINT64_MAX && from->bytes + more.bytes <= gap &&
		    from->cost + more.cost < now[to].cost)
			now[to] = (struct cell){from->cost + more.cost, from->bytes + more.bytes,
						from->set | more.set};
		to = to + 1 == residues ? 0 : to + 1;
	}
}

/* The cheapest set of `list` that leaves whole blocks of the gap, as bits; 0 when there is none. */
static uint64_t best_set(struct stfs_pool *pool, const uint32_t *list, uint32_t count, uint64_t unit,
			 uint64_t gap)
{
	uint64_t block = pool->view->block, found = 0;
	uint32_t residues = (uint32_t)(block / unit), wanted = (uint32_t)(gap % block / unit);
	struct cell *now = malloc(residues * sizeof(*now));
	struct cell *before = malloc(residues * sizeof(*before));

	if (now && before) {
		for (uint32_t r = 0; r < residues; r++)
			now[r] = (struct cell){.cost = r ? UINT64_MAX : 0};
		for (uint32_t i = 0; i < count; i++) {
			uint64_t size = pool->view->items[list[i]].size;

			memcpy(before, now, residues * sizeof(*now));
			widen(now, before, residues, (uint32_t)(size / unit % residues),
			      (struct cell){price(pool, list[i]), size, (uint64_t)1 << i}, gap);
		}
		found = now[wanted].cost == UINT64_MAX ? 0 : now[wanted].set;
	}
	*pool->work += (uint64_t)residues * count * 4;
	free(now);
	free(before);
	return found;
}

/* A set of odd items, in the order that aligns them: how many, or -1. */
static int several(struct stfs_pool *pool, uint64_t gap, uint64_t start, uint32_t *chosen)
{
	uint64_t block = pool->view->block, unit = block, set;
	uint32_t list[STFS_FILLERS_MOST], used = 0, filled = 0;

	for (uint32_t i = 0; i < pool->odd_count && used < STFS_FILLERS_MOST; i++) {
		uint64_t size = pool->view->items[pool->odd[i]].size;

		if (pool->entries[pool->odd[i]].taken || size > gap)
			continue;
		list[used++] = pool->odd[i];
		unit = gcd(unit, size % block);
	}
	*pool->work += pool->odd_count;
	if (gap % block % unit || block / unit > RESIDUES_MOST || *pool->work > SETS_WORK_MOST)
		return -1;
	set = best_set(pool, list, used, unit, gap);
	for (uint32_t i = 0; i < used; i++)
		if (set >> i & 1)
			chosen[filled++] = list[i];
	return filled && stfs_order_aligned(pool->view, chosen, filled, start) ? (int)filled : -1;
}

int stfs_pool_fill(struct stfs_pool *pool, uint64_t gap, uint64_t start, uint32_t *chosen,
		   uint64_t *extra)
{
	uint64_t paid = UINT64_MAX, sum = 0;
	uint32_t one = single(pool, gap, start, &paid);
	int many = -1;

	/* A new item is written twice: a set of small ones that move anyway may be cheaper. */
	if (pool->view->block && (one == NONE || stfs_item_is_new(&pool->view->items[one])))
		many = several(pool, gap, start, chosen);
	for (int i = 0; i < many; i++)
		sum += price(pool, chosen[i]);
	if (one != NONE && (many < 0 || paid <= sum + STFS_SHIFT_CALL_COST)) {
		chosen[0] = one;
		many = 1;
	}
	*extra = 0;
	for (int i = 0; i < many; i++)
		if (stfs_item_is_new(&pool->view->items[chosen[i]]))
			*extra += pool->view->items[chosen[i]].size;
	return many;
}
