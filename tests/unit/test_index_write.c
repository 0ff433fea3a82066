/* SPDX-License-Identifier: MIT */
#include "stfs_check.h"

#include <errno.h>
#include <time.h>

#include "base/buf.h"
#include "format/index.h"
#include "format/json.h"

#define LIT STFS_CHECK_LIT
#define NONE {NULL, 0}
#define REMOVE(name) {LIT(name), NONE, NULL}
#define RENAME(name, to) {LIT(name), LIT(to), NULL}
#define MOVE(name, to, file) {LIT(name), LIT(to), file}
#define ADD(name, file) {NONE, LIT(name), file}

#define WANT_SIZE 99

struct case_ {
	struct stfs_str text;
	struct stfs_index_change items[5];
	size_t count;
	bool set_total_size; /* to WANT_SIZE */
	struct stfs_str want;
};

#define INDENTED(size, map) \
	"{\n  \"metadata\": {\n    \"total_size\": " size "\n  },\n  \"weight_map\": {" map "\n  }\n}\n"
#define AB "\n    \"a\": \"f1\",\n    \"b\": \"f2\""

static const struct case_ cases[] = {
	/* Nothing changes, whatever the layout. */
	{LIT(" {\"weight_map\" :{\"a\" : \"\\u0066\" ,\t\"b\":\"f\"} ,\"x\":[1, 2]}"), {}, 0, true,
	 LIT(" {\"weight_map\" :{\"a\" : \"\\u0066\" ,\t\"b\":\"f\"} ,\"x\":[1, 2]}")},
	/* As transformers writes it. */
	{LIT(INDENTED("7", AB)), {}, 0, true, LIT(INDENTED("99", AB))},
	{LIT(INDENTED("7", AB)), {}, 0, false, LIT(INDENTED("7", AB))},
	{LIT(INDENTED("7", AB)), {REMOVE("a")}, 1, true, LIT(INDENTED("99", "\n    \"b\": \"f2\""))},
	{LIT(INDENTED("7", AB)), {REMOVE("b")}, 1, true, LIT(INDENTED("99", "\n    \"a\": \"f1\""))},
	{LIT(INDENTED("7", AB)), {ADD("c", "f1")}, 1, false,
	 LIT(INDENTED("7", AB ",\n    \"c\": \"f1\""))},
	{LIT(INDENTED("7", AB)), {ADD("aa", "f3"), ADD("", "f1")}, 2, false,
	 LIT(INDENTED("7", "\n    \"\": \"f1\",\n    \"a\": \"f1\",\n    \"aa\": \"f3\",\n    \"b\": \"f2\""))},
	{LIT(INDENTED("7", AB)), {RENAME("a", "c")}, 1, false,
	 LIT(INDENTED("7", "\n    \"b\": \"f2\",\n    \"c\": \"f1\""))},
	{LIT(INDENTED("7", AB)), {RENAME("a", "b"), RENAME("b", "a")}, 2, false,
	 LIT(INDENTED("7", "\n    \"a\": \"f2\",\n    \"b\": \"f1\""))},
	{LIT(INDENTED("7", AB)), {RENAME("a", "b"), REMOVE("b")}, 2, false,
	 LIT(INDENTED("7", "\n    \"b\": \"f1\""))},
	{LIT(INDENTED("7", AB)), {REMOVE("a"), ADD("a", "f9")}, 2, false,
	 LIT(INDENTED("7", "\n    \"a\": \"f9\",\n    \"b\": \"f2\""))},
	{LIT(INDENTED("7", "\n    \"a\": \"f1\"")), {ADD("b", "f2")}, 1, false, LIT(INDENTED("7", AB))},
	/* By four spaces and by tabs; other members and other metadata as they stand. */
	{LIT("{\n    \"weight_map\": {\n        \"b\": \"f\",\n        \"a\": \"f\"\n    },\n    \"x\":  [ ]\n}"),
	 {ADD("c", "g")}, 1, true,
	 LIT("{\n    \"weight_map\": {\n        \"b\": \"f\",\n        \"a\": \"f\",\n        \"c\": \"g\"\n    },\n    \"x\":  [ ]\n}")},
	{LIT("{\n\t\"metadata\":\t{\"y\":[{\"total_size\":1}],\n\"total_size\":\t7.0 , \"z\" : {}},\n\t\"weight_map\":\t{\n\t\t\"a\":\t\"f\"\n\t}\n}"),
	 {ADD("b", "g")}, 1, true,
	 LIT("{\n\t\"metadata\":\t{\"y\":[{\"total_size\":1}],\n\"total_size\":\t99 , \"z\" : {}},\n\t\"weight_map\":\t{\n\t\t\"a\":\t\"f\",\n\t\t\"b\":\t\"g\"\n\t}\n}")},
	/* On one line. */
	{LIT("{\"weight_map\": {\"b\": \"f\", \"a\": \"f\"}}"), {ADD("0", "f"), RENAME("b", "1")}, 2, true,
	 LIT("{\"weight_map\": {\"1\": \"f\", \"a\": \"f\", \"0\": \"f\"}}")},
	{LIT("{\"weight_map\": {\"b\": \"f\"}}"), {ADD("c", "f")}, 1, true,
	 LIT("{\"weight_map\": {\"b\": \"f\", \"c\": \"f\"}}")},
	{LIT("{\"weight_map\":{\"b\":\"f\"}}"), {ADD("c", "f")}, 1, true,
	 LIT("{\"weight_map\":{\"b\":\"f\",\"c\":\"f\"}}")},
	/* total_size: where there is one, whatever it is; no other is made. */
	{LIT("{\"metadata\":{},\"weight_map\":{\"b\":\"f\"}}"), {}, 0, true,
	 LIT("{\"metadata\":{},\"weight_map\":{\"b\":\"f\"}}")},
	{LIT("{\"metadata\":null,\"weight_map\":{\"b\":\"f\"}}"), {}, 0, true,
	 LIT("{\"metadata\":null,\"weight_map\":{\"b\":\"f\"}}")},
	{LIT("{\"metadata\":{\"total\\u005fsize\":\"7\"},\"weight_map\":{\"b\":\"f\"}}"), {}, 0, true,
	 LIT("{\"metadata\":{\"total\\u005fsize\":99},\"weight_map\":{\"b\":\"f\"}}")},
	{LIT("{\"metadata\":{\"total_size\":{\"a\":[]}},\"weight_map\":{\"b\":\"f\"},\"total_size\":3}"), {}, 0, true,
	 LIT("{\"metadata\":{\"total_size\":99},\"weight_map\":{\"b\":\"f\"},\"total_size\":3}")},
	/* Names are compared by their characters; those that stay, stay as they are written. */
	{LIT("{\"\\u0077eight_map\":{\"\\u00e9\":\"\\u0066\",\"x\\n\\u0000\":\"f\\u002d2\",\"a\":\"f\"}}"),
	 {RENAME("x\n\0", "\"\0"), REMOVE("a")}, 2, false,
	 LIT("{\"\\u0077eight_map\":{\"\\u00e9\":\"\\u0066\",\"\\\"\\u0000\":\"f-2\"}}")},
	{LIT("{\"weight_map\":{\"z\":\"f\",\"\\u00e9\":\"f\"}}"), {REMOVE("é"), ADD("é!", "f")}, 2, false,
	 LIT("{\"weight_map\":{\"z\":\"f\",\"é!\":\"f\"}}")},
	/* To another shard, in place. */
	{LIT("{\"weight_map\":{\"b\":\"f\",\"a\":\"f\"}}"), {MOVE("b", "b", "g")}, 1, false,
	 LIT("{\"weight_map\":{\"b\":\"g\",\"a\":\"f\"}}")},
	{LIT("{\"weight_map\":{\"a\":\"f\",\"b\":\"f\"}}"), {MOVE("a", "a", "g"), MOVE("b", "0", "h")}, 2, false,
	 LIT("{\"weight_map\":{\"0\":\"h\",\"a\":\"g\"}}")},
	/* What the index has not got, or has against expectation. */
	{LIT("{\"weight_map\":{\"a\":\"f\"}}"), {REMOVE("b")}, 1, false, LIT("{\"weight_map\":{\"a\":\"f\"}}")},
	{LIT("{\"weight_map\":{\"a\":\"f\"}}"), {MOVE("b", "c", "g")}, 1, false,
	 LIT("{\"weight_map\":{\"a\":\"f\",\"c\":\"g\"}}")},
	{LIT("{\"weight_map\":{\"b\":\"f\",\"a\":\"f\"}}"), {ADD("b", "g")}, 1, false,
	 LIT("{\"weight_map\":{\"b\":\"g\",\"a\":\"f\"}}")},
	/* Every tensor of the source goes, others come. */
	{LIT("{\"weight_map\":{ \"a\":\"f\" }}"), {REMOVE("a"), ADD("b", "f")}, 2, false,
	 LIT("{\"weight_map\":{ \"b\":\"f\" }}")},
};

