/* SPDX-License-Identifier: MIT */
/* The tree in several threads: between two steps of a call, and all at once. */
#include "tree_tools.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

/* ---- Removed but open ---- */

#define LARGE (9u << 20)

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
		a_tensor_that_gets_its_name_back_while_it_is_kept_stays,
		a_write_in_place_is_not_hidden_by_one_that_grows,
		a_write_that_ends_behind_a_sync_is_synced_by_the_next, zeroing_waits_for_readers,
		threads_write_and_read_beside_commits,
	};
	Suite *suite = suite_create("tree_threads");
	TCase *tcase = tcase_create("tree");

	tcase_add_checked_fixture(tcase, make_root, remove_root);
	tcase_set_timeout(tcase, 100);
	for (size_t i = 0; i < STFS_CHECK_COUNT(tests); i++)
		tcase_add_test(tcase, tests[i]);
	suite_add_tcase(suite, tcase);
	return stfs_check_main(suite);
}
