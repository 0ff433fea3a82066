/* SPDX-License-Identifier: MIT */
/* The engine behind the mount, case by case. Random operations beside an oracle: test_tree_random.c. */
#include "stfs_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/siphash.h"
#include "format/names.h"
#include "store/tree_pending.h"

#define M "m.safetensors"

/* ---- What every test has ---- */

static struct stfs_tree *tree;
static struct stfs_io calls;

static void make_root(void)
{
	make_folder("tree");
	calls = stfs_io_system;
	tree = NULL;
}

static void remove_root(void)
{
	stfs_io = &stfs_io_system;
	stfs_tree_close(tree);
	remove_folder();
}

static struct stfs_str str(const char *text)
{
	return stfs_str_from(text);
}

/* Byte i of every tensor and every write is that of its seed. */
static unsigned char pattern(unsigned seed, uint64_t i)
{
	return (unsigned char)(seed * 37 + i * 131 + i / 257);
}

static void *patterned(unsigned seed, size_t len)
{
	unsigned char *bytes = malloc(len ? len : 1);

	for (size_t i = 0; i < len; i++)
		bytes[i] = pattern(seed, i);
	return bytes;
}

struct tensor {
	const char *name;
	uint64_t len;
	unsigned seed;
};

static void make_model(const struct tensor *tensors, size_t count)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_edit *edit;
	int fds[16];

	ck_assert_msg(stfs_edit_create(at(M), STFS_EDIT_OVERWRITE, &edit, &err) == 0, "%s", err.message);
	for (size_t i = 0; i < count; i++) {
		STFS_AUTO_FREE void *bytes = patterned(tensors[i].seed, tensors[i].len);

		fds[i] = memfd_create("bytes", MFD_CLOEXEC);
		ck_assert_int_eq(pwrite(fds[i], bytes, tensors[i].len, 0), (ssize_t)tensors[i].len);
		ck_assert_int_eq(stfs_edit_put(edit, str(tensors[i].name), STFS_U8, &tensors[i].len, 1,
					       (struct stfs_source){.fd = fds[i]}, &err), 0);
	}
	ck_assert_msg(stfs_edit_commit(edit, NULL, NULL, &err) == 0, "%s", err.message);
	stfs_edit_close(edit);
	for (size_t i = 0; i < count; i++)
		close(fds[i]);
}

/* a: 5000 bytes of seed 1, b: 300 of seed 2, c: 70000 of seed 3. */
static void make_small(void)
{
	static const struct tensor tensors[] = {{"a", 5000, 1}, {"b", 300, 2}, {"c", 70000, 3}};

	make_model(tensors, STFS_CHECK_COUNT(tensors));
}

static void open_as(enum stfs_tree_mode mode)
{
	const struct stfs_tree_options options = {.path = at(M), .mode = mode};
	struct stfs_err err = STFS_ERR_INIT;

	ck_assert_msg(stfs_tree_open(&options, &tree, &err) == 0, "%s", err.message);
}

static void close_tree(void)
{
	stfs_tree_close(tree);
	tree = NULL;
}

static char said[sizeof(((struct stfs_err *)0)->message)]; /* by the last commit that failed */

static int try_commit(bool all, bool end)
{
	const struct stfs_commit_request request = {.all = all, .end = end};
	struct stfs_commit_report report;
	struct stfs_err err = STFS_ERR_INIT;
	int r = stfs_tree_commit(tree, &request, &report, &err);

	stfs_commit_report_free(&report);
	if (r < 0)
		snprintf(said, sizeof(said), "%s", err.message);
	return r;
}

static void commit(void)
{
	ck_assert_int_eq(try_commit(true, false), 0);
}

/* T1, T2. */
static void check_tables(void)
{
	uint32_t ids = tree->model ? stfs_model_ids(tree->model) : 0;

	for (uint32_t i = 0; i < tree->node_count; i++) {
		const struct stfs_node *node = &tree->nodes[i];

		if (node->used && node->name != STFS_NO_NUMBER)
			ck_assert(tree->names[node->name].used && tree->names[node->name].node == i && !node->scratch);
		if (node->used && node->id != STFS_NO_TENSOR)
			ck_assert(node->id < ids && tree->by_id[node->id] == i);
	}
	for (uint32_t i = 0; i < tree->name_count; i++)
		if (tree->names[i].used && tree->names[i].node != STFS_NO_NUMBER)
			ck_assert_uint_eq(tree->nodes[tree->names[i].node].name, i);
	for (uint32_t id = 0; id < ids; id++)
		ck_assert_uint_eq(tree->nodes[tree->by_id[id]].id, id);
}

