/* SPDX-License-Identifier: MIT */
/* Edits of tensors, one by one. Everything that can fail is done before anything is changed (E2). */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/natural.h"
#include "base/utf8.h"
#include "store/edit_internal.h"

/*
 * A header's entry has some 40 digits for a dimension at the least; a shape longer than this fits
 * none.
 */
#define RANK_MOST (STFS_HEADER_MAX / 2)

static int out_of_memory(const struct stfs_edit *edit, int r, struct stfs_err *err)
{
	return stfs_err_errno(err, r, "%s", edit->path);
}

/* Whether a tensor may have that name. */
static int check_name(const struct stfs_edit *edit, struct stfs_str name, struct stfs_err *err)
{
	char quoted[STFS_QUOTED_MAX];

	if (stfs_str_is(name, "__metadata__"))
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION,
				    "%s: \"__metadata__\" cannot be a tensor's name", edit->path);
	if (stfs_utf8_check(name.ptr, name.len) < name.len)
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "%s: the name \"%s\" is not UTF-8",
				    edit->path, stfs_quote(name, quoted));
	return 0;
}

/* Bytes of a tensor: 0 or -EINVAL with a word about why there is no such tensor. */
static int measure(struct stfs_str name, enum stfs_dtype dtype, const uint64_t *dims, size_t rank,
		   uint64_t *len, struct stfs_err *err)
{
	char quoted[STFS_QUOTED_MAX];
	uint64_t elements = 1;
	int r = rank > RANK_MOST ? -EOVERFLOW : 0;

	/* From the left and without regard to a zero that follows, as the loader does (tensor.rs). */
	for (size_t i = 0; r == 0 && i < rank; i++)
		if (stfs_mul_overflows(elements, dims[i], &elements))
			r = -EOVERFLOW;
	if (r == 0)
		r = stfs_dtype_bytes(dtype, elements, len);
	if (r == 0 && *len > INT64_MAX / 2)
		r = -EOVERFLOW;
	if (r == -EDOM)
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "tensor \"%s\": %s elements "
				    "have %u bits, and so many do not end on a byte",
				    stfs_quote(name, quoted), stfs_dtype_info(dtype)->name,
				    stfs_dtype_info(dtype)->bits);
	if (r < 0)
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "tensor \"%s\": the shape is "
				    "too large for any file", stfs_quote(name, quoted));
	return 0;
}

static int copy_name(struct stfs_slot *slot, struct stfs_str name)
{
	char *copy = malloc(name.len + 1);

	if (!copy)
		return -ENOMEM;
	if (name.len)
		memcpy(copy, name.ptr, name.len);
	copy[name.len] = '\0';
	slot->name = stfs_str_slice(copy, name.len);
	slot->name_owned = true;
	return 0;
}

static int copy_dims(struct stfs_slot *slot, const uint64_t *dims, size_t rank)
{
	slot->rank = rank;
	slot->dims = rank ? malloc(rank * sizeof(*dims)) : NULL;
	if (rank && !slot->dims)
		return -ENOMEM;
	for (size_t i = 0; i < rank; i++)
		slot->dims[i] = dims[i];
	return 0;
}

/*
 * The file for a new tensor: that of the tensor before it in natural order, so that a layer stays
 * together; of the first one if there is none before it.
 */
static int nearest_shard(struct stfs_edit *edit, struct stfs_str name, uint32_t *shard)
{
	uint32_t low = 0, high;
	struct stfs_tensor_ref ref;

	*shard = 0;
	if (edit->shard_count == 1)
		return 0;
	if (!edit->sorted)
		edit->sorted = stfs_model_sorted(edit->model);
	if (!edit->sorted)
		return -ENOMEM;
	for (high = edit->model->shown; low < high;) {
		uint32_t middle = low + (high - low) / 2;

		if (!stfs_model_tensor(edit->model, edit->sorted[middle], &ref))
			return -EIO;
		if (stfs_natural_compare(ref.name, name) <= 0)
			low = middle + 1;
		else
			high = middle;
	}
	if (edit->model->shown)
		*shard = stfs_model_shard_of(edit->model, edit->sorted[low ? low - 1 : 0]);
	return 0;
}

