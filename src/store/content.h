/* SPDX-License-Identifier: MIT */
/*
 * The bytes of a file that are not (yet) the model's: a layer of blocks in the arena over what is under
 * it, another layer or the tensor in the model (the base). What a layer has counts; where it has
 * nothing, what is under it shows up to `under_len`; else there are zeros.
 *
 * The caller guards a chain of layers with a lock of its own: shared for what takes a const content and
 * for stfs_content_read(), exclusive for everything else.
 */
#ifndef STFS_STORE_CONTENT_H
#define STFS_STORE_CONTENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "store/arena.h"

struct stfs_content_page;

/* Byte p of the file lies in slot (p + skew) / STFS_ARENA_BLOCK of the table of blocks. */
struct stfs_content {
	uint64_t size;
	uint64_t under_len; /* at most size, and the size of what is under */
	uint64_t skew;      /* 0 unless stfs_content_cut_front(); then under_len is 0 */
	struct stfs_content *under; /* owned; frozen; NULL: the base */
	bool staged;        /* the caller's */
	bool frozen;        /* never changed again, but for settling it; set by the caller, and for `under` */

	/* ---- content.c alone ---- */
	bool ragged;        /* behind `size`, the last block may hold other bytes than zeros */
	struct stfs_arena *arena;
	struct stfs_content_page *pages; /* owned: the table, pages by number, only those that are needed */
	size_t page_count, page_cap;
	uint64_t held;      /* blocks in the table */
	uint64_t spare, spare_count; /* a run of blocks taken ahead; spare: behind the last one used */
	uint64_t ahead;     /* how many to take next */
};

/* Reads bytes of the base tensor, exactly: 0 or -errno. NULL will do where no base shows. */
struct stfs_base {
	int (*read)(void *data, void *buffer, size_t len, uint64_t offset);
	void *data;
};

enum stfs_run_kind { STFS_RUN_ZERO, STFS_RUN_ARENA, STFS_RUN_BASE };

struct stfs_run {
	enum stfs_run_kind kind;
	uint64_t offset; /* ARENA: in the arena's file; BASE: in the base tensor */
	uint64_t len;
};

/*
 * A layer of `size` bytes; takes ownership of `under` on success and freezes it. `under_len` is cut down to
 * `size` and the size of what is under. NULL when there is no memory.
 */
struct stfs_content *stfs_content_new(struct stfs_arena *arena, uint64_t size, uint64_t under_len,
				      struct stfs_content *under);
/* Gives back all blocks, and frees the chain under it. NULL does nothing. */
void stfs_content_free(struct stfs_content *content);
/* Gives back what was taken ahead, as when the file is closed. */
void stfs_content_settle(struct stfs_content *content);

/* ---- Reading ---- */

/*
 * What lies at `offset`, and how long it goes on in one piece (at most `most`; the next piece may be of the
 * same kind). At or behind the end: zeros, of length 0.
 */
void stfs_content_run(const struct stfs_content *content, uint64_t offset, uint64_t most,
		      struct stfs_run *run);
/* Exactly `len` bytes, all within the size (else -EINVAL). 0 or -errno. */
int stfs_content_read(const struct stfs_content *content, const struct stfs_base *base, void *buffer,
		      size_t len, uint64_t offset);
/* Blocks of the whole chain in units of 512 bytes, as st_blocks. */
uint64_t stfs_content_blocks(const struct stfs_content *content);

/* ---- Changing: 0 or -errno ---- */

/*
 * Grows the file when it ends behind it; a gap reads as zeros. -EFBIG past INT64_MAX; -ENOSPC, see
 * stfs_arena_take(). When it fails the size is as before, and so are all bytes but those that are written here.
 */
int stfs_content_write(struct stfs_content *content, const struct stfs_base *base, const void *bytes,
		       size_t len, uint64_t offset);
/* What is cut off reads as zeros should the file grow again. Shrinking does not fail. */
int stfs_content_resize(struct stfs_content *content, uint64_t size);
/* Within the size (else -EINVAL). Blocks are given back. */
int stfs_content_zero(struct stfs_content *content, const struct stfs_base *base, uint64_t offset,
		      uint64_t len);
/*
 * Copies up what shows through in all blocks of the range, so that what is under them is no longer needed.
 * The bytes stay the same.
 */
int stfs_content_fill(struct stfs_content *content, const struct stfs_base *base, uint64_t offset,
		      uint64_t len);
/* Takes bytes away from the front, at most all; under_len is 0. */
void stfs_content_cut_front(struct stfs_content *content, uint64_t bytes);

/* ---- Of this layer alone ---- */

/*
 * The next range at or behind `from` that this layer has (blocks, and zeros that hide what is under): at most 16 MiB,
 * to the end of a block or of the file. False when there is none.
 */
bool stfs_content_next(const struct stfs_content *content, uint64_t from, uint64_t *offset,
		       uint64_t *len);
/*
 * Gives back the blocks that lie in the range with all their bytes, so that what is under shows again: once it
 * holds the same bytes.
 */
void stfs_content_drop(struct stfs_content *content, uint64_t offset, uint64_t len);

#endif
