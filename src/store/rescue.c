/* SPDX-License-Identifier: MIT */
#include "store/rescue.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "commit/beside.h"
#include "commit/steps.h"
#include "format/metadata.h"
#include "format/sidecar.h"
#include "store/edit_internal.h"

static const char *const keys[] = {"stfs.remove", "stfs.rename", "stfs.retype", "stfs.metadata"};
enum { KEY_REMOVE, KEY_RENAME, KEY_RETYPE, KEY_METADATA, KEY_COUNT };

/* An empty tensor has no place, wherever its source points. */
static bool is_spooled(const struct stfs_edit *edit, const struct stfs_slot *slot)
{
	return slot->len && !slot->source.pieces && slot->source.fd == edit->spool;
}

bool stfs_edit_needs_rescue(const struct stfs_edit *edit)
{
	for (size_t i = 0; i < edit->count; i++)
		if (!edit->slots[i].removed && edit->slots[i].is_new &&
		    (edit->slots[i].source.pieces || is_spooled(edit, &edit->slots[i])))
			return true;
	return false;
}

/* ---- Writing: what is staged as text ---- */

static void separate(struct stfs_buf *out, char open)
{
	stfs_buf_putc(out, out->len ? ',' : open);
}

static void add_retype(const struct stfs_slot *slot, struct stfs_buf *out)
{
	separate(out, '{');
	stfs_json_quote(slot->name, out);
	stfs_buf_printf(out, ":{\"dtype\":\"%s\",\"shape\":[", stfs_dtype_info(slot->dtype)->name);
	for (size_t i = 0; i < slot->rank; i++)
		stfs_buf_printf(out, "%s%" PRIu64, i ? "," : "", slot->dims[i]);
	stfs_buf_puts(out, "]}");
}

/* What became of each tensor that the model had. */
static int describe_old(const struct stfs_edit *edit, struct stfs_buf *text)
{
	uint32_t ids = edit->model ? stfs_model_ids(edit->model) : 0;
	STFS_AUTO_FREE bool *lives = calloc(ids ? ids : 1, sizeof(*lives));
	struct stfs_tensor_ref ref;

	if (!lives)
		return -ENOMEM;
	for (size_t i = 0; i < edit->count; i++) {
		const struct stfs_slot *slot = &edit->slots[i];
		struct stfs_str was;

		if (slot->removed || slot->hidden || slot->is_new || slot->origin == STFS_NO_TENSOR)
			continue;
		lives[slot->origin] = true;
		was = stfs_model_name_of(edit->model, slot->origin);
		if (!stfs_str_equal(was, slot->name)) {
			separate(&text[KEY_RENAME], '[');
			stfs_json_quote(was, &text[KEY_RENAME]);
			stfs_buf_putc(&text[KEY_RENAME], ',');
			stfs_json_quote(slot->name, &text[KEY_RENAME]);
		}
		if (slot->typed)
			add_retype(slot, &text[KEY_RETYPE]);
	}
	/* Also those that are replaced: the new one is then added under the name that it has. */
	for (uint32_t id = 0; id < ids; id++) {
		if (lives[id] || !stfs_model_tensor(edit->model, id, &ref))
			continue;
		separate(&text[KEY_REMOVE], '[');
		stfs_json_quote(ref.name, &text[KEY_REMOVE]);
	}
	return 0;
}

static int add_pair(void *data, struct stfs_str key, struct stfs_str value)
{
	struct stfs_buf *out = data;

	stfs_buf_putc(out, out->len > 1 ? ',' : ' ');
	stfs_json_quote(key, out);
	stfs_buf_putc(out, ':');
	return stfs_json_quote(value, out);
}

static int describe(const struct stfs_edit *edit, struct stfs_buf *text)
{
	int r = describe_old(edit, text);

	if (r == 0 && edit->metadata_changed) {
		stfs_buf_putc(&text[KEY_METADATA], '{');
		r = stfs_edit_metadata(edit, add_pair, &text[KEY_METADATA]);
		stfs_buf_putc(&text[KEY_METADATA], '}');
	}
	for (int i = 0; i < KEY_METADATA; i++)
		if (text[i].len)
			stfs_buf_putc(&text[i], text[i].data[0] == '[' ? ']' : '}');
	for (int i = 0; r == 0 && i < KEY_COUNT; i++)
		r = stfs_buf_status(&text[i]);
	return r;
}

