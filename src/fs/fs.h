/* SPDX-License-Identifier: MIT */
/*
 * A mounted model: the directory of DESIGN section 3 over the tree of the store (store/tree.h). What
 * inode numbers mean, and why the kernel may keep what it learned, is in docs/writing.md.
 *
 * Locks, outermost first: drafts_lock (fs/draft.h); the tree's lock and, under it, its stripes (store/tree.h);
 * handles_lock; that of the sync thread (fs/sync.c), which the tree's on_change takes once the tree's lock is released,
 * mostly with drafts_lock held; the arena's (store/arena.h). The notifier's is taken alone. The kernel is told to forget
 * something when none of them is held (fs/notify.h).
 */
#ifndef STFS_FS_FS_H
#define STFS_FS_FS_H

#include <pthread.h>
#include <stdatomic.h>

#include "format/names.h"
#include "fs/fuse.h"
#include "fs/options.h"
#include "store/tree.h"

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

struct stfs_draft;
struct stfs_notify;
struct stfs_sync;

/* Texts that did not parse, for .stfs: the last of them. */
#define STFS_REFUSED_MOST 16
struct stfs_refused {
	char *file, *why; /* owned */
};

struct stfs_fs {
	const struct stfs_options *options; /* borrowed */
	struct stfs_tree *tree;             /* owned */
	char *model_path, *mountpoint;      /* owned: absolute, for the status file */
	char *readonly_because;             /* owned: why it is, though nobody asked; or NULL */
	/* A byte a node: tensors seen to be mapped or read in small pieces, whose later opens use
	 * the page cache (facts: direct I/O loses there). Those that came later have none. */
	_Atomic unsigned char *prefers_cache; /* owned */
	uint32_t prefers_count;
	pthread_mutex_t handles_lock;
	struct stfs_handle *handles; /* owned: all that are open; guarded by handles_lock */
	pthread_mutex_t drafts_lock;
	pthread_cond_t drafts_idle;  /* a draft is not busy any more */
	struct stfs_draft *drafts;   /* owned: what is being written; guarded by drafts_lock */
	struct stfs_refused refused[STFS_REFUSED_MOST]; /* guarded by drafts_lock */
	unsigned refused_count;
	uid_t uid;
	gid_t gid;
	mode_t file_mode;
	_Atomic mode_t dir_mode, metadata_mode; /* as somebody has set them since the mount */
	struct timespec mounted;
	/* Files that were written and closed, but whose release has not come: or they are open elsewhere. */
	_Atomic unsigned flushed;
	_Atomic uint64_t writes; /* requests that came */
	_Atomic uint64_t listed; /* generation of the directory when it was listed last */
	/* Set while INIT is answered, before any other request comes. */
	_Atomic bool direct_io_mmap;
	_Atomic bool parallel_dirops;
	_Atomic int wake_fd; /* of the watch (fs/watch.h), borrowed; -1 while there is none */
	_Atomic uint64_t failed_replies; /* the model was cut short under a reply */
	struct stfs_notify *notify; /* borrowed from the session; NULL: nobody to tell */
	struct stfs_sync *sync;     /* borrowed from the session; NULL before and after */
	void (*ready)(void *data);       /* called once, when the kernel has sent INIT */
	void *ready_data;
};

/* Opens the model and prepares all that the directory needs. 0 or -errno with `err`. */
int stfs_fs_open(struct stfs_fs *fs, const struct stfs_options *options, struct stfs_err *err);
void stfs_fs_close(struct stfs_fs *fs);

static inline bool stfs_fs_writable(const struct stfs_fs *fs)
{
	return stfs_tree_mode(fs->tree) != STFS_TREE_RO;
}

static inline fuse_ino_t stfs_fs_ino(uint32_t number, enum stfs_form form)
{
	return STFS_INO_FIRST + 4 * (fuse_ino_t)number + (fuse_ino_t)form;
}

/*
 * How long an entry is true. That of __metadata__.json is looked up each time: renamed, as editors make backups, it is another
 * file, while the number stays that of the metadata.
 */
static inline double stfs_fs_entry_timeout(const struct stfs_fs *fs, fuse_ino_t ino)
{
	return ino == STFS_INO_METADATA && stfs_fs_writable(fs) ? 0 : STFS_FOREVER;
}

