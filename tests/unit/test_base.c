/* SPDX-License-Identifier: MIT */
#include "stfs_check.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "base/log.h"
#include "base/siphash.h"
#include "base/utf8.h"

/* --- arith ------------------------------------------------------------------------------- */

START_TEST(arith_overflow)
{
	uint64_t value;

	ck_assert(!stfs_add_overflows(UINT64_MAX - 1, 1, &value));
	ck_assert(value == UINT64_MAX);
	ck_assert(stfs_add_overflows(UINT64_MAX, 1, &value));
	ck_assert(!stfs_mul_overflows(UINT32_MAX, UINT32_MAX, &value));
	ck_assert(value == 0xfffffffe00000001u);
	ck_assert(stfs_mul_overflows((uint64_t)1 << 32, (uint64_t)1 << 32, &value));
	ck_assert(!stfs_mul_overflows(UINT64_MAX, 0, &value));
	ck_assert(value == 0);
}
END_TEST

START_TEST(arith_align)
{
	ck_assert(stfs_align_up(0, 8) == 0);
	ck_assert(stfs_align_up(1, 8) == 8);
	ck_assert(stfs_align_up(8, 8) == 8);
	ck_assert(stfs_align_up(4097, 4096) == 8192);
	ck_assert(stfs_align_up(7, 1) == 7);
	ck_assert(stfs_min_u64(2, 3) == 2 && stfs_min_u64(3, 2) == 2);
	ck_assert(stfs_max_u64(2, 3) == 3 && stfs_max_u64(3, 2) == 3);
}
END_TEST

START_TEST(arith_little_endian)
{
	unsigned char bytes[9] = {0};

	stfs_store_le64(bytes + 1, 0x0102030405060708u);
	ck_assert_mem_eq(bytes, "\0\x08\x07\x06\x05\x04\x03\x02\x01", 9);
	ck_assert(stfs_load_le64(bytes + 1) == 0x0102030405060708u);
}
END_TEST

/* --- str --------------------------------------------------------------------------------- */

START_TEST(str_compares)
{
	struct stfs_str empty = {NULL, 0}, ab = STFS_CHECK_LIT("ab"), nul = STFS_CHECK_LIT("a\0b");

	ck_assert(stfs_str_equal(empty, stfs_str_from("")));
	ck_assert(!stfs_str_equal(empty, ab));
	ck_assert(stfs_str_is(ab, "ab") && !stfs_str_is(ab, "a") && !stfs_str_is(ab, "abc"));
	ck_assert(!stfs_str_is(nul, "a"));
	ck_assert(stfs_str_equal(nul, stfs_str_slice("a\0b", 3)));
	ck_assert(!stfs_str_equal(nul, stfs_str_slice("a\0c", 3)));
	ck_assert(stfs_str_starts_with(ab, "") && stfs_str_starts_with(ab, "ab"));
	ck_assert(!stfs_str_starts_with(ab, "abc") && !stfs_str_starts_with(ab, "b"));
	ck_assert(stfs_str_ends_with(ab, "") && stfs_str_ends_with(ab, "b"));
	ck_assert(!stfs_str_ends_with(ab, "aab") && !stfs_str_ends_with(ab, "a"));
}
END_TEST

START_TEST(str_order)
{
	/* Falling into order: bytes are unsigned, a prefix comes first, NUL counts. */
	static const struct stfs_str sorted[] = {
		{NULL, 0}, {"\0", 1}, {"A", 1}, {"a", 1}, {"a\0", 2}, {"aa", 2}, {"b", 1},
		{"\x7f", 1}, {"\x80", 1}, {"\xff", 1},
	};

	for (size_t i = 0; i < STFS_CHECK_COUNT(sorted); i++)
		for (size_t k = 0; k < STFS_CHECK_COUNT(sorted); k++) {
			int order = stfs_str_compare(sorted[i], sorted[k]);

			ck_assert_int_eq((order > 0) - (order < 0), (i > k) - (i < k));
		}
}
END_TEST

/* --- buf --------------------------------------------------------------------------------- */

START_TEST(buf_grows)
{
	STFS_AUTO_BUF struct stfs_buf buf = STFS_BUF_INIT;
	size_t wrong = 0;

	for (size_t i = 0; i < 100000; i++)
		stfs_buf_putc(&buf, (char)(i * 7));
	ck_assert_int_eq(stfs_buf_status(&buf), 0);
	ck_assert_uint_eq(buf.len, 100000);
	ck_assert_uint_le(buf.cap, 150000);
	for (size_t i = 0; i < buf.len; i++)
		wrong += buf.data[i] != (char)(i * 7);
	ck_assert_uint_eq(wrong, 0);
}
END_TEST

