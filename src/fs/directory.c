/* SPDX-License-Identifier: MIT */
/*
 * Listing the directory. A position says what comes next, whatever was listed before: 0 ".", 1 "..",
 * 2 __metadata__.json, then three a tensor id: raw, .npy, sidecar. Hidden forms leave their
 * positions unused.
 */
#include <errno.h>
#include <stdlib.h>

#include "format/names.h"
#include "fs/fs.h"

#define POSITION_METADATA 2
#define POSITION_TENSORS 3

/* Forms in the order of their positions. */
static const enum stfs_form forms[3] = {STFS_FORM_RAW, STFS_FORM_NPY, STFS_FORM_SIDECAR};
static const char *const endings[3] = {"", ".npy", ".json"};

static bool listed(const struct stfs_fs *fs, const struct stfs_tensor_ref *ref, enum stfs_form form)
{
	switch (form) {
	case STFS_FORM_RAW: /* a type without .npy is always shown raw: ls must not lose it */
		return fs->options->view != STFS_VIEW_NPY || !stfs_fs_has_form(ref, STFS_FORM_NPY);
	case STFS_FORM_NPY:
		return fs->options->view != STFS_VIEW_RAW && stfs_fs_has_form(ref, form);
	case STFS_FORM_SIDECAR:
		return !fs->options->hide_sidecars;
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
	struct fuse_entry_param entry = {.ino = ino, .entry_timeout = STFS_FOREVER,
					 .attr_timeout = STFS_FOREVER};
	struct stat st = {.st_ino = ino, .st_mode = ino == STFS_INO_ROOT ? S_IFDIR : S_IFREG};
	size_t len;
	int r = 0;

	if (l->plus) {
		r = stfs_fs_stat(l->fs, ino, &entry.attr);
		if (r < 0)
			return r;
		/* "." and ".." take no reference; the kernel wants them without a node. */
		if (name[0] == '.')
			entry.ino = 0;
		len = fuse_add_direntry_plus(l->req, l->buffer + l->used, l->size - l->used, name, &entry,
					     next);
	} else {
		len = fuse_add_direntry(l->req, l->buffer + l->used, l->size - l->used, name, &st, next);
	}
	if (len > l->size - l->used)
		return 0;
	l->used += len;
	return 1;
}

static int add_tensors(struct listing *l, off_t position)
{
	char name[STFS_NAME_MAX + sizeof(".json")];
	uint32_t id, ids = stfs_model_ids(l->fs->model);
	struct stfs_tensor_ref ref;
	size_t len = 0;
	int r = 1;

	/* The kernel hands back only what it was given; anything else lists nothing. */
	if ((uint64_t)(position - POSITION_TENSORS) / 3 >= ids)
		return 1;
	for (id = (uint32_t)((position - POSITION_TENSORS) / 3); r == 1 && id < ids; id++) {
		unsigned from = (unsigned)((position - POSITION_TENSORS) % 3);

		position += 3 - (off_t)from;
		if (!stfs_model_tensor(l->fs->model, id, &ref))
			continue;
		len = stfs_name_encode(ref.name, name);
		for (unsigned k = from; r == 1 && k < 3; k++) {
			if (!listed(l->fs, &ref, forms[k]))
				continue;
			memcpy(name + len, endings[k], strlen(endings[k]) + 1);
			r = add(l, name, stfs_fs_ino(id, forms[k]),
				POSITION_TENSORS + 3 * (off_t)id + (off_t)k + 1);
		}
	}
	return r;
}

static int fill(struct listing *l, off_t position)
{
	int r = 1;

	for (; r == 1 && position < POSITION_METADATA; position++)
		r = add(l, position ? ".." : ".", STFS_INO_ROOT, position + 1);
	if (r == 1 && position == POSITION_METADATA) {
		if (l->fs->has_metadata)
			r = add(l, "__metadata__.json", STFS_INO_METADATA, POSITION_TENSORS);
		position++;
	}
	return r == 1 ? add_tensors(l, position) : r;
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
	r = l.buffer ? fill(&l, offset) : -ENOMEM;
	if (r < 0 && l.used == 0)
		fuse_reply_err(req, -r);
	else
		fuse_reply_buf(req, l.buffer, l.used);
	free(l.buffer);
}

/* Replies: open. The kernel keeps the listing until it is told that the directory changed. */
void stfs_fs_op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	if (ino != STFS_INO_ROOT) {
		fuse_reply_err(req, ENOTDIR);
		return;
	}
	fi->cache_readdir = 1;
	fi->keep_cache = 1;
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
