/* SPDX-License-Identifier: MIT */
/*
 * A slot of the table holds NOTHING, ZEROS (it hides what is under it), or 1 + the number of its block.
 *
 *  C1  No slot behind the last byte, or before the first (skew), holds anything.
 *  C2  Bytes of the last block behind `size` are zeros unless `ragged`; they are cleared when the file grows.
 *  C3  under_len is at most size, so what was cut off under it never shows again; with a skew it is 0.
 *  C4  A block enters the table when all its bytes are in place: a write that fails before has changed nothing.
 *
 * Tests: test_content.c, check_file() and anything_goes.
 */
#include "store/content.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/io.h"

#define BLOCK ((uint64_t)STFS_ARENA_BLOCK)
#define PAGE_SLOTS 1024u
#define NOTHING 0
#define ZEROS UINT64_MAX
#define AHEAD_MOST 1024
#define NEXT_MOST ((16u << 20) / STFS_ARENA_BLOCK)
#define SIZE_MOST ((uint64_t)INT64_MAX)

struct stfs_content_page {
	uint64_t number; /* of its first slot, in pages */
	uint64_t *slots; /* owned: the first `room` of the page; the others hold nothing */
	unsigned room;   /* a power of 2, at most PAGE_SLOTS: most files are small */
	unsigned filled; /* slots that hold something */
};

/* Blocks on their way back to the arena, in as few runs as they lie in. */
struct back {
	uint64_t first, count;
};

static const char zeros[STFS_ARENA_BLOCK];

static bool is_block(uint64_t value)
{
	return value != NOTHING && value != ZEROS;
}

/* ---- The table ---- */

