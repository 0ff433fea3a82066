/* SPDX-License-Identifier: MIT */
/* What the parts of an editable model share. */
#ifndef STFS_STORE_EDIT_INTERNAL_H
#define STFS_STORE_EDIT_INTERNAL_H

#include "store/arena.h"
#include "store/edit.h"
#include "store/model_internal.h"

/* A tensor as staged, or one that was and is no more. */
struct stfs_slot {
	struct stfs_str name;
	uint64_t order;  /* its place in the header: of those read their number, then ever larger */
	uint32_t origin; /* id of whose entry, and bytes unless is_new, it has; or STFS_NO_TENSOR */
	uint32_t shard;
	enum stfs_dtype dtype;
	uint64_t *dims; /* owned; NULL: those of origin, or rank 0 */
	size_t rank;
	uint64_t len;
	struct stfs_source source; /* of a new one */
	bool name_owned : 1;
	bool is_new : 1;
	bool typed : 1;   /* dtype and dims are its own */
	bool removed : 1; /* stands in the table only so that names behind it are found */
	bool stays : 1;   /* is_new, and its bytes stand in the foreign file, at source.offset, for it alone */
	bool hidden : 1;  /* another shard shows the tensor of this name: kept as it is */
};

struct stfs_pair {
	char *key, *value; /* owned */
	size_t key_len, value_len;
};

/* One file of the model. */
struct stfs_edit_shard {
	bool dirty;
	bool metadata_loaded; /* pairs are what is staged; else what the header has */
	struct stfs_pair *pairs; /* owned */
	size_t pair_count, pair_cap;
};

struct stfs_edit {
	unsigned flags;
	struct stfs_model *model; /* owned; NULL while it is being created */
	struct stfs_model *rescue; /* owned: the rescue file whose tensors are staged, or NULL */
	struct stfs_piece **kept;  /* owned, each too: where the bytes are of those that it has in pieces */
	size_t kept_count;
	char *path;     /* owned: what to call it */
	char *name;     /* owned: of the file or index in the folder */
	char *real;     /* owned: the path that leads there without links */
	int folder_fd;  /* owned */
	int old_fd;     /* owned: the file that a new model takes the place of, locked; else -1 */
	int foreign_fd; /* owned: the file in another format that becomes the model, locked; else -1 */
	uint64_t foreign_length, foreign_hash; /* of it: stfs_commit_foreign_hash() */
	uint64_t foreign_end; /* of the last tensor in it */
	struct timespec foreign_mtime; /* when it was opened */
	struct stfs_slot *slots; /* owned */
	size_t count, cap;
	uint64_t next_order;
	struct stfs_nametable table; /* owned: numbers of slots; one a name, the last that had it */
	uint32_t table_room, table_used;
	struct stfs_sipkey key;
	uint32_t *view; /* owned: slots that are there, in header order; NULL: to be made */
	size_t view_count;
	struct stfs_edit_shard *shards; /* owned */
	uint32_t shard_count;
	uint32_t *sorted; /* owned: ids of the model by name; NULL: to be made */
	bool spool_lent;  /* the spool is the caller's */
	int spool;        /* owned unless lent; -1 until it is needed */
	char *spool_name; /* owned: where the file system knows no files without a name */
	uint64_t spool_end;
	uint64_t changed; /* bytes of tensors that edits added, replaced or removed */
	bool pending, compact, stuck;
	bool metadata_changed; /* by an edit; then the pairs of every shard are loaded */
	bool watched;
	struct stfs_edit_hooks hooks; /* of watched */
	/*
	 * Owned: where the bytes of each file are, from recorded() to swapped(), and for ever when the
	 * commit got stuck between. NULL: where they were. Readers look at it in other threads: it and
	 * what is behind it change between stop and go_on only.
	 */
	struct stfs_moves *moves;
	const struct stfs_commit_parts *recorded; /* in the hook of that name */
};

/* ---- edit.c ---- */

/* A handle without a model, or NULL. */
struct stfs_edit *stfs_edit_make(unsigned flags);
/* Hands it over when `r` is 0; else closes it and sees that `err` says something. Returns `r`. */
int stfs_edit_give(struct stfs_edit *made, int r, const char *path, struct stfs_edit **edit,
		   struct stfs_err *err);

/* Fills slots and table from the model. 0 or -errno. */
int stfs_edit_load(struct stfs_edit *edit);
/* Drops all that is staged. */
void stfs_edit_unload(struct stfs_edit *edit);
/*
 * A handle like `edit` with nothing staged, for `model` (borrowed): all that may fail is done with it
 * before it takes the place of `edit`. 0, or -errno and nothing to be freed.
 */
