/* SPDX-License-Identifier: MIT */
/* Opening for changes, and the tensors as they are staged. */
#include "store/edit.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/log.h"
#include "commit/beside.h"
#include "store/edit_internal.h"
#include "store/rescue.h"

/* ---- The table of names ---- */

static struct stfs_str slot_name(const void *owner, uint32_t number)
{
	return ((const struct stfs_edit *)owner)->slots[number].name;
}

uint32_t stfs_edit_slot(const struct stfs_edit *edit, struct stfs_str name)
{
	uint32_t number = *stfs_nametable_slot(&edit->table, name, slot_name, edit);

	return number == STFS_NO_NUMBER || edit->slots[number].removed ? STFS_NO_NUMBER : number;
}

/* A new table of what is there, with room for `more` names and as many again. */
static int remake_table(struct stfs_edit *edit, size_t more)
{
	struct stfs_nametable table;
	uint32_t live = 0;
	int r;

	for (size_t i = 0; i < edit->count; i++)
		live += !edit->slots[i].removed && !edit->slots[i].hidden;
	r = stfs_nametable_make(&table, &edit->key, (uint32_t)(2 * (live + more) + 64));
	if (r < 0)
		return r;
	for (size_t i = 0; i < edit->count; i++)
		if (!edit->slots[i].removed && !edit->slots[i].hidden)
			*stfs_nametable_slot(&table, edit->slots[i].name, slot_name, edit) =
				(uint32_t)i;
	stfs_nametable_free(&edit->table);
	edit->table = table;
	edit->table_room = (uint32_t)(2 * (live + more) + 64);
	edit->table_used = live;
	return 0;
}

int stfs_edit_make_room(struct stfs_edit *edit, size_t more)
{
	struct stfs_slot *slots;
	size_t cap = edit->cap ? edit->cap : 64;

	if (more >= STFS_NO_NUMBER / 8 || edit->count + more >= STFS_NO_NUMBER / 8)
		return -EOVERFLOW;
	while (cap < edit->count + more)
		cap *= 2;
	if (cap != edit->cap) {
		slots = reallocarray(edit->slots, cap, sizeof(*slots));
		if (!slots)
			return -ENOMEM;
		edit->slots = slots;
		edit->cap = cap;
	}
	if (edit->table.slots && edit->table_used + more <= edit->table_room)
		return 0;
	return remake_table(edit, more);
}

/* E1: whoever has the name now is removed, or it is nobody's. */
void stfs_edit_add(struct stfs_edit *edit, const struct stfs_slot *slot)
{
	uint32_t *place;

	assert(edit->count < edit->cap);
	edit->slots[edit->count] = *slot;
	if (!slot->hidden) {
		place = stfs_nametable_slot(&edit->table, slot->name, slot_name, edit);
		assert(*place == STFS_NO_NUMBER || edit->slots[*place].removed);
		edit->table_used += *place == STFS_NO_NUMBER;
		*place = (uint32_t)edit->count;
	}
	edit->count++;
}

void stfs_edit_touch(struct stfs_edit *edit, uint32_t shard)
{
	free(edit->view);
	edit->view = NULL;
	edit->shards[shard].dirty = true;
	edit->pending = true;
}

/* ---- What is staged ---- */

void stfs_slot_free(struct stfs_slot *slot)
{
	if (slot->name_owned)
		free((void *)(uintptr_t)slot->name.ptr);
	free(slot->dims);
}

static void free_slots(struct stfs_edit *edit)
{
	for (size_t i = 0; i < edit->count; i++)
		stfs_slot_free(&edit->slots[i]);
	free(edit->slots);
}

/* Forgets all that is staged, without freeing it. */
static void blank(struct stfs_edit *edit)
{
	edit->slots = NULL;
	edit->count = edit->cap = 0;
	edit->table = (struct stfs_nametable){0};
	edit->table_room = edit->table_used = 0;
	edit->view = edit->sorted = NULL;
	edit->view_count = 0;
	edit->shards = NULL;
	edit->shard_count = 0;
	edit->changed = 0;
	edit->pending = edit->compact = edit->metadata_changed = false;
	if (edit->spool_lent)
		return;
	edit->spool = -1;
	edit->spool_name = NULL;
	edit->spool_end = 0;
}

void stfs_edit_unload(struct stfs_edit *edit)
{
	free_slots(edit);
	stfs_nametable_free(&edit->table);
	free(edit->view);
	free(edit->sorted);
	for (uint32_t i = 0; i < edit->shard_count; i++)
		stfs_edit_free_pairs(&edit->shards[i]);
	free(edit->shards);
	stfs_edit_close_spool(edit);
	blank(edit);
}

