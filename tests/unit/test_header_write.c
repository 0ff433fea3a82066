/* SPDX-License-Identifier: MIT */
#include "stfs_check.h"

#include <errno.h>

#include "base/arith.h"
#include "base/buf.h"
#include "unit/header_tools.h"

#define LIT STFS_CHECK_LIT

static const uint64_t two_by_three[] = {2, 3};

static const struct stfs_header_item two_items[] = {
	{.name = LIT("b"), .dtype = STFS_F32, .dims = two_by_three, .rank = 2, .begin = 0, .end = 24},
	{.name = LIT("a\"\n/é\0"), .dtype = STFS_U8, .begin = 24, .end = 25},
};

static const struct stfs_header_pair two_pairs[] = {{LIT("k"), LIT("v\\")}, {LIT(""), LIT("\x01é")}};

#define B_TEXT "\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}"
#define A_TEXT "\"a\\\"\\n/é\\u0000\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[24,25]}"
#define M_TEXT "\"__metadata__\":{\"k\":\"v\\\\\",\"\":\"\\u0001é\"}"

/* Writes and compares: the length word, `text`, spaces to a multiple of 8. */
static void expect_text(const struct stfs_header_parts *parts, size_t min_text_len, const char *text)
{
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
	size_t len = strlen(text), padded = stfs_align_up(len > min_text_len ? len : min_text_len, 8);

	stfs_buf_puts(&out, "before"); /* it is appended */
	ck_assert_int_eq(stfs_header_write(parts, min_text_len, &out, NULL), 0);
	ck_assert_uint_eq(out.len, 6 + STFS_LENGTH_WORD + padded);
	ck_assert_uint_eq(stfs_load_le64(out.data + 6), padded);
	stfs_check_str_eq(stfs_str_slice(out.data + 6 + STFS_LENGTH_WORD, len), stfs_str_from(text), "text");
	for (size_t i = len; i < padded; i++)
		ck_assert_int_eq(out.data[6 + STFS_LENGTH_WORD + i], ' ');
}

START_TEST(writes_compact_text_in_the_order_given)
{
	struct stfs_header_parts parts = {.items = two_items, .item_count = 2};

	expect_text(&(struct stfs_header_parts){0}, 0, "{}");
	expect_text(&parts, 0, "{" B_TEXT "," A_TEXT "}");
}
END_TEST

START_TEST(puts_metadata_in_its_place)
{
	struct stfs_header_parts parts = {.items = two_items, .item_count = 2, .pairs = two_pairs, .pair_count = 2};

	expect_text(&parts, 0, "{" M_TEXT "," B_TEXT "," A_TEXT "}");
	parts.metadata_index = 1;
	expect_text(&parts, 0, "{" B_TEXT "," M_TEXT "," A_TEXT "}");
	parts.metadata_index = 2;
	expect_text(&parts, 0, "{" B_TEXT "," A_TEXT "," M_TEXT "}");
	/* Items have been removed since the place was read: it is not lost. */
	parts.metadata_index = 9;
	expect_text(&parts, 0, "{" B_TEXT "," A_TEXT "," M_TEXT "}");
	parts.item_count = 0;
	expect_text(&parts, 0, "{" M_TEXT "}");
	/* Without pairs there is none. */
	parts.pair_count = 0;
	expect_text(&parts, 0, "{}");
}
END_TEST

START_TEST(leaves_the_slack_asked_for)
{
	struct stfs_header_parts parts = {.items = two_items, .item_count = 1};
	size_t lens[] = {0, 1, 7, 8, 9, 63, 64, 65, 100, 4096, 4097};

	for (size_t i = 0; i < STFS_CHECK_COUNT(lens); i++) {
		expect_text(&parts, lens[i], "{" B_TEXT "}");
		expect_text(&(struct stfs_header_parts){0}, lens[i], "{}");
	}
}
END_TEST

static void expect_failure(const struct stfs_header_parts *parts, size_t min_text_len, int code)
{
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
	struct stfs_err err = STFS_ERR_INIT;

	ck_assert_int_eq(stfs_header_write(parts, min_text_len, &out, &err), code);
	ck_assert_uint_eq(out.len, 0);
	ck_assert_int_eq(err.code, code);
	stfs_buf_puts(&out, "before");
	ck_assert_int_eq(stfs_header_write(parts, min_text_len, &out, NULL), code);
	stfs_check_str_eq(stfs_buf_str(&out), ((struct stfs_str)LIT("before")), "what stood before");
}

