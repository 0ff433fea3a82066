/* SPDX-License-Identifier: MIT */
#include "cli/map.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/escape.h"
#include "cli/cli.h"
#include "cli/jsonout.h"

#define FULL "\xe2\x96\x88"
#define DOT "\xc2\xb7"

/* Hues by family: floats blue, brain floats violet, float8 orange, smaller ones pink, signed green,
 * unsigned olive; the wider the type, the darker. */
static const struct stfs_map_class classes[STFS_MAP_CLASSES] = {
	[STFS_BOOL] = {"BOOL", FULL, 0x8a8f98},
	[STFS_F4] = {"F4", FULL, 0x8e2f63},
	[STFS_F6_E2M3] = {"F6_E2M3", FULL, 0xc95d8a},
	[STFS_F6_E3M2] = {"F6_E3M2", FULL, 0xb0457a},
	[STFS_U8] = {"U8", FULL, 0xb5cf6b},
	[STFS_I8] = {"I8", FULL, 0x7fd0b0},
	[STFS_F8_E5M2] = {"F8_E5M2", FULL, 0xd9822b},
	[STFS_F8_E4M3] = {"F8_E4M3", FULL, 0xeba93c},
	[STFS_F8_E8M0] = {"F8_E8M0", FULL, 0xb8860b},
	[STFS_F8_E4M3FNUZ] = {"F8_E4M3FNUZ", FULL, 0xc46a1b},
	[STFS_F8_E5M2FNUZ] = {"F8_E5M2FNUZ", FULL, 0xa85512},
	[STFS_I16] = {"I16", FULL, 0x4fb892},
	[STFS_U16] = {"U16", FULL, 0x9bbf4a},
	[STFS_F16] = {"F16", FULL, 0x5aa9e6},
	[STFS_BF16] = {"BF16", FULL, 0x7a5cc7},
	[STFS_I32] = {"I32", FULL, 0x2c9270},
	[STFS_U32] = {"U32", FULL, 0x7a9e2c},
	[STFS_F32] = {"F32", FULL, 0x2f7ebc},
	[STFS_C64] = {"C64", FULL, 0x20a4b5},
	[STFS_F64] = {"F64", FULL, 0x1f4e79},
	[STFS_I64] = {"I64", FULL, 0x1d6b4f},
	[STFS_U64] = {"U64", FULL, 0x5b7a1f},
	[STFS_DTYPE_COUNT + STFS_SEGMENT_HEADER] = {"header", "H", 0x3b3f46},
	[STFS_DTYPE_COUNT + STFS_SEGMENT_SLACK] = {"slack", DOT, 0xb4bac2},
	[STFS_DTYPE_COUNT + STFS_SEGMENT_TENSOR] = {"tensor", FULL, 0x2f7ebc},
	[STFS_DTYPE_COUNT + STFS_SEGMENT_CONTAINER] = {"container", "H", 0x3b3f46},
	[STFS_DTYPE_COUNT + STFS_SEGMENT_UNUSED] = {"unused", DOT, 0xb4bac2},
	[STFS_DTYPE_COUNT + STFS_SEGMENT_HOLE] = {"hole", "x", 0xd62728},
	[STFS_DTYPE_COUNT + STFS_SEGMENT_OVERLAP] = {"overlap", "X", 0xa1141e},
	[STFS_DTYPE_COUNT + STFS_SEGMENT_TRAILING] = {"trailing", ">", 0xe0565b},
	[STFS_DTYPE_COUNT + STFS_SEGMENT_MISSING] = {"missing", "?", 0xf0a3a5},
	[STFS_DTYPE_COUNT + STFS_SEGMENT_UNKNOWN] = {"unknown", "~", 0x9a8f8f},
};

const struct stfs_map_class *stfs_map_class(unsigned number)
{
	return &classes[number];
}

unsigned stfs_map_class_of(const struct stfs_map_file *file, const struct stfs_segment *segment)
{
	if (segment->kind == STFS_SEGMENT_TENSOR)
		return file->shard->header->tensors[segment->tensor].dtype;
	return STFS_DTYPE_COUNT + (unsigned)segment->kind;
}

void stfs_map_totals(const struct stfs_map *map, uint64_t totals[STFS_MAP_CLASSES])
{
	memset(totals, 0, STFS_MAP_CLASSES * sizeof(*totals));
	for (uint32_t f = 0; f < map->count; f++) {
		const struct stfs_map_file *file = &map->files[f];

		for (size_t i = 0; i < file->segments.count; i++) {
			const struct stfs_segment *segment = &file->segments.items[i];

			totals[stfs_map_class_of(file, segment)] += segment->end - segment->begin;
		}
	}
}

struct stfs_map_run stfs_map_run_at(const struct stfs_map_file *file, size_t first, uint64_t least)
{
	const struct stfs_segment *items = file->segments.items, *next;
	struct stfs_map_run run = {.first = first, .last = first, .largest = first,
				   .begin = items[first].begin, .end = items[first].end,
				   .tensors = items[first].tensor != STFS_NO_TENSOR};

