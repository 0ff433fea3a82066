/* SPDX-License-Identifier: MIT */
/* What a file in another format is known by, before and after a crash. */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "commit/internal.h"
#include "format/header.h"

/* Bytes at either end: heads and directories of archives, the first pickles. */
#define KNOWN_BY (64u << 10)

int stfs_commit_foreign_hash(int fd, uint64_t length, uint64_t *word, uint64_t *hash)
{
	STFS_AUTO_FREE char *bytes = malloc(2 * KNOWN_BY);
	size_t head = stfs_min_u64(length, KNOWN_BY), tail = stfs_min_u64(length - head, KNOWN_BY);
	int r = bytes ? 0 : -ENOMEM;

	if (r == 0 && length < STFS_LENGTH_WORD)
		return -EOPNOTSUPP;
	if (r == 0)
		r = stfs_io_read_exactly(fd, bytes, head, 0);
	if (r == 0 && tail)
		r = stfs_io_read_exactly(fd, bytes + head, tail, length - tail);
	if (r < 0)
		return r;
	*word = stfs_load_le64(bytes);
	*hash = stfs_commit_hash(stfs_str_slice(bytes, head + tail));
	/* Recovery must be able to tell it from a poisoned one, and from one whose first block has gone up. */
	return *word & STFS_POISON || *word == 0 ? -EOPNOTSUPP : 0;
}
