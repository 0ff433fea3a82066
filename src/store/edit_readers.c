/* SPDX-License-Identifier: MIT */
/* Readers beside a commit: what they are told, and what they ask. */
#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "store/edit_internal.h"

void stfs_edit_watch(struct stfs_edit *edit, const struct stfs_edit_hooks *hooks)
{
	edit->watched = hooks != NULL;
	if (hooks)
		edit->hooks = *hooks;
}

void stfs_edit_free_moves(struct stfs_moves *moves, uint32_t count)
{
	for (uint32_t i = 0; moves && i < count; i++)
		stfs_moves_free(&moves[i]);
	free(moves);
}

/*
 * Where the new bytes are in a file that is changed in place. The planner writes a new item in one step,
 * before the record; if it did not, this would not tell of it.
 */
static void note_written(struct stfs_part *part, const struct stfs_plan *plan)
{
	for (size_t i = 0; i < part->count; i++)
		part->written[i] = part->items[i].size ? STFS_NOT_WRITTEN : 0;
	for (size_t i = 0; i < plan->before; i++) {
		const struct stfs_step *step = &plan->steps[i];
		bool whole = step->kind == STFS_STEP_WRITE && step->len == part->items[step->item].size;

		if (whole)
			part->written[step->item] = step->to;
	}
}

/* The hooks of the commit are handed its parts; those of the edit what its owner gave. */
static void stop(void *data)
{
	const struct stfs_edit *edit = ((struct stfs_commit_parts *)data)->edit;

	edit->hooks.stop(edit->hooks.data);
}

static void go_on(void *data)
{
	const struct stfs_edit *edit = ((struct stfs_commit_parts *)data)->edit;

	edit->hooks.go_on(edit->hooks.data);
}

/* Readers are stopped. */
static void recorded(void *data)
{
	struct stfs_commit_parts *all = data;
	struct stfs_edit *edit = all->edit;

	edit->moves = stfs_steal_ptr(&all->moves);
	for (size_t i = 0; i < all->count; i++)
		if (all->files[i].moves->count)
			note_written(&all->parts[i], &all->files[i].plan);
	if (!edit->hooks.recorded)
		return;
	edit->recorded = all;
	edit->hooks.recorded(edit->hooks.data);
	edit->recorded = NULL;
}

/* All memory for it is taken here. */
int stfs_edit_prepare_readers(struct stfs_commit_parts *all)
{
	const struct stfs_edit *edit = all->edit;

	if (!edit->watched)
		return 0;
	all->moves = calloc(edit->shard_count, sizeof(*all->moves));
	if (!all->moves)
		return -ENOMEM;
	all->moves_count = edit->shard_count;
	for (size_t i = 0; i < all->count; i++) {
		struct stfs_part *part = &all->parts[i];

		part->written = malloc((part->count ? part->count : 1) * sizeof(*part->written));
		if (!part->written)
			return -ENOMEM;
		all->files[i].moves = &all->moves[part->shard];
	}
	all->hooks = (struct stfs_commit_hooks){all, stop, go_on, recorded};
	all->commit.hooks = &all->hooks;
	return 0;
}

/* Number of the slot's item in the part; it has one. */
static size_t item_of(const struct stfs_part *part, const struct stfs_slot *slot)
{
	size_t from = 0, to = part->count, mid;

	while (to - from > 1) {
		mid = from + (to - from) / 2;
		if (part->edit->slots[part->slots[mid]].order <= slot->order)
			from = mid;
		else
			to = mid;
	}
	return from;
}

bool stfs_edit_written(const struct stfs_edit *edit, struct stfs_str name, uint32_t *shard,
		       uint64_t *offset)
{
	const struct stfs_commit_parts *all = edit->recorded;
	uint32_t number = stfs_edit_slot(edit, name);
	const struct stfs_slot *slot;
	size_t i = 0;

	if (!all || number == STFS_NO_NUMBER || !edit->slots[number].is_new)
		return false;
	slot = &edit->slots[number];
	while (all->parts[i].shard != slot->shard)
		i++;
	if (!all->files[i].moves->count)
		return false;
	*shard = slot->shard;
	*offset = all->parts[i].written[item_of(&all->parts[i], slot)];
	return *offset != STFS_NOT_WRITTEN;
}

int stfs_edit_where(const struct stfs_edit *edit, uint32_t shard, uint64_t offset, uint64_t most,
		    uint64_t *now, uint64_t *len)
{
	static const struct stfs_moves none;

	return stfs_moves_find(edit->moves ? &edit->moves[shard] : &none, offset, most, now, len) ? 0 : -EIO;
}

void stfs_edit_swap(struct stfs_edit *edit, const struct stfs_edit *anew)
{
	const struct stfs_edit_hooks hooks = edit->hooks;
	bool watched = edit->watched;

	if (watched)
		hooks.stop(hooks.data);
	*edit = *anew;
	if (watched && hooks.swapped)
		hooks.swapped(hooks.data, edit->model);
	if (watched)
		hooks.go_on(hooks.data);
}
