/* SPDX-License-Identifier: MIT */
#include "codec/torch_write.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/arith.h"

/* Python's pickler fills a dict in pieces of so many items. */
#define BATCH 1000

enum { ORDERED_DICT, REBUILD, REBUILD_TYPED, UNTYPED, STORAGE, CPU };

/* ---- Opcodes ---- */

static void op(struct stfs_torch_pickle *pickle, char code)
{
	stfs_buf_putc(&pickle->bytes, code);
}

static void put(struct stfs_torch_pickle *pickle, uint64_t number, unsigned bytes)
{
	char le[8];

	stfs_store_le64(le, number);
	stfs_buf_add(&pickle->bytes, le, bytes);
}

/* The value on the stack's top gets the next place in the memo, as Python's pickler gives every value one. */
static void remember(struct stfs_torch_pickle *pickle)
{
	uint32_t place = pickle->memo++;

	op(pickle, place <= UINT8_MAX ? 'q' : 'r');
	put(pickle, place, place <= UINT8_MAX ? 1 : 4);
}

/* Puts a value on the stack that has been remembered: false when it has not, and now will be. */
static bool recall(struct stfs_torch_pickle *pickle, uint32_t *known)
{
	uint32_t place = *known - 1;

	if (!*known) {
		*known = pickle->memo + 1;
		return false;
	}
	op(pickle, place <= UINT8_MAX ? 'h' : 'j');
	put(pickle, place, place <= UINT8_MAX ? 1 : 4);
	return true;
}

static void put_text(struct stfs_torch_pickle *pickle, struct stfs_str text)
{
	op(pickle, 'X');
	put(pickle, text.len, 4);
	stfs_buf_add_str(&pickle->bytes, text);
	remember(pickle);
}

static void put_global(struct stfs_torch_pickle *pickle, uint32_t *known, const char *module, const char *name)
{
	if (recall(pickle, known))
		return;
	stfs_buf_printf(&pickle->bytes, "c%s\n%s\n", module, name);
	remember(pickle);
}

/* At most INT64_MAX. */
static void put_number(struct stfs_torch_pickle *pickle, uint64_t number)
{
	unsigned len = 5; /* what fits 4 bytes has opcodes of its own */

	if (number <= UINT8_MAX) {
		op(pickle, 'K');
		put(pickle, number, 1);
	} else if (number <= UINT16_MAX) {
		op(pickle, 'M');
		put(pickle, number, 2);
	} else if (number <= INT32_MAX) {
		op(pickle, 'J');
		put(pickle, number, 4);
	} else {
		/* The top bit is the sign, so 0x80000000 takes five bytes, too. */
		while (len < 8 && number >> (8 * len - 1))
			len++;
		op(pickle, '\x8a');
		put(pickle, len, 1);
		put(pickle, number, len);
	}
}

/* Behind a mark, where there are more than three values. */
static void put_tuple(struct stfs_torch_pickle *pickle, size_t count)
{
	static const char short_tuples[] = {')', '\x85', '\x86', '\x87'};

	op(pickle, count <= 3 ? short_tuples[count] : 't');
	if (count)
		remember(pickle);
}

static void put_numbers(struct stfs_torch_pickle *pickle, const uint64_t *numbers, size_t count)
{
	if (count > 3)
		op(pickle, '(');
	for (size_t i = 0; i < count; i++)
		put_number(pickle, numbers[i]);
	put_tuple(pickle, count);
}

/* ---- Dicts ---- */

/* Before an item of a dict that gets `count`, of which `done` are there. One alone needs no mark. */
static void begin_item(struct stfs_torch_pickle *pickle, uint64_t done, uint64_t count)
{
	assert(done < count);
	if (done % BATCH == 0 && count - done > 1)
		op(pickle, '(');
}

static void end_item(struct stfs_torch_pickle *pickle, uint64_t *done, uint64_t count)
{
	bool alone = *done % BATCH == 0 && count - *done == 1;

	++*done;
	if (*done % BATCH == 0 || *done == count)
		op(pickle, alone ? 's' : 'u');
}

static void put_ordered_dict(struct stfs_torch_pickle *pickle)
{
	put_global(pickle, &pickle->known[ORDERED_DICT], "collections", "OrderedDict");
	op(pickle, ')');
	op(pickle, 'R');
	remember(pickle);
}

void stfs_torch_pickle_begin(struct stfs_torch_pickle *pickle, uint64_t count)
{
	*pickle = (struct stfs_torch_pickle){.count = count};
	stfs_buf_puts(&pickle->bytes, "\x80\x02");
	put_ordered_dict(pickle);
}

void stfs_torch_pickle_end(struct stfs_torch_pickle *pickle)
{
	assert(pickle->done == pickle->count);
	op(pickle, '.');
}

void stfs_torch_pickle_free(struct stfs_torch_pickle *pickle)
{
	stfs_buf_free(&pickle->bytes);
}

/* ---- Items ---- */

/* ('storage', class, key, 'cpu', elements), the persistent id of the next storage. */
static void put_storage(struct stfs_torch_pickle *pickle, const struct stfs_element *element, uint64_t bytes)
{
	char key[24];
	int len = snprintf(key, sizeof(key), "%" PRIu64, pickle->storages++);

	op(pickle, '(');
	if (!recall(pickle, &pickle->known[STORAGE]))
		put_text(pickle, stfs_str_from("storage"));
	if (element->storage)
		put_global(pickle, &pickle->types[element->dtype], "torch", element->storage);
	else
		put_global(pickle, &pickle->known[UNTYPED], "torch.storage", "UntypedStorage");
	put_text(pickle, stfs_str_slice(key, (size_t)len));
	if (!recall(pickle, &pickle->known[CPU]))
		put_text(pickle, stfs_str_from("cpu"));
	put_number(pickle, element->storage ? bytes / element->bytes : bytes);
	put_tuple(pickle, 5);
	op(pickle, 'Q');
}

