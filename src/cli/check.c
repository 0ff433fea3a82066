/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/escape.h"
#include "cli/cli.h"
#include "cli/globals.h"
#include "cli/human.h"
#include "cli/jsonout.h"
#include "cli/progress.h"
#include "ops/check.h"

/* Of a rule, to people. */
#define NOTES_TOLD 3

/* ---- For programs ---- */

static struct json_object *finding_json(const struct stfs_finding *finding)
{
	const struct stfs_rule_info *rule = stfs_rule_info(finding->rule);
	struct json_object *object = stfs_jsonout_object();

	stfs_jsonout_add_string(object, "rule", rule->name);
	stfs_jsonout_add_string(object, "level", stfs_level_name(rule->level));
	if (finding->tensor)
		stfs_jsonout_add_text(object, "tensor",
				      stfs_str_slice(finding->tensor, finding->tensor_len));
	if (finding->position != STFS_NO_POSITION)
		stfs_jsonout_add_number(object, "position", finding->position);
	stfs_jsonout_add_string(object, "message", finding->message);
	return object;
}

static void add_findings(struct json_object *object, const struct stfs_findings *findings)
{
	struct json_object *list = stfs_jsonout_array(), *counts = stfs_jsonout_object();

	for (size_t i = 0; i < findings->count; i++)
		stfs_jsonout_append(list, finding_json(&findings->items[i]));
	for (int i = 0; i < STFS_RULE_COUNT; i++)
		if (findings->counts[i])
			stfs_jsonout_add_number(counts, stfs_rule_info((enum stfs_rule)i)->name,
						findings->counts[i]);
	stfs_jsonout_add(object, "deviations", list);
	stfs_jsonout_add(object, "counts", counts);
}

/* The official loader reads no checkpoints, and so says nothing of them. */
static void add_official(struct json_object *object, bool official, bool is_checkpoint)
{
	if (is_checkpoint)
		stfs_jsonout_add(object, "official", NULL);
	else
		stfs_jsonout_add_string(object, "official", official ? "ok" : "error");
}

static struct json_object *file_json(const struct stfs_check_file *file)
{
	struct json_object *object = stfs_jsonout_object();

	stfs_jsonout_add_string(object, "file", file->shard->name);
	stfs_jsonout_add_number(object, "size", file->shard->size);
	stfs_jsonout_add_number(object, "header_bytes", file->header_bytes);
	add_official(object, file->official, file->shard->torch);
	stfs_jsonout_add_string(object, "verdict", stfs_verdict_name(file->verdict));
	stfs_jsonout_add_bool(object, "tolerant", file->tolerant);
	stfs_jsonout_add_number(object, "tensors", file->tensors);
	stfs_jsonout_add_number(object, "intact", file->intact);
	if (file->status < 0)
		stfs_jsonout_add_string(object, "error", strerror(-file->status));
	add_findings(object, file->findings);
	if (file->shard->torch || file->suspects.count)
		stfs_globals_json(file->shard->torch, &file->suspects, object);
	return object;
}

/* The one deviation of an index that says nonsense: the store tells it as an error. */
static void add_unread(struct json_object *object, const struct stfs_err *unread)
{
	struct stfs_findings findings = STFS_FINDINGS_INIT;

	stfs_jsonout_add_string(object, "error", unread->message);
	if (unread->code == -EBADMSG &&
	    stfs_findings_add(&findings, STFS_RULE_INDEX, unread->position,
			      (struct stfs_str){NULL, 0}, "%s", unread->message) < 0)
		stfs_cli_out_of_memory();
	add_findings(object, &findings);
	stfs_findings_free(&findings);
}

static void print_json(const char *path, const struct stfs_model *model,
		       const struct stfs_check *check)
{
	struct json_object *object = stfs_jsonout_object(), *files = stfs_jsonout_array();

	stfs_jsonout_add_string(object, "model", path);
	add_official(object, check->official, stfs_model_has_checkpoint(model));
	stfs_jsonout_add_string(object, "verdict", stfs_verdict_name(check->verdict));
	stfs_jsonout_add_bool(object, "tolerant", check->tolerant);
	stfs_jsonout_add_number(object, "tensors", check->tensors);
	stfs_jsonout_add_number(object, "intact", check->intact);
	for (uint32_t i = 0; i < check->file_count; i++)
		stfs_jsonout_append(files, file_json(&check->files[i]));
	stfs_jsonout_add(object, "files", files);
	if (model->unread.code < 0)
		add_unread(object, &model->unread);
	else
		add_findings(object, &model->findings);
	stfs_jsonout_print(object, true, stdout);
}

