/* SPDX-License-Identifier: MIT */
#include "format/json.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/utf8.h"

static int fail_at(struct stfs_json *json, size_t pos, const char *error)
{
	json->error = error;
	json->error_pos = pos;
	return -EBADMSG;
}

int stfs_json_fail(struct stfs_json *json, const char *error)
{
	stfs_json_peek(json);
	return fail_at(json, json->pos, error);
}

static inline bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* The byte at pos, '\0' at the end. */
static inline char at(const struct stfs_json *json)
{
	return json->pos < json->len ? json->text[json->pos] : '\0';
}

char stfs_json_peek(struct stfs_json *json)
{
	while (json->pos < json->len) {
		char c = json->text[json->pos];

		if (c != ' ' && c != '\n' && c != '\t' && c != '\r')
			return c;
		json->pos++;
	}
	return '\0';
}

int stfs_json_enter(struct stfs_json *json, char open)
{
	if (stfs_json_peek(json) != open)
		return fail_at(json, json->pos, open == '{' ? "expected an object" : "expected an array");
	if (json->depth == STFS_JSON_MAX_DEPTH)
		return fail_at(json, json->pos, "nested deeper than 127 levels");
	json->depth++;
	json->pos++;
	return 0;
}

int stfs_json_next(struct stfs_json *json, char close, bool *first)
{
	char c = stfs_json_peek(json);

	if (c == close) {
		json->pos++;
		json->depth--;
		return 0;
	}
	if (*first) {
		*first = false;
	} else if (c == ',') {
		json->pos++;
		c = stfs_json_peek(json);
		if (c == close)
			return fail_at(json, json->pos, "trailing comma");
	} else if (json->pos == json->len) {
		return fail_at(json, json->pos, "the text ends inside an object or array");
	} else {
		return fail_at(json, json->pos, close == '}' ? "expected ',' or '}'" : "expected ',' or ']'");
	}
	if (json->pos == json->len)
		return fail_at(json, json->pos, "the text ends inside an object or array");
	return 1;
}

int stfs_json_key(struct stfs_json *json, struct stfs_json_string *key)
{
	int r;

	if (stfs_json_peek(json) != '"')
		return fail_at(json, json->pos, "a key must be a string");
	r = stfs_json_string(json, key);
	if (r < 0)
		return r;
	if (stfs_json_peek(json) != ':')
		return fail_at(json, json->pos, "expected ':'");
	json->pos++;
	return 0;
}

/* The value of four hexadecimal digits at `digits`, or -1. */
static int hex4(const char *digits, size_t len)
{
	int value = 0;

	if (len < 4)
		return -1;
	for (int i = 0; i < 4; i++) {
		char c = digits[i];

		value <<= 4;
		if (is_digit(c))
			value |= c - '0';
		else if ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'))
			value |= (c & ~0x20) - 'A' + 10;
		else
			return -1;
	}
	return value;
}

/* Checks \uXXXX, and the second half of a surrogate pair; pos is at the first digit. */
static int unicode_escape(struct stfs_json *json)
{
	size_t start = json->pos;
	int high = hex4(json->text + json->pos, json->len - json->pos);
	int low;

	if (high < 0)
		return fail_at(json, start, "\\u needs four hexadecimal digits");
	json->pos += 4;
	if (high < 0xd800 || high > 0xdfff)
		return 0;
	if (high >= 0xdc00)
		return fail_at(json, start, "lone surrogate");
	if (json->len - json->pos < 6 || json->text[json->pos] != '\\' ||
	    json->text[json->pos + 1] != 'u')
		return fail_at(json, start, "lone surrogate");
	low = hex4(json->text + json->pos + 2, 4);
	if (low < 0xdc00 || low > 0xdfff)
		return fail_at(json, start, "lone surrogate");
	json->pos += 6;
	return 0;
}

static int escape(struct stfs_json *json)
{
	char c;

	json->pos++; /* the backslash */
	c = at(json);
	if (json->pos == json->len)
		return fail_at(json, json->pos, "the text ends inside a string");
	json->pos++;
	if (c == 'u')
		return unicode_escape(json);
	if (c == '"' || c == '\\' || c == '/' || c == 'b' || c == 'f' || c == 'n' || c == 'r' || c == 't')
		return 0;
	return fail_at(json, json->pos - 1, "unknown escape");
}

