/* SPDX-License-Identifier: MIT */
/*
 * The engine behind the mount, case by case: tables, takings, layers, rescue. Random operations beside an oracle:
 * test_tree_random.c.
 */
#include "tree_tools.h"

#include <sys/stat.h>

/* ---- T1, T2 ---- */

START_TEST(names_and_nodes_belong_together)
{
	uint32_t a, b, x, scratch;

	make_small();
	open_as(STFS_TREE_RW);
	check_tables();
	a = node_of("a");
	b = node_of("b");
	ck_assert_int_eq(stfs_tree_rename(tree, a, name_of("b"), true), -EEXIST);
	move("a", "t");
	move("b", "a");
	move("t", "b");
	check_tables();
	ck_assert(node_of("a") == b && node_of("b") == a && node_of("t") == STFS_NO_NUMBER);
	ck_assert_int_eq(stfs_tree_create(tree, name_of("a"), false, &x), -EEXIST);
	x = create("x", 9, 100);
	move("x", "a"); /* b's node has no name now, but stands in the model */
	check_tables();
	ck_assert(node_of("a") == x && node_of("x") == STFS_NO_NUMBER);
	ck_assert_int_eq(stfs_tree_rename(tree, b, name_of("b"), false), -ENOENT);
	ck_assert_int_eq(stfs_tree_rename_scratch(tree, a, str(".b.swp"), false), 0);
	check_tables();
	ck_assert(stfs_tree_scratch(tree, str(".b.swp")) == a && node_of("b") == STFS_NO_NUMBER);
	ck_assert_int_eq(stfs_tree_create_scratch(tree, str(".b.swp"), false, &scratch), -EEXIST);
	ck_assert_int_eq(stfs_tree_create_scratch(tree, str("y~"), false, &scratch), 0);
	ck_assert_int_eq(stfs_tree_rename_scratch(tree, scratch, str(".b.swp"), true), -EEXIST);
	ck_assert_int_eq(stfs_tree_rename_scratch(tree, a, str("y~"), false), 0);
	ck_assert_uint_eq(stfs_tree_scratch(tree, str("y~")), a);
	ck_assert_int_eq(stfs_tree_rename(tree, a, name_of("b"), false), 0); /* and back */
	ck_assert_uint_eq(stfs_tree_scratch(tree, str("y~")), STFS_NO_NUMBER);
	check_tables();
	commit();
	check_tables();
	check_node(node_of("a"), 9, 100);
	check_node(node_of("b"), 1, 5000);
	ck_assert_str_eq(on_disk(), "a:U8[100]9 b:U8[5000]1 c:U8[70000]3");
	ck_assert_uint_eq(pending(), 0);
}
END_TEST

START_TEST(every_tensor_has_its_node)
{
	uint32_t a, b, c, old;

	make_small();
	open_as(STFS_TREE_RW);
	a = node_of("a");
	b = node_of("b");
	c = node_of("c");
	for (int i = 0; i < 4; i++) {
		/* a and b change their names, c its size, which moves it; what is at an id is another each time. */
		move("a", "t");
		move("b", "a");
		move("t", "b");
		ck_assert_int_eq(stfs_tree_resize(tree, c, 0, true), 0);
		write_node(c, 10 + (unsigned)i, 1000 * (size_t)(i + 1), 0);
		commit();
		check_tables();
		check_node(a, 1, 5000);
		check_node(b, 2, 300);
		check_node(c, 10 + (unsigned)i, 1000 * (size_t)(i + 1));
		ck_assert_uint_eq(node_of(i & 1 ? "a" : "b"), a);
		old = a;
		ck_assert_int_eq(stfs_tree_renumber(tree, &a), 0);
		check_tables();
		ck_assert_uint_ne(a, old);
		ck_assert_uint_eq(node_of(i & 1 ? "a" : "b"), a);
	}
	ck_assert_str_eq(on_disk(), "a:U8[5000]1 b:U8[300]2 c:U8[4000]13");
	drop("a");
	ck_assert_uint_eq(create("d", 4, 44), tree->node_count - 1);
	commit();
	check_tables();
	ck_assert_str_eq(on_disk(), "b:U8[300]2 c:U8[4000]13 d:U8[44]4");
	close_tree();
	open_as(STFS_TREE_RW);
	check_tables();
}
END_TEST

