/* SPDX-License-Identifier: MIT */
#include "store/mapping.h"

#include <stddef.h>
#include <sys/mman.h>

#include "base/io.h"

void stfs_mapping_open(struct stfs_mapping *mapping, int fd, uint64_t len)
{
	void *base = MAP_FAILED;

	mapping->fd = fd;
	mapping->len = len;
	atomic_init(&mapping->lost, false);
	atomic_init(&mapping->served, 0);
	if (len > 0 && len <= PTRDIFF_MAX)
		base = stfs_io->mmap(NULL, len, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd, 0);
	mapping->base = base == MAP_FAILED ? NULL : base;
}

void stfs_mapping_close(struct stfs_mapping *mapping)
{
	/* A lost mapping is no longer ours to take away: something else may lie there. */
	if (mapping->base && !atomic_load(&mapping->lost))
		stfs_io->munmap(mapping->base, mapping->len);
	mapping->base = NULL;
}

const char *stfs_mapping_at(const struct stfs_mapping *mapping, uint64_t offset, uint64_t len)
{
	if (!mapping->base || atomic_load(&mapping->lost) || offset > mapping->len || len > mapping->len - offset)
		return NULL;
	return mapping->base + offset;
}

void stfs_mapping_served(struct stfs_mapping *mapping, uint64_t len)
{
	uint64_t total = atomic_fetch_add_explicit(&mapping->served, len, memory_order_relaxed);

	/* Exactly one thread sees the sum pass the mark. */
	if (total >= STFS_MAPPING_RENEW || total + len < STFS_MAPPING_RENEW)
		return;
	/* When this fails, the kernel may have taken the old mapping away already. */
	if (stfs_io->mmap(mapping->base, mapping->len, PROT_READ,
			  MAP_SHARED | MAP_NORESERVE | MAP_FIXED, mapping->fd, 0) == mapping->base)
		atomic_store_explicit(&mapping->served, 0, memory_order_relaxed);
	else
		atomic_store(&mapping->lost, true);
}
