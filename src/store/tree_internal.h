/* SPDX-License-Identifier: MIT */
/* What the parts of the tree share. */
#ifndef STFS_STORE_TREE_INTERNAL_H
#define STFS_STORE_TREE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "format/metadata.h"
#include "format/sidecar.h"
#include "store/arena.h"
#include "store/content.h"
#include "store/model_internal.h"
#include "store/tree.h"

#define STRIPES 64

struct stfs_type {
	enum stfs_dtype dtype;
	uint64_t *dims; /* owned; rank of them */
	size_t rank;
	uint64_t bytes; /* of a tensor of this type */
	uint64_t serial; /* no two have the same */
};

/* What a commit has taken of a node. */
struct stfs_taking {
	uint32_t node;
	uint32_t id;       /* the tensor that it was, or STFS_NO_TENSOR */
	unsigned changes;  /* of enum stfs_change */
	char *name;        /* owned: what it will be called; NULL when it is removed */
	size_t name_len;
	uint64_t serial;   /* of the node's own type then, to see whether it is another now; or 0 */
	struct stfs_content *frozen;  /* the node's; NULL when its bytes stay */
	struct stfs_piece *pieces;    /* owned: where the bytes are */
	uint64_t len;
	bool as_bytes;     /* typed U8 for want of a type */
	bool written;      /* the bytes are in the file, at `offset` of its old coordinates */
	uint32_t shard;
	uint64_t offset;
};

struct stfs_node {
	uint32_t name; /* STFS_NO_NUMBER: scratch, hidden or removed */
	uint32_t id;   /* the tensor that it is in the model as committed, or STFS_NO_TENSOR */
	_Atomic uint32_t opens, writers;
	_Atomic uint32_t resting; /* of the writers: see stfs_tree_rest_writing() */
	_Atomic uint64_t lookups;
	struct stfs_content *content; /* owned: the top layer; under the stripe's lock */
	struct stfs_type *type;       /* owned: other than that of `id`; NULL: the same, or none */
	char *scratch;                /* owned: its file name */
	struct stfs_taking *taking;   /* of the commit under way */
	struct timespec mtime;        /* when mtime_set; under the stripe's lock */
	uint16_t mode;
	bool used : 1;
	bool hidden : 1;   /* never had a name */
	bool absorbed : 1; /* its bytes were taken for a text or an array: nobody finds it by name any more */
	bool settled : 1;  /* its type fitted once, of a closed file: rows may be added */
	bool rewritten : 1; /* from its beginning, since it was committed: it may be half a copy */
	bool detached : 1; /* all its bytes are in the spool: the model need not keep them */
	bool mode_set : 1;
	bool mtime_set;    /* under the stripe's lock */
};

struct stfs_treename {
	char *text; /* owned, unless in tree->texts */
	uint32_t len;
	uint32_t node; /* STFS_NO_NUMBER: no tensor has it now */
	struct stfs_type *declared; /* owned: for a tensor that is to come, or of one that was removed */
	_Atomic uint64_t lookups;
	struct timespec mtime; /* of its .json, when mtime_set */
	bool used, text_owned, mtime_set;
	bool settled;      /* `declared` is the type of one that was removed */
	bool text_removed; /* somebody has removed its .json, and not yet the tensor */
	bool unresolved; /* `text` is the file name, a hash: the name is not known yet */
	bool retired;    /* not in use, nor to be given anew while it is known */
};

/* A name whose file name is a hash. */
struct stfs_hashed {
	char digest[32];
	uint32_t name;
};

struct stfs_tree {
	enum stfs_tree_mode mode;
	bool staged;
	bool overwrite;           /* a model that is there goes only when something takes its place */
	struct stfs_edit *edit;   /* owned: of one that can be committed, else NULL */
	struct stfs_model *owned; /* of one that cannot */
	const struct stfs_model *model; /* as committed, or NULL; under lock */
	char *path;               /* owned */
	int folder_fd;            /* owned: of the model */
	struct stfs_arena *arena; /* owned; NULL when read-only */
	bool arena_beside;        /* it can become the rescue file */
	bool in_place_only;       /* the folder cannot be written: nothing can be staged */
	void (*changed)(void *data);
	void *changed_data;

	pthread_rwlock_t lock;
	pthread_mutex_t stripes[STRIPES];

	/* Under lock: */
	struct stfs_node *nodes; /* owned */
	uint32_t node_count, node_cap;
	uint32_t *free_nodes; /* owned: numbers that may be given anew */
	uint32_t free_count, free_cap;
	struct stfs_treename *names; /* owned */
	uint32_t name_count, name_cap;
	uint32_t *free_names; /* owned: numbers that may be given anew */
	uint32_t free_name_count, free_name_cap;
	struct stfs_nametable table; /* owned: of names but the unresolved */
	uint32_t table_room, table_used;
	struct stfs_hashed *hashed; /* owned */
	uint32_t hashed_count, hashed_cap;
	struct stfs_nametable digests; /* owned: of `hashed` */
	uint32_t digests_room;
	struct stfs_sipkey key;
	char *texts;      /* owned: of the names as opened */
	uint32_t *by_id;  /* owned: the node of each tensor of the model */
	uint32_t scratches; /* how many nodes are scratch */
	_Atomic uint64_t generation;
	bool committing;
	_Atomic bool stuck;
	struct stfs_taking *takings; /* owned: of the commit under way, or of one that got stuck */
	size_t taking_count;

