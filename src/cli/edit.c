/* SPDX-License-Identifier: MIT */
/* Several edits in one commit: the lines of a batch, each a verb without its model. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "cli/editing.h"
#include "cli/editors.h"
#include "ops/words.h"

static const struct stfs_editor *const editors[] = {
	&stfs_editor_put, &stfs_editor_rm, &stfs_editor_mv, &stfs_editor_rename, &stfs_editor_cp,
	&stfs_editor_metadata,
};
#define EDITOR_COUNT (sizeof(editors) / sizeof(editors[0]))

struct request {
	const char *batch;
};

enum { OPT_BATCH = STFS_CLI_LONG };

static const struct option options[] = {
	{"batch", required_argument, NULL, OPT_BATCH},
	{0}};

static int take(struct stfs_editing *editing, void *data, int option, char *argument)
{
	((struct request *)data)->batch = argument;
	return -1;
}

static const struct stfs_editor *find_editor(const char *word)
{
	for (size_t i = 0; i < EDITOR_COUNT; i++)
		if (strcmp(editors[i]->verb->name, word) == 0)
			return editors[i];
	return NULL;
}

static int stage_line(struct stfs_editing *editing, struct stfs_str line)
{
	STFS_CLEANUP(stfs_words_free) struct stfs_words words = {0};
	const struct stfs_editor *editor;
	const char *why;
	int r = stfs_words_cut(line, &words, &why);

	if (r == -ENOMEM)
		stfs_cli_out_of_memory();
	if (r < 0)
		return stfs_editing_fail(editing, "%s", why);
	if (!words.count)
		return STFS_EXIT_OK;
	editor = find_editor(words.items[0]);
	if (!editor)
		return stfs_editing_fail(editing,
					 "%s: no such edit; put, rm, mv, rename, cp and metadata "
					 "are",
					 words.items[0]);
	return stfs_editing_stage(editing, editor, words.items, (int)words.count);
}

/* No edit is longer: a value of the metadata that is comes from a file (--set KEY=@FILE). */
#define LINE_MOST (1 << 20)

/* As getline(3), but stops behind LINE_MOST bytes. */
static ssize_t read_line(char **line, size_t *room, FILE *file)
{
	size_t len = 0;
	int c = 0;

	while (len <= LINE_MOST && c != '\n' && (c = getc(file)) != EOF) {
		if (len == *room) {
			*room = *room ? 2 * *room : 256;
			*line = realloc(*line, *room);
			if (!*line)
				stfs_cli_out_of_memory();
		}
		(*line)[len++] = (char)c;
	}
	return len ? (ssize_t)len : -1;
}

static int stage_lines(struct stfs_editing *editing, FILE *file)
{
	STFS_AUTO_FREE char *line = NULL;
	int code = STFS_EXIT_OK;
	size_t room = 0;
	ssize_t len;

	while (code == STFS_EXIT_OK && (len = read_line(&line, &room, file)) >= 0) {
		editing->line++;
		if (len > LINE_MOST)
			return stfs_editing_fail(editing, "the line has more than %d bytes", LINE_MOST);
		len -= len > 0 && line[len - 1] == '\n';
		code = stage_line(editing, stfs_str_slice(line, (size_t)len));
	}
	if (code == STFS_EXIT_OK && ferror(file))
		code = stfs_editing_fail(editing, "%s", strerror(errno));
	/* The words of a line were wrong, those of the command were not. */
	return code == STFS_EXIT_OK ? code : STFS_EXIT_FAILED;
}

static int check(struct stfs_editing *editing, void *data, char **words, int count)
{
	if (count == 0 && ((struct request *)data)->batch)
		return -1;
	return stfs_editing_usage(editing, &stfs_editor_edit,
				  "name a model and a file of edits: --batch FILE");
}

static int stage(struct stfs_editing *editing, void *data, char **words, int count)
{
	const struct request *request = data;
	STFS_AUTO_FILE FILE *file = NULL;
	bool is_stdin;

	is_stdin = strcmp(request->batch, "-") == 0;
	file = is_stdin ? fdopen(dup(STDIN_FILENO), "re") : fopen(request->batch, "re");
	if (!file) {
		stfs_cli_say("%s: %s", request->batch, strerror(errno));
		return STFS_EXIT_FAILED;
	}
	editing->batch = is_stdin ? "standard input" : request->batch;
	count = stage_lines(editing, file);
	editing->batch = NULL;
	return count;
}

const struct stfs_editor stfs_editor_edit = {
	.verb = &stfs_verb_edit,
	.options = options,
	.request_size = sizeof(struct request),
	.take = take,
	.check = check,
	.stage = stage,
};

static int run(int argc, char **argv)
{
	return stfs_editing_run(&stfs_editor_edit, argc, argv);
}

const struct stfs_verb stfs_verb_edit = {
	.name = "edit",
	.synopsis = "--batch FILE [OPTION...] MODEL",
	.summary = "make many edits in one commit",
	.help =
		"      --batch FILE     the edits, one a line (-: standard input)\n"
		STFS_EDITING_HELP
		"\n"
		"A line is an editing verb with its options and words, but without the model and\n"
		"without the options above: put, rm, mv, rename, cp (cp MODEL:GLOB [NAME]; an\n"
		"empty MODEL is the one that is edited) and metadata. Words are quoted as in a\n"
		"shell, # begins a comment. Each line sees what those before it did. All lines\n"
		"take effect together or, when one is wrong, none: the message says which.\n"
		"\n"
		"  stfs edit model.safetensors --batch edits.txt\n"
		"\n"
		"where edits.txt holds\n"
		"\n"
		"  rm 'model_ema.*'                     # drop what only training needs\n"
		"  put lm_head.weight head.npy\n"
		"  cp vae.safetensors:decoder.conv_in.weight first_stage_model.conv_in\n"
		"  rename --sub 's/^transformer\\.h\\./layers./'\n"
		"  metadata --set format=pt --unset 'training notes'\n",
	.run = run,
};
