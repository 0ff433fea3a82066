/* SPDX-License-Identifier: MIT */
/* The bytes of nodes. */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "store/tree_internal.h"

/* What is copied within the directory in one call: the tree is held meanwhile. */
#define COPY_MOST (16u << 20)
#define PIECE (1u << 20)

/* ---- The tensor under the layers ---- */

bool stfs_tree_base_of(const struct stfs_tree *tree, const struct stfs_node *node, uint32_t *shard,
		       uint64_t *offset)
{
	struct stfs_tensor_ref ref;

	if (node->taking && node->taking->written) {
		*shard = node->taking->shard;
		*offset = node->taking->offset;
		return true;
	}
	if (node->id == STFS_NO_TENSOR || !stfs_model_tensor(tree->model, node->id, &ref))
		return false;
	*shard = (uint32_t)(ref.shard - tree->model->shards);
	*offset = ref.offset;
	return true;
}

/* Where byte `offset` of the tensor under the layers is now. */
static int place_base(const struct stfs_tree *tree, const struct stfs_node *node, uint64_t offset,
		      uint64_t most, struct stfs_place *place)
{
	struct stfs_shard *file;
	uint64_t start, now;
	uint32_t shard;
	int r = 0;

	if (!stfs_tree_base_of(tree, node, &shard, &start))
		return -EIO;
	place->len = most;
	/* Of a checkpoint: nothing is ever staged over it, so the place is that of the tensor. */
	if (start == STFS_NO_OFFSET) {
		place->assembled = true;
		place->offset = offset;
		return 0;
	}
	file = &tree->model->shards[shard];
	now = start + offset;
	if (tree->edit)
		r = stfs_edit_where(tree->edit, shard, start + offset, most, &now, &place->len);
	place->fd = file->fd;
	place->offset = now;
	/* While bytes move they may lie behind what is mapped. */
	place->mapping = tree->committing || tree->stuck ? NULL : &file->mapping;
	return r;
}

int stfs_tree_read_base(void *data, void *buffer, size_t len, uint64_t offset)
{
	const struct stfs_tree_base *base = data;
	const struct stfs_node *node = &base->tree->nodes[base->node];
	struct stfs_place place;
	size_t done = 0;
	int r = 0;

	while (r == 0 && done < len) {
		r = place_base(base->tree, node, offset + done, len - done, &place);
		if (r == 0)
			r = stfs_io_read_exactly(place.fd, (char *)buffer + done, place.len, place.offset);
		done += r == 0 ? place.len : 0;
	}
	return r;
}

uint64_t stfs_node_len(const struct stfs_tree *tree, const struct stfs_node *node)
{
	struct stfs_tensor_ref ref;

	if (node->content)
		return node->content->size;
	if (node->id == STFS_NO_TENSOR || !stfs_model_tensor(tree->model, node->id, &ref))
		return 0;
	return ref.len;
}

bool stfs_node_staged(const struct stfs_node *node)
{
	for (const struct stfs_content *c = node->content; c; c = c->under)
		if (c->staged)
			return true;
	return false;
}

/* ---- Reading ---- */

int stfs_tree_place(struct stfs_tree *tree, uint32_t number, uint64_t offset, uint64_t most,
		    struct stfs_place *place)
{
	struct stfs_node *node = stfs_tree_get(tree, number);
	struct stfs_run run = {.kind = STFS_RUN_BASE, .offset = offset};
	uint64_t len;
	int r = 0;

	*place = (struct stfs_place){.fd = -1};
	if (!node)
		return -EIO;
	pthread_mutex_lock(stfs_tree_stripe(tree, number));
	len = stfs_node_len(tree, node);
	most = offset < len ? stfs_min_u64(most, len - offset) : 0;
	run.len = most;
	if (node->content && most)
		stfs_content_run(node->content, offset, most, &run);
	pthread_mutex_unlock(stfs_tree_stripe(tree, number));
	place->len = run.len;
	if (most == 0 || run.kind == STFS_RUN_ZERO)
		return 0;
	if (run.kind == STFS_RUN_BASE)
		return place_base(tree, node, run.offset, run.len, place);
	place->fd = stfs_arena_fd(tree->arena);
	place->offset = run.offset;
	return r;
}

/* Bytes of a tensor that have to be put together. */
static int assemble(const struct stfs_tree *tree, uint32_t number, void *buffer, const struct stfs_place *place)
{
	struct stfs_tensor_ref ref;
	ssize_t got;

	if (!stfs_model_tensor(tree->model, tree->nodes[number].id, &ref))
		return -EIO;
	got = stfs_model_pread(tree->model, &ref, buffer, place->len, place->offset);
	return got < 0 ? (int)got : (uint64_t)got == place->len ? 0 : -EIO;
}