int stfs_json_string(struct stfs_json *json, struct stfs_json_string *string)
{
	int r;

	if (stfs_json_peek(json) != '"')
		return fail_at(json, json->pos, "expected a string");
	json->pos++;
	string->pos = json->pos;
	string->escaped = false;
	while (json->pos < json->len) {
		unsigned char c = (unsigned char)json->text[json->pos];

		if (c == '"') {
			string->len = json->pos - string->pos;
			json->pos++;
			return 0;
		}
		if (c == '\\') {
			string->escaped = true;
			r = escape(json);
			if (r < 0)
				return r;
			continue;
		}
		if (c < 0x20)
			return fail_at(json, json->pos, "control character inside a string");
		json->pos++;
	}
	return fail_at(json, json->len, "the text ends inside a string");
}

/*
 * Whether significand * 10^exponent passes the largest double, reckoned in the same steps as
 * serde_json's f64_from_parts (de.rs), so that the verdict on a number at the edge is the same.
 */
static bool too_large(uint64_t significand, int exponent)
{
	double f = (double)significand;
	char power[16];

	while (exponent > 308 || exponent < -308) {
		if (f == 0.0)
			return false;
		if (exponent > 0)
			return true;
		f /= 1e308;
		exponent += 308;
	}
	if (exponent < 280) /* a significand has 20 digits at the most */
		return false;
	snprintf(power, sizeof(power), "1e%d", exponent);
	return isinf(f * strtod(power, NULL));
}

/* Digits into *significand until it would pass 2^64 - 1; the rest are only counted. */
static void digits(struct stfs_json *json, uint64_t *significand, int *used, int *dropped)
{
	uint64_t next;

	*used = *dropped = 0;
	for (; is_digit(at(json)); json->pos++) {
		unsigned digit = (unsigned)(at(json) - '0');

		if (*dropped || __builtin_mul_overflow(*significand, 10u, &next) ||
		    __builtin_add_overflow(next, digit, &next)) {
			(*dropped)++;
		} else {
			*significand = next;
			(*used)++;
		}
	}
}

/* The digits of an exponent, saturated; the sign is in the result. pos is behind the 'e'. */
static int exponent_digits(struct stfs_json *json, int *exponent)
{
	bool negative = at(json) == '-';
	int value = 0;

	if (at(json) == '-' || at(json) == '+')
		json->pos++;
	if (!is_digit(at(json)))
		return fail_at(json, json->pos, "an exponent needs a digit");
	for (; is_digit(at(json)); json->pos++)
		if (value < 100000000)
			value = value * 10 + (at(json) - '0');
	*exponent = negative ? -value : value;
	return 0;
}

/* Fraction and exponent; pos is behind the integer digits. */
static int real_tail(struct stfs_json *json, size_t start, uint64_t significand, int exponent)
{
	int used, dropped, written = 0, r;
	bool full = exponent > 0; /* the integer part has already dropped digits */

	if (at(json) == '.') {
		json->pos++;
		if (!is_digit(at(json)))
			return fail_at(json, json->pos, "a fraction needs a digit");
		if (full) {
			while (is_digit(at(json)))
				json->pos++;
		} else {
			digits(json, &significand, &used, &dropped);
			exponent -= used;
		}
	}
	if (at(json) == 'e' || at(json) == 'E') {
		json->pos++;
		r = exponent_digits(json, &written);
		if (r < 0)
			return r;
		exponent += written;
	}
	if (too_large(significand, exponent))
		return fail_at(json, start, "number out of range");
	return 0;
}

