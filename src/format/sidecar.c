/* SPDX-License-Identifier: MIT */
#include "format/sidecar.h"

#include <inttypes.h>

static bool needs_escape(unsigned char c)
{
	return c < 0x20 || c == '"' || c == '\\';
}

static void put_escape(unsigned char c, struct stfs_buf *out)
{
	static const char letters[0x20] = {
		['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f', ['\r'] = 'r',
	};

	if (c >= 0x20)
		stfs_buf_printf(out, "\\%c", c);
	else if (letters[c])
		stfs_buf_printf(out, "\\%c", letters[c]);
	else
		stfs_buf_printf(out, "\\u%04x", c);
}

int stfs_json_quote(struct stfs_str text, struct stfs_buf *out)
{
	size_t start = 0;

	stfs_buf_putc(out, '"');
	for (size_t i = 0; i < text.len; i++) {
		if (!needs_escape((unsigned char)text.ptr[i]))
			continue;
		stfs_buf_add(out, text.ptr + start, i - start);
		put_escape((unsigned char)text.ptr[i], out);
		start = i + 1;
	}
	stfs_buf_add(out, text.len ? text.ptr + start : NULL, text.len - start);
	return stfs_buf_putc(out, '"');
}

int stfs_sidecar_write(enum stfs_dtype dtype, const uint64_t *dims, size_t rank,
		       struct stfs_str long_name, struct stfs_buf *out)
{
	const struct stfs_dtype_info *info = stfs_dtype_info(dtype);

	stfs_buf_printf(out, "{\"dtype\":\"%s\",\"shape\":[", info->name);
	for (size_t i = 0; i < rank; i++)
		stfs_buf_printf(out, "%s%" PRIu64, i > 0 ? "," : "", dims[i]);
	stfs_buf_putc(out, ']');
	if (info->descr)
		stfs_buf_printf(out, ",\"descr\":\"%s\"", info->descr);
	if (info->ml_dtype)
		stfs_buf_printf(out, ",\"ml_dtype\":\"%s\"", info->ml_dtype);
	if (long_name.ptr) {
		stfs_buf_puts(out, ",\"name\":");
		stfs_json_quote(long_name, out);
	}
	return stfs_buf_puts(out, "}\n");
}
