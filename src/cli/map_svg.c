/* SPDX-License-Identifier: MIT */
/*
 * The map as a picture that stands alone: a bar a file, wrapped into rows, all on one scale. The
 * number of rectangles is bounded whatever the model: neighbours narrower than a few pixels are
 * drawn as one. Faults are drawn on top, never narrower than can be seen.
 */
#include <errno.h>
#include <inttypes.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/escape.h"
#include "base/utf8.h"
#include "cli/human.h"
#include "cli/map.h"
#include "cli/table.h"

#define LEFT 96.0     /* of the bars: the offsets stand before */
#define BAR 1000.0    /* length of a row */
#define ROW 30.0      /* height of a bar */
#define PITCH 38.0    /* from row to row */
#define FILES_MAX 64  /* the rest is only counted */
#define RECTS_MAX 3000
#define CHARACTER 6.3 /* width of one at 10.5 px, monospace */
#define CAPTION_LEAST (14 * CHARACTER)

struct picture {
	FILE *out;
	const struct stfs_map *map;
	double row_bytes; /* bytes of a row */
	double narrow;    /* pixels below which neighbours are merged */
	unsigned runs;    /* drawn so far: every other one a little paler */
	double y;         /* of the row being drawn */
	int r;            /* -ENOMEM once a text could not be made */
};

/* ---- Text ---- */

/*
 * Characters that XML wants written otherwise; control characters are not among them, for names
 * come through stfs_escape(). U+FFFE and U+FFFF may not stand in XML at all (XML 1.0, 2.2).
 */
static void put_text(struct picture *picture, struct stfs_str text)
{
	for (size_t at = 0, width; at < text.len; at += width) {
		width = stfs_utf8_width(text.ptr + at, text.len - at);
		switch (text.ptr[at]) {
		case '&': fputs("&amp;", picture->out); break;
		case '<': fputs("&lt;", picture->out); break;
		case '>': fputs("&gt;", picture->out); break;
		case '"': fputs("&quot;", picture->out); break;
		default:
			if (width == 0 ||
			    (width == 3 && memcmp(text.ptr + at, "\xef\xbf", 2) == 0 &&
			     (unsigned char)text.ptr[at + 2] >= 0xbe))
				fputs("\xef\xbf\xbd", picture->out);
			else
				fwrite(text.ptr + at, 1, width, picture->out);
		}
		width = width ? width : 1;
	}
}

static void put_buf(struct picture *picture, struct stfs_buf *text)
{
	if (stfs_buf_status(text) < 0)
		picture->r = -ENOMEM;
	else
		put_text(picture, stfs_buf_str(text));
}

static void put_label(struct picture *picture, double x, double y, const char *class,
		      struct stfs_buf *text)
{
	fprintf(picture->out, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\">", x, y, class);
	put_buf(picture, text);
	fputs("</text>\n", picture->out);
}

/* ---- Rectangles ---- */

/* What is drawn of a run: its colour and the words that go with it. */
struct paint {
	const struct stfs_map_file *file;
	const struct stfs_map_run *run;
	unsigned class;
	bool fault;
};

static const char *fill_of(const struct paint *paint, char out[32])
{
	enum stfs_segment_kind kind = paint->file->segments.items[paint->run->first].kind;

	if (kind == STFS_SEGMENT_MISSING)
		return "url(#missing)";
	if (kind == STFS_SEGMENT_UNKNOWN)
		return "url(#unknown)";
	if (stfs_segment_is_fault(kind))
		return "url(#fault)";
	snprintf(out, 32, "#%06x", stfs_map_class(paint->class)->colour);
	return out;
}

/* The name of what it is in a rectangle that is wide enough. */
static void put_caption(struct picture *picture, const struct paint *paint, double x, double width)
{
	STFS_AUTO_BUF struct stfs_buf whole = STFS_BUF_INIT;
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	unsigned colour = stfs_map_class(paint->class)->colour;
	/* Rec. 601 luma: dark letters on light ground. */
	bool light = 299 * (colour >> 16 & 0xff) + 587 * (colour >> 8 & 0xff) +
		     114 * (colour & 0xff) > 150000;

	if (width < CAPTION_LEAST)
		return;
	if (paint->run->tensors > 1)
		stfs_buf_printf(&whole, "%s%zu tensors", paint->fault ? "missing, of " : "",
				paint->run->tensors);
	else
		stfs_map_describe(paint->file, paint->run, &whole);
	if (stfs_buf_status(&whole) == 0)
		stfs_text_shorten(stfs_buf_str(&whole), (size_t)((width - 10) / CHARACTER), &text);
	put_label(picture, x + 5, picture->y + ROW / 2 + 3.5,
		  paint->fault ? "caption onfault" : light ? "caption dark" : "caption", &text);
}

