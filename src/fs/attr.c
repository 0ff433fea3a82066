/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "fs/fs.h"

bool stfs_fs_has_form(const struct stfs_tensor_ref *ref, enum stfs_form form)
{
	return form != STFS_FORM_NPY || (ref->dtype->descr && ref->tensor->rank <= STFS_NPY_RANK_MOST);
}

bool stfs_fs_node(const struct stfs_fs *fs, fuse_ino_t ino, struct stfs_tensor_ref *ref, uint32_t *id,
		  enum stfs_form *form)
{
	uint64_t number;

	if (ino < STFS_INO_FIRST)
		return false;
	number = (ino - STFS_INO_FIRST) / 4;
	*form = (enum stfs_form)((ino - STFS_INO_FIRST) % 4);
	if (number >= stfs_model_ids(fs->model) || *form > STFS_FORM_NPY)
		return false;
	*id = (uint32_t)number;
	return stfs_model_tensor(fs->model, *id, ref) && stfs_fs_has_form(ref, *form);
}

/* Times of the file that the inode comes from. */
static void set_times(struct stfs_shard *shard, struct stat *st)
{
	struct stfs_shard_view view = stfs_shard_view(shard);

	st->st_mtim = st->st_atim = view.mtime;
	st->st_ctim = view.ctime;
}

static int made_up_len(const struct stfs_tensor_ref *ref, enum stfs_form form, uint64_t *len)
{
	STFS_AUTO_BUF struct stfs_buf buf = STFS_BUF_INIT;
	int r;

	if (form == STFS_FORM_SIDECAR)
		return stfs_fs_sidecar_len(ref, len);
	r = stfs_fs_npy_header(ref, &buf);
	*len = buf.len;
	return r;
}

static int tensor_len(const struct stfs_tensor_ref *ref, enum stfs_form form, uint64_t *len)
{
	uint64_t made_up = 0;
	int r = form == STFS_FORM_RAW ? 0 : made_up_len(ref, form, &made_up);

	*len = made_up + (form == STFS_FORM_SIDECAR ? 0 : ref->len);
	return r;
}

int stfs_fs_stat(struct stfs_fs *fs, fuse_ino_t ino, struct stat *st)
{
	struct stfs_shard *shard = &fs->model->shards[0];
	struct stfs_tensor_ref ref;
	enum stfs_form form;
	uint64_t len = 0;
	uint32_t id;
	int r = 0;

	*st = (struct stat){.st_ino = ino, .st_nlink = 1, .st_uid = fs->uid, .st_gid = fs->gid,
			    .st_mode = S_IFREG | fs->file_mode,
			    /* cat, cp and Python read in blocks of this size (facts: a free gain). */
			    .st_blksize = 1 << 20};
	if (ino == STFS_INO_ROOT) {
		st->st_mode = S_IFDIR | fs->dir_mode;
		st->st_nlink = 2;
		st->st_blksize = 4096;
	} else if (ino == STFS_INO_STATUS) {
		/* Made anew at every open: its length is not known here, as in /proc. */
		st->st_mode = S_IFREG | 0400;
	} else if (ino == STFS_INO_METADATA) {
		if (!fs->has_metadata)
			return -ENOENT;
		len = fs->metadata.len;
	} else {
		if (!stfs_fs_node(fs, ino, &ref, &id, &form))
			return -ENOENT;
		r = tensor_len(&ref, form, &len);
		shard = ref.shard;
	}
	set_times(shard, st);
	st->st_size = (off_t)len;
	st->st_blocks = (blkcnt_t)((len + 511) / 512);
	return r;
}
