/* SPDX-License-Identifier: MIT */
/* The decision: the header alone, the best fixed run, a slide, or everything anew. */
#include "layout/layout.h"

#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "layout/internal.h"

void stfs_plan_free(struct stfs_plan *plan)
{
	free(plan->place);
	free(plan->steps);
	*plan = (struct stfs_plan){0};
}

/* Everything anew. */
static int rewrite(const struct stfs_layout_view *view, struct stfs_target *t)
{
	int r;

	*t = (struct stfs_target){.data_start = view->header_good};
	r = stfs_target_open(t, view->problem->count);
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

/* ---- Plans ---- */

/* Nothing moves, nothing is added, and the header fits where it is. */
static bool header_only(const struct stfs_layout_view *view)
{
	const struct stfs_layout_problem *p = view->problem;
	uint64_t end = p->file.data_start;

	if (view->added_count || p->header_same == UINT64_MAX ||
	    8 + p->header_same > p->file.data_start)
		return false;
	if (p->compact && p->file.data_start > view->header_most)
		return false;
	for (uint32_t k = 0; k < view->kept_count; k++) {
		const struct stfs_layout_item *item = stfs_kept(view, k);

		if (item->old != end || !stfs_item_can_stay(view, item))
			return false;
		end = stfs_item_end(item);
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
		plan->place[view->kept[k]] = stfs_kept(view, k)->old;
	return 0;
}

static bool has_step(const struct stfs_plan *plan, enum stfs_step_kind kind)
{
	for (size_t i = 0; i < plan->count; i++)
		if (plan->steps[i].kind == kind)
			return true;
	return false;
}

size_t stfs_steps_shifts(const struct stfs_step *steps, size_t count)
{
	size_t shifts = 0;

	for (size_t i = 0; i < count; i++)
		shifts += stfs_step_is_shift(&steps[i]);
	return shifts;
}

/* The file's length behind a step on it, `now` before. */
static uint64_t length_after(const struct stfs_step *s, uint64_t now)
{
	switch (s->kind) {
	case STFS_STEP_WRITE:
	case STFS_STEP_COPY: return stfs_max_u64(now, s->to + s->len);
	case STFS_STEP_INSERT: return now + s->len;
	case STFS_STEP_COLLAPSE: return now - s->len;
	case STFS_STEP_TRUNCATE: return s->to;
	case STFS_STEP_CLONE:
	case STFS_STEP_ERASE: break;
	}
	return now;
}

uint64_t stfs_shift_cost(const struct stfs_layout_file *file, uint64_t shifted)
{
	/* They lie anywhere; what is dropped by one shift is not there for the next. */
	double share = file->length ? (double)stfs_min_u64(shifted, file->length) / (double)file->length : 0;

	return shifted / STFS_SHIFTED_PER_COST + (uint64_t)((double)file->cached * share) / STFS_CACHED_PER_COST;
}

void stfs_plan_reckon(const struct stfs_layout_view *view, struct stfs_plan *plan)
{
	uint64_t length = view->problem->file.length, now = length, most = length, calls = 0;
	struct stfs_plan_cost *cost = &plan->cost;

	*cost = (struct stfs_plan_cost){0};
	for (size_t i = 0; i < plan->count; i++) {
		const struct stfs_step *s = &plan->steps[i];

		if (s->kind == STFS_STEP_WRITE) {
			cost->written += s->len;
		} else if (s->kind == STFS_STEP_COPY) {
			cost->moved += s->len;
		} else if (s->kind != STFS_STEP_TRUNCATE) {
			cost->shifted += s->kind == STFS_STEP_CLONE ? s->len : now - s->to;
			calls++;
		}
		now = length_after(s, now);
		most = stfs_max_u64(most, now);
	}
	cost->total = cost->written + cost->moved + calls * STFS_SHIFT_CALL_COST +
		      stfs_shift_cost(&view->problem->file, cost->shifted);
	if (plan->kind == STFS_PLAN_REBUILD)
		cost->space = cost->written + cost->moved + plan->data_start;
	else
		cost->space = most - length + (plan->kind == STFS_PLAN_CLONE ? plan->data_start : 0);
}

/* The plan of a target that has a fixed run: on the file, on a clone, or of shared pieces. */
static int plan_best(const struct stfs_layout_view *view, const struct stfs_target *target,
		     struct stfs_plan *plan)
{
	const struct stfs_layout_file *file = &view->problem->file;
	struct stfs_plan pieces = {.kind = STFS_PLAN_REBUILD};
	bool possible;
	int r = target->run ? stfs_steps_in_place(view, target, plan) : -ENOENT;

	plan->kind = STFS_PLAN_IN_PLACE;
	if (r == 0 && stfs_plan_hurts_readers(plan, file) && file->can_clone)
		plan->kind = STFS_PLAN_CLONE; /* the old file stays whole until the new one stands */
	if (r == 0)
		stfs_plan_reckon(view, plan);
	if (r < 0 || plan->kind == STFS_PLAN_IN_PLACE)
		return r == 0 && file->replace_only && stfs_plan_hurts_readers(plan, file) ? -ENOENT : r;
	r = stfs_steps_rebuild(view, target, &pieces);
	if (r == 0)
		stfs_plan_reckon(view, &pieces);
	possible = file->can_shift || !stfs_steps_shifts(plan->steps, plan->count);
	if (r == 0 && has_step(&pieces, STFS_STEP_CLONE) &&
	    (!possible || pieces.cost.total < plan->cost.total)) {
		stfs_plan_free(plan);
		*plan = pieces;
		return 0;
	}
	stfs_plan_free(&pieces);
	return r == 0 && !possible ? -ENOENT : r; /* nothing to share: all is written anew */
}

static int plan_rewrite(const struct stfs_layout_view *view, const struct stfs_target *target,
			struct stfs_plan *plan)
{
	int r = stfs_steps_rebuild(view, target, plan);

	plan->kind = STFS_PLAN_REBUILD;
	stfs_plan_reckon(view, plan);
	return r;
}

/* ---- The decision ---- */

/*
 * Keeps the cheaper of two plans that fit into the room, the earlier of equals; of those that do not,
 * the smallest need is remembered. Takes `other` over in any case. `made` is what making it returned.
 */
struct contest {
	struct stfs_plan best;
	bool found;
	uint64_t room, least; /* bytes there are, bytes that the smallest plan needs */
};

static int enter(struct contest *c, struct stfs_plan *other, int made)
{
	if (made == 0)
		c->least = stfs_min_u64(c->least, other->cost.space);
	if (made == 0 && other->cost.space <= c->room &&
	    (!c->found || other->cost.total < c->best.cost.total)) {
		stfs_plan_free(&c->best);
		c->best = *other;
		c->found = true;
	} else {
		stfs_plan_free(other);
	}
	*other = (struct stfs_plan){0};
	return made == -ENOENT ? 0 : made;
}

/* Takes the cheapest that fits into the room there is. */
static int decide(const struct stfs_layout_view *view, const struct stfs_target *best,
		  const struct stfs_target *whole, struct stfs_plan *plan)
{
	const struct stfs_layout_file *file = &view->problem->file;
	struct contest c = {.room = file->room, .least = UINT64_MAX};
	struct stfs_plan other = {0};
	int r = enter(&c, &other, plan_best(view, best, &other));

	/* What was reckoned of the target was an estimate; L5 is about the plan. */
	if (r == 0 && (!c.found || c.best.cost.total > whole->cost.total))
		r = enter(&c, &other, plan_rewrite(view, whole, &other));
	/*
	 * A slide moves live bytes for minutes: only where nothing can be shifted or shared, or
	 * fits.
	 */
	if (r == 0 && !file->replace_only && ((!view->block && !file->can_shift) || !c.found))
		r = enter(&c, &other, stfs_steps_slide(view, &other));
	if (r == 0 && !c.found)
		r = -ENOSPC;
	if (r == 0)
		*plan = c.best;
	else
		stfs_plan_free(&c.best);
	if (r == -ENOSPC)
		plan->cost.space = c.least;
	return r;
}

static int make_plan(const struct stfs_layout_problem *problem, bool shifting, struct stfs_plan *plan)
{
	struct stfs_target best = {0}, whole = {0};
	struct stfs_layout_view view;
	int r;

	*plan = (struct stfs_plan){0};
	r = stfs_view_open(&view, problem, shifting);
	if (r == 0 && header_only(&view)) {
		r = plan_header(&view, plan);
	} else if (r == 0) {
		r = rewrite(&view, &whole);
		if (r == 0)
			r = stfs_search(&view, whole.cost.total, &best);
		if (r == 0)
			r = decide(&view, &best, &whole, plan);
	}
	stfs_target_close(&best);
	stfs_target_close(&whole);
	stfs_view_close(&view);
	if (r < 0 && r != -ENOSPC)
		stfs_plan_free(plan);
	return r;
}

int stfs_layout_plan(const struct stfs_layout_problem *problem, struct stfs_plan *plan)
{
	struct stfs_plan other = {0};
	int r = make_plan(problem, true, plan);

	if (r < 0 || !problem->file.cached || !stfs_steps_shifts(plan->steps, plan->count))
		return r;
	/* What a shift drops from memory may be dearer than to fill the gap. */
	r = make_plan(problem, false, &other);
	if (r == 0 && other.cost.total < plan->cost.total) {
		stfs_plan_free(plan);
		*plan = other;
		return 0;
	}
	stfs_plan_free(&other);
	if (r < 0 && r != -ENOSPC)
		stfs_plan_free(plan);
	return r == -ENOSPC ? 0 : r;
}
