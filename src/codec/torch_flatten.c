/* SPDX-License-Identifier: MIT */
/*
 * From nested values to a list of names. The walk keeps its own stack; a container that stands on it
 * already is a cycle and left out, and one that is met again elsewhere is walked again, which is what
 * the budget of steps bounds.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>

#include "codec/grow.h"
#include "codec/torch_internal.h"

enum mode { MODE_PAIRS, MODE_ITEMS, MODE_TUPLE, MODE_LIST_OF_PAIRS };

struct frame {
	uint32_t value;
	uint32_t index;                /* items so far */
	struct stfs_pickle_walk walk;  /* of all modes but MODE_TUPLE */
	uint32_t name_len;             /* of the container's name */
	uint8_t mode;
	bool owns; /* of `on_path`: the frame that put the value there */
	bool outermost; /* its items' names begin with their keys, without a dot */
};

struct flattening {
	struct stfs_torch *torch;
	struct stfs_err *err;
	struct stfs_buf name, text, why;
	struct frame frames[STFS_TORCH_DEPTH_MAX + 2];
	uint32_t depth;
	uint8_t *on_path; /* owned; a bit a value */
	uint8_t *seen;    /* owned; a bit a value that is a tensor which was added */
	bool leaves_full; /* once one did not fit, none is kept */
	uint64_t steps, steps_max;
	uint64_t work, work_max; /* bytes of names put together */
	struct stfs_torch_build build;
};

static bool get_bit(const uint8_t *bits, uint32_t number)
{
	return bits[number / 8] >> number % 8 & 1;
}

static void set_bit(uint8_t *bits, uint32_t number, bool to)
{
	bits[number / 8] = (uint8_t)((bits[number / 8] & ~(1u << number % 8)) | (unsigned)to << number % 8);
}

/* ---- Remarks ---- */

int stfs_torch_remark_str(struct stfs_torch *torch, struct stfs_torch_remarks *remarks,
			  struct stfs_str name, struct stfs_str text)
{
	struct stfs_torch_remark remark;
	int r;

	if (remarks != &torch->leaves &&
	    (remarks->count == STFS_TORCH_REMARKS_MAX ||
	     remarks->bytes + name.len + text.len > STFS_TORCH_REMARKS_BYTES_MAX)) {
		remarks->more++;
		return 0;
	}
	r = stfs_grow(&remarks->items, &remarks->cap, remarks->count, 1, sizeof(remark));
	if (r == 0)
		r = stfs_texts_keep(&torch->texts, name, &remark.name);
	if (r == 0)
		r = stfs_texts_keep(&torch->texts, text, &remark.text);
	if (r == 0)
		remarks->items[remarks->count++] = remark;
	remarks->bytes += name.len + text.len;
	return r;
}

int stfs_torch_remark(struct stfs_torch *torch, struct stfs_torch_remarks *remarks, struct stfs_str name,
		      const char *format, ...)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	va_list args;
	int r;

	va_start(args, format);
	r = stfs_buf_vprintf(&text, format, args);
	va_end(args);
	return r < 0 ? r : stfs_torch_remark_str(torch, remarks, name, stfs_buf_str(&text));
}

/* The name so far; that of the whole is `alone`. */
static struct stfs_str name_or(const struct flattening *f, const char *alone)
{
	return f->depth ? stfs_buf_str(&f->name) : stfs_str_from(alone);
}

/* ---- Tensors ---- */

static int too_many_names(struct flattening *f, uint32_t at)
{
	return stfs_err_set(f->err, -EFBIG, stfs_torch_file_at(f->torch, at), "its values repeat each other so often "
			    "that their names would not fit into a header (%u bytes)", STFS_TORCH_NAMES_MAX);
}

