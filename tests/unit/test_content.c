/* SPDX-License-Identifier: MIT */
/* The spool of a mount, and files whose bytes lie in it over what is under them. */
#include "stfs_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "store/content.h"

#define BLOCK ((uint64_t)STFS_ARENA_BLOCK)
#define MOST (12 * BLOCK)

/* ---- Calls that fail ---- */

static struct stfs_io calls;
static uint64_t dice;
static unsigned odds; /* one call in so many fails; 0: none */
static int with_errno;

static bool fails(void)
{
	errno = with_errno;
	return odds && stfs_check_below(&dice, odds) == 0;
}

static ssize_t failing_pwrite(int fd, const void *bytes, size_t len, off_t offset)
{
	/* Some of it may have been written. */
	if (fails()) {
		(void)!pwrite(fd, bytes, len / 2, offset);
		errno = with_errno;
		return -1;
	}
	return pwrite(fd, bytes, len, offset);
}

static ssize_t failing_pread(int fd, void *buffer, size_t len, off_t offset)
{
	return fails() ? -1 : pread(fd, buffer, len, offset);
}

static int failing_ftruncate(int fd, off_t len)
{
	return fails() ? -1 : ftruncate(fd, len);
}

static int failing_fallocate(int fd, int mode, off_t offset, off_t len)
{
	return fails() ? -1 : fallocate(fd, mode, offset, len);
}

static int no_fallocate(int fd, int mode, off_t offset, off_t len)
{
	errno = EOPNOTSUPP;
	return -1;
}

static int no_tmpfile(int folder, const char *name, int flags, mode_t mode)
{
	if ((flags & O_TMPFILE) != O_TMPFILE)
		return openat(folder, name, flags, mode);
	errno = EOPNOTSUPP;
	return -1;
}

static int short_files(int fd, off_t len)
{
	if (len <= (off_t)stfs_arena_offset(4))
		return ftruncate(fd, len);
	errno = with_errno;
	return -1;
}

/* ---- What every test has ---- */

static int folder = -1;
static struct stfs_arena *arena;

static void make_root(void)
{
	make_folder("content");
	folder = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(folder, 0);
	ck_assert_int_eq(stfs_arena_open(folder, folder, "m.safetensors", &arena), 0);
	calls = stfs_io_system;
	odds = 0;
	dice = stfs_check_seed();
}

/* All that was taken has come back, and takes no room on the disk. */
static void check_arena(void)
{
	int fd = stfs_arena_fd(arena);
	struct stat st;

	ck_assert_uint_eq(stfs_arena_used(arena), 0);
	ck_assert_uint_eq(stfs_arena_end(arena), STFS_SPOOL_HEADER);
	if (fd < 0)
		return;
	ck_assert_int_eq(fstat(fd, &st), 0);
	ck_assert_int_eq(st.st_size, STFS_SPOOL_HEADER);
	/* The room of a rescue header alone, and what a file system notes its extents in. */
	ck_assert_int_le(st.st_blocks, STFS_SPOOL_HEADER / 512 + 64);
}

static void remove_root(void)
{
	check_arena();
	stfs_arena_close(arena);
	close(folder);
	remove_folder();
}

/* ---- The arena ---- */

static uint64_t take(uint64_t after, uint64_t wanted, uint64_t want_count)
{
	uint64_t first, count;

	ck_assert_int_eq(stfs_arena_take(arena, after, wanted, &first, &count), 0);
	ck_assert_uint_eq(count, want_count);
	return first;
}

static bool is_zero(const void *bytes, size_t len)
{
	const char *p = bytes;

	return !len || (!p[0] && !memcmp(p, p + 1, len - 1));
}

static void check_zeros(uint64_t first, uint64_t count)
{
	static char bytes[STFS_ARENA_BLOCK];

	for (; count; first++, count--) {
		ck_assert_int_eq(stfs_io_read_exactly(stfs_arena_fd(arena), bytes, sizeof(bytes), stfs_arena_offset(first)),
				 0);
		ck_assert_msg(is_zero(bytes, sizeof(bytes)), "block %" PRIu64 " is not zero", first);
	}
}

static void scribble(uint64_t first, uint64_t count)
{
	static char bytes[STFS_ARENA_BLOCK];

	memset(bytes, 0xa5, sizeof(bytes));
	for (; count; first++, count--)
		ck_assert_int_eq(stfs_io_write(stfs_arena_fd(arena), bytes, sizeof(bytes), stfs_arena_offset(first)), 0);
}

