/* SPDX-License-Identifier: MIT */
/*
 * A model as a directory of files that can be changed: what the mount shows (docs/writing.md has the
 * whole design). Nodes are files with bytes, known by number; names are tensor names, known by
 * numbers of their own.
 *
 *   clean --edit--> pending --commit--> clean        a commit that fails before its record: pending
 *                                \---> stuck         after it: nothing is written any more
 *
 * Locks, outermost first:
 *   lock      readers-writer. Shared: whoever looks at nodes, names or the model, or reads and writes
 *             bytes; held from finding the place of a byte until the byte has been copied. Exclusive:
 *             whoever changes names, sizes or types, and the committing thread at the moments that
 *             docs/writing.md lists.
 *   stripes   a mutex for one node in STRIPES: its layers, while `lock` is held shared.
 *
 * Invariants (tests: unit/test_tree.c; unit/test_tree_random.c compares random operations with an oracle,
 * mount/test_writing.py with a directory in memory):
 *   T1  a name has at most one linked node, and a linked node one name (names_and_nodes_belong_together).
 *   T2  the model as committed is what the nodes with an id say: each id belongs to one node
 *       (every_tensor_has_its_node).
 *   T3  nothing that a commit has taken changes until it is over (a_commit_takes_what_was_there).
 *   T4  bytes that were written are read until they are overwritten, whatever is committed, fails or
 *       moves meanwhile (reads_the_newest_bytes).
 */
#ifndef STFS_STORE_TREE_H
#define STFS_STORE_TREE_H

#include "store/edit.h"

struct stfs_tree;

enum stfs_tree_mode { STFS_TREE_RO, STFS_TREE_RW, STFS_TREE_COW, STFS_TREE_CREATE };

struct stfs_tree_options {
	const char *path;
	enum stfs_tree_mode mode;
	bool overwrite;      /* create: a file that is there is replaced by the first commit */
	bool force;          /* as STFS_EDIT_FORCE */
	bool staged;         /* every overwrite waits for the commit */
	bool ignore_readers; /* as STFS_EDIT_IGNORE_READERS */
	const char *spool_folder; /* NULL: beside the model */
};

/* 0 or -errno with `err`, as stfs_model_open() and stfs_edit_open(). */
int stfs_tree_open(const struct stfs_tree_options *options, struct stfs_tree **tree, struct stfs_err *err);
/* Drops what is pending. */
void stfs_tree_close(struct stfs_tree *tree);

/* Called, without any lock, when something was staged that a commit may take. Before the first edit. */
void stfs_tree_on_change(struct stfs_tree *tree, void (*changed)(void *data), void *data);

/* ---- Looking: everything here is valid between these two ---- */

void stfs_tree_hold(struct stfs_tree *tree);
void stfs_tree_release(struct stfs_tree *tree);

enum stfs_tree_mode stfs_tree_mode(const struct stfs_tree *tree);
/* As committed; NULL of one that is being created. */
const struct stfs_model *stfs_tree_model(const struct stfs_tree *tree);
/* Numbers of nodes and names are below these; some are not in use. */
uint32_t stfs_tree_nodes(const struct stfs_tree *tree);
uint32_t stfs_tree_names(const struct stfs_tree *tree);
/* Changes with every creation, removal and renaming. */
uint64_t stfs_tree_generation(const struct stfs_tree *tree);

/* How a node's size and type go together. */
enum stfs_fit {
	STFS_FIT_NONE,  /* it has no type */
	STFS_FIT_EXACT,
	STFS_FIT_ROWS,  /* so many rows of a settled type */
	STFS_FIT_NOT,
};

struct stfs_node_view {
	bool scratch;
	bool linked;       /* it has a name in the directory */
	uint32_t name;     /* of a linked tensor */
	struct stfs_str file; /* of a scratch file: its name */
	uint64_t len;
	uint64_t allocated; /* bytes in the spool */
	struct timespec mtime, ctime;
	uint32_t mode;     /* permission bits that somebody has set, or 0 */
	bool mode_set;
	uint32_t opens;
	struct stfs_shard *shard; /* of its bytes as committed, or NULL */
	bool typeless;     /* new, and without a type */
	bool absorbed;     /* see stfs_tree_absorb() */
	uint32_t id;       /* of the tensor that it is in the model, or STFS_NO_TENSOR */
};
/* False when there is no such node. */
bool stfs_tree_node(struct stfs_tree *tree, uint32_t node, struct stfs_node_view *view);

