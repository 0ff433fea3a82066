/* SPDX-License-Identifier: MIT */
/*
 * The companion program: a table of verbs (main.c), a file a verb, and what they share. A verb
 * prints its result to stdout and all else to stderr; main() checks stdout at the end.
 */
#ifndef STFS_CLI_CLI_H
#define STFS_CLI_CLI_H

#include <getopt.h>
#include <stdbool.h>

#include "store/model.h"

enum {
	STFS_EXIT_OK = 0,
	STFS_EXIT_FAILED = 1,
	STFS_EXIT_USAGE = 64, /* EX_USAGE of sysexits.h */
	STFS_EXIT_PIPE = 141, /* the reader went away: what a shell shows for SIGPIPE */
};

struct stfs_verb {
	const char *name;
	const char *synopsis; /* what stands behind "stfs NAME " */
	const char *summary;  /* one line */
	const char *help;     /* whole lines of at most 80 columns */
	int (*run)(int argc, char **argv); /* argv[0] is the verb; returns the exit code */
};

extern const struct stfs_verb stfs_verb_cat, stfs_verb_check, stfs_verb_compact, stfs_verb_cp,
	stfs_verb_create, stfs_verb_edit, stfs_verb_export_pytorch, stfs_verb_import_pytorch,
	stfs_verb_import_pytorch_inplace, stfs_verb_info, stfs_verb_ls, stfs_verb_map,
	stfs_verb_metadata, stfs_verb_mount, stfs_verb_mv, stfs_verb_put, stfs_verb_recover,
	stfs_verb_rename, stfs_verb_rm, stfs_verb_save, stfs_verb_status, stfs_verb_sync,
	stfs_verb_umount;

/* umount_helper.c: called as umount.TYPE by umount(8). */
int stfs_cli_umount_helper(int argc, char **argv);

/* ---- Options ---- */

/* For a verb's table of long options and for its string of short ones, which begins with ':'. */
#define STFS_CLI_HELP {"help", no_argument, NULL, 'h'}
/* Values of long options without a letter begin here. */
#define STFS_CLI_LONG 256

/* What a verb returns for an option that it does not know itself: 'h', '?' or ':'. */
int stfs_cli_option(const struct stfs_verb *verb, int option, char **argv);
/* Says what is wrong with the words of the command; STFS_EXIT_USAGE. */
int stfs_cli_usage(const struct stfs_verb *verb, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
void stfs_cli_help(const struct stfs_verb *verb);

/* ---- Messages (say.c) ---- */

/* "stfs: " and the line to stderr, with nothing in it that a terminal would obey. */
void stfs_cli_say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Says so and ends the program. */
__attribute__((noreturn)) void stfs_cli_out_of_memory(void);

/* ---- The model (open.c) ---- */

/* Opens for reading, tolerantly, and says what a user should know. NULL after a message. */
struct stfs_model *stfs_cli_open(const char *path);
/* The id of a tensor, or STFS_NO_TENSOR after a message that names the nearest ones. */
uint32_t stfs_cli_find(const struct stfs_model *model, const char *name);
/*
 * Opens a file for writing, "-" being stdout, unless it is one of the model's own or the disk has no
 * room for the `len` bytes to come (0: unknown). A descriptor for the caller to close, or -1 after a
 * message. *made tells whether the file is new, to be removed if it cannot be finished.
 */
int stfs_cli_create(const struct stfs_model *model, const char *path, uint64_t len, bool *made);

static inline void stfs_cli_close(struct stfs_model **model)
{
	stfs_model_close(*model);
}
#define STFS_AUTO_MODEL __attribute__((cleanup(stfs_cli_close)))

/* ---- The terminal (terminal.c) ---- */

bool stfs_cli_is_terminal(void); /* stdout */
bool stfs_cli_has_colour(void);  /* a terminal, and NO_COLOR is not set (no-color.org) */
/* Columns of the terminal; 0 when stdout is none and COLUMNS is not set: no bound. */
unsigned stfs_cli_width(void);

#endif
