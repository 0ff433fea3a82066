/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/escape.h"
#include "cli/editors.h"
#include "cli/jsonout.h"
#include "cli/metatext.h"
#include "cli/table.h"
#include "format/json.h"
#include "ops/near.h"

/* Options in the order in which they stand: --clear --set a=b is not --set a=b --clear. */
struct action {
	int option;
	const char *argument; /* borrowed */
};

struct request {
	struct action *actions; /* owned */
	size_t count;
	const char *get; /* borrowed; NULL: all */
};

enum { OPT_GET = STFS_CLI_LONG, OPT_SET, OPT_UNSET, OPT_EDIT, OPT_CLEAR };

static const struct option options[] = {
	{"get", required_argument, NULL, OPT_GET},
	{"set", required_argument, NULL, OPT_SET},
	{"unset", required_argument, NULL, OPT_UNSET},
	{"edit", no_argument, NULL, OPT_EDIT},
	{"clear", no_argument, NULL, OPT_CLEAR},
	{0}};

static int take(struct stfs_editing *editing, void *data, int option, char *argument)
{
	struct request *request = data;
	struct action *actions;

	if (option == OPT_GET) {
		request->get = argument;
		return -1;
	}
	if (option == OPT_EDIT && editing->batch)
		return stfs_editing_usage(editing, &stfs_editor_metadata,
					  "--edit has no place in a batch");
	if (option == OPT_SET && !strchr(argument, '='))
		return stfs_editing_usage(editing, &stfs_editor_metadata,
					  "--set KEY=VALUE or KEY=@FILE, not %s", argument);
	actions = reallocarray(request->actions, request->count + 1, sizeof(*actions));
	if (!actions)
		stfs_cli_out_of_memory();
	request->actions = actions;
	actions[request->count++] = (struct action){option, argument};
	return -1;
}

static void release(void *data)
{
	free(((struct request *)data)->actions);
}

/* ---- Showing ---- */

/* Bytes of a value where there is no terminal to fit. */
#define VALUE_MAX 160

static int add_row(void *data, struct stfs_str key, struct stfs_str value)
{
	struct stfs_table *table = data;
	size_t len = value.len < VALUE_MAX ? value.len : VALUE_MAX;

	/* Not in the middle of a character. */
	while (len > 0 && len < value.len && ((unsigned char)value.ptr[len] & 0xc0) == 0x80)
		len--;
	stfs_escape(key, STFS_ESCAPE_NAME, &table->text);
	stfs_table_cell(table);
	stfs_escape(stfs_str_slice(value.ptr, len), STFS_ESCAPE_LINE, &table->text);
	if (len < value.len)
		stfs_buf_printf(&table->text, "... (%zu bytes; --get has it in full)", value.len);
	stfs_table_cell(table);
	return stfs_buf_status(&table->text);
}

static int show_all(const struct stfs_model *model, bool json)
{
	static const struct stfs_column columns[] = {{"key"}, {"value", .shrinks = true}};
	struct stfs_table table = STFS_TABLE_INIT(columns);
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;

	if (json) {
		if (stfs_metatext_of_model(model, &text) < 0)
			stfs_cli_out_of_memory();
		stfs_jsonout_write(stfs_buf_str(&text), stdout);
		return STFS_EXIT_OK;
	}
	if (!stfs_model_has_metadata(model))
		return STFS_EXIT_OK;
	table.headless = true;
	if (stfs_model_metadata(model, add_row, &table) < 0 ||
	    stfs_table_print(&table, stfs_cli_width(), stdout) < 0)
		stfs_cli_out_of_memory();
	return STFS_EXIT_OK;
}

struct search {
	struct stfs_str key;
	struct stfs_buf value;
	bool found;
	struct stfs_near near;
	struct stfs_names keys;
};

static int look(void *data, struct stfs_str key, struct stfs_str value)
{
	struct search *search = data;

	if (stfs_str_equal(key, search->key)) {
		search->found = true;
		return stfs_buf_add_str(&search->value, value);
	}
	stfs_near_offer(&search->near, key, (uint32_t)search->keys.count);
	return stfs_names_add(&search->keys, key);
}

static void free_search(struct search *search)
{
	stfs_buf_free(&search->value);
	stfs_names_free(&search->keys);
}

/* No metadata is called `key`. */
static void put_missing(struct search *search, struct stfs_buf *out)
{
	char quoted[STFS_QUOTED_MAX];

	stfs_buf_printf(out, "no metadata \"%s\"", stfs_quote(search->key, quoted));
	for (size_t i = 0; i < search->near.count; i++)
		stfs_buf_printf(
			out, "%s\"%s\"", i ? ", " : " (did you mean ",
			stfs_quote(stfs_names_at(&search->keys, search->near.numbers[i]), quoted));
	stfs_buf_puts(out, search->near.count	? "?)"
			   : search->keys.count ? ""
						: "; there is none at all");
	if (!stfs_buf_cstr(out))
		stfs_cli_out_of_memory();
}

