/* SPDX-License-Identifier: MIT */
/*
 * A PyTorch checkpoint as a file of a model. It is shown as the safetensors file that would hold its
 * tensors: a header is made of their names, types and shapes, with the leaves as __metadata__, and read
 * like any other, so that whoever asks for names, shapes or metadata sees no difference. Only where
 * the bytes are is another matter (stfs_model_tensor, stfs_model_pread).
 *
 * Invariants (tests: unit/test_checkpoint.c):
 *   C1  tensor i of the checkpoint is tensor i of the header, which has nothing to be said against
 *       (reads_a_checkpoint).
 *   C2  no model with a checkpoint in it is open for writing, or for edits (is_never_opened_for_writing).
 */
#ifndef STFS_STORE_CHECKPOINT_H
#define STFS_STORE_CHECKPOINT_H

#include "codec/torch.h"
#include "store/shard.h"

/* Bytes at the beginning of a file by which its kind is known. */
#define STFS_CHECKPOINT_HEAD 512

/*
 * Whether a file that begins with these bytes (STFS_CHECKPOINT_HEAD, or all it has) is to be read as a
 * checkpoint: it looks like one and cannot be a safetensors file.
 */
bool stfs_checkpoint_is(const unsigned char *head, size_t len);

/*
 * Fills torch and header of a shard whose file is open and begins with `head`; what is wrong with it goes to
 * status and findings. It stays without either when the file is none after all: text that merely begins as a
 * pickle may. 0; -ENOMEM.
 */
int stfs_checkpoint_open(struct stfs_shard *shard, const unsigned char *head);
void stfs_checkpoint_close(struct stfs_shard *shard);

/* For stfs_shard_check(): 1 when the file is still what was read, 0, -errno. */
int stfs_checkpoint_same(const struct stfs_shard *shard);

/* The checkpoint's own tensor behind one of the shard's header. */
const struct stfs_torch_tensor *stfs_checkpoint_tensor(const struct stfs_shard *shard,
						       const struct stfs_tensor *tensor);
/* The byte of the file at which it begins; STFS_NO_OFFSET when its bytes do not stand there as they are. */
uint64_t stfs_checkpoint_offset(const struct stfs_shard *shard, const struct stfs_tensor *tensor);
/* Bytes within a tensor: 0 or -errno, as stfs_model_pread(). */
int stfs_checkpoint_read(struct stfs_shard *shard, const struct stfs_tensor *tensor, void *buffer, size_t len,
			 uint64_t offset);

#endif
