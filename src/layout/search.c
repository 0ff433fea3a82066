/* SPDX-License-Identifier: MIT */
/* Which choices are looked at: runs by their ends, windows that bring fillers, a tidier tail. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "layout/internal.h"

/* Choices of the run's beginning beyond the first: few holes stand at the very front. */
#define FIRST_CHOICES 12
/* Windows of odd items that are tried as a source of fillers. */
#define WINDOWS_MOST 32
#define WINDOWS_SAME 3
#define WINDOW_SLOTS 65536
/* An edit may spend this share of itself on leaving the small odd items last. */
#define TIDY_SHARE 32
/* No more choices once so much work is done: about half a second. */
#define WORK_MOST 150000000

struct search {
	const struct stfs_layout_view *view;
	struct stfs_target best; /* none while best.run is NULL */
	uint64_t limit, rewrite; /* what a better one must stay below, and every one (L5) */
	uint64_t work;
};

/* Looks at one choice and keeps the better target: 0, or -ENOMEM. */
static int try_choice(struct search *s, struct stfs_choice choice, uint64_t limit)
{
	struct stfs_target t;
	int r;

	if (s->work > WORK_MOST)
		return 0;
	r = stfs_choose(s->view, choice, limit, &s->work, &t);
	if (r == -ENOMEM)
		return r;
	if (r == 0) {
		stfs_target_close(&s->best);
		s->best = t;
		s->limit = t.cost.total;
	}
	return 0;
}

/*
 * Runs that begin at `first`: the whole rest, then ever shorter ones, as long as moving what is cut
 * off can still be cheaper than the best so far. Far from the end the steps grow, so that a model of
 * 100,000 tensors takes some hundred choices.
 */
static int search_from(struct search *s, uint32_t first)
{
	const struct stfs_layout_view *view = s->view;
	uint64_t prefix = view->bytes_before[first], suffix, next = 0;
	int r = 0;

	for (uint32_t last = view->kept_count; r == 0 && last > first; last--) {
		suffix = view->bytes_before[view->kept_count] - view->bytes_before[last];
		if (prefix + suffix + view->added_bytes >= s->limit)
			return 0;
		if (view->kept_count - last > 32 && suffix < next)
			continue;
		next = suffix + suffix / 16;
		r = try_choice(s, (struct stfs_choice){.first = first, .last = last}, s->limit);
	}
	return r;
}

/* All runs without windows. */
static int search_ends(struct search *s)
{
	const struct stfs_layout_view *view = s->view;
	uint32_t tried = 0;
	/* before: the item before could have been the first as well; stayed: and without a shift */
	bool before = false, stayed = false, stays, hole;
	int r = 0;

	for (uint32_t first = 0; r == 0 && first < view->kept_count; first++) {
		hole = first == 0 ||
		       stfs_kept(view, first)->old != stfs_item_end(stfs_kept(view, first - 1));
		if (view->bytes_before[first] >= s->limit || tried == FIRST_CHOICES)
			break;
		if (!stfs_item_can_stay(view, stfs_kept(view, first)) ||
		    stfs_place_of_first(view, first) == UINT64_MAX) {
			before = stayed = false;
			continue;
		}
		/*
		 * The run may begin at the front, behind a hole, or where the header first fits: by a shift
		 * of the whole file, or, when data is written anyway, by moving small items out of its way.
		 */
		stays = view->added_count && stfs_place_of_first(view, first) == stfs_kept(view, first)->old;
		if (hole || !before || (stays && !stayed)) {
			r = search_from(s, first);
			tried++;
		}
		before = true;
		stayed = stays;
	}
	return r;
}

/* ---- Windows ---- */

struct window {
	uint64_t bytes, residue; /* residue: what its first item can fill */
	uint32_t from, to;
};

