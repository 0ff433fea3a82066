/* SPDX-License-Identifier: MIT */
/* Arrays that grow by half, so that what is left unused stays below a third of them. */
#ifndef STFS_CODEC_GROW_H
#define STFS_CODEC_GROW_H

#include <errno.h>
#include <stdlib.h>

/*
 * Makes room for `more` items beyond the `count` in use. `array` is the address of an owned pointer
 * to items of `size` bytes, *cap the items it has room for. 0 or -ENOMEM.
 */
static inline int stfs_grow(void *array, size_t *cap, size_t count, size_t more, size_t size)
{
	size_t wanted = *cap + *cap / 2 + 8;
	void *grown;

	if (more <= *cap - count)
		return 0;
	if (wanted < count + more)
		wanted = count + more;
	grown = reallocarray(*(void **)array, wanted, size);
	if (!grown)
		return -ENOMEM;
	*(void **)array = grown;
	*cap = wanted;
	return 0;
}

#endif
