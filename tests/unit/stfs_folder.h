/* SPDX-License-Identifier: MIT */
/* A folder for each test, below $TMPDIR. */
#ifndef STFS_TESTS_UNIT_STFS_FOLDER_H
#define STFS_TESTS_UNIT_STFS_FOLDER_H

#include "stfs_check.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/io.h"

static char root[4096];

/* A path in the folder; good until four more were asked for. */
static inline const char *at(const char *name)
{
	static char paths[4][sizeof(root) + 300];
	static unsigned next;
	char *path = paths[next++ % 4];

	snprintf(path, sizeof(paths[0]), "%s/%s", root, name);
	return path;
}

static inline void make_folder(const char *suite)
{
	const char *tmp = getenv("TMPDIR");

	snprintf(root, sizeof(root), "%s/stfs-%s-XXXXXX", tmp && *tmp ? tmp : "/tmp", suite);
	ck_assert_ptr_nonnull(mkdtemp(root));
}

static inline int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

/* With all that is in it. Calls are the system's again from here on. */
static inline void remove_folder(void)
{
	stfs_io = &stfs_io_system;
	nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

#endif
