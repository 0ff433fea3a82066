/* SPDX-License-Identifier: MIT */
/*
 * What can be said of a PyTorch checkpoint beyond its being read: globals that torch does not take, tensors
 * that no safetensors file holds, storages whose bytes are not those that were written. For `check`.
 */
#ifndef STFS_OPS_SCAN_H
#define STFS_OPS_SCAN_H

#include "codec/suspects.h"
#include "codec/torch.h"
#include "store/edit.h"
#include "store/shard.h"

/*
 * Deflated storages are inflated to be verified as long as together they have no more than this, and four
 * times the file; what is beyond is called unverified. Deflate makes a thousand bytes of one.
 */
#define STFS_SCAN_INFLATED_MAX (1ull << 30)

struct stfs_scan_options {
	bool fast; /* the bytes of storages are not read, and of a refused file not all are searched */
	struct stfs_progress progress;
};

/*
 * Puts into `findings`, which are empty, what there is to say of a shard: what its opening found, and more of a
 * checkpoint. Reads all its storages unless `fast`. 0; -ENOMEM; another -errno when a storage could not be read.
 */
int stfs_scan_make(const struct stfs_shard *shard, const struct stfs_scan_options *options,
		   struct stfs_findings *findings);

/*
 * Looks at a shard, whatever it is, for globals that others may meet in it (codec/suspects.h) and that its own list
 * lacks: all of a file that is refused as a checkpoint, or that is something else too; else next to nothing. Adds to
 * `findings` what else it is. The caller frees `suspects` in any case. 0; -ENOMEM; another -errno of reading.
 */
int stfs_scan_suspects(const struct stfs_shard *shard, const struct stfs_scan_options *options,
		       struct stfs_suspects *suspects, struct stfs_findings *findings);

struct stfs_scan_globals {
	size_t of_verdict[3]; /* indexed by enum stfs_global_verdict */
};
/* `torch` may be NULL. */
struct stfs_scan_globals stfs_scan_globals(const struct stfs_torch *torch, const struct stfs_suspects *suspects);

#endif
