/* SPDX-License-Identifier: MIT */
/* Edits as they are staged, and what a commit makes of them. Commits that are cut off: crash/test_crash.c. */
#include "stfs_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "base/siphash.h"
#include "store/edit_internal.h"
#include "store/rescue.h"

#define M "m.safetensors"
#define INDEX "m.safetensors.index.json"

/* ---- What every test has ---- */

static int pool = -1; /* bytes for tensors: byte i is i * 31 + i / 251 */
static struct stfs_io calls;

static void make_root(void)
{
	unsigned char bytes[1 << 16];

	make_folder("edit");
	pool = memfd_create("pool", MFD_CLOEXEC);
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (unsigned char)(i * 31 + i / 251);
	for (off_t i = 0; i < 16; i++)
		ck_assert_int_eq(pwrite(pool, bytes, sizeof(bytes), i * (off_t)sizeof(bytes)), sizeof(bytes));
	calls = stfs_io_system;
}

static void remove_root(void)
{
	close(pool);
	remove_folder();
}

static void put_file(const char *name, const void *bytes, size_t len)
{
	FILE *file = fopen(at(name), "we");

	ck_assert_ptr_nonnull(file);
	ck_assert_uint_eq(fwrite(bytes, 1, len, file), len);
	ck_assert_int_eq(fclose(file), 0);
}

static void get_file(const char *name, struct stfs_buf *out)
{
	int fd = open(at(name), O_RDONLY | O_CLOEXEC);
	struct stat st;

	stfs_buf_clear(out);
	ck_assert_msg(fd >= 0 && fstat(fd, &st) == 0, "%s: %m", name);
	ck_assert_int_eq(stfs_buf_fill(out, 0, (size_t)st.st_size), 0);
	ck_assert_int_eq(pread(fd, out->data, out->len, 0), (ssize_t)out->len);
	close(fd);
}

/* Names in the folder that begin with a dot: what a commit needs beside the model for a while. */
static size_t litter(void)
{
	DIR *dir = opendir(root);
	struct dirent *entry;
	size_t count = 0;

	while ((entry = readdir(dir)))
		count += entry->d_name[0] == '.' && strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
	closedir(dir);
	return count;
}

/* ---- What a model is, as text: each tensor in its order, then the metadata ---- */

static void say_tensor(struct stfs_buf *out, struct stfs_str name, enum stfs_dtype dtype, const uint64_t *dims,
		       size_t rank, int fd, uint64_t offset, uint64_t len)
{
	static const struct stfs_sipkey key = {1, 2};
	STFS_AUTO_FREE char *bytes = malloc(len ? len : 1);
	char quoted[STFS_QUOTED_MAX];

	ck_assert_int_eq(pread(fd, bytes, len, (off_t)offset), (ssize_t)len);
	stfs_buf_printf(out, "%s:%s[", stfs_quote(name, quoted), stfs_dtype_info(dtype)->name);
	for (size_t i = 0; i < rank; i++)
		stfs_buf_printf(out, "%s%" PRIu64, i ? "," : "", dims[i]);
	stfs_buf_printf(out, "]=%08x ", (unsigned)stfs_siphash(&key, stfs_str_slice(bytes, len)));
}

static int say_pair(void *data, struct stfs_str key, struct stfs_str value)
{
	char quoted[STFS_QUOTED_MAX], quoted_value[STFS_QUOTED_MAX];

	return stfs_buf_printf(data, "{%s=%s}", stfs_quote(key, quoted), stfs_quote(value, quoted_value));
}

static const char *said(struct stfs_buf *out)
{
	ck_assert_int_eq(stfs_buf_status(out), 0);
	return stfs_buf_cstr(out);
}

static const char *say_edit(struct stfs_edit *edit, struct stfs_buf *out)
{
	struct stfs_edit_tensor t, found;
	size_t count;

	stfs_buf_clear(out);
	ck_assert_int_eq(stfs_edit_count(edit, &count), 0);
	for (size_t i = 0; i < count; i++) {
		ck_assert_int_eq(stfs_edit_tensor(edit, i, &t), 0);
		ck_assert_int_eq(stfs_edit_find(edit, t.name, &found), 0); /* E1 */
		ck_assert(found.fd == t.fd && found.offset == t.offset);
		say_tensor(out, t.name, t.dtype, t.dims, t.rank, t.fd, t.offset, t.len);
	}
	ck_assert_int_eq(stfs_edit_metadata(edit, say_pair, out), 0);
	return said(out);
}

/* As strictly opened as the official loader does; the index agrees with the shards. */
static const char *say_model(const char *name, struct stfs_buf *out)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_tensor_ref ref;
	struct stfs_model *model;

	stfs_buf_clear(out);
	ck_assert_msg(stfs_model_open(at(name), 0, &model, &err) == 0, "%s", err.message);
	for (uint32_t id = 0; id < stfs_model_ids(model); id++) {
		STFS_AUTO_FREE uint64_t *dims = NULL;

		if (!stfs_model_tensor(model, id, &ref))
			continue;
		dims = stfs_model_shape(&ref);
		say_tensor(out, ref.name, (enum stfs_dtype)ref.tensor->dtype, dims, ref.tensor->rank, ref.shard->fd,
			   ref.offset, ref.len);
	}
	ck_assert_int_eq(stfs_model_metadata(model, say_pair, out), 0);
	ck_assert_uint_eq(model->findings.count, 0);
	stfs_model_close(model);
	return said(out);
}

/* ---- Edits that have to work, and others ---- */

static struct stfs_str str(const char *text)
{
	return stfs_str_from(text);
}

static struct stfs_edit *open_edit(const char *name, unsigned flags)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_edit *edit = NULL;
	int r = stfs_edit_open(at(name), flags, &edit, &err);

	ck_assert_msg(r == 0, "%s: %d: %s", name, r, err.message);
	return edit;
}

/* Opening fails so; the message has `says` in it. */
static void refuse_open(const char *name, unsigned flags, int want, const char *says)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_edit *edit = NULL;
	int r = stfs_edit_open(at(name), flags, &edit, &err);

	ck_assert_msg(r == want && !edit, "%s: %d, want %d: %s", name, r, want, err.message);
	ck_assert_msg(strstr(err.message, says), "\"%s\" does not say \"%s\"", err.message, says);
}

static struct stfs_edit *create(const char *name)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_edit *edit = NULL;

	ck_assert_msg(stfs_edit_create(at(name), 0, &edit, &err) == 0, "%s", err.message);
	return edit;
}

static void put_at(struct stfs_edit *edit, const char *name, uint64_t size, uint64_t seed)
{
	struct stfs_err err = STFS_ERR_INIT;

	ck_assert_msg(stfs_edit_put(edit, str(name), STFS_U8, &size, 1, (struct stfs_source){pool, seed}, &err) == 0, "%s",
		      err.message);
}

static void commit_with(struct stfs_edit *edit, struct stfs_edit_result *result)
{
	struct stfs_err err = STFS_ERR_INIT;
	int r = stfs_edit_commit(edit, NULL, result, &err);

	ck_assert_msg(r == 0, "commit: %d: %s", r, err.message);
	ck_assert(!stfs_edit_pending(edit) && !stfs_edit_is_stuck(edit));
	ck_assert_uint_eq(litter(), 0);
}

/* What was staged is then what is there, for the handle and for everybody. */
static void commit(struct stfs_edit *edit, const char *name)
{
	STFS_AUTO_BUF struct stfs_buf staged = STFS_BUF_INIT;
	STFS_AUTO_BUF struct stfs_buf now = STFS_BUF_INIT;

	say_edit(edit, &staged);
	commit_with(edit, NULL);
	ck_assert_str_eq(say_edit(edit, &now), staged.data);
	ck_assert_str_eq(say_model(name, &now), staged.data);
}

/* a: 5000 bytes, b: 300, c: 70000, d: 40, with metadata. */
static void make_model(void)
{
	struct stfs_edit *edit = create(M);

	put_at(edit, "a", 5000, 1);
	put_at(edit, "b", 300, 2);
	put_at(edit, "c", 70000, 3);
	put_at(edit, "d", 40, 4);
	ck_assert_int_eq(stfs_edit_set(edit, str("format"), str("pt"), NULL), 0);
	commit(edit, M);
	stfs_edit_close(edit);
}

/* Shards x.0 x.1 x.2 and y.0 y.1. */
static void make_sharded(void)
{
	static const char index[] =
		"{\"metadata\":{\"total_size\":11600},\"weight_map\":{"
		"\"x.0\":\"m-1.safetensors\",\"x.1\":\"m-1.safetensors\",\"x.2\":\"m-1.safetensors\","
		"\"y.0\":\"m-2.safetensors\",\"y.1\":\"m-2.safetensors\"}}\n";
	struct stfs_edit *edit = create("m-1.safetensors");

	put_at(edit, "x.0", 100, 1);
	put_at(edit, "x.1", 200, 2);
	put_at(edit, "x.2", 5000, 3);
	commit(edit, "m-1.safetensors");
	stfs_edit_close(edit);
	edit = create("m-2.safetensors");
	put_at(edit, "y.0", 300, 4);
	put_at(edit, "y.1", 6000, 5);
	commit(edit, "m-2.safetensors");
	stfs_edit_close(edit);
	put_file(INDEX, index, strlen(index));
}

