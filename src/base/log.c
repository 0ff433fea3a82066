/* SPDX-License-Identifier: MIT */
#include "base/log.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

static struct {
	stfs_log_sink *sink;
	enum stfs_log_level most;
	void *data;
} log_to;

void stfs_log_set(stfs_log_sink *sink, enum stfs_log_level most, void *data)
{
	log_to.sink = sink;
	log_to.most = most;
	log_to.data = data;
}

void stfs_log(enum stfs_log_level level, const char *format, ...)
{
	char line[2048];
	va_list args;

	if (!log_to.sink || level > log_to.most)
		return;
	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	log_to.sink(level, line, log_to.data);
}
