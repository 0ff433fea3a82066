/* SPDX-License-Identifier: MIT */
#include "codec/trace.h"

#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "codec/grow.h"

/* What follows an opcode (CPython, Lib/pickletools.py). */
enum argument {
	NO_OPCODE,
	NOTHING,
	BYTES_1, BYTES_2, BYTES_4, BYTES_8,
	COUNTED_1, COUNTED_4, COUNTED_8, /* a length of so many bytes, and what has it */
	LINE, LINES_2,
};

static const unsigned char arguments[256] = {
	['('] = NOTHING, [')'] = NOTHING, ['.'] = NOTHING, ['0'] = NOTHING, ['1'] = NOTHING, ['2'] = NOTHING,
	['N'] = NOTHING, ['Q'] = NOTHING, ['R'] = NOTHING, [']'] = NOTHING, ['a'] = NOTHING, ['b'] = NOTHING,
	['d'] = NOTHING, ['e'] = NOTHING, ['l'] = NOTHING, ['o'] = NOTHING, ['s'] = NOTHING, ['t'] = NOTHING,
	['u'] = NOTHING, ['}'] = NOTHING, [0x81] = NOTHING, [0x85] = NOTHING, [0x86] = NOTHING, [0x87] = NOTHING,
	[0x88] = NOTHING, [0x89] = NOTHING, [0x8f] = NOTHING, [0x90] = NOTHING, [0x91] = NOTHING,
	[0x92] = NOTHING, [0x93] = NOTHING, [0x94] = NOTHING,
	['K'] = BYTES_1, ['h'] = BYTES_1, ['q'] = BYTES_1, [0x80] = BYTES_1, [0x82] = BYTES_1,
	['M'] = BYTES_2, [0x83] = BYTES_2,
	['J'] = BYTES_4, ['j'] = BYTES_4, ['r'] = BYTES_4, [0x84] = BYTES_4,
	['G'] = BYTES_8, [0x95] = BYTES_8,
	['C'] = COUNTED_1, ['U'] = COUNTED_1, [0x8a] = COUNTED_1, [0x8c] = COUNTED_1,
	['B'] = COUNTED_4, ['T'] = COUNTED_4, ['X'] = COUNTED_4, [0x8b] = COUNTED_4,
	[0x8d] = COUNTED_8, [0x8e] = COUNTED_8, [0x96] = COUNTED_8,
	['F'] = LINE, ['I'] = LINE, ['L'] = LINE, ['P'] = LINE, ['S'] = LINE, ['V'] = LINE, ['g'] = LINE, ['p'] = LINE,
	['c'] = LINES_2, ['i'] = LINES_2,
};

#define MEMO_MAX (1u << 20) /* slots beyond it hold what is not known */
#define WAITING 64          /* globals that nothing called yet; so many in a row are no chance any more */

/* Bytes of the window. Of a text that is not known the length is NOT_KNOWN. */
struct span {
	uint64_t at;
	uint64_t len;
};
#define NOT_KNOWN UINT64_MAX
static const struct span not_known = {0, NOT_KNOWN};

struct machine {
	struct stfs_trace *trace;
	uint64_t read_before;
	uint64_t op_at;
	uint64_t frame_end;
	bool trusted;
	bool finished; /* there is no opcode to be followed any more */
	struct span below, top; /* of the stack, as far as they are texts */
	struct span *memo;      /* owned */
	size_t memo_count, memo_cap;
	bool puts, memoizes; /* which opcodes filled the memo: of both together the slots are not known */
	struct stfs_trace_global *waiting; /* owned: WAITING of them */
	size_t waiting_count;
	/* Of what need not be a pickle: the first global of unknown names, and whether anything was called behind it. */
	struct stfs_trace_global unknown;
	bool has_unknown, calls_unknown;
};

/* ---- Arguments ---- */

/* Where an argument of `len` bytes begins; the trace goes on behind it. False when it is not there. */
static bool take(struct machine *m, uint64_t len, uint64_t *begin)
{
	struct stfs_trace *trace = m->trace;
	uint64_t at = trace->at;

	if (at < m->frame_end && len > m->frame_end - at) {
		trace->crossed = true;
		at = trace->drops ? m->frame_end : at;
	}
	if (at > trace->window->len || len > trace->window->len - at)
		return false;
	*begin = at;
	trace->at = at + len;
	return true;
}

static bool take_number(struct machine *m, unsigned bytes, uint64_t *number)
{
	struct stfs_str raw;
	uint64_t at;

	if (!take(m, bytes, &at))
		return false;
	raw = stfs_window_at(m->trace->window, at, bytes);
	*number = 0;
	for (unsigned i = 0; i < raw.len; i++)
		*number |= (uint64_t)(unsigned char)raw.ptr[i] << 8 * i;
	return raw.len == bytes;
}

static bool is_tired(struct machine *m)
{
	struct stfs_trace *trace = m->trace;

	trace->tired = trace->work + (trace->window->read - m->read_before) > trace->most;
	return trace->tired;
}

