/* SPDX-License-Identifier: MIT */
/* Numbers as people read them. All append to `out`; its status tells of want of memory. */
#ifndef STFS_CLI_HUMAN_H
#define STFS_CLI_HUMAN_H

#include "base/buf.h"
#include "store/model.h"

/* "512 B", "1.5 KiB", "86.7 MiB"; with `exact` the plain number of bytes. */
void stfs_human_size(uint64_t bytes, bool exact, struct stfs_buf *out);
/* "22,713,728" */
void stfs_human_count(uint64_t number, struct stfs_buf *out);
/* "22.7 M" (thousand K, million M, billion B, trillion T); below a thousand the number. */
void stfs_human_amount(uint64_t number, struct stfs_buf *out);
/* "12.5%"; "<0.1%" where it would look like nothing */
void stfs_human_share(uint64_t part, uint64_t whole, struct stfs_buf *out);
/* "[2,3]" */
void stfs_human_shape(const struct stfs_tensor_ref *ref, struct stfs_buf *out);

#endif
