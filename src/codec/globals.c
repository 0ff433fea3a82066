/* SPDX-License-Identifier: MIT */
#include "codec/globals.h"

struct known {
	const char *module;
	const char *names; /* between spaces */
	enum stfs_global_verdict verdict;
	enum stfs_meaning meaning;
};

#define ALLOWED STFS_GLOBAL_ALLOWED
#define HARMLESS STFS_GLOBAL_HARMLESS

#define TENSOR_CLASSES \
	" BFloat16Tensor ByteTensor CharTensor DoubleTensor FloatTensor HalfTensor IntTensor LongTensor" \
	" ShortTensor "
#define NUMPY_SCALARS \
	" bool bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 intc uintc longlong ulonglong" \
	" float16 float32 float64 longdouble complex64 complex128 clongdouble str_ bytes_ datetime64" \
	" timedelta64 ndarray dtype "
#define PATHS " Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath "

static const struct known known[] = {
	{"torch._utils", " _rebuild_tensor ", ALLOWED, STFS_MEANS_TENSOR_V1},
	{"torch._utils", " _rebuild_tensor_v2 ", ALLOWED, STFS_MEANS_TENSOR_V2},
	{"torch._utils", " _rebuild_tensor_v3 ", ALLOWED, STFS_MEANS_TENSOR_V3},
	{"torch._utils", " _rebuild_parameter _rebuild_parameter_with_state ", ALLOWED,
	 STFS_MEANS_PARAMETER},
	{"torch.nn.parameter", " Parameter ", ALLOWED, STFS_MEANS_PARAMETER},
	{"torch._tensor", " _rebuild_from_type_v2 ", ALLOWED, STFS_MEANS_FROM_TYPE},
	{"torch._utils", " _rebuild_device_tensor_from_cpu_tensor ", ALLOWED, STFS_MEANS_FROM_CPU},
	{"torch._utils", " _rebuild_sparse_tensor ", ALLOWED, STFS_MEANS_SPARSE},
	{"torch._utils", " _rebuild_qtensor ", ALLOWED, STFS_MEANS_QUANTIZED},
	{"torch._utils", " _rebuild_meta_tensor_no_storage _rebuild_nested_tensor"
	 " _rebuild_wrapper_subclass _rebuild_device_tensor_from_numpy ", ALLOWED,
	 STFS_MEANS_UNREPRESENTED},
	{"torch", TENSOR_CLASSES " BoolTensor Tensor ", ALLOWED, STFS_MEANS_TENSOR_CLASS},
	{"torch.cuda", TENSOR_CLASSES " BoolTensor ", ALLOWED, STFS_MEANS_TENSOR_CLASS},
	{"torch.sparse", TENSOR_CLASSES, ALLOWED, STFS_MEANS_UNREPRESENTED},
	{"torch.cuda.sparse", TENSOR_CLASSES, ALLOWED, STFS_MEANS_UNREPRESENTED},
	{"torch", " Size ", ALLOWED, STFS_MEANS_SIZE},
	{"torch", " device ", ALLOWED, STFS_MEANS_DEVICE},
	{"torch", " per_tensor_affine per_tensor_symmetric per_channel_affine per_channel_symmetric"
	 " per_channel_affine_float_qparams ", ALLOWED, STFS_MEANS_OPAQUE},
	{"torch.serialization", " _get_layout ", ALLOWED, STFS_MEANS_LAYOUT},
	{"collections", " OrderedDict Counter ", ALLOWED, STFS_MEANS_DICT},
	{"_codecs", " encode ", ALLOWED, STFS_MEANS_BYTES},
	{"builtins", " bytearray ", ALLOWED, STFS_MEANS_BYTES},
	{"builtins", " set ", ALLOWED, STFS_MEANS_SET},
	{"builtins", " complex ", ALLOWED, STFS_MEANS_OPAQUE},

	{"builtins", " frozenset ", HARMLESS, STFS_MEANS_SET},
	{"builtins", " bytes ", HARMLESS, STFS_MEANS_BYTES},
	{"builtins", " dict ", HARMLESS, STFS_MEANS_DICT},
	{"builtins", " list ", HARMLESS, STFS_MEANS_LIST},
	{"builtins", " range slice int float bool str tuple object Ellipsis NotImplemented ", HARMLESS,
	 STFS_MEANS_OPAQUE},
	{"collections", " defaultdict ", HARMLESS, STFS_MEANS_DICT},
	{"collections", " deque ", HARMLESS, STFS_MEANS_LIST},
	{"argparse", " Namespace ", HARMLESS, STFS_MEANS_OPAQUE},
	{"types", " SimpleNamespace ", HARMLESS, STFS_MEANS_OPAQUE},
	{"datetime", " datetime date time timedelta timezone ", HARMLESS, STFS_MEANS_OPAQUE},
	{"decimal", " Decimal ", HARMLESS, STFS_MEANS_OPAQUE},
	{"fractions", " Fraction ", HARMLESS, STFS_MEANS_OPAQUE},
	{"uuid", " UUID SafeUUID ", HARMLESS, STFS_MEANS_OPAQUE},
	{"pathlib", PATHS, HARMLESS, STFS_MEANS_OPAQUE},
	{"pathlib._local", PATHS, HARMLESS, STFS_MEANS_OPAQUE},
	{"copyreg", " _reconstructor ", HARMLESS, STFS_MEANS_OPAQUE},
	{"torch.torch_version", " TorchVersion ", HARMLESS, STFS_MEANS_TEXT},
	{"numpy", NUMPY_SCALARS, HARMLESS, STFS_MEANS_OPAQUE},
	{"numpy.core.multiarray", " _reconstruct scalar ", HARMLESS, STFS_MEANS_OPAQUE},
	{"numpy._core.multiarray", " _reconstruct scalar ", HARMLESS, STFS_MEANS_OPAQUE},
	{"numpy.core.numeric", " _frombuffer ", HARMLESS, STFS_MEANS_OPAQUE},
	{"numpy._core.numeric", " _frombuffer ", HARMLESS, STFS_MEANS_OPAQUE},
	{"numpy.dtypes", " BoolDType Int8DType Int16DType Int32DType Int64DType UInt8DType UInt16DType"
	 " UInt32DType UInt64DType Float16DType Float32DType Float64DType Complex64DType"
	 " Complex128DType StrDType BytesDType ObjectDType DateTime64DType TimeDelta64DType ", HARMLESS,
	 STFS_MEANS_OPAQUE},
};

