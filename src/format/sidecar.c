/* SPDX-License-Identifier: MIT */
#include "format/sidecar.h"

#include <inttypes.h>

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
