/* SPDX-License-Identifier: MIT */
#include "stfs_check.h"

#include <errno.h>

#include "base/buf.h"
#include "base/utf8.h"
#include "format/sidecar.h"

#define LIT STFS_CHECK_LIT

static const struct {
	struct stfs_str text, quoted;
} quote_cases[] = {
	{{NULL, 0}, LIT("\"\"")},
	{LIT(""), LIT("\"\"")},
	{LIT("a"), LIT("\"a\"")},
	{LIT("model.layers.0.weight"), LIT("\"model.layers.0.weight\"")},
	{LIT("\""), LIT("\"\\\"\"")},
	{LIT("\\"), LIT("\"\\\\\"")},
	{LIT("a\"b\\c"), LIT("\"a\\\"b\\\\c\"")},
	{LIT("\\\\\"\""), LIT("\"\\\\\\\\\\\"\\\"\"")},
	{LIT("\b\f\n\r\t"), LIT("\"\\b\\f\\n\\r\\t\"")},
	{LIT("\0"), LIT("\"\\u0000\"")},
	{LIT("a\0b"), LIT("\"a\\u0000b\"")},
	{LIT("\x01\x0b\x1f"), LIT("\"\\u0001\\u000b\\u001f\"")},
	{LIT("tail\n"), LIT("\"tail\\n\"")},
	/* As they are. */
	{LIT("/ '<>&"), LIT("\"/ '<>&\"")},
	{LIT("\x7f"), LIT("\"\x7f\"")},
	{LIT("\xc2\x80"), LIT("\"\xc2\x80\"")},
	{LIT("é漢😀"), LIT("\"é漢😀\"")},
	{LIT("\xe2\x80\xa8\xe2\x80\xa9"), LIT("\"\xe2\x80\xa8\xe2\x80\xa9\"")},
};

START_TEST(quote_table)
{
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;

	ck_assert_int_eq(stfs_buf_puts(&out, "kept"), 0);
	ck_assert_int_eq(stfs_json_quote(quote_cases[_i].text, &out), 0);
	ck_assert_mem_eq(out.data, "kept", 4);
	stfs_check_str_eq(stfs_str_slice(out.data + 4, out.len - 4), quote_cases[_i].quoted,
			  "quoted");
}
END_TEST

/* The byte that the escape at p (behind the backslash) stands for, and its length; -1: none. */
static int unescape(const char *p, size_t *len)
{
	static const char letters[] = "\"\"\\\\b\bf\fn\nr\rt\t";
	unsigned code;

	*len = 1;
	for (size_t i = 0; i + 1 < sizeof(letters); i += 2)
		if (*p == letters[i])
			return letters[i + 1];
	*len = 5;
	return sscanf(p, "u%4x", &code) == 1 && code < 0x20 ? (int)code : -1;
}

/* What a JSON reader makes of it; also holds it to the fewest bytes. */
static void assert_unquotes(const char *quoted, size_t len, struct stfs_str want)
{
	STFS_AUTO_BUF struct stfs_buf back = STFS_BUF_INIT;
	size_t bare = 0;

	ck_assert_uint_ge(len, 2);
	ck_assert_int_eq(quoted[0], '"');
	ck_assert_int_eq(quoted[len - 1], '"');
	for (size_t i = 1; i < len - 1; i++) {
		size_t width = 1;
		int c = (unsigned char)quoted[i];

		bare += c == '"' || c < 0x20;
		if (c == '\\') {
			c = unescape(quoted + i + 1, &width);
			i += width;
		}
		bare += c < 0;
		stfs_buf_putc(&back, (char)c);
	}
	ck_assert_uint_eq(bare, 0);
	stfs_check_str_eq(stfs_buf_str(&back), want, "read back");
}

