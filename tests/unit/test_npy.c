/* SPDX-License-Identifier: MIT */
/*
 * The expected headers are those of numpy.lib.format (2.4): text up to the closing brace, and the
 * length of the whole. What stands between is spaces.
 */
#include "stfs_check.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "format/npy.h"

#define MOST UINT64_MAX
#define MOST_TEXT "18446744073709551615"
#define DICT(descr, shape) "{'descr': '" descr "', 'fortran_order': False, 'shape': " shape ", }"

static const struct {
	enum stfs_dtype dtype;
	uint64_t dims[15];
	size_t rank;
	const char *dict;
	size_t total;
} header_cases[] = {
	{STFS_F32, {0}, 0, DICT("<f4", "()"), 128},
	{STFS_F32, {0}, 1, DICT("<f4", "(0,)"), 128},
	{STFS_F32, {3}, 1, DICT("<f4", "(3,)"), 128},
	{STFS_F32, {2, 3}, 2, DICT("<f4", "(2, 3)"), 128},
	{STFS_F32, {10, 0, 99}, 3, DICT("<f4", "(10, 0, 99)"), 128},
	{STFS_F32, {MOST}, 1, DICT("<f4", "(" MOST_TEXT ",)"), 128},
	{STFS_F32, {MOST, MOST}, 2, DICT("<f4", "(" MOST_TEXT ", " MOST_TEXT ")"), 128},
	/* Without padding this would end on the boundary already: NumPy adds 64 bytes. */
	{STFS_F32, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 100}, 14,
	 DICT("<f4", "(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 100)"), 192},
	{STFS_F32, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 10}, 14,
	 DICT("<f4", "(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 10)"), 128},
	/* Every type. */
	{STFS_BOOL, {7}, 1, DICT("|b1", "(7,)"), 128},
	{STFS_U8, {7}, 1, DICT("|u1", "(7,)"), 128},
	{STFS_I8, {7}, 1, DICT("|i1", "(7,)"), 128},
	{STFS_F8_E5M2, {7}, 1, DICT("|V1", "(7,)"), 128},
	{STFS_F8_E4M3, {7}, 1, DICT("|V1", "(7,)"), 128},
	{STFS_F8_E8M0, {7}, 1, DICT("|V1", "(7,)"), 128},
	{STFS_F8_E4M3FNUZ, {7}, 1, DICT("|V1", "(7,)"), 128},
	{STFS_F8_E5M2FNUZ, {7}, 1, DICT("|V1", "(7,)"), 128},
	{STFS_I16, {7}, 1, DICT("<i2", "(7,)"), 128},
	{STFS_U16, {7}, 1, DICT("<u2", "(7,)"), 128},
	{STFS_F16, {7}, 1, DICT("<f2", "(7,)"), 128},
	{STFS_BF16, {7}, 1, DICT("<V2", "(7,)"), 128},
	{STFS_I32, {7}, 1, DICT("<i4", "(7,)"), 128},
	{STFS_U32, {7}, 1, DICT("<u4", "(7,)"), 128},
	{STFS_C64, {7}, 1, DICT("<c8", "(7,)"), 128},
	{STFS_F64, {7}, 1, DICT("<f8", "(7,)"), 128},
	{STFS_I64, {7}, 1, DICT("<i8", "(7,)"), 128},
	{STFS_U64, {7}, 1, DICT("<u8", "(7,)"), 128},
};

/* Magic, version, little-endian length, `dict`, spaces, newline: `total` bytes at `got`. */
static void assert_header(struct stfs_str got, unsigned version, const char *dict, size_t total)
{
	size_t prefix = version == 1 ? 10 : 12, text = strlen(dict), len = total - prefix, i;
	const unsigned char *p = (const unsigned char *)got.ptr;

	ck_assert_uint_eq(got.len, total);
	ck_assert_uint_eq(total % 64, 0);
	ck_assert_mem_eq(p, "\x93NUMPY", 6);
	ck_assert_uint_eq(p[6], version);
	ck_assert_uint_eq(p[7], 0);
	ck_assert_uint_eq(p[8] | (unsigned)p[9] << 8, len & 0xffff);
	if (version == 2)
		ck_assert_uint_eq(p[10] | (unsigned)p[11] << 8, len >> 16);
	stfs_check_str_eq(stfs_str_slice(got.ptr + prefix, text), stfs_str_from(dict), "dict");
	i = prefix + text;
	while (i < total - 1 && p[i] == ' ')
		i++;
	ck_assert_uint_eq(i, total - 1);
	ck_assert_uint_eq(p[i], '\n');
}

START_TEST(header_table)
{
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;

	ck_assert_int_eq(stfs_npy_header(header_cases[_i].dtype, header_cases[_i].dims,
					 header_cases[_i].rank, &out), 0);
	assert_header(stfs_buf_str(&out), 1, header_cases[_i].dict, header_cases[_i].total);
}
END_TEST

