/* SPDX-License-Identifier: MIT */
/* The machine: stack, marks, memo, and what opcode is done by whom. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "codec/grow.h"
#include "codec/pickle_internal.h"

int stfs_pickle_fail(struct stfs_pickle_op *op, const char *format, ...)
{
	char what[256];
	va_list args;

	va_start(args, format);
	vsnprintf(what, sizeof(what), format, args);
	va_end(args);
	return stfs_err_set(op->err, -EBADMSG, op->at, "byte %u of the pickle: %s", op->at, what);
}

int stfs_pickle_push(struct stfs_pickle_op *op, struct stfs_pickle_value value)
{
	struct stfs_pickle *pickle = op->pickle;
	int r;

	if (pickle->value_count == STFS_PICKLE_VALUES_MAX)
		return stfs_pickle_fail(op, "more than %u values", STFS_PICKLE_VALUES_MAX);
	r = stfs_grow(&pickle->values, &pickle->value_cap, pickle->value_count, 1, sizeof(value));
	if (r == 0)
		r = stfs_grow(&pickle->stack, &pickle->stack_cap, pickle->stack_count, 1, sizeof(uint32_t));
	if (r < 0)
		return r;
	value.at = op->at;
	pickle->stack[pickle->stack_count++] = (uint32_t)pickle->value_count;
	pickle->values[pickle->value_count++] = value;
	return 0;
}

/* ---- The stack ---- */

size_t stfs_pickle_height(const struct stfs_pickle *pickle)
{
	return pickle->stack_count - (pickle->mark_count ? pickle->marks[pickle->mark_count - 1] : 0);
}

int stfs_pickle_want(struct stfs_pickle_op *op, size_t count)
{
	if (stfs_pickle_height(op->pickle) < count)
		return stfs_pickle_fail(op, "it takes %zu values from a stack of %zu", count,
					stfs_pickle_height(op->pickle));
	return 0;
}

int stfs_pickle_unmark(struct stfs_pickle_op *op, uint32_t *items)
{
	if (op->pickle->mark_count == 0)
		return stfs_pickle_fail(op, "there is no mark");
	*items = (uint32_t)stfs_pickle_height(op->pickle);
	op->pickle->mark_count--;
	return 0;
}

static int push_again(struct stfs_pickle_op *op, uint32_t value)
{
	struct stfs_pickle *pickle = op->pickle;
	int r = stfs_grow(&pickle->stack, &pickle->stack_cap, pickle->stack_count, 1, sizeof(uint32_t));

	if (r == 0)
		pickle->stack[pickle->stack_count++] = value;
	return r;
}

static int push_mark(struct stfs_pickle_op *op)
{
	struct stfs_pickle *pickle = op->pickle;
	int r = stfs_grow(&pickle->marks, &pickle->mark_cap, pickle->mark_count, 1, sizeof(uint32_t));

	if (r == 0)
		pickle->marks[pickle->mark_count++] = (uint32_t)pickle->stack_count;
	return r;
}

static int pop(struct stfs_pickle_op *op)
{
	struct stfs_pickle *pickle = op->pickle;

	/* As CPython: a POP right behind a mark takes the mark. */
	if (stfs_pickle_height(pickle) == 0 && pickle->mark_count) {
		pickle->mark_count--;
		return 0;
	}
	if (stfs_pickle_want(op, 1) < 0)
		return -EBADMSG;
	pickle->stack_count--;
	return 0;
}

static int pop_mark(struct stfs_pickle_op *op)
{
	uint32_t items;
	int r = stfs_pickle_unmark(op, &items);

	if (r == 0)
		op->pickle->stack_count -= items;
	return r;
}

static int duplicate(struct stfs_pickle_op *op)
{
	int r = stfs_pickle_want(op, 1);

	return r < 0 ? r : push_again(op, stfs_pickle_top(op->pickle, 0));
}

/* ---- The memo ---- */

/*
 * Picklers number what they put from 0 on, so no number is above the bytes read. What may be above
 * is for hand-made pickles; it bounds the memory.
 */
#define MEMO_SLACK 65536

static int put(struct stfs_pickle_op *op, uint64_t slot)
{
	struct stfs_pickle *pickle = op->pickle;
	int r = stfs_pickle_want(op, 1);

	if (r < 0)
		return r;
	if (slot > (uint64_t)op->at + MEMO_SLACK)
		return stfs_pickle_fail(op, "a memo of %llu slots", (unsigned long long)slot);
	if (slot >= pickle->memo_count) {
		size_t more = (size_t)slot + 1 - pickle->memo_count;

		r = stfs_grow(&pickle->memo, &pickle->memo_cap, pickle->memo_count, more,
			      sizeof(uint32_t));
		if (r < 0)
			return r;
		memset(pickle->memo + pickle->memo_count, 0xff, more * sizeof(uint32_t));
		pickle->memo_count += more;
	}
	pickle->memo_put += pickle->memo[slot] == STFS_NO_VALUE;
	pickle->memo[slot] = stfs_pickle_top(pickle, 0);
	return 0;
}

static int get(struct stfs_pickle_op *op, uint64_t slot)
{
	struct stfs_pickle *pickle = op->pickle;

	if (slot >= pickle->memo_count || pickle->memo[slot] == STFS_NO_VALUE)
		return stfs_pickle_fail(op, "nothing was put into memo slot %llu",
					(unsigned long long)slot);
	return push_again(op, pickle->memo[slot]);
}

