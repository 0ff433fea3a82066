/* SPDX-License-Identifier: MIT */
#include "cli/status.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/escape.h"
#include "cli/cli.h"
#include "cli/human.h"
#include "cli/jsonout.h"
#include "cli/table.h"
#include "ops/ask.h"

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
static struct stfs_view view_of(const struct stfs_mount_status *status)
{
	return (struct stfs_view){status->mount, status->said, state_of(status)};
}

const char *stfs_view_state(const struct stfs_view *view)
{
	const char *edits = stfs_said_text(view->status, "state");
	bool well = strcmp(view->state, "fresh") == 0 || strcmp(view->state, "mounted") == 0;

	return well && edits && strcmp(edits, "clean") != 0 ? edits : view->state;
}

const char *stfs_view_model(const struct stfs_view *view)
{
	const char *model = stfs_said_text(view->status, "model");

	return model ? model : view->mount->source;
}

/* ---- All mounts ---- */

static struct json_object *view_json(const struct stfs_view *view)
{
	struct json_object *object = stfs_jsonout_object();

	stfs_jsonout_add_string(object, "mountpoint", view->mount->point);
	stfs_jsonout_add_string(object, "model", stfs_view_model(view));
	stfs_jsonout_add_string(object, "state", view->state);
	stfs_jsonout_add(object, "status", json_object_get(view->status));
	return object;
}

static void add_cell(struct stfs_table *table, const char *text)
{
	stfs_escape(stfs_str_from(text ? text : ""), STFS_ESCAPE_LINE, &table->text);
	stfs_table_cell(table);
}

static void add_row(struct stfs_table *table, const struct stfs_view *view)
{
	add_cell(table, view->mount->point);
	add_cell(table, stfs_view_state(view));
	add_cell(table, stfs_said_text(view->status, "mode"));
	if (stfs_said_member(view->status, "pending", json_type_object))
		stfs_human_count(stfs_said_pending_count(view->status), &table->text);
	stfs_table_cell(table);
	add_cell(table, stfs_view_model(view));
}

/* Asks our mounts and makes views of them: `count` of them, owned. */
static struct stfs_view *look(const struct stfs_mounts *mounts, size_t *count)
{
	size_t room = mounts->count + 1;
	STFS_AUTO_FREE struct stfs_mount_status *statuses = calloc(room, sizeof(*statuses));
	struct stfs_view *views = calloc(room, sizeof(*views));

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
static size_t keep(struct stfs_view *views, size_t count, const char *model)
{
	STFS_AUTO_FREE const char **paths = calloc(count + 1, sizeof(*paths));
	STFS_AUTO_FREE char **resolved = calloc(count + 1, sizeof(*resolved));
	size_t kept = 0;

	for (size_t i = 0; paths && i < count; i++)
		paths[i] = stfs_view_model(&views[i]);
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

static void print_json(const struct stfs_view *views, size_t count)
{
	struct json_object *array = stfs_jsonout_array();

	for (size_t i = 0; i < count; i++)
		stfs_jsonout_append(array, view_json(&views[i]));
	stfs_jsonout_print(array, true, stdout);
}

static void print_table(const struct stfs_view *views, size_t count)
{
	static const struct stfs_column columns[] = {{"mount"}, {"state"}, {"mode"},
						       {"pending", .right = true}, {"model"}};
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
	STFS_AUTO_FREE struct stfs_view *views = look(mounts, &count);

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
	struct stfs_view view;

	if (stfs_mounts_ask(&status, 1) < 0)
		stfs_cli_out_of_memory();
	view = view_of(&status);
	if (json)
		stfs_jsonout_print(view_json(&view), true, stdout);
	else
		stfs_view_tell(&view);
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
		"Without a name: all mounts of safetensorsfs, and how many edits of each are not\n"
		"yet in its model. With a mount point: these edits and why they wait, then what\n"
		"its daemon says of itself (the hidden file .stfs in it), such as files that\n"
		"other programs have changed underneath. With a model: where it is mounted; exit\n"
		"code 1 when it is not. A daemon silent for two seconds \"does not answer\".\n"
		"\n"
		"States: fresh; pending (edits wait for a commit), committing, stuck (a commit\n"
		"stopped half-way: unmount, then `stfs recover`); touched, truncated, replaced,\n"
		"stale (what other programs did to the model); dead (`stfs umount` clears it).\n"
		"\n"
		"  stfs status\n"
		"  stfs status m\n"
		"  stfs status model.safetensors\n",
	.run = run,
};
