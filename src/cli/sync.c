/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/cleanup.h"
#include "base/escape.h"
#include "cli/cli.h"
#include "cli/edits.h"
#include "cli/jsonout.h"
#include "cli/waiting.h"
#include "ops/mounts.h"
#include "ops/sync.h"

struct request {
	bool json, quiet;
	struct json_object *list; /* owned: what is said of each mount, with --json */
};

/* What came of one mount. */
struct outcome {
	const char *dir;           /* borrowed: as it was called */
	const struct stfs_mount *mount; /* borrowed; NULL when it is none of ours */
	struct json_object *before, *after; /* owned; NULL when nothing was said */
	bool asked; /* to commit */
	int r;
	struct stfs_err err; /* for a negative `r` */
};

static bool is_read_only(struct json_object *said)
{
	const char *mode = stfs_said_text(said, "mode");

	return mode && strcmp(mode, "ro") == 0;
}

/* ---- Doing it ---- */

/* Why fsync(2) failed. */
static int explain(struct outcome *outcome, int r)
{
	const char *point = outcome->mount->point, *last;

	if (r == -ENOTCONN)
		return stfs_err_set(&outcome->err, r, STFS_NO_POSITION, "%s: its daemon ended while "
				    "it was to commit; `stfs umount %s` clears the mount, and "
				    "`stfs recover` finishes what it had begun", point, point);
	if (r == -EINVAL)
		return stfs_err_set(&outcome->err, r, STFS_NO_POSITION, "%s: some edits cannot go "
				    "into the model as they are; all others are committed", point);
	last = stfs_said_text(outcome->after, "last_error");
	return stfs_err_set(&outcome->err, r, STFS_NO_POSITION, "%s: not committed: %s%s%s%s", point,
			    strerror(-r), last ? " (" : "", last ? last : "", last ? ")" : "");
}

/* Of a mount whose edits stay its own. */
static int refuse_private(struct outcome *outcome)
{
	if (!stfs_said_pending_count(outcome->before))
		return 0;
	return stfs_err_set(&outcome->err, -EROFS, STFS_NO_POSITION, "%s: mounted with -o cow: its "
			    "edits do not go into the model; `stfs save %s OUT` keeps them in a new "
			    "one", outcome->mount->point, outcome->mount->point);
}

static void commit(struct outcome *outcome, bool quiet)
{
	struct stfs_mount_status now = {.mount = outcome->mount};
	struct stfs_waiting waiting = {.point = outcome->mount->point};
	struct stfs_sync_watcher watcher = {0};

	if (is_read_only(outcome->before))
		return;
	if (stfs_said_is_private(outcome->before)) {
		outcome->r = refuse_private(outcome);
		return;
	}
	if (!quiet)
		watcher = stfs_waiting_watcher(&waiting);
	outcome->asked = true;
	outcome->r = stfs_sync_run(outcome->mount, &watcher);
	if (stfs_mounts_ask(&now, 1) < 0)
		stfs_cli_out_of_memory();
	outcome->after = now.said;
	if (outcome->r < 0)
		outcome->r = explain(outcome, outcome->r);
}

static void sync_one(const struct stfs_mounts *mounts, bool quiet, struct outcome *outcome)
{
	outcome->r = stfs_mounts_find_ours(mounts, outcome->dir, &outcome->mount, &outcome->err);
	if (outcome->r < 0)
		outcome->mount = NULL;
	else
		outcome->r = stfs_mount_ask(outcome->mount, &outcome->before, &outcome->err);
	if (outcome->r == 0)
		commit(outcome, quiet);
}

/* ---- For a person ---- */

/* "m: TEXT" */
static void print_line(const struct outcome *outcome, struct stfs_str text)
{
	STFS_AUTO_BUF struct stfs_buf line = STFS_BUF_INIT;

	stfs_escape(stfs_str_from(outcome->dir), STFS_ESCAPE_LINE, &line);
	stfs_buf_puts(&line, ": ");
	stfs_buf_add_str(&line, text);
	if (!stfs_buf_cstr(&line))
		stfs_cli_out_of_memory();
	puts(line.data);
}

static void tell_commit(const struct outcome *outcome)
{
	struct stfs_sync_result result = stfs_sync_compare(outcome->before, outcome->after);
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;

	if (!result.commit) {
		if (outcome->r == 0)
			print_line(outcome, stfs_str_from(outcome->after ? "nothing to commit"
									 : "committed"));
		return;
	}
	stfs_buf_puts(&text, "committed ");
	stfs_edits_put_commit(result.commit, &text);
	if (result.commits > 1)
		stfs_buf_printf(&text, ", in the last of %" PRIu64 " commits", result.commits);
	print_line(outcome, stfs_buf_str(&text));
	stfs_edits_print_commit(result.commit, outcome->dir);
}

/* Edits that were left out, and what for. On stderr when that is a failure. */
static void tell_waiting(const struct outcome *outcome)
{
	struct json_object *items = stfs_said_pending(outcome->after);
	bool unfit = false;

	for (size_t i = 0; i < stfs_said_count(items); i++) {
		struct stfs_said_edit edit = stfs_said_edit(items, i);
		STFS_AUTO_BUF struct stfs_buf name = STFS_BUF_INIT;

		if (!edit.waits)
			continue;
		stfs_edits_put_name(&edit, &name);
		if (!stfs_buf_cstr(&name))
			stfs_cli_out_of_memory();
		unfit |= stfs_said_is_unfit(&edit);
		if (outcome->r < 0)
			stfs_cli_say("%s: %s (%s) waits: %s", outcome->dir, name.data, edit.change,
				     edit.waits);
		else
			printf("  left out: %s (%s)\n", name.data, edit.waits);
	}
	if (outcome->r < 0 && unfit)
		stfs_cli_say("%s: write such a file whole again, or its type into NAME.json, and "
			     "sync again; unmounting puts what still waits into the model as bytes "
			     "(U8)", outcome->dir);
}

