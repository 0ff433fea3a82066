/* SPDX-License-Identifier: MIT */
#include "format/keyset.h"

#include <errno.h>
#include <stdlib.h>

void stfs_keyset_free(struct stfs_keyset *set)
{
	free(set->items);
	set->items = NULL;
	set->count = set->cap = 0;
}

int stfs_keyset_add(struct stfs_keyset *set, struct stfs_str name, uint32_t pos)
{
	struct stfs_keyset_item *items;
	size_t cap;

	if (set->count == set->cap) {
		/* By half: with 16 bytes a key, this stays within the memory bound of a header. */
		cap = set->cap < 32 ? 32 : set->cap + set->cap / 2;
		items = reallocarray(set->items, cap, sizeof(*items));
		if (!items)
			return -ENOMEM;
		set->items = items;
		set->cap = cap;
	}
	set->items[set->count++] =
		(struct stfs_keyset_item){.hash = stfs_siphash(&set->key, name), .pos = pos};
	return 0;
}

static inline bool before(const struct stfs_keyset_item *a, const struct stfs_keyset_item *b)
{
	return a->hash != b->hash ? a->hash < b->hash : a->pos < b->pos;
}

static inline void swap(struct stfs_keyset_item *a, struct stfs_keyset_item *b)
{
	struct stfs_keyset_item kept = *a;

	*a = *b;
	*b = kept;
}

/*
 * Quicksort in place (qsort of glibc takes as much memory again). Its bad cases need an order
 * that the keyed hash does not let a file choose; equal hashes stop both scans, so that they
 * split evenly.
 */
static void sort(struct stfs_keyset_item *items, size_t count)
{
	while (count > 1) {
		struct stfs_keyset_item pivot = items[count / 2];
		size_t low = 0, high = count - 1;

		for (;;) {
			while (before(&items[low], &pivot))
				low++;
			while (before(&pivot, &items[high]))
				high--;
			if (low >= high)
				break;
			swap(&items[low++], &items[high--]);
		}
		/* items[0..low) <= pivot <= items[low..); the shorter side by recursion, so that
		 * the stack stays below log2(count) frames. */
		if (low < count - low) {
			sort(items, low);
			items += low;
			count -= low;
		} else {
			sort(items + low, count - low);
			count = low;
		}
	}
}

void stfs_keyset_close(struct stfs_keyset *set, size_t from,
		       void (*twice)(void *data, uint32_t pos, uint32_t first_pos), void *data)
{
	size_t count = set->count - from;
	struct stfs_keyset_item *items;

	set->count = from;
	if (count < 2)
		return;
	items = set->items + from;
	sort(items, count);
	for (size_t i = 1; i < count; i++)
		if (items[i].hash == items[i - 1].hash)
			twice(data, items[i].pos, items[i - 1].pos);
}