static struct stfs_index_changes changes_of(const struct case_ *c)
{
	return (struct stfs_index_changes){.items = c->items, .count = c->count,
					   .set_total_size = c->set_total_size, .total_size = WANT_SIZE};
}

START_TEST(writes)
{
	const struct stfs_index_changes changes = changes_of(&cases[_i]);
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
	struct stfs_err err = STFS_ERR_INIT;

	stfs_buf_puts(&out, "kept");
	ck_assert_msg(stfs_index_write(cases[_i].text, &changes, &out, &err) == 0, "%s: %s",
		      cases[_i].text.ptr, err.message);
	ck_assert_mem_eq(out.data, "kept", 4);
	ck_assert_msg(out.len - 4 == cases[_i].want.len &&
		      memcmp(out.data + 4, cases[_i].want.ptr, cases[_i].want.len) == 0,
		      "got %s\nwant %s", stfs_buf_cstr(&out) + 4, cases[_i].want.ptr);
}
END_TEST

static const struct {
	struct stfs_str text;
	struct stfs_index_change items[2];
	size_t count;
	int code;
	const char *says;
} bad_cases[] = {
	{NONE, {}, 0, -EBADMSG, "not JSON"},
	{LIT("{"), {}, 0, -EBADMSG, "not JSON"},
	{LIT("{\"weight_map\":{}}"), {ADD("a", "f")}, 1, -EBADMSG, "names no file"},
	{LIT("{\"weight_map\":{\"a\":\"f\",\"a\":\"f\"}}"), {REMOVE("a")}, 1, -EBADMSG, "stands twice"},
	{LIT("{\"weight_map\":{\"a\":\"x/y\"}}"), {REMOVE("a")}, 1, -EBADMSG, "no file name"},
	{LIT("{\"weight_map\":{\"a\":\"f\"}}"), {RENAME("b", "c")}, 1, -ENOENT, "\"b\""},
	{LIT("{\"weight_map\":{\"a\":\"f\"}}"), {REMOVE("a"), RENAME("a", "b")}, 2, -EINVAL, "twice"},
	{LIT("{\"weight_map\":{\"a\":\"f\",\"b\":\"f\"}}"), {RENAME("a", "b")}, 1, -EINVAL, "\"b\" stands twice"},
	{LIT("{\"weight_map\":{\"b\":\"f\",\"a\":\"f\"}}"), {RENAME("b", "a")}, 1, -EINVAL, "\"a\" stands twice"},
	{LIT("{\"weight_map\":{\"a\":\"f\"}}"), {ADD("b", "f"), ADD("b", "g")}, 2, -EINVAL, "\"b\" stands twice"},
	{LIT("{\"weight_map\":{\"a\":\"f\"}}"), {ADD("a", "f"), ADD("a", "g")}, 2, -EINVAL, "\"a\" stands twice"},
	{LIT("{\"weight_map\":{\"a\":\"f\"}}"), {REMOVE("a")}, 1, -EINVAL, "names no file"},
	{LIT("{\"weight_map\":{\"a\":\"f\"}}"), {ADD("b", "")}, 1, -EINVAL, "no file name"},
	{LIT("{\"weight_map\":{\"a\":\"f\"}}"), {ADD("b", "../f")}, 1, -EINVAL, "no file name"},
	{LIT("{\"weight_map\":{\"a\":\"f\"}}"), {ADD("b\xff", "f")}, 1, -EINVAL, "not UTF-8"},
	{LIT("{\"weight_map\":{\"a\":\"f\"}}"), {ADD("b", "f\xff")}, 1, -EINVAL, "not UTF-8"},
};

