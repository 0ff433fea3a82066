/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "cli/editing.h"
#include "cli/editors.h"

struct request {
	bool create, replace;
	const char *strip, *add;      /* borrowed prefixes */
	struct stfs_patterns exclude;
	char *target;                 /* owned: the path of the model that is written */
	const char *name;             /* borrowed: what the one tensor is to be called */
};

enum { OPT_CREATE = STFS_CLI_LONG, OPT_OVERWRITE, OPT_REPLACE, OPT_STRIP, OPT_ADD, OPT_EXCLUDE };

static const struct option options[] = {
	{"create", no_argument, NULL, OPT_CREATE},
	{"overwrite", no_argument, NULL, OPT_OVERWRITE},
	{"replace", no_argument, NULL, OPT_REPLACE},
	{"strip-prefix", required_argument, NULL, OPT_STRIP},
	{"add-prefix", required_argument, NULL, OPT_ADD},
	{"exclude", required_argument, NULL, OPT_EXCLUDE},
	{0}};

static int take(struct stfs_editing *editing, void *data, int option, char *argument)
{
	struct request *request = data;

	if (editing->batch && (option == OPT_CREATE || option == OPT_OVERWRITE))
		return stfs_editing_usage(editing, &stfs_editor_cp,
					  "--create and --overwrite have no place in a batch");
	switch (option) {
	case OPT_CREATE: request->create = true; break;
	case OPT_OVERWRITE: editing->flags |= STFS_EDIT_OVERWRITE; break;
	case OPT_REPLACE: request->replace = true; break;
	case OPT_STRIP: request->strip = argument; break;
	case OPT_ADD: request->add = argument; break;
	case OPT_EXCLUDE: stfs_editing_pattern(&request->exclude, argument); break;
	}
	return -1;
}

static void release(void *data)
{
	struct request *request = data;

	stfs_patterns_free(&request->exclude);
	free(request->target);
}

/* The model behind the sources: to be opened, or made. */
static int open_target(struct stfs_editing *editing, void *data, char ***words, int *count)
{
	struct request *request = data;

	if (*count < 2)
		return stfs_cli_usage(&stfs_verb_cp,
				      "cp: name what to copy, and the model to copy it to");
	if (stfs_place_split((*words)[--*count], &request->target, &request->name) < 0)
		stfs_cli_out_of_memory();
	if (request->create)
		return stfs_editing_create(editing, request->target);
	if (editing->flags & STFS_EDIT_OVERWRITE)
		return stfs_cli_usage(&stfs_verb_cp, "cp: --overwrite goes with --create");
	if (access(request->target, F_OK) < 0 && errno == ENOENT) {
		stfs_cli_say("%s: No such file or directory; --create makes a new model of the "
			     "tensors", request->target);
		return STFS_EXIT_FAILED;
	}
	return stfs_editing_open(editing, request->target);
}

/* ---- What to copy ---- */

struct copy {
	struct stfs_tensors source;
	size_t from, to; /* numbers in the two lists of names */
};

struct copies {
	struct copy *items; /* owned */
	size_t count, room;
	struct stfs_names from, to;
};

static void free_copies(struct copies *copies)
{
	free(copies->items);
	stfs_names_free(&copies->from);
	stfs_names_free(&copies->to);
}

/* What a copied tensor is to be called, if not by a name of its own. */
static void make_name(const struct request *request, struct stfs_str name, struct stfs_buf *out)
{
	size_t cut = request->strip && stfs_str_starts_with(name, request->strip)
			     ? strlen(request->strip)
			     : 0;

	stfs_buf_clear(out);
	if (request->name) {
		stfs_buf_puts(out, request->name);
	} else {
		stfs_buf_puts(out, request->add ? request->add : "");
		stfs_buf_add(out, name.ptr + cut, name.len - cut);
	}
}

static void add_copy(struct copies *copies, const struct request *request,
		     struct stfs_tensors source, struct stfs_str name)
{
	STFS_AUTO_BUF struct stfs_buf made = STFS_BUF_INIT;

	if (copies->count == copies->room) {
		copies->room = copies->room ? 2 * copies->room : 64;
		copies->items = reallocarray(copies->items, copies->room, sizeof(*copies->items));
		if (!copies->items)
			stfs_cli_out_of_memory();
	}
	make_name(request, name, &made);
	copies->items[copies->count++] =
		(struct copy){source, copies->from.count, copies->to.count};
	if (stfs_buf_status(&made) < 0 || stfs_names_add(&copies->from, name) < 0 ||
	    stfs_names_add(&copies->to, stfs_buf_str(&made)) < 0)
		stfs_cli_out_of_memory();
}

/* What is wrong with a source, whose name `err` begins with. */
static int refuse_source(struct stfs_editing *editing, const struct stfs_err *err)
{
	if (editing->batch)
		return stfs_editing_fail(editing, "%s", err->message);
	stfs_cli_say("%s", err->message);
	return STFS_EXIT_FAILED;
}

