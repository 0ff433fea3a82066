/* SPDX-License-Identifier: MIT */
/* What gives names to nodes and takes them away. */
#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "store/tree_internal.h"

static void changed(struct stfs_tree *tree)
{
	tree->generation++;
	tree->staged_any = true;
}

/* T1: the node loses its name, or its scratch name. */
static void take_name(struct stfs_tree *tree, struct stfs_node *node)
{
	if (node->name != STFS_NO_NUMBER)
		tree->names[node->name].node = STFS_NO_NUMBER;
	node->name = STFS_NO_NUMBER;
	if (node->scratch) {
		tree->scratches--;
		free(node->scratch);
	}
	node->scratch = NULL;
}

/* The name is free. What was declared for it becomes the type of a node that has none. */
static void give_name(struct stfs_tree *tree, uint32_t number, uint32_t name)
{
	struct stfs_node *node = &tree->nodes[number];
	struct stfs_treename *n = &tree->names[name];

	node->name = name;
	node->hidden = node->detached = false;
	n->node = number;
	if (n->declared && !node->type && node->id == STFS_NO_TENSOR) {
		node->type = n->declared;
		node->settled = n->settled;
		n->declared = NULL;
	}
	n->text_removed = n->settled = false;
	stfs_type_free(n->declared);
	n->declared = NULL;
}

void stfs_tree_absorb(struct stfs_tree *tree, uint32_t number)
{
	struct stfs_node *node;

	stfs_tree_lock(tree);
	node = stfs_tree_get(tree, number);
	if (node)
		node->absorbed = true;
	stfs_tree_unlock(tree);
}

static void remove_node(struct stfs_tree *tree, uint32_t number)
{
	take_name(tree, &tree->nodes[number]);
	stfs_tree_sweep(tree, number);
}

/* A staged file without bytes. */
static int make_node(struct stfs_tree *tree, uint32_t *number)
{
	struct stfs_node *node;

	*number = stfs_tree_new_node(tree);
	if (*number == STFS_NO_NUMBER)
		return -ENOMEM;
	node = &tree->nodes[*number];
	node->content = stfs_content_new(tree->arena, 0, 0, NULL);
	if (!node->content) {
		stfs_tree_sweep(tree, *number);
		return -ENOMEM;
	}
	node->content->staged = true;
	stfs_node_touch(node);
	return 0;
}

static void count_open(struct stfs_node *node, bool opened)
{
	node->lookups = 1;
	node->opens = node->writers = opened;
}

int stfs_tree_create(struct stfs_tree *tree, uint32_t name, bool opened, uint32_t *number)
{
	int r;

	stfs_tree_lock(tree);
	r = stfs_tree_may_stage(tree);
	if (r == 0 && tree->names[name].node != STFS_NO_NUMBER)
		r = -EEXIST;
	if (r == 0)
		r = make_node(tree, number);
	if (r == 0) {
		give_name(tree, *number, name);
		count_open(&tree->nodes[*number], opened);
		changed(tree);
	}
	stfs_tree_unlock(tree);
	if (r == 0)
		stfs_tree_tell(tree);
	return r;
}

int stfs_tree_create_scratch(struct stfs_tree *tree, struct stfs_str file, bool opened, uint32_t *number)
{
	char *text = stfs_tree_copy_text(file);
	int r;

	if (!text)
		return -ENOMEM;
	stfs_tree_lock(tree);
	r = stfs_tree_may_stage(tree);
	if (r == 0 && stfs_tree_scratch(tree, file) != STFS_NO_NUMBER)
		r = -EEXIST;
	if (r == 0)
		r = make_node(tree, number);
	if (r == 0) {
		tree->nodes[*number].scratch = stfs_steal_ptr(&text);
		tree->scratches++;
		tree->generation++;
		count_open(&tree->nodes[*number], opened);
	}
	stfs_tree_unlock(tree);
	free(text);
	return r;
}

int stfs_tree_create_hidden(struct stfs_tree *tree, uint32_t *number)
{
	int r;

	stfs_tree_lock(tree);
	r = stfs_tree_may_stage(tree);
	if (r == 0)
		r = make_node(tree, number);
	if (r == 0) {
		tree->nodes[*number].hidden = true;
		tree->nodes[*number].opens = tree->nodes[*number].writers = 1;
	}
	stfs_tree_unlock(tree);
	return r;
}

