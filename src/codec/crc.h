/* SPDX-License-Identifier: MIT */
/* The CRC-32 of zip archives, as fast as memory where the processor can multiply without carries. */
#ifndef STFS_CODEC_CRC_H
#define STFS_CODEC_CRC_H

#include <stddef.h>
#include <stdint.h>

/* As crc32_z() of zlib: of bytes behind those that have the CRC `crc`, 0 at first. */
uint32_t stfs_crc32(uint32_t crc, const void *bytes, size_t len);

#endif
