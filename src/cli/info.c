/* SPDX-License-Identifier: MIT */
#include <inttypes.h>

#include "base/escape.h"
#include "cli/cli.h"
#include "cli/human.h"
#include "cli/jsonout.h"
#include "cli/remarks.h"
#include "cli/table.h"
#include "format/sidecar.h"
#include "ops/summary.h"

/* Of a metadata value where there is no terminal to fit. */
#define VALUE_WIDTH 80

static const struct stfs_column facts_columns[] = {{"", .right = false}, {"", .shrinks = true}};
static const struct stfs_column dtype_columns[] = {
	{"dtype"}, {"tensors", .right = true},
	{"parameters", .right = true}, {"size", .right = true},
	{"share", .right = true}};
static const struct stfs_column largest_columns[] = {
	{"largest", .shrinks = true}, {"dtype"}, {"shape"}, {"size", .right = true},
	{"share", .right = true}};

/* ---- For people ---- */

static void print_table(struct stfs_table *table)
{
	if (stfs_table_print(table, stfs_cli_width(), stdout) < 0)
		stfs_cli_out_of_memory();
}

static void add_text(struct stfs_table *table, const char *label, struct stfs_str text)
{
	stfs_table_put(table, label);
	stfs_escape(text, STFS_ESCAPE_LINE, &table->text);
	stfs_table_cell(table);
}

static void tell_files(const struct stfs_model *model, const struct stfs_summary *summary,
		       struct stfs_table *table)
{
	struct stfs_buf *out = &table->text;

	add_text(table, "model", stfs_str_from(model->resolved.path));
	add_text(table, model->resolved.is_index ? "index" : "file",
		 stfs_str_from(model->resolved.name));
	stfs_table_put(table, "size");
	stfs_human_size(summary->file_bytes, false, out);
	stfs_buf_puts(out, " (");
	stfs_human_count(summary->file_bytes, out);
	stfs_buf_puts(out, " bytes)");
	stfs_table_cell(table);
	if (!stfs_model_is_sharded(model))
		return;
	stfs_table_put(table, "shards");
	stfs_buf_printf(out, "%" PRIu32, model->shard_count);
	if (model->index.has_total_size) {
		stfs_buf_puts(out, ", total_size ");
		stfs_human_count(model->index.total_size, out);
		stfs_buf_puts(out, model->index.total_size == summary->all.bytes
				   ? "" : " (the tensors have another)");
	}
	stfs_table_cell(table);
}

static void tell_header(const struct stfs_summary *summary, struct stfs_table *table)
{
	struct stfs_buf *out = &table->text;

	stfs_table_put(table, "header");
	stfs_human_size(summary->header_bytes, false, out);
	stfs_buf_puts(out, ", of which ");
	stfs_human_size(summary->slack, false, out);
	stfs_buf_puts(out, " slack");
	stfs_table_cell(table);
	stfs_table_put(table, "alignment");
	stfs_buf_printf(out, "data at a multiple of %" PRIu32, summary->alignment);
	if (summary->unaligned)
		stfs_buf_printf(out, ", %" PRIu32 " tensors not at a multiple of their element",
				summary->unaligned);
	stfs_table_cell(table);
}

static void tell_facts(const struct stfs_model *model, const struct stfs_summary *summary)
{
	struct stfs_table table = STFS_TABLE_INIT(facts_columns);
	struct stfs_buf *out = &table.text;

	table.headless = true;
	tell_files(model, summary, &table);
	stfs_table_put(&table, "tensors");
	stfs_human_count(summary->all.tensors, out);
	stfs_table_cell(&table);
	stfs_table_put(&table, "parameters");
	stfs_human_amount(summary->all.elements, out);
	if (summary->all.elements >= 1000) {
		stfs_buf_puts(out, " (");
		stfs_human_count(summary->all.elements, out);
		stfs_buf_putc(out, ')');
	}
	stfs_table_cell(&table);
	if (!stfs_model_has_checkpoint(model))
		tell_header(summary, &table);
	for (uint32_t i = 0; i < model->shard_count; i++)
		if (model->shards[i].torch)
			stfs_remarks_add_facts(&model->shards[i], &table);
	print_table(&table);
}

static void tell_dtypes(const struct stfs_summary *summary)
{
	struct stfs_table table = STFS_TABLE_INIT(dtype_columns);

	for (unsigned i = 0; i < STFS_DTYPE_COUNT; i++) {
		const struct stfs_summary_part *part = &summary->dtypes[i];

		if (!part->tensors)
			continue;
		stfs_table_put(&table, stfs_dtype_info((enum stfs_dtype)i)->name);
		stfs_human_count(part->tensors, &table.text);
		stfs_table_cell(&table);
		stfs_human_amount(part->elements, &table.text);
		stfs_table_cell(&table);
		stfs_human_size(part->bytes, false, &table.text);
		stfs_table_cell(&table);
		stfs_human_share(part->bytes, summary->all.bytes, &table.text);
		stfs_table_cell(&table);
	}
	putchar('\n');
	print_table(&table);
}

