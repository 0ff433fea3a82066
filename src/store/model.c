/* SPDX-License-Identifier: MIT */
#include "store/model.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "base/natural.h"
#include "commit/commit.h"
#include "store/checkpoint.h"
#include "store/model_internal.h"

#define STFS_BUSY_TEXT "%s: is mounted, or another command is changing it; try again when that is over"

static int given_fd(const struct stfs_given *given, size_t count, const char *name)
{
	for (size_t i = 0; i < count; i++)
		if (strcmp(given[i].name, name) == 0)
			return given[i].fd;
	return -1;
}

static int open_index(struct stfs_model *model, unsigned flags, int given, struct stfs_err *err)
{
	const char *path = model->resolved.path;
	bool irregular = false;
	struct stat st;
	int r = 0;

	if (given >= 0)
		model->index_fd = fcntl(given, F_DUPFD_CLOEXEC, 3);
	else
		r = stfs_resolve_open(model->resolved.folder_fd, model->resolved.name, flags,
				      &model->index_fd, &st, &irregular);
	if (irregular)
		return stfs_err_set(err, r, STFS_NO_POSITION, "%s: not a regular file", path);
	if (r == -EBUSY)
		return stfs_err_set(err, r, STFS_NO_POSITION, STFS_BUSY_TEXT, path);
	if (r == 0 && model->index_fd < 0)
		r = -errno;
	return r < 0 ? stfs_err_errno(err, r, "%s", path) : 0;
}

int stfs_model_index_text(struct stfs_model *model, char **text, size_t *len, struct stfs_err *err)
{
	const char *path = model->resolved.path;
	struct stat st;
	ssize_t got;

	if (fstat(model->index_fd, &st) < 0)
		return stfs_err_errno(err, -errno, "%s", path);
	if (st.st_size > STFS_INDEX_MAX)
		return stfs_err_set(err, -EBADMSG, STFS_INDEX_MAX,
				    "%s: the index is larger than %u bytes", path, STFS_INDEX_MAX);
	*text = malloc(st.st_size ? (size_t)st.st_size : 1);
	if (!*text)
		return -ENOMEM;
	got = stfs_io_pread_full(model->index_fd, *text, (size_t)st.st_size, 0);
	if (got < 0)
		return stfs_err_errno(err, (int)got, "%s", path);
	*len = (size_t)got;
	return 0;
}

/* Something that the index says cannot be. */
static int refuse_index(const struct stfs_model *model, uint64_t position, struct stfs_err *err,
			const char *message)
{
	return stfs_err_set(err, -EBADMSG, position, "%s: %s: %s (rule index)", model->resolved.path,
			    model->resolved.name, message);
}

static int read_index(struct stfs_model *model, struct stfs_err *err)
{
	STFS_AUTO_FREE char *text = NULL;
	struct stfs_err why = STFS_ERR_INIT;
	size_t len = 0;
	int r = stfs_model_index_text(model, &text, &len, err);

	if (r < 0)
		return r;
	r = stfs_index_read(stfs_steal_ptr(&text), len, &model->index, &why);
	return r == -EBADMSG ? refuse_index(model, why.position, err, why.message) : r;
}

/* Whether shard number `number` may stand beside those before it (M3). 0 or -EBADMSG. */
static int admit_shard(const struct stfs_model *model, uint32_t number, uint64_t *texts,
		       struct stfs_err *err)
{
	const struct stfs_shard *shard = &model->shards[number];
	char message[256], quoted[STFS_QUOTED_MAX], quoted_other[STFS_QUOTED_MAX];

	for (uint32_t i = 0; shard->fd >= 0 && i < number; i++) {
		const struct stfs_shard *other = &model->shards[i];
		STFS_AUTO_FREE char *text = NULL;

		if (other->fd < 0 || other->st.st_ino != shard->st.st_ino ||
		    other->st.st_dev != shard->st.st_dev)
			continue;
		if (asprintf(&text, "\"%s\" and \"%s\" are two names of one file",
			     stfs_quote(stfs_str_from(other->name), quoted_other),
			     stfs_quote(stfs_str_from(shard->name), quoted)) < 0) {
			text = NULL;
			return -ENOMEM;
		}
		return refuse_index(model, STFS_NO_POSITION, err, text);
	}
	*texts += shard->header ? shard->header->text_len : 0;
	if (*texts <= STFS_HEADERS_MAX)
		return 0;
	snprintf(message, sizeof(message), "the headers of its first %" PRIu32 " files have %" PRIu64
		 " bytes together, more than %" PRIu64, number + 1, *texts, STFS_HEADERS_MAX);
	return refuse_index(model, STFS_NO_POSITION, err, message);
}

