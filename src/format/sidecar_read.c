/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "format/sidecar.h"

#define EXAMPLE "write {\"dtype\":\"F32\",\"shape\":[2,3]}"

enum field { FIELD_DTYPE, FIELD_SHAPE, FIELD_NAME, FIELD_COUNT };

static const char *const field_names[FIELD_COUNT] = {"dtype", "shape", "name"};

struct reader {
	struct stfs_json json;
	struct stfs_buf scratch;
	struct stfs_sidecar *sidecar;
	struct stfs_err *err;
	unsigned seen; /* bit a field */
};

/* What stands at the next token is not what it should be. */
static int wrong(struct reader *reader, const char *what)
{
	stfs_json_peek(&reader->json);
	return stfs_err_set(reader->err, -EBADMSG, reader->json.pos, "byte %zu: %s",
			    reader->json.pos, what);
}

static int read_dtype(struct reader *reader)
{
	struct stfs_json_string raw;
	char quoted[STFS_QUOTED_MAX];
	struct stfs_str name;
	int r;

	if (stfs_json_peek(&reader->json) != '"')
		return wrong(reader, "\"dtype\" must be a string such as \"F32\" or \"BF16\"");
	r = stfs_json_string(&reader->json, &raw);
	if (r == 0)
		r = stfs_json_plain(&reader->json, raw, &reader->scratch, &name);
	if (r == 0 && stfs_dtype_parse(name, &reader->sidecar->dtype) < 0)
		r = stfs_err_set(reader->err, -EBADMSG, raw.pos - 1,
				 "byte %zu: \"%s\" is none of the 22 dtypes, which are written like "
				 "\"F32\" or \"BF16\"", raw.pos - 1, stfs_quote(name, quoted));
	return r;
}

static int read_dimension(struct reader *reader)
{
	static const char what[] = "a dimension must be a whole number from 0 to 2^64 - 1";
	struct stfs_json_number number;
	char c = stfs_json_peek(&reader->json);
	struct stfs_json at = reader->json;
	int r;

	if (c != '-' && (c < '0' || c > '9'))
		return wrong(reader, what);
	r = stfs_json_number(&reader->json, &number);
	if (r < 0)
		return r;
	if (number.kind == STFS_JSON_UINT)
		r = stfs_shape_add(&reader->sidecar->shape, number.value);
	if (number.kind == STFS_JSON_UINT && r != -EOVERFLOW)
		return r;
	reader->json = at;
	return wrong(reader, r == -EOVERFLOW ? "the shape has more than 2^64 - 1 elements" : what);
}

static int read_shape(struct reader *reader)
{
	bool first = true;
	int r;

	if (stfs_json_peek(&reader->json) != '[')
		return wrong(reader, "\"shape\" must be an array of whole numbers such as [2,3]");
	r = stfs_json_enter(&reader->json, '[');
	while (r == 0 && (r = stfs_json_next(&reader->json, ']', &first)) == 1)
		r = read_dimension(reader);
	return r;
}

static int read_name(struct reader *reader)
{
	struct stfs_json_string raw;
	int r;

	if (stfs_json_peek(&reader->json) != '"')
		return wrong(reader, "\"name\" must be a string");
	r = stfs_json_string(&reader->json, &raw);
	if (r == 0)
		r = stfs_json_unescape(stfs_json_raw(&reader->json, raw), &reader->sidecar->name);
	reader->sidecar->has_name = r == 0;
	return r;
}

static int read_member(void *data, struct stfs_json_string raw, struct stfs_str key)
{
	struct reader *reader = data;
	unsigned field = 0;

	while (field < FIELD_COUNT && !stfs_str_is(key, field_names[field]))
		field++;
	if (field == FIELD_COUNT)
		return stfs_json_skip(&reader->json, NULL, NULL);
	if (reader->seen & 1u << field)
		return stfs_err_set(reader->err, -EBADMSG, raw.pos - 1, "byte %zu: \"%s\" stands twice",
				    raw.pos - 1, field_names[field]);
	reader->seen |= 1u << field;
	return field == FIELD_DTYPE ? read_dtype(reader) :
	       field == FIELD_SHAPE ? read_shape(reader) : read_name(reader);
}

static int read_members(void *data)
{
	struct reader *reader = data;

	if (stfs_json_peek(&reader->json) != '{')
		return wrong(reader, "expected an object; " EXAMPLE);
	return stfs_json_members(&reader->json, &reader->scratch, read_member, reader);
}

/* What the whole says: both fields, and a number of bytes. */
static int judge(struct reader *reader)
{
	struct stfs_sidecar *sidecar = reader->sidecar;
	int r;

	for (unsigned i = FIELD_DTYPE; i <= FIELD_SHAPE; i++)
		if (!(reader->seen & 1u << i))
			return stfs_err_set(reader->err, -EBADMSG, STFS_NO_POSITION,
					    "\"%s\" is missing; " EXAMPLE, field_names[i]);
	r = stfs_dtype_bytes(sidecar->dtype, sidecar->shape.elements, &sidecar->data_len);
	if (r == -EDOM)
		return stfs_err_set(reader->err, -EBADMSG, STFS_NO_POSITION,
				    "elements of %u bits in this shape do not fill whole bytes",
				    stfs_dtype_info(sidecar->dtype)->bits);
	if (r < 0)
		return stfs_err_set(reader->err, -EBADMSG, STFS_NO_POSITION,
				    "the tensor would have more than 2^64 - 1 bits");
	return 0;
}

int stfs_sidecar_read(struct stfs_str text, struct stfs_sidecar *sidecar, struct stfs_err *err)
{
	struct reader reader = {.json = {.text = text.ptr, .len = text.len}, .sidecar = sidecar,
				.err = err};
	int r;

	*sidecar = (struct stfs_sidecar){.shape = STFS_SHAPE_INIT};
	if (text.len > STFS_SIDECAR_MAX)
		return stfs_err_set(err, -EBADMSG, STFS_SIDECAR_MAX, "longer than %u bytes",
				    STFS_SIDECAR_MAX);
	r = stfs_json_text(&reader.json, read_members, &reader, err);
	if (r == 0)
		r = judge(&reader);
	stfs_buf_free(&reader.scratch);
	if (r < 0)
		stfs_sidecar_free(sidecar);
	return r;
}

void stfs_sidecar_free(struct stfs_sidecar *sidecar)
{
	stfs_shape_free(&sidecar->shape);
	stfs_buf_free(&sidecar->name);
}
