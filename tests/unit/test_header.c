/* SPDX-License-Identifier: MIT */
#include "stfs_check.h"

#include <errno.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/buf.h"
#include "unit/header_tools.h"

#define LIT STFS_CHECK_LIT

/* ---- What is found, and where ---- */

/*
 * A header's text and what must be found in it, in order: "rule@A" at the place of @A in the text
 * (the marks are taken out), "rule@+N" at byte N of the data. The text is padded to 8 first.
 */
struct judged {
	const char *name, *text;
	uint64_t data_len;
	const char *findings;
};

#define A2 "{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}"
#define B2 "{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,4]}"
#define EMPTY "{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}"
#define FIELDS(dtype, shape, offsets) "{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}"
#define SHAPE(shape) "{\"a\":" FIELDS("\"U8\"", shape, "[0,2]") "}"
#define OFFSETS(offsets) "{\"a\":" FIELDS("\"U8\"", "[2]", offsets) "}"
#define DTYPE(dtype) "{\"a\":" FIELDS(dtype, "[2]", "[0,2]") "}"
#define EXTRA(member) "{\"a\":{\"dtype\":\"U8\"," member ",\"shape\":[2],\"data_offsets\":[0,2]}}"

static const struct judged judged_cases[] = {
	{"nothing", "{}", 0, ""},
	{"one", "{\"a\":" A2 "}", 2, ""},
	{"spaces", " @A{ \"a\" : " A2 " } ", 2, "leading-space@0"},
	{"newline behind", "{\"a\":" A2 "}  @A\n", 2, "trailing-space@A"},
	{"not JSON", "{\"a\":" A2 ",@A}", 2, "json-syntax@A"},
	{"two objects", "{}@A{}", 0, "json-syntax@A"},
	{"array", "@A[]", 0, "json-syntax@A"},
	{"not UTF-8", "{\"a@A\xff\":" A2 "}", 2, "not-utf8@A"},
	{"not UTF-8 before a syntax error", "[\"@A\xc3\"]", 2, "not-utf8@A"},
	/* duplicates */
	{"tensor twice", "{\"a\":" A2 ",@A\"a\":" A2 "}", 2, "duplicate-key@A"},
	{"tensor twice, escaped", "{\"a\":" A2 ",@A\"\\u0061\":" A2 "}", 2, "duplicate-key@A"},
	{"tensor thrice", "{\"a\":" A2 ",@A\"a\":" A2 ",@B\"a\":" A2 "}", 2,
	 "duplicate-key@A duplicate-key@B"},
	{"first of two overflows", "{\"a\":" FIELDS("\"U8\"", "[8589934592,8589934592]", "[0,0]") ",@A\"a\":" A2 "}",
	 2, "duplicate-key@A"},
	{"last of two overflows", "{\"a\":" A2 ",@A\"a\":" FIELDS("\"U8\"", "@B[8589934592,8589934592]", "[0,0]") "}",
	 2, "duplicate-key@A shape-overflow@B"},
	{"first of two misplaced", "{\"a\":" FIELDS("\"U8\"", "[3]", "[9,2]") ",@A\"a\":" A2 "}", 2, "duplicate-key@A"},
	{"in an ignored value", EXTRA("@A\"x\":[{\"k\":1,@B\"k\":2}]"), 2, "entry-extra-key@A duplicate-key@B"},
	{"the same key in two ignored objects", EXTRA("@A\"x\":[{\"k\":1},{\"k\":1}]"), 2, "entry-extra-key@A"},
	{"the same key further in", EXTRA("@A\"x\":{\"x\":{\"x\":1},\"shape\":1}"), 2, "entry-extra-key@A"},
	{"the same key in two entries", "{\"a\":" A2 ",\"dtype\":" B2 "}", 4, ""},
	{"in metadata", "{\"__metadata__\":{\"k\":\"\",@A\"\\u006b\":\"\"},\"a\":" A2 "}", 2, "duplicate-key@A"},
	{"ignored key", EXTRA("@A\"x\":1,@B\"x\":2"), 2, "entry-extra-key@A entry-extra-key@B duplicate-key@B"},
	/* metadata */
	{"metadata", "{\"__metadata__\":{\"k\":\"v\"},\"a\":" A2 "}", 2, ""},
	{"metadata null", "{\"__metadata__\":@Anull,\"a\":" A2 "}", 2, "metadata-null@A"},
	{"metadata array", "{\"__metadata__\":@A[],\"a\":" A2 "}", 2, "metadata-type@A"},
	{"metadata number", "{\"__metadata__\":{\"k\":@A1},\"a\":" A2 "}", 2, "metadata-value@A"},
	{"metadata object", "{\"__metadata__\":{\"k\":@A{\"x\":1,@B\"x\":1}},\"a\":" A2 "}", 2,
	 "metadata-value@A duplicate-key@B"},
	{"metadata twice", "{\"__metadata__\":{},\"a\":" A2 ",@A\"__metadata__\":{}}", 2, "metadata-twice@A"},
	{"metadata null and again", "{\"__metadata__\":@Anull,\"a\":" A2 ",@B\"__metadata__\":{}}", 2,
	 "metadata-null@A metadata-twice@B"},
	/* entries */
	{"entry number", "{\"a\":@A1}", 0, "entry-type@A"},
	{"entry string", "{\"a\": @A\"x\"}", 0, "entry-type@A"},
	{"entry array", "{\"a\":@A[\"U8\",[2],[0,2]]}", 2, "entry-array@A"},
	{"entry array of 2", "{\"a\":@A[\"U8\",[2]]}", 0, "entry-array@A entry-type@A"},
	{"entry array of 4", "{\"a\":@A[\"U8\",[2],[0,2],{}]}", 2, "entry-array@A entry-type@A"},
	{"field twice", "{\"a\":{\"shape\":[2],\"dtype\":\"U8\",@A\"shape\":[2],\"data_offsets\":[0,2]}}", 2,
	 "entry-field-twice@A"},
	{"field twice, escaped", "{\"a\":{\"dtype\":\"U8\",@A\"dt\\u0079pe\":1,\"shape\":[2],\"data_offsets\":[0,2]}}", 2,
	 "entry-field-twice@A"},
	{"nothing in it", "{\"a\":@A{}}", 0, "entry-field-missing@A entry-field-missing@A entry-field-missing@A"},
	{"no shape", "{\"a\":@A{\"dtype\":\"U8\",\"data_offsets\":[0,0]}}", 0, "entry-field-missing@A"},
	{"extra key", EXTRA("@A\"x\":[1,{\"y\":null}]"), 2, "entry-extra-key@A"},
	/* fields */
	{"dtype number", DTYPE("@A1"), 2, "dtype-type@A"},
	{"dtype array", DTYPE("@A[\"U8\"]"), 2, "dtype-type@A"},
	{"dtype unknown", DTYPE("\"@Au8\""), 2, "dtype-unknown@A"},
	{"dtype with NUL", DTYPE("\"@AU8\\u0000\""), 2, "dtype-unknown@A"},
	{"dtype object", DTYPE("@A{\"U8\":null}"), 2, "dtype-object@A"},
	{"dtype object of {}", DTYPE("@A{\"U8\":@B{}}"), 2, "dtype-object@A dtype-type@B"},
	{"dtype object of 1", DTYPE("@A{\"U8\":@B1}"), 2, "dtype-object@A dtype-type@B"},
	{"dtype object of two", DTYPE("@A{\"U8\":null,\"U8x\":1}"), 2, "dtype-object@A dtype-type@A"},
	{"dtype object, twice", DTYPE("@A{\"U8\":null,@B\"U8\":null}"), 2, "dtype-object@A duplicate-key@B dtype-type@A"},
	{"dtype object of none", DTYPE("@A{}"), 2, "dtype-object@A dtype-type@A"},
	{"dtype object unknown", DTYPE("@A{\"@BX\":null}"), 2, "dtype-object@A dtype-unknown@B"},
	{"shape number", SHAPE("@A2"), 2, "shape-type@A"},
	{"shape of strings", SHAPE("[@A\"2\"]"), 2, "shape-type@A"},
	{"shape of arrays", SHAPE("[@A[2]]"), 2, "shape-type@A"},
	{"shape of reals", SHAPE("[@A2.0,@B-1,@C-0,@D1e0]"), 2,
	 "shape-type@A shape-type@B shape-type@C shape-type@D"},
	{"shape beyond 64 bits", SHAPE("[@A18446744073709551616]"), 2, "shape-type@A"},
	{"shape overflows", SHAPE("@A[9223372036854775808,2,0]"), 2, "shape-overflow@A"},
	{"shape overflows later", "{\"a\":" FIELDS("\"U8\"", "@A[0,9223372036854775808,2]", "[0,0]") "}", 0,
	 "shape-order@A"},
	{"bits overflow", "{\"a\":" FIELDS("\"U8\"", "@A[2305843009213693952]", "[0,0]") "}", 0,
	 "shape-overflow@A"},
	{"bits just do not", "{\"a\":@A" FIELDS("\"U8\"", "[2305843009213693951]", "[0,2305843009213693951]") "}", 0,
	 "truncated@A"},
	{"offsets object", OFFSETS("@A{}"), 2, "offsets-type@A"},
	{"offsets of one", OFFSETS("@A[0]"), 2, "offsets-type@A"},
	{"offsets of three", OFFSETS("@A[0,2,2]"), 2, "offsets-type@A"},
	{"offsets of reals", OFFSETS("[0,@A2.0]"), 2, "offsets-type@A"},
	{"offsets negative", OFFSETS("[@A-0,2]"), 2, "offsets-type@A"},
	/* the layout */
	{"reversed", "{\"a\":@A" FIELDS("\"U8\"", "[2]", "[2,0]") "}", 2,
	 "offsets-reversed@A hole@A trailing-bytes@+0"},
	{"ragged", "{\"a\":" FIELDS("\"F4\"", "@A[3]", "[0,2]") "}", 2, "sub-byte@A"},
	{"one byte more", "{\"a\":@A" FIELDS("\"U8\"", "[2]", "[0,3]") "}", 3, "size-mismatch@A"},
	{"one byte less", "{\"a\":@A" FIELDS("\"U8\"", "[2]", "[0,1]") "}", 1, "size-mismatch@A"},
	{"two", "{\"a\":" A2 ",\"b\":" B2 "}", 4, ""},
	{"two swapped", "{\"a\":" B2 ",\"b\":" A2 "}", 4, ""},
	{"overlap", "{\"a\":" A2 ",\"b\":@A" FIELDS("\"U8\"", "[2]", "[1,3]") "}", 3, "overlap@A"},
	{"same place", "{\"a\":" A2 ",\"b\":@A" A2 "}", 2, "overlap@A"},
	{"one within", "{\"b\":@A" FIELDS("\"U8\"", "[1]", "[1,2]") ",\"a\":" A2 "}", 2, "overlap@A"},
	{"one behind one within",
	 "{\"a\":" FIELDS("\"U8\"", "[4]", "[0,4]") ",\"b\":@A" FIELDS("\"U8\"", "[1]", "[1,2]") ",\"c\":@B"
	 FIELDS("\"U8\"", "[2]", "[2,4]") "}", 4, "overlap@A overlap@B"},
	{"empty within", "{\"a\":" A2 ",\"b\":@A" FIELDS("\"U8\"", "[0]", "[1,1]") "}", 2, "overlap@A"},
	{"empty at the start", "{\"a\":" A2 ",\"b\":" EMPTY "}", 2, ""},
	{"hole", "{\"a\":" A2 ",\"b\":@A" FIELDS("\"U8\"", "[2]", "[3,5]") "}", 5, "hole@A"},
	{"hole at the start", "{\"b\":@A" B2 "}", 4, "hole@A"},
	{"truncated", "{\"a\":" A2 ",\"b\":@A" B2 "}", 3, "truncated@A"},
	{"two truncated", "{\"a\":@A" A2 ",\"b\":@B" B2 "}", 1, "truncated@A truncated@B"},
	{"trailing", "{\"a\":" A2 "}", 5, "trailing-bytes@+2"},
	{"trailing alone", "{}", 1, "trailing-bytes@+0"},
	{"unaligned", "{\"a\":" FIELDS("\"U8\"", "[1]", "[0,1]") ",\"b\":@A" FIELDS("\"U16\"", "[1]", "[1,3]") "}", 3,
	 "unaligned-tensor@A"},
	{"unaligned but empty", "{\"a\":" FIELDS("\"U8\"", "[1]", "[0,1]") ",\"b\":" FIELDS("\"U16\"", "[0]", "[1,1]") "}",
	 1, ""},
};

