/* SPDX-License-Identifier: MIT */
/* The journaled commit: files that are changed where they are, and others renamed with them. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "commit/beside.h"
#include "commit/internal.h"
#include "commit/steps.h"
#include "format/header.h"

/* ---- Before the record ---- */

/* Nothing is committed over a file that is not the one that was planned for. */
static int describe_foreign(const struct stfs_commit_file *file, struct stfs_journal_file *entry)
{
	int r = stfs_commit_foreign_hash(file->fd, entry->old_length, &entry->old_word, &entry->old_hash);

	entry->foreign = true;
	if (r < 0)
		return r;
	return entry->old_length != file->problem.file.length || entry->old_hash != file->header_hash ? -ESTALE : 0;
}

/* What the journal's head says of a file as it is. */
static int describe(const struct stfs_commit_file *file, struct stfs_journal_file *entry)
{
	STFS_AUTO_FREE char *text = NULL;
	struct stat st;
	uint64_t len;
	char word[8];
	int r;

	entry->name = strdup(file->name);
	if (!entry->name)
		return -ENOMEM;
	if (fstat(file->fd, &st) < 0)
		return -errno;
	entry->old_length = (uint64_t)st.st_size;
	entry->kind = stfs_commit_in_place(file) ? STFS_JOURNAL_IN_PLACE : STFS_JOURNAL_RENAME;
	if (entry->kind == STFS_JOURNAL_RENAME)
		return 0;
	if (file->foreign)
		return describe_foreign(file, entry);
	r = stfs_io_read_exactly(file->fd, word, sizeof(word), 0);
	if (r < 0)
		return r;
	entry->old_word = stfs_load_le64(word);
	len = file->problem.file.data_start - sizeof(word);
	if (entry->old_word != len || entry->old_length != file->problem.file.length)
		return -ESTALE;
	text = malloc(len ? len : 1);
	if (!text)
		return -ENOMEM;
	r = stfs_io_read_exactly(file->fd, text, len, sizeof(word));
	if (r < 0)
		return r;
	entry->old_hash = stfs_commit_hash(stfs_str_slice(text, len));
	return entry->old_hash != file->header_hash ? -ESTALE : 0;
}

static int begin(struct stfs_commit *commit, struct stfs_journal *journal)
{
	int r = 0;

	*journal = (struct stfs_journal){.fd = -1};
	journal->files = calloc(commit->count, sizeof(*journal->files));
	if (!journal->files)
		return -ENOMEM;
	for (size_t i = 0; r == 0 && i < commit->count; i++) {
		r = describe(&commit->files[i], &journal->files[i]);
		journal->count++;
	}
	return r < 0 ? r : stfs_journal_begin(journal, commit->folder_fd, commit->model);
}

/* The end of the file while the steps before the record run. */
static uint64_t end_before(const struct stfs_commit_file *file)
{
	uint64_t end = file->problem.file.length;

	for (size_t i = 0; i < file->plan.before; i++)
		end = stfs_max_u64(end, file->plan.steps[i].to + file->plan.steps[i].len);
	return end;
}

/* What a slide copies behind the end for a while, after the record. */
static uint64_t slide_room(const struct stfs_plan *plan)
{
	return stfs_steps_shifts(plan->steps, plan->count) ? 0 : plan->cost.space - plan->cost.unsure;
}

/* The new bytes, behind the end of the old file. */
static int write_ahead(struct stfs_commit *commit, struct stfs_commit_file *file)
{
	const struct stfs_layout_file *f = &file->problem.file;
	const struct stfs_plan *plan = &file->plan;
	bool shifts = stfs_steps_shifts(plan->steps, plan->count) > 0;
	uint64_t end = end_before(file);
	int r = 0;

	if (shifts) {
		r = stfs_commit_try_shift(file->fd, f->length, f->block);
		if (r == -EOPNOTSUPP || r == -EINVAL) {
			file->no_shift = true;
			return STFS_COMMIT_REPLAN;
		}
	}
	if (r == 0)
		r = stfs_io_reserve(file->fd, f->length, stfs_max_u64(end - f->length, slide_room(plan)));
	for (size_t i = 0; r == 0 && i < plan->before; i++)
		r = stfs_step_run(file->fd, file->fd, &plan->steps[i], file->sources, commit);
	/*
	 * The trial has changed the length for a while: the steps begin with a file that is as it
	 * was.
	 */
	if (r == 0 && (plan->before || shifts))
		r = stfs_io_sync(file->fd);
	return r;
}

