/* SPDX-License-Identifier: MIT */
#include "unit/header_tools.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "format/json.h"

int stfs_test_read(const void *bytes, size_t len, struct stfs_test_file *file)
{
	uint32_t text_len;
	char *text;
	int r;

	*file = (struct stfs_test_file){0};
	r = stfs_header_length(bytes, len < STFS_LENGTH_WORD ? len : STFS_LENGTH_WORD, len, &text_len,
			       &file->findings);
	if (r < 0)
		return r == -EBADMSG ? 0 : r;
	text = malloc(text_len ? text_len : 1); /* exact, for the address sanitizer */
	if (!text)
		return -ENOMEM;
	memcpy(text, (const char *)bytes + STFS_LENGTH_WORD, text_len);
	return stfs_header_read(text, text_len, len - STFS_LENGTH_WORD - text_len, &file->header,
				&file->findings);
}

void stfs_test_file_free(struct stfs_test_file *file)
{
	stfs_header_free(file->header);
	stfs_findings_free(&file->findings);
	file->header = NULL;
}

/* ---- Invariants ---- */

/* The dimensions of a tensor; freed by the caller. */
static uint64_t *shape_of(const struct stfs_header *header, const struct stfs_tensor *tensor)
{
	uint64_t *dims = calloc(tensor->rank + 1u, sizeof(*dims));

	if (!dims)
		abort();
	stfs_header_shape(header, tensor, dims);
	return dims;
}

/* H3, reckoned anew, in 128 bits. */
static const char *check_size(const struct stfs_header *header, const struct stfs_tensor *tensor)
{
	STFS_AUTO_FREE uint64_t *dims = shape_of(header, tensor);
	unsigned bits = stfs_dtype_info((enum stfs_dtype)tensor->dtype)->bits;
	unsigned __int128 product = 1;

	for (uint32_t i = 0; i < tensor->rank; i++) {
		product *= dims[i];
		if (product > UINT64_MAX)
			return "H3: a product that overflows from the left";
	}
	if (product != tensor->elements)
		return "elements is not the product of the shape";
	if (tensor->end < tensor->begin)
		return "H3: the end stands before the beginning";
	return product * bits == (unsigned __int128)(tensor->end - tensor->begin) * 8
		       ? NULL
		       : "H3: the size is not that of shape and dtype";
}

/* That positions lie in the text, at what they should point to. */
static const char *check_positions(const struct stfs_header *header, const struct stfs_tensor *tensor)
{
	if (tensor->key_pos == 0 || tensor->key_pos > header->text_len ||
	    header->text[tensor->key_pos - 1] != '"')
		return "key_pos is not behind a quote";
	if (tensor->entry_pos + (uint64_t)tensor->entry_len > header->text_len || !tensor->entry_len)
		return "the entry lies outside of the text";
	if (tensor->name_escaped ? tensor->name_pos + (uint64_t)tensor->name_len > header->names.len
				 : tensor->name_pos + (uint64_t)tensor->name_len > header->text_len)
		return "the name lies outside of the text";
	if (tensor->usable && header->text[tensor->shape_pos] != '[')
		return "shape_pos is not at a '['";
	return NULL;
}

/* H1: names of tensors that no later one shadows. */
static const char *check_names(const struct stfs_header *header)
{
	for (uint32_t i = 0; i < header->count; i++) {
		uint32_t found = stfs_header_find(header, stfs_header_name(header, &header->tensors[i]));

		if (header->tensors[i].shadowed ? found <= i || found == STFS_NO_TENSOR : found != i)
			return "H1: a name does not find its tensor";
	}
	return NULL;
}

/* H2; `tolerant`: only that nothing overlaps and that `complete` is right. */
static const char *check_order(const struct stfs_header *header, bool tolerant)
{
	uint64_t cursor = 0;

	if (header->by_offset_count > header->count)
		return "more places than tensors";
	for (uint32_t i = 0; i < header->by_offset_count; i++) {
		const struct stfs_tensor *tensor = &header->tensors[header->by_offset[i]];

		if (tensor->complete != (tensor->end <= header->data_len))
			return "complete is wrong";
		if (tensor->begin < cursor)
			return "H2: tensors overlap";
		if (!tolerant && tensor->begin > cursor)
			return "H2: a hole";
		cursor = tensor->end;
	}
	if (!tolerant && cursor != header->data_len)
		return "H2: the last tensor does not end with the file";
	if (!tolerant && header->by_offset_count != header->count)
		return "H2: a tensor has no place";
	return NULL;
}

const char *stfs_test_broken_invariant(const struct stfs_test_file *file)
{
	const struct stfs_header *header = file->header;
	bool refused = stfs_test_level(file) >= STFS_LEVEL_REFUSED;
	const char *broken = NULL;

	if (!header)
		return refused ? NULL : "taken without a header";
	if (!header->text_read && (header->count || header->metadata_len || !refused))
		return "something of a text that could not be read";
	for (uint32_t i = 0; !broken && i < header->count; i++)
		broken = check_positions(header, &header->tensors[i]);
	if (!broken)
		broken = check_names(header);
	if (broken || !stfs_findings_tolerable(&file->findings))
		return broken;
	for (uint32_t i = 0; !broken && i < header->count; i++) {
		if (!header->tensors[i].usable || header->tensors[i].shadowed)
			return "taken with a tensor that is not usable";
		broken = check_size(header, &header->tensors[i]);
	}
	return broken ? broken : check_order(header, refused);
}

