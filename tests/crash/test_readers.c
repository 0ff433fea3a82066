/* SPDX-License-Identifier: MIT */
/*
 * Reading on while a model is committed, as a mount does (stfs_edit_hooks): random commits, in which every
 * tensor that stays has its bytes where stfs_edit_where() says, at each call that a commit makes, also when
 * one fails; and the same with threads that read. File systems of every kind are played (sim.h).
 */
#include "../unit/stfs_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "sim.h"
#include "store/edit.h"

#define INDEX "m.safetensors.index.json"
#define NAMES 24
#define EDITS_MOST 6

static uint64_t state; /* of the random numbers */
static bool sharded;

static size_t below(size_t bound)
{
	return stfs_check_below(&state, bound);
}

static const char *model_path(void)
{
	return at(sharded ? INDEX : "m.safetensors");
}

/* ---- Bytes: every tensor is a part of the pool, part of which is zeros ---- */

#define POOL (1 << 19)
#define ZEROS 100000
#define ZEROS_END 140000
#define TENSOR_MOST 90000

static unsigned char pool[POOL];
static int pool_fd = -1;

static void make_root(void)
{
	make_folder("readers");
	for (size_t i = 0; i < POOL; i++)
		pool[i] = i < ZEROS || i >= ZEROS_END ? (unsigned char)(i * 2654435761u >> 13) : 0;
	pool_fd = memfd_create("pool", MFD_CLOEXEC);
	ck_assert_int_eq(pwrite(pool_fd, pool, POOL, 0), POOL);
}

static void remove_root(void)
{
	close(pool_fd);
	remove_folder();
}

static size_t pick_size(void)
{
	static const size_t sizes[] = {0, 1, 8, 512, 4088, 4095, 4096, 4097, 8192, 16384, 40960, TENSOR_MOST};

	return below(4) ? sizes[below(STFS_CHECK_COUNT(sizes))] : below(30000);
}

/* The same bytes in a few pieces, with zeros where there are some; good until many more were asked for. */
static struct stfs_source in_pieces(uint64_t seed, uint64_t len)
{
	static struct stfs_piece pieces[8 * EDITS_MOST][8];
	static unsigned next;
	struct stfs_piece *made = pieces[next++ % STFS_CHECK_COUNT(pieces)];
	size_t count = 1 + below(7);
	uint64_t at_byte = seed;

	for (size_t i = 0; i < count; i++) {
		uint64_t rest = seed + len - at_byte, part = i + 1 < count ? below(rest + 1) : rest;
		bool zeros = at_byte >= ZEROS && at_byte + part <= ZEROS_END;

		made[i] = (struct stfs_piece){zeros ? -1 : pool_fd, zeros ? 0 : at_byte, part};
		at_byte += part;
	}
	return (struct stfs_source){.fd = -1, .pieces = made, .piece_count = count};
}

/* ---- What readers know, and what is staged ---- */

/* A tensor that is read; by the number of its name, new ones behind those. */
struct known {
	bool there;
	int fd;
	uint32_t shard;
	uint64_t offset; /* as stfs_edit_where() takes it */
	uint64_t seed, len;
};

static pthread_rwlock_t lock; /* guards known, and the edit as far as stfs_edit_where() looks at it */
static struct known known[2 * NAMES];
static struct stfs_edit *edit;

struct wanted {
	bool there;
	uint64_t seed, len;
	int origin; /* number in known; -1: it is new */
};
static struct wanted want[NAMES];

/* What the suite has met. */
static size_t in_place, shifted, slid, replaced, written, looked, stuck, lost;
static atomic_size_t read_beside;

static const char *name_of(size_t number)
{
	static char names[4][40];
	static unsigned next;
	char *name = names[next++ % 4];

	snprintf(name, sizeof(names[0]), "layer.%zu.weight", number);
	return name;
}

static void put(size_t number)
{
	enum stfs_dtype dtype = below(2) ? STFS_U8 : STFS_F32;
	uint64_t dim = pick_size() / stfs_dtype_alignment(dtype);
	uint64_t len = dim * stfs_dtype_alignment(dtype);
	uint64_t seed = below(2) ? ZEROS - 10000 + below(20000) : below(POOL - TENSOR_MOST);
	struct stfs_source source = below(2) ? in_pieces(seed, len) : (struct stfs_source){.fd = pool_fd, .offset = seed};
	struct stfs_err err = STFS_ERR_INIT;

	ck_assert_msg(stfs_edit_put(edit, stfs_str_from(name_of(number)), dtype, &dim, 1, source, &err) == 0, "%s",
		      err.message);
	want[number] = (struct wanted){true, seed, len, -1};
}