/* Bytes for the marks of one file. */
static int count_marks(struct stfs_commit_file *file, uint64_t *marks)
{
	const struct stfs_plan *plan = &file->plan;
	const struct stfs_step *steps = plan->steps ? plan->steps + plan->before : NULL;
	size_t count = plan->count - plan->before;
	struct stfs_extents extents = {0};
	int r = 0;

	if (stfs_steps_shifts(steps, count)) {
		r = stfs_extents_read(file->fd, 0, end_before(file), &extents);
		if (r == -EOPNOTSUPP || r == -E2BIG) {
			file->no_shift = true; /* it could not be recovered */
			return STFS_COMMIT_REPLAN;
		}
	}
	if (r == 0 && (count || file->foreign))
		*marks += stfs_steps_marks_len(steps, count, extents.count);
	if (r == 0 && file->foreign) /* behind the erasure */
		*marks += stfs_journal_mark_len(0);
	stfs_extents_free(&extents);
	return r;
}

/* Enough of a new file to know it by, with its length: its header, or the index. */
#define KNOWN_BY (64u << 10)

static int hash_start(int fd, uint64_t *hash)
{
	STFS_AUTO_FREE char *bytes = malloc(KNOWN_BY);
	ssize_t got = bytes ? stfs_io_pread_full(fd, bytes, KNOWN_BY, 0) : -ENOMEM;

	if (got < 0)
		return (int)got;
	*hash = stfs_commit_hash(stfs_str_slice(bytes, (size_t)got));
	return 0;
}

/*
 * The end of a foreign file, as far as it is of no tensor; of no bytes where there is none (C8). A torn write leaves
 * some of it: nothing that a reader could take for a tensor.
 */
static struct stfs_step erasure(const struct stfs_commit_file *file)
{
	const struct stfs_layout_problem *problem = &file->problem;
	uint64_t end = problem->file.length, at = stfs_max_u64(end, STFS_ERASED_MOST) - STFS_ERASED_MOST;

	at = stfs_max_u64(stfs_max_u64(at, STFS_LENGTH_WORD), stfs_min_u64(file->foreign_end, end));
	for (size_t i = 0; i < problem->count; i++)
		if (problem->items[i].old != STFS_LAYOUT_NEW)
			at = stfs_max_u64(at, problem->items[i].old + problem->items[i].size);
	return (struct stfs_step){STFS_STEP_ERASE, UINT32_MAX, 0, at, end - at};
}

/* The steps behind the record. */
static int copy_steps(const struct stfs_commit_file *file, struct stfs_journal_file *entry)
{
	size_t count = file->plan.count - file->plan.before;
	struct stfs_step erased = file->foreign ? erasure(file) : (struct stfs_step){.len = 0};

	entry->steps = malloc((count + 1) * sizeof(*entry->steps));
	if (!entry->steps)
		return -ENOMEM;
	if (erased.len)
		entry->steps[entry->step_count++] = erased;
	if (count)
		memcpy(entry->steps + entry->step_count, file->plan.steps + file->plan.before,
		       count * sizeof(*entry->steps));
	entry->step_count += count;
	return 0;
}

/* Fills what the record says of a file. */
static int describe_new(const struct stfs_commit_file *file, struct stfs_journal_file *entry)
{
	struct stat st;
	int r;

	if (entry->kind == STFS_JOURNAL_RENAME) {
		if (fstat(file->new_fd, &st) < 0)
			return -errno;
		entry->new_length = (uint64_t)st.st_size;
		return hash_start(file->new_fd, &entry->new_hash);
	}
	if (fstat(file->fd, &st) < 0)
		return -errno;
	entry->ahead = (uint64_t)st.st_size;
	entry->new_length = file->plan.length;
	r = copy_steps(file, entry);
	return r < 0 ? r : stfs_buf_add_str(&entry->header, stfs_buf_str(&file->text));
}

/* Where bytes are: as the record will find the file, with room for all that comes behind it. */
static int begin_moves(const struct stfs_commit *commit)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < commit->count; i++) {
		const struct stfs_commit_file *file = &commit->files[i];

		if (!file->moves)
			continue;
		stfs_moves_free(file->moves);
		if (stfs_commit_in_place(file))
			r = stfs_moves_begin(file->moves, &file->plan, file->problem.file.length);
	}
	return r;
}

uint64_t stfs_commit_spare(const struct stfs_commit_file *file)
{
	const struct stfs_plan *plan = &file->plan;
	uint64_t old = file->problem.file.data_start;
	uint64_t spare = plan->data_start > old ? plan->data_start - old : 0;

	if (file->problem.file.overwriting)
		spare += stfs_min_u64(plan->data_start, old);
	return spare;
}

