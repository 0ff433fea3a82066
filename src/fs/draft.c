/* SPDX-License-Identifier: MIT */
#include "fs/draft.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "format/metadata.h"
#include "format/names.h"
#include "format/npy.h"
#include "format/sidecar.h"
#include "fs/fortran.h"
#include "fs/handle.h"

struct stfs_draft *stfs_draft_find(const struct stfs_fs *fs, fuse_ino_t ino)
{
	struct stfs_draft *draft = fs->drafts;

	while (draft && draft->ino != ino)
		draft = draft->next;
	return draft;
}

uint64_t stfs_draft_len(struct stfs_fs *fs, const struct stfs_draft *draft)
{
	struct stfs_node_view view;

	if (draft->form != STFS_FORM_NPY)
		return draft->text.len;
	return stfs_tree_node(fs->tree, draft->node, &view) ? draft->header.len + view.len : 0;
}

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

static void drop_hidden(struct stfs_fs *fs, uint32_t hidden)
{
	stfs_tree_end_writing(fs->tree, hidden);
	stfs_tree_closed(fs->tree, hidden);
}

/* The hidden file has become the tensor's, or has given its bytes to it: that one is open now. */
static void hand_over(struct stfs_fs *fs, uint32_t hidden, uint32_t node)
{
	if (node == hidden) {
		stfs_tree_end_writing(fs->tree, hidden);
		return;
	}
	stfs_tree_hold(fs->tree);
	stfs_tree_opened(fs->tree, node);
	stfs_tree_release(fs->tree);
	drop_hidden(fs, hidden);
}

/*
 * The bytes of the hidden file *node become the tensor's, from `skip` on; or those of a new one, in C order. Only when
 * they have, the file that was written is let go: what fails may be tried again.
 */
static int adopt(struct stfs_fs *fs, uint32_t name, const struct stfs_npy *npy, uint32_t *node, struct stfs_err *err)
{
	const struct stfs_wanted_type wanted = {npy->dtype, npy->shape.dims, npy->shape.rank, npy->data_len};
	uint32_t written = *node, hidden = written;
	int r = npy->fortran_order ? stfs_fortran_to_c(fs, npy, written, &hidden, err) : 0;

	if (r < 0)
		return r;
	*node = hidden;
	r = stfs_tree_adopt(fs->tree, name, node, npy->fortran_order ? 0 : npy->header_len, &wanted);
	if (r == 0)
		hand_over(fs, hidden, *node);
	else
		*node = written;
	if (hidden != written)
		drop_hidden(fs, r == 0 ? written : hidden);
	return r;
}

int stfs_draft_take_npy(struct stfs_fs *fs, uint32_t name, uint32_t *node, struct stfs_buf *header)
{
	struct stfs_err err = STFS_ERR_INIT;
	enum stfs_dtype declared;
	struct stfs_npy npy = {0};
	bool has = declared_type(fs, name, &declared);
	int r = read_header(fs, *node, has ? &declared : NULL, header, &npy, &err);

	if (r < 0)
		return refuse(fs, name, STFS_FORM_NPY, r, &err);
	r = check_len(fs, *node, &npy, &err);
	if (r == 0 && npy.fortran_order) { /* what stands there from now on is an array in C order */
		stfs_buf_clear(header);
		r = stfs_npy_header(npy.dtype, npy.shape.dims, npy.shape.rank, header);
	}
	if (r == 0)
		r = adopt(fs, name, &npy, node, &err);
	if (r == 0)
		stfs_fs_changed_npy(fs, name, *node);
	stfs_npy_free(&npy);
	return refuse(fs, name, STFS_FORM_NPY, r, &err);
}

/* Nobody finds it any more; who has it open goes on with it. */
static void unlist(struct stfs_fs *fs, const struct stfs_draft *draft)
{
	struct stfs_draft **at = &fs->drafts;

	while (*at && *at != draft)
		at = &(*at)->next;
	if (*at)
		*at = draft->next;
}

static int take_npy(struct stfs_fs *fs, struct stfs_draft *draft)
{
	int r = stfs_draft_take_npy(fs, draft->name, &draft->node, &draft->header);

	if (r < 0) {
		stfs_buf_clear(&draft->header);
		return r;
	}
	draft->taken = true;
	unlist(fs, draft);
	return 0;
}

