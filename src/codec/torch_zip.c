/* SPDX-License-Identifier: MIT */
/*
 * The zip form (torch: caffe2/serialize/inline_container.cc, torch/serialization.py _load). All entries
 * lie in one folder, which the first one names: data.pkl, version, byteorder, data/KEY.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "codec/torch_internal.h"

#define SMALL_MAX 64

/* The entry FOLDER/`name`, or STFS_NO_NUMBER. */
static uint32_t find(const struct stfs_torch *torch, struct stfs_str name, struct stfs_buf *path)
{
	struct stfs_str first = stfs_zip_name(&torch->zip, 0);
	const char *slash = memchr(first.ptr, '/', first.len);

	stfs_buf_clear(path);
	stfs_buf_add(path, first.ptr, (size_t)(slash - first.ptr) + 1);
	stfs_buf_add_str(path, name);
	return stfs_buf_status(path) < 0 ? STFS_NO_NUMBER : stfs_zip_find(&torch->zip, stfs_buf_str(path));
}

/* Reads a small entry into `text`; -ENOENT when there is none. */
static int read_small(const struct stfs_torch *torch, const char *name, char text[SMALL_MAX + 1],
		      struct stfs_err *err)
{
	STFS_AUTO_BUF struct stfs_buf path = STFS_BUF_INIT;
	STFS_AUTO_FREE char *bytes = NULL;
	uint32_t entry = find(torch, stfs_str_from(name), &path);
	int r;

	if (entry == STFS_NO_NUMBER)
		return -ENOENT;
	r = stfs_zip_read(&torch->zip, entry, SMALL_MAX, &bytes, err);
	if (r < 0)
		return r;
	memcpy(text, bytes, torch->zip.entries[entry].size);
	text[torch->zip.entries[entry].size] = '\0';
	return 0;
}

/* inline_container.cc: a number that std::stoull takes, from 1 to 10. */
static int check_version(const struct stfs_torch *torch, struct stfs_err *err)
{
	char text[SMALL_MAX + 1], *end;
	long version;
	int r = read_small(torch, "version", text, err);

	if (r == -ENOENT)
		return stfs_err_set(err, -EBADMSG, STFS_NO_POSITION, "a zip archive without a \"version\" "
				    "beside its first entry: not written by torch");
	if (r < 0)
		return r;
	version = strtol(text, &end, 10);
	if (end == text)
		return stfs_err_set(err, -EBADMSG, STFS_NO_POSITION, "its version is no number");
	if (version < 1 || version > 10)
		return stfs_err_set(err, -EBADMSG, STFS_NO_POSITION, "version %ld of the format; 1 to 10 are known",
				    version);
	return 0;
}

static int read_byte_order(struct stfs_torch *torch, struct stfs_err *err)
{
	char text[SMALL_MAX + 1], quoted[STFS_QUOTED_MAX];
	int r = read_small(torch, "byteorder", text, err);

	if (r == -ENOENT) /* before torch 2.1 */
		return 0;
	if (r < 0)
		return r;
	torch->swapped = strcmp(text, "big") == 0;
	if (!torch->swapped && strcmp(text, "little") != 0)
		return stfs_err_set(err, -EBADMSG, STFS_NO_POSITION, "byte order \"%s\"; known are little and big",
				    stfs_quote(stfs_str_from(text), quoted));
	return 0;
}

static int read_pickle(struct stfs_torch *torch, struct stfs_err *err)
{
	STFS_AUTO_BUF struct stfs_buf path = STFS_BUF_INIT;
	uint32_t entry = find(torch, stfs_str_from("data.pkl"), &path);
	int r;

	if (entry == STFS_NO_NUMBER)
		return stfs_err_set(err, -EBADMSG, STFS_NO_POSITION, "a zip archive without a data.pkl beside "
				    "its first entry: no checkpoint");
	r = stfs_zip_read(&torch->zip, entry, STFS_PICKLE_MAX, &torch->bytes, err);
	if (r < 0)
		return r;
	torch->pickle.data = torch->bytes;
	torch->pickle.len = (uint32_t)torch->zip.entries[entry].size;
	torch->pickle.complete = true;
	r = stfs_pickle_run(&torch->pickle, err);
	torch->root = torch->pickle.result;
	if (r == 0 && torch->pickle.pos < torch->pickle.len)
		r = stfs_torch_remark(torch, &torch->notes, stfs_str_from(""), "data.pkl has %u bytes behind its "
				      "end, which nobody reads", torch->pickle.len - torch->pickle.pos);
	return r;
}

