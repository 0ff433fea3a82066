/* SPDX-License-Identifier: MIT */
/*
 * One choice of what stays fixed: how its gaps are closed, what must move with them, what that
 * costs.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "layout/internal.h"

/* Items on each side of a gap that may have to move with it. */
#define WINDOW_MOST 512
#define WINDOW_SLOTS 2048
/* Neighbours of a gap that may be moved so that larger fillers have room in it. */
#define WIDER_MOST 3

int stfs_target_open(struct stfs_target *t, size_t count)
{
	size_t room = count ? count : 1;

	t->run = malloc(room * sizeof(*t->run));
	t->gap_of = malloc(room * sizeof(*t->gap_of));
	t->twice = calloc(room, sizeof(*t->twice));
	t->fill_order = malloc(room * sizeof(*t->fill_order));
	t->tail = malloc(room * sizeof(*t->tail));
	if (!t->run || !t->gap_of || !t->twice || !t->fill_order || !t->tail)
		return -ENOMEM;
	memset(t->gap_of, 0xff, room * sizeof(*t->gap_of));
	return 0;
}

void stfs_target_close(struct stfs_target *t)
{
	free(t->run);
	free(t->gap_of);
	free(t->twice);
	free(t->fill_order);
	free(t->tail);
	*t = (struct stfs_target){0};
}

/* Where the pieces to the right of a gap end, by place modulo the block: the cheapest of each. */
struct slot {
	uint64_t cost;
	uint32_t residue, skip; /* skip + 1; 0: free */
};

/* The working state of one choice. */
struct chooser {
	const struct stfs_layout_view *view;
	struct stfs_target *t; /* its run grows like a stack */
	struct stfs_pool pool;
	uint32_t *rest;   /* owned: what may become part of the run, numbers into view->kept */
	uint32_t rest_count;
	uint32_t *movers; /* owned: items that move, kept ones first */
	uint32_t mover_count;
	struct slot *slots; /* owned */
	uint64_t limit, spent; /* bytes that are known to be written or moved */
	uint64_t *work;
};

static uint64_t run_end(const struct chooser *c, uint32_t k)
{
	return stfs_item_end(stfs_kept(c->view, c->t->run[k]));
}

static uint64_t gap_before(const struct chooser *c, uint32_t k)
{
	return stfs_kept(c->view, c->t->run[k])->old - run_end(c, k - 1);
}

static bool is_blocks(const struct chooser *c, uint64_t gap)
{
	return gap == 0 || (c->view->block && gap % c->view->block == 0);
}

static void add_mover(struct chooser *c, uint32_t number)
{
	c->movers[c->mover_count++] = number;
	c->spent += c->view->items[number].size;
	stfs_pool_add(&c->pool, number);
}

/*
 * What may stay, and what moves: what is outside of the choice, or badly aligned; new items last. Empty
 * ones move for nothing, and in the run they would cut a gap in two.
 */
static void split_items(struct chooser *c)
{
	const struct stfs_layout_view *view = c->view;
	const struct stfs_choice *choice = &c->t->choice;

	for (uint32_t k = 0; k < view->kept_count; k++) {
		if (k >= choice->first && k < choice->last && stfs_kept(view, k)->size &&
		    (k < choice->window || k >= choice->window_end) &&
		    stfs_item_can_stay(view, stfs_kept(view, k)))
			c->rest[c->rest_count++] = k;
		else
			add_mover(c, view->kept[k]);
	}
	for (uint32_t i = 0; i < view->added_count; i++)
		add_mover(c, view->added[i]);
	*c->work += 4 * ((uint64_t)view->kept_count + view->added_count);
}

/* ---- Windows: what has to move with a gap that nobody can fill ---- */

static struct slot *slot_of(const struct chooser *c, uint32_t residue)
{
	uint32_t at = residue * 2654435761u % WINDOW_SLOTS;

	while (c->slots[at].skip && c->slots[at].residue != residue)
		at = (at + 1) % WINDOW_SLOTS;
	return &c->slots[at];
}

/* Notes for each place modulo the block how few bytes of rest[next ..) must go until one has it. */
static void note_right(struct chooser *c, uint32_t next, uint64_t limit)
{
	uint64_t cost = 0;

	memset(c->slots, 0, WINDOW_SLOTS * sizeof(*c->slots));
	for (uint32_t j = next; j < c->rest_count && j - next < WINDOW_MOST && cost < limit; j++) {
		const struct stfs_layout_item *item = stfs_kept(c->view, c->rest[j]);
		uint32_t residue = (uint32_t)(item->old % c->view->block);
		struct slot *slot = slot_of(c, residue);

		if (!slot->skip)
			*slot = (struct slot){cost, residue, j - next + 1};
		cost += item->size;
	}
	*c->work += WINDOW_MOST;
}

