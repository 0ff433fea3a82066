/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "cli/editors.h"
#include "cli/metatext.h"
#include "cli/putting.h"

struct request {
	struct stfs_putting putting;
	const char **metadata; /* owned array of borrowed KEY=VALUE */
	size_t metadata_count;
	const char *from; /* borrowed; NULL: none */
};

enum { OPT_METADATA = STFS_CLI_LONG, OPT_FROM, OPT_OVERWRITE };

static const struct option options[] = {
	{"metadata", required_argument, NULL, OPT_METADATA},
	{"from", required_argument, NULL, OPT_FROM},
	{"overwrite", no_argument, NULL, OPT_OVERWRITE},
	STFS_PUTTING_OPTIONS,
	{0}};

static int take(struct stfs_editing *editing, void *data, int option, char *argument)
{
	struct request *request = data;
	const char **metadata;

	switch (option) {
	case OPT_FROM: request->from = argument; return -1;
	case OPT_OVERWRITE: editing->flags |= STFS_EDIT_OVERWRITE; return -1;
	case OPT_METADATA: break;
	default:
		return stfs_putting_take(editing, &stfs_editor_create, &request->putting, option,
					 argument);
	}
	if (!strchr(argument, '='))
		return stfs_editing_usage(editing, &stfs_editor_create,
					  "--metadata KEY=VALUE or KEY=@FILE, not %s", argument);
	metadata = reallocarray(request->metadata, request->metadata_count + 1, sizeof(*metadata));
	if (!metadata)
		stfs_cli_out_of_memory();
	request->metadata = metadata;
	metadata[request->metadata_count++] = argument;
	return -1;
}

static void release(void *data)
{
	struct request *request = data;

	stfs_shape_free(&request->putting.shape);
	free(request->metadata);
}

static int open_model(struct stfs_editing *editing, void *data, char ***words, int *count)
{
	if (*count == 0)
		return stfs_cli_usage(&stfs_verb_create, "create: name the model to make");
	--*count;
	return stfs_editing_create(editing, *(*words)++);
}

static int put_item(struct stfs_editing *editing, void *data, struct stfs_str name,
		    const struct stfs_folder_item *item)
{
	const struct stfs_putting putting = {
		.form = item->is_npy ? STFS_FORM_NPY : STFS_FORM_RAW,
		.sidecar = item->sidecar,
	};

	return stfs_putting_file(editing, &putting, name, item->path);
}

static int put_folder(struct stfs_editing *editing, const char *path)
{
	return stfs_putting_folder(editing, &(struct stfs_putting_folder){
						    .path = path, .put = put_item});
}

static int stage(struct stfs_editing *editing, void *data, char **words, int count)
{
	const struct request *request = data;
	int code = STFS_EXIT_OK;

	if (request->from)
		code = put_folder(editing, request->from);
	if (code == STFS_EXIT_OK)
		code = stfs_putting_pairs(editing, &stfs_editor_create, &request->putting, words,
					  count);
	for (size_t i = 0; code == STFS_EXIT_OK && i < request->metadata_count; i++)
		code = stfs_metatext_set(editing, request->metadata[i]);
	return code;
}

const struct stfs_editor stfs_editor_create = {
	.verb = &stfs_verb_create,
	.options = options,
	.request_size = sizeof(struct request),
	.take = take,
	.release = release,
	.open = open_model,
	.stage = stage,
};

static int run(int argc, char **argv)
{
	return stfs_editing_run(&stfs_editor_create, argc, argv);
}

const struct stfs_verb stfs_verb_create = {
	.name = "create",
	.synopsis = "[OPTION...] OUT [NAME=FILE...]",
	.summary = "make a new model from files",
	.help =
		"      --from DIR       all tensors of a folder, named and typed as a mounted\n"
		"                       model shows itself: NAME with NAME.json, or NAME.npy, and\n"
		"                       __metadata__.json\n"
		"      --metadata KEY=VALUE  set it; KEY=@FILE takes the value from a file\n"
		"      --overwrite      replace a file that is there\n"
		STFS_PUTTING_HELP
		STFS_EDITING_HELP
		"\n"
		"What files hold is found out as by `stfs put`. The model appears when it is\n"
		"complete; until then a file that it replaces stays as it is.\n"
		"\n"
		"  stfs create tiny.safetensors w=w.npy b=b.npy --metadata format=pt\n"
		"  stfs create ids.safetensors ids=ids.bin --dtype I64 --shape 2,512\n"
		"\n"
		"A mounted model, edited as files somewhere else, and a model again:\n"
		"\n"
		"  cp -r m edited && rm edited/*.bias edited/*.bias.json\n"
		"  stfs create new.safetensors --from edited\n",
	.run = run,
};
