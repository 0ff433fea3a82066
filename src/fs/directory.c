/* SPDX-License-Identifier: MIT */
/*
 * Listing the directory. A position says what comes next, whatever was listed before: 0 ".", 1 "..",
 * 2 __metadata__.json, then three a node: raw, .npy, sidecar; then one a name whose tensor is still to
 * come: its sidecar. What is not shown leaves its positions unused.
 */
#include <errno.h>
#include <stdlib.h>

#include "fs/draft.h"
#include "fs/fs.h"

#define POSITION_METADATA 2
#define POSITION_NODES 3
#define POSITION_NAMES ((off_t)1 << 40)

/* Forms in the order of their positions. */
static const enum stfs_form forms[3] = {STFS_FORM_RAW, STFS_FORM_NPY, STFS_FORM_SIDECAR};
static const char *const endings[3] = {"", ".npy", ".json"};

static bool listed(const struct stfs_fs *fs, const struct stfs_typing_view *typing, enum stfs_form form)
{
	switch (form) {
	case STFS_FORM_RAW: /* a type without .npy is always shown raw: ls must not lose it */
		return fs->options->view != STFS_VIEW_NPY || !stfs_fs_has_npy(typing);
	case STFS_FORM_NPY:
		return fs->options->view != STFS_VIEW_RAW && stfs_fs_has_npy(typing);
	case STFS_FORM_SIDECAR:
		return !fs->options->hide_sidecars && typing->fit != STFS_FIT_NONE;
	}
	return false;
}

struct listing {
	fuse_req_t req;
	struct stfs_fs *fs;
	bool plus;
	char *buffer;
	size_t used, size;
};

/* Adds an entry: 1 when it is in, 0 when the buffer is full, -errno. */
static int add(struct listing *l, const char *name, fuse_ino_t ino, off_t next)
{
	struct fuse_entry_param entry = {.ino = ino, .entry_timeout = stfs_fs_entry_timeout(l->fs, ino)};
	struct stat st = {.st_ino = ino, .st_mode = ino == STFS_INO_ROOT ? S_IFDIR : S_IFREG};
	bool dots = ino == STFS_INO_ROOT;
	size_t len;
	int r = 0;

	if (l->plus) {
		r = stfs_fs_stat(l->fs, ino, &entry.attr, &entry.attr_timeout);
		if (r == -ESTALE)
			return 1; /* gone while it was listed */
		if (r < 0)
			return r;
		/* "." and ".." take no reference; the kernel wants them without a node. */
		if (dots)
			entry.ino = 0;
		len = fuse_add_direntry_plus(l->req, l->buffer + l->used, l->size - l->used, name, &entry,
					     next);
	} else {
		len = fuse_add_direntry(l->req, l->buffer + l->used, l->size - l->used, name, &st, next);
	}
	if (len > l->size - l->used)
		return 0;
	if (l->plus && !dots)
		stfs_fs_know(l->fs, ino);
	l->used += len;
	return 1;
}

static int add_tensor(struct listing *l, uint32_t node, uint32_t name, unsigned from)
{
	char file[STFS_NAME_MAX + sizeof(".json")];
	struct stfs_typing_view typing;
	size_t len;
	int r = 1;

	if (!stfs_tree_typing(l->fs->tree, name, &typing))
		return 1;
	len = stfs_tree_file_name(l->fs->tree, name, file);
	for (unsigned k = from; r == 1 && k < 3; k++) {
		if (!listed(l->fs, &typing, forms[k]))
			continue;
		memcpy(file + len, endings[k], strlen(endings[k]) + 1);
		r = add(l, file, stfs_fs_ino(k == 0 ? node : name, forms[k]),
			POSITION_NODES + 3 * (off_t)node + (off_t)k + 1);
	}
	return r;
}

