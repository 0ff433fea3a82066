/* SPDX-License-Identifier: MIT */
/*
 * Bytes of tensors. A range of a strided tensor is cut into boxes, ranges of whole rows in every
 * dimension, and each is gathered in the order in which its elements lie in the storage: every part of
 * the file is then read once where they lie densely, and one by one where they do not.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "codec/torch_internal.h"

#define WINDOW 32768
/* Elements that fill less than this part of what they span are read one by one. */
#define SPARSE 64

/* ---- Storages as bytes ---- */

struct source {
	struct stfs_torch *torch;
	const struct stfs_torch_storage *storage;
	const char *memory; /* all of it, inflated; NULL where it is read from the file */
};

static int restart(struct stfs_torch *torch, const struct stfs_torch_storage *storage)
{
	if (!torch->stream)
		torch->stream = calloc(1, sizeof(*torch->stream));
	if (!torch->stream)
		return -ENOMEM;
	stfs_inflate_close(torch->stream);
	return stfs_inflate_open(torch->stream, torch->fd, storage->offset,
				 storage->offset + storage->stored);
}

/* Inflates a storage, whole when it is small; the caller holds `inflating`. */
static int inflate_storage(struct source *source)
{
	struct stfs_torch *torch = source->torch;
	uint32_t number = (uint32_t)(source->storage - torch->storages);
	bool small = source->storage->size <= STFS_TORCH_INFLATED_MAX;
	int r;

	if (torch->inflated_storage != number) {
		torch->inflated_storage = STFS_NO_NUMBER;
		free(torch->inflated);
		torch->inflated = NULL;
		r = restart(torch, source->storage);
		if (r == 0 && small) {
			torch->inflated = malloc(source->storage->size + 1);
			r = torch->inflated ? stfs_inflate_next(torch->stream, torch->inflated,
								source->storage->size) : -ENOMEM;
		}
		if (r < 0)
			return r;
		torch->inflated_storage = number;
	}
	source->memory = torch->inflated;
	return 0;
}

/* From a deflated storage that is too large to keep: what was passed is to be inflated anew. */
static int read_stream(const struct source *source, void *out, uint64_t len, uint64_t at)
{
	struct stfs_torch *torch = source->torch;
	int r = 0;

	if (at < torch->stream->pos)
		r = restart(torch, source->storage);
	if (r == 0)
		r = stfs_inflate_next(torch->stream, NULL, at - torch->stream->pos);
	if (r == 0)
		r = stfs_inflate_next(torch->stream, out, len);
	if (r < 0)
		torch->inflated_storage = STFS_NO_NUMBER;
	return r;
}

static int read_source(const struct source *source, void *out, uint64_t len, uint64_t at)
{
	if (len == 0)
		return 0;
	if (source->memory) {
		memcpy(out, source->memory + at, len);
		return 0;
	}
	if (source->storage->deflated)
		return read_stream(source, out, len, at);
	return stfs_io_read_exactly(source->torch->fd, out, len, source->storage->offset + at);
}

/* ---- Gathering ---- */

struct axis {
	uint64_t length;
	uint64_t stride; /* bytes in the storage */
	uint64_t out;    /* bytes in the buffer */
	uint64_t index;
};

/* Every axis of two elements or more doubles their number, which 63 bits hold. */
#define AXES_MAX 64

struct gather {
	const struct source *source;
	size_t item;
	struct axis axes[AXES_MAX]; /* of the tensor, the last one fastest */
	unsigned rank;
	bool dense; /* the box that is being gathered */
	uint64_t box_end; /* byte of the storage behind its last element */
	uint64_t window_at;
	size_t window_len;
	char window[WINDOW];
};

static int fill_window(struct gather *g, uint64_t at, uint64_t wanted)
{
	uint64_t len = stfs_min_u64(g->dense ? g->box_end - at : wanted, WINDOW);
	int r = read_source(g->source, g->window, len, at);

	g->window_at = at;
	g->window_len = r < 0 ? 0 : len;
	return r;
}

/* The item at `at`, of which `wanted` bytes in a row are of use. */
static int find_item(struct gather *g, uint64_t at, uint64_t wanted, const char **item)
{
	int r = 0;

	if (at < g->window_at || at - g->window_at > g->window_len ||
	    g->window_len - (at - g->window_at) < g->item)
		r = fill_window(g, at, wanted);
	*item = g->window + (at - g->window_at);
	return r;
}

