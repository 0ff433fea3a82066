/* SPDX-License-Identifier: MIT */
/* Files as they must be, and operations on them. */
#include "tree_oracle_internal.h"

#include <errno.h>
#include <string.h>

#include "base/arith.h"

struct oracle_met oracle_met;
struct oracle_setup setup;
uint64_t state;
struct stfs_tree *tree;
struct file files[FILES];
struct type declared[NAMES];
bool declared_settled[NAMES], text_removed[NAMES];
int metadata, disk_metadata, taken_metadata;
bool metadata_staged, metadata_since;
uint64_t serials;
const struct stfs_commit_request *request;
const struct stfs_model *model_before;
bool noted, applied, busy;
struct trap trap;

size_t below(size_t bound)
{
	return stfs_check_below(&state, bound);
}

const char *name_text(int name)
{
	static char texts[4][20];
	static unsigned next;
	char *text = texts[next++ % 4];

	snprintf(text, sizeof(texts[0]), "s%d.w%d", name % SHARDS, name / SHARDS);
	return text;
}

struct stfs_str scratch_text(int scratch)
{
	static const char *const texts[SCRATCHES] = {".a.swp", "b~", ".c.Ab12Cd", "4913"};

	return stfs_str_from(texts[scratch]);
}

/* ---- Files ---- */

struct file *new_file(uint32_t node)
{
	struct file *f = files;

	while (f->used)
		f++;
	ck_assert(f < files + FILES);
	*f = (struct file){.used = true, .node = node, .name = -1, .scratch = -1, .was = -1};
	return f;
}

bool is_linked(const struct file *f)
{
	return f->used && (f->name >= 0 || f->scratch >= 0);
}

bool is_alive(const struct file *f)
{
	return is_linked(f) || (f->used && f->opens);
}

void free_file(struct file *f)
{
	stfs_buf_free(&f->now);
	stfs_buf_free(&f->disk);
	stfs_buf_free(&f->taken_bytes);
	*f = (struct file){0};
}

/* After its last name or its last handle has gone. */
static void let_go(struct file *f)
{
	uint32_t node = f->node;
	bool known = f->known;

	if (is_alive(f))
		return;
	f->known = false;
	if (f->was < 0 && !f->taken)
		free_file(f);
	if (known)
		stfs_tree_forget_node(tree, node, 1);
}

struct file *pick(bool (*fits)(const struct file *f))
{
	size_t first = below(FILES);

	for (size_t i = 0; i < FILES; i++)
		if (files[(first + i) % FILES].used && fits(&files[(first + i) % FILES]))
			return &files[(first + i) % FILES];
	return NULL;
}

struct file *named(int name)
{
	for (struct file *f = files; f < files + FILES; f++)
		if (f->used && f->name == name)
			return f;
	return NULL;
}

struct file *scratched(int scratch)
{
	for (struct file *f = files; f < files + FILES; f++)
		if (f->used && f->scratch == scratch)
			return f;
	return NULL;
}

void set_bytes(struct stfs_buf *to, const struct stfs_buf *from)
{
	stfs_buf_clear(to);
	if (from->len)
		ck_assert_int_eq(stfs_buf_add(to, from->data, from->len), 0);
}

/* The number of a name, which nobody knows for longer than one operation. */
static uint32_t know(int name)
{
	uint32_t number;

	ck_assert_int_eq(stfs_tree_make_name(tree, stfs_str_from(name_text(name)), &number), 0);
	return number;
}

static void forget(uint32_t number)
{
	stfs_tree_forget_name(tree, number, 1);
}

/* ---- Types ---- */

static uint64_t type_bytes(enum stfs_dtype dtype, const uint64_t *dims, size_t rank)
{
	uint64_t elements = 1, bytes = 0;

	for (size_t i = 0; i < rank; i++)
		elements *= dims[i];
	ck_assert_int_eq(stfs_dtype_bytes(dtype, elements, &bytes), 0);
	return bytes;
}

/* Most of them fit so many bytes. */
static struct type pick_type(uint64_t len)
{
	static const enum stfs_dtype dtypes[] = {STFS_U8, STFS_BF16, STFS_F32};
	struct type t = {.is = true, .dtype = dtypes[below(3)], .rank = 1, .serial = ++serials};
	uint64_t size = stfs_dtype_alignment(t.dtype);

	if (below(5) == 0)
		len = below(LEN_MOST / 2);
	if (len % size)
		t.dtype = STFS_U8, size = 1;
	t.dims[0] = len / size;
	t.dims[1] = 1;
	for (unsigned i = 0; i < 3 && t.dims[0] % 2 == 0 && t.dims[0] && below(3); i++)
		t.dims[0] /= 2, t.dims[1] *= 2, t.rank = 2;
	if (t.dims[0] == 1 && below(2))
		t.rank = t.dims[1] == 1 ? 0 : t.rank;
	t.bytes = type_bytes(t.dtype, t.dims, t.rank);
	return t;
}

