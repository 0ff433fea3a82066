/* SPDX-License-Identifier: MIT */
/* PyTorch checkpoints as models of the store. */
#include "checkpoint_tools.h"
#include "stfs_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "store/checkpoint.h"
#include "store/edit.h"
#include "store/model.h"

static void make_root(void)
{
	make_folder("checkpoint");
}

static void put_file(const char *name, struct stfs_str bytes)
{
	STFS_AUTO_FD int fd = open(at(name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(stfs_io_write(fd, bytes.ptr, bytes.len, 0), 0);
}

/* {"plain": [[0,1,2],[3,4,5]], "turned": the same transposed, "none": [], "step": 7, `key`: "text"} of bytes. */
static void put_pickle(struct stfs_buf *out, const char *key)
{
	struct test_tensor tensor = {.class = "ByteStorage", .key = "0", .count = 6, .dims = {2, 3}, .strides = {3, 1},
				     .rank = 2};

	OPS(out, "\x80\x02}(");
	put_str(out, "plain");
	put_tensor(out, &tensor);
	put_str(out, "turned");
	tensor.dims[0] = 3, tensor.dims[1] = 2, tensor.strides[0] = 1, tensor.strides[1] = 3;
	put_tensor(out, &tensor);
	put_str(out, "none");
	tensor.dims[0] = 0;
	put_tensor(out, &tensor);
	put_str(out, "step");
	put_int(out, 7);
	put_str(out, key);
	put_str(out, "text");
	OPS(out, "u.");
}

static void put_checkpoint(const char *name, const char *key, bool deflated)
{
	STFS_CLEANUP(zip_free) struct test_zip zip = {0};
	STFS_AUTO_BUF struct stfs_buf pickle = STFS_BUF_INIT;

	put_pickle(&pickle, key);
	zip_add(&zip, "c/data.pkl", stfs_buf_str(&pickle), false);
	zip_add(&zip, "c/version", stfs_str_from("3\n"), false);
	zip_add(&zip, "c/data/0", stfs_str_slice("\1\2\3\4\5\6", 6), deflated);
	zip_end(&zip);
	put_file(name, stfs_buf_str(&zip.bytes));
}

static struct stfs_model *open_model(const char *name, unsigned flags)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_model *model = NULL;

	ck_assert_msg(stfs_model_open(at(name), flags, &model, &err) == 0, "%s", err.message);
	return model;
}

static struct stfs_tensor_ref find(const struct stfs_model *model, const char *name)
{
	struct stfs_tensor_ref ref = {0};

	ck_assert(stfs_model_tensor(model, stfs_model_find(model, stfs_str_from(name)), &ref));
	return ref;
}

static void expect(const struct stfs_model *model, const char *name, const char *bytes, size_t len)
{
	struct stfs_tensor_ref ref = find(model, name);
	char got[16];

	ck_assert_uint_eq(ref.len, len);
	ck_assert_int_eq(stfs_model_pread(model, &ref, got, sizeof(got), 0), (ssize_t)len);
	ck_assert_mem_eq(got, bytes, len);
	for (size_t from = 0; from < len; from++) {
		ck_assert_int_eq(stfs_model_pread(model, &ref, got, 2, from), from + 2 <= len ? 2 : 1);
		ck_assert_int_eq(got[0], bytes[from]);
	}
	ck_assert_int_eq(stfs_model_pread(model, &ref, got, 1, len), 0);
}

static int count_pair(void *data, struct stfs_str key, struct stfs_str value)
{
	*(int *)data += stfs_str_is(key, "step") ? stfs_str_is(value, "7") : 10;
	return 0;
}

START_TEST(reads_a_checkpoint)
{
	struct stfs_model *model;
	struct stfs_tensor_ref ref;
	int pairs = 0;
	char byte;

	for (int deflated = 0; deflated < 2; deflated++) {
		put_checkpoint("m.safetensors", "note", deflated);
		model = open_model("m.safetensors", 0);
		ck_assert(stfs_model_has_checkpoint(model));
		ck_assert_uint_eq(model->shown, 3);
		ck_assert_uint_eq(model->shown_bytes, 12);
		ck_assert_uint_eq(model->shards[0].findings.count, 0);
		for (uint32_t i = 0; i < 3; i++) {
			const struct stfs_header *header = model->shards[0].header;

			ck_assert(stfs_str_equal(stfs_header_name(header, &header->tensors[i]),
						 stfs_checkpoint_tensor(&model->shards[0], &header->tensors[i])->name));
		}
		expect(model, "plain", "\1\2\3\4\5\6", 6);
		expect(model, "turned", "\1\4\2\5\3\6", 6);
		expect(model, "none", "", 0);
		ref = find(model, "plain");
		if (!deflated) {
			ck_assert_int_eq(pread(model->shards[0].fd, &byte, 1, (off_t)ref.offset), 1);
			ck_assert_int_eq(byte, 1);
		} else {
			ck_assert_uint_eq(ref.offset, STFS_NO_OFFSET);
		}
		ref = find(model, "turned");
		ck_assert_uint_eq(ref.offset, STFS_NO_OFFSET);
		stfs_model_close(model);
	}
	model = open_model("m.safetensors", 0);
	ck_assert_int_eq(stfs_model_metadata(model, count_pair, &pairs), 0);
	ck_assert_int_eq(pairs, 11);
	stfs_model_close(model);
}
END_TEST

START_TEST(is_never_opened_for_writing)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_model *model = NULL;
	struct stfs_edit *edit = NULL;

	put_checkpoint("c.pt", "note", false);
	ck_assert_int_eq(stfs_model_open(at("c.pt"), STFS_OPEN_WRITE | STFS_OPEN_LOCK, &model, &err), -EMEDIUMTYPE);
	ck_assert_ptr_nonnull(strstr(err.message, "import-pytorch"));
	ck_assert_int_eq(stfs_edit_open(at("c.pt"), STFS_EDIT_FORCE, &edit, &err), -EMEDIUMTYPE);
	ck_assert_int_eq(stfs_edit_open(at("c.pt"), STFS_EDIT_DRY_RUN, &edit, &err), -EMEDIUMTYPE);
	ck_assert_ptr_nonnull(strstr(err.message, "import-pytorch"));
}
END_TEST

