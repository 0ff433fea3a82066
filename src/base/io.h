/* SPDX-License-Identifier: MIT */
/*
 * The I/O seam: a model's bytes, and the files beside it, are reached through this one table, so that a
 * test can make any call fail, fall short, not exist (a file system without mmap) or be the last one
 * before the power goes, without touching its caller. The functions below it are what callers use.
 */
#ifndef STFS_BASE_IO_H
#define STFS_BASE_IO_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct fiemap;
struct statvfs;

/* Each as the system call of its name: -1 (MAP_FAILED) with errno when it fails. */
struct stfs_io {
	ssize_t (*pread)(int fd, void *buffer, size_t len, off_t offset);
	void *(*mmap)(void *address, size_t len, int prot, int flags, int fd, off_t offset);
	int (*munmap)(void *address, size_t len);
	ssize_t (*pwrite)(int fd, const void *bytes, size_t len, off_t offset);
	ssize_t (*copy_file_range)(int from, off_t *from_at, int to, off_t *to_at, size_t len, unsigned flags);
	int (*fsync)(int fd);
	int (*ftruncate)(int fd, off_t len);
	int (*fallocate)(int fd, int mode, off_t offset, off_t len);
	int (*clone)(int to, int from); /* ioctl FICLONE */
	int (*clone_range)(int to, uint64_t to_at, int from, uint64_t from_at, uint64_t len);
	int (*fiemap)(int fd, struct fiemap *map);
	int (*fstatvfs)(int fd, struct statvfs *fs);
	int (*openat)(int folder, const char *name, int flags, mode_t mode);
	int (*link_fd)(int fd, int folder, const char *name); /* linkat of a file without a name */
	int (*renameat2)(int old_folder, const char *old_name, int folder, const char *name, unsigned flags);
	int (*unlinkat)(int folder, const char *name, int flags);
};

/* The system's own calls; a test may point it elsewhere before it opens anything. */
extern const struct stfs_io stfs_io_system;
extern const struct stfs_io *stfs_io;

/*
 * Reads `len` bytes at `offset` of `fd`, going on after short reads and EINTR. Returns the bytes
 * read, fewer than `len` only at the end of the file, or -errno.
 */
ssize_t stfs_io_pread_full(int fd, void *buffer, size_t len, uint64_t offset);

/*
 * Call after each write to `fd`, of the bytes from `begin` to `end`: the disk then works while more is written, a batch
 * at a time, and the fsync at the end finds little to do. What fails here fails there again.
 */
void stfs_io_write_behind(int fd, uint64_t begin, uint64_t end);

/* ---- 0 or -errno ---- */

/* Reads exactly `len` bytes; -EIO when the file ends before. */
int stfs_io_read_exactly(int fd, void *buffer, size_t len, uint64_t offset);
int stfs_io_write(int fd, const void *bytes, size_t len, uint64_t offset);
int stfs_io_sync(int fd);
/* An open folder's entries (a descriptor of O_PATH will not do: it is opened anew). */
int stfs_io_sync_folder(int folder_fd);
int stfs_io_truncate(int fd, uint64_t len);
int stfs_io_fallocate(int fd, int mode, uint64_t offset, uint64_t len);
/* -ENOSPC and the like; 0 also where the file system cannot reserve. The file's length stays. */
int stfs_io_reserve(int fd, uint64_t offset, uint64_t len);
int stfs_io_rename(int folder, const char *from, const char *to, unsigned flags);
int stfs_io_unlink(int folder, const char *name);

#endif
