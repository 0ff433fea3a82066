/* SPDX-License-Identifier: MIT */
/* Arithmetic on sizes that come from files: every step says whether it overflowed. */
#ifndef STFS_BASE_ARITH_H
#define STFS_BASE_ARITH_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline bool stfs_add_overflows(uint64_t a, uint64_t b, uint64_t *sum)
{
	return __builtin_add_overflow(a, b, sum);
}

static inline bool stfs_mul_overflows(uint64_t a, uint64_t b, uint64_t *product)
{
	return __builtin_mul_overflow(a, b, product);
}

/* `alignment` is a power of two; the caller knows that the result fits. */
static inline uint64_t stfs_align_up(uint64_t value, uint64_t alignment)
{
	return (value + alignment - 1) & ~(alignment - 1);
}

static inline uint64_t stfs_min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t stfs_max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* The format is little-endian (safetensors README, "Format"); these read and write it anywhere. */
static inline uint64_t stfs_load_le64(const void *bytes)
{
	uint64_t value;

	memcpy(&value, bytes, sizeof(value));
	return le64toh(value);
}

static inline void stfs_store_le64(void *bytes, uint64_t value)
{
	value = htole64(value);
	memcpy(bytes, &value, sizeof(value));
}

#endif
