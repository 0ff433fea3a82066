/* SPDX-License-Identifier: MIT */
/*
 * A tree (store/tree.h), and beside it in plain memory what each of its files must hold, what type it has, what a
 * commit has to take and what the model on disk is then. Random operations change both; every difference
 * fails the test. It can also change the tree in the middle of a commit, between two of its calls, and have
 * calls fail (base/io.h).
 *
 * One oracle at a time, in a folder of its own.
 */
#ifndef STFS_TESTS_UNIT_TREE_ORACLE_H
#define STFS_TESTS_UNIT_TREE_ORACLE_H

#include "stfs_check.h"

#include <stdbool.h>

#include "store/tree_internal.h"

struct oracle_setup {
	enum stfs_tree_mode mode;
	bool staged, sharded;
	bool midway; /* commits are disturbed by other operations */
	uint64_t seed;
};

/* What was met, to see that it was enough. */
struct oracle_met {
	size_t commits, taken, blocked, left_out, midway, evacuated, inherited, failed, stuck, retried, resumed, recovered_old;
};
extern struct oracle_met oracle_met;

/* Makes the model (not in mode CREATE) and opens the tree. */
void oracle_begin(const struct oracle_setup *setup);
void oracle_end(void);
struct stfs_tree *oracle_tree(void);

/* One random operation that is no commit. */
void oracle_change(void);
void oracle_changes(size_t count);
/* A commit of a random kind, or the last one. It has to work unless a call was made to fail. 0 or -errno. */
int oracle_commit(bool end);
/* Closes every file, so that an explicit commit may take all. */
void oracle_close_files(void);
/* Closes the tree and opens it anew: what was pending is gone. */
void oracle_reopen(void);
/* Closes it when a commit got stuck, recovers the model, which must be old or new, and opens it anew. */
/* Goes on with the same tree after a commit that got stuck; false when it was not the commit. */
bool oracle_resume(void);
void oracle_recover(void);

/* Compares everything: the directory with its files and types, what is pending, T1, T2. */
void oracle_check(const char *when);
/* Compares the model on disk with what it has to be between commits. */
void oracle_check_disk(const char *when);

/* Calls that can fail during a commit. */
enum oracle_call {
	CALL_PREAD, CALL_PWRITE, CALL_COPY, CALL_FSYNC, CALL_FTRUNCATE, CALL_FALLOCATE, CALL_OPENAT, CALL_RENAMEAT2,
	CALL_UNLINKAT, CALL_MMAP, CALL_KINDS,
};
/* The `number`-th call of this kind of the next commit fails, with `for_ever` all after it as well. */
void oracle_arm(enum oracle_call kind, size_t number, int with_errno, bool for_ever);
/* Whether it did. */
bool oracle_disarm(void);

#endif
