/* SPDX-License-Identifier: MIT */
/*
 * What test_layout.c and test_moves.c test with: random models and edits, and a file simulated as an array that knows
 * of each byte whose it is. A plan is carried out step by step, what is wrong is counted by kind.
 */
#ifndef STFS_TESTS_UNIT_LAYOUT_SIMULATOR_H
#define STFS_TESTS_UNIT_LAYOUT_SIMULATOR_H

#include "stfs_check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "layout/layout.h"

#define ITEMS_MOST 64

/* A byte of the simulated file: whose it is, and which of theirs. */
typedef uint64_t cell;
#define CELL(owner, at) ((uint64_t)(owner) << 40 | (at))
#define NOBODY (UINT64_MAX >> 40)
#define HEADER (NOBODY - 1)

enum fault {
	FAULT_ERROR,  /* the planner failed, or found no room where there was enough */
	FAULT_PLACES, /* L1 */
	FAULT_BYTES,  /* L1: not the item's bytes at its place */
	FAULT_BEFORE, /* L2 */
	FAULT_COPY,   /* L3 */
	FAULT_ALIGN,  /* L4 */
	FAULT_COST,   /* L5 */
	FAULT_START,  /* L6 */
	FAULT_CALL,   /* a shift or clone that the system would refuse */
	FAULT_SPACE,  /* more room than there is, or than was said */
	FAULT_ORDER,  /* a WRITE behind the record, a rebuild that goes back and forth */
	FAULT_COMPACT,
	FAULT_READERS,
	FAULTS
};

enum kind { KIND_EDIT, KIND_REPAIR, KIND_REPLACE, KIND_METADATA, KIND_MANY, KIND_TIGHT, KINDS };

struct world {
	struct stfs_layout_item items[ITEMS_MOST];
	struct stfs_layout_problem problem;
	cell *old, *now; /* the file before, and as the steps leave it */
	uint64_t old_len, now_len, cap, most_len;
	uint64_t copied; /* bytes that the steps have written */
	unsigned faults[FAULTS];
	/* Of a plan in place: called with the first `done` steps done, at the record and behind it. */
	void (*watch)(const struct world *w, const struct stfs_plan *plan, size_t done);
};

static uint64_t state; /* of the random numbers, set by each case */

static uint64_t below(uint64_t bound)
{
	return stfs_check_below(&state, bound);
}

/* ---- Random worlds ---- */

static uint64_t pick_size(uint64_t block)
{
	static const uint64_t sizes[] = {0, 1, 3, 8, 512, 1536, 2048};
	uint64_t n = below(20);

	if (n < 7)
		return sizes[n];
	if (n < 13)
		return (n - 7) * block / 2 + below(3) - (n > 7);
	if (n < 15)
		return below(9) * block / 8;
	/* Large enough that shifts are worth their cost, and the order of a tail matters. */
	return n < 19 ? (block < 4096 ? 16 + below(64) : below(20)) * block : below(5 * block);
}

static uint32_t pick_alignment(uint64_t size)
{
	uint32_t a = 1u << below(4);

	while (size % a)
		a /= 2;
	return a;
}

static void pick_file(struct stfs_layout_file *file, enum kind kind)
{
	static const uint64_t rooms[] = {0, 1000, 20000, 100000};
	uint64_t n = below(40);

	file->block = n == 0 ? 65536 : n < 8 ? 4096 : n < 16 ? 1024 : 512;
	file->data_start = 8 + 8 * (1 + below(600)) + (below(12) ? 0 : below(8));
	file->room = below(5) && kind != KIND_TIGHT ? UINT64_MAX : rooms[below(4)];
	file->can_shift = kind != KIND_TIGHT && below(2);
	file->can_clone = kind != KIND_TIGHT && below(2);
	file->replace_only = !below(5);
}

