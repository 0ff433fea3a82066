/* SPDX-License-Identifier: MIT */
/*
 * From what is staged to the files of a commit: for each shard its items and its header, and the
 * index.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "store/edit_internal.h"

static void free_parts(struct stfs_commit_parts *all)
{
	for (size_t i = 0; i < all->count; i++) {
		free(all->parts[i].slots);
		free(all->parts[i].items);
		free(all->parts[i].sources);
		free(all->parts[i].header_items);
		free(all->parts[i].dims);
		free(all->parts[i].pairs);
		free(all->parts[i].written);
	}
	stfs_edit_free_moves(all->moves, all->moves_count);
	free(all->parts);
	stfs_buf_free(&all->index);
	stfs_commit_free(&all->commit);
	free(all->files);
}

/* The slots of the shard; those that another shard shadows stay what they are. */
static int collect(struct stfs_part *part, size_t *ranks)
{
	struct stfs_edit *edit = part->edit;

	for (size_t i = 0; i < edit->count; i++)
		part->count += !edit->slots[i].removed && edit->slots[i].shard == part->shard;
	part->slots = malloc((part->count ? part->count : 1) * sizeof(*part->slots));
	if (!part->slots)
		return -ENOMEM;
	part->count = 0;
	for (size_t i = 0; i < edit->count; i++) {
		if (edit->slots[i].removed || edit->slots[i].shard != part->shard)
			continue;
		part->slots[part->count++] = (uint32_t)i;
		*ranks += edit->slots[i].rank;
	}
	stfs_edit_sort_slots(edit, part->slots, part->count);
	return 0;
}

static struct stfs_str entry_text(const struct stfs_edit *edit, const struct stfs_slot *slot)
{
	const struct stfs_tensor *tensor;

	if (slot->origin == STFS_NO_TENSOR)
		return (struct stfs_str){NULL, 0};
	tensor = stfs_slot_tensor(edit, slot);
	return stfs_str_slice(edit->model->shards[slot->shard].header->text + tensor->entry_pos,
			      tensor->entry_len);
}

/* Item and entry of one slot; the shape goes to `dims` when it has none of its own. */
static void describe_slot(struct stfs_part *part, size_t i, uint64_t **dims)
{
	const struct stfs_edit *edit = part->edit;
	const struct stfs_slot *slot = &edit->slots[part->slots[i]];
	const struct stfs_header *header = edit->model ? edit->model->shards[part->shard].header : NULL;
	const uint64_t *shape = slot->dims;

	if (!shape && slot->rank) {
		stfs_header_shape(header, stfs_slot_tensor(edit, slot), *dims);
		shape = *dims;
		*dims += slot->rank;
	}
	part->items[i] = (struct stfs_layout_item){
		.old = STFS_LAYOUT_NEW, .size = slot->len,
		.alignment = stfs_dtype_alignment(slot->dtype)};
	part->sources[i] = slot->source;
	part->header_items[i] = (struct stfs_header_item){
		.name = slot->name, .dtype = slot->dtype, .dims = shape, .rank = slot->rank,
		.source = entry_text(edit, slot)};
	if (slot->stays)
		part->items[i].old = slot->source.offset;
	if (!slot->is_new)
		part->items[i].old = stfs_header_data_start(header) +
				     stfs_slot_tensor(edit, slot)->begin;
}

static int describe_pairs(struct stfs_part *part)
{
	struct stfs_edit_shard *shard = &part->edit->shards[part->shard];
	int r = stfs_edit_load_metadata(part->edit, part->shard);

	if (r < 0)
		return r;
	part->pairs = calloc(shard->pair_count ? shard->pair_count : 1, sizeof(*part->pairs));
	if (!part->pairs)
		return -ENOMEM;
	for (size_t i = 0; i < shard->pair_count; i++) {
		part->pairs[i].key = stfs_str_slice(shard->pairs[i].key, shard->pairs[i].key_len);
		part->pairs[i].value = stfs_str_slice(shard->pairs[i].value, shard->pairs[i].value_len);
	}
	part->header.pairs = part->pairs;
	part->header.pair_count = shard->pair_count;
	return 0;
}