/* Takes the marks out of a text; places[i] is where mark 'A' + i stood. */
static void take_marks(const char *text, struct stfs_buf *out, size_t places[26])
{
	for (const char *p = text; *p; p++) {
		if (*p == '@')
			places[*++p - 'A'] = out->len;
		else
			stfs_buf_putc(out, *p);
	}
}

/* A whole file: the text padded with spaces to a multiple of 8, `data_len` zeros behind it. */
static void make_file(struct stfs_str text, uint64_t data_len, struct stfs_buf *out)
{
	char word[STFS_LENGTH_WORD];

	stfs_store_le64(word, stfs_align_up(text.len, 8));
	stfs_buf_add(out, word, sizeof(word));
	stfs_buf_add_str(out, text);
	stfs_buf_fill(out, ' ', stfs_align_up(text.len, 8) - text.len);
	ck_assert_int_eq(stfs_buf_fill(out, 0, data_len), 0);
}

static void read_text(const char *text, uint64_t data_len, struct stfs_test_file *file)
{
	STFS_AUTO_BUF struct stfs_buf bytes = STFS_BUF_INIT;

	make_file(stfs_str_from(text), data_len, &bytes);
	ck_assert_int_eq(stfs_test_read(bytes.data, bytes.len, file), 0);
}

static void describe_findings(const struct stfs_findings *findings, struct stfs_buf *out)
{
	for (size_t i = 0; i < findings->count; i++)
		stfs_buf_printf(out, "%s%s@%" PRIu64, i ? " " : "",
				stfs_rule_info(findings->items[i].rule)->name,
				findings->items[i].position);
	ck_assert(stfs_buf_cstr(out));
}

