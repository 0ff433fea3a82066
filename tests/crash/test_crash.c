/* SPDX-License-Identifier: MIT */
/*
 * Commits that are cut off before each of their calls, on every kind of file system (sim.h), and
 * recovered; recoveries that are cut off as well. What is found must be the old model or the new one, and
 * before recovery no loader may take the files for anything else.
 */
#include "../unit/stfs_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "base/siphash.h"
#include "sim.h"
#include "store/edit.h"

#define INDEX "m.safetensors.index.json"

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

/* ---- What a model is: the same number for the same tensors, wherever they lie ---- */

static const struct stfs_sipkey key = {1, 2};

static uint64_t mix(uint64_t hash, const void *bytes, size_t len)
{
	struct stfs_sipkey chained = {hash, 3};

	return stfs_siphash(&chained, stfs_str_slice(bytes, len));
}

static uint64_t tensor_print(struct stfs_str name, enum stfs_dtype dtype, const uint64_t *dims, size_t rank, int fd,
			     uint64_t offset, uint64_t len)
{
	STFS_AUTO_FREE char *bytes = malloc(len ? len : 1);
	uint64_t hash = stfs_siphash(&key, name);
	int kind = (int)dtype;

	ck_assert_int_eq(pread(fd, bytes, len, (off_t)offset), len);
	hash = mix(hash, &kind, sizeof(kind));
	for (size_t i = 0; i < rank; i++)
		hash = mix(hash, &dims[i], sizeof(dims[i]));
	return mix(hash, bytes, len);
}

static int add_pair(void *data, struct stfs_str name, struct stfs_str value)
{
	*(uint64_t *)data += mix(stfs_siphash(&key, name), value.ptr, value.len);
	return 0;
}

/* Of the model in the folder, opened as strictly as the official loader does: 0 when it is refused. */
static uint64_t print_of_folder(void)
{
	struct stfs_model *model;
	struct stfs_tensor_ref ref;
	uint64_t print = 1;

	if (stfs_model_open(model_path(), 0, &model, NULL) < 0)
		return 0;
	for (uint32_t id = 0; id < stfs_model_ids(model); id++) {
		STFS_AUTO_FREE uint64_t *dims = NULL;

		if (!stfs_model_tensor(model, id, &ref))
			continue;
		dims = stfs_model_shape(&ref);
		print += tensor_print(ref.name, (enum stfs_dtype)ref.tensor->dtype, dims, ref.tensor->rank,
				      ref.shard->fd, ref.offset, ref.len);
	}
	ck_assert_int_eq(stfs_model_metadata(model, add_pair, &print), 0);
	ck_assert_uint_eq(model->findings.count, 0); /* the index agrees with the shards */
	stfs_model_close(model);
	return print;
}

/* Of the model as staged: what the commit has to make of it. */
static uint64_t print_of_edit(struct stfs_edit *edit)
{
	struct stfs_edit_tensor t;
	uint64_t print = 1;
	size_t count;

	ck_assert_int_eq(stfs_edit_count(edit, &count), 0);
	for (size_t i = 0; i < count; i++) {
		ck_assert_int_eq(stfs_edit_tensor(edit, i, &t), 0);
		print += tensor_print(t.name, t.dtype, t.dims, t.rank, t.fd, t.offset, t.len);
	}
	ck_assert_int_eq(stfs_edit_metadata(edit, add_pair, &print), 0);
	return print;
}

/* ---- Models and edits ---- */

static int source_fd; /* a file of random bytes */

static void make_root(void)
{
	char bytes[1 << 16];
	FILE *file = tmpfile();

	make_folder("crash");
	ck_assert_ptr_nonnull(file);
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (char)(i * 2654435761u >> 13);
	ck_assert_uint_eq(fwrite(bytes, 1, sizeof(bytes), file), sizeof(bytes));
	fflush(file);
	source_fd = fcntl(fileno(file), F_DUPFD_CLOEXEC, 3);
	fclose(file);
}

static void remove_root(void)
{
	close(source_fd);
	remove_folder();
}

static size_t pick_size(void)
{
	static const size_t sizes[] = {0, 1, 8, 512, 4088, 4095, 4096, 4097, 8192, 12288, 16384, 40960};

	return below(4) ? sizes[below(STFS_CHECK_COUNT(sizes))] : below(20000);
}

