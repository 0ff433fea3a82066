/* SPDX-License-Identifier: MIT */
#ifndef STFS_STORE_TREE_PENDING_H
#define STFS_STORE_TREE_PENDING_H

#include "store/tree_internal.h"

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

#endif
