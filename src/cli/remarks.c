/* SPDX-License-Identifier: MIT */
#include "cli/remarks.h"

#include <inttypes.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/escape.h"
#include "cli/cli.h"
#include "cli/human.h"
#include "cli/jsonout.h"
#include "store/checkpoint.h"

/* Of a kind, to people. */
#define TOLD 10
#define SAID 3
#define WIDTH 80

struct facts {
	uint32_t storages, tensors, twins, assembled;
	uint64_t storage_bytes;
};

static struct facts find_facts(const struct stfs_shard *shard)
{
	struct facts facts = {0};
	const struct stfs_torch_storage *storages = stfs_torch_storages(shard->torch, &facts.storages);
	const struct stfs_torch_tensor *tensors = stfs_torch_tensors(shard->torch, &facts.tensors);

	for (uint32_t i = 0; i < facts.storages; i++)
		if (stfs_add_overflows(facts.storage_bytes, storages[i].size, &facts.storage_bytes))
			facts.storage_bytes = UINT64_MAX;
	for (uint32_t i = 0; i < facts.tensors; i++) {
		facts.twins += tensors[i].twin != STFS_NO_TWIN;
		facts.assembled += tensors[i].bytes && !stfs_torch_is_plain(shard->torch, &tensors[i]);
	}
	return facts;
}

static size_t count_of(const struct stfs_torch_remarks *remarks)
{
	return remarks->count + remarks->more;
}

/* A row, when there are any. */
static void add_count(struct stfs_table *table, const char *label, uint32_t count, const char *one, const char *several)
{
	if (!count)
		return;
	stfs_table_put(table, label);
	stfs_human_count(count, &table->text);
	stfs_buf_puts(&table->text, count == 1 ? one : several);
	stfs_table_cell(table);
}

void stfs_remarks_add_facts(const struct stfs_shard *shard, struct stfs_table *table)
{
	struct facts facts = find_facts(shard);
	struct stfs_buf *out = &table->text;

	stfs_table_put(table, "form");
	stfs_buf_printf(out, "PyTorch checkpoint (%s), read without running it",
			stfs_torch_form_name(stfs_torch_form(shard->torch)));
	stfs_table_cell(table);
	stfs_table_put(table, "storages");
	stfs_human_count(facts.storages, out);
	stfs_buf_puts(out, ", ");
	stfs_human_size(facts.storage_bytes, false, out);
	stfs_table_cell(table);
	add_count(table, "tied", facts.twins, " tensor is another by a second name",
		  " tensors are others by a second name");
	add_count(table, "assembled", facts.assembled, " tensor is put together when it is read",
		  " tensors are put together when they are read");
}

/* On one line, and not longer than a terminal is. */
static void put_text(struct stfs_str text, struct stfs_buf *out)
{
	STFS_AUTO_BUF struct stfs_buf line = STFS_BUF_INIT;

	stfs_escape(stfs_str_slice(text.ptr, stfs_min_u64(text.len, 4 * WIDTH)), STFS_ESCAPE_LINE, &line);
	stfs_text_shorten(stfs_buf_str(&line), WIDTH, out);
}

static void tell(const char *title, const struct stfs_torch_remarks *remarks)
{
	static const struct stfs_column columns[] = {{"", .shrinks = true}, {""}};
	struct stfs_table table = STFS_TABLE_INIT(columns);
	size_t told = stfs_min_u64(remarks->count, TOLD);

	if (count_of(remarks) == 0)
		return;
	printf("\n%s (%zu)\n", title, count_of(remarks));
	table.headless = true;
	table.indent = "  ";
	for (size_t i = 0; i < told; i++) {
		stfs_escape(remarks->items[i].name, STFS_ESCAPE_NAME, &table.text);
		stfs_table_cell(&table);
		put_text(remarks->items[i].text, &table.text);
		stfs_table_cell(&table);
	}
	if (stfs_table_print(&table, stfs_cli_width() ? stfs_cli_width() : 2 * WIDTH, stdout) < 0)
		stfs_cli_out_of_memory();
	if (count_of(remarks) > told)
		printf("  and %zu more (--json lists them)\n", count_of(remarks) - told);
}