static void tell(const struct outcome *outcome, bool quiet)
{
	const char *because = stfs_said_text(outcome->before, "readonly_because");
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;

	if (outcome->asked && !quiet && (outcome->r == 0 || outcome->r == -EINVAL))
		tell_commit(outcome);
	if (outcome->r < 0)
		stfs_cli_say("%s", outcome->err.message);
	if (outcome->asked && (outcome->r == -EINVAL || (outcome->r == 0 && !quiet)))
		tell_waiting(outcome);
	if (outcome->asked || outcome->r < 0 || quiet)
		return;
	if (!is_read_only(outcome->before)) {
		print_line(outcome, stfs_str_from("nothing was edited (mounted with -o cow)"));
		return;
	}
	stfs_buf_puts(&text, "mounted read-only, nothing to commit");
	if (because) {
		stfs_buf_puts(&text, " (");
		stfs_escape(stfs_str_from(because), STFS_ESCAPE_LINE, &text);
		stfs_buf_puts(&text, ")");
	}
	print_line(outcome, stfs_buf_str(&text));
}

/* ---- For programs ---- */

static struct json_object *waiting_json(struct json_object *said)
{
	struct json_object *items = stfs_said_pending(said), *list = stfs_jsonout_array();

	for (size_t i = 0; i < stfs_said_count(items); i++)
		if (stfs_said_edit(items, i).waits)
			stfs_jsonout_append(list,
					    json_object_get(json_object_array_get_idx(items, i)));
	return list;
}

static struct json_object *outcome_json(const struct outcome *outcome)
{
	struct stfs_sync_result result = {0};
	struct json_object *object = stfs_jsonout_object();
	const char *mode = stfs_said_text(outcome->before, "mode");

	if (outcome->asked)
		result = stfs_sync_compare(outcome->before, outcome->after);
	stfs_jsonout_add_string(object, "mountpoint",
				outcome->mount ? outcome->mount->point : outcome->dir);
	if (mode)
		stfs_jsonout_add_string(object, "mode", mode);
	else
		stfs_jsonout_add(object, "mode", NULL);
	stfs_jsonout_add_number(object, "commits", result.commits);
	stfs_jsonout_add(object, "commit", json_object_get(result.commit));
	stfs_jsonout_add(object, "waiting", waiting_json(outcome->after));
	if (outcome->r < 0)
		stfs_jsonout_add_string(object, "error", outcome->err.message);
	else
		stfs_jsonout_add(object, "error", NULL);
	return object;
}

/* ---- The verb ---- */

static int sync_all(struct request *request, char **dirs, int count)
{
	STFS_CLEANUP(stfs_mounts_free) struct stfs_mounts mounts = {0};
	int r = stfs_mounts_read(&mounts), code = STFS_EXIT_OK;

	if (r < 0) {
		stfs_cli_say("/proc/self/mountinfo: %s", strerror(-r));
		return STFS_EXIT_FAILED;
	}
	for (int i = 0; i < count; i++) {
		struct outcome outcome = {.dir = dirs[i], .err = STFS_ERR_INIT};

		sync_one(&mounts, request->quiet || request->json, &outcome);
		if (request->json)
			stfs_jsonout_append(request->list, outcome_json(&outcome));
		else
			tell(&outcome, request->quiet);
		if (outcome.r < 0)
			code = STFS_EXIT_FAILED;
		json_object_put(outcome.before);
		json_object_put(outcome.after);
	}
	return code;
}

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		{"json", no_argument, NULL, 'j'}, {"quiet", no_argument, NULL, 'q'},
		STFS_CLI_HELP, {0}};
	struct request request = {0};
	int c, code;

	while ((c = getopt_long(argc, argv, ":jqh", options, NULL)) != -1) {
		switch (c) {
		case 'j': request.json = true; break;
		case 'q': request.quiet = true; break;
		default: return stfs_cli_option(&stfs_verb_sync, c, argv);
		}
	}
	if (optind == argc)
		return stfs_cli_usage(&stfs_verb_sync, "sync: name a mount point");
	request.list = stfs_jsonout_array();
	code = sync_all(&request, argv + optind, argc - optind);
	if (request.json && argc - optind == 1)
		stfs_jsonout_print(json_object_get(json_object_array_get_idx(request.list, 0)), true,
				   stdout);
	else if (request.json)
		stfs_jsonout_print(json_object_get(request.list), true, stdout);
	json_object_put(request.list);
	return code;
}

const struct stfs_verb stfs_verb_sync = {
	.name = "sync",
	.synopsis = "[-j] [-q] MOUNT...",
	.summary = "commit what was edited in a mount, and say what that was",
	.help =
		"  -j, --json    for programs: what was committed, what was left out, and why; an\n"
		"                array for several mounts\n"
		"  -q, --quiet   say nothing when all is well\n"
		"\n"
		"Waits until all that was edited in the mounted directory is in the model, as\n"
		"fsync(2) of the directory (`sync DIR`) does too; `sync -f DIR` and a plain\n"
		"`sync` do not. A new file without a type goes in as bytes, U8 [n]. A file that\n"
		"fits neither its type nor whole rows of it is left out and named with the\n"
		"reason; all else is committed, and the exit code is 1. Files that are still open\n"
		"for writing are left out too, which is no failure; and a mount that is read-only\n"
		"has nothing to commit. On a terminal it shows how far a long commit has come.\n"
		"\n"
		"  cp head.bin m/lm_head.weight\n"
		"  rm m/lm_head.bias\n"
		"  stfs sync m\n"
		"  stfs status m              what is not committed yet\n",
	.run = run,
};
