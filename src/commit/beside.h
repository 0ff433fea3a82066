/* SPDX-License-Identifier: MIT */
/* Files that stand beside a model for a while: their names, how they are made, and in whose name. */
#ifndef STFS_COMMIT_BESIDE_H
#define STFS_COMMIT_BESIDE_H

#include <stdbool.h>
#include <sys/stat.h>

#define STFS_BESIDE_JOURNAL ".stfs-journal"
#define STFS_BESIDE_NEW ".stfs-new"
#define STFS_BESIDE_RESCUE ".stfs-rescue"

/* ".NAME" and the suffix: a malloc'ed string. A long name is cut, and its hash stands for the rest. */
char *stfs_beside_name(const char *name, const char *suffix);

/*
 * Whether a file of that suffix stands beside the model `name`, a link that leads nowhere included: 1,
 * 0 or -errno.
 */
int stfs_beside_exists(int folder_fd, const char *name, const char *suffix);

/*
 * Makes a new file for reading and writing, with the permissions `mode` less the creation mask, locked
 * exclusively. What an earlier commit left under that name goes. The descriptor; -EBUSY when
 * another program is using the name; another -errno.
 */
int stfs_beside_create(int folder_fd, const char *name, mode_t mode);

/*
 * Removes a leftover of that name that nobody is using: 1 when there was one, 0, -EBUSY or another
 * -errno.
 */
int stfs_beside_clean(int folder_fd, const char *name);

/* Locks an open file exclusively and sees that the name is still its own: 0, -EBUSY, another -errno. */
int stfs_beside_lock(int folder_fd, const char *name, int fd);

/*
 * Gives the file `fd`, which is called `temp` in a folder, the name `name` in that or another one, which must be free
 * there. 0, -EEXIST or another -errno.
 */
int stfs_beside_place(int from_fd, const char *temp, int folder_fd, const char *name, int fd);

/* Gives `fd` the owner, permissions and extended attributes of `like`. 0, or -errno of the owner. */
int stfs_beside_adopt(int fd, int like);

/* Whether no file of that name is there, or it is `fd`, or another: 0, 1 or -ESTALE. */
int stfs_beside_is(int folder_fd, const char *name, int fd);

#endif
