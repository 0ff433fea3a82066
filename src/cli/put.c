/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "base/cleanup.h"
#include "cli/editors.h"
#include "cli/putting.h"

static const struct option options[] = {STFS_PUTTING_OPTIONS, {0}};

static int take(struct stfs_editing *editing, void *data, int option, char *argument)
{
	return stfs_putting_take(editing, &stfs_editor_put, data, option, argument);
}

static void release(void *data)
{
	stfs_shape_free(&((struct stfs_putting *)data)->shape);
}

/* NAME FILE: the name may be written as `ls` shows it when the tensor is there. */
static int put_one(struct stfs_editing *editing, const struct stfs_putting *putting,
		   const char *word, const char *path)
{
	const struct stfs_tensors tensors = {.edit = editing->edit};
	STFS_CLEANUP(stfs_names_free) struct stfs_names names = {0};
	struct stfs_str name;
	int r = stfs_tensors_one(&tensors, word, &name);

	if (r == -ENOENT)
		name = stfs_str_from(word);
	if (r == -ENOMEM || stfs_names_add(&names, name) < 0)
		stfs_cli_out_of_memory();
	return stfs_putting_file(editing, putting, stfs_names_at(&names, 0), path);
}

static int check(struct stfs_editing *editing, void *data, char **words, int count)
{
	if (count > 1 || (count == 1 && strchr(words[0], '=')))
		return -1;
	return stfs_editing_usage(editing, &stfs_editor_put,
				  "say what to put: NAME FILE, or NAME=FILE...");
}

static int stage(struct stfs_editing *editing, void *data, char **words, int count)
{
	if (count == 2 && (!strchr(words[0], '=') || !strchr(words[1], '=')))
		return put_one(editing, data, words[0], words[1]);
	return stfs_putting_pairs(editing, &stfs_editor_put, data, words, count);
}

const struct stfs_editor stfs_editor_put = {
	.verb = &stfs_verb_put,
	.options = options,
	.request_size = sizeof(struct stfs_putting),
	.take = take,
	.release = release,
	.check = check,
	.stage = stage,
	.in_batch = true,
};

static int run(int argc, char **argv)
{
	return stfs_editing_run(&stfs_editor_put, argc, argv);
}

const struct stfs_verb stfs_verb_put = {
	.name = "put",
	.synopsis = "[OPTION...] MODEL NAME FILE|- | MODEL NAME=FILE...",
	.summary = "add or replace tensors from files",
	.help =
		STFS_PUTTING_HELP
		STFS_EDITING_HELP
		"\n"
		"A file called .npy says itself what it holds (Fortran order is transposed; V2,\n"
		"as bfloat16 is saved, is BF16, or stays what the tensor was). Of raw bytes type\n"
		"and shape come from the options, else from FILE.json (a sidecar, as a mounted\n"
		"model has them), else from the tensor that is replaced, which may get more or\n"
		"fewer rows. - is standard input.\n"
		"\n"
		"A tensor keeps its place in the header. Adding costs the new bytes, not a\n"
		"rewrite of the model. All files of a command go in together or not at all.\n"
		"\n"
		"  stfs put model.safetensors lm_head.weight head.npy\n"
		"  stfs put model.safetensors scale - --dtype F32 --shape [] < scale.raw\n"
		"  stfs put model.safetensors a.weight=a.npy b.weight=b.npy\n"
		"  stfs cat old.safetensors w | stfs put new.safetensors w -\n",
	.run = run,
};
