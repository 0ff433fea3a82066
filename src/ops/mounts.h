/* SPDX-License-Identifier: MIT */
/* The mounts of this system as /proc/self/mountinfo has them, and what their daemons say. */
#ifndef STFS_OPS_MOUNTS_H
#define STFS_OPS_MOUNTS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

#define STFS_MOUNT_TYPE "fuse.safetensorsfs"

struct stfs_mount {
	char *device;  /* owned, as all below: "major:minor" */
	char *point;
	char *options; /* of the mount: "ro,nosuid,..." */
	char *type;
	char *source;
};

struct stfs_mounts {
	struct stfs_mount *items; /* owned; in the table's order: of two at one point the last is on top */
	size_t count;
};

/* 0 or -errno. `mounts` is to be freed in every case. */
int stfs_mounts_read(struct stfs_mounts *mounts);
void stfs_mounts_free(struct stfs_mounts *mounts);

/* The topmost mount at `point`, an absolute path without links; NULL when there is none. */
const struct stfs_mount *stfs_mounts_find(const struct stfs_mounts *mounts, const char *point);
bool stfs_mounts_has_device(const struct stfs_mounts *mounts, const char *device);

bool stfs_mount_is_ours(const struct stfs_mount *mount);
/* Whether its daemon is gone: every access gives ENOTCONN. */
bool stfs_mount_is_dead(const struct stfs_mount *mount);

/*
 * `path` as the mount table would write it, malloc'ed: absolute, links resolved. The last component
 * may be a dead mount. NULL with errno.
 */
char *stfs_mount_path(const char *path);

struct json_object;
/*
 * What the daemon says in MOUNT/.stfs, an object; the caller puts it back. 0; -ENOTCONN when it is
 * dead, -EACCES when it belongs to somebody else, -EBADMSG when it is no JSON object, -errno.
 */
int stfs_mount_status(const struct stfs_mount *mount, struct json_object **status);

#endif
