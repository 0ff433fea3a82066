/* SPDX-License-Identifier: MIT */
#include "store/mapping.h"

#include <stddef.h>
#include <sys/mman.h>

#include "base/io.h"

/* A mapping of the whole file, or NULL. */
static char *lay(const struct stfs_mapping *mapping)
{
	void *base = stfs_io->mmap(NULL, mapping->len, PROT_READ, MAP_SHARED | MAP_NORESERVE,
				   mapping->fd, 0);

	return base == MAP_FAILED ? NULL : base;
}

void stfs_mapping_open(struct stfs_mapping *mapping, int fd, uint64_t len)
{
	pthread_rwlockattr_t attributes;

	mapping->fd = fd;
	mapping->len = len;
	atomic_init(&mapping->served, 0);
	mapping->base = len > 0 && len <= PTRDIFF_MAX ? lay(mapping) : NULL;
	mapping->mapped = mapping->base != NULL;
	if (!mapping->mapped)
		return;
	pthread_rwlockattr_init(&attributes);
#ifdef __GLIBC__
	/* Readers that come one after the other must not keep the change waiting for ever. */
	pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
#endif
	pthread_rwlock_init(&mapping->lock, &attributes);
	pthread_rwlockattr_destroy(&attributes);
}

void stfs_mapping_close(struct stfs_mapping *mapping)
{
	if (!mapping->mapped)
		return;
	stfs_io->munmap(mapping->base, mapping->len);
	pthread_rwlock_destroy(&mapping->lock);
	mapping->base = NULL;
	mapping->mapped = false;
}

const char *stfs_mapping_hold(struct stfs_mapping *mapping, uint64_t offset, uint64_t len)
{
	if (mapping->len == 0 || offset > mapping->len || len > mapping->len - offset)
		return NULL;
	if (!mapping->mapped)
		return NULL;
	pthread_rwlock_rdlock(&mapping->lock);
	return mapping->base + offset;
}

/* When there is no room for a second one, the old mapping goes on serving. */
static void renew(struct stfs_mapping *mapping)
{
	char *fresh = lay(mapping), *old;

	if (!fresh)
		return;
	pthread_rwlock_wrlock(&mapping->lock);
	old = mapping->base;
	mapping->base = fresh;
	pthread_rwlock_unlock(&mapping->lock);
	stfs_io->munmap(old, mapping->len);
}

void stfs_mapping_release(struct stfs_mapping *mapping, uint64_t served)
{
	uint64_t total = atomic_fetch_add_explicit(&mapping->served, served, memory_order_relaxed);

	pthread_rwlock_unlock(&mapping->lock);
	/* Exactly one thread sees the sum pass the mark. */
	if (total >= STFS_MAPPING_RENEW || total + served < STFS_MAPPING_RENEW)
		return;
	renew(mapping);
	atomic_store_explicit(&mapping->served, 0, memory_order_relaxed);
}