/* Old tensors one behind the other, some of them deleted. */
static uint32_t pick_kept(struct world *w, enum kind kind)
{
	uint64_t at = w->problem.file.data_start;
	uint32_t olds = (uint32_t)below(kind == KIND_MANY ? 56 : 14), count = 0;
	uint32_t chosen = (uint32_t)below(olds + 1);

	for (uint32_t i = 0; i < olds; i++) {
		uint64_t size = pick_size(w->problem.file.block);
		bool stays = below(4) > 0;

		if (kind == KIND_REPLACE || kind == KIND_TIGHT)
			stays = i != chosen;
		if (kind == KIND_METADATA || stays)
			w->items[count++] = (struct stfs_layout_item){at, size, pick_alignment(size)};
		at += size;
		if (kind == KIND_REPAIR && !below(4))
			at += below(5000);
	}
	w->old_len = at;
	return count;
}

/* Moves the data so that the file ends where a block does. */
static void end_at_block(struct world *w, uint32_t count)
{
	uint64_t block = w->problem.file.block, more = (block - w->old_len % block) % block;

	more -= more % 8;
	for (uint32_t i = 0; i < count; i++)
		w->items[i].old += more;
	w->problem.file.data_start += more;
	w->old_len += more;
}

static void pick_items(struct world *w, enum kind kind)
{
	uint32_t news = (uint32_t)below(4), count = pick_kept(w, kind);

	if (!below(4))
		end_at_block(w, count);
	if (kind == KIND_METADATA)
		news = 0;
	if (kind == KIND_REPLACE || kind == KIND_TIGHT)
		news = (uint32_t)below(2);
	for (uint32_t i = 0; i < news; i++) {
		uint64_t size = pick_size(w->problem.file.block);

		if (kind == KIND_REPLACE && count && below(2)) /* the size of another, perhaps of the old */
			size = w->items[below(count)].size;
		w->items[count++] = (struct stfs_layout_item){STFS_LAYOUT_NEW, size, pick_alignment(size)};
	}
	w->problem.items = w->items;
	w->problem.count = count;
}

static void make_cells(struct world *w)
{
	struct stfs_layout_problem *p = &w->problem;

	/* Room for the old file, all items twice and a grown header. */
	w->cap = w->old_len + 4 * p->header_need + 4 * p->file.block + (1 << 16);
	for (uint32_t i = 0; i < p->count; i++)
		w->cap += 2 * w->items[i].size;
	w->old = malloc(w->cap * sizeof(*w->old));
	w->now = malloc(w->cap * sizeof(*w->now));
	for (uint64_t i = 0; i < w->cap; i++)
		w->old[i] = CELL(i < p->file.data_start ? HEADER : NOBODY, i < w->old_len ? i : 0);
	for (uint32_t i = 0; i < p->count; i++)
		for (uint64_t k = 0; w->items[i].old != STFS_LAYOUT_NEW && k < w->items[i].size; k++)
			w->old[w->items[i].old + k] = CELL(i, k);
	memcpy(w->now, w->old, w->cap * sizeof(*w->now));
	w->now_len = w->most_len = w->old_len;
	p->file.length = w->old_len;
}

static void make_world(struct world *w, enum kind kind, bool compact)
{
	memset(w, 0, sizeof(*w));
	pick_file(&w->problem.file, kind);
	pick_items(w, kind);
	w->problem.file.cached = below(3) * (w->old_len / 2);
	w->problem.header_need = 8 * below(900) + below(8);
	if (below(2)) /* no more than there is */
		w->problem.header_need %= w->problem.file.data_start - 7;
	w->problem.header_same = kind == KIND_METADATA ? w->problem.header_need : UINT64_MAX;
	w->problem.compact = compact;
	make_cells(w);
}

static void free_world(struct world *w)
{
	free(w->old);
	free(w->now);
}

/* ---- The simulator ---- */

static void fault_if(struct world *w, enum fault fault, bool wrong)
{
	w->faults[fault] += wrong;
}

static void set_len(struct world *w, uint64_t len)
{
	for (uint64_t i = len; i < w->now_len; i++)
		w->now[i] = CELL(NOBODY, 0);
	w->now_len = len;
	w->most_len = stfs_max_u64(w->most_len, len);
}

