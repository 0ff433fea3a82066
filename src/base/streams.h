/* SPDX-License-Identifier: MIT */
/* What a program puts in order about its descriptors before it opens anything. */
#ifndef STFS_BASE_STREAMS_H
#define STFS_BASE_STREAMS_H

/*
 * Puts something in the place of each standard stream that the caller has closed, so that no file
 * of ours becomes one: what is read there is at its end, what is written there fails (EBADF), for a
 * result that nobody gets is no success. Programs that we run inherit them. Where none is closed
 * nothing is opened (a chroot may have no /dev/null). 0 or -errno.
 */
int stfs_streams_fill(void);

/*
 * As many descriptors as this process may have: a model needs one a shard. Programs that it runs
 * inherit that; none of ours uses select(2), which could not stand it.
 */
void stfs_raise_file_limit(void);

#endif
