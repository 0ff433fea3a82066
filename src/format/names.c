/* SPDX-License-Identifier: MIT */
/*
 * The encoding is a bijection between tensor names of ordinary length and the file names that
 * decode (tests/unit/test_names.c: round_trip, decode_random). What keeps it one:
 *
 * 1. '%' is itself escaped, so "%XX", "%empty" and "%~" cannot come out of plain characters.
 * 2. Whether a byte is escaped depends on that byte, on its being the first, and for the last byte
 *    on the encoding so far; never on a choice. Decoding therefore checks an answer by encoding it.
 * 3. A name that ends in an escape ends in "%XX": no reserved name or ending looks like that, so
 *    escaping the last byte once is enough (test: encode_table, two_bytes).
 */
#include "format/names.h"

#include <errno.h>
#include <nettle/sha2.h>
#include <nettle/version.h>
#include <sys/types.h>

#include "base/utf8.h"

#define EMPTY_NAME "%empty"
#define METADATA_NAME "__metadata__"

/* The tail of a long name's file: HASH_MARK and HASH_DIGITS hexadecimal digits. */
#define HASH_MARK "%~"
#define HASH_DIGITS 32
#define HASH_TAIL (sizeof(HASH_MARK) - 1 + HASH_DIGITS)
#define PREFIX_MAX (STFS_NAME_MAX - HASH_TAIL)
/* The prefix ends where the next character (4 bytes at most) or escape (3) does not fit. */
#define PREFIX_MIN (PREFIX_MAX - 3)

/* docs/names.md gives the reason for each, and says what was left out and why. */
static const char *const scratch_endings[] = {"~", ".swp", ".part", ".partial", ".crdownload"};
static const char *const scratch_names[] = {"4913", "Thumbs.db", "desktop.ini"};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static bool is_scratch(struct stfs_str file)
{
	for (size_t i = 0; i < COUNT(scratch_endings); i++)
		if (stfs_str_ends_with(file, scratch_endings[i]))
			return true;
	for (size_t i = 0; i < COUNT(scratch_names); i++)
		if (stfs_str_is(file, scratch_names[i]))
			return true;
	if (file.len > 2 && file.ptr[0] == '#' && file.ptr[file.len - 1] == '#')
		return true;
	return stfs_str_starts_with(file, ".");
}

static bool cut_ending(struct stfs_str *stem, const char *ending)
{
	if (!stfs_str_ends_with(*stem, ending))
		return false;
	stem->len -= strlen(ending);
	return true;
}

enum stfs_file_kind stfs_file_classify(struct stfs_str file, struct stfs_str *stem)
{
	*stem = file;
	if (stfs_str_is(file, ".stfs"))
		return STFS_FILE_STATUS;
	if (is_scratch(file))
		return STFS_FILE_SCRATCH;
	if (stfs_str_is(file, METADATA_NAME ".json"))
		return STFS_FILE_METADATA;
	if (cut_ending(stem, ".json"))
		return STFS_FILE_SIDECAR;
	if (cut_ending(stem, ".npy"))
		return STFS_FILE_NPY;
	return STFS_FILE_TENSOR;
}

/* Whether a plain file name could not stand for a tensor as it is. */
static bool is_reserved(struct stfs_str file)
{
	struct stfs_str stem;

	return stfs_file_classify(file, &stem) != STFS_FILE_TENSOR ||
	       stfs_str_is(file, METADATA_NAME);
}

static bool needs_escape(unsigned char c, bool first)
{
	return c < 0x20 || c == 0x7f || c == '/' || c == '%' || (first && c == '.');
}

static void put_escape(char *out, unsigned char c)
{
	static const char digits[] = "0123456789ABCDEF";

	out[0] = '%';
	out[1] = digits[c >> 4];
	out[2] = digits[c & 15];
}

/*
 * Writes as many whole characters and escapes of `name` as fit in `limit` bytes, without the rule
 * for the last byte. Returns the bytes written; *taken says how much of the name they stand for.
 */
static size_t spell(struct stfs_str name, size_t limit, char *out, size_t *taken)
{
	size_t used = 0, i = 0, width;

	while (i < name.len) {
		bool escape = needs_escape((unsigned char)name.ptr[i], i == 0);

		/* The caller vouches for UTF-8; if it erred, bytes still pass one by one. */
		width = escape ? 1 : stfs_utf8_width(name.ptr + i, name.len - i);
		width = width ? width : 1;
		if (used + (escape ? 3 : width) > limit)
			break;
		if (escape)
			put_escape(out + used, (unsigned char)name.ptr[i]);
		else
			memcpy(out + used, name.ptr + i, width);
		used += escape ? 3 : width;
		i += width;
	}
	*taken = i;
	return used;
}

