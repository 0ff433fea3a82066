/* SPDX-License-Identifier: MIT */
#include "store/model.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "base/natural.h"
#include "store/model_internal.h"

/* Reads the whole index file into `buf`. */
static int load_index(const struct stfs_model *model, struct stfs_buf *buf, struct stfs_err *err)
{
	const char *path = model->resolved.path;
	STFS_AUTO_FD int fd = -1;
	struct stat st;
	ssize_t got;
	int r;

	fd = openat(model->resolved.folder_fd, model->resolved.name,
		    O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0 || fstat(fd, &st) < 0)
		return stfs_err_errno(err, -errno, "%s", path);
	if (!S_ISREG(st.st_mode))
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "%s: not a regular file", path);
	if (st.st_size > STFS_INDEX_MAX)
		return stfs_err_set(err, -EBADMSG, STFS_INDEX_MAX,
				    "%s: the index is larger than %u bytes", path, STFS_INDEX_MAX);
	r = stfs_buf_reserve(buf, (size_t)st.st_size);
	if (r < 0)
		return r;
	got = stfs_io_pread_full(fd, buf->data, (size_t)st.st_size, 0);
	if (got < 0)
		return stfs_err_errno(err, (int)got, "%s", path);
	buf->len = (size_t)got;
	return 0;
}

static int read_index(struct stfs_model *model, struct stfs_err *err)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	struct stfs_err why = STFS_ERR_INIT;
	int r = load_index(model, &text, err);

	if (r < 0)
		return r;
	r = stfs_index_read(text.data, text.len, &model->index, &why);
	if (r == -EBADMSG)
		return stfs_err_set(err, r, why.position, "%s: %s: %s (rule index)", model->resolved.path,
				    model->resolved.name, why.message);
	return r;
}

static int open_shards(struct stfs_model *model)
{
	uint32_t count = model->resolved.is_index ? model->index.file_count : 1;
	int r;

	model->shards = calloc(count ? count : 1, sizeof(*model->shards));
	model->first_id = calloc(count + 1, sizeof(*model->first_id));
	if (!model->shards || !model->first_id)
		return -ENOMEM;
	for (uint32_t i = 0; i < count; i++) {
		r = stfs_shard_open(&model->shards[i], model->resolved.folder_fd,
				    model->resolved.is_index ? model->index.files[i]
							     : model->resolved.name);
		if (r < 0)
			return r;
		model->shard_count++;
		model->first_id[i + 1] = model->first_id[i] +
					 (model->shards[i].header ? model->shards[i].header->count : 0);
	}
	return 0;
}

/* "MODEL" or "MODEL: SHARD", for messages. */
static const char *label(const struct stfs_model *model, const struct stfs_shard *shard, char *out,
			 size_t size)
{
	if (model->resolved.is_index || strcmp(model->resolved.path, model->resolved.name) != 0) {
		const char *end = strrchr(model->resolved.path, '/');

		/* Not twice the same when the path already ends in the file's name. */
		if (!end || strcmp(end + 1, shard->name) != 0) {
			snprintf(out, size, "%s: %s", model->resolved.path, shard->name);
			return out;
		}
	}
	return model->resolved.path;
}

/* Whether the model may be opened in this mode; fills err from the first reason why not. */
static int admit(struct stfs_model *model, bool tolerant, struct stfs_err *err)
{
	struct stfs_err why = STFS_ERR_INIT;
	char name[512];

	for (uint32_t i = 0; i < model->shard_count; i++) {
		struct stfs_shard *shard = &model->shards[i];

		label(model, shard, name, sizeof(name));
		if (shard->status == -EINVAL)
			return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "%s: not a regular file",
					    label(model, shard, name, sizeof(name)));
		if (shard->status < 0)
			return stfs_err_errno(err, shard->status, "%s",
					      label(model, shard, name, sizeof(name)));
		if (stfs_findings_error(&shard->findings, tolerant, &why) < 0)
			return stfs_err_set(err, why.code, why.position, "%s: byte %llu: %s",
					    label(model, shard, name, sizeof(name)),
					    (unsigned long long)why.position, why.message);
	}
	if (stfs_findings_error(&model->findings, tolerant, &why) < 0)
		return stfs_err_set(err, why.code, why.position, "%s: %s", model->resolved.path,
				    why.message);
	return 0;
}