START_TEST(refuses_names_that_cannot_stand)
{
	static const struct stfs_str names[] = {LIT("__metadata__"), LIT("\xff"), LIT("a\xc3"), LIT("\xed\xa0\x80"),
						LIT("x")};
	struct stfs_header_item items[3] = {
		{.name = LIT("x"), .dtype = STFS_U8, .begin = 0, .end = 1},
		{.name = LIT("y"), .dtype = STFS_U8, .begin = 1, .end = 2},
	};
	struct stfs_header_parts parts = {.items = items, .item_count = 3};

	for (size_t i = 0; i < STFS_CHECK_COUNT(names); i++) {
		items[2] = (struct stfs_header_item){.name = names[i], .dtype = STFS_U8, .begin = 2, .end = 3};
		expect_failure(&parts, 0, -EINVAL);
	}
}
END_TEST

START_TEST(refuses_pairs_that_cannot_stand)
{
	static const struct stfs_header_pair bad[] = {
		{LIT("\xff"), LIT("")},
		{LIT("a"), LIT("\xc3")},
		{LIT("x"), LIT("twice")},
	};
	struct stfs_header_pair pairs[2] = {{LIT("x"), LIT("y")}};
	struct stfs_header_parts parts = {.pairs = pairs, .pair_count = 2};

	for (size_t i = 0; i < STFS_CHECK_COUNT(bad); i++) {
		pairs[1] = bad[i];
		expect_failure(&parts, 0, -EINVAL);
	}
}
END_TEST

START_TEST(refuses_to_pass_the_loaders_limit)
{
	struct stfs_header_parts parts = {.items = two_items, .item_count = 2};
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;

	expect_failure(&parts, STFS_HEADER_MAX + 1u, -E2BIG);
	expect_failure(&parts, SIZE_MAX, -E2BIG);
	for (size_t less = 0; less < 8; less += 7) {
		stfs_buf_clear(&out);
		ck_assert_int_eq(stfs_header_write(&parts, STFS_HEADER_MAX - less, &out, NULL), 0);
		ck_assert_uint_eq(out.len, STFS_LENGTH_WORD + STFS_HEADER_MAX);
	}
}
END_TEST

/* ---- A header of an exact length ---- */

START_TEST(fits_a_header_to_any_length)
{
	static const char text[] = "{" B_TEXT "}";
	const size_t len = sizeof(text) - 1, at = 3;
	const struct stfs_header_parts parts = {.items = two_items, .item_count = 1};
	/* Up and down: what one call added the next takes away. */
	const size_t lens[] = {len, len + 1, len + 7, len + 4099, len + 3, len};
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;

	stfs_buf_puts(&out, "pre");
	ck_assert_int_eq(stfs_header_write(&parts, 400, &out, NULL), 0);
	ck_assert_uint_eq(stfs_header_written_len(&out, at), len);
	for (size_t i = 0; i < STFS_CHECK_COUNT(lens); i++) {
		ck_assert_int_eq(stfs_header_fit(&out, at, lens[i]), 0);
		ck_assert_uint_eq(out.len, at + STFS_LENGTH_WORD + lens[i]);
		ck_assert_uint_eq(stfs_load_le64(out.data + at), lens[i]);
		ck_assert_uint_eq(stfs_header_written_len(&out, at), len);
		ck_assert_mem_eq(out.data + at + STFS_LENGTH_WORD, text, len);
		for (size_t k = len; k < lens[i]; k++)
			ck_assert_int_eq(out.data[at + STFS_LENGTH_WORD + k], ' ');
	}
	ck_assert_mem_eq(out.data, "pre", 3);
}
END_TEST

