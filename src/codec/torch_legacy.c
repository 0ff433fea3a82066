/* SPDX-License-Identifier: MIT */
/*
 * The form before zip (torch/serialization.py, _legacy_load): five pickles one behind the other, a magic
 * number, the protocol 1001, facts of the system, the checkpoint, and the list of storage keys; then in
 * the list's order of each storage the number of elements, i64, and its bytes. All little-endian,
 * whatever the facts of the system say: torch swaps when it writes.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/io.h"
#include "codec/torch_internal.h"

#define WINDOW_FIRST 65536
#define PROTOCOL 1001

static const unsigned char magic[] = {0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19};
#define MAGIC_DIGITS "119547037146038801333356"

/* Makes the part of the file that is in memory twice as long. -EFBIG beyond what a pickle may have. */
static int widen(struct stfs_torch *torch, struct stfs_err *err)
{
	struct stfs_pickle *pickle = &torch->pickle;
	uint64_t have = pickle->len, wanted = have ? have * 2 : WINDOW_FIRST;
	int r;

	wanted = stfs_min_u64(wanted, torch->file_len);
	if (have < STFS_PICKLE_MAX)
		wanted = stfs_min_u64(wanted, STFS_PICKLE_MAX);
	r = stfs_torch_extend(torch, have, wanted - have, err);
	pickle->complete = wanted == torch->file_len;
	return r;
}

static int read_one(struct stfs_torch *torch, struct stfs_err *err)
{
	int r;

	stfs_pickle_next(&torch->pickle);
	while ((r = stfs_pickle_run(&torch->pickle, err)) == -EAGAIN) {
		r = widen(torch, err);
		if (r < 0)
			return r;
	}
	return r;
}

static bool is_magic(const struct stfs_pickle *pickle)
{
	struct stfs_str text;

	if (!stfs_pickle_is(pickle, pickle->result, STFS_PICKLE_LONG))
		return false;
	text = stfs_pickle_text(pickle, pickle->result);
	if (stfs_pickle_at(pickle, pickle->result)->digits)
		return stfs_str_is(text, MAGIC_DIGITS);
	return stfs_str_equal(text, stfs_str_slice((const char *)magic, sizeof(magic)));
}

static bool is_protocol(const struct stfs_pickle *pickle)
{
	return stfs_pickle_is(pickle, pickle->result, STFS_PICKLE_INT) &&
	       stfs_pickle_at(pickle, pickle->result)->as.integer == PROTOCOL;
}

/* All five; the checkpoint is `root`, the list of keys the last result. */
static int read_pickles(struct stfs_torch *torch, struct stfs_err *err)
{
	struct stfs_pickle *pickle = &torch->pickle;

	for (unsigned i = 0; i < 5; i++) {
		int r = read_one(torch, err);

		if (r < 0)
			return r;
		if (i == 0 && !is_magic(pickle))
			return stfs_err_set(err, -EBADMSG, 0, "a pickle, but not one that torch.save wrote: "
					    "it does not begin with its magic number");
		if (i == 1 && !is_protocol(pickle))
			return stfs_err_set(err, -EBADMSG, pickle->pos, "not the protocol %u", PROTOCOL);
		if (i == 3)
			torch->root = pickle->result;
	}
	return 0;
}