static void rename_one(size_t from, size_t to)
{
	struct stfs_edit_pair pair = {stfs_str_from(name_of(from)), stfs_str_from(name_of(to))};

	ck_assert_int_eq(stfs_edit_rename(edit, &pair, 1, true, NULL), 0);
	want[to] = want[from];
	want[from].there = false;
}

static void set_metadata(void)
{
	char value[6000];
	size_t len = below(sizeof(value));

	memset(value, 'm', len);
	ck_assert_int_eq(stfs_edit_set(edit, stfs_str_from("k"), stfs_str_slice(value, len), NULL), 0);
}

static void one_edit(void)
{
	size_t number = below(NAMES), other = below(NAMES);
	bool last = true;

	for (size_t i = 0; i < NAMES; i++)
		last = last && (i == number || !want[i].there);
	if (!want[number].there || last || below(4) == 0)
		put(number);
	else if (below(8) == 0)
		set_metadata();
	else if (below(12) == 0)
		ck_assert_int_eq(stfs_edit_compact(edit, NULL), 0);
	else if (number != other && below(5) == 0)
		rename_one(number, other);
	else if (below(4)) {
		ck_assert_int_eq(stfs_edit_remove(edit, stfs_str_from(name_of(number)), NULL), 0);
		want[number].there = false;
	}
}

/* What a mount does with a write that leaves the size: straight into the file, between commits. */
static void write_in_place(void)
{
	size_t number = below(NAMES);
	struct known *k = &known[number];

	if (!k->there || want[number].origin != (int)number)
		return;
	pthread_rwlock_wrlock(&lock);
	k->seed = want[number].seed = below(POOL - TENSOR_MOST);
	ck_assert_int_eq(stfs_io_write(k->fd, pool + k->seed, k->len, k->offset), 0);
	pthread_rwlock_unlock(&lock);
}

static void some_edits(void)
{
	if (below(2))
		write_in_place();
	for (size_t n = 1 + below(EDITS_MOST); n > 0; n--)
		one_edit();
	/* A mount puts what it still needs of a removed tensor elsewhere first. */
	pthread_rwlock_wrlock(&lock);
	for (int i = 0; i < NAMES; i++) {
		bool stays = false;

		for (size_t k = 0; k < NAMES; k++)
			stays |= want[k].there && want[k].origin == i;
		known[i].there &= stays;
	}
	pthread_rwlock_unlock(&lock);
}

/* ---- Reading ---- */

/* Bytes [from, from + most) of the tensor or fewer: how many, -EIO, or -EUCLEAN when they are wrong. */
static ssize_t read_part(const struct known *k, uint64_t from, uint64_t most, unsigned char *buffer)
{
	uint64_t now = 0, len = 0;
	int r = stfs_edit_where(edit, k->shard, k->offset + from, most, &now, &len);

	if (r < 0)
		return r;
	if (len == 0 || len > most || pread(k->fd, buffer, len, (off_t)now) != (ssize_t)len ||
	    memcmp(buffer, pool + k->seed + from, len) != 0)
		return -EUCLEAN;
	return (ssize_t)len;
}

/* Reads all of all tensors. How many cannot be told any more; none is wrong. */
static size_t look(const char *when)
{
	static unsigned char buffer[TENSOR_MOST];
	size_t unknown = 0;

	looked++;
	for (size_t i = 0; i < STFS_CHECK_COUNT(known); i++) {
		ssize_t got = 1;

		for (uint64_t done = 0; got > 0 && known[i].there && done < known[i].len; done += (uint64_t)got)
			got = read_part(&known[i], done, known[i].len - done, buffer);
		ck_assert_msg(got != -EUCLEAN, "%s: tensor %zu is wrong", when, i);
		unknown += got < 0;
	}
	return unknown;
}

/* ---- The hooks ---- */

static bool stopped, is_recorded;
static bool look_always; /* in the thread that commits, at each call */
static bool may_be_lost;

static void stop(void *data)
{
	pthread_rwlock_wrlock(&lock);
	ck_assert(!stopped);
	stopped = true;
}

