/* SPDX-License-Identifier: MIT */
/*
 * A growing run of bytes. Adding to it can fail only for want of memory; the first failure
 * sticks, so a caller may add many times and look at the outcome once (stfs_buf_status).
 */
#ifndef STFS_BASE_BUF_H
#define STFS_BASE_BUF_H

#include <stdarg.h>
#include <stddef.h>

#include "base/str.h"

struct stfs_buf {
	char *data; /* owned; NULL while empty */
	size_t len; /* bytes in use */
	size_t cap;
	int status; /* 0, or -ENOMEM for ever after */
};

#define STFS_BUF_INIT {0}
#define STFS_AUTO_BUF __attribute__((cleanup(stfs_buf_free)))

/* Makes room for `more` bytes beyond len, so that adding them cannot fail. */
int stfs_buf_reserve(struct stfs_buf *buf, size_t more);
int stfs_buf_add(struct stfs_buf *buf, const void *bytes, size_t len);
int stfs_buf_add_str(struct stfs_buf *buf, struct stfs_str str);
int stfs_buf_puts(struct stfs_buf *buf, const char *terminated);
int stfs_buf_putc(struct stfs_buf *buf, char c);
int stfs_buf_fill(struct stfs_buf *buf, char c, size_t count);
int stfs_buf_printf(struct stfs_buf *buf, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
int stfs_buf_vprintf(struct stfs_buf *buf, const char *format, va_list args)
	__attribute__((format(printf, 2, 0)));

/* Appends a terminating NUL that does not count in len; NULL for want of memory. */
const char *stfs_buf_cstr(struct stfs_buf *buf);

/* Empties it and keeps the memory; the sticky status is cleared. */
void stfs_buf_clear(struct stfs_buf *buf);
/* Releases the memory; the buffer is then empty and usable. */
void stfs_buf_free(struct stfs_buf *buf);

static inline int stfs_buf_status(const struct stfs_buf *buf)
{
	return buf->status;
}

static inline struct stfs_str stfs_buf_str(const struct stfs_buf *buf)
{
	return stfs_str_slice(buf->data, buf->len);
}

#endif