static int add_tensor(struct flattening *f, struct stfs_str name)
{
	struct stfs_torch *torch = f->torch;
	enum stfs_element_form form;
	int r = 0;

	torch->name_bytes += name.len + 1;
	if (torch->name_bytes > STFS_TORCH_NAMES_MAX)
		return too_many_names(f, f->build.at);
	if (f->build.refusal)
		return stfs_torch_remark_str(torch, &torch->refused, name, stfs_str_from(f->build.refusal));
	form = (enum stfs_element_form)f->build.element->form;
	if (form == STFS_ELEMENT_BITS)
		return stfs_torch_remark(torch, &torch->refused, name, "no dtype of safetensors is torch.%s",
					 f->build.element->name);
	if (form == STFS_ELEMENT_QUANTIZED)
		return stfs_torch_remark_str(torch, &torch->refused, name,
					     stfs_str_from(STFS_TORCH_QUANTIZED));
	if (form == STFS_ELEMENT_PAIR)
		r = stfs_torch_remark(torch, &torch->notes, name, "torch.%s: kept as %s with a last "
				      "dimension of 2, the real and the imaginary part", f->build.element->name,
				      stfs_dtype_info((enum stfs_dtype)f->build.element->dtype)->name);
	return r < 0 ? r : stfs_torch_add_tensor(torch, name, &f->build, f->err);
}

/* One part of a sparse tensor. */
static int add_part(struct flattening *f, uint32_t value, const char *part)
{
	struct stfs_str whole = name_or(f, "tensor");
	int r;

	stfs_buf_clear(&f->text);
	stfs_buf_add_str(&f->text, whole);
	r = stfs_buf_printf(&f->text, ".%s", part);
	if (r == 0)
		r = stfs_torch_describe(f->torch, value, &f->build, f->err);
	if (r == 0 && (f->build.refusal || f->build.sparse != STFS_NO_VALUE))
		r = stfs_torch_fail(f->torch, f->build.at, f->err, "a sparse tensor made of no plain ones");
	if (r < 0)
		return r;
	set_bit(f->seen, f->build.made_by, true);
	return add_tensor(f, stfs_buf_str(&f->text));
}

/* The layouts and the names of their parts (torch/_utils.py, _rebuild_sparse_tensor). */
static const struct layout {
	const char *name, *parts[3];
} layouts[] = {
	{"torch.sparse_coo", {"indices", "values"}},
	{"torch.sparse_csr", {"crow_indices", "col_indices", "values"}},
	{"torch.sparse_csc", {"ccol_indices", "row_indices", "values"}},
	{"torch.sparse_bsr", {"crow_indices", "col_indices", "values"}},
	{"torch.sparse_bsc", {"ccol_indices", "row_indices", "values"}},
};
#define LAYOUTS (sizeof(layouts) / sizeof(layouts[0]))

static const struct layout *find_layout(struct flattening *f, uint32_t value)
{
	size_t i = 0;

	stfs_buf_clear(&f->text);
	stfs_buf_clear(&f->why);
	if (!stfs_pickle_is(&f->torch->pickle, value, STFS_PICKLE_CALL) ||
	    stfs_torch_leaf_text(f->torch, value, &f->text, &f->why) < 0)
		return NULL;
	while (i < LAYOUTS && !stfs_str_is(stfs_buf_str(&f->text), layouts[i].name))
		i++;
	return i < LAYOUTS ? &layouts[i] : NULL;
}

/* _rebuild_sparse_tensor(layout, (parts..., size[, is_coalesced])) */
static int add_sparse(struct flattening *f, uint32_t value)
{
	const struct stfs_pickle *pickle = &f->torch->pickle;
	uint32_t at = stfs_pickle_at(pickle, value)->at, count, data_count, parts = 0;
	const uint32_t *args = stfs_pickle_tuple(pickle, stfs_pickle_called(pickle, value)->args, &count);
	const uint32_t *data = count == 2 ? stfs_pickle_tuple(pickle, args[1], &data_count) : NULL;
	const struct layout *layout = data ? find_layout(f, args[0]) : NULL;
	int r = 0;

	while (layout && parts < 3 && layout->parts[parts])
		parts++;
	if (!layout || data_count < parts + 1 || data_count > parts + 2 ||
	    !stfs_pickle_is(pickle, data[parts], STFS_PICKLE_CALL))
		return stfs_torch_fail(f->torch, at, f->err, "a sparse tensor of no known layout");
	for (uint32_t i = 0; r == 0 && i < parts; i++)
		r = add_part(f, data[i], layout->parts[i]);
	if (r < 0)
		return r;
	stfs_buf_clear(&f->text);
	stfs_buf_clear(&f->why);
	r = stfs_torch_leaf_text(f->torch, data[parts], &f->text, &f->why);
	if (r == -ENOENT)
		return stfs_torch_fail(f->torch, at, f->err, "a sparse tensor without a shape");
	if (r < 0)
		return r;
	return stfs_torch_remark(f->torch, &f->torch->notes, name_or(f, "tensor"),
				 "%s of shape %s: kept as its parts", layout->name,
				 stfs_buf_cstr(&f->text) ? f->text.data : "?");
}

