/* SPDX-License-Identifier: MIT */
#include "codec/torch.h"

#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/io.h"
#include "codec/grow.h"
#include "codec/torch_internal.h"

#define HEAD 512

/* ---- What kind of file it is ---- */

/* Files that get the name of a checkpoint by mistake. */
static const struct {
	const char *begin, *what;
} mistaken[] = {
	{"version https://git-lfs", "a pointer of Git LFS, not the file itself: fetch it with git lfs pull"},
	{"<!DOCTYPE", "a web page, not a checkpoint"},
	{"<!doctype", "a web page, not a checkpoint"},
	{"<html", "a web page, not a checkpoint"},
};

static bool begins_as_pickle(const unsigned char *bytes, size_t len)
{
	return len > 1 && ((bytes[0] == 0x80 && bytes[1] <= 5) || bytes[0] == 'L' || bytes[0] == '(' ||
			   bytes[0] == 'c' || bytes[0] == '}' || bytes[0] == ']');
}

bool stfs_torch_could_be(const void *bytes, size_t len)
{
	return stfs_zip_is(bytes, len) || stfs_torch_tar_is(bytes, len) || begins_as_pickle(bytes, len);
}

const char *stfs_torch_form_name(enum stfs_torch_form form)
{
	static const char *const names[] = {[STFS_TORCH_ZIP] = "zip", [STFS_TORCH_LEGACY] = "legacy",
					    [STFS_TORCH_TAR] = "tar"};

	return names[form];
}

static int refuse_kind(const char *head, size_t len, struct stfs_err *err)
{
	for (size_t i = 0; i < sizeof(mistaken) / sizeof(mistaken[0]); i++)
		if (stfs_str_starts_with(stfs_str_slice(head, len), mistaken[i].begin))
			return stfs_err_set(err, -EBADMSG, 0, "%s", mistaken[i].what);
	return stfs_err_set(err, -EBADMSG, 0, "no PyTorch checkpoint: neither a zip archive, nor a pickle, nor a tar "
			    "archive begins there");
}

static int load(struct stfs_torch *torch, struct stfs_err *err)
{
	size_t len = (size_t)stfs_min_u64(torch->file_len, HEAD);
	char head[HEAD];
	int r = stfs_io_read_exactly(torch->fd, head, len, 0);

	if (r < 0)
		return stfs_err_errno(err, r, "reading the first bytes");
	if (stfs_zip_is(head, len)) {
		torch->form = STFS_TORCH_ZIP;
		return stfs_torch_load_zip(torch, err);
	}
	if (stfs_torch_tar_is(head, len)) {
		torch->form = STFS_TORCH_TAR;
		return stfs_torch_load_tar(torch, err);
	}
	if (!begins_as_pickle((const unsigned char *)head, len))
		return refuse_kind(head, len, err);
	torch->form = STFS_TORCH_LEGACY;
	return stfs_torch_load_legacy(torch, err);
}

/* ---- The pickle's bytes ---- */

uint64_t stfs_torch_file_at(const struct stfs_torch *torch, uint32_t at)
{
	size_t low = 0, high = torch->piece_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (torch->pieces[middle].at <= at)
			low = middle + 1;
		else
			high = middle;
	}
	return low ? torch->pieces[low - 1].file_at + (at - torch->pieces[low - 1].at) : at;
}

int stfs_torch_add_piece(struct stfs_torch *torch, uint32_t at, uint64_t file_at)
{
	int r = stfs_grow(&torch->pieces, &torch->piece_cap, torch->piece_count, 1, sizeof(*torch->pieces));

	if (r == 0)
		torch->pieces[torch->piece_count++] = (struct stfs_torch_piece){at, file_at};
	return r;
}

int stfs_torch_extend(struct stfs_torch *torch, uint64_t file_at, uint64_t len, struct stfs_err *err)
{
	struct stfs_pickle *pickle = &torch->pickle;
	int r;

	if (len > STFS_PICKLE_MAX - pickle->len)
		return stfs_err_set(err, -EFBIG, file_at, "the pickles take more than %u bytes", STFS_PICKLE_MAX);
	r = stfs_grow(&torch->bytes, &torch->bytes_cap, pickle->len, len, 1);
	if (r < 0)
		return stfs_err_set(err, r, file_at, "no memory for the pickles");
	pickle->data = torch->bytes;
	r = stfs_io_read_exactly(torch->fd, torch->bytes + pickle->len, len, file_at);
	if (r < 0)
		return stfs_err_errno(err, r, "reading at byte %llu", (unsigned long long)file_at);
	pickle->len += (uint32_t)len;
	return 0;
}

/* ---- Globals ---- */