/* ---- T3 ---- */

static void change_all(int fd)
{
	uint32_t a = node_of("a"), x = node_of("x");

	ck_assert(tree->committing);
	write_node(a, 50, 20000, 0); /* it was taken with other bytes */
	declare("a", STFS_F32, 5000, 20000);
	ck_assert_int_eq(stfs_tree_resize(tree, x, 0, true), 0);
	write_node(x, 51, 7, 0);
	move("x", "z");
	drop("b");
	create("b", 52, 30);
	write_node(node_of("c"), 53, 70000, 0);
	set_metadata("later");
	check_node(a, 50, 20000);
	check_node(x, 51, 7);
	check_node(node_of("c"), 53, 70000);
}

START_TEST(a_commit_takes_what_was_there)
{
	uint32_t a, c;

	make_small();
	open_as(STFS_TREE_RW);
	a = node_of("a");
	c = node_of("c");
	ck_assert_int_eq(stfs_tree_resize(tree, a, 0, true), 0);
	write_node(a, 40, 6000, 0);
	create("x", 41, 600);
	move("b", "bb");
	move("bb", "b"); /* no change */
	move("c", "d");
	set_metadata("now");
	calls.fsync = midway_fsync;
	stfs_io = &calls;
	move("d", "c");
	midway = change_all;
	commit();
	ck_assert(!midway);
	check_tables();
	ck_assert_str_eq(on_disk(), "a:U8[6000]40 b:U8[300]2 c:U8[70000]53 x:U8[600]41{k=now}");
	check_node(a, 50, 20000);
	check_node(c, 53, 70000);
	check_node(node_of("z"), 51, 7);
	check_node(node_of("b"), 52, 30);
	commit();
	ck_assert_str_eq(on_disk(), "a:F32[5000]50 b:U8[30]52 c:U8[70000]53 z:U8[7]51{k=later}");
	ck_assert_uint_eq(pending(), 0);
	ck_assert_uint_eq(stfs_tree_spooled(tree), 0);
}
END_TEST

static bool ended;
static unsigned syncs_behind;

static int ending_unlink(int folder, const char *name, int flags)
{
	ended |= strstr(name, "journal") != NULL;
	return unlinkat(folder, name, flags);
}

static int counting_fsync(int fd)
{
	struct stat one, model;

	if (ended && fstat(fd, &one) == 0 && stat(at(M), &model) == 0 && one.st_ino == model.st_ino)
		syncs_behind++;
	return fsync(fd);
}

/* What a commit has written is on the disk; what was written in place before it, nobody knows. */
START_TEST(a_commit_is_not_synced_again)
{
	make_small();
	open_as(STFS_TREE_RW);
	calls.unlinkat = ending_unlink;
	calls.fsync = counting_fsync;
	stfs_io = &calls;
	for (unsigned turn = 0; turn < 2; turn++) {
		ended = false;
		syncs_behind = 0;
		create(turn ? "y" : "x", 9, 100000);
		if (turn)
			write_node(node_of("a"), 8, 100, 0);
		commit();
		ck_assert(ended);
		ck_assert_uint_eq(syncs_behind, turn);
	}
}
END_TEST

static const char *removed_midway;

static void remove_midway(int fd)
{
	drop(removed_midway);
}

START_TEST(nothing_is_left_of_what_went_while_it_was_taken)
{
	make_small();
	open_as(STFS_TREE_RW);
	create("x", 9, 100000);
	removed_midway = "x";
	fail_commit(remove_midway);
	ck_assert_uint_eq(pending(), 0);
	ck_assert_uint_eq(stfs_tree_spooled(tree), 0);
	commit();
	ck_assert_str_eq(on_disk(), SMALL);
}
END_TEST

static void rename_onto_b(int fd)
{
	move("x", "b");
}

START_TEST(a_type_that_came_during_the_commit_has_the_rows_of_the_file)
{
	make_small();
	open_as(STFS_TREE_RW);
	create("x", 9, 150);
	calls.fsync = midway_fsync;
	stfs_io = &calls;
	midway = rename_onto_b;
	commit();
	stfs_io = &stfs_io_system;
	ck_assert_str_eq(on_disk(), SMALL " x:U8[150]9");
	commit();
	ck_assert_str_eq(on_disk(), "a:U8[5000]1 b:U8[150]9 c:U8[70000]3");
	ck_assert_uint_eq(pending(), 0);
}
END_TEST

