/* SPDX-License-Identifier: MIT */
#include "stfs_check.h"

#include <errno.h>

#include "format/npy.h"

#define MOST_TEXT "18446744073709551615"
#define DICT(descr, order, shape) "{'descr': " descr ", 'fortran_order': " order ", 'shape': " shape ", }"
#define PLAIN(descr) DICT("'" descr "'", "False", "(2, 3)")

/* Magic, version, length and `text`, in memory of just that size: what is read beyond it is seen. */
static char *make_file(unsigned version, struct stfs_str text, size_t *len)
{
	size_t prefix = version == 1 ? 10 : 12;
	char *file = malloc(prefix + text.len);

	ck_assert_ptr_nonnull(file);
	memcpy(file, "\x93NUMPY", 6);
	file[6] = (char)version;
	file[7] = 0;
	for (size_t i = 8; i < prefix; i++)
		file[i] = (char)(text.len >> 8 * (i - 8));
	if (text.len)
		memcpy(file + prefix, text.ptr, text.len);
	*len = prefix + text.len;
	return file;
}

static int read_dict(unsigned version, const char *dict, const enum stfs_dtype *declared,
		     struct stfs_npy *npy, struct stfs_err *err)
{
	size_t len;
	char *file = make_file(version, stfs_str_from(dict), &len);
	int r = stfs_npy_read_header(file, len, declared, npy, err);

	if (r == 0)
		ck_assert_uint_eq(npy->header_len, len);
	free(file);
	return r;
}

#define F32_2_3 STFS_F32, {2, 3}, 2, false

static const struct {
	unsigned version;
	const char *dict;
	enum stfs_dtype dtype;
	uint64_t dims[4];
	size_t rank;
	bool fortran_order;
} good[] = {
	{1, PLAIN("<f4") "           \n", F32_2_3},
	{2, PLAIN("<f4") "\n", F32_2_3},
	{3, PLAIN("<f4") "\n", F32_2_3},
	{1, DICT("'<f4'", "True", "(2, 3)"), STFS_F32, {2, 3}, 2, true},
	{1, DICT("'<f4'", "False", "()"), STFS_F32, {0}, 0, false},
	{1, DICT("'<f4'", "False", "(0,)"), STFS_F32, {0}, 1, false},
	{1, DICT("'<f4'", "False", "(7, 0, 9,)"), STFS_F32, {7, 0, 9}, 3, false},
	{1, DICT("'|u1'", "False", "(2305843009213693951,)"), STFS_U8, {2305843009213693951}, 1, false},
	/* Made by hand, and by Python 2. */
	{1, "{\"shape\":(2,3),\"fortran_order\":False,\"descr\":\"<f4\"}", F32_2_3},
	{1, " \n{ 'fortran_order' :\tFalse\n,'shape' : ( 2 ,\n3 , ) ,'descr':'<f4' , } \t\r\n ", F32_2_3},
	{2, DICT("'<f4'", "False", "(2L, 3L)"), F32_2_3},
	/* Every type, and the ways to say it. */
	{1, PLAIN("|b1"), STFS_BOOL, {2, 3}, 2, false},
	{1, PLAIN("?"), STFS_BOOL, {2, 3}, 2, false},
	{1, PLAIN("|?"), STFS_BOOL, {2, 3}, 2, false},
	{1, PLAIN("|u1"), STFS_U8, {2, 3}, 2, false},
	{1, PLAIN(">u1"), STFS_U8, {2, 3}, 2, false},
	{1, PLAIN("u1"), STFS_U8, {2, 3}, 2, false},
	{1, PLAIN("|i1"), STFS_I8, {2, 3}, 2, false},
	{1, PLAIN("<i2"), STFS_I16, {2, 3}, 2, false},
	{1, PLAIN("=i2"), STFS_I16, {2, 3}, 2, false},
	{1, PLAIN("|i2"), STFS_I16, {2, 3}, 2, false},
	{1, PLAIN("i2"), STFS_I16, {2, 3}, 2, false},
	{1, PLAIN("<u2"), STFS_U16, {2, 3}, 2, false},
	{1, PLAIN("<f2"), STFS_F16, {2, 3}, 2, false},
	{1, PLAIN("<V2"), STFS_BF16, {2, 3}, 2, false},
	{1, PLAIN("|V2"), STFS_BF16, {2, 3}, 2, false},
	{1, PLAIN(">V2"), STFS_BF16, {2, 3}, 2, false},
	{1, PLAIN("<f1"), STFS_F8_E5M2, {2, 3}, 2, false},
	{1, PLAIN("|f1"), STFS_F8_E5M2, {2, 3}, 2, false},
	{1, PLAIN("<i4"), STFS_I32, {2, 3}, 2, false},
	{1, PLAIN("<u4"), STFS_U32, {2, 3}, 2, false},
	{1, PLAIN("<c8"), STFS_C64, {2, 3}, 2, false},
	{1, PLAIN("<f8"), STFS_F64, {2, 3}, 2, false},
	{1, PLAIN("<i8"), STFS_I64, {2, 3}, 2, false},
	{1, PLAIN("<u8"), STFS_U64, {2, 3}, 2, false},
};

