/* SPDX-License-Identifier: MIT */
/* The tables of cases hold all of docs/names.md: change both. */
#include "stfs_check.h"

#include <errno.h>

#include "base/cleanup.h"
#include "base/utf8.h"
#include "format/names.h"

#define LIT STFS_CHECK_LIT

static const struct {
	struct stfs_str name, file;
} encode_cases[] = {
	/* As it is. */
	{LIT("weight"), LIT("weight")},
	{LIT("model.layers.0.self_attn.q_proj.weight"),
	 LIT("model.layers.0.self_attn.q_proj.weight")},
	{LIT("a b\\c:d*e?\"f\"|<g>"), LIT("a b\\c:d*e?\"f\"|<g>")},
	{LIT("gewöhnlich/漢字/😀"), LIT("gewöhnlich%2F漢字%2F😀")},
	{LIT("漢字.é😀"), LIT("漢字.é😀")},
	{LIT("\xc2\x80"), LIT("\xc2\x80")},
	{LIT("-rf"), LIT("-rf")},
	{LIT(" "), LIT(" ")},
	{LIT("json"), LIT("json")},
	{LIT("npy"), LIT("npy")},
	{LIT("x.json5"), LIT("x.json5")},
	{LIT("x.JSON"), LIT("x.JSON")},
	{LIT("x.bak"), LIT("x.bak")},
	{LIT("x.tmp"), LIT("x.tmp")},
	{LIT("x.orig"), LIT("x.orig")},
	{LIT("a~b"), LIT("a~b")},
	{LIT("14913"), LIT("14913")},
	{LIT("49133"), LIT("49133")},
	{LIT("my.Thumbs.db"), LIT("my.Thumbs.db")},
	{LIT("desktop.inis"), LIT("desktop.inis")},
	{LIT("#"), LIT("#")},
	{LIT("##"), LIT("##")},
	{LIT("#x"), LIT("#x")},
	{LIT("x#"), LIT("x#")},
	{LIT("__metadata"), LIT("__metadata")},
	{LIT("x__metadata__"), LIT("x__metadata__")},
	{LIT("__metadata__x"), LIT("__metadata__x")},
	/* Empty. */
	{LIT(""), LIT("%empty")},
	{LIT("%empty"), LIT("%25empty")},
	{LIT("empty"), LIT("empty")},
	/* Single bytes. */
	{LIT("/"), LIT("%2F")},
	{LIT("a/b/"), LIT("a%2Fb%2F")},
	{LIT("%"), LIT("%25")},
	{LIT("50%"), LIT("50%25")},
	{LIT("%2F"), LIT("%252F")},
	{LIT("50%~"), LIT("50%25%7E")},
	{LIT("\0"), LIT("%00")},
	{LIT("a\0b"), LIT("a%00b")},
	{LIT("a\nb\tc"), LIT("a%0Ab%09c")},
	{LIT("\x1f\x7f"), LIT("%1F%7F")},
	/* A leading dot. */
	{LIT("."), LIT("%2E")},
	{LIT(".."), LIT("%2E.")},
	{LIT("..."), LIT("%2E..")},
	{LIT("../../etc/passwd"), LIT("%2E.%2F..%2Fetc%2Fpasswd")},
	{LIT("a/../b"), LIT("a%2F..%2Fb")},
	{LIT(".hidden"), LIT("%2Ehidden")},
	{LIT(".stfs"), LIT("%2Estfs")},
	{LIT("a."), LIT("a.")},
	/* The ends of sidecars and arrays. */
	{LIT("x.json"), LIT("x.jso%6E")},
	{LIT("x.npy"), LIT("x.np%79")},
	{LIT("x.json.json"), LIT("x.json.jso%6E")},
	{LIT("x.npy.json"), LIT("x.npy.jso%6E")},
	{LIT("/.json"), LIT("%2F.jso%6E")},
	{LIT(".json"), LIT("%2Ejson")},
	{LIT(".npy"), LIT("%2Enpy")},
	{LIT("..npy"), LIT("%2E.np%79")},
	{LIT("é.json"), LIT("é.jso%6E")},
	{LIT("__metadata__"), LIT("__metadata_%5F")},
	{LIT("__metadata__.json"), LIT("__metadata__.jso%6E")},
	{LIT("__metadata__.npy"), LIT("__metadata__.np%79")},
	/* Scratch. */
	{LIT("~"), LIT("%7E")},
	{LIT("x~"), LIT("x%7E")},
	{LIT("x~~"), LIT("x~%7E")},
	{LIT(".~"), LIT("%2E%7E")},
	{LIT("x.json~"), LIT("x.json%7E")},
	{LIT("x.swp"), LIT("x.sw%70")},
	{LIT(".x.swp"), LIT("%2Ex.sw%70")},
	{LIT(".swp"), LIT("%2Eswp")},
	{LIT("x.part"), LIT("x.par%74")},
	{LIT("x.partial"), LIT("x.partia%6C")},
	{LIT("x.crdownload"), LIT("x.crdownloa%64")},
	{LIT("4913"), LIT("491%33")},
	{LIT("Thumbs.db"), LIT("Thumbs.d%62")},
	{LIT("desktop.ini"), LIT("desktop.in%69")},
	{LIT("#x#"), LIT("#x%23")},
	{LIT("###"), LIT("##%23")},
};

