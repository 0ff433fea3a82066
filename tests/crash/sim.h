/* SPDX-License-Identifier: MIT */
/*
 * A disk that can be cut off at any call. The calls of base/io.h work on real files in a folder, but for
 * block shifts, clones and maps of extents, which are done here, so that every template of the planner can
 * be tried on any file system. Every call that changes something is recorded with its data; from the
 * record the folder is made again as it may be after a crash before any of them:
 *
 *   SIM_STOPPED  the program died: all calls before have happened
 *   SIM_CUT      the power went: of what was not yet fsynced any part may be missing, writes torn
 *
 * and, where the call is a block shift, with any number of its extents moved.
 */
#ifndef STFS_TESTS_CRASH_SIM_H
#define STFS_TESTS_CRASH_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SIM_BLOCK 4096

enum sim_policy { SIM_STOPPED, SIM_CUT };

struct sim_abilities {
	bool shift, clone;
	uint64_t room; /* bytes that a plan may allocate; 0: as many as there are */
};

/* Begins: the folder's files as they are now are what a crash finds. Nothing is recorded yet. */
void sim_begin(const char *folder, struct sim_abilities abilities, uint64_t seed);
void sim_end(void);

/* From here on calls are recorded: forgets those before. */
void sim_record(void);
/* How many calls were recorded since. */
size_t sim_calls(void);
/* A line that names call number `call`. */
const char *sim_name(size_t call);
/* Extents that a crash in the middle of this call can have moved: 0 when it is no shift. */
size_t sim_parts(size_t call);

/*
 * Makes the folder what it may be after a crash before call number `call` (sim_calls(): after the last).
 * `part` is 0, or the number of extents that the call, a shift, had moved, less one.
 */
void sim_crash(size_t call, enum sim_policy policy, size_t part);

/* Calls `hook` when a file's length word has been poisoned, once; NULL: no more. */
void sim_on_poison(void (*hook)(void));

/* Of the calls recorded: inserts, and those of them at byte 0. */
void sim_count_inserts(size_t *all, size_t *at_0);

/* The record as it is now, put aside and taken back, so that a crash during recovery can be tried. */
struct sim_saved;
struct sim_saved *sim_save(void);
/* Records on behind the first `count` calls of those put aside: what they had not synced may still be lost. */
void sim_record_on(const struct sim_saved *saved, size_t count);
void sim_restore(struct sim_saved *saved);

#endif
