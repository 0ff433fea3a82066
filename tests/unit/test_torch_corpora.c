/* SPDX-License-Identifier: MIT */
/*
 * Checkpoints of other programs: the folders checkpoints/, checkpoints/gopickle/ and pickles/ of
 * $STFS_CORPORA, each with an expected.json of what torch.load(weights_only=True) makes of its files.
 * Without it, every case passes as skipped.
 *
 * What torch reads is read, bit for bit, or refused for a reason where it is damaged or hostile
 * (pickles/); what torch refuses is refused, unless only for a harmless class or an opcode that it does
 * not know.
 */
#include "stfs_check.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <nettle/sha2.h>
#include <nettle/version.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "codec/torch.h"
#include "header_tools.h"

struct tally {
	unsigned read, refused, tensors;
	struct stfs_buf faults;
};

static const char *get_text(struct json_object *object, const char *key)
{
	struct json_object *value;

	return json_object_object_get_ex(object, key, &value) ? json_object_get_string(value) : NULL;
}

static void fault(struct tally *tally, const char *file, const char *what, const char *more)
{
	stfs_buf_printf(&tally->faults, "\n  %s: %s%s", file, what, more);
}

/* ---- Tensors ---- */

static void hash_tensor(struct stfs_torch *torch, const struct stfs_torch_tensor *tensor, size_t piece,
			char hex[65], int *r)
{
	STFS_AUTO_FREE char *bytes = malloc(piece);
	uint8_t digest[SHA256_DIGEST_SIZE];
	struct sha256_ctx ctx;

	sha256_init(&ctx);
	*r = 0;
	for (uint64_t at = 0; *r == 0 && at < tensor->bytes; at += piece) {
		size_t len = tensor->bytes - at < piece ? (size_t)(tensor->bytes - at) : piece;

		*r = stfs_torch_read(torch, tensor, bytes, len, at);
		sha256_update(&ctx, len, (const uint8_t *)bytes);
	}
#if NETTLE_VERSION_MAJOR >= 4
	sha256_digest(&ctx, digest);
#else
	sha256_digest(&ctx, sizeof(digest), digest);
#endif
	for (size_t i = 0; i < sizeof(digest); i++)
		snprintf(hex + 2 * i, 3, "%02x", digest[i]);
}

/* The name that a path of keys gets; json-c turns a lone surrogate into U+FFFD. */
static void path_name(struct json_object *path, struct stfs_buf *name)
{
	size_t count = json_object_array_length(path);

	for (size_t i = 0; i < count; i++) {
		struct json_object *item = json_object_array_get_idx(path, i);
		const char *key = json_object_get_string(item);
		size_t len = json_object_is_type(item, json_type_string) ?
				     (size_t)json_object_get_string_len(item) : strlen(key);

		stfs_buf_puts(name, i ? "." : "");
		if (strcmp(key, "\xef\xbf\xbd") == 0)
			stfs_buf_puts(name, "\\ud800");
		else
			stfs_buf_add(name, key, len);
	}
	if (count == 0)
		stfs_buf_puts(name, "tensor");
	if (stfs_str_is(stfs_buf_str(name), "__metadata__"))
		stfs_buf_puts(name, "~2");
}

static const struct stfs_torch_tensor *find(const struct stfs_torch *torch, struct stfs_str name)
{
	uint32_t count;
	const struct stfs_torch_tensor *tensors = stfs_torch_tensors(torch, &count);

	for (uint32_t i = 0; i < count; i++)
		if (stfs_str_equal(tensors[i].name, name))
			return &tensors[i];
	return NULL;
}

static bool same_shape(const struct stfs_torch *torch, const struct stfs_torch_tensor *tensor,
		       struct json_object *want)
{
	struct json_object *shape = json_object_object_get(want, "shape");
	size_t rank = json_object_array_length(shape);
	const uint64_t *dims = stfs_torch_shape(torch, tensor);

