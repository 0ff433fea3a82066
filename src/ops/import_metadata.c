/* SPDX-License-Identifier: MIT */
/* The metadata of an imported model: what says how its tensors were tied, its format, and leaves. */
#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "ops/import_internal.h"

/* A pair in the making: of those with the same key the first one stays. */
struct entry {
	struct stfs_header_pair pair;
	size_t order;
};

static int by_key(const void *left, const void *right)
{
	const struct entry *a = left, *b = right;
	int order = stfs_str_compare(a->pair.key, b->pair.key);

	return order ? order : a->order < b->order ? -1 : a->order > b->order;
}

static int by_order(const void *left, const void *right)
{
	const struct entry *a = left, *b = right;

	return a->order < b->order ? -1 : a->order > b->order;
}

/* Drops those whose key an earlier one has: to import->skipped. Leaves alone can be: the rest is unique. */
static size_t drop_equal(struct stfs_import *import, struct entry *entries, size_t count)
{
	size_t kept = 0;

	qsort(entries, count, sizeof(*entries), by_key);
	for (size_t i = 0; i < count; i++) {
		if (i && stfs_str_equal(entries[i].pair.key, entries[i - 1].pair.key)) {
			import->skipped[import->skipped_count++] = entries[i].pair.key;
			continue;
		}
		entries[kept++] = entries[i];
	}
	qsort(entries, kept, sizeof(*entries), by_order);
	return kept;
}

/* As safetensors.torch.save_model() writes them: the name that was dropped, and the one that stayed. */
static size_t add_ties(const struct stfs_import *import, struct entry *entries, size_t count)
{
	for (size_t i = 0; i < import->tie_count; i++, count++)
		entries[count] = (struct entry){{import->ties[i].name, import->ties[i].kept}, count};
	return count;
}

int stfs_import_stage_metadata(struct stfs_import *import, struct stfs_edit *edit, struct stfs_err *err)
{
	const struct stfs_torch_remarks *leaves = stfs_torch_leaves(import->torch);
	size_t room = 1 + import->tie_count + leaves->count, count;
	STFS_AUTO_FREE struct entry *entries = calloc(room, sizeof(*entries));
	STFS_AUTO_FREE struct stfs_header_pair *pairs = calloc(room, sizeof(*pairs));

	import->skipped = calloc(room, sizeof(*import->skipped));
	if (!entries || !pairs || !import->skipped)
		return stfs_err_errno(err, -ENOMEM, "%s", import->path);
	entries[0] = (struct entry){{stfs_str_from("format"), stfs_str_from("pt")}, 0};
	count = add_ties(import, entries, 1);
	for (size_t i = 0; !import->options.no_metadata && i < leaves->count; i++, count++)
		entries[count] = (struct entry){{leaves->items[i].name, leaves->items[i].text}, count};
	count = drop_equal(import, entries, count);
	for (size_t i = 0; i < count; i++)
		pairs[i] = entries[i].pair;
	return stfs_edit_set_all(edit, pairs, count, err);
}