/* Whether the directory, and what the local headers say, are the same. */
static bool same_directory(const struct stfs_zip *a, const struct stfs_zip *b)
{
	if (a->count != b->count || a->directory_len != b->directory_len ||
	    memcmp(a->directory, b->directory, a->directory_len) != 0)
		return false;
	for (uint32_t i = 0; i < a->count; i++)
		if (a->entries[i].header != b->entries[i].header || a->entries[i].offset != b->entries[i].offset)
			return false;
	return true;
}

static int same_pickle(const struct stfs_torch *torch, const struct stfs_torch *anew)
{
	STFS_AUTO_BUF struct stfs_buf path = STFS_BUF_INIT;
	STFS_AUTO_FREE char *bytes = NULL;
	uint32_t entry = find(anew, stfs_str_from("data.pkl"), &path);
	int r;

	if (entry == STFS_NO_NUMBER)
		return -ENOMEM; /* the directory is the one in which it was found */
	r = stfs_zip_read(&anew->zip, entry, STFS_PICKLE_MAX, &bytes, NULL);
	return r < 0 ? r : memcmp(bytes, torch->bytes, torch->pickle.len) == 0;
}

int stfs_torch_same_zip(const struct stfs_torch *torch, uint64_t file_len)
{
	struct stfs_torch anew = {.fd = torch->fd, .file_len = file_len};
	int r = stfs_zip_open(torch->fd, file_len, &anew.zip, NULL);

	if (r < 0)
		return r;
	r = same_directory(&torch->zip, &anew.zip);
	if (r > 0)
		r = same_pickle(torch, &anew);
	if (r > 0) {
		int order = read_byte_order(&anew, NULL);

		r = order < 0 ? order : anew.swapped == torch->swapped;
	}
	stfs_zip_free(&anew.zip);
	return r;
}

/* Where each storage's bytes are: as long as the pickle says, to the byte. */
static int place(struct stfs_torch *torch, struct stfs_torch_storage *storage, struct stfs_buf *name,
		 struct stfs_buf *path, struct stfs_err *err)
{
	char quoted[STFS_QUOTED_MAX];
	const struct stfs_zip_entry *entry;
	uint32_t number;

	stfs_buf_clear(name);
	stfs_buf_puts(name, "data/");
	stfs_buf_add_str(name, storage->key);
	number = find(torch, stfs_buf_str(name), path);
	if (stfs_buf_status(name) < 0 || stfs_buf_status(path) < 0)
		return -ENOMEM;
	if (number == STFS_NO_NUMBER)
		return stfs_err_set(err, -EBADMSG, STFS_NO_POSITION, "the archive has no %s",
				    stfs_quote(stfs_buf_str(name), quoted));
	entry = &torch->zip.entries[number];
	if (entry->size != storage->size)
		return stfs_err_set(err, -EBADMSG, entry->header, "%s has %llu bytes where data.pkl says %llu",
				    stfs_quote(stfs_buf_str(name), quoted), (unsigned long long)entry->size,
				    (unsigned long long)storage->size);
	storage->offset = entry->offset;
	storage->stored = entry->stored;
	storage->deflated = entry->deflated;
	storage->crc = entry->crc;
	storage->has_crc = !torch->zip.without_crcs;
	storage->swapped = torch->swapped;
	return 0;
}

static int place_all(struct stfs_torch *torch, struct stfs_err *err)
{
	STFS_AUTO_BUF struct stfs_buf name = STFS_BUF_INIT, path = STFS_BUF_INIT;
	int r = stfs_torch_collect_storages(torch, err);

	for (size_t i = 0; r == 0 && i < torch->storage_count; i++)
		r = place(torch, &torch->storages[i], &name, &path, err);
	return r;
}

/* Whether torch finds `name` for `wanted` though they differ; of a `wanted` with a slash, for what is in it. */
static bool is_other_case(struct stfs_str name, struct stfs_str wanted)
{
	if (wanted.ptr[wanted.len - 1] == '/' && name.len > wanted.len)
		name.len = wanted.len;
	return stfs_zip_folds_to(name, wanted) && !stfs_str_equal(name, wanted);
}