/* ---- Commits that fail, layer upon layer ---- */

static void write_over(int fd)
{
	write_node(node_of("a"), 60, 100, 0);
	write_node(node_of("c"), 60, 200, 0);
}

static void resize_midway(int fd)
{
	ck_assert_int_eq(stfs_tree_resize(tree, node_of("a"), 4000, false), 0);
	ck_assert_int_eq(stfs_tree_resize(tree, node_of("a"), 4500, false), 0);
}

static void rename_midway(int fd)
{
	move("a", "aa");
	declare("aa", STFS_F32, 1125, 4500);
	set_metadata("x");
}

static void start_over_midway(int fd)
{
	ck_assert_int_eq(stfs_tree_resize(tree, node_of("aa"), 0, true), 0);
	write_node(node_of("aa"), 61, 4500, 0);
}

START_TEST(layers_lie_upon_layers_of_commits_that_failed)
{
	STFS_AUTO_FREE unsigned char *want = patterned(1, 5000), *top = patterned(60, 200);
	STFS_AUTO_FREE unsigned char *got = malloc(5000);
	uint32_t a;

	make_small();
	open_as(STFS_TREE_RW);
	a = node_of("a");
	ck_assert_int_eq(stfs_tree_resize(tree, a, 5001, false), 0);
	fail_commit(write_over);
	memcpy(want, top, 100);
	fail_commit(resize_midway);
	memset(want + 4000, 0, 500);
	fail_commit(rename_midway);
	ck_assert(tree->nodes[a].content->under && tree->nodes[a].content->under->under);
	stfs_tree_hold(tree);
	ck_assert_int_eq(stfs_tree_pread(tree, a, got, 5000, 0), 4500);
	stfs_tree_release(tree);
	ck_assert_int_eq(memcmp(got, want, 4500), 0);
	ck_assert_str_eq(on_disk(), SMALL);
	fail_commit(start_over_midway);
	check_node(a, 61, 4500);
	commit();
	ck_assert_str_eq(on_disk(), "aa:F32[1125]61 b:U8[300]2 c:U8[70000]-1{k=x}");
	ck_assert_uint_eq(pending(), 0);
	ck_assert_uint_eq(stfs_tree_spooled(tree), 0);
}
END_TEST

/* ---- Rescue ---- */

static void replace_model(void)
{
	ck_assert_int_eq(rename(at(M), at("kept")), 0);
	make_small();
}

static void rescue(void)
{
	struct stfs_err err = STFS_ERR_INIT;

	ck_assert_msg(stfs_tree_rescue(tree, &err) == 1, "%s", err.message);
	close_tree();
}

/* Takes up what was rescued. */
static void recover(void)
{
	enum stfs_recovered what;
	struct stfs_err err = STFS_ERR_INIT;

	ck_assert_msg(stfs_recover(at(M), 0, &what, &err) == 0, "%s", err.message);
	ck_assert_int_eq(what, STFS_RECOVERED_RESCUED);
}

static int no_tmpfile(int folder, const char *name, int flags, mode_t mode)
{
	if ((flags & O_TMPFILE) != O_TMPFILE)
		return openat(folder, name, flags, mode);
	errno = EOPNOTSUPP;
	return -1;
}

static int full_disk(int fd, int mode, off_t offset, off_t len)
{
	errno = ENOSPC;
	return -1;
}