START_TEST(leaves_a_header_that_does_not_fit)
{
	const struct stfs_header_parts parts = {.items = two_items, .item_count = 1};
	const size_t len = sizeof("{" B_TEXT "}") - 1;
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
	STFS_AUTO_BUF struct stfs_buf before = STFS_BUF_INIT;

	ck_assert_int_eq(stfs_header_write(&parts, 400, &out, NULL), 0);
	stfs_buf_add_str(&before, stfs_buf_str(&out));
	ck_assert_int_eq(stfs_header_fit(&out, 0, len - 1), -ENOSPC);
	ck_assert_int_eq(stfs_header_fit(&out, 0, 0), -ENOSPC);
	ck_assert_int_eq(stfs_header_fit(&out, 0, STFS_HEADER_MAX + 1u), -E2BIG);
	ck_assert_int_eq(stfs_header_fit(&out, 0, UINT64_MAX), -E2BIG);
	stfs_check_str_eq(stfs_buf_str(&out), stfs_buf_str(&before), "the header");
	ck_assert_int_eq(stfs_header_fit(&out, 0, STFS_HEADER_MAX), 0);
	ck_assert_uint_eq(out.len, STFS_LENGTH_WORD + STFS_HEADER_MAX);
}
END_TEST

/* Spaces inside a string at the text's end are no padding: the text ends with a brace. */
START_TEST(takes_no_space_of_the_text)
{
	const struct stfs_header_pair pair = {LIT("k   "), LIT("   ")};
	const struct stfs_header_parts parts = {.pairs = &pair, .pair_count = 1};
	static const char text[] = "{\"__metadata__\":{\"k   \":\"   \"}}";
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;

	ck_assert_int_eq(stfs_header_write(&parts, 0, &out, NULL), 0);
	ck_assert_int_eq(stfs_header_fit(&out, 0, sizeof(text) - 1), 0);
	stfs_check_str_eq(stfs_str_slice(out.data + STFS_LENGTH_WORD, out.len - STFS_LENGTH_WORD),
			  stfs_str_from(text), "text");
}
END_TEST

/* ---- Entries that were read before ---- */

/* The header of one tensor "a", whose source entry is `source`, as new dtype, shape and place. */
static void expect_entry(const char *source, const char *entry)
{
	struct stfs_header_item item = {.name = LIT("a"), .dtype = STFS_F32, .dims = two_by_three, .rank = 2,
					.begin = 0, .end = 24, .source = stfs_str_from(source)};
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;

	stfs_buf_printf(&text, "{\"a\":%s}", entry);
	expect_text(&(struct stfs_header_parts){.items = &item, .item_count = 1}, 0, stfs_buf_cstr(&text));
}

START_TEST(keeps_the_keys_of_an_entry)
{
	expect_entry("{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[5,6]}",
		     "{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}");
	expect_entry("{ \"data_offsets\" : [ 5 , 6 ] , \"shape\" : [] , \"dtype\" : \"U8\" }",
		     "{\"data_offsets\":[0,24],\"shape\":[2,3],\"dtype\":\"F32\"}");
	expect_entry("{\"x\":{\"y\": [1, {\"z\":null}], \"\":{}}, \"dtype\":\"U8\",\"\\u0078 \":-1.50e+3,\"shape\":[1],"
		     "\"data_offsets\":[5,6],\"last\":[] }",
		     "{\"x\":{\"y\": [1, {\"z\":null}], \"\":{}},\"dtype\":\"F32\",\"\\u0078 \":-1.50e+3,\"shape\":[2,3],"
		     "\"data_offsets\":[0,24],\"last\":[]}");
	/* A known key may be written with escapes. */
	expect_entry("{\"dt\\u0079pe\":\"U8\",\"sh\\u0061pe\":[1],\"data\\u005foffsets\":[5,6]}",
		     "{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}");
	/* Strings that look like the end of something. */
	expect_entry("{\"}\":\"}{\\\"\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[5,6],\"{\":\"{\"}",
		     "{\"}\":\"}{\\\"\",\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24],\"{\":\"{\"}");
}
END_TEST

/* What was read at the deepest level allowed is written again. */
START_TEST(keeps_deeply_nested_values)
{
	STFS_AUTO_BUF struct stfs_buf source = STFS_BUF_INIT;
	STFS_AUTO_BUF struct stfs_buf want = STFS_BUF_INIT;

	stfs_buf_puts(&source, "{\"x\":");
	for (int i = 0; i < 125; i++)
		stfs_buf_puts(&source, i % 2 ? "[0," : "{\"k\":0,\"l\":");
	stfs_buf_puts(&source, "1");
	for (int i = 124; i >= 0; i--)
		stfs_buf_puts(&source, i % 2 ? ",2]" : ",\"m\":3}");
	stfs_buf_add_str(&want, stfs_buf_str(&source));
	stfs_buf_puts(&source, ",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[5,6]}");
	stfs_buf_puts(&want, ",\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}");
	expect_entry(stfs_buf_cstr(&source), stfs_buf_cstr(&want));
}
END_TEST

