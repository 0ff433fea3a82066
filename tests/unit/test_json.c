/* SPDX-License-Identifier: MIT */
#include "stfs_check.h"

#include <errno.h>
#include <json-c/json.h>

#include "base/buf.h"
#include "base/utf8.h"
#include "format/json.h"

#define LIT STFS_CHECK_LIT

/*
 * Reads one value and appends what it says in a form without freedoms: strings with their length
 * in front, whole numbers, "r" for other numbers. The same is made from json-c's tree below.
 */
static int describe(struct stfs_json *json, struct stfs_buf *out);

static int describe_string(struct stfs_json *json, struct stfs_json_string raw, struct stfs_buf *out)
{
	STFS_AUTO_BUF struct stfs_buf plain = STFS_BUF_INIT;

	ck_assert_int_eq(stfs_json_unescape(stfs_json_raw(json, raw), &plain), 0);
	if (!raw.escaped)
		ck_assert(stfs_str_equal(stfs_buf_str(&plain), stfs_json_raw(json, raw)));
	stfs_buf_printf(out, "%zu'", plain.len);
	stfs_buf_add(out, plain.data, plain.len);
	return 0;
}

static int describe_members(struct stfs_json *json, char open, char close, struct stfs_buf *out)
{
	struct stfs_json_string key;
	bool first = true;
	int r = stfs_json_enter(json, open);

	stfs_buf_putc(out, open);
	while (r == 0) {
		r = stfs_json_next(json, close, &first);
		if (r <= 0)
			break;
		r = 0;
		if (open == '{') {
			r = stfs_json_key(json, &key);
			if (r == 0)
				r = describe_string(json, key, out);
		}
		if (r == 0)
			r = describe(json, out);
	}
	stfs_buf_putc(out, close);
	return r;
}

static int describe(struct stfs_json *json, struct stfs_buf *out)
{
	struct stfs_json_number number;
	struct stfs_json_string string;
	char c = stfs_json_peek(json);
	int r;

	if (c == '{' || c == '[')
		return describe_members(json, c, c == '{' ? '}' : ']', out);
	if (c == '"') {
		r = stfs_json_string(json, &string);
		return r < 0 ? r : describe_string(json, string, out);
	}
	if (c == '-' || (c >= '0' && c <= '9')) {
		r = stfs_json_number(json, &number);
		if (r == 0 && number.kind == STFS_JSON_REAL)
			stfs_buf_putc(out, 'r');
		else if (r == 0)
			stfs_buf_printf(out, number.kind == STFS_JSON_UINT ? "%" PRIu64 ";" : "-%" PRIu64 ";",
					number.value);
		return r;
	}
	r = stfs_json_word(json);
	if (r == 0)
		stfs_buf_putc(out, c);
	return r;
}

/* The whole text as one value. 0 or -EBADMSG; the description is in `out`, terminated. */
static int read_text(struct stfs_str text, struct stfs_buf *out, struct stfs_json *json)
{
	int r;

	*json = (struct stfs_json){.text = text.ptr, .len = text.len};
	r = describe(json, out);
	if (r == 0) {
		stfs_json_peek(json);
		if (json->pos < json->len)
			r = stfs_json_fail(json, "characters behind the value");
	}
	if (r == 0)
		ck_assert_uint_eq(json->depth, 0);
	else
		ck_assert(json->error && json->error_pos <= json->len);
	ck_assert(json->pos <= json->len);
	ck_assert(stfs_buf_cstr(out));
	return r;
}

