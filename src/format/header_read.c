/* SPDX-License-Identifier: MIT */
/* The pass over the header's text: its outermost object, __metadata__, and what surrounds them. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/utf8.h"
#include "format/header_internal.h"

/*
 * Entries that could not be read are kept in the table up to this many. A hostile header can hold
 * one in every 5 bytes, and its table would pass all bounds; a refused file needs no more of them.
 */
#define UNUSABLE_MAX 4096

static const struct stfs_str no_tensor = {NULL, 0};

int stfs_header_length(const void *word, size_t word_len, uint64_t file_len, uint32_t *text_len,
		       struct stfs_findings *findings)
{
	uint64_t n;
	int r;

	file_len = word_len < STFS_LENGTH_WORD ? word_len : file_len;
	if (file_len < STFS_LENGTH_WORD) {
		r = stfs_findings_add(findings, STFS_RULE_FILE_TOO_SMALL, file_len, no_tensor,
				      "the file has %" PRIu64 " bytes, too few for the 8-byte header "
				      "length", file_len);
		return r < 0 ? r : -EBADMSG;
	}
	n = stfs_load_le64(word);
	if (stfs_header_poisoned(n)) {
		r = stfs_findings_add(findings, STFS_RULE_HEADER_TOO_LARGE, 0, no_tensor,
				      "a commit is under way, or was interrupted (the header length has "
				      "bit 63 set): `stfs recover` finishes it");
		return r < 0 ? r : -EBADMSG;
	}
	if (n > STFS_HEADER_MAX) {
		r = stfs_findings_add(findings, STFS_RULE_HEADER_TOO_LARGE, 0, no_tensor,
				      "the header length is %" PRIu64 ", more than %u: not a "
				      "safetensors file, or a damaged one", n, STFS_HEADER_MAX);
		return r < 0 ? r : -EBADMSG;
	}
	if (n > file_len - STFS_LENGTH_WORD) {
		r = stfs_findings_add(findings, STFS_RULE_HEADER_BEYOND_FILE, file_len, no_tensor,
				      "the header should end at byte %" PRIu64 " but the file ends at "
				      "byte %" PRIu64, n + STFS_LENGTH_WORD, file_len);
		return r < 0 ? r : -EBADMSG;
	}
	*text_len = (uint32_t)n;
	return 0;
}

static void say_twice(void *data, uint32_t pos, uint32_t first_pos)
{
	struct stfs_header_reader *reader = data;
	struct stfs_json at = reader->json;
	struct stfs_json_string raw;
	char quoted[STFS_QUOTED_MAX];
	int r;

	at.pos = pos;
	r = stfs_json_string(&at, &raw); /* has been read once: cannot fail */
	if (r == 0)
		r = STFS_HEADER_SAY(reader, STFS_RULE_DUPLICATE_KEY, pos,
				    "the key \"%s\" stands twice, first at byte %" PRIu64
				    "; the official loader takes the last or ignores it, other readers "
				    "the first", stfs_quote(stfs_json_raw(&at, raw), quoted),
				    STFS_LENGTH_WORD + (uint64_t)first_pos);
	if (r < 0)
		reader->status = r;
}

int stfs_header_close_keys(struct stfs_header_reader *reader, size_t from)
{
	stfs_keyset_close(&reader->keys, from, say_twice, reader);
	return reader->status;
}

/* While a value is passed over: where the keys of each object that is open begin. */
struct skipping {
	struct stfs_header_reader *reader;
	size_t keys_from[STFS_JSON_MAX_DEPTH + 1]; /* by depth */
};

static int skip_enter(void *data)
{
	struct skipping *skipping = data;

	skipping->keys_from[skipping->reader->json.depth] = skipping->reader->keys.count;
	return 0;
}

static int skip_key(void *data, struct stfs_json_string raw)
{
	struct stfs_header_reader *reader = ((struct skipping *)data)->reader;
	struct stfs_str key;
	int r = stfs_header_plain(reader, raw, &key);

	return r < 0 ? r : stfs_keyset_add(&reader->keys, key, (uint32_t)(raw.pos - 1));
}

static int skip_leave(void *data)
{
	struct skipping *skipping = data;

	return stfs_header_close_keys(skipping->reader,
				      skipping->keys_from[skipping->reader->json.depth + 1]);
}

