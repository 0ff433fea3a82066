/* SPDX-License-Identifier: MIT */
/*
 * Completes the INIT handshake. libfuse 3.14 to 3.16 do not know the second word of flags and never
 * send some of the first (facts: fuse-io), so the session's own reads and writes pass through
 * here: the kernel's offer is noted, and in the one reply to INIT what we want of it is added. On a
 * libfuse that sends these flags itself, adding them again changes nothing.
 */
#ifndef STFS_FS_INIT_REPLY_H
#define STFS_FS_INIT_REPLY_H

#include "fs/fs.h"

/* Routes the session's I/O through here; call after fuse_session_mount(). 0 or -errno. */
int stfs_init_reply_attach(struct fuse_session *session);

/* What was agreed upon, into fs->direct_io_mmap and fs->parallel_dirops. */
void stfs_init_reply_bind(struct stfs_fs *fs);

/*
 * What libfuse reads requests with; here for the tests. The end of the mount is ENODEV and nothing else: a thread that
 * has just taken a request when the mount goes gets ECONNABORTED (Linux, fs/fuse/dev.c, fuse_dev_do_read()).
 */
ssize_t stfs_init_reply_read(int fd, void *buffer, size_t len, void *userdata);

/*
 * The pure part, for the tests: adds the flags that we want and the kernel offers to a reply.
 * `offered` and `offered2` are the flag words of the request, `reply` the struct fuse_init_out of
 * `len` bytes. Returns false, and changes nothing, when the reply has no room for flags2.
 */
bool stfs_init_reply_complete(uint32_t offered, uint32_t offered2, void *reply, size_t len);

#endif
