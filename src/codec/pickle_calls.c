/* SPDX-License-Identifier: MIT */
/* Opcodes that name a global, want one called, or build on what a call gave. Nothing is called. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "codec/grow.h"
#include "codec/pickle_internal.h"

static int add_global(struct stfs_pickle_op *op, struct stfs_pickle_global global)
{
	struct stfs_pickle *pickle = op->pickle;
	int r = stfs_grow(&pickle->globals, &pickle->global_cap, pickle->global_count, 1, sizeof(global));

	if (r < 0)
		return r;
	global.at = op->at;
	pickle->globals[pickle->global_count] = global;
	return stfs_pickle_push(op, (struct stfs_pickle_value){
		.kind = STFS_PICKLE_GLOBAL, .as.global = (uint32_t)pickle->global_count++});
}

/*
 * Whether Python could import it. CPython takes both lines as UTF-8, and fails where they are none; no module is found
 * by a name with blanks, brackets or colons, as a line of text that begins with "c" has them.
 */
static bool is_importable(struct stfs_str module, struct stfs_str name)
{
	static const char never[] = " \t\r\v\f:;,()[]{}<>=\"'`!?*&|$#%^~+\\";

	for (size_t i = 0; i < module.len; i++)
		if (!module.ptr[i] || strchr(never, module.ptr[i]))
			return false;
	return stfs_utf8_check(module.ptr, module.len) == module.len && stfs_utf8_check(name.ptr, name.len) == name.len;
}

/* The two lines of GLOBAL and INST. */
static int read_names(struct stfs_pickle_op *op, struct stfs_pickle_global *global)
{
	struct stfs_str module, name;
	int r = stfs_pickle_arg_line(op, &module);

	if (r == 0)
		r = stfs_pickle_arg_line(op, &name);
	if (r < 0)
		return r;
	if (!is_importable(module, name))
		return stfs_pickle_fail(op, "it names a global as no module of Python can be called");
	global->module = (uint32_t)(module.ptr - op->pickle->data);
	global->module_len = (uint32_t)module.len;
	global->name = (uint32_t)(name.ptr - op->pickle->data);
	global->name_len = (uint32_t)name.len;
	return 0;
}

static int name_global(struct stfs_pickle_op *op)
{
	struct stfs_pickle_global global = {0};
	int r = read_names(op, &global);

	return r < 0 ? r : add_global(op, global);
}

static int stack_global(struct stfs_pickle_op *op)
{
	struct stfs_pickle_global global = {.on_stack = true};
	struct stfs_pickle *pickle = op->pickle;
	int r = stfs_pickle_want(op, 2);

	if (r < 0)
		return r;
	global.module = stfs_pickle_top(pickle, 1);
	global.name = stfs_pickle_top(pickle, 0);
	if (!stfs_pickle_is(pickle, global.module, STFS_PICKLE_STR) ||
	    !stfs_pickle_is(pickle, global.name, STFS_PICKLE_STR))
		return stfs_pickle_fail(op, "the name of a global is no text");
	pickle->stack_count -= 2;
	return add_global(op, global);
}

static int extension(struct stfs_pickle_op *op, unsigned bytes)
{
	struct stfs_pickle_global global = {.extension = true};
	uint64_t code;
	int r = stfs_pickle_arg_number(op, bytes, &code);

	return r < 0 ? r : add_global(op, global);
}

/* Replaces the function and its tuple of arguments, on top of the stack, by the call. */
static int call(struct stfs_pickle_op *op)
{
	struct stfs_pickle_list none = {STFS_NO_VALUE, STFS_NO_VALUE, 0};
	struct stfs_pickle_call made = {.state = STFS_NO_VALUE, .appended = none, .pairs = none};
	struct stfs_pickle *pickle = op->pickle;
	int r = stfs_pickle_want(op, 2);

	if (r < 0)
		return r;
	made.function = stfs_pickle_top(pickle, 1);
	made.args = stfs_pickle_top(pickle, 0);
	if (!stfs_pickle_is(pickle, made.function, STFS_PICKLE_GLOBAL))
		return stfs_pickle_fail(op, "it calls what is no global");
	if (!stfs_pickle_is(pickle, made.args, STFS_PICKLE_TUPLE))
		return stfs_pickle_fail(op, "the arguments of a call are no tuple");
	r = stfs_grow(&pickle->calls, &pickle->call_cap, pickle->call_count, 1, sizeof(made));
	if (r < 0)
		return r;
	pickle->stack_count -= 2;
	pickle->calls[pickle->call_count] = made;
	return stfs_pickle_push(op, (struct stfs_pickle_value){
		.kind = STFS_PICKLE_CALL, .as.call = (uint32_t)pickle->call_count++});
}

