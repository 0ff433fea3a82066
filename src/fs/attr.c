/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "fs/draft.h"
#include "fs/fs.h"
#include "fs/handle.h"

bool stfs_fs_has_npy(const struct stfs_typing_view *typing)
{
	return (typing->fit == STFS_FIT_EXACT || typing->fit == STFS_FIT_ROWS) &&
	       stfs_dtype_info(typing->dtype)->descr && typing->rank <= STFS_NPY_RANK_MOST;
}

bool stfs_fs_split(fuse_ino_t ino, uint32_t *number, enum stfs_form *form)
{
	uint64_t number64 = (ino - STFS_INO_FIRST) / 4;

	if (ino < STFS_INO_FIRST || (ino - STFS_INO_FIRST) % 4 > STFS_FORM_NPY || number64 >= STFS_NO_NUMBER)
		return false;
	*form = (enum stfs_form)((ino - STFS_INO_FIRST) % 4);
	*number = (uint32_t)number64;
	return true;
}

static void set_len(struct stat *st, uint64_t len)
{
	st->st_size = (off_t)len;
	st->st_blocks = (blkcnt_t)((len + 511) / 512);
}

static void set_times(struct stat *st, struct timespec mtime, struct timespec ctime)
{
	st->st_mtim = st->st_atim = mtime;
	st->st_ctim = ctime;
}

/* A raw file. One that was removed is still there for those who have it open. */
static int stat_node(struct stfs_fs *fs, uint32_t number, struct stat *st, double *timeout)
{
	struct stfs_node_view view;

	if (!stfs_tree_node(fs->tree, number, &view) || (!view.linked && !view.opens) || view.absorbed)
		return -ESTALE;
	st->st_nlink = view.linked;
	if (view.mode_set)
		st->st_mode = S_IFREG | view.mode;
	set_len(st, view.len);
	set_times(st, view.mtime, view.ctime);
	/* A scratch file may become something else under the same entry (docs/writing.md). */
	if (stfs_fs_writable(fs) && (view.scratch || view.typeless || !view.linked))
		*timeout = 0;
	return 0;
}

static int stat_made_up(struct stfs_fs *fs, uint32_t name, enum stfs_form form, struct stat *st)
{
	STFS_AUTO_BUF struct stfs_buf header = STFS_BUF_INIT;
	struct stfs_typing_view typing;
	struct stfs_node_view view = {0};
	uint64_t len = 0;
	int r;

	if (!stfs_tree_typing(fs->tree, name, &typing))
		return -ESTALE;
	/* The permissions are those of the tensor. */
	if (stfs_tree_node(fs->tree, stfs_tree_named(fs->tree, name), &view) && view.mode_set)
		st->st_mode = S_IFREG | view.mode;
	if (form == STFS_FORM_SIDECAR) {
		if (typing.fit == STFS_FIT_NONE)
			return -ESTALE;
		r = stfs_fs_sidecar_len(&typing, &len);
		set_times(st, typing.mtime, typing.mtime);
	} else {
		if (!stfs_fs_has_npy(&typing))
			return -ESTALE;
		r = stfs_fs_npy_header(&typing, &header);
		len = header.len + view.len;
		set_times(st, view.mtime, view.ctime);
	}
	set_len(st, len);
	return r;
}

static void set_root_times(struct stfs_fs *fs, struct stat *st)
{
	const struct stfs_model *model = stfs_tree_model(fs->tree);
	struct stfs_shard_view view;

	set_times(st, fs->mounted, fs->mounted);
	if (!model)
		return;
	view = stfs_shard_view(&model->shards[0]);
	set_times(st, view.mtime, view.ctime);
}

static int stat_metadata(struct stfs_fs *fs, struct stat *st)
{
	struct timespec mtime = fs->mounted;
	struct stfs_str text;

	if (!stfs_tree_metadata(fs->tree, &text, &mtime))
		return -ESTALE;
	st->st_mode = S_IFREG | fs->metadata_mode;
	set_len(st, text.len);
	set_times(st, mtime, mtime);
	return 0;
}

int stfs_fs_stat(struct stfs_fs *fs, fuse_ino_t ino, struct stat *st, double *timeout)
{
	const struct stfs_draft *draft = stfs_draft_find(fs, ino);
	uint32_t number;
	enum stfs_form form;

	*timeout = stfs_fs_writable(fs) ? 0 : STFS_FOREVER;
	*st = (struct stat){.st_ino = ino, .st_nlink = 1, .st_uid = fs->uid, .st_gid = fs->gid,
			    .st_mode = S_IFREG | fs->file_mode,
			    /* cat, cp and Python read in blocks of this size (facts: a free gain). */
			    .st_blksize = 1 << 20};
	set_root_times(fs, st);
	if (draft && draft->changed) { /* what is being written shows itself */
		set_len(st, stfs_draft_len(fs, draft));
		set_times(st, draft->mtime, draft->mtime);
		return 0;
	}
	if (ino == STFS_INO_ROOT) {
		st->st_mode = S_IFDIR | fs->dir_mode;
		st->st_nlink = 2;
		st->st_blksize = 4096;
		return 0;
	}
	if (ino == STFS_INO_STATUS) {
		/* Made anew at every open: its length is not known here, as in /proc. */
		st->st_mode = S_IFREG | 0400;
		return 0;
	}
	if (ino == STFS_INO_METADATA)
		return stat_metadata(fs, st);
	if (!stfs_fs_split(ino, &number, &form))
		return -ESTALE;
	if (form == STFS_FORM_RAW) {
		*timeout = STFS_FOREVER;
		return stat_node(fs, number, st, timeout);
	}
	return stat_made_up(fs, number, form, st);
}

int stfs_fs_stat_open(struct stfs_fs *fs, const struct stfs_handle *handle, struct stat *st, double *timeout)
{
	struct stfs_node_view view = {0};

	if (handle->draft) {
		st->st_nlink = 0;
		set_len(st, stfs_draft_len(fs, handle->draft));
		set_times(st, handle->draft->mtime, handle->draft->mtime);
		return 0;
	}
	if (handle->node != STFS_NO_NUMBER && !stfs_tree_node(fs->tree, handle->node, &view))
		return -ESTALE;
	*timeout = 0; /* the kernel would take it for that of the name */
	st->st_nlink = 0;
	set_len(st, handle->made_up.len + view.len);
	if (handle->node != STFS_NO_NUMBER)
		set_times(st, view.mtime, view.ctime);
	return 0;
}

int stfs_fs_entry(struct stfs_fs *fs, fuse_ino_t ino, struct fuse_entry_param *entry)
{
	int r;

	*entry = (struct fuse_entry_param){.ino = ino, .entry_timeout = STFS_FOREVER};
	pthread_mutex_lock(&fs->drafts_lock);
	stfs_tree_hold(fs->tree);
	r = stfs_fs_stat(fs, ino, &entry->attr, &entry->attr_timeout);
	if (r == 0)
		stfs_fs_know(fs, ino);
	stfs_tree_release(fs->tree);
	pthread_mutex_unlock(&fs->drafts_lock);
	return r;
}
