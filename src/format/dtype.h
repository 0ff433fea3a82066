/* SPDX-License-Identifier: MIT */
/*
 * The element types, one table. Names and bit widths: enum Dtype of safetensors/src/tensor.rs,
 * library 0.8, in its order ("increasing alignment order"), which is also the official writer's
 * sort key. NumPy names: the types np.load gives; ml_dtypes names: the PyPI package ml_dtypes.
 */
#ifndef STFS_FORMAT_DTYPE_H
#define STFS_FORMAT_DTYPE_H

#include <stddef.h>
#include <stdint.h>

#include "base/str.h"

enum stfs_dtype {
	STFS_BOOL,
	STFS_F4,
	STFS_F6_E2M3,
	STFS_F6_E3M2,
	STFS_U8,
	STFS_I8,
	STFS_F8_E5M2,
	STFS_F8_E4M3,
	STFS_F8_E8M0,
	STFS_F8_E4M3FNUZ,
	STFS_F8_E5M2FNUZ,
	STFS_I16,
	STFS_U16,
	STFS_F16,
	STFS_BF16,
	STFS_I32,
	STFS_U32,
	STFS_F32,
	STFS_C64,
	STFS_F64,
	STFS_I64,
	STFS_U64,
};
#define STFS_DTYPE_COUNT 22

struct stfs_dtype_info {
	const char *name;
	unsigned bits;        /* of one element */
	const char *descr;    /* NumPy type string, "<V2" or "|V1" where NumPy lacks the type;
			       * NULL for sub-byte types */
	const char *ml_dtype; /* the ml_dtypes name where NumPy lacks the type, else NULL */
};

const struct stfs_dtype_info *stfs_dtype_info(enum stfs_dtype dtype);

/* 0, or -EINVAL for a name that is not exactly one of the 22. */
int stfs_dtype_parse(struct stfs_str name, enum stfs_dtype *dtype);

/* Element size in bytes, for alignment; 1 for sub-byte types. */
unsigned stfs_dtype_alignment(enum stfs_dtype dtype);

/*
 * Bytes of `elements` elements: 0, -EOVERFLOW when the bits pass 2^64 - 1, or -EDOM when a
 * sub-byte tensor does not end on a byte (tensor.rs: ValidationOverflow, MisalignedSlice).
 */
int stfs_dtype_bytes(enum stfs_dtype dtype, uint64_t elements, uint64_t *bytes);

#endif
