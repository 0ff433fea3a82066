/* SPDX-License-Identifier: MIT */
/* Opcodes that push a number, a word or text. */
#include <errno.h>
#include <stdlib.h>

#include "base/utf8.h"
#include "codec/pickle_internal.h"

static int push_integer(struct stfs_pickle_op *op, int64_t integer)
{
	return stfs_pickle_push(op, (struct stfs_pickle_value){.kind = STFS_PICKLE_INT, .as.integer = integer});
}

static int push_bool(struct stfs_pickle_op *op, bool truth)
{
	return stfs_pickle_push(op, (struct stfs_pickle_value){.kind = STFS_PICKLE_BOOL, .as.truth = truth});
}

/* ---- Numbers ---- */

/* BININT1, BININT2, BININT; the last is signed. */
static int binary_integer(struct stfs_pickle_op *op, unsigned bytes)
{
	uint64_t number;
	int r = stfs_pickle_arg_number(op, bytes, &number);

	if (r < 0)
		return r;
	return push_integer(op, bytes == 4 ? (int32_t)(uint32_t)number : (int64_t)number);
}

/* LONG1, LONG4: two's complement of any length. */
static int binary_long(struct stfs_pickle_op *op, unsigned length_bytes)
{
	struct stfs_pickle_value value = {.kind = STFS_PICKLE_LONG};
	uint64_t len, number = 0;
	uint32_t pos = 0;
	int r = stfs_pickle_arg_number(op, length_bytes, &len);

	if (r == 0 && length_bytes == 4 && len > INT32_MAX)
		return stfs_pickle_fail(op, "a number of a negative length");
	if (r == 0)
		r = stfs_pickle_arg_bytes(op, len, &pos);
	if (r < 0)
		return r;
	if (len <= 8) {
		for (unsigned i = 0; i < len; i++)
			number |= (uint64_t)(unsigned char)op->pickle->data[pos + i] << 8 * i;
		if (len > 0 && len < 8 && op->pickle->data[pos + len - 1] & 0x80)
			number |= UINT64_MAX << 8 * len;
		return push_integer(op, (int64_t)number);
	}
	value.as.text.pos = pos;
	value.as.text.len = (uint32_t)len;
	return stfs_pickle_push(op, value);
}

/* A decimal number of 64 bits: 0, -ERANGE when it is longer, -EINVAL when it is none. */
static int parse_integer(struct stfs_str digits, int64_t *integer)
{
	bool negative = digits.len && digits.ptr[0] == '-';
	size_t i = digits.len && (digits.ptr[0] == '-' || digits.ptr[0] == '+');
	bool overflow = false;

	*integer = 0;
	if (i == digits.len)
		return -EINVAL;
	for (; i < digits.len; i++) {
		int digit = digits.ptr[i] - '0';

		if (digit < 0 || digit > 9)
			return -EINVAL;
		overflow |= __builtin_mul_overflow(*integer, 10, integer);
		overflow |= __builtin_add_overflow(*integer, negative ? -digit : digit, integer);
	}
	return overflow ? -ERANGE : 0;
}

/* INT ("01" and "00" are bools) and LONG (Python 2 wrote an L behind it). */
static int text_integer(struct stfs_pickle_op *op, bool is_long)
{
	struct stfs_pickle_value value = {.kind = STFS_PICKLE_LONG, .digits = true};
	struct stfs_str line;
	int64_t integer;
	int r = stfs_pickle_arg_line(op, &line);

	if (r < 0)
		return r;
	if (!is_long && (stfs_str_is(line, "00") || stfs_str_is(line, "01")))
		return push_bool(op, line.ptr[1] == '1');
	if (is_long && stfs_str_ends_with(line, "L"))
		line.len--;
	r = parse_integer(line, &integer);
	if (r == 0)
		return push_integer(op, integer);
	if (r == -EINVAL)
		return stfs_pickle_fail(op, "a whole number is expected");
	value.as.text.pos = (uint32_t)(line.ptr - op->pickle->data);
	value.as.text.len = (uint32_t)line.len;
	return stfs_pickle_push(op, value);
}

