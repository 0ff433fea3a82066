/* SPDX-License-Identifier: MIT */
/* Comparing the tree and the model on disk with what they must be. */
#include "tree_oracle_internal.h"

#include <errno.h>
#include <string.h>

#include "base/cleanup.h"

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
	/* A block shift that failed in the middle: nobody knows where its bytes are. */
	if (got == -EIO && tree->stuck && trap.kind == CALL_FALLOCATE)
		return;
	ck_assert_msg(got == (ssize_t)f->now.len, "%s: node %u: read %zd of %zu", when, f->node, got, f->now.len);
	for (size_t i = 0; i < f->now.len && memcmp(bytes, f->now.data, f->now.len) != 0; i++)
		ck_assert_msg(bytes[i] == (unsigned char)f->now.data[i],
			      "%s: node %u (name %d) differs at byte %zu of %zu", when, f->node, f->name, i, f->now.len);
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

unsigned changes_of(const struct file *f)
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
	struct stfs_typing_view view;
	size_t want = 0;
	uint32_t number;

	busy = true;
	stfs_tree_hold(tree);
	for (int i = 0; i < NAMES; i++) {
		int r = stfs_tree_find(tree, stfs_str_from(name_text(i)), &number);

		ck_assert_uint_eq(r < 0 ? STFS_NO_NUMBER : stfs_tree_named(tree, number),
				  named(i) ? named(i)->node : STFS_NO_NUMBER);
		if (!named(i)) /* a sidecar may be there all the same */
			ck_assert_int_eq(r == 0 && stfs_tree_typing(tree, number, &view), declared[i].is);
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
bool is_model(const struct stfs_model *model, bool fresh, struct stfs_buf *why)
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
		return stfs_buf_printf(why, "bytes of %.*s (staged %d); ", (int)ref.name.len, ref.name.ptr,
				       f->staged), false;
	}
	ck_assert_int_eq(stfs_model_metadata(model, add_metadata, &has), 0);
	if (has != (fresh ? taken_metadata : disk_metadata))
		return stfs_buf_printf(why, "metadata %d; ", has), false;
	return true;
}

struct stfs_model *open_model(const char *when)
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