/*
 * The sidecar of a tensor that is removed: a file of its own, which stays until it is removed as well. 0 or
 * -ENOMEM.
 */
static int leave_sidecar(struct stfs_tree *tree, struct stfs_treename *name)
{
	const struct stfs_node *node = &tree->nodes[name->node];
	STFS_AUTO_FREE uint64_t *dims = NULL;
	struct stfs_typing_view view;

	stfs_node_typing(tree, node, &view);
	if (view.fit == STFS_FIT_NONE || name->text_removed)
		return 0;
	dims = stfs_typing_dims(&view);
	if (!dims)
		return -ENOMEM;
	name->declared = stfs_type_make(view.dtype, dims, view.rank,
					view.other_first ? stfs_node_len(tree, node) : view.bytes);
	name->settled = node->settled;
	return name->declared ? 0 : -ENOMEM;
}

int stfs_tree_remove(struct stfs_tree *tree, uint32_t name)
{
	uint32_t number;
	int r;

	stfs_tree_lock(tree);
	r = stfs_tree_may_stage(tree);
	number = stfs_tree_named(tree, name);
	if (r == 0 && number == STFS_NO_NUMBER)
		r = -ENOENT;
	if (r == 0)
		r = leave_sidecar(tree, &tree->names[name]);
	if (r == 0) {
		remove_node(tree, number);
		changed(tree);
	}
	stfs_tree_unlock(tree);
	if (r == 0)
		stfs_tree_tell(tree);
	return r;
}

int stfs_tree_remove_scratch(struct stfs_tree *tree, struct stfs_str file)
{
	uint32_t number;
	int r;

	stfs_tree_lock(tree);
	r = stfs_tree_may_stage(tree);
	number = stfs_tree_scratch(tree, file);
	if (r == 0 && number == STFS_NO_NUMBER)
		r = -ENOENT;
	if (r == 0) {
		remove_node(tree, number);
		tree->generation++;
	}
	stfs_tree_unlock(tree);
	return r;
}

void stfs_tree_undeclare(struct stfs_tree *tree, uint32_t name)
{
	stfs_tree_lock(tree);
	stfs_type_free(tree->names[name].declared);
	tree->names[name].declared = NULL;
	tree->names[name].text_removed = tree->names[name].node != STFS_NO_NUMBER;
	tree->generation++;
	stfs_tree_unlock(tree);
}

/* A file without a type takes that of the one whose place it takes. 0 or -ENOMEM. */
static int inherit(struct stfs_tree *tree, struct stfs_node *node, struct stfs_node *old)
{
	struct stfs_typing_view view;
	STFS_AUTO_FREE uint64_t *dims = NULL;

	if (node->type || node->id != STFS_NO_TENSOR)
		return 0;
	stfs_node_typing(tree, old, &view);
	if (view.fit == STFS_FIT_NONE)
		return 0;
	view.other_first = false; /* the type, not the rows that it had come to have */
	dims = stfs_typing_dims(&view);
	if (!dims)
		return -ENOMEM;
	node->type = stfs_type_make(view.dtype, dims, view.rank, view.bytes);
	node->settled = old->settled;
	return node->type ? 0 : -ENOMEM;
}

int stfs_tree_rename(struct stfs_tree *tree, uint32_t number, uint32_t name, bool keep)
{
	struct stfs_node *node;
	uint32_t old;
	int r;

	stfs_tree_lock(tree);
	r = stfs_tree_may_stage(tree);
	node = stfs_tree_get(tree, number);
	if (r == 0 && (!node || (!stfs_node_linked(node) && !node->hidden)))
		r = -ENOENT;
	old = stfs_tree_named(tree, name);
	if (r == 0 && keep && old != STFS_NO_NUMBER)
		r = -EEXIST;
	if (r == 0 && old != STFS_NO_NUMBER && old != number)
		r = inherit(tree, node, &tree->nodes[old]);
	if (r == 0 && old != number) {
		if (old != STFS_NO_NUMBER)
			remove_node(tree, old);
		take_name(tree, node);
		give_name(tree, number, name);
		if (node->writers == node->resting) /* a type that was there before its bytes */
			stfs_node_settle(tree, node);
		changed(tree);
	}
	stfs_tree_unlock(tree);
	if (r == 0)
		stfs_tree_tell(tree);
	return r;
}

