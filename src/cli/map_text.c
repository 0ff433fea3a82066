/* SPDX-License-Identifier: MIT */
/* The map in a terminal: a bar of cells a file, a legend, a table of segments. */
#include <inttypes.h>

#include "base/arith.h"
#include "base/escape.h"
#include "cli/cli.h"
#include "cli/human.h"
#include "cli/map.h"
#include "cli/table.h"

#define DEFAULT_WIDTH 78
#define LINES_ALONE 4 /* of cells, where there is one file */
#define ROWS_MAX 500  /* of the table of a file */

/* Shades by which neighbours are told apart: this tensor, the next, several in one cell. */
static const char *const shades[] = {"\xe2\x96\x88", "\xe2\x96\x93", "\xe2\x96\x92"};

struct cell {
	unsigned class;
	unsigned shade;
};

struct painter {
	const struct stfs_map_file *file;
	bool colour;
	uint64_t cells, length;
	size_t at;      /* the segment that the next cell begins in */
	size_t shown;   /* the segment that the last cell showed */
	unsigned shade; /* and in which shade */
};

/* Byte at which a cell begins; 128 bits, for a header may claim any size. */
static uint64_t cell_start(const struct painter *painter, uint64_t cell)
{
	return (uint64_t)((unsigned __int128)painter->length * cell / painter->cells);
}

/* What [begin, end) shows: a fault if there is any, else what has most bytes there. */
static struct cell look(struct painter *painter, uint64_t begin, uint64_t end)
{
	const struct stfs_segments *segments = &painter->file->segments;
	struct cell cell = {.class = STFS_DTYPE_COUNT + STFS_SEGMENT_HEADER};
	size_t shown = painter->at;
	unsigned tensors = 0;
	uint64_t most = 0;
	bool fault = false;

	while (painter->at < segments->count && segments->items[painter->at].end <= begin)
		painter->at++;
	for (size_t i = painter->at; i < segments->count && segments->items[i].begin < end; i++) {
		const struct stfs_segment *segment = &segments->items[i];
		uint64_t bytes =
			stfs_min_u64(segment->end, end) - stfs_max_u64(segment->begin, begin);
		bool is_fault = stfs_segment_is_fault(segment->kind);

		if (segment->end <= begin || (fault && !is_fault))
			continue;
		tensors += segment->kind == STFS_SEGMENT_TENSOR;
		if ((is_fault && !fault) || bytes > most) {
			most = bytes;
			cell.class = stfs_map_class_of(painter->file, segment);
			shown = i;
		}
		fault |= is_fault;
	}
	painter->shade ^= shown != painter->shown;
	painter->shown = shown;
	cell.shade = tensors > 1 ? 2 : painter->shade;
	if (begin == 0 && !fault) /* always small, always there */
		cell.class = stfs_map_class_of(painter->file, &segments->items[0]);
	return cell;
}

/* 24 bits to the 6x6x6 cube that every terminal with colours has. */
static unsigned cube(unsigned colour)
{
	unsigned red = ((colour >> 16 & 0xff) * 5 + 127) / 255,
		 green = ((colour >> 8 & 0xff) * 5 + 127) / 255,
		 blue = ((colour & 0xff) * 5 + 127) / 255;

	return 16 + 36 * red + 6 * green + blue;
}

static void print_mark(const struct painter *painter, struct cell cell)
{
	const struct stfs_map_class *class = stfs_map_class(cell.class);
	const char *mark = cell.class < STFS_DTYPE_COUNT ? shades[cell.shade] : class->mark;

	if (painter->colour)
		printf("\033[38;5;%um%s\033[0m", cube(class->colour), mark);
	else
		fputs(mark, stdout);
}

static void print_bar(const struct stfs_map *map, const struct stfs_map_file *file, unsigned width)
{
	struct painter painter = {.file = file, .colour = stfs_cli_has_colour(),
				  .length = stfs_segments_end(&file->segments)};
	uint64_t most = map->count == 1 ? LINES_ALONE * width : width;

	/* One scale for all files. */
	painter.cells = (uint64_t)((unsigned __int128)most * painter.length / map->longest);
	painter.cells = stfs_max_u64(stfs_min_u64(painter.cells, painter.length), 1);
	for (uint64_t i = 0; i < painter.cells; i++) {
		print_mark(&painter, look(&painter, cell_start(&painter, i),
					  cell_start(&painter, i + 1)));
		if ((i + 1) % width == 0 || i + 1 == painter.cells)
			putchar('\n');
	}
}

