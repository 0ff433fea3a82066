/* SPDX-License-Identifier: MIT */
/* The pickle machine: what each opcode gives, and what is refused where. */
#include "checkpoint_tools.h"

#include <errno.h>
#include <time.h>

#include "codec/globals.h"
#include "codec/pickle.h"

static struct stfs_pickle pickle;
static struct stfs_err err;

static int run(struct stfs_str bytes)
{
	stfs_pickle_free(&pickle);
	err = (struct stfs_err)STFS_ERR_INIT;
	pickle.data = bytes.ptr;
	pickle.len = (uint32_t)bytes.len;
	pickle.complete = true;
	return stfs_pickle_run(&pickle, &err);
}

#define RUN(literal) run(stfs_str_slice(literal, sizeof(literal) - 1))

static const struct stfs_pickle_value *result(void)
{
	return stfs_pickle_at(&pickle, pickle.result);
}

static void teardown(void)
{
	stfs_pickle_free(&pickle);
}

/* ---- Numbers and text ---- */

static const struct {
	struct stfs_str bytes;
	enum stfs_pickle_kind kind;
	int64_t integer;
} integer_cases[] = {
	{STFS_CHECK_LIT("K\x05."), STFS_PICKLE_INT, 5},
	{STFS_CHECK_LIT("M\xff\xff."), STFS_PICKLE_INT, 65535},
	{STFS_CHECK_LIT("J\xff\xff\xff\xff."), STFS_PICKLE_INT, -1},
	{STFS_CHECK_LIT("I42\n."), STFS_PICKLE_INT, 42},
	{STFS_CHECK_LIT("I01\n."), STFS_PICKLE_BOOL, 1},
	{STFS_CHECK_LIT("I00\n."), STFS_PICKLE_BOOL, 0},
	{STFS_CHECK_LIT("\x88."), STFS_PICKLE_BOOL, 1},
	{STFS_CHECK_LIT("\x89."), STFS_PICKLE_BOOL, 0},
	{STFS_CHECK_LIT("L-7L\n."), STFS_PICKLE_INT, -7},
	{STFS_CHECK_LIT("L-9223372036854775808L\n."), STFS_PICKLE_INT, INT64_MIN},
	{STFS_CHECK_LIT("L9223372036854775808L\n."), STFS_PICKLE_LONG, 0},
	{STFS_CHECK_LIT("\x8a\0."), STFS_PICKLE_INT, 0},
	{STFS_CHECK_LIT("\x8a\1\xff."), STFS_PICKLE_INT, -1},
	{STFS_CHECK_LIT("\x8a\2\0\x80."), STFS_PICKLE_INT, -32768},
	{STFS_CHECK_LIT("\x8b\1\0\0\0\x7f."), STFS_PICKLE_INT, 127},
	{STFS_CHECK_LIT("\x8a\x09\0\0\0\0\0\0\0\0\1."), STFS_PICKLE_LONG, 0},
	{STFS_CHECK_LIT("N."), STFS_PICKLE_NONE, 0},
};

START_TEST(integers)
{
	ck_assert_int_eq(run(integer_cases[_i].bytes), 0);
	ck_assert_int_eq(result()->kind, integer_cases[_i].kind);
	if (result()->kind == STFS_PICKLE_INT)
		ck_assert_int_eq(result()->as.integer, integer_cases[_i].integer);
	if (result()->kind == STFS_PICKLE_BOOL)
		ck_assert_int_eq(result()->as.truth, integer_cases[_i].integer);
}
END_TEST

START_TEST(floats)
{
	ck_assert_int_eq(RUN("G\x3f\xe0\0\0\0\0\0\0."), 0);
	ck_assert_double_eq(result()->as.real, 0.5);
	ck_assert_int_eq(RUN("F-1.5e3\n."), 0);
	ck_assert_double_eq(result()->as.real, -1500);
	ck_assert_int_eq(RUN("F1.5x\n."), -EBADMSG);
}
END_TEST

