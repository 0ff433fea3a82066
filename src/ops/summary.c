/* SPDX-License-Identifier: MIT */
#include "ops/summary.h"

#include "base/arith.h"

#define ALIGNMENT_MAX 4096

static void count(struct stfs_summary_part *part, const struct stfs_tensor_ref *ref)
{
	part->tensors++;
	if (stfs_add_overflows(part->elements, ref->tensor->elements, &part->elements))
		part->elements = UINT64_MAX;
	if (stfs_add_overflows(part->bytes, ref->len, &part->bytes))
		part->bytes = UINT64_MAX;
}

static void keep_largest(const struct stfs_model *model, struct stfs_summary *summary, uint32_t id,
			 uint64_t len)
{
	uint32_t at = summary->largest_count, *largest = summary->largest;
	struct stfs_tensor_ref other;

	while (at > 0 && stfs_model_tensor(model, largest[at - 1], &other) && other.len < len) {
		if (at < STFS_SUMMARY_LARGEST)
			largest[at] = largest[at - 1];
		at--;
	}
	if (at == STFS_SUMMARY_LARGEST)
		return;
	largest[at] = id;
	summary->largest_count += summary->largest_count < STFS_SUMMARY_LARGEST;
}

static void add_tensor(const struct stfs_model *model, struct stfs_summary *summary, uint32_t id)
{
	struct stfs_tensor_ref ref;

	if (!stfs_model_tensor(model, id, &ref))
		return;
	count(&summary->all, &ref);
	count(&summary->dtypes[ref.tensor->dtype], &ref);
	summary->unaligned +=
		ref.len && ref.offset != STFS_NO_OFFSET &&
		ref.offset % stfs_dtype_alignment((enum stfs_dtype)ref.tensor->dtype) != 0;
	keep_largest(model, summary, id, ref.len);
}

static void add_file(struct stfs_summary *summary, const struct stfs_shard *shard)
{
	uint64_t start;

	summary->file_bytes += shard->size;
	if (!shard->header || shard->torch) /* a header that was made up takes no room */
		return;
	start = stfs_header_data_start(shard->header);
	summary->header_bytes += start;
	summary->slack += shard->header->slack;
	while (start % summary->alignment)
		summary->alignment /= 2;
}

void stfs_summary_make(const struct stfs_model *model, struct stfs_summary *summary)
{
	*summary = (struct stfs_summary){.alignment = ALIGNMENT_MAX};
	for (uint32_t i = 0; i < model->shard_count; i++)
		add_file(summary, &model->shards[i]);
	for (uint32_t id = 0; id < stfs_model_ids(model); id++)
		add_tensor(model, summary, id);
}
