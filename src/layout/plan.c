/* SPDX-License-Identifier: MIT */
/* The search: every choice of the fixed run that may be the cheapest, and the plan of the winner. */
#include "layout/layout.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "layout/internal.h"

/* What a block shift costs beside data: its call, its extents, the cached pages that it drops. */
#define SHIFT_CALL_COST (16u << 10)
#define SHIFTED_PER_COST 2048
/* A longer header gets room to grow: a page, and an eighth of its own length. */
#define SLACK_LEAST 4096
#define SLACK_SHARE 8
/* Choices of the run's beginning beyond the first: few holes stand at the very front. */
#define FIRST_CHOICES 12

void stfs_plan_free(struct stfs_plan *plan)
{
	free(plan->place);
	free(plan->steps);
	*plan = (struct stfs_plan){0};
}

static void view_free(struct stfs_layout_view *view)
{
	free(view->kept);
	free(view->added);
	free(view->bytes_before);
}

static void target_free(struct stfs_target *target)
{
	free(target->gap_of);
	free(target->fill_order);
	free(target->tail);
	*target = (struct stfs_target){0};
}

static int by_place(const void *left, const void *right, void *data)
{
	const struct stfs_layout_item *items = data;
	const struct stfs_layout_item *a = &items[*(const uint32_t *)left];
	const struct stfs_layout_item *b = &items[*(const uint32_t *)right];

	if (a->old != b->old)
		return a->old < b->old ? -1 : 1;
	return a->size < b->size ? -1 : a->size > b->size; /* empty ones first */
}

/* Kept and new items apart, the kept ones by place. -EINVAL when they overlap or lie outside. */
static int view_fill(struct stfs_layout_view *view, const struct stfs_layout_problem *problem)
{
	uint64_t end = 0;

	for (uint32_t i = 0; i < problem->count; i++) {
		if (stfs_item_is_new(&problem->items[i])) {
			view->added[view->added_count++] = i;
			if (stfs_add_overflows(view->added_bytes, problem->items[i].size,
					       &view->added_bytes))
				return -EINVAL;
		} else {
			view->kept[view->kept_count++] = i;
		}
	}
	qsort_r(view->kept, view->kept_count, sizeof(*view->kept), by_place,
		(void *)(uintptr_t)problem->items);
	for (uint32_t k = 0; k < view->kept_count; k++) {
		const struct stfs_layout_item *item = &problem->items[view->kept[k]];

		if (item->old < end || item->old > problem->file.length ||
		    item->size > problem->file.length - item->old)
			return -EINVAL;
		end = stfs_item_end(item);
		view->bytes_before[k + 1] = view->bytes_before[k] + item->size;
	}
	return 0;
}

static int view_open(struct stfs_layout_view *view, const struct stfs_layout_problem *problem)
{
	const struct stfs_layout_file *file = &problem->file;
	size_t room = problem->count ? problem->count : 1;
	uint64_t slack = stfs_max_u64(SLACK_LEAST, problem->header_need / SLACK_SHARE);

	*view = (struct stfs_layout_view){.problem = problem, .items = problem->items};
	if (file->can_shift || file->can_clone)
		view->block = file->block;
	view->header_min = stfs_align_up(8 + problem->header_need, 8);
	view->header_good = stfs_align_up(view->header_min + slack, 8);
	view->kept = calloc(room, sizeof(*view->kept));
	view->added = calloc(room, sizeof(*view->added));
	view->bytes_before = calloc(room + 1, sizeof(*view->bytes_before));
	if (!view->kept || !view->added || !view->bytes_before)
		return -ENOMEM;
	return view_fill(view, problem);
}

/* ---- One choice ---- */

static uint64_t fixed_end(const struct stfs_layout_view *view, uint32_t k)
{
	return stfs_item_end(&view->items[view->kept[k]]);
}

/* The new place of the first fixed item: where it is, or blocks away; UINT64_MAX when none will do. */
static uint64_t place_of_first(const struct stfs_layout_view *view, uint32_t first)
{
	const struct stfs_layout_file *file = &view->problem->file;
	uint64_t old = view->items[view->kept[first]].old, blocks;

	/* A file whose data was never aligned may keep it where it is; nothing moves it so. */
	if (old % 8)
		return old == file->data_start && old >= view->header_min ? old : UINT64_MAX;
	if (!view->block)
		return old >= view->header_min ? old : UINT64_MAX;
	if (old < view->header_min) {
		blocks = (view->header_good - old + view->block - 1) / view->block;
		return old + blocks * view->block;
	}
	if (old <= view->header_good + 2 * view->block)
		return old;
	/* Too much slack (tensors were deleted at the front). The first block stays, with the
	 * length word: nothing may come to stand at byte 0 that a loader could take for a length. */
	blocks = (old - view->header_good) / view->block;
	if (old - blocks * view->block < view->block)
		blocks--;
	return old - blocks * view->block;
}

