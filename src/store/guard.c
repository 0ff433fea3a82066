/* SPDX-License-Identifier: MIT */
/*
 * What may be changed. A model in a content-addressed cache (the hub's: snapshots/COMMIT/NAME links to
 * blobs/HASH), with other names, or read-only for its owner is shared with somebody: changing it needs
 * STFS_EDIT_FORCE.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "store/edit_internal.h"

/* How to insist: a verb's option, or a mount's. */
static const char *force(const struct stfs_edit *edit)
{
	return edit->flags & STFS_EDIT_MAP ? "-o force" : "--force";
}

/* The path of `name` in a folder with every link followed: malloc'ed, or NULL with errno. */
static char *real_path(int folder_fd, const char *name)
{
	STFS_AUTO_FREE char *path = NULL;

	if (asprintf(&path, "/proc/self/fd/%d/%s", folder_fd, name) < 0) {
		path = NULL;
		errno = ENOMEM;
		return NULL;
	}
	return realpath(path, NULL);
}

/* Whether a path leads through .../models--ORG--NAME/blobs/ or the like (huggingface_hub's cache). */
static bool in_cache(const char *path)
{
	static const char *const kinds[] = {"/models--", "/datasets--", "/spaces--"};
	const char *blobs = strstr(path, "/blobs/");
	const char *at = NULL;

	for (size_t i = 0; blobs && !at && i < sizeof(kinds) / sizeof(kinds[0]); i++)
		at = strstr(path, kinds[i]);
	return at && at < blobs;
}

static int refuse_cache(const struct stfs_edit *edit, struct stfs_err *err)
{
	return stfs_err_set(err, -EPERM, STFS_NO_POSITION, "%s: is in a cache that other programs "
			    "share, where a file's name is the hash of its content; copy it first, or use %s",
			    edit->path, force(edit));
}

int stfs_edit_resolve(struct stfs_edit *edit, const char *path, struct stfs_err *err)
{
	struct stfs_resolved found;
	STFS_AUTO_FREE char *real = NULL;
	int r = stfs_resolve(path, &found, err);

	if (r < 0)
		return r;
	edit->path = strdup(path);
	real = real_path(found.folder_fd, found.name);
	if (!real || !edit->path)
		r = stfs_err_errno(err, real ? -ENOMEM : -errno, "%s", path);
	else if (in_cache(real) && !(edit->flags & STFS_EDIT_FORCE))
		r = refuse_cache(edit, err);
	else if (in_cache(real) && found.is_index)
		/* Its shards are links too, into files that have no names of their own. */
		r = stfs_err_set(err, -EPERM, STFS_NO_POSITION, "%s: a sharded model cannot be "
				 "changed inside a cache; copy its folder first (cp -rL)", path);
	else
		r = stfs_resolve_place(real, &edit->folder_fd, &edit->name, NULL);
	stfs_resolved_free(&found);
	if (r == 0)
		edit->real = stfs_steal_ptr(&real);
	return r < 0 && err && err->code != r ? stfs_err_errno(err, r, "%s", path) : r;
}

/* What a message about one file calls it: the model is named already. */
static const char *subject(const struct stfs_edit *edit, const struct stfs_shard *shard)
{
	return stfs_model_is_sharded(edit->model) ? shard->name : "the file";
}

int stfs_edit_guard_file(const struct stfs_edit *edit, int fd, const char *subject, struct stfs_err *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return stfs_err_errno(err, -errno, "%s", edit->path);
	if (edit->flags & STFS_EDIT_FORCE)
		return 0;
	if (st.st_nlink > 1)
		return stfs_err_set(err, -EPERM, STFS_NO_POSITION, "%s: %s has other names (%lu hard link%s), which "
				    "would change with it; copy it first, or use %s", edit->path, subject,
				    (unsigned long)st.st_nlink - 1, st.st_nlink == 2 ? "" : "s", force(edit));
	if (!(st.st_mode & S_IWUSR))
		return stfs_err_set(err, -EPERM, STFS_NO_POSITION, "%s: %s is read-only for its owner; chmod u+w "
				    "it, or use %s", edit->path, subject, force(edit));
	return 0;
}

int stfs_edit_guard(const struct stfs_edit *edit, struct stfs_err *err)
{
	struct stat st;
	int r = 0;

	if (stfs_model_has_checkpoint(edit->model))
		return stfs_model_say_checkpoint(edit->path, err);
	for (uint32_t i = 0; r == 0 && i < edit->model->shard_count; i++) {
		const struct stfs_shard *shard = &edit->model->shards[i];

		/* What is cut off the end would be lost for good: it may be had again. */
		if (shard->findings.counts[STFS_RULE_TRUNCATED])
			return stfs_err_set(err, -EBADMSG, STFS_NO_POSITION, "%s: %s is truncated: fetch it "
					    "again, or copy its complete tensors out with `stfs cp`",
					    edit->path, subject(edit, shard));
		r = stfs_edit_guard_file(edit, shard->fd, subject(edit, shard), err);
		if (r < 0)
			return r;
		if (!stfs_model_is_sharded(edit->model))
			continue;
		if (fstatat(edit->model->resolved.folder_fd, shard->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return stfs_err_errno(err, -errno, "%s: %s", edit->path, shard->name);
		if (S_ISLNK(st.st_mode))
			return stfs_err_set(err, -EPERM, STFS_NO_POSITION, "%s: %s is a link; the "
					    "files of a sharded model are changed only where they "
					    "are (cp -rL the folder)", edit->path, shard->name);
	}
	return r;
}
