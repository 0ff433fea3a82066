/* SPDX-License-Identifier: MIT */
/*
 * A commit of the tree: what has been taken follows it, and nodes are bound to the model as it is then. One thread
 * at a time is in here (stfs_tree_commit); what it has taken is in tree->takings meanwhile.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/statvfs.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "commit/beside.h"
#include "store/rescue.h"
#include "store/tree_pending.h"

/* Bytes that are copied while nobody may read: far below the 64 MiB that are allowed. */
#define PIECE (4u << 20)

/* ---- The hooks: how nodes follow the commit ---- */

static void stop(void *data)
{
	stfs_tree_lock(data);
}

static void go_on(void *data)
{
	stfs_tree_unlock(data);
}

/* What was under the layers may be overwritten from now on; what was written has all of it. */
static void recorded(void *data)
{
	struct stfs_tree *tree = data;

	for (size_t i = 0; i < tree->taking_count; i++)
		if (tree->takings[i].frozen)
			tree->takings[i].written = stfs_edit_written(tree->edit, stfs_taking_name(&tree->takings[i]),
								     &tree->takings[i].shard,
								     &tree->takings[i].offset);
}

/* The frozen layers of a node are the model's now. */
static void thaw(struct stfs_node *node, struct stfs_content *frozen)
{
	struct stfs_content *above = node->content;

	if (node->content == frozen) {
		node->content = NULL;
	} else {
		while (above->under != frozen)
			above = above->under;
		above->under = NULL;
	}
	stfs_content_free(frozen);
}

static void finish_node(struct stfs_tree *tree, struct stfs_taking *taking)
{
	struct stfs_node *node = &tree->nodes[taking->node];

	node->taking = NULL;
	if (taking->frozen)
		thaw(node, taking->frozen);
	if (!taking->name)
		return;
	if (node->type && node->type->serial == taking->serial) {
		stfs_type_free(node->type);
		node->type = NULL;
	}
	node->settled |= !node->type;
	node->rewritten &= node->content != NULL;
}

/* T1, T2. With the lock held exclusively. */
static void tree_assert(const struct stfs_tree *tree)
{
#ifndef NDEBUG
	struct stfs_tensor_ref ref;

	for (uint32_t i = 0; i < tree->node_count; i++) {
		const struct stfs_node *node = &tree->nodes[i];

		assert(!node->used || node->name == STFS_NO_NUMBER || tree->names[node->name].node == i);
		assert(!node->used || node->id == STFS_NO_TENSOR || tree->by_id[node->id] == i);
	}
	for (uint32_t i = 0; i < tree->name_count; i++)
		assert(!tree->names[i].used || tree->names[i].node == STFS_NO_NUMBER ||
		       tree->nodes[tree->names[i].node].name == i);
	for (uint32_t id = 0; id < stfs_model_ids(tree->model); id++)
		assert(tree->by_id[id] != STFS_NO_NUMBER || !stfs_model_tensor(tree->model, id, &ref));
#endif
}

static void swapped(void *data, const struct stfs_model *fresh)
{
	struct stfs_tree *tree = data;
	bool unsynced = false;

	/* What the commit wrote is on the disk; what was written in place before, to a file that has another number now. */
	for (uint32_t i = 0; i < tree->shard_count; i++)
		unsynced |= atomic_load(&tree->unsynced[i]);

	for (uint32_t i = 0; i < tree->node_count; i++) {
		struct stfs_node *node = &tree->nodes[i];
		struct stfs_str name;

		if (!node->used || (node->id == STFS_NO_TENSOR && !node->taking))
			continue;
		if (node->taking && !node->taking->name) {
			node->id = STFS_NO_TENSOR;
			continue;
		}
		name = node->taking ? stfs_taking_name(node->taking) : stfs_model_name_of(tree->model, node->id);
		node->id = stfs_model_find(fresh, name);
	}
	tree->model = fresh;
	for (size_t i = 0; i < tree->taking_count; i++)
		finish_node(tree, &tree->takings[i]);
	if (stfs_tree_bind(tree, fresh) < 0)
		tree->stuck = true;
	else
		tree_assert(tree);
	for (uint32_t i = 0; i < tree->shard_count; i++)
		atomic_store(&tree->unsynced[i], unsynced);
	for (size_t i = 0; i < tree->taking_count; i++)
		stfs_tree_sweep(tree, tree->takings[i].node);
	tree->generation++; /* types were given */
	tree->committing = false;
}

