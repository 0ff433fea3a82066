/* SPDX-License-Identifier: MIT */
/*
 * What a checkpoint of torch's zip form says beside its tensors' bytes (pure: into buffers): the pickle of a
 * dict of tensors, each on a storage of its own, to the byte what torch.save() of torch 2.13 writes of an
 * OrderedDict, and the small entries around it (codec/zip_write.h has the archive).
 *
 * Names are any UTF-8; they stand in the pickle as they are, behind their length.
 */
#ifndef STFS_CODEC_TORCH_WRITE_H
#define STFS_CODEC_TORCH_WRITE_H

#include "base/buf.h"
#include "codec/element.h"
#include "codec/torch.h"

/* ---- The pickle ---- */

/* Values that are named once and then referred to (torch_write.c says which). */
#define STFS_TORCH_PICKLE_KNOWN 6

struct stfs_torch_pickle {
	struct stfs_buf bytes; /* owned */
	uint64_t count, done;  /* items of the dict; those that are there */
	uint64_t texts, texts_done; /* the same of the dict of texts */
	uint64_t storages;     /* named so far */
	uint32_t memo;         /* values in the machine's memo */
	uint32_t known[STFS_TORCH_PICKLE_KNOWN]; /* their places in it, plus one; 0: not yet there */
	uint32_t types[STFS_DTYPE_COUNT];        /* the same of what names a type */
};

/* Begins a dict of `count` items. Want of memory shows in the status of pickle->bytes. */
void stfs_torch_pickle_begin(struct stfs_torch_pickle *pickle, uint64_t count);

/*
 * Adds a contiguous tensor on the next storage, "data/0" and so on, of this many bytes. `dims` are of torch's
 * tensor (stfs_torch_write_shape).
 */
void stfs_torch_pickle_tensor(struct stfs_torch_pickle *pickle, struct stfs_str name,
			      const struct stfs_element *element, const uint64_t *dims, size_t rank, uint64_t bytes);

/* Adds a dict of `count` texts, which as many calls of stfs_torch_pickle_text() fill. */
void stfs_torch_pickle_texts(struct stfs_torch_pickle *pickle, struct stfs_str name, uint64_t count);
void stfs_torch_pickle_text(struct stfs_torch_pickle *pickle, struct stfs_str key, struct stfs_str value);

/* All items are there. */
void stfs_torch_pickle_end(struct stfs_torch_pickle *pickle);
void stfs_torch_pickle_free(struct stfs_torch_pickle *pickle);

/* ---- Tensors ---- */

/*
 * Turns the shape of a safetensors tensor into that of torch's. NULL, or why torch has no such tensor:
 * a text that stays.
 */
const char *stfs_torch_write_shape(const struct stfs_element *element, uint64_t *dims, size_t rank);

/* ---- Entries ---- */

struct stfs_torch_record {
	const char *name, *content;
};

/* The small entries between the pickle and the storages, and behind the storages; each list ends with {NULL}. */
const struct stfs_torch_record *stfs_torch_records_before(void);
const struct stfs_torch_record *stfs_torch_records_behind(void);

/* Of the last entry, which has 40 digits made of two numbers. */
#define STFS_TORCH_ID_NAME ".data/serialization_id"
#define STFS_TORCH_ID_LEN 40
void stfs_torch_write_id(uint64_t first, uint64_t second, char id[STFS_TORCH_ID_LEN + 1]);

/*
 * The archive's top folder, of the file's name, as torch has it: the name without its last extension. "archive"
 * where that leaves nothing or is not ASCII (torch does the same); characters that some system has
 * in no file name become '_'.
 */
#define STFS_TORCH_FOLDER_MAX 255
void stfs_torch_write_folder(struct stfs_str file_name, char folder[STFS_TORCH_FOLDER_MAX + 1]);

#endif