START_TEST(encode_table)
{
	struct stfs_str name = encode_cases[_i].name, file = encode_cases[_i].file, stem;
	char out[STFS_NAME_MAX + 1], text[STFS_QUOTED_MAX];
	STFS_AUTO_BUF struct stfs_buf back = STFS_BUF_INIT;
	size_t len = stfs_name_encode(name, out);

	stfs_check_str_eq(stfs_str_slice(out, len), file, stfs_quote(name, text));
	ck_assert_uint_eq(out[len], '\0');
	ck_assert_int_eq(stfs_name_decode(file, &back), 0);
	stfs_check_str_eq(stfs_buf_str(&back), name, "decoded");
	ck_assert_int_eq(stfs_file_classify(file, &stem), STFS_FILE_TENSOR);
	stfs_check_str_eq(stem, file, "stem");
	ck_assert(!stfs_name_is_hashed(file));
}
END_TEST

static const struct {
	struct stfs_str file;
	enum stfs_file_kind kind;
	size_t stem;
} classify_cases[] = {
	{LIT("x"), STFS_FILE_TENSOR, 1},
	{LIT("x.json"), STFS_FILE_SIDECAR, 1},
	{LIT("x.npy"), STFS_FILE_NPY, 1},
	{LIT("x.jso%6E.json"), STFS_FILE_SIDECAR, 8},
	{LIT("x.npy.json"), STFS_FILE_SIDECAR, 5},
	{LIT("x.json.npy"), STFS_FILE_NPY, 6},
	{LIT("%empty.json"), STFS_FILE_SIDECAR, 6},
	{LIT("x~.json"), STFS_FILE_SIDECAR, 2},
	{LIT("4913.json"), STFS_FILE_SIDECAR, 4},
	{LIT("desktop.ini.npy"), STFS_FILE_NPY, 11},
	{LIT("#x#.json"), STFS_FILE_SIDECAR, 3},
	{LIT("x.json "), STFS_FILE_TENSOR, 7},
	{LIT("\xff.json"), STFS_FILE_SIDECAR, 1},
	{LIT("__metadata__.json"), STFS_FILE_METADATA, 17},
	{LIT("__metadata__"), STFS_FILE_TENSOR, 12},
	{LIT("__metadata__.npy"), STFS_FILE_NPY, 12},
	{LIT("__metadata_%5F.json"), STFS_FILE_SIDECAR, 14},
	{LIT(".stfs"), STFS_FILE_STATUS, 5},
	{LIT(".stfs.json"), STFS_FILE_SCRATCH, 10},
	{LIT(".stfsx"), STFS_FILE_SCRATCH, 6},
	{LIT(".json"), STFS_FILE_SCRATCH, 5},
	{LIT(".npy"), STFS_FILE_SCRATCH, 4},
	{LIT(".x.json"), STFS_FILE_SCRATCH, 7},
	{LIT(".DS_Store"), STFS_FILE_SCRATCH, 9},
	{LIT("._x"), STFS_FILE_SCRATCH, 3},
	{LIT(".nfs0001"), STFS_FILE_SCRATCH, 8},
	{LIT(".x.Ab12Cd"), STFS_FILE_SCRATCH, 9},
	{LIT("."), STFS_FILE_SCRATCH, 1},
	{LIT(".."), STFS_FILE_SCRATCH, 2},
	{LIT("x~"), STFS_FILE_SCRATCH, 2},
	{LIT("~"), STFS_FILE_SCRATCH, 1},
	{LIT("x.json~"), STFS_FILE_SCRATCH, 7},
	{LIT("x.json.swp"), STFS_FILE_SCRATCH, 10},
	{LIT("x.npy.part"), STFS_FILE_SCRATCH, 10},
	{LIT("x.0123abcd.partial"), STFS_FILE_SCRATCH, 18},
	{LIT("x.crdownload"), STFS_FILE_SCRATCH, 12},
	{LIT("4913"), STFS_FILE_SCRATCH, 4},
	{LIT("Thumbs.db"), STFS_FILE_SCRATCH, 9},
	{LIT("desktop.ini"), STFS_FILE_SCRATCH, 11},
	{LIT("#x#"), STFS_FILE_SCRATCH, 3},
	{LIT("#x.json#"), STFS_FILE_SCRATCH, 8},
	{LIT("\xff~"), STFS_FILE_SCRATCH, 2},
	{LIT("x.bak"), STFS_FILE_TENSOR, 5},
	{LIT("x.tmp"), STFS_FILE_TENSOR, 5},
	{LIT("sedAb12Cd"), STFS_FILE_TENSOR, 9},
};

