/* SPDX-License-Identifier: MIT */
/* Messages and help. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/escape.h"
#include "cli/cli.h"

__attribute__((format(printf, 1, 0))) static void say(const char *format, va_list args)
{
	STFS_AUTO_BUF struct stfs_buf raw = STFS_BUF_INIT;
	STFS_AUTO_BUF struct stfs_buf line = STFS_BUF_INIT;

	stfs_buf_vprintf(&raw, format, args);
	stfs_buf_puts(&line, "stfs: ");
	stfs_escape(stfs_buf_str(&raw), STFS_ESCAPE_LINE, &line);
	stfs_buf_putc(&line, '\n');
	fflush(stdout); /* so that the two come in order where both go to one place */
	fwrite(line.data, 1, line.len, stderr);
}

void stfs_cli_say(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	say(format, args);
	va_end(args);
}

void stfs_cli_out_of_memory(void)
{
	fputs("stfs: out of memory\n", stderr);
	exit(STFS_EXIT_FAILED);
}

int stfs_cli_usage(const struct stfs_verb *verb, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	say(format, args);
	va_end(args);
	fprintf(stderr, "usage: stfs %s %s\n`stfs help %s` says more\n", verb->name, verb->synopsis,
		verb->name);
	return STFS_EXIT_USAGE;
}

void stfs_cli_help(const struct stfs_verb *verb)
{
	printf("stfs %s: %s\n\nusage: stfs %s %s\n\n%s", verb->name, verb->summary, verb->name,
	       verb->synopsis, verb->help);
}

int stfs_cli_option(const struct stfs_verb *verb, int option, char **argv)
{
	if (option == 'h') {
		stfs_cli_help(verb);
		return STFS_EXIT_OK;
	}
	if (option == ':')
		return stfs_cli_usage(verb, "%s: option %s needs an argument", verb->name,
				      argv[optind - 1]);
	if (optopt > 0 && optopt < STFS_CLI_LONG)
		return stfs_cli_usage(verb, "%s: no option -%c", verb->name, optopt);
	return stfs_cli_usage(verb, "%s: no option %s, or a wrong use of it", verb->name,
			      argv[optind - 1]);
}