static void put(struct stfs_edit *edit, const char *name)
{
	static const enum stfs_dtype types[] = {STFS_U8, STFS_U8, STFS_F16, STFS_F32, STFS_I64};
	enum stfs_dtype dtype = types[below(STFS_CHECK_COUNT(types))];
	uint64_t dims[2] = {1, pick_size() / stfs_dtype_alignment(dtype)};
	struct stfs_source source = {source_fd, below(4000)};
	struct stfs_err err = STFS_ERR_INIT;

	ck_assert_msg(stfs_edit_put(edit, stfs_str_from(name), dtype, dims, 1 + below(2), source, &err) == 0, "%s",
		      err.message);
}

/* The shape of rank 1 above is [1], of a tensor of one element: small ones are wanted too. */
static const char *name_of(size_t number)
{
	static char names[4][32];
	static unsigned next;
	char *name = names[next++ % 4];

	snprintf(name, sizeof(names[0]), "layer.%zu.weight", number);
	return name;
}

static bool compacts; /* the commit at hand is asked to */

static void some_edits(struct stfs_edit *edit, size_t count)
{
	struct stfs_edit_pair pair;
	struct stfs_edit_tensor t;
	char old[64];
	size_t there;

	while (count-- > 0) {
		ck_assert_int_eq(stfs_edit_count(edit, &there), 0);
		if (there) {
			ck_assert_int_eq(stfs_edit_tensor(edit, below(there), &t), 0);
			snprintf(old, sizeof(old), "%.*s", (int)t.name.len, t.name.ptr);
		}
		switch (there > 1 ? below(8) : 0) {
		case 0:
		case 1:
			put(edit, name_of(below(40)));
			break;
		case 2:
			put(edit, old);
			break;
		case 3:
		case 4:
			ck_assert_int_eq(stfs_edit_remove(edit, stfs_str_from(old), NULL), 0);
			break;
		case 5:
			pair = (struct stfs_edit_pair){stfs_str_from(old), stfs_str_from(name_of(below(60)))};
			if (!stfs_str_equal(pair.from, pair.to))
				ck_assert_int_eq(stfs_edit_rename(edit, &pair, 1, true, NULL), 0);
			break;
		case 6:
			ck_assert_int_eq(stfs_edit_set(edit, stfs_str_from(name_of(below(3))),
						       stfs_str_slice(root, below(strlen(root))), NULL), 0);
			break;
		default:
			if (below(3))
				break;
			ck_assert_int_eq(stfs_edit_compact(edit, NULL), 0);
			compacts = true;
			break;
		}
	}
}

static void write_text(const char *name, const char *text)
{
	FILE *file = fopen(at(name), "we");

	ck_assert_ptr_nonnull(file);
	fputs(text, file);
	ck_assert_int_eq(fclose(file), 0);
}

/* A model of a file, or of two and an index. */
static void make_model(void)
{
	STFS_AUTO_BUF struct stfs_buf index = STFS_BUF_INIT;
	struct stfs_edit *edit;
	struct stfs_err err = STFS_ERR_INIT;
	const char *const names[] = {sharded ? "m-1.safetensors" : "m.safetensors", "m-2.safetensors"};
	uint64_t total = 0;

	stfs_buf_puts(&index, "{\"metadata\":{\"total_size\":TOTAL},\"weight_map\":{");
	for (size_t s = 0; s < (sharded ? 2 : 1); s++) {
		size_t count = 1 + below(8), there;

		ck_assert_msg(stfs_edit_create(at(names[s]), 0, &edit, &err) == 0, "%s", err.message);
		for (size_t i = 0; i < count; i++)
			put(edit, name_of(20 * s + i));
		if (below(2))
			stfs_edit_set(edit, stfs_str_from("format"), stfs_str_from("pt"), NULL);
		ck_assert_msg(stfs_edit_commit(edit, NULL, NULL, &err) == 0, "%s", err.message);
		ck_assert_int_eq(stfs_edit_count(edit, &there), 0);
		for (size_t i = 0; i < count; i++) {
			struct stfs_edit_tensor t;

			ck_assert_int_eq(stfs_edit_tensor(edit, i, &t), 0);
			total += t.len;
			stfs_buf_printf(&index, "%s\"%.*s\":\"%s\"", s || i ? "," : "", (int)t.name.len, t.name.ptr,
					names[s]);
		}
		stfs_edit_close(edit);
	}
	stfs_buf_puts(&index, "}}");
	if (sharded) {
		STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;

		stfs_buf_printf(&text, "{\"metadata\":{\"total_size\":%" PRIu64 "}%s", total,
				strchr(stfs_buf_cstr(&index), '}') + 1);
		write_text(INDEX, stfs_buf_cstr(&text));
	}
}

