/* SPDX-License-Identifier: MIT */
/* What one may ask of a header that has been read. */
#include "format/header.h"

#include <errno.h>
#include <stdlib.h>

#include "format/header_internal.h"

void stfs_header_free(struct stfs_header *header)
{
	if (!header)
		return;
	free(header->text);
	free(header->tensors);
	free(header->by_offset);
	stfs_nametable_free(&header->by_name);
	stfs_buf_free(&header->names);
	free(header);
}

struct stfs_str stfs_header_name(const struct stfs_header *header, const struct stfs_tensor *tensor)
{
	const char *base = tensor->name_escaped ? header->names.data : header->text;

	return stfs_str_slice(base + tensor->name_pos, tensor->name_len);
}

struct stfs_str stfs_header_name_of(const void *header, uint32_t index)
{
	const struct stfs_header *owner = header;

	return stfs_header_name(owner, &owner->tensors[index]);
}

uint32_t stfs_header_find(const struct stfs_header *header, struct stfs_str name)
{
	return *stfs_nametable_slot(&header->by_name, name, stfs_header_name_of, header);
}

void stfs_header_shape(const struct stfs_header *header, const struct stfs_tensor *tensor,
		       uint64_t *dims)
{
	const char *p = header->text + tensor->shape_pos;

	/* The text was read once: rank numbers stand here, between '[' and ']'. */
	for (uint32_t i = 0; i < tensor->rank; i++) {
		uint64_t value = 0;

		while (*p < '0' || *p > '9')
			p++;
		while (*p >= '0' && *p <= '9')
			value = value * 10 + (uint64_t)(*p++ - '0');
		dims[i] = value;
	}
}

int stfs_header_metadata(const struct stfs_header *header,
			 int (*each)(void *data, struct stfs_str key, struct stfs_str value), void *data)
{
	struct stfs_json json = {.text = header->text, .pos = header->metadata_pos,
				 .len = header->metadata_pos + (size_t)header->metadata_len};
	STFS_AUTO_BUF struct stfs_buf key_buf = STFS_BUF_INIT;
	STFS_AUTO_BUF struct stfs_buf value_buf = STFS_BUF_INIT;
	struct stfs_json_string raw;
	struct stfs_str key, value;
	bool first = true;
	int r;

	if (!header->metadata_len)
		return 0;
	r = stfs_json_enter(&json, '{');
	while (r == 0 && (r = stfs_json_member(&json, &first, &key_buf, &raw, &key)) == 1) {
		r = stfs_json_string(&json, &raw);
		if (r == 0)
			r = stfs_json_plain(&json, raw, &value_buf, &value);
		if (r == 0)
			r = each(data, key, value);
	}
	return r;
}