/* "name, F32 [2,3], 24 B, bytes 8 to 32" */
static void put_title(struct picture *picture, const struct paint *paint)
{
	const struct stfs_map_run *run = paint->run;
	const struct stfs_segment *first = &paint->file->segments.items[run->first];
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;

	stfs_map_describe(paint->file, run, &text);
	if (run->tensors == 1) {
		const struct stfs_header *header = paint->file->shard->header;
		const struct stfs_tensor *tensor = &header->tensors[first->tensor];
		struct stfs_tensor_ref ref = {.shard = paint->file->shard, .tensor = tensor};

		stfs_buf_printf(&text, "\n%s ",
				stfs_dtype_info((enum stfs_dtype)tensor->dtype)->name);
		stfs_human_shape(&ref, &text);
	}
	stfs_buf_putc(&text, '\n');
	stfs_human_size(run->end - run->begin, false, &text);
	stfs_buf_printf(&text, ", bytes %" PRIu64 " to %" PRIu64, run->begin, run->end);
	fputs("<title>", picture->out);
	put_buf(picture, &text);
	fputs("</title>", picture->out);
}

/* A run from pixel `from` to `to` of the unwrapped bar, in as many rows as it takes. */
static void put_run(struct picture *picture, const struct paint *paint, double from, double to)
{
	double top = picture->y, x, width;
	uint64_t row = (uint64_t)(from / BAR);
	char colour[32];
	bool captioned = false;
	const char *class = paint->run->tensors > 1 ? " class=\"r many\""
			    : picture->runs++ & 1   ? " class=\"r pale\"" : " class=\"r\"";

	fputs("<g>", picture->out);
	put_title(picture, paint);
	for (; from < to; row++) {
		x = from - (double)row * BAR;
		width = (to < (double)(row + 1) * BAR ? to : (double)(row + 1) * BAR) - from;
		picture->y = top + (double)row * PITCH;
		if (width > 0.01)
			fprintf(picture->out,
				"<rect x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"%.0f\" "
				"fill=\"%s\"%s/>",
				LEFT + x, picture->y, width, ROW, fill_of(paint, colour),
				width < 3 ? "" : class);
		if (!captioned && width >= CAPTION_LEAST) {
			put_caption(picture, paint, LEFT + x, width);
			captioned = true;
		}
		from = (double)(row + 1) * BAR;
	}
	fputs("</g>\n", picture->out);
	picture->y = top;
}

static void put_runs(struct picture *picture, const struct stfs_map_file *file)
{
	double scale = BAR / picture->row_bytes;
	uint64_t least = (uint64_t)(picture->narrow / scale);

	for (size_t at = 0; at < file->segments.count;) {
		struct stfs_map_run run = stfs_map_run_at(file, at, least);
		struct paint paint = {.file = file, .run = &run,
				      .class = stfs_map_class_of(
					      file, &file->segments.items[run.largest])};

		at = run.last + 1;
		if (run.end > run.begin &&
		    !stfs_segment_is_fault(file->segments.items[run.first].kind))
			put_run(picture, &paint, (double)run.begin * scale,
				(double)run.end * scale);
	}
}

/* Holes and the like, and the header, which would be too narrow to see; those too near each other
 * to be told apart are left out. */
