/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target of the header: the input is a whole file. Whatever it is, reading it must not crash,
 * its findings must be in order, and the invariants of format/header.h must hold; a header that we
 * take must come back the same when it is written and read again.
 *
 * With clang and -Dfuzz=true this is a libFuzzer target; without, STFS_FUZZ_REPLAY adds a main()
 * that takes files and folders and prints TAP, a case a file.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/utf8.h"
#include "unit/header_tools.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void demand(bool holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "fuzz_header: %s\n", what);
	abort();
}

static void check_findings(const struct stfs_test_file *file, size_t size)
{
	struct stfs_err err = STFS_ERR_INIT;

	for (size_t i = 0; i < file->findings.count; i++) {
		const struct stfs_finding *f = &file->findings.items[i];

		demand(f->position <= size, "a finding lies behind the end of the file");
		demand(f->message && *f->message, "a finding says nothing");
		demand(stfs_utf8_check(f->message, strlen(f->message)) == strlen(f->message),
		       "a message is not UTF-8");
		demand(f->tensor_len <= STFS_FINDING_NAME_MAX, "a name is kept too long");
	}
	demand((stfs_findings_error(&file->findings, false, &err) < 0) ==
		       (stfs_test_level(file) >= STFS_LEVEL_REFUSED),
	       "level and error differ");
}

static void check_again(const struct stfs_test_file *file)
{
	STFS_AUTO_BUF struct stfs_buf out = STFS_BUF_INIT;
	STFS_AUTO_BUF struct stfs_buf twice = STFS_BUF_INIT;
	STFS_CLEANUP(stfs_test_file_free) struct stfs_test_file again;
	uint64_t data_len = file->header->data_len;

	demand(stfs_test_rewrite(file->header, 0, &out) == 0, "it cannot be written");
	demand(out.len % 8 == 0, "the data would not begin at a multiple of 8");
	demand(stfs_test_read(out.data, out.len, &again) == 0 && again.header, "it cannot be read again");
	/* The data are not at hand: only that they are missing may be said against it. */
	demand(stfs_findings_tolerable(&again.findings), "what was written is refused");
	demand(again.findings.counts[STFS_RULE_HOLE] == 0, "what was written has holes");
	demand(again.header->data_len == 0 && (data_len == 0) == (stfs_test_level(&again) < STFS_LEVEL_REFUSED),
	       "what was written is judged otherwise");
	demand(stfs_test_same(file->header, again.header), "what was written differs");
	demand(stfs_test_rewrite(again.header, 0, &twice) == 0 &&
		       stfs_str_equal(stfs_buf_str(&out), stfs_buf_str(&twice)),
	       "written twice it is not the same");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	STFS_CLEANUP(stfs_test_file_free) struct stfs_test_file file;
	const char *broken;

	demand(stfs_test_read(data, size, &file) == 0, "no answer");
	check_findings(&file, size);
	broken = stfs_test_broken_invariant(&file);
	demand(!broken, broken);
	if (stfs_test_level(&file) < STFS_LEVEL_REFUSED)
		check_again(&file);
	return 0;
}

#ifdef STFS_FUZZ_REPLAY
#include "replay.h"
#endif
