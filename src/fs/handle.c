/* SPDX-License-Identifier: MIT */
#include "fs/handle.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "fs/notify.h"
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
		/* In a writable mount the text of one inode may have become another. */
		if (h->ino != handle->ino || !h->text || h->text->buf.len != handle->text->buf.len ||
		    memcmp(h->text->buf.data, handle->text->buf.data, h->text->buf.len) != 0)
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

/* What the handle counts for: a node or a draft. */
static void let_go(struct stfs_fs *fs, struct stfs_handle *handle)
{
	if (handle->draft) {
		pthread_mutex_lock(&fs->drafts_lock);
		stfs_draft_close(fs, handle->draft);
		pthread_mutex_unlock(&fs->drafts_lock);
	}
	if (handle->node == STFS_NO_NUMBER)
		return;
	if (atomic_exchange(&handle->flushed, false)) {
		atomic_fetch_sub(&fs->flushed, 1);
		stfs_tree_end_resting(fs->tree, handle->node);
	} else if (atomic_load(&handle->writing)) {
		stfs_tree_end_writing(fs->tree, handle->node);
	}
	stfs_tree_closed(fs->tree, handle->node);
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
	let_go(fs, handle);
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

/* ---- What a handle has, by inode. The tree is held. ---- */

static int open_node(struct stfs_fs *fs, struct stfs_handle *handle, uint32_t node)
{
	struct stfs_node_view view;
	int r;

	if (!stfs_tree_node(fs->tree, node, &view) || (!view.linked && !view.opens) || view.absorbed)
		return -ESTALE;
	if (view.shard && !stfs_fs_writable(fs)) {
		r = stfs_shard_check(view.shard);
		if (r != 0)
			stfs_watch_poke(fs); /* the kernel's attributes are old */
		if (r < 0)
			return r;
	}
	stfs_tree_opened(fs->tree, node);
	handle->node = node;
	return 0;
}

static int open_made_up(struct stfs_fs *fs, struct stfs_handle *handle)
{
	struct stfs_typing_view typing;

	if (!stfs_tree_typing(fs->tree, handle->name, &typing))
		return -ESTALE;
	if (handle->form == STFS_FORM_SIDECAR)
		return typing.fit == STFS_FIT_NONE ? -ESTALE : stfs_fs_sidecar(&typing, &handle->text->buf);
	if (!stfs_fs_has_npy(&typing))
		return -ESTALE;
	return stfs_fs_npy_header(&typing, &handle->text->buf);
}

static int open_form(struct stfs_fs *fs, struct stfs_handle *handle)
{
	uint32_t number;
	int r;

	if (!stfs_fs_split(handle->ino, &number, &handle->form))
		return -ESTALE;
	if (handle->form == STFS_FORM_RAW)
		return open_node(fs, handle, number);
	handle->name = number;
	handle->text = calloc(1, sizeof(*handle->text));
	r = handle->text ? open_made_up(fs, handle) : -ENOMEM;
	if (r == 0 && handle->form == STFS_FORM_NPY) {
		stfs_notify_npy_opened(fs->notify);
		r = open_node(fs, handle, stfs_tree_named(fs->tree, number));
	}
	return r;
}

static int open_text(struct stfs_fs *fs, struct stfs_handle *handle)
{
	struct timespec mtime;
	struct stfs_str text;

	handle->text = calloc(1, sizeof(*handle->text));
	if (!handle->text)
		return -ENOMEM;
	if (!stfs_tree_metadata(fs->tree, &text, &mtime))
		return -ESTALE;
	return stfs_buf_add_str(&handle->text->buf, text);
}

static int open_status(fuse_req_t req, struct stfs_fs *fs, struct stfs_handle *handle)
{
	int r = may_read_status(req, fs);

	handle->text = calloc(1, sizeof(*handle->text));
	if (r == 0 && !handle->text)
		r = -ENOMEM;
	return r < 0 ? r : stfs_fs_status(fs, &handle->text->buf);
}

static int fill(fuse_req_t req, struct stfs_fs *fs, struct stfs_handle *handle, int flags)
{
	uint32_t number;
	int r;

	if (handle->ino == STFS_INO_ROOT)
		return -EISDIR;
	if (handle->ino == STFS_INO_STATUS)
		return (flags & O_ACCMODE) != O_RDONLY ? -EACCES : open_status(req, fs, handle);
	(void)stfs_fs_split(handle->ino, &number, &handle->form);
	handle->reads = (flags & O_ACCMODE) == O_RDONLY && !(flags & O_TRUNC);
	r = stfs_draft_open(fs, handle->ino, flags, &handle->draft);
	if (r < 0 || handle->draft)
		return r;
	stfs_tree_hold(fs->tree);
	r = handle->ino == STFS_INO_METADATA ? open_text(fs, handle) : open_form(fs, handle);
	stfs_tree_release(fs->tree);
	/* O_TRUNC of a raw file: what it was stays committed until the new bytes are. */
	if (r == 0 && flags & O_TRUNC && handle->form == STFS_FORM_RAW && handle->node != STFS_NO_NUMBER) {
		stfs_handle_writes(fs, handle);
		r = stfs_tree_resize(fs->tree, handle->node, 0, true);
	}
	return r;
}

/* ---- How the kernel shall read and write it (facts/fuse-io, "What follows") ---- */

static bool is_large(struct stfs_fs *fs, const struct stfs_handle *handle)
{
	struct stfs_node_view view = {0};

	stfs_tree_hold(fs->tree);
	stfs_tree_node(fs->tree, handle->node, &view);
	stfs_tree_release(fs->tree);
	return view.len >= DIRECT_FROM;
}

/* Once the data has changed underneath, cached pages are dropped at each open. */
static bool was_touched(struct stfs_fs *fs, const struct stfs_handle *handle)
{
	struct stfs_node_view view = {0};

	if (handle->node == STFS_NO_NUMBER || stfs_fs_writable(fs))
		return false;
	stfs_tree_hold(fs->tree);
	stfs_tree_node(fs->tree, handle->node, &view);
	stfs_tree_release(fs->tree);
	return view.shard && stfs_shard_view(view.shard).touched;
}

static void choose_mode(struct stfs_fs *fs, const struct stfs_handle *handle, struct fuse_file_info *fi)
{
	enum stfs_cache cache = fs->options->cache;
	/* What is written from its beginning on: nobody knows yet how large it will be. */
	bool direct = cache == STFS_CACHE_NEVER, anew = fi->flags & (O_CREAT | O_TRUNC);

	if (cache == STFS_CACHE_AUTO && handle->node != STFS_NO_NUMBER && (anew || is_large(fs, handle)))
		/* Without ALLOW_MMAP a shared mapping of a direct file is ENODEV: never risk it. */
		direct = atomic_load(&fs->direct_io_mmap) &&
			 !(handle->node < fs->prefers_count && fs->prefers_cache[handle->node]);
	/* A made-up length, or a text that somebody writes: only direct reads see it as it is. */
	if (handle->ino == STFS_INO_STATUS || (handle->draft && atomic_load(&fs->direct_io_mmap)))
		direct = true;
	fi->direct_io = direct;
	/* A made-up file of a writable mount may say something else at every opening. */
	fi->keep_cache = !direct && (handle->form == STFS_FORM_RAW || !stfs_fs_writable(fs)) &&
			 handle->ino != STFS_INO_METADATA && !was_touched(fs, handle);
}

static struct stfs_handle *make_handle(fuse_ino_t ino)
{
	struct stfs_handle *handle = calloc(1, sizeof(*handle));

	if (!handle)
		return NULL;
	handle->ino = ino;
	handle->node = handle->name = STFS_NO_NUMBER;
	return handle;
}

static void drop(struct stfs_fs *fs, struct stfs_handle *handle)
{
	if (!handle)
		return;
	text_free(handle->text);
	let_go(fs, handle);
	free(handle);
}

/*
 * Replies: open; EISDIR, EACCES (.stfs), EROFS, ESTALE (nobody has that name any more: the kernel looks it
 * up again; or the header changed), ENOMEM, and what fstat(2) and pread(2) of the model's file
 * system answer.
 */
void stfs_fs_op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stfs_fs *fs = fuse_req_userdata(req);
	struct stfs_handle *handle = make_handle(ino);
	int r = handle ? 0 : -ENOMEM;

	if (r == 0 && ((fi->flags & O_ACCMODE) != O_RDONLY || fi->flags & O_TRUNC) && ino != STFS_INO_STATUS &&
	    (!stfs_fs_writable(fs) || stfs_tree_is_stuck(fs->tree)))
		r = ino == STFS_INO_ROOT ? -EISDIR : -EROFS;
	if (r == 0)
		r = fill(req, fs, handle, fi->flags);
	if (r < 0) {
		drop(fs, handle);
		fuse_reply_err(req, -r);
		return;
	}
	fi->fh = (uint64_t)(uintptr_t)handle;
	choose_mode(fs, handle, fi);
	enlist(fs, handle);
	/* ENOENT here: the caller was interrupted, and no release will come. */
	if (fuse_reply_open(req, fi) == -ENOENT)
		close_handle(fs, handle);
}

