/* SPDX-License-Identifier: MIT */
#include "commit/extents.h"

#include <errno.h>
#include <linux/fiemap.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "commit/commit.h"

/* Extents asked for at a time. */
#define PIECE 256
/* Addresses that are none, or change by themselves. */
#define NO_ADDRESS (FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC | FIEMAP_EXTENT_ENCODED | \
		    FIEMAP_EXTENT_DATA_INLINE | FIEMAP_EXTENT_DATA_TAIL | FIEMAP_EXTENT_NOT_ALIGNED)

void stfs_extents_free(struct stfs_extents *extents)
{
	free(extents->items);
	*extents = (struct stfs_extents){0};
}

static int add(struct stfs_extents *extents, size_t *cap, const struct fiemap_extent *e)
{
	struct stfs_extent *items;

	if (e->fe_flags & NO_ADDRESS)
		return -EOPNOTSUPP;
	if (extents->count == STFS_EXTENTS_MAX)
		return -E2BIG;
	if (extents->count == *cap) {
		*cap = *cap ? 2 * *cap : PIECE;
		items = reallocarray(extents->items, *cap, sizeof(*items));
		if (!items)
			return -ENOMEM;
		extents->items = items;
	}
	extents->items[extents->count++] = (struct stfs_extent){
		.logical = e->fe_logical, .physical = e->fe_physical, .len = e->fe_length};
	return 0;
}

int stfs_extents_read(int fd, uint64_t from, uint64_t end, struct stfs_extents *extents)
{
	STFS_AUTO_FREE struct fiemap *map = malloc(sizeof(*map) + PIECE * sizeof(map->fm_extents[0]));
	uint64_t at = from;
	size_t cap = 0;
	int r = map ? 0 : -ENOMEM;

	*extents = (struct stfs_extents){0};
	while (r == 0 && at < end) {
		*map = (struct fiemap){.fm_start = at, .fm_length = end - at,
				       .fm_flags = FIEMAP_FLAG_SYNC, .fm_extent_count = PIECE};
		if (stfs_io->fiemap(fd, map) < 0)
			r = errno == ENOTTY || errno == EBADR ? -EOPNOTSUPP : -errno;
		if (r < 0 || map->fm_mapped_extents == 0)
			break;
		for (uint32_t i = 0; r == 0 && i < map->fm_mapped_extents; i++) {
			const struct fiemap_extent *e = &map->fm_extents[i];

			r = add(extents, &cap, e);
			at = e->fe_logical + e->fe_length;
			if (e->fe_flags & FIEMAP_EXTENT_LAST)
				end = at;
		}
	}
	if (r < 0)
		stfs_extents_free(extents);
	return r;
}

