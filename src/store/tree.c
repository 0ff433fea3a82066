/* SPDX-License-Identifier: MIT */
/* Locks, nodes. */
#include "store/tree.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "base/arith.h"
#include "store/tree_internal.h"

/* ---- Locks ---- */

void stfs_tree_hold(struct stfs_tree *tree)
{
	pthread_rwlock_rdlock(&tree->lock);
}

void stfs_tree_release(struct stfs_tree *tree)
{
	pthread_rwlock_unlock(&tree->lock);
}

void stfs_tree_lock(struct stfs_tree *tree)
{
	pthread_rwlock_wrlock(&tree->lock);
}

void stfs_tree_unlock(struct stfs_tree *tree)
{
	pthread_rwlock_unlock(&tree->lock);
}

void stfs_tree_tell(struct stfs_tree *tree)
{
	if (tree->changed)
		tree->changed(tree->changed_data);
}

void stfs_tree_on_change(struct stfs_tree *tree, void (*changed)(void *data), void *data)
{
	tree->changed = changed;
	tree->changed_data = data;
}

int stfs_tree_may_stage(const struct stfs_tree *tree)
{
	int r = stfs_tree_may_change(tree);

	return r == 0 && tree->in_place_only ? -EACCES : r;
}

bool stfs_tree_in_place_only(const struct stfs_tree *tree)
{
	return tree->in_place_only;
}

int stfs_tree_may_change(const struct stfs_tree *tree)
{
	return tree->mode == STFS_TREE_RO || tree->stuck ? -EROFS : 0;
}

/* ---- Nodes ---- */

struct stfs_node *stfs_tree_get(struct stfs_tree *tree, uint32_t number)
{
	return number < tree->node_count && tree->nodes[number].used ? &tree->nodes[number] : NULL;
}

static int grow_nodes(struct stfs_tree *tree, uint32_t room)
{
	struct stfs_node *nodes;
	uint32_t cap = tree->node_cap ? tree->node_cap : 64;

	while (cap < room && cap < STFS_NO_NUMBER / 4)
		cap *= 2;
	if (cap < room)
		return -EOVERFLOW;
	if (cap == tree->node_cap)
		return 0;
	nodes = reallocarray(tree->nodes, cap, sizeof(*nodes));
	if (!nodes)
		return -ENOMEM;
	tree->nodes = nodes;
	tree->node_cap = cap;
	return 0;
}

uint32_t stfs_tree_new_node(struct stfs_tree *tree)
{
	uint32_t number;

	if (tree->free_count) {
		number = tree->free_nodes[--tree->free_count];
	} else {
		if (grow_nodes(tree, tree->node_count + 1) < 0)
			return STFS_NO_NUMBER;
		number = tree->node_count++;
	}
	tree->nodes[number] = (struct stfs_node){.name = STFS_NO_NUMBER, .id = STFS_NO_TENSOR, .used = true};
	return number;
}

void stfs_node_free(struct stfs_node *node)
{
	stfs_content_free(node->content);
	stfs_type_free(node->type);
	free(node->scratch);
}

void stfs_tree_sweep(struct stfs_tree *tree, uint32_t number)
{
	struct stfs_node *node = stfs_tree_get(tree, number);
	uint32_t *grown;

	if (!node || stfs_node_linked(node) || node->opens || node->taking)
		return;
	/* Nobody reads them any more; what stands in the model is removed by the next commit. */
	stfs_content_free(node->content);
	node->content = NULL;
	if (node->id != STFS_NO_TENSOR || node->lookups)
		return;
	stfs_node_free(node);
	*node = (struct stfs_node){0};
	if (tree->free_count == tree->free_cap) {
		uint32_t cap = tree->free_cap ? 2 * tree->free_cap : 64;

		grown = reallocarray(tree->free_nodes, cap, sizeof(*grown));
		if (!grown)
			return; /* its number is lost, no more */
		tree->free_nodes = grown;
		tree->free_cap = cap;
	}
	tree->free_nodes[tree->free_count++] = number;
}

