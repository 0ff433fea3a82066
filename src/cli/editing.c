/* SPDX-License-Identifier: MIT */
#include "cli/editing.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/escape.h"
#include "cli/human.h"
#include "cli/jsonout.h"
#include "cli/progress.h"
#include "store/rescue.h"

/* ---- Options ---- */

/* Of every editing verb; behind those of the verb itself, whose values are below. */
enum { OPT_FORCE = 2 * STFS_CLI_LONG, OPT_READERS };

#define COMMON_COUNT 7
static const struct option common[COMMON_COUNT] = {
	{"dry-run", no_argument, NULL, 'n'}, {"json", no_argument, NULL, 'j'},
	{"quiet", no_argument, NULL, 'q'},   {"force", no_argument, NULL, OPT_FORCE},
	{"readers", required_argument, NULL, OPT_READERS},
	STFS_CLI_HELP, {0}};

#define OWN_MAX 16

static void join_options(const struct stfs_editor *editor, bool with_common,
			 struct option joined[OWN_MAX + COMMON_COUNT])
{
	size_t count = 0;

	while (editor->options[count].name && count < OWN_MAX) {
		joined[count] = editor->options[count];
		count++;
	}
	if (with_common)
		memcpy(joined + count, common, sizeof(common));
	else
		joined[count] = (struct option){0};
}

static int take_common(struct stfs_editing *editing, int option, char **argv)
{
	switch (option) {
	case 'n':
		editing->dry_run = true;
		editing->flags |= STFS_EDIT_DRY_RUN;
		return -1;
	case 'j': editing->json = true; return -1;
	case 'q': editing->quiet = true; return -1;
	case OPT_FORCE: editing->flags |= STFS_EDIT_FORCE; return -1;
	case OPT_READERS:
		if (strcmp(optarg, "ignore") == 0)
			editing->flags |= STFS_EDIT_IGNORE_READERS;
		else if (strcmp(optarg, "spare") != 0)
			return stfs_cli_usage(editing->editor->verb,
					      "%s: --readers is spare or ignore, not %s",
					      editing->editor->verb->name, optarg);
		return -1;
	default: return stfs_cli_option(editing->editor->verb, option, argv);
	}
}

/* An option in a batch that is none of the verb's. */
static int refuse(struct stfs_editing *editing, const struct stfs_editor *editor, int option,
		  char **argv)
{
	if (option == ':')
		return stfs_editing_usage(editing, editor, "option %s needs an argument",
					  argv[optind - 1]);
	return stfs_editing_usage(editing, editor,
				  "no option %s here (those of all edits together stand behind "
				  "`stfs edit`)", argv[optind - 1]);
}

/* Takes options and leaves the words behind them, from optind on. -1 or the exit code. */
static int parse(struct stfs_editing *editing, const struct stfs_editor *editor, void *request,
		 int argc, char **argv)
{
	struct option joined[OWN_MAX + COMMON_COUNT];
	bool batch = editing->batch != NULL;
	int c, code = -1;

	join_options(editor, !batch, joined);
	optind = 0; /* glibc: begin anew, for another list of words */
	while (code < 0 &&
	       (c = getopt_long(argc, argv, batch ? ":" : ":njqh", joined, NULL)) != -1) {
		if (c >= STFS_CLI_LONG && c < OPT_FORCE)
			code = editor->take(editing, request, c, optarg);
		else
			code = batch ? refuse(editing, editor, c, argv)
				     : take_common(editing, c, argv);
	}
	return code;
}

/* ---- Messages ---- */

/* What stands before a message: the batch's line, or the model. */
static void put_place(const struct stfs_editing *editing, struct stfs_buf *out)
{
	if (editing->batch)
		stfs_buf_printf(out, "%s, line %zu: ", editing->batch, editing->line);
	else if (editing->edit)
		stfs_buf_printf(out, "%s: ", stfs_edit_path(editing->edit));
}

static void say(const struct stfs_editing *editing, const char *what)
{
	STFS_AUTO_BUF struct stfs_buf line = STFS_BUF_INIT;

	put_place(editing, &line);
	stfs_buf_puts(&line, what);
	if (editing->batch)
		stfs_buf_puts(&line, "; nothing was changed");
	if (!stfs_buf_cstr(&line))
		stfs_cli_out_of_memory();
	stfs_cli_say("%s", line.data);
}

__attribute__((format(printf, 2, 0))) static void vsay(const struct stfs_editing *editing,
						       const char *format, va_list args)
{
	STFS_AUTO_BUF struct stfs_buf what = STFS_BUF_INIT;

	stfs_buf_vprintf(&what, format, args);
	if (!stfs_buf_cstr(&what))
		stfs_cli_out_of_memory();
	say(editing, what.data);
}

int stfs_editing_fail(const struct stfs_editing *editing, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsay(editing, format, args);
	va_end(args);
	return STFS_EXIT_FAILED;
}