ssize_t stfs_tree_pread(struct stfs_tree *tree, uint32_t number, void *buffer, size_t len, uint64_t offset)
{
	struct stfs_place place;
	size_t done = 0;
	int r;

	while (done < len) {
		r = stfs_tree_place(tree, number, offset + done, len - done, &place);
		if (r < 0)
			return r;
		if (place.len == 0)
			break;
		if (place.assembled)
			r = assemble(tree, number, (char *)buffer + done, &place);
		else if (place.fd < 0)
			memset((char *)buffer + done, 0, place.len);
		else
			r = stfs_io_read_exactly(place.fd, (char *)buffer + done, place.len, place.offset);
		if (r < 0)
			return r;
		done += place.len;
	}
	return (ssize_t)done;
}

/* ---- Layers ---- */

int stfs_tree_layer(struct stfs_tree *tree, uint32_t number, bool staged)
{
	struct stfs_node *node = &tree->nodes[number];
	struct stfs_content *fresh;
	uint64_t len;

	if (node->content && !node->content->frozen) {
		node->content->staged |= staged;
		return 0;
	}
	len = stfs_node_len(tree, node);
	fresh = stfs_content_new(tree->arena, len, len, node->content);
	if (!fresh)
		return -ENOMEM;
	fresh->staged = staged;
	node->content = fresh;
	return 0;
}

/* ---- Writing ---- */

/* A write within a tensor that nothing stands in the way of goes straight to the model. */
static bool goes_in_place(const struct stfs_tree *tree, const struct stfs_node *node, uint64_t end)
{
	return tree->edit && !tree->staged && !tree->committing && !node->content &&
	       node->id != STFS_NO_TENSOR && end <= stfs_node_len(tree, node);
}

static int write_in_place(struct stfs_tree *tree, struct stfs_node *node, const void *bytes, size_t len,
			  uint64_t offset)
{
	uint64_t start;
	uint32_t shard;
	int r;

	if (!stfs_tree_base_of(tree, node, &shard, &start))
		return -EIO;
	if (stfs_shard_view(&tree->model->shards[shard]).stale)
		return -ESTALE;
	r = stfs_io_write(tree->model->shards[shard].fd, bytes, len, start + offset);
	/* Set afterwards: a sync that came in between has cleared it, and may have missed these bytes. */
	atomic_store(&tree->unsynced[shard], true);
	return r;
}

static int write_layer(struct stfs_tree *tree, uint32_t number, const void *bytes, size_t len,
		       uint64_t offset)
{
	struct stfs_tree_base under = {tree, number};
	struct stfs_base base = {stfs_tree_read_base, &under};
	struct stfs_node *node = &tree->nodes[number];
	bool grows = offset + len > stfs_node_len(tree, node);
	int r = tree->in_place_only ? -EACCES : stfs_tree_layer(tree, number, tree->staged || grows);

	atomic_store(&tree->staged_any, true);
	/* Its type may fit no more, or again: .npy and .json come and go with that. */
	tree->generation += grows;
	return r < 0 ? r : stfs_content_write(node->content, &base, bytes, len, offset);
}

/* A gap takes no room of the spool, but of the model: its writer is told that there is none, not a commit afterwards. */
static int check_gap(const struct stfs_tree *tree, const struct stfs_node *node, uint64_t until)
{
	uint64_t len = stfs_node_len(tree, node);

	if (until <= len || tree->mode == STFS_TREE_COW)
		return 0;
	return stfs_arena_check_room(tree->arena, until - len, false);
}

int stfs_tree_write(struct stfs_tree *tree, uint32_t number, const void *bytes, size_t len, uint64_t offset)
{
	struct stfs_node *node;
	bool staged = false;
	int r;

	if (len > INT64_MAX || offset > INT64_MAX - len)
		return -EFBIG;
	stfs_tree_hold(tree);
	r = stfs_tree_may_change(tree);
	node = r == 0 ? stfs_tree_get(tree, number) : NULL;
	if (r == 0 && !node)
		r = -EIO;
	if (r == 0 && len) {
		pthread_mutex_lock(stfs_tree_stripe(tree, number));
		if (goes_in_place(tree, node, offset + len)) {
			pthread_mutex_unlock(stfs_tree_stripe(tree, number));
			r = write_in_place(tree, node, bytes, len, offset);
			pthread_mutex_lock(stfs_tree_stripe(tree, number));
			/* A layer that was put over it meanwhile may have copied up what was there before. */
			if (r == 0 && node->content)
				r = write_layer(tree, number, bytes, len, offset);
		} else {
			r = check_gap(tree, node, offset);
			if (r == 0)
				r = write_layer(tree, number, bytes, len, offset);
			staged = true;
		}
		stfs_node_touch(node);
		pthread_mutex_unlock(stfs_tree_stripe(tree, number));
	}
	stfs_tree_release(tree);
	if (staged && r == 0)
		stfs_tree_tell(tree);
	return r;
}

