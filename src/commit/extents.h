/* SPDX-License-Identifier: MIT */
/*
 * Where a file's bytes lie on the disk, and how far an interrupted block shift has come.
 *
 * COLLAPSE_RANGE and INSERT_RANGE move extents one after the other, in several transactions: a crash
 * in the middle leaves a file of which one part has moved and the other has not, on a file system
 * that is clean (seen on ext4 and XFS: tests/mount/test_shift_crash.py). Nothing moves on the disk,
 * though; so the map from before (FIEMAP), compared with the map of now, tells how far it came, and
 * the rest is one more shift of the hole that travels through the file:
 *
 *     collapse, half done:   | kept | moved down | hole | not yet moved |  -> collapse the hole
 *     insert, half done:     | kept | not yet moved | hole | moved up |    -> collapse, insert anew
 *
 * Collapses go from the front to the back, inserts from the back to the front, and the length is set
 * last by the one and first by the other (ext4: fs/ext4/extents.c, ext4_collapse_range and
 * ext4_insert_range; XFS: fs/xfs/xfs_file.c, xfs_falloc_collapse_range and xfs_falloc_insert_range).
 */
#ifndef STFS_COMMIT_EXTENTS_H
#define STFS_COMMIT_EXTENTS_H

#include <stddef.h>
#include <stdint.h>

#include "layout/layout.h"

/* Bytes [logical, logical + len) of the file lie at `physical` on the disk. */
struct stfs_extent {
	uint64_t logical, physical, len;
};

struct stfs_extents {
	struct stfs_extent *items; /* owned; by logical place; what is between them are holes */
	size_t count;
};

void stfs_extents_free(struct stfs_extents *extents);

/* A map with more extents than this is not read: shifts are then not used (-E2BIG). */
#define STFS_EXTENTS_MAX (1u << 20)

/*
 * The map of bytes [from, end) of `fd`, what is still to be written flushed first. 0; -EOPNOTSUPP where
 * there is no such map or it has no addresses; -E2BIG; another -errno.
 */
int stfs_extents_read(int fd, uint64_t from, uint64_t end, struct stfs_extents *extents);

/* A piece of the content, to confirm what the map says. */
struct stfs_sample {
	uint64_t at;   /* byte of the file before the shift */
	uint64_t hash; /* of STFS_SAMPLE_LEN bytes, fewer at the end of the file */
};
#define STFS_SAMPLE_LEN 4096
#define STFS_SAMPLES_MAX 16

/* A file before a shift. */
struct stfs_shift_map {
	uint64_t size; /* bytes of the file */
	struct stfs_extents extents; /* owned: of what the shift moves */
	struct stfs_sample samples[STFS_SAMPLES_MAX];
	size_t sample_count;
};

/* Reads the map and the samples for a shift of `fd`. As stfs_extents_read(). */
int stfs_shift_map_read(int fd, const struct stfs_step *step, struct stfs_shift_map *map);

/* How far a shift has come. */
enum stfs_shift_state {
	STFS_SHIFT_NOT_BEGUN,
	STFS_SHIFT_HALF, /* the hole stands at *hole, perhaps up to the end of the file */
	STFS_SHIFT_DONE,
};

/*
 * How far `step` (COLLAPSE or INSERT) has come on `fd`, which was as `before` says. 0 with *state
 * set, and *hole, the byte at which the travelling hole of step->len bytes stands, when it is half
 * done; -EUCLEAN when the file cannot come of that shift: its map or a sample is another.
 */
int stfs_shift_judge(int fd, const struct stfs_step *step, const struct stfs_shift_map *before,
		     enum stfs_shift_state *state, uint64_t *hole);

#endif
