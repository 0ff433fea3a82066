/* SPDX-License-Identifier: MIT */
/* Checkpoints: forms, tensors, names, and the invariants T1 to T4 of codec/torch.h. */
#include "checkpoint_tools.h"

#include <errno.h>
#include <strings.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/utf8.h"
#include "codec/torch.h"

static struct stfs_buf pickle, bytes;
static struct test_zip zip;
static struct stfs_torch *torch;
static struct stfs_err err;
static float numbers[24];
static int fd = -1;

static void setup(void)
{
	for (int i = 0; i < 24; i++)
		numbers[i] = (float)i;
	err = (struct stfs_err)STFS_ERR_INIT;
	zip = (struct test_zip){0};
}

static void teardown(void)
{
	stfs_torch_close(torch);
	torch = NULL;
	stfs_buf_free(&pickle);
	stfs_buf_free(&bytes);
	zip_free(&zip);
	if (fd >= 0)
		close(fd);
	fd = -1;
}

static struct stfs_str number_bytes(size_t count)
{
	return stfs_str_slice((const char *)numbers, count * sizeof(numbers[0]));
}

static int open_bytes(struct stfs_str all)
{
	fd = file_of(all);
	return stfs_torch_open(fd, all.len, &torch, &err);
}

/* The zip of `pickle`, with a storage "0" of 24 floats. */
static int open_zip_with(const char *order, bool deflated)
{
	zip_add(&zip, "m/data.pkl", stfs_buf_str(&pickle), deflated);
	zip_add(&zip, "m/byteorder", stfs_str_from(order), deflated);
	zip_add(&zip, "m/data/0", number_bytes(24), deflated);
	zip_add(&zip, "m/version", stfs_str_from("3\n"), deflated);
	zip_end(&zip);
	return open_bytes(stfs_buf_str(&zip.bytes));
}

static int open_zip(void)
{
	return open_zip_with("little", false);
}

/* A part of the storage "0". */
static struct test_tensor view(int64_t offset, size_t rank, int64_t d0, int64_t s0, int64_t d1, int64_t s1)
{
	return (struct test_tensor){.class = "FloatStorage", .key = "0", .count = 24, .offset = offset,
				    .dims = {d0, d1}, .strides = {s0, s1}, .rank = rank};
}

static void put_view(const struct test_tensor *tensor)
{
	put_tensor(&pickle, tensor);
}

static uint32_t tensor_count(void)
{
	uint32_t count;

	stfs_torch_tensors(torch, &count);
	return count;
}

static const struct stfs_torch_tensor *tensor_at(uint32_t index)
{
	uint32_t count;
	const struct stfs_torch_tensor *tensors = stfs_torch_tensors(torch, &count);

	ck_assert_uint_lt(index, count);
	return &tensors[index];
}

static void assert_name(uint32_t index, const char *name)
{
	stfs_check_str_eq(tensor_at(index)->name, stfs_str_from(name), "name of a tensor");
}

static void assert_remark(const struct stfs_torch_remarks *remarks, size_t index, const char *name,
			  const char *text)
{
	ck_assert_uint_lt(index, remarks->count);
	stfs_check_str_eq(remarks->items[index].name, stfs_str_from(name), "name of a remark");
	if (text)
		stfs_check_str_eq(remarks->items[index].text, stfs_str_from(text), "text of a remark");
}

/* All ways of cutting it into pieces give the floats that the strides say. */
static void assert_floats(const struct stfs_torch_tensor *tensor, const struct test_tensor *want)
{
	float expected[576], got[576];
	size_t count = 0;

	for (int64_t i = 0; i < (want->rank > 0 ? want->dims[0] : 1); i++)
		for (int64_t j = 0; j < (want->rank > 1 ? want->dims[1] : 1); j++)
			expected[count++] = numbers[want->offset + (want->rank > 0 ? i * want->strides[0] : 0) +
						    (want->rank > 1 ? j * want->strides[1] : 0)];
	ck_assert_uint_eq(tensor->bytes, count * 4);
	for (size_t at = 0; at < count * 4; at++)
		for (size_t len = 0; at + len <= count * 4; len += 1 + len / 3) {
			memset(got, 0xaa, sizeof(got));
			ck_assert_int_eq(stfs_torch_read(torch, tensor, got, len, at), 0);
			ck_assert_mem_eq(got, (char *)expected + at, len);
		}
	ck_assert_int_eq(stfs_torch_read(torch, tensor, got, 1, count * 4), -EINVAL);
}

/* ---- Views ---- */

static const struct {
	int64_t offset;
	size_t rank;
	int64_t d0, s0, d1, s1;
	bool contiguous;
} views[] = {
	{0, 2, 4, 6, 6, 1, true},  {0, 2, 6, 1, 4, 6, false}, {3, 1, 5, 1, 0, 0, true}, {0, 1, 8, 3, 0, 0, false},
	{23, 0, 0, 0, 0, 0, true}, {5, 1, 7, 0, 0, 0, false}, {0, 2, 5, 2, 3, 1, false}, {0, 2, 3, 0, 4, 6, false},
	{2, 2, 1, 99, 4, 1, true}, {0, 2, 4, 5, 3, 2, false}, {0, 2, 20, 1, 5, 1, false}, {0, 2, 2, 1, 2, 22, false},
};