void stfs_remarks_tell(const struct stfs_shard *shard)
{
	tell("tensors that no safetensors file can hold", stfs_torch_refused(shard->torch));
	tell("left out", stfs_torch_left_out(shard->torch));
	tell("notes", stfs_torch_notes(shard->torch));
}

static void add_list(struct json_object *object, const char *key, const struct stfs_torch_remarks *remarks)
{
	struct json_object *list = stfs_jsonout_array();

	for (size_t i = 0; i < remarks->count; i++) {
		struct json_object *item = stfs_jsonout_object();

		stfs_jsonout_add_text(item, "name", remarks->items[i].name);
		stfs_jsonout_add_text(item, "why", remarks->items[i].text);
		stfs_jsonout_append(list, item);
	}
	stfs_jsonout_add(object, key, list);
}

static void add_tied(struct json_object *object, const struct stfs_torch *torch)
{
	struct json_object *tied = stfs_jsonout_array();
	const struct stfs_torch_tensor *tensors;
	uint32_t count;

	tensors = stfs_torch_tensors(torch, &count);
	for (uint32_t i = 0; i < count; i++) {
		struct json_object *item;

		if (tensors[i].twin == STFS_NO_TWIN)
			continue;
		item = stfs_jsonout_object();
		stfs_jsonout_add_text(item, "name", tensors[i].name);
		stfs_jsonout_add_text(item, "to", tensors[tensors[i].twin].name);
		stfs_jsonout_append(tied, item);
	}
	stfs_jsonout_add(object, "tied", tied);
}

struct json_object *stfs_remarks_json(const struct stfs_shard *shard)
{
	struct json_object *object = stfs_jsonout_object();
	struct facts facts = find_facts(shard);

	stfs_jsonout_add_string(object, "form", stfs_torch_form_name(stfs_torch_form(shard->torch)));
	stfs_jsonout_add_number(object, "storages", facts.storages);
	stfs_jsonout_add_number(object, "storage_bytes", facts.storage_bytes);
	stfs_jsonout_add_number(object, "assembled", facts.assembled);
	stfs_jsonout_add_number(object, "leaves", count_of(stfs_torch_leaves(shard->torch)));
	add_tied(object, shard->torch);
	add_list(object, "refused", stfs_torch_refused(shard->torch));
	add_list(object, "left_out", stfs_torch_left_out(shard->torch));
	add_list(object, "notes", stfs_torch_notes(shard->torch));
	return object;
}

static void say_refused(const char *path, const struct stfs_torch_remarks *refused)
{
	STFS_AUTO_BUF struct stfs_buf line = STFS_BUF_INIT;
	char quoted[STFS_QUOTED_MAX];
	size_t said = stfs_min_u64(refused->count, SAID);

	for (size_t i = 0; i < said; i++) {
		stfs_buf_printf(&line, "%s\"%s\" (", i ? ", " : "", stfs_quote(refused->items[i].name, quoted));
		put_text(refused->items[i].text, &line);
		stfs_buf_putc(&line, ')');
	}
	if (count_of(refused) > said)
		stfs_buf_printf(&line, " and %zu more (`stfs info --json` lists them)", count_of(refused) - said);
	if (!stfs_buf_cstr(&line))
		stfs_cli_out_of_memory();
	stfs_cli_say("%s: not shown, for no safetensors file can hold %s: %s", path,
		     count_of(refused) == 1 ? "it" : "them", line.data);
}

void stfs_remarks_say_refused(const struct stfs_model *model)
{
	for (uint32_t i = 0; i < model->shard_count; i++) {
		const struct stfs_shard *shard = &model->shards[i];

		if (shard->torch && count_of(stfs_torch_refused(shard->torch)))
			say_refused(stfs_model_is_sharded(model) ? shard->name : model->resolved.path,
				    stfs_torch_refused(shard->torch));
	}
}
