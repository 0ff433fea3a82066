/* SPDX-License-Identifier: MIT */
/* Globals in what nobody here reads to its end, or takes for something else: traced, searched, and none made up. */
#include "checkpoint_tools.h"

#include "codec/denied.h"
#include "codec/globals.h"
#include "codec/suspects.h"
#include "codec/torch.h"

static struct stfs_suspects suspects;
static struct stfs_buf bytes;
static struct test_zip zip;
static int fd = -1;

static void setup(void)
{
	suspects = (struct stfs_suspects){0};
	bytes = (struct stfs_buf)STFS_BUF_INIT;
	zip = (struct test_zip){STFS_BUF_INIT, STFS_BUF_INIT, 0};
}

static void teardown(void)
{
	stfs_suspects_free(&suspects);
	stfs_buf_free(&bytes);
	zip_free(&zip);
	if (fd >= 0)
		close(fd);
	fd = -1;
}

static void search(struct stfs_str all, unsigned flags)
{
	stfs_suspects_free(&suspects);
	if (fd >= 0)
		close(fd);
	fd = file_of(all);
	ck_assert_int_eq(stfs_suspects_find(fd, all.len, flags, NULL, NULL, &suspects), 0);
}

/* "module.name module.name", in the order in which they were found. */
static const char *found(void)
{
	static char text[1024];

	text[0] = '\0';
	for (uint32_t i = 0; i < suspects.count; i++)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%.*s.%.*s", i ? " " : "",
			 (int)suspects.items[i].module.len, suspects.items[i].module.ptr,
			 (int)suspects.items[i].name.len, suspects.items[i].name.ptr);
	return text;
}

#define EVIL "cevil\nrun\n)R0"

/* What is traced alone: evil.run is on no list. */
static const struct {
	struct stfs_str bytes;
	const char *found;
	uint64_t at;
} trace_cases[] = {
	{STFS_CHECK_LIT("\x80\2" EVIL "N."), "evil.run", 2},
	/* Called, whatever comes then. */
	{STFS_CHECK_LIT("\x80\2" EVIL "\xff"), "evil.run", 2},
	{STFS_CHECK_LIT("(ievil\nrun\n\xff"), "evil.run", 1},
	/* Named, and the pickle ends. */
	{STFS_CHECK_LIT("cevil\nrun\n."), "evil.run", 0},
	{STFS_CHECK_LIT("cevil\nrun\n\xff"), "", 0},
	/* What the machine stops at, and Python does not. */
	{STFS_CHECK_LIT("\x80\2ctorch\nTensor\n}b" EVIL "."), "evil.run", 18},
	{STFS_CHECK_LIT("\x80\2NNR" EVIL "."), "evil.run", 5},
	/* From memo and stack, with every opcode of texts. */
	{STFS_CHECK_LIT("\x80\4\x8c\4evil\x94\x8c\3run\x94\x93)R."), "evil.run", 15},
	{STFS_CHECK_LIT("\x80\4X\4\0\0\0evilq\5\x8d\3\0\0\0\0\0\0\0runq\6" "00h\5h\6\x93)R."), "evil.run", 33},
	{STFS_CHECK_LIT("\x80\4S'evil'\np5\nVrun\np6\n00g5\ng6\n\x93)R."), "evil.run", 29},
	{STFS_CHECK_LIT("\x80\4U\4evilr\5\0\0\0T\3\0\0\0runr\6\0\0\0" "00j\5\0\0\0j\6\0\0\0\x93)R."), "evil.run", 38},
	/* A text of Python's escapes, a stack that one would have to run, a memo filled both ways: not known. */
	{STFS_CHECK_LIT("\x80\4Vev\\u0069l\nVrun\n\x93)R."), ".", 18},
	{STFS_CHECK_LIT("\x80\4\x8c\4evil\x8c\3run\x8c\6pickle\x8c\4load00\x93)R."), ". pickle.load", 29},
	{STFS_CHECK_LIT("\x80\4\x8c\5torch\x94\x8c\6Tensorq\1h\0h\1\x93)R."), ".", 24},
	{STFS_CHECK_LIT("\x80\2\x82\1)R."), ".", 2},
	/* Torch's own are none. */
	{STFS_CHECK_LIT("\x80\4\x8c\5torch\x94\x8c\6Tensor\x94\x93)R."), "", 0},
	{STFS_CHECK_LIT("\x80\2c__torch__.Net\nNet\n)R."), "", 0},
	/* The fifth pickle, and what stands behind it. */
	{STFS_CHECK_LIT("N.N.N.N." EVIL "."), "evil.run", 8},
	{STFS_CHECK_LIT("N.N.N.N.N." EVIL "."), "", 0},
	/* Names that are none of Python's. */
	{STFS_CHECK_LIT("class Net:\n    pass\n."), "", 0},
	{STFS_CHECK_LIT("c\1\n\2\n)R."), "", 0},
	{STFS_CHECK_LIT("c3d\nx\n)R."), "", 0},
	/* A protocol that there is not. */
	{STFS_CHECK_LIT("\x80\6" EVIL "."), "", 0},
	/* A frame's end within a text: what CPython reads from a file, and from memory. */
	{STFS_CHECK_LIT("\x80\4\x95\x0a\0\0\0\0\0\0\0X\x0a\0\0\0AAAAA" "BBBBBX\x0d\0\0\0" EVIL "."), "evil.run", 31},
	{STFS_CHECK_LIT("\x80\4\x95\x0a\0\0\0\0\0\0\0X\x08\0\0\0AAAAA" "BBBBBBBB" EVIL "."), "evil.run", 29},
	{STFS_CHECK_LIT("\x80\4\x95\x03\0\0\0\0\0\0\0I12" "34\n" EVIL "N."), "evil.run", 17},
	{STFS_CHECK_LIT("\x80\4\x95\x04\0\0\0\0\0\0\0N.K\1" EVIL "N."), "evil.run", 15},
};

