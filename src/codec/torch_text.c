/* SPDX-License-Identifier: MIT */
/* Keys as names, and leaves as text. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/utf8.h"
#include "codec/torch_internal.h"

/* ---- Numbers as Python writes them ---- */

/* The fewest digits that give the number again: their count, the digits and the decimal exponent. */
static int shortest(double number, char digits[20], int *exponent)
{
	char text[40];
	int precision = 0;

	do
		snprintf(text, sizeof(text), "%.*e", precision, number);
	while (strtod(text, NULL) != number && ++precision < 17);
	*exponent = atoi(strchr(text, 'e') + 1);
	digits[0] = text[0];
	memcpy(digits + 1, text + 2, (size_t)precision);
	return precision + 1;
}

/* repr(): with an exponent below 1e-4 and from 1e16 on, else with a point. */
static void put_float(double number, struct stfs_buf *out)
{
	char digits[20];
	int exponent, count;

	if (signbit(number) && !isnan(number))
		stfs_buf_putc(out, '-');
	number = fabs(number);
	if (isnan(number) || isinf(number)) {
		stfs_buf_puts(out, isnan(number) ? "nan" : "inf");
		return;
	}
	count = shortest(number, digits, &exponent);
	if (exponent < -4 || exponent >= 16) {
		stfs_buf_printf(out, "%c%s%.*se%c%02d", digits[0], count > 1 ? "." : "", count - 1, digits + 1,
				exponent < 0 ? '-' : '+', abs(exponent));
		return;
	}
	if (exponent < 0) {
		stfs_buf_puts(out, "0.");
		stfs_buf_fill(out, '0', (size_t)(-exponent - 1));
		stfs_buf_add(out, digits, (size_t)count);
		return;
	}
	for (int i = 0; i <= exponent; i++)
		stfs_buf_putc(out, i < count ? digits[i] : '0');
	stfs_buf_putc(out, '.');
	if (count > exponent + 1)
		stfs_buf_add(out, digits + exponent + 1, (size_t)(count - exponent - 1));
	else
		stfs_buf_putc(out, '0');
}

/* ---- Text ---- */

/* Text of a pickle as UTF-8: a lone surrogate becomes \udXXX. Whether there was one. */
static bool put_text(struct stfs_str text, struct stfs_buf *out)
{
	bool changed = false;
	size_t at = 0, good;

	while (at < text.len) {
		good = stfs_utf8_check(text.ptr + at, text.len - at);
		stfs_buf_add(out, text.ptr + at, good);
		at += good;
		if (at < text.len) { /* three bytes: the machine has seen to that */
			stfs_buf_printf(out, "\\ud%x%02x", ((unsigned char)text.ptr[at + 1] & 0x3f) >> 2,
					((unsigned)text.ptr[at + 1] & 3) << 6 |
						((unsigned char)text.ptr[at + 2] & 0x3f));
			changed = true;
			at += 3;
		}
	}
	return changed;
}

#define KEY_BYTES_MAX 256

static bool is_short_ascii(struct stfs_str text)
{
	if (text.len > KEY_BYTES_MAX)
		return false;
	for (size_t i = 0; i < text.len; i++)
		if ((unsigned char)text.ptr[i] >= 0x80)
			return false;
	return true;
}

/* A scalar as repr() shows it. False when it is none. */
static bool put_repr(const struct stfs_pickle *pickle, uint32_t value, struct stfs_buf *out)
{
	const struct stfs_pickle_value *v = stfs_pickle_at(pickle, value);

	switch ((enum stfs_pickle_kind)v->kind) {
	case STFS_PICKLE_NONE: stfs_buf_puts(out, "None"); return true;
	case STFS_PICKLE_BOOL: stfs_buf_puts(out, v->as.truth ? "True" : "False"); return true;
	case STFS_PICKLE_INT: stfs_buf_printf(out, "%lld", (long long)v->as.integer); return true;
	case STFS_PICKLE_FLOAT: put_float(v->as.real, out); return true;
	case STFS_PICKLE_STR:
		stfs_buf_putc(out, '\'');
		put_text(stfs_pickle_text(pickle, value), out);
		stfs_buf_putc(out, '\'');
		return true;
	case STFS_PICKLE_LONG: case STFS_PICKLE_BYTES: case STFS_PICKLE_TUPLE: case STFS_PICKLE_LIST:
	case STFS_PICKLE_DICT: case STFS_PICKLE_SET: case STFS_PICKLE_GLOBAL: case STFS_PICKLE_CALL:
	case STFS_PICKLE_PERSISTENT: break;
	}
	return false;
}

