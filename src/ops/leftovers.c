/* SPDX-License-Identifier: MIT */
#include "ops/leftovers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "ops/ask.h"
#include "store/edit.h"

/* As store/rescue.h names it: ".NAME" and this; a NAME that is too long is cut, a hash behind it. */
#define RESCUE ".stfs-rescue"
#define HASH 17 /* "~" and 16 digits */

/* What the child says; two paths follow, each ended by NUL, the second empty when there is none. */
struct answer {
	dev_t dev;
	ino_t ino;
	bool journal;
};

void stfs_leftovers_free(struct stfs_leftovers *found)
{
	free(found->model);
	free(found->rescue);
	*found = (struct stfs_leftovers){0};
}

bool stfs_leftovers_rescued(const struct stfs_leftovers *before, const struct stfs_leftovers *now)
{
	return now->rescue && !(before->rescue && before->rescue_dev == now->rescue_dev &&
				before->rescue_ino == now->rescue_ino);
}

/* ---- In the child ---- */

/* The file `name` of an open folder, of which every link is followed: malloc'ed, or NULL with errno. */
static char *path_in(int folder_fd, const char *name)
{
	STFS_AUTO_FREE char *folder = NULL;
	char proc[64], *path = NULL;

	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", folder_fd);
	folder = realpath(proc, NULL);
	if (!folder || asprintf(&path, "%s/%s", strcmp(folder, "/") == 0 ? "" : folder, name) < 0)
		return NULL;
	return path;
}

/* The model's file or index; of one that is not there (yet), where it would be. As path_in(). */
static char *find_model(const char *path)
{
	STFS_AUTO_FREE char *linked = NULL, *name = NULL;
	STFS_AUTO_FD int folder_fd = -1;
	struct stfs_resolved resolved;

	if (stfs_resolve(path, &resolved, NULL) == 0) {
		linked = path_in(resolved.folder_fd, resolved.name);
		stfs_resolved_free(&resolved);
		return linked ? realpath(linked, NULL) : NULL;
	}
	if (stfs_resolve_place(path, &folder_fd, &name, NULL) < 0)
		return NULL;
	return path_in(folder_fd, name);
}

static bool is_rescue_of(struct stfs_str file, struct stfs_str model)
{
	if (file.len <= 1 + strlen(RESCUE) || file.ptr[0] != '.' || !stfs_str_ends_with(file, RESCUE))
		return false;
	file = stfs_str_slice(file.ptr + 1, file.len - 1 - strlen(RESCUE));
	if (stfs_str_equal(file, model))
		return true;
	return file.len > HASH && file.len - HASH < model.len && file.ptr[file.len - HASH] == '~' &&
	       memcmp(file.ptr, model.ptr, file.len - HASH) == 0;
}

static void close_dir(DIR **dir)
{
	if (*dir)
		closedir(*dir);
}

/* The name of the model's rescue file: malloc'ed, empty when there is none; NULL with errno. */
static char *find_rescue(const char *folder, const char *model)
{
	STFS_CLEANUP(close_dir) DIR *dir = opendir(folder);
	struct dirent *entry;

	while (dir && (errno = 0, entry = readdir(dir)))
		if (is_rescue_of(stfs_str_from(entry->d_name), stfs_str_from(model)))
			return strdup(entry->d_name);
	return dir && errno == 0 ? strdup("") : NULL;
}

static int say(const struct answer *answer, const char *model, const char *rescue, int out)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;

	stfs_buf_add(&text, answer, sizeof(*answer));
	stfs_buf_add(&text, model, strlen(model) + 1);
	stfs_buf_add(&text, rescue, strlen(rescue) + 1);
	if (stfs_buf_status(&text) < 0)
		return -ENOMEM;
	/* Less than a pipe holds. */
	return write(out, text.data, text.len) == (ssize_t)text.len ? 0 : -EIO;
}

static int question_look(const void *path, int out)
{
	STFS_AUTO_FREE char *model = find_model(path), *rescue = NULL, *folder = NULL, *whole = NULL;
	STFS_AUTO_FD int folder_fd = -1;
	struct answer answer = {0};
	const char *name;
	struct stat st;

	if (!model)
		return errno ? -errno : -ENOMEM;
	name = strrchr(model, '/') + 1;
	folder = strndup(model, (size_t)(name - model));
	folder_fd = folder ? open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
	if (folder_fd < 0)
		return -errno;
	rescue = find_rescue(folder, name);
	if (!rescue)
		return -errno;
	answer.journal = stfs_commit_interrupted(folder_fd, name) > 0;
	if (*rescue && fstatat(folder_fd, rescue, &st, AT_SYMLINK_NOFOLLOW) == 0) {
		answer.dev = st.st_dev;
		answer.ino = st.st_ino;
		if (asprintf(&whole, "%s%s", folder, rescue) < 0)
			return -ENOMEM;
	}
	return say(&answer, model, whole ? whole : "", out);
}

/* ---- Asking ---- */

static int take(const struct stfs_buf *said, struct stfs_leftovers *found)
{
	const char *model = said->data + sizeof(struct answer), *rescue;
	struct answer answer;

	if (said->len < sizeof(answer) + 2)
		return -EIO;
	memcpy(&answer, said->data, sizeof(answer));
	rescue = model + strlen(model) + 1;
	found->model = strdup(model);
	found->rescue = *rescue ? strdup(rescue) : NULL;
	found->rescue_dev = answer.dev;
	found->rescue_ino = answer.ino;
	found->journal = answer.journal;
	return found->model && (found->rescue || !*rescue) ? 0 : -ENOMEM;
}

int stfs_leftovers_look(const char *path, struct stfs_leftovers *found)
{
	struct stfs_ask ask = {.question = question_look, .data = path};
	int r;

	*found = (struct stfs_leftovers){0};
	stfs_ask(&ask, 1);
	r = ask.result < 0 ? ask.result : take(&ask.answer, found);
	stfs_buf_free(&ask.answer);
	return r;
}