static void refuse_commit(struct stfs_edit *edit, int want)
{
	struct stfs_err err = STFS_ERR_INIT;
	int r = stfs_edit_commit(edit, NULL, NULL, &err);

	ck_assert_msg(r == want, "commit: %d, want %d: %s", r, want, err.message);
	ck_assert_int_eq(err.code, want);
}

/* ---- E1, E2 ---- */

START_TEST(a_failing_edit_leaves_everything_as_it_was_staged)
{
	STFS_AUTO_BUF struct stfs_buf before = STFS_BUF_INIT;
	STFS_AUTO_BUF struct stfs_buf now = STFS_BUF_INIT;
	const struct stfs_source source = {pool, 0};
	const struct stfs_edit_pair onto[] = {{str("b"), str("q")}, {str("a"), str("c")}};
	const struct stfs_edit_pair same[] = {{str("a"), str("z")}, {str("b"), str("z")}};
	const struct stfs_edit_pair twice[] = {{str("a"), str("y")}, {str("a"), str("z")}};
	const struct stfs_edit_pair gone[] = {{str("a"), str("y")}, {str("nil"), str("z")}};
	const struct stfs_edit_pair bad[] = {{str("a"), str("y")}, {str("b"), str("\xff")}};
	const struct stfs_edit_pair meta[] = {{str("a"), str("y")}, {str("b"), str("__metadata__")}};
	uint64_t huge[3] = {1ull << 40, 1ull << 40, 0}, three = 3;
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_edit *edit;

	make_model();
	edit = open_edit(M, 0);
	for (int staged = 0; staged < 2; staged++) {
		say_edit(edit, &before);
		ck_assert_int_eq(stfs_edit_pending(edit), staged);
		ck_assert_int_eq(stfs_edit_rename(edit, onto, 2, false, &err), -EEXIST);
		ck_assert_int_eq(stfs_edit_rename(edit, same, 2, true, &err), -EEXIST);
		ck_assert_int_eq(stfs_edit_rename(edit, twice, 2, true, &err), -EINVAL);
		ck_assert_int_eq(stfs_edit_rename(edit, gone, 2, true, &err), -ENOENT);
		ck_assert_int_eq(stfs_edit_rename(edit, bad, 2, true, &err), -EINVAL);
		ck_assert_int_eq(stfs_edit_rename(edit, meta, 2, true, &err), -EINVAL);
		ck_assert_int_eq(stfs_edit_remove(edit, str("nil"), &err), -ENOENT);
		ck_assert_int_eq(stfs_edit_retype(edit, str("nil"), STFS_U8, &three, 1, &err), -ENOENT);
		ck_assert_int_eq(stfs_edit_retype(edit, str("a"), STFS_U8, &three, 1, &err), -EINVAL);
		ck_assert_int_eq(stfs_edit_retype(edit, str("a"), STFS_F4, &three, 1, &err), -EINVAL);
		ck_assert_int_eq(stfs_edit_put(edit, str("__metadata__"), STFS_U8, &three, 1, source, &err), -EINVAL);
		ck_assert_int_eq(stfs_edit_put(edit, str("\xc3"), STFS_U8, &three, 1, source, &err), -EINVAL);
		ck_assert_int_eq(stfs_edit_put(edit, str("a"), STFS_U8, huge, 3, source, &err), -EINVAL);
		ck_assert_int_eq(stfs_edit_put(edit, str("a"), STFS_F4, &three, 1, source, &err), -EINVAL);
		ck_assert_int_eq(stfs_edit_set(edit, str("k"), str("\xff"), &err), -EINVAL);
		ck_assert_int_eq(stfs_edit_set(edit, str("\xff"), str("v"), &err), -EINVAL);
		ck_assert_int_eq(stfs_edit_unset(edit, str("nil"), &err), -ENOENT);
		ck_assert_str_eq(say_edit(edit, &now), before.data);
		ck_assert_int_eq(stfs_edit_pending(edit), staged);
		/* And so upon edits that are staged. */
		put_at(edit, "new", 77, 9);
		if (!staged)
			ck_assert_int_eq(stfs_edit_remove(edit, str("d"), &err), 0);
	}
	commit(edit, M);
	stfs_edit_close(edit);
}
END_TEST

START_TEST(names_may_be_swapped_and_reused)
{
	const struct stfs_edit_pair swap[] = {{str("a"), str("b")}, {str("b"), str("a")}};
	const struct stfs_edit_pair ring[] = {{str("a"), str("b")}, {str("b"), str("c")}, {str("c"), str("a")}};
	const struct stfs_edit_pair onto = {str("d"), str("a")}, itself = {str("a"), str("a")};
	const struct stfs_edit_pair back[] = {{str("b"), str("t")}, {str("c"), str("b")}};
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_edit_tensor t;
	struct stfs_edit *edit;

	make_model();
	edit = open_edit(M, 0);
	ck_assert_int_eq(stfs_edit_rename(edit, swap, 2, false, &err), 0);
	ck_assert_int_eq(stfs_edit_find(edit, str("a"), &t), 0);
	ck_assert_uint_eq(t.len, 300);
	ck_assert_int_eq(stfs_edit_rename(edit, ring, 3, false, &err), 0);
	ck_assert_int_eq(stfs_edit_find(edit, str("a"), &t), 0);
	ck_assert_uint_eq(t.len, 70000);
	ck_assert_int_eq(stfs_edit_rename(edit, &itself, 1, false, &err), 0);
	ck_assert_int_eq(stfs_edit_rename(edit, &onto, 1, true, &err), 0);
	ck_assert_int_eq(stfs_edit_find(edit, str("d"), &t), -ENOENT);
	put_at(edit, "d", 9, 9); /* a name that was given up */
	ck_assert_int_eq(stfs_edit_rename(edit, back, 2, false, &err), 0);
	ck_assert_int_eq(stfs_edit_remove(edit, str("t"), &err), 0);
	put_at(edit, "t", 8, 8);
	commit(edit, M);
	/* Renames of what was renamed, over many rounds and commits. */
	for (int i = 0; i < 200; i++) {
		char from[16], to[16];

		snprintf(from, sizeof(from), i ? "n%d" : "a", i);
		snprintf(to, sizeof(to), "n%d", i + 1);
		ck_assert_int_eq(stfs_edit_rename(edit, &(struct stfs_edit_pair){str(from), str(to)}, 1, false, &err),
				 0);
	}
	commit(edit, M);
	ck_assert_int_eq(stfs_edit_find(edit, str("n200"), &t), 0);
	stfs_edit_close(edit);
}
END_TEST

/* ---- E3 ---- */

START_TEST(a_model_is_locked_while_it_is_edited)
{
	struct stfs_edit *edit, *other = NULL;
	struct stfs_model *model;

	make_model();
	edit = open_edit(M, 0);
	refuse_open(M, 0, -EBUSY, "");
	refuse_open(M, STFS_EDIT_DRY_RUN, -EBUSY, "");
	ck_assert_int_eq(stfs_model_open(at(M), STFS_OPEN_LOCK, &model, NULL), -EBUSY);
	ck_assert_int_eq(stfs_model_open(at(M), 0, &model, NULL), 0);
	stfs_model_close(model);
	/* In place, and by a new file: the lock passes on without a gap. */
	for (int i = 0; i < 4; i++) {
		put_at(edit, i % 2 ? "c" : "e", 100 + (uint64_t)i * 60000, 5);
		if (i >= 2)
			ck_assert_int_eq(stfs_edit_remove(edit, str(i == 2 ? "a" : "b"), NULL), 0);
		commit(edit, M);
		refuse_open(M, 0, -EBUSY, "");
		ck_assert_int_eq(stfs_model_open(at(M), STFS_OPEN_LOCK, &model, NULL), -EBUSY);
	}
	stfs_edit_close(edit);
	edit = open_edit(M, STFS_EDIT_DRY_RUN);
	other = open_edit(M, STFS_EDIT_DRY_RUN);
	refuse_open(M, 0, -EBUSY, "");
	ck_assert_int_eq(stfs_model_open(at(M), STFS_OPEN_LOCK, &model, NULL), 0);
	stfs_edit_close(edit);
	stfs_edit_close(other);
	refuse_open(M, 0, -EBUSY, "");
	stfs_model_close(model);
	stfs_edit_close(open_edit(M, 0));
}
END_TEST

START_TEST(shards_and_index_are_locked_too)
{
	struct stfs_edit *edit;

	make_sharded();
	edit = open_edit(INDEX, 0);
	refuse_open(INDEX, 0, -EBUSY, "");
	refuse_open("m-2.safetensors", 0, -EBUSY, "");
	ck_assert_int_eq(stfs_edit_remove(edit, str("x.1"), NULL), 0);
	commit(edit, INDEX);
	refuse_open(INDEX, 0, -EBUSY, "");
	refuse_open("m-1.safetensors", 0, -EBUSY, "");
	stfs_edit_close(edit);
	edit = open_edit("m-1.safetensors", 0);
	refuse_open(INDEX, 0, -EBUSY, "");
	stfs_edit_close(edit);
}
END_TEST