static void put_marks(struct picture *picture, const struct stfs_map_file *file)
{
	double scale = BAR / picture->row_bytes, from, to, drawn = -1;

	for (size_t at = 0; at < file->segments.count;) {
		struct stfs_map_run run = stfs_map_run_at(file, at, 0);
		enum stfs_segment_kind kind = file->segments.items[run.first].kind;
		struct paint paint = {.file = file, .run = &run, .fault = true,
				      .class = stfs_map_class_of(
					      file, &file->segments.items[run.first])};

		at = run.last + 1;
		paint.fault = stfs_segment_is_fault(kind);
		from = (double)run.begin * scale;
		to = (double)run.end * scale;
		if (!paint.fault && (kind != STFS_SEGMENT_HEADER || to - from >= 3))
			continue;
		if (to - drawn < 1)
			continue;
		if (to - from < 3)
			to = from + 3;
		put_run(picture, &paint, from < drawn ? drawn : from, to);
		drawn = to;
	}
}

/* ---- The page ---- */

static uint64_t rows_of(const struct picture *picture, const struct stfs_map_file *file)
{
	double rows = (double)stfs_segments_end(&file->segments) / picture->row_bytes;
	uint64_t whole = (uint64_t)rows;

	return whole + (rows > (double)whole) + (whole == 0 && rows == 0);
}

static void put_file(struct picture *picture, const struct stfs_map_file *file)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	uint64_t rows = rows_of(picture, file);
	double top;

	stfs_escape(stfs_str_from(file->shard->name), STFS_ESCAPE_LINE, &text);
	stfs_buf_puts(&text, ", ");
	stfs_human_size(file->shard->size, false, &text);
	if (file->shard->header)
		stfs_buf_printf(&text, ", %" PRIu32 " tensor%s", file->shard->header->count,
				file->shard->header->count == 1 ? "" : "s");
	put_label(picture, LEFT, picture->y + 12, "file", &text);
	picture->y += 20;
	top = picture->y;
	for (uint64_t row = 0; row < rows; row++) {
		stfs_buf_clear(&text);
		stfs_human_size((uint64_t)((double)row * picture->row_bytes), false, &text);
		put_label(picture, LEFT - 8, top + (double)row * PITCH + ROW / 2 + 4, "offset",
			  &text);
	}
	put_runs(picture, file);
	put_marks(picture, file);
	picture->y = top + (double)rows * PITCH + 12;
}

static void put_legend(struct picture *picture)
{
	uint64_t totals[STFS_MAP_CLASSES];
	double x = LEFT, width;

	stfs_map_totals(picture->map, totals);
	for (unsigned i = 0; i < STFS_MAP_CLASSES; i++) {
		STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
		unsigned kind = i - STFS_DTYPE_COUNT;

		if (!totals[i])
			continue;
		stfs_buf_printf(&text, "%s ", stfs_map_class(i)->label);
		stfs_human_size(totals[i], false, &text);
		width = 14 + 6 + CHARACTER * 1.05 * (double)text.len + 22;
		if (x + width > LEFT + BAR && x > LEFT) {
			x = LEFT;
			picture->y += 22;
		}
		fprintf(picture->out,
			"<rect x=\"%.1f\" y=\"%.1f\" width=\"14\" height=\"14\" rx=\"2\" "
			"fill=\"", x,
			picture->y);
		if (i < STFS_DTYPE_COUNT || !stfs_segment_is_fault((enum stfs_segment_kind)kind))
			fprintf(picture->out, "#%06x\"/>\n", stfs_map_class(i)->colour);
		else
			fprintf(picture->out, "url(#%s)\"/>\n",
				kind == STFS_SEGMENT_MISSING ? "missing" :
				kind == STFS_SEGMENT_UNKNOWN ? "unknown" : "fault");
		put_label(picture, x + 20, picture->y + 11, "legend", &text);
		x += width;
	}
	picture->y += 34;
}

