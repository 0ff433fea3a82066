/* SPDX-License-Identifier: MIT */
#include "format/rules.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static_assert(STFS_RULE_COUNT == STFS_RULE_NOT_ALL_SEARCHED + 1, "the last of enum stfs_rule");

static const struct stfs_rule_info rules[STFS_RULE_COUNT] = {
	[STFS_RULE_FILE_TOO_SMALL] = {"file-too-small", STFS_LEVEL_ERROR, false},
	[STFS_RULE_HEADER_TOO_LARGE] = {"header-too-large", STFS_LEVEL_ERROR, false},
	[STFS_RULE_HEADER_BEYOND_FILE] = {"header-beyond-file", STFS_LEVEL_ERROR, false},
	[STFS_RULE_CHECKPOINT] = {"checkpoint", STFS_LEVEL_ERROR, false},
	[STFS_RULE_NOT_UTF8] = {"not-utf8", STFS_LEVEL_ERROR, false},
	[STFS_RULE_JSON_SYNTAX] = {"json-syntax", STFS_LEVEL_ERROR, false},
	[STFS_RULE_LEADING_SPACE] = {"leading-space", STFS_LEVEL_DEVIATION, false},
	[STFS_RULE_TRAILING_SPACE] = {"trailing-space", STFS_LEVEL_DEVIATION, false},
	[STFS_RULE_DUPLICATE_KEY] = {"duplicate-key", STFS_LEVEL_REFUSED, false},
	[STFS_RULE_METADATA_TWICE] = {"metadata-twice", STFS_LEVEL_ERROR, false},
	[STFS_RULE_METADATA_NULL] = {"metadata-null", STFS_LEVEL_DEVIATION, false},
	[STFS_RULE_METADATA_TYPE] = {"metadata-type", STFS_LEVEL_ERROR, false},
	[STFS_RULE_METADATA_VALUE] = {"metadata-value", STFS_LEVEL_ERROR, false},
	[STFS_RULE_ENTRY_TYPE] = {"entry-type", STFS_LEVEL_ERROR, false},
	[STFS_RULE_ENTRY_ARRAY] = {"entry-array", STFS_LEVEL_REFUSED, false},
	[STFS_RULE_ENTRY_FIELD_TWICE] = {"entry-field-twice", STFS_LEVEL_ERROR, false},
	[STFS_RULE_ENTRY_FIELD_MISSING] = {"entry-field-missing", STFS_LEVEL_ERROR, false},
	[STFS_RULE_ENTRY_EXTRA_KEY] = {"entry-extra-key", STFS_LEVEL_DEVIATION, false},
	[STFS_RULE_DTYPE_TYPE] = {"dtype-type", STFS_LEVEL_ERROR, false},
	[STFS_RULE_DTYPE_OBJECT] = {"dtype-object", STFS_LEVEL_REFUSED, false},
	[STFS_RULE_DTYPE_UNKNOWN] = {"dtype-unknown", STFS_LEVEL_ERROR, false},
	[STFS_RULE_SHAPE_TYPE] = {"shape-type", STFS_LEVEL_ERROR, false},
	[STFS_RULE_SHAPE_OVERFLOW] = {"shape-overflow", STFS_LEVEL_ERROR, false},
	[STFS_RULE_SHAPE_ORDER] = {"shape-order", STFS_LEVEL_DEVIATION, false},
	[STFS_RULE_OFFSETS_TYPE] = {"offsets-type", STFS_LEVEL_ERROR, false},
	[STFS_RULE_OFFSETS_REVERSED] = {"offsets-reversed", STFS_LEVEL_ERROR, false},
	[STFS_RULE_SUB_BYTE] = {"sub-byte", STFS_LEVEL_ERROR, false},
	[STFS_RULE_SIZE_MISMATCH] = {"size-mismatch", STFS_LEVEL_ERROR, false},
	[STFS_RULE_OVERLAP] = {"overlap", STFS_LEVEL_ERROR, false},
	[STFS_RULE_HOLE] = {"hole", STFS_LEVEL_ERROR, true},
	[STFS_RULE_TRUNCATED] = {"truncated", STFS_LEVEL_ERROR, true},
	[STFS_RULE_TRAILING_BYTES] = {"trailing-bytes", STFS_LEVEL_ERROR, true},
	[STFS_RULE_UNALIGNED_DATA] = {"unaligned-data", STFS_LEVEL_NOTE, false},
	[STFS_RULE_UNALIGNED_TENSOR] = {"unaligned-tensor", STFS_LEVEL_NOTE, false},
	[STFS_RULE_INDEX] = {"index", STFS_LEVEL_ERROR, false},
	[STFS_RULE_SHARD_UNREADABLE] = {"shard-unreadable", STFS_LEVEL_ERROR, false},
	[STFS_RULE_SHARD_INCONSISTENT] = {"shard-inconsistent", STFS_LEVEL_DEVIATION, false},
	[STFS_RULE_TENSOR_IN_TWO_SHARDS] = {"tensor-in-two-shards", STFS_LEVEL_DEVIATION, false},
	[STFS_RULE_TENSOR_MISSING] = {"tensor-missing", STFS_LEVEL_ERROR, true},
	[STFS_RULE_TENSOR_NOT_IN_INDEX] = {"tensor-not-in-index", STFS_LEVEL_DEVIATION, false},
	[STFS_RULE_TOTAL_SIZE] = {"total-size", STFS_LEVEL_DEVIATION, false},
	[STFS_RULE_DAMAGED_STORAGE] = {"damaged-storage", STFS_LEVEL_ERROR, false},
	[STFS_RULE_HARMLESS_GLOBAL] = {"harmless-global", STFS_LEVEL_DEVIATION, false},
	[STFS_RULE_REFUSED_TENSOR] = {"refused-tensor", STFS_LEVEL_DEVIATION, false},
	[STFS_RULE_OUTSIZED_TENSOR] = {"outsized-tensor", STFS_LEVEL_DEVIATION, false},
	[STFS_RULE_UNVERIFIED_STORAGE] = {"unverified-storage", STFS_LEVEL_DEVIATION, false},
	[STFS_RULE_LEFT_OUT] = {"left-out", STFS_LEVEL_NOTE, false},
	[STFS_RULE_CHECKPOINT_NOTE] = {"checkpoint-note", STFS_LEVEL_NOTE, false},
	[STFS_RULE_TWO_FORMATS] = {"two-formats", STFS_LEVEL_DEVIATION, false},
	[STFS_RULE_NOT_ALL_SEARCHED] = {"not-all-searched", STFS_LEVEL_NOTE, false},
};

