/* SPDX-License-Identifier: MIT */
/*
 * The header of a .npy file, read. Its dict is Python, of which this knows what a writer of arrays
 * needs: strings without escapes, True and False, tuples of whole numbers.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "format/npy.h"

#define MAGIC "\x93NUMPY"
#define MAGIC_LEN 6
#define VERSION_LEN 2

enum field { FIELD_DESCR, FIELD_ORDER, FIELD_SHAPE, FIELD_COUNT };

static const char *const field_names[FIELD_COUNT] = {"descr", "fortran_order", "shape"};

struct reader {
	const char *text; /* the whole file; positions are in it */
	size_t len;       /* of the header */
	size_t pos;
	unsigned version;
	unsigned seen; /* bit a field */
	struct stfs_str descr;
	size_t descr_pos;
	struct stfs_npy *npy;
	struct stfs_err *err;
};

static int fail(struct reader *reader, const char *what)
{
	return stfs_err_set(reader->err, -EBADMSG, reader->pos, "not a .npy header: byte %zu: %s",
			    reader->pos, what);
}

/* ---- Python ---- */

/* The next byte that is no white space, not consumed; '\0' at the end. */
static char peek(struct reader *reader)
{
	while (reader->pos < reader->len) {
		char c = reader->text[reader->pos];

		if (c != ' ' && c != '\n' && c != '\t' && c != '\r' && c != '\f')
			return c;
		reader->pos++;
	}
	return '\0';
}

static bool take(struct reader *reader, char c)
{
	if (peek(reader) != c)
		return false;
	reader->pos++;
	return true;
}

/* A string in quotes of either kind; what stands between them goes to *out. */
static int read_string(struct reader *reader, struct stfs_str *out)
{
	char quote = peek(reader), c;
	size_t start = reader->pos + 1;

	if (quote != '\'' && quote != '"')
		return fail(reader, "expected a string");
	for (reader->pos = start; reader->pos < reader->len; reader->pos++) {
		c = reader->text[reader->pos];
		if (c == quote) {
			*out = stfs_str_slice(reader->text + start, reader->pos++ - start);
			return 0;
		}
		if (c == '\\' || (unsigned char)c < 0x20)
			return fail(reader, "an escape or control character in a string");
	}
	return fail(reader, "the header ends inside a string");
}

static bool take_word(struct reader *reader, const char *word)
{
	size_t len = strlen(word);

	peek(reader);
	if (reader->len - reader->pos < len || memcmp(reader->text + reader->pos, word, len) != 0)
		return false;
	reader->pos += len;
	return true;
}

static int read_dimension(struct reader *reader)
{
	char c = peek(reader);
	size_t start = reader->pos;
	uint64_t value = 0;
	int r;

	if (c < '0' || c > '9')
		return fail(reader, "a dimension must be a whole number from 0 on");
	for (; reader->pos < reader->len; reader->pos++) {
		c = reader->text[reader->pos];
		if (c < '0' || c > '9')
			break;
		if (stfs_mul_overflows(value, 10, &value) ||
		    stfs_add_overflows(value, (uint64_t)(c - '0'), &value)) {
			reader->pos = start;
			return fail(reader, "a dimension passes 2^64 - 1");
		}
	}
	/* How Python 2 wrote a long. */
	if (reader->version < 3 && reader->pos < reader->len && reader->text[reader->pos] == 'L')
		reader->pos++;
	r = stfs_shape_add(&reader->npy->shape, value);
	if (r == -EOVERFLOW) {
		reader->pos = start;
		return fail(reader, "the shape has more than 2^64 - 1 elements");
	}
	return r;
}

static int read_shape(struct reader *reader)
{
	bool comma = false;
	int r;

	if (!take(reader, '('))
		return fail(reader, "the shape must be a tuple such as (2, 3) or (2,)");
	while (!take(reader, ')')) {
		if (reader->npy->shape.rank && !comma)
			return fail(reader, "expected ',' or ')'");
		r = read_dimension(reader);
		if (r < 0)
			return r;
		comma = take(reader, ',');
	}
	if (reader->npy->shape.rank == 1 && !comma)
		return fail(reader, "a tuple of one needs a comma: (2,)");
	return 0;
}

/* ---- The dict ---- */

static int refuse_descr(struct reader *reader, const char *why)
{
	char quoted[STFS_QUOTED_MAX];

	return stfs_err_set(reader->err, -EINVAL, reader->descr_pos, "dtype %s: %s",
			    stfs_quote(reader->descr, quoted), why);
}

static int read_descr(struct reader *reader)
{
	char c = peek(reader);

	reader->descr_pos = reader->pos;
	if (c == '[' || c == '(') {
		const char *at = reader->text + reader->pos;
		const char *end = memchr(at, c == '[' ? ']' : ')', reader->len - reader->pos);

		reader->descr = stfs_str_slice(at, end ? (size_t)(end - at) + 1 : 1);
		return refuse_descr(reader, "elements of several fields cannot be a tensor; "
				    "save each field");
	}
	return read_string(reader, &reader->descr);
}

