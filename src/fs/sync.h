/* SPDX-License-Identifier: MIT */
/*
 * The thread that commits (docs/writing.md, "A commit"). Requests to sync are queued and answered when
 * it is done: those that come while a commit runs wait for the next one, together.
 */
#ifndef STFS_FS_SYNC_H
#define STFS_FS_SYNC_H

#include "fs/fs.h"

struct stfs_sync;

/* NULL with `err` for want of memory or threads. */
struct stfs_sync *stfs_sync_start(struct stfs_fs *fs, struct stfs_err *err);
/*
 * Ends the thread and commits for the last time; what cannot be committed goes to a rescue file. 0 when all
 * that was pending is in the model.
 */
int stfs_sync_finish(struct stfs_sync *sync);
void stfs_sync_free(struct stfs_sync *sync);

/*
 * Has the request answered with 0 or an error once everything is committed (`all`: fsync of the directory)
 * or, beside what can be committed, this node (STFS_NO_NUMBER: none).
 */
void stfs_sync_request(struct stfs_sync *sync, fuse_req_t req, bool all, uint32_t node);

/* Appends the fields of .stfs about the last commit to `out`. The tree is not held. */
void stfs_sync_status(struct stfs_sync *sync, struct stfs_buf *out);
/* Why the last attempt to commit failed, and when: false when it did not. */
bool stfs_sync_error(struct stfs_sync *sync, char *text, size_t size, time_t *when);

#endif
