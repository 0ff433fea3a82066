/* SPDX-License-Identifier: MIT */
/* Random operations on a tree, compared with an oracle (tree_oracle.h), and commits whose calls fail. */
#include "tree_oracle.h"

#include <errno.h>

static size_t rounds(void)
{
	const char *text = getenv("STFS_TREE_ROUNDS");

	return text && *text ? strtoul(text, NULL, 0) : 6;
}

static const struct oracle_setup setups[] = {
	{.mode = STFS_TREE_RW},
	{.mode = STFS_TREE_RW, .sharded = true},
	{.mode = STFS_TREE_RW, .staged = true},
	{.mode = STFS_TREE_RW, .staged = true, .sharded = true},
	{.mode = STFS_TREE_CREATE},
	{.mode = STFS_TREE_COW},
	{.mode = STFS_TREE_COW, .sharded = true},
	{.mode = STFS_TREE_RW, .midway = true},
	{.mode = STFS_TREE_RW, .midway = true, .sharded = true},
	{.mode = STFS_TREE_RW, .midway = true, .staged = true},
	{.mode = STFS_TREE_CREATE, .midway = true},
};

static void begin(size_t number, uint64_t seed)
{
	struct oracle_setup setup = setups[number];

	setup.seed = stfs_check_seed() + 1000003 * seed + number;
	oracle_begin(&setup);
}

static void commit(bool end, const char *when)
{
	oracle_commit(end);
	oracle_check(when);
	oracle_check_disk(when);
}

/* T4, and the others after each step. */
START_TEST(reads_the_newest_bytes)
{
	for (uint64_t round = 0; round < rounds(); round++) {
		begin((size_t)_i, round);
		for (int session = 0; session < 3; session++) {
			for (int i = 0; i < 8; i++) {
				oracle_changes(12);
				commit(false, "committed");
			}
			if (session == 1)
				commit(true, "committed at the end");
			oracle_reopen();
		}
		oracle_end();
	}
}
END_TEST

/* What a call that fails leaves behind; whether there was such a call. */
static bool fail_at(size_t number, uint64_t seed, enum oracle_call kind, size_t call, int with_errno, bool for_ever)
{
	bool hit;

	begin(number, seed);
	oracle_changes(14);
	oracle_arm(kind, call, with_errno, for_ever);
	oracle_commit(false);
	hit = oracle_disarm();
	oracle_check("after a call that failed");
	if (stfs_tree_is_stuck(oracle_tree())) {
		uint32_t name;

		ck_assert_int_eq(stfs_tree_make_name(oracle_tree(), stfs_str_from("s0.w0"), &name), 0);
		ck_assert_int_eq(stfs_tree_remove(oracle_tree(), name), -EROFS);
		ck_assert_int_eq(stfs_tree_write(oracle_tree(), stfs_tree_named(oracle_tree(), name), "x", 1, 0), -EROFS);
		ck_assert_int_eq(oracle_commit(false), -EROFS);
		oracle_check("stuck");
		if (!(call & 2) || !oracle_resume())
			oracle_recover();
	} else {
		oracle_check_disk("after a call that failed");
		if (call & 1)
			oracle_changes(10);
	}
	commit(false, "tried again");
	commit(true, "tried again at the end");
	oracle_reopen();
	oracle_end();
	return hit;
}

START_TEST(a_call_that_fails_costs_nothing)
{
	static const size_t which[] = {0, 1, 7, 8, 2, 4};
	size_t call, seeds = rounds() / 3;

	for (uint64_t seed = 0; seed < (seeds ? seeds : 1); seed++)
		for (int kind = 0; kind < CALL_KINDS; kind++)
			for (call = 1; fail_at(which[_i], 500 + seed, (enum oracle_call)kind, call, seed & 1 ? EIO : ENOSPC,
					       (seed + call) % 3 == 0); call++)
				call += call > 25 ? call / 6 : 0;
}
END_TEST

START_TEST(enough_was_met)
{
	const struct oracle_met *met = &oracle_met;

	printf("# %zu commits took %zu, left out %zu, of them blocked %zu; %zu changes midway, %zu evacuated, %zu "
	       "inherited; %zu failed, %zu tried again, %zu stuck and %zu resumed (%zu back to the old)\n", met->commits, met->taken, met->left_out,
	       met->blocked, met->midway, met->evacuated, met->inherited, met->failed, met->retried, met->stuck,
	       met->resumed, met->recovered_old);
	ck_assert(met->commits > 500 && met->left_out > 500 && met->blocked > 20 && met->midway > 500);
	ck_assert(met->evacuated > 50 && met->inherited > 50 && met->failed > 50 && met->stuck > 50 &&
		  met->resumed > 50 && met->retried > 50);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("tree_random");
	TCase *cases = tcase_create("random"), *met = tcase_create("met");

	tcase_set_timeout(cases, 0);
	tcase_add_loop_test(cases, reads_the_newest_bytes, 0, STFS_CHECK_COUNT(setups));
	tcase_add_loop_test(cases, a_call_that_fails_costs_nothing, 0, 6);
	tcase_add_test(met, enough_was_met);
	suite_add_tcase(suite, cases);
	suite_add_tcase(suite, met);
	return stfs_check_main(suite);
}