int stfs_editing_error(const struct stfs_editing *editing, int r, const struct stfs_err *err)
{
	const char *path = editing->edit ? stfs_edit_path(editing->edit) : NULL;
	const char *what = err->message;

	if (r == -ENOMEM)
		stfs_cli_out_of_memory();
	/* Lower layers may begin with the model's name, which we say ourselves. */
	if (path && strncmp(what, path, strlen(path)) == 0 &&
	    strncmp(what + strlen(path), ": ", 2) == 0)
		what += strlen(path) + 2;
	say(editing, *what ? what : strerror(-r));
	return STFS_EXIT_FAILED;
}

int stfs_editing_usage(const struct stfs_editing *editing, const struct stfs_editor *editor,
		       const char *format, ...)
{
	STFS_AUTO_BUF struct stfs_buf what = STFS_BUF_INIT;
	va_list args;

	va_start(args, format);
	stfs_buf_vprintf(&what, format, args);
	va_end(args);
	if (!stfs_buf_cstr(&what))
		stfs_cli_out_of_memory();
	if (!editing->batch)
		return stfs_cli_usage(editing->editor->verb, "%s: %s", editor->verb->name,
				      what.data);
	stfs_editing_fail(editing, "%s: %s", editor->verb->name, what.data);
	return STFS_EXIT_USAGE;
}

int stfs_editing_none(const struct stfs_editing *editing, const struct stfs_tensors *tensors,
		      const char *word)
{
	STFS_CLEANUP(stfs_names_free) struct stfs_names near = {0};
	STFS_AUTO_BUF struct stfs_buf line = STFS_BUF_INIT;
	char quoted[STFS_QUOTED_MAX];

	if (stfs_tensors_near(tensors, word, &near) < 0)
		stfs_cli_out_of_memory();
	if (!tensors->edit)
		stfs_buf_printf(&line, "%s: ", tensors->model->resolved.path);
	stfs_buf_printf(&line, "%s \"%s\"",
			strpbrk(word, "*?[") ? "no tensor matches" : "no tensor",
			stfs_quote(stfs_str_from(word), quoted));
	for (size_t i = 0; i < near.count; i++)
		stfs_buf_printf(&line, "%s\"%s\"", i ? ", " : " (did you mean ",
				stfs_quote(stfs_names_at(&near, i), quoted));
	stfs_buf_puts(&line, near.count ? "?)" : "; `stfs ls` lists them");
	if (!stfs_buf_cstr(&line))
		stfs_cli_out_of_memory();
	if (tensors->edit || editing->batch)
		return stfs_editing_fail(editing, "%s", line.data);
	stfs_cli_say("%s", line.data);
	return STFS_EXIT_FAILED;
}

/* ---- For the verbs ---- */

bool stfs_editing_find(struct stfs_edit *edit, struct stfs_str name,
		       struct stfs_edit_tensor *tensor)
{
	int r = stfs_edit_find(edit, name, tensor);

	if (r == -ENOMEM)
		stfs_cli_out_of_memory();
	return r == 0;
}

void stfs_editing_pattern(struct stfs_patterns *patterns, const char *pattern)
{
	if (stfs_patterns_add(patterns, pattern) < 0)
		stfs_cli_out_of_memory();
}

int stfs_editing_select(struct stfs_editing *editing, struct stfs_patterns *include,
			struct stfs_patterns *exclude, char **words, int count,
			struct stfs_names *names)
{
	const struct stfs_tensors tensors = {.edit = editing->edit};
	int code = STFS_EXIT_OK;

	for (int i = 0; i < count; i++)
		stfs_editing_pattern(include, words[i]);
	if (stfs_tensors_select(&tensors, include, exclude, names) < 0)
		stfs_cli_out_of_memory();
	for (size_t i = 0; i < include->count; i++)
		if (!include->hit[i])
			code = stfs_editing_none(editing, &tensors, include->items[i]);
	return code;
}

/* ---- Running ---- */

/* What can be done about a model that is refused by this message (format/rules.h names the rules).
 */
static const char *remedy(const char *message)
{
	if (strstr(message, "(rule hole)") || strstr(message, "(rule trailing-bytes)"))
		return "; `stfs compact` closes holes";
	if (strstr(message, "(rule truncated)"))
		return "; fetch it again, or copy its complete tensors out with `stfs cp`";
	return "; `stfs check` lists all that is wrong";
}

int stfs_editing_open(struct stfs_editing *editing, const char *path)
{
	struct stfs_err err = STFS_ERR_INIT;
	int r = stfs_edit_open(path, editing->flags, &editing->edit, &err);

	if (r == 0)
		return -1;
	stfs_cli_say("%s%s", err.message,
		     r == -EBADMSG && strstr(err.message, "(rule ") ? remedy(err.message) : "");
	return STFS_EXIT_FAILED;
}