static int read_member(struct reader *reader)
{
	size_t start;
	struct stfs_str key;
	unsigned field = 0;
	int r;

	peek(reader);
	start = reader->pos;
	r = read_string(reader, &key);
	if (r < 0)
		return r;
	while (field < FIELD_COUNT && !stfs_str_is(key, field_names[field]))
		field++;
	if (field == FIELD_COUNT || reader->seen & 1u << field) {
		reader->pos = start;
		return fail(reader, field == FIELD_COUNT ? "no key of a .npy header" :
			    "a key that stands twice");
	}
	reader->seen |= 1u << field;
	if (!take(reader, ':'))
		return fail(reader, "expected ':'");
	if (field == FIELD_DESCR)
		return read_descr(reader);
	if (field == FIELD_SHAPE)
		return read_shape(reader);
	reader->npy->fortran_order = take_word(reader, "True");
	if (!reader->npy->fortran_order && !take_word(reader, "False"))
		return fail(reader, "fortran_order must be True or False");
	return 0;
}

static int read_dict(struct reader *reader)
{
	int r;

	if (!take(reader, '{'))
		return fail(reader, "expected '{'");
	while (!take(reader, '}')) {
		r = read_member(reader);
		if (r < 0)
			return r;
		if (!take(reader, ',') && peek(reader) != '}')
			return fail(reader, "expected ',' or '}'");
	}
	peek(reader);
	if (reader->pos < reader->len)
		return fail(reader, "characters behind the dict");
	for (unsigned i = 0; i < FIELD_COUNT; i++)
		if (!(reader->seen & 1u << i))
			return stfs_err_set(reader->err, -EBADMSG, STFS_NO_POSITION,
					    "not a .npy header: it has no '%s'", field_names[i]);
	return 0;
}

/* ---- The type ---- */

/* The item size of a type string, behind its kind: 0 when it is no number from 1 to 99. */
static unsigned item_size(struct stfs_str digits)
{
	unsigned size = 0;

	if (digits.len < 1 || digits.len > 2 || digits.ptr[0] == '0')
		return 0;
	for (size_t i = 0; i < digits.len; i++) {
		if (digits.ptr[i] < '0' || digits.ptr[i] > '9')
			return 0;
		size = size * 10 + (unsigned)(digits.ptr[i] - '0');
	}
	return size;
}

/* The type whose NumPy form has this kind and size and is not opaque, or false. */
static bool find_type(char kind, unsigned size, enum stfs_dtype *dtype)
{
	for (unsigned i = 0; i < STFS_DTYPE_COUNT; i++) {
		const struct stfs_dtype_info *info = stfs_dtype_info((enum stfs_dtype)i);

		if (info->descr && !info->ml_dtype && info->descr[1] == kind &&
		    info->bits == size * 8) {
			*dtype = (enum stfs_dtype)i;
			return true;
		}
	}
	return false;
}

static int map_opaque(struct reader *reader, unsigned size, const enum stfs_dtype *declared)
{
	if (declared && stfs_dtype_info(*declared)->bits == size * 8) {
		reader->npy->dtype = *declared;
		return 0;
	}
	if (size == 2) {
		reader->npy->dtype = STFS_BF16;
		return 0;
	}
	if (size == 1)
		return refuse_descr(reader, "this says only that elements have one byte; "
				    "first write their type to the tensor's .json");
	return refuse_descr(reader, "no tensor has such elements");
}

static int map_descr(struct reader *reader, const enum stfs_dtype *declared)
{
	struct stfs_str descr = reader->descr;
	char order = descr.len ? descr.ptr[0] : '\0', kind;
	unsigned size;

	if (order == '<' || order == '>' || order == '=' || order == '|')
		descr = stfs_str_slice(descr.ptr + 1, descr.len - 1);
	if (stfs_str_is(descr, "?"))
		descr = stfs_str_from("b1");
	kind = descr.len ? descr.ptr[0] : '\0';
	if (kind == 'O')
		return refuse_descr(reader, "Python objects cannot be a tensor");
	if (kind == 'U' || kind == 'S' || kind == 'a')
		return refuse_descr(reader, "strings cannot be a tensor");
	size = kind ? item_size(stfs_str_slice(descr.ptr + 1, descr.len - 1)) : 0;
	if (order == '>' && size > 1 && kind != 'V')
		return refuse_descr(reader, "big-endian; "
				    "save array.astype(array.dtype.newbyteorder('<'))");
	if (kind == 'V' && size)
		return map_opaque(reader, size, declared);
	if (kind == 'f' && size == 1) {
		reader->npy->dtype = STFS_F8_E5M2;
		return 0;
	}
	if (!size || !find_type(kind, size, &reader->npy->dtype))
		return refuse_descr(reader, "no tensor has such elements");
	return 0;
}

/* ---- The header ---- */

/*
 * Sets header_len from the first bytes. -EAGAIN when they are too few: header_len says how many it
 * takes.
 */