/* The tensors of one shard, in header order. */
static void load_shard(struct stfs_edit *edit, uint32_t number)
{
	const struct stfs_header *header = edit->model->shards[number].header;

	for (uint32_t i = 0; i < header->count; i++) {
		const struct stfs_tensor *tensor = &header->tensors[i];
		struct stfs_slot slot = {
			.name = stfs_header_name(header, tensor),
			.order = i,
			.origin = edit->model->first_id[number] + i,
			.shard = number,
			.dtype = (enum stfs_dtype)tensor->dtype,
			.rank = tensor->rank,
			.len = tensor->end - tensor->begin,
			.hidden = tensor->hidden,
		};

		stfs_edit_add(edit, &slot);
	}
}

int stfs_edit_load(struct stfs_edit *edit)
{
	uint32_t count = edit->model ? edit->model->shard_count : 1;
	int r;

	edit->shards = calloc(count, sizeof(*edit->shards));
	if (!edit->shards)
		return -ENOMEM;
	edit->shard_count = count;
	r = stfs_sipkey_random(&edit->key);
	if (r == 0)
		r = stfs_edit_make_room(edit, edit->model ? stfs_model_ids(edit->model) : 0);
	edit->next_order = STFS_HEADER_MAX; /* behind all that a header can hold */
	for (uint32_t i = 0; r == 0 && edit->model && i < edit->shard_count; i++)
		load_shard(edit, i);
	if (!edit->model) /* it is to be made, even if it will hold nothing */
		edit->pending = edit->shards[0].dirty = true;
	return r;
}

int stfs_edit_anew(const struct stfs_edit *edit, struct stfs_model *model, struct stfs_edit *anew)
{
	int r;

	*anew = *edit;
	blank(anew);
	anew->model = model;
	anew->moves = NULL;
	r = stfs_edit_load(anew);
	if (r < 0)
		stfs_edit_unload(anew);
	return r;
}

int stfs_edit_revert(struct stfs_edit *edit, struct stfs_err *err)
{
	struct stfs_edit anew, old = *edit;
	int r = edit->stuck ? -EROFS : stfs_edit_anew(edit, edit->model, &anew);

	if (r < 0)
		return stfs_err_errno(err, r, "%s: what is staged cannot be dropped", edit->path);
	*edit = anew;
	stfs_edit_unload(&old);
	stfs_model_close(stfs_steal_ptr(&edit->rescue));
	return 0;
}

static int by_order(const void *left, const void *right, void *data)
{
	const struct stfs_edit *edit = data;
	const struct stfs_slot *a = &edit->slots[*(const uint32_t *)left];
	const struct stfs_slot *b = &edit->slots[*(const uint32_t *)right];

	if (a->shard != b->shard)
		return a->shard < b->shard ? -1 : 1;
	return a->order < b->order ? -1 : a->order > b->order;
}

void stfs_edit_sort_slots(struct stfs_edit *edit, uint32_t *numbers, size_t count)
{
	qsort_r(numbers, count, sizeof(*numbers), by_order, edit);
}

int stfs_edit_make_view(struct stfs_edit *edit)
{
	if (edit->view)
		return 0;
	edit->view = malloc((edit->count ? edit->count : 1) * sizeof(*edit->view));
	if (!edit->view)
		return -ENOMEM;
	edit->view_count = 0;
	for (size_t i = 0; i < edit->count; i++)
		if (!edit->slots[i].removed && !edit->slots[i].hidden)
			edit->view[edit->view_count++] = (uint32_t)i;
	stfs_edit_sort_slots(edit, edit->view, edit->view_count);
	return 0;
}

/* The shape as an array that lasts: read from the header's text when it is asked for. */
static int own_dims(struct stfs_edit *edit, struct stfs_slot *slot)
{
	if (slot->dims || slot->rank == 0)
		return 0;
	slot->dims = malloc(slot->rank * sizeof(*slot->dims));
	if (!slot->dims)
		return -ENOMEM;
	stfs_header_shape(edit->model->shards[slot->shard].header, stfs_slot_tensor(edit, slot),
			  slot->dims);
	return 0;
}

