/* SPDX-License-Identifier: MIT */
#include "cli/jsonout.h"

#include "base/cleanup.h"
#include "base/utf8.h"
#include "cli/cli.h"

static struct json_object *checked(struct json_object *object)
{
	if (!object)
		stfs_cli_out_of_memory();
	return object;
}

struct json_object *stfs_jsonout_text(struct stfs_str text)
{
	STFS_AUTO_BUF struct stfs_buf clean = STFS_BUF_INIT;
	size_t at = 0, good;

	while (at < text.len) {
		good = stfs_utf8_check(text.ptr + at, text.len - at);
		stfs_buf_add(&clean, text.ptr + at, good);
		at += good;
		if (at < text.len) {
			stfs_buf_puts(&clean, "\xef\xbf\xbd"); /* U+FFFD */
			at++;
		}
	}
	if (stfs_buf_status(&clean) < 0)
		stfs_cli_out_of_memory();
	return checked(json_object_new_string_len(clean.len ? clean.data : "", (int)clean.len));
}

struct json_object *stfs_jsonout_object(void)
{
	return checked(json_object_new_object());
}

struct json_object *stfs_jsonout_array(void)
{
	return checked(json_object_new_array());
}

void stfs_jsonout_add(struct json_object *object, const char *key, struct json_object *value)
{
	if (json_object_object_add(object, key, value) < 0)
		stfs_cli_out_of_memory();
}

void stfs_jsonout_add_text(struct json_object *object, const char *key, struct stfs_str text)
{
	stfs_jsonout_add(object, key, stfs_jsonout_text(text));
}

void stfs_jsonout_add_string(struct json_object *object, const char *key, const char *terminated)
{
	stfs_jsonout_add_text(object, key, stfs_str_from(terminated));
}

void stfs_jsonout_add_number(struct json_object *object, const char *key, uint64_t number)
{
	stfs_jsonout_add(object, key, checked(json_object_new_uint64(number)));
}

void stfs_jsonout_add_bool(struct json_object *object, const char *key, bool value)
{
	stfs_jsonout_add(object, key, checked(json_object_new_boolean(value)));
}

void stfs_jsonout_append(struct json_object *array, struct json_object *value)
{
	if (json_object_array_add(array, value) < 0)
		stfs_cli_out_of_memory();
}

struct json_object *stfs_jsonout_tensor(const struct stfs_tensor_ref *ref)
{
	struct json_object *object = stfs_jsonout_object(), *shape = stfs_jsonout_array();
	STFS_AUTO_FREE uint64_t *dims = stfs_model_shape(ref);

	if (!dims)
		stfs_cli_out_of_memory();
	for (uint32_t i = 0; i < ref->tensor->rank; i++)
		stfs_jsonout_append(shape, checked(json_object_new_uint64(dims[i])));
	stfs_jsonout_add_text(object, "name", ref->name);
	stfs_jsonout_add_string(object, "dtype", ref->dtype->name);
	stfs_jsonout_add(object, "shape", shape);
	stfs_jsonout_add_number(object, "bytes", ref->len);
	stfs_jsonout_add_string(object, "file", ref->shard->name);
	if (ref->offset != STFS_NO_OFFSET)
		stfs_jsonout_add_number(object, "offset", ref->offset);
	else
		stfs_jsonout_add(object, "offset", NULL);
	return object;
}

/*
 * In JSON text other than ASCII stands in strings only, so that what stfs_printable() refuses there
 * can be replaced without a look at the syntax. Line breaks are the pretty printer's own.
 */
void stfs_jsonout_write(struct stfs_str text, FILE *out)
{
	const char *json = text.ptr;
	size_t at = 0, len = text.len, run, width;

	while (at < len) {
		run = at;
		while (run < len && (text.ptr[run] == '\n' || stfs_printable(text, run))) {
			width = text.ptr[run] == '\n' ? 1 : stfs_printable(text, run);
			run += width;
		}
		fwrite(json + at, 1, run - at, out);
		at = run;
		if (at == len)
			break;
		width = stfs_utf8_width(json + at, len - at);
		if (width == 3)
			fprintf(out, "\\u%04x",
				(json[at] & 0xfu) << 12 | (json[at + 1] & 0x3fu) << 6 |
					(json[at + 2] & 0x3fu));
		else if (width == 2)
			fprintf(out, "\\u%04x", (json[at] & 0x1fu) << 6 | (json[at + 1] & 0x3fu));
		else
			fprintf(out, "\\u%04x", (unsigned char)json[at]);
		at += width ? width : 1;
	}
}

static void print(struct json_object *object, int flags, FILE *out)
{
	size_t len = 0;
	const char *json = json_object_to_json_string_length(object, flags, &len);

	if (!json)
		stfs_cli_out_of_memory();
	stfs_jsonout_write(stfs_str_slice(json, len), out);
	json_object_put(object);
}

void stfs_jsonout_print(struct json_object *object, bool pretty, FILE *out)
{
	print(object, JSON_C_TO_STRING_NOSLASHESCAPE |
		      (pretty ? JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED
			      : JSON_C_TO_STRING_PLAIN),
	      out);
	putc('\n', out);
}

void stfs_jsonout_print_element(struct json_object *object, FILE *out)
{
	print(object, JSON_C_TO_STRING_NOSLASHESCAPE, out);
}