static int add_nodes(struct listing *l, off_t position)
{
	uint32_t nodes = stfs_tree_nodes(l->fs->tree);
	struct stfs_node_view view;
	int r = 1;

	for (uint64_t i = (uint64_t)(position - POSITION_NODES) / 3; r == 1 && i < nodes; i++) {
		unsigned from = (unsigned)((position - POSITION_NODES) % 3);

		position += 3 - (off_t)from;
		if (!stfs_tree_node(l->fs->tree, (uint32_t)i, &view) || !view.linked)
			continue;
		if (!view.scratch)
			r = add_tensor(l, (uint32_t)i, view.name, from);
		else if (from == 0)
			r = add(l, view.file.ptr, stfs_fs_ino((uint32_t)i, STFS_FORM_RAW),
				POSITION_NODES + 3 * (off_t)i + 1);
	}
	return r;
}

/* Sidecars that wait for their tensor. */
static int add_names(struct listing *l, off_t position)
{
	char file[STFS_NAME_MAX + sizeof(".json")];
	uint32_t names = stfs_tree_names(l->fs->tree);
	struct stfs_typing_view typing;
	size_t len;
	int r = 1;

	for (uint64_t i = (uint64_t)(position - POSITION_NAMES); r == 1 && i < names; i++) {
		if (stfs_tree_named(l->fs->tree, (uint32_t)i) != STFS_NO_NUMBER ||
		    !stfs_tree_typing(l->fs->tree, (uint32_t)i, &typing) || l->fs->options->hide_sidecars)
			continue;
		len = stfs_tree_file_name(l->fs->tree, (uint32_t)i, file);
		memcpy(file + len, ".json", sizeof(".json"));
		r = add(l, file, stfs_fs_ino((uint32_t)i, STFS_FORM_SIDECAR), POSITION_NAMES + (off_t)i + 1);
	}
	return r;
}

static int fill(struct listing *l, off_t position)
{
	struct timespec mtime;
	struct stfs_str text;
	int r = 1;

	for (; r == 1 && position < POSITION_METADATA; position++)
		r = add(l, position ? ".." : ".", STFS_INO_ROOT, position + 1);
	if (r == 1 && position == POSITION_METADATA) {
		if (stfs_tree_metadata(l->fs->tree, &text, &mtime))
			r = add(l, "__metadata__.json", STFS_INO_METADATA, POSITION_NODES);
		position++;
	}
	if (r == 1 && position < POSITION_NAMES)
		r = add_nodes(l, position);
	return r == 1 ? add_names(l, position < POSITION_NAMES ? POSITION_NAMES : position) : r;
}

static void list(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, bool plus)
{
	struct listing l = {.req = req, .fs = fuse_req_userdata(req), .plus = plus, .size = size};
	int r;

	if (ino != STFS_INO_ROOT || offset < 0) {
		fuse_reply_err(req, ino != STFS_INO_ROOT ? ENOTDIR : EINVAL);
		return;
	}
	l.buffer = malloc(size ? size : 1);
	pthread_mutex_lock(&l.fs->drafts_lock);
	stfs_tree_hold(l.fs->tree);
	r = l.buffer ? fill(&l, offset) : -ENOMEM;
	stfs_tree_release(l.fs->tree);
	pthread_mutex_unlock(&l.fs->drafts_lock);
	if (r < 0 && l.used == 0)
		fuse_reply_err(req, -r);
	else
		fuse_reply_buf(req, l.buffer, l.used);
	free(l.buffer);
}

/*
 * Replies: open. The kernel keeps the listing as long as nothing was created, removed or renamed: of
 * most of that it knows, but not of a .json that comes and goes with its tensor.
 */
void stfs_fs_op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stfs_fs *fs = fuse_req_userdata(req);
	uint64_t generation;

	if (ino != STFS_INO_ROOT) {
		fuse_reply_err(req, ENOTDIR);
		return;
	}
	stfs_tree_hold(fs->tree);
	generation = stfs_tree_generation(fs->tree);
	stfs_tree_release(fs->tree);
	fi->cache_readdir = 1;
	fi->keep_cache = atomic_exchange(&fs->listed, generation) == generation;
	fuse_reply_open(req, fi);
}

/* Replies: buf, or ENOTDIR, EINVAL, ENOMEM. */
void stfs_fs_op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
			struct fuse_file_info *fi)
{
	list(req, ino, size, offset, false);
}

/* Replies: buf, or ENOTDIR, EINVAL, ENOMEM. */
void stfs_fs_op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
			    struct fuse_file_info *fi)
{
	list(req, ino, size, offset, true);
}
