/* SPDX-License-Identifier: MIT */
/*
 * The map of where bytes are, against the simulator of the planner's tests: random plans in place, the map
 * looked at after every step behind the record, a test an invariant of layout/moves.h.
 */
#include "layout_simulator.h"

#include "layout/moves.h"

#define WORLDS 120

enum { WRONG, MISSED, MISSED_MEANWHILE, UNCOVERED, WRONGS };
static unsigned wrongs[WRONGS];
static size_t plans, steps_seen, moved_pieces; /* what the suite has met */

static struct stfs_moves moves;
static cell *recorded; /* the file as the record finds it */
static uint64_t recorded_len;

/* By which place a byte of the item is known. */
static uint64_t known_by(const struct world *w, const struct stfs_plan *plan, uint32_t number)
{
	if (w->items[number].old != STFS_LAYOUT_NEW)
		return w->items[number].old;
	for (size_t i = 0; i < plan->before; i++)
		if (plan->steps[i].kind == STFS_STEP_WRITE && plan->steps[i].item == number)
			return plan->steps[i].to;
	return 0;
}

/* Whether the item can be read, in pieces no longer than `most`. */
static bool reads(const struct world *w, const struct stfs_plan *plan, uint32_t number, uint64_t most)
{
	uint64_t old = known_by(w, plan, number), now, len;

	for (uint64_t done = 0; done < w->items[number].size; done += len) {
		if (!stfs_moves_find(&moves, old + done, stfs_min_u64(most, w->items[number].size - done), &now,
				     &len) || len == 0 || len > most || now + len > w->now_len)
			return false;
		for (uint64_t k = 0; k < len; k++)
			if (w->now[now + k] != CELL(number, done + k))
				return false;
	}
	return true;
}

static unsigned count_missed(const struct world *w, const struct stfs_plan *plan)
{
	unsigned missed = 0;

	for (uint32_t i = 0; i < w->problem.count; i++)
		missed += !reads(w, plan, i, below(4) ? UINT64_MAX : 1 + below(5000));
	return missed;
}

static void check_pieces(const struct world *w)
{
	uint64_t at = 0;

	for (size_t i = 0; i < moves.count; i++) {
		const struct stfs_move *m = &moves.pieces[i], *last = i ? m - 1 : NULL;
		bool gone = m->now == STFS_MOVED_NOWHERE;

		wrongs[UNCOVERED] += m->old != at || m->len == 0;
		wrongs[UNCOVERED] += last && (gone ? last->now == m->now : last->now + last->len == m->now);
		at += m->len;
		if (gone)
			continue;
		wrongs[WRONG] += m->now + m->len > w->now_len ||
				 memcmp(w->now + m->now, recorded + m->old, m->len * sizeof(cell)) != 0;
		moved_pieces += m->now != m->old;
	}
	wrongs[UNCOVERED] += at != recorded_len;
}

static void watch(const struct world *w, const struct stfs_plan *plan, size_t done)
{
	if (done == plan->before) {
		plans++;
		ck_assert_int_eq(stfs_moves_begin(&moves, plan, w->old_len), 0);
		recorded = realloc(recorded, w->now_len * sizeof(cell));
		ck_assert_ptr_nonnull(recorded);
		memcpy(recorded, w->now, w->now_len * sizeof(cell));
		recorded_len = w->now_len;
	} else {
		const struct stfs_step *step = &plan->steps[done - 1];

		steps_seen++;
		if (!stfs_step_is_shift(step))
			wrongs[MISSED_MEANWHILE] += count_missed(w, plan);
		stfs_moves_apply(&moves, step);
	}
	wrongs[MISSED] += count_missed(w, plan);
	check_pieces(w);
}

static void no_wrong(int kind, int round)
{
	struct stfs_plan plan;
	struct world w;

	for (int i = 0; i < WORLDS; i++) {
		state = stfs_check_seed() + (uint64_t)(1000003 * kind + 100000 * round + i);
		memset(wrongs, 0, sizeof(wrongs));
		make_world(&w, (enum kind)(i % KINDS), below(4) == 0);
		/* As much as can be in place. */
		w.problem.file.can_clone = w.problem.file.replace_only = false;
		w.problem.file.can_shift |= i % KINDS != KIND_TIGHT && below(2);
		w.watch = watch;
		run_world(&w, &plan);
		ck_assert_msg(wrongs[kind] == 0, "world %d of round %d, kind %d: %u times", i, round, i % KINDS,
			      wrongs[kind]);
		stfs_plan_free(&plan);
		free_world(&w);
	}
}