static const struct {
	struct stfs_str text;
	const char *description;
} good_cases[] = {
	{LIT("{}"), "{}"},
	{LIT(" \t\r\n[ \t\r\n] \t\r\n"), "[]"},
	{LIT("[1,[2,[]],{\"a\":{}}]"), "[1;[2;[]]{1'a{}}]"},
	{LIT("{\"a\":1,\"a\":2}"), "{1'a1;1'a2;}"},
	{LIT("true"), "t"},
	{LIT("[true,false,null]"), "[tfn]"},
	{LIT("\"\""), "0'"},
	{LIT("\"a\\\"\\\\\\/\\b\\f\\n\\r\\tb\""), "10'a\"\\/\b\f\n\r\tb"},
	{LIT("\"\\u0041\\u00e9\\u20aC\\ud83D\\uDe00\""), "10'Aé€😀"},
	{LIT("\"\\ud7ff\\ue000\\uFFFF\""), "9'\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf"},
	{LIT("\"\\ud800\\udc00\\udbff\\udfff\""), "8'\U00010000\U0010ffff"},
	{LIT("\"é漢😀\x7f\""), "10'é漢😀\x7f"},
	{LIT("0"), "0;"},
	{LIT("18446744073709551615"), "18446744073709551615;"},
	{LIT("18446744073709551616"), "r"},
	{LIT("-1"), "-1;"},
	{LIT("-0"), "r"},
	{LIT("-9223372036854775808"), "-9223372036854775808;"},
	{LIT("-9223372036854775809"), "r"},
	{LIT("1.0"), "r"},
	{LIT("1e0"), "r"},
	{LIT("0E+00"), "r"},
	{LIT("1.5e-3"), "r"},
	{LIT("1.7976931348623157e308"), "r"},
	{LIT("17976931348623157e292"), "r"},
	{LIT("0e999999999999999999999"), "r"},
	{LIT("1e-999999999999999999999"), "r"},
	{LIT("0.00000000000000000000000000001e336"), "r"},
};

START_TEST(reads_what_is_valid)
{
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
	struct stfs_json json;

	ck_assert_msg(read_text(good_cases[_i].text, &out, &json) == 0, "%s: %s at %zu",
		      good_cases[_i].text.ptr, json.error, json.error_pos);
	ck_assert_str_eq(out.data, good_cases[_i].description);
}
END_TEST

static const struct {
	struct stfs_str text;
	size_t position; /* of the error */
} bad_cases[] = {
	{LIT(""), 0},
	{LIT("  "), 2},
	{LIT("{"), 1},
	{LIT("["), 1},
	{LIT("{}}"), 2},
	{LIT("{} x"), 3},
	{LIT("[}"), 1},
	{LIT("{]"), 1},
	{LIT("[1,]"), 3},
	{LIT("[,1]"), 1},
	{LIT("[1 2]"), 3},
	{LIT("[1,,2]"), 3},
	{LIT("{\"a\":1,}"), 7},
	{LIT("{,}"), 1},
	{LIT("{\"a\"}"), 4},
	{LIT("{\"a\" 1}"), 5},
	{LIT("{\"a\":}"), 5},
	{LIT("{\"a\":1"), 6},
	{LIT("{1:1}"), 1},
	{LIT("{a:1}"), 1},
	{LIT("{'a':1}"), 1},
	{LIT("[1"), 2},
	{LIT("[1,"), 3},
	{LIT("\v1"), 0},
	{LIT("\0"), 0},
	{LIT("1\0"), 1},
	{LIT("/**/1"), 0},
	{LIT("tru"), 0},
	{LIT("True"), 0},
	{LIT("nulll"), 4},
	{LIT("NaN"), 0},
	{LIT("Infinity"), 0},
	{LIT("-Infinity"), 1},
	{LIT("\""), 1},
	{LIT("\"abc"), 4},
	{LIT("\"\\"), 2},
	{LIT("\"\\x\""), 2},
	{LIT("\"\\'\""), 2},
	{LIT("\"\\u12\""), 3},
	{LIT("\"\\u12g4\""), 3},
	{LIT("\"\\u+123\""), 3},
	{LIT("\"\\u"), 3},
	{LIT("\"\\ud800\""), 3},
	{LIT("\"\\ud800"), 3},
	{LIT("\"\\ud800\\u"), 3},
	{LIT("\"\\ud800\\ue000\""), 3},
	{LIT("\"\\ud800\\udbff\""), 3},
	{LIT("\"\\ud800x\""), 3},
	{LIT("\"\\ud800\\n12345\""), 3},
	{LIT("\"\\udc00\""), 3},
	{LIT("\"\\udfff\\ud800\""), 3},
	{LIT("\"\\udc00\\udc00\""), 3},
	{LIT("\"a\nb\""), 2},
	{LIT("\"a\0b\""), 2},
	{LIT("\"\x1f\""), 1},
	{LIT("-"), 1},
	{LIT("+1"), 0},
	{LIT(".5"), 0},
	{LIT("01"), 0},
	{LIT("-01"), 1},
	{LIT("00"), 0},
	{LIT("1."), 2},
	{LIT("1.e5"), 2},
	{LIT("1e"), 2},
	{LIT("1e+"), 3},
	{LIT("1E-x"), 3},
	{LIT("0x10"), 1},
	{LIT("1_000"), 1},
	{LIT("1e309"), 0},
	{LIT("[-1e309]"), 1},
	{LIT("1.7976931348623159e308"), 0},
	{LIT("17976931348623159e292"), 0},
	{LIT("1e2147483648"), 0},
	{LIT("1e18446744073709551617"), 0},
	{LIT("0.00000000000000000000000000001e338"), 0},
};

