/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/waiting.h"
#include "ops/unmount.h"

static void log_line(enum stfs_log_level level, const char *line, void *data)
{
	stfs_cli_say("%s", line);
}

/* 0 or the exit code. */
static int unmount(const char *dir, bool lazy, bool quiet)
{
	struct stfs_waiting waiting = {.point = dir, .says_once = true};
	struct stfs_unmounting how = {.lazy = lazy};
	struct stfs_err err = STFS_ERR_INIT;
	int r;

	if (!quiet)
		how.watcher = stfs_waiting_watcher(&waiting);
	r = stfs_unmount(dir, &how, &err);
	if (r < 0 && !quiet)
		stfs_cli_say("%s", err.message);
	return r < 0 ? STFS_EXIT_FAILED : STFS_EXIT_OK;
}

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		{"lazy", no_argument, NULL, 'l'}, {"verbose", no_argument, NULL, 'v'},
		{"quiet", no_argument, NULL, 'q'}, STFS_CLI_HELP, {0}};
	bool lazy = false, quiet = false;
	int c, code = STFS_EXIT_OK;

	while ((c = getopt_long(argc, argv, ":lvqh", options, NULL)) != -1) {
		switch (c) {
		case 'l': lazy = true; break;
		case 'v': stfs_log_set(log_line, STFS_LOG_INFO, NULL); break;
		case 'q':
			quiet = true;
			stfs_log_set(NULL, STFS_LOG_ERROR, NULL);
			break;
		default: return stfs_cli_option(&stfs_verb_umount, c, argv);
		}
	}
	if (optind == argc)
		return stfs_cli_usage(&stfs_verb_umount, "umount: name a mount point");
	for (int i = optind; i < argc; i++)
		code |= unmount(argv[i], lazy, quiet);
	return code;
}

const struct stfs_verb stfs_verb_umount = {
	.name = "umount",
	.synopsis = "[-l] [-v] [-q] DIR...",
	.summary = "commit, unmount, and wait until the daemon has finished",
	.help =
		"  -l, --lazy      detach it now, though programs use it, and do not wait\n"
		"  -v, --verbose   say what is done\n"
		"  -q, --quiet     say nothing, not even why it failed\n"
		"\n"
		"What was edited is committed first, as by `stfs sync`. If that fails, DIR stays\n"
		"mounted, nothing is lost, and the exit code is 1. A file that fits no type goes\n"
		"into the model as bytes, U8 [n], and is named. With --lazy nothing is committed\n"
		"here: the daemon does it when the last program lets go; edits that it cannot\n"
		"commit it keeps in a rescue file beside the model, for `stfs recover MODEL` or\n"
		"the next mount. Where that happened the exit code is 1, and it is said.\n"
		"\n"
		"Works for root and, through fusermount3, for the user who mounted. Clears a\n"
		"mount whose daemon has died (\"Transport endpoint is not connected\"). Touches\n"
		"no mounts but those of safetensorsfs. Plain umount(8) does the same where the\n"
		"helper umount.fuse.safetensorsfs is installed.\n"
		"\n"
		"  stfs umount m\n"
		"  stfs status                what is mounted\n",
	.run = run,
};

/* ---- The helper of umount(8): umount.TYPE DIR [-flnrv] [-N NAMESPACE] [-t TYPE] ---- */

/* The mount namespace to work in: the path of one, or the number of a process in it. 0 or -1. */
static int enter_namespace(const char *name)
{
	STFS_AUTO_FREE char *path = NULL;
	STFS_AUTO_FD int fd = -1;

	if (asprintf(&path, strchr(name, '/') ? "%s" : "/proc/%s/ns/mnt", name) < 0)
		path = NULL;
	fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (fd >= 0 && setns(fd, CLONE_NEWNS) == 0)
		return 0;
	stfs_cli_say("%s: %s", name, strerror(errno));
	return -1;
}

int stfs_cli_umount_helper(int argc, char **argv)
{
	bool lazy = false;
	int c, code = STFS_EXIT_OK;

	while ((c = getopt(argc, argv, ":flnrvN:t:h")) != -1) {
		switch (c) {
		case 'l': lazy = true; break;
		case 'v': stfs_log_set(log_line, STFS_LOG_INFO, NULL); break;
		case 'N':
			if (enter_namespace(optarg) < 0)
				return STFS_EXIT_FAILED;
			break;
		case 'f': /* for servers that do not answer: FUSE aborts by other means */
		case 'n': /* there is no mtab of ours */
		case 'r': /* all mounts that fail to unmount are left as they are */
		case 't': break;
		default:
			fprintf(stderr, "usage: %s DIR [-flnrv] [-N NAMESPACE] [-t TYPE]\n",
				argv[0]);
			return c == 'h' ? STFS_EXIT_OK : STFS_EXIT_USAGE;
		}
	}
	if (optind == argc) {
		stfs_cli_say("umount: no mount point named");
		return STFS_EXIT_USAGE;
	}
	for (int i = optind; i < argc; i++)
		code |= unmount(argv[i], lazy, false);
	return code;
}