/* Everything anew: the old bytes go, but for what a commit has taken. */
static int start_over(struct stfs_tree *tree, struct stfs_node *node)
{
	struct stfs_content *fresh = stfs_content_new(tree->arena, 0, 0, NULL);

	if (!fresh)
		return -ENOMEM;
	if (node->taking && node->taking->frozen)
		stfs_content_bury(fresh, node->content);
	else
		stfs_content_free(node->content);
	fresh->staged = true;
	node->content = fresh;
	node->detached = false;
	node->rewritten = true;
	return 0;
}

int stfs_tree_check_room(struct stfs_tree *tree, uint64_t bytes)
{
	return tree->arena ? stfs_arena_check_room(tree->arena, bytes, true) : -EROFS;
}

int stfs_tree_resize(struct stfs_tree *tree, uint32_t number, uint64_t len, bool rewrite)
{
	struct stfs_node *node;
	int r;

	if (len > INT64_MAX)
		return -EFBIG;
	stfs_tree_lock(tree);
	r = stfs_tree_may_stage(tree);
	node = stfs_tree_get(tree, number);
	if (r == 0 && !node)
		r = -EIO;
	if (r == 0 && (rewrite || len != stfs_node_len(tree, node))) {
		r = check_gap(tree, node, len);
		if (r == 0)
			r = len == 0 ? start_over(tree, node) : stfs_tree_layer(tree, number, true);
		if (r == 0 && len)
			r = stfs_content_resize(node->content, len);
		if (r == 0)
			stfs_node_touch(node);
		tree->staged_any = true;
		tree->generation++;
	}
	stfs_tree_unlock(tree);
	if (r == 0)
		stfs_tree_tell(tree);
	return r;
}

/* Where a layer takes writes zeros take no room: 0, 1 when there is none, -errno. */
static int zero_layer(struct stfs_tree *tree, uint32_t number, uint64_t offset, uint64_t len)
{
	struct stfs_tree_base under = {tree, number};
	struct stfs_base base = {stfs_tree_read_base, &under};
	struct stfs_node *node;
	int r;

	/* Exclusively: blocks are given back, which somebody may be reading. */
	stfs_tree_lock(tree);
	r = stfs_tree_may_change(tree);
	node = stfs_tree_get(tree, number);
	if (r == 0 && !node)
		r = -EIO;
	if (r == 0) {
		if (!node->content || node->content->frozen || offset + len > node->content->size)
			r = 1;
		else
			r = stfs_content_zero(node->content, &base, offset, len);
		if (r == 0) {
			node->content->staged |= tree->staged;
			tree->staged_any = true;
			stfs_node_touch(node);
		}
	}
	stfs_tree_unlock(tree);
	if (r == 0)
		stfs_tree_tell(tree);
	return r;
}

int stfs_tree_zero(struct stfs_tree *tree, uint32_t number, uint64_t offset, uint64_t len)
{
	STFS_AUTO_FREE char *zeros = NULL;
	int r = zero_layer(tree, number, offset, len);

	if (r <= 0)
		return r;
	zeros = calloc(1, PIECE);
	r = zeros ? 0 : -ENOMEM;
	for (uint64_t done = 0, now; r == 0 && done < len; done += now) {
		now = stfs_min_u64(len - done, PIECE);
		r = stfs_tree_write(tree, number, zeros, now, offset + done);
	}
	return r;
}

ssize_t stfs_tree_copy(struct stfs_tree *tree, uint32_t from, uint64_t from_at, uint32_t to, uint64_t to_at,
		       size_t len)
{
	STFS_AUTO_FREE char *piece = malloc(PIECE);
	size_t done = 0;
	ssize_t got;
	int r = piece ? 0 : -ENOMEM;

	len = stfs_min_u64(len, COPY_MOST);
	while (r == 0 && done < len) {
		stfs_tree_hold(tree);
		got = stfs_tree_pread(tree, from, piece, stfs_min_u64(PIECE, len - done), from_at + done);
		stfs_tree_release(tree);
		if (got == 0)
			break;
		r = got < 0 ? (int)got : stfs_tree_write(tree, to, piece, (size_t)got, to_at + done);
		done += r == 0 ? (size_t)got : 0;
	}
	return done || r == 0 ? (ssize_t)done : r;
}
