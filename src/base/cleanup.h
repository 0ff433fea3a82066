/* SPDX-License-Identifier: MIT */
/*
 * Scope-bound ownership. A variable marked with one of these is released when it goes out of
 * scope; stfs_steal_ptr() and stfs_steal_fd() hand the resource on.
 */
#ifndef STFS_BASE_CLEANUP_H
#define STFS_BASE_CLEANUP_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define STFS_CLEANUP(function) __attribute__((cleanup(function)))
#define STFS_AUTO_FREE STFS_CLEANUP(stfs_cleanup_free)
#define STFS_AUTO_FD STFS_CLEANUP(stfs_cleanup_fd)
#define STFS_AUTO_FILE STFS_CLEANUP(stfs_cleanup_file)

/* `pointer` is the address of a pointer of any type. */
static inline void stfs_cleanup_free(void *pointer)
{
	free(*(void **)pointer);
}

static inline void stfs_cleanup_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void stfs_cleanup_file(FILE **file)
{
	if (*file)
		fclose(*file);
}

static inline int stfs_steal_fd(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

/* Returns *pointer and clears it; `pointer` is the address of a pointer of any type. */
static inline void *stfs_steal_ptr(void *pointer)
{
	void *taken = *(void **)pointer;

	*(void **)pointer = NULL;
	return taken;
}

#endif