START_TEST(no_numpy_form)
{
	static const enum stfs_dtype dtypes[] = {STFS_F4, STFS_F6_E2M3, STFS_F6_E3M2};
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
	uint64_t dim = 8;

	ck_assert_int_eq(stfs_npy_header(dtypes[_i], &dim, 1, &out), -ENOENT);
	ck_assert_uint_eq(out.len, 0);
}
END_TEST

START_TEST(appends)
{
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
	uint64_t dim = 3;

	stfs_buf_puts(&out, "kept");
	ck_assert_int_eq(stfs_npy_header(STFS_F32, &dim, 1, &out), 0);
	ck_assert_mem_eq(out.data, "kept", 4);
	assert_header(stfs_str_slice(out.data + 4, out.len - 4), 1, DICT("<f4", "(3,)"), 128);
}
END_TEST

/* A first dimension of any size gives a header of the same size: it can be rewritten in place. */
START_TEST(first_dimension_grows)
{
	uint64_t dims[2] = {1, 5};

	for (int digits = 1; digits <= 19; digits++, dims[0] *= 10) {
		STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
		char dict[128];

		snprintf(dict, sizeof(dict), DICT("<f4", "(%" PRIu64 ", 5)"), dims[0]);
		ck_assert_int_eq(stfs_npy_header(STFS_F32, dims, 2, &out), 0);
		assert_header(stfs_buf_str(&out), 1, dict, 128);
	}
}
END_TEST

/* NumPy writes version 2.0 from 21,818 one-digit dimensions on. */
START_TEST(version_2)
{
	const size_t rank = 21817 + (size_t)_i;
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT, dict = STFS_BUF_INIT;
	uint64_t *dims = calloc(rank, sizeof(*dims));

	ck_assert_ptr_nonnull(dims);
	stfs_buf_puts(&dict, "{'descr': '<f4', 'fortran_order': False, 'shape': (");
	for (size_t i = 0; i < rank; i++) {
		dims[i] = i % 10;
		stfs_buf_printf(&dict, "%s%zu", i ? ", " : "", i % 10);
	}
	stfs_buf_puts(&dict, "), }");
	ck_assert_ptr_nonnull(stfs_buf_cstr(&dict));
	ck_assert_int_eq(stfs_npy_header(STFS_F32, dims, rank, &out), 0);
	if (_i == 0)
		assert_header(stfs_buf_str(&out), 1, dict.data, 65536);
	else
		assert_header(stfs_buf_str(&out), 2, dict.data, 65600);
	free(dims);
}
END_TEST

START_TEST(too_many_dimensions)
{
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
	uint64_t dim = 1;

	/* So many that none is looked at. */
	ck_assert_int_eq(stfs_npy_header(STFS_F32, &dim, UINT32_MAX / 3 + 1, &out), -EOVERFLOW);
	ck_assert_int_eq(stfs_npy_header(STFS_F32, &dim, SIZE_MAX, &out), -EOVERFLOW);
	ck_assert_uint_eq(out.len, 0);
}
END_TEST

/* 2^32 bytes of text from 1.5 GB of dimensions, which are one block of memory mapped many times. */
START_TEST(text_too_long)
{
	const size_t block = 4 << 20, rank = UINT32_MAX / 22 + 1;
	const size_t blocks = rank * sizeof(uint64_t) / block + 1;
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
	char *dims = mmap(NULL, blocks * block, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = memfd_create("dims", 0);

	ck_assert_ptr_ne(dims, MAP_FAILED);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ftruncate(fd, (off_t)block), 0);
	for (size_t i = 0; i < blocks; i++) {
		void *at = mmap(dims + i * block, block, PROT_READ | PROT_WRITE,
				MAP_SHARED | MAP_FIXED, fd, 0);

		if (at == MAP_FAILED)
			ck_abort_msg("cannot map block %zu", i);
	}
	memset(dims, 0xff, block);
	ck_assert_int_eq(stfs_npy_header(STFS_F32, (uint64_t *)(void *)dims, rank, &out),
			 -EOVERFLOW);
	ck_assert_uint_eq(out.len, 0);
	close(fd);
	munmap(dims, blocks * block);
}
END_TEST

static Suite *npy_suite(void)
{
	Suite *suite = suite_create("npy");
	TCase *header = tcase_create("header"), *huge = tcase_create("huge");

	tcase_add_loop_test(header, header_table, 0, STFS_CHECK_COUNT(header_cases));
	tcase_add_loop_test(header, no_numpy_form, 0, 3);
	tcase_add_test(header, appends);
	tcase_add_test(header, first_dimension_grows);
	tcase_add_loop_test(header, version_2, 0, 2);
	tcase_add_test(header, too_many_dimensions);
	suite_add_tcase(suite, header);
	tcase_set_timeout(huge, 120);
	tcase_add_test(huge, text_too_long);
	suite_add_tcase(suite, huge);
	return suite;
}

int main(void)
{
	return stfs_check_main(npy_suite());
}
