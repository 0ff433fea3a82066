/* SPDX-License-Identifier: MIT */
#include "stfs_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/buf.h"
#include "base/io.h"
#include "store/model.h"

#define LIT STFS_CHECK_LIT
#define INDEX "m.safetensors.index.json"
#define FIRST "m-00001-of-00002.safetensors"
#define SECOND "m-00002-of-00002.safetensors"

static void make_root(void)
{
	make_folder("store");
}

static void put_file(const char *name, const char *bytes, size_t len)
{
	FILE *file = fopen(at(name), "we");

	ck_assert_ptr_nonnull(file);
	ck_assert_uint_eq(fwrite(bytes, 1, len, file), len);
	ck_assert_int_eq(fclose(file), 0);
}

static void put_text(const char *name, const char *text)
{
	put_file(name, text, strlen(text));
}

/*
 * A file of U8 tensors from "NAME BEGIN END,..." with `data_len` bytes of data, byte i being
 * i + seed; `metadata` is the text of __metadata__ or NULL.
 */
static void put_model_with(const char *name, const char *tensors, size_t data_len, char seed, const char *metadata)
{
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
	char tensor[64];
	unsigned begin, end;
	int used;

	stfs_buf_fill(&out, 0, STFS_LENGTH_WORD);
	stfs_buf_putc(&out, '{');
	if (metadata)
		stfs_buf_printf(&out, "\"__metadata__\":%s%s", metadata, *tensors ? "," : "");
	for (const char *p = tensors; *p; p += used + (p[used] == ',')) {
		ck_assert_int_eq(sscanf(p, "%63s %u %u%n", tensor, &begin, &end, &used), 3);
		stfs_buf_printf(&out, "%s\"%s\":{\"dtype\":\"U8\",\"shape\":[%u],\"data_offsets\":[%u,%u]}",
				p == tensors ? "" : ",", tensor, end - begin, begin, end);
	}
	stfs_buf_putc(&out, '}');
	stfs_buf_fill(&out, ' ', stfs_align_up(out.len, 8) - out.len);
	stfs_store_le64(out.data, out.len - STFS_LENGTH_WORD);
	for (size_t i = 0; i < data_len; i++)
		stfs_buf_putc(&out, (char)((char)i + seed));
	ck_assert_int_eq(stfs_buf_status(&out), 0);
	put_file(name, out.data, out.len);
}

static void put_model(const char *name, const char *tensors, size_t data_len)
{
	put_model_with(name, tensors, data_len, 0, NULL);
}

/* Opens `name` and demands the result. */
static struct stfs_model *open_model(const char *name, unsigned flags, int want)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_model *model = NULL;
	int r = stfs_model_open(at(name), flags, &model, &err);

	ck_assert_msg(r == want, "%s: %d, want %d: %s", name, r, want, err.message);
	return model;
}

/* Demands that opening fails so, with all of `says` in the message. */
static void refuse(const char *name, unsigned flags, int want, const char *const *says, size_t count)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_model *model = NULL;

	ck_assert_int_eq(stfs_model_open(at(name), flags, &model, &err), want);
	ck_assert_ptr_null(model);
	for (size_t i = 0; i < count; i++)
		ck_assert_msg(strstr(err.message, says[i]), "\"%s\" does not say \"%s\"", err.message, says[i]);
}

#define REFUSE(name, flags, want, ...)                                                             \
	refuse(name, flags, want, (const char *const[]){__VA_ARGS__},                              \
	       sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

/* Names and sizes of what is shown, in natural order: "a:2 b:4"; M1 and M2 on the way. */
static void expect_shown(const struct stfs_model *model, const char *want)
{
	STFS_AUTO_BUF struct stfs_buf got = STFS_BUF_INIT;
	uint32_t *ids = stfs_model_sorted(model);
	struct stfs_tensor_ref ref;
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < model->shown; i++) {
		ck_assert(stfs_model_tensor(model, ids[i], &ref));
		ck_assert_uint_eq(stfs_model_find(model, ref.name), ids[i]);
		ck_assert_uint_le(ref.offset + ref.len, ref.shard->size);
		stfs_buf_printf(&got, "%s%.*s:%" PRIu64, i ? " " : "", (int)ref.name.len, ref.name.ptr, ref.len);
		bytes += ref.len;
	}
	ck_assert_uint_eq(bytes, model->shown_bytes);
	stfs_check_str_eq(stfs_buf_str(&got), stfs_str_from(want), "what is shown");
	free(ids);
}

/* The bytes of a tensor: `len` of them that begin with `first` and count up. */
static void expect_bytes(const struct stfs_model *model, const char *name, size_t len, unsigned char first)
{
	uint32_t id = stfs_model_find(model, stfs_str_from(name));
	struct stfs_tensor_ref ref;
	unsigned char bytes[512];

	ck_assert_msg(stfs_model_tensor(model, id, &ref), "%s is not shown", name);
	ck_assert_uint_eq(ref.len, len);
	ck_assert_int_eq(stfs_model_pread(model, &ref, bytes, sizeof(bytes), 0), (ssize_t)len);
	for (size_t i = 0; i < len; i++)
		ck_assert_uint_eq(bytes[i], (unsigned char)(first + i));
}

/* ---- One file ---- */

START_TEST(opens_a_file)
{
	struct stfs_model *model;
	struct stfs_tensor_ref ref;
	unsigned char bytes[8];
	uint64_t *dims;

	put_model("m.safetensors", "w.10 0 3,w.2 3 10,empty 10 10", 10);
	model = open_model("m.safetensors", 0, 0);
	ck_assert(!stfs_model_is_sharded(model) && !model->tolerated && !stfs_model_has_metadata(model));
	expect_shown(model, "empty:0 w.2:7 w.10:3");
	expect_bytes(model, "w.2", 7, 3);
	ck_assert_uint_eq(stfs_model_find(model, (struct stfs_str)LIT("w")), STFS_NO_TENSOR);
	ck_assert(!stfs_model_tensor(model, 3, &ref) && !stfs_model_tensor(model, STFS_NO_TENSOR, &ref));

	ck_assert(stfs_model_tensor(model, stfs_model_find(model, (struct stfs_str)LIT("w.10")), &ref));
	dims = stfs_model_shape(&ref);
	ck_assert_uint_eq(ref.tensor->rank, 1);
	ck_assert_uint_eq(dims[0], 3);
	free(dims);
	ck_assert_int_eq(stfs_model_pread(model, &ref, bytes, 8, 1), 2);
	ck_assert(bytes[0] == 1 && bytes[1] == 2);
	ck_assert_int_eq(stfs_model_pread(model, &ref, bytes, 1, 2), 1);
	ck_assert_int_eq(stfs_model_pread(model, &ref, bytes, 8, 3), 0);
	ck_assert_int_eq(stfs_model_pread(model, &ref, bytes, 8, UINT64_MAX), 0);
	ck_assert_int_eq(stfs_model_pread(model, &ref, bytes, 0, 0), 0);
	stfs_model_close(model);
}
END_TEST

START_TEST(opens_a_file_without_tensors)
{
	struct stfs_model *model;

	put_model("m.safetensors", "", 0);
	model = open_model("m.safetensors", STFS_OPEN_MAP, 0);
	expect_shown(model, "");
	ck_assert_uint_eq(stfs_model_ids(model), 0);
	stfs_model_close(model);
}
END_TEST