START_TEST(buf_adds)
{
	STFS_AUTO_BUF struct stfs_buf buf = STFS_BUF_INIT;

	ck_assert_int_eq(stfs_buf_add(&buf, NULL, 0), 0);
	ck_assert_ptr_null(buf.data);
	ck_assert_int_eq(stfs_buf_add(&buf, "a\0b", 3), 0);
	ck_assert_int_eq(stfs_buf_add_str(&buf, stfs_str_from("c")), 0);
	ck_assert_int_eq(stfs_buf_puts(&buf, "de"), 0);
	ck_assert_int_eq(stfs_buf_fill(&buf, 'f', 3), 0);
	ck_assert_int_eq(stfs_buf_fill(&buf, 'g', 0), 0);
	ck_assert_int_eq(stfs_buf_printf(&buf, "%d%s", -1, "x"), 0);
	stfs_check_str_eq(stfs_buf_str(&buf), stfs_str_slice("a\0bcdefff-1x", 12), "buffer");
	ck_assert_str_eq(stfs_buf_cstr(&buf) + 2, "bcdefff-1x");
	ck_assert_uint_eq(buf.len, 12);
	stfs_buf_clear(&buf);
	ck_assert_uint_eq(buf.len, 0);
	ck_assert_str_eq(stfs_buf_cstr(&buf), "");
	stfs_buf_free(&buf);
	ck_assert_ptr_null(buf.data);
	ck_assert_int_eq(stfs_buf_puts(&buf, "usable"), 0);
}
END_TEST

/* Text of every length up to beyond the first growth, so that printf's own NUL finds room. */
START_TEST(buf_printf_lengths)
{
	char text[200];

	for (int len = 0; len < 200; len++) {
		STFS_AUTO_BUF struct stfs_buf buf = STFS_BUF_INIT;

		memset(text, 'x', sizeof(text));
		ck_assert_int_eq(stfs_buf_printf(&buf, "%.*s", len, text), 0);
		ck_assert_int_eq(stfs_buf_printf(&buf, "%c", 'y'), 0);
		ck_assert_uint_eq(buf.len, (size_t)len + 1);
		ck_assert_int_eq(buf.data[len], 'y');
	}
}
END_TEST

START_TEST(buf_failure_sticks)
{
	STFS_AUTO_BUF struct stfs_buf buf = STFS_BUF_INIT;

	stfs_buf_putc(&buf, 'a');
	ck_assert_int_eq(stfs_buf_reserve(&buf, SIZE_MAX), -ENOMEM);
	ck_assert_int_eq(stfs_buf_putc(&buf, 'b'), -ENOMEM);
	ck_assert_int_eq(stfs_buf_puts(&buf, "b"), -ENOMEM);
	ck_assert_int_eq(stfs_buf_fill(&buf, 'b', 1), -ENOMEM);
	ck_assert_int_eq(stfs_buf_printf(&buf, "b"), -ENOMEM);
	ck_assert_ptr_null(stfs_buf_cstr(&buf));
	ck_assert_int_eq(stfs_buf_status(&buf), -ENOMEM);
	stfs_check_str_eq(stfs_buf_str(&buf), stfs_str_from("a"), "buffer");
	stfs_buf_clear(&buf);
	ck_assert_int_eq(stfs_buf_putc(&buf, 'b'), 0);
}
END_TEST

/* --- cleanup ----------------------------------------------------------------------------- */

START_TEST(cleanup_steals)
{
	int raw;
	void *taken;

	{
		STFS_AUTO_FD int fd = dup(STDERR_FILENO), kept = dup(STDERR_FILENO);
		STFS_AUTO_FREE char *text = strdup("x");

		raw = fd;
		ck_assert_int_ge(raw, 0);
		ck_assert_int_ge(kept, 0);
		taken = stfs_steal_ptr(&text);
		ck_assert_ptr_null(text);
		ck_assert_int_eq(fcntl(raw, F_GETFD), 0);
		raw = kept;
		kept = stfs_steal_fd(&fd);
		ck_assert_int_eq(fd, -1);
		fd = raw;
	}
	ck_assert_int_eq(fcntl(raw, F_GETFD), -1);
	free(taken);
}
END_TEST

/* --- utf8 -------------------------------------------------------------------------------- */

