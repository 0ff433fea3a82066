/* SPDX-License-Identifier: MIT */
/*
 * The index's writer: a second pass over the text that copies it and puts something else where it
 * must. The reader has been over it before, and goes over the result.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "format/index.h"
#include "format/json.h"

/* White space of the source that is longer than this is no style to be repeated a million times. */
#define STYLE_MAX 64

/* A member of weight_map that does not stand where an entry of the source stood. */
struct put {
	struct stfs_str name;
	const char *file;
};

struct writer {
	struct stfs_json json; /* over the source */
	struct stfs_buf scratch;
	struct stfs_buf *out;
	size_t copied; /* bytes of the source that were dealt with */
	const struct stfs_index_changes *changes;
	struct stfs_index index; /* what the source says */
	bool sorted;             /* its names are */
	uint32_t *change_of;     /* owned: by entry, STFS_NO_NUMBER where it stays */
	struct put *puts;        /* owned; sorted if the names are */
	size_t put_count, put_next;
	bool any; /* a member of weight_map is written */
	/* What stands in weight_map before the first key, between two members, behind a key. */
	struct stfs_str lead, comma, colon;
	char own_comma[1 + STYLE_MAX]; /* of a map of one member */
};

/* ---- What is to be done ---- */

static struct stfs_str entry_name(const void *owner, uint32_t number)
{
	return stfs_index_name(owner, number);
}

static uint32_t find_entry(const struct writer *writer, struct stfs_str name)
{
	return *stfs_nametable_slot(&writer->index.by_name, name, entry_name, &writer->index);
}

static bool is_sorted(const struct stfs_index *index)
{
	for (uint32_t i = 1; i < index->count; i++)
		if (stfs_str_compare(stfs_index_name(index, i - 1), stfs_index_name(index, i)) > 0)
			return false;
	return true;
}

static void add_put(struct writer *writer, struct stfs_str name, const char *file)
{
	writer->puts[writer->put_count++] = (struct put){name, file};
}

/* One change of a tensor that the caller holds to be in the index. */
static int assign(struct writer *writer, uint32_t number, struct stfs_err *err)
{
	const struct stfs_index_change *change = &writer->changes->items[number];
	uint32_t entry = find_entry(writer, change->name);
	char quoted[STFS_QUOTED_MAX];

	if (entry != STFS_NO_NUMBER) {
		if (writer->change_of[entry] != STFS_NO_NUMBER)
			return stfs_err_set(err, -EINVAL, STFS_NO_POSITION,
					    "tensor \"%s\" would change twice in the index",
					    stfs_quote(change->name, quoted));
		writer->change_of[entry] = number;
		if (change->new_name.ptr && writer->sorted &&
		    !stfs_str_equal(change->name, change->new_name))
			add_put(writer, change->new_name, change->file ? change->file :
				writer->index.files[writer->index.entries[entry].file]);
	} else if (change->new_name.ptr) {
		if (!change->file)
			return stfs_err_set(err, -ENOENT, STFS_NO_POSITION,
					    "the index has no tensor \"%s\" to rename",
					    stfs_quote(change->name, quoted));
		add_put(writer, change->new_name, change->file);
	}
	return 0;
}

/* An added tensor: a new member, or, where one of that name stays, another file for it. */
static void assign_added(struct writer *writer, uint32_t number)
{
	const struct stfs_index_change *change = &writer->changes->items[number];
	uint32_t entry = find_entry(writer, change->new_name);

	if (entry != STFS_NO_NUMBER && writer->change_of[entry] == STFS_NO_NUMBER)
		writer->change_of[entry] = number;
	else
		add_put(writer, change->new_name, change->file);
}

static int by_name(const void *left, const void *right)
{
	return stfs_str_compare(((const struct put *)left)->name, ((const struct put *)right)->name);
}