#define INVARIANT(name, kind) \
	START_TEST(name) \
	{ \
		no_wrong(kind, _i); \
	} \
	END_TEST
INVARIANT(what_the_map_says_is_so, WRONG)
INVARIANT(items_are_found_after_every_step, MISSED)
INVARIANT(items_are_found_while_a_step_runs, MISSED_MEANWHILE)
INVARIANT(the_map_covers_the_file, UNCOVERED)

START_TEST(the_worlds_have_moved_enough)
{
	printf("# %zu plans in place, %zu steps, %zu pieces moved\n", plans, steps_seen, moved_pieces);
	ck_assert_uint_gt(plans, 300);
	ck_assert_uint_gt(steps_seen, 500);
	ck_assert_uint_gt(moved_pieces, 5000);
	stfs_moves_free(&moves);
	free(recorded);
}
END_TEST

/* ---- Single cases ---- */

static void finds(uint64_t old, uint64_t most, uint64_t want_now, uint64_t want_len)
{
	uint64_t now, len;

	ck_assert_msg(stfs_moves_find(&moves, old, most, &now, &len), "byte %" PRIu64 " is gone", old);
	ck_assert_uint_eq(now, want_now);
	ck_assert_uint_eq(len, want_len);
}

static void misses(uint64_t old)
{
	uint64_t now, len;

	ck_assert(!stfs_moves_find(&moves, old, 1, &now, &len));
}

/* Removes a hole that is no whole blocks: the edge is copied, then the rest of it goes. */
START_TEST(a_hole_is_removed)
{
	struct stfs_step steps[] = {
		{STFS_STEP_WRITE, 0, 0, 50000, 100}, /* behind a file of 40000 bytes */
		{STFS_STEP_COPY, UINT32_MAX, 8292, 4196, 3996}, /* to the next block */
		{STFS_STEP_COLLAPSE, UINT32_MAX, 0, 8192, 4096},
	};
	const struct stfs_plan plan = {.steps = steps, .count = 3, .before = 1};

	ck_assert_int_eq(stfs_moves_begin(&moves, &plan, 40000), 0);
	finds(0, UINT64_MAX, 0, 50100);
	misses(50100);
	stfs_moves_apply(&moves, &steps[1]);
	finds(4195, 2, 4195, 1);
	misses(4196);
	finds(8292, UINT64_MAX, 4196, 3996);
	finds(12288, UINT64_MAX, 12288, 50100 - 12288);
	stfs_moves_apply(&moves, &steps[2]);
	finds(8292, UINT64_MAX, 4196, 50100 - 8292); /* in one piece again */
	misses(8291);
	ck_assert_uint_eq(moves.count, 3);
	stfs_moves_free(&moves);
}
END_TEST

START_TEST(a_map_of_zeros_moves_nothing)
{
	finds(123, 77, 123, 77);
	moves.lost = true;
	misses(123);
	stfs_moves_free(&moves);
	finds(UINT64_MAX - 1, 1, UINT64_MAX - 1, 1);
}
END_TEST

int main(void)
{
	const TTest *const invariants[] = {what_the_map_says_is_so, items_are_found_after_every_step,
					   items_are_found_while_a_step_runs, the_map_covers_the_file};
	Suite *suite = suite_create("moves");
	TCase *simulated = tcase_create("simulated"), *single = tcase_create("single");

	tcase_set_timeout(simulated, 0);
	for (size_t i = 0; i < STFS_CHECK_COUNT(invariants); i++)
		tcase_add_loop_test(simulated, invariants[i], 0, 3);
	tcase_add_test(simulated, the_worlds_have_moved_enough);
	tcase_add_test(single, a_hole_is_removed);
	tcase_add_test(single, a_map_of_zeros_moves_nothing);
	suite_add_tcase(suite, simulated);
	suite_add_tcase(suite, single);
	return stfs_check_main(suite);
}
