/* SPDX-License-Identifier: MIT */
/* Edits of a rescue file, staged again. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/arith.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "commit/beside.h"
#include "format/metadata.h"
#include "format/sidecar.h"
#include "store/edit_internal.h"
#include "store/rescue.h"

/* The instructions, while they are read and done. */
struct reader {
	struct stfs_edit *edit;
	struct stfs_model *kept; /* the rescue file */
	struct stfs_err *err;
	struct stfs_json json;
	struct stfs_buf strings; /* names of a list, one behind the other */
	size_t *ends;            /* owned: where each of them ends */
	size_t count, cap;
};

static int add_string(struct reader *reader, struct stfs_json_string raw)
{
	size_t cap = reader->cap ? 2 * reader->cap : 64, *ends;
	int r;

	if (reader->count == reader->cap) {
		ends = reallocarray(reader->ends, cap, sizeof(*ends));
		if (!ends)
			return -ENOMEM;
		reader->ends = ends;
		reader->cap = cap;
	}
	r = stfs_json_unescape(stfs_json_raw(&reader->json, raw), &reader->strings);
	reader->ends[reader->count++] = reader->strings.len;
	return r;
}

static struct stfs_str string_at(const struct reader *reader, size_t i)
{
	size_t begin = i ? reader->ends[i - 1] : 0;

	return stfs_str_slice(reader->strings.data + begin, reader->ends[i] - begin);
}

/* An array of strings. */
static int read_list(void *data)
{
	struct reader *reader = data;
	struct stfs_json_string raw;
	bool first = true;
	int r = stfs_json_enter(&reader->json, '[');

	while (r == 0) {
		r = stfs_json_next(&reader->json, ']', &first);
		if (r <= 0)
			break;
		r = stfs_json_string(&reader->json, &raw);
		if (r == 0)
			r = add_string(reader, raw);
	}
	return r;
}

static int read_type(void *data, struct stfs_json_string raw, struct stfs_str name)
{
	struct reader *reader = data;
	struct stfs_sidecar sidecar = {0};
	size_t start;
	int r;

	stfs_json_peek(&reader->json);
	start = reader->json.pos;
	r = stfs_json_skip(&reader->json, NULL, NULL);
	if (r == 0)
		r = stfs_sidecar_read(stfs_str_slice(reader->json.text + start,
						     reader->json.pos - start), &sidecar, reader->err);
	if (r == 0)
		r = stfs_edit_retype(reader->edit, name, sidecar.dtype, sidecar.shape.dims,
				     sidecar.shape.rank, reader->err);
	stfs_sidecar_free(&sidecar);
	return r;
}

/* {"name":{...sidecar...},...} */
static int read_types(void *data)
{
	struct reader *reader = data;
	STFS_AUTO_BUF struct stfs_buf scratch = STFS_BUF_INIT;

	return stfs_json_members(&reader->json, &scratch, read_type, reader);
}

static int parse(struct reader *reader, struct stfs_str text, int (*read)(void *data))
{
	reader->json = (struct stfs_json){.text = text.ptr, .len = text.len};
	reader->count = 0;
	stfs_buf_clear(&reader->strings);
	return stfs_json_text(&reader->json, read, reader, reader->err);
}

static int remove_all(struct reader *reader, struct stfs_str text)
{
	int r = parse(reader, text, read_list);

	for (size_t i = 0; r == 0 && i < reader->count; i++)
		r = stfs_edit_remove(reader->edit, string_at(reader, i), reader->err);
	return r;
}

static int rename_all(struct reader *reader, struct stfs_str text)
{
	STFS_AUTO_FREE struct stfs_edit_pair *pairs = NULL;
	int r = parse(reader, text, read_list);

	if (r < 0)
		return r;
	pairs = calloc(reader->count / 2 + 1, sizeof(*pairs));
	if (!pairs)
		return -ENOMEM;
	for (size_t i = 0; i < reader->count / 2; i++)
		pairs[i] = (struct stfs_edit_pair){string_at(reader, 2 * i),
						   string_at(reader, 2 * i + 1)};
	return stfs_edit_rename(reader->edit, pairs, reader->count / 2, false, reader->err);
}