static void print_legend(const struct stfs_map *map)
{
	static const struct stfs_column columns[] = {
		{""}, {""}, {"", .right = true}, {"", .right = true}};
	struct stfs_table table = STFS_TABLE_INIT(columns);
	uint64_t totals[STFS_MAP_CLASSES], all = 0;

	stfs_map_totals(map, totals);
	for (unsigned i = 0; i < STFS_MAP_CLASSES; i++)
		all += totals[i];
	table.headless = true;
	for (unsigned i = 0; i < STFS_MAP_CLASSES; i++) {
		if (!totals[i])
			continue;
		stfs_table_put(&table, stfs_map_class(i)->mark);
		stfs_table_put(&table, stfs_map_class(i)->label);
		stfs_human_size(totals[i], false, &table.text);
		stfs_table_cell(&table);
		stfs_human_share(totals[i], all, &table.text);
		stfs_table_cell(&table);
	}
	if (stfs_table_print(&table, 0, stdout) < 0)
		stfs_cli_out_of_memory();
}

static void add_row(struct stfs_table *table, const struct stfs_map_file *file,
		    const struct stfs_map_run *run)
{
	const struct stfs_segment *largest = &file->segments.items[run->largest];
	unsigned class = stfs_map_class_of(file, largest);

	stfs_buf_printf(&table->text, "%" PRIu64, run->begin);
	stfs_table_cell(table);
	stfs_human_size(run->end - run->begin, false, &table->text);
	stfs_table_cell(table);
	stfs_table_put(table, class < STFS_DTYPE_COUNT ? stfs_map_class(class)->label : "");
	stfs_map_describe(file, run, &table->text);
	stfs_table_cell(table);
}

static void print_segments(const struct stfs_map_file *file)
{
	static const struct stfs_column columns[] = {
		{"offset", .right = true}, {"size", .right = true}, {"dtype"},
		{"what", .shrinks = true}};
	struct stfs_table table = STFS_TABLE_INIT(columns);
	uint64_t least = stfs_segments_end(&file->segments) / 32;
	size_t rows = 0, at = 0;

	while (at < file->segments.count && rows < ROWS_MAX) {
		struct stfs_map_run run = stfs_map_run_at(file, at, least);

		add_row(&table, file, &run);
		at = run.last + 1;
		rows++;
	}
	if (stfs_table_print(&table, stfs_cli_width(), stdout) < 0)
		stfs_cli_out_of_memory();
	if (at < file->segments.count)
		printf("and %zu segments more (--json lists all)\n", file->segments.count - at);
}

/* "model.safetensors: 86.7 MiB, 104 tensors" */
static void print_title(const struct stfs_map_file *file)
{
	STFS_AUTO_BUF struct stfs_buf line = STFS_BUF_INIT;

	stfs_escape(stfs_str_from(file->shard->name), STFS_ESCAPE_LINE, &line);
	stfs_buf_puts(&line, ": ");
	stfs_human_size(file->shard->size, false, &line);
	if (file->shard->header)
		stfs_buf_printf(&line, ", %" PRIu32 " tensor%s", file->shard->header->count,
				file->shard->header->count == 1 ? "" : "s");
	if (!stfs_buf_cstr(&line))
		stfs_cli_out_of_memory();
	puts(line.data);
}

void stfs_map_print(const struct stfs_map *map, unsigned width)
{
	if (!width)
		width = stfs_cli_width() ? (unsigned)stfs_min_u64(stfs_cli_width() - 1, 120)
					 : DEFAULT_WIDTH;
	for (uint32_t i = 0; i < map->count; i++) {
		print_title(&map->files[i]);
		if (map->files[i].segments.count)
			print_bar(map, &map->files[i], width);
	}
	putchar('\n');
	print_legend(map);
	for (uint32_t i = 0; i < map->count; i++) {
		putchar('\n');
		if (map->count > 1)
			print_title(&map->files[i]);
		print_segments(&map->files[i]);
	}
}