START_TEST(classify_table)
{
	struct stfs_str file = classify_cases[_i].file, stem;
	char text[STFS_QUOTED_MAX];
	enum stfs_file_kind kind = stfs_file_classify(file, &stem);

	ck_assert_msg(kind == classify_cases[_i].kind, "\"%s\" is of kind %d, not %d",
		      stfs_quote(file, text), (int)kind, (int)classify_cases[_i].kind);
	stfs_check_str_eq(stem, stfs_str_slice(file.ptr, classify_cases[_i].stem), "stem");
	ck_assert_ptr_eq(stem.ptr, file.ptr);
}
END_TEST

static const struct {
	struct stfs_str file;
	int r;
} refused_cases[] = {
	{LIT(""), -EINVAL},
	/* Escapes that are none. */
	{LIT("%"), -EINVAL},
	{LIT("a%"), -EINVAL},
	{LIT("%2"), -EINVAL},
	{LIT("%2G"), -EINVAL},
	{LIT("%zz"), -EINVAL},
	{LIT("%G2"), -EINVAL},
	{LIT("100%"), -EINVAL},
	{LIT("100% sure"), -EINVAL},
	{LIT("%Empty"), -EINVAL},
	{LIT("%emptyx"), -EINVAL},
	{LIT("x%empty"), -EINVAL},
	{LIT("%~"), -EINVAL},
	{LIT("x%~0123456789abcdef0123456789abcdef"), -EINVAL},
	/* Not canonical: lower case, needless, missing. */
	{LIT("%2f"), -EINVAL},
	{LIT("%2e"), -EINVAL},
	{LIT("%41"), -EINVAL},
	{LIT("a%41b"), -EINVAL},
	{LIT("a%2E"), -EINVAL},
	{LIT("a%2Eb"), -EINVAL},
	{LIT("a/b"), -EINVAL},
	{LIT("a\nb"), -EINVAL},
	{LIT("a\0b"), -EINVAL},
	{LIT("\x7f"), -EINVAL},
	{LIT(".x"), -EINVAL},
	{LIT("."), -EINVAL},
	{LIT(".."), -EINVAL},
	{LIT("x~"), -EINVAL},
	{LIT("4913"), -EINVAL},
	{LIT("__metadata__"), -EINVAL},
	{LIT("x.json"), -EINVAL},
	{LIT("x.npy"), -EINVAL},
	{LIT("x.swp"), -EINVAL},
	{LIT("x.js%6Fn"), -EINVAL},
	{LIT("%2Ejso%6E"), -EINVAL},
	{LIT("%2Esw%70"), -EINVAL},
	{LIT("x.bak%7E.bak"), -EINVAL},
	/* Escapes stand for ASCII. */
	{LIT("%80"), -EINVAL},
	{LIT("%C3%A9"), -EINVAL},
	{LIT("%FF"), -EINVAL},
	/* Not UTF-8, whatever else is wrong. */
	{LIT("\xff"), -EILSEQ},
	{LIT("caf\xe9"), -EILSEQ},
	{LIT("\xc0\xaf"), -EILSEQ},
	{LIT("\xed\xa0\x80"), -EILSEQ},
	{LIT("\xf4\x90\x80\x80"), -EILSEQ},
	{LIT("a\xc3"), -EILSEQ},
	{LIT("\xc3%A9"), -EILSEQ},
	{LIT("%2f\xff"), -EILSEQ},
};

