/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/human.h"
#include "cli/jsonout.h"
#include "cli/progress.h"
#include "ops/export.h"
#include "ops/extract.h"
#include "ops/newfile.h"

/* Tensors that torch cannot have are named one by one up to so many. */
#define NAMED_MAX 20

struct request {
	bool dry_run, json, quiet, overwrite, metadata;
	const char *model, *out;
	size_t refused;
	struct timespec began;
	uint64_t room;
};

/* ---- Messages ---- */

static void say_refused(void *data, const struct stfs_tensor_ref *ref, const char *why)
{
	struct request *request = data;
	char quoted[STFS_QUOTED_MAX];

	if (request->refused++ < NAMED_MAX)
		stfs_cli_say("%s: tensor \"%s\" (%s): %s", request->model, stfs_quote(ref->name, quoted),
			     ref->dtype->name, why);
}

static uint64_t milliseconds(const struct request *request)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)((now.tv_sec - request->began.tv_sec) * 1000 +
			  (now.tv_nsec - request->began.tv_nsec) / 1000000);
}

static void print_json(const struct request *request, const struct stfs_export *export)
{
	struct json_object *object = stfs_jsonout_object();

	stfs_jsonout_add_string(object, "model", request->model);
	stfs_jsonout_add_string(object, "out", request->out);
	stfs_jsonout_add_bool(object, "dry_run", request->dry_run);
	stfs_jsonout_add_number(object, "tensors", export->tensors);
	stfs_jsonout_add_number(object, "tensor_bytes", export->tensor_bytes);
	stfs_jsonout_add_number(object, "metadata", export->with_metadata ? export->metadata : 0);
	stfs_jsonout_add_number(object, "metadata_left_out", export->with_metadata ? 0 : export->metadata);
	stfs_jsonout_add_number(object, "bytes", export->size);
	stfs_jsonout_add_number(object, "room", request->room);
	stfs_jsonout_add_bool(object, "fits", export->size <= request->room);
	stfs_jsonout_add_number(object, "milliseconds", milliseconds(request));
	stfs_jsonout_print(object, true, stdout);
}

/* What was done, or would be. */
static void tell(const struct request *request, const struct stfs_export *export)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;

	if (request->json) {
		print_json(request, export);
		return;
	}
	if (request->quiet)
		return;
	stfs_buf_puts(&text, request->dry_run ? "would write " : "wrote ");
	stfs_human_count(export->tensors, &text);
	stfs_buf_printf(&text, " tensor%s (", export->tensors == 1 ? "" : "s");
	stfs_human_size(export->tensor_bytes, false, &text);
	stfs_buf_puts(&text, ")");
	if (export->with_metadata) {
		stfs_buf_puts(&text, " and ");
		stfs_human_count(export->metadata, &text);
		stfs_buf_printf(&text, " metadata key%s", export->metadata == 1 ? "" : "s");
	}
	if (request->dry_run) {
		stfs_buf_puts(&text, "\nneeds ");
		stfs_human_size(export->size, false, &text);
		stfs_buf_puts(&text, " of disk, ");
		stfs_human_size(request->room, false, &text);
		stfs_buf_puts(&text, " are free\n");
	} else {
		stfs_buf_printf(&text, ", in %" PRIu64 " ms\n", milliseconds(request));
	}
	if (!stfs_buf_cstr(&text))
		stfs_cli_out_of_memory();
	fputs(text.data, stdout);
}

static void say_left_out(const struct request *request, const struct stfs_export *export)
{
	if (request->quiet || export->with_metadata || !export->metadata)
		return;
	stfs_cli_say("%s: %" PRIu64 " metadata key%s left out, which a state_dict has no place for; --metadata adds "
		     "them as a dict \"%s\"", request->model, export->metadata, export->metadata == 1 ? " is" : "s are",
		     STFS_EXPORT_METADATA);
}

static int fail(int r, const struct stfs_err *err)
{
	if (r == -ENOMEM)
		stfs_cli_out_of_memory();
	stfs_cli_say("%s", err->message);
	return STFS_EXIT_FAILED;
}

/* ---- Signals ---- */

/*
 * Those that would end us wait while the file is being made, and are looked for between pieces: what they find is
 * then removed, where it has a name, and they end us behind that.
 */
struct signals {
	sigset_t waiting, before;
};

static void hold_signals(struct signals *signals)
{
	static const int ending[] = {SIGINT, SIGTERM, SIGHUP};
	struct sigaction action;

	sigemptyset(&signals->waiting);
	for (size_t i = 0; i < sizeof(ending) / sizeof(ending[0]); i++)
		if (sigaction(ending[i], NULL, &action) == 0 && action.sa_handler != SIG_IGN)
			sigaddset(&signals->waiting, ending[i]);
	sigprocmask(SIG_BLOCK, &signals->waiting, &signals->before);
}

static void release_signals(struct signals *signals)
{
	sigprocmask(SIG_SETMASK, &signals->before, NULL);
}

static bool was_signalled(void *data)
{
	const struct signals *signals = data;
	sigset_t pending;

	return sigpending(&pending) == 0 && sigandset(&pending, &pending, &signals->waiting) == 0 &&
	       !sigisemptyset(&pending);
}

/* ---- Doing it ---- */

static int write_file(const struct request *request, const struct stfs_export *export, struct stfs_newfile *file,
		      struct signals *signals)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_cli_progress shown;
	struct stfs_export_sink sink = {
		.path = request->out,
		.progress = stfs_cli_progress_begin(&shown, !request->quiet),
		.cancelled = was_signalled,
		.data = signals,
	};
	int r = stfs_newfile_make(file, export->size, &err);

	sink.fd = file->fd;
	if (r == 0)
		r = stfs_export_write(export, &sink, &err);
	if (r == 0)
		r = stfs_newfile_place(file, &err);
	stfs_cli_progress_end(&shown);
	return r < 0 ? fail(r, &err) : STFS_EXIT_OK;
}