START_TEST(refuses_what_is_not)
{
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
	struct stfs_json json;

	ck_assert_msg(read_text(bad_cases[_i].text, &out, &json) == -EBADMSG, "%s is taken",
		      bad_cases[_i].text.ptr);
	ck_assert_msg(json.error_pos == bad_cases[_i].position, "%s: %s at %zu, want %zu",
		      bad_cases[_i].text.ptr, json.error, json.error_pos, bad_cases[_i].position);
}
END_TEST

/* Every prefix of a valid text is refused at its end, and nothing behind the end is looked at. */
START_TEST(refuses_every_prefix)
{
	static const char text[] = "{\"a\\n\\ud83d\\ude00\":[1.5e+3,-20,{\"b\":null}],\"c\":\"\\u0041é\",\"d\":true}";
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
	struct stfs_json json;

	ck_assert_int_eq(read_text(stfs_str_from(text), &out, &json), 0);
	for (size_t len = 0; len < sizeof(text) - 1; len++) {
		char *copy = malloc(len ? len : 1); /* exact, for the address sanitizer */

		memcpy(copy, text, len);
		stfs_buf_clear(&out);
		ck_assert_msg(read_text(stfs_str_slice(copy, len), &out, &json) == -EBADMSG,
			      "%.*s is taken", (int)len, text);
		free(copy);
	}
}
END_TEST

static int read_nested(unsigned depth, const char *open, const char *close)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
	struct stfs_json json;

	for (unsigned i = 0; i < depth; i++)
		stfs_buf_puts(&text, open);
	stfs_buf_puts(&text, "1");
	for (unsigned i = 0; i < depth; i++)
		stfs_buf_puts(&text, close);
	return read_text(stfs_buf_str(&text), &out, &json);
}

START_TEST(nests_to_127_levels)
{
	ck_assert_int_eq(read_nested(127, "[", "]"), 0);
	ck_assert_int_eq(read_nested(128, "[", "]"), -EBADMSG);
	ck_assert_int_eq(read_nested(127, "{\"k\":", "}"), 0);
	ck_assert_int_eq(read_nested(128, "{\"k\":", "}"), -EBADMSG);
	ck_assert_int_eq(read_nested(100000, "[", "]"), -EBADMSG);
}
END_TEST

/* A number of `digits` digits, all of them 9, scaled by 10^exponent. */
static int read_long_number(unsigned digits, int exponent)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
	struct stfs_json json;

	stfs_buf_fill(&text, '9', digits);
	if (exponent)
		stfs_buf_printf(&text, "e%d", exponent);
	return read_text(stfs_buf_str(&text), &out, &json);
}

