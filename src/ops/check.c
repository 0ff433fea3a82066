/* SPDX-License-Identifier: MIT */
#include "ops/check.h"

#include <errno.h>
#include <stdlib.h>

#include "base/io.h"

const char *stfs_verdict_name(enum stfs_verdict verdict)
{
	static const char *const names[] = {"clean", "deviations", "refused", "unreadable",
					     "dangerous"};

	return names[verdict];
}

static enum stfs_verdict verdict_of(const struct stfs_findings *findings)
{
	switch (stfs_findings_level(findings)) {
	case STFS_LEVEL_NOTE:
		return STFS_VERDICT_CLEAN;
	case STFS_LEVEL_DEVIATION:
		return STFS_VERDICT_DEVIATIONS;
	case STFS_LEVEL_REFUSED:
	case STFS_LEVEL_ERROR:
		break;
	}
	return STFS_VERDICT_REFUSED;
}

static void count_tensors(struct stfs_check_file *file, const struct stfs_header *header)
{
	for (uint32_t i = 0; i < header->count; i++) {
		const struct stfs_tensor *tensor = &header->tensors[i];

		file->tensors += !tensor->shadowed;
		file->intact += tensor->usable && tensor->complete && !tensor->shadowed;
	}
}

/* More is looked at than the opening did: all of a checkpoint, and whether another file is one too. */
static int scan_file(struct stfs_check_file *file, const struct stfs_scan_options *options)
{
	int r = stfs_scan_make(file->shard, options, &file->scanned);

	if (r == 0)
		r = stfs_scan_suspects(file->shard, options, &file->suspects, &file->scanned);
	if (r == -ENOMEM)
		return r;
	file->findings = &file->scanned;
	file->status = r;
	file->verdict = r < 0 ? STFS_VERDICT_UNREADABLE : verdict_of(&file->scanned);
	if (stfs_scan_globals(file->shard->torch, &file->suspects).of_verdict[STFS_GLOBAL_REFUSED])
		file->verdict = STFS_VERDICT_DANGEROUS;
	return 0;
}

static int judge_file(struct stfs_check_file *file, const struct stfs_shard *shard,
		      const struct stfs_scan_options *options)
{
	int r;

	*file = (struct stfs_check_file){.shard = shard, .findings = &shard->findings, .status = shard->status,
					 .verdict = STFS_VERDICT_UNREADABLE};
	if (shard->status < 0)
		return 0;
	file->verdict = verdict_of(&shard->findings);
	file->official = !shard->torch && stfs_findings_level(&shard->findings) < STFS_LEVEL_ERROR;
	file->tolerant = stfs_findings_tolerable(&shard->findings);
	r = scan_file(file, options);
	if (!shard->header)
		return r;
	if (!shard->torch)
		file->header_bytes = stfs_header_data_start(shard->header);
	count_tensors(file, shard->header);
	return r;
}

static void add_file(struct stfs_check *check, const struct stfs_check_file *file)
{
	if (file->verdict > check->verdict)
		check->verdict = file->verdict;
	check->official &= file->official;
	check->tolerant &= file->tolerant;
	check->tensors += file->tensors;
	check->intact += file->intact;
	check->file_count++;
}

int stfs_check_make(const struct stfs_model *model, const struct stfs_scan_options *options,
		    struct stfs_check *check)
{
	int r = 0;


	*check = (struct stfs_check){.verdict = STFS_VERDICT_UNREADABLE};
	if (model->unread.code < 0) {
		/* An index that was read and says nonsense is refused, not unreadable. */
		if (model->unread.code == -EBADMSG)
			check->verdict = STFS_VERDICT_REFUSED;
		return 0;
	}
	check->files = calloc(model->shard_count ? model->shard_count : 1, sizeof(*check->files));
	if (!check->files)
		return -ENOMEM;
	check->verdict = verdict_of(&model->findings);
	check->official = stfs_findings_level(&model->findings) < STFS_LEVEL_ERROR;
	check->tolerant = stfs_findings_tolerable(&model->findings);
	for (uint32_t i = 0; r == 0 && i < model->shard_count; i++) {
		r = judge_file(&check->files[i], &model->shards[i], options);
		add_file(check, &check->files[i]);
	}
	return r;
}

void stfs_check_free(struct stfs_check *check)
{
	for (uint32_t i = 0; check->files && i < check->file_count; i++) {
		stfs_findings_free(&check->files[i].scanned);
		stfs_suspects_free(&check->files[i].suspects);
	}
	free(check->files);
	*check = (struct stfs_check){0};
}

static bool holds_error_page(const char *text)
{
	return text[0] == '<' && (strncasecmp(text, "<!doctype", 9) == 0 ||
				  strncasecmp(text, "<html", 5) == 0 ||
				  strncmp(text, "<?xml", 5) == 0);
}

const char *stfs_check_lookalike(const struct stfs_shard *shard)
{
	char start[65] = "";
	ssize_t got = shard->fd < 0
			      ? -1
			      : stfs_io_pread_full(shard->fd, start, sizeof(start) - 1, 0);

	if (got < 8)
		return NULL;
	if (strncmp(start, "version https://git-lfs", 23) == 0)
		return "a pointer of git-lfs, not the model: fetch it with `git lfs pull`";
	if (holds_error_page(start))
		return "a web page: the download did not give the model";
	if (memcmp(start, "PK\3\4", 4) == 0)
		return "a zip archive, as PyTorch and NumPy (.npz) write them";
	if (memcmp(start, "\x80\x02", 2) == 0)
		return "a Python pickle, as older PyTorch wrote them";
	if (memcmp(start, "GGUF", 4) == 0)
		return "a GGUF model";
	if (memcmp(start, "\x89HDF\r\n\x1a\n", 8) == 0)
		return "an HDF5 file, as Keras writes them";
	if (memcmp(start, "\x93NUMPY", 6) == 0)
		return "a NumPy array (.npy)";
	return NULL;
}
