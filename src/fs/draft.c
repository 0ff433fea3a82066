/* SPDX-License-Identifier: MIT */
#include "fs/draft_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "format/metadata.h"
#include "format/sidecar.h"
#include "fs/handle.h"

struct stfs_draft *stfs_draft_find(const struct stfs_fs *fs, fuse_ino_t ino)
{
	struct stfs_draft *draft = fs->drafts;

	while (draft && draft->ino != ino)
		draft = draft->next;
	return draft;
}

struct stfs_draft *stfs_draft_find_idle(struct stfs_fs *fs, fuse_ino_t ino)
{
	struct stfs_draft *draft = stfs_draft_find(fs, ino);

	while (draft && draft->busy) { /* it may be gone afterwards */
		pthread_cond_wait(&fs->drafts_idle, &fs->drafts_lock);
		draft = stfs_draft_find(fs, ino);
	}
	return draft;
}

void stfs_draft_await_idle(struct stfs_fs *fs, const struct stfs_draft *draft)
{
	while (draft->busy)
		pthread_cond_wait(&fs->drafts_idle, &fs->drafts_lock);
}

void stfs_draft_begin_busy(struct stfs_fs *fs, struct stfs_draft *draft)
{
	stfs_draft_await_idle(fs, draft);
	draft->busy = true;
	pthread_mutex_unlock(&fs->drafts_lock);
}

void stfs_draft_end_busy(struct stfs_fs *fs, struct stfs_draft *draft)
{
	draft->busy = false;
	pthread_cond_broadcast(&fs->drafts_idle);
}

uint64_t stfs_draft_len(struct stfs_fs *fs, const struct stfs_draft *draft)
{
	struct stfs_node_view view;

	if (draft->form != STFS_FORM_NPY)
		return draft->text.len;
	return stfs_tree_node(fs->tree, draft->node, &view) ? draft->header.len + view.len : 0;
}

/* ---- Opening and closing ---- */

/* What the file says before anything is written to it. */
static int fill(struct stfs_fs *fs, struct stfs_draft *draft)
{
	struct stfs_typing_view typing;
	struct timespec mtime;
	struct stfs_str text;
	int r = 0;

	stfs_buf_clear(&draft->text);
	stfs_tree_hold(fs->tree);
	if (draft->name == STFS_NO_NUMBER) {
		if (stfs_tree_metadata(fs->tree, &text, &mtime))
			r = stfs_buf_add_str(&draft->text, text);
	} else if (stfs_tree_typing(fs->tree, draft->name, &typing) && typing.fit != STFS_FIT_NONE) {
		r = stfs_fs_sidecar(&typing, &draft->text);
	}
	stfs_tree_release(fs->tree);
	return r;
}

/* Not a number that was retired: the kernel looks it up again. */
static bool is_name(struct stfs_fs *fs, uint32_t name)
{
	struct stfs_str text;
	bool found;

	stfs_tree_hold(fs->tree);
	found = stfs_tree_name(fs->tree, name, &text);
	stfs_tree_release(fs->tree);
	return found;
}

static int make(struct stfs_fs *fs, fuse_ino_t ino, bool fresh, struct stfs_draft **out)
{
	struct stfs_draft *draft = calloc(1, sizeof(*draft));
	int r = 0;

	if (!draft)
		return -ENOMEM;
	draft->ino = ino;
	draft->name = draft->node = STFS_NO_NUMBER;
	draft->form = STFS_FORM_SIDECAR;
	clock_gettime(CLOCK_REALTIME, &draft->mtime);
	if (ino != STFS_INO_METADATA && !(stfs_fs_split(ino, &draft->name, &draft->form) && is_name(fs, draft->name)))
		r = -ESTALE;
	if (r == 0 && draft->form == STFS_FORM_NPY)
		r = stfs_tree_create_hidden(fs->tree, &draft->node);
	else if (r == 0 && !fresh)
		r = fill(fs, draft);
	if (r < 0) {
		stfs_buf_free(&draft->text);
		free(draft);
		return r;
	}
	draft->next = fs->drafts;
	fs->drafts = draft;
	*out = draft;
	return 0;
}

/* Whether a file is read and written as a draft: its text means nothing before it is complete. */
static bool wants_draft(fuse_ino_t ino, const struct stfs_draft *draft, int flags)
{
	bool writes = (flags & O_ACCMODE) != O_RDONLY;
	enum stfs_form form;
	uint32_t number;

	if (draft && draft->changed)
		return true;
	if (ino == STFS_INO_METADATA)
		return writes;
	if (!stfs_fs_split(ino, &number, &form) || form == STFS_FORM_RAW)
		return false;
	return writes && (form == STFS_FORM_SIDECAR || flags & O_TRUNC);
}

static int find_or_make(struct stfs_fs *fs, fuse_ino_t ino, bool fresh, struct stfs_draft **draft)
{
	if (!*draft)
		return make(fs, ino, fresh, draft);
	if (fresh)
		return stfs_draft_resize(fs, *draft, 0);
	if (!(*draft)->changed && (*draft)->form != STFS_FORM_NPY)
		return fill(fs, *draft); /* the tensor may have got another type since */
	return 0;
}

