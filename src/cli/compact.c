/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "cli/editing.h"
#include "cli/editors.h"
#include "cli/progress.h"
#include "ops/punch.h"

struct request {
	bool punch;
};

enum { OPT_PUNCH = STFS_CLI_LONG };

static const struct option options[] = {
	{"punch-zeros", no_argument, NULL, OPT_PUNCH},
	{0}};

static int take(struct stfs_editing *editing, void *data, int option, char *argument)
{
	((struct request *)data)->punch = true;
	return -1;
}

static int open_model(struct stfs_editing *editing, void *data, char ***words, int *count)
{
	if (*count != 1)
		return stfs_cli_usage(&stfs_verb_compact, "compact: name one model");
	editing->flags |= STFS_EDIT_TOLERANT;
	--*count;
	return stfs_editing_open(editing, *(*words)++);
}

static int stage(struct stfs_editing *editing, void *data, char **words, int count)
{
	struct stfs_err err = STFS_ERR_INIT;
	int r = stfs_edit_compact(editing->edit, &err);

	return r < 0 ? stfs_editing_error(editing, r, &err) : STFS_EXIT_OK;
}

/* Behind the commit, when nothing is staged any more and the lock is still held. */
static int punch(struct stfs_editing *editing, void *data)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_cli_progress shown;
	struct stfs_progress progress;
	int r;

	if (!((struct request *)data)->punch)
		return STFS_EXIT_OK;
	progress = stfs_cli_progress_begin(&shown, !editing->quiet);
	r = stfs_punch_zeros(editing->edit, editing->dry_run, &progress, &editing->deallocated,
			     &err);
	stfs_cli_progress_end(&shown);
	editing->punched = true;
	return r < 0 ? stfs_editing_error(editing, r, &err) : STFS_EXIT_OK;
}

const struct stfs_editor stfs_editor_compact = {
	.verb = &stfs_verb_compact,
	.options = options,
	.request_size = sizeof(struct request),
	.take = take,
	.open = open_model,
	.stage = stage,
	.after = punch,
};

static int run(int argc, char **argv)
{
	return stfs_editing_run(&stfs_editor_compact, argc, argv);
}

const struct stfs_verb stfs_verb_compact = {
	.name = "compact",
	.synopsis = "[OPTION...] MODEL",
	.summary = "close holes, align tensors, give back reserved space",
	.help =
		"      --punch-zeros    then deallocate whole blocks of zeros inside tensors,\n"
		"                       which read as before\n"
		STFS_EDITING_HELP
		"\n"
		"Repairs a model that the official loader refuses for holes between tensors or\n"
		"bytes behind the last one. Of a valid one it restores the alignment of every\n"
		"tensor to its element size and cuts the space that the header keeps in reserve\n"
		"for later edits. Only what needs it is moved.\n"
		"\n"
		"  stfs compact model.safetensors --dry-run\n"
		"  stfs compact --punch-zeros pruned.safetensors\n",
	.run = run,
};