START_TEST(decode_refused)
{
	struct stfs_str file = refused_cases[_i].file;
	STFS_AUTO_BUF struct stfs_buf name = STFS_BUF_INIT;
	char text[STFS_QUOTED_MAX];
	int r;

	stfs_buf_puts(&name, "kept");
	r = stfs_name_decode(file, &name);
	ck_assert_msg(r == refused_cases[_i].r, "\"%s\": got %d, want %d",
		      stfs_quote(file, text), r, refused_cases[_i].r);
	stfs_check_str_eq(stfs_buf_str(&name), stfs_str_from("kept"), "buffer");
}
END_TEST

START_TEST(decode_appends)
{
	STFS_AUTO_BUF struct stfs_buf name = STFS_BUF_INIT;

	stfs_buf_puts(&name, "a");
	ck_assert_int_eq(stfs_name_decode(stfs_str_from("%2Fb"), &name), 0);
	ck_assert_int_eq(stfs_name_decode(stfs_str_from("%empty"), &name), 0);
	stfs_check_str_eq(stfs_buf_str(&name), stfs_str_from("a/b"), "buffer");
}
END_TEST

/* `count` times `unit`, then `tail`. */
static struct stfs_str repeat(struct stfs_buf *into, const char *unit, size_t count,
			      const char *tail)
{
	stfs_buf_clear(into);
	for (size_t i = 0; i < count; i++)
		stfs_buf_puts(into, unit);
	stfs_buf_puts(into, tail);
	ck_assert_int_eq(stfs_buf_status(into), 0);
	return stfs_buf_str(into);
}

/* The hashes are those of sha256sum. */
static const struct {
	const char *unit;
	size_t count;
	const char *tail;
	size_t prefix;    /* bytes of the file name before "%~" */
	const char *hash; /* NULL where the name is short enough */
} long_cases[] = {
	{"a", 240, "", 240, NULL},
	{"a", 241, "", 206, "ec6e326ef29fe322b62111584194c54e"},
	{"a", 300, "", 206, "9835fa6bf4e20a9b9ea812506302e989"},
	{"é", 120, "", 240, NULL},
	{"é", 200, "", 206, "df20b2aa6262e99e133aa7f3614be707"},
	/* 203 bytes and a character of four: the shortest prefix. */
	{"a", 203, "😀😀😀😀😀😀😀😀😀😀", 203, "b51fe86704d49f5af905b811a79fd4e5"},
	/* The escape of the last byte counts: 238 + 3 bytes. */
	{"a", 237, "~", 240, NULL},
	{"a", 238, "~", 206, NULL},
	{"a", 239, "~", 206, "e440d02853ebe92df2a9f45c25ef6669"},
	{"/", 80, "", 240, NULL},
	{"/", 81, "", 204, NULL},
	{"a", 236, ".npy", 206, NULL},
};

START_TEST(long_names)
{
	STFS_AUTO_BUF struct stfs_buf name = STFS_BUF_INIT, back = STFS_BUF_INIT;
	char out[STFS_NAME_MAX + 1];
	struct stfs_str file, stem, source;
	size_t prefix = long_cases[_i].prefix;

	source = repeat(&name, long_cases[_i].unit, long_cases[_i].count, long_cases[_i].tail);
	file = stfs_str_slice(out, stfs_name_encode(source, out));
	ck_assert_int_eq(stfs_file_classify(file, &stem), STFS_FILE_TENSOR);
	if (prefix == STFS_NAME_MAX) {
		ck_assert_uint_eq(file.len, STFS_NAME_MAX);
		ck_assert(!stfs_name_is_hashed(file));
		ck_assert_int_eq(stfs_name_decode(file, &back), 0);
		stfs_check_str_eq(stfs_buf_str(&back), source, "decoded");
		return;
	}
	ck_assert_uint_eq(file.len, prefix + 34);
	ck_assert(memcmp(out + prefix, "%~", 2) == 0);
	if (long_cases[_i].hash)
		ck_assert_str_eq(out + prefix + 2, long_cases[_i].hash);
	ck_assert(stfs_name_is_hashed(file));
	ck_assert_int_eq(stfs_name_decode(file, &back), -ENOENT);
}
END_TEST