/* ---- Writing: the spool as a file of tensors ---- */

struct layout {
	struct stfs_header_item *items; /* owned */
	char (*names)[32];              /* owned: of the padding */
	uint64_t *dims;                 /* owned: of the padding */
	size_t count, paddings;
};

static void free_layout(struct layout *layout)
{
	free(layout->items);
	free(layout->names);
	free(layout->dims);
}

/* Pieces become one, at the end of the spool. */
static int join_pieces(struct stfs_edit *edit, struct stfs_slot *slot)
{
	uint64_t end = edit->spool_end;
	int r = stfs_io_reserve(edit->spool, end, slot->len);

	if (r == 0)
		r = stfs_copy_source(&slot->source, 0, edit->spool, end, slot->len, NULL);
	if (r < 0)
		return r;
	slot->source = (struct stfs_source){.fd = edit->spool, .offset = end};
	edit->spool_end = stfs_align_up(end + slot->len, 4096);
	return 0;
}

static int move_to_spool(struct stfs_edit *edit, struct stfs_slot *slot, struct stfs_err *err)
{
	struct stfs_source source;
	uint64_t taken;
	int r;

	if (slot->source.pieces)
		return join_pieces(edit, slot);
	r = stfs_edit_spool_range(edit, slot->source, slot->len, &source, &taken, err);
	if (r == 0)
		slot->source = source;
	return r;
}

static int by_source(const void *left, const void *right)
{
	const struct stfs_slot *a = *(struct stfs_slot *const *)left;
	const struct stfs_slot *b = *(struct stfs_slot *const *)right;

	if (a->source.offset != b->source.offset)
		return a->source.offset < b->source.offset ? -1 : 1;
	return a->len < b->len ? -1 : a->len > b->len;
}

/*
 * New tensors with bytes elsewhere are copied behind the others; so are those that have bytes of
 * the spool in common with another (a copy of one that was just put), which in a file two tensors
 * cannot have.
 */
static int gather(struct stfs_edit *edit, struct stfs_err *err)
{
	STFS_AUTO_FREE struct stfs_slot **spooled = calloc(edit->count + 1, sizeof(*spooled));
	uint64_t end = 0;
	size_t count = 0;
	int r = spooled ? 0 : -ENOMEM;

	for (size_t i = 0; r == 0 && i < edit->count; i++) {
		struct stfs_slot *slot = &edit->slots[i];

		if (slot->removed || !slot->is_new)
			continue;
		if (is_spooled(edit, slot))
			spooled[count++] = slot;
		else
			r = move_to_spool(edit, slot, err);
	}
	if (count)
		qsort(spooled, count, sizeof(struct stfs_slot *), by_source);
	for (size_t i = 0; r == 0 && i < count; i++) {
		if (spooled[i]->source.offset < end)
			r = move_to_spool(edit, spooled[i], err);
		else
			end = spooled[i]->source.offset + spooled[i]->len;
	}
	return r;
}

static int by_offset(const void *left, const void *right)
{
	const struct stfs_header_item *a = left, *b = right;

	if (a->begin != b->begin)
		return a->begin < b->begin ? -1 : 1;
	return a->end < b->end ? -1 : a->end > b->end;
}

static void pad(struct layout *layout, uint64_t begin, uint64_t end)
{
	size_t n = layout->paddings++;

	if (begin == end) {
		layout->paddings--;
		return;
	}
	snprintf(layout->names[n], sizeof(layout->names[n]), "stfs.padding.%zu", n);
	layout->dims[n] = end - begin;
	layout->items[layout->count++] = (struct stfs_header_item){
		.name = stfs_str_from(layout->names[n]), .dtype = STFS_U8,
		.dims = &layout->dims[n], .rank = 1, .begin = begin, .end = end};
}

