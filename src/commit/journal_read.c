/* SPDX-License-Identifier: MIT */
/* The journal after a crash: what of it is whole. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "commit/beside.h"
#include "commit/journal.h"
#include "format/header.h"

#define FILES_MAX 8192

/* Reads numbers and bytes of a part; once something is missing, everything after it is zero. */
struct reader {
	const char *at;
	size_t left;
	bool bad;
};

static uint64_t get64(struct reader *reader)
{
	uint64_t value;

	if (reader->left < 8) {
		reader->bad = true;
		return 0;
	}
	value = stfs_load_le64(reader->at);
	reader->at += 8;
	reader->left -= 8;
	return value;
}

/* Bytes padded to a multiple of 8: NULL when there are not as many. */
static const char *get_bytes(struct reader *reader, uint64_t len)
{
	const char *bytes = reader->at;

	if (reader->bad || len > reader->left || stfs_align_up(len, 8) > reader->left) {
		reader->bad = true;
		return NULL;
	}
	reader->at += stfs_align_up(len, 8);
	reader->left -= stfs_align_up(len, 8);
	return bytes;
}

/*
 * Reads the part at `at`: its bytes go to `out`, behind magic, length and checksum. 1 when it is
 * whole, 0 when there is none or it was not finished, -errno.
 */
static int read_part(int fd, uint64_t at, uint64_t file_len, const char *magic, struct stfs_buf *out)
{
	char head[STFS_JOURNAL_PART_HEAD];
	uint64_t len, sum;
	int r;

	if (at > file_len || file_len - at < STFS_JOURNAL_PART_HEAD)
		return 0;
	r = stfs_io_read_exactly(fd, head, sizeof(head), at);
	if (r < 0)
		return r;
	len = stfs_load_le64(head + 8);
	sum = stfs_load_le64(head + 16);
	if (memcmp(head, magic, STFS_JOURNAL_MAGIC_LEN) != 0 || len < STFS_JOURNAL_PART_HEAD ||
	    len > file_len - at || len > STFS_JOURNAL_PART_MAX)
		return 0;
	stfs_buf_clear(out);
	r = stfs_buf_fill(out, 0, len);
	if (r == 0)
		r = stfs_io_read_exactly(fd, out->data, len, at);
	if (r < 0)
		return r;
	stfs_store_le64(out->data + 16, 0);
	return stfs_commit_hash(stfs_buf_str(out)) == sum;
}

static struct reader behind_head(const struct stfs_buf *part)
{
	return (struct reader){.at = part->data + STFS_JOURNAL_PART_HEAD,
			       .left = part->len - STFS_JOURNAL_PART_HEAD};
}

/* C6: a name in the folder, and none of those that we make ourselves. */
static bool good_name(const char *name, uint64_t len)
{
	struct stfs_str text = {name, len};

	return name && len > 0 && len <= NAME_MAX && !memchr(name, '/', len) &&
	       !memchr(name, 0, len) && !stfs_str_is(text, ".") && !stfs_str_is(text, "..") &&
	       !stfs_str_ends_with(text, STFS_BESIDE_JOURNAL) &&
	       !stfs_str_ends_with(text, STFS_BESIDE_NEW) &&
	       !stfs_str_ends_with(text, STFS_BESIDE_RESCUE);
}

/*
 * Whether a record stands behind a head that cannot be read: the head was durable long before it,
 * so that this is damage, and not a commit that had not begun.
 */
static bool has_record(const struct stfs_journal *journal, uint64_t file_len)
{
	const uint64_t heads_end = stfs_min_u64(file_len, FILES_MAX * 512ull);
	char magic[STFS_JOURNAL_MAGIC_LEN];

	/* Where nothing can be read there may be one. */
	for (uint64_t at = STFS_JOURNAL_PAGE; at + sizeof(magic) <= heads_end; at += STFS_JOURNAL_PAGE)
		if (stfs_io_read_exactly(journal->fd, magic, sizeof(magic), at) < 0 ||
		    memcmp(magic, STFS_JOURNAL_RECORD_MAGIC, sizeof(magic)) == 0)
			return true;
	return false;
}