/* ---- Creation ---- */

/* A new raw file; when somebody was faster, his. */
static int create_raw(struct stfs_fs *fs, const struct stfs_target *target, struct stfs_handle *handle, int flags)
{
	uint32_t name;
	int r;

	if (target->kind == STFS_FILE_SCRATCH) {
		r = stfs_tree_create_scratch(fs->tree, target->file, true, &handle->node);
	} else {
		r = stfs_tree_make_name(fs->tree, target->stem, &name);
		if (r < 0)
			return r;
		r = stfs_tree_create(fs->tree, name, true, &handle->node);
		stfs_tree_forget_name(fs->tree, name, 1);
	}
	handle->ino = stfs_fs_ino(handle->node, STFS_FORM_RAW);
	atomic_store(&handle->writing, r == 0);
	return r == -EEXIST && !(flags & O_EXCL) ? -ESTALE : r;
}

static int create_draft(struct stfs_fs *fs, const struct stfs_target *target, struct stfs_handle *handle)
{
	int r;

	if (target->kind == STFS_FILE_METADATA) {
		handle->ino = STFS_INO_METADATA;
	} else {
		r = stfs_tree_make_name(fs->tree, target->stem, &handle->name);
		if (r < 0)
			return r;
		handle->form = target->kind == STFS_FILE_NPY ? STFS_FORM_NPY : STFS_FORM_SIDECAR;
		handle->ino = stfs_fs_ino(handle->name, handle->form);
		stfs_notify_npy_opened(fs->notify);
	}
	r = stfs_draft_open(fs, handle->ino, O_WRONLY | O_TRUNC, &handle->draft);
	if (r < 0)
		stfs_fs_forget(fs, handle->ino, 1);
	return r;
}

