/* SPDX-License-Identifier: MIT */
/*
 * A file cut into what its bytes are for: what `map` draws. As far as the header could be read;
 * refused files have segments too.
 *
 * Invariant: the segments follow each other without a gap, the first at 0, the last ends at the end
 * of the file or, beyond it, at the end of the last tensor (test: mount/test_cli_map.py). Empty
 * tensors are segments of no bytes. In a checkpoint several tensors may show the same bytes: a byte is
 * the first one's that begins before it, and tensors without bytes of their own have no segment.
 */
#ifndef STFS_OPS_SEGMENTS_H
#define STFS_OPS_SEGMENTS_H

#include "store/shard.h"

enum stfs_segment_kind {
	STFS_SEGMENT_HEADER,   /* the length word and the JSON text */
	STFS_SEGMENT_SLACK,    /* the spaces behind it */
	STFS_SEGMENT_TENSOR,
	STFS_SEGMENT_CONTAINER, /* of a checkpoint: all that is no storage's, its pickles among it */
	STFS_SEGMENT_UNUSED,    /* of a storage in a checkpoint, and of no tensor */
	STFS_SEGMENT_HOLE,     /* between tensors, of none */
	STFS_SEGMENT_OVERLAP,  /* of two tensors */
	STFS_SEGMENT_TRAILING, /* behind the last tensor */
	STFS_SEGMENT_MISSING,  /* of a tensor, beyond the end of the file */
	STFS_SEGMENT_UNKNOWN,  /* the header could not be read, or not the entry that may own it */
};
#define STFS_SEGMENT_KINDS 10

struct stfs_segment {
	enum stfs_segment_kind kind;
	uint32_t tensor; /* index in the header; STFS_NO_TENSOR */
	uint64_t begin, end; /* bytes of the file */
};

struct stfs_segments {
	struct stfs_segment *items; /* owned */
	size_t count;
	uint64_t totals[STFS_SEGMENT_KINDS]; /* bytes of each kind */
};

/* Stable, for programs: "header", "slack", ... */
const char *stfs_segment_name(enum stfs_segment_kind kind);
/* Whether bytes of this kind should not be there. */
bool stfs_segment_is_fault(enum stfs_segment_kind kind);

/* 0 or -ENOMEM. */
int stfs_segments_make(const struct stfs_shard *shard, struct stfs_segments *segments);
void stfs_segments_free(struct stfs_segments *segments);

/* Byte at which the last ends. */
static inline uint64_t stfs_segments_end(const struct stfs_segments *segments)
{
	return segments->count ? segments->items[segments->count - 1].end : 0;
}

#endif