/* Items that lie in a row in both. */
static int copy_row(struct gather *g, uint64_t at, uint64_t count, char *out)
{
	uint64_t left = count * g->item;

	while (left > 0) {
		const char *item;
		uint64_t len;
		int r;

		if (left >= WINDOW) /* without a stop in the window */
			return read_source(g->source, out, left, at);
		r = find_item(g, at, left, &item);
		if (r < 0)
			return r;
		len = stfs_min_u64(left, g->window_len - (at - g->window_at));
		len -= len % g->item;
		memcpy(out, item, len);
		out += len;
		at += len;
		left -= len;
	}
	return 0;
}

static int copy_run(struct gather *g, uint64_t at, const struct axis *axis, char *out)
{
	uint64_t wanted = axis->stride == g->item ? axis->length * g->item : g->item;

	if (axis->stride == g->item && axis->out == g->item)
		return copy_row(g, at, axis->length, out);
	for (uint64_t i = 0; i < axis->length; i++, at += axis->stride, out += axis->out) {
		const char *item;
		int r = find_item(g, at, wanted, &item);

		if (r < 0)
			return r;
		switch (g->item) { /* a constant makes a move of it, not a call */
		case 1: *out = *item; break;
		case 2: memcpy(out, item, 2); break;
		case 4: memcpy(out, item, 4); break;
		case 8: memcpy(out, item, 8); break;
		default: memcpy(out, item, g->item); break;
		}
	}
	return 0;
}

/* The axis with the longest stride first: the order of the storage. */
static void sort_axes(struct axis *axes, unsigned count)
{
	for (unsigned i = 1; i < count; i++) {
		struct axis moved = axes[i];
		unsigned j = i;

		for (; j > 0 && axes[j - 1].stride < moved.stride; j--)
			axes[j] = axes[j - 1];
		axes[j] = moved;
	}
}

static void measure_box(struct gather *g, uint64_t at, const struct axis *axes, unsigned count)
{
	uint64_t span = g->item, bytes = g->item;

	for (unsigned i = 0; i < count; i++) {
		span += (axes[i].length - 1) * axes[i].stride;
		if (axes[i].stride)
			bytes *= axes[i].length;
	}
	g->dense = bytes >= span / SPARSE;
	g->box_end = at + span;
}

static int copy_box(struct gather *g, uint64_t at, struct axis *axes, unsigned count, char *out)
{
	measure_box(g, at, axes, count);
	sort_axes(axes, count);
	for (;;) {
		int r = copy_run(g, at, &axes[count - 1], out);
		unsigned i = count - 1;

		if (r < 0)
			return r;
		while (i > 0) {
			i--;
			at += axes[i].stride;
			out += axes[i].out;
			if (++axes[i].index < axes[i].length)
				break;
			at -= axes[i].length * axes[i].stride;
			out -= axes[i].length * axes[i].out;
			axes[i].index = 0;
			if (i == 0)
				return 0;
		}
		if (count == 1)
			return 0;
	}
}

/* The axes that matter; two that lie as one become one. */
static void find_axes(struct gather *g, const struct stfs_torch *torch, const struct stfs_torch_tensor *tensor)
{
	const uint64_t *shape = stfs_torch_shape(torch, tensor), *strides = stfs_torch_strides(torch, tensor);

	for (unsigned i = 0; i < tensor->torch_rank; i++) {
		uint64_t length = shape[i], stride = strides[i] * g->item;

		if (tensor->element->form == STFS_ELEMENT_PACKED && i + 1u == tensor->torch_rank)
			length /= 2;
		if (length == 1)
			continue;
		if (g->rank && g->axes[g->rank - 1].stride == stride * length) {
			g->axes[g->rank - 1].stride = stride;
			g->axes[g->rank - 1].length *= length;
			continue;
		}
		g->axes[g->rank++] = (struct axis){.length = length, .stride = stride};
	}
	if (g->rank == 0)
		g->axes[g->rank++] = (struct axis){.length = 1, .stride = g->item};
}

static void seek(struct gather *g, uint64_t first)
{
	uint64_t out = g->item;

	for (unsigned i = g->rank; i-- > 0;) {
		g->axes[i].index = first % g->axes[i].length;
		first /= g->axes[i].length;
		g->axes[i].out = out;
		out *= g->axes[i].length;
	}
}

/* The box that the next `count` elements begin with; returns the elements in it. */
static uint64_t next_box(struct gather *g, uint64_t count, struct axis box[AXES_MAX], unsigned *rank)
{
	unsigned k = g->rank - 1;
	uint64_t block = 1, rows;

	while (k > 0 && g->axes[k].index == 0 && g->axes[k].length * block <= count)
		block *= g->axes[k--].length;
	rows = stfs_min_u64(g->axes[k].length - g->axes[k].index, count / block);
	*rank = g->rank - k;
	for (unsigned i = 0; i < *rank; i++) {
		box[i] = g->axes[k + i];
		box[i].index = 0;
	}
	box[0].length = rows;
	g->axes[k].index += rows;
	for (; k > 0 && g->axes[k].index == g->axes[k].length; k--) {
		g->axes[k].index = 0;
		g->axes[k - 1].index++;
	}
	return rows * block;
}