int stfs_draft_open(struct stfs_fs *fs, fuse_ino_t ino, int flags, struct stfs_draft **out)
{
	struct stfs_draft *draft;
	int r = 0;

	*out = NULL;
	/* Decided and opened at once: a .npy may be taken over at any time, and is the tensor then. */
	pthread_mutex_lock(&fs->drafts_lock);
	draft = flags & O_TRUNC ? stfs_draft_find_idle(fs, ino) : stfs_draft_find(fs, ino);
	if (wants_draft(ino, draft, flags)) {
		/* Who would only hear of it at close(2) may not listen. */
		r = (flags & O_ACCMODE) != O_RDONLY && stfs_tree_in_place_only(fs->tree) ? -EACCES : 0;
		if (r == 0)
			r = find_or_make(fs, ino, flags & O_TRUNC, &draft);
		if (r == 0) {
			draft->users++;
			draft->changed |= (flags & O_TRUNC) != 0;
			*out = draft;
		}
	}
	pthread_mutex_unlock(&fs->drafts_lock);
	return r;
}

bool stfs_draft_remove(struct stfs_fs *fs, fuse_ino_t ino)
{
	struct stfs_draft *draft = stfs_draft_find(fs, ino);
	enum stfs_form form;
	uint32_t name;

	if (draft) {
		draft->removed = true;
		stfs_draft_unlist(fs, draft);
	}
	if (ino == STFS_INO_METADATA)
		stfs_draft_accept(fs, STFS_NO_NUMBER, STFS_FORM_SIDECAR);
	else if (stfs_fs_split(ino, &name, &form))
		stfs_draft_accept(fs, name, form);
	return draft != NULL;
}

void stfs_draft_close(struct stfs_fs *fs, struct stfs_draft *draft)
{
	bool empty;

	if (draft->users == 1) {
		stfs_tree_hold(fs->tree);
		empty = stfs_draft_len(fs, draft) == 0;
		stfs_tree_release(fs->tree);
		if (empty && draft->changed && !draft->removed)
			stfs_draft_refuse(fs, draft->name, draft->form, "nothing was written to it");
		else
			(void)stfs_draft_take(fs, draft); /* noted for .stfs */
	}
	if (--draft->users) /* somebody may have opened it meanwhile */
		return;
	stfs_draft_unlist(fs, draft);
	if (draft->form == STFS_FORM_NPY) {
		if (!draft->taken)
			stfs_tree_end_writing(fs->tree, draft->node);
		stfs_tree_closed(fs->tree, draft->node);
	}
	stfs_buf_free(&draft->text);
	stfs_buf_free(&draft->header);
	free(draft);
}

/* ---- Reading and writing ---- */

static int resize_text(struct stfs_draft *draft, uint64_t len)
{
	uint64_t most = draft->name == STFS_NO_NUMBER ? STFS_METADATA_MAX : STFS_SIDECAR_MAX;

	if (len > most)
		return -EFBIG;
	if (len > draft->text.len)
		return stfs_buf_fill(&draft->text, '\0', len - draft->text.len);
	draft->text.len = len;
	return 0;
}

int stfs_draft_resize(struct stfs_fs *fs, struct stfs_draft *draft, uint64_t len)
{
	int r;

	stfs_draft_await_idle(fs, draft);
	if (draft->form != STFS_FORM_NPY)
		r = resize_text(draft, len);
	else if (!draft->taken)
		r = stfs_tree_resize(fs->tree, draft->node, len, false);
	else if (len >= draft->header.len)
		r = stfs_tree_resize(fs->tree, draft->node, len - draft->header.len, false);
	else
		r = -EINVAL; /* it cannot become a beginning again */
	if (r == 0) {
		draft->changed = true;
		clock_gettime(CLOCK_REALTIME, &draft->mtime);
	}
	return r;
}

int stfs_draft_write(struct stfs_fs *fs, struct stfs_draft *draft, const void *bytes, size_t len, uint64_t offset)
{
	int r = 0;

	if (draft->form == STFS_FORM_NPY) {
		stfs_draft_begin_busy(fs, draft);
		r = draft->taken ? stfs_fs_write_npy(fs, draft->node, stfs_buf_str(&draft->header), bytes, len, offset)
				 : stfs_tree_write(fs->tree, draft->node, bytes, len, offset);
		pthread_mutex_lock(&fs->drafts_lock);
		stfs_draft_end_busy(fs, draft);
	} else {
		if (offset + len > draft->text.len)
			r = resize_text(draft, offset + len);
		if (r == 0 && len)
			memcpy(draft->text.data + offset, bytes, len);
	}
	if (r == 0) {
		draft->changed = true;
		clock_gettime(CLOCK_REALTIME, &draft->mtime);
	}
	return r;
}

ssize_t stfs_draft_read(struct stfs_fs *fs, struct stfs_draft *draft, void *buffer, size_t len, uint64_t offset)
{
	struct stfs_str head;
	size_t from_head;
	ssize_t got = 0;
	uint32_t node;

	pthread_mutex_lock(&fs->drafts_lock);
	head = stfs_buf_str(draft->form == STFS_FORM_NPY ? &draft->header : &draft->text);
	from_head = offset < head.len ? stfs_min_u64(head.len - offset, len) : 0;
	if (from_head)
		memcpy(buffer, head.ptr + offset, from_head);
	node = draft->node;
	stfs_tree_hold(fs->tree); /* from here on it is not taken over */
	pthread_mutex_unlock(&fs->drafts_lock);
	if (node != STFS_NO_NUMBER && from_head < len)
		got = stfs_tree_pread(fs->tree, node, (char *)buffer + from_head, len - from_head,
				      offset + from_head - head.len);
	stfs_tree_release(fs->tree);
	return got < 0 ? got : (ssize_t)from_head + got;
}
