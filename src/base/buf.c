/* SPDX-License-Identifier: MIT */
#include "base/buf.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int stfs_buf_reserve(struct stfs_buf *buf, size_t more)
{
	size_t want, cap;
	char *data;

	if (buf->status)
		return buf->status;
	if (__builtin_add_overflow(buf->len, more, &want))
		return buf->status = -ENOMEM;
	if (want <= buf->cap)
		return 0;
	cap = buf->cap < 64 ? 64 : buf->cap;
	while (cap < want) {
		/* Half as much again: the caller's bounds on memory count on it. */
		if (__builtin_add_overflow(cap, cap / 2, &cap))
			cap = want;
	}
	data = realloc(buf->data, cap);
	if (!data)
		return buf->status = -ENOMEM;
	buf->data = data;
	buf->cap = cap;
	return 0;
}

int stfs_buf_add(struct stfs_buf *buf, const void *bytes, size_t len)
{
	int r = stfs_buf_reserve(buf, len);

	if (r < 0)
		return r;
	if (len) {
		memcpy(buf->data + buf->len, bytes, len);
		buf->len += len;
	}
	return 0;
}

int stfs_buf_add_str(struct stfs_buf *buf, struct stfs_str str)
{
	return stfs_buf_add(buf, str.ptr, str.len);
}

int stfs_buf_puts(struct stfs_buf *buf, const char *terminated)
{
	return stfs_buf_add(buf, terminated, strlen(terminated));
}

int stfs_buf_putc(struct stfs_buf *buf, char c)
{
	return stfs_buf_add(buf, &c, 1);
}

int stfs_buf_fill(struct stfs_buf *buf, char c, size_t count)
{
	int r = stfs_buf_reserve(buf, count);

	if (r < 0)
		return r;
	if (count) {
		memset(buf->data + buf->len, c, count);
		buf->len += count;
	}
	return 0;
}

int stfs_buf_vprintf(struct stfs_buf *buf, const char *format, va_list args)
{
	va_list again;
	int len, r;

	va_copy(again, args);
	len = vsnprintf(NULL, 0, format, again);
	va_end(again);
	if (len < 0)
		return buf->status = -ENOMEM;
	r = stfs_buf_reserve(buf, (size_t)len + 1);
	if (r < 0)
		return r;
	vsnprintf(buf->data + buf->len, (size_t)len + 1, format, args);
	buf->len += (size_t)len;
	return 0;
}

int stfs_buf_printf(struct stfs_buf *buf, const char *format, ...)
{
	va_list args;
	int r;

	va_start(args, format);
	r = stfs_buf_vprintf(buf, format, args);
	va_end(args);
	return r;
}

const char *stfs_buf_cstr(struct stfs_buf *buf)
{
	if (stfs_buf_reserve(buf, 1) < 0)
		return NULL;
	buf->data[buf->len] = '\0';
	return buf->data;
}

void stfs_buf_clear(struct stfs_buf *buf)
{
	buf->len = 0;
	buf->status = 0;
}

void stfs_buf_free(struct stfs_buf *buf)
{
	free(buf->data);
	*buf = (struct stfs_buf)STFS_BUF_INIT;
}
