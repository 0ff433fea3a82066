/* SPDX-License-Identifier: MIT */
/*
 * The form of torch 0.1 (torch/serialization.py, legacy_load): a tar archive of
 *   storages  a pickled count; of each storage the pickle (key, device, class), i64 elements, the bytes;
 *             a pickled list of (key, key of the whole, first element, elements): parts of storages
 *   tensors   a pickled count; of each tensor the pickle (key, key of the storage, class), i32 rank, 4
 *             bytes without meaning, i64 sizes and strides, i64 offset
 *   pickle    the checkpoint, whose persistent ids are the keys of tensors and storages
 * The archive is read strictly, so that Python's tarfile sees the same members: files and folders alone, numbers
 * in octal digits, no name twice, no extended headers but those of times.
 * All numbers are little-endian, sizes in elements. torch itself does not read it with weights_only.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/io.h"
#include "codec/grow.h"
#include "codec/torch_internal.h"

#define BLOCK 512
#define MEMBERS_MAX 64
#define WINDOW 4096

/* ---- The archive ---- */

/* Bytes [at, end) of the file. */
struct part {
	uint64_t at, end;
};

enum member { MEMBER_STORAGES, MEMBER_TENSORS, MEMBER_PICKLE, MEMBER_COUNT };

static const char *const member_names[MEMBER_COUNT] = {"storages", "tensors", "pickle"};

/*
 * A number in octal digits, with nothing but spaces and NUL behind it: what else tar programs take (signs, base 256)
 * each reads in its own way.
 */
static bool read_octal(const char *text, size_t len, uint64_t *number)
{
	size_t i = 0, from;

	*number = 0;
	while (i < len && text[i] == ' ')
		i++;
	for (from = i; i < len && text[i] >= '0' && text[i] <= '7'; i++)
		if (*number >> 60)
			return false;
		else
			*number = *number * 8 + (uint64_t)(text[i] - '0');
	if (i == from)
		return false;
	while (i < len && (text[i] == '\0' || text[i] == ' '))
		i++;
	return i == len;
}

static bool is_filled(const char *text, size_t len, char with)
{
	for (size_t i = 0; i < len; i++)
		if (text[i] != with)
			return false;
	return true;
}

/* The sum of a header's bytes, its own field taken as spaces. */
static bool sum_holds(const char *header)
{
	uint64_t sum = 0, stored;

	for (size_t i = 0; i < BLOCK; i++)
		sum += i >= 148 && i < 156 ? ' ' : (unsigned char)header[i];
	return read_octal(header + 148, 8, &stored) && stored == sum;
}

bool stfs_torch_tar_is(const void *bytes, size_t len)
{
	return len >= BLOCK && memcmp((const char *)bytes + 257, "ustar", 5) == 0 && sum_holds(bytes);
}

static int fail(struct stfs_err *err, uint64_t at, const char *what)
{
	return stfs_err_set(err, -EBADMSG, at, "not a sound tar checkpoint: byte %llu: %s",
			    (unsigned long long)at, what);
}

static int read_bytes(const struct stfs_torch *torch, struct part *part, void *buffer, size_t len,
		      struct stfs_err *err)
{
	int r;

	if (part->end - part->at < len)
		return fail(err, part->end, "it ends too early");
	r = stfs_io_read_exactly(torch->fd, buffer, len, part->at);
	if (r < 0)
		return stfs_err_errno(err, r, "reading at byte %llu", (unsigned long long)part->at);
	part->at += len;
	return 0;
}

/* Which of the members that count it is; MEMBER_COUNT: none. */
static unsigned which_member(const char *header)
{
	struct stfs_str name = stfs_str_slice(header, strnlen(header, 100));
	unsigned i = 0;

	if (stfs_str_starts_with(name, "./"))
		name = stfs_str_slice(name.ptr + 2, name.len - 2);
	while (i < MEMBER_COUNT && !stfs_str_is(name, member_names[i]))
		i++;
	return i;
}

