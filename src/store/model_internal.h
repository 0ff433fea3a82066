/* SPDX-License-Identifier: MIT */
#ifndef STFS_STORE_MODEL_INTERNAL_H
#define STFS_STORE_MODEL_INTERNAL_H

#include "store/model.h"

/* Compares shards and index, hides all but one tensor of a name. Adds to findings. 0 or -ENOMEM. */
int stfs_model_unite(struct stfs_model *model);

static inline bool stfs_tensor_shown(const struct stfs_tensor *tensor)
{
	return tensor->usable && tensor->complete && !tensor->shadowed && !tensor->hidden;
}

#endif