static const struct {
	uint32_t code;
	const char *bytes;
} utf8_cases[] = {
	{0x01, "\x01"}, {0x7f, "\x7f"}, {0x80, "\xc2\x80"}, {0x7ff, "\xdf\xbf"},
	{0x800, "\xe0\xa0\x80"}, {0xd7ff, "\xed\x9f\xbf"}, {0xe000, "\xee\x80\x80"},
	{0xffff, "\xef\xbf\xbf"}, {0x10000, "\xf0\x90\x80\x80"}, {0x10ffff, "\xf4\x8f\xbf\xbf"},
};

START_TEST(utf8_known)
{
	char out[4];
	size_t len = strlen(utf8_cases[_i].bytes);

	ck_assert_uint_eq(stfs_utf8_put(utf8_cases[_i].code, out), len);
	ck_assert_mem_eq(out, utf8_cases[_i].bytes, len);
	ck_assert_uint_eq(stfs_utf8_width(out, len), len);
}
END_TEST

/* Every character is accepted, alone and cut short is not... */
START_TEST(utf8_every_character)
{
	size_t wrong = 0, counts[5] = {0};

	for (uint32_t code = 0; code <= 0x10ffff; code++) {
		char out[4];
		size_t width;

		if (code >= 0xd800 && code <= 0xdfff)
			continue;
		width = stfs_utf8_put(code, out);
		counts[width]++;
		wrong += stfs_utf8_width(out, width) != width;
		wrong += stfs_utf8_check(out, width) != width;
		wrong += stfs_utf8_width(out, width - 1) != 0;
		wrong += stfs_utf8_check(out, width - 1) != 0;
	}
	ck_assert_uint_eq(wrong, 0);
	ck_assert_uint_eq(counts[1], 0x80);
	ck_assert_uint_eq(counts[2], 0x780);
	ck_assert_uint_eq(counts[3], 0xf000);
	ck_assert_uint_eq(counts[4], 0x100000);
}
END_TEST

/* ... and nothing else is: of all sequences only as many pass as there are characters. */
START_TEST(utf8_nothing_else)
{
	size_t counts[5] = {0};
	char bytes[4];

	for (uint32_t three = 0; three < 1 << 24; three++) {
		unsigned first = three >> 16;

		bytes[0] = (char)first;
		bytes[1] = (char)(three >> 8);
		bytes[2] = (char)three;
		if ((three & 0xffff) == 0)
			counts[1] += stfs_utf8_width(bytes, 1) == 1;
		if ((three & 0xff) == 0)
			counts[2] += stfs_utf8_width(bytes, 2) == 2;
		counts[3] += stfs_utf8_width(bytes, 3) == 3;
		/* The fourth byte: whether it continues, at both edges of the range. */
		if (first < 0xe8)
			continue;
		bytes[3] = '\x7f';
		counts[4] += 1000 * (stfs_utf8_width(bytes, 4) == 4);
		bytes[3] = '\xc0';
		counts[4] += 1000 * (stfs_utf8_width(bytes, 4) == 4);
		bytes[3] = '\x80';
		counts[4] += stfs_utf8_width(bytes, 4) == 4;
		bytes[3] = '\xbf';
		counts[4] += stfs_utf8_width(bytes, 4) == 4;
	}
	ck_assert_uint_eq(counts[1], 0x80);
	ck_assert_uint_eq(counts[2], 0x780);
	ck_assert_uint_eq(counts[3], 0xf000);
	/* Of the 64 last bytes a four-byte character may have, two were tried. */
	ck_assert_uint_eq(counts[4], 2 * (0x100000 / 64));
}
END_TEST

/* The word-wise scan against one character at a time. */
START_TEST(utf8_check_scans)
{
	uint64_t random = stfs_check_seed();
	size_t wrong = 0;

	for (int i = 0; i < 20000; i++) {
		char text[64];
		size_t len = 0, want = 0, width;

		while (len < 40) {
			if (stfs_check_below(&random, 3) == 0)
				len += stfs_utf8_put((uint32_t)stfs_check_below(&random, 0xd800),
						     text + len);
			else
				text[len++] = 'a';
		}
		if (i % 2)
			text[stfs_check_below(&random, len)] = (char)stfs_check_random(&random);
		len -= stfs_check_below(&random, 10);
		while ((width = stfs_utf8_width(text + want, len - want)))
			want += width;
		wrong += stfs_utf8_check(text, len) != want;
	}
	ck_assert_uint_eq(wrong, 0);
	ck_assert_uint_eq(stfs_utf8_check(NULL, 0), 0);
	ck_assert_uint_eq(stfs_utf8_width(NULL, 0), 0);
}
END_TEST