/*
 * The form and number that an inode number stands for: of a node for the raw form, else of a name. False
 * for the special ones.
 */
bool stfs_fs_split(fuse_ino_t ino, uint32_t *number, enum stfs_form *form);

/*
 * Whether a tensor of this type has a .npy: sub-byte types have none, nor have shapes of more
 * dimensions than this (NumPy opens at most 64), whose .npy header would cost memory for nothing, nor
 * bytes that are no whole tensor.
 */
#define STFS_NPY_RANK_MOST (1u << 16)
bool stfs_fs_has_npy(const struct stfs_typing_view *typing);

/* A file name of the directory: kind and, for the forms of a tensor, the name's number. */
struct stfs_target {
	enum stfs_file_kind kind;
	struct stfs_str file, stem;
	uint32_t name; /* STFS_NO_NUMBER for the other kinds, and for one that was never in use */
	uint32_t node; /* of a tensor, a scratch file: the one that is there; else STFS_NO_NUMBER */
};
/* With the tree held. 0; -EINVAL, -EILSEQ, -ENAMETOOLONG. */
int stfs_fs_target(struct stfs_fs *fs, const char *name, struct stfs_target *target);

/* lookup.c, with the tree held: the inode of a name in the directory. 0; -ENOENT; as stfs_fs_target(). */
int stfs_fs_lookup(struct stfs_fs *fs, const char *name, fuse_ino_t *ino);
/* Counts that the kernel has heard of it once more. */
void stfs_fs_know(struct stfs_fs *fs, fuse_ino_t ino);
/* That it has forgotten it so many times. Takes the tree. */
void stfs_fs_forget(struct stfs_fs *fs, fuse_ino_t ino, uint64_t times);

/*
 * attr.c, with the tree held and drafts_lock: fills `st` for an inode, and how long it is true. 0, -ESTALE
 * when nobody has the name any more, -ENOMEM.
 */
int stfs_fs_stat(struct stfs_fs *fs, fuse_ino_t ino, struct stat *st, double *timeout);
/* The same for an entry, whose inode is known once more. Takes both locks. */
int stfs_fs_entry(struct stfs_fs *fs, fuse_ino_t ino, struct fuse_entry_param *entry);

/* content.c: what is made up rather than read. Append to `out`; 0 or -ENOMEM. */
int stfs_fs_sidecar(const struct stfs_typing_view *typing, struct stfs_buf *out);
int stfs_fs_sidecar_len(const struct stfs_typing_view *typing, uint64_t *len);
int stfs_fs_npy_header(const struct stfs_typing_view *typing, struct stfs_buf *out);

/* status.c: the text of .stfs. Appends to `out`; 0 or -ENOMEM. */
int stfs_fs_status(struct stfs_fs *fs, struct stfs_buf *out);

/* handle.c: frees the handles whose release did not come before the session ended. */
void stfs_fs_close_handles(struct stfs_fs *fs);

/* read.c: the model was cut short under a reader. Counts it, and says so once in the log. */
void stfs_fs_note_cut(struct stfs_fs *fs);

/* The requests; each says at its definition what it may reply. */
void stfs_fs_op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void stfs_fs_op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
		       struct fuse_file_info *fi);
void stfs_fs_op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void stfs_fs_op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void stfs_fs_op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
		     struct fuse_file_info *fi);
void stfs_fs_op_write(fuse_req_t req, fuse_ino_t ino, const char *bytes, size_t size, off_t offset,
		      struct fuse_file_info *fi);
void stfs_fs_op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *st, int which,
			struct fuse_file_info *fi);
void stfs_fs_op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t len,
			  struct fuse_file_info *fi);
void stfs_fs_op_copy_file_range(fuse_req_t req, fuse_ino_t in, off_t in_at, struct fuse_file_info *in_fi,
				fuse_ino_t out, off_t out_at, struct fuse_file_info *out_fi, size_t len,
				int flags);
void stfs_fs_op_fsync(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *fi);
void stfs_fs_op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *fi);
void stfs_fs_op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void stfs_fs_op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
		       const char *new_name, unsigned flags);
void stfs_fs_op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t device);
void stfs_fs_op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void stfs_fs_op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
			struct fuse_file_info *fi);
void stfs_fs_op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
			    struct fuse_file_info *fi);
void stfs_fs_op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size);
void stfs_fs_op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size);

#endif
