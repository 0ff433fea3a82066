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

static int put_dtype(const struct stfs_tensor_ref *ref, struct stfs_buf *out)
{
	return stfs_buf_puts(out, ref->dtype->name);
}

static int put_shape(const struct stfs_tensor_ref *ref, struct stfs_buf *out)
{
	STFS_AUTO_FREE uint64_t *dims = stfs_model_shape(ref);

	if (!dims)
		return -ENOMEM;
	stfs_buf_putc(out, '[');
	for (uint32_t i = 0; i < ref->tensor->rank; i++)
		stfs_buf_printf(out, "%s%" PRIu64, i ? "," : "", dims[i]);
	return stfs_buf_putc(out, ']');
}

static int put_name(const struct stfs_tensor_ref *ref, struct stfs_buf *out)
{
	return stfs_buf_add_str(out, ref->name);
}

static int put_file(const struct stfs_tensor_ref *ref, struct stfs_buf *out)
{
	return stfs_buf_puts(out, ref->shard->name);
}

static int put_offset(const struct stfs_tensor_ref *ref, struct stfs_buf *out)
{
	return stfs_buf_printf(out, "%" PRIu64, ref->offset);
}

static const struct {
	const char *name;
	int (*put)(const struct stfs_tensor_ref *ref, struct stfs_buf *out);
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

/* Replies: xattr or buf; ENODATA, ERANGE, ENOMEM. */
void stfs_fs_op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	struct stfs_fs *fs = fuse_req_userdata(req);
	STFS_AUTO_BUF struct stfs_buf value = STFS_BUF_INIT;
	struct stfs_tensor_ref ref;
	enum stfs_form form;
	uint32_t id;
	int r = -ENODATA;

	for (size_t i = 0; i < COUNT && stfs_fs_node(fs, ino, &ref, &id, &form); i++)
		if (strcmp(attributes[i].name, name) == 0)
			r = attributes[i].put(&ref, &value);
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
	struct stfs_tensor_ref ref;
	enum stfs_form form;
	uint32_t id;

	for (size_t i = 0; i < COUNT && stfs_fs_node(fs, ino, &ref, &id, &form); i++)
		stfs_buf_add(&names, attributes[i].name, strlen(attributes[i].name) + 1);
	if (stfs_buf_status(&names) < 0)
		fuse_reply_err(req, ENOMEM);
	else
		reply(req, &names, size);
}