/* The type that a tensor shows. */
struct stfs_typing_view {
	enum stfs_fit fit;
	enum stfs_dtype dtype;
	size_t rank;
	const uint64_t *dims;       /* NULL: those of ref */
	struct stfs_tensor_ref ref; /* of the model, when dims is NULL */
	bool other_first;           /* the first dimension is `first` instead */
	uint64_t first;
	uint64_t bytes;             /* of a tensor of this type: FIT_NOT compares the node's length with it */
	struct stfs_str name;       /* of the tensor */
	bool long_name;             /* its file name is a hash */
	struct timespec mtime;      /* of its .json */
};
/*
 * Of the tensor that has the name, or of what was declared for one that is to come: false when there is
 * neither.
 */
bool stfs_tree_typing(struct stfs_tree *tree, uint32_t name, struct stfs_typing_view *view);
/* The dimensions of a view: malloc'ed, or NULL for want of memory. */
uint64_t *stfs_typing_dims(const struct stfs_typing_view *view);

/* The node that has the name, or STFS_NO_NUMBER. */
uint32_t stfs_tree_named(const struct stfs_tree *tree, uint32_t name);
/* The text of a name; false when there is none of that number. */
bool stfs_tree_name(const struct stfs_tree *tree, uint32_t name, struct stfs_str *text);
/* Its file name. */
size_t stfs_tree_file_name(const struct stfs_tree *tree, uint32_t name, char out[]);
/*
 * The number of the name with this file name (a stem): 0 with *name, -ENOENT when it was never in use;
 * -EINVAL, -EILSEQ, -ENAMETOOLONG as stfs_name_decode().
 */
int stfs_tree_find(const struct stfs_tree *tree, struct stfs_str stem, uint32_t *name);
/* The scratch file of that name, or STFS_NO_NUMBER. */
uint32_t stfs_tree_scratch(const struct stfs_tree *tree, struct stfs_str file);

/* The text of __metadata__.json, when there is one; borrowed. */
bool stfs_tree_metadata(const struct stfs_tree *tree, struct stfs_str *text, struct timespec *mtime);

/* ---- References: whoever knows a number counts it, so that it is not given anew ---- */

void stfs_tree_know_node(struct stfs_tree *tree, uint32_t node);
void stfs_tree_know_name(struct stfs_tree *tree, uint32_t name);
/* Without the lock. */
void stfs_tree_forget_node(struct stfs_tree *tree, uint32_t node, uint64_t times);
void stfs_tree_forget_name(struct stfs_tree *tree, uint32_t name, uint64_t times);
/* An open file. With the lock held. */
void stfs_tree_opened(struct stfs_tree *tree, uint32_t node);
/* Without it. */
void stfs_tree_closed(struct stfs_tree *tree, uint32_t node);
/* Somebody writes, or is done: commits leave out what is staged of such a node. Without the lock. */
void stfs_tree_begin_writing(struct stfs_tree *tree, uint32_t node);
void stfs_tree_end_writing(struct stfs_tree *tree, uint32_t node);
/*
 * A writer has closed a descriptor: perhaps the last one, which is known for certain only when it ends, some time
 * after. A type that fits when all writers rest settles, for whoever comes next may not wait; a commit leaves the
 * file out still, for a child process closes its copies too.
 */
void stfs_tree_rest_writing(struct stfs_tree *tree, uint32_t node);
/* It writes again; or, in place of stfs_tree_end_writing(), it ends. */
void stfs_tree_resume_writing(struct stfs_tree *tree, uint32_t node);
void stfs_tree_end_resting(struct stfs_tree *tree, uint32_t node);

/* ---- Bytes ---- */

struct stfs_place {
	int fd;             /* borrowed; -1: zeros, unless `assembled` */
	uint64_t offset, len;
	struct stfs_mapping *mapping; /* of the file, when the bytes can be had from there; or NULL */
	bool assembled; /* they stand nowhere as they are (store/checkpoint.h): stfs_tree_pread() gives them */
};
/* With the lock held: where the bytes at `offset` are, and how far they lie so, up to `most`. 0 or -EIO. */
int stfs_tree_place(struct stfs_tree *tree, uint32_t node, uint64_t offset, uint64_t most,
		    struct stfs_place *place);
/* With the lock held: bytes read, fewer only at the end, or -errno. */
ssize_t stfs_tree_pread(struct stfs_tree *tree, uint32_t node, void *buffer, size_t len, uint64_t offset);