static bool same_type(const struct type *a, const struct type *b)
{
	return a->dtype == b->dtype && a->rank == b->rank && memcmp(a->dims, b->dims, a->rank * sizeof(a->dims[0])) == 0;
}

enum stfs_fit fit(const struct file *f, struct type *shown)
{
	uint64_t row;

	*shown = f->own.is ? f->own : f->disk_type;
	if (!f->own.is && f->was < 0)
		return STFS_FIT_NONE;
	if (shown->bytes == f->now.len)
		return STFS_FIT_EXACT;
	if (!f->settled || !shown->rank)
		return STFS_FIT_NOT;
	row = type_bytes(shown->dtype, shown->dims + 1, shown->rank - 1);
	if (!row || f->now.len % row)
		return STFS_FIT_NOT;
	shown->dims[0] = f->now.len / row;
	shown->bytes = f->now.len;
	return STFS_FIT_ROWS;
}

static void settle(struct file *f)
{
	struct type shown;

	if (!f->settled && f->own.is)
		f->settled = fit(f, &shown) == STFS_FIT_EXACT;
}

/* ---- Names change hands ---- */

static void stage(struct file *f)
{
	f->staged = f->staged_since = f->touched_since = true;
}

static void give(struct file *f, int name)
{
	f->name = name;
	f->scratch = -1;
	f->hidden = false;
	if (declared[name].is && !f->own.is && f->was < 0) {
		f->own = declared[name];
		f->settled = declared_settled[name];
	}
	declared[name].is = text_removed[name] = false;
}

static void unname(struct file *f)
{
	f->name = f->scratch = -1;
}

bool any(const struct file *f)
{
	return is_alive(f);
}

/* A few tensors always stay: a model of shards may not lose its last one. */
static bool may_go(const struct file *f)
{
	return is_linked(f) && f->name != 0 && f->name != 1 && f->name != 2;
}

static bool is_open(const struct file *f)
{
	return f->opens > 0;
}

static bool is_closed(const struct file *f)
{
	return f->name >= 0 && !f->opens;
}

static int pick_free(void)
{
	int name = (int)below(NAMES);

	return named(name) ? -1 : name;
}

static void create(void)
{
	int name = pick_free(), scratch = (int)below(SCRATCHES);
	bool opened = below(2);
	uint32_t node, number;
	struct file *f;

	if (name >= 0 && below(4)) {
		number = know(name);
		ck_assert_int_eq(stfs_tree_create(tree, number, opened, &node), 0);
		ck_assert_int_eq(stfs_tree_create(tree, number, opened, &(uint32_t){0}), -EEXIST);
		forget(number);
		f = new_file(node);
		give(f, name);
	} else if (!scratched(scratch)) {
		ck_assert_int_eq(stfs_tree_create_scratch(tree, scratch_text(scratch), opened, &node), 0);
		f = new_file(node);
		f->scratch = scratch;
	} else {
		return;
	}
	f->opens = f->writers = opened;
	f->known = true;
	stage(f);
	if (below(2)) {
		stfs_tree_forget_node(tree, node, 1);
		f->known = false;
	}
}

void remove_file(struct file *f)
{
	struct type shown;
	uint32_t number;

	if (f->name >= 0) {
		if (fit(f, &shown) != STFS_FIT_NONE && !text_removed[f->name]) { /* its sidecar stays */
			declared[f->name] = shown;
			declared[f->name].is = true;
			declared[f->name].serial = ++serials;
			declared_settled[f->name] = f->settled;
		}
		number = know(f->name);
		ck_assert_int_eq(stfs_tree_remove(tree, number), 0);
		ck_assert_int_eq(stfs_tree_remove(tree, number), -ENOENT);
		forget(number);
	} else {
		ck_assert_int_eq(stfs_tree_remove_scratch(tree, scratch_text(f->scratch)), 0);
	}
	unname(f);
	let_go(f);
}

static void remove_some(void)
{
	struct file *f = pick(may_go);

	if (f)
		remove_file(f);
}

static void inherit(struct file *f, const struct file *old)
{
	struct type shown;

	if (f->own.is || f->was >= 0 || fit(old, &shown) == STFS_FIT_NONE)
		return;
	f->own = old->own.is ? old->own : old->disk_type;
	f->own.serial = ++serials;
	f->own.is = true;
	f->settled = old->settled;
	oracle_met.inherited++;
}