static int read_head(struct stfs_journal *journal, uint64_t file_len)
{
	STFS_AUTO_BUF struct stfs_buf part = STFS_BUF_INIT;
	struct reader reader;
	uint64_t count, len, version, foreign;
	const char *name;
	int r = read_part(journal->fd, 0, file_len, STFS_JOURNAL_HEAD_MAGIC, &part);

	/* Some file systems answer EBADMSG themselves: that is not a head that was never finished. */
	if (r < 0)
		return r == -EBADMSG ? -EIO : r;
	if (r == 0)
		return -EBADMSG;
	reader = behind_head(&part);
	version = get64(&reader);
	if (version != STFS_JOURNAL_VERSION && version != STFS_JOURNAL_VERSION_FOREIGN)
		return -EPROTO;
	count = get64(&reader);
	if (count == 0 || count > FILES_MAX)
		return -EPROTO;
	journal->files = calloc(count, sizeof(*journal->files));
	if (!journal->files)
		return -ENOMEM;
	for (; journal->count < count; journal->count++) {
		struct stfs_journal_file *file = &journal->files[journal->count];

		file->old_length = get64(&reader);
		file->old_word = get64(&reader);
		file->old_hash = get64(&reader);
		foreign = version == STFS_JOURNAL_VERSION_FOREIGN ? get64(&reader) : 0;
		file->foreign = foreign;
		len = get64(&reader);
		name = get_bytes(&reader, len);
		if (reader.bad || foreign > 1 || !good_name(name, len))
			return -EPROTO;
		file->name = strndup(name, len);
		if (!file->name)
			return -ENOMEM;
	}
	journal->record_at = stfs_align_up(part.len, STFS_JOURNAL_PAGE);
	return 0;
}

/*
 * Whether no more is asked for than the planner does (layout.h, L3): copies apart, and room for a
 * header alone.
 */
static bool good_step(const struct stfs_step *step, uint64_t *inserted)
{
	uint64_t end, from_end;

	if (stfs_add_overflows(step->to, step->len, &end) ||
	    stfs_add_overflows(step->from, step->len, &from_end) ||
	    end > INT64_MAX || from_end > INT64_MAX)
		return false;
	switch (step->kind) {
	case STFS_STEP_COPY:
		return step->from >= end || step->to >= from_end;
	case STFS_STEP_INSERT:
		return !stfs_add_overflows(*inserted, step->len, inserted) &&
		       *inserted <= 2ull * STFS_HEADER_MAX;
	case STFS_STEP_COLLAPSE:
	case STFS_STEP_TRUNCATE:
		return true;
	case STFS_STEP_ERASE: /* good_erasure() */
		return true;
	case STFS_STEP_WRITE: /* before the record, or beside the file */
	case STFS_STEP_CLONE:
		return false;
	}
	return false;
}

/* Of a foreign file, its end, and before everything else. */
static bool good_erasure(const struct stfs_journal_file *file, size_t number)
{
	const struct stfs_step *step = &file->steps[number];

	return step->kind != STFS_STEP_ERASE ||
	       (file->foreign && number == 0 && step->to >= STFS_LENGTH_WORD && step->len <= STFS_ERASED_MOST &&
		step->to + step->len == file->old_length);
}

/* One file of the record. 0, -EPROTO or -ENOMEM. */
static int read_file(struct reader *reader, struct stfs_journal_file *file)
{
	uint64_t kind = get64(reader), header_len, inserted = 0;
	const char *header;

	file->kind = kind == STFS_JOURNAL_IN_PLACE ? STFS_JOURNAL_IN_PLACE : STFS_JOURNAL_RENAME;
	file->new_length = get64(reader);
	file->new_hash = get64(reader);
	file->ahead = get64(reader);
	file->step_count = get64(reader);
	header_len = get64(reader);
	if (reader->bad || file->step_count > reader->left / 32 ||
	    (kind != STFS_JOURNAL_IN_PLACE && kind != STFS_JOURNAL_RENAME))
		return -EPROTO;
	file->steps = calloc(file->step_count ? file->step_count : 1, sizeof(*file->steps));
	if (!file->steps)
		return -ENOMEM;
	for (size_t i = 0; i < file->step_count; i++) {
		kind = get64(reader);
		if (kind > STFS_STEP_ERASE)
			return -EPROTO;
		file->steps[i] = (struct stfs_step){.kind = (enum stfs_step_kind)kind,
						    .item = UINT32_MAX};
		file->steps[i].from = get64(reader);
		file->steps[i].to = get64(reader);
		file->steps[i].len = get64(reader);
		if (!good_step(&file->steps[i], &inserted) || !good_erasure(file, i))
			return -EPROTO;
	}
	header = get_bytes(reader, header_len);
	if (!header || (file->kind == STFS_JOURNAL_IN_PLACE && header_len < 8))
		return -EPROTO;
	return stfs_buf_add(&file->header, header, header_len);
}

static int read_record(struct stfs_journal *journal, uint64_t file_len)
{
	STFS_AUTO_BUF struct stfs_buf part = STFS_BUF_INIT;
	struct reader reader;
	int r = read_part(journal->fd, journal->record_at, file_len, STFS_JOURNAL_RECORD_MAGIC, &part);

	if (r <= 0)
		return r;
	reader = behind_head(&part);
	r = 0;
	for (size_t i = 0; r == 0 && i < journal->count; i++)
		r = read_file(&reader, &journal->files[i]);
	journal->marks_at = journal->marks_end = stfs_align_up(journal->record_at + part.len, STFS_JOURNAL_PAGE);
	journal->recorded = r == 0;
	return r;
}

