/* SPDX-License-Identifier: MIT */
/* What the parts of a commit share. */
#ifndef STFS_COMMIT_INTERNAL_H
#define STFS_COMMIT_INTERNAL_H

#include "commit/commit.h"
#include "commit/journal.h"

/* A plan that cannot be carried out as it is; with what was learnt another one is made. */
#define STFS_COMMIT_REPLAN (-EAGAIN)

static inline bool stfs_commit_in_place(const struct stfs_commit_file *file)
{
	return !file->content && (file->plan.kind == STFS_PLAN_HEADER ||
				  file->plan.kind == STFS_PLAN_IN_PLACE);
}

static inline void stfs_commit_stop(const struct stfs_commit *commit)
{
	if (commit && commit->hooks)
		commit->hooks->stop(commit->hooks->data);
}

static inline void stfs_commit_go_on(const struct stfs_commit *commit)
{
	if (commit && commit->hooks)
		commit->hooks->go_on(commit->hooks->data);
}

/* ---- abilities.c: what can be done with a file, found out on the file itself ---- */

/* Fills problem.file but length and data_start. 0 or -errno. */
int stfs_commit_abilities(const struct stfs_commit *commit, struct stfs_commit_file *file);

/* A block shift behind the file's end, where there is nothing: 0, or -errno when shifts will not do. */
int stfs_commit_try_shift(int fd, uint64_t length, uint64_t block);

/* Whether another open file description has this one open, or would rather not say. */
bool stfs_commit_has_readers(int fd);

/* ---- replace.c: a file that takes another's place ---- */

/*
 * Makes the new file under its temporary name, complete, durable and locked: file->temp and new_fd. 0;
 * STFS_COMMIT_REPLAN; -ESTALE when the old one changed meanwhile; another -errno.
 */
int stfs_commit_build(struct stfs_commit *commit, struct stfs_commit_file *file);
/* Takes it away again. 0 or -errno. */
int stfs_commit_unbuild(struct stfs_commit *commit, struct stfs_commit_file *file);
/* The only file of the commit: its rename is the commit. 0 or -errno. */
int stfs_commit_replace(struct stfs_commit *commit, struct stfs_commit_file *file,
			struct stfs_err *err);

/* ---- in_place.c: through the journal ---- */

int stfs_commit_journaled(struct stfs_commit *commit, struct stfs_err *err);

/*
 * What the journal holds free for what comes behind the record: for a header that grows, and for all of it where the
 * file system writes no block twice.
 */
uint64_t stfs_commit_spare(const struct stfs_commit_file *file);

/*
 * What is to be done once the record stands and the length words are poisoned; after a crash again.
 * fds: of the journal's files that are changed in place, -1 for those that are finished. `commit` has
 * the journal's files in their order; NULL in a recovery. Removes the journal.
 */
int stfs_commit_finish(struct stfs_journal *journal, const int *fds, struct stfs_commit *commit);

/*
 * Looks for the new file of a RENAME entry, which stands ready under its temporary name, or in its
 * place already. 0; -ENOENT; -EUCLEAN when what stands there is another; another -errno. *temp is
 * the temporary name if it stands there (a malloc'ed string), else NULL.
 */
int stfs_commit_find_new(const struct stfs_journal *journal, const struct stfs_journal_file *file,
			 char **temp);

enum stfs_commit_words { STFS_WORDS_OLD, STFS_WORDS_POISONED, STFS_WORDS_NEW };

/*
 * Writes the length words of the files that are changed in place, fds as above, one after the other,
 * each durable: as they were, refused by every loader, or as they shall be. 0 or -errno.
 */
int stfs_commit_put_words(const struct stfs_journal *journal, const int *fds,
			  enum stfs_commit_words words);

#endif
