/* SPDX-License-Identifier: MIT */
#include "fs/signals.h"

#include <errno.h>
#include <semaphore.h>
#include <signal.h>
#include <unistd.h>

#include "fs/notify.h"

/* Then what it waits for is no request that we answer. */
#define NOTIFY_MS 10000
/* The serving thread may look for the end of the session just before a signal wakes it. */
#define WAKE_MS 10

static sem_t came; /* counts signals, and the end */
static _Atomic int last; /* without a lock, as a handler needs it */

static void on_signal(int number)
{
	int before = errno;

	atomic_store(&last, number);
	sem_post(&came);
	errno = before;
}

static void *run(void *data)
{
	struct stfs_signals *signals = data;

	while (sem_wait(&came) < 0)
		;
	if (atomic_load(&signals->served))
		return NULL;
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