static int visit_tensor(struct flattening *f, uint32_t value)
{
	int r = stfs_torch_describe(f->torch, value, &f->build, f->err);

	if (r < 0)
		return r;
	set_bit(f->seen, f->build.made_by, true);
	if (f->build.sparse != STFS_NO_VALUE)
		return add_sparse(f, f->build.sparse);
	return add_tensor(f, name_or(f, "tensor"));
}

/* ---- Leaves ---- */

#define NO_ROOM "there are more values than metadata should hold"

static int visit_leaf(struct flattening *f, uint32_t value)
{
	struct stfs_torch *torch = f->torch;
	struct stfs_str name = name_or(f, "value");
	int r;

	if (f->leaves_full)
		return stfs_torch_remark_str(torch, &torch->left_out, name, stfs_str_from(NO_ROOM));
	stfs_buf_clear(&f->text);
	stfs_buf_clear(&f->why);
	if (stfs_pickle_is(&torch->pickle, value, STFS_PICKLE_STR) &&
	    stfs_pickle_text(&torch->pickle, value).len > STFS_TORCH_TEXT_MAX &&
	    !stfs_str_starts_with(name, STFS_TORCH_METADATA "."))
		return stfs_torch_remark(torch, &torch->left_out, name, "a text of %zu bytes",
					 stfs_pickle_text(&torch->pickle, value).len);
	r = stfs_torch_leaf_text(torch, value, &f->text, &f->why);
	if (r == -ENOENT)
		return stfs_torch_remark_str(torch, &torch->left_out, name, stfs_buf_str(&f->why));
	if (r < 0)
		return r;
	f->leaves_full = torch->leaf_bytes + name.len + f->text.len > STFS_TORCH_LEAVES_MAX;
	if (f->leaves_full)
		return stfs_torch_remark_str(torch, &torch->left_out, name, stfs_str_from(NO_ROOM));
	torch->leaf_bytes += name.len + f->text.len;
	return stfs_torch_remark_str(torch, &torch->leaves, name, stfs_buf_str(&f->text));
}

/* ---- Containers ---- */

static int push(struct flattening *f, uint32_t value, enum mode mode, const struct stfs_pickle_list *list)
{
	const struct stfs_pickle_value *v = stfs_pickle_at(&f->torch->pickle, value);

	if (f->depth > STFS_TORCH_DEPTH_MAX)
		return stfs_torch_fail(f->torch, v->at, f->err, "values are nested deeper than %u levels",
				       STFS_TORCH_DEPTH_MAX);
	f->frames[f->depth] = (struct frame){
		.value = value, .mode = (uint8_t)mode, .name_len = (uint32_t)f->name.len,
		.owns = !get_bit(f->on_path, value), .outermost = f->depth == 0};
	if (list)
		f->frames[f->depth].walk = stfs_pickle_walk_from(list);
	set_bit(f->on_path, value, true);
	f->depth++;
	return 0;
}

/* The argument that a container was made from: OrderedDict([[key, value], ...]), Counter({...}). */
static int push_argument(struct flattening *f, const struct stfs_pickle_call *call, enum mode mode)
{
	const struct stfs_pickle *pickle = &f->torch->pickle;
	uint32_t count;
	const uint32_t *args = stfs_pickle_tuple(pickle, call->args, &count);
	/* The first argument of a defaultdict makes values. */
	uint32_t made_from = count == 0 ? STFS_NO_VALUE :
			     stfs_pickle_is(pickle, args[0], STFS_PICKLE_GLOBAL) && count > 1 ? args[1] : args[0];
	bool is_dict = stfs_pickle_is(pickle, made_from, STFS_PICKLE_DICT);
	int r;

	if (!is_dict && !stfs_pickle_is(pickle, made_from, STFS_PICKLE_LIST))
		return 0;
	if (get_bit(f->on_path, made_from) || (is_dict && mode == MODE_ITEMS))
		return 0;
	r = push(f, made_from, is_dict ? MODE_PAIRS : mode == MODE_PAIRS ? MODE_LIST_OF_PAIRS : MODE_ITEMS,
		 &pickle->lists[stfs_pickle_at(pickle, made_from)->as.list]);
	if (r == 0)
		f->frames[f->depth - 1].outermost = f->frames[f->depth - 2].outermost;
	return r;
}

