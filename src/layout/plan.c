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
	free(target->run);
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

/* The working state of one choice. */
struct choice {
	const struct stfs_layout_view *view;
	struct stfs_target *t;
	uint32_t *movers; /* owned: items that move, kept ones first */
	uint32_t mover_count;
	bool *taken; /* owned, by item: is a filler */
};

static uint64_t run_end(const struct choice *c, uint32_t k)
{
	return fixed_end(c->view, c->t->run[k]);
}

static uint64_t gap_before(const struct choice *c, uint32_t k)
{
	return c->view->items[c->view->kept[c->t->run[k]]].old - run_end(c, k - 1);
}

/*
 * Gap `k` can be filled by nobody: finds the cheapest piece of the run around it, run[*from .. *to),
 * that has to move with it so that what is left of the run lies a multiple of the block apart.
 * Pieces are tried by growing cost from both sides; WINDOW_MOST items on each.
 */
#define WINDOW_MOST 96
static bool find_window(const struct choice *c, uint32_t k, uint64_t limit, uint32_t *from, uint32_t *to)
{
	const struct stfs_layout_view *view = c->view;
	uint64_t best = limit, left = 0, right;

	for (uint32_t i = k; i >= 1 && k - i <= WINDOW_MOST && left < best; i--) {
		uint64_t start = run_end(c, i - 1);

		right = 0;
		for (uint32_t j = k; j < c->t->run_count && j - k <= WINDOW_MOST && left + right < best; j++) {
			const struct stfs_layout_item *item = &view->items[view->kept[c->t->run[j]]];

			if ((item->old - start) % view->block == 0) {
				best = left + right;
				*from = i;
				*to = j;
				break;
			}
			right += item->size;
		}
		left += view->items[view->kept[c->t->run[i - 1]]].size;
	}
	return best < limit;
}

/* Takes run[from .. to) out of the run. */
static void move_window(struct choice *c, uint32_t from, uint32_t to)
{
	struct stfs_target *t = c->t;

	for (uint32_t k = from; k < to; k++)
		c->movers[c->mover_count++] = c->view->kept[t->run[k]];
	memmove(t->run + from, t->run + to, (t->run_count - to) * sizeof(*t->run));
	t->run_count -= to - from;
}

/* Makes every gap one that fillers or a shift can close: 0, or -ENOENT. */
static int open_windows(struct choice *c, uint64_t limit)
{
	uint32_t from = 0, to = 0, scratch[64];
	uint64_t gap;
	int used;

	for (uint32_t k = 1; k < c->t->run_count; k++) {
		gap = gap_before(c, k);
		if (gap == 0 || (c->view->block && gap % c->view->block == 0))
			continue;
		used = stfs_fill_gap(c->view, c->movers, c->mover_count, c->taken, gap, run_end(c, k - 1),
				     scratch, 64);
		if (used >= 0)
			continue;
		if (!c->view->block || !find_window(c, k, limit, &from, &to))
			return -ENOENT;
		move_window(c, from, to);
		k = from > 1 ? from - 1 : 0; /* the gap that came of it, and the pool has grown */
	}
	return 0;
}

/* Fillers for all gaps inside the run: 0, or -ENOENT when some gap cannot be filled. */
static int fill_gaps(struct choice *c)
{
	const struct stfs_layout_view *view = c->view;
	struct stfs_target *t = c->t;
	uint64_t gap;
	int used;

	for (uint32_t k = 1; k < t->run_count; k++) {
		gap = gap_before(c, k);
		if (gap == 0)
			continue;
		used = stfs_fill_gap(view, c->movers, c->mover_count, c->taken, gap, run_end(c, k - 1),
				     t->fill_order + t->fill_count, c->mover_count - t->fill_count);
		if (used < 0)
			return -ENOENT;
		for (int i = 0; i < used; i++) {
			uint32_t number = t->fill_order[t->fill_count++];

			c->taken[number] = true;
			t->gap_of[number] = k;
			gap -= view->items[number].size;
			t->cost.moved += view->items[number].size;
			if (stfs_item_is_new(&view->items[number]))
				t->cost.written += view->items[number].size;
		}
		if (gap) { /* what a shift removes, its edge is copied */
			t->cost.moved += run_end(c, k - 1) % view->block ? view->block / 2 : 0;
			t->cost.shifted += view->problem->file.length - run_end(c, k - 1);
			t->cost.total += SHIFT_CALL_COST;
		}
	}
	return 0;
}

