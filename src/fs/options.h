/* SPDX-License-Identifier: MIT */
/* The command line of the mount helper: what FUSE users expect, and what mount(8) passes on. */
#ifndef STFS_FS_OPTIONS_H
#define STFS_FS_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/err.h"

enum stfs_view { STFS_VIEW_RAW, STFS_VIEW_NPY, STFS_VIEW_BOTH };
enum stfs_cache { STFS_CACHE_AUTO, STFS_CACHE_ALWAYS, STFS_CACHE_NEVER };

struct stfs_options {
	char *model;      /* owned */
	char *mountpoint; /* owned */
	char *log_file;   /* owned, or NULL */
	enum stfs_view view;
	enum stfs_cache cache;
	bool read_only, cow, create, overwrite, force; /* how it is written: docs/writing.md */
	bool asked_rw; /* by a person: mount(8) passes rw though nobody chose it */
	bool staged;         /* every overwrite waits for a commit */
	bool ignore_readers; /* bytes may move under other programs that have the model open */
	unsigned autosync, autosync_max; /* milliseconds; 0: never */
	uint64_t spool_limit; /* bytes of the spool after which a commit is due; 0: none */
	char *spool;          /* owned: the folder for the spool; NULL: that of the model */
	bool hide_sidecars;
	bool xattr;
	bool allow_other;
	bool uid_set, gid_set, fmask_set, dmask_set;
	uid_t uid;
	gid_t gid;
	mode_t fmask, dmask;
	unsigned max_read; /* bytes of a request at the most, 0: as the kernel likes */
	bool foreground, debug, single_thread;
	bool help, version;
	bool fake;    /* mount(8) -f: do all but mount */
	bool verbose; /* mount(8) -v */
	bool helper;  /* called as mount.TYPE by mount(8) */
	struct stfs_buf fuse; /* options for libfuse and the kernel, comma-separated */
};

/*
 * Parses `argv`. Called as mount.TYPE (by mount(8)), the flags mean what mount(8) means by them and
 * paths are expanded (fs/expand.h). 0; -EINVAL with a line in `err` that names the word; -ENOMEM.
 * `options` is to be freed in every case.
 */
int stfs_options_parse(int argc, char **argv, struct stfs_options *options, struct stfs_err *err);
void stfs_options_free(struct stfs_options *options);

/* The text of --help, without a trailing blank line. */
extern const char stfs_options_help[];

#endif
