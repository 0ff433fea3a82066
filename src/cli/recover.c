/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/jsonout.h"
#include "store/edit.h"

static const struct {
	const char *name, *sentence;
} words[] = {
	[STFS_RECOVERED_NOTHING] = {"nothing", "nothing to recover"},
	[STFS_RECOVERED_OLD] = {"old",
				"an unfinished commit was taken back: the model is as it was "
				"before it"},
	[STFS_RECOVERED_NEW] = {"new",
				"an interrupted commit was finished: its edits are in the model"},
	[STFS_RECOVERED_RESCUED] = {"rescued", "the edits of a rescue file were committed"},
};

static int recover(const char *path, unsigned flags, bool json, bool quiet)
{
	enum stfs_recovered what = STFS_RECOVERED_NOTHING;
	struct stfs_err err = STFS_ERR_INIT;
	struct json_object *object;

	if (stfs_recover(path, flags, &what, &err) < 0) {
		stfs_cli_say("%s", err.message);
		return STFS_EXIT_FAILED;
	}
	if (json) {
		object = stfs_jsonout_object();
		stfs_jsonout_add_string(object, "model", path);
		stfs_jsonout_add_string(object, "recovered", words[what].name);
		stfs_jsonout_print(object, true, stdout);
	} else if (!quiet) {
		printf("%s\n", words[what].sentence);
	}
	return STFS_EXIT_OK;
}

enum { OPT_FORCE = STFS_CLI_LONG };

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		{"json", no_argument, NULL, 'j'}, {"quiet", no_argument, NULL, 'q'},
		{"force", no_argument, NULL, OPT_FORCE}, STFS_CLI_HELP, {0}};
	bool json = false, quiet = false;
	unsigned flags = 0;
	int c;

	while ((c = getopt_long(argc, argv, ":jqh", options, NULL)) != -1) {
		switch (c) {
		case 'j': json = true; break;
		case 'q': quiet = true; break;
		case OPT_FORCE: flags |= STFS_EDIT_FORCE; break;
		default: return stfs_cli_option(&stfs_verb_recover, c, argv);
		}
	}
	if (argc - optind != 1)
		return stfs_cli_usage(&stfs_verb_recover, "recover: name a model");
	return recover(argv[optind], flags, json, quiet);
}

const struct stfs_verb stfs_verb_recover = {
	.name = "recover",
	.synopsis = "[OPTION...] MODEL",
	.summary = "finish or take back what a crash interrupted",
	.help =
		"  -j, --json    for programs: `recovered` is nothing, old (an unfinished commit\n"
		"                was taken back), new (it was finished) or rescued (the edits of\n"
		"                a rescue file were committed)\n"
		"  -q, --quiet   say nothing when all is well\n"
		"      --force   also a model that is a link into a cache, has other hard links\n"
		"                or is read-only\n"
		"\n"
		"After a crash in the middle of a commit loaders refuse the model. This brings it\n"
		"to exactly the state before the commit or behind it, from the journal beside the\n"
		"model. The editing verbs do it by themselves; those that read never do. Nothing\n"
		"is touched when journal and model do not belong together.\n"
		"\n"
		"  stfs recover model.safetensors\n",
	.run = run,
};