START_TEST(refuses)
{
	const struct stfs_index_changes changes = {.items = bad_cases[_i].items, .count = bad_cases[_i].count};
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
	struct stfs_err err = STFS_ERR_INIT;

	ck_assert_int_eq(stfs_index_write(bad_cases[_i].text, &changes, &out, &err), bad_cases[_i].code);
	ck_assert_uint_eq(out.len, 0);
	ck_assert_int_eq(err.code, bad_cases[_i].code);
	ck_assert_msg(strstr(err.message, bad_cases[_i].says), "%s", err.message);
	stfs_buf_puts(&out, "kept");
	ck_assert_int_eq(stfs_index_write(bad_cases[_i].text, &changes, &out, NULL), bad_cases[_i].code);
	stfs_check_str_eq(stfs_buf_str(&out), stfs_str_from("kept"), "what stood before");
}
END_TEST

/* White space without end between two members is no style. */
START_TEST(repeats_no_endless_space)
{
	const size_t many = 100000;
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
	struct stfs_index_change items[50];
	char names[50][8];

	stfs_buf_puts(&text, "{\"weight_map\":{");
	stfs_buf_fill(&text, ' ', many);
	stfs_buf_puts(&text, "\"b\"");
	stfs_buf_fill(&text, ' ', many);
	stfs_buf_puts(&text, ": \"f\"");
	stfs_buf_fill(&text, '\n', many);
	stfs_buf_puts(&text, ",\"a\":\"f\"");
	stfs_buf_fill(&text, ' ', many);
	stfs_buf_puts(&text, "}}");
	for (size_t i = 0; i < STFS_CHECK_COUNT(items); i++) {
		int len = snprintf(names[i], sizeof(names[i]), "n%zu", i);

		items[i] = (struct stfs_index_change){.new_name = {names[i], (size_t)len}, .file = "g"};
	}
	ck_assert_int_eq(stfs_index_write(stfs_buf_str(&text), &(struct stfs_index_changes){
		.items = items, .count = STFS_CHECK_COUNT(items)}, &out, NULL), 0);
	ck_assert_uint_lt(out.len, text.len + 2000);
}
END_TEST

