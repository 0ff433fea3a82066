/* SPDX-License-Identifier: MIT */
/* Checkpoints that are written, judged by the reader (codec/torch.h), and by what torch 2.13 writes. */
#include "checkpoint_tools.h"

#include <errno.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "codec/torch.h"
#include "codec/torch_write.h"
#include "codec/zip_write.h"

#define TENSORS_MAX 2400

struct made {
	char name[80];
	size_t name_len;
	enum stfs_dtype dtype;
	uint64_t dims[8]; /* as safetensors has them */
	size_t rank;
	uint64_t bytes;
};

static struct stfs_torch_pickle pickle;
static struct stfs_zip_write zip;
static struct stfs_buf out;
static struct stfs_torch *torch;
static struct stfs_err err;
static struct made tensors[TENSORS_MAX];
static size_t count;
static int fd = -1;

static void setup(void)
{
	err = (struct stfs_err)STFS_ERR_INIT;
	zip = (struct stfs_zip_write){0};
	count = 0;
}

static void teardown(void)
{
	stfs_torch_close(torch);
	torch = NULL;
	stfs_torch_pickle_free(&pickle);
	stfs_zip_write_free(&zip);
	stfs_buf_free(&out);
	if (fd >= 0)
		close(fd);
	fd = -1;
}

static void entry(const char *name, struct stfs_str content)
{
	stfs_zip_write_begin(&zip, stfs_str_from("top"), stfs_str_from(name), content.len, &out);
	stfs_buf_add_str(&out, content);
	stfs_zip_write_end(&zip, (uint32_t)crc32_z(0, (const unsigned char *)content.ptr, content.len), &out);
}

static void records(const struct stfs_torch_record *record)
{
	for (; record->name; record++)
		entry(record->name, stfs_str_from(record->content));
}

static uint8_t byte_of(size_t tensor, uint64_t at)
{
	return (uint8_t)(tensor * 31 + at * 7 + 1);
}

static void put_tensor_item(size_t i)
{
	const struct stfs_element *element = stfs_element_by_dtype(tensors[i].dtype);
	uint64_t dims[8];

	memcpy(dims, tensors[i].dims, sizeof(dims));
	ck_assert_ptr_null(stfs_torch_write_shape(element, dims, tensors[i].rank));
	stfs_torch_pickle_tensor(&pickle, stfs_str_slice(tensors[i].name, tensors[i].name_len), element, dims,
				 tensors[i].rank, tensors[i].bytes);
}

/* The archive of `tensors` and the pickle, which is ended. */
static void make_archive(void)
{
	stfs_torch_pickle_end(&pickle);
	entry("data.pkl", stfs_buf_str(&pickle.bytes));
	records(stfs_torch_records_before());
	for (size_t i = 0; i < count; i++) {
		STFS_AUTO_BUF struct stfs_buf content = STFS_BUF_INIT;
		char name[32];

		for (uint64_t at = 0; at < tensors[i].bytes; at++)
			stfs_buf_putc(&content, (char)byte_of(i, at));
		snprintf(name, sizeof(name), "data/%zu", i);
		entry(name, stfs_buf_str(&content));
	}
	records(stfs_torch_records_behind());
	stfs_zip_write_finish(&zip, &out);
	ck_assert_int_eq(stfs_buf_status(&out), 0);
	ck_assert_uint_eq(out.len, zip.at);
	fd = file_of(stfs_buf_str(&out));
	ck_assert_msg(stfs_torch_open(fd, out.len, &torch, &err) == 0, "%s", err.message);
}

static const struct stfs_torch_tensor *find(struct stfs_str name)
{
	uint32_t there;
	const struct stfs_torch_tensor *all = stfs_torch_tensors(torch, &there);

	for (uint32_t i = 0; i < there; i++)
		if (stfs_str_equal(all[i].name, name))
			return &all[i];
	return NULL;
}

