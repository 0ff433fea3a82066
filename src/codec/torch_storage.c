/* SPDX-License-Identifier: MIT */
/*
 * Persistent ids: how a pickle names the storages that stand beside it. A tuple of
 *   'storage', the class, the key, the device, the number of elements
 * and in the legacy form None or the tuple (key, first element, elements) of a part of it.
 * (torch/serialization.py, persistent_load in _load and _legacy_load.)
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/arith.h"
#include "codec/grow.h"
#include "codec/torch_internal.h"

int stfs_torch_fail(const struct stfs_torch *torch, uint32_t at, struct stfs_err *err,
		    const char *format, ...)
{
	char what[900]; /* two quoted names fit, so that none is cut within a character */
	va_list args;

	va_start(args, format);
	vsnprintf(what, sizeof(what), format, args);
	va_end(args);
	return stfs_err_set(err, -EBADMSG, stfs_torch_file_at(torch, at), "byte %llu of %s: %s",
			    (unsigned long long)stfs_torch_file_at(torch, at),
			    torch->form == STFS_TORCH_ZIP ? "data.pkl" : "the file", what);
}

/* ---- The index of keys ---- */

static struct stfs_str key_of(const void *owner, uint32_t number)
{
	const struct stfs_torch *torch = owner;

	return number < torch->storage_count ? torch->storages[number].key :
					       torch->tar_tensors[number - torch->storage_count].key;
}

uint32_t stfs_torch_find_storage(const struct stfs_torch *torch, struct stfs_str key)
{
	return torch->by_key.slots ? *stfs_nametable_slot(&torch->by_key, key, key_of, torch) :
				     STFS_NO_NUMBER;
}

int stfs_torch_index_keys(struct stfs_torch *torch)
{
	size_t count = torch->storage_count + torch->tar_count;
	struct stfs_sipkey key;
	int r = stfs_sipkey_random(&key);

	stfs_nametable_free(&torch->by_key);
	if (r == 0)
		r = stfs_nametable_make(&torch->by_key, &key, (uint32_t)count);
	for (uint32_t i = 0; r == 0 && i < count; i++) {
		uint32_t *slot = stfs_nametable_slot(&torch->by_key, key_of(torch, i), key_of, torch);

		if (*slot != STFS_NO_NUMBER)
			return -EEXIST;
		*slot = i;
	}
	return r;
}

int stfs_torch_add_storage(struct stfs_torch *torch, struct stfs_torch_storage storage)
{
	int r = stfs_grow(&torch->storages, &torch->storage_cap, torch->storage_count, 1, sizeof(storage));

	if (r == 0)
		r = stfs_texts_keep(&torch->texts, storage.key, &storage.key);
	if (r == 0)
		torch->storages[torch->storage_count++] = storage;
	return r;
}

/* ---- Ids ---- */

/* A key is text, or a number in decimal, which is how torch puts it into the name of the entry. */
static bool read_key(const struct stfs_pickle *pickle, uint32_t value, struct stfs_torch_ref *ref)
{
	if (stfs_pickle_is(pickle, value, STFS_PICKLE_STR)) {
		ref->key = stfs_pickle_text(pickle, value);
		return true;
	}
	if (!stfs_pickle_is(pickle, value, STFS_PICKLE_INT))
		return false;
	snprintf(ref->digits, sizeof(ref->digits), "%lld",
		 (long long)stfs_pickle_at(pickle, value)->as.integer);
	ref->key = stfs_str_from(ref->digits);
	return true;
}

static bool read_count(const struct stfs_pickle *pickle, uint32_t value, uint64_t *count)
{
	if (!stfs_pickle_is(pickle, value, STFS_PICKLE_INT) || stfs_pickle_at(pickle, value)->as.integer < 0)
		return false;
	*count = (uint64_t)stfs_pickle_at(pickle, value)->as.integer;
	return true;
}

static bool read_view(const struct stfs_pickle *pickle, uint32_t value, struct stfs_torch_ref *ref)
{
	uint32_t count;
	const uint32_t *items = stfs_pickle_tuple(pickle, value, &count);

	if (stfs_pickle_is(pickle, value, STFS_PICKLE_NONE))
		return true;
	ref->is_view = true;
	return items && count == 3 && read_count(pickle, items[1], &ref->view_from) &&
	       read_count(pickle, items[2], &ref->view_count) && ref->view_from <= ref->count &&
	       ref->view_count <= ref->count - ref->view_from;
}

