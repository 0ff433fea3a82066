/* SPDX-License-Identifier: MIT */
/* An open file: what is being read, and how it was read so far. */
#ifndef STFS_FS_HANDLE_H
#define STFS_FS_HANDLE_H

#include "fs/fs.h"

/* Made-up bytes, shared by all handles of one inode; never changed once a handle has them. */
struct stfs_text {
	unsigned users; /* guarded by fs->handles_lock */
	struct stfs_buf buf;
};

struct stfs_handle {
	struct stfs_handle *before, *after; /* in fs->handles; guarded by its lock */
	fuse_ino_t ino;
	uint32_t id; /* STFS_NO_TENSOR for metadata and status */
	struct stfs_tensor_ref ref; /* of a tensor's file */
	bool with_data;             /* the tensor's bytes follow `made_up` */
	struct stfs_text *text;     /* .npy header, sidecar or status: made at open; or NULL */
	struct stfs_str made_up;    /* those bytes, or the metadata's, which live as long as fs */
	_Atomic uint64_t next;      /* where a sequential reader goes on */
	_Atomic unsigned small;     /* small reads in sequence */
};

static inline struct stfs_handle *stfs_handle_of(const struct fuse_file_info *fi)
{
	return (struct stfs_handle *)(uintptr_t)fi->fh;
}

#endif