/* Fillers for all gaps inside the run: 0, -ENOENT when some gap cannot be filled, -ENOMEM. */
static int fill_gaps(const struct stfs_layout_view *view, struct stfs_target *t,
		     const uint32_t *movers, uint32_t mover_count, bool *taken)
{
	uint32_t room = mover_count;
	int used;

	for (uint32_t k = t->first + 1; k < t->last; k++) {
		uint64_t start = fixed_end(view, k - 1);
		uint64_t gap = view->items[view->kept[k]].old - start;

		if (gap == 0)
			continue;
		used = stfs_fill_gap(view, movers, mover_count, taken, gap, start,
				     t->fill_order + t->fill_count, room - t->fill_count);
		if (used < 0)
			return -ENOENT;
		for (int i = 0; i < used; i++) {
			uint32_t number = t->fill_order[t->fill_count++];

			taken[number] = true;
			t->gap_of[number] = k - t->first;
			gap -= view->items[number].size;
			t->cost.moved += view->items[number].size;
			if (stfs_item_is_new(&view->items[number]))
				t->cost.written += view->items[number].size;
		}
		if (gap) { /* what a shift removes, its edge is copied */
			t->cost.moved += start % view->block ? view->block / 2 : 0;
			t->cost.shifted += view->problem->file.length - start;
			t->cost.total += SHIFT_CALL_COST;
		}
	}
	return 0;
}

/* What is neither fixed nor a filler, in an order that keeps alignments. */
static int fill_tail(const struct stfs_layout_view *view, struct stfs_target *t, const uint32_t *movers,
		     uint32_t mover_count, const bool *taken)
{
	uint64_t start = t->last > t->first ? fixed_end(view, t->last - 1) : t->data_start;

	for (uint32_t i = 0; i < mover_count; i++) {
		if (taken[movers[i]])
			continue;
		t->tail[t->tail_count++] = movers[i];
		t->tail_bytes += view->items[movers[i]].size;
		if (stfs_item_is_new(&view->items[movers[i]]))
			t->cost.written += view->items[movers[i]].size;
		else
			t->cost.moved += view->items[movers[i]].size;
	}
	return stfs_order_aligned(view, t->tail, t->tail_count, start) ? 0 : -ENOENT;
}

/* Movers and new items, the movers behind the run first: they are nearest to the tail. */
static uint32_t list_movers(const struct stfs_layout_view *view, const struct stfs_target *t,
			    uint32_t *movers)
{
	uint32_t count = 0;

	for (uint32_t k = 0; k < t->first; k++)
		movers[count++] = view->kept[k];
	for (uint32_t k = t->last; k < view->kept_count; k++)
		movers[count++] = view->kept[k];
	for (uint32_t i = 0; i < view->added_count; i++)
		movers[count++] = view->added[i];
	return count;
}

/* The rest of the cost: the tail's way to its place, the front, the sum. */
static void finish_cost(const struct stfs_layout_view *view, struct stfs_target *t, uint64_t first_place)
{
	const struct stfs_layout_file *file = &view->problem->file;
	uint64_t end = fixed_end(view, t->last - 1);
	uint64_t first_old = view->items[view->kept[t->first]].old;

	if (t->tail_count && end != file->length) {
		if (view->block) {
			t->cost.moved += end % view->block ? view->block / 2 : 0;
			t->cost.shifted += t->tail_bytes;
			t->cost.total += SHIFT_CALL_COST;
		} else {
			t->cost.moved += t->tail_bytes; /* copied down from behind the end */
		}
	}
	if (first_place != first_old) {
		t->cost.shifted += file->length - first_old;
		t->cost.total += SHIFT_CALL_COST;
	}
	t->cost.total += t->cost.written + t->cost.moved + t->cost.shifted / SHIFTED_PER_COST;
}

/*
 * Works out the choice kept[first .. last). 0; -ENOENT when it cannot be; -ENOMEM. Frees what it
 * made when it fails.
 */
static int choose(const struct stfs_layout_view *view, uint32_t first, uint32_t last,
		  struct stfs_target *t)
{
	size_t room = view->problem->count ? view->problem->count : 1;
	uint64_t place = place_of_first(view, first);
	uint32_t *movers = NULL, mover_count;
	bool *taken = NULL;
	int r = -ENOMEM;

