/* SPDX-License-Identifier: MIT */
/* The spool: bytes that are staged and have no file of their own, in one file without a name. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "store/edit_internal.h"

/*
 * Room is reserved in pieces of this while it is not known how much will come; growing with what
 * came.
 */
#define AHEAD (1ull << 20)
#define AHEAD_MOST (64ull << 20)
#define PIECE (1u << 20)

/* Beside the model: never in a /tmp that is too small. */
int stfs_edit_open_spool(struct stfs_edit *edit)
{
	if (edit->spool >= 0)
		return 0;
	edit->spool_end = STFS_SPOOL_HEADER;
	edit->spool = stfs_arena_make_file(edit->folder_fd, edit->name, ".stfs-spool", &edit->spool_name);
	return edit->spool < 0 ? edit->spool : 0;
}

int stfs_edit_name_spool(struct stfs_edit *edit, int folder_fd, const char *name)
{
	int r;

	if (!edit->spool_name)
		return stfs_io->link_fd(edit->spool, folder_fd, name) < 0 ? -errno : 0;
	r = stfs_io_rename(edit->folder_fd, edit->spool_name, name, 1 /* RENAME_NOREPLACE */);
	if (r == 0)
		free(stfs_steal_ptr(&edit->spool_name));
	return r;
}

void stfs_edit_lend_spool(struct stfs_edit *edit, int fd, uint64_t end)
{
	assert(edit->spool < 0 || edit->spool_lent);
	edit->spool_lent = true;
	edit->spool = fd;
	edit->spool_end = end;
}

void stfs_edit_close_spool(struct stfs_edit *edit)
{
	if (edit->spool_lent)
		return;
	if (edit->spool_name)
		(void)stfs_io_unlink(edit->folder_fd, edit->spool_name);
	free(stfs_steal_ptr(&edit->spool_name));
	if (edit->spool >= 0)
		close(stfs_steal_fd(&edit->spool));
	edit->spool_end = 0;
}

/* Where bytes come from: a stream (at < 0), a place in a file, or a tensor that is put together. */
struct input {
	int fd;
	off_t at;
	const struct stfs_model *model;
	const struct stfs_tensor_ref *ref; /* or NULL */
};

/* Reads from a stream until the piece is full or the end. Bytes or -errno. */
static ssize_t read_full(int fd, char *piece, size_t want)
{
	size_t done = 0;
	ssize_t got;

	while (done < want) {
		got = read(fd, piece + done, want - done);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		done += (size_t)got;
	}
	return (ssize_t)done;
}

/* Up to `want` bytes behind the first `taken`: as many, fewer at the end, or -errno. */
static ssize_t read_input(const struct input *input, char *piece, size_t want, uint64_t taken)
{
	if (input->ref)
		return stfs_model_pread(input->model, input->ref, piece, want, taken);
	return input->at < 0 ? read_full(input->fd, piece, want)
			     : stfs_io_pread_full(input->fd, piece, want, (uint64_t)input->at + taken);
}

static int take_in(struct stfs_edit *edit, struct input input, uint64_t len, char *piece,
		   uint64_t *taken)
{
	uint64_t reserved = 0;
	size_t want;
	ssize_t got;
	int r = 0;

	while (r == 0 && *taken < len) {
		if (*taken == reserved) {
			reserved += len == UINT64_MAX ? stfs_min_u64(AHEAD + *taken, AHEAD_MOST) : len;
			r = stfs_io_reserve(edit->spool, edit->spool_end + *taken, reserved - *taken);
			if (r < 0)
				break;
		}
		want = stfs_min_u64(PIECE, stfs_min_u64(len, reserved) - *taken);
		got = read_input(&input, piece, want, *taken);
		if (got < 0)
			return (int)got;
		if (got == 0)
			return len == UINT64_MAX ? 0 : -ENODATA;
		r = stfs_io_write(edit->spool, piece, (size_t)got, edit->spool_end + *taken);
		*taken += (uint64_t)got;
	}
	return r;
}

static int spool(struct stfs_edit *edit, struct input input, uint64_t len, struct stfs_source *source,
		 uint64_t *spooled, struct stfs_err *err)
{
	STFS_AUTO_FREE char *piece = malloc(PIECE);
	uint64_t taken = 0;
	int r = piece ? 0 : -ENOMEM;

	if (r == 0)
		r = stfs_edit_open_spool(edit);
	if (r == 0)
		r = take_in(edit, input, len, piece, &taken);
	if (r == -ENODATA)
		return stfs_err_set(err, r, STFS_NO_POSITION, "the input ends after %llu bytes, "
				    "%llu were expected", (unsigned long long)taken,
				    (unsigned long long)len);
	if (r == -ENOSPC)
		return stfs_err_set(err, r, STFS_NO_POSITION, "%s: no room beside the model for "
				    "what is read (%llu bytes so far)", edit->path,
				    (unsigned long long)taken);
	if (r < 0)
		return stfs_err_errno(err, r, "%s: spooling beside the model", edit->path);
	*source = (struct stfs_source){.fd = edit->spool, .offset = edit->spool_end};
	*spooled = taken;
	edit->spool_end = stfs_align_up(edit->spool_end + taken, 4096);
	/* What was reserved beyond it is given back. */
	r = stfs_io_truncate(edit->spool, edit->spool_end);
	return r < 0 ? stfs_err_errno(err, r, "%s: spooling beside the model", edit->path) : 0;
}

int stfs_edit_spool(struct stfs_edit *edit, int fd, uint64_t len, struct stfs_source *source,
		    uint64_t *spooled, struct stfs_err *err)
{
	return spool(edit, (struct input){.fd = fd, .at = -1}, len, source, spooled, err);
}

int stfs_edit_spool_tensor(struct stfs_edit *edit, const struct stfs_model *model,
			   const struct stfs_tensor_ref *ref, struct stfs_source *source, struct stfs_err *err)
{
	uint64_t spooled;

	return spool(edit, (struct input){.model = model, .ref = ref}, ref->len, source, &spooled, err);
}

int stfs_edit_spool_range(struct stfs_edit *edit, struct stfs_source from, uint64_t len,
			  struct stfs_source *source, uint64_t *spooled, struct stfs_err *err)
{
	return spool(edit, (struct input){.fd = from.fd, .at = (off_t)from.offset}, len, source, spooled, err);
}