static int text_float(struct stfs_pickle_op *op)
{
	struct stfs_pickle_value value = {.kind = STFS_PICKLE_FLOAT};
	struct stfs_str line;
	char text[64], *end;
	int r = stfs_pickle_arg_line(op, &line);

	if (r < 0)
		return r;
	if (line.len == 0 || line.len >= sizeof(text))
		return stfs_pickle_fail(op, "a number is expected");
	memcpy(text, line.ptr, line.len);
	text[line.len] = '\0';
	value.as.real = strtod(text, &end);
	if (end != text + line.len)
		return stfs_pickle_fail(op, "a number is expected");
	return stfs_pickle_push(op, value);
}

/* BINFLOAT is big-endian. */
static int binary_float(struct stfs_pickle_op *op)
{
	struct stfs_pickle_value value = {.kind = STFS_PICKLE_FLOAT};
	uint64_t bits;
	int r = stfs_pickle_arg_number(op, 8, &bits);

	if (r < 0)
		return r;
	bits = __builtin_bswap64(bits);
	memcpy(&value.as.real, &bits, sizeof(bits));
	return stfs_pickle_push(op, value);
}

/* ---- Text ---- */

/* UTF-8 with lone surrogates, which Python's pickles may hold. */
static bool is_text(const char *text, size_t len)
{
	size_t at = 0;

	while ((at += stfs_utf8_check(text + at, len - at)) < len) {
		if (len - at < 3 || (unsigned char)text[at] != 0xed || (text[at + 1] & 0xe0) != 0xa0 ||
		    (text[at + 2] & 0xc0) != 0x80)
			return false;
		at += 3;
	}
	return true;
}

static int push_text(struct stfs_pickle_op *op, unsigned length_bytes, enum stfs_pickle_kind kind)
{
	struct stfs_pickle_value value = {.kind = (uint8_t)kind};
	uint64_t len;
	uint32_t pos = 0;
	int r = stfs_pickle_arg_number(op, length_bytes, &len);

	if (r == 0)
		r = stfs_pickle_arg_bytes(op, len, &pos);
	if (r < 0)
		return r;
	if (kind == STFS_PICKLE_STR && !is_text(op->pickle->data + pos, len))
		return stfs_pickle_fail(op, "a text that is not UTF-8");
	value.as.text.pos = pos;
	value.as.text.len = (uint32_t)len;
	return stfs_pickle_push(op, value);
}

