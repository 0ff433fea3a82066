/* SPDX-License-Identifier: MIT */
/*
 * The element types of PyTorch, one table: their names, the classes of storages that hold them, and
 * what becomes of them here (torch 2.13: torch/storage.py, _dtype_to_storage_type_map and
 * _new_dtypes).
 */
#ifndef STFS_CODEC_ELEMENT_H
#define STFS_CODEC_ELEMENT_H

#include <stdint.h>

#include "format/dtype.h"

enum stfs_element_form {
	STFS_ELEMENT_PLAIN,
	STFS_ELEMENT_PAIR,      /* complex without a dtype of its own: a dimension of 2 behind the others */
	STFS_ELEMENT_PACKED,    /* two 4-bit numbers a byte: the last dimension counts double */
	STFS_ELEMENT_QUANTIZED, /* means nothing without scale and zero point: no tensor can hold it */
	STFS_ELEMENT_BITS,      /* has no dtype */
};

struct stfs_element {
	const char *name;    /* torch's, such as "float32" */
	const char *storage; /* the class, such as "FloatStorage"; NULL: only in an UntypedStorage */
	uint8_t bytes;       /* of one element in a storage */
	uint8_t swap;        /* bytes that are turned round for the other byte order */
	uint8_t form;        /* enum stfs_element_form */
	uint8_t dtype;       /* enum stfs_dtype, of the first three forms */
};

/* NULL for a name that is none. */
const struct stfs_element *stfs_element_by_name(struct stfs_str name);
const struct stfs_element *stfs_element_by_storage(struct stfs_str class_name);

/* What torch has for a type of safetensors; NULL for F6_E2M3 and F6_E3M2. */
const struct stfs_element *stfs_element_by_dtype(enum stfs_dtype dtype);

/* What an UntypedStorage holds. */
const struct stfs_element *stfs_element_byte(void);

#endif