/* ---- E4 ---- */

static void wait_a_tick(void)
{
	nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
}

static void expect_stale(struct stfs_edit *edit, const char *name)
{
	STFS_AUTO_BUF struct stfs_buf before = STFS_BUF_INIT;
	STFS_AUTO_BUF struct stfs_buf now = STFS_BUF_INIT;

	get_file(name, &before);
	refuse_commit(edit, -ESTALE);
	ck_assert(!stfs_edit_is_stuck(edit) && stfs_edit_pending(edit));
	get_file(name, &now);
	stfs_check_str_eq(stfs_buf_str(&now), stfs_buf_str(&before), name);
	ck_assert_uint_eq(litter(), 0);
}

START_TEST(nothing_is_committed_over_another_file)
{
	STFS_AUTO_BUF struct stfs_buf bytes = STFS_BUF_INIT;
	struct stfs_edit *edit;

	make_model();
	get_file(M, &bytes);
	/* By rename, by removal; with edits that stay in place, and others. */
	for (int which = 0; which < 4; which++) {
		put_file(M, bytes.data, bytes.len);
		edit = open_edit(M, 0);
		if (which % 2)
			put_at(edit, "new", 10, 1);
		else
			ck_assert_int_eq(stfs_edit_set(edit, str("k"), str("v"), NULL), 0);
		if (which < 2) {
			put_file("copy", bytes.data, bytes.len);
			ck_assert_int_eq(rename(at("copy"), at(M)), 0);
			expect_stale(edit, M);
		} else {
			ck_assert_int_eq(unlink(at(M)), 0);
			refuse_commit(edit, -ESTALE);
			ck_assert_uint_eq(litter(), 0);
			ck_assert_int_eq(access(at(M), F_OK), -1);
		}
		stfs_edit_close(edit);
	}
}
END_TEST

START_TEST(nothing_is_committed_over_another_header)
{
	STFS_AUTO_BUF struct stfs_buf bytes = STFS_BUF_INIT;
	char *name;
	struct stfs_edit *edit;
	int fd;

	make_model();
	get_file(M, &bytes);
	for (int which = 0; which < 3; which++) {
		put_file(M, bytes.data, bytes.len);
		edit = open_edit(M, 0);
		ck_assert_int_eq(stfs_edit_remove(edit, str("a"), NULL), 0);
		wait_a_tick();
		fd = open(at(M), O_WRONLY | O_CLOEXEC);
		name = memmem(bytes.data, bytes.len, "\"c\"", 3);
		if (which == 0)
			ck_assert_int_eq(pwrite(fd, "\"z\"", 3, name - bytes.data), 3);
		else
			ck_assert_int_eq(ftruncate(fd, (off_t)bytes.len + (which == 1 ? 10 : -10)), 0);
		close(fd);
		expect_stale(edit, M);
		stfs_edit_close(edit);
	}
	/* Data may change: a mount writes tensors in place while edits are staged. */
	put_file(M, bytes.data, bytes.len);
	edit = open_edit(M, 0);
	ck_assert_int_eq(stfs_edit_remove(edit, str("a"), NULL), 0);
	wait_a_tick();
	fd = open(at(M), O_WRONLY | O_CLOEXEC);
	ck_assert_int_eq(pwrite(fd, "data", 4, (off_t)bytes.len - 100), 4);
	close(fd);
	commit(edit, M);
	stfs_edit_close(edit);
}
END_TEST

/* ---- Headers ---- */

static void put_text_model(const char *text, size_t data_len)
{
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;

	stfs_buf_fill(&out, 0, 8);
	stfs_buf_puts(&out, text);
	stfs_buf_fill(&out, ' ', stfs_align_up(out.len, 8) - out.len);
	stfs_store_le64(out.data, out.len - 8);
	for (size_t i = 0; i < data_len; i++)
		stfs_buf_putc(&out, (char)(i + i / 256));
	put_file(M, out.data, out.len);
}

static void expect_in_header(const char *want)
{
	STFS_AUTO_BUF struct stfs_buf bytes = STFS_BUF_INIT;

	get_file(M, &bytes);
	ck_assert_msg(memmem(bytes.data, bytes.len, want, strlen(want)), "\"%s\" is not in \"%.*s\"", want,
		      (int)stfs_min_u64(bytes.len - 8, 600), bytes.data + 8);
}

START_TEST(the_header_keeps_order_unknown_keys_and_the_place_of_metadata)
{
	uint64_t ten = 10, five = 5;
	struct stfs_edit *edit;

	put_text_model("{\"b\":{\"shape\":[10],\"dtype\":\"U8\",\"extra\":[1,{\"x\":2}],\"data_offsets\":[10,20]},"
		       "\"__metadata__\":{\"k\":\"v\"},"
		       "\"a\":{\"dtype\":\"U8\",\"shape\":[10],\"data_offsets\":[0,10],\"note\":\"n\"},"
		       "\"c\":{\"dtype\":\"F16\",\"shape\":[5],\"data_offsets\":[20,30]}}", 30);
	edit = open_edit(M, 0);
	ck_assert_int_eq(stfs_edit_rename(edit, &(struct stfs_edit_pair){str("b"), str("z")}, 1, false, NULL), 0);
	put_at(edit, "new", 5, 1);
	commit(edit, M);
	expect_in_header("{\"z\":{\"shape\":[10],\"dtype\":\"U8\",\"extra\":[1,{\"x\":2}],\"data_offsets\":[");
	expect_in_header("},\"__metadata__\":{\"k\":\"v\"},\"a\":{\"dtype\":\"U8\",\"shape\":[10],\"data_offsets\":[");
	expect_in_header("],\"note\":\"n\"},\"c\":{");
	/* Put and retyped, a tensor keeps its place and its keys; removed and put again it is a new one. */
	ck_assert_int_eq(stfs_edit_retype(edit, str("z"), STFS_I8, &ten, 1, NULL), 0);
	ck_assert_int_eq(stfs_edit_retype(edit, str("c"), STFS_BF16, &five, 1, NULL), 0);
	put_at(edit, "a", 1234, 2);
	ck_assert_int_eq(stfs_edit_set(edit, str("k"), str("w"), NULL), 0);
	commit(edit, M);
	expect_in_header("{\"z\":{\"shape\":[10],\"dtype\":\"I8\",\"extra\":[1,{\"x\":2}],");
	expect_in_header("},\"__metadata__\":{\"k\":\"w\"},\"a\":{\"dtype\":\"U8\",\"shape\":[1234],");
	expect_in_header("],\"note\":\"n\"},\"c\":{\"dtype\":\"BF16\",\"shape\":[5],");
	ck_assert_int_eq(stfs_edit_remove(edit, str("z"), NULL), 0);
	put_at(edit, "z", 10, 3);
	commit(edit, M);
	expect_in_header("{\"__metadata__\":{\"k\":\"w\"},\"a\":{");
	expect_in_header("},\"z\":{\"dtype\":\"U8\",\"shape\":[10],\"data_offsets\":[");
	stfs_edit_close(edit);
}
END_TEST

START_TEST(tensors_of_every_type_and_size)
{
	struct stfs_edit *edit = create(M);
	const uint64_t none[3] = {2, 0, 5}, many[2] = {4, 24};

	for (int dtype = 0; dtype < STFS_DTYPE_COUNT; dtype++) {
		char name[64];

		for (int i = 0; i < 3; i++) {
			uint64_t one = 8;

			snprintf(name, sizeof(name), "%s.%d", stfs_dtype_info((enum stfs_dtype)dtype)->name, i);
			ck_assert_int_eq(stfs_edit_put(edit, str(name), (enum stfs_dtype)dtype,
						       i == 0 ? none : i == 1 ? many : &one, i == 0 ? 3 : i == 1 ? 2 : 1,
						       (struct stfs_source){pool, (uint64_t)dtype * 100}, NULL), 0);
		}
	}
	ck_assert_int_eq(stfs_edit_put(edit, str("scalar"), STFS_F64, NULL, 0, (struct stfs_source){pool, 7}, NULL), 0);
	commit(edit, M);
	/* Each in turn goes, and comes back. */
	for (int dtype = 0; dtype < STFS_DTYPE_COUNT; dtype += 3) {
		const char *name = stfs_dtype_info((enum stfs_dtype)dtype)->name;
		char full[64];
		uint64_t sixteen = 16;

		snprintf(full, sizeof(full), "%s.1", name);
		ck_assert_int_eq(stfs_edit_remove(edit, str(full), NULL), 0);
		snprintf(full, sizeof(full), "%s.0", name);
		ck_assert_int_eq(stfs_edit_put(edit, str(full), (enum stfs_dtype)dtype, &sixteen, 1,
					       (struct stfs_source){pool, 3}, NULL), 0);
		commit(edit, M);
	}
	stfs_edit_close(edit);
}
END_TEST