/* What Python 2 called str: text where it is UTF-8 (torch.load reads it so), else bytes. */
static int push_python2(struct stfs_pickle_op *op, unsigned length_bytes)
{
	struct stfs_pickle_value *value;
	int r = push_text(op, length_bytes, STFS_PICKLE_BYTES);

	if (r < 0)
		return r;
	value = &op->pickle->values[op->pickle->value_count - 1];
	if (is_text(op->pickle->data + value->as.text.pos, value->as.text.len))
		value->kind = STFS_PICKLE_STR;
	return 0;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* `count` hexadecimal digits; -1 when they are not there. */
static int64_t hex(struct stfs_str text, size_t at, size_t count)
{
	int64_t number = 0;

	if (text.len - at < count)
		return -1;
	for (size_t i = 0; i < count; i++) {
		int digit = hex_digit(text.ptr[at + i]);

		if (digit < 0)
			return -1;
		number = number << 4 | digit;
	}
	return number;
}

/* UTF-8 of any code point, surrogates too. */
static void put_code(struct stfs_buf *out, uint32_t code)
{
	char bytes[4];
	size_t len;

	if (code >= 0xd800 && code < 0xe000) {
		bytes[0] = (char)0xed;
		bytes[1] = (char)(0x80 | (code >> 6 & 0x3f));
		bytes[2] = (char)(0x80 | (code & 0x3f));
		len = 3;
	} else {
		len = stfs_utf8_put(code, bytes);
	}
	stfs_buf_add(out, bytes, len);
}

/* "raw-unicode-escape": \uXXXX and \UXXXXXXXX, every other byte is the character of its number. */
static bool unescape_unicode(struct stfs_str text, struct stfs_buf *out)
{
	for (size_t i = 0; i < text.len; i++) {
		char next = i + 1 < text.len ? text.ptr[i + 1] : '\0';
		size_t digits = next == 'u' ? 4 : 8;
		int64_t code;

		if (text.ptr[i] != '\\' || (next != 'u' && next != 'U')) {
			put_code(out, (unsigned char)text.ptr[i]);
			continue;
		}
		code = hex(text, i + 2, digits);
		if (code < 0 || code > 0x10ffff)
			return false;
		put_code(out, (uint32_t)code);
		i += 1 + digits;
	}
	return true;
}

/* One escape of a Python string behind its backslash; the bytes it takes, 0 when it is none. */
static size_t unescape_one(struct stfs_str text, size_t at, struct stfs_buf *out)
{
	static const char letters[] = "\\'\"abfnrtv", meanings[] = "\\'\"\a\b\f\n\r\t\v";
	const char *found = at < text.len ? strchr(letters, text.ptr[at]) : NULL;
	size_t used = 0;
	unsigned code = 0;

	if (found && *found) {
		stfs_buf_putc(out, meanings[found - letters]);
		return 1;
	}
	if (at < text.len && text.ptr[at] == 'x' && hex(text, at + 1, 2) >= 0) {
		stfs_buf_putc(out, (char)hex(text, at + 1, 2));
		return 3;
	}
	while (used < 3 && at + used < text.len && text.ptr[at + used] >= '0' && text.ptr[at + used] <= '7')
		code = code * 8 + (unsigned)(text.ptr[at + used++] - '0');
	if (used)
		stfs_buf_putc(out, (char)code);
	return used;
}

/* STRING: what repr() gives, in quotes. */
static bool unescape_string(struct stfs_str text, struct stfs_buf *out)
{
	char quote = text.len ? text.ptr[0] : '\0';

	if (text.len < 2 || (quote != '\'' && quote != '"') || text.ptr[text.len - 1] != quote)
		return false;
	text = stfs_str_slice(text.ptr + 1, text.len - 2);
	for (size_t i = 0; i < text.len; i++) {
		size_t used;

		if (text.ptr[i] != '\\') {
			stfs_buf_putc(out, text.ptr[i]);
			continue;
		}
		used = unescape_one(text, i + 1, out);
		if (used == 0) /* no escape: Python keeps both characters */
			stfs_buf_putc(out, '\\');
		i += used;
	}
	return true;
}

static int text_string(struct stfs_pickle_op *op, bool unicode)
{
	struct stfs_pickle_value value = {.kind = STFS_PICKLE_STR, .unescaped = true};
	struct stfs_buf *texts = &op->pickle->texts;
	size_t from = texts->len;
	struct stfs_str line;
	int r = stfs_pickle_arg_line(op, &line);

	if (r == 0)
		r = stfs_buf_reserve(texts, 1); /* so that the text of none, too, stands somewhere */
	if (r < 0)
		return r;
	if (!(unicode ? unescape_unicode(line, texts) : unescape_string(line, texts)))
		return stfs_pickle_fail(op, "a text with a broken escape or quote");
	if (stfs_buf_status(texts) < 0)
		return -ENOMEM;
	value.as.text.pos = (uint32_t)from;
	value.as.text.len = (uint32_t)(texts->len - from);
	if (!is_text(texts->data + from, value.as.text.len))
		value.kind = STFS_PICKLE_BYTES;
	return stfs_pickle_push(op, value);
}

int stfs_pickle_scalar(struct stfs_pickle_op *op, unsigned char opcode)
{
	switch (opcode) {
	case 'N': return stfs_pickle_push(op, (struct stfs_pickle_value){.kind = STFS_PICKLE_NONE});
	case 0x88: return push_bool(op, true);
	case 0x89: return push_bool(op, false);
	case 'I': return text_integer(op, false);
	case 'L': return text_integer(op, true);
	case 'K': return binary_integer(op, 1);
	case 'M': return binary_integer(op, 2);
	case 'J': return binary_integer(op, 4);
	case 0x8a: return binary_long(op, 1);
	case 0x8b: return binary_long(op, 4);
	case 'F': return text_float(op);
	case 'G': return binary_float(op);
	case 'S': return text_string(op, false);
	case 'V': return text_string(op, true);
	case 'U': return push_python2(op, 1);
	case 'T': return push_python2(op, 4);
	case 0x8c: return push_text(op, 1, STFS_PICKLE_STR);
	case 'X': return push_text(op, 4, STFS_PICKLE_STR);
	case 0x8d: return push_text(op, 8, STFS_PICKLE_STR);
	case 'C': return push_text(op, 1, STFS_PICKLE_BYTES);
	case 'B': return push_text(op, 4, STFS_PICKLE_BYTES);
	case 0x8e: case 0x96: return push_text(op, 8, STFS_PICKLE_BYTES);
	default: return -ENOENT;
	}
}