static void rename_one(void)
{
	struct file *f = pick(may_go), *old;
	int name = (int)below(NAMES);
	uint32_t number;

	if (!f)
		return;
	old = named(name);
	number = know(name);
	if (old)
		ck_assert_int_eq(stfs_tree_rename(tree, f->node, number, true), -EEXIST);
	ck_assert_int_eq(stfs_tree_rename(tree, f->node, number, false), 0);
	forget(number);
	if (old == f)
		return;
	if (old) {
		inherit(f, old);
		unname(old);
		let_go(old);
	}
	give(f, name);
}

static void rename_scratch(void)
{
	struct file *f = pick(may_go), *old;
	int scratch = (int)below(SCRATCHES);

	if (!f)
		return;
	old = scratched(scratch);
	ck_assert_int_eq(stfs_tree_rename_scratch(tree, f->node, scratch_text(scratch), false), 0);
	if (old == f)
		return;
	if (old) {
		unname(old);
		let_go(old);
	}
	unname(f);
	f->scratch = scratch;
}

static void renumber(void)
{
	struct file *f = pick(is_closed);
	uint32_t number, old;

	if (!f)
		return;
	old = f->node;
	ck_assert_int_eq(stfs_tree_renumber(tree, &f->node), 0);
	number = know(f->name);
	ck_assert_uint_eq(f->node, stfs_tree_named(tree, number));
	forget(number);
	ck_assert_uint_ne(f->node, old);
	if (f->known)
		stfs_tree_forget_node(tree, old, 1);
	f->known = false;
}

/* ---- Handles ---- */

static void open_one(void)
{
	struct file *f = pick(is_linked);
	struct file *any_file = pick(any);

	f = f ? f : any_file;
	if (!f || f->opens > 2)
		return;
	stfs_tree_hold(tree);
	stfs_tree_opened(tree, f->node);
	stfs_tree_release(tree);
	f->opens++;
	if (below(2)) {
		stfs_tree_begin_writing(tree, f->node);
		f->writers++;
	}
}

void close_file(struct file *f)
{
	if (f->writers == f->opens) {
		stfs_tree_end_writing(tree, f->node);
		if (--f->writers == 0)
			settle(f);
	}
	stfs_tree_closed(tree, f->node);
	f->opens--;
	let_go(f);
}

static void close_one(void)
{
	struct file *f = pick(is_open);

	if (f)
		close_file(f);
}

void oracle_close_files(void)
{
	for (struct file *f = files; f < files + FILES; f++)
		while (f->used && f->opens)
			close_file(f);
}

/* ---- Bytes ---- */

uint64_t pick_len(void)
{
	static const uint64_t lens[] = {0, 1, 4096, STFS_ARENA_BLOCK - 1, STFS_ARENA_BLOCK, 2 * STFS_ARENA_BLOCK};

	return below(3) ? below(below(4) ? 3000 : LEN_MOST) : lens[below(STFS_CHECK_COUNT(lens))];
}

/* Whether a write that ends there goes to the model at once. */
static bool goes_in_place(const struct file *f, uint64_t end)
{
	return tree->edit && !tree->staged && !tree->committing && !tree->nodes[f->node].content && f->was >= 0 &&
	       end <= f->now.len;
}

static void put_bytes(struct file *f, const unsigned char *bytes, size_t len, uint64_t offset, bool in_place)
{
	uint64_t end = offset + len, before = f->now.len;

	if (!len)
		return;
	if (end > before)
		ck_assert_int_eq(stfs_buf_fill(&f->now, 0, end - before), 0);
	memcpy(f->now.data + offset, bytes, len);
	f->touched_since = true;
	if (in_place)
		memcpy(f->disk.data + offset, bytes, len);
	if (end > before || tree->staged)
		stage(f);
}

unsigned char *random_bytes(size_t len)
{
	static unsigned char bytes[LEN_MOST + 8];

	for (size_t i = 0; i < len; i += 8) {
		uint64_t random = stfs_check_random(&state);

		memcpy(bytes + i, &random, 8);
	}
	return bytes;
}

static void write_one(bool zeros)
{
	struct file *f = pick(any);
	size_t len = pick_len();
	uint64_t offset;
	unsigned char *bytes;
	bool in_place;

	if (!f)
		return;
	offset = below(f->now.len + (below(4) ? 1 : 2000));
	if (below(2) && offset < f->now.len) /* within */
		len = stfs_min_u64(len, f->now.len - offset);
	if (offset + len > LEN_MOST)
		return;
	bytes = random_bytes(len);
	if (zeros)
		memset(bytes, 0, len);
	in_place = goes_in_place(f, offset + len);
	if (zeros)
		ck_assert_int_eq(stfs_tree_zero(tree, f->node, offset, len), 0);
	else
		ck_assert_int_eq(stfs_tree_write(tree, f->node, bytes, len, offset), 0);
	put_bytes(f, bytes, len, offset, in_place);
}

