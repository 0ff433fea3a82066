/* SPDX-License-Identifier: MIT */
#include "cli/importing.h"

#include <stdio.h>

#include "base/cleanup.h"
#include "base/escape.h"
#include "cli/jsonout.h"

/* Remarks of a kind that are told one by one; with --json all are. */
#define LINES_MAX 10

int stfs_importing_take(struct stfs_importing *importing, int option, const char *argument)
{
	switch (option) {
	case STFS_IMPORTING_ONLY: importing->options.only = argument; break;
	case STFS_IMPORTING_STRIP: importing->options.strip = argument; break;
	case STFS_IMPORTING_DUPLICATE: importing->options.duplicate = true; break;
	case STFS_IMPORTING_SKIP: importing->options.skip_refused = true; break;
	case STFS_IMPORTING_OUTSIZED: importing->options.outsized = true; break;
	case STFS_IMPORTING_NO_METADATA: importing->options.no_metadata = true; break;
	case STFS_IMPORTING_NO_VERIFY: importing->options.no_verify = true; break;
	}
	return -1;
}

void stfs_importing_release(void *importing)
{
	stfs_import_close(((struct stfs_importing *)importing)->import);
}

/* ---- For programs ---- */

static const char *const keys[STFS_IMPORT_REMARKS] = {"refused", "tied", "left_out", "notes"};
static const char *const words[STFS_IMPORT_REMARKS] = {"refused", "tied", "left out", "note:"};

static void append(void *data, struct stfs_str name, struct stfs_str text)
{
	struct json_object *item = stfs_jsonout_object();

	stfs_jsonout_add_text(item, "name", name);
	stfs_jsonout_add_text(item, "text", text);
	stfs_jsonout_append(data, item);
}

static struct json_object *make_json(const struct stfs_import *import)
{
	struct json_object *object = stfs_jsonout_object();

	stfs_jsonout_add_string(object, "form", stfs_import_form(import));
	stfs_jsonout_add_number(object, "outside", stfs_import_outside(import));
	for (int i = 0; i < STFS_IMPORT_REMARKS; i++) {
		struct json_object *list = stfs_jsonout_array();

		stfs_import_remarks(import, (enum stfs_import_remark)i, append, list);
		stfs_jsonout_add(object, keys[i], list);
	}
	return object;
}

/* ---- For people ---- */

struct listing {
	const char *what, *between;
	size_t count;
};

static void print_remark(void *data, struct stfs_str name, struct stfs_str text)
{
	STFS_AUTO_BUF struct stfs_buf line = STFS_BUF_INIT;
	struct listing *listing = data;

	if (listing->count++ >= LINES_MAX)
		return;
	stfs_buf_printf(&line, "  %s \"", listing->what);
	stfs_escape(name, STFS_ESCAPE_NAME, &line);
	stfs_buf_puts(&line, listing->between);
	stfs_escape(text, STFS_ESCAPE_LINE, &line);
	if (!stfs_buf_cstr(&line))
		stfs_cli_out_of_memory();
	puts(line.data);
}

int stfs_importing_after(struct stfs_editing *editing, void *data)
{
	const struct stfs_importing *importing = data;

	if (editing->json || editing->quiet)
		return STFS_EXIT_OK;
	for (int i = 0; i < STFS_IMPORT_REMARKS; i++) {
		struct listing listing = {words[i], i == STFS_IMPORT_TIED ? "\" to " : "\": ", 0};
		size_t more = stfs_import_remarks(importing->import, (enum stfs_import_remark)i, print_remark,
						  &listing);

		if (listing.count + more > LINES_MAX)
			printf("  ... and %zu more (--json lists them)\n", listing.count + more - LINES_MAX);
	}
	return STFS_EXIT_OK;
}

/* ---- Staging ---- */

static void did(void *editing, struct stfs_str name, uint64_t bytes)
{
	stfs_editing_did(editing, STFS_CHANGE_ADD, name, name, bytes);
}

int stfs_importing_stage(struct stfs_editing *editing, struct stfs_importing *importing)
{
	struct stfs_err err = STFS_ERR_INIT;
	int r = stfs_import_choose(importing->import, &importing->options, &err);

	if (r == 0)
		r = importing->in_place ? stfs_import_stage_in_place(importing->import, editing->edit, &err)
					: stfs_import_stage(importing->import, editing->edit, &err);
	if (r < 0) {
		stfs_cli_say("%s", err.message);
		return STFS_EXIT_FAILED;
	}
	stfs_import_each(importing->import, did, editing);
	if (editing->json)
		editing->extra = make_json(importing->import);
	return STFS_EXIT_OK;
}
