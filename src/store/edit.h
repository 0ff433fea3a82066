/* SPDX-License-Identifier: MIT */
/*
 * A model that can be changed. Edits are staged one after the other, each seeing those before it, and
 * take effect together when they are committed: all of them, in all files of the model, or none.
 *
 *   clean --edit--> staged --commit--> clean
 *                      \--commit fails before its record--> staged (nothing has happened)
 *                      \--commit fails after it--> stuck (read-only; stfs_recover() finishes it)
 *
 * Invariants, and their tests in unit/test_edit.c; mount/test_edits.py compares random edits with a
 * model in memory:
 *   E1  names are unique among the tensors as staged; no edit that would break this is taken
 *       (names_may_be_swapped_and_reused, the_index_follows_the_shards).
 *   E2  an edit that fails leaves everything as it was staged before it
 *       (a_failing_edit_leaves_everything_as_it_was_staged).
 *   E3  the files are locked from opening to closing, exclusively unless it is a dry run
 *       (a_model_is_locked_while_it_is_edited, shards_and_index_are_locked_too).
 *   E4  nothing is committed over a file that another program changed or replaced (ESTALE:
 *       nothing_is_committed_over_another_file, nothing_is_committed_over_another_header).
 */
#ifndef STFS_STORE_EDIT_H
#define STFS_STORE_EDIT_H

#include "commit/commit.h"
#include "store/model.h"

enum {
	/* Also a model that is a link into a cache, has other hard links, or is read-only. */
	STFS_EDIT_FORCE = 1 << 0,
	/* Also one with holes or trailing bytes: the next commit closes them (compact). */
	STFS_EDIT_TOLERANT = 1 << 1,
	/* Only to plan: needs no permission to write, takes a shared lock, cannot commit. */
	STFS_EDIT_DRY_RUN = 1 << 2,
	/* Other programs that have the file open may see bytes move: do not spare them. */
	STFS_EDIT_IGNORE_READERS = 1 << 3,
	/* stfs_edit_create: replace a file that is there. */
	STFS_EDIT_OVERWRITE = 1 << 4,
	/* The model is open with STFS_OPEN_MAP, after each commit too. */
	STFS_EDIT_MAP = 1 << 5,
};

struct stfs_edit;

/*
 * Opens the model at `path` (store/resolve.h) for changes; the path itself may be a link. Finishes an
 * interrupted commit first (not in a dry run). 0; -EBADMSG when the file is refused; -EPERM with a word
 * about STFS_EDIT_FORCE when the guard holds it back; -EBUSY when a mount or another command has it;
 * -EUCLEAN when an interrupted commit cannot be finished; another -errno.
 */
int stfs_edit_open(const char *path, unsigned flags, struct stfs_edit **edit, struct stfs_err *err);

/* A model that is not there yet: one file, that appears at `path` when it is committed. -EEXIST. */
int stfs_edit_create(const char *path, unsigned flags, struct stfs_edit **edit, struct stfs_err *err);

/*
 * A file in another format that is to become a model where it is (docs/journal.md), by what is put into
 * it: empty at first. 0; -EOPNOTSUPP when it cannot be changed in place; -EPERM; -EBUSY, also when a change to
 * it was interrupted and is to be recovered first; another -errno.
 */
int stfs_edit_open_foreign(const char *path, unsigned flags, struct stfs_edit **edit, struct stfs_err *err);
/* The file, borrowed, until it is a model. */
int stfs_edit_foreign_fd(const struct stfs_edit *edit, uint64_t *length);
/*
 * Says that no byte of any tensor lies from `end` on: what stands there may be how programs find the others, and is
 * erased before these move. Until it is said, the whole file may be tensors.
 */
void stfs_edit_set_foreign_end(struct stfs_edit *edit, uint64_t end);

/* Drops what is staged. */
void stfs_edit_close(struct stfs_edit *edit);

/* The model as committed; NULL of one that is being created. Valid until the next commit. */
const struct stfs_model *stfs_edit_model(const struct stfs_edit *edit);
/* What to call it in messages. */
const char *stfs_edit_path(const struct stfs_edit *edit);
/* The folder that its files stand in: an O_PATH descriptor, borrowed. */
int stfs_edit_folder(const struct stfs_edit *edit);

/* ---- The tensors as staged ---- */

struct stfs_edit_tensor {
	struct stfs_str name; /* valid until the next edit */
	enum stfs_dtype dtype;
	const uint64_t *dims; /* valid until the next edit; NULL when rank is 0 */
	size_t rank;
	uint64_t len;   /* bytes */
	uint32_t shard; /* number of the file that holds it */
	bool is_new;    /* its bytes are not in that file yet */
	int fd;         /* borrowed: where its bytes can be read now; -1: in pieces, or by a reader alone */
	uint64_t offset;
};

