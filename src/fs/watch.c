/* SPDX-License-Identifier: MIT */
#include "fs/watch.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <time.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/log.h"

/* A writer that never stops must not keep us busy: rest this many times as long as a round took. */
#define REST_FACTOR 10
#define REST_LEAST_MS 50

/*
 * Changes of a shard, counted: what was told and what is differ when there is something to tell. In a writable
 * mount it is we who touch it, and while we commit its header is not the one that was read.
 */
static uint64_t changes_of(const struct stfs_fs *fs, struct stfs_shard *shard)
{
	struct stfs_shard_view view;

	if (stfs_tree_is_committing(fs->tree) || stfs_tree_is_stuck(fs->tree))
		return 0;
	stfs_shard_check(shard);
	view = stfs_shard_view(shard);
	return (stfs_fs_writable(fs) ? 0 : 2 * view.touched) + view.stale;
}

static void tell(struct stfs_watch *watch, fuse_ino_t ino)
{
	/* ENOENT: the kernel does not know the inode, so it cannot know it wrongly. */
	fuse_lowlevel_notify_inval_inode(watch->session, ino, -1, 0);
}

/* A file has changed underneath: all files show its times, or may refuse to be read. */
static void tell_all(struct stfs_watch *watch, uint32_t nodes, uint32_t names)
{
	for (uint32_t i = 0; i < nodes; i++)
		tell(watch, stfs_fs_ino(i, STFS_FORM_RAW));
	for (uint32_t i = 0; i < names; i++) {
		tell(watch, stfs_fs_ino(i, STFS_FORM_SIDECAR));
		tell(watch, stfs_fs_ino(i, STFS_FORM_NPY));
	}
	tell(watch, STFS_INO_METADATA);
	tell(watch, STFS_INO_ROOT);
}

static void look(struct stfs_watch *watch)
{
	const struct stfs_model *model;
	uint32_t nodes, names;
	uint64_t sum = 0;

	stfs_tree_hold(watch->fs->tree);
	model = stfs_tree_model(watch->fs->tree);
	for (uint32_t i = 0; model && i < model->shard_count; i++)
		sum += changes_of(watch->fs, &model->shards[i]);
	nodes = stfs_tree_nodes(watch->fs->tree);
	names = stfs_tree_names(watch->fs->tree);
	stfs_tree_release(watch->fs->tree);
	if (sum == watch->told)
		return;
	watch->told = sum;
	if (sum)
		tell_all(watch, nodes, names);
}

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* What happened does not matter, only that it did. */
static void drain(int fd)
{
	char events[4096];

	while (read(fd, events, sizeof(events)) > 0)
		;
}

/* Waits for an event, or for `timeout` milliseconds: false when it is time to stop. */
static bool wait_for_event(const struct stfs_watch *watch, int timeout)
{
	struct pollfd fds[2] = {{.fd = watch->wake_fd, .events = POLLIN},
				{.fd = watch->inotify_fd, .events = POLLIN}};

	while (poll(fds, 2, timeout) < 0 && errno == EINTR)
		;
	return !atomic_load(&watch->stop);
}

/* Rests for `timeout` milliseconds, whatever happens: false when it is time to stop. */
static bool rest_for(const struct stfs_watch *watch, uint64_t timeout)
{
	uint64_t end = now_ms() + timeout, now;

	while (!atomic_load(&watch->stop) && (now = now_ms()) < end)
		usleep((useconds_t)stfs_min_u64(end - now, REST_LEAST_MS) * 1000);
	return !atomic_load(&watch->stop);
}

static void *run(void *data)
{
	struct stfs_watch *watch = data;
	uint64_t start, rest;

	while (wait_for_event(watch, STFS_WATCH_SECONDS * 1000)) {
		start = now_ms();
		drain(watch->wake_fd);
		if (watch->inotify_fd >= 0)
			drain(watch->inotify_fd);
		look(watch);
		rest = stfs_max_u64(REST_LEAST_MS, REST_FACTOR * (now_ms() - start));
		if (!rest_for(watch, stfs_min_u64(rest, 60000)))
			break;
	}
	return NULL;
}

/* inotify on every shard, by descriptor: the file that is open, whatever its name is now; or -1. */
static int open_inotify(const struct stfs_model *model)
{
	int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	char path[64];

	for (uint32_t i = 0; fd >= 0 && model && i < model->shard_count; i++) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", model->shards[i].fd);
		if (inotify_add_watch(fd, path, IN_MODIFY | IN_ATTRIB | IN_CLOSE_WRITE) < 0) {
			close(fd);
			fd = -1;
		}
	}
	return fd;
}

static int start_thread(struct stfs_watch *watch)
{
	sigset_t all, before;
	int r;

	/* Signals are for the thread that waits for them. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = -pthread_create(&watch->thread, NULL, run, watch);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return r;
}

void stfs_watch_start(struct stfs_watch *watch, struct stfs_fs *fs, struct fuse_session *session)
{
	int r;

	*watch = (struct stfs_watch){.fs = fs, .session = session, .inotify_fd = -1, .wake_fd = -1};
	watch->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = watch->wake_fd < 0 ? -errno : 0;
	if (r == 0) {
		/* Our own writes would wake it all the while: a writable mount looks now and then. */
		watch->inotify_fd = stfs_fs_writable(fs) ? -1 : open_inotify(stfs_tree_model(fs->tree));
		r = start_thread(watch);
	}
	watch->running = r == 0;
	if (r == 0) {
		atomic_store(&fs->wake_fd, watch->wake_fd);
	} else {
		stfs_log(STFS_LOG_WARNING, "changes of the model by other programs will not be noticed in time");
		stfs_watch_stop(watch);
	}
}

void stfs_watch_poke(struct stfs_fs *fs)
{
	int fd = atomic_load(&fs->wake_fd);

	if (fd >= 0)
		eventfd_write(fd, 1);
}

void stfs_watch_stop(struct stfs_watch *watch)
{
	atomic_store(&watch->fs->wake_fd, -1);
	if (watch->running) {
		atomic_store(&watch->stop, true);
		eventfd_write(watch->wake_fd, 1);
		pthread_join(watch->thread, NULL);
	}
	watch->running = false;
	if (watch->inotify_fd >= 0)
		close(watch->inotify_fd);
	if (watch->wake_fd >= 0)
		close(watch->wake_fd);
	watch->inotify_fd = watch->wake_fd = -1;
}