START_TEST(blocks_are_given_out_in_one_piece_where_they_fit)
{
	ck_assert_int_eq(stfs_arena_fd(arena), -1);
	check_arena();
	ck_assert_uint_eq(take(UINT64_MAX, 4, 4), 0);
	ck_assert_uint_eq(take(4, 2, 2), 4);
	ck_assert_uint_eq(take(UINT64_MAX, 3, 3), 6);
	ck_assert_uint_eq(stfs_arena_end(arena), stfs_arena_offset(9));
	ck_assert_uint_eq(stfs_arena_used(arena), 9 * BLOCK);
	stfs_arena_give_back(arena, 1, 2);
	stfs_arena_give_back(arena, 4, 2);
	ck_assert_uint_eq(take(UINT64_MAX, 3, 3), 9); /* no hole is as large */
	ck_assert_uint_eq(take(4, 3, 2), 4);          /* asked for, so it may be less */
	ck_assert_uint_eq(take(6, 1, 1), 1);          /* first fit */
	stfs_arena_give_back(arena, 3, 1);
	stfs_arena_give_back(arena, 1, 1);
	ck_assert_uint_eq(take(UINT64_MAX, 3, 3), 1); /* coalesced */
	ck_assert_uint_eq(stfs_arena_used(arena), 12 * BLOCK);
	stfs_arena_give_back(arena, 9, 3);
	ck_assert_uint_eq(stfs_arena_end(arena), stfs_arena_offset(9));
	stfs_arena_give_back(arena, 1, 7);
	ck_assert_uint_eq(take(9, 2, 2), 9); /* at the end, though there is a hole */
	stfs_arena_give_back(arena, 9, 2);
	ck_assert_uint_eq(stfs_arena_end(arena), stfs_arena_offset(9));
	stfs_arena_give_back(arena, 8, 1);
	ck_assert_uint_eq(stfs_arena_end(arena), stfs_arena_offset(1));
	stfs_arena_give_back(arena, 0, 1);
}
END_TEST

/* _i: 0 holes can be punched, 1 not, 2 now and then; then cutting the end off fails as well. */
START_TEST(a_block_always_reads_as_zeros)
{
	uint64_t out[64], first, count;
	size_t n = 0, i;

	calls.fallocate = _i == 2 ? failing_fallocate : _i ? no_fallocate : calls.fallocate;
	calls.ftruncate = _i == 2 ? failing_ftruncate : calls.ftruncate;
	with_errno = EIO;
	stfs_io = &calls;
	for (int step = 0; step < 2000; step++) {
		odds = _i == 2 && n ? 3 : 0;
		if (n < STFS_CHECK_COUNT(out) && stfs_check_below(&dice, 2)) {
			if (stfs_arena_take(arena, stfs_check_random(&dice) % 64, 1, &first, &count) < 0)
				continue;
			check_zeros(first, count);
			scribble(first, 1);
			out[n++] = first;
		} else if (n) {
			i = stfs_check_below(&dice, n);
			stfs_arena_give_back(arena, out[i], 1);
			out[i] = out[--n];
		}
		ck_assert_uint_eq(stfs_arena_used(arena), n * BLOCK);
	}
	odds = 0;
	while (n > 1)
		stfs_arena_give_back(arena, out[--n], 1);
	if (!n)
		out[0] = take(UINT64_MAX, 1, 1);
	odds = _i == 2;
	stfs_arena_give_back(arena, out[0], 1);
	ck_assert_uint_eq(stfs_arena_end(arena), STFS_SPOOL_HEADER);
	odds = 0;
	stfs_arena_give_back(arena, take(UINT64_MAX, 1, 1), 1);
}
END_TEST

START_TEST(blocks_that_cannot_be_cleared_are_not_given_out)
{
	uint64_t first, count;

	calls.fallocate = no_fallocate;
	calls.pwrite = failing_pwrite;
	with_errno = ENOSPC;
	stfs_io = &calls;
	take(UINT64_MAX, 3, 3);
	scribble(0, 3);
	stfs_arena_give_back(arena, 0, 2);
	odds = 1;
	ck_assert_int_eq(stfs_arena_take(arena, UINT64_MAX, 2, &first, &count), -ENOSPC);
	ck_assert_uint_eq(stfs_arena_used(arena), BLOCK);
	odds = 0;
	ck_assert_uint_eq(take(UINT64_MAX, 2, 2), 0);
	check_zeros(0, 2);
	stfs_arena_give_back(arena, 0, 3);
}
END_TEST

START_TEST(a_disk_that_cannot_take_it_twice_is_full)
{
	uint64_t first = take(UINT64_MAX, 1, 1), count, room;
	struct statvfs fs;

	ck_assert_int_eq(fstatvfs(stfs_arena_fd(arena), &fs), 0);
	room = fs.f_bavail * fs.f_frsize;
	/* Others use the disk too: so not to the byte. */
	ck_assert_int_eq(stfs_arena_take(arena, UINT64_MAX, room / BLOCK / 8 * 5, &first, &count), -ENOSPC);
	ck_assert_int_eq(stfs_arena_take(arena, UINT64_MAX, UINT64_MAX, &first, &count), -ENOSPC);
	ck_assert_int_eq(stfs_arena_take(arena, UINT64_MAX, UINT64_MAX / BLOCK, &first, &count), -ENOSPC);
	ck_assert_uint_eq(stfs_arena_used(arena), BLOCK);
	take(1, room / BLOCK / 8 * 3, room / BLOCK / 8 * 3);
	/* What is out counts once it was written to (mount/test_writing.py: on a small disk). */
	take(1 + room / BLOCK / 8 * 3, room / BLOCK / 8 * 3, room / BLOCK / 8 * 3);
	stfs_arena_give_back(arena, 0, 1 + room / BLOCK / 8 * 6);
}
END_TEST

