/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "cli/editing.h"
#include "cli/editors.h"
#include "ops/rename.h"

/* Names that collide: so many are told. */
#define TAKEN_SHOWN 10

struct request {
	struct stfs_renaming renaming;
	struct stfs_patterns include, exclude;
};

enum { OPT_SUB = STFS_CLI_LONG, OPT_PREFIX, OPT_INCLUDE, OPT_EXCLUDE };

static const struct option options[] = {
	{"sub", required_argument, NULL, OPT_SUB},
	{"prefix", required_argument, NULL, OPT_PREFIX},
	{"include", required_argument, NULL, OPT_INCLUDE},
	{"exclude", required_argument, NULL, OPT_EXCLUDE},
	{0}};

static int take(struct stfs_editing *editing, void *data, int option, char *argument)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct request *request = data;
	int r = 0;

	switch (option) {
	case OPT_SUB: r = stfs_renaming_sub(&request->renaming, argument, &err); break;
	case OPT_PREFIX: r = stfs_renaming_prefix(&request->renaming, argument, &err); break;
	case OPT_INCLUDE: stfs_editing_pattern(&request->include, argument); break;
	case OPT_EXCLUDE: stfs_editing_pattern(&request->exclude, argument); break;
	}
	if (r == -ENOMEM)
		stfs_cli_out_of_memory();
	return r < 0 ? stfs_editing_usage(editing, &stfs_editor_rename, "--%s %s",
					  option == OPT_SUB ? "sub" : "prefix", err.message) : -1;
}

static void release(void *data)
{
	struct request *request = data;

	stfs_renaming_free(&request->renaming);
	stfs_patterns_free(&request->include);
	stfs_patterns_free(&request->exclude);
}

/* All of them at once, so that a rule is mended once. */
static int tell_taken(struct stfs_editing *editing, const struct stfs_names *taken)
{
	STFS_AUTO_BUF struct stfs_buf list = STFS_BUF_INIT;
	char quoted[STFS_QUOTED_MAX];

	for (size_t i = 0; i < taken->count && i < TAKEN_SHOWN; i++)
		stfs_buf_printf(&list, "%s\"%s\"", i ? ", " : "",
				stfs_quote(stfs_names_at(taken, i), quoted));
	if (taken->count > TAKEN_SHOWN)
		stfs_buf_printf(&list, " and %zu more", taken->count - TAKEN_SHOWN);
	if (!stfs_buf_cstr(&list))
		stfs_cli_out_of_memory();
	return stfs_editing_fail(
		editing, "%s would be the name of two tensors; nothing was renamed", list.data);
}

static int apply(struct stfs_editing *editing, const struct stfs_names *from,
		 const struct stfs_names *to)
{
	struct stfs_edit_pair *pairs = calloc(from->count + 1, sizeof(*pairs));
	struct stfs_err err = STFS_ERR_INIT;
	int r;

	if (!pairs)
		stfs_cli_out_of_memory();
	for (size_t i = 0; i < from->count; i++) {
		pairs[i].from = stfs_names_at(from, i);
		pairs[i].to = stfs_names_at(to, i);
	}
	r = stfs_edit_rename(editing->edit, pairs, from->count, false, &err);
	for (size_t i = 0; r == 0 && i < from->count; i++)
		stfs_editing_did(editing, STFS_CHANGE_RENAME, pairs[i].from, pairs[i].to, 0);
	free(pairs);
	return r < 0 ? stfs_editing_error(editing, r, &err) : STFS_EXIT_OK;
}

static int check(struct stfs_editing *editing, void *data, char **words, int count)
{
	if (((struct request *)data)->renaming.count)
		return -1;
	return stfs_editing_usage(editing, &stfs_editor_rename,
				  "say how: --sub s/REGEX/REPLACEMENT/ or --prefix OLD=NEW");
}

static int stage(struct stfs_editing *editing, void *data, char **words, int count)
{
	STFS_CLEANUP(stfs_names_free)
	struct stfs_names chosen = {0},
			  from = {0}, to = {0}, taken = {0};
	struct request *request = data;
	int code = stfs_editing_select(editing, &request->include, &request->exclude, words, count,
				       &chosen);

	if (code != STFS_EXIT_OK)
		return code;
	if (stfs_renaming_plan(editing->edit, &request->renaming, &chosen, &from, &to, &taken) < 0)
		stfs_cli_out_of_memory();
	if (taken.count)
		return tell_taken(editing, &taken);
	if (!from.count)
		return stfs_editing_fail(editing, "no name is changed by that (of %zu looked at)",
					 chosen.count);
	return apply(editing, &from, &to);
}

const struct stfs_editor stfs_editor_rename = {
	.verb = &stfs_verb_rename,
	.options = options,
	.request_size = sizeof(struct request),
	.take = take,
	.release = release,
	.check = check,
	.stage = stage,
	.in_batch = true,
	.tells_names = true,
};

static int run(int argc, char **argv)
{
	return stfs_editing_run(&stfs_editor_rename, argc, argv);
}

const struct stfs_verb stfs_verb_rename = {
	.name = "rename",
	.synopsis = "--sub s/REGEX/NEW/[gi] [OPTION...] MODEL [PATTERN...]",
	.summary = "rename tensors by a rule",
	.help =
		"      --sub s/REGEX/NEW/[gi]  as in sed -E: NEW may hold & (the match) and \\1\n"
		"                       to \\9 (its groups in parentheses); g: every match in a\n"
		"                       name, i: whatever the case; any character may stand for /\n"
		"      --prefix OLD=NEW  names that begin with OLD begin with NEW instead\n"
		"      --include GLOB   only what matches (the same as a PATTERN)\n"
		"      --exclude GLOB   but not what matches this\n"
		STFS_EDITING_HELP
		"\n"
		"Several rules apply in their order, each to what the last one made. All names\n"
		"change at once, so that they may be swapped; if two tensors would get the same\n"
		"name, all such names are told and nothing is renamed. Only headers are written.\n"
		"\n"
		"  stfs rename model.safetensors --prefix model.diffusion_model.=unet. -n\n"
		"  stfs rename model.safetensors --sub 's/^(layers)\\.([0-9]+)/h.\\2/'\n"
		"  stfs rename model.safetensors --sub 's|_|.|g' 'encoder.*'\n",
	.run = run,
};
