/* SPDX-License-Identifier: MIT */
#include "store/shard.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "base/log.h"

static int open_file(struct stfs_shard *shard, int folder_fd, const char *name)
{
	/* O_NONBLOCK: a pipe in a model's place must not hang us. It means nothing to a file. */
	shard->fd = openat(folder_fd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (shard->fd < 0)
		return -errno;
	if (fstat(shard->fd, &shard->st) < 0)
		return -errno;
	if (S_ISDIR(shard->st.st_mode))
		return -EISDIR;
	if (!S_ISREG(shard->st.st_mode))
		return -EINVAL;
	shard->size = shard->known_size = (uint64_t)shard->st.st_size;
	shard->mtime = shard->st.st_mtim;
	shard->ctime = shard->st.st_ctim;
	return 0;
}

static int read_header(struct stfs_shard *shard)
{
	unsigned char word[STFS_LENGTH_WORD];
	STFS_AUTO_FREE char *text = NULL;
	uint32_t text_len;
	ssize_t got;
	int r;

	got = stfs_io_pread_full(shard->fd, word, sizeof(word), 0);
	if (got < 0)
		return shard->status = (int)got;
	r = stfs_header_length(word, (size_t)got, shard->size, &text_len, &shard->findings);
	if (r < 0)
		return r == -EBADMSG ? 0 : r;
	text = malloc(text_len ? text_len : 1);
	if (!text)
		return -ENOMEM;
	got = stfs_io_pread_full(shard->fd, text, text_len, STFS_LENGTH_WORD);
	if (got < 0)
		return shard->status = (int)got;
	if (got < (ssize_t)text_len) /* cut short since the fstat */
		return shard->status = -EIO;
	return stfs_header_read(stfs_steal_ptr(&text), text_len,
				shard->size - STFS_LENGTH_WORD - text_len, &shard->header,
				&shard->findings);
}

int stfs_shard_open(struct stfs_shard *shard, int folder_fd, const char *name)
{
	int r;

	*shard = (struct stfs_shard){.fd = -1};
	pthread_mutex_init(&shard->lock, NULL);
	shard->name = strdup(name);
	if (!shard->name) {
		stfs_shard_close(shard);
		return -ENOMEM;
	}
	shard->status = open_file(shard, folder_fd, name);
	if (shard->status < 0)
		return 0;
	r = read_header(shard);
	if (r < 0 && r == shard->status)
		return 0;
	if (r < 0)
		stfs_shard_close(shard);
	return r;
}

void stfs_shard_close(struct stfs_shard *shard)
{
	stfs_mapping_close(&shard->mapping);
	stfs_header_free(shard->header);
	stfs_findings_free(&shard->findings);
	if (shard->fd >= 0)
		close(shard->fd);
	free(shard->name);
	pthread_mutex_destroy(&shard->lock);
	shard->name = NULL;
	shard->header = NULL;
	shard->fd = -1;
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

/* The file's times moved: judges it anew. The lock is held. */
static int recheck(struct stfs_shard *shard, const struct stat *st)
{
	int r = same_header(shard);

	if (r < 0)
		return r;
	if (r == 0) {
		shard->stale = true;
		stfs_log(STFS_LOG_ERROR, "%s: its header was changed by another program; "
			 "reads are refused (ESTALE): mount it again", shard->name);
		return -ESTALE;
	}
	/* Only the data: say so, for the caches, unless no more than the inode changed (chmod). */
	r = !same_time(st->st_mtim, shard->mtime) || (uint64_t)st->st_size != shard->known_size;
	shard->mtime = st->st_mtim;
	shard->ctime = st->st_ctim;
	shard->known_size = (uint64_t)st->st_size;
	shard->touched += (unsigned)r;
	return r;
}

int stfs_shard_check(struct stfs_shard *shard)
{
	struct stat st;
	int r = 0;

	if (fstat(shard->fd, &st) < 0)
		return -errno;
	pthread_mutex_lock(&shard->lock);
	if (shard->stale)
		r = -ESTALE;
	else if (!same_time(st.st_mtim, shard->mtime) || !same_time(st.st_ctim, shard->ctime) ||
		 (uint64_t)st.st_size != shard->known_size)
		r = recheck(shard, &st);
	pthread_mutex_unlock(&shard->lock);
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
