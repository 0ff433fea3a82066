/* SPDX-License-Identifier: MIT */
/* Taking over what was written: texts, arrays, and what is left at the end of the mount. */
#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "format/metadata.h"
#include "format/names.h"
#include "format/npy.h"
#include "format/sidecar.h"
#include "fs/draft_internal.h"
#include "fs/fortran.h"
#include "fs/handle.h"

/* ---- What was refused ---- */

static void name_file(struct stfs_fs *fs, uint32_t name, enum stfs_form form, char file[])
{
	size_t len;

	strcpy(file, "__metadata__.json");
	if (name == STFS_NO_NUMBER)
		return;
	stfs_tree_hold(fs->tree);
	len = stfs_tree_file_name(fs->tree, name, file);
	stfs_tree_release(fs->tree);
	strcpy(file + len, form == STFS_FORM_NPY ? ".npy" : ".json");
}

static void drop_refused(struct stfs_fs *fs, unsigned i)
{
	free(fs->refused[i].file);
	free(fs->refused[i].why);
	memmove(&fs->refused[i], &fs->refused[i + 1], (--fs->refused_count - i) * sizeof(fs->refused[0]));
}

void stfs_draft_accept(struct stfs_fs *fs, uint32_t name, enum stfs_form form)
{
	char file[STFS_NAME_MAX + sizeof(".json")];

	if (fs->refused_count)
		name_file(fs, name, form, file);
	for (unsigned i = 0; i < fs->refused_count; i++) {
		if (strcmp(fs->refused[i].file, file) != 0)
			continue;
		drop_refused(fs, i);
		break;
	}
}

void stfs_draft_refuse(struct stfs_fs *fs, uint32_t name, enum stfs_form form, const char *why)
{
	char file[STFS_NAME_MAX + sizeof(".json")];
	struct stfs_refused *entry;

	name_file(fs, name, form, file);
	stfs_log(STFS_LOG_WARNING, "%s: refused: %s", file, why);
	stfs_draft_accept(fs, name, form); /* the same file again: the newer reason */
	if (fs->refused_count == STFS_REFUSED_MOST)
		drop_refused(fs, 0);
	entry = &fs->refused[fs->refused_count];
	entry->file = strdup(file);
	entry->why = strdup(why);
	if (entry->file && entry->why) {
		fs->refused_count++;
	} else {
		free(entry->file);
		free(entry->why);
	}
}

/* -EBADMSG is what the readers say; to who wrote it, it is EINVAL. */
static int refuse(struct stfs_fs *fs, uint32_t name, enum stfs_form form, int r, const struct stfs_err *err)
{
	if (r == 0)
		stfs_draft_accept(fs, name, form);
	if (r != -EBADMSG && r != -EINVAL)
		return r;
	stfs_draft_refuse(fs, name, form, err->message);
	return -EINVAL;
}

/* ---- Taking over ---- */

static int take_sidecar(struct stfs_fs *fs, uint32_t name, struct stfs_str text, struct stfs_err *err)
{
	struct stfs_wanted_type wanted;
	struct stfs_sidecar sidecar;
	int r = stfs_sidecar_read(text, &sidecar, err);

	if (r < 0)
		return r;
	wanted = (struct stfs_wanted_type){sidecar.dtype, sidecar.shape.dims, sidecar.shape.rank,
					   sidecar.data_len};
	if (sidecar.has_name)
		r = stfs_tree_resolve_name(fs->tree, name, stfs_buf_str(&sidecar.name), err);
	if (r == 0)
		r = stfs_tree_declare(fs->tree, name, &wanted);
	stfs_sidecar_free(&sidecar);
	return r;
}

static int take_metadata(struct stfs_fs *fs, struct stfs_str text, struct stfs_err *err)
{
	struct stfs_metadata metadata;
	int r = stfs_metadata_read(text, &metadata, err);

	if (r < 0)
		return r;
	r = stfs_tree_set_metadata(fs->tree, metadata.pairs, metadata.count, err);
	stfs_metadata_free(&metadata);
	return r;
}

int stfs_draft_take_text(struct stfs_fs *fs, uint32_t name, struct stfs_str text)
{
	struct stfs_err err = STFS_ERR_INIT;
	int r = name == STFS_NO_NUMBER ? take_metadata(fs, text, &err) : take_sidecar(fs, name, text, &err);

	return refuse(fs, name, STFS_FORM_SIDECAR, r, &err);
}

/* The .npy header at the start of a node: as many bytes as it needs. */
static int read_header(struct stfs_fs *fs, uint32_t node, const enum stfs_dtype *declared, struct stfs_buf *bytes,
		       struct stfs_npy *npy, struct stfs_err *err)
{
	size_t want = 4096;
	ssize_t got;
	int r;

