/* SPDX-License-Identifier: MIT */
#include "format/index.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/natural.h"
#include "format/json.h"

static_assert(sizeof(struct stfs_index_entry) == 8, "the bound on memory counts on it");
static_assert(STFS_SHARDS_MAX < 1 << 13, "the bits of stfs_index_entry.file");

/* While the text is being read, files are numbered as they come and known by their first bytes. */
struct reader {
	struct stfs_json json;
	struct stfs_index *index;
	struct stfs_err *err;
	struct stfs_buf scratch;
	struct stfs_nametable by_file; /* numbers in file_at */
	uint32_t file_at[STFS_SHARDS_MAX]; /* positions in index->file_names */
	size_t entry_cap;
	bool map_seen, metadata_seen;
};

static struct stfs_str file_name(const void *owner, uint32_t number)
{
	const struct reader *reader = owner;

	return stfs_str_from(reader->index->file_names.data + reader->file_at[number]);
}

static struct stfs_str entry_name(const void *owner, uint32_t number)
{
	return stfs_index_name(owner, number);
}

struct stfs_str stfs_index_name(const struct stfs_index *index, uint32_t entry)
{
	return stfs_str_slice(index->text + index->entries[entry].name_pos,
			      index->entries[entry].name_len);
}

uint32_t stfs_index_find(const struct stfs_index *index, struct stfs_str name)
{
	uint32_t entry = *stfs_nametable_slot(&index->by_name, name, entry_name, index);

	return entry == STFS_NO_NUMBER ? STFS_NO_NUMBER : index->entries[entry].file;
}

/* ---- Reading ---- */

static bool one_component(struct stfs_str name)
{
	return name.len && !memchr(name.ptr, '\0', name.len) && !memchr(name.ptr, '/', name.len) &&
	       !stfs_str_is(name, ".") && !stfs_str_is(name, "..");
}

/* The number of a file, a new one when it was not met before. 0 or -errno. */
static int number_file(struct reader *reader, struct stfs_str file, uint32_t *number)
{
	struct stfs_index *index = reader->index;
	uint32_t *slot;
	int r;

	/* Most often it is that of the entry before. */
	if (index->count) {
		*number = index->entries[index->count - 1].file;
		if (stfs_str_equal(file_name(reader, *number), file))
			return 0;
	}
	slot = stfs_nametable_slot(&reader->by_file, file, file_name, reader);
	*number = *slot;
	if (*number != STFS_NO_NUMBER)
		return 0;
	if (index->file_count == STFS_SHARDS_MAX)
		return stfs_err_set(reader->err, -EBADMSG, reader->json.pos,
				    "weight_map: names more than %u files", STFS_SHARDS_MAX);
	reader->file_at[index->file_count] = (uint32_t)index->file_names.len;
	stfs_buf_add_str(&index->file_names, file);
	r = stfs_buf_putc(&index->file_names, '\0');
	if (r == 0)
		*slot = *number = index->file_count++;
	return r;
}

/* Room for one more entry, by half as much again: the bound on memory counts on it. */
static int grow(struct reader *reader)
{
	struct stfs_index_entry *entries;
	size_t cap = reader->entry_cap < 64 ? 64 : reader->entry_cap + reader->entry_cap / 2;

	if (reader->index->count < reader->entry_cap)
		return 0;
	entries = reallocarray(reader->index->entries, cap, sizeof(*entries));
	if (!entries)
		return -ENOMEM;
	reader->index->entries = entries;
	reader->entry_cap = cap;
	return 0;
}

/* One member of weight_map. `raw` and the value are read; name is the key, not in scratch. */
static int add_entry(struct reader *reader, struct stfs_str name, size_t start, struct stfs_json_string raw)
{
	struct stfs_index *index = reader->index;
	char quoted[STFS_QUOTED_MAX], quoted_name[STFS_QUOTED_MAX];
	struct stfs_str file;
	uint32_t number;
	int r = stfs_json_plain(&reader->json, raw, &reader->scratch, &file);

	if (r < 0)
		return r;
	if (!one_component(file))
		return stfs_err_set(reader->err, -EBADMSG, start,
				    "weight_map: tensor \"%s\" names \"%s\", which is no file name in the "
				    "index's own folder", stfs_quote(name, quoted_name),
				    stfs_quote(file, quoted));
	r = grow(reader);
	if (r == 0)
		r = number_file(reader, file, &number);
	if (r < 0)
		return r;
	index->entries[index->count++] = (struct stfs_index_entry){
		.name_pos = (uint64_t)(name.ptr - index->text), .name_len = name.len, .file = number,
	};
	return 0;
}