int stfs_header_skip(struct stfs_header_reader *reader)
{
	static const struct stfs_json_visitor visitor = {
		.enter = skip_enter, .key = skip_key, .leave = skip_leave,
	};
	struct skipping skipping;

	skipping.reader = reader;
	return stfs_json_skip(&reader->json, &visitor, &skipping);
}

/*
 * Passes over the text's pairs of __metadata__, which must be strings; pos is at the value. *good
 * says whether they all were.
 */
static int read_metadata_object(struct stfs_header_reader *reader, bool *good)
{
	struct stfs_json *json = &reader->json;
	struct stfs_json_string string;
	size_t keys_from = reader->keys.count;
	bool first = true;
	char quoted[STFS_QUOTED_MAX];
	struct stfs_str key;
	int r = stfs_json_enter(json, '{');

	*good = true;
	while (r == 0 && (r = stfs_json_member(json, &first, &reader->scratch, &string, &key)) == 1) {
		r = stfs_keyset_add(&reader->keys, key, (uint32_t)(string.pos - 1));
		if (r < 0)
			break;
		if (stfs_json_peek(json) == '"') {
			r = stfs_json_string(json, &string);
			continue;
		}
		*good = false;
		r = STFS_HEADER_SAY(reader, STFS_RULE_METADATA_VALUE, json->pos,
				    "__metadata__ key \"%s\" must hold a string", stfs_quote(key, quoted));
		if (r == 0)
			r = stfs_header_skip(reader);
	}
	return r < 0 ? r : stfs_header_close_keys(reader, keys_from);
}

static int read_metadata(struct stfs_header_reader *reader, size_t key_pos)
{
	struct stfs_json *json = &reader->json;
	struct stfs_header *header = reader->header;
	char c = stfs_json_peek(json);
	size_t start = json->pos;
	bool good;
	int r;

	if (reader->metadata_seen) {
		r = STFS_HEADER_SAY(reader, STFS_RULE_METADATA_TWICE, key_pos,
				    "__metadata__ stands twice");
		return r < 0 ? r : stfs_header_skip(reader);
	}
	reader->metadata_seen = true;
	if (c == '{') {
		r = read_metadata_object(reader, &good);
		header->metadata_pos = (uint32_t)start;
		header->metadata_len = r == 0 && good ? (uint32_t)(json->pos - start) : 0;
		header->metadata_index = header->count;
		return r;
	}
	if (c == 'n')
		r = STFS_HEADER_SAY(reader, STFS_RULE_METADATA_NULL, start,
				    "__metadata__ is null; it must be an object of strings");
	else
		r = STFS_HEADER_SAY(reader, STFS_RULE_METADATA_TYPE, start,
				    "__metadata__ must be an object of strings");
	return r < 0 ? r : stfs_header_skip(reader);
}

/* Room for one more tensor, by half as much again: the bound on memory counts on it. */
static struct stfs_tensor *next_tensor(struct stfs_header_reader *reader)
{
	struct stfs_header *header = reader->header;
	struct stfs_tensor *tensors;
	uint32_t cap;

	if (header->count == reader->tensor_cap) {
		cap = reader->tensor_cap < 64 ? 64 : reader->tensor_cap + reader->tensor_cap / 2;
		tensors = reallocarray(header->tensors, cap, sizeof(*tensors));
		if (!tensors)
			return NULL;
		header->tensors = tensors;
		reader->tensor_cap = cap;
	}
	header->tensors[header->count] = (struct stfs_tensor){0};
	return &header->tensors[header->count];
}

static int read_tensor(struct stfs_header_reader *reader, struct stfs_json_string raw,
		       struct stfs_str name)
{
	struct stfs_header *header = reader->header;
	struct stfs_tensor *tensor = next_tensor(reader);
	int r;

	if (!tensor)
		return -ENOMEM;
	tensor->key_pos = tensor->name_pos = (uint32_t)raw.pos;
	tensor->name_len = (uint32_t)name.len;
	tensor->name_escaped = raw.escaped;
	if (raw.escaped) {
		tensor->name_pos = (uint32_t)header->names.len;
		r = stfs_buf_add_str(&header->names, name);
		if (r < 0)
			return r;
	}
	reader->tensor = stfs_header_name(header, tensor);
	stfs_json_peek(&reader->json);
	tensor->entry_pos = (uint32_t)reader->json.pos;
	r = stfs_header_read_entry(reader, tensor);
	tensor->entry_len = (uint32_t)(reader->json.pos - tensor->entry_pos);
	if (r == 0 && (tensor->usable || tensor->overflow || reader->unusable++ < UNUSABLE_MAX))
		header->count++;
	reader->tensor = no_tensor;
	return r;
}

