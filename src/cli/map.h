/* SPDX-License-Identifier: MIT */
/* The layout of a model drawn: what the three ways to show it share (map.c). */
#ifndef STFS_CLI_MAP_H
#define STFS_CLI_MAP_H

#include <stdio.h>

#include "ops/segments.h"
#include "store/model.h"

struct stfs_map_file {
	struct stfs_shard *shard; /* borrowed */
	struct stfs_segments segments;
};

struct stfs_map {
	const struct stfs_model *model; /* borrowed */
	struct stfs_map_file *files;    /* owned; the readable ones */
	uint32_t count;
	uint64_t longest; /* the largest end of a file's segments */
};

/* What one colour stands for. */
struct stfs_map_class {
	const char *label; /* "header", "F32", "hole" */
	const char *mark;  /* in a terminal: one column */
	unsigned colour;   /* 0xRRGGBB */
};

/* Classes are numbered: dtypes first, then the other kinds of segments. */
#define STFS_MAP_CLASSES (STFS_DTYPE_COUNT + STFS_SEGMENT_KINDS)
unsigned stfs_map_class_of(const struct stfs_map_file *file, const struct stfs_segment *segment);
const struct stfs_map_class *stfs_map_class(unsigned number);

/* Bytes of each class in all files. */
void stfs_map_totals(const struct stfs_map *map, uint64_t totals[STFS_MAP_CLASSES]);

/*
 * Neighbours that are told or drawn as one: segments [first, last] of one kind. Holes and overlaps
 * are never merged with anything, so that each stays to be seen.
 */
struct stfs_map_run {
	size_t first, last;
	uint64_t begin, end;
	size_t largest; /* the segment that gives the colour */
	size_t tensors;
};

/*
 * The run that begins at segment `first`: tensors smaller than `least` bytes are gathered until the
 * run has as many.
 */
struct stfs_map_run stfs_map_run_at(const struct stfs_map_file *file, size_t first, uint64_t least);

/* Appends what a run is, for a person: a tensor's name, the names of the first and the last. */
void stfs_map_describe(const struct stfs_map_file *file, const struct stfs_map_run *run,
		       struct stfs_buf *out);

void stfs_map_print(const struct stfs_map *map, unsigned width);              /* map_text.c */
int stfs_map_svg(const struct stfs_map *map, FILE *out);                      /* map_svg.c */

#endif