START_TEST(where_files_cannot_grow_what_is_free_is_used)
{
	uint64_t first, count;

	calls.ftruncate = short_files;
	with_errno = EFBIG;
	stfs_io = &calls;
	ck_assert_int_eq(stfs_arena_take(arena, UINT64_MAX, 5, &first, &count), -EFBIG);
	take(UINT64_MAX, 4, 4);
	ck_assert_int_eq(stfs_arena_take(arena, 4, 1, &first, &count), -EFBIG);
	stfs_arena_give_back(arena, 1, 1);
	ck_assert_uint_eq(take(4, 9, 1), 1);
	stfs_arena_give_back(arena, 0, 4);
}
END_TEST

START_TEST(a_spool_has_a_name_only_where_it_must)
{
	struct stfs_arena *other;
	uint64_t first, count;

	take(UINT64_MAX, 1, 1);
	ck_assert_int_ne(access(at(".m.safetensors.stfs-arena"), F_OK), 0);
	calls.openat = no_tmpfile;
	stfs_io = &calls;
	ck_assert_int_eq(stfs_arena_open(folder, folder, "m.safetensors", &other), 0);
	ck_assert_int_eq(stfs_arena_take(other, UINT64_MAX, 1, &first, &count), 0);
	ck_assert_int_eq(access(at(".m.safetensors.stfs-arena"), F_OK), 0);
	stfs_arena_close(other);
	ck_assert_int_ne(access(at(".m.safetensors.stfs-arena"), F_OK), 0);
	stfs_arena_give_back(arena, 0, 1);
}
END_TEST

/* ---- A file, and what it has to be: bytes in memory ---- */

struct file {
	struct stfs_content *content;
	unsigned char want[MOST], base[MOST]; /* want: zeros behind its size */
	struct stfs_base reader;
};

static int read_base(void *data, void *buffer, size_t len, uint64_t offset)
{
	ck_assert_uint_le(offset + len, MOST);
	if (odds && stfs_check_below(&dice, odds) == 0)
		return -with_errno;
	memcpy(buffer, (unsigned char *)data + offset, len);
	return 0;
}

static struct file *new_file(uint64_t size, uint64_t under_len)
{
	struct file *file = calloc(1, sizeof(*file));

	ck_assert_ptr_nonnull(file);
	for (size_t i = 0; i < MOST; i++)
		file->base[i] = (unsigned char)(1 + stfs_check_random(&dice) % 255);
	memcpy(file->want, file->base, under_len);
	file->reader = (struct stfs_base){read_base, file->base};
	file->content = stfs_content_new(arena, size, under_len, NULL);
	ck_assert_ptr_nonnull(file->content);
	return file;
}

static void free_file(struct file *file)
{
	stfs_content_free(file->content);
	free(file);
}

/* Reads by runs, as replies and commits do. */
static void read_runs(const struct file *file, unsigned char *bytes)
{
	struct stfs_run run;

	for (uint64_t at = 0; at < file->content->size; at += run.len) {
		stfs_content_run(file->content, at, UINT64_MAX, &run);
		ck_assert_uint_gt(run.len, 0);
		ck_assert_uint_le(run.len, file->content->size - at);
		if (run.kind == STFS_RUN_ZERO)
			memset(bytes + at, 0, run.len);
		else if (run.kind == STFS_RUN_BASE)
			memcpy(bytes + at, file->base + run.offset, run.len);
		else
			ck_assert_int_eq(pread(stfs_arena_fd(arena), bytes + at, run.len, (off_t)run.offset),
					 (ssize_t)run.len);
	}
}

static void check_bytes(const unsigned char *got, const unsigned char *want, uint64_t len, const char *what)
{
	for (uint64_t i = 0; memcmp(got, want, len) != 0 && i < len; i++)
		ck_assert_msg(got[i] == want[i], "%s: byte %" PRIu64 " is %02x, want %02x", what, i, got[i], want[i]);
}

/* The file is what it has to be, wherever one asks. */
static void check_file(const struct file *file, uint64_t size, const char *what)
{
	static unsigned char bytes[MOST];
	const struct stfs_content *content = file->content;
	unsigned was = odds;

	odds = 0;
	ck_assert_msg(content->size == size, "%s: size %" PRIu64 ", want %" PRIu64, what, content->size, size);
	read_runs(file, bytes);
	check_bytes(bytes, file->want, size, what);
	memset(bytes, 0xee, sizeof(bytes));
	ck_assert_int_eq(stfs_content_read(content, &file->reader, bytes, size, 0), 0);
	check_bytes(bytes, file->want, size, what);
	ck_assert_int_eq(stfs_content_read(content, &file->reader, bytes, 1, size), -EINVAL);
	for (const struct stfs_content *c = content; c; c = c->under)
		ck_assert_uint_le(c->under_len, c->under ? stfs_min_u64(c->size, c->under->size) : c->size);
	odds = was;
}

