/* SPDX-License-Identifier: MIT */
#include "commit/steps.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "commit/internal.h"
#include "format/header.h"

/* What is copied in one call: small enough that progress is seen, and that the disk need not wait for more. */
#define CALL_MAX (8u << 20)
/* A reader's piece, at most. */
#define READ_MAX (64u << 20)
#define PIECE (1u << 20)
/* The smallest blocks that any file system shares. */
#define SHARED 4096

static void tell(struct stfs_commit *progress, uint64_t more)
{
	if (!progress)
		return;
	progress->done += more;
	if (progress->progress.tell)
		progress->progress.tell(progress->progress.data, progress->done, progress->total);
}

/*
 * Within the kernel, as far as that goes; any failure leaves the rest to the next way, which tells
 * it.
 */
static uint64_t copy_in_kernel(int from, uint64_t from_at, int to, uint64_t to_at, uint64_t len,
			       struct stfs_commit *progress)
{
	off_t source = (off_t)from_at, target = (off_t)to_at;
	uint64_t done = 0;
	ssize_t put = 1;

	while (done < len && put > 0) {
		put = stfs_io->copy_file_range(from, &source, to, &target,
					       stfs_min_u64(len - done, CALL_MAX), 0);
		if (put > 0) {
			stfs_io_write_behind(to, (uint64_t)(target - put), (uint64_t)target);
			done += (uint64_t)put;
			tell(progress, (uint64_t)put);
		}
	}
	return done;
}

static bool same_file(int a, int b)
{
	struct stat one, other;

	return a == b || fstat(a, &one) < 0 || fstat(b, &other) < 0 ||
	       (one.st_ino == other.st_ino && one.st_dev == other.st_dev);
}

/*
 * Where blocks are never written twice (btrfs) even bytes that are overwritten want new ones, and those they had
 * are free again only when all is on the disk.
 */
static int write_over(int to, const char *piece, size_t len, uint64_t at)
{
	int r = stfs_io_write(to, piece, len, at);

	if (r != -ENOSPC || syncfs(to) < 0)
		return r;
	return stfs_io_write(to, piece, len, at);
}

int stfs_copy_bytes(int from, uint64_t from_at, int to, uint64_t to_at, uint64_t len,
		    struct stfs_commit *progress)
{
	STFS_AUTO_FREE char *piece = NULL;
	/*
	 * Where blocks can be shared, which takes whole ones: else a file system that shares would first write what is
	 * dirty of the source to the disk, and then copy slower than we do. Never within a file: extents shared with
	 * itself would be found anywhere by the map.
	 */
	bool within = same_file(from, to), shares = !within && (from_at | to_at) % SHARED == 0;
	uint64_t done = shares ? copy_in_kernel(from, from_at, to, to_at, len, progress) : 0;
	size_t now;
	int r = 0;

	if (done == len)
		return 0;
	piece = malloc(stfs_min_u64(PIECE, len - done));
	if (!piece)
		return -ENOMEM;
	for (; r == 0 && done < len; done += now) {
		now = stfs_min_u64(PIECE, len - done);
		r = stfs_io_read_exactly(from, piece, now, from_at + done);
		if (r == 0)
			r = within ? write_over(to, piece, now, to_at + done) :
				     stfs_io_write(to, piece, now, to_at + done);
		if (r < 0)
			break;
		stfs_io_write_behind(to, to_at + done, to_at + done + now);
		tell(progress, now);
	}
	return r;
}

static int write_zeros(int to, uint64_t to_at, uint64_t len, struct stfs_commit *progress)
{
	STFS_AUTO_FREE char *zeros = calloc(1, stfs_min_u64(PIECE, len));
	size_t now;
	int r = zeros ? 0 : -ENOMEM;

	for (uint64_t done = 0; r == 0 && done < len; done += now) {
		now = stfs_min_u64(PIECE, len - done);
		r = stfs_io_write(to, zeros, now, to_at + done);
		if (r == 0)
			tell(progress, now);
	}
	return r;
}

/* What its reader makes of them, in pieces as large as it likes them. */
static int copy_read(const struct stfs_source *source, uint64_t from, int to, uint64_t to_at, uint64_t len,
		     struct stfs_commit *progress)
{
	uint64_t most = stfs_min_u64(stfs_max_u64(source->reader->piece, PIECE), READ_MAX);
	STFS_AUTO_FREE char *piece = malloc(stfs_min_u64(most, len ? len : 1));
	size_t now;
	int r = piece ? 0 : -ENOMEM;

	for (uint64_t done = 0; r == 0 && done < len; done += now) {
		now = stfs_min_u64(most, len - done);
		r = source->reader->read(source->data, piece, now, from + done, progress ? &progress->said : NULL);
		if (r == 0)
			r = stfs_io_write(to, piece, now, to_at + done);
		if (r < 0)
			break;
		stfs_io_write_behind(to, to_at + done, to_at + done + now);
		tell(progress, now);
	}
	return r;
}