START_TEST(reads)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_npy npy;

	ck_assert_msg(read_dict(good[_i].version, good[_i].dict, NULL, &npy, &err) == 0, "%s: %s",
		      good[_i].dict, err.message);
	ck_assert_int_eq(npy.dtype, good[_i].dtype);
	ck_assert_int_eq(npy.fortran_order, good[_i].fortran_order);
	ck_assert_uint_eq(npy.shape.rank, good[_i].rank);
	for (size_t i = 0; i < npy.shape.rank; i++)
		ck_assert_uint_eq(npy.shape.dims[i], good[_i].dims[i]);
	ck_assert_uint_eq(npy.data_len, npy.shape.elements * stfs_dtype_info(npy.dtype)->bits / 8);
	stfs_npy_free(&npy);
}
END_TEST

static const struct {
	const char *descr;
	enum stfs_dtype declared, dtype;
} declared_cases[] = {
	/* No type of its own: keeps one of the same size. */
	{"<V2", STFS_F16, STFS_F16},
	{"|V2", STFS_I16, STFS_I16},
	{"|V2", STFS_BF16, STFS_BF16},
	{"|V2", STFS_F32, STFS_BF16},
	{"|V1", STFS_F8_E4M3, STFS_F8_E4M3},
	{"<V1", STFS_F8_E8M0, STFS_F8_E8M0},
	{"|V1", STFS_U8, STFS_U8},
	{"|V8", STFS_C64, STFS_C64},
	/* A type of its own. */
	{"<f2", STFS_BF16, STFS_F16},
	{"<i2", STFS_F16, STFS_I16},
	{"|u1", STFS_F8_E4M3, STFS_U8},
	{"<f1", STFS_F8_E4M3, STFS_F8_E5M2},
	{"<f4", STFS_F32, STFS_F32},
	{"<f4", STFS_BOOL, STFS_F32},
};

START_TEST(keeps_the_declared_type_of_elements_without_one)
{
	STFS_AUTO_BUF struct stfs_buf dict = STFS_BUF_INIT;
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_npy npy;

	stfs_buf_printf(&dict, DICT("'%s'", "False", "(2, 3)"), declared_cases[_i].descr);
	ck_assert_msg(read_dict(1, stfs_buf_cstr(&dict), &declared_cases[_i].declared, &npy, &err) == 0,
		      "%s", err.message);
	ck_assert_int_eq(npy.dtype, declared_cases[_i].dtype);
	stfs_npy_free(&npy);
}
END_TEST