void stfs_tree_know_node(struct stfs_tree *tree, uint32_t number)
{
	struct stfs_node *node = stfs_tree_get(tree, number);

	if (node)
		node->lookups++;
}

void stfs_tree_forget_node(struct stfs_tree *tree, uint32_t number, uint64_t times)
{
	struct stfs_node *node;
	bool last = false;

	stfs_tree_hold(tree);
	node = stfs_tree_get(tree, number);
	if (node)
		last = atomic_fetch_sub(&node->lookups, times) == times && !stfs_node_linked(node);
	stfs_tree_release(tree);
	if (!last)
		return;
	stfs_tree_lock(tree);
	stfs_tree_sweep(tree, number);
	stfs_tree_unlock(tree);
}

void stfs_tree_opened(struct stfs_tree *tree, uint32_t number)
{
	stfs_tree_get(tree, number)->opens++;
}

void stfs_tree_closed(struct stfs_tree *tree, uint32_t number)
{
	struct stfs_node *node;
	bool last;

	stfs_tree_hold(tree);
	node = stfs_tree_get(tree, number);
	last = atomic_fetch_sub(&node->opens, 1) == 1 && !stfs_node_linked(node);
	stfs_tree_release(tree);
	if (!last)
		return;
	stfs_tree_lock(tree);
	stfs_tree_sweep(tree, number);
	stfs_tree_unlock(tree);
	/* A removal that was left out because it was open may go in now. */
	stfs_tree_tell(tree);
}

void stfs_tree_begin_writing(struct stfs_tree *tree, uint32_t number)
{
	stfs_tree_hold(tree);
	stfs_tree_get(tree, number)->writers++;
	stfs_tree_release(tree);
}

void stfs_tree_resume_writing(struct stfs_tree *tree, uint32_t number)
{
	stfs_tree_hold(tree);
	stfs_tree_get(tree, number)->resting--;
	stfs_tree_release(tree);
}

static bool all_rest(const struct stfs_node *node)
{
	return node->writers == node->resting;
}

static void settle_at_rest(struct stfs_tree *tree, uint32_t number)
{
	struct stfs_node *node;

	stfs_tree_lock(tree);
	node = stfs_tree_get(tree, number);
	if (node && all_rest(node))
		stfs_node_settle(tree, node);
	stfs_tree_unlock(tree);
}

void stfs_tree_rest_writing(struct stfs_tree *tree, uint32_t number)
{
	struct stfs_node *node;
	bool may_settle;

	stfs_tree_hold(tree);
	node = stfs_tree_get(tree, number);
	node->resting++;
	may_settle = all_rest(node) && node->type && !node->settled;
	stfs_tree_release(tree);
	if (may_settle) /* seldom: nothing else here waits for readers */
		settle_at_rest(tree, number);
}

/* The counts are compared when both are right, so that of two that end or rest at once the later one sees it. */
static void end_writing(struct stfs_tree *tree, uint32_t number, bool rested)
{
	struct stfs_node *node;
	bool last, all;

	stfs_tree_hold(tree);
	node = stfs_tree_get(tree, number);
	if (rested)
		node->resting--;
	last = atomic_fetch_sub(&node->writers, 1) == 1;
	all = all_rest(node);
	if (last) {
		pthread_mutex_lock(stfs_tree_stripe(tree, number));
		if (node->content && !node->content->frozen)
			stfs_content_settle(node->content);
		pthread_mutex_unlock(stfs_tree_stripe(tree, number));
	}
	stfs_tree_release(tree);
	if (all)
		settle_at_rest(tree, number);
	if (last) /* what was left out because it was open may go in now */
		stfs_tree_tell(tree);
}

void stfs_tree_end_writing(struct stfs_tree *tree, uint32_t number)
{
	end_writing(tree, number, false);
}