int stfs_draft_take(struct stfs_fs *fs, struct stfs_draft *draft)
{
	uint64_t len;
	int r;

	if (!draft->changed || draft->removed || draft->taken)
		return 0;
	stfs_tree_hold(fs->tree);
	len = stfs_draft_len(fs, draft);
	stfs_tree_release(fs->tree);
	/* Just opened, or a shell that closes its copy of the descriptor: nothing was meant by it yet. */
	if (len == 0)
		return 0;
	r = draft->form == STFS_FORM_NPY ? take_npy(fs, draft)
					 : stfs_draft_take_text(fs, draft->name, stfs_buf_str(&draft->text));
	if (r == 0)
		draft->changed = false;
	return r;
}

/* ---- Opening and closing ---- */

/* What the file says before anything is written to it. */
static int fill(struct stfs_fs *fs, struct stfs_draft *draft)
{
	struct stfs_typing_view typing;
	struct timespec mtime;
	struct stfs_str text;
	int r = 0;

	stfs_buf_clear(&draft->text);
	stfs_tree_hold(fs->tree);
	if (draft->name == STFS_NO_NUMBER) {
		if (stfs_tree_metadata(fs->tree, &text, &mtime))
			r = stfs_buf_add_str(&draft->text, text);
	} else if (stfs_tree_typing(fs->tree, draft->name, &typing) && typing.fit != STFS_FIT_NONE) {
		r = stfs_fs_sidecar(&typing, &draft->text);
	}
	stfs_tree_release(fs->tree);
	return r;
}

static int make(struct stfs_fs *fs, fuse_ino_t ino, bool fresh, struct stfs_draft **out)
{
	struct stfs_draft *draft = calloc(1, sizeof(*draft));
	int r = 0;

	if (!draft)
		return -ENOMEM;
	draft->ino = ino;
	draft->name = draft->node = STFS_NO_NUMBER;
	draft->form = STFS_FORM_SIDECAR;
	clock_gettime(CLOCK_REALTIME, &draft->mtime);
	if (ino != STFS_INO_METADATA && !stfs_fs_split(ino, &draft->name, &draft->form))
		r = -ESTALE;
	if (r == 0 && draft->form == STFS_FORM_NPY)
		r = stfs_tree_create_hidden(fs->tree, &draft->node);
	else if (r == 0 && !fresh)
		r = fill(fs, draft);
	if (r < 0) {
		stfs_buf_free(&draft->text);
		free(draft);
		return r;
	}
	draft->next = fs->drafts;
	fs->drafts = draft;
	*out = draft;
	return 0;
}

/* Whether a file is read and written as a draft: its text means nothing before it is complete. */
static bool wants_draft(fuse_ino_t ino, const struct stfs_draft *draft, int flags)
{
	bool writes = (flags & O_ACCMODE) != O_RDONLY;
	enum stfs_form form;
	uint32_t number;

	if (draft && draft->changed)
		return true;
	if (ino == STFS_INO_METADATA)
		return writes;
	if (!stfs_fs_split(ino, &number, &form) || form == STFS_FORM_RAW)
		return false;
	return writes && (form == STFS_FORM_SIDECAR || flags & O_TRUNC);
}

static int find_or_make(struct stfs_fs *fs, fuse_ino_t ino, bool fresh, struct stfs_draft **draft)
{
	if (!*draft)
		return make(fs, ino, fresh, draft);
	if (fresh)
		return stfs_draft_resize(fs, *draft, 0);
	if (!(*draft)->changed && (*draft)->form != STFS_FORM_NPY)
		return fill(fs, *draft); /* the tensor may have got another type since */
	return 0;
}

int stfs_draft_open(struct stfs_fs *fs, fuse_ino_t ino, int flags, struct stfs_draft **out)
{
	struct stfs_draft *draft;
	int r = 0;

	*out = NULL;
	/* Decided and opened at once: a .npy may be taken over at any time, and is the tensor then. */
	pthread_mutex_lock(&fs->drafts_lock);
	draft = stfs_draft_find(fs, ino);
	if (wants_draft(ino, draft, flags)) {
		/* Who would only hear of it at close(2) may not listen. */
		r = (flags & O_ACCMODE) != O_RDONLY && stfs_tree_in_place_only(fs->tree) ? -EACCES : 0;
		if (r == 0)
			r = find_or_make(fs, ino, flags & O_TRUNC, &draft);
		if (r == 0) {
			draft->users++;
			draft->changed |= (flags & O_TRUNC) != 0;
			*out = draft;
		}
	}
	pthread_mutex_unlock(&fs->drafts_lock);
	return r;
}

