/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "commit/beside.h"
#include "commit/internal.h"

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

/*
 * Where a range behind the end is refused as such (EINVAL), ranges before it can be removed; where the
 * call is not known it is EOPNOTSUPP. Neither changes anything. A file that is open for reading alone,
 * in a dry run, tells nothing: its file system is asked who it is.
 */
static bool may_shift(int fd, uint64_t length, uint64_t block)
{
	struct statfs fs;
	int r = stfs_io_fallocate(fd, FALLOC_FL_COLLAPSE_RANGE,
				  stfs_align_up(length, block) + block, block);

	if (r != -EBADF)
		return r == -EINVAL;
	return fstatfs(fd, &fs) == 0 && (fs.f_type == EXT4_SUPER_MAGIC || fs.f_type == XFS_SUPER_MAGIC);
}

/*
 * Whether a file without a name beside it can be given its owner (else nothing may take its place), and
 * share its first block.
 */
static void try_beside(const struct stfs_commit *commit, const struct stfs_commit_file *file,
		       uint64_t block, bool *can_replace, bool *can_clone)
{
	STFS_AUTO_FD int fd = stfs_io->openat(commit->folder_fd, ".",
					      O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	/* Without such files a named one will do: that is seen when it is needed. */
	*can_replace = true;
	*can_clone = false;
	if (fd < 0)
		return;
	*can_replace = stfs_beside_adopt(fd, file->fd) == 0;
	*can_clone = *can_replace && !file->no_clone && file->problem.file.length >= block &&
		     stfs_io->clone_range(fd, 0, file->fd, 0, block) == 0;
}

/* In include/uapi/linux/mman.h since Linux 6.5, with the same number on every architecture. */
#ifndef SYS_cachestat
#define SYS_cachestat 451
#endif

/* How many bytes of a file are in memory; 0 where the kernel does not say. */
static uint64_t count_cached(int fd, uint64_t length)
{
	struct {
		uint64_t at, len; /* 0: to the end */
	} range = {0};
	struct {
		uint64_t cache, dirty, writeback, evicted, recently_evicted;
	} pages = {0};

	if (syscall(SYS_cachestat, fd, &range, &pages, 0) < 0)
		return 0;
	return stfs_min_u64(pages.cache * (uint64_t)sysconf(_SC_PAGESIZE), length);
}

/*
 * btrfs writes no block twice, and an extent, of 128 MiB at the most, is free again only when all of it was
 * written anew: two of them may be half done.
 */
static uint64_t need_to_overwrite(int fd, uint64_t length)
{
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0 || fs.f_type != BTRFS_SUPER_MAGIC)
		return 0;
	return stfs_min_u64(length, 256u << 20);
}

int stfs_commit_abilities(const struct stfs_commit *commit, struct stfs_commit_file *file)
{
	struct stfs_layout_file *f = &file->problem.file;
	struct statvfs fs;
	bool can_replace;

	if (stfs_io->fstatvfs(file->fd >= 0 ? file->fd : commit->folder_fd, &fs) < 0)
		return -errno;
	f->room = (uint64_t)fs.f_bavail * fs.f_frsize;
	if (file->no_room)
		f->room = stfs_min_u64(f->room, file->no_room - 1);
	f->block = fs.f_bsize;
	f->can_shift = f->can_clone = f->replace_only = false;
	if (f->block < 512 || f->block & (f->block - 1))
		f->block = 0;
	f->overwriting = 0;
	if (file->fd < 0)
		return 0;
	f->overwriting = need_to_overwrite(file->fd, f->length);
	f->can_shift = f->block && !file->no_shift && may_shift(file->fd, f->length, f->block);
	try_beside(commit, file, f->block ? f->block : 4096, &can_replace, &f->can_clone);
	f->can_clone = f->can_clone && f->block;
	f->replace_only = commit->readers && can_replace;
	/* A clone has no pages in memory, whatever is done with it. */
	f->cached = f->can_shift && !f->can_clone ? count_cached(file->fd, f->length) : 0;
	return 0;
}

int stfs_commit_try_shift(int fd, uint64_t length, uint64_t block)
{
	uint64_t end = stfs_align_up(length, block);
	int r = stfs_io_truncate(fd, end + 2 * block), back;

	if (r == 0)
		r = stfs_io_fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, end, block);
	back = stfs_io_truncate(fd, length);
	return r < 0 ? r : back;
}

/*
 * A write lease is refused while anybody else has the file open, or mapped (fcntl(2)). It is given
 * up at once; who opens the file in between has SIGIO sent to this thread alone, where it is
 * blocked.
 */
bool stfs_commit_has_readers(int fd)
{
	struct f_owner_ex self = {.type = F_OWNER_TID, .pid = gettid()};
	const struct timespec now = {0};
	sigset_t sigio, before;
	bool readers;

	sigemptyset(&sigio);
	sigaddset(&sigio, SIGIO);
	pthread_sigmask(SIG_BLOCK, &sigio, &before);
	fcntl(fd, F_SETOWN_EX, &self);
	if (fcntl(fd, F_SETLEASE, F_WRLCK) == 0) {
		readers = false;
		fcntl(fd, F_SETLEASE, F_UNLCK);
	} else {
		/* EINVAL: this file system has no leases, and nobody can tell. */
		readers = errno != EINVAL && errno != ENOTTY && errno != EOPNOTSUPP;
	}
	while (sigtimedwait(&sigio, NULL, &now) > 0)
		;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return readers;
}