START_TEST(long_file_refused)
{
	STFS_AUTO_BUF struct stfs_buf file = STFS_BUF_INIT, name = STFS_BUF_INIT;

	repeat(&file, "a", STFS_NAME_MAX + 1, "");
	ck_assert_int_eq(stfs_name_decode(stfs_buf_str(&file), &name), -ENAMETOOLONG);
	/* Before all other errors. */
	repeat(&file, "a", STFS_NAME_MAX, "\xff");
	ck_assert_int_eq(stfs_name_decode(stfs_buf_str(&file), &name), -ENAMETOOLONG);
	/* The file fits, but its name would not be spelled so. */
	repeat(&file, "a", STFS_NAME_MAX - 1, "~");
	ck_assert_int_eq(stfs_name_decode(stfs_buf_str(&file), &name), -EINVAL);
}
END_TEST

#define HASH "0123456789abcdef0123456789abcdef"

/* 203 bytes of prefix and a tail; the first byte or the tail may spoil it. */
static const struct {
	const char *head;
	size_t count;
	const char *tail;
	bool hashed;
} hashed_cases[] = {
	{"", 203, "%~" HASH, true},
	{"", 206, "%~" HASH, true},
	{"", 202, "%~" HASH, false},
	{"", 207, "%~" HASH, false},
	{"%2F", 200, "%~" HASH, true},
	{"", 200, "%2F%~" HASH, true},
	{"", 199, ".json%~" HASH, true},
	{"", 199, ".jso%6E%~" HASH, false},
	{"%2f", 200, "%~" HASH, false},
	{"%41", 200, "%~" HASH, false},
	{"%", 203, "%~" HASH, false},
	{".", 203, "%~" HASH, false},
	{"\xff", 203, "%~" HASH, false},
	{"%80", 203, "%~" HASH, false},
	{"", 204, "%2%~" HASH, false},
	{"", 205, "%~" "0123456789ABCDEF0123456789ABCDEF", false},
	{"", 205, "%~" "g123456789abcdef0123456789abcdef", false},
	{"", 205, "%~" "0123456789abcdef0123456789abcde/", false},
	{"", 205, "%~" "0123456789abcdef0123456789abcde:", false},
	{"", 205, "%~" "0123456789abcdef0123456789abcde`", false},
	{"", 205, "~~" HASH, false},
	{"", 205, "%%" HASH, false},
	{"", 206, "%~" "123456789abcdef0123456789abcdef", false},
};

START_TEST(hashed_form)
{
	STFS_AUTO_BUF struct stfs_buf file = STFS_BUF_INIT, name = STFS_BUF_INIT;
	bool hashed = hashed_cases[_i].hashed;
	int r;

	stfs_buf_puts(&file, hashed_cases[_i].head);
	stfs_buf_fill(&file, 'a', hashed_cases[_i].count);
	stfs_buf_puts(&file, hashed_cases[_i].tail);
	ck_assert_int_eq(stfs_buf_status(&file), 0);
	ck_assert_int_eq(stfs_name_is_hashed(stfs_buf_str(&file)), hashed);
	r = stfs_name_decode(stfs_buf_str(&file), &name);
	ck_assert_int_eq(r == -ENOENT, hashed);
}
END_TEST

/*
 * What must hold of every file name that the encoder gives, said without its code; NULL or what is
 * wrong. (An assertion costs a system call, so loops look first and assert once.)
 */
static const char *what_is_bad(struct stfs_str file)
{
	static const char *const bad_endings[] = {".json", ".npy", "~", ".swp", ".part", ".partial",
						  ".crdownload"};
	static const char *const bad_names[] = {"", "4913", "Thumbs.db", "desktop.ini",
						"__metadata__"};
	struct stfs_str stem;

	if (file.len > STFS_NAME_MAX)
		return "its length";
	if (stfs_utf8_check(file.ptr, file.len) != file.len)
		return "its UTF-8";
	for (size_t i = 0; i < file.len; i++)
		if ((unsigned char)file.ptr[i] < 0x20 || file.ptr[i] == 0x7f || file.ptr[i] == '/')
			return "a byte";
	for (size_t i = 0; i < STFS_CHECK_COUNT(bad_endings); i++)
		if (stfs_str_ends_with(file, bad_endings[i]))
			return bad_endings[i];
	for (size_t i = 0; i < STFS_CHECK_COUNT(bad_names); i++)
		if (stfs_str_is(file, bad_names[i]))
			return bad_names[i];
	if (file.ptr[0] == '.')
		return "a leading dot";
	if (file.len > 2 && file.ptr[0] == '#' && file.ptr[file.len - 1] == '#')
		return "#...#";
	return stfs_file_classify(file, &stem) == STFS_FILE_TENSOR ? NULL : "its kind";
}