/* NULL, or what of a header Python's tarfile could take for something else than it is taken for here. */
static const char *check_header(const char *header, uint64_t size)
{
	static const struct {
		size_t at, len;
	} numbers[] = {{100, 8}, {108, 8}, {116, 8}, {136, 12}, {329, 8}, {337, 8}};
	size_t name_len = strnlen(header, 100);
	char type = header[156];
	uint64_t number;

	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		if (!is_filled(header + numbers[i].at, numbers[i].len, '\0') &&
		    !read_octal(header + numbers[i].at, numbers[i].len, &number))
			return "a number of a header is not in octal digits";
	if (!is_filled(header + 345, 155, '\0'))
		return "a member whose name is in two parts";
	if (name_len == 0)
		return "a member without a name";
	if (type != '0' && type != '\0' && type != '5' && type != 'x')
		return "a member that is neither a file nor a folder: no links, and no headers of pax and GNU but of times";
	if (type == '5' && size)
		return "a folder that has content";
	if (type != '5' && header[name_len - 1] == '/')
		return "a file that is called as a folder";
	if (type == '5' && which_member(header) < MEMBER_COUNT)
		return "a folder that is called as what must be a file";
	return NULL;
}

/*
 * One record of a pax header, "LENGTH KEY=VALUE\n", that says a time or an owner, which count for nothing: its
 * length; or 0. Those have digits and points alone, in which no reader could see another record.
 */
static size_t pax_record(const char *text, size_t len)
{
	static const char *const keys[] = {" mtime=", " atime=", " ctime=", " uid=", " gid="};
	struct stfs_str rest;
	size_t said = 0, i = 0, k = 0;

	for (; i < len && i < 3 && text[i] >= '0' && text[i] <= '9'; i++)
		said = said * 10 + (size_t)(text[i] - '0');
	if (text[0] == '0' || said > len)
		return 0;
	rest = stfs_str_slice(text + i, len - i);
	while (k < sizeof(keys) / sizeof(keys[0]) && !stfs_str_starts_with(rest, keys[k]))
		k++;
	if (k == sizeof(keys) / sizeof(keys[0]))
		return 0;
	i += strlen(keys[k]);
	while (i < said && (text[i] == '.' || (text[i] >= '0' && text[i] <= '9')))
		i++;
	return i + 1 == said && text[i] == '\n' ? said : 0;
}

/* Python wrote headers of pax for times with a fraction, so torch's own files have them. */
static bool pax_is_plain(const char block[BLOCK], uint64_t size)
{
	size_t at = 0, len;

	while (at < size) {
		len = pax_record(block + at, (size_t)size - at);
		if (len == 0)
			return false;
		at += len;
	}
	return is_filled(block + size, BLOCK - size, '\0'); /* Python looks there, too */
}

static int note_member(const struct stfs_torch *torch, const char *header, struct part content,
		       struct part parts[MEMBER_COUNT], struct stfs_err *err)
{
	uint64_t size = content.end - content.at;
	unsigned which = which_member(header);
	const char *wrong = check_header(header, size);
	char block[BLOCK];
	struct part all = {content.at, torch->file_len};
	int r;

	if (wrong)
		return fail(err, content.at - BLOCK, wrong);
	if (header[156] == 'x') {
		if (size == 0 || size > BLOCK)
			return fail(err, content.at - BLOCK, "a pax header of other things than times");
		r = read_bytes(torch, &all, block, BLOCK, err);
		if (r < 0)
			return r;
		return pax_is_plain(block, size) ? 0 :
		       fail(err, content.at, "a pax header of other things than times");
	}
	if (which == MEMBER_COUNT)
		return 0;
	if (parts[which].end)
		return fail(err, content.at - BLOCK, "two members have the same name");
	parts[which] = content;
	return 0;
}