int stfs_edit_put(struct stfs_edit *edit, struct stfs_str name, enum stfs_dtype dtype,
		  const uint64_t *dims, size_t rank, struct stfs_source source, struct stfs_err *err)
{
	struct stfs_slot slot = {.origin = STFS_NO_TENSOR, .dtype = dtype, .source = source,
				 .is_new = true, .typed = true};
	uint32_t number;
	int r = check_name(edit, name, err);

	if (r == 0)
		r = measure(name, dtype, dims, rank, &slot.len, err);
	if (r < 0)
		return r;
	r = stfs_edit_make_room(edit, 1);
	number = r == 0 ? stfs_edit_slot(edit, name) : STFS_NO_NUMBER;
	if (r == 0 && number == STFS_NO_NUMBER)
		r = nearest_shard(edit, name, &slot.shard);
	if (r == 0)
		r = copy_name(&slot, name);
	if (r == 0)
		r = copy_dims(&slot, dims, rank);
	if (r < 0) {
		stfs_slot_free(&slot);
		return out_of_memory(edit, r, err);
	}
	slot.order = edit->next_order++;
	edit->changed += slot.len;
	if (number != STFS_NO_NUMBER) {
		struct stfs_slot *old = &edit->slots[number];

		/* It keeps its place in the header, and the keys of its entry that we do not know. */
		slot.order = old->order;
		slot.shard = old->shard;
		slot.origin = old->origin;
		edit->changed += old->len > slot.len ? old->len - slot.len : 0;
		old->removed = true;
	}
	stfs_edit_add(edit, &slot);
	stfs_edit_touch(edit, slot.shard);
	return 0;
}

static int no_such(const struct stfs_edit *edit, struct stfs_str name, struct stfs_err *err)
{
	char quoted[STFS_QUOTED_MAX];

	return stfs_err_set(err, -ENOENT, STFS_NO_POSITION, "%s: no tensor \"%s\"", edit->path,
			    stfs_quote(name, quoted));
}

int stfs_edit_retype(struct stfs_edit *edit, struct stfs_str name, enum stfs_dtype dtype,
		     const uint64_t *dims, size_t rank, struct stfs_err *err)
{
	uint32_t number = stfs_edit_slot(edit, name);
	char quoted[STFS_QUOTED_MAX];
	struct stfs_slot typed = {0};
	uint64_t len = 0;
	int r;

	if (number == STFS_NO_NUMBER)
		return no_such(edit, name, err);
	r = measure(name, dtype, dims, rank, &len, err);
	if (r < 0)
		return r;
	if (len != edit->slots[number].len)
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "tensor \"%s\": has %llu "
				    "bytes, that type and shape have %llu",
				    stfs_quote(name, quoted),
				    (unsigned long long)edit->slots[number].len,
				    (unsigned long long)len);
	r = copy_dims(&typed, dims, rank);
	if (r < 0)
		return out_of_memory(edit, r, err);
	free(edit->slots[number].dims);
	edit->slots[number].dims = typed.dims;
	edit->slots[number].rank = rank;
	edit->slots[number].dtype = dtype;
	edit->slots[number].typed = true;
	stfs_edit_touch(edit, edit->slots[number].shard);
	return 0;
}

int stfs_edit_remove(struct stfs_edit *edit, struct stfs_str name, struct stfs_err *err)
{
	uint32_t number = stfs_edit_slot(edit, name);

	if (number == STFS_NO_NUMBER)
		return no_such(edit, name, err);
	edit->slots[number].removed = true;
	if (!edit->slots[number].is_new)
		edit->changed += edit->slots[number].len;
	stfs_edit_touch(edit, edit->slots[number].shard);
	return 0;
}

/* ---- Renaming ---- */

/* Renames that are being made: the slots that have the names, and what they will be. */
struct moves {
	uint32_t *from;         /* owned */
	struct stfs_slot *made; /* owned; so are their names until they are the edit's */
	size_t count;
};

static void free_moves(struct moves *moves, bool names)
{
	for (size_t i = 0; names && i < moves->count; i++)
		stfs_slot_free(&moves->made[i]);
	free(moves->from);
	free(moves->made);
}

/* Finds the tensors and copies their new names. */
static int find_moves(struct stfs_edit *edit, const struct stfs_edit_pair *pairs, size_t count,
		      struct moves *moves, struct stfs_err *err)
{
	int r;

	for (size_t i = 0; i < count; i++) {
		uint32_t from = stfs_edit_slot(edit, pairs[i].from);
		struct stfs_slot *made = &moves->made[i];

		r = check_name(edit, pairs[i].to, err);
		if (r < 0)
			return r;
		if (from == STFS_NO_NUMBER)
			return no_such(edit, pairs[i].from, err);
		*made = edit->slots[from];
		made->dims = NULL;
		made->name_owned = false;
		r = copy_name(made, pairs[i].to);
		if (r < 0)
			return out_of_memory(edit, r, err);
		moves->from[i] = from;
		moves->count++;
	}
	return 0;
}