static void write_step(struct world *w, const struct stfs_step *s, const cell *source, bool in_place)
{
	uint64_t block = w->problem.file.block, old_len = in_place ? w->now_len : w->old_len;

	if (s->kind == STFS_STEP_CLONE)
		fault_if(w, FAULT_CALL, in_place || !w->problem.file.can_clone ||
						s->from % block + s->to % block + s->len % block);
	else
		w->copied += s->len;
	if (s->kind != STFS_STEP_WRITE)
		fault_if(w, FAULT_CALL, s->from + s->len > old_len);
	if (s->kind == STFS_STEP_COPY && in_place) /* L3: may be done again */
		fault_if(w, FAULT_COPY, s->to < s->from + s->len && s->from < s->to + s->len);
	for (uint64_t k = 0; k < s->len; k++)
		w->now[s->to + k] = s->kind == STFS_STEP_WRITE ? CELL(s->item, s->from + k)
							       : source[s->from + k];
	set_len(w, stfs_max_u64(w->now_len, s->to + s->len));
}

static void shift_step(struct world *w, const struct stfs_step *s, bool in_place)
{
	uint64_t block = w->problem.file.block, end = s->to + s->len;

	fault_if(w, FAULT_CALL, !in_place || !w->problem.file.can_shift || s->to % block + s->len % block);
	if (s->kind == STFS_STEP_INSERT) {
		fault_if(w, FAULT_CALL, s->to >= w->now_len);
		set_len(w, w->now_len + s->len);
		memmove(w->now + end, w->now + s->to, (w->now_len - end) * sizeof(*w->now));
		for (uint64_t k = s->to; k < end; k++)
			w->now[k] = CELL(NOBODY, 0);
		return;
	}
	fault_if(w, FAULT_CALL, s->to < block || end >= w->now_len); /* up to the end is EINVAL */
	if (end > w->now_len)
		return;
	memmove(w->now + s->to, w->now + end, (w->now_len - end) * sizeof(*w->now));
	set_len(w, w->now_len - s->len);
}

/* One step; `source` is where COPY and CLONE read: the file itself, or the old one of a rebuild. */
static void run_step(struct world *w, const struct stfs_step *s, const cell *source, bool in_place)
{
	uint64_t behind = s->kind == STFS_STEP_INSERT ? w->now_len : s->to;

	if (s->to > w->cap || s->len > w->cap - behind) {
		fault_if(w, FAULT_SPACE, true);
		return;
	}
	switch (s->kind) {
	case STFS_STEP_WRITE:
	case STFS_STEP_COPY:
	case STFS_STEP_CLONE:
		write_step(w, s, source, in_place);
		break;
	case STFS_STEP_COLLAPSE:
	case STFS_STEP_INSERT:
		shift_step(w, s, in_place);
		break;
	case STFS_STEP_ERASE:
		ck_abort_msg("a plan erases nothing");
		break;
	case STFS_STEP_TRUNCATE:
		set_len(w, s->to);
		break;
	}
}

static void carry_out(struct world *w, const struct stfs_plan *plan)
{
	bool in_place = plan->kind != STFS_PLAN_REBUILD;

	if (!in_place)
		set_len(w, 0);
	for (size_t i = 0; i < plan->count; i++) {
		const struct stfs_step *s = &plan->steps[i];

		/* L2: before the record nothing of the old file is touched. */
		if (in_place && i < plan->before)
			fault_if(w, FAULT_BEFORE, (s->kind != STFS_STEP_WRITE && s->kind != STFS_STEP_COPY) ||
							  s->to < w->old_len);
		fault_if(w, FAULT_ORDER, in_place && i >= plan->before && s->kind == STFS_STEP_WRITE);
		if (!in_place && i)
			fault_if(w, FAULT_ORDER, s->to < s[-1].to + s[-1].len);
		if (w->watch && in_place && i == plan->before)
			w->watch(w, plan, i);
		run_step(w, s, in_place ? w->now : w->old, in_place);
		if (w->watch && in_place && i >= plan->before)
			w->watch(w, plan, i + 1);
	}
	if (w->watch && in_place && plan->before == plan->count)
		w->watch(w, plan, plan->count);
}

