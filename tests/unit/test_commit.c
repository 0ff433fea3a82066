/* SPDX-License-Identifier: MIT */
/*
 * The parts of a commit by themselves: how far a shift has come, which steps may be run again, and what is
 * believed of a journal. Whole commits, cut off everywhere: crash/test_crash.c.
 */
#include "stfs_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fiemap.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "commit/beside.h"
#include "commit/commit.h"
#include "commit/extents.h"
#include "commit/journal.h"
#include "commit/steps.h"
#include "format/header.h"

#define BLOCK 4096

static int folder = -1;
static uint64_t state;

static size_t below(size_t bound)
{
	return stfs_check_below(&state, bound);
}

static void make_root(void)
{
	make_folder("commit");
	folder = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(folder, 0);
	state = stfs_check_seed();
}

static void remove_root(void)
{
	close(folder);
	remove_folder();
}

static void put_file(const char *name, const void *bytes, size_t len)
{
	int fd = openat(folder, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, bytes, len), (ssize_t)len);
	close(fd);
}

static void get_file(const char *name, struct stfs_buf *out)
{
	int fd = openat(folder, name, O_RDONLY | O_CLOEXEC);
	struct stat st;

	stfs_buf_clear(out);
	ck_assert_msg(fd >= 0 && fstat(fd, &st) == 0, "%s: %m", name);
	ck_assert_int_eq(stfs_buf_fill(out, 0, (size_t)st.st_size), 0);
	ck_assert_int_eq(pread(fd, out->data, out->len, 0), (ssize_t)out->len);
	close(fd);
}

