/* SPDX-License-Identifier: MIT */
#include "base/cleanup.h"
#include "cli/editing.h"
#include "cli/editors.h"

struct request {
	struct stfs_patterns include, exclude;
};

enum { OPT_INCLUDE = STFS_CLI_LONG, OPT_EXCLUDE };

static const struct option options[] = {
	{"include", required_argument, NULL, OPT_INCLUDE},
	{"exclude", required_argument, NULL, OPT_EXCLUDE},
	{0}};

static int take(struct stfs_editing *editing, void *data, int option, char *argument)
{
	struct request *request = data;

	stfs_editing_pattern(option == OPT_INCLUDE ? &request->include : &request->exclude,
			     argument);
	return -1;
}

static void release(void *data)
{
	struct request *request = data;

	stfs_patterns_free(&request->include);
	stfs_patterns_free(&request->exclude);
}

static int check(struct stfs_editing *editing, void *data, char **words, int count)
{
	if (count || ((struct request *)data)->include.count)
		return -1;
	return stfs_editing_usage(editing, &stfs_editor_rm,
				  "say which tensors ('*' for all of them)");
}

static int stage(struct stfs_editing *editing, void *data, char **words, int count)
{
	STFS_CLEANUP(stfs_names_free) struct stfs_names names = {0};
	struct stfs_err err = STFS_ERR_INIT;
	struct request *request = data;
	struct stfs_edit_tensor tensor;
	int r = 0, code;

	code = stfs_editing_select(editing, &request->include, &request->exclude, words, count,
				   &names);
	for (size_t i = 0; code == STFS_EXIT_OK && r == 0 && i < names.count; i++) {
		struct stfs_str name = stfs_names_at(&names, i);

		if (!stfs_editing_find(editing->edit, name, &tensor))
			continue;
		r = stfs_edit_remove(editing->edit, name, &err);
		if (r == 0)
			stfs_editing_did(editing, STFS_CHANGE_REMOVE, name, name, tensor.len);
	}
	return r < 0 ? stfs_editing_error(editing, r, &err) : code;
}

const struct stfs_editor stfs_editor_rm = {
	.verb = &stfs_verb_rm,
	.options = options,
	.request_size = sizeof(struct request),
	.take = take,
	.release = release,
	.check = check,
	.stage = stage,
	.in_batch = true,
};

static int run(int argc, char **argv)
{
	return stfs_editing_run(&stfs_editor_rm, argc, argv);
}

const struct stfs_verb stfs_verb_rm = {
	.name = "rm",
	.synopsis = "[OPTION...] MODEL PATTERN...",
	.summary = "remove tensors",
	.help =
		"      --include GLOB   what matches (the same as a PATTERN)\n"
		"      --exclude GLOB   but not what matches this\n"
		STFS_EDITING_HELP
		"\n"
		"A PATTERN is a tensor's name to the letter, or as `stfs ls` shows it, and then\n"
		"means that tensor alone; or a GLOB, in which * and ? match any character, dots\n"
		"too. One that matches nothing is an error, and nothing is removed. The file\n"
		"shrinks at once and is valid for the official loader afterwards. Of a sharded\n"
		"model shards and index change together.\n"
		"\n"
		"  stfs rm model.safetensors lm_head.weight\n"
		"  stfs rm model.safetensors 'model_ema.*' --dry-run\n"
		"  stfs rm model.safetensors '*.bias' --exclude 'layers.0.*'\n",
	.run = run,
};
