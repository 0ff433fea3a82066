/* SPDX-License-Identifier: MIT */
/*
 * The files that edits take bytes from. They must stay open and as they are until the commit, and a
 * batch may name ten thousand of them: small ones are copied into the edit's spool once some are
 * open, and all are when descriptors run short.
 */
#ifndef STFS_OPS_INTAKE_H
#define STFS_OPS_INTAKE_H

#include "store/edit.h"

struct stfs_intake {
	int *fds; /* owned, and so are the descriptors */
	size_t count, room;
	size_t max; /* 0 until the limit was asked for */
};

/* Bytes that an edit can take. */
struct stfs_bytes {
	struct stfs_source source;
	uint64_t len;
};

/*
 * Opens `path`, "-" being standard input, which is spooled, as everything is that is no regular
 * file or is a file of the model itself. *bytes is good until the edit is closed and the intake
 * freed. 0 or -errno, `err` beginning with the path.
 */
int stfs_intake_open(struct stfs_intake *intake, struct stfs_edit *edit, const char *path,
		     struct stfs_bytes *bytes, struct stfs_err *err);
void stfs_intake_free(struct stfs_intake *intake);

#endif
