/* SPDX-License-Identifier: MIT */
/* Rows and columns on a terminal, by the width that characters have there. */
#ifndef STFS_CLI_TABLE_H
#define STFS_CLI_TABLE_H

#include <stdbool.h>
#include <stdio.h>

#include "base/buf.h"

/* Columns that a terminal uses for well-formed UTF-8 without control characters. */
size_t stfs_text_width(struct stfs_str text);
/* Appends `text`, its middle replaced by an ellipsis where it is wider than `width`. */
void stfs_text_shorten(struct stfs_str text, size_t width, struct stfs_buf *out);

struct stfs_column {
	const char *title;
	bool right;   /* aligned */
	bool shrinks; /* may be shortened so that a row fits; one column at most */
	bool hidden;
};

struct stfs_table {
	const struct stfs_column *columns;
	size_t column_count;
	const char *indent; /* before every row; NULL: none */
	bool headless;      /* no titles */
	struct stfs_buf text; /* of all cells, one after another */
	struct stfs_buf ends; /* of each cell in text, as size_t */
	size_t cells;
};

#define STFS_TABLE_INIT(names) \
	{.columns = (names), .column_count = sizeof(names) / sizeof((names)[0])}

/*
 * A cell is what was appended to table->text since the last one ended. Its text is UTF-8 that a
 * terminal may be shown. Cells fill rows from left to right.
 */
void stfs_table_cell(struct stfs_table *table);
void stfs_table_put(struct stfs_table *table, const char *cell);

/* Prints it, in `width` columns (0: as wide as it is), and frees it. 0 or -ENOMEM. */
int stfs_table_print(struct stfs_table *table, unsigned width, FILE *out);

#endif
