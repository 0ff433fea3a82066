/* SPDX-License-Identifier: MIT */
/*
 * The planner against a simulator of bytes: random models and edits, every plan carried out on an
 * array, the invariants of layout/layout.h looked at after each step, a test an invariant. Then the
 * promises about single edits, on small models made for them.
 */
#include "layout_simulator.h"

#define WORLDS 90

/* Random worlds of every kind, in which `fault` must not come up. */
static void no_fault(enum fault fault, int round)
{
	struct stfs_plan plan;
	struct world w;

	for (int i = 0; i < WORLDS; i++) {
		state = stfs_check_seed() + (uint64_t)(1000003 * (int)fault + 100000 * round + i);
		make_world(&w, (enum kind)(i % KINDS), fault == FAULT_COMPACT || below(4) == 0);
		run_world(&w, &plan);
		ck_assert_msg(w.faults[fault] == 0, "world %d of round %d, kind %d, plan %d: %u faults", i,
			      round, i % KINDS, (int)plan.kind, w.faults[fault]);
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

static const uint64_t mixed[] = {3072, 40960, 1024, 81920, 3072, 3072, 4096, 12288, 40960,
				 1024, 512, 512};
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

/* Pages in memory make a shift dear: then the hole is filled instead. Where there are few, it is not. */
START_TEST(a_shift_that_drops_pages_is_dear)
{
	struct stfs_plan plan;
	uint64_t sizes[40];
	struct world w;

	for (unsigned i = 0; i < 40; i++)
		sizes[i] = 65536;
	for (unsigned cached = 0; cached < 2; cached++) {
		make_model(&w, sizes, 40, 2);
		w.problem.file.cached = cached ? w.problem.file.length : w.problem.file.length / 4;
		ck_assert_uint_eq(moved_by(&w, &plan) / 4096, cached ? 65536 / 4096 : 0);
		ck_assert_int_eq(has_kind(&plan, STFS_STEP_COLLAPSE), !cached);
		stfs_plan_free(&plan);
	}
	/* The header does not keep what nobody wants for it. */
	make_model(&w, sizes, 40, 0);
	w.problem.file.cached = w.problem.file.length;
	moved_by(&w, &plan);
	ck_assert_uint_le(plan.data_start, 4096 + 65536 / 2);
	stfs_plan_free(&plan);
}
END_TEST

/* A set, or a single one, that would leave whole blocks is of no use where it is larger. */
START_TEST(fillers_fit_into_their_hole)
{
	static const uint64_t sets[] = {409600, 1536, 409600, 1408, 1408, 1408, 1408};
	static const uint64_t one[] = {409600, 1536, 409600, 5632};
	struct stfs_plan plan;
	struct world w;

	make_model(&w, sets, 7, 1);
	moved_by(&w, &plan);
	stfs_plan_free(&plan);
	make_model(&w, one, 4, 1);
	moved_by(&w, &plan);
	stfs_plan_free(&plan);
}
END_TEST

/* What is left behind the hole is just the edge that must be copied: the system refuses a collapse. */
START_TEST(a_hole_before_the_last_edge_is_cut_off)
{
	static const uint64_t sizes[] = {64, 819200, 3072, 4096, 1024};
	struct stfs_plan plan;
	struct world w;

	make_model(&w, sizes, 5, 3);
	ck_assert_uint_le(moved_by(&w, &plan), 1024);
	ck_assert(!has_kind(&plan, STFS_STEP_COLLAPSE));
	stfs_plan_free(&plan);
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

START_TEST(small_tensors_lie_behind_large_ones)
{
	struct stfs_plan plan;
	struct world w;

	make_model(&w, mixed, MIXED, MIXED);
	add_new(&w, 1536);
	add_new(&w, 102400 + 512);
	add_new(&w, 409600);
	ck_assert_uint_le(moved_by(&w, &plan), 32768);
	ck_assert_uint_lt(plan.place[MIXED + 2], plan.place[MIXED + 1]); /* whole blocks first */
	ck_assert_uint_lt(plan.place[MIXED + 1], plan.place[MIXED]);
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

/* What is deleted at the front is more than the header may keep: the end of the file comes there. */
START_TEST(without_shifts_the_front_is_filled)
{
	static const uint64_t sizes[] = {81920, 409600, 40960, 20480, 20480};
	struct stfs_plan plan;
	struct world w;

	make_model(&w, sizes, 5, 0);
	w.problem.file.can_shift = false;
	w.problem.compact = true;
	ck_assert_uint_eq(moved_by(&w, &plan), 81920);
	ck_assert_uint_eq(plan.data_start, 4096 - 64);
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

/* What could not lie aligned behind those that slide lies before them. */
START_TEST(new_ones_lie_before_what_slides)
{
	static const uint64_t sizes[] = {409602, 819200, 409604, 40960};
	struct stfs_plan plan;
	struct world w;

	make_model(&w, sizes, 4, 4);
	for (uint32_t i = 0; i < 4; i++)
		w.items[i].alignment = 2;
	add_new(&w, 24);
	w.items[4].alignment = 8;
	add_new(&w, 40962);
	w.items[5].alignment = 2;
	w.problem.file.can_shift = false;
	w.problem.file.room = 262144;
	w.problem.header_need += 100;
	moved_by(&w, &plan);
	ck_assert_int_eq(plan.kind, STFS_PLAN_IN_PLACE);
	ck_assert_uint_eq(plan.place[4], plan.data_start);
	ck_assert_uint_eq(plan.place[0], plan.data_start + 24);
	ck_assert_uint_gt(plan.place[5], plan.place[3]);
	stfs_plan_free(&plan);
}
END_TEST

/* Where overwriting takes room there must be that much more. */
START_TEST(a_slide_leaves_room_for_overwriting)
{
	static const uint64_t sizes[] = {40960, 16384, 819200, 819200, 4};
	struct stfs_plan plan;
	struct world w;

	make_model(&w, sizes, 5, 1);
	w.problem.file.can_shift = false;
	w.problem.file.room = 4096 + 8192;
	w.problem.file.overwriting = 8192;
	moved_by(&w, &plan);
	ck_assert_uint_ge(plan.cost.space, 8192);
	ck_assert_uint_eq(plan.cost.unsure, 8192);
	stfs_plan_free(&plan);
	w.problem.file.overwriting = 4096 + 8192 + 1;
	ck_assert_int_eq(stfs_layout_plan(&w.problem, &plan), -ENOSPC);
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
	add_new(&w, 409600); /* else worth a tidier tail */
	ck_assert_uint_eq(moved_by(&w, &plan), 0);
	ck_assert_int_eq(plan.kind, STFS_PLAN_IN_PLACE);
	stfs_plan_free(&plan);
}
END_TEST

/* Two calls for a few blocks: the search believes that they pay, the finished plan knows better. */
START_TEST(pieces_too_small_to_share_are_written_anew)
{
	static const uint64_t sizes[] = {10256, 4096, 12000};
	struct stfs_plan plan;
	struct world w;

	make_model(&w, sizes, 3, 1);
	w.problem.file.can_shift = false;
	w.problem.file.can_clone = true;
	ck_assert_uint_eq(moved_by(&w, &plan), 10256 + 12000);
	ck_assert(!has_kind(&plan, STFS_STEP_CLONE));
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
		compact_aligns_all_and_keeps_no_reserve, readers_keep_their_file,
		a_second_plan_moves_nothing};
	const TTest *const edits[] = {
		a_delete_of_whole_blocks_moves_at_most_two, a_longer_header_moves_no_tensor,
		a_header_that_fits_is_all_that_changes, small_first_tensors_make_room_for_the_header,
		small_tensors_at_the_end_fill_odd_holes, fillers_fit_into_their_hole,
		a_hole_before_the_last_edge_is_cut_off, a_window_elsewhere_fills_an_odd_hole,
		small_odd_tensors_stay_last, small_tensors_lie_behind_large_ones,
		a_twin_fills_the_hole_without_shifts, a_shift_that_drops_pages_is_dear,
		without_room_tensors_slide, new_ones_lie_before_what_slides, a_slide_leaves_room_for_overwriting,
		without_shifts_the_front_is_filled,
		a_longer_header_slides_everything_up, readers_do_not_forbid_to_append,
		pieces_too_small_to_share_are_written_anew,
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