int stfs_torch_judge(struct stfs_torch *torch, struct stfs_err *err)
{
	const struct stfs_pickle *pickle = &torch->pickle;
	char module[STFS_QUOTED_MAX], name[STFS_QUOTED_MAX];
	const struct stfs_pickle_global *first = NULL;
	uint32_t forged, forger;

	free(torch->infos);
	torch->infos = calloc(pickle->global_count + 1, sizeof(*torch->infos));
	if (!torch->infos)
		return -ENOMEM;
	for (uint32_t i = 0; i < pickle->global_count; i++) {
		torch->infos[i] = stfs_global_judge_pickled(pickle, i);
		if (!first && torch->infos[i].verdict == STFS_GLOBAL_REFUSED)
			first = &pickle->globals[i];
	}
	forged = stfs_torch_forged_type(torch);
	forger = stfs_pickle_global_of(pickle, forged);
	if (forger != STFS_NO_VALUE)
		torch->infos[forger].verdict = STFS_GLOBAL_REFUSED;
	if (!first && forger != STFS_NO_VALUE)
		return stfs_torch_fail(torch, stfs_pickle_at(pickle, forged)->at, err, "it builds a numpy type whose "
				       "memory this file would forge, or one that is not of plain numbers or texts");
	if (!first)
		return 0;
	if (first->extension)
		return stfs_torch_fail(torch, first->at, err, "it names a global by a number of the extension "
				       "registry, which is in no file");
	stfs_quote(stfs_pickle_module(pickle, first), module);
	stfs_quote(stfs_pickle_name(pickle, first), name);
	return stfs_torch_fail(torch, first->at, err, "it wants %s.%s, which is on no list of harmless globals: "
			       "nothing of it was run", module, name);
}

size_t stfs_torch_global_count(const struct stfs_torch *torch)
{
	return torch->infos ? torch->pickle.global_count : 0;
}

struct stfs_torch_global stfs_torch_global(const struct stfs_torch *torch, size_t index)
{
	const struct stfs_pickle_global *global = &torch->pickle.globals[index];

	return (struct stfs_torch_global){
		.at = stfs_torch_file_at(torch, global->at), .module = stfs_pickle_module(&torch->pickle, global),
		.name = stfs_pickle_name(&torch->pickle, global), .verdict = torch->infos[index].verdict};
}

/* ---- Opening ---- */

static int interpret(struct stfs_torch *torch, struct stfs_err *err)
{
	int r = stfs_pickle_settle(&torch->pickle);

	if (r == 0)
		r = stfs_torch_flatten(torch, err);
	if (r == 0)
		r = stfs_torch_settle_names(torch);
	return r < 0 ? r : stfs_torch_find_twins(torch);
}

/* What is refused shows nothing but its globals. */
static void forget(struct stfs_torch *torch)
{
	torch->tensor_count = torch->storage_count = torch->tar_count = 0;
	torch->leaves.count = torch->left_out.count = torch->refused.count = torch->notes.count = 0;
}

int stfs_torch_open(int fd, uint64_t file_len, struct stfs_torch **result, struct stfs_err *err)
{
	struct stfs_torch *torch = calloc(1, sizeof(*torch));
	struct stfs_err local = STFS_ERR_INIT;
	int r;

	*result = torch;
	err = err ? err : &local;
	if (!torch)
		return stfs_err_set(err, -ENOMEM, STFS_NO_POSITION, "no memory");
	torch->fd = fd;
	torch->file_len = file_len;
	torch->inflated_storage = STFS_NO_NUMBER;
	pthread_mutex_init(&torch->inflating, NULL);
	r = load(torch, err);
	if (r == 0)
		r = interpret(torch, err);
	if (r < 0 && err->code == 0)
		stfs_err_errno(err, r, "reading a checkpoint");
	if (r < 0)
		forget(torch);
	/* Of a large pickle the values are most of the memory, and all is said of them. */
	stfs_pickle_trim(&torch->pickle);
	return r;
}

static void free_remarks(struct stfs_torch_remarks *remarks)
{
	free(remarks->items);
}

void stfs_torch_close(struct stfs_torch *torch)
{
	if (!torch)
		return;
	stfs_pickle_free(&torch->pickle);
	stfs_zip_free(&torch->zip);
	stfs_nametable_free(&torch->by_key);
	stfs_texts_free(&torch->texts);
	free_remarks(&torch->leaves);
	free_remarks(&torch->left_out);
	free_remarks(&torch->refused);
	free_remarks(&torch->notes);
	if (torch->stream)
		stfs_inflate_close(torch->stream);
	free(torch->stream);
	free(torch->inflated);
	free(torch->bytes);
	free(torch->pieces);
	free(torch->infos);
	free(torch->storages);
	free(torch->tar_tensors);
	free(torch->tensors);
	free(torch->numbers);
	pthread_mutex_destroy(&torch->inflating);
	free(torch);
}

/* ---- What is in it ---- */

enum stfs_torch_form stfs_torch_form(const struct stfs_torch *torch)
{
	return torch->form;
}

const struct stfs_torch_storage *stfs_torch_storages(const struct stfs_torch *torch, uint32_t *count)
{
	*count = (uint32_t)torch->storage_count;
	return torch->storages;
}

const struct stfs_torch_tensor *stfs_torch_tensors(const struct stfs_torch *torch, uint32_t *count)
{
	*count = (uint32_t)torch->tensor_count;
	return torch->tensors;
}

const uint64_t *stfs_torch_shape(const struct stfs_torch *torch, const struct stfs_torch_tensor *tensor)
{
	return torch->numbers + tensor->numbers;
}

const uint64_t *stfs_torch_strides(const struct stfs_torch *torch, const struct stfs_torch_tensor *tensor)
{
	return torch->numbers + tensor->numbers + tensor->rank;
}

const struct stfs_torch_remarks *stfs_torch_leaves(const struct stfs_torch *torch)
{
	return &torch->leaves;
}

const struct stfs_torch_remarks *stfs_torch_left_out(const struct stfs_torch *torch)
{
	return &torch->left_out;
}

const struct stfs_torch_remarks *stfs_torch_refused(const struct stfs_torch *torch)
{
	return &torch->refused;
}

const struct stfs_torch_remarks *stfs_torch_notes(const struct stfs_torch *torch)
{
	return &torch->notes;
}