static const struct {
	unsigned version;
	const char *dict;
	int code;
	const char *says;
} bad[] = {
	{0, PLAIN("<f4"), -EBADMSG, "version 0.0"},
	{4, PLAIN("<f4"), -EBADMSG, "version 4.0"},
	{1, "", -EBADMSG, "byte 10: expected '{'"},
	{1, "[]", -EBADMSG, "expected '{'"},
	{1, "{}", -EBADMSG, "it has no 'descr'"},
	{1, "{'descr':'<f4','shape':()}", -EBADMSG, "it has no 'fortran_order'"},
	{1, "{'descr':'<f4','fortran_order':False}", -EBADMSG, "it has no 'shape'"},
	{1, "{", -EBADMSG, "expected a string"},
	{1, "{'descr", -EBADMSG, "ends inside a string"},
	{1, "{'descr\": '<f4'}", -EBADMSG, "byte 11: no key"},
	{1, "{'descr'", -EBADMSG, "expected ':'"},
	{1, "{'descr' '<f4'}", -EBADMSG, "expected ':'"},
	{1, "{'descr':}", -EBADMSG, "expected a string"},
	{1, "{'descr':None}", -EBADMSG, "expected a string"},
	{1, "{'de\\x73cr':'<f4'}", -EBADMSG, "byte 14: an escape"},
	{1, "{'descr':'<f4\n'}", -EBADMSG, "an escape or control"},
	{1, "{'descr':'<f4',,}", -EBADMSG, "expected a string"},
	{1, "{'descr':'<f4' 'shape':()}", -EBADMSG, "expected ',' or '}'"},
	{1, "{'descr':'<f4','descr':'<f4'}", -EBADMSG, "byte 25: a key that stands twice"},
	{1, "{'descr':'<f4','other':1}", -EBADMSG, "byte 25: no key"},
	{1, PLAIN("<f4") "x", -EBADMSG, "behind the dict"},
	{1, PLAIN("<f4") " {}", -EBADMSG, "behind the dict"},
	{1, DICT("'<f4'", "true", "()"), -EBADMSG, "True or False"},
	{1, DICT("'<f4'", "1", "()"), -EBADMSG, "True or False"},
	{1, DICT("'<f4'", "Truely", "()"), -EBADMSG, "expected ',' or '}'"},
	{1, DICT("'<f4'", "False", "3"), -EBADMSG, "must be a tuple"},
	{1, DICT("'<f4'", "False", "[3]"), -EBADMSG, "must be a tuple"},
	{1, DICT("'<f4'", "False", "(3)"), -EBADMSG, "needs a comma"},
	{1, DICT("'<f4'", "False", "(,)"), -EBADMSG, "whole number"},
	{1, DICT("'<f4'", "False", "(-1,)"), -EBADMSG, "whole number"},
	{1, DICT("'<f4'", "False", "(1.5,)"), -EBADMSG, "expected ',' or ')'"},
	{1, DICT("'<f4'", "False", "(1 2)"), -EBADMSG, "expected ',' or ')'"},
	{1, DICT("'<f4'", "False", "(True,)"), -EBADMSG, "whole number"},
	{1, DICT("'<f4'", "False", "(2,(3,))"), -EBADMSG, "whole number"},
	{3, DICT("'<f4'", "False", "(2L,)"), -EBADMSG, "expected ',' or ')'"},
	{1, "{'shape':(1,2", -EBADMSG, "expected ',' or ')'"},
	{1, "{'shape':(1,", -EBADMSG, "whole number"},
	{1, DICT("'|u1'", "False", "(18446744073709551616,)"), -EBADMSG, "passes 2^64 - 1"},
	{1, DICT("'|u1'", "False", "(99999999999999999999999999,)"), -EBADMSG, "passes 2^64 - 1"},
	{1, DICT("'|u1'", "False", "(" MOST_TEXT ", 2)"), -EBADMSG, "elements"},
	{1, DICT("'|u1'", "False", "(" MOST_TEXT ",)"), -EBADMSG, "bits"},
	{1, DICT("'<f8'", "False", "(288230376151711744,)"), -EBADMSG, "bits"},
	/* What no tensor holds. */
	{1, PLAIN(">f4"), -EINVAL, "dtype >f4: big-endian"},
	{1, PLAIN(">c16"), -EINVAL, "big-endian"},
	{1, PLAIN("|O"), -EINVAL, "Python objects"},
	{1, PLAIN("O8"), -EINVAL, "Python objects"},
	{1, PLAIN("<U3"), -EINVAL, "strings"},
	{1, PLAIN("|S3"), -EINVAL, "strings"},
	{1, PLAIN("<c16"), -EINVAL, "dtype <c16: no tensor"},
	{1, PLAIN("<f16"), -EINVAL, "no tensor"},
	{1, PLAIN("<M8[s]"), -EINVAL, "no tensor"},
	{1, PLAIN("<m8"), -EINVAL, "no tensor"},
	{1, PLAIN("|V1"), -EINVAL, ".json"},
	{1, PLAIN("<V1"), -EINVAL, ".json"},
	{1, PLAIN("|V3"), -EINVAL, "no tensor"},
	{1, PLAIN("|V0"), -EINVAL, "no tensor"},
	{1, PLAIN("|V02"), -EINVAL, "no tensor"},
	{1, PLAIN("|V100"), -EINVAL, "no tensor"},
	{1, PLAIN("|V"), -EINVAL, "no tensor"},
	{1, PLAIN("<f"), -EINVAL, "no tensor"},
	{1, PLAIN("<f04"), -EINVAL, "no tensor"},
	{1, PLAIN("<f4 "), -EINVAL, "no tensor"},
	{1, PLAIN("<<f4"), -EINVAL, "no tensor"},
	{1, PLAIN("<"), -EINVAL, "no tensor"},
	{1, PLAIN(""), -EINVAL, "no tensor"},
	{1, PLAIN("float32"), -EINVAL, "no tensor"},
	{1, PLAIN("\x1b[2J"), -EBADMSG, "control character"},
	{1, PLAIN("\xc2\x9b"), -EINVAL, "\\xc2\\x9b"},
	{1, DICT("[('a', '<f4'), ('b', '<f4')]", "False", "(2,)"), -EINVAL, "[('a', '<f4'), ('b', '<f4')]: elements of"},
	{1, DICT("('<f4', (2,))", "False", "(2,)"), -EINVAL, "several fields"},
	{1, "{'descr':[", -EINVAL, "several fields"},
};

