/* SPDX-License-Identifier: MIT */
/* Taking a mount down, and waiting until its daemon has finished. */
#ifndef STFS_OPS_UNMOUNT_H
#define STFS_OPS_UNMOUNT_H

#include <stdbool.h>

#include "base/err.h"

/*
 * Unmounts what is mounted at `dir`, if that is a mount of safetensorsfs or a FUSE mount whose
 * daemon is gone (then lazily where nothing else helps), and returns when the daemon has ended.
 * `lazy`: detach it now, whoever uses it, and do not wait; nothing is asked of the daemon, which
 * may be stopped. Progress is logged (base/log.h). Never runs umount(8), which may have run us. 0;
 * -EINVAL when it is no such mount; -EBUSY; -ETIMEDOUT when its daemon does not answer: it is still
 * mounted; -EPERM; -ENOENT when it takes fusermount3 and there is none; -errno, `err` beginning
 * with the path.
 */
int stfs_unmount(const char *dir, bool lazy, struct stfs_err *err);

#endif
