/* SPDX-License-Identifier: MIT */
/*
 * Calls that make tensors (torch/_utils.py):
 *   _rebuild_tensor(storage, offset, size, stride)
 *   _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata])
 *   _rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype[, metadata])
 *   _rebuild_parameter(tensor, requires_grad, hooks), Parameter(tensor[, requires_grad])
 *   _rebuild_from_type_v2(function, class, arguments, state)
 * and a class of tensors called without arguments whose state is (storage, offset, size, stride).
 * Offset and strides count elements.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "codec/grow.h"
#include "codec/torch_internal.h"

/* Whether a persistent id of the tar form is a storage's: any other should be a tensor's. */
static bool names_storage(const struct stfs_torch *torch, uint32_t value)
{
	struct stfs_torch_ref ref;
	uint32_t number;

	if (stfs_torch_read_ref(torch, value, &ref, NULL) < 0)
		return false;
	number = stfs_torch_find_storage(torch, ref.key);
	return number != STFS_NO_NUMBER && number < torch->storage_count;
}

bool stfs_torch_is_tensor(const struct stfs_torch *torch, uint32_t value)
{
	if (stfs_pickle_is(&torch->pickle, value, STFS_PICKLE_CALL))
		return stfs_torch_meaning(torch, value) >= STFS_MEANS_TENSOR_V1;
	return torch->form == STFS_TORCH_TAR && stfs_pickle_is(&torch->pickle, value, STFS_PICKLE_PERSISTENT) &&
	       !names_storage(torch, value);
}

/* What is being read: arguments of a call, or what stands for them. */
struct call {
	const struct stfs_torch *torch;
	struct stfs_torch_build *build;
	struct stfs_err *err;
	enum stfs_meaning meaning;
	const uint32_t *args;
	uint32_t count;
};

static int wrong(const struct call *call, const char *what)
{
	return stfs_torch_fail(call->torch, call->build->at, call->err, "a tensor that cannot be made: %s", what);
}

static bool read_natural(const struct stfs_pickle *pickle, uint32_t value, uint64_t *number)
{
	if (!stfs_pickle_is(pickle, value, STFS_PICKLE_INT) || stfs_pickle_at(pickle, value)->as.integer < 0)
		return false;
	*number = (uint64_t)stfs_pickle_at(pickle, value)->as.integer;
	return true;
}

/*
 * A tuple of numbers, or torch.Size of one. A list is none: it could have been changed after the call
 * was made, and nobody would know what torch saw. -1 when it is none.
 */
static int read_tuple(const struct call *call, uint32_t value, uint64_t numbers[STFS_TORCH_RANK_MAX])
{
	const struct stfs_pickle *pickle = &call->torch->pickle;
	const struct stfs_pickle_call *size = stfs_pickle_called(pickle, value);
	uint32_t count;
	const uint32_t *items;

	if (size && stfs_torch_meaning(call->torch, value) == STFS_MEANS_SIZE) {
		items = stfs_pickle_tuple(pickle, size->args, &count);
		value = count == 1 ? items[0] : STFS_NO_VALUE;
	}
	items = stfs_pickle_tuple(pickle, value, &count);
	if (!items || count > STFS_TORCH_RANK_MAX)
		return -1;
	for (uint32_t i = 0; i < count; i++)
		if (!read_natural(pickle, items[i], &numbers[i]))
			return -1;
	return (int)count;
}

/* Those of a tensor in C order; what overflows lies in dimensions that are judged elsewhere. */
static void contiguous_strides(struct stfs_torch_build *build)
{
	uint64_t stride = 1;

	for (uint32_t i = build->rank; i-- > 0;) {
		build->strides[i] = stride;
		if (build->dims[i] && stfs_mul_overflows(stride, build->dims[i], &stride))
			stride = UINT64_MAX;
	}
}

