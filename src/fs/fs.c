/* SPDX-License-Identifier: MIT */
#include "fs/fs.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"

/*
 * `path` as it will be understood from any folder. Links stay: a model of the hub's cache is known
 * by its name in the snapshot, not by that of its blob.
 */
static char *absolute(const char *path)
{
	STFS_AUTO_FREE char *folder = path[0] == '/' ? NULL : getcwd(NULL, 0);
	char *joined;

	if (!folder) /* absolute already, or the folder that we are in is gone */
		return strdup(path);
	return asprintf(&joined, "%s/%s", folder, path) < 0 ? NULL : joined;
}

/* As the kernel shows it in the mount table, without links. */
static char *resolved(const char *path)
{
	char *real = realpath(path, NULL);

	return real ? real : absolute(path);
}

/*
 * Owner and permissions: those of the model file, without write, unless the options say. Of several
 * shards nobody may read more than all of them allow; when they belong to different people, the bits
 * of owner and group speak of nobody in common, and only what is open to all stays open.
 */
static void choose_owner(struct stfs_fs *fs)
{
	const struct stfs_options *o = fs->options;
	const struct stat *st = &fs->model->shards[0].st;
	uid_t uid = st->st_uid;
	gid_t gid = st->st_gid;
	mode_t mode = 0444;
	bool mixed = false;

	for (uint32_t i = 0; i < fs->model->shard_count; i++) {
		st = &fs->model->shards[i].st;
		mode &= st->st_mode;
		mixed |= st->st_uid != uid || st->st_gid != gid;
	}
	if (mixed) {
		uid = geteuid();
		gid = getegid();
		mode = mode & 0004 ? 0444 : 0400;
	}
	fs->uid = o->uid_set ? o->uid : uid;
	fs->gid = o->gid_set ? o->gid : gid;
	fs->file_mode = o->fmask_set ? 0444 & ~o->fmask : mode;
	/* Who may read may also enter. */
	fs->dir_mode = o->dmask_set ? 0555 & ~o->dmask : mode | mode >> 2;
}

static int prepare(struct stfs_fs *fs, struct stfs_err *err)
{
	uint32_t ids = stfs_model_ids(fs->model);
	int r;

	fs->model_path = absolute(fs->options->model);
	fs->mountpoint = resolved(fs->options->mountpoint);
	fs->prefers_cache = calloc(ids ? ids : 1, sizeof(*fs->prefers_cache));
	if (!fs->model_path || !fs->mountpoint || !fs->prefers_cache)
		return stfs_err_errno(err, -ENOMEM, "%s", fs->options->model);
	fs->has_metadata = stfs_model_has_metadata(fs->model);
	r = fs->has_metadata ? stfs_fs_metadata(fs->model, &fs->metadata) : 0;
	if (r == 0)
		r = stfs_fs_index_hashed(fs);
	if (r < 0)
		return stfs_err_errno(err, r, "%s", fs->options->model);
	choose_owner(fs);
	clock_gettime(CLOCK_REALTIME, &fs->mounted);
	return 0;
}

int stfs_fs_open(struct stfs_fs *fs, const struct stfs_options *options, struct stfs_err *err)
{
	int r;

	*fs = (struct stfs_fs){.options = options, .handles_lock = PTHREAD_MUTEX_INITIALIZER,
			       .wake_fd = -1};
	r = stfs_model_open(options->model, STFS_OPEN_TOLERANT | STFS_OPEN_MAP | STFS_OPEN_LOCK, &fs->model, err);
	if (r == 0)
		r = prepare(fs, err);
	if (r < 0)
		stfs_fs_close(fs);
	return r;
}

void stfs_fs_close(struct stfs_fs *fs)
{
	stfs_fs_close_handles(fs);
	stfs_model_close(fs->model);
	free(fs->model_path);
	free(fs->mountpoint);
	free(fs->hashed);
	free((void *)(uintptr_t)fs->prefers_cache);
	stfs_buf_free(&fs->metadata);
	fs->model = NULL;
}