static int open_shards(struct stfs_model *model, unsigned flags, const struct stfs_given *given,
		       size_t given_count, struct stfs_err *err)
{
	uint32_t count = model->resolved.is_index ? model->index.file_count : 1;
	uint64_t texts = 0;
	int r;

	model->shards = calloc(count, sizeof(*model->shards));
	model->first_id = calloc(count + 1, sizeof(*model->first_id));
	if (!model->shards || !model->first_id)
		return -ENOMEM;
	for (uint32_t i = 0; i < count; i++) {
		const char *name = model->resolved.is_index ? model->index.files[i]
							    : model->resolved.name;

		r = stfs_shard_open(&model->shards[i], model->resolved.folder_fd, name, flags,
				    given_fd(given, given_count, name));
		if (r < 0)
			return r;
		model->shard_count++;
		model->first_id[i + 1] = model->first_id[i];
		r = admit_shard(model, i, &texts, err);
		if (r < 0)
			return r;
		/* Within STFS_HEADERS_MAX it cannot overflow; nothing here need know. */
		if (model->shards[i].header &&
		    __builtin_add_overflow(model->first_id[i], model->shards[i].header->count,
					   &model->first_id[i + 1]))
			return stfs_err_set(err, -EOVERFLOW, STFS_NO_POSITION, "%s: too many tensors",
					    model->resolved.path);
	}
	return 0;
}

static void close_shards(struct stfs_model *model)
{
	for (uint32_t i = 0; i < model->shard_count; i++)
		stfs_shard_close(&model->shards[i]);
	free(model->shards);
	free(model->first_id);
	model->shards = NULL;
	model->first_id = NULL;
	model->shard_count = 0;
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
	const char *where;
	struct stat st;
	char name[512];

	for (uint32_t i = 0; i < model->shard_count; i++) {
		struct stfs_shard *shard = &model->shards[i];

		where = label(model, shard, name, sizeof(name));
		if (shard->irregular)
			return stfs_err_set(err, shard->status, STFS_NO_POSITION, "%s: not a "
					    "regular file", where);
		/* Opened for writing, which follows no link; a loop of links leads nowhere. */
		if (shard->status == -ELOOP &&
		    fstatat(model->resolved.folder_fd, shard->name, &st, 0) == 0)
			return stfs_err_set(err, -EPERM, STFS_NO_POSITION, "%s: is a link; the files of a "
					    "sharded model are changed only where they are (cp -rL the folder)",
					    where);
		if (shard->status == -EBUSY)
			return stfs_err_set(err, shard->status, STFS_NO_POSITION, STFS_BUSY_TEXT,
					    where);
		if (shard->status == -ENOENT && model->resolved.is_index)
			return stfs_err_set(err, shard->status, STFS_NO_POSITION, "%s: No such "
					    "file or directory; fetch it again (until then the "
					    "other files of the model can be read one by one)",
					    where);
		if (shard->status < 0)
			return stfs_err_errno(err, shard->status, "%s", where);
		if (stfs_findings_error(&shard->findings, tolerant, &why) < 0)
			return why.position == STFS_NO_POSITION
				       ? stfs_err_set(err, why.code, why.position, "%s: %s", where, why.message)
				       : stfs_err_set(err, why.code, why.position, "%s: byte %" PRIu64 ": %s",
						      where, why.position, why.message);
	}
	if (stfs_findings_error(&model->findings, tolerant, &why) < 0)
		return stfs_err_set(err, why.code, why.position, "%s: %s", model->resolved.path,
				    why.message);
	return 0;
}

