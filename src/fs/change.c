/* SPDX-License-Identifier: MIT */
/* Requests that change the directory: removing, renaming, syncing. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "format/metadata.h"
#include "format/sidecar.h"
#include "fs/handle.h"
#include "fs/notify.h"
#include "fs/sync.h"

static int may_change(struct stfs_fs *fs)
{
	return !stfs_fs_writable(fs) || stfs_tree_is_stuck(fs->tree) ? -EROFS : 0;
}

static int find_target(struct stfs_fs *fs, const char *name, struct stfs_target *target)
{
	int r;

	stfs_tree_hold(fs->tree);
	r = stfs_fs_target(fs, name, target);
	stfs_tree_release(fs->tree);
	return r;
}

/* A draft whose name goes: it is not taken over any more. Whether there was one. */
static bool drop_draft(struct stfs_fs *fs, fuse_ino_t ino)
{
	bool there;

	pthread_mutex_lock(&fs->drafts_lock);
	there = stfs_draft_remove(fs, ino);
	pthread_mutex_unlock(&fs->drafts_lock);
	return there;
}

/* Its number stays its own, though it may lose its name, until it is forgotten again. */
static void know_node(struct stfs_fs *fs, uint32_t node)
{
	stfs_tree_hold(fs->tree);
	stfs_tree_know_node(fs->tree, node);
	stfs_tree_release(fs->tree);
}

/*
 * The kernel's entries of the name's .json and .npy lead nowhere from now on: it looks them up again. -EXDEV while somebody
 * writes one of them, by an inode that is to stay what it is.
 */
static int retire_name(struct stfs_fs *fs, uint32_t name)
{
	const struct stfs_draft *draft;
	int r;

	if (name == STFS_NO_NUMBER)
		return 0;
	pthread_mutex_lock(&fs->drafts_lock);
	draft = fs->drafts;
	while (draft && draft->name != name)
		draft = draft->next;
	r = draft ? -EXDEV : stfs_tree_retire_name(fs->tree, name);
	pthread_mutex_unlock(&fs->drafts_lock);
	return r;
}

/*
 * The name's tensor is another from now on, or none: who has its .npy open, or mapped, keeps what it was. Not while
 * somebody writes it.
 */
static void leave_npy(struct stfs_fs *fs, uint32_t name)
{
	(void)retire_name(fs, name);
}

/* ---- unlink ---- */

/*
 * A tensor has a type as long as it is there: its sidecar comes back until the tensor goes as well. Else it is a
 * file of its own, so that rm of all files of a tensor works in whatever order.
 */
static int remove_sidecar(struct stfs_fs *fs, const struct stfs_target *target)
{
	struct stfs_typing_view typing;
	bool there;

	if (target->name == STFS_NO_NUMBER)
		return -ENOENT;
	stfs_tree_hold(fs->tree);
	there = stfs_tree_typing(fs->tree, target->name, &typing) && typing.fit != STFS_FIT_NONE;
	stfs_tree_release(fs->tree);
	if (!drop_draft(fs, stfs_fs_ino(target->name, STFS_FORM_SIDECAR)) && !there)
		return -ENOENT;
	stfs_tree_undeclare(fs->tree, target->name);
	return 0;
}

/*
 * The tensor of a raw file goes by way of its .npy: the kernel has an entry for the raw name still. Who has
 * the file open goes on reading and writing, but asking for its attributes is ESTALE from then on.
 */
static void leave_raw_name(struct stfs_fs *fs, uint32_t node)
{
	if (node == STFS_NO_NUMBER)
		return;
	stfs_notify_attributes(fs->notify, stfs_fs_ino(node, STFS_FORM_RAW));
	stfs_tree_absorb(fs->tree, node);
}

static int remove_npy(struct stfs_fs *fs, const struct stfs_target *target)
{
	bool draft;
	int r;

	if (target->name == STFS_NO_NUMBER)
		return -ENOENT;
	draft = drop_draft(fs, stfs_fs_ino(target->name, STFS_FORM_NPY));
	if (target->node == STFS_NO_NUMBER)
		return draft ? 0 : -ENOENT;
	know_node(fs, target->node);
	r = stfs_tree_remove(fs->tree, target->name);
	if (r == 0) {
		leave_raw_name(fs, target->node);
		leave_npy(fs, target->name);
	}
	stfs_tree_forget_node(fs->tree, target->node, 1);
	return r;
}

