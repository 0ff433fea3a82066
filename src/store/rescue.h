/* SPDX-License-Identifier: MIT */
/*
 * Edits that could not be committed, kept for later: because the model was changed underneath, say,
 * when they came through a pipe or a mount and nobody else has them.
 *
 * The rescue file stands beside the model, .NAME.stfs-rescue, and is the spool itself, given a name
 * and a header: a valid safetensors file, that any program can open, of the tensors that were added
 * or replaced. Its __metadata__ says the rest, each value being JSON:
 *
 *   stfs.rescue     "1", the version
 *   stfs.remove     names of tensors to be removed: ["a", ...]
 *   stfs.rename     pairs of names: ["was", "is", ...]; all at once, after the removals
 *   stfs.retype     the new types of tensors whose bytes stay: {"name":{"dtype":...,"shape":[...]},...}
 *   stfs.pieces     tensors that there was no room for as a whole: {"name":{"dtype":...,"shape":[...],"pieces":[[F,O,L],...]},
 *                   ...}: L bytes from O of file F on; -1: zeros, 0: this file's data, n: the n-th of the model's files
 *   stfs.base       with those: the hash of the model's headers, without which their bytes are not where that says
 *   stfs.metadata   the whole metadata of the model, an object of strings; only when it was changed
 *   stfs.taken      16 zeros; while the edits are being committed the hash of the headers before that
 *   stfs.padding    how many tensors named "stfs.padding.N" fill up the file: not part of it
 */
#ifndef STFS_STORE_RESCUE_H
#define STFS_STORE_RESCUE_H

#include "store/edit.h"

/*
 * Puts what is staged into the rescue file, durable, in `folder_fd`, which has the spool's file system (-1: beside the
 * model, where it is taken up). Needs no room but for its header, and for new tensors whose bytes are neither in the
 * spool nor in the model; one for which there is none is named in the log as lost, and the others are kept. What is
 * staged stays so, but where its bytes are. 0; -EEXIST when there is one already; -errno.
 */
int stfs_edit_rescue(struct stfs_edit *edit, int folder_fd, struct stfs_err *err);

/* Whether new tensors have bytes that stand nowhere but in the spool, or are in pieces: a mount's. */
bool stfs_edit_needs_rescue(const struct stfs_edit *edit);

/*
 * Stages what the rescue file of the model holds. 1 when there is one, 0 when not, -EPERM when it
 * is not to be believed (as a journal, commit/journal.h); -EUCLEAN when a crash came while it was
 * being committed and the model is another one since: the edits are in it, or it is for a person to
 * say; another -errno with `err` filled and nothing staged that a commit could be made of: the file is then as
 * it was, and waits for the model that it is for.
 */
int stfs_edit_take_up(struct stfs_edit *edit, struct stfs_err *err);

/* Removes the rescue file that was taken up: after the commit. 0 or -errno. */
int stfs_edit_end_rescue(struct stfs_edit *edit, struct stfs_err *err);

#endif
