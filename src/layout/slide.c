/* SPDX-License-Identifier: MIT */
/*
 * Where nothing can be shifted or shared and little room is left: kept items slide to their new places
 * in the old order, new ones stand behind the old end of the file first and follow.
 *
 * What goes down is copied from its beginning, what goes up from its end, in pieces no longer than the
 * way it goes (L3). A short way would mean many pieces, each with a durable mark of the executor's
 * between them; then the pieces go by way of the free room behind the file, two copies each.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "layout/internal.h"

#define STEPS_MOST 4096
/* A durable mark costs about as much as writing so many bytes. */
#define MARK_COST (256u << 10)
/* Pieces by way of the room behind the file need not be longer. */
#define BOUNCE_MOST (64u << 20)
/* Of what is free so much is left for the journal, and for what file systems need themselves. */
#define ROOM_KEPT (1u << 20)
#define ROOM_KEPT_SHARE 16

/* Neighbours that go the same way together. */
struct stretch {
	uint64_t from, to, len;
};

struct slide {
	const struct stfs_layout_view *view;
	struct stfs_steps steps;
	struct stretch *stretches; /* owned; in file order */
	size_t count;
	uint64_t top;    /* end of what is in use: the room for bouncing lies behind it */
	uint64_t bounce; /* bytes of that room */
	uint64_t marks;
	uint32_t front; /* new items that go before the kept ones */
	uint64_t front_from, front_to, front_bytes; /* where they are written first, where they go */
};

static void copy(struct slide *s, uint64_t from, uint64_t to, uint64_t len)
{
	stfs_step_push(&s->steps, (struct stfs_step){STFS_STEP_COPY, UINT32_MAX, from, to, len});
}

static uint64_t distance(const struct stretch *x)
{
	return x->to > x->from ? x->to - x->from : x->from - x->to;
}

static void add(struct slide *s, uint64_t from, uint64_t to, uint64_t len)
{
	struct stretch *last = s->count ? &s->stretches[s->count - 1] : NULL;

	if (last && last->from + last->len == from && last->to + last->len == to)
		last->len += len;
	else if (len)
		s->stretches[s->count++] = (struct stretch){from, to, len};
}

/*
 * New ones that could not lie aligned behind the kept ones, which end at `end` when they begin at `start`: to the
 * front of `order`. They go before the kept ones, and their bytes are returned.
 */
static uint64_t choose_front(const struct stfs_layout_view *view, uint64_t end, uint32_t *order, uint32_t *front)
{
	uint32_t count = 0;
	uint64_t bytes = 0;

	for (int behind = 0; behind < 2; behind++) {
		for (uint32_t i = 0; i < view->added_count; i++) {
			const struct stfs_layout_item *item = &view->items[view->added[i]];

			if ((end % item->alignment == 0) != behind)
				continue;
			order[count++] = view->added[i];
			bytes += behind ? 0 : item->size;
		}
		*front = behind ? *front : count;
	}
	return bytes;
}

/* The kept ones behind each other, from `at` on: where they end, or UINT64_MAX when one is not aligned. */
static uint64_t place_kept(struct slide *s, uint64_t at)
{
	const struct stfs_layout_view *view = s->view;

	for (uint32_t k = 0; k < view->kept_count; k++) {
		const struct stfs_layout_item *item = stfs_kept(view, k);

		if (at % stfs_item_alignment(view, item))
			return UINT64_MAX;
		s->steps.plan->place[view->kept[k]] = at;
		add(s, item->old, at, item->size);
		at += item->size;
	}
	return at;
}

/*
 * New items order[0 .. count), from `at` on; they are first written behind what is in use. Those behind the kept ones
 * slide as these do. Those in front are copied when all has slid: what lay there has moved by then.
 */
static uint64_t place_added(struct slide *s, const uint32_t *order, uint32_t count, uint64_t at, bool front)
{
	struct stfs_plan *plan = s->steps.plan;

	for (uint32_t i = 0; i < count; i++) {
		uint64_t size = s->view->items[order[i]].size;

		plan->place[order[i]] = at;
		stfs_step_push(&s->steps, (struct stfs_step){STFS_STEP_WRITE, order[i], 0, s->top, size});
		if (!front)
			add(s, s->top, at, size);
		at += size;
		s->top += size;
	}
	return at;
}

/*
 * The order of the slide: new ones for which there is no other place, kept items as they lie, the other new ones,
 * each aligned; -ENOENT when not.
 */
static int set_places(struct slide *s, uint64_t start, uint32_t *order)
{
	const struct stfs_layout_view *view = s->view;
	struct stfs_plan *plan = s->steps.plan;
	uint64_t kept = view->bytes_before[view->kept_count], before, end;
	uint32_t rest;

	before = choose_front(view, start + kept, order, &s->front);
	rest = view->added_count - s->front;
	end = place_kept(s, start + before);
	if (end == UINT64_MAX || !stfs_order_aligned(view, order, s->front, start) ||
	    !stfs_order_aligned(view, order + s->front, rest, end))
		return -ENOENT;
	/* They may stay where they are first written when the kept ones have grown up to there. */
	s->top = stfs_max_u64(view->problem->file.length, end);
	s->front_from = s->top + (view->added_bytes - before);
	s->front_to = start;
	s->front_bytes = before;
	end = place_added(s, order + s->front, rest, end, false);
	place_added(s, order, s->front, start, true);
	plan->data_start = start;
	plan->text_len = start - 8;
	plan->length = end;
	plan->before = plan->count;
	s->top = stfs_max_u64(s->top, end);
	return 0;
}

