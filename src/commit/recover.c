/* SPDX-License-Identifier: MIT */
/*
 * After a crash. Without a record the old model is still there, perhaps with bytes behind its end,
 * and they are cut off. With one the steps go on from the last mark.
 *
 * A file of the journal is one of these; any other was changed by somebody else, and nothing is
 * touched:
 *
 *   old        length word and header are those of the head; of a foreign file its first bytes and a hash
 *   poisoned   the length word has bit 63, or the block with it has moved away
 *   new        word and header are those of the record, and so is the length: it is finished
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "commit/beside.h"
#include "commit/internal.h"
#include "commit/steps.h"
#include "format/header.h"

int stfs_commit_interrupted(int folder_fd, const char *model)
{
	return stfs_beside_exists(folder_fd, model, STFS_BESIDE_JOURNAL);
}

enum state { STATE_OLD, STATE_POISONED, STATE_NEW, STATE_FOREIGN };

static void close_all(int *fds, size_t count)
{
	for (size_t i = 0; fds && i < count; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	free(fds);
}

/*
 * Whoever wrote the journal may change their own files by it, not have root change those of others.
 * A journal of root, or of us, may name any.
 */
static int check_owner(const struct stfs_journal *journal, int fd, const char *name,
		       struct stfs_err *err)
{
	struct stat ours, theirs;

	if (fstat(journal->fd, &ours) < 0 || fstat(fd, &theirs) < 0)
		return -errno;
	if (ours.st_uid == 0 || ours.st_uid == geteuid() || ours.st_uid == theirs.st_uid)
		return 0;
	return stfs_err_set(err, -EPERM, STFS_NO_POSITION, "%s: belongs to somebody else than %s, "
			    "which tells of a change to it: it is not believed; look where it "
			    "comes from, then remove it", name, journal->path);
}

/*
 * Opens and locks the files of the journal: *out is an array of descriptors, -1 for one that is
 * gone.
 */
static int open_all(const struct stfs_journal *journal, int **out, struct stfs_err *err)
{
	int *fds = malloc(journal->count * sizeof(*fds)), r = 0;

	if (!fds)
		return -ENOMEM;
	for (size_t i = 0; i < journal->count; i++)
		fds[i] = -1;
	for (size_t i = 0; r == 0 && i < journal->count; i++) {
		const char *name = journal->files[i].name;

		fds[i] = stfs_io->openat(journal->folder_fd, name,
					 O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0);
		if (fds[i] < 0)
			r = errno == ENOENT ? 0 : stfs_err_errno(err, -errno, "%s", name);
		else if (flock(fds[i], LOCK_EX | LOCK_NB) < 0)
			r = stfs_err_set(err, -EBUSY, STFS_NO_POSITION,
					 "%s: another program has it open for changes", name);
		else
			r = check_owner(journal, fds[i], name, err);
	}
	if (r < 0)
		close_all(fds, journal->count);
	else
		*out = fds;
	return r;
}

/* Whether the header in the file is `len` bytes of text with this hash. */
static int has_header(int fd, uint64_t len, uint64_t file_len, uint64_t hash, bool *has)
{
	STFS_AUTO_FREE char *text = NULL;
	int r;

	*has = false;
	/* More is no header that we read, whatever the journal says. */
	if (len > file_len - 8 || len > STFS_HEADER_MAX)
		return 0;
	text = malloc(len ? len : 1);
	if (!text)
		return -ENOMEM;
	r = stfs_io_read_exactly(fd, text, len, 8);
	*has = r == 0 && stfs_commit_hash(stfs_str_slice(text, len)) == hash;
	return r;
}

/* Whether the bytes that decide what a foreign file is are as they were. */
static int is_same(const struct stfs_journal_file *file, int fd, bool *is)
{
	uint64_t word, hash;
	int r = stfs_commit_foreign_hash(fd, file->old_length, &word, &hash);

	*is = r == 0 && word == file->old_word && hash == file->old_hash;
	return r == -EOPNOTSUPP ? 0 : r;
}

/* Whether the length word may have gone up with the first block. */
static bool moves_word(const struct stfs_journal_file *file)
{
	for (size_t i = 0; i < file->step_count; i++)
		if (file->steps[i].kind == STFS_STEP_INSERT && file->steps[i].to < 8)
			return true;
	return false;
}

static int judge(const struct stfs_journal *journal, const struct stfs_journal_file *file, int fd,
		 enum state *state)
{
	struct stfs_str text = stfs_buf_str(&file->header);
	uint64_t word, length;
	struct stat st;
	char bytes[8];
	bool has = false;
	int r;

