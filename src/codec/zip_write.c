/* SPDX-License-Identifier: MIT */
#include "codec/zip_write.h"

#include <assert.h>

#include "base/arith.h"

#define LOCAL_LEN 30
#define EXTRA_HEAD 4 /* tag and length of an extra field */
#define FLAG_CRC_BEHIND 8
#define FLAG_UTF8 0x800
#define VERSION_MADE 0x31e /* of the end record: Unix, 3.0; entries have 0, as torch's */
#define VERSION_ZIP64 45

void stfs_zip_write_free(struct stfs_zip_write *zip)
{
	stfs_buf_free(&zip->directory);
}

static void put(struct stfs_buf *out, uint64_t number, unsigned bytes)
{
	char le[8];

	stfs_store_le64(le, number);
	stfs_buf_add(out, le, bytes);
}

/* Numbers from here on stand in the field for 64 bits. */
static bool is_large(uint64_t number)
{
	return number >= UINT32_MAX;
}

static uint32_t clip32(uint64_t number)
{
	return is_large(number) ? UINT32_MAX : (uint32_t)number;
}

/* Bytes of the field for 64 bits: two sizes, the header's place, or all three. */
static unsigned zip64_len(const struct stfs_zip_write *zip)
{
	unsigned len = (is_large(zip->size) ? 16 : 0) + (is_large(zip->header) ? 8 : 0);

	return len ? EXTRA_HEAD + len : 0;
}

/* `stored`: bytes in the archive, which a local header leaves to the descriptor as it does without this field. */
static void put_zip64(const struct stfs_zip_write *zip, uint64_t stored, struct stfs_buf *out)
{
	unsigned len = zip64_len(zip);

	if (!len)
		return;
	put(out, 1, 2);
	put(out, len - EXTRA_HEAD, 2);
	if (is_large(zip->size)) {
		put(out, zip->size, 8);
		put(out, stored, 8);
	}
	if (is_large(zip->header))
		put(out, zip->header, 8);
}

/* What local header and directory have in common: from the flags to the lengths of name and extra fields. */
static void put_common(const struct stfs_zip_write *zip, uint32_t crc, uint32_t size, size_t name_len,
		       size_t extra_len, struct stfs_buf *out)
{
	put(out, FLAG_UTF8 | (zip->size ? FLAG_CRC_BEHIND : 0), 2);
	put(out, 0, 2); /* STORED */
	put(out, 0, 4); /* time and day */
	put(out, crc, 4);
	put(out, size, 4);
	put(out, size, 4);
	put(out, name_len, 2);
	put(out, extra_len, 2);
}

static void put_name(struct stfs_str folder, struct stfs_str name, struct stfs_buf *out)
{
	stfs_buf_add_str(out, folder);
	stfs_buf_putc(out, '/');
	stfs_buf_add_str(out, name);
}

/* The checksum is put in when it is known. */
static void add_central(struct stfs_zip_write *zip, struct stfs_str folder, struct stfs_str name)
{
	struct stfs_buf *out = &zip->directory;

	zip->central = out->len;
	stfs_buf_add(out, "PK\1\2\0\0\0\0", 8);
	put_common(zip, 0, clip32(zip->size), folder.len + 1 + name.len, zip64_len(zip), out);
	put(out, 0, 8); /* comment, disk, attributes */
	put(out, 0, 2);
	put(out, clip32(zip->header), 4);
	put_name(folder, name, out);
	put_zip64(zip, zip->size, out);
}

void stfs_zip_write_begin(struct stfs_zip_write *zip, struct stfs_str folder, struct stfs_str name, uint64_t size,
			  struct stfs_buf *out)
{
	size_t name_len = folder.len + 1 + name.len, padding;
	uint64_t data;

	assert(name_len <= UINT16_MAX);
	zip->header = zip->at;
	zip->size = size;
	data = zip->at + LOCAL_LEN + name_len + zip64_len(zip) + EXTRA_HEAD;
	padding = (size_t)(stfs_align_up(data, STFS_ZIP_WRITE_ALIGN) - data);
	stfs_buf_add(out, "PK\3\4\0\0", 6);
	put_common(zip, 0, 0, name_len, zip64_len(zip) + EXTRA_HEAD + padding, out);
	put_name(folder, name, out);
	put_zip64(zip, 0, out);
	stfs_buf_add(out, "FB", 2); /* torch's own field, to fill up with */
	put(out, padding, 2);
	stfs_buf_fill(out, 'Z', padding);
	zip->at = data + padding + size;
	add_central(zip, folder, name);
}

void stfs_zip_write_end(struct stfs_zip_write *zip, uint32_t crc, struct stfs_buf *out)
{
	unsigned width = zip64_len(zip) ? 8 : 4;
	char le[8];

	zip->count++;
	if (!zip->size)
		return;
	stfs_store_le64(le, crc);
	if (stfs_buf_status(&zip->directory) == 0)
		memcpy(zip->directory.data + zip->central + 16, le, 4);
	stfs_buf_add(out, "PK\7\10", 4);
	put(out, crc, 4);
	put(out, zip->size, width);
	put(out, zip->size, width);
	zip->at += 8 + 2 * width;
}

void stfs_zip_write_finish(struct stfs_zip_write *zip, struct stfs_buf *out)
{
	uint64_t len = zip->directory.len, end64 = zip->at + len;
	uint64_t count = stfs_min_u64(zip->count, UINT16_MAX);
	size_t before = out->len + zip->directory.len;

	stfs_buf_add_str(out, stfs_buf_str(&zip->directory));
	stfs_buf_add(out, "PK\6\6", 4);
	put(out, 44, 8); /* bytes of the record behind this number */
	put(out, VERSION_MADE, 2);
	put(out, VERSION_ZIP64, 2);
	put(out, 0, 8); /* disks */
	put(out, zip->count, 8);
	put(out, zip->count, 8);
	put(out, len, 8);
	put(out, zip->at, 8);
	stfs_buf_add(out, "PK\6\7\0\0\0\0", 8);
	put(out, end64, 8);
	put(out, 1, 4); /* disks in all */
	stfs_buf_add(out, "PK\5\6\0\0\0\0", 8);
	put(out, count, 2);
	put(out, count, 2);
	put(out, clip32(len), 4);
	put(out, clip32(zip->at), 4);
	put(out, 0, 2);
	zip->at = end64 + (out->len - before);
}
