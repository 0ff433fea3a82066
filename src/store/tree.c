/* SPDX-License-Identifier: MIT */
/* Opening, locks, nodes. */
#include "store/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "format/metadata.h"
#include "store/rescue.h"
#include "store/tree_pending.h"

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

static void free_node(struct stfs_node *node)
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
	free_node(node);
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

void stfs_tree_end_writing(struct stfs_tree *tree, uint32_t number)
{
	struct stfs_node *node;
	bool last;

	stfs_tree_hold(tree);
	node = stfs_tree_get(tree, number);
	last = atomic_fetch_sub(&node->writers, 1) == 1;
	if (last) {
		pthread_mutex_lock(stfs_tree_stripe(tree, number));
		if (node->content && !node->content->frozen)
			stfs_content_settle(node->content);
		pthread_mutex_unlock(stfs_tree_stripe(tree, number));
	}
	stfs_tree_release(tree);
	if (!last)
		return;
	stfs_tree_lock(tree);
	node = stfs_tree_get(tree, number);
	if (node && node->writers == 0)
		stfs_node_settle(tree, node);
	stfs_tree_unlock(tree);
	/* What was left out because it was open may go in now. */
	stfs_tree_tell(tree);
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

const char *stfs_tree_path(const struct stfs_tree *tree)
{
	return tree->path;
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

/* ---- Opening ---- */

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
			free_node(&tree->nodes[i]);
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
