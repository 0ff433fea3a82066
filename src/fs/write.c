/* SPDX-License-Identifier: MIT */
/* Requests that change the bytes and attributes of files. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <time.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "fs/handle.h"
#include "fs/notify.h"

/* ---- The other form of the same bytes ---- */

/* x.npy of the tensor that this node is: its pages are old. */
void stfs_fs_changed_raw(struct stfs_fs *fs, uint32_t node)
{
	struct stfs_node_view view;
	bool linked;

	if (!stfs_notify_knows_npy(fs->notify))
		return;
	stfs_tree_hold(fs->tree);
	linked = stfs_tree_node(fs->tree, node, &view) && view.linked && !view.scratch;
	stfs_tree_release(fs->tree);
	if (linked)
		stfs_notify_pages(fs->notify, stfs_fs_ino(view.name, STFS_FORM_NPY));
}

/* The raw file of a tensor that was written to as .npy: size, times and pages are old. */
void stfs_fs_changed_npy(struct stfs_fs *fs, uint32_t node)
{
	stfs_notify_attributes(fs->notify, stfs_fs_ino(node, STFS_FORM_RAW));
	stfs_notify_pages(fs->notify, stfs_fs_ino(node, STFS_FORM_RAW));
}

int stfs_fs_write_npy(struct stfs_fs *fs, uint32_t node, struct stfs_str head, const void *bytes, size_t len,
		      uint64_t offset)
{
	size_t in_head = offset < head.len ? stfs_min_u64(head.len - offset, len) : 0;
	int r = 0;

	/* The header follows from dtype and shape: only the same may be written over it. */
	if (in_head && memcmp(head.ptr + offset, bytes, in_head) != 0)
		return -EINVAL;
	if (len > in_head)
		r = stfs_tree_write(fs->tree, node, (const char *)bytes + in_head, len - in_head,
				    offset + in_head - head.len);
	if (r == 0)
		stfs_fs_changed_npy(fs, node);
	return r;
}

/* ---- write ---- */

/*
 * Replies: write; EFBIG, EINVAL (another .npy header over a tensor), EIO, ENOSPC, EROFS (a commit stopped
 * half-way), ENOMEM.
 */
void stfs_fs_op_write(fuse_req_t req, fuse_ino_t ino, const char *bytes, size_t size, off_t offset,
		      struct fuse_file_info *fi)
{
	struct stfs_fs *fs = fuse_req_userdata(req);
	struct stfs_handle *handle = stfs_handle_of(fi);
	int r;

	atomic_fetch_add(&fs->writes, 1);
	if (handle->draft) {
		pthread_mutex_lock(&fs->drafts_lock);
		r = stfs_draft_write(fs, handle->draft, bytes, size, (uint64_t)offset);
		pthread_mutex_unlock(&fs->drafts_lock);
	} else if (handle->node == STFS_NO_NUMBER) {
		r = -EBADF;
	} else {
		stfs_handle_writes(fs, handle);
		if (handle->form == STFS_FORM_NPY)
			r = stfs_fs_write_npy(fs, handle->node, handle->made_up, bytes, size, (uint64_t)offset);
		else
			r = stfs_tree_write(fs->tree, handle->node, bytes, size, (uint64_t)offset);
		if (r == 0 && handle->form == STFS_FORM_RAW)
			stfs_fs_changed_raw(fs, handle->node);
	}
	if (r < 0)
		fuse_reply_err(req, -r);
	else
		fuse_reply_write(req, size);
}

/* ---- setattr ---- */

static int resize_npy(struct stfs_fs *fs, uint32_t name, uint64_t len)
{
	STFS_AUTO_BUF struct stfs_buf header = STFS_BUF_INIT;
	struct stfs_typing_view typing;
	uint32_t node;
	int r = -ESTALE;

	stfs_tree_hold(fs->tree);
	node = stfs_tree_named(fs->tree, name);
	if (node != STFS_NO_NUMBER && stfs_tree_typing(fs->tree, name, &typing) && stfs_fs_has_npy(&typing))
		r = stfs_fs_npy_header(&typing, &header);
	stfs_tree_release(fs->tree);
	if (r == 0 && len < header.len)
		r = -EINVAL;
	if (r == 0)
		r = stfs_tree_resize(fs->tree, node, len - header.len, false);
	if (r == 0)
		stfs_fs_changed_npy(fs, node);
	return r;
}

