/* SPDX-License-Identifier: MIT */
#include "ops/typing.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "format/npy.h"
#include "format/sidecar.h"
#include "ops/slurp.h"
#include "ops/transpose.h"

/* A first look at a .npy file: more than any usual header. */
#define NPY_LOOK 4096

static int copy_shape(const uint64_t *dims, size_t rank, struct stfs_shape *shape)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < rank; i++)
		r = stfs_shape_add(shape, dims[i]);
	return r;
}

/* "F32 [2,3]" */
static void put_type(enum stfs_dtype dtype, const uint64_t *dims, size_t rank, struct stfs_buf *out)
{
	stfs_buf_printf(out, "%s [", stfs_dtype_info(dtype)->name);
	for (size_t i = 0; i < rank && i < 16; i++)
		stfs_buf_printf(out, "%s%" PRIu64, i ? "," : "", dims[i]);
	stfs_buf_puts(out, rank > 16 ? ",...]" : "]");
}

/* ---- Sidecars ---- */

/* What a sidecar says. -ENOENT when there is none. */
static int read_sidecar(const char *path, struct stfs_sidecar *sidecar, struct stfs_err *err)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	struct stfs_err why = STFS_ERR_INIT;
	int r = stfs_slurp(path, STFS_SIDECAR_MAX, &text, &why);

	if (r == -ENOENT || r == -ENOMEM)
		return r;
	if (r == 0)
		r = stfs_sidecar_read(stfs_buf_str(&text), sidecar, &why);
	return r < 0 && r != -ENOMEM
		       ? stfs_err_set(err, r, why.position, "its sidecar: %s", why.message)
		       : r;
}

int stfs_typing_beside(const char *path, struct stfs_sidecar *sidecar, struct stfs_err *err)
{
	STFS_AUTO_FREE char *name = NULL;

	if (strcmp(path, "-") == 0)
		return -ENOENT;
	if (asprintf(&name, "%s.json", path) < 0) {
		name = NULL;
		return -ENOMEM;
	}
	return read_sidecar(name, sidecar, err);
}

/* ---- .npy ---- */

/* Reads the header, however long it is. 0 or -errno, `err` without the path. */
static int read_header(const struct stfs_bytes *bytes, const enum stfs_dtype *declared,
		       struct stfs_npy *npy, struct stfs_err *err)
{
	size_t len = stfs_min_u64(NPY_LOOK, bytes->len);
	STFS_AUTO_FREE char *text = NULL;
	ssize_t got;
	int r;

	for (;;) {
		free(text);
		text = malloc(len + 1);
		if (!text)
			return -ENOMEM;
		got = stfs_io_pread_full(bytes->source.fd, text, len, bytes->source.offset);
		if (got < 0)
			return stfs_err_set(err, (int)got, STFS_NO_POSITION, "%s",
					    strerror((int)-got));
		r = stfs_npy_read_header(text, (size_t)got, declared, npy, err);
		if (r != -EAGAIN)
			return r;
		if (npy->header_len > bytes->len || npy->header_len <= len)
			return stfs_err_set(err, -EBADMSG, STFS_NO_POSITION,
					    "the file ends inside the .npy header");
		len = npy->header_len;
		stfs_npy_free(npy);
	}
}

/* Whether the array is what the user says it is. */
static int judge_npy(const struct stfs_typing *typing, const struct stfs_bytes *bytes,
		     const struct stfs_npy *npy, struct stfs_err *err)
{
	uint64_t held = bytes->len - npy->header_len;

	if (held < npy->data_len)
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION,
				    "its header promises %" PRIu64 " bytes, %" PRIu64
				    " are there: it was "
				    "cut short",
				    npy->data_len, held);
	if (held > npy->data_len)
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION,
				    "%" PRIu64 " bytes stand behind the array",
				    held - npy->data_len);
	if (typing->dtype && *typing->dtype != npy->dtype)
		return stfs_err_set(
			err, -EINVAL, STFS_NO_POSITION,
			"its elements are %s, not %s; --raw --dtype takes the whole file as "
			"it is",
			stfs_dtype_info(npy->dtype)->name, stfs_dtype_info(*typing->dtype)->name);
	if (typing->shape && typing->shape->elements != npy->shape.elements)
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION,
				    "it has %" PRIu64 " elements, --shape %" PRIu64,
				    npy->shape.elements, typing->shape->elements);
	return 0;
}