START_TEST(refuses_with_rule_and_byte)
{
	struct stfs_model *model;

	put_text("bad.safetensors", "short");
	REFUSE("bad.safetensors", 0, -EBADMSG, "bad.safetensors", "byte 5", "rule file-too-small");
	put_model("overlap.safetensors", "a 0 4,b 2 6", 6);
	REFUSE("overlap.safetensors", STFS_OPEN_TOLERANT, -EBADMSG, "rule overlap", "byte ");
	model = open_model("overlap.safetensors", STFS_OPEN_JUDGE, 0);
	ck_assert_int_eq(stfs_findings_level(&model->shards[0].findings), STFS_LEVEL_ERROR);
	stfs_model_close(model);
}
END_TEST

START_TEST(what_is_no_file_neither_hangs_nor_passes)
{
	struct stfs_model *model;

	alarm(20);
	ck_assert_int_eq(mkfifo(at("fifo.safetensors"), 0600), 0);
	ck_assert_int_eq(mkfifo(at("fifo.json"), 0600), 0);
	REFUSE("fifo.safetensors", 0, -EINVAL, "not a regular file");
	REFUSE("fifo.json", 0, -EINVAL, "not a regular file");
	REFUSE("none.safetensors", 0, -ENOENT, "none.safetensors");
	ck_assert_int_eq(symlink("nowhere", at("link.safetensors")), 0);
	REFUSE("link.safetensors", 0, -ENOENT, "link.safetensors");
	model = open_model("fifo.safetensors", STFS_OPEN_JUDGE, 0);
	ck_assert_int_eq(model->shards[0].status, -EINVAL);
	stfs_model_close(model);
	model = open_model("none.safetensors", STFS_OPEN_JUDGE | STFS_OPEN_MAP, 0);
	ck_assert_int_eq(model->unread.code, -ENOENT);
	ck_assert_uint_eq(stfs_model_ids(model), 0);
	stfs_model_close(model);
	alarm(0);
}
END_TEST

START_TEST(finds_the_model_of_a_folder)
{
	struct stfs_model *model;

	ck_assert_int_eq(mkdir(at("d"), 0700), 0);
	REFUSE("d", 0, -EINVAL, "no .safetensors file");
	put_model("d/.hidden.safetensors", "h 0 1", 1);
	put_text("d/config.json", "{}");
	REFUSE("d", 0, -EINVAL, "no .safetensors file");
	put_model("d/x.safetensors", "a 0 2", 2);
	model = open_model("d", 0, 0);
	expect_shown(model, "a:2");
	stfs_model_close(model);
	model = open_model("d/", 0, 0);
	stfs_model_close(model);
	put_model("d/y.safetensors", "b 0 2", 2);
	REFUSE("d", 0, -EINVAL, "x.safetensors", "y.safetensors", "2 files");
	/* An index settles it. */
	put_text("d/y.safetensors.index.json", "{\"weight_map\":{\"b\":\"y.safetensors\"}}");
	model = open_model("d", 0, 0);
	expect_shown(model, "b:2");
	ck_assert(stfs_model_is_sharded(model));
	stfs_model_close(model);
	put_text("d/z.safetensors.index.json", "{\"weight_map\":{}}");
	REFUSE("d", 0, -EINVAL, "2 models", "y.safetensors.index.json");
	ck_assert_int_eq(unlink(at("d/x.safetensors")), 0);
	REFUSE("d", 0, -EINVAL, "2 models", "z.safetensors.index.json");
}
END_TEST

START_TEST(finds_a_file_by_a_relative_path)
{
	char before[4096];
	struct stfs_model *model;

	ck_assert_ptr_nonnull(getcwd(before, sizeof(before)));
	put_model("m.safetensors", "a 0 2", 2);
	ck_assert_int_eq(chdir(root), 0);
	ck_assert_int_eq(stfs_model_open("m.safetensors", 0, &model, NULL), 0);
	stfs_model_close(model);
	ck_assert_int_eq(stfs_model_open(".", 0, &model, NULL), 0);
	stfs_model_close(model);
	ck_assert_int_eq(chdir(before), 0);
}
END_TEST

/* ---- The tolerant mode ---- */

START_TEST(tolerates_holes_and_trailing_bytes)
{
	struct stfs_model *model;

	put_model("m.safetensors", "a 0 4,b 8 10", 16);
	REFUSE("m.safetensors", 0, -EBADMSG, "rule hole");
	model = open_model("m.safetensors", STFS_OPEN_TOLERANT, 0);
	ck_assert(model->tolerated);
	expect_shown(model, "a:4 b:2");
	expect_bytes(model, "b", 2, 8);
	stfs_model_close(model);
}
END_TEST

START_TEST(tolerates_what_is_complete_of_a_truncated_file)
{
	struct stfs_model *model;

	put_model("m.safetensors", "a 0 4,b 4 8,c 8 8,d 8 10", 7);
	REFUSE("m.safetensors", 0, -EBADMSG, "rule truncated");
	model = open_model("m.safetensors", STFS_OPEN_TOLERANT, 0);
	ck_assert(model->tolerated);
	expect_shown(model, "a:4");
	ck_assert_uint_eq(stfs_model_find(model, (struct stfs_str)LIT("b")), STFS_NO_TENSOR);
	stfs_model_close(model);
}
END_TEST

START_TEST(needs_no_tolerance_for_what_is_valid)
{
	struct stfs_model *model;

	put_model("m.safetensors", "a 0 4", 4);
	model = open_model("m.safetensors", STFS_OPEN_TOLERANT, 0);
	ck_assert(!model->tolerated);
	stfs_model_close(model);
}
END_TEST

START_TEST(never_tolerates_overlaps)
{
	put_model("m.safetensors", "a 0 4,b 3 6", 16);
	REFUSE("m.safetensors", STFS_OPEN_TOLERANT, -EBADMSG, "rule overlap");
	/* The overlap comes behind a hole and beyond the end. */
	put_model("m.safetensors", "a 0 4,b 8 20,c 19 30", 10);
	REFUSE("m.safetensors", STFS_OPEN_TOLERANT, -EBADMSG, "rule overlap");
}
END_TEST

/* ---- Shards ---- */

static size_t count_rule(const struct stfs_model *model, enum stfs_rule rule)
{
	size_t others = 0;

	for (unsigned i = 0; i < STFS_RULE_COUNT; i++)
		if (i != (unsigned)rule)
			others += model->findings.counts[i];
	ck_assert_msg(others == 0, "also %s", stfs_rule_info(model->findings.items[0].rule)->name);
	return model->findings.counts[rule];
}

START_TEST(unites_shards)
{
	struct stfs_model *model;

	put_text(INDEX, "{\"metadata\":{\"total_size\":9},\"weight_map\":{\"a\":\"" FIRST "\",\"b\":\"" SECOND
		 "\",\"c\":\"" SECOND "\"}}");
	put_model_with(FIRST, "a 0 4", 4, 0, "{\"k\":\"1\",\"l\":\"2\"}");
	put_model_with(SECOND, "b 0 2,c 2 5", 5, 50, "{\"k\":\"3\",\"m\":\"4\"}");
	model = open_model(INDEX, STFS_OPEN_MAP, 0);
	ck_assert_uint_eq(model->shard_count, 2);
	ck_assert_uint_eq(model->findings.count, 0);
	expect_shown(model, "a:4 b:2 c:3");
	expect_bytes(model, "a", 4, 0);
	expect_bytes(model, "c", 3, 52);
	stfs_model_close(model);
}
END_TEST