START_TEST(traced)
{
	search(trace_cases[_i].bytes, 0);
	ck_assert_str_eq(found(), trace_cases[_i].found);
	if (suspects.count && trace_cases[_i].at)
		ck_assert_uint_eq(suspects.items[0].at, trace_cases[_i].at);
	ck_assert(!suspects.incomplete);
}
END_TEST

/* What is searched for in all bytes: it is on the list. */
static const struct {
	struct stfs_str bytes;
	const char *found;
} search_cases[] = {
	{STFS_CHECK_LIT("\xff\xff cos\nsystem\n"), "os.system"},
	{STFS_CHECK_LIT("\xff\xff iposix\nsystem\n"), "posix.system"},
	{STFS_CHECK_LIT("\xff\xff cos\ngetcwd\n"), ""},
	{STFS_CHECK_LIT("\xff\xff\x8c\2os ... X\6\0\0\0system"), "os.system"},
	{STFS_CHECK_LIT("\xff\xffU\4eval ... \x8d\x8\0\0\0\0\0\0\0builtins"), "builtins.eval"},
	{STFS_CHECK_LIT("\xff\xffS'os'\n ... Vpopen\n"), "os.popen"},
	{STFS_CHECK_LIT("\xff\xffT\4\0\0\0open ... U\2os U\2io"), "os.open io.open"},
	{STFS_CHECK_LIT("\xff\xff\x8c\2os ... \x8c\7systems"), ""},
	{STFS_CHECK_LIT("\xff\xff\x8c\2os \x8c\4eval"), ""},
};

START_TEST(searched)
{
	search(search_cases[_i].bytes, STFS_SUSPECTS_WHOLE);
	ck_assert_str_eq(found(), search_cases[_i].found);
	/* Bytes that nothing says to be a pickle are left alone. */
	search(search_cases[_i].bytes, 0);
	ck_assert_str_eq(found(), "");
}
END_TEST

/* Wherever one piece of the search ends and the next begins. */
START_TEST(across_pieces)
{
	static char file[200000];

	for (size_t at = 64990; at < 65550; at++) {
		memset(file, '-', sizeof(file));
		memcpy(file + at, "csubprocess\ncheck_output\n", 25);
		search(stfs_str_slice(file, sizeof(file)), STFS_SUSPECTS_WHOLE);
		ck_assert_str_eq(found(), "subprocess.check_output");
		ck_assert_uint_eq(suspects.items[0].at, at);
	}
}
END_TEST

/* Members are found without the directory, whatever they are called. */
START_TEST(zip_members)
{
	zip_add(&zip, "m/data.pkl", stfs_str_from("N."), false);
	zip_add(&zip, "m/x", stfs_str_from("\x80\2" EVIL "."), _i);
	zip_end(&zip);
	search(stfs_str_slice(zip.bytes.data, zip.bytes.len - 40), STFS_SUSPECTS_WHOLE);
	ck_assert_str_eq(found(), "evil.run");
	ck_assert(!suspects.is_zip);
	if (_i)
		stfs_check_str_eq(suspects.items[0].member, stfs_str_from("m/x"), "the member");
	if (_i)
		ck_assert_uint_eq(suspects.items[0].at, 2);
	else
		ck_assert_mem_eq(zip.bytes.data + suspects.items[0].at, EVIL, strlen(EVIL));
	ck_assert_uint_eq(suspects.items[0].member.len, _i ? 3 : 0);
}
END_TEST

/* Behind other bytes, with a comment, where only the end tells. */
START_TEST(zip_behind)
{
	zip_add(&zip, "m/x", stfs_str_from("\x80\2" EVIL "."), false);
	zip_end(&zip);
	stfs_buf_fill(&bytes, '-', 100000);
	stfs_buf_add_str(&bytes, stfs_buf_str(&zip.bytes));
	search(stfs_buf_str(&bytes), 0);
	ck_assert(suspects.is_zip && !suspects.is_pickle);
	ck_assert_str_eq(found(), "evil.run");
	stfs_buf_fill(&bytes, 'c', 65000);
	search(stfs_buf_str(&bytes), STFS_SUSPECTS_BEHIND);
	ck_assert(suspects.is_zip);
	ck_assert_str_eq(found(), "evil.run");
	stfs_buf_fill(&bytes, 'c', 1000);
	search(stfs_buf_str(&bytes), 0);
	ck_assert(!suspects.is_zip);
}
END_TEST

