/* SPDX-License-Identifier: MIT */
/* Bytes of a file, or of memory, looked at in any order; a file is read in pieces. */
#ifndef STFS_CODEC_WINDOW_H
#define STFS_CODEC_WINDOW_H

#include <stdint.h>

#include "base/str.h"

#define STFS_WINDOW_PIECE 65536

struct stfs_window {
	int fd;            /* borrowed */
	const char *bytes; /* borrowed: all of them; NULL when they are in the file */
	uint64_t len;
	uint64_t from; /* what `piece` begins with */
	size_t have;
	size_t step;   /* that are read at a time */
	uint64_t read; /* bytes that were read so far */
	int status;    /* 0, or -errno: nothing is read any more */
	char piece[STFS_WINDOW_PIECE];
};

void stfs_window_of_file(struct stfs_window *window, int fd, uint64_t len);
void stfs_window_of_memory(struct stfs_window *window, struct stfs_str bytes);

/*
 * The `want` bytes at `at`, at most STFS_WINDOW_PIECE; fewer at the end, none once `status` is set. They stay until the
 * next call.
 */
struct stfs_str stfs_window_at(struct stfs_window *window, uint64_t at, size_t want);

#endif
