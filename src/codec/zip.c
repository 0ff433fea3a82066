/* SPDX-License-Identifier: MIT */
#include "codec/zip.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <zlib.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "codec/inflate.h"

#define END_LEN 22
#define END64_LEN 56
#define LOCATOR_LEN 20
#define CENTRAL_LEN 46
#define LOCAL_LEN 30
#define EXTRA_ZIP64 1
#define FLAG_ENCRYPTED 1
#define FLAG_SIZES_BEHIND 8 /* in a descriptor behind the data: the local header may lack them */
#define DEFLATE_MOST 1032

static uint16_t le16(const char *at)
{
	uint16_t value;

	memcpy(&value, at, sizeof(value));
	return le16toh(value);
}

static uint32_t le32(const char *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return le32toh(value);
}

static int fail(struct stfs_err *err, uint64_t at, const char *what)
{
	return stfs_err_set(err, -EBADMSG, at, "not a sound zip archive: byte %llu: %s",
			    (unsigned long long)at, what);
}

static int read_at(int fd, void *buffer, size_t len, uint64_t at, struct stfs_err *err)
{
	int r = stfs_io_read_exactly(fd, buffer, len, at);

	return r < 0 ? stfs_err_errno(err, r, "reading at byte %llu", (unsigned long long)at) : 0;
}

bool stfs_zip_is(const void *bytes, size_t len)
{
	return len >= 4 && memcmp(bytes, "PK\3\4", 4) == 0;
}

/* ---- The end of the archive ---- */

struct end {
	uint64_t at; /* where the directory must have ended: the first of the end records */
	uint64_t count, len, offset;
};

/* The record for archives that pass 32 bits, which a locator before the end record points to. */
static int read_end64(struct stfs_zip *zip, uint64_t end_at, struct end *end, struct stfs_err *err)
{
	char locator[LOCATOR_LEN], record[END64_LEN];
	uint64_t at;
	int r;

	if (end_at < LOCATOR_LEN)
		return 0;
	r = read_at(zip->fd, locator, sizeof(locator), end_at - LOCATOR_LEN, err);
	if (r < 0 || memcmp(locator, "PK\6\7", 4) != 0)
		return r;
	at = stfs_load_le64(locator + 8);
	if (end_at < LOCATOR_LEN + END64_LEN || at > end_at - LOCATOR_LEN - END64_LEN)
		return fail(err, end_at - LOCATOR_LEN, "the zip64 record lies elsewhere");
	r = read_at(zip->fd, record, sizeof(record), at, err);
	if (r < 0)
		return r;
	if (memcmp(record, "PK\6\6", 4) != 0)
		return fail(err, at, "no zip64 record where its locator says");
	if (le32(record + 16) || le32(record + 20) ||
	    stfs_load_le64(record + 24) != stfs_load_le64(record + 32))
		return fail(err, at, "an archive of several disks");
	*end = (struct end){at, stfs_load_le64(record + 32), stfs_load_le64(record + 40),
			    stfs_load_le64(record + 48)};
	return 0;
}

static int find_end(struct stfs_zip *zip, struct end *end, struct stfs_err *err)
{
	size_t len = (size_t)stfs_min_u64(zip->file_len, STFS_ZIP_TAIL);
	uint64_t from = zip->file_len - len;
	char tail[STFS_ZIP_TAIL];
	size_t i;
	int r = read_at(zip->fd, tail, len, from, err);

	if (r < 0)
		return r;
	if (len < END_LEN)
		return fail(err, zip->file_len, "it ends before it has begun");
	for (i = len - END_LEN + 1; i-- > 0;)
		if (memcmp(tail + i, "PK\5\6", 4) == 0)
			break;
	if (i > len)
		return fail(err, zip->file_len, "no end of the directory within the last 4096 bytes: "
			    "the file is cut off, or something was appended");
	if (le16(tail + i + 4) || le16(tail + i + 6) || le16(tail + i + 8) != le16(tail + i + 10))
		return fail(err, from + i, "an archive of several disks");
	*end = (struct end){from + i, le16(tail + i + 10), le32(tail + i + 12), le32(tail + i + 16)};
	return read_end64(zip, from + i, end, err);
}

