/* SPDX-License-Identifier: MIT */
/*
 * The metadata of an imported model: its format, what says how its tensors were tied, and leaves. Leaves of a
 * dict "__metadata__" are metadata already, as `stfs export-pytorch --metadata` writes them: they keep their keys.
 */
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
	for (; import; import = import->next)
		for (size_t i = 0; i < import->tie_count; i++, count++)
			entries[count] = (struct entry){{import->ties[i].name, import->ties[i].kept}, count};
	return count;
}

/* Takes the prefix off the name of a leaf that was metadata before. */
static bool is_own(struct stfs_str name, struct stfs_str *key)
{
	static const char prefix[] = STFS_TORCH_METADATA ".";

	if (!stfs_str_starts_with(name, prefix))
		return false;
	*key = stfs_str_slice(name.ptr + sizeof(prefix) - 1, name.len - (sizeof(prefix) - 1));
	return true;
}

/* Leaves of one file that were metadata before, or the others. */
static size_t add_leaves_of(const struct stfs_import *part, struct entry *entries, size_t count, bool own)
{
	const struct stfs_torch_remarks *leaves = stfs_torch_leaves(part->torch);

	for (size_t i = 0; i < leaves->count; i++) {
		struct stfs_str key = leaves->items[i].name;

		if (is_own(leaves->items[i].name, &key) != own)
			continue;
		entries[count] = (struct entry){{key, leaves->items[i].text}, count};
		count++;
	}
	return count;
}

static size_t add_leaves(const struct stfs_import *import, struct entry *entries, size_t count, bool own)
{
	for (; import && !import->options.no_metadata; import = import->next)
		count = add_leaves_of(import, entries, count, own);
	return count;
}

static size_t count_entries(const struct stfs_import *import)
{
	size_t count = 1; /* the format */

	for (; import; import = import->next)
		count += import->tie_count + stfs_torch_leaves(import->torch)->count;
	return count;
}

static bool has_key(const struct entry *entries, size_t count, const char *key)
{
	for (size_t i = 0; i < count; i++)
		if (stfs_str_is(entries[i].pair.key, key))
			return true;
	return false;
}

int stfs_import_stage_metadata(struct stfs_import *import, struct stfs_edit *edit, struct stfs_err *err)
{
	size_t room = count_entries(import), count;
	STFS_AUTO_FREE struct entry *entries = calloc(room, sizeof(*entries));
	STFS_AUTO_FREE struct stfs_header_pair *pairs = calloc(room, sizeof(*pairs));

	import->skipped = calloc(room, sizeof(*import->skipped));
	if (!entries || !pairs || !import->skipped)
		return stfs_err_errno(err, -ENOMEM, "%s", stfs_import_path(import));
	count = add_ties(import, entries, 0);
	count = add_leaves(import, entries, count, true);
	if (!has_key(entries, count, "format")) {
		entries[count] = (struct entry){{stfs_str_from("format"), stfs_str_from("pt")}, count};
		count++;
	}
	count = add_leaves(import, entries, count, false);
	count = drop_equal(import, entries, count);
	for (size_t i = 0; i < count; i++)
		pairs[i] = entries[i].pair;
	return stfs_edit_set_all(edit, pairs, count, err);
}