static int gather(const struct source *source, const struct stfs_torch_tensor *tensor, uint64_t first,
		  uint64_t count, char *out)
{
	STFS_AUTO_FREE struct gather *g = malloc(sizeof(*g));
	struct axis box[AXES_MAX];
	int r = 0;

	if (!g)
		return -ENOMEM;
	g->source = source;
	g->item = tensor->element->bytes;
	g->rank = 0;
	g->window_at = g->window_len = 0;
	find_axes(g, source->torch, tensor);
	seek(g, first);
	while (r == 0 && count > 0) {
		uint64_t at = tensor->begin, done;
		unsigned rank;

		for (unsigned i = 0; i < g->rank; i++)
			at += g->axes[i].index * g->axes[i].stride;
		done = next_box(g, count, box, &rank);
		r = copy_box(g, at, box, rank, out);
		out += done * g->item;
		count -= done;
	}
	return r;
}

/* ---- Elements ---- */

static void swap_bytes(char *bytes, uint64_t len, unsigned unit)
{
	for (uint64_t i = 0; i + unit <= len; i += unit)
		for (unsigned j = 0; j < unit / 2; j++) {
			char byte = bytes[i + j];

			bytes[i + j] = bytes[i + unit - 1 - j];
			bytes[i + unit - 1 - j] = byte;
		}
}

static int read_elements(const struct source *source, const struct stfs_torch_tensor *tensor,
			 uint64_t first, uint64_t count, char *out)
{
	uint64_t item = tensor->element->bytes;
	int r = tensor->contiguous ? read_source(source, out, count * item, tensor->begin + first * item) :
				     gather(source, tensor, first, count, out);

	if (r == 0 && source->storage->swapped && tensor->element->swap > 1)
		swap_bytes(out, count * item, tensor->element->swap);
	return r;
}

/* `len` bytes of one element from its byte `from` on. */
static int read_piece(const struct source *source, const struct stfs_torch_tensor *tensor, uint64_t element,
		      uint64_t from, uint64_t len, char *out)
{
	char bytes[16];
	int r = read_elements(source, tensor, element, 1, bytes);

	if (r == 0)
		memcpy(out, bytes + from, len);
	return r;
}

static int read_range(const struct source *source, const struct stfs_torch_tensor *tensor, char *out,
		      uint64_t len, uint64_t offset)
{
	uint64_t item = tensor->element->bytes, from = offset % item, piece;
	int r = 0;

	if (from) {
		piece = stfs_min_u64(item - from, len);
		r = read_piece(source, tensor, offset / item, from, piece, out);
		out += piece;
		offset += piece;
		len -= piece;
	}
	if (r == 0 && len >= item)
		r = read_elements(source, tensor, offset / item, len / item, out);
	piece = len % item;
	if (r == 0 && piece)
		r = read_piece(source, tensor, (offset + len) / item, 0, piece, out + len - piece);
	return r;
}

bool stfs_torch_is_plain(const struct stfs_torch *torch, const struct stfs_torch_tensor *tensor)
{
	const struct stfs_torch_storage *storage = &torch->storages[tensor->storage];

	return tensor->contiguous && !storage->deflated && (!storage->swapped || tensor->element->swap == 1);
}

int stfs_torch_read(struct stfs_torch *torch, const struct stfs_torch_tensor *tensor, void *buffer,
		    size_t len, uint64_t offset)
{
	struct source source = {.torch = torch, .storage = &torch->storages[tensor->storage]};
	int r;

	if (offset > tensor->bytes || len > tensor->bytes - offset)
		return -EINVAL;
	if (len == 0)
		return 0;
	if (stfs_torch_is_plain(torch, tensor))
		return stfs_io_read_exactly(torch->fd, buffer, len, source.storage->offset + tensor->begin + offset);
	if (!source.storage->deflated)
		return read_range(&source, tensor, buffer, len, offset);
	if (!tensor->contiguous && source.storage->size > STFS_TORCH_INFLATED_MAX)
		return -EFBIG;
	pthread_mutex_lock(&torch->inflating);
	r = inflate_storage(&source);
	if (r == 0)
		r = read_range(&source, tensor, buffer, len, offset);
	pthread_mutex_unlock(&torch->inflating);
	return r;
}
