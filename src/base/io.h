/* SPDX-License-Identifier: MIT */
/*
 * The I/O seam: a model's bytes are reached through this one table, so that a test can make any
 * call fail, fall short or not exist (a file system without mmap) without touching its caller.
 */
#ifndef STFS_BASE_IO_H
#define STFS_BASE_IO_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct stfs_io {
	/* As pread(2): bytes, 0 at the end of the file, or -1 with errno. */
	ssize_t (*pread)(int fd, void *buffer, size_t len, off_t offset);
	/* As mmap(2): MAP_FAILED with errno. */
	void *(*mmap)(void *address, size_t len, int prot, int flags, int fd, off_t offset);
	int (*munmap)(void *address, size_t len);
};

/* The system's own calls; a test may point it elsewhere before it opens anything. */
extern const struct stfs_io stfs_io_system;
extern const struct stfs_io *stfs_io;

/*
 * Reads `len` bytes at `offset` of `fd`, going on after short reads and EINTR. Returns the bytes
 * read, fewer than `len` only at the end of the file, or -errno.
 */
ssize_t stfs_io_pread_full(int fd, void *buffer, size_t len, uint64_t offset);

#endif
