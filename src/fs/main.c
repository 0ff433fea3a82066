/* SPDX-License-Identifier: MIT */
/*
 * safetensorsfs, the mount helper. Exit codes as mount(8) has them:
 *   0 mounted (or, in the foreground, unmounted again)   1 wrong use
 *   2 the model cannot be read, or is refused            32 the mount failed
 */
#include <errno.h>
#include <fcntl.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <stdio.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/log.h"
#include "base/streams.h"
#include "fs/daemonize.h"
#include "fs/logging.h"
#include "fs/session.h"

enum { EXIT_USAGE = 1, EXIT_MODEL = 2, EXIT_MOUNT = 32 };

static int fail(int code, const struct stfs_err *err)
{
	stfs_logging_print(err->message);
	return code;
}

static bool is_dead(int error)
{
	return error == ENOTCONN || error == ECONNABORTED;
}

/* Makes the mount point when it is absent: 1 made, 0 there, -errno with `err`. */
static int make_mountpoint(const char *path, struct stfs_err *err)
{
	struct statfs fs;
	struct stat st;
	int r = stat(path, &st) < 0 ? -errno : 0;

	if (r == 0 && !S_ISDIR(st.st_mode))
		return stfs_err_set(err, -ENOTDIR, STFS_NO_POSITION, "%s: not a directory", path);
	/* The kernel may know the attributes of a dead mount for ever; for these it asks. */
	if (r == 0 && (statfs(path, &fs) == 0 || !is_dead(errno)))
		return 0;
	if (r == 0 || is_dead(-r))
		return stfs_err_set(err, -ENOTCONN, STFS_NO_POSITION, "%s: a dead mount stands here; clear "
				    "it with: stfs umount %s", path, path);
	if (r == -ENOENT && mkdir(path, 0755) == 0)
		return 1;
	return stfs_err_errno(err, r == -ENOENT ? -errno : r, "%s", path);
}

struct startup {
	int ready_fd;
	const struct stfs_options *options;
};

static void on_ready(void *data)
{
	struct startup *startup = data;

	if (startup->ready_fd >= 0 || startup->options->log_file)
		stfs_logging_to_background();
	stfs_daemon_ready(startup->ready_fd);
	startup->ready_fd = -1;
}

static int serve(struct stfs_fs *fs, bool made, struct stfs_err *err)
{
	struct fuse_session *session;

	if (stfs_session_mount(fs, &session, err) < 0) {
		if (made)
			rmdir(fs->options->mountpoint);
		return fail(EXIT_MOUNT, err);
	}
	return stfs_session_serve(fs, session) < 0 ? EXIT_MOUNT : 0;
}

/* Whether the log file is a shard or the index. */
static bool logs_into_model(const struct stfs_model *model)
{
	struct stat st;

	if (!model)
		return false;
	if (fstatat(model->resolved.folder_fd, model->resolved.name, &st, 0) == 0 && stfs_logging_is(&st))
		return true;
	for (uint32_t i = 0; i < model->shard_count; i++)
		if (stfs_logging_is(&model->shards[i].st))
			return true;
	return false;
}

static int run(const struct stfs_options *options, struct stfs_err *err)
{
	struct startup startup = {.ready_fd = -1, .options = options};
	struct stfs_fs fs;
	int r, made, code;

	if (options->log_file) {
		r = stfs_logging_open(options->log_file);
		if (r < 0)
			return stfs_err_errno(err, r, "%s", options->log_file), fail(EXIT_USAGE, err);
	}
	made = make_mountpoint(options->mountpoint, err);
	if (made < 0)
		return fail(EXIT_MOUNT, err);
	/* Before the model is opened: a thread or a lock does not survive a fork. */
	if (!options->foreground) {
		r = stfs_daemonize(options->mountpoint, &startup.ready_fd);
		if (r < 0)
			return stfs_err_errno(err, r, "cannot fork"), fail(EXIT_MOUNT, err);
	}
	r = stfs_fs_open(&fs, options, err);
	if (r < 0) {
		if (made)
			rmdir(options->mountpoint);
		return fail(EXIT_MODEL, err);
	}
	if (logs_into_model(stfs_tree_model(fs.tree))) {
		stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "%s: the log would be written into the model",
			     options->log_file);
		stfs_fs_close(&fs);
		return fail(EXIT_USAGE, err);
	}
	if (stfs_tree_model(fs.tree) && stfs_tree_model(fs.tree)->tolerated)
		stfs_log(STFS_LOG_WARNING, "%s: damaged, mounted as far as it can be read (see: stfs check %s)",
			 options->model, options->model);
	fs.ready = on_ready;
	fs.ready_data = &startup;
	code = serve(&fs, made, err);
	stfs_fs_close(&fs);
	return code;
}

int main(int argc, char **argv)
{
	struct stfs_options options = {0};
	struct stfs_err err = STFS_ERR_INIT;
	int code = 0;

#ifdef M_ARENA_MAX /* glibc */
	/* Threads share heaps: memory is to follow the header, not the number of threads. */
	mallopt(M_ARENA_MAX, 2);
	/* Large blocks go back to the system when freed; glibc would raise the threshold to 32 MiB. */
	mallopt(M_MMAP_THRESHOLD, 1 << 20);
#endif
	if (stfs_streams_fill() < 0) {
		code = EXIT_MOUNT; /* with nowhere to say so */
	} else if (stfs_options_parse(argc, argv, &options, &err) < 0) {
		code = fail(EXIT_USAGE, &err);
	} else if (options.help) {
		fputs(stfs_options_help, stdout);
	} else if (options.version) {
		printf("safetensorsfs %s (libfuse %s)\n", STFS_VERSION, fuse_pkgversion());
	} else if (!options.fake) {
		stfs_raise_file_limit();
		stfs_logging_to_terminal(options.debug);
		code = run(&options, &err);
	}
	stfs_options_free(&options);
	return code;
}