static int remove_tensor(struct stfs_fs *fs, const struct stfs_target *target)
{
	int r = target->name == STFS_NO_NUMBER ? -ENOENT : stfs_tree_remove(fs->tree, target->name);

	if (r == 0)
		leave_npy(fs, target->name);
	return r;
}

static int remove_metadata(struct stfs_fs *fs)
{
	struct stfs_err err = STFS_ERR_INIT;
	bool draft = drop_draft(fs, STFS_INO_METADATA), there;
	struct timespec mtime;
	struct stfs_str text;

	stfs_tree_hold(fs->tree);
	there = stfs_tree_metadata(fs->tree, &text, &mtime);
	stfs_tree_release(fs->tree);
	if (!there)
		return draft ? 0 : -ENOENT;
	return stfs_tree_set_metadata(fs->tree, NULL, 0, &err);
}

static int remove_target(struct stfs_fs *fs, const struct stfs_target *target)
{
	switch (target->kind) {
	case STFS_FILE_TENSOR: return remove_tensor(fs, target);
	case STFS_FILE_SCRATCH: return stfs_tree_remove_scratch(fs->tree, target->file);
	case STFS_FILE_SIDECAR: return remove_sidecar(fs, target);
	case STFS_FILE_NPY: return remove_npy(fs, target);
	case STFS_FILE_METADATA: return remove_metadata(fs);
	case STFS_FILE_STATUS: return -EPERM;
	}
	return -EPERM;
}

/* Replies: 0; ENOENT, EROFS, EPERM (.stfs), EINVAL, EILSEQ, ENAMETOOLONG, ENOMEM. */
void stfs_fs_op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct stfs_fs *fs = fuse_req_userdata(req);
	struct stfs_target target;
	int r = parent == STFS_INO_ROOT ? may_change(fs) : -ENOTDIR;

	if (r == 0)
		r = find_target(fs, name, &target);
	if (r == 0)
		r = remove_target(fs, &target);
	fuse_reply_err(req, -r);
}

/* ---- rename ---- */

/* Whether the node is a file whose bytes mean nothing yet: scratch, or new and without a type. */
static bool is_loose(struct stfs_fs *fs, uint32_t node, struct stfs_node_view *view)
{
	bool found;

	stfs_tree_hold(fs->tree);
	found = stfs_tree_node(fs->tree, node, view);
	stfs_tree_release(fs->tree);
	return found && (view->scratch || view->typeless);
}

static int read_text(struct stfs_fs *fs, uint32_t node, const struct stfs_node_view *view, uint64_t most,
		     struct stfs_buf *text)
{
	ssize_t got;

	if (view->len > most)
		return -EFBIG;
	if (stfs_buf_reserve(text, view->len) < 0)
		return -ENOMEM;
	stfs_tree_hold(fs->tree);
	got = stfs_tree_pread(fs->tree, node, text->data, view->len, 0);
	stfs_tree_release(fs->tree);
	text->len = got < 0 ? 0 : (size_t)got;
	return got < 0 ? (int)got : 0;
}

/* The source has done its duty. */
static int remove_source(struct stfs_fs *fs, const struct stfs_target *from)
{
	int r;

	know_node(fs, from->node);
	r = from->kind == STFS_FILE_SCRATCH ? stfs_tree_remove_scratch(fs->tree, from->file)
					    : stfs_tree_remove(fs->tree, from->name);
	if (r == 0)
		stfs_tree_absorb(fs->tree, from->node);
	stfs_tree_forget_node(fs->tree, from->node, 1);
	return r;
}

/* mv .x.json.tmp x.json, as editors and rsync save. */
static int rename_to_text(struct stfs_fs *fs, const struct stfs_target *from, const struct stfs_target *to)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	bool metadata = to->kind == STFS_FILE_METADATA;
	uint32_t name = STFS_NO_NUMBER;
	struct stfs_node_view view;
	int r;

	if (!is_loose(fs, from->node, &view))
		return -EXDEV; /* mv then copies: it is no text that could be taken as it is */
	r = read_text(fs, from->node, &view, metadata ? STFS_METADATA_MAX : STFS_SIDECAR_MAX, &text);
	if (r == 0 && !metadata)
		r = stfs_tree_make_name(fs->tree, to->stem, &name);
	if (r < 0)
		return r;
	pthread_mutex_lock(&fs->drafts_lock);
	r = stfs_draft_take_text(fs, name, stfs_buf_str(&text));
	if (r == 0)
		(void)stfs_draft_remove(fs, metadata ? STFS_INO_METADATA : stfs_fs_ino(name, STFS_FORM_SIDECAR));
	pthread_mutex_unlock(&fs->drafts_lock);
	if (r == 0) {
		stfs_tree_set_text_mtime(fs->tree, name, &view.mtime);
		r = remove_source(fs, from);
	}
	if (name != STFS_NO_NUMBER)
		stfs_tree_forget_name(fs->tree, name, 1);
	return r;
}

