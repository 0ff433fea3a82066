/* SPDX-License-Identifier: MIT */
/*
 * Where the tensors of a changed model shall lie, and the steps that bring them there. Pure: numbers
 * in, numbers out; the executor (src/commit) does what the plan says.
 *
 * The idea. Between commits the tensors lie one behind the other from the end of the header to the end
 * of the file, without holes. An edit leaves holes (what was deleted), needs room at the front (a
 * longer header) and adds bytes. Moving a tensor costs its bytes; but where the file system can
 * remove or insert whole blocks in the middle of a file (or share blocks with a copy), a tensor moves
 * for nothing as long as its place modulo the block size stays the same. So the planner looks for a
 * run of kept tensors that stay `fixed` but for such shifts, and moves the others to the tail:
 *
 *     | header | fixed ... hole ... fixed ... hole ... fixed | tail: moved and new tensors |
 *
 *   - a hole whose length is not a multiple of the block gets small moved tensors as fillers until
 *     the rest of it is; that rest is removed by a block shift; where none fit, some of the fixed
 *     tensors move as well (docs/layout.md);
 *   - the gap before the first fixed tensor is the header's: spaces fill it, so any length will do;
 *   - the tail is written behind the end of the file first, where nothing live can be hurt, and falls
 *     into its place when the dead bytes before it are removed.
 *
 * Which tensors are fixed is a choice, and each choice has a cost; a plan that writes the whole model
 * anew beside the old one is always there to compare with, so that no plan costs more than that.
 * Where neither fits, tensors slide to their places through the little room there is.
 *
 * Invariants of every plan, and their tests in unit/test_layout.c, on a simulated file:
 *   L1  after all steps the items lie in some order from data_start to the new end, contiguously, each
 *       with its bytes (items_lie_one_behind_the_other, every_item_has_its_bytes).
 *   L2  a step before the record only writes at or behind the old end of the file
 *       (nothing_old_is_touched_before_the_record); every WRITE is before it, unless the plan
 *       is a REBUILD, whose steps go through the new file once (new_bytes_come_before_the_record).
 *   L3  no step overwrites bytes that a later step reads, or that an item still needs; every COPY has
 *       a source and a destination that do not overlap, so that it may be done again
 *       (copies_may_be_done_again).
 *   L4  an item that was aligned to its element size is aligned afterwards, and a new one is, and
 *       every one when `compact` or `aligned` is set (alignments_are_kept, compact_aligns_all_and_keeps_no_reserve).
 *   L5  the cost is at most that of the rewrite, if that fits into the room
 *       (no_plan_costs_more_than_a_rewrite, room_is_never_exceeded).
 *   L6  data_start is a multiple of 8 if the old one was, or if anything before the data moved
 *       (data_begins_at_a_multiple_of_eight).
 */
#ifndef STFS_LAYOUT_LAYOUT_H
#define STFS_LAYOUT_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STFS_LAYOUT_NEW UINT64_MAX

/* A tensor of the wanted model. */
struct stfs_layout_item {
	uint64_t old;       /* byte of the old file at which it lies, or STFS_LAYOUT_NEW */
	uint64_t size;      /* bytes */
	uint32_t alignment; /* of its elements: 1, 2, 4 or 8 */
};

/* The file and what can be done with it. */
struct stfs_layout_file {
	uint64_t length;     /* bytes of the old file */
	uint64_t data_start; /* 8 + header length of the old file */
	uint64_t block;      /* block size of shifts and clones; a power of two, at least 8; else 0 */
	bool can_shift;      /* COLLAPSE_RANGE and INSERT_RANGE */
	bool can_clone;      /* FICLONE and FICLONERANGE into a file beside it */
	bool replace_only;   /* somebody reads the file: leave its inode alone if live bytes move */
	uint64_t room;       /* bytes that can be allocated, behind it or beside it */
	uint64_t cached;     /* bytes of it in memory, which a shift drops; at most `length` */
	uint64_t overwriting; /* bytes that may have to be allocated when live ones are overwritten */
};