static int read_storage(struct call *call, uint32_t value)
{
	struct stfs_torch_build *build = call->build;
	const struct stfs_torch_storage *storage;
	struct stfs_torch_ref ref;
	int r;

	if (!stfs_pickle_is(&call->torch->pickle, value, STFS_PICKLE_PERSISTENT) ||
	    call->torch->form == STFS_TORCH_TAR)
		return wrong(call, "its storage is none");
	r = stfs_torch_read_ref(call->torch, value, &ref, call->err);
	if (r < 0)
		return r;
	build->storage = stfs_torch_find_storage(call->torch, ref.key);
	storage = &call->torch->storages[build->storage];
	build->element = ref.element;
	build->view_end = storage->size;
	if (ref.is_view) { /* within `count`, whose bytes did not overflow */
		build->view_begin = ref.view_from * ref.element->bytes;
		build->view_end = build->view_begin + ref.view_count * ref.element->bytes;
	}
	return 0;
}

/* Storage, offset, size and stride: the first four arguments of all functions. */
static int read_extent(struct call *call)
{
	struct stfs_torch_build *build = call->build;
	const struct stfs_pickle *pickle = &call->torch->pickle;
	int r, count;

	if (call->count < 4)
		return wrong(call, "too few arguments");
	r = read_storage(call, call->args[0]);
	if (r < 0)
		return r;
	if (!read_natural(pickle, call->args[1], &build->offset))
		return wrong(call, "its offset is no number from 0 on");
	count = read_tuple(call, call->args[2], build->dims);
	if (count < 0)
		return wrong(call, "its shape is no tuple of numbers from 0 on");
	build->rank = (uint32_t)count;
	if (stfs_pickle_is(pickle, call->args[3], STFS_PICKLE_NONE))
		contiguous_strides(build);
	else if (read_tuple(call, call->args[3], build->strides) != count)
		return wrong(call, "its strides are no tuple of as many numbers from 0 on");
	return 0;
}

/* Whether a dict says that the numbers are to be conjugated or negated when they are read. */
static bool is_lazy(const struct stfs_pickle *pickle, uint32_t value)
{
	const struct stfs_pickle_value *v = stfs_pickle_at(pickle, value);
	struct stfs_pickle_walk walk;
	const uint32_t *key, *truth;

	if (v->kind != STFS_PICKLE_DICT)
		return v->kind != STFS_PICKLE_NONE;
	walk = stfs_pickle_walk_from(&pickle->lists[v->as.list]);
	while ((key = stfs_pickle_step(pickle, &walk))) {
		truth = stfs_pickle_step(pickle, &walk);
		if (*key != STFS_NO_VALUE && !(stfs_pickle_is(pickle, *truth, STFS_PICKLE_BOOL) &&
					       !stfs_pickle_at(pickle, *truth)->as.truth))
			return true;
	}
	return false;
}

/* The type that a global such as torch.float32 stands for, or NULL. */
static const struct stfs_element *element_of(const struct call *call, uint32_t value)
{
	const struct stfs_pickle *pickle = &call->torch->pickle;
	const struct stfs_global_info *info;

	if (!stfs_pickle_is(pickle, value, STFS_PICKLE_GLOBAL))
		return NULL;
	info = &call->torch->infos[stfs_pickle_global_of(pickle, value)];
	return info->meaning == STFS_MEANS_ELEMENT ? info->element : NULL;
}

static int read_plain(struct call *call)
{
	static const struct { uint8_t least, most; } arguments[] = {
		[STFS_MEANS_TENSOR_V1] = {4, 4}, [STFS_MEANS_TENSOR_V2] = {6, 7}, [STFS_MEANS_TENSOR_V3] = {7, 8}};
	const struct stfs_pickle *pickle = &call->torch->pickle;
	int r;

	if (call->count < arguments[call->meaning].least || call->count > arguments[call->meaning].most)
		return wrong(call, "too few arguments, or too many");
	r = read_extent(call);
	if (r < 0 || call->meaning == STFS_MEANS_TENSOR_V1)
		return r;
	call->build->requires_grad = stfs_pickle_is(pickle, call->args[4], STFS_PICKLE_BOOL) &&
				     stfs_pickle_at(pickle, call->args[4])->as.truth;
	if (call->meaning == STFS_MEANS_TENSOR_V3) {
		call->build->element = element_of(call, call->args[6]);
		if (!call->build->element)
			return wrong(call, "its type is none");
	}
	if (call->count == arguments[call->meaning].most && is_lazy(pickle, call->args[call->count - 1]))
		call->build->refusal = "a conjugate or negated view, whose numbers do not stand in the file";
	return 0;
}

