/* SPDX-License-Identifier: MIT */
/*
 * A file that is made: it appears under its name complete and durable, or not at all.
 *
 * Until then it has no name (O_TMPFILE), so that whatever ends the program leaves nothing behind. Where
 * the file system has no such files it stands beside, as ".NAME.stfs-new" (commit/beside.h), and goes when the
 * struct is freed; one that a crash left there is removed by the next that is made.
 *
 *   N1  the name is never that of an unfinished file (mount/test_export.py: a kill, a full disk).
 *   N2  an existing file is replaced only if that was asked for, it is still the one that was looked at, and
 *       nobody has it locked.
 */
#ifndef STFS_OPS_NEWFILE_H
#define STFS_OPS_NEWFILE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct stfs_newfile {
	const char *path; /* borrowed: what to call it in messages */
	int folder_fd;    /* owned */
	char *name;       /* owned: in the folder */
	int old_fd;       /* owned: the file that it replaces, locked; -1: none */
	int fd;           /* owned: the new one; -1 before stfs_newfile_make() */
	char *temp;       /* owned: its name until then; NULL: it has none */
};

#define STFS_NEWFILE_INIT {.folder_fd = -1, .old_fd = -1, .fd = -1}

/*
 * Finds out whether a file may be made there; changes nothing. 0; -EEXIST when one is there and `overwrite`
 * is not set, or it is not a regular file; -EBUSY when it is locked; -EUCLEAN when the journal of an interrupted
 * commit stands beside; another -errno. `err` is filled.
 */
int stfs_newfile_look(struct stfs_newfile *file, const char *path, bool overwrite, struct stfs_err *err);

/* Bytes that can be allocated there, the ones of the file that is replaced not counted. 0 or -errno. */
int stfs_newfile_room(const struct stfs_newfile *file, uint64_t *room, struct stfs_err *err);

/* Makes file->fd, for reading and writing, with `len` bytes reserved. 0; -ENOSPC; another -errno. */
int stfs_newfile_make(struct stfs_newfile *file, uint64_t len, struct stfs_err *err);

/* Writes it to the disk and gives it its name. 0 or -errno, `err` filled. */
int stfs_newfile_place(struct stfs_newfile *file, struct stfs_err *err);

/* Removes what was not placed. */
void stfs_newfile_free(struct stfs_newfile *file);

#endif