/* ---- The checks ---- */

static void check_item(struct world *w, const struct stfs_plan *plan, uint32_t i)
{
	const struct stfs_layout_item *item = &w->items[i];
	uint64_t at = plan->place[i];
	bool wrong = at < plan->data_start || at + item->size > plan->length;

	fault_if(w, FAULT_PLACES, wrong);
	for (uint64_t k = 0; !wrong && k < item->size; k++)
		wrong = w->now[at + k] != CELL(i, k);
	fault_if(w, FAULT_BYTES, wrong);
	if (item->old == STFS_LAYOUT_NEW || item->old % item->alignment == 0)
		fault_if(w, FAULT_ALIGN, at % item->alignment != 0);
	if (w->problem.compact)
		fault_if(w, FAULT_COMPACT, at % item->alignment != 0);
}

static bool has_kind(const struct stfs_plan *plan, enum stfs_step_kind kind)
{
	for (size_t i = 0; i < plan->count; i++)
		if (plan->steps[i].kind == kind)
			return true;
	return false;
}

static void check_header(struct world *w, const struct stfs_plan *plan)
{
	uint64_t need = stfs_align_up(8 + w->problem.header_need, 8);
	bool rebuilt = plan->kind == STFS_PLAN_REBUILD && !has_kind(plan, STFS_STEP_CLONE);

	fault_if(w, FAULT_PLACES, plan->data_start < 8 + w->problem.header_need);
	fault_if(w, FAULT_PLACES, plan->text_len != plan->data_start - 8);
	fault_if(w, FAULT_PLACES, plan->text_len > 100000000);
	if (plan->data_start != w->problem.file.data_start)
		fault_if(w, FAULT_START, plan->data_start % 8 != 0);
	if (w->problem.compact)
		fault_if(w, FAULT_COMPACT,
			 plan->data_start >= need + w->problem.file.block ||
				 (rebuilt && plan->data_start != need));
}

/* What writing everything anew costs, and the room that it surely does with. */
static uint64_t rewrite_cost(const struct world *w, uint64_t *room)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < w->problem.count; i++)
		sum += w->items[i].size;
	*room = sum + 2 * w->problem.header_need + 8192;
	return sum;
}

static void check_cost(struct world *w, const struct stfs_plan *plan)
{
	const struct stfs_layout_file *file = &w->problem.file;
	uint64_t room, cost = rewrite_cost(w, &room), needed = w->most_len - w->old_len;

	if (file->room >= room)
		fault_if(w, FAULT_COST, plan->cost.total > cost);
	fault_if(w, FAULT_COST, w->copied != plan->cost.written + plan->cost.moved);
	fault_if(w, FAULT_SPACE, plan->cost.space > file->room);
	if (plan->kind == STFS_PLAN_IN_PLACE)
		fault_if(w, FAULT_SPACE, needed > plan->cost.space);
	if (file->replace_only && plan->kind == STFS_PLAN_IN_PLACE)
		fault_if(w, FAULT_READERS, plan->before != plan->count);
}

/* Plans, carries out, notes what is wrong. */
static void run_world(struct world *w, struct stfs_plan *plan)
{
	uint64_t sum = 0, room;
	const struct stfs_layout_file *file = &w->problem.file;
	int r = stfs_layout_plan(&w->problem, plan);

	if (r == -ENOSPC) {
		rewrite_cost(w, &room);
		fault_if(w, FAULT_ERROR, plan->cost.space <= file->room || file->room >= room);
		return;
	}
	fault_if(w, FAULT_ERROR, r < 0);
	if (r < 0)
		return;
	carry_out(w, plan);
	for (uint32_t i = 0; i < w->problem.count; i++) {
		check_item(w, plan, i);
		sum += w->items[i].size;
	}
	check_header(w, plan);
	check_cost(w, plan);
	fault_if(w, FAULT_PLACES, sum != plan->length - plan->data_start);
	if (plan->kind != STFS_PLAN_HEADER && sum)
		fault_if(w, FAULT_PLACES, w->now_len != plan->length);
}

#endif
