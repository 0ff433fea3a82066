/* SPDX-License-Identifier: MIT */
/* The mounts of this system as /proc/self/mountinfo has them, and what their daemons say. */
#ifndef STFS_OPS_MOUNTS_H
#define STFS_OPS_MOUNTS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/err.h"

#define STFS_MOUNT_TYPE "fuse.safetensorsfs"

struct stfs_mount {
	char *device;  /* owned, as all below: "major:minor" */
	char *point;
	char *options; /* of the mount: "ro,nosuid,..." */
	char *type;
	char *source;
	uid_t user; /* who mounted it, for FUSE: (uid_t)-1 when the table does not say */
};

/* In the table's order: of two at one point the last is on top. */
struct stfs_mounts {
	struct stfs_mount *items; /* owned */
	size_t count;
};

/* 0 or -errno. `mounts` is to be freed in every case. */
int stfs_mounts_read(struct stfs_mounts *mounts);
void stfs_mounts_free(struct stfs_mounts *mounts);

/*
 * The topmost mount at `path`, NULL when nothing is mounted there. The table is looked at before
 * the path is: a mount that stands in it is found though its daemon does not answer. 0 or -errno,
 * -ETIMEDOUT when the path leads through a mount that does not answer.
 */
int stfs_mounts_find(const struct stfs_mounts *mounts, const char *path,
		     const struct stfs_mount **found);
/*
 * The same of a mount of ours, that must be there: 0; -EINVAL when nothing is mounted at `path`, or
 * something else; -errno; `err` beginning with the path.
 */
int stfs_mounts_find_ours(const struct stfs_mounts *mounts, const char *path,
			  const struct stfs_mount **found, struct stfs_err *err);
/* Says that what stands at `path` (NULL: nothing) is no mount of ours. -EINVAL. */
int stfs_mounts_refuse(const struct stfs_mount *mount, const char *path, struct stfs_err *err);
/* Whether the file system of `mount` is mounted anywhere: its number alone may be another's by now. */
bool stfs_mounts_have(const struct stfs_mounts *mounts, const struct stfs_mount *mount);

bool stfs_mount_is_ours(const struct stfs_mount *mount);
/* Of any program that serves FUSE. */
bool stfs_mount_is_fuse(const struct stfs_mount *mount);

/*
 * Whether the daemon of a FUSE mount answers: 0; -ENOTCONN when it is gone; -ETIMEDOUT when it says
 * nothing in STFS_ASK_PATIENCE_MS; -errno.
 */
int stfs_mount_ping(const struct stfs_mount *mount);

struct json_object;
/* One mount that stfs_mounts_ask() asks. */
struct stfs_mount_status {
	const struct stfs_mount *mount; /* borrowed */
	struct json_object *said; /* what the daemon says in MOUNT/.stfs: owned; NULL: nothing */
	/* 0, with an object in `said`; -ENOTCONN when it is dead, -EACCES when it belongs to
	 * somebody else, -ETIMEDOUT when it does not answer, -EBADMSG when it says no JSON object,
	 * -errno. */
	int result;
};

/* Asks all of them at a time, for STFS_ASK_PATIENCE_MS at most. 0 or -ENOMEM. */
int stfs_mounts_ask(struct stfs_mount_status *statuses, size_t count);
/*
 * Asks one. 0 with *said, to be put; else what went wrong, `result` as above, with `err` saying it and
 * what to do.
 */
int stfs_mount_ask(const struct stfs_mount *mount, struct json_object **said, struct stfs_err *err);

#endif
