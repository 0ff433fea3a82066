/* SPDX-License-Identifier: MIT */
/*
 * One open .safetensors file.
 *
 * The header is read once, at opening. The file may change underneath (another program writes to
 * it, cuts it short): stfs_shard_check() compares the file's times and, when they moved, the header
 * byte for byte with the text kept in memory. A shard is in one of these states:
 *
 *   fresh    the file is as it was opened
 *   touched  its data changed, its header did not: reads go on, kept caches must not be trusted
 *   stale    its header is no longer the one that was read: every read is ESTALE, for ever
 *
 * Invariant S1: no byte is served by offsets of a header that the file no longer has, but for a
 * change within one tick of the file system's clock (test: mount/test_underneath.py).
 */
#ifndef STFS_STORE_SHARD_H
#define STFS_STORE_SHARD_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "format/header.h"
#include "store/mapping.h"

struct stfs_shard {
	char *name; /* owned: file name within the model's folder */
	int fd;     /* owned; -1 when it could not be opened */
	int status; /* 0, or -errno when it could not be read at all */
	uint64_t size; /* of the file, at opening */
	struct stat st; /* at opening */
	struct stfs_header *header; /* owned; NULL when there is none to speak of */
	struct stfs_findings findings;
	struct stfs_mapping mapping;

	pthread_mutex_t lock; /* guards what follows */
	struct timespec mtime, ctime; /* when the header was last known to be the file's */
	uint64_t known_size;
	bool stale;
	uint64_t touched; /* times that the data changed underneath */
};

/*
 * Opens `name` in `folder_fd` for reading, links followed, and reads its header. Never fails but
 * for want of memory: what is wrong is in status and findings. The caller owns the shard.
 */
int stfs_shard_open(struct stfs_shard *shard, int folder_fd, const char *name);
void stfs_shard_close(struct stfs_shard *shard);

/* Maps the file for stfs_mapping_at(); without it reads use pread. */
void stfs_shard_map(struct stfs_shard *shard);

/*
 * Whether the file is still what was opened: 0 fresh, 1 touched since the last call that said so,
 * -ESTALE, or -errno.
 */
int stfs_shard_check(struct stfs_shard *shard);

/* What is known of a shard's file since the last check. */
struct stfs_shard_view {
	struct timespec mtime, ctime;
	uint64_t size;
	uint64_t touched; /* times that its data changed underneath */
	bool stale;
};
struct stfs_shard_view stfs_shard_view(struct stfs_shard *shard);

#endif