int stfs_tree_renumber(struct stfs_tree *tree, uint32_t *number)
{
	struct stfs_node *old, *node;
	uint32_t fresh;
	int r = 0;

	stfs_tree_lock(tree);
	old = stfs_tree_get(tree, *number);
	if (!old || old->opens || old->writers)
		r = -EBUSY;
	fresh = r == 0 ? stfs_tree_new_node(tree) : STFS_NO_NUMBER;
	if (r == 0 && fresh == STFS_NO_NUMBER)
		r = -ENOMEM;
	if (r == 0) {
		old = &tree->nodes[*number];
		node = &tree->nodes[fresh];
		*node = *old;
		node->lookups = 0;
		*old = (struct stfs_node){.name = STFS_NO_NUMBER, .id = STFS_NO_TENSOR, .used = true,
					  .lookups = old->lookups};
		if (node->name != STFS_NO_NUMBER)
			tree->names[node->name].node = fresh;
		if (node->id != STFS_NO_TENSOR)
			tree->by_id[node->id] = fresh;
		if (node->taking)
			node->taking->node = fresh;
		stfs_tree_sweep(tree, *number);
		*number = fresh;
	}
	stfs_tree_unlock(tree);
	return r;
}

int stfs_tree_rename_scratch(struct stfs_tree *tree, uint32_t number, struct stfs_str file, bool keep)
{
	char *text = stfs_tree_copy_text(file);
	struct stfs_node *node;
	uint32_t old;
	int r;

	if (!text)
		return -ENOMEM;
	stfs_tree_lock(tree);
	r = stfs_tree_may_stage(tree);
	node = stfs_tree_get(tree, number);
	if (r == 0 && (!node || !stfs_node_linked(node)))
		r = -ENOENT;
	old = stfs_tree_scratch(tree, file);
	if (r == 0 && keep && old != STFS_NO_NUMBER)
		r = -EEXIST;
	if (r == 0 && old != number) {
		if (old != STFS_NO_NUMBER)
			remove_node(tree, old);
		take_name(tree, node);
		node->scratch = stfs_steal_ptr(&text);
		tree->scratches++;
		changed(tree);
	}
	stfs_tree_unlock(tree);
	free(text);
	if (r == 0)
		stfs_tree_tell(tree);
	return r;
}

/* The bytes of a hidden node become those of another, which keeps its place in model and directory. */
static void swap_content(struct stfs_tree *tree, struct stfs_node *node, struct stfs_node *hidden)
{
	struct stfs_content *fresh = hidden->content;

	hidden->content = NULL;
	/* What a commit has taken stays until it is over. */
	if (node->taking && node->taking->frozen)
		stfs_content_bury(fresh, node->content);
	else
		stfs_content_free(node->content);
	node->content = fresh;
	node->detached = false;
}

int stfs_tree_adopt(struct stfs_tree *tree, uint32_t name, uint32_t *number, uint64_t skip,
		    const struct stfs_wanted_type *wanted)
{
	struct stfs_type *type = stfs_type_make(wanted->dtype, wanted->dims, wanted->rank, wanted->bytes);
	struct stfs_node *node, *hidden;
	uint32_t old;
	int r;

	if (!type)
		return -ENOMEM;
	stfs_tree_lock(tree);
	r = stfs_tree_may_stage(tree);
	if (r == 0) {
		node = hidden = &tree->nodes[*number];
		stfs_content_cut_front(hidden->content, skip);
		old = tree->names[name].node;
		if (old != STFS_NO_NUMBER) {
			node = &tree->nodes[old];
			swap_content(tree, node, hidden);
			*number = old;
		} else {
			give_name(tree, *number, name);
			node->lookups = 0;
		}
		stfs_type_free(node->type);
		node->type = stfs_steal_ptr(&type);
		node->settled = false;
		stfs_node_settle(tree, node);
		stfs_node_touch(node);
		changed(tree);
	}
	stfs_tree_unlock(tree);
	stfs_type_free(type);
	if (r == 0)
		stfs_tree_tell(tree);
	return r;
}