static void must_write(struct file *file, const void *bytes, size_t len, uint64_t offset)
{
	ck_assert_int_eq(stfs_content_write(file->content, &file->reader, bytes, len, offset), 0);
	memcpy(file->want + offset, bytes, len);
}

static struct stfs_run run_at(const struct stfs_content *content, uint64_t offset)
{
	struct stfs_run run;

	stfs_content_run(content, offset, UINT64_MAX, &run);
	return run;
}

static void freeze(struct file *file)
{
	struct stfs_content *over =
		stfs_content_new(arena, file->content->size, file->content->size, file->content);

	ck_assert_ptr_nonnull(over);
	ck_assert(file->content->frozen);
	file->content = over;
}

/* ---- Named cases ---- */

START_TEST(writing_in_order_lies_in_one_piece)
{
	struct stfs_content *content = stfs_content_new(arena, 0, 0, NULL);
	static char bytes[40000];
	struct stfs_run run;

	for (uint64_t at = 0; at < 2000 * sizeof(bytes); at += sizeof(bytes))
		ck_assert_int_eq(stfs_content_write(content, NULL, bytes, sizeof(bytes), at), 0);
	run = run_at(content, 0);
	ck_assert_int_eq(run.kind, STFS_RUN_ARENA);
	ck_assert_uint_eq(run.offset, STFS_SPOOL_HEADER);
	ck_assert_uint_eq(run.len, content->size);
	ck_assert_uint_gt(stfs_arena_used(arena), stfs_content_blocks(content) * 512);
	stfs_content_settle(content);
	ck_assert_uint_eq(stfs_arena_used(arena), stfs_content_blocks(content) * 512);
	ck_assert_uint_eq(stfs_content_blocks(content) * 512, stfs_align_up(content->size, BLOCK));
	/* It goes on where it was. */
	ck_assert_int_eq(stfs_content_write(content, NULL, bytes, sizeof(bytes), content->size), 0);
	ck_assert_uint_eq(run_at(content, 0).len, content->size);
	stfs_content_free(content);
}
END_TEST

START_TEST(no_more_is_taken_ahead_than_there_is)
{
	struct stfs_content *content = stfs_content_new(arena, 0, 0, NULL);
	static char bytes[2 * STFS_ARENA_BLOCK];

	calls.ftruncate = short_files;
	with_errno = ENOSPC;
	stfs_io = &calls;
	for (uint64_t at = 0; at < 4; at++)
		ck_assert_int_eq(stfs_content_write(content, NULL, bytes, BLOCK, at * BLOCK), 0);
	ck_assert_int_eq(stfs_content_write(content, NULL, bytes, 2 * BLOCK, 3 * BLOCK + 1), -ENOSPC);
	ck_assert_uint_eq(content->size, 4 * BLOCK);
	stfs_content_free(content);
}
END_TEST

START_TEST(what_is_under_shows_through)
{
	struct file *file = new_file(5 * BLOCK + 5, 4 * BLOCK + 100);
	struct stfs_run run = run_at(file->content, 7);

	ck_assert(run.kind == STFS_RUN_BASE && run.offset == 7 && run.len == 4 * BLOCK + 93);
	run = run_at(file->content, 4 * BLOCK + 100);
	ck_assert(run.kind == STFS_RUN_ZERO && run.len == BLOCK - 95);
	run = run_at(file->content, 5 * BLOCK + 5);
	ck_assert(run.kind == STFS_RUN_ZERO && run.len == 0);
	must_write(file, "abc", 3, BLOCK + 10);
	check_file(file, 5 * BLOCK + 5, "a partial block");
	run = run_at(file->content, 7);
	ck_assert(run.kind == STFS_RUN_BASE && run.len == BLOCK - 7);
	run = run_at(file->content, BLOCK + 3);
	ck_assert(run.kind == STFS_RUN_ARENA && run.len == BLOCK - 3);
	must_write(file, "xyz", 3, 4 * BLOCK + 99);
	check_file(file, 5 * BLOCK + 5, "where the base ends");
	freeze(file);
	must_write(file, "m", 1, BLOCK + 11);
	check_file(file, 5 * BLOCK + 5, "a layer above");
	must_write(file, "end", 3, 6 * BLOCK);
	check_file(file, 6 * BLOCK + 3, "behind a gap");
	ck_assert_uint_eq(stfs_content_blocks(file->content), 4 * (BLOCK / 512));
	free_file(file);
}
END_TEST