/* Index of the first page numbered `number` or more. */
static size_t find_page(const struct stfs_content *content, uint64_t number)
{
	size_t low = 0, high = content->page_count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (content->pages[middle].number < number)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static uint64_t get_slot(const struct stfs_content *content, uint64_t slot)
{
	size_t i = find_page(content, slot / PAGE_SLOTS);

	if (i == content->page_count || content->pages[i].number != slot / PAGE_SLOTS ||
	    slot % PAGE_SLOTS >= content->pages[i].room)
		return NOTHING;
	return content->pages[i].slots[slot % PAGE_SLOTS];
}

/* The first slot at or behind `slot` that holds something, or UINT64_MAX. */
static uint64_t next_slot(const struct stfs_content *content, uint64_t slot)
{
	for (size_t i = find_page(content, slot / PAGE_SLOTS); i < content->page_count; i++) {
		const struct stfs_content_page *page = &content->pages[i];
		uint64_t first = page->number * PAGE_SLOTS;

		for (uint64_t s = first < slot ? slot - first : 0; page->filled && s < page->room; s++)
			if (page->slots[s] != NOTHING)
				return first + s;
	}
	return UINT64_MAX;
}

/* Makes `slots` slots of the page be there. */
static int grow_page(struct stfs_content_page *page, uint64_t slots)
{
	unsigned room = page->room ? page->room : 4;
	uint64_t *grown;

	while (room < slots)
		room *= 2;
	if (room == page->room)
		return 0;
	grown = reallocarray(page->slots, room, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	memset(grown + page->room, 0, (room - page->room) * sizeof(*grown));
	page->slots = grown;
	page->room = room;
	return 0;
}

static int make_page(struct stfs_content *content, uint64_t number, uint64_t slots)
{
	size_t i = find_page(content, number), cap = content->page_cap ? 2 * content->page_cap : 1;
	struct stfs_content_page page = {.number = number}, *grown;
	int r;

	if (i < content->page_count && content->pages[i].number == number)
		return grow_page(&content->pages[i], slots);
	if (content->page_count == content->page_cap) {
		grown = reallocarray(content->pages, cap, sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		content->pages = grown;
		content->page_cap = cap;
	}
	r = grow_page(&page, slots);
	if (r < 0)
		return r;
	memmove(&content->pages[i + 1], &content->pages[i], (content->page_count - i) * sizeof(*content->pages));
	content->pages[i] = page;
	content->page_count++;
	return 0;
}

/* So that set_slot() cannot fail for the slots from `from` to before `to`. */
static int make_pages(struct stfs_content *content, uint64_t from, uint64_t to)
{
	int r = 0;

	for (uint64_t n = from / PAGE_SLOTS; r == 0 && from < to && n <= (to - 1) / PAGE_SLOTS; n++)
		r = make_page(content, n, stfs_min_u64(to - n * PAGE_SLOTS, PAGE_SLOTS));
	return r;
}

/* The page is there. A block that it held is the caller's. */
static void set_slot(struct stfs_content *content, uint64_t slot, uint64_t value)
{
	struct stfs_content_page *page = &content->pages[find_page(content, slot / PAGE_SLOTS)];
	uint64_t *place = &page->slots[slot % PAGE_SLOTS];

	page->filled += *place == NOTHING;
	content->held += is_block(value);
	content->held -= is_block(*place);
	*place = value;
}

static void flush_back(struct stfs_content *content, struct back *back)
{
	stfs_arena_give_back(content->arena, back->first, back->count);
	back->count = 0;
}

static void add_back(struct stfs_content *content, struct back *back, uint64_t value)
{
	if (!is_block(value))
		return;
	if (back->count && back->first + back->count != value - 1)
		flush_back(content, back);
	if (!back->count)
		back->first = value - 1;
	back->count++;
}

static void drop_slots(struct stfs_content *content, uint64_t from, uint64_t to)
{
	size_t i = find_page(content, from / PAGE_SLOTS), kept = i;
	struct back back = {0};

	for (; i < content->page_count && content->pages[i].number * PAGE_SLOTS < to; i++) {
		struct stfs_content_page *page = &content->pages[i];
		uint64_t first = page->number * PAGE_SLOTS, end = stfs_min_u64(page->room, to - first);

		for (uint64_t s = first < from ? from - first : 0; s < end; s++) {
			add_back(content, &back, page->slots[s]);
			page->filled -= page->slots[s] != NOTHING;
			content->held -= is_block(page->slots[s]);
			page->slots[s] = NOTHING;
		}
		if (page->filled)
			content->pages[kept++] = *page;
		else
			free(page->slots);
	}
	if (kept < i)
		memmove(&content->pages[kept], &content->pages[i], (content->page_count - i) * sizeof(*content->pages));
	content->page_count -= i - kept;
	flush_back(content, &back);
}

/* The slots that lie in the range with all their bytes: first and end, which may be before it. */
static void whole_slots(const struct stfs_content *content, uint64_t offset, uint64_t len, uint64_t *from, uint64_t *to)
{
	uint64_t begin = offset + content->skew, end = begin + len;

	*from = offset ? (begin + BLOCK - 1) / BLOCK : begin / BLOCK;
	*to = offset + len == content->size ? (end + BLOCK - 1) / BLOCK : end / BLOCK;
}

/* Behind the slot of the last byte, were the file that long; none holds anything when it is empty. */
static uint64_t end_slot(const struct stfs_content *content, uint64_t size)
{
	return size ? (size + content->skew + BLOCK - 1) / BLOCK : 0;
}

/* ---- A layer ---- */

struct stfs_content *stfs_content_new(struct stfs_arena *arena, uint64_t size, uint64_t under_len,
				      struct stfs_content *under)
{
	struct stfs_content *content = calloc(1, sizeof(*content));

	assert(size <= SIZE_MOST);
	if (!content)
		return NULL;
	content->arena = arena;
	content->size = size;
	content->under_len = stfs_min_u64(under_len, under ? stfs_min_u64(size, under->size) : size);
	content->under = under;
	content->spare = UINT64_MAX;
	content->ahead = 1;
	if (under)
		under->frozen = true;
	return content;
}

void stfs_content_settle(struct stfs_content *content)
{
	stfs_arena_give_back(content->arena, content->spare, content->spare_count);
	content->spare_count = 0;
	content->ahead = 1;
}

void stfs_content_free(struct stfs_content *content)
{
	struct stfs_content *under;

	for (; content; content = under) {
		under = content->under;
		stfs_content_settle(content);
		drop_slots(content, 0, UINT64_MAX);
		free(content->pages);
		free(content);
	}
}

uint64_t stfs_content_blocks(const struct stfs_content *content)
{
	uint64_t blocks = 0;

	for (; content; content = content->under)
		blocks += content->held;
	return blocks * (STFS_ARENA_BLOCK / 512);
}

/* ---- Reading ---- */

/* Shortens `run` to what this layer knows of it; false: what is under it knows. */
static bool look(const struct stfs_content *layer, uint64_t offset, struct stfs_run *run)
{
	uint64_t at = offset + layer->skew, slot = at / BLOCK, within = at % BLOCK, n = 1;
	uint64_t slots = (within + run->len + BLOCK - 1) / BLOCK, value = get_slot(layer, slot), next;

	if (value == NOTHING) {
		next = next_slot(layer, slot);
		if (next != UINT64_MAX)
			run->len = stfs_min_u64(run->len, next * BLOCK - at);
		if (offset >= layer->under_len)
			return true;
		run->len = stfs_min_u64(run->len, layer->under_len - offset);
		if (layer->under)
			return false;
		run->kind = STFS_RUN_BASE;
		run->offset = offset;
		return true;
	}
	while (n < slots && get_slot(layer, slot + n) == (value == ZEROS ? ZEROS : value + n))
		n++;
	run->len = stfs_min_u64(run->len, n * BLOCK - within);
	if (value != ZEROS) {
		run->kind = STFS_RUN_ARENA;
		run->offset = stfs_arena_offset(value - 1) + within;
	}
	return true;
}

void stfs_content_run(const struct stfs_content *content, uint64_t offset, uint64_t most, struct stfs_run *run)
{
	*run = (struct stfs_run){.kind = STFS_RUN_ZERO};
	if (offset >= content->size)
		return;
	run->len = stfs_min_u64(most, content->size - offset);
	while (!look(content, offset, run))
		content = content->under;
}

static int read_run(const struct stfs_content *content, const struct stfs_base *base, const struct stfs_run *run,
		    void *buffer)
{
	if (run->kind == STFS_RUN_ARENA)
		return stfs_io_read_exactly(stfs_arena_fd(content->arena), buffer, run->len, run->offset);
	if (run->kind == STFS_RUN_BASE)
		return base->read(base->data, buffer, run->len, run->offset);
	memset(buffer, 0, run->len);
	return 0;
}

int stfs_content_read(const struct stfs_content *content, const struct stfs_base *base, void *buffer,
		      size_t len, uint64_t offset)
{
	struct stfs_run run;
	size_t done = 0;
	int r = 0;

	if (offset > content->size || len > content->size - offset)
		return -EINVAL;
	for (; r == 0 && done < len; done += run.len) {
		stfs_content_run(content, offset + done, len - done, &run);
		r = read_run(content, base, &run, (char *)buffer + done);
	}
	return r;
}

/* ---- Blocks for what is new ---- */

/* A run of 1 to `wanted` blocks, behind the last one where that can be had. */
static int take_blocks(struct stfs_content *content, uint64_t wanted, uint64_t *first, uint64_t *count)
{
	uint64_t more = stfs_max_u64(wanted, content->ahead);
	int r = 0;

	if (!content->spare_count) {
		r = stfs_arena_take(content->arena, content->spare, more, &content->spare, &content->spare_count);
		/* The disk is nearly full: no further than is needed. */
		if (r == -ENOSPC && more > 1)
			r = stfs_arena_take(content->arena, content->spare, 1, &content->spare, &content->spare_count);
		content->ahead = stfs_min_u64(2 * content->ahead, AHEAD_MOST);
	}
	if (r < 0)
		return r;
	*first = content->spare;
	*count = stfs_min_u64(wanted, content->spare_count);
	content->spare += *count;
	content->spare_count -= *count;
	return 0;
}

/* Copies what shows from `from` to `to` into `block`, which will be that of `slot` and still reads as zeros. */
static int copy_up(const struct stfs_content *content, const struct stfs_base *base, uint64_t from, uint64_t to,
		   uint64_t slot, uint64_t block)
{
	STFS_AUTO_FREE char *piece = NULL;
	struct stfs_run run;
	int r = 0;

	for (; r == 0 && from < to; from += run.len) {
		stfs_content_run(content, from, stfs_min_u64(to - from, BLOCK), &run);
		if (!run.len)
			break;
		if (run.kind == STFS_RUN_ZERO)
			continue;
		if (!piece)
			piece = malloc(BLOCK);
		r = piece ? read_run(content, base, &run, piece) : -ENOMEM;
		if (r == 0)
			r = stfs_io_write(stfs_arena_fd(content->arena), piece, run.len,
					  stfs_arena_offset(block) + (from + content->skew - slot * BLOCK));
	}
	return r;
}

/* ---- Writing ---- */

/* At `offset`, where up to `slots` slots have no block: writes at most `*len` bytes, and says how many. */
static int write_new(struct stfs_content *content, const struct stfs_base *base, const char *bytes, size_t *len,
		     uint64_t offset, uint64_t slots)
{
	uint64_t at = offset + content->skew, slot = at / BLOCK, within = at % BLOCK;
	uint64_t head = stfs_max_u64(slot * BLOCK, content->skew) - content->skew, block = 0, count = 0, tail;
	int r = make_pages(content, slot, slot + slots);

	if (r == 0)
		r = take_blocks(content, slots, &block, &count);
	if (r < 0)
		return r;
	*len = stfs_min_u64(*len, count * BLOCK - within);
	tail = (slot + count) * BLOCK - content->skew;
	r = copy_up(content, base, head, offset, slot, block);
	if (r == 0)
		r = copy_up(content, base, offset + *len, tail, slot, block);
	if (r == 0)
		r = stfs_io_write(stfs_arena_fd(content->arena), bytes, *len, stfs_arena_offset(block) + within);
	if (r < 0)
		stfs_arena_give_back(content->arena, block, count);
	for (uint64_t i = 0; r == 0 && i < count; i++)
		set_slot(content, slot + i, 1 + block + i);
	return r;
}

/* Writes at most `*len` bytes, in one piece, and says how many. */
static int write_piece(struct stfs_content *content, const struct stfs_base *base, const char *bytes, size_t *len,
		       uint64_t offset)
{
	uint64_t at = offset + content->skew, slot = at / BLOCK, within = at % BLOCK, n = 1;
	uint64_t slots = (within + *len + BLOCK - 1) / BLOCK, value = get_slot(content, slot);

	if (!is_block(value)) {
		while (n < slots && n < AHEAD_MOST && !is_block(get_slot(content, slot + n)))
			n++;
		return write_new(content, base, bytes, len, offset, n);
	}
	while (n < slots && get_slot(content, slot + n) == value + n)
		n++;
	*len = stfs_min_u64(*len, n * BLOCK - within);
	return stfs_io_write(stfs_arena_fd(content->arena), bytes, *len, stfs_arena_offset(value - 1) + within);
}

/* C2: before the file grows. */
static int clear_tail(struct stfs_content *content)
{
	uint64_t at = content->size + content->skew, within = at % BLOCK;
	uint64_t value = within && content->ragged ? get_slot(content, at / BLOCK) : NOTHING;
	int r = 0;

	if (is_block(value))
		r = stfs_io_write(stfs_arena_fd(content->arena), zeros, BLOCK - within,
				  stfs_arena_offset(value - 1) + within);
	if (r == 0)
		content->ragged = false;
	return r;
}

int stfs_content_write(struct stfs_content *content, const struct stfs_base *base, const void *bytes,
		       size_t len, uint64_t offset)
{
	uint64_t end;
	size_t piece;
	int r = 0;

	assert(!content->frozen);
	if (!len)
		return 0;
	if (stfs_add_overflows(offset, len, &end) || end > SIZE_MOST - content->skew)
		return -EFBIG;
	if (end > content->size)
		r = clear_tail(content);
	for (size_t done = 0; r == 0 && done < len; done += piece) {
		piece = len - done;
		r = write_piece(content, base, (const char *)bytes + done, &piece, offset + done);
	}
	if (end <= content->size)
		return r;
	if (r < 0)
		drop_slots(content, end_slot(content, content->size), end_slot(content, end));
	content->ragged = r < 0;
	content->size = r < 0 ? content->size : end;
	return r;
}

int stfs_content_resize(struct stfs_content *content, uint64_t size)
{
	int r = 0;

	assert(!content->frozen);
	if (size > content->size) {
		if (size > SIZE_MOST - content->skew)
			return -EFBIG;
		r = clear_tail(content);
	} else if (size < content->size) {
		drop_slots(content, end_slot(content, size), end_slot(content, content->size));
		content->under_len = stfs_min_u64(content->under_len, size);
		content->ragged = true;
	}
	if (r == 0)
		content->size = size;
	return r;
}

void stfs_content_cut_front(struct stfs_content *content, uint64_t bytes)
{
	assert(!content->frozen && !content->under_len && bytes <= content->size);
	if (bytes == content->size)
		drop_slots(content, 0, end_slot(content, content->size));
	content->skew += bytes;
	content->size -= bytes;
	drop_slots(content, 0, content->skew / BLOCK);
}

/* ---- Zeros ---- */

/* Writes zeros where there are others: parts of blocks. */
static int wipe(struct stfs_content *content, const struct stfs_base *base, uint64_t from, uint64_t to)
{
	struct stfs_run run;
	int r = 0;

	for (; r == 0 && from < to; from += run.len) {
		stfs_content_run(content, from, stfs_min_u64(to - from, BLOCK), &run);
		if (run.kind != STFS_RUN_ZERO)
			r = stfs_content_write(content, base, zeros, run.len, from);
	}
	return r;
}

/* Makes the slots read as zeros whatever is under them. Their pages are there. */
static void hide_slots(struct stfs_content *content, uint64_t from, uint64_t to)
{
	struct back back = {0};

	for (; from < to; from++) {
		add_back(content, &back, get_slot(content, from));
		set_slot(content, from, ZEROS);
	}
	flush_back(content, &back);
}

int stfs_content_zero(struct stfs_content *content, const struct stfs_base *base, uint64_t offset, uint64_t len)
{
	uint64_t from, to, hidden;
	int r;

	assert(!content->frozen);
	if (offset > content->size || len > content->size - offset)
		return -EINVAL;
	whole_slots(content, offset, len, &from, &to);
	if (!len || from >= to)
		return wipe(content, base, offset, offset + len);
	/* Something is under the slots before this one. */
	hidden = stfs_max_u64(from, stfs_min_u64(to, end_slot(content, content->under_len)));
	r = make_pages(content, from, hidden);
	if (r == 0 && from * BLOCK > offset + content->skew)
		r = wipe(content, base, offset, from * BLOCK - content->skew);
	if (r == 0 && to * BLOCK < offset + content->skew + len)
		r = wipe(content, base, to * BLOCK - content->skew, offset + len);
	if (r < 0)
		return r;
	hide_slots(content, from, hidden);
	drop_slots(content, hidden, to);
	return 0;
}

/* ---- Of this layer alone ---- */

static bool shows_only_zeros(const struct stfs_content *content, uint64_t from, uint64_t to)
{
	struct stfs_run run = {.kind = STFS_RUN_ZERO};

	for (; from < to && run.kind == STFS_RUN_ZERO; from += run.len)
		stfs_content_run(content, from, to - from, &run);
	return run.kind == STFS_RUN_ZERO;
}

/* The slot holds nothing; there is no skew, since something is under it (C3). */
static int fill_slot(struct stfs_content *content, const struct stfs_base *base, uint64_t slot)
{
	uint64_t from = slot * BLOCK, to = stfs_min_u64(from + BLOCK, content->under_len);
	size_t nothing = 0;
	int r;

	if (!shows_only_zeros(content, from, to))
		return write_new(content, base, zeros, &nothing, from, 1);
	r = make_pages(content, slot, slot + 1);
	if (r == 0)
		set_slot(content, slot, ZEROS);
	return r;
}

int stfs_content_fill(struct stfs_content *content, const struct stfs_base *base, uint64_t offset, uint64_t len)
{
	uint64_t to;
	int r = 0;

	assert(!content->frozen);
	if (offset >= content->under_len)
		return 0;
	to = end_slot(content, offset + stfs_min_u64(len, content->under_len - offset));
	for (uint64_t slot = offset / BLOCK; len && r == 0 && slot < to; slot++)
		if (get_slot(content, slot) == NOTHING)
			r = fill_slot(content, base, slot);
	return r;
}

bool stfs_content_next(const struct stfs_content *content, uint64_t from, uint64_t *offset, uint64_t *len)
{
	uint64_t at = from + content->skew, slot = next_slot(content, at / BLOCK), begin, end, n = 1;

	if (from >= content->size || slot == UINT64_MAX)
		return false;
	while (n < NEXT_MOST && get_slot(content, slot + n) != NOTHING)
		n++;
	begin = stfs_max_u64(slot * BLOCK, at);
	end = stfs_min_u64((slot + n) * BLOCK, content->size + content->skew);
	*offset = begin - content->skew;
	*len = end - begin;
	return true;
}

void stfs_content_drop(struct stfs_content *content, uint64_t offset, uint64_t len)
{
	uint64_t from, to;

	assert(!content->frozen);
	if (offset >= content->size)
		return;
	whole_slots(content, offset, stfs_min_u64(len, content->size - offset), &from, &to);
	if (len && from < to)
		drop_slots(content, from, to);
}