static int join_pair(void *data, struct stfs_str key, struct stfs_str value)
{
	struct stfs_buf *out = data;

	stfs_buf_printf(out, "%.*s=%.*s ", (int)key.len, key.ptr, (int)value.len, value.ptr);
	return stfs_str_is(value, "stop") ? 7 : 0;
}

static void expect_metadata(const char *first, const char *second, int status, const char *want)
{
	STFS_AUTO_BUF struct stfs_buf got = STFS_BUF_INIT;
	struct stfs_model *model;

	put_text(INDEX, "{\"weight_map\":{\"a\":\"" FIRST "\",\"b\":\"" SECOND "\"}}");
	put_model_with(FIRST, "a 0 4", 4, 0, first);
	put_model_with(SECOND, "b 0 4", 4, 0, second);
	model = open_model(INDEX, 0, 0);
	ck_assert_int_eq(stfs_model_metadata(model, join_pair, &got), status);
	stfs_check_str_eq(stfs_buf_str(&got), stfs_str_from(want), "metadata");
	ck_assert_int_eq(stfs_model_has_metadata(model), first || second);
	stfs_model_close(model);
}

START_TEST(unites_metadata)
{
	expect_metadata(NULL, NULL, 0, "");
	expect_metadata("{\"k\":\"1\",\"l\":\"2\"}", "{\"m\":\"4\",\"k\":\"3\",\"n\":\"5\"}", 0, "k=1 l=2 m=4 n=5 ");
	expect_metadata(NULL, "{\"k\":\"1\"}", 0, "k=1 ");
	expect_metadata("{}", NULL, 0, "");
	expect_metadata("{\"k\":\"stop\"}", "{\"l\":\"2\"}", 7, "k=stop ");
}
END_TEST

START_TEST(follows_links_into_a_cache)
{
	struct stfs_model *model;

	ck_assert_int_eq(mkdir(at("blobs"), 0700), 0);
	ck_assert_int_eq(mkdir(at("snapshots"), 0700), 0);
	ck_assert_int_eq(mkdir(at("snapshots/1"), 0700), 0);
	put_text("blobs/i", "{\"weight_map\":{\"a\":\"" FIRST "\",\"b\":\"" SECOND "\"}}");
	put_model("blobs/1", "a 0 4", 4);
	put_model("blobs/2", "b 0 4", 4);
	ck_assert_int_eq(symlink("../../blobs/i", at("snapshots/1/" INDEX)), 0);
	ck_assert_int_eq(symlink("../../blobs/1", at("snapshots/1/" FIRST)), 0);
	ck_assert_int_eq(symlink("../../blobs/2", at("snapshots/1/" SECOND)), 0);
	ck_assert_int_eq(symlink("snapshots/1", at("latest")), 0);
	for (unsigned i = 0; i < 4; i++) {
		model = open_model((const char *[]){"snapshots/1", "snapshots/1/" INDEX, "latest", "latest/" INDEX}[i],
				   0, 0);
		expect_shown(model, "a:4 b:4");
		stfs_model_close(model);
	}
	/* The index alone, as its blob: the shards do not lie beside it. */
	ck_assert_int_eq(rename(at("blobs/i"), at("blobs/i.json")), 0);
	REFUSE("blobs/i.json", 0, -ENOENT, FIRST);
}
END_TEST

static void put_two_shards(const char *weight_map, const char *first, size_t first_len, const char *second,
			   size_t second_len)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;

	stfs_buf_printf(&text, "{\"weight_map\":{%s}}", weight_map);
	ck_assert_ptr_nonnull(stfs_buf_cstr(&text));
	put_text(INDEX, text.data);
	put_model_with(FIRST, first, first_len, 0, NULL);
	put_model_with(SECOND, second, second_len, 50, NULL);
}

#define A_FIRST "\"a\":\"" FIRST "\""
#define A_SECOND "\"a\":\"" SECOND "\""
#define B_FIRST "\"b\":\"" FIRST "\""
#define B_SECOND "\"b\":\"" SECOND "\""

START_TEST(shows_one_of_two_that_shards_hold)
{
	struct stfs_model *model;

	put_two_shards(A_FIRST "," B_SECOND, "a 0 4", 4, "a 0 2,b 2 6", 6);
	model = open_model(INDEX, 0, 0);
	ck_assert_uint_eq(count_rule(model, STFS_RULE_TENSOR_IN_TWO_SHARDS), 1);
	expect_shown(model, "a:4 b:4");
	expect_bytes(model, "a", 4, 0);
	stfs_model_close(model);

	/* The index knows better than the order. */
	put_two_shards(A_SECOND "," B_FIRST, "a 0 4,b 4 8", 8, "a 0 2", 2);
	model = open_model(INDEX, 0, 0);
	ck_assert_uint_eq(count_rule(model, STFS_RULE_TENSOR_IN_TWO_SHARDS), 1);
	expect_shown(model, "a:2 b:4");
	expect_bytes(model, "a", 2, 50);
	stfs_model_close(model);

	/* In neither place by the index: the first. */
	put_two_shards("\"x\":\"" FIRST "\"," B_SECOND, "a 0 4,x 4 5", 5, "a 0 2,b 2 6", 6);
	model = open_model(INDEX, 0, 0);
	ck_assert_uint_eq(model->findings.counts[STFS_RULE_TENSOR_IN_TWO_SHARDS], 1);
	ck_assert_uint_eq(model->findings.counts[STFS_RULE_TENSOR_NOT_IN_INDEX], 2);
	expect_shown(model, "a:4 b:4 x:1");
	expect_bytes(model, "a", 4, 0);
	stfs_model_close(model);
}
END_TEST

START_TEST(shows_one_of_three_that_shards_hold)
{
	struct stfs_model *model;

	for (char owner = '1'; owner <= '3'; owner++) {
		char text[] = "{\"weight_map\":{\"a\":\"s?\",\"x\":\"s1\",\"y\":\"s2\",\"z\":\"s3\"}}";

		*strchr(text, '?') = owner;
		put_text(INDEX, text);
		put_model_with("s1", "x 0 1,a 1 2", 2, 0, NULL);
		put_model_with("s2", "y 0 1,a 1 3", 3, 50, NULL);
		put_model_with("s3", "z 0 1,a 1 4", 4, 100, NULL);
		model = open_model(INDEX, 0, 0);
		ck_assert_uint_eq(count_rule(model, STFS_RULE_TENSOR_IN_TWO_SHARDS), 2);
		ck_assert_uint_eq(model->shown, 4);
		expect_bytes(model, "a", (size_t)(owner - '0'), (unsigned char)((owner - '1') * 50 + 1));
		stfs_model_close(model);
	}
}
END_TEST

