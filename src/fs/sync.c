/* SPDX-License-Identifier: MIT */
#include "fs/sync.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/log.h"
#include "format/sidecar.h"
#include "fs/draft.h"
#include "fs/notify.h"

/*
 * Who copies a file and then syncs wants it in: its release is on its way to us, sent when it was closed. So
 * long it is waited for; a file that is still open elsewhere never sends any.
 */
#define RELEASES_MS 400
/* After a commit that failed by itself: not at once again. */
#define RETRY_MS 30000

struct waiter {
	struct waiter *next;
	fuse_req_t req;
	bool all;
	uint32_t node;
};

struct stfs_sync {
	struct stfs_fs *fs; /* borrowed */
	pthread_t thread;
	pthread_mutex_t lock; /* guards what follows; its place: fs/fs.h */
	pthread_cond_t come;
	struct waiter *waiters, **last; /* owned */
	uint64_t first_change, last_change; /* milliseconds; 0: none since the last commit */
	uint64_t not_before; /* milliseconds: no automatic commit until then */
	uint64_t spool_mark; /* bytes of the spool at which the next commit is due */
	bool stop;
	/* For .stfs: */
	uint64_t number;     /* of commits */
	time_t time;
	const char *trigger;
	struct stfs_commit_report report; /* of the last commit */
	char error[1024];
	time_t error_time;
};

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000 + 1;
}

/* ---- When it is time ---- */

static void on_change(void *data)
{
	struct stfs_sync *sync = data;
	uint64_t now = now_ms();

	pthread_mutex_lock(&sync->lock);
	if (!sync->first_change) {
		sync->first_change = now;
		pthread_cond_signal(&sync->come); /* it may sleep without an end */
	} else if (sync->fs->options->spool_limit && stfs_tree_spooled(sync->fs->tree) > sync->spool_mark) {
		pthread_cond_signal(&sync->come);
	}
	sync->last_change = now;
	pthread_mutex_unlock(&sync->lock);
}

/* When an automatic commit is due: 0 never, else milliseconds; and why. The lock is held. */
static uint64_t due_at(const struct stfs_sync *sync, const char **why)
{
	const struct stfs_options *o = sync->fs->options;
	uint64_t quiet, oldest;

	if (!sync->first_change)
		return 0;
	if (o->spool_limit && stfs_tree_spooled(sync->fs->tree) > sync->spool_mark) {
		*why = "spool";
		return stfs_max_u64(1, sync->not_before);
	}
	quiet = o->autosync ? sync->last_change + o->autosync : UINT64_MAX;
	oldest = o->autosync_max ? sync->first_change + o->autosync_max : UINT64_MAX;
	*why = quiet <= oldest ? "quiet" : "age";
	quiet = stfs_min_u64(quiet, oldest);
	return quiet == UINT64_MAX ? 0 : stfs_max_u64(quiet, sync->not_before);
}

static void wait_until(struct stfs_sync *sync, uint64_t due)
{
	struct timespec at = {.tv_sec = (time_t)(due / 1000), .tv_nsec = (long)(due % 1000) * 1000000};

	if (due)
		pthread_cond_timedwait(&sync->come, &sync->lock, &at);
	else
		pthread_cond_wait(&sync->come, &sync->lock);
}

/* ---- One commit ---- */

static void note_error(struct stfs_sync *sync, const char *trigger, const struct stfs_err *err)
{
	stfs_log(STFS_LOG_ERROR, "commit (%s): %s", trigger, err->message);
	pthread_mutex_lock(&sync->lock);
	snprintf(sync->error, sizeof(sync->error), "%s", err->message);
	sync->error_time = time(NULL);
	pthread_mutex_unlock(&sync->lock);
}

static void note_commit(struct stfs_sync *sync, const char *trigger, struct stfs_commit_report *report)
{
	pthread_mutex_lock(&sync->lock);
	if (report->listed || report->metadata) {
		stfs_commit_report_free(&sync->report);
		sync->report = *report;
		*report = (struct stfs_commit_report){0};
		sync->number++;
		sync->time = time(NULL);
		sync->trigger = trigger;
	}
	sync->error[0] = '\0';
	pthread_mutex_unlock(&sync->lock);
	stfs_commit_report_free(report);
}

/* What a commit of this file comes to when all is committed but the largest files, for which the disk has no room. */
#define NO_ROOM 1

/* 0, NO_ROOM or -errno; -EINVAL: all that can be is committed, but something that was asked for fits no type. */
static int commit(struct stfs_sync *sync, const struct stfs_commit_request *request, const char *trigger)
{
	struct stfs_commit_report report;
	struct stfs_err err = STFS_ERR_INIT;
	int r = stfs_tree_commit(sync->fs->tree, request, &report, &err);
	bool refused = r == 0 && report.refused, no_room = r == 0 && report.no_room;

	if (r < 0) {
		note_error(sync, trigger, &err);
		stfs_commit_report_free(&report);
		return r == -EINVAL ? -EIO : r;
	}
	note_commit(sync, trigger, &report);
	if (no_room) {
		note_error(sync, trigger, &err);
		return NO_ROOM;
	}
	if (refused && request->end) /* nobody can ask why any more */
		stfs_log(STFS_LOG_ERROR, "%s: left as it was: %s", sync->fs->model_path, err.message);
	return refused ? -EINVAL : 0;
}

