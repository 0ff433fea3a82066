/* SPDX-License-Identifier: MIT */
/*
 * The globals that a PyTorch checkpoint names, told, and those that were found by searching. In each function `torch` may
 * be NULL.
 */
#ifndef STFS_CLI_GLOBALS_H
#define STFS_CLI_GLOBALS_H

#include <json-c/json.h>

#include "codec/suspects.h"

/* Of each verdict so many are told to a person, and to a program; of others their number. */
#define STFS_GLOBALS_TOLD 100
#define STFS_GLOBALS_LISTED 10000

/* Prints a line each, the refused ones first. */
void stfs_globals_tell(const struct stfs_torch *torch, const struct stfs_suspects *suspects);
/* Adds "form" of a checkpoint, "globals", an array, and "global_counts" to `object`. */
void stfs_globals_json(const struct stfs_torch *torch, const struct stfs_suspects *suspects,
		       struct json_object *object);

#endif
