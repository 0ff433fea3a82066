/* SPDX-License-Identifier: MIT */
/* After a commit: the model is opened as it is then, while readers go on. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "store/edit_internal.h"

static unsigned open_flags(const struct stfs_edit *edit)
{
	return STFS_OPEN_WRITE | STFS_OPEN_LOCK | (edit->flags & STFS_EDIT_MAP ? STFS_OPEN_MAP : 0);
}

/*
 * By the folder that is open, not by its path: that may have moved, or lead through the very mount that commits,
 * which would wait for itself.
 */
static int open_in_folder(const struct stfs_edit *edit, unsigned flags, const struct stfs_given *given,
			  size_t count, struct stfs_model **fresh, struct stfs_err *err)
{
	STFS_AUTO_FREE char *path = NULL;
	char *shown = strdup(edit->real);
	int r = -ENOMEM;

	if (asprintf(&path, "/proc/self/fd/%d/%s", edit->folder_fd, edit->name) < 0)
		path = NULL;
	if (path && shown)
		r = stfs_model_open_given(path, flags, given, count, fresh, err);
	if (r < 0) {
		free(shown);
		return r;
	}
	free((*fresh)->resolved.path);
	(*fresh)->resolved.path = shown;
	return 0;
}

/*
 * Opens the model as it is now. The locks pass on: what is open stays open, through duplicates,
 * until the new handle has it.
 */
static int open_fresh(const struct stfs_edit *edit, const struct stfs_commit_parts *all,
		      struct stfs_model **fresh, struct stfs_err *err)
{
	STFS_AUTO_FREE struct stfs_given *given = calloc(edit->shard_count + 1, sizeof(*given));
	size_t count = 0;

	if (!given)
		return -ENOMEM;
	for (size_t i = 0; i < all->commit.count; i++)
		if (all->files[i].new_fd >= 0)
			given[count++] = (struct stfs_given){all->files[i].name, all->files[i].new_fd};
	for (uint32_t i = 0; edit->model && i < edit->shard_count; i++) {
		size_t k = 0;

		while (k < count && strcmp(given[k].name, edit->model->shards[i].name) != 0)
			k++;
		if (k == count)
			given[count++] = (struct stfs_given){edit->model->shards[i].name,
							     edit->model->shards[i].fd};
	}
	if (edit->foreign_fd >= 0 && count == 0)
		given[count++] = (struct stfs_given){edit->name, edit->foreign_fd};
	if (edit->model && stfs_model_is_sharded(edit->model) && !all->has_index)
		given[count++] = (struct stfs_given){edit->name, edit->model->index_fd};
	return open_in_folder(edit, open_flags(edit), given, count, fresh, err);
}

/* All that may fail is done before readers are stopped, and all that takes long. Takes ownership of `fresh`. */
static int go_over(struct stfs_edit *edit, struct stfs_model *fresh, bool told)
{
	struct stfs_edit anew, old;
	int r = stfs_edit_anew(edit, fresh, &anew);

	if (r < 0) {
		stfs_model_close(fresh);
		return r;
	}
	anew.stuck = false;
	anew.foreign_fd = -1; /* it is a model now */
	old = *edit;
	if (told)
		stfs_edit_swap(edit, &anew);
	else
		*edit = anew;
	stfs_edit_free_moves(old.moves, old.shard_count);
	stfs_edit_unload(&old);
	stfs_model_close(old.model);
	if (old.foreign_fd >= 0)
		close(old.foreign_fd);
	return 0;
}

int stfs_edit_reopen(struct stfs_edit *edit, const struct stfs_commit_parts *all, struct stfs_err *err)
{
	struct stfs_model *fresh = NULL;
	int r = open_fresh(edit, all, &fresh, err);

	return r < 0 ? r : go_over(edit, fresh, true);
}

/* Lets go of the files with their locks; what their headers say stays. */
static void let_go(struct stfs_model *model)
{
	for (uint32_t i = 0; i < model->shard_count; i++)
		stfs_shard_let_go(&model->shards[i]);
	if (model->index_fd >= 0)
		close(stfs_steal_fd(&model->index_fd));
}

int stfs_edit_resume(struct stfs_edit *edit, enum stfs_recovered *what, struct stfs_err *err)
{
	struct stfs_model *fresh = NULL;
	int r;

	*what = STFS_RECOVERED_NOTHING;
	if (edit->model)
		let_go(edit->model);
	r = stfs_commit_recover(edit->folder_fd, edit->name, what, err);
	if (r == 0)
		r = open_in_folder(edit, open_flags(edit), NULL, 0, &fresh, err);
	if (r == 0)
		r = go_over(edit, fresh, *what != STFS_RECOVERED_OLD);
	return r < 0 && err && err->code != r ? stfs_err_errno(err, r, "%s", edit->path) : r;
}
