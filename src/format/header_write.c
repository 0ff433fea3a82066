/* SPDX-License-Identifier: MIT */
/* The header's writer. What it writes, header_read.c finds nothing to say against. */
#include <errno.h>
#include <inttypes.h>

#include "base/arith.h"
#include "base/utf8.h"
#include "format/header_internal.h"

static void add_field(const struct stfs_header_item *item, enum stfs_field field, struct stfs_buf *out)
{
	stfs_buf_printf(out, "\"%s\":", stfs_field_name(field));
	if (field == STFS_FIELD_DTYPE) {
		stfs_buf_printf(out, "\"%s\"", stfs_dtype_info(item->dtype)->name);
	} else if (field == STFS_FIELD_SHAPE) {
		stfs_buf_putc(out, '[');
		for (size_t i = 0; i < item->rank; i++)
			stfs_buf_printf(out, i ? ",%" PRIu64 : "%" PRIu64, item->dims[i]);
		stfs_buf_putc(out, ']');
	} else {
		stfs_buf_printf(out, "[%" PRIu64 ",%" PRIu64 "]", item->begin, item->end);
	}
}

/* The members of the source entry in their order: known ones anew, unknown ones as they stand. */
static int add_from_source(const struct stfs_header_item *item, struct stfs_buf *out)
{
	struct stfs_json json = {.text = item->source.ptr, .len = item->source.len};
	STFS_AUTO_BUF struct stfs_buf plain = STFS_BUF_INIT;
	struct stfs_json_string raw;
	enum stfs_field field;
	struct stfs_str key;
	bool first = true;
	size_t start;
	int r = stfs_json_enter(&json, '{');

	while (r == 0 && (r = stfs_json_member(&json, &first, &plain, &raw, &key)) == 1) {
		if (out->data[out->len - 1] != '{')
			stfs_buf_putc(out, ',');
		stfs_json_peek(&json);
		start = json.pos;
		field = stfs_field_find(key);
		r = stfs_json_skip(&json, NULL, NULL);
		if (r == 0 && field != STFS_FIELD_COUNT) {
			add_field(item, field, out);
		} else if (r == 0) {
			stfs_buf_add(out, json.text + raw.pos - 1, raw.len + 2);
			stfs_buf_putc(out, ':');
			stfs_buf_add(out, json.text + start, json.pos - start);
		}
	}
	return r;
}

static int add_item(const struct stfs_header_item *item, struct stfs_buf *out)
{
	int r = 0;

	stfs_json_quote(item->name, out);
	stfs_buf_puts(out, ":{");
	if (item->source.ptr) {
		r = add_from_source(item, out);
	} else {
		for (unsigned i = 0; i < STFS_FIELD_COUNT; i++) {
			if (i)
				stfs_buf_putc(out, ',');
			add_field(item, (enum stfs_field)i, out);
		}
	}
	stfs_buf_putc(out, '}');
	return r;
}

static void add_metadata(const struct stfs_header_parts *parts, struct stfs_buf *out)
{
	stfs_buf_puts(out, "\"__metadata__\":{");
	for (size_t i = 0; i < parts->pair_count; i++) {
		if (i)
			stfs_buf_putc(out, ',');
		stfs_json_quote(parts->pairs[i].key, out);
		stfs_buf_putc(out, ':');
		stfs_json_quote(parts->pairs[i].value, out);
	}
	stfs_buf_putc(out, '}');
}

static void note_twice(void *data, uint32_t pos, uint32_t first_pos)
{
	*(uint32_t *)data = pos;
}

/* Whether every name can stand in a header beside the others. */
static int check_names(const struct stfs_header_parts *parts, struct stfs_err *err)
{
	struct stfs_keyset set = {0};
	uint32_t twice = STFS_NO_TENSOR;
	char quoted[STFS_QUOTED_MAX];
	struct stfs_str name;
	int r = stfs_sipkey_random(&set.key);

	for (size_t i = 0; r == 0 && i < parts->item_count; i++) {
		name = parts->items[i].name;
		if (stfs_str_is(name, "__metadata__") || stfs_utf8_check(name.ptr, name.len) < name.len)
			r = stfs_err_set(err, -EINVAL, STFS_NO_POSITION,
					 "\"%s\" cannot be a tensor's name", stfs_quote(name, quoted));
		else
			r = stfs_keyset_add(&set, name, (uint32_t)i);
	}
	if (r == 0)
		stfs_keyset_close(&set, 0, note_twice, &twice);
	if (r == 0 && twice != STFS_NO_TENSOR)
		r = stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "tensor \"%s\" would stand twice",
				 stfs_quote(parts->items[twice].name, quoted));
	stfs_keyset_free(&set);
	return r;
}

