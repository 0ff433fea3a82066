/* SPDX-License-Identifier: MIT */
/* The types of nodes: what goes together with how many bytes. */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "base/arith.h"
#include "format/names.h"
#include "store/tree_internal.h"

void stfs_type_free(struct stfs_type *type)
{
	if (type)
		free(type->dims);
	free(type);
}

struct stfs_type *stfs_type_make(enum stfs_dtype dtype, const uint64_t *dims, size_t rank, uint64_t bytes)
{
	static _Atomic uint64_t serial;
	struct stfs_type *type = malloc(sizeof(*type));

	if (!type)
		return NULL;
	*type = (struct stfs_type){.dtype = dtype, .rank = rank, .bytes = bytes,
				   .serial = atomic_fetch_add(&serial, 1) + 1};
	type->dims = malloc((rank ? rank : 1) * sizeof(*dims));
	if (!type->dims) {
		free(type);
		return NULL;
	}
	for (size_t i = 0; i < rank; i++)
		type->dims[i] = dims[i];
	return type;
}

uint64_t *stfs_typing_dims(const struct stfs_typing_view *view)
{
	uint64_t *dims = malloc((view->rank ? view->rank : 1) * sizeof(*dims));

	if (!dims)
		return NULL;
	if (!view->dims)
		stfs_header_shape(view->ref.shard->header, view->ref.tensor, dims);
	for (size_t i = 0; view->dims && i < view->rank; i++)
		dims[i] = view->dims[i];
	if (view->other_first)
		dims[0] = view->first;
	return dims;
}

/*
 * Bytes of one row: the product of the other dimensions. 0 when there are no rows, or they are empty or
 * do not end on a byte.
 */
static uint64_t row_bytes(const struct stfs_typing_view *view)
{
	uint64_t *dims, elements = 1, bytes = 0;
	bool overflow = false;

	if (view->rank == 0)
		return 0;
	dims = stfs_typing_dims(view);
	if (!dims)
		return 0;
	for (size_t i = 1; i < view->rank; i++)
		overflow |= stfs_mul_overflows(elements, dims[i], &elements);
	if (overflow || stfs_dtype_bytes(view->dtype, elements, &bytes) < 0)
		bytes = 0;
	free(dims);
	return bytes;
}

void stfs_node_typing(struct stfs_tree *tree, const struct stfs_node *node, struct stfs_typing_view *view)
{
	uint64_t len = stfs_node_len(tree, node), row;

	*view = (struct stfs_typing_view){.fit = STFS_FIT_NONE};
	if (node->type) {
		view->dtype = node->type->dtype;
		view->rank = node->type->rank;
		view->dims = node->type->dims;
		view->bytes = node->type->bytes;
	} else if (node->id != STFS_NO_TENSOR && stfs_model_tensor(tree->model, node->id, &view->ref)) {
		view->dtype = (enum stfs_dtype)view->ref.tensor->dtype;
		view->rank = view->ref.tensor->rank;
		view->bytes = view->ref.len;
	} else {
		return;
	}
	view->fit = view->bytes == len ? STFS_FIT_EXACT : STFS_FIT_NOT;
	if (view->fit == STFS_FIT_EXACT || !node->settled)
		return;
	row = row_bytes(view);
	if (!row || len % row)
		return;
	view->fit = STFS_FIT_ROWS;
	view->other_first = true;
	view->first = len / row;
}

static bool has_long_name(const struct stfs_tree *tree, uint32_t name)
{
	char file[STFS_NAME_MAX + 1];
	size_t len;

	if (tree->names[name].len <= STFS_NAME_MAX / 3 || tree->names[name].unresolved)
		return false;
	len = stfs_tree_file_name(tree, name, file);
	return stfs_name_is_hashed(stfs_str_slice(file, len));
}

