/* SPDX-License-Identifier: MIT */
/*
 * The file is a header's room and then blocks, numbered from 0. Each block below `end` is out,
 * or in a free run, or lost (there was no memory to note that it is free).
 *
 *  A1  The file is stfs_arena_offset(end) bytes long, so that every block that is out can be read.
 *  A2  Free runs are sorted, apart from each other, and do not reach `end` unless cutting the file off failed.
 *  A3  Free blocks read as zeros, but those of stale runs.
 *
 * Tests: test_content.c, check_arena() and what calls it.
 */
#include "store/arena.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "commit/beside.h"

#define BLOCKS_MOST (((uint64_t)INT64_MAX - STFS_SPOOL_HEADER) / STFS_ARENA_BLOCK)

struct run {
	uint64_t first, count;
	bool stale; /* to be written over with zeros before it is given out */
};

struct stfs_arena {
	int folder_fd;    /* owned */
	int model_fd;     /* owned: the model's folder where it is on another file system, else -1 */
	char *model_name; /* owned */
	atomic_int fd;    /* owned; -1 until it is needed; set once, under lock */
	pthread_mutex_t lock; /* guards what follows; nothing else is locked under it */
	char *name;       /* owned: where the file system knows no files without a name */
	struct run *free; /* owned */
	size_t count, cap;
	uint64_t end;  /* blocks */
	uint64_t used; /* blocks that are out */
	bool left;     /* the file is another's */
	_Atomic bool lost; /* the kernel could not write some of it: nobody knows which */
};

/* ---- The file ---- */

