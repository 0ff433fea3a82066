/* SPDX-License-Identifier: MIT */
#include "cli/globals.h"

#include <inttypes.h>

#include "base/escape.h"
#include "cli/cli.h"
#include "cli/jsonout.h"
#include "cli/table.h"
#include "ops/scan.h"

#define VERDICTS 3

/* "os.system", as it stands there. */
static void put_name(struct stfs_str module, struct stfs_str name, const char *unnamed, struct stfs_buf *out)
{
	if (module.len == 0 && name.len == 0) {
		stfs_buf_puts(out, unnamed);
		return;
	}
	stfs_escape(module, STFS_ESCAPE_NAME, out);
	stfs_buf_putc(out, '.');
	stfs_escape(name, STFS_ESCAPE_NAME, out);
}

static size_t listed_count(const struct stfs_torch *torch)
{
	return torch ? stfs_torch_global_count(torch) : 0;
}

static void tell_verdict(const struct stfs_torch *torch, enum stfs_global_verdict verdict, struct stfs_table *table,
			 size_t *told)
{
	size_t count = listed_count(torch);

	for (size_t i = 0; i < count && *told < STFS_GLOBALS_TOLD; i++) {
		struct stfs_torch_global global = stfs_torch_global(torch, i);

		if (global.verdict != verdict)
			continue;
		stfs_table_put(table, stfs_global_verdict_name(verdict));
		put_name(global.module, global.name, "(a number of the extension registry)", &table->text);
		stfs_table_cell(table);
		stfs_buf_printf(&table->text, "byte %" PRIu64 "%s", global.at,
				stfs_torch_form(torch) == STFS_TORCH_ZIP ? " of data.pkl" : "");
		stfs_table_cell(table);
		++*told;
	}
}

static void tell_suspects(const struct stfs_suspects *suspects, struct stfs_table *table, size_t *told)
{
	for (uint32_t i = 0; i < suspects->count && *told < STFS_GLOBALS_TOLD; i++, ++*told) {
		const struct stfs_suspect *suspect = &suspects->items[i];

		stfs_table_put(table, stfs_global_verdict_name(STFS_GLOBAL_REFUSED));
		put_name(suspect->module, suspect->name, "(one whose name is not in the file as it is)", &table->text);
		stfs_table_cell(table);
		stfs_buf_printf(&table->text, "byte %" PRIu64 " of ", suspect->at);
		if (suspect->member.len)
			stfs_escape(suspect->member, STFS_ESCAPE_NAME, &table->text);
		else
			stfs_buf_puts(&table->text, "the file");
		stfs_table_cell(table);
	}
}

void stfs_globals_tell(const struct stfs_torch *torch, const struct stfs_suspects *suspects)
{
	static const struct stfs_column columns[] = {{""}, {"", .shrinks = true}, {""}};
	struct stfs_scan_globals counts = stfs_scan_globals(torch, suspects);
	struct stfs_table table = STFS_TABLE_INIT(columns);
	size_t told[VERDICTS] = {0};

	if (listed_count(torch) + suspects->count == 0)
		return;
	table.headless = true;
	table.indent = "    ";
	puts("  globals:");
	tell_suspects(suspects, &table, &told[STFS_GLOBAL_REFUSED]);
	for (unsigned v = VERDICTS; v-- > 0;)
		tell_verdict(torch, (enum stfs_global_verdict)v, &table, &told[v]);
	if (stfs_table_print(&table, stfs_cli_width(), stdout) < 0)
		stfs_cli_out_of_memory();
	for (unsigned v = VERDICTS; v-- > 0;)
		if (counts.of_verdict[v] > told[v])
			printf("    and %zu more that are %s\n", counts.of_verdict[v] - told[v],
			       stfs_global_verdict_name((enum stfs_global_verdict)v));
}

static struct json_object *global_json(struct stfs_str module, struct stfs_str name, enum stfs_global_verdict verdict,
				       uint64_t at)
{
	struct json_object *object = stfs_jsonout_object();

	stfs_jsonout_add_text(object, "module", module);
	stfs_jsonout_add_text(object, "name", name);
	stfs_jsonout_add_string(object, "verdict", stfs_global_verdict_name(verdict));
	stfs_jsonout_add_number(object, "byte", at);
	return object;
}

static struct json_object *suspect_json(const struct stfs_suspect *suspect)
{
	struct json_object *object = global_json(suspect->module, suspect->name, STFS_GLOBAL_REFUSED, suspect->at);

	stfs_jsonout_add_bool(object, "searched", true);
	if (suspect->member.len)
		stfs_jsonout_add_text(object, "member", suspect->member);
	return object;
}

void stfs_globals_json(const struct stfs_torch *torch, const struct stfs_suspects *suspects,
		       struct json_object *object)
{
	struct json_object *list = stfs_jsonout_array(), *numbers = stfs_jsonout_object();
	struct stfs_scan_globals counts = stfs_scan_globals(torch, suspects);
	size_t count = listed_count(torch), listed[VERDICTS] = {0};

	for (size_t i = 0; i < count; i++) {
		struct stfs_torch_global global = stfs_torch_global(torch, i);

		if (listed[global.verdict]++ < STFS_GLOBALS_LISTED)
			stfs_jsonout_append(list, global_json(global.module, global.name, global.verdict, global.at));
	}
	for (uint32_t i = 0; i < suspects->count; i++)
		stfs_jsonout_append(list, suspect_json(&suspects->items[i]));
	for (unsigned v = 0; v < VERDICTS; v++)
		stfs_jsonout_add_number(numbers, stfs_global_verdict_name((enum stfs_global_verdict)v),
					counts.of_verdict[v]);
	if (torch)
		stfs_jsonout_add_string(object, "form", stfs_torch_form_name(stfs_torch_form(torch)));
	stfs_jsonout_add(object, "globals", list);
	stfs_jsonout_add(object, "global_counts", numbers);
}
