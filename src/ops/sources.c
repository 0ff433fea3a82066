/* SPDX-License-Identifier: MIT */
#include "ops/sources.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "ops/extract.h"

/* Whether the path is one of the files of the model that `target` changes. */
static bool is_target(const char *path, struct stfs_edit *target)
{
	const struct stfs_model *model = stfs_edit_model(target);
	struct stfs_resolved resolved;
	STFS_AUTO_FD int fd = -1;
	bool same;

	if (!model || stfs_resolve(path, &resolved, NULL) < 0)
		return false;
	fd = openat(resolved.folder_fd, resolved.name, O_PATH | O_CLOEXEC);
	same = fd >= 0 && stfs_extract_is_source(model, fd);
	stfs_resolved_free(&resolved);
	return same;
}

int stfs_sources_open(struct stfs_sources *sources, const char *path, struct stfs_edit *target,
		      struct stfs_tensors *source, struct stfs_err *err)
{
	struct stfs_source_model *items;
	int r;

	for (size_t i = 0; i < sources->count; i++) {
		if (strcmp(sources->items[i].path, path) != 0)
			continue;
		*source = (struct stfs_tensors){.model = sources->items[i].model};
		return 0;
	}
	if (is_target(path, target)) {
		*source = (struct stfs_tensors){.edit = target};
		return 0;
	}
	items = reallocarray(sources->items, sources->count + 1, sizeof(*items));
	if (!items)
		return stfs_err_errno(err, -ENOMEM, "%s", path);
	sources->items = items;
	items += sources->count;
	r = stfs_model_open(path, STFS_OPEN_TOLERANT | STFS_OPEN_LOCK, &items->model, err);
	if (r < 0)
		return r;
	items->path = strdup(path);
	if (!items->path) {
		stfs_model_close(items->model);
		return stfs_err_errno(err, -ENOMEM, "%s", path);
	}
	sources->count++;
	*source = (struct stfs_tensors){.model = items->model};
	return 0;
}

void stfs_sources_free(struct stfs_sources *sources)
{
	for (size_t i = 0; i < sources->count; i++) {
		stfs_model_close(sources->items[i].model);
		free(sources->items[i].path);
	}
	free(sources->items);
	*sources = (struct stfs_sources){0};
}

static bool looks_like_model(const char *word, size_t len)
{
	struct stfs_str path = stfs_str_slice(word, len);

	return stfs_str_ends_with(path, ".safetensors") ||
	       stfs_str_ends_with(path, ".index.json") || stfs_str_ends_with(path, "/");
}

int stfs_place_split(const char *word, char **model, const char **tensor)
{
	size_t len = strlen(word), cut = len;

	*tensor = NULL;
	*model = strdup(word);
	if (!*model)
		return -ENOMEM;
	while (cut > 0) {
		(*model)[cut] = '\0';
		if (access(*model, F_OK) == 0)
			break;
		do
			cut--;
		while (cut > 0 && word[cut] != ':');
	}
	if (cut == 0) {
		for (cut = len; cut > 0; cut--)
			if (word[cut] == ':' && looks_like_model(word, cut))
				break;
		/* A word that begins with it means the model that is being changed. */
		if (cut == 0 && word[0] != ':')
			cut = len;
		memcpy(*model, word, len);
	}
	(*model)[cut] = '\0';
	if (cut < len)
		*tensor = word + cut + 1;
	return 0;
}