static void copy_one(void)
{
	static unsigned char bytes[LEN_MOST];
	struct file *from = pick(any), *to = pick(any);
	uint64_t from_at, to_at;
	size_t len = pick_len(), got;
	bool in_place;

	if (!from || from == to) /* the kernel takes no ranges that overlap */
		return;
	from_at = below(from->now.len + 1);
	to_at = below(to->now.len + 1);
	got = stfs_min_u64(len, from->now.len - from_at);
	if (to_at + got > LEN_MOST)
		return;
	if (got)
		memcpy(bytes, from->now.data + from_at, got);
	in_place = goes_in_place(to, to_at + got);
	ck_assert_int_eq(stfs_tree_copy(tree, from->node, from_at, to->node, to_at, len), (ssize_t)got);
	put_bytes(to, bytes, got, to_at, in_place);
}

static void resize_one(void)
{
	struct file *f = pick(any);
	uint64_t len = pick_len();
	bool rewrite = below(2);

	if (!f)
		return;
	if (below(4) == 0)
		len = 0;
	ck_assert_int_eq(stfs_tree_resize(tree, f->node, len, rewrite), 0);
	if (rewrite || len != f->now.len) {
		stage(f);
		f->rewritten |= len == 0;
	}
	if (len > f->now.len)
		ck_assert_int_eq(stfs_buf_fill(&f->now, 0, len - f->now.len), 0);
	f->now.len = len;
}

/* ---- Types and metadata ---- */

static void declare(void)
{
	int name = (int)below(NAMES);
	struct file *f = named(name);
	struct type t = pick_type(f ? f->now.len : below(5000));
	const struct stfs_wanted_type wanted = {t.dtype, t.dims, t.rank, t.bytes};
	uint32_t number = know(name);

	ck_assert_int_eq(stfs_tree_declare(tree, number, &wanted), 0);
	text_removed[name] = false;
	if (below(4) == 0) {
		stfs_tree_undeclare(tree, number);
		text_removed[name] = f != NULL;
		t.is = t.is && f;
	}
	forget(number);
	if (!f) {
		declared[name] = t;
		declared_settled[name] = false;
		return;
	}
	t.is = f->was < 0 || !same_type(&t, &f->disk_type);
	f->own = t;
	f->settled = !t.is;
	settle(f);
}

/* As someone who writes x.npy. */
static void adopt(void)
{
	int name = (int)below(NAMES);
	struct file *f = named(name);
	size_t skip = below(3) * 64, len = pick_len();
	struct type t = pick_type(len);
	const struct stfs_wanted_type wanted = {t.dtype, t.dims, t.rank, t.bytes};
	unsigned char *bytes = random_bytes(len + skip);
	uint32_t number, node, hidden;

	if (len + skip > LEN_MOST)
		return;
	ck_assert_int_eq(stfs_tree_create_hidden(tree, &hidden), 0);
	ck_assert_int_eq(stfs_tree_write(tree, hidden, bytes, len + skip, 0), 0);
	number = know(name);
	node = hidden;
	ck_assert_int_eq(stfs_tree_adopt(tree, number, &node, skip, &wanted), 0);
	forget(number);
	ck_assert_uint_eq(node, f ? f->node : hidden);
	stfs_tree_end_writing(tree, hidden);
	stfs_tree_closed(tree, hidden);
	if (!f) {
		f = new_file(node);
		give(f, name);
	}
	stfs_buf_clear(&f->now);
	ck_assert_int_eq(stfs_buf_add(&f->now, bytes + skip, len), 0);
	stage(f);
	f->own = t;
	f->settled = false;
	settle(f);
}

static void set_metadata(void)
{
	char text[12];
	struct stfs_header_pair pair = {.key = stfs_str_from("k")};

	metadata = (int)below(1000);
	metadata_staged = metadata_since = true;
	snprintf(text, sizeof(text), "%d", metadata);
	pair.value = stfs_str_from(text);
	ck_assert_int_eq(stfs_tree_set_metadata(tree, metadata ? &pair : NULL, metadata ? 1 : 0, NULL), 0);
}

void oracle_change(void)
{
	bool was_busy = busy;

	busy = true;
	switch (below(24)) {
	case 0: case 1: create(); break;
	case 2: remove_some(); break;
	case 3: case 4: rename_one(); break;
	case 5: rename_scratch(); break;
	case 6: case 7: open_one(); break;
	case 8: case 9: close_one(); break;
	case 10: case 11: resize_one(); break;
	case 12: write_one(true); break;
	case 13: copy_one(); break;
	case 14: case 15: declare(); break;
	case 16: adopt(); break;
	case 17: set_metadata(); break;
	case 18: renumber(); break;
	default: write_one(false); break;
	}
	busy = was_busy;
}

void oracle_changes(size_t count)
{
	for (size_t i = 0; i < count; i++) {
		oracle_change();
		if (below(8) == 0)
			oracle_check("after a change");
	}
}