/* How many there are; they are numbered from 0 in header order, new ones last. 0 or -ENOMEM. */
int stfs_edit_count(struct stfs_edit *edit, size_t *count);
/* Number `index`, which is below the count; the numbers change with every edit. 0 or -ENOMEM. */
int stfs_edit_tensor(struct stfs_edit *edit, size_t index, struct stfs_edit_tensor *tensor);
/* The tensor `name`: 0, -ENOENT or -ENOMEM. */
int stfs_edit_find(struct stfs_edit *edit, struct stfs_str name, struct stfs_edit_tensor *tensor);

/* Calls `each` with every pair of the metadata as staged, as stfs_model_metadata(). */
int stfs_edit_metadata(const struct stfs_edit *edit,
		       int (*each)(void *data, struct stfs_str key, struct stfs_str value), void *data);

/* ---- Edits: 0, or -errno with `err` filled, and nothing changed (E2) ---- */

/*
 * Copies `len` bytes (UINT64_MAX: all up to the end) of `fd`, which may be a pipe, into the spool, a
 * file without a name beside the model, with room for them reserved. *source is good until what is
 * staged is committed or dropped.
 */
int stfs_edit_spool(struct stfs_edit *edit, int fd, uint64_t len, struct stfs_source *source,
		    uint64_t *spooled, struct stfs_err *err);
/* The same of a tensor of another model that has STFS_NO_OFFSET. */
int stfs_edit_spool_tensor(struct stfs_edit *edit, const struct stfs_model *model,
			   const struct stfs_tensor_ref *ref, struct stfs_source *source, struct stfs_err *err);

/*
 * Puts a tensor in the place of the one of that name, keeping its file and its place in the header, or
 * adds it. Of a sharded model a new one goes to the file of its nearest neighbour in natural order.
 * Its bytes, as many as dtype and shape say, are `source`'s, whose pieces or reader are borrowed until what is
 * staged is committed or dropped. -EINVAL for a name or shape that no header can hold.
 */
int stfs_edit_put(struct stfs_edit *edit, struct stfs_str name, enum stfs_dtype dtype,
		  const uint64_t *dims, size_t rank, struct stfs_source source, struct stfs_err *err);

/*
 * The same of bytes that stand in the foreign file, from `offset` on. No byte is one of two tensors that stay
 * so; of others' sources it may be one.
 */
int stfs_edit_stay(struct stfs_edit *edit, struct stfs_str name, enum stfs_dtype dtype,
		   const uint64_t *dims, size_t rank, uint64_t offset, struct stfs_err *err);

/* Whether stfs_edit_move() may give a foreign file that name: asked before it is changed. 0 or -errno. */
int stfs_edit_check_move(const struct stfs_edit *edit, const char *path, struct stfs_err *err);
/*
 * Gives the one file of a model that has been committed the name `path`, which is free, in one step that is
 * durable. 0; -EEXIST; -EXDEV; another -errno.
 */
int stfs_edit_move(struct stfs_edit *edit, const char *path, struct stfs_err *err);

/* The same bytes under another type or shape, of as many bytes. */
int stfs_edit_retype(struct stfs_edit *edit, struct stfs_str name, enum stfs_dtype dtype,
		     const uint64_t *dims, size_t rank, struct stfs_err *err);

int stfs_edit_remove(struct stfs_edit *edit, struct stfs_str name, struct stfs_err *err); /* -ENOENT */

struct stfs_edit_pair {
	struct stfs_str from, to; /* borrowed */
};

/*
 * Renames all at once, so that names may be swapped. -ENOENT; -EEXIST when a tensor of that name is
 * there and not renamed itself, unless `replace`, which removes it.
 */
int stfs_edit_rename(struct stfs_edit *edit, const struct stfs_edit_pair *pairs, size_t count,
		     bool replace, struct stfs_err *err);

/* Of a sharded model, in every file. */
int stfs_edit_set(struct stfs_edit *edit, struct stfs_str key, struct stfs_str value,
		  struct stfs_err *err);
int stfs_edit_unset(struct stfs_edit *edit, struct stfs_str key, struct stfs_err *err); /* -ENOENT */
/* All metadata anew, in every file; no key stands twice. In time that grows with their number. */
int stfs_edit_set_all(struct stfs_edit *edit, const struct stfs_header_pair *pairs, size_t count,
		      struct stfs_err *err);
/* Removes all metadata. */
int stfs_edit_unset_all(struct stfs_edit *edit, struct stfs_err *err);

/*
 * The commit shall close holes, align every tensor and give back what the header has in reserve, though
 * nothing else has changed; only what needs it is moved.
 */
int stfs_edit_compact(struct stfs_edit *edit, struct stfs_err *err);

/* Whether a commit would change anything. */
bool stfs_edit_pending(const struct stfs_edit *edit);

/* ---- Commit ---- */

/* What a commit does to one file, or would do. */
struct stfs_edit_file {
	char *name; /* owned */
	enum stfs_plan_kind kind;
	bool is_new;        /* it was not there before */
	bool is_index;      /* the index: written anew, the fields below but the lengths are 0 */
	uint64_t old_length, new_length; /* bytes of the file */
	uint64_t header;    /* bytes of the new header, with its reserve */
	struct stfs_plan_cost cost;
	size_t shifts;      /* block shifts among the steps */
};