/* The store failed, which says nothing of the model; several make an array without gaps. */
static void print_unopened(const char *path, const struct stfs_err *err)
{
	struct json_object *object = stfs_jsonout_object();

	stfs_jsonout_add_string(object, "model", path);
	stfs_jsonout_add_string(object, "verdict", stfs_verdict_name(STFS_VERDICT_UNREADABLE));
	stfs_jsonout_add_string(object, "error", err->message);
	stfs_jsonout_print(object, true, stdout);
}

/* ---- For people ---- */

static void print_line(const char *indent, const char *line)
{
	STFS_AUTO_BUF struct stfs_buf text = STFS_BUF_INIT;

	stfs_escape(stfs_str_from(line), STFS_ESCAPE_LINE, &text);
	if (!stfs_buf_cstr(&text))
		stfs_cli_out_of_memory();
	printf("%s%s\n", indent, text.data);
}

static void tell_finding(const struct stfs_finding *finding)
{
	const struct stfs_rule_info *rule = stfs_rule_info(finding->rule);

	printf("  %s %s", stfs_level_name(rule->level), rule->name);
	if (finding->position != STFS_NO_POSITION)
		printf(", byte %" PRIu64, finding->position);
	print_line(": ", finding->message);
}

/* What is worse comes first. Of a note a few examples are enough. */
static void tell_findings(const struct stfs_findings *findings)
{
	size_t told[STFS_RULE_COUNT] = {0};

	for (int level = STFS_LEVEL_ERROR; level >= STFS_LEVEL_NOTE; level--) {
		for (size_t i = 0; i < findings->count; i++) {
			const struct stfs_finding *finding = &findings->items[i];

			if ((int)stfs_rule_info(finding->rule)->level != level ||
			    (level == STFS_LEVEL_NOTE && told[finding->rule] == NOTES_TOLD))
				continue;
			told[finding->rule]++;
			tell_finding(finding);
		}
		for (int i = 0; i < STFS_RULE_COUNT; i++) {
			const struct stfs_rule_info *rule = stfs_rule_info((enum stfs_rule)i);

			if ((int)rule->level == level && findings->counts[i] > told[i])
				printf("  and %zu more of %s\n", findings->counts[i] - told[i],
				       rule->name);
		}
	}
}

static void tell_lookalike(const struct stfs_check_file *file)
{
	const char *like = NULL;

	if (file->verdict == STFS_VERDICT_REFUSED && !file->shard->header)
		like = stfs_check_lookalike(file->shard);
	if (like)
		printf("  It looks like %s.\n", like);
}

static void tell_file(const struct stfs_check_file *file)
{
	STFS_AUTO_BUF struct stfs_buf line = STFS_BUF_INIT;
	const char *text;

	stfs_buf_printf(&line, "%s: %s (", file->shard->name, stfs_verdict_name(file->verdict));
	if (file->status < 0) {
		stfs_buf_puts(&line, strerror(-file->status));
	} else {
		stfs_human_size(file->shard->size, false, &line);
		stfs_buf_printf(&line, ", %" PRIu32 " tensor%s", file->tensors,
				file->tensors == 1 ? "" : "s");
	}
	stfs_buf_putc(&line, ')');
	text = stfs_buf_cstr(&line);
	if (!text)
		stfs_cli_out_of_memory();
	print_line("", text);
	tell_findings(file->findings);
	tell_lookalike(file);
	stfs_globals_tell(file->shard->torch, &file->suspects);
}

/* What to do, in lines of 80 columns. */
static const char advice_usable[] =
	"  It can be used: the official loader takes it and so do we, though the format's\n"
	"  specification does not say so. Saved anew by the official library it is clean.";
static const char advice_ambiguous[] =
	"  The official loader would take it, but readers disagree on what it means, so\n"
	"  it is refused here. Load it with the official library and save it anew.";
static const char advice_complete[] =
	"  The official loader refuses it, but its tensors are all there. To read them, mount\n"
	"  it or use `stfs cat` (read-only), and save them to a new file.";
static const char advice_cut[] =
	"  The official loader refuses it, and nothing in it can be read: the file ends\n"
	"  before its header does. If it was downloaded, fetch it again.";
static const char advice_lost[] =
	"  The official loader refuses it, and nothing in it can be trusted: get it anew\n"
	"  from its source, or repair the program that wrote it.";

static const char advice_interrupted[] =
	"  A commit of an edit is under way, or was interrupted: `stfs recover` finishes it or\n"
	"  takes it back, and the model is then whole.";
static const char advice_no_journal[] =
	"  An edit was interrupted in the middle, and its journal, the hidden file beside the\n"
	"  model, is gone: put it back (a copy of the model left it behind?) and use `stfs\n"
	"  recover`, or get the model anew from its source.";

static const char advice_dangerous[] =
	"  Do not load it with torch.load(weights_only=False), pickle or joblib, which would\n"
	"  run what it names. Nothing of it was run here. Get the weights as .safetensors.";