/* The bytes of a loose file as a hidden one: those of `from` stay until it is sure that they are an array. */
static int copy_hidden(struct stfs_fs *fs, uint32_t from, uint64_t len, uint32_t *hidden)
{
	ssize_t got = 0;
	int r = stfs_tree_create_hidden(fs->tree, hidden);

	for (uint64_t at = 0; r == 0 && at < len; at += (uint64_t)got) {
		got = stfs_tree_copy(fs->tree, from, at, *hidden, at, len - at);
		r = got < 0 ? (int)got : got == 0 ? -EIO : 0;
	}
	return r;
}

/* mv .x.npy.tmp x.npy */
static int rename_to_npy(struct stfs_fs *fs, const struct stfs_target *from, const struct stfs_target *to)
{
	/* Of nobody else's: in no list. */
	struct stfs_draft draft = {.form = STFS_FORM_NPY, .node = STFS_NO_NUMBER, .users = 1};
	struct stfs_node_view view;
	int r;

	if (!is_loose(fs, from->node, &view))
		return -EXDEV;
	r = stfs_tree_make_name(fs->tree, to->stem, &draft.name);
	if (r < 0)
		return r;
	draft.ino = stfs_fs_ino(draft.name, STFS_FORM_NPY);
	r = copy_hidden(fs, from->node, view.len, &draft.node);
	if (r == 0) {
		pthread_mutex_lock(&fs->drafts_lock);
		r = stfs_draft_take_npy(fs, &draft);
		pthread_mutex_unlock(&fs->drafts_lock);
	}
	if (r == 0) {
		stfs_tree_set_mtime(fs->tree, draft.node, &view.mtime);
		r = remove_source(fs, from);
	} else if (draft.node != STFS_NO_NUMBER) {
		stfs_tree_end_writing(fs->tree, draft.node);
	}
	if (draft.node != STFS_NO_NUMBER)
		stfs_tree_closed(fs->tree, draft.node);
	stfs_buf_free(&draft.header);
	stfs_tree_forget_name(fs->tree, draft.name, 1);
	return r;
}

/* mv x y */
static int rename_to_tensor(struct stfs_fs *fs, const struct stfs_target *from, const struct stfs_target *to,
			    bool keep)
{
	uint32_t name;
	int r;

	leave_npy(fs, from->name);
	leave_npy(fs, to->name);
	r = stfs_tree_make_name(fs->tree, to->stem, &name);
	if (r < 0)
		return r;
	r = stfs_tree_rename(fs->tree, from->node, name, keep);
	stfs_tree_forget_name(fs->tree, name, 1);
	if (r == 0) { /* what of them was not left, because somebody writes it, is another file now */
		stfs_notify_pages(fs->notify, stfs_fs_ino(name, STFS_FORM_NPY));
		if (from->name != STFS_NO_NUMBER)
			stfs_notify_pages(fs->notify, stfs_fs_ino(from->name, STFS_FORM_NPY));
		stfs_notify_attributes(fs->notify, stfs_fs_ino(from->node, STFS_FORM_RAW));
	}
	return r;
}

/*
 * mv x.npy y.npy. What the kernel has of the files of both names would lead astray then: x and y to what they were, and
 * y.npy, which is its entry of x.npy under another name, to the next x.npy. So all get other numbers, which costs nothing
 * when it fails. -EXDEV while the bytes of x are open, or a file of either is being written: mv then copies.
 */
