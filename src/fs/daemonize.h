/* SPDX-License-Identifier: MIT */
/*
 * To the background only when the mount answers: the parent waits until the child has it and has
 * looked at it once, so that `safetensorsfs MODEL DIR && ls DIR` is never too early.
 */
#ifndef STFS_FS_DAEMONIZE_H
#define STFS_FS_DAEMONIZE_H

/*
 * Forks. In the child: returns 0, with *ready_fd to be given to stfs_daemon_ready(). In the parent:
 * does not return but exits, with 0 once `mountpoint` answers, else with the child's code (which
 * has said why on the terminal). -errno when it could not fork.
 */
int stfs_daemonize(const char *mountpoint, int *ready_fd);

/* Lets the parent go and the terminal too. A negative fd (foreground) does nothing. */
void stfs_daemon_ready(int ready_fd);

#endif
