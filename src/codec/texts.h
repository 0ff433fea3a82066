/* SPDX-License-Identifier: MIT */
/* Strings that are kept until all are released together; none moves. */
#ifndef STFS_CODEC_TEXTS_H
#define STFS_CODEC_TEXTS_H

#include "base/str.h"

struct stfs_texts_chunk;

struct stfs_texts {
	struct stfs_texts_chunk *newest; /* owned, with those before it */
	size_t bytes; /* kept so far */
};

/* Copies `text`; *kept points to the copy. 0 or -ENOMEM. */
int stfs_texts_keep(struct stfs_texts *texts, struct stfs_str text, struct stfs_str *kept);
void stfs_texts_free(struct stfs_texts *texts);

#endif