/* ---- Properties ---- */

struct random_parts {
	struct stfs_header_item items[10];
	struct stfs_header_pair pairs[5];
	uint64_t dims[10][4];
	char strings[20][24];
	size_t strings_used;
	struct stfs_header_parts parts;
};

static struct stfs_str random_string(uint64_t *rng, struct random_parts *p)
{
	static const char *const pieces[] = {"a", "/", "\"", "\\", "\n", "\x7f", "é", "漢", "😀", "\xef\xbf\xbf"};
	char *out = p->strings[p->strings_used];
	size_t len = 1;

	out[0] = (char)('A' + p->strings_used++); /* all differ */
	for (size_t i = stfs_check_below(rng, 4); i > 0; i--) {
		const char *piece = pieces[stfs_check_below(rng, STFS_CHECK_COUNT(pieces))];

		memcpy(out + len, piece, strlen(piece));
		len += strlen(piece);
		if (len < 8 && stfs_check_below(rng, 8) == 0)
			out[len++] = '\0';
	}
	ck_assert_uint_le(len, sizeof(p->strings[0]));
	return stfs_str_slice(out, len);
}

/* Up to ten tensors, laid out one behind the other, in any order of keys; up to five pairs. */
static void random_parts(uint64_t *rng, struct random_parts *p)
{
	static const char *const sources[] = {
		NULL,
		"{\"shape\":[],\"dtype\":\"U8\",\"data_offsets\":[0,1]}",
		"{\"data_offsets\":[0,1],\"note\":{\"a\":[1,\"}\"]},\"dtype\":\"U8\",\"shape\":[ ],\"\\u0078\":1e5}",
	};
	size_t count = stfs_check_below(rng, STFS_CHECK_COUNT(p->items) + 1), at;
	uint64_t cursor = 0, bytes;

	*p = (struct random_parts){0};
	for (size_t i = 0; i < count; i++) {
		struct stfs_header_item item = {.dtype = (enum stfs_dtype)stfs_check_below(rng, STFS_DTYPE_COUNT)};
		const char *source = sources[stfs_check_below(rng, STFS_CHECK_COUNT(sources))];
		uint64_t elements = 1;

		item.rank = 1 + stfs_check_below(rng, 4);
		for (size_t d = 0; d < item.rank; d++)
			elements *= p->dims[i][d] = d == 0 ? 4 : stfs_check_below(rng, 4);
		ck_assert_int_eq(stfs_dtype_bytes(item.dtype, elements, &bytes), 0);
		item.dims = p->dims[i];
		item.name = random_string(rng, p);
		item.begin = cursor;
		item.end = cursor += bytes;
		if (source)
			item.source = stfs_str_from(source);
		at = stfs_check_below(rng, i + 1);
		p->items[i] = p->items[at];
		p->items[at] = item;
	}
	p->parts = (struct stfs_header_parts){.items = p->items, .item_count = count, .pairs = p->pairs,
					      .pair_count = stfs_check_below(rng, STFS_CHECK_COUNT(p->pairs) + 1),
					      .metadata_index = stfs_check_below(rng, count + 1)};
	for (size_t i = 0; i < p->parts.pair_count; i++)
		p->pairs[i] = (struct stfs_header_pair){random_string(rng, p), random_string(rng, p)};
}

static void check_item(const struct stfs_header *header, uint32_t index, const struct stfs_header_item *item)
{
	const struct stfs_tensor *tensor = &header->tensors[index];
	uint64_t dims[4];

	stfs_check_str_eq(stfs_header_name(header, tensor), item->name, "name");
	ck_assert_uint_eq(stfs_header_find(header, item->name), index);
	ck_assert_int_eq(tensor->dtype, (int)item->dtype);
	ck_assert_uint_eq(tensor->begin, item->begin);
	ck_assert_uint_eq(tensor->end, item->end);
	ck_assert_uint_eq(tensor->rank, item->rank);
	stfs_header_shape(header, tensor, dims);
	ck_assert_mem_eq(dims, item->dims, item->rank * sizeof(*dims));
}