	*state = STATE_FOREIGN;
	if (fd < 0)
		return 0;
	if (fstat(fd, &st) < 0)
		return -errno;
	length = (uint64_t)st.st_size;
	if (!S_ISREG(st.st_mode) || length < 8)
		return 0;
	r = stfs_io_read_exactly(fd, bytes, sizeof(bytes), 0);
	if (r < 0)
		return r;
	word = stfs_load_le64(bytes);
	if (journal->recorded && (word & STFS_POISON || (word == 0 && moves_word(file)))) {
		*state = STATE_POISONED;
		return 0;
	}
	/* A header that is the same afterwards is that of the new file once a mark stands. */
	if (word == file->old_word && length >= file->old_length && !file->marked &&
	    (!journal->recorded || length == file->ahead)) {
		r = file->foreign ? is_same(file, fd, &has) : has_header(fd, word, length, file->old_hash, &has);
		*state = has ? STATE_OLD : STATE_FOREIGN;
	}
	if (r == 0 && *state == STATE_FOREIGN && journal->recorded &&
	    word == stfs_load_le64(text.ptr) && length == file->new_length) {
		text = stfs_str_slice(text.ptr + STFS_LENGTH_WORD, text.len - STFS_LENGTH_WORD);
		r = has_header(fd, word, length, stfs_commit_hash(text), &has);
		*state = has ? STATE_NEW : STATE_FOREIGN;
	}
	return r;
}

static int foreign(const struct stfs_journal *journal, const char *name, struct stfs_err *err)
{
	return stfs_err_set(err, -EUCLEAN, STFS_NO_POSITION, "%s: was changed after the commit "
			    "that %s tells of was interrupted; nothing is touched. If the model is "
			    "as you want it, remove that journal", name, journal->path);
}

/* ---- Back ---- */

static int remove_temp(const struct stfs_journal *journal, const char *name)
{
	STFS_AUTO_FREE char *temp = stfs_beside_name(name, STFS_BESIDE_NEW);
	int r = temp ? stfs_io_unlink(journal->folder_fd, temp) : -ENOMEM;

	return r == -ENOENT ? 0 : r;
}

/*
 * Nothing was poisoned before the record was durable: if something is, the record was there and is
 * damaged.
 */
static int check_record(const struct stfs_journal *journal, const int *fds, struct stfs_err *err)
{
	char word[8];
	int r;

	for (size_t i = 0; i < journal->count; i++) {
		if (!journal->files[i].old_word || fds[i] < 0)
			continue;
		r = stfs_io_read_exactly(fds[i], word, sizeof(word), 0);
		if (r < 0 && r != -EIO)
			return r;
		if (r == 0 && (stfs_load_le64(word) & STFS_POISON || stfs_load_le64(word) == 0))
			return stfs_err_set(err, -EUCLEAN, STFS_NO_POSITION, "%s: a commit has "
					    "begun to change it, and what %s says of it is "
					    "damaged; nothing is touched", journal->files[i].name,
					    journal->path);
	}
	return 0;
}

/* There is no record: cuts off what was written behind the end of the old files. */
static int take_back(struct stfs_journal *journal, const int *fds, struct stfs_err *err)
{
	enum state state;
	int r = check_record(journal, fds, err);

	for (size_t i = 0; r == 0 && i < journal->count; i++) {
		const struct stfs_journal_file *file = &journal->files[i];
		struct stat st;

		r = remove_temp(journal, file->name);
		if (r == 0 && file->old_word) /* else it is the index, which is never touched itself */
			r = judge(journal, file, fds[i], &state);
		else
			state = STATE_FOREIGN;
		/* A file that somebody has changed since is theirs: it needs nothing from us. */
		if (r < 0 || state != STATE_OLD || fstat(fds[i], &st) < 0 ||
		    (uint64_t)st.st_size == file->old_length)
			continue;
		r = stfs_io_truncate(fds[i], file->old_length);
		if (r == 0)
			r = stfs_io_sync(fds[i]);
	}
	return r < 0 ? r : stfs_journal_end(journal);
}

/* ---- Forward ---- */

static int check_rename(const struct stfs_journal *journal, const struct stfs_journal_file *file,
			struct stfs_err *err)
{
	STFS_AUTO_FREE char *temp = NULL;
	int r = stfs_commit_find_new(journal, file, &temp);

	return r == -EUCLEAN || r == -ENOENT ? foreign(journal, file->name, err) : r;
}

/* Every file must be what the journal could have left; those that are finished are left out. */
static int check_all(const struct stfs_journal *journal, int *fds, struct stfs_err *err)
{
	enum state state;
	int r;

	for (size_t i = 0; i < journal->count; i++) {
		if (journal->files[i].kind == STFS_JOURNAL_IN_PLACE) {
			r = judge(journal, &journal->files[i], fds[i], &state);
			if (r < 0)
				return stfs_err_errno(err, r, "%s", journal->files[i].name);
			if (state == STATE_FOREIGN)
				return foreign(journal, journal->files[i].name, err);
			if (state != STATE_NEW)
				continue;
		} else {
			r = check_rename(journal, &journal->files[i], err);
			if (r < 0)
				return r;
		}
		if (fds[i] >= 0)
			close(fds[i]);
		fds[i] = -1;
	}
	return 0;
}

