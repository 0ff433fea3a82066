/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/cli.h"

#define DAEMON "safetensorsfs"

/*
 * Whether FUSE can be used at all, as far as that can be told beforehand; what the daemon asks too
 * (fs/session.c, check_device), with more advice. The device must be open to the user: fusermount3
 * drops its rights to open it, so that EACCES stands in its way as well. Want of descriptors says
 * nothing of the device.
 */
static bool fuse_is_usable(void)
{
	STFS_AUTO_FD int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

	if (fd >= 0 || errno == EMFILE || errno == ENFILE)
		return true;
	stfs_cli_say("/dev/fuse: %s: %s cannot mount", strerror(errno),
		     errno == EACCES ? "this user" : "this system (a container?)");
	fputs("The same without a mount:\n"
	      "  stfs ls MODEL                           list the tensors\n"
	      "  stfs cat MODEL TENSOR > FILE            a tensor's bytes\n"
	      "  stfs cat --npy -o FILE MODEL TENSOR     a tensor as a NumPy file\n"
	      "  stfs cat --json MODEL TENSOR            its dtype and shape\n"
	      "  stfs info MODEL, stfs check MODEL       metadata; what is wrong\n"
	      "  stfs put, stfs rm, stfs mv, stfs cp     edits, in place\n"
	      "In a container FUSE needs --device /dev/fuse --cap-add SYS_ADMIN.\n", stderr);
	return false;
}

/* The daemon that was installed with us, beside us. Returns only when it cannot be run. */
static void exec_beside(char **argv)
{
	char path[PATH_MAX];
	ssize_t len = readlink("/proc/self/exe", path, sizeof(path) - sizeof(DAEMON));
	char *slash;

	if (len <= 0)
		return;
	path[len] = '\0';
	slash = strrchr(path, '/');
	if (!slash)
		return;
	strcpy(slash + 1, DAEMON); /* fits: room for it was kept above */
	execv(path, argv);
}

static int run(int argc, char **argv)
{
	/* All options are the daemon's, but for this one. */
	if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
		stfs_cli_help(&stfs_verb_mount);
		return STFS_EXIT_OK;
	}
	if (argc < 3)
		return stfs_cli_usage(&stfs_verb_mount, "mount: name a model and a directory");
	if (!fuse_is_usable())
		return STFS_EXIT_FAILED;
	argv[0] = (char[]){DAEMON};
	exec_beside(argv);
	execvp(DAEMON, argv);
	stfs_cli_say("%s: %s: it is neither beside stfs nor in PATH", DAEMON, strerror(errno));
	return STFS_EXIT_FAILED;
}

const struct stfs_verb stfs_verb_mount = {
	.name = "mount",
	.synopsis = "[-o OPTIONS] [-f] ... MODEL DIR",
	.summary = "mount a model as a directory of tensors",
	.help =
		"Runs safetensorsfs(1) with these words; `safetensorsfs --help` lists all its\n"
		"options. In DIR every tensor is a file of its raw bytes with a .json beside it\n"
		"that gives dtype and shape; NAME.npy opens too. cp, mv, rm and all that writes\n"
		"files edit the model. The options of -o that concern that:\n"
		"\n"
		"  rw               edits enter the model (the default); a model that is shared\n"
		"                   (in the hub's cache, hard-linked, read-only) is mounted ro\n"
		"  ro               nothing can be edited\n"
		"  cow              edits stay this mount's own; `stfs save DIR OUT` keeps them\n"
		"  create           MODEL is not there yet: files put into DIR become a new one;\n"
		"                   create,overwrite replaces one that is there\n"
		"  force            write to a shared model all the same\n"
		"  autosync=S       commit S seconds after the last change (2; 0: never),\n"
		"  autosync_max=S   and S seconds after the first at the latest (30; 0: never)\n"
		"  overwrite=staged bytes written over others wait for a commit, too; they go\n"
		"                   straight into the model with direct, the default\n"
		"  readers=ignore   move bytes in place though another program has the model\n"
		"                   open; with spare, the default, it keeps the old file\n"
		"  spool=DIR        where edits wait (the default: beside the model)\n"
		"  spool_limit=SIZE commit when more than that waits\n"
		"\n"
		"  stfs mount model.safetensors m\n"
		"  ls m; cat m/embed.weight.json\n"
		"  python3 -c 'import numpy; print(numpy.load(\"m/embed.weight.npy\").mean())'\n"
		"  mv m/embed.weight m/wte.weight; rm m/*.bias\n"
		"  stfs sync m                what was edited is in the model now\n"
		"  stfs umount m\n"
		"\n"
		"  stfs mount -o create new.safetensors n\n"
		"  cp ~/arrays/*.npy n/ && stfs umount n\n"
		"\n"
		"Where /dev/fuse is missing it says which verbs do the same without a mount.\n",
	.run = run,
};