/* "rule@A" with the byte in place of A. */
static void resolve_marks(const char *wanted, const size_t places[26], uint64_t data_start,
			  struct stfs_buf *out)
{
	for (const char *p = wanted; *p; p++) {
		stfs_buf_putc(out, *p);
		if (*p != '@')
			continue;
		if (p[1] == '+')
			stfs_buf_printf(out, "%" PRIu64, data_start + (uint64_t)atoll(p + 2));
		else if (p[1] == '0')
			stfs_buf_printf(out, "%d", STFS_LENGTH_WORD);
		else
			stfs_buf_printf(out, "%zu", STFS_LENGTH_WORD + places[p[1] - 'A']);
		for (p++; p[1] && p[1] != ' '; p++)
			;
	}
	ck_assert(stfs_buf_cstr(out));
}

START_TEST(finds_rule_and_byte)
{
	const struct judged *c = &judged_cases[_i];
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	STFS_AUTO_BUF struct stfs_buf bytes = STFS_BUF_INIT;
	STFS_AUTO_BUF struct stfs_buf got = STFS_BUF_INIT;
	STFS_AUTO_BUF struct stfs_buf want = STFS_BUF_INIT;
	struct stfs_test_file file;
	size_t places[26] = {0};
	const char *broken;

	take_marks(c->text, &text, places);
	make_file(stfs_buf_str(&text), c->data_len, &bytes);
	ck_assert_int_eq(stfs_test_read(bytes.data, bytes.len, &file), 0);
	describe_findings(&file.findings, &got);
	resolve_marks(c->findings, places, bytes.len - c->data_len, &want);
	ck_assert_msg(strcmp(got.data, want.data) == 0, "%s: found \"%s\", want \"%s\"", c->name, got.data,
		      want.data);
	broken = stfs_test_broken_invariant(&file);
	ck_assert_msg(!broken, "%s: %s", c->name, broken);
	stfs_test_file_free(&file);
}
END_TEST

