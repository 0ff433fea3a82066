/* SPDX-License-Identifier: MIT */
/*
 * Globals by which a pickle does harm, for where nothing but their names can be found: in bytes that no reader of
 * pickles gets through. It is no list to judge pickles by (codec/globals.h refuses whatever it does not know): what is not on
 * it may be as bad.
 */
#ifndef STFS_CODEC_DENIED_H
#define STFS_CODEC_DENIED_H

#include <stdint.h>

#include "base/err.h"
#include "format/nametable.h"

/* No module or name on the list is longer. */
#define STFS_DENIED_TEXT_MAX 40

bool stfs_denied_is(struct stfs_str module, struct stfs_str name);

struct stfs_denied_text {
	struct stfs_str text;
	uint32_t as_module, as_name; /* the first pair that it is in so, or STFS_NO_NUMBER */
	bool seen;
};
struct stfs_denied_pair;

/*
 * Both texts of a global may stand anywhere, in either order: STACK_GLOBAL takes them from a memo. What was seen of
 * them.
 */
struct stfs_denied {
	struct stfs_nametable table; /* owned, as all below: of texts */
	struct stfs_denied_text *texts;
	struct stfs_denied_pair *pairs; /* in the order of the list: those of a module stand together */
	uint32_t text_count, pair_count;
};

int stfs_denied_init(struct stfs_denied *denied);
void stfs_denied_free(struct stfs_denied *denied);

/*
 * A text of the file. When it makes a pair with one that was seen before, `found` is called of each pair, once;
 * returns what that does when it is below 0.
 */
int stfs_denied_see(struct stfs_denied *denied, struct stfs_str text,
		    int (*found)(void *data, struct stfs_str module, struct stfs_str name), void *data);

#endif
