/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/cleanup.h"
#include "cli/cli.h"
#include "format/names.h"
#include "format/npy.h"
#include "format/sidecar.h"
#include "ops/extract.h"
#include "store/checkpoint.h"

struct request {
	bool npy, sidecar, force;
	const char *output; /* "-": stdout */
};

/* What stands before the bytes: nothing, or a NumPy header. 0 or -1 after a message. */
static int make_prefix(const struct request *request, const struct stfs_tensor_ref *ref,
		       const char *path, struct stfs_buf *out)
{
	STFS_AUTO_FREE uint64_t *dims = stfs_model_shape(ref);
	char quoted[STFS_QUOTED_MAX];
	int r;

	if (!dims)
		stfs_cli_out_of_memory();
	if (!request->npy)
		return 0;
	r = stfs_npy_header((enum stfs_dtype)ref->tensor->dtype, dims, ref->tensor->rank, out);
	if (r == -ENOMEM)
		stfs_cli_out_of_memory();
	if (r == -ENOENT)
		stfs_cli_say("%s: tensor \"%s\": %s elements have %u bits, NumPy has no such "
			     "arrays; without --npy the raw bytes can be had", path,
			     stfs_quote(ref->name, quoted), ref->dtype->name, ref->dtype->bits);
	else if (r < 0)
		stfs_cli_say("%s: tensor \"%s\": its shape is too long for a .npy header", path,
			     stfs_quote(ref->name, quoted));
	return r < 0 ? -1 : 0;
}

/* The text of the .json file that the mounted directory shows beside the tensor. */
static void make_sidecar(const struct stfs_tensor_ref *ref, struct stfs_buf *out)
{
	STFS_AUTO_FREE uint64_t *dims = stfs_model_shape(ref);
	struct stfs_str long_name = {NULL, 0};
	char file[STFS_NAME_MAX + 1];
	size_t len = stfs_name_encode(ref->name, file);

	if (stfs_name_is_hashed(stfs_str_slice(file, len)))
		long_name = ref->name;
	if (!dims || stfs_sidecar_write((enum stfs_dtype)ref->tensor->dtype, dims,
					ref->tensor->rank, long_name, out) < 0)
		stfs_cli_out_of_memory();
}

/* A few bytes of a checkpoint that strides of 0, or deflation, make a whole disk of. */
static bool is_outsized(const struct stfs_tensor_ref *ref, const char *path)
{
	char quoted[STFS_QUOTED_MAX];

	if (!ref->shard->torch || !stfs_checkpoint_tensor(ref->shard, ref->tensor)->outsized)
		return false;
	stfs_cli_say("%s: tensor \"%s\" has %" PRIu64 " bytes, more than its whole file: its elements are "
		     "repeated, or deflated; --force writes them all the same", path, stfs_quote(ref->name, quoted), ref->len);
	return true;
}

static int write_out(const struct request *request, const struct stfs_model *model,
		     const struct stfs_tensor_ref *ref, struct stfs_err *err)
{
	struct stfs_sink sink = {.fd = -1, .name = request->output};
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;
	STFS_AUTO_FD int fd = -1;
	bool made;
	int r;

	if (request->sidecar)
		make_sidecar(ref, &text);
	else if (make_prefix(request, ref, model->resolved.path, &text) < 0)
		return STFS_EXIT_FAILED;
	fd = sink.fd = stfs_cli_create(model, request->output,
				       text.len + (request->sidecar ? 0 : ref->len), &made);
	if (fd < 0)
		return STFS_EXIT_FAILED;
	if (strcmp(request->output, "-") == 0)
		sink.name = "standard output";
	r = stfs_sink_write(&sink, text.data, text.len, err);
	if (r == 0 && !request->sidecar)
		r = stfs_extract(model, ref, &sink, err);
	/* Where space is given late (NFS, quotas) close tells that it was not. */
	if (r == 0 && close(stfs_steal_fd(&fd)) < 0)
		r = stfs_err_errno(err, -errno, "%s", sink.name);
	if (r < 0 && made) /* half a tensor looks like a whole one */
		unlink(request->output);
	/* A reader that has had enough is no failure (`stfs cat ... | head -c 64`). */
	if (r < 0 && r != -EPIPE)
		stfs_cli_say("%s", err->message);
	return r == 0 ? STFS_EXIT_OK : r == -EPIPE ? STFS_EXIT_PIPE : STFS_EXIT_FAILED;
}

