/* SPDX-License-Identifier: MIT */
/* A tensor's bytes, copied to a descriptor by the shortest way that it allows. */
#ifndef STFS_OPS_EXTRACT_H
#define STFS_OPS_EXTRACT_H

#include "base/err.h"
#include "store/model.h"

/* Where bytes go, and what to call that in messages. */
struct stfs_sink {
	int fd;
	const char *name;
};

/*
 * Writes all bytes of the tensor to the sink, at its position. 0; -EIO when the file was cut short
 * underneath, -ESTALE when its header changed, -EAGAIN when the file was written to meanwhile (the
 * bytes may be a mixture); -errno of the reading or writing, `err` beginning with the name of what
 * failed.
 */
int stfs_extract(const struct stfs_model *model, const struct stfs_tensor_ref *ref,
		 const struct stfs_sink *sink, struct stfs_err *err);

/* Writes all of it, going on after short writes and EINTR. 0 or -errno, `err` filled. */
int stfs_sink_write(const struct stfs_sink *sink, const void *bytes, size_t len,
		    struct stfs_err *err);

/* Whether `fd` is one of the model's own files: writing there would destroy it. */
bool stfs_extract_is_source(const struct stfs_model *model, int fd);

#endif
