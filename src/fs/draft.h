/* SPDX-License-Identifier: MIT */
/*
 * What is being written and means nothing before it is complete: a .json, __metadata__.json, a .npy from
 * its beginning. A draft belongs to its inode, whoever has it open for writing, and shows itself there.
 *
 *   written --flush, fsync or rename--> taken over: the tensor has that type, or those bytes
 *                                \----> refused (EINVAL): still a draft, the tensor is as it was
 *   written --last close------> taken over, or dropped with a line in .stfs
 *   written --end of the mount-> taken over; an array that is none becomes a tensor of bytes where there is none of
 *                               that name; or dropped with a line in the log
 *
 * Who removes x.npy, or puts another in its place, ends the draft for the directory: those who have it open go on
 * with it, nothing of it is taken over, and what is written to that name from then on is another draft.
 *
 * An array may be as large as the disk: while one is written or taken over it is *busy*, and drafts_lock, which
 * every look at the directory takes, is not held. Then only who made it busy changes it, with the lock held; it is
 * looked at and read as it was.
 *
 * A text that was taken over is the tensor's own again until more is written. A .npy that was taken over is
 * the tensor from then on: what is still written goes there.
 */
#ifndef STFS_FS_DRAFT_H
#define STFS_FS_DRAFT_H

#include "fs/fs.h"

struct stfs_draft {
	struct stfs_draft *next;
	fuse_ino_t ino;
	enum stfs_form form; /* NPY; else SIDECAR, of the metadata too */
	uint32_t name;       /* STFS_NO_NUMBER: of the metadata */
	unsigned users;
	bool busy;           /* see above */
	bool changed;        /* since it was taken over */
	bool taken;          /* a .npy that is the tensor now */
	bool removed;        /* its name was: not in the list any more, and nothing is taken over */
	struct stfs_buf text;   /* but of a .npy */
	uint32_t node;          /* of a .npy: hidden, or when taken that of the tensor; open */
	struct stfs_buf header; /* of a .npy that is taken: what the file began with */
	struct timespec mtime;
};

/*
 * All but open and read with fs->drafts_lock held; none with the tree held, but for find and len. Those that say so
 * release the lock meanwhile: the draft must be one that the caller has open.
 */

/* The draft of an inode, or NULL. */
struct stfs_draft *stfs_draft_find(const struct stfs_fs *fs, fuse_ino_t ino);
/* The same, not busy: releases the lock while it waits for that. */
struct stfs_draft *stfs_draft_find_idle(struct stfs_fs *fs, fuse_ino_t ino);
/* Bytes of the file; with the tree held. */
uint64_t stfs_draft_len(struct stfs_fs *fs, const struct stfs_draft *draft);

/*
 * The draft that who opens `ino` with these flags (O_*) reads and writes, with one more user; NULL for a file that is
 * read and written as it is. One is made of what the file says now, with O_TRUNC empty. 0; -EACCES when nothing could
 * be taken over; -ESTALE, -ENOMEM, and as stfs_tree_resize(). Takes drafts_lock.
 */
int stfs_draft_open(struct stfs_fs *fs, fuse_ino_t ino, int flags, struct stfs_draft **draft);
/* The file has lost its name, and what was refused of it is no longer of interest. Whether there was a draft. */
bool stfs_draft_remove(struct stfs_fs *fs, fuse_ino_t ino);
/* A user less; the last one has it taken over or dropped. Releases the lock. */
void stfs_draft_close(struct stfs_fs *fs, struct stfs_draft *draft);

/* 0; -EFBIG, -EINVAL (another .npy header under a tensor that is there), and as stfs_tree_write(). Release the lock. */
int stfs_draft_write(struct stfs_fs *fs, struct stfs_draft *draft, const void *bytes, size_t len,
		     uint64_t offset);
int stfs_draft_resize(struct stfs_fs *fs, struct stfs_draft *draft, uint64_t len);
/* Bytes read, or -errno. Takes the lock. */
ssize_t stfs_draft_read(struct stfs_fs *fs, struct stfs_draft *draft, void *buffer, size_t len,
			uint64_t offset);

/* Takes it over, if it was changed. 0; -EINVAL when it does not parse, noted for .stfs; -errno. Releases the lock. */
int stfs_draft_take(struct stfs_fs *fs, struct stfs_draft *draft);

/* All of them, at the end of the mount, when nobody writes any more and before the last commit. Takes the lock. */
void stfs_draft_take_all(struct stfs_fs *fs);

/*
 * What was written elsewhere becomes that of a sidecar or of the metadata (`name` STFS_NO_NUMBER): as if it
 * had been written there. With drafts_lock held.
 */
int stfs_draft_take_text(struct stfs_fs *fs, uint32_t name, struct stfs_str text);
/*
 * Takes over a draft of a .npy, listed or not, whatever it holds. 0: draft->node is the tensor's, open but not being
 * written, and draft->header what x.npy begins with. Else it is as it was. Releases the lock.
 */
int stfs_draft_take_npy(struct stfs_fs *fs, struct stfs_draft *draft);

/* Notes for .stfs and the log what was refused. With drafts_lock held. */
void stfs_draft_refuse(struct stfs_fs *fs, uint32_t name, enum stfs_form form, const char *why);
/* What was refused of that file is no longer of interest: a better one has come, or it was removed. */
void stfs_draft_accept(struct stfs_fs *fs, uint32_t name, enum stfs_form form);

#endif