/* ---- Files by name ---- */

static uint32_t name_of(const char *stem)
{
	uint32_t name;

	ck_assert_int_eq(stfs_tree_make_name(tree, str(stem), &name), 0);
	stfs_tree_forget_name(tree, name, 1);
	return name;
}

static uint32_t node_of(const char *stem)
{
	uint32_t name;
	int r = stfs_tree_find(tree, str(stem), &name);

	return r < 0 ? STFS_NO_NUMBER : stfs_tree_named(tree, name);
}

static void write_node(uint32_t node, unsigned seed, size_t len, uint64_t offset)
{
	STFS_AUTO_FREE void *bytes = patterned(seed, len);

	ck_assert_int_eq(stfs_tree_write(tree, node, bytes, len, offset), 0);
}

static uint32_t create(const char *stem, unsigned seed, size_t len)
{
	uint32_t node;

	ck_assert_int_eq(stfs_tree_create(tree, name_of(stem), false, &node), 0);
	stfs_tree_forget_node(tree, node, 1);
	write_node(node, seed, len, 0);
	return node;
}

static void move(const char *from, const char *to)
{
	ck_assert_int_eq(stfs_tree_rename(tree, node_of(from), name_of(to), false), 0);
}

static void drop(const char *stem)
{
	ck_assert_int_eq(stfs_tree_remove(tree, name_of(stem)), 0);
}

static void open_node(uint32_t node)
{
	stfs_tree_hold(tree);
	stfs_tree_opened(tree, node);
	stfs_tree_release(tree);
}

static void declare(const char *stem, enum stfs_dtype dtype, uint64_t rows, uint64_t bytes)
{
	const struct stfs_wanted_type wanted = {dtype, &rows, 1, bytes};

	ck_assert_int_eq(stfs_tree_declare(tree, name_of(stem), &wanted), 0);
}

/* All bytes of a node are of this seed. */
static void check_node(uint32_t node, unsigned seed, size_t len)
{
	STFS_AUTO_FREE unsigned char *bytes = malloc(len + 1);
	STFS_AUTO_FREE unsigned char *want = patterned(seed, len);
	ssize_t got;

	stfs_tree_hold(tree);
	got = stfs_tree_pread(tree, node, bytes, len + 1, 0);
	stfs_tree_release(tree);
	ck_assert_int_eq(got, (ssize_t)len);
	ck_assert_msg(memcmp(bytes, want, len) == 0, "node %u has other bytes than those of seed %u", node, seed);
}

static int count_one(void *data, const struct stfs_pending *pending)
{
	++*(size_t *)data;
	return 0;
}

static size_t pending(void)
{
	size_t count = 0;

	stfs_tree_hold(tree);
	ck_assert_int_eq(stfs_tree_pending(tree, count_one, &count), 0);
	stfs_tree_release(tree);
	return count;
}

/* ---- The model on disk, as text: "name:DTYPE[dims]seed", sorted ---- */

/* The seed of all its bytes; -1: it has more than one. */
static int seed_of(const unsigned char *bytes, uint64_t len)
{
	for (unsigned seed = 0; seed < 200; seed++) {
		uint64_t i = 0;

		while (i < len && bytes[i] == pattern(seed, i))
			i++;
		if (i == len)
			return (int)seed;
	}
	return -1;
}

static int say_pair(void *data, struct stfs_str key, struct stfs_str value)
{
	return stfs_buf_printf(data, "{%.*s=%.*s}", (int)key.len, key.ptr, (int)value.len, value.ptr);
}

static const char *on_disk(void)
{
	static struct stfs_buf out;
	struct stfs_err err = STFS_ERR_INIT;
	STFS_AUTO_FREE uint32_t *sorted = NULL;
	struct stfs_tensor_ref ref;
	struct stfs_model *model;

	stfs_buf_clear(&out);
	ck_assert_msg(stfs_model_open(at(M), 0, &model, &err) == 0, "%s", err.message);
	sorted = stfs_model_sorted(model);
	for (uint32_t i = 0; i < model->shown; i++) {
		STFS_AUTO_FREE uint64_t *dims = NULL;
		STFS_AUTO_FREE unsigned char *bytes = NULL;

		ck_assert(stfs_model_tensor(model, sorted[i], &ref));
		dims = stfs_model_shape(&ref);
		bytes = malloc(ref.len + 1);
		ck_assert_int_eq(stfs_model_pread(model, &ref, bytes, ref.len, 0), (ssize_t)ref.len);
		stfs_buf_printf(&out, "%s%.*s:%s[", i ? " " : "", (int)ref.name.len, ref.name.ptr, ref.dtype->name);
		for (size_t d = 0; d < ref.tensor->rank; d++)
			stfs_buf_printf(&out, "%s%" PRIu64, d ? "," : "", dims[d]);
		stfs_buf_printf(&out, "]%d", seed_of(bytes, ref.len));
	}
	ck_assert_int_eq(stfs_model_metadata(model, say_pair, &out), 0);
	stfs_model_close(model);
	return stfs_buf_cstr(&out);
}

