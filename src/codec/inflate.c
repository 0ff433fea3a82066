/* SPDX-License-Identifier: MIT */
#include "codec/inflate.h"

#include <errno.h>
#include <string.h>

#include "base/arith.h"
#include "base/io.h"

int stfs_inflate_open(struct stfs_inflate *in, int fd, uint64_t at, uint64_t end)
{
	in->fd = fd;
	in->at = at;
	in->end = end;
	in->pos = 0;
	in->ended = false;
	memset(&in->stream, 0, sizeof(in->stream));
	in->open = inflateInit2(&in->stream, -MAX_WBITS) == Z_OK;
	return in->open ? 0 : -ENOMEM;
}

void stfs_inflate_close(struct stfs_inflate *in)
{
	if (in->open)
		inflateEnd(&in->stream);
	in->open = false;
}

static int refill(struct stfs_inflate *in)
{
	size_t len = (size_t)stfs_min_u64(in->end - in->at, sizeof(in->input));
	int r;

	if (len == 0)
		return -EBADMSG;
	r = stfs_io_read_exactly(in->fd, in->input, len, in->at);
	in->at += len;
	in->stream.next_in = in->input;
	in->stream.avail_in = (unsigned)len;
	return r;
}

/* One call of zlib for at most `len` bytes. */
static int inflate_some(struct stfs_inflate *in, unsigned char *out, unsigned len)
{
	int status, r = 0;

	if (in->ended)
		return -EBADMSG;
	if (in->stream.avail_in == 0)
		r = refill(in);
	if (r < 0)
		return r;
	in->stream.next_out = out;
	in->stream.avail_out = len;
	status = inflate(&in->stream, Z_NO_FLUSH);
	if (status == Z_MEM_ERROR)
		return -ENOMEM;
	if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR)
		return -EBADMSG;
	in->ended = status == Z_STREAM_END;
	in->pos += len - in->stream.avail_out;
	return 0;
}

int stfs_inflate_next(struct stfs_inflate *in, void *out, uint64_t len)
{
	uint64_t end = in->pos + len, start = in->pos;
	unsigned char passed[16384];

	while (in->pos < end) {
		uint64_t most = out ? 1u << 30 : sizeof(passed);
		unsigned char *to = out ? (unsigned char *)out + (in->pos - start) : passed;
		int r = inflate_some(in, to, (unsigned)stfs_min_u64(end - in->pos, most));

		if (r < 0)
			return r;
	}
	return 0;
}
