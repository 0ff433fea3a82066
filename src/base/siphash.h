/* SPDX-License-Identifier: MIT */
/*
 * SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012), the keyed hash
 * behind every table of names: a file cannot be made to collide under a key it does not know.
 */
#ifndef STFS_BASE_SIPHASH_H
#define STFS_BASE_SIPHASH_H

#include <stdint.h>

#include "base/str.h"

struct stfs_sipkey {
	uint64_t k0, k1;
};

/* A key from the kernel's random numbers; 0 or -errno. */
int stfs_sipkey_random(struct stfs_sipkey *key);
uint64_t stfs_siphash(const struct stfs_sipkey *key, struct stfs_str bytes);

#endif
