/* SPDX-License-Identifier: MIT */
/* Taking a mount down, and waiting until its daemon has finished. */
#ifndef STFS_OPS_UNMOUNT_H
#define STFS_OPS_UNMOUNT_H

#include "ops/sync.h"

struct stfs_unmounting {
	bool lazy; /* detach it now, whoever uses it: nothing is asked of it, nor waited for */
	struct stfs_sync_watcher watcher; /* of the commit before */
};

/*
 * Unmounts what is mounted at `dir`, if that is a mount of safetensorsfs or a FUSE mount whose
 * daemon is gone (then lazily where nothing else helps), and returns when the daemon has ended. What
 * was edited is committed before; edits that fit no type go in as bytes when the daemon ends, and are
 * named in the log (base/log.h), as progress is. Never runs umount(8), which may have run us.
 *
 * 0; -EUCLEAN when it is unmounted, but edits are left in a rescue file, or the last commit was
 * interrupted. Else it is still mounted: -EINVAL when it is no such mount; -EBUSY; -ETIMEDOUT when
 * its daemon does not answer; -EPERM; -ENOENT when it takes fusermount3 and there is none; another
 * -errno, of the commit too. `err` begins with the path.
 */
int stfs_unmount(const char *dir, const struct stfs_unmounting *how, struct stfs_err *err);

#endif
