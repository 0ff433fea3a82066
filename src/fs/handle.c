/* SPDX-License-Identifier: MIT */
#include "fs/handle.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "fs/watch.h"

/* Direct I/O wins from blocks of this size up; smaller files live in the page cache (facts). */
#define DIRECT_FROM (128u << 10)

static void text_free(struct stfs_text *text)
{
	if (text)
		stfs_buf_free(&text->buf);
	free(text);
}

/*
 * Puts the handle among the others. When one of them has the bytes of this inode already, it shares
 * them and gives its own up: a header can be large, and be opened often.
 */
static void enlist(struct stfs_fs *fs, struct stfs_handle *handle)
{
	struct stfs_text *spare = NULL;

	pthread_mutex_lock(&fs->handles_lock);
	for (struct stfs_handle *h = fs->handles; handle->text && h; h = h->after) {
		if (h->ino != handle->ino || !h->text || handle->ino == STFS_INO_STATUS)
			continue;
		spare = handle->text;
		handle->text = h->text;
		break;
	}
	if (handle->text) {
		handle->text->users++;
		handle->made_up = stfs_buf_str(&handle->text->buf);
	}
	handle->after = fs->handles;
	if (handle->after)
		handle->after->before = handle;
	fs->handles = handle;
	pthread_mutex_unlock(&fs->handles_lock);
	text_free(spare);
}

static void close_handle(struct stfs_fs *fs, struct stfs_handle *handle)
{
	struct stfs_text *last = NULL;

	pthread_mutex_lock(&fs->handles_lock);
	if (handle->after)
		handle->after->before = handle->before;
	if (handle->before)
		handle->before->after = handle->after;
	else
		fs->handles = handle->after;
	if (handle->text && --handle->text->users == 0)
		last = handle->text;
	pthread_mutex_unlock(&fs->handles_lock);
	text_free(last);
	free(handle);
}

void stfs_fs_close_handles(struct stfs_fs *fs)
{
	while (fs->handles)
		close_handle(fs, fs->handles);
}

/* .stfs is for the owner and root; FUSE asks nobody without default_permissions. */
static int may_read_status(fuse_req_t req, const struct stfs_fs *fs)
{
	uid_t uid = fuse_req_ctx(req)->uid;

	return uid == 0 || uid == fs->uid || uid == getuid() ? 0 : -EACCES;
}

/* The bytes that the file begins with, if it has such. */
static int make_up(struct stfs_fs *fs, struct stfs_handle *handle, enum stfs_form form)
{
	handle->text = calloc(1, sizeof(*handle->text));
	if (!handle->text)
		return -ENOMEM;
	if (handle->ino == STFS_INO_STATUS)
		return stfs_fs_status(fs, &handle->text->buf);
	return form == STFS_FORM_NPY ? stfs_fs_npy_header(&handle->ref, &handle->text->buf)
				     : stfs_fs_sidecar(&handle->ref, &handle->text->buf);
}

static int open_tensor(struct stfs_fs *fs, struct stfs_handle *handle)
{
	enum stfs_form form;
	int r;

	if (!stfs_fs_node(fs, handle->ino, &handle->ref, &handle->id, &form))
		return -ENOENT;
	handle->with_data = form != STFS_FORM_SIDECAR;
	r = handle->with_data ? stfs_shard_check(handle->ref.shard) : 0;
	if (r != 0)
		stfs_watch_poke(fs); /* the kernel's attributes are old */
	if (r < 0)
		return r;
	return form == STFS_FORM_RAW ? 0 : make_up(fs, handle, form);
}

static int fill(fuse_req_t req, struct stfs_fs *fs, struct stfs_handle *handle)
{
	int r;

	handle->id = STFS_NO_TENSOR;
	if (handle->ino == STFS_INO_ROOT)
		return -EISDIR;
	if (handle->ino == STFS_INO_METADATA) {
		handle->made_up = stfs_buf_str(&fs->metadata);
		return 0;
	}
	if (handle->ino == STFS_INO_STATUS) {
		r = may_read_status(req, fs);
		return r < 0 ? r : make_up(fs, handle, STFS_FORM_RAW);
	}
	return open_tensor(fs, handle);
}

/* How the kernel shall read this file (facts/fuse-io, "What follows"). */
static void choose_mode(struct stfs_fs *fs, fuse_ino_t ino, const struct stfs_handle *handle,
			struct fuse_file_info *fi)
{
	enum stfs_cache cache = fs->options->cache;
	bool direct = cache == STFS_CACHE_NEVER;

	if (cache == STFS_CACHE_AUTO && handle->with_data && handle->ref.len >= DIRECT_FROM)
		/* Without ALLOW_MMAP a shared mapping of a direct file is ENODEV: never risk it. */
		direct = atomic_load(&fs->direct_io_mmap) && !fs->prefers_cache[handle->id];
	if (ino == STFS_INO_STATUS)
		direct = true; /* its length is made up: only direct reads go on to the end */
	fi->direct_io = direct;
	fi->keep_cache = !direct;
	/* Once the data has changed underneath, cached pages are dropped at each open. */
	if (handle->with_data && stfs_shard_view(handle->ref.shard).touched)
		fi->keep_cache = 0;
}

/*
 * Replies: open; EISDIR, ENOENT, EACCES (.stfs), EROFS, ESTALE (header changed), ENOMEM, and what
 * fstat(2) and pread(2) of the model's file system answer.
 */
void stfs_fs_op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stfs_fs *fs = fuse_req_userdata(req);
	struct stfs_handle *handle = calloc(1, sizeof(*handle));
	int r = handle ? 0 : -ENOMEM;

	if (r == 0 && (fi->flags & O_ACCMODE) != O_RDONLY)
		r = -EROFS;
	if (r == 0) {
		handle->ino = ino;
		r = fill(req, fs, handle);
	}
	if (r < 0) {
		if (handle)
			text_free(handle->text);
		free(handle);
		fuse_reply_err(req, -r);
		return;
	}
	fi->fh = (uint64_t)(uintptr_t)handle;
	choose_mode(fs, ino, handle, fi);
	enlist(fs, handle);
	/* ENOENT here: the caller was interrupted, and no release will come. */
	if (fuse_reply_open(req, fi) == -ENOENT)
		close_handle(fs, handle);
}

/* Replies: 0. */
void stfs_fs_op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	close_handle(fuse_req_userdata(req), stfs_handle_of(fi));
	fuse_reply_err(req, 0);
}
