/* SPDX-License-Identifier: MIT */
/* A sharded model as one set of tensors: what the index says against what the shards hold. */
#include <errno.h>
#include <inttypes.h>

#include "store/model_internal.h"

/*
 * Fills by_name: of the shards that hold a name the one that the index names, else the first. What
 * a later entry of the same header shadows does not count.
 */
static int find_winners(struct stfs_model *model)
{
	struct stfs_sipkey key;
	int r = stfs_sipkey_random(&key);

	if (r == 0)
		r = stfs_nametable_make(&model->by_name, &key, stfs_model_ids(model));
	for (uint32_t s = 0; r == 0 && s < model->shard_count; s++) {
		const struct stfs_header *header = model->shards[s].header;

		for (uint32_t i = 0; header && i < header->count; i++) {
			struct stfs_str name = stfs_header_name(header, &header->tensors[i]);
			uint32_t *slot;

			if (header->tensors[i].shadowed)
				continue;
			slot = stfs_nametable_slot(&model->by_name, name, stfs_model_name_of, model);
			if (*slot == STFS_NO_TENSOR || stfs_index_find(&model->index, name) == s)
				*slot = model->first_id[s] + i;
		}
	}
	return r;
}

/* The number of the shard whose tensor of that name is shown; there is one that holds it. */
static uint32_t winner_of(const struct stfs_model *model, struct stfs_str name)
{
	uint32_t id = *stfs_nametable_slot(&model->by_name, name, stfs_model_name_of, model);

	return stfs_model_shard_of(model, id);
}

/*
 * A tensor of which the index does not say "it is here": hidden if another shard has the better
 * claim to its name.
 */
static int judge_stray(struct stfs_model *model, uint32_t shard, struct stfs_tensor *tensor,
		       struct stfs_str name, uint32_t owner)
{
	uint32_t winner = winner_of(model, name);
	char quoted[STFS_QUOTED_MAX];
	int r = 0;

	if (owner == STFS_NO_NUMBER)
		r = stfs_findings_add(&model->findings, STFS_RULE_TENSOR_NOT_IN_INDEX, STFS_NO_POSITION,
				      name, "tensor \"%s\" of %s is not in the index",
				      stfs_quote(name, quoted), model->shards[shard].name);
	else if (owner != winner)
		r = stfs_findings_add(&model->findings, STFS_RULE_SHARD_INCONSISTENT, STFS_NO_POSITION,
				      name, "tensor \"%s\" is in %s, the index says %s",
				      stfs_quote(name, quoted), model->shards[shard].name,
				      model->index.files[owner]);
	tensor->hidden = winner != shard;
	if (r < 0 || !tensor->hidden)
		return r;
	return stfs_findings_add(&model->findings, STFS_RULE_TENSOR_IN_TWO_SHARDS, STFS_NO_POSITION,
				 name, "tensor \"%s\" is in %s and in %s; the first is shown",
				 stfs_quote(name, quoted), model->shards[winner].name,
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
	const struct stfs_index *index = &model->index;
	char quoted[STFS_QUOTED_MAX];
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < index->count; i++) {
		struct stfs_str name = stfs_index_name(index, i);

		if (*stfs_nametable_slot(&model->by_name, name, stfs_model_name_of, model) !=
		    STFS_NO_TENSOR)
			continue;
		r = stfs_findings_add(&model->findings, STFS_RULE_TENSOR_MISSING, STFS_NO_POSITION,
				      name, "tensor \"%s\" is in the index but not in %s",
				      stfs_quote(name, quoted), index->files[index->entries[i].file]);
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
	int r = find_winners(model);

	for (uint32_t s = 0; r == 0 && s < model->shard_count; s++)
		r = judge_shard(model, s);
	if (r == 0)
		r = judge_index(model);
	if (r == 0 && model->index.has_total_size && model->index.total_size != data_bytes(model))
		r = stfs_findings_add(&model->findings, STFS_RULE_TOTAL_SIZE, STFS_NO_POSITION,
				      (struct stfs_str){NULL, 0}, "total_size is %" PRIu64
				      " in the index, the tensors have %" PRIu64 " bytes",
				      model->index.total_size, data_bytes(model));
	stfs_index_forget(&model->index);
	return r;
}
