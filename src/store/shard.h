/* SPDX-License-Identifier: MIT */
/*
 * One open file of a model: a .safetensors file, or a PyTorch checkpoint that is shown as one
 * (store/checkpoint.h).
 *
 * The header is read once, at opening. The file may change underneath (another program writes to
 * it, cuts it short): stfs_shard_check() compares the file's times and, when they moved, the header
 * byte for byte with the text kept in memory; of a checkpoint, its pickles and what says where its
 * storages are (stfs_torch_same). A shard is in one of these states:
 *
 *   fresh    the file is as it was opened
 *   touched  its data changed, its header did not: reads go on, kept caches must not be trusted
 *   stale    its header is no longer the one that was read: every read is ESTALE, for ever
 *
 * Invariants (tests: unit/test_store.c, mount/test_underneath.py):
 *   S1  no byte is served by offsets of a header that a check could know to be no longer the file's
 *       (stale_for_ever_once_the_header_differs, compares_the_whole_of_a_long_header). What a check
 *       cannot know: a change within one tick of the file system's clock after the last one; one by
 *       a mapping of another program whose page is dirty already, for such stores move no times
 *       until the page was written back; and one between the check and the copy of the bytes.
 *   S2  a stale shard stays stale (stale_for_ever_once_the_header_differs).
 *   S3  one thread at a time compares the header, without the lock; a check relies only on a
 *       comparison that began after it was called (many_threads_check_at_once,
 *       looks_while_another_thread_compares).
 */
#ifndef STFS_STORE_SHARD_H
#define STFS_STORE_SHARD_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "format/header.h"
#include "store/mapping.h"

struct stfs_torch;

struct stfs_shard {
	char *name; /* owned: file name within the model's folder */
	int fd;     /* owned; -1 when it could not be opened */
	int status; /* 0, or -errno when it could not be read at all */
	bool irregular; /* because it is a pipe, a socket, a device */
	uint64_t size; /* of the file, at opening */
	struct stat st; /* at opening */
	/* Owned; NULL when there is none to speak of. Of a checkpoint it was made, and offsets in it are of
	 * nothing: where bytes are is asked of stfs_model_tensor(). */
	struct stfs_header *header;
	/* Owned: of a file that is read as a checkpoint, also where it is refused (the header is NULL then);
	 * else NULL. Tensor i of the header is its tensor i. */
	struct stfs_torch *torch;
	struct stfs_findings findings;
	struct stfs_mapping mapping;

	pthread_mutex_t lock; /* guards what follows */
	struct timespec mtime, ctime; /* when the header was last known to be the file's */
	uint64_t known_size;
	bool stale;
	bool told_stale;  /* in the log */
	uint64_t touched; /* times that the data changed underneath */
	bool checking;    /* a thread compares the header */
	uint64_t checks_begun, checks_ended; /* such comparisons */
	int last_check;   /* of the last that ended: 0, or -errno */
	pthread_cond_t checked; /* one has ended */
};

/*
 * Opens `name` in `folder_fd`, as stfs_resolve_open() does with `flags`, and reads its header. When
 * `given` is not -1 it is the file, open already, of which a duplicate is taken. What is wrong with
 * the file is in status and findings; fails only for want of memory or (another -errno) of random
 * numbers, and then owns nothing. Else the caller owns the shard. Waits for a lease to be broken
 * (stfs_resolve_open).
 */
int stfs_shard_open(struct stfs_shard *shard, int folder_fd, const char *name, unsigned flags,
		    int given);
void stfs_shard_close(struct stfs_shard *shard);
/* Closes the file, which drops its lock; what the header says stays. Nobody may read meanwhile, or later. */
void stfs_shard_let_go(struct stfs_shard *shard);

/* Maps the file for stfs_mapping_hold(); without it reads use pread. */
void stfs_shard_map(struct stfs_shard *shard);

/*
 * Whether the file is still what was opened: 0 fresh, 1 touched since the last call that said so,
 * -ESTALE, or another -errno. May read the whole header, and waits for another thread that does. For
 * those who are about to read data.
 */
int stfs_shard_check(struct stfs_shard *shard);

/* What is known of a shard's file since the last check. Never waits for one. */
struct stfs_shard_view {
	struct timespec mtime, ctime;
	uint64_t size;
	uint64_t touched; /* times that its data changed underneath */
	bool stale;
};
struct stfs_shard_view stfs_shard_view(struct stfs_shard *shard);

#endif
