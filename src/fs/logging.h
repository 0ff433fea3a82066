/* SPDX-License-Identifier: MIT */
/* Where the daemon's messages go: the terminal at first, then syslog or a file. */
#ifndef STFS_FS_LOGGING_H
#define STFS_FS_LOGGING_H

#include <stdbool.h>

/* To the terminal, as "safetensorsfs: line". libfuse's own messages come along. */
void stfs_logging_to_terminal(bool debug);

/* Opens `file` for appending: 0 or -errno. Used once stfs_logging_to_background() is called. */
int stfs_logging_open(const char *file);

/* To the opened file, or to syslog when there is none. In the foreground only with a file. */
void stfs_logging_to_background(void);

#endif