/* --- siphash ----------------------------------------------------------------------------- */

/*
 * Key 00 01 ... 0f, input the first n of 00 01 02 ..., as in the paper's test for SipHash-2-4. From
 * a second implementation that agrees with the paper's vector for 2-4 and, for 1-3, with the
 * bytes hash of CPython 3.11 (PYTHONHASHSEED=0, key zero).
 */
static const uint64_t siphash_vectors[64] = {
	0xabac0158050fc4dc, 0xc9f49bf37d57ca93, 0x82cb9b024dc7d44d, 0x8bf80ab8e7ddf7fb,
	0xcf75576088d38328, 0xdef9d52f49533b67, 0xc50d2b50c59f22a7, 0xd3927d989bb11140,
	0x369095118d299a8e, 0x25a48eb36c063de4, 0x79de85ee92ff097f, 0x70c118c1f94dc352,
	0x78a384b157b4d9a2, 0x306f760c1229ffa7, 0x605aa111c0f95d34, 0xd320d86d2a519956,
	0xcc4fdd1a7d908b66, 0x9cf2689063dbd80c, 0x8ffc389cb473e63e, 0xf21f9de58d297d1c,
	0xc0dc2f46a6cce040, 0xb992abfe2b45f844, 0x7ffe7b9ba320872e, 0x525a0e7fdae6c123,
	0xf464aeb267349c8c, 0x45cd5928705b0979, 0x3a3e35e3ca9913a5, 0xa91dc74e4ade3b35,
	0xfb0bed02ef6cd00d, 0x88d93cb44ab1e1f4, 0x540f11d643c5e663, 0x2370dd1f8c21d1bc,
	0x81157b6c16a7b60d, 0x4d54b9e57a8ff9bf, 0x759f12781f2a753e, 0xcea1a3bebf186b91,
	0x2cf508d3ada26206, 0xb6101c2da3c33057, 0xb3f47496ae3a36a1, 0x626b57547b108392,
	0xc1d2363299e41531, 0x667cc1923f1ad944, 0x65704ffec8138825, 0x24f280d1c28949a6,
	0xc2ca1cedfaf8876b, 0xc2164bfc9f042196, 0xa16e9c9368b1d623, 0x49fb169c8b5114fd,
	0x9f3143f8df074c46, 0xc6fdaf2412cc86b3, 0x7eaf49d10a52098f, 0x1cf313559d292f9a,
	0xc44a30dda2f41f12, 0x36fae98943a71ed0, 0x318fb34c73f0bce6, 0xa27abf3670a7e980,
	0xb4bcc0db243c6d75, 0x23f8d852fdb71513, 0x8f035f4da67d8a08, 0xd89cd0e5b7e8f148,
	0xf6f4e6bcf7a644ee, 0xaec59ad80f1837f2, 0xc3b2f6154b6694e0, 0x9d199062b7bbb3a8,
};

START_TEST(siphash_vector)
{
	const struct stfs_sipkey key = {0x0706050403020100u, 0x0f0e0d0c0b0a0908u};
	char input[64];

	for (int i = 0; i < 64; i++)
		input[i] = (char)i;
	ck_assert(stfs_siphash(&key, stfs_str_slice(input, (size_t)_i)) == siphash_vectors[_i]);
}
END_TEST

START_TEST(siphash_keys)
{
	struct stfs_sipkey a = {0, 0}, b = {0, 0};

	ck_assert_int_eq(stfs_sipkey_random(&a), 0);
	ck_assert_int_eq(stfs_sipkey_random(&b), 0);
	ck_assert(a.k0 != b.k0 && a.k1 != b.k1 && a.k0 != a.k1);
	ck_assert(stfs_siphash(&a, stfs_str_from("x")) != stfs_siphash(&b, stfs_str_from("x")));
}
END_TEST

/* --- err --------------------------------------------------------------------------------- */