START_TEST(quote_round_trip)
{
	uint64_t random = stfs_check_seed();
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT, out = STFS_BUF_INIT;

	for (int i = 0; i < 5000; i++) {
		stfs_buf_clear(&text);
		stfs_buf_clear(&out);
		for (size_t k = stfs_check_below(&random, 40); k > 0; k--) {
			static const uint32_t bounds[] = {0x20, 0x30, 0x60, 0x80, 0xd800};
			char bytes[4];
			uint32_t code = (uint32_t)stfs_check_below(
				&random, bounds[stfs_check_below(&random, 5)]);

			stfs_buf_add(&text, bytes, stfs_utf8_put(code, bytes));
		}
		ck_assert_int_eq(stfs_json_quote(stfs_buf_str(&text), &out), 0);
		ck_assert_ptr_nonnull(stfs_buf_cstr(&out));
		assert_unquotes(out.data, out.len, stfs_buf_str(&text));
	}
}
END_TEST

#define SIDECAR(dtype, more) "{\"dtype\":\"" dtype "\",\"shape\":[2,3]" more "}\n"
#define DESCR(descr) ",\"descr\":\"" descr "\""
#define ML(descr, name) DESCR(descr) ",\"ml_dtype\":\"" name "\""

static const char *const dtype_cases[STFS_DTYPE_COUNT] = {
	[STFS_BOOL] = SIDECAR("BOOL", DESCR("|b1")),
	[STFS_F4] = SIDECAR("F4", ""),
	[STFS_F6_E2M3] = SIDECAR("F6_E2M3", ""),
	[STFS_F6_E3M2] = SIDECAR("F6_E3M2", ""),
	[STFS_U8] = SIDECAR("U8", DESCR("|u1")),
	[STFS_I8] = SIDECAR("I8", DESCR("|i1")),
	[STFS_F8_E5M2] = SIDECAR("F8_E5M2", ML("|V1", "float8_e5m2")),
	[STFS_F8_E4M3] = SIDECAR("F8_E4M3", ML("|V1", "float8_e4m3fn")),
	[STFS_F8_E8M0] = SIDECAR("F8_E8M0", ML("|V1", "float8_e8m0fnu")),
	[STFS_F8_E4M3FNUZ] = SIDECAR("F8_E4M3FNUZ", ML("|V1", "float8_e4m3fnuz")),
	[STFS_F8_E5M2FNUZ] = SIDECAR("F8_E5M2FNUZ", ML("|V1", "float8_e5m2fnuz")),
	[STFS_I16] = SIDECAR("I16", DESCR("<i2")),
	[STFS_U16] = SIDECAR("U16", DESCR("<u2")),
	[STFS_F16] = SIDECAR("F16", DESCR("<f2")),
	[STFS_BF16] = SIDECAR("BF16", ML("<V2", "bfloat16")),
	[STFS_I32] = SIDECAR("I32", DESCR("<i4")),
	[STFS_U32] = SIDECAR("U32", DESCR("<u4")),
	[STFS_F32] = SIDECAR("F32", DESCR("<f4")),
	[STFS_C64] = SIDECAR("C64", DESCR("<c8")),
	[STFS_F64] = SIDECAR("F64", DESCR("<f8")),
	[STFS_I64] = SIDECAR("I64", DESCR("<i8")),
	[STFS_U64] = SIDECAR("U64", DESCR("<u8")),
};

START_TEST(every_dtype)
{
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
	const struct stfs_str none = {NULL, 0};
	const uint64_t dims[] = {2, 3};

	ck_assert_int_eq(stfs_sidecar_write((enum stfs_dtype)_i, dims, 2, none, &out), 0);
	stfs_check_str_eq(stfs_buf_str(&out), stfs_str_from(dtype_cases[_i]), "sidecar");
}
END_TEST

static const struct {
	uint64_t dims[4];
	size_t rank;
	struct stfs_str name;
	const char *text;
} shape_cases[] = {
	{{0}, 0, {NULL, 0}, "{\"dtype\":\"F32\",\"shape\":[],\"descr\":\"<f4\"}\n"},
	{{0}, 1, {NULL, 0}, "{\"dtype\":\"F32\",\"shape\":[0],\"descr\":\"<f4\"}\n"},
	{{1, 0, UINT64_MAX, 7}, 4, {NULL, 0},
	 "{\"dtype\":\"F32\",\"shape\":[1,0,18446744073709551615,7],\"descr\":\"<f4\"}\n"},
	{{5}, 1, LIT("a\"\0/é"),
	 "{\"dtype\":\"F32\",\"shape\":[5],\"descr\":\"<f4\",\"name\":\"a\\\"\\u0000/é\"}\n"},
	{{5}, 1, LIT(""),
	 "{\"dtype\":\"F32\",\"shape\":[5],\"descr\":\"<f4\",\"name\":\"\"}\n"},
};