int stfs_edit_anew(const struct stfs_edit *edit, struct stfs_model *model, struct stfs_edit *anew);
/* Room for `more` slots, so that stfs_edit_add() cannot fail. 0 or -errno. */
int stfs_edit_make_room(struct stfs_edit *edit, size_t more);
/* Adds a slot (what it owns is the edit's then); the name is nobody's, or of one that was removed. */
void stfs_edit_add(struct stfs_edit *edit, const struct stfs_slot *slot);
/* The slot that `name` has now, or STFS_NO_NUMBER. */
uint32_t stfs_edit_slot(const struct stfs_edit *edit, struct stfs_str name);
/* The entry of the tensor that a slot comes from; the slot has one. */
static inline const struct stfs_tensor *stfs_slot_tensor(const struct stfs_edit *edit,
							 const struct stfs_slot *slot)
{
	uint32_t number = slot->origin - edit->model->first_id[slot->shard];

	return &edit->model->shards[slot->shard].header->tensors[number];
}
/* Frees what a slot owns. */
void stfs_slot_free(struct stfs_slot *slot);
/* Puts numbers of slots in the order of their files, and of the header in each. */
void stfs_edit_sort_slots(struct stfs_edit *edit, uint32_t *numbers, size_t count);
/* Slots in header order. 0 or -ENOMEM. */
int stfs_edit_make_view(struct stfs_edit *edit);
void stfs_edit_touch(struct stfs_edit *edit, uint32_t shard);

/* ---- edit_commit.c ---- */

/* One file of the commit while it is made. */
struct stfs_part {
	struct stfs_edit *edit;
	uint32_t shard;
	uint32_t *slots; /* owned: what the file will hold, in header order */
	size_t count;
	struct stfs_layout_item *items;        /* owned */
	struct stfs_source *sources;           /* owned */
	struct stfs_header_item *header_items; /* owned */
	uint64_t *dims;                        /* owned: shapes of those that have none of their own */
	struct stfs_header_pair *pairs;        /* owned array; strings are the shard's */
	struct stfs_header_parts header;
	uint64_t *written; /* owned; with hooks: for stfs_edit_written(), or STFS_NOT_WRITTEN */
};

/* A commit. */
struct stfs_commit_parts {
	struct stfs_part *parts; /* owned */
	size_t count;
	struct stfs_buf index; /* owned: its new text */
	bool has_index;
	struct stfs_commit_file *files; /* owned; parts, then the index */
	struct stfs_commit commit;
	struct stfs_edit *edit;
	struct stfs_commit_hooks hooks;
	struct stfs_moves *moves; /* owned until they are in force; one a file of the model */
	uint32_t moves_count;
};

/* ---- edit_reopen.c ---- */

/*
 * The model as the commit has left it takes the place of what was open, with nothing staged. The locks pass on. 0 or
 * -errno, and then nothing is changed.
 */
int stfs_edit_reopen(struct stfs_edit *edit, const struct stfs_commit_parts *all, struct stfs_err *err);

/* ---- edit_readers.c ---- */

#define STFS_NOT_WRITTEN UINT64_MAX

/* Has a commit that is about to run tell readers, if there are any. 0 or -ENOMEM. */
int stfs_edit_prepare_readers(struct stfs_commit_parts *all);
/* *anew takes the place of *edit, with readers stopped; what *edit was is the caller's to free. */
void stfs_edit_swap(struct stfs_edit *edit, const struct stfs_edit *anew);
/* Frees maps, one a file of the model. */
void stfs_edit_free_moves(struct stfs_moves *moves, uint32_t count);

/* ---- edit_metadata.c ---- */

/* Loads the pairs of a shard, as the header has them until an edit changes them: 0 or -ENOMEM. */
int stfs_edit_load_metadata(struct stfs_edit *edit, uint32_t shard);
void stfs_edit_free_pairs(struct stfs_edit_shard *shard);
int stfs_edit_add_pair(struct stfs_edit_shard *shard, struct stfs_str key, struct stfs_str value);
/* The pair with that key, or NULL. The shard's metadata is loaded. */
struct stfs_pair *stfs_edit_find_pair(struct stfs_edit_shard *shard, struct stfs_str key);

/* ---- edit_foreign.c ---- */

/* E4: -ESTALE, with a word, when the foreign file, if there is one, is not what it was. */
int stfs_edit_check_foreign(const struct stfs_edit *edit, struct stfs_err *err);

/* ---- spool.c ---- */

int stfs_edit_open_spool(struct stfs_edit *edit);
/* Gives it a name that is free: 0, -EEXIST, another -errno. */
int stfs_edit_name_spool(struct stfs_edit *edit, int folder_fd, const char *name);
void stfs_edit_close_spool(struct stfs_edit *edit);
/* As stfs_edit_spool(), of bytes that stand in a file. */
int stfs_edit_spool_range(struct stfs_edit *edit, struct stfs_source from, uint64_t len,
			  struct stfs_source *source, uint64_t *spooled, struct stfs_err *err);

/* ---- rescue.c ---- */

#define STFS_RESCUE_NOT_TAKEN "0000000000000000"

/* A number for the model as it is: of all its headers. Not 0. */
uint64_t stfs_rescue_print(const struct stfs_model *model);
/* Where bytes are that a rescue file has in pieces; the edit's, until it is closed. */
void stfs_edit_free_kept(struct stfs_edit *edit);

/* ---- guard.c ---- */

/*
 * What `path` means when it is to be changed: links of the path followed to the end. 0 with edit->path,
 * real, name and folder_fd filled; -EPERM when the guard holds it back.
 */
int stfs_edit_resolve(struct stfs_edit *edit, const char *path, struct stfs_err *err);
/* The same of one file, which a message calls `subject`. */
int stfs_edit_guard_file(const struct stfs_edit *edit, int fd, const char *subject, struct stfs_err *err);
/* The same of the files themselves, once they are open. */
int stfs_edit_guard(const struct stfs_edit *edit, struct stfs_err *err);

#endif