static int set_metadata(struct reader *reader, struct stfs_str text)
{
	struct stfs_metadata metadata = {0};
	int r = stfs_metadata_read(text, &metadata, reader->err);

	if (r == 0)
		r = stfs_edit_unset_all(reader->edit, reader->err);
	for (size_t i = 0; r == 0 && i < metadata.count; i++)
		r = stfs_edit_set(reader->edit, metadata.pairs[i].key, metadata.pairs[i].value,
				  reader->err);
	stfs_metadata_free(&metadata);
	return r;
}

/* The instruction under one key of the rescue file's metadata. */
struct instruction {
	const char *key;
	struct stfs_buf text;
};

static int find_instruction(void *data, struct stfs_str key, struct stfs_str value)
{
	struct instruction *wanted = data;

	return stfs_str_is(key, wanted->key) ? stfs_buf_add_str(&wanted->text, value) : 0;
}

static int follow(struct reader *reader, const char *key,
		  int (*act)(struct reader *reader, struct stfs_str text))
{
	struct instruction wanted = {.key = key};
	int r = stfs_model_metadata(reader->kept, find_instruction, &wanted);

	if (r == 0 && wanted.text.len)
		r = act(reader, stfs_buf_str(&wanted.text));
	stfs_buf_free(&wanted.text);
	return r;
}

static int retype_all(struct reader *reader, struct stfs_str text)
{
	return parse(reader, text, read_types);
}

static int put_all(struct reader *reader)
{
	const struct stfs_model *kept = reader->kept;
	struct stfs_tensor_ref ref;
	int r = 0;

	for (uint32_t id = 0; r == 0 && id < stfs_model_ids(kept); id++) {
		STFS_AUTO_FREE uint64_t *dims = NULL;

		if (!stfs_model_tensor(kept, id, &ref) ||
		    stfs_str_starts_with(ref.name, "stfs.padding."))
			continue;
		dims = stfs_model_shape(&ref);
		r = dims ? stfs_edit_put(reader->edit, ref.name, (enum stfs_dtype)ref.tensor->dtype,
					 dims, ref.tensor->rank,
					 (struct stfs_source){ref.shard->fd, ref.offset},
					 reader->err)
			 : -ENOMEM;
	}
	return r;
}

/* ---- Tensors in pieces ---- */

void stfs_edit_free_kept(struct stfs_edit *edit)
{
	for (size_t i = 0; i < edit->kept_count; i++)
		free(edit->kept[i]);
	free(edit->kept);
	edit->kept = NULL;
	edit->kept_count = 0;
}

/* The pieces of one tensor while they are read. */
struct pieces {
	struct reader *reader;
	struct stfs_piece *list; /* owned */
	size_t count, cap;
	uint64_t len;
};

static int say_pieces(const struct reader *reader)
{
	return stfs_err_set(reader->err, -EBADMSG, STFS_NO_POSITION, "stfs.pieces: leads to no bytes of these files");
}

