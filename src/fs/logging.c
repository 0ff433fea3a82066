/* SPDX-License-Identifier: MIT */
#include "fs/logging.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include <fuse_log.h>

#include "base/log.h"

static int log_fd = -1;
static bool background;
static bool debugging;

static void to_terminal(enum stfs_log_level level, const char *line, void *data)
{
	fprintf(stderr, "safetensorsfs: %s\n", line);
}

static void to_file(enum stfs_log_level level, const char *line, void *data)
{
	char text[2304], when[32];
	time_t now = time(NULL);
	struct tm tm;
	int len;

	localtime_r(&now, &tm);
	strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S%z", &tm);
	len = snprintf(text, sizeof(text), "%s safetensorsfs[%d]: %s\n", when, (int)getpid(), line);
	if (len > 0 && write(log_fd, text, (size_t)len < sizeof(text) ? (size_t)len : sizeof(text) - 1) < 0)
		background = true; /* nowhere left to say so */
}

static void to_syslog(enum stfs_log_level level, const char *line, void *data)
{
	static const int priorities[] = {LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG};

	syslog(LOG_DAEMON | priorities[level], "%s", line);
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
	log_fd = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0644);
	return log_fd < 0 ? -errno : 0;
}

void stfs_logging_to_background(void)
{
	background = true;
	if (log_fd < 0)
		openlog("safetensorsfs", LOG_PID, LOG_DAEMON);
	stfs_log_set(log_fd < 0 ? to_syslog : to_file, debugging ? STFS_LOG_DEBUG : STFS_LOG_INFO, NULL);
}
