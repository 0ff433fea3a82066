/* SPDX-License-Identifier: MIT */
#include "ops/ask.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "base/arith.h"
#include "base/cleanup.h"

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/*
 * The child may outlive us, stuck in the kernel: it must keep nothing of ours open, or somebody who
 * reads our output to its end would wait for it.
 */
__attribute__((noreturn)) static void answer(const struct stfs_ask *ask, int out)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	dup2(out, STDOUT_FILENO);
	close(STDIN_FILENO);
	close(STDERR_FILENO);
	syscall(SYS_close_range, STDERR_FILENO + 1, ~0U, 0U);
	_exit(-ask->question(ask->data, STDOUT_FILENO));
}

static int start(struct stfs_ask *ask)
{
	int ends[2], r;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	ask->child = fork();
	r = ask->child < 0 ? -errno : 0;
	if (ask->child == 0)
		answer(ask, ends[1]);
	close(ends[1]);
	if (r < 0)
		close(ends[0]);
	else
		ask->fd = ends[0];
	return r;
}

/* The child has said all: it is collected. */
static int collect(const struct stfs_ask *ask)
{
	int status = 0;

	while (waitpid(ask->child, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) ? -WEXITSTATUS(status) : -EIO;
}

/* Not waited for: the signal may find it where signals do not reach. */
static void give_up(const struct stfs_ask *ask)
{
	kill(ask->child, SIGKILL);
	waitpid(ask->child, NULL, WNOHANG);
}

/* One piece of the answer. 1 when there may be more, 0 when it was the end, -errno. */
static int receive(struct stfs_ask *ask)
{
	char piece[16 * 1024];
	ssize_t got = read(ask->fd, piece, sizeof(piece));

	if (got < 0)
		return errno == EINTR ? 1 : -errno;
	if (got == 0)
		return 0;
	return stfs_buf_add(&ask->answer, piece, (size_t)got) < 0 ? -ENOMEM : 1;
}

static void finish(struct stfs_ask *ask, int r)
{
	close(ask->fd);
	ask->fd = -1;
	if (r < 0)
		give_up(ask);
	ask->result = r < 0 ? r : collect(ask);
}

/* What is still asked, for poll(2), which passes over descriptor -1. How many. */
static size_t list_open(const struct stfs_ask *asks, struct pollfd *polled, size_t count)
{
	size_t open = 0;

	for (size_t i = 0; i < count; i++) {
		polled[i] = (struct pollfd){.fd = asks[i].fd, .events = POLLIN};
		open += asks[i].fd >= 0;
	}
	return open;
}

/* Until all have answered or `limit` is there. `polled` has a place for each. */
static void listen_to(struct stfs_ask *asks, struct pollfd *polled, size_t count, uint64_t limit)
{
	int r;

	for (uint64_t now = now_ms(); now < limit && list_open(asks, polled, count) > 0;
	     now = now_ms()) {
		if (poll(polled, count, (int)stfs_min_u64(limit - now, INT_MAX)) < 0)
			continue; /* EINTR */
		for (size_t i = 0; i < count; i++) {
			r = polled[i].revents ? receive(&asks[i]) : 1;
			if (r <= 0)
				finish(&asks[i], r);
		}
	}
}

void stfs_ask(struct stfs_ask *asks, size_t count)
{
	STFS_AUTO_FREE struct pollfd *polled = calloc(count ? count : 1, sizeof(*polled));
	uint64_t limit = now_ms() + STFS_ASK_PATIENCE_MS;

	for (size_t i = 0; i < count; i++) {
		asks[i].fd = -1;
		asks[i].result = polled ? start(&asks[i]) : -ENOMEM;
	}
	if (polled)
		listen_to(asks, polled, count, limit);
	for (size_t i = 0; i < count; i++)
		if (asks[i].fd >= 0)
			finish(&asks[i], -ETIMEDOUT);
}

void stfs_ask_begin(struct stfs_ask *ask)
{
	ask->fd = -1;
	ask->result = start(ask);
}

bool stfs_ask_wait(struct stfs_ask *ask, int ms)
{
	struct pollfd polled;

	listen_to(ask, &polled, 1, ms < 0 ? UINT64_MAX : now_ms() + (uint64_t)ms);
	return ask->fd < 0;
}

static int question_realpath(const void *path, int out)
{
	STFS_AUTO_FREE char *resolved = realpath(path, NULL);
	size_t len = resolved ? strlen(resolved) : 0;

	if (!resolved)
		return -errno;
	return write(out, resolved, len) == (ssize_t)len ? 0 : -EIO; /* at most PATH_MAX: in one */
}

/* Takes the answer: 0 with a path, or -errno without. */
static int take_path(struct stfs_ask *ask, char **resolved)
{
	int r = ask->result == 0 && !stfs_buf_cstr(&ask->answer) ? -ENOMEM : ask->result;

	*resolved = r == 0 ? stfs_steal_ptr(&ask->answer.data) : NULL;
	stfs_buf_free(&ask->answer);
	return r;
}

int stfs_ask_realpath(const char *path, char **resolved)
{
	struct stfs_ask ask = {.question = question_realpath, .data = path};

	stfs_ask(&ask, 1);
	return take_path(&ask, resolved);
}

int stfs_ask_realpaths(const char *const *paths, char **resolved, size_t count)
{
	STFS_AUTO_FREE struct stfs_ask *asks = calloc(count ? count : 1, sizeof(*asks));

	if (!asks)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++) {
		asks[i].question = question_realpath;
		asks[i].data = paths[i];
	}
	stfs_ask(asks, count);
	for (size_t i = 0; i < count; i++)
		take_path(&asks[i], &resolved[i]);
	return 0;
}
