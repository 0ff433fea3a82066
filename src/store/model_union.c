/* SPDX-License-Identifier: MIT */
/* A sharded model as one set of tensors: what the index says against what the shards hold. */
#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>

#include "store/model_internal.h"

#define NO_SHARD UINT32_MAX

/* The tensor `name` as shard number `shard` holds it, NULL when it does not. */
static struct stfs_tensor *held_by(const struct stfs_model *model, uint32_t shard, struct stfs_str name)
{
	struct stfs_header *header = model->shards[shard].header;
	uint32_t index = header ? stfs_header_find(header, name) : STFS_NO_TENSOR;

	return index == STFS_NO_TENSOR ? NULL : &header->tensors[index];
}

/* The first shard other than `shard` that holds `name`. */
static uint32_t other_holder(const struct stfs_model *model, uint32_t shard, struct stfs_str name)
{
	for (uint32_t other = 0; other < model->shard_count; other++)
		if (other != shard && held_by(model, other, name))
			return other;
	return NO_SHARD;
}

/*
 * A tensor of which the index does not say "it is here". It is shown if no other shard has a better
 * claim: the one that the index names, else the first.
 */
static int judge_stray(struct stfs_model *model, uint32_t shard, struct stfs_tensor *tensor,
		       struct stfs_str name, uint32_t owner)
{
	uint32_t other = other_holder(model, shard, name);
	char quoted[STFS_QUOTED_MAX];
	int r = 0;

	if (owner == NO_SHARD)
		r = stfs_findings_add(&model->findings, STFS_RULE_TENSOR_NOT_IN_INDEX, STFS_NO_POSITION,
				      name, "tensor \"%s\" of %s is not in the index",
				      stfs_quote(name, quoted), model->shards[shard].name);
	else if (!held_by(model, owner, name))
		r = stfs_findings_add(&model->findings, STFS_RULE_SHARD_INCONSISTENT, STFS_NO_POSITION,
				      name, "tensor \"%s\" is in %s, the index says %s",
				      stfs_quote(name, quoted), model->shards[shard].name,
				      model->index.files[owner]);
	if (r < 0 || other == NO_SHARD)
		return r;
	if (owner != NO_SHARD && held_by(model, owner, name))
		other = owner;
	tensor->hidden = other == owner || other < shard;
	if (!tensor->hidden)
		return 0;
	return stfs_findings_add(&model->findings, STFS_RULE_TENSOR_IN_TWO_SHARDS, STFS_NO_POSITION,
				 name, "tensor \"%s\" is in %s and in %s; the first is shown",
				 stfs_quote(name, quoted), model->shards[other].name,
				 model->shards[shard].name);
}

static int judge_shard(struct stfs_model *model, uint32_t shard)
{
	struct stfs_header *header = model->shards[shard].header;
	int r = 0;

	for (uint32_t i = 0; r == 0 && header && i < header->count; i++) {
		struct stfs_tensor *tensor = &header->tensors[i];
		struct stfs_str name = stfs_header_name(header, tensor);
		uint32_t owner = stfs_index_find(&model->index, name);

		if (owner != shard && !tensor->shadowed)
			r = judge_stray(model, shard, tensor, name, owner);
	}
	return r;
}

/* What the index promises and no shard holds. */
static int judge_index(struct stfs_model *model)
{
	char quoted[STFS_QUOTED_MAX];
	struct stfs_str name;
	uint32_t owner;
	int r = 0;

	json_object_object_foreach(model->index.weight_map, key, value) {
		(void)value;
		name = stfs_str_from(key);
		owner = stfs_index_find(&model->index, name);
		if (r < 0 || held_by(model, owner, name) ||
		    other_holder(model, NO_SHARD, name) != NO_SHARD)
			continue;
		r = stfs_findings_add(&model->findings, STFS_RULE_TENSOR_MISSING, STFS_NO_POSITION,
				      name, "tensor \"%s\" is in the index but not in %s",
				      stfs_quote(name, quoted), model->index.files[owner]);
	}
	return r;
}

static uint64_t data_bytes(const struct stfs_model *model)
{
	uint64_t sum = 0;

	for (uint32_t s = 0; s < model->shard_count; s++) {
		const struct stfs_header *header = model->shards[s].header;

		for (uint32_t i = 0; header && i < header->count; i++)
			if (stfs_tensor_shown(&header->tensors[i]))
				sum += header->tensors[i].end - header->tensors[i].begin;
	}
	return sum;
}

int stfs_model_unite(struct stfs_model *model)
{
	int r = 0;

	for (uint32_t s = 0; r == 0 && s < model->shard_count; s++)
		r = judge_shard(model, s);
	if (r == 0)
		r = judge_index(model);
	if (r == 0 && model->index.has_total_size && model->index.total_size != data_bytes(model))
		r = stfs_findings_add(&model->findings, STFS_RULE_TOTAL_SIZE, STFS_NO_POSITION,
				      (struct stfs_str){NULL, 0},
				      "total_size is %" PRIu64 " in the index, the tensors have %" PRIu64
				      " bytes", model->index.total_size, data_bytes(model));
	return r;
}