/* Everything up to the record and with it. */
static int prepare(struct stfs_commit *commit, struct stfs_journal *journal)
{
	uint64_t marks = 0, spare = 0;
	bool built = false;
	int r = begin_moves(commit);

	for (size_t i = 0; r == 0 && i < commit->count; i++) {
		struct stfs_commit_file *file = &commit->files[i];

		if (!stfs_commit_in_place(file)) {
			r = stfs_commit_build(commit, file);
			built = true;
			continue;
		}
		r = write_ahead(commit, file);
		if (r == 0)
			r = count_marks(file, &marks);
		spare += stfs_commit_spare(file);
	}
	/* The record speaks of the new files: their names must last as long as it does. */
	if (r == 0 && built)
		r = stfs_io_sync_folder(commit->folder_fd);
	for (size_t i = 0; r == 0 && i < commit->count; i++)
		r = describe_new(&commit->files[i], &journal->files[i]);
	return r < 0 ? r : stfs_journal_record(journal, marks, spare);
}

/* ---- Taking back ---- */

/* As if nothing had been. When this fails the journal stays, and recovery does it. */
static int take_back(struct stfs_commit *commit, struct stfs_journal *journal)
{
	static const char nothing[8];
	int r = 0;

	if (journal->fd < 0)
		return 0;
	/*
	 * First the record, else a crash from here on would have recovery miss what is cut off and
	 * removed.
	 */
	if (journal->record_tried) {
		r = stfs_io_write(journal->fd, nothing, sizeof(nothing), journal->record_at);
		if (r == 0)
			r = stfs_io_sync(journal->fd);
	}
	for (size_t i = 0; r == 0 && i < commit->count; i++) {
		if (journal->files[i].kind != STFS_JOURNAL_IN_PLACE)
			continue;
		r = stfs_io_truncate(commit->files[i].fd, journal->files[i].old_length);
		if (r == 0)
			r = stfs_io_sync(commit->files[i].fd);
	}
	for (size_t i = 0; r == 0 && i < commit->count; i++)
		r = stfs_commit_unbuild(commit, &commit->files[i]);
	if (r == 0)
		r = stfs_journal_end(journal);
	return r;
}

/* ---- From the record on ---- */

/* Durable, with all that was written to the file before. */
static int put_word(int fd, uint64_t word)
{
	char bytes[8];
	int r;

	stfs_store_le64(bytes, word);
	r = stfs_io_write(fd, bytes, sizeof(bytes), 0);
	return r < 0 ? r : stfs_io_sync(fd);
}

static uint64_t word_of(const struct stfs_journal_file *file, enum stfs_commit_words words)
{
	switch (words) {
	case STFS_WORDS_OLD: return file->old_word;
	/* Nothing of a foreign word stays: its own loaders must not know it again. */
	case STFS_WORDS_POISONED: return file->foreign ? STFS_POISON : file->old_word | STFS_POISON;
	case STFS_WORDS_NEW: break;
	}
	return stfs_load_le64(file->header.data);
}

int stfs_commit_put_words(const struct stfs_journal *journal, const int *fds,
			  enum stfs_commit_words words)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < journal->count; i++)
		if (fds[i] >= 0)
			r = put_word(fds[i], word_of(&journal->files[i], words));
	return r;
}

/*
 * Whether somebody has opened a file since it was planned to move bytes in it. With readers that
 * were known then, the plan moves none, or nothing can take the file's place and no other plan
 * would be better.
 */
static bool new_readers(struct stfs_commit *commit)
{
	if (commit->ignore_readers || commit->readers)
		return false;
	for (size_t i = 0; i < commit->count; i++) {
		const struct stfs_commit_file *file = &commit->files[i];

		if (stfs_commit_in_place(file) &&
		    stfs_plan_hurts_readers(&file->plan, &file->problem.file) &&
		    stfs_commit_has_readers(file->fd))
			commit->readers = true;
	}
	return commit->readers;
}

/* Steps and header of one file; it is still refused by every loader afterwards. */
static int finish_file(struct stfs_journal *journal, size_t number, int fd,
		       struct stfs_commit *commit)
{
	struct stfs_journal_file *file = &journal->files[number];
	uint64_t word = stfs_load_le64(file->header.data);
	struct stat st;
	int r = stfs_steps_run_marked(journal, number, fd, commit);

	if (r < 0)
		return r;
	/* What a step left out cannot be mended here, and must not be made valid. */
	if (fstat(fd, &st) < 0)
		return -errno;
	if ((uint64_t)st.st_size != file->new_length)
		return -EUCLEAN;
	r = stfs_io_write(fd, file->header.data + 8, file->header.len - 8, 8);
	return r < 0 ? r : put_word(fd, word | STFS_POISON);
}