	if (items[first].kind == STFS_SEGMENT_MISSING)
		least = UINT64_MAX; /* one cut made them all */
	else if (items[first].kind != STFS_SEGMENT_TENSOR)
		return run;
	while (run.end - run.begin < least && run.last + 1 < file->segments.count) {
		size_t step = 1;

		/* In a checkpoint what the container puts between two storages parts nothing. */
		if (items[run.last + 1].kind == STFS_SEGMENT_CONTAINER && run.last + 2 < file->segments.count &&
		    items[run.last + 1].end - items[run.last + 1].begin < least)
			step = 2;
		next = &items[run.last + step];
		if (next->kind != items[first].kind || next->end - next->begin >= least)
			break;
		run.last += step;
		run.end = next->end;
		run.tensors++;
		if (next->end - next->begin > items[run.largest].end - items[run.largest].begin)
			run.largest = run.last;
	}
	return run;
}

static void add_name(const struct stfs_map_file *file, size_t segment, struct stfs_buf *out)
{
	const struct stfs_header *header = file->shard->header;
	uint32_t tensor = file->segments.items[segment].tensor;

	stfs_escape(stfs_header_name(header, &header->tensors[tensor]), STFS_ESCAPE_NAME, out);
}

void stfs_map_describe(const struct stfs_map_file *file, const struct stfs_map_run *run,
		       struct stfs_buf *out)
{
	enum stfs_segment_kind kind = file->segments.items[run->first].kind;

	if (kind == STFS_SEGMENT_MISSING)
		stfs_buf_puts(out, "missing, of ");
	else if (kind == STFS_SEGMENT_OVERLAP)
		stfs_buf_puts(out, "overlap, with ");
	else if (kind != STFS_SEGMENT_TENSOR)
		stfs_buf_puts(out, stfs_segment_name(kind));
	if (run->tensors > 1)
		stfs_buf_printf(out, "%zu tensors: ", run->tensors);
	if (run->tensors)
		add_name(file, run->first, out);
	if (run->tensors > 1) {
		stfs_buf_puts(out, " ... ");
		add_name(file, run->last, out);
	}
}

static void free_map(struct stfs_map *map)
{
	for (uint32_t i = 0; i < map->count; i++)
		stfs_segments_free(&map->files[i].segments);
	free(map->files);
}

/* Returns the exit code: a shard that cannot be read is said and left out. */
static int make_map(const struct stfs_model *model, struct stfs_map *map)
{
	int code = STFS_EXIT_OK;

	*map = (struct stfs_map){.model = model};
	map->files = calloc(model->shard_count ? model->shard_count : 1, sizeof(*map->files));
	if (!map->files)
		stfs_cli_out_of_memory();
	for (uint32_t i = 0; i < model->shard_count; i++) {
		struct stfs_shard *shard = &model->shards[i];
		struct stfs_map_file *file = &map->files[map->count];

		if (shard->status < 0) {
			stfs_cli_say("%s: %s: %s", model->resolved.path, shard->name,
				     strerror(-shard->status));
			code = STFS_EXIT_FAILED;
			continue;
		}
		if (stfs_findings_level(&shard->findings) >= STFS_LEVEL_REFUSED)
			stfs_cli_say("%s: %s: is refused (`stfs check` says why); the map shows "
				     "what its header claims", model->resolved.path, shard->name);
		file->shard = shard;
		if (stfs_segments_make(shard, &file->segments) < 0)
			stfs_cli_out_of_memory();
		map->count++;
		if (stfs_segments_end(&file->segments) > map->longest)
			map->longest = stfs_segments_end(&file->segments);
	}
	return code;
}

/* ---- For programs ---- */

static void print_segment(const struct stfs_map_file *file, const struct stfs_segment *segment)
{
	struct json_object *object = stfs_jsonout_object();
	const struct stfs_header *header = file->shard->header;

	stfs_jsonout_add_string(object, "kind", stfs_segment_name(segment->kind));
	stfs_jsonout_add_number(object, "begin", segment->begin);
	stfs_jsonout_add_number(object, "end", segment->end);
	if (segment->tensor != STFS_NO_TENSOR) {
		const struct stfs_tensor *tensor = &header->tensors[segment->tensor];

		stfs_jsonout_add_text(object, "tensor", stfs_header_name(header, tensor));
		stfs_jsonout_add_string(object, "dtype",
					stfs_dtype_info((enum stfs_dtype)tensor->dtype)->name);
	}
	stfs_jsonout_print_element(object, stdout);
}