int stfs_json_number(struct stfs_json *json, struct stfs_json_number *number)
{
	size_t start;
	bool negative;
	uint64_t significand = 0;
	int used, dropped;

	negative = stfs_json_peek(json) == '-';
	start = json->pos;
	if (negative)
		json->pos++;
	if (!is_digit(at(json)))
		return fail_at(json, json->pos, "invalid number");
	if (at(json) == '0' && json->pos + 1 < json->len && is_digit(json->text[json->pos + 1]))
		return fail_at(json, json->pos, "a number must not begin with 0");
	digits(json, &significand, &used, &dropped);
	number->value = significand;
	if (at(json) == '.' || at(json) == 'e' || at(json) == 'E' || dropped) {
		number->kind = STFS_JSON_REAL;
		return real_tail(json, start, significand, dropped);
	}
	number->kind = STFS_JSON_UINT;
	if (negative) /* -0 and what is below -2^63 become doubles (serde_json, parse_number) */
		number->kind = significand == 0 || significand > (uint64_t)1 << 63 ? STFS_JSON_REAL
										   : STFS_JSON_NEGATIVE;
	return 0;
}

int stfs_json_word(struct stfs_json *json)
{
	static const char *const words[] = {"true", "false", "null"};

	stfs_json_peek(json);
	for (size_t i = 0; i < 3; i++) {
		size_t len = strlen(words[i]);

		if (json->len - json->pos >= len && memcmp(json->text + json->pos, words[i], len) == 0) {
			json->pos += len;
			return 0;
		}
	}
	if (json->pos == json->len)
		return fail_at(json, json->pos, "the text ends where a value is expected");
	return fail_at(json, json->pos, "expected a value");
}

int stfs_json_scalar(struct stfs_json *json)
{
	struct stfs_json_string string;
	struct stfs_json_number number;
	char c = stfs_json_peek(json);

	if (c == '"')
		return stfs_json_string(json, &string);
	if (c == '-' || is_digit(c))
		return stfs_json_number(json, &number);
	return stfs_json_word(json);
}

static size_t unescape_one(const char *p, char out[4])
{
	/* The text was checked: what stands behind \u is four digits, and a high surrogate is
	 * followed by its low one. */
	int code, low;

	if (p[1] != 'u') {
		switch (p[1]) {
		case 'b': out[0] = '\b'; break;
		case 'f': out[0] = '\f'; break;
		case 'n': out[0] = '\n'; break;
		case 'r': out[0] = '\r'; break;
		case 't': out[0] = '\t'; break;
		default: out[0] = p[1]; break;
		}
		return 1;
	}
	code = hex4(p + 2, 4);
	if (code >= 0xd800 && code <= 0xdbff) {
		low = hex4(p + 8, 4);
		code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
	}
	return stfs_utf8_put((uint32_t)code, out);
}

int stfs_json_unescape(struct stfs_str raw, struct stfs_buf *out)
{
	char piece[4];
	size_t i = 0, len;
	int r = stfs_buf_reserve(out, raw.len); /* an escape is never shorter than its character */

	if (r < 0)
		return r;
	while (i < raw.len) {
		const char *slash = memchr(raw.ptr + i, '\\', raw.len - i);
		size_t plain = slash ? (size_t)(slash - raw.ptr) - i : raw.len - i;

		stfs_buf_add(out, raw.ptr + i, plain);
		i += plain;
		if (!slash)
			break;
		len = unescape_one(slash, piece);
		stfs_buf_add(out, piece, len);
		i += slash[1] != 'u' ? 2 : len == 4 ? 12 : 6;
	}
	return stfs_buf_status(out);
}

int stfs_json_plain(const struct stfs_json *json, struct stfs_json_string raw, struct stfs_buf *scratch,
		    struct stfs_str *out)
{
	int r = 0;

	*out = stfs_json_raw(json, raw);
	if (raw.escaped) {
		stfs_buf_clear(scratch);
		r = stfs_json_unescape(*out, scratch);
		*out = stfs_buf_str(scratch);
	}
	return r;
}

int stfs_json_member(struct stfs_json *json, bool *first, struct stfs_buf *scratch,
		     struct stfs_json_string *raw, struct stfs_str *key)
{
	int r = stfs_json_next(json, '}', first);

	if (r <= 0)
		return r;
	r = stfs_json_key(json, raw);
	if (r == 0)
		r = stfs_json_plain(json, *raw, scratch, key);
	return r < 0 ? r : 1;
}