/* How Python 2 called them (torch/_utils.py, IMPORT_MAPPING and NAME_MAPPING). */
static const struct {
	const char *module, *name, *new_module, *new_name;
} renamed[] = {
	{"__builtin__", "xrange", "builtins", "range"},
	{"__builtin__", "unicode", "builtins", "str"},
	{"__builtin__", "basestring", "builtins", "str"},
	{"__builtin__", "long", "builtins", "int"},
	{"__builtin__", NULL, "builtins", NULL},
	{"copy_reg", NULL, "copyreg", NULL},
};

static void rename_python2(struct stfs_str *module, struct stfs_str *name)
{
	for (size_t i = 0; i < sizeof(renamed) / sizeof(renamed[0]); i++) {
		if (!stfs_str_is(*module, renamed[i].module) ||
		    (renamed[i].name && !stfs_str_is(*name, renamed[i].name)))
			continue;
		*module = stfs_str_from(renamed[i].new_module);
		if (renamed[i].new_name)
			*name = stfs_str_from(renamed[i].new_name);
		return;
	}
}

/* Whether `name` is one of the words of `names`; a name that holds a space is none. */
static bool is_listed(const char *names, struct stfs_str name)
{
	const char *end;

	for (const char *word = names; *word; word = end) {
		word += strspn(word, " ");
		end = word + strcspn(word, " ");
		if (end > word && stfs_str_equal(stfs_str_slice(word, (size_t)(end - word)), name))
			return true;
	}
	return false;
}

/* Element types and the classes of storages, which have tables of their own. */
static bool judge_element(struct stfs_str module, struct stfs_str name, struct stfs_global_info *info)
{
	bool is_torch = stfs_str_is(module, "torch"), is_untyped;

	is_untyped = stfs_str_is(module, "torch.storage") &&
		     (stfs_str_is(name, "UntypedStorage") || stfs_str_is(name, "TypedStorage"));
	info->meaning = STFS_MEANS_ELEMENT;
	info->element = is_torch ? stfs_element_by_name(name) : NULL;
	if (!info->element) {
		info->meaning = STFS_MEANS_STORAGE;
		if (is_torch || stfs_str_is(module, "torch.cuda"))
			info->element = stfs_element_by_storage(name);
		if (is_untyped)
			info->element = stfs_element_byte();
	}
	info->verdict = ALLOWED;
	return info->element != NULL;
}

struct stfs_global_info stfs_global_judge(struct stfs_str module, struct stfs_str name)
{
	struct stfs_global_info info = {0};

	rename_python2(&module, &name);
	if (judge_element(module, name, &info))
		return info;
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (stfs_str_is(module, known[i].module) && is_listed(known[i].names, name))
			return (struct stfs_global_info){known[i].verdict, known[i].meaning, NULL};
	return (struct stfs_global_info){STFS_GLOBAL_REFUSED, STFS_MEANS_REFUSED, NULL};
}

struct stfs_global_info stfs_global_judge_pickled(const struct stfs_pickle *pickle, uint32_t global)
{
	return stfs_global_judge(stfs_pickle_module(pickle, &pickle->globals[global]),
				 stfs_pickle_name(pickle, &pickle->globals[global]));
}

const char *stfs_global_verdict_name(enum stfs_global_verdict verdict)
{
	static const char *const names[] = {[STFS_GLOBAL_ALLOWED] = "allowed",
					    [STFS_GLOBAL_HARMLESS] = "harmless",
					    [STFS_GLOBAL_REFUSED] = "refused"};

	return names[verdict];
}