static bool exists(const char *name)
{
	struct stat st;

	return fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

static void expect_file(const char *name, const void *bytes, size_t len, const char *when)
{
	STFS_AUTO_BUF struct stfs_buf got = STFS_BUF_INIT;

	get_file(name, &got);
	ck_assert_msg(got.len == len && memcmp(got.data, bytes, len) == 0, "%s is another after %s", name, when);
}

/* ---- How far a shift has come ---- */

#define BLOCKS_MOST 120

/* A file on a disk: which of the disk's blocks each of its blocks is; 0 is a hole. */
struct disk {
	uint64_t physical[BLOCKS_MOST];
	size_t blocks;
	uint64_t size;
};
static struct disk disk;
static int disk_fd = -1;
static bool split_reports; /* the map tells one extent as several */

static struct stfs_io calls;

static unsigned char disk_byte(uint64_t physical, uint64_t at)
{
	return physical ? (unsigned char)(physical * 131 + at * 7 + (physical >> 3)) : 0;
}

static ssize_t disk_pread(int fd, void *buffer, size_t len, off_t offset)
{
	uint64_t at = (uint64_t)offset;
	size_t i;

	if (fd != disk_fd)
		return pread(fd, buffer, len, offset);
	for (i = 0; i < len && at + i < disk.size; i++)
		((unsigned char *)buffer)[i] = disk_byte(disk.physical[(at + i) / BLOCK], (at + i) % BLOCK);
	return (ssize_t)i;
}

static bool next_to(const struct disk *d, size_t b)
{
	return d->physical[b] && d->physical[b + 1] == d->physical[b] + 1;
}

static int disk_fiemap(int fd, struct fiemap *map)
{
	uint64_t end = map->fm_start + map->fm_length;
	uint32_t n = 0;

	for (size_t b = map->fm_start / BLOCK, run; b < disk.blocks && b * BLOCK < end; b += run) {
		run = 1;
		if (!disk.physical[b])
			continue;
		if (n == map->fm_extent_count)
			break;
		while (b + run < disk.blocks && next_to(&disk, b + run - 1) && !(split_reports && !below(3)))
			run++;
		map->fm_extents[n++] = (struct fiemap_extent){
			.fe_logical = b * BLOCK, .fe_physical = disk.physical[b] * BLOCK, .fe_length = run * BLOCK};
	}
	map->fm_mapped_extents = n;
	return 0;
}

static void use_disk(void)
{
	calls = stfs_io_system;
	calls.pread = disk_pread;
	calls.fiemap = disk_fiemap;
	stfs_io = &calls;
	disk_fd = memfd_create("disk", MFD_CLOEXEC);
	ck_assert_int_ge(disk_fd, 0);
}

static void set_size(uint64_t size)
{
	size_t blocks = (size_t)stfs_align_up(size, BLOCK) / BLOCK;

	for (size_t b = disk.blocks; b < blocks; b++)
		disk.physical[b] = 0;
	disk.blocks = blocks;
	disk.size = size;
	ck_assert_int_eq(ftruncate(disk_fd, (off_t)size), 0);
}

/* Extents and holes of all lengths; the file may end anywhere in its last block. */
static void random_disk(void)
{
	uint64_t physical = 100;
	size_t blocks = 1 + below(40);

	disk.blocks = 0;
	set_size(blocks * BLOCK - (below(2) ? below(BLOCK) : 0));
	for (size_t b = 0; b < disk.blocks;) {
		size_t run = 1 + below(6);
		bool hole = !below(3);

		physical += 1 + below(9);
		for (; run && b < disk.blocks; run--, b++)
			disk.physical[b] = hole ? 0 : physical++;
	}
}

/* Blocks of the extent that begins (or, from the back, ends) at `b`. */
static size_t extent_at(const struct disk *d, size_t b, size_t end)
{
	size_t run = 1;

	while (b + run < end && next_to(d, b + run - 1))
		run++;
	return run;
}

static void move_extent(size_t from, size_t to, size_t run)
{
	uint64_t kept[BLOCKS_MOST];

	memcpy(kept, disk.physical + from, run * sizeof(*kept));
	memset(disk.physical + from, 0, run * sizeof(*kept));
	memcpy(disk.physical + to, kept, run * sizeof(*kept));
}

/* The shift with `moves` extents moved; all of them and the length when there are no more. 0: it was over. */
static size_t shift(const struct stfs_step *step, size_t moves)
{
	size_t at = step->to / BLOCK, gap = step->len / BLOCK, blocks = disk.blocks;
	uint64_t size = disk.size;

	if (step->kind == STFS_STEP_COLLAPSE) {
		memset(disk.physical + at, 0, gap * sizeof(*disk.physical));
		for (size_t b = at + gap, run; moves && b < blocks; b += run) {
			run = extent_at(&disk, b, blocks);
			if (!disk.physical[b])
				continue;
			move_extent(b, b - gap, run);
			moves--;
		}
		if (moves)
			set_size(size - step->len);
	} else {
		set_size(size + step->len);
		for (size_t end = blocks, run; moves && end > at; end -= run) {
			run = 1;
			if (!disk.physical[end - 1])
				continue;
			while (end - run > at && next_to(&disk, end - run - 1))
				run++;
			move_extent(end - run, end - run + gap, run);
			moves--;
		}
	}
	return moves;
}

static struct stfs_step random_shift(void)
{
	bool insert = below(2) || disk.blocks < 2 || disk.size <= BLOCK;
	size_t at, gap;

	if (insert)
		return (struct stfs_step){.kind = STFS_STEP_INSERT, .to = below((size_t)(disk.size + BLOCK - 1) / BLOCK) * BLOCK,
					  .len = (1 + below(20)) * BLOCK};
	/* A collapse leaves something behind it. */
	gap = 1 + below((size_t)(disk.size - 1) / BLOCK);
	at = below((size_t)(disk.size - 1) / BLOCK - gap + 1);
	return (struct stfs_step){.kind = STFS_STEP_COLLAPSE, .to = at * BLOCK, .len = gap * BLOCK};
}

/* What steps.c does with the answer. */
static void go_on(const struct stfs_step *step, enum stfs_shift_state how, uint64_t hole)
{
	struct stfs_step rest = {.kind = STFS_STEP_COLLAPSE, .to = hole, .len = step->len};

	if (how == STFS_SHIFT_HALF) {
		if (hole + step->len >= disk.size) {
			set_size(hole);
		} else {
			ck_assert_uint_eq(hole % BLOCK, 0);
			shift(&rest, SIZE_MAX);
		}
	}
	if (how == STFS_SHIFT_NOT_BEGUN || (how == STFS_SHIFT_HALF && step->kind == STFS_STEP_INSERT))
		shift(step, SIZE_MAX);
}

static void expect_disk(const struct disk *want, const char *what)
{
	ck_assert_msg(disk.size == want->size, "%s: size %" PRIu64 ", want %" PRIu64, what, disk.size, want->size);
	for (size_t b = 0; b < want->blocks; b++)
		ck_assert_msg(disk.physical[b] == want->physical[b], "%s: block %zu is %" PRIu64 ", want %" PRIu64, what, b,
			      disk.physical[b], want->physical[b]);
}

START_TEST(judges_every_state_of_a_shift)
{
	for (int round = 0; round < 4000; round++) {
		enum stfs_shift_state how;
		struct stfs_shift_map map;
		struct stfs_step step;
		struct disk before, wanted;
		uint64_t hole = 0;
		char what[200];
		bool last;

		random_disk();
		step = random_shift();
		before = disk;
		split_reports = below(2);
		ck_assert_int_eq(stfs_shift_map_read(disk_fd, &step, &map), 0);
		shift(&step, SIZE_MAX);
		wanted = disk;
		last = false;
		for (size_t moves = 0; !last; moves++) {
			disk = before;
			set_size(before.size);
			split_reports = below(2);
			/* Nothing at all, then every number of extents; the last time all, and the length. */
			if (moves)
				last = shift(&step, moves - 1) > 0;
			snprintf(what, sizeof(what), "%s of %" PRIu64 " at %" PRIu64 ", %zu moves, round %d",
				 step.kind == STFS_STEP_INSERT ? "insert" : "collapse", step.len, step.to, moves, round);
			ck_assert_msg(stfs_shift_judge(disk_fd, &step, &map, &how, &hole) == 0, "%s", what);
			go_on(&step, how, hole);
			expect_disk(&wanted, what);
		}
		stfs_extents_free(&map.extents);
	}
}
END_TEST

/* A mapped block from `from` on, or SIZE_MAX. */
static size_t some_block(uint64_t from)
{
	size_t found = SIZE_MAX, seen = 0;

	for (size_t b = from / BLOCK; b < disk.blocks; b++)
		if (disk.physical[b] && !below(++seen))
			found = b;
	return found;
}

START_TEST(refuses_files_that_do_not_come_of_the_shift)
{
	int maps = 0, samples = 0, sizes = 0;

	for (int round = 0; round < 4000; round++) {
		enum stfs_shift_state how;
		struct stfs_shift_map map;
		struct stfs_step step;
		struct disk whole;
		uint64_t hole = 0;
		size_t b;

		random_disk();
		step = random_shift();
		ck_assert_int_eq(stfs_shift_map_read(disk_fd, &step, &map), 0);
		if (below(3))
			shift(&step, below(8));
		whole = disk;
		ck_assert_int_eq(stfs_shift_judge(disk_fd, &step, &map, &how, &hole), 0);

		/* A block that the shift has moved, or has still to, lies elsewhere, or nowhere. */
		b = some_block(step.to);
		if (how == STFS_SHIFT_NOT_BEGUN && step.kind == STFS_STEP_COLLAPSE)
			b = some_block(step.to + step.len);
		if (b != SIZE_MAX) {
			disk.physical[b] = below(2) ? 0 : 5000;
			ck_assert_int_eq(stfs_shift_judge(disk_fd, &step, &map, &how, &hole), -EUCLEAN);
			disk = whole;
			maps++;
		}
		/* A length that belongs to no state of it. */
		set_size(disk.size + (below(2) ? 1 : BLOCK * 41));
		ck_assert_int_eq(stfs_shift_judge(disk_fd, &step, &map, &how, &hole), -EUCLEAN);
		disk = whole;
		set_size(whole.size);
		sizes++;
		/* The map fits, the content does not. Those at the file's end and at the border say nothing. */
		for (size_t i = 0; i < map.sample_count; i++)
			map.samples[i].hash ^= 1;
		ck_assert_int_eq(stfs_shift_judge(disk_fd, &step, &map, &how, &hole),
				 map.sample_count && map.samples[0].at + STFS_SAMPLE_LEN <= map.size ? -EUCLEAN : 0);
		samples += map.sample_count > 0;
		stfs_extents_free(&map.extents);
	}
	ck_assert(maps > 1000 && samples > 1000 && sizes > 1000);
}
END_TEST

static int failing_fiemap(int fd, struct fiemap *map)
{
	errno = ENOTTY;
	return -1;
}

static uint32_t odd_flags;
static int odd_fiemap(int fd, struct fiemap *map)
{
	disk_fiemap(fd, map);
	for (uint32_t i = 0; i < map->fm_mapped_extents; i++)
		map->fm_extents[i].fe_flags = odd_flags;
	return 0;
}

START_TEST(reads_no_map_without_addresses)
{
	static const uint32_t flags[] = {FIEMAP_EXTENT_UNKNOWN, FIEMAP_EXTENT_DELALLOC, FIEMAP_EXTENT_ENCODED,
					 FIEMAP_EXTENT_DATA_INLINE, FIEMAP_EXTENT_DATA_TAIL, FIEMAP_EXTENT_NOT_ALIGNED};
	struct stfs_extents extents;

	split_reports = false;
	set_size(8 * BLOCK);
	for (size_t b = 0; b < 8; b++)
		disk.physical[b] = 100 + b;
	calls.fiemap = failing_fiemap;
	ck_assert_int_eq(stfs_extents_read(disk_fd, 0, disk.size, &extents), -EOPNOTSUPP);
	calls.fiemap = odd_fiemap;
	for (size_t i = 0; i < STFS_CHECK_COUNT(flags); i++) {
		odd_flags = flags[i];
		ck_assert_int_eq(stfs_extents_read(disk_fd, 0, disk.size, &extents), -EOPNOTSUPP);
		ck_assert_ptr_null(extents.items);
	}
	odd_flags = FIEMAP_EXTENT_LAST;
	ck_assert_int_eq(stfs_extents_read(disk_fd, 0, disk.size, &extents), 0);
	ck_assert_uint_eq(extents.count, 1);
	stfs_extents_free(&extents);
}
END_TEST

/* ---- Steps ---- */

#define FILE_LEN 64

struct content {
	unsigned char bytes[FILE_LEN];
	size_t len;
};

static struct stfs_step random_step(size_t len)
{
	struct stfs_step step = {.kind = STFS_STEP_COPY, .item = UINT32_MAX};

	if (len < 8 || !below(8)) {
		step.kind = STFS_STEP_TRUNCATE;
		step.to = len - below(len / 4 + 1);
		return step;
	}
	do {
		step.len = 1 + below(len / 2);
		step.from = below(len - step.len + 1);
		step.to = below(len - step.len + 1);
	} while (step.from < step.to + step.len && step.to < step.from + step.len);
	return step;
}

static void apply(struct content *c, const struct stfs_step *step)
{
	if (step->kind == STFS_STEP_COPY) {
		memcpy(c->bytes + step->to, c->bytes + step->from, step->len);
	} else {
		memset(c->bytes + step->to, 0, FILE_LEN - step->to);
		c->len = step->to;
	}
}

#define STEPS_MOST 12

/* Every byte, and the length, as it was after any of the steps since the last mark: they are run again. */
START_TEST(marks_stand_where_steps_could_not_be_run_again)
{
	for (int round = 0; round < 20000; round++) {
		struct stfs_step steps[STEPS_MOST];
		struct content versions[STEPS_MOST + 1], c;
		size_t count = 1 + below(STEPS_MOST), since = 0;

		versions[0].len = FILE_LEN;
		for (size_t i = 0; i < FILE_LEN; i++)
			versions[0].bytes[i] = (unsigned char)(i + 1);
		for (size_t i = 0; i < count; i++) {
			steps[i] = random_step(versions[i].len);
			versions[i + 1] = versions[i];
			apply(&versions[i + 1], &steps[i]);
			if (stfs_steps_need_mark(steps, since, i))
				since = i;
			c = versions[since + below(i + 2 - since)];
			for (size_t b = 0; b < FILE_LEN; b++)
				c.bytes[b] = b < c.len ? versions[since + below(i + 2 - since)].bytes[b] : 0;
			for (size_t k = since; k <= i; k++) {
				/* A file that was cut before is as long again when a copy needs it, of zeros. */
				apply(&c, &steps[k]);
			}
			ck_assert_msg(c.len == versions[i + 1].len &&
				      memcmp(c.bytes, versions[i + 1].bytes, c.len) == 0,
				      "round %d: steps %zu to %zu cannot be run again", round, since, i);
		}
	}
}
END_TEST

/* More than one buffer holds, of a file and of zeros; one piece is empty. */
START_TEST(writes_begin_and_end_inside_pieces)
{
	STFS_AUTO_FD int from = memfd_create("from", MFD_CLOEXEC), to = memfd_create("to", MFD_CLOEXEC);
	const struct stfs_piece pieces[] = {{from, 100, 5000}, {-1, 0, 3000}, {from, 9000, 0}, {-1, 0, 1},
					    {from, 7000, 2500000}, {-1, 0, 1200000}, {from, 0, 77}};
	const struct stfs_source source = {.fd = -1, .pieces = pieces, .piece_count = STFS_CHECK_COUNT(pieces)};
	const size_t size = 3 << 20;
	STFS_AUTO_FREE unsigned char *bytes = malloc(size), *whole = calloc(1, 2 * size), *got = malloc(2 * size);
	uint64_t len = 0;

	for (size_t i = 0; i < size; i++)
		bytes[i] = (unsigned char)(1 + i * 2654435761u % 255);
	ck_assert_int_eq(pwrite(from, bytes, size, 0), (ssize_t)size);
	for (size_t i = 0; i < STFS_CHECK_COUNT(pieces); len += pieces[i++].len)
		if (pieces[i].fd >= 0)
			memcpy(whole + len, bytes + pieces[i].offset, pieces[i].len);
	for (int i = 0; i < 60; i++) {
		uint64_t begin = i ? below(2) ? below(9000) : below(len) : 0, most = len - begin;
		struct stfs_step step = {STFS_STEP_WRITE, 0, begin, 1 + below(5000),
					 i ? below(3) ? stfs_min_u64(most, below(9000)) : below(most + 1) : most};

		memset(got, 0xaa, 2 * size);
		ck_assert_int_eq(pwrite(to, got, 2 * size, 0), (ssize_t)(2 * size));
		ck_assert_int_eq(stfs_step_run(to, to, &step, &source, NULL), 0);
		ck_assert_int_eq(pread(to, got, 2 * size, 0), (ssize_t)(2 * size));
		ck_assert_msg(memcmp(got + step.to, whole + begin, step.len) == 0 && got[step.to - 1] == 0xaa &&
				      got[step.to + step.len] == 0xaa,
			      "%" PRIu64 " bytes from %" PRIu64 " on", step.len, begin);
	}
	ck_assert_int_eq(stfs_copy_source(&source, len - 10, to, 0, 11, NULL), -ENODATA);
}
END_TEST

/* C8: it is durable before anything moves, and is not done again once something has. */
START_TEST(an_erasure_is_marked_at_once)
{
	static const struct stfs_step steps[] = {
		{.kind = STFS_STEP_ERASE, .to = 5000, .len = 100},
		{.kind = STFS_STEP_COPY, .from = 100, .to = 200, .len = 50},
		{.kind = STFS_STEP_COPY, .from = 300, .to = 400, .len = 50},
	};

	ck_assert(!stfs_steps_need_mark(steps, 0, 0));
	ck_assert(stfs_steps_need_mark(steps, 0, 1));
	ck_assert(!stfs_steps_need_mark(steps, 1, 2));
}
END_TEST

START_TEST(a_shift_always_needs_a_mark)
{
	struct stfs_step steps[2] = {{.kind = STFS_STEP_COPY, .from = 0, .to = 8192, .len = 10},
				     {.kind = STFS_STEP_INSERT, .to = 1 << 20, .len = 4096}};

	ck_assert(stfs_steps_need_mark(steps, 1, 1) && stfs_steps_need_mark(steps, 0, 1));
	steps[1].kind = STFS_STEP_COLLAPSE;
	ck_assert(stfs_steps_need_mark(steps, 1, 1));
	ck_assert(!stfs_steps_need_mark(steps, 0, 0));
	ck_assert_uint_eq(stfs_steps_shifts(steps, 2), 1);
}
END_TEST

static size_t map_extents; /* how many a map has */

static int many_extents(int fd, struct fiemap *map)
{
	size_t at = map->fm_start / BLOCK;
	uint32_t n = 0;

	for (; at < map_extents && n < map->fm_extent_count; at++, n++)
		map->fm_extents[n] = (struct fiemap_extent){
			.fe_logical = at * BLOCK, .fe_physical = (2 * at + 1) * BLOCK, .fe_length = BLOCK};
	map->fm_mapped_extents = n;
	return 0;
}

/* A shift that splits as many extents as it can. */
static int do_nothing(int fd, int mode, off_t offset, off_t len)
{
	map_extents += mode == FALLOC_FL_KEEP_SIZE ? 0 : 2;
	return 0;
}

static int no_truncate(int fd, off_t len)
{
	return 0;
}

START_TEST(marks_keep_to_the_room_reserved_for_them)
{
	struct stfs_journal_file file = {.name = NULL};
	struct stfs_journal journal = {.folder_fd = folder, .files = &file, .count = 1};
	int fd = memfd_create("model", MFD_CLOEXEC);

	calls = stfs_io_system;
	calls.fiemap = many_extents;
	calls.fallocate = do_nothing;
	calls.ftruncate = no_truncate;
	stfs_io = &calls;
	ck_assert_int_eq(ftruncate(fd, 2000 * BLOCK), 0);
	journal.fd = memfd_create("journal", MFD_CLOEXEC);
	for (int round = 0; round < 200; round++) {
		struct stfs_step steps[STEPS_MOST];
		size_t count = below(STEPS_MOST + 1);
		uint64_t most;

		for (size_t i = 0; i < count; i++) {
			steps[i] = random_step(FILE_LEN);
			if (!below(3)) {
				steps[i].kind = below(2) ? STFS_STEP_COLLAPSE : STFS_STEP_INSERT;
				steps[i].to = below(10) * BLOCK;
				steps[i].len = BLOCK;
			}
		}
		map_extents = below(1000);
		file = (struct stfs_journal_file){.steps = steps, .step_count = count};
		journal.marks_end = journal.marks_at;
		most = stfs_steps_marks_len(steps, count, map_extents);
		ck_assert_int_eq(stfs_steps_run_marked(&journal, 0, fd, NULL), 0);
		ck_assert_uint_le(journal.marks_end - journal.marks_at, most);
	}
	close(journal.fd);
	close(fd);
}
END_TEST

static int order_fd; /* of the model; whether it, and the journal, have something that is not synced: */
static bool order_model, order_journal;
static size_t order_marks;

static ssize_t order_pwrite(int fd, const void *bytes, size_t len, off_t offset)
{
	if (fd == order_fd) {
		ck_assert_msg(!order_journal, "a step runs before the mark is durable");
		order_model = true;
	} else {
		ck_assert_msg(!order_model, "a mark stands before what it says is durable");
		order_journal = true;
		order_marks++;
	}
	return pwrite(fd, bytes, len, offset);
}

static int order_fallocate(int fd, int mode, off_t offset, off_t len)
{
	ck_assert(!order_journal && !order_model);
	order_model = true;
	return 0;
}

static int order_fsync(int fd)
{
	*(fd == order_fd ? &order_model : &order_journal) = false;
	return 0;
}

START_TEST(marks_follow_what_they_say)
{
	/* A copy, one that destroys its source, a shift, a copy. */
	struct stfs_step steps[] = {
		{.kind = STFS_STEP_COPY, .from = 0, .to = 100, .len = 50}, {.kind = STFS_STEP_COPY, .from = 200, .to = 20, .len = 50},
		{.kind = STFS_STEP_COLLAPSE, .to = BLOCK, .len = BLOCK}, {.kind = STFS_STEP_COPY, .from = 0, .to = 100, .len = 50},
	};
	struct stfs_journal_file file = {.steps = steps, .step_count = STFS_CHECK_COUNT(steps)};
	struct stfs_journal journal = {.folder_fd = folder, .files = &file, .count = 1};

	order_fd = memfd_create("model", MFD_CLOEXEC);
	journal.fd = memfd_create("journal", MFD_CLOEXEC);
	ck_assert_int_eq(ftruncate(order_fd, 8 * BLOCK), 0);
	calls = stfs_io_system;
	calls.fiemap = many_extents;
	calls.pwrite = order_pwrite;
	calls.fallocate = order_fallocate;
	calls.fsync = order_fsync;
	map_extents = 8;
	order_model = order_journal = false;
	order_marks = 0;
	stfs_io = &calls;
	ck_assert_int_eq(stfs_steps_run_marked(&journal, 0, order_fd, NULL), 0);
	ck_assert(!order_model && !order_journal);
	ck_assert_uint_eq(order_marks, 4); /* before the second, before and behind the shift, at the end */
	close(journal.fd);
	close(order_fd);
}
END_TEST

/* What an insert at the front brings are zeros: they are no length word, but are to be refused by bit 63 too. */
START_TEST(an_insert_at_the_front_is_poisoned_again)
{
	struct stfs_step step = {.kind = STFS_STEP_INSERT, .to = 0, .len = BLOCK};
	struct stfs_journal_file file = {.steps = &step, .step_count = 1};
	struct stfs_journal journal = {.folder_fd = folder, .files = &file, .count = 1};
	int fd = memfd_create("model", MFD_CLOEXEC);
	char word[8];

	journal.fd = memfd_create("journal", MFD_CLOEXEC);
	ck_assert_int_eq(ftruncate(fd, 8 * BLOCK), 0);
	calls = stfs_io_system;
	calls.fiemap = many_extents;
	calls.fallocate = do_nothing;
	map_extents = 8;
	stfs_io = &calls;
	ck_assert_int_eq(stfs_steps_run_marked(&journal, 0, fd, NULL), 0);
	ck_assert_int_eq(pread(fd, word, 8, 0), 8);
	ck_assert_uint_eq(stfs_load_le64(word), STFS_POISON);
	close(journal.fd);
	close(fd);
}
END_TEST

/* ---- Journals ---- */

#define MODEL "m.safetensors"
#define JOURNAL ".m.safetensors.stfs-journal"
#define OLD_TEXT "{\"a\":{\"dtype\":\"U8\",\"shape\":[8000],\"data_offsets\":[0,8000]}}      "
#define NEW_TEXT "{\"b\":{\"dtype\":\"U8\",\"shape\":[8000],\"data_offsets\":[0,8000]}}      "
#define TEXT_LEN (sizeof(OLD_TEXT) - 1)
#define MODEL_LEN (8 + TEXT_LEN + 8000)

static void model_bytes(const char *text, uint64_t poison, struct stfs_buf *out)
{
	stfs_buf_clear(out);
	stfs_buf_fill(out, 0, 8);
	stfs_store_le64(out->data, TEXT_LEN | poison);
	stfs_buf_puts(out, text);
	for (size_t i = 0; i < 8000; i++)
		stfs_buf_putc(out, (char)(i * 7 + i / 256));
	ck_assert_uint_eq(out->len, MODEL_LEN);
}

static void put_model(const char *name, const char *text, uint64_t poison)
{
	STFS_AUTO_BUF struct stfs_buf bytes = STFS_BUF_INIT;

	model_bytes(text, poison, &bytes);
	put_file(name, bytes.data, bytes.len);
}

static struct stfs_journal_file file_of(const char *name)
{
	struct stfs_journal_file file = {
		.name = strdup(name), .old_length = MODEL_LEN, .old_word = TEXT_LEN, .kind = STFS_JOURNAL_IN_PLACE,
		.old_hash = stfs_commit_hash((struct stfs_str)STFS_CHECK_LIT(OLD_TEXT)), .new_length = MODEL_LEN, .ahead = MODEL_LEN};
	char word[8];

	stfs_store_le64(word, TEXT_LEN);
	stfs_buf_add(&file.header, word, 8);
	stfs_buf_puts(&file.header, NEW_TEXT);
	return file;
}

static struct stfs_step *steps_of(const struct stfs_step *steps, size_t count)
{
	struct stfs_step *copy = malloc((count ? count : 1) * sizeof(*copy));

	if (count)
		memcpy(copy, steps, count * sizeof(*copy));
	return copy;
}

/* Begins the journal of MODEL with `count` files of these names. */
static void begin_journal(struct stfs_journal *journal, const char *const *names, size_t count)
{
	unlinkat(folder, JOURNAL, 0);
	*journal = (struct stfs_journal){.fd = -1, .count = count, .files = calloc(count, sizeof(*journal->files))};
	for (size_t i = 0; i < count; i++)
		journal->files[i] = file_of(names[i]);
	ck_assert_int_eq(stfs_journal_begin(journal, folder, MODEL), 0);
}

static void steps_journal(const struct stfs_step *steps, size_t count)
{
	struct stfs_journal journal;

	begin_journal(&journal, (const char *const[]){MODEL}, 1);
	journal.files[0].steps = steps_of(steps, count);
	journal.files[0].step_count = count;
	ck_assert_int_eq(stfs_journal_record(&journal, 4096, 0), 0);
	stfs_journal_close(&journal);
}

static int open_journal(struct stfs_journal *journal)
{
	return stfs_journal_open(journal, folder, MODEL, geteuid(), NULL);
}

static int recover(enum stfs_recovered *what, struct stfs_err *err)
{
	return stfs_commit_recover(folder, MODEL, what, err);
}

static const struct stfs_step some_steps[] = {
	{.kind = STFS_STEP_COPY, .item = UINT32_MAX, .from = 10, .to = 5000, .len = 100},
	{.kind = STFS_STEP_COLLAPSE, .item = UINT32_MAX, .to = 4096, .len = 4096},
	{.kind = STFS_STEP_INSERT, .item = UINT32_MAX, .to = 0, .len = 8192},
	{.kind = STFS_STEP_TRUNCATE, .item = UINT32_MAX, .to = 12345},
};

/* Two files, a record, three marks; bytes of the journal go to `bytes`. */
static void whole_journal(struct stfs_buf *bytes, uint64_t marks[4])
{
	struct stfs_extent extents[2] = {{8192, 1 << 20, 4096}, {12288, 1 << 22, 4096}};
	struct stfs_shift_map map = {.size = 16384, .extents = {extents, 2}, .samples = {{8192, 77}}, .sample_count = 1};
	struct stfs_journal journal;

	begin_journal(&journal, (const char *const[]){MODEL, "other \xc3\xa9.safetensors"}, 2);
	journal.files[0].steps = steps_of(some_steps, STFS_CHECK_COUNT(some_steps));
	journal.files[0].step_count = STFS_CHECK_COUNT(some_steps);
	journal.files[1].kind = STFS_JOURNAL_RENAME;
	journal.files[1].new_hash = 4711;
	ck_assert_int_eq(stfs_journal_record(&journal, 4096, 8192), 0);
	stfs_journal_give_back(&journal);
	marks[0] = journal.marks_at;
	ck_assert_int_eq(stfs_journal_mark(&journal, 0, 1, &map), 0);
	marks[1] = journal.marks_end;
	ck_assert_int_eq(stfs_journal_mark(&journal, 0, 2, NULL), 0);
	marks[2] = journal.marks_end;
	ck_assert_int_eq(stfs_journal_mark(&journal, 0, 4, NULL), 0);
	marks[3] = journal.marks_end;
	stfs_journal_close(&journal);
	get_file(JOURNAL, bytes);
}

/* Whether what was read is of the journal above; how many of the marks it has. */
static size_t is_whole(const struct stfs_journal *journal, const uint64_t marks[4])
{
	const struct stfs_journal_file *file = &journal->files[0];
	static const size_t next[] = {0, 1, 2, 4};
	size_t n = 0;

	ck_assert_uint_eq(journal->count, 2);
	ck_assert_str_eq(file->name, MODEL);
	ck_assert_str_eq(journal->files[1].name, "other \xc3\xa9.safetensors");
	ck_assert(file->old_length == MODEL_LEN && file->old_word == TEXT_LEN);
	ck_assert(file->old_hash == stfs_commit_hash((struct stfs_str)STFS_CHECK_LIT(OLD_TEXT)));
	if (!journal->recorded)
		return 0;
	ck_assert(file->kind == STFS_JOURNAL_IN_PLACE && journal->files[1].kind == STFS_JOURNAL_RENAME);
	ck_assert_uint_eq(journal->files[1].new_hash, 4711);
	ck_assert_uint_eq(file->new_length, MODEL_LEN);
	ck_assert_uint_eq(file->step_count, STFS_CHECK_COUNT(some_steps));
	for (size_t i = 0; i < file->step_count; i++)
		ck_assert_mem_eq(&file->steps[i], &some_steps[i], sizeof(some_steps[i]));
	stfs_check_str_eq(stfs_str_slice(file->header.data + 8, file->header.len - 8),
			  (struct stfs_str)STFS_CHECK_LIT(NEW_TEXT), "header");
	while (n < 3 && journal->marks_end > marks[n])
		n++;
	ck_assert_uint_eq(journal->marks_end, marks[n]);
	ck_assert(file->marked == (n > 0) && file->shift == (n == 1));
	ck_assert_uint_eq(file->next_step, next[n]);
	if (n == 1)
		ck_assert(file->map.size == 16384 && file->map.extents.count == 2 &&
			  file->map.extents.items[1].physical == 1 << 22 && file->map.samples[0].hash == 77);
	return n + 1;
}

START_TEST(a_journal_is_read_as_it_was_written)
{
	STFS_AUTO_BUF struct stfs_buf bytes = STFS_BUF_INIT;
	struct stfs_journal journal;
	uint64_t marks[4];

	whole_journal(&bytes, marks);
	ck_assert_int_eq(open_journal(&journal), 0);
	ck_assert_uint_eq(is_whole(&journal, marks), 4);
	stfs_journal_close(&journal);
	ck_assert_int_eq(stfs_journal_open(&journal, folder, "x.safetensors", 0, NULL), -ENOENT);
}
END_TEST

/* Opens what is there now: nothing but parts as they were written may be taken from it. */
static size_t expect_nothing_wrong(const uint64_t marks[4], const char *what, size_t at)
{
	struct stfs_journal journal;
	int r = open_journal(&journal);
	size_t parts = 0;

	ck_assert_msg(r == 0 || r == -EBADMSG || r == -EPROTO || r == -EUCLEAN, "%s %zu: %d", what, at, r);
	if (r == 0)
		parts = is_whole(&journal, marks);
	stfs_journal_close(&journal);
	return parts;
}

START_TEST(a_flipped_byte_of_a_journal_is_seen)
{
	STFS_AUTO_BUF struct stfs_buf bytes = STFS_BUF_INIT;
	uint64_t marks[4];
	int fd;

	whole_journal(&bytes, marks);
	fd = openat(folder, JOURNAL, O_WRONLY | O_CLOEXEC);
	for (size_t i = 0; i < marks[3]; i++) {
		char byte = (char)(bytes.data[i] ^ (i % 3 ? 1 << i % 8 : 0xff));
		size_t parts;

		ck_assert_int_eq(pwrite(fd, &byte, 1, (off_t)i), 1);
		parts = expect_nothing_wrong(marks, "byte", i);
		for (size_t m = 0; m < 3; m++)
			if (i >= marks[m] && i < marks[m + 1])
				ck_assert_uint_eq(parts, m + 1); /* those before it count */
		ck_assert_int_eq(pwrite(fd, bytes.data + i, 1, (off_t)i), 1);
	}
	close(fd);
}
END_TEST

START_TEST(a_journal_that_was_cut_off_is_seen)
{
	STFS_AUTO_BUF struct stfs_buf bytes = STFS_BUF_INIT;
	size_t parts, last = 4;
	uint64_t marks[4];
	int fd;

	whole_journal(&bytes, marks);
	fd = openat(folder, JOURNAL, O_WRONLY | O_CLOEXEC);
	for (size_t len = bytes.len; len-- > 0;) {
		ck_assert_int_eq(ftruncate(fd, (off_t)len), 0);
		parts = expect_nothing_wrong(marks, "length", len);
		ck_assert_uint_le(parts, last);
		last = parts;
	}
	close(fd);
}
END_TEST

/* Random bytes with a checksum that fits: what an owner might write. */
START_TEST(a_hostile_journal_does_no_harm)
{
	STFS_AUTO_BUF struct stfs_buf bytes = STFS_BUF_INIT;
	enum stfs_recovered what;
	uint64_t marks[4];

	put_file("bystander", "untouched", 9);
	whole_journal(&bytes, marks);
	for (int round = 0; round < 5000; round++) {
		size_t part = (size_t[]){0, 4096, marks[0], marks[1]}[below(4)];
		size_t len = (size_t)stfs_load_le64(bytes.data + part + 8);
		STFS_AUTO_FREE char *copy = malloc(bytes.len);
		struct stfs_journal journal;
		int r;

		memcpy(copy, bytes.data, bytes.len);
		for (size_t n = 1 + below(3); n > 0; n--) {
			uint64_t value = below(3) ? below(10) : UINT64_MAX >> below(64);

			stfs_store_le64(copy + part + 24 + 8 * below((len - 24) / 8), value);
		}
		stfs_store_le64(copy + part + 16, 0);
		stfs_store_le64(copy + part + 16, stfs_commit_hash(stfs_str_slice(copy + part, len)));
		put_file(JOURNAL, copy, bytes.len);
		r = open_journal(&journal);
		ck_assert_msg(r == 0 || r == -EPROTO, "round %d: %d", round, r);
		for (size_t i = 0; i < journal.count; i++)
			ck_assert(!strchr(journal.files[i].name, '/') && journal.files[i].name[0]);
		stfs_journal_close(&journal);
		if (round % 10)
			continue;
		put_model(MODEL, OLD_TEXT, STFS_POISON);
		(void)recover(&what, NULL);
		expect_file("bystander", "untouched", 9, "a hostile journal");
	}
}
END_TEST

/* A file of holes costs nothing; a part of it that is said to be as long must not cost memory. */
START_TEST(a_part_of_terabytes_is_not_read)
{
	STFS_AUTO_BUF struct stfs_buf bytes = STFS_BUF_INIT;
	uint64_t marks[4];
	int fd;

	put_model(MODEL, OLD_TEXT, 0);
	whole_journal(&bytes, marks);
	for (size_t at = 0; at <= 4096; at += 4096) {
		stfs_store_le64(bytes.data + at + 8, 1ull << 42);
		put_file(JOURNAL, bytes.data, bytes.len);
		fd = openat(folder, JOURNAL, O_WRONLY | O_CLOEXEC);
		ck_assert_int_eq(ftruncate(fd, (1ll << 42) + 8192), 0);
		close(fd);
		ck_assert_int_le(expect_nothing_wrong(marks, "part", at), 0);
		stfs_store_le64(bytes.data + at + 8, at ? 4096 : marks[0] - 4096);
	}
}
END_TEST

/* ---- C5 and C6 ---- */

static void expect_unbelieved(const char *why, int want)
{
	struct stfs_err err = STFS_ERR_INIT;
	enum stfs_recovered what;
	int r = recover(&what, &err);

	ck_assert_msg(r == want, "%s: %d, want %d: %s", why, r, want, err.message);
	ck_assert_msg(exists(JOURNAL), "%s: the journal is gone", why);
	if (want == -EPERM)
		ck_assert_msg(strstr(err.message, why), "\"%s\" does not say \"%s\"", err.message, why);
}

START_TEST(believes_no_journal_that_others_may_have_written)
{
	STFS_AUTO_BUF struct stfs_buf model = STFS_BUF_INIT;
	enum stfs_recovered what;

	put_model(MODEL, OLD_TEXT, 0);
	get_file(MODEL, &model);
	steps_journal(NULL, 0);

	ck_assert_int_eq(fchmodat(folder, JOURNAL, 0620, 0), 0);
	expect_unbelieved("written by others", -EPERM);
	ck_assert_int_eq(fchmodat(folder, JOURNAL, 0602, 0), 0);
	expect_unbelieved("written by others", -EPERM);
	ck_assert_int_eq(fchmodat(folder, JOURNAL, 0600, 0), 0);

	ck_assert_int_eq(linkat(folder, JOURNAL, folder, "link", 0), 0);
	expect_unbelieved("has other links", -EPERM);
	ck_assert_int_eq(unlinkat(folder, "link", 0), 0);

	ck_assert_int_eq(renameat(folder, JOURNAL, folder, "real"), 0);
	ck_assert_int_eq(symlinkat("real", folder, JOURNAL), 0);
	expect_unbelieved("is a link", -EPERM);
	ck_assert_int_eq(unlinkat(folder, JOURNAL, 0), 0);
	ck_assert_int_eq(mkdirat(folder, JOURNAL, 0700), 0);
	expect_unbelieved("is not a regular file", -EPERM);
	ck_assert_int_eq(unlinkat(folder, JOURNAL, AT_REMOVEDIR), 0);
	ck_assert_int_eq(mkfifoat(folder, JOURNAL, 0600), 0);
	expect_unbelieved("not a regular file", -EPERM);
	ck_assert_int_eq(unlinkat(folder, JOURNAL, 0), 0);
	ck_assert_int_eq(renameat(folder, "real", folder, JOURNAL), 0);
	expect_file(MODEL, model.data, model.len, "journals that are not believed");

	ck_assert_int_eq(recover(&what, NULL), 0);
	ck_assert_int_eq(what, STFS_RECOVERED_NEW);
	ck_assert(!exists(JOURNAL));
}
END_TEST

START_TEST(believes_no_journal_of_another_owner)
{
	enum stfs_recovered what;

	if (geteuid() != 0)
		return; /* only root can give files away */
	put_model(MODEL, OLD_TEXT, 0);
	steps_journal(NULL, 0);
	ck_assert_int_eq(fchownat(folder, JOURNAL, 65534, 65534, 0), 0);
	expect_unbelieved("belongs to somebody else", -EPERM);
	/* The owner's own is believed, and root finishes it. */
	ck_assert_int_eq(fchownat(folder, MODEL, 65534, 65534, 0), 0);
	ck_assert_int_eq(recover(&what, NULL), 0);
	ck_assert_int_eq(what, STFS_RECOVERED_NEW);
}
END_TEST

/* Who owns the model names somebody else's file in its journal, and waits for root to recover it. */
START_TEST(a_journal_reaches_no_file_of_another_owner)
{
	STFS_AUTO_BUF struct stfs_buf bytes = STFS_BUF_INIT;
	struct stfs_journal journal;

	if (geteuid() != 0)
		return;
	put_model(MODEL, OLD_TEXT, 0);
	put_model("other.safetensors", OLD_TEXT, 0);
	get_file("other.safetensors", &bytes);
	for (int recorded = 0; recorded < 2; recorded++) {
		begin_journal(&journal, (const char *const[]){"other.safetensors"}, 1);
		journal.files[0].old_length = recorded ? MODEL_LEN : MODEL_LEN - 100;
		journal.files[0].steps = steps_of(NULL, 0);
		if (recorded)
			ck_assert_int_eq(stfs_journal_record(&journal, 4096, 0), 0);
		stfs_journal_close(&journal);
		ck_assert_int_eq(fchownat(folder, JOURNAL, 65534, 65534, 0), 0);
		ck_assert_int_eq(fchownat(folder, MODEL, 65534, 65534, 0), 0);
		expect_unbelieved("belongs to somebody else", -EPERM);
		expect_file("other.safetensors", bytes.data, bytes.len, "a journal of another owner");
	}
}
END_TEST

START_TEST(takes_no_name_that_leads_elsewhere)
{
	static const char *const names[] = {
		"", ".", "..", "../x.safetensors", "/etc/x", "a/b", "x.stfs-journal", ".m.safetensors.stfs-new",
		".m.safetensors.stfs-rescue",
	};
	STFS_AUTO_BUF struct stfs_buf bytes = STFS_BUF_INIT;
	struct stfs_journal journal;
	char *nul;

	put_model(MODEL, OLD_TEXT, 0);
	for (size_t i = 0; i < STFS_CHECK_COUNT(names); i++) {
		begin_journal(&journal, (const char *const[]){MODEL, names[i]}, 2);
		stfs_journal_close(&journal);
		ck_assert_msg(open_journal(&journal) == -EPROTO, "\"%s\" was taken", names[i]);
		expect_unbelieved(names[i], -EPROTO);
	}
	begin_journal(&journal, (const char *const[]){MODEL, "ab"}, 2);
	stfs_journal_close(&journal);
	get_file(JOURNAL, &bytes);
	nul = memmem(bytes.data, bytes.len, "ab", 2);
	*nul = '\0';
	stfs_store_le64(bytes.data + 16, 0);
	stfs_store_le64(bytes.data + 16, stfs_commit_hash(stfs_buf_str(&bytes)));
	put_file(JOURNAL, bytes.data, bytes.len);
	expect_unbelieved("NUL", -EPROTO);
}
END_TEST

/* A link in the place of a file of the journal is not followed. */
START_TEST(a_file_that_has_become_a_link_is_left_alone)
{
	STFS_AUTO_BUF struct stfs_buf bytes = STFS_BUF_INIT;

	put_model("elsewhere", OLD_TEXT, 0);
	get_file("elsewhere", &bytes);
	put_model(MODEL, OLD_TEXT, 0);
	steps_journal(NULL, 0);
	ck_assert_int_eq(unlinkat(folder, MODEL, 0), 0);
	ck_assert_int_eq(symlinkat("elsewhere", folder, MODEL), 0);
	expect_unbelieved("link", -ELOOP);
	ck_assert_int_eq(unlinkat(folder, MODEL, 0), 0);
	ck_assert_int_eq(mkfifoat(folder, MODEL, 0600), 0);
	expect_unbelieved("fifo", -EUCLEAN);
	expect_file("elsewhere", bytes.data, bytes.len, "a link in the model's place");
}
END_TEST

/* ---- Recovery ---- */

START_TEST(finishes_what_the_journal_tells)
{
	STFS_AUTO_BUF struct stfs_buf bytes = STFS_BUF_INIT;
	enum stfs_recovered what;

	for (int poisoned = 0; poisoned < 2; poisoned++) {
		put_model(MODEL, OLD_TEXT, poisoned ? STFS_POISON : 0);
		steps_journal(NULL, 0);
		ck_assert_int_eq(stfs_commit_interrupted(folder, MODEL), 1);
		ck_assert_int_eq(recover(&what, NULL), 0);
		ck_assert_int_eq(what, STFS_RECOVERED_NEW);
		model_bytes(NEW_TEXT, 0, &bytes);
		expect_file(MODEL, bytes.data, bytes.len, "recovery");
		ck_assert_int_eq(stfs_commit_interrupted(folder, MODEL), 0);
		ck_assert_int_eq(recover(&what, NULL), 0);
		ck_assert_int_eq(what, STFS_RECOVERED_NOTHING);
	}
}
END_TEST

START_TEST(a_foreign_file_is_left_alone)
{
	STFS_AUTO_BUF struct stfs_buf bytes = STFS_BUF_INIT;
	struct stfs_journal journal;
	enum stfs_recovered what;

	for (int kind = 0; kind < 4; kind++) {
		put_model(MODEL, OLD_TEXT, 0);
		get_file(MODEL, &bytes);
		if (kind == 0)
			bytes.data[20] ^= 1; /* another header */
		else if (kind == 1)
			stfs_store_le64(bytes.data, TEXT_LEN + 8); /* another length word */
		else if (kind == 2)
			bytes.len -= 100; /* cut off */
		else
			bytes.len = 4;
		put_file(MODEL, bytes.data, bytes.len);
		steps_journal(NULL, 0);
		expect_unbelieved("foreign", -EUCLEAN);
		expect_file(MODEL, bytes.data, bytes.len, "recovery of a foreign file");
	}
	/* Without a record nothing is owed to it: the journal goes, the file stays. */
	put_model(MODEL, NEW_TEXT, 0);
	get_file(MODEL, &bytes);
	begin_journal(&journal, (const char *const[]){MODEL}, 1);
	stfs_journal_close(&journal);
	ck_assert_int_eq(recover(&what, NULL), 0);
	ck_assert_int_eq(what, STFS_RECOVERED_OLD);
	expect_file(MODEL, bytes.data, bytes.len, "a journal without a record");
	ck_assert(!exists(JOURNAL));
}
END_TEST

/* ---- Files in another format ---- */

#define FOREIGN_LEN 200000

/* An archive; a model of its first 8,000 bytes behind the header is what becomes of it. */
static void put_foreign(const char *begin)
{
	STFS_AUTO_BUF struct stfs_buf bytes = STFS_BUF_INIT;

	stfs_buf_add(&bytes, begin, 8);
	for (size_t i = 8; i < FOREIGN_LEN; i++)
		stfs_buf_putc(&bytes, (char)(i * 3 + i / 256));
	put_file(MODEL, bytes.data, bytes.len);
}

static int foreign_journal(const char *begin, const struct stfs_step *steps, size_t count, bool record)
{
	STFS_AUTO_FD int fd = -1;
	struct stfs_journal journal = {.fd = -1, .count = 1, .files = calloc(1, sizeof(*journal.files))};
	struct stfs_journal_file *file = &journal.files[0];
	int r;

	put_foreign(begin);
	unlinkat(folder, JOURNAL, 0);
	*file = file_of(MODEL);
	fd = openat(folder, MODEL, O_RDONLY | O_CLOEXEC);
	r = stfs_commit_foreign_hash(fd, FOREIGN_LEN, &file->old_word, &file->old_hash);
	file->old_length = file->ahead = FOREIGN_LEN;
	file->foreign = true;
	file->steps = steps_of(steps, count);
	file->step_count = count;
	if (r == 0)
		ck_assert_int_eq(stfs_journal_begin(&journal, folder, MODEL), 0);
	if (r == 0 && record)
		ck_assert_int_eq(stfs_journal_record(&journal, 4096, 0), 0);
	stfs_journal_close(&journal);
	return r;
}

static const struct stfs_step becomes_model[] = {
	{.kind = STFS_STEP_ERASE, .item = UINT32_MAX, .to = FOREIGN_LEN - 1000, .len = 1000},
	{.kind = STFS_STEP_COPY, .item = UINT32_MAX, .from = 100000, .to = 8 + TEXT_LEN, .len = 8000},
	{.kind = STFS_STEP_TRUNCATE, .item = UINT32_MAX, .to = MODEL_LEN},
};

/* With a record the model, whether its first bytes are still its own or are poisoned; without, as it was. */
START_TEST(a_foreign_file_becomes_the_model_or_stays)
{
	STFS_AUTO_BUF struct stfs_buf bytes = STFS_BUF_INIT;
	STFS_AUTO_BUF struct stfs_buf old = STFS_BUF_INIT;
	enum stfs_recovered what;

	for (int kind = 0; kind < 3; kind++) {
		ck_assert_int_eq(foreign_journal("PK\3\4abcd", becomes_model, 3, kind < 2), 0);
		get_file(MODEL, &old);
		bytes.len = 0;
		stfs_buf_add(&bytes, old.data, old.len);
		if (kind == 1)
			stfs_store_le64(bytes.data, STFS_POISON);
		else if (kind == 2)
			stfs_buf_puts(&bytes, "new bytes behind the end");
		put_file(MODEL, bytes.data, bytes.len);
		ck_assert_int_eq(recover(&what, NULL), 0);
		ck_assert_int_eq(what, kind == 2 ? STFS_RECOVERED_OLD : STFS_RECOVERED_NEW);
		get_file(MODEL, &bytes);
		ck_assert_uint_eq(bytes.len, kind == 2 ? FOREIGN_LEN : MODEL_LEN);
		if (kind == 2)
			ck_assert_mem_eq(bytes.data, old.data, FOREIGN_LEN);
		else
			ck_assert_mem_eq(bytes.data + 8 + TEXT_LEN, old.data + 100000, 8000);
		ck_assert(!exists(JOURNAL));
	}
}
END_TEST

/* It was replaced since by another file: of either end a byte is enough to tell. */
START_TEST(another_foreign_file_is_left_alone)
{
	static const size_t places[] = {3, 10, 60000, FOREIGN_LEN - 60000, FOREIGN_LEN - 1};
	STFS_AUTO_BUF struct stfs_buf bytes = STFS_BUF_INIT;

	for (size_t i = 0; i < STFS_CHECK_COUNT(places); i++) {
		ck_assert_int_eq(foreign_journal("PK\3\4abcd", becomes_model, 3, true), 0);
		get_file(MODEL, &bytes);
		bytes.data[places[i]] ^= 1;
		put_file(MODEL, bytes.data, bytes.len);
		expect_unbelieved("another", -EUCLEAN);
		expect_file(MODEL, bytes.data, bytes.len, "recovery of another file");
	}
}
END_TEST

START_TEST(a_file_that_looks_poisoned_cannot_be_foreign)
{
	ck_assert_int_eq(foreign_journal("PK\3\4abc\200", NULL, 0, false), -EOPNOTSUPP);
	ck_assert_int_eq(foreign_journal("\0\0\0\0\0\0\0\0", NULL, 0, false), -EOPNOTSUPP);
}
END_TEST

/* It erases the end of a foreign file, before all else, and nothing else. */
START_TEST(hostile_erasures_are_refused)
{
	struct stfs_step steps[] = {becomes_model[0], becomes_model[0]};
	enum stfs_recovered what;

	put_model(MODEL, OLD_TEXT, 0);
	steps_journal(&(struct stfs_step){.kind = STFS_STEP_ERASE, .to = MODEL_LEN - 10, .len = 10}, 1);
	ck_assert_int_eq(recover(&what, NULL), -EPROTO);
	ck_assert_int_eq(foreign_journal("PK\3\4abcd", steps, 2, true), 0);
	ck_assert_int_eq(recover(&what, NULL), -EPROTO);
	steps[0].to--;
	ck_assert_int_eq(foreign_journal("PK\3\4abcd", steps, 1, true), 0);
	ck_assert_int_eq(recover(&what, NULL), -EPROTO);
	steps[0] = (struct stfs_step){.kind = STFS_STEP_ERASE, .to = FOREIGN_LEN - STFS_ERASED_MOST - 1,
				      .len = STFS_ERASED_MOST + 1};
	ck_assert_int_eq(foreign_journal("PK\3\4abcd", steps, 1, true), 0);
	ck_assert_int_eq(recover(&what, NULL), -EPROTO);
}
END_TEST

START_TEST(takes_back_what_has_no_record)
{
	STFS_AUTO_BUF struct stfs_buf bytes = STFS_BUF_INIT;
	struct stfs_journal journal;
	enum stfs_recovered what;

	put_model(MODEL, OLD_TEXT, 0);
	get_file(MODEL, &bytes);
	begin_journal(&journal, (const char *const[]){MODEL}, 1);
	stfs_journal_close(&journal);
	stfs_buf_puts(&bytes, "new bytes behind the end");
	put_file(MODEL, bytes.data, bytes.len);
	put_file("." MODEL ".stfs-new", "x", 1);
	ck_assert_int_eq(recover(&what, NULL), 0);
	ck_assert_int_eq(what, STFS_RECOVERED_OLD);
	expect_file(MODEL, bytes.data, MODEL_LEN, "taking back");
	ck_assert(!exists(JOURNAL) && !exists("." MODEL ".stfs-new"));
	/* A head that was not finished: nothing was begun. */
	put_file(JOURNAL, "STFSJNL1 and no more", 20);
	ck_assert_int_eq(recover(&what, NULL), 0);
	ck_assert_int_eq(what, STFS_RECOVERED_OLD);
	expect_file(MODEL, bytes.data, MODEL_LEN, "a torn head");
}
END_TEST

/* The file is poisoned, so that there was a record; it can no longer be read. Nothing must be thrown away. */
START_TEST(a_damaged_journal_of_a_poisoned_model_is_kept)
{
	STFS_AUTO_BUF struct stfs_buf bytes = STFS_BUF_INIT;
	STFS_AUTO_BUF struct stfs_buf model = STFS_BUF_INIT;
	struct stfs_err err = STFS_ERR_INIT;
	enum stfs_recovered what;
	uint64_t head, record;

	put_model(MODEL, OLD_TEXT, STFS_POISON);
	get_file(MODEL, &model);
	steps_journal(some_steps, STFS_CHECK_COUNT(some_steps));
	get_file(JOURNAL, &bytes);
	head = stfs_load_le64(bytes.data + 8);
	record = stfs_load_le64(bytes.data + 4096 + 8);
	for (uint64_t i = 0; i < 4096 + record; i = i + 1 == head ? 4096 : i + 1) {
		bytes.data[i] ^= 0x10;
		put_file(JOURNAL, bytes.data, bytes.len);
		bytes.data[i] ^= 0x10;
		ck_assert_msg(recover(&what, &err) == -EUCLEAN, "byte %" PRIu64 ": %s", i, err.message);
		ck_assert(exists(JOURNAL));
		expect_file(MODEL, model.data, model.len, "a damaged journal");
	}
}
END_TEST

START_TEST(a_locked_file_is_busy)
{
	enum stfs_recovered what;
	int fd;

	put_model(MODEL, OLD_TEXT, 0);
	steps_journal(NULL, 0);
	fd = openat(folder, MODEL, O_RDONLY | O_CLOEXEC);
	ck_assert_int_eq(flock(fd, LOCK_SH), 0);
	ck_assert_int_eq(recover(&what, NULL), -EBUSY);
	close(fd);
	ck_assert_int_eq(recover(&what, NULL), 0);
}
END_TEST

START_TEST(hostile_copies_are_refused)
{
	static const struct stfs_step steps[] = {
		{.kind = STFS_STEP_COPY, .from = 0, .to = 100, .len = 101},
		{.kind = STFS_STEP_COPY, .from = 100, .to = 0, .len = 101},
		{.kind = STFS_STEP_COPY, .from = 0, .to = 100, .len = UINT64_MAX - 50},
		{.kind = STFS_STEP_COPY, .from = 0, .to = INT64_MAX - 10ull, .len = 20},
		{.kind = STFS_STEP_INSERT, .to = 4096, .len = 1ull << 40},
		{.kind = STFS_STEP_WRITE, .to = 8, .len = 8},
		{.kind = STFS_STEP_CLONE, .to = 0, .len = 4096},
	};
	enum stfs_recovered what;

	for (size_t i = 0; i < STFS_CHECK_COUNT(steps); i++) {
		put_model(MODEL, OLD_TEXT, 0);
		steps_journal(&steps[i], 1);
		ck_assert_int_eq(recover(&what, NULL), -EPROTO);
	}
}
END_TEST

static size_t writes_left;

static ssize_t counted_pwrite(int fd, const void *bytes, size_t len, off_t offset)
{
	ck_assert_msg(writes_left-- > 0, "it writes without end");
	return pwrite(fd, bytes, len, offset);
}

static uint64_t hostile_number(void)
{
	switch (below(4)) {
	case 0: return below(3) * BLOCK;
	case 1: return below(MODEL_LEN + 100);
	case 2: return UINT64_MAX >> below(64);
	default: return UINT64_MAX - below(10000);
	}
}

START_TEST(hostile_steps_come_to_an_end)
{
	static const enum stfs_step_kind kinds[] = {STFS_STEP_COPY, STFS_STEP_COPY, STFS_STEP_COLLAPSE, STFS_STEP_INSERT,
						    STFS_STEP_TRUNCATE};
	enum stfs_recovered what;

	put_file("bystander", "untouched", 9);
	calls = stfs_io_system;
	calls.pwrite = counted_pwrite;
	stfs_io = &calls;
	for (int round = 0; round < 600; round++) {
		struct stfs_step steps[6];
		size_t count = below(6) + 1;

		for (size_t i = 0; i < count; i++)
			steps[i] = (struct stfs_step){.kind = kinds[below(STFS_CHECK_COUNT(kinds))], .item = UINT32_MAX,
						      .from = hostile_number(), .to = hostile_number(),
						      .len = hostile_number()};
		put_model(MODEL, OLD_TEXT, 0);
		writes_left = 4000;
		steps_journal(steps, count);
		(void)recover(&what, NULL);
		expect_file("bystander", "untouched", 9, "hostile steps");
		/* Or the next one would be held back by what this one has left. */
		unlinkat(folder, JOURNAL, 0);
		unlinkat(folder, MODEL, 0);
	}
}
END_TEST

/* ---- Files beside the model ---- */

START_TEST(names_beside_are_unique_and_fit)
{
	char name[NAME_MAX + 1];
	char *seen[600];
	size_t count = 0;

	for (size_t len = 1; len <= NAME_MAX; len++) {
		for (int tail = 0; tail < 2; tail++) {
			memset(name, 'n', len);
			name[len - 1] = (char)('a' + tail);
			name[len] = '\0';
			seen[count] = stfs_beside_name(name, STFS_BESIDE_JOURNAL);
			ck_assert_ptr_nonnull(seen[count]);
			ck_assert_uint_le(strlen(seen[count]), NAME_MAX);
			ck_assert(seen[count][0] == '.' &&
				  stfs_str_ends_with(stfs_str_from(seen[count]), STFS_BESIDE_JOURNAL));
			count++;
		}
	}
	for (size_t i = 0; i < count; i++)
		for (size_t k = 0; k < i; k++)
			ck_assert_str_ne(seen[i], seen[k]);
	while (count > 0)
		free(seen[--count]);
}
END_TEST

START_TEST(a_file_beside_takes_the_place_of_an_older_one)
{
	struct stat st;
	int fd;

	put_file(".x.stfs-new", "old", 3);
	fd = stfs_beside_create(folder, ".x.stfs-new", 0600);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(fstat(fd, &st), 0);
	ck_assert(st.st_size == 0 && (st.st_mode & 0777) == 0600);
	ck_assert_int_eq(stfs_beside_is(folder, ".x.stfs-new", fd), 1);
	ck_assert_int_eq(stfs_beside_is(folder, "gone", fd), 0);
	put_file("other", "", 0);
	ck_assert_int_eq(stfs_beside_is(folder, "other", fd), -ESTALE);
	close(fd);
	/* What a link there points to stays. */
	put_file("victim", "victim", 6);
	ck_assert_int_eq(unlinkat(folder, ".x.stfs-new", 0), 0);
	ck_assert_int_eq(symlinkat("victim", folder, ".x.stfs-new"), 0);
	fd = stfs_beside_create(folder, ".x.stfs-new", 0600);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, "evil", 4), 4);
	close(fd);
	expect_file("victim", "victim", 6, "a link in the new file's place");
}
END_TEST