/* NEWOBJ_EX: keyword arguments, of which nobody here knows any, may be an empty dict. */
static int call_with_keywords(struct stfs_pickle_op *op)
{
	struct stfs_pickle *pickle = op->pickle;
	uint32_t keywords;
	int r = stfs_pickle_want(op, 3);

	if (r < 0)
		return r;
	keywords = stfs_pickle_top(pickle, 0);
	if (!stfs_pickle_is(pickle, keywords, STFS_PICKLE_DICT) ||
	    pickle->lists[pickle->values[keywords].as.list].count)
		return stfs_pickle_fail(op, "a call with keyword arguments");
	pickle->stack_count--;
	return call(op);
}

/* INST: the global is named here, the arguments stand above the mark. */
static int instance(struct stfs_pickle_op *op)
{
	struct stfs_pickle_global global = {0};
	struct stfs_pickle *pickle = op->pickle;
	uint32_t count, args;
	int r = read_names(op, &global);

	if (r == 0)
		r = stfs_pickle_unmark(op, &count);
	if (r == 0)
		r = stfs_pickle_tuple_of(op, count);
	if (r < 0)
		return r;
	args = pickle->stack[--pickle->stack_count];
	r = add_global(op, global);
	if (r == 0)
		r = stfs_grow(&pickle->stack, &pickle->stack_cap, pickle->stack_count, 1, sizeof(uint32_t));
	if (r < 0)
		return r;
	pickle->stack[pickle->stack_count++] = args;
	return call(op);
}

/* OBJ: above the mark stand the class and the arguments. */
static int object(struct stfs_pickle_op *op)
{
	uint32_t count;
	int r = stfs_pickle_unmark(op, &count);

	if (r == 0 && count == 0)
		return stfs_pickle_fail(op, "there is no class behind the mark");
	if (r == 0)
		r = stfs_pickle_tuple_of(op, count - 1);
	return r < 0 ? r : call(op);
}

static int build(struct stfs_pickle_op *op)
{
	struct stfs_pickle *pickle = op->pickle;
	struct stfs_pickle_call *built;
	uint32_t target;
	int r = stfs_pickle_want(op, 2);

	if (r < 0)
		return r;
	target = stfs_pickle_top(pickle, 1);
	if (!stfs_pickle_is(pickle, target, STFS_PICKLE_CALL))
		return stfs_pickle_fail(op, "it sets the state of what no call gave");
	built = &pickle->calls[pickle->values[target].as.call];
	built->restated = built->state != STFS_NO_VALUE;
	built->state = stfs_pickle_top(pickle, 0);
	pickle->stack_count--;
	return 0;
}

/* BINPERSID takes the id from the stack. */
static int persistent(struct stfs_pickle_op *op)
{
	struct stfs_pickle_value value = {.kind = STFS_PICKLE_PERSISTENT, .as.items.count = 1};
	uint32_t first;
	int r = stfs_pickle_want(op, 1);

	if (r == 0)
		r = stfs_pickle_link(op, 1, &first);
	if (r < 0)
		return r;
	op->pickle->persistent_count++;
	value.as.items.first = first;
	return stfs_pickle_push(op, value);
}

/* PERSID: the id is a line of text. */
static int persistent_line(struct stfs_pickle_op *op)
{
	struct stfs_pickle_value value = {.kind = STFS_PICKLE_STR};
	struct stfs_str line;
	int r = stfs_pickle_arg_line(op, &line);

	if (r < 0)
		return r;
	for (size_t i = 0; i < line.len; i++)
		if ((unsigned char)line.ptr[i] >= 0x80)
			return stfs_pickle_fail(op, "a persistent id that is not ASCII");
	value.as.text.pos = (uint32_t)(line.ptr - op->pickle->data);
	value.as.text.len = (uint32_t)line.len;
	r = stfs_pickle_push(op, value);
	return r < 0 ? r : persistent(op);
}

int stfs_pickle_calling(struct stfs_pickle_op *op, unsigned char opcode)
{
	switch (opcode) {
	case 'c': return name_global(op);
	case 0x93: return stack_global(op);
	case 0x82: return extension(op, 1);
	case 0x83: return extension(op, 2);
	case 0x84: return extension(op, 4);
	case 'R': case 0x81: return call(op);
	case 0x92: return call_with_keywords(op);
	case 'i': return instance(op);
	case 'o': return object(op);
	case 'b': return build(op);
	case 'P': return persistent_line(op);
	case 'Q': return persistent(op);
	default: return -ENOENT;
	}
}
