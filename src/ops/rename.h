/* SPDX-License-Identifier: MIT */
/*
 * Names changed by rule. A rule is a substitution as in sed, s/REGEX/REPLACEMENT/FLAGS with any
 * delimiter and POSIX extended regular expressions (& the match, \1 to \9 its groups; flags g:
 * every match, i: whatever the case), or one prefix for another.
 */
#ifndef STFS_OPS_RENAME_H
#define STFS_OPS_RENAME_H

#include <regex.h>

#include "base/err.h"
#include "ops/staged.h"

struct stfs_rule_sub {
	regex_t regex;
	char *replacement; /* owned */
	bool is_prefix, global;
	char *prefix; /* owned: of a prefix rule, what it replaces */
};

/* Rules are applied one after the other, each to what the last one made. */
struct stfs_renaming {
	struct stfs_rule_sub *rules; /* owned */
	size_t count;
};

/* Adds a rule from its text: 0, -EINVAL with `err` saying what is wrong, or -ENOMEM. */
int stfs_renaming_sub(struct stfs_renaming *renaming, const char *text, struct stfs_err *err);
int stfs_renaming_prefix(struct stfs_renaming *renaming, const char *text, struct stfs_err *err);
void stfs_renaming_free(struct stfs_renaming *renaming);

/* What the rules make of a name, appended to `out`: 0 or -ENOMEM. */
int stfs_renaming_apply(const struct stfs_renaming *renaming, struct stfs_str name,
			struct stfs_buf *out);

/*
 * Which of the tensors `chosen` change their names: those go to `from`, the new names to `to`, in
 * step. Names that two tensors would then have go to `taken`, each once. 0 or -ENOMEM.
 */
int stfs_renaming_plan(struct stfs_edit *edit, const struct stfs_renaming *renaming,
		       const struct stfs_names *chosen, struct stfs_names *from,
		       struct stfs_names *to, struct stfs_names *taken);

#endif
