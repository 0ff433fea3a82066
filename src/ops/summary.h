/* SPDX-License-Identifier: MIT */
/* A model at a glance: what `info` tells. */
#ifndef STFS_OPS_SUMMARY_H
#define STFS_OPS_SUMMARY_H

#include "store/model.h"

#define STFS_SUMMARY_LARGEST 5

struct stfs_summary_part {
	uint32_t tensors;
	uint64_t elements, bytes; /* UINT64_MAX where a sum passes it */
};

struct stfs_summary {
	struct stfs_summary_part all; /* of the shown tensors */
	struct stfs_summary_part dtypes[STFS_DTYPE_COUNT];
	uint64_t file_bytes;   /* of all files */
	uint64_t header_bytes; /* length words and headers of all files, slack included */
	uint64_t slack;        /* spaces at the end of the headers */
	uint32_t alignment;    /* largest power of two, to 4096, that all data buffers begin at */
	uint32_t unaligned;    /* tensors that do not begin at a multiple of their element */
	uint32_t largest[STFS_SUMMARY_LARGEST]; /* ids, the largest first */
	uint32_t largest_count;
};

void stfs_summary_make(const struct stfs_model *model, struct stfs_summary *summary);

#endif