START_TEST(refuses)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_npy npy;

	ck_assert_int_eq(read_dict(bad[_i].version, bad[_i].dict, NULL, &npy, &err), bad[_i].code);
	ck_assert_int_eq(err.code, bad[_i].code);
	ck_assert_msg(strstr(err.message, bad[_i].says), "%s: %s", bad[_i].dict, err.message);
	ck_assert_ptr_null(npy.shape.dims);
}
END_TEST

/* Whatever the number of bytes at hand, those asked for bring it on, to the end. */
START_TEST(says_how_many_bytes_it_needs)
{
	STFS_AUTO_BUF struct stfs_buf whole = STFS_BUF_INIT;
	const uint64_t dims[] = {4, 5};
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_npy npy;

	ck_assert_int_eq(stfs_npy_header(STFS_F16, dims, 2, &whole), 0);
	for (size_t len = 0; len < whole.len; len++) {
		char *part = malloc(len + 1);

		ck_assert_ptr_nonnull(part);
		memcpy(part + 1, whole.data, len);
		ck_assert_int_eq(stfs_npy_read_header(part + 1, len, NULL, &npy, &err), -EAGAIN);
		ck_assert_uint_eq(npy.header_len, len < 8 ? 8 : len < 10 ? 10 : whole.len);
		free(part);
	}
	ck_assert_int_eq(stfs_npy_read_header(whole.data, whole.len, NULL, &npy, &err), 0);
	ck_assert_uint_eq(npy.header_len, whole.len);
	stfs_npy_free(&npy);
	/* Not of what is none. */
	ck_assert_int_eq(stfs_npy_read_header("\x93n", 2, NULL, &npy, &err), -EBADMSG);
	ck_assert_int_eq(stfs_npy_read_header("P", 1, NULL, &npy, &err), -EBADMSG);
	ck_assert_int_eq(stfs_npy_read_header("\x93NUMPY\1\1", 8, NULL, &npy, &err), -EBADMSG);
	ck_assert_int_eq(stfs_npy_read_header("\x93NUMPY\2\0\xff\xff\xff\xff", 12, NULL, &npy, &err), -EBADMSG);
	ck_assert_msg(strstr(err.message, "4294967295"), "%s", err.message);
	ck_assert_int_eq(stfs_npy_read_header("\x93NUMPY\2\0\0\0\x10\0", 12, NULL, &npy, &err), -EAGAIN);
	ck_assert_uint_eq(npy.header_len, 12 + (1 << 20));
}
END_TEST

