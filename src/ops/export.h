/* SPDX-License-Identifier: MIT */
/*
 * A model written as a PyTorch checkpoint of the zip form (codec/torch_write.h): an OrderedDict of its tensors in the
 * order of the header, each on a storage of its own, as torch.save() would write it.
 *
 * One pass over the bytes: read, summed up and written in pieces, with the checksums behind the content. Memory:
 * a piece, the pickle (some 150 bytes a tensor and its name) and the zip's directory (some 70).
 */
#ifndef STFS_OPS_EXPORT_H
#define STFS_OPS_EXPORT_H

#include "codec/torch_write.h"
#include "store/edit.h"
#include "store/model.h"

/* The key under which the model's metadata stand, as a dict, when they are wanted; no tensor has this name. */
#define STFS_EXPORT_METADATA "__metadata__"

struct stfs_export {
	const struct stfs_model *model; /* borrowed */
	struct stfs_torch_pickle pickle; /* owned */
	char folder[STFS_TORCH_FOLDER_MAX + 1];
	uint32_t tensors;
	uint64_t tensor_bytes;
	uint64_t size;       /* of the whole file */
	uint64_t metadata;   /* pairs that the model has */
	bool with_metadata;  /* they are written */
};

struct stfs_export_how {
	const char *file_name; /* borrowed: of the file to come, after which the archive's folder is called */
	bool metadata;
	/* A tensor that torch cannot have, and why. May be NULL. */
	void (*refused)(void *data, const struct stfs_tensor_ref *ref, const char *why);
	void *data;
};

/*
 * Makes all but the tensors' bytes. 0; -ENOTSUP when tensors were refused, all of them told; -EFBIG when the model
 * has more than a pickle or a zip holds; -ENOMEM. stfs_export_free() in any case.
 */
int stfs_export_make(struct stfs_export *export, const struct stfs_model *model, const struct stfs_export_how *how,
		     struct stfs_err *err);
void stfs_export_free(struct stfs_export *export);

struct stfs_export_sink {
	int fd;           /* a new, empty file of which what was not written reads as zeros */
	const char *path; /* borrowed: for messages */
	struct stfs_progress progress;
	/* Asked after every piece: whether to stop. May be NULL. */
	bool (*cancelled)(void *data);
	void *data;
};

/*
 * Writes export->size bytes. 0; -ECANCELED; -EIO when the model cannot be read or was cut short, -ESTALE when its
 * header changed, -EAGAIN when it was written to meanwhile; another -errno. `err` is filled.
 */
int stfs_export_write(const struct stfs_export *export, const struct stfs_export_sink *sink, struct stfs_err *err);

#endif
