/* SPDX-License-Identifier: MIT */
/* The editing verbs, and what their help texts share. */
#ifndef STFS_CLI_EDITORS_H
#define STFS_CLI_EDITORS_H

#include "cli/editing.h"

extern const struct stfs_editor stfs_editor_compact, stfs_editor_cp, stfs_editor_create,
	stfs_editor_edit, stfs_editor_metadata, stfs_editor_mv, stfs_editor_put, stfs_editor_rename,
	stfs_editor_rm;

/* The options that every editing verb has. */
#define STFS_EDITING_HELP \
	"  -n, --dry-run        change nothing, say what it would do and cost\n" \
	"  -j, --json           the result, or the plan of a dry run, for programs\n" \
	"  -q, --quiet          say nothing when all is well\n" \
	"      --force          write even to a link into a cache, a file with other hard\n" \
	"                       links or one that is read-only\n" \
	"      --readers=ignore move bytes in place though another program has the model\n" \
	"                       open (else it keeps the old file, which takes longer)\n"

#endif
