/* SPDX-License-Identifier: MIT */
#include "base/io.h"

#include <errno.h>
#include <limits.h>
#include <sys/mman.h>
#include <unistd.h>

const struct stfs_io stfs_io_system = {.pread = pread, .mmap = mmap, .munmap = munmap};
const struct stfs_io *stfs_io = &stfs_io_system;

ssize_t stfs_io_pread_full(int fd, void *buffer, size_t len, uint64_t offset)
{
	size_t done = 0;
	ssize_t got;

	if (len > SSIZE_MAX || offset > (uint64_t)INT64_MAX - len)
		return -EOVERFLOW;
	while (done < len) {
		got = stfs_io->pread(fd, (char *)buffer + done, len - done, (off_t)(offset + done));
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