/* ---- Properties ---- */

#define NAMES 40

/* What a random index names, by number of name: a file, or none (0). */
struct random_map {
	unsigned file[NAMES];
};

static struct stfs_str name_of(unsigned number)
{
	static const struct stfs_str odd[] = {LIT(""), LIT("\0"), LIT("\0\0"), LIT("é"), LIT("\"\\"), LIT("a\nb")};
	static char names[NAMES][16];

	if (number < STFS_CHECK_COUNT(odd))
		return odd[number];
	return stfs_str_slice(names[number], (size_t)snprintf(names[number], 16, "layer.%u", number));
}

static const char *file_of(unsigned number)
{
	static char files[8][16];

	snprintf(files[number], sizeof(files[number]), "m-%u", number);
	return files[number];
}

static void write_random(uint64_t *state, struct random_map *map, struct stfs_buf *text)
{
	static const char *const styles[][3] = {
		{"", ",", ":"}, {"", ", ", ": "}, {"\n    ", ",\n    ", ": "}, {" ", " ,", " :"}};
	const char *const *style = styles[stfs_check_below(state, 4)];
	unsigned start = (unsigned)stfs_check_below(state, NAMES), any = 0;

	stfs_buf_puts(text, "{\"metadata\":{\"total_size\":1},\"weight_map\":{");
	for (unsigned i = 0; i < NAMES; i++) {
		unsigned number = (start + i) % NAMES;

		map->file[number] = (unsigned)stfs_check_below(state, 8);
		if (!any && !map->file[number])
			map->file[number] = 1;
		if (!map->file[number])
			continue;
		stfs_buf_puts(text, style[any++ ? 1 : 0]);
		stfs_json_quote(name_of(number), text);
		stfs_buf_printf(text, "%s\"%s\"", style[2], file_of(map->file[number]));
	}
	stfs_buf_puts(text, "}}");
}

