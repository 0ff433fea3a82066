/* SPDX-License-Identifier: MIT */
/* Whether a checkpoint that is open is still the one that was read. */
#include <errno.h>
#include <sys/stat.h>

#include "codec/torch_internal.h"

static bool same_storages(const struct stfs_torch *a, const struct stfs_torch *b)
{
	if (a->storage_count != b->storage_count)
		return false;
	for (size_t i = 0; i < a->storage_count; i++)
		if (a->storages[i].offset != b->storages[i].offset || a->storages[i].size != b->storages[i].size ||
		    a->storages[i].element != b->storages[i].element)
			return false;
	return true;
}

static bool same_tensors(const struct stfs_torch *a, const struct stfs_torch *b)
{
	if (a->tensor_count != b->tensor_count || a->number_count != b->number_count)
		return false;
	for (size_t i = 0; i < a->number_count; i++)
		if (a->numbers[i] != b->numbers[i])
			return false;
	for (size_t i = 0; i < a->tensor_count; i++)
		if (!stfs_str_equal(a->tensors[i].name, b->tensors[i].name) ||
		    a->tensors[i].element != b->tensors[i].element || a->tensors[i].begin != b->tensors[i].begin ||
		    a->tensors[i].storage != b->tensors[i].storage)
			return false;
	return true;
}

/* Of the form whose numbers are strewn over the file, and which nobody has written for years: read again. */
static int same_again(const struct stfs_torch *torch, uint64_t file_len)
{
	struct stfs_torch *anew;
	int r = stfs_torch_open(torch->fd, file_len, &anew, NULL);

	if (r == 0)
		r = anew->form == torch->form && same_storages(torch, anew) && same_tensors(torch, anew);
	stfs_torch_close(anew);
	return r;
}

int stfs_torch_same(const struct stfs_torch *torch)
{
	struct stat st;
	uint64_t file_len;
	int r;

	if (fstat(torch->fd, &st) < 0)
		return -errno;
	file_len = (uint64_t)st.st_size;
	r = torch->form == STFS_TORCH_ZIP      ? stfs_torch_same_zip(torch, file_len)
	    : torch->form == STFS_TORCH_LEGACY ? stfs_torch_same_legacy(torch, file_len)
					       : same_again(torch, file_len);
	/* What is no checkpoint at all is not the same one. */
	return r == -EBADMSG || r == -EFBIG ? 0 : r;
}