static int type_npy(struct stfs_edit *edit, const struct stfs_typing *typing,
		    const struct stfs_bytes *bytes, struct stfs_typed *typed, struct stfs_err *err)
{
	const enum stfs_dtype *declared = typing->dtype;
	struct stfs_sidecar sidecar = {.shape = STFS_SHAPE_INIT};
	struct stfs_npy npy = {.shape = STFS_SHAPE_INIT};
	int r = -ENOENT;

	if (!declared && typing->sidecar)
		r = read_sidecar(typing->sidecar, &sidecar, err);
	if (r < 0 && r != -ENOENT)
		return r;
	if (r == 0)
		declared = &sidecar.dtype;
	else if (!declared && typing->there)
		declared = &typing->there->dtype;
	r = read_header(bytes, declared, &npy, err);
	if (r == 0)
		r = judge_npy(typing, bytes, &npy, err);
	if (r == 0) {
		typed->dtype = npy.dtype;
		typed->source = bytes->source;
		typed->source.offset += npy.header_len;
	}
	/* Of one dimension, both orders are the same. */
	if (r == 0 && npy.fortran_order && npy.shape.rank > 1 && npy.data_len > 0)
		r = stfs_transpose(edit, &npy, &typed->source, err);
	if (r == 0)
		r = typing->shape
			    ? copy_shape(typing->shape->dims, typing->shape->rank, &typed->shape)
			    : copy_shape(npy.shape.dims, npy.shape.rank, &typed->shape);
	stfs_npy_free(&npy);
	stfs_sidecar_free(&sidecar);
	return r;
}

/* ---- Raw ---- */

struct claim {
	bool has_dtype, has_shape, may_grow;
	enum stfs_dtype dtype;
	const uint64_t *dims; /* borrowed */
	size_t rank;
};

static void claim_from_user(const struct stfs_typing *typing, struct claim *claim)
{
	if (typing->dtype) {
		claim->has_dtype = true;
		claim->dtype = *typing->dtype;
	}
	if (typing->shape) {
		claim->has_shape = true;
		claim->dims = typing->shape->dims;
		claim->rank = typing->shape->rank;
	}
}

/* What is said by nobody yet. */
static void claim_rest(struct claim *claim, enum stfs_dtype dtype, const uint64_t *dims,
		       size_t rank, bool may_grow)
{
	if (!claim->has_dtype)
		claim->dtype = dtype;
	if (!claim->has_shape) {
		claim->dims = dims;
		claim->rank = rank;
		claim->may_grow = may_grow;
	}
	claim->has_dtype = claim->has_shape = true;
}

/* Rows that `len` bytes are, of a shape whose first dimension is free; false when they are none. */
static bool count_rows(const struct claim *claim, uint64_t len, uint64_t *rows)
{
	unsigned bits = stfs_dtype_info(claim->dtype)->bits;
	uint64_t row = 1, all;

	if (!claim->may_grow || claim->rank == 0 || len > UINT64_MAX / 8 || len * 8 % bits != 0)
		return false;
	all = len * 8 / bits;
	for (size_t i = 1; i < claim->rank; i++)
		if (stfs_mul_overflows(row, claim->dims[i], &row))
			return false;
	if (row == 0 || all % row != 0)
		return false;
	*rows = all / row;
	return true;
}

static int refuse_size(const struct claim *claim, uint64_t len, uint64_t wanted,
		       struct stfs_err *err)
{
	STFS_AUTO_BUF struct stfs_buf type = STFS_BUF_INIT;

	put_type(claim->dtype, claim->dims, claim->rank, &type);
	if (!stfs_buf_cstr(&type))
		return -ENOMEM;
	return stfs_err_set(
		err, -EINVAL, STFS_NO_POSITION, "it has %" PRIu64 " bytes, %s has %" PRIu64 "%s",
		len, type.data, wanted,
		claim->may_grow ? ", and they are no whole rows of it; say what they are with "
				  "--dtype and --shape"
				: "");
}