/*
 * The gap between the run and rest[next] can be filled by nobody: finds the cheapest piece around it,
 * run[*keep ..) and *skip items of the rest, that has to move with it so that what is left lies whole
 * blocks apart. Its bytes, or UINT64_MAX when that is `limit` or more.
 */
static uint64_t find_window(struct chooser *c, uint32_t next, uint64_t limit, uint32_t *keep,
			    uint32_t *skip)
{
	const struct stfs_target *t = c->t;
	uint64_t best = limit, left = 0;

	note_right(c, next, limit);
	for (uint32_t i = t->run_count; i >= 1 && t->run_count - i < WINDOW_MOST && left < best; i--) {
		const struct slot *slot = slot_of(c, (uint32_t)(run_end(c, i - 1) % c->view->block));

		if (slot->skip && left + slot->cost < best) {
			best = left + slot->cost;
			*keep = i;
			*skip = slot->skip - 1;
		}
		left += stfs_kept(c->view, t->run[i - 1])->size;
	}
	*c->work += WINDOW_MOST;
	return best < limit ? best : UINT64_MAX;
}

/* Takes run[keep ..) and rest[next .. next + skip) out; fillers of gaps that vanish are free again. */
static void move_window(struct chooser *c, uint32_t next, uint32_t keep, uint32_t skip)
{
	struct stfs_target *t = c->t;

	while (t->fill_count && t->gap_of[t->fill_order[t->fill_count - 1]] >= keep) {
		uint32_t number = t->fill_order[--t->fill_count];

		t->gap_of[number] = STFS_IN_TAIL;
		stfs_pool_release(&c->pool, number);
	}
	for (uint32_t k = keep; k < t->run_count; k++)
		add_mover(c, c->view->kept[t->run[k]]);
	t->run_count = keep;
	for (uint32_t j = next; j < next + skip; j++)
		add_mover(c, c->view->kept[c->rest[j]]);
}

/* ---- Gaps ---- */

static void take_fillers(struct chooser *c, const uint32_t *chosen, int count)
{
	struct stfs_target *t = c->t;

	for (int i = 0; i < count; i++) {
		stfs_pool_take(&c->pool, chosen[i]);
		t->gap_of[chosen[i]] = t->run_count;
		t->fill_order[t->fill_count++] = chosen[i];
	}
}

/* A way to close a gap: run[keep ..) and `skip` of the rest move along, then fillers go in. */
struct closing {
	uint64_t cost; /* bytes beyond those that move anyway; UINT64_MAX: none found */
	uint32_t keep, skip;
	int count;
	uint32_t chosen[STFS_FILLERS_MOST];
};

/* Fillers for the gap when it is made wider by some of its neighbours, if that is cheaper. */
static void fill_wider(struct chooser *c, uint32_t next, uint32_t left, uint32_t right,
		       struct closing *best)
{
	struct closing way = {.keep = c->t->run_count - left, .skip = right};
	uint64_t start, gap, extra = 0;

	if (left >= c->t->run_count || right >= c->rest_count - next)
		return;
	for (uint32_t k = way.keep; k < c->t->run_count; k++)
		way.cost += stfs_kept(c->view, c->t->run[k])->size;
	for (uint32_t j = next; j < next + right; j++)
		way.cost += stfs_kept(c->view, c->rest[j])->size;
	if (way.cost >= best->cost)
		return;
	start = run_end(c, way.keep - 1);
	gap = stfs_kept(c->view, c->rest[next + right])->old - start;
	way.count = stfs_pool_fill(&c->pool, gap, start, way.chosen, &extra);
	way.cost += extra;
	if (way.count >= 0 && way.cost < best->cost)
		*best = way;
}

/* The cheapest way below `limit`: fillers, a window, fillers in a wider gap. */
static void find_closing(struct chooser *c, uint32_t next, uint64_t limit, struct closing *best)
{
	uint32_t keep = 0, skip = 0;
	uint64_t window;

	best->cost = limit;
	best->count = -1;
	fill_wider(c, next, 0, 0, best);
	if (!c->view->block || best->cost == 0)
		return;
	window = find_window(c, next, best->cost, &keep, &skip);
	if (window < best->cost)
		*best = (struct closing){.cost = window, .keep = keep, .skip = skip};
	for (uint32_t left = 0; left <= WIDER_MOST; left++)
		for (uint32_t right = left == 0; left + right <= WIDER_MOST; right++)
			fill_wider(c, next, left, right, best);
}