/* Tensors that stand before __metadata__ in the new header. */
static size_t metadata_index(const struct stfs_part *part)
{
	const struct stfs_edit *edit = part->edit;
	const struct stfs_header *header = edit->model ? edit->model->shards[part->shard].header : NULL;
	size_t index = 0;

	if (!header || !header->metadata_len)
		return 0; /* as the official writer has it */
	while (index < part->count && edit->slots[part->slots[index]].order < header->metadata_index)
		index++;
	return index;
}

/* Fills a part; its places are not known yet. */
static int make_part(struct stfs_part *part)
{
	size_t ranks = 0, room;
	uint64_t *dims;
	int r = collect(part, &ranks);

	if (r < 0)
		return r;
	room = part->count ? part->count : 1;
	part->items = calloc(room, sizeof(*part->items));
	part->sources = calloc(room, sizeof(*part->sources));
	part->header_items = calloc(room, sizeof(*part->header_items));
	part->dims = dims = calloc(ranks ? ranks : 1, sizeof(*part->dims));
	if (!part->items || !part->sources || !part->header_items || !part->dims)
		return -ENOMEM;
	for (size_t i = 0; i < part->count; i++)
		describe_slot(part, i, &dims);
	part->header.items = part->header_items;
	part->header.item_count = part->count;
	part->header.metadata_index = metadata_index(part);
	return describe_pairs(part);
}

/* ---- Headers ---- */

/* The text for the places of a plan, as long as the plan has it. */
static int write_header(void *data, const struct stfs_plan *plan, struct stfs_buf *out,
			struct stfs_err *err)
{
	struct stfs_part *part = data;
	size_t at = out->len;
	int r;

	for (size_t i = 0; i < part->count; i++) {
		part->header_items[i].begin = plan->place[i] - plan->data_start;
		part->header_items[i].end = part->header_items[i].begin + part->items[i].size;
	}
	r = stfs_header_write(&part->header, 0, out, err);
	return r < 0 ? r : stfs_header_fit(out, at, plan->text_len);
}

/* Bytes that the text needs at most, and what it needs when every tensor stays where it is. */
static int measure_header(struct stfs_part *part, struct stfs_layout_problem *problem, struct stfs_err *err)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	uint64_t total = 0;
	bool stays = part->edit->model != NULL;
	int r;

	for (size_t i = 0; i < part->count; i++)
		total += part->items[i].size;
	for (size_t i = 0; i < part->count; i++)
		part->header_items[i].begin = part->header_items[i].end = total;
	r = stfs_header_write(&part->header, 0, &text, err);
	if (r < 0)
		return r;
	problem->header_need = stfs_header_written_len(&text, 0);
	problem->header_same = UINT64_MAX;
	for (size_t i = 0; i < part->count; i++)
		stays = stays && part->items[i].old != STFS_LAYOUT_NEW;
	if (!stays)
		return 0;
	for (size_t i = 0; i < part->count; i++) {
		part->header_items[i].begin = part->items[i].old - problem->file.data_start;
		part->header_items[i].end = part->header_items[i].begin + part->items[i].size;
	}
	stfs_buf_clear(&text);
	r = stfs_header_write(&part->header, 0, &text, err);
	if (r == 0)
		problem->header_same = stfs_header_written_len(&text, 0);
	return r;
}

static int make_file(struct stfs_part *part, struct stfs_commit_file *file, struct stfs_err *err)
{
	const struct stfs_edit *edit = part->edit;
	const struct stfs_shard *shard = edit->model ? &edit->model->shards[part->shard] : NULL;

	*file = (struct stfs_commit_file){
		.name = shard ? shard->name : edit->name,
		.fd = shard ? shard->fd : -1,
		.problem = {.items = part->items, .count = part->count},
		.sources = part->sources,
		.header = write_header,
		.data = part,
		.new_fd = -1,
	};
	file->problem.compact = edit->compact;
	if (shard) {
		file->header_hash = stfs_commit_hash(stfs_str_slice(shard->header->text,
								    shard->header->text_len));
		file->problem.file.length = shard->size;
		file->problem.file.data_start = stfs_header_data_start(shard->header);
	}
	if (edit->foreign_fd >= 0) {
		file->fd = edit->foreign_fd;
		file->foreign = true;
		file->header_hash = edit->foreign_hash;
		file->foreign_end = edit->foreign_end;
		file->problem.file.length = edit->foreign_length;
		file->problem.file.data_start = STFS_LENGTH_WORD;
		file->problem.aligned = true;
	}
	return measure_header(part, &file->problem, err);
}

