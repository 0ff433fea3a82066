/* SPDX-License-Identifier: MIT */
#include "codec/window.h"

#include <assert.h>

#include "base/arith.h"
#include "base/io.h"

void stfs_window_of_file(struct stfs_window *window, int fd, uint64_t len)
{
	window->fd = fd;
	window->bytes = NULL;
	window->len = len;
	window->from = window->read = 0;
	window->have = window->step = 0;
	window->status = 0;
}

void stfs_window_of_memory(struct stfs_window *window, struct stfs_str bytes)
{
	stfs_window_of_file(window, -1, bytes.len);
	window->bytes = bytes.len ? bytes.ptr : "";
}

/* Little where one jumps to, and more as one goes on from there. */
#define STEP_FIRST 1024

static void refill(struct stfs_window *window, uint64_t at, size_t want)
{
	bool goes_on = window->have && at >= window->from && at - window->from <= window->have;
	size_t len;
	ssize_t got;

	window->step = goes_on && window->step ? window->step * 2 : STEP_FIRST;
	if (window->step > sizeof(window->piece))
		window->step = sizeof(window->piece);
	len = (size_t)stfs_min_u64(window->len - at, want > window->step ? want : window->step);
	got = stfs_io_pread_full(window->fd, window->piece, len, at);
	window->from = at;
	window->have = got < 0 ? 0 : (size_t)got;
	window->read += window->have;
	window->status = got < 0 ? (int)got : 0;
}

struct stfs_str stfs_window_at(struct stfs_window *window, uint64_t at, size_t want)
{
	size_t len;

	assert(want <= STFS_WINDOW_PIECE);
	if (at >= window->len || window->status < 0)
		return stfs_str_slice(NULL, 0);
	len = (size_t)stfs_min_u64(window->len - at, want);
	if (window->bytes)
		return stfs_str_slice(window->bytes + at, len);
	if (at < window->from || at - window->from > window->have || len > window->have - (at - window->from))
		refill(window, at, len);
	if (len > window->have - (at - window->from)) /* the file was cut short */
		len = window->have - (size_t)(at - window->from);
	return stfs_str_slice(window->piece + (at - window->from), len);
}
