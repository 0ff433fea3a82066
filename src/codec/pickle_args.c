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

int stfs_pickle_arg_bytes(struct stfs_pickle_op *op, uint64_t len, uint32_t *pos)
{
	if (len > STFS_PICKLE_MAX)
		return stfs_pickle_fail(op, "an argument of %llu bytes; at most %u are read",
					(unsigned long long)len, STFS_PICKLE_MAX);
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

	if (!end)
		return ended(op);
	*line = stfs_str_slice(from, (size_t)(end - from));
	op->pos += (uint32_t)line->len + 1;
	return 0;
}