static void check_view(const char *order, bool deflated)
{
	bool big = strcmp(order, "big") == 0;

	for (size_t i = 0; i < STFS_CHECK_COUNT(views); i++) {
		struct test_tensor want = view(views[i].offset, views[i].rank, views[i].d0, views[i].s0,
					       views[i].d1, views[i].s1);
		const struct stfs_torch_tensor *tensor;

		setup();
		for (size_t j = 0; big && j < 24; j++) { /* as another machine would have written it */
			uint32_t word;

			memcpy(&word, &numbers[j], 4);
			word = __builtin_bswap32(word);
			memcpy(&numbers[j], &word, 4);
		}
		put_view(&want);
		OPS(&pickle, ".");
		ck_assert_msg(open_zip_with(order, deflated) == 0, "%s", err.message);
		for (int j = 0; j < 24; j++)
			numbers[j] = (float)j;
		tensor = tensor_at(0);
		assert_name(0, "tensor");
		ck_assert_int_eq(tensor->contiguous, views[i].contiguous);
		ck_assert_int_eq(stfs_torch_is_plain(torch, tensor), views[i].contiguous && !big && !deflated);
		assert_floats(tensor, &want);
		teardown();
	}
}

START_TEST(views_little)
{
	check_view("little", false);
}
END_TEST

START_TEST(views_big)
{
	check_view("big", false);
}
END_TEST

START_TEST(views_deflated)
{
	check_view("little", true);
}
END_TEST

/* T3: beyond the storage, by offset, size or stride, also where the sum overflows. */
static const struct {
	int64_t offset, d0, s0;
} outside_cases[] = {
	{24, 1, 1}, {0, 25, 1}, {1, 24, 1}, {0, 2, 24}, {INT64_MAX, 1, 1}, {0, INT64_MAX, 1}, {0, 2, INT64_MAX},
	{0, INT64_MAX, INT64_MAX}, {-1, 1, 1}, {0, -1, 1}, {0, 2, -1},
};

START_TEST(outside)
{
	struct test_tensor tensor = view(outside_cases[_i].offset, 1, outside_cases[_i].d0,
					 outside_cases[_i].s0, 0, 0);

	put_view(&tensor);
	OPS(&pickle, ".");
	ck_assert_int_eq(open_zip(), -EBADMSG);
	ck_assert_uint_eq(tensor_count(), 0);
}
END_TEST

/* T4: strides of 0. */
START_TEST(outsized)
{
	struct test_tensor tensor = view(0, 1, 1ll << 50, 0, 0, 0);
	struct test_tensor far = view(0, 1, 1ll << 59, 0, 0, 0);
	float got[3];

	put_view(&far);
	OPS(&pickle, ".");
	ck_assert_int_eq(open_zip(), -EBADMSG); /* 2^64 bits */
	teardown();
	setup();
	put_view(&tensor);
	OPS(&pickle, ".");
	ck_assert_int_eq(open_zip(), 0);
	ck_assert(tensor_at(0)->outsized);
	ck_assert_uint_eq(tensor_at(0)->span, 4);
	ck_assert_int_eq(stfs_torch_read(torch, tensor_at(0), got, sizeof(got), 1ll << 51), 0);
	ck_assert_float_eq(got[2], 0);
}
END_TEST

/* A transposed tensor of megabytes, in pieces: the bytes are right, and the file is read some few times. */
static uint64_t bytes_read;

static ssize_t counting_pread(int from, void *buffer, size_t len, off_t offset)
{
	ssize_t got = stfs_io_system.pread(from, buffer, len, offset);

	bytes_read += got > 0 ? (uint64_t)got : 0;
	return got;
}

START_TEST(transposed)
{
	enum { ROWS = 3000, COLUMNS = 700, PIECE = 1 << 20 };
	struct test_tensor tensor = {.class = "IntStorage", .key = "0", .count = ROWS * COLUMNS,
				     .dims = {COLUMNS, ROWS}, .strides = {1, COLUMNS}, .rank = 2};
	STFS_AUTO_FREE uint32_t *content = calloc(ROWS * COLUMNS, 4), *got = calloc(PIECE, 1);
	struct stfs_io counting = stfs_io_system;

	counting.pread = counting_pread;
	for (uint32_t i = 0; i < ROWS * COLUMNS; i++)
		content[i] = i;
	put_view(&tensor);
	OPS(&pickle, ".");
	zip_add(&zip, "m/data.pkl", stfs_buf_str(&pickle), false);
	zip_add(&zip, "m/data/0", stfs_str_slice((char *)content, 4ul * ROWS * COLUMNS), false);
	zip_add(&zip, "m/version", stfs_str_from("3"), false);
	zip_end(&zip);
	ck_assert_int_eq(open_bytes(stfs_buf_str(&zip.bytes)), 0);
	stfs_io = &counting;
	bytes_read = 0;
	for (uint64_t at = 0; at < tensor_at(0)->bytes; at += PIECE) {
		size_t len = (size_t)stfs_min_u64(PIECE, tensor_at(0)->bytes - at);

		ck_assert_int_eq(stfs_torch_read(torch, tensor_at(0), got, len, at), 0);
		for (size_t i = 0; i < len / 4; i++) {
			size_t index = at / 4 + i;

			ck_assert_uint_eq(got[i], index % ROWS * COLUMNS + index / ROWS);
		}
	}
	stfs_io = &stfs_io_system;
	ck_assert_uint_le(bytes_read, 12 * tensor_at(0)->bytes);
}
END_TEST

