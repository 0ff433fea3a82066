/* SPDX-License-Identifier: MIT */
/*
 * Finds the number of a name: a hash table with open addressing that holds numbers alone, 4 bytes a
 * slot; the names stay with their owner, who is asked for them. The hash is keyed (base/siphash.h), so
 * that no file can choose names that collide.
 */
#ifndef STFS_FORMAT_NAMETABLE_H
#define STFS_FORMAT_NAMETABLE_H

#include <stdint.h>

#include "base/siphash.h"

#define STFS_NO_NUMBER UINT32_MAX

struct stfs_nametable {
	struct stfs_sipkey key;
	uint32_t *slots; /* owned; STFS_NO_NUMBER where free */
	uint32_t mask;   /* slots less one */
};

/* The name that has a number in the table. */
typedef struct stfs_str (*stfs_nametable_name)(const void *owner, uint32_t number);

/* Makes room for `count` names under `key`: 8 to 16 bytes for each. 0 or -ENOMEM. */
int stfs_nametable_make(struct stfs_nametable *table, const struct stfs_sipkey *key, uint32_t count);
void stfs_nametable_free(struct stfs_nametable *table);

/* Where the number of `name` stands, or, holding STFS_NO_NUMBER, where it is to be put. */
uint32_t *stfs_nametable_slot(const struct stfs_nametable *table, struct stfs_str name,
			      stfs_nametable_name name_of, const void *owner);

#endif
