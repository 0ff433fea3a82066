/* SPDX-License-Identifier: MIT */
#include "fs/expand.h"

#include <ctype.h>
#include <errno.h>
#include <pwd.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/cleanup.h"

/* Adds the home directory that `path` begins with; returns what stands behind it. */
static const char *add_home(const char *path, struct stfs_buf *out, struct stfs_err *err)
{
	const char *end = strchrnul(path, '/');
	STFS_AUTO_FREE char *user = strndup(path + 1, (size_t)(end - path - 1));
	const char *home = user && !*user ? getenv("HOME") : NULL;
	const struct passwd *entry;

	if (!user)
		return NULL;
	if (!home) {
		entry = *user ? getpwnam(user) : getpwuid(getuid());
		home = entry ? entry->pw_dir : NULL;
	}
	if (!home) {
		stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "%s: no such user", path);
		return NULL;
	}
	stfs_buf_puts(out, home);
	return end;
}

/* Adds the variable at `path`, which points behind '$'; returns what stands behind it. */
static const char *add_variable(const char *path, struct stfs_buf *out, struct stfs_err *err)
{
	bool braces = *path == '{';
	const char *start = path + braces, *end = start, *value;
	STFS_AUTO_FREE char *name = NULL;

	while (isalnum((unsigned char)*end) || *end == '_')
		end++;
	if (end == start || (braces && *end != '}')) {
		stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "$%s: not the name of a variable "
			     "(write \\$ for a dollar sign)", path);
		return NULL;
	}
	name = strndup(start, (size_t)(end - start));
	value = name ? getenv(name) : NULL;
	if (!value) {
		stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "$%s: the variable is not set",
			     name ? name : "");
		return NULL;
	}
	stfs_buf_puts(out, value);
	return end + braces;
}

int stfs_expand_path(const char *path, char **out, struct stfs_err *err)
{
	STFS_AUTO_BUF struct stfs_buf buf = STFS_BUF_INIT;
	const char *p = path;

	*out = NULL;
	if (*p == '~')
		p = add_home(p, &buf, err);
	while (p && *p) {
		if (*p == '$') {
			p = add_variable(p + 1, &buf, err);
			continue;
		}
		if (*p == '\\' && (p[1] == '$' || p[1] == '~'))
			p++;
		stfs_buf_putc(&buf, *p++);
	}
	if (!p)
		return err->code ? err->code : -ENOMEM;
	if (!stfs_buf_cstr(&buf))
		return -ENOMEM;
	*out = stfs_steal_ptr(&buf.data);
	return 0;
}