static const struct {
	struct stfs_str bytes;
	enum stfs_pickle_kind kind;
	struct stfs_str text;
} text_cases[] = {
	{STFS_CHECK_LIT("X\3\0\0\0a\0b."), STFS_PICKLE_STR, STFS_CHECK_LIT("a\0b")},
	{STFS_CHECK_LIT("\x8c\2\xc3\xa9."), STFS_PICKLE_STR, STFS_CHECK_LIT("\xc3\xa9")},
	{STFS_CHECK_LIT("\x8d\1\0\0\0\0\0\0\0z."), STFS_PICKLE_STR, STFS_CHECK_LIT("z")},
	{STFS_CHECK_LIT("X\3\0\0\0\xed\xa0\x80."), STFS_PICKLE_STR, STFS_CHECK_LIT("\xed\xa0\x80")},
	{STFS_CHECK_LIT("U\2ab."), STFS_PICKLE_STR, STFS_CHECK_LIT("ab")},
	{STFS_CHECK_LIT("U\1\xff."), STFS_PICKLE_BYTES, STFS_CHECK_LIT("\xff")},
	{STFS_CHECK_LIT("T\1\0\0\0q."), STFS_PICKLE_STR, STFS_CHECK_LIT("q")},
	{STFS_CHECK_LIT("C\1\xff."), STFS_PICKLE_BYTES, STFS_CHECK_LIT("\xff")},
	{STFS_CHECK_LIT("B\1\0\0\0x."), STFS_PICKLE_BYTES, STFS_CHECK_LIT("x")},
	{STFS_CHECK_LIT("\x96\1\0\0\0\0\0\0\0y."), STFS_PICKLE_BYTES, STFS_CHECK_LIT("y")},
	{STFS_CHECK_LIT("S'a\\x41\\n\\101\\q'\n."), STFS_PICKLE_STR, STFS_CHECK_LIT("aA\nA\\q")},
	{STFS_CHECK_LIT("V\\u00e9\xe9\\U0001F600\n."), STFS_PICKLE_STR,
	 STFS_CHECK_LIT("\xc3\xa9\xc3\xa9\xf0\x9f\x98\x80")},
	{STFS_CHECK_LIT("V\n."), STFS_PICKLE_STR, STFS_CHECK_LIT("")}, /* a pointer of no memory was moved */
	{STFS_CHECK_LIT("S''\n."), STFS_PICKLE_STR, STFS_CHECK_LIT("")},
	{STFS_CHECK_LIT("V\\ud800\n."), STFS_PICKLE_STR, STFS_CHECK_LIT("\xed\xa0\x80")},
};

START_TEST(texts)
{
	ck_assert_int_eq(run(text_cases[_i].bytes), 0);
	ck_assert_int_eq(result()->kind, text_cases[_i].kind);
	stfs_check_str_eq(stfs_pickle_text(&pickle, pickle.result), text_cases[_i].text, "text");
}
END_TEST

/* ---- Containers ---- */

START_TEST(containers)
{
	uint32_t count;

	ck_assert_int_eq(RUN("(K\1K\2K\3t."), 0);
	ck_assert_ptr_nonnull(stfs_pickle_tuple(&pickle, pickle.result, &count));
	ck_assert_uint_eq(count, 3);
	ck_assert_int_eq(RUN("](K\1K\2eK\3a."), 0);
	ck_assert_uint_eq(pickle.lists[result()->as.list].count, 3);
	ck_assert_int_eq(RUN("}(K\1K\2uK\3K\4s."), 0);
	ck_assert_uint_eq(pickle.lists[result()->as.list].count, 4);
	ck_assert_int_eq(RUN("\x8f(K\1\x90."), 0);
	ck_assert_int_eq(result()->kind, STFS_PICKLE_SET);
	ck_assert_int_eq(RUN("(K\1\x91."), 0);
	ck_assert_int_eq(result()->kind, STFS_PICKLE_SET);
	ck_assert_int_eq(RUN("(K\1K\2d."), 0);
	ck_assert_int_eq(result()->kind, STFS_PICKLE_DICT);
	ck_assert_int_eq(RUN("]q\0h\0a."), 0); /* it contains itself */
	ck_assert_uint_eq(pickle.links[0], pickle.result);
}
END_TEST

START_TEST(memo)
{
	ck_assert_int_eq(RUN("K\7q\5" "0h\5."), 0);
	ck_assert_int_eq(result()->as.integer, 7);
	ck_assert_int_eq(RUN("K\7\x94" "0h\0."), 0);
	ck_assert_int_eq(RUN("K\7p12\n0g12\n."), 0);
	ck_assert_int_eq(RUN("K\7r\0\1\0\0" "0j\0\1\0\0."), 0);
	ck_assert_int_eq(RUN("h\5."), -EBADMSG);
	ck_assert_int_eq(RUN("K\7r\xff\xff\xff\xff."), -EBADMSG);
}
END_TEST