/* The same for the pairs of __metadata__. */
static int check_pairs(const struct stfs_header_parts *parts, struct stfs_err *err)
{
	struct stfs_keyset set = {0};
	uint32_t twice = STFS_NO_TENSOR;
	char quoted[STFS_QUOTED_MAX];
	int r = stfs_sipkey_random(&set.key);

	for (size_t i = 0; r == 0 && i < parts->pair_count; i++) {
		struct stfs_str key = parts->pairs[i].key, value = parts->pairs[i].value;

		if (stfs_utf8_check(key.ptr, key.len) < key.len ||
		    stfs_utf8_check(value.ptr, value.len) < value.len)
			r = stfs_err_set(err, -EINVAL, STFS_NO_POSITION,
					 "__metadata__ key \"%s\" or its value is not UTF-8",
					 stfs_quote(key, quoted));
		else
			r = stfs_keyset_add(&set, key, (uint32_t)i);
	}
	if (r == 0)
		stfs_keyset_close(&set, 0, note_twice, &twice);
	if (r == 0 && twice != STFS_NO_TENSOR)
		r = stfs_err_set(err, -EINVAL, STFS_NO_POSITION,
				 "__metadata__ key \"%s\" would stand twice",
				 stfs_quote(parts->pairs[twice].key, quoted));
	stfs_keyset_free(&set);
	return r;
}

static int add_text(const struct stfs_header_parts *parts, struct stfs_buf *out)
{
	size_t place = parts->metadata_index < parts->item_count ? parts->metadata_index : parts->item_count;
	int r = 0;

	stfs_buf_putc(out, '{');
	for (size_t i = 0; r == 0 && i <= parts->item_count; i++) {
		if (parts->pair_count && i == place) {
			if (i)
				stfs_buf_putc(out, ',');
			add_metadata(parts, out);
		}
		if (i == parts->item_count)
			break;
		if (i || (parts->pair_count && place == 0))
			stfs_buf_putc(out, ',');
		r = add_item(&parts->items[i], out);
	}
	stfs_buf_putc(out, '}');
	return r;
}

int stfs_header_write(const struct stfs_header_parts *parts, size_t min_text_len,
		      struct stfs_buf *out, struct stfs_err *err)
{
	size_t before = out->len, text_len = 0;
	int r = check_names(parts, err);

	if (r == 0)
		r = check_pairs(parts, err);
	if (r == 0)
		r = stfs_buf_fill(out, 0, STFS_LENGTH_WORD);
	if (r < 0)
		return r;
	r = add_text(parts, out);
	if (r == 0)
		r = stfs_buf_status(out);
	if (r == 0) {
		text_len = out->len - before - STFS_LENGTH_WORD;
		min_text_len = min_text_len > text_len ? min_text_len : text_len;
		if (min_text_len > STFS_HEADER_MAX) /* a multiple of 8 */
			r = stfs_err_set(err, -E2BIG, STFS_NO_POSITION,
					 "the header would have %zu bytes, more than %u", min_text_len,
					 STFS_HEADER_MAX);
	}
	if (r == 0) {
		min_text_len = stfs_align_up(min_text_len, 8);
		r = stfs_buf_fill(out, ' ', min_text_len - text_len);
	}
	if (r < 0) {
		if (out->data)
			out->len = before;
		return r;
	}
	stfs_store_le64(out->data + before, min_text_len);
	return 0;
}

size_t stfs_header_written_len(const struct stfs_buf *out, size_t at)
{
	size_t start = at + STFS_LENGTH_WORD, end = out->len;

	while (end > start && out->data[end - 1] == ' ')
		end--;
	return end - start;
}

int stfs_header_fit(struct stfs_buf *out, size_t at, uint64_t text_len)
{
	size_t written = stfs_header_written_len(out, at), start = at + STFS_LENGTH_WORD;
	int r;

	if (text_len < written)
		return -ENOSPC;
	if (text_len > STFS_HEADER_MAX)
		return -E2BIG;
	if (text_len > out->len - start) {
		r = stfs_buf_fill(out, ' ', text_len - (out->len - start));
		if (r < 0)
			return r;
	}
	out->len = start + text_len;
	stfs_store_le64(out->data + at, text_len);
	return 0;
}
