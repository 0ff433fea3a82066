/* SPDX-License-Identifier: MIT */
/* What the parts of the reader of checkpoints share. */
#ifndef STFS_CODEC_TORCH_INTERNAL_H
#define STFS_CODEC_TORCH_INTERNAL_H

#include <pthread.h>

#include "codec/inflate.h"
#include "codec/texts.h"
#include "codec/torch.h"
#include "codec/zip.h"

/* A tensor of the tar form, which persistent ids name. */
struct stfs_torch_tar_tensor {
	struct stfs_str key;
	uint32_t storage;
	uint32_t rank;
	uint64_t offset;  /* elements */
	uint32_t numbers; /* sizes, then strides */
};

/* Bytes of the pickle from `at` on, to the next piece, stand from byte `file_at` on. */
struct stfs_torch_piece {
	uint32_t at;
	uint64_t file_at;
};

struct stfs_torch {
	int fd; /* borrowed */
	uint64_t file_len;
	enum stfs_torch_form form;
	char *bytes; /* owned: the pickle's */
	size_t bytes_cap;
	struct stfs_pickle pickle;
	uint32_t root; /* the value of the checkpoint */
	struct stfs_torch_piece *pieces; /* owned: where the pickle's bytes stand in the file; none: from 0 on */
	size_t piece_count, piece_cap;
	struct stfs_zip zip; /* of the zip form */
	bool swapped;
	struct stfs_global_info *infos; /* owned; of each global of the pickle */
	struct stfs_torch_storage *storages; /* owned */
	size_t storage_count, storage_cap;
	struct stfs_nametable by_key; /* owned; of storages, then of tar's tensors behind them */
	struct stfs_torch_tar_tensor *tar_tensors; /* owned */
	size_t tar_count, tar_cap;
	struct stfs_torch_tensor *tensors; /* owned */
	size_t tensor_count, tensor_cap;
	uint64_t *numbers; /* owned */
	size_t number_count, number_cap;
	struct stfs_torch_remarks leaves, left_out, refused, notes;
	size_t name_bytes, leaf_bytes;
	struct stfs_texts texts;
	pthread_mutex_t inflating; /* guards what follows */
	uint32_t inflated_storage; /* that `inflated` or `stream` is of; STFS_NO_NUMBER: none */
	char *inflated;            /* owned */
	struct stfs_inflate *stream; /* owned */
};

/* -EBADMSG with a message that names the byte of the pickle. */
int stfs_torch_fail(const struct stfs_torch *torch, uint32_t at, struct stfs_err *err,
		    const char *format, ...) __attribute__((format(printf, 4, 5)));

/* The byte of the file (of the zip form: of data.pkl) that is byte `at` of the pickle. */
uint64_t stfs_torch_file_at(const struct stfs_torch *torch, uint32_t at);
int stfs_torch_add_piece(struct stfs_torch *torch, uint32_t at, uint64_t file_at);
/* Adds `len` bytes of the file to those of the pickle. -EFBIG beyond STFS_PICKLE_MAX. */
int stfs_torch_extend(struct stfs_torch *torch, uint64_t file_at, uint64_t len, struct stfs_err *err);

/* ---- Forms: each fills bytes, pickle and root, and says where storages are ---- */

int stfs_torch_load_zip(struct stfs_torch *torch, struct stfs_err *err);
int stfs_torch_load_legacy(struct stfs_torch *torch, struct stfs_err *err);
int stfs_torch_load_tar(struct stfs_torch *torch, struct stfs_err *err);
bool stfs_torch_tar_is(const void *bytes, size_t len);

/* As stfs_torch_same(), of a file of `file_len` bytes. */
int stfs_torch_same_zip(const struct stfs_torch *torch, uint64_t file_len);
int stfs_torch_same_legacy(const struct stfs_torch *torch, uint64_t file_len);

/* Judges the globals met so far; -EBADMSG naming the first that is refused. */
int stfs_torch_judge(struct stfs_torch *torch, struct stfs_err *err);

/* The value that gives NumPy a type which is not a plain one (torch_numpy.c), or STFS_NO_VALUE. */
uint32_t stfs_torch_forged_type(const struct stfs_torch *torch);