START_TEST(long_numbers_end_where_doubles_end)
{
	ck_assert_int_eq(read_long_number(308, 0), 0);
	ck_assert_int_eq(read_long_number(309, 0), -EBADMSG);
	ck_assert_int_eq(read_long_number(1000, -692), 0);
	ck_assert_int_eq(read_long_number(1000, -691), -EBADMSG);
	ck_assert_int_eq(read_long_number(20, 288), 0);
	ck_assert_int_eq(read_long_number(20, 289), -EBADMSG);
	ck_assert_int_eq(read_long_number(1, 307), 0);
	ck_assert_int_eq(read_long_number(1, 308), -EBADMSG);
}
END_TEST

/* ---- json-c's opinion ---- */

static void describe_jsonc(struct json_object *value, struct stfs_buf *out)
{
	switch (json_object_get_type(value)) {
	case json_type_null:
		stfs_buf_putc(out, 'n');
		break;
	case json_type_boolean:
		stfs_buf_putc(out, json_object_get_boolean(value) ? 't' : 'f');
		break;
	case json_type_double:
		stfs_buf_putc(out, 'r');
		break;
	case json_type_int:
		if (json_object_get_int64(value) < 0)
			stfs_buf_printf(out, "%" PRId64 ";", json_object_get_int64(value));
		else
			stfs_buf_printf(out, "%" PRIu64 ";", json_object_get_uint64(value));
		break;
	case json_type_string:
		stfs_buf_printf(out, "%d'", json_object_get_string_len(value));
		stfs_buf_add(out, json_object_get_string(value),
			     (size_t)json_object_get_string_len(value));
		break;
	case json_type_array:
		stfs_buf_putc(out, '[');
		for (size_t i = 0; i < json_object_array_length(value); i++)
			describe_jsonc(json_object_array_get_idx(value, i), out);
		stfs_buf_putc(out, ']');
		break;
	case json_type_object:
		stfs_buf_putc(out, '{');
		json_object_object_foreach(value, key, member) {
			stfs_buf_printf(out, "%zu'%s", strlen(key), key);
			describe_jsonc(member, out);
		}
		stfs_buf_putc(out, '}');
		break;
	}
}

/* As read_text(), by json-c. */
static int read_jsonc(struct stfs_str text, struct stfs_buf *out)
{
	struct json_tokener *tokener = json_tokener_new_ex(200);
	struct json_object *value;
	size_t end;
	bool good;

	json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
	value = json_tokener_parse_ex(tokener, text.ptr, (int)text.len);
	end = json_tokener_get_parse_end(tokener);
	/* A number at the top is complete only when something follows. */
	if (json_tokener_get_error(tokener) == json_tokener_continue) {
		value = json_tokener_parse_ex(tokener, "", 1);
		end = text.len;
	}
	good = json_tokener_get_error(tokener) == json_tokener_success;
	for (size_t i = end; good && i < text.len; i++)
		good = text.ptr[i] && strchr(" \t\r\n", text.ptr[i]);
	if (good)
		describe_jsonc(value, out);
	json_object_put(value);
	json_tokener_free(tokener);
	ck_assert(stfs_buf_cstr(out));
	return good ? 0 : -EBADMSG;
}

static void add_random_string(uint64_t *rng, struct stfs_buf *out, unsigned number)
{
	static const char *const pieces[] = {"a", "b", " ", "é", "漢", "😀", "\\n", "\\\"", "\\\\", "\\/",
					     "\\u0041", "\\u00E9", "\\ud83d\\ude00", "\\uffff", "{", "]"};

	/* Every key differs: json-c would merge them. */
	stfs_buf_printf(out, "\"%u", number);
	for (size_t i = stfs_check_below(rng, 4); i > 0; i--)
		stfs_buf_puts(out, pieces[stfs_check_below(rng, STFS_CHECK_COUNT(pieces))]);
	stfs_buf_putc(out, '"');
}