static void tell_largest(const struct stfs_model *model, const struct stfs_summary *summary)
{
	struct stfs_table table = STFS_TABLE_INIT(largest_columns);
	struct stfs_tensor_ref ref;

	for (uint32_t i = 0; i < summary->largest_count; i++) {
		if (!stfs_model_tensor(model, summary->largest[i], &ref))
			continue;
		stfs_escape(ref.name, STFS_ESCAPE_NAME, &table.text);
		stfs_table_cell(&table);
		stfs_table_put(&table, ref.dtype->name);
		stfs_human_shape(&ref, &table.text);
		stfs_table_cell(&table);
		stfs_human_size(ref.len, false, &table.text);
		stfs_table_cell(&table);
		stfs_human_share(ref.len, summary->all.bytes, &table.text);
		stfs_table_cell(&table);
	}
	putchar('\n');
	print_table(&table);
}

/* A value on one line: line breaks become spaces, the rest is cut. */
static int add_pair(void *data, struct stfs_str key, struct stfs_str value)
{
	struct stfs_table *table = data;
	STFS_AUTO_BUF struct stfs_buf line = STFS_BUF_INIT;
	size_t len = value.len < 4 * VALUE_WIDTH ? value.len : 4 * VALUE_WIDTH;

	/* Not in the middle of a character. */
	while (len > 0 && len < value.len && ((unsigned char)value.ptr[len] & 0xc0) == 0x80)
		len--;
	stfs_escape(key, STFS_ESCAPE_NAME, &table->text);
	stfs_table_cell(table);
	for (size_t i = 0; i < len; i++)
		stfs_buf_putc(&line, value.ptr[i] == '\n' || value.ptr[i] == '\t' ? ' '
									     : value.ptr[i]);
	stfs_escape(stfs_buf_str(&line), STFS_ESCAPE_LINE, &table->text);
	if (len < value.len)
		stfs_buf_printf(&table->text, "... (%zu bytes)", value.len);
	stfs_table_cell(table);
	return stfs_buf_status(&table->text);
}

static void tell_metadata(const struct stfs_model *model)
{
	struct stfs_table table = STFS_TABLE_INIT(facts_columns);

	if (!stfs_model_has_metadata(model)) {
		puts("\nno metadata");
		return;
	}
	table.headless = true;
	table.indent = "  ";
	if (stfs_model_metadata(model, add_pair, &table) < 0)
		stfs_cli_out_of_memory();
	puts("\nmetadata");
	if (stfs_table_print(&table, stfs_cli_width() ? stfs_cli_width() : 2 * VALUE_WIDTH,
			     stdout) < 0)
		stfs_cli_out_of_memory();
}

/* ---- For programs ---- */

static int add_json_pair(void *data, struct stfs_str key, struct stfs_str value)
{
	struct stfs_buf *text = data;

	if (text->len > 1)
		stfs_buf_putc(text, ',');
	stfs_json_quote(key, text);
	stfs_buf_putc(text, ':');
	return stfs_json_quote(value, text);
}

/* Written here and not built of json-c's objects, whose keys cannot hold NUL. */
static struct json_object *metadata_json(const struct stfs_model *model)
{
	struct json_object *object = stfs_jsonout_object();
	struct stfs_buf text = STFS_BUF_INIT;

	stfs_buf_putc(&text, '{');
	if (stfs_model_metadata(model, add_json_pair, &text) < 0)
		stfs_cli_out_of_memory();
	stfs_buf_putc(&text, '}');
	if (!stfs_buf_cstr(&text))
		stfs_cli_out_of_memory();
	json_object_set_serializer(object, json_object_userdata_to_json_string, text.data,
				   json_object_free_userdata);
	return object;
}

static struct json_object *part_json(const struct stfs_summary_part *part)
{
	struct json_object *object = stfs_jsonout_object();

	stfs_jsonout_add_number(object, "tensors", part->tensors);
	stfs_jsonout_add_number(object, "parameters", part->elements);
	stfs_jsonout_add_number(object, "bytes", part->bytes);
	return object;
}

static struct json_object *files_json(const struct stfs_model *model)
{
	struct json_object *files = stfs_jsonout_array();

