/* SPDX-License-Identifier: MIT */
#include "ops/unmount.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "ops/leftovers.h"

/* Silence after which a wait is explained. */
#define PATIENCE_MS 3000
/* How often, and at what distance, what is in use is tried again. */
#define BUSY_TRIES 25
#define BUSY_US 20000
/* Exit code of a child that could not run its program, as in a shell. */
#define NO_PROGRAM 127

/* Whether process `pid` is called as our daemon is, and runs for the mount's user or root. */
static bool is_daemon(pid_t pid, uid_t user)
{
	char path[64], name[32] = "";
	STFS_AUTO_FILE FILE *comm = NULL;
	struct stat st;

	snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
	comm = fopen(path, "re");
	return comm && fgets(name, sizeof(name), comm) && strncmp(name, "safetensorsfs", 13) == 0 &&
	       fstat(fileno(comm), &st) == 0 && (st.st_uid == user || st.st_uid == 0);
}

/*
 * A descriptor that becomes readable when the mount's daemon ends; -1 when it is not known. What
 * the daemon calls its number may mean another process in our pid namespace, and a daemon of
 * somebody else may name any. The descriptor is taken first: if the process behind it ends and its
 * number is given anew, what is_daemon() looks at is another, but that wait ends at once.
 */
static int watch_daemon(const struct stfs_mount *mount, struct json_object *status, pid_t *pid)
{
	STFS_AUTO_FD int fd = -1;
	struct json_object *field;

	*pid = 0;
	if (json_object_object_get_ex(status, "pid", &field))
		*pid = (pid_t)json_object_get_int(field);
	if (*pid > 0)
		fd = (int)syscall(SYS_pidfd_open, *pid, 0);
	return fd >= 0 && is_daemon(*pid, mount->user) ? stfs_steal_fd(&fd) : -1;
}

static void wait_for_daemon(int watch, pid_t pid, const char *point)
{
	struct pollfd end = {.fd = watch, .events = POLLIN};
	int timeout = PATIENCE_MS, got;

	do {
		got = poll(&end, 1, timeout);
		if (got == 0) {
			stfs_log(STFS_LOG_WARNING, "%s: unmounted; waiting for the daemon, process "
				 "%d, to finish (Ctrl-C stops the waiting only)", point, (int)pid);
			timeout = -1;
		}
	} while (got == 0 || (got < 0 && errno == EINTR));
}

/* Runs in the child: `program -u [-z] -- point`, its messages into `messages`. */
__attribute__((noreturn)) static void exec_fusermount(int messages, bool lazy, const char *point)
{
	static const char *const programs[] = {"fusermount3", "fusermount"};
	const char *plain[] = {NULL, "-u", "--", point, NULL};
	const char *detach[] = {NULL, "-u", "-z", "--", point, NULL};
	const char **argv = lazy ? detach : plain;

	dup2(messages, STDERR_FILENO);
	for (size_t i = 0; i < 2; i++) {
		argv[0] = programs[i];
		execvp(programs[i], (char *const *)(uintptr_t)argv);
	}
	dprintf(STDERR_FILENO, "%s", strerror(errno));
	_exit(NO_PROGRAM);
}

/* The first line that comes through `fd`, to its end. */
static void read_line(int fd, char *line, size_t size)
{
	char piece[256];
	size_t used = 0;
	ssize_t got;

	while ((got = read(fd, piece, sizeof(piece))) > 0 || (got < 0 && errno == EINTR)) {
		for (ssize_t i = 0; i < got && used + 1 < size; i++)
			line[used++] = piece[i];
	}
	line[used] = '\0';
	line[strcspn(line, "\n")] = '\0';
}