static void add_space(uint64_t *rng, struct stfs_buf *out)
{
	if (stfs_check_below(rng, 8) == 0)
		stfs_buf_putc(out, " \t\r\n"[stfs_check_below(rng, 4)]);
}

/* Scalars: without -0 and numbers beyond 64 bits, where json-c has views of its own. */
static const char *const scalars[] = {"true", "false", "null", "0", "1", "-1", "1.5", "1E+2", "0.0",
				      "-2.5e-10", "18446744073709551615", "-9223372036854775808",
				      "1e308"};
#define WORDS 3 /* of them */

static void add_random_value(uint64_t *rng, struct stfs_buf *out, unsigned depth, size_t scalar_count)
{
	size_t kind = stfs_check_below(rng, depth < 5 ? 5 : 2);

	add_space(rng, out);
	if (kind == 0) {
		stfs_buf_puts(out, scalars[stfs_check_below(rng, scalar_count)]);
	} else if (kind == 1) {
		add_random_string(rng, out, 0);
	} else {
		stfs_buf_putc(out, kind == 2 ? '[' : '{');
		for (unsigned i = (unsigned)stfs_check_below(rng, 4), n = i; i > 0; i--) {
			if (i < n)
				stfs_buf_putc(out, ',');
			add_space(rng, out);
			if (kind != 2) {
				add_random_string(rng, out, i);
				add_space(rng, out);
				stfs_buf_putc(out, ':');
			}
			add_random_value(rng, out, depth + 1, scalar_count);
			add_space(rng, out);
		}
		stfs_buf_putc(out, kind == 2 ? ']' : '}');
	}
	add_space(rng, out);
}

START_TEST(agrees_with_json_c_on_valid_texts)
{
	uint64_t rng = stfs_check_seed();

	for (int i = 0; i < 5000; i++) {
		STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
		STFS_AUTO_BUF struct stfs_buf ours = STFS_BUF_INIT;
		STFS_AUTO_BUF struct stfs_buf theirs = STFS_BUF_INIT;
		struct stfs_json json;

		add_random_value(&rng, &text, 0, STFS_CHECK_COUNT(scalars));
		ck_assert(stfs_buf_cstr(&text));
		ck_assert_msg(read_text(stfs_buf_str(&text), &ours, &json) == 0, "%s: %s at %zu",
			      text.data, json.error, json.error_pos);
		ck_assert_msg(read_jsonc(stfs_buf_str(&text), &theirs) == 0, "%s", text.data);
		ck_assert_str_eq(ours.data, theirs.data);
	}
}
END_TEST

/*
 * Texts without numbers, one byte of them changed: json-c takes "00", "1." and more. It also takes
 * NaN and Infinity in any case, lone surrogates, and control bytes in strings.
 */
START_TEST(agrees_with_json_c_on_broken_texts)
{
	uint64_t rng = stfs_check_seed();
	unsigned refused = 0;

	for (int i = 0; i < 20000; i++) {
		STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
		STFS_AUTO_BUF struct stfs_buf ours = STFS_BUF_INIT;
		STFS_AUTO_BUF struct stfs_buf theirs = STFS_BUF_INIT;
		struct stfs_json json;
		int r;

		add_random_value(&rng, &text, 1, WORDS);
		text.data[stfs_check_below(&rng, text.len)] =
			"{}[],:\"\\tfx /"[stfs_check_below(&rng, 13)];
		ck_assert(stfs_buf_cstr(&text));
		if (stfs_utf8_check(text.data, text.len) < text.len ||
		    strpbrk(text.data, "NI\t\r\n") || strstr(text.data, "\\u"))
			continue;
		r = read_text(stfs_buf_str(&text), &ours, &json);
		ck_assert_msg(r == read_jsonc(stfs_buf_str(&text), &theirs), "%s: we say %s", text.data,
			      r ? json.error : "valid");
		refused += r != 0;
	}
	ck_assert_uint_gt(refused, 1000);
}
END_TEST