/* Changes one byte of the file that is open, and its times. */
static void change(const char *name, off_t where, char byte)
{
	STFS_AUTO_FD int fd = open(at(name), O_WRONLY | O_CLOEXEC);

	ck_assert_int_eq(pwrite(fd, &byte, 1, where), 1);
	ck_assert_int_eq(futimens(fd, (struct timespec[2]){{.tv_sec = byte}, {.tv_sec = 1000 + where}}), 0);
}

static off_t where_is(const char *name, const char *text, size_t len)
{
	STFS_AUTO_FD int fd = open(at(name), O_RDONLY | O_CLOEXEC);
	char bytes[4096];
	ssize_t got = read(fd, bytes, sizeof(bytes));
	const char *found = memmem(bytes, (size_t)got, text, len);

	ck_assert_ptr_nonnull(found);
	return found - bytes;
}

START_TEST(touched_when_only_data_differs)
{
	struct stfs_model *model;

	put_checkpoint("c.pt", "note", false);
	model = open_model("c.pt", 0);
	change("c.pt", where_is("c.pt", "\1\2\3\4\5\6", 6), 9);
	ck_assert_int_eq(stfs_shard_check(&model->shards[0]), 1);
	ck_assert_int_eq(stfs_shard_check(&model->shards[0]), 0);
	expect(model, "turned", "\x09\4\2\5\3\6", 6);
	stfs_model_close(model);
}
END_TEST

START_TEST(stale_once_what_decides_differs)
{
	static const struct {
		const char *text;
		size_t len;
		int add; /* where it is changed, from there */
	} places[] = {{"turned", 6, 0}, {"PK\1\2", 4, 16}, {"PK\3\4", 4, 28}, {"PK\5\6", 4, 16}, {"PK\5\6", 4, 0}};
	struct stfs_model *model;
	off_t where;

	for (size_t i = 0; i < STFS_CHECK_COUNT(places); i++) {
		put_checkpoint("c.pt", "note", false);
		model = open_model("c.pt", 0);
		where = where_is("c.pt", places[i].text, places[i].len) + places[i].add;
		change("c.pt", where, 'x');
		ck_assert_msg(stfs_shard_check(&model->shards[0]) == -ESTALE, "place %zu", i);
		put_checkpoint("c.pt", "note", false);
		ck_assert_int_eq(stfs_shard_check(&model->shards[0]), -ESTALE);
		stfs_model_close(model);
	}
	put_checkpoint("c.pt", "note", false);
	model = open_model("c.pt", 0);
	ck_assert_int_eq(truncate(at("c.pt"), 200), 0);
	ck_assert_int_eq(stfs_shard_check(&model->shards[0]), -ESTALE);
	stfs_model_close(model);
}
END_TEST