/* ---- Kinds of tensors ---- */

START_TEST(types)
{
	static const struct {
		const char *name;
		enum stfs_dtype dtype;
		int64_t count; /* of 96 bytes */
		uint64_t dims[2];
		size_t rank;
	} cases[] = {
		{"float32", STFS_F32, 24, {24}, 1}, {"uint16", STFS_U16, 48, {48}, 1},
		{"float8_e5m2", STFS_F8_E5M2, 96, {96}, 1}, {"complex64", STFS_C64, 12, {12}, 1},
		{"complex128", STFS_F64, 6, {6, 2}, 2}, {"complex32", STFS_F16, 24, {24, 2}, 2},
		{"float4_e2m1fn_x2", STFS_F4, 96, {192}, 1},
	};

	for (size_t i = 0; i < STFS_CHECK_COUNT(cases); i++) {
		int64_t one = 1;
		uint64_t len;

		put_global(&pickle, "torch._utils", "_rebuild_tensor_v3");
		OPS(&pickle, "(");
		put_storage(&pickle, "UntypedStorage", "0", 96, false);
		put_int(&pickle, 0);
		put_numbers(&pickle, &cases[i].count, 1);
		put_numbers(&pickle, &one, 1);
		OPS(&pickle, "\x89}");
		put_global(&pickle, "torch", cases[i].name);
		OPS(&pickle, "tR.");
		ck_assert_msg(open_zip() == 0, "%s", err.message);
		ck_assert_int_eq(tensor_at(0)->dtype, cases[i].dtype);
		ck_assert_uint_eq(tensor_at(0)->rank, cases[i].rank);
		ck_assert_mem_eq(stfs_torch_shape(torch, tensor_at(0)), cases[i].dims, cases[i].rank * 8);
		len = cases[i].dims[0] * (cases[i].rank > 1 ? cases[i].dims[1] : 1);
		ck_assert_int_eq(stfs_dtype_bytes(cases[i].dtype, len, &len), 0);
		ck_assert_uint_eq(len, tensor_at(0)->bytes);
		teardown();
		setup();
	}
}
END_TEST

START_TEST(parameters_and_twins)
{
	struct test_tensor whole = view(0, 1, 24, 1, 0, 0), half = view(12, 1, 12, 1, 0, 0);

	OPS(&pickle, "}(");
	put_str(&pickle, "a");
	put_global(&pickle, "torch._utils", "_rebuild_parameter");
	OPS(&pickle, "(");
	put_view(&whole);
	OPS(&pickle, "\x88}tR");
	put_str(&pickle, "b");
	put_view(&whole);
	put_str(&pickle, "c");
	put_view(&half);
	put_str(&pickle, "d");
	put_global(&pickle, "torch._tensor", "_rebuild_from_type_v2");
	OPS(&pickle, "(");
	put_global(&pickle, "torch._utils", "_rebuild_parameter");
	put_global(&pickle, "torch.nn.parameter", "Parameter");
	OPS(&pickle, "(");
	put_view(&half);
	OPS(&pickle, "\x88}t}tRu.");
	ck_assert_msg(open_zip() == 0, "%s", err.message);
	ck_assert(tensor_at(0)->parameter && !tensor_at(1)->parameter && tensor_at(3)->parameter);
	ck_assert_uint_eq(tensor_at(0)->twin, STFS_NO_TWIN);
	ck_assert_uint_eq(tensor_at(1)->twin, 0);
	ck_assert_uint_eq(tensor_at(2)->twin, STFS_NO_TWIN);
	ck_assert_uint_eq(tensor_at(3)->twin, 2);
	ck_assert(tensor_at(2)->shares);
}
END_TEST

START_TEST(refused_kinds)
{
	struct test_tensor good = view(0, 1, 4, 1, 0, 0);

	OPS(&pickle, "}(");
	put_str(&pickle, "q");
	put_global(&pickle, "torch._utils", "_rebuild_qtensor");
	OPS(&pickle, ")R");
	put_str(&pickle, "conj");
	put_global(&pickle, "torch._utils", "_rebuild_tensor_v2");
	OPS(&pickle, "(");
	put_storage(&pickle, "FloatStorage", "0", 24, false);
	OPS(&pickle, "K\0K\1\x85K\1\x85\x89}}");
	put_str(&pickle, "conj");
	OPS(&pickle, "\x88stR");
	put_str(&pickle, "good");
	put_view(&good);
	OPS(&pickle, "u.");
	ck_assert_msg(open_zip() == 0, "%s", err.message);
	assert_name(0, "good");
	assert_remark(stfs_torch_refused(torch), 0, "q", NULL);
	assert_remark(stfs_torch_refused(torch), 1, "conj", NULL);
}
END_TEST

