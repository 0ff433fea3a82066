/* SPDX-License-Identifier: MIT */
#include "commit/beside.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/xattr.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "commit/commit.h"

char *stfs_beside_name(const char *name, const char *suffix)
{
	struct stfs_str whole = stfs_str_from(name);
	char *made = NULL;
	int r;

	if (1 + whole.len + strlen(suffix) <= NAME_MAX)
		r = asprintf(&made, ".%s%s", name, suffix);
	else
		r = asprintf(&made, ".%.*s~%016" PRIx64 "%s", (int)(NAME_MAX - 18 - strlen(suffix)),
			     name, stfs_commit_hash(whole), suffix);
	return r < 0 ? NULL : made;
}

int stfs_beside_exists(int folder_fd, const char *name, const char *suffix)
{
	STFS_AUTO_FREE char *made = stfs_beside_name(name, suffix);
	struct stat st;

	if (!made)
		return -ENOMEM;
	if (fstatat(folder_fd, made, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return 1;
	return errno == ENOENT ? 0 : -errno;
}

int stfs_beside_lock(int folder_fd, const char *name, int fd)
{
	int r;

	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return errno == EWOULDBLOCK ? -EBUSY : -errno;
	/* Somebody who held the lock before may have taken the file away. */
	r = stfs_beside_is(folder_fd, name, fd);
	return r == 1 ? 0 : r == 0 || r == -ESTALE ? -EBUSY : r;
}

int stfs_beside_clean(int folder_fd, const char *name)
{
	STFS_AUTO_FD int fd = openat(folder_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	int r;

	if (fd < 0 && errno == ENOENT)
		return 0;
	/* A link, or a file that we may not read, is nobody's whom a lock would tell of. */
	if (fd >= 0) {
		r = stfs_beside_lock(folder_fd, name, fd);
		if (r < 0)
			return r;
	}
	r = stfs_io_unlink(folder_fd, name);
	return r == -ENOENT ? 0 : r < 0 ? r : 1;
}

int stfs_beside_create(int folder_fd, const char *name, mode_t mode)
{
	const int flags = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
	int fd = stfs_io->openat(folder_fd, name, flags, mode), r;

	if (fd < 0 && errno == EEXIST) {
		r = stfs_beside_clean(folder_fd, name);
		if (r < 0)
			return r;
		fd = stfs_io->openat(folder_fd, name, flags, mode);
	}
	if (fd < 0)
		return errno == EEXIST ? -EBUSY : -errno;
	r = stfs_beside_lock(folder_fd, name, fd);
	if (r == 0)
		return fd;
	close(fd);
	return r;
}

/* Labels, access lists and what users attached; what cannot be copied was not to be had by us. */
static void copy_xattrs(int fd, int like)
{
	STFS_AUTO_FREE char *names = NULL, *value = NULL;
	ssize_t len = flistxattr(like, NULL, 0), size;

	if (len <= 0)
		return;
	names = malloc((size_t)len);
	value = malloc(XATTR_SIZE_MAX);
	if (!names || !value)
		return;
	len = flistxattr(like, names, (size_t)len);
	for (ssize_t at = 0; at < len; at += (ssize_t)strlen(names + at) + 1) {
		size = fgetxattr(like, names + at, value, XATTR_SIZE_MAX);
		if (size >= 0)
			(void)fsetxattr(fd, names + at, value, (size_t)size, 0);
	}
}

int stfs_beside_place(int from_fd, const char *temp, int folder_fd, const char *name, int fd)
{
	int r = stfs_io->renameat2(from_fd, temp, folder_fd, name, 1 /* RENAME_NOREPLACE */) < 0 ? -errno : 0;

	if (r != -EINVAL && r != -ENOSYS)
		return r;
	/* Where renameat2(2) cannot see to that: by a second name. */
	if (stfs_io->link_fd(fd, folder_fd, name) < 0)
		return -errno;
	return stfs_io_unlink(from_fd, temp);
}

int stfs_beside_adopt(int fd, int like)
{
	struct stat want, have;

	if (fstat(like, &want) < 0 || fstat(fd, &have) < 0)
		return -errno;
	if ((have.st_uid != want.st_uid && fchown(fd, want.st_uid, (gid_t)-1) < 0) ||
	    (have.st_gid != want.st_gid && fchown(fd, (uid_t)-1, want.st_gid) < 0))
		return -errno;
	copy_xattrs(fd, like);
	return fchmod(fd, want.st_mode & 07777) < 0 ? -errno : 0;
}

int stfs_beside_is(int folder_fd, const char *name, int fd)
{
	struct stat named, ours;

	if (fstat(fd, &ours) < 0)
		return -errno;
	if (fstatat(folder_fd, name, &named, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	return named.st_dev == ours.st_dev && named.st_ino == ours.st_ino ? 1 : -ESTALE;
}