static int describe(struct stfs_edit *edit, struct stfs_slot *slot, struct stfs_edit_tensor *tensor)
{
	int r = own_dims(edit, slot);

	*tensor = (struct stfs_edit_tensor){
		.name = slot->name, .dtype = slot->dtype, .dims = slot->dims, .rank = slot->rank,
		.len = slot->len, .shard = slot->shard, .is_new = slot->is_new,
		.fd = stfs_source_is_range(&slot->source) ? slot->source.fd : -1, .offset = slot->source.offset};
	if (!slot->is_new) {
		const struct stfs_shard *shard = &edit->model->shards[slot->shard];

		tensor->fd = shard->fd;
		tensor->offset = stfs_header_data_start(shard->header) +
				 stfs_slot_tensor(edit, slot)->begin;
	}
	return r;
}

int stfs_edit_count(struct stfs_edit *edit, size_t *count)
{
	int r = stfs_edit_make_view(edit);

	*count = r == 0 ? edit->view_count : 0;
	return r;
}

int stfs_edit_tensor(struct stfs_edit *edit, size_t index, struct stfs_edit_tensor *tensor)
{
	int r = stfs_edit_make_view(edit);

	return r < 0 ? r : describe(edit, &edit->slots[edit->view[index]], tensor);
}

int stfs_edit_find(struct stfs_edit *edit, struct stfs_str name, struct stfs_edit_tensor *tensor)
{
	uint32_t number = stfs_edit_slot(edit, name);

	return number == STFS_NO_NUMBER ? -ENOENT : describe(edit, &edit->slots[number], tensor);
}

/* ---- Opening and closing ---- */

const struct stfs_model *stfs_edit_model(const struct stfs_edit *edit)
{
	return edit->model;
}

const char *stfs_edit_path(const struct stfs_edit *edit)
{
	return edit->path;
}

int stfs_edit_folder(const struct stfs_edit *edit)
{
	return edit->folder_fd;
}

bool stfs_edit_pending(const struct stfs_edit *edit)
{
	return edit->pending || edit->compact;
}

bool stfs_edit_is_stuck(const struct stfs_edit *edit)
{
	return edit->stuck;
}

void stfs_edit_close(struct stfs_edit *edit)
{
	if (!edit)
		return;
	if (edit->model)
		stfs_edit_free_moves(edit->moves, edit->model->shard_count);
	stfs_edit_unload(edit);
	stfs_model_close(edit->model);
	stfs_model_close(edit->rescue);
	stfs_edit_free_kept(edit);
	if (edit->folder_fd >= 0)
		close(edit->folder_fd);
	if (edit->old_fd >= 0)
		close(edit->old_fd);
	if (edit->foreign_fd >= 0)
		close(edit->foreign_fd);
	free(edit->path);
	free(edit->name);
	free(edit->real);
	free(edit);
}

struct stfs_edit *stfs_edit_make(unsigned flags)
{
	struct stfs_edit *edit = calloc(1, sizeof(*edit));

	if (edit) {
		edit->flags = flags;
		edit->folder_fd = edit->spool = edit->old_fd = edit->foreign_fd = -1;
	}
	return edit;
}

/* What a crash left: a commit under way by another holds the lock, which is found out here too. */
static int finish_interrupted(struct stfs_edit *edit, struct stfs_err *err)
{
	enum stfs_recovered what;
	int r = stfs_commit_interrupted(edit->folder_fd, edit->name);

	if (r == 0)
		return 0;
	if (r > 0 && edit->flags & STFS_EDIT_DRY_RUN)
		return stfs_model_say_interrupted(edit->path, err);
	if (r > 0)
		r = stfs_commit_recover(edit->folder_fd, edit->name, &what, err);
	if (r == 0 && what != STFS_RECOVERED_NOTHING)
		stfs_log(STFS_LOG_WARNING, "%s: a commit that was interrupted was %s first", edit->path,
			 what == STFS_RECOVERED_NEW ? "finished" : "taken back");
	return r;
}

/*
 * A shard on its own, while the commit of its model waits to be finished: that would no longer be
 * possible.
 */
static int check_others(const struct stfs_edit *edit, struct stfs_err *err)
{
	STFS_AUTO_FREE char *journal = NULL;
	int r = stfs_commit_named(edit->folder_fd, edit->name, &journal);

	if (r <= 0)
		return r;
	return stfs_err_set(err, -EBUSY, STFS_NO_POSITION, "%s: belongs to a sharded model of "
			    "which a commit is under way, or was interrupted (%s): `stfs recover` "
			    "its index first", edit->path, journal);
}

/*
 * Looked at with the locks held, so that nobody who has died leaves one behind us: no journal tells
 * of these files any more. That of a shard, changed on its own, is finished by its own name.
 */
