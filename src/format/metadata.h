/* SPDX-License-Identifier: MIT */
/*
 * The text of __metadata__.json: the model's __metadata__, an object of strings, in the header's
 * order.
 */
#ifndef STFS_FORMAT_METADATA_H
#define STFS_FORMAT_METADATA_H

#include "format/header.h"

/*
 * A longer text is refused, for no header could hold it; more pairs too, which bounds the memory.
 */
#define STFS_METADATA_MAX STFS_HEADER_MAX
#define STFS_METADATA_PAIRS_MAX (1u << 20)

struct stfs_metadata {
	struct stfs_header_pair *pairs; /* owned array; in the order of the text */
	size_t count;
	struct stfs_buf strings; /* what the pairs point to */
};

/*
 * Reads what someone wrote to __metadata__.json. 0, with `metadata` to be freed and its pairs fit
 * for stfs_header_write(); -EBADMSG with `err` naming the key and the byte (it is no JSON, no
 * object, a value is no string, a key stands twice); -ENOMEM; another -errno when there are no
 * random numbers. Takes the text's bytes twice at the most, and some 80 a pair.
 */
int stfs_metadata_read(struct stfs_str text, struct stfs_metadata *metadata, struct stfs_err *err);
void stfs_metadata_free(struct stfs_metadata *metadata);

/* Appends the text of these pairs, a pair a line. 0 or -ENOMEM. */
int stfs_metadata_write(const struct stfs_header_pair *pairs, size_t count, struct stfs_buf *out);

#endif
