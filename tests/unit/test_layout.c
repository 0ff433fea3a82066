/* SPDX-License-Identifier: MIT */
/*
 * The planner against a simulator of bytes: random models and edits, every plan carried out on an
 * array, the invariants of layout/layout.h looked at after each step.
 */
#include "stfs_check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "layout/layout.h"

#define ITEMS_MOST 24

/* A byte of the simulated file: whose it is. Old bytes are told apart by item and position. */
struct cell {
	uint32_t owner; /* item, or one of the below */
	uint64_t at;    /* position within it */
};
#define NOBODY UINT32_MAX
#define HEADER (UINT32_MAX - 1)

struct world {
	struct stfs_layout_item items[ITEMS_MOST];
	struct stfs_layout_problem problem;
	struct cell *old, *now; /* the file before, and as the steps leave it */
	uint64_t old_len, now_len, cap;
};

static uint64_t state; /* of the random numbers, set by each case */

static uint64_t below(uint64_t bound)
{
	return stfs_check_below(&state, bound);
}

static uint64_t pick_size(void)
{
	static const uint64_t sizes[] = {0, 1, 3, 8, 512, 1536, 2048, 4095, 4096, 4097, 6144, 8192, 12288, 40960};
	uint64_t n = below(20);

	return n < 14 ? sizes[n] : n < 18 ? below(9) * 512 : below(20000);
}

static uint32_t pick_alignment(uint64_t size)
{
	uint32_t a = 1u << below(4);

	while (size % a)
		a /= 2;
	return a;
}

/* Old tensors one behind the other; some are deleted, some stay; then new ones. */
static void make_world(struct world *w, bool valid)
{
	uint64_t at = 8 + 8 * (1 + below(600)) + (below(20) ? 0 : below(8));
	uint32_t olds = (uint32_t)below(14), news = (uint32_t)below(4), count = 0;

	memset(w, 0, sizeof(*w));
	w->problem.file.data_start = at;
	for (uint32_t i = 0; i < olds; i++) {
		uint64_t size = pick_size();

		if (below(4) || (valid && i == 0 && !news))
			w->items[count++] = (struct stfs_layout_item){at, size, pick_alignment(size)};
		at += size;
		if (!valid && !below(4))
			at += below(5000);
	}
	w->old_len = at;
	for (uint32_t i = 0; i < news; i++) {
		uint64_t size = pick_size();

		w->items[count++] = (struct stfs_layout_item){STFS_LAYOUT_NEW, size, pick_alignment(size)};
	}
	w->problem.items = w->items;
	w->problem.count = count;
	w->problem.header_need = 8 * below(900);
	w->problem.header_same = UINT64_MAX;
	w->problem.file.length = at;
	w->problem.file.room = below(5) ? UINT64_MAX : below(100000);
	w->problem.file.block = below(4) ? 4096 : 1024;
	w->problem.file.can_shift = below(2);
	w->problem.file.can_clone = below(2);
	w->problem.file.replace_only = !below(4);
	/* Room for the old file, all items twice and a grown header. */
	w->cap = 3 * at + 4 * w->problem.header_need + (1 << 16);
	for (uint32_t i = 0; i < count; i++)
		w->cap += 2 * w->items[i].size;
	w->old = calloc(w->cap, sizeof(*w->old));
	w->now = calloc(w->cap, sizeof(*w->now));
	for (uint64_t i = 0; i < w->old_len; i++)
		w->old[i] = (struct cell){i < w->problem.file.data_start ? HEADER : NOBODY, i};
	for (uint32_t i = 0; i < count; i++)
		for (uint64_t k = 0; w->items[i].old != STFS_LAYOUT_NEW && k < w->items[i].size; k++)
			w->old[w->items[i].old + k] = (struct cell){i, k};
	memcpy(w->now, w->old, w->cap * sizeof(*w->now));
	w->now_len = w->old_len;
}

static void free_world(struct world *w)
{
	free(w->old);
	free(w->now);
}

static void set_len(struct world *w, uint64_t len)
{
	ck_assert_uint_le(len, w->cap);
	for (uint64_t i = len; i < w->now_len; i++)
		w->now[i] = (struct cell){NOBODY, 0};
	w->now_len = len;
}

static void put(struct world *w, uint64_t to, uint64_t len)
{
	ck_assert_uint_le(to + len, w->cap);
	if (to + len > w->now_len)
		w->now_len = to + len;
}

