/* SPDX-License-Identifier: MIT */
#include "cli/waiting.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/human.h"

#define HINT "Ctrl-C ends the waiting only"

static bool say_once(void *data, unsigned seconds, struct json_object *said)
{
	stfs_cli_say("%s: committing; this may take long (" HINT ")",
		     ((struct stfs_waiting *)data)->point);
	return false;
}

static bool show(void *data, unsigned seconds, struct json_object *said)
{
	struct stfs_waiting *waiting = data;
	STFS_AUTO_BUF struct stfs_buf line = STFS_BUF_INIT;
	uint64_t done, total;

	stfs_buf_printf(&line, "\rcommitting, %u s", seconds);
	if (!said) {
		stfs_buf_puts(&line, "; its daemon does not answer");
	} else if (stfs_sync_progress(said, &done, &total)) {
		stfs_buf_printf(&line, ", %.0f%% of ", 100.0 * (double)done / (double)total);
		stfs_human_size(total, false, &line);
	}
	stfs_buf_puts(&line, " (" HINT ")\x1b[K");
	fwrite(line.data, 1, line.len, stderr);
	waiting->shown = true;
	return true;
}

/* Clears the line. */
static void end(void *data)
{
	struct stfs_waiting *waiting = data;

	if (waiting->shown)
		fputs("\r\x1b[K", stderr);
	waiting->shown = false;
}

struct stfs_sync_watcher stfs_waiting_watcher(struct stfs_waiting *waiting)
{
	struct stfs_sync_watcher watcher = {.end = end, .data = waiting};

	if (isatty(STDERR_FILENO) == 1)
		watcher.tell = show;
	else if (waiting->says_once)
		watcher.tell = say_once;
	return watcher;
}
