/* SPDX-License-Identifier: MIT */
/*
 * Files in another format that become models in their place, cut off before each call as in test_crash.c.
 * What is found is every byte of the old file, or the new model; and until then none of three loaders, one of
 * models, one that begins with an archive's first bytes, and one that looks for its last record, gets
 * bytes that are not those of the old file or the new model.
 */
#include "../unit/stfs_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "sim.h"
#include "store/edit.h"

#define NAME "old.pt"
#define ITEMS_MOST 40
#define BEGIN "PK\3\4\0\0\10\10"
#define END "PK\5\6"
#define END_LEN 22
#define COMMENT_MOST 65535
/* A longer slide, in pieces of next to nothing, is the same again and again; of recoveries some are cut. */
#define CALLS_MOST 5000
#define CUTS_MOST 100

static uint64_t state; /* of the random numbers */

static size_t below(size_t bound)
{
	return stfs_check_below(&state, bound);
}

/* ---- The old file, and what is to become of it ---- */

enum how {
	STAYS,    /* bytes of the old file, for this one alone */
	COPIED,   /* bytes of the old file that others have too */
	ASSEMBLED /* made of bytes of the old file by a reader: here, in reverse */
};

struct item {
	char name[32];
	enum how how;
	uint64_t at, size;
};

static struct item items[ITEMS_MOST];
static size_t item_count;
static char *old; /* all of it */
static uint64_t old_len;
static int old_fd = -1; /* that the readers read from */

struct shape {
	bool even;   /* places and sizes are whole blocks, so that shifts can move them */
	bool large;
	bool to_end; /* the last tensor ends where the file does, as in files before archives */
};

static void make_old(struct shape shape)
{
	size_t count = 3 + below(8);

	item_count = 0;
	old_len = shape.even ? SIM_BLOCK : 100 + below(600);
	for (size_t i = 0; i < count; i++) {
		struct item *item = &items[item_count++];
		uint64_t size = shape.large ? 20000 + below(60000) : below(9000);

		snprintf(item->name, sizeof(item->name), "layer.%zu", i);
		item->size = shape.even ? (size / SIM_BLOCK + 1) * SIM_BLOCK : size / 8 * 8 + 8;
		item->at = old_len;
		item->how = below(5) ? STAYS : ASSEMBLED;
		old_len += item->size;
		if (i + 1 < count || !shape.to_end)
			old_len += shape.even ? SIM_BLOCK * below(4) : (shape.large ? 512 : 64) * (1 + below(3));
	}
	if (count > 3) {
		struct item *item = &items[item_count++];

		snprintf(item->name, sizeof(item->name), "shared");
		*item = (struct item){.how = COPIED, .at = items[1].at, .size = items[1].size / 16 * 8};
		snprintf(item->name, sizeof(item->name), "shared");
	}
	if (!shape.to_end)
		old_len += below(3000) + END_LEN;
	old = malloc(old_len);
	ck_assert_ptr_nonnull(old);
	for (uint64_t i = 0; i < old_len; i++)
		old[i] = (char)(i * 2654435761u >> 13 ^ i >> 7);
	memcpy(old, BEGIN, 8);
	if (!shape.to_end)
		memcpy(old + old_len - END_LEN, END, 4);
}