/* ---- Crashes ---- */

static uint64_t old_print, new_print;
static size_t crashes, recoveries;

/* What the suite has met: a plan that no test makes is a plan that no test cuts off. */
static struct {
	size_t header, in_place, clone, rebuild; /* by kind */
	size_t collapse, insert, insert_at_0, many_shifts, moved;
	size_t compact, readers, late_readers, sharded;
} met;

static void count_plan(const struct stfs_edit_result *result, bool compact)
{
	size_t inserts, at_0, shifts = 0;

	for (size_t i = 0; i < result->count; i++) {
		const struct stfs_edit_file *f = &result->files[i];

		if (f->is_index)
			continue;
		met.header += f->kind == STFS_PLAN_HEADER;
		met.in_place += f->kind == STFS_PLAN_IN_PLACE;
		met.clone += f->kind == STFS_PLAN_CLONE;
		met.rebuild += f->kind == STFS_PLAN_REBUILD;
		met.many_shifts += f->kind == STFS_PLAN_IN_PLACE && f->shifts > 1;
		met.moved += f->kind == STFS_PLAN_IN_PLACE && f->shifts && f->cost.moved;
		shifts += f->kind == STFS_PLAN_IN_PLACE ? f->shifts : 0;
		met.compact += compact && f->kind != STFS_PLAN_HEADER;
	}
	if (!shifts)
		return;
	sim_count_inserts(&inserts, &at_0);
	met.insert += inserts;
	met.insert_at_0 += at_0;
	met.collapse += shifts > inserts;
}

/* Nothing but the model's files may be left. */
static void check_litter(const char *where)
{
	DIR *dir = opendir(root);
	struct dirent *entry;

	while ((entry = readdir(dir)))
		ck_assert_msg(strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
				      entry->d_name[0] != '.', "%s left after %s", entry->d_name, where);
	closedir(dir);
}

/* C3: what a loader finds before recovery. A sharded model is not opened as a whole while it is changed. */
static void check_before(const char *where)
{
	uint64_t print = print_of_folder();

	ck_assert_msg(print == 0 || print == old_print || print == new_print, "before recovery, %s", where);
}

static void recover(const char *where)
{
	struct stfs_err err = STFS_ERR_INIT;
	enum stfs_recovered what;
	uint64_t print;
	int r = stfs_recover(model_path(), 0, &what, &err);

	if (r < 0)
		for (size_t i = 0; i < sim_calls(); i++)
			printf("# %zu %s\n", i, sim_name(i));
	ck_assert_msg(r == 0, "%s: %s", where, err.message);
	print = print_of_folder();
	if (print != old_print && print != new_print)
		for (size_t i = 0; i < sim_calls(); i++)
			printf("# %zu %s\n", i, sim_name(i));
	ck_assert_msg(print == old_print || print == new_print, "neither old nor new after %s", where);
	ck_assert_msg(what != STFS_RECOVERED_OLD || print == old_print, "old was said, %s", where);
	ck_assert_msg(what != STFS_RECOVERED_NEW || print == new_print, "new was said, %s", where);
}

static bool thorough; /* every call of a recovery is cut off, by the power */

/* Recovers, and then again with that recovery cut off at some of its own calls. */
static void recover_with_crashes(size_t call, enum sim_policy policy, size_t part, bool deep, uint64_t seed)
{
	struct sim_saved *saved = sim_save();
	char where[900];
	size_t calls;
	bool goes_on;

	snprintf(where, sizeof(where), "call %zu, policy %d, part %zu (STFS_SEED %" PRIu64 ")", call, (int)policy, part,
		 seed);
	check_before(where);
	/* A program that died has synced nothing: the power may go before its last calls are on the disk. */
	goes_on = policy == SIM_STOPPED && part == 0;
	if (goes_on)
		sim_record_on(saved, call);
	else
		sim_record();
	recover(where);
	calls = sim_calls();
	for (size_t i = goes_on ? call : 0; (deep || thorough) && i < calls; i++) {
		size_t parts = sim_parts(i);

		if (!thorough && below(3))
			continue;
		snprintf(where, sizeof(where), "call %zu, policy %d, part %zu, recovery cut at %zu (STFS_SEED %" PRIu64
			 ")", call, (int)policy, part, i, seed);
		sim_crash(i, thorough || below(2) ? SIM_CUT : SIM_STOPPED, parts ? below(parts + 1) : 0);
		check_before(where);
		recover(where);
		recoveries++;
	}
	sim_restore(saved);
	crashes++;
}

