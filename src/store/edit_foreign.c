/* SPDX-License-Identifier: MIT */
/* A file in another format that becomes a model where it is. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "commit/beside.h"
#include "store/edit_internal.h"

static int open_file(struct stfs_edit *edit, struct stfs_err *err)
{
	unsigned flags = STFS_OPEN_LOCK | (edit->flags & STFS_EDIT_DRY_RUN ? 0 : STFS_OPEN_WRITE);
	bool irregular = false;
	struct stat st;
	int r = stfs_resolve_open(edit->folder_fd, edit->name, flags, &edit->foreign_fd, &st, &irregular);

	if (irregular)
		return stfs_err_set(err, r, STFS_NO_POSITION, "%s: is no regular file", edit->path);
	if (r == -EBUSY)
		return stfs_err_set(err, r, STFS_NO_POSITION, "%s: another command is using it", edit->path);
	if (r < 0)
		return r;
	edit->foreign_length = edit->foreign_end = (uint64_t)st.st_size;
	edit->foreign_mtime = st.st_mtim;
	/* With the lock held nobody begins one. */
	if (stfs_commit_interrupted(edit->folder_fd, edit->name) != 0)
		return stfs_err_set(err, -EBUSY, STFS_NO_POSITION, "%s: a change to it was interrupted: `stfs "
				    "recover` finishes it, or takes it back", edit->path);
	return stfs_edit_guard_file(edit, edit->foreign_fd, "the file", err);
}

/* What is known of it is what must be found when it is committed (E4), and after a crash. */
static int know(struct stfs_edit *edit, struct stfs_err *err)
{
	uint64_t word;
	int r = stfs_commit_foreign_hash(edit->foreign_fd, edit->foreign_length, &word, &edit->foreign_hash);

	if (r == -EOPNOTSUPP)
		return stfs_err_set(err, r, STFS_NO_POSITION, "%s: begins with bytes that cannot be told from a model "
				    "that is being changed: it cannot become one in place", edit->path);
	return r;
}

static int open_foreign(struct stfs_edit *edit, const char *path, struct stfs_err *err)
{
	int r = stfs_edit_resolve(edit, path, err);

	if (r == 0 && stfs_str_ends_with(stfs_str_from(edit->name), ".index.json"))
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "%s: is the index of files that hold a model "
				    "together: none of them can become it", path);
	if (r == 0)
		r = open_file(edit, err);
	if (r == 0)
		r = know(edit, err);
	if (edit->flags & STFS_EDIT_DRY_RUN)
		return r < 0 ? r : stfs_edit_load(edit);
	/* What was not written out yet has not got its room: how much is left would be told wrong. */
	if (r == 0)
		r = stfs_io_sync(edit->foreign_fd);
	/* What an interrupted replacement left. The file is locked: nobody is making one now. */
	if (r == 0)
		(void)stfs_commit_clean(edit->folder_fd, edit->name);
	return r < 0 ? r : stfs_edit_load(edit);
}

int stfs_edit_open_foreign(const char *path, unsigned flags, struct stfs_edit **edit, struct stfs_err *err)
{
	struct stfs_edit *made = stfs_edit_make(flags);

	return stfs_edit_give(made, made ? open_foreign(made, path, err) : -ENOMEM, path, edit, err);
}

int stfs_edit_foreign_fd(const struct stfs_edit *edit, uint64_t *length)
{
	*length = edit->foreign_length;
	return edit->foreign_fd;
}

void stfs_edit_set_foreign_end(struct stfs_edit *edit, uint64_t end)
{
	edit->foreign_end = end;
}

/* 1, 0 or -errno. */
static int is_same(const struct stfs_edit *edit)
{
	uint64_t word, hash;
	struct stat st;
	int r;

	if (fstat(edit->foreign_fd, &st) < 0)
		return -errno;
	/* The hash is of both ends alone; what says where the tensors are may stand between them. */
	if ((uint64_t)st.st_size != edit->foreign_length || st.st_mtim.tv_sec != edit->foreign_mtime.tv_sec ||
	    st.st_mtim.tv_nsec != edit->foreign_mtime.tv_nsec)
		return 0;
	r = stfs_commit_foreign_hash(edit->foreign_fd, edit->foreign_length, &word, &hash);
	if (r < 0)
		return r == -EOPNOTSUPP ? 0 : r;
	return hash == edit->foreign_hash;
}

int stfs_edit_check_foreign(const struct stfs_edit *edit, struct stfs_err *err)
{
	int r = edit->foreign_fd < 0 ? 1 : is_same(edit);

	if (r < 0)
		return stfs_err_errno(err, r, "%s", edit->path);
	return r ? 0 : stfs_err_set(err, -ESTALE, STFS_NO_POSITION, "%s: another program has changed it since it was "
				    "opened; nothing was changed", edit->path);
}

int stfs_edit_stay(struct stfs_edit *edit, struct stfs_str name, enum stfs_dtype dtype,
		   const uint64_t *dims, size_t rank, uint64_t offset, struct stfs_err *err)
{
	struct stfs_source source = {.fd = edit->foreign_fd, .offset = offset};
	int r = stfs_edit_put(edit, name, dtype, dims, rank, source, err);

	if (r == 0)
		edit->slots[edit->count - 1].stays = true;
	return r;
}

/* ---- Another name ---- */

static int check_place(const struct stfs_edit *edit, int folder, const char *name, const char *path,
		       struct stfs_err *err)
{
	struct stat st, own;

	if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "%s: is no name for a file", path);
	if (fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return stfs_err_set(err, -EEXIST, STFS_NO_POSITION, "%s: exists", path);
	if (errno != ENOENT || faccessat(folder, ".", W_OK, AT_EACCESS) < 0)
		return stfs_err_errno(err, -errno, "%s", path);
	if (fstat(folder, &st) < 0 || fstat(edit->foreign_fd, &own) < 0)
		return stfs_err_errno(err, -errno, "%s", path);
	if (st.st_dev != own.st_dev)
		return stfs_err_set(err, -EXDEV, STFS_NO_POSITION, "%s: is on another file system than %s: it cannot "
				    "become its name", path, edit->path);
	return 0;
}

int stfs_edit_check_move(const struct stfs_edit *edit, const char *path, struct stfs_err *err)
{
	STFS_AUTO_FREE char *name = NULL;
	STFS_AUTO_FD int folder = -1;
	struct stat st;
	int r = stfs_resolve_place(path, &folder, &name, err);

	if (r < 0)
		return r;
	if (lstat(edit->path, &st) == 0 && S_ISLNK(st.st_mode))
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "%s: is a link to %s, and would lead nowhere when "
				    "that is renamed: name the file itself", edit->path, edit->real);
	return check_place(edit, folder, name, path, err);
}

int stfs_edit_move(struct stfs_edit *edit, const char *path, struct stfs_err *err)
{
	STFS_AUTO_FREE char *name = NULL;
	STFS_AUTO_FD int folder = -1;
	int r = stfs_resolve_place(path, &folder, &name, err);

	if (r < 0)
		return r;
	r = stfs_beside_place(edit->folder_fd, edit->name, folder, name, edit->model->shards[0].fd);
	if (r < 0)
		return stfs_err_errno(err, r, "%s: is a model now, but could not be renamed to %s", edit->path, path);
	r = stfs_io_sync_folder(folder);
	if (r == 0)
		r = stfs_io_sync_folder(edit->folder_fd);
	return r < 0 ? stfs_err_errno(err, r, "%s: the new name stands, but whether that outlasts a crash is not known",
				      path) : 0;
}
