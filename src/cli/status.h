/* SPDX-License-Identifier: MIT */
/* What `stfs status` knows of a mount, and how it tells a person. */
#ifndef STFS_CLI_STATUS_H
#define STFS_CLI_STATUS_H

#include "ops/mounts.h"
#include "ops/said.h"

struct stfs_view {
	const struct stfs_mount *mount; /* borrowed */
	struct json_object *status;     /* owned; NULL when the daemon did not say */
	/* "fresh", or what has become of a file of the model; "mounted" when that is not said;
	 * "dead", "of another user", "does not answer", "unknown". */
	const char *state;
};

/* The state for a person: where the files are well, that of the edits, unless there are none. */
const char *stfs_view_state(const struct stfs_view *view);
const char *stfs_view_model(const struct stfs_view *view);

/* Prints all that is known of one mount (status_one.c). */
void stfs_view_tell(const struct stfs_view *view);

#endif
