/* SPDX-License-Identifier: MIT */
#include "stfs_check.h"

#include <errno.h>

#include "base/utf8.h"
#include "format/metadata.h"

#define LIT STFS_CHECK_LIT

static const struct {
	struct stfs_str text;
	struct stfs_header_pair pairs[4];
	size_t count;
	const char *written;
} cases[] = {
	{LIT("{}"), {{{NULL, 0}, {NULL, 0}}}, 0, "{}\n"},
	{LIT(" {\n}\n"), {{{NULL, 0}, {NULL, 0}}}, 0, "{}\n"},
	{LIT("{\"format\":\"pt\"}"), {{LIT("format"), LIT("pt")}}, 1, "{\n  \"format\": \"pt\"\n}\n"},
	{LIT("{\"\":\"\",\"b\\u0000\":\"\\u00e9\\\"\",\"a\" :\t\"{\\\"x\\\":1}\" , \"b\":\"\\n\"}"),
	 {{LIT(""), LIT("")}, {LIT("b\0"), LIT("é\"")}, {LIT("a"), LIT("{\"x\":1}")}, {LIT("b"), LIT("\n")}}, 4,
	 "{\n  \"\": \"\",\n  \"b\\u0000\": \"é\\\"\",\n  \"a\": \"{\\\"x\\\":1}\",\n  \"b\": \"\\n\"\n}\n"},
};

START_TEST(reads_and_writes)
{
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_metadata metadata;

	ck_assert_msg(stfs_metadata_read(cases[_i].text, &metadata, &err) == 0, "%s", err.message);
	ck_assert_uint_eq(metadata.count, cases[_i].count);
	for (size_t i = 0; i < metadata.count; i++) {
		stfs_check_str_eq(metadata.pairs[i].key, cases[_i].pairs[i].key, "key");
		stfs_check_str_eq(metadata.pairs[i].value, cases[_i].pairs[i].value, "value");
	}
	ck_assert_int_eq(stfs_metadata_write(metadata.pairs, metadata.count, &out), 0);
	stfs_check_str_eq(stfs_buf_str(&out), stfs_str_from(cases[_i].written), "written");
	stfs_metadata_free(&metadata);
}
END_TEST

static const struct {
	struct stfs_str text;
	uint64_t position;
	const char *says;
} bad_cases[] = {
	{{NULL, 0}, 0, "expected an object of strings; write {"},
	{LIT("[\"a\"]"), 0, "expected an object of strings"},
	{LIT(" null"), 1, "byte 1: expected an object"},
	{LIT("{"), 1, "not JSON: byte 1: "},
	{LIT("{\"a\":\"b\""), 8, "not JSON: byte 8: "},
	{LIT("{\"a\":\"b\",}"), 9, "trailing comma"},
	{LIT("{\"a\":\"b\"}{}"), 9, "not JSON: byte 9: "},
	{LIT("{\"a\":\"b\"}\0"), 9, "not JSON: byte 9: "},
	{LIT("{\"a\":\"\xc3\"}"), 6, "byte 6 is not UTF-8"},
	{LIT("{\"a\":\"\n\"}"), 6, "control character"},
	{LIT("{\"a\":\"\\ud800\"}"), 8, "lone surrogate"},
	{LIT("{a:\"b\"}"), 1, "a key must be a string"},
	{LIT("{\"a\":1}"), 5, "byte 5: key \"a\" must hold a string"},
	{LIT("{\"x\":\"\",\"a\\n\":null}"), 14, "byte 14: key \"a\\x0a\" must hold a string"},
	{LIT("{\"a\":{\"b\":\"c\"}}"), 5, "key \"a\" must hold a string"},
	{LIT("{\"a\":[\"b\"]}"), 5, "key \"a\" must hold a string"},
	{LIT("{\"a\":\"1\",\"b\":\"2\",\"a\":\"1\",\"b\":\"\"}"), 17, "byte 17: the key \"a\" stands twice"},
	{LIT("{\"a\":\"1\",\"\\u0061\":\"2\"}"), 9, "byte 9: the key \"a\" stands twice"},
};

START_TEST(refuses)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_metadata metadata;

	ck_assert_int_eq(stfs_metadata_read(bad_cases[_i].text, &metadata, &err), -EBADMSG);
	ck_assert_int_eq(err.code, -EBADMSG);
	ck_assert_msg(strstr(err.message, bad_cases[_i].says), "%s", err.message);
	ck_assert_uint_eq(err.position, bad_cases[_i].position);
	ck_assert_ptr_null(metadata.pairs);
	ck_assert_ptr_null(metadata.strings.data);
}
END_TEST

