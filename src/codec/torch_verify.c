/* SPDX-License-Identifier: MIT */
/* Storages held against their CRCs. */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "codec/crc.h"
#include "codec/torch_internal.h"

#define PIECE (256u << 10) /* what stays in the cache from reading to adding up */

struct verifying {
	const struct stfs_torch *torch;
	const struct stfs_torch_storage *storage;
	struct stfs_inflate in;
	unsigned char bytes[PIECE];
};

static int next_piece(struct verifying *v, uint64_t at, size_t len)
{
	return v->storage->deflated ? stfs_inflate_next(&v->in, v->bytes, len) :
				      stfs_io_read_exactly(v->torch->fd, v->bytes, len, v->storage->offset + at);
}

static int sum(struct verifying *v, uint32_t *crc, int (*progress)(void *data, uint64_t bytes), void *data)
{
	uint64_t at = 0;
	uint32_t total = 0;
	int r = 0;

	while (r == 0 && at < v->storage->size) {
		size_t len = (size_t)stfs_min_u64(v->storage->size - at, PIECE);

		r = next_piece(v, at, len);
		if (r < 0)
			return r;
		total = stfs_crc32(total, v->bytes, len);
		at += len;
		r = progress ? progress(data, len) : 0;
	}
	*crc = total;
	return r < 0 ? r : 0;
}

int stfs_torch_verify(struct stfs_torch *torch, uint32_t number, int (*progress)(void *data, uint64_t bytes),
		      void *data, struct stfs_err *err)
{
	STFS_AUTO_FREE struct verifying *v = malloc(sizeof(*v));
	const struct stfs_torch_storage *storage = &torch->storages[number];
	char quoted[STFS_QUOTED_MAX];
	uint32_t crc = 0;
	int r;

	if (!v)
		return stfs_err_set(err, -ENOMEM, STFS_NO_POSITION, "no memory");
	v->torch = torch;
	v->storage = storage;
	v->in.open = false;
	r = storage->deflated ? stfs_inflate_open(&v->in, torch->fd, storage->offset,
						  storage->offset + storage->stored) : 0;
	if (r == 0)
		r = sum(v, &crc, progress, data);
	stfs_inflate_close(&v->in);
	stfs_quote(storage->key, quoted);
	if (r == -EBADMSG)
		return stfs_err_set(err, r, storage->offset, "the deflated bytes of storage \"%s\" are damaged", quoted);
	if (r < 0)
		return stfs_err_errno(err, r, "reading storage \"%s\"", quoted);
	if (storage->has_crc && crc != storage->crc)
		return stfs_err_set(err, -EBADMSG, storage->offset, "the CRC of storage \"%s\" is wrong: its bytes, "
				    "from byte %llu on, are damaged", quoted, (unsigned long long)storage->offset);
	return 0;
}
