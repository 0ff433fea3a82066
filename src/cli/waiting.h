/* SPDX-License-Identifier: MIT */
/* A line on the terminal while a mount commits, when that takes longer than some seconds. */
#ifndef STFS_CLI_WAITING_H
#define STFS_CLI_WAITING_H

#include "ops/sync.h"

struct stfs_waiting {
	const char *point; /* borrowed: of the mount */
	bool says_once;    /* where there is no terminal, a message says that it takes long */
	bool shown;
};

/* Who watches the commit of a mount: nobody, where nobody would see it. `waiting` lives as long. */
struct stfs_sync_watcher stfs_waiting_watcher(struct stfs_waiting *waiting);

#endif
