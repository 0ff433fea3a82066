/* SPDX-License-Identifier: MIT */
#include "ops/select.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>

#include "base/escape.h"

int stfs_patterns_add(struct stfs_patterns *patterns, const char *pattern)
{
	const char **items = reallocarray(patterns->items, patterns->count + 1, sizeof(*items));
	bool *hit;

	if (!items)
		return -ENOMEM;
	patterns->items = items;
	hit = reallocarray(patterns->hit, patterns->count + 1, sizeof(*hit));
	if (!hit)
		return -ENOMEM;
	patterns->hit = hit;
	items[patterns->count] = pattern;
	hit[patterns->count++] = false;
	return 0;
}

void stfs_patterns_free(struct stfs_patterns *patterns)
{
	free(patterns->items);
	free(patterns->hit);
	*patterns = (struct stfs_patterns){0};
}

/* The name as a C string in `scratch`, for fnmatch(3); NULL for want of memory. */
static const char *terminated(struct stfs_str name, struct stfs_buf *scratch)
{
	stfs_buf_clear(scratch);
	for (size_t i = 0; i < name.len; i++) {
		if (name.ptr[i])
			stfs_buf_putc(scratch, name.ptr[i]);
		else
			stfs_buf_puts(scratch, "\xe2\x90\x80"); /* U+2400, the sign for NUL */
	}
	return stfs_buf_cstr(scratch);
}

int stfs_patterns_match(struct stfs_patterns *patterns, struct stfs_str name,
			struct stfs_buf *scratch)
{
	const char *text = patterns->count ? terminated(name, scratch) : NULL;
	bool found = false;

	if (patterns->count && !text)
		return -ENOMEM;

	for (size_t i = 0; i < patterns->count; i++) {
		if (stfs_str_is(name, patterns->items[i]) ||
		    fnmatch(patterns->items[i], text, 0) == 0)
			found = patterns->hit[i] = true;
	}
	return found;
}

int stfs_select(const struct stfs_model *model, struct stfs_patterns *include,
		struct stfs_patterns *exclude, uint32_t *ids, size_t *count)
{
	STFS_AUTO_BUF struct stfs_buf scratch = STFS_BUF_INIT;
	struct stfs_tensor_ref ref;
	size_t kept = 0;
	int in, out;

	if (!include->count && !exclude->count)
		return 0;
	for (size_t i = 0; i < *count; i++) {
		if (!stfs_model_tensor(model, ids[i], &ref))
			continue;
		in = include->count ? stfs_patterns_match(include, ref.name, &scratch) : 1;
		out = stfs_patterns_match(exclude, ref.name, &scratch);
		if (in < 0 || out < 0)
			return -ENOMEM;
		if (in && !out)
			ids[kept++] = ids[i];
	}
	*count = kept;
	return 0;
}

uint32_t stfs_select_one(const struct stfs_model *model, const char *name)
{
	uint32_t found = stfs_model_find(model, stfs_str_from(name));
	STFS_AUTO_BUF struct stfs_buf shown = STFS_BUF_INIT;
	struct stfs_tensor_ref ref;

	/* Without a backslash the shown form is the name itself. */
	if (found != STFS_NO_TENSOR || !strchr(name, '\\'))
		return found;
	for (uint32_t id = 0; id < stfs_model_ids(model); id++) {
		stfs_buf_clear(&shown);
		if (stfs_model_tensor(model, id, &ref) &&
		    stfs_escape(ref.name, STFS_ESCAPE_NAME, &shown) == 0 &&
		    stfs_str_is(stfs_buf_str(&shown), name))
			return id;
	}
	return STFS_NO_TENSOR;
}