/* ---- The index ---- */

/* For each id of the model the slot that has it now, or STFS_NO_NUMBER: a malloc'ed array, or NULL. */
static uint32_t *heirs(const struct stfs_edit *edit)
{
	uint32_t ids = stfs_model_ids(edit->model);
	uint32_t *heir = malloc((ids ? ids : 1) * sizeof(*heir));

	if (!heir)
		return NULL;
	memset(heir, 0xff, ids * sizeof(*heir));
	for (size_t i = 0; i < edit->count; i++)
		if (!edit->slots[i].removed && edit->slots[i].origin != STFS_NO_TENSOR)
			heir[edit->slots[i].origin] = (uint32_t)i;
	return heir;
}

/* What became of the tensor with this id: whether the index has to say so. */
static bool tell_change(const struct stfs_edit *edit, uint32_t id, uint32_t heir,
			struct stfs_index_change *change)
{
	struct stfs_tensor_ref ref;

	if (!stfs_model_tensor(edit->model, id, &ref))
		return false;
	*change = (struct stfs_index_change){.name = ref.name};
	if (heir == STFS_NO_NUMBER)
		return true;
	change->new_name = edit->slots[heir].name;
	change->file = ref.shard->name;
	return !stfs_str_equal(ref.name, change->new_name);
}

static size_t list_changes(const struct stfs_edit *edit, const uint32_t *heir,
			   struct stfs_index_change *changes)
{
	size_t count = 0;

	for (uint32_t id = 0; id < stfs_model_ids(edit->model); id++)
		count += tell_change(edit, id, heir[id], &changes[count]);
	for (size_t i = 0; i < edit->count; i++) {
		const struct stfs_slot *slot = &edit->slots[i];

		if (!slot->removed && slot->origin == STFS_NO_TENSOR)
			changes[count++] = (struct stfs_index_change){
				.new_name = slot->name, .file = edit->model->shards[slot->shard].name};
	}
	return count;
}

static uint64_t total_size(const struct stfs_edit *edit)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < edit->count; i++)
		if (!edit->slots[i].removed && !edit->slots[i].hidden)
			sum += edit->slots[i].len;
	return sum;
}

/* The new text of the index, when it has to change. */
static int make_index(struct stfs_edit *edit, struct stfs_commit_parts *all, struct stfs_err *err)
{
	STFS_AUTO_FREE struct stfs_index_change *changes = NULL;
	STFS_AUTO_FREE uint32_t *heir = NULL;
	STFS_AUTO_FREE char *text = NULL;
	struct stfs_index_changes what = {.set_total_size = true, .total_size = total_size(edit)};
	size_t len = 0;
	int r;

	if (!edit->model || !stfs_model_is_sharded(edit->model))
		return 0;
	changes = malloc((edit->count + 1) * sizeof(*changes));
	heir = heirs(edit);
	if (!changes || !heir)
		return -ENOMEM;
	what.items = changes;
	what.count = list_changes(edit, heir, changes);
	if (what.count == 0 && (!edit->model->index.has_total_size ||
				edit->model->index.total_size == what.total_size))
		return 0;
	r = stfs_model_index_text(edit->model, &text, &len, err);
	if (r == 0)
		r = stfs_index_write(stfs_str_slice(text, len), &what, &all->index, err);
	all->has_index = r == 0;
	return r;
}

/* ---- The commit ---- */

static bool is_empty(const struct stfs_edit *edit, uint32_t shard)
{
	for (size_t i = 0; i < edit->count; i++)
		if (!edit->slots[i].removed && edit->slots[i].shard == shard)
			return false;
	return true;
}

