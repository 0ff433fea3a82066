/* SPDX-License-Identifier: MIT */
#include "codec/texts.h"

#include <errno.h>
#include <stdlib.h>

#define CHUNK 65536

struct stfs_texts_chunk {
	struct stfs_texts_chunk *older;
	size_t used, cap;
	char bytes[];
};

int stfs_texts_keep(struct stfs_texts *texts, struct stfs_str text, struct stfs_str *kept)
{
	struct stfs_texts_chunk *chunk = texts->newest;
	size_t cap = text.len > CHUNK ? text.len : CHUNK;

	if (!chunk || chunk->cap - chunk->used < text.len) {
		chunk = malloc(sizeof(*chunk) + cap);
		if (!chunk)
			return -ENOMEM;
		*chunk = (struct stfs_texts_chunk){.older = texts->newest, .cap = cap};
		texts->newest = chunk;
	}
	if (text.len)
		memcpy(chunk->bytes + chunk->used, text.ptr, text.len);
	*kept = stfs_str_slice(chunk->bytes + chunk->used, text.len);
	chunk->used += text.len;
	texts->bytes += text.len;
	return 0;
}

void stfs_texts_free(struct stfs_texts *texts)
{
	while (texts->newest) {
		struct stfs_texts_chunk *older = texts->newest->older;

		free(texts->newest);
		texts->newest = older;
	}
	texts->bytes = 0;
}