START_TEST(shapes_and_names)
{
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;

	ck_assert_int_eq(stfs_sidecar_write(STFS_F32, shape_cases[_i].dims, shape_cases[_i].rank,
					    shape_cases[_i].name, &out), 0);
	stfs_check_str_eq(stfs_buf_str(&out), stfs_str_from(shape_cases[_i].text), "sidecar");
}
END_TEST

START_TEST(out_of_memory)
{
	struct stfs_buf out = {.status = -ENOMEM};
	const struct stfs_str none = {NULL, 0};
	const uint64_t dim = 1;

	ck_assert_int_eq(stfs_sidecar_write(STFS_F32, &dim, 1, none, &out), -ENOMEM);
	ck_assert_int_eq(stfs_json_quote(stfs_str_from("x"), &out), -ENOMEM);
}
END_TEST

/* ---- Reading ---- */

static const struct {
	struct stfs_str text;
	enum stfs_dtype dtype;
	uint64_t dims[3];
	size_t rank;
	uint64_t data_len;
	struct stfs_str name; /* a NULL ptr: none */
} read_cases[] = {
	{LIT("{\"dtype\":\"BF16\",\"shape\":[2,3],\"descr\":\"<V2\",\"ml_dtype\":\"bfloat16\"}\n"),
	 STFS_BF16, {2, 3}, 2, 12, {NULL, 0}},
	{LIT("{\"shape\":[],\"dtype\":\"F32\"}"), STFS_F32, {0}, 0, 4, {NULL, 0}},
	{LIT(" {\n \"shape\" : [ 0 , 18446744073709551615 ] ,\r\n\t\"dtype\":\"F64\" } "), STFS_F64,
	 {0, UINT64_MAX}, 2, 0, {NULL, 0}},
	{LIT("{\"dtype\":\"F4\",\"shape\":[3,2]}"), STFS_F4, {3, 2}, 2, 3, {NULL, 0}},
	{LIT("{\"dtype\":\"U8\",\"shape\":[1],\"name\":\"a\\\"\\u0000/\\u00e9\"}"), STFS_U8, {1}, 1, 1, LIT("a\"\0/é")},
	{LIT("{\"dtype\":\"U8\",\"shape\":[1],\"name\":\"\"}"), STFS_U8, {1}, 1, 1, LIT("")},
	/* Escapes; what does not count, however it is written. */
	{LIT("{\"d\\u0074ype\":\"\\u00558\",\"shape\":[7]}"), STFS_U8, {7}, 1, 7, {NULL, 0}},
	{LIT("{\"x\":{\"dtype\":1,\"y\":[{}]},\"descr\":null,\"descr\":3,\"shape\":[7],\"dtype\":\"U8\",\"\":false}"),
	 STFS_U8, {7}, 1, 7, {NULL, 0}},
};

START_TEST(reads)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_sidecar sidecar;

	ck_assert_msg(stfs_sidecar_read(read_cases[_i].text, &sidecar, &err) == 0, "%s", err.message);
	ck_assert_int_eq(sidecar.dtype, read_cases[_i].dtype);
	ck_assert_uint_eq(sidecar.shape.rank, read_cases[_i].rank);
	for (size_t i = 0; i < sidecar.shape.rank; i++)
		ck_assert_uint_eq(sidecar.shape.dims[i], read_cases[_i].dims[i]);
	ck_assert_uint_eq(sidecar.data_len, read_cases[_i].data_len);
	ck_assert_int_eq(sidecar.has_name, read_cases[_i].name.ptr != NULL);
	stfs_check_str_eq(stfs_buf_str(&sidecar.name), read_cases[_i].name, "name");
	stfs_sidecar_free(&sidecar);
}
END_TEST