START_TEST(tells_index_and_shards_apart)
{
	struct stfs_model *model;

	put_two_shards(A_FIRST "," B_SECOND, "a 0 4", 4, "b 0 4,c 4 5", 5);
	model = open_model(INDEX, 0, 0);
	ck_assert_uint_eq(count_rule(model, STFS_RULE_TENSOR_NOT_IN_INDEX), 1);
	expect_shown(model, "a:4 b:4 c:1");
	stfs_model_close(model);

	put_two_shards(A_SECOND "," B_FIRST, "a 0 4", 4, "b 0 4", 4);
	model = open_model(INDEX, 0, 0);
	ck_assert_uint_eq(count_rule(model, STFS_RULE_SHARD_INCONSISTENT), 2);
	expect_shown(model, "a:4 b:4");
	expect_bytes(model, "b", 4, 50);
	stfs_model_close(model);

	put_two_shards(A_FIRST "," B_SECOND ",\"z\":\"" FIRST "\"", "a 0 4", 4, "b 0 4", 4);
	REFUSE(INDEX, 0, -EBADMSG, "rule tensor-missing", "\"z\"", FIRST);
	model = open_model(INDEX, STFS_OPEN_TOLERANT, 0);
	ck_assert(model->tolerated);
	ck_assert_uint_eq(count_rule(model, STFS_RULE_TENSOR_MISSING), 1);
	expect_shown(model, "a:4 b:4");
	stfs_model_close(model);
}
END_TEST

START_TEST(compares_total_size)
{
	struct stfs_model *model;

	for (unsigned total = 8; total <= 9; total++) {
		put_two_shards(A_FIRST "," B_SECOND, "a 0 4", 4, "b 0 4", 4);
		put_text(INDEX, total == 8 ? "{\"metadata\":{\"total_size\":8},\"weight_map\":{" A_FIRST "," B_SECOND "}}"
					   : "{\"metadata\":{\"total_size\":9},\"weight_map\":{" A_FIRST "," B_SECOND "}}");
		model = open_model(INDEX, 0, 0);
		ck_assert_uint_eq(count_rule(model, STFS_RULE_TOTAL_SIZE), total - 8);
		stfs_model_close(model);
	}
}
END_TEST

START_TEST(a_missing_shard_is_an_error)
{
	struct stfs_model *model;

	put_two_shards(A_FIRST "," B_SECOND, "a 0 4", 4, "b 0 4", 4);
	ck_assert_int_eq(unlink(at(SECOND)), 0);
	REFUSE(INDEX, 0, -ENOENT, SECOND);
	REFUSE(INDEX, STFS_OPEN_TOLERANT, -ENOENT, SECOND);
	model = open_model(INDEX, STFS_OPEN_JUDGE | STFS_OPEN_MAP, 0);
	ck_assert_int_eq(model->shards[0].status, 0);
	ck_assert_int_eq(model->shards[1].status, -ENOENT);
	expect_shown(model, "a:4");
	stfs_model_close(model);
}
END_TEST

START_TEST(a_bad_shard_is_named)
{
	struct stfs_model *model;

	put_two_shards(A_FIRST "," B_SECOND, "a 0 4", 4, "b 0 4", 6);
	REFUSE(INDEX, 0, -EBADMSG, SECOND, "rule trailing-bytes");
	model = open_model(INDEX, STFS_OPEN_TOLERANT, 0);
	ck_assert(model->tolerated);
	expect_shown(model, "a:4 b:4");
	stfs_model_close(model);

	put_text(SECOND, "no model");
	REFUSE(INDEX, STFS_OPEN_TOLERANT, -EBADMSG, SECOND, "rule header-");
	model = open_model(INDEX, STFS_OPEN_JUDGE, 0);
	expect_shown(model, "a:4");
	stfs_model_close(model);
}
END_TEST

START_TEST(odd_files_in_a_shards_place_do_not_hang)
{
	alarm(20);
	put_two_shards(A_FIRST "," B_SECOND, "a 0 4", 4, "b 0 4", 4);
	ck_assert_int_eq(unlink(at(SECOND)), 0);
	ck_assert_int_eq(mkfifo(at(SECOND), 0600), 0);
	REFUSE(INDEX, 0, -EINVAL, SECOND, "not a regular file");
	ck_assert_int_eq(unlink(at(SECOND)), 0);
	ck_assert_int_eq(mkdir(at(SECOND), 0700), 0);
	REFUSE(INDEX, 0, -EISDIR, SECOND);
	ck_assert_int_eq(rmdir(at(SECOND)), 0);
	ck_assert_int_eq(symlink(SECOND, at(SECOND)), 0);
	REFUSE(INDEX, 0, -ELOOP, SECOND);
	alarm(0);
}
END_TEST

static const char *const bad_names[] = {"../x", "a/b", "/etc/passwd", "", ".", "..", "x/", "./x"};

START_TEST(shard_names_stay_in_the_folder)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	struct stfs_model *model;

	ck_assert_int_eq(mkdir(at("a"), 0700), 0);
	put_model("a/b", "a 0 4", 4);
	put_model("x", "a 0 4", 4);
	stfs_buf_printf(&text, "{\"weight_map\":{\"a\":\"%s\"}}", bad_names[_i]);
	ck_assert_ptr_nonnull(stfs_buf_cstr(&text));
	put_text("a/" INDEX, text.data);
	REFUSE("a", 0, -EBADMSG, "rule index", "\"a\"");
	model = open_model("a", STFS_OPEN_JUDGE, 0);
	ck_assert_int_eq(model->unread.code, -EBADMSG);
	stfs_model_close(model);
}
END_TEST

START_TEST(an_index_of_nothing_is_no_model)
{
	struct stfs_model *model;

	put_text(INDEX, "{\"weight_map\":{}}");
	REFUSE(INDEX, STFS_OPEN_MAP, -EBADMSG, "names no file", "rule index");
	model = open_model(INDEX, STFS_OPEN_JUDGE | STFS_OPEN_MAP, 0);
	ck_assert_int_eq(model->unread.code, -EBADMSG);
	expect_shown(model, "");
	ck_assert_uint_eq(model->shard_count, 0);
	ck_assert(!stfs_model_has_metadata(model));
	stfs_model_close(model);
}
END_TEST

START_TEST(knows_names_with_a_nul)
{
	static const char header[] = "{\"a\\u0000b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}} ";
	char file[STFS_LENGTH_WORD + sizeof(header)] = {0};
	struct stfs_model *model;

	stfs_store_le64(file, sizeof(header) - 1);
	memcpy(file + STFS_LENGTH_WORD, header, sizeof(header));
	put_file(FIRST, file, sizeof(file));
	put_text(INDEX, "{\"weight_map\":{\"a\\u0000b\":\"" FIRST "\"}}");
	model = open_model(INDEX, 0, 0);
	ck_assert_uint_eq(model->findings.count, 0);
	ck_assert_uint_eq(stfs_model_find(model, (struct stfs_str)LIT("a\0b")), 0);
	ck_assert_uint_eq(stfs_model_find(model, (struct stfs_str)LIT("a")), STFS_NO_TENSOR);
	stfs_model_close(model);
}
END_TEST