/* Steps that a stretch takes, and how long its pieces are. */
static uint64_t pieces(const struct slide *s, const struct stretch *x, uint64_t *piece)
{
	uint64_t way = distance(x);

	if (way == 0)
		return 0;
	*piece = way;
	if (s->bounce <= 2 * way)
		return (x->len + way - 1) / way;
	*piece = s->bounce; /* two copies each: only where that is less than half as many */
	return 2 * ((x->len + s->bounce - 1) / s->bounce);
}

/* One stretch, its pieces in the order in which none hurts the next. */
static void slide(struct slide *s, const struct stretch *x)
{
	uint64_t piece = 0, done = 0, len, offset;
	bool up = x->to > x->from;

	pieces(s, x, &piece);
	while (distance(x) && done < x->len) {
		len = stfs_min_u64(piece, x->len - done);
		offset = up ? x->len - done - len : done;
		if (len > distance(x)) {
			copy(s, x->from + offset, s->top, len);
			copy(s, s->top, x->to + offset, len);
			s->marks++;
		} else {
			copy(s, x->from + offset, x->to + offset, len);
		}
		s->marks++;
		done += len;
	}
}

/*
 * Those that go up from the last to the first, then those that go down from the first to the last: a
 * stretch that goes up never comes to lie on one behind it that goes down, nor the other way round.
 */
static void slide_all(struct slide *s)
{
	for (size_t i = s->count; i-- > 0;)
		if (s->stretches[i].to > s->stretches[i].from)
			slide(s, &s->stretches[i]);
	for (size_t i = 0; i < s->count; i++)
		if (s->stretches[i].to < s->stretches[i].from)
			slide(s, &s->stretches[i]);
}

/* Steps with so much room for bouncing, and what they cost beyond one copy of each byte. */
static uint64_t try_bounce(struct slide *s, uint64_t bounce, uint64_t *cost)
{
	uint64_t steps = 0, piece;

	s->bounce = bounce;
	*cost = 0;
	for (size_t i = 0; i < s->count && steps <= STEPS_MOST; i++) {
		const struct stretch *x = &s->stretches[i];

		steps += pieces(s, x, &piece);
		if (distance(x) && piece > distance(x))
			*cost += x->len;
	}
	*cost += steps * MARK_COST;
	return steps;
}

/* By way of what is free behind the file, or without, whichever costs less: -ENOENT when neither does. */
static int choose_bounce(struct slide *s)
{
	const struct stfs_layout_file *file = &s->view->problem->file;
	uint64_t room = file->room, used = s->top - file->length, without, with;
	uint64_t free = stfs_max_u64(room, used + file->overwriting) - used - file->overwriting;
	uint64_t kept = stfs_min_u64(free, ROOM_KEPT) / 2 + free / ROOM_KEPT_SHARE;
	uint64_t most = stfs_min_u64(free - kept, BOUNCE_MOST);
	bool can = try_bounce(s, 0, &without) <= STEPS_MOST;

	if (most && try_bounce(s, most, &with) <= STEPS_MOST && (!can || with < without))
		return 0;
	s->bounce = 0;
	return can ? 0 : -ENOENT;
}

static uint64_t data_start(const struct stfs_layout_view *view)
{
	uint64_t now = view->problem->file.data_start;
	bool same = view->kept_count == 0 || stfs_kept(view, 0)->old == now;

	if (now >= view->header_min && (same || now % 8 == 0) &&
	    !(view->problem->compact && (now > view->header_most || now % 8)))
		return now;
	return view->header_good;
}

static int fill_plan(struct slide *s, uint32_t *order)
{
	const struct stfs_layout_view *view = s->view;
	struct stfs_plan *plan = s->steps.plan;
	int r = set_places(s, data_start(view), order);

	if (r == 0)
		r = choose_bounce(s);
	if (r < 0)
		return r;
	slide_all(s);
	copy(s, s->front_from, s->front_to, s->front_bytes);
	s->marks += s->front > 0;
	stfs_step_push(&s->steps,
		       (struct stfs_step){STFS_STEP_TRUNCATE, UINT32_MAX, 0, plan->length, 0});
	plan->kind = STFS_PLAN_IN_PLACE;
	stfs_plan_reckon(view, plan);
	plan->cost.unsure = view->problem->file.overwriting;
	plan->cost.space += plan->cost.unsure;
	plan->cost.total += s->marks * MARK_COST;
	return s->steps.status;
}

int stfs_steps_slide(const struct stfs_layout_view *view, struct stfs_plan *plan)
{
	size_t count = view->problem->count ? view->problem->count : 1;
	uint32_t *order = malloc(count * sizeof(*order));
	struct slide s = {.view = view, .steps.plan = plan};
	int r = -ENOMEM;

	plan->place = calloc(count, sizeof(*plan->place));
	s.stretches = malloc(count * sizeof(*s.stretches));
	if (order && plan->place && s.stretches)
		r = fill_plan(&s, order);
	free(order);
	free(s.stretches);
	return r;
}
