/* SPDX-License-Identifier: MIT */
/*
 * Gopal and others, "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction" (Intel, 2009):
 * 64 bytes are folded at a time, each 16 of them by two multiplications, and the rest is reduced as Barrett does.
 * The constants are those of the bit-reflected polynomial 0xedb88320.
 */
#include "codec/crc.h"

#include <zlib.h>

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("pclmul,sse4.1")))
/* The folding takes whole blocks of 16, four of them at least. */
#define LEAST 64
#define WHOLE 16

TARGET static __m128i load(const unsigned char *at)
{
	return _mm_loadu_si128((const __m128i *)(const void *)at);
}

/* `x` moved on by what `k` stands for, with `more` added. */
TARGET static __m128i fold(__m128i x, __m128i k, __m128i more)
{
	__m128i low = _mm_clmulepi64_si128(x, k, 0x00), high = _mm_clmulepi64_si128(x, k, 0x11);

	return _mm_xor_si128(_mm_xor_si128(low, high), more);
}

TARGET static uint32_t reduce(__m128i x, __m128i k34)
{
	const __m128i k5 = _mm_set_epi64x(0, 0x163cd6124), poly = _mm_set_epi64x(0x1f7011641, 0x1db710641);
	const __m128i even = _mm_setr_epi32(-1, 0, -1, 0);
	__m128i y;

	x = _mm_xor_si128(_mm_srli_si128(x, 8), _mm_clmulepi64_si128(x, k34, 0x10));
	x = _mm_xor_si128(_mm_srli_si128(x, 4), _mm_clmulepi64_si128(_mm_and_si128(x, even), k5, 0x00));
	y = _mm_clmulepi64_si128(_mm_and_si128(x, even), poly, 0x10);
	y = _mm_clmulepi64_si128(_mm_and_si128(y, even), poly, 0x00);
	return (uint32_t)_mm_extract_epi32(_mm_xor_si128(x, y), 1);
}

/* `len` is a multiple of WHOLE, and LEAST or more. */
TARGET static uint32_t sum_folded(uint32_t crc, const unsigned char *at, size_t len)
{
	const __m128i k12 = _mm_set_epi64x(0x1c6e41596, 0x154442bd4), k34 = _mm_set_epi64x(0xccaa009e, 0x1751997d0);
	const unsigned char *end = at + len;
	__m128i x[4];

	for (int i = 0; i < 4; i++)
		x[i] = load(at + 16 * i);
	x[0] = _mm_xor_si128(x[0], _mm_cvtsi32_si128((int)~crc));
	for (at += LEAST; end - at >= LEAST; at += LEAST)
		for (int i = 0; i < 4; i++)
			x[i] = fold(x[i], k12, load(at + 16 * i));
	for (int i = 1; i < 4; i++)
		x[0] = fold(x[0], k34, x[i]);
	for (; at < end; at += WHOLE)
		x[0] = fold(x[0], k34, load(at));
	return ~reduce(x[0], k34);
}

uint32_t stfs_crc32(uint32_t crc, const void *bytes, size_t len)
{
	const unsigned char *at = bytes;
	size_t folded = len - len % WHOLE;

	if (folded >= LEAST && __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1")) {
		crc = sum_folded(crc, at, folded);
		at += folded;
		len -= folded;
	}
	return (uint32_t)crc32_z(crc, at, len);
}

#else

uint32_t stfs_crc32(uint32_t crc, const void *bytes, size_t len)
{
	return (uint32_t)crc32_z(crc, bytes, len);
}

#endif
