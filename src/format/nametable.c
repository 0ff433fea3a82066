/* SPDX-License-Identifier: MIT */
#include "format/nametable.h"

#include <errno.h>
#include <stdlib.h>

int stfs_nametable_make(struct stfs_nametable *table, const struct stfs_sipkey *key, uint32_t count)
{
	size_t size = 4;

	/* At most half of it is ever in use, so there is always a free slot to end a search. */
	while (size / 2 < count)
		size *= 2;
	table->key = *key;
	table->mask = (uint32_t)(size - 1);
	table->slots = reallocarray(NULL, size, sizeof(*table->slots));
	if (!table->slots)
		return -ENOMEM;
	memset(table->slots, 0xff, size * sizeof(*table->slots));
	return 0;
}

void stfs_nametable_free(struct stfs_nametable *table)
{
	free(table->slots);
	table->slots = NULL;
}

uint32_t *stfs_nametable_slot(const struct stfs_nametable *table, struct stfs_str name,
			      stfs_nametable_name name_of, const void *owner)
{
	uint32_t slot = (uint32_t)stfs_siphash(&table->key, name) & table->mask;

	while (table->slots[slot] != STFS_NO_NUMBER &&
	       !stfs_str_equal(name_of(owner, table->slots[slot]), name))
		slot = (slot + 1) & table->mask;
	return &table->slots[slot];
}