static void assert_good_file(struct stfs_str file)
{
	char text[STFS_QUOTED_MAX];
	const char *bad = what_is_bad(file);

	ck_assert_msg(!bad, "\"%s\" has %s", stfs_quote(file, text), bad);
}

/* The sidecar and array names of a good file name must lead back to it. */
static void assert_good_siblings(struct stfs_str file)
{
	char sibling[STFS_NAME_MAX + 8];
	struct stfs_str stem;
	int len;

	len = snprintf(sibling, sizeof(sibling), "%.*s.json", (int)file.len, file.ptr);
	ck_assert_int_eq(stfs_file_classify(stfs_str_slice(sibling, (size_t)len), &stem),
			 STFS_FILE_SIDECAR);
	stfs_check_str_eq(stem, file, "stem of the sidecar");
	len = snprintf(sibling, sizeof(sibling), "%.*s.npy", (int)file.len, file.ptr);
	ck_assert_int_eq(stfs_file_classify(stfs_str_slice(sibling, (size_t)len), &stem),
			 STFS_FILE_NPY);
	stfs_check_str_eq(stem, file, "stem of the array");
}

static void assert_round_trip(struct stfs_str name)
{
	STFS_AUTO_BUF struct stfs_buf back = STFS_BUF_INIT;
	char out[STFS_NAME_MAX + 1];
	struct stfs_str file = stfs_str_slice(out, stfs_name_encode(name, out));

	ck_assert_uint_eq(strlen(out), file.len);
	assert_good_file(file);
	assert_good_siblings(file);
	if (stfs_name_is_hashed(file)) {
		/* 240 / 3: a name of that size always fits. */
		ck_assert_uint_gt(name.len, 80);
		ck_assert_int_eq(stfs_name_decode(file, &back), -ENOENT);
		return;
	}
	ck_assert_int_eq(stfs_name_decode(file, &back), 0);
	stfs_check_str_eq(stfs_buf_str(&back), name, out);
}

START_TEST(two_bytes)
{
	char name[2];

	for (int a = 0; a < 0x80; a++) {
		name[0] = (char)a;
		assert_round_trip(stfs_str_slice(name, 1));
		for (int b = 0; b < 0x80; b++) {
			name[1] = (char)b;
			assert_round_trip(stfs_str_slice(name, 2));
		}
	}
}
END_TEST

static const struct stfs_str dangerous[] = {
	LIT("."), LIT("/"), LIT("%"), LIT("~"), LIT("\0"), LIT("\x1f"), LIT("\x7f"), LIT("#"),
	LIT(".json"), LIT(".npy"), LIT("__metadata__"), LIT("__metadata__.json"), LIT(".swp"),
	LIT(".part"), LIT(".partial"), LIT(".crdownload"), LIT("4913"), LIT("Thumbs.db"),
	LIT("desktop.ini"), LIT("%2F"), LIT("%empty"), LIT("%~"), LIT("%6E"), LIT("empty"),
	LIT("json"), LIT(".stfs"), LIT("é"), LIT("漢"), LIT("😀"), LIT("a"),
};

static void add_random_character(struct stfs_buf *name, uint64_t *random)
{
	static const uint32_t bounds[] = {0x80, 0x80, 0x800, 0x10000, 0x110000};
	uint32_t code = (uint32_t)stfs_check_below(random, bounds[stfs_check_below(random, 5)]);
	char bytes[4];

	if (code < 0xd800 || code > 0xdfff)
		stfs_buf_add(name, bytes, stfs_utf8_put(code, bytes));
}

/* A name of dangerous pieces and random characters, often around the longest that fits. */
static void random_name(struct stfs_buf *name, uint64_t *random)
{
	size_t pieces = stfs_check_below(random, 6);

	stfs_buf_clear(name);
	if (stfs_check_below(random, 4) == 0)
		stfs_buf_fill(name, 'a', 190 + stfs_check_below(random, 60));
	for (size_t i = 0; i < pieces; i++) {
		if (stfs_check_below(random, 3) == 0)
			add_random_character(name, random);
		else
			stfs_buf_add_str(name, dangerous[stfs_check_below(
				random, STFS_CHECK_COUNT(dangerous))]);
	}
	ck_assert_int_eq(stfs_buf_status(name), 0);
}

