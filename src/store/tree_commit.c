/* SPDX-License-Identifier: MIT */
/*
 * From nodes to the edits of one commit, and back. One thread at a time is in here (stfs_tree_commit);
 * what it has taken is in tree->takings meanwhile.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "base/log.h"
#include "store/rescue.h"
#include "store/tree_pending.h"

/* Bytes that are copied while nobody may read: far below the 64 MiB that are allowed. */
#define PIECE (4u << 20)
#define LISTED_MOST 100

/* ---- Taking: what goes in ---- */

static void free_takings(struct stfs_tree *tree)
{
	for (size_t i = 0; i < tree->taking_count; i++) {
		free(tree->takings[i].name);
		free(tree->takings[i].pieces);
		if (tree->nodes[tree->takings[i].node].taking == &tree->takings[i])
			tree->nodes[tree->takings[i].node].taking = NULL;
	}
	free(tree->takings);
	tree->takings = NULL;
	tree->taking_count = 0;
}

struct collecting {
	struct stfs_tree *tree;
	const struct stfs_commit_request *request;
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

static struct stfs_str name_of(const struct stfs_taking *taking)
{
	return stfs_str_slice(taking->name, taking->name_len);
}

/* Whether a tensor that was replaced by another file has to stay, because that file is left out. */
static bool is_needed(const struct stfs_tree *tree, const struct stfs_taking *taking)
{
	struct stfs_str was = stfs_model_name_of(tree->model, taking->id);
	uint32_t heir = stfs_tree_named(tree, stfs_tree_lookup(tree, was));

	return heir != STFS_NO_NUMBER && !tree->nodes[heir].taking;
}

/* Whether the name that it wants is another's in the model, who keeps it. */
static bool is_blocked(const struct stfs_tree *tree, const struct stfs_taking *taking)
{
	uint32_t id = taking->name && tree->model ? stfs_model_find(tree->model, name_of(taking)) : STFS_NO_TENSOR;

	if (!taking->name)
		return is_needed(tree, taking);
	return id != STFS_NO_TENSOR && tree->by_id[id] != taking->node && !tree->nodes[tree->by_id[id]].taking;
}

/* Leaves out who wants the name of one that is left out, and so on. */
static void drop_blocked(struct stfs_tree *tree)
{
	bool again;

	do {
		again = false;
		for (size_t i = 0; i < tree->taking_count; i++) {
			struct stfs_taking *taking = &tree->takings[i], *last;

			if (!is_blocked(tree, taking))
				continue;
			tree->nodes[taking->node].taking = NULL;
			free(taking->name);
			last = &tree->takings[--tree->taking_count];
			if (last != taking) {
				*taking = *last;
				tree->nodes[taking->node].taking = taking;
			}
			i--;
			again = true;
		}
	} while (again);
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
		drop_blocked(tree);
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
	r = stfs_edit_put(tree->edit, name_of(taking), view.dtype, dims, view.rank, source, err);
	if (r == 0) {
		taking->frozen = node->content;
		node->content->frozen = true;
	}
	return r;
}

static int stage_type(struct stfs_tree *tree, struct stfs_taking *taking, struct stfs_err *err)
{
	const struct stfs_type *type = tree->nodes[taking->node].type;

	return stfs_edit_retype(tree->edit, name_of(taking), type->dtype, type->dims, type->rank, err);
}

/* Whether a new tensor is put under this name: it takes the place of the old one, also in the header. */
static bool is_put_anew(const struct stfs_tree *tree, struct stfs_str name)
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
		if (!is_put_anew(tree, name))
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
				stfs_model_name_of(tree->model, tree->takings[i].id), name_of(&tree->takings[i])};
	return count ? stfs_edit_rename(tree->edit, pairs, count, false, err) : 0;
}

