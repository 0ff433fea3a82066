/* SPDX-License-Identifier: MIT */
/*
 * One tensor's entry: {"dtype":D,"shape":[...],"data_offsets":[begin,end]}. The official loader
 * derives its reader from a Rust struct (serde), which also takes the array [D, shape, offsets]
 * and, for the dtype, the object {"F32":null}; facts that this file follows to the letter so that
 * its verdict is the loader's, and then refuses as forms on which readers disagree.
 */
#include <errno.h>
#include <inttypes.h>

#include "base/arith.h"
#include "format/header_internal.h"

static const char *const field_names[STFS_FIELD_COUNT] = {"dtype", "shape", "data_offsets"};

const char *stfs_field_name(enum stfs_field field)
{
	return field_names[field];
}

enum stfs_field stfs_field_find(struct stfs_str key)
{
	unsigned i = 0;

	while (i < STFS_FIELD_COUNT && !stfs_str_is(key, field_names[i]))
		i++;
	return (enum stfs_field)i;
}

struct entry {
	struct stfs_tensor *tensor;
	unsigned seen; /* bit a field */
	unsigned good; /* fields that were read */
	bool zero_hides_overflow; /* from the left; in another order it would overflow */
};

/* A value of the wrong kind: says so at its position, and passes over it. */
static int wrong(struct stfs_header_reader *reader, enum stfs_rule rule, const char *message)
{
	char quoted[STFS_QUOTED_MAX];
	int r;

	stfs_json_peek(&reader->json);
	r = STFS_HEADER_SAY(reader, rule, reader->json.pos, "tensor \"%s\": %s",
			    stfs_quote(reader->tensor, quoted), message);
	return r < 0 ? r : stfs_header_skip(reader);
}

static int read_dtype_name(struct stfs_header_reader *reader, struct entry *entry,
			   struct stfs_json_string raw)
{
	char quoted[STFS_QUOTED_MAX], quoted_type[STFS_QUOTED_MAX];
	enum stfs_dtype dtype;
	struct stfs_str name;
	int r = stfs_header_plain(reader, raw, &name);

	if (r < 0)
		return r;
	if (stfs_dtype_parse(name, &dtype) < 0)
		return STFS_HEADER_SAY(reader, STFS_RULE_DTYPE_UNKNOWN, raw.pos,
				       "tensor \"%s\": \"%s\" is none of the 22 dtypes",
				       stfs_quote(reader->tensor, quoted), stfs_quote(name, quoted_type));
	entry->tensor->dtype = (uint8_t)dtype;
	entry->good |= 1u << STFS_FIELD_DTYPE;
	return 0;
}

/* What may stand in {"F32":...}: null alone (serde: a unit variant). */
static int read_unit(struct stfs_header_reader *reader)
{
	if (stfs_json_peek(&reader->json) == 'n')
		return stfs_json_word(&reader->json);
	return wrong(reader, STFS_RULE_DTYPE_TYPE, "the dtype must be a string");
}

static int read_dtype_object(struct stfs_header_reader *reader, struct entry *entry)
{
	struct stfs_json *json = &reader->json;
	struct stfs_json_string raw;
	size_t keys_from = reader->keys.count, start = json->pos;
	struct stfs_str key;
	unsigned members = 0;
	bool first = true;
	char quoted[STFS_QUOTED_MAX];
	int r = STFS_HEADER_SAY(reader, STFS_RULE_DTYPE_OBJECT, start,
				"tensor \"%s\": the dtype is an object; the official loader takes it, "
				"the specification wants a string", stfs_quote(reader->tensor, quoted));

	if (r == 0)
		r = stfs_json_enter(json, '{');
	while (r == 0 && (r = stfs_json_member(json, &first, &reader->scratch, &raw, &key)) == 1) {
		r = stfs_keyset_add(&reader->keys, key, (uint32_t)(raw.pos - 1));
		if (r == 0)
			r = members++ ? stfs_header_skip(reader) : read_dtype_name(reader, entry, raw);
		if (r == 0 && members == 1)
			r = read_unit(reader);
	}
	if (r == 0)
		r = stfs_header_close_keys(reader, keys_from);
	if (r == 0 && members != 1)
		r = STFS_HEADER_SAY(reader, STFS_RULE_DTYPE_TYPE, start,
				    "tensor \"%s\": the dtype must be a string",
				    stfs_quote(reader->tensor, quoted));
	return r;
}