/* ---- Kinds that wrap others ---- */

/* Parameters of torch before 0.4 have state: (requires_grad, volatile, hooks). Others never have any. */
static int check_state(const struct call *call, const struct stfs_pickle_call *made)
{
	uint32_t count;

	if (made->state == STFS_NO_VALUE)
		return 0;
	if (call->meaning == STFS_MEANS_PARAMETER &&
	    stfs_pickle_tuple(&call->torch->pickle, made->state, &count) && count == 3)
		return 0;
	return wrong(call, "it is given a state");
}

/* 1 when the value wraps another, now *value; 0 when it is read. */
static int read_call(struct call *call, const struct stfs_pickle_call *made, uint32_t *value)
{
	const struct stfs_pickle *pickle = &call->torch->pickle;

	switch (call->meaning) {
	case STFS_MEANS_TENSOR_V1: case STFS_MEANS_TENSOR_V2: case STFS_MEANS_TENSOR_V3:
		return read_plain(call);
	case STFS_MEANS_TENSOR_CLASS:
		call->args = stfs_pickle_tuple(pickle, made->state, &call->count);
		return call->args && call->count == 4 ? read_extent(call) : wrong(call, "its state is none");
	case STFS_MEANS_PARAMETER:
		if (call->count < 1 || call->count > 4)
			return wrong(call, "a parameter of nothing");
		call->build->parameter = true;
		*value = call->args[0];
		return 1;
	case STFS_MEANS_FROM_CPU:
		if (call->count != 4 || !element_of(call, call->args[1]))
			return wrong(call, "its type is none");
		call->build->converted = element_of(call, call->args[1]);
		*value = call->args[0];
		return 1;
	case STFS_MEANS_SPARSE:
		call->build->sparse = *value;
		return 0;
	case STFS_MEANS_QUANTIZED:
		call->build->refusal = STFS_TORCH_QUANTIZED;
		return 0;
	case STFS_MEANS_UNREPRESENTED:
		call->build->refusal = "a kind of tensor that is more than a block of numbers (nested, "
				       "meta, a subclass, old sparse)";
		return 0;
	case STFS_MEANS_REFUSED: case STFS_MEANS_OPAQUE: case STFS_MEANS_BYTES: case STFS_MEANS_SET:
	case STFS_MEANS_DICT: case STFS_MEANS_LIST: case STFS_MEANS_SIZE: case STFS_MEANS_DEVICE:
	case STFS_MEANS_LAYOUT: case STFS_MEANS_TEXT: case STFS_MEANS_ELEMENT: case STFS_MEANS_STORAGE:
	case STFS_MEANS_FROM_TYPE: break;
	}
	return wrong(call, "no function that makes tensors");
}

/* A tensor of the tar form, by its id. */
static int read_tar(struct call *call, uint32_t value)
{
	const struct stfs_torch *torch = call->torch;
	const struct stfs_torch_tar_tensor *tensor;
	struct stfs_torch_ref ref;
	uint32_t number;
	int r = stfs_torch_read_ref(torch, value, &ref, call->err);

	if (r < 0)
		return r;
	number = stfs_torch_find_storage(torch, ref.key);
	if (number == STFS_NO_NUMBER || number < torch->storage_count)
		return wrong(call, "no tensor has its id");
	tensor = &torch->tar_tensors[number - torch->storage_count];
	call->build->storage = tensor->storage;
	call->build->element = torch->storages[tensor->storage].element;
	call->build->view_end = torch->storages[tensor->storage].size;
	call->build->offset = tensor->offset;
	call->build->rank = tensor->rank;
	for (uint32_t i = 0; i < tensor->rank; i++) {
		call->build->dims[i] = torch->numbers[tensor->numbers + i];
		call->build->strides[i] = torch->numbers[tensor->numbers + tensor->rank + i];
	}
	return 0;
}