/* Adds what one MODEL:GLOB means. */
static int collect(struct stfs_editing *editing, struct request *request, const char *word,
		   struct copies *copies)
{
	STFS_CLEANUP(stfs_patterns_free) struct stfs_patterns include = {0};
	STFS_CLEANUP(stfs_names_free) struct stfs_names names = {0};
	struct stfs_err err = STFS_ERR_INIT;
	STFS_AUTO_FREE char *path = NULL;
	struct stfs_tensors source = {.edit = editing->edit};
	const char *pattern;
	int r = 0;

	if (stfs_place_split(word, &path, &pattern) < 0)
		stfs_cli_out_of_memory();
	if (*path)
		r = stfs_sources_open(&editing->sources, path, editing->edit, &source, &err);
	if (r < 0)
		return refuse_source(editing, &err);
	if (pattern)
		stfs_editing_pattern(&include, pattern);
	if (stfs_tensors_select(&source, &include, &request->exclude, &names) < 0)
		stfs_cli_out_of_memory();
	if (pattern && !include.hit[0])
		return stfs_editing_none(editing, &source, pattern);
	for (size_t i = 0; i < names.count; i++)
		add_copy(copies, request, source, stfs_names_at(&names, i));
	return STFS_EXIT_OK;
}

/* ---- Whether it can be ---- */

static int compare_names(const void *left, const void *right)
{
	return stfs_str_compare(*(const struct stfs_str *)left, *(const struct stfs_str *)right);
}

/* Two of the copies with one name. */
static int refuse_twins(struct stfs_editing *editing, const struct copies *copies)
{
	struct stfs_str *names = calloc(copies->count + 1, sizeof(*names));
	char quoted[STFS_QUOTED_MAX];
	int code = STFS_EXIT_OK;

	if (!names)
		stfs_cli_out_of_memory();
	for (size_t i = 0; i < copies->count; i++)
		names[i] = stfs_names_at(&copies->to, i);
	qsort(names, copies->count, sizeof(*names), compare_names);
	for (size_t i = 1; code == STFS_EXIT_OK && i < copies->count; i++)
		if (stfs_str_equal(names[i - 1], names[i]))
			code = stfs_editing_fail(editing,
						 "two of the tensors would be called \"%s\"",
						 stfs_quote(names[i], quoted));
	free(names);
	return code;
}

/* Copies with the names of tensors that are there. */
static int refuse_taken(struct stfs_editing *editing, const struct copies *copies)
{
	STFS_AUTO_BUF struct stfs_buf list = STFS_BUF_INIT;
	char quoted[STFS_QUOTED_MAX];
	struct stfs_edit_tensor tensor;
	size_t taken = 0;

	for (size_t i = 0; i < copies->count; i++) {
		struct stfs_str name = stfs_names_at(&copies->to, i);

		if (stfs_editing_find(editing->edit, name, &tensor) && taken++ < STFS_NEAR_MAX)
			stfs_buf_printf(&list, "%s\"%s\"", taken > 1 ? ", " : "",
					stfs_quote(name, quoted));
	}
	if (!taken)
		return STFS_EXIT_OK;
	if (taken > STFS_NEAR_MAX)
		stfs_buf_printf(&list, " and %zu more", taken - STFS_NEAR_MAX);
	if (!stfs_buf_cstr(&list))
		stfs_cli_out_of_memory();
	return stfs_editing_fail(editing,
				 "%s %s there already; --replace puts the copies in their place",
				 list.data, taken == 1 ? "is" : "are");
}

/* ---- Copying ---- */

/* What there is to copy. */
struct original {
	enum stfs_dtype dtype;
	uint64_t *dims; /* owned: those of the model itself do not outlive an edit */
	size_t rank;
	uint64_t len;
	struct stfs_source source;
	const struct stfs_model *model; /* where it is to be put together: then there is no source yet */
	struct stfs_tensor_ref ref;
};

static void find_original(const struct stfs_tensors *tensors, struct stfs_str name,
			  struct original *original)
{
	struct stfs_edit_tensor tensor = {0};
	struct stfs_tensor_ref ref = {0};

	if (!tensors->edit) {
		stfs_model_tensor(tensors->model, stfs_model_find(tensors->model, name), &ref);
		*original = (struct original){
			.dtype = (enum stfs_dtype)ref.tensor->dtype, .dims = stfs_model_shape(&ref),
			.rank = ref.tensor->rank, .len = ref.len,
			.source = {.fd = ref.shard->fd, .offset = ref.offset},
			.model = ref.offset == STFS_NO_OFFSET ? tensors->model : NULL, .ref = ref};
	} else {
		stfs_editing_find(tensors->edit, name, &tensor);
		*original = (struct original){.dtype = tensor.dtype,
					      .dims = calloc(tensor.rank + 1, sizeof(*tensor.dims)),
					      .rank = tensor.rank,
					      .len = tensor.len,
					      .source = {.fd = tensor.fd, .offset = tensor.offset}};
		if (original->dims && tensor.rank)
			memcpy(original->dims, tensor.dims, tensor.rank * sizeof(*tensor.dims));
	}
	if (!original->dims)
		stfs_cli_out_of_memory();
}