static void go_on(void *data)
{
	if (look_always)
		ck_assert(look("go on") == 0 || may_be_lost);
	stopped = false;
	pthread_rwlock_unlock(&lock);
}

static void recorded(void *data)
{
	const struct stfs_model *model = stfs_edit_model(edit);

	ck_assert(stopped && model);
	is_recorded = true;
	for (size_t i = 0; i < NAMES; i++) {
		struct known *k = &known[NAMES + i];

		if (!want[i].there || want[i].origin >= 0)
			continue;
		*k = (struct known){.there = true, .seed = want[i].seed, .len = want[i].len};
		k->there = stfs_edit_written(edit, stfs_str_from(name_of(i)), &k->shard, &k->offset);
		ck_assert(k->there || sharded); /* else another file is changed in place */
		if (k->there)
			k->fd = model->shards[k->shard].fd;
		written += k->there;
	}
	ck_assert(!stfs_edit_written(edit, stfs_str_from("none"), &(uint32_t){0}, &(uint64_t){0}));
}

static void swapped(void *data, const struct stfs_model *fresh)
{
	struct stfs_tensor_ref ref;

	ck_assert(stopped && stfs_edit_model(edit) == fresh);
	memset(known, 0, sizeof(known));
	for (size_t i = 0; i < NAMES; i++) {
		uint32_t id = stfs_model_find(fresh, stfs_str_from(name_of(i)));

		ck_assert_int_eq(id != STFS_NO_TENSOR, want[i].there);
		if (!want[i].there)
			continue;
		ck_assert(stfs_model_tensor(fresh, id, &ref));
		ck_assert_uint_eq(ref.len, want[i].len);
		known[i] = (struct known){true, ref.shard->fd, (uint32_t)(ref.shard - fresh->shards), ref.offset,
					  want[i].seed, want[i].len};
		want[i].origin = (int)i;
	}
}

static const struct stfs_edit_hooks hooks = {NULL, stop, go_on, recorded, swapped};

static int commit(struct stfs_err *err)
{
	struct stfs_edit_result result = {0};
	int r = stfs_edit_commit(edit, NULL, &result, err);

	for (size_t i = 0; r == 0 && i < result.count; i++) {
		const struct stfs_edit_file *f = &result.files[i];
		bool here = f->kind == STFS_PLAN_IN_PLACE || f->kind == STFS_PLAN_HEADER;

		in_place += here;
		replaced += !here && !f->is_index;
		shifted += here && f->shifts;
		slid += here && !f->shifts && f->cost.moved > 20000;
	}
	stfs_edit_result_free(&result);
	is_recorded = false;
	return r;
}

static void commit_well(void)
{
	struct stfs_err err = STFS_ERR_INIT;
	int r = commit(&err);

	ck_assert_msg(r == 0, "%d: %s", r, err.message);
}

/* ---- Models ---- */

/* Tensors `from` to `to` in a file of their own, through the same hooks. */
static void make_file(const char *name, size_t from, size_t to)
{
	struct stfs_err err = STFS_ERR_INIT;

	memset(want, 0, sizeof(want));
	ck_assert_msg(stfs_edit_create(at(name), STFS_EDIT_MAP, &edit, &err) == 0, "%s", err.message);
	stfs_edit_watch(edit, &hooks);
	for (size_t i = from; i < to; i++)
		put(i);
	commit_well();
	ck_assert(stfs_edit_model(edit)->shards[0].mapping.mapped);
	stfs_edit_close(edit);
	memset(known, 0, sizeof(known));
}

static void make_model(void)
{
	STFS_AUTO_BUF struct stfs_buf index = STFS_BUF_INIT;
	struct wanted all[NAMES] = {0};
	size_t counts[2] = {1 + below(10), 1 + below(10)};
	FILE *file;

	stfs_buf_puts(&index, "{\"weight_map\":{");
	for (size_t s = 0; s < (sharded ? 2 : 1); s++) {
		const char *name = !sharded ? "m.safetensors" : s ? "m-2.safetensors" : "m-1.safetensors";

		make_file(name, 12 * s, 12 * s + counts[s]);
		for (size_t i = 12 * s; i < 12 * s + counts[s]; i++) {
			all[i] = want[i];
			stfs_buf_printf(&index, "%s\"%s\":\"%s\"", i ? "," : "", name_of(i), name);
		}
	}
	stfs_buf_puts(&index, "}}");
	memcpy(want, all, sizeof(want));
	if (!sharded)
		return;
	file = fopen(at(INDEX), "we");
	ck_assert_ptr_nonnull(file);
	fputs(stfs_buf_cstr(&index), file);
	ck_assert_int_eq(fclose(file), 0);
}

