/* SPDX-License-Identifier: MIT */
#include "codec/suspects.h"

#include <errno.h>
#include <stdlib.h>

#include "base/arith.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "codec/denied.h"
#include "codec/globals.h"
#include "codec/grow.h"
#include "codec/inflate.h"
#include "codec/trace.h"
#include "codec/zip.h"

#define BLOCK 512 /* of a tar archive */
/* A piece of the search; what begins in it may reach so far beyond. */
#define OVERLAP BLOCK
#define PIECE (STFS_WINDOW_PIECE - OVERLAP)
#define LOCAL_LEN 30
#define END_LEN 22
#define CENTRAL_LEN 46
/* Before the end of a file a zip archive's end record may have a comment behind it. */
#define END_MOST (END_LEN + UINT16_MAX)
/* torch reads five pickles, one behind the other. */
#define PICKLES 5

struct search {
	int fd;
	uint64_t file_len;
	struct stfs_suspects *out;
	struct stfs_denied denied;
	struct stfs_window swept;  /* the bytes that are searched, a piece at a time */
	struct stfs_window traced; /* where traces look */
	bool in_member;            /* `swept` is a deflated member; its name: */
	struct stfs_str member;
	uint64_t at;   /* of what is looked at in `swept` */
	uint64_t work; /* done so far: STFS_SUSPECTS_WORK at most */
	int (*progress)(void *data, uint64_t bytes);
	void *data;
};

/* ---- What was found ---- */

static struct stfs_str joined(const struct stfs_suspect *suspect)
{
	return stfs_str_slice(suspect->module.ptr, suspect->module.len + 1 + suspect->name.len);
}

static struct stfs_str joined_of(const void *owner, uint32_t number)
{
	return joined(&((const struct stfs_suspects *)owner)->items[number]);
}

static int join(struct stfs_str module, struct stfs_str name, struct stfs_buf *out)
{
	stfs_buf_add_str(out, module);
	stfs_buf_putc(out, '\n');
	stfs_buf_add_str(out, name);
	return stfs_buf_status(out);
}

/*
 * What pickles of a TorchScript archive name: its own classes, which no Python imports, and functions of torch that give a
 * list, or their argument, back.
 */
static bool is_torchscript(struct stfs_str module)
{
	return stfs_str_is(module, "__torch__") || stfs_str_starts_with(module, "__torch__.") ||
	       stfs_str_is(module, "torch.jit._pickle");
}

static int add(struct search *search, uint64_t at, struct stfs_str module, struct stfs_str name)
{
	STFS_AUTO_BUF struct stfs_buf key = STFS_BUF_INIT;
	struct stfs_suspects *out = search->out;
	struct stfs_suspect suspect = {.at = at};
	struct stfs_str kept;
	uint32_t *slot;
	int r = join(module, name, &key);

	if (r < 0 || stfs_global_judge(module, name).verdict != STFS_GLOBAL_REFUSED || is_torchscript(module))
		return r;
	slot = stfs_nametable_slot(&out->by_name, stfs_buf_str(&key), joined_of, out);
	if (*slot != STFS_NO_NUMBER)
		return 0;
	if (out->count == STFS_SUSPECTS_MAX) {
		out->more++;
		return 0;
	}
	r = stfs_texts_keep(&out->texts, stfs_buf_str(&key), &kept);
	if (r == 0 && search->in_member)
		r = stfs_texts_keep(&out->texts, search->member, &suspect.member);
	if (r < 0)
		return r;
	suspect.module = stfs_str_slice(kept.ptr, module.len);
	suspect.name = stfs_str_slice(kept.ptr + module.len + 1, name.len);
	*slot = out->count;
	out->items[out->count++] = suspect;
	return 0;
}

