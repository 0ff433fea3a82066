/* SPDX-License-Identifier: MIT */
#include "ops/folder.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/natural.h"
#include "format/names.h"
#include "format/sidecar.h"
#include "ops/slurp.h"

static void close_dir(DIR **dir)
{
	if (*dir)
		closedir(*dir);
}

void stfs_folder_free(struct stfs_folder *folder)
{
	for (size_t i = 0; i < folder->count; i++) {
		free(folder->items[i].path);
		free(folder->items[i].sidecar);
	}
	free(folder->items);
	free(folder->metadata);
	stfs_names_free(&folder->names);
	*folder = (struct stfs_folder){0};
}

/* PATH/STEM and a suffix; NULL for want of memory. */
static char *join(const char *path, struct stfs_str stem, const char *suffix)
{
	char *joined;

	return asprintf(&joined, "%s/%.*s%s", path, (int)stem.len, stem.ptr, suffix) < 0 ? NULL
											 : joined;
}

/* The true name of a tensor whose file name is a hash: its sidecar has it. */
static int read_long_name(const char *path, struct stfs_str stem, struct stfs_buf *name,
			  struct stfs_err *err)
{
	STFS_AUTO_FREE char *file = join(path, stem, ".json");
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	struct stfs_sidecar sidecar = {.shape = STFS_SHAPE_INIT};
	struct stfs_err why = STFS_ERR_INIT;
	int r = file ? stfs_slurp(file, STFS_SIDECAR_MAX, &text, err) : -ENOMEM;

	if (r < 0)
		return r;
	r = stfs_sidecar_read(stfs_buf_str(&text), &sidecar, &why);
	if (r < 0)
		r = stfs_err_set(err, r, why.position, "%s: %s", file, why.message);
	else if (!sidecar.has_name)
		r = stfs_err_set(
			err, -EINVAL, STFS_NO_POSITION,
			"%s: the file's name stands for a long one, which the sidecar does not "
			"have as \"name\"",
			file);
	else
		r = stfs_buf_add_str(name, stfs_buf_str(&sidecar.name));
	stfs_sidecar_free(&sidecar);
	return r;
}

/* The tensor's name, from the file's. */
static int find_name(const char *path, struct stfs_str stem, struct stfs_buf *name,
		     struct stfs_err *err)
{
	int r = stfs_name_decode(stem, name);
	char quoted[STFS_QUOTED_MAX];

	if (r == 0 || r == -ENOMEM)
		return r;
	if (r == -ENOENT)
		return read_long_name(path, stem, name, err);
	return stfs_err_set(err, -EINVAL, STFS_NO_POSITION,
			    "%s/%s: is no file name of a tensor%s", path, stfs_quote(stem, quoted),
			    r == -EILSEQ ? ": it is not UTF-8"
			    : r == -ENAMETOOLONG ? ": it is too long"
			    : memchr(stem.ptr, '%', stem.len) ? ": a % stands there for %25" : "");
}

static int add_item(struct stfs_folder *folder, const char *path, struct stfs_str file,
		    struct stfs_str stem, bool is_npy, struct stfs_err *err)
{
	STFS_AUTO_BUF struct stfs_buf name = STFS_BUF_INIT;
	struct stfs_folder_item *items = folder->items;
	int r = find_name(path, stem, &name, err);

	if (r < 0)
		return r;
	if (folder->count == folder->room) {
		folder->room = folder->room ? 2 * folder->room : 64;
		items = reallocarray(items, folder->room, sizeof(*items));
		if (!items)
			return -ENOMEM;
		folder->items = items;
	}
	items += folder->count;
	*items = (struct stfs_folder_item){
		.name = folder->names.count, .path = join(path, file, ""), .is_npy = is_npy,
		.sidecar = is_npy ? join(path, stem, ".json") : NULL};
	if (items->path && (items->sidecar || !is_npy) &&
	    stfs_names_add(&folder->names, stfs_buf_str(&name)) == 0) {
		folder->count++;
		return 0;
	}
	free(items->path);
	free(items->sidecar);
	return -ENOMEM;
}

/* ---- What is listed ---- */

/*
 * Only what is listed counts: a mount opens files that it does not list (both NAME and NAME.npy),
 * and they are one tensor.
 */
struct listing {
	const char *path;
	struct stfs_names names;
	struct stfs_str *sorted; /* owned; in the order of bytes */
};

static void free_listing(struct listing *listing)
{
	stfs_names_free(&listing->names);
	free(listing->sorted);
}