struct stfs_edit_result {
	struct stfs_edit_file *files; /* owned; those that change */
	size_t count;
	uint64_t changed; /* bytes of the tensors added, replaced, resized or removed */
	uint64_t space;   /* bytes that must be free for a while */
	uint64_t room;    /* bytes that are */
	bool readers;     /* another program has a file open: live bytes are not moved under it */
};
void stfs_edit_result_free(struct stfs_edit_result *result);

/* What the commit would do: 0, or -ENOSPC with *result filled all the same, -errno. */
int stfs_edit_plan(struct stfs_edit *edit, struct stfs_edit_result *result, struct stfs_err *err);

/*
 * Commits what is staged. 0, with the model then open as it is now and nothing staged. -ESTALE;
 * -ENOSPC; another -errno: if stfs_edit_is_stuck(), the record was written and the model is to be
 * recovered; else nothing has happened and it may be tried again. `result` may be NULL.
 */
int stfs_edit_commit(struct stfs_edit *edit, const struct stfs_progress *progress,
		     struct stfs_edit_result *result, struct stfs_err *err);
bool stfs_edit_is_stuck(const struct stfs_edit *edit);

/*
 * Finishes a commit that got stuck, or takes it back, and opens the model as it is then, with nothing staged; hooks hear
 * of it unless it was taken back. Nobody may read meanwhile: the files are closed, and their locks let go, before they
 * are locked anew. 0; -EBUSY when another program was faster; -errno, and the handle can only be closed.
 */
int stfs_edit_resume(struct stfs_edit *edit, enum stfs_recovered *what, struct stfs_err *err);

/* Drops what is staged, as if the model had just been opened. 0; -EROFS when it is stuck; -ENOMEM. */
int stfs_edit_revert(struct stfs_edit *edit, struct stfs_err *err);

/* ---- Readers beside a commit: a mount ---- */

/*
 * While one thread commits, others go on reading the tensors that were there when the model was opened.
 * They hold a lock shared from stfs_edit_where() until they have the bytes; `stop` takes it exclusively,
 * and the thread that commits calls it for moments only: never while it copies tensors. They know
 * nothing of what is staged; of this header they call stfs_edit_where() alone.
 *
 *     commit begins        every byte is where it was
 *     stop recorded go_on  the new bytes are in the file, and it is sure that the commit will be done
 *     stop ...... go_on    bytes have moved: once for each step
 *     stop swapped go_on   the model is open anew: every byte is where its header says
 */
struct stfs_edit_hooks {
	void *data;
	void (*stop)(void *data);
	void (*go_on)(void *data);
	/*
	 * Between stop and go_on, when files are changed in place; may be NULL. The commit is recorded:
	 * it can get stuck, but it cannot be undone any more.
	 */
	void (*recorded)(void *data);
	/*
	 * Between stop and go_on, with stfs_edit_model() the model as it is now. The one before it is
	 * closed after go_on. May be NULL.
	 */
	void (*swapped)(void *data, const struct stfs_model *fresh);
};

/* From the next commit on; copies *hooks. NULL: none any more. Not while there is a commit. */
void stfs_edit_watch(struct stfs_edit *edit, const struct stfs_edit_hooks *hooks);

/*
 * Called in recorded(): whether the bytes of the new tensor `name` now lie in one piece in a file that is
 * changed in place, and where: at this byte of it, for stfs_edit_where(). Those of a file that is
 * replaced stay in their source alone until swapped().
 */
bool stfs_edit_written(const struct stfs_edit *edit, struct stfs_str name, uint32_t *shard,
		       uint64_t *offset);

/*
 * Where byte `offset` of file number `shard`, as it was when the model was opened, is now in the file
 * that is open: *len bytes, at most `most`, lie there together. 0; -EIO when nobody knows: it was no
 * byte of a tensor that stays, or a commit stopped in the middle of a block shift.
 */
int stfs_edit_where(const struct stfs_edit *edit, uint32_t shard, uint64_t offset, uint64_t most,
		    uint64_t *now, uint64_t *len);

/*
 * Has stfs_edit_rescue() keep the edits in this file: the spool of a mount, with nothing live in its first
 * STFS_SPOOL_HEADER bytes or behind `end`. What is staged from this file stays where it is in it. The file
 * stays the caller's, who keeps it until the edit is closed and says anew where it ends before each
 * rescue. Not once something was put into the edit's own spool.
 */
void stfs_edit_lend_spool(struct stfs_edit *edit, int fd, uint64_t end);

/* ---- After a crash ---- */

/*
 * Finishes or takes back what a crash interrupted. 0 with *what set; -EBUSY when a program has the
 * model open for changes; -EUCLEAN when journal and model do not belong together (nothing was
 * touched); another -errno.
 */
int stfs_recover(const char *path, unsigned flags, enum stfs_recovered *what, struct stfs_err *err);

#endif
