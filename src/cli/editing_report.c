/* SPDX-License-Identifier: MIT */
/* What edits come to, what their commit would do, and what it did. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/cleanup.h"
#include "base/escape.h"
#include "cli/editing.h"
#include "cli/human.h"
#include "cli/jsonout.h"

/* Edits that are told one by one; of more, their number. */
#define LINES_MAX 10

static const struct {
	const char *name; /* in JSON */
	const char *done, *planned, *one, *many;
} words[STFS_CHANGE_COUNT] = {
	{"add", "added", "add", "tensor", "tensors"},
	{"replace", "replaced", "replace", "tensor", "tensors"},
	{"remove", "removed", "remove", "tensor", "tensors"},
	{"rename", "renamed", "rename", "tensor", "tensors"},
	{"set", "set", "set", "metadata key", "metadata keys"},
	{"unset", "unset", "unset", "metadata key", "metadata keys"},
};

/* ---- Counting ---- */

static void list_it(struct stfs_tally *tally, enum stfs_change change, struct stfs_str name,
		    struct stfs_str other, uint64_t bytes)
{
	struct json_object *item = stfs_jsonout_object();

	if (!tally->list)
		tally->list = stfs_jsonout_array();
	stfs_jsonout_add_string(item, "edit", words[change].name);
	stfs_jsonout_add_text(item, change >= STFS_CHANGE_SET ? "key" : "name", name);
	if (change == STFS_CHANGE_RENAME)
		stfs_jsonout_add_text(item, "to", other);
	else if (change < STFS_CHANGE_SET)
		stfs_jsonout_add_number(item, "bytes", bytes);
	stfs_jsonout_append(tally->list, item);
}

void stfs_editing_did(struct stfs_editing *editing, enum stfs_change change, struct stfs_str name,
		      struct stfs_str other, uint64_t bytes)
{
	struct stfs_tally *tally = &editing->tally;

	tally->counts[change]++;
	tally->bytes[change] += bytes;
	if (editing->json)
		list_it(tally, change, name, other, bytes);
	if (tally->line_count++ >= LINES_MAX)
		return;
	stfs_buf_printf(&tally->lines, "  %s \"", words[change].planned);
	stfs_escape(name, STFS_ESCAPE_NAME, &tally->lines);
	stfs_buf_puts(&tally->lines, "\"");
	if (change == STFS_CHANGE_RENAME) {
		stfs_buf_puts(&tally->lines, " -> \"");
		stfs_escape(other, STFS_ESCAPE_NAME, &tally->lines);
		stfs_buf_puts(&tally->lines, "\"");
	} else if (change < STFS_CHANGE_SET) {
		stfs_buf_puts(&tally->lines, " (");
		stfs_human_size(bytes, false, &tally->lines);
		stfs_buf_puts(&tally->lines, ")");
	}
	stfs_buf_putc(&tally->lines, '\n');
}

static void tell_lines(struct stfs_tally *tally)
{
	if (tally->lines.len)
		fwrite(tally->lines.data, 1, tally->lines.len, stdout);
	if (tally->line_count > LINES_MAX)
		printf("  ... and %zu more\n", tally->line_count - LINES_MAX);
}

/* "removed 3 tensors (1.2 GiB), renamed 2 tensors" */
static void put_tally(const struct stfs_tally *tally, bool planned, struct stfs_buf *out)
{
	size_t begin = out->len;

	for (int i = 0; i < STFS_CHANGE_COUNT; i++) {
		if (!tally->counts[i])
			continue;
		stfs_buf_printf(out, "%s%s ", out->len > begin ? ", " : "",
				planned ? words[i].planned : words[i].done);
		stfs_human_count(tally->counts[i], out);
		stfs_buf_printf(out, " %s", tally->counts[i] == 1 ? words[i].one : words[i].many);
		if (i < STFS_CHANGE_RENAME) {
			stfs_buf_puts(out, " (");
			stfs_human_size(tally->bytes[i], false, out);
			stfs_buf_puts(out, ")");
		}
	}
}

/* ---- Plans ---- */

