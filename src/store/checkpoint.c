/* SPDX-License-Identifier: MIT */
#include "store/checkpoint.h"

#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "codec/zip.h"
#include "store/model.h"

bool stfs_checkpoint_is(const unsigned char *head, size_t len)
{
	uint64_t word;

	if (len <= STFS_LENGTH_WORD || !stfs_torch_could_be(head, len))
		return false;
	word = stfs_load_le64(head);
	if (stfs_header_poisoned(word))
		return false;
	/* The magic of a zip archive can be a length too, but what follows is no header then. */
	return word > STFS_HEADER_MAX || (stfs_zip_is(head, len) && head[STFS_LENGTH_WORD] != '{');
}

/* ---- The header ---- */

static int fill_items(const struct stfs_torch *torch, struct stfs_header_item *items, uint64_t *total)
{
	const struct stfs_torch_tensor *tensors;
	uint32_t count;

	tensors = stfs_torch_tensors(torch, &count);
	*total = 0;
	for (uint32_t i = 0; i < count; i++) {
		items[i] = (struct stfs_header_item){
			.name = tensors[i].name, .dtype = (enum stfs_dtype)tensors[i].dtype,
			.dims = stfs_torch_shape(torch, &tensors[i]), .rank = tensors[i].rank, .begin = *total};
		if (stfs_add_overflows(*total, tensors[i].bytes, total) || *total > INT64_MAX)
			return -EOVERFLOW;
		items[i].end = *total;
	}
	return 0;
}

/* The text of the header, with the length word before it, appended to `out`. */
static int write_header(const struct stfs_torch *torch, struct stfs_buf *out, uint64_t *total, struct stfs_err *err)
{
	const struct stfs_torch_remarks *leaves = stfs_torch_leaves(torch);
	STFS_AUTO_FREE struct stfs_header_item *items = NULL;
	STFS_AUTO_FREE struct stfs_header_pair *pairs = NULL;
	struct stfs_header_parts parts;
	uint32_t count;
	int r;

	stfs_torch_tensors(torch, &count);
	items = calloc(count + 1ul, sizeof(*items));
	pairs = calloc(leaves->count + 1, sizeof(*pairs));
	if (!items || !pairs)
		return -ENOMEM;
	for (size_t i = 0; i < leaves->count; i++)
		pairs[i] = (struct stfs_header_pair){leaves->items[i].name, leaves->items[i].text};
	r = fill_items(torch, items, total);
	if (r < 0)
		return stfs_err_set(err, -EBADMSG, STFS_NO_POSITION, "its tensors would have more than 2^63 bytes "
				    "together: strides of 0 make them of a file of this size");
	parts = (struct stfs_header_parts){.items = items, .item_count = count, .pairs = pairs,
					   .pair_count = leaves->count};
	r = stfs_header_write(&parts, 0, out, err);
	if (r == -E2BIG)
		return stfs_err_set(err, -EBADMSG, STFS_NO_POSITION, "the names of its %u tensors and its plain values "
				    "do not fit into the %u bytes that a safetensors header may have", count,
				    STFS_HEADER_MAX);
	return r == -EINVAL ? -EBADMSG : r;
}

/* A header of the text, of which there must be nothing to say. */
static int read_header(struct stfs_shard *shard, struct stfs_buf *out, uint64_t total, struct stfs_err *err)
{
	struct stfs_findings findings = STFS_FINDINGS_INIT;
	size_t len = out->len - STFS_LENGTH_WORD;
	char *text = malloc(len);
	int r;

	if (!text)
		return -ENOMEM;
	memcpy(text, out->data + STFS_LENGTH_WORD, len);
	stfs_buf_free(out); /* it may be large, and reading takes as much again */
	r = stfs_header_read(text, (uint32_t)len, total, &shard->header, &findings);
	if (r == 0)
		r = stfs_findings_error(&findings, false, err);
	if (r == -EBADMSG) { /* empty tensors whose other dimensions pass all numbers */
		err->position = STFS_NO_POSITION;
		stfs_header_free(shard->header);
		shard->header = NULL;
	}
	stfs_findings_free(&findings);
	return r;
}

static int make_header(struct stfs_shard *shard, struct stfs_err *err)
{
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
	uint64_t total;
	int r = write_header(shard->torch, &out, &total, err);

	return r < 0 ? r : read_header(shard, &out, total, err);
}

/* ---- Opening ---- */

/* Whether it was text that happened to begin like a pickle of old: neither protocol nor global was met. */
static bool is_mere_text(const struct stfs_shard *shard, const unsigned char *head)
{
	return shard->torch && head[0] != 0x80 && stfs_torch_form(shard->torch) == STFS_TORCH_LEGACY &&
	       stfs_torch_global_count(shard->torch) == 0;
}

static int refuse(struct stfs_shard *shard, const struct stfs_err *why)
{
	/* Most of the messages name their byte, which of a zip archive is one of its data.pkl. */
	bool named = strncmp(why->message, "byte ", 5) == 0;

	return stfs_findings_add(&shard->findings, STFS_RULE_CHECKPOINT, named ? STFS_NO_POSITION : why->position,
				 (struct stfs_str){NULL, 0}, "%s", why->message);
}

int stfs_checkpoint_open(struct stfs_shard *shard, const unsigned char *head)
{
	struct stfs_err why = STFS_ERR_INIT;
	int r = stfs_torch_open(shard->fd, shard->size, &shard->torch, &why);

	if ((r == -EBADMSG || r == -EFBIG) && is_mere_text(shard, head)) {
		stfs_checkpoint_close(shard);
		return 0;
	}
	if (r == 0)
		r = make_header(shard, &why);
	if (r == -EBADMSG || r == -EFBIG)
		return refuse(shard, &why);
	if (r < 0 && r != -ENOMEM) {
		shard->status = r;
		return 0;
	}
	return r;
}

void stfs_checkpoint_close(struct stfs_shard *shard)
{
	stfs_torch_close(shard->torch);
	shard->torch = NULL;
}

int stfs_checkpoint_same(const struct stfs_shard *shard)
{
	return stfs_torch_same(shard->torch);
}

/* ---- Bytes ---- */

const struct stfs_torch_tensor *stfs_checkpoint_tensor(const struct stfs_shard *shard,
						       const struct stfs_tensor *tensor)
{
	uint32_t count;

	return stfs_torch_tensors(shard->torch, &count) + (tensor - shard->header->tensors);
}

uint64_t stfs_checkpoint_offset(const struct stfs_shard *shard, const struct stfs_tensor *tensor)
{
	const struct stfs_torch_tensor *found = stfs_checkpoint_tensor(shard, tensor);
	uint32_t count;

	/* One without elements has no place: its beginning may lie anywhere. */
	if (found->bytes == 0 || !stfs_torch_is_plain(shard->torch, found))
		return STFS_NO_OFFSET;
	return stfs_torch_storages(shard->torch, &count)[found->storage].offset + found->begin;
}

int stfs_checkpoint_read(struct stfs_shard *shard, const struct stfs_tensor *tensor, void *buffer, size_t len,
			 uint64_t offset)
{
	int r = stfs_torch_read(shard->torch, stfs_checkpoint_tensor(shard, tensor), buffer, len, offset);

	return r == -EBADMSG ? -EIO : r;
}