#define SMALL "a:U8[5000]1 b:U8[300]2 c:U8[70000]3"

static void set_metadata(const char *value)
{
	const struct stfs_header_pair pair = {str("k"), str(value)};

	ck_assert_int_eq(stfs_tree_set_metadata(tree, &pair, 1, NULL), 0);
}

/* ---- In the middle of a call ---- */

/* Called before a call that a test waits for, once; with the descriptor. */
static void (*midway)(int fd);

static void be_midway(int fd)
{
	void (*now)(int) = midway;

	midway = NULL;
	if (now)
		now(fd);
}

static int midway_fsync(int fd)
{
	be_midway(fd);
	return fsync(fd);
}

static ssize_t midway_pwrite(int fd, const void *bytes, size_t len, off_t offset)
{
	be_midway(fd);
	return pwrite(fd, bytes, len, offset);
}

/* The first one fails. */
static bool fails_next;

static int failing_fsync(int fd)
{
	bool fails = fails_next;

	fails_next = false;
	be_midway(fd);
	errno = EIO;
	return fails ? -1 : fsync(fd);
}

/* Fails before its record; `what` is done meanwhile. */
static void fail_commit(void (*what)(int))
{
	midway = what;
	fails_next = true;
	calls.fsync = failing_fsync;
	stfs_io = &calls;
	ck_assert_int_eq(try_commit(true, false), -EIO);
	stfs_io = &stfs_io_system;
	ck_assert(!midway && !fails_next && !stfs_tree_is_stuck(tree));
}

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
	uint32_t a, b, c;

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
		ck_assert_int_eq(stfs_tree_renumber(tree, a), 0);
		check_tables();
		ck_assert_uint_ne(node_of(i & 1 ? "a" : "b"), a);
		a = node_of(i & 1 ? "a" : "b");
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