START_TEST(sparse)
{
	struct test_tensor part = view(0, 1, 4, 1, 0, 0);

	OPS(&pickle, "}");
	put_str(&pickle, "s");
	put_global(&pickle, "torch._utils", "_rebuild_sparse_tensor");
	put_global(&pickle, "torch.serialization", "_get_layout");
	put_str(&pickle, "torch.sparse_coo");
	OPS(&pickle, "\x85R(");
	put_view(&part);
	put_view(&part);
	put_global(&pickle, "torch", "Size");
	OPS(&pickle, "K\2K\3\x86\x85Rt\x86Rs.");
	ck_assert_msg(open_zip() == 0, "%s", err.message);
	assert_name(0, "s.indices");
	assert_name(1, "s.values");
	assert_remark(stfs_torch_notes(torch), 0, "s", "torch.sparse_coo of shape (2, 3): kept as its parts");
}
END_TEST

/* A shape in a list could have been changed after the call. */
START_TEST(shape_that_can_change)
{
	put_global(&pickle, "torch._utils", "_rebuild_tensor_v2");
	OPS(&pickle, "(");
	put_storage(&pickle, "FloatStorage", "0", 24, false);
	OPS(&pickle, "K\0](K\4eK\1\x85\x89}tR.");
	ck_assert_int_eq(open_zip(), -EBADMSG);
}
END_TEST

/* ---- Names and leaves ---- */

static void put_named(const char *key_ops, size_t len)
{
	struct test_tensor tensor = view(0, 1, 1, 1, 0, 0);

	stfs_buf_add(&pickle, key_ops, len);
	put_view(&tensor);
}
#define NAMED(ops) put_named(ops, sizeof(ops) - 1)

START_TEST(names)
{
	static const char *const want[] = {"a.b", "a.b~2", "7", "7~2", "(1, 'x')", "None", "True", "2.5", "100000.0",
					   "1e-05", "\\ud800", "b'\\xff'", "__metadata__~2", "", ".x", "l.0", "l.1.k"};

	OPS(&pickle, "}(X\1\0\0\0a}");
	NAMED("X\1\0\0\0b");
	OPS(&pickle, "s");
	NAMED("X\3\0\0\0a.b");
	NAMED("K\7");
	NAMED("X\1\0\0\0007");
	NAMED("K\1X\1\0\0\0x\x86");
	NAMED("N");
	NAMED("\x88");
	NAMED("G\x40\x04\0\0\0\0\0\0");
	NAMED("G\x40\xf8\x6a\0\0\0\0\0");
	NAMED("F1e-5\n");
	NAMED("X\3\0\0\0\xed\xa0\x80");
	NAMED("C\1\xff");
	NAMED("X\x0c\0\0\0__metadata__");
	NAMED("X\0\0\0\0");
	NAMED("X\2\0\0\0.x");
	OPS(&pickle, "X\1\0\0\0l](");
	NAMED("");
	OPS(&pickle, "}");
	NAMED("X\1\0\0\0k");
	OPS(&pickle, "seu.");
	ck_assert_msg(open_zip() == 0, "%s", err.message);
	for (uint32_t i = 0; i < STFS_CHECK_COUNT(want); i++)
		assert_name(i, want[i]);
}
END_TEST

/* {"": {"x": tensor}}, and not "x": no two places have one name. */
START_TEST(empty_key_on_the_way)
{
	OPS(&pickle, "}X\0\0\0\0}");
	NAMED("X\1\0\0\0x");
	OPS(&pickle, "ss.");
	ck_assert_msg(open_zip() == 0, "%s", err.message);
	assert_name(0, ".x");
}
END_TEST

START_TEST(leaves)
{
	OPS(&pickle, "}(X\1\0\0\0nNX\1\0\0\0b\x88X\1\0\0\0iK\5X\1\0\0\0fG\x3f\xb9\x99\x99\x99\x99\x99\x9a");
	OPS(&pickle, "X\1\0\0\0s");
	put_str(&pickle, "text");
	OPS(&pickle, "X\1\0\0\0d");
	put_global(&pickle, "torch", "float16");
	OPS(&pickle, "X\1\0\0\0o");
	put_global(&pickle, "collections", "OrderedDict");
	OPS(&pickle, ")RX\1\0\0\0xK\1sX\1\0\0\0y");
	put_global(&pickle, "argparse", "Namespace");
	OPS(&pickle, ")R}bX\1\0\0\0zC\1\xffX\1\0\0\0L");
	stfs_buf_putc(&pickle, 'X');
	put_le(&pickle, STFS_TORCH_TEXT_MAX + 1, 4);
	stfs_buf_fill(&pickle, 't', STFS_TORCH_TEXT_MAX + 1);
	OPS(&pickle, "u.");
	ck_assert_msg(open_zip() == 0, "%s", err.message);
	assert_remark(stfs_torch_leaves(torch), 0, "n", "null");
	assert_remark(stfs_torch_leaves(torch), 1, "b", "true");
	assert_remark(stfs_torch_leaves(torch), 2, "i", "5");
	assert_remark(stfs_torch_leaves(torch), 3, "f", "0.1");
	assert_remark(stfs_torch_leaves(torch), 4, "s", "text");
	assert_remark(stfs_torch_leaves(torch), 5, "d", "torch.float16");
	assert_remark(stfs_torch_leaves(torch), 6, "o.x", "1");
	assert_remark(stfs_torch_left_out(torch), 0, "y", "argparse.Namespace");
	assert_remark(stfs_torch_left_out(torch), 1, "z", "bytes");
	assert_remark(stfs_torch_left_out(torch), 2, "L", "a text of 16385 bytes");
}
END_TEST