/* An unprivileged unmount. 0; -EBUSY; -EPERM; -ENOENT when there is no fusermount; -errno. */
static int by_fusermount(const char *point, bool lazy, struct stfs_err *err)
{
	char line[512] = "";
	int pipe_fds[2], status = 0, r;
	pid_t child;

	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return stfs_err_errno(err, -errno, "%s", point);
	child = fork();
	r = child < 0 ? -errno : 0;
	if (child == 0)
		exec_fusermount(pipe_fds[1], lazy, point);
	close(pipe_fds[1]);
	if (r == 0)
		read_line(pipe_fds[0], line, sizeof(line));
	close(pipe_fds[0]);
	if (r < 0)
		return stfs_err_errno(err, r, "%s: cannot run fusermount3", point);
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	if (WIFEXITED(status) && WEXITSTATUS(status) == NO_PROGRAM)
		return stfs_err_set(err, -ENOENT, STFS_NO_POSITION,
				    "%s: to unmount it takes root or fusermount3, and that cannot "
				    "be run (%s): install fuse3", point, line);
	return stfs_err_set(err, strstr(line, "busy") ? -EBUSY : -EPERM, STFS_NO_POSITION, "%s: %s",
			    point, *line ? line : "fusermount3 failed");
}

static int take_down(const char *point, bool lazy, struct stfs_err *err)
{
	/* Root needs no helper; in a container "root" may lack the right that fusermount3 has. */
	if (geteuid() != 0)
		return by_fusermount(point, lazy, err);
	if (umount2(point, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) == 0)
		return 0;
	if (errno == EPERM)
		return by_fusermount(point, lazy, err);
	return stfs_err_errno(err, -errno, "%s", point);
}

/* Whether the file system is gone from our table: else its daemon lives on, elsewhere. */
static bool is_gone(const struct stfs_mount *mount)
{
	STFS_CLEANUP(stfs_mounts_free) struct stfs_mounts mounts = {0};

	return stfs_mounts_read(&mounts) == 0 && !stfs_mounts_have(&mounts, mount);
}

/* ---- The edits ---- */

/* What the daemon says now; NULL when it says nothing. */
static struct json_object *look_again(const struct stfs_mount *mount)
{
	struct stfs_mount_status status = {.mount = mount};

	return stfs_mounts_ask(&status, 1) < 0 ? NULL : status.said;
}

/* Names what goes into the model as bytes because it fits no type. */
static void tell_unfit(const char *point, struct json_object *said)
{
	struct json_object *items = stfs_said_pending(said);
	char quoted[STFS_QUOTED_MAX];

	for (size_t i = 0; i < stfs_said_count(items); i++) {
		struct stfs_said_edit edit = stfs_said_edit(items, i);

		if (stfs_said_is_unfit(&edit))
			stfs_log(STFS_LOG_WARNING, "%s: \"%s\" goes into the model as bytes (U8): %s",
				 point, stfs_quote(edit.name, quoted), edit.waits);
	}
}

/* Names what has just gone in so for want of a type. */
static void tell_untyped(const char *point, struct json_object *before, struct json_object *after)
{
	struct stfs_sync_result result = stfs_sync_compare(before, after);
	struct json_object *names = stfs_said_member(result.commit, "as_bytes", json_type_array);
	char quoted[STFS_QUOTED_MAX];

	for (size_t i = 0; i < stfs_said_count(names); i++) {
		struct json_object *name = json_object_array_get_idx(names, i);

		if (json_object_is_type(name, json_type_string))
			stfs_log(STFS_LOG_WARNING, "%s: \"%s\" had no type and went into the model "
				 "as bytes (U8)", point,
				 stfs_quote(stfs_str_slice(json_object_get_string(name),
							   (size_t)json_object_get_string_len(name)),
					    quoted));
	}
}

static int refuse_uncommitted(const char *point, int r, struct json_object *said, struct stfs_err *err)
{
	const char *last = stfs_said_text(said, "last_error"), *state = stfs_said_text(said, "state");

	if (state && strcmp(state, "stuck") == 0)
		return stfs_err_set(err, r, STFS_NO_POSITION, "%s: not unmounted, for a commit stopped half-way%s%s%s; "
				    "`stfs umount -l %s` detaches it all the same, and its daemon then tries to finish "
				    "that and to keep what was edited since: copy that out of the mount first", point,
				    last ? " (" : "", last ? last : "", last ? ")" : "", point);
	return stfs_err_set(err, r, STFS_NO_POSITION, "%s: not unmounted, for its edits could not be "
			    "committed: %s%s%s%s; `stfs umount -l %s` detaches it all the same, and "
			    "its daemon then keeps them in a rescue file", point, strerror(-r),
			    last ? " (" : "", last ? last : "", last ? ")" : "", point);
}

