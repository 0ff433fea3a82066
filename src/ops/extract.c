/* SPDX-License-Identifier: MIT */
#include "ops/extract.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/sendfile.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/cleanup.h"

#define PIECE (1u << 20)
/* Of bytes that are put together: what they are made of is then read fewer times. */
#define PIECE_ASSEMBLED (16u << 20)
/* What Linux moves at most in one call (MAX_RW_COUNT), rounded down. */
#define CALL_MAX (1u << 30)

int stfs_sink_write(const struct stfs_sink *sink, const void *bytes, size_t len,
		    struct stfs_err *err)
{
	const char *at = bytes;
	ssize_t put;

	while (len > 0) {
		put = write(sink->fd, at, len);
		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0 && errno == EAGAIN) { /* somebody made our pipe non-blocking */
			poll(&(struct pollfd){.fd = sink->fd, .events = POLLOUT}, 1, -1);
			continue;
		}
		if (put < 0)
			return stfs_err_errno(err, -errno, "%s", sink->name);
		at += put;
		len -= (size_t)put;
	}
	return 0;
}

bool stfs_extract_is_source(const struct stfs_model *model, int fd)
{
	struct stat st, named;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return false;
	/* The index of a sharded model, whose shards follow. */
	if (fstatat(model->resolved.folder_fd, model->resolved.name, &named, 0) == 0 &&
	    named.st_dev == st.st_dev && named.st_ino == st.st_ino)
		return true;
	for (uint32_t i = 0; i < model->shard_count; i++)
		if (model->shards[i].st.st_dev == st.st_dev &&
		    model->shards[i].st.st_ino == st.st_ino)
			return true;
	return false;
}

static ssize_t by_copy_file_range(int out_fd, int in_fd, off_t *offset, size_t len)
{
	return copy_file_range(in_fd, offset, out_fd, NULL, len, 0);
}

/*
 * Inside the kernel, as far as that goes. Any failure, or no progress, leaves the rest to the next
 * way; the last of them meets the same error again and tells it.
 */
static uint64_t in_kernel(const struct stfs_tensor_ref *ref, int out_fd, uint64_t done,
			  ssize_t (*copy)(int, int, off_t *, size_t))
{
	off_t offset = (off_t)(ref->offset + done);
	ssize_t moved = ref->offset != STFS_NO_OFFSET;

	while (done < ref->len && moved > 0) {
		moved = copy(out_fd, ref->shard->fd, &offset,
			     stfs_min_u64(ref->len - done, CALL_MAX));
		if (moved > 0)
			done += (uint64_t)moved;
	}
	return done;
}

static int say_unread(const struct stfs_tensor_ref *ref, uint64_t at, int r, struct stfs_err *err)
{
	const char *file = ref->shard->name;
	char quoted[STFS_QUOTED_MAX];

	if (ref->offset == STFS_NO_OFFSET)
		stfs_quote(ref->name, quoted);
	if (r == -EFBIG)
		return stfs_err_set(err, r, STFS_NO_POSITION, "%s: tensor \"%s\" lies in strides in a storage that is "
				    "deflated and too large to be kept inflated; load the file with torch and "
				    "save it anew, which does not deflate", file, quoted);
	if (r == -EIO && ref->offset == STFS_NO_OFFSET)
		return stfs_err_set(err, r, STFS_NO_POSITION, "%s: tensor \"%s\" cannot be read: its deflated bytes are "
				    "damaged, the file is shorter than it was, or its disk fails", file, quoted);
	if (r == -EIO)
		return stfs_err_set(err, r, ref->offset + at, "%s: byte %" PRIu64 " cannot be read: the file is shorter "
				    "than it was, or its disk fails", file, ref->offset + at);
	return stfs_err_errno(err, r, "%s", file);
}

static int by_hand(const struct stfs_model *model, const struct stfs_tensor_ref *ref,
		   const struct stfs_sink *sink, uint64_t done, struct stfs_err *err)
{
	size_t size = ref->offset == STFS_NO_OFFSET ? PIECE_ASSEMBLED : PIECE;
	STFS_AUTO_FREE char *piece = NULL;
	ssize_t got;
	int r = 0;

	if (done == ref->len)
		return 0;
	size = stfs_min_u64(size, ref->len - done);
	piece = malloc(size);
	if (!piece)
		return stfs_err_errno(err, -ENOMEM, "%s", ref->shard->name);
	while (r == 0 && done < ref->len) {
		got = stfs_model_pread(model, ref, piece, size, done);
		if (got < 0)
			return say_unread(ref, done, (int)got, err);
		r = stfs_sink_write(sink, piece, (size_t)got, err);
		done += (uint64_t)got;
	}
	return r;
}

/* Whether the file is still what was opened: 0; 1 when its data was written to; -errno. */
static int check(const struct stfs_tensor_ref *ref, struct stfs_err *err)
{
	int r = stfs_shard_check(ref->shard);

	if (r == -ESTALE)
		return stfs_err_set(err, r, STFS_NO_POSITION,
				    "%s: another program changed the header meanwhile; the copy is "
				    "worthless", ref->shard->name);
	if (r < 0)
		return stfs_err_errno(err, r, "%s: cannot tell whether it has changed meanwhile",
				      ref->shard->name);
	return r;
}

int stfs_extract(const struct stfs_model *model, const struct stfs_tensor_ref *ref,
		 const struct stfs_sink *sink, struct stfs_err *err)
{
	uint64_t done = 0;
	int r = check(ref, err); /* data that was written before now is no matter */

	if (r < 0)
		return r;
	done = in_kernel(ref, sink->fd, done, by_copy_file_range);
	done = in_kernel(ref, sink->fd, done, sendfile);
	r = by_hand(model, ref, sink, done, err);
	if (r == 0)
		r = check(ref, err);
	if (r > 0)
		r = stfs_err_set(err, -EAGAIN, STFS_NO_POSITION,
				 "%s: another program wrote to the file during the copy, which may "
				 "be of old and new bytes: make it again", ref->shard->name);
	return r;
}
