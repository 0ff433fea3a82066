/* SPDX-License-Identifier: MIT */
/*
 * What tensor the bytes of a file are. A .npy file says so itself. Of raw bytes type and shape
 * come, each for itself, from what the user says, else from the sidecar beside the file
 * (FILE.json), else from the tensor that is replaced, whose first dimension follows a file of more
 * or fewer whole rows.
 */
#ifndef STFS_OPS_TYPING_H
#define STFS_OPS_TYPING_H

#include "format/sidecar.h"
#include "ops/intake.h"

enum stfs_form {
	STFS_FORM_BY_NAME, /* .npy when it is called so, else raw */
	STFS_FORM_NPY,
	STFS_FORM_RAW,
};

struct stfs_typing {
	const char *path; /* of the file, "-": standard input; for messages and for the sidecar */
	const char *sidecar;     /* of a .npy file, for a type that it does not name; NULL: none */
	enum stfs_form form;
	const enum stfs_dtype *dtype;   /* what the user says, or NULL */
	const struct stfs_shape *shape; /* what the user says, or NULL */
	const struct stfs_edit_tensor *there; /* the tensor to be replaced, or NULL */
};

/* A tensor to be put. */
struct stfs_typed {
	enum stfs_dtype dtype;
	struct stfs_shape shape; /* owned */
	struct stfs_source source;
};

/*
 * What stands in the sidecar beside the raw bytes `path`, whatever these are. 0, with *sidecar to be
 * freed; -ENOENT when there is none; -EBADMSG and the like with `err` saying what is wrong with it;
 * -ENOMEM.
 */
int stfs_typing_beside(const char *path, struct stfs_sidecar *sidecar, struct stfs_err *err);

/*
 * Types `bytes`; those of an array in Fortran order are spooled in C order. 0 with *typed, whose
 * shape is to be freed in every case; -EINVAL and the like with `err` saying what is wrong with the
 * file, and what to say about it; -ENOMEM.
 */
int stfs_typing_find(struct stfs_edit *edit, const struct stfs_typing *typing,
		     const struct stfs_bytes *bytes, struct stfs_typed *typed,
		     struct stfs_err *err);

#endif
