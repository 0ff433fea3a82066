/* SPDX-License-Identifier: MIT */
/*
 * Models that tensors are copied from. They stay open and locked against changes until the copy is
 * committed, so that no bytes are moved under it.
 */
#ifndef STFS_OPS_SOURCES_H
#define STFS_OPS_SOURCES_H

#include "ops/staged.h"

struct stfs_sources {
	struct stfs_source_model {
		char *path;             /* owned */
		struct stfs_model *model; /* owned */
	} *items; /* owned */
	size_t count;
};

/*
 * The model at `path`, opened once, also one that the official loader refuses but that can be read;
 * *source is `target` itself when it is that model. 0 or -errno as stfs_model_open().
 */
int stfs_sources_open(struct stfs_sources *sources, const char *path, struct stfs_edit *target,
		      struct stfs_tensors *source, struct stfs_err *err);
void stfs_sources_free(struct stfs_sources *sources);

/*
 * MODEL:TENSOR cut in two. The cut is at that ':' before which the longest name of an existing file
 * stands (paths and tensors may both hold colons); if there is none, at the last one behind which a
 * path ends as a model's does. *tensor is NULL when it is all model. *model is the caller's to
 * free; 0 or -ENOMEM.
 */
int stfs_place_split(const char *word, char **model, const char **tensor);

#endif