static void count_shown(struct stfs_model *model)
{
	struct stfs_tensor_ref ref;

	for (uint32_t id = 0; id < stfs_model_ids(model); id++) {
		if (stfs_model_tensor(model, id, &ref)) {
			model->shown++;
			model->shown_bytes += ref.len;
		}
	}
}

static int open_model(struct stfs_model *model, const char *path, unsigned flags, struct stfs_err *err)
{
	bool judge = flags & STFS_OPEN_JUDGE;
	int r = stfs_resolve(path, &model->resolved, err);

	if (r == 0 && model->resolved.is_index)
		r = read_index(model, err);
	if (r < 0 && r != -ENOMEM && judge) {
		model->unread = *err;
		model->first_id = calloc(1, sizeof(*model->first_id));
		return model->first_id ? 0 : -ENOMEM;
	}
	if (r == 0)
		r = open_shards(model);
	if (r == 0 && model->resolved.is_index)
		r = stfs_model_unite(model);
	if (r == 0 && !judge) {
		r = admit(model, false, err);
		if (r == -EBADMSG && flags & STFS_OPEN_TOLERANT) {
			r = admit(model, true, err);
			model->tolerated = r == 0;
		}
	}
	if (r == 0)
		count_shown(model);
	for (uint32_t i = 0; r == 0 && flags & STFS_OPEN_MAP && i < model->shard_count; i++)
		stfs_shard_map(&model->shards[i]);
	return r;
}

int stfs_model_open(const char *path, unsigned flags, struct stfs_model **model, struct stfs_err *err)
{
	struct stfs_err ignored = STFS_ERR_INIT;
	struct stfs_model *made = calloc(1, sizeof(*made));
	int r = -ENOMEM;

	if (!err)
		err = &ignored;
	if (made) {
		made->resolved.folder_fd = -1;
		r = open_model(made, path, flags, err);
	}
	if (r == -ENOMEM)
		stfs_err_errno(err, r, "%s", path);
	if (r < 0) {
		stfs_model_close(made);
		return r;
	}
	*model = made;
	return 0;
}

void stfs_model_close(struct stfs_model *model)
{
	if (!model)
		return;
	for (uint32_t i = 0; i < model->shard_count; i++)
		stfs_shard_close(&model->shards[i]);
	free(model->shards);
	free(model->first_id);
	stfs_index_free(&model->index);
	stfs_findings_free(&model->findings);
	stfs_resolved_free(&model->resolved);
	free(model);
}

/* The shard whose ids hold `id`, which is below stfs_model_ids(). */
static uint32_t shard_of(const struct stfs_model *model, uint32_t id)
{
	uint32_t low = 0, high = model->shard_count - 1;

	while (low < high) {
		uint32_t middle = low + (high - low + 1) / 2;

		if (model->first_id[middle] <= id)
			low = middle;
		else
			high = middle - 1;
	}
	return low;
}

bool stfs_model_tensor(const struct stfs_model *model, uint32_t id, struct stfs_tensor_ref *ref)
{
	struct stfs_shard *shard;
	const struct stfs_tensor *tensor;
	uint32_t number;

	if (id >= stfs_model_ids(model))
		return false;
	number = shard_of(model, id);
	shard = &model->shards[number];
	tensor = &shard->header->tensors[id - model->first_id[number]];
	if (!stfs_tensor_shown(tensor))
		return false;
	*ref = (struct stfs_tensor_ref){
		.shard = shard,
		.tensor = tensor,
		.name = stfs_header_name(shard->header, tensor),
		.dtype = stfs_dtype_info((enum stfs_dtype)tensor->dtype),
		.offset = stfs_header_data_start(shard->header) + tensor->begin,
		.len = tensor->end - tensor->begin,
	};
	return true;
}

