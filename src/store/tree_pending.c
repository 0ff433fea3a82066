/* SPDX-License-Identifier: MIT */
/* What is pending, and what a commit leaves out of it. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "store/tree_pending.h"

unsigned stfs_node_changes(const struct stfs_tree *tree, const struct stfs_node *node)
{
	unsigned changes = 0;
	struct stfs_str was;

	if (node->id == STFS_NO_TENSOR)
		return node->name == STFS_NO_NUMBER ? 0 : STFS_CHANGE_NEW;
	if (node->name == STFS_NO_NUMBER)
		return STFS_CHANGE_REMOVED;
	was = stfs_model_name_of(tree->model, node->id);
	if (!stfs_str_equal(was, stfs_tree_text(tree, node->name)))
		changes |= STFS_CHANGE_RENAMED;
	if (stfs_node_staged(node))
		changes |= STFS_CHANGE_REPLACED;
	else if (node->type)
		changes |= STFS_CHANGE_RETYPED;
	return changes;
}

static void say_misfit(const struct stfs_typing_view *view, uint64_t len, struct stfs_verdict *verdict)
{
	uint64_t *dims = stfs_typing_dims(view);
	size_t used;

	used = (size_t)snprintf(verdict->text, sizeof(verdict->text), "it has %" PRIu64 " bytes, its type %s [", len,
				stfs_dtype_info(view->dtype)->name);
	for (size_t i = 0; dims && i < view->rank && used < sizeof(verdict->text) / 2; i++)
		used += (size_t)snprintf(verdict->text + used, sizeof(verdict->text) - used, "%s%" PRIu64,
					 i ? "," : "", dims[i]);
	snprintf(verdict->text + used, sizeof(verdict->text) - used, "%s] has %" PRIu64
		 "%s: write the missing bytes, or a .json that fits",
		 view->rank && dims && used >= sizeof(verdict->text) / 2 ? ",..." : "", view->bytes,
		 view->rank ? ", and it is no number of whole rows" : "");
	free(dims);
	verdict->waits = verdict->text;
	verdict->misfit = true;
}

static bool is_asked(const struct stfs_commit_request *request, uint32_t number)
{
	for (size_t i = 0; i < request->count; i++)
		if (request->nodes[i] == number)
			return true;
	return false;
}

static void judge_type(struct stfs_tree *tree, const struct stfs_node *node, bool asked, bool end, unsigned changes,
		       struct stfs_verdict *verdict)
{
	struct stfs_typing_view view;

	stfs_node_typing(tree, node, &view);
	if (view.fit == STFS_FIT_NONE && asked)
		verdict->as_bytes = true;
	else if (view.fit == STFS_FIT_NONE)
		verdict->waits = "no type yet";
	else if (view.fit == STFS_FIT_NOT && end && !(changes & (STFS_CHANGE_NEW | STFS_CHANGE_REPLACED)))
		verdict->old_type = true; /* its bytes are as they were */
	else if (view.fit == STFS_FIT_NOT && end)
		verdict->as_bytes = true;
	else if (view.fit == STFS_FIT_ROWS && node->rewritten && !asked && stfs_node_len(tree, node) < view.bytes)
		/* Ctrl-C of cp leaves whole rows more often than not. */
		verdict->waits = "shorter than what it replaces: an explicit sync takes it so";
	else if (view.fit == STFS_FIT_NOT)
		say_misfit(&view, stfs_node_len(tree, node), verdict);
}