static void put_strides(struct stfs_torch_pickle *pickle, const uint64_t *dims, size_t rank)
{
	uint64_t strides[STFS_TORCH_RANK_MAX], stride = 1;

	assert(rank <= STFS_TORCH_RANK_MAX);
	for (size_t i = rank; i-- > 0;) {
		strides[i] = stride;
		stride *= dims[i] ? dims[i] : 1;
	}
	put_numbers(pickle, strides, rank);
}

void stfs_torch_pickle_tensor(struct stfs_torch_pickle *pickle, struct stfs_str name,
			      const struct stfs_element *element, const uint64_t *dims, size_t rank, uint64_t bytes)
{
	begin_item(pickle, pickle->done, pickle->count);
	put_text(pickle, name);
	/* Types without a class of storage came later, and with a call of their own. */
	if (element->storage)
		put_global(pickle, &pickle->known[REBUILD], "torch._utils", "_rebuild_tensor_v2");
	else
		put_global(pickle, &pickle->known[REBUILD_TYPED], "torch._utils", "_rebuild_tensor_v3");
	op(pickle, '(');
	put_storage(pickle, element, bytes);
	put_number(pickle, 0); /* where it begins in the storage */
	put_numbers(pickle, dims, rank);
	put_strides(pickle, dims, rank);
	op(pickle, '\x89');        /* requires no gradient */
	put_ordered_dict(pickle); /* has no hooks */
	if (!element->storage)
		put_global(pickle, &pickle->types[element->dtype], "torch", element->name);
	op(pickle, 't');
	remember(pickle);
	op(pickle, 'R');
	remember(pickle);
	end_item(pickle, &pickle->done, pickle->count);
}

void stfs_torch_pickle_texts(struct stfs_torch_pickle *pickle, struct stfs_str name, uint64_t count)
{
	begin_item(pickle, pickle->done, pickle->count);
	put_text(pickle, name);
	op(pickle, '}');
	remember(pickle);
	pickle->texts = count;
	pickle->texts_done = 0;
	if (!count)
		end_item(pickle, &pickle->done, pickle->count);
}

void stfs_torch_pickle_text(struct stfs_torch_pickle *pickle, struct stfs_str key, struct stfs_str value)
{
	begin_item(pickle, pickle->texts_done, pickle->texts);
	put_text(pickle, key);
	put_text(pickle, value);
	end_item(pickle, &pickle->texts_done, pickle->texts);
	if (pickle->texts_done == pickle->texts)
		end_item(pickle, &pickle->done, pickle->count);
}

/* ---- Tensors ---- */

const char *stfs_torch_write_shape(const struct stfs_element *element, uint64_t *dims, size_t rank)
{
	uint64_t extent = 1;

	if (rank > STFS_TORCH_RANK_MAX)
		return "it has more than 255 dimensions"; /* which we do not read back */
	if (element->form == STFS_ELEMENT_PACKED) {
		if (rank == 0 || dims[rank - 1] % 2)
			return "torch packs two numbers of four bits into a byte, and the last dimension is odd";
		dims[rank - 1] /= 2;
	}
	/* Of a tensor without elements the strides are those of one in each dimension that is 0. */
	for (size_t i = 0; i < rank; i++)
		if (dims[i] > INT64_MAX || stfs_mul_overflows(extent, dims[i] ? dims[i] : 1, &extent) ||
		    extent > INT64_MAX)
			return "torch counts in 63 bits, which its shape passes";
	return NULL;
}

/* ---- Entries ---- */

const struct stfs_torch_record *stfs_torch_records_before(void)
{
	static const struct stfs_torch_record records[] = {
		{".format_version", "1"}, {".storage_alignment", "64"}, {"byteorder", "little"}, {NULL, NULL}};

	return records;
}

const struct stfs_torch_record *stfs_torch_records_behind(void)
{
	static const struct stfs_torch_record records[] = {{"version", "3\n"}, {NULL, NULL}};

	return records;
}

void stfs_torch_write_id(uint64_t first, uint64_t second, char id[STFS_TORCH_ID_LEN + 1])
{
	snprintf(id, STFS_TORCH_ID_LEN + 1, "%020" PRIu64 "%020" PRIu64, first, second);
}

void stfs_torch_write_folder(struct stfs_str file_name, char folder[STFS_TORCH_FOLDER_MAX + 1])
{
	size_t len = file_name.len;
	bool only_dots = true;

	while (len > 0 && file_name.ptr[len - 1] != '.')
		len--;
	len = len ? len - 1 : file_name.len;
	if (len > STFS_TORCH_FOLDER_MAX)
		len = STFS_TORCH_FOLDER_MAX;
	for (size_t i = 0; i < len; i++) {
		char c = file_name.ptr[i];

		if ((unsigned char)c >= 0x80) {
			len = 0;
			break;
		}
		only_dots &= c == '.';
		folder[i] = c;
		if (c < ' ' || c == 0x7f || strchr("/\\:*?\"<>|", c))
			folder[i] = '_';
	}
	if (len == 0 || only_dots)
		snprintf(folder, STFS_TORCH_FOLDER_MAX + 1, "archive");
	else
		folder[len] = '\0';
}