static int check_journals(const struct stfs_edit *edit, struct stfs_err *err)
{
	const struct stfs_model *model = edit->model;

	if (stfs_commit_interrupted(edit->folder_fd, edit->name) != 0)
		return stfs_err_set(err, -EBUSY, STFS_NO_POSITION, "%s: another program has begun "
				    "to change it; try again", edit->path);
	for (uint32_t i = 0; stfs_model_is_sharded(model) && i < model->shard_count; i++)
		if (stfs_commit_interrupted(edit->folder_fd, model->shards[i].name) != 0)
			return stfs_err_set(err, -EUCLEAN, STFS_NO_POSITION, "%s: a commit of %s "
					    "on its own was interrupted: `stfs recover` that file "
					    "first", edit->path, model->shards[i].name);
	return check_others(edit, err);
}

/* What replacements that a crash interrupted left. The model is locked: nobody is making one now. */
static int clean_up(const struct stfs_edit *edit, bool *found)
{
	int r = 0;

	for (uint32_t i = 0; r >= 0 && i < edit->model->shard_count; i++) {
		r = stfs_commit_clean(edit->folder_fd, edit->model->shards[i].name);
		*found |= r > 0;
	}
	return r < 0 && r != -EACCES && r != -EROFS && r != -EBUSY ? r : 0;
}

static int open_edit(struct stfs_edit *edit, const char *path, bool *cleaned, struct stfs_err *err)
{
	unsigned flags = STFS_OPEN_LOCK;
	int r = stfs_edit_resolve(edit, path, err);

	if (!(edit->flags & STFS_EDIT_DRY_RUN))
		flags |= STFS_OPEN_WRITE;
	if (edit->flags & STFS_EDIT_TOLERANT)
		flags |= STFS_OPEN_TOLERANT;
	if (edit->flags & STFS_EDIT_MAP)
		flags |= STFS_OPEN_MAP;
	if (r == 0)
		r = finish_interrupted(edit, err);
	if (r == 0)
		r = check_others(edit, err);
	if (r == 0)
		r = stfs_model_open(edit->real, flags, &edit->model, err);
	if (r == 0)
		r = stfs_edit_guard(edit, err);
	if (r == 0 && flags & STFS_OPEN_WRITE)
		r = check_journals(edit, err);
	if (r == 0 && flags & STFS_OPEN_WRITE)
		r = clean_up(edit, cleaned);
	return r < 0 ? r : stfs_edit_load(edit);
}

int stfs_edit_give(struct stfs_edit *made, int r, const char *path, struct stfs_edit **edit,
		   struct stfs_err *err)
{
	if (r == 0) {
		*edit = made;
		return 0;
	}
	stfs_edit_close(made);
	if (err && err->code != r)
		stfs_err_errno(err, r, "%s", path);
	return r;
}

int stfs_edit_open(const char *path, unsigned flags, struct stfs_edit **edit, struct stfs_err *err)
{
	struct stfs_edit *made = stfs_edit_make(flags);
	bool cleaned = false;

	return stfs_edit_give(made, made ? open_edit(made, path, &cleaned, err) : -ENOMEM, path, edit, err);
}