static const char advice_damaged[] =
	"  Nothing in it can be trusted: get it anew from its source.";
static const char advice_storage[] =
	"  Bytes of its tensors are damaged: get it anew from its source. Until then what is\n"
	"  not named above can be read.";
static const char advice_checkpoint[] =
	"  It can be read here (`stfs ls`, a mount) and by `stfs import-pytorch`, but for what\n"
	"  is named above.";

/* Whether some file breaks a rule of this level. */
static bool breaks(const struct stfs_check *check, enum stfs_rule rule)
{
	for (uint32_t i = 0; i < check->file_count; i++)
		if (check->files[i].findings->counts[rule])
			return true;
	return false;
}

/* Nobody but us takes a checkpoint for a model. */
static void advise_checkpoint(const struct stfs_check *check)
{
	switch (check->verdict) {
	case STFS_VERDICT_CLEAN:
		break;
	case STFS_VERDICT_DEVIATIONS:
		puts(advice_checkpoint);
		break;
	case STFS_VERDICT_REFUSED:
		puts(breaks(check, STFS_RULE_DAMAGED_STORAGE) ? advice_storage : advice_damaged);
		break;
	case STFS_VERDICT_UNREADABLE:
		puts("  No verdict: a file could not be read.");
		break;
	case STFS_VERDICT_DANGEROUS:
		puts(advice_dangerous);
		break;
	}
}

/* How many of its tensors can be had, and by what. */
static void advise_tolerant(const struct stfs_check *check)
{
	if (check->intact == check->tensors)
		puts(advice_complete);
	else
		printf("  The official loader refuses it, but %" PRIu32 " of %" PRIu32
		       " tensors are complete. To read\n"
		       "  those, mount it or use `stfs cat` (read-only). For the rest, fetch it "
		       "again.\n", check->intact, check->tensors);
}

static void advise(const struct stfs_model *model, const struct stfs_check *check)
{
	enum stfs_interrupted interrupted = stfs_model_interrupted(model);

	if (interrupted != STFS_NOT_INTERRUPTED) {
		puts(interrupted == STFS_INTERRUPTED ? advice_interrupted : advice_no_journal);
		return;
	}
	if (stfs_model_has_checkpoint(model) || check->verdict == STFS_VERDICT_DANGEROUS) {
		advise_checkpoint(check);
		return;
	}
	switch (check->verdict) {
	case STFS_VERDICT_CLEAN:
	case STFS_VERDICT_DANGEROUS: /* said above */
		break;
	case STFS_VERDICT_DEVIATIONS:
		puts(advice_usable);
		break;
	case STFS_VERDICT_REFUSED:
		if (check->tolerant && !check->official)
			advise_tolerant(check);
		else
			puts(check->official                                 ? advice_ambiguous
			     : breaks(check, STFS_RULE_HEADER_BEYOND_FILE) ? advice_cut
									   : advice_lost);
		break;
	case STFS_VERDICT_UNREADABLE:
		puts("  No verdict: a file could not be read.");
		break;
	}
}

static void tell(const char *path, const struct stfs_model *model, const struct stfs_check *check)
{
	STFS_AUTO_BUF struct stfs_buf line = STFS_BUF_INIT;

	if (model->unread.code < 0) {
		stfs_buf_printf(&line, "%s: %s", stfs_verdict_name(check->verdict),
				model->unread.message);
		if (!stfs_buf_cstr(&line))
			stfs_cli_out_of_memory();
		print_line("", line.data);
		return;
	}
	stfs_buf_printf(&line, "%s: %s (%" PRIu32 " file%s, %" PRIu32 " tensor%s)", path,
			stfs_verdict_name(check->verdict), check->file_count,
			check->file_count == 1 ? "" : "s", check->tensors,
			check->tensors == 1 ? "" : "s");
	if (!stfs_buf_cstr(&line))
		stfs_cli_out_of_memory();
	print_line("", line.data);
	if (!stfs_model_is_sharded(model)) {
		tell_findings(check->files[0].findings);
		if (check->files[0].status < 0)
			printf("  %s\n", strerror(-check->files[0].status));
		tell_lookalike(&check->files[0]);
		stfs_globals_tell(model->shards[0].torch, &check->files[0].suspects);
	} else {
		tell_findings(&model->findings);
		for (uint32_t i = 0; i < check->file_count; i++)
			if (check->files[i].verdict != STFS_VERDICT_CLEAN ||
			    check->files[i].findings->count)
				tell_file(&check->files[i]);
	}
	advise(model, check);
}

/* ---- The verb ---- */

enum format { FORMAT_PEOPLE, FORMAT_JSON, FORMAT_QUIET };

