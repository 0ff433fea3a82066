/* SPDX-License-Identifier: MIT */
#include "format/npy.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>

#define DICT_BEGIN "{'descr': '"
#define DICT_MIDDLE "', 'fortran_order': False, 'shape': ("
#define DICT_END "), }"

/* numpy/lib/format.py: ARRAY_ALIGN and GROWTH_AXIS_MAX_DIGITS. */
#define DATA_ALIGN 64
#define GROWTH_DIGITS 21

/* Magic, version and a length of 2 bytes in version 1.0, of 4 in version 2.0. */
#define V1_PREFIX 10
#define V2_PREFIX 12

static unsigned count_digits(uint64_t value)
{
	unsigned digits = 1;

	while (value >= 10) {
		value /= 10;
		digits++;
	}
	return digits;
}

/* Bytes of the dict and its room to grow. `rank` is small enough that this cannot overflow. */
static uint64_t dict_bytes(const char *descr, const uint64_t *dims, size_t rank)
{
	uint64_t len = strlen(DICT_BEGIN) + strlen(descr) + strlen(DICT_MIDDLE) + strlen(DICT_END);

	for (size_t i = 0; i < rank; i++)
		len += count_digits(dims[i]) + (i > 0 ? strlen(", ") : 0);
	if (rank == 1)
		len += strlen(",");
	return len + (rank > 0 ? GROWTH_DIGITS - count_digits(dims[0]) : 0);
}

/* NumPy adds a whole block where none is needed: its padding is 1 to 64 bytes, never 0. */
static uint64_t pad_bytes(uint64_t unpadded)
{
	return DATA_ALIGN - unpadded % DATA_ALIGN;
}

static void put_prefix(struct stfs_buf *out, uint64_t prefix, uint64_t len)
{
	uint16_t len16 = htole16((uint16_t)len);
	uint32_t len32 = htole32((uint32_t)len);

	if (prefix == V1_PREFIX) {
		stfs_buf_add(out, "\x93NUMPY\x01\x00", 8);
		stfs_buf_add(out, &len16, sizeof(len16));
	} else {
		stfs_buf_add(out, "\x93NUMPY\x02\x00", 8);
		stfs_buf_add(out, &len32, sizeof(len32));
	}
}

static void put_dict(struct stfs_buf *out, const char *descr, const uint64_t *dims, size_t rank)
{
	stfs_buf_puts(out, DICT_BEGIN);
	stfs_buf_puts(out, descr);
	stfs_buf_puts(out, DICT_MIDDLE);
	for (size_t i = 0; i < rank; i++)
		stfs_buf_printf(out, "%s%" PRIu64, i > 0 ? ", " : "", dims[i]);
	if (rank == 1)
		stfs_buf_putc(out, ',');
	stfs_buf_puts(out, DICT_END);
}

int stfs_npy_header(enum stfs_dtype dtype, const uint64_t *dims, size_t rank, struct stfs_buf *out)
{
	const char *descr = stfs_dtype_info(dtype)->descr;
	uint64_t prefix = V1_PREFIX, body, len;
	size_t start = out->len;

	if (!descr)
		return -ENOENT;
	/* A dimension takes three bytes at least; the bound keeps the sums below from wrapping. */
	if (rank > UINT32_MAX / 3)
		return -EOVERFLOW;
	body = dict_bytes(descr, dims, rank) + 1; /* and the newline */
	len = body + pad_bytes(prefix + body);
	if (len > UINT16_MAX) {
		prefix = V2_PREFIX;
		len = body + pad_bytes(prefix + body);
	}
	if (len > UINT32_MAX)
		return -EOVERFLOW;
	/* All at once, with the byte that printf wants behind its text: nothing below can fail. */
	if (stfs_buf_reserve(out, prefix + len + 1) < 0)
		return stfs_buf_status(out);
	put_prefix(out, prefix, len);
	put_dict(out, descr, dims, rank);
	stfs_buf_fill(out, ' ', start + prefix + len - 1 - out->len);
	stfs_buf_putc(out, '\n');
	return stfs_buf_status(out);
}