uint32_t stfs_model_find(const struct stfs_model *model, struct stfs_str name)
{
	for (uint32_t i = 0; i < model->shard_count; i++) {
		const struct stfs_header *header = model->shards[i].header;
		uint32_t index = header ? stfs_header_find(header, name) : STFS_NO_TENSOR;

		if (index != STFS_NO_TENSOR && stfs_tensor_shown(&header->tensors[index]))
			return model->first_id[i] + index;
	}
	return STFS_NO_TENSOR;
}

uint64_t *stfs_model_shape(const struct stfs_tensor_ref *ref)
{
	uint64_t *dims = calloc(ref->tensor->rank ? ref->tensor->rank : 1, sizeof(*dims));

	if (dims)
		stfs_header_shape(ref->shard->header, ref->tensor, dims);
	return dims;
}

static int by_name(const void *left, const void *right, void *data)
{
	struct stfs_tensor_ref a, b;

	stfs_model_tensor(data, *(const uint32_t *)left, &a);
	stfs_model_tensor(data, *(const uint32_t *)right, &b);
	return stfs_natural_compare(a.name, b.name);
}

uint32_t *stfs_model_sorted(const struct stfs_model *model)
{
	uint32_t *ids = malloc((model->shown ? model->shown : 1) * sizeof(*ids)), count = 0;
	struct stfs_tensor_ref ref;

	if (!ids)
		return NULL;
	for (uint32_t id = 0; id < stfs_model_ids(model); id++)
		if (stfs_model_tensor(model, id, &ref))
			ids[count++] = id;
	qsort_r(ids, count, sizeof(*ids), by_name, (void *)(uintptr_t)model);
	return ids;
}

ssize_t stfs_model_pread(const struct stfs_model *model, const struct stfs_tensor_ref *ref,
			 void *buffer, size_t len, uint64_t offset)
{
	ssize_t got;

	if (offset >= ref->len)
		return 0;
	if (len > ref->len - offset)
		len = (size_t)(ref->len - offset);
	got = stfs_io_pread_full(ref->shard->fd, buffer, len, ref->offset + offset);
	return got >= 0 && (size_t)got < len ? -EIO : got;
}

/* Metadata of several shards as one: the hashes of the keys of earlier shards, sorted. */
struct merge {
	struct stfs_sipkey key;
	uint64_t *seen; /* owned */
	size_t sorted, count, cap;
	bool several; /* shards: else nothing needs remembering */
	int (*each)(void *data, struct stfs_str key, struct stfs_str value);
	void *data;
};

static int by_hash(const void *left, const void *right)
{
	uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

	return a < b ? -1 : a > b;
}

static int merge_pair(void *data, struct stfs_str key, struct stfs_str value)
{
	struct merge *merge = data;
	uint64_t hash, *seen;
	size_t cap;

	if (!merge->several)
		return merge->each(merge->data, key, value);
	hash = stfs_siphash(&merge->key, key);
	if (merge->sorted && bsearch(&hash, merge->seen, merge->sorted, sizeof(hash), by_hash))
		return 0;
	if (merge->count == merge->cap) {
		cap = merge->cap ? 2 * merge->cap : 64;
		seen = reallocarray(merge->seen, cap, sizeof(*seen));
		if (!seen)
			return -ENOMEM;
		merge->seen = seen;
		merge->cap = cap;
	}
	merge->seen[merge->count++] = hash;
	return merge->each(merge->data, key, value);
}

int stfs_model_metadata(const struct stfs_model *model,
			int (*each)(void *data, struct stfs_str key, struct stfs_str value), void *data)
{
	struct merge merge = {.several = model->shard_count > 1, .each = each, .data = data};
	int r = stfs_sipkey_random(&merge.key);

	for (uint32_t i = 0; r == 0 && i < model->shard_count; i++) {
		if (!model->shards[i].header)
			continue;
		r = stfs_header_metadata(model->shards[i].header, merge_pair, &merge);
		if (merge.count > merge.sorted)
			qsort(merge.seen, merge.count, sizeof(*merge.seen), by_hash);
		merge.sorted = merge.count;
	}
	free(merge.seen);
	return r;
}

bool stfs_model_has_metadata(const struct stfs_model *model)
{
	for (uint32_t i = 0; i < model->shard_count; i++)
		if (model->shards[i].header && model->shards[i].header->metadata_len)
			return true;
	return false;
}