/* The file that is to be overwritten: nobody has it mounted or is changing it, until we are done. */
static int claim_old(struct stfs_edit *edit, struct stfs_err *err)
{
	int r = finish_interrupted(edit, err);

	if (r < 0)
		return r;
	edit->old_fd = openat(edit->folder_fd, edit->name,
			      O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (edit->old_fd < 0)
		return stfs_err_errno(err, -errno, "%s", edit->path);
	r = stfs_beside_lock(edit->folder_fd, edit->name, edit->old_fd);
	return r < 0 ? stfs_err_set(err, r, STFS_NO_POSITION, "%s: is mounted, or another command "
				    "is changing it", edit->path) : 0;
}

/* The path of a file that is not there yet, good from whatever folder we are in later. */
static int name_new(struct stfs_edit *edit)
{
	STFS_AUTO_FREE char *link = NULL, *folder = NULL;

	if (asprintf(&link, "/proc/self/fd/%d", edit->folder_fd) < 0) {
		link = NULL;
		return -ENOMEM;
	}
	folder = realpath(link, NULL);
	if (!folder)
		return -errno;
	if (asprintf(&edit->real, "%s/%s", strcmp(folder, "/") == 0 ? "" : folder, edit->name) < 0) {
		edit->real = NULL;
		return -ENOMEM;
	}
	return 0;
}

/* The folder and name of a file that is to be made. */
static int place_new(struct stfs_edit *edit, const char *path, struct stfs_err *err)
{
	struct stat st;
	int r;

	edit->path = strdup(path);
	if (!edit->path)
		return -ENOMEM;
	r = stfs_resolve_place(path, &edit->folder_fd, &edit->name, err);
	if (r < 0)
		return r;
	r = name_new(edit);
	if (r < 0)
		return r;
	if (!*edit->name || strcmp(edit->name, ".") == 0 || strcmp(edit->name, "..") == 0)
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "%s: is no name for a file", path);
	/*
	 * It would tell of another file than the one that then stands there, which nobody could
	 * open.
	 */
	if (stfs_commit_interrupted(edit->folder_fd, edit->name) > 0)
		return stfs_model_say_interrupted(path, err);
	if (fstatat(edit->folder_fd, edit->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : stfs_err_errno(err, -errno, "%s", path);
	if (!S_ISREG(st.st_mode))
		return stfs_err_set(err, -EEXIST, STFS_NO_POSITION, "%s: exists and is no regular "
				    "file", path);
	if (edit->flags & STFS_EDIT_OVERWRITE)
		return claim_old(edit, err);
	return stfs_err_set(err, -EEXIST, STFS_NO_POSITION, "%s: exists; %s replaces it", path,
			    edit->flags & STFS_EDIT_MAP ? "-o create,overwrite" : "--overwrite");
}

int stfs_edit_create(const char *path, unsigned flags, struct stfs_edit **edit, struct stfs_err *err)
{
	struct stfs_edit *made = stfs_edit_make(flags);
	int r = made ? place_new(made, path, err) : -ENOMEM;

	if (r == 0)
		r = stfs_edit_load(made);
	return stfs_edit_give(made, r, path, edit, err);
}

/* Commits what a rescue file holds. */
static int commit_rescued(const char *path, unsigned flags, enum stfs_recovered *what,
			  struct stfs_err *err)
{
	struct stfs_edit *edit;
	int r = stfs_edit_open(path, flags, &edit, err);

	if (r < 0)
		return r;
	r = stfs_edit_take_up(edit, err);
	if (r > 0) {
		r = stfs_edit_commit(edit, NULL, NULL, err);
		if (r == 0)
			r = stfs_edit_end_rescue(edit, err);
		if (r == 0)
			*what = STFS_RECOVERED_RESCUED;
	}
	stfs_edit_close(edit);
	return r;
}

/*
 * What an interrupted replacement left goes when the model is opened; one that cannot be is left
 * alone.
 */
static void clean_leftovers(const char *path, unsigned flags, enum stfs_recovered *what)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_edit *edit = stfs_edit_make(flags);
	bool cleaned = false;

	if (edit && open_edit(edit, path, &cleaned, &err) == 0 && cleaned)
		*what = STFS_RECOVERED_OLD;
	stfs_edit_close(edit);
}

/* A model that was cut off in the middle, without the journal that tells how to go on. */
static int check_poison(const char *path, struct stfs_err *err)
{
	struct stfs_model *model = NULL;
	enum stfs_interrupted interrupted;
	int r = stfs_model_open(path, STFS_OPEN_JUDGE, &model, err);

	if (r < 0)
		return r;
	interrupted = stfs_model_interrupted(model);
	stfs_model_close(model);
	if (interrupted != STFS_JOURNAL_MISSING)
		return 0;
	return stfs_err_set(err, -EUCLEAN, STFS_NO_POSITION, "%s: an edit was interrupted in the middle, but its "
			    "journal is not beside the model: was it moved or copied without that hidden file? "
			    "Without it the model has to be had anew", path);
}

int stfs_recover(const char *path, unsigned flags, enum stfs_recovered *what, struct stfs_err *err)
{
	struct stfs_edit *edit = stfs_edit_make(flags);
	int r = edit ? stfs_edit_resolve(edit, path, err) : -ENOMEM, kept = 0;

	*what = STFS_RECOVERED_NOTHING;
	if (r == 0)
		r = check_others(edit, err);
	if (r == 0)
		r = stfs_commit_recover(edit->folder_fd, edit->name, what, err);
	if (r == 0)
		r = kept = stfs_beside_exists(edit->folder_fd, edit->name, STFS_BESIDE_RESCUE);
	stfs_edit_close(edit);
	if (kept > 0)
		r = commit_rescued(path, flags, what, err);
	else if (r == 0 && *what == STFS_RECOVERED_NOTHING)
		clean_leftovers(path, flags, what);
	if (r >= 0)
		r = check_poison(path, err);
	if (r < 0 && err && err->code != r)
		stfs_err_errno(err, r, "%s", path);
	return r < 0 ? r : 0;
}