static const struct {
	struct stfs_str text;
	const char *says;
} bad_cases[] = {
	{{NULL, 0}, "byte 0: expected an object; write {\"dtype\""},
	{LIT("{"), "not JSON: byte 1: "},
	{LIT("[]"), "expected an object"},
	{LIT("null"), "expected an object"},
	{LIT("{}"), "\"dtype\" is missing; write {\"dtype\""},
	{LIT("{\"dtype\":\"F32\"}"), "\"shape\" is missing"},
	{LIT("{\"shape\":[1]}"), "\"dtype\" is missing"},
	{LIT("{\"dtype\":\"F32\",\"shape\":[1]} x"), "not JSON: byte 28: "},
	{LIT("{\"dtype\":\"F32\",\"shape\":[1]}\0"), "not JSON"},
	{LIT("{\"dtype\":\"F32\",\"shape\":[1,]}"), "not JSON: byte 26: trailing comma"},
	{LIT("{\"dtype\":\"\xff\"}"), "byte 10 is not UTF-8"},
	{LIT("{'dtype':'F32'}"), "not JSON"},
	{LIT("{\"dtype\":32,\"shape\":[1]}"), "byte 9: \"dtype\" must be a string"},
	{LIT("{\"dtype\":null,\"shape\":[1]}"), "must be a string"},
	{LIT("{\"dtype\":\"float32\",\"shape\":[1]}"), "byte 9: \"float32\" is none"},
	{LIT("{\"dtype\":\"f32\",\"shape\":[1]}"), "is none"},
	{LIT("{\"dtype\":\"F32\\u0000\",\"shape\":[1]}"), "is none"},
	{LIT("{\"dtype\":\"F32\",\"shape\":1}"), "byte 23: \"shape\" must be an array"},
	{LIT("{\"dtype\":\"F32\",\"shape\":\"[1]\"}"), "must be an array"},
	{LIT("{\"dtype\":\"F32\",\"shape\":[-1]}"), "byte 24: a dimension"},
	{LIT("{\"dtype\":\"F32\",\"shape\":[ 2.0]}"), "byte 25: a dimension"},
	{LIT("{\"dtype\":\"F32\",\"shape\":[\"2\"]}"), "a dimension"},
	{LIT("{\"dtype\":\"F32\",\"shape\":[[2]]}"), "a dimension"},
	{LIT("{\"dtype\":\"F32\",\"shape\":[18446744073709551616]}"), "a dimension"},
	{LIT("{\"dtype\":\"F32\",\"shape\":[18446744073709551615,2]}"), "byte 45: the shape has more"},
	{LIT("{\"dtype\":\"F32\",\"shape\":[4611686018427387904]}"), "2^64 - 1 bits"},
	{LIT("{\"dtype\":\"F4\",\"shape\":[3]}"), "4 bits"},
	{LIT("{\"dtype\":\"F6_E2M3\",\"shape\":[2]}"), "6 bits"},
	{LIT("{\"dtype\":\"F32\",\"shape\":[1],\"dtype\":\"F32\"}"), "byte 27: \"dtype\" stands twice"},
	{LIT("{\"dtype\":\"F32\",\"shape\":[1],\"sh\\u0061pe\":[1]}"), "\"shape\" stands twice"},
	{LIT("{\"name\":\"a\",\"name\":\"a\"}"), "\"name\" stands twice"},
	{LIT("{\"name\":null}"), "\"name\" must be a string"},
};

START_TEST(refuses)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_sidecar sidecar;

	ck_assert_int_eq(stfs_sidecar_read(bad_cases[_i].text, &sidecar, &err), -EBADMSG);
	ck_assert_int_eq(err.code, -EBADMSG);
	ck_assert_msg(strstr(err.message, bad_cases[_i].says), "%s", err.message);
	ck_assert_ptr_null(sidecar.shape.dims);
	ck_assert_ptr_null(sidecar.name.data);
}
END_TEST