/* The byte of the next newline. */
static bool find_newline(struct machine *m, uint64_t at, uint64_t *newline)
{
	while (!is_tired(m)) {
		struct stfs_str piece = stfs_window_at(m->trace->window, at, 256);
		const char *found = piece.len ? memchr(piece.ptr, '\n', piece.len) : NULL;

		if (found)
			*newline = at + (uint64_t)(found - piece.ptr);
		if (found || piece.len == 0)
			return found != NULL;
		at += piece.len;
		m->trace->work += piece.len / 16;
	}
	return false;
}

static bool take_line(struct machine *m, struct span *line)
{
	struct stfs_trace *trace = m->trace;
	uint64_t begin = trace->at, newline;

	if (!find_newline(m, begin, &newline))
		return false;
	if (begin < m->frame_end && newline >= m->frame_end) {
		trace->crossed = true;
		begin = trace->drops ? m->frame_end : begin;
		if (trace->drops && !find_newline(m, begin, &newline))
			return false;
	}
	*line = (struct span){begin, newline - begin};
	trace->at = newline + 1;
	return true;
}

/* The argument: a number or one line, as `number` or `text`; of two lines the second. */
static bool take_argument(struct machine *m, enum argument kind, uint64_t *number, struct span *first,
			  struct span *text)
{
	switch (kind) {
	case NO_OPCODE: return false;
	case NOTHING: return true;
	case BYTES_1: return take_number(m, 1, number);
	case BYTES_2: return take_number(m, 2, number);
	case BYTES_4: return take_number(m, 4, number);
	case BYTES_8: return take_number(m, 8, number);
	case COUNTED_1: return take_number(m, 1, &text->len) && take(m, text->len, &text->at);
	case COUNTED_4: return take_number(m, 4, &text->len) && take(m, text->len, &text->at);
	case COUNTED_8: return take_number(m, 8, &text->len) && take(m, text->len, &text->at);
	case LINE: return take_line(m, text);
	case LINES_2: return take_line(m, first) && take_line(m, text);
	}
	return false;
}

/* ---- Globals ---- */

static int tell_waiting(struct machine *m)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < m->waiting_count; i++)
		r = m->trace->found(m->trace->data, &m->waiting[i]);
	m->trace->ran |= m->waiting_count > 0;
	m->waiting_count = 0;
	return r;
}

/* A name of Python: letters, digits, _ and dots. False for what is none. */
static bool copy_name(struct machine *m, struct span span, char name[STFS_TRACE_NAME_MAX + 1])
{
	struct stfs_str text;

	if (span.len == 0 || span.len > STFS_TRACE_NAME_MAX)
		return false;
	text = stfs_window_at(m->trace->window, span.at, (size_t)span.len);
	for (size_t i = 0; i < text.len; i++) {
		char c = text.ptr[i];
		bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';

		if (!letter && (i == 0 || (c != '.' && (c < '0' || c > '9'))))
			return false;
		name[i] = c;
	}
	name[text.len] = '\0';
	return text.len == span.len;
}

static int add_global(struct machine *m, struct span module, struct span name)
{
	struct stfs_trace_global *global = &m->waiting[m->waiting_count];
	bool known = module.len != NOT_KNOWN && name.len != NOT_KNOWN;

	global->at = m->op_at;
	global->module[0] = global->name[0] = '\0';
	if (!known && !m->trusted) {
		m->unknown = m->has_unknown ? m->unknown : *global;
		m->has_unknown = true;
		return 0;
	}
	if (known && (!copy_name(m, module, global->module) || !copy_name(m, name, global->name)))
		return 0;
	m->waiting_count++;
	return m->waiting_count == WAITING ? tell_waiting(m) : 0;
}

/* ---- What opcodes do to the texts on top of the stack ---- */

static void push(struct machine *m, struct span text)
{
	m->below = m->top;
	m->top = text;
}

static void forget_stack(struct machine *m)
{
	m->below = m->top = not_known;
}

static uint64_t read_decimal(struct machine *m, struct span line)
{
	struct stfs_str text = stfs_window_at(m->trace->window, line.at, (size_t)stfs_min_u64(line.len, 16));
	uint64_t number = 0;

	for (size_t i = 0; i < text.len; i++) {
		if (text.ptr[i] < '0' || text.ptr[i] > '9')
			return UINT64_MAX;
		number = number * 10 + (uint64_t)(text.ptr[i] - '0');
	}
	return text.len && text.len < 16 ? number : UINT64_MAX;
}

static int put(struct machine *m, uint64_t slot)
{
	int r;

	if (slot >= MEMO_MAX)
		return 0;
	if (slot >= m->memo_count) {
		r = stfs_grow(&m->memo, &m->memo_cap, m->memo_count, (size_t)slot + 1 - m->memo_count,
			      sizeof(*m->memo));
		if (r < 0)
			return r;
		while (m->memo_count <= slot)
			m->memo[m->memo_count++] = not_known;
	}
	m->memo[slot] = m->top;
	return 0;
}