static int go_on(struct stfs_journal *journal, int *fds, struct stfs_err *err)
{
	int r = check_all(journal, fds, err);

	if (r < 0)
		return r;
	stfs_journal_give_back(journal);
	r = stfs_commit_put_words(journal, fds, STFS_WORDS_POISONED);
	return r < 0 ? r : stfs_commit_finish(journal, fds, NULL);
}

int stfs_commit_clean(int folder_fd, const char *name)
{
	STFS_AUTO_FREE char *temp = stfs_beside_name(name, STFS_BESIDE_NEW);

	return temp ? stfs_beside_clean(folder_fd, temp) : -ENOMEM;
}

/* Whose the model is: the journal must be theirs (C5). */
static int owner_of(int folder_fd, const char *model, uid_t *owner)
{
	struct stat st;

	if (fstatat(folder_fd, model, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	*owner = st.st_uid;
	return 0;
}

/*
 * Whether the journal `entry` names the file: 1, 0 or -ENOMEM. One that cannot be read names
 * nothing.
 */
static int names(int folder_fd, const char *entry, const char *name)
{
	STFS_AUTO_FREE char *model = strndup(entry + 1,
					     strlen(entry) - 1 - strlen(STFS_BESIDE_JOURNAL));
	struct stfs_journal journal;
	uid_t owner = 0;
	int found = 0, r;

	if (!model)
		return -ENOMEM;
	/* What recovery would not believe must not keep anybody from a file either. */
	if (strcmp(model, name) == 0 || owner_of(folder_fd, model, &owner) < 0)
		return 0;
	r = stfs_journal_open(&journal, folder_fd, model, owner, NULL);
	/* Of one that is under way the files are locked, which is found out elsewhere. */
	if (r < 0 && r != -EBADMSG)
		return 0;
	for (size_t i = 0; r == 0 && i < journal.count; i++)
		found |= strcmp(journal.files[i].name, name) == 0;
	stfs_journal_close(&journal);
	return found;
}

int stfs_commit_named(int folder_fd, const char *name, char **journal)
{
	STFS_AUTO_FD int fd = openat(folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;
	int r = 0;

	if (!dir)
		return -errno;
	(void)stfs_steal_fd(&fd); /* the stream's now */
	while (r == 0 && (entry = readdir(dir))) {
		if (entry->d_name[0] != '.' || !stfs_str_ends_with(stfs_str_from(entry->d_name),
								   ".index.json" STFS_BESIDE_JOURNAL))
			continue;
		r = names(folder_fd, entry->d_name, name);
		if (r > 0)
			*journal = strdup(entry->d_name);
	}
	closedir(dir);
	return r > 0 && !*journal ? -ENOMEM : r;
}

/*
 * A program that died has written what it did not sync: a record, a length word, a name. What is
 * found now decides what is done, so it has to be what will be found after the next crash.
 */
static int settle(const struct stfs_journal *journal, const int *fds)
{
	int r = stfs_io_sync(journal->fd);

	for (size_t i = 0; r == 0 && i < journal->count; i++) {
		if (fds[i] >= 0)
			r = stfs_io_sync(fds[i]);
		if (r == -EINVAL) /* a pipe that took a file's place */
			r = 0;
	}
	return r < 0 ? r : stfs_io_sync_folder(journal->folder_fd);
}

int stfs_commit_recover(int folder_fd, const char *model, enum stfs_recovered *what,
			struct stfs_err *err)
{
	struct stfs_journal journal;
	int *fds = NULL, r;
	uid_t owner = 0;

	*what = STFS_RECOVERED_NOTHING;
	r = owner_of(folder_fd, model, &owner);
	if (r < 0)
		return stfs_err_errno(err, r, "%s", model);
	r = stfs_journal_open(&journal, folder_fd, model, owner, err);
	if (r == -ENOENT)
		return 0;
	if (r == -EBADMSG) { /* not even its head was finished: then nothing else was begun */
		r = stfs_journal_end(&journal);
		*what = STFS_RECOVERED_OLD;
	} else if (r == 0) {
		r = open_all(&journal, &fds, err);
		*what = journal.recorded ? STFS_RECOVERED_NEW : STFS_RECOVERED_OLD;
		if (r == 0)
			r = settle(&journal, fds);
		if (r == 0)
			r = journal.recorded ? go_on(&journal, fds, err)
					     : take_back(&journal, fds, err);
	}
	if (fds)
		close_all(fds, journal.count);
	stfs_journal_close(&journal);
	if (r < 0 && err && err->code != r)
		stfs_err_errno(err, r, "%s: the interrupted commit could not be finished; it can "
			       "be tried again", model);
	return r;
}
