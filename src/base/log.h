/* SPDX-License-Identifier: MIT */
/*
 * Where a library has something to say that is no error of its caller, it logs. Libraries never
 * print: the front end chooses the sink (terminal, syslog, file). Without a sink nothing is said.
 */
#ifndef STFS_BASE_LOG_H
#define STFS_BASE_LOG_H

enum stfs_log_level { STFS_LOG_ERROR, STFS_LOG_WARNING, STFS_LOG_INFO, STFS_LOG_DEBUG };

/* `line` has no newline. Called from any thread; must not call back into the library. */
typedef void stfs_log_sink(enum stfs_log_level level, const char *line, void *data);

/*
 * Messages above `most` are dropped. May be called while other threads log, but by one thread at a
 * time and only a few times in the life of a program.
 */
void stfs_log_set(stfs_log_sink *sink, enum stfs_log_level most, void *data);
void stfs_log(enum stfs_log_level level, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

#endif