START_TEST(a_node_gets_another_number)
{
	uint32_t x, old;

	make_small();
	open_as(STFS_TREE_RW);
	x = create("x", 5, 500);
	stfs_tree_hold(tree);
	stfs_tree_know_node(tree, x);
	stfs_tree_release(tree);
	open_node(x);
	ck_assert_int_eq(stfs_tree_renumber(tree, x), -EBUSY);
	stfs_tree_closed(tree, x);
	ck_assert_int_eq(stfs_tree_renumber(tree, x), 0);
	old = x;
	x = node_of("x");
	ck_assert_uint_ne(x, old);
	check_node(x, 5, 500);
	check_tables();
	ck_assert(tree->nodes[old].used && !stfs_node_linked(&tree->nodes[old]));
	stfs_tree_forget_node(tree, old, 1);
	ck_assert(!tree->nodes[old].used);
	ck_assert_uint_eq(create("y", 6, 10), old); /* its number is free again */
	commit();
	ck_assert_str_eq(on_disk(), SMALL " x:U8[500]5 y:U8[10]6");
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

START_TEST(what_cannot_be_committed_is_rescued)
{
	make_small();
	open_as(STFS_TREE_RW);
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
		calls.fsync = failing_fsync;
		fails_next = true;
		stfs_io = &calls;
		ck_assert_int_eq(try_commit(true, true), -EIO);
		stfs_io = &stfs_io_system;
	}
	rescue();
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

static pthread_t helper;

static void *name_again(void *data)
{
	ck_assert_int_eq(stfs_tree_rename(tree, stfs_tree_scratch(tree, str("big~")), name_of("big"), false), 0);
	return NULL;
}

/* It gets in between two pieces. */
static void start_naming_again(int fd)
{
	const struct timespec moment = {.tv_nsec = 50000000};

	ck_assert_int_eq(pthread_create(&helper, NULL, name_again, NULL), 0);
	nanosleep(&moment, NULL);
}

START_TEST(a_tensor_that_gets_its_name_back_while_it_is_kept_stays)
{
	static const struct tensor tensors[] = {{"a", 5000, 1}, {"big", LARGE, 2}};
	uint32_t big;

	make_model(tensors, STFS_CHECK_COUNT(tensors));
	open_as(STFS_TREE_RW);
	big = node_of("big");
	ck_assert_int_eq(stfs_tree_rename_scratch(tree, big, str("big~"), false), 0);
	calls.pwrite = midway_pwrite;
	stfs_io = &calls;
	midway = start_naming_again;
	commit();
	ck_assert(!midway);
	stfs_io = &stfs_io_system;
	ck_assert_int_eq(pthread_join(helper, NULL), 0);
	ck_assert_uint_eq(node_of("big"), big);
	check_node(big, 2, LARGE);
	write_node(big, 5, LARGE, 0);
	check_node(big, 5, LARGE);
	commit();
	ck_assert_uint_eq(pending(), 0);
	ck_assert_uint_eq(stfs_tree_spooled(tree), 0);
	ck_assert_str_eq(on_disk(), "a:U8[5000]1 big:U8[9437184]5");
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

START_TEST(no_tensor_gets_a_name_that_no_model_can_hold)
{
	uint32_t name;

	make_small();
	open_as(STFS_TREE_RW);
	ck_assert_int_eq(stfs_tree_make_name(tree, str("__metadata_%5F"), &name), -EINVAL);
	ck_assert_int_eq(stfs_tree_make_name(tree, str("a/b"), &name), -EINVAL);
	ck_assert_int_eq(stfs_tree_make_name(tree, str("\xff"), &name), -EILSEQ);
	create("__metadata", 5, 5);
	commit();
	ck_assert_str_eq(on_disk(), "__metadata:U8[5]5 " SMALL);
}
END_TEST

/* ---- Writes in place ---- */

static void *grow(void *data)
{
	write_node(node_of("a"), 30, 10, 5000);
	return NULL;
}

static void grow_midway(int fd)
{
	ck_assert_int_eq(pthread_create(&helper, NULL, grow, NULL), 0);
	ck_assert_int_eq(pthread_join(helper, NULL), 0);
}

/* What goes to the model while another write puts a layer over it must not lie under that. */
START_TEST(a_write_in_place_is_not_hidden_by_one_that_grows)
{
	STFS_AUTO_FREE unsigned char *bytes = malloc(5010), *want = patterned(20, 1000);

	make_small();
	open_as(STFS_TREE_RW);
	calls.pwrite = midway_pwrite;
	stfs_io = &calls;
	midway = grow_midway;
	write_node(node_of("a"), 20, 1000, 0);
	ck_assert(!midway);
	stfs_io = &stfs_io_system;
	stfs_tree_hold(tree);
	ck_assert_int_eq(stfs_tree_pread(tree, node_of("a"), bytes, 5010, 0), 5010);
	stfs_tree_release(tree);
	ck_assert_int_eq(memcmp(bytes, want, 1000), 0);
}
END_TEST

static atomic_int synced; /* the shard that was last */
static atomic_bool in_write, synced_second;
static int second_fd;

static ssize_t waiting_pwrite(int fd, const void *bytes, size_t len, off_t offset)
{
	if (fd == second_fd) {
		atomic_store(&in_write, true);
		while (!atomic_load(&synced_second))
			sched_yield();
	}
	return pwrite(fd, bytes, len, offset);
}

static void *write_second(void *data)
{
	write_node(node_of("y"), 9, 100, 0);
	return NULL;
}

/* While the first file is synced a write to the second begins, which is to end behind its sync. */
static int counting_fsync(int fd)
{
	if (fd != second_fd && !atomic_exchange(&synced, 1)) {
		ck_assert_int_eq(pthread_create(&helper, NULL, write_second, NULL), 0);
		while (!atomic_load(&in_write))
			sched_yield();
	}
	if (fd == second_fd) {
		atomic_fetch_add(&synced, 1);
		atomic_store(&synced_second, true);
	}
	return fsync(fd);
}

START_TEST(a_write_that_ends_behind_a_sync_is_synced_by_the_next)
{
	static const struct tensor x[] = {{"x", 100, 1}}, y[] = {{"y", 100, 2}};
	STFS_AUTO_FREE char *path = strdup(at("m.safetensors.index.json"));
	const struct stfs_tree_options options = {.path = path, .mode = STFS_TREE_RW};
	FILE *index = fopen(path, "we");

	make_model(x, 1);
	ck_assert_int_eq(rename(at(M), at("m-1.safetensors")), 0);
	make_model(y, 1);
	ck_assert_int_eq(rename(at(M), at("m-2.safetensors")), 0);
	fputs("{\"weight_map\":{\"x\":\"m-1.safetensors\",\"y\":\"m-2.safetensors\"}}", index);
	ck_assert_int_eq(fclose(index), 0);
	ck_assert_int_eq(stfs_tree_open(&options, &tree, NULL), 0);
	write_node(node_of("x"), 3, 100, 0);
	write_node(node_of("y"), 3, 100, 0);
	second_fd = tree->model->shards[1].fd;
	atomic_store(&synced, 0);
	atomic_store(&in_write, false);
	atomic_store(&synced_second, false);
	calls.pwrite = waiting_pwrite;
	calls.fsync = counting_fsync;
	stfs_io = &calls;
	commit();
	ck_assert_int_eq(pthread_join(helper, NULL), 0);
	ck_assert_int_eq(atomic_load(&synced), 2);
	commit();
	ck_assert_int_eq(atomic_load(&synced), 3);
	commit();
	ck_assert_int_eq(atomic_load(&synced), 3); /* nothing was written since */
}
END_TEST

static void *zero(void *data)
{
	ck_assert_int_eq(stfs_tree_zero(tree, node_of("x"), 0, STFS_ARENA_BLOCK), 0);
	write_node(create("y", 9, 10), 9, STFS_ARENA_BLOCK, 0); /* in the block that is free now */
	return NULL;
}

START_TEST(zeroing_waits_for_readers)
{
	const struct timespec moment = {.tv_nsec = 50000000};
	STFS_AUTO_FREE unsigned char *want = patterned(8, STFS_ARENA_BLOCK), *got = malloc(STFS_ARENA_BLOCK);
	struct stfs_place place;

	make_small();
	open_as(STFS_TREE_RW);
	create("x", 8, 2 * STFS_ARENA_BLOCK);
	stfs_tree_hold(tree);
	ck_assert_int_eq(stfs_tree_place(tree, node_of("x"), 0, STFS_ARENA_BLOCK, &place), 0);
	ck_assert_uint_eq(place.len, STFS_ARENA_BLOCK);
	ck_assert_int_eq(pthread_create(&helper, NULL, zero, NULL), 0);
	nanosleep(&moment, NULL);
	ck_assert_int_eq(pread(place.fd, got, place.len, (off_t)place.offset), STFS_ARENA_BLOCK);
	stfs_tree_release(tree);
	ck_assert_int_eq(memcmp(got, want, STFS_ARENA_BLOCK), 0);
	ck_assert_int_eq(pthread_join(helper, NULL), 0);
	check_node(node_of("y"), 9, STFS_ARENA_BLOCK);
}
END_TEST

/* ---- Names ---- */

START_TEST(temporary_names_and_nodes_are_used_again)
{
	struct stfs_wanted_type wanted = {.dtype = STFS_U8, .bytes = 1};
	char text[32];
	uint32_t name, node;

	make_small();
	open_as(STFS_TREE_RW);
	for (int i = 0; i < 300; i++) { /* they stay */
		snprintf(text, sizeof(text), "kept.%d", i);
		create(text, 1, 1);
	}
	for (int i = 0; i < 100000; i++) {
		snprintf(text, sizeof(text), "temporary.%d", i);
		ck_assert_int_eq(stfs_tree_make_name(tree, str(text), &name), 0);
		ck_assert_int_eq(stfs_tree_create(tree, name, true, &node), 0);
		if (i % 3 == 0)
			ck_assert_int_eq(stfs_tree_rename(tree, node, name_of("kept.7"), false), 0);
		else
			ck_assert_int_eq(stfs_tree_remove(tree, name), 0);
		if (i % 5 == 0) {
			ck_assert_int_eq(stfs_tree_declare(tree, name, &wanted), 0);
			stfs_tree_undeclare(tree, name);
		}
		stfs_tree_end_writing(tree, node);
		stfs_tree_closed(tree, node);
		stfs_tree_forget_node(tree, node, 1);
		stfs_tree_forget_name(tree, name, 1);
	}
	ck_assert_uint_lt(stfs_tree_nodes(tree), 400);
	ck_assert_uint_lt(stfs_tree_names(tree), 2000);
	check_tables();
	ck_assert_int_eq(stfs_tree_find(tree, str("kept.299"), &name), 0);
}
END_TEST

/* The file name of a name too long for one: its hash tells it. */
static const char *long_stem(char *text, size_t len, int number)
{
	static char stems[4][STFS_NAME_MAX + 1];
	static unsigned next;
	char *stem = stems[next++ % 4], digits[16];

	memset(text, 'l', len);
	snprintf(digits, sizeof(digits), "%08d", number);
	memcpy(text + len - 8, digits, 8);
	stem[stfs_name_encode(stfs_str_slice(text, len), stem)] = '\0';
	ck_assert(stfs_name_is_hashed(str(stem)));
	return stem;
}

START_TEST(long_names_are_known_by_their_hash)
{
	struct stfs_err err = STFS_ERR_INIT;
	char first[301] = "", second[301] = "";
	const char *stem = long_stem(first, 300, 1), *other = long_stem(second, 300, 2);
	struct stfs_typing_view typing;
	uint32_t name, node;
	char file[STFS_NAME_MAX + 1];

	make_small();
	open_as(STFS_TREE_RW);
	ck_assert_int_eq(stfs_tree_find(tree, str(stem), &name), -ENOENT);
	node = create(stem, 5, 50);
	ck_assert_int_eq(stfs_tree_find(tree, str(stem), &name), 0);
	ck_assert_uint_eq(stfs_tree_named(tree, name), node);
	ck_assert_uint_eq(name_of(stem), name);
	commit(); /* it waits for its name */
	ck_assert_str_eq(on_disk(), SMALL);
	ck_assert_int_eq(stfs_tree_resolve_name(tree, name, str(second), &err), -EINVAL);
	ck_assert_int_eq(stfs_tree_resolve_name(tree, name, str("b"), &err), -EINVAL);
	ck_assert_int_eq(stfs_tree_resolve_name(tree, name, str(first), &err), 0);
	ck_assert_int_eq(stfs_tree_resolve_name(tree, name, str(first), &err), 0); /* once more does no harm */
	ck_assert(stfs_tree_typing(tree, name, &typing) && typing.long_name);
	stfs_check_str_eq(typing.name, str(first), "its name");
	ck_assert_uint_eq(stfs_tree_lookup(tree, str(first)), name);
	commit();
	ck_assert_uint_eq(pending(), 0);
	check_tables();
	close_tree();
	open_as(STFS_TREE_RW);
	ck_assert_int_eq(stfs_tree_find(tree, str(stem), &name), 0);
	check_node(stfs_tree_named(tree, name), 5, 50);
	ck_assert_uint_eq(stfs_tree_file_name(tree, name, file), strlen(stem));
	ck_assert_str_eq(file, stem);
	ck_assert_int_eq(stfs_tree_find(tree, str(other), &name), -ENOENT);
	/* Under a hash that nobody explains it is committed at the end only. */
	move("a", other);
	commit();
	ck_assert_str_ne(on_disk(), SMALL);
	ck_assert_uint_eq(pending(), 1);
	ck_assert_int_eq(try_commit(true, true), 0);
	ck_assert_uint_eq(pending(), 0);
	ck_assert_ptr_nonnull(strstr(on_disk(), other));
	close_tree();
	open_as(STFS_TREE_RW);
	check_tables();
}
END_TEST

START_TEST(temporary_long_names_are_used_again)
{
	char text[301] = "";
	uint32_t name, node, kept;
	const char *stem = long_stem(text, 300, 77777777);

	make_small();
	open_as(STFS_TREE_RW);
	kept = create(stem, 5, 50);
	ck_assert_int_eq(stfs_tree_resolve_name(tree, name_of(stem), str(text), NULL), 0);
	commit();
	for (int i = 0; i < 5000; i++) {
		ck_assert_int_eq(stfs_tree_make_name(tree, str(long_stem(text, 300, i)), &name), 0);
		ck_assert_int_eq(stfs_tree_create(tree, name, false, &node), 0);
		if (i % 2)
			ck_assert_int_eq(stfs_tree_resolve_name(tree, name, str(text), NULL), 0);
		ck_assert_uint_eq(node_of(long_stem(text, 300, i)), node);
		ck_assert_int_eq(stfs_tree_remove(tree, name), 0);
		stfs_tree_forget_node(tree, node, 1);
		stfs_tree_forget_name(tree, name, 1);
	}
	ck_assert_uint_eq(node_of(long_stem(text, 300, 77777777)), kept);
	check_node(kept, 5, 50);
	ck_assert_uint_lt(stfs_tree_names(tree), 500);
	ck_assert_uint_lt(tree->hashed_count, 500);
	check_tables();
}
END_TEST

/* ---- Threads: check's macros are for the main one ---- */

#define WRITERS 3
#define READERS 2
#define OWN 4
#define MOST 100000

static atomic_bool finished, wrong;
static atomic_size_t writes, reads;

struct own {
	bool there;
	unsigned seed;
	size_t len;
};

struct writer {
	pthread_t thread;
	unsigned number;
	struct own own[OWN];
	unsigned char *want, *got;
};

/* Prints the first one. */
#define must(right) must_at(right, #right)

static void must_at(bool right, const char *text)
{
	if (!right && !atomic_exchange(&wrong, true))
		printf("# not so: %s\n", text);
}

static uint32_t find_own(const struct writer *w, size_t i, uint32_t *name)
{
	char text[20];
	uint32_t node;

	snprintf(text, sizeof(text), "w%u.%zu", w->number, i);
	must(stfs_tree_make_name(tree, str(text), name) == 0);
	stfs_tree_hold(tree);
	node = stfs_tree_named(tree, *name);
	stfs_tree_release(tree);
	return node;
}

static void check_own(const struct writer *w, size_t i)
{
	uint32_t name, node = find_own(w, i, &name);
	const struct own *own = &w->own[i];
	ssize_t got;

	must((node != STFS_NO_NUMBER) == own->there);
	stfs_tree_hold(tree);
	got = own->there ? stfs_tree_pread(tree, node, w->got, MOST + 1, 0) : 0;
	stfs_tree_release(tree);
	for (size_t k = 0; own->there && k < own->len; k++)
		w->want[k] = pattern(own->seed, k);
	must(!own->there || (got == (ssize_t)own->len && memcmp(w->got, w->want, own->len) == 0));
	stfs_tree_forget_name(tree, name, 1);
}

static void write_own(struct writer *w, size_t i, uint64_t *state, uint32_t node)
{
	struct own *own = &w->own[i];
	size_t len = stfs_check_below(state, 3) ? own->len : stfs_check_below(state, MOST);

	own->seed = (unsigned)stfs_check_below(state, 200);
	if (len < own->len)
		must(stfs_tree_resize(tree, node, stfs_check_below(state, 2) ? 0 : len, true) == 0);
	own->len = len;
	for (size_t k = 0; k < len; k++)
		w->want[k] = pattern(own->seed, k);
	for (size_t from = 0, part; from < len; from += part) {
		part = 1 + stfs_check_below(state, len - from);
		must(stfs_tree_write(tree, node, w->want + from, part, from) == 0);
	}
	atomic_fetch_add(&writes, 1);
}

static void one_change(struct writer *w, uint64_t *state)
{
	size_t i = stfs_check_below(state, OWN), to = stfs_check_below(state, OWN);
	uint32_t name, name_to, node = find_own(w, i, &name);

	find_own(w, to, &name_to);
	if (!w->own[i].there) {
		must(stfs_tree_create(tree, name, true, &node) == 0);
		w->own[i] = (struct own){.there = true};
		write_own(w, i, state, node);
		stfs_tree_end_writing(tree, node);
		stfs_tree_closed(tree, node);
		stfs_tree_forget_node(tree, node, 1);
	} else if (stfs_check_below(state, 8) == 0) {
		must(stfs_tree_remove(tree, name) == 0);
		w->own[i].there = false;
	} else if (stfs_check_below(state, 6) == 0 && i != to) {
		must(stfs_tree_rename(tree, node, name_to, false) == 0);
		w->own[to] = w->own[i];
		w->own[i].there = false;
	} else {
		write_own(w, i, state, node);
	}
	stfs_tree_forget_name(tree, name, 1);
	stfs_tree_forget_name(tree, name_to, 1);
	check_own(w, to);
	check_own(w, i);
}

static void *write_on(void *data)
{
	struct writer *w = data;
	uint64_t state = stfs_check_seed() + w->number;

	while (!atomic_load(&finished) && !atomic_load(&wrong))
		one_change(w, &state);
	return NULL;
}

static void *read_on(void *data)
{
	unsigned char *want = patterned(1, 5000), *got = malloc(5001);
	uint32_t name;

	while (!atomic_load(&finished)) {
		stfs_tree_hold(tree);
		must(stfs_tree_find(tree, str("a"), &name) == 0 &&
		     stfs_tree_pread(tree, stfs_tree_named(tree, name), got, 5001, 0) == 5000);
		stfs_tree_release(tree);
		must(memcmp(got, want, 5000) == 0);
		atomic_fetch_add(&reads, 1);
	}
	free(want);
	free(got);
	return NULL;
}

static unsigned last_metadata;

static void *describe_on(void *data)
{
	while (!atomic_load(&finished)) {
		char text[20];
		struct stfs_header_pair pair = {.key = str("k")};

		snprintf(text, sizeof(text), "%u", ++last_metadata);
		pair.value = str(text);
		must(stfs_tree_set_metadata(tree, &pair, 1, NULL) == 0);
		sched_yield();
	}
	return NULL;
}

static double now(void)
{
	struct timespec at_now;

	clock_gettime(CLOCK_MONOTONIC, &at_now);
	return (double)at_now.tv_sec + (double)at_now.tv_nsec / 1e9;
}

static uint32_t node_of_own(unsigned writer, size_t i)
{
	char text[20];

	snprintf(text, sizeof(text), "w%u.%zu", writer, i);
	return node_of(text);
}

/* What the writers have is what the model has. */
static void check_model_of(const struct writer *writers)
{
	for (unsigned n = 0; n < WRITERS; n++)
		for (size_t i = 0; i < OWN; i++)
			check_own(&writers[n], i);
	ck_assert(!atomic_load(&wrong));
	ck_assert_int_eq(try_commit(true, true), 0);
	ck_assert_uint_eq(pending(), 0);
	close_tree();
	open_as(STFS_TREE_RO);
	for (unsigned n = 0; n < WRITERS; n++)
		for (size_t i = 0; i < OWN; i++) {
			const struct own *own = &writers[n].own[i];

			ck_assert_int_eq(node_of_own(n, i) != STFS_NO_NUMBER, own->there);
			if (own->there)
				check_node(node_of_own(n, i), own->seed, own->len);
		}
	ck_assert_ptr_nonnull(strstr(on_disk(), SMALL));
}

START_TEST(threads_write_and_read_beside_commits)
{
	struct writer writers[WRITERS] = {0};
	pthread_t readers[READERS], describer;
	size_t commits = 0;
	char k[24];
	double end;

	make_small();
	open_as(STFS_TREE_RW);
	atomic_store(&finished, false);
	for (unsigned i = 0; i < WRITERS; i++) {
		writers[i].number = i;
		writers[i].want = malloc(MOST + 1);
		writers[i].got = malloc(MOST + 1);
		ck_assert_int_eq(pthread_create(&writers[i].thread, NULL, write_on, &writers[i]), 0);
	}
	for (unsigned i = 0; i < READERS; i++)
		ck_assert_int_eq(pthread_create(&readers[i], NULL, read_on, NULL), 0);
	ck_assert_int_eq(pthread_create(&describer, NULL, describe_on, NULL), 0);
	for (end = now() + 1.5; now() < end && !atomic_load(&wrong); commits++) {
		ck_assert_msg(try_commit(commits & 1, false) == 0, "%s", said);
		usleep(1000);
	}
	atomic_store(&finished, true);
	for (unsigned i = 0; i < WRITERS; i++)
		pthread_join(writers[i].thread, NULL);
	for (unsigned i = 0; i < READERS; i++)
		pthread_join(readers[i], NULL);
	pthread_join(describer, NULL);
	printf("# %zu commits beside %zu writes and %zu reads\n", commits, atomic_load(&writes), atomic_load(&reads));
	ck_assert(!atomic_load(&wrong) && commits > 2 && atomic_load(&writes) > 20 && atomic_load(&reads) > 20);
	check_tables();
	check_model_of(writers);
	snprintf(k, sizeof(k), "{k=%u}", last_metadata);
	ck_assert_ptr_nonnull(strstr(on_disk(), k));
	for (unsigned i = 0; i < WRITERS; i++) {
		free(writers[i].want);
		free(writers[i].got);
	}
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		names_and_nodes_belong_together, every_tensor_has_its_node, a_node_gets_another_number,
		a_commit_takes_what_was_there, nothing_is_left_of_what_went_while_it_was_taken,
		layers_lie_upon_layers_of_commits_that_failed, what_is_removed_keeps_its_bytes_while_it_is_open,
		a_tensor_that_gets_its_name_back_while_it_is_kept_stays, who_wants_the_name_of_one_that_waits_waits_too,
		who_wants_the_name_of_one_that_turns_out_to_wait_waits_too,
		where_nothing_changed_nothing_is_looked_for, no_tensor_gets_a_name_that_no_model_can_hold,
		a_write_in_place_is_not_hidden_by_one_that_grows, a_write_that_ends_behind_a_sync_is_synced_by_the_next,
		temporary_names_and_nodes_are_used_again, long_names_are_known_by_their_hash,
		temporary_long_names_are_used_again, zeroing_waits_for_readers,
		a_type_that_came_during_the_commit_has_the_rows_of_the_file, threads_write_and_read_beside_commits,
	};
	Suite *suite = suite_create("tree");
	TCase *tcase = tcase_create("tree");

	tcase_add_checked_fixture(tcase, make_root, remove_root);
	tcase_set_timeout(tcase, 100);
	for (size_t i = 0; i < STFS_CHECK_COUNT(tests); i++)
		tcase_add_test(tcase, tests[i]);
	tcase_add_loop_test(tcase, what_cannot_be_committed_is_rescued, 0, 2);
	tcase_add_loop_test(tcase, writes_beside_a_commit_that_failed_are_rescued, 0, 3);
	suite_add_tcase(suite, tcase);
	return stfs_check_main(suite);
}