static int read_dtype(struct stfs_header_reader *reader, struct entry *entry)
{
	struct stfs_json_string raw;
	char c = stfs_json_peek(&reader->json);
	int r;

	if (c == '{')
		return read_dtype_object(reader, entry);
	if (c != '"')
		return wrong(reader, STFS_RULE_DTYPE_TYPE, "the dtype must be a string");
	r = stfs_json_string(&reader->json, &raw);
	return r < 0 ? r : read_dtype_name(reader, entry, raw);
}

/* An element of shape or data_offsets: 1 when it is a u64, 0 when that was said, -errno. */
static int read_u64(struct stfs_header_reader *reader, enum stfs_rule rule, const char *message,
		    uint64_t *value)
{
	struct stfs_json *json = &reader->json;
	struct stfs_json_number number = {.kind = STFS_JSON_REAL};
	char c = stfs_json_peek(json);
	char quoted[STFS_QUOTED_MAX];
	size_t start = json->pos;
	int r;

	if (c == '-' || (c >= '0' && c <= '9'))
		r = stfs_json_number(json, &number);
	else
		r = stfs_header_skip(reader);
	if (r < 0)
		return r;
	*value = number.value;
	if (number.kind == STFS_JSON_UINT)
		return 1;
	return STFS_HEADER_SAY(reader, rule, start, "tensor \"%s\": %s",
			       stfs_quote(reader->tensor, quoted), message);
}

static int read_shape(struct stfs_header_reader *reader, struct entry *entry)
{
	static const char message[] = "the shape must be an array of whole numbers from 0 to 2^64 - 1";
	struct stfs_json *json = &reader->json;
	struct stfs_tensor *tensor = entry->tensor;
	uint64_t dimension, others = 1;
	bool first = true, good = true;
	int r;

	if (stfs_json_peek(json) != '[')
		return wrong(reader, STFS_RULE_SHAPE_TYPE, message);
	tensor->shape_pos = (uint32_t)json->pos;
	tensor->elements = 1;
	r = stfs_json_enter(json, '[');
	while (r == 0) {
		r = stfs_json_next(json, ']', &first);
		if (r <= 0)
			break;
		r = read_u64(reader, STFS_RULE_SHAPE_TYPE, message, &dimension);
		if (r < 0)
			break;
		good &= r == 1;
		r = 0;
		tensor->rank++;
		/* tensor.rs multiplies from the left, checked at every step. */
		if (stfs_mul_overflows(tensor->elements, dimension, &tensor->elements))
			tensor->overflow = true;
		if (dimension && stfs_mul_overflows(others, dimension, &others))
			entry->zero_hides_overflow = true;
	}
	if (r == 0 && good)
		entry->good |= 1u << STFS_FIELD_SHAPE;
	return r;
}

static int read_offsets(struct stfs_header_reader *reader, struct entry *entry)
{
	static const char message[] = "data_offsets must be two whole numbers from 0 to 2^64 - 1";
	struct stfs_json *json = &reader->json;
	uint64_t value, ends[2] = {0, 0};
	bool first = true, good = true;
	char quoted[STFS_QUOTED_MAX];
	unsigned count = 0;
	size_t start;
	int r;

	if (stfs_json_peek(json) != '[')
		return wrong(reader, STFS_RULE_OFFSETS_TYPE, message);
	start = json->pos;
	r = stfs_json_enter(json, '[');
	while (r == 0) {
		r = stfs_json_next(json, ']', &first);
		if (r <= 0)
			break;
		r = read_u64(reader, STFS_RULE_OFFSETS_TYPE, message, &value);
		if (r < 0)
			break;
		good &= r == 1;
		r = 0;
		if (count < 2)
			ends[count] = value;
		count++;
	}
	if (r < 0)
		return r;
	if (count != 2)
		return STFS_HEADER_SAY(reader, STFS_RULE_OFFSETS_TYPE, start, "tensor \"%s\": %s",
				       stfs_quote(reader->tensor, quoted), message);
	entry->tensor->begin = ends[0];
	entry->tensor->end = ends[1];
	if (good)
		entry->good |= 1u << STFS_FIELD_OFFSETS;
	return 0;
}

static int read_field(struct stfs_header_reader *reader, struct entry *entry, enum stfs_field field)
{
	entry->seen |= 1u << field;
	switch (field) {
	case STFS_FIELD_DTYPE:
		return read_dtype(reader, entry);
	case STFS_FIELD_SHAPE:
		return read_shape(reader, entry);
	case STFS_FIELD_OFFSETS:
		return read_offsets(reader, entry);
	case STFS_FIELD_COUNT:
		break;
	}
	return -EINVAL;
}

