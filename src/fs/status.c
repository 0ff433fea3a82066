/* SPDX-License-Identifier: MIT */
/* The text of .stfs: what `stfs status` shows. Fields may be added, none will change its meaning. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

#include "base/utf8.h"
#include "format/sidecar.h"
#include "fs/fs.h"
#include "fs/sync.h"

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

/* The tree is held. While we commit ourselves nothing can be said of the files. */
static const char *state_of(const struct stfs_fs *fs, const struct stfs_model *model, struct stfs_shard *shard)
{
	struct stfs_shard_view view;
	struct stat st;

	if (!stfs_tree_is_committing(fs->tree) && !stfs_tree_is_stuck(fs->tree) &&
	    stfs_shard_check(shard) == -ESTALE)
		return "stale";
	/* Another file under its name: reads go on from the one that was opened. */
	if (!stfs_tree_is_committing(fs->tree) &&
	    (fstatat(model->resolved.folder_fd, shard->name, &st, 0) < 0 ||
	     st.st_dev != shard->st.st_dev || st.st_ino != shard->st.st_ino))
		return "replaced";
	view = stfs_shard_view(shard);
	/* Of a writable mount it is we who touch it. */
	return view.size < shard->size                  ? "truncated"
	       : view.touched && !stfs_fs_writable(fs) ? "touched"
						       : "fresh";
}

static void put_files(struct stfs_fs *fs, struct stfs_buf *out)
{
	const struct stfs_model *model = stfs_tree_model(fs->tree);

	for (uint32_t i = 0; model && i < model->shard_count; i++) {
		struct stfs_shard *shard = &model->shards[i];

		stfs_buf_puts(out, i ? ",\n    {\"file\": " : "\n    {\"file\": ");
		put_path(out, shard->name);
		stfs_buf_printf(out, ", \"size\": %" PRIu64 ", \"state\": \"%s\"}", shard->size,
				state_of(fs, model, shard));
	}
}

static const char *truth(bool value)
{
	return value ? "true" : "false";
}

static const char *last_error(const struct stfs_fs *fs)
{
	const struct stfs_model *model = stfs_tree_model(fs->tree);

	if (stfs_tree_is_stuck(fs->tree))
		return "a commit stopped half-way, or the disk failed: unmount, then `stfs recover` the model";
	if (atomic_load(&fs->failed_replies))
		return "the model was cut short by another program, or its disk cannot be read";
	for (uint32_t i = 0; model && i < model->shard_count; i++)
		if (!stfs_tree_is_committing(fs->tree) && stfs_shard_check(&model->shards[i]) == -ESTALE)
			return "the header was changed by another program: mount it again";
	return NULL;
}

/* ---- What is pending ---- */

#define ITEMS_MOST 1000

struct pending {
	struct stfs_buf items;
	uint64_t count, bytes;
};

static int add_pending(void *data, const struct stfs_pending *pending)
{
	struct pending *sum = data;
	struct stfs_buf *out = &sum->items;

	sum->bytes += pending->bytes;
	if (sum->count++ >= ITEMS_MOST)
		return 0;
	stfs_buf_puts(out, sum->count > 1 ? ",\n    {\"name\": " : "\n    {\"name\": ");
	stfs_json_quote(pending->name, out);
	stfs_buf_printf(out, ", \"change\": \"%s\"", stfs_change_word(pending->changes));
	if (pending->changes & STFS_CHANGE_RENAMED) {
		stfs_buf_puts(out, ", \"from\": ");
		stfs_json_quote(pending->from, out);
	}
	stfs_buf_printf(out, ", \"bytes\": %" PRIu64 ", \"waits\": ", pending->bytes);
	if (pending->waits)
		stfs_json_quote(stfs_str_from(pending->waits), out);
	else
		stfs_buf_puts(out, "null");
	return stfs_buf_putc(out, '}');
}

static const char *tree_state(const struct stfs_fs *fs, uint64_t pending)
{
	return stfs_tree_is_stuck(fs->tree)        ? "stuck"
	       : stfs_tree_is_committing(fs->tree) ? "committing"
	       : pending                           ? "pending"
						   : "clean";
}

static void put_pending(struct stfs_fs *fs, struct stfs_buf *out)
{
	struct pending sum = {0};

	(void)stfs_tree_pending(fs->tree, add_pending, &sum);
	stfs_buf_printf(out, "  \"state\": \"%s\",\n  \"pending\": {\"count\": %" PRIu64 ", \"bytes\": %" PRIu64
			", \"items\": [", tree_state(fs, sum.count), sum.count, sum.bytes);
	stfs_buf_add_str(out, stfs_buf_str(&sum.items));
	stfs_buf_puts(out, "]},\n");
	stfs_buf_free(&sum.items);
}

