/* SPDX-License-Identifier: MIT */
/*
 * Which tensors a user means. Patterns are those of fnmatch(3), where '*' and '?' match any
 * character, '.' and '/' too; a pattern that is a tensor's name to the letter matches it as well,
 * whatever characters it holds. In a name that holds NUL, which no argument can, that byte matches
 * as U+2400.
 */
#ifndef STFS_OPS_SELECT_H
#define STFS_OPS_SELECT_H

#include "store/model.h"

struct stfs_patterns {
	const char **items; /* owned array of borrowed strings */
	bool *hit;          /* owned: whether each has matched a tensor */
	size_t count;
};

int stfs_patterns_add(struct stfs_patterns *patterns, const char *pattern); /* 0 or -ENOMEM */
void stfs_patterns_free(struct stfs_patterns *patterns);

/*
 * Whether `name` matches one of the patterns, each of which then remembers that it has: 1, 0 or
 * -ENOMEM. `scratch` is for the function's own use, call after call.
 */
int stfs_patterns_match(struct stfs_patterns *patterns, struct stfs_str name,
			struct stfs_buf *scratch);

/*
 * Drops from `ids` (`*count` of them) what matches no pattern of `include`, unless that is empty,
 * and what matches one of `exclude`. Order is kept. 0 or -ENOMEM.
 */
int stfs_select(const struct stfs_model *model, struct stfs_patterns *include,
		struct stfs_patterns *exclude, uint32_t *ids, size_t *count);

/*
 * Id of the tensor that `name` stands for: by its very name, else by what `ls` shows for it
 * (base/escape.h). STFS_NO_TENSOR when there is none.
 */
uint32_t stfs_select_one(const struct stfs_model *model, const char *name);

#endif