static int stage_metadata(struct stfs_tree *tree, struct stfs_err *err)
{
	int r = tree->metadata_staged ? stfs_edit_unset_all(tree->edit, err) : 0;

	for (size_t i = 0; tree->metadata_staged && r == 0 && i < tree->metadata.count; i++)
		r = stfs_edit_set(tree->edit, tree->metadata.pairs[i].key, tree->metadata.pairs[i].value, err);
	return r;
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

/* ---- Reporting ---- */

void stfs_commit_report_free(struct stfs_commit_report *report)
{
	stfs_buf_free(&report->names);
	stfs_buf_free(&report->as_bytes);
	*report = (struct stfs_commit_report){0};
}

const char *stfs_change_word(unsigned changes)
{
	return changes & STFS_CHANGE_NEW        ? "new"
	       : changes & STFS_CHANGE_REMOVED  ? "removed"
	       : changes & STFS_CHANGE_REPLACED ? "replaced"
	       : changes & STFS_CHANGE_RENAMED  ? "renamed"
	       : changes & STFS_CHANGE_RETYPED  ? "retyped"
						: "metadata";
}

static void report_one(const struct stfs_tree *tree, const struct stfs_taking *taking,
		       struct stfs_commit_report *report)
{
	struct stfs_str was = {NULL, 0}, name;

	if (taking->id != STFS_NO_TENSOR)
		was = stfs_model_name_of(tree->model, taking->id);
	name = taking->name ? name_of(taking) : was;
	report->added += (taking->changes & STFS_CHANGE_NEW) != 0;
	report->removed += (taking->changes & STFS_CHANGE_REMOVED) != 0;
	report->replaced += (taking->changes & STFS_CHANGE_REPLACED) != 0;
	report->renamed += (taking->changes & STFS_CHANGE_RENAMED) != 0;
	report->retyped += (taking->changes & STFS_CHANGE_RETYPED) != 0;
	if (taking->changes & (STFS_CHANGE_NEW | STFS_CHANGE_REPLACED))
		report->bytes += taking->len;
	if (taking->as_bytes && report->as_bytes.len < 65536) {
		stfs_buf_puts(&report->as_bytes, report->as_bytes.len ? ", " : "");
		stfs_json_quote(name, &report->as_bytes);
	}
	if (report->listed++ >= LISTED_MOST)
		return;
	stfs_buf_puts(&report->names, report->names.len ? ", {\"name\": " : "{\"name\": ");
	stfs_json_quote(name, &report->names);
	stfs_buf_printf(&report->names, ", \"change\": \"%s\"", stfs_change_word(taking->changes));
	if (taking->changes & STFS_CHANGE_RENAMED) {
		stfs_buf_puts(&report->names, ", \"from\": ");
		stfs_json_quote(was, &report->names);
	}
	stfs_buf_putc(&report->names, '}');
}

static void fill_report(const struct stfs_tree *tree, struct stfs_commit_report *report)
{
	for (size_t i = 0; i < tree->taking_count; i++) {
		report_one(tree, &tree->takings[i], report);
		/* One that takes the place of a tensor of its name is no removal and addition to the user. */
		if (tree->takings[i].changes == STFS_CHANGE_REMOVED &&
		    is_put_anew(tree, stfs_model_name_of(tree->model, tree->takings[i].id))) {
			report->removed--;
			report->added--;
			report->replaced++;
		}
	}
	report->metadata = tree->metadata_staged;
}

static void say_as_bytes(const struct stfs_tree *tree)
{
	char quoted[STFS_QUOTED_MAX];

	for (size_t i = 0; i < tree->taking_count; i++)
		if (tree->takings[i].as_bytes)
			stfs_log(STFS_LOG_WARNING, "%s: tensor \"%s\" had no type that fits: committed as U8 [%" PRIu64
				 "]; write its .json to give it one", tree->path,
				 stfs_quote(name_of(&tree->takings[i]), quoted), tree->takings[i].len);
}

/* ---- The hooks: how nodes follow the commit ---- */

static void stop(void *data)
{
	stfs_tree_lock(data);
}

static void go_on(void *data)
{
	stfs_tree_unlock(data);
}

/* What was under the layers may be overwritten from now on; what was written has all of it. */
static void recorded(void *data)
{
	struct stfs_tree *tree = data;

	for (size_t i = 0; i < tree->taking_count; i++)
		if (tree->takings[i].frozen)
			tree->takings[i].written = stfs_edit_written(tree->edit, name_of(&tree->takings[i]),
								     &tree->takings[i].shard,
								     &tree->takings[i].offset);
}

/* The frozen layers of a node are the model's now. */
static void thaw(struct stfs_node *node, struct stfs_content *frozen)
{
	struct stfs_content *above = node->content;

	if (node->content == frozen) {
		node->content = NULL;
	} else {
		while (above->under != frozen)
			above = above->under;
		above->under = NULL;
	}
	stfs_content_free(frozen);
}

static void finish_node(struct stfs_tree *tree, struct stfs_taking *taking)
{
	struct stfs_node *node = &tree->nodes[taking->node];

	node->taking = NULL;
	if (taking->frozen)
		thaw(node, taking->frozen);
	if (!taking->name)
		return;
	if (node->type && node->type->serial == taking->serial) {
		stfs_type_free(node->type);
		node->type = NULL;
	}
	node->settled |= !node->type;
}

static void swapped(void *data, const struct stfs_model *fresh)
{
	struct stfs_tree *tree = data;

	for (uint32_t i = 0; i < tree->node_count; i++) {
		struct stfs_node *node = &tree->nodes[i];
		struct stfs_str name;

		if (!node->used || (node->id == STFS_NO_TENSOR && !node->taking))
			continue;
		if (node->taking && !node->taking->name) {
			node->id = STFS_NO_TENSOR;
			continue;
		}
		name = node->taking ? name_of(node->taking) : stfs_model_name_of(tree->model, node->id);
		node->id = stfs_model_find(fresh, name);
	}
	tree->model = fresh;
	for (size_t i = 0; i < tree->taking_count; i++)
		finish_node(tree, &tree->takings[i]);
	if (stfs_tree_bind(tree, fresh) < 0)
		tree->stuck = true;
	for (uint32_t i = 0; i < tree->shard_count; i++)
		atomic_store(&tree->unsynced[i], true);
	for (size_t i = 0; i < tree->taking_count; i++)
		stfs_tree_sweep(tree, tree->takings[i].node);
	tree->generation++; /* types were given */
	tree->committing = false;
}

/* ---- Before and after ---- */

/* What the model tells of a tensor's type, once it is no longer there. */
static void keep_type(struct stfs_tree *tree, struct stfs_node *node)
{
	STFS_AUTO_FREE uint64_t *dims = NULL;
	struct stfs_typing_view view;

	stfs_node_typing(tree, node, &view);
	view.other_first = false;
	dims = node->type || view.fit == STFS_FIT_NONE ? NULL : stfs_typing_dims(&view);
	if (dims)
		node->type = stfs_type_make(view.dtype, dims, view.rank, view.bytes);
}

/* The bytes of a tensor that is removed but in use go to the spool. */
static int evacuate(struct stfs_tree *tree, uint32_t number)
{
	struct stfs_tree_base under = {tree, number};
	struct stfs_base base = {stfs_tree_read_base, &under};
	struct stfs_node *node;
	uint64_t len = 1;
	int r = 0;

	for (uint64_t at = 0; r == 0 && at < len; at += PIECE) {
		stfs_tree_hold(tree);
		pthread_mutex_lock(stfs_tree_stripe(tree, number));
		node = &tree->nodes[number];
		len = stfs_node_len(tree, node);
		r = stfs_tree_layer(tree, number, false);
		if (r == 0 && at < len)
			r = stfs_content_fill(node->content, &base, at, stfs_min_u64(PIECE, len - at));
		pthread_mutex_unlock(stfs_tree_stripe(tree, number));
		stfs_tree_release(tree);
	}
	stfs_tree_lock(tree);
	tree->nodes[number].detached = r == 0;
	if (r == 0)
		keep_type(tree, &tree->nodes[number]);
	stfs_tree_unlock(tree);
	return r;
}

static bool needs_evacuation(struct stfs_tree *tree, uint32_t number, const struct stfs_commit_request *request)
{
	const struct stfs_node *node = stfs_tree_get(tree, number);

	if (!node || node->id == STFS_NO_TENSOR || node->name != STFS_NO_NUMBER || node->detached)
		return false;
	return node->scratch || (node->opens && request->all);
}

static int evacuate_all(struct stfs_tree *tree, const struct stfs_commit_request *request)
{
	bool needed;
	int r = 0;

	for (uint32_t i = 0; r == 0 && !request->end; i++) {
		stfs_tree_hold(tree);
		while (i < tree->node_count && !needs_evacuation(tree, i, request))
			i++;
		needed = i < tree->node_count;
		stfs_tree_release(tree);
		if (!needed)
			break;
		r = evacuate(tree, i);
	}
	return r;
}

/* Files that were written to in place. Only this thread replaces the model: it stays. */
static int sync_unsynced(struct stfs_tree *tree, struct stfs_err *err)
{
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < tree->shard_count; i++) {
		if (!atomic_exchange(&tree->unsynced[i], false))
			continue;
		r = stfs_io_sync(tree->model->shards[i].fd);
		if (r == 0)
			continue;
		/* Nobody knows what of it is on the disk (fsync(2)): nothing more is written. */
		stfs_tree_lock(tree);
		tree->stuck = true;
		stfs_tree_unlock(tree);
		return stfs_err_errno(err, r, "%s: syncing %s", tree->path, tree->model->shards[i].name);
	}
	return r;
}

