/* SPDX-License-Identifier: MIT */
/*
 * A read-only shared mapping of a model file, for replies that the kernel copies straight from the
 * page cache. Nothing in user space ever touches it: when the file is cut short underneath, the
 * kernel's copy fails with EFAULT, where our own access would be a SIGBUS.
 *
 * Page tables grow with what was served (2 MiB a GiB), and a mapping keeps them: after every
 * STFS_MAPPING_RENEW bytes a new mapping takes its place and the old one is taken away, which frees
 * them. Who uses an address holds the mapping meanwhile; the change waits for all holders, and those
 * who come later wait for it (it is two system calls).
 *
 * Never laid over itself with MAP_FIXED: when that fails the kernel may have removed the old range
 * already, and memory of ours could come to lie where a reply is being copied from.
 */
#ifndef STFS_STORE_MAPPING_H
#define STFS_STORE_MAPPING_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define STFS_MAPPING_RENEW (256ull << 20)

struct stfs_mapping {
	pthread_rwlock_t lock; /* guards base; held shared while an address is in use */
	bool mapped;           /* false when the file could not be mapped: read it with pread */
	char *base;
	uint64_t len;          /* of the file when it was mapped */
	int fd;                /* borrowed */
	_Atomic uint64_t served; /* bytes since it was laid last */
};

/* Never fails: without a mapping, `mapped` is false. An empty file has none. */
void stfs_mapping_open(struct stfs_mapping *mapping, int fd, uint64_t len);
/* Nobody may hold it. Does nothing for a struct of zeros. */
void stfs_mapping_close(struct stfs_mapping *mapping);

/*
 * Address of bytes [offset, offset + len) for a system call to read from, and the mapping held until
 * stfs_mapping_release(); or NULL, and nothing held.
 */
const char *stfs_mapping_hold(struct stfs_mapping *mapping, uint64_t offset, uint64_t len);

/* Ends a hold after which `served` bytes were read; may put a new mapping in place. Any thread. */
void stfs_mapping_release(struct stfs_mapping *mapping, uint64_t served);

#endif
