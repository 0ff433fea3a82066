/* SPDX-License-Identifier: MIT */
#include "base/err.h"

#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

__attribute__((format(printf, 4, 0)))
static void fill(struct stfs_err *err, int code, uint64_t position, const char *format, va_list args)
{
	err->code = code;
	err->position = position;
	vsnprintf(err->message, sizeof(err->message), format, args);
}

int stfs_err_set(struct stfs_err *err, int code, uint64_t position, const char *format, ...)
{
	va_list args;

	if (err) {
		va_start(args, format);
		fill(err, code, position, format, args);
		va_end(args);
	}
	return code;
}

int stfs_err_errno(struct stfs_err *err, int code, const char *format, ...)
{
	va_list args;
	char text[128];
	size_t len;

	if (err) {
		va_start(args, format);
		fill(err, code, STFS_NO_POSITION, format, args);
		va_end(args);
		len = strlen(err->message);
		snprintf(err->message + len, sizeof(err->message) - len, ": %s",
			 strerror_r(-code, text, sizeof(text)));
	}
	return code;
}

/*
 * Whether the character E2 `second` `third` hides, breaks or turns the text: U+200B..U+200F,
 * U+2028..U+202E, U+2060..U+206F.
 */
static bool hidden(unsigned char second, unsigned char third)
{
	if (second == 0x80)
		return (third >= 0x8b && third <= 0x8f) || (third >= 0xa8 && third <= 0xae);
	return second == 0x81 && third >= 0xa0 && third <= 0xaf;
}

size_t stfs_printable(struct stfs_str text, size_t at)
{
	unsigned char c = (unsigned char)text.ptr[at];
	size_t width;

	if (c < 0x80)
		return c >= 0x20 && c != 0x7f;
	width = stfs_utf8_width(text.ptr + at, text.len - at);
	/* U+0080..U+009F are control characters to a terminal. */
	if (c == 0xc2 && width == 2 && (unsigned char)text.ptr[at + 1] < 0xa0)
		return 0;
	if (c == 0xe2 && width == 3 &&
	    hidden((unsigned char)text.ptr[at + 1], (unsigned char)text.ptr[at + 2]))
		return 0;
	return width;
}

const char *stfs_quote(struct stfs_str name, char out[STFS_QUOTED_MAX])
{
	const size_t limit = 100;
	size_t used = 0, i = 0, width;

	while (i < name.len && i < limit) {
		width = name.ptr[i] == '"' || name.ptr[i] == '\\' ? 0 : stfs_printable(name, i);
		if (width) {
			memcpy(out + used, name.ptr + i, width);
			used += width;
			i += width;
		} else {
			used += (size_t)snprintf(out + used, STFS_QUOTED_MAX - used, "\\x%02x",
						 (unsigned char)name.ptr[i]);
			i++;
		}
	}
	if (i < name.len) {
		memcpy(out + used, "...", 3);
		used += 3;
	}
	out[used] = '\0';
	return out;
}