static bool is_word(const struct stfs_pickle *pickle, uint32_t value, const char *word)
{
	return stfs_pickle_is(pickle, value, STFS_PICKLE_STR) && stfs_str_is(stfs_pickle_text(pickle, value), word);
}

int stfs_torch_read_ref(const struct stfs_torch *torch, uint32_t value, struct stfs_torch_ref *ref,
			struct stfs_err *err)
{
	const struct stfs_pickle *pickle = &torch->pickle;
	const struct stfs_pickle_value *v = stfs_pickle_at(pickle, value);
	uint32_t count, class;
	const uint32_t *items = stfs_pickle_tuple(pickle, pickle->links[v->as.items.first], &count);

	*ref = (struct stfs_torch_ref){0};
	if (torch->form == STFS_TORCH_TAR) {
		if (!read_key(pickle, pickle->links[v->as.items.first], ref))
			return stfs_torch_fail(torch, v->at, err, "a persistent id that is no number");
		return 0;
	}
	if (!items || count < 5 || count > (torch->form == STFS_TORCH_LEGACY ? 6 : 5) ||
	    !is_word(pickle, items[0], "storage"))
		return stfs_torch_fail(torch, v->at, err, "a persistent id that is no storage's");
	class = stfs_pickle_is(pickle, items[1], STFS_PICKLE_GLOBAL) ?
			stfs_pickle_global_of(pickle, items[1]) : STFS_NO_VALUE;
	if (class == STFS_NO_VALUE || torch->infos[class].meaning != STFS_MEANS_STORAGE)
		return stfs_torch_fail(torch, v->at, err, "a storage of no known class");
	ref->element = torch->infos[class].element;
	if (!read_key(pickle, items[2], ref))
		return stfs_torch_fail(torch, v->at, err, "the key of a storage is no text");
	if (!read_count(pickle, items[4], &ref->count))
		return stfs_torch_fail(torch, v->at, err, "the length of a storage is no number from 0 on");
	if (count == 6 && !read_view(pickle, items[5], ref))
		return stfs_torch_fail(torch, v->at, err, "a part of a storage that passes it");
	return 0;
}

static int add_ref(struct stfs_torch *torch, uint32_t value, const struct stfs_torch_ref *ref,
		   struct stfs_err *err)
{
	struct stfs_torch_storage storage = {.key = ref->key, .element = ref->element};
	uint32_t at = stfs_pickle_at(&torch->pickle, value)->at, *slot;
	char quoted[STFS_QUOTED_MAX];
	int r;

	if (stfs_mul_overflows(ref->count, ref->element->bytes, &storage.size))
		return stfs_torch_fail(torch, at, err, "a storage of more than 2^64 bytes");
	slot = stfs_nametable_slot(&torch->by_key, ref->key, key_of, torch);
	if (*slot == STFS_NO_NUMBER) {
		r = stfs_torch_add_storage(torch, storage);
		*slot = r < 0 ? STFS_NO_NUMBER : (uint32_t)torch->storage_count - 1;
		return r;
	}
	if (torch->storages[*slot].element != ref->element || torch->storages[*slot].size != storage.size)
		return stfs_torch_fail(torch, at, err, "storage \"%s\" is named with another type or length "
				       "than before", stfs_quote(ref->key, quoted));
	return 0;
}

int stfs_torch_collect_storages(struct stfs_torch *torch, struct stfs_err *err)
{
	struct stfs_torch_ref ref;
	struct stfs_sipkey key;
	int r = stfs_sipkey_random(&key);

	if (r == 0)
		r = stfs_nametable_make(&torch->by_key, &key, (uint32_t)torch->pickle.persistent_count);
	for (uint32_t i = 0; r == 0 && i < torch->pickle.value_count; i++) {
		if (!stfs_pickle_is(&torch->pickle, i, STFS_PICKLE_PERSISTENT))
			continue;
		r = stfs_torch_read_ref(torch, i, &ref, err);
		if (r == 0)
			r = add_ref(torch, i, &ref, err);
	}
	return r;
}
