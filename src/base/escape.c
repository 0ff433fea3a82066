/* SPDX-License-Identifier: MIT */
#include "base/escape.h"

#include "base/err.h"

static size_t showable(struct stfs_str text, size_t at, enum stfs_escape_mode mode)
{
	if (mode == STFS_ESCAPE_NAME && (text.ptr[at] == '"' || text.ptr[at] == '\\'))
		return 0;
	return stfs_printable(text, at);
}

int stfs_escape(struct stfs_str text, enum stfs_escape_mode mode, struct stfs_buf *out)
{
	size_t at = 0, width, run;

	while (at < text.len) {
		run = at;
		while (run < text.len && (width = showable(text, run, mode)) > 0)
			run += width;
		stfs_buf_add(out, text.ptr + at, run - at);
		at = run;
		if (at < text.len)
			stfs_buf_printf(out, "\\x%02x", (unsigned char)text.ptr[at++]);
	}
	return stfs_buf_status(out);
}
