/* SPDX-License-Identifier: MIT */
/* What the parts of an import share. */
#ifndef STFS_OPS_IMPORT_INTERNAL_H
#define STFS_OPS_IMPORT_INTERNAL_H

#include <pthread.h>

#include "codec/torch.h"
#include "ops/import.h"

/* A tensor that is written. */
struct stfs_import_item {
	struct stfs_import *import; /* borrowed: readers get no more than the item */
	const struct stfs_torch_tensor *tensor; /* borrowed */
	struct stfs_str name; /* that it will have */
	bool stays; /* in place: its bytes are those that stand in the file */
};

/* A tensor that is not, because another one with the same bytes is. */
struct stfs_import_tie {
	struct stfs_str name, kept;
};

/* A file of a checkpoint, and those behind it. */
struct stfs_import {
	char *path; /* owned: what to call the checkpoint */
	int fd;     /* borrowed */
	int owned_fd; /* owned: the same when it was opened here, else -1 */
	uint64_t length;
	struct timespec mtime; /* of the file, before it was read */
	bool in_place; /* the file is that which is written */
	struct stfs_torch *torch; /* owned, unless lent by the model */
	bool lent;
	struct stfs_import *next; /* owned: the next file of several; options are the same in all */
	struct stfs_model *model; /* owned by the first of several: index, files, locks; else NULL */
	struct stfs_import_options options;
	struct stfs_import_item *items; /* owned */
	size_t count;
	struct stfs_import_tie *ties; /* owned */
	size_t tie_count;
	size_t outside;
	struct stfs_str *unreadable; /* owned array: names of tensors that could be read by inflating for ever */
	size_t unreadable_count;
	struct stfs_str *skipped; /* owned array: leaves without a place in the metadata, the first's of all files */
	size_t skipped_count;
	struct stfs_import_verifier *verifier; /* owned; NULL until it is needed */
};

/* ---- import_open.c ---- */

/* What to call all of it. */
const char *stfs_import_path(const struct stfs_import *import);

/* ---- import_verify.c ---- */

/* Sees that a storage has its CRC, if it has one and it is to be checked. As stfs_torch_verify(). */
int stfs_import_verify_storage(struct stfs_import *import, uint32_t number,
			       int (*progress)(void *data, uint64_t bytes), void *data, struct stfs_err *err);

/* Stops looking at what is to come. */
void stfs_import_end_verifier(struct stfs_import *import);

/* ---- import.c ---- */

/* Where the bytes of a tensor are. */
struct stfs_source stfs_import_source(struct stfs_import *import, struct stfs_import_item *item);

/* ---- import_place.c ---- */

/* Decides which items stay where they are. 0 or -ENOMEM. */
int stfs_import_find_place(struct stfs_import *import);

/* ---- import_metadata.c ---- */

/* Sets the metadata: ties, format and leaves. 0 or -errno. */
int stfs_import_stage_metadata(struct stfs_import *import, struct stfs_edit *edit, struct stfs_err *err);

#endif