static void sha256(struct stfs_str bytes, uint8_t digest[SHA256_DIGEST_SIZE])
{
	struct sha256_ctx context;

	sha256_init(&context);
	sha256_update(&context, bytes.len, (const uint8_t *)bytes.ptr);
#if NETTLE_VERSION_MAJOR >= 4
	sha256_digest(&context, digest);
#else
	sha256_digest(&context, SHA256_DIGEST_SIZE, digest);
#endif
}

static size_t encode_hashed(struct stfs_str name, char *out)
{
	static const char digits[] = "0123456789abcdef";
	uint8_t digest[SHA256_DIGEST_SIZE];
	size_t taken, used = spell(name, PREFIX_MAX, out, &taken);

	memcpy(out + used, HASH_MARK, sizeof(HASH_MARK) - 1);
	used += sizeof(HASH_MARK) - 1;
	sha256(name, digest);
	for (size_t i = 0; i < HASH_DIGITS / 2; i++) {
		out[used++] = digits[digest[i] >> 4];
		out[used++] = digits[digest[i] & 15];
	}
	out[used] = '\0';
	return used;
}

size_t stfs_name_encode(struct stfs_str name, char out[STFS_NAME_MAX + 1])
{
	size_t taken, used;

	if (name.len == 0) {
		memcpy(out, EMPTY_NAME, sizeof(EMPTY_NAME));
		return sizeof(EMPTY_NAME) - 1;
	}
	used = spell(name, STFS_NAME_MAX, out, &taken);
	if (taken < name.len)
		return encode_hashed(name, out);
	if (is_reserved(stfs_str_slice(out, used))) {
		if (used + 2 > STFS_NAME_MAX)
			return encode_hashed(name, out);
		/* Every reserved ending is an ASCII character, so this is a whole one. */
		put_escape(out + used - 1, (unsigned char)out[used - 1]);
		used += 2;
	}
	out[used] = '\0';
	return used;
}

static int upper_hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/*
 * Undoes the escapes of `file` (at most STFS_NAME_MAX bytes) into `plain`: its length, or -EINVAL
 * for '%' without two digits of an ASCII byte. Does not ask whether an escape was called for.
 */
static ssize_t unescape(struct stfs_str file, char plain[STFS_NAME_MAX])
{
	size_t len = 0;

	for (size_t i = 0; i < file.len; i++) {
		int high, low;

		if (file.ptr[i] != '%') {
			plain[len++] = file.ptr[i];
			continue;
		}
		if (file.len - i < 3)
			return -EINVAL;
		high = upper_hex(file.ptr[i + 1]);
		low = upper_hex(file.ptr[i + 2]);
		if (high < 0 || high > 7 || low < 0)
			return -EINVAL;
		plain[len++] = (char)(high << 4 | low);
		i += 2;
	}
	return (ssize_t)len;
}

/* `tail` is the last HASH_TAIL bytes of a file name. */
static bool is_hash_tail(struct stfs_str tail)
{
	if (!stfs_str_starts_with(tail, HASH_MARK))
		return false;
	for (size_t i = sizeof(HASH_MARK) - 1; i < tail.len; i++) {
		char c = tail.ptr[i];

		if (!(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'f'))
			return false;
	}
	return true;
}

bool stfs_name_is_hashed(struct stfs_str file)
{
	char plain[STFS_NAME_MAX], again[STFS_NAME_MAX];
	struct stfs_str prefix;
	size_t taken, used;
	ssize_t len;

	if (file.len < PREFIX_MIN + HASH_TAIL || file.len > STFS_NAME_MAX)
		return false;
	prefix = stfs_str_slice(file.ptr, file.len - HASH_TAIL);
	if (!is_hash_tail(stfs_str_slice(file.ptr + prefix.len, HASH_TAIL)) ||
	    stfs_utf8_check(prefix.ptr, prefix.len) != prefix.len)
		return false;
	len = unescape(prefix, plain);
	if (len < 0)
		return false;
	used = spell(stfs_str_slice(plain, (size_t)len), PREFIX_MAX, again, &taken);
	return stfs_str_equal(stfs_str_slice(again, used), prefix);
}

int stfs_name_decode(struct stfs_str file, struct stfs_buf *name)
{
	char plain[STFS_NAME_MAX], again[STFS_NAME_MAX + 1];
	struct stfs_str found;
	ssize_t len = 0;

	if (file.len > STFS_NAME_MAX)
		return -ENAMETOOLONG;
	/* Escapes stand for ASCII alone, so the name is UTF-8 exactly when its file name is. */
	if (stfs_utf8_check(file.ptr, file.len) != file.len)
		return -EILSEQ;
	if (stfs_name_is_hashed(file))
		return -ENOENT;
	if (!stfs_str_is(file, EMPTY_NAME))
		len = unescape(file, plain);
	if (len < 0)
		return (int)len;
	found = stfs_str_slice(plain, (size_t)len);
	if (!stfs_str_equal(stfs_str_slice(again, stfs_name_encode(found, again)), file))
		return -EINVAL;
	return stfs_buf_add_str(name, found);
}
