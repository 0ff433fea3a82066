/* SPDX-License-Identifier: MIT */
/* The pairs of __metadata__ as staged. */
#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/utf8.h"
#include "store/edit_internal.h"

void stfs_edit_free_pairs(struct stfs_edit_shard *shard)
{
	for (size_t i = 0; i < shard->pair_count; i++) {
		free(shard->pairs[i].key);
		free(shard->pairs[i].value);
	}
	free(shard->pairs);
	shard->pairs = NULL;
	shard->pair_count = shard->pair_cap = 0;
}

/* A copy that may hold NUL; never NULL for an empty one. */
static char *copy(struct stfs_str text)
{
	char *made = malloc(text.len + 1);

	if (made) {
		if (text.len)
			memcpy(made, text.ptr, text.len);
		made[text.len] = '\0';
	}
	return made;
}

/* Room for one pair more. 0 or -ENOMEM. */
static int make_room(struct stfs_edit_shard *shard)
{
	size_t cap = shard->pair_cap ? 2 * shard->pair_cap : 8;
	struct stfs_pair *pairs;

	if (shard->pair_count < shard->pair_cap)
		return 0;
	pairs = reallocarray(shard->pairs, cap, sizeof(*pairs));
	if (!pairs)
		return -ENOMEM;
	shard->pairs = pairs;
	shard->pair_cap = cap;
	return 0;
}

int stfs_edit_add_pair(struct stfs_edit_shard *shard, struct stfs_str key, struct stfs_str value)
{
	struct stfs_pair pair = {copy(key), copy(value), key.len, value.len};

	if (!pair.key || !pair.value || make_room(shard) < 0) {
		free(pair.key);
		free(pair.value);
		return -ENOMEM;
	}
	shard->pairs[shard->pair_count++] = pair;
	return 0;
}

static int add_pair(void *data, struct stfs_str key, struct stfs_str value)
{
	return stfs_edit_add_pair(data, key, value);
}

int stfs_edit_load_metadata(struct stfs_edit *edit, uint32_t number)
{
	struct stfs_edit_shard *shard = &edit->shards[number];
	int r = 0;

	if (shard->metadata_loaded)
		return 0;
	if (edit->model)
		r = stfs_header_metadata(edit->model->shards[number].header, add_pair, shard);
	if (r < 0)
		stfs_edit_free_pairs(shard);
	shard->metadata_loaded = r == 0;
	return r;
}

static int load_all(struct stfs_edit *edit)
{
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < edit->shard_count; i++)
		r = stfs_edit_load_metadata(edit, i);
	return r;
}

/* An edit has changed the pairs of a shard; those of all are loaded. */
static void touch(struct stfs_edit *edit, uint32_t number)
{
	edit->metadata_changed = true;
	stfs_edit_touch(edit, number);
}

struct stfs_pair *stfs_edit_find_pair(struct stfs_edit_shard *shard, struct stfs_str key)
{
	for (size_t i = 0; i < shard->pair_count; i++)
		if (stfs_str_equal(stfs_str_slice(shard->pairs[i].key, shard->pairs[i].key_len), key))
			return &shard->pairs[i];
	return NULL;
}

/* What a shard needs for the pair: a key that it has needs a value alone, one that is so nothing. */
static int prepare_pair(struct stfs_edit_shard *shard, struct stfs_str key, struct stfs_str value,
			struct stfs_pair *fresh)
{
	const struct stfs_pair *pair = stfs_edit_find_pair(shard, key);

	if (pair && stfs_str_equal(stfs_str_slice(pair->value, pair->value_len), value))
		return 0;
	*fresh = (struct stfs_pair){.value = copy(value), .value_len = value.len, .key_len = key.len};
	if (!pair)
		fresh->key = copy(key);
	return !fresh->value || (!pair && (!fresh->key || make_room(shard) < 0)) ? -ENOMEM : 0;
}

/* Takes over what was prepared; cannot fail. */
static void put_pair(struct stfs_edit *edit, uint32_t number, struct stfs_str key,
		     struct stfs_pair *fresh)
{
	struct stfs_edit_shard *shard = &edit->shards[number];
	struct stfs_pair *pair;

	if (!fresh->value)
		return;
	if (fresh->key) {
		shard->pairs[shard->pair_count++] = *fresh;
	} else {
		pair = stfs_edit_find_pair(shard, key);
		free(pair->value);
		pair->value = fresh->value;
		pair->value_len = fresh->value_len;
	}
	*fresh = (struct stfs_pair){0};
	touch(edit, number);
}

int stfs_edit_set(struct stfs_edit *edit, struct stfs_str key, struct stfs_str value,
		  struct stfs_err *err)
{
	STFS_AUTO_FREE struct stfs_pair *fresh = NULL;
	char quoted[STFS_QUOTED_MAX];
	int r;