/* ---- Before and after ---- */

/* What the model tells of a tensor's type, once it is no longer there. */
static void keep_type(struct stfs_tree *tree, struct stfs_node *node)
{
	STFS_AUTO_FREE uint64_t *dims = NULL;
	struct stfs_typing_view view;

	stfs_node_typing(tree, node, &view);
	view.other_first = false;
	dims = node->type || view.fit == STFS_FIT_NONE ? NULL : stfs_typing_dims(&view);
	if (dims)
		node->type = stfs_type_make(view.dtype, dims, view.rank, view.bytes);
}

/* The bytes of a tensor that is removed but in use go to the spool. */
static int evacuate(struct stfs_tree *tree, uint32_t number)
{
	struct stfs_tree_base under = {tree, number};
	struct stfs_base base = {stfs_tree_read_base, &under};
	struct stfs_node *node;
	uint64_t len = 1;
	int r = 0;

	for (uint64_t at = 0; r == 0 && at < len; at += PIECE) {
		stfs_tree_hold(tree);
		pthread_mutex_lock(stfs_tree_stripe(tree, number));
		node = &tree->nodes[number];
		len = stfs_node_len(tree, node);
		r = stfs_tree_layer(tree, number, false);
		if (r == 0 && at < len)
			r = stfs_content_fill(node->content, &base, at, stfs_min_u64(PIECE, len - at));
		pthread_mutex_unlock(stfs_tree_stripe(tree, number));
		stfs_tree_release(tree);
	}
	stfs_tree_lock(tree);
	node = &tree->nodes[number];
	/* A scratch file may have become a tensor again meanwhile: its layer is drained. */
	if (r == 0 && node->name == STFS_NO_NUMBER) {
		node->detached = true;
		keep_type(tree, node);
	}
	stfs_tree_unlock(tree);
	return r;
}

/* Whether a file that is asked for itself wants the name that this one has in the model. */
static bool is_in_the_way(struct stfs_tree *tree, const struct stfs_node *node,
			  const struct stfs_commit_request *request)
{
	struct stfs_str was = stfs_model_name_of(tree->model, node->id);
	uint32_t heir = request->count ? stfs_tree_named(tree, stfs_tree_lookup(tree, was)) : STFS_NO_NUMBER;

	for (size_t i = 0; heir != STFS_NO_NUMBER && i < request->count; i++)
		if (request->nodes[i] == heir)
			return true;
	return false;
}

static bool needs_evacuation(struct stfs_tree *tree, uint32_t number, const struct stfs_commit_request *request)
{
	const struct stfs_node *node = stfs_tree_get(tree, number);

	if (!node || node->id == STFS_NO_TENSOR || node->name != STFS_NO_NUMBER || node->detached)
		return false;
	return node->scratch || (node->opens && (request->all || is_in_the_way(tree, node, request)));
}

static int evacuate_all(struct stfs_tree *tree, const struct stfs_commit_request *request)
{
	bool needed;
	int r = 0;

	for (uint32_t i = 0; r == 0 && !request->end; i++) {
		stfs_tree_hold(tree);
		while (i < tree->node_count && !needs_evacuation(tree, i, request))
			i++;
		needed = i < tree->node_count;
		stfs_tree_release(tree);
		if (!needed)
			break;
		r = evacuate(tree, i);
	}
	return r;
}

/* What was synced is the model that others will open: not one that was replaced, or has another header now. */
static int vouch_for(struct stfs_tree *tree, uint32_t shard, struct stfs_err *err)
{
	struct stfs_shard *file = &tree->model->shards[shard];

	if (stfs_shard_check(file) != -ESTALE && stfs_beside_is(tree->folder_fd, file->name, file->fd) == 1)
		return 0;
	return stfs_err_set(err, -ESTALE, STFS_NO_POSITION, "%s: another program has changed or replaced %s: what was "
			    "written over its bytes is not in the file that stands there now", tree->path, file->name);
}

