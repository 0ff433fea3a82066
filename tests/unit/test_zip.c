/* SPDX-License-Identifier: MIT */
/* Zip archives: invariants Z1 to Z3 of codec/zip.h, each broken by one byte or field of a sound one. */
#include "checkpoint_tools.h"

#include <errno.h>

#include "base/cleanup.h"
#include "codec/crc.h"
#include "codec/zip.h"

static struct test_zip made;
static struct stfs_zip zip;
static struct stfs_err err;
static int fd = -1;
static char text[20000];

static void setup(void)
{
	made = (struct test_zip){0};
	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (char)('a' + i / 1000);
	zip_add(&made, "a/one", stfs_str_from("first"), false);
	zip_add(&made, "a/two", stfs_str_slice(text, sizeof(text)), true);
	zip_add(&made, "a/three", stfs_str_from(""), false);
}

static void teardown(void)
{
	stfs_zip_free(&zip);
	zip_free(&made);
	if (fd >= 0)
		close(fd);
	fd = -1;
}

static int open_made(void)
{
	err = (struct stfs_err)STFS_ERR_INIT;
	fd = file_of(stfs_buf_str(&made.bytes));
	return stfs_zip_open(fd, made.bytes.len, &zip, &err);
}

START_TEST(sound)
{
	STFS_AUTO_FREE char *one = NULL, *two = NULL;
	uint32_t entry;

	zip_end(&made);
	ck_assert_int_eq(open_made(), 0);
	ck_assert_uint_eq(zip.count, 3);
	entry = stfs_zip_find(&zip, stfs_str_from("a/one"));
	ck_assert_uint_eq(zip.entries[entry].offset, 35);
	ck_assert_int_eq(stfs_zip_read(&zip, entry, 5, &one, &err), 0);
	ck_assert_mem_eq(one, "first", 5);
	ck_assert_int_eq(stfs_zip_read(&zip, entry, 4, &one, &err), -EFBIG);
	entry = stfs_zip_find(&zip, stfs_str_from("a/two"));
	ck_assert(zip.entries[entry].deflated);
	ck_assert_int_eq(stfs_zip_read(&zip, entry, sizeof(text), &two, &err), 0);
	ck_assert_mem_eq(two, text, sizeof(text));
	ck_assert_uint_eq(stfs_zip_find(&zip, stfs_str_from("a/four")), STFS_NO_NUMBER);
}
END_TEST

START_TEST(junk_behind)
{
	zip_end(&made);
	stfs_buf_fill(&made.bytes, 'j', 4000);
	ck_assert_int_eq(open_made(), 0);
	teardown();
	setup();
	zip_end(&made);
	stfs_buf_fill(&made.bytes, 'j', 5000);
	ck_assert_int_eq(open_made(), -EBADMSG);
}
END_TEST

START_TEST(names_twice)
{
	zip_add(&made, "a/one", stfs_str_from("other"), false);
	zip_end(&made);
	ck_assert_int_eq(open_made(), -EBADMSG);
	ck_assert_ptr_nonnull(strstr(err.message, "same name"));
}
END_TEST

/* torch finds either for either. */
START_TEST(names_twice_in_other_case)
{
	zip_add(&made, "A/oNe", stfs_str_from("other"), false);
	zip_end(&made);
	ck_assert_int_eq(open_made(), -EBADMSG);
	ck_assert_ptr_nonnull(strstr(err.message, "but for its case"));
}
END_TEST

/* A 16- or 32-bit field, counted from the directory (of entry 0) or from the file's begin. */
static const struct {
	bool in_directory;
	size_t at;
	unsigned bytes;
	uint32_t value;
	const char *says;
} broken_cases[] = {
	{true, 8, 2, 1, "encrypted"},
	{true, 10, 2, 12, "neither stored nor deflated"},
	{true, 20, 4, 4, "two sizes"},
	{true, 24, 4, 6, "two sizes"},
	{true, 0, 1, 'X', "no entry of the directory"},
	{true, 28, 2, 0xffff, "passes the end of the directory"},
	{true, 42, 4, 1, "no local header"},
	{true, 42, 4, 0x7fffffff, "does not lie before"},
	{true, 16, 4, 1, "contradicts"},
	{true, 46, 1, 'b', "another name"},
	{false, 6, 2, 1, "contradicts"},
	{false, 8, 2, 8, "contradicts"},
	{false, 28, 2, 0xffff, "reaches into the directory"},
	{false, 30, 1, 'b', "another name"},
};

START_TEST(broken)
{
	size_t from = broken_cases[_i].in_directory ? made.bytes.len : 0;

	zip_end(&made);
	for (unsigned i = 0; i < broken_cases[_i].bytes; i++)
		made.bytes.data[from + broken_cases[_i].at + i] = (char)(broken_cases[_i].value >> 8 * i);
	ck_assert_int_eq(open_made(), -EBADMSG);
	ck_assert_msg(strstr(err.message, broken_cases[_i].says) != NULL, "%s", err.message);
}
END_TEST

/* The same, from the end record. */
static const struct {
	size_t at;
	uint32_t value;
	const char *says;
} end_cases[] = {
	{4, 1, "several disks"}, {8, 4, "several disks"}, {10, 9, "several disks"},
	{12, 0x7fffffff, "does not lie before"}, {12, 10, "more entries"}, {16, 0x7fffffff, "does not lie before"},
};

