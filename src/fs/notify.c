/* SPDX-License-Identifier: MIT */
#include "fs/notify.h"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

/* How far back it is looked whether an inode waits already. */
#define LOOK_BACK 64

struct stfs_notify {
	struct fuse_session *session; /* borrowed */
	pthread_t thread;
	_Atomic bool npy_opened, ended;
	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t come, told;
	fuse_ino_t *queue; /* owned: [out, in) wait, counted from `first` */
	size_t cap;
	uint64_t first, in, out; /* ever put in, and ever told */
	bool stop;
};

static void tell(struct stfs_notify *notify, fuse_ino_t ino)
{
	/* ENOENT: the kernel does not know the inode, so it has no pages of it. */
	fuse_lowlevel_notify_inval_inode(notify->session, ino, 0, 0);
}

static void *run(void *data)
{
	struct stfs_notify *notify = data;
	fuse_ino_t ino;

	pthread_mutex_lock(&notify->lock);
	while (!notify->stop) {
		if (notify->in == notify->out) {
			pthread_cond_wait(&notify->come, &notify->lock);
			continue;
		}
		ino = notify->queue[notify->out - notify->first];
		/* Not to be found any more: what is written from now on is told again. */
		notify->queue[notify->out - notify->first] = 0;
		pthread_mutex_unlock(&notify->lock);
		tell(notify, ino);
		pthread_mutex_lock(&notify->lock);
		notify->out++;
		pthread_cond_broadcast(&notify->told);
	}
	pthread_mutex_unlock(&notify->lock);
	atomic_store(&notify->ended, true);
	return NULL;
}

struct stfs_notify *stfs_notify_start(struct fuse_session *session)
{
	struct stfs_notify *notify = calloc(1, sizeof(*notify));
	sigset_t all, before;
	int r;

	if (!notify)
		return NULL;
	notify->session = session;
	pthread_mutex_init(&notify->lock, NULL);
	pthread_cond_init(&notify->come, NULL);
	pthread_cond_init(&notify->told, NULL);
	/* Signals are for the thread that waits for them. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&notify->thread, NULL, run, notify);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r == 0)
		return notify;
	free(notify);
	return NULL;
}

bool stfs_notify_stop(struct stfs_notify *notify, unsigned most_ms)
{
	if (!notify)
		return true;
	pthread_mutex_lock(&notify->lock);
	notify->stop = true;
	pthread_cond_broadcast(&notify->come);
	pthread_cond_broadcast(&notify->told);
	pthread_mutex_unlock(&notify->lock);
	for (unsigned i = 0; i < most_ms && !atomic_load(&notify->ended); i++)
		usleep(1000);
	return atomic_load(&notify->ended);
}

void stfs_notify_free(struct stfs_notify *notify)
{
	if (!notify)
		return;
	(void)stfs_notify_stop(notify, 0);
	pthread_join(notify->thread, NULL);
	pthread_cond_destroy(&notify->come);
	pthread_cond_destroy(&notify->told);
	pthread_mutex_destroy(&notify->lock);
	free(notify->queue);
	free(notify);
}

static bool waits(const struct stfs_notify *notify, fuse_ino_t ino)
{
	for (uint64_t i = notify->in; i > notify->out && i + LOOK_BACK > notify->in; i--)
		if (notify->queue[i - 1 - notify->first] == ino)
			return true;
	return false;
}

/* Room for one more: nobody waits for it, for the thread may be waiting for his reply. */
static bool make_room(struct stfs_notify *notify)
{
	fuse_ino_t *grown;

	if (notify->in == notify->out)
		notify->first = notify->in;
	if (notify->in - notify->first < notify->cap)
		return true;
	grown = reallocarray(notify->queue, notify->cap ? 2 * notify->cap : 64, sizeof(*grown));
	if (!grown)
		return false;
	notify->queue = grown;
	notify->cap = notify->cap ? 2 * notify->cap : 64;
	return true;
}

void stfs_notify_pages(struct stfs_notify *notify, fuse_ino_t ino)
{
	if (!notify)
		return;
	pthread_mutex_lock(&notify->lock);
	if (!waits(notify, ino) && make_room(notify)) {
		notify->queue[notify->in++ - notify->first] = ino;
		pthread_cond_signal(&notify->come);
	}
	pthread_mutex_unlock(&notify->lock);
}

void stfs_notify_attributes(struct stfs_notify *notify, fuse_ino_t ino)
{
	if (notify)
		fuse_lowlevel_notify_inval_inode(notify->session, ino, -1, 0);
}

void stfs_notify_drain(struct stfs_notify *notify)
{
	uint64_t upto;

	if (!notify)
		return;
	pthread_mutex_lock(&notify->lock);
	upto = notify->in;
	while (notify->out < upto && !notify->stop)
		pthread_cond_wait(&notify->told, &notify->lock);
	pthread_mutex_unlock(&notify->lock);
}

bool stfs_notify_knows_npy(struct stfs_notify *notify)
{
	return notify && atomic_load(&notify->npy_opened);
}

void stfs_notify_npy_opened(struct stfs_notify *notify)
{
	if (notify)
		atomic_store(&notify->npy_opened, true);
}