static const char style[] =
	"<style>text{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"
	"\"DejaVu Sans Mono\",monospace;"
	"font-size:11px;fill:#24292f}.head{font-size:17px;font-weight:600}.sub{fill:#57606a}"
	".file{font-weight:600}.offset{text-anchor:end;fill:#6e7781;font-size:10px}"
	".caption{font-size:10.5px;fill:#fff;pointer-events:none}.dark{fill:#1c2128}"
	".onfault{fill:#7a0c12;font-weight:600;stroke:#fff;stroke-width:3px;paint-order:stroke}"
	".r{stroke:#fff;stroke-width:.8px}.pale{fill-opacity:.86}.many{fill-opacity:.7}"
	"g:hover rect{stroke:#111;stroke-width:1.5px}</style>\n"
	"<defs>"
	"<pattern id=\"fault\" width=\"7\" height=\"7\" patternUnits=\"userSpaceOnUse\" "
	"patternTransform=\"rotate(45)\"><rect width=\"7\" height=\"7\" fill=\"#fde3e3\"/>"
	"<rect width=\"3.5\" height=\"7\" fill=\"#d62728\"/></pattern>"
	"<pattern id=\"missing\" width=\"7\" height=\"7\" patternUnits=\"userSpaceOnUse\" "
	"patternTransform=\"rotate(45)\"><rect width=\"7\" height=\"7\" fill=\"#fff\"/>"
	"<rect width=\"1.5\" height=\"7\" fill=\"#e58a8c\"/></pattern>"
	"<pattern id=\"unknown\" width=\"7\" height=\"7\" patternUnits=\"userSpaceOnUse\" "
	"patternTransform=\"rotate(-45)\"><rect width=\"7\" height=\"7\" fill=\"#eee\"/>"
	"<rect width=\"2\" height=\"7\" fill=\"#9a8f8f\"/></pattern>"
	"</defs>\n";

/* The last component of a path, with its trailing slash if it has one. */
static const char *title_of(const char *path)
{
	const char *end = path + strlen(path);

	while (end > path + 1 && (end[-1] == '/' || end[-1] == '.'))
		end--;
	while (end > path && end[-1] != '/')
		end--;
	return *end ? end : path;
}

static void put_head(struct picture *picture)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	const struct stfs_model *model = picture->map->model;
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < picture->map->count; i++)
		bytes += picture->map->files[i].shard->size;
	stfs_escape(stfs_str_from(title_of(model->resolved.path)), STFS_ESCAPE_LINE, &text);
	put_label(picture, LEFT, 34, "head", &text);
	stfs_buf_clear(&text);
	stfs_human_size(bytes, false, &text);
	stfs_buf_puts(&text, ", ");
	stfs_human_count(model->shown, &text);
	stfs_buf_puts(&text, model->shown == 1 ? " tensor" : " tensors");
	if (picture->map->count > 1)
		stfs_buf_printf(&text, " in %" PRIu32 " files", picture->map->count);
	if (picture->map->count > FILES_MAX)
		stfs_buf_printf(&text, ", of which the first %d are drawn", FILES_MAX);
	put_label(picture, LEFT, 54, "sub", &text);
	picture->y = 70;
	put_legend(picture);
}

/* The scale: few rows for small or many files, ten at most for one. */
static void plan(struct picture *picture, uint32_t files)
{
	const struct stfs_map *map = picture->map;
	uint64_t segments = 0, rows, all = 0;

	for (uint32_t i = 0; i < files; i++)
		segments = stfs_max_u64(segments, map->files[i].segments.count);
	rows = stfs_min_u64(1 + segments / 12, stfs_max_u64(10 / (files ? files : 1), 1));
	picture->row_bytes = map->longest ? (double)map->longest / (double)rows : 1;
	for (uint32_t i = 0; i < files; i++)
		all += rows_of(picture, &map->files[i]);
	picture->narrow = 2 * (double)all * BAR / RECTS_MAX;
	if (picture->narrow < 2)
		picture->narrow = 2;
}

int stfs_map_svg(const struct stfs_map *map, FILE *out)
{
	uint32_t files = (uint32_t)stfs_min_u64(map->count, FILES_MAX);
	STFS_AUTO_FREE char *body = NULL;
	struct picture picture = {.map = map};
	size_t len = 0;

	/* The head of the page gives its height, which is known at its end. */
	picture.out = open_memstream(&body, &len);
	if (!picture.out)
		return -ENOMEM;
	plan(&picture, files);
	put_head(&picture);
	for (uint32_t i = 0; i < files; i++)
		put_file(&picture, &map->files[i]);
	if (fclose(picture.out) != 0 || picture.r < 0)
		return -ENOMEM;
	fprintf(out,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" "
		"width=\"%.0f\">\n%s"
		"<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
		LEFT + BAR + 28, picture.y + 12, LEFT + BAR + 28, style);
	fwrite(body, 1, len, out);
	fputs("</svg>\n", out);
	return 0;
}
