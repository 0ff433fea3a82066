/* SPDX-License-Identifier: MIT */
/*
 * A read-only shared mapping of a model file, for replies that the kernel copies straight from the
 * page cache. Nothing in user space ever touches it: when the file is cut short underneath, the
 * kernel's copy fails with EFAULT, where our own access would be a SIGBUS.
 *
 * Page tables grow with what was served (2 MiB a GiB), and a mapping keeps them: after every
 * STFS_MAPPING_RENEW bytes the mapping is laid anew over itself, which frees them. mmap(2) with
 * MAP_FIXED replaces the range under the address space's lock, so that a copy under way in another
 * thread meets the old mapping or the new one, never a gap.
 */
#ifndef STFS_STORE_MAPPING_H
#define STFS_STORE_MAPPING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define STFS_MAPPING_RENEW (1ull << 30)

struct stfs_mapping {
	char *base;   /* NULL when the file could not be mapped: read it with pread instead */
	_Atomic bool lost; /* it could not be laid anew: nothing may be read at base any more */
	uint64_t len; /* of the file when it was mapped */
	int fd;       /* borrowed */
	_Atomic uint64_t served; /* bytes since it was laid last */
};

/* Never fails: without a mapping, base is NULL. An empty file has none. */
void stfs_mapping_open(struct stfs_mapping *mapping, int fd, uint64_t len);
void stfs_mapping_close(struct stfs_mapping *mapping);

/* Address of bytes [offset, offset + len) for a system call to read from, or NULL. */
const char *stfs_mapping_at(const struct stfs_mapping *mapping, uint64_t offset, uint64_t len);

/* To be called after `len` bytes were served from it; any thread. */
void stfs_mapping_served(struct stfs_mapping *mapping, uint64_t len);

#endif
