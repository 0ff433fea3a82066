/* SPDX-License-Identifier: MIT */
#include "store/shard.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "base/log.h"
#include "store/checkpoint.h"
#include "store/resolve.h"

/* A duplicate shares the lock of what it was made of. */
static int duplicate(struct stfs_shard *shard, int given)
{
	shard->fd = fcntl(given, F_DUPFD_CLOEXEC, 3);
	return shard->fd < 0 || fstat(shard->fd, &shard->st) < 0 ? -errno : 0;
}

static int open_file(struct stfs_shard *shard, int folder_fd, const char *name, unsigned flags,
		     int given)
{
	int r = given >= 0 ? duplicate(shard, given)
			   : stfs_resolve_open(folder_fd, name, flags, &shard->fd, &shard->st,
					       &shard->irregular);

	if (r < 0)
		return r;
	shard->size = shard->known_size = (uint64_t)shard->st.st_size;
	shard->mtime = shard->st.st_mtim;
	shard->ctime = shard->st.st_ctim;
	return 0;
}

/* What is wrong with the file goes to status and findings; 0, -ENOMEM or the like. */
static int read_header(struct stfs_shard *shard)
{
	unsigned char head[STFS_CHECKPOINT_HEAD];
	STFS_AUTO_FREE char *text = NULL;
	uint32_t text_len;
	ssize_t got;
	int r;

	got = stfs_io_pread_full(shard->fd, head, sizeof(head), 0);
	if (got < 0) {
		shard->status = (int)got;
		return 0;
	}
	if (stfs_checkpoint_is(head, (size_t)got)) {
		r = stfs_checkpoint_open(shard, head);
		if (r < 0 || shard->torch)
			return r;
	}
	r = stfs_header_length(head, stfs_min_u64((uint64_t)got, STFS_LENGTH_WORD), shard->size, &text_len,
			       &shard->findings);
	if (r < 0)
		return r == -EBADMSG ? 0 : r;
	text = malloc(text_len ? text_len : 1);
	if (!text)
		return -ENOMEM;
	got = stfs_io_pread_full(shard->fd, text, text_len, STFS_LENGTH_WORD);
	if (got < (ssize_t)text_len) {
		shard->status = got < 0 ? (int)got : -EIO; /* cut short since the fstat */
		return 0;
	}
	return stfs_header_read(stfs_steal_ptr(&text), text_len,
				shard->size - STFS_LENGTH_WORD - text_len, &shard->header,
				&shard->findings);
}

int stfs_shard_open(struct stfs_shard *shard, int folder_fd, const char *name, unsigned flags,
		    int given)
{
	int r;

	*shard = (struct stfs_shard){.fd = -1};
	pthread_mutex_init(&shard->lock, NULL);
	pthread_cond_init(&shard->checked, NULL);
	shard->name = strdup(name);
	if (!shard->name) {
		stfs_shard_close(shard);
		return -ENOMEM;
	}
	shard->status = open_file(shard, folder_fd, name, flags, given);
	if (shard->status < 0)
		return 0;
	r = read_header(shard);
	if (r < 0)
		stfs_shard_close(shard);
	return r;
}

void stfs_shard_let_go(struct stfs_shard *shard)
{
	stfs_mapping_close(&shard->mapping); /* it holds the file, and so the lock */
	if (shard->fd >= 0)
		close(stfs_steal_fd(&shard->fd));
}

void stfs_shard_close(struct stfs_shard *shard)
{
	stfs_checkpoint_close(shard);
	stfs_shard_let_go(shard);
	stfs_header_free(shard->header);
	stfs_findings_free(&shard->findings);
	free(shard->name);
	pthread_cond_destroy(&shard->checked);
	pthread_mutex_destroy(&shard->lock);
	shard->name = NULL;
	shard->header = NULL;
}

void stfs_shard_map(struct stfs_shard *shard)
{
	stfs_mapping_open(&shard->mapping, shard->fd, shard->size);
}