/* What is neither fixed nor a filler, in an order that keeps alignments: 0 or -ENOENT. */
static int fill_tail(struct choice *c)
{
	const struct stfs_layout_view *view = c->view;
	struct stfs_target *t = c->t;
	uint64_t start = t->run_count ? run_end(c, t->run_count - 1) : t->data_start;

	for (uint32_t i = 0; i < c->mover_count; i++) {
		const struct stfs_layout_item *item = &view->items[c->movers[i]];

		if (c->taken[c->movers[i]])
			continue;
		t->tail[t->tail_count++] = c->movers[i];
		t->tail_bytes += item->size;
		if (stfs_item_is_new(item))
			t->cost.written += item->size;
		else
			t->cost.moved += item->size;
	}
	return stfs_order_aligned(view, t->tail, t->tail_count, start) ? 0 : -ENOENT;
}

/* The run, and what is left of the items: the movers behind the run first, new ones last. */
static void split_items(struct choice *c, uint32_t first, uint32_t last)
{
	const struct stfs_layout_view *view = c->view;

	for (uint32_t k = 0; k < view->kept_count; k++) {
		if (k >= first && k < last)
			c->t->run[c->t->run_count++] = k;
		else
			c->movers[c->mover_count++] = view->kept[k];
	}
	for (uint32_t i = 0; i < view->added_count; i++)
		c->movers[c->mover_count++] = view->added[i];
}

/* The rest of the cost: the tail's way to its place, the front, the sum. */
static void finish_cost(const struct choice *c)
{
	const struct stfs_layout_view *view = c->view;
	const struct stfs_layout_file *file = &view->problem->file;
	struct stfs_target *t = c->t;
	uint64_t end = run_end(c, t->run_count - 1);
	uint64_t first_old = view->items[view->kept[t->run[0]]].old;

	if (t->tail_count && end != file->length) {
		if (view->block) {
			t->cost.moved += end % view->block ? view->block / 2 : 0;
			t->cost.shifted += t->tail_bytes;
			t->cost.total += SHIFT_CALL_COST;
		} else {
			t->cost.moved += t->tail_bytes; /* copied down from behind the end */
		}
	}
	if (t->data_start != first_old) {
		t->cost.shifted += file->length - first_old;
		t->cost.total += SHIFT_CALL_COST;
	}
	t->cost.total += t->cost.written + t->cost.moved + t->cost.shifted / SHIFTED_PER_COST;
}

static int target_alloc(struct stfs_target *t, size_t count)
{
	size_t room = count ? count : 1;

	t->run = malloc(room * sizeof(*t->run));
	t->gap_of = malloc(room * sizeof(*t->gap_of));
	t->fill_order = malloc(room * sizeof(*t->fill_order));
	t->tail = malloc(room * sizeof(*t->tail));
	if (!t->run || !t->gap_of || !t->fill_order || !t->tail)
		return -ENOMEM;
	memset(t->gap_of, 0xff, room * sizeof(*t->gap_of));
	return 0;
}

/*
 * Works out the choice kept[first .. last), less what has to move with its holes. 0; -ENOENT when it
 * cannot be, or would cost more than `limit`; -ENOMEM. Frees what it made when it fails.
 */
static int choose(const struct stfs_layout_view *view, uint32_t first, uint32_t last, uint64_t limit,
		  struct stfs_target *t)
{
	size_t room = view->problem->count ? view->problem->count : 1;
	uint64_t place = place_of_first(view, first);
	struct choice c = {.view = view, .t = t};
	int r;

	*t = (struct stfs_target){.data_start = place};
	if (place == UINT64_MAX)
		return -ENOENT;
	c.movers = malloc(room * sizeof(*c.movers));
	c.taken = calloc(room, sizeof(*c.taken));
	r = target_alloc(t, room);
	if (!c.movers || !c.taken)
		r = -ENOMEM;
	if (r == 0) {
		split_items(&c, first, last);
		r = open_windows(&c, limit);
	}
	if (r == 0)
		r = fill_gaps(&c);
	if (r == 0)
		r = fill_tail(&c);
	if (r == 0)
		finish_cost(&c);
	free(c.movers);
	free(c.taken);
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
		r = choose(view, first, last, limit, &t);
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

/* Everything anew. */
static int rewrite(const struct stfs_layout_view *view, struct stfs_target *t)
{
	int r;

	*t = (struct stfs_target){.data_start = view->header_good};
	r = target_alloc(t, view->problem->count);
	if (r < 0)
		return r;
	for (uint32_t k = 0; k < view->kept_count; k++)
		t->tail[t->tail_count++] = view->kept[k];
	for (uint32_t i = 0; i < view->added_count; i++)
		t->tail[t->tail_count++] = view->added[i];
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