/* Random changes, and the map they make of `map`. At least one tensor is left. */
static size_t random_changes(uint64_t *state, struct random_map *map, struct stfs_index_change *items)
{
	unsigned order[NAMES];
	struct random_map made = *map;
	size_t count = 0;

	/* A random permutation: name i becomes name order[i], for those that change. */
	for (unsigned i = 0; i < NAMES; i++) {
		unsigned k = (unsigned)stfs_check_below(state, i + 1);

		order[i] = order[k];
		order[k] = i;
	}
	for (unsigned i = 0; i < NAMES; i++)
		if (stfs_check_below(state, 2) && map->file[i])
			made.file[i] = 0, items[count++] = (struct stfs_index_change){.name = name_of(i)};
	for (size_t c = 0; c < count; c++) {
		for (unsigned i = 0; i < NAMES; i++) {
			unsigned to = order[i], file = (unsigned)stfs_check_below(state, 8);

			if (!stfs_str_equal(items[c].name, name_of(i)) || made.file[to] || c % 3 == 0)
				continue;
			items[c].new_name = name_of(to);
			items[c].file = file ? file_of(file) : NULL;
			made.file[to] = file ? file : map->file[i];
		}
	}
	for (unsigned i = 0; i < NAMES; i++) {
		if (made.file[i] || stfs_check_below(state, 4))
			continue;
		made.file[i] = 1 + (unsigned)stfs_check_below(state, 7);
		items[count++] = (struct stfs_index_change){.new_name = name_of(i), .file = file_of(made.file[i])};
	}
	*map = made;
	return count;
}

static bool names_sorted(const struct stfs_index *index)
{
	for (uint32_t i = 1; i < index->count; i++)
		if (stfs_str_compare(stfs_index_name(index, i - 1), stfs_index_name(index, i)) >= 0)
			return false;
	return true;
}

static void read_text(struct stfs_str text, struct stfs_index *index)
{
	char *copy = malloc(text.len);

	ck_assert_ptr_nonnull(copy);
	memcpy(copy, text.ptr, text.len);
	ck_assert_int_eq(stfs_index_read(copy, text.len, index, NULL), 0);
}

START_TEST(what_is_written_is_read_back)
{
	uint64_t state = stfs_check_seed();

	for (int round = 0; round < 3000; round++) {
		STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
		STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
		struct stfs_index_change items[2 * NAMES];
		struct stfs_index source, index;
		struct stfs_err err = STFS_ERR_INIT;
		struct random_map map;
		size_t count;
		unsigned left = 0;

		write_random(&state, &map, &text);
		count = random_changes(&state, &map, items);
		for (unsigned i = 0; i < NAMES; i++)
			left += map.file[i] != 0;
		if (!left)
			continue;
		ck_assert_msg(stfs_index_write(stfs_buf_str(&text), &(struct stfs_index_changes){
			.items = items, .count = count, .set_total_size = true, .total_size = 77},
			&out, &err) == 0, "%s: %s", stfs_buf_cstr(&text), err.message);
		read_text(stfs_buf_str(&text), &source);
		read_text(stfs_buf_str(&out), &index);
		ck_assert_uint_eq(index.count, left);
		ck_assert_uint_eq(index.total_size, 77);
		for (unsigned i = 0; i < NAMES; i++) {
			uint32_t found = stfs_index_find(&index, name_of(i));

			ck_assert((found == STFS_NO_NUMBER) == (map.file[i] == 0));
			if (map.file[i])
				ck_assert_str_eq(index.files[found], file_of(map.file[i]));
		}
		ck_assert(!names_sorted(&source) || names_sorted(&index));
		stfs_index_free(&source);
		stfs_index_free(&index);
	}
}
END_TEST

