/* SPDX-License-Identifier: MIT */
#include "stfs_folder.h"
#include "tree_oracle.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/arith.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "store/tree_pending.h"

#define NAMES 15
#define SCRATCHES 4
#define FILES 160
#define SHARDS 3
#define LEN_MOST 200000

struct oracle_met oracle_met;

struct type {
	bool is;
	enum stfs_dtype dtype;
	uint64_t dims[2];
	size_t rank;
	uint64_t bytes;
	uint64_t serial;
};

/* A node as it must be. */
struct file {
	bool used, hidden, known;
	uint32_t node;
	int name, scratch; /* or -1 */
	unsigned opens, writers;
	struct stfs_buf now;
	struct type own; /* another than the model's */
	bool settled, staged;

	int was; /* its name in the model, or -1 */
	struct stfs_buf disk;
	struct type disk_type;

	/* Of a commit: */
	bool expected, taken, staged_since;
	int to; /* its name then; -1: removed */
	struct stfs_buf taken_bytes;
	struct type taken_type;
	uint64_t taken_serial;
};

static struct oracle_setup setup;
static uint64_t state;
static struct stfs_tree *tree;
static struct file files[FILES];
static struct type declared[NAMES];
static int metadata, disk_metadata, taken_metadata; /* 0: none */
static bool metadata_staged, metadata_since;
static uint64_t serials;
static const struct stfs_commit_request *request; /* while there is a commit */
static const struct stfs_model *model_before;
static bool noted, applied, busy;

static size_t below(size_t bound)
{
	return stfs_check_below(&state, bound);
}

static const char *name_text(int name)
{
	static char texts[4][20];
	static unsigned next;
	char *text = texts[next++ % 4];

	snprintf(text, sizeof(texts[0]), "s%d.w%d", name % SHARDS, name / SHARDS);
	return text;
}

static struct stfs_str scratch_text(int scratch)
{
	static const char *const texts[SCRATCHES] = {".a.swp", "b~", ".c.Ab12Cd", "4913"};

	return stfs_str_from(texts[scratch]);
}

static const char *model_path(void)
{
	return at(setup.sharded ? "m.safetensors.index.json" : "m.safetensors");
}

/* ---- Files ---- */

static struct file *new_file(uint32_t node)
{
	struct file *f = files;

	while (f->used)
		f++;
	ck_assert(f < files + FILES);
	*f = (struct file){.used = true, .node = node, .name = -1, .scratch = -1, .was = -1};
	return f;
}

static bool is_linked(const struct file *f)
{
	return f->used && (f->name >= 0 || f->scratch >= 0);
}

static bool is_alive(const struct file *f)
{
	return is_linked(f) || (f->used && f->opens);
}

static void free_file(struct file *f)
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

static struct file *pick(bool (*fits)(const struct file *f))
{
	size_t first = below(FILES);

	for (size_t i = 0; i < FILES; i++)
		if (files[(first + i) % FILES].used && fits(&files[(first + i) % FILES]))
			return &files[(first + i) % FILES];
	return NULL;
}

static struct file *named(int name)
{
	for (struct file *f = files; f < files + FILES; f++)
		if (f->used && f->name == name)
			return f;
	return NULL;
}

static struct file *scratched(int scratch)
{
	for (struct file *f = files; f < files + FILES; f++)
		if (f->used && f->scratch == scratch)
			return f;
	return NULL;
}

static void set_bytes(struct stfs_buf *to, const struct stfs_buf *from)
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

static enum stfs_fit fit(const struct file *f, struct type *shown)
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
	f->staged = f->staged_since = true;
}

static void give(struct file *f, int name)
{
	f->name = name;
	f->scratch = -1;
	f->hidden = false;
	if (declared[name].is && !f->own.is && f->was < 0) {
		f->own = declared[name];
		f->settled = false;
	}
	declared[name].is = false;
}

static void unname(struct file *f)
{
	f->name = f->scratch = -1;
}

