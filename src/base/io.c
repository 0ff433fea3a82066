/* SPDX-License-Identifier: MIT */
#include "base/io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

static int clone_whole(int to, int from)
{
	return ioctl(to, FICLONE, from);
}

static int clone_range(int to, uint64_t to_at, int from, uint64_t from_at, uint64_t len)
{
	struct file_clone_range range = {.src_fd = from, .src_offset = from_at, .src_length = len,
					 .dest_offset = to_at};

	return ioctl(to, FICLONERANGE, &range);
}

static int fiemap(int fd, struct fiemap *map)
{
	return ioctl(fd, FS_IOC_FIEMAP, map);
}

static int open_at(int folder, const char *name, int flags, mode_t mode)
{
	return openat(folder, name, flags, mode);
}

/* By its entry in /proc: linking a bare descriptor (AT_EMPTY_PATH) is root's alone. */
static int link_fd(int fd, int folder, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return linkat(AT_FDCWD, path, folder, name, AT_SYMLINK_FOLLOW);
}

const struct stfs_io stfs_io_system = {
	.pread = pread,
	.mmap = mmap,
	.munmap = munmap,
	.pwrite = pwrite,
	.copy_file_range = copy_file_range,
	.fsync = fsync,
	.ftruncate = ftruncate,
	.fallocate = fallocate,
	.clone = clone_whole,
	.clone_range = clone_range,
	.fiemap = fiemap,
	.fstatvfs = fstatvfs,
	.openat = open_at,
	.link_fd = link_fd,
	.renameat2 = renameat2,
	.unlinkat = unlinkat,
};
const struct stfs_io *stfs_io = &stfs_io_system;

ssize_t stfs_io_pread_full(int fd, void *buffer, size_t len, uint64_t offset)
{
	size_t done = 0;
	ssize_t got;

	if (len > SSIZE_MAX || offset > (uint64_t)INT64_MAX - len)
		return -EOVERFLOW;
	while (done < len) {
		got = stfs_io->pread(fd, (char *)buffer + done, len - done, (off_t)(offset + done));
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		done += (size_t)got;
	}
	return (ssize_t)done;
}

int stfs_io_read_exactly(int fd, void *buffer, size_t len, uint64_t offset)
{
	ssize_t got = stfs_io_pread_full(fd, buffer, len, offset);

	if (got < 0)
		return (int)got;
	return (size_t)got < len ? -EIO : 0;
}

int stfs_io_write(int fd, const void *bytes, size_t len, uint64_t offset)
{
	size_t done = 0;
	ssize_t put;

	if (len > SSIZE_MAX || offset > (uint64_t)INT64_MAX - len)
		return -EOVERFLOW;
	while (done < len) {
		put = stfs_io->pwrite(fd, (const char *)bytes + done, len - done, (off_t)(offset + done));
		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return -errno;
		if (put == 0)
			return -EIO;
		done += (size_t)put;
	}
	return 0;
}

int stfs_io_sync(int fd)
{
	return stfs_io->fsync(fd) < 0 ? -errno : 0;
}

/* Enough for a disk to be busy with for a while. */
#define BATCH (8u << 20)

void stfs_io_write_behind(int fd, uint64_t begin, uint64_t end)
{
	uint64_t from = begin - begin % BATCH, to = end - end % BATCH;

	if (from < to)
		(void)sync_file_range(fd, (off_t)from, (off_t)(to - from), SYNC_FILE_RANGE_WRITE);
}

int stfs_io_sync_folder(int folder_fd)
{
	int fd = openat(folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r;

	if (fd < 0)
		return -errno;
	r = stfs_io_sync(fd);
	close(fd);
	/* Some file systems keep their folders in step by themselves and say so with EINVAL. */
	return r == -EINVAL || r == -ENOTSUP ? 0 : r;
}

int stfs_io_truncate(int fd, uint64_t len)
{
	return stfs_io->ftruncate(fd, (off_t)len) < 0 ? -errno : 0;
}

int stfs_io_fallocate(int fd, int mode, uint64_t offset, uint64_t len)
{
	int r;

	do
		r = stfs_io->fallocate(fd, mode, (off_t)offset, (off_t)len);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : 0;
}

int stfs_io_reserve(int fd, uint64_t offset, uint64_t len)
{
	int r = len ? stfs_io_fallocate(fd, FALLOC_FL_KEEP_SIZE, offset, len) : 0;

	return r == -EOPNOTSUPP || r == -ENOSYS ? 0 : r;
}

int stfs_io_rename(int folder, const char *from, const char *to, unsigned flags)
{
	return stfs_io->renameat2(folder, from, folder, to, flags) < 0 ? -errno : 0;
}

int stfs_io_unlink(int folder, const char *name)
{
	return stfs_io->unlinkat(folder, name, 0) < 0 ? -errno : 0;
}
