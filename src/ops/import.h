/* SPDX-License-Identifier: MIT */
/*
 * A PyTorch checkpoint (codec/torch.h) as edits of a model: which of its tensors are written, where their
 * bytes come from, and what becomes of all else that is in it.
 *
 *   tensors     contiguous ones are copied from the file; others are assembled as they are read
 *   tied ones   are written once, and __metadata__ has the name that was dropped: the name that stayed
 *   leaves      go to __metadata__, with "format": "pt", which loaders of models ask for
 *   CRCs        are checked before the first byte of a storage is taken, or all beforehand
 *
 * Invariants (tests: mount/test_import.py):
 *   P1  every tensor of the checkpoint is written, tied to one that is, outside of what was asked for, or
 *       refused aloud (test_everything_that_torch_loads, test_refused_tensors_stop_it).
 *   P2  what is written is bit for bit what torch.load() gives, or nothing is (test_all_kinds, test_damage_is_found).
 *   P3  bytes and time are in proportion to the file, unless more is asked for (test_bombs_cost_nothing).
 */
#ifndef STFS_OPS_IMPORT_H
#define STFS_OPS_IMPORT_H

#include "store/edit.h"

struct stfs_import_options {
	const char *only;  /* borrowed: tensors whose names begin so; NULL: all */
	const char *strip; /* borrowed: taken off names that begin so; NULL: nothing */
	bool duplicate;    /* tied tensors are all written */
	bool skip_refused; /* tensors that no safetensors file can hold are left out */
	bool outsized;     /* also when they take far more room than the checkpoint */
	bool no_metadata;  /* leaves are left out */
	bool no_verify;    /* CRCs are not checked */
};

struct stfs_import;

/*
 * Opens the checkpoint at `path`, a file, the index of several, or a folder with either (store/resolve.h), with
 * shared locks, for reading. 0; -EBADMSG when it is damaged or
 * refused; -EBUSY when another of our programs is changing it, or was; another -errno.
 */
int stfs_import_open(const char *path, struct stfs_import **import, struct stfs_err *err);
/* The same of a file that is open: `fd` (borrowed) of `len` bytes, `path` being what to call it. */
int stfs_import_open_fd(const char *path, int fd, uint64_t len, struct stfs_import **import,
			struct stfs_err *err);
/* What was staged from it must not be committed afterwards. */
void stfs_import_close(struct stfs_import *import);

/* Whether this is a file of the checkpoint. */
bool stfs_import_is_file(const struct stfs_import *import, const struct stat *st);

/*
 * Decides what is written; once. 0; -EINVAL with a word about the option that helps; -ENOMEM.
 */
int stfs_import_choose(struct stfs_import *import, const struct stfs_import_options *options,
		       struct stfs_err *err);

/* Puts all of it into `edit`, a model that is being made. What is staged borrows from `import`. */
int stfs_import_stage(struct stfs_import *import, struct stfs_edit *edit, struct stfs_err *err);

/*
 * The same for the file itself, which `edit` was opened for (stfs_edit_open_foreign): what can stay in its
 * place stays, the rest is written behind it first. Readers check no CRCs: stfs_import_verify() does.
 */
int stfs_import_stage_in_place(struct stfs_import *import, struct stfs_edit *edit, struct stfs_err *err);

/* Checks the CRCs of all that is written, if they are to be checked. 0; -EBADMSG; another -errno. */
int stfs_import_verify(struct stfs_import *import, const struct stfs_progress *progress, struct stfs_err *err);

/* ---- What was decided ---- */

/* Calls `each` for all tensors that are written. */
void stfs_import_each(const struct stfs_import *import, void (*each)(void *data, struct stfs_str name, uint64_t bytes),
		      void *data);
/* Tensors that were not asked for. */
size_t stfs_import_outside(const struct stfs_import *import);
/* "zip", "legacy" or "tar": of several files that of the first. */
const char *stfs_import_form(const struct stfs_import *import);

enum stfs_import_remark {
	STFS_IMPORT_REFUSED,  /* a tensor; the reason */
	STFS_IMPORT_TIED,     /* a tensor; the name of the one that it shares its bytes with */
	STFS_IMPORT_LEFT_OUT, /* a value; the reason */
	STFS_IMPORT_NOTE,     /* a tensor or value; what is worth knowing of it */
};
#define STFS_IMPORT_REMARKS 4

/* Calls `each` for all remarks of a kind. Returns how many more there are that only were counted. */
size_t stfs_import_remarks(const struct stfs_import *import, enum stfs_import_remark kind,
			   void (*each)(void *data, struct stfs_str name, struct stfs_str text), void *data);

#endif