static int keep_pair(struct stfs_edit *edit, const bool *empty, const struct stfs_pair *pair)
{
	struct stfs_str key = stfs_str_slice(pair->key, pair->key_len);
	uint32_t heir = 0;

	for (uint32_t i = 0; i < edit->shard_count; i++)
		if (!empty[i] && stfs_edit_find_pair(&edit->shards[i], key))
			return 0;
	while (heir < edit->shard_count && empty[heir])
		heir++;
	if (heir == edit->shard_count)
		return 0; /* the model would lose its last tensor, which the index refuses */
	stfs_edit_touch(edit, heir);
	return stfs_edit_add_pair(&edit->shards[heir], key,
				  stfs_str_slice(pair->value, pair->value_len));
}

/*
 * A shard that loses its last tensor drops out of the index: what metadata it alone had goes to
 * another.
 */
static int keep_metadata(struct stfs_edit *edit)
{
	STFS_AUTO_FREE bool *empty = calloc(edit->shard_count, sizeof(*empty));
	bool any = false;
	int r = empty ? 0 : -ENOMEM;

	for (uint32_t i = 0; r == 0 && edit->shard_count > 1 && i < edit->shard_count; i++) {
		empty[i] = edit->shards[i].dirty && is_empty(edit, i);
		any |= empty[i];
	}
	for (uint32_t i = 0; r == 0 && any && i < edit->shard_count; i++)
		r = stfs_edit_load_metadata(edit, i);
	for (uint32_t i = 0; r == 0 && any && i < edit->shard_count; i++)
		for (size_t k = 0; r == 0 && empty[i] && k < edit->shards[i].pair_count; k++)
			r = keep_pair(edit, empty, &edit->shards[i].pairs[k]);
	return r;
}

/*
 * A tensor that another shard holds too, which is hidden behind the one that the index names, goes with the name:
 * else it would come to light in its place.
 */
static void drop_twins(struct stfs_edit *edit)
{
	for (size_t i = 0; i < edit->count; i++) {
		struct stfs_slot *slot = &edit->slots[i];

		if (slot->removed || !slot->hidden || stfs_edit_slot(edit, slot->name) != STFS_NO_NUMBER)
			continue;
		slot->removed = true;
		stfs_edit_touch(edit, slot->shard);
	}
}

static int make_parts(struct stfs_edit *edit, struct stfs_commit_parts *all, struct stfs_err *err)
{
	int r = 0;

	*all = (struct stfs_commit_parts){.edit = edit};
	all->parts = calloc(edit->shard_count, sizeof(*all->parts));
	all->files = calloc(edit->shard_count + 1, sizeof(*all->files));
	if (!all->parts || !all->files)
		return -ENOMEM;
	drop_twins(edit);
	r = keep_metadata(edit);
	for (uint32_t i = 0; r == 0 && i < edit->shard_count; i++) {
		struct stfs_part *part = &all->parts[all->count];

		if (!edit->shards[i].dirty && !edit->compact)
			continue;
		*part = (struct stfs_part){.edit = edit, .shard = i};
		all->count++;
		r = make_part(part);
		if (r == 0)
			r = make_file(part, &all->files[all->count - 1], err);
	}
	if (r == 0)
		r = make_index(edit, all, err);
	if (r == 0 && all->has_index)
		all->files[all->count] = (struct stfs_commit_file){
			.name = edit->name, .fd = edit->model->index_fd, .content = &all->index,
			.new_fd = -1};
	all->commit = (struct stfs_commit){
		.folder_fd = edit->folder_fd,
		.model = edit->name,
		.files = all->files,
		.count = all->count + all->has_index,
		.ignore_readers = edit->flags & STFS_EDIT_IGNORE_READERS,
		.overwrite = edit->flags & STFS_EDIT_OVERWRITE,
	};
	return r;
}

void stfs_edit_result_free(struct stfs_edit_result *result)
{
	for (size_t i = 0; i < result->count; i++)
		free(result->files[i].name);
	free(result->files);
	*result = (struct stfs_edit_result){0};
}

