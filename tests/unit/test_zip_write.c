/* SPDX-License-Identifier: MIT */
/* Archives as torch lays them out: invariants W1 and W2 of codec/zip_write.h. */
#include "checkpoint_tools.h"

#include "base/cleanup.h"
#include "codec/zip.h"
#include "codec/zip_write.h"

static struct stfs_zip_write made;
static struct stfs_buf part;
static struct stfs_zip zip;
static struct stfs_err err;
static uint64_t at;
static int fd = -1;

static void setup(void)
{
	made = (struct stfs_zip_write){0};
	at = 0;
	fd = memfd_create("archive", MFD_CLOEXEC);
	ck_assert_int_ge(fd, 0);
}

static void teardown(void)
{
	stfs_zip_free(&zip);
	stfs_zip_write_free(&made);
	stfs_buf_free(&part);
	close(fd);
}

static void write_part(void)
{
	ck_assert_int_eq(stfs_buf_status(&part), 0);
	ck_assert_int_eq(stfs_io_write(fd, part.data, part.len, at), 0);
	at += part.len;
	stfs_buf_clear(&part);
}

/* An entry of `size` bytes: those of `content`, then a hole. Where its content begins. */
static uint64_t add(const char *name, struct stfs_str content, uint64_t size)
{
	uint32_t crc = (uint32_t)crc32_z(0, (const unsigned char *)content.ptr, content.len);
	uint64_t begin;

	stfs_zip_write_begin(&made, stfs_str_from("top"), stfs_str_from(name), size, &part);
	write_part();
	begin = at;
	if (content.len)
		ck_assert_int_eq(stfs_io_write(fd, content.ptr, content.len, at), 0);
	at += size;
	ck_assert_uint_eq(made.at, at);
	stfs_zip_write_end(&made, crc, &part);
	write_part();
	ck_assert_uint_eq(made.at, at);
	return begin;
}

static void finish(void)
{
	stfs_zip_write_finish(&made, &part);
	write_part();
	ck_assert_uint_eq(made.at, at);
	ck_assert_int_eq(stfs_zip_open(fd, at, &zip, &err), 0);
}

static const struct stfs_zip_entry *entry_of(const char *name)
{
	uint32_t entry = stfs_zip_find(&zip, stfs_str_from(name));

	ck_assert_msg(entry != STFS_NO_NUMBER, "no entry %s", name);
	return &zip.entries[entry];
}

START_TEST(is_read_back)
{
	STFS_AUTO_FREE char *bytes = NULL;

	add("data.pkl", stfs_str_from("content"), 7);
	add("data/0", stfs_str_from(""), 0);
	add("\xc3\xa9", stfs_str_from("x"), 1);
	finish();
	ck_assert_uint_eq(zip.count, 3);
	ck_assert_int_eq(stfs_zip_read(&zip, stfs_zip_find(&zip, stfs_str_from("top/data.pkl")), 7, &bytes, &err), 0);
	ck_assert_mem_eq(bytes, "content", 7);
	ck_assert_uint_eq(entry_of("top/data/0")->size, 0);
	ck_assert_uint_eq(entry_of("top/\xc3\xa9")->crc, crc32_z(0, (const unsigned char *)"x", 1));
}
END_TEST

START_TEST(nothing_in_it)
{
	finish();
	ck_assert_uint_eq(zip.count, 0);
	ck_assert_uint_eq(at, 56 + 20 + 22);
}
END_TEST

/* W1, for every length that a name's rest can have. */
START_TEST(aligns_the_content)
{
	char name[200] = "", text[100];

	memset(text, 'x', sizeof(text));
	for (size_t i = 0; i < 150; i++) {
		name[i] = (char)('a' + i % 26);
		ck_assert_uint_eq(add(name, stfs_str_slice(text, i % 100), i % 100) % STFS_ZIP_WRITE_ALIGN, 0);
	}
	finish();
	ck_assert_uint_eq(zip.count, 150);
	for (uint32_t i = 0; i < zip.count; i++)
		ck_assert_uint_eq(zip.entries[i].size, i % 100);
}
END_TEST

