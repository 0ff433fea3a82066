/* SPDX-License-Identifier: MIT */
#include "fs/fs.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"

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
 * Owner and permissions: those of the model file, without execution, unless the options say. Of several
 * shards nobody may do more than all of them allow; when they belong to different people, the bits
 * of owner and group speak of nobody in common, and only what is open to all stays open.
 */
static void choose_owner(struct stfs_fs *fs)
{
	const struct stfs_options *o = fs->options;
	const struct stfs_model *model = stfs_tree_model(fs->tree);
	mode_t most = stfs_fs_writable(fs) ? 0666 : 0444, mode = most;
	uid_t uid = geteuid();
	gid_t gid = getegid();
	bool mixed = false;

	for (uint32_t i = 0; model && i < model->shard_count; i++) {
		const struct stat *st = &model->shards[i].st;

		if (i == 0) {
			uid = st->st_uid;
			gid = st->st_gid;
		}
		mode &= st->st_mode;
		mixed |= st->st_uid != uid || st->st_gid != gid;
	}
	if (!model)
		mode = 0644;
	if (mixed) {
		uid = geteuid();
		gid = getegid();
		mode = mode & 0004 ? 0444 : 0400;
	}
	/* What is written is our own: a private copy, or a model that the guard was told to ignore. */
	if (stfs_fs_writable(fs))
		mode |= 0600;
	fs->uid = o->uid_set ? o->uid : uid;
	fs->gid = o->gid_set ? o->gid : gid;
	fs->file_mode = o->fmask_set ? most & ~o->fmask : mode;
	/* Who may read may also enter. */
	fs->metadata_mode = fs->file_mode;
	fs->dir_mode = o->dmask_set ? (most | 0111) & ~o->dmask : mode | (mode & 0444) >> 2;
}

static int prepare(struct stfs_fs *fs, struct stfs_err *err)
{
	fs->prefers_count = stfs_tree_nodes(fs->tree);
	fs->model_path = absolute(fs->options->model);
	fs->mountpoint = resolved(fs->options->mountpoint);
	fs->prefers_cache = calloc(fs->prefers_count ? fs->prefers_count : 1, sizeof(*fs->prefers_cache));
	if (!fs->model_path || !fs->mountpoint || !fs->prefers_cache)
		return stfs_err_errno(err, -ENOMEM, "%s", fs->options->model);
	choose_owner(fs);
	clock_gettime(CLOCK_REALTIME, &fs->mounted);
	/* No listing is known yet. */
	atomic_store(&fs->listed, UINT64_MAX);
	return 0;
}

/* Whether the model can be shown though it cannot be changed: then it is, with a word about why. */
static bool only_readable(int r)
{
	return r == -EPERM || r == -EACCES || r == -EROFS || r == -EBADMSG || r == -ETXTBSY || r == -EMEDIUMTYPE;
}

/* What could not be opened for writing (`r`, `why`) is at least read, if that is all that is wrong with it. */
static int open_readable(struct stfs_fs *fs, struct stfs_tree_options *tree, int r, struct stfs_err *why)
{
	struct stfs_err second = STFS_ERR_INIT;

	tree->mode = STFS_TREE_RO;
	if (stfs_tree_open(tree, &fs->tree, &second) < 0) {
		*why = second; /* it names the path as it was given, and is no question of writing */
		return second.code;
	}
	if (!only_readable(r)) {
		stfs_tree_close(fs->tree);
		fs->tree = NULL;
		return r;
	}
	fs->readonly_because = strdup(why->message);
	stfs_log(STFS_LOG_WARNING, "%s: mounted read-only (%s)%s", fs->options->model, why->message,
		 r == -EMEDIUMTYPE ? "" : "; -o cow edits a private copy");
	return 0;
}

static int open_tree(struct stfs_fs *fs, struct stfs_err *err)
{
	const struct stfs_options *o = fs->options;
	struct stfs_tree_options tree = {
		.path = o->model,
		.mode = o->read_only ? STFS_TREE_RO : o->cow ? STFS_TREE_COW : o->create ? STFS_TREE_CREATE : STFS_TREE_RW,
		.overwrite = o->overwrite,
		.force = o->force,
		.staged = o->staged,
		.ignore_readers = o->ignore_readers,
		.spool_folder = o->spool,
	};
	struct stfs_err why = STFS_ERR_INIT;
	int r = stfs_tree_open(&tree, &fs->tree, &why);

	if (r == 0 && stfs_tree_in_place_only(fs->tree))
		stfs_log(STFS_LOG_WARNING, "%s: its folder cannot be written: tensors can be overwritten in place, and no "
			 "more", o->model);
	/* Nothing makes a checkpoint writable: who asks for that is told, not given something else. */
	if (r == -EMEDIUMTYPE && (o->asked_rw || o->force))
		return stfs_err_set(err, r, why.position, "%s", why.message);
	if (r < 0 && tree.mode == STFS_TREE_RW && r != -EBUSY && r != -EUCLEAN)
		r = open_readable(fs, &tree, r, &why);
	return r < 0 ? stfs_err_set(err, r, why.position, "%s", why.message) : 0;
}

int stfs_fs_open(struct stfs_fs *fs, const struct stfs_options *options, struct stfs_err *err)
{
	int r;

	*fs = (struct stfs_fs){.options = options, .handles_lock = PTHREAD_MUTEX_INITIALIZER,
			       .drafts_lock = PTHREAD_MUTEX_INITIALIZER,
			       .drafts_idle = PTHREAD_COND_INITIALIZER, .wake_fd = -1};
	r = open_tree(fs, err);
	if (r == 0)
		r = prepare(fs, err);
	if (r < 0)
		stfs_fs_close(fs);
	return r;
}

void stfs_fs_close(struct stfs_fs *fs)
{
	if (fs->tree)
		stfs_fs_close_handles(fs);
	stfs_tree_close(fs->tree);
	for (unsigned i = 0; i < fs->refused_count; i++) {
		free(fs->refused[i].file);
		free(fs->refused[i].why);
	}
	free(fs->model_path);
	free(fs->mountpoint);
	free(fs->readonly_because);
	free((void *)(uintptr_t)fs->prefers_cache);
	fs->tree = NULL;
}