static int cuts = 3; /* power cuts tried before each call */

static void crash_everywhere(uint64_t seed)
{
	size_t calls = sim_calls();

	for (size_t call = 0; call <= calls; call++) {
		size_t parts = sim_parts(call);

		sim_crash(call, SIM_STOPPED, 0);
		recover_with_crashes(call, SIM_STOPPED, 0, !below(4), seed);
		for (int i = 0; i < cuts; i++) {
			sim_crash(call, SIM_CUT, 0);
			recover_with_crashes(call, SIM_CUT, 0, !below(6), seed);
		}
		for (size_t part = 1; part <= parts; part++) {
			sim_crash(call, SIM_STOPPED, part);
			recover_with_crashes(call, SIM_STOPPED, part, !below(4), seed);
		}
	}
}

static int reader_fd = -1;

/* Another program opens the model: what it holds then does not move. */
static void open_reader(void)
{
	reader_fd = open(at(sharded ? "m-1.safetensors" : "m.safetensors"), O_RDONLY | O_CLOEXEC);
	ck_assert_int_ge(reader_fd, 0);
}

static void close_reader(void)
{
	sim_on_poison(NULL);
	if (reader_fd >= 0)
		close(stfs_steal_fd(&reader_fd));
}

enum readers { NO_READER, READER, LATE_READER };

/* A commit whose every call is recorded; then the crashes. The edits are staged. */
static void commit_and_crash(struct stfs_edit *edit, enum readers readers, uint64_t seed)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_edit_result result;
	uint64_t want = print_of_edit(edit);

	sim_record();
	if (readers == READER)
		open_reader();
	else if (readers == LATE_READER)
		sim_on_poison(open_reader);
	ck_assert_msg(stfs_edit_commit(edit, NULL, &result, &err) == 0, "%s (STFS_SEED %" PRIu64 ")", err.message, seed);
	stfs_edit_close(edit);
	met.readers += readers == READER && result.readers;
	met.late_readers += readers == LATE_READER && result.readers;
	met.sharded += result.count > 2;
	count_plan(&result, compacts);
	stfs_edit_result_free(&result);
	close_reader();
	new_print = print_of_folder();
	ck_assert_msg(new_print == want, "a commit made something else of it (STFS_SEED %" PRIu64 ")", seed);
	check_litter("a commit");
	crash_everywhere(seed);
	/* The last crash was after the last call: the new model stands. */
	sim_crash(sim_calls(), SIM_STOPPED, 0);
}

static struct stfs_edit *open_model(void)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_edit *edit;

	ck_assert_msg(stfs_edit_open(model_path(), 0, &edit, &err) == 0, "%s", err.message);
	old_print = print_of_edit(edit);
	compacts = false;
	return edit;
}

/* ---- Models of larger tensors, for which a block shift is worth its call ---- */

static void put_sized(struct stfs_edit *edit, size_t number, uint64_t size)
{
	struct stfs_source source = {source_fd, below(4000)};
	struct stfs_err err = STFS_ERR_INIT;

	ck_assert_msg(stfs_edit_put(edit, stfs_str_from(name_of(number)), STFS_U8, &size, 1, source, &err) == 0, "%s",
		      err.message);
}

static void remove_numbered(struct stfs_edit *edit, size_t number)
{
	ck_assert_int_eq(stfs_edit_remove(edit, stfs_str_from(name_of(number)), NULL), 0);
}

enum { LARGE_ONES = 9 };

