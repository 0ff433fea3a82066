/* SPDX-License-Identifier: MIT */
/*
 * What mounts and commits that failed have left beside a model: edits in a rescue file
 * (store/rescue.h), and the journal of a commit that was interrupted, or is under way.
 */
#ifndef STFS_OPS_LEFTOVERS_H
#define STFS_OPS_LEFTOVERS_H

#include <stdbool.h>
#include <sys/types.h>

struct stfs_leftovers {
	char *model;      /* owned: the model's file or index, with every link followed */
	char *rescue;     /* owned: path of the rescue file, NULL when there is none */
	dev_t rescue_dev; /* of it */
	ino_t rescue_ino;
	bool journal;
};

/*
 * Looks beside the model at `path` (store/resolve.h), which need not be there; it may lead into a
 * mount that does not answer. 0; -ETIMEDOUT; -errno. To be freed in every case.
 */
int stfs_leftovers_look(const char *path, struct stfs_leftovers *found);
void stfs_leftovers_free(struct stfs_leftovers *found);

/* Whether `now` has a rescue file that was not there before. */
bool stfs_leftovers_rescued(const struct stfs_leftovers *before, const struct stfs_leftovers *now);

#endif
