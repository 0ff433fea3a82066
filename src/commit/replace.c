/* SPDX-License-Identifier: MIT */
/* A file that takes the place of another: made beside it, then renamed. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "commit/beside.h"
#include "commit/internal.h"
#include "commit/steps.h"

/* Errors of a block step that say that the file cannot do it. */
static bool says_cannot(int r)
{
	return r == -EOPNOTSUPP || r == -EINVAL || r == -ENOSYS || r == -EXDEV || r == -ENOTTY;
}

/* All steps, those before the record too: nobody reads this file yet. */
static int run_steps(struct stfs_commit *commit, struct stfs_commit_file *file)
{
	bool clone = file->plan.kind == STFS_PLAN_CLONE;
	int old = clone ? file->new_fd : file->fd, r = 0;

	for (size_t i = 0; r == 0 && i < file->plan.count; i++) {
		const struct stfs_step *step = &file->plan.steps[i];

		r = stfs_step_run(file->new_fd, old, step, file->sources, commit);
		if (says_cannot(r) && stfs_step_is_shift(step)) {
			file->no_shift = true;
			return STFS_COMMIT_REPLAN;
		}
	}
	return r;
}

static int fill_tensors(struct stfs_commit *commit, struct stfs_commit_file *file)
{
	struct stat st;
	int r = 0;

	if (file->plan.kind == STFS_PLAN_CLONE) {
		if (stfs_io->clone(file->new_fd, file->fd) < 0) {
			file->no_clone = says_cannot(-errno);
			return file->no_clone ? STFS_COMMIT_REPLAN : -errno;
		}
	} else if (!file->problem.file.can_clone) {
		r = stfs_io_reserve(file->new_fd, 0, file->plan.length);
	}
	if (r == 0)
		r = run_steps(commit, file);
	if (r == 0)
		r = stfs_io_write(file->new_fd, file->text.data, file->text.len, 0);
	if (r < 0 || fstat(file->new_fd, &st) < 0)
		return r < 0 ? r : -errno;
	/* Not for nothing: XFS writes everything out before it sets even the same length. */
	return (uint64_t)st.st_size == file->plan.length ? 0 : stfs_io_truncate(file->new_fd, file->plan.length);
}

/*
 * E4: the file whose place is taken is still that of its name, and what it was when the building
 * began.
 */
static int check_old(const struct stfs_commit *commit, const struct stfs_commit_file *file,
		     const struct stat *before)
{
	struct stat now;
	int r = stfs_beside_is(commit->folder_fd, file->name, file->fd);

	if (r <= 0)
		return r == 0 ? -ESTALE : r;
	if (fstat(file->fd, &now) < 0)
		return -errno;
	return now.st_mtim.tv_sec == before->st_mtim.tv_sec &&
	       now.st_mtim.tv_nsec == before->st_mtim.tv_nsec &&
	       now.st_size == before->st_size ? 0 : -ESTALE;
}

int stfs_commit_build(struct stfs_commit *commit, struct stfs_commit_file *file)
{
	struct stat before;
	int r;

	if (file->fd >= 0 && fstat(file->fd, &before) < 0)
		return -errno;
	/* Somebody has put something behind what was planned for. */
	if (file->fd >= 0 && !file->content && (uint64_t)before.st_size != file->problem.file.length)
		return -ESTALE;
	free(file->temp);
	file->temp = stfs_beside_name(file->name, STFS_BESIDE_NEW);
	if (!file->temp)
		return -ENOMEM;
	file->new_fd = stfs_beside_create(commit->folder_fd, file->temp, file->fd < 0 ? 0666 : 0600);
	if (file->new_fd < 0)
		return file->new_fd;
	if (file->content)
		r = stfs_io_write(file->new_fd, file->content->data, file->content->len, 0);
	else
		r = fill_tensors(commit, file);
	if (r == 0 && file->fd >= 0)
		r = stfs_beside_adopt(file->new_fd, file->fd);
	if (r == 0)
		r = stfs_io_sync(file->new_fd);
	if (r == 0 && file->fd >= 0)
		r = check_old(commit, file, &before);
	if (r < 0)
		(void)stfs_commit_unbuild(commit, file);
	return r;
}

int stfs_commit_unbuild(struct stfs_commit *commit, struct stfs_commit_file *file)
{
	if (file->new_fd < 0)
		return 0;
	close(file->new_fd);
	file->new_fd = -1;
	return stfs_io_unlink(commit->folder_fd, file->temp);
}

int stfs_commit_replace(struct stfs_commit *commit, struct stfs_commit_file *file, struct stfs_err *err)
{
	int r = stfs_commit_build(commit, file);

	if (r < 0)
		return r;
	if (file->fd < 0 && !commit->overwrite)
		r = stfs_beside_place(commit->folder_fd, file->temp, commit->folder_fd, file->name, file->new_fd);
	else
		r = stfs_io_rename(commit->folder_fd, file->temp, file->name, 0);
	if (r < 0) {
		(void)stfs_commit_unbuild(commit, file);
		return r;
	}
	commit->recorded = true;
	r = stfs_io_sync_folder(commit->folder_fd);
	return r < 0 ? stfs_err_errno(err, r, "%s: the new file stands, but whether that outlasts "
				      "a crash is not known", file->name) : 0;
}
