/* SPDX-License-Identifier: MIT */
#include "cli/metatext.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/utf8.h"
#include "format/metadata.h"
#include "ops/slurp.h"

/* ---- One pair ---- */

static int check_text(struct stfs_editing *editing, struct stfs_str text, const char *what)
{
	size_t good = stfs_utf8_check(text.ptr, text.len);

	if (good == text.len)
		return STFS_EXIT_OK;
	return stfs_editing_fail(editing, "%s: byte %zu is not UTF-8, metadata is text", what,
				 good);
}

int stfs_metatext_set(struct stfs_editing *editing, const char *argument)
{
	const char *equals = strchr(argument, '=');
	struct stfs_str key = stfs_str_slice(argument, (size_t)(equals - argument));
	STFS_AUTO_BUF struct stfs_buf file = STFS_BUF_INIT;
	struct stfs_str value = stfs_str_from(equals + 1);
	struct stfs_err err = STFS_ERR_INIT;
	int r = 0;

	if (value.len && value.ptr[0] == '@' && !stfs_str_starts_with(value, "@@")) {
		r = stfs_slurp(equals + 2, STFS_HEADER_MAX, &file, &err);
		value = stfs_buf_str(&file);
	} else if (value.len && value.ptr[0] == '@') {
		value = stfs_str_from(equals + 2);
	}
	if (r < 0)
		return stfs_editing_error(editing, r, &err);
	if (check_text(editing, key, argument) != STFS_EXIT_OK ||
	    check_text(editing, value, argument) != STFS_EXIT_OK)
		return STFS_EXIT_FAILED;
	r = stfs_edit_set(editing->edit, key, value, &err);
	if (r < 0)
		return stfs_editing_error(editing, r, &err);
	stfs_editing_did(editing, STFS_CHANGE_SET, key, key, value.len);
	return STFS_EXIT_OK;
}

/* ---- All of it, as text ---- */

/* Pairs as they are gathered; number i of the keys belongs to number i of the values. */
struct gathering {
	struct stfs_names keys, values;
};

static void free_gathering(struct gathering *gathering)
{
	stfs_names_free(&gathering->keys);
	stfs_names_free(&gathering->values);
}

static int gather(void *data, struct stfs_str key, struct stfs_str value)
{
	struct gathering *gathering = data;
	int r = stfs_names_add(&gathering->keys, key);

	return r < 0 ? r : stfs_names_add(&gathering->values, value);
}

static int write_pairs(const struct gathering *gathering, struct stfs_buf *out)
{
	size_t count = gathering->keys.count;
	STFS_AUTO_FREE struct stfs_header_pair *pairs = calloc(count + 1, sizeof(*pairs));

	for (size_t i = 0; pairs && i < count; i++)
		pairs[i] = (struct stfs_header_pair){.key = stfs_names_at(&gathering->keys, i),
						     .value = stfs_names_at(&gathering->values, i)};
	return pairs ? stfs_metadata_write(pairs, count, out) : -ENOMEM;
}

int stfs_metatext_of_model(const struct stfs_model *model, struct stfs_buf *out)
{
	STFS_CLEANUP(free_gathering) struct gathering gathering = {0};

	return stfs_model_metadata(model, gather, &gathering) < 0 ? -ENOMEM
								  : write_pairs(&gathering, out);
}

static int text_of_edit(struct stfs_edit *edit, struct stfs_buf *out)
{
	STFS_CLEANUP(free_gathering) struct gathering gathering = {0};

	return stfs_edit_metadata(edit, gather, &gathering) < 0 ? -ENOMEM
								: write_pairs(&gathering, out);
}

/* ---- From text ---- */

static int apply_text(struct stfs_editing *editing, struct stfs_str text, bool clear,
		      struct stfs_err *err)
{
	struct stfs_metadata metadata;
	int r = stfs_metadata_read(text, &metadata, err);

	if (r < 0)
		return r;
	if (clear)
		r = stfs_edit_unset_all(editing->edit, err);
	for (size_t i = 0; r == 0 && i < metadata.count; i++) {
		r = stfs_edit_set(editing->edit, metadata.pairs[i].key, metadata.pairs[i].value,
				  err);
		if (r == 0)
			stfs_editing_did(editing, STFS_CHANGE_SET, metadata.pairs[i].key,
					 metadata.pairs[i].key, metadata.pairs[i].value.len);
	}
	stfs_metadata_free(&metadata);
	return r;
}