static struct stfs_str random_string(uint64_t *state, char *room)
{
	static const uint32_t bounds[] = {0x20, 0x60, 0x80, 0x800, 0xd800};
	size_t len = 0;

	for (size_t k = stfs_check_below(state, 8); k > 0; k--)
		len += stfs_utf8_put((uint32_t)stfs_check_below(state, bounds[stfs_check_below(state, 5)]),
				     room + len);
	return stfs_str_slice(room, len);
}

START_TEST(reads_what_is_written)
{
	uint64_t state = stfs_check_seed();

	for (int round = 0; round < 2000; round++) {
		STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
		struct stfs_header_pair pairs[20];
		char keys[20][32], values[20][32];
		size_t count = stfs_check_below(&state, 20);
		struct stfs_metadata metadata;

		for (size_t i = 0; i < count; i++) {
			keys[i][0] = (char)('a' + i);
			pairs[i].key = random_string(&state, keys[i] + 1);
			pairs[i].key = stfs_str_slice(keys[i], pairs[i].key.len + 1);
			pairs[i].value = random_string(&state, values[i]);
		}
		ck_assert_int_eq(stfs_metadata_write(pairs, count, &out), 0);
		ck_assert_int_eq(stfs_metadata_read(stfs_buf_str(&out), &metadata, NULL), 0);
		ck_assert_uint_eq(metadata.count, count);
		for (size_t i = 0; i < count; i++) {
			stfs_check_str_eq(metadata.pairs[i].key, pairs[i].key, "key");
			stfs_check_str_eq(metadata.pairs[i].value, pairs[i].value, "value");
		}
		stfs_metadata_free(&metadata);
	}
}
END_TEST

/* A text of pairs that are as short as they can be, and of one long string. */
START_TEST(holds_as_much_as_comes)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_metadata metadata;
	const unsigned count = 1000000;

	for (unsigned i = 0; i < count; i++)
		stfs_buf_printf(&text, "%c\"%x\":\"\"", i ? ',' : '{', i);
	stfs_buf_putc(&text, '}');
	ck_assert_int_eq(stfs_metadata_read(stfs_buf_str(&text), &metadata, &err), 0);
	ck_assert_uint_eq(metadata.count, count);
	stfs_check_str_eq(metadata.pairs[count - 1].key, stfs_str_from("f423f"), "the last");
	stfs_metadata_free(&metadata);

	stfs_buf_clear(&text);
	stfs_buf_puts(&text, "{\"a\":\"");
	for (unsigned i = 0; i < count; i++)
		stfs_buf_puts(&text, "\\u00e9");
	stfs_buf_puts(&text, "\"}");
	ck_assert_int_eq(stfs_metadata_read(stfs_buf_str(&text), &metadata, &err), 0);
	ck_assert_uint_eq(metadata.pairs[0].value.len, 2 * count);
	stfs_metadata_free(&metadata);
	stfs_buf_clear(&text);
	for (unsigned i = 0; i <= STFS_METADATA_PAIRS_MAX; i++)
		stfs_buf_printf(&text, "%c\"%x\":\"\"", i ? ',' : '{', i);
	stfs_buf_putc(&text, '}');
	ck_assert_int_eq(stfs_metadata_read(stfs_buf_str(&text), &metadata, &err), -EBADMSG);
	ck_assert_msg(strstr(err.message, "more than 1048576 keys"), "%s", err.message);
	/* Refused unread. */
	ck_assert_int_eq(stfs_metadata_read(stfs_str_slice(text.data, STFS_METADATA_MAX + 1u), &metadata, &err),
			 -EBADMSG);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("metadata");
	TCase *tcase = tcase_create("metadata");

	tcase_set_timeout(tcase, 60);
	tcase_add_loop_test(tcase, reads_and_writes, 0, STFS_CHECK_COUNT(cases));
	tcase_add_loop_test(tcase, refuses, 0, STFS_CHECK_COUNT(bad_cases));
	tcase_add_test(tcase, reads_what_is_written);
	tcase_add_test(tcase, holds_as_much_as_comes);
	suite_add_tcase(suite, tcase);
	return stfs_check_main(suite);
}
