/* SPDX-License-Identifier: MIT */
#ifndef STFS_FS_EXPAND_H
#define STFS_FS_EXPAND_H

#include "base/err.h"

/*
 * A path that no shell has seen (fstab, -o): a leading ~ or ~USER becomes the home directory,
 * $NAME and ${NAME} the environment variable, \$ and \~ the plain character. Nothing else is
 * interpreted and nothing is run. 0 with a malloc'ed string in *out; -EINVAL for an unknown user
 * or variable, with `err`; -ENOMEM.
 */
int stfs_expand_path(const char *path, char **out, struct stfs_err *err);

#endif
