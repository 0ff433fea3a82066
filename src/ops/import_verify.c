/* SPDX-License-Identifier: MIT */
/*
 * CRCs of storages, by two threads: the one that copies needs a storage to be good before it takes of it, and
 * looks at it itself if nobody has; meanwhile another looks at those to come.
 *
 *     unknown -> busy -> good
 *                    \-> bad
 */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "ops/import_internal.h"

struct stfs_import_verifier {
	struct stfs_import *import; /* borrowed */
	pthread_t thread;
	bool alone; /* there is no such thread: each is looked at when it is needed */
	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t changed;
	enum { UNKNOWN, BUSY, GOOD, BAD } *states; /* owned: one a storage */
	bool *wanted;                              /* owned: does not change */
	uint32_t count;
	bool stop;
};

static int go_on(void *data, uint64_t bytes)
{
	struct stfs_import_verifier *v = data;
	bool stop;

	pthread_mutex_lock(&v->lock);
	stop = v->stop;
	pthread_mutex_unlock(&v->lock);
	return stop ? -ECANCELED : 0;
}

/* With the lock held, and again when it returns. A bad one is looked at anew by who needs it, who says so. */
static int look(struct stfs_import_verifier *v, uint32_t number, int (*progress)(void *data, uint64_t bytes), void *data,
		struct stfs_err *err)
{
	int r;

	v->states[number] = BUSY;
	pthread_mutex_unlock(&v->lock);
	r = stfs_torch_verify(v->import->torch, number, progress, data, err);
	pthread_mutex_lock(&v->lock);
	v->states[number] = r == 0 ? GOOD : BAD;
	pthread_cond_broadcast(&v->changed);
	return r;
}

static void *look_ahead(void *data)
{
	struct stfs_import_verifier *v = data;

	pthread_mutex_lock(&v->lock);
	for (uint32_t i = 0; !v->stop && i < v->count; i++)
		if (v->wanted[i] && v->states[i] == UNKNOWN)
			(void)look(v, i, go_on, v, NULL);
	pthread_mutex_unlock(&v->lock);
	return NULL;
}

static void free_verifier(struct stfs_import_verifier *v)
{
	free(v->states);
	free(v->wanted);
	free(v);
}

static struct stfs_import_verifier *make_verifier(struct stfs_import *import)
{
	struct stfs_import_verifier *v = calloc(1, sizeof(*v));
	const struct stfs_torch_storage *storages;
	size_t room;

	if (!v)
		return NULL;
	storages = stfs_torch_storages(import->torch, &v->count);
	room = v->count ? v->count : 1;
	v->import = import;
	v->states = calloc(room, sizeof(*v->states));
	v->wanted = calloc(room, sizeof(*v->wanted));
	if (!v->states || !v->wanted) {
		free_verifier(v);
		return NULL;
	}
	for (size_t i = 0; i < import->count; i++)
		v->wanted[import->items[i].tensor->storage] = storages[import->items[i].tensor->storage].has_crc;
	pthread_mutex_init(&v->lock, NULL);
	pthread_cond_init(&v->changed, NULL);
	v->alone = pthread_create(&v->thread, NULL, look_ahead, v) != 0;
	return v;
}

void stfs_import_end_verifier(struct stfs_import *import)
{
	struct stfs_import_verifier *v = import->verifier;

	if (!v)
		return;
	pthread_mutex_lock(&v->lock);
	v->stop = true;
	pthread_mutex_unlock(&v->lock);
	if (!v->alone)
		pthread_join(v->thread, NULL);
	pthread_cond_destroy(&v->changed);
	pthread_mutex_destroy(&v->lock);
	free_verifier(v);
	import->verifier = NULL;
}

int stfs_import_verify_storage(struct stfs_import *import, uint32_t number,
			       int (*progress)(void *data, uint64_t bytes), void *data, struct stfs_err *err)
{
	struct stfs_import_verifier *v;
	int r = 0;

	if (import->options.no_verify)
		return 0;
	if (!import->verifier)
		import->verifier = make_verifier(import);
	v = import->verifier;
	if (!v)
		return -ENOMEM;
	pthread_mutex_lock(&v->lock);
	while (v->states[number] == BUSY)
		pthread_cond_wait(&v->changed, &v->lock);
	if (v->wanted[number] && v->states[number] != GOOD)
		r = look(v, number, progress, data, err);
	pthread_mutex_unlock(&v->lock);
	return r;
}

/* ---- All of them ---- */

struct verifying {
	const struct stfs_progress *progress;
	uint64_t before, within, total;
};

static int tell(void *data, uint64_t bytes)
{
	struct verifying *v = data;

	v->within += bytes;
	if (v->progress && v->progress->tell)
		v->progress->tell(v->progress->data, v->before + v->within, v->total);
	return 0;
}

int stfs_import_verify(struct stfs_import *import, const struct stfs_progress *progress, struct stfs_err *err)
{
	uint32_t count;
	const struct stfs_torch_storage *storages = stfs_torch_storages(import->torch, &count);
	STFS_AUTO_FREE bool *wanted = calloc(count ? count : 1, sizeof(*wanted));
	struct verifying v = {.progress = progress};
	struct stfs_err why = STFS_ERR_INIT;
	int r = wanted ? 0 : -ENOMEM;

	for (size_t i = 0; r == 0 && i < import->count; i++)
		wanted[import->items[i].tensor->storage] = true;
	for (uint32_t i = 0; r == 0 && i < count; i++)
		v.total += wanted[i] ? storages[i].size : 0;
	for (uint32_t i = 0; r == 0 && i < count; i++) {
		if (!wanted[i])
			continue;
		r = stfs_import_verify_storage(import, i, tell, &v, &why);
		v.before += storages[i].size;
		v.within = 0;
	}
	if (r == 0)
		return 0;
	return why.code == r ? stfs_err_set(err, r, why.position, "%s: %s", import->path, why.message) :
			       stfs_err_errno(err, r, "%s", import->path);
}