int stfs_arena_make_file(int folder_fd, const char *model_name, const char *suffix, char **name)
{
	int fd = stfs_io->openat(folder_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	*name = NULL;
	if (fd >= 0)
		return fd;
	if (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT)
		return -errno;
	/* It keeps its name until it is closed: it could not be given another one without. */
	*name = stfs_beside_name(model_name, suffix);
	if (!*name)
		return -ENOMEM;
	fd = stfs_beside_create(folder_fd, *name, 0600);
	if (fd < 0)
		free(stfs_steal_ptr(name));
	return fd;
}

int stfs_arena_open(int folder_fd, int model_folder_fd, const char *model_name, struct stfs_arena **arena)
{
	struct stfs_arena *made = calloc(1, sizeof(*made));
	struct stat here, there;
	int r;

	if (!made)
		return -ENOMEM;
	atomic_init(&made->fd, -1);
	pthread_mutex_init(&made->lock, NULL);
	made->folder_fd = fcntl(folder_fd, F_DUPFD_CLOEXEC, 0);
	made->model_fd = -1;
	r = made->folder_fd < 0 || fstat(folder_fd, &here) < 0 || fstat(model_folder_fd, &there) < 0 ? -errno : 0;
	if (r == 0 && here.st_dev != there.st_dev)
		made->model_fd = fcntl(model_folder_fd, F_DUPFD_CLOEXEC, 0);
	if (r == 0 && here.st_dev != there.st_dev && made->model_fd < 0)
		r = -errno;
	made->model_name = strdup(model_name);
	if (r == 0 && !made->model_name)
		r = -ENOMEM;
	if (r == 0)
		*arena = made;
	else
		stfs_arena_close(made);
	return r;
}

void stfs_arena_close(struct stfs_arena *arena)
{
	if (!arena)
		return;
	if (arena->name)
		(void)stfs_io_unlink(arena->folder_fd, arena->name);
	if (arena->fd >= 0)
		close(arena->fd);
	if (arena->folder_fd >= 0)
		close(arena->folder_fd);
	if (arena->model_fd >= 0)
		close(arena->model_fd);
	pthread_mutex_destroy(&arena->lock);
	free(arena->name);
	free(arena->model_name);
	free(arena->free);
	free(arena);
}

int stfs_arena_fd(const struct stfs_arena *arena)
{
	return arena->fd;
}

int stfs_arena_folder(const struct stfs_arena *arena)
{
	return arena->folder_fd;
}

uint64_t stfs_arena_end(struct stfs_arena *arena)
{
	uint64_t end;

	pthread_mutex_lock(&arena->lock);
	end = arena->end;
	/* Cutting the file off may have failed. */
	if (arena->count && arena->free[arena->count - 1].first + arena->free[arena->count - 1].count == end)
		end = arena->free[arena->count - 1].first;
	pthread_mutex_unlock(&arena->lock);
	return stfs_arena_offset(end);
}

uint64_t stfs_arena_used(struct stfs_arena *arena)
{
	uint64_t used;

	pthread_mutex_lock(&arena->lock);
	used = arena->used * STFS_ARENA_BLOCK;
	pthread_mutex_unlock(&arena->lock);
	return used;
}

/* ---- Free runs: the lock is held ---- */

/* Index of the first free run at or behind `block`. */
static size_t find_run(const struct stfs_arena *arena, uint64_t block)
{
	size_t low = 0, high = arena->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (arena->free[middle].first < block)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static void remove_run(struct stfs_arena *arena, size_t i)
{
	arena->count--;
	memmove(&arena->free[i], &arena->free[i + 1], (arena->count - i) * sizeof(*arena->free));
}

/* Without memory for it the run is never used again. */
static void insert_run(struct stfs_arena *arena, size_t i, struct run run)
{
	size_t cap = arena->cap ? 2 * arena->cap : 16;
	struct run *grown;

	if (arena->count == arena->cap) {
		grown = reallocarray(arena->free, cap, sizeof(*grown));
		if (!grown)
			return;
		arena->free = grown;
		arena->cap = cap;
	}
	memmove(&arena->free[i + 1], &arena->free[i], (arena->count - i) * sizeof(*arena->free));
	arena->free[i] = run;
	arena->count++;
}

static void add_run(struct stfs_arena *arena, struct run run)
{
	size_t i = find_run(arena, run.first);
	struct run *before = i ? &arena->free[i - 1] : NULL;
	struct run *behind = i < arena->count ? &arena->free[i] : NULL;

	assert(run.first + run.count <= arena->end);
	assert(!before || before->first + before->count <= run.first);
	assert(!behind || run.first + run.count <= behind->first);
	if (behind && run.first + run.count == behind->first) {
		behind->first = run.first;
		behind->count += run.count;
		behind->stale |= run.stale;
		if (before && before->first + before->count == behind->first) {
			before->count += behind->count;
			before->stale |= behind->stale;
			remove_run(arena, i);
		}
	} else if (before && before->first + before->count == run.first) {
		before->count += run.count;
		before->stale |= run.stale;
	} else {
		insert_run(arena, i, run);
	}
}

/* Cuts off what is free at the end; tried again with the next run when it fails. */
static void cut_end(struct stfs_arena *arena)
{
	const struct run *last = arena->count ? &arena->free[arena->count - 1] : NULL;

	if (!last || last->first + last->count != arena->end)
		return;
	if (stfs_io_truncate(arena->fd, stfs_arena_offset(last->first)) < 0)
		return;
	arena->end = last->first;
	arena->count--;
}

/* ---- Taking ---- */

/* Bytes that blocks which are out will need in the model: of most only the beginning was written. */
static uint64_t written(const struct stfs_arena *arena)
{
	uint64_t most = arena->used * STFS_ARENA_BLOCK, disk;
	struct stat st;

	if (arena->fd < 0 || fstat(arena->fd, &st) < 0)
		return most;
	disk = (uint64_t)st.st_blocks * 512;
	return stfs_min_u64(most, disk);
}

/* Whether the file system of `fd` has so many bytes: 0, -ENOSPC or -errno. */
static int has_free(int fd, uint64_t need)
{
	struct statvfs fs;
	uint64_t room;

	if (fstatvfs(fd, &fs) < 0)
		return -errno;
	/* Some do not say: a tmpfs without a limit, file systems of FUSE. */
	if (!fs.f_blocks || stfs_mul_overflows(fs.f_bavail, fs.f_frsize, &room))
		return 0;
	return room < need ? -ENOSPC : 0;
}

/* Room for bytes that are to be spooled, and for those that then come into the model beside all that is in the spool. */
static int have_room(const struct stfs_arena *arena, uint64_t spooled, uint64_t grown)
{
	int spool = arena->fd >= 0 ? arena->fd : arena->folder_fd, r;
	uint64_t model;

	if (stfs_add_overflows(written(arena), grown, &model))
		return -ENOSPC;
	if (arena->model_fd >= 0) {
		r = has_free(spool, spooled);
		return r < 0 ? r : has_free(arena->model_fd, model);
	}
	return stfs_add_overflows(model, spooled, &model) ? -ENOSPC : has_free(spool, model);
}

static int have_blocks(const struct stfs_arena *arena, uint64_t blocks)
{
	uint64_t bytes = blocks * STFS_ARENA_BLOCK;

	return blocks > BLOCKS_MOST ? -ENOSPC : have_room(arena, bytes, bytes);
}

int stfs_arena_check(struct stfs_arena *arena)
{
	int fd = arena->fd;

	/* Waits for nothing that is not on its way to the disk already; an error is told once. */
	if (fd >= 0 && sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE) < 0 &&
	    (errno == EIO || errno == ENOSPC || errno == EDQUOT))
		arena->lost = true;
	return arena->lost ? -EIO : 0;
}

int stfs_arena_check_room(struct stfs_arena *arena, uint64_t bytes, bool spooled)
{
	int r;

	pthread_mutex_lock(&arena->lock);
	r = have_room(arena, spooled ? bytes : 0, bytes);
	pthread_mutex_unlock(&arena->lock);
	return r;
}

/* Index of the free run to take from; that of the end of the file is arena->count. */
static size_t choose_run(const struct stfs_arena *arena, uint64_t after, uint64_t wanted)
{
	size_t i = find_run(arena, after);

	if (i < arena->count && arena->free[i].first == after)
		return i;
	if (after == arena->end)
		return arena->count;
	for (i = 0; i < arena->count; i++)
		if (arena->free[i].count >= wanted)
			break;
	return i;
}

static int take_from(struct stfs_arena *arena, size_t i, uint64_t wanted, struct run *got)
{
	struct run *from = &arena->free[i];
	int r;

	*got = (struct run){from->first, stfs_min_u64(from->count, wanted), from->stale};
	r = have_blocks(arena, got->count);
	if (r < 0)
		return r;
	from->first += got->count;
	from->count -= got->count;
	if (!from->count)
		remove_run(arena, i);
	arena->used += got->count;
	return 0;
}

static int take_end(struct stfs_arena *arena, uint64_t wanted, struct run *got)
{
	int r = have_blocks(arena, wanted);

	if (r == 0 && wanted > BLOCKS_MOST - arena->end)
		r = -EFBIG;
	if (r == 0)
		r = stfs_io_truncate(arena->fd, stfs_arena_offset(arena->end + wanted));
	if (r < 0)
		return r;
	*got = (struct run){arena->end, wanted, false};
	arena->end += wanted;
	arena->used += wanted;
	return 0;
}

static int take(struct stfs_arena *arena, uint64_t after, uint64_t wanted, struct run *got)
{
	size_t i;
	int fd, r;

	if (arena->left)
		return -EROFS;
	if (arena->fd < 0) {
		/* One edit of the same model may have a spool of its own beside it. */
		fd = stfs_arena_make_file(arena->folder_fd, arena->model_name, ".stfs-arena", &arena->name);
		if (fd < 0)
			return fd;
		arena->fd = fd;
		/* A full disk must not keep what is here from becoming a rescue file: its header has room. */
		(void)stfs_io_reserve(fd, 0, STFS_SPOOL_HEADER);
	}
	i = choose_run(arena, after, wanted);
	if (i < arena->count)
		return take_from(arena, i, wanted, got);
	r = take_end(arena, wanted, got);
	return r == -EFBIG && arena->count ? take_from(arena, 0, wanted, got) : r;
}

static int write_zeros(const struct stfs_arena *arena, const struct run *run)
{
	static const char zeros[4096];
	uint64_t at = stfs_arena_offset(run->first), end = stfs_arena_offset(run->first + run->count);
	int r = 0;

	for (; r == 0 && at < end; at += sizeof(zeros))
		r = stfs_io_write(arena->fd, zeros, sizeof(zeros), at);
	return r;
}

static void put_back(struct stfs_arena *arena, struct run run)
{
	pthread_mutex_lock(&arena->lock);
	assert(run.count <= arena->used);
	arena->used -= run.count;
	add_run(arena, run);
	cut_end(arena);
	pthread_mutex_unlock(&arena->lock);
}

int stfs_arena_take(struct stfs_arena *arena, uint64_t after, uint64_t wanted, uint64_t *first,
		    uint64_t *count)
{
	struct run got = {0};
	int r;

	assert(wanted);
	pthread_mutex_lock(&arena->lock);
	r = take(arena, after, wanted, &got);
	pthread_mutex_unlock(&arena->lock);
	if (r == 0 && got.stale) {
		r = write_zeros(arena, &got);
		if (r < 0)
			put_back(arena, got);
	}
	if (r < 0)
		return r;
	*first = got.first;
	*count = got.count;
	return 0;
}

void stfs_arena_leave(struct stfs_arena *arena)
{
	pthread_mutex_lock(&arena->lock);
	arena->left = true;
	pthread_mutex_unlock(&arena->lock);
}

static bool is_left(struct stfs_arena *arena)
{
	bool left;

	pthread_mutex_lock(&arena->lock);
	left = arena->left;
	pthread_mutex_unlock(&arena->lock);
	return left;
}

void stfs_arena_give_back(struct stfs_arena *arena, uint64_t first, uint64_t count)
{
	struct run run = {first, count, false};

	if (!count || is_left(arena))
		return;
	/* They are nobody else's yet, so this needs no lock. */
	run.stale = stfs_io_fallocate(arena->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, stfs_arena_offset(first),
				      count * STFS_ARENA_BLOCK) < 0;
	put_back(arena, run);
}
