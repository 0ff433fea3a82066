/* SPDX-License-Identifier: MIT */
/* The edits of a mount, pending or committed, as its daemon tells them, in words for a person. */
#ifndef STFS_CLI_EDITS_H
#define STFS_CLI_EDITS_H

#include "base/buf.h"
#include "ops/said.h"

/* Edits that are told one by one; of more, their number. */
#define STFS_EDITS_SHOWN 20

/* Appends the name of an edit, quoted: "x", or "x" -> "y". */
void stfs_edits_put_name(const struct stfs_said_edit *edit, struct stfs_buf *out);
/* Appends what a commit ("last_commit") came to: "2 tensors (1 added, 1 removed), 12.0 MiB". */
void stfs_edits_put_commit(struct json_object *commit, struct stfs_buf *out);

/* Prints the names of a commit, a line each, and those that became bytes; `point` is the mount. */
void stfs_edits_print_commit(struct json_object *commit, const char *point);
/* Prints the pending edits of a mount, a line each, with what they wait for. */
void stfs_edits_print_pending(struct json_object *said);
/* Prints the sidecars and the like that were refused, a line each. Whether there were any. */
bool stfs_edits_print_refused(struct json_object *said);

#endif
