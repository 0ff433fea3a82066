/* SPDX-License-Identifier: MIT */
/* What a PyTorch checkpoint holds besides the tensors that are shown. */
#ifndef STFS_CLI_REMARKS_H
#define STFS_CLI_REMARKS_H

#include <json-c/json.h>

#include "cli/table.h"
#include "store/model.h"

/* Rows of two cells: the form, storages, tensors that share bytes or are put together. */
void stfs_remarks_add_facts(const struct stfs_shard *shard, struct stfs_table *table);
/* Prints what is refused, left out and noted, a few of each. */
void stfs_remarks_tell(const struct stfs_shard *shard);
/* All of it, in an object. */
struct json_object *stfs_remarks_json(const struct stfs_shard *shard);

/* Says on stderr which tensors of a model are not shown, and why. */
void stfs_remarks_say_refused(const struct stfs_model *model);

#endif
