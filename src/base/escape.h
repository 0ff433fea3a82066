/* SPDX-License-Identifier: MIT */
/*
 * Text that comes from files, made fit for a terminal: nothing is cut (base/err.h's stfs_quote
 * cuts).
 */
#ifndef STFS_BASE_ESCAPE_H
#define STFS_BASE_ESCAPE_H

#include "base/buf.h"

enum stfs_escape_mode {
	STFS_ESCAPE_NAME, /* '"' and '\' too: two names never look the same; what `ls` shows */
	STFS_ESCAPE_LINE, /* a line of our own with quoted names in it: control bytes only */
};

/* Appends `text` with all that stfs_printable() refuses as \xNN. 0 or -ENOMEM. */
int stfs_escape(struct stfs_str text, enum stfs_escape_mode mode, struct stfs_buf *out);

#endif