int stfs_editing_create(struct stfs_editing *editing, const char *path)
{
	struct stfs_err err = STFS_ERR_INIT;
	int r = stfs_edit_create(path, editing->flags, &editing->edit, &err);

	if (r == 0)
		return -1;
	stfs_cli_say("%s", err.message);
	return STFS_EXIT_FAILED;
}

/* Bytes that came through a pipe are nobody's but ours: they are kept for when the model can take them. */
static void keep(struct stfs_edit *edit)
{
	struct stfs_err err = STFS_ERR_INIT;

	if (!stfs_edit_needs_rescue(edit))
		return;
	if (stfs_edit_rescue(edit, -1, &err) < 0)
		stfs_cli_say("%s", err.message);
	else
		stfs_cli_say("%s: the edits are kept in a hidden file beside it, .NAME.stfs-rescue: `stfs recover` "
			     "takes them up, and any program can read that file as a model", stfs_edit_path(edit));
}

static int commit(struct stfs_editing *editing, void *request)
{
	struct stfs_edit_result result = {0};
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_cli_progress shown;
	struct stfs_progress progress = stfs_cli_progress_begin(&shown, !editing->quiet);
	sigset_t ending, before;
	int r = 0, code = STFS_EXIT_OK;

	/* Who is asked to end in the middle ends behind it: a model that is half changed is no use to anybody. */
	sigemptyset(&ending);
	sigaddset(&ending, SIGINT);
	sigaddset(&ending, SIGTERM);
	sigaddset(&ending, SIGHUP);
	sigprocmask(SIG_BLOCK, &ending, &before);
	if (stfs_edit_pending(editing->edit))
		r = stfs_edit_commit(editing->edit, &progress, &result, &err);
	stfs_cli_progress_end(&shown);
	if (r < 0) {
		code = stfs_editing_error(editing, r, &err);
		if (!stfs_edit_is_stuck(editing->edit))
			keep(editing->edit);
	} else {
		if (editing->editor->after)
			code = editing->editor->after(editing, request);
		stfs_editing_tell_result(editing, &result);
	}
	stfs_edit_result_free(&result);
	fflush(stdout);
	sigprocmask(SIG_SETMASK, &before, NULL);
	return code;
}

/* Instead of it. */
static int plan(struct stfs_editing *editing, void *request)
{
	int code = editing->editor->after ? editing->editor->after(editing, request) : STFS_EXIT_OK;

	return code == STFS_EXIT_OK ? stfs_editing_tell_plan(editing) : code;
}

static void release(struct stfs_editing *editing)
{
	stfs_edit_close(editing->edit);
	stfs_sources_free(&editing->sources);
	stfs_intake_free(&editing->intake);
	stfs_buf_free(&editing->tally.lines);
	json_object_put(editing->tally.list);
	json_object_put(editing->extra);
}

static int run(struct stfs_editing *editing, void *request, int argc, char **argv)
{
	const struct stfs_editor *editor = editing->editor;
	int code = parse(editing, editor, request, argc, argv), count;
	char **words;

	if (code >= 0)
		return code;
	words = argv + optind;
	count = argc - optind;
	if (editor->open) {
		code = editor->open(editing, request, &words, &count);
	} else if (count == 0) {
		return stfs_cli_usage(editor->verb, "%s: name a model", editor->verb->name);
	} else {
		code = editor->check ? editor->check(editing, request, words + 1, count - 1) : -1;
		if (code < 0)
			code = stfs_editing_open(editing, words[0]);
		words++;
		count--;
	}
	if (code < 0)
		code = editor->stage(editing, request, words, count);
	if (code != STFS_EXIT_OK || !editing->edit)
		return code;
	return editing->dry_run ? plan(editing, request) : commit(editing, request);
}

int stfs_editing_run(const struct stfs_editor *editor, int argc, char **argv)
{
	STFS_CLEANUP(release) struct stfs_editing editing = {.editor = editor};
	void *request = calloc(1, editor->request_size + 1);
	int code;

	if (!request)
		stfs_cli_out_of_memory();
	clock_gettime(CLOCK_MONOTONIC, &editing.began);
	code = run(&editing, request, argc, argv);
	if (editor->release)
		editor->release(request);
	free(request);
	return code;
}

int stfs_editing_stage(struct stfs_editing *editing, const struct stfs_editor *editor, char **words,
		       int count)
{
	void *request = calloc(1, editor->request_size + 1);
	int code;

	if (!request)
		stfs_cli_out_of_memory();
	code = parse(editing, editor, request, count, words);
	if (code < 0 && editor->check)
		code = editor->check(editing, request, words + optind, count - optind);
	if (code < 0)
		code = editor->stage(editing, request, words + optind, count - optind);
	if (editor->release)
		editor->release(request);
	free(request);
	return code;
}
