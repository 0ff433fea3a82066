/* SPDX-License-Identifier: MIT */
/*
 * Finds keys that occur twice in one object, for all objects that are open at a time: a stack of
 * hashed keys, cut back as objects end. The hash is keyed and 64 bits wide, so equal hashes are
 * equal keys but for one chance in 2^64 that no file can steer.
 */
#ifndef STFS_FORMAT_KEYSET_H
#define STFS_FORMAT_KEYSET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/siphash.h"

struct stfs_keyset_item {
	uint64_t hash;
	uint32_t pos; /* of the key in the text */
};

struct stfs_keyset {
	struct stfs_sipkey key;
	struct stfs_keyset_item *items; /* owned */
	size_t count, cap;
};

void stfs_keyset_free(struct stfs_keyset *set);

/* Adds a key (its characters, unescaped) of the innermost object. 0 or -ENOMEM. */
int stfs_keyset_add(struct stfs_keyset *set, struct stfs_str name, uint32_t pos);

/*
 * Ends the object whose keys begin at index `from`, and calls `twice` for each key that stood
 * there before, with the position of the later one.
 */
void stfs_keyset_close(struct stfs_keyset *set, size_t from,
		       void (*twice)(void *data, uint32_t pos, uint32_t first_pos), void *data);

#endif