/* _i: 0 the model is another one, 1 no room; 2 with a spool elsewhere, 3 where no file is without a name. */
START_TEST(what_cannot_be_committed_is_rescued)
{
	STFS_AUTO_FREE char *model = NULL, *elsewhere = NULL;
	struct stfs_tree_options options = {.mode = STFS_TREE_RW};

	make_small();
	ck_assert_int_eq(mkdir(at("elsewhere"), 0700), 0);
	options.path = model = strdup(at(M));
	elsewhere = strdup(at("elsewhere"));
	if (_i == 2)
		options.spool_folder = elsewhere;
	if (_i == 3)
		calls.openat = no_tmpfile;
	stfs_io = &calls;
	ck_assert_int_eq(stfs_tree_open(&options, &tree, NULL), 0);
	create("x", 9, 150000);
	create("odd", 8, 10);
	declare("odd", STFS_F32, 3, 12);
	ck_assert_int_eq(stfs_tree_resize(tree, node_of("a"), 5100, false), 0);
	write_node(node_of("a"), 7, 5100, 0);
	move("b", "bb");
	declare("bb", STFS_F32, 75, 300);
	drop("c");
	set_metadata("v");
	if (_i == 0) {
		replace_model();
		ck_assert_int_eq(try_commit(true, true), -ESTALE);
	} else {
		calls.fallocate = full_disk;
		ck_assert_int_eq(try_commit(true, true), -ENOSPC);
		calls.fallocate = fallocate;
	}
	rescue();
	stfs_io = &stfs_io_system;
	if (_i == 0)
		ck_assert_int_eq(rename(at("kept"), at(M)), 0);
	ck_assert_str_eq(on_disk(), SMALL);
	ck_assert_int_eq(access(at(".m.safetensors.stfs-rescue"), F_OK), 0);
	if (_i)
		recover();
	open_as(STFS_TREE_RW);
	ck_assert_str_eq(on_disk(), "a:U8[5100]7 bb:F32[75]2 odd:U8[10]8 x:U8[150000]9{k=v}");
	check_node(node_of("x"), 9, 150000);
	check_tables();
	ck_assert_int_ne(access(at(".m.safetensors.stfs-rescue"), F_OK), 0);
}
END_TEST

static void write_all_of_c(int fd)
{
	write_node(node_of("c"), 33, 70000, 0);
}

/* Such writes wait for no commit but for the end of one. */
START_TEST(writes_beside_a_commit_that_failed_are_rescued)
{
	make_small();
	open_as(STFS_TREE_RW);
	create("x", 9, 10);
	if (_i)
		drop("b");
	fail_commit(write_all_of_c);
	if (_i == 2) /* nothing else is pending */
		drop("x");
	replace_model();
	ck_assert_int_eq(try_commit(true, true), -ESTALE);
	rescue();
	ck_assert_int_eq(rename(at("kept"), at(M)), 0);
	open_as(STFS_TREE_RW);
	ck_assert_str_eq(on_disk(), _i == 0   ? "a:U8[5000]1 b:U8[300]2 c:U8[70000]33 x:U8[10]9"
				    : _i == 1 ? "a:U8[5000]1 c:U8[70000]33 x:U8[10]9"
					      : "a:U8[5000]1 c:U8[70000]33");
}
END_TEST

/* ---- Removed but open ---- */

#define LARGE (9u << 20)

START_TEST(what_is_removed_keeps_its_bytes_while_it_is_open)
{
	static const struct tensor tensors[] = {{"a", 5000, 1}, {"big", LARGE, 2}, {"c", 70000, 3}};
	uint32_t big, c;

	make_model(tensors, STFS_CHECK_COUNT(tensors));
	open_as(STFS_TREE_RW);
	big = node_of("big");
	c = node_of("c");
	open_node(big);
	open_node(c);
	drop("big");
	drop("c");
	create("c", 9, 1000);
	ck_assert_int_eq(try_commit(false, false), 0); /* an automatic one waits */
	ck_assert_str_eq(on_disk(), "a:U8[5000]1 big:U8[9437184]2 c:U8[70000]3");
	commit();
	ck_assert_str_eq(on_disk(), "a:U8[5000]1 c:U8[1000]9");
	check_node(big, 2, LARGE);
	check_node(c, 3, 70000);
	write_node(c, 4, 70000, 0);
	check_node(c, 4, 70000);
	ck_assert(stfs_tree_spooled(tree) >= LARGE);
	stfs_tree_closed(tree, big);
	stfs_tree_closed(tree, c);
	ck_assert_uint_eq(stfs_tree_spooled(tree), 0);
	check_tables();
}
END_TEST

/* ---- What waits for what ---- */

