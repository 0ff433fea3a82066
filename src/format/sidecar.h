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

/*
 * Appends the sidecar's text to `out`; `long_name` is the true name when the file name is hashed,
 * else has a NULL ptr. 0 or -ENOMEM.
 */
int stfs_sidecar_write(enum stfs_dtype dtype, const uint64_t *dims, size_t rank,
		       struct stfs_str long_name, struct stfs_buf *out);

#endif