static int read_entry(void *data, struct stfs_json_string key, struct stfs_str name)
{
	struct reader *reader = data;
	struct stfs_json *json = &reader->json;
	struct stfs_json_string value;
	char quoted[STFS_QUOTED_MAX], *at;
	int r;

	if (key.escaped) { /* undone where it stands: the reader has passed it */
		at = reader->index->text + key.pos;
		memcpy(at, name.ptr, name.len);
		name.ptr = at;
	}
	if (stfs_json_peek(json) != '"')
		return stfs_err_set(reader->err, -EBADMSG, json->pos,
				    "weight_map: tensor \"%s\" must name a file",
				    stfs_quote(name, quoted));
	r = stfs_json_string(json, &value);
	return r < 0 ? r : add_entry(reader, name, key.pos - 1, value);
}

/* A number as writers have put it: 7, or 7.0 where it went through a real. */
static int read_total_size(struct reader *reader)
{
	struct stfs_json *json = &reader->json;
	struct stfs_json whole;
	struct stfs_json_number number;
	size_t start, end;
	int r;

	stfs_json_peek(json);
	start = json->pos;
	r = stfs_json_number(json, &number);
	if (r < 0)
		return r;
	end = json->pos;
	if (number.kind == STFS_JSON_REAL) {
		while (end > start && json->text[end - 1] == '0')
			end--;
		if (json->text[end - 1] != '.')
			return 0;
		whole = (struct stfs_json){.text = json->text + start, .len = end - 1 - start};
		r = stfs_json_number(&whole, &number);
	}
	reader->index->has_total_size = r == 0 && number.kind == STFS_JSON_UINT;
	reader->index->total_size = reader->index->has_total_size ? number.value : 0;
	return 0;
}

static int read_metadata_member(void *data, struct stfs_json_string raw, struct stfs_str key)
{
	struct reader *reader = data;
	char c = stfs_json_peek(&reader->json);

	if (stfs_str_is(key, "total_size") && (c == '-' || (c >= '0' && c <= '9')))
		return read_total_size(reader);
	return stfs_json_skip(&reader->json, NULL, NULL);
}

/* The members of an object; what is none is passed over. */
static int read_object(struct reader *reader,
		       int (*each)(void *data, struct stfs_json_string raw, struct stfs_str key))
{
	if (stfs_json_peek(&reader->json) != '{')
		return stfs_json_skip(&reader->json, NULL, NULL);
	return stfs_json_members(&reader->json, &reader->scratch, each, reader);
}

/* A key that readers would have to choose from. */
static int say_twice(struct reader *reader, size_t pos, const char *key)
{
	return stfs_err_set(reader->err, -EBADMSG, pos, "\"%s\" stands twice", key);
}

static int no_index(struct reader *reader)
{
	return stfs_err_set(reader->err, -EBADMSG, STFS_NO_POSITION,
			    "no index of a sharded model: it needs an object \"weight_map\"");
}

/* A member of the outermost object; `key` may be in scratch. */
static int read_member(void *data, struct stfs_json_string raw, struct stfs_str key)
{
	struct reader *reader = data;

	if (stfs_str_is(key, "metadata")) {
		if (reader->metadata_seen)
			return say_twice(reader, raw.pos - 1, "metadata");
		reader->metadata_seen = true;
		return read_object(reader, read_metadata_member); /* old writers: no object */
	}
	if (!stfs_str_is(key, "weight_map"))
		return stfs_json_skip(&reader->json, NULL, NULL);
	if (reader->map_seen)
		return say_twice(reader, raw.pos - 1, "weight_map");
	reader->map_seen = true;
	if (stfs_json_peek(&reader->json) != '{')
		return no_index(reader);
	return stfs_json_members(&reader->json, &reader->scratch, read_entry, reader);
}

