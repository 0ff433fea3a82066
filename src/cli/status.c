/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/escape.h"
#include "cli/cli.h"
#include "cli/jsonout.h"
#include "cli/table.h"
#include "ops/ask.h"
#include "ops/mounts.h"

/* What is known of one mount. */
struct view {
	const struct stfs_mount *mount; /* borrowed */
	struct json_object *status;     /* owned; NULL when the daemon did not say */
	/* "fresh", or what has become of a file of the model; "mounted" when that is not said;
	 * "dead", "of another user", "does not answer", "unknown". */
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
		if (json_object_object_get_ex(json_object_array_get_idx(files, i), "state",
					      &state) &&
		    json_object_is_type(state, json_type_string) &&
		    strcmp(json_object_get_string(state), "fresh") != 0)
			return json_object_get_string(state);
	}
	return "fresh";
}

static const char *state_of(const struct stfs_mount_status *status)
{
	switch (status->result) {
	case 0: return files_state(status->said);
	case -ENOTCONN: return "dead";
	case -EACCES: return "of another user";
	case -ETIMEDOUT: return "does not answer";
	default: return "unknown"; /* it says no such thing as our daemon would */
	}
}

/* Takes over what the daemon says. */
static struct view view_of(const struct stfs_mount_status *status)
{
	return (struct view){status->mount, status->said, state_of(status)};
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
		bool list = json_object_is_type(value, json_type_array) &&
			    json_object_array_length(value);

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
	if (strcmp(view->state, "does not answer") == 0)
		puts("Its daemon may be stopped, or its disk hang; `stfs umount -l` detaches the "
		     "mount.");
}

/* ---- All mounts ---- */

static struct json_object *view_json(const struct view *view)
{
	struct json_object *object = stfs_jsonout_object();

	stfs_jsonout_add_string(object, "mountpoint", view->mount->point);
	stfs_jsonout_add_string(object, "model", model_of(view));
	stfs_jsonout_add_string(object, "state", view->state);
	stfs_jsonout_add(object, "status", json_object_get(view->status));
	return object;
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

/* Asks our mounts and makes views of them: `count` of them, owned. */
static struct view *look(const struct stfs_mounts *mounts, size_t *count)
{
	size_t room = mounts->count + 1;
	STFS_AUTO_FREE struct stfs_mount_status *statuses = calloc(room, sizeof(*statuses));
	struct view *views = calloc(room, sizeof(*views));

	*count = 0;
	for (size_t i = 0; statuses && i < mounts->count; i++)
		if (stfs_mount_is_ours(&mounts->items[i]))
			statuses[(*count)++].mount = &mounts->items[i];
	if (!statuses || !views || stfs_mounts_ask(statuses, *count) < 0)
		stfs_cli_out_of_memory();
	for (size_t i = 0; i < *count; i++)
		views[i] = view_of(&statuses[i]);
	return views;
}

/*
 * Keeps those that show the model whose resolved path this is. Returns how many. Their paths are
 * what some daemon says: they may lead into mounts that do not answer.
 */
static size_t keep(struct view *views, size_t count, const char *model)
{
	STFS_AUTO_FREE const char **paths = calloc(count + 1, sizeof(*paths));
	STFS_AUTO_FREE char **resolved = calloc(count + 1, sizeof(*resolved));
	size_t kept = 0;

	for (size_t i = 0; paths && i < count; i++)
		paths[i] = model_of(&views[i]);
	if (!paths || !resolved || stfs_ask_realpaths(paths, resolved, count) < 0)
		stfs_cli_out_of_memory();
	for (size_t i = 0; i < count; i++) {
		if (resolved[i] && strcmp(resolved[i], model) == 0)
			views[kept++] = views[i];
		else
			json_object_put(views[i].status);
		free(resolved[i]);
	}
	return kept;
}

static void print_json(const struct view *views, size_t count)
{
	struct json_object *array = stfs_jsonout_array();

	for (size_t i = 0; i < count; i++)
		stfs_jsonout_append(array, view_json(&views[i]));
	stfs_jsonout_print(array, true, stdout);
}

static void print_table(const struct view *views, size_t count)
{
	static const struct stfs_column columns[] = {{"mount"}, {"state"}, {"mode"}, {"model"}};
	struct stfs_table table = STFS_TABLE_INIT(columns);

	for (size_t i = 0; i < count; i++)
		add_row(&table, &views[i]);
	if (count && stfs_table_print(&table, 0, stdout) < 0)
		stfs_cli_out_of_memory();
}

/* The mounts of `model`, a resolved path, or all. Returns how many. */
static size_t list(const struct stfs_mounts *mounts, const char *model, bool json)
{
	size_t count;
	STFS_AUTO_FREE struct view *views = look(mounts, &count);

	if (model)
		count = keep(views, count, model);
	if (json)
		print_json(views, count);
	else
		print_table(views, count);
	for (size_t i = 0; i < count; i++)
		json_object_put(views[i].status);
	return count;
}

/* ---- The verb ---- */

static int one(const struct stfs_mount *mount, bool json)
{
	struct stfs_mount_status status = {.mount = mount};
	struct view view;

	if (stfs_mounts_ask(&status, 1) < 0)
		stfs_cli_out_of_memory();
	view = view_of(&status);
	if (json)
		stfs_jsonout_print(view_json(&view), true, stdout);
	else
		tell(&view);
	json_object_put(view.status);
	return STFS_EXIT_OK;
}

static int named(const struct stfs_mounts *mounts, const char *path, bool json)
{
	STFS_AUTO_FREE char *model = NULL;
	const struct stfs_mount *mount;
	int r = stfs_mounts_find(mounts, path, &mount);

	if (r == 0 && mount && stfs_mount_is_ours(mount))
		return one(mount, json);
	if (r == 0)
		r = stfs_ask_realpath(path, &model);
	if (r < 0) {
		stfs_cli_say("%s: %s", path, strerror(-r));
		return STFS_EXIT_FAILED;
	}
	if (list(mounts, model, json) > 0)
		return STFS_EXIT_OK;
	if (!json)
		stfs_cli_say("%s: not mounted", path);
	return STFS_EXIT_FAILED;
}

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		{"json", no_argument, NULL, 'j'}, STFS_CLI_HELP, {0}};
	STFS_CLEANUP(stfs_mounts_free) struct stfs_mounts mounts = {0};
	bool json = false;
	int c, r;

	while ((c = getopt_long(argc, argv, ":jh", options, NULL)) != -1) {
		if (c != 'j')
			return stfs_cli_option(&stfs_verb_status, c, argv);
		json = true;
	}
	if (argc - optind > 1)
		return stfs_cli_usage(&stfs_verb_status,
				      "status: name one mount or model, or none");
	r = stfs_mounts_read(&mounts);
	if (r < 0) {
		stfs_cli_say("/proc/self/mountinfo: %s", strerror(-r));
		return STFS_EXIT_FAILED;
	}
	if (optind < argc)
		return named(&mounts, argv[optind], json);
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
		"is not mounted. A daemon that says nothing for two seconds \"does not answer\".\n"
		"\n"
		"  stfs status\n"
		"  stfs status m\n"
		"  stfs status model.safetensors\n",
	.run = run,
};