/* ---- Waiters ---- */

/* What they ask for together; nodes and left_out are the caller's to free. */
static int request_of(struct waiter *waiters, struct stfs_commit_request *request)
{
	size_t count = 0;
	uint32_t *nodes;

	*request = (struct stfs_commit_request){0};
	for (struct waiter *w = waiters; w; w = w->next) {
		request->all |= w->all;
		count += w->node != STFS_NO_NUMBER;
	}
	request->nodes = nodes = calloc(count ? count : 1, sizeof(*nodes));
	request->left_out = calloc(count ? count : 1, sizeof(*request->left_out));
	if (!nodes || !request->left_out)
		return -ENOMEM;
	for (struct waiter *w = waiters; w; w = w->next)
		if (w->node != STFS_NO_NUMBER)
			nodes[request->count++] = w->node;
	return 0;
}

/* What a waiter is told: who did not ask for what fits no type does not fail for it. */
static int result_for(struct stfs_sync *sync, const struct waiter *waiter, bool left_out, int r)
{
	if (r == NO_ROOM)
		return waiter->all || left_out ? -ENOSPC : 0;
	if (r == -EINVAL && !waiter->all)
		r = 0;
	if (r == 0 && left_out) /* or its name is in the model still that of a file that is being written */
		r = stfs_tree_is_misfit(sync->fs->tree, waiter->node) ? -EINVAL : -EBUSY;
	return r;
}

static void answer(struct stfs_sync *sync, struct waiter *waiters, const struct stfs_commit_request *request, int r)
{
	struct waiter *next;
	size_t number = 0;

	for (struct waiter *w = waiters; w; w = next) {
		bool left_out = w->node != STFS_NO_NUMBER && request->left_out && request->left_out[number++];

		next = w->next;
		fuse_reply_err(w->req, -result_for(sync, w, left_out, r));
		free(w);
	}
}

static void await_releases(const struct stfs_sync *sync)
{
	uint64_t until = now_ms() + RELEASES_MS;

	while (atomic_load(&sync->fs->flushed) && now_ms() < until)
		usleep(500);
}

static void serve(struct stfs_sync *sync, struct waiter *waiters)
{
	struct stfs_commit_request request;
	int r = request_of(waiters, &request);

	await_releases(sync);
	if (r == 0)
		r = commit(sync, &request, request.all ? "sync" : "fsync");
	stfs_notify_drain(sync->fs->notify);
	answer(sync, waiters, &request, r);
	free((void *)(uintptr_t)request.nodes);
	free(request.left_out);
}

static void commit_alone(struct stfs_sync *sync, const char *why)
{
	const struct stfs_commit_request request = {0};
	int r = commit(sync, &request, why);

	pthread_mutex_lock(&sync->lock);
	sync->not_before = r != 0 ? now_ms() + RETRY_MS : 0;
	if (r != 0 && !sync->first_change)
		sync->first_change = sync->last_change = now_ms();
	sync->spool_mark = stfs_tree_spooled(sync->fs->tree) + sync->fs->options->spool_limit;
	pthread_mutex_unlock(&sync->lock);
}

static void *run(void *data)
{
	struct stfs_sync *sync = data;
	const char *why = "quiet";
	struct waiter *waiters;
	uint64_t due;

	pthread_mutex_lock(&sync->lock);
	while (!sync->stop || sync->waiters) {
		due = due_at(sync, &why);
		if (!sync->waiters && (!due || due > now_ms())) {
			wait_until(sync, due);
			continue;
		}
		waiters = sync->waiters;
		sync->waiters = NULL;
		sync->last = &sync->waiters;
		/* What comes from here on is for the next one. */
		sync->first_change = 0;
		pthread_mutex_unlock(&sync->lock);
		if (waiters)
			serve(sync, waiters);
		else
			commit_alone(sync, why);
		pthread_mutex_lock(&sync->lock);
	}
	pthread_mutex_unlock(&sync->lock);
	return NULL;
}

void stfs_sync_request(struct stfs_sync *sync, fuse_req_t req, bool all, uint32_t node)
{
	struct waiter *waiter = malloc(sizeof(*waiter));

	if (!waiter) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	*waiter = (struct waiter){.req = req, .all = all, .node = node};
	pthread_mutex_lock(&sync->lock);
	*sync->last = waiter;
	sync->last = &waiter->next;
	pthread_cond_signal(&sync->come);
	pthread_mutex_unlock(&sync->lock);
}

/* ---- Starting and ending ---- */

struct stfs_sync *stfs_sync_start(struct stfs_fs *fs, struct stfs_err *err)
{
	struct stfs_sync *sync = calloc(1, sizeof(*sync));
	pthread_condattr_t monotonic;
	sigset_t all, before;
	int r;

