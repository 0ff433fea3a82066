/* SPDX-License-Identifier: MIT */
#include "base/cleanup.h"
#include <errno.h>

#include "cli/editing.h"
#include "cli/editors.h"

struct request {
	bool replace;
};

enum { OPT_REPLACE = STFS_CLI_LONG };

static const struct option options[] = {
	{"replace", no_argument, NULL, OPT_REPLACE},
	{0}};

static int take(struct stfs_editing *editing, void *data, int option, char *argument)
{
	((struct request *)data)->replace = true;
	return -1;
}

/* `from` is the tensor to be renamed. */
static int move(struct stfs_editing *editing, const struct request *request, struct stfs_str from,
		struct stfs_str to)
{
	const struct stfs_edit_pair pair = {.from = from, .to = to};
	struct stfs_err err = STFS_ERR_INIT;
	char quoted[STFS_QUOTED_MAX];
	struct stfs_edit_tensor there;
	uint64_t replaced;
	bool taken;
	int r;

	if (stfs_str_equal(from, to))
		return stfs_editing_fail(editing, "\"%s\" is its name already",
					 stfs_quote(to, quoted));
	taken = stfs_editing_find(editing->edit, to, &there);
	if (taken && !request->replace)
		return stfs_editing_fail(editing,
					 "there is a tensor \"%s\" already; --replace removes "
					 "it",
					 stfs_quote(to, quoted));
	replaced = taken ? there.len : 0;
	r = stfs_edit_rename(editing->edit, &pair, 1, request->replace, &err);
	if (r < 0)
		return stfs_editing_error(editing, r, &err);
	if (taken)
		stfs_editing_did(editing, STFS_CHANGE_REMOVE, to, to, replaced);
	stfs_editing_did(editing, STFS_CHANGE_RENAME, from, to, 0);
	return STFS_EXIT_OK;
}

static int check(struct stfs_editing *editing, void *data, char **words, int count)
{
	return count == 2 ? -1
			  : stfs_editing_usage(editing, &stfs_editor_mv,
					       "name a tensor, and say what it "
					       "is to be called");
}

static int stage(struct stfs_editing *editing, void *data, char **words, int count)
{
	STFS_CLEANUP(stfs_names_free) struct stfs_names names = {0};
	const struct stfs_tensors tensors = {.edit = editing->edit};
	struct stfs_str name;
	int r;

	r = stfs_tensors_one(&tensors, words[0], &name);
	if (r == -ENOENT)
		return stfs_editing_none(editing, &tensors, words[0]);
	if (r < 0 || stfs_names_add(&names, name) < 0)
		stfs_cli_out_of_memory();
	return move(editing, data, stfs_names_at(&names, 0), stfs_str_from(words[1]));
}

const struct stfs_editor stfs_editor_mv = {
	.verb = &stfs_verb_mv,
	.options = options,
	.request_size = sizeof(struct request),
	.take = take,
	.check = check,
	.stage = stage,
	.in_batch = true,
};

static int run(int argc, char **argv)
{
	return stfs_editing_run(&stfs_editor_mv, argc, argv);
}

const struct stfs_verb stfs_verb_mv = {
	.name = "mv",
	.synopsis = "[OPTION...] MODEL OLD NEW",
	.summary = "rename one tensor",
	.help =
		"      --replace        remove the tensor that is called NEW, if there is one\n"
		STFS_EDITING_HELP
		"\n"
		"OLD is a name to the letter, or as `stfs ls` shows it. Only the header is\n"
		"written, whatever the size of the tensor. `stfs rename` does many by a rule,\n"
		"`stfs edit` swaps two names by way of a third.\n"
		"\n"
		"  stfs mv model.safetensors lm_head.weight output.weight\n"
		"  stfs mv model.safetensors head.new head.weight --replace\n",
	.run = run,
};