START_TEST(names_of_any_bytes)
{
	static const struct stfs_str names[] = {
		STFS_CHECK_LIT(""), STFS_CHECK_LIT("a\0b"), STFS_CHECK_LIT("\"\\/\b\f\n\r\t"), STFS_CHECK_LIT("\x01\x1f\x7f"),
		STFS_CHECK_LIT("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"), STFS_CHECK_LIT(".."), STFS_CHECK_LIT("/"),
		STFS_CHECK_LIT("metadata"), STFS_CHECK_LIT("__metadata__ "), STFS_CHECK_LIT("\\u0041"),
	};
	struct stfs_edit *edit = create(M);
	char name[3] = "x?";
	uint64_t size = 3;

	for (size_t i = 0; i < STFS_CHECK_COUNT(names); i++)
		ck_assert_int_eq(stfs_edit_put(edit, names[i], STFS_U8, &size, 1, (struct stfs_source){pool, i}, NULL), 0);
	for (int byte = 1; byte < 128; byte++) {
		name[1] = (char)byte;
		put_at(edit, name, 2, (uint64_t)byte);
		ck_assert_int_eq(stfs_edit_set(edit, str(name), str(name), NULL), 0);
	}
	commit(edit, M);
	for (size_t i = 0; i < STFS_CHECK_COUNT(names); i += 2)
		ck_assert_int_eq(stfs_edit_remove(edit, names[i], NULL), 0);
	commit(edit, M);
	stfs_edit_close(edit);
}
END_TEST

START_TEST(metadata_is_set_and_removed)
{
	STFS_AUTO_BUF struct stfs_buf now = STFS_BUF_INIT;
	struct stfs_edit *edit;

	make_model();
	edit = open_edit(M, 0);
	ck_assert_int_eq(stfs_edit_set(edit, str("format"), str("pt"), NULL), 0);
	ck_assert(!stfs_edit_pending(edit)); /* it is so already */
	ck_assert_int_eq(stfs_edit_set(edit, str("k"), str("v"), NULL), 0);
	ck_assert_int_eq(stfs_edit_set(edit, str(""), str(""), NULL), 0);
	ck_assert_int_eq(stfs_edit_set(edit, str("k"), str("w"), NULL), 0);
	ck_assert_ptr_nonnull(strstr(say_edit(edit, &now), "{format=pt}{k=w}{=}"));
	commit(edit, M);
	ck_assert_int_eq(stfs_edit_unset(edit, str("format"), NULL), 0);
	commit(edit, M);
	ck_assert_int_eq(stfs_edit_unset_all(edit, NULL), 0);
	commit(edit, M);
	ck_assert(!stfs_model_has_metadata(stfs_edit_model(edit)));
	ck_assert_int_eq(stfs_edit_unset_all(edit, NULL), 0);
	ck_assert(!stfs_edit_pending(edit));
	ck_assert_int_eq(stfs_edit_set(edit, str("again"), str("1"), NULL), 0);
	commit(edit, M);
	stfs_edit_close(edit);
}
END_TEST

/* ---- Sharded models ---- */

static void expect_in_index(const char *want, bool there)
{
	STFS_AUTO_BUF struct stfs_buf bytes = STFS_BUF_INIT;

	get_file(INDEX, &bytes);
	ck_assert_msg((memmem(bytes.data, bytes.len, want, strlen(want)) != NULL) == there, "\"%s\" is%s in %s", want,
		      there ? " not" : "", said(&bytes));
}

START_TEST(the_index_follows_the_shards)
{
	const struct stfs_edit_pair swap[] = {{str("x.2"), str("y.0")}, {str("y.0"), str("x.2")}};
	struct stfs_edit *edit;
	struct stfs_edit_tensor t;

	make_sharded();
	edit = open_edit(INDEX, 0);
	put_at(edit, "x.1.bias", 7, 1); /* to the neighbour's file */
	put_at(edit, "y.0.bias", 8, 2);
	put_at(edit, "a", 1, 3); /* none before it: the first one's */
	ck_assert_int_eq(stfs_edit_find(edit, str("y.0.bias"), &t), 0);
	ck_assert_uint_eq(t.shard, 1);
	ck_assert_int_eq(stfs_edit_find(edit, str("a"), &t), 0);
	ck_assert_uint_eq(t.shard, 0);
	commit_with(edit, NULL);
	expect_in_index("\"total_size\":11616", true);
	expect_in_index("\"x.1.bias\":\"m-1.safetensors\"", true);
	expect_in_index("\"y.0.bias\":\"m-2.safetensors\"", true);
	ck_assert_int_eq(stfs_edit_remove(edit, str("x.0"), NULL), 0);
	ck_assert_int_eq(stfs_edit_rename(edit, &(struct stfs_edit_pair){str("y.1"), str("y.9")}, 1, false, NULL), 0);
	put_at(edit, "x.2", 1, 1);
	commit(edit, INDEX);
	expect_in_index("\"total_size\":6517", true);
	expect_in_index("\"x.0\"", false);
	expect_in_index("\"y.9\":\"m-2.safetensors\"", true);
	expect_in_index("\"y.1\"", false);
	/* A tensor that goes and comes back in the same commit, and names that are swapped between files. */
	ck_assert_int_eq(stfs_edit_remove(edit, str("x.1"), NULL), 0);
	put_at(edit, "x.1", 11, 4);
	ck_assert_int_eq(stfs_edit_rename(edit, swap, 2, false, NULL), 0);
	commit_with(edit, NULL);
	expect_in_index("\"x.2\":\"m-2.safetensors\"", true);
	expect_in_index("\"y.0\":\"m-1.safetensors\"", true);
	expect_in_index("\"x.1\":\"m-1.safetensors\"", true);
	/* Metadata goes into every file; the index stays. */
	ck_assert_int_eq(stfs_edit_set(edit, str("k"), str("v"), NULL), 0);
	commit(edit, INDEX);
	stfs_edit_close(edit);
	for (int i = 1; i <= 2; i++) {
		STFS_AUTO_BUF struct stfs_buf now = STFS_BUF_INIT;

		ck_assert_ptr_nonnull(strstr(say_model(i == 1 ? "m-1.safetensors" : "m-2.safetensors", &now), "{k=v}"));
	}
	edit = open_edit(INDEX, 0);
	ck_assert_int_eq(stfs_edit_unset(edit, str("k"), NULL), 0);
	commit(edit, INDEX);
	ck_assert_int_eq(stfs_edit_set(edit, str("k"), str("v"), NULL), 0);
	commit(edit, INDEX);
	ck_assert_int_eq(stfs_edit_unset_all(edit, NULL), 0);
	commit(edit, INDEX);
	stfs_edit_close(edit);
}
END_TEST

static void set_alone(const char *name, const char *key, const char *value)
{
	struct stfs_edit *edit = open_edit(name, 0);

	ck_assert_int_eq(stfs_edit_set(edit, str(key), str(value), NULL), 0);
	commit(edit, name);
	stfs_edit_close(edit);
}

/* A plan reads the metadata of the shards that change: those of the others must not be forgotten for it. */
START_TEST(a_plan_leaves_the_metadata_of_all_shards)
{
	struct stfs_edit_result result;
	STFS_AUTO_BUF struct stfs_buf before = STFS_BUF_INIT;
	STFS_AUTO_BUF struct stfs_buf now = STFS_BUF_INIT;
	struct stfs_edit *edit;

	make_sharded();
	set_alone("m-1.safetensors", "one", "1");
	set_alone("m-2.safetensors", "two", "2");
	edit = open_edit(INDEX, 0);
	put_at(edit, "x.1", 7, 1);
	ck_assert_ptr_nonnull(strstr(say_edit(edit, &before), "{one=1}{two=2}"));
	ck_assert_int_eq(stfs_edit_plan(edit, &result, NULL), 0);
	stfs_edit_result_free(&result);
	ck_assert_str_eq(say_edit(edit, &now), before.data);
	commit(edit, INDEX);
	stfs_edit_close(edit);
}
END_TEST

START_TEST(a_journal_of_a_shard_alone_holds_the_model_back)
{
	make_sharded();
	put_file(".m-2.safetensors.stfs-journal", "", 0);
	refuse_open(INDEX, 0, -EUCLEAN, "m-2.safetensors on its own");
	stfs_edit_close(open_edit("m-2.safetensors", 0));
	ck_assert_uint_eq(litter(), 0);
	stfs_edit_close(open_edit(INDEX, 0));
}
END_TEST