/* As it is for a program or a file; on a terminal nothing that it would obey, and a line break. */
static void print_value(struct stfs_str value, bool json)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	size_t begin = 0, end;

	if (json) {
		stfs_json_quote(value, &text);
		stfs_buf_putc(&text, '\n');
		stfs_jsonout_write(stfs_buf_str(&text), stdout);
		return;
	}
	if (!stfs_cli_is_terminal()) {
		fwrite(value.ptr, 1, value.len, stdout);
		return;
	}
	for (end = 0; end <= value.len; end++) {
		if (end < value.len && value.ptr[end] != '\n' && value.ptr[end] != '\t')
			continue;
		stfs_escape(stfs_str_slice(value.ptr + begin, end - begin), STFS_ESCAPE_LINE,
			    &text);
		stfs_buf_putc(&text, end < value.len ? value.ptr[end] : '\n');
		begin = end + 1;
	}
	fwrite(text.data, 1, text.len, stdout);
}

static int show_one(const struct stfs_model *model, const char *key, bool json)
{
	STFS_CLEANUP(free_search) struct search search = {.key = stfs_str_from(key)};
	STFS_AUTO_BUF struct stfs_buf missing = STFS_BUF_INIT;

	search.near.wanted = search.key;
	if (stfs_model_metadata(model, look, &search) < 0)
		stfs_cli_out_of_memory();
	if (search.found) {
		print_value(stfs_buf_str(&search.value), json);
		return STFS_EXIT_OK;
	}
	put_missing(&search, &missing);
	stfs_cli_say("%s: %s", model->resolved.path, missing.data);
	return STFS_EXIT_FAILED;
}

/* ---- Changing ---- */

static int unset(struct stfs_editing *editing, const char *key)
{
	STFS_CLEANUP(free_search) struct search search = {.key = stfs_str_from(key)};
	STFS_AUTO_BUF struct stfs_buf missing = STFS_BUF_INIT;
	struct stfs_err err = STFS_ERR_INIT;
	int r;

	search.near.wanted = search.key;
	if (stfs_edit_metadata(editing->edit, look, &search) < 0)
		stfs_cli_out_of_memory();
	if (!search.found) {
		put_missing(&search, &missing);
		return stfs_editing_fail(editing, "%s", missing.data);
	}
	r = stfs_edit_unset(editing->edit, search.key, &err);
	if (r < 0)
		return stfs_editing_error(editing, r, &err);
	stfs_editing_did(editing, STFS_CHANGE_UNSET, search.key, search.key, 0);
	return STFS_EXIT_OK;
}

static int stage(struct stfs_editing *editing, void *data, char **words, int count)
{
	struct request *request = data;
	int code = STFS_EXIT_OK;

	if (count || !request->count || request->get)
		return stfs_editing_usage(editing, &stfs_editor_metadata,
					  "say what to change: --set, --unset, --clear");
	for (size_t i = 0; code == STFS_EXIT_OK && i < request->count; i++) {
		switch (request->actions[i].option) {
		case OPT_SET:
			code = stfs_metatext_set(editing, request->actions[i].argument);
			break;
		case OPT_UNSET: code = unset(editing, request->actions[i].argument); break;
		case OPT_CLEAR: code = stfs_metatext_clear(editing); break;
		case OPT_EDIT: code = stfs_metatext_edit(editing); break;
		}
	}
	return code;
}

/* Reads where nothing is to be changed, and then needs no right to write. */
static int open_model(struct stfs_editing *editing, void *data, char ***words, int *count)
{
	STFS_AUTO_MODEL struct stfs_model *model = NULL;
	const struct request *request = data;
	const char *path;

	if (*count != 1)
		return stfs_cli_usage(&stfs_verb_metadata, "metadata: name one model");
	if (request->get && request->count)
		return stfs_cli_usage(&stfs_verb_metadata,
				      "metadata: --get, or a change, not both");
	path = (*words)[0];
	++*words;
	--*count;
	if (request->count)
		return stfs_editing_open(editing, path);
	model = stfs_cli_open(path);
	if (!model)
		return STFS_EXIT_FAILED;
	return request->get ? show_one(model, request->get, editing->json)
			    : show_all(model, editing->json);
}

const struct stfs_editor stfs_editor_metadata = {
	.verb = &stfs_verb_metadata,
	.options = options,
	.request_size = sizeof(struct request),
	.take = take,
	.release = release,
	.open = open_model,
	.stage = stage,
	.in_batch = true,
};

static int run(int argc, char **argv)
{
	return stfs_editing_run(&stfs_editor_metadata, argc, argv);
}

const struct stfs_verb stfs_verb_metadata = {
	.name = "metadata",
	.synopsis = "[OPTION...] MODEL",
	.summary = "show or change the model's __metadata__",
	.help =
		"      --get KEY        print this value as it is\n"
		"      --set KEY=VALUE  set it; KEY=@FILE takes the value from a file (@-:\n"
		"                       standard input; @@ stands for one @)\n"
		"      --unset KEY      remove it; an error when it is not there\n"
		"      --clear          remove all\n"
		"      --edit           all of it as JSON in $VISUAL or $EDITOR; what does not\n"
		"                       parse is refused and your text kept\n"
		STFS_EDITING_HELP
		"\n"
		"Without options prints all pairs, long values cut; with --json an object with\n"
		"all of it. Changes apply in the order in which they stand, in one commit; only\n"
		"the header is written. Keys and values are text. Of a sharded model every file\n"
		"gets them.\n"
		"\n"
		"  stfs metadata model.safetensors --set format=pt\n"
		"  stfs metadata model.safetensors --get prompt | jq .\n"
		"  stfs metadata model.safetensors --set modelspec.description=@README.md\n"
		"  stfs metadata model.safetensors --clear --set format=pt\n",
	.run = run,
};
