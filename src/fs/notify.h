/* SPDX-License-Identifier: MIT */
/*
 * Tells the kernel that pages which it keeps are old: those of x.npy when x was written, and the other way
 * round. One thread, which holds no lock: dropping pages waits for requests that other threads answer. Entries
 * are never dropped: that waits for the directory's lock, which the kernel holds while it waits for us, for
 * an fsync of the directory as long as a commit takes; and a daemon that is killed there hangs for ever.
 */
#ifndef STFS_FS_NOTIFY_H
#define STFS_FS_NOTIFY_H

#include "fs/fs.h"

struct stfs_notify;

/* NULL for want of memory or threads: then open mappings may show old bytes of the other form. */
struct stfs_notify *stfs_notify_start(struct fuse_session *session);
/*
 * Tells nothing any more, and lets go who waits for that. It may be in the kernel still, waiting for pages that a request
 * holds: whether it has come back within so many milliseconds. With NULL it has.
 */
bool stfs_notify_stop(struct stfs_notify *notify, unsigned most_ms);
/* Waits for the thread, before the session is destroyed. NULL does nothing. */
void stfs_notify_free(struct stfs_notify *notify);

/* From any thread; with NULL nothing. All pages of the inode, soon. */
void stfs_notify_pages(struct stfs_notify *notify, fuse_ino_t ino);
/* Its attributes, at once: touches no page and takes no lock that a request could hold. */
void stfs_notify_attributes(struct stfs_notify *notify, fuse_ino_t ino);
/* Waits until all is told that was to be told before. Not from a thread that answers requests. */
void stfs_notify_drain(struct stfs_notify *notify);

/* Whether any .npy was opened since the mount: before that nobody has pages of one. */
bool stfs_notify_knows_npy(struct stfs_notify *notify);
void stfs_notify_npy_opened(struct stfs_notify *notify);

#endif