/* Keeps the cheapest windows, by bytes; few for one residue, so that the rare ones are tried, too. */
static void keep_window(struct window *windows, uint32_t *count, struct window w)
{
	uint32_t at = 0, same = 0, drop = *count < WINDOWS_MOST ? *count : WINDOWS_MOST - 1;

	for (; at < *count && windows[at].bytes <= w.bytes; at++)
		same += windows[at].residue == w.residue;
	if (at == WINDOWS_MOST || same >= WINDOWS_SAME)
		return;
	for (uint32_t i = at; i < *count; i++) {
		same += windows[i].residue == w.residue;
		if (same == WINDOWS_SAME && windows[i].residue == w.residue)
			drop = i;
	}
	if (drop == *count)
		++*count;
	memmove(windows + at + 1, windows + at, (drop - at) * sizeof(*windows));
	windows[at] = w;
}

/*
 * Pieces of the file that begin and end at the same place modulo the block, and that hold odd items:
 * they can be taken out for their bytes, and then fill gaps elsewhere. Each odd item begins one; of
 * two with the same sizes inside, the later is enough. Their number.
 */
static uint32_t find_windows(const struct stfs_layout_view *view, uint32_t *slots,
			     struct window *windows)
{
	uint32_t count = 0, end = view->kept_count;

	for (uint32_t i = 0; i < WINDOW_SLOTS; i++)
		slots[i] = UINT32_MAX;
	for (uint32_t k = end; k-- > 0;) {
		const struct stfs_layout_item *item = stfs_kept(view, k);
		uint32_t *slot = &slots[item->old % view->block % WINDOW_SLOTS], to = *slot;

		if (item->size % view->block && to != UINT32_MAX &&
		    (stfs_kept(view, to)->old - item->old) % view->block == 0)
			keep_window(windows, &count,
				    (struct window){view->bytes_before[to] - view->bytes_before[k],
						    item->size % view->block, k, to});
		*slot = k;
	}
	return count;
}

/* The best choice so far, and the whole file, with each of the cheapest windows taken out. */
static int search_windows(struct search *s)
{
	const struct stfs_layout_view *view = s->view;
	struct window windows[WINDOWS_MOST];
	uint32_t *slots, count, lasts[2];
	struct stfs_choice choice;
	int r = 0;

	if (!view->block)
		return 0;
	slots = malloc(WINDOW_SLOTS * sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	count = find_windows(view, slots, windows);
	free(slots);
	lasts[0] = view->kept_count;
	lasts[1] = s->best.run ? s->best.choice.last : lasts[0];
	for (uint32_t i = 0; r == 0 && i < count; i++) {
		for (unsigned l = 0; r == 0 && l < 2; l++) {
			choice = (struct stfs_choice){0, lasts[l], windows[i].from, windows[i].to};
			if (l && lasts[1] == lasts[0])
				break;
			if (windows[i].bytes + view->added_bytes < s->limit)
				r = try_choice(s, choice, s->limit);
		}
	}
	return r;
}

/* ---- The tail ---- */

/*
 * Small odd items at the end of the run go to the tail with the new ones, which puts them last again,
 * when that costs next to nothing: the end of the file is where later edits find their fillers.
 */
static int tidy_tail(struct search *s)
{
	const struct stfs_layout_view *view = s->view;
	uint64_t block = view->problem->file.block, edited, allowed, bytes = 0;
	struct stfs_choice choice = s->best.choice;

	if (!s->best.run || !view->block)
		return 0;
	edited = view->added_bytes + view->problem->file.length - view->problem->file.data_start -
		 view->bytes_before[view->kept_count];
	allowed = edited / TIDY_SHARE;
	for (uint32_t last = choice.last; last > choice.first; last--) {
		const struct stfs_layout_item *item = stfs_kept(view, last - 1);

		bytes += item->size;
		if (bytes > allowed)
			break;
		if (item->size % block)
			choice.last = last - 1;
	}
	if (choice.last == s->best.choice.last || choice.last == choice.first)
		return 0;
	allowed += 2 * STFS_SHIFT_CALL_COST;
	return try_choice(s, choice, stfs_min_u64(s->limit + allowed, s->rewrite));
}

int stfs_search(const struct stfs_layout_view *view, uint64_t limit, struct stfs_target *best)
{
	struct search s = {.view = view, .limit = limit, .rewrite = limit};
	int r = search_ends(&s);

	if (r == 0)
		r = search_windows(&s);
	if (r == 0)
		r = tidy_tail(&s);
	if (r == 0)
		*best = s.best;
	else
		stfs_target_close(&s.best);
	return r;
}
