/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/escape.h"
#include "cli/cli.h"
#include "cli/human.h"
#include "cli/jsonout.h"
#include "cli/remarks.h"
#include "cli/table.h"
#include "ops/select.h"

enum sort { SORT_NAME, SORT_SIZE, SORT_OFFSET };

struct listing {
	struct stfs_patterns include, exclude;
	enum sort sort;
	bool reverse, names, null, json, exact, shards;
	const struct stfs_model *model; /* borrowed */
	uint32_t *ids;                  /* owned */
	size_t count;
	uint64_t bytes; /* of those listed */
};

static void free_listing(struct listing *listing)
{
	stfs_patterns_free(&listing->include);
	stfs_patterns_free(&listing->exclude);
	free(listing->ids);
}

/* ---- What to list ---- */

/* Largest first. */
static int by_size(const void *left, const void *right, void *data)
{
	struct stfs_tensor_ref a, b;

	stfs_model_tensor(data, *(const uint32_t *)left, &a);
	stfs_model_tensor(data, *(const uint32_t *)right, &b);
	if (a.len != b.len)
		return a.len > b.len ? -1 : 1;
	return stfs_str_compare(a.name, b.name);
}

static int by_offset(const void *left, const void *right, void *data)
{
	struct stfs_tensor_ref a, b;

	stfs_model_tensor(data, *(const uint32_t *)left, &a);
	stfs_model_tensor(data, *(const uint32_t *)right, &b);
	if (a.shard != b.shard)
		return a.shard < b.shard ? -1 : 1;
	if (a.offset != b.offset)
		return a.offset < b.offset ? -1 : 1;
	return a.len != b.len ? (a.len < b.len ? -1 : 1) : stfs_str_compare(a.name, b.name);
}

static void order(struct listing *listing)
{
	void *model = (void *)(uintptr_t)listing->model;

	if (listing->sort != SORT_NAME)
		qsort_r(listing->ids, listing->count, sizeof(*listing->ids),
			listing->sort == SORT_SIZE ? by_size : by_offset, model);
	for (size_t i = 0; listing->reverse && i < listing->count / 2; i++) {
		uint32_t other = listing->ids[listing->count - 1 - i];

		listing->ids[listing->count - 1 - i] = listing->ids[i];
		listing->ids[i] = other;
	}
}

static void collect(struct listing *listing)
{
	struct stfs_tensor_ref ref;

	listing->ids = stfs_model_sorted(listing->model);
	listing->count = listing->model->shown;
	if (!listing->ids || stfs_select(listing->model, &listing->include, &listing->exclude,
					 listing->ids, &listing->count) < 0)
		stfs_cli_out_of_memory();
	order(listing);
	for (size_t i = 0; i < listing->count; i++)
		if (stfs_model_tensor(listing->model, listing->ids[i], &ref))
			listing->bytes += ref.len;
}

/* Says which patterns matched nothing. */
static int judge_patterns(const struct listing *listing)
{
	int code = STFS_EXIT_OK;

	for (size_t i = 0; i < listing->include.count; i++) {
		if (listing->include.hit[i])
			continue;
		code = STFS_EXIT_FAILED;
		stfs_cli_say("%s: no tensor matches '%s'", listing->model->resolved.path,
			     listing->include.items[i]);
	}
	return code;
}

/* ---- How to show it ---- */

static void print_names(const struct listing *listing)
{
	STFS_AUTO_BUF struct stfs_buf shown = STFS_BUF_INIT;
	bool escape = stfs_cli_is_terminal() && !listing->null;
	struct stfs_tensor_ref ref;

	for (size_t i = 0; i < listing->count; i++) {
		if (!stfs_model_tensor(listing->model, listing->ids[i], &ref))
			continue;
		stfs_buf_clear(&shown);
		if (escape)
			stfs_escape(ref.name, STFS_ESCAPE_NAME, &shown);
		else
			stfs_buf_add_str(&shown, ref.name);
		stfs_buf_putc(&shown, listing->null ? '\0' : '\n');
		if (stfs_buf_status(&shown) < 0)
			stfs_cli_out_of_memory();
		fwrite(shown.data, 1, shown.len, stdout);
	}
}

