/* SPDX-License-Identifier: MIT */
/*
 * What the verbs that change a model share. Each verb describes itself by a struct stfs_editor,
 * whose `stage` puts its edits into the one struct stfs_edit of the command; stfs_editing_run()
 * does the rest: options, opening, the plan of a dry run, the commit and what is said of it. `edit
 * --batch` (edit.c) stages the lines of a file through the same descriptions and commits once.
 */
#ifndef STFS_CLI_EDITING_H
#define STFS_CLI_EDITING_H

#include <json-c/json.h>
#include <time.h>

#include "cli/cli.h"
#include "ops/intake.h"
#include "ops/sources.h"
#include "ops/staged.h"
#include "store/edit.h"

enum stfs_change {
	STFS_CHANGE_ADD,
	STFS_CHANGE_REPLACE,
	STFS_CHANGE_REMOVE,
	STFS_CHANGE_RENAME,
	STFS_CHANGE_SET,
	STFS_CHANGE_UNSET,
};
#define STFS_CHANGE_COUNT 6

/* What the edits of a command come to. */
struct stfs_tally {
	size_t counts[STFS_CHANGE_COUNT];
	uint64_t bytes[STFS_CHANGE_COUNT];
	struct stfs_buf lines;    /* the first of them, in words */
	size_t line_count;        /* all of them */
	struct json_object *list; /* owned: all of them, with --json */
};

struct stfs_editing {
	const struct stfs_editor *editor; /* of the verb that was called */
	unsigned flags;                   /* STFS_EDIT_*, for opening */
	bool dry_run, json, quiet;
	struct stfs_edit *edit;     /* owned */
	struct stfs_intake intake;  /* the files that edits read from, open until the end */
	struct stfs_sources sources; /* the models that they copy from */
	struct stfs_tally tally;
	const char *batch;          /* what the lines come from; NULL outside of a batch */
	size_t line;
	struct timespec began;
	struct json_object *extra;  /* owned: with --json, what the verb itself tells, as "checkpoint"; or NULL */
	uint64_t deallocated;       /* bytes of zeros (compact --punch-zeros) */
	bool punched;
};

struct stfs_editor {
	const struct stfs_verb *verb;
	const struct option *options; /* its own, values from STFS_CLI_LONG on; ends with {0} */
	size_t request_size;          /* of what its options say, zeros at first */
	/* One of its own options. -1 to go on, else the exit code after a message. */
	int (*take)(struct stfs_editing *editing, void *request, int option, char *argument);
	void (*release)(void *request); /* may be NULL */
	/*
	 * Opens editing->edit and takes the words that say what to open away from `words`. NULL:
	 * the first word is the model. -1 to go on, else the exit code and all is done.
	 */
	int (*open)(struct stfs_editing *editing, void *request, char ***words, int *count);
	/* Whether its words, the model not among them, are of the right kind; before anything is
	 * opened. -1 to go on, else the exit code. May be NULL. */
	int (*check)(struct stfs_editing *editing, void *request, char **words, int count);
	/* Stages its edits. The exit code. */
	int (*stage)(struct stfs_editing *editing, void *request, char **words, int count);
	/* After a commit (or, in a dry run, in its stead); may be NULL. The exit code. */
	int (*after)(struct stfs_editing *editing, void *request);
	bool in_batch;    /* may stand in a batch */
	bool tells_names; /* says which tensors it changed, not only how many */
};

/* Runs a verb. The exit code. */
int stfs_editing_run(const struct stfs_editor *editor, int argc, char **argv);
/* Stages a line of a batch: words[0] is the verb, words[count] NULL. The exit code. */
int stfs_editing_stage(struct stfs_editing *editing, const struct stfs_editor *editor, char **words,
		       int count);

/* Opens the model for changes: -1 to go on, else the exit code after a message. */
int stfs_editing_open(struct stfs_editing *editing, const char *path);
/* The same of a model that is not there yet. */
int stfs_editing_create(struct stfs_editing *editing, const char *path);

/* ---- For `stage` ---- */

/* Says what is wrong, after the model or the batch's line. STFS_EXIT_FAILED. */
int stfs_editing_fail(const struct stfs_editing *editing, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/* Says it of an err that a lower layer filled, for a negative `r` as it returned it. */
int stfs_editing_error(const struct stfs_editing *editing, int r, const struct stfs_err *err);
/* Wrong words: STFS_EXIT_USAGE, with the usage outside of a batch. */
int stfs_editing_usage(const struct stfs_editing *editing, const struct stfs_editor *editor,
		       const char *format, ...) __attribute__((format(printf, 3, 4)));
/* No tensor of these is `word`: says so and names the nearest ones. STFS_EXIT_FAILED. */
int stfs_editing_none(const struct stfs_editing *editing, const struct stfs_tensors *tensors,
		      const char *word);

/* The tensor of that very name: false when there is none. */
bool stfs_editing_find(struct stfs_edit *edit, struct stfs_str name,
		       struct stfs_edit_tensor *tensor);

/* Counts an edit that was staged. `other`: the new name of a rename. */
void stfs_editing_did(struct stfs_editing *editing, enum stfs_change change, struct stfs_str name,
		      struct stfs_str other, uint64_t bytes);

/*
 * The tensors that the patterns mean, as names; the words are added to `include`, and one of it that
 * means none is an error.
 */
int stfs_editing_select(struct stfs_editing *editing, struct stfs_patterns *include,
			struct stfs_patterns *exclude, char **words, int count,
			struct stfs_names *names);
void stfs_editing_pattern(struct stfs_patterns *patterns, const char *pattern);

/* ---- editing_report.c ---- */

/* What the commit would do, of a dry run. The exit code: 1 when there is no room. */
int stfs_editing_tell_plan(struct stfs_editing *editing);
/* What it did. */
void stfs_editing_tell_result(struct stfs_editing *editing, const struct stfs_edit_result *result);

#endif