START_TEST(what_is_cut_off_never_comes_back)
{
	struct file *file = new_file(3 * BLOCK, 3 * BLOCK);

	must_write(file, "abcdef", 6, 2 * BLOCK + 10);
	ck_assert_int_eq(stfs_content_resize(file->content, 2 * BLOCK + 13), 0);
	ck_assert_int_eq(stfs_content_resize(file->content, 3 * BLOCK), 0);
	memset(file->want + 2 * BLOCK + 13, 0, BLOCK - 13);
	check_file(file, 3 * BLOCK, "a tail");
	ck_assert_int_eq(stfs_content_resize(file->content, BLOCK + 1), 0);
	must_write(file, "z", 1, 3 * BLOCK - 1);
	memset(file->want + BLOCK + 1, 0, 2 * BLOCK - 2);
	check_file(file, 3 * BLOCK, "a write behind it");
	ck_assert_int_eq(stfs_content_resize(file->content, 0), 0);
	ck_assert_uint_eq(stfs_content_blocks(file->content), 0);
	ck_assert_int_eq(stfs_content_resize(file->content, MOST), 0);
	memset(file->want, 0, MOST);
	check_file(file, MOST, "all");
	ck_assert_int_eq(run_at(file->content, 0).kind, STFS_RUN_ZERO);
	free_file(file);
}
END_TEST

START_TEST(zeros_hide_what_is_under_and_take_no_room)
{
	struct file *file = new_file(6 * BLOCK, 5 * BLOCK);
	uint64_t offset, len;

	ck_assert_int_eq(stfs_content_zero(file->content, &file->reader, 100, 6 * BLOCK - 100), 0);
	memset(file->want + 100, 0, 6 * BLOCK - 100);
	check_file(file, 6 * BLOCK, "over the base");
	ck_assert_uint_eq(stfs_content_blocks(file->content) * 512, BLOCK);
	/* They are what this layer has to say of it, and are gone with it. */
	ck_assert(stfs_content_next(file->content, 0, &offset, &len));
	ck_assert(offset == 0 && len == 5 * BLOCK);
	stfs_content_drop(file->content, BLOCK, 2 * BLOCK);
	memcpy(file->want + BLOCK, file->base + BLOCK, 2 * BLOCK);
	check_file(file, 6 * BLOCK, "dropped");
	must_write(file, "abc", 3, 3 * BLOCK - 1);
	must_write(file, "abc", 3, 4 * BLOCK + 7);
	check_file(file, 6 * BLOCK, "written over");
	ck_assert_int_eq(stfs_content_zero(file->content, &file->reader, 6 * BLOCK, 1), -EINVAL);
	ck_assert_int_eq(stfs_content_zero(file->content, &file->reader, 0, UINT64_MAX), -EINVAL);
	ck_assert_int_eq(stfs_content_zero(file->content, &file->reader, 6 * BLOCK, 0), 0);
	free_file(file);
}
END_TEST

START_TEST(a_header_is_cut_off_the_front)
{
	struct stfs_content *content = stfs_content_new(arena, 0, 0, NULL);
	static char bytes[3 * STFS_ARENA_BLOCK - 50], got[sizeof(bytes)];

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (char)(i * 7 + i / 253);
	ck_assert_int_eq(stfs_content_write(content, NULL, bytes, 200, 0), 0);
	stfs_content_cut_front(content, 128);
	ck_assert_uint_eq(content->skew, 128);
	ck_assert_uint_eq(content->size, 72);
	ck_assert_int_eq(stfs_content_write(content, NULL, bytes + 200, sizeof(bytes) - 200, 72), 0);
	ck_assert_uint_eq(run_at(content, 0).offset, STFS_SPOOL_HEADER + 128);
	ck_assert_uint_eq(run_at(content, 0).len, sizeof(bytes) - 128);
	ck_assert_int_eq(stfs_content_read(content, NULL, got, sizeof(bytes) - 128, 0), 0);
	ck_assert_mem_eq(got, bytes + 128, sizeof(bytes) - 128);
	stfs_content_cut_front(content, BLOCK);
	ck_assert_uint_eq(stfs_content_blocks(content) * 512, 2 * BLOCK);
	ck_assert_int_eq(stfs_content_read(content, NULL, got, content->size, 0), 0);
	ck_assert_mem_eq(got, bytes + 128 + BLOCK, content->size);
	stfs_content_cut_front(content, content->size);
	ck_assert_uint_eq(stfs_content_blocks(content), 0);
	ck_assert_int_eq(stfs_content_write(content, NULL, "x", 1, 5), 0);
	ck_assert_int_eq(stfs_content_read(content, NULL, got, 6, 0), 0);
	ck_assert_mem_eq(got, "\0\0\0\0\0x", 6);
	ck_assert_int_eq(stfs_content_zero(content, NULL, 0, 6), 0);
	ck_assert_uint_eq(stfs_content_blocks(content), 0);
	stfs_content_free(content);
}
END_TEST