/* Whether the file of that name is the new one of a RENAME entry: 0, -ENOENT, -EUCLEAN, another -errno. */
static int is_new(const struct stfs_journal *journal, const char *name,
		  const struct stfs_journal_file *file)
{
	STFS_AUTO_FD int fd = stfs_io->openat(journal->folder_fd, name,
					      O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0);
	uint64_t hash = 0;
	struct stat st;
	int r;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	r = hash_start(fd, &hash);
	if (r < 0)
		return r;
	return (uint64_t)st.st_size == file->new_length && hash == file->new_hash ? 0 : -EUCLEAN;
}

int stfs_commit_find_new(const struct stfs_journal *journal, const struct stfs_journal_file *file,
			 char **temp)
{
	STFS_AUTO_FREE char *name = stfs_beside_name(file->name, STFS_BESIDE_NEW);
	int r = name ? is_new(journal, name, file) : -ENOMEM;

	*temp = r == 0 ? stfs_steal_ptr(&name) : NULL;
	return r == -ENOENT ? is_new(journal, file->name, file) : r;
}

/* The complete new file onto the old one, unless that was done already. */
static int rename_file(struct stfs_journal *journal, const struct stfs_journal_file *file)
{
	STFS_AUTO_FREE char *temp = NULL;
	int r = stfs_commit_find_new(journal, file, &temp);

	return temp ? stfs_io_rename(journal->folder_fd, temp, file->name, 0) : r;
}

int stfs_commit_finish(struct stfs_journal *journal, const int *fds, struct stfs_commit *commit)
{
	bool renamed = false;
	int r = 0;

	stfs_journal_give_back(journal);
	for (size_t i = 0; r == 0 && i < journal->count; i++)
		if (fds[i] >= 0)
			r = finish_file(journal, i, fds[i], commit);
	for (size_t i = 0; r == 0 && i < journal->count; i++) {
		if (journal->files[i].kind != STFS_JOURNAL_RENAME)
			continue;
		r = rename_file(journal, &journal->files[i]);
		renamed = true;
	}
	if (r == 0 && renamed)
		r = stfs_io_sync_folder(journal->folder_fd);
	if (r == 0)
		r = stfs_commit_put_words(journal, fds, STFS_WORDS_NEW);
	return r < 0 ? r : stfs_journal_end(journal);
}

/* The descriptors of the files that are changed in place, -1 for the others. */
static int list_fds(const struct stfs_commit *commit, int **fds)
{
	*fds = malloc(commit->count * sizeof(**fds));
	if (!*fds)
		return -ENOMEM;
	for (size_t i = 0; i < commit->count; i++)
		(*fds)[i] = stfs_commit_in_place(&commit->files[i]) ? commit->files[i].fd : -1;
	return 0;
}

/* Behind the poison: there is no way back, and no byte of the old files has been touched. */
static void tell_recorded(const struct stfs_commit *commit)
{
	bool in_place = false;

	for (size_t i = 0; i < commit->count; i++)
		in_place |= stfs_commit_in_place(&commit->files[i]);
	if (!commit->hooks || !in_place)
		return;
	stfs_commit_stop(commit);
	commit->hooks->recorded(commit->hooks->data);
	stfs_commit_go_on(commit);
}

int stfs_commit_journaled(struct stfs_commit *commit, struct stfs_err *err)
{
	STFS_AUTO_FREE int *fds = NULL;
	struct stfs_journal journal;
	int r = begin(commit, &journal), back;

	if (r == 0)
		r = list_fds(commit, &fds);
	if (r == 0)
		r = prepare(commit, &journal);
	if (r == 0) {
		commit->recorded = true;
		r = stfs_commit_put_words(&journal, fds, STFS_WORDS_POISONED);
		if (r == 0 && new_readers(commit)) {
			r = stfs_commit_put_words(&journal, fds, STFS_WORDS_OLD);
			if (r == 0) {
				commit->recorded = false;
				r = STFS_COMMIT_REPLAN;
			}
		}
	}
	if (r == 0) {
		tell_recorded(commit);
		r = stfs_commit_finish(&journal, fds, commit);
	} else if (!commit->recorded) {
		back = take_back(commit, &journal);
		if (back < 0) {
			commit->recorded = true; /* so far as anybody can tell */
			r = stfs_err_errno(err, back, "%s: a commit that failed could not be taken "
					   "back", commit->model);
		}
	}
	stfs_journal_close(&journal);
	return r;
}