/* Copies what a layer has at most PIECE bytes of into the model; the lock is held exclusively. */
static int drain_some(struct stfs_tree *tree, uint32_t number, char *piece, bool *more)
{
	struct stfs_node *node = stfs_tree_get(tree, number);
	struct stfs_tree_base under = {tree, number};
	struct stfs_base base = {stfs_tree_read_base, &under};
	uint64_t at = 0, len = 0, start;
	uint32_t shard;
	int r = 0;

	*more = false;
	if (!node || !node->content || node->content->under || node->id == STFS_NO_TENSOR || node->detached ||
	    tree->staged || stfs_node_staged(node))
		return 0;
	if (!stfs_content_next(node->content, 0, &at, &len)) {
		stfs_content_free(node->content);
		node->content = NULL;
		return 0;
	}
	len = stfs_min_u64(len, PIECE);
	if (!stfs_tree_base_of(tree, node, &shard, &start))
		return -EIO;
	r = stfs_content_read(node->content, &base, piece, len, at);
	atomic_store(&tree->unsynced[shard], true);
	if (r == 0)
		r = stfs_io_write(tree->model->shards[shard].fd, piece, len, start + at);
	if (r == 0)
		stfs_content_drop(node->content, at, len);
	*more = r == 0;
	return r;
}

