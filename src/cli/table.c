/* SPDX-License-Identifier: MIT */
#include "cli/table.h"

#include <errno.h>
#include <stdint.h>
#include <wchar.h>

#include "base/arith.h"
#include "base/utf8.h"

#define GAP 2 /* spaces between columns */
#define COLUMNS_MAX 16
/* A name can be as long as a header: no column is wider, else every row is padded to it. */
#define WIDTH_MOST 512
#define LEAST 20 /* a name is not shortened beyond this: a line may then be too long */
#define ELLIPSIS "\xe2\x80\xa6"

/* The character of `bytes` (1 to 4) at `text`, well-formed. */
static wchar_t decode(const char *text, size_t bytes)
{
	uint32_t code = (unsigned char)text[0];

	if (bytes > 1)
		code &= 0x7fu >> bytes;
	for (size_t i = 1; i < bytes; i++)
		code = code << 6 | ((unsigned char)text[i] & 0x3f);
	return (wchar_t)code;
}

static size_t char_width(struct stfs_str text, size_t at, size_t *bytes)
{
	int width;

	*bytes = stfs_utf8_width(text.ptr + at, text.len - at);
	if (*bytes == 0)
		*bytes = 1;
	width = *bytes == 1 ? 1 : wcwidth(decode(text.ptr + at, *bytes));
	return width < 0 ? 1 : (size_t)width;
}

size_t stfs_text_width(struct stfs_str text)
{
	size_t width = 0, bytes;

	for (size_t at = 0; at < text.len; at += bytes)
		width += char_width(text, at, &bytes);
	return width;
}

/* Bytes at the beginning that take at most `width` columns. */
static size_t head(struct stfs_str text, size_t width)
{
	size_t at = 0, bytes, used = 0;

	while (at < text.len && (used += char_width(text, at, &bytes)) <= width)
		at += bytes;
	return at;
}

void stfs_text_shorten(struct stfs_str text, size_t width, struct stfs_buf *out)
{
	size_t whole = stfs_text_width(text), first, bytes, at, rest;

	if (whole <= width || width == 0) {
		stfs_buf_add_str(out, text);
		return;
	}
	/* Names differ at their ends more than at their beginnings: keep more of those. */
	first = (width - 1) / 3;
	stfs_buf_add(out, text.ptr, head(text, first));
	stfs_buf_puts(out, ELLIPSIS);
	at = head(text, whole - (width - 1 - first));
	rest = stfs_text_width(stfs_str_slice(text.ptr + at, text.len - at));
	while (at < text.len && rest > width - 1 - first) {
		rest -= char_width(text, at, &bytes);
		at += bytes;
	}
	stfs_buf_add(out, text.ptr + at, text.len - at);
}

void stfs_table_cell(struct stfs_table *table)
{
	size_t end = table->text.len;

	stfs_buf_add(&table->ends, &end, sizeof(end));
	table->cells++;
}

void stfs_table_put(struct stfs_table *table, const char *cell)
{
	stfs_buf_puts(&table->text, cell);
	stfs_table_cell(table);
}

static struct stfs_str cell_text(const struct stfs_table *table, size_t cell)
{
	size_t begin = 0, end;

	if (cell)
		memcpy(&begin, table->ends.data + (cell - 1) * sizeof(begin), sizeof(begin));
	memcpy(&end, table->ends.data + cell * sizeof(end), sizeof(end));
	return stfs_str_slice(table->text.data + begin, end - begin);
}

static void measure(const struct stfs_table *table, unsigned limit, size_t widths[COLUMNS_MAX])
{
	size_t total = table->indent ? strlen(table->indent) : 0, width;

	for (size_t i = 0; i < table->column_count; i++)
		widths[i] = table->headless ? 0 : strlen(table->columns[i].title);
	for (size_t cell = 0; cell < table->cells; cell++) {
		width = stfs_text_width(cell_text(table, cell));
		width = stfs_min_u64(width, WIDTH_MOST);
		if (width > widths[cell % table->column_count])
			widths[cell % table->column_count] = width;
	}
	for (size_t i = 0; i < table->column_count; i++)
		total += table->columns[i].hidden ? 0 : widths[i] + GAP;
	for (size_t i = 0; limit && i < table->column_count; i++) {
		if (!table->columns[i].shrinks || total <= limit + GAP)
			continue;
		width = total - GAP - limit;
		widths[i] = widths[i] > width + LEAST ? widths[i] - width
						      : stfs_min_u64(widths[i], LEAST);
	}
}

/* One row; `cell` is its first, or SIZE_MAX for the titles. */
static void print_row(const struct stfs_table *table, size_t cell, const size_t widths[COLUMNS_MAX],
		      struct stfs_buf *line)
{
	static const char spaces[] = "                ";
	size_t pad = 0, width;

	stfs_buf_clear(line);
	if (table->indent)
		stfs_buf_puts(line, table->indent);
	for (size_t i = 0; i < table->column_count; i++) {
		const struct stfs_column *column = &table->columns[i];
		struct stfs_str text = cell == SIZE_MAX ? stfs_str_from(column->title)
							: cell_text(table, cell + i);
		size_t own;

		if (column->hidden)
			continue;
		width = stfs_text_width(text);
		own = width < widths[i] ? widths[i] - width : 0;
		/* Padding is written only once something follows: no spaces end a line. */
		for (pad += column->right ? own : 0; text.len && pad > 0;) {
			size_t piece = pad < sizeof(spaces) - 1 ? pad : sizeof(spaces) - 1;

			stfs_buf_add(line, spaces, piece);
			pad -= piece;
		}
		stfs_text_shorten(text, widths[i], line);
		pad += GAP + (column->right ? 0 : own);
	}
	stfs_buf_putc(line, '\n');
}

int stfs_table_print(struct stfs_table *table, unsigned width, FILE *out)
{
	STFS_AUTO_BUF struct stfs_buf line = STFS_BUF_INIT;
	size_t widths[COLUMNS_MAX] = {0};
	int r = stfs_buf_status(&table->text);

	if (r == 0)
		r = stfs_buf_status(&table->ends);
	if (r == 0)
		measure(table, width, widths);
	if (r == 0 && !table->headless) {
		print_row(table, SIZE_MAX, widths, &line);
		fwrite(line.data, 1, line.len, out);
	}
	for (size_t cell = 0; r == 0 && cell + table->column_count <= table->cells;
	     cell += table->column_count) {
		print_row(table, cell, widths, &line);
		r = stfs_buf_status(&line);
		fwrite(line.data, 1, r == 0 ? line.len : 0, out);
	}
	stfs_buf_free(&table->text);
	stfs_buf_free(&table->ends);
	table->cells = 0;
	return r;
}