void stfs_node_judge(struct stfs_tree *tree, uint32_t number, unsigned changes,
		     const struct stfs_commit_request *request, struct stfs_verdict *verdict)
{
	const struct stfs_node *node = &tree->nodes[number];
	bool itself = is_asked(request, number), asked = request->all || request->end || itself;

	verdict->waits = NULL;
	verdict->misfit = verdict->as_bytes = verdict->old_type = false;
	if (changes == STFS_CHANGE_REMOVED) {
		if (node->scratch && !node->detached && !request->end)
			verdict->waits = "renamed to a scratch file: an explicit sync removes it";
		else if (node->opens && !node->detached && !request->end)
			verdict->waits = "still open";
		return;
	}
	if (changes & (STFS_CHANGE_NEW | STFS_CHANGE_REPLACED) && node->writers && !itself && !request->end) {
		verdict->waits = "open for writing";
		return;
	}
	if (tree->names[node->name].unresolved && !request->end) {
		verdict->waits = "its file name is a hash: write its .json, with its \"name\"";
		return;
	}
	if (changes & (STFS_CHANGE_NEW | STFS_CHANGE_REPLACED | STFS_CHANGE_RETYPED))
		judge_type(tree, node, asked, request->end, changes, verdict);
}

bool stfs_tree_is_misfit(struct stfs_tree *tree, uint32_t number)
{
	struct stfs_typing_view view = {.fit = STFS_FIT_NONE};
	struct stfs_node *node;

	stfs_tree_hold(tree);
	node = stfs_tree_get(tree, number);
	if (node && node->name != STFS_NO_NUMBER && stfs_node_changes(tree, node)) {
		pthread_mutex_lock(stfs_tree_stripe(tree, number));
		stfs_node_typing(tree, node, &view);
		pthread_mutex_unlock(stfs_tree_stripe(tree, number));
	}
	stfs_tree_release(tree);
	return view.fit == STFS_FIT_NOT;
}

/* Whether it is a sharded model whose last tensor is to go. */
static bool loses_last(const struct stfs_tree *tree)
{
	if (!tree->model || !stfs_model_is_sharded(tree->model))
		return false;
	for (uint32_t i = 0; i < tree->name_count; i++)
		if (tree->names[i].used && tree->names[i].node != STFS_NO_NUMBER)
			return false;
	return true;
}

static int tell(struct stfs_tree *tree, uint32_t number, unsigned changes, bool last_goes,
		int (*each)(void *data, const struct stfs_pending *pending), void *data)
{
	const struct stfs_commit_request automatic = {0};
	const struct stfs_node *node = &tree->nodes[number];
	struct stfs_pending pending = {.changes = changes};
	struct stfs_verdict verdict;

	pthread_mutex_lock(stfs_tree_stripe(tree, number));
	stfs_node_judge(tree, number, changes, &automatic, &verdict);
	pending.bytes = stfs_node_len(tree, node);
	pthread_mutex_unlock(stfs_tree_stripe(tree, number));
	if (node->id != STFS_NO_TENSOR)
		pending.from = stfs_model_name_of(tree->model, node->id);
	pending.name = node->name == STFS_NO_NUMBER ? pending.from : stfs_tree_text(tree, node->name);
	pending.waits = verdict.waits;
	pending.misfit = verdict.misfit;
	if (!pending.waits && changes == STFS_CHANGE_REMOVED && last_goes) {
		pending.waits = STFS_KEEPS_ONE;
		pending.misfit = true;
	}
	return each(data, &pending);
}

int stfs_tree_pending(struct stfs_tree *tree, int (*each)(void *data, const struct stfs_pending *pending),
		      void *data)
{
	bool last_goes = loses_last(tree);
	struct stfs_pending metadata = {.changes = STFS_CHANGE_METADATA, .name = stfs_str_from("__metadata__")};
	unsigned changes;
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < tree->node_count; i++) {
		if (!tree->nodes[i].used)
			continue;
		pthread_mutex_lock(stfs_tree_stripe(tree, i));
		changes = stfs_node_changes(tree, &tree->nodes[i]);
		pthread_mutex_unlock(stfs_tree_stripe(tree, i));
		if (changes)
			r = tell(tree, i, changes, last_goes, each, data);
	}
	if (r == 0 && tree->metadata_staged) {
		metadata.bytes = tree->metadata_text.len;
		r = each(data, &metadata);
	}
	return r;
}