/* As many names as an index can hold, every one renamed, and that in about a second. */
START_TEST(a_million_names)
{
	const unsigned count = 1000000;
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
	struct stfs_index_change *items = calloc(count, sizeof(*items));
	char *names = calloc(count, 2 * 8);
	struct timespec start, end;
	struct stfs_index index;

	ck_assert(items && names);
	stfs_buf_puts(&text, "{\"weight_map\":{");
	for (unsigned i = 0; i < count; i++) {
		snprintf(names + 16 * (size_t)i, 8, "%07u", i);
		snprintf(names + 16 * (size_t)i + 8, 8, "%07u", (i + 1) % count);
		items[i].name = stfs_str_slice(names + 16 * (size_t)i, 7);
		items[i].new_name = stfs_str_slice(names + 16 * (size_t)i + 8, 7);
		stfs_buf_printf(&text, "%s\"%07u\":\"f%u\"", i ? "," : "", i, i % 10);
	}
	stfs_buf_puts(&text, "}}");
	clock_gettime(CLOCK_MONOTONIC, &start);
	ck_assert_int_eq(stfs_index_write(stfs_buf_str(&text), &(struct stfs_index_changes){
		.items = items, .count = count}, &out, NULL), 0);
	clock_gettime(CLOCK_MONOTONIC, &end);
	printf("# a million names: %.2f s\n", (double)(end.tv_sec - start.tv_sec) +
	       (double)(end.tv_nsec - start.tv_nsec) / 1e9);
	read_text(stfs_buf_str(&out), &index);
	ck_assert_uint_eq(index.count, count);
	ck_assert_str_eq(index.files[stfs_index_find(&index, stfs_str_from("0000001"))], "f0");
	ck_assert_str_eq(index.files[stfs_index_find(&index, stfs_str_from("0000000"))], "f9");
	stfs_index_free(&index);
	free(items);
	free(names);
}
END_TEST

START_TEST(bounds_its_size)
{
	STFS_AUTO_BUF struct stfs_buf name = STFS_BUF_INIT;
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
	struct stfs_index_change item = {.file = "f"};
	struct stfs_err err = STFS_ERR_INIT;

	stfs_buf_fill(&name, 'x', STFS_INDEX_MAX);
	item.new_name = stfs_buf_str(&name);
	ck_assert_int_eq(stfs_index_write(stfs_str_from("{\"weight_map\":{\"a\":\"f\"}}"),
		&(struct stfs_index_changes){.items = &item, .count = 1}, &out, &err), -EINVAL);
	ck_assert_msg(strstr(err.message, "larger than"), "%s", err.message);
	ck_assert_uint_eq(out.len, 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("index_write");
	TCase *tcase = tcase_create("index_write");

	tcase_set_timeout(tcase, 120);
	tcase_add_loop_test(tcase, writes, 0, STFS_CHECK_COUNT(cases));
	tcase_add_loop_test(tcase, refuses, 0, STFS_CHECK_COUNT(bad_cases));
	tcase_add_test(tcase, repeats_no_endless_space);
	tcase_add_test(tcase, what_is_written_is_read_back);
	tcase_add_test(tcase, a_million_names);
	tcase_add_test(tcase, bounds_its_size);
	suite_add_tcase(suite, tcase);
	return stfs_check_main(suite);
}