static int read_directory(struct stfs_zip *zip, const struct end *end, struct stfs_err *err)
{
	if (end->offset > end->at || end->len > end->at - end->offset)
		return fail(err, end->at, "the directory does not lie before its end record");
	if (end->len > STFS_ZIP_DIRECTORY_MAX)
		return fail(err, end->at, "a directory of more than 256 MiB");
	if (end->count > end->len / CENTRAL_LEN)
		return fail(err, end->at, "more entries than the directory has room for");
	zip->directory_at = end->offset;
	zip->directory_len = end->len;
	zip->count = (uint32_t)end->count;
	zip->directory = malloc(end->len + 1);
	zip->entries = calloc(end->count + 1, sizeof(*zip->entries));
	if (!zip->directory || !zip->entries)
		return -ENOMEM;
	return read_at(zip->fd, zip->directory, end->len, end->offset, err);
}

/* ---- The directory's entries ---- */

/* Sizes and offset that pass 32 bits stand in an extra field, in this order. */
static bool read_zip64(const char *extra, size_t len, uint64_t *wanted[], size_t count)
{
	while (len >= 4) {
		size_t field = le16(extra + 2);

		if (field > len - 4)
			return false;
		if (le16(extra) == EXTRA_ZIP64) {
			for (size_t i = 0; i < count; i++)
				if (8 * (i + 1) > field)
					return false;
				else
					*wanted[i] = stfs_load_le64(extra + 4 + 8 * i);
			return true;
		}
		extra += 4 + field;
		len -= 4 + field;
	}
	return count == 0;
}

static const char *check_entry(const struct stfs_zip_entry *entry, unsigned flags, unsigned method)
{
	if (flags & FLAG_ENCRYPTED)
		return "an encrypted entry";
	if (method != 0 && method != 8)
		return "an entry that is neither stored nor deflated";
	if (method == 0 && entry->stored != entry->size)
		return "an entry that is stored has two sizes";
	if (method == 8 && entry->size / DEFLATE_MOST > entry->stored)
		return "an entry that claims to inflate to more than deflate can do";
	return NULL;
}

static int read_entry(struct stfs_zip *zip, struct stfs_zip_entry *entry, uint64_t *pos, struct stfs_err *err)
{
	const char *at = zip->directory + *pos;
	uint64_t left = zip->directory_len - *pos, *wanted[3];
	size_t name_len, extra_len, comment_len, count = 0;
	const char *wrong;

	if (left < CENTRAL_LEN || memcmp(at, "PK\1\2", 4) != 0)
		return fail(err, zip->directory_at + *pos, "no entry of the directory where one must be");
	name_len = le16(at + 28);
	extra_len = le16(at + 30);
	comment_len = le16(at + 32);
	if (left - CENTRAL_LEN < name_len + extra_len + comment_len)
		return fail(err, zip->directory_at + *pos, "an entry passes the end of the directory");
	*entry = (struct stfs_zip_entry){
		.header = le32(at + 42), .stored = le32(at + 20), .size = le32(at + 24),
		.name_pos = (uint32_t)*pos + CENTRAL_LEN, .crc = le32(at + 16),
		.name_len = (uint16_t)name_len, .deflated = le16(at + 10) == 8};
	if (entry->size == UINT32_MAX)
		wanted[count++] = &entry->size;
	if (entry->stored == UINT32_MAX)
		wanted[count++] = &entry->stored;
	if (entry->header == UINT32_MAX)
		wanted[count++] = &entry->header;
	if (!read_zip64(at + CENTRAL_LEN + name_len, extra_len, wanted, count))
		return fail(err, zip->directory_at + *pos, "an extra field is broken, or lacks a zip64 size");
	wrong = check_entry(entry, le16(at + 8), le16(at + 10));
	if (!wrong && entry->size && name_len && at[CENTRAL_LEN + name_len - 1] == '/')
		wrong = "a folder that has content"; /* torch takes what is in memory for it */
	if (wrong)
		return fail(err, zip->directory_at + *pos, wrong);
	*pos += CENTRAL_LEN + name_len + extra_len + comment_len;
	return 0;
}

/* ---- Local headers ---- */

/* A number there, when it is there, must be the directory's. */
static bool agrees(uint32_t local, uint64_t central, bool may_lack)
{
	return local == UINT32_MAX || local == central || (may_lack && local == 0);
}