int stfs_suspects_drop_known(struct stfs_suspects *suspects, const struct stfs_torch *torch)
{
	STFS_AUTO_BUF struct stfs_buf key = STFS_BUF_INIT;
	size_t count = suspects->count ? stfs_torch_global_count(torch) : 0;
	uint32_t kept = 0;
	int r = 0;

	for (size_t i = 0; r == 0 && i < count; i++) {
		struct stfs_torch_global global = stfs_torch_global(torch, i);
		uint32_t number;

		stfs_buf_clear(&key);
		r = join(global.module, global.name, &key);
		if (r < 0 || global.verdict != STFS_GLOBAL_REFUSED)
			continue;
		number = *stfs_nametable_slot(&suspects->by_name, stfs_buf_str(&key), joined_of, suspects);
		if (number != STFS_NO_NUMBER)
			suspects->items[number].known = true;
	}
	for (uint32_t i = 0; i < suspects->count; i++)
		if (!suspects->items[i].known)
			suspects->items[kept++] = suspects->items[i];
	suspects->count = kept;
	stfs_nametable_free(&suspects->by_name); /* its numbers are no longer those */
	return r;
}

static int found_traced(void *data, const struct stfs_trace_global *global)
{
	return add(data, global->at, stfs_str_from(global->module), stfs_str_from(global->name));
}

static int found_pair(void *data, struct stfs_str module, struct stfs_str name)
{
	struct search *search = data;

	return add(search, search->at, module, name);
}

/* ---- Traces ---- */

/* Follows up to `count` pickles from `at` of `window` on. *ran: they name globals that count. */
static int trace(struct search *search, struct stfs_window *window, uint64_t at, unsigned count, bool trusted,
		 bool *ran)
{
	bool drops = false, crossed;

	do {
		struct stfs_trace trace = {.window = window, .at = at, .count = count, .drops = drops,
					   .trusted = trusted, .found = found_traced, .data = search};
		int r;

		trace.most = STFS_SUSPECTS_WORK - stfs_min_u64(search->work, STFS_SUSPECTS_WORK);
		r = stfs_trace_run(&trace);
		if (r < 0)
			return r;
		search->work += trace.work;
		search->out->incomplete |= trace.tired;
		*ran |= trace.ran;
		crossed = trace.crossed && !drops;
		drops = true;
	} while (crossed);
	return 0;
}

/* ---- Search ---- */

static uint32_t le(const char *at, unsigned bytes)
{
	uint32_t number = 0;

	for (unsigned i = 0; i < bytes; i++)
		number |= (uint32_t)(unsigned char)at[i] << 8 * i;
	return number;
}

/* A line that is short enough for the list; without one the length is 0. */
static struct stfs_str short_line(struct stfs_str bytes)
{
	size_t most = bytes.len < STFS_DENIED_TEXT_MAX + 1 ? bytes.len : STFS_DENIED_TEXT_MAX + 1;
	const char *end = most ? memchr(bytes.ptr, '\n', most) : NULL;

	return stfs_str_slice(bytes.ptr, end ? (size_t)(end - bytes.ptr) : 0);
}

static struct stfs_str behind(struct stfs_str bytes, size_t count)
{
	return count < bytes.len ? stfs_str_slice(bytes.ptr + count, bytes.len - count) : stfs_str_slice(NULL, 0);
}

/* GLOBAL and INST. */
static int see_lines(struct search *search, struct stfs_str bytes)
{
	struct stfs_str module = short_line(behind(bytes, 1)), name;

	if (module.len == 0)
		return 0;
	name = short_line(behind(bytes, module.len + 2));
	return name.len && stfs_denied_is(module, name) ? add(search, search->at, module, name) : 0;
}

/* A text with its length in `bytes` bytes before it. */
static int see_counted(struct search *search, struct stfs_str bytes, unsigned width)
{
	size_t len;

	if (bytes.len < 1u + width)
		return 0;
	len = (unsigned char)bytes.ptr[1];
	for (unsigned i = 1; i < width; i++)
		if (bytes.ptr[1 + i])
			return 0;
	if (len < 2 || len > STFS_DENIED_TEXT_MAX || len > bytes.len - 1 - width)
		return 0;
	return stfs_denied_see(&search->denied, stfs_str_slice(bytes.ptr + 1 + width, len), found_pair, search);
}

