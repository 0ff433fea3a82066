/* SPDX-License-Identifier: MIT */
/*
 * The .json file beside a tensor:
 *
 *   {"dtype":"BF16","shape":[2,3],"descr":"<V2","ml_dtype":"bfloat16"}
 *
 * and a newline. "descr" is left out for sub-byte types, "ml_dtype" for those and where NumPy has
 * the type. A tensor whose file name is hashed carries its true name as a last key, "name".
 */
#ifndef STFS_FORMAT_SIDECAR_H
#define STFS_FORMAT_SIDECAR_H

#include "base/buf.h"
#include "format/dtype.h"
#include "format/json.h" /* stfs_json_quote(), for those who write other texts like it */
#include "format/shape.h"

/*
 * Appends the sidecar's text to `out`; `long_name` is the true name when the file name is hashed,
 * else has a NULL ptr. 0 or -ENOMEM.
 */
int stfs_sidecar_write(enum stfs_dtype dtype, const uint64_t *dims, size_t rank,
		       struct stfs_str long_name, struct stfs_buf *out);

/* ---- Reading (sidecar_read.c) ---- */

/* A longer text is refused. */
#define STFS_SIDECAR_MAX (1u << 20)

struct stfs_sidecar {
	enum stfs_dtype dtype;
	struct stfs_shape shape; /* owned */
	uint64_t data_len;       /* bytes of a tensor of that dtype and shape */
	bool has_name;
	struct stfs_buf name; /* owned: the value of "name"; may hold NUL */
};

/*
 * Reads what someone wrote to a tensor's .json file: "dtype" and "shape" must be there, "name" may
 * be; all else is passed over, "descr" and "ml_dtype" too, for it follows from the dtype. 0, with
 * `sidecar` to be freed; -EBADMSG with `err` saying what is wrong, where, and what to write;
 * -ENOMEM.
 */
int stfs_sidecar_read(struct stfs_str text, struct stfs_sidecar *sidecar, struct stfs_err *err);
void stfs_sidecar_free(struct stfs_sidecar *sidecar);

#endif
