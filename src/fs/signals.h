/* SPDX-License-Identifier: MIT */
/*
 * HUP, INT and TERM end the session, but not at once. The notifier may be in the kernel, waiting for pages that requests
 * hold, and cannot be woken there, nor could the process then be killed; while libfuse's threads stop as soon as they are
 * told to, and drop what they have read. So the notifier is stopped first, while requests are still answered; before
 * that the kernel writes what programs have changed through mappings and not synced.
 */
#ifndef STFS_FS_SIGNALS_H
#define STFS_FS_SIGNALS_H

#include "fs/fs.h"

struct stfs_signals {
	struct stfs_fs *fs;             /* borrowed */
	struct fuse_session *session;   /* borrowed */
	pthread_t server, thread;
	_Atomic bool served;            /* the session has ended */
	bool running;
};

/*
 * By the thread that serves the session then, whose handlers of signals are set; fs->notify is there. Without memory or
 * threads for it, signals end the session at once.
 */
void stfs_signals_start(struct stfs_signals *signals, struct stfs_fs *fs, struct fuse_session *session);
/* When it is served. From then on signals do nothing. */
void stfs_signals_stop(struct stfs_signals *signals);

#endif