static const char *kind_name(const struct stfs_edit_file *file)
{
	if (file->is_index)
		return "index";
	if (file->is_new)
		return "new";
	switch (file->kind) {
	case STFS_PLAN_HEADER: return "header";
	case STFS_PLAN_IN_PLACE: return "in-place";
	case STFS_PLAN_CLONE: return "clone";
	case STFS_PLAN_REBUILD: return "rebuild";
	}
	return "";
}

static const char *kind_words(const struct stfs_edit_file *file)
{
	if (file->is_index)
		return "the index is written anew";
	if (file->is_new)
		return "a new file";
	switch (file->kind) {
	case STFS_PLAN_HEADER: return "only the header is written";
	case STFS_PLAN_IN_PLACE: return "changed in place";
	case STFS_PLAN_CLONE: return "a clone that shares its blocks is changed and replaces it";
	case STFS_PLAN_REBUILD: return "a new file is written and replaces it";
	}
	return "";
}

struct sums {
	uint64_t written, moved, shifted, header;
};

static struct sums add_up(const struct stfs_edit_result *result)
{
	struct sums sums = {0};

	for (size_t i = 0; i < result->count; i++) {
		sums.written += result->files[i].cost.written;
		sums.moved += result->files[i].cost.moved;
		sums.shifted += result->files[i].cost.shifted;
		sums.header += result->files[i].header;
	}
	return sums;
}

static struct json_object *file_json(const struct stfs_edit_file *file)
{
	struct json_object *object = stfs_jsonout_object();

	stfs_jsonout_add_string(object, "file", file->name);
	stfs_jsonout_add_string(object, "kind", kind_name(file));
	stfs_jsonout_add_number(object, "old_bytes", file->old_length);
	stfs_jsonout_add_number(object, "new_bytes", file->new_length);
	stfs_jsonout_add_number(object, "header", file->header);
	stfs_jsonout_add_number(object, "written", file->cost.written);
	stfs_jsonout_add_number(object, "moved", file->cost.moved);
	stfs_jsonout_add_number(object, "shifted", file->cost.shifted);
	stfs_jsonout_add_number(object, "shifts", file->shifts);
	stfs_jsonout_add_number(object, "space", file->cost.space);
	return object;
}

static uint64_t milliseconds(const struct stfs_editing *editing)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)((now.tv_sec - editing->began.tv_sec) * 1000 +
			  (now.tv_nsec - editing->began.tv_nsec) / 1000000);
}

static struct json_object *counts_json(const struct stfs_tally *tally)
{
	struct json_object *object = stfs_jsonout_object();

	for (int i = 0; i < STFS_CHANGE_COUNT; i++)
		stfs_jsonout_add_number(object, words[i].done, tally->counts[i]);
	return object;
}

static void print_json(struct stfs_editing *editing, const struct stfs_edit_result *result,
		       bool fits)
{
	struct json_object *object = stfs_jsonout_object(), *files = stfs_jsonout_array();
	struct sums sums = add_up(result);

	for (size_t i = 0; i < result->count; i++)
		stfs_jsonout_append(files, file_json(&result->files[i]));
	stfs_jsonout_add_string(object, "model", stfs_edit_path(editing->edit));
	stfs_jsonout_add_bool(object, "dry_run", editing->dry_run);
	stfs_jsonout_add(object, "counts", counts_json(&editing->tally));
	stfs_jsonout_add(object, "edits",
			 editing->tally.list ? editing->tally.list : stfs_jsonout_array());
	editing->tally.list = NULL;
	stfs_jsonout_add_number(object, "changed", result->changed);
	stfs_jsonout_add_number(object, "written", sums.written);
	stfs_jsonout_add_number(object, "moved", sums.moved);
	stfs_jsonout_add_number(object, "shifted", sums.shifted);
	stfs_jsonout_add_number(object, "header", sums.header);
	stfs_jsonout_add_number(object, "space", result->space);
	stfs_jsonout_add_number(object, "room", result->room);
	stfs_jsonout_add_bool(object, "fits", fits);
	stfs_jsonout_add_bool(object, "readers", result->readers);
	if (editing->punched)
		stfs_jsonout_add_number(object, "deallocated", editing->deallocated);
	stfs_jsonout_add(object, "files", files);
	if (editing->extra)
		stfs_jsonout_add(object, "checkpoint", editing->extra);
	editing->extra = NULL;
	stfs_jsonout_add_number(object, "milliseconds", milliseconds(editing));
	stfs_jsonout_print(object, true, stdout);
}

