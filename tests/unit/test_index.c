/* SPDX-License-Identifier: MIT */
#include "stfs_check.h"

#include <errno.h>
#include <json-c/json.h>

#include "base/buf.h"
#include "format/index.h"

#define LIT STFS_CHECK_LIT

static int read_index(struct stfs_str text, struct stfs_index *index, struct stfs_err *err)
{
	char *copy = malloc(text.len ? text.len : 1);

	ck_assert_ptr_nonnull(copy);
	memcpy(copy, text.ptr, text.len);
	*err = (struct stfs_err)STFS_ERR_INIT;
	return stfs_index_read(copy, text.len, index, err);
}

START_TEST(reads_files_once_in_natural_order)
{
	struct stfs_index index;
	struct stfs_err err;

	ck_assert_int_eq(read_index((struct stfs_str)LIT(
		"{\"metadata\":{\"total_size\":12},\"weight_map\":{\"x\":\"m-10.safetensors\",\"y\":\"m-2.safetensors\","
		"\"z\":\"m-10.safetensors\",\"\":\"m-1.safetensors\",\"\\u00e9\":\"m-2.safetensors\"}} \n"), &index, &err), 0);
	ck_assert_uint_eq(index.file_count, 3);
	ck_assert_str_eq(index.files[0], "m-1.safetensors");
	ck_assert_str_eq(index.files[1], "m-2.safetensors");
	ck_assert_str_eq(index.files[2], "m-10.safetensors");
	ck_assert(index.has_total_size);
	ck_assert_uint_eq(index.total_size, 12);
	ck_assert_uint_eq(stfs_index_find(&index, (struct stfs_str)LIT("x")), 2);
	ck_assert_uint_eq(stfs_index_find(&index, (struct stfs_str)LIT("y")), 1);
	ck_assert_uint_eq(stfs_index_find(&index, (struct stfs_str)LIT("")), 0);
	ck_assert_uint_eq(stfs_index_find(&index, (struct stfs_str)LIT("é")), 1);
	ck_assert_uint_eq(stfs_index_find(&index, (struct stfs_str)LIT("w")), UINT32_MAX);
	ck_assert_uint_eq(stfs_index_find(&index, (struct stfs_str)LIT("x\0y")), UINT32_MAX);
	/* A slice: nothing behind it counts. */
	ck_assert_uint_eq(stfs_index_find(&index, stfs_str_slice("xyz", 1)), 2);
	stfs_index_free(&index);
}
END_TEST

/* Names are unescaped where they stand; those that hold a NUL are names like others. */
START_TEST(knows_names_by_their_characters)
{
	struct stfs_index index;
	struct stfs_err err;

	ck_assert_int_eq(read_index((struct stfs_str)LIT(
		"{\"a\":[{\"weight_map\":{}}],\"\\u0077eight_map\":{\"x\\u0000y\":\"f\\u002d2\",\"x\":\"f-1\",\"\\ud83d\\ude00\\n\":\"f-2\","
		"\"\\\"weight_map\":\"f-1\"},\"b\":null}"), &index, &err), 0);
	ck_assert_uint_eq(index.file_count, 2);
	ck_assert_uint_eq(index.count, 4);
	ck_assert_str_eq(index.files[0], "f-1");
	ck_assert_uint_eq(stfs_index_find(&index, (struct stfs_str)LIT("x\0y")), 1);
	ck_assert_uint_eq(stfs_index_find(&index, (struct stfs_str)LIT("x")), 0);
	ck_assert_uint_eq(stfs_index_find(&index, (struct stfs_str)LIT("x\0z")), STFS_NO_NUMBER);
	ck_assert_uint_eq(stfs_index_find(&index, (struct stfs_str)LIT("\xf0\x9f\x98\x80\n")), 1);
	ck_assert_uint_eq(stfs_index_find(&index, (struct stfs_str)LIT("\"weight_map")), 0);
	stfs_check_str_eq(stfs_index_name(&index, 0), ((struct stfs_str)LIT("x\0y")), "name");
	stfs_index_free(&index);
}
END_TEST