START_TEST(tar_members)
{
	char header[512] = "any name";
	unsigned sum = 0;

	memset(header + 148, ' ', 8);
	header[9] = _i ? '\xff' : '\0'; /* some sum signed bytes */
	for (size_t i = 0; i < sizeof(header); i++)
		sum += (unsigned)(_i ? (signed char)header[i] : (unsigned char)header[i]);
	snprintf(header + 148, 8, "%06o", sum);
	stfs_buf_add(&bytes, header, sizeof(header));
	stfs_buf_puts(&bytes, EVIL ".");
	search(stfs_buf_str(&bytes), 0);
	ck_assert(suspects.is_tar);
	ck_assert_str_eq(found(), "evil.run");
	bytes.data[100]++;
	search(stfs_buf_str(&bytes), 0);
	ck_assert(!suspects.is_tar && suspects.count == 0);
}
END_TEST

START_TEST(each_is_told_once)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_torch *torch;

	for (unsigned i = 0; i < 3000; i++)
		stfs_buf_printf(&bytes, "cevil\nrun%u\n0", i / 2);
	stfs_buf_puts(&bytes, "NR.");
	search(stfs_buf_str(&bytes), STFS_SUSPECTS_WHOLE);
	ck_assert_uint_eq(suspects.count, STFS_SUSPECTS_MAX);
	ck_assert_uint_gt(suspects.more, 0);
	/* What the checkpoint lists by itself is not told again. */
	ck_assert_int_lt(stfs_torch_open(fd, bytes.len, &torch, &err), 0);
	ck_assert_int_eq(stfs_suspects_drop_known(&suspects, torch), 0);
	ck_assert_uint_eq(suspects.count, 0);
	stfs_torch_close(torch);
}
END_TEST

/* What costs more than it should is given up, and that is said. */
START_TEST(bombs)
{
	static char zeros[1 << 20];
	struct stfs_str content = stfs_str_slice(zeros, sizeof(zeros));

	for (unsigned i = 0; i < 80; i++)
		stfs_buf_add_str(&bytes, content);
	stfs_buf_puts(&bytes, EVIL ".");
	zip_add(&zip, "m/large", stfs_buf_str(&bytes), true);
	search(stfs_buf_str(&zip.bytes), STFS_SUSPECTS_WHOLE);
	ck_assert_uint_eq(suspects.count, 0);
	ck_assert(suspects.incomplete);
}
END_TEST

/* The list names nothing that is taken elsewhere, and all that is on it is short enough to be found. */
START_TEST(denied)
{
	static const char *const pairs[][2] = {{"os", "system"}, {"numpy.f2py.crackfortran", "getlincoef"},
					       {"torch.storage", "_load_from_bytes"}};
	struct stfs_denied list;

	for (size_t i = 0; i < STFS_CHECK_COUNT(pairs); i++)
		ck_assert(stfs_denied_is(stfs_str_from(pairs[i][0]), stfs_str_from(pairs[i][1])));
	ck_assert(!stfs_denied_is(stfs_str_from("os"), stfs_str_from("syste")));
	ck_assert(!stfs_denied_is(stfs_str_from("o"), stfs_str_from("system")));
	ck_assert_int_eq(stfs_denied_init(&list), 0);
	for (uint32_t i = 0; i < list.text_count; i++) {
		struct stfs_str module = list.texts[i].text;

		ck_assert_uint_ge(module.len, 2);
		ck_assert_uint_le(module.len, STFS_DENIED_TEXT_MAX);
		for (uint32_t j = 0; j < list.text_count; j++)
			if (stfs_denied_is(module, list.texts[j].text))
				ck_assert_int_eq(stfs_global_judge(module, list.texts[j].text).verdict,
						 STFS_GLOBAL_REFUSED);
	}
	stfs_denied_free(&list);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("suspects");
	TCase *all = tcase_create("all");

	tcase_add_checked_fixture(all, setup, teardown);
	tcase_set_timeout(all, 120);
	tcase_add_loop_test(all, traced, 0, STFS_CHECK_COUNT(trace_cases));
	tcase_add_loop_test(all, searched, 0, STFS_CHECK_COUNT(search_cases));
	tcase_add_test(all, across_pieces);
	tcase_add_loop_test(all, zip_members, 0, 2);
	tcase_add_test(all, zip_behind);
	tcase_add_loop_test(all, tar_members, 0, 2);
	tcase_add_test(all, each_is_told_once);
	tcase_add_test(all, bombs);
	tcase_add_test(all, denied);
	suite_add_tcase(suite, all);
	return stfs_check_main(suite);
}