/* ---- Writing again ---- */

/* The pairs of __metadata__, copied: the reader lends its strings for a call alone. */
struct pairs {
	struct stfs_header_pair *items;
	size_t count;
};

static struct stfs_str copied(struct stfs_str str)
{
	char *copy = malloc(str.len + 1);

	if (copy && str.len)
		memcpy(copy, str.ptr, str.len);
	return stfs_str_slice(copy, str.len);
}

static int keep_pair(void *data, struct stfs_str key, struct stfs_str value)
{
	struct pairs *pairs = data;
	struct stfs_header_pair *grown;

	if ((pairs->count & (pairs->count - 1)) == 0) {
		grown = reallocarray(pairs->items, pairs->count ? 2 * pairs->count : 1, sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		pairs->items = grown;
	}
	grown = &pairs->items[pairs->count];
	*grown = (struct stfs_header_pair){copied(key), copied(value)};
	pairs->count++;
	return grown->key.ptr && grown->value.ptr ? 0 : -ENOMEM;
}

static void free_pairs(struct pairs *pairs)
{
	for (size_t i = 0; i < pairs->count; i++) {
		free((void *)(uintptr_t)pairs->items[i].key.ptr);
		free((void *)(uintptr_t)pairs->items[i].value.ptr);
	}
	free(pairs->items);
}

/* The items, with their dimensions one after the other in `dims`. */
static void fill_items(const struct stfs_header *header, struct stfs_header_item *items, uint64_t *dims)
{
	for (uint32_t i = 0; i < header->count; i++) {
		const struct stfs_tensor *tensor = &header->tensors[i];

		stfs_header_shape(header, tensor, dims);
		items[i] = (struct stfs_header_item){
			.name = stfs_header_name(header, tensor),
			.dtype = (enum stfs_dtype)tensor->dtype,
			.dims = dims,
			.rank = tensor->rank,
			.begin = tensor->begin,
			.end = tensor->end,
			.source = {header->text + tensor->entry_pos, tensor->entry_len},
		};
		dims += tensor->rank;
	}
}

int stfs_test_rewrite(const struct stfs_header *header, size_t min_text_len, struct stfs_buf *out)
{
	STFS_AUTO_FREE struct stfs_header_item *items = calloc(header->count + 1u, sizeof(*items));
	STFS_AUTO_FREE uint64_t *dims = NULL;
	STFS_CLEANUP(free_pairs) struct pairs pairs = {0};
	struct stfs_header_parts parts;
	size_t ranks = 1;
	int r;

	for (uint32_t i = 0; i < header->count; i++)
		ranks += header->tensors[i].rank;
	dims = calloc(ranks, sizeof(*dims));
	if (!items || !dims)
		return -ENOMEM;
	fill_items(header, items, dims);
	r = stfs_header_metadata(header, keep_pair, &pairs);
	if (r < 0)
		return r;
	parts = (struct stfs_header_parts){.items = items, .item_count = header->count,
					   .pairs = pairs.items, .pair_count = pairs.count,
					   .metadata_index = header->metadata_index};
	return stfs_header_write(&parts, min_text_len, out, NULL);
}

static bool same_tensor(const struct stfs_header *a, const struct stfs_header *b, uint32_t index)
{
	const struct stfs_tensor *left = &a->tensors[index], *right = &b->tensors[index];
	STFS_AUTO_FREE uint64_t *left_dims = shape_of(a, left);
	STFS_AUTO_FREE uint64_t *right_dims = shape_of(b, right);

	return stfs_str_equal(stfs_header_name(a, left), stfs_header_name(b, right)) &&
	       left->dtype == right->dtype && left->rank == right->rank &&
	       left->begin == right->begin && left->end == right->end &&
	       memcmp(left_dims, right_dims, left->rank * sizeof(*left_dims)) == 0;
}

static bool same_metadata(const struct stfs_header *a, const struct stfs_header *b)
{
	STFS_CLEANUP(free_pairs) struct pairs left = {0};
	STFS_CLEANUP(free_pairs) struct pairs right = {0};

	if (stfs_header_metadata(a, keep_pair, &left) < 0 ||
	    stfs_header_metadata(b, keep_pair, &right) < 0 || left.count != right.count)
		return false;
	for (size_t i = 0; i < left.count; i++)
		if (!stfs_str_equal(left.items[i].key, right.items[i].key) ||
		    !stfs_str_equal(left.items[i].value, right.items[i].value))
			return false;
	return left.count == 0 || a->metadata_index == b->metadata_index;
}

bool stfs_test_same(const struct stfs_header *a, const struct stfs_header *b)
{
	if (a->count != b->count)
		return false;
	for (uint32_t i = 0; i < a->count; i++)
		if (!same_tensor(a, b, i))
			return false;
	return same_metadata(a, b);
}
