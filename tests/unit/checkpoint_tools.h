/* SPDX-License-Identifier: MIT */
/*
 * Checkpoints made by hand: a little assembler of pickles, and writers of the three forms. The strings
 * of opcodes are written out in the tests; what has lengths or numbers in it is written by these.
 */
#ifndef STFS_TESTS_UNIT_CHECKPOINT_TOOLS_H
#define STFS_TESTS_UNIT_CHECKPOINT_TOOLS_H

#include "stfs_check.h"

#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include "base/buf.h"
#include "base/io.h"

static inline void put_le(struct stfs_buf *out, uint64_t number, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++, number >>= 8)
		stfs_buf_putc(out, (char)number);
}

/* Opcodes as they are; a literal may hold NUL. */
#define OPS(out, literal) stfs_buf_add(out, literal, sizeof(literal) - 1)

static inline void put_str(struct stfs_buf *out, const char *text)
{
	stfs_buf_putc(out, 'X');
	put_le(out, strlen(text), 4);
	stfs_buf_puts(out, text);
}

static inline void put_int(struct stfs_buf *out, int64_t number)
{
	OPS(out, "\x8a\x08");
	put_le(out, (uint64_t)number, 8);
}

static inline void put_global(struct stfs_buf *out, const char *module, const char *name)
{
	stfs_buf_printf(out, "c%s\n%s\n", module, name);
}

/* A tuple of `count` numbers. */
static inline void put_numbers(struct stfs_buf *out, const int64_t *numbers, size_t count)
{
	OPS(out, "(");
	for (size_t i = 0; i < count; i++)
		put_int(out, numbers[i]);
	OPS(out, "t");
}

/* The persistent id of a storage, and BINPERSID. */
static inline void put_storage(struct stfs_buf *out, const char *class, const char *key, int64_t count,
			       bool legacy)
{
	OPS(out, "(");
	put_str(out, "storage");
	put_global(out, strcmp(class, "UntypedStorage") == 0 ? "torch.storage" : "torch", class);
	put_str(out, key);
	put_str(out, "cpu");
	put_int(out, count);
	if (legacy)
		OPS(out, "N");
	OPS(out, "tQ");
}

struct test_tensor {
	const char *class, *key;
	int64_t count, offset;
	int64_t dims[4], strides[4];
	size_t rank;
	bool legacy;
};

/* _rebuild_tensor_v2 of it. */
static inline void put_tensor(struct stfs_buf *out, const struct test_tensor *tensor)
{
	put_global(out, "torch._utils", "_rebuild_tensor_v2");
	OPS(out, "(");
	put_storage(out, tensor->class, tensor->key, tensor->count, tensor->legacy);
	put_int(out, tensor->offset);
	put_numbers(out, tensor->dims, tensor->rank);
	put_numbers(out, tensor->strides, tensor->rank);
	OPS(out, "\x89}tR");
}

/* ---- Zip ---- */

struct test_zip {
	struct stfs_buf bytes, directory;
	unsigned count;
};

static inline void zip_header(struct stfs_buf *out, struct stfs_str name, uint32_t crc, uint64_t stored,
			      uint64_t size, unsigned method)
{
	put_le(out, 0, 2); /* flags */
	put_le(out, method, 2);
	put_le(out, 0, 4); /* time */
	put_le(out, crc, 4);
	put_le(out, stored, 4);
	put_le(out, size, 4);
	put_le(out, name.len, 2);
	put_le(out, 0, 2); /* extra */
}

static inline void zip_add(struct test_zip *zip, const char *name, struct stfs_str content, bool deflated)
{
	uLongf len = compressBound(content.len);
	char *packed = malloc(len + 1);
	uint32_t at = (uint32_t)zip->bytes.len;
	uint32_t crc = (uint32_t)crc32_z(0, (const unsigned char *)content.ptr, content.len);
	struct stfs_str stored = content, named = stfs_str_from(name);

	if (deflated) { /* without zlib's own head and tail */
		ck_assert_int_eq(compress((unsigned char *)packed, &len, (const unsigned char *)content.ptr, content.len), Z_OK);
		stored = stfs_str_slice(packed + 2, len - 6);
	}
	OPS(&zip->bytes, "PK\3\4\x14\0");
	zip_header(&zip->bytes, named, crc, stored.len, content.len, deflated ? 8 : 0);
	stfs_buf_add_str(&zip->bytes, named);
	stfs_buf_add_str(&zip->bytes, stored);
	OPS(&zip->directory, "PK\1\2\x14\0\x14\0");
	zip_header(&zip->directory, named, crc, stored.len, content.len, deflated ? 8 : 0);
	put_le(&zip->directory, 0, 10); /* comment, disk, attributes */
	put_le(&zip->directory, at, 4);
	stfs_buf_add_str(&zip->directory, named);
	zip->count++;
	free(packed);
}

/* Appends the directory: the archive is then zip->bytes. */
static inline void zip_end(struct test_zip *zip)
{
	size_t at = zip->bytes.len;

	stfs_buf_add_str(&zip->bytes, stfs_buf_str(&zip->directory));
	OPS(&zip->bytes, "PK\5\6\0\0\0\0");
	put_le(&zip->bytes, zip->count, 2);
	put_le(&zip->bytes, zip->count, 2);
	put_le(&zip->bytes, zip->directory.len, 4);
	put_le(&zip->bytes, at, 4);
	put_le(&zip->bytes, 0, 2);
}

static inline void zip_free(struct test_zip *zip)
{
	stfs_buf_free(&zip->bytes);
	stfs_buf_free(&zip->directory);
}

/* A file without a name that holds these bytes. */
static inline int file_of(struct stfs_str bytes)
{
	int fd = memfd_create("checkpoint", MFD_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(stfs_io_write(fd, bytes.ptr, bytes.len, 0), 0);
	return fd;
}

#endif