	*t = (struct stfs_target){.first = first, .last = last, .data_start = place};
	if (place == UINT64_MAX)
		return -ENOENT;
	movers = malloc(room * sizeof(*movers));
	taken = calloc(room, sizeof(*taken));
	t->gap_of = malloc(room * sizeof(*t->gap_of));
	t->fill_order = malloc(room * sizeof(*t->fill_order));
	t->tail = malloc(room * sizeof(*t->tail));
	if (movers && taken && t->gap_of && t->fill_order && t->tail) {
		memset(t->gap_of, 0xff, room * sizeof(*t->gap_of));
		mover_count = list_movers(view, t, movers);
		r = fill_gaps(view, t, movers, mover_count, taken);
		if (r == 0)
			r = fill_tail(view, t, movers, mover_count, taken);
		if (r == 0)
			finish_cost(view, t, place);
	}
	free(movers);
	free(taken);
	if (r < 0)
		target_free(t);
	return r;
}

/* ---- All choices ---- */

/* Keeps the better of two targets in *best; frees the other. */
static void keep_better(struct stfs_target *best, struct stfs_target *other)
{
	if (!best->gap_of || other->cost.total < best->cost.total) {
		target_free(best);
		*best = *other;
	} else {
		target_free(other);
	}
}

/*
 * Runs that begin at `first`: the whole rest, then ever shorter ones, as long as moving what is cut
 * off can still be cheaper than the best so far. Far from the end the steps grow, so that a model of
 * 100,000 tensors takes some hundred choices.
 */
static int search_from(const struct stfs_layout_view *view, uint32_t first, struct stfs_target *best,
		       uint64_t limit)
{
	uint64_t prefix = view->bytes_before[first], suffix, next = 0;
	struct stfs_target t;
	int r;

	for (uint32_t last = view->kept_count; last > first; last--) {
		suffix = view->bytes_before[view->kept_count] - view->bytes_before[last];
		if (best->gap_of && best->cost.total < limit)
			limit = best->cost.total;
		if (prefix + suffix + view->added_bytes >= limit)
			return 0;
		if (view->kept_count - last > 32 && suffix < next)
			continue;
		next = suffix + suffix / 16;
		r = choose(view, first, last, &t);
		if (r == -ENOMEM)
			return r;
		if (r == 0)
			keep_better(best, &t);
	}
	return 0;
}

/* The best target with a fixed run, below `limit`; best->gap_of stays NULL when there is none. */
static int search(const struct stfs_layout_view *view, struct stfs_target *best, uint64_t limit)
{
	uint32_t tried = 0;
	int r = 0;

	for (uint32_t first = 0; r == 0 && first < view->kept_count; first++) {
		bool hole = first == 0 || view->items[view->kept[first]].old != fixed_end(view, first - 1);

		if (view->bytes_before[first] >= limit)
			break;
		/* The run may begin at the front, behind a hole, or where the header fits. */
		if (!hole && place_of_first(view, first - 1) != UINT64_MAX)
			continue;
		if (tried++ == FIRST_CHOICES)
			break;
		r = search_from(view, first, best, limit);
	}
	return r;
}

/* Everything anew, in the old order if that keeps the alignments. */
static int rewrite(const struct stfs_layout_view *view, struct stfs_target *t)
{
	size_t room = view->problem->count ? view->problem->count : 1;

	*t = (struct stfs_target){.data_start = view->header_good};
	t->gap_of = malloc(room * sizeof(*t->gap_of));
	t->fill_order = malloc(room * sizeof(*t->fill_order));
	t->tail = malloc(room * sizeof(*t->tail));
	if (!t->gap_of || !t->fill_order || !t->tail)
		return -ENOMEM;
	t->tail_count = list_movers(view, t, t->tail);
	t->cost.moved = view->bytes_before[view->kept_count];
	t->cost.written = view->added_bytes;
	t->tail_bytes = t->cost.total = t->cost.moved + t->cost.written;
	stfs_order_aligned(view, t->tail, t->tail_count, t->data_start);
	return 0;
}

/* ---- The winner ---- */

/* Nothing moves, nothing is added, and the header fits where it is. */
static bool header_only(const struct stfs_layout_view *view)
{
	const struct stfs_layout_problem *p = view->problem;
	uint64_t end = p->file.data_start;

	if (view->added_count || p->header_same == UINT64_MAX || 8 + p->header_same > p->file.data_start)
		return false;
	for (uint32_t k = 0; k < view->kept_count; k++) {
		if (view->items[view->kept[k]].old != end)
			return false;
		end = fixed_end(view, k);
	}
	return end == p->file.length;
}

static int plan_header(const struct stfs_layout_view *view, struct stfs_plan *plan)
{
	plan->kind = STFS_PLAN_HEADER;
	plan->data_start = view->problem->file.data_start;
	plan->text_len = plan->data_start - 8;
	plan->length = view->problem->file.length;
	plan->place = calloc(view->kept_count ? view->kept_count : 1, sizeof(*plan->place));
	if (!plan->place)
		return -ENOMEM;
	for (uint32_t k = 0; k < view->kept_count; k++)
		plan->place[view->kept[k]] = view->items[view->kept[k]].old;
	return 0;
}

