/* SPDX-License-Identifier: MIT */
#include <stdio.h>

#include "cli/editors.h"
#include "cli/importing.h"
#include "cli/progress.h"

struct request {
	struct stfs_importing importing; /* first: what importing.c takes */
	const char *name;                /* borrowed: what it is to be called afterwards; NULL: as it is */
};

static const struct option options[] = {STFS_IMPORTING_OPTIONS, {0}};

static int take(struct stfs_editing *editing, void *data, int option, char *argument)
{
	struct request *request = data;

	return stfs_importing_take(&request->importing, option, argument);
}

static void release(void *data)
{
	stfs_importing_release(&((struct request *)data)->importing);
}

static int open_file(struct stfs_editing *editing, void *data, char ***words, int *count)
{
	struct request *request = data;
	struct stfs_err err = STFS_ERR_INIT;
	const char *path = (*words)[0];
	uint64_t len;
	int r, fd;

	if (*count < 1 || *count > 2)
		return stfs_cli_usage(&stfs_verb_import_pytorch_inplace, "import-pytorch-inplace: name a checkpoint");
	request->name = *count == 2 ? (*words)[1] : NULL;
	*words += *count;
	*count = 0;
	r = stfs_edit_open_foreign(path, editing->flags, &editing->edit, &err);
	if (r == 0 && request->name)
		r = stfs_edit_check_move(editing->edit, request->name, &err);
	if (r == 0) {
		fd = stfs_edit_foreign_fd(editing->edit, &len);
		r = stfs_import_open_fd(path, fd, len, &request->importing.import, &err);
	}
	if (r == 0)
		return -1;
	stfs_cli_say("%s", err.message);
	return STFS_EXIT_FAILED;
}

/* Nothing of the file is left to hold against a CRC when its bytes have moved: it is done before. */
static int verify(struct stfs_editing *editing, struct stfs_importing *importing)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_cli_progress shown;
	struct stfs_progress progress = stfs_cli_progress_begin(&shown, !editing->quiet);
	int r = stfs_import_verify(importing->import, &progress, &err);

	stfs_cli_progress_end(&shown);
	if (r == 0)
		return STFS_EXIT_OK;
	stfs_cli_say("%s", err.message);
	return STFS_EXIT_FAILED;
}

static int stage(struct stfs_editing *editing, void *data, char **words, int count)
{
	struct request *request = data;
	int code;

	request->importing.in_place = true;
	code = stfs_importing_stage(editing, &request->importing);
	return code == STFS_EXIT_OK && !editing->dry_run ? verify(editing, &request->importing) : code;
}

static int after(struct stfs_editing *editing, void *data)
{
	struct request *request = data;
	struct stfs_err err = STFS_ERR_INIT;

	stfs_importing_after(editing, &request->importing);
	if (editing->dry_run)
		return STFS_EXIT_OK;
	if (request->name && stfs_edit_move(editing->edit, request->name, &err) < 0) {
		stfs_cli_say("%s", err.message);
		return STFS_EXIT_FAILED;
	}
	if (!editing->json && !editing->quiet)
		printf("%s is a safetensors file now%s\n", request->name ? request->name : stfs_edit_path(editing->edit),
		       request->name ? "" : ", under the name that it had");
	return STFS_EXIT_OK;
}

static const struct stfs_editor editor = {
	.verb = &stfs_verb_import_pytorch_inplace,
	.options = options,
	.request_size = sizeof(struct request),
	.take = take,
	.release = release,
	.open = open_file,
	.stage = stage,
	.after = after,
};

static int run(int argc, char **argv)
{
	return stfs_editing_run(&editor, argc, argv);
}

const struct stfs_verb stfs_verb_import_pytorch_inplace = {
	.name = "import-pytorch-inplace",
	.synopsis = "[OPTION...] CHECKPOINT [NEWNAME]",
	.summary = "make a model of a checkpoint's own file",
	.help =
		STFS_IMPORTING_HELP
		STFS_EDITING_HELP
		"\n"
		"The file itself becomes a .safetensors file, of the tensors that `stfs\n"
		"import-pytorch` would write; what else was in it is gone. It keeps its name, or\n"
		"gets NEWNAME at the end. Where there is room a new file takes its place, or\n"
		"shares its blocks; where there is none the tensors slide to their new places\n"
		"within it, and only those that have to be put together need room. CRCs are\n"
		"checked before anything changes. A crash leaves the checkpoint as it was, or,\n"
		"after `stfs recover CHECKPOINT`, the model.\n"
		"\n"
		"  stfs import-pytorch-inplace pytorch_model.bin model.safetensors\n",
	.run = run,
};