/* Looks at one value, as read_call(). */
static int read_one(struct call *call, uint32_t *value)
{
	const struct stfs_pickle *pickle = &call->torch->pickle;
	const struct stfs_pickle_call *made;
	uint32_t function;

	if (!stfs_torch_is_tensor(call->torch, *value))
		return wrong(call, "it is made of what is no tensor");
	made = stfs_pickle_called(pickle, *value);
	if (!made)
		return read_tar(call, *value);
	call->meaning = stfs_torch_meaning(call->torch, *value);
	call->args = stfs_pickle_tuple(pickle, made->args, &call->count);
	if (call->meaning != STFS_MEANS_TENSOR_CLASS && check_state(call, made) < 0)
		return -EBADMSG;
	if (call->meaning == STFS_MEANS_FROM_TYPE) { /* what it calls in its turn */
		function = call->count == 4 && stfs_pickle_is(pickle, call->args[0], STFS_PICKLE_GLOBAL) ?
				   stfs_pickle_global_of(pickle, call->args[0]) : STFS_NO_VALUE;
		if (function == STFS_NO_VALUE || !stfs_pickle_is(pickle, call->args[2], STFS_PICKLE_TUPLE))
			return wrong(call, "it calls no function");
		call->meaning = call->torch->infos[function].meaning;
		call->args = stfs_pickle_tuple(pickle, call->args[2], &call->count);
		if (call->meaning == STFS_MEANS_SPARSE)
			return wrong(call, "a subclass of a sparse tensor");
	}
	return read_call(call, made, value);
}

/* Parameters of parameters of ...: nobody writes them. */
#define WRAPPED_MAX 8

int stfs_torch_describe(const struct stfs_torch *torch, uint32_t value, struct stfs_torch_build *build,
			struct stfs_err *err)
{
	struct call call = {.torch = torch, .build = build, .err = err};
	int r = 1;

	build->at = stfs_pickle_at(&torch->pickle, value)->at;
	build->parameter = build->requires_grad = false;
	build->refusal = NULL;
	build->sparse = STFS_NO_VALUE;
	build->converted = NULL;
	build->view_begin = 0;
	for (unsigned i = 0; r == 1; i++) {
		build->made_by = value;
		r = i < WRAPPED_MAX ? read_one(&call, &value) : wrong(&call, "it is wrapped too often");
	}
	if (r == 0 && !build->refusal && build->converted && build->converted != build->element)
		build->refusal = "torch would convert its numbers";
	return r;
}

/* ---- Against its storage ---- */

static int outside(const struct stfs_torch *torch, const struct stfs_torch_build *build, struct stfs_err *err)
{
	char quoted[STFS_QUOTED_MAX];

	return stfs_torch_fail(torch, build->at, err, "a tensor passes the end of storage \"%s\"",
			       stfs_quote(torch->storages[build->storage].key, quoted));
}

/* Elements, and how many of them the tensor spans; 0 of an empty one. */
static bool count_elements(const struct stfs_torch_build *build, uint64_t *elements, uint64_t *span)
{
	uint64_t reach;

	*elements = 1;
	*span = 1;
	for (uint32_t i = 0; i < build->rank; i++)
		if (stfs_mul_overflows(*elements, build->dims[i], elements))
			return false;
	for (uint32_t i = 0; *elements && i < build->rank; i++)
		if (stfs_mul_overflows(build->dims[i] - 1, build->strides[i], &reach) ||
		    stfs_add_overflows(*span, reach, span))
			return false;
	if (*elements == 0)
		*span = 0;
	return true;
}