static void put_refused(struct stfs_fs *fs, struct stfs_buf *out)
{
	stfs_buf_puts(out, "  \"refused\": [");
	pthread_mutex_lock(&fs->drafts_lock);
	for (unsigned i = 0; i < fs->refused_count; i++) {
		stfs_buf_puts(out, i ? ", {\"file\": " : "{\"file\": ");
		stfs_json_quote(stfs_str_from(fs->refused[i].file), out);
		stfs_buf_puts(out, ", \"why\": ");
		put_path(out, fs->refused[i].why);
		stfs_buf_putc(out, '}');
	}
	pthread_mutex_unlock(&fs->drafts_lock);
	stfs_buf_puts(out, "],\n");
}

/* ---- The whole ---- */

static void put_writing(struct stfs_fs *fs, struct stfs_buf *out)
{
	const struct stfs_options *o = fs->options;
	uint64_t done, total;

	put_refused(fs, out);
	stfs_tree_progress(fs->tree, &done, &total);
	if (total)
		stfs_buf_printf(out, "  \"progress\": {\"done\": %" PRIu64 ", \"total\": %" PRIu64 "},\n", done, total);
	stfs_tree_hold(fs->tree);
	put_pending(fs, out);
	stfs_tree_release(fs->tree);
	if (fs->sync)
		stfs_sync_status(fs->sync, out);
	stfs_buf_printf(out, "  \"spool\": {\"used\": %" PRIu64 ", \"limit\": %" PRIu64 ", \"folder\": ",
			stfs_tree_spooled(fs->tree), o->spool_limit);
	put_path(out, o->spool ? o->spool : "beside the model");
	stfs_buf_puts(out, "},\n");
}

static void put_options(const struct stfs_fs *fs, struct stfs_buf *out)
{
	static const char *const views[] = {"raw", "npy", "both"};
	static const char *const caches[] = {"auto", "always", "never"};
	const struct stfs_options *o = fs->options;

	stfs_buf_printf(out, "  \"options\": {\"view\": \"%s\", \"cache\": \"%s\", "
			"\"sidecars\": \"%s\", \"xattr\": %s", views[o->view], caches[o->cache],
			o->hide_sidecars ? "hidden" : "shown", truth(o->xattr));
	if (stfs_fs_writable(fs))
		stfs_buf_printf(out, ", \"autosync\": %.3g, \"autosync_max\": %.3g, \"overwrite\": \"%s\", "
				"\"readers\": \"%s\"", (double)o->autosync / 1000, (double)o->autosync_max / 1000,
				o->staged ? "staged" : "direct", o->ignore_readers ? "ignore" : "spare");
	stfs_buf_puts(out, "},\n");
}

int stfs_fs_status(struct stfs_fs *fs, struct stfs_buf *out)
{
	static const char *const modes[] = {[STFS_TREE_RO] = "ro", [STFS_TREE_RW] = "rw", [STFS_TREE_COW] = "cow",
					    [STFS_TREE_CREATE] = "create"};
	const struct stfs_model *model;
	char commit_error[1024] = "";
	time_t when = 0;
	const char *error;

	if (fs->sync)
		(void)stfs_sync_error(fs->sync, commit_error, sizeof(commit_error), &when);
	stfs_buf_printf(out, "{\n  \"version\": \"%s\",\n  \"pid\": %d,\n  \"model\": ", STFS_VERSION,
			(int)getpid());
	put_path(out, fs->model_path);
	stfs_buf_puts(out, ",\n  \"mountpoint\": ");
	put_path(out, fs->mountpoint);
	stfs_buf_printf(out, ",\n  \"mode\": \"%s\",\n", modes[stfs_tree_mode(fs->tree)]);
	if (fs->readonly_because) {
		stfs_buf_puts(out, "  \"readonly_because\": ");
		put_path(out, fs->readonly_because);
		stfs_buf_puts(out, ",\n");
	}
	stfs_tree_hold(fs->tree);
	model = stfs_tree_model(fs->tree);
	stfs_buf_printf(out, "  \"mounted\": %lld,\n  \"tolerant\": %s,\n", (long long)fs->mounted.tv_sec,
			truth(model && model->tolerated));
	stfs_buf_printf(out, "  \"tensors\": %" PRIu32 ",\n  \"bytes\": %" PRIu64 ",\n  \"files\": [",
			model ? model->shown : 0, model ? model->shown_bytes : 0);
	put_files(fs, out);
	error = last_error(fs);
	stfs_tree_release(fs->tree);
	stfs_buf_puts(out, "\n  ],\n  \"last_error\": ");
	if (!error && *commit_error)
		error = commit_error;
	if (error)
		put_path(out, error);
	else
		stfs_buf_puts(out, "null");
	if (*commit_error)
		stfs_buf_printf(out, ",\n  \"last_error_time\": %lld", (long long)when);
	stfs_buf_puts(out, ",\n");
	if (stfs_fs_writable(fs))
		put_writing(fs, out);
	put_options(fs, out);
	return stfs_buf_printf(out, "  \"kernel\": {\"direct_io_mmap\": %s, \"parallel_dirops\": %s}\n}\n",
			       truth(atomic_load(&fs->direct_io_mmap)),
			       truth(atomic_load(&fs->parallel_dirops)));
}
