/* SPDX-License-Identifier: MIT */
/* JSON for programs. Want of memory ends the program. */
#ifndef STFS_CLI_JSONOUT_H
#define STFS_CLI_JSONOUT_H

#include <json-c/json.h>
#include <stdio.h>

#include "store/model.h"

/* A string; bytes that are not UTF-8 (a path may hold them) become U+FFFD. */
struct json_object *stfs_jsonout_text(struct stfs_str text);
struct json_object *stfs_jsonout_object(void);
struct json_object *stfs_jsonout_array(void);

/* Each adds a member to `object`; stfs_jsonout_add() takes ownership of `value`. */
void stfs_jsonout_add(struct json_object *object, const char *key, struct json_object *value);
void stfs_jsonout_add_text(struct json_object *object, const char *key, struct stfs_str text);
void stfs_jsonout_add_string(struct json_object *object, const char *key, const char *terminated);
void stfs_jsonout_add_number(struct json_object *object, const char *key, uint64_t number);
void stfs_jsonout_add_bool(struct json_object *object, const char *key, bool value);
/* Takes ownership of `value`. */
void stfs_jsonout_append(struct json_object *array, struct json_object *value);

/* What every verb says of a tensor: name, dtype, shape, bytes, and where it lies. */
struct json_object *stfs_jsonout_tensor(const struct stfs_tensor_ref *ref);

/*
 * Prints it, on one line or (`pretty`) on many, with a newline; frees it. Characters that a
 * terminal would obey are written as \uXXXX.
 */
void stfs_jsonout_print(struct json_object *object, bool pretty, FILE *out);
/* The same without the newline, for elements of an array that is printed piece by piece. */
void stfs_jsonout_print_element(struct json_object *object, FILE *out);
/* JSON text that was made otherwise, with the same care. */
void stfs_jsonout_write(struct stfs_str json, FILE *out);

#endif
