/* SPDX-License-Identifier: MIT */
#include "fs/logging.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include <fuse_log.h>

#include "base/buf.h"
#include "base/escape.h"
#include "base/log.h"

static int log_fd = -1;
static bool debugging;

/* A name from a file, a path with a newline: nothing in a line may steer a terminal or forge a line. */
static const char *harmless(const char *line, struct stfs_buf *buf)
{
	const char *text;

	stfs_escape(stfs_str_from(line), STFS_ESCAPE_LINE, buf);
	text = stfs_buf_cstr(buf);
	return text ? text : "(no memory for the message)";
}

void stfs_logging_print(const char *line)
{
	STFS_AUTO_BUF struct stfs_buf buf = STFS_BUF_INIT;

	fprintf(stderr, "safetensorsfs: %s\n", harmless(line, &buf));
}

static void to_terminal(enum stfs_log_level level, const char *line, void *data)
{
	stfs_logging_print(line);
}

static void to_file(enum stfs_log_level level, const char *line, void *data)
{
	STFS_AUTO_BUF struct stfs_buf buf = STFS_BUF_INIT;
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	char when[32];
	time_t now = time(NULL);
	struct tm tm;
	ssize_t written;

	localtime_r(&now, &tm);
	strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S%z", &tm);
	stfs_buf_printf(&text, "%s safetensorsfs[%d]: %s\n", when, (int)getpid(), harmless(line, &buf));
	written = write(log_fd, text.data, text.len);
	(void)written; /* a log that cannot be written has nowhere to say so */
}

static void to_syslog(enum stfs_log_level level, const char *line, void *data)
{
	static const int priorities[] = {LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG};
	STFS_AUTO_BUF struct stfs_buf buf = STFS_BUF_INIT;

	syslog(LOG_DAEMON | priorities[level], "%s", harmless(line, &buf));
}

__attribute__((format(printf, 2, 0)))
static void from_fuse(enum fuse_log_level level, const char *format, va_list args)
{
	char line[1024];
	size_t len;

	vsnprintf(line, sizeof(line), format, args);
	len = strlen(line);
	while (len && line[len - 1] == '\n')
		line[--len] = '\0';
	stfs_log(level <= FUSE_LOG_ERR ? STFS_LOG_ERROR
		 : level <= FUSE_LOG_NOTICE ? STFS_LOG_WARNING : STFS_LOG_DEBUG, "%s", line);
}

void stfs_logging_to_terminal(bool debug)
{
	debugging = debug;
	stfs_log_set(to_terminal, debug ? STFS_LOG_DEBUG : STFS_LOG_INFO, NULL);
	fuse_set_log_func(from_fuse);
}

int stfs_logging_open(const char *file)
{
	struct stat st;

	/* O_NONBLOCK: a pipe that nobody reads must not hang us. */
	log_fd = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0644);
	if (log_fd < 0 || fstat(log_fd, &st) < 0)
		return -errno;
	return S_ISREG(st.st_mode) || S_ISCHR(st.st_mode) ? 0 : -EINVAL;
}

bool stfs_logging_is(const struct stat *st)
{
	struct stat ours;

	return log_fd >= 0 && fstat(log_fd, &ours) == 0 && ours.st_dev == st->st_dev &&
	       ours.st_ino == st->st_ino;
}

void stfs_logging_to_background(void)
{
	if (log_fd < 0)
		openlog("safetensorsfs", LOG_PID, LOG_DAEMON);
	stfs_log_set(log_fd < 0 ? to_syslog : to_file, debugging ? STFS_LOG_DEBUG : STFS_LOG_INFO, NULL);
}
