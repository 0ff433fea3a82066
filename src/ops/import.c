/* SPDX-License-Identifier: MIT */
#include "ops/import.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "ops/import_internal.h"

/* What a file's tensors may take beyond four times its own length, before it is asked for. */
#define PROPORTION 4
#define ALLOWANCE (16ull << 20)
/* A piece of a transposed matrix costs what its rows span: the more of it at once, the better. */
#define STRIDED_PIECE (64u << 20)

/* ---- Which tensors ---- */

static bool is_wanted(const struct stfs_import *import, struct stfs_str name)
{
	return !import->options.only || stfs_str_starts_with(name, import->options.only);
}

static struct stfs_str short_name(const struct stfs_import *import, struct stfs_str name)
{
	size_t cut = import->options.strip ? strlen(import->options.strip) : 0;

	if (!cut || name.len == cut || !stfs_str_starts_with(name, import->options.strip))
		return name;
	return stfs_str_slice(name.ptr + cut, name.len - cut);
}

/* Bytes of a storage that would have to be inflated anew for each of its rows. */
static bool is_unreadable(const struct stfs_torch_tensor *tensor, const struct stfs_torch_storage *storage)
{
	return !tensor->contiguous && storage->deflated && storage->size > STFS_TORCH_INFLATED_MAX;
}

static int make_room(struct stfs_import *import, uint32_t count)
{
	size_t room = count ? count : 1;

	import->items = calloc(room, sizeof(*import->items));
	import->ties = calloc(room, sizeof(*import->ties));
	import->unreadable = calloc(room, sizeof(*import->unreadable));
	return import->items && import->ties && import->unreadable ? 0 : -ENOMEM;
}

static int sort_out(struct stfs_import *import)
{
	uint32_t count, storage_count;
	const struct stfs_torch_storage *storages = stfs_torch_storages(import->torch, &storage_count);
	const struct stfs_torch_tensor *tensors = stfs_torch_tensors(import->torch, &count);
	STFS_AUTO_FREE uint32_t *kept = malloc((count ? count : 1) * sizeof(*kept));
	int r = kept ? make_room(import, count) : -ENOMEM;

	if (r < 0)
		return r;
	memset(kept, 0xff, count * sizeof(*kept)); /* STFS_NO_TWIN: none of these bytes yet */
	for (uint32_t i = 0; i < count; i++) {
		const struct stfs_torch_tensor *tensor = &tensors[i];
		uint32_t *first = &kept[tensor->twin == STFS_NO_TWIN ? i : tensor->twin];

		if (!is_wanted(import, tensor->name)) {
			import->outside++;
		} else if (is_unreadable(tensor, &storages[tensor->storage])) {
			import->unreadable[import->unreadable_count++] = tensor->name;
		} else if (*first != STFS_NO_TWIN && !import->options.duplicate) {
			import->ties[import->tie_count++] = (struct stfs_import_tie){
				short_name(import, tensor->name), import->items[*first].name};
		} else {
			*first = (uint32_t)import->count;
			import->items[import->count++] = (struct stfs_import_item){
				.import = import, .tensor = tensor, .name = short_name(import, tensor->name)};
		}
	}
	return 0;
}

/* ---- What is refused ---- */

struct first {
	const struct stfs_import *import;
	struct stfs_str name, text;
	size_t count;
};

static void take_first(void *data, struct stfs_str name, struct stfs_str text)
{
	struct first *first = data;

	if (first->count++ == 0) {
		first->name = name;
		first->text = text;
	}
}

static int check_refused(const struct stfs_import *import, struct stfs_err *err)
{
	struct first first = {.import = import};
	size_t more = stfs_import_remarks(import, STFS_IMPORT_REFUSED, take_first, &first);
	char quoted[STFS_QUOTED_MAX];

	if (first.count + more == 0 || import->options.skip_refused)
		return 0;
	return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "%s: %zu of its tensors cannot be imported; the first "
			    "is \"%s\": %.*s; --skip-refused leaves them out", stfs_import_path(import), first.count + more,
			    stfs_quote(first.name, quoted), (int)first.text.len, first.text.ptr);
}

/* What a tensor costs to write or, where more, to read: each may have its storage inflated anew. */
static uint64_t cost_of(const struct stfs_torch_tensor *tensor, const struct stfs_torch_storage *storage)
{
	return storage->deflated ? stfs_max_u64(tensor->bytes, storage->size) : tensor->bytes;
}

/* Adds what a file's tensors cost. */
static void add_costs(const struct stfs_import *part, uint64_t *total, const struct stfs_import_item **largest)
{
	uint32_t count;
	const struct stfs_torch_storage *storages = stfs_torch_storages(part->torch, &count);

	for (size_t i = 0; i < part->count; i++) {
		const struct stfs_torch_tensor *tensor = part->items[i].tensor;

		if (stfs_add_overflows(*total, cost_of(tensor, &storages[tensor->storage]), total))
			*total = UINT64_MAX;
		if (!*largest || tensor->bytes > (*largest)->tensor->bytes)
			*largest = &part->items[i];
	}
}