static int see_text_line(struct search *search, struct stfs_str bytes)
{
	struct stfs_str line = short_line(behind(bytes, 1));

	if (line.len > 2 && bytes.ptr[0] == 'S')
		line = stfs_str_slice(line.ptr + 1, line.len - 2);
	return line.len ? stfs_denied_see(&search->denied, line, found_pair, search) : 0;
}

static int sweep(struct search *search, uint64_t from, uint64_t end);

/* As much as there is, up to STFS_SUSPECTS_MEMBER_MAX and what work is left. */
static int inflate_some(struct search *search, uint64_t at, char **bytes, size_t *len)
{
	STFS_AUTO_FREE struct stfs_inflate *in = malloc(sizeof(*in));
	uint64_t most = stfs_min_u64(STFS_SUSPECTS_MEMBER_MAX,
				     STFS_SUSPECTS_WORK - stfs_min_u64(search->work, STFS_SUSPECTS_WORK));
	size_t cap = 0;
	int r = in ? stfs_inflate_open(in, search->fd, at, search->file_len) : -ENOMEM;

	*len = 0;
	if (r < 0)
		return r;
	while (r == 0 && *len < most) {
		r = stfs_grow(bytes, &cap, *len, STFS_WINDOW_PIECE, 1);
		if (r == 0)
			r = stfs_inflate_next(in, *bytes + *len, stfs_min_u64(STFS_WINDOW_PIECE, most - *len));
		*len = in->pos;
	}
	search->out->incomplete |= r == 0;
	search->work += *len;
	stfs_inflate_close(in);
	return r == -EBADMSG || r == -EIO ? 0 : r;
}

static int look_into_deflated(struct search *search, uint64_t at, struct stfs_str name)
{
	STFS_AUTO_FREE struct search *inner = calloc(1, sizeof(*inner));
	STFS_AUTO_FREE char *bytes = NULL;
	bool ran = false;
	size_t len;
	int r;

	if (!inner)
		return -ENOMEM;
	r = inflate_some(search, at, &bytes, &len);
	if (r < 0 || len == 0)
		return r;
	inner->out = search->out;
	inner->work = search->work;
	inner->in_member = true;
	inner->member = name;
	stfs_window_of_memory(&inner->swept, stfs_str_slice(bytes, len));
	r = stfs_denied_init(&inner->denied);
	if (r == 0)
		r = trace(inner, &inner->swept, 0, 1, false, &ran);
	if (r == 0)
		r = sweep(inner, 0, len);
	search->work = inner->work;
	stfs_denied_free(&inner->denied);
	return r;
}

/* A zip archive's local header, whoever refers to it. */
static int look_into_member(struct search *search, uint64_t header)
{
	char name[LOCAL_LEN + UINT16_MAX];
	struct stfs_str local = stfs_window_at(&search->traced, header, LOCAL_LEN);
	uint64_t data_at;
	uint32_t method, name_len;
	bool ran = false;

	if (local.len < LOCAL_LEN || !stfs_zip_is(local.ptr, local.len))
		return search->traced.status;
	method = le(local.ptr + 8, 2);
	name_len = le(local.ptr + 26, 2);
	data_at = header + LOCAL_LEN + name_len + le(local.ptr + 28, 2);
	if (method != 8)
		return trace(search, &search->traced, data_at, 1, false, &ran);
	name_len = name_len < 1024 ? name_len : 1024;
	local = stfs_window_at(&search->traced, header + LOCAL_LEN, name_len);
	memcpy(name, local.ptr ? local.ptr : "", local.len);
	return look_into_deflated(search, data_at, stfs_str_slice(name, local.len));
}

/* What may begin with the first of these bytes, at search->at. */
static int examine(struct search *search, struct stfs_str bytes)
{
	switch ((unsigned char)bytes.ptr[0]) {
	case 'c': case 'i': return see_lines(search, bytes);
	case 'U': case 0x8c: return see_counted(search, bytes, 1);
	case 'X': case 'T': return see_counted(search, bytes, 4);
	case 0x8d: return see_counted(search, bytes, 8);
	case 'S': case 'V': return see_text_line(search, bytes);
	case 'P':
		if (search->in_member || !stfs_zip_is(bytes.ptr, bytes.len))
			return 0;
		return look_into_member(search, search->at);
	default: return 0;
	}
}