START_TEST(refuses_two_names_of_one_file)
{
	struct stfs_model *model;

	for (unsigned i = 0; i < 2; i++) {
		put_two_shards(A_FIRST "," B_SECOND, "a 0 4,b 4 8", 8, "a 0 4", 4);
		ck_assert_int_eq(unlink(at(SECOND)), 0);
		ck_assert_int_eq(i ? link(at(FIRST), at(SECOND)) : symlink(FIRST, at(SECOND)), 0);
		REFUSE(INDEX, STFS_OPEN_TOLERANT, -EBADMSG, FIRST, SECOND, "two names of one file", "rule index");
		model = open_model(INDEX, STFS_OPEN_JUDGE | STFS_OPEN_MAP, 0);
		ck_assert_int_eq(model->unread.code, -EBADMSG);
		ck_assert_uint_eq(model->shard_count, 0);
		ck_assert_uint_eq(stfs_model_ids(model), 0);
		stfs_model_close(model);
		ck_assert_int_eq(unlink(at(SECOND)), 0);
	}
}
END_TEST

/* Five headers of the greatest length, of which nothing but the length is true. */
START_TEST(bounds_the_headers_together)
{
	char word[STFS_LENGTH_WORD], name[] = "s1";

	stfs_store_le64(word, STFS_HEADER_MAX);
	put_text(INDEX, "{\"weight_map\":{\"a\":\"s1\",\"b\":\"s2\",\"c\":\"s3\",\"d\":\"s4\",\"e\":\"s5\"}}");
	for (; name[1] <= '5'; name[1]++) {
		put_file(name, word, sizeof(word));
		ck_assert_int_eq(truncate(at(name), STFS_LENGTH_WORD + (off_t)STFS_HEADER_MAX), 0);
	}
	REFUSE(INDEX, 0, -EBADMSG, "500000000 bytes", "more than 400000000", "rule index");
	put_text(INDEX, "{\"weight_map\":{\"a\":\"s1\",\"b\":\"s2\",\"c\":\"s3\",\"d\":\"s4\"}}");
	REFUSE(INDEX, 0, -EBADMSG, "s1: byte 8:", "rule json-syntax");
}
END_TEST

/* As a file server does it: told by SIGIO that somebody wants the file, it gives the lease up. */
static void hold_lease(const char *path, int ready)
{
	int fd = open(path, O_RDWR | O_CLOEXEC), signal_number;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGIO);
	sigprocmask(SIG_BLOCK, &set, NULL);
	if (fd < 0 || fcntl(fd, F_SETLEASE, F_WRLCK) < 0)
		_exit(1);
	if (write(ready, "r", 1) != 1)
		_exit(2);
	alarm(20);
	sigwait(&set, &signal_number);
	usleep(50000);
	_exit(fcntl(fd, F_SETLEASE, F_UNLCK) < 0 ? 3 : 0);
}

START_TEST(waits_for_a_lease_to_be_broken)
{
	static const char *const leased[] = {INDEX, SECOND};

	put_two_shards(A_FIRST "," B_SECOND, "a 0 4", 4, "b 0 4", 4);
	for (size_t i = 0; i < STFS_CHECK_COUNT(leased); i++) {
		int ready[2], status;
		struct stfs_model *model;
		char byte;
		pid_t holder;

		ck_assert_int_eq(pipe2(ready, O_CLOEXEC), 0);
		holder = fork();
		if (holder == 0)
			hold_lease(at(leased[i]), ready[1]);
		close(ready[1]);
		/* A file system without leases has no such trouble either. */
		if (read(ready[0], &byte, 1) == 1) {
			model = open_model(INDEX, 0, 0);
			expect_shown(model, "a:4 b:4");
			stfs_model_close(model);
		}
		close(ready[0]);
		ck_assert_int_eq(waitpid(holder, &status, 0), holder);
		ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) <= 1, "the holder ended with %d", status);
	}
}
END_TEST

START_TEST(says_why_whatever_fails)
{
	static const char *const names[] = {"none", "fifo", INDEX};
	struct stfs_model *model;

	alarm(20);
	ck_assert_int_eq(mkfifo(at("fifo"), 0600), 0);
	put_text(INDEX, "{");
	for (size_t i = 0; i < STFS_CHECK_COUNT(names); i++) {
		/* What stands in it before does not pass for an answer. */
		struct stfs_err err = {.code = -EBADMSG, .message = "old"};
		int r = stfs_model_open(at(names[i]), 0, &model, &err);

		ck_assert_int_lt(r, 0);
		ck_assert_int_eq(err.code, r);
		ck_assert_msg(strstr(err.message, names[i]), "%s: %s", names[i], err.message);
		ck_assert_int_eq(stfs_model_open(at(names[i]), 0, &model, NULL), r);
	}
	alarm(0);
}
END_TEST

/* ---- Changed underneath ---- */

/* Sets the times so that they surely differ from before: `seconds` after the epoch. */
static void set_mtime(const char *name, time_t seconds)
{
	struct timespec times[2] = {{.tv_sec = seconds}, {.tv_sec = seconds}};

	ck_assert_int_eq(utimensat(AT_FDCWD, at(name), times, 0), 0);
}