static int plan(const struct request *request, const struct stfs_export *export)
{
	tell(request, export);
	say_left_out(request, export);
	if (export->size <= request->room)
		return STFS_EXIT_OK;
	stfs_cli_say("%s: needs %" PRIu64 " bytes, the disk has room for %" PRIu64, request->out, export->size,
		     request->room);
	return STFS_EXIT_FAILED;
}

static int write_out(const struct request *request, const struct stfs_export *export, struct stfs_newfile *file)
{
	struct signals signals;
	int code;

	hold_signals(&signals);
	code = write_file(request, export, file, &signals);
	if (code == STFS_EXIT_OK) {
		tell(request, export);
		say_left_out(request, export);
		fflush(stdout);
	}
	stfs_newfile_free(file); /* before a signal ends us */
	release_signals(&signals);
	return code;
}

static int export_model(struct request *request, const struct stfs_model *model, struct stfs_newfile *file,
			struct stfs_export *export)
{
	struct stfs_err err = STFS_ERR_INIT;
	int r = stfs_newfile_look(file, request->out, request->overwrite, &err);

	if (r == 0 && file->old_fd >= 0 && stfs_extract_is_source(model, file->old_fd)) {
		stfs_cli_say("%s: is the model itself", request->out);
		return STFS_EXIT_FAILED;
	}
	if (r == 0)
		r = stfs_newfile_room(file, &request->room, &err);
	if (r == 0)
		r = stfs_export_make(export, model, &(struct stfs_export_how){
					     .file_name = file->name, .metadata = request->metadata,
					     .refused = say_refused, .data = request}, &err);
	if (r == -ENOTSUP && request->refused > NAMED_MAX)
		stfs_cli_say("%s: ... and %zu more", request->model, request->refused - NAMED_MAX);
	if (r < 0)
		return fail(r, &err);
	return request->dry_run ? plan(request, export) : write_out(request, export, file);
}

static int open_and_export(struct request *request)
{
	STFS_CLEANUP(stfs_newfile_free) struct stfs_newfile file = STFS_NEWFILE_INIT;
	STFS_CLEANUP(stfs_export_free) struct stfs_export export = {0};
	STFS_AUTO_MODEL struct stfs_model *model = NULL;
	struct stfs_err err = STFS_ERR_INIT;
	/* Not tolerantly: of a model that lacks tensors the checkpoint would look like a whole one. */
	int r = stfs_model_open(request->model, 0, &model, &err);

	if (r == -ENOMEM)
		stfs_cli_out_of_memory();
	if (r < 0) {
		stfs_cli_say("%s%s", err.message, r == -EBADMSG ? "; `stfs check` lists all that is wrong" : "");
		return STFS_EXIT_FAILED;
	}
	return export_model(request, model, &file, &export);
}

enum { OPT_METADATA = STFS_CLI_LONG, OPT_OVERWRITE };

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		{"metadata", no_argument, NULL, OPT_METADATA},
		{"overwrite", no_argument, NULL, OPT_OVERWRITE},
		{"dry-run", no_argument, NULL, 'n'},
		{"json", no_argument, NULL, 'j'},
		{"quiet", no_argument, NULL, 'q'},
		STFS_CLI_HELP,
		{0}};
	struct request request = {0};
	int c;

	clock_gettime(CLOCK_MONOTONIC, &request.began);
	while ((c = getopt_long(argc, argv, ":njqh", options, NULL)) != -1) {
		switch (c) {
		case OPT_METADATA: request.metadata = true; break;
		case OPT_OVERWRITE: request.overwrite = true; break;
		case 'n': request.dry_run = true; break;
		case 'j': request.json = true; break;
		case 'q': request.quiet = true; break;
		default: return stfs_cli_option(&stfs_verb_export_pytorch, c, argv);
		}
	}
	if (argc - optind != 2)
		return stfs_cli_usage(&stfs_verb_export_pytorch, "export-pytorch: name a model and the file to make");
	request.model = argv[optind];
	request.out = argv[optind + 1];
	return open_and_export(&request);
}

const struct stfs_verb stfs_verb_export_pytorch = {
	.name = "export-pytorch",
	.synopsis = "[OPTION...] MODEL OUT",
	.summary = "write a model as a PyTorch checkpoint (.pt)",
	.help =
		"      --metadata       add the model's metadata, as a dict of texts under the\n"
		"                       key __metadata__; without it they are left out\n"
		"      --overwrite      replace a file that is there\n"
		"  -n, --dry-run        say what would be written, and what room that needs\n"
		"  -j, --json           say it as JSON\n"
		"  -q, --quiet          say nothing but errors\n"
		"\n"
		"OUT is an OrderedDict of the tensors, flat, with the names they have in the\n"
		"model: a state_dict, as torch.save() writes it. torch.load() takes it with\n"
		"weights_only=True, and mmap=True. OUT appears when it is complete. It cannot be\n"
		"the model. A model with tensors of F6_E2M3 or F6_E3M2, which torch does not\n"
		"have, is refused.\n"
		"\n"
		"With --metadata the dict is no state_dict for load_state_dict() before\n"
		"`del state[\"__metadata__\"]`.\n"
		"\n"
		"  stfs export-pytorch model.safetensors model.pt\n"
		"  stfs export-pytorch --dry-run model.safetensors.index.json whole.pt\n",
	.run = run,
};