/* Bytes as repr() shows them: b'...'. */
static void put_bytes(struct stfs_str bytes, struct stfs_buf *out)
{
	stfs_buf_puts(out, "b'");
	for (size_t i = 0; i < bytes.len; i++) {
		unsigned char byte = (unsigned char)bytes.ptr[i];

		if (byte == '\'' || byte == '\\')
			stfs_buf_printf(out, "\\%c", byte);
		else if (byte >= 0x20 && byte < 0x7f)
			stfs_buf_putc(out, bytes.ptr[i]);
		else
			stfs_buf_printf(out, "\\x%02x", byte);
	}
	stfs_buf_putc(out, '\'');
}

/* Bytes of a few: as such, or as _codecs.encode(text, "latin1"), which protocol 2 makes of them. */
static bool put_key_bytes(const struct stfs_torch *torch, uint32_t value, struct stfs_buf *out)
{
	const struct stfs_pickle *pickle = &torch->pickle;
	const struct stfs_pickle_call *call = stfs_pickle_called(pickle, value);
	const uint32_t *args;
	uint32_t count;

	if (call && stfs_torch_meaning(torch, value) == STFS_MEANS_BYTES) {
		args = stfs_pickle_tuple(pickle, call->args, &count);
		value = count == 2 && stfs_pickle_is(pickle, args[0], STFS_PICKLE_STR) ? args[0] : value;
		/* Others would be two bytes in this text, and one in what it stands for. */
		if (stfs_pickle_is(pickle, value, STFS_PICKLE_STR) && 
		    !is_short_ascii(stfs_pickle_text(pickle, value)))
			return false;
	} else if (!stfs_pickle_is(pickle, value, STFS_PICKLE_BYTES)) {
		return false;
	}
	if (stfs_pickle_is(pickle, value, STFS_PICKLE_CALL) ||
	    stfs_pickle_text(pickle, value).len > KEY_BYTES_MAX)
		return false;
	put_bytes(stfs_pickle_text(pickle, value), out);
	return true;
}

/* A tuple of scalars, "(1, 'a')". */
static bool put_tuple(const struct stfs_pickle *pickle, uint32_t value, uint32_t most, struct stfs_buf *out)
{
	uint32_t count;
	const uint32_t *items = stfs_pickle_tuple(pickle, value, &count);

	if (!items || count > most)
		return false;
	stfs_buf_putc(out, '(');
	for (uint32_t i = 0; i < count; i++) {
		stfs_buf_puts(out, i ? ", " : "");
		if (!put_repr(pickle, items[i], out))
			return false;
	}
	stfs_buf_puts(out, count == 1 ? ",)" : ")");
	return true;
}

#define KEY_ITEMS_MAX 16

int stfs_torch_key_name(const struct stfs_torch *torch, uint32_t key, struct stfs_buf *out, bool *changed)
{
	const struct stfs_pickle *pickle = &torch->pickle;
	size_t from = out->len;

	*changed = false;
	if (stfs_pickle_is(pickle, key, STFS_PICKLE_STR)) {
		*changed = put_text(stfs_pickle_text(pickle, key), out);
	} else if (!put_repr(pickle, key, out) && !put_tuple(pickle, key, KEY_ITEMS_MAX, out) &&
		   !put_key_bytes(torch, key, out)) {
		out->len = stfs_buf_status(out) < 0 ? out->len : from;
		stfs_buf_printf(out, "key@%u", stfs_pickle_at(pickle, key)->at);
		*changed = true;
	}
	return stfs_buf_status(out);
}

/* ---- Leaves ---- */