static int rename_npy(struct stfs_fs *fs, const struct stfs_target *from, const struct stfs_target *to, bool keep)
{
	uint32_t name, node = from->node;
	int r;

	if (to->node == from->node)
		return 0;
	r = stfs_tree_renumber(fs->tree, &node);
	if (r < 0)
		return r == -EBUSY ? -EXDEV : r;
	stfs_notify_attributes(fs->notify, stfs_fs_ino(from->node, STFS_FORM_RAW));
	r = retire_name(fs, from->name);
	if (r == 0)
		r = retire_name(fs, to->name);
	if (r == 0)
		r = stfs_tree_make_name(fs->tree, to->stem, &name);
	if (r < 0)
		return r;
	know_node(fs, to->node);
	r = stfs_tree_rename(fs->tree, node, name, keep);
	stfs_tree_forget_name(fs->tree, name, 1);
	if (r == 0)
		leave_raw_name(fs, to->node);
	stfs_tree_forget_node(fs->tree, to->node, 1);
	return r;
}

/* mv x x~ */
static int rename_to_scratch(struct stfs_fs *fs, const struct stfs_target *from, const struct stfs_target *to, bool keep)
{
	int r = stfs_tree_rename_scratch(fs->tree, from->node, to->file, keep);

	if (r == 0)
		leave_npy(fs, from->name);
	return r;
}

/*
 * mv x.json x.json~, as editors make backups: a copy; the sidecar stays with its tensor. The kernel's entry of the backup
 * is that of the text, until it looks for it again.
 */
static int back_up(struct stfs_fs *fs, const struct stfs_target *from, const struct stfs_target *to, bool keep)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	struct stfs_typing_view typing;
	struct timespec mtime;
	struct stfs_str metadata;
	uint32_t node;
	int r = -ENOENT;

	stfs_tree_hold(fs->tree);
	if (from->kind == STFS_FILE_METADATA) {
		if (stfs_tree_metadata(fs->tree, &metadata, &mtime))
			r = stfs_buf_add_str(&text, metadata);
	} else if (from->name != STFS_NO_NUMBER && stfs_tree_typing(fs->tree, from->name, &typing) &&
		   typing.fit != STFS_FIT_NONE) {
		r = stfs_fs_sidecar(&typing, &text);
	}
	stfs_tree_release(fs->tree);
	if (r == 0)
		r = retire_name(fs, from->name);
	if (r == 0 && to->node != STFS_NO_NUMBER)
		r = keep ? -EEXIST : stfs_tree_remove_scratch(fs->tree, to->file);
	if (r == 0)
		r = stfs_tree_create_scratch(fs->tree, to->file, true, &node);
	if (r < 0)
		return r;
	r = stfs_tree_write(fs->tree, node, text.data, text.len, 0);
	stfs_tree_end_writing(fs->tree, node);
	stfs_tree_closed(fs->tree, node);
	stfs_tree_forget_node(fs->tree, node, 1);
	return r;
}

static int rename_target(struct stfs_fs *fs, const struct stfs_target *from, const struct stfs_target *to, bool keep)
{
	bool exists = to->node != STFS_NO_NUMBER;

	if (from->kind == STFS_FILE_STATUS || to->kind == STFS_FILE_STATUS)
		return -EPERM;
	if (from->kind == STFS_FILE_SIDECAR || from->kind == STFS_FILE_METADATA)
		return to->kind == STFS_FILE_SCRATCH ? back_up(fs, from, to, keep) : -EXDEV;
	if (from->node == STFS_NO_NUMBER)
		return -ENOENT;
	if (from->kind == STFS_FILE_NPY) /* to any other kind its header would be lost: mv copies it */
		return to->kind == STFS_FILE_NPY ? rename_npy(fs, from, to, keep) : -EXDEV;
	switch (to->kind) {
	case STFS_FILE_SIDECAR:
	case STFS_FILE_METADATA: return rename_to_text(fs, from, to);
	case STFS_FILE_NPY: return keep && exists ? -EEXIST : rename_to_npy(fs, from, to);
	case STFS_FILE_TENSOR: return rename_to_tensor(fs, from, to, keep);
	case STFS_FILE_SCRATCH: return rename_to_scratch(fs, from, to, keep);
	case STFS_FILE_STATUS: break;
	}
	return -EPERM;
}

/*
 * Replies: 0; ENOENT, EEXIST (RENAME_NOREPLACE), EROFS, EPERM (.stfs), EXDEV (a sidecar to another name, a .npy to
 * what is none: mv then copies it), EINVAL (RENAME_EXCHANGE; a text that does not parse; a name that is none), EFBIG,
 * ENOSPC, EIO, ENOMEM.
 */