START_TEST(reads_what_is_written)
{
	uint64_t state = stfs_check_seed();

	for (int round = 0; round < 2000; round++) {
		STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
		enum stfs_dtype dtype = (enum stfs_dtype)stfs_check_below(&state, STFS_DTYPE_COUNT);
		size_t rank = stfs_check_below(&state, 8);
		uint64_t dims[8];
		struct stfs_npy npy;

		for (size_t i = 0; i < rank; i++)
			dims[i] = stfs_check_below(&state, 100);
		if (stfs_npy_header(dtype, dims, rank, &out) == -ENOENT)
			continue;
		ck_assert_int_eq(stfs_npy_read_header(out.data, out.len, &dtype, &npy, NULL), 0);
		ck_assert_int_eq(npy.dtype, dtype);
		ck_assert_uint_eq(npy.header_len, out.len);
		ck_assert_uint_eq(npy.shape.rank, rank);
		ck_assert(rank == 0 || memcmp(npy.shape.dims, dims, rank * sizeof(*dims)) == 0);
		stfs_npy_free(&npy);
	}
}
END_TEST

/* Any header with some bytes changed is read or refused, within its memory. */
START_TEST(survives_damage)
{
	static const char pieces[] = "{}[](),:'\"\\ \n0123456789LTF<>=|Vfuiec\0\xff";
	static const char sample[] = PLAIN("<f4") "      \n";
	uint64_t state = stfs_check_seed();

	for (int round = 0; round < 100000; round++) {
		char text[sizeof(sample)];
		size_t len = stfs_check_below(&state, 4) ? sizeof(sample) - 1 : stfs_check_below(&state, sizeof(sample));
		struct stfs_npy npy;
		char *file;
		int r;

		memcpy(text, sample, sizeof(sample));
		for (size_t k = 1 + stfs_check_below(&state, 4); k > 0; k--)
			text[stfs_check_below(&state, sizeof(sample))] = pieces[stfs_check_below(&state, sizeof(pieces))];
		file = make_file(1 + (unsigned)stfs_check_below(&state, 3), stfs_str_slice(text, len), &len);
		r = stfs_npy_read_header(file, len, NULL, &npy, NULL);
		ck_assert(r == 0 || r == -EBADMSG || r == -EINVAL);
		if (r == 0)
			stfs_npy_free(&npy);
		free(file);
	}
}
END_TEST

START_TEST(bounds_its_work)
{
	STFS_AUTO_BUF struct stfs_buf dict = STFS_BUF_INIT;
	struct stfs_npy npy;

	stfs_buf_puts(&dict, "{'descr':'<f4','fortran_order':False,'shape':(");
	while (dict.len < STFS_NPY_HEADER_MAX - 2)
		stfs_buf_puts(&dict, "1,");
	stfs_buf_puts(&dict, ")}");
	ck_assert_int_eq(read_dict(2, stfs_buf_cstr(&dict), NULL, &npy, NULL), 0);
	ck_assert_uint_gt(npy.shape.rank, 500000);
	ck_assert_uint_eq(npy.data_len, 4);
	stfs_npy_free(&npy);
}
END_TEST

