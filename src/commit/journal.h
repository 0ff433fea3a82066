/* SPDX-License-Identifier: MIT */
/*
 * The journal: what a commit is about to do, so that it can be taken back or finished. One file beside
 * the model for all of its files. Numbers are little-endian; docs/journal.md has the table of every
 * byte.
 *
 *   head     magic, version, the files: name, old length, old length word, hash of the old header (of a
 *            foreign file: its first 8 bytes, and a hash of those that decide what it is)
 *   record   at the next multiple of 4096: for each file what it shall be, and the steps
 *   marks    at the next multiple of 4096: how far the steps have come, one behind the other
 *
 * Each part carries its length and a checksum; a part whose checksum does not fit was not finished, and
 * then counts as not there. Space for all of it is reserved before the record is written.
 *
 * It is believed (C5) when it is a regular file with one link, that belongs to the model's owner, to
 * root or to us, and that nobody else may write to; a link in its place is not followed.
 */
#ifndef STFS_COMMIT_JOURNAL_H
#define STFS_COMMIT_JOURNAL_H

#include <sys/types.h>

#include "commit/commit.h"
#include "commit/extents.h"

#define STFS_JOURNAL_VERSION 1
/* The head says of each file whether it was foreign; written only when one was. */
#define STFS_JOURNAL_VERSION_FOREIGN 2
/* Record and marks begin at a multiple of it. */
#define STFS_JOURNAL_PAGE 4096
/* Every part begins: magic, its length, its checksum (of the part with zeros for the checksum). */
#define STFS_JOURNAL_PART_HEAD 24
#define STFS_JOURNAL_MAGIC_LEN 8
#define STFS_JOURNAL_HEAD_MAGIC "STFSJNL1"
#define STFS_JOURNAL_RECORD_MAGIC "STFSREC1"
#define STFS_JOURNAL_MARK_MAGIC "STFSMRK1"
/* No part is longer: memory for reading a journal is bounded by it, whatever its file says. */
#define STFS_JOURNAL_PART_MAX (1ull << 30)

/*
 * An archive is looked for from its end by who reads a zip: its last record, of 22 bytes, may have a comment of
 * 65,535 behind it (PKWARE's APPNOTE, 4.3.16). So many bytes of a foreign file's end are erased, at most.
 */
#define STFS_ERASED_MOST (66u << 10)

/* What the record says of a file. */
enum stfs_journal_kind {
	STFS_JOURNAL_IN_PLACE = 1, /* steps, then header */
	STFS_JOURNAL_RENAME = 2,   /* its replacement is complete and is renamed onto it */
};

struct stfs_journal_file {
	char *name;            /* owned */
	uint64_t old_length;
	uint64_t old_word;     /* the length word */
	uint64_t old_hash;     /* of the header's text */
	bool foreign;          /* old_word and old_hash are stfs_commit_foreign_hash()'s */
	enum stfs_journal_kind kind;
	/* The record: */
	uint64_t new_length;
	uint64_t ahead;          /* length of the old file with what was written behind its end */
	struct stfs_step *steps; /* owned: those behind the record */
	size_t step_count;
	struct stfs_buf header;  /* owned: length word and text */
	uint64_t new_hash;       /* of RENAME: of its first bytes */
	/* The last mark: */
	bool marked;
	size_t next_step;        /* the steps before it are done and durable */
	bool shift;              /* the next step is a block shift, and this was the file: */
	struct stfs_shift_map map; /* owned */
};

struct stfs_journal {
	int fd;      /* owned */
	char *path;  /* owned: its name in the folder */
	int folder_fd; /* borrowed */
	struct stfs_journal_file *files; /* owned */
	size_t count;
	bool record_tried; /* its space is reserved, and some of it may be written */
	bool recorded;     /* it is durable */
	uint64_t record_at, marks_at, marks_end; /* bytes of the journal's file */
};

/* Frees memory and closes; the file stays. */
void stfs_journal_close(struct stfs_journal *journal);

/*
 * Makes the journal of `model`, with a head of journal->files (filled by the caller), durable. It
 * belongs to the model's owner where we may give it away, and is locked until it is closed. -EBUSY
 * when there is one.
 */
int stfs_journal_begin(struct stfs_journal *journal, int folder_fd, const char *model);

/*
 * Writes the record, durable, after reserving `marks` bytes for marks and `spare` more, which
 * stfs_journal_give_back() frees for the steps.
 */
int stfs_journal_record(struct stfs_journal *journal, uint64_t marks, uint64_t spare);
void stfs_journal_give_back(struct stfs_journal *journal);

/* Bytes of a mark with so many extents. */
uint64_t stfs_journal_mark_len(size_t extents);

/*
 * Marks file number `file`, durable: its steps before `next` are done and durable, and, when `map` is
 * given, the next one is a shift of the file that lies so.
 */
int stfs_journal_mark(struct stfs_journal *journal, size_t file, size_t next,
		      const struct stfs_shift_map *map);

/* Removes the file, durable. */
int stfs_journal_end(struct stfs_journal *journal);

/*
 * Opens, locks and reads the journal of `model`. `owner` is the model's. 0; -ENOENT; -EBUSY when
 * its commit is under way; -EPERM when it is not to be believed; -EBADMSG when not even its head is
 * whole (nothing has happened then); another -errno.
 */
int stfs_journal_open(struct stfs_journal *journal, int folder_fd, const char *model, uid_t owner,
		      struct stfs_err *err);

#endif
