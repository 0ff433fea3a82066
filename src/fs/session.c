/* SPDX-License-Identifier: MIT */
#include "fs/session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "fs/init_reply.h"
#include "base/arith.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "fs/handle.h"
#include "fs/notify.h"
#include "fs/signals.h"
#include "fs/sync.h"
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

/* What a name stands for, with a reference to it. */
static int find_entry(struct stfs_fs *fs, const char *name, struct fuse_entry_param *entry)
{
	int r;

	pthread_mutex_lock(&fs->drafts_lock);
	stfs_tree_hold(fs->tree);
	r = stfs_fs_lookup(fs, name, &entry->ino);
	if (r == 0)
		r = stfs_fs_stat(fs, entry->ino, &entry->attr, &entry->attr_timeout);
	if (r == 0)
		stfs_fs_know(fs, entry->ino);
	stfs_tree_release(fs->tree);
	pthread_mutex_unlock(&fs->drafts_lock);
	entry->entry_timeout = stfs_fs_entry_timeout(fs, entry->ino);
	return r == -ESTALE ? -ENOENT : r;
}

/*
 * Replies: entry; ENOENT, EINVAL, EILSEQ, ENAMETOOLONG, ENOTDIR, ENOMEM. An absent tensor is remembered by the
 * kernel (an entry without an inode) in a read-only mount, but never an absent .json or .npy, nor in a writable
 * one anything: they can come into being without the kernel being told.
 */
static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct stfs_fs *fs = fuse_req_userdata(req);
	struct fuse_entry_param entry = {0};
	struct stfs_str file = stfs_str_from(name);
	int r = parent == STFS_INO_ROOT ? find_entry(fs, name, &entry) : -ENOTDIR;

	if (r == 0) {
		fuse_reply_entry(req, &entry);
	} else if (r == -ENOENT && !stfs_fs_writable(fs) && !stfs_str_ends_with(file, ".json") &&
		   !stfs_str_ends_with(file, ".npy")) {
		entry = (struct fuse_entry_param){.entry_timeout = STFS_FOREVER};
		fuse_reply_entry(req, &entry);
	} else {
		fuse_reply_err(req, -r);
	}
}

/* Replies: none. */
static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
	stfs_fs_forget(fuse_req_userdata(req), ino, nlookup);
	fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	for (size_t i = 0; i < count; i++)
		stfs_fs_forget(fuse_req_userdata(req), forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(req);
}

/* Replies: attr; ESTALE (nobody has that name any more: the kernel looks it up again), ENOMEM. */
static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stfs_fs *fs = fuse_req_userdata(req);
	double timeout;
	struct stat st;
	int r;

	pthread_mutex_lock(&fs->drafts_lock);
	stfs_tree_hold(fs->tree);
	r = stfs_fs_stat(fs, ino, &st, &timeout);
	/* A read of a cached file asks first: that goes on, whatever has become of the name. */
	if (r == -ESTALE && fi)
		r = stfs_fs_stat_open(fs, stfs_handle_of(fi), &st, &timeout);
	stfs_tree_release(fs->tree);
	pthread_mutex_unlock(&fs->drafts_lock);
	if (r < 0)
		fuse_reply_err(req, -r);
	else
		fuse_reply_attr(req, &st, timeout);
}

/*
 * Replies: statfs, that of the file system below the model, less what the spool will take once more when it
 * is committed; EIO and the like from there.
 */
static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct stfs_fs *fs = fuse_req_userdata(req);
	const struct stfs_model *model;
	uint64_t promised;
	struct statvfs st;

	if (fstatvfs(stfs_tree_folder(fs->tree), &st) < 0) {
		fuse_reply_err(req, errno);
		return;
	}
	promised = stfs_tree_spooled(fs->tree) / (st.f_frsize ? st.f_frsize : 1);
	st.f_bavail -= stfs_min_u64(st.f_bavail, promised);
	st.f_bfree -= stfs_min_u64(st.f_bfree, promised);
	stfs_tree_hold(fs->tree);
	model = stfs_tree_model(fs->tree);
	st.f_files = model ? model->shown : 0;
	stfs_tree_release(fs->tree);
	st.f_ffree = st.f_favail = stfs_fs_writable(fs) ? UINT32_MAX - st.f_files : 0;
	st.f_namemax = 255;
	fuse_reply_statfs(req, &st);
}

