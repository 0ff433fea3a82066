/* SPDX-License-Identifier: MIT */
/* From a target to places and steps. */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "layout/internal.h"

#define NO_ITEM UINT32_MAX

struct builder {
	const struct stfs_layout_view *view;
	const struct stfs_target *target;
	struct stfs_plan *plan;
	struct stfs_steps steps;
	uint64_t block;
	uint64_t length; /* of the file after the steps so far */
};

/* Whether the step continues the one before it, without which both overlap as one (L3). */
static bool continues(const struct stfs_step *last, const struct stfs_step *step)
{
	uint64_t len = last->len + step->len;

	return step->kind == STFS_STEP_COPY && last->kind == STFS_STEP_COPY &&
	       last->from + last->len == step->from && last->to + last->len == step->to &&
	       (last->to >= last->from + len || last->from >= last->to + len);
}

void stfs_step_push(struct stfs_steps *steps, struct stfs_step step)
{
	struct stfs_plan *plan = steps->plan;
	struct stfs_step *grown;

	if (steps->status < 0 || (step.len == 0 && step.kind != STFS_STEP_TRUNCATE))
		return;
	/* Never across the record: what is before it counts as it stands. */
	if (plan->count > plan->before && continues(&plan->steps[plan->count - 1], &step)) {
		plan->steps[plan->count - 1].len += step.len;
		plan->steps[plan->count - 1].item = NO_ITEM;
		return;
	}
	if (plan->count == steps->cap) {
		steps->cap = steps->cap ? 2 * steps->cap : 16;
		grown = reallocarray(plan->steps, steps->cap, sizeof(*grown));
		if (!grown) {
			steps->status = -ENOMEM;
			return;
		}
		plan->steps = grown;
	}
	plan->steps[plan->count++] = step;
}

static void push(struct builder *b, enum stfs_step_kind kind, uint32_t item, uint64_t from, uint64_t to,
		 uint64_t len)
{
	stfs_step_push(&b->steps, (struct stfs_step){kind, item, from, to, len});
}

static void truncate_to(struct builder *b, uint64_t length)
{
	if (length != b->length)
		push(b, STFS_STEP_TRUNCATE, NO_ITEM, 0, length, 0);
	b->length = length;
}

/* An item's bytes, from wherever they are, to `to`. */
static void place_bytes(struct builder *b, uint32_t number, uint64_t to)
{
	const struct stfs_layout_item *item = &b->view->items[number];

	if (stfs_item_is_new(item))
		push(b, STFS_STEP_WRITE, number, 0, to, item->size);
	else
		push(b, STFS_STEP_COPY, number, item->old, to, item->size);
}

/* The fixed item number k. */
static const struct stfs_layout_item *fixed(const struct builder *b, uint32_t k)
{
	return stfs_kept(b->view, b->target->run[k]);
}

/* Calls `each` for the fillers of a gap, with the place at which each lies from `at` on. */
static uint64_t fill(struct builder *b, uint32_t gap, uint32_t *next, uint64_t at,
		     void (*each)(struct builder *b, uint32_t number, uint64_t to))
{
	const struct stfs_target *t = b->target;

	for (; *next < t->fill_count && t->gap_of[t->fill_order[*next]] == gap; (*next)++) {
		each(b, t->fill_order[*next], at);
		at += b->view->items[t->fill_order[*next]].size;
	}
	return at;
}

static void set_place(struct builder *b, uint32_t number, uint64_t to)
{
	b->plan->place[number] = to;
}

/* Where every item lies in the end. */
static void set_places(struct builder *b)
{
	const struct stfs_target *t = b->target;
	uint64_t at = t->data_start;
	uint32_t next = 0;

	for (uint32_t k = 0; k < t->run_count; k++) {
		at = fill(b, k, &next, at, set_place);
		b->plan->place[b->view->kept[t->run[k]]] = at;
		at += fixed(b, k)->size;
	}
	for (uint32_t i = 0; i < t->tail_count; i++) {
		b->plan->place[t->tail[i]] = at;
		at += b->view->items[t->tail[i]].size;
	}
	b->plan->data_start = t->data_start;
	b->plan->text_len = t->data_start - 8;
	b->plan->length = at;
}

