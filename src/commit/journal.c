/* SPDX-License-Identifier: MIT */
#include "commit/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "base/siphash.h"
#include "commit/beside.h"

void stfs_journal_close(struct stfs_journal *journal)
{
	for (size_t i = 0; i < journal->count; i++) {
		struct stfs_journal_file *file = &journal->files[i];

		free(file->name);
		free(file->steps);
		stfs_buf_free(&file->header);
		stfs_extents_free(&file->map.extents);
	}
	free(journal->files);
	free(journal->path);
	if (journal->fd >= 0)
		close(journal->fd);
	*journal = (struct stfs_journal){.fd = -1};
}

uint64_t stfs_commit_hash(struct stfs_str bytes)
{
	static const struct stfs_sipkey key = {0};

	return stfs_siphash(&key, bytes);
}

/* ---- Writing ---- */

static void put64(struct stfs_buf *out, uint64_t value)
{
	char bytes[8];

	stfs_store_le64(bytes, value);
	stfs_buf_add(out, bytes, sizeof(bytes));
}

static void put_padded(struct stfs_buf *out, struct stfs_str bytes)
{
	stfs_buf_add_str(out, bytes);
	stfs_buf_fill(out, 0, (8 - bytes.len % 8) % 8);
}

static void begin_part(struct stfs_buf *out, const char *magic)
{
	stfs_buf_add(out, magic, STFS_JOURNAL_MAGIC_LEN);
	put64(out, 0);
	put64(out, 0);
}

/* Completes the part in `out` and writes it at `at`. Not durable yet. */
static int write_part(const struct stfs_journal *journal, struct stfs_buf *out, uint64_t at)
{
	if (stfs_buf_status(out) < 0)
		return stfs_buf_status(out);
	if (out->len > STFS_JOURNAL_PART_MAX)
		return -EFBIG;
	stfs_store_le64(out->data + 8, out->len);
	stfs_store_le64(out->data + 16, stfs_commit_hash(stfs_buf_str(out)));
	return stfs_io_write(journal->fd, out->data, out->len, at);
}

/* So that the owner of the model can recover what root has begun. */
static int give_to_owner(const struct stfs_journal *journal, const char *model)
{
	struct stat want;

	if (geteuid() != 0 || fstatat(journal->folder_fd, model, &want, AT_SYMLINK_NOFOLLOW) < 0 ||
	    want.st_uid == 0)
		return 0;
	return fchown(journal->fd, want.st_uid, want.st_gid) < 0 ? -errno : 0;
}

static void put_head(struct stfs_buf *out, const struct stfs_journal *journal)
{
	bool foreign = false;

	for (size_t i = 0; i < journal->count; i++)
		foreign |= journal->files[i].foreign;
	begin_part(out, STFS_JOURNAL_HEAD_MAGIC);
	put64(out, foreign ? STFS_JOURNAL_VERSION_FOREIGN : STFS_JOURNAL_VERSION);
	put64(out, journal->count);
	for (size_t i = 0; i < journal->count; i++) {
		const struct stfs_journal_file *file = &journal->files[i];

		put64(out, file->old_length);
		put64(out, file->old_word);
		put64(out, file->old_hash);
		if (foreign)
			put64(out, file->foreign);
		put64(out, strlen(file->name));
		put_padded(out, stfs_str_from(file->name));
	}
}

int stfs_journal_begin(struct stfs_journal *journal, int folder_fd, const char *model)
{
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
	int r;

	journal->folder_fd = folder_fd;
	journal->path = stfs_beside_name(model, STFS_BESIDE_JOURNAL);
	if (!journal->path)
		return -ENOMEM;
	/* One that is there is not ours to remove: it is recovered first. */
	if (stfs_commit_interrupted(folder_fd, model) != 0)
		return -EBUSY;
	journal->fd = stfs_beside_create(folder_fd, journal->path, 0600);
	if (journal->fd < 0)
		return journal->fd;
	r = give_to_owner(journal, model);
	if (r < 0)
		return r;
	put_head(&out, journal);
	journal->record_at = stfs_align_up(out.len, STFS_JOURNAL_PAGE);
	r = write_part(journal, &out, 0);
	if (r == 0)
		r = stfs_io_sync(journal->fd);
	return r < 0 ? r : stfs_io_sync_folder(folder_fd);
}

