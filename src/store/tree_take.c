/* SPDX-License-Identifier: MIT */
/* What of the tree goes into a commit, and the edits of it. The tree is held exclusively. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "store/tree_pending.h"

/* ---- Taking: what goes in ---- */

void stfs_takings_free(struct stfs_tree *tree)
{
	for (size_t i = 0; i < tree->taking_count; i++) {
		free(tree->takings[i].name);
		free(tree->takings[i].pieces);
		if (tree->nodes[tree->takings[i].node].taking != &tree->takings[i])
			continue;
		tree->nodes[tree->takings[i].node].taking = NULL;
		stfs_tree_sweep(tree, tree->takings[i].node); /* it may have been removed meanwhile */
	}
	free(tree->takings);
	tree->takings = NULL;
	tree->taking_count = 0;
}

struct collecting {
	struct stfs_tree *tree;
	const struct stfs_commit_request *request;
	uint64_t most; /* bytes: larger files are left out */
	struct stfs_err *err;
	bool refused;
};

/* One node: taken, or left out with a reason. */
static int take(struct collecting *c, uint32_t number, unsigned changes)
{
	struct stfs_tree *tree = c->tree;
	struct stfs_node *node = &tree->nodes[number];
	struct stfs_taking *taking = &tree->takings[tree->taking_count];
	char quoted[STFS_QUOTED_MAX];
	struct stfs_verdict verdict;
	struct stfs_str name;

	stfs_node_judge(tree, number, changes, c->request, &verdict);
	if (verdict.misfit && c->request->all && !c->refused) {
		c->refused = true;
		stfs_err_set(c->err, -EINVAL, STFS_NO_POSITION, "tensor \"%s\": %s",
			     stfs_quote(stfs_tree_text(tree, node->name), quoted), verdict.waits);
	}
	if (verdict.old_type)
		changes &= ~(unsigned)STFS_CHANGE_RETYPED;
	if (verdict.waits || !changes)
		return 0;
	if (changes & (STFS_CHANGE_NEW | STFS_CHANGE_REPLACED) && stfs_node_len(tree, node) > c->most)
		return 0;
	*taking = (struct stfs_taking){.node = number, .id = node->id, .changes = changes,
				       .serial = node->type ? node->type->serial : 0,
				       .len = stfs_node_len(tree, node), .as_bytes = verdict.as_bytes};
	if (changes != STFS_CHANGE_REMOVED) {
		name = stfs_tree_text(tree, node->name);
		taking->name = malloc(name.len + 1);
		if (!taking->name)
			return -ENOMEM;
		if (name.len)
			memcpy(taking->name, name.ptr, name.len);
		taking->name[name.len] = '\0';
		taking->name_len = name.len;
	}
	node->taking = taking;
	tree->taking_count++;
	return 0;
}

/* Whether a tensor that was replaced by another file has to stay, because that file is left out. */
static bool is_needed(const struct stfs_tree *tree, const struct stfs_taking *taking)
{
	struct stfs_str was = stfs_model_name_of(tree->model, taking->id);
	uint32_t heir = stfs_tree_named(tree, stfs_tree_lookup(tree, was));

	return heir != STFS_NO_NUMBER && !tree->nodes[heir].taking;
}

/* The node that has in the model the name that this one wants, or STFS_NO_NUMBER. */
static uint32_t holder_of(const struct stfs_tree *tree, const struct stfs_taking *taking)
{
	uint32_t id = taking->name && tree->model ? stfs_model_find(tree->model, stfs_taking_name(taking)) : STFS_NO_TENSOR;

	return id == STFS_NO_TENSOR ? STFS_NO_NUMBER : tree->by_id[id];
}

/* Whether the name that it wants is another's in the model, who keeps it. */
static bool is_blocked(const struct stfs_tree *tree, const struct stfs_taking *taking)
{
	uint32_t holder = holder_of(tree, taking);

	if (!taking->name)
		return is_needed(tree, taking);
	return holder != STFS_NO_NUMBER && holder != taking->node && !tree->nodes[holder].taking;
}

/* Leaves one out that was taken. */
static void drop(struct stfs_tree *tree, struct stfs_taking *taking)
{
	struct stfs_taking *last = &tree->takings[--tree->taking_count];

	tree->nodes[taking->node].taking = NULL;
	free(taking->name);
	if (last == taking)
		return;
	*taking = *last;
	tree->nodes[taking->node].taking = taking;
}

