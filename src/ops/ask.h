/* SPDX-License-Identifier: MIT */
/*
 * Questions that may never be answered. A system call on a FUSE mount lasts as long as its daemon
 * likes, and one that the daemon has taken up cannot even be killed. So a child process asks, and
 * after a while goes on without us.
 */
#ifndef STFS_OPS_ASK_H
#define STFS_OPS_ASK_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/buf.h"

/* How long a mount may take to answer. */
#define STFS_ASK_PATIENCE_MS 2000

struct stfs_ask {
	/*
	 * Asked in the child; writes its answer to descriptor `out` and returns 0 or -errno. It has
	 * no other descriptors than those it opens.
	 */
	int (*question)(const void *data, int out);
	const void *data;       /* borrowed */
	struct stfs_buf answer; /* the caller frees it */
	int result; /* what the question returned; -ETIMEDOUT; -errno when it could not be asked */
	/* While it is asked: */
	pid_t child;
	int fd;
};

/*
 * Asks all of them at a time and returns when each has a result, after STFS_ASK_PATIENCE_MS at the
 * latest. For programs of one thread only: the children allocate memory.
 */
void stfs_ask(struct stfs_ask *asks, size_t count);

/*
 * One question that may rightly take long. It is asked until it has a result: stfs_ask_wait() waits
 * for that, `ms` at most (-1: without end), and says whether it is there. Other questions may be asked
 * meanwhile.
 */
void stfs_ask_begin(struct stfs_ask *ask);
bool stfs_ask_wait(struct stfs_ask *ask, int ms);

/* realpath(3) of a path that may lead into a mount: malloc'ed. 0 or -errno, -ETIMEDOUT too. */
int stfs_ask_realpath(const char *path, char **resolved);
/* The same of many at a time; NULL where it failed. 0 or -ENOMEM: then `resolved` holds nothing. */
int stfs_ask_realpaths(const char *const *paths, char **resolved, size_t count);

#endif
