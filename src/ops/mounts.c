/* SPDX-License-Identifier: MIT */
#include "ops/mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <limits.h>
#include <sys/statfs.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/io.h"

/* More than a daemon has to say. */
#define STATUS_MAX (4u << 20)

static void free_mount(struct stfs_mount *mount)
{
	free(mount->device);
	free(mount->point);
	free(mount->options);
	free(mount->type);
	free(mount->source);
}

void stfs_mounts_free(struct stfs_mounts *mounts)
{
	for (size_t i = 0; i < mounts->count; i++)
		free_mount(&mounts->items[i]);
	free(mounts->items);
	*mounts = (struct stfs_mounts){0};
}

/* The kernel writes space, tab, newline, '#' and backslash as \ooo (proc(5), mangle_path). */
static char *unescape(const char *field)
{
	char *text = strdup(field), *out = text;

	for (const char *in = text; text && *in; out++) {
		if (in[0] == '\\' && in[1] >= '0' && in[1] <= '3' && in[2] >= '0' && in[2] <= '7' &&
		    in[3] >= '0' && in[3] <= '7') {
			*out = (char)((in[1] - '0') << 6 | (in[2] - '0') << 3 | (in[3] - '0'));
			in += 4;
		} else {
			*out = *in++;
		}
	}
	if (text)
		*out = '\0';
	return text;
}

/*
 * proc(5), mountinfo: id, parent, device, root, point, options, optional fields, "-", type, source,
 * super options. Returns 1 when the line was understood, 0 when not, -ENOMEM.
 */
static int parse_line(char *line, struct stfs_mount *mount)
{
	char *save = NULL, *fields[6], *type, *source = NULL, *word = strtok_r(line, " \n", &save);

	for (int i = 0; i < 6; i++, word = strtok_r(NULL, " \n", &save)) {
		if (!word)
			return 0;
		fields[i] = word;
	}
	while (word && strcmp(word, "-") != 0)
		word = strtok_r(NULL, " \n", &save);
	type = word ? strtok_r(NULL, " \n", &save) : NULL;
	source = type ? strtok_r(NULL, " \n", &save) : NULL;
	if (!source)
		return 0;
	*mount = (struct stfs_mount){
		.device = strdup(fields[2]),
		.point = unescape(fields[4]),
		.options = strdup(fields[5]),
		.type = unescape(type),
		.source = unescape(source),
	};
	if (mount->device && mount->point && mount->options && mount->type && mount->source)
		return 1;
	free_mount(mount);
	return -ENOMEM;
}

int stfs_mounts_read(struct stfs_mounts *mounts)
{
	STFS_AUTO_FILE FILE *table = fopen("/proc/self/mountinfo", "re");
	STFS_AUTO_FREE char *line = NULL;
	struct stfs_mount *items, found;
	size_t cap = 0;
	int r = 0;

	*mounts = (struct stfs_mounts){0};
	if (!table)
		return -errno;
	while (r >= 0 && getline(&line, &cap, table) > 0) {
		r = parse_line(line, &found);
		if (r <= 0)
			continue;
		items = reallocarray(mounts->items, mounts->count + 1, sizeof(*items));
		if (!items) {
			free_mount(&found);
			return -ENOMEM;
		}
		mounts->items = items;
		items[mounts->count++] = found;
	}
	return r < 0 ? r : ferror(table) ? -EIO : 0;
}

const struct stfs_mount *stfs_mounts_find(const struct stfs_mounts *mounts, const char *point)
{
	for (size_t i = mounts->count; i > 0; i--)
		if (strcmp(mounts->items[i - 1].point, point) == 0)
			return &mounts->items[i - 1];
	return NULL;
}

bool stfs_mounts_has_device(const struct stfs_mounts *mounts, const char *device)
{
	for (size_t i = 0; i < mounts->count; i++)
		if (strcmp(mounts->items[i].device, device) == 0)
			return true;
	return false;
}

bool stfs_mount_is_ours(const struct stfs_mount *mount)
{
	return strcmp(mount->type, STFS_MOUNT_TYPE) == 0;
}

bool stfs_mount_is_dead(const struct stfs_mount *mount)
{
	struct statfs ignored;

	/* statfs(2) always asks the daemon; stat(2) may be answered from the kernel's cache. */
	return strncmp(mount->type, "fuse", 4) == 0 && statfs(mount->point, &ignored) < 0 &&
	       (errno == ENOTCONN || errno == ECONNABORTED);
}

char *stfs_mount_path(const char *path)
{
	STFS_AUTO_FREE char *copy = NULL, *folder = NULL;
	char *whole = realpath(path, NULL), *name;
	size_t len = strlen(path);

	if (whole || errno == ENOENT || errno == ENOMEM)
		return whole;
	/* A dead mount, or one of another user, cannot be looked at: resolve what it stands in. */
	while (len > 1 && path[len - 1] == '/')
		len--;
	copy = strndup(path, len);
	name = copy ? strrchr(copy, '/') : NULL;
	if (name)
		*name++ = '\0';
	folder = copy ? realpath(name ? (*copy ? copy : "/") : ".", NULL) : NULL;
	if (!folder)
		return NULL;
	if (asprintf(&whole, "%s/%s", strcmp(folder, "/") == 0 ? "" : folder, name ? name : copy) < 0)
		return NULL;
	return whole;
}

/* All of a file whose size is not told beforehand. 0 or -errno. */
static int read_all(int fd, struct stfs_buf *text)
{
	ssize_t got = 1;
	int r = 0;

	while (r == 0 && got > 0 && text->len < STATUS_MAX) {
		r = stfs_buf_reserve(text, 64 * 1024);
		if (r < 0)
			break;
		got = stfs_io_pread_full(fd, text->data + text->len, 64 * 1024, text->len);
		if (got < 0)
			r = (int)got;
		else
			text->len += (size_t)got;
	}
	return r;
}

int stfs_mount_status(const struct stfs_mount *mount, struct json_object **status)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	STFS_AUTO_FREE char *path = NULL;
	STFS_AUTO_FD int fd = -1;
	const char *terminated;
	int r;

	*status = NULL;
	if (asprintf(&path, "%s/.stfs", mount->point) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return -errno;
	r = read_all(fd, &text);
	if (r < 0)
		return r;
	terminated = stfs_buf_cstr(&text);
	if (!terminated)
		return -ENOMEM;
	*status = json_tokener_parse(terminated);
	if (json_object_is_type(*status, json_type_object))
		return 0;
	json_object_put(*status);
	*status = NULL;
	return -EBADMSG;
}
