/* SPDX-License-Identifier: MIT */
/* UTF-8 as RFC 3629 defines it: no overlong forms, no surrogates, nothing above U+10FFFF. */
#ifndef STFS_BASE_UTF8_H
#define STFS_BASE_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of the well-formed character at `text` (1 to 4), or 0 when there is none in `len`. */
size_t stfs_utf8_width(const char *text, size_t len);

/* Position of the first byte that does not belong to a well-formed character, or `len`. */
size_t stfs_utf8_check(const char *text, size_t len);

/* Writes the character `code` (a Unicode scalar value) to `out`; returns its 1 to 4 bytes. */
size_t stfs_utf8_put(uint32_t code, char out[4]);

#endif
