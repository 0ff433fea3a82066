/* SPDX-License-Identifier: MIT */
/* What `put` and `create` share: a tensor from a file. */
#ifndef STFS_CLI_PUTTING_H
#define STFS_CLI_PUTTING_H

#include "cli/editing.h"
#include "ops/folder.h"
#include "ops/typing.h"

/* What their options say of the files. */
struct stfs_putting {
	enum stfs_form form;
	bool has_dtype, has_shape;
	enum stfs_dtype dtype;
	struct stfs_shape shape; /* owned */
	const char *sidecar;     /* borrowed: of a .npy file; NULL: none */
};

enum {
	STFS_PUTTING_DTYPE = STFS_CLI_LONG + 64,
	STFS_PUTTING_SHAPE,
	STFS_PUTTING_NPY,
	STFS_PUTTING_RAW,
};
#define STFS_PUTTING_OPTIONS \
	{"dtype", required_argument, NULL, STFS_PUTTING_DTYPE}, \
	{"shape", required_argument, NULL, STFS_PUTTING_SHAPE}, \
	{"npy", no_argument, NULL, STFS_PUTTING_NPY}, \
	{"raw", no_argument, NULL, STFS_PUTTING_RAW}
#define STFS_PUTTING_HELP \
	"      --dtype D        type of raw bytes: F32, BF16, I64, F8_E4M3 and so on\n" \
	"      --shape N,N...   their shape (\"\" or []: a scalar)\n" \
	"      --npy            a .npy file, whatever it is called\n" \
	"      --raw            raw bytes, whatever it is called\n"

/* As stfs_editor.take. */
int stfs_putting_take(struct stfs_editing *editing, const struct stfs_editor *editor,
		      struct stfs_putting *putting, int option, const char *argument);

/* Stages one tensor. The exit code. */
int stfs_putting_file(struct stfs_editing *editing, const struct stfs_putting *putting,
		      struct stfs_str name, const char *path);
/* Stages words of the form NAME=FILE. The exit code. */
int stfs_putting_pairs(struct stfs_editing *editing, const struct stfs_editor *editor,
		       const struct stfs_putting *putting, char **words, int count);

/* A folder of which the tensors are to be put. */
struct stfs_putting_folder {
	const char *path; /* borrowed */
	enum stfs_folder_order order;
	/* Stages one of them, of this name: the exit code. */
	int (*put)(struct stfs_editing *editing, void *data, struct stfs_str name,
		   const struct stfs_folder_item *item);
	void *data;
};

/* Stages all of it, its metadata too. The exit code. */
int stfs_putting_folder(struct stfs_editing *editing, const struct stfs_putting_folder *from);

#endif