/* Two of its tensors have the same bytes of the spool, which in the rescue file they cannot. */
START_TEST(a_rescue_file_keeps_what_was_staged)
{
	const struct stfs_edit_pair rename = {str("c"), str("e")};
	const uint64_t len = 5000, dims[] = {1250, 4};
	STFS_AUTO_BUF struct stfs_buf staged = STFS_BUF_INIT;
	STFS_AUTO_BUF struct stfs_buf now = STFS_BUF_INIT;
	struct stfs_edit *edit;
	struct stfs_source source;
	enum stfs_recovered what;
	uint64_t spooled;

	make_model();
	edit = open_edit(M, 0);
	ck_assert_int_eq(lseek(pool, 11, SEEK_SET), 11);
	ck_assert_int_eq(stfs_edit_spool(edit, pool, len, &source, &spooled, NULL), 0);
	ck_assert_int_eq(stfs_edit_put(edit, str("p"), STFS_U8, &len, 1, source, NULL), 0);
	put_at(edit, "q", 33, 9);
	ck_assert_int_eq(stfs_edit_put(edit, str("r"), STFS_U8, &len, 1, source, NULL), 0);
	ck_assert_int_eq(stfs_edit_remove(edit, str("b"), NULL), 0);
	ck_assert_int_eq(stfs_edit_rename(edit, &rename, 1, false, NULL), 0);
	ck_assert_int_eq(stfs_edit_retype(edit, str("a"), STFS_I8, dims, 2, NULL), 0);
	ck_assert_int_eq(stfs_edit_set(edit, str("k"), str("v"), NULL), 0);
	ck_assert(stfs_edit_needs_rescue(edit));
	ck_assert_int_eq(stfs_edit_rescue(edit, -1, NULL), 0);
	say_edit(edit, &staged);
	stfs_edit_close(edit);
	ck_assert_uint_eq(litter(), 1);
	ck_assert_int_eq(stfs_recover(at(M), 0, &what, NULL), 0);
	ck_assert_int_eq(what, STFS_RECOVERED_RESCUED);
	ck_assert_uint_eq(litter(), 0);
	ck_assert_str_eq(say_model(M, &now), staged.data);
}
END_TEST

/* The spool of a mount: what is in it stays, what is in pieces or elsewhere comes behind. */
START_TEST(a_lent_spool_becomes_the_rescue_file)
{
	const uint64_t block = 65536, at_p = STFS_SPOOL_HEADER + block, at_q = at_p + 3 * block, end = at_q + block;
	const uint64_t len_p = 100000, len_q = 9000, len_z = 2 * block, none = 0;
	STFS_AUTO_FD int spool = open(root, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	const struct stfs_piece q[] = {{spool, at_q, 5000}, {-1, 0, 1000}, {pool, 17, 1000}, {spool, at_p, 2000}};
	const struct stfs_piece z[] = {{-1, 0, len_z}};
	STFS_AUTO_BUF struct stfs_buf staged = STFS_BUF_INIT;
	STFS_AUTO_BUF struct stfs_buf now = STFS_BUF_INIT;
	struct stfs_edit_tensor t;
	struct stfs_edit *edit;
	enum stfs_recovered what;
	char bytes[65536];

	ck_assert_int_ge(spool, 0);
	for (uint64_t i = 0; i < 5; i++) {
		ck_assert_int_eq(pread(pool, bytes, block, (off_t)(1000 * i)), block);
		ck_assert_int_eq(pwrite(spool, bytes, block, (off_t)(STFS_SPOOL_HEADER + i * block)), block);
	}
	make_model();
	edit = open_edit(M, 0);
	stfs_edit_lend_spool(edit, spool, end);
	put_at(edit, "dropped", 33, 9);
	ck_assert_int_eq(stfs_edit_revert(edit, NULL), 0);
	ck_assert_int_eq(stfs_edit_put(edit, str("p"), STFS_U8, &len_p, 1, (struct stfs_source){spool, at_p}, NULL), 0);
	ck_assert(stfs_edit_needs_rescue(edit));
	ck_assert_int_eq(stfs_edit_put(edit, str("q"), STFS_U8, &len_q, 1,
				       (struct stfs_source){spool, at_p, q, STFS_CHECK_COUNT(q)}, NULL), 0);
	ck_assert_int_eq(stfs_edit_put(edit, str("z"), STFS_U8, &len_z, 1,
				       (struct stfs_source){.pieces = z, .piece_count = 1}, NULL), 0);
	ck_assert_int_eq(stfs_edit_put(edit, str("none"), STFS_U8, &none, 1, (struct stfs_source){spool, 0}, NULL), 0);
	put_at(edit, "elsewhere", 33, 9);
	ck_assert_int_eq(stfs_edit_rescue(edit, -1, NULL), 0);
	ck_assert_int_eq(stfs_edit_find(edit, str("p"), &t), 0);
	ck_assert(t.fd == spool && t.offset == at_p);
	say_edit(edit, &staged);
	stfs_edit_close(edit);
	ck_assert_int_eq(pread(spool, bytes, 1, 0), 1); /* it is still ours */
	ck_assert_uint_eq(litter(), 1);
	ck_assert_int_eq(stfs_recover(at(M), 0, &what, NULL), 0);
	ck_assert_int_eq(what, STFS_RECOVERED_RESCUED);
	ck_assert_uint_eq(litter(), 0);
	ck_assert_str_eq(say_model(M, &now), staged.data);
}
END_TEST

/* ---- Dropping what is staged ---- */

static void stage_much(struct stfs_edit *edit)
{
	const struct stfs_edit_pair rename = {str("c"), str("e")};
	const uint64_t dims[] = {1250, 4}, len = 5000;
	struct stfs_source source;
	uint64_t spooled;

	ck_assert_int_eq(stfs_edit_spool(edit, pool, len, &source, &spooled, NULL), 0);
	ck_assert_int_eq(stfs_edit_put(edit, str("p"), STFS_U8, &len, 1, source, NULL), 0);
	put_at(edit, "d", 77, 9);
	ck_assert_int_eq(stfs_edit_remove(edit, str("b"), NULL), 0);
	ck_assert_int_eq(stfs_edit_rename(edit, &rename, 1, false, NULL), 0);
	ck_assert_int_eq(stfs_edit_retype(edit, str("a"), STFS_I8, dims, 2, NULL), 0);
	ck_assert_int_eq(stfs_edit_set(edit, str("k"), str("v"), NULL), 0);
	ck_assert_int_eq(stfs_edit_compact(edit, NULL), 0);
}

START_TEST(a_revert_drops_what_is_staged)
{
	STFS_AUTO_BUF struct stfs_buf before = STFS_BUF_INIT;
	STFS_AUTO_BUF struct stfs_buf now = STFS_BUF_INIT;
	struct stfs_edit *edit;

	make_model();
	edit = open_edit(M, STFS_EDIT_MAP);
	say_edit(edit, &before);
	for (int i = 0; i < 2; i++) {
		stage_much(edit);
		ck_assert(stfs_edit_pending(edit));
		ck_assert_int_eq(stfs_edit_revert(edit, NULL), 0);
		ck_assert(!stfs_edit_pending(edit));
		ck_assert_str_eq(say_edit(edit, &now), before.data);
		ck_assert_int_eq(lseek(pool, 0, SEEK_SET), 0);
	}
	commit(edit, M);
	ck_assert_str_eq(say_model(M, &now), before.data);
	/* Edits upon it are as upon any other. */
	stage_much(edit);
	commit(edit, M);
	ck_assert(stfs_edit_model(edit)->shards[0].mapping.mapped);
	stfs_edit_close(edit);
	/* A model that is not there yet is still to be made. */
	edit = create("n.safetensors");
	put_at(edit, "x", 10, 1);
	ck_assert_int_eq(stfs_edit_revert(edit, NULL), 0);
	ck_assert(stfs_edit_pending(edit));
	put_at(edit, "y", 10, 1);
	commit(edit, "n.safetensors");
	stfs_edit_close(edit);
}
END_TEST

/* A rescue file that was taken up can be taken up again. */
START_TEST(a_revert_drops_what_was_taken_up)
{
	STFS_AUTO_BUF struct stfs_buf staged = STFS_BUF_INIT;
	STFS_AUTO_BUF struct stfs_buf now = STFS_BUF_INIT;
	struct stfs_edit *edit;

	make_model();
	edit = open_edit(M, 0);
	stage_much(edit);
	ck_assert_int_eq(stfs_edit_rescue(edit, -1, NULL), 0);
	stfs_edit_close(edit);
	edit = open_edit(M, 0);
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(stfs_edit_revert(edit, NULL), 0);
		ck_assert_int_eq(stfs_edit_take_up(edit, NULL), 1);
		say_edit(edit, i ? &now : &staged);
	}
	ck_assert_str_eq(now.data, staged.data);
	ck_assert_int_eq(stfs_edit_commit(edit, NULL, NULL, NULL), 0);
	ck_assert_int_eq(stfs_edit_end_rescue(edit, NULL), 0);
	stfs_edit_close(edit);
	ck_assert_str_eq(say_model(M, &now), staged.data);
}
END_TEST

