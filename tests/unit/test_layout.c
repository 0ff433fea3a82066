/* SPDX-License-Identifier: MIT */
/*
 * The planner against a simulator of bytes: random models and edits, every plan carried out on an
 * array, the invariants of layout/layout.h looked at after each step, a test an invariant. Then the
 * promises about single edits, on small models made for them.
 */
#include "stfs_check.h"

#include <errno.h>
#include <stdio.h>
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
	uint64_t n = below(16);

	if (n < 7)
		return sizes[n];
	if (n < 13)
		return (n - 7) * block / 2 + below(3) - (n > 7);
	return n < 15 ? below(9) * 512 : below(5 * block);
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

	file->block = n == 0 ? 65536 : n < 12 ? 1024 : 4096;
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
	uint32_t olds = (uint32_t)below(kind == KIND_MANY ? 56 : 14), count = 0, chosen = (uint32_t)below(olds + 1);

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

static void pick_items(struct world *w, enum kind kind)
{
	uint32_t news = (uint32_t)below(4), count = pick_kept(w, kind);

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
	w->cap = 3 * w->old_len + 4 * p->header_need + 4 * p->file.block + (1 << 16);
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
	w->problem.header_need = 8 * below(900) + below(8);
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
		w->now[s->to + k] = s->kind == STFS_STEP_WRITE ? CELL(s->item, s->from + k) : source[s->from + k];
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
	if (s->to > w->cap || s->len > w->cap - s->to || (s->kind == STFS_STEP_INSERT && w->now_len + s->len > w->cap)) {
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
		run_step(w, s, in_place ? w->now : w->old, in_place);
	}
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
			 plan->data_start >= need + w->problem.file.block || (rebuilt && plan->data_start != need));
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
	int r = stfs_layout_plan(&w->problem, plan);

	if (r == -ENOSPC) {
		rewrite_cost(w, &room);
		fault_if(w, FAULT_ERROR, plan->cost.space <= w->problem.file.room || w->problem.file.room >= room);
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

#define WORLDS 120

/* Random worlds of every kind, in which `fault` must not come up. */
static void no_fault(enum fault fault, int round)
{
	struct stfs_plan plan;
	struct world w;

	for (int i = 0; i < WORLDS; i++) {
		state = stfs_check_seed() + 1000003 * (uint64_t)fault + 100000 * (uint64_t)round + (uint64_t)i;
		make_world(&w, (enum kind)(i % KINDS), fault == FAULT_COMPACT || below(4) == 0);
		run_world(&w, &plan);
		ck_assert_msg(w.faults[fault] == 0, "world %d of round %d, kind %d, plan %d: %u faults", i, round,
			      i % KINDS, (int)plan.kind, w.faults[fault]);
		stfs_plan_free(&plan);
		free_world(&w);
	}
}

#define INVARIANT(name, fault) \
	START_TEST(name) \
	{ \
		no_fault(fault, _i); \
	} \
	END_TEST
INVARIANT(a_plan_is_always_found_where_there_is_room, FAULT_ERROR)
INVARIANT(items_lie_one_behind_the_other, FAULT_PLACES)
INVARIANT(every_item_has_its_bytes, FAULT_BYTES)
INVARIANT(nothing_old_is_touched_before_the_record, FAULT_BEFORE)
INVARIANT(copies_may_be_done_again, FAULT_COPY)
INVARIANT(alignments_are_kept, FAULT_ALIGN)
INVARIANT(no_plan_costs_more_than_a_rewrite, FAULT_COST)
INVARIANT(data_begins_at_a_multiple_of_eight, FAULT_START)
INVARIANT(calls_are_legal, FAULT_CALL)
INVARIANT(room_is_never_exceeded, FAULT_SPACE)
INVARIANT(new_bytes_come_before_the_record, FAULT_ORDER)
INVARIANT(compact_aligns_all_and_keeps_no_reserve, FAULT_COMPACT)
INVARIANT(readers_keep_their_file, FAULT_READERS)

/* What a plan has made is a model like another: to plan it again, unchanged, moves nothing. */
START_TEST(a_second_plan_moves_nothing)
{
	struct stfs_plan plan, again;
	struct world w;

	for (int i = 0; i < WORLDS; i++) {
		state = stfs_check_seed() + 777 + 100000 * (uint64_t)_i + (uint64_t)i;
		make_world(&w, (enum kind)(i % KINDS), i % 2);
		if (stfs_layout_plan(&w.problem, &plan) == 0) {
			for (uint32_t k = 0; k < w.problem.count; k++)
				w.items[k].old = plan.place[k];
			w.problem.file.length = plan.length;
			w.problem.file.data_start = plan.data_start;
			w.problem.header_same = w.problem.header_need;
			ck_assert_int_eq(stfs_layout_plan(&w.problem, &again), 0);
			ck_assert_int_eq(again.kind, STFS_PLAN_HEADER);
			ck_assert_uint_eq(again.count, 0);
			stfs_plan_free(&again);
		}
		stfs_plan_free(&plan);
		free_world(&w);
	}
}
END_TEST

/* ---- Single edits ---- */

/* A model in the order of `sizes`, elements of four bytes; `deleted` (or none) is left out. */
static void make_model(struct world *w, const uint64_t *sizes, uint32_t count, uint32_t deleted)
{
	uint64_t at = 4096 - 64;

	memset(w, 0, sizeof(*w));
	w->problem.file = (struct stfs_layout_file){.data_start = at, .block = 4096, .can_shift = true,
						    .room = UINT64_MAX};
	w->problem.items = w->items;
	w->problem.header_need = at - 8;
	w->problem.header_same = UINT64_MAX;
	for (uint32_t i = 0; i < count; i++) {
		if (i != deleted)
			w->items[w->problem.count++] = (struct stfs_layout_item){at, sizes[i], 4};
		at += sizes[i];
	}
	w->old_len = w->problem.file.length = at;
}

static void add_new(struct world *w, uint64_t size)
{
	w->items[w->problem.count++] = (struct stfs_layout_item){STFS_LAYOUT_NEW, size, 4};
}

/* Plans and carries out, faultlessly; the bytes of tensors that are not new and were written. */
static uint64_t moved_by(struct world *w, struct stfs_plan *plan)
{
	uint64_t added = 0;

	make_cells(w);
	run_world(w, plan);
	for (int f = 0; f < FAULTS; f++)
		ck_assert_msg(w->faults[f] == 0, "fault %d", f);
	for (uint32_t i = 0; i < w->problem.count; i++)
		added += w->items[i].old == STFS_LAYOUT_NEW ? w->items[i].size : 0;
	free_world(w);
	return w->copied - added;
}

static const uint64_t mixed[] = {3072, 40960, 1024, 81920, 3072, 3072, 4096, 12288, 40960, 1024, 512, 512};
#define MIXED 12

START_TEST(a_delete_of_whole_blocks_moves_at_most_two)
{
	struct stfs_plan plan;
	struct world w;

	for (uint32_t i = 0; i < MIXED; i++) {
		if (mixed[i] % 4096)
			continue;
		make_model(&w, mixed, MIXED, i);
		ck_assert_uint_le(moved_by(&w, &plan), 2 * 4096);
		stfs_plan_free(&plan);
	}
}
END_TEST

/* The header's growth by any amount, where blocks can be inserted. */
START_TEST(a_longer_header_moves_no_tensor)
{
	struct stfs_plan plan;
	struct world w;

	for (uint64_t more = 1; more < 20000; more += 499) {
		make_model(&w, mixed, MIXED, MIXED);
		w.problem.header_need += more;
		w.problem.header_same = w.problem.header_need;
		ck_assert_uint_eq(moved_by(&w, &plan), 0);
		ck_assert(has_kind(&plan, STFS_STEP_INSERT));
		ck_assert_uint_ge(plan.data_start, 8 + w.problem.header_need + 4096); /* and some to spare */
		stfs_plan_free(&plan);
	}
}
END_TEST

START_TEST(a_header_that_fits_is_all_that_changes)
{
	struct stfs_plan plan;
	struct world w;

	make_model(&w, mixed, MIXED, MIXED);
	w.problem.header_same = w.problem.header_need - 100;
	ck_assert_uint_eq(moved_by(&w, &plan), 0);
	ck_assert_int_eq(plan.kind, STFS_PLAN_HEADER);
	stfs_plan_free(&plan);
}
END_TEST

/* Without shifts the first small tensors make room: empty ones and small ones alike. */
START_TEST(small_first_tensors_make_room_for_the_header)
{
	uint64_t sizes[40] = {0, 0, 0};
	struct stfs_plan plan;
	struct world w;

	for (unsigned i = 3; i < 40; i++)
		sizes[i] = i < 30 ? 16 : 81920;
	for (uint64_t more = 1; more <= 400; more += 57) {
		make_model(&w, sizes, 40, 40);
		w.problem.file.can_shift = false;
		w.problem.header_need += more;
		ck_assert_uint_le(moved_by(&w, &plan), more + 16);
		stfs_plan_free(&plan);
	}
}
END_TEST

/* A tail of small odd tensors fills what the delete of one in the middle leaves. */
START_TEST(small_tensors_at_the_end_fill_odd_holes)
{
	static const uint64_t sizes[] = {409600, 1536, 409600, 2560, 409600, 512, 512, 512, 512, 512};
	struct stfs_plan plan;
	struct world w;

	for (uint32_t i = 1; i < 4; i += 2) {
		make_model(&w, sizes, 10, i);
		ck_assert_uint_le(moved_by(&w, &plan), 5 * 512);
		stfs_plan_free(&plan);
	}
}
END_TEST

/* The hole is closed by tensors that lie far from the end, and whose own place closes by blocks. */
START_TEST(a_window_elsewhere_fills_an_odd_hole)
{
	static const uint64_t sizes[] = {409600, 1536, 409600, 409600, 1536, 2560, 409600, 409600, 100};
	struct stfs_plan plan;
	struct world w;

	make_model(&w, sizes, 9, 1);
	ck_assert_uint_le(moved_by(&w, &plan), 1536 + 2560 + 4096);
	stfs_plan_free(&plan);
}
END_TEST

/* What is large goes before the small odd ones at the end, so that these stay within reach. */
START_TEST(small_odd_tensors_stay_last)
{
	static const uint64_t sizes[] = {409600, 409600, 1536, 512, 512};
	struct stfs_plan plan;
	struct world w;

	make_model(&w, sizes, 5, 5);
	add_new(&w, 409600);
	ck_assert_uint_le(moved_by(&w, &plan), 1536 + 512 + 512 + 4096);
	ck_assert_uint_lt(plan.place[5], plan.place[2]);
	stfs_plan_free(&plan);
}
END_TEST

START_TEST(a_twin_fills_the_hole_without_shifts)
{
	static const uint64_t sizes[] = {40960, 1540, 40960, 40960, 20480, 1540, 16};
	struct stfs_plan plan;
	struct world w;

	make_model(&w, sizes, 7, 1);
	w.problem.file.can_shift = false;
	ck_assert_uint_le(moved_by(&w, &plan), 1540 + 2 * 16);
	stfs_plan_free(&plan);
}
END_TEST

/* Nothing can be shifted or shared, and hardly anything fits beside: the delete still works. */
START_TEST(without_room_tensors_slide)
{
	static const uint64_t sizes[] = {40960, 16384, 819200, 819200, 4};
	struct stfs_plan plan;
	struct world w;

	for (uint32_t i = 0; i < 2; i++) {
		make_model(&w, sizes, 5, 1);
		w.problem.file.can_shift = false;
		w.problem.file.room = 4096;
		if (i) /* so short a way that pieces go by way of the room behind the file */
			w.items[0].size += 16384 - 16;
		ck_assert_uint_gt(moved_by(&w, &plan), 2 * 819200);
		ck_assert_int_eq(plan.kind, STFS_PLAN_IN_PLACE);
		ck_assert_uint_le(plan.count, 4096);
		stfs_plan_free(&plan);
	}
}
END_TEST

START_TEST(a_longer_header_slides_everything_up)
{
	struct stfs_plan plan;
	struct world w;

	make_model(&w, mixed, MIXED, MIXED);
	w.problem.file.can_shift = false;
	w.problem.file.room = 16384;
	w.problem.header_need += 100;
	moved_by(&w, &plan);
	ck_assert_int_eq(plan.kind, STFS_PLAN_IN_PLACE);
	stfs_plan_free(&plan);
}
END_TEST

/* A reader has the file: what only appends leaves it alone, what moves does not touch it. */
START_TEST(readers_do_not_forbid_to_append)
{
	struct stfs_plan plan;
	struct world w;

	make_model(&w, mixed, MIXED, MIXED);
	w.problem.file.replace_only = true;
	add_new(&w, 1536);
	ck_assert_uint_eq(moved_by(&w, &plan), 0);
	ck_assert_int_eq(plan.kind, STFS_PLAN_IN_PLACE);
	stfs_plan_free(&plan);
}
END_TEST

START_TEST(compact_gives_back_the_reserve_by_blocks)
{
	struct stfs_plan plan;
	struct world w;

	make_model(&w, mixed, MIXED, MIXED);
	w.problem.compact = true;
	w.problem.header_need = 500;
	w.problem.header_same = 500;
	for (uint32_t i = 0; i < w.problem.count; i++)
		w.items[i].old += 40960;
	w.problem.file.data_start += 40960;
	w.old_len += 40960;
	ck_assert_uint_le(moved_by(&w, &plan), 4096);
	ck_assert_uint_lt(plan.data_start, 512 + 4096);
	stfs_plan_free(&plan);
}
END_TEST

START_TEST(items_that_overlap_or_lie_outside_are_refused)
{
	struct stfs_plan plan;
	struct world w;

	make_model(&w, mixed, MIXED, MIXED);
	w.items[3].old -= 4;
	ck_assert_int_eq(stfs_layout_plan(&w.problem, &plan), -EINVAL);
	make_model(&w, mixed, MIXED, MIXED);
	w.items[MIXED - 1].size += 4;
	ck_assert_int_eq(stfs_layout_plan(&w.problem, &plan), -EINVAL);
	make_model(&w, mixed, MIXED, MIXED);
	w.items[0].old = UINT64_MAX - 8;
	ck_assert_int_eq(stfs_layout_plan(&w.problem, &plan), -EINVAL);
}
END_TEST

int main(void)
{
	const TTest *const invariants[] = {
		a_plan_is_always_found_where_there_is_room, items_lie_one_behind_the_other,
		every_item_has_its_bytes, nothing_old_is_touched_before_the_record, copies_may_be_done_again,
		alignments_are_kept, no_plan_costs_more_than_a_rewrite, data_begins_at_a_multiple_of_eight,
		calls_are_legal, room_is_never_exceeded, new_bytes_come_before_the_record,
		compact_aligns_all_and_keeps_no_reserve, readers_keep_their_file, a_second_plan_moves_nothing};
	const TTest *const edits[] = {
		a_delete_of_whole_blocks_moves_at_most_two, a_longer_header_moves_no_tensor,
		a_header_that_fits_is_all_that_changes, small_first_tensors_make_room_for_the_header,
		small_tensors_at_the_end_fill_odd_holes, a_window_elsewhere_fills_an_odd_hole,
		small_odd_tensors_stay_last, a_twin_fills_the_hole_without_shifts, without_room_tensors_slide,
		a_longer_header_slides_everything_up, readers_do_not_forbid_to_append,
		compact_gives_back_the_reserve_by_blocks, items_that_overlap_or_lie_outside_are_refused};
	Suite *suite = suite_create("layout");
	TCase *simulated = tcase_create("simulated"), *single = tcase_create("single");

	tcase_set_timeout(simulated, 0);
	for (size_t i = 0; i < STFS_CHECK_COUNT(invariants); i++)
		tcase_add_loop_test(simulated, invariants[i], 0, 3);
	for (size_t i = 0; i < STFS_CHECK_COUNT(edits); i++)
		tcase_add_test(single, edits[i]);
	suite_add_tcase(suite, simulated);
	suite_add_tcase(suite, single);
	return stfs_check_main(suite);
}
