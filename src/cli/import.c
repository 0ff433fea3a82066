/* SPDX-License-Identifier: MIT */
#include <sys/stat.h>

#include "cli/editors.h"
#include "cli/importing.h"

enum { OPT_OVERWRITE = STFS_CLI_LONG };

static const struct option options[] = {
	{"overwrite", no_argument, NULL, OPT_OVERWRITE},
	STFS_IMPORTING_OPTIONS,
	{0}};

static int take(struct stfs_editing *editing, void *data, int option, char *argument)
{
	if (option != OPT_OVERWRITE)
		return stfs_importing_take(data, option, argument);
	editing->flags |= STFS_EDIT_OVERWRITE;
	return -1;
}

static int open_both(struct stfs_editing *editing, void *data, char ***words, int *count)
{
	struct stfs_importing *importing = data;
	struct stfs_err err = STFS_ERR_INIT;
	const char *out = (*words)[1];
	struct stat st;

	if (*count != 2)
		return stfs_cli_usage(&stfs_verb_import_pytorch,
				      "import-pytorch: name a checkpoint, and the model to make of it");
	if (stfs_import_open((*words)[0], &importing->import, &err) < 0) {
		stfs_cli_say("%s", err.message);
		return STFS_EXIT_FAILED;
	}
	if (stat(out, &st) == 0 && stfs_import_is_file(importing->import, &st)) {
		stfs_cli_say("%s: is the checkpoint itself", out);
		return STFS_EXIT_FAILED;
	}
	*words += 2;
	*count = 0;
	return stfs_editing_create(editing, out);
}

static int stage(struct stfs_editing *editing, void *data, char **words, int count)
{
	return stfs_importing_stage(editing, data);
}

static const struct stfs_editor editor = {
	.verb = &stfs_verb_import_pytorch,
	.options = options,
	.request_size = sizeof(struct stfs_importing),
	.take = take,
	.release = stfs_importing_release,
	.open = open_both,
	.stage = stage,
	.after = stfs_importing_after,
};

static int run(int argc, char **argv)
{
	return stfs_editing_run(&editor, argc, argv);
}

const struct stfs_verb stfs_verb_import_pytorch = {
	.name = "import-pytorch",
	.synopsis = "[OPTION...] CHECKPOINT OUT",
	.summary = "make a model of a PyTorch checkpoint",
	.help =
		STFS_IMPORTING_HELP
		"      --overwrite      replace a file that is there\n"
		STFS_EDITING_HELP
		"\n"
		"Nothing of the checkpoint is run: it is read as data, and refused when it wants\n"
		"more (docs/checkpoints.md). Nested dictionaries become names with dots. Tensors\n"
		"are copied as they are, or put together when they are views. Of tied tensors\n"
		"the first is written; __metadata__ tells the others' names. Numbers and texts\n"
		"go to __metadata__. What is left out is listed. Of a checkpoint in parts name\n"
		"the index, pytorch_model.bin.index.json, or the folder: all become one model.\n"
		"\n"
		"  stfs import-pytorch pytorch_model.bin model.safetensors\n"
		"  stfs import-pytorch last.ckpt model.safetensors \\\n"
		"      --only state_dict. --strip-prefix state_dict.\n",
	.run = run,
};