static int read_members(void *data)
{
	return read_object(data, read_member);
}

static int read_text(struct reader *reader)
{
	int r = stfs_json_text(&reader->json, read_members, reader, reader->err);

	if (r == 0 && !reader->map_seen)
		return no_index(reader);
	if (r == 0 && reader->index->count == 0)
		return stfs_err_set(reader->err, -EBADMSG, STFS_NO_POSITION, "weight_map: names no file");
	return r;
}

/* ---- What is made of it ---- */

static int by_name(const void *left, const void *right)
{
	return stfs_natural_compare(stfs_str_from(*(const char *const *)left),
				    stfs_str_from(*(const char *const *)right));
}

/* Puts the files in natural order and the entries' numbers with them. */
static int sort_files(struct reader *reader)
{
	struct stfs_index *index = reader->index;
	uint32_t *places = calloc(index->file_count, sizeof(*places));

	index->files = calloc(index->file_count, sizeof(*index->files));
	if (!index->files || !places) {
		free(places);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < index->file_count; i++)
		index->files[i] = index->file_names.data + reader->file_at[i];
	qsort(index->files, index->file_count, sizeof(*index->files), by_name);
	for (uint32_t i = 0; i < index->file_count; i++)
		places[*stfs_nametable_slot(&reader->by_file, stfs_str_from(index->files[i]), file_name,
					    reader)] = i;
	for (uint32_t i = 0; i < index->count; i++)
		index->entries[i].file = places[index->entries[i].file];
	free(places);
	return 0;
}

static int index_names(struct reader *reader, const struct stfs_sipkey *key)
{
	struct stfs_index *index = reader->index;
	int r = stfs_nametable_make(&index->by_name, key, index->count);
	char quoted[STFS_QUOTED_MAX];

	for (uint32_t i = 0; r == 0 && i < index->count; i++) {
		struct stfs_str name = stfs_index_name(index, i);
		uint32_t *slot = stfs_nametable_slot(&index->by_name, name, entry_name, index);

		if (*slot != STFS_NO_NUMBER)
			return stfs_err_set(reader->err, -EBADMSG, index->entries[i].name_pos - 1u,
					    "weight_map: tensor \"%s\" stands twice",
					    stfs_quote(name, quoted));
		*slot = i;
	}
	return r;
}

int stfs_index_read(char *text, size_t len, struct stfs_index *index, struct stfs_err *err)
{
	struct reader *reader;
	struct stfs_sipkey key;
	int r;

	*index = (struct stfs_index){.text = text};
	if (len > STFS_INDEX_MAX)
		return stfs_err_set(err, -EBADMSG, STFS_INDEX_MAX, "the index is larger than %u bytes",
				    STFS_INDEX_MAX);
	r = stfs_sipkey_random(&key);
	if (r < 0)
		return r;
	reader = calloc(1, sizeof(*reader));
	if (!reader)
		return -ENOMEM;
	reader->json = (struct stfs_json){.text = text, .len = len};
	reader->index = index;
	reader->err = err;
	r = stfs_nametable_make(&reader->by_file, &key, STFS_SHARDS_MAX);
	if (r == 0)
		r = read_text(reader);
	if (r == 0)
		r = sort_files(reader);
	if (r == 0)
		r = index_names(reader, &key);
	stfs_nametable_free(&reader->by_file);
	stfs_buf_free(&reader->scratch);
	free(reader);
	return r;
}

void stfs_index_forget(struct stfs_index *index)
{
	free(index->text);
	free(index->entries);
	free(index->files);
	stfs_nametable_free(&index->by_name);
	stfs_buf_free(&index->file_names);
	*index = (struct stfs_index){.total_size = index->total_size,
				     .has_total_size = index->has_total_size};
}

void stfs_index_free(struct stfs_index *index)
{
	stfs_index_forget(index);
	*index = (struct stfs_index){0};
}