struct pair_check {
	const struct stfs_header_parts *parts;
	size_t seen;
};

static int check_pair(void *data, struct stfs_str key, struct stfs_str value)
{
	struct pair_check *check = data;

	ck_assert_uint_lt(check->seen, check->parts->pair_count);
	stfs_check_str_eq(key, check->parts->pairs[check->seen].key, "key");
	stfs_check_str_eq(value, check->parts->pairs[check->seen].value, "value");
	check->seen++;
	return 0;
}

static void check_parts(const struct stfs_header *header, const struct stfs_header_parts *parts)
{
	struct pair_check check = {.parts = parts};

	ck_assert_uint_eq(header->count, parts->item_count);
	for (uint32_t i = 0; i < header->count; i++)
		check_item(header, i, &parts->items[i]);
	ck_assert_int_eq(stfs_header_metadata(header, check_pair, &check), 0);
	ck_assert_uint_eq(check.seen, parts->pair_count);
	if (parts->pair_count)
		ck_assert_uint_eq(header->metadata_index, parts->metadata_index);
	else
		ck_assert_uint_eq(header->metadata_len, 0);
}

START_TEST(what_is_written_is_read_back)
{
	uint64_t rng = stfs_check_seed();
	struct random_parts p;

	for (int i = 0; i < 3000; i++) {
		STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
		STFS_AUTO_BUF struct stfs_buf twice = STFS_BUF_INIT;
		STFS_AUTO_BUF struct stfs_buf again = STFS_BUF_INIT;
		size_t min_text_len = stfs_check_below(&rng, 3) ? 0 : stfs_check_below(&rng, 3000);
		struct stfs_test_file file;

		random_parts(&rng, &p);
		ck_assert_int_eq(stfs_header_write(&p.parts, min_text_len, &out, NULL), 0);
		ck_assert_int_eq(stfs_header_write(&p.parts, min_text_len, &twice, NULL), 0);
		ck_assert(stfs_str_equal(stfs_buf_str(&out), stfs_buf_str(&twice)));
		ck_assert_uint_eq(out.len % 8, 0);
		ck_assert_uint_ge(out.len, STFS_LENGTH_WORD + min_text_len);
		for (size_t t = 0; t < p.parts.item_count; t++)
			stfs_buf_fill(&out, 0, p.items[t].end - p.items[t].begin);
		ck_assert_int_eq(stfs_test_read(out.data, out.len, &file), 0);
		ck_assert_int_lt(stfs_test_level(&file), STFS_LEVEL_REFUSED);
		ck_assert_ptr_null(stfs_test_broken_invariant(&file));
		check_parts(file.header, &p.parts);
		/* From what was read, with the same room, the same bytes. */
		ck_assert_int_eq(stfs_test_rewrite(file.header, min_text_len, &again), 0);
		ck_assert(stfs_str_equal(stfs_buf_str(&again), stfs_buf_str(&twice)));
		stfs_test_file_free(&file);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("header_write");
	TCase *tcase = tcase_create("header_write");

	tcase_add_test(tcase, writes_compact_text_in_the_order_given);
	tcase_add_test(tcase, puts_metadata_in_its_place);
	tcase_add_test(tcase, leaves_the_slack_asked_for);
	tcase_add_test(tcase, refuses_names_that_cannot_stand);
	tcase_add_test(tcase, refuses_pairs_that_cannot_stand);
	tcase_add_test(tcase, refuses_to_pass_the_loaders_limit);
	tcase_add_test(tcase, fits_a_header_to_any_length);
	tcase_add_test(tcase, leaves_a_header_that_does_not_fit);
	tcase_add_test(tcase, takes_no_space_of_the_text);
	tcase_add_test(tcase, keeps_the_keys_of_an_entry);
	tcase_add_test(tcase, keeps_deeply_nested_values);
	tcase_add_test(tcase, what_is_written_is_read_back);
	suite_add_tcase(suite, tcase);
	return stfs_check_main(suite);
}
