/* SPDX-License-Identifier: MIT */
/* What the parts of the pickle machine share. */
#ifndef STFS_CODEC_PICKLE_INTERNAL_H
#define STFS_CODEC_PICKLE_INTERNAL_H

#include "codec/pickle.h"

/* One opcode that is being done. */
struct stfs_pickle_op {
	struct stfs_pickle *pickle;
	struct stfs_err *err;
	uint32_t at;  /* of the opcode */
	uint32_t pos; /* behind what was read of its arguments; taken over when it is done */
};

/* -EBADMSG with a message that names the byte. */
int stfs_pickle_fail(struct stfs_pickle_op *op, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/*
 * Arguments (pickle_args.c): 0, -EAGAIN when they are not all here, or -EBADMSG. None changes
 * anything but op->pos.
 */
int stfs_pickle_arg_bytes(struct stfs_pickle_op *op, uint64_t len, uint32_t *pos);
/* An unsigned little-endian number of 1, 2, 4 or 8 bytes. */
int stfs_pickle_arg_number(struct stfs_pickle_op *op, unsigned bytes, uint64_t *number);
/* A line without its newline. */
int stfs_pickle_arg_line(struct stfs_pickle_op *op, struct stfs_str *line);

/* Pushes a new value of the opcode. */
int stfs_pickle_push(struct stfs_pickle_op *op, struct stfs_pickle_value value);

/* Opcodes that push a number or text (pickle_scalars.c); -ENOENT: it is none of them. */
int stfs_pickle_scalar(struct stfs_pickle_op *op, unsigned char opcode);

/* Opcodes that make or fill containers (pickle_containers.c); -ENOENT: it is none of them. */
int stfs_pickle_container(struct stfs_pickle_op *op, unsigned char opcode);

/* Opcodes that name globals, call them or build on them (pickle_calls.c); -ENOENT: none of them. */
int stfs_pickle_calling(struct stfs_pickle_op *op, unsigned char opcode);

/* ---- The stack (pickle.c) ---- */

/* Items above the last mark, or all where there is none. */
size_t stfs_pickle_height(const struct stfs_pickle *pickle);
/* -EBADMSG unless `count` items stand above the last mark. */
int stfs_pickle_want(struct stfs_pickle_op *op, size_t count);
/* The item `down` from the top; the caller has asked for it with stfs_pickle_want(). */
static inline uint32_t stfs_pickle_top(const struct stfs_pickle *pickle, size_t down)
{
	return pickle->stack[pickle->stack_count - 1 - down];
}
/* Takes the last mark away: *items above it are then to be dropped by the caller. -EBADMSG without one. */
int stfs_pickle_unmark(struct stfs_pickle_op *op, uint32_t *items);

/* Appends the top `count` items of the stack to `links` and drops them. */
int stfs_pickle_link(struct stfs_pickle_op *op, uint32_t count, uint32_t *first);
/* Adds the top `count` items of the stack to a list, and drops them. */
int stfs_pickle_extend(struct stfs_pickle_op *op, struct stfs_pickle_list *list, uint32_t count);
/* Replaces the top `count` items by a tuple of them. */
int stfs_pickle_tuple_of(struct stfs_pickle_op *op, uint32_t count);

#endif
