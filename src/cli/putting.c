/* SPDX-License-Identifier: MIT */
#include "cli/putting.h"

#include <errno.h>

#include "base/cleanup.h"
#include "base/utf8.h"
#include "cli/metatext.h"

static int take_dtype(struct stfs_editing *editing, const struct stfs_editor *editor,
		      struct stfs_putting *putting, const char *argument)
{
	STFS_AUTO_BUF struct stfs_buf all = STFS_BUF_INIT;

	putting->has_dtype = true;
	if (stfs_dtype_parse(stfs_str_from(argument), &putting->dtype) == 0)
		return -1;
	for (int i = 0; i < STFS_DTYPE_COUNT; i++)
		stfs_buf_printf(&all, "%s%s", i ? " " : "",
				stfs_dtype_info((enum stfs_dtype)i)->name);
	if (!stfs_buf_cstr(&all))
		stfs_cli_out_of_memory();
	return stfs_editing_usage(editing, editor, "--dtype %s is none of %s", argument, all.data);
}

int stfs_putting_take(struct stfs_editing *editing, const struct stfs_editor *editor,
		      struct stfs_putting *putting, int option, const char *argument)
{
	struct stfs_err err = STFS_ERR_INIT;
	int r;

	switch (option) {
	case STFS_PUTTING_DTYPE: return take_dtype(editing, editor, putting, argument);
	case STFS_PUTTING_NPY: putting->form = STFS_FORM_NPY; return -1;
	case STFS_PUTTING_RAW: putting->form = STFS_FORM_RAW; return -1;
	}
	stfs_shape_free(&putting->shape);
	putting->shape = (struct stfs_shape)STFS_SHAPE_INIT;
	r = stfs_shape_parse(argument, &putting->shape, &err);
	if (r == -ENOMEM)
		stfs_cli_out_of_memory();
	putting->has_shape = true;
	return r < 0 ? stfs_editing_usage(editing, editor, "--shape: %s", err.message) : -1;
}

int stfs_putting_file(struct stfs_editing *editing, const struct stfs_putting *putting,
		      struct stfs_str name, const char *path)
{
	struct stfs_edit_tensor there;
	bool replaces = stfs_editing_find(editing->edit, name, &there);
	struct stfs_typed typed = {.shape = STFS_SHAPE_INIT};
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_bytes bytes;
	uint64_t len = 0;
	int r = stfs_intake_open(&editing->intake, editing->edit, path, &bytes, &err);

	if (r == 0) {
		const struct stfs_typing typing = {
			.path = path,
			.sidecar = putting->sidecar,
			.form = putting->form,
			.dtype = putting->has_dtype ? &putting->dtype : NULL,
			.shape = putting->has_shape ? &putting->shape : NULL,
			.there = replaces ? &there : NULL,
		};

		r = stfs_typing_find(editing->edit, &typing, &bytes, &typed, &err);
	}
	if (r == 0)
		r = stfs_edit_put(editing->edit, name, typed.dtype, typed.shape.dims,
				  typed.shape.rank, typed.source, &err);
	if (r == 0)
		r = stfs_dtype_bytes(typed.dtype, typed.shape.elements, &len);
	stfs_shape_free(&typed.shape);
	if (r < 0)
		return stfs_editing_error(editing, r, &err);
	stfs_editing_did(editing, replaces ? STFS_CHANGE_REPLACE : STFS_CHANGE_ADD, name, name,
			 len);
	return STFS_EXIT_OK;
}

int stfs_putting_pairs(struct stfs_editing *editing, const struct stfs_editor *editor,
		       const struct stfs_putting *putting, char **words, int count)
{
	int code = STFS_EXIT_OK;
	const char *equals;

	if (count > 1 && putting->has_shape)
		return stfs_editing_usage(editing, editor, "--shape is of one file, here are %d",
					  count);
	for (int i = 0; code == STFS_EXIT_OK && i < count; i++) {
		equals = strchr(words[i], '=');
		if (!equals)
			return stfs_editing_usage(editing, editor, "%s: write NAME=FILE", words[i]);
		code = stfs_putting_file(editing, putting,
					 stfs_str_slice(words[i], (size_t)(equals - words[i])),
					 equals + 1);
	}
	return code;
}

int stfs_putting_folder(struct stfs_editing *editing, const struct stfs_putting_folder *from)
{
	STFS_CLEANUP(stfs_folder_free) struct stfs_folder folder;
	struct stfs_err err = STFS_ERR_INIT;
	int r = stfs_folder_read(from->path, from->order, &folder, &err), code = STFS_EXIT_OK;

	if (r < 0)
		return stfs_editing_error(editing, r, &err);
	if (folder.metadata)
		code = stfs_metatext_load(editing, folder.metadata);
	for (size_t i = 0; code == STFS_EXIT_OK && i < folder.count; i++)
		code = from->put(editing, from->data,
				 stfs_names_at(&folder.names, folder.items[i].name),
				 &folder.items[i]);
	return code;
}