/* The reserve goes out of a file's header, as other writers have it; the file is put together anew. */
static void take_slack(const char *path)
{
	STFS_AUTO_FREE char *text = NULL;
	STFS_AUTO_FD int fd = open(path, O_RDWR | O_CLOEXEC);
	STFS_AUTO_FREE char *data = NULL;
	struct stat st;
	char word[8];
	size_t len, used, rest;

	ck_assert(fd >= 0 && fstat(fd, &st) == 0 && pread(fd, word, 8, 0) == 8);
	used = len = (size_t)stfs_load_le64(word);
	rest = (size_t)st.st_size - 8 - len;
	text = malloc(len);
	data = malloc(rest);
	ck_assert(pread(fd, text, len, 8) == (ssize_t)len && pread(fd, data, rest, (off_t)(8 + len)) == (ssize_t)rest);
	while (text[used - 1] == ' ')
		used--;
	used = stfs_align_up(used, 8);
	stfs_store_le64(word, used);
	ck_assert(pwrite(fd, word, 8, 0) == 8 && pwrite(fd, data, rest, (off_t)(8 + used)) == (ssize_t)rest);
	ck_assert_int_eq(ftruncate(fd, (off_t)(8 + used + rest)), 0);
}

static void make_large_model(bool even)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_edit *edit;

	ck_assert_msg(stfs_edit_create(model_path(), 0, &edit, &err) == 0, "%s", err.message);
	for (size_t i = 0; i < LARGE_ONES; i++)
		put_sized(edit, i, even ? (5 + below(10)) * SIM_BLOCK : 20000 + below(40000));
	/* Small ones, to fill what is left of a hole beside whole blocks. */
	for (size_t i = 0; i < 6; i++)
		put_sized(edit, 20 + i, 1 + below(6000));
	ck_assert_msg(stfs_edit_commit(edit, NULL, NULL, &err) == 0, "%s", err.message);
	stfs_edit_close(edit);
	take_slack(model_path());
}

static void set_long(struct stfs_edit *edit, size_t len)
{
	STFS_AUTO_FREE char *value = malloc(len);

	memset(value, 'v', len);
	ck_assert_int_eq(stfs_edit_set(edit, stfs_str_from("long"), stfs_str_slice(value, len), NULL), 0);
}

static void large_edits(struct stfs_edit *edit, int which)
{
	switch (which) {
	case 0:
		remove_numbered(edit, 2 + below(4));
		break;
	case 1: /* holes apart from each other */
		remove_numbered(edit, 1);
		remove_numbered(edit, 4);
		remove_numbered(edit, 6);
		break;
	case 2: /* the header has no room for it */
		set_long(edit, 3000 + below(10000));
		break;
	case 3: /* new ones into the hole, or to the tail */
		remove_numbered(edit, 3);
		put_sized(edit, 50, 1 + below(9000));
		put_sized(edit, 5, 1 + below(60000));
		break;
	default:
		remove_numbered(edit, 0);
		set_long(edit, 9000);
		put_sized(edit, 50, 12345);
		break;
	}
}

enum { LARGE_EDITS = 5 };

static void one_large_model(struct sim_abilities abilities, int which, bool even, enum readers readers)
{
	uint64_t seed = state;
	struct stfs_edit *edit;

	make_root();
	make_large_model(even);
	sim_begin(root, abilities, state);
	edit = open_model();
	large_edits(edit, which);
	commit_and_crash(edit, readers, seed);
	sim_end();
	remove_root();
}

/* Commits one upon the other. */
static void one_model(struct sim_abilities abilities, size_t commits)
{
	uint64_t seed = state;

	make_root();
	make_model();
	sim_begin(root, abilities, state);
	while (commits-- > 0) {
		struct stfs_edit *edit = open_model();

		some_edits(edit, 1 + below(4));
		commit_and_crash(edit, below(4) ? NO_READER : below(2) ? READER : LATE_READER, seed);
	}
	sim_end();
	remove_root();
}

static const struct sim_abilities kinds[] = {
	{.shift = true}, {.shift = false}, {.shift = true, .clone = true}, {.clone = true},
};

enum { ROUNDS = 5 };

/* Models of each kind and size of test; more of them with STFS_CRASH_ROUNDS. */
static int rounds(void)
{
	const char *text = getenv("STFS_CRASH_ROUNDS");

	return text && *text ? atoi(text) : ROUNDS;
}

