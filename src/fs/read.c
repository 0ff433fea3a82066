/* SPDX-License-Identifier: MIT */
/*
 * Reading. Small requests are copied by pread; large ones are answered straight from the mapping of
 * the model, which the kernel copies from and we never touch (store/mapping.h).
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/uio.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "fs/handle.h"
#include "fs/watch.h"

/* Up to here a cold read is cheaper by pread than by faults in the mapping (facts). */
#define COPY_MOST (64u << 10)
/* Threads may have small stacks (ulimit -s, musl): only so much of a copy stands there. */
#define COPY_STACK (16u << 10)
/* So many small reads in sequence, and the page cache would have served them better. */
#define SMALL_READ (32u << 10)
#define SMALL_READS_MOST 256

/* Notes readers that direct I/O serves badly; their next open uses the page cache. */
static void learn(struct stfs_fs *fs, struct stfs_handle *handle, size_t size, uint64_t offset,
		  const struct fuse_file_info *fi)
{
	if (fs->options->cache != STFS_CACHE_AUTO || handle->node >= fs->prefers_count)
		return;
	if (fi->lock_owner == 0) { /* a fill of the page cache: the file is mapped */
		fs->prefers_cache[handle->node] = 1;
		return;
	}
	if (size > SMALL_READ || atomic_exchange(&handle->next, offset + size) != offset)
		atomic_store(&handle->small, 0);
	else if (atomic_fetch_add(&handle->small, 1) >= SMALL_READS_MOST)
		fs->prefers_cache[handle->node] = 1;
}

/* `head` from the made-up bytes, then `len` of the node at `offset`, copied. The tree is held. */
static void reply_copied(fuse_req_t req, struct stfs_fs *fs, const struct stfs_handle *handle,
			 struct stfs_str head, uint64_t offset, size_t len)
{
	char small[COPY_STACK];
	STFS_AUTO_FREE char *large = NULL;
	char *buffer = small;
	ssize_t got;

	if (head.len + len > sizeof(small)) {
		buffer = large = malloc(head.len + len);
		if (!large) {
			fuse_reply_err(req, ENOMEM);
			return;
		}
	}
	if (head.len)
		memcpy(buffer, head.ptr, head.len);
	got = stfs_tree_pread(fs->tree, handle->node, buffer + head.len, len, offset);
	if (got == -EIO)
		stfs_fs_note_cut(fs);
	if (got < 0)
		fuse_reply_err(req, (int)-got);
	else
		fuse_reply_buf(req, buffer, head.len + (size_t)got);
}

static void reply_mapped(fuse_req_t req, struct stfs_mapping *mapping, struct stfs_str head,
			 const char *address, size_t len)
{
	struct iovec parts[2] = {
		{.iov_base = (void *)(uintptr_t)head.ptr, .iov_len = head.len},
		{.iov_base = (void *)(uintptr_t)address, .iov_len = len},
	};
	bool skip = head.len == 0;

	/* Once it is answered, the reader may close the file and another thread free the handle. */
	fuse_reply_iov(req, parts + skip, 2 - skip);
	stfs_mapping_release(mapping, len);
}

void stfs_fs_note_cut(struct stfs_fs *fs)
{
	if (atomic_fetch_add(&fs->failed_replies, 1) == 0)
		stfs_log(STFS_LOG_ERROR, "%s: part of the model cannot be read (EIO): it was cut short by "
			 "another program, or its disk failed; stfs status says what is known", fs->model_path);
}

/* The part of the made-up bytes that is asked for. */
static struct stfs_str part_of(struct stfs_str head, uint64_t from, size_t size)
{
	if (from >= head.len)
		return stfs_str_slice(head.ptr, 0);
	return stfs_str_slice(head.ptr + from, stfs_min_u64(head.len - from, size));
}

/*
 * Whether the model is still what was opened: 0 or -errno. In a writable mount nobody else may write, our own
 * writes move its times all the while, and the watch looks after it.
 */
static int check_model(struct stfs_fs *fs, struct stfs_shard *shard)
{
	int r;

	if (stfs_fs_writable(fs))
		return stfs_shard_view(shard).stale ? -ESTALE : 0;
	r = stfs_shard_check(shard);
	if (r != 0)
		stfs_watch_poke(fs); /* the kernel's attributes are old */
	return r < 0 ? r : 0;
}

/* The bytes of the node behind `head`. The tree is held. */
static void reply_bytes(fuse_req_t req, struct stfs_fs *fs, struct stfs_handle *handle, struct stfs_str head,
			uint64_t from, size_t size)
{
	struct stfs_node_view view = {0};
	const char *address = NULL;
	struct stfs_place place;
	uint64_t len;
	int r = stfs_tree_node(fs->tree, handle->node, &view) ? 0 : -EIO;

	if (r == 0 && view.shard)
		r = check_model(fs, view.shard);
	len = stfs_min_u64(size, view.len - stfs_min_u64(from, view.len));
	if (r == 0 && len)
		r = stfs_tree_place(fs->tree, handle->node, from, len, &place);
	if (r < 0) {
		fuse_reply_err(req, -r);
		return;
	}
	/* The mapping of a file that was cut short goes on with zeros to the end of its last page. */
	if (len && place.mapping && view.shard && !stfs_fs_writable(fs) &&
	    place.offset + place.len > stfs_shard_view(view.shard).size)
		stfs_fs_note_cut(fs);
	else if (len > COPY_MOST && place.mapping && place.len == len)
		address = stfs_mapping_hold(place.mapping, place.offset, len);
	if (address)
		reply_mapped(req, place.mapping, head, address, len);
	else
		reply_copied(req, fs, handle, head, from, len);
}

/* What is being written, as far as it has come. */
static void reply_draft(fuse_req_t req, struct stfs_fs *fs, struct stfs_handle *handle, size_t size, uint64_t from)
{
	STFS_AUTO_FREE char *buffer = malloc(size ? size : 1);
	ssize_t got = -ENOMEM;

	if (buffer)
		got = stfs_draft_read(fs, handle->draft, buffer, size, from);
	if (got < 0)
		fuse_reply_err(req, (int)-got);
	else
		fuse_reply_buf(req, buffer, (size_t)got);
}

/*
 * Replies: buf; EIO (the file was cut short, or cannot be read), ESTALE (its header changed), ENOMEM,
 * and what pread(2) and fstat(2) of the model's file system answer.
 */
void stfs_fs_op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
		     struct fuse_file_info *fi)
{
	struct stfs_fs *fs = fuse_req_userdata(req);
	struct stfs_handle *handle = stfs_handle_of(fi);
	struct stfs_str head = handle->made_up;
	uint64_t from = (uint64_t)offset, data_from;

	if (handle->draft) {
		reply_draft(req, fs, handle, size, from);
		return;
	}
	data_from = from > head.len ? from - head.len : 0;
	head = part_of(head, from, size);
	if (handle->node == STFS_NO_NUMBER) {
		fuse_reply_buf(req, head.ptr, head.len);
		return;
	}
	learn(fs, handle, size, from, fi);
	stfs_tree_hold(fs->tree);
	reply_bytes(req, fs, handle, head, data_from, size - head.len);
	stfs_tree_release(fs->tree);
}
