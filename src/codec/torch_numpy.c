/* SPDX-License-Identifier: MIT */
/*
 * Types of NumPy. numpy.dtype is harmless but for its __setstate__(), which believes what it is told: flags, fields
 * and sizes that are not the type's own make NumPy take a file's bytes for pointers. So a type must be a plain one,
 * made by its name, and its state may say nothing that the name does not say.
 */
#include "codec/torch_internal.h"

/* Whether a global is numpy.dtype, or one of the classes of numpy.dtypes. */
static bool is_type(const struct stfs_pickle *pickle, uint32_t value)
{
	const struct stfs_pickle_global *global = &pickle->globals[stfs_pickle_at(pickle, value)->as.global];
	struct stfs_str module = stfs_pickle_module(pickle, global);

	return stfs_str_is(module, "numpy.dtypes") ||
	       (stfs_str_is(module, "numpy") && stfs_str_is(stfs_pickle_name(pickle, global), "dtype"));
}

/* The sizes (of both) and flags in the state of a type: -1, -1, 0 of numbers. False: it is no plain type. */
static bool read_name(struct stfs_str name, int64_t want[3])
{
	static const char *const numbers[] = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8",
					      "f16", "c8", "c16", "c32"};
	int64_t count = 0;
	size_t i = 1;

	if (name.len && memchr("<>|=", name.ptr[0], 4))
		name = stfs_str_slice(name.ptr + 1, name.len - 1);
	want[0] = want[1] = -1;
	want[2] = 0;
	for (size_t k = 0; k < sizeof(numbers) / sizeof(numbers[0]); k++)
		if (stfs_str_is(name, numbers[k]))
			return true;
	/* Texts of so many letters. */
	if (name.len < 2 || name.len > 8 || (name.ptr[0] != 'U' && name.ptr[0] != 'S'))
		return false;
	for (; i < name.len && name.ptr[i] >= '0' && name.ptr[i] <= '9'; i++)
		count = count * 10 + (name.ptr[i] - '0');
	want[1] = name.ptr[0] == 'U' ? 4 : 1;
	want[0] = count * want[1];
	want[2] = name.ptr[0] == 'U' ? 8 : 0;
	return i == name.len && count > 0;
}

static bool is_integer(const struct stfs_pickle *pickle, uint32_t value, int64_t integer)
{
	return stfs_pickle_is(pickle, value, STFS_PICKLE_INT) &&
	       stfs_pickle_at(pickle, value)->as.integer == integer;
}

/* (3, byte order, subarray, names, fields, size, alignment, flags). */
static bool is_plain_state(const struct stfs_pickle *pickle, uint32_t state, const int64_t want[3])
{
	struct stfs_str order;
	uint32_t count;
	const uint32_t *items = stfs_pickle_tuple(pickle, state, &count);

	if (!items || count != 8 || !is_integer(pickle, items[0], 3) ||
	    !stfs_pickle_is(pickle, items[1], STFS_PICKLE_STR))
		return false;
	order = stfs_pickle_text(pickle, items[1]);
	if (order.len != 1 || !memchr("<>|=", order.ptr[0], 4))
		return false;
	for (unsigned i = 2; i < 5; i++)
		if (!stfs_pickle_is(pickle, items[i], STFS_PICKLE_NONE))
			return false;
	for (unsigned i = 0; i < 3; i++)
		if (!is_integer(pickle, items[5 + i], want[i]))
			return false;
	return true;
}

static bool is_plain(const struct stfs_pickle *pickle, const struct stfs_pickle_call *call)
{
	const struct stfs_pickle_global *global =
		&pickle->globals[stfs_pickle_at(pickle, call->function)->as.global];
	int64_t want[3];
	uint32_t count;
	const uint32_t *args = stfs_pickle_tuple(pickle, call->args, &count);

	if (stfs_str_is(stfs_pickle_module(pickle, global), "numpy.dtypes"))
		return call->state == STFS_NO_VALUE;
	if (!args || count == 0 || count > 3 || !stfs_pickle_is(pickle, args[0], STFS_PICKLE_STR) ||
	    !read_name(stfs_pickle_text(pickle, args[0]), want))
		return false;
	/* Of several states the last one alone is known. */
	return call->state == STFS_NO_VALUE || (!call->restated && is_plain_state(pickle, call->state, want));
}

uint32_t stfs_torch_forged_type(const struct stfs_torch *torch)
{
	const struct stfs_pickle *pickle = &torch->pickle;
	const struct stfs_pickle_call *call;

	for (uint32_t i = 0; i < pickle->value_count; i++) {
		call = stfs_pickle_called(pickle, i);
		if (call && is_type(pickle, call->function) && !is_plain(pickle, call))
			return i;
	}
	/* A function that is given the class could do the same with it. */
	for (size_t i = 0; i < pickle->link_count; i++)
		if (stfs_pickle_is(pickle, pickle->links[i], STFS_PICKLE_GLOBAL) && is_type(pickle, pickle->links[i]))
			return pickle->links[i];
	return STFS_NO_VALUE;
}
