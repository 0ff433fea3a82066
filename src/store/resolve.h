/* SPDX-License-Identifier: MIT */
/*
 * What a path given by a user means: a .safetensors file, a PyTorch checkpoint, the index of a sharded
 * model, or a folder that holds one of them (a model folder, a snapshot of the hub's cache).
 */
#ifndef STFS_STORE_RESOLVE_H
#define STFS_STORE_RESOLVE_H

#include <stdbool.h>
#include <sys/stat.h>

#include "base/err.h"

struct stfs_resolved {
	int folder_fd;  /* owned: the folder in which `name` and shards are opened */
	char *name;     /* owned: the file or index in that folder */
	char *path;     /* owned: what to call the model in messages */
	bool is_index;
};

/*
 * Resolves `path`. Links are followed for the path itself; `name` stays what it is called there,
 * so that shards are looked for beside the link and not beside its target. 0; -ENOENT and the
 * like; -EINVAL when a folder holds no model or several, with a list in `err`.
 */
int stfs_resolve(const char *path, struct stfs_resolved *resolved, struct stfs_err *err);
void stfs_resolved_free(struct stfs_resolved *resolved);

/*
 * Takes apart a path whose last component need not exist: *folder_fd (O_PATH) and *name, empty behind a
 * trailing slash, are the caller's. 0, or -errno with `err` (may be NULL) filled and neither of them.
 */
int stfs_resolve_place(const char *path, int *folder_fd, char **name, struct stfs_err *err);

/* How a file of a model is opened; beside the flags of stfs_model_open() (store/model.h). */
enum {
	/* For reading and writing, and no link. */
	STFS_OPEN_WRITE = 1 << 8,
	/* Locked as long as the descriptor lives: exclusively with STFS_OPEN_WRITE, else shared. Only
	 * our own programs look at these locks (flock(2)). */
	STFS_OPEN_LOCK = 1 << 9,
};

/*
 * Opens a regular file of the folder, for reading and with links followed unless `flags` say else.
 * 0 with *fd (the caller's) and *st set; -EBUSY when it is locked by another; -EISDIR; -EINVAL with
 * *irregular set for a pipe, socket or device, at which it does not hang; another -errno. When
 * another program holds a write lease on the file, waits until that program has given it up or the
 * kernel has taken it (/proc/sys/fs/lease-break-time, 45 s).
 */
int stfs_resolve_open(int folder_fd, const char *name, unsigned flags, int *fd, struct stat *st,
		      bool *irregular);

#endif
