/* SPDX-License-Identifier: MIT */
/*
 * A pickle followed by the lengths of its opcodes alone, for a scanner: where codec/pickle.h stops because
 * nothing plain could come of an opcode, CPython may go on, and run what stands behind it. There is no stack here, so
 * of STACK_GLOBAL the names are known only when nothing but memo opcodes stands between them and it, which is what
 * picklers write.
 *
 * What is followed need not be a pickle at all. So a global counts only when its names could be names of Python,
 * and when it is called or its pickle ends; one of unknown names when both are so: random bytes and text that begin like
 * a pickle give none.
 */
#ifndef STFS_CODEC_TRACE_H
#define STFS_CODEC_TRACE_H

#include "codec/window.h"

/* Longer names are no names of Python modules. */
#define STFS_TRACE_NAME_MAX 255

struct stfs_trace_global {
	uint64_t at; /* byte of its opcode */
	/* Both empty: a number of copyreg's registry, or names that only running it would tell. */
	char module[STFS_TRACE_NAME_MAX + 1], name[STFS_TRACE_NAME_MAX + 1];
};

struct stfs_trace {
	struct stfs_window *window;
	uint64_t at;    /* where to begin; where it ended */
	unsigned count; /* of pickles, one behind the other, that are followed */
	/*
	 * How a frame is taken whose end an argument crosses. CPython reads on when it unpickles from memory; from a
	 * file it passes over the rest of the frame, and takes the argument from behind it.
	 */
	bool drops;
	bool trusted;  /* it is a pickle: globals of unknown names count even without a PROTO */
	uint64_t most; /* work: some 4 for an opcode, and the bytes read */
	/* Called for each global that counts; below 0 it ends the trace, which returns the same. */
	int (*found)(void *data, const struct stfs_trace_global *global);
	void *data;
	/* ---- Answers ---- */
	bool crossed; /* with `drops` the other way there would be other opcodes */
	bool tired;   /* it ended because of `most` */
	bool ran;     /* some global counted */
	uint64_t work;
};

/* 0 however the pickle ends; what `found` returned; -ENOMEM; -errno of reading. */
int stfs_trace_run(struct stfs_trace *trace);

#endif