START_TEST(python2_ordered_dict)
{
	put_global(&pickle, "collections", "OrderedDict");
	OPS(&pickle, "](](");
	put_str(&pickle, "w");
	OPS(&pickle, "K\5ee\x85R.");
	ck_assert_msg(open_zip() == 0, "%s", err.message);
	assert_remark(stfs_torch_leaves(torch), 0, "w", "5");
}
END_TEST

START_TEST(cycle)
{
	struct test_tensor tensor = view(0, 1, 1, 1, 0, 0);

	OPS(&pickle, "}q\0(X\1\0\0\0xh\0X\1\0\0\0w");
	put_view(&tensor);
	OPS(&pickle, "u.");
	ck_assert_msg(open_zip() == 0, "%s", err.message);
	assert_name(0, "w");
	assert_remark(stfs_torch_left_out(torch), 0, "x", "it contains itself");
}
END_TEST

/* Ten lists of ten of the list before: ten billion names. */
START_TEST(billion_laughs)
{
	OPS(&pickle, "K\1");
	for (int i = 0; i < 60; i++)
		OPS(&pickle, "q\0" "0]q\1(h\0h\0h\0h\0h\0h\0h\0h\0h\0h\0e");
	OPS(&pickle, ".");
	ck_assert_int_eq(open_zip(), -EFBIG);
}
END_TEST

START_TEST(too_deep)
{
	for (int i = 0; i < 100000; i++)
		OPS(&pickle, "](");
	for (int i = 0; i < 100000; i++)
		OPS(&pickle, "e");
	OPS(&pickle, ".");
	ck_assert_int_eq(open_zip(), -EBADMSG);
}
END_TEST

/* ---- Globals, storages, forms ---- */

START_TEST(refused_global)
{
	struct stfs_torch_global global;

	OPS(&pickle, "}X\1\0\0\0acos\nsystem\n(X\2\0\0\0lstRs.");
	ck_assert_int_eq(open_zip(), -EBADMSG);
	ck_assert_uint_eq(err.position, 7);
	ck_assert_ptr_nonnull(strstr(err.message, "os.system"));
	ck_assert_uint_eq(stfs_torch_global_count(torch), 1);
	global = stfs_torch_global(torch, 0);
	ck_assert_int_eq(global.verdict, STFS_GLOBAL_REFUSED);
	ck_assert_uint_eq(global.at, 7);
}
END_TEST

/* Two names of the worst kind: the message holds both and ends on a whole character. */
START_TEST(refused_global_of_long_names)
{
	OPS(&pickle, "c");
	for (int i = 0; i < 2; i++) {
		stfs_buf_fill(&pickle, '\1', 49 + (size_t)i);
		for (int j = 0; j < 60; j++)
			OPS(&pickle, "\xc3\xa9");
		OPS(&pickle, "\n");
	}
	OPS(&pickle, ".");
	ck_assert_int_eq(open_zip(), -EBADMSG);
	ck_assert_uint_eq(stfs_utf8_check(err.message, strlen(err.message)), strlen(err.message));
	ck_assert_ptr_nonnull(strstr(err.message, "nothing of it was run"));
}
END_TEST

START_TEST(storage_of_another_length)
{
	struct test_tensor tensor = view(0, 1, 1, 1, 0, 0);

	tensor.count = _i ? 23 : 25;
	put_view(&tensor);
	OPS(&pickle, ".");
	ck_assert_int_eq(open_zip(), -EBADMSG);
}
END_TEST

START_TEST(storage_of_two_types)
{
	struct test_tensor one = view(0, 1, 1, 1, 0, 0), other = one;

	other.class = "IntStorage";
	OPS(&pickle, "(");
	put_view(&one);
	put_view(&other);
	OPS(&pickle, "t.");
	ck_assert_int_eq(open_zip(), -EBADMSG);
}
END_TEST

START_TEST(crc)
{
	struct test_tensor tensor = view(0, 1, 24, 1, 0, 0);
	const struct stfs_torch_storage *storage;
	uint32_t count;
	char byte;

	put_view(&tensor);
	OPS(&pickle, ".");
	ck_assert_int_eq(open_zip_with("little", _i), 0);
	storage = stfs_torch_storages(torch, &count);
	ck_assert_uint_eq(count, 1);
	ck_assert_int_eq(stfs_torch_verify(torch, 0, NULL, NULL, &err), 0);
	ck_assert_int_eq(stfs_io_read_exactly(fd, &byte, 1, storage->offset + 9), 0);
	byte ^= 1;
	ck_assert_int_eq(stfs_io_write(fd, &byte, 1, storage->offset + 9), 0);
	ck_assert_int_eq(stfs_torch_verify(torch, 0, NULL, NULL, &err), -EBADMSG);
}
END_TEST

static void put_legacy_head(struct stfs_buf *out)
{
	OPS(out, "\x80\2\x8a\nl\xfc\x9c" "F\xf9 j\xa8P\x19.\x80\2M\xe9\3.\x80\2}.");
}

