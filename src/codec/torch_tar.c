/* SPDX-License-Identifier: MIT */
#include <errno.h>

#include "codec/torch_internal.h"

bool stfs_torch_tar_is(const void *bytes, size_t len)
{
	return len >= 512 && memcmp((const char *)bytes + 257, "ustar", 5) == 0;
}

int stfs_torch_load_tar(struct stfs_torch *torch, struct stfs_err *err)
{
	return stfs_err_set(err, -EBADMSG, 0, "tar");
}