START_TEST(a_shard_may_lose_its_last_tensor_and_a_model_not)
{
	STFS_AUTO_BUF struct stfs_buf before = STFS_BUF_INIT;
	STFS_AUTO_BUF struct stfs_buf now = STFS_BUF_INIT;
	struct stfs_edit *edit;

	make_sharded();
	edit = open_edit(INDEX, 0);
	ck_assert_int_eq(stfs_edit_remove(edit, str("y.0"), NULL), 0);
	ck_assert_int_eq(stfs_edit_remove(edit, str("y.1"), NULL), 0);
	commit_with(edit, NULL);
	expect_in_index("m-2.safetensors", false);
	say_model(INDEX, &before);
	ck_assert_int_eq(stfs_edit_remove(edit, str("x.0"), NULL), 0);
	ck_assert_int_eq(stfs_edit_remove(edit, str("x.1"), NULL), 0);
	ck_assert_int_eq(stfs_edit_remove(edit, str("x.2"), NULL), 0);
	refuse_commit(edit, -EINVAL); /* an index names a tensor */
	ck_assert(!stfs_edit_is_stuck(edit));
	ck_assert_str_eq(say_model(INDEX, &now), before.data);
	put_at(edit, "y", 5, 1);
	commit_with(edit, NULL);
	stfs_edit_close(edit);
	/* One file may be empty. */
	make_model();
	edit = open_edit(M, 0);
	for (const char *name = "abcd"; *name; name++)
		ck_assert_int_eq(stfs_edit_remove(edit, stfs_str_slice(name, 1), NULL), 0);
	commit(edit, M);
	put_at(edit, "a", 5, 1);
	commit(edit, M);
	stfs_edit_close(edit);
}
END_TEST

/* ---- What is opened, and what not ---- */

START_TEST(a_tolerant_commit_closes_holes)
{
	STFS_AUTO_BUF struct stfs_buf now = STFS_BUF_INIT;
	struct stfs_edit *edit;
	struct stat st;

	put_text_model("{\"a\":{\"dtype\":\"U8\",\"shape\":[10],\"data_offsets\":[8,18]},"
		       "\"b\":{\"dtype\":\"U8\",\"shape\":[10],\"data_offsets\":[40,50]}}", 5000);
	refuse_open(M, 0, -EBADMSG, M);
	for (int compact = 0; compact < 2; compact++) {
		put_text_model("{\"a\":{\"dtype\":\"U8\",\"shape\":[10],\"data_offsets\":[8,18]},"
			       "\"b\":{\"dtype\":\"U8\",\"shape\":[10],\"data_offsets\":[40,50]}}", 5000);
		edit = open_edit(M, STFS_EDIT_TOLERANT);
		ck_assert(!stfs_edit_pending(edit));
		if (compact)
			ck_assert_int_eq(stfs_edit_compact(edit, NULL), 0);
		else
			ck_assert_int_eq(stfs_edit_set(edit, str("k"), str("v"), NULL), 0);
		ck_assert(stfs_edit_pending(edit));
		commit(edit, M);
		stfs_edit_close(edit);
		say_model(M, &now); /* the official loader's rules */
		ck_assert_int_eq(stat(at(M), &st), 0);
		ck_assert_int_lt(st.st_size, 5000);
	}
	/* Truncated: its bytes may be had again. */
	ck_assert_int_eq(unlink(at(M)), 0);
	make_model();
	ck_assert_int_eq(stat(at(M), &st), 0);
	ck_assert_int_eq(truncate(at(M), st.st_size - 50), 0);
	refuse_open(M, 0, -EBADMSG, M);
	refuse_open(M, STFS_EDIT_TOLERANT, -EBADMSG, "truncated");
	refuse_open(M, STFS_EDIT_TOLERANT | STFS_EDIT_FORCE, -EBADMSG, "truncated");
}
END_TEST

START_TEST(the_guard_holds_back_what_is_shared)
{
	struct stfs_edit *edit;

	make_model();
	ck_assert_int_eq(link(at(M), at("other")), 0);
	refuse_open(M, 0, -EPERM, "--force");
	edit = open_edit(M, STFS_EDIT_FORCE);
	stfs_edit_close(edit);
	ck_assert_int_eq(unlink(at("other")), 0);
	ck_assert_int_eq(chmod(at(M), 0444), 0);
	refuse_open(M, 0, -EPERM, "read-only");
	if (geteuid() == 0) {
		edit = open_edit(M, STFS_EDIT_FORCE);
		ck_assert_int_eq(stfs_edit_set(edit, str("k"), str("v"), NULL), 0);
		commit(edit, M);
		stfs_edit_close(edit);
	}
	ck_assert_int_eq(chmod(at(M), 0644), 0);
	/* A link of the user's own is followed, and stays one. */
	ck_assert_int_eq(symlink(M, at("link.safetensors")), 0);
	edit = open_edit("link.safetensors", 0);
	ck_assert_int_eq(stfs_edit_remove(edit, str("a"), NULL), 0);
	commit(edit, M);
	stfs_edit_close(edit);
	ck_assert_int_eq(readlink(at("link.safetensors"), (char[8]){0}, 8), 8);
	/* The hub's cache. */
	ck_assert_int_eq(mkdir(at("models--o--n"), 0700), 0);
	ck_assert_int_eq(mkdir(at("models--o--n/blobs"), 0700), 0);
	ck_assert_int_eq(mkdir(at("models--o--n/snapshots"), 0700), 0);
	ck_assert_int_eq(rename(at(M), at("models--o--n/blobs/abc")), 0);
	ck_assert_int_eq(symlink("../blobs/abc", at("models--o--n/snapshots/" M)), 0);
	refuse_open("models--o--n/snapshots/" M, 0, -EPERM, "cache");
	edit = open_edit("models--o--n/snapshots/" M, STFS_EDIT_FORCE);
	stfs_edit_close(edit);
}
END_TEST

START_TEST(a_model_is_created)
{
	STFS_AUTO_BUF struct stfs_buf now = STFS_BUF_INIT;
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_edit *edit = create(M), *other;
	struct stat st;

	ck_assert_ptr_null(stfs_edit_model(edit));
	ck_assert_int_eq(access(at(M), F_OK), -1);
	/* Somebody else makes one meanwhile: theirs stays. */
	other = create(M);
	put_at(other, "theirs", 3, 1);
	commit(other, M);
	stfs_edit_close(other);
	put_at(edit, "ours", 3, 1);
	refuse_commit(edit, -EEXIST);
	ck_assert_uint_eq(litter(), 0);
	ck_assert_ptr_nonnull(strstr(say_model(M, &now), "theirs"));
	stfs_edit_close(edit);
	ck_assert_int_eq(stfs_edit_create(at(M), 0, &edit, &err), -EEXIST);
	ck_assert_int_eq(stfs_edit_create(at(M), STFS_EDIT_OVERWRITE, &edit, &err), 0);
	put_at(edit, "ours", 3, 1);
	commit(edit, M);
	stfs_edit_close(edit);
	/* One without tensors, with the rights that open(2) gives. */
	edit = create("empty.safetensors");
	commit(edit, "empty.safetensors");
	ck_assert_int_eq(stat(at("empty.safetensors"), &st), 0);
	ck_assert_int_eq(st.st_mode & 0400, 0400);
	put_at(edit, "a", 10, 1);
	commit(edit, "empty.safetensors");
	stfs_edit_close(edit);
	/* The journal of a commit that was interrupted would speak of the new file. */
	put_file("." M ".stfs-journal", "x", 1);
	ck_assert_int_eq(stfs_edit_create(at(M), STFS_EDIT_OVERWRITE, &edit, &err), -EUCLEAN);
	ck_assert_int_eq(unlink(at("." M ".stfs-journal")), 0);
	ck_assert_int_eq(mkdir(at("folder"), 0700), 0);
	ck_assert_int_eq(stfs_edit_create(at("folder"), STFS_EDIT_OVERWRITE, &edit, &err), -EEXIST);
	ck_assert_int_eq(stfs_edit_create(at("none/x"), 0, &edit, &err), -ENOENT);
	ck_assert_int_eq(stfs_edit_create(at("folder/"), 0, &edit, &err), -EINVAL);
}
END_TEST

/* ---- The spool ---- */

static int no_room(int fd, int mode, off_t offset, off_t len)
{
	errno = ENOSPC;
	return -1;
}

START_TEST(the_spool_takes_pipes_and_says_what_is_missing)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_edit *edit;
	struct stfs_source source;
	uint64_t spooled, size;
	int ends[2];
	char bytes[3000];

	make_model();
	edit = open_edit(M, 0);
	memset(bytes, 'p', sizeof(bytes));
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
		ck_assert_int_eq(write(ends[1], bytes, sizeof(bytes)), sizeof(bytes));
		close(ends[1]);
		ck_assert_int_eq(stfs_edit_spool(edit, ends[0], i == 2 ? 4000 : UINT64_MAX, &source, &spooled, &err),
				 i == 2 ? -ENODATA : 0);
		close(ends[0]);
		if (i == 2)
			break;
		ck_assert_uint_eq(spooled, sizeof(bytes));
		size = spooled;
		ck_assert_int_eq(stfs_edit_put(edit, str(i ? "p1" : "p0"), STFS_U8, &size, 1, source, &err), 0);
	}
	calls.fallocate = no_room;
	stfs_io = &calls;
	ck_assert_int_eq(stfs_edit_spool(edit, pool, 5000, &source, &spooled, &err), -ENOSPC);
	ck_assert_ptr_nonnull(strstr(err.message, "no room"));
	stfs_io = &stfs_io_system;
	ck_assert_int_eq(stfs_edit_spool(edit, pool, 5000, &source, &spooled, &err), 0);
	size = 5000;
	ck_assert_int_eq(stfs_edit_put(edit, str("pool"), STFS_U8, &size, 1, source, &err), 0);
	ck_assert_int_eq(stfs_edit_spool(edit, pool, 0, &source, &spooled, &err), 0);
	ck_assert_uint_eq(spooled, 0);
	commit(edit, M);
	/* And again on the same handle: the spool of the last commit is gone. */
	ck_assert_int_eq(lseek(pool, 0, SEEK_SET), 0);
	ck_assert_int_eq(stfs_edit_spool(edit, pool, 100, &source, &spooled, &err), 0);
	size = 100;
	ck_assert_int_eq(stfs_edit_put(edit, str("pool"), STFS_U8, &size, 1, source, &err), 0);
	commit(edit, M);
	stfs_edit_close(edit);
}
END_TEST

