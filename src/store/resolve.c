/* SPDX-License-Identifier: MIT */
#include "store/resolve.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/natural.h"

void stfs_resolved_free(struct stfs_resolved *resolved)
{
	if (resolved->folder_fd >= 0)
		close(resolved->folder_fd);
	free(resolved->name);
	free(resolved->path);
	*resolved = (struct stfs_resolved){.folder_fd = -1};
}

/*
 * What a folder may hold, the better first: many hold the same model as checkpoints too, of which nobody wants
 * both.
 */
enum kind { KIND_INDEX, KIND_MODEL, KIND_CHECKPOINT_INDEX, KIND_CHECKPOINT };
#define KINDS 4

static const char *const endings[][5] = {
	[KIND_INDEX] = {".safetensors.index.json"},
	[KIND_MODEL] = {".safetensors"},
	[KIND_CHECKPOINT_INDEX] = {".bin.index.json"},
	[KIND_CHECKPOINT] = {".bin", ".pt", ".pth", ".ckpt"},
};

/* The kind that a file's name stands for; KINDS: none. */
static unsigned kind_of(const char *name)
{
	for (unsigned kind = 0; kind < KINDS; kind++)
		for (unsigned i = 0; i < 5 && endings[kind][i]; i++)
			if (stfs_str_ends_with(stfs_str_from(name), endings[kind][i]) && name[0] != '.')
				return kind;
	return KINDS;
}

static void close_dir(DIR **dir)
{
	if (*dir)
		closedir(*dir);
}

/* Candidates of a folder: how many of a kind, the first by natural order, all in a list. */
struct candidates {
	size_t count;
	char *first; /* owned */
	struct stfs_buf list;
};

static int add_candidate(struct candidates *c, const char *name)
{
	char *copy;

	if (c->count < 8)
		stfs_buf_printf(&c->list, "%s%s", c->count ? ", " : "", name);
	else if (c->count == 8)
		stfs_buf_puts(&c->list, ", ...");
	c->count++;
	if (c->first && stfs_natural_compare(stfs_str_from(c->first), stfs_str_from(name)) <= 0)
		return 0;
	copy = strdup(name);
	if (!copy)
		return -ENOMEM;
	free(c->first);
	c->first = copy;
	return 0;
}

static int scan(int folder_fd, struct candidates found[KINDS])
{
	STFS_CLEANUP(close_dir) DIR *dir = NULL;
	int fd = openat(folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct dirent *entry;
	int r = 0;

	if (fd < 0)
		return -errno;
	dir = fdopendir(fd);
	if (!dir) {
		r = -errno;
		close(fd);
		return r;
	}
	while (r == 0 && (errno = 0, entry = readdir(dir))) {
		unsigned kind = kind_of(entry->d_name);

		if (kind < KINDS)
			r = add_candidate(&found[kind], entry->d_name);
	}
	return r == 0 ? -errno : r;
}

static void free_candidates(struct candidates found[KINDS])
{
	for (unsigned kind = 0; kind < KINDS; kind++) {
		free(found[kind].first);
		stfs_buf_free(&found[kind].list);
	}
}

/* Picks the model of a folder: of the first kind that there is, its only file. */
static int pick(const char *path, struct stfs_resolved *resolved, struct stfs_err *err)
{
	struct candidates found[KINDS] = {0};
	int r = scan(resolved->folder_fd, found);
	unsigned kind = 0;

	while (kind < KINDS && found[kind].count == 0)
		kind++;
	if (r < 0) {
		r = stfs_err_errno(err, r, "%s", path);
	} else if (kind == KINDS) {
		r = stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "%s: no .safetensors file and no "
				 ".safetensors.index.json in this folder, nor a PyTorch checkpoint", path);
	} else if (found[kind].count == 1) {
		resolved->name = stfs_steal_ptr(&found[kind].first);
		resolved->is_index = kind == KIND_INDEX || kind == KIND_CHECKPOINT_INDEX;
	} else {
		static const char *const what[KINDS] = {"models", "files and no index", "checkpoints in parts",
							"checkpoints and no index"};
		const char *list = stfs_buf_cstr(&found[kind].list);

		r = stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "%s: holds %zu %s, name one of them: %s", path,
				 found[kind].count, what[kind], list ? list : "");
	}
	free_candidates(found);
	return r;
}

