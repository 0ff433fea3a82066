/* SPDX-License-Identifier: MIT */
/*
 * The explicit commit of a mount: fsync(2) of its directory, which lasts as long as the commit does.
 * A child process makes it (ops/ask.h), and what the daemon says of itself can be looked at meanwhile.
 */
#ifndef STFS_OPS_SYNC_H
#define STFS_OPS_SYNC_H

#include "ops/mounts.h"
#include "ops/said.h"

/* Who wants to know that a commit takes long. */
struct stfs_sync_watcher {
	/*
	 * Called when it has lasted for some seconds, and again and again: how many, and what the
	 * daemon says now (NULL: nothing). Returns whether it is to be called again. May be NULL.
	 */
	bool (*tell)(void *data, unsigned seconds, struct json_object *said);
	void (*end)(void *data); /* called once it is over; may be NULL */
	void *data;
};

/*
 * Commits all that is edited in a writable mount that answers, and waits for it: what fsync(2) says.
 * 0; -EINVAL when edits were left out because they fit no type, all others being committed; -ENOTCONN
 * when the daemon ended meanwhile; another -errno: nothing was committed.
 */
int stfs_sync_run(const struct stfs_mount *mount, const struct stfs_sync_watcher *watcher);

/* What a daemon that commits says of how far it has come: false when it does not. */
bool stfs_sync_progress(struct json_object *said, uint64_t *done, uint64_t *total);

/* What was committed between two looks at .stfs, either of which may be NULL. */
struct stfs_sync_result {
	uint64_t commits;           /* how many there were */
	struct json_object *commit; /* the last of them, borrowed from `after`; NULL without any */
};
struct stfs_sync_result stfs_sync_compare(struct json_object *before, struct json_object *after);

#endif
