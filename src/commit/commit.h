/* SPDX-License-Identifier: MIT */
/*
 * Changes the files of a model, all of them or none: plan, journal, steps, and their recovery. The only
 * code that changes a model's bytes out of place.
 *
 * The order for files that are changed in place (docs/journal.md has every byte, and the states):
 *
 *     journal with the intent      fsync, fsync folder   from here recovery cuts back to the old length
 *     new bytes behind the end     fsync
 *     record into the journal      fsync                 from here recovery goes forward
 *     length words poisoned        fsync                 every loader refuses the file
 *     steps, with marks            fsync
 *     header, still poisoned       fsync
 *     files renamed into place     fsync folder
 *     length words                 fsync                 the new model
 *     journal removed              fsync folder
 *
 * The old file may be one in another format, a *foreign* one, that becomes a model: all of it is then bytes
 * of new tensors, or dead. Its first 8 bytes are poisoned as a length word is, which is enough for who reads it
 * from its beginning. Who reads it from its end, as an archive is read, still finds the old bytes there; so
 * the first of the steps erases the end, durably, before any other changes a byte (STFS_STEP_ERASE).
 *
 * A file that is replaced (edited as a clone, or put together anew) is finished beside the old one
 * before the record; when it is the only one, the rename is the commit, and there is no journal.
 *
 * Invariants, and their tests: C1 to C3 in crash/test_crash.c (one_file, two_shards, large_tensors,
 * late_reader), the others but C7 in unit/test_commit.c:
 *   C1  before the record is durable no byte of the old model changes, and its length is known.
 *   C2  after it the model, the new files beside it and the journal give the new model, whatever was
 *       written of the steps.
 *   C3  a loader that opens a file at any time gets the old one, the new one, or an error.
 *   C4  a step is only run again when what it reads is as it was: a mark stands before each step that
 *       destroys what an earlier step since the last mark has read, and around each block shift
 *       (marks_stand_where_steps_could_not_be_run_again, a_shift_always_needs_a_mark; and the crashes).
 *   C5  a journal is believed only when nobody but who owns the model can have written it (journal.h:
 *       believes_no_journal_that_others_may_have_written, believes_no_journal_of_another_owner,
 *       a_journal_reaches_no_file_of_another_owner).
 *   C6  no name in a journal reaches outside of the model's folder (takes_no_name_that_leads_elsewhere,
 *       a_file_that_has_become_a_link_is_left_alone).
 *   C8  a foreign file is a whole one, a model, or refused by its own loaders as well, whether they begin with
 *       its first bytes or with its last (crash/test_foreign.c: foreign_files, even_files).
 *   C7  at every moment but those in which readers are stopped, each tensor of the new model that is in a
 *       file changed in place can be read where its `moves` say; for ever when the commit gets stuck, but
 *       for a file of which a block shift failed (crash/test_readers.c: bytes_are_found_at_each_call,
 *       bytes_are_found_when_a_commit_gets_stuck, readers_go_on_beside_commits).
 */
#ifndef STFS_COMMIT_COMMIT_H
#define STFS_COMMIT_COMMIT_H

#include "base/buf.h"
#include "base/err.h"
#include "layout/moves.h"

/* Part of a tensor's bytes. */
struct stfs_piece {
	int fd; /* borrowed; -1: zeros */
	uint64_t offset, len;
};

/*
 * Bytes that have to be looked at, or made, before they are a tensor's: of a file in another format. Called
 * by the thread that commits, before the record, with what is `data` of the source. 0, or -errno with `err`
 * (may be NULL) saying what is wrong with which tensor.
 */
struct stfs_reader {
	/* Bytes [offset, offset + len). NULL: they are those of the source's fd. */
	int (*read)(void *data, void *buffer, size_t len, uint64_t offset, struct stfs_err *err);
	/* Before byte 0 is taken, and perhaps more than once; may be NULL. */
	int (*check)(void *data, struct stfs_err *err);
	/* After bytes of it were taken: whether they are still what they were; may be NULL. */
	int (*after)(void *data, struct stfs_err *err);
	size_t piece; /* bytes that are best read at once; 0: any number */
};

/*
 * Where the bytes of a tensor are: from `offset` of `fd` on, or in pieces, one behind the other, or with
 * who has a reader. What is borrowed stays open and as it is until the commit is over.
 */
struct stfs_source {
	int fd; /* borrowed */
	uint64_t offset;
	const struct stfs_piece *pieces; /* borrowed; when not NULL, fd and offset do not count */
	size_t piece_count;
	const struct stfs_reader *reader; /* borrowed, or NULL; not together with pieces */
	void *data;                       /* borrowed: the reader's */
};

/* Whether its bytes stand in one piece from `offset` of `fd` on. */
static inline bool stfs_source_is_range(const struct stfs_source *source)
{
	return !source->pieces && !(source->reader && source->reader->read);
}

/* Called now and then during long work: bytes done and bytes in all. */
struct stfs_progress {
	void (*tell)(void *data, uint64_t done, uint64_t total); /* may be NULL */
	void *data;
};

/*
 * For those who go on reading the files while they are changed. The thread that commits calls `stop`, which
 * returns when nobody reads and nobody will until `go_on`; it does so for moments, in which it copies no
 * tensor, when the record stands and then whenever bytes have moved.
 */
