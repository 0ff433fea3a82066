/* SPDX-License-Identifier: MIT */
/* Names and numbers of the tree: used again, known by a hash, refused. */
#include "tree_tools.h"

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
	ck_assert_int_eq(stfs_tree_renumber(tree, &x), -EBUSY);
	stfs_tree_closed(tree, x);
	old = x;
	ck_assert_int_eq(stfs_tree_renumber(tree, &x), 0);
	ck_assert_uint_ne(x, old);
	ck_assert_uint_eq(x, node_of("x"));
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

/* A name is known so many times and retired: its number then. */
static uint32_t retire(const char *stem, uint64_t times)
{
	uint32_t old = name_of(stem);

	stfs_tree_hold(tree);
	for (uint64_t i = 0; i < times; i++)
		stfs_tree_know_name(tree, old);
	stfs_tree_release(tree);
	ck_assert_int_eq(stfs_tree_retire_name(tree, old), 0);
	return name_of(stem);
}

START_TEST(a_name_gets_another_number)
{
	struct stfs_wanted_type wanted = {.dtype = STFS_U8, .bytes = 1};
	struct stfs_typing_view typing;
	struct stfs_str text;
	uint32_t x, old, to_come, node;

	make_small();
	open_as(STFS_TREE_RW);
	node = create("x", 5, 500);
	old = name_of("x");
	ck_assert_uint_eq(retire("x", 0), old); /* nobody would notice */
	x = retire("x", 3);
	ck_assert_uint_ne(x, old);
	ck_assert_uint_eq(stfs_tree_named(tree, x), node);
	ck_assert_uint_eq(stfs_tree_named(tree, old), STFS_NO_NUMBER);
	ck_assert(!stfs_tree_typing(tree, old, &typing) && !stfs_tree_name(tree, old, &text));
	ck_assert_int_eq(stfs_tree_declare(tree, to_come = name_of("to.come"), &wanted), 0);
	ck_assert_uint_ne(retire("to.come", 1), to_come);
	ck_assert(stfs_tree_typing(tree, name_of("to.come"), &typing) && !stfs_tree_typing(tree, to_come, &typing));
	for (int i = 0; i < 1000; i++)
		retire("x", 1);
	ck_assert_uint_gt(stfs_tree_names(tree), 1000); /* the kernel knows them */
	stfs_tree_forget_name(tree, old, 2);
	check_tables();
	check_node(node_of("x"), 5, 500);
	commit();
	ck_assert_str_eq(on_disk(), SMALL " x:U8[500]5");
}
END_TEST

START_TEST(retired_numbers_are_used_again)
{
	char text[301] = "";
	const char *stem = long_stem(text, 300, 1);
	uint32_t old, node;

	make_small();
	open_as(STFS_TREE_RW);
	node = create(stem, 5, 50);
	for (int i = 0; i < 100000; i++) {
		old = name_of(i % 2 ? stem : "a");
		ck_assert_uint_ne(retire(i % 2 ? stem : "a", 2), old);
		stfs_tree_forget_name(tree, old, 2);
	}
	ck_assert_uint_lt(stfs_tree_names(tree), 500);
	check_tables();
	ck_assert_uint_eq(node_of(stem), node);
	check_node(node_of("a"), 1, 5000);
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

int main(void)
{
	const TTest *const tests[] = {
		a_node_gets_another_number, a_name_gets_another_number, retired_numbers_are_used_again,
		no_tensor_gets_a_name_that_no_model_can_hold,
		temporary_names_and_nodes_are_used_again, long_names_are_known_by_their_hash,
		temporary_long_names_are_used_again,
	};
	Suite *suite = suite_create("tree_names");
	TCase *tcase = tcase_create("tree");

	tcase_add_checked_fixture(tcase, make_root, remove_root);
	tcase_set_timeout(tcase, 100);
	for (size_t i = 0; i < STFS_CHECK_COUNT(tests); i++)
		tcase_add_test(tcase, tests[i]);
	suite_add_tcase(suite, tcase);
	return stfs_check_main(suite);
}