/* Without the lock: 0 or -errno (-ENOSPC, -EROFS, -EFBIG, -EIO). */
int stfs_tree_write(struct stfs_tree *tree, uint32_t node, const void *bytes, size_t len, uint64_t offset);
/* `rewrite`: nothing of the old bytes is wanted, though the size may be the same (O_TRUNC). */
int stfs_tree_resize(struct stfs_tree *tree, uint32_t node, uint64_t len, bool rewrite);
/* Whether so much more could be staged now (fallocate): 0, -ENOSPC, -EROFS. */
int stfs_tree_check_room(struct stfs_tree *tree, uint64_t bytes);
int stfs_tree_zero(struct stfs_tree *tree, uint32_t node, uint64_t offset, uint64_t len);
/* Copies within the directory: bytes copied or -errno. */
ssize_t stfs_tree_copy(struct stfs_tree *tree, uint32_t from, uint64_t from_at, uint32_t to, uint64_t to_at,
		       size_t len);

/* ---- Attributes ---- */

void stfs_tree_set_mtime(struct stfs_tree *tree, uint32_t node, const struct timespec *mtime);
void stfs_tree_set_mode(struct stfs_tree *tree, uint32_t node, uint32_t mode);
/* Of NAME.json, until its tensor gets another type; of __metadata__.json for STFS_NO_NUMBER. */
void stfs_tree_set_text_mtime(struct stfs_tree *tree, uint32_t name, const struct timespec *mtime);

/* ---- Names: without the lock ---- */

/* The number of a name, made if need be, and counted as known once. 0 or -errno as stfs_tree_find(). */
int stfs_tree_make_name(struct stfs_tree *tree, struct stfs_str stem, uint32_t *name);

/*
 * The name gets another number, and nobody finds anything by this one: when what is known by it has become another's.
 * 0, -ENOMEM, -EOVERFLOW.
 */
int stfs_tree_retire_name(struct stfs_tree *tree, uint32_t name);

/*
 * A new tensor without bytes, or a scratch file of that name, known once; `opened`: also open and being
 * written. -EEXIST.
 */
int stfs_tree_create(struct stfs_tree *tree, uint32_t name, bool opened, uint32_t *node);
int stfs_tree_create_scratch(struct stfs_tree *tree, struct stfs_str file, bool opened, uint32_t *node);
/* One without a name, open and being written: to be adopted, or to go when it is closed. */
int stfs_tree_create_hidden(struct stfs_tree *tree, uint32_t *node);

/*
 * Removes the tensor that has the name. Its sidecar stays, as a type for a tensor to come, until it is removed
 * itself; or goes too when that was done before. -ENOENT.
 */
int stfs_tree_remove(struct stfs_tree *tree, uint32_t name);
int stfs_tree_remove_scratch(struct stfs_tree *tree, struct stfs_str file);
/*
 * Its bytes have become something else, under the name that the kernel has for it now: nobody finds it by that
 * name, though it is open.
 */
void stfs_tree_absorb(struct stfs_tree *tree, uint32_t node);
/*
 * Removes the sidecar: forgets a type that was declared for a tensor that is not there; that of one that is goes
 * when the tensor goes.
 */
void stfs_tree_undeclare(struct stfs_tree *tree, uint32_t name);

/*
 * Gives `node` the name, whoever had it before. -EEXIST with `keep` when there is one; -ENOENT when the node is not linked.
 */
int stfs_tree_rename(struct stfs_tree *tree, uint32_t node, uint32_t name, bool keep);
/*
 * The tensor of a node that nobody has open gets another node, and nobody finds it by the old one: when it is
 * renamed by a name that is not the node's. 0 with the new one; -EBUSY when it is open, -ENOMEM.
 */
int stfs_tree_renumber(struct stfs_tree *tree, uint32_t *node);
int stfs_tree_rename_scratch(struct stfs_tree *tree, uint32_t node, struct stfs_str file, bool keep);

/* A type that somebody asks for; `bytes` is what a tensor of it has. */
struct stfs_wanted_type {
	enum stfs_dtype dtype;
	const uint64_t *dims; /* borrowed */
	size_t rank;
	uint64_t bytes;
};

/* The type of the tensor that has the name or is to come. 0, -EROFS or -ENOMEM. */
int stfs_tree_declare(struct stfs_tree *tree, uint32_t name, const struct stfs_wanted_type *wanted);
/* For a name that is known by its hash alone: its text. -EINVAL when that has another file name. */
int stfs_tree_resolve_name(struct stfs_tree *tree, uint32_t name, struct stfs_str text, struct stfs_err *err);
/*
 * The bytes of *number, a hidden node, from `skip` on become those of the tensor `name`, of this type.
 * *number is then the tensor's node: the hidden one, or that which had the name and keeps it; the hidden
 * one is then empty. 0, -EROFS or -ENOMEM.
 */
