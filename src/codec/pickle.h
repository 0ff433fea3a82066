/* SPDX-License-Identifier: MIT */
/*
 * A Python pickle, read into plain values. This machine has no way to import or to call anything:
 * what a pickle wants called becomes a value of the kind STFS_PICKLE_CALL, which names the global and
 * holds its arguments. Opcodes of the protocols 0 to 5 (CPython, Lib/pickletools.py); refused are
 * buffers that stand outside of the pickle, frames that do not hold whole opcodes, and whatever could
 * not be a plain value.
 *
 * Values are numbers into one array and refer to each other by number: they may be shared and may
 * contain themselves. Text is not copied but points into the pickle's bytes.
 *
 * Limits: time is linear in the bytes. Memory is at most 64 bytes a byte, about 3 in the pickles that
 * torch writes, with at most STFS_PICKLE_MAX bytes and STFS_PICKLE_VALUES_MAX values. Nothing recurses: how
 * deep values nest costs nothing here, and those who walk over them keep a limit of their own.
 */
#ifndef STFS_CODEC_PICKLE_H
#define STFS_CODEC_PICKLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

#define STFS_PICKLE_MAX (256u << 20)
#define STFS_PICKLE_VALUES_MAX (32u << 20)
#define STFS_NO_VALUE UINT32_MAX

enum stfs_pickle_kind {
	STFS_PICKLE_NONE,
	STFS_PICKLE_BOOL,
	STFS_PICKLE_INT,
	STFS_PICKLE_LONG, /* more than 64 bits: `text` is two's complement, little-endian, or its digits */
	STFS_PICKLE_FLOAT,
	STFS_PICKLE_STR,   /* UTF-8 that may hold lone surrogates (Python's "surrogatepass") */
	STFS_PICKLE_BYTES, /* bytes, bytearray, and the str of Python 2 that is not UTF-8 */
	STFS_PICKLE_TUPLE,
	STFS_PICKLE_LIST,
	STFS_PICKLE_DICT,
	STFS_PICKLE_SET, /* frozenset too */
	STFS_PICKLE_GLOBAL,
	STFS_PICKLE_CALL,
	STFS_PICKLE_PERSISTENT, /* item 0 is the id */
};

struct stfs_pickle_value {
	uint32_t at;  /* byte of its opcode in the stream */
	uint8_t kind; /* enum stfs_pickle_kind */
	bool digits : 1;   /* a LONG as decimal text */
	bool unescaped : 1; /* the text stands in `texts` */
	union {
		bool truth;
		int64_t integer;
		double real;
		struct {
			uint32_t pos, len;
		} text;
		struct {
			uint32_t first, count; /* in `links` */
		} items;
		uint32_t list; /* number of a struct stfs_pickle_list */
		uint32_t global;
		uint32_t call;
	} as;
};

/* What APPENDS and its like add at a time. */
struct stfs_pickle_segment {
	uint32_t first, count; /* in `links` */
	uint32_t next;         /* segment, or STFS_NO_VALUE */
};

/* Items that come and go with time: of a list or set; keys and values in turn of a dict. */
struct stfs_pickle_list {
	uint32_t head, tail; /* segments, or STFS_NO_VALUE */
	uint32_t count;
};

struct stfs_pickle_call {
	uint32_t function; /* a GLOBAL */
	uint32_t args;     /* a TUPLE */
	uint32_t state;    /* of the last BUILD, or STFS_NO_VALUE */
	bool restated;     /* by more than one BUILD */
	struct stfs_pickle_list appended; /* APPENDS, ADDITEMS */
	struct stfs_pickle_list pairs;    /* SETITEMS */
};

/* A global that an opcode names, whatever became of it. */
struct stfs_pickle_global {
	uint32_t at;
	bool extension; /* a number of copyreg's registry, which is in no file: no names */
	bool on_stack;  /* STACK_GLOBAL: module and name are values; else lines, as below */
	uint32_t module, module_len; /* byte in the pickle, or the value */
	uint32_t name, name_len;
};