START_TEST(broken_end)
{
	size_t end;

	zip_end(&made);
	end = made.bytes.len - 22;
	for (unsigned i = 0; i < (end_cases[_i].at < 12 ? 2 : 4); i++)
		made.bytes.data[end + end_cases[_i].at + i] = (char)(end_cases[_i].value >> 8 * i);
	ck_assert_int_eq(open_made(), -EBADMSG);
	ck_assert_msg(strstr(err.message, end_cases[_i].says) != NULL, "%s", err.message);
}
END_TEST

/* Two names for the same bytes: the second entry's local header lies within the first one's data. */
START_TEST(overlap)
{
	STFS_AUTO_BUF struct stfs_buf inner = STFS_BUF_INIT;

	OPS(&inner, "PK\3\4\x14\0");
	zip_header(&inner, stfs_str_from("a/in"), 0, 0, 0, 0);
	stfs_buf_puts(&inner, "a/in");
	teardown();
	made = (struct test_zip){0};
	zip_add(&made, "a/out", stfs_buf_str(&inner), false);
	OPS(&made.directory, "PK\1\2\x14\0\x14\0");
	zip_header(&made.directory, stfs_str_from("a/in"), 0, 0, 0, 0);
	put_le(&made.directory, 0, 10);
	put_le(&made.directory, 35, 4);
	stfs_buf_puts(&made.directory, "a/in");
	made.count = 2;
	zip_end(&made);
	ck_assert_int_eq(open_made(), -EBADMSG);
	ck_assert_ptr_nonnull(strstr(err.message, "overlap"));
}
END_TEST

/* What claims to inflate to more than deflate can do is refused before any memory is taken. */
START_TEST(bomb)
{
	size_t at = made.bytes.len;

	zip_end(&made);
	at += 46 + 5; /* the second entry */
	memset(made.bytes.data + at + 24, 0xf0, 4);
	ck_assert_int_eq(open_made(), -EBADMSG);
	ck_assert_ptr_nonnull(strstr(err.message, "more than deflate can do"));
}
END_TEST

START_TEST(damaged_bytes)
{
	STFS_AUTO_FREE char *bytes = NULL;

	zip_end(&made);
	made.bytes.data[36] ^= 1;
	ck_assert_int_eq(open_made(), 0);
	ck_assert_int_eq(stfs_zip_read(&zip, 0, 100, &bytes, &err), -EBADMSG);
	ck_assert_ptr_nonnull(strstr(err.message, "CRC"));
}
END_TEST

START_TEST(cut_off)
{
	size_t whole;

	zip_end(&made);
	whole = made.bytes.len;
	fd = file_of(stfs_buf_str(&made.bytes));
	for (size_t len = 0; len < whole; len++)
		ck_assert_int_eq(stfs_zip_open(fd, len, &zip, &err), -EBADMSG);
}
END_TEST

/* Every byte of the archive in turn as something else: no crash, and what is read has its CRC. */
START_TEST(mutated)
{
	uint64_t seed = stfs_check_seed();

	zip_end(&made);
	for (size_t i = 0; i < made.bytes.len; i++) {
		char old = made.bytes.data[i];

		if (i > 200 && i + 400 < made.bytes.len)
			continue;
		made.bytes.data[i] = (char)stfs_check_random(&seed);
		if (open_made() == 0)
			for (uint32_t entry = 0; entry < zip.count; entry++) {
				STFS_AUTO_FREE char *bytes = NULL;

				stfs_zip_read(&zip, entry, 1 << 20, &bytes, &err);
			}
		stfs_zip_free(&zip);
		close(fd);
		made.bytes.data[i] = old;
	}
	fd = -1;
}
END_TEST

/* By folding, where the processor can, and by zlib. */
START_TEST(crcs_are_those_of_zlib)
{
	unsigned char bytes[1500];
	uint64_t state = stfs_check_seed();

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (unsigned char)stfs_check_below(&state, 256);
	for (int round = 0; round < 20000; round++) {
		size_t at = stfs_check_below(&state, 300);
		size_t len = stfs_check_below(&state, round % 4 ? 200 : sizeof(bytes) - 300);
		uint32_t before = (uint32_t)stfs_check_below(&state, UINT32_MAX);

		ck_assert_uint_eq(stfs_crc32(before, bytes + at, len), crc32_z(before, bytes + at, len));
	}
	ck_assert_uint_eq(stfs_crc32(0, "123456789", 9), 0xcbf43926);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("zip");
	TCase *all = tcase_create("archive");

	tcase_add_checked_fixture(all, setup, teardown);
	tcase_add_test(all, sound);
	tcase_add_test(all, junk_behind);
	tcase_add_test(all, names_twice);
	tcase_add_test(all, names_twice_in_other_case);
	tcase_add_loop_test(all, broken, 0, STFS_CHECK_COUNT(broken_cases));
	tcase_add_loop_test(all, broken_end, 0, STFS_CHECK_COUNT(end_cases));
	tcase_add_test(all, overlap);
	tcase_add_test(all, bomb);
	tcase_add_test(all, damaged_bytes);
	tcase_add_test(all, cut_off);
	tcase_add_test(all, mutated);
	tcase_add_test(all, crcs_are_those_of_zlib);
	suite_add_tcase(suite, all);
	return stfs_check_main(suite);
}