/* Element by element: a hundred thousand tensors need not stand in memory as objects. */
static void print_json(const struct listing *listing)
{
	struct json_object *path = stfs_jsonout_text(stfs_str_from(listing->model->resolved.path));
	struct stfs_tensor_ref ref;

	fputs("{\"model\":", stdout);
	stfs_jsonout_print_element(path, stdout);
	printf(",\"tolerant\":%s,\"count\":%zu,\"bytes\":%" PRIu64 ",\"tensors\":[",
	       listing->model->tolerated ? "true" : "false", listing->count, listing->bytes);
	for (size_t i = 0; i < listing->count; i++) {
		if (!stfs_model_tensor(listing->model, listing->ids[i], &ref))
			continue;
		fputs(i ? ",\n" : "\n", stdout);
		stfs_jsonout_print_element(stfs_jsonout_tensor(&ref), stdout);
	}
	fputs("\n]}\n", stdout);
}

static void add_row(const struct listing *listing, struct stfs_table *table,
		    const struct stfs_tensor_ref *ref)
{
	struct stfs_buf *out = &table->text;

	stfs_escape(ref->name, STFS_ESCAPE_NAME, out);
	stfs_table_cell(table);
	stfs_table_put(table, ref->dtype->name);
	stfs_human_shape(ref, out);
	stfs_table_cell(table);
	stfs_human_size(ref->len, listing->exact, out);
	stfs_table_cell(table);
	stfs_human_share(ref->len, listing->model->shown_bytes, out);
	stfs_table_cell(table);
	if (listing->shards)
		stfs_escape(stfs_str_from(ref->shard->name), STFS_ESCAPE_LINE, out);
	stfs_table_cell(table);
}

static void add_total(const struct listing *listing, struct stfs_table *table)
{
	struct stfs_buf *out = &table->text;

	stfs_buf_puts(out, "total: ");
	stfs_human_count(listing->count, out);
	if (listing->count < listing->model->shown) {
		stfs_buf_puts(out, " of ");
		stfs_human_count(listing->model->shown, out);
	}
	stfs_buf_puts(out, listing->model->shown == 1 ? " tensor" : " tensors");
	stfs_table_cell(table);
	stfs_table_put(table, "");
	stfs_table_put(table, "");
	stfs_human_size(listing->bytes, listing->exact, out);
	stfs_table_cell(table);
	stfs_human_share(listing->bytes, listing->model->shown_bytes, out);
	stfs_table_cell(table);
	stfs_table_put(table, "");
}

static void print_table(const struct listing *listing)
{
	const struct stfs_column columns[] = {
		{"name", .shrinks = true}, {"dtype"}, {"shape"},
		{listing->exact ? "bytes" : "size", .right = true}, {"share", .right = true},
		{"shard", .hidden = !listing->shards}};
	struct stfs_table table = STFS_TABLE_INIT(columns);
	struct stfs_tensor_ref ref;

	for (size_t i = 0; i < listing->count; i++)
		if (stfs_model_tensor(listing->model, listing->ids[i], &ref))
			add_row(listing, &table, &ref);
	add_total(listing, &table);
	if (stfs_table_print(&table, stfs_cli_width(), stdout) < 0)
		stfs_cli_out_of_memory();
}

/* ---- The verb ---- */

static int parse_sort(const char *word, enum sort *sort)
{
	static const char *const words[] = {"name", "size", "offset"};

	for (int i = 0; i < 3; i++) {
		if (strcmp(word, words[i]) == 0) {
			*sort = (enum sort)i;
			return 0;
		}
	}
	return -1;
}

enum { OPT_INCLUDE = STFS_CLI_LONG, OPT_EXCLUDE, OPT_SORT, OPT_NAMES, OPT_SHARDS };

static void add_pattern(struct stfs_patterns *patterns, const char *pattern)
{
	if (stfs_patterns_add(patterns, pattern) < 0)
		stfs_cli_out_of_memory();
}