struct stfs_commit_hooks {
	void *data;
	void (*stop)(void *data);
	void (*go_on)(void *data);
	/* Between both, if any file is changed in place: the files' `moves` hold from here on. */
	void (*recorded)(void *data);
};

/* One file that changes. */
struct stfs_commit_file {
	const char *name; /* borrowed: in the folder */
	int fd;           /* borrowed: open for writing (a dry run: for reading); -1 when it is new */

	/* Either its whole new content, which replaces it: */
	const struct stfs_buf *content; /* borrowed, or NULL */
	/* or its tensors. Of problem.file only length and data_start are the caller's. */
	struct stfs_layout_problem problem;
	uint64_t header_hash; /* stfs_commit_hash() of the text that was read; not of a new one */
	/* It is no model yet: problem.file.data_start is 8, and header_hash is stfs_commit_foreign_hash(). */
	bool foreign;
	uint64_t foreign_end; /* of the last tensor in it, whatever becomes of that: nothing before is erased */
	const struct stfs_source *sources; /* borrowed: where the bytes of each new item are */
	/*
	 * Appends length word and text, of exactly plan->text_len bytes, for these places. 0 or
	 * -errno.
	 */
	int (*header)(void *data, const struct stfs_plan *plan, struct stfs_buf *out,
		      struct stfs_err *err);
	void *data;
	/*
	 * Borrowed; with hooks, else NULL. Stays empty unless the file is changed in place; from
	 * recorded() on it changes between stop and go_on only.
	 */
	struct stfs_moves *moves;

	bool no_shift, no_clone; /* what turned out not to work on this file; kept for the next plan */
	uint64_t no_room;        /* so many bytes could not be had, whatever is said to be free; 0: not known */

	/* What came of it: */
	struct stfs_plan plan; /* owned */
	struct stfs_buf text;  /* owned: what `header` gave */
	uint64_t journaled;    /* bytes that the journal takes for it, those that it holds free included */
	int new_fd;            /* owned: the file that took its place, locked; -1: the same one, and at first */
	char *temp;            /* owned: its name until then */
};

struct stfs_commit {
	int folder_fd;          /* borrowed */
	const char *model;      /* borrowed: name of the file or index, for the journal's */
	struct stfs_commit_file *files; /* borrowed */
	size_t count;
	bool ignore_readers;
	bool overwrite;         /* a new file may replace one that is there */
	struct stfs_progress progress;
	const struct stfs_commit_hooks *hooks; /* borrowed, or NULL: nobody reads on */

	/* What came of it: */
	bool readers;  /* another program has a file open */
	bool recorded; /* the record was written: after a failure, recovery has to finish it */
	uint64_t room; /* bytes that can be allocated */
	uint64_t done, total; /* bytes, for the progress */
	struct stfs_err said; /* what a reader of a source said of its failure; code 0: none has */
};

/* Frees what came of it, descriptors that were not taken included. */
void stfs_commit_free(struct stfs_commit *commit);

/*
 * Finds out what can be done with each file and plans. Changes nothing. 0; -ENOSPC with every plan's
 * cost.space set; another -errno.
 */
int stfs_commit_plan(struct stfs_commit *commit, struct stfs_err *err);

/*
 * Plans and does it. 0: the files' plan, text and new_fd are as they are now. -ESTALE when a file is no
 * longer the one that `fd` is. On another failure commit->recorded tells whether anything has happened.
 */
int stfs_commit_run(struct stfs_commit *commit, struct stfs_err *err);

/*
 * The checksum of journals, of the headers and samples they tell of, and of names that are cut
 * (beside.h). It holds no secret, and is for ever the same: it stands in files and their names.
 */
uint64_t stfs_commit_hash(struct stfs_str bytes);

/*
 * What a foreign file of `length` bytes is known by: its first 8 bytes as a number, and a hash of those that
 * decide what it is, at its beginning and its end. 0; -EOPNOTSUPP when these 8 bytes could be those of a
 * file that is being changed (or there are none); another -errno.
 */
int stfs_commit_foreign_hash(int fd, uint64_t length, uint64_t *word, uint64_t *hash);

/* ---- After a crash (recover.c) ---- */

enum stfs_recovered {
	STFS_RECOVERED_NOTHING, /* there was nothing to do */
	STFS_RECOVERED_OLD,     /* an unfinished commit was taken back */
	STFS_RECOVERED_NEW,     /* it was finished */
	STFS_RECOVERED_RESCUED, /* edits of a rescue file were committed (store/rescue.h) */
};

/* Whether a journal stands beside the model: 1, 0 or -errno. It may be that of a commit under way. */
int stfs_commit_interrupted(int folder_fd, const char *model);

/*
 * Whether the journal of another model, that of a sharded one, tells of the file `name`, and its
 * name if so (a malloc'ed string): 1, 0 or -errno.
 */
int stfs_commit_named(int folder_fd, const char *name, char **journal);

/*
 * Removes what a replacement that was interrupted left beside the file `name`: 1, 0 when there was
 * nothing, -EBUSY when it is in use, another -errno.
 */
int stfs_commit_clean(int folder_fd, const char *name);

/*
 * Finishes or takes back what the journal of `model` tells of. 0; -EBUSY when another program holds a
 * file's lock; -EUCLEAN when journal and files do not belong together (nothing was touched); -EPERM
 * when the journal is not to be believed; another -errno.
 */
int stfs_commit_recover(int folder_fd, const char *model, enum stfs_recovered *what,
			struct stfs_err *err);

#endif