static const struct {
	struct stfs_str name;
	const char *quoted;
} quote_cases[] = {
	{{NULL, 0}, ""},
	{STFS_CHECK_LIT("a b.c/~"), "a b.c/~"},
	{STFS_CHECK_LIT("é漢😀"), "é漢😀"},
	{STFS_CHECK_LIT("\0\n\x1f\x7f"), "\\x00\\x0a\\x1f\\x7f"},
	{STFS_CHECK_LIT("\"\\"), "\\x22\\x5c"},
	{STFS_CHECK_LIT("\xff" "a\xc3"), "\\xffa\\xc3"},
	/* Terminal controls (CSI) and text that runs the other way (U+202E, U+2066). */
	{STFS_CHECK_LIT("\xc2\x9b"), "\\xc2\\x9b"},
	{STFS_CHECK_LIT("\xc2\xa0"), "\xc2\xa0"},
	{STFS_CHECK_LIT("\xe2\x80\xae"), "\\xe2\\x80\\xae"},
	{STFS_CHECK_LIT("\xe2\x81\xa6"), "\\xe2\\x81\\xa6"},
	{STFS_CHECK_LIT("\xe2\x82\xac"), "\xe2\x82\xac"},
};

START_TEST(err_quotes)
{
	char out[STFS_QUOTED_MAX];

	ck_assert_ptr_eq(stfs_quote(quote_cases[_i].name, out), out);
	ck_assert_str_eq(out, quote_cases[_i].quoted);
}
END_TEST

START_TEST(err_quotes_long)
{
	char out[STFS_QUOTED_MAX], name[104];

	memset(name, 'a', sizeof(name));
	ck_assert_uint_eq(strlen(stfs_quote(stfs_str_slice(name, 100), out)), 100);
	stfs_quote(stfs_str_slice(name, 101), out);
	ck_assert_uint_eq(strlen(out), 103);
	ck_assert_str_eq(out + 100, "...");
	/* The dearest there is: a hundred escapes, the last character going beyond the limit. */
	memset(name, 0, sizeof(name));
	ck_assert_uint_eq(strlen(stfs_quote(stfs_str_slice(name, 104), out)), 403);
	memcpy(name + 99, "😀x", 5);
	stfs_quote(stfs_str_slice(name, 104), out);
	ck_assert_str_eq(out + 4 * 99, "😀...");
}
END_TEST

START_TEST(err_fills)
{
	struct stfs_err err = STFS_ERR_INIT;

	ck_assert_int_eq(err.code, 0);
	ck_assert(err.position == STFS_NO_POSITION);
	ck_assert_int_eq(stfs_err_set(&err, -EINVAL, 42, "%s is %d", "x", 7), -EINVAL);
	ck_assert_int_eq(err.code, -EINVAL);
	ck_assert(err.position == 42);
	ck_assert_str_eq(err.message, "x is 7");
	ck_assert_int_eq(stfs_err_errno(&err, -ENOENT, "open %s", "y"), -ENOENT);
	ck_assert_int_eq(err.code, -ENOENT);
	ck_assert(err.position == STFS_NO_POSITION);
	ck_assert_str_eq(err.message, "open y: No such file or directory");
	ck_assert_int_eq(stfs_err_set(NULL, -EIO, 1, "x"), -EIO);
	ck_assert_int_eq(stfs_err_errno(NULL, -EIO, "x"), -EIO);
}
END_TEST

START_TEST(err_cuts)
{
	struct stfs_err err = STFS_ERR_INIT;

	stfs_err_errno(&err, -ENOENT, "%2000d", 1);
	ck_assert_uint_eq(strlen(err.message), sizeof(err.message) - 1);
}
END_TEST

/* --- io ---------------------------------------------------------------------------------- */

static struct {
	size_t most;     /* bytes a call gives */
	int fail_from;   /* the call that fails, counted from 0, or -1 */
	int fail_errno;
	int calls;
} io_plan;

static ssize_t planned_pread(int fd, void *buffer, size_t len, off_t offset)
{
	if (io_plan.calls++ == io_plan.fail_from) {
		errno = io_plan.fail_errno;
		return -1;
	}
	return pread(fd, buffer, len < io_plan.most ? len : io_plan.most, offset);
}

static const struct stfs_io planned_io = {.pread = planned_pread, .mmap = mmap, .munmap = munmap};

static const struct {
	size_t most;
	int fail_from, fail_errno;
	size_t len;
	uint64_t offset;
	ssize_t got;
	const char *text;
} io_cases[] = {
	{100, -1, 0, 4, 0, 4, "0123"},
	{100, -1, 0, 4, 3, 4, "3456"},
	{1, -1, 0, 10, 0, 10, "0123456789"},
	{3, -1, 0, 20, 5, 5, "56789"},
	{100, -1, 0, 4, 10, 0, ""},
	{100, -1, 0, 0, 0, 0, ""},
	{3, 1, EINTR, 10, 0, 10, "0123456789"},
	{3, 0, EIO, 10, 0, -EIO, ""},
	{3, 2, EIO, 10, 0, -EIO, ""},
	{100, -1, 0, 4, INT64_MAX - 3, -EOVERFLOW, ""},
	{100, -1, 0, SIZE_MAX, 0, -EOVERFLOW, ""},
};