static bool any(const struct file *f)
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

static void remove_some(void)
{
	struct file *f = pick(may_go);
	uint32_t number;

	if (!f)
		return;
	if (f->name >= 0) {
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
	ck_assert_int_eq(stfs_tree_renumber(tree, old), 0);
	number = know(f->name);
	f->node = stfs_tree_named(tree, number);
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

static void close_file(struct file *f)
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

static uint64_t pick_len(void)
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
	if (in_place)
		memcpy(f->disk.data + offset, bytes, len);
	if (end > before || tree->staged)
		stage(f);
}

static unsigned char *random_bytes(size_t len)
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
	if (rewrite || len != f->now.len)
		stage(f);
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
	if (!f && below(4) == 0) {
		stfs_tree_undeclare(tree, number);
		t.is = false;
	}
	forget(number);
	if (!f) {
		declared[name] = t;
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

/* ---- Checking ---- */

static void check_bytes(const struct file *f, const char *when)
{
	static unsigned char bytes[LEN_MOST + 1];
	struct stfs_node_view view;
	ssize_t got;

	ck_assert(stfs_tree_node(tree, f->node, &view));
	ck_assert_msg(view.len == f->now.len, "%s: node %u has %" PRIu64 " bytes, want %zu", when, f->node, view.len,
		      f->now.len);
	ck_assert_int_eq(view.linked, is_linked(f));
	ck_assert_uint_eq(view.opens, f->opens);
	got = stfs_tree_pread(tree, f->node, bytes, sizeof(bytes), 0);
	ck_assert_msg(got == (ssize_t)f->now.len, "%s: node %u: read %zd of %zu", when, f->node, got, f->now.len);
	for (size_t i = 0; i < f->now.len && memcmp(bytes, f->now.data, f->now.len) != 0; i++)
		ck_assert_msg(bytes[i] == (unsigned char)f->now.data[i], "%s: node %u (name %d) differs at byte %zu of %zu", when, f->node,
			      f->name, i, f->now.len);
}

static void check_typing(const struct file *f, const char *when)
{
	struct stfs_typing_view view;
	struct type shown;
	enum stfs_fit want = fit(f, &shown);
	STFS_AUTO_FREE uint64_t *dims = NULL;

	ck_assert(stfs_tree_typing(tree, tree->nodes[f->node].name, &view));
	ck_assert_msg(view.fit == want, "%s: name %d: fit %d, want %d", when, f->name, (int)view.fit, (int)want);
	if (want == STFS_FIT_NONE)
		return;
	dims = stfs_typing_dims(&view);
	ck_assert(view.dtype == shown.dtype && view.rank == shown.rank);
	for (size_t i = 0; i < shown.rank; i++)
		ck_assert_uint_eq(dims[i], shown.dims[i]);
}

static unsigned changes_of(const struct file *f)
{
	unsigned changes = 0;

	if (f->was < 0)
		return f->name < 0 ? 0 : STFS_CHANGE_NEW;
	if (f->name < 0)
		return STFS_CHANGE_REMOVED;
	if (f->was != f->name)
		changes |= STFS_CHANGE_RENAMED;
	return changes | (f->staged ? STFS_CHANGE_REPLACED : f->own.is ? STFS_CHANGE_RETYPED : 0);
}

struct pending_sum {
	size_t count;
	const char *when;
};

static int check_pending_one(void *data, const struct stfs_pending *pending)
{
	struct pending_sum *sum = data;
	const struct file *f = files;

	if (pending->changes == STFS_CHANGE_METADATA)
		return 0;
	while (f < files + FILES &&
	       !(f->used && changes_of(f) && stfs_str_is(pending->name, name_text(f->name < 0 ? f->was : f->name)) &&
		 (f->name < 0) == (pending->changes == STFS_CHANGE_REMOVED)))
		f++;
	ck_assert_msg(f < files + FILES, "%s: pending, but unchanged: %.*s (%x)", sum->when, (int)pending->name.len,
		      pending->name.ptr, pending->changes);
	ck_assert_msg(pending->changes == changes_of(f), "%s: %.*s: changes %x, want %x", sum->when,
		      (int)pending->name.len, pending->name.ptr, pending->changes, changes_of(f));
	sum->count++;
	return 0;
}

/* T1, T2: what the tables say of each other. */
static void check_tables(void)
{
	uint32_t ids = tree->model ? stfs_model_ids(tree->model) : 0;
	struct stfs_tensor_ref ref;
	bool good = true;

	for (uint32_t i = 0; i < tree->node_count; i++) {
		const struct stfs_node *node = &tree->nodes[i];

		if (!node->used)
			continue;
		good &= node->name == STFS_NO_NUMBER ||
			(tree->names[node->name].used && tree->names[node->name].node == i && !node->scratch);
		good &= node->id == STFS_NO_TENSOR || (node->id < ids && tree->by_id[node->id] == i);
	}
	for (uint32_t i = 0; i < tree->name_count; i++)
		good &= !tree->names[i].used || tree->names[i].node == STFS_NO_NUMBER ||
			tree->nodes[tree->names[i].node].name == i;
	for (uint32_t id = 0; id < ids; id++)
		good &= !stfs_model_tensor(tree->model, id, &ref) ||
			(tree->by_id[id] < tree->node_count && tree->nodes[tree->by_id[id]].id == id);
	ck_assert(good);
}

void oracle_check(const char *when)
{
	struct pending_sum sum = {.when = when};
	size_t want = 0;
	uint32_t number;

	busy = true;
	stfs_tree_hold(tree);
	for (int i = 0; i < NAMES; i++) {
		int r = stfs_tree_find(tree, stfs_str_from(name_text(i)), &number);

		ck_assert_uint_eq(r < 0 ? STFS_NO_NUMBER : stfs_tree_named(tree, number),
				  named(i) ? named(i)->node : STFS_NO_NUMBER);
	}
	for (int i = 0; i < SCRATCHES; i++)
		ck_assert_uint_eq(stfs_tree_scratch(tree, scratch_text(i)),
				  scratched(i) ? scratched(i)->node : STFS_NO_NUMBER);
	for (const struct file *f = files; f < files + FILES; f++) {
		if (!f->used)
			continue;
		want += changes_of(f) != 0;
		if (is_alive(f))
			check_bytes(f, when);
		if (f->name >= 0)
			check_typing(f, when);
		ck_assert_int_eq(f->was >= 0, tree->nodes[f->node].id != STFS_NO_TENSOR);
	}
	ck_assert_int_eq(stfs_tree_pending(tree, check_pending_one, &sum), 0);
	ck_assert_msg(sum.count == want, "%s: %zu are pending, want %zu", when, sum.count, want);
	check_tables();
	stfs_tree_release(tree);
	busy = false;
}

/* ---- The model on disk ---- */

static int add_metadata(void *data, struct stfs_str key, struct stfs_str value)
{
	ck_assert(stfs_str_is(key, "k"));
	*(int *)data = atoi(value.ptr);
	return 0;
}

/* Which file is this tensor of the old model, or the new one? */
static const struct file *find_on_disk(struct stfs_str name, bool fresh)
{
	for (const struct file *f = files; f < files + FILES; f++) {
		int is = fresh && f->taken ? f->to : f->was;

		if (f->used && is >= 0 && stfs_str_is(name, name_text(is)))
			return f;
	}
	return NULL;
}

static bool is_same(const unsigned char *bytes, const struct stfs_buf *want, uint64_t len)
{
	return len == want->len && (!len || memcmp(bytes, want->data, len) == 0);
}

/* Whether the model is the old one, or that which the commit under way was to make. */
static bool is_model(struct stfs_model *model, bool fresh, struct stfs_buf *why)
{
	static unsigned char bytes[LEN_MOST + 1];
	struct stfs_tensor_ref ref;
	int has = 0;
	size_t count = 0;

	for (const struct file *f = files; f < files + FILES; f++)
		count += f->used && (fresh && f->taken ? f->to : f->was) >= 0;
	if (count != model->shown)
		return stfs_buf_printf(why, "%u tensors, want %zu; ", model->shown, count), false;
	for (uint32_t id = 0; id < stfs_model_ids(model); id++) {
		const struct file *f;
		STFS_AUTO_FREE uint64_t *dims = NULL;
		const struct type *type;

		if (!stfs_model_tensor(model, id, &ref))
			continue;
		f = find_on_disk(ref.name, fresh);
		if (!f)
			return stfs_buf_printf(why, "%.*s; ", (int)ref.name.len, ref.name.ptr), false;
		type = fresh && f->taken ? &f->taken_type : &f->disk_type;
		dims = stfs_model_shape(&ref);
		if ((enum stfs_dtype)ref.tensor->dtype != type->dtype || ref.tensor->rank != type->rank ||
		    memcmp(dims, type->dims, type->rank * sizeof(*dims)) != 0)
			return stfs_buf_printf(why, "type of %.*s; ", (int)ref.name.len, ref.name.ptr), false;
		ck_assert_int_eq(stfs_model_pread(model, &ref, bytes, sizeof(bytes), 0), (ssize_t)ref.len);
		if (is_same(bytes, fresh && f->taken ? &f->taken_bytes : &f->disk, ref.len))
			continue;
		/* Writes that wait for no commit get there when they can. */
		if (!f->staged && !(fresh && f->staged_since) && is_same(bytes, &f->now, ref.len))
			continue;
		return stfs_buf_printf(why, "bytes of %.*s; ", (int)ref.name.len, ref.name.ptr), false;
	}
	ck_assert_int_eq(stfs_model_metadata(model, add_metadata, &has), 0);
	if (has != (fresh ? taken_metadata : disk_metadata))
		return stfs_buf_printf(why, "metadata %d; ", has), false;
	return true;
}

static struct stfs_model *open_model(const char *when)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_model *model;
	int r = stfs_model_open(model_path(), 0, &model, &err);

	ck_assert_msg(r == 0, "%s: %s", when, err.message);
	ck_assert_uint_eq(model->findings.count, 0);
	return model;
}

void oracle_check_disk(const char *when)
{
	STFS_AUTO_BUF struct stfs_buf why = STFS_BUF_INIT;
	struct stfs_model *model;

	if (setup.mode == STFS_TREE_CREATE && !tree->model)
		return;
	busy = true;
	model = open_model(when);
	ck_assert_msg(is_model(model, false, &why), "%s: %s", when, stfs_buf_cstr(&why));
	stfs_model_close(model);
	busy = false;
}

/* ---- What a commit has to take: docs/writing.md, "A commit" ---- */

static bool is_asked(const struct file *f)
{
	for (size_t i = 0; i < request->count; i++)
		if (request->nodes[i] == f->node)
			return true;
	return false;
}

static bool is_removable(const struct file *f)
{
	if (request->end || f->scratch >= 0 || tree->nodes[f->node].detached)
		return true;
	return !f->opens || request->all;
}

static bool is_evacuated(const struct file *f)
{
	return !request->end && f->was >= 0 && f->name < 0 && !tree->nodes[f->node].detached &&
	       (f->scratch >= 0 || (f->opens && request->all));
}

/* Whether it has no reason of its own against it, and the type that it will have. */
static bool is_ready(struct file *f)
{
	unsigned changes = changes_of(f);
	bool asked = request->all || request->end || is_asked(f);
	enum stfs_fit how = fit(f, &f->taken_type);

	if (changes == STFS_CHANGE_REMOVED)
		return is_removable(f);
	if (!(changes & (STFS_CHANGE_NEW | STFS_CHANGE_REPLACED | STFS_CHANGE_RETYPED)))
		return true;
	if (changes & (STFS_CHANGE_NEW | STFS_CHANGE_REPLACED) && f->writers && !is_asked(f) && !request->end)
		return false;
	if ((how == STFS_FIT_NONE && !asked) || (how == STFS_FIT_NOT && !request->end))
		return false;
	if (how == STFS_FIT_NOT && !(changes & (STFS_CHANGE_NEW | STFS_CHANGE_REPLACED)))
		f->taken_type = f->disk_type;
	else if (how == STFS_FIT_NONE || how == STFS_FIT_NOT)
		f->taken_type = (struct type){.is = true, .dtype = STFS_U8, .rank = 1, .dims = {f->now.len},
					      .bytes = f->now.len};
	return true;
}

/* Who is in the model under the name that it wants, or that its heir leaves to it. */
static bool is_blocked(const struct file *f)
{
	const struct file *heir = f->name < 0 ? named(f->was) : NULL;

	if (f->name < 0)
		return heir && !heir->expected;
	for (const struct file *g = files; g < files + FILES; g++)
		if (g->used && g != f && g->was == f->name && !g->expected)
			return true;
	return false;
}

static void expect(void)
{
	bool again = true;

	for (struct file *f = files; f < files + FILES; f++) {
		f->taken = false;
		if (f->used && is_evacuated(f)) {
			oracle_met.evacuated++;
			if (!f->own.is) {
				f->own = f->disk_type;
				f->own.is = true;
				f->own.serial = ++serials;
			}
		}
		f->expected = f->used && changes_of(f) && is_ready(f);
		/* When no more than the type is wanted and it does not fit, nothing is left to take. */
		if (f->expected && changes_of(f) == STFS_CHANGE_RETYPED && fit(f, &(struct type){0}) == STFS_FIT_NOT)
			f->expected = false;
	}
	while (again) {
		again = false;
		for (struct file *f = files; f < files + FILES; f++) {
			if (!f->expected || !is_blocked(f))
				continue;
			f->expected = false;
			oracle_met.blocked++;
			again = true;
		}
	}
}

/* At the first call of a commit that has begun: T3, what it has taken is what is there now. */
static void note(void)
{
	noted = true;
	for (struct file *f = files; f < files + FILES; f++) {
		if (!f->used)
			continue;
		f->taken = tree->nodes[f->node].taking != NULL;
		ck_assert_msg(f->taken == f->expected, "node %u (name %d, in the model %d) taken: %d, want %d", f->node,
			      f->name, f->was, f->taken, f->expected);
		oracle_met.taken += f->taken;
		oracle_met.left_out += !f->taken && changes_of(f);
		f->staged_since = false;
		f->to = f->name;
		f->taken_serial = f->own.is ? f->own.serial : 0;
		if (f->taken)
			set_bytes(&f->taken_bytes, f->was >= 0 && !f->staged ? &f->disk : &f->now);
	}
	taken_metadata = metadata_staged ? metadata : disk_metadata;
	metadata_since = false;
}

/* The commit has been done: its model is that of the directory. */
static void apply(void)
{
	for (struct file *f = files; f < files + FILES; f++) {
		if (!f->used || !f->taken)
			continue;
		f->taken = false;
		f->was = f->to;
		f->staged = f->staged_since;
		if (f->to < 0) {
			stfs_buf_clear(&f->disk);
			if (!is_alive(f))
				free_file(f);
			continue;
		}
		set_bytes(&f->disk, &f->taken_bytes);
		f->disk_type = f->taken_type;
		if (f->own.is && f->own.serial == f->taken_serial)
			f->own.is = false;
		f->settled |= !f->own.is;
	}
	disk_metadata = taken_metadata;
	metadata_staged = metadata_since;
	applied = true;
	oracle_met.commits++;
}

/* What waited for nothing but the commit to end is in the model now. */
static void drained(void)
{
	for (struct file *f = files; f < files + FILES; f++)
		if (is_alive(f) && f->was >= 0 && !tree->nodes[f->node].content)
			set_bytes(&f->disk, &f->now);
}

/* ---- Calls ---- */

static struct stfs_io calls;
static struct {
	bool armed, for_ever, hit;
	enum oracle_call kind;
	size_t count_down;
	int with_errno;
} trap;

static void disturb(void)
{
	if (!setup.midway || request->end || pthread_rwlock_trywrlock(&tree->lock) != 0)
		return;
	pthread_rwlock_unlock(&tree->lock);
	for (size_t n = below(3); n > 0; n--) {
		oracle_met.midway++;
		oracle_change();
	}
	if (below(6) == 0) {
		oracle_check("in the middle of a commit");
	}
}

/* A call of a commit: whether it fails. */
static bool fails(enum oracle_call kind)
{
	if (busy || !request)
		return false;
	if (tree->committing && !noted)
		note();
	if (noted && !applied && tree->model != model_before)
		apply();
	if (noted && below(4) == 0)
		disturb();
	if (!trap.armed || trap.kind != kind || (trap.count_down > 1 && trap.count_down--) ||
	    (trap.count_down == 0 && !trap.for_ever))
		return false;
	trap.count_down = 0;
	trap.hit = true;
	errno = trap.with_errno;
	return true;
}

static ssize_t trap_pread(int fd, void *buffer, size_t len, off_t offset)
{
	return fails(CALL_PREAD) ? -1 : pread(fd, buffer, len, offset);
}

static ssize_t trap_pwrite(int fd, const void *bytes, size_t len, off_t offset)
{
	return fails(CALL_PWRITE) ? -1 : pwrite(fd, bytes, len, offset);
}

static ssize_t trap_copy(int from, off_t *from_at, int to, off_t *to_at, size_t len, unsigned flags)
{
	return fails(CALL_COPY) ? -1 : copy_file_range(from, from_at, to, to_at, len, flags);
}

static int trap_fsync(int fd)
{
	return fails(CALL_FSYNC) ? -1 : fsync(fd);
}

static int trap_ftruncate(int fd, off_t len)
{
	return fails(CALL_FTRUNCATE) ? -1 : ftruncate(fd, len);
}

static int trap_fallocate(int fd, int mode, off_t offset, off_t len)
{
	return fails(CALL_FALLOCATE) ? -1 : fallocate(fd, mode, offset, len);
}

static int trap_openat(int folder, const char *name, int flags, mode_t mode)
{
	return fails(CALL_OPENAT) ? -1 : openat(folder, name, flags, mode);
}

static int trap_renameat2(int old_folder, const char *old_name, int folder, const char *name, unsigned flags)
{
	return fails(CALL_RENAMEAT2) ? -1 : renameat2(old_folder, old_name, folder, name, flags);
}

static int trap_unlinkat(int folder, const char *name, int flags)
{
	return fails(CALL_UNLINKAT) ? -1 : unlinkat(folder, name, flags);
}

static void *trap_mmap(void *address, size_t len, int prot, int flags, int fd, off_t offset)
{
	return fails(CALL_MMAP) ? MAP_FAILED : mmap(address, len, prot, flags, fd, offset);
}

void oracle_arm(enum oracle_call kind, size_t number, int with_errno, bool for_ever)
{
	trap.armed = true;
	trap.hit = false;
	trap.kind = kind;
	trap.count_down = number;
	trap.with_errno = with_errno;
	trap.for_ever = for_ever;
}

bool oracle_disarm(void)
{
	trap.armed = false;
	return trap.hit;
}

/* ---- Commits ---- */

static int commit(const struct stfs_commit_request *what)
{
	struct stfs_commit_report report;
	struct stfs_err err = STFS_ERR_INIT;
	size_t count = 0;
	int r;

	request = what;
	model_before = tree->model;
	noted = applied = false;
	if (!tree->stuck && tree->edit)
		expect();
	for (const struct file *f = files; f < files + FILES; f++)
		count += f->used && f->expected;
	r = stfs_tree_commit(tree, what, &report, &err);
	request = NULL;
	ck_assert_msg(r == 0 || trap.hit, "commit: %d: %s", r, err.message);
	ck_assert_int_eq(err.code < 0, r < 0 || report.refused);
	if (tree->edit && tree->model != model_before && !applied) {
		ck_assert(noted);
		apply();
	}
	ck_assert(applied || r < 0 || !tree->edit || count == 0);
	oracle_met.failed += r < 0;
	if (r == 0 && tree->edit) {
		ck_assert_uint_eq(report.listed, noted ? count : 0);
		metadata_staged &= noted;
	}
	stfs_commit_report_free(&report);
	if (tree->edit)
		drained();
	if (tree->stuck)
		return r;
	for (struct file *f = files; f < files + FILES; f++) {
		f->taken = false;
		if (f->used && r < 0 && !tree->nodes[f->node].type) /* it was not evacuated */
			f->own.is = false;
		if (f->used && f->was < 0 && !is_alive(f)) /* it was removed while it was taken */
			free_file(f);
	}
	return r;
}

int oracle_commit(bool end)
{
	struct stfs_commit_request what = {.all = end || below(2), .end = end};
	uint32_t nodes[3];
	bool left_out[3];
	struct file *asked[3];

	what.nodes = nodes;
	what.left_out = left_out;
	for (size_t n = end ? 0 : below(3); what.count < n; what.count++) {
		asked[what.count] = pick(any);
		if (!asked[what.count])
			break;
		nodes[what.count] = asked[what.count]->node;
		left_out[what.count] = false;
	}
	return commit(&what);
}

/* ---- Opening and closing ---- */

static void bind_files(void)
{
	uint32_t number;

	for (struct file *f = files; f < files + FILES; f++) {
		if (!f->used)
			continue;
		if (f->was < 0) {
			free_file(f);
			continue;
		}
		f->name = f->was;
		f->scratch = -1;
		f->opens = f->writers = 0;
		f->own.is = f->staged = f->known = f->taken = false;
		f->settled = true;
		set_bytes(&f->now, &f->disk);
		ck_assert_int_eq(stfs_tree_find(tree, stfs_str_from(name_text(f->name)), &number), 0);
		f->node = stfs_tree_named(tree, number);
		ck_assert_uint_ne(f->node, STFS_NO_NUMBER);
	}
	for (int i = 0; i < NAMES; i++)
		declared[i].is = false;
	metadata = disk_metadata;
	metadata_staged = false;
}

static void open_tree(void)
{
	bool there = access(model_path(), F_OK) == 0;
	const struct stfs_tree_options options = {
		.path = model_path(), .staged = setup.staged,
		.mode = setup.mode == STFS_TREE_CREATE && there ? STFS_TREE_RW : setup.mode};
	struct stfs_err err = STFS_ERR_INIT;

	ck_assert_msg(stfs_tree_open(&options, &tree, &err) == 0, "%s", err.message);
	bind_files();
	oracle_check("opened");
}

void oracle_reopen(void)
{
	stfs_tree_close(tree);
	open_tree();
	oracle_check_disk("reopened");
}

void oracle_recover(void)
{
	STFS_AUTO_BUF struct stfs_buf why = STFS_BUF_INIT;
	enum stfs_recovered what;
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_model *model;
	bool fresh;
	struct stfs_tensor_ref ref;

	oracle_met.stuck++;
	stfs_tree_close(tree);
	busy = true;
	ck_assert_msg(stfs_recover(model_path(), 0, &what, &err) == 0, "%s", err.message);
	model = open_model("recovered");
	fresh = !is_model(model, false, &why);
	oracle_met.recovered_old += !fresh;
	ck_assert_msg(!fresh || is_model(model, true, &why), "neither old nor new: %s", stfs_buf_cstr(&why));
	if (fresh)
		apply();
	/* What was to be written in place may be there, or not. */
	for (uint32_t id = 0; id < stfs_model_ids(model); id++) {
		if (!stfs_model_tensor(model, id, &ref))
			continue;
		for (struct file *f = files; f < files + FILES; f++)
			if (f->used && f->was >= 0 && stfs_str_is(ref.name, name_text(f->was)))
				ck_assert_int_eq(stfs_model_pread(model, &ref, f->disk.data, f->disk.len, 0),
						 (ssize_t)f->disk.len);
	}
	stfs_model_close(model);
	busy = false;
	open_tree();
	oracle_check_disk("recovered");
}

/* A file of every `step`-th name from `first` on. */
static void make_file(const char *name, int first, int step, struct stfs_buf *index)
{
	struct stfs_err err = STFS_ERR_INIT;
	int fd = memfd_create("bytes", MFD_CLOEXEC);
	struct stfs_edit *edit;
	uint64_t offset = 0;

	ck_assert_msg(stfs_edit_create(at(name), 0, &edit, &err) == 0, "%s", err.message);
	for (int i = first; i < NAMES - 2; i += step) {
		struct file *f = new_file(0);
		uint64_t len = pick_len();

		f->was = i;
		f->disk_type = (struct type){.is = true, .dtype = STFS_U8, .rank = 1, .dims = {len}, .bytes = len};
		ck_assert_int_eq(stfs_buf_add(&f->disk, random_bytes(len), len), 0);
		ck_assert_int_eq(pwrite(fd, f->disk.data, len, (off_t)offset), (ssize_t)len);
		ck_assert_int_eq(stfs_edit_put(edit, stfs_str_from(name_text(i)), STFS_U8, &len, 1,
					       (struct stfs_source){.fd = fd, .offset = offset}, &err), 0);
		offset += len;
		stfs_buf_printf(index, "%s\"%s\":\"%s\"", index->len ? "," : "", name_text(i), name);
	}
	ck_assert_msg(stfs_edit_commit(edit, NULL, NULL, &err) == 0, "%s", err.message);
	stfs_edit_close(edit);
	close(fd);
}

static void make_model(void)
{
	STFS_AUTO_BUF struct stfs_buf index = STFS_BUF_INIT;
	char name[40];
	FILE *file;

	if (!setup.sharded) {
		make_file("m.safetensors", 0, 1, &index);
		return;
	}
	for (int shard = 0; shard < SHARDS; shard++) {
		snprintf(name, sizeof(name), "m-%d.safetensors", shard);
		make_file(name, shard, SHARDS, &index);
	}
	file = fopen(model_path(), "we");
	ck_assert_ptr_nonnull(file);
	fprintf(file, "{\"weight_map\":{%s}}", stfs_buf_cstr(&index));
	ck_assert_int_eq(fclose(file), 0);
}

void oracle_begin(const struct oracle_setup *wanted)
{
	setup = *wanted;
	state = setup.seed;
	memset(files, 0, sizeof(files));
	memset(declared, 0, sizeof(declared));
	memset(&trap, 0, sizeof(trap));
	metadata = disk_metadata = 0;
	metadata_staged = busy = false;
	make_folder("tree");
	calls = stfs_io_system;
	calls.pread = trap_pread;
	calls.pwrite = trap_pwrite;
	calls.copy_file_range = trap_copy;
	calls.fsync = trap_fsync;
	calls.ftruncate = trap_ftruncate;
	calls.fallocate = trap_fallocate;
	calls.openat = trap_openat;
	calls.renameat2 = trap_renameat2;
	calls.unlinkat = trap_unlinkat;
	calls.mmap = trap_mmap;
	stfs_io = &calls;
	if (setup.mode != STFS_TREE_CREATE)
		make_model();
	open_tree();
	oracle_check_disk("opened");
}

void oracle_end(void)
{
	stfs_tree_close(tree);
	tree = NULL;
	for (struct file *f = files; f < files + FILES; f++)
		free_file(f);
	remove_folder();
}

struct stfs_tree *oracle_tree(void)
{
	return tree;
}
