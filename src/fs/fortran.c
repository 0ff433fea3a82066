/* SPDX-License-Identifier: MIT */
/*
 * Putting an array into C order by way of boxes: parts of a few MiB, an interval of each axis, which are read, turned
 * round in memory and written. A box lies in runs in either file: those that are read are at least RUN bytes where the
 * array allows it, and those that are written as long as the box has room for; mostly it is all in one piece there.
 */
#include "fs/fortran.h"

#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/cleanup.h"

#define BOX ((size_t)4 << 20)
/* An odd number of cache lines: elements that lie so far apart do not all fall into the same places of the cache. */
#define RUN 2112u

/* Axes of one element do not count, and every other doubles the number of elements, which 64 bits hold. */
#define AXES_MAX 64

struct axis {
	uint64_t len;
	uint64_t most;           /* elements of a box */
	uint64_t from, part;     /* those of this box */
	uint64_t read, written;  /* bytes from one element to the next */
};

struct turning {
	struct stfs_fs *fs;
	size_t item;
	unsigned rank;
	struct axis axes[AXES_MAX]; /* the first one moves fastest in what is read, the last one in what is written */
	uint32_t from, to;
	uint64_t skip;
	char *box, *turned; /* BOX bytes each */
};

static void find_axes(struct turning *t, const struct stfs_npy *npy)
{
	uint64_t stride = t->item;

	for (size_t i = 0; i < npy->shape.rank; i++) {
		if (npy->shape.dims[i] == 1)
			continue;
		t->axes[t->rank++] = (struct axis){.len = npy->shape.dims[i], .most = 1, .read = stride};
		stride *= npy->shape.dims[i];
	}
	stride = t->item;
	for (unsigned i = t->rank; i-- > 0; stride *= t->axes[i].len)
		t->axes[i].written = stride;
}

/* As many parts of an axis as with boxes of `most` elements, but all of the same size. */
static uint64_t evenly(uint64_t len, uint64_t most)
{
	uint64_t parts = (len + most - 1) / most;

	return (len + parts - 1) / parts;
}

static void choose_box(struct turning *t)
{
	uint64_t run = RUN / t->item, room = BOX / t->item, count = 1;
	struct axis *axis;

	for (unsigned i = 0; i < t->rank && count < run; i++) {
		axis = &t->axes[i];
		axis->most = stfs_min_u64(axis->len, (run + count - 1) / count);
		count *= axis->most;
	}
	for (unsigned i = t->rank; i-- > 0;) {
		axis = &t->axes[i];
		count /= axis->most;
		axis->most = stfs_max_u64(axis->most, evenly(axis->len, stfs_min_u64(axis->len, room / count)));
		count *= axis->most;
	}
}

static int read_run(struct turning *t, char *bytes, uint64_t len, uint64_t offset)
{
	ssize_t got;

	stfs_tree_hold(t->fs->tree);
	got = stfs_tree_pread(t->fs->tree, t->from, bytes, len, t->skip + offset);
	stfs_tree_release(t->fs->tree);
	return got < 0 ? (int)got : (uint64_t)got < len ? -EIO : 0;
}

/* The axis that is number `i` in the order of speed in what is read, or written. */
static struct axis *axis_of(struct turning *t, bool writing, unsigned i)
{
	return &t->axes[writing ? t->rank - 1 - i : i];
}

/* To the next run of a box: false behind the last one. */
static bool advance(struct turning *t, bool writing, unsigned first, uint64_t index[], uint64_t *offset)
{
	for (unsigned i = first; i < t->rank; i++) {
		const struct axis *axis = axis_of(t, writing, i);
		uint64_t stride = writing ? axis->written : axis->read;

		*offset += stride;
		if (++index[i] < axis->part)
			return true;
		*offset -= axis->part * stride;
		index[i] = 0;
	}
	return false;
}

/* Reads or writes a box, whose runs lie one behind the other in memory. */
static int move_box(struct turning *t, bool writing)
{
	uint64_t index[AXES_MAX] = {0}, run = t->item, offset = 0;
	char *at = writing ? t->turned : t->box;
	unsigned first = 0;
	bool whole = true;
	int r;

	for (; first < t->rank && whole; first++) {
		run *= axis_of(t, writing, first)->part;
		whole = axis_of(t, writing, first)->part == axis_of(t, writing, first)->len;
	}
	for (unsigned i = 0; i < t->rank; i++)
		offset += t->axes[i].from * (writing ? t->axes[i].written : t->axes[i].read);
	do {
		r = writing ? stfs_tree_write(t->fs->tree, t->to, at, run, offset) : read_run(t, at, run, offset);
		at += run;
	} while (r == 0 && advance(t, writing, first, index, &offset));
	return r;
}

static int turn_box(struct turning *t)
{
	uint64_t dims[AXES_MAX];
	struct stfs_shape shape = {.dims = dims, .rank = t->rank, .elements = 1};
	int r = move_box(t, false);

	for (unsigned i = 0; i < t->rank; i++)
		shape.elements *= dims[i] = t->axes[i].part;
	if (r < 0)
		return r;
	stfs_npy_to_c(&shape, t->item, t->box, 0, shape.elements, t->turned);
	return move_box(t, true);
}

/* All boxes, in the order in which they are written. */
static int turn(struct turning *t)
{
	unsigned i;
	int r;

	do {
		for (i = 0; i < t->rank; i++)
			t->axes[i].part = stfs_min_u64(t->axes[i].most, t->axes[i].len - t->axes[i].from);
		r = turn_box(t);
		for (i = t->rank; i > 0; i--) {
			t->axes[i - 1].from += t->axes[i - 1].part;
			if (t->axes[i - 1].from < t->axes[i - 1].len)
				break;
			t->axes[i - 1].from = 0;
		}
	} while (r == 0 && i > 0);
	return r;
}

int stfs_fortran_to_c(struct stfs_fs *fs, const struct stfs_npy *npy, uint32_t from, uint32_t *to, struct stfs_err *err)
{
	STFS_AUTO_FREE char *box = malloc(BOX), *turned = malloc(BOX);
	struct turning t = {.fs = fs, .item = stfs_dtype_info(npy->dtype)->bits / 8, .from = from, .skip = npy->header_len,
			    .box = box, .turned = turned};
	int r = box && turned ? stfs_tree_create_hidden(fs->tree, to) : -ENOMEM;

	if (r < 0)
		return r;
	if (npy->data_len) {
		t.to = *to;
		find_axes(&t, npy);
		choose_box(&t);
		r = turn(&t);
	}
	if (r == 0)
		return 0;
	stfs_tree_end_writing(fs->tree, *to);
	stfs_tree_closed(fs->tree, *to);
	return stfs_err_errno(err, r, "putting it into C order");
}
