/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target of checkpoints: the input is a whole file. Whatever it is, opening it must not crash nor
 * take memory out of proportion, the invariants of codec/torch.h must hold of one that is taken, and
 * its tensors must be readable to the last byte, in any pieces alike.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "base/utf8.h"
#include "codec/suspects.h"
#include "codec/torch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t *input;
static size_t input_len;

static void demand(bool holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "fuzz_torch: %s\n", what);
	abort();
}

static ssize_t read_input(int fd, void *buffer, size_t len, off_t offset)
{
	size_t at = (size_t)offset < input_len ? (size_t)offset : input_len;

	len = len < input_len - at ? len : input_len - at;
	memcpy(buffer, input + at, len);
	return (ssize_t)len;
}

static bool is_text(struct stfs_str text)
{
	return stfs_utf8_check(text.ptr, text.len) == text.len;
}

static void check_remarks(const struct stfs_torch_remarks *remarks)
{
	for (size_t i = 0; i < remarks->count; i++)
		demand(is_text(remarks->items[i].name) && is_text(remarks->items[i].text),
		       "a remark is not UTF-8");
}

static int by_name(const void *a, const void *b)
{
	const struct stfs_torch_tensor *x = a, *y = b;

	return stfs_str_compare(x->name, y->name);
}

/* T1 */
static void check_names(const struct stfs_torch_tensor *tensors, uint32_t count)
{
	STFS_AUTO_FREE struct stfs_torch_tensor *sorted = calloc(count + 1ul, sizeof(*sorted));

	for (uint32_t i = 0; i < count; i++)
		sorted[i] = tensors[i];
	qsort(sorted, count, sizeof(*sorted), by_name);
	for (uint32_t i = 0; i < count; i++) {
		demand(is_text(sorted[i].name), "a name is not UTF-8");
		demand(!stfs_str_is(sorted[i].name, "__metadata__"), "a reserved name");
		demand(i == 0 || by_name(&sorted[i - 1], &sorted[i]) != 0, "two tensors of one name");
	}
}

/* T3, T4, and that the shape gives the bytes. */
static void check_tensor(const struct stfs_torch *torch, const struct stfs_torch_tensor *tensor,
			 const struct stfs_torch_storage *storage)
{
	const uint64_t *shape = stfs_torch_shape(torch, tensor);
	uint64_t elements = 1, bytes;

	for (unsigned i = 0; i < tensor->rank; i++)
		demand(!stfs_mul_overflows(elements, shape[i], &elements), "a shape overflows");
	demand(stfs_dtype_bytes((enum stfs_dtype)tensor->dtype, elements, &bytes) == 0 && bytes == tensor->bytes,
	       "the shape gives other bytes");
	demand(tensor->begin <= storage->size && tensor->span <= storage->size - tensor->begin,
	       "outside of its storage");
	demand(tensor->outsized == (tensor->bytes > input_len), "not said to be outsized");
	demand(!stfs_torch_is_plain(torch, tensor) || tensor->span == tensor->bytes || tensor->bytes == 0,
	       "contiguous, but not of one piece");
}

/* The whole in one piece, and again in pieces of seven bytes. */
static void read_tensor(struct stfs_torch *torch, const struct stfs_torch_tensor *tensor)
{
	char whole[4096], piece[7];
	uint64_t from = tensor->bytes > sizeof(whole) ? tensor->bytes - sizeof(whole) : 0;
	size_t len = (size_t)(tensor->bytes - from);
	int r = stfs_torch_read(torch, tensor, whole, len, from);

	demand(r == 0 || r == -EBADMSG || r == -EFBIG, "a tensor cannot be read");
	for (size_t at = 0; r == 0 && at < len; at += sizeof(piece)) {
		size_t some = len - at < sizeof(piece) ? len - at : sizeof(piece);

		demand(stfs_torch_read(torch, tensor, piece, some, from + at) == 0, "a piece cannot be read");
		demand(memcmp(piece, whole + at, some) == 0, "pieces differ from the whole");
	}
}

static void check_taken(struct stfs_torch *torch)
{
	uint32_t count, storage_count;
	const struct stfs_torch_tensor *tensors = stfs_torch_tensors(torch, &count);
	const struct stfs_torch_storage *storages = stfs_torch_storages(torch, &storage_count);

	check_names(tensors, count);
	check_remarks(stfs_torch_leaves(torch));
	check_remarks(stfs_torch_left_out(torch));
	check_remarks(stfs_torch_refused(torch));
	check_remarks(stfs_torch_notes(torch));
	for (uint32_t i = 0; i < storage_count; i++) {
		demand(storages[i].offset <= input_len && storages[i].stored <= input_len - storages[i].offset,
		       "a storage outside of the file"); /* T2 */
		if (i < 16)
			stfs_torch_verify(torch, i, NULL, NULL, NULL);
	}
	for (uint32_t i = 0; i < count; i++) {
		demand(tensors[i].storage < storage_count, "a tensor of no storage");
		check_tensor(torch, &tensors[i], &storages[tensors[i].storage]);
		if (i < 16)
			read_tensor(torch, &tensors[i]);
	}
}

/* Whatever it is: the search ends, and what it finds stands in the file. */
static void search(size_t size, const struct stfs_torch *torch, unsigned flags)
{
	struct stfs_suspects suspects;

	demand(stfs_suspects_find(-1, size, flags, NULL, NULL, &suspects) == 0, "the search failed");
	demand(suspects.count <= STFS_SUSPECTS_MAX, "too many are kept");
	demand(stfs_suspects_drop_known(&suspects, torch) == 0, "what is known was not dropped");
	for (uint32_t i = 0; i < suspects.count; i++) {
		const struct stfs_suspect *suspect = &suspects.items[i];

		demand(suspect->at < size || suspect->member.ptr, "a suspect behind the end");
		demand(stfs_global_judge(suspect->module, suspect->name).verdict == STFS_GLOBAL_REFUSED,
		       "a suspect that is not refused");
	}
	stfs_suspects_free(&suspects);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct stfs_io memory = stfs_io_system;
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_torch *torch;
	int r;

	memory.pread = read_input;
	stfs_io = &memory;
	input = data;
	input_len = size;
	r = stfs_torch_open(-1, size, &torch, &err);
	demand(torch != NULL, "no answer");
	demand(r == 0 || (err.code == r && is_text(stfs_str_from(err.message)) && err.message[0]),
	       "refused without a word");
	demand(r == 0 || r == -EBADMSG || r == -EFBIG, "another error");
	for (size_t i = 0; i < stfs_torch_global_count(torch); i++)
		demand(stfs_torch_global(torch, i).at < size || stfs_torch_form(torch) == STFS_TORCH_ZIP,
		       "a global behind the end");
	if (r == 0)
		check_taken(torch);
	search(size, torch, 0);
	search(size, torch, STFS_SUSPECTS_WHOLE);
	stfs_torch_close(torch);
	stfs_io = &stfs_io_system;
	return 0;
}

#ifdef STFS_FUZZ_REPLAY
#include "replay.h"
#endif