/* What was written to tensors while they could not be written in place. */
static int drain(struct stfs_tree *tree)
{
	STFS_AUTO_FREE char *piece = malloc(PIECE);
	bool more = false, seen = true;
	int r = piece ? 0 : -ENOMEM;

	for (uint32_t i = 0; r == 0 && seen; i += !more) {
		stfs_tree_lock(tree);
		while (!more && i < tree->node_count && !tree->nodes[i].content)
			i++;
		seen = i < tree->node_count;
		if (seen)
			r = drain_some(tree, i, piece, &more);
		stfs_tree_unlock(tree);
	}
	return r;
}

/* ---- The commit ---- */

/* Everything as it was, still pending. */
static void take_back(struct stfs_tree *tree)
{
	struct stfs_err why = STFS_ERR_INIT;

	stfs_tree_lock(tree);
	for (size_t i = 0; i < tree->taking_count; i++) {
		struct stfs_node *node = &tree->nodes[tree->takings[i].node];

		if (node->content && node->content == tree->takings[i].frozen)
			node->content->frozen = false;
	}
	tree->committing = false;
	tree->staged_any = true;
	tree->stuck = tree->stuck || stfs_edit_is_stuck(tree->edit);
	if (!tree->stuck) { /* else what was written stays where reading finds it */
		if (stfs_edit_revert(tree->edit, &why) < 0)
			tree->stuck = true;
		free_takings(tree);
	}
	stfs_tree_unlock(tree);
}

static void drop_metadata(struct stfs_tree *tree)
{
	tree->metadata_staged = false;
	stfs_metadata_free(&tree->metadata);
	tree->metadata = (struct stfs_metadata){0};
}

/* Collects and stages: whether there is anything to commit. */
static int begin(struct stfs_tree *tree, const struct stfs_commit_request *request, bool *anything, bool *refused,
		 struct stfs_err *err)
{
	struct collecting c = {.tree = tree, .request = request, .err = err};
	bool fresh = !tree->model && (request->all || request->end);
	int r;