static void patch(const char *name, const char *bytes, size_t len, off_t offset)
{
	int fd = open(at(name), O_WRONLY | O_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(pwrite(fd, bytes, len, offset), (ssize_t)len);
	close(fd);
}

/* "m.safetensors", open, with times that are known. */
static struct stfs_model *open_for_change(void)
{
	put_model("m.safetensors", "a 0 4,b 4 8", 8);
	set_mtime("m.safetensors", 1000);
	return open_model("m.safetensors", 0, 0);
}

START_TEST(fresh_until_something_changes)
{
	struct stfs_model *model = open_for_change();

	ck_assert_int_eq(stfs_shard_check(&model->shards[0]), 0);
	/* Another file, whatever its name, is not ours. */
	put_model("n.safetensors", "x 0 1", 1);
	ck_assert_int_eq(stfs_shard_check(&model->shards[0]), 0);
	ck_assert_uint_eq(model->shards[0].touched, 0);
	/* The inode alone: what moves no more than the ctime may hide data and an old mtime. */
	ck_assert_int_eq(chmod(at("m.safetensors"), 0400), 0);
	ck_assert_int_eq(stfs_shard_check(&model->shards[0]), 1);
	ck_assert_int_eq(stfs_shard_check(&model->shards[0]), 0);
	ck_assert_uint_eq(model->shards[0].touched, 1);
	stfs_model_close(model);
}
END_TEST

START_TEST(touched_once_for_each_change_of_data)
{
	struct stfs_model *model = open_for_change();
	struct stfs_shard *shard = &model->shards[0];

	for (time_t i = 1; i <= 3; i++) {
		patch("m.safetensors", "Z", 1, (off_t)shard->size - 1);
		set_mtime("m.safetensors", 1000 + i);
		ck_assert_int_eq(stfs_shard_check(shard), 1);
		ck_assert_int_eq(stfs_shard_check(shard), 0);
		ck_assert_uint_eq(shard->touched, (uint64_t)i);
	}
	/* Longer, with the old time: the size tells. */
	ck_assert_int_eq(truncate(at("m.safetensors"), (off_t)shard->size + 1), 0);
	set_mtime("m.safetensors", 1003);
	ck_assert_int_eq(stfs_shard_check(shard), 1);
	ck_assert_int_eq(stfs_shard_check(shard), 0);
	stfs_model_close(model);
}
END_TEST

START_TEST(stale_for_ever_once_the_header_differs)
{
	static const struct {
		off_t offset;
		const char *bytes;
	} changes[] = {
		{0, "\xff"},     /* the length word */
		{7, "\x80"},     /* a commit's poison */
		{10, "z"},       /* a name */
		{-9, "\t"},      /* the last byte of the padding, or of the text */
	};

	for (size_t i = 0; i < STFS_CHECK_COUNT(changes); i++) {
		struct stfs_model *model = open_for_change();
		struct stfs_shard *shard = &model->shards[0];
		off_t offset = changes[i].offset < 0 ? (off_t)shard->size + changes[i].offset : changes[i].offset;
		char was;

		ck_assert_int_eq(pread(shard->fd, &was, 1, offset), 1);
		ck_assert_int_ne(was, changes[i].bytes[0]);
		patch("m.safetensors", changes[i].bytes, 1, offset);
		set_mtime("m.safetensors", 2000);
		ck_assert_int_eq(stfs_shard_check(shard), -ESTALE);
		/* Put back as it was: still. */
		patch("m.safetensors", &was, 1, offset);
		set_mtime("m.safetensors", 1000);
		ck_assert_int_eq(stfs_shard_check(shard), -ESTALE);
		ck_assert_int_eq(stfs_shard_check(shard), -ESTALE);
		stfs_model_close(model);
	}
}
END_TEST

/* ---- and by many threads ---- */

struct checkers {
	struct stfs_shard *shard;
	_Atomic int touched, failed, stop;
};

static void *check_on(void *data)
{
	struct checkers *checkers = data;

	while (!checkers->stop) {
		int r = stfs_shard_check(checkers->shard);

		checkers->touched += r == 1;
		checkers->failed += r < 0;
	}
	return NULL;
}

START_TEST(many_threads_check_at_once)
{
	struct stfs_model *model = open_for_change();
	struct checkers checkers = {.shard = &model->shards[0]};
	pthread_t threads[4];

	for (size_t i = 0; i < STFS_CHECK_COUNT(threads); i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, check_on, &checkers), 0);
	for (time_t i = 1; i <= 200; i++) {
		set_mtime("m.safetensors", 1000 + i);
		ck_assert_int_ge(stfs_shard_check(&model->shards[0]), 0);
		/* A check that came back has seen what was done before it was called. */
		ck_assert_int_eq(stfs_shard_view(&model->shards[0]).mtime.tv_sec, 1000 + i);
	}
	ck_assert_int_eq(checkers.failed, 0);
	ck_assert_uint_eq(stfs_shard_view(&model->shards[0]).touched, 200);
	patch("m.safetensors", "z", 1, 10);
	set_mtime("m.safetensors", 3000);
	ck_assert_int_eq(stfs_shard_check(&model->shards[0]), -ESTALE);
	patch("m.safetensors", "a", 1, 10);
	set_mtime("m.safetensors", 1200);
	for (unsigned i = 0; i < 100; i++)
		ck_assert_int_eq(stfs_shard_check(&model->shards[0]), -ESTALE);
	checkers.stop = 1;
	for (size_t i = 0; i < STFS_CHECK_COUNT(threads); i++)
		pthread_join(threads[i], NULL);
	ck_assert_int_le(checkers.touched, 200);
	stfs_model_close(model);
}
END_TEST

START_TEST(cut_short_underneath_is_an_error_and_no_death)
{
	struct stfs_model *model = open_for_change();
	struct stfs_shard *shard = &model->shards[0];
	struct stfs_tensor_ref ref;
	char bytes[8];

	ck_assert(stfs_model_tensor(model, stfs_model_find(model, (struct stfs_str)LIT("b")), &ref));
	ck_assert_int_eq(truncate(at("m.safetensors"), (off_t)shard->size - 2), 0);
	ck_assert_int_eq(stfs_shard_check(shard), 1);
	ck_assert_int_eq(stfs_model_pread(model, &ref, bytes, 8, 0), -EIO);
	ck_assert_int_eq(stfs_model_pread(model, &ref, bytes, 2, 0), 2);
	expect_bytes(model, "a", 4, 0);
	ck_assert_int_eq(truncate(at("m.safetensors"), 20), 0);
	ck_assert_int_eq(stfs_shard_check(shard), -ESTALE);
	ck_assert_int_eq(truncate(at("m.safetensors"), 0), 0);
	ck_assert_int_eq(stfs_shard_check(shard), -ESTALE);
	stfs_model_close(model);
}
END_TEST

/* A header longer than the pieces in which it is compared; every piece counts. */
START_TEST(compares_the_whole_of_a_long_header)
{
	STFS_AUTO_BUF struct stfs_buf metadata = STFS_BUF_INIT;
	struct stfs_model *model;

	stfs_buf_puts(&metadata, "{\"k\":\"");
	stfs_buf_fill(&metadata, 'x', 200000);
	stfs_buf_puts(&metadata, "\"}");
	for (off_t offset = 1000; offset < 200000; offset += 33000) {
		put_model_with("m.safetensors", "a 0 4", 4, 0, stfs_buf_cstr(&metadata));
		set_mtime("m.safetensors", 1000);
		model = open_model("m.safetensors", 0, 0);
		set_mtime("m.safetensors", 1001);
		ck_assert_int_eq(stfs_shard_check(&model->shards[0]), 1);
		patch("m.safetensors", "y", 1, offset);
		set_mtime("m.safetensors", 1002);
		ck_assert_int_eq(stfs_shard_check(&model->shards[0]), -ESTALE);
		stfs_model_close(model);
	}
}
END_TEST

/* ---- The mapping and the seam ---- */

static struct {
	int fail_mmap, mmaps, munmaps, fixed; /* calls */
	int eintr;                            /* every so many calls of pread fail with EINTR */
	size_t most;                          /* bytes that a pread gives at the most; 0: any */
	off_t fails_from;                     /* EIO from here on, when not 0 */
	off_t ends_at;                        /* the file ends here, when not 0 */
	int calls;
} fake;
static pthread_mutex_t fake_lock = PTHREAD_MUTEX_INITIALIZER;

static ssize_t fake_pread(int fd, void *buffer, size_t len, off_t offset)
{
	fake.calls++;
	if (fake.eintr && fake.calls % fake.eintr == 0) {
		errno = EINTR;
		return -1;
	}
	if (fake.fails_from && offset >= fake.fails_from) {
		errno = EIO;
		return -1;
	}
	if (fake.ends_at && offset + (off_t)len > fake.ends_at)
		len = offset < fake.ends_at ? (size_t)(fake.ends_at - offset) : 0;
	if (fake.most && len > fake.most)
		len = fake.most;
	return pread(fd, buffer, len, offset);
}

static void *fake_mmap(void *address, size_t len, int prot, int flags, int fd, off_t offset)
{
	pthread_mutex_lock(&fake_lock);
	fake.mmaps++;
	fake.fixed += !!(flags & MAP_FIXED);
	pthread_mutex_unlock(&fake_lock);
	ck_assert_int_eq(prot, PROT_READ);
	ck_assert(flags & MAP_SHARED);
	if (fake.fail_mmap) {
		errno = ENODEV;
		return MAP_FAILED;
	}
	return mmap(address, len, prot, flags, fd, offset);
}