/* ---- Many, and none ---- */

START_TEST(ten_thousand_small_tensors)
{
	char name[32];

	for (int commits = 1; commits <= 20; commits += 19) {
		struct stfs_edit *edit = create(M);

		for (int i = 0; i < 10000; i++) {
			snprintf(name, sizeof(name), "layer.%d.w", i * 7919 % 10000);
			put_at(edit, name, 4 + (uint64_t)i % 100, (uint64_t)i);
			if ((i + 1) % (10000 / commits) == 0)
				commit_with(edit, NULL);
		}
		ck_assert_uint_eq(stfs_edit_model(edit)->shown, 10000);
		for (int i = 0; i < 10000; i += 3) {
			snprintf(name, sizeof(name), "layer.%d.w", i);
			ck_assert_int_eq(stfs_edit_remove(edit, str(name), NULL), 0);
		}
		commit(edit, M);
		stfs_edit_close(edit);
		ck_assert_int_eq(unlink(at(M)), 0);
	}
}
END_TEST

START_TEST(a_dry_run_changes_nothing)
{
	STFS_AUTO_BUF struct stfs_buf before = STFS_BUF_INIT;
	STFS_AUTO_BUF struct stfs_buf now = STFS_BUF_INIT;
	struct stfs_edit_result result;
	struct stfs_edit *edit;

	make_model();
	get_file(M, &before);
	ck_assert_int_eq(chmod(at(M), 0444), 0);
	ck_assert_int_eq(chmod(root, 0555), 0);
	for (int which = 0; which < 3; which++) {
		edit = open_edit(M, STFS_EDIT_DRY_RUN | STFS_EDIT_FORCE);
		if (which == 0)
			ck_assert_int_eq(stfs_edit_remove(edit, str("a"), NULL), 0);
		else if (which == 1)
			put_at(edit, "new", 60000, 1);
		else
			ck_assert_int_eq(stfs_edit_set(edit, str("k"), str("v"), NULL), 0);
		ck_assert_int_eq(stfs_edit_plan(edit, &result, NULL), 0);
		ck_assert_uint_eq(result.count, 1);
		ck_assert_uint_eq(result.changed, which == 0 ? 5000 : which == 1 ? 60000 : 0);
		ck_assert_uint_eq(result.files[0].old_length, before.len);
		if (which == 2)
			ck_assert_int_eq(result.files[0].kind, STFS_PLAN_HEADER);
		stfs_edit_result_free(&result);
		refuse_commit(edit, -EROFS);
		ck_assert(!stfs_edit_is_stuck(edit));
		stfs_edit_close(edit);
	}
	ck_assert_int_eq(chmod(root, 0755), 0);
	get_file(M, &now);
	stfs_check_str_eq(stfs_buf_str(&now), stfs_buf_str(&before), "the model");
	ck_assert_uint_eq(litter(), 0);
}
END_TEST

START_TEST(a_commit_of_nothing_does_nothing)
{
	struct stfs_edit_result result;
	struct stat before, after;
	struct stfs_edit *edit;

	make_model();
	edit = open_edit(M, 0);
	ck_assert_int_eq(stat(at(M), &before), 0);
	commit_with(edit, &result);
	ck_assert_uint_eq(result.count, 0);
	stfs_edit_result_free(&result);
	ck_assert_int_eq(stat(at(M), &after), 0);
	ck_assert(before.st_ino == after.st_ino && before.st_mtim.tv_nsec == after.st_mtim.tv_nsec);
	stfs_edit_close(edit);
}
END_TEST

/* ---- Readers ---- */

static int no_shift(int fd, int mode, off_t offset, off_t len)
{
	if (mode == FALLOC_FL_KEEP_SIZE)
		return fallocate(fd, mode, offset, len);
	errno = EOPNOTSUPP;
	return -1;
}

static int no_clone(int to, int from)
{
	errno = EOPNOTSUPP;
	return -1;
}

static int no_clone_range(int to, uint64_t to_at, int from, uint64_t from_at, uint64_t len)
{
	return no_clone(to, from);
}

static void use_plain_files(void)
{
	calls.fallocate = no_shift;
	calls.clone = no_clone;
	calls.clone_range = no_clone_range;
	stfs_io = &calls;
}

START_TEST(readers_keep_the_file_they_have_open)
{
	STFS_AUTO_BUF struct stfs_buf before = STFS_BUF_INIT;
	STFS_AUTO_FREE char *got = NULL;
	struct stfs_edit_result result;
	struct stat was, is;
	struct stfs_edit *edit;
	int reader;

	make_model();
	get_file(M, &before);
	got = malloc(before.len);
	use_plain_files();
	for (int ignore = 0; ignore < 2; ignore++) {
		put_file(M, before.data, before.len);
		edit = open_edit(M, ignore ? STFS_EDIT_IGNORE_READERS : 0);
		reader = open(at(M), O_RDONLY | O_CLOEXEC);
		ck_assert_int_eq(fstat(reader, &was), 0);
		ck_assert_int_eq(stfs_edit_remove(edit, str("d"), NULL), 0); /* the last bytes are cut off */
		commit_with(edit, &result);
		ck_assert_int_eq(result.readers, !ignore);
		ck_assert_int_eq(result.files[0].kind, ignore ? STFS_PLAN_IN_PLACE : STFS_PLAN_REBUILD);
		ck_assert_int_eq(stat(at(M), &is), 0);
		ck_assert((is.st_ino == was.st_ino) == (ignore != 0));
		if (!ignore) {
			ck_assert_int_eq(pread(reader, got, before.len, 0), (ssize_t)before.len);
			ck_assert_mem_eq(got, before.data, before.len);
		}
		stfs_edit_result_free(&result);
		close(reader);
		stfs_edit_close(edit);
	}
}
END_TEST

static int late_reader = -1;

static ssize_t pwrite_and_open(int fd, const void *bytes, size_t len, off_t offset)
{
	ssize_t put = pwrite(fd, bytes, len, offset);

	if (len == 8 && offset == 0 && late_reader < 0)
		late_reader = open(at(M), O_RDONLY | O_CLOEXEC);
	return put;
}

/* It opened the file between the plan and the poison: the length word is put back, and the plan is another. */
START_TEST(a_reader_that_comes_late_keeps_its_file)
{
	STFS_AUTO_BUF struct stfs_buf before = STFS_BUF_INIT;
	STFS_AUTO_FREE char *got = NULL;
	struct stfs_edit_result result;
	struct stfs_edit *edit;

	make_model();
	get_file(M, &before);
	got = malloc(before.len);
	use_plain_files();
	calls.pwrite = pwrite_and_open;
	late_reader = -1;
	edit = open_edit(M, 0);
	ck_assert_int_eq(stfs_edit_remove(edit, str("d"), NULL), 0);
	commit_with(edit, &result);
	ck_assert(late_reader >= 0 && result.readers && result.files[0].kind == STFS_PLAN_REBUILD);
	ck_assert_int_eq(pread(late_reader, got, before.len, 0), (ssize_t)before.len);
	ck_assert_mem_eq(got, before.data, before.len);
	stfs_edit_result_free(&result);
	close(late_reader);
	stfs_edit_close(edit);
}
END_TEST

START_TEST(a_plan_that_moves_nothing_does_not_mind_readers)
{
	struct stfs_edit_result result;
	struct stat was, is;
	struct stfs_edit *edit;
	int reader;

	make_model();
	use_plain_files();
	edit = open_edit(M, 0);
	reader = open(at(M), O_RDONLY | O_CLOEXEC);
	ck_assert_int_eq(stat(at(M), &was), 0);
	ck_assert_int_eq(stfs_edit_set(edit, str("k"), str("v"), NULL), 0);
	commit_with(edit, &result);
	ck_assert(result.readers && result.files[0].kind == STFS_PLAN_HEADER);
	stfs_edit_result_free(&result);
	put_at(edit, "tail", 100, 1);
	commit_with(edit, &result);
	ck_assert(result.readers && result.files[0].kind == STFS_PLAN_IN_PLACE);
	stfs_edit_result_free(&result);
	ck_assert_int_eq(stat(at(M), &is), 0);
	ck_assert_uint_eq(is.st_ino, was.st_ino);
	close(reader);
	stfs_edit_close(edit);
}
END_TEST

/* ---- Calls that fail ---- */

static size_t count_down; /* calls until one fails */
static bool armed;
static bool for_ever;     /* and all after it */
static bool hit;
static int with_errno;

