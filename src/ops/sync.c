/* SPDX-License-Identifier: MIT */
#include "ops/sync.h"

#include <errno.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "ops/ask.h"

/* What passes before a commit is called long, and between two looks at it. */
#define PATIENCE_MS 2000
#define INTERVAL_MS 500

/*
 * Of .stfs it means the same as of the directory, whose lock the kernel would hold until it is answered: no
 * name could be looked up meanwhile. Who may not open .stfs takes the directory.
 */
static int question_sync(const void *mount, int out)
{
	STFS_AUTO_FD int folder = open(((const struct stfs_mount *)mount)->point,
				       O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	STFS_AUTO_FD int status = folder < 0 ? -1 : openat(folder, ".stfs", O_RDONLY | O_CLOEXEC);

	if (folder < 0 || fsync(status < 0 ? folder : status) < 0)
		return errno == ECONNABORTED ? -ENOTCONN : -errno;
	return 0;
}

static bool tell(const struct stfs_mount *mount, const struct stfs_sync_watcher *watcher,
		 const struct timespec *began)
{
	struct stfs_mount_status status = {.mount = mount};
	struct timespec now;
	bool again;

	if (stfs_mounts_ask(&status, 1) < 0)
		return true;
	clock_gettime(CLOCK_MONOTONIC, &now);
	again = watcher->tell(watcher->data, (unsigned)(now.tv_sec - began->tv_sec), status.said);
	json_object_put(status.said);
	return again;
}

int stfs_sync_run(const struct stfs_mount *mount, const struct stfs_sync_watcher *watcher)
{
	struct stfs_ask ask = {.question = question_sync, .data = mount};
	bool wanted = watcher->tell != NULL, done;
	struct timespec began;

	clock_gettime(CLOCK_MONOTONIC, &began);
	stfs_ask_begin(&ask);
	done = stfs_ask_wait(&ask, wanted ? PATIENCE_MS : -1);
	while (!done) {
		wanted = tell(mount, watcher, &began);
		done = stfs_ask_wait(&ask, wanted ? INTERVAL_MS : -1);
	}
	if (watcher->end)
		watcher->end(watcher->data);
	stfs_buf_free(&ask.answer);
	return ask.result;
}

bool stfs_sync_progress(struct json_object *said, uint64_t *done, uint64_t *total)
{
	struct json_object *progress = stfs_said_member(said, "progress", json_type_object);

	*done = stfs_said_number(progress, "done");
	*total = stfs_said_number(progress, "total");
	return *total > 0 && *done <= *total;
}

struct stfs_sync_result stfs_sync_compare(struct json_object *before, struct json_object *after)
{
	struct json_object *last = stfs_said_member(after, "last_commit", json_type_object);
	uint64_t first = stfs_said_number(
		stfs_said_member(before, "last_commit", json_type_object), "number");
	uint64_t number = stfs_said_number(last, "number");

	if (number <= first)
		return (struct stfs_sync_result){0};
	return (struct stfs_sync_result){.commits = number - first, .commit = last};
}
