/* SPDX-License-Identifier: MIT */
/*
 * A zip archive's central directory (PKWARE APPNOTE 6.3.10), read and held against the local headers, so
 * that every reader agrees on which bytes are whose. Entries are STORED or deflated.
 *
 *   Z1  names are unique, whatever the case of ASCII letters, and each entry's local header has the same
 *       name and method.
 *   Z2  no two entries overlap; none reaches into the directory or beyond the file.
 *   Z3  a STORED entry is as long as it is stored; a deflated one at most 1032 times as long, which is
 *       all that deflate can do.
 *
 * Refused are encrypted entries, archives of several disks, other methods,
 * and an end record that is not within the last STFS_ZIP_TAIL bytes: further from the end torch
 * finds it by accident alone.
 *
 * Memory: the directory (twice while it is read) and 64 bytes an entry. Reads: the directory and each local
 * header once.
 */
#ifndef STFS_CODEC_ZIP_H
#define STFS_CODEC_ZIP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "format/nametable.h"

#define STFS_ZIP_TAIL 4096
#define STFS_ZIP_DIRECTORY_MAX (256u << 20)

struct stfs_zip_entry {
	uint64_t header;   /* byte of the local header in the file */
	uint64_t offset;   /* of its data */
	uint64_t stored;   /* bytes in the file */
	uint64_t size;     /* bytes once inflated */
	uint32_t name_pos; /* in the directory */
	uint32_t crc;
	uint16_t name_len;
	bool deflated;
};

struct stfs_zip {
	int fd; /* borrowed */
	uint64_t file_len;
	char *directory; /* owned */
	uint64_t directory_at, directory_len;
	struct stfs_zip_entry *entries; /* owned; in the order of the directory */
	uint32_t count;
	struct stfs_nametable by_name;
	/* No entry has a CRC: torch.serialization.set_crc32_options(False) leaves all of them 0. */
	bool without_crcs;
};

/* Whether these first bytes of a file, 4 or more, are those of a zip archive. */
bool stfs_zip_is(const void *bytes, size_t len);

/*
 * Reads the directory of the archive that `fd` is. 0; -EBADMSG with `err` naming rule and byte;
 * -ENOMEM; another -errno of the system. On failure there is nothing to free.
 */
int stfs_zip_open(int fd, uint64_t file_len, struct stfs_zip *zip, struct stfs_err *err);
void stfs_zip_free(struct stfs_zip *zip);

struct stfs_str stfs_zip_name(const struct stfs_zip *zip, uint32_t entry);

/* Whether two names are equal but for the case of ASCII letters. */
bool stfs_zip_folds_to(struct stfs_str a, struct stfs_str b);

/* The entry of this name, or STFS_NO_NUMBER. */
uint32_t stfs_zip_find(const struct stfs_zip *zip, struct stfs_str name);

/*
 * The whole content of an entry, which must not be above `most` bytes: *bytes is malloc'ed. Its CRC
 * is checked. 0, -EBADMSG, -EFBIG, -ENOMEM or another -errno.
 */
int stfs_zip_read(const struct stfs_zip *zip, uint32_t entry, uint64_t most, char **bytes,
		  struct stfs_err *err);

#endif
