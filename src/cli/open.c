/* SPDX-License-Identifier: MIT */
/* Opening what the command line names. */
#include <errno.h>
#include <fcntl.h>

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

int stfs_cli_create(const struct stfs_model *model, const char *path)
{
	STFS_AUTO_FD int fd = -1;

	if (strcmp(path, "-") == 0)
		fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
	else /* cut short only once it is known not to be the model */
		fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY, 0666);
	if (fd < 0) {
		stfs_cli_say("%s: %s", path, strerror(errno));
		return -1;
	}
	if (stfs_extract_is_source(model, fd)) {
		stfs_cli_say("%s: is the model itself",
			     strcmp(path, "-") == 0 ? "standard output" : path);
		return -1;
	}
	/* EINVAL: a pipe. */
	if (strcmp(path, "-") != 0 && ftruncate(fd, 0) < 0 && errno != EINVAL) {
		stfs_cli_say("%s: %s", path, strerror(errno));
		return -1;
	}
	return stfs_steal_fd(&fd);
}