static const bool interesting[256] = {
	['c'] = true, ['i'] = true, ['U'] = true, [0x8c] = true, ['X'] = true, ['T'] = true, [0x8d] = true,
	['S'] = true, ['V'] = true, ['P'] = true,
};

/* Whether a tar archive's header stands there, as any reader sums it up: of signed bytes or not. */
static bool is_tar_header(struct stfs_str block)
{
	long sum = 0, signed_sum = 0, said = 0;
	size_t i = 148;

	if (block.len < BLOCK)
		return false;
	while (i < 155 && block.ptr[i] == ' ')
		i++;
	if (block.ptr[i] < '0' || block.ptr[i] > '7')
		return false;
	for (; i < 156 && block.ptr[i] >= '0' && block.ptr[i] <= '7'; i++)
		said = said * 8 + (block.ptr[i] - '0');
	for (i = 0; i < BLOCK; i++) {
		sum += i >= 148 && i < 156 ? ' ' : (unsigned char)block.ptr[i];
		signed_sum += i >= 148 && i < 156 ? ' ' : (signed char)block.ptr[i];
	}
	return said == sum || said == signed_sum;
}

/* Of a tar archive: what stands behind each header in the piece. */
static int trace_tar_members(struct search *search, struct stfs_str piece, uint64_t from)
{
	bool ran = false;
	int r = 0;

	for (size_t i = 0; r == 0 && i < PIECE && piece.len - i >= BLOCK; i += BLOCK)
		if (is_tar_header(stfs_str_slice(piece.ptr + i, BLOCK)))
			r = trace(search, &search->traced, from + i + BLOCK, PICKLES, false, &ran);
	return r;
}

static int sweep(struct search *search, uint64_t from, uint64_t end)
{
	int r = 0;

	for (; r == 0 && from < end; from += PIECE) {
		struct stfs_str piece = stfs_window_at(&search->swept, from, STFS_WINDOW_PIECE);
		size_t len = piece.len < PIECE ? piece.len : PIECE;

		if (len == 0)
			return search->swept.status;
		if (!search->in_member && search->out->is_tar)
			r = trace_tar_members(search, piece, from);
		for (size_t i = 0; r == 0 && i < len; i++)
			if (interesting[(unsigned char)piece.ptr[i]]) {
				search->at = from + i;
				r = examine(search, stfs_str_slice(piece.ptr + i, piece.len - i));
			}
		if (r == 0 && search->progress)
			r = search->progress(search->data, len);
	}
	return r;
}

static int sweep_file(struct search *search, bool quickly)
{
	const uint64_t head = STFS_SUSPECTS_QUICK, tail = STFS_SUSPECTS_QUICK / 4;
	int r;

	if (!quickly || search->file_len <= head + tail)
		return sweep(search, 0, search->file_len);
	search->out->incomplete = true;
	r = sweep(search, 0, head);
	/* Blocks of a tar archive stay where they are. */
	return r < 0 ? r : sweep(search, stfs_align_up(search->file_len - tail, BLOCK), search->file_len);
}

/* ---- The end of a zip archive ---- */

/* Whether an end record at `at` could be one: before it, or before those of zip64, ends a directory. */
static bool is_end(struct search *search, const char *record, uint64_t at)
{
	uint32_t count = le(record + 10, 2), len = le(record + 12, 4);
	struct stfs_str before;

	if (len == UINT32_MAX || count == UINT16_MAX || le(record + 16, 4) == UINT32_MAX) {
		before = stfs_window_at(&search->traced, at < 20 ? 0 : at - 20, 4);
		return before.len == 4 && memcmp(before.ptr, "PK\6\7", 4) == 0;
	}
	if (count == 0 || len < CENTRAL_LEN || len > at)
		return false;
	before = stfs_window_at(&search->traced, at - len, 4);
	if (before.len == 4 && memcmp(before.ptr, "PK\1\2", 4) == 0)
		return true;
	before = stfs_window_at(&search->traced, le(record + 16, 4), 4); /* something stands between */
	return before.len == 4 && memcmp(before.ptr, "PK\1\2", 4) == 0;
}

