/* SPDX-License-Identifier: MIT */
#include "ops/slurp.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "base/cleanup.h"

#define PIECE ((size_t)64 * 1024)

int stfs_slurp(const char *path, size_t max, struct stfs_buf *out, struct stfs_err *err)
{
	bool is_stdin = strcmp(path, "-") == 0;
	STFS_AUTO_FD int fd = is_stdin ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3)
				       : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	const char *name = is_stdin ? "standard input" : path;
	size_t begin = out->len;
	ssize_t got;

	if (fd < 0)
		return stfs_err_errno(err, -errno, "%s", name);
	for (;;) {
		if (stfs_buf_reserve(out, PIECE) < 0)
			return stfs_err_errno(err, -ENOMEM, "%s", name);
		got = read(fd, out->data + out->len, PIECE);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return stfs_err_errno(err, -errno, "%s", name);
		if (got == 0)
			return 0;
		out->len += (size_t)got;
		if (out->len - begin > max)
			return stfs_err_set(err, -EFBIG, STFS_NO_POSITION,
					    "%s: has more than %zu bytes", name, max);
	}
}
