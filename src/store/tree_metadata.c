/* SPDX-License-Identifier: MIT */
/* The metadata of the tree. */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "store/tree_internal.h"

static int add_pair(void *data, struct stfs_str key, struct stfs_str value)
{
	struct stfs_buf *out = data;

	stfs_buf_puts(out, out->data[out->len - 1] == '{' ? "\n  " : ",\n  ");
	stfs_json_quote(key, out);
	stfs_buf_puts(out, ": ");
	return stfs_json_quote(value, out);
}

int stfs_tree_metadata_text(struct stfs_tree *tree)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	bool has = tree->metadata_staged ? tree->metadata.pairs != NULL
					 : tree->model && stfs_model_has_metadata(tree->model);
	int r = 0;

	if (has && tree->metadata_staged) {
		r = stfs_metadata_write(tree->metadata.pairs, tree->metadata.count, &text);
	} else if (has) {
		stfs_buf_putc(&text, '{');
		r = stfs_model_metadata(tree->model, add_pair, &text);
		stfs_buf_puts(&text, text.len == 1 ? "}\n" : "\n}\n");
	}
	if (r == 0)
		r = stfs_buf_status(&text);
	if (r < 0)
		return r;
	stfs_buf_free(&tree->metadata_text);
	tree->metadata_text = text;
	text = (struct stfs_buf)STFS_BUF_INIT;
	tree->has_metadata = has;
	return 0;
}

bool stfs_tree_metadata(const struct stfs_tree *tree, struct stfs_str *text, struct timespec *mtime)
{
	*text = stfs_buf_str(&tree->metadata_text);
	if (tree->metadata_mtime_set)
		*mtime = tree->metadata_mtime;
	else if (tree->model)
		*mtime = stfs_shard_view(&tree->model->shards[0]).mtime;
	return tree->has_metadata;
}

int stfs_tree_set_metadata(struct stfs_tree *tree, const struct stfs_header_pair *pairs, size_t count,
			   struct stfs_err *err)
{
	struct stfs_metadata copy = {0}, before;
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	bool was_staged;
	int r = count ? stfs_metadata_write(pairs, count, &text) : 0;

	/* An empty object is no metadata: the header never holds one. */
	if (r == 0 && count)
		r = stfs_metadata_read(stfs_buf_str(&text), &copy, err);
	if (r < 0)
		return r;
	stfs_tree_lock(tree);
	r = stfs_tree_may_stage(tree);
	before = tree->metadata;
	was_staged = tree->metadata_staged;
	if (r == 0) {
		tree->metadata = copy;
		tree->metadata_staged = true;
		r = stfs_tree_metadata_text(tree);
		if (r < 0) {
			tree->metadata = before;
			tree->metadata_staged = was_staged;
		}
	}
	if (r == 0) {
		tree->metadata_edits++;
		tree->generation++;
		tree->staged_any = true;
		clock_gettime(CLOCK_REALTIME, &tree->metadata_mtime);
		tree->metadata_mtime_set = true;
	}
	stfs_tree_unlock(tree);
	stfs_metadata_free(r < 0 ? &copy : &before);
	if (r == 0)
		stfs_tree_tell(tree);
	return r;
}
