/* SPDX-License-Identifier: MIT */
/*
 * A folder of tensors as files, as a mounted model shows itself (format/names.h) and `cp` or rsync
 * copy it: NAME with NAME.json beside it, or NAME.npy, and __metadata__.json. Scratch files are
 * left out.
 */
#ifndef STFS_OPS_FOLDER_H
#define STFS_OPS_FOLDER_H

#include "base/err.h"
#include "ops/staged.h"

struct stfs_folder_item {
	size_t name; /* number in `names`: of the tensor */
	char *path;  /* owned: its bytes */
	bool is_npy;
	char *sidecar; /* owned: of a .npy file; it may not be there. Else NULL */
};

struct stfs_folder {
	struct stfs_folder_item *items; /* owned */
	size_t count, room;
	struct stfs_names names;
	char *metadata; /* owned: path of __metadata__.json, NULL when there is none */
};

enum stfs_folder_order {
	STFS_FOLDER_NATURAL,   /* of the names: that in which a disk lists files is nobody's order */
	STFS_FOLDER_AS_LISTED, /* of a mount: it lists tensors in the model's order */
};

/*
 * Reads the folder. 0; -EINVAL for a file that cannot be a tensor (its name is no encoded one; it
 * has neither sidecar nor .npy; a folder); -errno; `err` beginning with the path. To be freed in
 * every case.
 */
int stfs_folder_read(const char *path, enum stfs_folder_order order, struct stfs_folder *folder,
		     struct stfs_err *err);
void stfs_folder_free(struct stfs_folder *folder);

#endif