struct stfs_layout_problem {
	struct stfs_layout_file file;
	const struct stfs_layout_item *items;
	size_t count;
	/* Header text for these items wherever they lie: every offset with as many digits as the
	 * largest can have. */
	uint64_t header_need;
	/* Header text when every item stays where it is; UINT64_MAX when that is not possible. */
	uint64_t header_same;
	/* Every item shall be aligned, not only those that were, and the header keeps no reserve: less
	 * than a block of it (block 0: a page) where data stays, none where all is written anew. */
	bool compact;
	/* Every item shall be aligned; the header keeps its reserve. */
	bool aligned;
};

enum stfs_step_kind {
	STFS_STEP_WRITE,    /* bytes [from, from + len) of new item `item` go to `to` */
	STFS_STEP_COPY,     /* file bytes [from, from + len) go to `to`; the ranges do not overlap */
	STFS_STEP_CLONE,    /* rebuild: blocks [from, ...) of the old file are shared at `to` */
	STFS_STEP_COLLAPSE, /* [to, to + len) is removed, what is behind moves down */
	STFS_STEP_INSERT,   /* len bytes are inserted at `to`, what is behind moves up */
	STFS_STEP_TRUNCATE, /* the file ends at `to` */
	STFS_STEP_ERASE,    /* [to, to + len) becomes zeros; of no plan, the commit's own (commit.h) */
};

struct stfs_step {
	enum stfs_step_kind kind;
	uint32_t item; /* of WRITE and COPY of an item; UINT32_MAX for other bytes */
	uint64_t from, to, len;
};

/* A block shift: what is behind it moves, by extents alone. */
static inline bool stfs_step_is_shift(const struct stfs_step *step)
{
	return step->kind == STFS_STEP_COLLAPSE || step->kind == STFS_STEP_INSERT;
}

/* How many of the steps are block shifts. */
size_t stfs_steps_shifts(const struct stfs_step *steps, size_t count);

enum stfs_plan_kind {
	STFS_PLAN_HEADER,   /* only the header changes, within its place */
	STFS_PLAN_IN_PLACE, /* steps on the file itself */
	STFS_PLAN_CLONE,    /* the same steps on a clone, which then replaces the file */
	STFS_PLAN_REBUILD,  /* a new file is put together from pieces, which then replaces the file */
};

struct stfs_plan_cost {
	uint64_t written; /* bytes of new items, as often as they are written */
	uint64_t moved;   /* bytes of kept items that are copied, edges of shifts among them */
	uint64_t shifted; /* bytes behind block shifts, and shared ones: only their extents change */
	uint64_t space;   /* bytes that must be allocated for a while */
	uint64_t unsure;  /* of these, what overwriting may need, and cannot be reserved */
	uint64_t total;   /* what plans are compared by */
};

struct stfs_plan {
	enum stfs_plan_kind kind;
	uint64_t data_start;
	uint64_t text_len; /* of the new header: data_start - 8 */
	uint64_t length;   /* of the new file */
	uint64_t *place;   /* owned: byte of the new file at which each item lies */
	struct stfs_step *steps; /* owned; in the order in which they are done */
	size_t count;
	size_t before; /* steps[0 .. before) are done before the journal's record */
	struct stfs_plan_cost cost;
};

/*
 * Whether a plan on the file itself changes bytes that somebody who has the old model open may be reading:
 * by steps behind the record, or by a header that grows over where tensors lay.
 */
static inline bool stfs_plan_hurts_readers(const struct stfs_plan *plan, const struct stfs_layout_file *file)
{
	return plan->before < plan->count || plan->data_start > file->data_start;
}

/*
 * The cheapest plan. 0 with *plan filled (free it with stfs_plan_free); -EINVAL when items overlap or
 * lie outside of the file; -ENOSPC when no plan fits into file.room (plan->cost.space then says what
 * the smallest needs); -ENOMEM.
 */
int stfs_layout_plan(const struct stfs_layout_problem *problem, struct stfs_plan *plan);
void stfs_plan_free(struct stfs_plan *plan);

#endif