/* torch (miniz) finds entries whatever the case of their names; here nothing is found but by its own name. */
static int check_case(const struct stfs_torch *torch, struct stfs_str folder, struct stfs_err *err)
{
	static const char *const known[] = {"data.pkl", "byteorder", "version", "data/", "constants.pkl",
					    ".format_version", ".storage_alignment"};
	const struct stfs_zip *zip = &torch->zip;

	for (uint32_t i = 0; i < zip->count; i++) {
		struct stfs_str name = stfs_zip_name(zip, i);
		char quoted[STFS_QUOTED_MAX];
		bool wrong = is_other_case(name, folder);

		if (!wrong && name.len > folder.len && memcmp(name.ptr, folder.ptr, folder.len) == 0) {
			name = stfs_str_slice(name.ptr + folder.len, name.len - folder.len);
			for (size_t k = 0; !wrong && k < sizeof(known) / sizeof(known[0]); k++)
				wrong = is_other_case(name, stfs_str_from(known[k]));
		}
		if (wrong)
			return stfs_err_set(err, -EBADMSG, zip->directory_at + zip->entries[i].name_pos, "the entry %s "
					    "differs only by case from a name that torch looks for",
					    stfs_quote(stfs_zip_name(zip, i), quoted));
	}
	return 0;
}

static int check_folder(const struct stfs_torch *torch, struct stfs_err *err)
{
	STFS_AUTO_BUF struct stfs_buf path = STFS_BUF_INIT;
	struct stfs_str first;
	const char *slash;

	if (torch->zip.count == 0)
		return stfs_err_set(err, -EBADMSG, STFS_NO_POSITION, "an empty zip archive");
	first = stfs_zip_name(&torch->zip, 0);
	slash = memchr(first.ptr, '/', first.len);
	if (!slash)
		return stfs_err_set(err, -EBADMSG, STFS_NO_POSITION, "a zip archive whose entries lie in no folder: "
				    "not written by torch");
	if (find(torch, stfs_str_from("constants.pkl"), &path) != STFS_NO_NUMBER)
		return stfs_err_set(err, -EBADMSG, STFS_NO_POSITION, "a TorchScript archive: a program, not a "
				    "checkpoint");
	return check_case(torch, stfs_str_slice(first.ptr, (size_t)(slash - first.ptr) + 1), err);
}

int stfs_torch_unread_members(const struct stfs_torch *torch, uint64_t **headers, uint32_t *count)
{
	STFS_AUTO_BUF struct stfs_buf data = STFS_BUF_INIT;
	uint32_t pickle = STFS_NO_NUMBER, entries = torch->form == STFS_TORCH_ZIP ? torch->zip.count : 0;
	struct stfs_str folder;

	*count = 0;
	*headers = calloc(entries + 1ul, sizeof(**headers));
	if (!*headers)
		return -ENOMEM;
	if (entries)
		pickle = find(torch, stfs_str_from("data.pkl"), &data);
	if (pickle == STFS_NO_NUMBER)
		return 0;
	folder = stfs_zip_name(&torch->zip, pickle);
	stfs_buf_clear(&data);
	stfs_buf_add(&data, folder.ptr, folder.len - strlen("data.pkl"));
	stfs_buf_puts(&data, "data/");
	if (!stfs_buf_cstr(&data))
		return -ENOMEM;
	for (uint32_t i = 0; i < entries; i++) {
		struct stfs_str name = stfs_zip_name(&torch->zip, i);

		if (i != pickle && (name.len < data.len || memcmp(name.ptr, data.data, data.len) != 0))
			(*headers)[(*count)++] = torch->zip.entries[i].header;
	}
	return 0;
}

int stfs_torch_load_zip(struct stfs_torch *torch, struct stfs_err *err)
{
	int r = stfs_zip_open(torch->fd, torch->file_len, &torch->zip, err);

	if (r == 0)
		r = check_folder(torch, err);
	if (r == 0)
		r = read_pickle(torch, err);
	/* The globals are of more interest than what else is wrong. */
	if (r == 0 || torch->pickle.global_count) {
		int judged = stfs_torch_judge(torch, err);

		r = judged < 0 ? judged : r;
	}
	if (r == 0)
		r = check_version(torch, err);
	if (r == 0)
		r = read_byte_order(torch, err);
	return r < 0 ? r : place_all(torch, err);
}