	if (stfs_utf8_check(key.ptr, key.len) < key.len ||
	    stfs_utf8_check(value.ptr, value.len) < value.len)
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION,
				    "metadata \"%s\": key or value is not UTF-8",
				    stfs_quote(key, quoted));
	fresh = calloc(edit->shard_count, sizeof(*fresh));
	r = fresh ? load_all(edit) : -ENOMEM;
	/* E2: all shards or none. */
	for (uint32_t i = 0; r == 0 && i < edit->shard_count; i++)
		r = prepare_pair(&edit->shards[i], key, value, &fresh[i]);
	for (uint32_t i = 0; r == 0 && i < edit->shard_count; i++)
		put_pair(edit, i, key, &fresh[i]);
	for (uint32_t i = 0; fresh && i < edit->shard_count; i++) {
		free(fresh[i].key);
		free(fresh[i].value);
	}
	return r < 0 ? stfs_err_errno(err, r, "%s", edit->path) : 0;
}

int stfs_edit_set_all(struct stfs_edit *edit, const struct stfs_header_pair *pairs, size_t count,
		      struct stfs_err *err)
{
	struct stfs_edit_shard *fresh = calloc(edit->shard_count, sizeof(*fresh));
	int r = fresh ? load_all(edit) : -ENOMEM;

	for (uint32_t i = 0; r == 0 && i < edit->shard_count; i++)
		for (size_t k = 0; r == 0 && k < count; k++)
			r = stfs_edit_add_pair(&fresh[i], pairs[k].key, pairs[k].value);
	for (uint32_t i = 0; fresh && i < edit->shard_count; i++) {
		if (r == 0) { /* E2: all shards or none */
			stfs_edit_free_pairs(&edit->shards[i]);
			edit->shards[i].pairs = stfs_steal_ptr(&fresh[i].pairs);
			edit->shards[i].pair_count = fresh[i].pair_count;
			edit->shards[i].pair_cap = fresh[i].pair_cap;
			touch(edit, i);
		} else {
			stfs_edit_free_pairs(&fresh[i]);
		}
	}
	free(fresh);
	return r < 0 ? stfs_err_errno(err, r, "%s", edit->path) : 0;
}

int stfs_edit_unset(struct stfs_edit *edit, struct stfs_str key, struct stfs_err *err)
{
	char quoted[STFS_QUOTED_MAX];
	bool found = false;
	int r = load_all(edit);

	for (uint32_t i = 0; r == 0 && i < edit->shard_count; i++) {
		struct stfs_edit_shard *shard = &edit->shards[i];
		struct stfs_pair *pair = stfs_edit_find_pair(shard, key);

		if (!pair)
			continue;
		free(pair->key);
		free(pair->value);
		shard->pair_count--;
		memmove(pair, pair + 1,
			(size_t)(shard->pairs + shard->pair_count - pair) * sizeof(*pair));
		touch(edit, i);
		found = true;
	}
	if (r < 0)
		return stfs_err_errno(err, r, "%s", edit->path);
	return found ? 0 : stfs_err_set(err, -ENOENT, STFS_NO_POSITION, "%s: no metadata key "
					"\"%s\"", edit->path, stfs_quote(key, quoted));
}

int stfs_edit_unset_all(struct stfs_edit *edit, struct stfs_err *err)
{
	int r = load_all(edit);

	for (uint32_t i = 0; r == 0 && i < edit->shard_count; i++) {
		if (!edit->shards[i].pair_count)
			continue;
		stfs_edit_free_pairs(&edit->shards[i]);
		touch(edit, i);
	}
	return r < 0 ? stfs_err_errno(err, r, "%s", edit->path) : 0;
}

/* Whether a shard before `number` has the key. */
static bool told_before(const struct stfs_edit *edit, uint32_t number, struct stfs_str key)
{
	for (uint32_t i = 0; i < number; i++)
		if (stfs_edit_find_pair(&edit->shards[i], key))
			return true;
	return false;
}

int stfs_edit_metadata(const struct stfs_edit *edit,
		       int (*each)(void *data, struct stfs_str key, struct stfs_str value), void *data)
{
	int r = 0;

	/* A plan or a commit that failed has loaded the pairs of some shards only. */
	if (edit->model && !edit->metadata_changed)
		return stfs_model_metadata(edit->model, each, data);
	for (uint32_t i = 0; r == 0 && i < edit->shard_count; i++) {
		const struct stfs_edit_shard *shard = &edit->shards[i];

		for (size_t k = 0; r == 0 && k < shard->pair_count; k++) {
			struct stfs_str key = stfs_str_slice(shard->pairs[k].key,
							     shard->pairs[k].key_len);

			if (!told_before(edit, i, key))
				r = each(data, key, stfs_str_slice(shard->pairs[k].value,
								   shard->pairs[k].value_len));
		}
	}
	return r;
}