/* Once shards and index are one, and for as long as the model is open: M2. */
static void model_assert(const struct stfs_model *model)
{
	struct stfs_tensor_ref ref;

	for (uint32_t id = 0; id < stfs_model_ids(model); id++) {
		if (!stfs_model_tensor(model, id, &ref))
			continue;
		assert(ref.offset == STFS_NO_OFFSET ? ref.shard->torch != NULL
						    : ref.offset <= ref.shard->size &&
							      ref.len <= ref.shard->size - ref.offset);
	}
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

/* Without locks a whole commit may have come between two files being opened: then they are not one model. */
static int check_together(struct stfs_model *model, struct stfs_err *err)
{
	struct stat st;

	for (uint32_t i = 0; i < model->shard_count; i++) {
		struct stfs_shard *shard = &model->shards[i];

		if (shard->status < 0 || !shard->header)
			continue;
		if (fstatat(model->resolved.folder_fd, shard->name, &st, 0) < 0 ||
		    st.st_ino != shard->st.st_ino || st.st_dev != shard->st.st_dev ||
		    stfs_shard_check(shard) < 0)
			return stfs_err_set(err, -EAGAIN, STFS_NO_POSITION, "%s: %s was changed while the "
					    "model was being opened; try again", model->resolved.path, shard->name);
	}
	return 0;
}

int stfs_model_say_interrupted(const char *path, struct stfs_err *err)
{
	return stfs_err_set(err, -EUCLEAN, STFS_NO_POSITION, "%s: a commit is under way, or was "
			    "interrupted: `stfs recover` finishes it", path);
}

/* All that may be wrong with the path, the index, and the shards as its parts. */
static int open_parts(struct stfs_model *model, const char *path, unsigned flags,
		      const struct stfs_given *given, size_t count, struct stfs_err *err)
{
	int r = stfs_resolve(path, &model->resolved, err);

	if (r == 0 && model->resolved.is_index) {
		r = open_index(model, flags, given_fd(given, count, model->resolved.name), err);
		if (r == 0)
			r = read_index(model, err);
		if (!(flags & (STFS_OPEN_LOCK | STFS_OPEN_WRITE)) && model->index_fd >= 0)
			close(stfs_steal_fd(&model->index_fd));
	}
	if (r == 0)
		r = open_shards(model, flags, given, count, err);
	if (r == 0 && model->resolved.is_index && !(flags & (STFS_OPEN_LOCK | STFS_OPEN_WRITE | STFS_OPEN_JUDGE)))
		r = check_together(model, err);
	/* Between two of its files being changed nobody may read them as one model. */
	if (r == 0 && model->resolved.is_index && !(flags & STFS_OPEN_WRITE) &&
	    stfs_commit_interrupted(model->resolved.folder_fd, model->resolved.name) > 0)
		r = stfs_model_say_interrupted(model->resolved.path, err);
	return r;
}

static int open_model(struct stfs_model *model, const char *path, unsigned flags,
		      const struct stfs_given *given, size_t count, struct stfs_err *err)
{
	bool judge = flags & STFS_OPEN_JUDGE;
	int r = open_parts(model, path, flags, given, count, err);

	if (r < 0 && err->code < 0 && r != -ENOMEM && judge) {
		model->unread = *err;
		close_shards(model);
		stfs_index_free(&model->index);
		model->first_id = calloc(1, sizeof(*model->first_id));
		return model->first_id ? 0 : -ENOMEM;
	}
	if (r == 0 && model->resolved.is_index)
		r = stfs_model_unite(model);
	if (r == 0 && !judge) {
		r = admit(model, false, err);
		if (r == -EBADMSG && flags & STFS_OPEN_TOLERANT) {
			r = admit(model, true, err);
			model->tolerated = r == 0;
		}
	}
	if (r == 0 && flags & STFS_OPEN_WRITE && stfs_model_has_checkpoint(model))
		r = stfs_model_say_checkpoint(path, err);
	if (r < 0)
		return r;
	count_shown(model);
	model_assert(model);
	for (uint32_t i = 0; flags & STFS_OPEN_MAP && i < model->shard_count; i++)
		stfs_shard_map(&model->shards[i]);
	return 0;
}

int stfs_model_open(const char *path, unsigned flags, struct stfs_model **model, struct stfs_err *err)
{
	return stfs_model_open_given(path, flags, NULL, 0, model, err);
}

int stfs_model_open_given(const char *path, unsigned flags, const struct stfs_given *given,
			  size_t count, struct stfs_model **model, struct stfs_err *err)
{
	struct stfs_err why = STFS_ERR_INIT;
	struct stfs_model *made = calloc(1, sizeof(*made));
	int r = -ENOMEM;

	if (made) {
		made->resolved.folder_fd = made->index_fd = -1;
		r = open_model(made, path, flags, given, count, &why);
	}
	if (r < 0) {
		if (why.code != r) /* of the system: nobody has said it */
			stfs_err_errno(&why, r, "%s", path);
		if (err)
			*err = why;
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
	close_shards(model);
	stfs_nametable_free(&model->by_name);
	stfs_index_free(&model->index);
	stfs_findings_free(&model->findings);
	if (model->index_fd >= 0)
		close(model->index_fd);
	stfs_resolved_free(&model->resolved);
	free(model);
}

uint32_t stfs_model_shard_of(const struct stfs_model *model, uint32_t id)
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
	number = stfs_model_shard_of(model, id);
	shard = &model->shards[number];
	tensor = &shard->header->tensors[id - model->first_id[number]];
	if (!stfs_tensor_shown(tensor))
		return false;
	*ref = (struct stfs_tensor_ref){
		.shard = shard,
		.tensor = tensor,
		.name = stfs_header_name(shard->header, tensor),
		.dtype = stfs_dtype_info((enum stfs_dtype)tensor->dtype),
		.offset = shard->torch ? stfs_checkpoint_offset(shard, tensor)
				       : stfs_header_data_start(shard->header) + tensor->begin,
		.len = tensor->end - tensor->begin,
	};
	return true;
}

struct stfs_str stfs_model_name_of(const void *owner, uint32_t id)
{
	const struct stfs_model *model = owner;
	uint32_t number = stfs_model_shard_of(model, id);
	const struct stfs_header *header = model->shards[number].header;

	return stfs_header_name(header, &header->tensors[id - model->first_id[number]]);
}

/* Of one file the id is the index in its header, which has such a table already. */
uint32_t stfs_model_find(const struct stfs_model *model, struct stfs_str name)
{
	uint32_t id = STFS_NO_TENSOR;
	struct stfs_tensor_ref ref;

	if (model->by_name.slots)
		id = *stfs_nametable_slot(&model->by_name, name, stfs_model_name_of, model);
	else if (model->shard_count == 1 && model->shards[0].header)
		id = stfs_header_find(model->shards[0].header, name);
	return stfs_model_tensor(model, id, &ref) ? id : STFS_NO_TENSOR;
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
	if (ref->offset == STFS_NO_OFFSET) {
		int r = stfs_checkpoint_read(ref->shard, ref->tensor, buffer, len, offset);

		return r < 0 ? r : (ssize_t)len;
	}
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

bool stfs_model_has_checkpoint(const struct stfs_model *model)
{
	for (uint32_t i = 0; i < model->shard_count; i++)
		if (model->shards[i].torch)
			return true;
	return false;
}

int stfs_model_say_checkpoint(const char *path, struct stfs_err *err)
{
	return stfs_err_set(err, -EMEDIUMTYPE, STFS_NO_POSITION, "%s: is a PyTorch checkpoint, which can only be "
			    "read: `stfs import-pytorch` makes a model of it", path);
}

enum stfs_interrupted stfs_model_interrupted(const struct stfs_model *model)
{
	unsigned char word[STFS_LENGTH_WORD];
	bool poisoned = false;

	if (model->resolved.name && stfs_commit_interrupted(model->resolved.folder_fd, model->resolved.name) > 0)
		return STFS_INTERRUPTED;
	for (uint32_t i = 0; !poisoned && i < model->shard_count; i++) {
		const struct stfs_shard *shard = &model->shards[i];

		poisoned = !shard->header && shard->fd >= 0 &&
			   stfs_io_pread_full(shard->fd, word, sizeof(word), 0) == sizeof(word) &&
			   stfs_header_poisoned(stfs_load_le64(word));
	}
	return poisoned ? STFS_JOURNAL_MISSING : STFS_NOT_INTERRUPTED;
}