static int push_call(struct flattening *f, uint32_t value)
{
	const struct stfs_pickle_call *call = stfs_pickle_called(&f->torch->pickle, value);
	bool is_dict = stfs_torch_meaning(f->torch, value) == STFS_MEANS_DICT;
	int r = push(f, value, is_dict ? MODE_PAIRS : MODE_ITEMS, is_dict ? &call->pairs : &call->appended);

	return r < 0 ? r : push_argument(f, call, is_dict ? MODE_PAIRS : MODE_ITEMS);
}

static bool is_container(const struct stfs_torch *torch, uint32_t value)
{
	enum stfs_meaning meaning;

	switch ((enum stfs_pickle_kind)stfs_pickle_at(&torch->pickle, value)->kind) {
	case STFS_PICKLE_TUPLE: case STFS_PICKLE_LIST: case STFS_PICKLE_DICT: return true;
	case STFS_PICKLE_CALL:
		meaning = stfs_torch_meaning(torch, value);
		return meaning == STFS_MEANS_DICT || meaning == STFS_MEANS_LIST;
	case STFS_PICKLE_NONE: case STFS_PICKLE_BOOL: case STFS_PICKLE_INT: case STFS_PICKLE_LONG:
	case STFS_PICKLE_FLOAT: case STFS_PICKLE_STR: case STFS_PICKLE_BYTES: case STFS_PICKLE_SET:
	case STFS_PICKLE_GLOBAL: case STFS_PICKLE_PERSISTENT: break;
	}
	return false;
}

static int visit(struct flattening *f, uint32_t value)
{
	const struct stfs_pickle_value *v = stfs_pickle_at(&f->torch->pickle, value);

	if (stfs_torch_is_tensor(f->torch, value))
		return visit_tensor(f, value);
	if (!is_container(f->torch, value))
		return visit_leaf(f, value);
	if (get_bit(f->on_path, value))
		return stfs_torch_remark_str(f->torch, &f->torch->left_out, name_or(f, "value"),
					     stfs_str_from("it contains itself"));
	if (v->kind == STFS_PICKLE_CALL)
		return push_call(f, value);
	if (v->kind == STFS_PICKLE_TUPLE)
		return push(f, value, MODE_TUPLE, NULL);
	return push(f, value, v->kind == STFS_PICKLE_DICT ? MODE_PAIRS : MODE_ITEMS,
		    &f->torch->pickle.lists[v->as.list]);
}

/* ---- The walk ---- */

/* Key and value of a pair that stands as a tuple or list of two. False when it is none. */
static bool split_pair(const struct stfs_pickle *pickle, uint32_t pair, uint32_t *key, uint32_t *value)
{
	struct stfs_pickle_walk walk;
	const uint32_t *items, *second;
	uint32_t count;

	if (stfs_pickle_is(pickle, pair, STFS_PICKLE_LIST)) {
		walk = stfs_pickle_walk_from(&pickle->lists[stfs_pickle_at(pickle, pair)->as.list]);
		items = stfs_pickle_step(pickle, &walk);
		second = items ? stfs_pickle_step(pickle, &walk) : NULL;
		if (!second)
			return false;
		*key = *items;
		*value = *second;
		return true;
	}
	items = stfs_pickle_tuple(pickle, pair, &count);
	if (!items || count != 2)
		return false;
	*key = items[0];
	*value = items[1];
	return true;
}