START_TEST(round_trip)
{
	STFS_AUTO_BUF struct stfs_buf name = STFS_BUF_INIT;
	uint64_t random = stfs_check_seed();

	for (int i = 0; i < 30000; i++) {
		random_name(&name, &random);
		assert_round_trip(stfs_buf_str(&name));
	}
}
END_TEST

struct pair {
	char *name;
	size_t len;
	char file[STFS_NAME_MAX + 1];
};

static int compare_files(const void *a, const void *b)
{
	const struct pair *left = a, *right = b;

	return strcmp(left->file, right->file);
}

START_TEST(distinct)
{
	enum { PAIRS = 20000 };
	struct pair *pairs = calloc(PAIRS, sizeof(*pairs));
	uint64_t random = stfs_check_seed() + 1;
	STFS_AUTO_BUF struct stfs_buf name = STFS_BUF_INIT;

	ck_assert_ptr_nonnull(pairs);
	for (size_t i = 0; i < PAIRS; i++) {
		random_name(&name, &random);
		pairs[i].len = name.len;
		pairs[i].name = malloc(name.len + 1);
		ck_assert_ptr_nonnull(pairs[i].name);
		memcpy(pairs[i].name, stfs_buf_cstr(&name), name.len + 1);
		stfs_name_encode(stfs_buf_str(&name), pairs[i].file);
	}
	qsort(pairs, PAIRS, sizeof(*pairs), compare_files);
	for (size_t i = 1; i < PAIRS; i++)
		if (strcmp(pairs[i - 1].file, pairs[i].file) == 0)
			stfs_check_str_eq(stfs_str_slice(pairs[i].name, pairs[i].len),
					  stfs_str_slice(pairs[i - 1].name, pairs[i - 1].len),
					  pairs[i].file);
	for (size_t i = 0; i < PAIRS; i++)
		free(pairs[i].name);
	free(pairs);
}
END_TEST

/* Either refused with the buffer untouched, or exactly what the name encodes to. */
static void assert_decodes_or_fails(struct stfs_str given)
{
	STFS_AUTO_BUF struct stfs_buf name = STFS_BUF_INIT;
	char out[STFS_NAME_MAX + 1], text[STFS_QUOTED_MAX];
	/* Exactly as long as it is, so that the sanitizer sees a look beyond. */
	STFS_AUTO_FREE char *exact = malloc(given.len ? given.len : 1);
	struct stfs_str file = {exact, given.len};
	int r;

	if (!exact)
		ck_abort_msg("no memory");
	if (given.len)
		memcpy(exact, given.ptr, given.len);
	r = stfs_name_decode(file, &name);
	stfs_quote(file, text);
	if (r == 0) {
		ck_assert_uint_eq(stfs_utf8_check(name.data, name.len), name.len);
		stfs_check_str_eq(stfs_str_slice(out, stfs_name_encode(stfs_buf_str(&name), out)),
				  file, text);
		return;
	}
	ck_assert_uint_eq(name.len, 0);
	ck_assert_msg((r == -ENAMETOOLONG) == (file.len > STFS_NAME_MAX), "\"%s\": %d", text, r);
	ck_assert_msg(r == -ENAMETOOLONG || (r == -EILSEQ) ==
		      (stfs_utf8_check(file.ptr, file.len) < file.len), "\"%s\": %d", text, r);
	ck_assert_msg((r == -ENOENT) == stfs_name_is_hashed(file), "\"%s\": %d", text, r);
	ck_assert_msg(r == -ENAMETOOLONG || r == -EILSEQ || r == -ENOENT || r == -EINVAL,
		      "\"%s\": %d", text, r);
}