void stfs_fs_op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
		       const char *new_name, unsigned flags)
{
	struct stfs_fs *fs = fuse_req_userdata(req);
	struct stfs_target from, to;
	int r = parent == STFS_INO_ROOT && new_parent == STFS_INO_ROOT ? may_change(fs) : -ENOTDIR;

	if (r == 0 && flags & ~(unsigned)RENAME_NOREPLACE)
		r = -EINVAL;
	if (r == 0)
		r = find_target(fs, name, &from);
	if (r == 0)
		r = find_target(fs, new_name, &to);
	if (r == 0)
		r = rename_target(fs, &from, &to, flags & RENAME_NOREPLACE);
	fuse_reply_err(req, -r);
}

/* Replies: entry; EPERM for what is no regular file; as create. */
void stfs_fs_op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t device)
{
	struct stfs_fs *fs = fuse_req_userdata(req);
	struct fuse_entry_param entry;
	struct stfs_target target;
	uint32_t id, node = STFS_NO_NUMBER;
	int r = parent == STFS_INO_ROOT ? may_change(fs) : -ENOTDIR;

	if (r == 0 && !S_ISREG(mode))
		r = -EPERM;
	if (r == 0)
		r = find_target(fs, name, &target);
	if (r == 0 && target.kind == STFS_FILE_SCRATCH) {
		r = stfs_tree_create_scratch(fs->tree, target.file, false, &node);
	} else if (r == 0 && target.kind == STFS_FILE_TENSOR) {
		r = stfs_tree_make_name(fs->tree, target.stem, &id);
		if (r == 0) {
			r = stfs_tree_create(fs->tree, id, false, &node);
			stfs_tree_forget_name(fs->tree, id, 1);
		}
	} else if (r == 0) {
		r = -EPERM; /* a text that is empty means nothing */
	}
	if (r == 0)
		r = stfs_fs_entry(fs, stfs_fs_ino(node, STFS_FORM_RAW), &entry);
	if (node != STFS_NO_NUMBER)
		stfs_tree_forget_node(fs->tree, node, 1);
	if (r < 0)
		fuse_reply_err(req, -r);
	else
		fuse_reply_entry(req, &entry);
}

/* ---- fsync ---- */

/*
 * That of .stfs commits everything, as fsync of the directory does: but the kernel holds the directory's
 * lock until that is answered, and no name can be looked up meanwhile; of .stfs it holds nobody's.
 * Replies: later, by the sync thread: 0; EINVAL (fits no type, or does not parse), ENOSPC, EIO,
 * ESTALE, EROFS.
 */
void stfs_fs_op_fsync(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *fi)
{
	struct stfs_fs *fs = fuse_req_userdata(req);
	struct stfs_handle *handle = stfs_handle_of(fi);
	struct stfs_node_view view = {0};
	uint32_t node = handle->node, name = handle->name;
	int r = 0;

	if (handle->draft) {
		name = handle->draft->name;
		pthread_mutex_lock(&fs->drafts_lock);
		r = stfs_draft_take(fs, handle->draft);
		if (handle->draft->taken)
			node = handle->draft->node;
		pthread_mutex_unlock(&fs->drafts_lock);
	}
	stfs_tree_hold(fs->tree);
	if (name != STFS_NO_NUMBER && node == STFS_NO_NUMBER)
		node = stfs_tree_named(fs->tree, name);
	if (node != STFS_NO_NUMBER)
		stfs_tree_node(fs->tree, node, &view);
	stfs_tree_release(fs->tree);
	/* Of scratch nothing is kept. */
	if (r < 0 || !fs->sync || view.scratch)
		fuse_reply_err(req, -r);
	else
		stfs_sync_request(fs->sync, req, handle->ino == STFS_INO_STATUS, node);
}

/* Replies: later, by the sync thread, as fsync; ENOTDIR. */
void stfs_fs_op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *fi)
{
	struct stfs_fs *fs = fuse_req_userdata(req);

	if (ino != STFS_INO_ROOT || !fs->sync)
		fuse_reply_err(req, ino != STFS_INO_ROOT ? ENOTDIR : 0);
	else
		stfs_sync_request(fs->sync, req, true, STFS_NO_NUMBER);
}