static const struct {
	uint64_t n, file_len;
	size_t word_len;
	const char *finding; /* NULL: none */
} length_cases[] = {
	{0, 0, 0, "file-too-small@0"},
	{0, 7, 7, "file-too-small@7"},
	{0, 8, 8, NULL},
	{2, 10, 8, NULL},
	{2, 7, 8, "file-too-small@7"}, /* it grew between fstat and pread */
	{UINT64_MAX - 8, 0, 8, "file-too-small@0"},
	{2, 10, 3, "file-too-small@3"}, /* it shrank */
	{2, 9, 8, "header-beyond-file@9"},
	{3, 10, 8, "header-beyond-file@10"},
	{100000000, 100000008, 8, NULL},
	{100000000, 100000007, 8, "header-beyond-file@100000007"},
	{100000001, UINT64_MAX, 8, "header-too-large@0"},
	{(uint64_t)1 << 32, UINT64_MAX, 8, "header-too-large@0"},
	{(uint64_t)1 << 63 | 2, UINT64_MAX, 8, "header-too-large@0"}, /* a commit's poison */
	{UINT64_MAX, UINT64_MAX, 8, "header-too-large@0"},
	{UINT64_MAX - 7, 8, 8, "header-too-large@0"},
};

START_TEST(judges_the_length_word)
{
	struct stfs_findings findings = STFS_FINDINGS_INIT;
	STFS_AUTO_BUF struct stfs_buf got = STFS_BUF_INIT;
	char word[STFS_LENGTH_WORD];
	uint32_t text_len = 77;
	int r;

	stfs_store_le64(word, length_cases[_i].n);
	r = stfs_header_length(word, length_cases[_i].word_len, length_cases[_i].file_len, &text_len, &findings);
	describe_findings(&findings, &got);
	if (length_cases[_i].finding) {
		ck_assert_int_eq(r, -EBADMSG);
		ck_assert_str_eq(got.data, length_cases[_i].finding);
	} else {
		ck_assert_int_eq(r, 0);
		ck_assert_uint_eq(text_len, length_cases[_i].n);
		ck_assert_uint_eq(findings.count, 0);
	}
	stfs_findings_free(&findings);
}
END_TEST

/* ---- dtypes ---- */

/* Names and bits as facts of the format, apart from the table under test. */
static const struct {
	const char *name;
	unsigned bits;
} dtypes[] = {
	{"BOOL", 8}, {"F4", 4}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8}, {"I8", 8}, {"F8_E5M2", 8},
	{"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16}, {"U16", 16},
	{"F16", 16}, {"BF16", 16}, {"I32", 32}, {"U32", 32}, {"F32", 32}, {"C64", 64}, {"F64", 64},
	{"I64", 64}, {"U64", 64},
};

START_TEST(knows_every_dtype)
{
	unsigned bits = dtypes[_i].bits;
	struct stfs_test_file file;
	char text[200];

	ck_assert_int_eq(STFS_CHECK_COUNT(dtypes), STFS_DTYPE_COUNT);
	for (unsigned wrong = 0; wrong < 2; wrong++) {
		snprintf(text, sizeof(text), "{\"a\":{\"dtype\":\"%s\",\"shape\":[2,4],\"data_offsets\":[0,%u]}}",
			 dtypes[_i].name, bits + wrong);
		read_text(text, bits + wrong, &file);
		ck_assert_uint_eq(file.findings.counts[STFS_RULE_SIZE_MISMATCH], wrong);
		ck_assert_uint_eq(file.findings.count, wrong);
		ck_assert_int_eq(file.header->tensors[0].dtype, _i);
		ck_assert_uint_eq(file.header->tensors[0].elements, 8);
		stfs_test_file_free(&file);
	}
}
END_TEST

/* ---- What can be asked of a header ---- */

#define ESCAPED "{\"__met\\u0061data__\":{\"k\\n\":\"v\\u0000\",\"\":\"\",\"b\":\"x\"},"                        \
		"\"a\\u0000b\":" FIELDS("\"U8\"", "[ 3\t,\n1 ]", "[4,7]") ",\"\":" EMPTY ",\"\\ud83d\\ude00\":" \
		FIELDS("\"U16\"", "[2,1,1]", "[0,4]") "}"

