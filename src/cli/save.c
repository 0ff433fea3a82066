/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/cleanup.h"
#include "base/escape.h"
#include "cli/editors.h"
#include "cli/putting.h"
#include "ops/ask.h"
#include "ops/leftovers.h"
#include "ops/mounts.h"
#include "ops/said.h"

/* Files without a type that are named one by one. */
#define NAMED_MAX 20

struct request {
	bool as_bytes;
	struct stfs_mounts mounts;
	const struct stfs_mount *mount; /* of them */
	size_t untyped;                 /* files that cannot be saved for want of a type */
};

enum { OPT_RAW = STFS_CLI_LONG, OPT_OVERWRITE };

static const struct option options[] = {
	{"raw", no_argument, NULL, OPT_RAW},
	{"overwrite", no_argument, NULL, OPT_OVERWRITE},
	{0}};

static int take(struct stfs_editing *editing, void *data, int option, char *argument)
{
	struct request *request = data;

	if (option == OPT_RAW)
		request->as_bytes = true;
	else
		editing->flags |= STFS_EDIT_OVERWRITE;
	return -1;
}

static void release(void *data)
{
	stfs_mounts_free(&((struct request *)data)->mounts);
}

/* ---- Where from, where to ---- */

/* Whether the folder that `path` is to stand in lies on the mount itself. */
static bool is_inside(const char *path, const struct stfs_mount *mount)
{
	STFS_AUTO_FREE char *name = NULL;
	STFS_AUTO_FD int folder_fd = -1;
	char device[32];
	struct stat st;

	if (stfs_resolve_place(path, &folder_fd, &name, NULL) < 0 || fstat(folder_fd, &st) < 0)
		return false; /* who makes the file will say so */
	snprintf(device, sizeof(device), "%u:%u", major(st.st_dev), minor(st.st_dev));
	return strcmp(device, mount->device) == 0;
}

/* Whether a file `path` is the model that the mount shows, as far as can be told. */
static bool is_shown(const char *path, const char *model)
{
	STFS_CLEANUP(stfs_leftovers_free) struct stfs_leftovers found = {0};
	STFS_AUTO_FREE char *real = NULL;

	return model && stfs_ask_realpath(path, &real) == 0 &&
	       stfs_leftovers_look(model, &found) == 0 && strcmp(real, found.model) == 0;
}

/* -1 to go on, else the exit code. */
static int check_target(const struct stfs_mount *mount, struct json_object *said, const char *out)
{
	const char *mode = stfs_said_text(said, "mode");

	if (is_inside(out, mount)) {
		stfs_cli_say("%s: lies in the mount itself, where files are tensors: name one "
			     "outside of %s", out, mount->point);
		return STFS_EXIT_FAILED;
	}
	if (!is_shown(out, stfs_said_text(said, "model")))
		return -1;
	stfs_cli_say("%s: is the very model that %s shows, and locked while that is mounted: save "
		     "to another file, unmount, and rename it over this one%s", out, mount->point,
		     stfs_said_is_writable(said)
			     ? "; or leave the edits to the mount, which commits them in place "
			       "(stfs sync)"
		     : mode && strcmp(mode, "cow") == 0 ? "" : " (nothing was edited here)");
	return STFS_EXIT_FAILED;
}

static int open_files(struct stfs_editing *editing, void *data, char ***words, int *count)
{
	struct request *request = data;
	struct stfs_err err = STFS_ERR_INIT;
	struct json_object *said = NULL, *tolerant;
	const char *out;
	int r, code;

	if (*count != 2)
		return stfs_cli_usage(&stfs_verb_save, "save: name a mount point and the file to "
				      "make");
	out = (*words)[1];
	r = stfs_mounts_read(&request->mounts);
	if (r < 0)
		stfs_err_errno(&err, r, "/proc/self/mountinfo");
	if (r == 0)
		r = stfs_mounts_find_ours(&request->mounts, (*words)[0], &request->mount, &err);
	if (r == 0)
		r = stfs_mount_ask(request->mount, &said, &err);
	if (r < 0) {
		stfs_cli_say("%s", err.message);
		return STFS_EXIT_FAILED;
	}
	code = check_target(request->mount, said, out);
	if (code < 0 && json_object_object_get_ex(said, "tolerant", &tolerant) &&
	    json_object_get_boolean(tolerant))
		stfs_cli_say("%s: the model is damaged (`stfs check` says how); saved is what can be "
			     "read of it", request->mount->point);
	json_object_put(said);
	*count = 0;
	return code < 0 ? stfs_editing_create(editing, out) : code;
}

/* ---- The tensors ---- */

/* Names a file that has no type. */
static void refuse(struct stfs_editing *editing, struct request *request, struct stfs_str name,
		   const char *why)
{
	STFS_AUTO_BUF struct stfs_buf shown = STFS_BUF_INIT;

	if (request->untyped++ >= NAMED_MAX)
		return;
	stfs_escape(name, STFS_ESCAPE_NAME, &shown);
	if (!stfs_buf_cstr(&shown))
		stfs_cli_out_of_memory();
	stfs_editing_fail(editing, "\"%s\" %s", shown.data, why);
}