/* Commits what was edited, so that a failure is known while all is still there. 0 or -errno. */
static int commit(const struct stfs_mount *mount, const struct stfs_unmounting *how,
		  struct json_object *before, struct stfs_err *err)
{
	struct json_object *after;
	int r;

	if (!stfs_said_is_writable(before))
		return 0;
	r = stfs_sync_run(mount, &how->watcher);
	if (r == -ENOTCONN)
		return stfs_err_set(err, r, STFS_NO_POSITION, "%s: its daemon ended while it was to "
				    "commit; once more, `stfs umount` clears the mount", mount->point);
	/* Somebody else has unmounted it meanwhile: no commit of ours is needed. */
	if (r < 0 && is_gone(mount))
		return 0;
	after = look_again(mount);
	tell_untyped(mount->point, before, after);
	if (r == -EINVAL)
		tell_unfit(mount->point, after);
	else if (r < 0)
		refuse_uncommitted(mount->point, r, after, err);
	json_object_put(after);
	return r == -EINVAL ? 0 : r;
}

/* What the daemon has left beside the model, that it did not find there. 0 or -EUCLEAN. */
static int judge_end(const struct stfs_mount *mount, const struct stfs_leftovers *before,
		     struct stfs_err *err)
{
	STFS_CLEANUP(stfs_leftovers_free) struct stfs_leftovers now = {0};

	if (!before->model || stfs_leftovers_look(before->model, &now) < 0)
		return 0;
	if (stfs_leftovers_rescued(before, &now))
		return stfs_err_set(err, -EUCLEAN, STFS_NO_POSITION, "%s: unmounted, but its last "
				    "edits could not be committed: they are kept in %s, and `stfs "
				    "recover %s` takes them up", mount->point, now.rescue, now.model);
	if (now.journal)
		return stfs_err_set(err, -EUCLEAN, STFS_NO_POSITION, "%s: unmounted, but its last "
				    "commit stopped half-way: `stfs recover %s` finishes it",
				    mount->point, now.model);
	return 0;
}

/* ---- The mount ---- */

/* Returns when the daemon has ended, if it is known: `watch` is a descriptor of it. */
static int await_end(const struct stfs_mount *mount, int watch, pid_t pid,
		     const struct stfs_leftovers *before, struct stfs_err *err)
{
	if (watch < 0) {
		stfs_log(STFS_LOG_INFO, "%s: its daemon is not known; not waiting for it",
			 mount->point);
		return 0;
	}
	if (!is_gone(mount)) {
		stfs_log(STFS_LOG_INFO, "%s: mounted elsewhere as well; its daemon goes on",
			 mount->point);
		return 0;
	}
	wait_for_daemon(watch, pid, mount->point);
	return judge_end(mount, before, err);
}

static int say_busy(const struct stfs_mount *mount, struct json_object *said, struct stfs_err *err)
{
	return stfs_err_set(err, -EBUSY, STFS_NO_POSITION, "%s: in use (`fuser -vm %s` names the "
			    "programs; --lazy detaches it all the same)%s", mount->point, mount->point,
			    stfs_said_is_writable(said)
				    ? "; still mounted, and what could be committed is in the model"
				    : "");
}

/* What is in use is so perhaps by another `stfs umount` or `stfs status`, which has looked in a moment. */
static int take_down_soon(const struct stfs_mount *mount, struct stfs_err *err)
{
	int r = take_down(mount->point, false, err);

	for (int i = 0; r == -EBUSY && i < BUSY_TRIES; i++) {
		usleep(BUSY_US);
		r = take_down(mount->point, false, err);
	}
	/* When somebody else was faster, what remains is to wait. */
	return r < 0 && is_gone(mount) ? 0 : r;
}