/* The next item of the innermost container. 1 when there is one; its key is STFS_NO_VALUE in lists. */
static int next_item(struct flattening *f, uint32_t *key, uint32_t *value)
{
	const struct stfs_pickle *pickle = &f->torch->pickle;
	struct frame *frame = &f->frames[f->depth - 1];
	const uint32_t *item;
	uint32_t count;

	*key = STFS_NO_VALUE;
	if (frame->mode == MODE_TUPLE) {
		item = stfs_pickle_tuple(pickle, frame->value, &count);
		*value = frame->index < count ? item[frame->index] : STFS_NO_VALUE;
		return frame->index++ < count;
	}
	for (;;) {
		item = stfs_pickle_step(pickle, &frame->walk);
		if (!item)
			return 0;
		frame->index++;
		*value = *item;
		if (frame->mode == MODE_ITEMS)
			return 1;
		if (frame->mode == MODE_LIST_OF_PAIRS) {
			if (!split_pair(pickle, *item, key, value))
				return stfs_torch_fail(f->torch, stfs_pickle_at(pickle, *item)->at, f->err,
						       "a dict made of what are no pairs");
			return 1;
		}
		*key = *item;
		item = stfs_pickle_step(pickle, &frame->walk);
		*value = *item;
		if (*key != STFS_NO_VALUE) /* another pair has this key, and this one's value */
			return 1;
		if (++f->steps > f->steps_max)
			return too_many_names(f, stfs_pickle_at(pickle, *value)->at);
	}
}

static int name_item(struct flattening *f, uint32_t key)
{
	const struct frame *frame = &f->frames[f->depth - 1];
	bool changed = false;
	int r;

	f->name.len = frame->name_len;
	if (!frame->outermost)
		stfs_buf_putc(&f->name, '.');
	if (key == STFS_NO_VALUE)
		r = stfs_buf_printf(&f->name, "%u", frame->index - 1);
	else
		r = stfs_torch_key_name(f->torch, key, &f->name, &changed);
	f->work += f->name.len - frame->name_len;
	if (r == 0 && f->work > f->work_max)
		r = too_many_names(f, stfs_pickle_at(&f->torch->pickle, frame->value)->at);
	if (r == 0 && changed)
		r = stfs_torch_remark_str(f->torch, &f->torch->notes, stfs_buf_str(&f->name),
					  stfs_str_from("its key is no text that a name could be"));
	return r;
}

static void pop(struct flattening *f)
{
	const struct frame *frame = &f->frames[--f->depth];

	f->name.len = frame->name_len;
	if (frame->owns)
		set_bit(f->on_path, frame->value, false);
}

static int walk(struct flattening *f)
{
	uint32_t key, value;
	int r = visit(f, f->torch->root);

	while (r >= 0 && f->depth) {
		if (++f->steps > f->steps_max)
			return too_many_names(f, stfs_pickle_at(&f->torch->pickle, f->torch->root)->at);
		r = next_item(f, &key, &value);
		if (r == 0)
			pop(f);
		if (r <= 0)
			continue;
		r = name_item(f, key);
		if (r == 0)
			r = visit(f, value);
	}
	return r;
}

/* Tensors inside of values that nobody looks into must not vanish without a word. */
static int note_unseen(struct flattening *f)
{
	struct stfs_torch *torch = f->torch;
	size_t unseen = 0;

	for (uint32_t i = 0; i < torch->pickle.value_count; i++)
		unseen += stfs_pickle_is(&torch->pickle, i, STFS_PICKLE_CALL) &&
			  stfs_torch_meaning(torch, i) >= STFS_MEANS_TENSOR_V1 &&
			  stfs_torch_meaning(torch, i) <= STFS_MEANS_TENSOR_V3 && !get_bit(f->seen, i);
	if (unseen == 0)
		return 0;
	return stfs_torch_remark(torch, &torch->notes, stfs_str_from(""), "%zu tensors stand within values that "
				 "are left out, or nothing refers to them", unseen);
}

int stfs_torch_flatten(struct stfs_torch *torch, struct stfs_err *err)
{
	size_t values = torch->pickle.value_count;
	struct flattening *f = calloc(1, sizeof(*f));
	int r = -ENOMEM;

	if (!f)
		return r;
	f->torch = torch;
	f->err = err;
	f->on_path = calloc(values / 8 + 1, 1);
	f->seen = calloc(values / 8 + 1, 1);
	f->steps_max = 65536 + 8 * (uint64_t)values;
	f->work_max = STFS_TORCH_NAMES_MAX;
	if (f->on_path && f->seen)
		r = walk(f);
	if (r >= 0)
		r = note_unseen(f);
	stfs_buf_free(&f->name);
	stfs_buf_free(&f->text);
	stfs_buf_free(&f->why);
	free(f->on_path);
	free(f->seen);
	free(f);
	return r < 0 ? r : 0;
}