/* Of a source that is looked at before and after. */
static int copy_checked(const struct stfs_source *source, uint64_t from, int to, uint64_t to_at, uint64_t len,
			struct stfs_commit *progress)
{
	const struct stfs_reader *reader = source->reader;
	struct stfs_err *err = progress ? &progress->said : NULL;
	int r = reader->check && from == 0 ? reader->check(source->data, err) : 0;

	if (r == 0 && reader->read)
		r = copy_read(source, from, to, to_at, len, progress);
	else if (r == 0)
		r = stfs_copy_bytes(source->fd, source->offset + from, to, to_at, len, progress);
	return r == 0 && reader->after ? reader->after(source->data, err) : r;
}

int stfs_copy_source(const struct stfs_source *source, uint64_t from, int to, uint64_t to_at,
		     uint64_t len, struct stfs_commit *progress)
{
	int r = 0;

	if (source->reader)
		return copy_checked(source, from, to, to_at, len, progress);
	if (!source->pieces)
		return stfs_copy_bytes(source->fd, source->offset + from, to, to_at, len, progress);
	for (size_t i = 0; r == 0 && len && i < source->piece_count; i++) {
		const struct stfs_piece *piece = &source->pieces[i];
		uint64_t skip = stfs_min_u64(from, piece->len);
		uint64_t now = stfs_min_u64(len, piece->len - skip);

		if (now && piece->fd < 0)
			r = write_zeros(to, to_at, now, progress);
		else if (now)
			r = stfs_copy_bytes(piece->fd, piece->offset + skip, to, to_at, now, progress);
		from -= skip;
		to_at += now;
		len -= now;
	}
	return r < 0 ? r : len ? -ENODATA : 0;
}

static int clone_range(int fd, int old, const struct stfs_step *step, struct stfs_commit *progress)
{
	if (stfs_io->clone_range(fd, step->to, old, step->from, step->len) < 0)
		return stfs_copy_bytes(old, step->from, fd, step->to, step->len, progress);
	tell(progress, step->len);
	return 0;
}

int stfs_step_run(int fd, int old, const struct stfs_step *step, const struct stfs_source *sources,
		  struct stfs_commit *progress)
{
	switch (step->kind) {
	case STFS_STEP_WRITE:
		return stfs_copy_source(&sources[step->item], step->from, fd, step->to, step->len,
					progress);
	case STFS_STEP_COPY:
		return stfs_copy_bytes(old, step->from, fd, step->to, step->len, progress);
	case STFS_STEP_CLONE:
		return clone_range(fd, old, step, progress);
	case STFS_STEP_COLLAPSE:
		return stfs_io_fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, step->to, step->len);
	case STFS_STEP_INSERT:
		return stfs_io_fallocate(fd, FALLOC_FL_INSERT_RANGE, step->to, step->len);
	case STFS_STEP_TRUNCATE:
		return stfs_io_truncate(fd, step->to);
	case STFS_STEP_ERASE:
		return write_zeros(fd, step->to, step->len, NULL);
	}
	return -EINVAL;
}

/* ---- What may be run again ---- */

/* Whether `step` overwrites bytes that `earlier` reads, or cuts off what it reads or writes. */
static bool destroys(const struct stfs_step *step, const struct stfs_step *earlier)
{
	uint64_t from = earlier->from, end = earlier->from + earlier->len;

	/* C8: durable before anything else changes, and never again once something has. */
	if (earlier->kind == STFS_STEP_ERASE)
		return true;
	if (earlier->kind != STFS_STEP_COPY)
		return false;
	if (step->kind == STFS_STEP_TRUNCATE)
		return stfs_max_u64(end, earlier->to + earlier->len) > step->to;
	return step->to < end && from < step->to + step->len;
}

bool stfs_steps_need_mark(const struct stfs_step *steps, size_t since, size_t next)
{
	if (stfs_step_is_shift(&steps[next]))
		return true;
	for (size_t i = since; i < next; i++)
		if (destroys(&steps[next], &steps[i]))
			return true;
	return false;
}

uint64_t stfs_steps_marks_len(const struct stfs_step *steps, size_t count, size_t extents)
{
	size_t since = 0, shifts = 0;
	uint64_t sum = stfs_journal_mark_len(0); /* the last one */

	for (size_t i = 0; i < count; i++) {
		if (!stfs_steps_need_mark(steps, since, i))
			continue;
		/* A shift splits an extent or two, and is followed by a mark of its own. */
		if (stfs_step_is_shift(&steps[i]))
			sum += stfs_journal_mark_len(extents + 4 * ++shifts + 64);
		sum += stfs_journal_mark_len(0);
		since = stfs_step_is_shift(&steps[i]) ? i + 1 : i;
	}
	return sum;
}

/* ---- Running with marks ---- */

