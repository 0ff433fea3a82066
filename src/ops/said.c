/* SPDX-License-Identifier: MIT */
#include "ops/said.h"

#include <string.h>

struct json_object *stfs_said_member(struct json_object *said, const char *key, enum json_type type)
{
	struct json_object *member = NULL;

	if (!said || !json_object_object_get_ex(said, key, &member) ||
	    !json_object_is_type(member, type))
		return NULL;
	return member;
}

const char *stfs_said_text(struct json_object *said, const char *key)
{
	struct json_object *member = stfs_said_member(said, key, json_type_string);

	return member ? json_object_get_string(member) : NULL;
}

struct stfs_str stfs_said_name(struct json_object *said, const char *key)
{
	struct json_object *member = stfs_said_member(said, key, json_type_string);

	if (!member)
		return (struct stfs_str){0};
	return stfs_str_slice(json_object_get_string(member),
			      (size_t)json_object_get_string_len(member));
}

uint64_t stfs_said_number(struct json_object *said, const char *key)
{
	struct json_object *member = stfs_said_member(said, key, json_type_int);

	return member ? json_object_get_uint64(member) : 0;
}

size_t stfs_said_count(struct json_object *array)
{
	return array ? json_object_array_length(array) : 0;
}

static bool has_mode(struct json_object *said, const char *mode)
{
	const char *found = stfs_said_text(said, "mode");

	return found && strcmp(found, mode) == 0;
}

bool stfs_said_is_writable(struct json_object *said)
{
	return has_mode(said, "rw") || has_mode(said, "create");
}

bool stfs_said_is_private(struct json_object *said)
{
	return has_mode(said, "cow");
}

struct stfs_said_edit stfs_said_edit(struct json_object *array, size_t index)
{
	struct json_object *item = json_object_array_get_idx(array, index);
	struct stfs_said_edit edit = {.change = "?"};

	if (!json_object_is_type(item, json_type_object))
		return edit;
	edit.name = stfs_said_name(item, "name");
	edit.from = stfs_said_name(item, "from");
	edit.waits = stfs_said_text(item, "waits");
	edit.bytes = stfs_said_number(item, "bytes");
	if (stfs_said_text(item, "change"))
		edit.change = stfs_said_text(item, "change");
	return edit;
}

struct json_object *stfs_said_pending(struct json_object *said)
{
	return stfs_said_member(stfs_said_member(said, "pending", json_type_object), "items",
				json_type_array);
}

uint64_t stfs_said_pending_count(struct json_object *said)
{
	return stfs_said_number(stfs_said_member(said, "pending", json_type_object), "count");
}

bool stfs_said_is_unfit(const struct stfs_said_edit *edit)
{
	return edit->waits && strcmp(edit->waits, "open for writing") != 0 && strcmp(edit->change, "removed") != 0;
}