START_TEST(io_reads_in_full)
{
	STFS_AUTO_FD int fd = memfd_create("io", 0);
	char buffer[32];
	ssize_t got;

	ck_assert_int_eq(write(fd, "0123456789", 10), 10);
	io_plan.most = io_cases[_i].most;
	io_plan.fail_from = io_cases[_i].fail_from;
	io_plan.fail_errno = io_cases[_i].fail_errno;
	io_plan.calls = 0;
	stfs_io = &planned_io;
	got = stfs_io_pread_full(fd, buffer, io_cases[_i].len, io_cases[_i].offset);
	stfs_io = &stfs_io_system;
	ck_assert_int_eq(got, io_cases[_i].got);
	if (got > 0)
		ck_assert_mem_eq(buffer, io_cases[_i].text, (size_t)got);
}
END_TEST

/* --- log --------------------------------------------------------------------------------- */

static void keep_line(enum stfs_log_level level, const char *line, void *data)
{
	snprintf(data, 64, "%d %.50s", (int)level, line);
}

START_TEST(log_filters)
{
	char kept[64] = "";

	stfs_log(STFS_LOG_ERROR, "nobody listens");
	stfs_log_set(keep_line, STFS_LOG_WARNING, kept);
	stfs_log(STFS_LOG_INFO, "too much");
	ck_assert_str_eq(kept, "");
	stfs_log(STFS_LOG_WARNING, "%s %d", "level", 1);
	ck_assert_str_eq(kept, "1 level 1");
	stfs_log(STFS_LOG_ERROR, "%5000d", 1);
	ck_assert_uint_eq(strlen(kept), 52);
	stfs_log_set(NULL, STFS_LOG_DEBUG, NULL);
	stfs_log(STFS_LOG_ERROR, "nobody listens");
}
END_TEST

static void add_memory_tests(Suite *suite)
{
	TCase *arith = tcase_create("arith"), *str = tcase_create("str");
	TCase *buf = tcase_create("buf");

	tcase_add_test(arith, arith_overflow);
	tcase_add_test(arith, arith_align);
	tcase_add_test(arith, arith_little_endian);
	suite_add_tcase(suite, arith);
	tcase_add_test(str, str_compares);
	tcase_add_test(str, str_order);
	suite_add_tcase(suite, str);
	tcase_add_test(buf, buf_grows);
	tcase_add_test(buf, buf_adds);
	tcase_add_test(buf, buf_printf_lengths);
	tcase_add_test(buf, buf_failure_sticks);
	tcase_add_test(buf, cleanup_steals);
	suite_add_tcase(suite, buf);
}

static void add_text_tests(Suite *suite)
{
	TCase *utf8 = tcase_create("utf8"), *siphash = tcase_create("siphash");

	tcase_set_timeout(utf8, 60);
	tcase_add_loop_test(utf8, utf8_known, 0, STFS_CHECK_COUNT(utf8_cases));
	tcase_add_test(utf8, utf8_every_character);
	tcase_add_test(utf8, utf8_nothing_else);
	tcase_add_test(utf8, utf8_check_scans);
	suite_add_tcase(suite, utf8);
	tcase_add_loop_test(siphash, siphash_vector, 0, 64);
	tcase_add_test(siphash, siphash_keys);
	suite_add_tcase(suite, siphash);
}

static void add_system_tests(Suite *suite)
{
	TCase *err = tcase_create("err"), *io = tcase_create("io"), *log = tcase_create("log");

	tcase_add_loop_test(err, err_quotes, 0, STFS_CHECK_COUNT(quote_cases));
	tcase_add_test(err, err_quotes_long);
	tcase_add_test(err, err_fills);
	tcase_add_test(err, err_cuts);
	suite_add_tcase(suite, err);
	tcase_add_loop_test(io, io_reads_in_full, 0, STFS_CHECK_COUNT(io_cases));
	suite_add_tcase(suite, io);
	tcase_add_test(log, log_filters);
	suite_add_tcase(suite, log);
}

int main(void)
{
	Suite *suite = suite_create("base");

	add_memory_tests(suite);
	add_text_tests(suite);
	add_system_tests(suite);
	return stfs_check_main(suite);
}
