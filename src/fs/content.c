/* SPDX-License-Identifier: MIT */
/* Files whose text is made up: sidecars, .npy headers, __metadata__.json. */
#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "format/names.h"
#include "format/npy.h"
#include "format/sidecar.h"
#include "fs/fs.h"

/*
 * The shape as it stands in the header, digits and commas only: what a sidecar shows. A shape can have
 * as many dimensions as half the header has bytes, so no array is made of it. Appends to `out`, or
 * only counts when it is NULL.
 */
static uint64_t put_shape(const struct stfs_tensor_ref *ref, struct stfs_buf *out)
{
	uint64_t len = 0;

	for (const char *p = ref->shard->header->text + ref->tensor->shape_pos + 1; *p != ']'; p++) {
		if (*p != ',' && (*p < '0' || *p > '9'))
			continue;
		len++;
		if (out)
			stfs_buf_putc(out, *p);
	}
	return len;
}

/* The sidecar but for the shape, which belongs at *at. */
static int put_frame(const struct stfs_tensor_ref *ref, struct stfs_buf *out, size_t *at)
{
	static const char before[] = "\"shape\":[";
	struct stfs_str long_name = {NULL, 0};
	char file[STFS_NAME_MAX + 1];
	const char *found;
	size_t len;
	int r;

	/* An escape triples a byte at the most: shorter names are never hashed. */
	if (ref->name.len > STFS_NAME_MAX / 3) {
		len = stfs_name_encode(ref->name, file);
		if (stfs_name_is_hashed(stfs_str_slice(file, len)))
			long_name = ref->name;
	}
	r = stfs_sidecar_write((enum stfs_dtype)ref->tensor->dtype, NULL, 0, long_name, out);
	if (r < 0)
		return r;
	found = memmem(out->data, out->len, before, sizeof(before) - 1);
	*at = (size_t)(found - out->data) + sizeof(before) - 1;
	return 0;
}

int stfs_fs_sidecar(const struct stfs_tensor_ref *ref, struct stfs_buf *out)
{
	STFS_AUTO_BUF struct stfs_buf frame = STFS_BUF_INIT;
	size_t at;
	int r = put_frame(ref, &frame, &at);

	if (r < 0)
		return r;
	stfs_buf_add(out, frame.data, at);
	put_shape(ref, out);
	return stfs_buf_add(out, frame.data + at, frame.len - at);
}

int stfs_fs_sidecar_len(const struct stfs_tensor_ref *ref, uint64_t *len)
{
	STFS_AUTO_BUF struct stfs_buf frame = STFS_BUF_INIT;
	size_t at;
	int r = put_frame(ref, &frame, &at);

	*len = frame.len + put_shape(ref, NULL);
	return r;
}

int stfs_fs_npy_header(const struct stfs_tensor_ref *ref, struct stfs_buf *out)
{
	STFS_AUTO_FREE uint64_t *dims = stfs_model_shape(ref);

	if (!dims)
		return -ENOMEM;
	return stfs_npy_header((enum stfs_dtype)ref->tensor->dtype, dims, ref->tensor->rank, out);
}

static int add_pair(void *data, struct stfs_str key, struct stfs_str value)
{
	struct stfs_buf *out = data;

	stfs_buf_puts(out, out->data[out->len - 1] == '{' ? "\n  " : ",\n  ");
	stfs_json_quote(key, out);
	stfs_buf_puts(out, ": ");
	return stfs_json_quote(value, out);
}

int stfs_fs_metadata(const struct stfs_model *model, struct stfs_buf *out)
{
	int r = stfs_buf_putc(out, '{');

	if (r == 0)
		r = stfs_model_metadata(model, add_pair, out);
	if (r == 0)
		r = stfs_buf_puts(out, out->len == 1 ? "}\n" : "\n}\n");
	return r;
}
