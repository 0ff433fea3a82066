/* SPDX-License-Identifier: MIT */
/* From names to inodes. */
#include <errno.h>

#include "fs/draft.h"
#include "fs/fs.h"

static bool is_form(enum stfs_file_kind kind)
{
	return kind == STFS_FILE_TENSOR || kind == STFS_FILE_SIDECAR || kind == STFS_FILE_NPY;
}

int stfs_fs_target(struct stfs_fs *fs, const char *name, struct stfs_target *target)
{
	int r = 0;

	target->file = stfs_str_from(name);
	target->kind = stfs_file_classify(target->file, &target->stem);
	target->name = target->node = STFS_NO_NUMBER;
	if (is_form(target->kind)) {
		r = stfs_tree_find(fs->tree, target->stem, &target->name);
		if (r == 0)
			target->node = stfs_tree_named(fs->tree, target->name);
	} else if (target->kind == STFS_FILE_SCRATCH) {
		target->node = stfs_tree_scratch(fs->tree, target->file);
	}
	return r == -ENOENT ? 0 : r;
}

/* The inode that a target has when it is there. */
static int inode_of(const struct stfs_target *target, fuse_ino_t *ino)
{
	switch (target->kind) {
	case STFS_FILE_STATUS: *ino = STFS_INO_STATUS; return 0;
	case STFS_FILE_METADATA: *ino = STFS_INO_METADATA; return 0;
	case STFS_FILE_TENSOR:
	case STFS_FILE_SCRATCH:
		*ino = stfs_fs_ino(target->node, STFS_FORM_RAW);
		return target->node == STFS_NO_NUMBER ? -ENOENT : 0;
	case STFS_FILE_SIDECAR: *ino = stfs_fs_ino(target->name, STFS_FORM_SIDECAR); break;
	case STFS_FILE_NPY: *ino = stfs_fs_ino(target->name, STFS_FORM_NPY); break;
	}
	return target->name == STFS_NO_NUMBER ? -ENOENT : 0;
}

int stfs_fs_lookup(struct stfs_fs *fs, const char *name, fuse_ino_t *ino)
{
	struct stfs_target target;
	int r = stfs_fs_target(fs, name, &target);

	return r < 0 ? r : inode_of(&target, ino);
}

void stfs_fs_know(struct stfs_fs *fs, fuse_ino_t ino)
{
	enum stfs_form form;
	uint32_t number;

	if (!stfs_fs_split(ino, &number, &form))
		return;
	if (form == STFS_FORM_RAW)
		stfs_tree_know_node(fs->tree, number);
	else
		stfs_tree_know_name(fs->tree, number);
}

void stfs_fs_forget(struct stfs_fs *fs, fuse_ino_t ino, uint64_t times)
{
	enum stfs_form form;
	uint32_t number;

	if (!stfs_fs_split(ino, &number, &form))
		return;
	if (form == STFS_FORM_RAW)
		stfs_tree_forget_node(fs->tree, number, times);
	else
		stfs_tree_forget_name(fs->tree, number, times);
}