static void compare(size_t i)
{
	const struct made *want = &tensors[i];
	const struct stfs_torch_tensor *got = find(stfs_str_slice(want->name, want->name_len));
	STFS_AUTO_FREE unsigned char *bytes = malloc(want->bytes + 1);

	ck_assert_msg(got != NULL, "tensor %zu", i);
	ck_assert_uint_eq(got->dtype, want->dtype);
	ck_assert_uint_eq(got->rank, want->rank);
	ck_assert_uint_eq(got->bytes, want->bytes);
	for (size_t d = 0; d < want->rank; d++)
		ck_assert_uint_eq(stfs_torch_shape(torch, got)[d], want->dims[d]);
	ck_assert(got->contiguous && !got->shares && !got->requires_grad && got->twin == STFS_NO_TWIN);
	ck_assert(stfs_torch_is_plain(torch, got) || want->bytes == 0);
	ck_assert_int_eq(stfs_torch_read(torch, got, bytes, want->bytes, 0), 0);
	for (uint64_t at = 0; at < want->bytes; at++)
		ck_assert_uint_eq(bytes[at], byte_of(i, at));
}

static void verify_all(void)
{
	uint32_t storages, there;

	stfs_torch_storages(torch, &storages);
	stfs_torch_tensors(torch, &there);
	ck_assert_uint_eq(storages, count);
	ck_assert_uint_eq(there, count);
	ck_assert_uint_eq(stfs_torch_refused(torch)->count, 0);
	ck_assert_uint_eq(stfs_torch_left_out(torch)->count, 0);
	for (uint32_t i = 0; i < storages; i++)
		ck_assert_int_eq(stfs_torch_verify(torch, i, NULL, NULL, &err), 0);
	for (size_t i = 0; i < stfs_torch_global_count(torch); i++)
		ck_assert_int_eq(stfs_torch_global(torch, i).verdict, STFS_GLOBAL_ALLOWED);
}

/* ---- Properties ---- */

static void add_random(uint64_t *state)
{
	struct made *made = &tensors[count];
	uint64_t elements = 1;

	*made = (struct made){.rank = stfs_check_below(state, 6)};
	/* Any UTF-8: quotes, newlines, NUL, what ends an opcode's text, characters of two to four bytes. */
	made->name_len = (size_t)snprintf(made->name, sizeof(made->name), "%zu%s", count,
					  (const char *[]){"", ".", "\n", "'\"\\", "\xc3\xa9", "\xf0\x9f\x8c\xb2", "q.R",
							   "/../x"}[stfs_check_below(state, 8)]);
	if (stfs_check_below(state, 8) == 0)
		made->name[made->name_len++] = '\0';
	do
		made->dtype = (enum stfs_dtype)stfs_check_below(state, STFS_DTYPE_COUNT);
	while (!stfs_element_by_dtype(made->dtype));
	if (made->dtype == STFS_F4 && made->rank == 0)
		made->rank = 1;
	for (size_t d = 0; d < made->rank; d++)
		made->dims[d] = stfs_check_below(state, 5);
	if (made->dtype == STFS_F4)
		made->dims[made->rank - 1] *= 2;
	for (size_t d = 0; d < made->rank; d++)
		elements *= made->dims[d];
	ck_assert_int_eq(stfs_dtype_bytes(made->dtype, elements, &made->bytes), 0);
	count++;
}

START_TEST(random_models_are_read_back)
{
	uint64_t state = stfs_check_seed() + (uint64_t)_i;
	/* On both sides of the pickler's batches of a thousand. */
	const size_t sizes[] = {0, 1, 2, 5, 40, 999, 1000, 1001, 2001, 2345};
	size_t want = sizes[(size_t)_i % STFS_CHECK_COUNT(sizes)];

	stfs_torch_pickle_begin(&pickle, want);
	for (size_t i = 0; i < want; i++) {
		add_random(&state);
		put_tensor_item(i);
	}
	make_archive();
	verify_all();
	for (size_t i = 0; i < count; i++)
		compare(i);
}
END_TEST

