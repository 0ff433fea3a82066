/* SPDX-License-Identifier: MIT */
#include "codec/element.h"

static const struct stfs_element elements[] = {
	{"uint8", "ByteStorage", 1, 1, STFS_ELEMENT_PLAIN, STFS_U8},
	{"int8", "CharStorage", 1, 1, STFS_ELEMENT_PLAIN, STFS_I8},
	{"bool", "BoolStorage", 1, 1, STFS_ELEMENT_PLAIN, STFS_BOOL},
	{"int16", "ShortStorage", 2, 2, STFS_ELEMENT_PLAIN, STFS_I16},
	{"int32", "IntStorage", 4, 4, STFS_ELEMENT_PLAIN, STFS_I32},
	{"int64", "LongStorage", 8, 8, STFS_ELEMENT_PLAIN, STFS_I64},
	{"uint16", NULL, 2, 2, STFS_ELEMENT_PLAIN, STFS_U16},
	{"uint32", NULL, 4, 4, STFS_ELEMENT_PLAIN, STFS_U32},
	{"uint64", NULL, 8, 8, STFS_ELEMENT_PLAIN, STFS_U64},
	{"float16", "HalfStorage", 2, 2, STFS_ELEMENT_PLAIN, STFS_F16},
	{"bfloat16", "BFloat16Storage", 2, 2, STFS_ELEMENT_PLAIN, STFS_BF16},
	{"float32", "FloatStorage", 4, 4, STFS_ELEMENT_PLAIN, STFS_F32},
	{"float64", "DoubleStorage", 8, 8, STFS_ELEMENT_PLAIN, STFS_F64},
	{"complex32", NULL, 4, 2, STFS_ELEMENT_PAIR, STFS_F16},
	{"complex64", "ComplexFloatStorage", 8, 4, STFS_ELEMENT_PLAIN, STFS_C64},
	{"complex128", "ComplexDoubleStorage", 16, 8, STFS_ELEMENT_PAIR, STFS_F64},
	{"float8_e4m3fn", NULL, 1, 1, STFS_ELEMENT_PLAIN, STFS_F8_E4M3},
	{"float8_e4m3fnuz", NULL, 1, 1, STFS_ELEMENT_PLAIN, STFS_F8_E4M3FNUZ},
	{"float8_e5m2", NULL, 1, 1, STFS_ELEMENT_PLAIN, STFS_F8_E5M2},
	{"float8_e5m2fnuz", NULL, 1, 1, STFS_ELEMENT_PLAIN, STFS_F8_E5M2FNUZ},
	{"float8_e8m0fnu", NULL, 1, 1, STFS_ELEMENT_PLAIN, STFS_F8_E8M0},
	{"float4_e2m1fn_x2", NULL, 1, 1, STFS_ELEMENT_PACKED, STFS_F4},
	{"qint8", "QInt8Storage", 1, 1, STFS_ELEMENT_QUANTIZED, 0},
	{"quint8", "QUInt8Storage", 1, 1, STFS_ELEMENT_QUANTIZED, 0},
	{"qint32", "QInt32Storage", 4, 4, STFS_ELEMENT_QUANTIZED, 0},
	{"quint4x2", "QUInt4x2Storage", 1, 1, STFS_ELEMENT_QUANTIZED, 0},
	{"quint2x4", "QUInt2x4Storage", 1, 1, STFS_ELEMENT_QUANTIZED, 0},
	{"bits8", NULL, 1, 1, STFS_ELEMENT_BITS, 0},
	{"bits16", NULL, 2, 2, STFS_ELEMENT_BITS, 0},
	{"bits1x8", NULL, 1, 1, STFS_ELEMENT_BITS, 0},
	{"bits2x4", NULL, 1, 1, STFS_ELEMENT_BITS, 0},
	{"bits4x2", NULL, 1, 1, STFS_ELEMENT_BITS, 0},
	{"int1", NULL, 1, 1, STFS_ELEMENT_BITS, 0},
	{"int2", NULL, 1, 1, STFS_ELEMENT_BITS, 0},
	{"int3", NULL, 1, 1, STFS_ELEMENT_BITS, 0},
	{"int4", NULL, 1, 1, STFS_ELEMENT_BITS, 0},
	{"int5", NULL, 1, 1, STFS_ELEMENT_BITS, 0},
	{"int6", NULL, 1, 1, STFS_ELEMENT_BITS, 0},
	{"int7", NULL, 1, 1, STFS_ELEMENT_BITS, 0},
	{"uint1", NULL, 1, 1, STFS_ELEMENT_BITS, 0},
	{"uint2", NULL, 1, 1, STFS_ELEMENT_BITS, 0},
	{"uint3", NULL, 1, 1, STFS_ELEMENT_BITS, 0},
	{"uint4", NULL, 1, 1, STFS_ELEMENT_BITS, 0},
	{"uint5", NULL, 1, 1, STFS_ELEMENT_BITS, 0},
	{"uint6", NULL, 1, 1, STFS_ELEMENT_BITS, 0},
	{"uint7", NULL, 1, 1, STFS_ELEMENT_BITS, 0},
};
#define COUNT (sizeof(elements) / sizeof(elements[0]))

const struct stfs_element *stfs_element_by_name(struct stfs_str name)
{
	for (size_t i = 0; i < COUNT; i++)
		if (stfs_str_is(name, elements[i].name))
			return &elements[i];
	return NULL;
}

const struct stfs_element *stfs_element_by_storage(struct stfs_str class_name)
{
	for (size_t i = 0; i < COUNT; i++)
		if (elements[i].storage && stfs_str_is(class_name, elements[i].storage))
			return &elements[i];
	return NULL;
}

const struct stfs_element *stfs_element_by_dtype(enum stfs_dtype dtype)
{
	for (size_t i = 0; i < COUNT; i++)
		if ((elements[i].form == STFS_ELEMENT_PLAIN || elements[i].form == STFS_ELEMENT_PACKED) &&
		    elements[i].dtype == dtype)
			return &elements[i];
	return NULL;
}

const struct stfs_element *stfs_element_byte(void)
{
	return &elements[0];
}