/*
 * Removes the dead bytes [at, at + len), len a multiple of the block: the edge that is not a whole
 * block is copied over from the side that has less of it, then the blocks go.
 */
static void remove_dead(struct builder *b, uint64_t at, uint64_t len)
{
	uint64_t before = at % b->block, after = b->block - before, rest = b->length - (at + len);
	bool keep_first_block = at < b->block; /* the length word stands there */

	if (before == 0)
		after = 0;
	if (rest <= after) { /* a shift must end before the end of the file */
		push(b, STFS_STEP_COPY, NO_ITEM, at + len, at, rest);
		truncate_to(b, at + rest);
		return;
	}
	if (before && (after <= before || keep_first_block)) {
		push(b, STFS_STEP_COPY, NO_ITEM, at + len, at, after);
		at += after;
	} else if (before) {
		push(b, STFS_STEP_COPY, NO_ITEM, at - before, at + len - before, before);
		at -= before;
	}
	push(b, STFS_STEP_COLLAPSE, NO_ITEM, 0, at, len);
	b->length -= len;
}

/* The tail behind the end of the file, where it is out of everybody's way; and some fillers there. */
static uint64_t write_tail(struct builder *b, uint64_t end, uint64_t *scratch)
{
	const struct stfs_target *t = b->target;
	uint64_t at = b->length, start;

	if (b->block)
		at += (end % b->block + b->block - at % b->block) % b->block;
	else if (end != b->length)
		at = stfs_max_u64(at, end + t->tail_bytes);
	start = at;
	for (uint32_t i = 0; i < t->tail_count; i++) {
		place_bytes(b, t->tail[i], at);
		at += b->view->items[t->tail[i]].size;
	}
	*scratch = at;
	for (uint32_t i = 0; i < t->fill_count; i++) {
		if (!t->twice[t->fill_order[i]])
			continue;
		place_bytes(b, t->fill_order[i], at);
		at += b->view->items[t->fill_order[i]].size;
	}
	b->length = stfs_max_u64(b->length, at);
	return start;
}

/* Fillers into their gaps: while everything else still lies where it lay. */
static void copy_fillers(struct builder *b, uint64_t scratch)
{
	const struct stfs_target *t = b->target;
	uint64_t at;
	uint32_t next = 0;

	for (uint32_t k = 0; k < t->run_count; k++) {
		at = k ? stfs_item_end(fixed(b, k - 1)) : t->data_start;
		for (; next < t->fill_count && t->gap_of[t->fill_order[next]] == k; next++) {
			uint32_t number = t->fill_order[next];
			const struct stfs_layout_item *item = &b->view->items[number];
			uint64_t from = item->old;

			if (t->twice[number]) {
				from = scratch;
				scratch += item->size;
			}
			push(b, STFS_STEP_COPY, number, from, at, item->size);
			at += item->size;
		}
	}
}

/* What fillers leave of the gaps, from the last to the first, so that no place before it changes. */
static void close_gaps(struct builder *b)
{
	const struct stfs_target *t = b->target;
	uint32_t next = t->fill_count;
	uint64_t at, len;

	for (uint32_t k = t->run_count - 1; k > 0; k--) {
		at = stfs_item_end(fixed(b, k - 1));
		len = fixed(b, k)->old - at;
		while (next > 0 && t->gap_of[t->fill_order[next - 1]] == k) {
			uint64_t size = b->view->items[t->fill_order[--next]].size;

			at += size;
			len -= size;
		}
		if (len)
			remove_dead(b, at, len);
	}
}

/* The front: whole blocks in or out before the first fixed item, in what is header or dead. */
static void move_front(struct builder *b)
{
	uint64_t old = fixed(b, 0)->old, now = b->target->data_start;
	uint64_t at;

	if (!b->block)
		return;
	if (now > old) {
		at = old - old % b->block;
		push(b, STFS_STEP_INSERT, NO_ITEM, 0, at, now - old);
		b->length += now - old;
	} else if (now < old && now < b->block) {
		remove_dead(b, now, old - now); /* the first block stays: the data's edge comes to it */
	} else if (now < old) {
		at = now - now % b->block; /* only header and dead bytes: they need no edge copied */
		push(b, STFS_STEP_COLLAPSE, NO_ITEM, 0, at, old - now);
		b->length -= old - now;
	}
}

