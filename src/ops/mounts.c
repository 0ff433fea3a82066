/* SPDX-License-Identifier: MIT */
#include "ops/mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <sys/statfs.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "ops/ask.h"

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

/* The user_id= of a FUSE mount's options. */
static uid_t user_of(const char *super)
{
	const char *found = strstr(super, "user_id=");

	while (found && found > super && found[-1] != ',')
		found = strstr(found + 1, "user_id=");
	return found ? (uid_t)strtoul(found + strlen("user_id="), NULL, 10) : (uid_t)-1;
}

/*
 * proc(5), mountinfo: id, parent, device, root, point, options, optional fields, "-", type, source,
 * super options. Returns 1 when the line was understood, 0 when not, -ENOMEM.
 */
static int parse_line(char *line, struct stfs_mount *mount)
{
	char *save = NULL, *fields[6], *type, *source = NULL, *word = strtok_r(line, " \n", &save);
	const char *super;

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
	super = strtok_r(NULL, " \n", &save);
	*mount = (struct stfs_mount){
		.device = strdup(fields[2]),
		.point = unescape(fields[4]),
		.options = strdup(fields[5]),
		.type = unescape(type),
		.source = unescape(source),
		.user = user_of(super ? super : ""),
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

/* `point` as the table has it: absolute, without links. */
static const struct stfs_mount *find_point(const struct stfs_mounts *mounts, const char *point)
{
	for (size_t i = mounts->count; i > 0; i--)
		if (strcmp(mounts->items[i - 1].point, point) == 0)
			return &mounts->items[i - 1];
	return NULL;
}

/*
 * `path` with links resolved in all but the last component, which is not looked at. 0; -ENOENT when
 * there is no such component to leave out; -errno.
 */
static int resolve_parent(const char *path, char **resolved)
{
	STFS_AUTO_FREE char *copy = NULL, *parent = NULL;
	size_t len = strlen(path);
	char *name;
	int r;

	while (len > 1 && path[len - 1] == '/')
		len--;
	copy = strndup(path, len);
	if (!copy)
		return -ENOMEM;
	name = strrchr(copy, '/');
	if (name)
		*name++ = '\0';
	else
		name = copy;
	if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return -ENOENT;
	r = stfs_ask_realpath(name == copy ? "." : *copy ? copy : "/", &parent);
	if (r < 0)
		return r;
	if (asprintf(resolved, "%s/%s", strcmp(parent, "/") == 0 ? "" : parent, name) < 0)
		return -ENOMEM;
	return 0;
}

int stfs_mounts_find(const struct stfs_mounts *mounts, const char *path,
		     const struct stfs_mount **found)
{
	STFS_AUTO_FREE char *point = NULL, *whole = NULL;
	int r = resolve_parent(path, &point);

	*found = r == 0 ? find_point(mounts, point) : NULL;
	if (*found || r == -ENOMEM || r == -ETIMEDOUT)
		return *found ? 0 : r;
	r = stfs_ask_realpath(path, &whole);
	if (r == 0)
		*found = find_point(mounts, whole);
	return r;
}

int stfs_mounts_refuse(const struct stfs_mount *mount, const char *path, struct stfs_err *err)
{
	if (!mount)
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "%s: nothing is mounted here",
				    path);
	return stfs_err_set(err, -EINVAL, STFS_NO_POSITION,
			    "%s: a mount of type %s, not of safetensorsfs", path, mount->type);
}

int stfs_mounts_find_ours(const struct stfs_mounts *mounts, const char *path,
			  const struct stfs_mount **found, struct stfs_err *err)
{
	int r = stfs_mounts_find(mounts, path, found);

	if (r < 0)
		return stfs_err_errno(err, r, "%s", path);
	return *found && stfs_mount_is_ours(*found) ? 0 : stfs_mounts_refuse(*found, path, err);
}

bool stfs_mounts_have(const struct stfs_mounts *mounts, const struct stfs_mount *mount)
{
	for (size_t i = 0; i < mounts->count; i++)
		if (strcmp(mounts->items[i].device, mount->device) == 0 &&
		    strcmp(mounts->items[i].type, mount->type) == 0 &&
		    strcmp(mounts->items[i].source, mount->source) == 0)
			return true;
	return false;
}

bool stfs_mount_is_ours(const struct stfs_mount *mount)
{
	return strcmp(mount->type, STFS_MOUNT_TYPE) == 0;
}

bool stfs_mount_is_fuse(const struct stfs_mount *mount)
{
	return strncmp(mount->type, "fuse", 4) == 0;
}

/* ---- In a child process: what may block ---- */

/* statfs(2) always asks the daemon; stat(2) may be answered from the kernel's cache. */
static int question_ping(const void *mount, int out)
{
	struct statfs ignored;

	if (statfs(((const struct stfs_mount *)mount)->point, &ignored) == 0)
		return 0;
	return errno == ECONNABORTED ? -ENOTCONN : -errno;
}

/* Hands on all of a file whose size is not told beforehand. */
static int copy_all(int fd, int out)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	ssize_t got = 1, put;
	int r = 0;

	while (r == 0 && got > 0 && text.len < STATUS_MAX) {
		r = stfs_buf_reserve(&text, 64 * 1024);
		if (r < 0)
			return r;
		got = stfs_io_pread_full(fd, text.data + text.len, 64 * 1024, text.len);
		if (got < 0)
			return (int)got;
		text.len += (size_t)got;
	}
	for (size_t done = 0; done < text.len; done += (size_t)put) {
		put = write(out, text.data + done, text.len - done);
		if (put < 0)
			return -errno;
	}
	return 0;
}

