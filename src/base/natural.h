/* SPDX-License-Identifier: MIT */
#ifndef STFS_BASE_NATURAL_H
#define STFS_BASE_NATURAL_H

#include "base/str.h"

/*
 * Natural order: runs of digits compare as numbers, so layers.2 comes before layers.10. A total
 * order: strings that differ only in leading zeros fall back to byte order. Result as strcmp().
 */
int stfs_natural_compare(struct stfs_str a, struct stfs_str b);

#endif
