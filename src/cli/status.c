/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/jsonout.h"
#include "cli/table.h"
#include "ops/escape.h"
#include "ops/mounts.h"

/* What is known of one mount. */
struct view {
	const struct stfs_mount *mount; /* borrowed */
	struct json_object *status;     /* owned; NULL when the daemon did not say */
	/* "fresh", or what has become of a file of the model; "dead", "of another user", "does not
	 * answer". */
	const char *state;
};

/* What the daemon says of the model's files: the first that is no longer as it was. */
static const char *files_state(struct json_object *status)
{
	struct json_object *files, *state;

	if (!json_object_object_get_ex(status, "files", &files) ||
	    !json_object_is_type(files, json_type_array))
		return "mounted";
	for (size_t i = 0; i < json_object_array_length(files); i++) {
		if (json_object_object_get_ex(json_object_array_get_idx(files, i), "state", &state) &&
		    json_object_is_type(state, json_type_string) &&
		    strcmp(json_object_get_string(state), "fresh") != 0)
			return json_object_get_string(state);
	}
	return "fresh";
}

static void look(const struct stfs_mount *mount, struct view *view)
{
	int r = stfs_mount_status(mount, &view->status);

	view->mount = mount;
	view->state = r == 0                                 ? files_state(view->status)
		      : r == -ENOTCONN || r == -ECONNABORTED ? "dead"
		      : r == -EACCES || r == -EPERM          ? "of another user"
							     : "does not answer";
}

static void free_view(struct view *view)
{
	json_object_put(view->status);
}

static void free_mounts(struct stfs_mounts *mounts)
{
	stfs_mounts_free(mounts);
}

/* A string that the daemon says, or NULL. */
static const char *said(const struct view *view, const char *key)
{
	struct json_object *value = NULL;

	if (!view->status || !json_object_object_get_ex(view->status, key, &value))
		return NULL;
	return json_object_is_type(value, json_type_string) ? json_object_get_string(value) : NULL;
}

static const char *model_of(const struct view *view)
{
	const char *model = said(view, "model");

	return model ? model : view->mount->source;
}

/* ---- One mount, for a person ---- */

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
	case json_type_boolean: stfs_buf_puts(line, json_object_get_boolean(value) ? "yes" : "no"); break;
	case json_type_object:
	case json_type_array: add_members(line, value); break;
	case json_type_double:
	case json_type_int:
	case json_type_string: stfs_buf_puts(line, json_object_get_string(value)); break;
	}
}

/* A time is a number of seconds since 1970 for programs. */
static void add_time(struct stfs_table *table, const char *key, struct json_object *value)
{
	time_t when = (time_t)json_object_get_int64(value);
	struct tm local;
	char text[64] = "";

	if (localtime_r(&when, &local))
		strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &local);
	add_line(table, key, text);
}

/*
 * Whatever the daemon says, in its order, for fields are added over time: a line each; of a list of
 * objects (files, pending edits) a line an element.
 */
static void add_fields(struct stfs_table *table, struct json_object *status)
{
	STFS_AUTO_BUF struct stfs_buf line = STFS_BUF_INIT;

	json_object_object_foreach(status, key, value) {
		bool list = json_object_is_type(value, json_type_array) && json_object_array_length(value);

		if (strcmp(key, "mountpoint") == 0) /* told already, as this system sees it */
			continue;
		if (strcmp(key, "mounted") == 0 && json_object_is_type(value, json_type_int)) {
			add_time(table, key, value);
			continue;
		}
		for (size_t i = 0; i < (list ? json_object_array_length(value) : 1); i++) {
			stfs_buf_clear(&line);
			add_words(&line, list ? json_object_array_get_idx(value, i) : value);
			if (!stfs_buf_cstr(&line))
				stfs_cli_out_of_memory();
			add_line(table, i ? "" : key, line.data);
		}
	}
}

static void tell(const struct view *view)
{
	static const struct stfs_column columns[] = {{""}, {""}};
	struct stfs_table table = STFS_TABLE_INIT(columns);

	table.headless = true;
	add_line(&table, "mount", view->mount->point);
	add_line(&table, "state", view->state);
	if (view->status)
		add_fields(&table, view->status);
	else
		add_line(&table, "model", view->mount->source);
	if (stfs_table_print(&table, 0, stdout) < 0)
		stfs_cli_out_of_memory();
	if (strcmp(view->state, "dead") == 0)
		puts("Its daemon has ended; `stfs umount` clears the mount.");
}

/* ---- All mounts ---- */

static struct json_object *view_json(struct view *view)
{
	struct json_object *object = stfs_jsonout_object();

	stfs_jsonout_add_string(object, "mountpoint", view->mount->point);
	stfs_jsonout_add_string(object, "model", model_of(view));
	stfs_jsonout_add_string(object, "state", view->state);
	stfs_jsonout_add(object, "status", json_object_get(view->status));
	return object;
}

