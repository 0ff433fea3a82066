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
 * A shape can have as many dimensions as half the header has bytes: eight bytes each are allowed
 * once at a time, not once a reader.
 */
#define HUGE_RANK 4096
static pthread_mutex_t huge_shape = PTHREAD_MUTEX_INITIALIZER;

static int put_sidecar(const struct stfs_tensor_ref *ref, struct stfs_buf *out)
{
	STFS_AUTO_FREE uint64_t *dims = stfs_model_shape(ref);
	struct stfs_str long_name = {NULL, 0};
	char file[STFS_NAME_MAX + 1];
	size_t len;

	if (!dims)
		return -ENOMEM;
	/* An escape triples a byte at the most: shorter names are never hashed. */
	if (ref->name.len > STFS_NAME_MAX / 3) {
		len = stfs_name_encode(ref->name, file);
		if (stfs_name_is_hashed(stfs_str_slice(file, len)))
			long_name = ref->name;
	}
	return stfs_sidecar_write((enum stfs_dtype)ref->tensor->dtype, dims, ref->tensor->rank, long_name,
				  out);
}

static int put_npy_header(const struct stfs_tensor_ref *ref, struct stfs_buf *out)
{
	STFS_AUTO_FREE uint64_t *dims = stfs_model_shape(ref);

	if (!dims)
		return -ENOMEM;
	return stfs_npy_header((enum stfs_dtype)ref->tensor->dtype, dims, ref->tensor->rank, out);
}

static int make(const struct stfs_tensor_ref *ref, struct stfs_buf *out,
		int (*put)(const struct stfs_tensor_ref *ref, struct stfs_buf *out))
{
	bool huge = ref->tensor->rank > HUGE_RANK;
	int r;

	if (huge)
		pthread_mutex_lock(&huge_shape);
	r = put(ref, out);
	if (huge)
		pthread_mutex_unlock(&huge_shape);
	return r;
}

int stfs_fs_sidecar(const struct stfs_tensor_ref *ref, struct stfs_buf *out)
{
	return make(ref, out, put_sidecar);
}

int stfs_fs_npy_header(const struct stfs_tensor_ref *ref, struct stfs_buf *out)
{
	return make(ref, out, put_npy_header);
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