START_TEST(a_sparse_file_of_any_size_is_small)
{
	const uint64_t most = INT64_MAX;
	struct stfs_content *content = stfs_content_new(arena, 0, 0, NULL);
	uint64_t offset, len;
	char got[8];

	ck_assert_int_eq(stfs_content_resize(content, most + 1), -EFBIG);
	ck_assert_int_eq(stfs_content_resize(content, most), 0);
	ck_assert_uint_eq(run_at(content, 0).len, most);
	ck_assert_int_eq(stfs_content_write(content, NULL, "abc", 3, most - 3), 0);
	ck_assert_int_eq(stfs_content_write(content, NULL, "abc", 3, most - 2), -EFBIG);
	ck_assert_int_eq(stfs_content_write(content, NULL, "abc", 3, UINT64_MAX), -EFBIG);
	ck_assert_int_eq(stfs_content_write(content, NULL, "mid", 3, 1ull << 62), 0);
	ck_assert_int_eq(stfs_content_read(content, NULL, got, 4, most - 4), 0);
	ck_assert_mem_eq(got, "\0abc", 4);
	ck_assert_uint_eq(run_at(content, 0).len, 1ull << 62);
	ck_assert(stfs_content_next(content, 0, &offset, &len));
	ck_assert(offset == 1ull << 62 && len == BLOCK);
	ck_assert(stfs_content_next(content, offset + len, &offset, &len));
	ck_assert(offset == most / BLOCK * BLOCK && len == BLOCK - 1);
	ck_assert(!stfs_content_next(content, most, &offset, &len));
	ck_assert_int_eq(stfs_content_zero(content, NULL, 1, most - 1), 0);
	ck_assert_uint_eq(stfs_content_blocks(content), 0);
	stfs_content_cut_front(content, 10);
	ck_assert_int_eq(stfs_content_resize(content, most - 9), -EFBIG);
	ck_assert_int_eq(stfs_content_write(content, NULL, "abc", 3, most - 12), -EFBIG);
	ck_assert_int_eq(stfs_content_resize(content, most - 10), 0);
	stfs_content_free(content);
}
END_TEST

START_TEST(ranges_are_drained_into_the_model)
{
	static char bytes[40 * STFS_ARENA_BLOCK];
	struct stfs_content *content = stfs_content_new(arena, 1024 * BLOCK, 1024 * BLOCK, NULL);
	uint64_t offset = 0, len = 0;

	memset(bytes, 1, sizeof(bytes));
	for (uint64_t at = 0; at < 8; at++)
		ck_assert_int_eq(stfs_content_write(content, NULL, bytes, sizeof(bytes), (10 + 40 * at) * BLOCK), 0);
	ck_assert(stfs_content_next(content, 0, &offset, &len));
	ck_assert(offset == 10 * BLOCK && len == 256 * BLOCK);
	ck_assert(stfs_content_next(content, 20 * BLOCK + 5, &offset, &len));
	ck_assert(offset == 20 * BLOCK + 5 && len == 256 * BLOCK - 5);
	/* Blocks of which bytes would be lost stay. */
	stfs_content_drop(content, offset, 2 * BLOCK);
	ck_assert_int_eq(run_at(content, 20 * BLOCK + 5).kind, STFS_RUN_ARENA);
	ck_assert_int_eq(run_at(content, 21 * BLOCK).kind, STFS_RUN_BASE);
	ck_assert_uint_eq(run_at(content, 21 * BLOCK).len, BLOCK);
	for (offset = len = 0; stfs_content_next(content, offset + len, &offset, &len);)
		stfs_content_drop(content, offset, len);
	ck_assert_uint_eq(stfs_content_blocks(content), 0);
	ck_assert_uint_eq(run_at(content, 0).len, 1024 * BLOCK);
	stfs_content_free(content);
}
END_TEST

START_TEST(a_write_that_fails_leaves_no_trace_behind_the_end)
{
	struct file *file = new_file(100, 0);
	static char bytes[3 * STFS_ARENA_BLOCK];

	memset(bytes, 0x77, sizeof(bytes));
	must_write(file, "first", 5, 0);
	calls.pwrite = failing_pwrite;
	with_errno = ENOSPC;
	stfs_io = &calls;
	odds = 1;
	ck_assert_int_eq(stfs_content_write(file->content, NULL, bytes, sizeof(bytes), 50), -ENOSPC);
	/* Until the end of the file cannot be cleared, it does not grow. */
	ck_assert_int_eq(stfs_content_resize(file->content, 200), -ENOSPC);
	odds = 0;
	ck_assert_uint_eq(file->content->size, 100);
	memset(file->want + 50, 0x77, 50); /* bytes of this very write */
	ck_assert_int_eq(stfs_content_resize(file->content, 3 * BLOCK), 0);
	check_file(file, 3 * BLOCK, "grown");
	free_file(file);
}
END_TEST