int stfs_resolve_place(const char *path, int *folder_fd, char **name, struct stfs_err *err)
{
	const char *slash = strrchr(path, '/');
	STFS_AUTO_FREE char *folder = NULL, *last = NULL;

	folder = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
	last = strdup(slash ? slash + 1 : path);
	if (!folder || !last)
		return stfs_err_errno(err, -ENOMEM, "%s", path);
	*folder_fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (*folder_fd < 0)
		return stfs_err_errno(err, -errno, "%s", folder);
	*name = stfs_steal_ptr(&last);
	return 0;
}

int stfs_resolve(const char *path, struct stfs_resolved *resolved, struct stfs_err *err)
{
	struct stat st;
	int r = 0;

	*resolved = (struct stfs_resolved){.folder_fd = -1};
	if (stat(path, &st) < 0)
		return stfs_err_errno(err, -errno, "%s", path);
	resolved->path = strdup(path);
	if (!resolved->path) {
		r = stfs_err_errno(err, -ENOMEM, "%s", path);
	} else if (S_ISDIR(st.st_mode)) {
		resolved->folder_fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
		r = resolved->folder_fd < 0 ? stfs_err_errno(err, -errno, "%s", path)
					    : pick(path, resolved, err);
	} else {
		r = stfs_resolve_place(path, &resolved->folder_fd, &resolved->name, NULL);
		if (r < 0)
			r = stfs_err_errno(err, r, "%s", path);
		else
			resolved->is_index = stfs_str_ends_with(stfs_str_from(path), ".json");
	}
	if (r < 0)
		stfs_resolved_free(resolved);
	return r;
}

/* Locks an open file: 0, -EBUSY, another -errno. */
static int lock(int fd, bool exclusive)
{
	if (flock(fd, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB) == 0)
		return 0;
	if (errno == EWOULDBLOCK)
		return -EBUSY;
	/* Where there are no locks a reader loses no more than a warning. */
	return exclusive ? -errno : 0;
}

static int open_once(int folder_fd, const char *name, unsigned how, int *fd, struct stat *st,
		     bool *irregular)
{
	const int flags = O_CLOEXEC | O_NOCTTY |
			  (how & STFS_OPEN_WRITE ? O_RDWR | O_NOFOLLOW : O_RDONLY);
	STFS_AUTO_FD int opened = -1;

	*irregular = false;
	/* O_NONBLOCK: a pipe in a file's place must not hang us. */
	opened = openat(folder_fd, name, flags | O_NONBLOCK);
	if (opened < 0 && errno == EWOULDBLOCK) {
		/*
		 * Of a file, it says that somebody holds a lease (fcntl(2), F_SETLEASE): opened
		 * again without the flag, the kernel has it broken. If a pipe took the file's place
		 * since fstatat we would wait for its writer; who can do that can do worse.
		 */
		if (fstatat(folder_fd, name, st, 0) < 0)
			return -errno;
		if (!S_ISREG(st->st_mode))
			return -EWOULDBLOCK;
		do
			opened = openat(folder_fd, name, flags);
		while (opened < 0 && errno == EINTR);
	}
	if (opened < 0 || fstat(opened, st) < 0)
		return -errno;
	if (S_ISDIR(st->st_mode))
		return -EISDIR;
	*irregular = !S_ISREG(st->st_mode);
	if (*irregular)
		return -EINVAL;
	*fd = stfs_steal_fd(&opened);
	return 0;
}

/* Tries for a file that others keep replacing. */
#define OPEN_TRIES 16

int stfs_resolve_open(int folder_fd, const char *name, unsigned flags, int *fd, struct stat *st,
		      bool *irregular)
{
	struct stat named;
	int r;

	for (int i = 0; i < OPEN_TRIES; i++) {
		r = open_once(folder_fd, name, flags, fd, st, irregular);
		if (r < 0 || !(flags & STFS_OPEN_LOCK))
			return r;
		r = lock(*fd, flags & STFS_OPEN_WRITE);
		/* Who held the lock before may have put another file in its place. */
		if (r == 0 && (fstat(*fd, st) < 0 || fstatat(folder_fd, name, &named, 0) < 0))
			r = -errno;
		if (r == 0 && named.st_ino == st->st_ino && named.st_dev == st->st_dev)
			return 0;
		close(*fd);
		*fd = -1;
		if (r < 0)
			return r;
	}
	return -EBUSY;
}
