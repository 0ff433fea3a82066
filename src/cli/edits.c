/* SPDX-License-Identifier: MIT */
#include "cli/edits.h"

#include <stdio.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/escape.h"
#include "cli/cli.h"
#include "cli/human.h"
#include "cli/table.h"
#include "format/names.h"

static void put_quoted(struct stfs_str name, struct stfs_buf *out)
{
	stfs_buf_putc(out, '"');
	stfs_escape(name, STFS_ESCAPE_NAME, out);
	stfs_buf_putc(out, '"');
}

void stfs_edits_put_name(const struct stfs_said_edit *edit, struct stfs_buf *out)
{
	if (edit->from.ptr) {
		put_quoted(edit->from, out);
		stfs_buf_puts(out, " -> ");
	}
	if (edit->name.ptr)
		put_quoted(edit->name, out);
}

static void print(struct stfs_buf *text)
{
	if (!stfs_buf_cstr(text))
		stfs_cli_out_of_memory();
	fputs(text->data, stdout);
}

static void print_table(struct stfs_table *table)
{
	if (stfs_table_print(table, 0, stdout) < 0)
		stfs_cli_out_of_memory();
}

/* How many there are besides those shown. */
static void print_rest(uint64_t all, size_t shown)
{
	if (all > shown)
		printf("  ... and %llu more\n", (unsigned long long)(all - shown));
}

static size_t shown_of(struct json_object *array)
{
	return stfs_min_u64(stfs_said_count(array), STFS_EDITS_SHOWN);
}

/* ---- Commits ---- */

static const char *const counted[] = {"added", "replaced", "removed", "renamed", "retyped"};
#define COUNTED (sizeof(counted) / sizeof(counted[0]))

static uint64_t count_tensors(struct json_object *commit)
{
	uint64_t all = 0;

	for (size_t i = 0; i < COUNTED; i++)
		all += stfs_said_number(commit, counted[i]);
	return all;
}

void stfs_edits_put_commit(struct json_object *commit, struct stfs_buf *out)
{
	uint64_t all = count_tensors(commit), bytes = stfs_said_number(commit, "bytes"), count;
	struct json_object *metadata = stfs_said_member(commit, "metadata", json_type_boolean);
	const char *separator = " (";

	if (all) {
		stfs_human_count(all, out);
		stfs_buf_puts(out, all == 1 ? " tensor" : " tensors");
	}
	for (size_t i = 0; i < COUNTED; i++) {
		count = stfs_said_number(commit, counted[i]);
		if (!count)
			continue;
		stfs_buf_puts(out, separator);
		stfs_human_count(count, out);
		stfs_buf_printf(out, " %s", counted[i]);
		separator = ", ";
	}
	if (all)
		stfs_buf_puts(out, ")");
	if (metadata && json_object_get_boolean(metadata))
		stfs_buf_puts(out, all ? " and the metadata" : "the metadata");
	else if (!all)
		stfs_buf_puts(out, "no tensor");
	if (bytes) {
		stfs_buf_puts(out, ", ");
		stfs_human_size(bytes, false, out);
	}
}

/* What "new" is called once it has happened. */
static const char *done_word(const char *change)
{
	return strcmp(change, "new") == 0 ? "added" : change;
}

static void print_names(struct json_object *commit)
{
	static const struct stfs_column columns[] = {{""}, {""}};
	struct stfs_table table = STFS_TABLE_INIT(columns);
	struct json_object *names = stfs_said_member(commit, "names", json_type_array);
	size_t shown = shown_of(names);

	table.headless = true;
	table.indent = "  ";
	for (size_t i = 0; i < shown; i++) {
		struct stfs_said_edit edit = stfs_said_edit(names, i);

		stfs_escape(stfs_str_from(done_word(edit.change)), STFS_ESCAPE_LINE, &table.text);
		stfs_table_cell(&table);
		stfs_edits_put_name(&edit, &table.text);
		stfs_table_cell(&table);
	}
	print_table(&table);
	print_rest(stfs_max_u64(count_tensors(commit), stfs_said_count(names)), shown);
}

/* Tensors that became bytes for want of a type, and how they get one. */
static void print_as_bytes(struct json_object *commit, const char *point)
{
	struct json_object *names = stfs_said_member(commit, "as_bytes", json_type_array);
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	size_t shown = shown_of(names);
	char file[STFS_NAME_MAX + 1] = "";

	for (size_t i = 0; i < shown; i++) {
		struct json_object *item = json_object_array_get_idx(names, i);
		struct stfs_str name = stfs_str_slice(json_object_get_string(item),
						      (size_t)json_object_get_string_len(item));

		if (!json_object_is_type(item, json_type_string))
			continue;
		if (!*file)
			stfs_name_encode(name, file);
		stfs_buf_puts(&text, text.len ? ", " : "  ");
		put_quoted(name, &text);
	}
	if (!*file)
		return;
	if (stfs_said_count(names) > shown)
		stfs_buf_printf(&text, " and %zu more", stfs_said_count(names) - shown);
	stfs_buf_printf(&text, " had no type and went in as bytes (U8); a type can be given yet:\n"
			"  echo '{\"dtype\":\"F32\",\"shape\":[2,3]}' > ");
	stfs_escape(stfs_str_from(point), STFS_ESCAPE_LINE, &text);
	stfs_buf_putc(&text, '/');
	stfs_escape(stfs_str_from(file), STFS_ESCAPE_LINE, &text);
	stfs_buf_puts(&text, ".json\n");
	print(&text);
}

void stfs_edits_print_commit(struct json_object *commit, const char *point)
{
	print_names(commit);
	print_as_bytes(commit, point);
}

/* ---- Pending ---- */

void stfs_edits_print_pending(struct json_object *said)
{
	static const struct stfs_column columns[] = {{""}, {""}, {"", .right = true}, {""}};
	struct stfs_table table = STFS_TABLE_INIT(columns);
	struct json_object *items = stfs_said_pending(said);
	size_t shown = shown_of(items);

	table.headless = true;
	table.indent = "  ";
	for (size_t i = 0; i < shown; i++) {
		struct stfs_said_edit edit = stfs_said_edit(items, i);

		stfs_escape(stfs_str_from(edit.change), STFS_ESCAPE_LINE, &table.text);
		stfs_table_cell(&table);
		stfs_edits_put_name(&edit, &table.text);
		stfs_table_cell(&table);
		if (edit.bytes)
			stfs_human_size(edit.bytes, false, &table.text);
		stfs_table_cell(&table);
		if (edit.waits) {
			stfs_buf_puts(&table.text, "waits: ");
			stfs_escape(stfs_str_from(edit.waits), STFS_ESCAPE_LINE, &table.text);
		}
		stfs_table_cell(&table);
	}
	print_table(&table);
	print_rest(stfs_said_pending_count(said), shown);
}

bool stfs_edits_print_refused(struct json_object *said)
{
	struct json_object *list = stfs_said_member(said, "refused", json_type_array);
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;

	for (size_t i = 0; i < stfs_said_count(list); i++) {
		struct json_object *item = json_object_array_get_idx(list, i);
		const char *file = stfs_said_text(item, "file"), *why = stfs_said_text(item, "why");

		if (!file)
			continue;
		stfs_buf_puts(&text, "refused: ");
		stfs_escape(stfs_str_from(file), STFS_ESCAPE_LINE, &text);
		stfs_buf_puts(&text, ": ");
		stfs_escape(stfs_str_from(why ? why : "?"), STFS_ESCAPE_LINE, &text);
		stfs_buf_putc(&text, '\n');
	}
	print(&text);
	return text.len > 0;
}
