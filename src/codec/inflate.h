/* SPDX-License-Identifier: MIT */
/* Deflated bytes of a file, inflated from their beginning on with bounded memory. */
#ifndef STFS_CODEC_INFLATE_H
#define STFS_CODEC_INFLATE_H

#include <stdbool.h>
#include <stdint.h>
#include <zlib.h>

#define STFS_INFLATE_INPUT 65536

struct stfs_inflate {
	int fd; /* borrowed */
	uint64_t at, end; /* of what is still to be read */
	uint64_t pos;     /* bytes that came out so far */
	bool open;
	bool ended; /* the deflate stream has */
	z_stream stream;
	unsigned char input[STFS_INFLATE_INPUT];
};

/* Begins at the deflated bytes [at, end) of `fd`. 0 or -ENOMEM. */
int stfs_inflate_open(struct stfs_inflate *in, int fd, uint64_t at, uint64_t end);
void stfs_inflate_close(struct stfs_inflate *in);

/*
 * The next `len` bytes; `out` may be NULL, to pass over them. 0; -EBADMSG when the stream is damaged
 * or ends before; -errno of reading.
 */
int stfs_inflate_next(struct stfs_inflate *in, void *out, uint64_t len);

#endif