/* Of equal keys the first keeps its place and gets the last value: 1, 1.0 and True are equal. */
START_TEST(equal_keys)
{
	struct stfs_pickle_walk walk;
	const uint32_t *item;

	ck_assert_int_eq(RUN("}(K\1K\12X\1\0\0\0aK\13\x88K\14G\x3f\xf0\0\0\0\0\0\0K\15U\1aK\16u."), 0);
	ck_assert_int_eq(stfs_pickle_settle(&pickle), 0);
	walk = stfs_pickle_walk_from(&pickle.lists[result()->as.list]);
	ck_assert_int_eq(stfs_pickle_at(&pickle, *stfs_pickle_step(&pickle, &walk))->as.integer, 1);
	ck_assert_int_eq(stfs_pickle_at(&pickle, *stfs_pickle_step(&pickle, &walk))->as.integer, 015);
	ck_assert_uint_ne(*stfs_pickle_step(&pickle, &walk), STFS_NO_VALUE);
	ck_assert_int_eq(stfs_pickle_at(&pickle, *stfs_pickle_step(&pickle, &walk))->as.integer, 016);
	for (item = stfs_pickle_step(&pickle, &walk); item; item = stfs_pickle_step(&pickle, &walk)) {
		ck_assert_uint_eq(*item, STFS_NO_VALUE);
		stfs_pickle_step(&pickle, &walk);
	}
}
END_TEST

/* ---- Calls ---- */

START_TEST(calls_are_values)
{
	static const struct stfs_str cases[] = {
		STFS_CHECK_LIT("cos\nsystem\n(X\2\0\0\0lstR."), STFS_CHECK_LIT("(X\2\0\0\0lsios\nsystem\n."),
		STFS_CHECK_LIT("(cos\nsystem\nX\2\0\0\0lso."), STFS_CHECK_LIT("cos\nsystem\n(X\2\0\0\0lst\x81."),
		STFS_CHECK_LIT("\x8c\2os\x8c\6system\x93(X\2\0\0\0lstR."),
		STFS_CHECK_LIT("cos\nsystem\n(X\2\0\0\0lst}\x92."),
	};
	const struct stfs_pickle_call *call;
	const uint32_t *args;
	uint32_t count;

	for (size_t i = 0; i < STFS_CHECK_COUNT(cases); i++) {
		ck_assert_int_eq(run(cases[i]), 0);
		call = stfs_pickle_called(&pickle, pickle.result);
		ck_assert_ptr_nonnull(call);
		ck_assert_uint_eq(pickle.global_count, 1);
		stfs_check_str_eq(stfs_pickle_module(&pickle, &pickle.globals[0]), stfs_str_from("os"), "module");
		stfs_check_str_eq(stfs_pickle_name(&pickle, &pickle.globals[0]), stfs_str_from("system"), "name");
		args = stfs_pickle_tuple(&pickle, call->args, &count);
		ck_assert_uint_eq(count, 1);
		stfs_check_str_eq(stfs_pickle_text(&pickle, args[0]), stfs_str_from("ls"), "argument");
	}
	ck_assert_int_eq(RUN("\x82\5."), 0);
	ck_assert(pickle.globals[0].extension);
	ck_assert_int_eq(RUN("cx\ny\n)R}bK\1K\2s."), 0);
	ck_assert_uint_ne(stfs_pickle_called(&pickle, pickle.result)->state, STFS_NO_VALUE);
	ck_assert_uint_eq(stfs_pickle_called(&pickle, pickle.result)->pairs.count, 2);
}
END_TEST

/* ---- What is refused, and where ---- */