static bool is_contiguous(const struct stfs_torch_build *build)
{
	uint64_t stride = 1;

	for (uint32_t i = build->rank; i-- > 0;) {
		if (build->dims[i] == 0)
			return true;
		if (build->dims[i] != 1 && build->strides[i] != stride)
			return false;
		stride *= build->dims[i]; /* below the number of elements, which did not overflow */
	}
	return true;
}

/* Shape as safetensors has it, and strides. */
static int keep_numbers(struct stfs_torch *torch, const struct stfs_torch_build *build,
			struct stfs_torch_tensor *tensor)
{
	enum stfs_element_form form = (enum stfs_element_form)build->element->form;
	bool more = form == STFS_ELEMENT_PAIR || (form == STFS_ELEMENT_PACKED && build->rank == 0);
	uint64_t *numbers;
	int r = stfs_grow(&torch->numbers, &torch->number_cap, torch->number_count, 2ul * build->rank + 1,
			  sizeof(*numbers));

	if (r < 0)
		return r;
	numbers = torch->numbers + torch->number_count;
	tensor->numbers = (uint32_t)torch->number_count;
	tensor->torch_rank = (uint8_t)build->rank;
	tensor->rank = (uint8_t)(build->rank + more);
	for (uint32_t i = 0; i < build->rank; i++)
		numbers[i] = build->dims[i];
	if (more)
		numbers[build->rank] = 2;
	else if (form == STFS_ELEMENT_PACKED)
		numbers[build->rank - 1] *= 2; /* a byte each: no more than 2^63 of them lie in a file */
	for (uint32_t i = 0; i < build->rank; i++)
		numbers[tensor->rank + i] = build->strides[i];
	torch->number_count += (size_t)tensor->rank + build->rank;
	return 0;
}

/* Its bits must fit into 64 (stfs_dtype_bytes()); a stride of 0 makes any size of nothing. */
#define BYTES_MAX (1ull << 60)

int stfs_torch_add_tensor(struct stfs_torch *torch, struct stfs_str name,
			  const struct stfs_torch_build *build, struct stfs_err *err)
{
	struct stfs_torch_tensor tensor = {
		.element = build->element, .storage = build->storage, .at = build->at,
		.twin = STFS_NO_TWIN, .dtype = build->element->dtype, .parameter = build->parameter,
		.requires_grad = build->requires_grad};
	uint64_t span, offset, end;
	int r;

	if (!count_elements(build, &tensor.elements, &span) ||
	    stfs_mul_overflows(tensor.elements, build->element->bytes, &tensor.bytes))
		return stfs_torch_fail(torch, build->at, err, "a tensor of more than 2^64 bytes");
	if (tensor.bytes > BYTES_MAX)
		return stfs_torch_fail(torch, build->at, err, "a tensor of more than 2^60 bytes");
	if (build->rank + (build->element->form != STFS_ELEMENT_PLAIN) > STFS_TORCH_RANK_MAX)
		return stfs_torch_fail(torch, build->at, err, "a tensor of too many dimensions");
	if (stfs_mul_overflows(build->offset, build->element->bytes, &offset) ||
	    stfs_add_overflows(offset, build->view_begin, &offset) ||
	    stfs_mul_overflows(span, build->element->bytes, &tensor.span) ||
	    stfs_add_overflows(offset, tensor.span, &end))
		return outside(torch, build, err);
	if (tensor.elements && end > build->view_end)
		return outside(torch, build, err);
	tensor.begin = tensor.elements ? offset : 0;
	tensor.contiguous = is_contiguous(build);
	tensor.outsized = tensor.bytes > torch->file_len;
	r = stfs_grow(&torch->tensors, &torch->tensor_cap, torch->tensor_count, 1, sizeof(tensor));
	if (r == 0)
		r = keep_numbers(torch, build, &tensor);
	if (r == 0)
		r = stfs_texts_keep(&torch->texts, name, &tensor.name);
	if (r == 0)
		torch->tensors[torch->tensor_count++] = tensor;
	return r;
}