static int put_bytes(struct stfs_editing *editing, struct stfs_str name, const char *path,
		     uint64_t len)
{
	struct stfs_putting putting = {.form = STFS_FORM_RAW, .has_dtype = true, .dtype = STFS_U8,
				       .has_shape = true, .shape = STFS_SHAPE_INIT};
	int code;

	if (stfs_shape_add(&putting.shape, len) < 0)
		stfs_cli_out_of_memory();
	code = stfs_putting_file(editing, &putting, name, path);
	stfs_shape_free(&putting.shape);
	return code;
}

/* A raw file, of the type in its sidecar if it has one that it fits. */
static int put_raw(struct stfs_editing *editing, struct request *request, struct stfs_str name,
		   const char *path)
{
	struct stfs_sidecar sidecar = {.shape = STFS_SHAPE_INIT};
	struct stfs_err err = STFS_ERR_INIT;
	int r = stfs_typing_beside(path, &sidecar, &err), code = STFS_EXIT_OK;
	struct stat st;
	uint64_t len;

	if (r == -ENOMEM)
		stfs_cli_out_of_memory();
	if (r < 0 && r != -ENOENT)
		return stfs_editing_fail(editing, "%s: %s", path, err.message);
	if (stat(path, &st) < 0) {
		stfs_sidecar_free(&sidecar);
		return stfs_editing_fail(editing, "%s: %s", path, strerror(errno));
	}
	len = (uint64_t)st.st_size;
	if (r == 0 && sidecar.data_len == len) {
		code = stfs_putting_file(editing, &(struct stfs_putting){
						 .form = STFS_FORM_RAW, .has_dtype = true,
						 .dtype = sidecar.dtype, .has_shape = true,
						 .shape = sidecar.shape}, name, path);
	} else if (request->as_bytes) {
		code = put_bytes(editing, name, path, len);
	} else if (r == 0) {
		snprintf(err.message, sizeof(err.message), "has %" PRIu64 " bytes, its type %" PRIu64,
			 len, sidecar.data_len);
		refuse(editing, request, name, err.message);
	} else {
		refuse(editing, request, name, "has no type yet");
	}
	stfs_sidecar_free(&sidecar);
	return code;
}

static int put_item(struct stfs_editing *editing, void *data, struct stfs_str name,
		    const struct stfs_folder_item *item)
{
	if (item->is_npy)
		return stfs_putting_file(editing, &(struct stfs_putting){
						 .form = STFS_FORM_NPY, .sidecar = item->sidecar},
					 name, item->path);
	return put_raw(editing, data, name, item->path);
}

static int stage(struct stfs_editing *editing, void *data, char **words, int count)
{
	struct request *request = data;
	const struct stfs_putting_folder from = {
		.path = request->mount->point, .order = STFS_FOLDER_AS_LISTED,
		.put = put_item, .data = request};
	int code = stfs_putting_folder(editing, &from);

	if (code != STFS_EXIT_OK || !request->untyped)
		return code;
	if (request->untyped > NAMED_MAX)
		stfs_editing_fail(editing, "... and %zu more", request->untyped - NAMED_MAX);
	return stfs_editing_fail(editing, "not saved: write the type of each beside it, as "
				 "{\"dtype\":\"F32\",\"shape\":[2,3]} into NAME.json, or pass "
				 "--raw, which saves them as bytes (U8)");
}

static const struct stfs_editor editor = {
	.verb = &stfs_verb_save,
	.options = options,
	.request_size = sizeof(struct request),
	.take = take,
	.release = release,
	.open = open_files,
	.stage = stage,
};

static int run(int argc, char **argv)
{
	return stfs_editing_run(&editor, argc, argv);
}

const struct stfs_verb stfs_verb_save = {
	.name = "save",
	.synopsis = "[OPTION...] MOUNT OUT",
	.summary = "write what a mount shows now into a new model",
	.help =
		"      --overwrite      replace a file that is there\n"
		"      --raw            save files that have no type yet as bytes, U8 [n]\n"
		STFS_EDITING_HELP
		"\n"
		"All tensors in the order in which the mount lists them, with their types and\n"
		"the metadata, edits that are not yet in its model included. That is how the\n"
		"edits of a mount with `-o cow` are kept; any mount will do, and its model stays\n"
		"as it is. Files that are not tensors (.x, x~ and the like) are left out. A file\n"
		"without a type, or of a size that is not that of its type, is named and nothing\n"
		"is saved. OUT appears when it is complete. It cannot be the mounted model.\n"
		"\n"
		"  stfs mount -o cow model.safetensors m\n"
		"  rm m/lm_head.weight m/lm_head.bias\n"
		"  stfs save m headless.safetensors\n"
		"  stfs umount m                          model.safetensors is as before\n",
	.run = run,
};