/* A random index against json-c, which reads the same from it where no key has a NUL or comes twice. */
START_TEST(reads_what_json_c_reads)
{
	static const char *const pieces[] = {"w", ".", "\\u00e9", "\\n", "\\\"", "\\/", "0", "7", "\xc3\xa9", "\\ud83d\\ude00"};
	uint64_t state = stfs_check_seed();

	for (unsigned round = 0; round < 200; round++) {
		STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
		unsigned count = 1 + (unsigned)stfs_check_below(&state, 50), entries = 0;
		struct json_object *root, *map;
		struct stfs_index index;
		struct stfs_err err;

		stfs_buf_puts(&text, " {\"weight_map\" : {");
		for (unsigned i = 0; i < count; i++) {
			stfs_buf_printf(&text, "%s\"%u ", i ? ", " : "", i);
			for (size_t k = stfs_check_below(&state, 6); k > 0; k--)
				stfs_buf_puts(&text, pieces[stfs_check_below(&state, STFS_CHECK_COUNT(pieces))]);
			stfs_buf_printf(&text, "\":\"f%s%zu\"", stfs_check_below(&state, 2) ? "\\u002d" : "-",
					stfs_check_below(&state, 12));
		}
		stfs_buf_puts(&text, "} }\n");
		ck_assert_ptr_nonnull(stfs_buf_cstr(&text));
		ck_assert_msg(read_index(stfs_buf_str(&text), &index, &err) == 0, "%s: %s", text.data, err.message);
		root = json_tokener_parse(text.data);
		ck_assert(json_object_object_get_ex(root, "weight_map", &map));
		json_object_object_foreach(map, key, value) {
			uint32_t found = stfs_index_find(&index, stfs_str_from(key));

			ck_assert_msg(found < index.file_count, "%s: %s", text.data, key);
			ck_assert_str_eq(index.files[found], json_object_get_string(value));
			entries++;
		}
		ck_assert_uint_eq(index.count, entries);
		json_object_put(root);
		stfs_index_free(&index);
	}
}
END_TEST

START_TEST(finds_among_names_that_natural_order_holds_equal)
{
	static const char *const files[] = {"m-1", "m-01", "m-001", "M-1"};
	struct stfs_index index;
	struct stfs_err err;

	ck_assert_int_eq(read_index((struct stfs_str)LIT(
		"{\"weight_map\":{\"a\":\"m-1\",\"b\":\"m-01\",\"c\":\"m-001\",\"d\":\"M-1\"}}"), &index, &err), 0);
	ck_assert_uint_eq(index.file_count, 4);
	for (char name = 'a'; name <= 'd'; name++) {
		uint32_t found = stfs_index_find(&index, stfs_str_slice(&name, 1));

		ck_assert_uint_lt(found, 4);
		ck_assert_str_eq(index.files[found], files[name - 'a']);
	}
	stfs_index_free(&index);
}
END_TEST

