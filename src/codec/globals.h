/* SPDX-License-Identifier: MIT */
/*
 * What is thought of the globals that a checkpoint names. One table: what torch.load takes with
 * weights_only=True (torch 2.13: torch/_weights_only_unpickler.py, _get_allowed_globals), and common
 * classes of plain values that it does not take. A global is one of these by its module and its name
 * exactly; every other is refused, dotted names and registered extensions among them.
 */
#ifndef STFS_CODEC_GLOBALS_H
#define STFS_CODEC_GLOBALS_H

#include "codec/element.h"
#include "codec/pickle.h"

enum stfs_global_verdict {
	STFS_GLOBAL_ALLOWED,  /* torch takes it */
	STFS_GLOBAL_HARMLESS, /* torch does not; it makes a plain value and nothing else */
	STFS_GLOBAL_REFUSED,
};

/* What a call of it means. */
enum stfs_meaning {
	STFS_MEANS_REFUSED,
	STFS_MEANS_OPAQUE, /* a value that nobody here looks into */
	STFS_MEANS_BYTES,
	STFS_MEANS_SET,
	STFS_MEANS_DICT, /* and its kin: pairs are set on it */
	STFS_MEANS_LIST,
	STFS_MEANS_SIZE,
	STFS_MEANS_DEVICE,
	STFS_MEANS_LAYOUT,
	STFS_MEANS_TEXT, /* a str by another name */
	STFS_MEANS_ELEMENT,
	STFS_MEANS_STORAGE,
	STFS_MEANS_TENSOR_V1, /* _rebuild_tensor, then v2 and v3 */
	STFS_MEANS_TENSOR_V2,
	STFS_MEANS_TENSOR_V3,
	STFS_MEANS_TENSOR_CLASS,
	STFS_MEANS_PARAMETER, /* function and class: argument 0 is the tensor */
	STFS_MEANS_FROM_TYPE, /* argument 0 is another function, 2 its arguments */
	STFS_MEANS_FROM_CPU,
	STFS_MEANS_SPARSE,
	STFS_MEANS_QUANTIZED,
	STFS_MEANS_UNREPRESENTED, /* a tensor of a kind that no safetensors file can hold */
};

struct stfs_global_info {
	enum stfs_global_verdict verdict;
	enum stfs_meaning meaning;
	const struct stfs_element *element; /* of STFS_MEANS_ELEMENT and _STORAGE */
};

const char *stfs_global_verdict_name(enum stfs_global_verdict verdict);

struct stfs_global_info stfs_global_judge(struct stfs_str module, struct stfs_str name);
struct stfs_global_info stfs_global_judge_pickled(const struct stfs_pickle *pickle, uint32_t global);

#endif