/* `said`: what the daemon says of itself, or NULL. */
static int unmount_living(const struct stfs_mount *mount, const struct stfs_unmounting *how,
			  struct json_object *said, struct stfs_err *err)
{
	STFS_CLEANUP(stfs_leftovers_free) struct stfs_leftovers before = {0};
	const char *model = stfs_said_text(said, "model");
	pid_t pid = 0;
	STFS_AUTO_FD int watch = watch_daemon(mount, said, &pid);
	int r;

	if (stfs_said_is_writable(said) && model)
		(void)stfs_leftovers_look(model, &before);
	r = commit(mount, how, said, err);
	if (r < 0)
		return r;
	r = take_down_soon(mount, err);
	if (r < 0)
		return r == -EBUSY ? say_busy(mount, said, err) : r;
	stfs_log(STFS_LOG_INFO, "%s: unmounted", mount->point);
	if (stfs_said_is_private(said) && stfs_said_pending_count(said))
		stfs_log(STFS_LOG_INFO, "%s: its edits were its own (-o cow) and are gone with it",
			 mount->point);
	return await_end(mount, watch, pid, &before, err);
}

/*
 * `before`: what stood beside the model when its daemon was asked, which need not have been dead then: it may
 * have ended of a signal, and unmounted itself when it had committed.
 */
static int unmount_dead(const struct stfs_mount *mount, const struct stfs_leftovers *before,
			struct stfs_err *err)
{
	int r = take_down(mount->point, false, err);
	bool by_itself = r < 0 && is_gone(mount);

	if (r < 0 && !by_itself) {
		r = take_down(mount->point, true, err);
		by_itself = r < 0 && is_gone(mount); /* in the middle of it */
	}
	if (by_itself)
		r = 0;
	if (r == 0)
		stfs_log(STFS_LOG_INFO, by_itself ? "%s: unmounted; its daemon has ended"
						  : "%s: cleared; its daemon had died", mount->point);
	return r == 0 && by_itself ? judge_end(mount, before, err) : r;
}

static int unmount_ours(const struct stfs_mount *mount, const struct stfs_unmounting *how,
			struct stfs_err *err)
{
	STFS_CLEANUP(stfs_leftovers_free) struct stfs_leftovers before = {0};
	struct stfs_mount_status status = {.mount = mount};
	int r;

	(void)stfs_leftovers_look(mount->source, &before);
	r = stfs_mounts_ask(&status, 1);
	if (r < 0)
		return stfs_err_errno(err, r, "%s", mount->point);
	if (status.result == -ENOTCONN)
		return unmount_dead(mount, &before, err);
	/* It would go away, but nothing could be said of what the daemon has still to do. */
	if (status.result == -ETIMEDOUT)
		return stfs_err_set(err, -ETIMEDOUT, STFS_NO_POSITION,
				    "%s: its daemon does not answer (is it stopped? does its disk "
				    "hang?); still mounted: `stfs umount -l %s` detaches it",
				    mount->point, mount->point);
	r = unmount_living(mount, how, status.said, err);
	json_object_put(status.said);
	return r;
}

int stfs_unmount(const char *dir, const struct stfs_unmounting *how, struct stfs_err *err)
{
	STFS_CLEANUP(stfs_mounts_free) struct stfs_mounts mounts = {0};
	const struct stfs_leftovers nothing = {0};
	const struct stfs_mount *mount;
	int r = stfs_mounts_read(&mounts);

	if (r < 0)
		return stfs_err_errno(err, r, "/proc/self/mountinfo");
	r = stfs_mounts_find(&mounts, dir, &mount);
	if (r < 0)
		return stfs_err_errno(err, r, "%s", dir);
	/* Whoever says --lazy may have reason to: nothing is asked of the mount. */
	if (mount && stfs_mount_is_ours(mount))
		return how->lazy ? take_down(mount->point, true, err)
				 : unmount_ours(mount, how, err);
	if (mount && stfs_mount_is_fuse(mount) && stfs_mount_ping(mount) == -ENOTCONN)
		return unmount_dead(mount, &nothing, err);
	return stfs_mounts_refuse(mount, dir, err);
}