	struct stfs_metadata metadata; /* staged */
	bool metadata_staged;
	uint64_t metadata_edits;
	struct stfs_buf metadata_text;
	bool has_metadata;
	struct timespec metadata_mtime;
	bool metadata_mtime_set;

	_Atomic bool staged_any; /* something may be pending */
	_Atomic uint64_t done, total; /* bytes of the commit under way */
	_Atomic bool *unsynced; /* owned: a shard each: written to since its last sync */
	uint32_t shard_count;
};

/* ---- tree.c ---- */

static inline pthread_mutex_t *stfs_tree_stripe(struct stfs_tree *tree, uint32_t node)
{
	return &tree->stripes[node % STRIPES];
}

static inline bool stfs_node_linked(const struct stfs_node *node)
{
	return node->name != STFS_NO_NUMBER || node->scratch;
}

/* The used node of that number, or NULL. */
struct stfs_node *stfs_tree_get(struct stfs_tree *tree, uint32_t number);
/* Frees what a node owns. */
void stfs_node_free(struct stfs_node *node);
/* With the lock held exclusively. STFS_NO_NUMBER for want of memory. */
uint32_t stfs_tree_new_node(struct stfs_tree *tree);
/* Frees a node that nobody knows, that has no name and nothing in the model. The lock is held exclusively. */
void stfs_tree_sweep(struct stfs_tree *tree, uint32_t number);
void stfs_tree_lock(struct stfs_tree *tree);
void stfs_tree_unlock(struct stfs_tree *tree);
/* Says that something was staged. Without any lock. */
void stfs_tree_tell(struct stfs_tree *tree);
/* -EROFS when no edit may be made. */
int stfs_tree_may_change(const struct stfs_tree *tree);
/* The same of what waits for a commit; -EACCES when the model's folder cannot be written. */
int stfs_tree_may_stage(const struct stfs_tree *tree);

/* ---- tree_open.c ---- */

/* Tensors as the model has them, each with its node. 0 or -ENOMEM. */
int stfs_tree_bind(struct stfs_tree *tree, const struct stfs_model *model);

/* ---- tree_metadata.c ---- */

/* Makes the text of __metadata__.json anew. 0 or -ENOMEM. */
int stfs_tree_metadata_text(struct stfs_tree *tree);

/* ---- tree_names.c ---- */

int stfs_tree_add_name(struct stfs_tree *tree, struct stfs_str text, bool owned, uint32_t *number);
uint32_t stfs_tree_lookup(const struct stfs_tree *tree, struct stfs_str text);
struct stfs_str stfs_tree_text(const struct stfs_tree *tree, uint32_t name);
/* A terminated copy: malloc'ed, or NULL. */
char *stfs_tree_copy_text(struct stfs_str text);

/* ---- tree_data.c ---- */

uint64_t stfs_node_len(const struct stfs_tree *tree, const struct stfs_node *node);
/* Reads bytes of the tensor under the layers: for content.h. */
struct stfs_tree_base {
	struct stfs_tree *tree;
	uint32_t node;
};
int stfs_tree_read_base(void *data, void *buffer, size_t len, uint64_t offset);
/* Whether the tensor under the layers is there, and where: the file's number and the byte as opened. */
bool stfs_tree_base_of(const struct stfs_tree *tree, const struct stfs_node *node, uint32_t *shard,
		       uint64_t *offset);
/* Makes the top layer one that can be written to. The stripe's lock, or the tree's exclusively. 0 or -errno. */
int stfs_tree_layer(struct stfs_tree *tree, uint32_t number, bool staged);
/* Whether a layer of the node waits for a commit. */
bool stfs_node_staged(const struct stfs_node *node);
/* What a commit has taken lies under a layer that shows nothing of it, until it is over. */
static inline void stfs_content_bury(struct stfs_content *fresh, struct stfs_content *old)
{
	fresh->under = old;
	old->frozen = true;
}
void stfs_node_touch(struct stfs_node *node);

/* ---- tree_types.c ---- */

void stfs_type_free(struct stfs_type *type);
/* A type of its own: NULL for want of memory. */
struct stfs_type *stfs_type_make(enum stfs_dtype dtype, const uint64_t *dims, size_t rank, uint64_t bytes);
/* The type that a node shows; name and long_name are not set. */
void stfs_node_typing(struct stfs_tree *tree, const struct stfs_node *node, struct stfs_typing_view *view);
/* After the last writer has gone: a type that fits stays. */
void stfs_node_settle(struct stfs_tree *tree, struct stfs_node *node);

#endif