/* The shape that a claim gives to `len` bytes. */
static int settle(const struct claim *claim, uint64_t len, struct stfs_typed *typed,
		  struct stfs_err *err)
{
	uint64_t wanted = 0, rows;
	int r = copy_shape(claim->dims, claim->rank, &typed->shape);

	if (r == -EOVERFLOW)
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "its shape is too large");
	if (r < 0)
		return r;
	typed->dtype = claim->dtype;
	r = stfs_dtype_bytes(claim->dtype, typed->shape.elements, &wanted);
	if (r == 0 && wanted == len)
		return 0;
	if (r == -EDOM && !claim->may_grow)
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION,
				    "%" PRIu64 " elements of %s do not end on a byte",
				    typed->shape.elements, stfs_dtype_info(claim->dtype)->name);
	if (!count_rows(claim, len, &rows))
		return refuse_size(claim, len, wanted, err);
	stfs_shape_free(&typed->shape);
	r = stfs_shape_add(&typed->shape, rows);
	for (size_t i = 1; r == 0 && i < claim->rank; i++)
		r = stfs_shape_add(&typed->shape, claim->dims[i]);
	return r == -ENOMEM ? r : r < 0 ? refuse_size(claim, len, wanted, err) : 0;
}

static int type_raw(const struct stfs_typing *typing, const struct stfs_bytes *bytes,
		    struct stfs_typed *typed, struct stfs_err *err)
{
	struct stfs_sidecar sidecar = {.shape = STFS_SHAPE_INIT};
	const struct stfs_edit_tensor *there = typing->there;
	struct claim claim = {0};
	int r = 0;

	typed->source = bytes->source;
	claim_from_user(typing, &claim);
	if (!claim.has_dtype || !claim.has_shape) {
		r = stfs_typing_beside(typing->path, &sidecar, err);
		if (r == 0)
			claim_rest(&claim, sidecar.dtype, sidecar.shape.dims, sidecar.shape.rank,
				   false);
		else if (r == -ENOENT && there)
			claim_rest(&claim, there->dtype, there->dims, there->rank, true);
		r = r == -ENOENT ? 0 : r;
	}
	if (r == 0 && !claim.has_dtype)
		r = stfs_err_set(
			err, -EINVAL, STFS_NO_POSITION,
			"raw bytes of what? Pass --dtype and --shape, or put a sidecar beside "
			"it, a .json file as a mounted model has it");
	else if (r == 0 && !claim.has_shape)
		r = stfs_err_set(err, -EINVAL, STFS_NO_POSITION,
				 "pass --shape too: its %" PRIu64 " bytes are %" PRIu64
				 " elements of %s",
				 bytes->len, bytes->len * 8 / stfs_dtype_info(claim.dtype)->bits,
				 stfs_dtype_info(claim.dtype)->name);
	if (r == 0)
		r = settle(&claim, bytes->len, typed, err);
	stfs_sidecar_free(&sidecar);
	return r;
}

int stfs_typing_find(struct stfs_edit *edit, const struct stfs_typing *typing,
		     const struct stfs_bytes *bytes, struct stfs_typed *typed, struct stfs_err *err)
{
	bool named = stfs_str_ends_with(stfs_str_from(typing->path), ".npy");
	struct stfs_err why = STFS_ERR_INIT;
	int r;

	*typed = (struct stfs_typed){.shape = STFS_SHAPE_INIT};
	if (typing->form == STFS_FORM_NPY || (typing->form == STFS_FORM_BY_NAME && named))
		r = type_npy(edit, typing, bytes, typed, &why);
	else
		r = type_raw(typing, bytes, typed, &why);
	if (r == 0 || r == -ENOMEM)
		return r;
	return stfs_err_set(err, r, why.position, "%s: %s",
			    strcmp(typing->path, "-") == 0 ? "standard input" : typing->path,
			    why.message);
}
