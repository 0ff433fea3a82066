/* SPDX-License-Identifier: MIT */
#ifndef STFS_STORE_TREE_PENDING_H
#define STFS_STORE_TREE_PENDING_H

#include "store/tree_internal.h"

#define STFS_KEEPS_ONE "the last one: a sharded model keeps a tensor, for its index to name a file; add another first"

/* What a commit says to a change. */
struct stfs_verdict {
	const char *waits; /* it is left out, and why; may be `text` */
	bool misfit;       /* because it fits no type */
	bool as_bytes;     /* it goes in as U8 [n] */
	bool old_type;     /* the type that was asked for is dropped */
	char text[256];
};

/* How the node differs from the model as committed, of enum stfs_change. The stripe is held, or the tree. */
unsigned stfs_node_changes(const struct stfs_tree *tree, const struct stfs_node *node);
void stfs_node_judge(struct stfs_tree *tree, uint32_t number, unsigned changes,
		     const struct stfs_commit_request *request, struct stfs_verdict *verdict);


/* ---- A commit: tree_take.c, tree_report.c ---- */

static inline struct stfs_str stfs_taking_name(const struct stfs_taking *taking)
{
	return stfs_str_slice(taking->name, taking->name_len);
}

/*
 * Collects what goes into the commit, but no file of more than `most` bytes, freezes it and stages it in the edit. 0 with tree->takings set and *refused
 * told; -errno with `err`.
 */
int stfs_tree_take(struct stfs_tree *tree, const struct stfs_commit_request *request, uint64_t most, bool *refused,
		   struct stfs_err *err);
void stfs_takings_free(struct stfs_tree *tree);
/* Whether a new tensor is put under this name: it takes the place of the old one, also in the header. */
bool stfs_tree_puts_anew(const struct stfs_tree *tree, struct stfs_str name);

/* The tree is held. */
void stfs_tree_report(const struct stfs_tree *tree, struct stfs_commit_report *report);
/* Says in the log which tensors became U8. */
void stfs_tree_say_as_bytes(const struct stfs_tree *tree);

#endif