/* Whether the mount shows this model, by the file that the paths lead to. NULL: any does. */
static bool shows(const struct view *view, const char *model)
{
	STFS_AUTO_FREE char *wanted = model ? realpath(model, NULL) : NULL;
	STFS_AUTO_FREE char *theirs = realpath(model_of(view), NULL);

	return !model || (wanted && theirs && strcmp(wanted, theirs) == 0);
}

static void add_row(struct stfs_table *table, const struct view *view)
{
	const char *mode = said(view, "mode");

	stfs_escape(stfs_str_from(view->mount->point), STFS_ESCAPE_LINE, &table->text);
	stfs_table_cell(table);
	stfs_table_put(table, view->state);
	stfs_escape(stfs_str_from(mode ? mode : ""), STFS_ESCAPE_LINE, &table->text);
	stfs_table_cell(table);
	stfs_escape(stfs_str_from(model_of(view)), STFS_ESCAPE_LINE, &table->text);
	stfs_table_cell(table);
}

/* The mounts of `model`, or all. Returns how many. */
static size_t list(const struct stfs_mounts *mounts, const char *model, bool json)
{
	static const struct stfs_column columns[] = {{"mount"}, {"state"}, {"mode"}, {"model"}};
	struct json_object *array = stfs_jsonout_array();
	struct stfs_table table = STFS_TABLE_INIT(columns);
	size_t count = 0;

	for (size_t i = 0; i < mounts->count; i++) {
		STFS_CLEANUP(free_view) struct view view = {0};

		if (!stfs_mount_is_ours(&mounts->items[i]))
			continue;
		look(&mounts->items[i], &view);
		if (!shows(&view, model))
			continue;
		if (json)
			stfs_jsonout_append(array, view_json(&view));
		else
			add_row(&table, &view);
		count++;
	}
	if (json)
		stfs_jsonout_print(json_object_get(array), true, stdout);
	json_object_put(array);
	if (count && !json && stfs_table_print(&table, 0, stdout) < 0)
		stfs_cli_out_of_memory();
	return count;
}

/* ---- The verb ---- */

static int one(const struct stfs_mounts *mounts, const char *path, bool json)
{
	STFS_AUTO_FREE char *point = stfs_mount_path(path);
	STFS_CLEANUP(free_view) struct view view = {0};
	const struct stfs_mount *mount;

	if (!point) {
		stfs_cli_say("%s: %s", path, strerror(errno));
		return STFS_EXIT_FAILED;
	}
	mount = stfs_mounts_find(mounts, point);
	if (!mount || !stfs_mount_is_ours(mount)) {
		if (list(mounts, path, json) > 0)
			return STFS_EXIT_OK;
		if (!json)
			stfs_cli_say("%s: not mounted", path);
		return STFS_EXIT_FAILED;
	}
	look(mount, &view);
	if (json)
		stfs_jsonout_print(view_json(&view), true, stdout);
	else
		tell(&view);
	return STFS_EXIT_OK;
}

static int run(int argc, char **argv)
{
	static const struct option options[] = {{"json", no_argument, NULL, 'j'}, STFS_CLI_HELP, {0}};
	STFS_CLEANUP(free_mounts) struct stfs_mounts mounts = {0};
	bool json = false;
	int c, r;

	while ((c = getopt_long(argc, argv, ":jh", options, NULL)) != -1) {
		if (c != 'j')
			return stfs_cli_option(&stfs_verb_status, c, argv);
		json = true;
	}
	if (argc - optind > 1)
		return stfs_cli_usage(&stfs_verb_status, "status: name one mount or model, or none");
	r = stfs_mounts_read(&mounts);
	if (r < 0) {
		stfs_cli_say("/proc/self/mountinfo: %s", strerror(-r));
		return STFS_EXIT_FAILED;
	}
	if (optind < argc)
		return one(&mounts, argv[optind], json);
	if (list(&mounts, NULL, json) == 0 && !json)
		puts("nothing is mounted");
	return STFS_EXIT_OK;
}

const struct stfs_verb stfs_verb_status = {
	.name = "status",
	.synopsis = "[--json] [DIR | MODEL]",
	.summary = "what is mounted where, and how a mount is doing",
	.help =
		"  -j, --json   for programs\n"
		"\n"
		"Without a name: all mounts of safetensorsfs. With a mount point: what its daemon\n"
		"says of itself (the hidden file .stfs in it), such as files that other programs\n"
		"have changed underneath. With a model: where it is mounted; exit code 1 when it\n"
		"is not mounted.\n"
		"\n"
		"  stfs status\n"
		"  stfs status m\n"
		"  stfs status model.safetensors\n",
	.run = run,
};
