/* SPDX-License-Identifier: MIT */
/*
 * A line cut into words as a shell would: spaces and tabs separate, '...' keeps everything, "..."
 * everything but \" and \\, a backslash the character behind it; '#' where a word could begin opens
 * a comment. Nothing is expanded.
 */
#ifndef STFS_OPS_WORDS_H
#define STFS_OPS_WORDS_H

#include "base/buf.h"

struct stfs_words {
	char *text;   /* owned */
	char **items; /* owned array; ends with NULL */
	size_t count;
};

/*
 * Cuts the line. 0; -ENOMEM; -EINVAL with *why set when a quote is not closed, a backslash stands
 * last, or it holds NUL. To be freed in every case.
 */
int stfs_words_cut(struct stfs_str line, struct stfs_words *words, const char **why);
void stfs_words_free(struct stfs_words *words);

#endif
