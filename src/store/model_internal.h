/* SPDX-License-Identifier: MIT */
#ifndef STFS_STORE_MODEL_INTERNAL_H
#define STFS_STORE_MODEL_INTERNAL_H

#include "store/model.h"

/* A file of a model that is open already. */
struct stfs_given {
	const char *name;
	int fd; /* borrowed */
};

/* As stfs_model_open(); duplicates of `given` stand for the files of those names. */
int stfs_model_open_given(const char *path, unsigned flags, const struct stfs_given *given,
			  size_t count, struct stfs_model **model, struct stfs_err *err);

/* The text of the index as it is in the file: *text is the caller's. 0 or -errno with `err` filled. */
int stfs_model_index_text(struct stfs_model *model, char **text, size_t *len, struct stfs_err *err);

/* Says that a journal stands beside the model `path`. -EUCLEAN. */
int stfs_model_say_interrupted(const char *path, struct stfs_err *err);

/*
 * Compares shards and index, hides all but one tensor of a name, fills by_name. Adds to findings. 0;
 * -ENOMEM; another -errno when there are no random numbers.
 */
int stfs_model_unite(struct stfs_model *model);

/* The name of the tensor with this id of a struct stfs_model, for its table. */
struct stfs_str stfs_model_name_of(const void *model, uint32_t id);

/* The shard whose ids hold `id`, which is below stfs_model_ids(). */
uint32_t stfs_model_shard_of(const struct stfs_model *model, uint32_t id);

static inline bool stfs_tensor_shown(const struct stfs_tensor *tensor)
{
	return tensor->usable && tensor->complete && !tensor->shadowed && !tensor->hidden;
}

#endif