static void write_old(void)
{
	STFS_AUTO_FD int fd = open(at(NAME), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	ck_assert(fd >= 0 && write(fd, old, old_len) == (ssize_t)old_len);
}

static int read_reversed(void *data, void *buffer, size_t len, uint64_t offset, struct stfs_err *err)
{
	const struct item *item = data;
	STFS_AUTO_FREE char *bytes = malloc(len ? len : 1);
	char *out = buffer;

	/* From the file: what a step before the record had overwritten would be seen. */
	ck_assert_int_eq(pread(old_fd, bytes, len, (off_t)(item->at + item->size - offset - len)), len);
	for (size_t i = 0; i < len; i++)
		out[i] = bytes[len - 1 - i];
	return 0;
}

static void stage(struct stfs_edit *edit)
{
	static const struct stfs_reader reversed = {.read = read_reversed};
	struct stfs_err err = STFS_ERR_INIT;
	uint64_t len, end = 0;
	int r = 0;

	old_fd = stfs_edit_foreign_fd(edit, &len);
	ck_assert_uint_eq(len, old_len);
	for (size_t i = 0; i < item_count; i++)
		end = stfs_max_u64(end, items[i].at + items[i].size);
	stfs_edit_set_foreign_end(edit, end);
	for (size_t i = 0; r == 0 && i < item_count; i++) {
		struct item *item = &items[i];
		struct stfs_source source = {.fd = old_fd, .offset = item->at};
		uint64_t dims = item->size / 8;

		if (item->how == ASSEMBLED)
			source = (struct stfs_source){.fd = -1, .reader = &reversed, .data = item};
		r = item->how == STAYS ? stfs_edit_stay(edit, stfs_str_from(item->name), STFS_I64, &dims, 1, item->at, &err)
				       : stfs_edit_put(edit, stfs_str_from(item->name), STFS_I64, &dims, 1, source, &err);
	}
	ck_assert_msg(r == 0, "%s", err.message);
	ck_assert_int_eq(stfs_edit_set(edit, stfs_str_from("format"), stfs_str_from("pt"), NULL), 0);
}

/* ---- Loaders ---- */

static char *found; /* the file as it is now */
static uint64_t found_len;

static void read_file(void)
{
	STFS_AUTO_FD int fd = open(at(NAME), O_RDONLY | O_CLOEXEC);
	struct stat st;

	free(found);
	ck_assert(fd >= 0 && fstat(fd, &st) == 0);
	found_len = (uint64_t)st.st_size;
	found = malloc(found_len + 1);
	ck_assert_int_eq(pread(fd, found, found_len, 0), found_len);
}

static bool is_old(void)
{
	return found_len == old_len && memcmp(found, old, old_len) == 0;
}

static bool has_item(const struct item *item, const struct stfs_model *model)
{
	uint32_t id = stfs_model_find(model, stfs_str_from(item->name));
	struct stfs_tensor_ref ref;

	if (id == STFS_NO_TENSOR || !stfs_model_tensor(model, id, &ref) || ref.len != item->size ||
	    ref.offset % 8 || ref.offset + ref.len > found_len)
		return false;
	for (uint64_t i = 0; i < item->size; i++)
		if (found[ref.offset + i] != (item->how == ASSEMBLED ? old[item->at + item->size - 1 - i] : old[item->at + i]))
			return false;
	return true;
}

/* A loader of models: whether it is refused, or is the new one; anything else fails. */
static bool is_new(const char *where)
{
	struct stfs_model *model;

	if (stfs_model_open(at(NAME), 0, &model, NULL) < 0)
		return false;
	ck_assert_msg(stfs_model_ids(model) == item_count, "another model, %s", where);
	for (size_t i = 0; i < item_count; i++)
		ck_assert_msg(has_item(&items[i], model), "%s is not what it was, %s", items[i].name, where);
	stfs_model_close(model);
	return true;
}

/* A loader of archives that goes by the end: where it finds a last record, or 0. */
static uint64_t find_end(void)
{
	for (uint64_t i = found_len; i >= END_LEN && found_len - i <= COMMENT_MOST; i--)
		if (memcmp(found + i - END_LEN, END, 4) == 0)
			return i;
	return 0;
}

static void list_calls(void)
{
	for (size_t i = 0; i < sim_calls(); i++)
		printf("# %zu %s\n", i, sim_name(i));
}

static void check_before(const char *where)
{
	read_file();
	is_new(where);
	if (memcmp(found, BEGIN, 4) == 0)
		ck_assert_msg(found_len >= old_len && memcmp(found, old, old_len) == 0,
			      "begins as the old file, and is none, %s", where);
	/*
	 * The first bytes say nothing to it. What is erased is torn when the power goes, but it is of no tensor: as
	 * long as the last record can be found, they are all where it leads to.
	 */
	for (size_t i = 0; find_end() && i < item_count; i++)
		ck_assert_msg(found_len >= old_len && memcmp(found + items[i].at, old + items[i].at, items[i].size) == 0,
			      "ends as the old file, without the bytes of %s, %s", items[i].name, where);
}

static void recover(const char *where)
{
	struct stfs_err err = STFS_ERR_INIT;
	enum stfs_recovered what;
	bool fresh;
	int r = stfs_recover(at(NAME), 0, &what, &err);

	if (r < 0)
		list_calls();
	ck_assert_msg(r == 0, "%s: %s", where, err.message);
	read_file();
	fresh = is_new(where);
	if (!fresh && !is_old())
		list_calls();
	ck_assert_msg(fresh || is_old(), "neither old nor new after %s", where);
	ck_assert_msg(what != STFS_RECOVERED_OLD || !fresh, "old was said, %s", where);
	ck_assert_msg(what != STFS_RECOVERED_NEW || fresh, "new was said, %s", where);
}

/* ---- Crashes ---- */

static size_t crashes, recoveries;

static void recover_with_crashes(size_t call, enum sim_policy policy, size_t part, bool deep)
{
	struct sim_saved *saved = sim_save();
	char where[300];
	bool goes_on = policy == SIM_STOPPED && part == 0;
	size_t calls;

	snprintf(where, sizeof(where), "call %zu, policy %d, part %zu", call, (int)policy, part);
	check_before(where);
	if (goes_on)
		sim_record_on(saved, call);
	else
		sim_record();
	recover(where);
	calls = sim_calls();
	for (size_t i = goes_on ? call : 0; deep && calls < 1000 && i < calls; i++) {
		size_t parts = sim_parts(i);

		if (below(2) || below(calls) > CUTS_MOST)
			continue;
		snprintf(where, sizeof(where), "call %zu, policy %d, part %zu, recovery cut at %zu", call, (int)policy,
			 part, i);
		sim_crash(i, below(2) ? SIM_CUT : SIM_STOPPED, parts ? below(parts + 1) : 0);
		check_before(where);
		recover(where);
		recoveries++;
	}
	sim_restore(saved);
	crashes++;
}

static void crash_everywhere(void)
{
	size_t calls = sim_calls(), stride = 1 + calls / 100;

	for (size_t call = 0; call <= calls; call += calls - call < 40 || call < 40 ? 1 : 1 + below(stride)) {
		size_t parts = sim_parts(call);

		for (int i = 0; i < 3; i++) {
			enum sim_policy policy = i ? SIM_CUT : SIM_STOPPED;

			sim_crash(call, policy, 0);
			recover_with_crashes(call, policy, 0, !below(8));
		}
		for (size_t part = 1; part <= parts; part++) {
			sim_crash(call, SIM_STOPPED, part);
			recover_with_crashes(call, SIM_STOPPED, part, !below(8));
		}
	}
}

static struct {
	size_t in_place, shifts, slides, replaced, late_readers;
} met;

static int reader_fd = -1;

static void open_reader(void)
{
	reader_fd = open(at(NAME), O_RDONLY | O_CLOEXEC);
	ck_assert_int_ge(reader_fd, 0);
}

static void count_plan(const struct stfs_edit_result *result, bool late)
{
	const struct stfs_edit_file *file = &result->files[0];
	bool in_place = file->kind == STFS_PLAN_IN_PLACE;

	met.in_place += in_place;
	met.shifts += in_place && file->shifts;
	met.slides += in_place && !file->shifts && file->cost.moved;
	met.replaced += file->kind == STFS_PLAN_REBUILD || file->kind == STFS_PLAN_CLONE;
	met.late_readers += late && result->readers;
}

/* Nothing but the file may be left. */
static void check_litter(void)
{
	DIR *dir = opendir(root);
	struct dirent *entry;

	while ((entry = readdir(dir)))
		ck_assert_msg(entry->d_name[0] != '.' || strspn(entry->d_name, ".") == strlen(entry->d_name),
			      "%s is left", entry->d_name);
	closedir(dir);
}

static void one_file(struct sim_abilities abilities, struct shape shape, bool late)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_edit_result result;
	struct stfs_edit *edit;
	uint64_t seed = state;
	int r;

	make_folder("foreign");
	make_old(shape);
	write_old();
	sim_begin(root, abilities, state);
	ck_assert_msg(stfs_edit_open_foreign(at(NAME), 0, &edit, &err) == 0, "%s", err.message);
	stage(edit);
	sim_record();
	if (late)
		sim_on_poison(open_reader);
	r = stfs_edit_commit(edit, NULL, &result, &err);
	sim_on_poison(NULL);
	if (reader_fd >= 0)
		close(stfs_steal_fd(&reader_fd));
	ck_assert_msg(r == 0 || (r == -ENOSPC && abilities.room), "%s (STFS_SEED %" PRIu64 ")", err.message, seed);
	stfs_edit_close(edit);
	if (r == 0)
		count_plan(&result, late);
	stfs_edit_result_free(&result);
	read_file();
	ck_assert_msg(is_new("after the commit") == (r == 0), "STFS_SEED %" PRIu64, seed);
	ck_assert(r == 0 || is_old());
	check_litter();
	if (r == 0 && sim_calls() < CALLS_MOST)
		crash_everywhere();
	sim_end();
	free(old);
	remove_folder();
}