static int assign_all(struct writer *writer, struct stfs_err *err)
{
	const struct stfs_index_changes *changes = writer->changes;
	int r = 0;

	writer->sorted = is_sorted(&writer->index);
	writer->change_of = reallocarray(NULL, writer->index.count, sizeof(*writer->change_of));
	writer->puts = reallocarray(NULL, changes->count + 1, sizeof(*writer->puts));
	if (!writer->change_of || !writer->puts)
		return -ENOMEM;
	memset(writer->change_of, 0xff, writer->index.count * sizeof(*writer->change_of));
	for (size_t i = 0; r == 0 && i < changes->count; i++)
		if (changes->items[i].name.ptr)
			r = assign(writer, (uint32_t)i, err);
	for (size_t i = 0; r == 0 && i < changes->count; i++)
		if (!changes->items[i].name.ptr)
			assign_added(writer, (uint32_t)i);
	if (writer->sorted)
		qsort(writer->puts, writer->put_count, sizeof(*writer->puts), by_name);
	return r;
}

/* ---- weight_map ---- */

static struct stfs_str style_or(struct stfs_str style, const char *otherwise)
{
	return style.len > STYLE_MAX ? stfs_str_from(otherwise) : style;
}

/* A comma for a map that has none: on lines of their own, members are to stay so. */
static void make_comma(struct writer *writer)
{
	struct stfs_str lead = writer->lead, colon = writer->colon, space = {NULL, 0};

	if (lead.len && memchr(lead.ptr, '\n', lead.len))
		space = lead;
	else if (colon.ptr[colon.len - 1] == ' ')
		space = stfs_str_from(" ");
	writer->own_comma[0] = ',';
	if (space.len)
		memcpy(writer->own_comma + 1, space.ptr, space.len);
	writer->comma = stfs_str_slice(writer->own_comma, 1 + space.len);
}

/*
 * The style; `json` is a copy that stands behind the '{'. Nothing fails where the reader has been.
 */
static void find_style(struct writer *writer, struct stfs_json json)
{
	struct stfs_json_string key, value;
	bool first = true;
	size_t from = json.pos;

	stfs_json_next(&json, '}', &first);
	writer->lead = style_or(stfs_str_slice(json.text + from, json.pos - from), "");
	stfs_json_key(&json, &key);
	from = key.pos + key.len + 1;
	stfs_json_peek(&json);
	writer->colon = style_or(stfs_str_slice(json.text + from, json.pos - from), ":");
	stfs_json_string(&json, &value);
	from = json.pos;
	if (stfs_json_next(&json, '}', &first) == 1)
		writer->comma = style_or(stfs_str_slice(json.text + from, json.pos - from), ",");
	else
		make_comma(writer);
}

static void put_separator(struct writer *writer)
{
	stfs_buf_add_str(writer->out, writer->any ? writer->comma : writer->lead);
	writer->any = true;
}

static void put_member(struct writer *writer, struct stfs_str name, const char *file)
{
	put_separator(writer);
	stfs_json_quote(name, writer->out);
	stfs_buf_add_str(writer->out, writer->colon);
	stfs_json_quote(stfs_str_from(file), writer->out);
}

static void put_next(struct writer *writer)
{
	const struct put *put = &writer->puts[writer->put_next++];

	put_member(writer, put->name, put->file);
}

/* Entry number `entry`, which stands in the source as `source`, or what has become of it. */
static void put_entry(struct writer *writer, uint32_t entry, struct stfs_str source)
{
	struct stfs_str name = stfs_index_name(&writer->index, entry);
	const struct stfs_index_change *change;

	while (writer->sorted && writer->put_next < writer->put_count &&
	       stfs_str_compare(writer->puts[writer->put_next].name, name) < 0)
		put_next(writer);
	if (writer->change_of[entry] == STFS_NO_NUMBER) {
		put_separator(writer);
		stfs_buf_add_str(writer->out, source);
		return;
	}
	change = &writer->changes->items[writer->change_of[entry]];
	if (change->new_name.ptr && (!writer->sorted || stfs_str_equal(change->new_name, name)))
		put_member(writer, change->new_name, change->file ? change->file :
			   writer->index.files[writer->index.entries[entry].file]);
}

