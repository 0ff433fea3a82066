/* SPDX-License-Identifier: MIT */
/*
 * Notices that another program changed the model's files, and tells the kernel that the attributes
 * which it keeps for ever are no longer true. One thread, asleep until inotify or a request that noticed
 * (stfs_watch_poke) wakes it. Network file systems and stores through a mapping raise no events: so it
 * also looks by itself every STFS_WATCH_SECONDS. It holds no lock while it talks to the kernel.
 *
 * Only attributes are dropped, never pages: with a new mtime the kernel drops the pages itself, in the
 * reader's own time, where waiting for pages under read could meet a session that is ending.
 */
#ifndef STFS_FS_WATCH_H
#define STFS_FS_WATCH_H

#include "fs/fs.h"

#define STFS_WATCH_SECONDS 5

struct stfs_watch {
	struct stfs_fs *fs;           /* borrowed */
	struct fuse_session *session; /* borrowed */
	pthread_t thread;
	bool running;
	int inotify_fd, wake_fd; /* owned; inotify_fd is -1 where there is none */
	_Atomic bool stop;
	uint64_t told;           /* changes that the kernel has heard of */
};

/* Starts the thread. Without it the mount works and shows old times; the log then says so. */
void stfs_watch_start(struct stfs_watch *watch, struct stfs_fs *fs, struct fuse_session *session);
/* Ends it. To be called before the session is destroyed; does nothing when it is not running. */
void stfs_watch_stop(struct stfs_watch *watch);

/* Wakes the thread of this mount, if there is one. Any thread. */
void stfs_watch_poke(struct stfs_fs *fs);

#endif