static int resize(struct stfs_fs *fs, fuse_ino_t ino, uint64_t len, const struct fuse_file_info *fi)
{
	/* Of who has one open that one: it may have been removed, and another be written by now. */
	struct stfs_draft *draft = fi ? stfs_handle_of(fi)->draft : NULL;
	enum stfs_form form;
	uint32_t number;
	int r;

	pthread_mutex_lock(&fs->drafts_lock);
	if (!draft)
		draft = stfs_draft_find_idle(fs, ino);
	r = draft ? stfs_draft_resize(fs, draft, len) : 0;
	pthread_mutex_unlock(&fs->drafts_lock);
	if (r == 0 && draft && draft->taken) /* only of a handle: the list has none */
		stfs_fs_changed_npy(fs, draft->node);
	if (draft)
		return r;
	if (!stfs_fs_split(ino, &number, &form) || form == STFS_FORM_SIDECAR)
		return -EINVAL; /* a text that nobody writes has the length that it has */
	if (form == STFS_FORM_NPY)
		return resize_npy(fs, number, len);
	if (fi && stfs_handle_of(fi)->node == number)
		stfs_handle_writes(fs, stfs_handle_of(fi));
	r = stfs_tree_resize(fs->tree, number, len, false);
	if (r == 0)
		stfs_fs_changed_raw(fs, number);
	return r;
}

static void set_mtime(struct stfs_fs *fs, fuse_ino_t ino, const struct timespec *mtime)
{
	struct stfs_draft *draft;
	enum stfs_form form;
	uint32_t number;

	pthread_mutex_lock(&fs->drafts_lock);
	draft = stfs_draft_find(fs, ino);
	if (draft)
		draft->mtime = *mtime;
	pthread_mutex_unlock(&fs->drafts_lock);
	if (ino == STFS_INO_METADATA)
		stfs_tree_set_text_mtime(fs->tree, STFS_NO_NUMBER, mtime);
	if (!stfs_fs_split(ino, &number, &form))
		return;
	if (form == STFS_FORM_SIDECAR) {
		stfs_tree_set_text_mtime(fs->tree, number, mtime);
		return;
	}
	if (form == STFS_FORM_NPY) {
		stfs_tree_hold(fs->tree);
		number = stfs_tree_named(fs->tree, number);
		stfs_tree_release(fs->tree);
	}
	if (number != STFS_NO_NUMBER)
		stfs_tree_set_mtime(fs->tree, number, mtime);
}

/* Permissions live as long as the mount. Those of a sidecar are its tensor's. */
static void set_mode(struct stfs_fs *fs, fuse_ino_t ino, mode_t mode)
{
	enum stfs_form form;
	uint32_t number;

	if (ino == STFS_INO_METADATA)
		fs->metadata_mode = mode & 07777;
	else if (stfs_fs_split(ino, &number, &form) && form == STFS_FORM_RAW)
		stfs_tree_set_mode(fs->tree, number, mode);
}

static int set_attributes(struct stfs_fs *fs, fuse_ino_t ino, const struct stat *st, int which,
			  const struct fuse_file_info *fi)
{
	struct timespec now;
	int r = 0;

	if (!stfs_fs_writable(fs) || stfs_tree_is_stuck(fs->tree))
		return -EROFS;
	if (ino == STFS_INO_STATUS)
		return -EPERM;
	if (ino == STFS_INO_ROOT) { /* of times it has those of the model; cp -a tries to set them */
		if (which & FUSE_SET_ATTR_MODE)
			fs->dir_mode = st->st_mode & 07777;
		return which & FUSE_SET_ATTR_SIZE ? -EISDIR : 0;
	}
	if (which & FUSE_SET_ATTR_SIZE)
		r = resize(fs, ino, (uint64_t)st->st_size, fi);
	if (r == 0 && which & FUSE_SET_ATTR_MODE)
		set_mode(fs, ino, st->st_mode);
	if (r == 0 && which & FUSE_SET_ATTR_MTIME_NOW) {
		clock_gettime(CLOCK_REALTIME, &now);
		set_mtime(fs, ino, &now);
	} else if (r == 0 && which & FUSE_SET_ATTR_MTIME) {
		set_mtime(fs, ino, &st->st_mtim);
	}
	return r; /* owners are those of the model: chown(2) succeeds and changes nothing */
}

static int stat_now(struct stfs_fs *fs, fuse_ino_t ino, const struct fuse_file_info *fi, struct stat *st, double *timeout)
{
	int r;

	pthread_mutex_lock(&fs->drafts_lock);
	stfs_tree_hold(fs->tree);
	r = stfs_fs_stat(fs, ino, st, timeout);
	if (r == -ESTALE && fi)
		r = stfs_fs_stat_open(fs, stfs_handle_of(fi), st, timeout);
	stfs_tree_release(fs->tree);
	pthread_mutex_unlock(&fs->drafts_lock);
	return r;
}