static int fake_munmap(void *address, size_t len)
{
	pthread_mutex_lock(&fake_lock);
	fake.munmaps++;
	pthread_mutex_unlock(&fake_lock);
	return munmap(address, len);
}

static const struct stfs_io fake_io = {.pread = fake_pread, .mmap = fake_mmap, .munmap = fake_munmap};

static void use_fake_io(void)
{
	memset(&fake, 0, sizeof(fake));
	stfs_io = &fake_io;
}

/* One byte of the mapping, or -1 where there is none; held for the look and no longer. */
static int mapped_byte(struct stfs_mapping *mapping, uint64_t offset, uint64_t len)
{
	const char *address = stfs_mapping_hold(mapping, offset, len);
	int byte;

	if (!address)
		return -1;
	byte = len ? *address : 0;
	stfs_mapping_release(mapping, 0);
	return byte;
}

/* As one reply of `len` bytes. */
static void serve_bytes(struct stfs_mapping *mapping, uint64_t len)
{
	ck_assert_ptr_nonnull(stfs_mapping_hold(mapping, 0, 1));
	stfs_mapping_release(mapping, len);
}

START_TEST(maps_whole_files)
{
	struct stfs_model *model;
	struct stfs_mapping *mapping;
	uint64_t size;

	use_fake_io();
	put_model("m.safetensors", "a 0 4,b 4 8", 8);
	model = open_model("m.safetensors", 0, 0);
	ck_assert_int_eq(fake.mmaps, 0);
	ck_assert_int_eq(mapped_byte(&model->shards[0].mapping, 0, 1), -1);
	stfs_model_close(model);
	ck_assert_int_eq(fake.munmaps, 0);

	model = open_model("m.safetensors", STFS_OPEN_MAP, 0);
	mapping = &model->shards[0].mapping;
	size = model->shards[0].size;
	ck_assert_int_eq(fake.mmaps, 1);
	ck_assert_int_ge(mapped_byte(mapping, 0, size), 0);
	ck_assert_int_eq(mapped_byte(mapping, size - 1, 1), 7);
	ck_assert_int_eq(mapped_byte(mapping, size, 0), 0);
	ck_assert_int_eq(mapped_byte(mapping, size, 1), -1);
	ck_assert_int_eq(mapped_byte(mapping, size - 1, 2), -1);
	ck_assert_int_eq(mapped_byte(mapping, 1, UINT64_MAX), -1);
	ck_assert_int_eq(mapped_byte(mapping, UINT64_MAX, 1), -1);
	ck_assert_int_eq(mapped_byte(mapping, UINT64_MAX, UINT64_MAX), -1);
	stfs_model_close(model);
	ck_assert_int_eq(fake.munmaps, 1);
}
END_TEST

START_TEST(reads_on_where_nothing_can_be_mapped)
{
	struct stfs_model *model;

	use_fake_io();
	fake.fail_mmap = 1;
	put_model("m.safetensors", "a 0 4,b 4 8", 8);
	model = open_model("m.safetensors", STFS_OPEN_MAP, 0);
	ck_assert_int_eq(fake.mmaps, 1);
	ck_assert_int_eq(mapped_byte(&model->shards[0].mapping, 0, 1), -1);
	expect_bytes(model, "b", 4, 4);
	stfs_model_close(model);
	ck_assert_int_eq(fake.munmaps, 0);
}
END_TEST

START_TEST(renews_the_mapping_each_time_so_much_was_served)
{
	struct stfs_model *model;
	struct stfs_mapping *mapping;
	uint64_t last;

	use_fake_io();
	put_model("m.safetensors", "a 0 4,b 4 8", 8);
	model = open_model("m.safetensors", STFS_OPEN_MAP, 0);
	mapping = &model->shards[0].mapping;
	last = model->shards[0].size - 1;
	serve_bytes(mapping, STFS_MAPPING_RENEW - 1);
	ck_assert_int_eq(fake.mmaps, 1);
	serve_bytes(mapping, 1);
	ck_assert_int_eq(fake.mmaps, 2);
	ck_assert_int_eq(fake.munmaps, 1);
	ck_assert_int_eq(mapped_byte(mapping, last, 1), 7);
	serve_bytes(mapping, STFS_MAPPING_RENEW - 1);
	ck_assert_int_eq(fake.mmaps, 2);
	serve_bytes(mapping, 2);
	ck_assert_int_eq(fake.mmaps, 3);
	/* One that fails leaves the old mapping where it was, and is tried again later. */
	fake.fail_mmap = 1;
	serve_bytes(mapping, 3 * STFS_MAPPING_RENEW);
	ck_assert_int_eq(fake.mmaps, 4);
	ck_assert_int_eq(fake.munmaps, 2);
	ck_assert_int_eq(mapped_byte(mapping, last, 1), 7);
	fake.fail_mmap = 0;
	serve_bytes(mapping, STFS_MAPPING_RENEW);
	ck_assert_int_eq(fake.munmaps, 3);
	ck_assert_int_eq(fake.fixed, 0);
	stfs_model_close(model);
}
END_TEST

static void *serve(void *data)
{
	for (int i = 0; i < 1024; i++) {
		serve_bytes(data, STFS_MAPPING_RENEW / 1024);
		usleep(1);
	}
	return NULL;
}

START_TEST(threads_renew_it_together)
{
	struct stfs_model *model;
	pthread_t threads[4];

	use_fake_io();
	put_model("m.safetensors", "a 0 4,b 4 8", 8);
	model = open_model("m.safetensors", STFS_OPEN_MAP, 0);
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, serve, &model->shards[0].mapping), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	/* Four times the mark; what is served while it is being renewed may go uncounted. */
	ck_assert_int_ge(fake.mmaps, 2);
	ck_assert_int_le(fake.mmaps, 5);
	ck_assert_int_eq(fake.mmaps, fake.munmaps + 1);
	ck_assert_int_eq(mapped_byte(&model->shards[0].mapping, model->shards[0].size - 1, 1), 7);
	stfs_model_close(model);
}
END_TEST

static struct {
	_Atomic int reads, go;
} slow;

static ssize_t slow_pread(int fd, void *buffer, size_t len, off_t offset)
{
	slow.reads++;
	while (!slow.go)
		usleep(100);
	return pread(fd, buffer, len, offset);
}

static void *check_once(void *data)
{
	return (void *)(intptr_t)stfs_shard_check(data);
}

/* Who reads data waits for the one who compares the header, and does not compare it again. */
START_TEST(looks_while_another_thread_compares)
{
	static const struct stfs_io slow_io = {.pread = slow_pread, .mmap = mmap, .munmap = munmap};
	struct stfs_model *model;
	struct stfs_shard *shard;
	void *results[2];
	pthread_t threads[2];

	alarm(20);
	put_model("m.safetensors", "a 0 4,b 4 8", 8);
	set_mtime("m.safetensors", 1000);
	model = open_model("m.safetensors", 0, 0);
	shard = &model->shards[0];
	slow.reads = slow.go = 0;
	stfs_io = &slow_io;
	set_mtime("m.safetensors", 1001);
	ck_assert_int_eq(pthread_create(&threads[0], NULL, check_once, shard), 0);
	while (slow.reads == 0)
		usleep(100);
	ck_assert_int_eq(pthread_create(&threads[1], NULL, check_once, shard), 0);
	usleep(10000);
	ck_assert_uint_eq(stfs_shard_view(shard).touched, 0);
	ck_assert_int_eq(stfs_shard_view(shard).mtime.tv_sec, 1000);
	ck_assert_int_eq(slow.reads, 1);
	slow.go = 1;
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], &results[i]);
	ck_assert_int_eq((int)(intptr_t)results[0], 1);
	ck_assert_int_eq((int)(intptr_t)results[1], 0);
	ck_assert_int_eq(slow.reads, 2); /* the length and the text, once */
	ck_assert_int_eq(stfs_shard_view(shard).mtime.tv_sec, 1001);
	stfs_model_close(model);
	alarm(0);
}
END_TEST