static int fill_result(const struct stfs_edit *edit, const struct stfs_commit_parts *all,
		       struct stfs_edit_result *result)
{
	if (!result)
		return 0;
	*result = (struct stfs_edit_result){.changed = edit->changed, .room = all->commit.room,
					    .readers = all->commit.readers};
	result->files = calloc(all->commit.count ? all->commit.count : 1, sizeof(*result->files));
	if (!result->files)
		return -ENOMEM;
	for (size_t i = 0; i < all->commit.count; i++) {
		const struct stfs_commit_file *file = &all->files[i];
		bool is_index = file->content != NULL;

		result->files[result->count++] = (struct stfs_edit_file){
			.name = strdup(file->name),
			.kind = file->plan.kind,
			.is_new = file->fd < 0,
			.is_index = is_index,
			.old_length = file->problem.file.length,
			.new_length = file->plan.length,
			.header = is_index ? 0 : file->plan.data_start,
			.cost = file->plan.cost,
			.shifts = stfs_steps_shifts(file->plan.steps, file->plan.count),
		};
		if (!result->files[result->count - 1].name)
			return -ENOMEM;
		result->files[i].cost.space += file->journaled;
		result->space += result->files[i].cost.space;
	}
	return 0;
}

int stfs_edit_plan(struct stfs_edit *edit, struct stfs_edit_result *result, struct stfs_err *err)
{
	struct stfs_commit_parts all;
	int r = make_parts(edit, &all, err), filled = 0;

	if (r == 0)
		r = stfs_commit_plan(&all.commit, err);
	if (r == 0 || r == -ENOSPC)
		filled = fill_result(edit, &all, result);
	free_parts(&all);
	if (filled < 0)
		r = filled;
	return r < 0 && err && err->code != r ? stfs_err_errno(err, r, "%s", edit->path) : r;
}

/* E4: whether the headers are still those that were read. What was done to the data is no matter. */
static int check_shards(const struct stfs_edit *edit, struct stfs_err *err)
{
	for (uint32_t i = 0; edit->model && i < edit->model->shard_count; i++) {
		int r = stfs_shard_check(&edit->model->shards[i]);

		if (r == -ESTALE)
			return stfs_err_set(err, r, STFS_NO_POSITION, "%s: another program has "
					    "changed %s since it was opened; nothing was changed",
					    edit->path, edit->model->shards[i].name);
		if (r < 0)
			return stfs_err_errno(err, r, "%s", edit->path);
	}
	return stfs_edit_check_foreign(edit, err);
}

static int run(struct stfs_edit *edit, struct stfs_commit_parts *all, const struct stfs_progress *progress,
	       struct stfs_edit_result *result, struct stfs_err *err)
{
	int r = check_shards(edit, err);

	if (r == 0)
		r = make_parts(edit, all, err);
	if (r == 0)
		r = stfs_edit_prepare_readers(all);
	if (progress)
		all->commit.progress = *progress;
	if (r == 0)
		r = stfs_commit_run(&all->commit, err);
	edit->stuck = r < 0 && all->commit.recorded;
	if (r < 0)
		return r;
	r = fill_result(edit, all, result);
	if (r == 0)
		r = stfs_edit_reopen(edit, all, err);
	if (r < 0) {
		edit->stuck = true; /* what is staged is committed: it must not be committed again */
		return stfs_err_set(err, r, STFS_NO_POSITION, "%s: the edits are committed, but "
				    "the model cannot be opened again", edit->path);
	}
	return 0;
}

int stfs_edit_commit(struct stfs_edit *edit, const struct stfs_progress *progress,
		     struct stfs_edit_result *result, struct stfs_err *err)
{
	struct stfs_commit_parts all = {0};
	int r;

	if (result)
		*result = (struct stfs_edit_result){0};
	if (edit->flags & STFS_EDIT_DRY_RUN)
		return stfs_err_set(err, -EROFS, STFS_NO_POSITION, "%s: was opened for a "
				    "dry run", edit->path);
	if (edit->stuck)
		return stfs_err_set(err, -EROFS, STFS_NO_POSITION, "%s: a commit stopped half-way; "
				    "`stfs recover` finishes it", edit->path);
	if (!stfs_edit_pending(edit))
		return 0;
	r = run(edit, &all, progress, result, err);
	free_parts(&all);
	return r < 0 && err && err->code != r ? stfs_err_errno(err, r, "%s", edit->path) : r;
}