/* The deepest and the longest that a person could send. */
START_TEST(bounds_its_work)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_sidecar sidecar;

	stfs_buf_puts(&text, "{\"dtype\":\"F32\",\"shape\":[1");
	while (text.len < STFS_SIDECAR_MAX - 3)
		stfs_buf_puts(&text, ",1");
	stfs_buf_puts(&text, "]}");
	ck_assert_int_eq(stfs_sidecar_read(stfs_buf_str(&text), &sidecar, &err), 0);
	ck_assert_uint_gt(sidecar.shape.rank, 500000);
	stfs_sidecar_free(&sidecar);
	stfs_buf_fill(&text, ' ', STFS_SIDECAR_MAX + 1 - text.len);
	ck_assert_int_eq(stfs_sidecar_read(stfs_buf_str(&text), &sidecar, &err), -EBADMSG);
	stfs_buf_clear(&text);
	stfs_buf_puts(&text, "{\"x\":");
	stfs_buf_fill(&text, '[', 100000);
	ck_assert_int_eq(stfs_sidecar_read(stfs_buf_str(&text), &sidecar, &err), -EBADMSG);
	ck_assert_msg(strstr(err.message, "127 levels"), "%s", err.message);
}
END_TEST

START_TEST(reads_what_is_written)
{
	uint64_t state = stfs_check_seed();

	for (int round = 0; round < 2000; round++) {
		STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
		enum stfs_dtype dtype = (enum stfs_dtype)stfs_check_below(&state, STFS_DTYPE_COUNT);
		size_t rank = stfs_check_below(&state, 6);
		char name[8];
		struct stfs_str long_name = {stfs_check_below(&state, 2) ? name : NULL, 0};
		struct stfs_sidecar sidecar;
		uint64_t dims[6];

		for (size_t i = 0; i < rank; i++)
			dims[i] = 4 * stfs_check_below(&state, 100);
		if (!rank)
			dims[rank++] = 4;
		for (; long_name.ptr && long_name.len < stfs_check_below(&state, 8); long_name.len++)
			name[long_name.len] = (char)stfs_check_below(&state, 128);
		ck_assert_int_eq(stfs_sidecar_write(dtype, dims, rank, long_name, &out), 0);
		ck_assert_int_eq(stfs_sidecar_read(stfs_buf_str(&out), &sidecar, NULL), 0);
		ck_assert_int_eq(sidecar.dtype, dtype);
		ck_assert_uint_eq(sidecar.shape.rank, rank);
		ck_assert(memcmp(sidecar.shape.dims, dims, rank * sizeof(*dims)) == 0);
		ck_assert_int_eq(sidecar.has_name, long_name.ptr != NULL);
		stfs_check_str_eq(stfs_buf_str(&sidecar.name), long_name, "name");
		stfs_sidecar_free(&sidecar);
	}
}
END_TEST

static Suite *sidecar_suite(void)
{
	Suite *suite = suite_create("sidecar");
	TCase *quote = tcase_create("quote"), *sidecar = tcase_create("sidecar");
	TCase *reading = tcase_create("reading");

	tcase_add_loop_test(quote, quote_table, 0, STFS_CHECK_COUNT(quote_cases));
	tcase_set_timeout(quote, 60);
	tcase_add_test(quote, quote_round_trip);
	suite_add_tcase(suite, quote);
	tcase_add_loop_test(sidecar, every_dtype, 0, STFS_DTYPE_COUNT);
	tcase_add_loop_test(sidecar, shapes_and_names, 0, STFS_CHECK_COUNT(shape_cases));
	tcase_add_test(sidecar, out_of_memory);
	suite_add_tcase(suite, sidecar);
	tcase_add_loop_test(reading, reads, 0, STFS_CHECK_COUNT(read_cases));
	tcase_add_loop_test(reading, refuses, 0, STFS_CHECK_COUNT(bad_cases));
	tcase_add_test(reading, bounds_its_work);
	tcase_add_test(reading, reads_what_is_written);
	suite_add_tcase(suite, reading);
	return suite;
}

int main(void)
{
	return stfs_check_main(sidecar_suite());
}