static int call_text(const struct stfs_torch *torch, uint32_t value, struct stfs_buf *out)
{
	const struct stfs_pickle *pickle = &torch->pickle;
	const struct stfs_pickle_call *call = stfs_pickle_called(pickle, value);
	enum stfs_meaning meaning = stfs_torch_meaning(torch, value);
	uint32_t count;
	const uint32_t *args = stfs_pickle_tuple(pickle, call->args, &count);

	if (meaning == STFS_MEANS_SIZE && count == 1 && put_tuple(pickle, args[0], STFS_TORCH_RANK_MAX, out))
		return 0;
	if (meaning != STFS_MEANS_DEVICE && meaning != STFS_MEANS_LAYOUT && meaning != STFS_MEANS_TEXT)
		return -ENOENT;
	if (count == 0 || !stfs_pickle_is(pickle, args[0], STFS_PICKLE_STR))
		return -ENOENT;
	put_text(stfs_pickle_text(pickle, args[0]), out);
	if (meaning == STFS_MEANS_DEVICE && count > 1 && stfs_pickle_is(pickle, args[1], STFS_PICKLE_INT))
		stfs_buf_printf(out, ":%lld", (long long)stfs_pickle_at(pickle, args[1])->as.integer);
	return 0;
}

static int global_text(const struct stfs_torch *torch, uint32_t value, struct stfs_buf *out)
{
	const struct stfs_global_info *info = &torch->infos[stfs_pickle_global_of(&torch->pickle, value)];

	if (info->meaning != STFS_MEANS_ELEMENT)
		return -ENOENT;
	return stfs_buf_printf(out, "torch.%s", info->element->name);
}

/* What a value is that is no leaf. */
static void say_why(const struct stfs_torch *torch, uint32_t value, struct stfs_buf *why)
{
	static const char *const kinds[] = {
		[STFS_PICKLE_LONG] = "a number of more than 64 bits", [STFS_PICKLE_BYTES] = "bytes",
		[STFS_PICKLE_SET] = "a set", [STFS_PICKLE_PERSISTENT] = "a storage without a tensor",
	};
	uint32_t global = stfs_pickle_global_of(&torch->pickle, value);
	char module[STFS_QUOTED_MAX], name[STFS_QUOTED_MAX];
	const struct stfs_pickle_global *named;

	if (global == STFS_NO_VALUE) {
		stfs_buf_puts(why, kinds[stfs_pickle_at(&torch->pickle, value)->kind]);
		return;
	}
	named = &torch->pickle.globals[global];
	stfs_quote(stfs_pickle_module(&torch->pickle, named), module);
	stfs_quote(stfs_pickle_name(&torch->pickle, named), name);
	stfs_buf_printf(why, "%s%s.%s", stfs_pickle_called(&torch->pickle, value) ? "" : "the class ",
			module, name);
}

int stfs_torch_leaf_text(const struct stfs_torch *torch, uint32_t value, struct stfs_buf *out,
			 struct stfs_buf *why)
{
	const struct stfs_pickle_value *v = stfs_pickle_at(&torch->pickle, value);
	int r = -ENOENT;

	if (v->kind == STFS_PICKLE_STR) {
		put_text(stfs_pickle_text(&torch->pickle, value), out);
		r = 0;
	} else if (v->kind == STFS_PICKLE_CALL) {
		r = call_text(torch, value, out);
	} else if (v->kind == STFS_PICKLE_GLOBAL) {
		r = global_text(torch, value, out);
	} else if (v->kind == STFS_PICKLE_NONE || v->kind == STFS_PICKLE_BOOL) {
		/* As JSON has them: they are read by more than Python. */
		r = stfs_buf_puts(out, v->kind == STFS_PICKLE_NONE ? "null" : v->as.truth ? "true" : "false");
	} else if (put_repr(&torch->pickle, value, out)) {
		r = 0;
	}
	if (r == -ENOENT && stfs_buf_status(out) == 0)
		say_why(torch, value, why);
	return stfs_buf_status(out) < 0 || stfs_buf_status(why) < 0 ? -ENOMEM : r;
}
