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

static Suite *sidecar_suite(void)
{
	Suite *suite = suite_create("sidecar");
	TCase *quote = tcase_create("quote"), *sidecar = tcase_create("sidecar");

	tcase_add_loop_test(quote, quote_table, 0, STFS_CHECK_COUNT(quote_cases));
	tcase_set_timeout(quote, 60);
	tcase_add_test(quote, quote_round_trip);
	suite_add_tcase(suite, quote);
	tcase_add_loop_test(sidecar, every_dtype, 0, STFS_DTYPE_COUNT);
	tcase_add_loop_test(sidecar, shapes_and_names, 0, STFS_CHECK_COUNT(shape_cases));
	tcase_add_test(sidecar, out_of_memory);
	suite_add_tcase(suite, sidecar);
	return suite;
}

int main(void)
{
	return stfs_check_main(sidecar_suite());
}