static const struct {
	struct stfs_str bytes;
	uint64_t at;
} refused_cases[] = {
	{STFS_CHECK_LIT(""), 0}, {STFS_CHECK_LIT("K\1"), 2}, {STFS_CHECK_LIT("K"), 0}, {STFS_CHECK_LIT("."), 0},
	{STFS_CHECK_LIT("\x80\6."), 0}, {STFS_CHECK_LIT("\x80\2\xff."), 2}, {STFS_CHECK_LIT("0."), 0},
	{STFS_CHECK_LIT("1."), 0}, {STFS_CHECK_LIT("2."), 0}, {STFS_CHECK_LIT("t."), 0},
	{STFS_CHECK_LIT("K\1(\x85."), 3}, /* not below the mark */
	{STFS_CHECK_LIT("K\1)R."), 3}, {STFS_CHECK_LIT("cx\ny\nK\1R."), 7}, {STFS_CHECK_LIT("K\1}b."), 3},
	{STFS_CHECK_LIT("cx\ny\n}b."), 6}, {STFS_CHECK_LIT("K\1K\2a."), 4}, {STFS_CHECK_LIT("](K\1u."), 4},
	{STFS_CHECK_LIT("}(K\1u."), 4}, {STFS_CHECK_LIT("(K\1d."), 3}, {STFS_CHECK_LIT("K\1K\2\x93."), 4},
	{STFS_CHECK_LIT("X\1\0\0\0\xff."), 0}, {STFS_CHECK_LIT("X\xff\xff\xff\xff."), 0},
	{STFS_CHECK_LIT("\x8e\0\0\0\0\0\0\0\x80."), 0}, {STFS_CHECK_LIT("\x8b\xff\xff\xff\xff."), 0},
	{STFS_CHECK_LIT("\x97."), 0}, {STFS_CHECK_LIT("S'a\n."), 0}, {STFS_CHECK_LIT("V\\uZ\n."), 0},
	{STFS_CHECK_LIT("cx\ny\n)}K\1K\2s\x92."), 12}, {STFS_CHECK_LIT("I4x\n."), 0}, {STFS_CHECK_LIT("(o."), 1},
	/* Frames: an argument or line across the end, a frame in one, too long a one, STOP within one. */
	{STFS_CHECK_LIT("\x80\4\x95\x0a\0\0\0\0\0\0\0X\x0a\0\0\0AAAAABBBBB."), 11},
	{STFS_CHECK_LIT("\x95\2\0\0\0\0\0\0\0M\0\0."), 9}, {STFS_CHECK_LIT("Nq\1\x95\2\0\0\0\0\0\0\0g1\n."), 12},
	{STFS_CHECK_LIT("\x95\1\0\0\0\0\0\0\0cx\ny\n."), 9}, {STFS_CHECK_LIT("\x95\3\0\0\0\0\0\0\0cx\ny\n."), 9},
	{STFS_CHECK_LIT("\x95\x0b\0\0\0\0\0\0\0\x95\2\0\0\0\0\0\0\0N."), 9},
	{STFS_CHECK_LIT("\x95\3\0\0\0\0\0\0\0N."), 0}, {STFS_CHECK_LIT("\x95\0\0\0\0\0\1\0\0N."), 0},
	{STFS_CHECK_LIT("\x80\2\x95\3\0\0\0\0\0\0\0N.N"), 12},
};

/* Frames that hold whole opcodes, one behind the other and with opcodes between them, are read. */
START_TEST(frames)
{
	ck_assert_int_eq(RUN("\x80\4\x95\2\0\0\0\0\0\0\0K\1\x85\x95\5\0\0\0\0\0\0\0I12\n."), 0);
	ck_assert_int_eq(result()->as.integer, 12);
	ck_assert_int_eq(RUN("\x95\2\0\0\0\0\0\0\0K\1X\1\0\0\0a."), 0);
}
END_TEST

START_TEST(refused)
{
	ck_assert_int_eq(run(refused_cases[_i].bytes), -EBADMSG);
	ck_assert_uint_eq(err.position, refused_cases[_i].at);
	ck_assert(strstr(err.message, "byte ") != NULL);
}
END_TEST

/* Bytes that come one at a time give the same values. */
START_TEST(in_pieces)
{
	static const char text[] = "}(X\1\0\0\0aI12\nU\1bVx\\u00e9\nF1.5\ncos\nsystem\nu.";
	size_t whole;
	int r = -EAGAIN;

	ck_assert_int_eq(RUN(text), 0);
	whole = pickle.value_count;
	stfs_pickle_free(&pickle);
	for (uint32_t len = 0; r == -EAGAIN; len++) {
		ck_assert_uint_lt(len, sizeof(text));
		pickle.data = text;
		pickle.len = len;
		r = stfs_pickle_run(&pickle, &err);
	}
	ck_assert_int_eq(r, 0);
	ck_assert_uint_eq(pickle.value_count, whole);
	ck_assert_uint_eq(pickle.global_count, 1);
}
END_TEST