START_TEST(legacy)
{
	struct test_tensor tensor = view(1, 1, 4, 2, 0, 0);

	tensor.legacy = true;
	put_legacy_head(&bytes);
	put_tensor(&bytes, &tensor);
	OPS(&bytes, ".](X\1\0\0\0000e.");
	put_le(&bytes, 24, 8);
	stfs_buf_add_str(&bytes, number_bytes(24));
	ck_assert_msg(open_bytes(stfs_buf_str(&bytes)) == 0, "%s", err.message);
	ck_assert_int_eq(stfs_torch_form(torch), STFS_TORCH_LEGACY);
	assert_floats(tensor_at(0), &tensor);
	for (size_t len = 0; len < bytes.len; len++) {
		struct stfs_torch *cut = NULL;

		ck_assert_int_eq(stfs_torch_open(fd, len, &cut, &err), -EBADMSG);
		stfs_torch_close(cut);
	}
}
END_TEST

/* Types of NumPy: plain ones with the state that is theirs, and what would forge memory. */
#define DTYPE(name) "cnumpy\ndtype\n(U" name "\x89\x88tR"
#define STATE(rest) "(K\3U\1<N" rest "tb"
#define MINUS "J\xff\xff\xff\xff"
static const struct {
	struct stfs_str ops;
	bool sound;
} type_cases[] = {
	{STFS_CHECK_LIT(DTYPE("\2f8") STATE("NN" MINUS MINUS "K\0")), true},
	{STFS_CHECK_LIT(DTYPE("\3<i8")), true}, {STFS_CHECK_LIT(DTYPE("\2U5") STATE("NNK\x14K\4K\x08")), true},
	{STFS_CHECK_LIT(DTYPE("\2U5") STATE("NNK\x40K\4K\x08")), false}, /* longer than it is */
	{STFS_CHECK_LIT(DTYPE("\2f8") STATE("NN" MINUS MINUS "K\x3f")), false},
	{STFS_CHECK_LIT(DTYPE("\2f8") STATE("(U\1at}K\x08K\1K\0")), false},
	{STFS_CHECK_LIT(DTYPE("\2V8")), false}, {STFS_CHECK_LIT(DTYPE("\2O8") STATE("NN" MINUS MINUS "K\x3f")), false},
	{STFS_CHECK_LIT(DTYPE("\2V8") STATE("(U\1at}K\x08K\1K\0")), false},
	{STFS_CHECK_LIT(DTYPE("\2f8") STATE("NNK\1K\1K\1") STATE("NN" MINUS MINUS "K\0")), false},
	{STFS_CHECK_LIT(DTYPE("\2f8") "]b"), false}, {STFS_CHECK_LIT("cnumpy\ndtype\n)R"), false},
	{STFS_CHECK_LIT("cnumpy.dtypes\nFloat64DType\n)R"), true},
	{STFS_CHECK_LIT("cnumpy.dtypes\nObjectDType\n)R" STATE("NN" MINUS MINUS "K\0")), false},
	{STFS_CHECK_LIT("ccopy_reg\n_reconstructor\n(cnumpy\ndtype\n2U\2V8tR"), false},
};

START_TEST(numpy_types)
{
	size_t refused = 0;

	stfs_buf_add_str(&pickle, type_cases[_i].ops);
	OPS(&pickle, ".");
	ck_assert_msg(open_zip() == (type_cases[_i].sound ? 0 : -EBADMSG), "%s", err.message);
	for (size_t i = 0; i < stfs_torch_global_count(torch); i++)
		refused += stfs_torch_global(torch, i).verdict == STFS_GLOBAL_REFUSED;
	ck_assert_uint_eq(refused, !type_cases[_i].sound);
	ck_assert(type_cases[_i].sound || strstr(err.message, "a numpy type") != NULL);
}
END_TEST

/* What torch would find under a name that it is not called by here. */
static const char *const case_cases[] = {
	"m/Data.pkl", "m/BYTEORDER", "M/byteorder", "m/Version", "m/DATA/0", "M/data/1", "m/Constants.pkl",
};

START_TEST(names_in_other_case)
{
	static const char *const sound[] = {"m/data.pkl", "m/byteorder", "m/version", "m/data/0"};

	OPS(&pickle, "}.");
	for (size_t i = 0; i < STFS_CHECK_COUNT(sound); i++)
		if (strcasecmp(sound[i], case_cases[_i]) != 0)
			zip_add(&zip, sound[i], strstr(sound[i], "pkl") ? stfs_buf_str(&pickle) :
				strstr(sound[i], "order") ? stfs_str_from("little") : stfs_str_from("3\n"), false);
	zip_add(&zip, case_cases[_i], stfs_str_from("}."), false);
	zip_end(&zip);
	ck_assert_int_eq(open_bytes(stfs_buf_str(&zip.bytes)), -EBADMSG);
	ck_assert_msg(strstr(err.message, "only by case") != NULL, "%s", err.message);
}
END_TEST

/* A member of a tar archive, whose header has `patch` at a byte. */
static void put_patched_member(const char *name, struct stfs_str content, size_t at, struct stfs_str patch)
{
	char header[512] = {0};
	unsigned sum = 0;

	snprintf(header, 100, "%s", name);
	snprintf(header + 124, 12, "%011o", (unsigned)content.len);
	memcpy(header + 257, "ustar\0" "00", 8);
	header[156] = '0';
	if (patch.len)
		memcpy(header + at, patch.ptr, patch.len);
	memset(header + 148, ' ', 8);
	for (size_t i = 0; i < sizeof(header); i++)
		sum += (unsigned char)header[i];
	snprintf(header + 148, 8, "%06o", sum);
	if (at == 148 && patch.len)
		memcpy(header + at, patch.ptr, patch.len);
	stfs_buf_add(&bytes, header, sizeof(header));
	stfs_buf_add_str(&bytes, content);
	stfs_buf_fill(&bytes, '\0', -content.len & 511);
}