static int find_members(const struct stfs_torch *torch, struct part parts[MEMBER_COUNT], struct stfs_err *err)
{
	struct part rest = {0, torch->file_len};
	char header[BLOCK];

	for (unsigned i = 0; rest.end - rest.at >= BLOCK; i++) {
		uint64_t size, padded;
		int r = read_bytes(torch, &rest, header, BLOCK, err);

		if (r < 0)
			return r;
		if (is_filled(header, BLOCK, '\0')) /* the end of the archive */
			break;
		if (i == MEMBERS_MAX)
			return fail(err, rest.at - BLOCK, "more than 64 members");
		if (!sum_holds(header) || !read_octal(header + 124, 12, &size))
			return fail(err, rest.at - BLOCK, "no header of a member where one must be");
		padded = stfs_align_up(size, BLOCK);
		if (padded > rest.end - rest.at)
			return fail(err, rest.at, "a member passes the end of the file");
		r = note_member(torch, header, (struct part){rest.at, rest.at + size}, parts, err);
		if (r < 0)
			return r;
		rest.at += padded;
	}
	for (unsigned i = 0; i < MEMBER_COUNT; i++)
		if (parts[i].end == 0)
			return stfs_err_set(err, -EBADMSG, STFS_NO_POSITION, "a tar archive without \"%s\": no "
					    "checkpoint", member_names[i]);
	return 0;
}

/* ---- Pickles in it ---- */

/* Reads a pickle at the beginning of `part` behind those that are in memory. */
static int read_pickle(struct stfs_torch *torch, struct part *part, uint32_t *result, struct stfs_err *err)
{
	struct stfs_pickle *pickle = &torch->pickle;
	uint32_t begin = pickle->pos;
	uint64_t have = 0;
	int r = stfs_torch_add_piece(torch, begin, part->at);

	stfs_pickle_next(pickle);
	pickle->len = begin;
	pickle->complete = false;
	while (r == 0 && (r = stfs_pickle_run(pickle, err)) == -EAGAIN) {
		uint64_t more = stfs_min_u64(have ? have : WINDOW, part->end - part->at - have);

		r = stfs_torch_extend(torch, part->at + have, more, err);
		have += more;
		pickle->complete = have == part->end - part->at;
	}
	if (r == -EBADMSG && err->position <= pickle->len) /* the machine counts from the first pickle on */
		err->position = stfs_torch_file_at(torch, (uint32_t)err->position);
	if (r < 0)
		return r;
	part->at += pickle->pos - begin;
	*result = pickle->result;
	return 0;
}

static int read_number(struct stfs_torch *torch, struct part *part, uint64_t *number, struct stfs_err *err)
{
	uint32_t value;
	int r = read_pickle(torch, part, &value, err);

	if (r < 0)
		return r;
	if (!stfs_pickle_is(&torch->pickle, value, STFS_PICKLE_INT) ||
	    stfs_pickle_at(&torch->pickle, value)->as.integer < 0)
		return fail(err, part->at, "a count is expected");
	*number = (uint64_t)stfs_pickle_at(&torch->pickle, value)->as.integer;
	return 0;
}

/* A key as text; numbers in decimal. */
static bool key_text(const struct stfs_torch *torch, uint32_t value, struct stfs_buf *text)
{
	bool changed;

	stfs_buf_clear(text);
	return (stfs_pickle_is(&torch->pickle, value, STFS_PICKLE_INT) ||
		stfs_pickle_is(&torch->pickle, value, STFS_PICKLE_STR)) &&
	       stfs_torch_key_name(torch, value, text, &changed) == 0;
}

/* A pickle that must be a tuple of three. */
static int read_triple(struct stfs_torch *torch, struct part *part, const uint32_t **items,
		       struct stfs_err *err)
{
	uint32_t value, count;
	int r = read_pickle(torch, part, &value, err);

	if (r < 0)
		return r;
	*items = stfs_pickle_tuple(&torch->pickle, value, &count);
	return *items && count == 3 ? 0 : fail(err, part->at, "a tuple of three is expected");
}

/* ---- Storages ---- */

static int read_storage(struct stfs_torch *torch, struct part *part, struct stfs_buf *key,
			struct stfs_err *err)
{
	struct stfs_torch_storage storage = {0};
	struct stfs_global_info info;
	unsigned char number[8];
	const uint32_t *items;
	int r = read_triple(torch, part, &items, err);