/* ---- Fortran order ---- */

START_TEST(puts_into_c_order)
{
	/* 2 x 3 in Fortran order, as np.asfortranarray([[0,1,2],[3,4,5]]) stands in memory. */
	static const uint16_t in[] = {0, 3, 1, 4, 2, 5}, want[] = {0, 1, 2, 3, 4, 5};
	uint64_t dims[] = {2, 3};
	struct stfs_shape shape = {.dims = dims, .rank = 2, .elements = 6};
	uint16_t out[6];

	stfs_npy_to_c(&shape, 2, in, 0, 6, out);
	ck_assert_mem_eq(out, want, sizeof(want));
}
END_TEST

/* The element at these indices, by the definition of both orders, one by one and in random parts. */
START_TEST(puts_any_part_into_c_order)
{
	static const size_t items[] = {1, 2, 4, 8, 3};
	uint64_t state = stfs_check_seed();

	for (int round = 0; round < 2000; round++) {
		STFS_AUTO_SHAPE struct stfs_shape shape = STFS_SHAPE_INIT;
		size_t item = items[stfs_check_below(&state, 5)], total;
		unsigned char *in, *want, *out;

		for (size_t k = stfs_check_below(&state, 6); k > 0; k--)
			ck_assert_int_eq(stfs_shape_add(&shape, stfs_check_below(&state, 20) ?
						1 + stfs_check_below(&state, 6) : 0), 0);
		total = shape.elements * item;
		in = malloc(total + 1);
		want = malloc(total + 1);
		out = malloc(total + 1);
		ck_assert(in && want && out);
		for (size_t i = 0; i < total; i++)
			in[i] = (unsigned char)stfs_check_random(&state);
		for (uint64_t c = 0; c < shape.elements; c++) {
			uint64_t rest = c, f = 0, index[8];

			for (size_t i = shape.rank; i-- > 0; rest /= shape.dims[i])
				index[i] = rest % shape.dims[i];
			for (size_t i = shape.rank; i-- > 0;)
				f = f * shape.dims[i] + index[i];
			memcpy(want + c * item, in + f * item, item);
		}
		for (uint64_t first = 0; first < shape.elements;) {
			uint64_t count = 1 + stfs_check_below(&state, shape.elements - first);

			stfs_npy_to_c(&shape, item, in, first, count, out + first * item);
			first += count;
		}
		ck_assert(memcmp(out, want, total) == 0);
		stfs_npy_to_c(&shape, item, in, 0, shape.elements, out);
		ck_assert(memcmp(out, want, total) == 0);
		free(in);
		free(want);
		free(out);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("npy_read");
	TCase *header = tcase_create("header"), *order = tcase_create("order");

	tcase_set_timeout(header, 60);
	tcase_add_loop_test(header, reads, 0, STFS_CHECK_COUNT(good));
	tcase_add_loop_test(header, keeps_the_declared_type_of_elements_without_one, 0,
			    STFS_CHECK_COUNT(declared_cases));
	tcase_add_loop_test(header, refuses, 0, STFS_CHECK_COUNT(bad));
	tcase_add_test(header, says_how_many_bytes_it_needs);
	tcase_add_test(header, reads_what_is_written);
	tcase_add_test(header, survives_damage);
	tcase_add_test(header, bounds_its_work);
	suite_add_tcase(suite, header);
	tcase_add_test(order, puts_into_c_order);
	tcase_add_test(order, puts_any_part_into_c_order);
	suite_add_tcase(suite, order);
	return stfs_check_main(suite);
}