	do {
		stfs_buf_clear(bytes);
		if (stfs_buf_reserve(bytes, want) < 0)
			return -ENOMEM;
		stfs_tree_hold(fs->tree);
		got = stfs_tree_pread(fs->tree, node, bytes->data, want, 0);
		stfs_tree_release(fs->tree);
		if (got < 0)
			return (int)got;
		bytes->len = (size_t)got;
		r = stfs_npy_read_header(bytes->data, bytes->len, declared, npy, err);
		if (r == -EAGAIN && bytes->len < want)
			return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "it ends within its .npy header");
		want = r == -EAGAIN ? npy->header_len : want;
	} while (r == -EAGAIN);
	if (r == 0)
		bytes->len = npy->header_len;
	return r;
}

/* The type that the tensor has, for a .npy that does not name one (<V2). */
static bool declared_type(struct stfs_fs *fs, uint32_t name, enum stfs_dtype *dtype)
{
	struct stfs_typing_view typing;
	bool has;

	stfs_tree_hold(fs->tree);
	has = stfs_tree_typing(fs->tree, name, &typing) && typing.fit != STFS_FIT_NONE;
	stfs_tree_release(fs->tree);
	if (has)
		*dtype = typing.dtype;
	return has;
}

static int check_len(struct stfs_fs *fs, uint32_t node, const struct stfs_npy *npy, struct stfs_err *err)
{
	struct stfs_node_view view = {0};

	stfs_tree_hold(fs->tree);
	stfs_tree_node(fs->tree, node, &view);
	stfs_tree_release(fs->tree);
	if (view.len - npy->header_len == npy->data_len)
		return 0;
	return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "behind its header it has %llu bytes, an array of that "
			    "type and shape has %llu", (unsigned long long)(view.len - npy->header_len),
			    (unsigned long long)npy->data_len);
}

void stfs_draft_unlist(struct stfs_fs *fs, const struct stfs_draft *draft)
{
	struct stfs_draft **at = &fs->drafts;

	while (*at && *at != draft)
		at = &(*at)->next;
	if (*at)
		*at = draft->next;
}

/* An array on its way to a tensor: where its bytes are, which may be another hidden file than was written. */
struct array {
	struct stfs_npy npy;
	struct stfs_buf header; /* what x.npy begins with from then on */
	uint32_t node;          /* STFS_NO_NUMBER until it is one */
	uint64_t skip;          /* bytes before the array */
};

/* As long as it takes, without a lock. 0; -EINVAL or -EBADMSG when it is none; -errno. */
static int read_array(struct stfs_fs *fs, uint32_t name, uint32_t written, struct array *array, struct stfs_err *err)
{
	enum stfs_dtype declared;
	struct stfs_npy *npy = &array->npy;
	uint32_t turned = written;
	bool has = declared_type(fs, name, &declared);
	int r = read_header(fs, written, has ? &declared : NULL, &array->header, npy, err);

	if (r == 0)
		r = check_len(fs, written, npy, err);
	if (r < 0)
		return r;
	array->skip = npy->header_len;
	if (npy->fortran_order) {
		array->skip = 0;
		stfs_buf_clear(&array->header);
		r = stfs_npy_header(npy->dtype, npy->shape.dims, npy->shape.rank, &array->header);
		if (r == 0)
			r = stfs_fortran_to_c(fs, npy, written, &turned, err);
	}
	if (r == 0)
		array->node = turned;
	return r;
}

static void drop_hidden(struct stfs_fs *fs, uint32_t hidden)
{
	stfs_tree_end_writing(fs->tree, hidden);
	stfs_tree_closed(fs->tree, hidden);
}

/*
 * The array becomes the tensor's, and the draft shows that. drafts_lock is held: nobody finds the one without the
 * other. What was written is let go afterwards, so that what fails may be tried again.
 */
static int adopt(struct stfs_fs *fs, struct stfs_draft *draft, struct array *array)
{
	const struct stfs_npy *npy = &array->npy;
	const struct stfs_wanted_type wanted = {npy->dtype, npy->shape.dims, npy->shape.rank, npy->data_len};
	struct stfs_draft *listed;
	uint32_t node = array->node;
	int r = stfs_tree_adopt(fs->tree, draft->name, &node, array->skip, &wanted);

	if (r < 0)
		return r;
	stfs_tree_hold(fs->tree);
	stfs_tree_opened(fs->tree, node);
	stfs_tree_release(fs->tree);
	draft->node = node;
	stfs_buf_free(&draft->header);
	draft->header = array->header;
	array->header = (struct stfs_buf)STFS_BUF_INIT;
	draft->taken = true;
	listed = stfs_draft_find(fs, draft->ino);
	if (listed && listed != draft) /* it would be taken over later, though it is older */
		listed->removed = true;
	if (listed)
		stfs_draft_unlist(fs, listed);
	return 0;
}