START_TEST(short_and_interrupted_reads_go_on)
{
	struct stfs_model *model;

	use_fake_io();
	fake.most = 3;
	fake.eintr = 2;
	put_two_shards(A_FIRST "," B_SECOND, "a 0 4", 4, "b 0 200", 200);
	model = open_model(INDEX, 0, 0);
	expect_bytes(model, "b", 200, 50);
	ck_assert_int_gt(fake.calls, 100);
	stfs_model_close(model);
}
END_TEST

START_TEST(errors_of_reading_are_what_they_are)
{
	struct stfs_model *model;
	struct stfs_tensor_ref ref;
	char bytes[8];

	use_fake_io();
	put_model("m.safetensors", "a 0 4,b 4 8", 8);
	fake.fails_from = 8; /* in the header's text */
	REFUSE("m.safetensors", 0, -EIO, "m.safetensors");
	model = open_model("m.safetensors", STFS_OPEN_JUDGE, 0);
	ck_assert_int_eq(model->shards[0].status, -EIO);
	stfs_model_close(model);
	fake.fails_from = 0;
	fake.ends_at = 30; /* cut short between fstat and read */
	REFUSE("m.safetensors", 0, -EIO, "m.safetensors");
	fake.ends_at = 0;
	model = open_model("m.safetensors", 0, 0);
	ck_assert(stfs_model_tensor(model, stfs_model_find(model, (struct stfs_str)LIT("b")), &ref));
	fake.fails_from = (off_t)ref.offset;
	ck_assert_int_eq(stfs_model_pread(model, &ref, bytes, 4, 0), -EIO);
	expect_bytes(model, "a", 4, 0);
	/* A check that cannot be made is an error, and not for ever. */
	set_mtime("m.safetensors", 1000);
	fake.fails_from = 8;
	ck_assert_int_eq(stfs_shard_check(&model->shards[0]), -EIO);
	fake.fails_from = 0;
	ck_assert_int_eq(stfs_shard_check(&model->shards[0]), 1);
	stfs_model_close(model);
}
END_TEST

/* ---- Many ---- */

START_TEST(opens_many_shards_without_leaking_descriptors)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	struct stfs_model *model;
	char name[64], tensor[64];
	int before = dup(0), after;

	close(before);
	stfs_buf_puts(&text, "{\"weight_map\":{");
	for (unsigned i = 0; i < 200; i++) {
		snprintf(name, sizeof(name), "s-%u.safetensors", i);
		snprintf(tensor, sizeof(tensor), "t%u 0 %u", i, i);
		put_model(name, tensor, i);
		stfs_buf_printf(&text, "%s\"t%u\":\"%s\"", i ? "," : "", i, name);
	}
	stfs_buf_puts(&text, "}}");
	put_text(INDEX, stfs_buf_cstr(&text));
	model = open_model(INDEX, STFS_OPEN_MAP, 0);
	ck_assert_uint_eq(model->shown, 200);
	ck_assert_uint_eq(model->findings.count, 0);
	expect_bytes(model, "t199", 199, 0);
	expect_bytes(model, "t0", 0, 0);
	stfs_model_close(model);
	after = dup(0);
	close(after);
	ck_assert_int_eq(before, after);
}
END_TEST

static TCase *make_case(Suite *suite, const char *name)
{
	TCase *tcase = tcase_create(name);

	tcase_add_checked_fixture(tcase, make_root, remove_folder);
	tcase_set_timeout(tcase, 60);
	suite_add_tcase(suite, tcase);
	return tcase;
}

int main(void)
{
	Suite *suite = suite_create("store");
	TCase *file = make_case(suite, "file"), *shards = make_case(suite, "shards");
	TCase *change = make_case(suite, "change"), *seam = make_case(suite, "seam");

	tcase_add_test(file, opens_a_file);
	tcase_add_test(file, opens_a_file_without_tensors);
	tcase_add_test(file, refuses_with_rule_and_byte);
	tcase_add_test(file, what_is_no_file_neither_hangs_nor_passes);
	tcase_add_test(file, finds_the_model_of_a_folder);
	tcase_add_test(file, finds_a_file_by_a_relative_path);
	tcase_add_test(file, tolerates_holes_and_trailing_bytes);
	tcase_add_test(file, tolerates_what_is_complete_of_a_truncated_file);
	tcase_add_test(file, needs_no_tolerance_for_what_is_valid);
	tcase_add_test(file, never_tolerates_overlaps);
	tcase_add_test(shards, unites_shards);
	tcase_add_test(shards, unites_metadata);
	tcase_add_test(shards, follows_links_into_a_cache);
	tcase_add_test(shards, shows_one_of_two_that_shards_hold);
	tcase_add_test(shards, shows_one_of_three_that_shards_hold);
	tcase_add_test(shards, tells_index_and_shards_apart);
	tcase_add_test(shards, compares_total_size);
	tcase_add_test(shards, a_missing_shard_is_an_error);
	tcase_add_test(shards, a_bad_shard_is_named);
	tcase_add_test(shards, odd_files_in_a_shards_place_do_not_hang);
	tcase_add_loop_test(shards, shard_names_stay_in_the_folder, 0, STFS_CHECK_COUNT(bad_names));
	tcase_add_test(shards, an_index_of_nothing_is_no_model);
	tcase_add_test(shards, knows_names_with_a_nul);
	tcase_add_test(shards, refuses_two_names_of_one_file);
	tcase_add_test(shards, bounds_the_headers_together);
	tcase_add_test(shards, waits_for_a_lease_to_be_broken);
	tcase_add_test(shards, says_why_whatever_fails);
	tcase_add_test(shards, opens_many_shards_without_leaking_descriptors);
	tcase_add_test(change, fresh_until_something_changes);
	tcase_add_test(change, touched_once_for_each_change_of_data);
	tcase_add_test(change, stale_for_ever_once_the_header_differs);
	tcase_add_test(change, many_threads_check_at_once);
	tcase_add_test(change, cut_short_underneath_is_an_error_and_no_death);
	tcase_add_test(change, compares_the_whole_of_a_long_header);
	tcase_add_test(seam, maps_whole_files);
	tcase_add_test(seam, reads_on_where_nothing_can_be_mapped);
	tcase_add_test(seam, renews_the_mapping_each_time_so_much_was_served);
	tcase_add_test(seam, threads_renew_it_together);
	tcase_add_test(seam, looks_while_another_thread_compares);
	tcase_add_test(seam, short_and_interrupted_reads_go_on);
	tcase_add_test(seam, errors_of_reading_are_what_they_are);
	return stfs_check_main(suite);
}