/* Lets rest[*next] follow the run, or what is left of either: 0 or -ENOENT. */
static int close_gap(struct chooser *c, uint32_t *next)
{
	uint64_t gap = stfs_kept(c->view, c->rest[*next])->old - run_end(c, c->t->run_count - 1);
	struct closing way;
	uint64_t spent;

	if (is_blocks(c, gap))
		return 0;
	if (c->spent >= c->limit)
		return -ENOENT;
	find_closing(c, *next, c->limit - c->spent, &way);
	if (way.cost >= c->limit - c->spent)
		return -ENOENT;
	spent = c->spent + way.cost;
	move_window(c, *next, way.keep, way.skip);
	take_fillers(c, way.chosen, way.count);
	c->spent = spent;
	*next += way.skip;
	return 0;
}

static int build_run(struct chooser *c)
{
	struct stfs_target *t = c->t;
	int r = 0;

	for (uint32_t next = 0; r == 0 && next < c->rest_count; next++) {
		if (t->run_count)
			r = close_gap(c, &next);
		if (r == 0 && next < c->rest_count)
			t->run[t->run_count++] = c->rest[next];
	}
	return r;
}

/* The largest mover from behind the run that fits into `room`, or UINT32_MAX. */
static uint32_t largest_mover(const struct chooser *c, uint64_t room)
{
	uint64_t behind = run_end(c, c->t->run_count - 1), most = 0;
	uint32_t best = UINT32_MAX;

	for (uint32_t i = 0; i < c->mover_count; i++) {
		const struct stfs_layout_item *item = &c->view->items[c->movers[i]];

		if (stfs_item_is_new(item) || item->old < behind || item->size % 8 ||
		    item->size > room || item->size <= most ||
		    stfs_pool_is_taken(&c->pool, c->movers[i]))
			continue;
		best = c->movers[i];
		most = item->size;
	}
	*c->work += c->mover_count;
	return best;
}

/*
 * Without shifts what is free before the run may be more than the header should have: tensors from the
 * end of the file go there. 0 or -ENOENT.
 */
static int fill_front(struct chooser *c)
{
	struct stfs_target *t = c->t;
	uint64_t first_old = stfs_kept(c->view, t->run[0])->old, at = first_old;
	uint32_t chosen[STFS_FILLERS_MOST], count = 0, next;

	if (c->view->block || t->data_start == first_old)
		return 0;
	while (at > c->view->header_most && count < STFS_FILLERS_MOST) {
		next = largest_mover(c, at - c->view->header_good);
		if (next == UINT32_MAX)
			return -ENOENT;
		chosen[count++] = next;
		at -= c->view->items[next].size;
		stfs_pool_take(&c->pool, next);
		t->gap_of[next] = 0;
	}
	if (at > c->view->header_most || !stfs_order_aligned(c->view, chosen, count, at))
		return -ENOENT;
	memmove(t->fill_order + count, t->fill_order, t->fill_count * sizeof(*t->fill_order));
	memcpy(t->fill_order, chosen, count * sizeof(*chosen));
	t->fill_count += count;
	t->data_start = at;
	return 0;
}

/*
 * A kept filler whose old place lies in a gap that gets fillers might be overwritten before it is
 * read: it goes by way of the end of the file, as new ones do.
 */
static void mark_twice(struct chooser *c)
{
	struct stfs_target *t = c->t;
	bool front = t->fill_count && t->gap_of[t->fill_order[0]] == 0;

	for (uint32_t i = 0; i < t->fill_count; i++) {
		const struct stfs_layout_item *item = &c->view->items[t->fill_order[i]];
		uint32_t from = 0, to = t->run_count;

		while (!stfs_item_is_new(item) && from < to) {
			uint32_t mid = (from + to) / 2;

			if (stfs_kept(c->view, t->run[mid])->old <= item->old)
				from = mid + 1;
			else
				to = mid;
		}
		/* Between run[from - 1] and run[from]; outside of the run nothing is filled in. */
		t->twice[t->fill_order[i]] =
			stfs_item_is_new(item) || ((from > 0 || front) && from < t->run_count);
	}
}

/* What is neither fixed nor a filler, in an order that keeps alignments: 0 or -ENOENT. */
static int fill_tail(struct chooser *c)
{
	struct stfs_target *t = c->t;
	uint64_t start = run_end(c, t->run_count - 1);

	for (uint32_t i = 0; i < c->mover_count; i++) {
		if (stfs_pool_is_taken(&c->pool, c->movers[i]))
			continue;
		t->tail[t->tail_count++] = c->movers[i];
		t->tail_bytes += c->view->items[c->movers[i]].size;
	}
	return stfs_order_aligned(c->view, t->tail, t->tail_count, start) ? 0 : -ENOENT;
}