/* One member of an entry; pos is behind its key, which may be in scratch. */
static int read_member(struct stfs_header_reader *reader, struct entry *entry,
		       struct stfs_json_string raw, struct stfs_str key)
{
	char quoted[STFS_QUOTED_MAX], quoted_key[STFS_QUOTED_MAX];
	enum stfs_field field = stfs_field_find(key);
	int r;

	if (field != STFS_FIELD_COUNT && !(entry->seen & 1u << field))
		return read_field(reader, entry, field);
	if (field != STFS_FIELD_COUNT) {
		r = STFS_HEADER_SAY(reader, STFS_RULE_ENTRY_FIELD_TWICE, raw.pos - 1,
				    "tensor \"%s\": \"%s\" stands twice",
				    stfs_quote(reader->tensor, quoted), field_names[field]);
	} else {
		r = stfs_keyset_add(&reader->keys, key, (uint32_t)(raw.pos - 1));
		if (r == 0)
			r = STFS_HEADER_SAY(reader, STFS_RULE_ENTRY_EXTRA_KEY, raw.pos - 1,
					    "tensor \"%s\": the key \"%s\" is not in the specification; "
					    "it is kept", stfs_quote(reader->tensor, quoted),
					    stfs_quote(key, quoted_key));
	}
	return r < 0 ? r : stfs_header_skip(reader);
}

static int read_object(struct stfs_header_reader *reader, struct entry *entry)
{
	struct stfs_json *json = &reader->json;
	size_t keys_from = reader->keys.count, start = json->pos;
	char quoted[STFS_QUOTED_MAX];
	struct stfs_json_string raw;
	struct stfs_str key;
	bool first = true;
	int r = stfs_json_enter(json, '{');

	while (r == 0 && (r = stfs_json_member(json, &first, &reader->scratch, &raw, &key)) == 1)
		r = read_member(reader, entry, raw, key);
	if (r == 0)
		r = stfs_header_close_keys(reader, keys_from);
	for (unsigned i = 0; r == 0 && i < STFS_FIELD_COUNT; i++)
		if (!(entry->seen & 1u << i))
			r = STFS_HEADER_SAY(reader, STFS_RULE_ENTRY_FIELD_MISSING, start,
					    "tensor \"%s\": \"%s\" is missing",
					    stfs_quote(reader->tensor, quoted), field_names[i]);
	return r;
}

/* The array form: exactly dtype, shape, data_offsets. */
static int read_array(struct stfs_header_reader *reader, struct entry *entry)
{
	struct stfs_json *json = &reader->json;
	char quoted[STFS_QUOTED_MAX];
	size_t start = json->pos;
	unsigned count = 0;
	bool first = true;
	int r = STFS_HEADER_SAY(reader, STFS_RULE_ENTRY_ARRAY, start,
				"tensor \"%s\": the entry is an array; the official loader takes it, "
				"the specification wants an object", stfs_quote(reader->tensor, quoted));

	if (r == 0)
		r = stfs_json_enter(json, '[');
	while (r == 0) {
		r = stfs_json_next(json, ']', &first);
		if (r <= 0)
			break;
		if (count < STFS_FIELD_COUNT)
			r = read_field(reader, entry, (enum stfs_field)count);
		else
			r = stfs_header_skip(reader);
		count++;
	}
	if (r == 0 && count != STFS_FIELD_COUNT)
		r = STFS_HEADER_SAY(reader, STFS_RULE_ENTRY_TYPE, start,
				    "tensor \"%s\": the entry must hold dtype, shape and data_offsets",
				    stfs_quote(reader->tensor, quoted));
	return r;
}

int stfs_header_read_entry(struct stfs_header_reader *reader, struct stfs_tensor *tensor)
{
	struct entry entry = {.tensor = tensor};
	char quoted[STFS_QUOTED_MAX];
	char c = stfs_json_peek(&reader->json);
	int r;

	if (c == '{')
		r = read_object(reader, &entry);
	else if (c == '[')
		r = read_array(reader, &entry);
	else
		r = wrong(reader, STFS_RULE_ENTRY_TYPE,
			  "the entry must be an object with dtype, shape and data_offsets");
	tensor->usable = entry.good == (1u << STFS_FIELD_COUNT) - 1 && !tensor->overflow;
	if (r == 0 && !tensor->overflow && entry.zero_hides_overflow)
		r = STFS_HEADER_SAY(reader, STFS_RULE_SHAPE_ORDER, tensor->shape_pos,
				    "tensor \"%s\": only a 0 keeps the product of the shape below 2^64; "
				    "readers that multiply in another order refuse it",
				    stfs_quote(reader->tensor, quoted));
	return r;
}