struct stfs_pickle {
	const char *data; /* borrowed; may move between two calls of stfs_pickle_run() */
	uint32_t len;
	uint32_t pos;      /* the next opcode; behind STOP once the pickle has ended */
	bool complete;     /* nothing follows behind data + len */
	uint32_t result;   /* the value, once it has ended */
	struct stfs_pickle_value *values; /* owned, as all below */
	size_t value_count, value_cap;
	uint32_t *links;
	size_t link_count, link_cap;
	struct stfs_pickle_segment *segments;
	size_t segment_count, segment_cap;
	struct stfs_pickle_list *lists;
	size_t list_count, list_cap;
	struct stfs_pickle_call *calls;
	size_t call_count, call_cap;
	struct stfs_pickle_global *globals;
	size_t global_count, global_cap;
	size_t persistent_count;
	struct stfs_buf texts; /* strings that had escapes */
	/* ---- The machine's own ---- */
	uint32_t frame_end; /* byte behind the last FRAME; opcodes before it must end before it */
	uint32_t *stack;
	size_t stack_count, stack_cap;
	uint32_t *marks; /* heights of the stack */
	size_t mark_count, mark_cap;
	uint32_t *memo;
	size_t memo_count, memo_cap; /* slots, STFS_NO_VALUE where nothing was put */
	size_t memo_put;             /* for MEMOIZE: what was put so far */
};

/*
 * Reads one pickle that begins at `pos` of data. 0 when its STOP was met; -EAGAIN when the bytes
 * ended and it is not complete: call again with the same and more (data may have moved); -EBADMSG with
 * `err` naming rule and byte; -ENOMEM. The globals met so far are listed in every case.
 */
int stfs_pickle_run(struct stfs_pickle *pickle, struct stfs_err *err);

/* Ready to read the next pickle of the stream at `pos`; the values read so far stay. */
void stfs_pickle_next(struct stfs_pickle *pickle);
void stfs_pickle_free(struct stfs_pickle *pickle);
/* Frees all but what the names of the globals need: nothing else may be asked for afterwards. */
void stfs_pickle_trim(struct stfs_pickle *pickle);

/*
 * To be called once, when all is read: of the pairs of each dict whose keys are equal the first gets
 * the last one's value, as in Python, and the others get the key STFS_NO_VALUE. 0 or -errno.
 */
int stfs_pickle_settle(struct stfs_pickle *pickle);

static inline const struct stfs_pickle_value *stfs_pickle_at(const struct stfs_pickle *pickle,
							     uint32_t value)
{
	return &pickle->values[value];
}

static inline bool stfs_pickle_is(const struct stfs_pickle *pickle, uint32_t value,
				  enum stfs_pickle_kind kind)
{
	return value != STFS_NO_VALUE && pickle->values[value].kind == kind;
}

/* The bytes of a STR, BYTES or LONG. */
struct stfs_str stfs_pickle_text(const struct stfs_pickle *pickle, uint32_t value);

/* A tuple's items, *count of them; NULL when the value is none. */
const uint32_t *stfs_pickle_tuple(const struct stfs_pickle *pickle, uint32_t value, uint32_t *count);

static inline const struct stfs_pickle_call *stfs_pickle_called(const struct stfs_pickle *pickle,
								uint32_t value)
{
	return stfs_pickle_is(pickle, value, STFS_PICKLE_CALL) ?
		       &pickle->calls[pickle->values[value].as.call] : NULL;
}

/* The two names, as they stand there: any bytes. Empty of an extension. */
struct stfs_str stfs_pickle_module(const struct stfs_pickle *pickle,
				   const struct stfs_pickle_global *global);
struct stfs_str stfs_pickle_name(const struct stfs_pickle *pickle,
				 const struct stfs_pickle_global *global);

/* The index in `globals` of a GLOBAL, or of the one that a CALL calls; STFS_NO_VALUE for others. */
uint32_t stfs_pickle_global_of(const struct stfs_pickle *pickle, uint32_t value);

/* ---- Walking over a list ---- */

struct stfs_pickle_walk {
	uint32_t segment, index;
};

static inline struct stfs_pickle_walk stfs_pickle_walk_from(const struct stfs_pickle_list *list)
{
	return (struct stfs_pickle_walk){list->head, 0};
}

/* The next item, as a place that may be written to; NULL at the end. */
uint32_t *stfs_pickle_step(const struct stfs_pickle *pickle, struct stfs_pickle_walk *walk);

/*
 * Appends what tells keys apart as Python does: 1, 1.0 and True are one key, 1 and "1" are two. Keys
 * of other kinds than str, number, bool, None and a tuple of these, and very long ones, are told apart
 * by identity. 0 or -ENOMEM.
 */
int stfs_pickle_key_identity(const struct stfs_pickle *pickle, uint32_t key, struct stfs_buf *out);

#endif
