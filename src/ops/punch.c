/* SPDX-License-Identifier: MIT */
#include "ops/punch.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/io.h"

/* Bytes read at a time; a multiple of every block size. */
#define PIECE ((size_t)1 << 20)

/* Bytes of a file that belong to tensors, one behind the other. */
struct region {
	int fd; /* borrowed */
	uint64_t begin, end;
};

struct puncher {
	char *piece; /* owned; PIECE bytes */
	bool look_only;
	const struct stfs_progress *progress; /* may be NULL */
	uint64_t done, total;                 /* bytes looked at */
	uint64_t punched;
	int fd;
	uint64_t block;
	uint64_t run_begin, run_end; /* zeros found last, not yet deallocated; equal: none */
};

static int compare_regions(const void *left, const void *right)
{
	const struct region *a = left, *b = right;

	if (a->fd != b->fd)
		return a->fd < b->fd ? -1 : 1;
	return (a->begin > b->begin) - (a->begin < b->begin);
}

/* The tensors' bytes, neighbours joined: a malloc'ed array of *count, or NULL. */
static struct region *find_regions(struct stfs_edit *edit, size_t *count)
{
	struct stfs_edit_tensor tensor;
	struct region *regions = NULL;
	size_t tensors, kept = 0;

	if (stfs_edit_count(edit, &tensors) == 0)
		regions = calloc(tensors + 1, sizeof(*regions));
	for (size_t i = 0; regions && i < tensors; i++) {
		if (stfs_edit_tensor(edit, i, &tensor) < 0) {
			free(regions);
			return NULL;
		}
		regions[i] = (struct region){tensor.fd, tensor.offset, tensor.offset + tensor.len};
	}
	if (regions)
		qsort(regions, tensors, sizeof(*regions), compare_regions);
	for (size_t i = 0; regions && i < tensors; i++) {
		if (kept && regions[kept - 1].fd == regions[i].fd &&
		    regions[kept - 1].end == regions[i].begin)
			regions[kept - 1].end = regions[i].end;
		else
			regions[kept++] = regions[i];
	}
	*count = kept;
	return regions;
}

static int end_run(struct puncher *puncher)
{
	uint64_t begin = puncher->run_begin, len = puncher->run_end - begin;
	int r = 0;

	puncher->run_begin = puncher->run_end = 0;
	if (len == 0)
		return 0;
	if (!puncher->look_only)
		r = stfs_io_fallocate(puncher->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, begin, len);
	if (r == 0)
		puncher->punched += len;
	return r;
}

/* The whole blocks of [at, at + len), which `piece` holds. */
static int look(struct puncher *puncher, uint64_t at, size_t len)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i + puncher->block <= len; i += puncher->block) {
		if (!stfs_str_is_zeros(stfs_str_slice(puncher->piece + i, puncher->block))) {
			r = end_run(puncher);
			continue;
		}
		if (puncher->run_end != at + i) {
			r = end_run(puncher);
			puncher->run_begin = at + i;
		}
		puncher->run_end = at + i + puncher->block;
	}
	return r;
}

static void tell(struct puncher *puncher, uint64_t done)
{
	puncher->done += done;
	if (puncher->progress && puncher->progress->tell)
		puncher->progress->tell(puncher->progress->data, puncher->done, puncher->total);
}

/* The blocks of data between two block boundaries, those that are holes already passed over. */
static int search(struct puncher *puncher, uint64_t begin, uint64_t end)
{
	off_t data, hole;
	size_t len;
	ssize_t got;
	int r = 0;

	while (r == 0 && begin < end) {
		data = lseek(puncher->fd, (off_t)begin, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			break;
		/* What is looked at must begin on a block. */
		if (data > (off_t)begin &&
		    (uint64_t)data / puncher->block * puncher->block > begin) {
			data = (off_t)((uint64_t)data / puncher->block * puncher->block);
			tell(puncher, stfs_min_u64((uint64_t)data, end) - begin);
			begin = (uint64_t)data;
			continue;
		}
		hole = lseek(puncher->fd, (off_t)begin, SEEK_HOLE);
		len = stfs_min_u64(PIECE, end - begin);
		if (hole > (off_t)begin)
			len = stfs_min_u64(len,
					   stfs_align_up((uint64_t)hole - begin, puncher->block));
		got = stfs_io_pread_full(puncher->fd, puncher->piece, len, begin);
		if (got < 0 || (size_t)got < len)
			return got < 0 ? (int)got : -EIO;
		r = look(puncher, begin, len);
		tell(puncher, len);
		begin += len;
	}
	return r < 0 ? r : end_run(puncher);
}

static int punch_region(struct puncher *puncher, const struct region *region, struct stfs_err *err)
{
	uint64_t begin, end;
	struct stat st;
	int r;

	if (fstat(region->fd, &st) < 0)
		return stfs_err_errno(err, -errno, "a file of the model");
	puncher->fd = region->fd;
	puncher->block = st.st_blksize > 0 && (size_t)st.st_blksize <= PIECE &&
					 (st.st_blksize & (st.st_blksize - 1)) == 0
				 ? (uint64_t)st.st_blksize : 4096;
	begin = stfs_align_up(region->begin, puncher->block);
	end = region->end / puncher->block * puncher->block;
	r = begin < end ? search(puncher, begin, end) : 0;
	if (r == -EOPNOTSUPP)
		return stfs_err_set(err, r, STFS_NO_POSITION,
				    "this file system cannot deallocate parts of a file");
	return r < 0 ? stfs_err_errno(err, r, "deallocating zeros") : 0;
}

int stfs_punch_zeros(struct stfs_edit *edit, bool look_only, const struct stfs_progress *progress,
		     uint64_t *bytes, struct stfs_err *err)
{
	struct puncher puncher = {.look_only = look_only, .progress = progress, .fd = -1};
	STFS_AUTO_FREE struct region *regions = NULL;
	size_t count = 0;
	int r = 0;

	*bytes = 0;
	regions = find_regions(edit, &count);
	puncher.piece = malloc(PIECE);
	if (!regions || !puncher.piece)
		r = stfs_err_errno(err, -ENOMEM, "deallocating zeros");
	for (size_t i = 0; r == 0 && i < count; i++)
		puncher.total += regions[i].end - regions[i].begin;
	for (size_t i = 0; r == 0 && i < count; i++)
		r = punch_region(&puncher, &regions[i], err);
	free(puncher.piece);
	*bytes = puncher.punched;
	return r;
}
