/* SPDX-License-Identifier: MIT */
/*
 * How much a model's edits write: 200 single-edit commits planned one after the other on a table of
 * tensor sizes, the bytes that each plan writes or moves against the bytes of the tensors edited. Only
 * numbers: no file is touched.
 *
 *   amplify [--no-shift] [--clone] [--seed N] [--edits N] [--each] < SHAPES
 *   amplify --batch N [...]: one edit of 100,000 tensors, N of them deleted and as many added, timed
 *
 * SHAPES (tests/bench/shapes.py makes them): "data_start header_bytes count", then a line a tensor,
 * "bytes alignment", in file order.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "layout/layout.h"

enum edit { EDIT_DELETE, EDIT_ADD, EDIT_REPLACE, EDIT_RESIZE, EDIT_RENAME, EDIT_METADATA, EDIT_COUNT };

static const char *const names[EDIT_COUNT] = {"delete", "add", "replace", "resize", "rename", "metadata"};

/* Edits of fewer bytes say nothing by their ratio: a block's edge is more than they are. */
#define RATIO_LEAST 1e6

struct tally {
	unsigned count;
	double edited, written; /* bytes */
	double most;            /* bytes of one edit beyond those of its new tensor */
	double worst;           /* ratio of one edit */
};

struct model {
	struct stfs_layout_item *items; /* owned; old is where each lies */
	size_t count;
	uint64_t data_start, length, header_per_item;
	uint64_t header_more; /* bytes by which names and metadata have grown */
};

struct run {
	struct model model, first; /* as it is now, and as it was read */
	struct stfs_layout_file abilities;
	struct tally tallies[EDIT_COUNT];
	uint64_t random;
	bool each; /* print every edit */
};

static uint64_t below(struct run *run, uint64_t bound)
{
	run->random ^= run->random << 13;
	run->random ^= run->random >> 7;
	run->random ^= run->random << 17;
	return run->random % bound;
}

static int read_model(struct model *m)
{
	uint64_t header;

	if (scanf("%" SCNu64 " %" SCNu64 " %zu", &m->data_start, &header, &m->count) != 3 || !m->count)
		return -1;
	m->header_per_item = header / m->count + 1;
	m->length = m->data_start;
	m->items = calloc(m->count, sizeof(*m->items));
	for (size_t i = 0; m->items && i < m->count; i++) {
		if (scanf("%" SCNu64 " %" SCNu32, &m->items[i].size, &m->items[i].alignment) != 2)
			return -1;
		m->items[i].old = m->length;
		m->length += m->items[i].size;
	}
	return m->items ? 0 : -1;
}

static enum edit pick_edit(struct run *run)
{
	enum edit edit = (enum edit)below(run, 3);

	if (run->model.count < run->first.count / 2)
		return EDIT_ADD;
	if (below(run, 8) == 0)
		return below(run, 2) ? EDIT_RENAME : EDIT_METADATA;
	return edit == EDIT_REPLACE && below(run, 3) == 0 ? EDIT_RESIZE : edit;
}

/* The new tensor of an edit: like one of the first model's, or the edited one with some rows more. */
static struct stfs_layout_item pick_new(struct run *run, enum edit edit, size_t edited)
{
	struct stfs_layout_item item = edit == EDIT_ADD ? run->first.items[below(run, run->first.count)]
							: run->model.items[edited];

	if (edit == EDIT_RESIZE)
		item.size += (1 + below(run, 8)) * 1536;
	item.size -= item.size % item.alignment;
	item.old = STFS_LAYOUT_NEW;
	return item;
}

static uint64_t bytes_of(const struct stfs_plan *plan)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < plan->count; i++)
		if (plan->steps[i].kind == STFS_STEP_WRITE || plan->steps[i].kind == STFS_STEP_COPY)
			sum += plan->steps[i].len;
	return sum;
}

static void account(struct run *run, enum edit edit, const struct stfs_plan *plan, double edited)
{
	static const char *const kinds[] = {"header", "in place", "clone", "rebuild"};
	struct tally *t = &run->tallies[edit];
	double written = (double)bytes_of(plan), beyond = written - (edit == EDIT_DELETE ? 0 : edited);

	t->count++;
	t->edited += edited;
	t->written += written;
	t->most = beyond > t->most ? beyond : t->most;
	if (edited >= RATIO_LEAST && written / edited > t->worst)
		t->worst = written / edited;
	if (run->each)
		printf("%-8s %-8s edited %12.0f wrote %12.0f steps %zu\n", names[edit], kinds[plan->kind],
		       edited, written, plan->count);
}

/* The items that the model shall have after an edit: their number. */
static size_t apply(struct run *run, enum edit edit, struct stfs_layout_item *items, uint64_t *size)
{
	const struct model *m = &run->model;
	size_t edited = below(run, m->count), count = 0;

	*size = 0;
	for (size_t i = 0; i < m->count; i++)
		if (i != edited || edit == EDIT_ADD || edit >= EDIT_RENAME)
			items[count++] = m->items[i];
	if (edit == EDIT_DELETE) {
		*size = m->items[edited].size;
	} else if (edit < EDIT_RENAME) {
		items[count] = pick_new(run, edit, edited);
		*size = items[count++].size;
	}
	return count;
}