/* One step; `source` is where COPY and CLONE read: the file itself, or the old one of a rebuild. */
static void run_step(struct world *w, const struct stfs_step *s, const struct cell *source, bool in_place)
{
	uint64_t block = w->problem.file.block;

	switch (s->kind) {
	case STFS_STEP_WRITE:
		put(w, s->to, s->len);
		for (uint64_t k = 0; k < s->len; k++)
			w->now[s->to + k] = (struct cell){s->item, s->from + k};
		break;
	case STFS_STEP_CLONE:
		ck_assert(!in_place && w->problem.file.can_clone);
		ck_assert_uint_eq(s->from % block + s->to % block + s->len % block, 0);
		__attribute__((fallthrough));
	case STFS_STEP_COPY:
		put(w, s->to, s->len);
		if (in_place) { /* L3: may be done again */
			ck_assert(s->to >= s->from + s->len || s->from >= s->to + s->len);
			ck_assert_uint_le(s->from + s->len, w->now_len);
		}
		for (uint64_t k = 0; k < s->len; k++)
			w->now[s->to + k] = source[s->from + k];
		break;
	case STFS_STEP_COLLAPSE:
		ck_assert(in_place && w->problem.file.can_shift);
		ck_assert_uint_eq(s->to % block + s->len % block, 0);
		ck_assert_uint_lt(s->to + s->len, w->now_len); /* up to the end is EINVAL */
		ck_assert_uint_ge(s->to, block);               /* the length word stays */
		memmove(w->now + s->to, w->now + s->to + s->len,
			(w->now_len - s->to - s->len) * sizeof(*w->now));
		set_len(w, w->now_len - s->len);
		break;
	case STFS_STEP_INSERT:
		ck_assert(in_place && w->problem.file.can_shift);
		ck_assert_uint_eq(s->to % block + s->len % block, 0);
		ck_assert_uint_lt(s->to, w->now_len);
		put(w, w->now_len, s->len);
		memmove(w->now + s->to + s->len, w->now + s->to,
			(w->now_len - s->to - s->len) * sizeof(*w->now));
		for (uint64_t k = 0; k < s->len; k++)
			w->now[s->to + k] = (struct cell){NOBODY, 0};
		break;
	case STFS_STEP_TRUNCATE:
		set_len(w, s->to);
		break;
	}
}

/* L1, L4, L6 and the places that the plan promises. */
static void check_result(const struct world *w, const struct stfs_plan *plan)
{
	uint64_t sum = 0;

	ck_assert_uint_ge(plan->data_start, 8 + w->problem.header_need);
	ck_assert_uint_eq(plan->text_len, plan->data_start - 8);
	if (plan->data_start != w->problem.file.data_start)
		ck_assert_uint_eq(plan->data_start % 8, 0);
	for (uint32_t i = 0; i < w->problem.count; i++) {
		const struct stfs_layout_item *item = &w->items[i];
		uint64_t bad = 0;

		for (uint64_t k = 0; k < item->size; k++) {
			const struct cell *c = &w->now[plan->place[i] + k];

			bad += c->owner != i || c->at != k;
		}
		ck_assert_uint_eq(bad, 0);
		ck_assert_uint_ge(plan->place[i], plan->data_start);
		ck_assert_uint_le(plan->place[i] + item->size, plan->length);
		if (item->old == STFS_LAYOUT_NEW || item->old % item->alignment == 0)
			ck_assert_uint_eq(plan->place[i] % item->alignment, 0);
		sum += item->size;
	}
	ck_assert_uint_eq(sum, plan->length - plan->data_start);
	if (plan->kind != STFS_PLAN_HEADER)
		ck_assert_uint_eq(w->now_len, plan->length > plan->data_start ? plan->length : w->now_len);
}

/* L2: before the record nothing of the old file is touched; the old model is still whole. */
static void check_before(const struct world *w)
{
	ck_assert_int_eq(memcmp(w->now, w->old, w->old_len * sizeof(*w->old)), 0);
}

static uint64_t rewrite_cost(const struct world *w)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < w->problem.count; i++)
		sum += w->items[i].size;
	return sum;
}

static void carry_out(struct world *w, const struct stfs_plan *plan)
{
	bool in_place = plan->kind != STFS_PLAN_REBUILD;

	if (!in_place) {
		w->now_len = 0;
		for (uint64_t i = 0; i < w->cap; i++)
			w->now[i] = (struct cell){NOBODY, 0};
	}
	for (size_t i = 0; i < plan->count; i++) {
		if (i == plan->before && in_place)
			check_before(w);
		run_step(w, &plan->steps[i], in_place ? w->now : w->old, in_place);
	}
	if (in_place && plan->before == plan->count)
		check_before(w);
}

static void one_world(bool valid)
{
	struct stfs_plan plan;
	struct world w;
	int r;

	make_world(&w, valid);
	r = stfs_layout_plan(&w.problem, &plan);
	if (r == -ENOSPC) {
		ck_assert_uint_gt(plan.cost.space, w.problem.file.room);
	} else {
		ck_assert_int_eq(r, 0);
		ck_assert_uint_le(plan.cost.space, w.problem.file.room);
		ck_assert_uint_le(plan.cost.total, rewrite_cost(&w) + 1);
		if (w.problem.file.replace_only && plan.kind == STFS_PLAN_IN_PLACE)
			ck_assert_uint_eq(plan.before, plan.count);
		carry_out(&w, &plan);
		check_result(&w, &plan);
	}
	stfs_plan_free(&plan);
	free_world(&w);
}

START_TEST(random_edits_of_valid_files)
{
	state = stfs_check_seed() + 1000 * (uint64_t)_i;
	for (int i = 0; i < 200; i++)
		one_world(true);
}
END_TEST

START_TEST(random_repairs_of_files_with_holes)
{
	state = stfs_check_seed() + 500 + 1000 * (uint64_t)_i;
	for (int i = 0; i < 200; i++)
		one_world(false);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("layout");
	TCase *tcase = tcase_create("simulated");

	tcase_set_timeout(tcase, 0);
	tcase_add_loop_test(tcase, random_edits_of_valid_files, 0, 10);
	tcase_add_loop_test(tcase, random_repairs_of_files_with_holes, 0, 10);
	suite_add_tcase(suite, tcase);
	return stfs_check_main(suite);
}
