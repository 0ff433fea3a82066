/* SPDX-License-Identifier: MIT */
#include "ops/words.h"

#include <errno.h>
#include <stdlib.h>

/* Where the cutting stands. */
struct cutter {
	struct stfs_str line;
	size_t at;
	char *out; /* next byte of the words' text */
};

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Copies what a quote, which has been passed, holds. */
static const char *take_quoted(struct cutter *cutter, char quote)
{
	const char *in = cutter->line.ptr;

	while (cutter->at < cutter->line.len && in[cutter->at] != quote) {
		if (quote == '"' && in[cutter->at] == '\\' && cutter->at + 1 < cutter->line.len &&
		    (in[cutter->at + 1] == '"' || in[cutter->at + 1] == '\\'))
			cutter->at++;
		*cutter->out++ = in[cutter->at++];
	}
	if (cutter->at == cutter->line.len)
		return quote == '"' ? "a \" is not closed" : "a ' is not closed";
	cutter->at++;
	return NULL;
}

/* Copies one word, terminated. NULL or what is wrong. */
static const char *take_word(struct cutter *cutter)
{
	const char *why = NULL;
	char c;

	while (!why && cutter->at < cutter->line.len && !is_blank(cutter->line.ptr[cutter->at])) {
		c = cutter->line.ptr[cutter->at++];
		if (c == '\'' || c == '"') {
			why = take_quoted(cutter, c);
		} else if (c != '\\') {
			*cutter->out++ = c;
		} else if (cutter->at == cutter->line.len) {
			why = "a backslash stands last";
		} else {
			*cutter->out++ = cutter->line.ptr[cutter->at++];
		}
	}
	*cutter->out++ = '\0';
	return why;
}

int stfs_words_cut(struct stfs_str line, struct stfs_words *words, const char **why)
{
	struct cutter cutter = {.line = line};

	*why = line.len && memchr(line.ptr, '\0', line.len) ? "it holds a NUL byte" : NULL;
	/* A word takes no more than its bytes in the line and the blank behind it. */
	words->text = malloc(line.len + 2);
	words->items = calloc(line.len / 2 + 2, sizeof(*words->items));
	words->count = 0;
	if (!words->text || !words->items)
		return -ENOMEM;
	cutter.out = words->text;
	while (!*why) {
		while (cutter.at < line.len && is_blank(line.ptr[cutter.at]))
			cutter.at++;
		if (cutter.at == line.len || line.ptr[cutter.at] == '#')
			break;
		words->items[words->count++] = cutter.out;
		*why = take_word(&cutter);
	}
	return *why ? -EINVAL : 0;
}

void stfs_words_free(struct stfs_words *words)
{
	free(words->text);
	free(words->items);
	*words = (struct stfs_words){0};
}