bool stfs_tree_typing(struct stfs_tree *tree, uint32_t name, struct stfs_typing_view *view)
{
	uint32_t number = stfs_tree_named(tree, name);
	const struct stfs_type *declared;
	struct stfs_node_view node;

	if (name >= tree->name_count || !tree->names[name].used)
		return false;
	declared = tree->names[name].declared;
	if (number != STFS_NO_NUMBER) {
		pthread_mutex_lock(stfs_tree_stripe(tree, number));
		stfs_node_typing(tree, &tree->nodes[number], view);
		pthread_mutex_unlock(stfs_tree_stripe(tree, number));
	} else if (declared) {
		*view = (struct stfs_typing_view){.fit = STFS_FIT_NOT, .dtype = declared->dtype,
						  .rank = declared->rank, .dims = declared->dims,
						  .bytes = declared->bytes};
	} else {
		return false;
	}
	if (tree->names[name].mtime_set)
		view->mtime = tree->names[name].mtime;
	else if (number != STFS_NO_NUMBER && stfs_tree_node(tree, number, &node))
		view->mtime = node.mtime;
	view->name = stfs_tree_text(tree, name);
	view->long_name = has_long_name(tree, name);
	return true;
}

void stfs_node_settle(struct stfs_tree *tree, struct stfs_node *node)
{
	struct stfs_typing_view view;

	if (node->settled || !node->type)
		return;
	stfs_node_typing(tree, node, &view);
	node->settled = view.fit == STFS_FIT_EXACT;
}

/* Whether the model has the node's tensor with this very type. */
static bool is_base_type(const struct stfs_tree *tree, const struct stfs_node *node,
			 const struct stfs_wanted_type *wanted)
{
	struct stfs_typing_view base = {0};
	uint64_t *dims;
	bool same;

	if (node->id == STFS_NO_TENSOR || !stfs_model_tensor(tree->model, node->id, &base.ref))
		return false;
	base.rank = base.ref.tensor->rank;
	if (base.ref.tensor->dtype != wanted->dtype || base.rank != wanted->rank)
		return false;
	dims = stfs_typing_dims(&base);
	same = dims && (!base.rank || memcmp(dims, wanted->dims, base.rank * sizeof(*dims)) == 0);
	free(dims);
	return same;
}

int stfs_tree_declare(struct stfs_tree *tree, uint32_t name, const struct stfs_wanted_type *wanted)
{
	struct stfs_type *type = stfs_type_make(wanted->dtype, wanted->dims, wanted->rank, wanted->bytes);
	struct stfs_node *node;
	uint32_t number;
	int r = type ? 0 : -ENOMEM;

	stfs_tree_lock(tree);
	if (r == 0)
		r = stfs_tree_may_stage(tree);
	number = stfs_tree_named(tree, name);
	if (r == 0 && number != STFS_NO_NUMBER) {
		node = &tree->nodes[number];
		if (is_base_type(tree, node, wanted)) {
			stfs_type_free(type);
			type = NULL;
		}
		stfs_type_free(node->type);
		node->type = type;
		/* A type that does not fit yet waits for the bytes that were announced with it. */
		node->settled = !type;
		stfs_node_settle(tree, node);
	} else if (r == 0) {
		stfs_type_free(tree->names[name].declared);
		tree->names[name].declared = type;
		tree->names[name].settled = false;
	} else {
		stfs_type_free(type);
	}
	if (r == 0) {
		tree->names[name].text_removed = false;
		clock_gettime(CLOCK_REALTIME, &tree->names[name].mtime);
		tree->names[name].mtime_set = true;
		tree->generation++;
		tree->staged_any = true;
	}
	stfs_tree_unlock(tree);
	if (r == 0)
		stfs_tree_tell(tree);
	return r;
}

void stfs_tree_set_text_mtime(struct stfs_tree *tree, uint32_t name, const struct timespec *mtime)
{
	stfs_tree_lock(tree);
	if (name == STFS_NO_NUMBER) {
		tree->metadata_mtime = *mtime;
		tree->metadata_mtime_set = true;
	} else if (name < tree->name_count) {
		tree->names[name].mtime = *mtime;
		tree->names[name].mtime_set = true;
	}
	stfs_tree_unlock(tree);
}
