/* SPDX-License-Identifier: MIT */
/* A model's metadata set, also all of it at once: as JSON text, in the user's editor. */
#ifndef STFS_CLI_METATEXT_H
#define STFS_CLI_METATEXT_H

#include "cli/editing.h"

/* Appends it as a JSON object, a pair a line. 0 or -ENOMEM. */
int stfs_metatext_of_model(const struct stfs_model *model, struct stfs_buf *out);

/* Each gives the exit code. */
/* KEY=VALUE, KEY=@FILE, or KEY=@@VALUE for a value that begins with an @. */
int stfs_metatext_set(struct stfs_editing *editing, const char *pair);
/* Sets what the JSON text in a file holds. */
int stfs_metatext_load(struct stfs_editing *editing, const char *path);
int stfs_metatext_clear(struct stfs_editing *editing);
int stfs_metatext_edit(struct stfs_editing *editing);

#endif