/* ---- The rest ---- */

/* Copies the source up to `pos`. */
static void copy_to(struct writer *writer, size_t pos)
{
	stfs_buf_add(writer->out, writer->json.text + writer->copied, pos - writer->copied);
	writer->copied = pos;
}

static int write_map(struct writer *writer)
{
	struct stfs_json *json = &writer->json;
	struct stfs_json_string raw, value;
	struct stfs_str key;
	bool first = true;
	uint32_t entry = 0;
	int r = stfs_json_enter(json, '{');

	if (r < 0)
		return r;
	copy_to(writer, json->pos);
	find_style(writer, *json);
	while (r == 0 && (r = stfs_json_member(json, &first, &writer->scratch, &raw, &key)) == 1) {
		r = stfs_json_string(json, &value);
		if (r < 0)
			break;
		put_entry(writer, entry++,
			  stfs_str_slice(json->text + raw.pos - 1, json->pos - (raw.pos - 1)));
		writer->copied = json->pos;
	}
	while (writer->put_next < writer->put_count)
		put_next(writer);
	return r;
}

static int write_metadata_member(void *data, struct stfs_json_string raw, struct stfs_str key)
{
	struct writer *writer = data;
	struct stfs_json *json = &writer->json;
	int r;

	if (!stfs_str_is(key, "total_size"))
		return stfs_json_skip(json, NULL, NULL);
	stfs_json_peek(json);
	copy_to(writer, json->pos);
	stfs_buf_printf(writer->out, "%" PRIu64, writer->changes->total_size);
	r = stfs_json_skip(json, NULL, NULL);
	writer->copied = json->pos;
	return r;
}

/* A member of the outermost object. */
static int write_member(void *data, struct stfs_json_string raw, struct stfs_str key)
{
	struct writer *writer = data;
	struct stfs_json *json = &writer->json;

	if (stfs_str_is(key, "weight_map") && writer->changes->count)
		return write_map(writer);
	if (stfs_str_is(key, "metadata") && writer->changes->set_total_size && stfs_json_peek(json) == '{')
		return stfs_json_members(json, &writer->scratch, write_metadata_member, writer);
	return stfs_json_skip(json, NULL, NULL);
}

static int write_text(struct writer *writer)
{
	int r = stfs_json_members(&writer->json, &writer->scratch, write_member, writer);

	copy_to(writer, writer->json.len);
	return r < 0 ? r : stfs_buf_status(writer->out);
}

/* Reads what is, or is to be, an index; `text` stays as it is. `index` is to be freed. */
static int read_copy(struct stfs_str text, struct stfs_index *index, struct stfs_err *err)
{
	char *copy = malloc(text.len + 1);

	*index = (struct stfs_index){0};
	if (!copy)
		return -ENOMEM;
	if (text.len)
		memcpy(copy, text.ptr, text.len);
	return stfs_index_read(copy, text.len, index, err);
}

static int check_written(struct stfs_str text, struct stfs_err *err)
{
	struct stfs_err found = STFS_ERR_INIT;
	struct stfs_index index;
	int r = read_copy(text, &index, &found);

	stfs_index_free(&index);
	if (r == -EBADMSG)
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "the index would not do: %.900s",
				    found.message);
	return r;
}

int stfs_index_write(struct stfs_str text, const struct stfs_index_changes *changes,
		     struct stfs_buf *out, struct stfs_err *err)
{
	struct writer writer = {.json = {.text = text.ptr, .len = text.len}, .out = out,
				.changes = changes};
	size_t before = out->len;
	int r = read_copy(text, &writer.index, err);

	if (r == 0)
		r = assign_all(&writer, err);
	if (r == 0)
		r = write_text(&writer);
	stfs_index_free(&writer.index);
	stfs_buf_free(&writer.scratch);
	free(writer.change_of);
	free(writer.puts);
	if (r == 0)
		r = check_written(stfs_str_slice(out->data + before, out->len - before), err);
	if (r < 0 && out->data)
		out->len = before;
	return r;
}
