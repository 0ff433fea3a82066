/* SPDX-License-Identifier: MIT */
/*
 * Judges files for the differential tests, thousands a second: names in argv, or one a line on
 * standard input; one line of tab-separated fields a file, flushed, on standard output:
 *
 *   NAME  official  level  rules  [table  metadata]  [memory]
 *
 *   official  what the official loader is expected to say: "ok" or "error"; "unread" when the file
 *             could not be read
 *   level     as stfs_level_name()
 *   rules     RULE@BYTE,... in the order of the findings, "-" for none and for no position; of a
 *             sharded model those of the index first, then those of its shards
 *   table     with -t: NAME:DTYPE:DIMxDIM:BEGIN:END,... of the tensors that could be read, NAME in
 *             hexadecimal, in key order; "-" for none
 *   metadata  with -t: KEY:VALUE,... in hexadecimal, in order; "-" when there is no __metadata__
 *   memory    with -m: the peak of resident memory so far in bytes; 0 where a sanitizer's memory
 *             hides it. (What wait4() gives includes that of the process that forked.)
 *
 * -w also writes NAME.again, the same tensors under a header of our own writing, for every file
 * that we take.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "format/header.h"
#include "store/model.h"
#include "unit/header_tools.h"

static bool with_table, with_rewriting, with_memory;

static void put_hex(struct stfs_str str)
{
	for (size_t i = 0; i < str.len; i++)
		printf("%02x", (unsigned char)str.ptr[i]);
}

static unsigned rules_put; /* of this file */

static void put_rule(enum stfs_rule rule, uint64_t position)
{
	printf("%s%s@", rules_put++ ? "," : "", stfs_rule_info(rule)->name);
	if (position == STFS_NO_POSITION)
		putchar('-');
	else
		printf("%" PRIu64, position);
}

static void put_findings(const struct stfs_findings *findings)
{
	for (size_t i = 0; i < findings->count; i++)
		put_rule(findings->items[i].rule, findings->items[i].position);
}

/* All rules of the model; the field is opened and closed by the caller. */
static void put_rules(const struct stfs_model *model)
{
	rules_put = 0;
	if (model->unread.code)
		put_rule(STFS_RULE_INDEX, model->unread.position);
	put_findings(&model->findings);
	for (uint32_t i = 0; i < model->shard_count; i++) {
		if (model->shards[i].status < 0)
			put_rule(STFS_RULE_SHARD_UNREADABLE, STFS_NO_POSITION);
		put_findings(&model->shards[i].findings);
	}
	if (!rules_put)
		putchar('-');
}

/* The highest level of what put_rules() writes. */
static enum stfs_level level_of(const struct stfs_model *model)
{
	enum stfs_level level = stfs_findings_level(&model->findings), other;

	if (model->unread.code)
		return STFS_LEVEL_ERROR;
	for (uint32_t i = 0; i < model->shard_count; i++) {
		other = model->shards[i].status < 0 ? STFS_LEVEL_ERROR
						    : stfs_findings_level(&model->shards[i].findings);
		level = other > level ? other : level;
	}
	return level;
}

static void put_tensor(const struct stfs_header *header, const struct stfs_tensor *tensor)
{
	STFS_AUTO_FREE uint64_t *dims = calloc(tensor->rank + 1u, sizeof(*dims));

	if (!dims)
		abort();
	stfs_header_shape(header, tensor, dims);
	put_hex(stfs_header_name(header, tensor));
	printf(":%s:", stfs_dtype_info((enum stfs_dtype)tensor->dtype)->name);
	for (uint32_t i = 0; i < tensor->rank; i++)
		printf(i ? "x%" PRIu64 : "%" PRIu64, dims[i]);
	printf(":%" PRIu64 ":%" PRIu64, tensor->begin, tensor->end);
}

static int put_pair(void *data, struct stfs_str key, struct stfs_str value)
{
	unsigned *count = data;

	if ((*count)++)
		putchar(',');
	put_hex(key);
	putchar(':');
	put_hex(value);
	return 0;
}

