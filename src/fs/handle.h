/* SPDX-License-Identifier: MIT */
/* An open file: what is being read and written, and how it was read so far. */
#ifndef STFS_FS_HANDLE_H
#define STFS_FS_HANDLE_H

#include "fs/draft.h"
#include "fs/fs.h"

/* Made-up bytes, shared by all handles of one inode; never changed once a handle has them. */
struct stfs_text {
	unsigned users; /* guarded by fs->handles_lock */
	struct stfs_buf buf;
};

struct stfs_handle {
	struct stfs_handle *before, *after; /* in fs->handles; guarded by its lock */
	fuse_ino_t ino;
	enum stfs_form form;
	uint32_t node; /* whose bytes follow `made_up`; open; STFS_NO_NUMBER: none do */
	uint32_t name; /* of a .json or .npy */
	struct stfs_draft *draft;   /* then it is read and written, and nothing else here counts */
	struct stfs_text *text;     /* .npy header, sidecar, metadata or status: made at open; or NULL */
	struct stfs_str made_up;    /* those bytes */
	bool reads;                 /* and nothing else */
	_Atomic bool writing;       /* counted by stfs_tree_begin_writing(), until it is released */
	_Atomic bool flushed;       /* a descriptor was closed and nothing written since: counted as such */
	_Atomic uint64_t next;      /* where a sequential reader goes on */
	_Atomic unsigned small;     /* small reads in sequence */
};

static inline struct stfs_handle *stfs_handle_of(const struct fuse_file_info *fi)
{
	return (struct stfs_handle *)(uintptr_t)fi->fh;
}

/* Notes that the handle's file is being written, once. */
static inline void stfs_handle_writes(struct stfs_fs *fs, struct stfs_handle *handle)
{
	if (atomic_exchange(&handle->flushed, false)) {
		atomic_fetch_sub(&fs->flushed, 1);
		stfs_tree_resume_writing(fs->tree, handle->node);
	}
	if (!atomic_exchange(&handle->writing, true))
		stfs_tree_begin_writing(fs->tree, handle->node);
}

/*
 * attr.c: what stfs_fs_stat() has begun for an inode that nobody finds by name any more, for who has it open, and
 * for this once. 0 or -ESTALE. The same locks.
 */
int stfs_fs_stat_open(struct stfs_fs *fs, const struct stfs_handle *handle, struct stat *st, double *timeout);
/* write.c: a .npy over the tensor `node`, whose header (`head`) may only be written as it is. */
int stfs_fs_write_npy(struct stfs_fs *fs, uint32_t node, struct stfs_str head, const void *bytes, size_t len,
		      uint64_t offset);
/* write.c: tells the kernel that the bytes of a tensor changed through one of its forms. */
void stfs_fs_changed_raw(struct stfs_fs *fs, uint32_t node);
void stfs_fs_changed_npy(struct stfs_fs *fs, uint32_t node);

#endif