START_TEST(gives_names_shapes_and_order)
{
	struct stfs_test_file file;
	const struct stfs_header *h;
	uint64_t dims[3];

	read_text(ESCAPED, 7, &file);
	h = file.header;
	ck_assert_int_eq(stfs_test_level(&file), STFS_LEVEL_NOTE);
	ck_assert_uint_eq(h->count, 3);
	stfs_check_str_eq(stfs_header_name(h, &h->tensors[0]), ((struct stfs_str)LIT("a\0b")), "first");
	stfs_check_str_eq(stfs_header_name(h, &h->tensors[1]), ((struct stfs_str)LIT("")), "second");
	stfs_check_str_eq(stfs_header_name(h, &h->tensors[2]), ((struct stfs_str)LIT("😀")), "third");
	ck_assert_uint_eq(stfs_header_find(h, (struct stfs_str)LIT("a\0b")), 0);
	ck_assert_uint_eq(stfs_header_find(h, (struct stfs_str){NULL, 0}), 1);
	ck_assert_uint_eq(stfs_header_find(h, (struct stfs_str)LIT("😀")), 2);
	ck_assert_uint_eq(stfs_header_find(h, (struct stfs_str)LIT("a")), STFS_NO_TENSOR);
	ck_assert_uint_eq(stfs_header_find(h, (struct stfs_str)LIT("a\0c")), STFS_NO_TENSOR);
	ck_assert_uint_eq(stfs_header_find(h, (struct stfs_str)LIT("__metadata__")), STFS_NO_TENSOR);
	ck_assert_uint_eq(h->tensors[0].rank, 2);
	stfs_header_shape(h, &h->tensors[0], dims);
	ck_assert(dims[0] == 3 && dims[1] == 1);
	ck_assert_uint_eq(h->tensors[2].rank, 3);
	stfs_header_shape(h, &h->tensors[2], dims);
	ck_assert(dims[0] == 2 && dims[1] == 1 && dims[2] == 1);
	ck_assert_uint_eq(h->by_offset_count, 3);
	ck_assert(h->by_offset[0] == 1 && h->by_offset[1] == 2 && h->by_offset[2] == 0);
	ck_assert(h->tensors[0].begin == 4 && h->tensors[0].end == 7 && h->tensors[0].elements == 3);
	ck_assert_uint_eq(stfs_header_data_start(h) % 8, 0);
	ck_assert_uint_eq(h->slack, h->text_len - (sizeof(ESCAPED) - 1));
	stfs_test_file_free(&file);
}
END_TEST

/* However many there are, the table of names has an end to a search. */
START_TEST(finds_every_name_and_no_other)
{
	for (unsigned count = 0; count < 140; count++) {
		STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
		struct stfs_test_file file;
		char name[16];

		stfs_buf_putc(&text, '{');
		for (unsigned i = 0; i < count; i++)
			stfs_buf_printf(&text, "%s\"t%u\":" EMPTY, i ? "," : "", i);
		stfs_buf_putc(&text, '}');
		read_text(stfs_buf_cstr(&text), 0, &file);
		ck_assert_uint_eq(file.header->count, count);
		for (unsigned i = 0; i < 2 * count + 1; i++) {
			snprintf(name, sizeof(name), "t%u", i);
			ck_assert_uint_eq(stfs_header_find(file.header, stfs_str_from(name)),
					  i < count ? i : STFS_NO_TENSOR);
		}
		stfs_test_file_free(&file);
	}
}
END_TEST

static int join_pair(void *data, struct stfs_str key, struct stfs_str value)
{
	struct stfs_buf *out = data;

	stfs_buf_printf(out, "[%zu ", key.len);
	stfs_buf_add_str(out, key);
	stfs_buf_printf(out, "=%zu ", value.len);
	stfs_buf_add_str(out, value);
	stfs_buf_putc(out, ']');
	return stfs_str_is(key, "") ? 42 : 0;
}

static void join_metadata(const char *text, int want, struct stfs_str pairs)
{
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
	struct stfs_test_file file;

	read_text(text, 0, &file);
	ck_assert_int_eq(stfs_header_metadata(file.header, join_pair, &out), want);
	stfs_check_str_eq(stfs_buf_str(&out), pairs, text);
	stfs_test_file_free(&file);
}

START_TEST(gives_metadata_in_order)
{
	join_metadata("{}", 0, (struct stfs_str)LIT(""));
	join_metadata("{\"__metadata__\":{}}", 0, (struct stfs_str)LIT(""));
	join_metadata("{\"__metadata__\":null}", 0, (struct stfs_str)LIT(""));
	join_metadata("{\"__metadata__\": { \"b\" : \"1\" ,\"a\":\"2\"} }", 0, (struct stfs_str)LIT("[1 b=1 1][1 a=1 2]"));
	/* The caller's result ends it. */
	join_metadata(ESCAPED, 42, (struct stfs_str)LIT("[2 k\n=2 v\0][0 =0 ]"));
	/* What could not be read is not given, and is no failure. */
	join_metadata("{\"__metadata__\":{\"a\":\"1\",\"b\":2}}", 0, (struct stfs_str)LIT(""));
	join_metadata("{\"__metadata__\":[]}", 0, (struct stfs_str)LIT(""));
	join_metadata("{\"__metadata__\":{\"a\":\"1\"}", 0, (struct stfs_str)LIT(""));
}
END_TEST

