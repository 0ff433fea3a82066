/* SPDX-License-Identifier: MIT */
#include "ops/export.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <zlib.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "base/siphash.h"
#include "codec/zip_write.h"

/* Large enough for the calls to cost nothing, small enough to be in the processor's cache when it is summed up. */
#define PIECE (1u << 20)

/* ---- The pickle ---- */

/* Whether torch can have the tensor; `dims` become those of torch's. NULL or why not. */
static const char *judge(const struct stfs_tensor_ref *ref, uint64_t *dims)
{
	const struct stfs_element *element = stfs_element_by_dtype((enum stfs_dtype)ref->tensor->dtype);

	return element ? stfs_torch_write_shape(element, dims, ref->tensor->rank) : "torch has no such type";
}

/* Counts the tensors and tells of those that cannot be written. */
static int look_at_tensors(struct stfs_export *export, const struct stfs_export_how *how, struct stfs_err *err)
{
	struct stfs_tensor_ref ref;
	uint64_t refused = 0;

	for (uint32_t id = 0; id < stfs_model_ids(export->model); id++) {
		STFS_AUTO_FREE uint64_t *dims = NULL;
		const char *why;

		if (!stfs_model_tensor(export->model, id, &ref))
			continue;
		dims = stfs_model_shape(&ref);
		if (!dims)
			return -ENOMEM;
		export->tensors++;
		export->tensor_bytes += ref.len;
		why = judge(&ref, dims);
		refused += why != NULL;
		if (why && how->refused)
			how->refused(how->data, &ref, why);
	}
	if (!refused)
		return 0;
	return stfs_err_set(err, -ENOTSUP, STFS_NO_POSITION, "%s: torch cannot have %" PRIu64 " of %" PRIu32 " tensors",
			    export->model->resolved.path, refused, export->tensors);
}

static int count_pair(void *data, struct stfs_str key, struct stfs_str value)
{
	++*(uint64_t *)data;
	return 0;
}

static int put_pair(void *data, struct stfs_str key, struct stfs_str value)
{
	stfs_torch_pickle_text(data, key, value);
	return 0;
}

static int make_pickle(struct stfs_export *export)
{
	struct stfs_torch_pickle *pickle = &export->pickle;
	struct stfs_tensor_ref ref;
	int r = 0;

	stfs_torch_pickle_begin(pickle, (uint64_t)export->tensors + export->with_metadata);
	for (uint32_t id = 0; id < stfs_model_ids(export->model); id++) {
		const struct stfs_element *element;
		STFS_AUTO_FREE uint64_t *dims = NULL;

		if (!stfs_model_tensor(export->model, id, &ref))
			continue;
		dims = stfs_model_shape(&ref);
		if (!dims)
			return -ENOMEM;
		element = stfs_element_by_dtype((enum stfs_dtype)ref.tensor->dtype);
		(void)stfs_torch_write_shape(element, dims, ref.tensor->rank);
		stfs_torch_pickle_tensor(pickle, ref.name, element, dims, ref.tensor->rank, ref.len);
	}
	if (export->with_metadata) {
		stfs_torch_pickle_texts(pickle, stfs_str_from(STFS_EXPORT_METADATA), export->metadata);
		r = stfs_model_metadata(export->model, put_pair, pickle);
	}
	if (r < 0)
		return r;
	stfs_torch_pickle_end(pickle);
	return stfs_buf_status(&pickle->bytes);
}

/* ---- The entries ---- */

struct entry {
	struct stfs_str name;
	struct stfs_str content;           /* of one that is not a tensor */
	const struct stfs_tensor_ref *ref; /* or NULL */
	uint64_t size;
};

typedef int (*visit_entry)(void *data, const struct entry *entry);

static int each_record(const struct stfs_torch_record *records, visit_entry visit, void *data)
{
	int r = 0;

	for (; r == 0 && records->name; records++) {
		struct stfs_str content = stfs_str_from(records->content);

		r = visit(data, &(struct entry){.name = stfs_str_from(records->name), .content = content,
						.size = content.len});
	}
	return r;
}

/* All entries in their order but the last, which is made of what stands in these. */
static int each_entry(const struct stfs_export *export, visit_entry visit, void *data)
{
	struct stfs_str pickle = stfs_buf_str(&export->pickle.bytes);
	uint32_t storage = 0;
	int r = visit(data, &(struct entry){.name = stfs_str_from("data.pkl"), .content = pickle,
					    .size = pickle.len});

	if (r == 0)
		r = each_record(stfs_torch_records_before(), visit, data);
	for (uint32_t id = 0; r == 0 && id < stfs_model_ids(export->model); id++) {
		struct stfs_tensor_ref ref;
		char name[24];

		if (!stfs_model_tensor(export->model, id, &ref))
			continue;
		snprintf(name, sizeof(name), "data/%" PRIu32, storage++);
		r = visit(data, &(struct entry){.name = stfs_str_from(name), .ref = &ref, .size = ref.len});
	}
	return r == 0 ? each_record(stfs_torch_records_behind(), visit, data) : r;
}

