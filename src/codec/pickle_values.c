/* SPDX-License-Identifier: MIT */
/* Values that were read: looking at them, and dicts settled. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "base/siphash.h"
#include "codec/pickle.h"

struct stfs_str stfs_pickle_text(const struct stfs_pickle *pickle, uint32_t value)
{
	const struct stfs_pickle_value *v = &pickle->values[value];

	return stfs_str_slice((v->unescaped ? pickle->texts.data : pickle->data) + v->as.text.pos,
			      v->as.text.len);
}

const uint32_t *stfs_pickle_tuple(const struct stfs_pickle *pickle, uint32_t value, uint32_t *count)
{
	static const uint32_t none;
	const struct stfs_pickle_value *v;

	*count = 0;
	if (!stfs_pickle_is(pickle, value, STFS_PICKLE_TUPLE))
		return NULL;
	v = &pickle->values[value];
	*count = v->as.items.count;
	return *count ? pickle->links + v->as.items.first : &none;
}

static struct stfs_str name_at(const struct stfs_pickle *pickle, const struct stfs_pickle_global *global,
			       uint32_t at, uint32_t len)
{
	if (global->extension)
		return stfs_str_slice(NULL, 0);
	return global->on_stack ? stfs_pickle_text(pickle, at) : stfs_str_slice(pickle->data + at, len);
}

struct stfs_str stfs_pickle_module(const struct stfs_pickle *pickle, const struct stfs_pickle_global *global)
{
	return name_at(pickle, global, global->module, global->module_len);
}

struct stfs_str stfs_pickle_name(const struct stfs_pickle *pickle, const struct stfs_pickle_global *global)
{
	return name_at(pickle, global, global->name, global->name_len);
}

uint32_t stfs_pickle_global_of(const struct stfs_pickle *pickle, uint32_t value)
{
	const struct stfs_pickle_call *call = stfs_pickle_called(pickle, value);

	if (call)
		value = call->function;
	return stfs_pickle_is(pickle, value, STFS_PICKLE_GLOBAL) ? pickle->values[value].as.global :
								   STFS_NO_VALUE;
}

uint32_t *stfs_pickle_step(const struct stfs_pickle *pickle, struct stfs_pickle_walk *walk)
{
	const struct stfs_pickle_segment *segment;

	if (walk->segment == STFS_NO_VALUE)
		return NULL;
	segment = &pickle->segments[walk->segment];
	if (walk->index == segment->count) { /* no segment is empty */
		walk->segment = segment->next;
		walk->index = 0;
		if (walk->segment == STFS_NO_VALUE)
			return NULL;
		segment = &pickle->segments[walk->segment];
	}
	return &pickle->links[segment->first + walk->index++];
}

/* ---- Keys ---- */

/*
 * -ENOENT for what is told apart by identity alone; a longer text too, for a text may be the key of
 * any number of pairs, and to hash it for each would not be linear in the pickle's bytes.
 */
static int scalar_identity(const struct stfs_pickle *pickle, uint32_t key, uint32_t longest,
			   struct stfs_buf *out)
{
	const struct stfs_pickle_value *value = &pickle->values[key];
	bool whole;

	switch ((enum stfs_pickle_kind)value->kind) {
	case STFS_PICKLE_NONE: return stfs_buf_putc(out, 'N');
	case STFS_PICKLE_BOOL: return stfs_buf_printf(out, "i%d", value->as.truth);
	case STFS_PICKLE_INT: return stfs_buf_printf(out, "i%lld", (long long)value->as.integer);
	case STFS_PICKLE_FLOAT:
		whole = fabs(value->as.real) < 9e15 && value->as.real == floor(value->as.real);
		return whole ? stfs_buf_printf(out, "i%lld", (long long)value->as.real) :
			       stfs_buf_printf(out, "f%.17g", value->as.real);
	case STFS_PICKLE_STR: case STFS_PICKLE_BYTES:
		if (value->as.text.len > longest)
			return -ENOENT;
		stfs_buf_printf(out, "%c%u:", value->kind == STFS_PICKLE_STR ? 's' : 'b', value->as.text.len);
		return stfs_buf_add_str(out, stfs_pickle_text(pickle, key));
	case STFS_PICKLE_LONG: case STFS_PICKLE_TUPLE: case STFS_PICKLE_LIST: case STFS_PICKLE_DICT:
	case STFS_PICKLE_SET: case STFS_PICKLE_GLOBAL: case STFS_PICKLE_CALL: case STFS_PICKLE_PERSISTENT:
		break;
	}
	return -ENOENT;
}