/* Replies: EPERM. There are tensors here, and nothing else. */
static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	fuse_reply_err(req, stfs_fs_writable(fuse_req_userdata(req)) ? EPERM : EROFS);
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	fuse_reply_err(req, stfs_fs_writable(fuse_req_userdata(req)) ? EPERM : EROFS);
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	fuse_reply_err(req, stfs_fs_writable(fuse_req_userdata(req)) ? EPERM : EROFS);
}

static const struct fuse_lowlevel_ops plain_ops = {
	.init = op_init,
	.lookup = op_lookup,
	.forget = op_forget,
	.forget_multi = op_forget_multi,
	.getattr = op_getattr,
	.statfs = op_statfs,
	.setattr = stfs_fs_op_setattr,
	.open = stfs_fs_op_open,
	.create = stfs_fs_op_create,
	.read = stfs_fs_op_read,
	.write = stfs_fs_op_write,
	.flush = stfs_fs_op_flush,
	.release = stfs_fs_op_release,
	.fsync = stfs_fs_op_fsync,
	.fsyncdir = stfs_fs_op_fsyncdir,
	.unlink = stfs_fs_op_unlink,
	.rename = stfs_fs_op_rename,
	.mknod = stfs_fs_op_mknod,
	.mkdir = op_mkdir,
	.symlink = op_symlink,
	.link = op_link,
	.fallocate = stfs_fs_op_fallocate,
	.copy_file_range = stfs_fs_op_copy_file_range,
	.opendir = stfs_fs_op_opendir,
	.readdir = stfs_fs_op_readdir,
	.readdirplus = stfs_fs_op_readdirplus,
};

/* What fuse_session_new() and the kernel hear: ro or rw, the model as source, the type. */
static int session_args(const struct stfs_fs *fs, struct fuse_args *args)
{
	STFS_AUTO_BUF struct stfs_buf list = STFS_BUF_INIT;

	stfs_buf_puts(&list, stfs_fs_writable(fs) ? "rw,subtype=safetensorsfs,fsname="
						  : "ro,subtype=safetensorsfs,fsname=");
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
	if (!stfs_fs_writable(fs)) /* nothing can come of a close: not a request each */
		ops.flush = NULL;
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

/* What is pending is committed before the kernel lets go, or after it has: nobody writes any more. */
static int finish(struct stfs_fs *fs)
{
	struct stfs_sync *sync = fs->sync;
	int r = sync ? stfs_sync_finish(sync) : 0;

	fs->sync = NULL;
	stfs_sync_free(sync);
	return r;
}

int stfs_session_serve(struct stfs_fs *fs, struct fuse_session *session)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_signals signals = {0};
	struct stfs_watch watch;
	int r = 0, last;

	stfs_watch_start(&watch, fs, session);
	if (stfs_fs_writable(fs)) {
		fs->notify = stfs_notify_start(session);
		stfs_signals_start(&signals, fs, session);
		fs->sync = stfs_sync_start(fs, &err);
		if (!fs->sync) {
			stfs_log(STFS_LOG_ERROR, "%s", err.message);
			r = err.code;
		}
	}
	if (r == 0)
		r = fs->options->single_thread ? fuse_session_loop(session) : serve_threaded(session);
	stfs_signals_stop(&signals);
	/* It looks at the model, which the end of a commit that got stuck replaces. */
	stfs_watch_stop(&watch);
	/* Before it is waited for, which may be for ever: what is pending is committed by then. */
	(void)stfs_notify_stop(fs->notify, 0);
	last = finish(fs);
	fuse_session_unmount(session);
	stfs_notify_free(fs->notify);
	fs->notify = NULL;
	fuse_remove_signal_handlers(session);
	fuse_session_destroy(session);
	return r > 0 || r == 0 ? last : r; /* positive: the signal that ended it */
}
