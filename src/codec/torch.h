/* SPDX-License-Identifier: MIT */
/*
 * A PyTorch checkpoint, read without running it: the zip form (torch 1.6 and later), the stream of
 * pickles before it, and the tar of torch 0.1. Its tensors are extents of the file with shape and
 * strides; everything else in it becomes text, or is listed as left out. docs/checkpoints.md has the
 * rules of naming and the table of globals.
 *
 * Invariants of a checkpoint that stfs_torch_open() took (tests: unit/test_torch.c):
 *   T1  names of tensors are unique, UTF-8, and none is "__metadata__".
 *   T2  every storage lies within the file, and no two zip entries overlap.
 *   T3  every element of every tensor lies within its storage.
 *   T4  a tensor that is not outsized has no more bytes than the file.
 *
 * Memory: the pickle and what codec/pickle.h says of it, the zip's directory, some 150 bytes a tensor
 * and its name. Times: linear, but for the sorting of names. None of it depends on the tensors' bytes.
 */
#ifndef STFS_CODEC_TORCH_H
#define STFS_CODEC_TORCH_H

#include "codec/globals.h"

/* Values nested deeper are refused; Python itself writes at most some 1,000 levels. */
#define STFS_TORCH_DEPTH_MAX 1024
#define STFS_TORCH_RANK_MAX 255
/* What no tensor is called; a dict of texts of that name is a model's metadata (torch_write.h). */
#define STFS_TORCH_METADATA "__metadata__"
/* A longer text is left out, unless it is a model's metadata. */
#define STFS_TORCH_TEXT_MAX 16384
/* What names of tensors, and names and texts of leaves, may amount to. */
#define STFS_TORCH_NAMES_MAX 100000000u
#define STFS_TORCH_LEAVES_MAX (16u << 20)
/* Of remarks of a kind, leaves apart, so many are kept, and so many bytes; the others are counted. */
#define STFS_TORCH_REMARKS_MAX 10000
#define STFS_TORCH_REMARKS_BYTES_MAX (16u << 20)
/* A deflated storage of no more bytes is kept inflated while it is being read. */
#define STFS_TORCH_INFLATED_MAX (64u << 20)

#define STFS_NO_TWIN UINT32_MAX

enum stfs_torch_form { STFS_TORCH_ZIP, STFS_TORCH_LEGACY, STFS_TORCH_TAR };

struct stfs_torch_storage {
	struct stfs_str key;
	const struct stfs_element *element; /* what the pickle says that it holds */
	uint64_t offset; /* byte in the file */
	uint64_t stored; /* bytes there: `size` unless it is deflated */
	uint64_t size;
	uint32_t crc;
	uint32_t tensors; /* that lie in it */
	bool has_crc;
	bool deflated;
	bool swapped; /* big-endian */
};

struct stfs_torch_tensor {
	struct stfs_str name;
	const struct stfs_element *element; /* torch's type; the strides count such elements */
	uint64_t elements; /* of torch's type */
	uint64_t bytes;    /* as a tensor of a safetensors file: contiguous, little-endian */
	uint64_t begin;    /* byte within the storage */
	uint64_t span;     /* bytes of the storage from there to behind the last element */
	uint32_t storage;
	uint32_t twin;    /* the first tensor of the same type, shape and bytes, or STFS_NO_TWIN */
	uint32_t numbers; /* where shape and strides are kept: stfs_torch_shape(), _strides() */
	uint32_t at;      /* byte of the pickle that made it */
	uint8_t rank;       /* of the safetensors tensor */
	uint8_t torch_rank; /* one less where complex numbers became a dimension */
	uint8_t dtype;      /* enum stfs_dtype */
	bool contiguous; /* its bytes are [begin, begin + bytes) of the storage, in C order */
	bool parameter;
	bool requires_grad;
	bool shares;   /* other tensors lie in its storage */
	bool outsized; /* `bytes` are more than the file has: strides of 0 make much of little */
};

struct stfs_torch_remark {
	struct stfs_str name; /* dotted; UTF-8 */
	struct stfs_str text;
};

struct stfs_torch_remarks {
	struct stfs_torch_remark *items; /* owned array; the strings are kept in `texts` */
	size_t count, cap;
	size_t bytes; /* of the strings */
	size_t more;  /* further ones that were only counted */
};

struct stfs_torch;

