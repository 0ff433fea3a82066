/* SPDX-License-Identifier: MIT */
/* What the tests of the tree share: small models of known bytes, files by name, the model on disk as text. */
#ifndef STFS_TESTS_UNIT_TREE_TOOLS_H
#define STFS_TESTS_UNIT_TREE_TOOLS_H

#include "stfs_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "format/names.h"
#include "store/tree_pending.h"

#define M "m.safetensors"

/* ---- What every test has ---- */

static struct stfs_tree *tree;
static struct stfs_io calls;

static inline void make_root(void)
{
	make_folder("tree");
	calls = stfs_io_system;
	tree = NULL;
}

static inline void remove_root(void)
{
	stfs_io = &stfs_io_system;
	stfs_tree_close(tree);
	remove_folder();
}

static inline struct stfs_str str(const char *text)
{
	return stfs_str_from(text);
}

/* Byte i of every tensor and every write is that of its seed. */
static inline unsigned char pattern(unsigned seed, uint64_t i)
{
	return (unsigned char)(seed * 37 + i * 131 + i / 257);
}

static inline void *patterned(unsigned seed, size_t len)
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

static inline void make_model(const struct tensor *tensors, size_t count)
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
static inline void make_small(void)
{
	static const struct tensor tensors[] = {{"a", 5000, 1}, {"b", 300, 2}, {"c", 70000, 3}};

	make_model(tensors, STFS_CHECK_COUNT(tensors));
}

static inline void open_as(enum stfs_tree_mode mode)
{
	const struct stfs_tree_options options = {.path = at(M), .mode = mode};
	struct stfs_err err = STFS_ERR_INIT;

	ck_assert_msg(stfs_tree_open(&options, &tree, &err) == 0, "%s", err.message);
}

static inline void close_tree(void)
{
	stfs_tree_close(tree);
	tree = NULL;
}

static char said[sizeof(((struct stfs_err *)0)->message)]; /* by the last commit that failed */

static inline int try_commit(bool all, bool end)
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

static inline void commit(void)
{
	ck_assert_int_eq(try_commit(true, false), 0);
}

/* T1, T2. */
static inline void check_tables(void)
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

static inline uint32_t name_of(const char *stem)
{
	uint32_t name;

	ck_assert_int_eq(stfs_tree_make_name(tree, str(stem), &name), 0);
	stfs_tree_forget_name(tree, name, 1);
	return name;
}

static inline uint32_t node_of(const char *stem)
{
	uint32_t name;
	int r = stfs_tree_find(tree, str(stem), &name);

	return r < 0 ? STFS_NO_NUMBER : stfs_tree_named(tree, name);
}

static inline void write_node(uint32_t node, unsigned seed, size_t len, uint64_t offset)
{
	STFS_AUTO_FREE void *bytes = patterned(seed, len);

	ck_assert_int_eq(stfs_tree_write(tree, node, bytes, len, offset), 0);
}

static inline uint32_t create(const char *stem, unsigned seed, size_t len)
{
	uint32_t node;

	ck_assert_int_eq(stfs_tree_create(tree, name_of(stem), false, &node), 0);
	stfs_tree_forget_node(tree, node, 1);
	write_node(node, seed, len, 0);
	return node;
}

static inline void move(const char *from, const char *to)
{
	ck_assert_int_eq(stfs_tree_rename(tree, node_of(from), name_of(to), false), 0);
}

static inline void drop(const char *stem)
{
	ck_assert_int_eq(stfs_tree_remove(tree, name_of(stem)), 0);
}

static inline void open_node(uint32_t node)
{
	stfs_tree_hold(tree);
	stfs_tree_opened(tree, node);
	stfs_tree_release(tree);
}

static inline void declare(const char *stem, enum stfs_dtype dtype, uint64_t rows, uint64_t bytes)
{
	const struct stfs_wanted_type wanted = {dtype, &rows, 1, bytes};

	ck_assert_int_eq(stfs_tree_declare(tree, name_of(stem), &wanted), 0);
}

/* All bytes of a node are of this seed. */
static inline void check_node(uint32_t node, unsigned seed, size_t len)
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

static inline int count_one(void *data, const struct stfs_pending *pending)
{
	++*(size_t *)data;
	return 0;
}

static inline size_t pending(void)
{
	size_t count = 0;

	stfs_tree_hold(tree);
	ck_assert_int_eq(stfs_tree_pending(tree, count_one, &count), 0);
	stfs_tree_release(tree);
	return count;
}

/* ---- The model on disk, as text: "name:DTYPE[dims]seed", sorted ---- */

/* The seed of all its bytes; -1: it has more than one. */
static inline int seed_of(const unsigned char *bytes, uint64_t len)
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

static inline int say_pair(void *data, struct stfs_str key, struct stfs_str value)
{
	return stfs_buf_printf(data, "{%.*s=%.*s}", (int)key.len, key.ptr, (int)value.len, value.ptr);
}

static inline const char *on_disk(void)
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

static inline void set_metadata(const char *value)
{
	const struct stfs_header_pair pair = {str("k"), str(value)};

	ck_assert_int_eq(stfs_tree_set_metadata(tree, &pair, 1, NULL), 0);
}

/* ---- In the middle of a call ---- */

/* Called before a call that a test waits for, once; with the descriptor. */
static void (*midway)(int fd);

static inline void be_midway(int fd)
{
	void (*now)(int) = midway;

	midway = NULL;
	if (now)
		now(fd);
}

static inline int midway_fsync(int fd)
{
	be_midway(fd);
	return fsync(fd);
}

static inline ssize_t midway_pwrite(int fd, const void *bytes, size_t len, off_t offset)
{
	be_midway(fd);
	return pwrite(fd, bytes, len, offset);
}

/* The first one fails. */
static bool fails_next;
static int fails_with = EIO;

static inline int failing_fsync(int fd)
{
	bool fails = fails_next;

	fails_next = false;
	be_midway(fd);
	errno = fails_with;
	return fails ? -1 : fsync(fd);
}

/* Fails before its record; `what` is done meanwhile. */
static inline void fail_commit(void (*what)(int))
{
	midway = what;
	fails_next = true;
	calls.fsync = failing_fsync;
	stfs_io = &calls;
	ck_assert_int_eq(try_commit(true, false), -EIO);
	stfs_io = &stfs_io_system;
	ck_assert(!midway && !fails_next && !stfs_tree_is_stuck(tree));
}

#endif
