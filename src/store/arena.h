/* SPDX-License-Identifier: MIT */
/*
 * The spool of a mount: bytes that were written and are not the model's yet, in one file without a name
 * beside the model, given out in blocks. A block that is given out reads as zeros until it is written.
 *
 * All of it may be called from any thread; its lock is the innermost one.
 */
#ifndef STFS_STORE_ARENA_H
#define STFS_STORE_ARENA_H

#include <stdbool.h>
#include <stdint.h>

/* A spool begins with room for the header of a rescue file; a hole until then. */
#define STFS_SPOOL_HEADER (4u << 20)
#define STFS_ARENA_BLOCK (64u << 10)

struct stfs_arena;

/* The folders, of the spool and of the model, are duplicated; the file is made when the first block is taken. 0 or -errno. */
int stfs_arena_open(int folder_fd, int model_folder_fd, const char *model_name, struct stfs_arena **arena);
/* NULL does nothing. Blocks that are still out are gone with the file. */
void stfs_arena_close(struct stfs_arena *arena);

/* The file: the arena's; -1 until the first block was taken. */
int stfs_arena_fd(const struct stfs_arena *arena);
/* Bytes of the file up to the end of the last block that is out; STFS_SPOOL_HEADER when none is. */
uint64_t stfs_arena_end(struct stfs_arena *arena);
/* Its folder: the arena's. */
int stfs_arena_folder(const struct stfs_arena *arena);
/* Bytes of all blocks that are out. */
uint64_t stfs_arena_used(struct stfs_arena *arena);

/* Where a block begins in the file. */
static inline uint64_t stfs_arena_offset(uint64_t block)
{
	return STFS_SPOOL_HEADER + block * STFS_ARENA_BLOCK;
}

/*
 * Takes a run of 1 to `wanted` blocks (not 0): at block `after` when that is free, so that a file lies in
 * one piece (UINT64_MAX: anywhere), else where the whole run fits.
 *
 * A byte of the spool needs a second one in the model when it is committed. So it is -ENOSPC when the spool's file
 * system has no room for the bytes of the run, or the model's for them and those that were written to the blocks
 * that are out; most often they are one, which then needs both. -EFBIG when its files do not become that long; another -errno.
 */
int stfs_arena_take(struct stfs_arena *arena, uint64_t after, uint64_t wanted, uint64_t *first,
		    uint64_t *count);

/* Whether all that was written can be read again, as far as the kernel knows: 0, or -EIO for ever after. */
int stfs_arena_check(struct stfs_arena *arena);

/*
 * Whether files could grow by so many bytes now, which are `spooled`, or zeros that need room in the model alone: 0 or
 * -ENOSPC, -errno. Takes nothing.
 */
int stfs_arena_check_room(struct stfs_arena *arena, uint64_t bytes, bool spooled);

/* The file has become another's: from now on blocks that come back leave it as it is, and none can be taken. */
void stfs_arena_leave(struct stfs_arena *arena);

/* Nobody reads or writes them any more; their room on the disk is freed. Any part of any run. */
void stfs_arena_give_back(struct stfs_arena *arena, uint64_t first, uint64_t count);

/*
 * Makes the file of a spool: without a name where the file system knows such files; else `*name`
 * is its name in the folder (".MODEL" and the suffix), the caller's to free, and the file is
 * locked. The descriptor or -errno.
 */
int stfs_arena_make_file(int folder_fd, const char *model_name, const char *suffix, char **name);

#endif