static bool has_shift(const struct stfs_plan *plan)
{
	for (size_t i = 0; i < plan->count; i++)
		if (plan->steps[i].kind == STFS_STEP_COLLAPSE || plan->steps[i].kind == STFS_STEP_INSERT)
			return true;
	return false;
}

/* Whether steps behind the record change bytes that are the old model's. */
static bool hurts_readers(const struct stfs_plan *plan)
{
	return plan->before < plan->count;
}

/* Bytes that must be free while the plan runs. */
static uint64_t space_of(const struct stfs_layout_view *view, const struct stfs_plan *plan)
{
	uint64_t length = view->problem->file.length, most = length, now = length, sum = 0;

	if (plan->kind == STFS_PLAN_REBUILD) {
		for (size_t i = 0; i < plan->count; i++)
			if (plan->steps[i].kind != STFS_STEP_CLONE)
				sum += plan->steps[i].len;
		return sum + plan->data_start;
	}
	for (size_t i = 0; i < plan->count; i++) {
		const struct stfs_step *s = &plan->steps[i];

		if (s->kind == STFS_STEP_WRITE || s->kind == STFS_STEP_COPY)
			now = stfs_max_u64(now, s->to + s->len);
		else if (s->kind == STFS_STEP_INSERT)
			now += s->len;
		else if (s->kind == STFS_STEP_COLLAPSE)
			now -= s->len;
		else if (s->kind == STFS_STEP_TRUNCATE)
			now = s->to;
		most = stfs_max_u64(most, now);
	}
	return most - length + (plan->kind == STFS_PLAN_CLONE ? plan->data_start : 0);
}

/* The plan of a target that has a fixed run: on the file, on a clone, or of shared pieces. */
static int plan_target(const struct stfs_layout_view *view, const struct stfs_target *target,
		       struct stfs_plan *plan)
{
	const struct stfs_layout_file *file = &view->problem->file;
	int r = stfs_steps_in_place(view, target, plan);

	plan->kind = STFS_PLAN_IN_PLACE;
	if (r < 0 || !hurts_readers(plan))
		return r;
	if (file->can_clone && (file->can_shift || !has_shift(plan))) {
		plan->kind = STFS_PLAN_CLONE; /* the old file stays whole until the new one stands */
		return 0;
	}
	if (!file->can_clone && !file->replace_only)
		return 0;
	stfs_plan_free(plan);
	if (!file->can_clone)
		return -ENOENT;
	plan->kind = STFS_PLAN_REBUILD;
	return stfs_steps_rebuild(view, target, plan);
}

static int plan_rewrite(const struct stfs_layout_view *view, const struct stfs_target *target,
			struct stfs_plan *plan)
{
	int r = stfs_steps_rebuild(view, target, plan);

	plan->kind = STFS_PLAN_REBUILD;
	plan->cost = target->cost;
	plan->cost.space = space_of(view, plan);
	return r;
}

/* Takes the better target that fits into the room there is. */
static int decide(const struct stfs_layout_view *view, const struct stfs_target *best,
		  const struct stfs_target *whole, struct stfs_plan *plan)
{
	uint64_t room = view->problem->file.room, least = UINT64_MAX;
	int r = -ENOENT;

	if (best->gap_of && best->cost.total < whole->cost.total) {
		r = plan_target(view, best, plan);
		if (r == 0) {
			plan->cost = best->cost;
			plan->cost.space = least = space_of(view, plan);
			if (least <= room)
				return 0;
		}
		stfs_plan_free(plan);
		if (r == -ENOMEM)
			return r;
	}
	r = plan_rewrite(view, whole, plan);
	if (r == 0 && plan->cost.space > room) {
		least = stfs_min_u64(least, plan->cost.space);
		stfs_plan_free(plan);
		plan->cost.space = least;
		r = -ENOSPC;
	}
	return r;
}

int stfs_layout_plan(const struct stfs_layout_problem *problem, struct stfs_plan *plan)
{
	struct stfs_target best = {0}, whole = {0};
	struct stfs_layout_view view;
	int r;

	*plan = (struct stfs_plan){0};
	r = view_open(&view, problem);
	if (r == 0 && header_only(&view)) {
		r = plan_header(&view, plan);
	} else if (r == 0) {
		r = rewrite(&view, &whole);
		if (r == 0)
			r = search(&view, &best, whole.cost.total);
		if (r == 0)
			r = decide(&view, &best, &whole, plan);
	}
	target_free(&best);
	target_free(&whole);
	view_free(&view);
	if (r < 0 && r != -ENOSPC)
		stfs_plan_free(plan);
	return r;
}