static void print_json(const struct stfs_map *map)
{
	fputs("{\"model\":", stdout);
	stfs_jsonout_print_element(stfs_jsonout_text(stfs_str_from(map->model->resolved.path)),
				   stdout);
	fputs(",\"files\":[", stdout);
	for (uint32_t f = 0; f < map->count; f++) {
		const struct stfs_map_file *file = &map->files[f];
		struct json_object *totals = stfs_jsonout_object();

		for (int k = 0; k < STFS_SEGMENT_KINDS; k++)
			stfs_jsonout_add_number(totals,
						stfs_segment_name((enum stfs_segment_kind)k),
						file->segments.totals[k]);
		fputs(f ? ",\n{\"file\":" : "\n{\"file\":", stdout);
		stfs_jsonout_print_element(stfs_jsonout_text(stfs_str_from(file->shard->name)),
					   stdout);
		printf(",\"size\":%" PRIu64 ",\"totals\":", file->shard->size);
		stfs_jsonout_print_element(totals, stdout);
		fputs(",\"segments\":[", stdout);
		for (size_t i = 0; i < file->segments.count; i++) {
			fputs(i ? ",\n" : "\n", stdout);
			print_segment(file, &file->segments.items[i]);
		}
		fputs("\n]}", stdout);
	}
	fputs("\n]}\n", stdout);
}

/* ---- The verb ---- */

struct request {
	const char *svg; /* file; "-": stdout */
	unsigned width;
	bool json;
};

static int write_svg(const struct stfs_map *map, const char *path)
{
	STFS_AUTO_FILE FILE *out = NULL;
	bool made;
	STFS_AUTO_FD int fd = stfs_cli_create(map->model, path, 0, &made);
	int r;

	if (fd < 0)
		return STFS_EXIT_FAILED;
	out = fdopen(fd, "w");
	if (!out)
		stfs_cli_out_of_memory();
	stfs_steal_fd(&fd);
	r = stfs_map_svg(map, out);
	if (r == -ENOMEM)
		stfs_cli_out_of_memory();
	if (fclose(stfs_steal_ptr(&out)) != 0)
		r = -errno;
	if (r < 0 && made)
		unlink(path);
	if (r < 0)
		stfs_cli_say("%s: %s", path, strerror(-r));
	return r < 0 ? STFS_EXIT_FAILED : STFS_EXIT_OK;
}

static int draw(const struct request *request, const char *path)
{
	STFS_AUTO_MODEL struct stfs_model *model = NULL;
	STFS_CLEANUP(free_map) struct stfs_map map = {0};
	struct stfs_err err = STFS_ERR_INIT;
	int code, written;

	if (stfs_model_open(path, STFS_OPEN_JUDGE, &model, &err) < 0) {
		stfs_cli_say("%s", err.message);
		return STFS_EXIT_FAILED;
	}
	if (model->unread.code < 0) {
		stfs_cli_say("%s", model->unread.message);
		return STFS_EXIT_FAILED;
	}
	code = make_map(model, &map);
	if (request->svg) {
		written = write_svg(&map, request->svg);
		return written ? written : code;
	}
	if (request->json)
		print_json(&map);
	else
		stfs_map_print(&map, request->width);
	return code;
}

enum { OPT_SVG = STFS_CLI_LONG, OPT_WIDTH };

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		{"svg", required_argument, NULL, OPT_SVG},
		{"width", required_argument, NULL, OPT_WIDTH},
		{"json", no_argument, NULL, 'j'}, STFS_CLI_HELP, {0}};
	struct request request = {0};
	char *end = NULL;
	long width;
	int c;

	while ((c = getopt_long(argc, argv, ":jh", options, NULL)) != -1) {
		switch (c) {
		case 'j': request.json = true; break;
		case OPT_SVG: request.svg = optarg; break;
		case OPT_WIDTH:
			width = strtol(optarg, &end, 10);
			if (end == optarg || *end || width < 10 || width > 1000)
				return stfs_cli_usage(&stfs_verb_map,
						      "map: --width is a number from 10 to 1000");
			request.width = (unsigned)width;
			break;
		default: return stfs_cli_option(&stfs_verb_map, c, argv);
		}
	}
	if (argc - optind != 1)
		return stfs_cli_usage(&stfs_verb_map, "map: name one model");
	if (request.svg && request.json)
		return stfs_cli_usage(&stfs_verb_map, "map: --svg or --json, not both");
	return draw(&request, argv[optind]);
}

const struct stfs_verb stfs_verb_map = {
	.name = "map",
	.synopsis = "[--svg FILE | --json] [--width N] MODEL",
	.summary = "draw how a model's bytes are laid out",
	.help =
		"      --svg FILE    a picture for a browser, with the names of tensors under the\n"
		"                    pointer; - is standard output\n"
		"      --width N     cells of a line in the terminal\n"
		"  -j, --json        every segment, for programs\n"
		"\n"
		"Shows header, slack (spaces at the header's end), tensors by dtype, and what\n"
		"should not be there: holes, overlaps, trailing bytes, and tensors that the file\n"
		"is too short for. A cell with anything of that kind shows it, however small it\n"
		"is. Works on refused files too, as far as their header can be read. Small\n"
		"tensors that lie side by side are drawn and listed as one; --json lists each.\n"
		"\n"
		"  stfs map model.safetensors\n"
		"  stfs map --svg layout.svg model.safetensors\n"
		"  stfs map --json model.safetensors | jq '.files[].totals.hole'\n",
	.run = run,
};