/* Plans one edit and makes its result the model. */
static int edit_once(struct run *run)
{
	struct model *m = &run->model;
	enum edit edit = pick_edit(run);
	struct stfs_layout_item *items = calloc(m->count + 1, sizeof(*items));
	struct stfs_layout_problem problem = {.file = run->abilities, .header_same = UINT64_MAX};
	struct stfs_plan plan;
	uint64_t size;

	if (!items)
		return -1;
	problem.items = items;
	problem.count = apply(run, edit, items, &size);
	m->header_more += edit == EDIT_RENAME ? below(run, 16) : edit == EDIT_METADATA ? below(run, 200) : 0;
	problem.file.length = m->length;
	problem.file.data_start = m->data_start;
	problem.header_need = m->header_per_item * problem.count + 100 + m->header_more;
	if (edit >= EDIT_RENAME)
		problem.header_same = problem.header_need;
	if (stfs_layout_plan(&problem, &plan) < 0)
		return -1;
	account(run, edit, &plan, (double)size);
	for (size_t i = 0; i < problem.count; i++)
		items[i].old = plan.place[i];
	if (m->items != run->first.items)
		free(m->items);
	m->items = items;
	m->count = problem.count;
	m->data_start = plan.data_start;
	m->length = plan.length;
	stfs_plan_free(&plan);
	return 0;
}

/* ---- One large edit ---- */

#define BATCH_TENSORS 100000

/* Sizes of 100,000 tensors: multiples of `grain`, most below 16 KiB. */
static uint64_t batch_size(struct run *run, uint64_t grain)
{
	return grain * (1 + below(run, (below(run, 8) ? 16384 : 1048576) / grain));
}

/* Of 100,000 tensors `changed` are deleted all over the file, and as many added. */
static int batch(struct run *run, size_t changed, uint64_t grain)
{
	struct stfs_layout_item *items = calloc(BATCH_TENSORS + changed, sizeof(*items));
	struct stfs_layout_problem problem = {.file = run->abilities, .header_same = UINT64_MAX};
	uint64_t at = (uint64_t)BATCH_TENSORS * 100 / 8 * 8;
	struct timespec from, to;
	struct stfs_plan plan;
	int r;

	problem.items = items;
	problem.header_need = problem.file.data_start = at;
	for (size_t i = 0; items && i < BATCH_TENSORS; i++) {
		uint64_t size = batch_size(run, grain);

		if (below(run, BATCH_TENSORS) >= changed)
			items[problem.count++] = (struct stfs_layout_item){at, size, 2};
		at += size;
	}
	for (size_t i = 0; items && i < changed; i++)
		items[problem.count++] =
			(struct stfs_layout_item){STFS_LAYOUT_NEW, batch_size(run, grain), 2};
	problem.file.length = at;
	clock_gettime(CLOCK_MONOTONIC, &from);
	r = items ? stfs_layout_plan(&problem, &plan) : -1;
	clock_gettime(CLOCK_MONOTONIC, &to);
	if (r == 0) {
		printf("grain %4" PRIu64 ": %.3f s, %zu steps, %.1f MB of %.1f MB written\n", grain,
		       (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) / 1e9,
		       plan.count, (double)bytes_of(&plan) / 1e6, (double)at / 1e6);
		stfs_plan_free(&plan);
	}
	free(items);
	return r;
}

static int batches(struct run *run, size_t changed)
{
	static const uint64_t grains[] = {2, 128, 512, 4096};
	int r = 0;

	for (size_t i = 0; r == 0 && i < sizeof(grains) / sizeof(grains[0]); i++)
		r = batch(run, changed, grains[i]);
	return r == 0 ? 0 : 1;
}

static void show(const struct run *run)
{
	double edited = 0, written = 0;

	printf("%-8s %5s %10s %10s %6s %6s %12s\n", "edit", "count", "edited MB", "wrote MB", "ratio",
	       "worst", "most more MB");
	for (int i = 0; i < EDIT_COUNT; i++) {
		const struct tally *t = &run->tallies[i];

		printf("%-8s %5u %10.1f %10.1f %6.2f %6.2f %12.2f\n", names[i], t->count, t->edited / 1e6,
		       t->written / 1e6, t->edited > 0 ? t->written / t->edited : 0, t->worst,
		       t->most / 1e6);
		edited += t->edited;
		written += t->written;
	}
	printf("%-8s %5s %10.1f %10.1f %6.2f\n", "all", "", edited / 1e6, written / 1e6,
	       edited > 0 ? written / edited : 0);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"no-shift", no_argument, NULL, 'n'},
						{"clone", no_argument, NULL, 'c'},
						{"seed", required_argument, NULL, 's'},
						{"edits", required_argument, NULL, 'e'},
						{"each", no_argument, NULL, 'v'},
						{"batch", required_argument, NULL, 'b'}, {0}};
	struct run run = {.random = 7919};
	unsigned long edits = 200, changed = 0;
	int c, r;

	run.abilities = (struct stfs_layout_file){.block = 4096, .can_shift = true, .room = UINT64_MAX};
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'n': run.abilities.can_shift = false; break;
		case 'c': run.abilities.can_clone = true; break;
		case 's': run.random = 7919 * strtoul(optarg, NULL, 10) + 1; break;
		case 'e': edits = strtoul(optarg, NULL, 10); break;
		case 'v': run.each = true; break;
		case 'b': changed = strtoul(optarg, NULL, 10); break;
		default: return 64;
		}
	}
	if (changed)
		return batches(&run, changed);
	r = read_model(&run.first);
	run.model = run.first;
	for (unsigned long i = 0; r == 0 && i < edits; i++)
		r = edit_once(&run);
	if (r == 0)
		show(&run);
	if (run.model.items != run.first.items)
		free(run.model.items);
	free(run.first.items);
	return r == 0 ? 0 : 1;
}
