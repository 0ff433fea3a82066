/* SPDX-License-Identifier: MIT */
#include "fs/fortran.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/cleanup.h"

#define PIECE ((size_t)4 << 20)

/* Copies the array, without the header, to a new file, which nobody else writes to: it lies in one piece. */
static int gather(struct stfs_fs *fs, const struct stfs_npy *npy, uint32_t from, uint32_t to, char *piece)
{
	ssize_t got;
	int r = 0;

	for (uint64_t at = 0; r == 0 && at < npy->data_len; at += (uint64_t)got) {
		stfs_tree_hold(fs->tree);
		got = stfs_tree_pread(fs->tree, from, piece, stfs_min_u64(PIECE, npy->data_len - at),
				      npy->header_len + at);
		stfs_tree_release(fs->tree);
		if (got <= 0)
			return got < 0 ? (int)got : -EIO;
		r = stfs_tree_write(fs->tree, to, piece, (size_t)got, at);
	}
	return r;
}

static int transpose(struct stfs_fs *fs, const struct stfs_npy *npy, const char *in, uint32_t to, char *piece)
{
	size_t item = stfs_dtype_info(npy->dtype)->bits / 8;
	uint64_t count = PIECE / item, left;
	int r = 0;

	for (uint64_t first = 0; r == 0 && first < npy->shape.elements; first += count) {
		left = stfs_min_u64(count, npy->shape.elements - first);
		stfs_npy_to_c(&npy->shape, item, in, first, left, piece);
		r = stfs_tree_write(fs->tree, to, piece, left * item, first * item);
	}
	return r;
}

/* Maps the bytes of the file, if they lie in one piece in the spool: nobody cuts that short. */
static int from_one_piece(struct stfs_fs *fs, const struct stfs_npy *npy, uint32_t from, uint64_t skip, uint32_t to,
			  char *piece)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), edge;
	struct stfs_place place;
	void *map;
	int r;

	stfs_tree_hold(fs->tree);
	r = stfs_tree_place(fs->tree, from, skip, npy->data_len, &place);
	stfs_tree_release(fs->tree);
	if (r < 0 || place.len < npy->data_len || place.fd < 0)
		return r < 0 ? r : -EAGAIN;
	edge = place.offset % page;
	map = mmap(NULL, place.len + edge, PROT_READ, MAP_SHARED, place.fd, (off_t)(place.offset - edge));
	if (map == MAP_FAILED)
		return -errno;
	r = transpose(fs, npy, (const char *)map + edge, to, piece);
	munmap(map, place.len + edge);
	return r;
}

static void drop(struct stfs_fs *fs, uint32_t node)
{
	stfs_tree_end_writing(fs->tree, node);
	stfs_tree_closed(fs->tree, node);
}

int stfs_fortran_to_c(struct stfs_fs *fs, const struct stfs_npy *npy, uint32_t from, uint32_t *to, struct stfs_err *err)
{
	STFS_AUTO_FREE char *piece = malloc(PIECE);
	uint32_t whole = STFS_NO_NUMBER;
	int r = piece ? stfs_tree_create_hidden(fs->tree, to) : -ENOMEM;

	if (r < 0)
		return r;
	if (npy->data_len)
		r = from_one_piece(fs, npy, from, npy->header_len, *to, piece);
	if (r == -EAGAIN) {
		r = stfs_tree_create_hidden(fs->tree, &whole);
		if (r == 0)
			r = gather(fs, npy, from, whole, piece);
		if (r == 0)
			r = from_one_piece(fs, npy, whole, 0, *to, piece);
		if (whole != STFS_NO_NUMBER)
			drop(fs, whole);
	}
	if (r < 0) {
		drop(fs, *to);
		return stfs_err_errno(err, r == -EAGAIN ? -EINVAL : r, "putting it into C order");
	}
	return 0;
}