/* Files that were written to in place, or by a commit just now. Only this thread replaces the model: it stays. */
static int sync_unsynced(struct stfs_tree *tree, bool committed, struct stfs_err *err)
{
	bool written;
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < tree->shard_count; i++) {
		written = atomic_exchange(&tree->unsynced[i], false);
		if (!written && !committed)
			continue;
		r = written ? stfs_io_sync(tree->model->shards[i].fd) : 0;
		if (r == 0)
			r = vouch_for(tree, i, err);
		if (r == 0)
			continue;
		if (r == -ESTALE) {
			atomic_store(&tree->unsynced[i], true); /* whoever asks next is told too */
			return r;
		}
		/* Nobody knows what of it is on the disk (fsync(2)): nothing more is written. */
		stfs_tree_lock(tree);
		tree->stuck = true;
		stfs_tree_unlock(tree);
		return stfs_err_errno(err, r, "%s: syncing %s", tree->path, tree->model->shards[i].name);
	}
	return r;
}

/* Copies what a layer has at most PIECE bytes of into the model; the lock is held exclusively. */
static int drain_some(struct stfs_tree *tree, uint32_t number, char *piece, bool *more)
{
	struct stfs_node *node = stfs_tree_get(tree, number);
	struct stfs_tree_base under = {tree, number};
	struct stfs_base base = {stfs_tree_read_base, &under};
	uint64_t at = 0, len = 0, start;
	uint32_t shard;
	int r = 0;

	*more = false;
	if (!node || !node->content || node->content->under || node->id == STFS_NO_TENSOR || node->detached ||
	    tree->staged || stfs_node_staged(node))
		return 0;
	if (!stfs_content_next(node->content, 0, &at, &len)) {
		stfs_content_free(node->content);
		node->content = NULL;
		return 0;
	}
	len = stfs_min_u64(len, PIECE);
	if (!stfs_tree_base_of(tree, node, &shard, &start))
		return -EIO;
	r = stfs_content_read(node->content, &base, piece, len, at);
	atomic_store(&tree->unsynced[shard], true);
	if (r == 0)
		r = stfs_io_write(tree->model->shards[shard].fd, piece, len, start + at);
	if (r == 0)
		stfs_content_drop(node->content, at, len);
	*more = r == 0;
	return r;
}

/* What was written to tensors while they could not be written in place. */
static int drain(struct stfs_tree *tree)
{
	STFS_AUTO_FREE char *piece = malloc(PIECE);
	bool more = false, seen = true;
	int r = piece ? 0 : -ENOMEM;

	for (uint32_t i = 0; r == 0 && seen; i += !more) {
		stfs_tree_lock(tree);
		while (!more && i < tree->node_count && !tree->nodes[i].content)
			i++;
		seen = i < tree->node_count;
		if (seen)
			r = drain_some(tree, i, piece, &more);
		stfs_tree_unlock(tree);
	}
	return r;
}

/* ---- The commit ---- */

/* What was taken may be written to again. */
static void unfreeze(struct stfs_tree *tree)
{
	for (size_t i = 0; i < tree->taking_count; i++) {
		struct stfs_node *node = &tree->nodes[tree->takings[i].node];

		if (node->content && node->content == tree->takings[i].frozen)
			node->content->frozen = false;
	}
}

/* Everything as it was, still pending. */
static void take_back(struct stfs_tree *tree)
{
	struct stfs_err why = STFS_ERR_INIT;

	stfs_tree_lock(tree);
	unfreeze(tree);
	tree->committing = false;
	tree->stuck = tree->stuck || stfs_edit_is_stuck(tree->edit);
	if (!tree->stuck) { /* else what was written stays where reading finds it */
		if (stfs_edit_pending(tree->edit) && stfs_edit_revert(tree->edit, &why) < 0)
			tree->stuck = true;
		stfs_takings_free(tree);
	}
	stfs_tree_unlock(tree);
}

static void drop_metadata(struct stfs_tree *tree)
{
	tree->metadata_staged = false;
	stfs_metadata_free(&tree->metadata);
	tree->metadata = (struct stfs_metadata){0};
}