/* Leaves out who wants the name of one that is left out, and so on; each is dropped once, so this ends. */
static int drop_blocked(struct stfs_tree *tree)
{
	size_t count = tree->taking_count;
	STFS_AUTO_FREE uint32_t *suspects = malloc((3 * count + 1) * sizeof(*suspects));
	uint32_t holder, heir;

	if (!suspects)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		suspects[i] = tree->takings[i].node;
	while (count) {
		struct stfs_taking *taking = tree->nodes[suspects[--count]].taking;

		if (!taking || !is_blocked(tree, taking))
			continue;
		/* Who has in the model the name that it wanted stays there, if it was to go; who wants its own has to wait. */
		holder = holder_of(tree, taking);
		if (holder != STFS_NO_NUMBER)
			suspects[count++] = holder;
		heir = taking->id == STFS_NO_TENSOR ? STFS_NO_NUMBER
			: stfs_tree_named(tree, stfs_tree_lookup(tree, stfs_model_name_of(tree->model, taking->id)));
		if (heir != STFS_NO_NUMBER)
			suspects[count++] = heir;
		drop(tree, taking);
	}
	return 0;
}

/* Of a sharded model one tensor stays, for its index to name a file. */
static void keep_one(struct collecting *c)
{
	struct stfs_tree *tree = c->tree;
	struct stfs_taking *first = NULL;
	char quoted[STFS_QUOTED_MAX];
	uint64_t left = tree->model ? tree->model->shown : 0;

	if (!tree->model || !stfs_model_is_sharded(tree->model))
		return;
	for (size_t i = 0; i < tree->taking_count; i++) {
		struct stfs_taking *taking = &tree->takings[i];

		left += taking->changes == STFS_CHANGE_NEW;
		left -= taking->changes == STFS_CHANGE_REMOVED;
		if (taking->changes == STFS_CHANGE_REMOVED && (!first || taking->id < first->id))
			first = taking;
	}
	if (left || !first)
		return;
	if ((c->request->all || c->request->end) && !c->refused) {
		c->refused = true;
		stfs_err_set(c->err, -EINVAL, STFS_NO_POSITION, "tensor \"%s\": " STFS_KEEPS_ONE,
			     stfs_quote(stfs_model_name_of(tree->model, first->id), quoted));
	}
	drop(tree, first);
}

static int collect(struct collecting *c)
{
	struct stfs_tree *tree = c->tree;
	size_t count = 0;
	unsigned changes;
	int r = 0;

	for (uint32_t i = 0; i < tree->node_count; i++)
		count += tree->nodes[i].used && stfs_node_changes(tree, &tree->nodes[i]);
	tree->takings = calloc(count ? count : 1, sizeof(*tree->takings));
	if (!tree->takings)
		return -ENOMEM;
	if (count == 0 && !tree->metadata_staged)
		atomic_store(&tree->staged_any, false);
	for (uint32_t i = 0; r == 0 && i < tree->node_count; i++) {
		changes = tree->nodes[i].used ? stfs_node_changes(tree, &tree->nodes[i]) : 0;
		if (changes)
			r = take(c, i, changes);
	}
	if (r == 0)
		r = drop_blocked(tree);
	if (r == 0)
		keep_one(c);
	return r;
}

/* ---- Staging: in the edit ---- */

/* Where the bytes of a node are now. */
static int list_pieces(struct stfs_tree *tree, struct stfs_taking *taking, struct stfs_source *source)
{
	const struct stfs_node *node = &tree->nodes[taking->node];
	struct stfs_piece *grown;
	struct stfs_run run;
	uint64_t base = 0;
	uint32_t shard = 0;
	size_t count = 0, cap = 0;
	bool has_base = stfs_tree_base_of(tree, node, &shard, &base);

	for (uint64_t at = 0; at < taking->len; at += run.len) {
		stfs_content_run(node->content, at, taking->len - at, &run);
		if (count == cap) {
			cap = cap ? 2 * cap : 4;
			grown = reallocarray(taking->pieces, cap, sizeof(*grown));
			if (!grown)
				return -ENOMEM;
			taking->pieces = grown;
		}
		if (run.len == 0 || (run.kind == STFS_RUN_BASE && !has_base))
			return -EIO;
		taking->pieces[count] = (struct stfs_piece){.fd = -1, .len = run.len};
		if (run.kind == STFS_RUN_ARENA)
			taking->pieces[count] = (struct stfs_piece){stfs_arena_fd(tree->arena), run.offset, run.len};
		else if (run.kind == STFS_RUN_BASE)
			taking->pieces[count] = (struct stfs_piece){tree->model->shards[shard].fd,
								    base + run.offset, run.len};
		count++;
	}
	*source = (struct stfs_source){.fd = -1, .pieces = taking->pieces, .piece_count = count};
	/* In one piece: such bytes can stay where they are in a rescue file. */
	if (count <= 1 && (count == 0 || taking->pieces[0].fd >= 0))
		*source = (struct stfs_source){.fd = count ? taking->pieces[0].fd : stfs_arena_fd(tree->arena),
					       .offset = count ? taking->pieces[0].offset : STFS_SPOOL_HEADER};
	return 0;
}