/* ---- How long the file will be ---- */

struct measure {
	struct stfs_str folder;
	struct stfs_zip_write zip;
	struct stfs_buf scratch;
};

static void free_measure(struct measure *measure)
{
	stfs_zip_write_free(&measure->zip);
	stfs_buf_free(&measure->scratch);
}

static int measure_entry(void *data, const struct entry *entry)
{
	struct measure *measure = data;
	int r;

	stfs_zip_write_begin(&measure->zip, measure->folder, entry->name, entry->size, &measure->scratch);
	stfs_zip_write_end(&measure->zip, 0, &measure->scratch);
	r = stfs_buf_status(&measure->scratch);
	stfs_buf_clear(&measure->scratch);
	return r < 0 ? r : stfs_buf_status(&measure->zip.directory);
}

static int find_size(struct stfs_export *export)
{
	STFS_CLEANUP(free_measure) struct measure measure = {.folder = stfs_str_from(export->folder)};
	int r = each_entry(export, measure_entry, &measure);

	if (r == 0)
		r = measure_entry(&measure, &(struct entry){.name = stfs_str_from(STFS_TORCH_ID_NAME),
							    .size = STFS_TORCH_ID_LEN});
	if (r < 0)
		return r;
	stfs_zip_write_finish(&measure.zip, &measure.scratch);
	export->size = measure.zip.at;
	return stfs_buf_status(&measure.scratch);
}

int stfs_export_make(struct stfs_export *export, const struct stfs_model *model, const struct stfs_export_how *how,
		     struct stfs_err *err)
{
	int r;

	*export = (struct stfs_export){.model = model, .with_metadata = how->metadata};
	stfs_torch_write_folder(stfs_str_from(how->file_name), export->folder);
	r = stfs_model_metadata(model, count_pair, &export->metadata);
	export->with_metadata &= export->metadata > 0;
	if (r == 0)
		r = look_at_tensors(export, how, err);
	if (r == 0)
		r = make_pickle(export);
	if (r == 0)
		r = find_size(export);
	if (r < 0 && r != -ENOTSUP)
		stfs_err_errno(err, r, "%s", model->resolved.path);
	return r;
}

void stfs_export_free(struct stfs_export *export)
{
	stfs_torch_pickle_free(&export->pickle);
}

/* ---- Writing ---- */

struct stream {
	const struct stfs_export *export;
	const struct stfs_export_sink *sink;
	struct stfs_err *err;
	char *piece; /* owned: what comes at `at` of the file */
	size_t fill;
	uint64_t at;
	struct stfs_zip_write zip;
	struct stfs_buf head; /* what stands before or behind an entry */
	uint64_t crcs;        /* of all entries */
};

static void free_stream(struct stream *stream)
{
	free(stream->piece);
	stfs_zip_write_free(&stream->zip);
	stfs_buf_free(&stream->head);
}

/* Writes the piece; one of zeros is there already, as a hole or as room that was reserved. */
static int flush(struct stream *stream)
{
	const struct stfs_export_sink *sink = stream->sink;
	int r = 0;

	if (!stfs_str_is_zeros(stfs_str_slice(stream->piece, stream->fill)))
		r = stfs_io_write(sink->fd, stream->piece, stream->fill, stream->at);
	if (r < 0)
		return stfs_err_errno(stream->err, r, "%s", sink->path);
	stfs_io_write_behind(sink->fd, stream->at, stream->at + stream->fill);
	stream->at += stream->fill;
	stream->fill = 0;
	if (sink->progress.tell)
		sink->progress.tell(sink->progress.data, stream->at, stream->export->size);
	if (sink->cancelled && sink->cancelled(sink->data))
		return stfs_err_set(stream->err, -ECANCELED, STFS_NO_POSITION, "%s: not written: interrupted",
				    sink->path);
	return 0;
}

static int put(struct stream *stream, struct stfs_str bytes)
{
	int r = 0;

	while (r == 0 && bytes.len > 0) {
		size_t part = (size_t)stfs_min_u64(bytes.len, PIECE - stream->fill);

		memcpy(stream->piece + stream->fill, bytes.ptr, part);
		stream->fill += part;
		bytes = stfs_str_slice(bytes.ptr + part, bytes.len - part);
		if (stream->fill == PIECE)
			r = flush(stream);
	}
	return r;
}