/* Whether the file still begins with the header in memory: 1 yes, 0 no, -errno. */
static int same_header(const struct stfs_shard *shard)
{
	const struct stfs_header *header = shard->header;
	char piece[64 * 1024];
	uint64_t done = 0, len;
	ssize_t got;

	if (shard->torch)
		return stfs_checkpoint_same(shard);
	got = stfs_io_pread_full(shard->fd, piece, STFS_LENGTH_WORD, 0);
	if (got < 0)
		return (int)got;
	if (got != STFS_LENGTH_WORD || stfs_load_le64(piece) != header->text_len)
		return 0;
	while (done < header->text_len) {
		len = stfs_min_u64(sizeof(piece), header->text_len - done);
		got = stfs_io_pread_full(shard->fd, piece, len, STFS_LENGTH_WORD + done);
		if (got < 0)
			return (int)got;
		if ((uint64_t)got != len || memcmp(piece, header->text + done, len) != 0)
			return 0;
		done += len;
	}
	return 1;
}

static bool same_time(struct timespec a, struct timespec b)
{
	return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

/* Whether the file's times and size are those of the last check. The lock is held. */
static bool as_known(const struct stfs_shard *shard, const struct stat *st)
{
	return same_time(st->st_mtim, shard->mtime) && same_time(st->st_ctim, shard->ctime) &&
	       (uint64_t)st->st_size == shard->known_size;
}

/* At every transition, the lock held: what was stale before still is (S2), one compares (S3). */
static void shard_assert(const struct stfs_shard *shard, bool was_stale)
{
	assert(shard->stale || !was_stale);
	assert(shard->checks_begun - shard->checks_ended == (shard->checking ? 1 : 0));
	(void)shard;
	(void)was_stale;
}

/* Compares the header, without the lock meanwhile; `st` is of just before. 1 or 0 or -errno. */
static int recheck(struct stfs_shard *shard, const struct stat *st)
{
	bool was_stale = shard->stale, data_changed = false;
	int same;

	shard->checking = true;
	shard->checks_begun++;
	shard_assert(shard, was_stale);
	pthread_mutex_unlock(&shard->lock);
	same = same_header(shard);
	pthread_mutex_lock(&shard->lock);
	shard->checking = false;
	shard->checks_ended++;
	shard->last_check = same < 0 ? same : 0;
	if (same == 0) {
		shard->stale = true;
		shard->last_check = -ESTALE;
	} else if (same == 1) {
		/* The data, for all we know: a program may put the old mtime back, and then only the
		 * ctime tells. A mere chmod costs some kept pages. */
		data_changed = true;
		/* What changed since `st` was taken will differ from it again. */
		shard->mtime = st->st_mtim;
		shard->ctime = st->st_ctim;
		shard->known_size = (uint64_t)st->st_size;
		shard->touched += data_changed ? 1 : 0;
	}
	shard_assert(shard, was_stale);
	pthread_cond_broadcast(&shard->checked);
	return shard->last_check < 0 ? shard->last_check : data_changed;
}

/* The file's times have moved. The lock is held. */
static int check_anew(struct stfs_shard *shard)
{
	uint64_t enough = shard->checks_begun + 1; /* the first comparison that begins from now on */
	struct stat st;

	while (shard->checking && shard->checks_ended < enough)
		pthread_cond_wait(&shard->checked, &shard->lock);
	if (shard->stale)
		return -ESTALE;
	if (shard->checks_ended >= enough)
		return shard->last_check;
	/* Again, under the lock: what was found without it may be older than what is known now. */
	if (fstat(shard->fd, &st) < 0)
		return -errno;
	return as_known(shard, &st) ? 0 : recheck(shard, &st);
}

int stfs_shard_check(struct stfs_shard *shard)
{
	struct stat st;
	bool stale;
	int r = 0;

	if (fstat(shard->fd, &st) < 0)
		return -errno;
	pthread_mutex_lock(&shard->lock);
	if (shard->stale)
		r = -ESTALE;
	else if (!as_known(shard, &st))
		r = check_anew(shard);
	stale = shard->stale && !shard->told_stale;
	shard->told_stale |= stale;
	pthread_mutex_unlock(&shard->lock);
	if (stale)
		stfs_log(STFS_LOG_ERROR, "%s: its header was changed by another program; "
			 "reads are refused (ESTALE): mount it again", shard->name);
	return r;
}

struct stfs_shard_view stfs_shard_view(struct stfs_shard *shard)
{
	struct stfs_shard_view view;

	pthread_mutex_lock(&shard->lock);
	view = (struct stfs_shard_view){.mtime = shard->mtime, .ctime = shard->ctime,
					.size = shard->known_size, .touched = shard->touched,
					.stale = shard->stale};
	pthread_mutex_unlock(&shard->lock);
	return view;
}
