/* SPDX-License-Identifier: MIT */
/* Where the tensors lie: Metadata::validate of tensor.rs, but all that is wrong, not the first. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "format/header_internal.h"

/* A finding of a tensor, with its quoted name before the text. */
#define SAY(header, findings, rule, pos, tensor, format, ...)                                      \
	stfs_findings_add(findings, rule, STFS_LENGTH_WORD + (uint64_t)(pos),                      \
			  stfs_header_name(header, tensor), "tensor \"%s\": " format,              \
			  stfs_quote(stfs_header_name(header, tensor), (char[STFS_QUOTED_MAX]){0}), \
			  __VA_ARGS__)

static int by_offset(const void *left, const void *right, void *data)
{
	const struct stfs_tensor *tensors = data;
	const struct stfs_tensor *a = &tensors[*(const uint32_t *)left];
	const struct stfs_tensor *b = &tensors[*(const uint32_t *)right];

	if (a->begin != b->begin)
		return a->begin < b->begin ? -1 : 1;
	if (a->end != b->end)
		return a->end < b->end ? -1 : 1;
	return a < b ? -1 : a > b;
}

/* The usable tensors by offset; most headers are in that order already. */
static int order(struct stfs_header *header)
{
	uint32_t count = 0;
	bool sorted = true;

	header->by_offset = malloc((header->count ? header->count : 1) * sizeof(uint32_t));
	if (!header->by_offset)
		return -ENOMEM;
	for (uint32_t i = 0; i < header->count; i++) {
		if (!header->tensors[i].usable || header->tensors[i].shadowed)
			continue;
		header->by_offset[count] = i;
		if (count && by_offset(&header->by_offset[count - 1], &i, header->tensors) > 0)
			sorted = false;
		count++;
	}
	header->by_offset_count = count;
	if (!sorted)
		qsort_r(header->by_offset, count, sizeof(uint32_t), by_offset, header->tensors);
	return 0;
}

/* What a tensor's own numbers say, wherever it lies. */
static int judge_tensor(struct stfs_header *header, struct stfs_tensor *tensor,
			struct stfs_findings *findings)
{
	const struct stfs_dtype_info *info = stfs_dtype_info((enum stfs_dtype)tensor->dtype);
	unsigned alignment = stfs_dtype_alignment((enum stfs_dtype)tensor->dtype);
	uint64_t bytes;
	int r = stfs_dtype_bytes((enum stfs_dtype)tensor->dtype, tensor->elements, &bytes);

	if (r == -EOVERFLOW)
		return SAY(header, findings, STFS_RULE_SHAPE_OVERFLOW, tensor->shape_pos, tensor,
			   "%" PRIu64 " elements of %s pass 2^64 - 1 bits", tensor->elements, info->name);
	if (r == -EDOM)
		return SAY(header, findings, STFS_RULE_SUB_BYTE, tensor->shape_pos, tensor,
			   "%" PRIu64 " elements of %u bits do not end on a byte", tensor->elements,
			   info->bits);
	if (tensor->end < tensor->begin)
		return SAY(header, findings, STFS_RULE_OFFSETS_REVERSED, tensor->entry_pos, tensor,
			   "data_offsets end at %" PRIu64 ", before they begin at %" PRIu64, tensor->end,
			   tensor->begin);
	if (tensor->end - tensor->begin != bytes)
		return SAY(header, findings, STFS_RULE_SIZE_MISMATCH, tensor->entry_pos, tensor,
			   "data_offsets hold %" PRIu64 " bytes, dtype %s and shape need %" PRIu64,
			   tensor->end - tensor->begin, info->name, bytes);
	if ((stfs_header_data_start(header) + tensor->begin) % alignment && bytes)
		return SAY(header, findings, STFS_RULE_UNALIGNED_TENSOR, tensor->entry_pos, tensor,
			   "begins at byte %" PRIu64 ", not a multiple of its %u-byte elements",
			   stfs_header_data_start(header) + tensor->begin, alignment);
	return 0;
}

/*
 * How a tensor lies to those before it (they end at `cursor`, the last of them being `last`) and to
 * the end of the file.
 */