static bool fails(void)
{
	if (!armed)
		return false;
	if (count_down > 1) {
		count_down--;
		return false;
	}
	if (count_down == 0 && !for_ever)
		return false;
	hit = true;
	count_down = 0;
	errno = with_errno;
	return true;
}

static bool reads_too;
static ssize_t failing_pread(int fd, void *buffer, size_t len, off_t offset)
{
	return reads_too && fails() ? -1 : pread(fd, buffer, len, offset);
}

static ssize_t failing_pwrite(int fd, const void *bytes, size_t len, off_t offset)
{
	return fails() ? -1 : pwrite(fd, bytes, len, offset);
}

static ssize_t failing_copy(int from, off_t *from_at, int to, off_t *to_at, size_t len, unsigned flags)
{
	return fails() ? -1 : copy_file_range(from, from_at, to, to_at, len, flags);
}

static int failing_fsync(int fd)
{
	return fails() ? -1 : fsync(fd);
}

static int failing_ftruncate(int fd, off_t len)
{
	return fails() ? -1 : ftruncate(fd, len);
}

static bool shifts_too;
static int failing_fallocate(int fd, int mode, off_t offset, off_t len)
{
	return fails() ? -1 : shifts_too ? fallocate(fd, mode, offset, len) : no_shift(fd, mode, offset, len);
}

static int failing_openat(int folder, const char *name, int flags, mode_t mode)
{
	bool makes = flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE;

	return makes && fails() ? -1 : openat(folder, name, flags, mode);
}

static int failing_renameat2(int old_folder, const char *old_name, int folder, const char *name, unsigned flags)
{
	return fails() ? -1 : renameat2(old_folder, old_name, folder, name, flags);
}

static bool unlink_failed;
static int failing_unlinkat(int folder, const char *name, int flags)
{
	bool failed = fails();

	unlink_failed |= failed;
	return failed ? -1 : unlinkat(folder, name, flags);
}

static void use_failing_calls(void)
{
	use_plain_files();
	calls.pread = failing_pread;
	calls.pwrite = failing_pwrite;
	calls.copy_file_range = failing_copy;
	calls.fsync = failing_fsync;
	calls.ftruncate = failing_ftruncate;
	calls.fallocate = failing_fallocate;
	calls.openat = failing_openat;
	calls.renameat2 = failing_renameat2;
	calls.unlinkat = failing_unlinkat;
}

static void failing_edits(struct stfs_edit *edit, int which)
{
	switch (which) {
	case 0: /* header alone */
		ck_assert_int_eq(stfs_edit_set(edit, str("k"), str("v"), NULL), 0);
		break;
	case 1: /* behind the end */
		put_at(edit, "x.9", 5000, 9);
		break;
	case 2: /* cut off */
		ck_assert_int_eq(stfs_edit_remove(edit, str("x.2"), NULL), 0);
		break;
	default:
		ck_assert_int_eq(stfs_edit_remove(edit, str("x.0"), NULL), 0);
		put_at(edit, "x.1", 60000, 8);
		put_at(edit, "y.7", 123, 7);
		break;
	}
}

static const char *const shard_names[] = {"m-1.safetensors", "m-2.safetensors", INDEX};

/* One commit of which call number `call` fails: false when it had no such call. */
static bool fail_at(const char *name, int which, size_t call, const struct stfs_buf files[3])
{
	STFS_AUTO_BUF struct stfs_buf old = STFS_BUF_INIT;
	STFS_AUTO_BUF struct stfs_buf staged = STFS_BUF_INIT;
	STFS_AUTO_BUF struct stfs_buf now = STFS_BUF_INIT;
	struct stfs_err err = STFS_ERR_INIT;
	enum stfs_recovered what;
	struct stfs_edit *edit;
	char where[1400];
	bool stuck;
	int r;

	stfs_io = &stfs_io_system;
	for (int i = 0; i < 3; i++)
		put_file(shard_names[i], files[i].data, files[i].len);
	say_model(name, &old);
	use_failing_calls();
	edit = open_edit(name, 0);
	failing_edits(edit, which);
	say_edit(edit, &staged);
	hit = unlink_failed = false;
	count_down = call;
	armed = true;
	r = stfs_edit_commit(edit, NULL, NULL, &err);
	stuck = stfs_edit_is_stuck(edit);
	armed = false;
	stfs_io = &stfs_io_system;
	snprintf(where, sizeof(where), "%s, edits %d, call %zu, errno %d, for ever %d: %d, stuck %d: %s", name, which, call,
		 with_errno, for_ever, r, stuck, err.message);
	if (r == 0) {
		say_model(name, &now);
		ck_assert_msg(strcmp(now.data, staged.data) == 0, "not the new model, %s", where);
		ck_assert_msg(litter() == 0 || unlink_failed, "litter, %s", where);
	} else if (!stuck) {
		for (int i = 0; i < 3; i++) {
			get_file(shard_names[i], &now);
			ck_assert_msg(stfs_str_equal(stfs_buf_str(&now), stfs_buf_str(&files[i])), "%s changed, %s",
				      shard_names[i], where);
		}
		ck_assert_msg(litter() == 0 || unlink_failed, "litter, %s", where);
		say_edit(edit, &now);
		ck_assert_msg(strcmp(now.data, staged.data) == 0, "no longer staged, %s", where);
		/* It may be tried again. */
		commit(edit, name);
		ck_assert_msg(litter() == 0, "litter, %s", where);
	} else {
		ck_assert_int_eq(stfs_edit_commit(edit, NULL, NULL, &err), -EROFS);
		stfs_edit_close(edit);
		edit = NULL;
		r = stfs_recover(at(name), 0, &what, &err);
		ck_assert_msg(r == 0, "recovery: %s, %s", err.message, where);
		say_model(name, &now);
		ck_assert_msg(strcmp(now.data, what == STFS_RECOVERED_OLD ? old.data : staged.data) == 0,
			      "neither the new model nor what was said (%d), %s", (int)what, where);
		/* Only where taking back failed as well is it the old one. */
		ck_assert_msg(what != STFS_RECOVERED_OLD || for_ever || unlink_failed, "the old one, %s", where);
		ck_assert_msg(litter() == 0, "litter, %s", where);
	}
	stfs_edit_close(edit);
	return hit;
}

START_TEST(a_call_that_fails_costs_nothing)
{
	STFS_AUTO_BUF struct stfs_buf one = STFS_BUF_INIT;
	STFS_AUTO_BUF struct stfs_buf two = STFS_BUF_INIT;
	STFS_AUTO_BUF struct stfs_buf index = STFS_BUF_INIT;
	struct stfs_buf files[3];
	size_t call;

	make_sharded();
	get_file(shard_names[0], &one);
	get_file(shard_names[1], &two);
	get_file(shard_names[2], &index);
	files[0] = one;
	files[1] = two;
	files[2] = index;
	with_errno = _i & 1 ? ENOSPC : EIO;
	for_ever = _i & 2;
	shifts_too = _i & 4;
	reads_too = _i & 8;
	for (int which = 0; which < 4; which++) {
		for (call = 1; fail_at("m-1.safetensors", which, call, files); call++)
			ck_assert_uint_lt(call, 300);
		ck_assert_uint_gt(call, 5);
		for (call = 1; fail_at(INDEX, which, call, files); call++)
			ck_assert_uint_lt(call, 300);
		ck_assert_uint_gt(call, 5);
	}
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		a_failing_edit_leaves_everything_as_it_was_staged, names_may_be_swapped_and_reused,
		a_model_is_locked_while_it_is_edited, shards_and_index_are_locked_too,
		nothing_is_committed_over_another_file, nothing_is_committed_over_another_header,
		the_header_keeps_order_unknown_keys_and_the_place_of_metadata, tensors_of_every_type_and_size,
		names_of_any_bytes, metadata_is_set_and_removed, the_index_follows_the_shards,
		a_plan_leaves_the_metadata_of_all_shards, a_journal_of_a_shard_alone_holds_the_model_back,
		a_rescue_file_keeps_what_was_staged, a_lent_spool_becomes_the_rescue_file,
		a_revert_drops_what_is_staged, a_revert_drops_what_was_taken_up,
		a_shard_may_lose_its_last_tensor_and_a_model_not, a_tolerant_commit_closes_holes,
		the_guard_holds_back_what_is_shared, a_model_is_created, the_spool_takes_pipes_and_says_what_is_missing,
		ten_thousand_small_tensors, a_dry_run_changes_nothing, a_commit_of_nothing_does_nothing,
		readers_keep_the_file_they_have_open, a_reader_that_comes_late_keeps_its_file,
		a_plan_that_moves_nothing_does_not_mind_readers,
	};
	Suite *suite = suite_create("edit");
	TCase *tcase = tcase_create("edits");

	tcase_add_checked_fixture(tcase, make_root, remove_root);
	tcase_set_timeout(tcase, 100);
	for (size_t i = 0; i < STFS_CHECK_COUNT(tests); i++)
		tcase_add_test(tcase, tests[i]);
	tcase_add_loop_test(tcase, a_call_that_fails_costs_nothing, 0, 12);
	suite_add_tcase(suite, tcase);
	return stfs_check_main(suite);
}
