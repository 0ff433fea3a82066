/* SPDX-License-Identifier: MIT */
/* Carries out the steps of a plan, and knows which of them may be run again after a crash. */
#ifndef STFS_COMMIT_STEPS_H
#define STFS_COMMIT_STEPS_H

#include "commit/journal.h"

/* Copies `len` bytes of `from` to `to`, which may be one file if the ranges do not overlap. */
int stfs_copy_bytes(int from, uint64_t from_at, int to, uint64_t to_at, uint64_t len,
		    struct stfs_commit *progress);

/* Bytes [from, from + len) of `source` go to `to_at` of `to`. 0; -ENODATA when it has fewer; -errno. */
int stfs_copy_source(const struct stfs_source *source, uint64_t from, int to, uint64_t to_at,
		     uint64_t len, struct stfs_commit *progress);

/*
 * One step on `fd`. Bytes of new items come from `sources`; those of COPY and CLONE from `old`,
 * which is `fd` itself unless a file is rebuilt. 0 or -errno.
 */
int stfs_step_run(int fd, int old, const struct stfs_step *step, const struct stfs_source *sources,
		  struct stfs_commit *progress);

/*
 * Whether step number `next` destroys what one of steps[since .. next) reads, so that those could
 * not be run again (C4). A block shift always does.
 */
bool stfs_steps_need_mark(const struct stfs_step *steps, size_t since, size_t next);

/* Bytes for all marks that the steps of a file with so many extents may need. */
uint64_t stfs_steps_marks_len(const struct stfs_step *steps, size_t count, size_t extents);

/*
 * Runs the steps of journal file number `number` from its last mark on, on `fd`, with new marks
 * where they are needed and one at the end. After a crash, when `commit` is NULL, a shift that was
 * begun is finished first. Durable.
 */
int stfs_steps_run_marked(struct stfs_journal *journal, size_t number, int fd,
			  struct stfs_commit *commit);

#endif