static int take_mark(struct stfs_journal *journal, struct reader *reader)
{
	uint64_t number = get64(reader), next = get64(reader), shift = get64(reader);
	uint64_t size = get64(reader);
	uint64_t extents = get64(reader), samples = get64(reader);
	struct stfs_journal_file *file;
	struct stfs_extent *items;

	if (reader->bad || number >= journal->count || samples > STFS_SAMPLES_MAX ||
	    extents > reader->left / 24 || next > journal->files[number].step_count)
		return -EPROTO;
	file = &journal->files[number];
	items = calloc(extents ? extents : 1, sizeof(*items));
	if (!items)
		return -ENOMEM;
	stfs_extents_free(&file->map.extents);
	file->marked = true;
	file->next_step = next;
	file->shift = shift;
	file->map = (struct stfs_shift_map){.size = size, .extents = {items, extents},
					    .sample_count = samples};
	for (size_t i = 0; i < extents; i++) {
		items[i].logical = get64(reader);
		items[i].physical = get64(reader);
		items[i].len = get64(reader);
	}
	for (size_t i = 0; i < samples; i++) {
		file->map.samples[i].at = get64(reader);
		file->map.samples[i].hash = get64(reader);
	}
	if (reader->bad ||
	    (shift && (next == file->step_count || !stfs_step_is_shift(&file->steps[next]))))
		return -EPROTO;
	return 0;
}

static int read_marks(struct stfs_journal *journal, uint64_t file_len)
{
	STFS_AUTO_BUF struct stfs_buf part = STFS_BUF_INIT;
	struct reader reader;
	int r;

	for (;;) {
		r = read_part(journal->fd, journal->marks_end, file_len, STFS_JOURNAL_MARK_MAGIC, &part);
		if (r <= 0)
			return r;
		reader = behind_head(&part);
		r = take_mark(journal, &reader);
		if (r < 0)
			return r;
		journal->marks_end += part.len;
	}
}

static int disbelieve(const struct stfs_journal *journal, const char *why, struct stfs_err *err)
{
	return stfs_err_set(err, -EPERM, STFS_NO_POSITION, "%s: the journal beside the model %s: "
			    "it is not believed; look where it comes from, then remove it",
			    journal->path, why);
}

/* C5. */
static int believe(const struct stfs_journal *journal, const struct stat *st, uid_t owner,
		   struct stfs_err *err)
{
	const char *why = NULL;

	if (!S_ISREG(st->st_mode))
		why = "is not a regular file";
	else if (st->st_nlink != 1)
		why = "has other links";
	else if (st->st_uid != owner && st->st_uid != 0 && st->st_uid != geteuid())
		why = "belongs to somebody else than the model";
	else if (st->st_mode & 022)
		why = "may be written by others";
	return why ? disbelieve(journal, why, err) : 0;
}

int stfs_journal_open(struct stfs_journal *journal, int folder_fd, const char *model, uid_t owner,
		      struct stfs_err *err)
{
	struct stat st;
	int r;

	*journal = (struct stfs_journal){.fd = -1, .folder_fd = folder_fd};
	journal->path = stfs_beside_name(model, STFS_BESIDE_JOURNAL);
	if (!journal->path)
		return -ENOMEM;
	journal->fd = stfs_io->openat(folder_fd, journal->path,
				      O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0);
	if (journal->fd < 0 && errno == ELOOP)
		r = disbelieve(journal, "is a link", err);
	else if (journal->fd < 0 && errno == EISDIR)
		r = disbelieve(journal, "is not a regular file", err);
	else if (journal->fd < 0)
		r = errno == ENOENT ? -ENOENT : stfs_err_errno(err, -errno, "%s", journal->path);
	else if (fstat(journal->fd, &st) < 0)
		r = -errno;
	else
		r = believe(journal, &st, owner, err);
	/* Whoever commits holds it until the end: what is read here is nobody's but ours. */
	if (r == 0)
		r = stfs_beside_lock(folder_fd, journal->path, journal->fd);
	if (r == -EBUSY)
		r = stfs_commit_interrupted(folder_fd, model) == 0 ? -ENOENT
			: stfs_err_set(err, r, STFS_NO_POSITION,
				       "%s: another program is changing the model", model);
	if (r == 0 && fstat(journal->fd, &st) < 0)
		r = -errno;
	if (r == 0)
		r = read_head(journal, (uint64_t)st.st_size);
	if (r == 0)
		r = read_record(journal, (uint64_t)st.st_size);
	if (r == 0 && journal->recorded)
		r = read_marks(journal, (uint64_t)st.st_size);
	if (r == -EBADMSG && has_record(journal, (uint64_t)st.st_size))
		r = stfs_err_set(err, -EUCLEAN, STFS_NO_POSITION, "%s: is damaged: what the "
				 "interrupted commit was about can no longer be read; nothing is "
				 "touched", journal->path);
	if (r == -EPROTO)
		r = stfs_err_set(err, r, STFS_NO_POSITION, "%s: is no journal that this version "
				 "can read", journal->path);
	if (r < 0 && r != -EBADMSG)
		stfs_journal_close(journal);
	return r;
}
