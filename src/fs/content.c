/* SPDX-License-Identifier: MIT */
/* Files whose text is made up: sidecars, .npy headers. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "format/npy.h"
#include "format/sidecar.h"
#include "fs/fs.h"

/*
 * The shape of a tensor of the model as it stands in the header, digits and commas only: what a sidecar
 * shows. A shape can have as many dimensions as half the header has bytes, so no array is made of it.
 * Appends to `out`, or only counts when it is NULL.
 */
static uint64_t put_read_shape(const struct stfs_tensor_ref *ref, bool skip_first, struct stfs_buf *out)
{
	uint64_t len = 0;

	for (const char *p = ref->shard->header->text + ref->tensor->shape_pos + 1; *p != ']'; p++) {
		if (*p == ',')
			skip_first = false;
		if (skip_first || (*p != ',' && (*p < '0' || *p > '9')))
			continue;
		len++;
		if (out)
			stfs_buf_putc(out, *p);
	}
	return len;
}

static uint64_t put_shape(const struct stfs_typing_view *typing, struct stfs_buf *out)
{
	char number[24];
	uint64_t len = 0;

	for (size_t i = 0; i < typing->rank; i++) {
		bool other = i == 0 && typing->other_first;

		if (!typing->dims && !other)
			return len + put_read_shape(&typing->ref, i > 0, out);
		len += (uint64_t)snprintf(number, sizeof(number), "%s%" PRIu64, i ? "," : "",
					  other ? typing->first : typing->dims[i]);
		if (out)
			stfs_buf_puts(out, number);
	}
	return len;
}

/* The sidecar but for the shape, which belongs at *at. */
static int put_frame(const struct stfs_typing_view *typing, struct stfs_buf *out, size_t *at)
{
	static const char before[] = "\"shape\":[";
	struct stfs_str none = {NULL, 0};
	const char *found;
	int r = stfs_sidecar_write(typing->dtype, NULL, 0, typing->long_name ? typing->name : none, out);

	if (r < 0)
		return r;
	found = memmem(out->data, out->len, before, sizeof(before) - 1);
	*at = (size_t)(found - out->data) + sizeof(before) - 1;
	return 0;
}

int stfs_fs_sidecar(const struct stfs_typing_view *typing, struct stfs_buf *out)
{
	STFS_AUTO_BUF struct stfs_buf frame = STFS_BUF_INIT;
	size_t at;
	int r = put_frame(typing, &frame, &at);

	if (r < 0)
		return r;
	stfs_buf_add(out, frame.data, at);
	put_shape(typing, out);
	return stfs_buf_add(out, frame.data + at, frame.len - at);
}

int stfs_fs_sidecar_len(const struct stfs_typing_view *typing, uint64_t *len)
{
	STFS_AUTO_BUF struct stfs_buf frame = STFS_BUF_INIT;
	size_t at;
	int r = put_frame(typing, &frame, &at);

	*len = frame.len + put_shape(typing, NULL);
	return r;
}

int stfs_fs_npy_header(const struct stfs_typing_view *typing, struct stfs_buf *out)
{
	STFS_AUTO_FREE uint64_t *dims = stfs_typing_dims(typing);

	if (!dims)
		return -ENOMEM;
	return stfs_npy_header(typing->dtype, dims, typing->rank, out);
}
