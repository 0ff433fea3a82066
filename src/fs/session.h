/* SPDX-License-Identifier: MIT */
#ifndef STFS_FS_SESSION_H
#define STFS_FS_SESSION_H

#include "fs/fs.h"

/* Mounts. 0, or -errno with `err`. */
int stfs_session_mount(struct stfs_fs *fs, struct fuse_session **session, struct stfs_err *err);

/*
 * Serves until the file system is unmounted or SIGTERM, SIGINT or SIGHUP comes; unmounts then.
 * 0, or -errno when the session broke.
 */
int stfs_session_serve(struct stfs_fs *fs, struct fuse_session *session);

#endif