static int check_local(struct stfs_zip *zip, struct stfs_zip_entry *entry, struct stfs_err *err)
{
	char local[LOCAL_LEN + UINT16_MAX];
	size_t len = LOCAL_LEN + entry->name_len;
	bool may_lack;
	int r;

	if (entry->header >= zip->directory_at || zip->directory_at - entry->header < len)
		return fail(err, entry->header, "a local header that does not lie before the directory");
	r = read_at(zip->fd, local, len, entry->header, err);
	if (r < 0)
		return r;
	if (memcmp(local, "PK\3\4", 4) != 0)
		return fail(err, entry->header, "no local header where the directory says");
	if (le16(local + 26) != entry->name_len ||
	    memcmp(local + LOCAL_LEN, zip->directory + entry->name_pos, entry->name_len) != 0)
		return fail(err, entry->header, "the local header has another name than the directory");
	may_lack = le16(local + 6) & FLAG_SIZES_BEHIND;
	if (le16(local + 6) & FLAG_ENCRYPTED || le16(local + 8) != (entry->deflated ? 8 : 0) ||
	    !agrees(le32(local + 18), entry->stored, may_lack) ||
	    !agrees(le32(local + 22), entry->size, may_lack) ||
	    (le32(local + 14) != entry->crc && !(may_lack && le32(local + 14) == 0)))
		return fail(err, entry->header, "the local header contradicts the directory");
	entry->offset = entry->header + len + le16(local + 28);
	if (entry->offset > zip->directory_at || entry->stored > zip->directory_at - entry->offset)
		return fail(err, entry->header, "an entry reaches into the directory");
	return 0;
}

static int by_header(const void *a, const void *b)
{
	const struct stfs_zip_entry *x = *(const struct stfs_zip_entry *const *)a;
	const struct stfs_zip_entry *y = *(const struct stfs_zip_entry *const *)b;

	return (x->header > y->header) - (x->header < y->header);
}

static int check_overlaps(struct stfs_zip *zip, struct stfs_err *err)
{
	STFS_AUTO_FREE const struct stfs_zip_entry **sorted = calloc(zip->count + 1u, sizeof(struct stfs_zip_entry *));
	uint64_t end = 0;

	if (!sorted)
		return -ENOMEM;
	for (uint32_t i = 0; i < zip->count; i++)
		sorted[i] = &zip->entries[i];
	qsort(sorted, zip->count, sizeof(*sorted), by_header);
	for (uint32_t i = 0; i < zip->count; i++) {
		if (sorted[i]->header < end)
			return fail(err, sorted[i]->header, "two entries overlap");
		end = sorted[i]->offset + sorted[i]->stored;
	}
	return 0;
}

/* ---- Names ---- */

static struct stfs_str name_of(const void *owner, uint32_t number)
{
	return stfs_zip_name(owner, number);
}

struct stfs_str stfs_zip_name(const struct stfs_zip *zip, uint32_t entry)
{
	return stfs_str_slice(zip->directory + zip->entries[entry].name_pos, zip->entries[entry].name_len);
}

uint32_t stfs_zip_find(const struct stfs_zip *zip, struct stfs_str name)
{
	return *stfs_nametable_slot(&zip->by_name, name, name_of, zip);
}

/* The names with A to Z as a to z. */
struct folded {
	const struct stfs_zip *zip;
	char *directory; /* owned; a copy of zip's */
};

static struct stfs_str folded_name_of(const void *owner, uint32_t number)
{
	const struct folded *folded = owner;
	const struct stfs_zip_entry *entry = &folded->zip->entries[number];

	return stfs_str_slice(folded->directory + entry->name_pos, entry->name_len);
}

static char fold(char letter)
{
	return letter >= 'A' && letter <= 'Z' ? (char)(letter - 'A' + 'a') : letter;
}

bool stfs_zip_folds_to(struct stfs_str a, struct stfs_str b)
{
	for (size_t i = 0; a.len == b.len && i < a.len; i++)
		if (fold(a.ptr[i]) != fold(b.ptr[i]))
			return false;
	return a.len == b.len;
}

/* torch (miniz) finds an entry whatever the case of its name: of two it takes the one or the other. */
static int check_unique(const struct stfs_zip *zip, const struct stfs_sipkey *key, struct stfs_err *err)
{
	STFS_AUTO_FREE char *directory = malloc(zip->directory_len + 1);
	struct folded folded = {zip, directory};
	struct stfs_nametable table = {0};
	int r = directory ? stfs_nametable_make(&table, key, zip->count) : -ENOMEM;

	for (size_t i = 0; r == 0 && i < zip->directory_len; i++)
		directory[i] = fold(zip->directory[i]);
	for (uint32_t i = 0; r == 0 && i < zip->count; i++) {
		uint32_t *slot = stfs_nametable_slot(&table, folded_name_of(&folded, i), folded_name_of, &folded);

		if (*slot == STFS_NO_NUMBER)
			*slot = i;
		else
			r = fail(err, zip->directory_at + zip->entries[i].name_pos,
				 stfs_str_equal(stfs_zip_name(zip, i), stfs_zip_name(zip, *slot)) ?
				 "two entries have the same name" : "two entries have the same name but for its case");
	}
	stfs_nametable_free(&table);
	return r;
}