static void open_model(void)
{
	struct stfs_err err = STFS_ERR_INIT;

	ck_assert_msg(stfs_edit_open(model_path(), STFS_EDIT_MAP, &edit, &err) == 0, "%s", err.message);
	stfs_edit_watch(edit, &hooks);
	stop(NULL);
	swapped(NULL, stfs_edit_model(edit));
	go_on(NULL);
}

static void close_model(void)
{
	stfs_edit_close(edit);
	memset(known, 0, sizeof(known));
}

/* ---- At each call, one of which may fail ---- */

static struct stfs_io seam;
static const struct stfs_io *under;
static size_t fail_in; /* so many calls behind the record; 0: none does */

/* A moment of the commit: whether its call fails now. */
static bool fails(const char *call, bool shift)
{
	if (!stopped && look_always)
		ck_assert(look(call) == 0 || may_be_lost);
	if (!is_recorded || fail_in == 0 || --fail_in > 0)
		return false;
	may_be_lost |= shift;
	errno = EIO;
	return true;
}

static ssize_t seam_pwrite(int fd, const void *bytes, size_t len, off_t offset)
{
	return fails("pwrite", false) ? -1 : under->pwrite(fd, bytes, len, offset);
}

static int seam_fsync(int fd)
{
	return fails("fsync", false) ? -1 : under->fsync(fd);
}

static int seam_ftruncate(int fd, off_t len)
{
	return fails("ftruncate", false) ? -1 : under->ftruncate(fd, len);
}

static int seam_fallocate(int fd, int mode, off_t offset, off_t len)
{
	bool shift = mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE);

	return fails("fallocate", shift) ? -1 : under->fallocate(fd, mode, offset, len);
}

static int seam_unlinkat(int folder, const char *name, int flags)
{
	return fails("unlinkat", false) ? -1 : under->unlinkat(folder, name, flags);
}

static int seam_renameat2(int old_folder, const char *old_name, int folder, const char *name, unsigned flags)
{
	return fails("renameat2", false) ? -1 : under->renameat2(old_folder, old_name, folder, name, flags);
}

static void begin_world(uint64_t number)
{
	struct sim_abilities able = {number & 1, number & 2};

	state = stfs_check_seed() + 1000 * number;
	sharded = number & 4;
	look_always = may_be_lost = is_recorded = stopped = false;
	fail_in = 0;
	pthread_rwlock_init(&lock, NULL);
	make_root();
	make_model();
	sim_begin(root, able, state);
	under = stfs_io;
	seam = *under;
	seam.pwrite = seam_pwrite;
	seam.fsync = seam_fsync;
	seam.ftruncate = seam_ftruncate;
	seam.fallocate = seam_fallocate;
	seam.unlinkat = seam_unlinkat;
	seam.renameat2 = seam_renameat2;
	stfs_io = &seam;
	open_model();
}

static void end_world(void)
{
	close_model();
	sim_end();
	remove_root();
	pthread_rwlock_destroy(&lock);
}

START_TEST(bytes_are_found_at_each_call)
{
	for (uint64_t world = 0; world < 12; world++) {
		begin_world(8 * world + (uint64_t)_i);
		for (int i = 0; i < 8; i++) {
			some_edits();
			look_always = true;
			commit_well();
			look_always = false;
		}
		end_world();
	}
}
END_TEST

/* The model must be there when it has been recovered, and be what was wanted. */
static void check_recovered(void)
{
	struct stfs_err err = STFS_ERR_INIT;
	enum stfs_recovered what;

	stfs_io = under;
	ck_assert_msg(stfs_recover(model_path(), 0, &what, &err) == 0, "%s", err.message);
	may_be_lost = false;
	open_model();
	ck_assert_uint_eq(look("recovered"), 0);
}