START_TEST(one_file)
{
	sharded = false;
	state = stfs_check_seed() + (uint64_t)_i;
	for (int i = 0; i < rounds(); i++)
		one_model(kinds[_i], 3);
}
END_TEST

START_TEST(two_shards)
{
	sharded = true;
	state = stfs_check_seed() + 100 + (uint64_t)_i;
	for (int i = 0; i < rounds() / 2; i++)
		one_model(kinds[_i], 2);
}
END_TEST

START_TEST(large_tensors)
{
	sharded = false;
	cuts = 1;
	state = stfs_check_seed() + 200 + (uint64_t)_i;
	for (int i = 0; i < (rounds() + 4) / 5; i++) {
		for (int even = 0; even < 2; even++)
			one_large_model(kinds[0], _i, even, NO_READER);
		one_large_model(kinds[0], _i, true, LATE_READER);
		one_large_model(kinds[2], _i, true, NO_READER);
	}
	cuts = 3;
}
END_TEST

/* Small models, every recovery cut off at every call; half of them erase a record that was durable. */
START_TEST(late_reader)
{
	sharded = false;
	thorough = true;
	state = stfs_check_seed() + 300;
	for (int i = 0; i < 12; i++) {
		struct stfs_err err = STFS_ERR_INIT;
		struct stfs_edit *edit;

		make_root();
		ck_assert_int_eq(stfs_edit_create(model_path(), 0, &edit, &err), 0);
		for (size_t k = 0; k < 3; k++)
			put_sized(edit, k, 3000 + below(3000));
		ck_assert_msg(stfs_edit_commit(edit, NULL, NULL, &err) == 0, "%s", err.message);
		stfs_edit_close(edit);
		sim_begin(root, kinds[1], state);
		edit = open_model();
		remove_numbered(edit, 2);
		put_sized(edit, 2, 2000);
		commit_and_crash(edit, i % 2 ? LATE_READER : NO_READER, state);
		sim_end();
		remove_root();
	}
	thorough = false;
}
END_TEST

/* Runs last: a plan that the suite no longer meets is one that nothing cuts off any more. */
START_TEST(met_every_plan)
{
	if (rounds() < ROUNDS)
		return; /* a short run */
	ck_assert(met.header && met.in_place && met.clone && met.rebuild);
	ck_assert(met.collapse && met.insert && met.insert_at_0 && met.many_shifts && met.moved);
	ck_assert(met.compact && met.readers && met.late_readers && met.sharded);
}
END_TEST

/* One model again, as a failure named it: STFS_CRASH_MODEL=KIND,SHARDED,COMMITS,SEED. */
START_TEST(one_again)
{
	unsigned kind, shards, commits;

	ck_assert_int_eq(sscanf(getenv("STFS_CRASH_MODEL"), "%u,%u,%u,%" SCNu64, &kind, &shards, &commits, &state), 4);
	sharded = shards;
	one_model(kinds[kind % STFS_CHECK_COUNT(kinds)], commits);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("crash");
	TCase *tcase = tcase_create("every call");
	int failed;

	tcase_set_timeout(tcase, 0);
	if (getenv("STFS_CRASH_MODEL")) {
		tcase_add_test(tcase, one_again);
		suite_add_tcase(suite, tcase);
		return stfs_check_main(suite);
	}
	tcase_add_loop_test(tcase, one_file, 0, STFS_CHECK_COUNT(kinds));
	tcase_add_loop_test(tcase, two_shards, 0, STFS_CHECK_COUNT(kinds));
	tcase_add_loop_test(tcase, large_tensors, 0, LARGE_EDITS);
	tcase_add_test(tcase, late_reader);
	tcase_add_test(tcase, met_every_plan);
	suite_add_tcase(suite, tcase);
	failed = stfs_check_main(suite);
	printf("# %zu crashes, %zu more during recovery\n", crashes, recoveries);
	printf("# plans: %zu header, %zu in place, %zu clone, %zu rebuild, %zu compact\n", met.header, met.in_place,
	       met.clone, met.rebuild, met.compact);
	printf("# in place: %zu collapse, %zu insert (%zu at 0), %zu several shifts, %zu move bytes too\n", met.collapse,
	       met.insert, met.insert_at_0, met.many_shifts, met.moved);
	printf("# %zu with readers, %zu with one that came late, %zu of several files\n", met.readers, met.late_readers,
	       met.sharded);
	return failed;
}
