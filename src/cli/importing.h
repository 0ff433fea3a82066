/* SPDX-License-Identifier: MIT */
/* What the verbs that import PyTorch checkpoints share. */
#ifndef STFS_CLI_IMPORTING_H
#define STFS_CLI_IMPORTING_H

#include "cli/editing.h"
#include "ops/import.h"

struct stfs_importing {
	struct stfs_import_options options;
	struct stfs_import *import; /* owned */
	bool in_place;
};

enum {
	STFS_IMPORTING_ONLY = STFS_CLI_LONG + 64,
	STFS_IMPORTING_STRIP,
	STFS_IMPORTING_DUPLICATE,
	STFS_IMPORTING_SKIP,
	STFS_IMPORTING_OUTSIZED,
	STFS_IMPORTING_NO_METADATA,
	STFS_IMPORTING_NO_VERIFY,
};
#define STFS_IMPORTING_OPTIONS \
	{"only", required_argument, NULL, STFS_IMPORTING_ONLY}, \
	{"strip-prefix", required_argument, NULL, STFS_IMPORTING_STRIP}, \
	{"duplicate", no_argument, NULL, STFS_IMPORTING_DUPLICATE}, \
	{"skip-refused", no_argument, NULL, STFS_IMPORTING_SKIP}, \
	{"outsized", no_argument, NULL, STFS_IMPORTING_OUTSIZED}, \
	{"no-metadata", no_argument, NULL, STFS_IMPORTING_NO_METADATA}, \
	{"no-verify", no_argument, NULL, STFS_IMPORTING_NO_VERIFY}
#define STFS_IMPORTING_HELP \
	"      --only PREFIX    only tensors whose names begin so\n" \
	"      --strip-prefix PREFIX  take it off the names that begin so\n" \
	"      --duplicate      write tied tensors as often as they have names\n" \
	"      --skip-refused   leave out tensors that no model can hold (quantised ones)\n" \
	"      --outsized       even when the tensors come to far more than the file\n" \
	"      --no-metadata    leave out numbers and texts\n" \
	"      --no-verify      do not check the CRCs of tensors' bytes\n"

/* As stfs_editor.take. */
int stfs_importing_take(struct stfs_importing *importing, int option, const char *argument);

/* After the import is open: decides and stages all of it. The exit code. */
int stfs_importing_stage(struct stfs_editing *editing, struct stfs_importing *importing);

/* As stfs_editor.release. */
void stfs_importing_release(void *importing);

/* As stfs_editor.after: says what was left out, refused, tied. */
int stfs_importing_after(struct stfs_editing *editing, void *importing);

#endif
