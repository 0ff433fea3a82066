/* SPDX-License-Identifier: MIT */
/* From names to inodes. */
#include <errno.h>
#include <stdlib.h>

#include "format/names.h"
#include "fs/fs.h"

#define DIGEST 32

static int by_digest(const void *left, const void *right)
{
	const struct stfs_hashed_name *a = left, *b = right;

	return memcmp(a->digest, b->digest, DIGEST);
}

/* The names that are too long for a file name: few or none, so a second pass costs nothing. */
int stfs_fs_index_hashed(struct stfs_fs *fs)
{
	char file[STFS_NAME_MAX + 1];
	struct stfs_tensor_ref ref;
	size_t cap = 0, len;
	void *grown;

	for (uint32_t id = 0; id < stfs_model_ids(fs->model); id++) {
		if (!stfs_model_tensor(fs->model, id, &ref) || ref.name.len <= STFS_NAME_MAX / 3)
			continue;
		len = stfs_name_encode(ref.name, file);
		if (!stfs_name_is_hashed(stfs_str_slice(file, len)))
			continue;
		if (fs->hashed_count == cap) {
			cap = cap ? 2 * cap : 16;
			grown = reallocarray(fs->hashed, cap, sizeof(*fs->hashed));
			if (!grown)
				return -ENOMEM;
			fs->hashed = grown;
		}
		memcpy(fs->hashed[fs->hashed_count].digest, file + len - DIGEST, DIGEST);
		fs->hashed[fs->hashed_count++].id = id;
	}
	if (fs->hashed_count)
		qsort(fs->hashed, fs->hashed_count, sizeof(*fs->hashed), by_digest);
	return 0;
}

static uint32_t find_hashed(const struct stfs_fs *fs, struct stfs_str file)
{
	struct stfs_hashed_name key, *found;
	char encoded[STFS_NAME_MAX + 1];
	struct stfs_tensor_ref ref;
	size_t len;

	if (!fs->hashed_count)
		return STFS_NO_TENSOR;
	memcpy(key.digest, file.ptr + file.len - DIGEST, DIGEST);
	found = bsearch(&key, fs->hashed, fs->hashed_count, sizeof(*fs->hashed), by_digest);
	if (!found || !stfs_model_tensor(fs->model, found->id, &ref))
		return STFS_NO_TENSOR;
	len = stfs_name_encode(ref.name, encoded); /* the prefix must be right as well */
	return stfs_str_equal(file, stfs_str_slice(encoded, len)) ? found->id : STFS_NO_TENSOR;
}

static int find_tensor(const struct stfs_fs *fs, struct stfs_str file, uint32_t *id)
{
	STFS_AUTO_BUF struct stfs_buf name = STFS_BUF_INIT;
	int r;

	if (stfs_name_is_hashed(file)) {
		*id = find_hashed(fs, file);
	} else {
		r = stfs_name_decode(file, &name);
		if (r < 0)
			return r;
		*id = stfs_model_find(fs->model, stfs_buf_str(&name));
	}
	return *id == STFS_NO_TENSOR ? -ENOENT : 0;
}

int stfs_fs_lookup(struct stfs_fs *fs, const char *name, fuse_ino_t *ino)
{
	static const enum stfs_form forms[] = {
		[STFS_FILE_TENSOR] = STFS_FORM_RAW,
		[STFS_FILE_SIDECAR] = STFS_FORM_SIDECAR,
		[STFS_FILE_NPY] = STFS_FORM_NPY,
	};
	struct stfs_tensor_ref ref;
	struct stfs_str stem;
	enum stfs_file_kind kind = stfs_file_classify(stfs_str_from(name), &stem);
	uint32_t id;
	int r;

	if (kind == STFS_FILE_SCRATCH)
		return -ENOENT;
	if (kind == STFS_FILE_STATUS || kind == STFS_FILE_METADATA) {
		*ino = kind == STFS_FILE_STATUS ? STFS_INO_STATUS : STFS_INO_METADATA;
		return kind == STFS_FILE_METADATA && !fs->has_metadata ? -ENOENT : 0;
	}
	r = find_tensor(fs, stem, &id);
	if (r < 0)
		return r;
	if (!stfs_model_tensor(fs->model, id, &ref) || !stfs_fs_has_form(&ref, forms[kind]))
		return -ENOENT;
	*ino = stfs_fs_ino(id, forms[kind]);
	return 0;
}
