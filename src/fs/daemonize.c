/* SPDX-License-Identifier: MIT */
#include "fs/daemonize.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"

/* FUSE_SUPER_MAGIC of linux/magic.h, which older headers lack. */
#define FUSE_MAGIC 0x65735546
/* As mount(8) has it. */
#define EXIT_MOUNT_FAILED 32

/* In the parent: exits as the child says. */
static void wait_for(pid_t child, int fd, const char *mountpoint)
{
	struct statfs st;
	char byte;
	ssize_t got;
	int status;

	do
		got = read(fd, &byte, 1);
	while (got < 0 && errno == EINTR);
	if (got == 1) {
		/* The request waits in the kernel until INIT has been answered: then it is up. */
		errno = 0;
		if (statfs(mountpoint, &st) == 0 && st.f_type == FUSE_MAGIC)
			_exit(0);
		fprintf(stderr, "safetensorsfs: %s: mounted, but %s\n", mountpoint,
			errno ? strerror(errno) : "something else stands there now");
		_exit(EXIT_MOUNT_FAILED);
	}
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status) && WEXITSTATUS(status))
		_exit(WEXITSTATUS(status)); /* it has said why */
	if (WIFSIGNALED(status))
		fprintf(stderr, "safetensorsfs: the daemon was killed by signal %d\n", WTERMSIG(status));
	else
		fprintf(stderr, "safetensorsfs: %s: unmounted before it was ready\n", mountpoint);
	_exit(EXIT_MOUNT_FAILED);
}

int stfs_daemonize(const char *mountpoint, int *ready_fd)
{
	/* From the root down: "." would stay in the folder below the mount. */
	STFS_AUTO_FREE char *where = realpath(mountpoint, NULL);
	int ends[2];
	pid_t child;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	child = fork();
	if (child < 0)
		return -errno;
	if (child > 0) {
		close(ends[1]);
		wait_for(child, ends[0], where ? where : mountpoint);
	}
	close(ends[0]);
	*ready_fd = ends[1];
	return setsid() < 0 ? -errno : 0;
}

void stfs_daemon_ready(int ready_fd)
{
	ssize_t written;
	int null;

	if (ready_fd < 0)
		return;
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int fd = 0; null >= 0 && fd < 3; fd++)
		dup2(null, fd);
	if (null > 2)
		close(null);
	/* Keep no folder busy. Everything that is still needed is open or absolute. */
	if (chdir("/") < 0)
		null = -1;
	written = write(ready_fd, "", 1);
	(void)written; /* a parent that is gone needs no answer */
	close(ready_fd);
}
