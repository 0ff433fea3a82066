/* SPDX-License-Identifier: MIT */
/*
 * user.safetensors.* of tensors, with -o xattr only: once getxattr is answered, ls -l asks for every
 * file (facts: ten times slower), so without the option the kernel hears ENOSYS and never asks again.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "fs/fs.h"

/* A tensor, and what the model has of it; an attribute without anything to say is -ENODATA. */
struct subject {
	struct stfs_typing_view typing;
	struct stfs_node_view node;
	bool committed;
	struct stfs_tensor_ref ref; /* of a committed one */
};

static int put_dtype(const struct subject *subject, struct stfs_buf *out)
{
	if (subject->typing.fit == STFS_FIT_NONE)
		return -ENODATA;
	return stfs_buf_puts(out, stfs_dtype_info(subject->typing.dtype)->name);
}

static int put_shape(const struct subject *subject, struct stfs_buf *out)
{
	STFS_AUTO_FREE uint64_t *dims = stfs_typing_dims(&subject->typing);

	if (subject->typing.fit == STFS_FIT_NONE)
		return -ENODATA;

	if (!dims)
		return -ENOMEM;
	stfs_buf_putc(out, '[');
	for (size_t i = 0; i < subject->typing.rank; i++)
		stfs_buf_printf(out, "%s%" PRIu64, i ? "," : "", dims[i]);
	return stfs_buf_putc(out, ']');
}

static int put_name(const struct subject *subject, struct stfs_buf *out)
{
	return stfs_buf_add_str(out, subject->typing.name);
}

static int put_file(const struct subject *subject, struct stfs_buf *out)
{
	return subject->committed ? stfs_buf_puts(out, subject->ref.shard->name) : -ENODATA;
}

static int put_offset(const struct subject *subject, struct stfs_buf *out)
{
	return subject->committed && subject->ref.offset != STFS_NO_OFFSET
		       ? stfs_buf_printf(out, "%" PRIu64, subject->ref.offset)
		       : -ENODATA;
}

static const struct {
	const char *name;
	int (*put)(const struct subject *subject, struct stfs_buf *out);
} attributes[] = {
	{"user.safetensors.dtype", put_dtype}, {"user.safetensors.shape", put_shape},
	{"user.safetensors.name", put_name},   {"user.safetensors.file", put_file},
	{"user.safetensors.offset", put_offset},
};
#define COUNT (sizeof(attributes) / sizeof(*attributes))

/* The protocol of getxattr(2): size 0 asks for the length. */
static void reply(fuse_req_t req, const struct stfs_buf *value, size_t size)
{
	if (size == 0)
		fuse_reply_xattr(req, value->len);
	else if (value->len > size)
		fuse_reply_err(req, ERANGE);
	else
		fuse_reply_buf(req, value->data, value->len);
}

/* The tensor of an inode. The tree is held. */
static bool find_subject(struct stfs_fs *fs, fuse_ino_t ino, struct subject *subject)
{
	uint32_t number, id;
	enum stfs_form form;

	*subject = (struct subject){0};
	if (!stfs_fs_split(ino, &number, &form))
		return false;
	if (form != STFS_FORM_RAW)
		number = stfs_tree_named(fs->tree, number);
	if (!stfs_tree_node(fs->tree, number, &subject->node) || !subject->node.linked || subject->node.scratch ||
	    !stfs_tree_typing(fs->tree, subject->node.name, &subject->typing))
		return false;
	id = subject->node.id;
	subject->committed = id != STFS_NO_TENSOR && stfs_model_tensor(stfs_tree_model(fs->tree), id, &subject->ref);
	return true;
}

/* Replies: xattr or buf; ENODATA, ERANGE, ENOMEM. */
void stfs_fs_op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	struct stfs_fs *fs = fuse_req_userdata(req);
	STFS_AUTO_BUF struct stfs_buf value = STFS_BUF_INIT;
	struct subject subject;
	int r = -ENODATA;

	stfs_tree_hold(fs->tree);
	for (size_t i = 0; i < COUNT && find_subject(fs, ino, &subject); i++)
		if (strcmp(attributes[i].name, name) == 0)
			r = attributes[i].put(&subject, &value);
	stfs_tree_release(fs->tree);
	if (r < 0)
		fuse_reply_err(req, -r);
	else
		reply(req, &value, size);
}

/* Replies: xattr or buf; ERANGE, ENOMEM. */
void stfs_fs_op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	struct stfs_fs *fs = fuse_req_userdata(req);
	STFS_AUTO_BUF struct stfs_buf names = STFS_BUF_INIT;
	struct subject subject;

	stfs_tree_hold(fs->tree);
	for (size_t i = 0; i < COUNT && find_subject(fs, ino, &subject); i++)
		stfs_buf_add(&names, attributes[i].name, strlen(attributes[i].name) + 1);
	stfs_tree_release(fs->tree);
	if (stfs_buf_status(&names) < 0)
		fuse_reply_err(req, ENOMEM);
	else
		reply(req, &names, size);
}
