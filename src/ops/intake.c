/* SPDX-License-Identifier: MIT */
#include "ops/intake.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "base/cleanup.h"
#include "ops/extract.h"

/* Files that stay open whatever their size. */
#define FREE_OPEN 64
/* Smaller ones than this are spooled when there are more. */
#define SPOOLED_BELOW (1u << 20)

/* Half of what the process may have open: the model, its spool and others need theirs. */
static size_t open_max(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY)
		return 4096;
	return (size_t)limit.rlim_cur / 2;
}

static int keep(struct stfs_intake *intake, int *fd)
{
	if (intake->count == intake->room) {
		size_t room = intake->room ? intake->room * 2 : 16;
		int *fds = reallocarray(intake->fds, room, sizeof(*fds));

		if (!fds)
			return -ENOMEM;
		intake->fds = fds;
		intake->room = room;
	}
	intake->fds[intake->count++] = stfs_steal_fd(fd);
	return 0;
}

static bool can_stay_open(struct stfs_intake *intake, struct stfs_edit *edit, int fd,
			  const struct stat *st)
{
	if (!S_ISREG(st->st_mode))
		return false;
	if (stfs_edit_model(edit) && stfs_extract_is_source(stfs_edit_model(edit), fd))
		return false;
	if (!intake->max)
		intake->max = open_max();
	if (intake->count >= intake->max)
		return false;
	return intake->count < FREE_OPEN || st->st_size >= SPOOLED_BELOW;
}

int stfs_intake_open(struct stfs_intake *intake, struct stfs_edit *edit, const char *path,
		     struct stfs_bytes *bytes, struct stfs_err *err)
{
	bool is_stdin = strcmp(path, "-") == 0;
	STFS_AUTO_FD int fd = is_stdin ? fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3)
				       : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	struct stat st;
	int r;

	if (fd < 0 || fstat(fd, &st) < 0)
		return stfs_err_errno(err, -errno, "%s", is_stdin ? "standard input" : path);
	if (S_ISDIR(st.st_mode))
		return stfs_err_errno(err, -EISDIR, "%s", path);
	if (!is_stdin && (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode)))
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "%s: is a device, which has no end to "
				    "be known", path);
	/* Standard input may stand anywhere in its file. */
	if (is_stdin || !can_stay_open(intake, edit, fd, &st))
		return stfs_edit_spool(edit, fd,
				       is_stdin || !S_ISREG(st.st_mode) ? UINT64_MAX
									: (uint64_t)st.st_size,
				       &bytes->source, &bytes->len, err);
	*bytes = (struct stfs_bytes){{.fd = fd, .offset = 0}, (uint64_t)st.st_size};
	r = keep(intake, &fd);
	return r < 0 ? stfs_err_errno(err, r, "%s", path) : 0;
}

void stfs_intake_free(struct stfs_intake *intake)
{
	for (size_t i = 0; i < intake->count; i++)
		close(intake->fds[i]);
	free(intake->fds);
	*intake = (struct stfs_intake){0};
}
