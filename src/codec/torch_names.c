/* SPDX-License-Identifier: MIT */
/* Names made unique, and tensors of the same bytes found. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "codec/torch_internal.h"

/* Names of tensors or of leaves: a number finds its name through `name`. */
struct naming {
	struct stfs_torch *torch;
	struct stfs_str *(*name)(struct stfs_torch *torch, uint32_t number);
	bool reserved; /* "__metadata__" is taken */
	struct stfs_nametable table;
	uint32_t *next; /* owned; of each number the next suffix to try for another of its name */
};

static struct stfs_str *tensor_name(struct stfs_torch *torch, uint32_t number)
{
	return &torch->tensors[number].name;
}

static struct stfs_str *leaf_name(struct stfs_torch *torch, uint32_t number)
{
	return &torch->leaves.items[number].name;
}

static struct stfs_str name_of(const void *owner, uint32_t number)
{
	const struct naming *naming = owner;

	return *naming->name(naming->torch, number);
}

/* The slot of `name`, or NULL when it is taken, by *holder (STFS_NO_NUMBER: nobody may have it). */
static uint32_t *free_slot(struct naming *naming, struct stfs_str name, uint32_t *holder)
{
	uint32_t *slot = stfs_nametable_slot(&naming->table, name, name_of, naming);

	*holder = *slot;
	if (naming->reserved && stfs_str_is(name, STFS_TORCH_METADATA))
		return NULL;
	return *slot == STFS_NO_NUMBER ? slot : NULL;
}

/* "name~2", "~3" and so on. No suffix is tried twice for a name, so all of them take linear time. */
static int rename_one(struct naming *naming, uint32_t number, uint32_t holder)
{
	struct stfs_str *name = naming->name(naming->torch, number), old = *name, kept;
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	char quoted[STFS_QUOTED_MAX];
	uint32_t suffix = 2, *counter = holder == STFS_NO_NUMBER ? &suffix : &naming->next[holder], *slot, other;
	int r;

	do {
		stfs_buf_clear(&text);
		stfs_buf_add_str(&text, old);
		r = stfs_buf_printf(&text, "~%u", (*counter)++);
		slot = r < 0 ? NULL : free_slot(naming, stfs_buf_str(&text), &other);
	} while (r == 0 && !slot);
	naming->torch->name_bytes += text.len;
	if (r == 0 && naming->torch->name_bytes > 2ul * STFS_TORCH_NAMES_MAX)
		return -EFBIG;
	if (r == 0)
		r = stfs_texts_keep(&naming->torch->texts, stfs_buf_str(&text), &kept);
	if (r < 0)
		return r;
	*slot = number;
	*name = kept;
	return stfs_torch_remark(naming->torch, &naming->torch->notes, kept, "called so because \"%s\" is %s",
				 stfs_quote(old, quoted),
				 holder == STFS_NO_NUMBER ? "no name for a tensor" : "taken");
}

static int settle(struct naming *naming, uint32_t count)
{
	struct stfs_sipkey key;
	int r = stfs_sipkey_random(&key);

	if (r == 0)
		r = stfs_nametable_make(&naming->table, &key, count);
	naming->next = calloc(count + 1ul, sizeof(*naming->next));
	if (!naming->next)
		r = -ENOMEM;
	for (uint32_t i = 0; r == 0 && i < count; i++) {
		struct stfs_str name = *naming->name(naming->torch, i);
		uint32_t holder, *slot = free_slot(naming, name, &holder);

		naming->next[i] = 2;
		if (slot)
			*slot = i;
		else
			r = rename_one(naming, i, holder);
	}
	stfs_nametable_free(&naming->table);
	free(naming->next);
	return r;
}

int stfs_torch_settle_names(struct stfs_torch *torch)
{
	struct naming tensors = {.torch = torch, .name = tensor_name, .reserved = true};
	struct naming leaves = {.torch = torch, .name = leaf_name};
	int r = settle(&tensors, (uint32_t)torch->tensor_count);

	return r < 0 ? r : settle(&leaves, (uint32_t)torch->leaves.count);
}

/* ---- Twins ---- */

static int compare_u64(uint64_t a, uint64_t b)
{
	return (a > b) - (a < b);
}

/* By storage, then by all that makes two tensors the same. */
static int compare(const struct stfs_torch *torch, const struct stfs_torch_tensor *a,
		   const struct stfs_torch_tensor *b)
{
	int order = compare_u64(a->storage, b->storage);

	if (order == 0)
		order = compare_u64(a->begin, b->begin);
	if (order == 0)
		order = strcmp(a->element->name, b->element->name);
	if (order == 0)
		order = compare_u64(a->torch_rank, b->torch_rank);
	for (unsigned i = 0; order == 0 && i < a->torch_rank; i++)
		order = compare_u64(stfs_torch_shape(torch, a)[i], stfs_torch_shape(torch, b)[i]);
	for (unsigned i = 0; order == 0 && i < a->torch_rank; i++)
		order = compare_u64(stfs_torch_strides(torch, a)[i], stfs_torch_strides(torch, b)[i]);
	return order;
}

static int compare_numbers(const void *a, const void *b, void *data)
{
	const struct stfs_torch *torch = data;
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	int order = compare(torch, &torch->tensors[x], &torch->tensors[y]);

	return order ? order : compare_u64(x, y);
}

int stfs_torch_find_twins(struct stfs_torch *torch)
{
	STFS_AUTO_FREE uint32_t *sorted = calloc(torch->tensor_count + 1, sizeof(*sorted));
	struct stfs_torch_tensor *tensors = torch->tensors;

	if (!sorted)
		return -ENOMEM;
	for (uint32_t i = 0; i < torch->tensor_count; i++) {
		sorted[i] = i;
		torch->storages[tensors[i].storage].tensors++;
	}
	qsort_r(sorted, torch->tensor_count, sizeof(*sorted), compare_numbers, torch);
	for (size_t i = 1, first = 0; i < torch->tensor_count; i++) {
		if (compare(torch, &tensors[sorted[i]], &tensors[sorted[first]]) != 0)
			first = i;
		else if (tensors[sorted[i]].bytes)
			tensors[sorted[i]].twin = sorted[first];
	}
	for (uint32_t i = 0; i < torch->tensor_count; i++)
		tensors[i].shares = torch->storages[tensors[i].storage].tensors > 1;
	return 0;
}
