/* SPDX-License-Identifier: MIT */
#include "fs/signals.h"

#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "fs/notify.h"

/* Then what it waits for is no request that we answer. */
#define NOTIFY_MS 10000
/* The serving thread may look for the end of the session just before a signal wakes it. */
#define WAKE_MS 10

#define FUSE_SUPER_MAGIC 0x65735546 /* linux/magic.h does not have it */
/* For what is dirty in the page cache, at the speed of a slow disk. */
#define WRITE_BACK_S 30
#define QUIET_MS 100
#define QUIET_MOST 20 /* the kernel lets a FUSE file system have 1 % of the memory dirty */

static sem_t came; /* counts signals, and the end */
static sem_t written; /* when the kernel has written what is dirty */
static _Atomic int last; /* without a lock, as a handler needs it */

static void on_signal(int number)
{
	int before = errno;

	atomic_store(&last, number);
	sem_post(&came);
	errno = before;
}

/* Has the kernel write what programs have changed through mappings and not synced. */
static void *write_back(void *data)
{
	STFS_AUTO_FREE char *mountpoint = data;
	STFS_AUTO_FD int fd = open(mountpoint, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;
	struct statfs fs;

	/* Something else may have been mounted over it. */
	if (fd >= 0 && fstat(fd, &st) == 0 && st.st_ino == FUSE_ROOT_ID && fstatfs(fd, &fs) == 0 &&
	    fs.f_type == FUSE_SUPER_MAGIC)
		(void)syncfs(fd);
	sem_post(&written);
	return NULL;
}

/*
 * While requests are still answered. In a thread of its own, which is left to itself when it takes too long: the path to
 * the mount may lead through a file system that hangs.
 */
static void await_write_back(struct stfs_fs *fs)
{
	char *mountpoint = strdup(fs->mountpoint);
	struct timespec until;
	uint64_t writes;
	pthread_t thread;

	if (!mountpoint || sem_init(&written, 0, 0) < 0 || pthread_create(&thread, NULL, write_back, mountpoint) != 0) {
		free(mountpoint);
		return;
	}
	pthread_detach(thread);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += WRITE_BACK_S;
	while (sem_timedwait(&written, &until) < 0 && errno == EINTR)
		;
	/*
	 * From Linux 6.16 on it only begins that, and no number of ours tells what is still queued: until none comes, or
	 * for a while, as there may be programs that go on writing.
	 */
	for (int i = 0; i < QUIET_MOST; i++) {
		writes = atomic_load(&fs->writes);
		usleep(QUIET_MS * 1000);
		if (atomic_load(&fs->writes) == writes)
			break;
	}
}

static void *run(void *data)
{
	struct stfs_signals *signals = data;

	while (sem_wait(&came) < 0)
		;
	if (atomic_load(&signals->served))
		return NULL;
	await_write_back(signals->fs);
	(void)stfs_notify_stop(signals->fs->notify, NOTIFY_MS);
	fuse_session_exit(signals->session);
	/* It sleeps in a system call, which a signal ends. */
	while (!atomic_load(&signals->served)) {
		pthread_kill(signals->server, atomic_load(&last));
		usleep(WAKE_MS * 1000);
	}
	return NULL;
}

/* In place of libfuse's handler, where it stands: nohup(1) goes on to have HUP ignored. */
static void take_over(int number)
{
	const struct sigaction ours = {.sa_handler = on_signal};
	struct sigaction theirs;

	if (sigaction(number, NULL, &theirs) == 0 && theirs.sa_handler != SIG_IGN)
		sigaction(number, &ours, NULL);
}

void stfs_signals_start(struct stfs_signals *signals, struct stfs_fs *fs, struct fuse_session *session)
{
	sigset_t all, before;

	*signals = (struct stfs_signals){.fs = fs, .session = session, .server = pthread_self()};
	if (sem_init(&came, 0, 0) < 0)
		return;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	signals->running = pthread_create(&signals->thread, NULL, run, signals) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!signals->running)
		return;
	take_over(SIGHUP);
	take_over(SIGINT);
	take_over(SIGTERM);
}

void stfs_signals_stop(struct stfs_signals *signals)
{
	if (!signals->running)
		return;
	atomic_store(&signals->served, true);
	sem_post(&came);
	pthread_join(signals->thread, NULL);
}