START_TEST(who_wants_the_name_of_one_that_waits_waits_too)
{
	uint32_t a;

	make_small();
	open_as(STFS_TREE_RW);
	a = node_of("a");
	/* c wants b's name, b wants a's, and a is written. */
	open_node(a);
	stfs_tree_begin_writing(tree, a);
	ck_assert_int_eq(stfs_tree_resize(tree, a, 5001, false), 0);
	move("a", "z");
	move("b", "a");
	move("c", "b");
	create("c", 7, 70);
	create("free", 8, 80);
	ck_assert_int_eq(try_commit(true, false), 0);
	ck_assert_str_eq(on_disk(), SMALL " free:U8[80]8");
	ck_assert_uint_eq(pending(), 4);
	check_tables();
	stfs_tree_end_writing(tree, a);
	stfs_tree_closed(tree, a);
	ck_assert_int_eq(stfs_tree_resize(tree, a, 5000, false), 0);
	ck_assert_int_eq(try_commit(false, false), 0); /* "c" has the type of nobody: it waits alone */
	ck_assert_str_eq(on_disk(), "a:U8[300]2 b:U8[70000]3 free:U8[80]8 z:U8[5000]1");
	commit();
	ck_assert_str_eq(on_disk(), "a:U8[300]2 b:U8[70000]3 c:U8[70]7 free:U8[80]8 z:U8[5000]1");
	/* What is to take its place is left out: then it stays. */
	drop("a");
	create("a", 9, 90);
	declare("a", STFS_F32, 99, 396);
	ck_assert_int_eq(try_commit(true, false), 0);
	ck_assert_str_eq(on_disk(), "a:U8[300]2 b:U8[70000]3 c:U8[70]7 free:U8[80]8 z:U8[5000]1");
	check_node(node_of("a"), 9, 90);
	ck_assert_int_eq(try_commit(true, true), 0);
	ck_assert_str_eq(on_disk(), "a:U8[90]9 b:U8[70000]3 c:U8[70]7 free:U8[80]8 z:U8[5000]1");
}
END_TEST

/* Found out from the last to the first. */
START_TEST(who_wants_the_name_of_one_that_turns_out_to_wait_waits_too)
{
	uint32_t c;

	make_small();
	open_as(STFS_TREE_RW);
	c = node_of("c");
	open_node(c);
	stfs_tree_begin_writing(tree, c);
	ck_assert_int_eq(stfs_tree_resize(tree, c, 70001, false), 0);
	move("c", "z");
	move("b", "c");
	move("a", "b");
	create("free", 8, 80);
	ck_assert_int_eq(try_commit(true, false), 0);
	ck_assert_str_eq(on_disk(), SMALL " free:U8[80]8");
	ck_assert_uint_eq(pending(), 3);
	stfs_tree_end_writing(tree, c);
	stfs_tree_closed(tree, c);
	ck_assert_int_eq(stfs_tree_resize(tree, c, 70000, false), 0);
	commit();
	ck_assert_str_eq(on_disk(), "b:U8[5000]1 c:U8[300]2 free:U8[80]8 z:U8[70000]3");
}
END_TEST

static void expect_rows(const char *stem, uint64_t rows)
{
	uint32_t name = name_of(stem);
	struct stfs_typing_view view;

	stfs_tree_hold(tree);
	ck_assert(stfs_tree_typing(tree, name, &view));
	stfs_tree_release(tree);
	if (!rows)
		ck_assert_int_eq(view.fit, STFS_FIT_NOT);
	else if (view.fit == STFS_FIT_EXACT)
		ck_assert_uint_eq(view.bytes, 4 * rows);
	else
		ck_assert(view.fit == STFS_FIT_ROWS && view.first == rows);
}

