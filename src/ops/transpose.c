/* SPDX-License-Identifier: MIT */
/*
 * A thread writes the array in C order, piece by piece, into a pipe from which the spool is filled:
 * the array takes room once, in the spool, and a piece of memory.
 */
#include "ops/transpose.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/cleanup.h"

#define PIECE ((size_t)4 << 20)

struct writer {
	const struct stfs_npy *npy;
	const char *in; /* the array, mapped */
	char *piece;    /* PIECE bytes */
	int fd;         /* owned: the pipe's end */
	int status;     /* -errno of the writing */
};

static int write_all(int fd, const char *bytes, size_t len)
{
	ssize_t put;

	while (len > 0) {
		put = write(fd, bytes, len);
		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return -errno;
		bytes += put;
		len -= (size_t)put;
	}
	return 0;
}

static void *write_pieces(void *data)
{
	struct writer *writer = data;
	const struct stfs_npy *npy = writer->npy;
	size_t item = stfs_dtype_info(npy->dtype)->bits / 8;
	uint64_t count = PIECE / item, left;
	sigset_t pipe;

	/* A spool that gives up early closes its end; that is told by write(2). */
	sigemptyset(&pipe);
	sigaddset(&pipe, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &pipe, NULL);
	for (uint64_t first = 0; writer->status == 0 && first < npy->shape.elements;
	     first += count) {
		left = stfs_min_u64(count, npy->shape.elements - first);
		stfs_npy_to_c(&npy->shape, item, writer->in, first, left, writer->piece);
		writer->status = write_all(writer->fd, writer->piece, left * item);
	}
	close(writer->fd);
	return NULL;
}

/* Runs the writer and fills the spool from it. */
static int spool(struct stfs_edit *edit, struct writer *writer, struct stfs_source *source,
		 struct stfs_err *err)
{
	uint64_t spooled = 0;
	pthread_t thread;
	int ends[2], r;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return stfs_err_errno(err, -errno, "putting it into C order");
	writer->fd = ends[1];
	r = pthread_create(&thread, NULL, write_pieces, writer);
	if (r != 0) {
		close(ends[0]);
		close(ends[1]);
		return stfs_err_errno(err, -r, "putting it into C order");
	}
	r = stfs_edit_spool(edit, ends[0], writer->npy->data_len, source, &spooled, err);
	close(ends[0]);
	pthread_join(thread, NULL);
	if (r == 0 && spooled != writer->npy->data_len)
		r = stfs_err_errno(err, writer->status ? writer->status : -EIO,
				   "putting it into C order");
	return r;
}

int stfs_transpose(struct stfs_edit *edit, const struct stfs_npy *npy, struct stfs_source *source,
		   struct stfs_err *err)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), edge = source->offset % page, len;
	struct writer writer = {.npy = npy};
	void *map;
	int r;

	if (stfs_add_overflows(npy->data_len, edge, &len) || len > SIZE_MAX)
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION,
				    "it is too large to be transposed");
	map = mmap(NULL, (size_t)len, PROT_READ, MAP_PRIVATE, source->fd,
		   (off_t)(source->offset - edge));
	if (map == MAP_FAILED)
		return stfs_err_errno(err, -errno, "mapping it to put it into C order");
	writer.in = (const char *)map + edge;
	writer.piece = malloc(PIECE);
	r = writer.piece ? spool(edit, &writer, source, err) : -ENOMEM;
	free(writer.piece);
	munmap(map, (size_t)len);
	return r;
}
