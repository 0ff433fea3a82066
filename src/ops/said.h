/* SPDX-License-Identifier: MIT */
/*
 * What the daemon of a mount says of itself in .stfs (docs/writing.md). It may be of another version,
 * or somebody else's: nothing needs to be there, and nothing needs to be of the right kind.
 */
#ifndef STFS_OPS_SAID_H
#define STFS_OPS_SAID_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/str.h"

/* A member of this type, borrowed; NULL when there is none, or `said` itself is NULL. */
struct json_object *stfs_said_member(struct json_object *said, const char *key, enum json_type type);
/* A string, up to its first NUL, borrowed; or NULL. */
const char *stfs_said_text(struct json_object *said, const char *key);
/* The whole string; ptr is NULL when there is none. */
struct stfs_str stfs_said_name(struct json_object *said, const char *key);
/* A number that is not negative; else 0. */
uint64_t stfs_said_number(struct json_object *said, const char *key);
/* The length of an array that may be NULL. */
size_t stfs_said_count(struct json_object *array);

/* Whether edits of this mount go into its model: "mode" is "rw" or "create". */
bool stfs_said_is_writable(struct json_object *said);
/* Whether it takes edits that stay its own: "mode" is "cow". */
bool stfs_said_is_private(struct json_object *said);

/* One element of "pending", or of the names of "last_commit". All borrowed. */
struct stfs_said_edit {
	struct stfs_str name, from; /* from.ptr is NULL unless it was renamed */
	const char *change;         /* "new", "replaced", ...; never NULL */
	const char *waits;          /* why a commit leaves it out, or NULL */
	uint64_t bytes;
};
struct stfs_said_edit stfs_said_edit(struct json_object *array, size_t index);

/* The elements of "pending"; of many edits not all are there. Borrowed, or NULL. */
struct json_object *stfs_said_pending(struct json_object *said);
/* How many edits are pending. */
uint64_t stfs_said_pending_count(struct json_object *said);
/* Whether an edit waits for more than that a program closes its file. */
bool stfs_said_is_unfit(const struct stfs_said_edit *edit);

#endif