/* One option. -1 to go on, else the exit code. */
static int take(struct listing *listing, int c, char **argv)
{
	switch (c) {
	case 'j': listing->json = true; break;
	case 'b': listing->exact = true; break;
	case 'r': listing->reverse = true; break;
	case '0': listing->null = listing->names = true; break;
	case 'S': listing->sort = SORT_SIZE; break;
	case OPT_NAMES: listing->names = true; break;
	case OPT_SHARDS: listing->shards = true; break;
	case OPT_INCLUDE: add_pattern(&listing->include, optarg); break;
	case OPT_EXCLUDE: add_pattern(&listing->exclude, optarg); break;
	case OPT_SORT:
		if (parse_sort(optarg, &listing->sort) < 0)
			return stfs_cli_usage(&stfs_verb_ls,
					      "ls: --sort is name, size or offset, not %s",
					      optarg);
		break;
	default: return stfs_cli_option(&stfs_verb_ls, c, argv);
	}
	return -1;
}

static int list(struct listing *listing, const char *path)
{
	STFS_AUTO_MODEL struct stfs_model *model = stfs_cli_open(path);

	if (!model)
		return STFS_EXIT_FAILED;
	listing->model = model;
	listing->shards &= stfs_model_is_sharded(model);
	collect(listing);
	stfs_remarks_say_refused(model);
	if (listing->json)
		print_json(listing);
	else if (listing->names)
		print_names(listing);
	else if (listing->count || !listing->include.count)
		print_table(listing);
	return judge_patterns(listing);
}

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		{"include", required_argument, NULL, OPT_INCLUDE},
		{"exclude", required_argument, NULL, OPT_EXCLUDE},
		{"sort", required_argument, NULL, OPT_SORT},
		{"reverse", no_argument, NULL, 'r'},
		{"names", no_argument, NULL, OPT_NAMES},
		{"null", no_argument, NULL, '0'},
		{"json", no_argument, NULL, 'j'},
		{"bytes", no_argument, NULL, 'b'},
		{"shards", no_argument, NULL, OPT_SHARDS},
		STFS_CLI_HELP,
		{0}};
	STFS_CLEANUP(free_listing) struct listing listing = {0};
	int c, code;

	while ((c = getopt_long(argc, argv, ":jbr0Sh", options, NULL)) != -1) {
		code = take(&listing, c, argv);
		if (code >= 0)
			return code;
	}
	if (optind == argc)
		return stfs_cli_usage(&stfs_verb_ls, "ls: name a model");
	for (int i = optind + 1; i < argc; i++)
		add_pattern(&listing.include, argv[i]);
	return list(&listing, argv[optind]);
}

const struct stfs_verb stfs_verb_ls = {
	.name = "ls",
	.synopsis = "[OPTION...] MODEL [GLOB...]",
	.summary = "list tensors: name, dtype, shape, size, share of the model",
	.help =
		"      --include GLOB   only what matches (the same as a GLOB argument)\n"
		"      --exclude GLOB   but not what matches this\n"
		"      --sort KEY       name (layers.2 before layers.10), size (largest first;\n"
		"                       also -S) or offset (as they lie in the file)\n"
		"  -r, --reverse        the other way round\n"
		"  -b, --bytes          sizes in bytes\n"
		"      --shards         a column with the file of each tensor\n"
		"      --names          nothing but names, one a line, as they are; a name that\n"
		"                       holds a line break takes two lines, so scripts use -0\n"
		"  -0, --null           names, each ended by a NUL byte (which a name can hold\n"
		"                       too: --json is exact in every case)\n"
		"  -j, --json           for programs\n"
		"\n"
		"In a GLOB * and ? match any character, dots and slashes too; quote it, so that\n"
		"the shell does not expand it. A GLOB that matches nothing is an error. In the\n"
		"table control characters, quotes and backslashes show as \\xNN; `stfs cat` takes\n"
		"names in that form.\n"
		"\n"
		"  stfs ls model.safetensors\n"
		"  stfs ls model.safetensors '*.attention.*' --exclude '*.bias'\n"
		"  stfs ls --sort size model.safetensors | head\n"
		"  stfs ls -0 model.safetensors | xargs -0 -n1 echo\n",
	.run = run,
};