static int compare_names(const void *left, const void *right)
{
	return stfs_str_compare(*(const struct stfs_str *)left, *(const struct stfs_str *)right);
}

static int read_listing(const char *path, struct listing *listing, struct stfs_err *err)
{
	STFS_CLEANUP(close_dir) DIR *dir = opendir(path);
	struct dirent *entry;
	int r = 0;

	listing->path = path;
	if (!dir)
		return stfs_err_errno(err, -errno, "%s", path);
	while (r == 0 && (errno = 0, entry = readdir(dir)))
		r = stfs_names_add(&listing->names, stfs_str_from(entry->d_name));
	if (r == 0 && errno)
		return stfs_err_errno(err, -errno, "%s", path);
	listing->sorted = calloc(listing->names.count + 1, sizeof(*listing->sorted));
	if (r < 0 || !listing->sorted)
		return -ENOMEM;
	for (size_t i = 0; i < listing->names.count; i++)
		listing->sorted[i] = stfs_names_at(&listing->names, i);
	qsort(listing->sorted, listing->names.count, sizeof(*listing->sorted), compare_names);
	return 0;
}

/* STEM and a suffix. */
static bool is_listed(const struct listing *listing, struct stfs_str stem, const char *suffix)
{
	STFS_AUTO_BUF struct stfs_buf name = STFS_BUF_INIT;
	struct stfs_str wanted;

	stfs_buf_add_str(&name, stem);
	stfs_buf_puts(&name, suffix);
	wanted = stfs_buf_str(&name);
	return bsearch(&wanted, listing->sorted, listing->names.count, sizeof(wanted),
		       compare_names);
}

/* A sidecar counts even if it is not listed (sidecars=hidden). */
static bool has_sidecar(const struct listing *listing, struct stfs_str stem)
{
	STFS_AUTO_FREE char *file = join(listing->path, stem, ".json");

	return file && access(file, F_OK) == 0;
}

/* Of NAME and NAME.npy, where both are listed, the first if it has a type. */
static bool is_raw(const struct listing *listing, struct stfs_str stem)
{
	return is_listed(listing, stem, "") &&
	       (!is_listed(listing, stem, ".npy") || has_sidecar(listing, stem));
}

static int add_file(struct stfs_folder *folder, const struct listing *listing, enum stfs_folder_order order,
		    struct stfs_str file, struct stfs_err *err)
{
	struct stfs_str stem;
	enum stfs_file_kind kind = stfs_file_classify(file, &stem);

	switch (kind) {
	case STFS_FILE_TENSOR:
		return is_raw(listing, stem)
			       ? add_item(folder, listing->path, file, stem, false, err)
			       : 0;
	case STFS_FILE_NPY:
		return is_raw(listing, stem)
			       ? 0
			       : add_item(folder, listing->path, file, stem, true, err);
	case STFS_FILE_METADATA:
		folder->metadata = join(listing->path, file, "");
		return folder->metadata ? 0 : -ENOMEM;
	case STFS_FILE_SIDECAR:
		/* Of a mount it is a type that waits for its tensor, or that of one that was removed. */
		if (is_listed(listing, stem, "") || is_listed(listing, stem, ".npy") ||
		    order == STFS_FOLDER_AS_LISTED)
			return 0;
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION,
				    "%s/%.*s: a sidecar whose tensor is not there", listing->path,
				    (int)file.len, file.ptr);
	case STFS_FILE_STATUS:
	case STFS_FILE_SCRATCH: return 0;
	}
	return 0;
}

static int compare_items(const void *left, const void *right, void *data)
{
	const struct stfs_folder_item *a = left, *b = right;

	return stfs_natural_compare(stfs_names_at(data, a->name), stfs_names_at(data, b->name));
}

int stfs_folder_read(const char *path, enum stfs_folder_order order, struct stfs_folder *folder,
		     struct stfs_err *err)
{
	STFS_CLEANUP(free_listing) struct listing listing = {0};
	int r;

	*folder = (struct stfs_folder){0};
	r = read_listing(path, &listing, err);
	for (size_t i = 0; r == 0 && i < listing.names.count; i++)
		r = add_file(folder, &listing, order,
			     order == STFS_FOLDER_NATURAL ? listing.sorted[i]
							  : stfs_names_at(&listing.names, i), err);
	if (r == 0 && folder->count && order == STFS_FOLDER_NATURAL)
		qsort_r(folder->items, folder->count, sizeof(*folder->items), compare_items,
			&folder->names);
	return r;
}