static int begin(struct builder *b, const struct stfs_layout_view *view,
		 const struct stfs_target *target, struct stfs_plan *plan)
{
	*b = (struct builder){.view = view, .target = target, .plan = plan, .block = view->block,
			      .steps.plan = plan, .length = view->problem->file.length};
	plan->place = calloc(view->problem->count ? view->problem->count : 1, sizeof(*plan->place));
	if (!plan->place)
		return -ENOMEM;
	set_places(b);
	return 0;
}

int stfs_steps_in_place(const struct stfs_layout_view *view, const struct stfs_target *target,
			struct stfs_plan *plan)
{
	struct builder b;
	uint64_t end, tail, scratch = 0;
	int r = begin(&b, view, target, plan);

	if (r < 0)
		return r;
	end = stfs_item_end(fixed(&b, target->run_count - 1));
	tail = write_tail(&b, end, &scratch);
	plan->before = plan->count;
	copy_fillers(&b, scratch);
	truncate_to(&b, target->tail_bytes ? tail + target->tail_bytes : end);
	if (target->tail_bytes && tail != end) {
		if (b.block) {
			remove_dead(&b, end, tail - end);
		} else {
			push(&b, STFS_STEP_COPY, NO_ITEM, tail, end, target->tail_bytes);
			truncate_to(&b, end + target->tail_bytes);
		}
	}
	close_gaps(&b);
	move_front(&b);
	return b.steps.status;
}

/* Kept bytes [from, from + len) into the new file at `to`: shared where blocks meet, else copied. */
static void take_over(struct builder *b, uint64_t from, uint64_t to, uint64_t len)
{
	uint64_t head, body;

	if (!b->block) {
		push(b, STFS_STEP_COPY, NO_ITEM, from, to, len);
		return;
	}
	head = stfs_min_u64(len, (b->block - from % b->block) % b->block);
	body = (len - head) - (len - head) % b->block;
	push(b, STFS_STEP_COPY, NO_ITEM, from, to, head);
	push(b, STFS_STEP_CLONE, NO_ITEM, from + head, to + head, body);
	push(b, STFS_STEP_COPY, NO_ITEM, from + head + body, to + head + body, len - head - body);
}

static int by_target(const void *left, const void *right)
{
	const struct stfs_step *a = left, *b = right;

	return a->to < b->to ? -1 : a->to > b->to;
}

int stfs_steps_rebuild(const struct stfs_layout_view *view, const struct stfs_target *target,
		       struct stfs_plan *plan)
{
	struct builder b;
	uint64_t from = 0, to = 0, len = 0;
	int r = begin(&b, view, target, plan);

	if (r < 0)
		return r;
	/* Fixed neighbours that stay neighbours are taken over together. */
	for (uint32_t k = 0; k < target->run_count; k++) {
		const struct stfs_layout_item *item = fixed(&b, k);
		uint64_t place = plan->place[view->kept[target->run[k]]];

		if (len && (from + len != item->old || to + len != place)) {
			take_over(&b, from, to, len);
			len = 0;
		}
		if (!len) {
			from = item->old;
			to = place;
		}
		len += item->size;
	}
	take_over(&b, from, to, len);
	for (uint32_t i = 0; i < target->fill_count; i++)
		place_bytes(&b, target->fill_order[i], plan->place[target->fill_order[i]]);
	for (uint32_t i = 0; i < target->tail_count; i++)
		place_bytes(&b, target->tail[i], plan->place[target->tail[i]]);
	/* One pass over the new file, from its beginning to its end. */
	if (plan->count)
		qsort(plan->steps, plan->count, sizeof(*plan->steps), by_target);
	plan->before = plan->count;
	return b.steps.status;
}
