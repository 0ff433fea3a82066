/* SPDX-License-Identifier: MIT */
#include "format/metadata.h"

#include <errno.h>
#include <stdlib.h>

#include "format/json.h"
#include "format/keyset.h"

#define EXAMPLE "write {\"key\":\"value\"}"

struct reader {
	struct stfs_json json;
	struct stfs_buf scratch;
	struct stfs_keyset keys;
	struct stfs_metadata *metadata;
	size_t cap; /* of pairs */
	struct stfs_err *err;
	uint32_t twice; /* of keys that stand twice, the position of the first second one */
};

/* Appends to `strings`, which has room for all: what was put there before does not move. */
static struct stfs_str keep(struct reader *reader, struct stfs_str plain)
{
	struct stfs_buf *strings = &reader->metadata->strings;

	stfs_buf_add_str(strings, plain);
	return stfs_str_slice(strings->data + strings->len - plain.len, plain.len);
}

static int add_pair(struct reader *reader, struct stfs_header_pair pair)
{
	struct stfs_metadata *metadata = reader->metadata;
	struct stfs_header_pair *pairs;
	size_t cap = reader->cap < 16 ? 16 : reader->cap + reader->cap / 2;

	if (metadata->count == reader->cap) {
		pairs = reallocarray(metadata->pairs, cap, sizeof(*pairs));
		if (!pairs)
			return -ENOMEM;
		metadata->pairs = pairs;
		reader->cap = cap;
	}
	metadata->pairs[metadata->count++] = pair;
	return 0;
}

static int read_member(void *data, struct stfs_json_string raw, struct stfs_str key)
{
	struct reader *reader = data;
	struct stfs_json *json = &reader->json;
	char quoted[STFS_QUOTED_MAX];
	struct stfs_header_pair pair;
	struct stfs_str value;
	int r;

	if (reader->metadata->count == STFS_METADATA_PAIRS_MAX)
		return stfs_err_set(reader->err, -EBADMSG, raw.pos - 1, "byte %zu: more than %u keys",
				    raw.pos - 1, STFS_METADATA_PAIRS_MAX);
	r = stfs_keyset_add(&reader->keys, key, (uint32_t)(raw.pos - 1));
	if (r < 0)
		return r;
	pair.key = keep(reader, key);
	if (stfs_json_peek(json) != '"')
		return stfs_err_set(reader->err, -EBADMSG, json->pos,
				    "byte %zu: key \"%s\" must hold a string, in quotes", json->pos,
				    stfs_quote(key, quoted));
	r = stfs_json_string(json, &raw);
	if (r == 0)
		r = stfs_json_plain(json, raw, &reader->scratch, &value);
	if (r < 0)
		return r;
	pair.value = keep(reader, value);
	return add_pair(reader, pair);
}

static int read_members(void *data)
{
	struct reader *reader = data;
	struct stfs_json *json = &reader->json;

	if (stfs_json_peek(json) != '{')
		return stfs_err_set(reader->err, -EBADMSG, json->pos,
				    "byte %zu: expected an object of strings; " EXAMPLE, json->pos);
	return stfs_json_members(json, &reader->scratch, read_member, reader);
}

static void note_twice(void *data, uint32_t pos, uint32_t first_pos)
{
	struct reader *reader = data;

	reader->twice = pos < reader->twice ? pos : reader->twice;
}

static int check_keys(struct reader *reader)
{
	struct stfs_json json = reader->json;
	char quoted[STFS_QUOTED_MAX];
	struct stfs_json_string raw;
	struct stfs_str key;
	int r;

	stfs_keyset_close(&reader->keys, 0, note_twice, reader);
	if (reader->twice == UINT32_MAX)
		return 0;
	json.pos = reader->twice;
	r = stfs_json_string(&json, &raw); /* has been read once: cannot fail */
	if (r == 0)
		r = stfs_json_plain(&json, raw, &reader->scratch, &key);
	if (r < 0)
		return r;
	return stfs_err_set(reader->err, -EBADMSG, reader->twice,
			    "byte %u: the key \"%s\" stands twice", reader->twice,
			    stfs_quote(key, quoted));
}

int stfs_metadata_read(struct stfs_str text, struct stfs_metadata *metadata, struct stfs_err *err)
{
	struct reader reader = {.json = {.text = text.ptr, .len = text.len}, .metadata = metadata,
				.err = err, .twice = UINT32_MAX};
	int r;

	*metadata = (struct stfs_metadata){0};
	if (text.len > STFS_METADATA_MAX)
		return stfs_err_set(err, -EBADMSG, STFS_METADATA_MAX, "longer than %u bytes",
				    STFS_METADATA_MAX);
	r = stfs_sipkey_random(&reader.keys.key);
	if (r == 0)
		r = stfs_buf_reserve(&metadata->strings, text.len); /* no string is longer unescaped */
	if (r == 0)
		r = stfs_json_text(&reader.json, read_members, &reader, err);
	if (r == 0)
		r = check_keys(&reader);
	stfs_keyset_free(&reader.keys);
	stfs_buf_free(&reader.scratch);
	if (r < 0)
		stfs_metadata_free(metadata);
	return r;
}

void stfs_metadata_free(struct stfs_metadata *metadata)
{
	free(metadata->pairs);
	stfs_buf_free(&metadata->strings);
	*metadata = (struct stfs_metadata){0};
}

int stfs_metadata_write(const struct stfs_header_pair *pairs, size_t count, struct stfs_buf *out)
{
	stfs_buf_putc(out, '{');
	for (size_t i = 0; i < count; i++) {
		stfs_buf_puts(out, i ? ",\n  " : "\n  ");
		stfs_json_quote(pairs[i].key, out);
		stfs_buf_puts(out, ": ");
		stfs_json_quote(pairs[i].value, out);
	}
	return stfs_buf_puts(out, count ? "\n}\n" : "}\n");
}