void stfs_tree_end_resting(struct stfs_tree *tree, uint32_t number)
{
	end_writing(tree, number, true);
}

bool stfs_tree_node(struct stfs_tree *tree, uint32_t number, struct stfs_node_view *view)
{
	struct stfs_node *node = stfs_tree_get(tree, number);
	struct stfs_tensor_ref ref;

	if (!node)
		return false;
	*view = (struct stfs_node_view){.scratch = node->scratch != NULL, .linked = stfs_node_linked(node),
					.name = node->name, .mode = node->mode, .mode_set = node->mode_set,
					.opens = node->opens, .id = node->id,
					.absorbed = node->absorbed};
	if (node->scratch)
		view->file = stfs_str_from(node->scratch);
	if (node->id != STFS_NO_TENSOR && stfs_model_tensor(tree->model, node->id, &ref)) {
		struct stfs_shard_view shard = stfs_shard_view(ref.shard);

		view->shard = ref.shard;
		view->mtime = shard.mtime;
		view->ctime = shard.ctime;
	}
	view->typeless = node->id == STFS_NO_TENSOR && !node->type;
	pthread_mutex_lock(stfs_tree_stripe(tree, number));
	view->len = stfs_node_len(tree, node);
	view->allocated = node->content ? stfs_content_blocks(node->content) * 512 : 0;
	/* A block is far larger than most tensors, and of a small one only the beginning is written. */
	view->allocated = stfs_min_u64(view->allocated, stfs_align_up(view->len, 4096));
	if (node->mtime_set)
		view->mtime = view->ctime = node->mtime;
	pthread_mutex_unlock(stfs_tree_stripe(tree, number));
	return true;
}

void stfs_node_touch(struct stfs_node *node)
{
	clock_gettime(CLOCK_REALTIME, &node->mtime);
	node->mtime_set = true;
}

void stfs_tree_set_mtime(struct stfs_tree *tree, uint32_t number, const struct timespec *mtime)
{
	struct stfs_node *node;

	stfs_tree_hold(tree);
	node = stfs_tree_get(tree, number);
	if (node) {
		pthread_mutex_lock(stfs_tree_stripe(tree, number));
		node->mtime = *mtime;
		node->mtime_set = true;
		pthread_mutex_unlock(stfs_tree_stripe(tree, number));
	}
	stfs_tree_release(tree);
}

void stfs_tree_set_mode(struct stfs_tree *tree, uint32_t number, uint32_t mode)
{
	struct stfs_node *node;

	stfs_tree_lock(tree);
	node = stfs_tree_get(tree, number);
	if (node) {
		node->mode = mode & 07777;
		node->mode_set = true;
	}
	stfs_tree_unlock(tree);
}

/* ---- What the tree is ---- */

enum stfs_tree_mode stfs_tree_mode(const struct stfs_tree *tree)
{
	return tree->mode;
}

const struct stfs_model *stfs_tree_model(const struct stfs_tree *tree)
{
	return tree->model;
}

uint32_t stfs_tree_nodes(const struct stfs_tree *tree)
{
	return tree->node_count;
}

uint32_t stfs_tree_names(const struct stfs_tree *tree)
{
	return tree->name_count;
}

uint64_t stfs_tree_generation(const struct stfs_tree *tree)
{
	return tree->generation;
}

bool stfs_tree_is_stuck(const struct stfs_tree *tree)
{
	return tree->stuck;
}

bool stfs_tree_is_committing(const struct stfs_tree *tree)
{
	return tree->committing;
}

void stfs_tree_progress(const struct stfs_tree *tree, uint64_t *done, uint64_t *total)
{
	*done = atomic_load(&tree->done);
	*total = atomic_load(&tree->total);
}

uint64_t stfs_tree_spooled(const struct stfs_tree *tree)
{
	return tree->arena ? stfs_arena_used(tree->arena) : 0;
}

int stfs_tree_folder(const struct stfs_tree *tree)
{
	return tree->folder_fd;
}