/* The storages of checkpoints are read, which may take long. */
static void make_check(const struct stfs_model *model, enum format format, bool fast, struct stfs_check *check)
{
	struct stfs_cli_progress progress;
	struct stfs_scan_options options = {
		.fast = fast, .progress = stfs_cli_progress_begin(&progress, format != FORMAT_QUIET)};

	if (stfs_check_make(model, &options, check) < 0)
		stfs_cli_out_of_memory();
	stfs_cli_progress_end(&progress);
}

static enum stfs_verdict check_one(const char *path, enum format format, bool fast)
{
	STFS_AUTO_MODEL struct stfs_model *model = NULL;
	struct stfs_err err = STFS_ERR_INIT;
	enum stfs_verdict verdict;
	struct stfs_check check;

	if (stfs_model_open(path, STFS_OPEN_JUDGE, &model, &err) < 0) {
		if (format == FORMAT_JSON)
			print_unopened(path, &err);
		if (format != FORMAT_QUIET)
			stfs_cli_say("%s", err.message);
		return STFS_VERDICT_UNREADABLE;
	}
	make_check(model, format, fast, &check);
	if (format == FORMAT_JSON)
		print_json(path, model, &check);
	else if (format == FORMAT_PEOPLE)
		tell(path, model, &check);
	verdict = check.verdict;
	stfs_check_free(&check);
	return verdict;
}

enum { OPT_FAST = STFS_CLI_LONG };

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		{"json", no_argument, NULL, 'j'}, {"quiet", no_argument, NULL, 'q'},
		{"fast", no_argument, NULL, OPT_FAST}, STFS_CLI_HELP, {0}};
	enum stfs_verdict verdict, worst = STFS_VERDICT_CLEAN;
	enum format format = FORMAT_PEOPLE;
	bool several, fast = false;
	int c;

	while ((c = getopt_long(argc, argv, ":jqh", options, NULL)) != -1) {
		switch (c) {
		case 'j': format = FORMAT_JSON; break;
		case 'q': format = FORMAT_QUIET; break;
		case OPT_FAST: fast = true; break;
		default: return stfs_cli_option(&stfs_verb_check, c, argv);
		}
	}
	if (optind == argc)
		return stfs_cli_usage(&stfs_verb_check, "check: name a model");
	several = format == FORMAT_JSON && argc - optind > 1;
	for (int i = optind; i < argc; i++) {
		if (several)
			fputs(i == optind ? "[\n" : ",\n", stdout);
		verdict = check_one(argv[i], format, fast);
		worst = verdict > worst ? verdict : worst;
	}
	if (several)
		puts("]");
	return (int)worst;
}

const struct stfs_verb stfs_verb_check = {
	.name = "check",
	.synopsis = "[--json] [-q] [--fast] MODEL...",
	.summary = "all that is wrong with a model, and whether it is safe",
	.help =
		"  -j, --json    for programs: `official` is what the official loader says (\"ok\"\n"
		"                or \"error\"; null of checkpoints, which it does not read),\n"
		"                `verdict` what we say; an array for several models\n"
		"  -q, --quiet   no output, only the exit code\n"
		"      --fast    of PyTorch checkpoints: do not hold bytes against their CRCs;\n"
		"                of refused ones, search the first 256 MiB and the last 64\n"
		"\n"
		"Every deviation is listed with its rule, the tensor, and the byte of the file at\n"
		"which it stands, up to 100 of a rule (of notes a few; --json has more). Levels:\n"
		"\n"
		"  note        valid, worth knowing (alignment)\n"
		"  deviation   loaders take it, the specification does not\n"
		"  refused     the official loader takes it, we do not: readers disagree on it\n"
		"  error       the official loader refuses it\n"
		"\n"
		"Of .safetensors files the headers are read, and the end; no tensor's content.\n"
		"\n"
		"PyTorch checkpoints are read without being run. Every Python global that one\n"
		"names is listed with its verdict and byte: allowed (torch.load takes it with\n"
		"weights_only=True), harmless (it does not, though nothing but a plain value\n"
		"can come of it) or refused (it may do anything). CRCs are checked.\n"
		"One that cannot be read to its end is searched for refused globals, and so are\n"
		"pickles and archives that are hidden in a .safetensors file.\n"
		"\n"
		"Exit codes: 0 clean, 1 deviations only: usable, but for what is named, 2 refused\n"
		"or damaged, 3 could not be read, 4 dangerous: a refused global is named in it\n"
		"(of several models the highest), 64 wrong usage.\n"
		"\n"
		"  stfs check model.safetensors\n"
		"  stfs check ~/models/llama/                   index and all shards\n"
		"  stfs check -q *.safetensors || echo look closer\n"
		"  stfs check pytorch_model.bin                 is it safe to load?\n"
		"  stfs check --json model.safetensors | jq -r '.files[].deviations[].rule'\n",
	.run = run,
};