/* One storage of the list, whose bytes begin at *at. */
static int place(struct stfs_torch *torch, uint32_t key, uint64_t *at, struct stfs_err *err)
{
	const struct stfs_pickle *pickle = &torch->pickle;
	uint32_t where = stfs_pickle_at(pickle, key)->at, number;
	struct stfs_torch_storage *storage;
	char quoted[STFS_QUOTED_MAX];
	unsigned char count[8];
	int r;

	if (!stfs_pickle_is(pickle, key, STFS_PICKLE_STR))
		return stfs_torch_fail(torch, where, err, "the key of a storage is no text");
	stfs_quote(stfs_pickle_text(pickle, key), quoted);
	number = stfs_torch_find_storage(torch, stfs_pickle_text(pickle, key));
	if (number == STFS_NO_NUMBER)
		return stfs_torch_fail(torch, where, err, "nothing refers to storage \"%s\"", quoted);
	storage = &torch->storages[number];
	if (storage->offset)
		return stfs_torch_fail(torch, where, err, "storage \"%s\" stands in the list twice", quoted);
	if (torch->file_len < sizeof(count) || *at > torch->file_len - sizeof(count))
		return stfs_err_set(err, -EBADMSG, *at, "the file ends before storage \"%s\"", quoted);
	r = stfs_io_read_exactly(torch->fd, count, sizeof(count), *at);
	if (r < 0)
		return stfs_err_errno(err, r, "reading at byte %llu", (unsigned long long)*at);
	if (stfs_load_le64(count) != storage->size / storage->element->bytes)
		return stfs_err_set(err, -EBADMSG, *at, "byte %llu: storage \"%s\" has another length than the pickle "
				    "says", (unsigned long long)*at, quoted);
	storage->offset = *at + sizeof(count);
	if (storage->size > torch->file_len - storage->offset)
		return stfs_err_set(err, -EBADMSG, torch->file_len, "the file ends within storage \"%s\"", quoted);
	storage->stored = storage->size;
	*at = storage->offset + storage->size;
	return 0;
}

static int place_all(struct stfs_torch *torch, struct stfs_err *err)
{
	const struct stfs_pickle *pickle = &torch->pickle;
	struct stfs_pickle_walk walk;
	uint64_t at = pickle->pos;
	const uint32_t *key;
	int r = 0;

	if (!stfs_pickle_is(pickle, pickle->result, STFS_PICKLE_LIST))
		return stfs_torch_fail(torch, stfs_pickle_at(pickle, pickle->result)->at, err,
				       "the keys of the storages are no list");
	walk = stfs_pickle_walk_from(&pickle->lists[stfs_pickle_at(pickle, pickle->result)->as.list]);
	while (r == 0 && (key = stfs_pickle_step(pickle, &walk)))
		r = place(torch, *key, &at, err);
	for (size_t i = 0; r == 0 && i < torch->storage_count; i++) {
		char quoted[STFS_QUOTED_MAX];

		if (torch->storages[i].offset == 0)
			r = stfs_err_set(err, -EBADMSG, pickle->pos, "storage \"%s\" is not in the file",
					 stfs_quote(torch->storages[i].key, quoted));
	}
	if (r == 0 && at < torch->file_len)
		r = stfs_torch_remark(torch, &torch->notes, stfs_str_from(""),
				      "%llu bytes behind the last storage, which nobody reads",
				      (unsigned long long)(torch->file_len - at));
	return r;
}

int stfs_torch_same_legacy(const struct stfs_torch *torch, uint64_t file_len)
{
	unsigned char count[8];
	char piece[16 * 1024];
	uint64_t len;
	int r;

	for (uint64_t at = 0; at < torch->pickle.pos; at += len) {
		len = stfs_min_u64(torch->pickle.pos - at, sizeof(piece));
		if (at + len > file_len)
			return 0;
		r = stfs_io_read_exactly(torch->fd, piece, len, at);
		if (r < 0 || memcmp(piece, torch->bytes + at, len) != 0)
			return r;
	}
	for (size_t i = 0; i < torch->storage_count; i++) {
		const struct stfs_torch_storage *storage = &torch->storages[i];

		if (storage->offset > file_len) /* cut short: who reads it is told */
			continue;
		r = stfs_io_read_exactly(torch->fd, count, sizeof(count), storage->offset - sizeof(count));
		if (r < 0 || stfs_load_le64(count) != storage->size / storage->element->bytes)
			return r;
	}
	return 1;
}

int stfs_torch_load_legacy(struct stfs_torch *torch, struct stfs_err *err)
{
	int r = read_pickles(torch, err), judged = stfs_torch_judge(torch, err);

	r = judged < 0 ? judged : r;
	if (r == 0)
		r = stfs_torch_collect_storages(torch, err);
	return r < 0 ? r : place_all(torch, err);
}