START_TEST(texts_become_leaves)
{
	const size_t sizes[] = {0, 1, 2, 1000, 1001};
	size_t want = sizes[_i];
	char key[48];

	add_random(&(uint64_t){1});
	stfs_torch_pickle_begin(&pickle, 2);
	put_tensor_item(0);
	stfs_torch_pickle_texts(&pickle, stfs_str_from("__metadata__"), want);
	for (size_t i = 0; i < want; i++) {
		snprintf(key, sizeof(key), "key%zu", i);
		stfs_torch_pickle_text(&pickle, stfs_str_from(key), stfs_str_from("val'\n\xc3\xa9"));
	}
	make_archive();
	verify_all();
	compare(0);
	ck_assert_uint_eq(stfs_torch_leaves(torch)->count, want);
	for (size_t i = 0; i < want; i++) {
		snprintf(key, sizeof(key), "__metadata__.key%zu", i);
		stfs_check_str_eq(stfs_torch_leaves(torch)->items[i].name, stfs_str_from(key), "a leaf");
		stfs_check_str_eq(stfs_torch_leaves(torch)->items[i].text, stfs_str_from("val'\n\xc3\xa9"), key);
	}
}
END_TEST

/* ---- By hand ---- */

/* To the byte: torch.save(OrderedDict(a=torch.zeros(2, 3), b=torch.zeros(1, dtype=torch.uint16))). */
START_TEST(the_pickle_is_torchs)
{
	static const char want[] =
		"\x80\x02" "ccollections\nOrderedDict\nq\0)Rq\1(X\1\0\0\0aq\2ctorch._utils\n_rebuild_tensor_v2\nq\3"
		"((X\7\0\0\0storageq\4ctorch\nFloatStorage\nq\5X\1\0\0\0" "0q\6X\3\0\0\0cpuq\7K\6tq\10QK\0K\2K\3\x86q\11"
		"K\3K\1\x86q\12\x89h\0)Rq\13tq\14Rq\15X\1\0\0\0bq\16ctorch._utils\n_rebuild_tensor_v3\nq\17((h\4"
		"ctorch.storage\nUntypedStorage\nq\20X\1\0\0\0" "1q\21h\7K\2tq\22QK\0K\1\x85q\23K\1\x85q\24\x89h\0)Rq\25"
		"ctorch\nuint16\nq\26tq\27Rq\30u.";

	tensors[0] = (struct made){.name = "a", .name_len = 1, .dtype = STFS_F32, .dims = {2, 3}, .rank = 2, .bytes = 24};
	tensors[1] = (struct made){.name = "b", .name_len = 1, .dtype = STFS_U16, .dims = {1}, .rank = 1, .bytes = 2};
	stfs_torch_pickle_begin(&pickle, 2);
	put_tensor_item(0);
	put_tensor_item(1);
	stfs_torch_pickle_end(&pickle);
	stfs_check_str_eq(stfs_buf_str(&pickle.bytes), stfs_str_slice(want, sizeof(want) - 1), "the pickle");
}
END_TEST

/* Dimensions on both sides of each width that a number can have; the strides are no larger. */
START_TEST(numbers_of_every_width)
{
	const uint64_t numbers[] = {0, 1, 255, 256, 65535, 65536, INT32_MAX, UINT64_C(1) << 31, UINT32_MAX,
				    (UINT64_C(1) << 39) - 1, UINT64_C(1) << 39, UINT64_C(1) << 62, INT64_MAX};

	for (size_t i = 0; i < STFS_CHECK_COUNT(numbers); i++) {
		struct made *made = &tensors[count++];

		*made = (struct made){.dtype = STFS_U8, .dims = {0, numbers[i]}, .rank = 2};
		made->name_len = (size_t)snprintf(made->name, sizeof(made->name), "t%zu", i);
	}
	stfs_torch_pickle_begin(&pickle, count);
	for (size_t i = 0; i < count; i++)
		put_tensor_item(i);
	make_archive();
	for (size_t i = 0; i < count; i++)
		compare(i);
}
END_TEST