	if (r < 0)
		return r;
	if (!key_text(torch, items[0], key) || !stfs_pickle_is(&torch->pickle, items[2], STFS_PICKLE_GLOBAL))
		return fail(err, part->at, "no key or class of a storage");
	info = stfs_global_judge_pickled(&torch->pickle, stfs_pickle_global_of(&torch->pickle, items[2]));
	if (info.meaning != STFS_MEANS_STORAGE)
		return fail(err, part->at, "a storage of no known class");
	r = read_bytes(torch, part, number, sizeof(number), err);
	if (r < 0)
		return r;
	if (stfs_mul_overflows(stfs_load_le64(number), info.element->bytes, &storage.size) ||
	    storage.size > part->end - part->at)
		return fail(err, part->at, "a storage passes the end of its member");
	storage.key = stfs_buf_str(key);
	storage.element = info.element;
	storage.offset = part->at;
	storage.stored = storage.size;
	part->at += storage.size;
	return stfs_torch_add_storage(torch, storage);
}

/* One of (key, key of the whole, first element, elements). */
static int read_view(struct stfs_torch *torch, uint32_t value, const struct part *part, struct stfs_buf *key,
		     struct stfs_err *err)
{
	const struct stfs_pickle *pickle = &torch->pickle;
	struct stfs_torch_storage storage;
	uint64_t from, len;
	uint32_t count, whole;
	const uint32_t *items = stfs_pickle_tuple(pickle, value, &count);

	if (!items || count != 4 || !stfs_pickle_is(pickle, items[2], STFS_PICKLE_INT) ||
	    !stfs_pickle_is(pickle, items[3], STFS_PICKLE_INT) || !key_text(torch, items[1], key))
		return fail(err, part->at, "no part of a storage where one is expected");
	whole = stfs_torch_find_storage(torch, stfs_buf_str(key));
	if (whole == STFS_NO_NUMBER || !key_text(torch, items[0], key))
		return fail(err, part->at, "a part of no storage");
	storage = torch->storages[whole];
	/* A negative number is one of 2^63 and more. */
	from = (uint64_t)stfs_pickle_at(pickle, items[2])->as.integer;
	len = (uint64_t)stfs_pickle_at(pickle, items[3])->as.integer;
	if (stfs_mul_overflows(from, storage.element->bytes, &from) ||
	    stfs_mul_overflows(len, storage.element->bytes, &len) ||
	    from > storage.size || len > storage.size - from)
		return fail(err, part->at, "a part passes the end of its storage");
	storage.key = stfs_buf_str(key);
	storage.offset += from;
	storage.size = storage.stored = len;
	return stfs_torch_add_storage(torch, storage);
}

static int read_views(struct stfs_torch *torch, struct part *part, struct stfs_buf *key, struct stfs_err *err)
{
	struct stfs_pickle_walk walk;
	uint32_t value, *view;
	int r = read_pickle(torch, part, &value, err);

	if (r == 0 && !stfs_pickle_is(&torch->pickle, value, STFS_PICKLE_LIST))
		return fail(err, part->at, "the parts of storages are no list");
	if (r == 0)
		r = stfs_torch_index_keys(torch); /* of the whole ones: parts of parts there are none */
	if (r < 0)
		return r == -EEXIST ? fail(err, part->at, "two storages have the same key") : r;
	walk = stfs_pickle_walk_from(&torch->pickle.lists[stfs_pickle_at(&torch->pickle, value)->as.list]);
	while (r == 0 && (view = stfs_pickle_step(&torch->pickle, &walk)))
		r = read_view(torch, *view, part, key, err);
	return r;
}

