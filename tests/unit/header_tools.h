/* SPDX-License-Identifier: MIT */
/* What the tests of the header, the fuzz target and the judge share. */
#ifndef STFS_TESTS_UNIT_HEADER_TOOLS_H
#define STFS_TESTS_UNIT_HEADER_TOOLS_H

#include "format/header.h"

/* Whether a sanitizer's memory hides ours: gcc says so by macros, clang by features. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define STFS_TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define STFS_TEST_SANITIZED 1
#endif
#endif
#ifndef STFS_TEST_SANITIZED
#define STFS_TEST_SANITIZED 0
#endif

/* A file's bytes, read. */
struct stfs_test_file {
	struct stfs_header *header; /* owned; NULL when the length word is refused */
	struct stfs_findings findings;
};

/* Reads the `len` bytes of a whole file (as the store does). 0 or -ENOMEM. */
int stfs_test_read(const void *bytes, size_t len, struct stfs_test_file *file);
void stfs_test_file_free(struct stfs_test_file *file);

static inline enum stfs_level stfs_test_level(const struct stfs_test_file *file)
{
	return stfs_findings_level(&file->findings);
}

/*
 * What of the invariants of format/header.h does not hold, in words, or NULL: H1 to H3 for a file
 * that is not refused, those of the tolerant mode for one that is tolerable, and for every file
 * that what stands in the header lies within its text.
 */
const char *stfs_test_broken_invariant(const struct stfs_test_file *file);

/*
 * Appends the header of the same tensors and metadata, each from its source entry, to `out`; as
 * stfs_header_write(). The file must be below STFS_LEVEL_REFUSED.
 */
int stfs_test_rewrite(const struct stfs_header *header, size_t min_text_len, struct stfs_buf *out);

/* Whether both hold the same tensors in the same order, with the same metadata. */
bool stfs_test_same(const struct stfs_header *a, const struct stfs_header *b);

#endif
