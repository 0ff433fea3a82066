/* SPDX-License-Identifier: MIT */
/* main() of a fuzz target without libFuzzer: takes files and folders and prints TAP, a case a file. */
#ifndef STFS_TESTS_FUZZ_REPLAY_H
#define STFS_TESTS_FUZZ_REPLAY_H

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"

static unsigned replayed;

static void replay_file(const char *path)
{
	STFS_AUTO_FILE FILE *file = fopen(path, "re");
	STFS_AUTO_FREE uint8_t *bytes = NULL;
	struct stat st;
	size_t len;

	if (!file || fstat(fileno(file), &st) < 0 || !(bytes = malloc((size_t)st.st_size + 1))) {
		perror(path);
		exit(EXIT_FAILURE);
	}
	len = fread(bytes, 1, (size_t)st.st_size, file);
	LLVMFuzzerTestOneInput(bytes, len);
	printf("ok %u - %s\n", ++replayed, strrchr(path, '/') ? strrchr(path, '/') + 1 : path);
}

static int is_visible(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

static void replay(const char *path)
{
	struct dirent **entries;
	int count = scandir(path, &entries, is_visible, alphasort);

	if (count < 0 && errno == ENOTDIR) {
		replay_file(path);
		return;
	}
	if (count < 0) {
		perror(path);
		exit(EXIT_FAILURE);
	}
	for (int i = 0; i < count; i++) {
		STFS_AUTO_FREE char *below = NULL;

		if (asprintf(&below, "%s/%s", path, entries[i]->d_name) < 0)
			abort();
		replay(below);
		free(entries[i]);
	}
	free(entries);
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		replay(argv[i]);
	printf("1..%u\n", replayed);
	return replayed ? EXIT_SUCCESS : EXIT_FAILURE;
}

#endif
