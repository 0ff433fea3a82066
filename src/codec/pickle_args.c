/* SPDX-License-Identifier: MIT */
/* The arguments of opcodes. */
#include <errno.h>

#include "codec/pickle_internal.h"

/* The bytes ended: more may come, or the pickle is cut off. */
static int ended(struct stfs_pickle_op *op)
{
	if (!op->pickle->complete)
		return -EAGAIN;
	return stfs_pickle_fail(op, "the pickle ends there, without its STOP");
}

/* A frame holds whole opcodes: `end` is behind an argument, or UINT64_MAX where it has none. */
static bool crosses_frame(const struct stfs_pickle_op *op, uint64_t end)
{
	return op->at < op->pickle->frame_end && end > op->pickle->frame_end;
}

static int crossed(struct stfs_pickle_op *op)
{
	return stfs_pickle_fail(op, "its argument crosses the end of its frame");
}

int stfs_pickle_arg_bytes(struct stfs_pickle_op *op, uint64_t len, uint32_t *pos)
{
	if (len > STFS_PICKLE_MAX)
		return stfs_pickle_fail(op, "an argument of %llu bytes; at most %u are read",
					(unsigned long long)len, STFS_PICKLE_MAX);
	if (crosses_frame(op, op->pos + len))
		return crossed(op);
	if (len > op->pickle->len - op->pos)
		return ended(op);
	*pos = op->pos;
	op->pos += (uint32_t)len;
	return 0;
}

int stfs_pickle_arg_number(struct stfs_pickle_op *op, unsigned bytes, uint64_t *number)
{
	uint32_t pos;
	int r = stfs_pickle_arg_bytes(op, bytes, &pos);

	*number = 0;
	for (unsigned i = 0; r == 0 && i < bytes; i++)
		*number |= (uint64_t)(unsigned char)op->pickle->data[pos + i] << 8 * i;
	return r;
}

int stfs_pickle_arg_line(struct stfs_pickle_op *op, struct stfs_str *line)
{
	const char *from = op->pickle->data + op->pos;
	const char *end = memchr(from, '\n', op->pickle->len - op->pos);

	if (crosses_frame(op, end ? (uint64_t)(end - op->pickle->data) + 1 : UINT64_MAX))
		return crossed(op);
	if (!end)
		return ended(op);
	*line = stfs_str_slice(from, (size_t)(end - from));
	op->pos += (uint32_t)line->len + 1;
	return 0;
}