static const struct {
	struct stfs_str text;
	bool has_total_size;
	uint64_t total_size;
} sizes[] = {
	{LIT("{\"weight_map\":{\"a\":\"f\"}}"), false, 0},
	{LIT("{\"metadata\":null,\"weight_map\":{\"a\":\"f\"}}"), false, 0},
	{LIT("{\"metadata\":[{}],\"weight_map\":{\"a\":\"f\"}}"), false, 0},
	{LIT("{\"metadata\":{},\"weight_map\":{\"a\":\"f\"}}"), false, 0},
	{LIT("{\"metadata\":{\"total_size\":\"7\"},\"weight_map\":{\"a\":\"f\"}}"), false, 0},
	{LIT("{\"metadata\":{\"total_size\":[7]},\"weight_map\":{\"a\":\"f\"}}"), false, 0},
	{LIT("{\"metadata\":{\"total_size\":-7},\"weight_map\":{\"a\":\"f\"}}"), false, 0},
	{LIT("{\"metadata\":{\"total_size\":-0},\"weight_map\":{\"a\":\"f\"}}"), false, 0},
	{LIT("{\"metadata\":{\"total_size\":7.5},\"weight_map\":{\"a\":\"f\"}}"), false, 0},
	{LIT("{\"metadata\":{\"total_size\":7e1},\"weight_map\":{\"a\":\"f\"}}"), false, 0},
	{LIT("{\"metadata\":{\"total_size\":0e0},\"weight_map\":{\"a\":\"f\"}}"), false, 0},
	{LIT("{\"metadata\":{\"total_size\":18446744073709551616},\"weight_map\":{\"a\":\"f\"}}"), false, 0},
	{LIT("{\"metadata\":{\"total_size\":18446744073709551616.0},\"weight_map\":{\"a\":\"f\"}}"), false, 0},
	{LIT("{\"metadata\":{\"total_size\":7},\"weight_map\":{\"a\":\"f\"}}"), true, 7},
	{LIT("{\"metadata\":{\"total_size\":7.0},\"weight_map\":{\"a\":\"f\"}}"), true, 7},
	{LIT("{\"metadata\":{\"total_size\":700.00},\"weight_map\":{\"a\":\"f\"}}"), true, 700},
	{LIT("{\"metadata\":{\"total_size\":0.0},\"weight_map\":{\"a\":\"f\"}}"), true, 0},
	{LIT("{\"metadata\":{\"total_size\":18446744073709551615},\"weight_map\":{\"a\":\"f\"}}"), true, UINT64_MAX},
	{LIT("{\"weight_map\":{\"a\":\"f\"},\"metadata\":{\"x\":{\"total_size\":1},\"total_size\":0,\"y\":[]}}"), true, 0},
};

START_TEST(reads_total_size_where_there_is_one)
{
	struct stfs_index index;
	struct stfs_err err;

	ck_assert_int_eq(read_index(sizes[_i].text, &index, &err), 0);
	ck_assert_int_eq(index.has_total_size, sizes[_i].has_total_size);
	ck_assert_uint_eq(index.total_size, sizes[_i].total_size);
	ck_assert_uint_eq(index.file_count, 1);
	/* All that is left when the names are forgotten. */
	stfs_index_forget(&index);
	ck_assert_int_eq(index.has_total_size, sizes[_i].has_total_size);
	ck_assert_uint_eq(index.total_size, sizes[_i].total_size);
	ck_assert_uint_eq(index.file_count, 0);
	stfs_index_free(&index);
}
END_TEST

static const struct {
	struct stfs_str text;
	const char *says;
} bad_cases[] = {
	{LIT(""), "not JSON"},
	{LIT("{"), "not JSON"},
	{LIT("{\"weight_map\":{}}}"), "not JSON"},
	/* What json-c takes even when it is strict. */
	{LIT("{'weight_map':{'a':'f'}}"), "not JSON: byte 1: "},
	{LIT("{\"weight_map\":{\"a\":'f'}}"), "must name a file"},
	{LIT("{\"weight_map\":{\"a\":\"f\"},\"x\":[1,]}"), "not JSON: byte 31: trailing comma"},
	{LIT("{\"weight_map\":{}}"), "names no file"},
	{LIT("{\"weight_map\":{\"a\":\"f\",\"b\":\"f\",\"a\":\"f\"}}"), "\"a\" stands twice"},
	{LIT("{\"weight_map\":{\"a\":\"f\",\"\\u0061\":\"g\"}}"), "\"a\" stands twice"},
	{LIT("{\"weight_map\":{\"a\":\"f\"},\"weight_map\":{\"a\":\"f\"}}"), "\"weight_map\" stands twice"},
	{LIT("{\"metadata\":{},\"weight_map\":{\"a\":\"f\"},\"metadata\":{}}"), "\"metadata\" stands twice"},
	{LIT("{\"weight_map\":{\"a\":\"f\"},\"\\u0077eight_map\":1}"), "\"weight_map\" stands twice"},
	{LIT("{\"weight_map\":{}} x"), "not JSON"},
	{LIT("{\"weight_map\":{}}\0"), "not JSON"},
	{LIT("{\"weight_map\":{\"a\":\"\xff\"}}"), "not JSON"},
	{LIT("[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["), "not JSON"},
	{LIT("[]"), "weight_map"},
	{LIT("\"weight_map\""), "weight_map"},
	{LIT("{}"), "weight_map"},
	{LIT("{\"weight_map\":[]}"), "weight_map"},
	{LIT("{\"weight_map\":null}"), "weight_map"},
	{LIT("{\"weight_map\":{\"a\":1}}"), "must name a file"},
	{LIT("{\"weight_map\":{\"a\":null}}"), "must name a file"},
	{LIT("{\"weight_map\":{\"a\":[\"x\"]}}"), "must name a file"},
	{LIT("{\"weight_map\":{\"a\":\"\"}}"), "no file name"},
	{LIT("{\"weight_map\":{\"a\":\".\"}}"), "no file name"},
	{LIT("{\"weight_map\":{\"a\":\"..\"}}"), "no file name"},
	{LIT("{\"weight_map\":{\"a\":\"../x\"}}"), "no file name"},
	{LIT("{\"weight_map\":{\"a\":\"x/y\"}}"), "no file name"},
	{LIT("{\"weight_map\":{\"a\":\"/x\"}}"), "no file name"},
	{LIT("{\"weight_map\":{\"a\":\"x/\"}}"), "no file name"},
	{LIT("{\"weight_map\":{\"a\":\"x\\u002f..\\u002fy\"}}"), "no file name"},
	{LIT("{\"weight_map\":{\"a\":\"x\\u0000y\"}}"), "no file name"},
	{LIT("{\"weight_map\":{\"a\":\"good\",\"b\":\"..\"}}"), "no file name"},
};