/* What a commit has begun with. */
struct beginning {
	bool anything; /* there is something to commit */
	bool refused;
	bool metadata; /* is part of it, as of this edit: */
	uint64_t metadata_edits;
};

/* Collects and stages, with the tree held exclusively. */
static int begin(struct stfs_tree *tree, const struct stfs_commit_request *request, uint64_t most,
		 struct beginning *b, struct stfs_err *err)
{
	bool fresh = !tree->model && !tree->overwrite && (request->all || request->end);
	int r;

	*b = (struct beginning){.metadata = tree->metadata_staged, .metadata_edits = tree->metadata_edits};
	if (!tree->staged_any && !fresh)
		return 0;
	r = stfs_tree_take(tree, request, most, &b->refused, err);
	b->anything = r == 0 && stfs_edit_pending(tree->edit) &&
		    (tree->taking_count || tree->metadata_staged || fresh);
	tree->committing = b->anything;
	if (r == 0 && !b->anything && !tree->taking_count)
		drop_metadata(tree); /* it is what the model has */
	return r;
}

static void count_progress(void *data, uint64_t done, uint64_t total)
{
	struct stfs_tree *tree = data;

	atomic_store(&tree->done, done);
	atomic_store(&tree->total, total);
}

static int run(struct stfs_tree *tree, const struct beginning *b, struct stfs_err *err)
{
	const struct stfs_progress progress = {count_progress, tree};
	const struct stfs_edit_hooks hooks = {tree, stop, go_on, recorded, swapped};
	int r;

	stfs_edit_watch(tree->edit, &hooks);
	r = stfs_edit_commit(tree->edit, &progress, NULL, err);
	count_progress(tree, 0, 0);
	if (r < 0) {
		take_back(tree);
		return r;
	}
	stfs_tree_lock(tree);
	stfs_tree_say_as_bytes(tree);
	stfs_takings_free(tree);
	if (b->metadata && tree->metadata_edits == b->metadata_edits)
		drop_metadata(tree);
	stfs_tree_unlock(tree);
	return 0;
}

/* Bytes of the largest file that was taken with its bytes. */
static uint64_t largest_taken(const struct stfs_tree *tree)
{
	uint64_t largest = 0;

	for (size_t i = 0; i < tree->taking_count; i++)
		if (tree->takings[i].changes & (STFS_CHANGE_NEW | STFS_CHANGE_REPLACED))
			largest = stfs_max_u64(largest, tree->takings[i].len);
	return largest;
}

/* A commit without files of more than `most` bytes; *largest: the largest that it took. */
static int attempt(struct stfs_tree *tree, const struct stfs_commit_request *request, uint64_t most,
		   struct stfs_commit_report *report, struct beginning *b, uint64_t *largest, struct stfs_err *err)
{
	int r;

	stfs_tree_lock(tree);
	r = begin(tree, request, most, b, err);
	*largest = largest_taken(tree);
	if (b->anything)
		stfs_tree_report(tree, report);
	stfs_tree_unlock(tree);
	if (b->anything)
		r = run(tree, b, err);
	else
		take_back(tree);
	if (r < 0)
		stfs_commit_report_free(report);
	return r;
}

/*
 * What the disk has no room for does not keep out the rest: without the largest it is tried again. 0 also when nothing
 * was left then.
 */
static int commit_what_fits(struct stfs_tree *tree, const struct stfs_commit_request *request,
			    struct stfs_commit_report *report, struct beginning *b, struct stfs_err *err)
{
	struct stfs_err why = STFS_ERR_INIT;
	uint64_t most = UINT64_MAX, largest;
	int r = attempt(tree, request, most, report, b, &largest, err), first = r;

	while (r == -ENOSPC && !tree->stuck && largest) {
		most = most == UINT64_MAX ? largest - 1 : stfs_min_u64(largest - 1, most / 2);
		why = (struct stfs_err)STFS_ERR_INIT;
		r = attempt(tree, request, most, report, b, &largest, &why);
	}
	if (r < 0 && r != first && err)
		*err = why;
	report->no_room = first == -ENOSPC && r == 0;
	return r;
}

int stfs_tree_commit(struct stfs_tree *tree, const struct stfs_commit_request *request,
		     struct stfs_commit_report *report, struct stfs_err *err)
{
	struct beginning b;
	int r;

