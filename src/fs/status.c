/* SPDX-License-Identifier: MIT */
/* The text of .stfs: what `stfs status` shows. Fields may be added, none will change its meaning. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

#include "base/utf8.h"
#include "format/sidecar.h"
#include "fs/fs.h"

/* As a JSON string. JSON is UTF-8, paths need not be: what is not becomes U+FFFD, to be looked at. */
static void put_path(struct stfs_buf *out, const char *path)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	size_t len = strlen(path), width;

	for (size_t i = 0; i < len; i += width ? width : 1) {
		width = stfs_utf8_width(path + i, len - i);
		stfs_buf_add(&text, width ? path + i : "\xef\xbf\xbd", width ? width : 3);
	}
	stfs_json_quote(stfs_buf_str(&text), out);
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

static void put_files(struct stfs_fs *fs, struct stfs_buf *out)
{
	for (uint32_t i = 0; i < fs->model->shard_count; i++) {
		struct stfs_shard *shard = &fs->model->shards[i];

		stfs_buf_puts(out, i ? ",\n    {\"file\": " : "\n    {\"file\": ");
		put_path(out, shard->name);
		stfs_buf_printf(out, ", \"size\": %" PRIu64 ", \"state\": \"%s\"}", shard->size,
				state_of(fs, shard));
	}
}

static const char *truth(bool value)
{
	return value ? "true" : "false";
}

static const char *last_error(const struct stfs_fs *fs)
{
	if (atomic_load(&fs->failed_replies))
		return "the model was cut short by another program, or its disk cannot be read";
	for (uint32_t i = 0; i < fs->model->shard_count; i++)
		if (stfs_shard_check(&fs->model->shards[i]) == -ESTALE)
			return "the header was changed by another program: mount it again";
	return NULL;
}

int stfs_fs_status(struct stfs_fs *fs, struct stfs_buf *out)
{
	static const char *const views[] = {"raw", "npy", "both"};
	static const char *const caches[] = {"auto", "always", "never"};
	const struct stfs_options *o = fs->options;
	const char *error = last_error(fs);

	stfs_buf_printf(out, "{\n  \"version\": \"%s\",\n  \"pid\": %d,\n  \"model\": ", STFS_VERSION,
			(int)getpid());
	put_path(out, fs->model_path);
	stfs_buf_puts(out, ",\n  \"mountpoint\": ");
	put_path(out, fs->mountpoint);
	stfs_buf_printf(out, ",\n  \"mode\": \"ro\",\n  \"mounted\": %lld,\n  \"tolerant\": %s,\n",
			(long long)fs->mounted.tv_sec, truth(fs->model->tolerated));
	stfs_buf_printf(out, "  \"tensors\": %" PRIu32 ",\n  \"bytes\": %" PRIu64 ",\n  \"files\": [",
			fs->model->shown, fs->model->shown_bytes);
	put_files(fs, out);
	stfs_buf_puts(out, "\n  ],\n  \"last_error\": ");
	if (error)
		stfs_json_quote(stfs_str_from(error), out);
	else
		stfs_buf_puts(out, "null");
	stfs_buf_printf(out, ",\n  \"options\": {\"view\": \"%s\", \"cache\": \"%s\", "
			"\"sidecars\": \"%s\", \"xattr\": %s},\n", views[o->view], caches[o->cache],
			o->hide_sidecars ? "hidden" : "shown", truth(o->xattr));
	return stfs_buf_printf(out, "  \"kernel\": {\"direct_io_mmap\": %s, \"parallel_dirops\": %s}\n}\n",
			       truth(atomic_load(&fs->direct_io_mmap)),
			       truth(atomic_load(&fs->parallel_dirops)));
}