bool stfs_draft_remove(struct stfs_fs *fs, fuse_ino_t ino)
{
	struct stfs_draft *draft = stfs_draft_find(fs, ino);
	enum stfs_form form;
	uint32_t name;

	if (draft) {
		draft->removed = true;
		unlist(fs, draft);
	}
	if (ino == STFS_INO_METADATA)
		stfs_draft_accept(fs, STFS_NO_NUMBER, STFS_FORM_SIDECAR);
	else if (stfs_fs_split(ino, &name, &form))
		stfs_draft_accept(fs, name, form);
	return draft != NULL;
}

void stfs_draft_close(struct stfs_fs *fs, struct stfs_draft *draft)
{
	bool empty;

	if (--draft->users)
		return;
	stfs_tree_hold(fs->tree);
	empty = stfs_draft_len(fs, draft) == 0;
	stfs_tree_release(fs->tree);
	if (empty && draft->changed && !draft->removed)
		stfs_draft_refuse(fs, draft->name, draft->form, "nothing was written to it");
	else
		(void)stfs_draft_take(fs, draft); /* noted for .stfs */
	unlist(fs, draft);
	if (draft->form == STFS_FORM_NPY) {
		if (!draft->taken)
			stfs_tree_end_writing(fs->tree, draft->node);
		stfs_tree_closed(fs->tree, draft->node);
	}
	stfs_buf_free(&draft->text);
	stfs_buf_free(&draft->header);
	free(draft);
}

/* ---- Reading and writing ---- */

static int resize_text(struct stfs_draft *draft, uint64_t len)
{
	uint64_t most = draft->name == STFS_NO_NUMBER ? STFS_METADATA_MAX : STFS_SIDECAR_MAX;

	if (len > most)
		return -EFBIG;
	if (len > draft->text.len)
		return stfs_buf_fill(&draft->text, '\0', len - draft->text.len);
	draft->text.len = len;
	return 0;
}

int stfs_draft_resize(struct stfs_fs *fs, struct stfs_draft *draft, uint64_t len)
{
	int r;

	if (draft->form != STFS_FORM_NPY)
		r = resize_text(draft, len);
	else if (!draft->taken)
		r = stfs_tree_resize(fs->tree, draft->node, len, false);
	else if (len >= draft->header.len)
		r = stfs_tree_resize(fs->tree, draft->node, len - draft->header.len, false);
	else
		r = -EINVAL; /* it cannot become a beginning again */
	if (r == 0) {
		draft->changed = true;
		clock_gettime(CLOCK_REALTIME, &draft->mtime);
	}
	return r;
}

int stfs_draft_write(struct stfs_fs *fs, struct stfs_draft *draft, const void *bytes, size_t len, uint64_t offset)
{
	int r = 0;

	if (draft->form == STFS_FORM_NPY) {
		r = draft->taken ? stfs_fs_write_npy(fs, draft->node, stfs_buf_str(&draft->header), bytes, len, offset)
				 : stfs_tree_write(fs->tree, draft->node, bytes, len, offset);
	} else {
		if (offset + len > draft->text.len)
			r = resize_text(draft, offset + len);
		if (r == 0 && len)
			memcpy(draft->text.data + offset, bytes, len);
	}
	if (r == 0) {
		draft->changed = true;
		clock_gettime(CLOCK_REALTIME, &draft->mtime);
	}
	return r;
}

ssize_t stfs_draft_read(struct stfs_fs *fs, struct stfs_draft *draft, void *buffer, size_t len, uint64_t offset)
{
	struct stfs_str head = stfs_buf_str(draft->form == STFS_FORM_NPY ? &draft->header : &draft->text);
	size_t from_head = offset < head.len ? stfs_min_u64(head.len - offset, len) : 0;
	ssize_t got = 0;

	if (from_head)
		memcpy(buffer, head.ptr + offset, from_head);
	if (draft->form != STFS_FORM_NPY || from_head == len)
		return (ssize_t)from_head;
	stfs_tree_hold(fs->tree);
	got = stfs_tree_pread(fs->tree, draft->node, (char *)buffer + from_head, len - from_head,
			      offset + from_head - head.len);
	stfs_tree_release(fs->tree);
	return got < 0 ? got : (ssize_t)from_head + got;
}