static int check_proportion(const struct stfs_import *import, struct stfs_err *err)
{
	const struct stfs_import_item *largest = NULL;
	uint64_t total = 0, length = 0;
	char quoted[STFS_QUOTED_MAX];

	for (const struct stfs_import *part = import; part; part = part->next) {
		add_costs(part, &total, &largest);
		length += part->length;
	}
	if (total <= length * PROPORTION + ALLOWANCE || import->options.outsized)
		return 0;
	return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "%s: has %llu bytes, and its tensors come to %llu, \"%s\" "
			    "alone to %llu: views of the same few bytes, or deflated ones; --outsized imports them",
			    stfs_import_path(import), (unsigned long long)length, (unsigned long long)total,
			    stfs_quote(largest->name, quoted), (unsigned long long)largest->tensor->bytes);
}

int stfs_import_choose(struct stfs_import *import, const struct stfs_import_options *options, struct stfs_err *err)
{
	size_t chosen = 0;
	int r = 0;

	for (struct stfs_import *part = import; r == 0 && part; part = part->next) {
		part->options = *options;
		r = sort_out(part);
		chosen += part->count + part->tie_count;
	}
	if (r < 0)
		return stfs_err_errno(err, r, "%s", stfs_import_path(import));
	if (options->only && chosen == 0)
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "%s: no name of its tensors begins with \"%s\"",
				    stfs_import_path(import), options->only);
	r = check_refused(import, err);
	return r < 0 ? r : check_proportion(import, err);
}

/* ---- Bytes ---- */

/* Errors of readers name the checkpoint: the commit is that of another file. */
static int say(const struct stfs_import_item *item, int r, const struct stfs_err *why, struct stfs_err *err)
{
	char quoted[STFS_QUOTED_MAX];

	if (why->code == r)
		return stfs_err_set(err, r, why->position, "%s: %s", item->import->path, why->message);
	return stfs_err_errno(err, r, "%s: reading tensor \"%s\"", item->import->path, stfs_quote(item->name, quoted));
}

static int check(void *data, struct stfs_err *err)
{
	const struct stfs_import_item *item = data;
	struct stfs_err why = STFS_ERR_INIT;
	int r = stfs_import_verify_storage(item->import, item->tensor->storage, NULL, NULL, &why);

	return r < 0 ? say(item, r, &why, err) : 0;
}

/* Torch writes no file twice, but others may: half of one state and half of another is neither's (P2). */
static int after(void *data, struct stfs_err *err)
{
	const struct stfs_import_item *item = data;
	const struct stfs_import *import = item->import;
	struct stat st;

	if (import->in_place) /* the commit itself writes to it, and looks at it beforehand */
		return 0;
	if (fstat(import->fd, &st) < 0)
		return stfs_err_errno(err, -errno, "%s", import->path);
	if ((uint64_t)st.st_size == import->length && st.st_mtim.tv_sec == import->mtime.tv_sec &&
	    st.st_mtim.tv_nsec == import->mtime.tv_nsec)
		return 0;
	return stfs_err_set(err, -EAGAIN, STFS_NO_POSITION, "%s: another program wrote to it while it was being read: "
			    "try again", import->path);
}

static int read_tensor(void *data, void *buffer, size_t len, uint64_t offset, struct stfs_err *err)
{
	const struct stfs_import_item *item = data;
	const struct stfs_err why = STFS_ERR_INIT;
	int r = stfs_torch_read(item->import->torch, item->tensor, buffer, len, offset);

	return r < 0 ? say(item, r, &why, err) : 0;
}

struct stfs_source stfs_import_source(struct stfs_import *import, struct stfs_import_item *item)
{
	static const struct stfs_reader plain = {.check = check, .after = after},
					made = {.read = read_tensor, .check = check, .after = after},
					strided = {.read = read_tensor, .check = check, .after = after,
						   .piece = STRIDED_PIECE};
	const struct stfs_torch_tensor *tensor = item->tensor;
	uint32_t count;

	if (!stfs_torch_is_plain(import->torch, tensor))
		return (struct stfs_source){.fd = -1, .reader = tensor->contiguous ? &made : &strided, .data = item};
	return (struct stfs_source){
		.fd = import->fd,
		.offset = stfs_torch_storages(import->torch, &count)[tensor->storage].offset + tensor->begin,
		.reader = &plain,
		.data = item,
	};
}

/* ---- Staging ---- */

static bool is_taken(struct stfs_edit *edit, struct stfs_str name)
{
	struct stfs_edit_tensor there;

	return stfs_edit_find(edit, name, &there) == 0;
}

/* Names are unique in a checkpoint; those without their prefix need not be. */
static int say_taken(const struct stfs_import *import, struct stfs_str name, struct stfs_err *err)
{
	char quoted[STFS_QUOTED_MAX];

	return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "%s: two of its tensors would be called \"%s\"",
			    import->path, stfs_quote(name, quoted));
}