	*report = (struct stfs_commit_report){0};
	if (!tree->edit)
		return 0;
	if (tree->stuck)
		return stfs_err_set(err, -EROFS, STFS_NO_POSITION, "%s: a commit stopped half-way, or the disk failed: "
				    "unmount, then `stfs recover` it", tree->path);
	r = tree->arena ? stfs_arena_check(tree->arena) : 0;
	if (r < 0)
		return stfs_err_errno(err, r, "%s: what was staged could not be kept: its disk failed", tree->path);
	r = evacuate_all(tree, request);
	if (r < 0)
		return stfs_err_errno(err, r, "%s: keeping what is removed but open", tree->path);
	r = commit_what_fits(tree, request, report, &b, err);
	if (r < 0)
		return err && err->code != r ? stfs_err_errno(err, r, "%s", tree->path) : r;
	r = drain(tree);
	if (r < 0)
		return stfs_err_errno(err, r, "%s: writing what came during the commit", tree->path);
	report->refused = b.refused;
	return sync_unsynced(tree, b.anything, err);
}

/* ---- At the end ---- */

int stfs_tree_resume(struct stfs_tree *tree, struct stfs_err *err)
{
	enum stfs_recovered what;
	int r;

	if (!tree->edit || !stfs_edit_is_stuck(tree->edit))
		return 0;
	r = stfs_edit_resume(tree->edit, &what, err);
	if (r < 0)
		return r;
	stfs_tree_lock(tree);
	if (what == STFS_RECOVERED_OLD) {
		tree->model = stfs_edit_model(tree->edit);
		unfreeze(tree);
	}
	stfs_takings_free(tree);
	tree->stuck = false;
	stfs_tree_unlock(tree);
	return 0;
}

/* Whether all that was taken could be copied beside the model. */
static bool have_room_beside(const struct stfs_tree *tree)
{
	uint64_t need = STFS_SPOOL_HEADER;
	struct statvfs fs;

	for (size_t i = 0; i < tree->taking_count; i++)
		if (tree->takings[i].changes & (STFS_CHANGE_NEW | STFS_CHANGE_REPLACED) &&
		    stfs_add_overflows(need, tree->takings[i].len, &need))
			return false;
	return fstatvfs(tree->folder_fd, &fs) < 0 || !fs.f_blocks || need / fs.f_frsize < fs.f_bavail;
}

/* The spool, with what is staged from it, becomes the rescue file. */
static int keep_spool(struct stfs_tree *tree, struct stfs_err *err)
{
	bool lent = stfs_arena_fd(tree->arena) >= 0 && (tree->arena_beside || !have_room_beside(tree));
	bool away = lent && !tree->arena_beside;
	int r;

	if (lent)
		stfs_edit_lend_spool(tree->edit, stfs_arena_fd(tree->arena), stfs_arena_end(tree->arena));
	r = stfs_edit_rescue(tree->edit, away ? stfs_arena_folder(tree->arena) : -1, err);
	if (r == 0 && lent)
		stfs_arena_leave(tree->arena);
	return r < 0 ? r : away ? STFS_RESCUED_AWAY : STFS_RESCUED;
}

int stfs_tree_rescue(struct stfs_tree *tree, struct stfs_err *err)
{
	const struct stfs_commit_request request = {.end = true};
	struct beginning b;
	int r;

	if (!tree->edit || stfs_edit_is_stuck(tree->edit))
		return 0;
	stfs_tree_lock(tree);
	/* Also what only waited for a commit to end. */
	for (uint32_t i = 0; i < tree->node_count; i++)
		if (tree->nodes[i].used && tree->nodes[i].name != STFS_NO_NUMBER && tree->nodes[i].content)
			tree->nodes[i].content->staged = true;
	tree->staged_any = true;
	r = begin(tree, &request, UINT64_MAX, &b, err);
	tree->committing = false;
	stfs_tree_unlock(tree);
	if (r == 0 && b.anything)
		r = keep_spool(tree, err);
	stfs_tree_lock(tree);
	stfs_takings_free(tree);
	stfs_tree_unlock(tree);
	return r;
}