START_TEST(decode_random)
{
	static const struct stfs_str pieces[] = {
		LIT("%"), LIT("%2"), LIT("%2F"), LIT("%2E"), LIT("%2f"), LIT("%7E"), LIT("%6E"),
		LIT("%25"), LIT("%00"), LIT("%1F"), LIT("%80"), LIT("%empty"), LIT("%~"), LIT("."),
		LIT("~"), LIT("/"), LIT(".jso"), LIT("n"), LIT(".np"), LIT("%79"), LIT("é"),
		LIT("\xff"), LIT("\xc3"), LIT("a"), LIT("F"), LIT("__metadata_"), LIT("%5F"),
		LIT("491"), LIT("%33"), LIT("#"), LIT("%23"), LIT("\0"),
	};
	STFS_AUTO_BUF struct stfs_buf file = STFS_BUF_INIT;
	uint64_t random = stfs_check_seed() + 2;

	for (int i = 0; i < 100000; i++) {
		stfs_buf_clear(&file);
		if (stfs_check_below(&random, 8) == 0)
			stfs_buf_fill(&file, 'a', 220 + stfs_check_below(&random, 25));
		for (size_t k = stfs_check_below(&random, 6); k > 0; k--)
			stfs_buf_add_str(&file, pieces[stfs_check_below(
				&random, STFS_CHECK_COUNT(pieces))]);
		ck_assert_int_eq(stfs_buf_status(&file), 0);
		assert_decodes_or_fails(stfs_buf_str(&file));
	}
}
END_TEST

/* One byte of a good file name changed: what still decodes must be canonical too. */
START_TEST(decode_near_misses)
{
	static const char bytes[] = "%.~/#0123456789ABCDEFabcdefnpyjsoemt_\x7f\xc3";
	STFS_AUTO_BUF struct stfs_buf name = STFS_BUF_INIT;
	char out[STFS_NAME_MAX + 1];
	uint64_t random = stfs_check_seed() + 3;

	for (int i = 0; i < 50000; i++) {
		size_t len;

		random_name(&name, &random);
		len = stfs_name_encode(stfs_buf_str(&name), out);
		out[stfs_check_below(&random, len)] =
			bytes[stfs_check_below(&random, sizeof(bytes) - 1)];
		assert_decodes_or_fails(stfs_str_slice(out, len));
	}
}
END_TEST

/* A name need not be UTF-8 by mistake of the caller; nothing may be overrun. */
START_TEST(encode_bad_utf8)
{
	STFS_AUTO_BUF struct stfs_buf name = STFS_BUF_INIT;
	uint64_t random = stfs_check_seed() + 4;
	char out[STFS_NAME_MAX + 1];

	for (int i = 0; i < 2000; i++) {
		stfs_buf_clear(&name);
		for (size_t k = stfs_check_below(&random, 300); k > 0; k--)
			stfs_buf_putc(&name, (char)stfs_check_random(&random));
		ck_assert_uint_le(stfs_name_encode(stfs_buf_str(&name), out), STFS_NAME_MAX);
	}
}
END_TEST

START_TEST(encode_megabyte)
{
	STFS_AUTO_BUF struct stfs_buf name = STFS_BUF_INIT;
	char out[STFS_NAME_MAX + 1];
	size_t len;

	ck_assert_int_eq(stfs_buf_fill(&name, '\0', 1000000), 0);
	len = stfs_name_encode(stfs_buf_str(&name), out);
	ck_assert_uint_eq(len, 68 * 3 + 34);
	ck_assert_str_eq(out + 68 * 3, "%~d29751f2649b32ff572b5e0a9f541ea6");
}
END_TEST

static Suite *names_suite(void)
{
	Suite *suite = suite_create("names");
	TCase *table = tcase_create("table"), *property = tcase_create("property");

	tcase_add_loop_test(table, encode_table, 0, STFS_CHECK_COUNT(encode_cases));
	tcase_add_loop_test(table, classify_table, 0, STFS_CHECK_COUNT(classify_cases));
	tcase_add_loop_test(table, decode_refused, 0, STFS_CHECK_COUNT(refused_cases));
	tcase_add_test(table, decode_appends);
	tcase_add_loop_test(table, long_names, 0, STFS_CHECK_COUNT(long_cases));
	tcase_add_test(table, long_file_refused);
	tcase_add_loop_test(table, hashed_form, 0, STFS_CHECK_COUNT(hashed_cases));
	tcase_add_test(table, encode_megabyte);
	suite_add_tcase(suite, table);
	tcase_set_timeout(property, 60);
	tcase_add_test(property, two_bytes);
	tcase_add_test(property, round_trip);
	tcase_add_test(property, distinct);
	tcase_add_test(property, decode_random);
	tcase_add_test(property, decode_near_misses);
	tcase_add_test(property, encode_bad_utf8);
	suite_add_tcase(suite, property);
	return suite;
}

int main(void)
{
	return stfs_check_main(names_suite());
}
