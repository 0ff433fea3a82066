/* SPDX-License-Identifier: MIT */
#include "base/siphash.h"

#include <errno.h>
#include <sys/random.h>

#include "base/arith.h"

int stfs_sipkey_random(struct stfs_sipkey *key)
{
	ssize_t got;

	do
		got = getrandom(key, sizeof(*key), 0);
	while (got < 0 && errno == EINTR);
	if (got < 0)
		return -errno;
	return got == (ssize_t)sizeof(*key) ? 0 : -EIO;
}

static inline uint64_t rotate(uint64_t x, int by)
{
	return x << by | x >> (64 - by);
}

static inline void sip_round(uint64_t v[4])
{
	v[0] += v[1];
	v[1] = rotate(v[1], 13) ^ v[0];
	v[0] = rotate(v[0], 32);
	v[2] += v[3];
	v[3] = rotate(v[3], 16) ^ v[2];
	v[0] += v[3];
	v[3] = rotate(v[3], 21) ^ v[0];
	v[2] += v[1];
	v[1] = rotate(v[1], 17) ^ v[2];
	v[2] = rotate(v[2], 32);
}

uint64_t stfs_siphash(const struct stfs_sipkey *key, struct stfs_str bytes)
{
	uint64_t v[4] = {key->k0 ^ 0x736f6d6570736575u, key->k1 ^ 0x646f72616e646f6du,
			 key->k0 ^ 0x6c7967656e657261u, key->k1 ^ 0x7465646279746573u};
	uint64_t word = 0;
	size_t i = 0;

	for (; bytes.len - i >= 8; i += 8) {
		word = stfs_load_le64(bytes.ptr + i);
		v[3] ^= word;
		sip_round(v);
		v[0] ^= word;
	}
	word = (uint64_t)bytes.len << 56;
	for (size_t k = 0; i + k < bytes.len; k++)
		word |= (uint64_t)(unsigned char)bytes.ptr[i + k] << (8 * k);
	v[3] ^= word;
	sip_round(v);
	v[0] ^= word;
	v[2] ^= 0xff;
	for (int k = 0; k < 3; k++)
		sip_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}