static bool ends_as_zip(struct search *search)
{
	uint64_t from = search->file_len - stfs_min_u64(search->file_len, END_MOST);

	while (search->file_len - from >= END_LEN) {
		struct stfs_str piece = stfs_window_at(&search->swept, from, STFS_WINDOW_PIECE);

		if (piece.len < END_LEN)
			return false;
		for (size_t i = 0; i + END_LEN <= piece.len; i++)
			if (piece.ptr[i] == 'P' && memcmp(piece.ptr + i, "PK\5\6", 4) == 0 &&
			    is_end(search, piece.ptr + i, from + i))
				return true;
		from += piece.len - END_LEN + 1;
	}
	return false;
}

/* ---- The whole ---- */

static int prepare(struct search *search, int fd, uint64_t file_len, struct stfs_suspects *suspects)
{
	struct stfs_sipkey key;
	int r = stfs_sipkey_random(&key);

	*suspects = (struct stfs_suspects){0};
	search->fd = fd;
	search->file_len = file_len;
	search->out = suspects;
	stfs_window_of_file(&search->swept, fd, file_len);
	stfs_window_of_file(&search->traced, fd, file_len);
	suspects->items = calloc(STFS_SUSPECTS_MAX, sizeof(*suspects->items));
	if (r == 0)
		r = suspects->items ? stfs_nametable_make(&suspects->by_name, &key, STFS_SUSPECTS_MAX) : -ENOMEM;
	return r < 0 ? r : stfs_denied_init(&search->denied);
}

static int look(struct search *search, unsigned flags)
{
	struct stfs_suspects *out = search->out;
	bool whole = flags & STFS_SUSPECTS_WHOLE;
	int r = 0;

	out->is_zip = ends_as_zip(search);
	if (!(flags & STFS_SUSPECTS_BEHIND)) {
		out->is_tar = is_tar_header(stfs_window_at(&search->traced, 0, BLOCK));
		r = trace(search, &search->traced, 0, PICKLES, whole, &out->is_pickle);
	}
	if (r < 0 || !(whole || out->is_zip || out->is_tar || out->is_pickle))
		return r < 0 ? r : search->swept.status;
	return sweep_file(search, flags & STFS_SUSPECTS_QUICKLY);
}

int stfs_suspects_find(int fd, uint64_t file_len, unsigned flags, int (*progress)(void *data, uint64_t bytes),
		       void *data, struct stfs_suspects *suspects)
{
	STFS_AUTO_FREE struct search *search = calloc(1, sizeof(*search));
	int r;

	*suspects = (struct stfs_suspects){0};
	if (!search)
		return -ENOMEM;
	search->progress = progress;
	search->data = data;
	r = prepare(search, fd, file_len, suspects);
	if (r == 0)
		r = look(search, flags);
	stfs_denied_free(&search->denied);
	return r;
}

int stfs_suspects_find_members(int fd, uint64_t file_len, const uint64_t *headers, uint32_t count,
			       struct stfs_suspects *suspects)
{
	STFS_AUTO_FREE struct search *search = calloc(1, sizeof(*search));
	int r;

	*suspects = (struct stfs_suspects){0};
	if (!search)
		return -ENOMEM;
	r = prepare(search, fd, file_len, suspects);
	for (uint32_t i = 0; r == 0 && i < count; i++)
		r = look_into_member(search, headers[i]);
	stfs_denied_free(&search->denied);
	return r;
}

void stfs_suspects_free(struct stfs_suspects *suspects)
{
	free(suspects->items);
	stfs_nametable_free(&suspects->by_name);
	stfs_texts_free(&suspects->texts);
	*suspects = (struct stfs_suspects){0};
}