static int read_prefix(struct reader *reader, const void *bytes, size_t len)
{
	const unsigned char *p = bytes;
	size_t prefix = MAGIC_LEN + VERSION_LEN, digits, text = 0;

	reader->npy->header_len = prefix;
	if (len && memcmp(p, MAGIC, len < MAGIC_LEN ? len : MAGIC_LEN) != 0)
		return stfs_err_set(reader->err, -EBADMSG, 0, "not a .npy file: it does not begin with "
				    "\\x93NUMPY");
	if (len < prefix)
		return -EAGAIN;
	reader->version = p[6];
	if (p[6] < 1 || p[6] > 3 || p[7] != 0)
		return stfs_err_set(reader->err, -EBADMSG, MAGIC_LEN,
				    "a .npy file of version %u.%u; known are 1.0, 2.0 and 3.0",
				    p[6], p[7]);
	digits = p[6] == 1 ? 2 : 4;
	reader->npy->header_len = prefix + digits;
	if (len < prefix + digits)
		return -EAGAIN;
	for (size_t i = 0; i < digits; i++)
		text |= (size_t)p[prefix + i] << 8 * i;
	if (text > STFS_NPY_HEADER_MAX)
		return stfs_err_set(reader->err, -EBADMSG, prefix,
				    "the .npy header has %zu bytes, more than %u", text,
				    STFS_NPY_HEADER_MAX);
	reader->pos = prefix + digits;
	reader->len = reader->npy->header_len = reader->pos + text;
	return len < reader->len ? -EAGAIN : 0;
}

int stfs_npy_read_header(const void *bytes, size_t len, const enum stfs_dtype *declared,
			 struct stfs_npy *npy, struct stfs_err *err)
{
	struct reader reader = {.text = bytes, .npy = npy, .err = err};
	int r;

	*npy = (struct stfs_npy){.shape = STFS_SHAPE_INIT};
	r = read_prefix(&reader, bytes, len);
	if (r == 0)
		r = read_dict(&reader);
	if (r == 0)
		r = map_descr(&reader, declared);
	if (r == 0 && stfs_dtype_bytes(npy->dtype, npy->shape.elements, &npy->data_len) < 0)
		r = stfs_err_set(err, -EBADMSG, STFS_NO_POSITION,
				 "the array has more than 2^64 - 1 bits");
	if (r < 0)
		stfs_shape_free(&npy->shape);
	return r;
}

/* ---- Fortran order ---- */

struct axis {
	uint64_t length;
	uint64_t stride; /* bytes in the source */
	uint64_t index;
};

/* Every axis of two elements or more doubles their number, which 64 bits hold. */
#define AXES_MAX 64

/* Elements that stand `stride` bytes apart. */
static void gather(char *out, const char *in, uint64_t stride, size_t item, uint64_t count)
{
	for (; count > 0; count--, in += stride, out += item) {
		switch (item) { /* a constant makes a move of it, not a call */
		case 1: *out = *in; break;
		case 2: memcpy(out, in, 2); break;
		case 4: memcpy(out, in, 4); break;
		case 8: memcpy(out, in, 8); break;
		default: memcpy(out, in, item); break;
		}
	}
}

/*
 * The axes that matter, the last one fastest in C order, set to element `first`. Returns how many.
 */
static unsigned find_axes(const struct stfs_shape *shape, size_t item, uint64_t first,
			  struct axis axes[AXES_MAX])
{
	uint64_t stride = item;
	unsigned count = 0;

	for (size_t i = 0; i < shape->rank; i++) {
		if (shape->dims[i] == 1)
			continue;
		axes[count++] = (struct axis){.length = shape->dims[i], .stride = stride};
		stride *= shape->dims[i];
	}
	if (count == 0)
		axes[count++] = (struct axis){.length = 1, .stride = item};
	for (unsigned i = count; i-- > 0;) {
		axes[i].index = first % axes[i].length;
		first /= axes[i].length;
	}
	return count;
}

void stfs_npy_to_c(const struct stfs_shape *shape, size_t item, const void *in, uint64_t first,
		   uint64_t count, void *out)
{
	struct axis axes[AXES_MAX], *last;
	const char *from = in;
	char *to = out;
	unsigned rank;

	if (shape->elements == 0 || count == 0) /* a 0 bounds no axis */
		return;
	rank = find_axes(shape, item, first, axes);
	last = &axes[rank - 1];
	for (unsigned i = 0; i < rank; i++)
		from += axes[i].index * axes[i].stride;
	while (count > 0) {
		uint64_t run = stfs_min_u64(last->length - last->index, count);

		if (last->stride == item)
			memcpy(to, from, run * item);
		else
			gather(to, from, last->stride, item, run);
		to += run * item;
		count -= run;
		last->index += run;
		from += run * last->stride;
		for (unsigned i = rank - 1; i > 0 && axes[i].index == axes[i].length; i--) {
			from -= axes[i].length * axes[i].stride;
			axes[i].index = 0;
			axes[i - 1].index++;
			from += axes[i - 1].stride;
		}
	}
}