/* Whether the commit had a call of that number behind its record, which then failed. */
static bool get_stuck(uint64_t number, size_t call)
{
	struct stfs_err err = STFS_ERR_INIT;
	bool failed;

	begin_world(number);
	some_edits();
	look_always = true;
	fail_in = call;
	if (commit(&err) < 0 && stfs_edit_is_stuck(edit)) {
		size_t unknown = look("stuck");

		ck_assert(unknown == 0 || may_be_lost);
		stuck++;
		lost += unknown > 0;
		ck_assert_int_eq(stfs_edit_revert(edit, &err), -EROFS);
		look_always = false;
		close_model();
		check_recovered();
	}
	look_always = false;
	failed = fail_in == 0;
	end_world();
	return failed;
}

START_TEST(bytes_are_found_when_a_commit_gets_stuck)
{
	for (uint64_t world = 0; world < 6; world++)
		for (size_t call = 1; call < 400 && get_stuck(80000 + 8 * world + (uint64_t)_i, call);)
			call += call < 60 ? 1 : 29;
}
END_TEST

/* ---- Threads ---- */

static atomic_bool finished;
static atomic_int failure;

static void *read_on(void *data)
{
	unsigned char *buffer = malloc(TENSOR_MOST);
	uint64_t mine = (uint64_t)(uintptr_t)data;

	while (!atomic_load(&finished)) {
		size_t number = stfs_check_below(&mine, STFS_CHECK_COUNT(known));
		const struct known *k = &known[number];
		ssize_t got = 1;

		pthread_rwlock_rdlock(&lock);
		if (k->there && k->len) {
			uint64_t from = stfs_check_below(&mine, k->len);

			got = read_part(k, from, 1 + stfs_check_below(&mine, k->len - from), buffer);
			atomic_fetch_add(&read_beside, 1);
		}
		pthread_rwlock_unlock(&lock);
		if (got < 0)
			atomic_store(&failure, (int)got);
	}
	free(buffer);
	return NULL;
}

static void init_lock(void)
{
	pthread_rwlockattr_t attributes;

	pthread_rwlockattr_init(&attributes);
	pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&lock, &attributes);
	pthread_rwlockattr_destroy(&attributes);
}

/* On the file system of $TMPDIR as it is. */
START_TEST(readers_go_on_beside_commits)
{
	pthread_t threads[2];

	state = stfs_check_seed() + 777 + (uint64_t)_i;
	sharded = _i & 1;
	look_always = may_be_lost = is_recorded = stopped = false;
	init_lock();
	make_root();
	make_model();
	open_model();
	atomic_store(&finished, false);
	for (uintptr_t i = 0; i < STFS_CHECK_COUNT(threads); i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, read_on, (void *)(i + 1)), 0);
	for (int i = 0; i < 40 && atomic_load(&failure) == 0; i++) {
		some_edits();
		commit_well();
	}
	atomic_store(&finished, true);
	for (size_t i = 0; i < STFS_CHECK_COUNT(threads); i++)
		pthread_join(threads[i], NULL);
	ck_assert_int_eq(atomic_load(&failure), 0);
	ck_assert_uint_eq(look("at the end"), 0);
	close_model();
	remove_root();
	pthread_rwlock_destroy(&lock);
}
END_TEST

START_TEST(enough_was_met)
{
	printf("# in place %zu (%zu with shifts, %zu slides), replaced %zu, written %zu, looked %zu times, stuck %zu "
	       "(lost %zu), %zu reads beside\n", in_place, shifted, slid, replaced, written, looked, stuck, lost,
	       atomic_load(&read_beside));
	ck_assert(in_place > 100 && shifted > 20 && slid > 20 && replaced > 20 && written > 100);
	ck_assert(looked > 5000 && stuck > 50 && lost > 0 && atomic_load(&read_beside) > 100);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("readers");
	TCase *played = tcase_create("played"), *threads = tcase_create("threads"), *met = tcase_create("met");

	tcase_set_timeout(played, 0);
	tcase_set_timeout(threads, 0);
	tcase_add_loop_test(played, bytes_are_found_at_each_call, 0, 8);
	tcase_add_loop_test(played, bytes_are_found_when_a_commit_gets_stuck, 0, 8);
	tcase_add_loop_test(threads, readers_go_on_beside_commits, 0, 4);
	tcase_add_test(met, enough_was_met);
	suite_add_tcase(suite, played);
	suite_add_tcase(suite, threads);
	suite_add_tcase(suite, met);
	return stfs_check_main(suite);
}