	if (!sync) {
		stfs_err_errno(err, -ENOMEM, "starting the sync thread");
		return NULL;
	}
	sync->fs = fs;
	sync->last = &sync->waiters;
	sync->spool_mark = fs->options->spool_limit;
	pthread_mutex_init(&sync->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&sync->come, &monotonic);
	pthread_condattr_destroy(&monotonic);
	stfs_tree_on_change(fs->tree, on_change, sync);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&sync->thread, NULL, run, sync);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r == 0)
		return sync;
	stfs_err_errno(err, -r, "starting the sync thread");
	stfs_sync_free(sync);
	return NULL;
}

/* What the last commit could not take. */
static void keep_rest(const struct stfs_fs *fs)
{
	struct stfs_err err = STFS_ERR_INIT;
	int kept = stfs_tree_rescue(fs->tree, &err);

	if (kept < 0)
		stfs_log(STFS_LOG_ERROR, "%s: what could not be committed is LOST: %s", fs->model_path, err.message);
	else if (kept == STFS_RESCUED_AWAY)
		stfs_log(STFS_LOG_ERROR, "%s: what could not be committed is kept in a rescue file in %s, for there is no "
			 "room beside the model: move that there, and `stfs recover` takes it up", fs->model_path,
			 fs->options->spool);
	else if (kept > 0)
		stfs_log(STFS_LOG_ERROR, "%s: what could not be committed is kept in a rescue file beside it: the "
			 "next mount or `stfs recover` takes it up", fs->model_path);
}

int stfs_sync_finish(struct stfs_sync *sync)
{
	const struct stfs_commit_request last = {.all = true, .end = true};
	struct stfs_tree *tree = sync->fs->tree;
	struct stfs_err err = STFS_ERR_INIT;
	int r, resumed = 0;

	pthread_mutex_lock(&sync->lock);
	sync->stop = true;
	pthread_cond_signal(&sync->come);
	pthread_mutex_unlock(&sync->lock);
	pthread_join(sync->thread, NULL);
	stfs_tree_on_change(tree, NULL, NULL);
	stfs_draft_take_all(sync->fs);
	r = commit(sync, &last, "end");
	if (r < 0 && r != -EINVAL && stfs_tree_is_stuck(tree)) {
		resumed = stfs_tree_resume(tree, &err);
		if (resumed == 0) {
			stfs_draft_take_all(sync->fs);
			r = commit(sync, &last, "end");
		}
	}
	if (r == 0 || r == -EINVAL)
		return 0;
	if (resumed < 0)
		stfs_log(STFS_LOG_ERROR, "%s: a commit stopped half-way, which `stfs recover` finishes; what was edited "
			 "since is LOST: %s", sync->fs->model_path, err.message);
	else
		keep_rest(sync->fs);
	return r == NO_ROOM ? -ENOSPC : r;
}

void stfs_sync_free(struct stfs_sync *sync)
{
	if (!sync)
		return;
	stfs_commit_report_free(&sync->report);
	pthread_cond_destroy(&sync->come);
	pthread_mutex_destroy(&sync->lock);
	free(sync);
}

/* ---- .stfs ---- */

static void put_report(const struct stfs_sync *sync, struct stfs_buf *out)
{
	const struct stfs_commit_report *r = &sync->report;

	stfs_buf_printf(out, "{\"number\": %" PRIu64 ", \"time\": %lld, \"trigger\": \"%s\", \"added\": %" PRIu64
			", \"replaced\": %" PRIu64 ", \"removed\": %" PRIu64 ", \"renamed\": %" PRIu64
			", \"retyped\": %" PRIu64 ", \"metadata\": %s, \"bytes\": %" PRIu64 ", \"names\": [",
			sync->number, (long long)sync->time, sync->trigger, r->added, r->replaced, r->removed,
			r->renamed, r->retyped, r->metadata ? "true" : "false", r->bytes);
	stfs_buf_add_str(out, stfs_buf_str(&r->names));
	stfs_buf_puts(out, "], \"as_bytes\": [");
	stfs_buf_add_str(out, stfs_buf_str(&r->as_bytes));
	stfs_buf_puts(out, "]}");
}

void stfs_sync_status(struct stfs_sync *sync, struct stfs_buf *out)
{
	pthread_mutex_lock(&sync->lock);
	stfs_buf_puts(out, "  \"last_commit\": ");
	if (sync->number)
		put_report(sync, out);
	else
		stfs_buf_puts(out, "null");
	stfs_buf_puts(out, ",\n");
	pthread_mutex_unlock(&sync->lock);
}

bool stfs_sync_error(struct stfs_sync *sync, char *text, size_t size, time_t *when)
{
	pthread_mutex_lock(&sync->lock);
	snprintf(text, size, "%s", sync->error);
	*when = sync->error_time;
	pthread_mutex_unlock(&sync->lock);
	return *text != '\0';
}
