/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/cli.h"

bool stfs_cli_is_terminal(void)
{
	return isatty(STDOUT_FILENO) == 1;
}

bool stfs_cli_has_colour(void)
{
	const char *no_colour = getenv("NO_COLOR"), *term = getenv("TERM");

	return stfs_cli_is_terminal() && !(no_colour && *no_colour) &&
	       !(term && strcmp(term, "dumb") == 0);
}

unsigned stfs_cli_width(void)
{
	const char *columns = getenv("COLUMNS");
	long asked = columns ? strtol(columns, NULL, 10) : 0;
	struct winsize size;

	if (asked >= 20 && asked <= 10000)
		return (unsigned)asked;
	if (!stfs_cli_is_terminal())
		return 0;
	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 20)
		return size.ws_col;
	return 80;
}