START_TEST(filling_needs_nothing_under_it_any_more)
{
	struct file *file = new_file(5 * BLOCK + 9, 4 * BLOCK + 9);

	must_write(file, "abc", 3, BLOCK - 1);
	ck_assert_int_eq(stfs_content_zero(file->content, &file->reader, 2 * BLOCK, BLOCK), 0);
	memset(file->want + 2 * BLOCK, 0, BLOCK);
	freeze(file);
	must_write(file, "xyz", 3, 100);
	ck_assert_int_eq(stfs_content_fill(file->content, &file->reader, 0, 3 * BLOCK), 0);
	memset(file->base, 0xff, 3 * BLOCK);
	check_file(file, 5 * BLOCK + 9, "in part");
	ck_assert_int_eq(stfs_content_fill(file->content, &file->reader, 0, UINT64_MAX), 0);
	memset(file->base, 0xff, sizeof(file->base));
	stfs_content_free(stfs_steal_ptr(&file->content->under));
	check_file(file, 5 * BLOCK + 9, "on its own");
	ck_assert_uint_eq(stfs_content_blocks(file->content) * 512, 4 * BLOCK);
	free_file(file);
}
END_TEST

/* ---- Anything, against bytes in memory ---- */

static uint64_t dice_offset(uint64_t most)
{
	uint64_t at = stfs_check_below(&dice, most + 1);

	/* Often near the edge of a block. */
	if (stfs_check_below(&dice, 3) == 0)
		at = at / BLOCK * BLOCK + stfs_check_below(&dice, 5);
	return stfs_min_u64(at, most);
}

/* The commit is done: the model has these bytes now, and no layer is needed. */
static void commit_file(struct file *file)
{
	uint64_t size = file->content->size;

	memcpy(file->base, file->want, size);
	stfs_content_free(file->content);
	file->content = stfs_content_new(arena, size, size, NULL);
}

static void drain_file(struct file *file)
{
	struct stfs_content *content = file->content;
	uint64_t offset, len;

	for (offset = len = 0; stfs_content_next(content, offset + len, &offset, &len);) {
		ck_assert_uint_gt(len, 0);
		if (content->under || offset + len > content->under_len)
			continue;
		memcpy(file->base + offset, file->want + offset, len);
		stfs_content_drop(content, offset, len);
	}
}

static int one_write(struct file *file, uint64_t *from, uint64_t *to)
{
	static unsigned char bytes[MOST];
	int r;

	*from = dice_offset(MOST - file->content->skew);
	*to = *from + dice_offset(stfs_min_u64(MOST - file->content->skew - *from,
					       stfs_check_below(&dice, 4) ? 5000 : MOST));
	for (uint64_t i = 0; i < *to - *from; i++)
		bytes[i] = (unsigned char)stfs_check_random(&dice);
	r = stfs_content_write(file->content, &file->reader, bytes, *to - *from, *from);
	if (r == 0)
		memcpy(file->want + *from, bytes, *to - *from);
	else
		*to = stfs_min_u64(*to, file->content->size);
	return r;
}

static int one_resize(struct file *file)
{
	uint64_t size = dice_offset(MOST - file->content->skew), old = file->content->size;
	int r = stfs_content_resize(file->content, size);

	ck_assert(r == 0 || size > old);
	if (size < old)
		memset(file->want + size, 0, old - size);
	return r;
}

static int one_zero(struct file *file, uint64_t *from, uint64_t *to)
{
	int r;

	*from = dice_offset(file->content->size);
	*to = *from + dice_offset(file->content->size - *from);
	r = stfs_content_zero(file->content, &file->reader, *from, *to - *from);
	if (r == 0)
		memset(file->want + *from, 0, *to - *from);
	return r;
}

static void one_cut(struct file *file)
{
	uint64_t bytes = dice_offset(stfs_min_u64(file->content->size, 3 * BLOCK));

	if (file->content->under_len || file->content->skew + bytes > MOST / 2)
		return;
	stfs_content_cut_front(file->content, bytes);
	memmove(file->want, file->want + bytes, MOST - bytes);
	memset(file->want + MOST - bytes, 0, bytes);
}

static size_t depth(const struct file *file)
{
	size_t n = 0;

	for (const struct stfs_content *c = file->content; c; c = c->under)
		n++;
	return n;
}

/* What failed may have changed bytes from `from` to `to`, and no others: those are then as they are. */
static void after_failure(struct file *file, uint64_t from, uint64_t to)
{
	odds = 0;
	if (from < to)
		ck_assert_int_eq(stfs_content_read(file->content, &file->reader, file->want + from, to - from, from), 0);
}

/* 0, or what a call that failed returned. */
static int one_step(struct file *file, unsigned what)
{
	uint64_t size = file->content->size, from = 0, to = 0;
	int r = 0;

	if (what < 8)
		r = one_write(file, &from, &to);
	else if (what < 11)
		r = one_resize(file);
	else if (what < 14)
		r = one_zero(file, &from, &to);
	else if (what < 16)
		r = stfs_content_fill(file->content, &file->reader, dice_offset(MOST), dice_offset(MOST));
	else if (what == 16)
		drain_file(file);
	else if (what == 17 && depth(file) < 5)
		freeze(file);
	else if (what == 18)
		one_cut(file);
	else if (what == 19 && stfs_check_below(&dice, 4) == 0)
		commit_file(file);
	else
		stfs_content_settle(file->content);
	if (r < 0) {
		ck_assert_uint_eq(file->content->size, size);
		after_failure(file, from, to);
	}
	return r;
}