/* A member of the outermost object. */
static int read_member(void *data, struct stfs_json_string raw, struct stfs_str key)
{
	return stfs_str_is(key, "__metadata__") ? read_metadata(data, raw.pos - 1)
						: read_tensor(data, raw, key);
}

/* What stands before '{' and behind '}'. */
static int judge_margins(struct stfs_header_reader *reader, size_t end)
{
	struct stfs_header *header = reader->header;
	size_t pos = end;
	int r = 0;

	if (header->text_len && header->text[0] != '{')
		r = STFS_HEADER_SAY(reader, STFS_RULE_LEADING_SPACE, 0,
				    "white space stands before the '{'; the header must begin with '{'");
	while (r == 0 && pos < header->text_len && header->text[pos] == ' ')
		pos++;
	if (r == 0 && pos < header->text_len)
		r = STFS_HEADER_SAY(reader, STFS_RULE_TRAILING_SPACE, pos,
				    "byte 0x%02x stands in the padding; only spaces (0x20) may",
				    (unsigned char)header->text[pos]);
	header->slack = (uint32_t)(header->text_len - end);
	return r;
}

/* The whole text. 0 when it was read to its end, -EBADMSG when findings say why not, -errno. */
static int read_text(struct stfs_header_reader *reader)
{
	struct stfs_header *header = reader->header;
	size_t bad = stfs_utf8_check(header->text, header->text_len);
	size_t end;
	int r;

	if (bad < header->text_len) {
		r = STFS_HEADER_SAY(reader, STFS_RULE_NOT_UTF8, bad,
				    "byte 0x%02x is not UTF-8", (unsigned char)header->text[bad]);
		return r < 0 ? r : -EBADMSG;
	}
	r = stfs_json_members(&reader->json, &reader->scratch, read_member, reader);
	end = reader->json.pos;
	if (r == 0) {
		stfs_json_peek(&reader->json);
		if (reader->json.pos < header->text_len)
			r = stfs_json_fail(&reader->json, "characters behind the header's object");
	}
	if (r == -EBADMSG) {
		r = STFS_HEADER_SAY(reader, STFS_RULE_JSON_SYNTAX, reader->json.error_pos, "%s",
				    reader->json.error);
		return r < 0 ? r : -EBADMSG;
	}
	return r < 0 ? r : judge_margins(reader, end);
}

static int judge_header(struct stfs_header_reader *reader)
{
	struct stfs_header *header = reader->header;
	int r = read_text(reader);

	header->text_read = r == 0;
	if (r == -EBADMSG) { /* said; what was read before it is no table of tensors */
		header->count = 0;
		header->metadata_len = 0;
		r = 0;
	} else if (r == 0 && stfs_header_data_start(header) % 8) {
		r = stfs_findings_add(reader->findings, STFS_RULE_UNALIGNED_DATA,
				      stfs_header_data_start(header), no_tensor,
				      "the data begins at byte %" PRIu64 ", not a multiple of 8",
				      stfs_header_data_start(header));
	}
	if (r == 0)
		r = stfs_header_index_names(header, &reader->keys.key, reader->findings);
	return r < 0 ? r : stfs_header_judge_layout(header, reader->findings);
}

int stfs_header_read(char *text, uint32_t text_len, uint64_t data_len, struct stfs_header **header,
		     struct stfs_findings *findings)
{
	struct stfs_header_reader reader = {.findings = findings};
	int r;

	reader.header = calloc(1, sizeof(*reader.header));
	if (!reader.header) {
		free(text);
		return -ENOMEM;
	}
	reader.header->text = text;
	reader.header->text_len = text_len;
	reader.header->data_len = data_len;
	reader.json = (struct stfs_json){.text = text, .len = text_len};
	r = stfs_sipkey_random(&reader.keys.key);
	if (r == 0)
		r = judge_header(&reader);
	stfs_keyset_free(&reader.keys);
	stfs_buf_free(&reader.scratch);
	if (r < 0) {
		stfs_header_free(reader.header);
		return r;
	}
	*header = reader.header;
	return 0;
}