/* Where a value is passed over: its objects and keys, each with the depth. */
struct trace {
	struct stfs_json *json;
	struct stfs_buf out;
	size_t stop; /* fails when so much was said; 0: never */
};

static int trace_depth(struct trace *trace, char what)
{
	stfs_buf_printf(&trace->out, "%c%u", what, trace->json->depth);
	return trace->stop && trace->out.len >= trace->stop ? -ENOMEM : 0;
}

static int trace_enter(void *data)
{
	return trace_depth(data, '<');
}

static int trace_leave(void *data)
{
	return trace_depth(data, '>');
}

static int trace_key(void *data, struct stfs_json_string raw)
{
	struct trace *trace = data;

	stfs_buf_add_str(&trace->out, stfs_json_raw(trace->json, raw));
	return trace_depth(trace, ':');
}

START_TEST(skips_one_value)
{
	static const struct stfs_json_visitor visitor = {.enter = trace_enter, .key = trace_key, .leave = trace_leave};
	static const char text[] = "[1,{\"a\":[],\"b\\n\":{\"c\":[2,{}]}} , 3]", want[] = "<2a:2<3>2b\\n:2<3c:3<4<5>4>3>2>1";

	for (size_t stop = 0; stop < sizeof(want); stop += 2) {
		struct stfs_json json = {.text = text, .len = sizeof(text) - 1};
		struct trace trace = {.json = &json, .stop = stop};
		bool first = true;

		ck_assert_int_eq(stfs_json_enter(&json, '['), 0);
		ck_assert_int_eq(stfs_json_next(&json, ']', &first), 1);
		ck_assert_int_eq(stfs_json_skip(&json, &visitor, &trace), 0);
		ck_assert_int_eq(stfs_json_next(&json, ']', &first), 1);
		ck_assert_int_eq(stfs_json_skip(&json, &visitor, &trace), stop ? -ENOMEM : 0);
		if (!stop) {
			stfs_check_str_eq(stfs_buf_str(&trace.out), stfs_str_from(want), "what was passed");
			ck_assert_int_eq(stfs_json_next(&json, ']', &first), 1);
			ck_assert_int_eq(stfs_json_skip(&json, NULL, NULL), 0);
			ck_assert_int_eq(stfs_json_next(&json, ']', &first), 0);
			ck_assert_uint_eq(json.pos, json.len);
		}
		stfs_buf_free(&trace.out);
	}
}
END_TEST

START_TEST(skipping_refuses_what_reading_refuses)
{
	struct stfs_json json = {.text = bad_cases[_i].text.ptr, .len = bad_cases[_i].text.len};
	int r = stfs_json_skip(&json, NULL, NULL);

	stfs_json_peek(&json);
	ck_assert_msg(r == -EBADMSG || json.pos < json.len, "%s", json.text);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("json");
	TCase *tcase = tcase_create("json");

	tcase_add_loop_test(tcase, reads_what_is_valid, 0, STFS_CHECK_COUNT(good_cases));
	tcase_add_loop_test(tcase, refuses_what_is_not, 0, STFS_CHECK_COUNT(bad_cases));
	tcase_add_test(tcase, skips_one_value);
	tcase_add_loop_test(tcase, skipping_refuses_what_reading_refuses, 0, STFS_CHECK_COUNT(bad_cases));
	tcase_add_test(tcase, refuses_every_prefix);
	tcase_add_test(tcase, nests_to_127_levels);
	tcase_add_test(tcase, long_numbers_end_where_doubles_end);
	tcase_add_test(tcase, agrees_with_json_c_on_valid_texts);
	tcase_add_test(tcase, agrees_with_json_c_on_broken_texts);
	suite_add_tcase(suite, tcase);
	return stfs_check_main(suite);
}