/* A shift that was begun before a crash: brings the file to where `done` says. */
static int finish_shift(int fd, const struct stfs_step *step, const struct stfs_shift_map *before,
			bool *done)
{
	enum stfs_shift_state state;
	uint64_t hole = 0;
	struct stat st;
	int r = stfs_shift_judge(fd, step, before, &state, &hole);

	if (r < 0)
		return r;
	*done = state == STFS_SHIFT_DONE;
	if (state != STFS_SHIFT_HALF)
		return 0;
	/* An insert is taken back and then begun anew; a collapse goes on from where the hole is. */
	*done = step->kind == STFS_STEP_COLLAPSE;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (hole + step->len >= (uint64_t)st.st_size)
		r = stfs_io_truncate(fd, hole);
	else
		r = stfs_io_fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, hole, step->len);
	return r < 0 ? r : stfs_io_sync(fd);
}

/* The block with the length word may have gone up: what stands there now must be refused as well. */
static int poison_again(int fd, const struct stfs_step *step)
{
	char word[8];

	if (step->kind != STFS_STEP_INSERT || step->to >= sizeof(word))
		return 0;
	stfs_store_le64(word, STFS_POISON);
	return stfs_io_write(fd, word, sizeof(word), 0);
}

static struct stfs_moves *moves_of(const struct stfs_commit *commit, size_t number)
{
	return commit ? commit->files[number].moves : NULL;
}

/*
 * A step that leaves every byte that is wanted where it is until it is done: what it copies is read at its
 * old place meanwhile, and what it overwrites was nobody's (W2).
 */
static int run_beside_readers(int fd, const struct stfs_step *step, size_t number,
			      struct stfs_commit *commit)
{
	struct stfs_moves *moves = moves_of(commit, number);
	int r = stfs_step_run(fd, fd, step, NULL, commit);

	if (r < 0 || !moves)
		return r;
	stfs_commit_stop(commit);
	stfs_moves_apply(moves, step);
	stfs_commit_go_on(commit);
	return 0;
}

/* Bytes are under way until it has returned. It copies nothing: the file has been synced. */
static int run_without_readers(int fd, const struct stfs_step *step, size_t number,
			       struct stfs_commit *commit)
{
	struct stfs_moves *moves = moves_of(commit, number);
	int r;

	stfs_commit_stop(commit);
	r = stfs_step_run(fd, fd, step, NULL, commit);
	if (r == 0 && moves)
		stfs_moves_apply(moves, step);
	else if (moves)
		moves->lost = true;
	stfs_commit_go_on(commit);
	return r;
}

/* A block shift between two marks. */
static int run_shift(struct stfs_journal *journal, size_t number, size_t next, int fd, bool begun,
		     struct stfs_commit *commit)
{
	struct stfs_journal_file *file = &journal->files[number];
	const struct stfs_step *step = &file->steps[next];
	struct stfs_shift_map map = {0};
	bool done = false;
	int r;

	if (begun) {
		r = finish_shift(fd, step, &file->map, &done);
	} else {
		r = stfs_shift_map_read(fd, step, &map);
		if (r == 0)
			r = stfs_journal_mark(journal, number, next, &map);
		stfs_extents_free(&map.extents);
	}
	if (r == 0 && !done)
		r = run_without_readers(fd, step, number, commit);
	if (r == 0)
		r = poison_again(fd, step);
	if (r == 0)
		r = stfs_io_sync(fd);
	return r < 0 ? r : stfs_journal_mark(journal, number, next + 1, NULL);
}

/* No plan makes a file longer than by its new header and what slides by way of the room behind it. */
#define GROWTH_MOST (512ull << 20)

/* A journal that asks for more, or for bytes that are not there, is none of ours. */
static int check_bounds(int fd, const struct stfs_step *step, uint64_t limit)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (step->to + step->len > limit ||
	    (step->kind == STFS_STEP_COPY && step->from + step->len > (uint64_t)st.st_size))
		return -EUCLEAN;
	return 0;
}

int stfs_steps_run_marked(struct stfs_journal *journal, size_t number, int fd,
			  struct stfs_commit *commit)
{
	struct stfs_journal_file *file = &journal->files[number];
	size_t since = file->marked ? file->next_step : 0;
	bool begun = file->marked && file->shift;
	struct stat st;
	int r = fstat(fd, &st) < 0 ? -errno : 0;

	for (size_t i = since; r == 0 && i < file->step_count; i++) {
		if (stfs_step_is_shift(&file->steps[i])) {
			if (i > since)
				r = stfs_io_sync(fd);
			if (r == 0)
				r = run_shift(journal, number, i, fd, begun, commit);
			begun = false;
			since = i + 1;
			continue;
		}
		if (stfs_steps_need_mark(file->steps, since, i)) {
			r = stfs_io_sync(fd);
			if (r == 0)
				r = stfs_journal_mark(journal, number, i, NULL);
			since = i;
		}
		if (r == 0)
			r = check_bounds(fd, &file->steps[i], (uint64_t)st.st_size + GROWTH_MOST);
		if (r == 0)
			r = run_beside_readers(fd, &file->steps[i], number, commit);
	}
	if (r == 0 && since < file->step_count) {
		r = stfs_io_sync(fd);
		if (r == 0)
			r = stfs_journal_mark(journal, number, file->step_count, NULL);
	}
	return r;
}
