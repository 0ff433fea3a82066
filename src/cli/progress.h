/* SPDX-License-Identifier: MIT */
/* How far long work has come, on a terminal and only when it takes longer than a second. */
#ifndef STFS_CLI_PROGRESS_H
#define STFS_CLI_PROGRESS_H

#include <time.h>

#include "store/edit.h"

struct stfs_cli_progress {
	struct timespec began, told;
	bool wanted, shown;
};

/* What to give to stfs_edit_commit(); `state` lives as long. */
struct stfs_progress stfs_cli_progress_begin(struct stfs_cli_progress *state, bool wanted);
/* Clears the line. */
void stfs_cli_progress_end(struct stfs_cli_progress *state);

#endif
