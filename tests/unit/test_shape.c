/* SPDX-License-Identifier: MIT */
#include "stfs_check.h"

#include <errno.h>

#include "base/buf.h"
#include "format/shape.h"

#define MOST UINT64_MAX
#define MOST_TEXT "18446744073709551615"

static const struct {
	const char *text;
	uint64_t dims[4];
	size_t rank;
	uint64_t elements;
} good[] = {
	{"", {0}, 0, 1},
	{"  ", {0}, 0, 1},
	{"[]", {0}, 0, 1},
	{"[ ]", {0}, 0, 1},
	{" ( ) ", {0}, 0, 1},
	{"7", {7}, 1, 7},
	{"7,", {7}, 1, 7},
	{"(7,)", {7}, 1, 7},
	{"2,3", {2, 3}, 2, 6},
	{"[2, 3]", {2, 3}, 2, 6},
	{"\t[ 2 ,3 ,\t4 ] ", {2, 3, 4}, 3, 24},
	{"(2, 3)", {2, 3}, 2, 6},
	{"0", {0}, 1, 0},
	{"0," MOST_TEXT "," MOST_TEXT, {0, MOST, MOST}, 3, 0},
	{"007", {7}, 1, 7},
	{MOST_TEXT, {MOST}, 1, MOST},
	{"4294967296,4294967295", {4294967296, 4294967295}, 2, 0xffffffff00000000},
};

START_TEST(reads)
{
	STFS_AUTO_SHAPE struct stfs_shape shape = STFS_SHAPE_INIT;
	struct stfs_err err = STFS_ERR_INIT;

	ck_assert_msg(stfs_shape_parse(good[_i].text, &shape, &err) == 0, "%s", err.message);
	ck_assert_uint_eq(shape.rank, good[_i].rank);
	ck_assert_uint_eq(shape.elements, good[_i].elements);
	for (size_t i = 0; i < shape.rank; i++)
		ck_assert_uint_eq(shape.dims[i], good[_i].dims[i]);
}
END_TEST

static const struct {
	const char *text;
	uint64_t position;
	const char *says;
} bad[] = {
	{",", 0, "expected a whole number"},
	{"2,,3", 2, "expected a whole number"},
	{"-1", 0, "expected a whole number"},
	{"2x3", 1, "expected ','"},
	{"2 3", 2, "expected ','"},
	{"2;3\x1b", 1, "\\x1b"},
	{"[2,3", 4, "expected ',' or ']'"},
	{"[2,", 3, "expected a whole number"},
	{"(2,3]", 4, "expected ',' or ')'"},
	{"2,3]", 3, "expected ','"},
	{"]", 0, "expected a whole number"},
	{"[2,3]]", 5, "nothing more"},
	{"[[2],3]", 1, "expected a whole number"},
	{"1.5", 1, "expected ','"},
	{"1e3", 1, "expected ','"},
	{"3,18446744073709551616", 2, "at most"},
	{"3,99999999999999999999999999", 2, "at most"},
	{"3," MOST_TEXT, 2, "2^64 - 1 elements"},
	{MOST_TEXT "," MOST_TEXT ",0", 21, "2^64 - 1 elements"},
};

START_TEST(refuses)
{
	struct stfs_shape shape;
	struct stfs_err err = STFS_ERR_INIT;

	ck_assert_int_eq(stfs_shape_parse(bad[_i].text, &shape, &err), -EINVAL);
	ck_assert_int_eq(err.code, -EINVAL);
	ck_assert_uint_eq(err.position, bad[_i].position);
	ck_assert_msg(strstr(err.message, bad[_i].says), "%s", err.message);
	ck_assert_ptr_null(shape.dims);
	ck_assert_int_eq(stfs_shape_parse(bad[_i].text, &shape, NULL), -EINVAL);
}
END_TEST

START_TEST(holds_as_many_as_come)
{
	STFS_AUTO_SHAPE struct stfs_shape shape = STFS_SHAPE_INIT;
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;

	for (int i = 0; i < 100000; i++)
		stfs_buf_printf(&text, "%d,", i % 63 ? 1 : 2 - (i > 0));
	ck_assert_int_eq(stfs_shape_parse(stfs_buf_cstr(&text), &shape, NULL), 0);
	ck_assert_uint_eq(shape.rank, 100000);
	ck_assert_uint_eq(shape.elements, 2);
	/* What does not fit changes nothing. */
	ck_assert_int_eq(stfs_shape_add(&shape, UINT64_MAX), -EOVERFLOW);
	ck_assert_uint_eq(shape.rank, 100000);
	ck_assert_uint_eq(shape.elements, 2);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("shape");
	TCase *tcase = tcase_create("shape");

	tcase_add_loop_test(tcase, reads, 0, STFS_CHECK_COUNT(good));
	tcase_add_loop_test(tcase, refuses, 0, STFS_CHECK_COUNT(bad));
	tcase_add_test(tcase, holds_as_many_as_come);
	suite_add_tcase(suite, tcase);
	return stfs_check_main(suite);
}