static int memo_number(struct stfs_pickle_op *op, unsigned bytes, uint64_t *slot)
{
	struct stfs_str line;
	int r;

	if (bytes)
		return stfs_pickle_arg_number(op, bytes, slot);
	r = stfs_pickle_arg_line(op, &line);
	if (r < 0)
		return r;
	*slot = 0;
	if (line.len == 0 || line.len > 10)
		return stfs_pickle_fail(op, "the number of a memo slot is expected");
	for (size_t i = 0; i < line.len; i++) {
		if (line.ptr[i] < '0' || line.ptr[i] > '9')
			return stfs_pickle_fail(op, "the number of a memo slot is expected");
		*slot = *slot * 10 + (uint64_t)(line.ptr[i] - '0');
	}
	return 0;
}

static int remember(struct stfs_pickle_op *op, unsigned char opcode)
{
	unsigned bytes = opcode == 'p' || opcode == 'g' ? 0 : opcode == 'q' || opcode == 'h' ? 1 : 4;
	uint64_t slot = op->pickle->memo_put;
	int r = opcode == 0x94 ? 0 : memo_number(op, bytes, &slot);

	if (r < 0)
		return r;
	return opcode == 'g' || opcode == 'h' || opcode == 'j' ? get(op, slot) : put(op, slot);
}

/* ---- Opcodes ---- */

static int proto(struct stfs_pickle_op *op)
{
	uint64_t version;
	int r = stfs_pickle_arg_number(op, 1, &version);

	if (r == 0 && version > 5)
		r = stfs_pickle_fail(op, "protocol %u; 0 to 5 are known", (unsigned)version);
	return r;
}

/*
 * FRAME only says how much may be read at once, but readers differ in what they make of a frame that
 * does not end where an opcode does: CPython's drops bytes. So in every protocol frames hold whole opcodes.
 */
static int frame(struct stfs_pickle_op *op)
{
	uint64_t len;
	int r;

	if (op->at < op->pickle->frame_end)
		return stfs_pickle_fail(op, "a frame within a frame");
	r = stfs_pickle_arg_number(op, 8, &len);
	if (r < 0)
		return r;
	if (len > STFS_PICKLE_MAX || (op->pickle->complete && len > op->pickle->len - op->pos))
		return stfs_pickle_fail(op, "a frame of %llu bytes, which are not there", (unsigned long long)len);
	if (len > op->pickle->len - op->pos)
		return -EAGAIN;
	op->pickle->frame_end = op->pos + (uint32_t)len;
	return 0;
}

static int stop(struct stfs_pickle_op *op)
{
	int r = stfs_pickle_want(op, 1);

	if (r < 0)
		return r;
	if (op->pos < op->pickle->frame_end)
		return stfs_pickle_fail(op, "the pickle ends within a frame");
	op->pickle->result = stfs_pickle_top(op->pickle, 0);
	return 1;
}

/* 1 at the end of the pickle. */
static int perform(struct stfs_pickle_op *op, unsigned char opcode)
{
	int r;

	switch (opcode) {
	case '.': return stop(op);
	case '(': return push_mark(op);
	case '0': return pop(op);
	case '1': return pop_mark(op);
	case '2': return duplicate(op);
	case 'p': case 'q': case 'r': case 'g': case 'h': case 'j': case 0x94: return remember(op, opcode);
	case 0x80: return proto(op);
	case 0x95: return frame(op);
	default: break;
	}
	r = stfs_pickle_scalar(op, opcode);
	if (r == -ENOENT)
		r = stfs_pickle_container(op, opcode);
	if (r == -ENOENT)
		r = stfs_pickle_calling(op, opcode);
	if (r == -ENOENT && (opcode == 0x97 || opcode == 0x98))
		return stfs_pickle_fail(op, "it wants a buffer from outside of the pickle");
	if (r == -ENOENT)
		return stfs_pickle_fail(op, "0x%02x is no opcode", opcode);
	return r;
}

int stfs_pickle_run(struct stfs_pickle *pickle, struct stfs_err *err)
{
	int r = 0;

	while (r == 0) {
		struct stfs_pickle_op op = {.pickle = pickle, .err = err, .at = pickle->pos,
					    .pos = pickle->pos};
		uint32_t pos;

		r = stfs_pickle_arg_bytes(&op, 1, &pos);
		if (r == 0)
			r = perform(&op, (unsigned char)pickle->data[pos]);
		if (r >= 0)
			pickle->pos = op.pos;
	}
	if (r == -ENOMEM)
		stfs_err_set(err, r, STFS_NO_POSITION, "no memory for the values of a pickle");
	return r < 0 ? r : 0;
}

void stfs_pickle_next(struct stfs_pickle *pickle)
{
	pickle->stack_count = pickle->mark_count = pickle->memo_count = pickle->memo_put = 0;
	pickle->frame_end = 0;
}

void stfs_pickle_trim(struct stfs_pickle *pickle)
{
	bool named_by_values = false;

	for (size_t i = 0; i < pickle->global_count; i++)
		named_by_values |= pickle->globals[i].on_stack;
	if (!named_by_values) {
		free(stfs_steal_ptr(&pickle->values));
		stfs_buf_free(&pickle->texts);
	}
	free(stfs_steal_ptr(&pickle->links));
	free(stfs_steal_ptr(&pickle->segments));
	free(stfs_steal_ptr(&pickle->lists));
	free(stfs_steal_ptr(&pickle->calls));
	free(stfs_steal_ptr(&pickle->stack));
	free(stfs_steal_ptr(&pickle->marks));
	free(stfs_steal_ptr(&pickle->memo));
}

void stfs_pickle_free(struct stfs_pickle *pickle)
{
	free(pickle->values);
	free(pickle->links);
	free(pickle->segments);
	free(pickle->lists);
	free(pickle->calls);
	free(pickle->globals);
	free(pickle->stack);
	free(pickle->marks);
	free(pickle->memo);
	stfs_buf_free(&pickle->texts);
	*pickle = (struct stfs_pickle){0};
}