static void put_file(struct stfs_buf *out, const struct stfs_journal_file *file)
{
	put64(out, file->kind);
	put64(out, file->new_length);
	put64(out, file->new_hash);
	put64(out, file->ahead);
	put64(out, file->step_count);
	put64(out, file->header.len);
	for (size_t i = 0; i < file->step_count; i++) {
		put64(out, file->steps[i].kind);
		put64(out, file->steps[i].from);
		put64(out, file->steps[i].to);
		put64(out, file->steps[i].len);
	}
	put_padded(out, stfs_buf_str(&file->header));
}

int stfs_journal_record(struct stfs_journal *journal, uint64_t marks, uint64_t spare)
{
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
	int r;

	begin_part(&out, STFS_JOURNAL_RECORD_MAGIC);
	for (size_t i = 0; i < journal->count; i++)
		put_file(&out, &journal->files[i]);
	journal->marks_at = journal->marks_end = stfs_align_up(journal->record_at + out.len, STFS_JOURNAL_PAGE);
	r = stfs_io_reserve(journal->fd, 0, journal->marks_at + marks + spare);
	journal->record_tried = r == 0;
	if (r == 0)
		r = write_part(journal, &out, journal->record_at);
	/* The length is set now, so that a mark changes no more than bytes. */
	if (r == 0)
		r = stfs_io_truncate(journal->fd, journal->marks_at + marks);
	if (r == 0)
		r = stfs_io_sync(journal->fd);
	if (r == 0)
		journal->recorded = true;
	return r;
}

/* What was reserved behind the length goes with a truncation to it. A failure costs room, no more. */
void stfs_journal_give_back(struct stfs_journal *journal)
{
	struct stat st;

	/* A length that was not set yet, before a crash, would take the room for the marks with it. */
	if (fstat(journal->fd, &st) == 0 && (uint64_t)st.st_size >= journal->marks_at)
		(void)stfs_io_truncate(journal->fd, (uint64_t)st.st_size);
}

#define MARK_FIXED (STFS_JOURNAL_PART_HEAD + 6 * 8)

uint64_t stfs_journal_mark_len(size_t extents)
{
	return MARK_FIXED + 24 * (uint64_t)extents + sizeof(struct stfs_sample) * STFS_SAMPLES_MAX;
}

int stfs_journal_mark(struct stfs_journal *journal, size_t file, size_t next,
		      const struct stfs_shift_map *map)
{
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
	int r;

	begin_part(&out, STFS_JOURNAL_MARK_MAGIC);
	put64(&out, file);
	put64(&out, next);
	put64(&out, map != NULL);
	put64(&out, map ? map->size : 0);
	put64(&out, map ? map->extents.count : 0);
	put64(&out, map ? map->sample_count : 0);
	for (size_t i = 0; map && i < map->extents.count; i++) {
		put64(&out, map->extents.items[i].logical);
		put64(&out, map->extents.items[i].physical);
		put64(&out, map->extents.items[i].len);
	}
	for (size_t i = 0; map && i < map->sample_count; i++) {
		put64(&out, map->samples[i].at);
		put64(&out, map->samples[i].hash);
	}
	r = write_part(journal, &out, journal->marks_end);
	if (r == 0)
		r = stfs_io_sync(journal->fd);
	if (r == 0)
		journal->marks_end += out.len;
	return r;
}

int stfs_journal_end(struct stfs_journal *journal)
{
	int r = stfs_io_unlink(journal->folder_fd, journal->path);

	return r < 0 ? r : stfs_io_sync_folder(journal->folder_fd);
}