static int put_head(struct stream *stream)
{
	int r = stfs_buf_status(&stream->head);

	if (r < 0)
		return stfs_err_errno(stream->err, r, "%s", stream->sink->path);
	r = put(stream, stfs_buf_str(&stream->head));
	stfs_buf_clear(&stream->head);
	return r;
}

static int put_tensor(struct stream *stream, const struct stfs_tensor_ref *ref, uint32_t *crc)
{
	uint64_t done = 0;
	int r = 0;

	while (r == 0 && done < ref->len) {
		char *to = stream->piece + stream->fill;
		ssize_t got = stfs_model_pread(stream->export->model, ref, to, PIECE - stream->fill, done);
		char quoted[STFS_QUOTED_MAX];

		if (got == -EIO)
			return stfs_err_set(stream->err, -EIO, STFS_NO_POSITION, "%s: tensor \"%s\" cannot be "
					    "read: the file is shorter than it was, or its disk fails",
					    ref->shard->name, stfs_quote(ref->name, quoted));
		if (got <= 0)
			return stfs_err_errno(stream->err, got < 0 ? (int)got : -EIO, "%s: tensor \"%s\"",
					      ref->shard->name, stfs_quote(ref->name, quoted));
		*crc = (uint32_t)crc32_z(*crc, (const unsigned char *)to, (size_t)got);
		stream->fill += (size_t)got;
		done += (uint64_t)got;
		if (stream->fill == PIECE)
			r = flush(stream);
	}
	return r;
}

static int write_entry(void *data, const struct entry *entry)
{
	struct stream *stream = data;
	uint32_t crc = 0;
	int r;

	stfs_zip_write_begin(&stream->zip, stfs_str_from(stream->export->folder), entry->name, entry->size,
			     &stream->head);
	r = put_head(stream);
	if (r == 0 && entry->ref) {
		r = put_tensor(stream, entry->ref, &crc);
	} else if (r == 0) {
		crc = (uint32_t)crc32_z(0, (const unsigned char *)entry->content.ptr, entry->content.len);
		r = put(stream, entry->content);
	}
	if (r < 0)
		return r;
	stream->crcs ^= crc + 0x9e3779b9u + (stream->crcs << 6) + (stream->crcs >> 2);
	stfs_zip_write_end(&stream->zip, crc, &stream->head);
	return put_head(stream);
}

/* Of what the file holds, so that the same model gives the same file. */
static int write_id(struct stream *stream)
{
	const struct stfs_sipkey fixed = {0, 0};
	uint64_t names = stfs_siphash(&fixed, stfs_buf_str(&stream->export->pickle.bytes));
	char id[STFS_TORCH_ID_LEN + 1];

	stfs_torch_write_id(names, stream->crcs, id);
	return write_entry(stream, &(struct entry){.name = stfs_str_from(STFS_TORCH_ID_NAME),
						   .content = stfs_str_from(id), .size = STFS_TORCH_ID_LEN});
}

/* Whether the files are still what was opened. Data that was written before `behind` is no matter. */
static int check_files(const struct stfs_model *model, bool behind, struct stfs_err *err)
{
	for (uint32_t i = 0; i < model->shard_count; i++) {
		int r = stfs_shard_check(&model->shards[i]);

		if (r == -ESTALE)
			return stfs_err_set(err, r, STFS_NO_POSITION, "%s: another program changed the header meanwhile",
					    model->shards[i].name);
		if (r < 0)
			return stfs_err_errno(err, r, "%s: cannot tell whether it has changed meanwhile",
					      model->shards[i].name);
		if (r > 0 && behind)
			return stfs_err_set(err, -EAGAIN, STFS_NO_POSITION, "%s: another program wrote to the file while "
					    "it was being read: try again", model->shards[i].name);
	}
	return 0;
}

int stfs_export_write(const struct stfs_export *export, const struct stfs_export_sink *sink, struct stfs_err *err)
{
	STFS_CLEANUP(free_stream) struct stream stream = {
		.export = export, .sink = sink, .err = err, .piece = malloc(PIECE)};
	int r = check_files(export->model, false, err);

	if (!stream.piece)
		return stfs_err_errno(err, -ENOMEM, "%s", sink->path);
	if (r == 0)
		r = each_entry(export, write_entry, &stream);
	if (r == 0)
		r = write_id(&stream);
	if (r < 0)
		return r;
	stfs_zip_write_finish(&stream.zip, &stream.head);
	r = stfs_buf_status(&stream.zip.directory);
	if (r < 0)
		return stfs_err_errno(err, r, "%s", sink->path);
	r = put_head(&stream);
	if (r == 0)
		r = flush(&stream);
	return r == 0 ? check_files(export->model, true, err) : r;
}
