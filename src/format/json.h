/* SPDX-License-Identifier: MIT */
/*
 * A small streaming reader of JSON text, strict as the official loader's (serde_json 1.0, which
 * deserialises the header): RFC 8259, no lone surrogates, numbers that fit a double, at most 127
 * levels. It builds no tree: the caller pulls one token after another and gets positions into the
 * text, so memory does not grow with it. The text must be valid UTF-8 (base/utf8.h).
 *
 * It exists for headers and indexes: a library that merges duplicate keys or builds a tree can neither
 * enforce the specification on a header nor open one of 100,000 tensors within its memory bound.
 */
#ifndef STFS_FORMAT_JSON_H
#define STFS_FORMAT_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

/* serde_json refuses to enter the 128th level (its recursion limit). */
#define STFS_JSON_MAX_DEPTH 127

struct stfs_json {
	const char *text; /* borrowed */
	size_t len;
	size_t pos;        /* next byte to read */
	unsigned depth;    /* open arrays and objects */
	const char *error; /* what is wrong, once a call has returned -EBADMSG */
	size_t error_pos;  /* byte in text where it is wrong */
};

/* The content of a string between its quotes, as it stands in the text. */
struct stfs_json_string {
	size_t pos;
	size_t len;
	bool escaped; /* holds a backslash: needs stfs_json_unescape() */
};

enum stfs_json_number_kind { STFS_JSON_UINT, STFS_JSON_NEGATIVE, STFS_JSON_REAL };

struct stfs_json_number {
	enum stfs_json_number_kind kind;
	uint64_t value; /* of a STFS_JSON_UINT */
};

/*
 * All functions below return -EBADMSG, with error and error_pos filled, when the text breaks a
 * rule; the reader is then of no further use.
 */

/* First byte of the next token, not consumed; '\0' at the end (a NUL in the text is no token). */
char stfs_json_peek(struct stfs_json *json);

/* Consumes `open`, '{' or '['; counts the level. */
int stfs_json_enter(struct stfs_json *json, char open);

/*
 * Before each element of the container that `close`, '}' or ']', ends: 1 when an element follows,
 * 0 when the container has ended (consumed). *first is true before the first call and is kept here.
 */
int stfs_json_next(struct stfs_json *json, char close, bool *first);

/* A member's key and the colon behind it. */
int stfs_json_key(struct stfs_json *json, struct stfs_json_string *key);
int stfs_json_string(struct stfs_json *json, struct stfs_json_string *string);
int stfs_json_number(struct stfs_json *json, struct stfs_json_number *number);

/* Consumes one of the words true, false, null. */
int stfs_json_word(struct stfs_json *json);

/* A string, number or word, whatever the next token begins. */
int stfs_json_scalar(struct stfs_json *json);

/* Records an error at the next token. Returns -EBADMSG. */
int stfs_json_fail(struct stfs_json *json, const char *error);

/* Appends the characters that the checked content `raw` of a string stands for. 0 or -ENOMEM. */
int stfs_json_unescape(struct stfs_str raw, struct stfs_buf *out);

/*
 * The characters of a string: *out is in the text, or in `scratch` (until its next use) where there
 * are escapes. 0 or -ENOMEM.
 */
int stfs_json_plain(const struct stfs_json *json, struct stfs_json_string raw, struct stfs_buf *scratch,
		    struct stfs_str *out);

/*
 * The next member of an object that was entered, as stfs_json_next(): 1 with its key, as it stands
 * in the text and, as by stfs_json_plain(), its characters; pos is behind the colon. 0 at the
 * object's end.
 */
int stfs_json_member(struct stfs_json *json, bool *first, struct stfs_buf *scratch,
		     struct stfs_json_string *raw, struct stfs_str *key);

/*
 * Reads an object: `each` is called with every member, as stfs_json_member() gives it, and reads its
 * value. What it returns ends it unless it is 0, and is the result.
 */
int stfs_json_members(struct stfs_json *json, struct stfs_buf *scratch,
		      int (*each)(void *data, struct stfs_json_string raw, struct stfs_str key),
		      void *data);

/* What stfs_json_skip() calls on its way; a result below 0 ends it and is its own. */
struct stfs_json_visitor {
	int (*enter)(void *data); /* behind '{' or '[': json->depth is that of what was entered */
	int (*key)(void *data, struct stfs_json_string raw); /* behind a key and its colon */
	int (*leave)(void *data); /* behind '}' or ']': json->depth is one less */
};

/* Passes over a value, whatever it is. `visitor` may be NULL. */
int stfs_json_skip(struct stfs_json *json, const struct stfs_json_visitor *visitor, void *data);

/*
 * Reads a whole text: checks that it is UTF-8, has `read` read the value (0 or -errno, as the
 * functions above), and sees that nothing stands behind it. Where the text breaks a rule of JSON:
 * -EBADMSG with `err` (may be NULL) saying which and where; else the result of `read`, who fills
 * `err` itself.
 */
int stfs_json_text(struct stfs_json *json, int (*read)(void *data), void *data, struct stfs_err *err);

/*
 * Appends `text` (valid UTF-8, any characters) as a JSON string, quotes included, with no escapes
 * but those that RFC 8259 demands (section 7): '"', '\' and the control bytes below 0x20. 0 or
 * -ENOMEM.
 */
int stfs_json_quote(struct stfs_str text, struct stfs_buf *out);

static inline struct stfs_str stfs_json_raw(const struct stfs_json *json,
					    struct stfs_json_string string)
{
	return stfs_str_slice(json->text + string.pos, string.len);
}

#endif