static void put_table(const struct stfs_header *header)
{
	unsigned count = 0, pairs = 0;

	putchar('\t');
	for (uint32_t i = 0; header && i < header->count; i++) {
		if (!header->tensors[i].usable || header->tensors[i].shadowed)
			continue;
		if (count++)
			putchar(',');
		put_tensor(header, &header->tensors[i]);
	}
	fputs(count ? "\t" : "-\t", stdout);
	if (header && header->metadata_len) {
		if (stfs_header_metadata(header, put_pair, &pairs) < 0)
			abort();
	} else {
		putchar('-');
	}
}

/* Writes PATH.again: a header of ours, then the data as it is. */
static int rewrite(const char *path, const struct stfs_shard *shard)
{
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
	STFS_AUTO_FREE char *again = NULL;
	STFS_AUTO_FILE FILE *file = NULL;
	size_t before, len = shard->header->data_len;
	int r = stfs_test_rewrite(shard->header, 0, &out);

	if (r == 0)
		r = stfs_buf_reserve(&out, len);
	if (r < 0 || asprintf(&again, "%s.again", path) < 0)
		return r < 0 ? r : -ENOMEM;
	before = out.len;
	if (pread(shard->fd, out.data + before, len, (off_t)stfs_header_data_start(shard->header)) !=
	    (ssize_t)len)
		return -EIO;
	file = fopen(again, "we");
	if (!file || fwrite(out.data, 1, before + len, file) != before + len || fflush(file) != 0)
		return -errno;
	return 0;
}

static void put_memory(void)
{
	STFS_AUTO_FILE FILE *status = fopen("/proc/self/status", "re");
	unsigned long long kilobytes = 0;
	char line[256];

	while (!STFS_TEST_SANITIZED && status && fgets(line, sizeof(line), status))
		if (strncmp(line, "VmHWM:", 6) == 0)
			kilobytes = strtoull(line + 6, NULL, 10);
	printf("\t%llu", kilobytes * 1024);
}

static int judge(const char *path)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_model *model;
	enum stfs_level level;
	bool one_file;
	int r = stfs_model_open(path, STFS_OPEN_JUDGE, &model, &err);

	if (r < 0) {
		fprintf(stderr, "judge: %s\n", err.message);
		return r;
	}
	one_file = !model->unread.code && model->shard_count == 1 && !stfs_model_is_sharded(model);
	level = level_of(model);
	if (one_file ? model->shards[0].status < 0 : !stfs_model_is_sharded(model))
		printf("%s\tunread\t-\t", path);
	else
		printf("%s\t%s\t%s\t", path, level == STFS_LEVEL_ERROR ? "error" : "ok", stfs_level_name(level));
	put_rules(model);
	if (with_table)
		put_table(one_file ? model->shards[0].header : NULL);
	if (with_memory)
		put_memory();
	putchar('\n');
	if (with_rewriting && one_file && level < STFS_LEVEL_REFUSED)
		r = rewrite(path, &model->shards[0]);
	if (r < 0)
		fprintf(stderr, "judge: %s.again: %s\n", path, strerror(-r));
	stfs_model_close(model);
	return r;
}

int main(int argc, char **argv)
{
	STFS_AUTO_FREE char *line = NULL;
	size_t cap = 0;
	ssize_t len;
	int option;

	while ((option = getopt(argc, argv, "tmw")) != -1) {
		with_table |= option == 't';
		with_rewriting |= option == 'w';
		with_memory |= option == 'm';
		if (option == '?')
			return 2;
	}
	for (int i = optind; i < argc; i++)
		if (judge(argv[i]) < 0)
			return 1;
	while (optind == argc && (len = getline(&line, &cap, stdin)) > 0) {
		if (line[len - 1] == '\n')
			line[len - 1] = '\0';
		if (judge(line) < 0 || fflush(stdout) != 0)
			return 1;
	}
	return ferror(stdout) || fflush(stdout) != 0;
}