	if (rank != tensor->torch_rank)
		return false;
	for (size_t i = 0; i < rank; i++) {
		uint64_t dim = (uint64_t)json_object_get_int64(json_object_array_get_idx(shape, i));

		if (tensor->element->form == STFS_ELEMENT_PACKED && i + 1 == rank)
			dim *= 2;
		if (dims[i] != dim)
			return false;
	}
	return tensor->rank == rank || dims[rank] == 2;
}

static bool same_dtype(const struct stfs_torch_tensor *tensor, const char *want)
{
	if (strncmp(want, "torch.", 6) == 0)
		return strcmp(tensor->element->name, want + 6) == 0;
	return strcmp(stfs_dtype_info((enum stfs_dtype)tensor->dtype)->name, want) == 0;
}

static void check_bytes(struct stfs_torch *torch, const struct stfs_torch_tensor *tensor, const char *want,
			struct tally *tally, const char *file)
{
	static const size_t pieces[] = {1, 7, 4096, 1u << 20};
	char hex[65];
	int r;

	for (size_t i = 0; i < STFS_CHECK_COUNT(pieces); i++) {
		if (tensor->bytes / pieces[i] > 10000)
			continue;
		hash_tensor(torch, tensor, pieces[i], hex, &r);
		if (r < 0 || strcmp(hex, want) != 0)
			fault(tally, file, "other bytes of a tensor, want ", want);
	}
}

/* How many of the tensors before this one have the same name: the later get a suffix. */
static size_t count_namesakes(struct json_object *tensors, size_t index, struct stfs_str name)
{
	size_t count = 0;

	for (size_t i = 0; i < index; i++) {
		STFS_AUTO_BUF struct stfs_buf other = STFS_BUF_INIT;

		path_name(json_object_object_get(json_object_array_get_idx(tensors, i), "path"), &other);
		count += stfs_str_equal(stfs_buf_str(&other), name);
	}
	return count;
}

static void check_tensor(struct stfs_torch *torch, struct json_object *tensors, size_t index,
			 struct tally *tally, const char *file)
{
	struct json_object *want = json_object_array_get_idx(tensors, index);
	size_t namesakes;
	STFS_AUTO_BUF struct stfs_buf name = STFS_BUF_INIT;
	const struct stfs_torch_tensor *tensor;
	const char *sha = get_text(want, "sha256"), *layout = get_text(want, "layout");

	path_name(json_object_object_get(want, "path"), &name);
	if (layout && strcmp(layout, "quantized") == 0) {
		if (stfs_torch_refused(torch)->count == 0)
			fault(tally, file, "a quantised tensor is not refused", "");
		return;
	}
	if (layout)
		stfs_buf_puts(&name, ".values");
	namesakes = count_namesakes(tensors, index, stfs_buf_str(&name));
	if (namesakes)
		stfs_buf_printf(&name, "~%zu", namesakes + 1);
	tensor = find(torch, stfs_buf_str(&name));
	if (!tensor) {
		fault(tally, file, "no tensor ", stfs_buf_cstr(&name));
		return;
	}
	if (layout)
		return;
	tally->tensors++;
	if (!same_dtype(tensor, get_text(want, "dtype")) || !same_shape(torch, tensor, want))
		fault(tally, file, "another type or shape of ", stfs_buf_cstr(&name));
	else if (sha && strlen(sha) == 64 && !tensor->outsized)
		check_bytes(torch, tensor, sha, tally, file);
}

static void check_tensors(struct stfs_torch *torch, struct json_object *want, struct tally *tally,
			  const char *file)
{
	struct json_object *tensors;

	if (!json_object_object_get_ex(want, "tensors", &tensors))
		return;
	for (size_t i = 0; i < json_object_array_length(tensors); i++)
		check_tensor(torch, tensors, i, tally, file);
}

/* ---- Files ---- */

/* Whether torch refuses a file only for what we read all the same. */
static bool may_be_read(const char *error)
{
	return error && (strstr(error, "Unsupported global") || strstr(error, "Unsupported operand"));
}

