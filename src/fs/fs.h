/* SPDX-License-Identifier: MIT */
/*
 * A mounted model: the directory of DESIGN section 3 over a store handle.
 *
 * Inode numbers say all about a file, so that nothing is kept for what the kernel knows and forget
 * needs no answer:
 *   1 the directory, 2 __metadata__.json, 3 .stfs,
 *   16 + 4 * id + form: the tensor with that id as raw bytes, sidecar or .npy (enum stfs_form).
 * Ids are fixed while the model is open (store/model.h), so an inode number never changes its
 * meaning (test: mount/test_directory.py).
 *
 * Everything here is written before the session starts and only read after, but for what is marked
 * atomic and for what the store locks itself.
 */
#ifndef STFS_FS_FS_H
#define STFS_FS_FS_H

#include <pthread.h>
#include <stdatomic.h>

#include "fs/fuse.h"
#include "fs/options.h"
#include "store/model.h"

enum stfs_form { STFS_FORM_RAW, STFS_FORM_SIDECAR, STFS_FORM_NPY };

#define STFS_INO_ROOT FUSE_ROOT_ID
#define STFS_INO_METADATA 2
#define STFS_INO_STATUS 3
#define STFS_INO_FIRST 16

/*
 * The kernel keeps what it learned until it is told otherwise. It takes seconds as a double; this
 * is past every uptime and below every overflow.
 */
#define STFS_FOREVER 1e9

/* A long name, found by the digest in its file name (format/names.h). */
struct stfs_hashed_name {
	char digest[32]; /* hexadecimal, as in the file name */
	uint32_t id;
};

struct stfs_fs {
	const struct stfs_options *options; /* borrowed */
	struct stfs_model *model;           /* owned */
	char *model_path, *mountpoint;      /* owned: absolute, for the status file */
	struct stfs_buf metadata;           /* text of __metadata__.json */
	bool has_metadata;
	struct stfs_hashed_name *hashed; /* owned; by digest */
	size_t hashed_count;
	/* A byte an id: tensors seen to be mapped or read in small pieces, whose later opens use
	 * the page cache (facts: direct I/O loses there). */
	_Atomic unsigned char *prefers_cache; /* owned */
	pthread_mutex_t handles_lock; /* never held together with a shard's lock */
	struct stfs_handle *handles; /* owned: all that are open; guarded by handles_lock */
	uid_t uid;
	gid_t gid;
	mode_t file_mode, dir_mode;
	struct timespec mounted;
	/* Set while INIT is answered, before any other request comes. */
	_Atomic bool direct_io_mmap;
	_Atomic bool parallel_dirops;
	_Atomic int wake_fd; /* of the watch (fs/watch.h), borrowed; -1 while there is none */
	_Atomic uint64_t failed_replies; /* the model was cut short under a reply */
	void (*ready)(void *data);       /* called once, when the kernel has sent INIT */
	void *ready_data;
};

/* Opens the model and prepares all that the directory needs. 0 or -errno with `err`. */
int stfs_fs_open(struct stfs_fs *fs, const struct stfs_options *options, struct stfs_err *err);
void stfs_fs_close(struct stfs_fs *fs);

static inline fuse_ino_t stfs_fs_ino(uint32_t id, enum stfs_form form)
{
	return STFS_INO_FIRST + 4 * (fuse_ino_t)id + (fuse_ino_t)form;
}

/* The tensor and form that an inode number stands for: false for the special ones and unknown. */
bool stfs_fs_node(const struct stfs_fs *fs, fuse_ino_t ino, struct stfs_tensor_ref *ref, uint32_t *id,
		  enum stfs_form *form);

/*
 * Whether the tensor has this form at all: sub-byte types have no .npy, nor have shapes of more
 * dimensions than this (NumPy opens at most 64), whose .npy header would cost memory for nothing.
 */
#define STFS_NPY_RANK_MOST (1u << 16)
bool stfs_fs_has_form(const struct stfs_tensor_ref *ref, enum stfs_form form);

/* attr.c: fills `st` for an inode: 0, -ENOENT, -ENOMEM. */
int stfs_fs_stat(struct stfs_fs *fs, fuse_ino_t ino, struct stat *st);

/* lookup.c: the inode of a name in the directory: 0; -ENOENT; -EINVAL, -EILSEQ, -ENAMETOOLONG. */
int stfs_fs_lookup(struct stfs_fs *fs, const char *name, fuse_ino_t *ino);
int stfs_fs_index_hashed(struct stfs_fs *fs);

/* content.c: what is made up rather than read. Append to `out`; 0 or -ENOMEM. */
int stfs_fs_sidecar(const struct stfs_tensor_ref *ref, struct stfs_buf *out);
int stfs_fs_sidecar_len(const struct stfs_tensor_ref *ref, uint64_t *len);
int stfs_fs_npy_header(const struct stfs_tensor_ref *ref, struct stfs_buf *out);
int stfs_fs_metadata(const struct stfs_model *model, struct stfs_buf *out);

/* status.c: the text of .stfs. Appends to `out`; 0 or -ENOMEM. */
int stfs_fs_status(struct stfs_fs *fs, struct stfs_buf *out);

/* handle.c: frees the handles whose release did not come before the session ended. */
void stfs_fs_close_handles(struct stfs_fs *fs);

/* read.c: the model was cut short under a reader. Counts it, and says so once in the log. */
void stfs_fs_note_cut(struct stfs_fs *fs);

/* The requests; each says at its definition what it may reply. */
void stfs_fs_op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void stfs_fs_op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void stfs_fs_op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
		     struct fuse_file_info *fi);
void stfs_fs_op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void stfs_fs_op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
			struct fuse_file_info *fi);
void stfs_fs_op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
			    struct fuse_file_info *fi);
void stfs_fs_op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size);
void stfs_fs_op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size);

#endif