/* ---- Cost ---- */

static void pay_shift(const struct chooser *c, uint64_t at, uint64_t behind)
{
	struct stfs_plan_cost *cost = &c->t->cost;

	cost->moved += at % c->view->block ? c->view->block / 2 : 0; /* the edge that is copied */
	if (c->view->problem->file.can_clone)
		behind = 0; /* a rebuild shares each block once, however many holes there are */
	cost->shifted += behind;
	cost->total += STFS_SHIFT_CALL_COST;
}

static void pay_gaps(const struct chooser *c)
{
	struct stfs_target *t = c->t;
	uint64_t length = c->view->problem->file.length, gap;
	uint32_t next = 0;

	while (next < t->fill_count && t->gap_of[t->fill_order[next]] == 0)
		next++;
	for (uint32_t k = 1; k < t->run_count; k++) {
		gap = gap_before(c, k);
		for (; next < t->fill_count && t->gap_of[t->fill_order[next]] == k; next++) {
			uint64_t size = c->view->items[t->fill_order[next]].size;

			gap -= size;
			if (t->twice[t->fill_order[next]])
				t->cost.moved += size;
		}
		if (gap)
			pay_shift(c, run_end(c, k - 1), length - run_end(c, k - 1));
	}
}

/* The sum; also whether readers are spared and the room suffices: 0 or -ENOENT. */
static int finish_cost(const struct chooser *c)
{
	const struct stfs_layout_file *file = &c->view->problem->file;
	struct stfs_target *t = c->t;
	uint64_t end = run_end(c, t->run_count - 1), moved = 0;
	uint64_t first_old = stfs_kept(c->view, t->run[0])->old;
	bool in_place = t->data_start == first_old && t->fill_count == 0;

	for (uint32_t i = 0; i < c->mover_count; i++)
		moved += c->view->items[c->movers[i]].size;
	t->cost.written = c->view->added_bytes;
	t->cost.moved = moved - c->view->added_bytes;
	pay_gaps(c);
	in_place = in_place && t->cost.total == 0;
	if (end != file->length) {
		in_place = false;
		if (t->tail_bytes && c->view->block)
			pay_shift(c, end, t->tail_bytes);
		else
			t->cost.moved += t->tail_bytes; /* copied down from behind the end */
	}
	if (c->view->block && t->data_start != first_old) {
		if (t->data_start < c->view->block && t->data_start < first_old)
			t->cost.moved += c->view->block / 2;
		t->cost.shifted += file->length - first_old;
		t->cost.total += STFS_SHIFT_CALL_COST;
	}
	t->cost.total += t->cost.written + t->cost.moved + stfs_shift_cost(file, t->cost.shifted);
	if (t->cost.total >= c->limit || (file->replace_only && !file->can_clone && !in_place))
		return -ENOENT;
	return t->tail_bytes <= file->room ? 0 : -ENOENT;
}

static int work_out(struct chooser *c)
{
	int r;

	split_items(c);
	if (c->rest_count == 0 || c->spent >= c->limit)
		return -ENOENT;
	c->t->data_start = stfs_place_of_first(c->view, c->rest[0]);
	if (c->t->data_start == UINT64_MAX)
		return -ENOENT;
	r = build_run(c);
	if (r == 0)
		r = fill_front(c);
	if (r < 0)
		return r;
	mark_twice(c);
	r = fill_tail(c);
	return r < 0 ? r : finish_cost(c);
}

int stfs_choose(const struct stfs_layout_view *view, struct stfs_choice choice, uint64_t limit,
		uint64_t *work, struct stfs_target *t)
{
	size_t room = view->problem->count ? view->problem->count : 1;
	struct chooser c = {.view = view, .t = t, .limit = limit, .work = work};
	int r;

	*t = (struct stfs_target){.choice = choice};
	c.rest = malloc(room * sizeof(*c.rest));
	c.movers = malloc(room * sizeof(*c.movers));
	c.slots = malloc(WINDOW_SLOTS * sizeof(*c.slots));
	r = stfs_pool_open(&c.pool, view, work);
	if (r == 0)
		r = stfs_target_open(t, view->problem->count);
	if (r == 0 && (!c.rest || !c.movers || !c.slots))
		r = -ENOMEM;
	if (r == 0)
		r = work_out(&c);
	stfs_pool_close(&c.pool);
	free(c.rest);
	free(c.movers);
	free(c.slots);
	if (r < 0)
		stfs_target_close(t);
	return r;
}
