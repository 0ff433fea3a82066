/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/escape.h"
#include "cli/cli.h"
#include "cli/edits.h"
#include "cli/human.h"
#include "cli/status.h"
#include "cli/table.h"
#include "ops/leftovers.h"

/* ---- What is not in the model ---- */

/* Whether there was anything to tell. */
static bool tell_edits(const struct stfs_view *view)
{
	uint64_t count = stfs_said_pending_count(view->status);
	STFS_AUTO_BUF struct stfs_buf line = STFS_BUF_INIT;
	bool private = stfs_said_is_private(view->status);

	if (!count)
		return false;
	stfs_human_count(count, &line);
	stfs_buf_printf(&line, count == 1 ? " edit is %s (`stfs " : " edits are %s (`stfs ",
			private ? "this mount's own" : "not yet in the model");
	stfs_buf_puts(&line, private ? "save " : "sync ");
	stfs_escape(stfs_str_from(view->mount->point), STFS_ESCAPE_LINE, &line);
	stfs_buf_printf(&line, "%s %s):", private ? " OUT` keeps" : "` commits",
			count == 1 ? "it" : "them");
	if (!stfs_buf_cstr(&line))
		stfs_cli_out_of_memory();
	puts(line.data);
	stfs_edits_print_pending(view->status);
	return true;
}

/* What stands beside the model and should not. */
static void tell_leftovers(const struct stfs_view *view)
{
	STFS_CLEANUP(stfs_leftovers_free) struct stfs_leftovers found = {0};
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	const char *state = stfs_said_text(view->status, "state");

	if (!view->status || stfs_leftovers_look(stfs_view_model(view), &found) < 0)
		return;
	if (state && strcmp(state, "stuck") == 0) {
		stfs_buf_puts(&text, "A commit stopped half-way: unmount, then `stfs recover ");
		stfs_escape(stfs_str_from(found.model), STFS_ESCAPE_LINE, &text);
		stfs_buf_puts(&text, "` finishes it.\n");
	}
	if (found.rescue) {
		stfs_buf_puts(&text, "Edits that could not be committed wait in ");
		stfs_escape(stfs_str_from(found.rescue), STFS_ESCAPE_LINE, &text);
		stfs_buf_puts(&text, ": unmount, then `stfs recover ");
		stfs_escape(stfs_str_from(found.model), STFS_ESCAPE_LINE, &text);
		stfs_buf_puts(&text, "` takes them up.\n");
	}
	if (!stfs_buf_cstr(&text))
		stfs_cli_out_of_memory();
	fputs(text.data, stdout);
}

/* ---- What the daemon says, field by field ---- */

static void add_line(struct stfs_table *table, const char *key, const char *text)
{
	stfs_escape(stfs_str_from(key), STFS_ESCAPE_LINE, &table->text);
	stfs_table_cell(table);
	stfs_escape(stfs_str_from(text), STFS_ESCAPE_LINE, &table->text);
	stfs_table_cell(table);
}

static void add_words(struct stfs_buf *line, struct json_object *value);

/* "a 1, b 2" for an object, "1, 2" for a list. */
static void add_members(struct stfs_buf *line, struct json_object *value)
{
	bool first = true;

	if (json_object_is_type(value, json_type_object)) {
		json_object_object_foreach(value, key, member) {
			stfs_buf_printf(line, "%s%s ", first ? "" : ", ", key);
			add_words(line, member);
			first = false;
		}
	}
	if (json_object_is_type(value, json_type_array)) {
		for (size_t i = 0; i < json_object_array_length(value); i++) {
			stfs_buf_puts(line, i ? ", " : "");
			add_words(line, json_object_array_get_idx(value, i));
			first = false;
		}
	}
	if (first)
		stfs_buf_puts(line, "none");
}

static void add_words(struct stfs_buf *line, struct json_object *value)
{
	switch (json_object_get_type(value)) {
	case json_type_null: stfs_buf_puts(line, "none"); break;
	case json_type_boolean:
		stfs_buf_puts(line, json_object_get_boolean(value) ? "yes" : "no");
		break;
	case json_type_object:
	case json_type_array: add_members(line, value); break;
	case json_type_double:
	case json_type_int:
	case json_type_string: stfs_buf_puts(line, json_object_get_string(value)); break;
	}
}

/* Adds what was put together in `line`, and empties it. */
static void add_buf(struct stfs_table *table, const char *key, struct stfs_buf *line)
{
	if (!stfs_buf_cstr(line))
		stfs_cli_out_of_memory();
	add_line(table, key, line->data);
	stfs_buf_clear(line);
}

/* A time is a number of seconds since 1970 for programs. */
static void put_time(int64_t seconds, struct stfs_buf *out)
{
	time_t when = (time_t)seconds;
	struct tm local;
	char text[64] = "";

	if (localtime_r(&when, &local))
		strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &local);
	stfs_buf_puts(out, text);
}

static void add_mounted(struct stfs_table *table, struct json_object *status,
			struct json_object *value)
{
	STFS_AUTO_BUF struct stfs_buf line = STFS_BUF_INIT;

	put_time(json_object_get_int64(value), &line);
	add_buf(table, "mounted", &line);
}

static void add_mode(struct stfs_table *table, struct json_object *status, struct json_object *value)
{
	const char *because = stfs_said_text(status, "readonly_because");
	STFS_AUTO_BUF struct stfs_buf line = STFS_BUF_INIT;

	stfs_buf_printf(&line, "%s%s%s", json_object_get_string(value), because ? ": " : "",
			because ? because : "");
	add_buf(table, "mode", &line);
}