static void put_amount(const char *before, uint64_t bytes, const char *after, struct stfs_buf *out)
{
	stfs_buf_puts(out, before);
	stfs_human_size(bytes, false, out);
	stfs_buf_puts(out, after);
}

static void put_file(const struct stfs_edit_file *file, struct stfs_buf *out)
{
	stfs_escape(stfs_str_from(file->name), STFS_ESCAPE_LINE, out);
	stfs_buf_printf(out, ": %s", kind_words(file));
	if (!file->is_new)
		put_amount("; ", file->old_length, " -> ", out);
	put_amount(file->is_new ? ", " : "", file->new_length, "\n", out);
	if (file->is_index)
		return;
	put_amount("  header ", file->header, ", ", out);
	put_amount("", file->cost.written, " written, ", out);
	put_amount("", file->cost.moved, " moved", out);
	if (file->shifts) {
		put_amount(", ", file->cost.shifted, " shifted without being read", out);
		stfs_buf_printf(out, " (%zu call%s)", file->shifts, file->shifts == 1 ? "" : "s");
	}
	stfs_buf_putc(out, '\n');
}

/* Where there is no room for any plan there is none to tell of but what it needs. */
static void put_plan(struct stfs_editing *editing, const struct stfs_edit_result *result, bool fits,
		     struct stfs_buf *out)
{
	for (size_t i = 0; fits && i < result->count; i++)
		put_file(&result->files[i], out);
	if (editing->punched)
		put_amount("  ", editing->deallocated, " of zeros would be deallocated\n", out);
	if (result->readers)
		stfs_buf_puts(out,
			      "Another program has the model open: no live bytes are moved under "
			      "it (--readers=ignore)\n");
	if (!result->count)
		return;
	put_amount("needs ", result->space, " of disk for a while, ", out);
	put_amount("", result->room, " are free\n", out);
}

int stfs_editing_tell_plan(struct stfs_editing *editing)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	struct stfs_edit_result result = {0};
	struct stfs_err err = STFS_ERR_INIT;
	int r = 0;

	if (stfs_edit_pending(editing->edit))
		r = stfs_edit_plan(editing->edit, &result, &err);
	if (r < 0 && r != -ENOSPC)
		return stfs_editing_error(editing, r, &err);
	if (editing->json) {
		print_json(editing, &result, r == 0);
	} else if (!editing->quiet) {
		stfs_buf_puts(&text, "would ");
		put_tally(&editing->tally, true, &text);
		if (text.len == strlen("would "))
			stfs_buf_puts(&text, result.count ? "tidy up" : "change nothing");
		stfs_buf_puts(&text, "\n");
		fwrite(text.data, 1, text.len, stdout);
		tell_lines(&editing->tally);
		stfs_buf_clear(&text);
		put_plan(editing, &result, r == 0, &text);
		if (!stfs_buf_cstr(&text))
			stfs_cli_out_of_memory();
		fputs(text.data, stdout);
	}
	if (r == -ENOSPC)
		stfs_editing_error(editing, r, &err);
	stfs_edit_result_free(&result);
	return r == 0 ? STFS_EXIT_OK : STFS_EXIT_FAILED;
}

/* ---- Results ---- */

void stfs_editing_tell_result(struct stfs_editing *editing, const struct stfs_edit_result *result)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	struct sums sums = add_up(result);

	if (editing->json) {
		print_json(editing, result, true);
		return;
	}
	if (editing->quiet)
		return;
	if (editing->editor->tells_names)
		tell_lines(&editing->tally);
	put_tally(&editing->tally, false, &text);
	if (!text.len)
		stfs_buf_puts(&text, result->count ? "done" : "nothing to change");
	if (result->count) {
		put_amount("; wrote ", sums.written, "", &text);
		put_amount(", moved ", sums.moved, "", &text);
	}
	if (editing->punched)
		put_amount("; deallocated ", editing->deallocated, " of zeros", &text);
	stfs_buf_printf(&text, ", in %" PRIu64 " ms\n", milliseconds(editing));
	if (!stfs_buf_cstr(&text))
		stfs_cli_out_of_memory();
	fputs(text.data, stdout);
}
