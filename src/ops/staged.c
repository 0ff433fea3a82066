/* SPDX-License-Identifier: MIT */
#include "ops/staged.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/escape.h"

int stfs_names_add(struct stfs_names *names, struct stfs_str name)
{
	if (names->count == names->room) {
		size_t room = names->room ? names->room * 2 : 64;
		struct stfs_name_place *items = reallocarray(names->items, room, sizeof(*items));

		if (!items)
			return -ENOMEM;
		names->items = items;
		names->room = room;
	}
	names->items[names->count].at = names->text.len;
	names->items[names->count].len = name.len;
	/* The byte between two names keeps the text from being NULL where all names are empty. */
	if (stfs_buf_add_str(&names->text, name) < 0 || stfs_buf_putc(&names->text, '\0') < 0)
		return -ENOMEM;
	names->count++;
	return 0;
}

void stfs_names_free(struct stfs_names *names)
{
	stfs_buf_free(&names->text);
	free(names->items);
	*names = (struct stfs_names){0};
}

/* ---- One or the other ---- */

/* Numbers for name_at(), not all of which are tensors. */
static int count_numbers(const struct stfs_tensors *tensors, size_t *count)
{
	*count = tensors->edit ? 0 : stfs_model_ids(tensors->model);
	return tensors->edit ? stfs_edit_count(tensors->edit, count) : 0;
}

/* 0, -ENOENT when no tensor has this number, or -ENOMEM. */
static int name_at(const struct stfs_tensors *tensors, size_t number, struct stfs_str *name)
{
	struct stfs_edit_tensor tensor;
	struct stfs_tensor_ref ref;
	int r;

	if (tensors->edit) {
		r = stfs_edit_tensor(tensors->edit, number, &tensor);
		*name = tensor.name;
		return r;
	}
	if (!stfs_model_tensor(tensors->model, (uint32_t)number, &ref))
		return -ENOENT;
	*name = ref.name;
	return 0;
}

/* The tensor of that very name, which then is the tensor's own: 0, -ENOENT or -ENOMEM. */
static int find(const struct stfs_tensors *tensors, struct stfs_str *name)
{
	struct stfs_edit_tensor tensor;
	uint32_t id;
	int r;

	if (tensors->edit) {
		r = stfs_edit_find(tensors->edit, *name, &tensor);
		*name = r == 0 ? tensor.name : *name;
		return r;
	}
	id = stfs_model_find(tensors->model, *name);
	return id == STFS_NO_TENSOR ? -ENOENT : name_at(tensors, id, name);
}

/* The tensor for which `ls` shows `word`: 0, -ENOENT or -ENOMEM. */
static int find_shown(const struct stfs_tensors *tensors, const char *word, struct stfs_str *name)
{
	STFS_AUTO_BUF struct stfs_buf shown = STFS_BUF_INIT;
	size_t count;
	int r = count_numbers(tensors, &count);

	for (size_t i = 0; r == 0 && i < count; i++) {
		r = name_at(tensors, i, name);
		if (r == -ENOENT) {
			r = 0;
			continue;
		}
		stfs_buf_clear(&shown);
		if (r < 0 || stfs_escape(*name, STFS_ESCAPE_NAME, &shown) < 0)
			return -ENOMEM;
		if (stfs_str_is(stfs_buf_str(&shown), word))
			return 0;
	}
	return r < 0 ? r : -ENOENT;
}

/* ---- Selecting ---- */

int stfs_tensors_one(const struct stfs_tensors *tensors, const char *word, struct stfs_str *name)
{
	int r;

	*name = stfs_str_from(word);
	r = find(tensors, name);
	/* Without a backslash the shown form is the name itself. */
	return r == -ENOENT && strchr(word, '\\') ? find_shown(tensors, word, name) : r;
}

static int compare_names(const void *left, const void *right)
{
	return stfs_str_compare(*(const struct stfs_str *)left, *(const struct stfs_str *)right);
}

/* What the words of a selection mean. */
struct meaning {
	struct stfs_str *exact; /* owned array, sorted; names borrowed from the edit */
	size_t exact_count;
	struct stfs_patterns globs;
	size_t *glob_of; /* owned: numbers of the globs among all words */
};