static int question_status(const void *mount, int out)
{
	STFS_AUTO_FREE char *path = NULL;
	STFS_AUTO_FD int fd = -1;
	int r = question_ping(mount, out);

	if (r < 0)
		return r;
	if (asprintf(&path, "%s/.stfs", ((const struct stfs_mount *)mount)->point) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return errno == ECONNABORTED ? -ENOTCONN : errno == EPERM ? -EACCES : -errno;
	return copy_all(fd, out);
}

/* ---- Asking ---- */

int stfs_mount_ping(const struct stfs_mount *mount)
{
	struct stfs_ask ask = {.question = question_ping, .data = mount};

	stfs_ask(&ask, 1);
	stfs_buf_free(&ask.answer);
	return ask.result;
}

static void take_answer(struct stfs_mount_status *status, struct stfs_ask *ask)
{
	const char *text = stfs_buf_cstr(&ask->answer);

	status->said = NULL;
	status->result = ask->result == 0 && !text ? -ENOMEM : ask->result;
	if (status->result < 0)
		return;
	status->said = json_tokener_parse(text);
	if (json_object_is_type(status->said, json_type_object))
		return;
	json_object_put(status->said);
	status->said = NULL;
	status->result = -EBADMSG;
}

int stfs_mounts_ask(struct stfs_mount_status *statuses, size_t count)
{
	STFS_AUTO_FREE struct stfs_ask *asks = calloc(count ? count : 1, sizeof(*asks));

	if (!asks)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++) {
		asks[i].question = question_status;
		asks[i].data = statuses[i].mount;
	}
	stfs_ask(asks, count);
	for (size_t i = 0; i < count; i++) {
		take_answer(&statuses[i], &asks[i]);
		stfs_buf_free(&asks[i].answer);
	}
	return 0;
}

static int say_silence(const struct stfs_mount *mount, int result, struct stfs_err *err)
{
	const char *point = mount->point;

	switch (result) {
	case -ENOTCONN:
		return stfs_err_set(err, result, STFS_NO_POSITION, "%s: its daemon has ended; "
				    "`stfs umount %s` clears the mount", point, point);
	case -ETIMEDOUT:
		return stfs_err_set(err, result, STFS_NO_POSITION, "%s: its daemon does not answer "
				    "(is it stopped? does its disk hang?)", point);
	case -EACCES:
		return stfs_err_set(err, result, STFS_NO_POSITION, "%s: belongs to another user, "
				    "who alone may do that", point);
	case -EBADMSG:
		return stfs_err_set(err, result, STFS_NO_POSITION, "%s: its daemon is none that this "
				    "program knows", point);
	default: return stfs_err_errno(err, result, "%s/.stfs", point);
	}
}

int stfs_mount_ask(const struct stfs_mount *mount, struct json_object **said, struct stfs_err *err)
{
	struct stfs_mount_status status = {.mount = mount};
	int r = stfs_mounts_ask(&status, 1);

	*said = status.said;
	if (r == 0)
		r = status.result;
	return r < 0 ? say_silence(mount, r, err) : 0;
}