/* Replies: attr; EINVAL, EFBIG, EISDIR, EROFS, ENOSPC, ESTALE, ENOMEM. */
void stfs_fs_op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *st, int which, struct fuse_file_info *fi)
{
	struct stfs_fs *fs = fuse_req_userdata(req);
	struct stat now;
	double timeout;
	/* By a name that is another's: the kernel looks it up again, and what it was stays as it is. */
	int r = fi ? 0 : stat_now(fs, ino, NULL, &now, &timeout);

	if (r == 0)
		r = set_attributes(fs, ino, st, which, fi);
	if (r == 0)
		r = stat_now(fs, ino, fi, &now, &timeout);
	if (r < 0)
		fuse_reply_err(req, -r);
	else
		fuse_reply_attr(req, &now, timeout);
}

/* ---- fallocate, copy_file_range ---- */

static uint64_t len_of(struct stfs_fs *fs, uint32_t node)
{
	struct stfs_node_view view = {0};

	stfs_tree_hold(fs->tree);
	stfs_tree_node(fs->tree, node, &view);
	stfs_tree_release(fs->tree);
	return view.len;
}

/* Bytes [offset, offset + len) become zeros; with `keep` the file does not grow. */
static int zero(struct stfs_fs *fs, uint32_t node, uint64_t offset, uint64_t len, bool keep)
{
	uint64_t size = len_of(fs, node), end = offset + len;
	int r = 0;

	if (!keep && end > size)
		r = stfs_tree_resize(fs->tree, node, end, false);
	end = stfs_min_u64(end, size);
	return r < 0 || offset >= end ? r : stfs_tree_zero(fs->tree, node, offset, end - offset);
}

static int allocate(struct stfs_fs *fs, uint32_t node, int mode, uint64_t offset, uint64_t len)
{
	uint64_t size = len_of(fs, node), end = offset + len;
	int r = 0;

	if (end > size && (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_ZERO_RANGE)) == 0)
		r = stfs_tree_check_room(fs->tree, end - size);
	if (r < 0)
		return r;
	switch (mode) {
	case 0: return end > size ? stfs_tree_resize(fs->tree, node, end, false) : 0;
	case FALLOC_FL_KEEP_SIZE: return 0; /* there is room now; it is taken when it is written */
	case FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE:
	case FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE: return zero(fs, node, offset, len, true);
	case FALLOC_FL_ZERO_RANGE: return zero(fs, node, offset, len, false);
	default: return -EOPNOTSUPP;
	}
}

/* Replies: 0; EOPNOTSUPP, EFBIG, EROFS, ENOSPC, EIO, ENOMEM. */
void stfs_fs_op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t len,
			  struct fuse_file_info *fi)
{
	struct stfs_fs *fs = fuse_req_userdata(req);
	struct stfs_handle *handle = stfs_handle_of(fi);
	int r = -EOPNOTSUPP;

	if (offset < 0 || len <= 0 || offset > INT64_MAX - len) {
		r = -EFBIG;
	} else if (!handle->draft && handle->form == STFS_FORM_RAW && handle->node != STFS_NO_NUMBER) {
		stfs_handle_writes(fs, handle);
		r = allocate(fs, handle->node, mode, (uint64_t)offset, (uint64_t)len);
		stfs_fs_changed_raw(fs, handle->node);
	}
	fuse_reply_err(req, -r);
}

/* Replies: write; EOPNOTSUPP (then the kernel copies by itself), and as write. */
void stfs_fs_op_copy_file_range(fuse_req_t req, fuse_ino_t in, off_t in_at, struct fuse_file_info *in_fi,
				fuse_ino_t out, off_t out_at, struct fuse_file_info *out_fi, size_t len, int flags)
{
	struct stfs_fs *fs = fuse_req_userdata(req);
	struct stfs_handle *from = stfs_handle_of(in_fi), *to = stfs_handle_of(out_fi);
	ssize_t done = -EOPNOTSUPP;

	if (!from->draft && !to->draft && from->form == STFS_FORM_RAW && to->form == STFS_FORM_RAW &&
	    from->node != STFS_NO_NUMBER && to->node != STFS_NO_NUMBER && from->node != to->node) {
		stfs_handle_writes(fs, to);
		done = stfs_tree_copy(fs->tree, from->node, (uint64_t)in_at, to->node, (uint64_t)out_at, len);
		if (done > 0)
			stfs_fs_changed_raw(fs, to->node);
	}
	if (done < 0)
		fuse_reply_err(req, (int)-done);
	else
		fuse_reply_write(req, (size_t)done);
}
