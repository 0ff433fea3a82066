/* SPDX-License-Identifier: MIT */
#include "format/index.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>

#include "base/natural.h"

static int parse(const char *text, size_t len, struct stfs_index *index, struct stfs_err *err)
{
	struct json_tokener *tokener = json_tokener_new_ex(16);
	enum json_tokener_error error;
	size_t end;

	if (!tokener)
		return -ENOMEM;
	json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
	index->root = json_tokener_parse_ex(tokener, text, (int)len);
	error = json_tokener_get_error(tokener);
	end = json_tokener_get_parse_end(tokener);
	json_tokener_free(tokener);
	while (end < len && strchr(" \t\r\n", text[end]) && text[end])
		end++;
	if (error == json_tokener_success && end == len)
		return 0;
	return stfs_err_set(err, -EBADMSG, end, "not JSON: %s",
			    error == json_tokener_success ? "characters behind the object"
			    : error == json_tokener_continue ? "the text ends too early"
							     : json_tokener_error_desc(error));
}

static bool one_component(struct json_object *value)
{
	const char *name = json_object_get_string(value);

	return *name && strlen(name) == (size_t)json_object_get_string_len(value) &&
	       strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && !strchr(name, '/');
}

static int by_name(const void *left, const void *right)
{
	return stfs_natural_compare(stfs_str_from(*(const char *const *)left),
				    stfs_str_from(*(const char *const *)right));
}

/* All values of weight_map, each once. */
static int collect_files(struct stfs_index *index, struct stfs_err *err)
{
	size_t count = (size_t)json_object_object_length(index->weight_map), kept = 0;
	char quoted[STFS_QUOTED_MAX], quoted_name[STFS_QUOTED_MAX];

	index->files = calloc(count ? count : 1, sizeof(*index->files));
	if (!index->files)
		return -ENOMEM;
	json_object_object_foreach(index->weight_map, name, value) {
		if (!json_object_is_type(value, json_type_string))
			return stfs_err_set(err, -EBADMSG, STFS_NO_POSITION,
					    "weight_map: tensor \"%s\" must name a file",
					    stfs_quote(stfs_str_from(name), quoted));
		if (!one_component(value))
			return stfs_err_set(err, -EBADMSG, STFS_NO_POSITION,
					    "weight_map: tensor \"%s\" names \"%s\", which is no file "
					    "name in the index's own folder",
					    stfs_quote(stfs_str_from(name), quoted_name),
					    stfs_quote(stfs_str_from(json_object_get_string(value)),
						       quoted));
		index->files[kept++] = json_object_get_string(value);
	}
	qsort(index->files, kept, sizeof(*index->files), by_name);
	for (size_t i = 0; i < kept; i++)
		if (!index->file_count ||
		    strcmp(index->files[index->file_count - 1], index->files[i]) != 0)
			index->files[index->file_count++] = index->files[i];
	if (index->file_count > STFS_SHARDS_MAX)
		return stfs_err_set(err, -EBADMSG, STFS_NO_POSITION,
				    "weight_map: names %u files, more than %u", index->file_count,
				    STFS_SHARDS_MAX);
	return 0;
}

int stfs_index_read(const char *text, size_t len, struct stfs_index *index, struct stfs_err *err)
{
	struct json_object *metadata, *total;
	int r;

	*index = (struct stfs_index){0};
	if (len > STFS_INDEX_MAX)
		return stfs_err_set(err, -EBADMSG, STFS_INDEX_MAX, "the index is larger than %u bytes",
				    STFS_INDEX_MAX);
	r = parse(text, len, index, err);
	if (r < 0)
		return r;
	if (!json_object_is_type(index->root, json_type_object) ||
	    !json_object_object_get_ex(index->root, "weight_map", &index->weight_map) ||
	    !json_object_is_type(index->weight_map, json_type_object))
		return stfs_err_set(err, -EBADMSG, STFS_NO_POSITION,
				    "no index of a sharded model: it needs an object \"weight_map\"");
	/* An index may lack total_size (old writers), or give it as a real number. */
	if (json_object_object_get_ex(index->root, "metadata", &metadata) &&
	    json_object_object_get_ex(metadata, "total_size", &total) &&
	    (json_object_is_type(total, json_type_int) ||
	     json_object_is_type(total, json_type_double))) {
		index->has_total_size = true;
		index->total_size = json_object_get_uint64(total);
	}
	return collect_files(index, err);
}

void stfs_index_free(struct stfs_index *index)
{
	json_object_put(index->root);
	free(index->files);
	*index = (struct stfs_index){0};
}

uint32_t stfs_index_find(const struct stfs_index *index, struct stfs_str name)
{
	struct json_object *value;
	uint32_t low = 0, high = index->file_count, middle;
	const char *file;
	char *terminated;

	/* json-c's keys end at a NUL: a tensor whose name holds one is never in its map. */
	if (memchr(name.ptr, '\0', name.len))
		return UINT32_MAX;
	terminated = strndup(name.ptr, name.len);
	if (!terminated)
		return UINT32_MAX;
	value = json_object_object_get(index->weight_map, terminated);
	free(terminated);
	if (!value)
		return UINT32_MAX;
	file = json_object_get_string(value);
	while (low < high) {
		middle = low + (high - low) / 2;
		if (by_name(&file, &index->files[middle]) > 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}
