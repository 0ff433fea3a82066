/* SPDX-License-Identifier: MIT */
#include "layout/moves.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"

/* No two bytes are at one place, so that each place at which a step cuts cuts one piece at most. */
#define CUTS 4

void stfs_moves_free(struct stfs_moves *moves)
{
	free(moves->pieces);
	free(moves->spare);
	*moves = (struct stfs_moves){0};
}

/* Where the byte that is at `now` is when the step is done. */
static uint64_t moved(const struct stfs_step *step, uint64_t now)
{
	uint64_t end = step->to + step->len;

	switch (step->kind) {
	case STFS_STEP_COPY:
		if (now >= step->from && now < step->from + step->len)
			return step->to + (now - step->from);
		return now >= step->to && now < end ? STFS_MOVED_NOWHERE : now;
	case STFS_STEP_COLLAPSE:
		if (now >= end)
			return now - step->len;
		return now >= step->to ? STFS_MOVED_NOWHERE : now;
	case STFS_STEP_INSERT: return now >= step->to ? now + step->len : now;
	case STFS_STEP_TRUNCATE: return now >= step->to ? STFS_MOVED_NOWHERE : now;
	case STFS_STEP_ERASE: return now >= step->to && now < end ? STFS_MOVED_NOWHERE : now;
	case STFS_STEP_WRITE: /* behind all that the map has by then */
	case STFS_STEP_CLONE: break;
	}
	return now;
}

/* How many of the `len` bytes that are at `now` go the same way. */
static uint64_t together(const struct stfs_step *step, uint64_t now, uint64_t len)
{
	const uint64_t cuts[CUTS] = {step->from, step->from + step->len, step->to, step->to + step->len};

	for (size_t i = 0; i < CUTS; i++)
		if (cuts[i] > now && cuts[i] - now < len)
			len = cuts[i] - now;
	return len;
}

static bool continues(const struct stfs_move *last, const struct stfs_move *next)
{
	if (last->now == STFS_MOVED_NOWHERE || next->now == STFS_MOVED_NOWHERE)
		return last->now == next->now;
	return last->now + last->len == next->now;
}

static size_t add(struct stfs_move *pieces, size_t count, struct stfs_move next)
{
	if (count && continues(&pieces[count - 1], &next)) {
		pieces[count - 1].len += next.len;
		return count;
	}
	pieces[count] = next;
	return count + 1;
}

void stfs_moves_apply(struct stfs_moves *moves, const struct stfs_step *step)
{
	struct stfs_move *fresh = moves->spare;
	size_t count = 0;

	for (size_t i = 0; i < moves->count; i++) {
		struct stfs_move rest = moves->pieces[i];

		while (rest.len) {
			struct stfs_move part = rest;

			if (part.now != STFS_MOVED_NOWHERE) {
				part.len = together(step, rest.now, rest.len);
				part.now = moved(step, rest.now);
				rest.now += part.len;
			}
			rest.old += part.len;
			rest.len -= part.len;
			count = add(fresh, count, part);
		}
	}
	assert(count <= moves->count + CUTS);
	moves->spare = moves->pieces;
	moves->pieces = fresh;
	moves->count = count;
}

int stfs_moves_begin(struct stfs_moves *moves, const struct stfs_plan *plan, uint64_t length)
{
	size_t room = 1 + CUTS * plan->count;

	stfs_moves_free(moves);
	moves->pieces = calloc(room, sizeof(*moves->pieces));
	moves->spare = calloc(room, sizeof(*moves->spare));
	if (!moves->pieces || !moves->spare) {
		stfs_moves_free(moves);
		return -ENOMEM;
	}
	for (size_t i = 0; i < plan->before; i++)
		length = stfs_max_u64(length, plan->steps[i].to + plan->steps[i].len);
	moves->pieces[0] = (struct stfs_move){0, length, 0};
	moves->count = 1;
	for (size_t i = 0; i < plan->before; i++)
		stfs_moves_apply(moves, &plan->steps[i]);
	return 0;
}

bool stfs_moves_find(const struct stfs_moves *moves, uint64_t old, uint64_t most, uint64_t *now,
		     uint64_t *len)
{
	size_t from = 0, to = moves->count, mid;
	const struct stfs_move *piece;

	*now = old;
	*len = most;
	if (moves->lost)
		return false;
	if (moves->count == 0)
		return true;
	while (to - from > 1) {
		mid = from + (to - from) / 2;
		if (moves->pieces[mid].old <= old)
			from = mid;
		else
			to = mid;
	}
	piece = &moves->pieces[from];
	if (piece->now == STFS_MOVED_NOWHERE || old - piece->old >= piece->len)
		return false;
	*now = piece->now + (old - piece->old);
	*len = stfs_min_u64(most, piece->len - (old - piece->old));
	return true;
}