static int taken(const struct stfs_edit *edit, const struct moves *moves, size_t i, const char *by,
		 struct stfs_err *err)
{
	char quoted[STFS_QUOTED_MAX], quoted_to[STFS_QUOTED_MAX];

	return stfs_err_set(err, -EEXIST, STFS_NO_POSITION, "%s: cannot rename \"%s\" to \"%s\": %s",
			    edit->path, stfs_quote(edit->slots[moves->from[i]].name, quoted),
			    stfs_quote(moves->made[i].name, quoted_to), by);
}

static struct stfs_str made_name(const void *owner, uint32_t number)
{
	return ((const struct moves *)owner)->made[number].name;
}

/* Whether the new names are free, those of the renamed tensors counting as such. */
static int check_moves(struct stfs_edit *edit, const struct moves *moves, bool replace,
		       struct stfs_err *err)
{
	struct stfs_nametable targets = {0};
	int r = stfs_nametable_make(&targets, &edit->key, (uint32_t)moves->count);

	if (r < 0)
		return out_of_memory(edit, r, err);
	for (size_t i = 0; r == 0 && i < moves->count; i++) {
		struct stfs_str to = moves->made[i].name;
		uint32_t *slot = stfs_nametable_slot(&targets, to, made_name, moves);

		if (*slot != STFS_NO_NUMBER)
			r = taken(edit, moves, i, "another one would be called so too", err);
		else if (!replace && stfs_edit_slot(edit, to) != STFS_NO_NUMBER)
			r = taken(edit, moves, i, "there is a tensor of that name", err);
		*slot = (uint32_t)i;
	}
	stfs_nametable_free(&targets);
	return r;
}

/*
 * Takes the tensors out of the table, each once; puts them back when one stands there
 * twice.
 */
static int take_out(struct stfs_edit *edit, const struct moves *moves, struct stfs_err *err)
{
	for (size_t i = 0; i < moves->count; i++) {
		struct stfs_slot *slot = &edit->slots[moves->from[i]];

		if (!slot->removed) {
			slot->removed = true;
			continue;
		}
		while (i-- > 0)
			edit->slots[moves->from[i]].removed = false;
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "%s: a tensor is renamed twice "
				    "at once", edit->path);
	}
	return 0;
}

/* Nothing can fail any more: there is room, and every name is free or to be replaced. */
static void put_in(struct stfs_edit *edit, struct moves *moves)
{
	for (size_t i = 0; i < moves->count; i++) {
		struct stfs_slot *made = &moves->made[i];
		uint32_t other = stfs_edit_slot(edit, made->name);

		if (other != STFS_NO_NUMBER) {
			edit->slots[other].removed = true;
			edit->changed += edit->slots[other].is_new ? 0 : edit->slots[other].len;
			stfs_edit_touch(edit, edit->slots[other].shard);
		}
		made->dims = edit->slots[moves->from[i]].dims;
		edit->slots[moves->from[i]].dims = NULL;
		stfs_edit_add(edit, made);
		stfs_edit_touch(edit, made->shard);
	}
}

int stfs_edit_rename(struct stfs_edit *edit, const struct stfs_edit_pair *pairs, size_t count,
		     bool replace, struct stfs_err *err)
{
	struct moves moves = {.from = calloc(count ? count : 1, sizeof(*moves.from)),
			      .made = calloc(count ? count : 1, sizeof(*moves.made))};
	int r = moves.from && moves.made ? stfs_edit_make_room(edit, count) : -ENOMEM;

	if (r < 0)
		r = out_of_memory(edit, r, err);
	if (r == 0)
		r = find_moves(edit, pairs, count, &moves, err);
	if (r == 0)
		r = take_out(edit, &moves, err);
	if (r == 0) {
		r = check_moves(edit, &moves, replace, err);
		for (size_t i = 0; r < 0 && i < moves.count; i++)
			edit->slots[moves.from[i]].removed = false;
	}
	if (r == 0)
		put_in(edit, &moves);
	free_moves(&moves, r < 0);
	return r;
}

int stfs_edit_compact(struct stfs_edit *edit, struct stfs_err *err)
{
	edit->compact = true;
	return 0;
}