/* The number of the extent that holds byte `at` or is the first behind it. */
static size_t find(const struct stfs_extents *map, uint64_t at)
{
	size_t low = 0, high = map->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (map->items[middle].logical + map->items[middle].len <= at)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Bytes from `logical` on that `map` has at `physical`, one behind the other: `len` at the most. */
static uint64_t agree(const struct stfs_extents *map, uint64_t logical, uint64_t physical, uint64_t len)
{
	uint64_t done = 0;

	for (size_t i = find(map, logical); i < map->count && done < len; i++) {
		const struct stfs_extent *e = &map->items[i];
		uint64_t at = logical + done;

		if (e->logical > at || e->physical + (at - e->logical) != physical + done)
			break;
		done = stfs_min_u64(len, e->logical + e->len - logical);
	}
	return done;
}

/*
 * Walks the extents of `before` from `from` to `size`. Those below some place X must lie `first` bytes
 * away from where they were, those from X on `second` bytes. 0 with *x set and *begin, where the first
 * of them was (both `size` when there are none); -EUCLEAN.
 */
static int find_border(const struct stfs_extents *before, uint64_t from, uint64_t size,
		       const struct stfs_extents *now, int64_t first, int64_t second, uint64_t *x,
		       uint64_t *begin)
{
	bool crossed = false;

	*x = *begin = size;
	for (size_t i = find(before, from); i < before->count && before->items[i].logical < size; i++) {
		const struct stfs_extent *e = &before->items[i];
		uint64_t skip = e->logical < from ? from - e->logical : 0;
		uint64_t at = e->logical + skip, physical = e->physical + skip, len = e->len - skip;
		uint64_t good = 0;

		*begin = stfs_min_u64(*begin, at);
		if (!crossed) {
			good = agree(now, at + (uint64_t)first, physical, len);
			if (good == len)
				continue;
			*x = at + good;
			crossed = true;
		}
		if (agree(now, at + good + (uint64_t)second, physical + good, len - good) < len - good)
			return -EUCLEAN;
	}
	return 0;
}

/* By the maps alone. In a part without extents X may be anywhere: all that is there are zeros. */
static int judge_map(const struct stfs_step *step, const struct stfs_shift_map *before,
		     const struct stfs_extents *now, uint64_t size_now, enum stfs_shift_state *state,
		     uint64_t *hole)
{
	bool insert = step->kind == STFS_STEP_INSERT;
	uint64_t from = insert ? step->to : step->to + step->len, size = before->size, x, begin;
	int64_t by = (int64_t)step->len;
	int r;

	if (size_now == (insert ? size : size - step->len)) {
		/* The length changes first (insert) or last (collapse): nothing, or everything. */
		*state = insert ? STFS_SHIFT_NOT_BEGUN : STFS_SHIFT_DONE;
		*hole = insert ? size : 0;
		by = insert ? 0 : -by;
		return find_border(&before->extents, from, size, now, by, by, &x, &begin);
	}
	if (size_now != (insert ? size + step->len : size))
		return -EUCLEAN;
	r = find_border(&before->extents, from, size, now, insert ? 0 : -by, insert ? by : 0, &x,
			&begin);
	if (r < 0)
		return r;
	*hole = insert ? x : x - step->len;
	/* Before the first extent X says nothing: what a collapse removes may still lie there. */
	if (x <= begin && (insert || x < size || begin == size))
		*state = insert ? STFS_SHIFT_DONE : STFS_SHIFT_NOT_BEGUN;
	else
		*state = STFS_SHIFT_HALF;
	return 0;
}

static int hash_at(int fd, uint64_t at, uint64_t *hash)
{
	char bytes[STFS_SAMPLE_LEN];
	ssize_t got = stfs_io_pread_full(fd, bytes, sizeof(bytes), at);

	if (got < 0)
		return (int)got;
	*hash = stfs_commit_hash(stfs_str_slice(bytes, (size_t)got));
	return 0;
}

/* Whether every sample stands where a shift that came so far has brought it: 0, -EUCLEAN, -errno. */
static int judge_samples(int fd, const struct stfs_step *step, const struct stfs_shift_map *before,
			 enum stfs_shift_state state, uint64_t hole)
{
	bool insert = step->kind == STFS_STEP_INSERT, moved;
	uint64_t border = insert ? hole : hole + step->len, hash, at;
	int r = 0;

	for (size_t i = 0; r == 0 && i < before->sample_count; i++) {
		at = before->samples[i].at;
		/* One that the border cuts, or the end of the file has cut, says nothing. */
		if (at + STFS_SAMPLE_LEN > before->size ||
		    (state == STFS_SHIFT_HALF && at < border && at + STFS_SAMPLE_LEN > border))
			continue;
		moved = state == STFS_SHIFT_DONE ||
			(state == STFS_SHIFT_HALF && (insert ? at >= border : at < border));
		if (moved)
			at = insert ? at + step->len : at - step->len;
		r = hash_at(fd, at, &hash);
		if (r == 0 && hash != before->samples[i].hash)
			r = -EUCLEAN;
	}
	return r;
}

int stfs_shift_map_read(int fd, const struct stfs_step *step, struct stfs_shift_map *map)
{
	uint64_t from = step->kind == STFS_STEP_INSERT ? step->to : step->to + step->len;
	struct stat st;
	size_t every;
	int r;

	*map = (struct stfs_shift_map){0};
	if (fstat(fd, &st) < 0)
		return -errno;
	map->size = (uint64_t)st.st_size;
	r = stfs_extents_read(fd, from, map->size, &map->extents);
	every = map->extents.count / STFS_SAMPLES_MAX + 1;
	for (size_t i = 0; r == 0 && i < map->extents.count; i += every) {
		struct stfs_sample *sample = &map->samples[map->sample_count++];

		sample->at = stfs_max_u64(from, map->extents.items[i].logical);
		r = hash_at(fd, sample->at, &sample->hash);
	}
	if (r < 0)
		stfs_extents_free(&map->extents);
	return r;
}

int stfs_shift_judge(int fd, const struct stfs_step *step, const struct stfs_shift_map *before,
		     enum stfs_shift_state *state, uint64_t *hole)
{
	struct stfs_extents now = {0};
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0)
		return -errno;
	r = stfs_extents_read(fd, 0, (uint64_t)st.st_size, &now);
	if (r == 0)
		r = judge_map(step, before, &now, (uint64_t)st.st_size, state, hole);
	if (r == 0)
		r = judge_samples(fd, step, before, *state, *hole);
	stfs_extents_free(&now);
	return r;
}