static int give(const struct request *request, const char *path, const char *name)
{
	STFS_AUTO_MODEL struct stfs_model *model = NULL;
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_tensor_ref ref;
	uint32_t id;

	if (strcmp(request->output, "-") == 0 && !request->sidecar && !request->force &&
	    stfs_cli_is_terminal()) {
		stfs_cli_say("%s: raw bytes are not for a terminal: redirect them, or use --output "
			     "FILE (--force writes them all the same)", path);
		return STFS_EXIT_FAILED;
	}
	model = stfs_cli_open(path);
	if (!model)
		return STFS_EXIT_FAILED;
	id = stfs_cli_find(model, name);
	if (id == STFS_NO_TENSOR || !stfs_model_tensor(model, id, &ref))
		return STFS_EXIT_FAILED;
	if (!request->sidecar && !request->force && is_outsized(&ref, path))
		return STFS_EXIT_FAILED;
	return write_out(request, model, &ref, &err);
}

enum { OPT_NPY = STFS_CLI_LONG, OPT_FORCE };

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		{"npy", no_argument, NULL, OPT_NPY},
		{"output", required_argument, NULL, 'o'},
		{"force", no_argument, NULL, OPT_FORCE},
		{"json", no_argument, NULL, 'j'},
		STFS_CLI_HELP,
		{0}};
	struct request request = {.output = "-"};
	int c;

	while ((c = getopt_long(argc, argv, ":o:jh", options, NULL)) != -1) {
		switch (c) {
		case OPT_NPY: request.npy = true; break;
		case OPT_FORCE: request.force = true; break;
		case 'o': request.output = optarg; break;
		case 'j': request.sidecar = true; break;
		default: return stfs_cli_option(&stfs_verb_cat, c, argv);
		}
	}
	if (argc - optind != 2)
		return stfs_cli_usage(&stfs_verb_cat, "cat: name a model and one of its tensors");
	if (request.npy && request.sidecar)
		return stfs_cli_usage(&stfs_verb_cat, "cat: --npy or --json, not both");
	return give(&request, argv[optind], argv[optind + 1]);
}

const struct stfs_verb stfs_verb_cat = {
	.name = "cat",
	.synopsis = "[OPTION...] MODEL TENSOR",
	.summary = "write a tensor's bytes, raw or as a .npy file",
	.help =
		"  -o, --output FILE   write there and not to standard output\n"
		"      --npy           a NumPy file: a header, then the same bytes. Types that\n"
		"                      NumPy lacks appear as <V2 (BF16) and |V1 (float8);\n"
		"                      sub-byte types have no such form\n"
		"  -j, --json          dtype and shape instead of the bytes, as in the .json\n"
		"                      file beside the tensor in a mounted model\n"
		"      --force         write bytes even to a terminal, and those of a tensor in a\n"
		"                      checkpoint that has more bytes than its file\n"
		"\n"
		"Raw bytes are little-endian and in C order, as they stand in the model. TENSOR\n"
		"is a name to the letter, or as `stfs ls` shows it; put -- before one that begins\n"
		"with a dash.\n"
		"\n"
		"  stfs cat model.safetensors embed.weight > embed.raw\n"
		"  stfs cat --npy -o embed.npy model.safetensors embed.weight\n"
		"  stfs cat model.safetensors embed.weight | sha256sum\n"
		"  stfs cat --json model.safetensors embed.weight\n",
	.run = run,
};
