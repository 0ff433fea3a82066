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
static void put_name(const struct stfs_torch_global *global, struct stfs_buf *out)
{
	if (global->module.len == 0 && global->name.len == 0) {
		stfs_buf_puts(out, "(a number of the extension registry)");
		return;
	}
	stfs_escape(global->module, STFS_ESCAPE_NAME, out);
	stfs_buf_putc(out, '.');
	stfs_escape(global->name, STFS_ESCAPE_NAME, out);
}

static void tell_verdict(const struct stfs_torch *torch, enum stfs_global_verdict verdict, struct stfs_table *table)
{
	size_t count = stfs_torch_global_count(torch), told = 0;

	for (size_t i = 0; i < count && told < STFS_GLOBALS_TOLD; i++) {
		struct stfs_torch_global global = stfs_torch_global(torch, i);

		if (global.verdict != verdict)
			continue;
		stfs_table_put(table, stfs_global_verdict_name(verdict));
		put_name(&global, &table->text);
		stfs_table_cell(table);
		stfs_buf_printf(&table->text, "byte %" PRIu64 "%s", global.at,
				stfs_torch_form(torch) == STFS_TORCH_ZIP ? " of data.pkl" : "");
		stfs_table_cell(table);
		told++;
	}
}

void stfs_globals_tell(const struct stfs_torch *torch)
{
	static const struct stfs_column columns[] = {{""}, {"", .shrinks = true}, {""}};
	struct stfs_scan_globals counts = stfs_scan_globals(torch);
	struct stfs_table table = STFS_TABLE_INIT(columns);

	if (stfs_torch_global_count(torch) == 0)
		return;
	table.headless = true;
	table.indent = "    ";
	puts("  globals:");
	for (unsigned v = VERDICTS; v-- > 0;)
		tell_verdict(torch, (enum stfs_global_verdict)v, &table);
	if (stfs_table_print(&table, stfs_cli_width(), stdout) < 0)
		stfs_cli_out_of_memory();
	for (unsigned v = VERDICTS; v-- > 0;)
		if (counts.of_verdict[v] > STFS_GLOBALS_TOLD)
			printf("    and %zu more that are %s\n", counts.of_verdict[v] - STFS_GLOBALS_TOLD,
			       stfs_global_verdict_name((enum stfs_global_verdict)v));
}

static struct json_object *global_json(const struct stfs_torch_global *global)
{
	struct json_object *object = stfs_jsonout_object();

	stfs_jsonout_add_text(object, "module", global->module);
	stfs_jsonout_add_text(object, "name", global->name);
	stfs_jsonout_add_string(object, "verdict", stfs_global_verdict_name(global->verdict));
	stfs_jsonout_add_number(object, "byte", global->at);
	return object;
}

void stfs_globals_json(const struct stfs_torch *torch, struct json_object *object)
{
	struct json_object *list = stfs_jsonout_array(), *numbers = stfs_jsonout_object();
	struct stfs_scan_globals counts = stfs_scan_globals(torch);
	size_t count = stfs_torch_global_count(torch), listed[VERDICTS] = {0};

	for (size_t i = 0; i < count; i++) {
		struct stfs_torch_global global = stfs_torch_global(torch, i);

		if (listed[global.verdict]++ < STFS_GLOBALS_LISTED)
			stfs_jsonout_append(list, global_json(&global));
	}
	for (unsigned v = 0; v < VERDICTS; v++)
		stfs_jsonout_add_number(numbers, stfs_global_verdict_name((enum stfs_global_verdict)v),
					counts.of_verdict[v]);
	stfs_jsonout_add_string(object, "form", stfs_torch_form_name(stfs_torch_form(torch)));
	stfs_jsonout_add(object, "globals", list);
	stfs_jsonout_add(object, "global_counts", numbers);
}