static void get(struct machine *m, uint64_t slot)
{
	bool mixed = m->puts && m->memoizes;

	push(m, slot < m->memo_count && !mixed ? m->memo[slot] : not_known);
}

/* A STRING in its quotes. One with an escape is not known, as no module's name needs any. */
static struct span unquoted(struct machine *m, struct span line)
{
	struct stfs_str text;

	if (line.len < 2 || line.len > STFS_TRACE_NAME_MAX)
		return not_known;
	text = stfs_window_at(m->trace->window, line.at, (size_t)line.len);
	if (text.len != line.len || memchr(text.ptr, '\\', text.len))
		return not_known;
	return (struct span){line.at + 1, line.len - 2};
}

static struct span unescaped(struct machine *m, struct span line)
{
	struct stfs_str text;

	if (line.len > STFS_TRACE_NAME_MAX)
		return not_known;
	text = stfs_window_at(m->trace->window, line.at, (size_t)line.len);
	return text.len != line.len || (text.len && memchr(text.ptr, '\\', text.len)) ? not_known : line;
}

static void begin_pickle(struct machine *m)
{
	m->trusted = m->trace->trusted;
	m->memo_count = 0;
	m->puts = m->memoizes = m->has_unknown = m->calls_unknown = false;
	m->frame_end = 0;
	forget_stack(m);
}

static int stop(struct machine *m)
{
	struct stfs_trace *trace = m->trace;
	int r = 0;

	/* From its first byte to this one it was a pickle. */
	if (m->calls_unknown) {
		trace->ran = true;
		r = trace->found(trace->data, &m->unknown);
	}
	if (trace->at < m->frame_end) { /* of a file the rest of the frame has been read by then */
		trace->crossed = true;
		trace->at = trace->drops ? m->frame_end : trace->at;
	}
	begin_pickle(m);
	m->finished = trace->count <= 1;
	trace->count -= !m->finished;
	return r < 0 ? r : tell_waiting(m);
}

static int frame(struct machine *m, uint64_t len)
{
	uint64_t begin;

	m->finished = !take(m, len, &begin);
	if (!m->finished) {
		m->trace->at = begin;
		m->frame_end = begin + len;
	}
	return 0;
}

static int perform(struct machine *m, unsigned char opcode, uint64_t number, struct span first, struct span text)
{
	switch (opcode) {
	case 0x80:
		m->trusted = true;
		m->finished = number > 5;
		return 0;
	case 0x95: return frame(m, number);
	case '.': return stop(m);
	case 'X': case 'U': case 'T': case 0x8c: case 0x8d: push(m, text); return 0;
	case 'S': push(m, unquoted(m, text)); return 0;
	case 'V': push(m, unescaped(m, text)); return 0;
	case 'g': get(m, read_decimal(m, text)); return 0;
	case 'h': case 'j': get(m, number); return 0;
	case 'p':
		m->puts = true;
		return put(m, read_decimal(m, text));
	case 'q': case 'r':
		m->puts = true;
		return put(m, number);
	case 0x94:
		m->memoizes = true;
		return put(m, m->memo_count);
	default: break;
	}
	if (opcode == 'c' || opcode == 'i' || opcode == 0x93 || (opcode >= 0x82 && opcode <= 0x84)) {
		bool lines = opcode == 'c' || opcode == 'i', stack = opcode == 0x93;
		int r = add_global(m, lines ? first : stack ? m->below : not_known,
				   lines ? text : stack ? m->top : not_known);

		forget_stack(m);
		return r == 0 && opcode == 'i' ? tell_waiting(m) : r;
	}
	forget_stack(m);
	if (opcode != 'R' && opcode != 'b' && opcode != 'o' && opcode != 0x81 && opcode != 0x92)
		return 0;
	m->calls_unknown |= m->has_unknown;
	return tell_waiting(m);
}

static int step(struct machine *m)
{
	struct stfs_trace *trace = m->trace;
	struct stfs_str next = stfs_window_at(trace->window, trace->at, 1);
	struct span first = not_known, text = not_known;
	uint64_t number = 0;
	unsigned char opcode;

	m->finished = next.len == 0 || is_tired(m);
	if (m->finished)
		return trace->window->status;
	opcode = (unsigned char)next.ptr[0];
	m->op_at = trace->at++;
	trace->work += 4;
	m->finished = !take_argument(m, (enum argument)arguments[opcode], &number, &first, &text);
	return m->finished ? trace->window->status : perform(m, opcode, number, first, text);
}

int stfs_trace_run(struct stfs_trace *trace)
{
	STFS_AUTO_FREE struct stfs_trace_global *waiting = calloc(WAITING, sizeof(*waiting));
	struct machine m = {.trace = trace, .read_before = trace->window->read, .waiting = waiting};
	int r = waiting ? 0 : -ENOMEM;

	begin_pickle(&m);
	while (r == 0 && !m.finished)
		r = step(&m);
	free(m.memo);
	trace->work += trace->window->read - m.read_before;
	return r;
}