	*anything = *refused = false;
	if (!tree->staged_any && !fresh)
		return 0;
	r = collect(&c);
	if (r == 0)
		r = stage(tree, err);
	*refused = c.refused;
	for (size_t i = 0; r == 0 && request->left_out && i < request->count; i++) {
		const struct stfs_node *node = stfs_tree_get(tree, request->nodes[i]);

		request->left_out[i] = node && !node->taking && stfs_node_linked(node) && stfs_node_changes(tree, node);
	}
	*anything = r == 0 && stfs_edit_pending(tree->edit) &&
		    (tree->taking_count || tree->metadata_staged || fresh);
	tree->committing = *anything;
	if (r == 0 && !*anything && !tree->taking_count)
		drop_metadata(tree); /* it is what the model has */
	return r;
}

static void count_progress(void *data, uint64_t done, uint64_t total)
{
	struct stfs_tree *tree = data;

	atomic_store(&tree->done, done);
	atomic_store(&tree->total, total);
}

static int run(struct stfs_tree *tree, struct stfs_commit_report *report, struct stfs_err *err)
{
	const struct stfs_progress progress = {count_progress, tree};
	const struct stfs_edit_hooks hooks = {tree, stop, go_on, recorded, swapped};
	uint64_t metadata_edits = tree->metadata_edits;
	bool metadata = tree->metadata_staged;
	int r;

	fill_report(tree, report);
	stfs_edit_watch(tree->edit, &hooks);
	r = stfs_edit_commit(tree->edit, &progress, NULL, err);
	count_progress(tree, 0, 0);
	if (r < 0) {
		stfs_commit_report_free(report);
		take_back(tree);
		return r;
	}
	stfs_tree_lock(tree);
	say_as_bytes(tree);
	free_takings(tree);
	if (metadata && tree->metadata_edits == metadata_edits)
		drop_metadata(tree);
	stfs_tree_unlock(tree);
	return 0;
}

int stfs_tree_commit(struct stfs_tree *tree, const struct stfs_commit_request *request,
		     struct stfs_commit_report *report, struct stfs_err *err)
{
	bool anything = false, refused = false;
	int r;

	*report = (struct stfs_commit_report){0};
	if (!tree->edit)
		return 0;
	if (tree->stuck)
		return stfs_err_set(err, -EROFS, STFS_NO_POSITION, "%s: a commit stopped half-way, or the disk failed: "
				    "unmount, then `stfs recover` it", tree->path);
	r = evacuate_all(tree, request);
	if (r < 0)
		return stfs_err_errno(err, r, "%s: keeping what is removed but open", tree->path);
	stfs_tree_lock(tree);
	r = begin(tree, request, &anything, &refused, err);
	stfs_tree_unlock(tree);
	if (r < 0 || !anything)
		take_back(tree);
	else
		r = run(tree, report, err);
	if (r < 0)
		return err && err->code != r ? stfs_err_errno(err, r, "%s", tree->path) : r;
	r = drain(tree);
	if (r < 0)
		return stfs_err_errno(err, r, "%s: writing what came during the commit", tree->path);
	report->refused = refused;
	return sync_unsynced(tree, err);
}

int stfs_tree_rescue(struct stfs_tree *tree, struct stfs_err *err)
{
	const struct stfs_commit_request request = {.end = true};
	bool anything = false, refused = false;
	int r;

	if (!tree->edit || tree->stuck)
		return 0;
	stfs_tree_lock(tree);
	tree->staged_any = true;
	r = begin(tree, &request, &anything, &refused, err);
	tree->committing = false;
	stfs_tree_unlock(tree);
	if (r == 0 && anything) {
		if (tree->arena_beside && stfs_arena_fd(tree->arena) >= 0)
			stfs_edit_lend_spool(tree->edit, stfs_arena_fd(tree->arena), stfs_arena_end(tree->arena));
		r = stfs_edit_rescue(tree->edit, err);
	}
	stfs_tree_lock(tree);
	free_takings(tree);
	stfs_tree_unlock(tree);
	return r < 0 ? r : anything;
}