/* A million pairs that share one long key are no work, and neither are a million levels. */
START_TEST(bounded)
{
	STFS_AUTO_BUF struct stfs_buf bytes = STFS_BUF_INIT;
	clock_t from = clock();

	OPS(&bytes, "}(");
	OPS(&bytes, "X\0\0\x10\0");
	stfs_buf_fill(&bytes, 'k', 1 << 20);
	OPS(&bytes, "q\0N");
	for (int i = 0; i < 1000000; i++)
		OPS(&bytes, "h\0N");
	OPS(&bytes, "u.");
	ck_assert_int_eq(run(stfs_buf_str(&bytes)), 0);
	ck_assert_int_eq(stfs_pickle_settle(&pickle), 0);
	stfs_buf_clear(&bytes);
	for (int i = 0; i < 1000000; i++)
		OPS(&bytes, "]\x85");
	OPS(&bytes, ".");
	ck_assert_int_eq(run(stfs_buf_str(&bytes)), 0);
	ck_assert(clock() - from < 20 * CLOCKS_PER_SEC);
}
END_TEST

/* ---- Globals ---- */

static const struct {
	const char *module, *name;
	enum stfs_global_verdict verdict;
} global_cases[] = {
	{"torch._utils", "_rebuild_tensor_v2", STFS_GLOBAL_ALLOWED},
	{"torch", "FloatStorage", STFS_GLOBAL_ALLOWED}, {"torch.cuda", "HalfStorage", STFS_GLOBAL_ALLOWED},
	{"torch.storage", "UntypedStorage", STFS_GLOBAL_ALLOWED}, {"torch", "float8_e4m3fn", STFS_GLOBAL_ALLOWED},
	{"collections", "OrderedDict", STFS_GLOBAL_ALLOWED}, {"__builtin__", "set", STFS_GLOBAL_ALLOWED},
	{"argparse", "Namespace", STFS_GLOBAL_HARMLESS}, {"datetime", "timedelta", STFS_GLOBAL_HARMLESS},
	{"numpy._core.multiarray", "_reconstruct", STFS_GLOBAL_HARMLESS},
	{"__builtin__", "xrange", STFS_GLOBAL_HARMLESS}, {"copy_reg", "_reconstructor", STFS_GLOBAL_HARMLESS},
	{"os", "system", STFS_GLOBAL_REFUSED}, {"torch", "os.system", STFS_GLOBAL_REFUSED},
	{"torch", "_utils._rebuild_tensor_v2", STFS_GLOBAL_REFUSED}, {"", "", STFS_GLOBAL_REFUSED},
	{"torch", "float32 ", STFS_GLOBAL_REFUSED}, {"collections", "OrderedDict Counter", STFS_GLOBAL_REFUSED},
	{"builtins", "getattr", STFS_GLOBAL_REFUSED}, {"builtins", "eval", STFS_GLOBAL_REFUSED},
	{"torch.storage", "_load_from_bytes", STFS_GLOBAL_REFUSED}, {"torch\n", "FloatStorage", STFS_GLOBAL_REFUSED},
	{"\xff", "\xff", STFS_GLOBAL_REFUSED}, {"functools", "partial", STFS_GLOBAL_REFUSED},
};

START_TEST(globals)
{
	ck_assert_int_eq(stfs_global_judge(stfs_str_from(global_cases[_i].module),
					   stfs_str_from(global_cases[_i].name)).verdict, global_cases[_i].verdict);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("pickle");
	TCase *values = tcase_create("values"), *limits = tcase_create("limits"), *names = tcase_create("globals");

	tcase_add_checked_fixture(values, NULL, teardown);
	tcase_add_loop_test(values, integers, 0, STFS_CHECK_COUNT(integer_cases));
	tcase_add_test(values, floats);
	tcase_add_loop_test(values, texts, 0, STFS_CHECK_COUNT(text_cases));
	tcase_add_test(values, containers);
	tcase_add_test(values, memo);
	tcase_add_test(values, equal_keys);
	tcase_add_test(values, calls_are_values);
	suite_add_tcase(suite, values);
	tcase_add_checked_fixture(limits, NULL, teardown);
	tcase_set_timeout(limits, 60);
	tcase_add_test(limits, frames);
	tcase_add_loop_test(limits, refused, 0, STFS_CHECK_COUNT(refused_cases));
	tcase_add_test(limits, in_pieces);
	tcase_add_test(limits, bounded);
	suite_add_tcase(suite, limits);
	tcase_add_loop_test(names, globals, 0, STFS_CHECK_COUNT(global_cases));
	suite_add_tcase(suite, names);
	return stfs_check_main(suite);
}