int stfs_tree_adopt(struct stfs_tree *tree, uint32_t name, uint32_t *number, uint64_t skip,
		    const struct stfs_wanted_type *wanted);

/* Replaces the metadata; none when `pairs` is NULL. */
int stfs_tree_set_metadata(struct stfs_tree *tree, const struct stfs_header_pair *pairs, size_t count,
			   struct stfs_err *err);

/* ---- Commit ---- */

enum stfs_change {
	STFS_CHANGE_NEW = 1 << 0,
	STFS_CHANGE_REPLACED = 1 << 1,
	STFS_CHANGE_REMOVED = 1 << 2,
	STFS_CHANGE_RENAMED = 1 << 3,
	STFS_CHANGE_RETYPED = 1 << 4,
	STFS_CHANGE_METADATA = 1 << 5,
};

/* The word for the most important of some changes. */
const char *stfs_change_word(unsigned changes);

struct stfs_pending {
	struct stfs_str name;  /* as it is now; of a removed one as it was */
	struct stfs_str from;  /* of a renamed one: as it is in the model */
	unsigned changes;      /* of enum stfs_change */
	uint64_t bytes;
	const char *waits;     /* why an automatic commit leaves it out, or NULL; valid during the call */
	bool misfit;           /* an explicit one refuses it */
};
/* With the lock held. Stops at the first non-zero result. */
int stfs_tree_pending(struct stfs_tree *tree, int (*each)(void *data, const struct stfs_pending *pending),
		      void *data);

struct stfs_commit_request {
	bool all;    /* explicit: everything that has no reason of its own against it */
	bool end;    /* the last one: nothing is left out, what fits no type goes in as bytes */
	const uint32_t *nodes; /* borrowed: those that are asked for themselves */
	size_t count;
	bool *left_out; /* borrowed, or NULL: set for each of them that has changes which are not committed */
};

/* What was committed; owned. */
struct stfs_commit_report {
	uint64_t added, replaced, removed, renamed, retyped;
	bool metadata;
	uint64_t bytes;
	struct stfs_buf names; /* JSON objects, separated by commas: the first 100 */
	struct stfs_buf as_bytes; /* JSON strings, separated by commas: tensors that became U8 */
	size_t listed;
	bool refused; /* something that was asked for fits no type and was left out; `err` names it */
	bool no_room; /* the largest files were left out, for which the disk has no room; `err` says so */
};
void stfs_commit_report_free(struct stfs_commit_report *report);

/*
 * Commits; one thread at a time. 0, also when there was nothing to commit; -EROFS when the tree is stuck;
 * another -errno with everything still pending. In place of a commit with nothing staged, the files
 * that were written to are synced.
 */
int stfs_tree_commit(struct stfs_tree *tree, const struct stfs_commit_request *request,
		     struct stfs_commit_report *report, struct stfs_err *err);

/* Whether the node's own bytes and type keep it from being committed. Takes the lock. */
bool stfs_tree_is_misfit(struct stfs_tree *tree, uint32_t node);

/*
 * At the end, when nobody reads any more: finishes a commit that got stuck, or takes it back, after which there may be
 * another. 0, also when none did; -errno, and then all that is pending is lost but what that commit had taken, which
 * stfs_recover() finishes.
 */
int stfs_tree_resume(struct stfs_tree *tree, struct stfs_err *err);

/*
 * Puts what is pending into a rescue file, at the end: beside the model; or in the folder of the spool, from where it has
 * to be moved there, when there is no room for it. 0 when there is nothing to be kept, or a commit is stuck
 * (stfs_tree_resume); -errno.
 */
enum { STFS_RESCUED = 1, STFS_RESCUED_AWAY };
int stfs_tree_rescue(struct stfs_tree *tree, struct stfs_err *err);

/* Whether the model's folder cannot be written: bytes can be written over others, and no more. */
bool stfs_tree_in_place_only(const struct stfs_tree *tree);
bool stfs_tree_is_stuck(const struct stfs_tree *tree);
bool stfs_tree_is_committing(const struct stfs_tree *tree);
/* Bytes that the commit under way has copied, and will copy; 0 when there is none. */
void stfs_tree_progress(const struct stfs_tree *tree, uint64_t *done, uint64_t *total);
/* Bytes of the spool in use. */
uint64_t stfs_tree_spooled(const struct stfs_tree *tree);
/* A descriptor on the file system of the model, for statfs. Borrowed. */
int stfs_tree_folder(const struct stfs_tree *tree);

#endif
