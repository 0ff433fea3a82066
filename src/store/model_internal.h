/* SPDX-License-Identifier: MIT */
#ifndef STFS_STORE_MODEL_INTERNAL_H
#define STFS_STORE_MODEL_INTERNAL_H

#include "store/model.h"

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