	for (uint32_t i = 0; i < model->shard_count; i++) {
		const struct stfs_shard *shard = &model->shards[i];
		struct json_object *file = stfs_jsonout_object();

		stfs_jsonout_add_string(file, "file", shard->name);
		stfs_jsonout_add_number(file, "size", shard->size);
		stfs_jsonout_add_number(file, "header_bytes",
					shard->torch ? 0 : stfs_header_data_start(shard->header));
		stfs_jsonout_add_number(file, "slack", shard->torch ? 0 : shard->header->slack);
		stfs_jsonout_add_number(file, "tensors", shard->header->count);
		if (shard->torch)
			stfs_jsonout_add(file, "checkpoint", stfs_remarks_json(shard));
		stfs_jsonout_append(files, file);
	}
	return files;
}

static struct json_object *largest_json(const struct stfs_model *model,
					const struct stfs_summary *summary)
{
	struct json_object *largest = stfs_jsonout_array();
	struct stfs_tensor_ref ref;

	for (uint32_t i = 0; i < summary->largest_count; i++)
		if (stfs_model_tensor(model, summary->largest[i], &ref))
			stfs_jsonout_append(largest, stfs_jsonout_tensor(&ref));
	return largest;
}

static void print_json(const struct stfs_model *model, const struct stfs_summary *summary)
{
	struct json_object *object = stfs_jsonout_object(), *dtypes = stfs_jsonout_object();

	stfs_jsonout_add_string(object, "model", model->resolved.path);
	stfs_jsonout_add_bool(object, "tolerant", model->tolerated);
	stfs_jsonout_add_bool(object, "sharded", stfs_model_is_sharded(model));
	stfs_jsonout_add_number(object, "size", summary->file_bytes);
	stfs_jsonout_add_number(object, "tensors", summary->all.tensors);
	stfs_jsonout_add_number(object, "parameters", summary->all.elements);
	stfs_jsonout_add_number(object, "bytes", summary->all.bytes);
	stfs_jsonout_add_number(object, "header_bytes", summary->header_bytes);
	stfs_jsonout_add_number(object, "slack", summary->slack);
	stfs_jsonout_add_number(object, "alignment", summary->alignment);
	stfs_jsonout_add_number(object, "unaligned", summary->unaligned);
	if (stfs_model_is_sharded(model))
		stfs_jsonout_add(object, "total_size", model->index.has_total_size
			? json_object_new_uint64(model->index.total_size) : NULL);
	for (unsigned i = 0; i < STFS_DTYPE_COUNT; i++)
		if (summary->dtypes[i].tensors)
			stfs_jsonout_add(dtypes, stfs_dtype_info((enum stfs_dtype)i)->name,
					 part_json(&summary->dtypes[i]));
	stfs_jsonout_add(object, "dtypes", dtypes);
	stfs_jsonout_add(object, "largest", largest_json(model, summary));
	stfs_jsonout_add(object, "metadata",
			 stfs_model_has_metadata(model) ? metadata_json(model) : NULL);
	stfs_jsonout_add(object, "files", files_json(model));
	stfs_jsonout_print(object, true, stdout);
}

/* ---- The verb ---- */

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		{"json", no_argument, NULL, 'j'}, STFS_CLI_HELP, {0}};
	STFS_AUTO_MODEL struct stfs_model *model = NULL;
	struct stfs_summary summary;
	bool json = false;
	int c;

	while ((c = getopt_long(argc, argv, ":jh", options, NULL)) != -1) {
		if (c != 'j')
			return stfs_cli_option(&stfs_verb_info, c, argv);
		json = true;
	}
	if (argc - optind != 1)
		return stfs_cli_usage(&stfs_verb_info, "info: name one model");
	model = stfs_cli_open(argv[optind]);
	if (!model)
		return STFS_EXIT_FAILED;
	stfs_summary_make(model, &summary);
	if (json) {
		print_json(model, &summary);
		return STFS_EXIT_OK;
	}
	tell_facts(model, &summary);
	if (summary.all.tensors) {
		tell_dtypes(&summary);
		tell_largest(model, &summary);
	}
	tell_metadata(model);
	for (uint32_t i = 0; i < model->shard_count; i++)
		if (model->shards[i].torch)
			stfs_remarks_tell(&model->shards[i]);
	return STFS_EXIT_OK;
}

const struct stfs_verb stfs_verb_info = {
	.name = "info",
	.synopsis = "[--json] MODEL",
	.summary = "a model at a glance: size, tensors, dtypes, metadata",
	.help =
		"  -j, --json   for programs: all of it, metadata values in full\n"
		"\n"
		"Reads the headers only, so it takes no longer on a model of 100 GB. Of a PyTorch\n"
		"checkpoint it also tells what is tied, left out, or cannot be shown.\n"
		"\n"
		"  stfs info model.safetensors\n"
		"  stfs info ~/models/llama/             a sharded model, by its folder\n"
		"  stfs info --json model.safetensors | jq -r .metadata.format\n",
	.run = run,
};
