/* SPDX-License-Identifier: MIT */
/*
 * A scanner's second look at a file that nobody here reads as a checkpoint to its end, or that is something else too:
 * every global that pickle or torch.load might meet in it and that codec/globals.h refuses. Nothing in it is believed
 * but the bytes themselves: no directory, no length of an archive, no CRC.
 *
 *   traces    from the beginning of the file, and of each member of a zip or tar archive, found by its local header, the
 *             opcodes are followed (codec/trace.h)
 *   search    globals on the list of codec/denied.h, in the bytes of GLOBAL and INST or as two texts, wherever they stand;
 *             in deflated members too
 *
 * Times: linear in the file, and bounded work beyond that. Memory: 100 MiB at most, for a deflated member; else little.
 */
#ifndef STFS_CODEC_SUSPECTS_H
#define STFS_CODEC_SUSPECTS_H

#include "codec/texts.h"
#include "codec/torch.h"
#include "format/nametable.h"

/* So many different globals are kept; further ones are counted. */
#define STFS_SUSPECTS_MAX 1000
/* What is followed and inflated of a file besides its own bytes. */
#define STFS_SUSPECTS_WORK (1ull << 30)
#define STFS_SUSPECTS_MEMBER_MAX (64u << 20)
/* Of a quick search: bytes at the beginning and at the end. */
#define STFS_SUSPECTS_QUICK (256u << 20)

struct stfs_suspect {
	uint64_t at; /* byte of the file, or of `member` once it is inflated */
	struct stfs_str member; /* of a zip archive, deflated: any bytes; or empty */
	/* Both empty: a number of copyreg's registry, or names that only running it would tell. */
	struct stfs_str module, name;
	bool known;
};

struct stfs_suspects {
	struct stfs_suspect *items; /* owned: each global once */
	uint32_t count;
	uint64_t more;
	bool is_pickle;  /* it begins as a pickle that names globals which count, whatever of */
	bool is_zip;     /* it ends as a zip archive does */
	bool is_tar;     /* it begins as a tar archive does */
	bool incomplete; /* a limit was met: what lies beyond it was not looked at */
	struct stfs_nametable by_name; /* owned */
	struct stfs_texts texts;
};

enum {
	/* It is known to be a pickle that was refused, or an archive. */
	STFS_SUSPECTS_WHOLE = 1 << 0,
	/* Not all of a large file is searched. */
	STFS_SUSPECTS_QUICKLY = 1 << 1,
	/* Its beginning was read as a checkpoint, to the end: only what else it is counts. */
	STFS_SUSPECTS_BEHIND = 1 << 2,
};

/*
 * Fills `suspects`, which the caller frees in any case. Without STFS_SUSPECTS_WHOLE the whole is searched only when the file
 * begins as a pickle or tar archive, or ends as a zip archive; else that costs a few reads. `progress` (may be NULL) gets
 * the bytes searched since the last call. 0, -ENOMEM or another -errno of reading.
 */
int stfs_suspects_find(int fd, uint64_t file_len, unsigned flags, int (*progress)(void *data, uint64_t bytes),
		       void *data, struct stfs_suspects *suspects);

/* Likewise of members of a sound zip archive: `headers` are the bytes at which their local headers stand. */
int stfs_suspects_find_members(int fd, uint64_t file_len, const uint64_t *headers, uint32_t count,
			       struct stfs_suspects *suspects);
void stfs_suspects_free(struct stfs_suspects *suspects);

/* Drops what the checkpoint itself lists as refused. 0 or -ENOMEM. */
int stfs_suspects_drop_known(struct stfs_suspects *suspects, const struct stfs_torch *torch);

#endif
