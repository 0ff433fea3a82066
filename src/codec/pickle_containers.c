/* SPDX-License-Identifier: MIT */
/* Opcodes that make or fill tuples, lists, dicts and sets. */
#include <errno.h>
#include <stdlib.h>

#include "codec/grow.h"
#include "codec/pickle_internal.h"

int stfs_pickle_link(struct stfs_pickle_op *op, uint32_t count, uint32_t *first)
{
	struct stfs_pickle *pickle = op->pickle;
	int r = stfs_grow(&pickle->links, &pickle->link_cap, pickle->link_count, count, sizeof(uint32_t));

	if (r < 0)
		return r;
	*first = (uint32_t)pickle->link_count;
	pickle->stack_count -= count;
	if (count)
		memcpy(pickle->links + pickle->link_count, pickle->stack + pickle->stack_count,
		       count * sizeof(uint32_t));
	pickle->link_count += count;
	return 0;
}

int stfs_pickle_tuple_of(struct stfs_pickle_op *op, uint32_t count)
{
	struct stfs_pickle_value value = {.kind = STFS_PICKLE_TUPLE, .as.items.count = count};
	uint32_t first;
	int r = stfs_pickle_link(op, count, &first);

	value.as.items.first = r < 0 ? 0 : first;
	return r < 0 ? r : stfs_pickle_push(op, value);
}

int stfs_pickle_extend(struct stfs_pickle_op *op, struct stfs_pickle_list *list, uint32_t count)
{
	struct stfs_pickle *pickle = op->pickle;
	uint32_t first, segment = (uint32_t)pickle->segment_count;
	int r = stfs_grow(&pickle->segments, &pickle->segment_cap, pickle->segment_count, 1,
			  sizeof(*pickle->segments));

	if (r == 0)
		r = stfs_pickle_link(op, count, &first);
	if (r < 0 || count == 0)
		return r;
	pickle->segments[pickle->segment_count++] =
		(struct stfs_pickle_segment){first, count, STFS_NO_VALUE};
	if (list->tail == STFS_NO_VALUE)
		list->head = segment;
	else
		pickle->segments[list->tail].next = segment;
	list->tail = segment;
	list->count += count;
	return 0;
}

/* LIST, DICT, FROZENSET and their empty forms: a container of the top `count` items. */
static int make(struct stfs_pickle_op *op, enum stfs_pickle_kind kind, uint32_t count)
{
	struct stfs_pickle *pickle = op->pickle;
	struct stfs_pickle_list list = {STFS_NO_VALUE, STFS_NO_VALUE, 0};
	int r = stfs_grow(&pickle->lists, &pickle->list_cap, pickle->list_count, 1, sizeof(list));

	if (r == 0 && kind == STFS_PICKLE_DICT && count % 2)
		r = stfs_pickle_fail(op, "a dict of a key without a value");
	if (r == 0)
		r = stfs_pickle_extend(op, &list, count);
	if (r < 0)
		return r;
	pickle->lists[pickle->list_count] = list;
	return stfs_pickle_push(op, (struct stfs_pickle_value){
		.kind = (uint8_t)kind, .as.list = (uint32_t)pickle->list_count++});
}

static int make_marked(struct stfs_pickle_op *op, enum stfs_pickle_kind kind)
{
	uint32_t count;
	int r = stfs_pickle_unmark(op, &count);

	if (r < 0)
		return r;
	return kind == STFS_PICKLE_TUPLE ? stfs_pickle_tuple_of(op, count) : make(op, kind, count);
}

static int make_tuple(struct stfs_pickle_op *op, uint32_t count)
{
	int r = stfs_pickle_want(op, count);

	return r < 0 ? r : stfs_pickle_tuple_of(op, count);
}

/* The list that an opcode fills: that of a container of this kind, or what a call is given. */
static struct stfs_pickle_list *target(struct stfs_pickle *pickle, uint32_t container,
				       enum stfs_pickle_kind kind)
{
	const struct stfs_pickle_value *value = &pickle->values[container];

	if (value->kind == kind)
		return &pickle->lists[value->as.list];
	if (value->kind != STFS_PICKLE_CALL)
		return NULL;
	return kind == STFS_PICKLE_DICT ? &pickle->calls[value->as.call].pairs :
					  &pickle->calls[value->as.call].appended;
}

/* APPEND, APPENDS, SETITEM, SETITEMS, ADDITEMS: the top `count` items go into what is below them. */
static int fill(struct stfs_pickle_op *op, enum stfs_pickle_kind kind, uint32_t count)
{
	static const char *const names[] = {[STFS_PICKLE_LIST] = "a list", [STFS_PICKLE_DICT] = "a dict",
					    [STFS_PICKLE_SET] = "a set"};
	struct stfs_pickle_list *list;
	int r = stfs_pickle_want(op, (size_t)count + 1);

	if (r < 0)
		return r;
	if (kind == STFS_PICKLE_DICT && count % 2)
		return stfs_pickle_fail(op, "a key without a value");
	list = target(op->pickle, stfs_pickle_top(op->pickle, count), kind);
	if (!list)
		return stfs_pickle_fail(op, "it fills what is not %s", names[kind]);
	return stfs_pickle_extend(op, list, count);
}

static int fill_marked(struct stfs_pickle_op *op, enum stfs_pickle_kind kind)
{
	uint32_t count;
	int r = stfs_pickle_unmark(op, &count);

	return r < 0 ? r : fill(op, kind, count);
}

int stfs_pickle_container(struct stfs_pickle_op *op, unsigned char opcode)
{
	switch (opcode) {
	case ')': return make_tuple(op, 0);
	case 0x85: return make_tuple(op, 1);
	case 0x86: return make_tuple(op, 2);
	case 0x87: return make_tuple(op, 3);
	case 't': return make_marked(op, STFS_PICKLE_TUPLE);
	case ']': return make(op, STFS_PICKLE_LIST, 0);
	case 'l': return make_marked(op, STFS_PICKLE_LIST);
	case '}': return make(op, STFS_PICKLE_DICT, 0);
	case 'd': return make_marked(op, STFS_PICKLE_DICT);
	case 0x8f: return make(op, STFS_PICKLE_SET, 0);
	case 0x91: return make_marked(op, STFS_PICKLE_SET);
	case 'a': return fill(op, STFS_PICKLE_LIST, 1);
	case 'e': return fill_marked(op, STFS_PICKLE_LIST);
	case 's': return fill(op, STFS_PICKLE_DICT, 2);
	case 'u': return fill_marked(op, STFS_PICKLE_DICT);
	case 0x90: return fill_marked(op, STFS_PICKLE_SET);
	default: return -ENOENT;
	}
}
