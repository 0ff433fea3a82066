/* SPDX-License-Identifier: MIT */
/*
 * The bytes of a zip archive of STORED entries as torch.save() lays them out (pure: into buffers; the
 * caller writes these, and the entries' content, one behind the other): names in UTF-8, content that begins at a
 * multiple of 64 bytes, the checksum in a descriptor behind it. With the checksum behind,
 * the archive is made in one pass; with the layout exactly torch's, its loader may calculate where entries lie
 * instead of looking (torch.utils.serialization.config.load.calculate_storage_offsets).
 *
 * The layout: miniz' mz_zip_writer_add_mem_ex_v2() and getPadding() of caffe2/serialize/inline_container.cc; seen
 * in files of torch 2.13, beyond 4 GiB too. Where entries lie depends on names and sizes alone.
 *
 *   W1  content begins at a multiple of STFS_ZIP_WRITE_ALIGN (unit/test_zip_write.c: aligns_the_content).
 *   W2  stfs_zip_open() takes the archive, on either side of 4 GiB (is_read_back, passes_32_bits).
 */
#ifndef STFS_CODEC_ZIP_WRITE_H
#define STFS_CODEC_ZIP_WRITE_H

#include <stdint.h>

#include "base/buf.h"

#define STFS_ZIP_WRITE_ALIGN 64

struct stfs_zip_write {
	uint64_t at;    /* bytes of the archive so far */
	uint64_t count; /* entries so far */
	struct stfs_buf directory; /* owned: the central directory so far */
	/* The entry that was begun and not ended: */
	uint64_t header, size;
	size_t central; /* where its part of the directory begins */
};

void stfs_zip_write_free(struct stfs_zip_write *zip);

/*
 * Appends to `out` what stands before the content of an entry of `size` bytes, of which the name is
 * `folder`, '/' and `name`: at most 65,535 bytes. Want of memory shows in the status of `out` and
 * zip->directory.
 */
void stfs_zip_write_begin(struct stfs_zip_write *zip, struct stfs_str folder, struct stfs_str name, uint64_t size,
			  struct stfs_buf *out);
/* What stands behind the content. */
void stfs_zip_write_end(struct stfs_zip_write *zip, uint32_t crc, struct stfs_buf *out);
/* The directory and the records at the end; then zip->at is the archive's length. */
void stfs_zip_write_finish(struct stfs_zip_write *zip, struct stfs_buf *out);

#endif