static int stage_bytes(struct stfs_tree *tree, struct stfs_taking *taking, struct stfs_err *err)
{
	struct stfs_node *node = &tree->nodes[taking->node];
	STFS_AUTO_FREE uint64_t *dims = NULL;
	struct stfs_typing_view view;
	struct stfs_source source;
	int r = list_pieces(tree, taking, &source);

	if (r < 0)
		return r;
	stfs_node_typing(tree, node, &view);
	if (taking->as_bytes)
		view = (struct stfs_typing_view){.dtype = STFS_U8, .rank = 1, .dims = &taking->len};
	dims = stfs_typing_dims(&view);
	if (!dims)
		return -ENOMEM;
	r = stfs_edit_put(tree->edit, stfs_taking_name(taking), view.dtype, dims, view.rank, source, err);
	if (r == 0) {
		taking->frozen = node->content;
		node->content->frozen = true;
	}
	return r;
}

static int stage_type(struct stfs_tree *tree, struct stfs_taking *taking, struct stfs_err *err)
{
	STFS_AUTO_FREE uint64_t *dims = NULL;
	struct stfs_typing_view view;

	stfs_node_typing(tree, &tree->nodes[taking->node], &view);
	dims = stfs_typing_dims(&view);
	if (!dims)
		return -ENOMEM;
	return stfs_edit_retype(tree->edit, stfs_taking_name(taking), view.dtype, dims, view.rank, err);
}

/* Whether a new tensor is put under this name: it takes the place of the old one, also in the header. */
bool stfs_tree_puts_anew(const struct stfs_tree *tree, struct stfs_str name)
{
	uint32_t number = stfs_tree_lookup(tree, name), node = stfs_tree_named(tree, number);

	return node != STFS_NO_NUMBER && tree->nodes[node].taking &&
	       tree->nodes[node].taking->changes == STFS_CHANGE_NEW;
}

static int stage_removals(struct stfs_tree *tree, struct stfs_err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < tree->taking_count; i++) {
		struct stfs_str name;

		if (tree->takings[i].changes != STFS_CHANGE_REMOVED)
			continue;
		name = stfs_model_name_of(tree->model, tree->takings[i].id);
		if (!stfs_tree_puts_anew(tree, name))
			r = stfs_edit_remove(tree->edit, name, err);
	}
	return r;
}

static int stage_renames(struct stfs_tree *tree, struct stfs_err *err)
{
	STFS_AUTO_FREE struct stfs_edit_pair *pairs = calloc(tree->taking_count + 1, sizeof(*pairs));
	size_t count = 0;

	if (!pairs)
		return -ENOMEM;
	for (size_t i = 0; i < tree->taking_count; i++)
		if (tree->takings[i].changes & STFS_CHANGE_RENAMED)
			pairs[count++] = (struct stfs_edit_pair){
				stfs_model_name_of(tree->model, tree->takings[i].id), stfs_taking_name(&tree->takings[i])};
	return count ? stfs_edit_rename(tree->edit, pairs, count, false, err) : 0;
}

static int stage_metadata(struct stfs_tree *tree, struct stfs_err *err)
{
	if (!tree->metadata_staged)
		return 0;
	return tree->metadata.count ? stfs_edit_set_all(tree->edit, tree->metadata.pairs, tree->metadata.count, err)
				    : stfs_edit_unset_all(tree->edit, err);
}

static int stage(struct stfs_tree *tree, struct stfs_err *err)
{
	int r = stage_removals(tree, err);

	if (r == 0)
		r = stage_renames(tree, err);
	for (size_t i = 0; r == 0 && i < tree->taking_count; i++) {
		struct stfs_taking *taking = &tree->takings[i];

		if (taking->changes & (STFS_CHANGE_NEW | STFS_CHANGE_REPLACED))
			r = stage_bytes(tree, taking, err);
		else if (taking->changes & STFS_CHANGE_RETYPED)
			r = stage_type(tree, taking, err);
	}
	return r < 0 ? r : stage_metadata(tree, err);
}

int stfs_tree_take(struct stfs_tree *tree, const struct stfs_commit_request *request, uint64_t most, bool *refused,
		   struct stfs_err *err)
{
	struct collecting c = {.tree = tree, .request = request, .most = most, .err = err};
	int r = collect(&c);

	if (r == 0)
		r = stage(tree, err);
	*refused = c.refused;
	for (size_t i = 0; r == 0 && request->left_out && i < request->count; i++) {
		const struct stfs_node *node = stfs_tree_get(tree, request->nodes[i]);

		request->left_out[i] = node && !node->taking && stfs_node_linked(node) && stfs_node_changes(tree, node);
	}
	return r;
}
