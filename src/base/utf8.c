/* SPDX-License-Identifier: MIT */
#include "base/utf8.h"

#include <string.h>

size_t stfs_utf8_width(const char *text, size_t len)
{
	const unsigned char *p = (const unsigned char *)text;
	unsigned char low = 0x80, high = 0xbf; /* bounds of the second byte (RFC 3629, section 4) */
	size_t width;

	if (len == 0)
		return 0;
	if (p[0] < 0x80)
		return 1;
	if (p[0] >= 0xc2 && p[0] <= 0xdf) {
		width = 2;
	} else if (p[0] >= 0xe0 && p[0] <= 0xef) {
		width = 3;
		low = p[0] == 0xe0 ? 0xa0 : low;
		high = p[0] == 0xed ? 0x9f : high;
	} else if (p[0] >= 0xf0 && p[0] <= 0xf4) {
		width = 4;
		low = p[0] == 0xf0 ? 0x90 : low;
		high = p[0] == 0xf4 ? 0x8f : high;
	} else {
		return 0;
	}
	if (len < width || p[1] < low || p[1] > high)
		return 0;
	for (size_t i = 2; i < width; i++)
		if (p[i] < 0x80 || p[i] > 0xbf)
			return 0;
	return width;
}

size_t stfs_utf8_check(const char *text, size_t len)
{
	size_t i = 0, width;
	uint64_t word;

	while (i < len) {
		while (len - i >= sizeof(word)) {
			memcpy(&word, text + i, sizeof(word));
			if (word & 0x8080808080808080u)
				break;
			i += sizeof(word);
		}
		if (i == len)
			break;
		width = stfs_utf8_width(text + i, len - i);
		if (!width)
			return i;
		i += width;
	}
	return len;
}

size_t stfs_utf8_put(uint32_t code, char out[4])
{
	if (code < 0x80) {
		out[0] = (char)code;
		return 1;
	}
	if (code < 0x800) {
		out[0] = (char)(0xc0 | code >> 6);
		out[1] = (char)(0x80 | (code & 0x3f));
		return 2;
	}
	if (code < 0x10000) {
		out[0] = (char)(0xe0 | code >> 12);
		out[1] = (char)(0x80 | (code >> 6 & 0x3f));
		out[2] = (char)(0x80 | (code & 0x3f));
		return 3;
	}
	out[0] = (char)(0xf0 | code >> 18);
	out[1] = (char)(0x80 | (code >> 12 & 0x3f));
	out[2] = (char)(0x80 | (code >> 6 & 0x3f));
	out[3] = (char)(0x80 | (code & 0x3f));
	return 4;
}
