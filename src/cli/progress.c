/* SPDX-License-Identifier: MIT */
#include "cli/progress.h"

#include <stdio.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/human.h"

/* Seconds before anything is shown, and between two looks. */
#define PATIENCE 1.0
#define INTERVAL 0.1

static double seconds_since(struct timespec then, struct timespec now)
{
	return (double)(now.tv_sec - then.tv_sec) + (double)(now.tv_nsec - then.tv_nsec) / 1e9;
}

static void tell(void *data, uint64_t done, uint64_t total)
{
	struct stfs_cli_progress *state = data;
	STFS_AUTO_BUF struct stfs_buf line = STFS_BUF_INIT;
	struct timespec now;
	double spent, rate;

	clock_gettime(CLOCK_MONOTONIC, &now);
	spent = seconds_since(state->began, now);
	if (!state->wanted || spent < PATIENCE || seconds_since(state->told, now) < INTERVAL)
		return;
	rate = (double)done / spent;
	state->told = now;
	state->shown = true;
	stfs_buf_printf(&line, "\r%3.0f%%  ", total ? 100.0 * (double)done / (double)total : 100.0);
	stfs_human_size(done, false, &line);
	stfs_buf_puts(&line, " of ");
	stfs_human_size(total, false, &line);
	stfs_buf_puts(&line, ", ");
	stfs_human_size((uint64_t)rate, false, &line);
	stfs_buf_puts(&line, "/s");
	if (rate > 0 && done < total)
		stfs_buf_printf(&line, ", %.0f s left", (double)(total - done) / rate);
	stfs_buf_puts(&line, "\x1b[K");
	fwrite(line.data, 1, line.len, stderr);
}

struct stfs_progress stfs_cli_progress_begin(struct stfs_cli_progress *state, bool wanted)
{
	*state = (struct stfs_cli_progress){.wanted = wanted && isatty(STDERR_FILENO) == 1};
	clock_gettime(CLOCK_MONOTONIC, &state->began);
	return (struct stfs_progress){.tell = tell, .data = state};
}

void stfs_cli_progress_end(struct stfs_cli_progress *state)
{
	if (state->shown)
		fputs("\r\x1b[K", stderr);
	state->shown = false;
}
