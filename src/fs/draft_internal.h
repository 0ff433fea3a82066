/* SPDX-License-Identifier: MIT */
/* What the parts of the drafts share. With drafts_lock held, all of them. */
#ifndef STFS_FS_DRAFT_INTERNAL_H
#define STFS_FS_DRAFT_INTERNAL_H

#include "fs/draft.h"

/* ---- draft.c ---- */

/* Waits, with the lock released, until nobody else changes the draft. */
void stfs_draft_await_idle(struct stfs_fs *fs, const struct stfs_draft *draft);
/* Nobody else changes the draft until stfs_draft_end_busy(), and drafts_lock is not held. */
void stfs_draft_begin_busy(struct stfs_fs *fs, struct stfs_draft *draft);
/* The lock is held again. */
void stfs_draft_end_busy(struct stfs_fs *fs, struct stfs_draft *draft);

/* ---- draft_take.c ---- */

/* Nobody finds it any more; who has it open goes on with it. */
void stfs_draft_unlist(struct stfs_fs *fs, const struct stfs_draft *draft);

#endif