int stfs_metatext_load(struct stfs_editing *editing, const char *path)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	struct stfs_err err = STFS_ERR_INIT;
	int r = stfs_slurp(path, STFS_METADATA_MAX, &text, &err);

	if (r < 0)
		return stfs_editing_error(editing, r, &err);
	r = apply_text(editing, stfs_buf_str(&text), false, &err);
	if (r == -ENOMEM)
		stfs_cli_out_of_memory();
	return r < 0 ? stfs_editing_fail(editing, "%s: %s", path, err.message) : STFS_EXIT_OK;
}

static int count_pair(void *data, struct stfs_str key, struct stfs_str value)
{
	stfs_editing_did(data, STFS_CHANGE_UNSET, key, key, 0);
	return 0;
}

int stfs_metatext_clear(struct stfs_editing *editing)
{
	struct stfs_err err = STFS_ERR_INIT;
	int r = stfs_edit_metadata(editing->edit, count_pair, editing);

	if (r == 0)
		r = stfs_edit_unset_all(editing->edit, &err);
	return r < 0 ? stfs_editing_error(editing, r, &err) : STFS_EXIT_OK;
}

/* ---- In the user's editor ---- */

/* Writes the text to a new file, whose name goes to `path`. 0 or -errno. */
static int write_text(struct stfs_str text, char **path)
{
	const char *folder = getenv("TMPDIR");
	STFS_AUTO_FD int fd = -1;
	ssize_t put;

	if (asprintf(path, "%s/metadata-XXXXXX.json", folder && *folder ? folder : "/tmp") < 0) {
		*path = NULL;
		return -ENOMEM;
	}
	fd = mkstemps(*path, (int)strlen(".json"));
	if (fd < 0)
		return -errno;
	for (size_t done = 0; done < text.len; done += (size_t)put) {
		put = write(fd, text.ptr + done, text.len - done);
		if (put < 0)
			return -errno;
	}
	return 0;
}

/* Waits for the editor, which a shell finds: the variable may hold options. 0 when it ended well.
 */
static int run_editor(const char *path)
{
	const char *editor = getenv("VISUAL");
	int status = -1;
	pid_t child;

	if (!editor || !*editor)
		editor = getenv("EDITOR");
	if (!editor || !*editor)
		editor = "vi";
	fflush(NULL);
	child = fork();
	if (child == 0) {
		STFS_AUTO_FREE char *command = NULL;

		if (asprintf(&command, "%s \"$1\"", editor) >= 0)
			execl("/bin/sh", "sh", "-c", command, "sh", path, (char *)NULL);
		_exit(127);
	}
	while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
		continue;
	return child > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}

/* What the editor left behind goes into the edit. */
static int take_edited(struct stfs_editing *editing, const char *path, struct stfs_str before)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	struct stfs_err err = STFS_ERR_INIT;
	int r = stfs_slurp(path, STFS_METADATA_MAX, &text, &err);

	if (r < 0)
		return stfs_editing_error(editing, r, &err);
	if (stfs_str_equal(stfs_buf_str(&text), before))
		return STFS_EXIT_OK;
	r = apply_text(editing, stfs_buf_str(&text), true, &err);
	if (r == -ENOMEM)
		stfs_cli_out_of_memory();
	return r < 0 ? stfs_editing_fail(editing, "%s; nothing was changed, your text is in %s",
					 err.message, path) : STFS_EXIT_OK;
}

int stfs_metatext_edit(struct stfs_editing *editing)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	STFS_AUTO_FREE char *path = NULL;
	int r, code;

	if (text_of_edit(editing->edit, &text) < 0)
		stfs_cli_out_of_memory();
	r = write_text(stfs_buf_str(&text), &path);
	if (r < 0)
		return stfs_editing_fail(editing, "%s: %s", path ? path : "a temporary file",
					 strerror(-r));
	if (run_editor(path) < 0)
		return stfs_editing_fail(editing,
					 "the editor failed; nothing was changed, your text is in "
					 "%s",
					 path);
	code = take_edited(editing, path, stfs_buf_str(&text));
	if (code == STFS_EXIT_OK)
		unlink(path);
	return code;
}
