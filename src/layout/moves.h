/* SPDX-License-Identifier: MIT */
/*
 * Where the bytes of a file are while the steps of a plan run on it, for those who go on reading. Pure, as
 * the planner is.
 *
 * A byte is known by where it was when the steps behind the record began: one of the old file by its
 * place of old, one that a WRITE step put behind that file by the place that it has got there. A kept item
 * that was copied there is known by its place of old alone.
 *
 * Invariants, and their tests in unit/test_moves.c, on the simulated files of the planner's tests:
 *   W1  what the map says is so: the byte is there, or it is gone (what_the_map_says_is_so).
 *   W2  no byte of an item of the wanted model is gone; neither in the map for what the steps so far have
 *       left, nor in that map while the next step runs, unless it is a block shift
 *       (items_are_found_after_every_step, items_are_found_while_a_step_runs).
 *   W3  the pieces lie one behind the other from 0 to the end that the file had then, and neighbours that
 *       continue each other are one (the_map_covers_the_file).
 */
#ifndef STFS_LAYOUT_MOVES_H
#define STFS_LAYOUT_MOVES_H

#include "layout/layout.h"

#define STFS_MOVED_NOWHERE UINT64_MAX /* the bytes are gone */

/* Bytes [old, old + len) are at `now`, together. */
struct stfs_move {
	uint64_t old, len, now;
};

/* Zeros are a map too: every byte is where it was. */
struct stfs_moves {
	struct stfs_move *pieces; /* owned; by `old` */
	size_t count;
	bool lost;                /* a block shift stopped half-way: nobody knows */
	struct stfs_move *spare;  /* owned: room for the map behind the next step */
};

/*
 * The map for a file of `length` bytes, as the record of the plan finds it: steps[0 .. before) are done. It
 * has room for all that come then. 0 or -ENOMEM; what the map held is freed in any case.
 */
int stfs_moves_begin(struct stfs_moves *moves, const struct stfs_plan *plan, uint64_t length);
void stfs_moves_free(struct stfs_moves *moves);

/* The next step of the plan has been done. */
void stfs_moves_apply(struct stfs_moves *moves, const struct stfs_step *step);

/*
 * Where byte `old` is: *len bytes, at most `most`, lie there together. False when they are gone, or
 * nobody knows.
 */
bool stfs_moves_find(const struct stfs_moves *moves, uint64_t old, uint64_t most, uint64_t *now,
		     uint64_t *len);

#endif
