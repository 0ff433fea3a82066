/* SPDX-License-Identifier: MIT */
/* Files that are being written, without a kernel: what fails and may be tried again. Real mounts: mount/test_drafts.py. */
#include "tree_tools.h"

#include "format/npy.h"
#include "fs/draft.h"

#define ROWS 3000 /* more than one box */
#define COLUMNS 1500
#define BYTES (2 * ROWS * COLUMNS)

static struct stfs_fs fs;
static struct stfs_draft *draft; /* of f.npy: U16 [ROWS, COLUMNS] in Fortran order, not yet taken over */
static uint32_t name;
static size_t header_len;

/* Element [i, j]. */
static uint16_t element(unsigned i, unsigned j)
{
	return (uint16_t)(i * 211 + j * 3);
}

static void write_draft(const void *bytes, size_t len, uint64_t offset)
{
	pthread_mutex_lock(&fs.drafts_lock);
	ck_assert_int_eq(stfs_draft_write(&fs, draft, bytes, len, offset), 0);
	pthread_mutex_unlock(&fs.drafts_lock);
}

static int take(void)
{
	int r;

	pthread_mutex_lock(&fs.drafts_lock);
	r = stfs_draft_take(&fs, draft);
	pthread_mutex_unlock(&fs.drafts_lock);
	return r;
}

static void make_draft(void)
{
	STFS_AUTO_BUF struct stfs_buf header = STFS_BUF_INIT;
	STFS_AUTO_FREE uint16_t *bytes = malloc(BYTES);
	const uint64_t dims[2] = {ROWS, COLUMNS};

	make_root();
	make_small();
	open_as(STFS_TREE_RW);
	fs = (struct stfs_fs){.tree = tree, .drafts_lock = PTHREAD_MUTEX_INITIALIZER,
			       .drafts_idle = PTHREAD_COND_INITIALIZER};
	ck_assert_int_eq(stfs_tree_make_name(tree, str("f"), &name), 0);
	ck_assert_int_eq(stfs_draft_open(&fs, stfs_fs_ino(name, STFS_FORM_NPY), O_WRONLY | O_TRUNC, &draft), 0);
	ck_assert_int_eq(stfs_npy_header(STFS_U16, dims, 2, &header), 0);
	memcpy(memmem(header.data, header.len, "False", 5), "True ", 5);
	header_len = header.len;
	for (unsigned i = 0; i < ROWS; i++)
		for (unsigned j = 0; j < COLUMNS; j++)
			bytes[j * ROWS + i] = element(i, j);
	write_draft(header.data, header.len, 0);
	write_draft(bytes, BYTES, header.len);
}

static void drop_draft(void)
{
	stfs_tree_on_change(tree, NULL, NULL);
	pthread_mutex_lock(&fs.drafts_lock);
	stfs_draft_close(&fs, draft);
	pthread_mutex_unlock(&fs.drafts_lock);
	for (unsigned i = 0; i < fs.refused_count; i++) {
		free(fs.refused[i].file);
		free(fs.refused[i].why);
	}
	stfs_tree_forget_name(tree, name, 1);
	remove_root();
}

/* The tensor is there, in C order. */
static void check_taken(void)
{
	STFS_AUTO_FREE uint16_t *bytes = malloc(BYTES + 1);
	uint32_t node = node_of("f");

	ck_assert_uint_ne(node, STFS_NO_NUMBER);
	stfs_tree_hold(tree);
	ck_assert_int_eq(stfs_tree_pread(tree, node, bytes, BYTES + 1, 0), BYTES);
	stfs_tree_release(tree);
	for (unsigned i = 0; i < ROWS; i++)
		for (unsigned j = 0; j < COLUMNS; j++)
			if (bytes[i * COLUMNS + j] != element(i, j)) /* an assertion each takes a minute */
				ck_abort_msg("[%u, %u] is %u, not %u", i, j, bytes[i * COLUMNS + j], element(i, j));
}

/* ---- */

static uint64_t spooled;

/* As soon as bytes are written: no edit may be made any more. */
static void get_stuck(void *data)
{
	if (stfs_tree_spooled(tree) > spooled)
		tree->stuck = true;
}