static int index_names(struct stfs_zip *zip, struct stfs_err *err)
{
	struct stfs_sipkey key;
	int r = stfs_sipkey_random(&key);

	if (r == 0)
		r = check_unique(zip, &key, err);
	if (r == 0)
		r = stfs_nametable_make(&zip->by_name, &key, zip->count);
	zip->without_crcs = true;
	for (uint32_t i = 0; r == 0 && i < zip->count; i++) {
		*stfs_nametable_slot(&zip->by_name, stfs_zip_name(zip, i), name_of, zip) = i;
		zip->without_crcs &= zip->entries[i].crc == 0;
	}
	return r;
}

static int read_all(struct stfs_zip *zip, struct stfs_err *err)
{
	uint64_t pos = 0;
	struct end end;
	int r = find_end(zip, &end, err);

	if (r == 0)
		r = read_directory(zip, &end, err);
	for (uint32_t i = 0; r == 0 && i < zip->count; i++)
		r = read_entry(zip, &zip->entries[i], &pos, err);
	if (r == 0 && pos != zip->directory_len)
		r = fail(err, zip->directory_at + pos, "the directory has more bytes than its entries");
	for (uint32_t i = 0; r == 0 && i < zip->count; i++)
		r = check_local(zip, &zip->entries[i], err);
	if (r == 0)
		r = check_overlaps(zip, err);
	return r < 0 ? r : index_names(zip, err);
}

int stfs_zip_open(int fd, uint64_t file_len, struct stfs_zip *zip, struct stfs_err *err)
{
	int r;

	*zip = (struct stfs_zip){.fd = fd, .file_len = file_len};
	r = read_all(zip, err);
	if (r == -ENOMEM)
		stfs_err_set(err, r, STFS_NO_POSITION, "no memory for the directory of the archive");
	if (r < 0)
		stfs_zip_free(zip);
	return r;
}

void stfs_zip_free(struct stfs_zip *zip)
{
	free(zip->directory);
	free(zip->entries);
	stfs_nametable_free(&zip->by_name);
	*zip = (struct stfs_zip){0};
}

/* ---- Content ---- */

static int inflate_whole(const struct stfs_zip *zip, const struct stfs_zip_entry *entry, char *bytes)
{
	STFS_AUTO_FREE struct stfs_inflate *in = malloc(sizeof(*in));
	int r = in ? stfs_inflate_open(in, zip->fd, entry->offset, entry->offset + entry->stored) : -ENOMEM;

	if (r < 0)
		return r;
	r = stfs_inflate_next(in, bytes, entry->size);
	stfs_inflate_close(in);
	return r;
}

int stfs_zip_read(const struct stfs_zip *zip, uint32_t index, uint64_t most, char **bytes,
		  struct stfs_err *err)
{
	const struct stfs_zip_entry *entry = &zip->entries[index];
	STFS_AUTO_FREE char *content = NULL;
	char quoted[STFS_QUOTED_MAX];
	int r;

	if (entry->size > most)
		return stfs_err_set(err, -EFBIG, entry->offset, "%s has %llu bytes; at most %llu are read",
				    stfs_quote(stfs_zip_name(zip, index), quoted),
				    (unsigned long long)entry->size, (unsigned long long)most);
	content = malloc(entry->size + 1);
	if (!content)
		return stfs_err_set(err, -ENOMEM, entry->offset, "no memory for %llu bytes",
				    (unsigned long long)entry->size);
	r = entry->deflated ? inflate_whole(zip, entry, content) :
			      stfs_io_read_exactly(zip->fd, content, entry->size, entry->offset);
	if (r == -EBADMSG)
		return fail(err, entry->offset, "deflated bytes are damaged");
	if (r < 0)
		return stfs_err_errno(err, r, "reading at byte %llu", (unsigned long long)entry->offset);
	if (!zip->without_crcs && crc32_z(0, (const unsigned char *)content, entry->size) != entry->crc)
		return stfs_err_set(err, -EBADMSG, entry->offset, "the CRC of %s is wrong: it is damaged",
				    stfs_quote(stfs_zip_name(zip, index), quoted));
	*bytes = stfs_steal_ptr(&content);
	return 0;
}
