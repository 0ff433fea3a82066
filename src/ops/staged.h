/* SPDX-License-Identifier: MIT */
/*
 * Which tensors a user means, of a model that is being changed (as it is staged, so that an edit
 * sees those before it) or of one that is only read.
 *
 * A word that is a tensor's name to the letter, or what `ls` shows for it (base/escape.h), means
 * that tensor alone, whatever characters it holds: to remove the tensor "a[0]" must not take "a0"
 * along. Any other word is a pattern (ops/select.h).
 */
#ifndef STFS_OPS_STAGED_H
#define STFS_OPS_STAGED_H

#include "ops/near.h"
#include "ops/select.h"
#include "store/edit.h"

/* Names that stay as they are while the edits that they came from go on: copies. */
struct stfs_names {
	struct stfs_buf text;
	struct stfs_name_place {
		size_t at, len;
	} *items; /* owned */
	size_t count, room;
};

int stfs_names_add(struct stfs_names *names, struct stfs_str name); /* 0 or -ENOMEM */
void stfs_names_free(struct stfs_names *names);

/* Number `index`; valid until one is added. */
static inline struct stfs_str stfs_names_at(const struct stfs_names *names, size_t index)
{
	return stfs_str_slice(names->text.data + names->items[index].at, names->items[index].len);
}

/* The tensors of one or the other; the model is looked at when `edit` is NULL. Both borrowed. */
struct stfs_tensors {
	struct stfs_edit *edit;
	const struct stfs_model *model;
};

/*
 * The tensor `word` means, none of it being a pattern: 0 with *name, which is valid until the next
 * edit, -ENOENT or -ENOMEM.
 */
int stfs_tensors_one(const struct stfs_tensors *tensors, const char *word, struct stfs_str *name);

/*
 * Appends the names of the tensors that match one of `include` (all, when that is empty) and none
 * of `exclude`, each once: in header order, or by name where no pattern is among them. The patterns
 * remember whether they matched. 0 or -ENOMEM.
 */
int stfs_tensors_select(const struct stfs_tensors *tensors, struct stfs_patterns *include,
			struct stfs_patterns *exclude, struct stfs_names *names);

/* The names most like `word`: appended to `names`, the nearest first. 0 or -ENOMEM. */
int stfs_tensors_near(const struct stfs_tensors *tensors, const char *word,
		      struct stfs_names *names);

#endif