#define KEY_TEXT_MAX 512
#define KEY_ITEMS_MAX 8
#define KEY_ITEM_TEXT_MAX 64

int stfs_pickle_key_identity(const struct stfs_pickle *pickle, uint32_t key, struct stfs_buf *out)
{
	size_t from = out->len;
	uint32_t count;
	const uint32_t *items = stfs_pickle_tuple(pickle, key, &count);
	int r = items && count <= KEY_ITEMS_MAX ? 0 : scalar_identity(pickle, key, KEY_TEXT_MAX, out);

	if (items && count <= KEY_ITEMS_MAX)
		stfs_buf_printf(out, "(%u,", count);
	for (uint32_t i = 0; r == 0 && items && i < count; i++)
		r = scalar_identity(pickle, items[i], KEY_ITEM_TEXT_MAX, out);
	if (r == -ENOENT && stfs_buf_status(out) == 0) {
		out->len = from;
		r = stfs_buf_printf(out, "@%u", key);
	}
	return r;
}

/* ---- Dicts settled ---- */

struct pair {
	uint64_t hash; /* of the key's identity, under a random key */
	uint32_t *key, *value;
	uint32_t order;
};

struct settling {
	struct stfs_pickle *pickle;
	struct stfs_sipkey sipkey;
	struct stfs_buf identity;
	struct pair *pairs; /* owned */
	size_t cap;
};

static int by_hash(const void *a, const void *b)
{
	const struct pair *x = a, *y = b;

	if (x->hash != y->hash)
		return x->hash < y->hash ? -1 : 1;
	return (x->order > y->order) - (x->order < y->order);
}

static int collect(struct settling *settling, const struct stfs_pickle_list *list)
{
	struct stfs_pickle_walk walk = stfs_pickle_walk_from(list);
	uint32_t *key, count = 0;

	while ((key = stfs_pickle_step(settling->pickle, &walk))) {
		stfs_buf_clear(&settling->identity);
		if (stfs_pickle_key_identity(settling->pickle, *key, &settling->identity) < 0)
			return -ENOMEM;
		settling->pairs[count] = (struct pair){
			stfs_siphash(&settling->sipkey, stfs_buf_str(&settling->identity)), key,
			stfs_pickle_step(settling->pickle, &walk), count};
		count++;
	}
	return 0;
}

static int settle_list(struct settling *settling, const struct stfs_pickle_list *list)
{
	size_t count = list->count / 2;
	int r;

	if (count < 2)
		return 0;
	if (count > settling->cap) {
		free(settling->pairs);
		settling->pairs = reallocarray(NULL, count, sizeof(*settling->pairs));
		settling->cap = settling->pairs ? count : 0;
		if (!settling->pairs)
			return -ENOMEM;
	}
	r = collect(settling, list);
	if (r < 0)
		return r;
	qsort(settling->pairs, count, sizeof(*settling->pairs), by_hash);
	for (size_t i = 1, first = 0; i < count; i++) {
		if (settling->pairs[i].hash != settling->pairs[first].hash) {
			first = i;
			continue;
		}
		*settling->pairs[first].value = *settling->pairs[i].value;
		*settling->pairs[i].key = STFS_NO_VALUE;
	}
	return 0;
}

int stfs_pickle_settle(struct stfs_pickle *pickle)
{
	struct settling settling = {.pickle = pickle};
	int r = stfs_sipkey_random(&settling.sipkey);

	for (size_t i = 0; r == 0 && i < pickle->value_count; i++)
		if (pickle->values[i].kind == STFS_PICKLE_DICT)
			r = settle_list(&settling, &pickle->lists[pickle->values[i].as.list]);
	for (size_t i = 0; r == 0 && i < pickle->call_count; i++)
		r = settle_list(&settling, &pickle->calls[i].pairs);
	free(settling.pairs);
	stfs_buf_free(&settling.identity);
	return r;
}
