/* SPDX-License-Identifier: MIT */
/*
 * What every unit test shares: main() of a suite that speaks TAP, bytes compared with a message
 * that can be read, and random numbers that can be had again (STFS_SEED=N).
 */
#ifndef STFS_TESTS_UNIT_STFS_CHECK_H
#define STFS_TESTS_UNIT_STFS_CHECK_H

#include <check.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/str.h"

#define STFS_CHECK_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* A string literal that may hold NUL, as an initialiser of a struct stfs_str. */
#define STFS_CHECK_LIT(literal) {literal, sizeof(literal) - 1}

/* Where property tests begin: fixed, so that a run can be repeated, unless STFS_SEED says else. */
static inline uint64_t stfs_check_seed(void)
{
	const char *text = getenv("STFS_SEED");

	return text && *text ? strtoull(text, NULL, 0) : 20240607;
}

/* SplitMix64 (Steele, Lea and Flood, 2014); *state begins as stfs_check_seed(). */
static inline uint64_t stfs_check_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

/* 0 to bound - 1; the bias is of no account here. */
static inline size_t stfs_check_below(uint64_t *state, size_t bound)
{
	return (size_t)(stfs_check_random(state) % bound);
}

/* Fails with both, as stfs_quote() shows them, and `what` was being looked at. */
#define stfs_check_str_eq(got, want, what) \
	do { \
		struct stfs_str got_ = (got), want_ = (want); \
		char got_text_[STFS_QUOTED_MAX], want_text_[STFS_QUOTED_MAX]; \
		ck_assert_msg(stfs_str_equal(got_, want_), \
			      "%s: got \"%s\" (%zu bytes), want \"%s\" (%zu bytes)", what, \
			      stfs_quote(got_, got_text_), got_.len, \
			      stfs_quote(want_, want_text_), want_.len); \
	} while (0)

/* Runs the suite and prints TAP; the exit status of main(). */
static inline int stfs_check_main(Suite *suite)
{
	SRunner *runner = srunner_create(suite);
	int failed;

	/* CK_TAP_LOG_FILE_NAME may send the TAP elsewhere. */
	if (!srunner_has_tap(runner))
		srunner_set_tap(runner, "-");
	srunner_run_all(runner, CK_SILENT);
	failed = srunner_ntests_failed(runner);
	if (failed)
		fprintf(stderr, "# repeat with STFS_SEED=%" PRIu64 "\n", stfs_check_seed());
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#endif