START_TEST(what_torch_cannot_have)
{
	const struct stfs_element *byte = stfs_element_by_dtype(STFS_U8), *f4 = stfs_element_by_dtype(STFS_F4);
	uint64_t many[STFS_TORCH_RANK_MAX + 1] = {0};

	ck_assert_ptr_null(stfs_element_by_dtype(STFS_F6_E2M3));
	ck_assert_ptr_null(stfs_element_by_dtype(STFS_F6_E3M2));
	ck_assert_str_eq(stfs_element_by_dtype(STFS_F16)->name, "float16");
	ck_assert_str_eq(stfs_element_by_dtype(STFS_F64)->name, "float64");
	ck_assert_ptr_nonnull(stfs_torch_write_shape(byte, (uint64_t[]){0, UINT64_C(1) << 63}, 2));
	ck_assert_ptr_null(stfs_torch_write_shape(byte, (uint64_t[]){0, INT64_MAX}, 2));
	ck_assert_ptr_nonnull(stfs_torch_write_shape(byte, (uint64_t[]){0, UINT64_C(1) << 32, UINT64_C(1) << 31}, 3));
	ck_assert_ptr_nonnull(stfs_torch_write_shape(byte, (uint64_t[]){0, INT64_MAX, INT64_MAX}, 3));
	ck_assert_ptr_nonnull(stfs_torch_write_shape(f4, (uint64_t[]){2, 3}, 2));
	ck_assert_ptr_nonnull(stfs_torch_write_shape(f4, NULL, 0));
	ck_assert_ptr_null(stfs_torch_write_shape(byte, many, STFS_TORCH_RANK_MAX));
	ck_assert_ptr_nonnull(stfs_torch_write_shape(byte, many, STFS_TORCH_RANK_MAX + 1));
}
END_TEST

START_TEST(folders)
{
	static const struct {
		const char *file, *folder;
	} cases[] = {
		{"model.pt", "model"}, {"model", "model"}, {"a.b.pt", "a.b"}, {"my model@x.pt", "my model@x"},
		{".pt", "archive"}, {"..pt", "archive"}, {"...", "archive"}, {".hidden.pt", ".hidden"},
		{"a\nb\x7f:c*?.pt", "a_b__c__"}, {"a\\b|c.pt", "a_b_c"}, {"gr\xc3\xbc\xc3\x9f.pt", "archive"},
		{"\xff.pt", "archive"},
		{"x.\xc3\xa9", "x"}, {"", "archive"},
	};
	char folder[STFS_TORCH_FOLDER_MAX + 1], longest[301];

	for (size_t i = 0; i < STFS_CHECK_COUNT(cases); i++) {
		stfs_torch_write_folder(stfs_str_from(cases[i].file), folder);
		ck_assert_str_eq(folder, cases[i].folder);
	}
	memset(longest, 'x', 300);
	stfs_torch_write_folder(stfs_str_slice(longest, 300), folder);
	ck_assert_uint_eq(strlen(folder), STFS_TORCH_FOLDER_MAX);
}
END_TEST

START_TEST(ids_have_40_digits)
{
	char id[STFS_TORCH_ID_LEN + 1];

	stfs_torch_write_id(UINT64_MAX, 7, id);
	ck_assert_str_eq(id, "1844674407370955161500000000000000000007");
}
END_TEST

static Suite *make_suite(void)
{
	Suite *suite = suite_create("torch_write");
	TCase *tests = tcase_create("checkpoints");

	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_loop_test(tests, random_models_are_read_back, 0, 30);
	tcase_add_loop_test(tests, texts_become_leaves, 0, 5);
	tcase_add_test(tests, the_pickle_is_torchs);
	tcase_add_test(tests, numbers_of_every_width);
	tcase_add_test(tests, what_torch_cannot_have);
	tcase_add_test(tests, folders);
	tcase_add_test(tests, ids_have_40_digits);
	suite_add_tcase(suite, tests);
	return suite;
}

int main(void)
{
	return stfs_check_main(make_suite());
}
