/* SPDX-License-Identifier: MIT */
/*
 * The one error convention: a function returns 0 or -errno. Where a person needs more than the
 * number, the function also fills a struct stfs_err: what is wrong, where, and what to do.
 */
#ifndef STFS_BASE_ERR_H
#define STFS_BASE_ERR_H

#include <stdarg.h>
#include <stdint.h>

#include "base/str.h"

#define STFS_NO_POSITION UINT64_MAX

struct stfs_err {
	int code;          /* -errno, or 0 while nothing has failed */
	uint64_t position; /* byte in the input, or STFS_NO_POSITION */
	char message[1024]; /* one line for a person, without a trailing newline */
};

#define STFS_ERR_INIT {.position = STFS_NO_POSITION}

/* Fills `err` (may be NULL) and returns `code`, so that a failing path is one statement. */
int stfs_err_set(struct stfs_err *err, int code, uint64_t position, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

/* As above, and appends ": " and the system's text for the error number. */
int stfs_err_errno(struct stfs_err *err, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * A printable rendering of a name for messages: control bytes, quotes and backslashes are
 * escaped, invalid UTF-8 too, and a long one is cut to about 100 bytes with "...". The result
 * stands in `out`, which is also returned.
 */
#define STFS_QUOTED_MAX 480
const char *stfs_quote(struct stfs_str name, char out[STFS_QUOTED_MAX]);

/*
 * Bytes of the character at `at` of `text` that may go to a terminal as they are; 0 for control
 * characters, those that turn the direction of the text, and bytes that are not UTF-8.
 */
size_t stfs_printable(struct stfs_str text, size_t at);

#endif