/* One that is larger, and some that begin behind it, as torch 2.13 wrote them. */
START_TEST(passes_32_bits)
{
	static const char first[] = "PK\3\4\0\0\10\10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\12\0";
	uint64_t large = (UINT64_C(1) << 32) + 5, begin, behind;
	char head[30];

	add("data/0", stfs_str_from("ten bytes "), 10);
	begin = add("data/1", stfs_str_from("large"), large);
	behind = at;
	ck_assert_uint_eq(begin % 64, 0);
	ck_assert_uint_eq(behind - begin - large, 24); /* 64 bits in its descriptor, too */
	ck_assert_uint_eq(add("data/2", stfs_str_from("small"), 5) % 64, 0);
	ck_assert_uint_eq(add("data/3", stfs_str_from(""), 0) % 64, 0);
	ck_assert_uint_eq(add("data/4", stfs_str_from("last"), 4 * large) % 64, 0);
	finish();
	ck_assert_int_eq(stfs_io_read_exactly(fd, head, sizeof(head), behind), 0);
	ck_assert_mem_eq(head, first, 28);
	ck_assert_uint_eq(entry_of("top/data/1")->size, large);
	ck_assert_uint_eq(entry_of("top/data/1")->offset, begin);
	ck_assert_uint_eq(entry_of("top/data/2")->header, behind);
	ck_assert_uint_eq(entry_of("top/data/2")->size, 5);
	ck_assert_uint_eq(entry_of("top/data/3")->size, 0);
	ck_assert_uint_eq(entry_of("top/data/4")->size, 4 * large);
	ck_assert_uint_eq(zip.directory_at + zip.directory_len, at - 98);
}
END_TEST

/* Just below, at, and above what 32 bits hold, as a size and as a place. */
START_TEST(at_the_border)
{
	uint64_t border = UINT32_MAX - 1 + (uint64_t)_i;

	add("data/0", stfs_str_from(""), border);
	finish();
	ck_assert_uint_eq(entry_of("top/data/0")->size, border);
}
END_TEST

START_TEST(begins_at_the_border)
{
	/* The header of the second begins at this byte: 64 stand before the first, 16 or 24 behind it. */
	uint64_t border = UINT32_MAX - 1 + (uint64_t)_i;

	add("data/0", stfs_str_from(""), border - 64 - 16);
	ck_assert_uint_eq(at, border);
	add("data/1", stfs_str_from("text"), 4);
	finish();
	ck_assert_uint_eq(entry_of("top/data/1")->header, border);
	ck_assert_uint_eq(entry_of("top/data/1")->size, 4);
}
END_TEST

START_TEST(more_than_16_bits_of_entries)
{
	char name[24];

	for (int i = 0; i < 70000; i++) {
		snprintf(name, sizeof(name), "data/%d", i);
		stfs_zip_write_begin(&made, stfs_str_from("top"), stfs_str_from(name), 0, &part);
		stfs_zip_write_end(&made, 0, &part);
	}
	write_part();
	finish();
	ck_assert_uint_eq(zip.count, 70000);
}
END_TEST

static Suite *make_suite(void)
{
	Suite *suite = suite_create("zip_write");
	TCase *tests = tcase_create("archives");

	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_test(tests, is_read_back);
	tcase_add_test(tests, nothing_in_it);
	tcase_add_test(tests, aligns_the_content);
	tcase_add_test(tests, passes_32_bits);
	tcase_add_loop_test(tests, at_the_border, 0, 3);
	tcase_add_loop_test(tests, begins_at_the_border, 0, 3);
	tcase_add_test(tests, more_than_16_bits_of_entries);
	suite_add_tcase(suite, tests);
	return suite;
}

int main(void)
{
	return stfs_check_main(make_suite());
}
