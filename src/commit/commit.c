/* SPDX-License-Identifier: MIT */
#include "commit/commit.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "commit/beside.h"
#include "commit/internal.h"

/*
 * Plans that may turn out not to work before there is nothing left to give up: shifts, clones,
 * readers.
 */
#define ATTEMPTS_MOST 8

static void forget(struct stfs_commit_file *file)
{
	stfs_plan_free(&file->plan);
	stfs_buf_free(&file->text);
	free(file->temp);
	file->temp = NULL;
}

void stfs_commit_free(struct stfs_commit *commit)
{
	for (size_t i = 0; i < commit->count; i++) {
		forget(&commit->files[i]);
		if (commit->files[i].new_fd >= 0)
			close(commit->files[i].new_fd);
		commit->files[i].new_fd = -1;
	}
}

/* ---- Planning ---- */

/* A new file for content that is known: nothing to think about. */
static int plan_content(const struct stfs_commit *commit, struct stfs_commit_file *file)
{
	file->plan.kind = STFS_PLAN_REBUILD;
	file->plan.length = file->content->len;
	file->plan.cost.space = file->content->len;
	file->problem.file.room = UINT64_MAX;
	return 0;
}

static int plan_file(const struct stfs_commit *commit, struct stfs_commit_file *file,
		     struct stfs_err *err)
{
	int r;

	forget(file);
	file->journaled = 0;
	if (file->content)
		return plan_content(commit, file);
	r = stfs_commit_abilities(commit, file);
	if (r < 0)
		return stfs_err_errno(err, r, "%s", file->name);
	r = stfs_layout_plan(&file->problem, &file->plan);
	if (r == -ENOSPC)
		return r;
	if (r < 0)
		return stfs_err_errno(err, r, "%s: no layout", file->name);
	/* Nothing can take its place, or a replacement would have been planned. */
	if (commit->readers && stfs_commit_in_place(file) &&
	    stfs_plan_hurts_readers(&file->plan, &file->problem.file))
		return stfs_err_set(err, -EBUSY, STFS_NO_POSITION, "%s: bytes would be moved that another "
				    "program may be reading: it has the file open, or that cannot be told "
				    "(only its owner can), and without its owner's rights nothing can take its "
				    "place; nothing was changed (--readers=ignore does it all the same)",
				    file->name);
	r = file->header(file->data, &file->plan, &file->text, err);
	if (r == 0 && stfs_commit_in_place(file))
		file->journaled = file->text.len + stfs_commit_spare(file);
	return r;
}

static void find_readers(struct stfs_commit *commit)
{
	for (size_t i = 0; !commit->ignore_readers && i < commit->count; i++)
		if (commit->files[i].fd >= 0 && !commit->files[i].content &&
		    stfs_commit_has_readers(commit->files[i].fd))
			commit->readers = true;
}

static int plan_all(struct stfs_commit *commit, struct stfs_err *err)
{
	uint64_t need = 0;
	int r;

	commit->room = UINT64_MAX;
	commit->done = commit->total = 0;
	for (size_t i = 0; i < commit->count; i++) {
		struct stfs_commit_file *file = &commit->files[i];

		r = plan_file(commit, file, err);
		if (r < 0 && r != -ENOSPC)
			return r;
		need += file->plan.cost.space + file->journaled;
		commit->room = stfs_min_u64(commit->room, file->problem.file.room);
		commit->total += file->plan.cost.written + file->plan.cost.moved;
	}
	if (need <= commit->room)
		return 0;
	return stfs_err_set(err, -ENOSPC, STFS_NO_POSITION, "%s: the change needs %" PRIu64
			    " bytes of disk for a while, %" PRIu64 " are free", commit->model, need,
			    commit->room);
}

int stfs_commit_plan(struct stfs_commit *commit, struct stfs_err *err)
{
	find_readers(commit);
	return plan_all(commit, err);
}

/* ---- Doing ---- */

/* E4: each name is still that of the file that was opened. */
static int check_names(const struct stfs_commit *commit, struct stfs_err *err)
{
	for (size_t i = 0; i < commit->count; i++) {
		const struct stfs_commit_file *file = &commit->files[i];
		int r = file->fd < 0 ? 1 : stfs_beside_is(commit->folder_fd, file->name, file->fd);

		if (r == 0 || r == -ESTALE)
			return stfs_err_set(err, -ESTALE, STFS_NO_POSITION, "%s: another program "
					    "has removed it since it was opened, or put another file in its "
					    "place; nothing was changed", file->name);
		if (r < 0)
			return stfs_err_errno(err, r, "%s", file->name);
	}
	return 0;
}

static int attempt(struct stfs_commit *commit, struct stfs_err *err)
{
	int r = check_names(commit, err);

	if (r < 0)
		return r;
	if (commit->count == 1 && !stfs_commit_in_place(&commit->files[0]))
		return stfs_commit_replace(commit, &commit->files[0], err);
	return stfs_commit_journaled(commit, err);
}

static int explain(const struct stfs_commit *commit, int r, struct stfs_err *err)
{
	if (!err || err->code == r)
		return r;
	if (commit->said.code == r && !commit->recorded) {
		*err = commit->said;
		return r;
	}
	if (r == -ESTALE)
		return stfs_err_set(err, r, STFS_NO_POSITION, "%s: another program has changed it "
				    "since it was opened; nothing was changed", commit->model);
	if (commit->recorded)
		return stfs_err_errno(err, r, "%s: the commit stopped half-way; `stfs recover` "
				      "finishes it", commit->model);
	if (r == -EACCES || r == -EPERM || r == -EROFS)
		return stfs_err_errno(err, r, "%s: nothing was changed: the folder must be "
				      "writable for the journal or a new file beside the model",
				      commit->model);
	return stfs_err_errno(err, r, "%s: nothing was changed", commit->model);
}

/*
 * What is said to be free need not be (btrfs counts what is not written out as free), and is taken by others. A
 * foreign file has plans that need less, down to next to nothing: they are tried.
 */
static bool ask_for_less(struct stfs_commit *commit)
{
	struct stfs_commit_file *file = &commit->files[0];
	uint64_t need = file->plan.cost.space;

	if (commit->recorded || commit->count != 1 || !file->foreign || need == 0)
		return false;
	file->no_room = need - need / 8;
	return true;
}

int stfs_commit_run(struct stfs_commit *commit, struct stfs_err *err)
{
	int r = -EINVAL;

	find_readers(commit);
	for (int i = 0; i < ATTEMPTS_MOST; i++) {
		r = plan_all(commit, err);
		if (r < 0)
			return r;
		r = attempt(commit, err);
		if (r == -ENOSPC && ask_for_less(commit))
			continue;
		if (r != STFS_COMMIT_REPLAN || commit->recorded)
			break;
	}
	return r < 0 ? explain(commit, r, err) : 0;
}
