/* SPDX-License-Identifier: MIT */
/* Opening a tree, and closing it. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "format/metadata.h"
#include "store/rescue.h"
#include "store/tree_pending.h"

/* Commits change the file, not the tensors in it: those that nobody touches keep the time that it had. */
static void keep_time(struct stfs_tree *tree, struct stfs_node *node, struct stfs_shard *shard)
{
	node->mtime = stfs_shard_view(shard).mtime;
	node->mtime_set = true;
	if (tree->metadata_mtime_set)
		return;
	tree->metadata_mtime = node->mtime;
	tree->metadata_mtime_set = true;
}

/* The nodes and names of the model as it was opened: number i of each is the i-th tensor that is shown. */
static int load(struct stfs_tree *tree)
{
	uint32_t ids = tree->model ? stfs_model_ids(tree->model) : 0, number, name;
	struct stfs_tensor_ref ref;
	size_t room = 0;
	char *at;
	int r = stfs_sipkey_random(&tree->key);

	for (uint32_t id = 0; id < ids; id++)
		room += stfs_model_tensor(tree->model, id, &ref) ? ref.name.len : 0;
	at = tree->texts = malloc(room ? room : 1);
	if (!at)
		return -ENOMEM;
	for (uint32_t id = 0; r == 0 && id < ids; id++) {
		if (!stfs_model_tensor(tree->model, id, &ref))
			continue;
		if (ref.name.len)
			memcpy(at, ref.name.ptr, ref.name.len);
		r = stfs_tree_add_name(tree, stfs_str_slice(at, ref.name.len), false, &name);
		at += ref.name.len;
		number = r == 0 ? stfs_tree_new_node(tree) : STFS_NO_NUMBER;
		if (r == 0 && number == STFS_NO_NUMBER)
			r = -ENOMEM;
		if (r < 0)
			break;
		tree->nodes[number].name = name;
		tree->nodes[number].id = id;
		tree->nodes[number].settled = true;
		if (tree->edit)
			keep_time(tree, &tree->nodes[number], ref.shard);
		tree->names[name].node = number;
	}
	return r < 0 ? r : stfs_tree_bind(tree, tree->model);
}

int stfs_tree_bind(struct stfs_tree *tree, const struct stfs_model *model)
{
	uint32_t ids = model ? stfs_model_ids(model) : 0, shards = model ? model->shard_count : 0;
	uint32_t *by_id = malloc((ids ? ids : 1) * sizeof(*by_id));
	_Atomic bool *unsynced = calloc(shards ? shards : 1, sizeof(*unsynced));

	if (!by_id || !unsynced) {
		free(by_id);
		free((void *)(uintptr_t)unsynced);
		return -ENOMEM;
	}
	memset(by_id, 0xff, ids * sizeof(*by_id));
	for (uint32_t i = 0; i < tree->node_count; i++)
		if (tree->nodes[i].used && tree->nodes[i].id != STFS_NO_TENSOR)
			by_id[tree->nodes[i].id] = i;
	free(tree->by_id);
	free((void *)(uintptr_t)tree->unsynced);
	tree->by_id = by_id;
	tree->unsynced = unsynced;
	tree->shard_count = shards;
	return 0;
}

static int open_readable(struct stfs_tree *tree, const struct stfs_tree_options *options, struct stfs_err *err)
{
	int r = stfs_model_open(options->path, STFS_OPEN_TOLERANT | STFS_OPEN_MAP | STFS_OPEN_LOCK,
				&tree->owned, err);

	tree->model = tree->owned;
	/* What is copied up from a tensor is read where it lies; and who edits wants a model anyway. */
	if (r == 0 && options->mode == STFS_TREE_COW && stfs_model_has_checkpoint(tree->owned))
		return stfs_model_say_checkpoint(options->path, err);
	if (r == 0)
		tree->folder_fd = fcntl(tree->owned->resolved.folder_fd, F_DUPFD_CLOEXEC, 3);
	return r == 0 && tree->folder_fd < 0 ? stfs_err_errno(err, -errno, "%s", options->path) : r;
}

/*
 * What an earlier mount could not commit comes first. When it cannot be either, nothing else is: another
 * rescue file could not be kept beside it. Then -EPERM.
 */
static int take_up_rescue(struct stfs_edit *edit, struct stfs_err *err)
{
	struct stfs_err why = STFS_ERR_INIT;
	int r = stfs_edit_take_up(edit, &why);

	if (r < 0)
		return stfs_err_set(err, -EPERM, STFS_NO_POSITION, "%s", why.code ? why.message : strerror(-r));
	if (r == 0)
		return 0;
	r = stfs_edit_commit(edit, NULL, NULL, &why);
	if (r == 0)
		r = stfs_edit_end_rescue(edit, &why);
	if (r < 0)
		return stfs_err_set(err, -EPERM, STFS_NO_POSITION, "%s: the edits in the rescue file of an earlier "
				    "mount cannot be committed (%s): `stfs recover` it, or move that file away",
				    stfs_edit_path(edit), why.code ? why.message : strerror(-r));
	stfs_log(STFS_LOG_WARNING, "%s: edits that an earlier mount could not commit were committed first",
		 stfs_edit_path(edit));
	return 0;
}

