/* SPDX-License-Identifier: MIT */
/* The one place that chooses libfuse's API version: 3.12 brought the loop configuration, 3.13 our own I/O. */
#ifndef STFS_FS_FUSE_H
#define STFS_FS_FUSE_H

#define FUSE_USE_VERSION 312
#include <fuse_lowlevel.h>

#endif