static int stage_item(struct stfs_import *import, struct stfs_import_item *item, struct stfs_edit *edit,
		      struct stfs_err *err)
{
	const struct stfs_torch_tensor *tensor = item->tensor;
	const struct stfs_source source = stfs_import_source(import, item);
	const uint64_t *shape = stfs_torch_shape(import->torch, tensor);

	if (is_taken(edit, item->name))
		return say_taken(import, item->name, err);
	if (item->stays)
		return stfs_edit_stay(edit, item->name, (enum stfs_dtype)tensor->dtype, shape, tensor->rank,
				      source.offset, err);
	return stfs_edit_put(edit, item->name, (enum stfs_dtype)tensor->dtype, shape, tensor->rank, source, err);
}

int stfs_import_stage_in_place(struct stfs_import *import, struct stfs_edit *edit, struct stfs_err *err)
{
	uint32_t count;
	const struct stfs_torch_storage *storages = stfs_torch_storages(import->torch, &count);
	int r = stfs_import_find_place(import);
	uint64_t end = 0;

	import->in_place = true;
	/* Of every storage: those that are not imported are still what torch would load. */
	for (uint32_t i = 0; i < count; i++)
		end = stfs_max_u64(end, storages[i].offset + storages[i].stored);
	stfs_edit_set_foreign_end(edit, end);
	return r < 0 ? stfs_err_errno(err, r, "%s", import->path) : stfs_import_stage(import, edit, err);
}

static int stage_part(struct stfs_import *part, struct stfs_edit *edit, struct stfs_err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < part->count; i++)
		r = stage_item(part, &part->items[i], edit, err);
	for (size_t i = 0; r == 0 && i < part->tie_count; i++)
		if (is_taken(edit, part->ties[i].name))
			r = say_taken(part, part->ties[i].name, err);
	return r;
}

int stfs_import_stage(struct stfs_import *import, struct stfs_edit *edit, struct stfs_err *err)
{
	int r = 0;

	for (struct stfs_import *part = import; r == 0 && part; part = part->next)
		r = stage_part(part, edit, err);
	return r < 0 ? r : stfs_import_stage_metadata(import, edit, err);
}

/* ---- What was decided ---- */

void stfs_import_each(const struct stfs_import *import, void (*each)(void *data, struct stfs_str name, uint64_t bytes),
		      void *data)
{
	for (; import; import = import->next)
		for (size_t i = 0; i < import->count; i++)
			each(data, import->items[i].name, import->items[i].tensor->bytes);
}

size_t stfs_import_outside(const struct stfs_import *import)
{
	size_t outside = 0;

	for (; import; import = import->next)
		outside += import->outside;
	return outside;
}

const char *stfs_import_form(const struct stfs_import *import)
{
	return stfs_torch_form_name(stfs_torch_form(import->torch));
}

static const struct stfs_torch_remarks *remarks_of(const struct stfs_import *import, enum stfs_import_remark kind)
{
	switch (kind) {
	case STFS_IMPORT_REFUSED: return stfs_torch_refused(import->torch);
	case STFS_IMPORT_LEFT_OUT: return stfs_torch_left_out(import->torch);
	case STFS_IMPORT_NOTE: return stfs_torch_notes(import->torch);
	case STFS_IMPORT_TIED: break;
	}
	return NULL;
}

static size_t tell_remarks(const struct stfs_import *import, enum stfs_import_remark kind,
			   void (*each)(void *data, struct stfs_str name, struct stfs_str text), void *data)
{
	const struct stfs_torch_remarks *remarks = remarks_of(import, kind);

	for (size_t i = 0; remarks && i < remarks->count; i++)
		if (kind != STFS_IMPORT_REFUSED || is_wanted(import, remarks->items[i].name))
			each(data, remarks->items[i].name, remarks->items[i].text);
	for (size_t i = 0; kind == STFS_IMPORT_REFUSED && i < import->unreadable_count; i++)
		each(data, import->unreadable[i], stfs_str_from("not contiguous, in a deflated storage that is too "
								"large to be kept inflated"));
	for (size_t i = 0; kind == STFS_IMPORT_TIED && i < import->tie_count; i++)
		each(data, import->ties[i].name, import->ties[i].kept);
	for (size_t i = 0; kind == STFS_IMPORT_LEFT_OUT && i < import->skipped_count; i++)
		each(data, import->skipped[i], stfs_str_from("another value has its name in the metadata"));
	return remarks ? remarks->more : 0;
}

size_t stfs_import_remarks(const struct stfs_import *import, enum stfs_import_remark kind,
			   void (*each)(void *data, struct stfs_str name, struct stfs_str text), void *data)
{
	size_t more = 0;

	for (; import; import = import->next)
		more += tell_remarks(import, kind, each, data);
	return more;
}
