/* SPDX-License-Identifier: MIT */
/*
 * Tensor names as file names, and back, without a look at any sibling (docs/names.md has the
 * table of cases). A file name is the tensor name with these bytes written as %XX (upper-case
 * hexadecimal): '/', '%', NUL and the other control bytes (0x00-0x1f, 0x7f), a leading '.', and
 * the last byte where the result would otherwise end in ".json" or ".npy", be "__metadata__", or be
 * taken for scratch. The empty name is "%empty". A name whose encoding passes STFS_NAME_MAX bytes
 * becomes a prefix of its encoding, "%~" and the first 32 hexadecimal digits (lower-case) of its
 * SHA-256: such a file name cannot be decoded, only looked up.
 */
#ifndef STFS_FORMAT_NAMES_H
#define STFS_FORMAT_NAMES_H

#include <stdbool.h>

#include "base/buf.h"
#include "base/str.h"

/*
 * Bytes of the longest encoded name. Below NAME_MAX (255) that leaves room for ".json" and for what
 * vim and rsync put around a file name while they write it (".x.json.swp", ".x.json.Ab12Cd").
 */
#define STFS_NAME_MAX 240

/* What a file name in the mounted directory stands for. */
enum stfs_file_kind {
	STFS_FILE_TENSOR,   /* x: raw bytes */
	STFS_FILE_SIDECAR,  /* x.json */
	STFS_FILE_NPY,      /* x.npy */
	STFS_FILE_METADATA, /* __metadata__.json */
	STFS_FILE_STATUS,   /* .stfs */
	STFS_FILE_SCRATCH,  /* never part of the model: dot files, editor and desktop litter */
};

/*
 * Kind of a file name, and the part before ".json" or ".npy" (`stem`, a slice of `file`; all of
 * `file` for the other kinds). Looks at nothing but the name; does not check its escapes, so the
 * stem of a tensor, sidecar or npy file may still fail to decode ("a~" of "a~.json").
 */
enum stfs_file_kind stfs_file_classify(struct stfs_str file, struct stfs_str *stem);

/*
 * Writes the file name of the tensor `name` (valid UTF-8, any characters) to `out`, terminated.
 * Returns its length, at most STFS_NAME_MAX. Cannot fail. The result is one path component and is
 * classified as STFS_FILE_TENSOR.
 */
size_t stfs_name_encode(struct stfs_str name, char out[STFS_NAME_MAX + 1]);

/*
 * Appends the tensor name of the file name `file` (a stem, without ".json" or ".npy") to `name`,
 * or leaves it as it is and returns the first that applies of: -ENAMETOOLONG when `file` passes
 * STFS_NAME_MAX; -EILSEQ when it is not UTF-8; -ENOENT for the hashed form of a long name, which
 * only a table of the model's long names can answer (stfs_name_is_hashed); -EINVAL when it is not
 * exactly what stfs_name_encode() gives for some name; -ENOMEM.
 */
int stfs_name_decode(struct stfs_str file, struct stfs_buf *name);

/* Whether `file` has the form that stfs_name_encode() gives to a long name. */
bool stfs_name_is_hashed(struct stfs_str file);

#endif