START_TEST(the_last_of_two_wins)
{
	struct stfs_test_file file;

	read_text("{\"a\":" B2 ",\"b\":" FIELDS("\"I8\"", "[2]", "[2,4]") ",\"a\":" A2 "}", 4, &file);
	ck_assert_int_eq(stfs_test_level(&file), STFS_LEVEL_REFUSED);
	ck_assert_uint_eq(file.findings.count, 1);
	ck_assert_uint_eq(file.header->count, 3);
	ck_assert(file.header->tensors[0].shadowed && !file.header->tensors[2].shadowed);
	ck_assert_uint_eq(stfs_header_find(file.header, (struct stfs_str)LIT("a")), 2);
	ck_assert_uint_eq(file.header->by_offset_count, 2);
	stfs_test_file_free(&file);
}
END_TEST

START_TEST(nothing_is_kept_of_a_broken_text)
{
	struct stfs_test_file file;

	read_text("{\"__metadata__\":{\"k\":\"v\"},\"a\":" A2 ",\"b\":" B2, 4, &file);
	ck_assert_int_eq(stfs_test_level(&file), STFS_LEVEL_ERROR);
	ck_assert_uint_eq(file.header->count, 0);
	ck_assert(!file.header->text_read);
	ck_assert_uint_eq(stfs_header_find(file.header, (struct stfs_str)LIT("a")), STFS_NO_TENSOR);
	ck_assert(!stfs_test_broken_invariant(&file));
	stfs_test_file_free(&file);
}
END_TEST

/* ---- Findings ---- */

START_TEST(tolerates_holes_trailing_bytes_and_truncation_alone)
{
	static const struct {
		const char *text;
		uint64_t data_len;
		bool tolerable;
	} cases[] = {
		{"{\"a\":" A2 ",\"b\":" FIELDS("\"U8\"", "[2]", "[3,5]") "}", 5, true},
		{"{\"a\":" A2 "}", 9, true},
		{"{\"a\":" A2 ",\"b\":" B2 "}", 3, true},
		{"{\"a\":" A2 ",\"b\":" FIELDS("\"U8\"", "[2]", "[3,5]") "}", 4, true},
		{"{\"a\":" A2 ",\"b\":" FIELDS("\"U8\"", "[2]", "[1,3]") "}", 3, false},
		{"{\"a\":" A2 ",\"b\":" FIELDS("\"U8\"", "[2]", "[1,3]") "}", 9, false},
		{"{\"a\":" A2 ",\"a\":" A2 "}", 9, false},
		{"{\"a\":" FIELDS("\"U8\"", "[3]", "[0,2]") "}", 9, false},
		{"{\"a\":[\"U8\",[2],[0,2]]}", 9, false},
		{"{\"a\":1}", 9, false},
		{"[]", 9, false},
	};
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_test_file file;

	for (size_t i = 0; i < STFS_CHECK_COUNT(cases); i++) {
		read_text(cases[i].text, cases[i].data_len, &file);
		ck_assert_int_ge(stfs_test_level(&file), STFS_LEVEL_REFUSED);
		ck_assert_msg(stfs_findings_tolerable(&file.findings) == cases[i].tolerable, "%s", cases[i].text);
		ck_assert_int_eq(stfs_findings_error(&file.findings, false, &err), -EBADMSG);
		ck_assert_int_eq(stfs_findings_error(&file.findings, true, &err),
				 cases[i].tolerable ? 0 : -EBADMSG);
		ck_assert_ptr_null(stfs_test_broken_invariant(&file));
		stfs_test_file_free(&file);
	}
}
END_TEST

START_TEST(says_which_tensor_is_complete)
{
	struct stfs_test_file file;

	read_text("{\"c\":" FIELDS("\"U8\"", "[0]", "[4,4]") ",\"a\":" A2 ",\"b\":" B2 "}", 3, &file);
	ck_assert(!file.header->tensors[0].complete);
	ck_assert(file.header->tensors[1].complete);
	ck_assert(!file.header->tensors[2].complete);
	ck_assert_uint_eq(file.findings.counts[STFS_RULE_TRUNCATED], 2);
	stfs_test_file_free(&file);
}
END_TEST

START_TEST(an_error_names_rule_tensor_and_byte)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_test_file file;

	read_text("{\"a\":" A2 ",\"we\\u0000ird\":" FIELDS("\"U8\"", "[2]", "[1,3]") "}", 3, &file);
	ck_assert_int_eq(stfs_findings_error(&file.findings, true, &err), -EBADMSG);
	ck_assert(strstr(err.message, "(rule overlap)") && strstr(err.message, "we\\x00ird"));
	ck_assert_uint_eq(err.position, 8 + sizeof("{\"a\":" A2 ",\"we\\u0000ird\":") - 1);
	stfs_check_str_eq(stfs_str_slice(file.findings.items[0].tensor, file.findings.items[0].tensor_len),
			  ((struct stfs_str)LIT("we\0ird")), "the finding's tensor");
	stfs_test_file_free(&file);
}
END_TEST

START_TEST(keeps_the_first_findings_and_counts_all)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	struct stfs_test_file file;
	unsigned count = 5000;

	stfs_buf_puts(&text, "{\"x\":" A2);
	for (unsigned i = 0; i < count; i++)
		stfs_buf_printf(&text, ",\"%s%u\":1", "", i);
	stfs_buf_putc(&text, '}');
	read_text(stfs_buf_cstr(&text), 2, &file);
	ck_assert_uint_eq(file.findings.count, STFS_FINDINGS_MAX);
	ck_assert_uint_eq(file.findings.counts[STFS_RULE_ENTRY_TYPE], count);
	ck_assert_uint_eq(stfs_header_find(file.header, (struct stfs_str)LIT("x")), 0);
	stfs_test_file_free(&file);
}
END_TEST

