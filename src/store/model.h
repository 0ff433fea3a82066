/* SPDX-License-Identifier: MIT */
/*
 * An open model: one file, or the shards of a sharded one, as a single set of tensors. The handle
 * that both front ends use.
 *
 * A tensor is known by its id: the number of its shard's first id plus its place in that shard's
 * header. Ids are dense and fixed while the model is open; some of them are not shown (incomplete
 * tensors of a truncated file, the loser where two shards hold one name).
 *
 * Invariants (tests: unit/test_store.c):
 *   M1  shown tensors have distinct names, and stfs_model_find() finds each (opens_a_file,
 *       shows_one_of_two_that_shards_hold, shows_one_of_three_that_shards_hold).
 *   M2  a shown tensor lies wholly within its file as it was when opened, or has STFS_NO_OFFSET
 *       (tolerates_what_is_complete_of_a_truncated_file, reads_a_checkpoint).
 *   M3  no file is open twice as two shards, and the texts of all headers together have at most
 *       STFS_HEADERS_MAX bytes (refuses_two_names_of_one_file, bounds_the_headers_together).
 */
#ifndef STFS_STORE_MODEL_H
#define STFS_STORE_MODEL_H

#include <sys/types.h>

#include "format/index.h"
#include "store/resolve.h"
#include "store/shard.h"

/* Memory is in proportion to the headers' texts, whichever the number of shards. */
#define STFS_HEADERS_MAX (4 * (uint64_t)STFS_HEADER_MAX)

/* Flags, beside STFS_OPEN_WRITE and STFS_OPEN_LOCK of store/resolve.h. */
enum {
	/* Also open what the official loader refuses but is unambiguous: holes, trailing bytes,
	 * the complete tensors of a truncated file. */
	STFS_OPEN_TOLERANT = 1 << 0,
	/* Open whatever it is, to speak about it (check, map): the caller looks at findings. */
	STFS_OPEN_JUDGE = 1 << 1,
	/* Map the files, for stfs_mapping_hold(). */
	STFS_OPEN_MAP = 1 << 2,
};

struct stfs_model {
	struct stfs_resolved resolved; /* owned */
	int index_fd; /* owned: of a sharded model that was opened for writing or locked, else -1 */
	struct stfs_shard *shards;     /* owned; at least one unless judged */
	uint32_t *first_id;            /* owned; shard_count + 1 of them */
	uint32_t shard_count;
	uint32_t shown;           /* tensors that are shown */
	uint64_t shown_bytes;     /* of their data */
	struct stfs_index index;  /* of a sharded model; its names until the shards are united */
	struct stfs_nametable by_name; /* owned: ids, of a sharded model; one a name */
	struct stfs_findings findings; /* about the index and the shards together */
	struct stfs_err unread;        /* code != 0: the path or the index could not be read */
	bool tolerated; /* opened only because of STFS_OPEN_TOLERANT */
};

/*
 * Opens the model at `path` (see store/resolve.h). 0; -EBADMSG when it is refused, `err` naming
 * file, rule and byte; another -errno. `err` (may be NULL) is filled whenever it fails. With
 * STFS_OPEN_JUDGE nothing about the model fails: only the want of memory or of random numbers.
 */
int stfs_model_open(const char *path, unsigned flags, struct stfs_model **model, struct stfs_err *err);
void stfs_model_close(struct stfs_model *model);

static inline bool stfs_model_is_sharded(const struct stfs_model *model)
{
	return model->resolved.is_index;
}

/* One more than the largest id. */
static inline uint32_t stfs_model_ids(const struct stfs_model *model)
{
	return model->first_id[model->shard_count];
}

/* Of a tensor whose bytes stand nowhere in its file as they are: stfs_model_pread() puts them together. */
#define STFS_NO_OFFSET UINT64_MAX

struct stfs_tensor_ref {
	struct stfs_shard *shard;
	const struct stfs_tensor *tensor;
	struct stfs_str name;
	const struct stfs_dtype_info *dtype;
	uint64_t offset; /* byte in the file, or STFS_NO_OFFSET */
	uint64_t len;
};

/* The tensor with this id: false when there is none, or it is not shown. */
bool stfs_model_tensor(const struct stfs_model *model, uint32_t id, struct stfs_tensor_ref *ref);

/* Id of the shown tensor `name`, or STFS_NO_TENSOR. */
uint32_t stfs_model_find(const struct stfs_model *model, struct stfs_str name);

/* The dimensions of a tensor, ref->tensor->rank of them: a malloc'ed array, or NULL. */
uint64_t *stfs_model_shape(const struct stfs_tensor_ref *ref);

/*
 * Ids of the shown tensors in natural order of their names: a malloc'ed array of model->shown, or
 * NULL for want of memory.
 */
uint32_t *stfs_model_sorted(const struct stfs_model *model);

/*
 * Reads up to `len` bytes at `offset` of a tensor. Bytes read, fewer only at the tensor's end;
 * -EIO when the file was cut short underneath, or deflated bytes of a checkpoint are damaged; -EFBIG for
 * a tensor of one that can only be imported; -errno. Whether the file is still the one that was
 * opened is the caller's to ask (stfs_shard_check). Any thread. Bytes without an offset are best read in
 * large pieces.
 */
ssize_t stfs_model_pread(const struct stfs_model *model, const struct stfs_tensor_ref *ref,
			 void *buffer, size_t len, uint64_t offset);

/*
 * Calls `each` with every pair of the model's metadata, in order; of a sharded model, that of the
 * first shard and then what the others add to it (the first to name a key wins). As
 * stfs_header_metadata().
 */
int stfs_model_metadata(const struct stfs_model *model,
			int (*each)(void *data, struct stfs_str key, struct stfs_str value),
			void *data);

enum stfs_interrupted {
	STFS_NOT_INTERRUPTED,
	STFS_INTERRUPTED,    /* a journal stands beside the model: stfs_recover() */
	STFS_JOURNAL_MISSING, /* a length word is poisoned, and there is none */
};

/* Whether a commit was interrupted, or is under way. Of a judged model, too. */
enum stfs_interrupted stfs_model_interrupted(const struct stfs_model *model);

/* Whether a file of the model is a PyTorch checkpoint: such are only read. */
bool stfs_model_has_checkpoint(const struct stfs_model *model);
/* Says so of the model `path`, and what to do. -EMEDIUMTYPE. */
int stfs_model_say_checkpoint(const char *path, struct stfs_err *err);

/* Whether any file of the model has a __metadata__. */
bool stfs_model_has_metadata(const struct stfs_model *model);

#endif