static void put_member(const char *name, struct stfs_str content)
{
	put_patched_member(name, content, 0, stfs_str_slice("", 0));
}

/* What Python's tarfile could see as other members than are seen here. */
static const struct {
	const char *name;
	struct stfs_str content;
	size_t at;
	struct stfs_str patch;
	const char *says; /* NULL: it is sound */
} tar_cases[] = {
	{"zz", STFS_CHECK_LIT("a"), 0, STFS_CHECK_LIT(""), NULL},
	{"zz/", STFS_CHECK_LIT(""), 156, STFS_CHECK_LIT("5"), NULL},
	{"zz", STFS_CHECK_LIT("a"), 156, STFS_CHECK_LIT("\0"), NULL},
	{"zz", STFS_CHECK_LIT("20 mtime=1484000000.5\n"), 156, STFS_CHECK_LIT("x"), "other things"},
	{"zz", STFS_CHECK_LIT("22 mtime=1484000000.5\n"), 156, STFS_CHECK_LIT("x"), NULL},
	{"zz", STFS_CHECK_LIT("22 mtime=1484000000.5\n11 uid=500\n"), 156, STFS_CHECK_LIT("x"), NULL},
	{"zz", STFS_CHECK_LIT("15 path=pickle\n"), 156, STFS_CHECK_LIT("x"), "other things"},
	{"zz", STFS_CHECK_LIT("22 mtime=1\n15 path=pickle\n"), 156, STFS_CHECK_LIT("x"), "other things"},
	{"zz", STFS_CHECK_LIT("11 mtime=1\n0"), 156, STFS_CHECK_LIT("x"), "other things"},
	{"zz", STFS_CHECK_LIT("15 path=pickle\n"), 156, STFS_CHECK_LIT("g"), "neither a file"},
	{"zz", STFS_CHECK_LIT("pickle"), 156, STFS_CHECK_LIT("L"), "neither a file"},
	{"zz", STFS_CHECK_LIT("a"), 156, STFS_CHECK_LIT("S"), "neither a file"},
	{"zz", STFS_CHECK_LIT(""), 156, STFS_CHECK_LIT("1pickle"), "neither a file"},
	{"zz", STFS_CHECK_LIT(""), 156, STFS_CHECK_LIT("2pickle"), "neither a file"},
	{"zz", STFS_CHECK_LIT("a"), 156, STFS_CHECK_LIT("5"), "has content"},
	{"zz/", STFS_CHECK_LIT("a"), 156, STFS_CHECK_LIT("\0"), "called as a folder"},
	{"pickle", STFS_CHECK_LIT(""), 156, STFS_CHECK_LIT("5"), "called as what must"},
	{"./sys_info", STFS_CHECK_LIT(""), 345, STFS_CHECK_LIT("pickle"), "two parts"},
	{"", STFS_CHECK_LIT("a"), 0, STFS_CHECK_LIT(""), "without a name"},
	{"./pickle", STFS_CHECK_LIT("}."), 0, STFS_CHECK_LIT(""), "same name"},
	{"zz", STFS_CHECK_LIT(""), 124, STFS_CHECK_LIT("\x80\0\0\0\0\0\0\0\0\0\0\0"), "no header"},
	{"zz", STFS_CHECK_LIT(""), 124, STFS_CHECK_LIT("+2000\0\0\0\0\0\0\0"), "no header"},
	{"zz", STFS_CHECK_LIT(""), 124, STFS_CHECK_LIT("0_2000\0\0\0\0\0\0"), "no header"},
	{"zz", STFS_CHECK_LIT(""), 124, STFS_CHECK_LIT("0\00099999999"), "no header"},
	{"zz", STFS_CHECK_LIT(""), 124, STFS_CHECK_LIT("\0\0\0\0\0\0\0\0\0\0\0\0"), "no header"},
	{"zz", STFS_CHECK_LIT(""), 136, STFS_CHECK_LIT("-1\0\0\0\0\0\0\0\0\0\0"), "octal"},
	{"zz", STFS_CHECK_LIT(""), 108, STFS_CHECK_LIT("\xff\xff\xff\xff\xff\xff\xff\xff"), "octal"},
	{"zz", STFS_CHECK_LIT(""), 148, STFS_CHECK_LIT("000001\0 "), "no header"},
};

START_TEST(strict_tar)
{
	const char *says = tar_cases[_i].says;

	put_member("pickle", stfs_str_from("}."));
	put_patched_member(tar_cases[_i].name, tar_cases[_i].content, tar_cases[_i].at, tar_cases[_i].patch);
	put_member("storages", stfs_str_from("K"));
	stfs_buf_fill(&bytes, '\0', 1024);
	ck_assert_int_eq(open_bytes(stfs_buf_str(&bytes)), -EBADMSG);
	says = says ? says : "a tar archive without \"tensors\""; /* all members were gone through */
	ck_assert_msg(strstr(err.message, says) != NULL, "%s", err.message);
}
END_TEST