START_TEST(cuts_long_names_at_a_character)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	struct stfs_test_file file;

	stfs_buf_puts(&text, "{\"x");
	for (unsigned i = 0; i < 1000; i++)
		stfs_buf_puts(&text, "é");
	stfs_buf_puts(&text, "\":1}");
	read_text(stfs_buf_cstr(&text), 0, &file);
	ck_assert_uint_eq(file.findings.items[0].tensor_len, STFS_FINDING_NAME_MAX - 1);
	ck_assert_uint_lt(strlen(file.findings.items[0].message), 500);
	stfs_test_file_free(&file);
}
END_TEST

START_TEST(rules_have_names_and_levels)
{
	for (unsigned i = 0; i < STFS_RULE_COUNT; i++) {
		const struct stfs_rule_info *info = stfs_rule_info((enum stfs_rule)i);

		ck_assert_ptr_nonnull(info->name);
		ck_assert_uint_gt(strlen(info->name), 3);
		for (unsigned j = 0; j < i; j++)
			ck_assert_str_ne(info->name, stfs_rule_info((enum stfs_rule)j)->name);
		/* What may be tolerated is never a matter of who reads it. */
		ck_assert(!info->tolerable || info->level == STFS_LEVEL_ERROR);
	}
	ck_assert_str_eq(stfs_rule_info((enum stfs_rule)(STFS_RULE_COUNT - 1))->name, "not-all-searched");
}
END_TEST

/* ---- Properties ---- */

/* A valid model of up to 12 tensors in any order, then one number of it changed or not. */
static void random_model(uint64_t *rng, struct stfs_buf *text, uint64_t *data_len)
{
	unsigned count = (unsigned)stfs_check_below(rng, 12), order[12];
	uint64_t begins[13] = {0};

	for (unsigned i = 0; i < count; i++) {
		size_t at = stfs_check_below(rng, i + 1u);

		order[i] = order[at];
		order[at] = i;
		begins[i + 1] = begins[i] + stfs_check_below(rng, 4) * 2;
	}
	*data_len = begins[count];
	stfs_buf_putc(text, '{');
	for (unsigned i = 0; i < count; i++) {
		uint64_t begin = begins[order[i]], end = begins[order[i] + 1];
		uint64_t shape = (end - begin) / 2;

		if (stfs_check_below(rng, 40) == 0)
			*(uint64_t *[]){&begin, &end, &shape, data_len}[stfs_check_below(rng, 4)] +=
				stfs_check_below(rng, 3) - 1;
		stfs_buf_printf(text, "%s\"%s%u\":{\"dtype\":\"F16\",\"shape\":[%" PRIu64
				"],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", i ? "," : "",
				stfs_check_below(rng, 2) ? "\\u0061" : "a", order[i] * 7 % 13, shape, begin, end);
	}
	stfs_buf_putc(text, '}');
}

START_TEST(invariants_hold_for_random_models)
{
	uint64_t rng = stfs_check_seed(), data_len;
	unsigned taken = 0, tolerable = 0, refused = 0;
	struct stfs_test_file file;
	const char *broken;

	for (int i = 0; i < 5000; i++) {
		STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;

		random_model(&rng, &text, &data_len);
		if (data_len > 1000)
			continue;
		read_text(stfs_buf_cstr(&text), data_len, &file);
		broken = stfs_test_broken_invariant(&file);
		ck_assert_msg(!broken, "%s with %" PRIu64 " bytes: %s", text.data, data_len, broken);
		if (stfs_test_level(&file) < STFS_LEVEL_REFUSED)
			taken++;
		else if (stfs_findings_tolerable(&file.findings))
			tolerable++;
		else
			refused++;
		stfs_test_file_free(&file);
	}
	ck_assert_uint_gt(taken, 1000);
	ck_assert_uint_gt(tolerable, 50);
	ck_assert_uint_gt(refused, 100);
}
END_TEST

/* ---- Memory ---- */

static void repeat(struct stfs_buf *out, const char *first, const char *format, unsigned count, const char *last)
{
	stfs_buf_puts(out, first);
	for (unsigned i = 0; i < count; i++) {
		if (i)
			stfs_buf_putc(out, ',');
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		stfs_buf_printf(out, format, i);
#pragma GCC diagnostic pop
	}
	stfs_buf_puts(out, last);
}

