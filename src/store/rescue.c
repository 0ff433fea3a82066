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
#include "base/log.h"
#include "commit/beside.h"
#include "commit/steps.h"
#include "format/metadata.h"
#include "format/sidecar.h"
#include "store/edit_internal.h"

#define PIECE (1u << 20)

static const char *const keys[] = {"stfs.remove", "stfs.rename", "stfs.retype", "stfs.pieces", "stfs.base",
				   "stfs.metadata"};
enum { KEY_REMOVE, KEY_RENAME, KEY_RETYPE, KEY_PIECES, KEY_BASE, KEY_METADATA, KEY_COUNT };

/* What becomes of a new tensor. */
enum fate {
	FATE_WHOLE,  /* it is one of the file's */
	FATE_PIECES, /* there is no room for that: the file says where its bytes are */
	FATE_LOST,   /* they are where the file cannot lead to */
};

/* A rescue file in the making. */
struct rescue {
	struct stfs_edit *edit;
	unsigned char *fates; /* owned: one a slot, of enum fate; those of new ones count */
	struct stfs_buf text[KEY_COUNT];
	bool lost;
};

/* An empty tensor has no place, wherever its source points. */
static bool is_spooled(const struct stfs_edit *edit, const struct stfs_slot *slot)
{
	return slot->len && stfs_source_is_range(&slot->source) && slot->source.fd == edit->spool;
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

/* The member of an object: name and type, open for more. */
static void add_type(const struct stfs_slot *slot, struct stfs_buf *out)
{
	separate(out, '{');
	stfs_json_quote(slot->name, out);
	stfs_buf_printf(out, ":{\"dtype\":\"%s\",\"shape\":[", stfs_dtype_info(slot->dtype)->name);
	for (size_t i = 0; i < slot->rank; i++)
		stfs_buf_printf(out, "%s%" PRIu64, i ? "," : "", slot->dims[i]);
	stfs_buf_putc(out, ']');
}

/* The number that a rescue file has for the file of a piece: -1 zeros, 0 itself, n the model's n-th; or -2. */
static int file_of(const struct stfs_edit *edit, int fd)
{
	if (fd < 0)
		return -1;
	if (fd == edit->spool)
		return 0;
	for (uint32_t i = 0; edit->model && i < edit->model->shard_count; i++)
		if (fd == edit->model->shards[i].fd)
			return (int)i + 1;
	return -2;
}

static bool has_pieces(const struct stfs_edit *edit, const struct stfs_source *source)
{
	for (size_t i = 0; i < source->piece_count; i++)
		if (file_of(edit, source->pieces[i].fd) < -1)
			return false;
	return true;
}

/* Where the bytes of a tensor are, of which has_pieces() is true. */
static void add_pieces(const struct stfs_edit *edit, const struct stfs_slot *slot, struct stfs_buf *out)
{
	add_type(slot, out);
	stfs_buf_puts(out, ",\"pieces\":[");
	for (size_t i = 0; i < slot->source.piece_count; i++) {
		const struct stfs_piece *piece = &slot->source.pieces[i];
		int file = file_of(edit, piece->fd);
		uint64_t at = file == 0 ? piece->offset - STFS_SPOOL_HEADER : file < 0 ? 0 : piece->offset;

		stfs_buf_printf(out, "%s[%d,%" PRIu64 ",%" PRIu64 "]", i ? "," : "", file, at, piece->len);
	}
	stfs_buf_puts(out, "]}");
}

/* Whether the tensor that a slot comes from goes on: it is the one, or what takes its place is lost. */
static bool goes_on(const struct rescue *rescue, size_t i)
{
	const struct stfs_slot *slot = &rescue->edit->slots[i];

	return !slot->removed && !slot->hidden && slot->origin != STFS_NO_TENSOR &&
	       (!slot->is_new || rescue->fates[i] == FATE_LOST);
}

/* What became of each tensor that the model had. */
static int describe_old(struct rescue *rescue)
{
	const struct stfs_edit *edit = rescue->edit;
	uint32_t ids = edit->model ? stfs_model_ids(edit->model) : 0;
	STFS_AUTO_FREE bool *lives = calloc(ids ? ids : 1, sizeof(*lives));
	struct stfs_buf *text = rescue->text;
	struct stfs_tensor_ref ref;

	if (!lives)
		return -ENOMEM;
	for (size_t i = 0; i < edit->count; i++) {
		const struct stfs_slot *slot = &edit->slots[i];
		struct stfs_str was;

		if (!goes_on(rescue, i))
			continue;
		lives[slot->origin] = true;
		was = stfs_model_name_of(edit->model, slot->origin);
		if (!stfs_str_equal(was, slot->name)) {
			separate(&text[KEY_RENAME], '[');
			stfs_json_quote(was, &text[KEY_RENAME]);
			stfs_buf_putc(&text[KEY_RENAME], ',');
			stfs_json_quote(slot->name, &text[KEY_RENAME]);
		}
		if (slot->typed && !slot->is_new) {
			add_type(slot, &text[KEY_RETYPE]);
			stfs_buf_putc(&text[KEY_RETYPE], '}');
		}
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

static void describe_pieces(struct rescue *rescue)
{
	const struct stfs_edit *edit = rescue->edit;

	for (size_t i = 0; i < edit->count; i++)
		if (!edit->slots[i].removed && edit->slots[i].is_new && rescue->fates[i] == FATE_PIECES)
			add_pieces(edit, &edit->slots[i], &rescue->text[KEY_PIECES]);
	if (rescue->text[KEY_PIECES].len && edit->model)
		stfs_buf_printf(&rescue->text[KEY_BASE], "%016" PRIx64, stfs_rescue_print(edit->model));
}

static int add_pair(void *data, struct stfs_str key, struct stfs_str value)
{
	struct stfs_buf *out = data;

	stfs_buf_putc(out, out->len > 1 ? ',' : ' ');
	stfs_json_quote(key, out);
	stfs_buf_putc(out, ':');
	return stfs_json_quote(value, out);
}

static int describe(struct rescue *rescue)
{
	struct stfs_buf *text = rescue->text;
	int r = describe_old(rescue);

	describe_pieces(rescue);
	if (r == 0 && rescue->edit->metadata_changed) {
		stfs_buf_putc(&text[KEY_METADATA], '{');
		r = stfs_edit_metadata(rescue->edit, add_pair, &text[KEY_METADATA]);
		stfs_buf_putc(&text[KEY_METADATA], '}');
	}
	for (int i = 0; i <= KEY_PIECES; i++)
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

/* Pieces, and what a reader makes, become one at the end of the spool. */
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

static int move_whole(struct stfs_edit *edit, struct stfs_slot *slot, struct stfs_err *err)
{
	struct stfs_source source;
	uint64_t taken;
	int r;

	if (slot->source.pieces || slot->source.reader)
		return join_pieces(edit, slot);
	r = stfs_edit_spool_range(edit, slot->source, slot->len, &source, &taken, err);
	if (r == 0)
		slot->source = source;
	return r;
}

/* Where there is no room for it as a whole, others must not be lost with it. */
static int move_to_spool(struct rescue *rescue, size_t i, struct stfs_err *err)
{
	struct stfs_edit *edit = rescue->edit;
	struct stfs_slot *slot = &edit->slots[i];
	char quoted[STFS_QUOTED_MAX];
	int r = move_whole(edit, slot, err);

	if (r != -ENOSPC && r != -EFBIG && r != -EDQUOT)
		return r;
	(void)stfs_io_truncate(edit->spool, edit->spool_end);
	if (slot->source.pieces && has_pieces(edit, &slot->source)) {
		rescue->fates[i] = FATE_PIECES;
		return 0;
	}
	rescue->fates[i] = FATE_LOST;
	rescue->lost = true;
	stfs_log(STFS_LOG_ERROR, "%s: the %" PRIu64 " new bytes of tensor \"%s\" are LOST: there is no room for them",
		 edit->path, slot->len, stfs_quote(slot->name, quoted));
	return 0;
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
static int gather(struct rescue *rescue, struct stfs_err *err)
{
	struct stfs_edit *edit = rescue->edit;
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
			r = move_to_spool(rescue, i, err);
	}
	if (count)
		qsort(spooled, count, sizeof(struct stfs_slot *), by_source);
	for (size_t i = 0; r == 0 && i < count; i++) {
		if (spooled[i]->source.offset < end)
			r = move_to_spool(rescue, (size_t)(spooled[i] - edit->slots), err);
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

static bool is_item(const struct rescue *rescue, size_t i)
{
	const struct stfs_slot *slot = &rescue->edit->slots[i];

	return !slot->removed && slot->is_new && rescue->fates[i] == FATE_WHOLE;
}

static int lay_out(const struct rescue *rescue, struct layout *layout)
{
	const struct stfs_edit *edit = rescue->edit;
	size_t fresh = 0, used = 0;
	uint64_t at = 0;

	for (size_t i = 0; i < edit->count; i++)
		fresh += is_item(rescue, i);
	layout->items = calloc(2 * fresh + 1, sizeof(*layout->items));
	layout->names = calloc(fresh + 1, sizeof(*layout->names));
	layout->dims = calloc(fresh + 1, sizeof(*layout->dims));
	if (!layout->items || !layout->names || !layout->dims)
		return -ENOMEM;
	for (size_t i = 0; i < edit->count; i++) {
		const struct stfs_slot *slot = &edit->slots[i];
		uint64_t begin = slot->source.offset - STFS_SPOOL_HEADER;

		if (is_item(rescue, i))
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

/* Makes room for a longer header before all that is in the spool. */
static int widen(struct stfs_edit *edit, uint64_t more)
{
	STFS_AUTO_FREE char *piece = NULL;
	uint64_t end = edit->spool_end, len;
	ssize_t got;
	int r = stfs_io_fallocate(edit->spool, FALLOC_FL_INSERT_RANGE, 0, more);

	if (r == 0 || end == STFS_SPOOL_HEADER) {
		edit->spool_end += more;
		return 0;
	}
	piece = malloc(PIECE);
	r = piece ? stfs_io_reserve(edit->spool, end, more) : -ENOMEM;
	for (; r == 0 && end > STFS_SPOOL_HEADER; end -= len) {
		len = stfs_min_u64(PIECE, end - STFS_SPOOL_HEADER);
		got = stfs_io_pread_full(edit->spool, piece, len, end - len);
		if (got < (ssize_t)len)
			return got < 0 ? (int)got : -EIO;
		r = stfs_io_write(edit->spool, piece, len, end - len + more);
	}
	edit->spool_end += r == 0 ? more : 0;
	return r;
}

static int write_header(struct rescue *rescue, const struct layout *layout, struct stfs_err *err)
{
	struct stfs_header_pair pairs[KEY_COUNT + 3] = {
		{stfs_str_from("stfs.rescue"), stfs_str_from("1")},
		{stfs_str_from("stfs.taken"), stfs_str_from(STFS_RESCUE_NOT_TAKEN)}};
	struct stfs_header_parts parts = {.items = layout->items, .item_count = layout->count,
					  .pairs = pairs, .pair_count = 2};
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
	struct stfs_edit *edit = rescue->edit;
	uint64_t front = STFS_SPOOL_HEADER;
	char number[24];
	int r;

	snprintf(number, sizeof(number), "%zu", layout->paddings);
	pairs[parts.pair_count++] = (struct stfs_header_pair){stfs_str_from("stfs.padding"),
							      stfs_str_from(number)};
	for (int i = 0; i < KEY_COUNT; i++)
		if (rescue->text[i].len)
			pairs[parts.pair_count++] =
				(struct stfs_header_pair){stfs_str_from(keys[i]),
							  stfs_buf_str(&rescue->text[i])};
	r = stfs_header_write(&parts, 0, &out, err);
	if (r == 0 && out.len > front) {
		front = stfs_align_up(out.len, 1u << 20);
		r = widen(edit, front - STFS_SPOOL_HEADER);
	}
	if (r == 0)
		r = stfs_header_fit(&out, 0, (size_t)front - STFS_LENGTH_WORD);
	if (r == 0)
		r = stfs_io_write(edit->spool, out.data, out.len, 0);
	if (r == 0)
		r = stfs_io_truncate(edit->spool, edit->spool_end);
	return r < 0 ? r : stfs_io_sync(edit->spool);
}

/* The file, but for its name. */
static int write_file(struct rescue *rescue, struct stfs_err *err)
{
	struct stfs_edit *edit = rescue->edit;
	struct layout layout = {0};
	bool anything = false;
	int r = gather(rescue, err);

	if (r == 0)
		r = describe(rescue);
	if (r == 0)
		r = lay_out(rescue, &layout);
	for (int i = 0; i < KEY_COUNT; i++)
		anything |= rescue->text[i].len > 0;
	if (r == 0 && rescue->lost && !anything && layout.count == layout.paddings)
		r = -ENOSPC;
	if (r == 0)
		r = write_header(rescue, &layout, err);
	if (r == 0 && edit->model) /* so that the owner can take up what root has left */
		(void)stfs_beside_adopt(edit->spool, edit->model->shards[0].fd);
	free_layout(&layout);
	return r;
}

int stfs_edit_rescue(struct stfs_edit *edit, int folder_fd, struct stfs_err *err)
{
	STFS_AUTO_FREE char *name = stfs_beside_name(edit->name, STFS_BESIDE_RESCUE);
	struct rescue rescue = {.edit = edit, .fates = calloc(edit->count + 1, 1)};
	int r = name && rescue.fates ? stfs_edit_open_spool(edit) : -ENOMEM;

	folder_fd = folder_fd < 0 ? edit->folder_fd : folder_fd;
	if (r == 0)
		r = write_file(&rescue, err);
	if (r == 0)
		r = stfs_edit_name_spool(edit, folder_fd, name);
	if (r == 0)
		r = stfs_io_sync_folder(folder_fd);
	for (int i = 0; i < KEY_COUNT; i++)
		stfs_buf_free(&rescue.text[i]);
	free(rescue.fates);
	if (r < 0 && err && err->code != r)
		stfs_err_errno(err, r, "%s: the edits could not be kept in %s", edit->path,
			       name ? name : "a rescue file");
	return r;
}