static void free_meaning(struct meaning *meaning)
{
	free(meaning->exact);
	free(meaning->glob_of);
	stfs_patterns_free(&meaning->globs);
}

static int find_meaning(const struct stfs_tensors *tensors, struct stfs_patterns *words,
			struct meaning *meaning)
{
	struct stfs_str name;
	int r;

	meaning->exact = calloc(words->count + 1, sizeof(*meaning->exact));
	meaning->glob_of = calloc(words->count + 1, sizeof(*meaning->glob_of));
	if (!meaning->exact || !meaning->glob_of)
		return -ENOMEM;
	for (size_t i = 0; i < words->count; i++) {
		r = stfs_tensors_one(tensors, words->items[i], &name);
		if (r == 0) {
			meaning->exact[meaning->exact_count++] = name;
			words->hit[i] = true;
		} else if (r == -ENOENT) {
			meaning->glob_of[meaning->globs.count] = i;
			r = stfs_patterns_add(&meaning->globs, words->items[i]);
		}
		if (r < 0)
			return r;
	}
	qsort(meaning->exact, meaning->exact_count, sizeof(*meaning->exact), compare_names);
	return 0;
}

/* 1, 0 or -ENOMEM. */
static int is_meant(struct meaning *meaning, struct stfs_str name, struct stfs_buf *scratch)
{
	if (bsearch(&name, meaning->exact, meaning->exact_count, sizeof(name), compare_names))
		return 1;
	return stfs_patterns_match(&meaning->globs, name, scratch);
}

static int add_exact(const struct meaning *meaning, struct stfs_names *names)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < meaning->exact_count; i++)
		if (i == 0 || !stfs_str_equal(meaning->exact[i], meaning->exact[i - 1]))
			r = stfs_names_add(names, meaning->exact[i]);
	return r;
}

int stfs_tensors_select(const struct stfs_tensors *tensors, struct stfs_patterns *include,
			struct stfs_patterns *exclude, struct stfs_names *names)
{
	STFS_CLEANUP(free_meaning) struct meaning in = {0}, out = {0};
	STFS_AUTO_BUF struct stfs_buf scratch = STFS_BUF_INIT;
	int yes, no, r = find_meaning(tensors, include, &in);
	struct stfs_str name;
	size_t count = 0;

	if (r == 0)
		r = find_meaning(tensors, exclude, &out);
	/* The lines of a long batch are such: no look at all tensors for each. */
	if (r == 0 && include->count && !in.globs.count && !exclude->count)
		return add_exact(&in, names);
	if (r == 0)
		r = count_numbers(tensors, &count);
	for (size_t i = 0; r == 0 && i < count; i++) {
		r = name_at(tensors, i, &name);
		if (r == 0) {
			yes = include->count ? is_meant(&in, name, &scratch) : 1;
			no = is_meant(&out, name, &scratch);
			r = yes < 0 || no < 0 ? -ENOMEM : 0;
			if (yes > 0 && no == 0)
				r = stfs_names_add(names, name);
		}
		r = r == -ENOENT ? 0 : r;
	}
	for (size_t i = 0; i < in.globs.count; i++)
		include->hit[in.glob_of[i]] = in.globs.hit[i];
	return r;
}

int stfs_tensors_near(const struct stfs_tensors *tensors, const char *word,
		      struct stfs_names *names)
{
	struct stfs_near near = {.wanted = stfs_str_from(word)};
	struct stfs_str name;
	size_t count;
	int r = count_numbers(tensors, &count);

	for (size_t i = 0; r == 0 && i < count; i++) {
		r = name_at(tensors, i, &name);
		if (r == 0)
			stfs_near_offer(&near, name, (uint32_t)i);
		r = r == -ENOENT ? 0 : r;
	}
	for (size_t i = 0; r == 0 && i < near.count; i++) {
		r = name_at(tensors, near.numbers[i], &name);
		if (r == 0)
			r = stfs_names_add(names, name);
	}
	return r;
}