static void check_file(const char *folder, const char *file, struct json_object *want,
		       struct json_object *all, struct tally *tally)
{
	STFS_AUTO_FREE char *path = NULL;
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_torch *torch = NULL;
	const char *verdict = get_text(want, "torch"), *twin = get_text(want, "same_tensors_as");
	bool hostile = strstr(folder, "/pickles") != NULL;
	struct timespec from, to;
	struct stat st;
	int r;

	ck_assert_int_ge(asprintf(&path, "%s/%s", folder, file), 0);
	STFS_AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	ck_assert_msg(fd >= 0 && fstat(fd, &st) == 0, "%s", path);
	clock_gettime(CLOCK_MONOTONIC, &from);
	r = stfs_torch_open(fd, (uint64_t)st.st_size, &torch, &err);
	clock_gettime(CLOCK_MONOTONIC, &to);
	if (to.tv_sec - from.tv_sec > 5)
		fault(tally, file, "it takes too long", "");
	if (getenv("STFS_VERBOSE"))
		printf("# %s: torch %s, we %s %s\n", file, verdict, r < 0 ? "refuse:" : "read", err.message);
	if (r < 0) {
		tally->refused++;
		if (err.message[0] == '\0')
			fault(tally, file, "refused without a reason", "");
		if (strcmp(verdict, "ok") == 0 && !hostile)
			fault(tally, file, "torch reads it; refused: ", err.message);
	} else {
		tally->read++;
		if (strcmp(verdict, "error") == 0 && !may_be_read(get_text(want, "error")))
			fault(tally, file, "torch refuses it: ", get_text(want, "error"));
		check_tensors(torch, twin ? json_object_object_get(all, twin) : want, tally, file);
	}
	stfs_torch_close(torch);
}

/* No file of these folders has more than some megabytes of pickles. */
#define MEMORY_MAX (256 * 1024) /* KiB */

static void check_memory(struct tally *tally)
{
	struct rusage usage;

	ck_assert_int_eq(getrusage(RUSAGE_SELF, &usage), 0);
	if (!STFS_TEST_SANITIZED && usage.ru_maxrss > MEMORY_MAX)
		fault(tally, "all", "they take too much memory", "");
}

static void check_folder(const char *name)
{
	struct tally tally = {0};
	STFS_AUTO_FREE char *folder = NULL, *path = NULL;
	struct json_object *all;

	if (!getenv("STFS_CORPORA")) {
		printf("# skipped: STFS_CORPORA is not set\n");
		return;
	}
	ck_assert_int_ge(asprintf(&folder, "%s/%s", getenv("STFS_CORPORA"), name), 0);
	ck_assert_int_ge(asprintf(&path, "%s/expected.json", folder), 0);
	all = json_object_from_file(path);
	ck_assert_msg(all != NULL, "%s", path);
	json_object_object_foreach(all, file, want)
		check_file(folder, file, want, all, &tally);
	json_object_put(all);
	check_memory(&tally);
	ck_assert_uint_gt(tally.read + tally.refused, 0);
	printf("# %s: %u read with %u tensors, %u refused\n", name, tally.read, tally.tensors, tally.refused);
	ck_assert_msg(tally.faults.len == 0, "%.3000s", stfs_buf_cstr(&tally.faults));
	stfs_buf_free(&tally.faults);
}

START_TEST(checkpoints)
{
	check_folder("checkpoints");
}
END_TEST

START_TEST(gopickle)
{
	check_folder("checkpoints/gopickle");
}
END_TEST

START_TEST(hostile)
{
	check_folder("pickles");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("torch_corpora");
	TCase *files = tcase_create("files");

	tcase_set_timeout(files, 300);
	tcase_add_test(files, checkpoints);
	tcase_add_test(files, gopickle);
	tcase_add_test(files, hostile);
	suite_add_tcase(suite, files);
	return stfs_check_main(suite);
}