static void add_edits(struct stfs_table *table, struct json_object *status,
		      struct json_object *value)
{
	add_line(table, "edits", json_object_get_string(value));
}

static void add_pending(struct stfs_table *table, struct json_object *status,
			struct json_object *value)
{
	STFS_AUTO_BUF struct stfs_buf line = STFS_BUF_INIT;
	uint64_t count = stfs_said_number(value, "count");

	stfs_human_count(count, &line);
	stfs_buf_puts(&line, count == 1 ? " edit" : " edits");
	if (count) {
		stfs_buf_puts(&line, ", ");
		stfs_human_size(stfs_said_number(value, "bytes"), false, &line);
	}
	add_buf(table, "pending", &line);
}

static void add_commit(struct stfs_table *table, struct json_object *status,
		       struct json_object *value)
{
	const char *trigger = stfs_said_text(value, "trigger");
	STFS_AUTO_BUF struct stfs_buf line = STFS_BUF_INIT;

	stfs_buf_printf(&line, "number %" PRIu64 ", ", stfs_said_number(value, "number"));
	put_time((int64_t)stfs_said_number(value, "time"), &line);
	if (trigger)
		stfs_buf_printf(&line, " (%s)", trigger);
	stfs_buf_puts(&line, ": ");
	stfs_edits_put_commit(value, &line);
	add_buf(table, "committed", &line);
}

static void add_no_commit(struct stfs_table *table, struct json_object *status,
			  struct json_object *value)
{
	add_line(table, "committed", "nothing");
}

static void add_error(struct stfs_table *table, struct json_object *status,
		      struct json_object *value)
{
	uint64_t when = stfs_said_number(status, "last_error_time");
	STFS_AUTO_BUF struct stfs_buf line = STFS_BUF_INIT;

	if (when) {
		put_time((int64_t)when, &line);
		stfs_buf_puts(&line, ": ");
	}
	stfs_buf_puts(&line, json_object_get_string(value));
	add_buf(table, "last_error", &line);
}

static void add_spool(struct stfs_table *table, struct json_object *status,
		      struct json_object *value)
{
	const char *folder = stfs_said_text(value, "folder");
	uint64_t limit = stfs_said_number(value, "limit");
	STFS_AUTO_BUF struct stfs_buf line = STFS_BUF_INIT;

	stfs_human_size(stfs_said_number(value, "used"), false, &line);
	if (limit) {
		stfs_buf_puts(&line, " of ");
		stfs_human_size(limit, false, &line);
	}
	if (folder)
		stfs_buf_printf(&line, " in %s", folder);
	add_buf(table, "spool", &line);
}

/* What is better told in words of its own; where `add` is NULL it stands elsewhere, or is null. */
static const struct field {
	const char *key;
	enum json_type type;
	void (*add)(struct stfs_table *table, struct json_object *status,
		    struct json_object *value);
} fields[] = {
	{"mountpoint", json_type_string, NULL}, /* above, as this system sees it */
	{"mounted", json_type_int, add_mounted},
	{"mode", json_type_string, add_mode},
	{"readonly_because", json_type_string, NULL}, /* with the mode */
	{"state", json_type_string, add_edits},
	{"pending", json_type_object, add_pending},
	{"refused", json_type_array, NULL}, /* above */
	{"last_commit", json_type_object, add_commit},
	{"last_commit", json_type_null, add_no_commit},
	{"last_error", json_type_string, add_error},
	{"last_error_time", json_type_int, NULL}, /* with the error */
	{"spool", json_type_object, add_spool},
};

static const struct field *find_field(const char *key, struct json_object *value)
{
	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
		if (strcmp(fields[i].key, key) == 0 &&
		    (json_object_is_type(value, fields[i].type) || (!value && !fields[i].add)))
			return &fields[i];
	return NULL;
}

/* A line; of a list of objects (files) a line an element. */
static void add_any(struct stfs_table *table, const char *key, struct json_object *value)
{
	STFS_AUTO_BUF struct stfs_buf line = STFS_BUF_INIT;
	bool list = json_object_is_type(value, json_type_array) && json_object_array_length(value);

	for (size_t i = 0; i < (list ? json_object_array_length(value) : 1); i++) {
		add_words(&line, list ? json_object_array_get_idx(value, i) : value);
		add_buf(table, i ? "" : key, &line);
	}
}

/* Whatever the daemon says, in its order, for fields are added over time. */
static void add_fields(struct stfs_table *table, struct json_object *status)
{
	json_object_object_foreach(status, key, value) {
		const struct field *field = find_field(key, value);

		if (!field)
			add_any(table, key, value);
		else if (field->add)
			field->add(table, status, value);
	}
}

void stfs_view_tell(const struct stfs_view *view)
{
	static const struct stfs_column columns[] = {{""}, {""}};
	struct stfs_table table = STFS_TABLE_INIT(columns);
	bool told = tell_edits(view);

	if (stfs_edits_print_refused(view->status) || told)
		putchar('\n');
	table.headless = true;
	add_line(&table, "mount", view->mount->point);
	add_line(&table, "state", stfs_view_state(view));
	if (view->status)
		add_fields(&table, view->status);
	else
		add_line(&table, "model", view->mount->source);
	if (stfs_table_print(&table, 0, stdout) < 0)
		stfs_cli_out_of_memory();
	tell_leftovers(view);
	if (strcmp(view->state, "dead") == 0)
		puts("Its daemon has ended; `stfs umount` clears the mount.");
	if (strcmp(view->state, "does not answer") == 0)
		puts("Its daemon may be stopped, or its disk hang; `stfs umount -l` detaches the "
		     "mount.");
}
