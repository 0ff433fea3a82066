/* SPDX-License-Identifier: MIT */
#include "ops/newfile.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "commit/beside.h"
#include "commit/commit.h"
#include "store/resolve.h"

/* ---- Looking ---- */

static int exists(const struct stfs_newfile *file, struct stfs_err *err)
{
	return stfs_err_set(err, -EEXIST, STFS_NO_POSITION, "%s: exists; --overwrite replaces it", file->path);
}

static int look_at_old(struct stfs_newfile *file, bool overwrite, struct stfs_err *err)
{
	struct stat st;
	int r;

	if (fstatat(file->folder_fd, file->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : stfs_err_errno(err, -errno, "%s", file->path);
	if (!S_ISREG(st.st_mode))
		return stfs_err_set(err, -EEXIST, STFS_NO_POSITION, "%s: exists and is no regular file", file->path);
	if (!overwrite)
		return exists(file, err);
	file->old_fd = openat(file->folder_fd, file->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (file->old_fd < 0)
		return stfs_err_errno(err, -errno, "%s", file->path);
	r = stfs_beside_lock(file->folder_fd, file->name, file->old_fd);
	if (r == -EBUSY)
		return stfs_err_set(err, r, STFS_NO_POSITION, "%s: is mounted, or another command is changing it",
				    file->path);
	return r < 0 ? stfs_err_errno(err, r, "%s", file->path) : 0;
}

int stfs_newfile_look(struct stfs_newfile *file, const char *path, bool overwrite, struct stfs_err *err)
{
	int r;

	*file = (struct stfs_newfile)STFS_NEWFILE_INIT;
	file->path = path;
	r = stfs_resolve_place(path, &file->folder_fd, &file->name, err);
	if (r < 0)
		return r;
	if (!*file->name || strcmp(file->name, ".") == 0 || strcmp(file->name, "..") == 0)
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "%s: is no name for a file", path);
	r = stfs_commit_interrupted(file->folder_fd, file->name);
	if (r < 0)
		return stfs_err_errno(err, r, "%s", path);
	if (r > 0)
		return stfs_err_set(err, -EUCLEAN, STFS_NO_POSITION, "%s: a commit is under way, or was "
				    "interrupted: `stfs recover` finishes it", path);
	return look_at_old(file, overwrite, err);
}

int stfs_newfile_room(const struct stfs_newfile *file, uint64_t *room, struct stfs_err *err)
{
	struct statvfs fs;

	if (fstatvfs(file->folder_fd, &fs) < 0)
		return stfs_err_errno(err, -errno, "%s", file->path);
	*room = (uint64_t)fs.f_bavail * fs.f_frsize;
	return 0;
}

/* ---- Making ---- */

static bool says_cannot(int error)
{
	/* EISDIR, ENOENT: kernels and file systems that do not know the flag open the folder. */
	return error == EOPNOTSUPP || error == EISDIR || error == ENOENT || error == EINVAL;
}

static int make_nameless(struct stfs_newfile *file)
{
	char path[64];

	file->fd = stfs_io->openat(file->folder_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0666);
	if (file->fd < 0)
		return says_cannot(errno) ? -EOPNOTSUPP : -errno;
	/* It will get its name by way of /proc (base/io.c), which may not be there. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", file->fd);
	if (access(path, F_OK) == 0)
		return 0;
	close(stfs_steal_fd(&file->fd));
	return -EOPNOTSUPP;
}

static int make_beside(struct stfs_newfile *file)
{
	int r;

	file->temp = stfs_beside_name(file->name, STFS_BESIDE_NEW);
	if (!file->temp)
		return -ENOMEM;
	r = stfs_beside_create(file->folder_fd, file->temp, 0666);
	if (r < 0) {
		free(stfs_steal_ptr(&file->temp)); /* whose it is, is another's affair */
		return r;
	}
	file->fd = r;
	return 0;
}

/* Where room cannot be reserved it must at least be there. */
static bool was_reserved(const struct stfs_newfile *file, uint64_t len)
{
	struct stat st;
	uint64_t room;

	return (fstat(file->fd, &st) == 0 && (uint64_t)st.st_blocks * 512 >= len) ||
	       stfs_newfile_room(file, &room, NULL) < 0 || len <= room;
}

int stfs_newfile_make(struct stfs_newfile *file, uint64_t len, struct stfs_err *err)
{
	uint64_t room;
	int r = make_nameless(file);

	if (r == -EOPNOTSUPP)
		r = make_beside(file);
	if (r == 0)
		r = stfs_io_reserve(file->fd, 0, len);
	if (r == 0 && !was_reserved(file, len))
		r = -ENOSPC;
	if (r == -ENOSPC && stfs_newfile_room(file, &room, NULL) == 0)
		return stfs_err_set(err, r, STFS_NO_POSITION, "%s: needs %" PRIu64 " bytes, the disk has room for "
				    "%" PRIu64, file->path, len, room);
	return r < 0 ? stfs_err_errno(err, r, "%s", file->path) : 0;
}

/* ---- Placing ---- */

/* Onto a name that must be free. */
static int place_new(struct stfs_newfile *file)
{
	int r;

	if (!file->temp)
		return stfs_io->link_fd(file->fd, file->folder_fd, file->name) < 0 ? -errno : 0;
	r = stfs_beside_place(file->folder_fd, file->temp, file->folder_fd, file->name, file->fd);
	if (r == 0)
		free(stfs_steal_ptr(&file->temp));
	return r;
}

/* In the place of the old one. */
static int place_over(struct stfs_newfile *file)
{
	int r = stfs_beside_is(file->folder_fd, file->name, file->old_fd);

	if (r <= 0)
		return r == 0 ? -ESTALE : r;
	if (!file->temp) { /* only a file with a name can be renamed */
		STFS_AUTO_FREE char *temp = stfs_beside_name(file->name, STFS_BESIDE_NEW);

		if (!temp)
			return -ENOMEM;
		r = stfs_beside_clean(file->folder_fd, temp);
		if (r >= 0 && stfs_io->link_fd(file->fd, file->folder_fd, temp) < 0)
			r = -errno;
		if (r < 0)
			return r;
		file->temp = stfs_steal_ptr(&temp);
	}
	r = stfs_io_rename(file->folder_fd, file->temp, file->name, 0);
	if (r == 0)
		free(stfs_steal_ptr(&file->temp));
	return r;
}

int stfs_newfile_place(struct stfs_newfile *file, struct stfs_err *err)
{
	int r = file->old_fd >= 0 ? stfs_beside_adopt(file->fd, file->old_fd) : 0;

	if (r == 0)
		r = stfs_io_sync(file->fd);
	if (r == 0)
		r = file->old_fd >= 0 ? place_over(file) : place_new(file);
	if (r == -EEXIST)
		return exists(file, err);
	if (r == -ESTALE)
		return stfs_err_set(err, r, STFS_NO_POSITION, "%s: was replaced or removed meanwhile; it is left as "
				    "it is", file->path);
	if (r < 0)
		return stfs_err_errno(err, r, "%s", file->path);
	close(stfs_steal_fd(&file->fd));
	r = stfs_io_sync_folder(file->folder_fd);
	return r < 0 ? stfs_err_errno(err, r, "%s: stands, but whether that outlasts a crash is not known",
				      file->path) : 0;
}

void stfs_newfile_free(struct stfs_newfile *file)
{
	if (file->fd >= 0)
		close(file->fd);
	if (file->temp)
		(void)stfs_io_unlink(file->folder_fd, file->temp);
	if (file->old_fd >= 0)
		close(file->old_fd);
	if (file->folder_fd >= 0)
		close(file->folder_fd);
	free(file->temp);
	free(file->name);
	*file = (struct stfs_newfile)STFS_NEWFILE_INIT;
}