/* close(2) is followed by the release some time later: who comes in between finds the type settled. */
START_TEST(a_type_settles_when_all_writers_rest)
{
	uint32_t x;

	make_small();
	open_as(STFS_TREE_RW);
	declare("x", STFS_F32, 10, 40);
	x = create("x", 1, 36);
	open_node(x);
	stfs_tree_begin_writing(tree, x);
	stfs_tree_rest_writing(tree, x); /* a child process ended: the bytes are not all there */
	expect_rows("x", 0);
	stfs_tree_resume_writing(tree, x);
	write_node(x, 1, 40, 0);
	stfs_tree_begin_writing(tree, x); /* another one: it goes on */
	stfs_tree_rest_writing(tree, x);
	ck_assert_int_eq(stfs_tree_resize(tree, x, 44, false), 0);
	expect_rows("x", 0);
	ck_assert_int_eq(stfs_tree_resize(tree, x, 40, false), 0);
	stfs_tree_rest_writing(tree, x);
	ck_assert_int_eq(stfs_tree_resize(tree, x, 44, false), 0);
	expect_rows("x", 11);
	/* Both may be going on all the same. */
	ck_assert_int_eq(try_commit(true, false), 0);
	ck_assert_str_eq(on_disk(), SMALL);
	stfs_tree_end_resting(tree, x);
	stfs_tree_resume_writing(tree, x);
	ck_assert_int_eq(try_commit(true, false), 0);
	ck_assert_str_eq(on_disk(), SMALL);
	stfs_tree_end_writing(tree, x);
	stfs_tree_closed(tree, x);
	write_node(x, 1, 44, 0);
	commit();
	ck_assert_str_eq(on_disk(), SMALL " x:F32[11]1");
}
END_TEST

/* It ends while another rests: nobody writes then either. */
START_TEST(a_type_settles_when_the_last_that_does_not_rest_ends)
{
	uint32_t x, y;

	make_small();
	open_as(STFS_TREE_RW);
	declare("x", STFS_F32, 10, 40);
	x = create("x", 1, 40);
	stfs_tree_begin_writing(tree, x);
	stfs_tree_begin_writing(tree, x);
	stfs_tree_rest_writing(tree, x);
	stfs_tree_end_writing(tree, x);
	ck_assert_int_eq(stfs_tree_resize(tree, x, 20, false), 0);
	expect_rows("x", 5);
	stfs_tree_end_resting(tree, x);
	/* A type that the name had before the bytes. */
	declare("z", STFS_F32, 10, 40);
	y = create("y", 1, 40);
	stfs_tree_begin_writing(tree, y);
	stfs_tree_rest_writing(tree, y);
	move("y", "z");
	ck_assert_int_eq(stfs_tree_resize(tree, y, 20, false), 0);
	expect_rows("z", 5);
	stfs_tree_end_resting(tree, y);
}
END_TEST

START_TEST(where_nothing_changed_nothing_is_looked_for)
{
	make_small();
	open_as(STFS_TREE_RW);
	create("x", 1, 1);
	commit();
	commit(); /* finds nothing, and says so */
	ck_assert(!tree->staged_any);
	write_node(node_of("a"), 2, 5000, 0);
	ck_assert(!tree->staged_any);
	commit();
	ck_assert(!tree->staged_any);
	ck_assert_int_eq(stfs_tree_resize(tree, node_of("a"), 1, false), 0);
	ck_assert(tree->staged_any);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		names_and_nodes_belong_together, every_tensor_has_its_node, a_commit_takes_what_was_there,
		a_commit_is_not_synced_again, nothing_is_left_of_what_went_while_it_was_taken,
		a_type_that_came_during_the_commit_has_the_rows_of_the_file,
		layers_lie_upon_layers_of_commits_that_failed, what_is_removed_keeps_its_bytes_while_it_is_open,
		who_wants_the_name_of_one_that_waits_waits_too,
		who_wants_the_name_of_one_that_turns_out_to_wait_waits_too,
		a_type_settles_when_all_writers_rest, a_type_settles_when_the_last_that_does_not_rest_ends,
		where_nothing_changed_nothing_is_looked_for,
	};
	Suite *suite = suite_create("tree");
	TCase *tcase = tcase_create("tree");

	tcase_add_checked_fixture(tcase, make_root, remove_root);
	tcase_set_timeout(tcase, 100);
	for (size_t i = 0; i < STFS_CHECK_COUNT(tests); i++)
		tcase_add_test(tcase, tests[i]);
	tcase_add_loop_test(tcase, what_cannot_be_committed_is_rescued, 0, 4);
	tcase_add_loop_test(tcase, writes_beside_a_commit_that_failed_are_rescued, 0, 3);
	suite_add_tcase(suite, tcase);
	return stfs_check_main(suite);
}