int stfs_draft_take_npy(struct stfs_fs *fs, struct stfs_draft *draft)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct array array = {.node = STFS_NO_NUMBER};
	uint32_t written;
	int r;

	stfs_draft_begin_busy(fs, draft);
	written = draft->node;
	r = read_array(fs, draft->name, written, &array, &err);
	pthread_mutex_lock(&fs->drafts_lock);
	if (r == 0 && !draft->removed) /* meanwhile */
		r = adopt(fs, draft, &array);
	r = refuse(fs, draft->name, STFS_FORM_NPY, r, &err);
	pthread_mutex_unlock(&fs->drafts_lock);
	if (draft->taken) {
		stfs_fs_changed_npy(fs, draft->node);
		drop_hidden(fs, written);
	}
	if (array.node != STFS_NO_NUMBER && array.node != written)
		drop_hidden(fs, array.node);
	stfs_npy_free(&array.npy);
	stfs_buf_free(&array.header);
	pthread_mutex_lock(&fs->drafts_lock);
	stfs_draft_end_busy(fs, draft);
	return r;
}

int stfs_draft_take(struct stfs_fs *fs, struct stfs_draft *draft)
{
	uint64_t len;
	int r;

	stfs_draft_await_idle(fs, draft);
	if (!draft->changed || draft->removed || draft->taken)
		return 0;
	stfs_tree_hold(fs->tree);
	len = stfs_draft_len(fs, draft);
	stfs_tree_release(fs->tree);
	/* Just opened, or a shell that closes its copy of the descriptor: nothing was meant by it yet. */
	if (len == 0)
		return 0;
	r = draft->form == STFS_FORM_NPY ? stfs_draft_take_npy(fs, draft)
					 : stfs_draft_take_text(fs, draft->name, stfs_buf_str(&draft->text));
	if (r == 0)
		draft->changed = false;
	return r;
}

/* ---- The end of the mount ---- */

/* An array that is none, or not yet: nobody will complete it. 0; -EEXIST when that would cost a tensor; -errno. */
static int keep_bytes(struct stfs_fs *fs, struct stfs_draft *draft)
{
	struct array array = {.npy = {.dtype = STFS_U8}, .node = draft->node};
	uint64_t len;
	bool there;
	int r;

	stfs_tree_hold(fs->tree);
	len = stfs_draft_len(fs, draft);
	there = stfs_tree_named(fs->tree, draft->name) != STFS_NO_NUMBER;
	stfs_tree_release(fs->tree);
	if (there)
		return -EEXIST;
	array.npy.data_len = len;
	array.npy.shape = (struct stfs_shape){.dims = &len, .rank = 1, .elements = len};
	r = adopt(fs, draft, &array);
	if (r == 0)
		drop_hidden(fs, array.node);
	return r;
}

static void take_last(struct stfs_fs *fs, struct stfs_draft *draft)
{
	char file[STFS_NAME_MAX + sizeof(".json")];
	uint64_t len;
	int r;

	stfs_tree_hold(fs->tree);
	len = stfs_draft_len(fs, draft);
	stfs_tree_release(fs->tree);
	r = stfs_draft_take(fs, draft); /* says what is wrong with it */
	if (r == 0 || len == 0)
		return;
	name_file(fs, draft->name, draft->form, file);
	if (draft->form == STFS_FORM_NPY && keep_bytes(fs, draft) == 0)
		stfs_log(STFS_LOG_WARNING, "%s: still being written: what there is of it goes into the model as bytes (U8)",
			 file);
	else
		stfs_log(STFS_LOG_ERROR, "%s: still being written: what was written to it is LOST: %s", file, strerror(-r));
}

void stfs_draft_take_all(struct stfs_fs *fs)
{
	struct stfs_draft *draft, *next;

	/* Private edits end with the mount; of one that is stuck nothing can be taken, but perhaps later. */
	if (stfs_tree_mode(fs->tree) == STFS_TREE_COW || stfs_tree_is_stuck(fs->tree))
		return;
	pthread_mutex_lock(&fs->drafts_lock);
	for (draft = fs->drafts; draft; draft = next) {
		next = draft->next;
		if (draft->changed)
			take_last(fs, draft);
		draft->removed = true; /* whoever has it open, it is over */
	}
	fs->drafts = NULL;
	pthread_mutex_unlock(&fs->drafts_lock);
}
