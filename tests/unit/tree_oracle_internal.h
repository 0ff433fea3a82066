/* SPDX-License-Identifier: MIT */
/* What the parts of the oracle share. */
#ifndef STFS_TESTS_UNIT_TREE_ORACLE_INTERNAL_H
#define STFS_TESTS_UNIT_TREE_ORACLE_INTERNAL_H

#include "tree_oracle.h"

#define NAMES 15
#define SCRATCHES 4
#define FILES 160
#define SHARDS 3
#define LEN_MOST 200000

struct type {
	bool is;
	enum stfs_dtype dtype;
	uint64_t dims[2];
	size_t rank;
	uint64_t bytes;
	uint64_t serial;
};

/* A node as it must be. */
struct file {
	bool used, hidden, known;
	uint32_t node;
	int name, scratch; /* or -1 */
	unsigned opens, writers;
	struct stfs_buf now;
	struct type own; /* another than the model's */
	bool settled, staged, rewritten;

	int was; /* its name in the model, or -1 */
	struct stfs_buf disk;
	struct type disk_type;

	/* Of a commit: */
	bool expected, taken, staged_since, touched_since;
	int to; /* its name then; -1: removed */
	struct stfs_buf taken_bytes;
	struct type taken_type;
	uint64_t taken_serial;
};

/* A call that is to fail. */
struct trap {
	bool armed, for_ever, hit;
	enum oracle_call kind;
	size_t count_down;
	int with_errno;
};

/* ---- The state ---- */

extern struct oracle_setup setup;
extern uint64_t state;
extern struct stfs_tree *tree;
extern struct file files[FILES];
extern struct type declared[NAMES]; /* sidecars without a tensor */
extern bool declared_settled[NAMES], text_removed[NAMES];
extern int metadata, disk_metadata, taken_metadata; /* 0: none */
extern bool metadata_staged, metadata_since;
extern uint64_t serials;
extern const struct stfs_commit_request *request; /* while there is a commit */
extern const struct stfs_model *model_before;
extern bool noted, applied, busy;
extern struct trap trap;

/* ---- tree_oracle.c ---- */

size_t below(size_t bound);
const char *name_text(int name);
struct stfs_str scratch_text(int scratch);
const char *model_path(void);
struct file *new_file(uint32_t node);
bool is_linked(const struct file *f);
bool is_alive(const struct file *f);
void free_file(struct file *f);
struct file *pick(bool (*fits)(const struct file *f));
struct file *named(int name);
struct file *scratched(int scratch);
void set_bytes(struct stfs_buf *to, const struct stfs_buf *from);
enum stfs_fit fit(const struct file *f, struct type *shown);
bool any(const struct file *f);
void remove_file(struct file *f);
void close_file(struct file *f);
uint64_t pick_len(void);
unsigned char *random_bytes(size_t len);

/* ---- tree_oracle_check.c ---- */

unsigned changes_of(const struct file *f);
bool is_model(const struct stfs_model *model, bool fresh, struct stfs_buf *why);
struct stfs_model *open_model(const char *when);

/* ---- tree_oracle_commit.c ---- */

/* From here on calls may fail, and others come in between. */
void oracle_use_traps(void);
void apply(void);

#endif