static inline enum stfs_meaning stfs_torch_meaning(const struct stfs_torch *torch, uint32_t value)
{
	uint32_t global = stfs_pickle_global_of(&torch->pickle, value);

	return global == STFS_NO_VALUE ? STFS_MEANS_OPAQUE : torch->infos[global].meaning;
}

/* ---- Storages (torch_storage.c) ---- */

/* What a persistent id of the pickle says. */
struct stfs_torch_ref {
	struct stfs_str key; /* in the pickle, or in `digits` */
	char digits[24];
	const struct stfs_element *element;
	uint64_t count;      /* elements */
	bool is_view;        /* of the legacy form: elements [from, from + view_count) of it */
	uint64_t view_from, view_count;
};

int stfs_torch_read_ref(const struct stfs_torch *torch, uint32_t value, struct stfs_torch_ref *ref,
			struct stfs_err *err);

/* Makes a storage of every persistent id of the pickle, once. */
int stfs_torch_collect_storages(struct stfs_torch *torch, struct stfs_err *err);
/* Index, or STFS_NO_NUMBER. */
uint32_t stfs_torch_find_storage(const struct stfs_torch *torch, struct stfs_str key);
int stfs_torch_add_storage(struct stfs_torch *torch, struct stfs_torch_storage storage);
/* Fills the index from the storages and tar tensors; -EEXIST: a key stands twice. */
int stfs_torch_index_keys(struct stfs_torch *torch);

/* ---- Tensors (torch_tensor.c) ---- */

/* A tensor as a call in the pickle describes it. */
#define STFS_TORCH_QUANTIZED "quantised: its numbers mean nothing without their scale"

struct stfs_torch_build {
	uint32_t at;
	uint32_t made_by; /* the call that all wrapping ended at */
	const struct stfs_element *converted; /* the type that torch would convert it to; or NULL */
	const struct stfs_element *element;
	uint32_t storage;
	uint64_t view_begin, view_end; /* the bytes of the storage that it may use */
	uint64_t offset;               /* elements from view_begin on */
	uint32_t rank;
	bool parameter, requires_grad;
	const char *refusal; /* why no safetensors file can hold it; then nothing below counts */
	uint32_t sparse;     /* the call of a sparse tensor, to be had in parts; STFS_NO_VALUE */
	uint64_t dims[STFS_TORCH_RANK_MAX], strides[STFS_TORCH_RANK_MAX];
};

/* Whether a value is a tensor of any kind. */
bool stfs_torch_is_tensor(const struct stfs_torch *torch, uint32_t value);
/* 0, or -EBADMSG when the call is not one that torch could make. */
int stfs_torch_describe(const struct stfs_torch *torch, uint32_t value, struct stfs_torch_build *build,
			struct stfs_err *err);
/* Checks it against its storage and adds it to the tensors. */
int stfs_torch_add_tensor(struct stfs_torch *torch, struct stfs_str name,
			  const struct stfs_torch_build *build, struct stfs_err *err);

/* ---- Names and leaves ---- */

/* Gives tensors, leaves, notes and all the rest (torch_flatten.c). */
int stfs_torch_flatten(struct stfs_torch *torch, struct stfs_err *err);
/* Makes names of tensors, and of leaves, unique (torch_names.c). */
int stfs_torch_settle_names(struct stfs_torch *torch);
/* Finds tensors that share bytes. */
int stfs_torch_find_twins(struct stfs_torch *torch);

/* Adds a remark; -ENOMEM. */
int stfs_torch_remark(struct stfs_torch *torch, struct stfs_torch_remarks *remarks, struct stfs_str name,
		      const char *format, ...) __attribute__((format(printf, 4, 5)));
int stfs_torch_remark_str(struct stfs_torch *torch, struct stfs_torch_remarks *remarks,
			  struct stfs_str name, struct stfs_str text);

/*
 * Appends the name that a key stands for (torch_text.c). *changed: it says other than the key. 0 or
 * -ENOMEM.
 */
int stfs_torch_key_name(const struct stfs_torch *torch, uint32_t key, struct stfs_buf *out, bool *changed);

/*
 * Appends the text of a leaf. 0; -ENOENT when the value is none, with *why saying what it is; -ENOMEM.
 */
int stfs_torch_leaf_text(const struct stfs_torch *torch, uint32_t value, struct stfs_buf *out,
			 struct stfs_buf *why);

#endif