const struct stfs_rule_info *stfs_rule_info(enum stfs_rule rule)
{
	assert((unsigned)rule < STFS_RULE_COUNT);
	return &rules[rule];
}

const char *stfs_level_name(enum stfs_level level)
{
	static const char *const names[] = {"note", "deviation", "refused", "error"};

	return names[level];
}

void stfs_findings_free(struct stfs_findings *findings)
{
	for (size_t i = 0; i < findings->count; i++) {
		free(findings->items[i].tensor);
		free(findings->items[i].message);
	}
	free(findings->items);
	*findings = (struct stfs_findings)STFS_FINDINGS_INIT;
}

/* A new item at the end, not yet counted; NULL for want of memory. */
static struct stfs_finding *next_item(struct stfs_findings *findings)
{
	struct stfs_finding *items;
	size_t count = findings->count;

	if ((count & (count - 1)) == 0) { /* full at every power of two */
		items = reallocarray(findings->items, count ? 2 * count : 1, sizeof(*items));
		if (!items)
			return NULL;
		findings->items = items;
	}
	return &findings->items[count];
}

/* Keeps the name, cut at a character when it is long. 0 or -ENOMEM. */
static int keep_name(struct stfs_finding *finding, struct stfs_str name)
{
	size_t len = name.len;

	if (len > STFS_FINDING_NAME_MAX) {
		len = STFS_FINDING_NAME_MAX;
		while (len > 0 && ((unsigned char)name.ptr[len] & 0xc0) == 0x80)
			len--;
	}
	finding->tensor = malloc(len + 1);
	if (!finding->tensor)
		return -ENOMEM;
	memcpy(finding->tensor, name.ptr, len);
	finding->tensor[len] = '\0';
	finding->tensor_len = len;
	return 0;
}

int stfs_findings_add(struct stfs_findings *findings, enum stfs_rule rule, uint64_t position,
		      struct stfs_str tensor, const char *format, ...)
{
	struct stfs_finding *item, made = {.rule = rule, .position = position};
	va_list args;
	int len;

	if (findings->counts[rule]++ >= STFS_FINDINGS_MAX)
		return 0;
	item = next_item(findings);
	if (!item)
		return -ENOMEM;
	va_start(args, format);
	len = vasprintf(&made.message, format, args);
	va_end(args);
	if (len < 0)
		return -ENOMEM;
	if (tensor.ptr && keep_name(&made, tensor) < 0) {
		free(made.message);
		return -ENOMEM;
	}
	*item = made;
	findings->count++;
	return 0;
}

enum stfs_level stfs_findings_level(const struct stfs_findings *findings)
{
	enum stfs_level highest = STFS_LEVEL_NOTE;

	for (size_t i = 0; i < STFS_RULE_COUNT; i++)
		if (findings->counts[i] && rules[i].level > highest)
			highest = rules[i].level;
	return highest;
}

static bool refuses(enum stfs_rule rule, bool tolerant)
{
	return rules[rule].level >= STFS_LEVEL_REFUSED && !(tolerant && rules[rule].tolerable);
}

bool stfs_findings_tolerable(const struct stfs_findings *findings)
{
	for (size_t i = 0; i < STFS_RULE_COUNT; i++)
		if (findings->counts[i] && refuses((enum stfs_rule)i, true))
			return false;
	return true;
}

int stfs_findings_error(const struct stfs_findings *findings, bool tolerant, struct stfs_err *err)
{
	for (size_t i = 0; i < findings->count; i++) {
		const struct stfs_finding *f = &findings->items[i];

		if (refuses(f->rule, tolerant))
			return stfs_err_set(err, -EBADMSG, f->position, "%s (rule %s)", f->message,
					    rules[f->rule].name);
	}
	return 0;
}