static int lay_out(const struct stfs_edit *edit, struct layout *layout)
{
	size_t fresh = 0, used = 0;
	uint64_t at = 0;

	for (size_t i = 0; i < edit->count; i++)
		fresh += !edit->slots[i].removed && edit->slots[i].is_new;
	layout->items = calloc(2 * fresh + 1, sizeof(*layout->items));
	layout->names = calloc(fresh + 1, sizeof(*layout->names));
	layout->dims = calloc(fresh + 1, sizeof(*layout->dims));
	if (!layout->items || !layout->names || !layout->dims)
		return -ENOMEM;
	for (size_t i = 0; i < edit->count; i++) {
		const struct stfs_slot *slot = &edit->slots[i];
		uint64_t begin = slot->source.offset - STFS_SPOOL_HEADER;

		if (!slot->removed && slot->is_new)
			layout->items[layout->count++] = (struct stfs_header_item){
				.name = slot->name, .dtype = slot->dtype,
				.dims = slot->dims, .rank = slot->rank,
				.begin = begin, .end = begin + slot->len};
	}
	qsort(layout->items, layout->count, sizeof(*layout->items), by_offset);
	used = layout->count;
	for (size_t i = 0; i < used; i++) {
		pad(layout, at, stfs_max_u64(at, layout->items[i].begin));
		at = layout->items[i].end;
	}
	pad(layout, at, edit->spool_end - STFS_SPOOL_HEADER);
	return 0;
}

static int write_header(struct stfs_edit *edit, const struct layout *layout, struct stfs_buf *text,
			struct stfs_err *err)
{
	struct stfs_header_pair pairs[KEY_COUNT + 3] = {
		{stfs_str_from("stfs.rescue"), stfs_str_from("1")},
		{stfs_str_from("stfs.taken"), stfs_str_from(STFS_RESCUE_NOT_TAKEN)}};
	struct stfs_header_parts parts = {.items = layout->items, .item_count = layout->count,
					  .pairs = pairs, .pair_count = 2};
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
	char number[24];
	int r;

	snprintf(number, sizeof(number), "%zu", layout->paddings);
	pairs[parts.pair_count++] = (struct stfs_header_pair){stfs_str_from("stfs.padding"),
							      stfs_str_from(number)};
	for (int i = 0; i < KEY_COUNT; i++)
		if (text[i].len)
			pairs[parts.pair_count++] =
				(struct stfs_header_pair){stfs_str_from(keys[i]),
							  stfs_buf_str(&text[i])};
	r = stfs_header_write(&parts, 0, &out, err);
	if (r == 0)
		r = stfs_header_fit(&out, 0, STFS_SPOOL_HEADER - STFS_LENGTH_WORD);
	if (r == 0)
		r = stfs_io_write(edit->spool, out.data, out.len, 0);
	if (r == 0)
		r = stfs_io_truncate(edit->spool, edit->spool_end);
	return r < 0 ? r : stfs_io_sync(edit->spool);
}

int stfs_edit_rescue(struct stfs_edit *edit, struct stfs_err *err)
{
	STFS_AUTO_FREE char *name = stfs_beside_name(edit->name, STFS_BESIDE_RESCUE);
	struct stfs_buf text[KEY_COUNT] = {0};
	struct layout layout = {0};
	int r = name ? stfs_edit_open_spool(edit) : -ENOMEM;

	if (r == 0)
		r = gather(edit, err);
	if (r == 0)
		r = describe(edit, text);
	if (r == 0)
		r = lay_out(edit, &layout);
	if (r == 0)
		r = write_header(edit, &layout, text, err);
	if (r == 0 && edit->model) /* so that the owner can take up what root has left */
		(void)stfs_beside_adopt(edit->spool, edit->model->shards[0].fd);
	if (r == 0)
		r = stfs_edit_name_spool(edit, name);
	if (r == 0)
		r = stfs_io_sync_folder(edit->folder_fd);
	for (int i = 0; i < KEY_COUNT; i++)
		stfs_buf_free(&text[i]);
	free_layout(&layout);
	if (r < 0 && err && err->code != r)
		stfs_err_errno(err, r, "%s: the edits could not be kept in %s", edit->path,
			       name ? name : "a rescue file");
	return r;
}