/* Headers of some 10 MB that make much of few bytes; `level` is what must be said of them. */
static const struct {
	const char *name, *first, *format;
	unsigned count;
	const char *last;
	enum stfs_level level;
} large_cases[] = {
	{"tensors", "{", "\"model.layers.%u.self_attn.q_proj.weight\":{\"dtype\":\"F32\",\"shape\":[0,4096],"
	 "\"data_offsets\":[0,0]}", 100000, "}", STFS_LEVEL_NOTE},
	{"small tensors", "{", "\"%x\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}", 200000, "}",
	 STFS_LEVEL_NOTE},
	{"escaped names", "{", "\"\\n\\n\\n\\n%x\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}", 200000, "}",
	 STFS_LEVEL_NOTE},
	{"array entries", "{", "\"%x\":[\"U8\",[0],[0,0]]", 400000, "}", STFS_LEVEL_REFUSED},
	{"array entries of one name", "{", "\"\":[\"U8\",[0],[0,0]]", 500000, "}", STFS_LEVEL_REFUSED},
	{"entries that are none", "{", "\"\":1", 2000000, "}", STFS_LEVEL_ERROR},
	{"distinct entries that are none", "{", "\"%x\":1", 1000000, "}", STFS_LEVEL_ERROR},
	{"rank of a million", "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,0],\"shape\":[0,", "1", 5000000, "]}}",
	 STFS_LEVEL_NOTE},
	{"metadata keys", "{\"__metadata__\":{", "\"key %u\":\"\"", 800000, "}}", STFS_LEVEL_NOTE},
	{"metadata duplicates", "{\"__metadata__\":{", "\"\":\"\"", 1500000, "}}", STFS_LEVEL_REFUSED},
	{"ignored duplicates", "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,0],\"shape\":[0],\"x\":{", "\"\":1",
	 2000000, "}}}", STFS_LEVEL_REFUSED},
	{"ignored objects", "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,0],\"shape\":[0],\"x\":[",
	 "{\"a\":{\"a\":1,\"a\":1}}", 500000, "]}}", STFS_LEVEL_REFUSED},
	{"ignored keys", "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,0],\"shape\":[0],", "\"x%u\":1", 1000000, "}}",
	 STFS_LEVEL_DEVIATION},
};

/* A line "NAME:   N kB" of /proc/self/status, in bytes. */
static uint64_t proc_status(const char *name)
{
	FILE *file = fopen("/proc/self/status", "re");
	char line[256];
	uint64_t value = 0;

	ck_assert_ptr_nonnull(file);
	while (fgets(line, sizeof(line), file))
		if (strncmp(line, name, strlen(name)) == 0)
			value = strtoull(line + strlen(name) + 1, NULL, 10) * 1024;
	fclose(file);
	ck_assert_uint_gt(value, 0);
	return value;
}

/* In a process of its own: the peak of resident memory while a large header is read. */
static int measure(int number)
{
	struct stfs_buf text = STFS_BUF_INIT;
	struct stfs_findings findings = STFS_FINDINGS_INIT;
	struct stfs_header *header;
	uint64_t before, peak, len;

	repeat(&text, large_cases[number].first, large_cases[number].format, large_cases[number].count,
	       large_cases[number].last);
	len = text.len;
	before = proc_status("VmRSS");
	if (stfs_buf_status(&text) < 0 || stfs_header_read(text.data, (uint32_t)len, 0, &header, &findings) < 0)
		return 2;
	peak = proc_status("VmHWM") - before + len; /* the text itself counts */
	if (stfs_findings_level(&findings) != large_cases[number].level)
		return 3;
	/* Most of a sanitizer's process is the sanitizer's own: there it is read only. */
	if (!STFS_TEST_SANITIZED && peak > 5 * len + (1 << 20)) {
		fprintf(stderr, "# %s: %.1f times the header\n", large_cases[number].name, (double)peak / (double)len);
		return 4;
	}
	stfs_header_free(header);
	stfs_findings_free(&findings);
	return 0;
}

START_TEST(memory_stays_within_five_times_the_header)
{
	pid_t child = fork();
	int status;

	ck_assert_int_ge(child, 0);
	if (child == 0)
		_exit(measure(_i));
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: status 0x%x", large_cases[_i].name,
		      (unsigned)status);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("header");
	TCase *tcase = tcase_create("header");

	tcase_set_timeout(tcase, 60);
	tcase_add_loop_test(tcase, finds_rule_and_byte, 0, STFS_CHECK_COUNT(judged_cases));
	tcase_add_loop_test(tcase, judges_the_length_word, 0, STFS_CHECK_COUNT(length_cases));
	tcase_add_loop_test(tcase, knows_every_dtype, 0, STFS_CHECK_COUNT(dtypes));
	tcase_add_test(tcase, gives_names_shapes_and_order);
	tcase_add_test(tcase, finds_every_name_and_no_other);
	tcase_add_test(tcase, gives_metadata_in_order);
	tcase_add_test(tcase, the_last_of_two_wins);
	tcase_add_test(tcase, nothing_is_kept_of_a_broken_text);
	tcase_add_test(tcase, tolerates_holes_trailing_bytes_and_truncation_alone);
	tcase_add_test(tcase, says_which_tensor_is_complete);
	tcase_add_test(tcase, an_error_names_rule_tensor_and_byte);
	tcase_add_test(tcase, keeps_the_first_findings_and_counts_all);
	tcase_add_test(tcase, cuts_long_names_at_a_character);
	tcase_add_test(tcase, rules_have_names_and_levels);
	tcase_add_test(tcase, invariants_hold_for_random_models);
	tcase_add_loop_test(tcase, memory_stays_within_five_times_the_header, 0, STFS_CHECK_COUNT(large_cases));
	suite_add_tcase(suite, tcase);
	return stfs_check_main(suite);
}
