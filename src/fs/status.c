/* SPDX-License-Identifier: MIT */
/* The text of .stfs: what `stfs status` shows. Fields may be added, none will change its meaning. */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <unistd.h>

#include "base/utf8.h"
#include "fs/fs.h"

/* JSON is UTF-8, paths need not be: what is not becomes U+FFFD, to be looked at only. */
static struct json_object *path_text(const char *path)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	size_t len = strlen(path), width;

	for (size_t i = 0; i < len; i += width ? width : 1) {
		width = stfs_utf8_width(path + i, len - i);
		stfs_buf_add(&text, width ? path + i : "\xef\xbf\xbd", width ? width : 3);
	}
	return stfs_buf_cstr(&text) ? json_object_new_string(text.data) : NULL;
}

static const char *state_of(const struct stfs_fs *fs, struct stfs_shard *shard)
{
	struct stfs_shard_view view;
	struct stat st;
	int r = stfs_shard_check(shard);

	if (r == -ESTALE)
		return "stale";
	/* Another file under its name: reads go on from the one that was opened. */
	if (fstatat(fs->model->resolved.folder_fd, shard->name, &st, 0) < 0 ||
	    st.st_dev != shard->st.st_dev || st.st_ino != shard->st.st_ino)
		return "replaced";
	view = stfs_shard_view(shard);
	return view.size < shard->size ? "truncated" : view.touched ? "touched" : "fresh";
}

static struct json_object *files_of(const struct stfs_fs *fs)
{
	struct json_object *files = json_object_new_array();

	for (uint32_t i = 0; i < fs->model->shard_count; i++) {
		struct stfs_shard *shard = &fs->model->shards[i];
		struct json_object *file = json_object_new_object();

		json_object_object_add(file, "file", path_text(shard->name));
		json_object_object_add(file, "size", json_object_new_uint64(shard->size));
		json_object_object_add(file, "state", json_object_new_string(state_of(fs, shard)));
		json_object_array_add(files, file);
	}
	return files;
}

static struct json_object *options_of(const struct stfs_fs *fs)
{
	static const char *const views[] = {"raw", "npy", "both"};
	static const char *const caches[] = {"auto", "always", "never"};
	struct json_object *options = json_object_new_object();

	json_object_object_add(options, "view", json_object_new_string(views[fs->options->view]));
	json_object_object_add(options, "cache", json_object_new_string(caches[fs->options->cache]));
	json_object_object_add(options, "sidecars",
			       json_object_new_string(fs->options->hide_sidecars ? "hidden" : "shown"));
	json_object_object_add(options, "xattr", json_object_new_boolean(fs->options->xattr));
	return options;
}

static const char *last_error(const struct stfs_fs *fs)
{
	if (atomic_load(&fs->failed_replies))
		return "the model was cut short by another program";
	for (uint32_t i = 0; i < fs->model->shard_count; i++)
		if (stfs_shard_check(&fs->model->shards[i]) == -ESTALE)
			return "the header was changed by another program: mount it again";
	return NULL;
}

int stfs_fs_status(struct stfs_fs *fs, struct stfs_buf *out)
{
	struct json_object *root = json_object_new_object();
	struct json_object *kernel = json_object_new_object();
	const char *text, *error = last_error(fs);
	int r;

	json_object_object_add(root, "version", json_object_new_string(STFS_VERSION));
	json_object_object_add(root, "pid", json_object_new_int(getpid()));
	json_object_object_add(root, "model", path_text(fs->model_path));
	json_object_object_add(root, "mountpoint", path_text(fs->mountpoint));
	json_object_object_add(root, "mode", json_object_new_string("ro"));
	json_object_object_add(root, "mounted", json_object_new_int64(fs->mounted.tv_sec));
	json_object_object_add(root, "tolerant", json_object_new_boolean(fs->model->tolerated));
	json_object_object_add(root, "tensors", json_object_new_int64(fs->model->shown));
	json_object_object_add(root, "bytes", json_object_new_uint64(fs->model->shown_bytes));
	json_object_object_add(root, "files", files_of(fs));
	json_object_object_add(root, "last_error", error ? json_object_new_string(error) : NULL);
	json_object_object_add(root, "options", options_of(fs));
	json_object_object_add(kernel, "direct_io_mmap",
			       json_object_new_boolean(atomic_load(&fs->direct_io_mmap)));
	json_object_object_add(kernel, "parallel_dirops",
			       json_object_new_boolean(atomic_load(&fs->parallel_dirops)));
	json_object_object_add(root, "kernel", kernel);
	text = json_object_to_json_string_ext(root, JSON_C_TO_STRING_PRETTY |
						    JSON_C_TO_STRING_NOSLASHESCAPE);
	r = text ? stfs_buf_puts(out, text) : -ENOMEM;
	json_object_put(root);
	return r < 0 ? r : stfs_buf_putc(out, '\n');
}