static int rounds(void)
{
	const char *text = getenv("STFS_CRASH_ROUNDS");

	return text && *text ? atoi(text) : 5;
}

static const struct sim_abilities kinds[] = {
	{.shift = true}, {.shift = false}, {.shift = true, .clone = true}, {.clone = true},
	/* Too little for a file beside it. */
	{.shift = true, .room = 60000}, {.room = 60000}, {.room = 150000}, {.clone = true, .room = 60000},
};

START_TEST(foreign_files)
{
	state = stfs_check_seed() + 500 + (uint64_t)_i;
	for (int i = 0; i < rounds(); i++)
		one_file(kinds[_i], (struct shape){.even = below(2), .large = kinds[_i].room || below(2),
						  .to_end = !below(3)}, !below(3));
}
END_TEST

/* Where blocks can be shifted and the holes are whole ones, the file is changed in place though there is room. */
START_TEST(even_files)
{
	state = stfs_check_seed() + 600 + (uint64_t)_i;
	for (int i = 0; i < (rounds() + 2) / 3; i++)
		one_file(kinds[0], (struct shape){.even = true, .large = true, .to_end = i % 2}, _i);
}
END_TEST

/* Runs last. */
START_TEST(met_every_plan)
{
	if (rounds() >= 5)
		ck_assert(met.in_place && met.shifts && met.slides && met.replaced && met.late_readers);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("foreign");
	TCase *tcase = tcase_create("every call");
	int failed;

	tcase_set_timeout(tcase, 0);
	tcase_add_loop_test(tcase, foreign_files, 0, STFS_CHECK_COUNT(kinds));
	tcase_add_loop_test(tcase, even_files, 0, 2);
	tcase_add_test(tcase, met_every_plan);
	suite_add_tcase(suite, tcase);
	failed = stfs_check_main(suite);
	free(found);
	printf("# %zu crashes, %zu more during recovery\n", crashes, recoveries);
	printf("# %zu in place, %zu with shifts, %zu slides, %zu replaced, %zu with a reader that came late\n", met.in_place,
	       met.shifts, met.slides, met.replaced, met.late_readers);
	return failed;
}
