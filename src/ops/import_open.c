/* SPDX-License-Identifier: MIT */
/* A checkpoint's files: one, or those that an index names. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "ops/import_internal.h"

static struct stfs_import *make(const char *path, int fd, uint64_t len)
{
	struct stfs_import *made = calloc(1, sizeof(*made));
	struct stat st;

	if (!made)
		return NULL;
	made->fd = fd;
	made->owned_fd = -1;
	made->length = len;
	made->path = strdup(path);
	made->mtime = fstat(fd, &st) == 0 ? st.st_mtim : (struct timespec){0};
	if (made->path)
		return made;
	free(made);
	return NULL;
}

int stfs_import_open_fd(const char *path, int fd, uint64_t len, struct stfs_import **import, struct stfs_err *err)
{
	struct stfs_import *made = make(path, fd, len);
	struct stfs_err why = STFS_ERR_INIT;
	int r = made ? stfs_torch_open(fd, len, &made->torch, &why) : -ENOMEM;

	if (r < 0) {
		stfs_import_close(made);
		if (r == -ENOMEM || !why.code)
			return stfs_err_errno(err, r, "%s", path);
		return stfs_err_set(err, r, why.position, "%s: %s", path, why.message);
	}
	*import = made;
	return 0;
}

static int say_interrupted(const char *path, struct stfs_err *err)
{
	return stfs_err_set(err, -EBUSY, STFS_NO_POSITION, "%s: a change to it was interrupted: `stfs recover` finishes "
			    "it, or takes it back", path);
}

/* ---- One file ---- */

static int open_file(const struct stfs_resolved *found, struct stfs_import **import, struct stfs_err *err)
{
	STFS_AUTO_FREE char *link = NULL, *real = NULL, *name = NULL;
	STFS_AUTO_FD int folder = -1, fd = -1;
	bool irregular = false;
	struct stat st;
	int r;

	if (asprintf(&link, "/proc/self/fd/%d/%s", found->folder_fd, found->name) < 0) {
		link = NULL;
		return stfs_err_errno(err, -ENOMEM, "%s", found->path);
	}
	/* A journal stands beside the file itself. */
	real = realpath(link, NULL);
	if (!real)
		return stfs_err_errno(err, -errno, "%s", found->path);
	r = stfs_resolve_place(real, &folder, &name, err);
	if (r < 0)
		return r;
	r = stfs_resolve_open(folder, name, STFS_OPEN_LOCK, &fd, &st, &irregular);
	if (irregular)
		return stfs_err_set(err, r, STFS_NO_POSITION, "%s: is no regular file", found->path);
	if (r == -EBUSY)
		return stfs_err_set(err, r, STFS_NO_POSITION, "%s: another command is changing it", found->path);
	if (r < 0)
		return stfs_err_errno(err, r, "%s", found->path);
	/* With the lock held nobody begins one. */
	if (stfs_commit_interrupted(folder, name) != 0)
		return say_interrupted(found->path, err);
	r = stfs_import_open_fd(found->path, fd, (uint64_t)st.st_size, import, err);
	if (r == 0)
		(*import)->owned_fd = stfs_steal_fd(&fd);
	return r;
}

/* ---- An index, and the files that it names ---- */

/* What was read of a file to judge it is what is imported. */
static int add_part(struct stfs_model *model, uint32_t number, struct stfs_import **at, struct stfs_err *err)
{
	struct stfs_shard *shard = &model->shards[number];

	if (!shard->torch)
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "%s: %s is no PyTorch checkpoint", model->resolved.path,
				    shard->name);
	if (stfs_commit_interrupted(model->resolved.folder_fd, shard->name) != 0)
		return say_interrupted(shard->name, err);
	*at = make(shard->name, shard->fd, shard->size);
	if (!*at)
		return stfs_err_errno(err, -ENOMEM, "%s", model->resolved.path);
	(*at)->mtime = shard->st.st_mtim;
	(*at)->torch = shard->torch;
	(*at)->lent = true;
	return 0;
}

static int open_parts(const char *path, struct stfs_import **import, struct stfs_err *err)
{
	struct stfs_import *first = NULL, **at = &first;
	struct stfs_model *model;
	int r = stfs_model_open(path, STFS_OPEN_LOCK, &model, err);

	if (r < 0)
		return r;
	for (uint32_t i = 0; r == 0 && i < model->shard_count; i++) {
		r = add_part(model, i, at, err);
		if (r == 0)
			at = &(*at)->next;
	}
	if (r == 0) {
		first->model = model;
		*import = first;
		return 0;
	}
	stfs_import_close(first);
	stfs_model_close(model);
	return r;
}

int stfs_import_open(const char *path, struct stfs_import **import, struct stfs_err *err)
{
	struct stfs_resolved found;
	int r = stfs_resolve(path, &found, err);

	if (r < 0)
		return r;
	r = found.is_index ? open_parts(path, import, err) : open_file(&found, import, err);
	stfs_resolved_free(&found);
	return r;
}

/* ---- All of it ---- */

static void close_part(struct stfs_import *part)
{
	stfs_import_end_verifier(part);
	if (!part->lent)
		stfs_torch_close(part->torch);
	free(part->path);
	free(part->items);
	free(part->ties);
	free(part->skipped);
	free(part->unreadable);
	if (part->owned_fd >= 0)
		close(part->owned_fd);
	free(part);
}

void stfs_import_close(struct stfs_import *import)
{
	struct stfs_model *model = import ? import->model : NULL;
	struct stfs_import *next;

	for (; import; import = next) {
		next = import->next;
		close_part(import);
	}
	stfs_model_close(model);
}

const char *stfs_import_path(const struct stfs_import *import)
{
	return import->model ? import->model->resolved.path : import->path;
}

static bool is_same(int fd, const struct stat *st)
{
	struct stat own;

	return fd >= 0 && fstat(fd, &own) == 0 && own.st_ino == st->st_ino && own.st_dev == st->st_dev;
}

bool stfs_import_is_file(const struct stfs_import *import, const struct stat *st)
{
	bool is = import->model && is_same(import->model->index_fd, st);

	for (const struct stfs_import *part = import; !is && part; part = part->next)
		is = is_same(part->fd, st);
	return is;
}