/*
 * Opens the checkpoint of `file_len` bytes that `fd` (borrowed, as long as the checkpoint is open) is.
 * 0; -EBADMSG when it is damaged, no checkpoint, or refused, with `err` naming rule and byte; -EFBIG
 * beyond a limit; -ENOMEM or another -errno. *torch is set in every case but for want of memory, and
 * to be closed by the caller; when it is refused it has its globals alone.
 */
int stfs_torch_open(int fd, uint64_t file_len, struct stfs_torch **torch, struct stfs_err *err);
void stfs_torch_close(struct stfs_torch *torch);

/* Whether a file that begins with these bytes (512, or all it has) could be a checkpoint. */
bool stfs_torch_could_be(const void *bytes, size_t len);

/*
 * Whether the file still holds what was read of it, whatever its times say: the pickles, and all that says where
 * storages are; their bytes are not looked at. 1 yes, 0 no, -errno. Reads as much as opening does. Any thread.
 */
int stfs_torch_same(const struct stfs_torch *torch);

enum stfs_torch_form stfs_torch_form(const struct stfs_torch *torch);
const char *stfs_torch_form_name(enum stfs_torch_form form);

/* ---- What is in it; valid as long as it is open ---- */

const struct stfs_torch_storage *stfs_torch_storages(const struct stfs_torch *torch, uint32_t *count);
const struct stfs_torch_tensor *stfs_torch_tensors(const struct stfs_torch *torch, uint32_t *count);
/* tensor->rank dimensions. */
const uint64_t *stfs_torch_shape(const struct stfs_torch *torch, const struct stfs_torch_tensor *tensor);
/* tensor->torch_rank strides, in elements of torch's type. */
const uint64_t *stfs_torch_strides(const struct stfs_torch *torch, const struct stfs_torch_tensor *tensor);

/* Numbers, texts, bools and None with their names, which are unique: what fits into __metadata__. */
const struct stfs_torch_remarks *stfs_torch_leaves(const struct stfs_torch *torch);
/* Values that are neither tensors nor leaves, each with the reason. */
const struct stfs_torch_remarks *stfs_torch_left_out(const struct stfs_torch *torch);
/* Tensors that no safetensors file can hold (quantised ones), each with the reason. */
const struct stfs_torch_remarks *stfs_torch_refused(const struct stfs_torch *torch);
/* What is worth knowing: names that were changed, complex numbers, sparse tensors in parts. */
const struct stfs_torch_remarks *stfs_torch_notes(const struct stfs_torch *torch);

/* A global that the pickles name, for a scanner; in the order of the file. */
struct stfs_torch_global {
	uint64_t at; /* byte in the file; of the zip form in its data.pkl */
	struct stfs_str module, name; /* any bytes; both empty of an extension code */
	enum stfs_global_verdict verdict;
};
size_t stfs_torch_global_count(const struct stfs_torch *torch);
struct stfs_torch_global stfs_torch_global(const struct stfs_torch *torch, size_t index);

/*
 * Members of the zip form that neither torch nor anybody here reads: *headers, which the caller frees, are the bytes
 * of the file at which their local headers stand. 0 or -ENOMEM.
 */
int stfs_torch_unread_members(const struct stfs_torch *torch, uint64_t **headers, uint32_t *count);

/* ---- Bytes ---- */

/*
 * Reads `len` bytes at `offset` of a tensor as it stands in a safetensors file. A contiguous one is read as
 * it lies; for others at most the bytes of its span are read, once for each call where they lie
 * densely, so large pieces are better than small ones. 0; -EINVAL beyond the tensor's end; -EBADMSG
 * when deflated bytes are damaged; -EFBIG for a strided tensor in a deflated storage above
 * STFS_TORCH_INFLATED_MAX; -EIO when the file has become shorter; -ENOMEM or another -errno. May be
 * called by several threads.
 */
int stfs_torch_read(struct stfs_torch *torch, const struct stfs_torch_tensor *tensor, void *buffer,
		    size_t len, uint64_t offset);

/* Whether a tensor's bytes stand in the file as a safetensors file would have them, in one piece. */
bool stfs_torch_is_plain(const struct stfs_torch *torch, const struct stfs_torch_tensor *tensor);

/*
 * Reads all of a storage and holds it against its CRC; a storage without one passes. `progress` (may
 * be NULL) gets the bytes read since the last call, and ends it with what it returns below 0. 0;
 * -EBADMSG with `err` naming the storage; another -errno.
 */
int stfs_torch_verify(struct stfs_torch *torch, uint32_t storage, int (*progress)(void *data, uint64_t bytes),
		      void *data, struct stfs_err *err);

#endif