static int read_storages(struct stfs_torch *torch, struct part part, struct stfs_buf *key, struct stfs_err *err)
{
	uint64_t count;
	int r = read_number(torch, &part, &count, err);

	for (; r == 0 && count > 0; count--)
		r = read_storage(torch, &part, key, err);
	if (r == 0)
		r = read_views(torch, &part, key, err);
	if (r == 0)
		r = stfs_torch_index_keys(torch);
	return r == -EEXIST ? fail(err, part.at, "two storages have the same key") : r;
}

/* ---- Tensors ---- */

static int read_numbers(struct stfs_torch *torch, struct part *part, struct stfs_torch_tar_tensor *tensor,
			struct stfs_err *err)
{
	unsigned char bytes[8 * (2 * STFS_TORCH_RANK_MAX + 1)];
	size_t count = 2ul * tensor->rank;
	int r = read_bytes(torch, part, bytes, 8 * (count + 1), err);

	if (r == 0)
		r = stfs_grow(&torch->numbers, &torch->number_cap, torch->number_count, count,
			      sizeof(*torch->numbers));
	if (r < 0)
		return r;
	tensor->numbers = (uint32_t)torch->number_count;
	for (size_t i = 0; i < count; i++) {
		torch->numbers[torch->number_count++] = stfs_load_le64(bytes + 8 * i);
		if (stfs_load_le64(bytes + 8 * i) > INT64_MAX)
			return fail(err, part->at, "a size or stride below 0");
	}
	tensor->offset = stfs_load_le64(bytes + 8 * count);
	return 0;
}

static int read_tensor(struct stfs_torch *torch, struct part *part, struct stfs_buf *key, struct stfs_err *err)
{
	struct stfs_torch_tar_tensor tensor = {0};
	unsigned char head[8];
	const uint32_t *items;
	int r = read_triple(torch, part, &items, err);

	if (r < 0)
		return r;
	if (!key_text(torch, items[1], key))
		return fail(err, part->at, "no key of a storage");
	tensor.storage = stfs_torch_find_storage(torch, stfs_buf_str(key));
	if (tensor.storage == STFS_NO_NUMBER || !key_text(torch, items[0], key))
		return fail(err, part->at, "a tensor of no storage");
	r = read_bytes(torch, part, head, sizeof(head), err);
	if (r < 0)
		return r;
	tensor.rank = (uint32_t)(stfs_load_le64(head) & UINT32_MAX);
	if (tensor.rank > STFS_TORCH_RANK_MAX)
		return fail(err, part->at, "a tensor of too many dimensions");
	r = read_numbers(torch, part, &tensor, err);
	if (r == 0)
		r = stfs_grow(&torch->tar_tensors, &torch->tar_cap, torch->tar_count, 1, sizeof(tensor));
	if (r == 0)
		r = stfs_texts_keep(&torch->texts, stfs_buf_str(key), &tensor.key);
	if (r == 0)
		torch->tar_tensors[torch->tar_count++] = tensor;
	return r;
}

static int read_tensors(struct stfs_torch *torch, struct part part, struct stfs_buf *key, struct stfs_err *err)
{
	uint64_t count;
	int r = read_number(torch, &part, &count, err);

	for (; r == 0 && count > 0; count--)
		r = read_tensor(torch, &part, key, err);
	if (r == 0)
		r = stfs_torch_index_keys(torch);
	return r == -EEXIST ? fail(err, part.at, "two tensors have the same key") : r;
}

int stfs_torch_load_tar(struct stfs_torch *torch, struct stfs_err *err)
{
	struct part parts[MEMBER_COUNT] = {{0, 0}};
	STFS_AUTO_BUF struct stfs_buf key = STFS_BUF_INIT;
	int r = find_members(torch, parts, err), judged;

	/* The checkpoint first: its globals are listed even where the rest is damaged. */
	if (r == 0)
		r = read_pickle(torch, &parts[MEMBER_PICKLE], &torch->root, err);
	if (r == 0)
		r = read_storages(torch, parts[MEMBER_STORAGES], &key, err);
	if (r == 0)
		r = read_tensors(torch, parts[MEMBER_TENSORS], &key, err);
	judged = stfs_torch_judge(torch, err);
	return judged < 0 ? judged : r;
}