START_TEST(says_what_is_refused)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_model *model = NULL;

	put_file("evil.pt", stfs_str_from("\x80\x02" "cos\nsystem\n(X\4\0\0\0"));
	ck_assert_int_eq(stfs_model_open(at("evil.pt"), STFS_OPEN_TOLERANT, &model, &err), -EBADMSG);
	put_file("evil.pt", stfs_str_from("cos\nsystem\n(S'true'\ntR."));
	ck_assert_int_eq(stfs_model_open(at("evil.pt"), STFS_OPEN_TOLERANT, &model, &err), -EBADMSG);
	ck_assert_ptr_nonnull(strstr(err.message, "os.system"));
	ck_assert_ptr_nonnull(strstr(err.message, "rule checkpoint"));
	model = open_model("evil.pt", STFS_OPEN_JUDGE);
	ck_assert_uint_eq(model->shards[0].findings.counts[STFS_RULE_CHECKPOINT], 1);
	ck_assert_ptr_nonnull(model->shards[0].torch);
	ck_assert_ptr_null(model->shards[0].header);
	ck_assert_uint_eq(stfs_torch_global_count(model->shards[0].torch), 1);
	stfs_model_close(model);
}
END_TEST

START_TEST(a_safetensors_file_stays_one)
{
	STFS_AUTO_BUF struct stfs_buf file = STFS_BUF_INIT;
	struct stfs_model *model;
	char text[0x28 + 1];

	/* Its length word begins as a pickle of old does. */
	snprintf(text, sizeof(text), "%-40s", "{}");
	put_le(&file, 0x28, 8);
	stfs_buf_puts(&file, text);
	ck_assert(stfs_torch_could_be(file.data, file.len));
	ck_assert(!stfs_checkpoint_is((const unsigned char *)file.data, file.len));
	put_file("m.safetensors", stfs_buf_str(&file));
	model = open_model("m.safetensors", 0);
	ck_assert(!stfs_model_has_checkpoint(model));
	stfs_model_close(model);
	/* Text that begins like a pickle is judged as what it is not. */
	put_file("letter.pt", stfs_str_from("(a letter, and no pickle of any kind whatever)"));
	model = open_model("letter.pt", STFS_OPEN_JUDGE);
	ck_assert(!stfs_model_has_checkpoint(model));
	ck_assert_uint_eq(model->shards[0].findings.counts[STFS_RULE_HEADER_TOO_LARGE], 1);
	stfs_model_close(model);
}
END_TEST

START_TEST(opens_one_in_parts)
{
	struct stfs_model *model;

	put_checkpoint("p-1.bin", "note", false);
	put_file("pytorch_model.bin.index.json",
		 stfs_str_from("{\"metadata\":{\"total_size\":12},\"weight_map\":{\"plain\":\"p-1.bin\",\"turned\":\"p-1.bin\","
			       "\"none\":\"p-1.bin\"}}"));
	model = open_model("", 0);
	ck_assert(stfs_model_is_sharded(model));
	ck_assert_uint_eq(model->findings.count, 0);
	expect(model, "turned", "\1\4\2\5\3\6", 6);
	stfs_model_close(model);
	/* A model in the same folder is preferred. */
	put_file("m.safetensors", stfs_str_slice("\2\0\0\0\0\0\0\0{}", 10));
	model = open_model("", 0);
	ck_assert(!stfs_model_has_checkpoint(model));
	stfs_model_close(model);
}
END_TEST

/* A call that fails is an error or a refusal, and never half a checkpoint. */
static int fail_in;

static ssize_t pread_failing(int fd, void *buffer, size_t len, off_t offset)
{
	if (fail_in-- == 0) {
		errno = EIO;
		return -1;
	}
	return pread(fd, buffer, len, offset);
}

START_TEST(says_why_whatever_fails)
{
	struct stfs_io io = stfs_io_system;
	struct stfs_model *model = NULL;
	int calls = 0, r;

	put_checkpoint("c.pt", "note", true);
	io.pread = pread_failing;
	do {
		struct stfs_err err = STFS_ERR_INIT;

		fail_in = calls++;
		stfs_io = &io;
		r = stfs_model_open(at("c.pt"), 0, &model, &err);
		stfs_io = &stfs_io_system;
		if (r < 0)
			ck_assert_msg(r == -EIO && err.message[0], "call %d: %d %s", calls, r, err.message);
	} while (r < 0);
	ck_assert_int_gt(calls, 5);
	stfs_model_close(model);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("checkpoint");
	TCase *all = tcase_create("all");

	tcase_add_checked_fixture(all, make_root, remove_folder);
	tcase_add_test(all, reads_a_checkpoint);
	tcase_add_test(all, is_never_opened_for_writing);
	tcase_add_test(all, touched_when_only_data_differs);
	tcase_add_test(all, stale_once_what_decides_differs);
	tcase_add_test(all, says_what_is_refused);
	tcase_add_test(all, a_safetensors_file_stays_one);
	tcase_add_test(all, opens_one_in_parts);
	tcase_add_test(all, says_why_whatever_fails);
	suite_add_tcase(suite, all);
	return stfs_check_main(suite);
}