static int copy_one(struct stfs_editing *editing, const struct copies *copies,
		    const struct copy *copy, struct stfs_err *err)
{
	struct stfs_str to = stfs_names_at(&copies->to, copy->to);
	struct stfs_edit_tensor there;
	bool replaces = stfs_editing_find(editing->edit, to, &there);
	struct original original;
	int r = 0;

	find_original(&copy->source, stfs_names_at(&copies->from, copy->from), &original);
	if (original.model)
		r = stfs_edit_spool_tensor(editing->edit, original.model, &original.ref, &original.source, err);
	if (r == 0)
		r = stfs_edit_put(editing->edit, to, original.dtype, original.dims, original.rank, original.source,
				  err);
	if (r == 0)
		stfs_editing_did(editing, replaces ? STFS_CHANGE_REPLACE : STFS_CHANGE_ADD, to, to,
				 original.len);
	free(original.dims);
	return r;
}

struct metadata_copy {
	struct stfs_editing *editing;
	struct stfs_err *err;
};

static int copy_pair(void *data, struct stfs_str key, struct stfs_str value)
{
	struct metadata_copy *copy = data;

	return stfs_edit_set(copy->editing->edit, key, value, copy->err);
}

/* A new model keeps what the first of its sources says of itself. */
static int copy_metadata(struct stfs_editing *editing, const struct copies *copies,
			 struct stfs_err *err)
{
	struct metadata_copy copy = {editing, err};

	/* It is not the new model itself, which has no tensors. */
	return stfs_model_metadata(copies->items[0].source.model, copy_pair, &copy);
}

static int stage(struct stfs_editing *editing, void *data, char **words, int count)
{
	STFS_CLEANUP(free_copies) struct copies copies = {0};
	struct stfs_err err = STFS_ERR_INIT;
	struct request *request = data;
	int r = 0, code = STFS_EXIT_OK;

	if (editing->batch && (count < 1 || count > 2))
		return stfs_editing_usage(
			editing, &stfs_editor_cp,
			"in a batch it is cp MODEL:GLOB, or cp MODEL:TENSOR NAME");
	if (editing->batch && count == 2)
		request->name = words[--count];
	for (int i = 0; code == STFS_EXIT_OK && i < count; i++)
		code = collect(editing, request, words[i], &copies);
	if (code != STFS_EXIT_OK)
		return code;
	if (request->name && copies.count != 1)
		return stfs_editing_fail(editing, "%zu tensors cannot all be called \"%s\"",
					 copies.count, request->name);
	code = refuse_twins(editing, &copies);
	if (code == STFS_EXIT_OK && !request->replace)
		code = refuse_taken(editing, &copies);
	if (code != STFS_EXIT_OK)
		return code;
	if (request->create && copies.count)
		r = copy_metadata(editing, &copies, &err);
	for (size_t i = 0; r == 0 && i < copies.count; i++)
		r = copy_one(editing, &copies, &copies.items[i], &err);
	return r < 0 ? stfs_editing_error(editing, r, &err) : STFS_EXIT_OK;
}

const struct stfs_editor stfs_editor_cp = {
	.verb = &stfs_verb_cp,
	.options = options,
	.request_size = sizeof(struct request),
	.take = take,
	.release = release,
	.open = open_target,
	.stage = stage,
	.in_batch = true,
};

static int run(int argc, char **argv)
{
	return stfs_editing_run(&stfs_editor_cp, argc, argv);
}

const struct stfs_verb stfs_verb_cp = {
	.name = "cp",
	.synopsis = "[OPTION...] MODEL:GLOB... MODEL2[:NAME]",
	.summary = "copy tensors into a model, or into a new one",
	.help =
		"      --create         make MODEL2 of the tensors; it keeps the __metadata__ of\n"
		"                       the model they come from\n"
		"      --overwrite      with --create: replace a file that is there\n"
		"      --replace        replace tensors of the same names\n"
		"      --strip-prefix P  take P from the beginning of the copies' names\n"
		"      --add-prefix P   put P before the copies' names\n"
		"      --exclude GLOB   but not what matches this\n"
		STFS_EDITING_HELP
		"\n"
		"A GLOB is a tensor's name to the letter, or as `stfs ls` shows it, or a pattern;\n"
		"without one all tensors are meant. MODEL2:NAME says what a single tensor is to\n"
		"be called. MODEL and MODEL2 may be the same. A source may be read-only, in a\n"
		"cache or truncated; nobody can edit it while it is copied.\n"
		"\n"
		"  stfs cp other.safetensors:lm_head.weight model.safetensors --replace\n"
		"  stfs cp m.safetensors:embed.weight m.safetensors:lm_head.weight\n"
		"\n"
		"The VAE of a diffusion checkpoint as a model of its own, and back:\n"
		"\n"
		"  stfs cp sd.safetensors:'first_stage_model.*' vae.safetensors --create \\\n"
		"      --strip-prefix first_stage_model.\n"
		"  stfs cp vae.safetensors sd.safetensors --replace \\\n"
		"      --add-prefix first_stage_model.\n",
	.run = run,
};
