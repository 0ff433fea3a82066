/* SPDX-License-Identifier: MIT */
/* Opening what the command line names. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "ops/extract.h"
#include "ops/near.h"
#include "ops/select.h"

struct stfs_model *stfs_cli_open(const char *path)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_model *model = NULL;
	int r = stfs_model_open(path, STFS_OPEN_TOLERANT, &model, &err);

	if (r == -EBADMSG)
		stfs_cli_say("%s; `stfs check` lists all that is wrong", err.message);
	else if (r < 0)
		stfs_cli_say("%s", err.message);
	else if (model->tolerated)
		stfs_cli_say("%s: the official loader refuses this model; shown is what can be "
			     "read all the same (`stfs check` says why)", path);
	return model;
}

uint32_t stfs_cli_find(const struct stfs_model *model, const char *name)
{
	STFS_AUTO_BUF struct stfs_buf near = STFS_BUF_INIT;
	uint32_t id = stfs_select_one(model, name), ids[STFS_NEAR_MAX];
	char quoted[STFS_QUOTED_MAX];
	struct stfs_tensor_ref ref;
	size_t count;

	if (id != STFS_NO_TENSOR)
		return id;
	count = stfs_near_tensors(model, stfs_str_from(name), ids);
	for (size_t i = 0; i < count; i++)
		if (stfs_model_tensor(model, ids[i], &ref))
			stfs_buf_printf(&near, "%s\"%s\"", i ? ", " : "",
					stfs_quote(ref.name, quoted));
	stfs_cli_say("%s: no tensor \"%s\"%s%s%s", model->resolved.path,
		     stfs_quote(stfs_str_from(name), quoted), count ? " (did you mean " : "",
		     count ? stfs_buf_cstr(&near) : "", count ? "?)" : "; `stfs ls` lists them");
	return STFS_NO_TENSOR;
}

static int open_output(const char *path, bool *made)
{
	int fd;

	*made = false;
	if (strcmp(path, "-") == 0)
		return fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, 0666);
	*made = fd >= 0;
	/* One that is there is cut short only once it is known not to be the model. */
	return fd >= 0 || errno != EEXIST ? fd
					  : open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY, 0666);
}

/* Whether the disk has room for `len` bytes in this file; says so with both numbers when not. */
static bool has_room(int fd, const char *path, uint64_t len)
{
	struct statvfs fs;
	struct stat st;
	uint64_t free_bytes;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || fstatvfs(fd, &fs) < 0)
		return true;
	free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize + (uint64_t)st.st_blocks * 512;
	if (len <= free_bytes)
		return true;
	stfs_cli_say("%s: needs %" PRIu64 " bytes, the disk has room for %" PRIu64, path, len, free_bytes);
	return false;
}

int stfs_cli_create(const struct stfs_model *model, const char *path, uint64_t len, bool *made)
{
	STFS_AUTO_FD int fd = open_output(path, made);
	bool is_stdout = strcmp(path, "-") == 0, good = false;

	if (fd < 0)
		stfs_cli_say("%s: %s", path, strerror(errno));
	else if (stfs_extract_is_source(model, fd))
		stfs_cli_say("%s: is the model itself", is_stdout ? "standard output" : path);
	else if (is_stdout)
		good = true;
	else if (has_room(fd, path, len)) {
		good = ftruncate(fd, 0) == 0 || errno == EINVAL; /* EINVAL: a pipe */
		if (!good)
			stfs_cli_say("%s: %s", path, strerror(errno));
	}
	if (good)
		return stfs_steal_fd(&fd);
	if (*made)
		unlink(path);
	return -1;
}