START_TEST(refuses)
{
	struct stfs_index index;
	struct stfs_err err;

	ck_assert_int_eq(read_index(bad_cases[_i].text, &index, &err), -EBADMSG);
	ck_assert_int_eq(err.code, -EBADMSG);
	ck_assert_msg(strstr(err.message, bad_cases[_i].says), "%s: %s", bad_cases[_i].text.ptr, err.message);
	stfs_index_free(&index);
}
END_TEST

START_TEST(bounds_the_number_of_files)
{
	for (unsigned count = STFS_SHARDS_MAX; count <= STFS_SHARDS_MAX + 1; count++) {
		STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
		struct stfs_index index;
		struct stfs_err err;

		stfs_buf_puts(&text, "{\"weight_map\":{");
		for (unsigned i = 0; i < count; i++)
			stfs_buf_printf(&text, "%s\"%u\":\"f%u\"", i ? "," : "", i, i);
		stfs_buf_puts(&text, "}}");
		ck_assert_int_eq(read_index(stfs_buf_str(&text), &index, &err),
				 count > STFS_SHARDS_MAX ? -EBADMSG : 0);
		for (unsigned i = 0; i < count && count <= STFS_SHARDS_MAX; i++) {
			char name[16];
			int len = snprintf(name, sizeof(name), "f%u", i);
			uint32_t found = stfs_index_find(&index, stfs_str_slice(name + 1, (size_t)len - 1));

			ck_assert_uint_lt(found, index.file_count);
			ck_assert_str_eq(index.files[found], name);
		}
		stfs_index_free(&index);
	}
}
END_TEST

START_TEST(bounds_its_size)
{
	struct stfs_index index;
	struct stfs_err err;

	/* Refused unread: there are no such bytes. */
	ck_assert_int_eq(stfs_index_read(malloc(1), STFS_INDEX_MAX + 1u, &index, &err), -EBADMSG);
	stfs_index_free(&index);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("index");
	TCase *tcase = tcase_create("index");

	tcase_add_test(tcase, reads_files_once_in_natural_order);
	tcase_add_test(tcase, knows_names_by_their_characters);
	tcase_add_test(tcase, reads_what_json_c_reads);
	tcase_add_test(tcase, finds_among_names_that_natural_order_holds_equal);
	tcase_add_loop_test(tcase, reads_total_size_where_there_is_one, 0, STFS_CHECK_COUNT(sizes));
	tcase_add_loop_test(tcase, refuses, 0, STFS_CHECK_COUNT(bad_cases));
	tcase_add_test(tcase, bounds_the_number_of_files);
	tcase_add_test(tcase, bounds_its_size);
	suite_add_tcase(suite, tcase);
	return stfs_check_main(suite);
}
