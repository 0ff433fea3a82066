/* SPDX-License-Identifier: MIT */
#include "format/dtype.h"

#include <assert.h>
#include <errno.h>

#include "base/arith.h"

static_assert(STFS_DTYPE_COUNT == STFS_U64 + 1, "the last of enum stfs_dtype");

static const struct stfs_dtype_info table[STFS_DTYPE_COUNT] = {
	[STFS_BOOL] = {"BOOL", 8, "|b1", NULL},
	[STFS_F4] = {"F4", 4, NULL, NULL},
	[STFS_F6_E2M3] = {"F6_E2M3", 6, NULL, NULL},
	[STFS_F6_E3M2] = {"F6_E3M2", 6, NULL, NULL},
	[STFS_U8] = {"U8", 8, "|u1", NULL},
	[STFS_I8] = {"I8", 8, "|i1", NULL},
	[STFS_F8_E5M2] = {"F8_E5M2", 8, "|V1", "float8_e5m2"},
	[STFS_F8_E4M3] = {"F8_E4M3", 8, "|V1", "float8_e4m3fn"},
	[STFS_F8_E8M0] = {"F8_E8M0", 8, "|V1", "float8_e8m0fnu"},
	[STFS_F8_E4M3FNUZ] = {"F8_E4M3FNUZ", 8, "|V1", "float8_e4m3fnuz"},
	[STFS_F8_E5M2FNUZ] = {"F8_E5M2FNUZ", 8, "|V1", "float8_e5m2fnuz"},
	[STFS_I16] = {"I16", 16, "<i2", NULL},
	[STFS_U16] = {"U16", 16, "<u2", NULL},
	[STFS_F16] = {"F16", 16, "<f2", NULL},
	[STFS_BF16] = {"BF16", 16, "<V2", "bfloat16"},
	[STFS_I32] = {"I32", 32, "<i4", NULL},
	[STFS_U32] = {"U32", 32, "<u4", NULL},
	[STFS_F32] = {"F32", 32, "<f4", NULL},
	[STFS_C64] = {"C64", 64, "<c8", NULL},
	[STFS_F64] = {"F64", 64, "<f8", NULL},
	[STFS_I64] = {"I64", 64, "<i8", NULL},
	[STFS_U64] = {"U64", 64, "<u8", NULL},
};

const struct stfs_dtype_info *stfs_dtype_info(enum stfs_dtype dtype)
{
	assert((unsigned)dtype < STFS_DTYPE_COUNT);
	return &table[dtype];
}

int stfs_dtype_parse(struct stfs_str name, enum stfs_dtype *dtype)
{
	for (unsigned i = 0; i < STFS_DTYPE_COUNT; i++) {
		if (stfs_str_is(name, table[i].name)) {
			*dtype = (enum stfs_dtype)i;
			return 0;
		}
	}
	return -EINVAL;
}

unsigned stfs_dtype_alignment(enum stfs_dtype dtype)
{
	unsigned bits = stfs_dtype_info(dtype)->bits;

	return bits < 8 ? 1 : bits / 8;
}

int stfs_dtype_bytes(enum stfs_dtype dtype, uint64_t elements, uint64_t *bytes)
{
	uint64_t bits;

	if (stfs_mul_overflows(elements, stfs_dtype_info(dtype)->bits, &bits))
		return -EOVERFLOW;
	if (bits % 8)
		return -EDOM;
	*bytes = bits / 8;
	return 0;
}