static int judge_place(struct stfs_header *header, struct stfs_tensor *tensor,
		       const struct stfs_tensor *last, uint64_t cursor, struct stfs_findings *findings)
{
	char quoted[STFS_QUOTED_MAX];
	int r = 0;

	if (tensor->begin < cursor)
		r = SAY(header, findings, STFS_RULE_OVERLAP, tensor->entry_pos, tensor,
			"begins at %" PRIu64 " of the data, inside tensor \"%s\", which ends at %" PRIu64,
			tensor->begin, last ? stfs_quote(stfs_header_name(header, last), quoted) : "",
			cursor);
	else if (tensor->begin > cursor)
		r = SAY(header, findings, STFS_RULE_HOLE, tensor->entry_pos, tensor,
			"%" PRIu64 " unused bytes stand before it, from %" PRIu64 " of the data",
			tensor->begin - cursor, cursor);
	if (r == 0 && tensor->end > header->data_len)
		r = SAY(header, findings, STFS_RULE_TRUNCATED, tensor->entry_pos, tensor,
			"should end at byte %" PRIu64 " of the data, which has only %" PRIu64
			" bytes; the file is cut short", tensor->end, header->data_len);
	return r;
}

static int judge_end(struct stfs_header *header, uint64_t cursor, struct stfs_findings *findings)
{
	if (cursor >= header->data_len)
		return 0;
	return stfs_findings_add(findings, STFS_RULE_TRAILING_BYTES,
				 stfs_header_data_start(header) + cursor, (struct stfs_str){NULL, 0},
				 "%" PRIu64 " bytes stand behind the last tensor", header->data_len - cursor);
}

/*
 * Says which tensors overflow: of those that count only, as the official loader multiplies when
 * the last of two entries of a name has won. *all_usable: whether every such tensor was read.
 */
static int judge_unplaced(struct stfs_header *header, bool *all_usable, struct stfs_findings *findings)
{
	int r = 0;

	*all_usable = true;
	for (uint32_t i = 0; r == 0 && i < header->count; i++) {
		const struct stfs_tensor *tensor = &header->tensors[i];

		if (tensor->shadowed)
			continue;
		*all_usable &= tensor->usable;
		if (tensor->overflow)
			r = SAY(header, findings, STFS_RULE_SHAPE_OVERFLOW, tensor->shape_pos, tensor,
				"the product of the shape passes %" PRIu64, UINT64_MAX);
	}
	return r;
}

int stfs_header_judge_layout(struct stfs_header *header, struct stfs_findings *findings)
{
	const struct stfs_tensor *last = NULL;
	bool all_usable;
	uint64_t cursor = 0;
	int r = order(header);

	if (r == 0)
		r = judge_unplaced(header, &all_usable, findings);
	for (uint32_t i = 0; r == 0 && i < header->by_offset_count; i++) {
		struct stfs_tensor *tensor = &header->tensors[header->by_offset[i]];

		tensor->complete = tensor->begin <= tensor->end && tensor->end <= header->data_len;
		r = judge_tensor(header, tensor, findings);
		if (r == 0)
			r = judge_place(header, tensor, last, cursor, findings);
		if (!last || tensor->end > cursor) {
			cursor = tensor->end > cursor ? tensor->end : cursor;
			last = tensor;
		}
	}
	/* With an entry whose place is not known there is no knowing where the data should end. */
	if (r == 0 && header->text_read && all_usable)
		r = judge_end(header, cursor, findings);
	return r;
}

int stfs_header_index_names(struct stfs_header *header, const struct stfs_sipkey *key,
			    struct stfs_findings *findings)
{
	int r = stfs_nametable_make(&header->by_name, key, header->count);

	for (uint32_t i = 0; r == 0 && i < header->count; i++) {
		struct stfs_str name = stfs_header_name(header, &header->tensors[i]);
		uint32_t *slot = stfs_nametable_slot(&header->by_name, name, stfs_header_name_of, header);
		uint32_t earlier = *slot;

		*slot = i; /* the last wins, as in the official loader */
		if (earlier == STFS_NO_TENSOR)
			continue;
		header->tensors[earlier].shadowed = true;
		r = SAY(header, findings, STFS_RULE_DUPLICATE_KEY, header->tensors[i].key_pos - 1,
			&header->tensors[i],
			"stands twice, first at byte %" PRIu64 "; the official loader takes the last, "
			"other readers the first",
			STFS_LENGTH_WORD + (uint64_t)header->tensors[earlier].key_pos - 1);
	}
	return r;
}