/* Members behind those that are looked at would be seen by Python. */
START_TEST(tar_of_many_members)
{
	put_member("pickle", stfs_str_from("}."));
	for (int i = 0; i < 64; i++)
		put_member("zz", stfs_str_from(""));
	stfs_buf_fill(&bytes, '\0', 1024);
	ck_assert_int_eq(open_bytes(stfs_buf_str(&bytes)), -EBADMSG);
	ck_assert_msg(strstr(err.message, "64 members") != NULL, "%s", err.message);
}
END_TEST

START_TEST(tar)
{
	STFS_AUTO_BUF struct stfs_buf storages = STFS_BUF_INIT, tensors = STFS_BUF_INIT;
	struct test_tensor want = view(2, 2, 3, 4, 2, 1);

	OPS(&storages, "K\1.(K\7X\3\0\0\0cpuctorch\nFloatStorage\nt.");
	put_le(&storages, 24, 8);
	stfs_buf_add_str(&storages, number_bytes(24));
	OPS(&storages, "]((K\x08K\7K\2K\x14te.");
	OPS(&tensors, "K\2.(K\x0bK\7ctorch\nFloatTensor\nt.");
	put_le(&tensors, 2, 8);
	put_le(&tensors, 3, 8);
	put_le(&tensors, 2, 8);
	put_le(&tensors, 4, 8);
	put_le(&tensors, 1, 8);
	put_le(&tensors, 2, 8);
	OPS(&tensors, "(K\x0cK\x08" "ctorch\nFloatTensor\nt."); /* the same, in the part of the storage */
	put_le(&tensors, 2, 8);
	put_le(&tensors, 3, 8);
	put_le(&tensors, 2, 8);
	put_le(&tensors, 4, 8);
	put_le(&tensors, 1, 8);
	put_le(&tensors, 0, 8);
	put_member("sys_info", stfs_str_from("}."));
	put_member("pickle", stfs_str_slice("}(X\1\0\0\0aX\2\0\0\00011QX\1\0\0\0bP12\nu.", 28));
	put_member("storages", stfs_buf_str(&storages));
	put_member("tensors", stfs_buf_str(&tensors));
	stfs_buf_fill(&bytes, '\0', 1024);
	ck_assert_msg(open_bytes(stfs_buf_str(&bytes)) == 0, "%s", err.message);
	ck_assert_int_eq(stfs_torch_form(torch), STFS_TORCH_TAR);
	assert_name(0, "a");
	assert_name(1, "b");
	assert_floats(tensor_at(0), &want);
	assert_floats(tensor_at(1), &want);
	ck_assert_uint_eq(stfs_torch_global_count(torch), 3);
	/* Positions are those of the file, though the pickles stand in three members. */
	ck_assert_mem_eq(bytes.data + stfs_torch_global(torch, 0).at, "ctorch\nFloatStorage", 19);
	ck_assert_mem_eq(bytes.data + stfs_torch_global(torch, 2).at, "ctorch\nFloatTensor", 18);
}
END_TEST

START_TEST(other_files)
{
	static const struct {
		const char *content, *says;
	} cases[] = {
		{"<!DOCTYPE html>", "web page"}, {"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"},
		{"hello", "no PyTorch checkpoint"}, {"", "no PyTorch checkpoint"}, {"\x80\2}.", "magic number"},
		{"cos\nsystem\n.", "os.system"},
	};

	ck_assert_int_eq(open_bytes(stfs_str_from(cases[_i].content)), -EBADMSG);
	ck_assert_msg(strstr(err.message, cases[_i].says) != NULL, "%s", err.message);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("torch");
	TCase *all = tcase_create("checkpoint");

	tcase_add_checked_fixture(all, setup, teardown);
	tcase_set_timeout(all, 120);
	tcase_add_test(all, views_little);
	tcase_add_test(all, views_big);
	tcase_add_test(all, views_deflated);
	tcase_add_loop_test(all, outside, 0, STFS_CHECK_COUNT(outside_cases));
	tcase_add_test(all, outsized);
	tcase_add_test(all, transposed);
	tcase_add_test(all, types);
	tcase_add_test(all, parameters_and_twins);
	tcase_add_test(all, refused_kinds);
	tcase_add_test(all, sparse);
	tcase_add_test(all, shape_that_can_change);
	tcase_add_test(all, names);
	tcase_add_test(all, empty_key_on_the_way);
	tcase_add_test(all, leaves);
	tcase_add_test(all, python2_ordered_dict);
	tcase_add_test(all, cycle);
	tcase_add_test(all, billion_laughs);
	tcase_add_test(all, too_deep);
	tcase_add_test(all, refused_global);
	tcase_add_test(all, refused_global_of_long_names);
	tcase_add_loop_test(all, storage_of_another_length, 0, 2);
	tcase_add_test(all, storage_of_two_types);
	tcase_add_loop_test(all, crc, 0, 2);
	tcase_add_test(all, legacy);
	tcase_add_loop_test(all, numpy_types, 0, STFS_CHECK_COUNT(type_cases));
	tcase_add_loop_test(all, names_in_other_case, 0, STFS_CHECK_COUNT(case_cases));
	tcase_add_test(all, tar);
	tcase_add_loop_test(all, strict_tar, 0, STFS_CHECK_COUNT(tar_cases));
	tcase_add_test(all, tar_of_many_members);
	tcase_add_loop_test(all, other_files, 0, 6);
	suite_add_tcase(suite, all);
	return stfs_check_main(suite);
}
