/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/streams.h"
#include "cli/cli.h"
#include "ops/near.h"

static const struct stfs_verb *const verbs[] = {
	/* looking */
	&stfs_verb_info, &stfs_verb_ls, &stfs_verb_cat, &stfs_verb_check, &stfs_verb_map,
	/* changing */
	&stfs_verb_put, &stfs_verb_rm, &stfs_verb_mv, &stfs_verb_rename, &stfs_verb_cp,
	&stfs_verb_metadata, &stfs_verb_edit, &stfs_verb_create, &stfs_verb_compact,
	&stfs_verb_recover,
	/* other formats */
	&stfs_verb_import_pytorch, &stfs_verb_import_pytorch_inplace, &stfs_verb_export_pytorch,
	/* mounts */
	&stfs_verb_mount, &stfs_verb_umount, &stfs_verb_status, &stfs_verb_sync, &stfs_verb_save,
};
#define VERB_COUNT (sizeof(verbs) / sizeof(verbs[0]))

/* Titles of the overview, each before the verb that begins its group. */
static const struct {
	const struct stfs_verb *first;
	const char *title;
} groups[] = {
	{&stfs_verb_info, "Looking into models"},
	{&stfs_verb_put, "Changing models, in place"},
	{&stfs_verb_import_pytorch, "Other formats"},
	{&stfs_verb_mount, "Mounts"},
};

static const char intro[] =
	"stfs reads and changes models in .safetensors files, whole or sharded, without\n"
	"mounting them, and looks after the mounts of safetensorsfs.\n"
	"\n"
	"usage: stfs VERB [ARGUMENT...]\n";

static const char outro[] =
	"\n"
	"MODEL is a .safetensors file, the .safetensors.index.json of a sharded model,\n"
	"or a folder that holds one of them (a model folder, a snapshot of the hub's\n"
	"cache). Verbs that only look also take a PyTorch checkpoint, which is read\n"
	"without being run. Options may stand before or after it.\n"
	"\n"
	"  stfs help VERB     what a verb does, with examples (also: stfs VERB --help)\n"
	"  stfs --version     the version\n"
	"\n"
	"Exit codes: 0 done, 1 failed, 64 wrong usage. `check` has its own.\n";

static const struct stfs_verb *find_verb(const char *name)
{
	for (size_t i = 0; i < VERB_COUNT; i++)
		if (strcmp(verbs[i]->name, name) == 0)
			return verbs[i];
	return NULL;
}

static void print_overview(FILE *out)
{
	fputs(intro, out);
	for (size_t i = 0; i < VERB_COUNT; i++) {
		for (size_t g = 0; g < sizeof(groups) / sizeof(groups[0]); g++)
			if (groups[g].first == verbs[i])
				fprintf(out, "\n%s\n", groups[g].title);
		fprintf(out, "  %-14s %s\n", verbs[i]->name, verbs[i]->summary);
	}
	fputs(outro, out);
}

static int unknown_verb(const char *name)
{
	STFS_AUTO_BUF struct stfs_buf near = STFS_BUF_INIT;
	const char *list;

	for (size_t i = 0; i < VERB_COUNT; i++) {
		struct stfs_str verb = stfs_str_from(verbs[i]->name);

		if (stfs_near_distance(stfs_str_from(name), verb) <= 1 + (verb.len > 3) ||
		    (*name && stfs_str_starts_with(verb, name)))
			stfs_buf_printf(&near, "%s%s", near.len ? ", " : "", verbs[i]->name);
	}
	list = near.len ? stfs_buf_cstr(&near) : NULL;
	stfs_cli_say("%s: no such verb%s%s%s; `stfs --help` lists them", name,
		     list ? " (did you mean " : "", list ? list : "", list ? "?)" : "");
	return STFS_EXIT_USAGE;
}

static int help(int argc, char **argv)
{
	const struct stfs_verb *verb;

	if (argc < 2) {
		print_overview(stdout);
		return STFS_EXIT_OK;
	}
	verb = find_verb(argv[1]);
	if (!verb)
		return unknown_verb(argv[1]);
	stfs_cli_help(verb);
	return STFS_EXIT_OK;
}

static int run(int argc, char **argv)
{
	const char *called = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0];
	const struct stfs_verb *verb;

	if (strncmp(called, "umount.", 7) == 0)
		return stfs_cli_umount_helper(argc, argv);
	if (argc < 2) {
		print_overview(stderr);
		return STFS_EXIT_USAGE;
	}
	if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
		printf("stfs %s\n", STFS_VERSION);
		return STFS_EXIT_OK;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)
		return help(1, argv);
	if (strcmp(argv[1], "help") == 0)
		return help(argc - 1, argv + 1);
	verb = find_verb(argv[1]);
	return verb ? verb->run(argc - 1, argv + 1) : unknown_verb(argv[1]);
}

/* A result that did not arrive is no success. */
static int finish(int code)
{
	bool failed = ferror(stdout);

	errno = 0;
	if (fflush(stdout) == 0 && !failed)
		return code;
	if (errno == EPIPE)
		return STFS_EXIT_PIPE;
	stfs_cli_say("standard output: %s", errno ? strerror(errno) : "could not be written");
	return STFS_EXIT_FAILED;
}

static void log_line(enum stfs_log_level level, const char *line, void *data)
{
	stfs_cli_say("%s", line);
}

int main(int argc, char **argv)
{
	if (stfs_streams_fill() < 0)
		return STFS_EXIT_FAILED; /* with nowhere to say so */
	stfs_raise_file_limit();
	signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error like any other (EFBIG) */
	/* Only for the width of characters and for patterns; what we write is UTF-8 in any case. */
	if (!setlocale(LC_CTYPE, "") || MB_CUR_MAX == 1)
		setlocale(LC_CTYPE, "C.UTF-8");
	stfs_log_set(log_line, STFS_LOG_WARNING, NULL);
	return finish(run(argc, argv));
}
