/* SPDX-License-Identifier: MIT */
/* Where the daemon's messages go: the terminal at first, then syslog or a file. */
#ifndef STFS_FS_LOGGING_H
#define STFS_FS_LOGGING_H

#include <stdbool.h>
#include <sys/stat.h>

/* One line to the terminal, as "safetensorsfs: line", whatever else is set up. */
void stfs_logging_print(const char *line);

/* To the terminal, as "safetensorsfs: line". libfuse's own messages come along. */
void stfs_logging_to_terminal(bool debug);

/*
 * Opens `file` for appending: 0; -EINVAL when it is neither a regular file nor a terminal or the like;
 * -errno. Used once stfs_logging_to_background() is called.
 */
int stfs_logging_open(const char *file);

/* Whether the file opened for the log is the one that `st` is of. */
bool stfs_logging_is(const struct stat *st);

/* To the opened file, or to syslog when there is none. In the foreground only with a file. */
void stfs_logging_to_background(void);

#endif