/* Opens what is not there yet: handle->ino is then known to the kernel once. */
static int create(struct stfs_fs *fs, const char *name, struct stfs_handle *handle, int flags)
{
	struct stfs_target target;
	int r;

	if (!stfs_fs_writable(fs) || stfs_tree_is_stuck(fs->tree))
		return -EROFS;
	stfs_tree_hold(fs->tree);
	r = stfs_fs_target(fs, name, &target);
	stfs_tree_release(fs->tree);
	if (r < 0)
		return r;
	switch (target.kind) {
	case STFS_FILE_STATUS: return -EEXIST;
	case STFS_FILE_TENSOR:
	case STFS_FILE_SCRATCH: return create_raw(fs, &target, handle, flags);
	case STFS_FILE_SIDECAR:
	case STFS_FILE_NPY:
	case STFS_FILE_METADATA: return create_draft(fs, &target, handle);
	}
	return -EINVAL;
}

/* The entry of a handle's inode, which is known already. */
static int entry_of(struct stfs_fs *fs, const struct stfs_handle *handle, struct fuse_entry_param *entry)
{
	int r;

	*entry = (struct fuse_entry_param){.ino = handle->ino,
					   .entry_timeout = stfs_fs_entry_timeout(fs, handle->ino)};
	pthread_mutex_lock(&fs->drafts_lock);
	stfs_tree_hold(fs->tree);
	r = stfs_fs_stat(fs, handle->ino, &entry->attr, &entry->attr_timeout);
	stfs_tree_release(fs->tree);
	pthread_mutex_unlock(&fs->drafts_lock);
	return r;
}

/*
 * Replies: create; EROFS; EEXIST; ESTALE (it was created meanwhile: the kernel looks it up again); EINVAL,
 * EILSEQ, ENAMETOOLONG for a name that is none; ENOMEM.
 */
void stfs_fs_op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct stfs_fs *fs = fuse_req_userdata(req);
	struct stfs_handle *handle = make_handle(STFS_INO_ROOT);
	struct fuse_entry_param entry;
	fuse_ino_t ino;
	int r = handle ? 0 : -ENOMEM;

	if (r == 0 && parent != STFS_INO_ROOT)
		r = -ENOTDIR;
	if (r == 0)
		r = create(fs, name, handle, fi->flags);
	if (r == 0) {
		r = entry_of(fs, handle, &entry);
		if (r < 0)
			stfs_fs_forget(fs, handle->ino, 1);
	}
	if (r < 0) {
		drop(fs, handle);
		fuse_reply_err(req, -r);
		return;
	}
	fi->fh = (uint64_t)(uintptr_t)handle;
	fi->flags |= O_CREAT;
	choose_mode(fs, handle, fi);
	enlist(fs, handle);
	ino = handle->ino;
	/* ENOENT here: the caller was interrupted, and neither release nor forget will come. */
	if (fuse_reply_create(req, &entry, fi) == -ENOENT) {
		close_handle(fs, handle);
		stfs_fs_forget(fs, ino, 1);
	}
}

/* ---- Closing ---- */

/*
 * Every close(2) of a descriptor, also of a copy that a child process had: that the file is closed only the
 * release says, which comes a little later. A type settles here already, for the next program may be faster
 * than the release. Replies: 0; EINVAL (a text that does not parse), ENOMEM.
 */
void stfs_fs_op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stfs_fs *fs = fuse_req_userdata(req);
	struct stfs_handle *handle = stfs_handle_of(fi);
	int r = 0;

	/* Whoever only looks at what another writes has not completed it. */
	if (handle->draft && !handle->reads) {
		pthread_mutex_lock(&fs->drafts_lock);
		r = stfs_draft_take(fs, handle->draft);
		pthread_mutex_unlock(&fs->drafts_lock);
	}
	if (atomic_load(&handle->writing) && !atomic_exchange(&handle->flushed, true)) {
		atomic_fetch_add(&fs->flushed, 1);
		stfs_tree_rest_writing(fs->tree, handle->node);
	}
	fuse_reply_err(req, -r);
}

/* Replies: 0. */
void stfs_fs_op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	close_handle(fuse_req_userdata(req), stfs_handle_of(fi));
	fuse_reply_err(req, 0);
}