START_TEST(an_array_that_was_not_taken_may_be_taken_later)
{
	spooled = stfs_tree_spooled(tree);
	stfs_tree_on_change(tree, get_stuck, NULL);
	ck_assert_int_eq(take(), -EROFS);
	ck_assert(tree->stuck);
	ck_assert_uint_eq(node_of("f"), STFS_NO_NUMBER);
	tree->stuck = false;
	stfs_tree_on_change(tree, NULL, NULL);
	ck_assert_uint_eq(stfs_tree_spooled(tree), spooled);
	ck_assert_uint_eq(stfs_draft_len(&fs, draft), header_len + BYTES);
	ck_assert_int_eq(take(), 0);
	check_taken();
}
END_TEST

static unsigned held, loose; /* edits told while drafts_lock was held, and while it was not */

static void try_lock(void *data)
{
	if (pthread_mutex_trylock(&fs.drafts_lock) == 0) {
		loose++;
		pthread_mutex_unlock(&fs.drafts_lock);
	} else {
		held++;
	}
}

/* Who looks at the directory does not wait for as long as that takes: only for the moment in which the names change. */
START_TEST(writing_and_taking_hold_no_lock)
{
	held = loose = 0;
	stfs_tree_on_change(tree, try_lock, NULL);
	write_draft("\x93", 1, 0);
	ck_assert_uint_eq(held, 0);
	ck_assert_uint_eq(loose, 1);
	ck_assert_int_eq(take(), 0);
	ck_assert_uint_le(held, 1);
	ck_assert_uint_ge(loose, 3);
	check_taken();
}
END_TEST

static void *write_beside(void *data)
{
	write_draft(data, 2, header_len);
	return NULL;
}

static bool started;
static pthread_t beside;

/* In the middle of being taken over somebody writes, and somebody removes it. */
static void start_beside(void *data)
{
	static const uint16_t other = 0xABCD;

	if (!started) {
		started = true;
		ck_assert_int_eq(pthread_create(&beside, NULL, write_beside, (void *)(uintptr_t)&other), 0);
	}
	if (data && pthread_mutex_trylock(&fs.drafts_lock) == 0) {
		stfs_draft_remove(&fs, draft->ino);
		pthread_mutex_unlock(&fs.drafts_lock);
	}
}

START_TEST(what_is_written_while_it_is_taken_comes_after_it)
{
	uint16_t first;

	started = false;
	stfs_tree_on_change(tree, start_beside, NULL);
	ck_assert_int_eq(take(), 0);
	pthread_join(beside, NULL);
	ck_assert(draft->taken && draft->busy == false);
	ck_assert_int_eq(stfs_draft_read(&fs, draft, &first, 2, header_len), 2);
	ck_assert_uint_eq(first, 0xABCD);
}
END_TEST

START_TEST(what_is_removed_while_it_is_taken_is_not_there)
{
	started = false;
	stfs_tree_on_change(tree, start_beside, &started);
	ck_assert_int_eq(take(), 0);
	pthread_join(beside, NULL);
	ck_assert(!draft->taken && draft->removed);
	ck_assert_uint_eq(node_of("f"), STFS_NO_NUMBER);
	ck_assert_uint_eq(stfs_draft_len(&fs, draft), header_len + BYTES);
}
END_TEST

static ssize_t no_pread(int fd, void *buffer, size_t len, off_t offset)
{
	if (len != 4096) { /* the header is read so */
		errno = EIO;
		return -1;
	}
	return pread(fd, buffer, len, offset);
}

static void *no_mmap(void *address, size_t len, int prot, int flags, int fd, off_t offset)
{
	errno = ENODEV;
	return MAP_FAILED;
}

/* The disk of the spool: an error, and no signal. */
START_TEST(an_array_that_cannot_be_read_is_not_taken)
{
	calls.pread = no_pread;
	calls.mmap = no_mmap;
	stfs_io = &calls;
	ck_assert_int_eq(take(), -EIO);
	ck_assert_uint_eq(node_of("f"), STFS_NO_NUMBER);
	stfs_io = &stfs_io_system;
	ck_assert_int_eq(take(), 0);
	check_taken();
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		an_array_that_was_not_taken_may_be_taken_later, an_array_that_cannot_be_read_is_not_taken,
		writing_and_taking_hold_no_lock, what_is_written_while_it_is_taken_comes_after_it,
		what_is_removed_while_it_is_taken_is_not_there,
	};
	Suite *suite = suite_create("draft");
	TCase *tcase = tcase_create("draft");

	tcase_add_checked_fixture(tcase, make_draft, drop_draft);
	tcase_set_timeout(tcase, 100);
	for (size_t i = 0; i < STFS_CHECK_COUNT(tests); i++)
		tcase_add_test(tcase, tests[i]);
	suite_add_tcase(suite, tcase);
	return stfs_check_main(suite);
}