static uint64_t used_by(const struct file *file)
{
	uint64_t used = stfs_content_blocks(file->content) * 512;

	for (const struct stfs_content *c = file->content; c; c = c->under)
		used += c->spare_count * BLOCK;
	return used;
}

static void use_failing_calls(int which)
{
	calls.pwrite = failing_pwrite;
	calls.pread = failing_pread;
	calls.ftruncate = failing_ftruncate;
	calls.fallocate = which & 1 ? no_fallocate : failing_fallocate;
	with_errno = which & 2 ? ENOSPC : EIO;
	stfs_io = &calls;
}

/* _i: the seed; bit 0, 1: how calls fail, bit 2: whether. */
START_TEST(anything_goes)
{
	struct file *files[3];
	size_t failed = 0;
	uint64_t used;
	char what[40];

	dice += (uint64_t)_i << 32;
	if (_i & 4)
		use_failing_calls(_i);
	for (int i = 0; i < 3; i++)
		files[i] = new_file(i * 5 * BLOCK + 1, i * 4 * BLOCK);
	for (int step = 0; step < 1500; step++) {
		struct file *file = files[stfs_check_below(&dice, 3)];
		unsigned op = (unsigned)stfs_check_below(&dice, 20);
		int r;

		odds = _i & 4 ? 12 : 0;
		r = one_step(file, op);
		odds = 0;
		ck_assert_msg(r == 0 || (_i & 4 && r == -with_errno), "step %d, %u: %d", step, op, r);
		failed += r < 0;
		snprintf(what, sizeof(what), "step %d, operation %u", step, op);
		check_file(file, file->content->size, what);
		used = 0;
		for (int i = 0; i < 3; i++)
			used += used_by(files[i]);
		ck_assert_msg(used == stfs_arena_used(arena), "%s: %" PRIu64 " blocks lost", what,
			      (stfs_arena_used(arena) - used) / BLOCK);
	}
	ck_assert(!failed == !(_i & 4));
	for (int i = 0; i < 3; i++)
		free_file(files[i]);
}
END_TEST

/* ---- Files of several threads on one arena ---- */

static void *write_and_check(void *data)
{
	struct stfs_content *content = stfs_content_new(arena, 0, 0, NULL);
	unsigned char mine = *(const unsigned char *)data, bytes[9000], got[9000];
	intptr_t wrong = 0;

	memset(bytes, mine, sizeof(bytes));
	for (int round = 0; round < 20; round++) {
		for (uint64_t at = 0; at < 100; at++)
			wrong |= stfs_content_write(content, NULL, bytes, sizeof(bytes), at * sizeof(bytes));
		for (uint64_t at = 0; at < 100; at++) {
			wrong |= stfs_content_read(content, NULL, got, sizeof(got), at * sizeof(got));
			wrong |= memcmp(got, bytes, sizeof(got));
		}
		wrong |= stfs_content_resize(content, (uint64_t)round * 3000);
	}
	stfs_content_free(content);
	return (void *)wrong;
}

START_TEST(threads_share_one_arena)
{
	unsigned char marks[6];
	pthread_t threads[6];
	void *wrong;

	for (unsigned i = 0; i < 6; i++) {
		marks[i] = (unsigned char)(i + 1);
		ck_assert_int_eq(pthread_create(&threads[i], NULL, write_and_check, &marks[i]), 0);
	}
	for (int i = 0; i < 6; i++) {
		ck_assert_int_eq(pthread_join(threads[i], &wrong), 0);
		ck_assert_ptr_null(wrong);
	}
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		blocks_are_given_out_in_one_piece_where_they_fit, blocks_that_cannot_be_cleared_are_not_given_out,
		a_disk_that_cannot_take_it_twice_is_full, where_files_cannot_grow_what_is_free_is_used,
		a_spool_has_a_name_only_where_it_must, writing_in_order_lies_in_one_piece, no_more_is_taken_ahead_than_there_is,
		what_is_under_shows_through,
		what_is_cut_off_never_comes_back, zeros_hide_what_is_under_and_take_no_room,
		a_header_is_cut_off_the_front, a_sparse_file_of_any_size_is_small, ranges_are_drained_into_the_model,
		a_write_that_fails_leaves_no_trace_behind_the_end, filling_needs_nothing_under_it_any_more,
		threads_share_one_arena,
	};
	Suite *suite = suite_create("content");
	TCase *tcase = tcase_create("content");

	tcase_add_checked_fixture(tcase, make_root, remove_root);
	tcase_set_timeout(tcase, 100);
	for (size_t i = 0; i < STFS_CHECK_COUNT(tests); i++)
		tcase_add_test(tcase, tests[i]);
	tcase_add_loop_test(tcase, a_block_always_reads_as_zeros, 0, 3);
	tcase_add_loop_test(tcase, anything_goes, 0, 8);
	suite_add_tcase(suite, tcase);
	return stfs_check_main(suite);
}