int stfs_json_members(struct stfs_json *json, struct stfs_buf *scratch,
		      int (*each)(void *data, struct stfs_json_string raw, struct stfs_str key), void *data)
{
	struct stfs_json_string raw;
	struct stfs_str key;
	bool first = true;
	int r = stfs_json_enter(json, '{');

	while (r == 0 && (r = stfs_json_member(json, &first, scratch, &raw, &key)) == 1)
		r = each(data, raw, key);
	return r;
}

/* What is open while a value is passed over, by depth. */
struct skip_level {
	char close;
	bool first;
};

static int skip_enter(struct stfs_json *json, char c, struct skip_level *levels,
		      const struct stfs_json_visitor *visitor, void *data)
{
	int r = stfs_json_enter(json, c);

	if (r < 0)
		return r;
	levels[json->depth] = (struct skip_level){.close = c == '{' ? '}' : ']', .first = true};
	return visitor ? visitor->enter(data) : 0;
}

/* Leaves what ends here, down to `base`: 1 when an element follows, 0 at the end of the value. */
static int skip_on(struct stfs_json *json, unsigned base, struct skip_level *levels,
		   const struct stfs_json_visitor *visitor, void *data)
{
	struct stfs_json_string key;
	struct skip_level *level;
	int r;

	while (json->depth > base) {
		level = &levels[json->depth];
		r = stfs_json_next(json, level->close, &level->first);
		if (r < 0)
			return r;
		if (r == 1 && level->close == '}') {
			r = stfs_json_key(json, &key);
			if (r == 0 && visitor)
				r = visitor->key(data, key);
			return r < 0 ? r : 1;
		}
		if (r == 1)
			return 1;
		r = visitor ? visitor->leave(data) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

int stfs_json_skip(struct stfs_json *json, const struct stfs_json_visitor *visitor, void *data)
{
	struct skip_level levels[STFS_JSON_MAX_DEPTH + 1];
	unsigned base = json->depth;
	char c;
	int r;

	do {
		c = stfs_json_peek(json);
		if (c == '{' || c == '[')
			r = skip_enter(json, c, levels, visitor, data);
		else
			r = stfs_json_scalar(json);
		if (r == 0)
			r = skip_on(json, base, levels, visitor, data);
	} while (r == 1);
	return r;
}

int stfs_json_text(struct stfs_json *json, int (*read)(void *data), void *data, struct stfs_err *err)
{
	size_t bad = stfs_utf8_check(json->text, json->len);
	int r;

	if (bad < json->len)
		return stfs_err_set(err, -EBADMSG, bad, "not JSON: byte %zu is not UTF-8", bad);
	r = read(data);
	if (r == 0) {
		stfs_json_peek(json);
		if (json->pos < json->len)
			r = stfs_json_fail(json, "characters behind the object");
	}
	if (r == -EBADMSG && json->error)
		return stfs_err_set(err, r, json->error_pos, "not JSON: byte %zu: %s", json->error_pos,
				    json->error);
	return r;
}

static bool needs_escape(unsigned char c)
{
	return c < 0x20 || c == '"' || c == '\\';
}

static void put_escape(unsigned char c, struct stfs_buf *out)
{
	static const char letters[0x20] = {
		['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f', ['\r'] = 'r',
	};

	if (c >= 0x20)
		stfs_buf_printf(out, "\\%c", c);
	else if (letters[c])
		stfs_buf_printf(out, "\\%c", letters[c]);
	else
		stfs_buf_printf(out, "\\u%04x", c);
}

int stfs_json_quote(struct stfs_str text, struct stfs_buf *out)
{
	size_t start = 0;

	stfs_buf_putc(out, '"');
	for (size_t i = 0; i < text.len; i++) {
		if (!needs_escape((unsigned char)text.ptr[i]))
			continue;
		stfs_buf_add(out, text.ptr + start, i - start);
		put_escape((unsigned char)text.ptr[i], out);
		start = i + 1;
	}
	stfs_buf_add(out, text.len ? text.ptr + start : NULL, text.len - start);
	return stfs_buf_putc(out, '"');
}