/* What piece F,O,L of a list means (rescue.h). */
static int add_piece(struct pieces *pieces, int64_t file, uint64_t offset, uint64_t len)
{
	const struct reader *reader = pieces->reader;
	const struct stfs_model *model = reader->edit->model;
	const struct stfs_shard *shard = file == 0 ? &reader->kept->shards[0]
					 : file > 0 && file <= model->shard_count ? &model->shards[file - 1] : NULL;
	size_t cap = pieces->cap ? 2 * pieces->cap : 8;
	struct stfs_piece *grown;
	uint64_t end;

	if (file == 0 && stfs_add_overflows(offset, stfs_header_data_start(shard->header), &offset))
		return say_pieces(reader);
	if ((file >= 0 && !shard) || stfs_add_overflows(offset, len, &end) || (shard && end > shard->size) ||
	    stfs_add_overflows(pieces->len, len, &pieces->len))
		return say_pieces(reader);
	if (pieces->count == pieces->cap) {
		grown = reallocarray(pieces->list, cap, sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		pieces->list = grown;
		pieces->cap = cap;
	}
	pieces->list[pieces->count++] = (struct stfs_piece){shard ? shard->fd : -1, offset, len};
	return 0;
}

static int read_piece(struct pieces *pieces)
{
	struct stfs_json *json = &pieces->reader->json;
	struct stfs_json_number numbers[3];
	bool first = true;
	int r = stfs_json_enter(json, '[');

	for (size_t i = 0; r == 0 && i < 3; i++) {
		r = stfs_json_next(json, ']', &first);
		r = r > 0 ? stfs_json_number(json, &numbers[i]) : r < 0 ? r : stfs_json_fail(json, "a piece is 3 numbers");
	}
	if (r == 0)
		r = stfs_json_next(json, ']', &first);
	if (r != 0)
		return r < 0 ? r : stfs_json_fail(json, "a piece is 3 numbers");
	if (numbers[0].kind == STFS_JSON_REAL || numbers[0].value > UINT32_MAX || numbers[1].kind != STFS_JSON_UINT ||
	    numbers[2].kind != STFS_JSON_UINT)
		return say_pieces(pieces->reader);
	return add_piece(pieces, numbers[0].kind == STFS_JSON_NEGATIVE ? -1 : (int64_t)numbers[0].value,
			 numbers[1].value, numbers[2].value);
}

static int read_pieces(void *data, struct stfs_json_string raw, struct stfs_str key)
{
	struct pieces *pieces = data;
	struct stfs_json *json = &pieces->reader->json;
	bool first = true;
	int r;

	if (!stfs_str_is(key, "pieces"))
		return stfs_json_skip(json, NULL, NULL);
	r = stfs_json_enter(json, '[');
	while (r == 0 && (r = stfs_json_next(json, ']', &first)) == 1)
		r = read_piece(pieces);
	return r;
}

/* The list becomes the edit's. */
static int keep_pieces(struct stfs_edit *edit, struct pieces *pieces)
{
	struct stfs_piece **grown = reallocarray(edit->kept, edit->kept_count + 1, sizeof(*grown));

	if (!grown)
		return -ENOMEM;
	edit->kept = grown;
	edit->kept[edit->kept_count++] = pieces->list;
	pieces->list = NULL;
	return 0;
}

static int put_pieces(struct reader *reader, struct stfs_str name, const struct stfs_sidecar *type,
		      struct pieces *pieces)
{
	const struct stfs_source source = {.fd = -1, .pieces = pieces->list, .piece_count = pieces->count};
	struct stfs_edit_tensor made;
	int r = pieces->count ? keep_pieces(reader->edit, pieces) : say_pieces(reader);

	if (r == 0)
		r = stfs_edit_put(reader->edit, name, type->dtype, type->shape.dims, type->shape.rank, source,
				  reader->err);
	if (r == 0)
		r = stfs_edit_find(reader->edit, name, &made);
	return r == 0 && made.len != pieces->len ? say_pieces(reader) : r;
}

/* "name":{"dtype":...,"shape":...,"pieces":...} */
static int read_pieced(void *data, struct stfs_json_string raw, struct stfs_str name)
{
	struct reader *reader = data;
	struct pieces pieces = {.reader = reader};
	STFS_AUTO_BUF struct stfs_buf scratch = STFS_BUF_INIT;
	struct stfs_sidecar type = {0};
	size_t start;
	int r;

	stfs_json_peek(&reader->json);
	start = reader->json.pos;
	r = stfs_json_members(&reader->json, &scratch, read_pieces, &pieces);
	if (r == 0)
		r = stfs_sidecar_read(stfs_str_slice(reader->json.text + start, reader->json.pos - start), &type,
				      reader->err);
	if (r == 0)
		r = put_pieces(reader, name, &type, &pieces);
	stfs_sidecar_free(&type);
	free(pieces.list);
	return r;
}

static int read_all_pieced(void *data)
{
	struct reader *reader = data;
	STFS_AUTO_BUF struct stfs_buf scratch = STFS_BUF_INIT;

	return stfs_json_members(&reader->json, &scratch, read_pieced, reader);
}

static int put_all_pieced(struct reader *reader, struct stfs_str text)
{
	return parse(reader, text, read_all_pieced);
}

/* Bytes of the model are where they were only as long as its headers are what they were. */
static int check_base(struct reader *reader, struct stfs_str text)
{
	char digits[17];

	snprintf(digits, sizeof(digits), "%016" PRIx64, stfs_rescue_print(reader->edit->model));
	if (stfs_str_is(text, digits))
		return 0;
	return stfs_err_set(reader->err, -EUCLEAN, STFS_NO_POSITION, "there was no room for a whole copy of some tensors, "
			    "and the model that has the rest of their bytes is not this one");
}

/* As for a journal (commit/journal.h, C5): it could else bring tensors of a stranger into the model. */
static int believe(const struct stfs_edit *edit, int fd, const char *path, struct stfs_err *err)
{
	struct stat st, model;

	if (fstat(fd, &st) < 0 || fstat(edit->model->shards[0].fd, &model) < 0)
		return -errno;
	if (S_ISREG(st.st_mode) && st.st_nlink == 1 && !(st.st_mode & 022 & ~model.st_mode) &&
	    (st.st_uid == model.st_uid || st.st_uid == 0 || st.st_uid == geteuid()))
		return 0;
	return stfs_err_set(err, -EPERM, STFS_NO_POSITION, "%s: is not believed: it belongs to "
			    "another, has other links, or others may write to it; look where it "
			    "comes from, then remove it", path);
}

static int open_kept(struct stfs_edit *edit, struct stfs_err *err)
{
	STFS_AUTO_FREE char *name = stfs_beside_name(edit->name, STFS_BESIDE_RESCUE), *path = NULL;
	struct stfs_err why = STFS_ERR_INIT;
	struct stat st;
	int r = stfs_beside_exists(edit->folder_fd, edit->name, STFS_BESIDE_RESCUE);

	if (r <= 0)
		return r;
	if (!name || asprintf(&path, "%.*s%s", (int)(strlen(edit->real) - strlen(edit->name)),
			      edit->real, name) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	if (fstatat(edit->folder_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode))
		return stfs_err_set(err, -EPERM, STFS_NO_POSITION, "%s: the rescue file beside the model is a link: "
				    "it is not believed; look where it comes from, then remove it", path);
	r = stfs_model_open(path, STFS_OPEN_WRITE | STFS_OPEN_LOCK, &edit->rescue, &why);
	if (r < 0)
		return stfs_err_set(err, r, STFS_NO_POSITION, "%s: its rescue file cannot be read (%s); look what it "
				    "is, or move it away", edit->path, why.code ? why.message : strerror(-r));
	r = believe(edit, edit->rescue->shards[0].fd, path, err);
	return r < 0 ? r : 1;
}

uint64_t stfs_rescue_print(const struct stfs_model *model)
{
	uint64_t print = 1;

	for (uint32_t i = 0; i < model->shard_count; i++) {
		const struct stfs_header *header = model->shards[i].header;

		print = 31 * print + stfs_commit_hash(stfs_str_slice(header->text, header->text_len));
	}
	return print ? print : 1;
}

/*
 * Where the rescue file notes for which model it is being taken up: 16 digits, at *at of its text. 1 when
 * it has them, of this model; 0 when none is noted; -EUCLEAN when it is another one.
 */
static int find_note(struct stfs_edit *edit, const char *digits, uint64_t *at, struct stfs_err *err)
{
	static const char key[] = "\"stfs.taken\":\"";
	const struct stfs_header *header = edit->rescue->shards[0].header;
	const char *found = memmem(header->text, header->text_len, key, sizeof(key) - 1);

	found = found ? found + sizeof(key) - 1 : NULL;
	if (!found || found + 16 > header->text + header->text_len)
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "%s: its rescue file is none "
				    "of this program", edit->path);
	*at = (uint64_t)(found - header->text);
	if (memcmp(found, digits, 16) == 0)
		return 1;
	if (memcmp(found, STFS_RESCUE_NOT_TAKEN, 16) == 0)
		return 0;
	return stfs_err_set(err, -EUCLEAN, STFS_NO_POSITION, "%s: a crash came while the "
			    "edits of %s were being committed, and the model is another "
			    "one since: see whether they are in it, then remove that file",
			    edit->path, edit->rescue->shards[0].name);
}

static int stage_all(struct reader *reader)
{
	int r = follow(reader, "stfs.base", check_base);

	if (r == 0)
		r = follow(reader, "stfs.remove", remove_all);
	if (r == 0)
		r = follow(reader, "stfs.rename", rename_all);
	if (r == 0)
		r = follow(reader, "stfs.retype", retype_all);
	if (r == 0)
		r = put_all(reader);
	if (r == 0)
		r = follow(reader, "stfs.pieces", put_all_pieced);
	if (r == 0)
		r = follow(reader, "stfs.metadata", set_metadata);
	return r;
}

/* What is wrong, without the model's name before it. */
static const char *behind_path(const struct stfs_edit *edit, const struct stfs_err *why)
{
	size_t len = strlen(edit->path);

	return strncmp(why->message, edit->path, len) == 0 && strncmp(why->message + len, ": ", 2) == 0
		       ? why->message + len + 2 : why->message;
}

int stfs_edit_take_up(struct stfs_edit *edit, struct stfs_err *err)
{
	struct stfs_err why = STFS_ERR_INIT;
	struct reader reader = {.edit = edit, .err = &why};
	const struct stfs_shard *kept;
	char digits[17];
	uint64_t at = 0;
	int r = open_kept(edit, err), noted;

	if (r <= 0)
		return r;
	reader.kept = edit->rescue;
	kept = &edit->rescue->shards[0];
	snprintf(digits, sizeof(digits), "%016" PRIx64, stfs_rescue_print(edit->model));
	noted = find_note(edit, digits, &at, err);
	if (noted < 0)
		return noted;
	r = stage_all(&reader);
	stfs_buf_free(&reader.strings);
	free(reader.ends);
	if (r < 0)
		return stfs_err_set(err, r, STFS_NO_POSITION, "%s: the edits kept in %s cannot be taken up: %s; if the "
				    "model is another one than they were made to, put that back, or move the file "
				    "away to give them up", edit->path, kept->name,
				    why.code ? behind_path(edit, &why) : strerror(-r));
	/*
	 * Durable before the commit: a crash between that and the removal of the file must not have the
	 * edits made twice. But not before they are staged: if they cannot be, they wait for their model.
	 */
	if (!noted)
		r = stfs_io_write(kept->fd, digits, 16, STFS_LENGTH_WORD + at);
	if (r == 0 && !noted)
		r = stfs_io_sync(kept->fd);
	return r < 0 ? r : 1;
}

int stfs_edit_end_rescue(struct stfs_edit *edit, struct stfs_err *err)
{
	STFS_AUTO_FREE char *name = stfs_beside_name(edit->name, STFS_BESIDE_RESCUE);
	int r = name ? stfs_io_unlink(edit->folder_fd, name) : -ENOMEM;

	if (r == 0)
		r = stfs_io_sync_folder(edit->folder_fd);
	stfs_model_close(edit->rescue);
	edit->rescue = NULL;
	return r < 0 ? stfs_err_errno(err, r, "%s: its rescue file could not be removed",
				      edit->path) : 0;
}