static int open_writable(struct stfs_tree *tree, const struct stfs_tree_options *options, struct stfs_err *err)
{
	unsigned flags = STFS_EDIT_MAP;
	int r;

	flags |= options->force ? STFS_EDIT_FORCE : 0;
	flags |= options->ignore_readers ? STFS_EDIT_IGNORE_READERS : 0;
	if (options->mode == STFS_TREE_CREATE) {
		flags |= options->overwrite ? STFS_EDIT_OVERWRITE : 0;
		r = stfs_edit_create(options->path, flags, &tree->edit, err);
	} else {
		r = stfs_edit_open(options->path, flags, &tree->edit, err);
		if (r == 0)
			r = take_up_rescue(tree->edit, err);
	}
	if (r < 0)
		return r;
	tree->model = stfs_edit_model(tree->edit);
	tree->folder_fd = fcntl(stfs_edit_folder(tree->edit), F_DUPFD_CLOEXEC, 3);
	/* Neither a spool nor a journal nor a rescue file could stand there. */
	tree->in_place_only = tree->folder_fd >= 0 && faccessat(tree->folder_fd, ".", W_OK, AT_EACCESS) < 0;
	return tree->folder_fd < 0 ? stfs_err_errno(err, -errno, "%s", options->path) : 0;
}

static int open_arena(struct stfs_tree *tree, const struct stfs_tree_options *options, struct stfs_err *err)
{
	STFS_AUTO_FD int folder = -1;
	const char *name = strrchr(options->path, '/');
	int r;

	if (options->mode == STFS_TREE_RO)
		return 0;
	if (options->spool_folder) {
		folder = open(options->spool_folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (folder < 0)
			return stfs_err_errno(err, -errno, "%s: the folder for the spool", options->spool_folder);
	}
	tree->arena_beside = folder < 0;
	r = stfs_arena_open(folder < 0 ? tree->folder_fd : folder, tree->folder_fd,
			    name ? name + 1 : options->path, &tree->arena);
	return r < 0 ? stfs_err_errno(err, r, "%s", options->path) : 0;
}

static void init_locks(struct stfs_tree *tree)
{
	pthread_rwlockattr_t attributes;

	pthread_rwlockattr_init(&attributes);
#ifdef __GLIBC__
	/* Readers that come one after the other must not keep a commit waiting for ever. */
	pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
#endif
	pthread_rwlock_init(&tree->lock, &attributes);
	pthread_rwlockattr_destroy(&attributes);
	for (int i = 0; i < STRIPES; i++)
		pthread_mutex_init(&tree->stripes[i], NULL);
}

int stfs_tree_open(const struct stfs_tree_options *options, struct stfs_tree **out, struct stfs_err *err)
{
	struct stfs_tree *tree = calloc(1, sizeof(*tree));
	int r;

	*out = NULL;
	if (!tree)
		return -ENOMEM;
	init_locks(tree);
	tree->mode = options->mode;
	tree->staged = options->staged || options->mode == STFS_TREE_COW;
	tree->folder_fd = -1;
	tree->overwrite = options->overwrite;
	tree->path = strdup(options->path);
	if (!tree->path)
		r = -ENOMEM;
	else if (options->mode == STFS_TREE_RO || options->mode == STFS_TREE_COW)
		r = open_readable(tree, options, err);
	else
		r = open_writable(tree, options, err);
	if (r == 0)
		r = open_arena(tree, options, err);
	if (r == 0)
		r = load(tree);
	if (r == 0)
		r = stfs_tree_metadata_text(tree);
	if (r < 0) {
		stfs_tree_close(tree);
		return err && err->code != r ? stfs_err_errno(err, r, "%s", options->path) : r;
	}
	*out = tree;
	return 0;
}

void stfs_tree_close(struct stfs_tree *tree)
{
	if (!tree)
		return;
	stfs_takings_free(tree); /* of a commit that got stuck */
	for (uint32_t i = 0; i < tree->node_count; i++)
		if (tree->nodes[i].used)
			stfs_node_free(&tree->nodes[i]);
	for (uint32_t i = 0; i < tree->name_count; i++) {
		if (tree->names[i].text_owned)
			free(tree->names[i].text);
		stfs_type_free(tree->names[i].declared);
	}
	free(tree->nodes);
	free(tree->free_nodes);
	free(tree->names);
	free(tree->free_names);
	free(tree->hashed);
	free(tree->texts);
	free(tree->by_id);
	free((void *)(uintptr_t)tree->unsynced);
	stfs_nametable_free(&tree->table);
	stfs_nametable_free(&tree->digests);
	stfs_metadata_free(&tree->metadata);
	stfs_buf_free(&tree->metadata_text);
	stfs_edit_close(tree->edit);
	stfs_model_close(tree->owned);
	stfs_arena_close(tree->arena);
	if (tree->folder_fd >= 0)
		close(tree->folder_fd);
	free(tree->path);
	for (int i = 0; i < STRIPES; i++)
		pthread_mutex_destroy(&tree->stripes[i]);
	pthread_rwlock_destroy(&tree->lock);
	free(tree);
}
