/* SPDX-License-Identifier: MIT */
#include "fs/session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "fs/init_reply.h"
#include "fs/watch.h"

/* Fewer starve a second reader, more gain nothing on any machine measured (facts). */
#define THREADS 4

/* No reply of its own: libfuse answers INIT when this returns. */
static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	struct stfs_fs *fs = userdata;

	conn->max_read = fs->options->max_read;
	conn->want |= conn->capable & FUSE_CAP_READDIRPLUS;
	/* Always plus: what the kernel would guess costs a second pass over the directory. */
	conn->want &= ~(unsigned)FUSE_CAP_READDIRPLUS_AUTO;
	/* Our replies are copied from a mapping; a pipe in between is slower. */
	conn->want &= ~(unsigned)(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
	if (fs->ready)
		fs->ready(fs->ready_data);
}

/*
 * Replies: entry; ENOENT, EINVAL, EILSEQ, ENAMETOOLONG, ENOTDIR, ENOMEM. An absent tensor is remembered by the
 * kernel (an entry without an inode), but never an absent .json or .npy: those can come into being
 * without the kernel being told, when their tensor gets a type.
 */
static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct stfs_fs *fs = fuse_req_userdata(req);
	struct fuse_entry_param entry = {.attr_timeout = STFS_FOREVER, .entry_timeout = STFS_FOREVER};
	struct stfs_str file = stfs_str_from(name);
	int r = parent == STFS_INO_ROOT ? stfs_fs_lookup(fs, name, &entry.ino) : -ENOTDIR;

	if (r == 0)
		r = stfs_fs_stat(fs, entry.ino, &entry.attr);
	if (r == 0) {
		fuse_reply_entry(req, &entry);
	} else if (r == -ENOENT && !stfs_str_ends_with(file, ".json") &&
		   !stfs_str_ends_with(file, ".npy")) {
		entry.ino = 0;
		fuse_reply_entry(req, &entry);
	} else {
		fuse_reply_err(req, -r);
	}
}

/* Replies: none. An inode number needs no memory (fs.h). */
static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
	fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	fuse_reply_none(req);
}

/* Replies: attr; ENOENT, ENOMEM. */
static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stfs_fs *fs = fuse_req_userdata(req);
	struct stat st;
	int r = stfs_fs_stat(fs, ino, &st);

	if (r < 0)
		fuse_reply_err(req, -r);
	else
		fuse_reply_attr(req, &st, STFS_FOREVER);
}

/* Replies: statfs, that of the file system below the model; EIO and the like from there. */
static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct stfs_fs *fs = fuse_req_userdata(req);
	struct statvfs st;

	if (fstatvfs(fs->model->shards[0].fd, &st) < 0) {
		fuse_reply_err(req, errno);
		return;
	}
	st.f_files = fs->model->shown;
	st.f_ffree = st.f_favail = 0;
	st.f_namemax = 255;
	fuse_reply_statfs(req, &st);
}

static const struct fuse_lowlevel_ops plain_ops = {
	.init = op_init,
	.lookup = op_lookup,
	.forget = op_forget,
	.forget_multi = op_forget_multi,
	.getattr = op_getattr,
	.statfs = op_statfs,
	.open = stfs_fs_op_open,
	.read = stfs_fs_op_read,
	.release = stfs_fs_op_release,
	.opendir = stfs_fs_op_opendir,
	.readdir = stfs_fs_op_readdir,
	.readdirplus = stfs_fs_op_readdirplus,
};

/* What fuse_session_new() and the kernel hear: ro, the model as source, the type. */
static int session_args(const struct stfs_fs *fs, struct fuse_args *args)
{
	STFS_AUTO_BUF struct stfs_buf list = STFS_BUF_INIT;

	stfs_buf_puts(&list, "ro,subtype=safetensorsfs,fsname=");
	for (const char *p = fs->model_path; *p; p++) {
		if (*p == ',' || *p == '\\')
			stfs_buf_putc(&list, '\\');
		stfs_buf_putc(&list, *p);
	}
	stfs_buf_add_str(&list, stfs_buf_str(&fs->options->fuse));
	if (!stfs_buf_cstr(&list) || fuse_opt_add_arg(args, "safetensorsfs") < 0 ||
	    fuse_opt_add_arg(args, "-o") < 0 || fuse_opt_add_arg(args, list.data) < 0 ||
	    (fs->options->debug && fuse_opt_add_arg(args, "-d") < 0))
		return -ENOMEM;
	return 0;
}

/* Says beforehand what libfuse would only print. */
static int check_device(struct stfs_err *err)
{
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	int r = fd < 0 ? -errno : 0;

	if (fd >= 0)
		close(fd);
	if (r == 0 || r == -EMFILE || r == -ENFILE)
		return 0;
	return stfs_err_errno(err, r, "cannot use /dev/fuse (the same without a mount: stfs ls, "
			      "stfs cat, stfs info; in a container pass --device /dev/fuse)");
}

int stfs_session_mount(struct stfs_fs *fs, struct fuse_session **session, struct stfs_err *err)
{
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	struct fuse_lowlevel_ops ops = plain_ops;
	int r = check_device(err);

	if (r < 0)
		return r;
	if (fs->options->xattr) {
		ops.getxattr = stfs_fs_op_getxattr;
		ops.listxattr = stfs_fs_op_listxattr;
	}
	r = session_args(fs, &args);
	*session = r == 0 ? fuse_session_new(&args, &ops, sizeof(ops), fs) : NULL;
	fuse_opt_free_args(&args);
	if (!*session)
		return stfs_err_errno(err, r < 0 ? r : -EINVAL, "libfuse refused the mount options");
	stfs_init_reply_bind(fs);
	if (fuse_set_signal_handlers(*session) < 0) {
		fuse_session_destroy(*session);
		return stfs_err_set(err, -EIO, STFS_NO_POSITION, "cannot set signal handlers");
	}
	errno = 0;
	if (fuse_session_mount(*session, fs->mountpoint) < 0) {
		r = errno ? -errno : -EPERM;
		fuse_remove_signal_handlers(*session);
		fuse_session_destroy(*session);
		return stfs_err_set(err, r, STFS_NO_POSITION, "%s: cannot mount here (libfuse says why above)",
				    fs->mountpoint);
	}
	r = stfs_init_reply_attach(*session);
	if (r < 0) {
		fuse_session_unmount(*session);
		fuse_remove_signal_handlers(*session);
		fuse_session_destroy(*session);
		return stfs_err_errno(err, r, "libfuse refused its I/O functions");
	}
	return 0;
}

static int serve_threaded(struct fuse_session *session)
{
	struct fuse_loop_config *config = fuse_loop_cfg_create();
	int r;

	if (!config)
		return -ENOMEM;
	fuse_loop_cfg_set_max_threads(config, THREADS);
	fuse_loop_cfg_set_idle_threads(config, THREADS);
	r = fuse_session_loop_mt(session, config);
	fuse_loop_cfg_destroy(config);
	return r;
}

int stfs_session_serve(struct stfs_fs *fs, struct fuse_session *session)
{
	struct stfs_watch watch;
	int r;

	stfs_watch_start(&watch, fs, session);
	if (fs->options->single_thread) {
		r = fuse_session_loop(session);
	} else {
		r = serve_threaded(session);
	}
	stfs_watch_stop(&watch);
	fuse_session_unmount(session);
	fuse_remove_signal_handlers(session);
	fuse_session_destroy(session);
	return r > 0 ? 0 : r; /* positive: the signal that ended it */
}