static void add_case(Suite *suite, const char *name, const TTest *const *tests, size_t count, void (*before)(void))
{
	TCase *tcase = tcase_create(name);

	tcase_add_checked_fixture(tcase, make_root, remove_root);
	if (before)
		tcase_add_checked_fixture(tcase, before, NULL);
	tcase_set_timeout(tcase, 100);
	for (size_t i = 0; i < count; i++)
		tcase_add_test(tcase, tests[i]);
	suite_add_tcase(suite, tcase);
}

int main(void)
{
	const TTest *const extents[] = {
		judges_every_state_of_a_shift, refuses_files_that_do_not_come_of_the_shift, reads_no_map_without_addresses,
	};
	const TTest *const steps[] = {
		marks_stand_where_steps_could_not_be_run_again, a_shift_always_needs_a_mark,
		marks_keep_to_the_room_reserved_for_them, marks_follow_what_they_say,
		an_insert_at_the_front_is_poisoned_again, an_erasure_is_marked_at_once, writes_begin_and_end_inside_pieces,
	};
	const TTest *const journals[] = {
		a_journal_is_read_as_it_was_written, a_flipped_byte_of_a_journal_is_seen,
		a_journal_that_was_cut_off_is_seen, a_hostile_journal_does_no_harm,
		a_part_of_terabytes_is_not_read,
		believes_no_journal_that_others_may_have_written, believes_no_journal_of_another_owner,
		a_journal_reaches_no_file_of_another_owner, takes_no_name_that_leads_elsewhere,
		a_file_that_has_become_a_link_is_left_alone,
	};
	const TTest *const recovery[] = {
		finishes_what_the_journal_tells, a_foreign_file_is_left_alone, a_foreign_file_becomes_the_model_or_stays,
		another_foreign_file_is_left_alone, a_file_that_looks_poisoned_cannot_be_foreign, hostile_erasures_are_refused,
		takes_back_what_has_no_record,
		a_damaged_journal_of_a_poisoned_model_is_kept, a_locked_file_is_busy,
		hostile_copies_are_refused, hostile_steps_come_to_an_end,
	};
	const TTest *const beside[] = {
		names_beside_are_unique_and_fit, a_file_beside_takes_the_place_of_an_older_one,
	};
	Suite *suite = suite_create("commit");

	add_case(suite, "extents", extents, STFS_CHECK_COUNT(extents), use_disk);
	add_case(suite, "steps", steps, STFS_CHECK_COUNT(steps), NULL);
	add_case(suite, "journal", journals, STFS_CHECK_COUNT(journals), NULL);
	add_case(suite, "recovery", recovery, STFS_CHECK_COUNT(recovery), NULL);
	add_case(suite, "beside", beside, STFS_CHECK_COUNT(beside), NULL);
	return stfs_check_main(suite);
}
