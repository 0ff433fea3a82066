/* SPDX-License-Identifier: MIT */
/* The globals that a PyTorch checkpoint names, told. */
#ifndef STFS_CLI_GLOBALS_H
#define STFS_CLI_GLOBALS_H

#include <json-c/json.h>

#include "codec/torch.h"

/* Of each verdict so many are told to a person, and to a program; of others their number. */
#define STFS_GLOBALS_TOLD 100
#define STFS_GLOBALS_LISTED 10000

/* Prints a line each, the refused ones first. */
void stfs_globals_tell(const struct stfs_torch *torch);
/* Adds "form", "globals", an array, and "global_counts" to `object`. */
void stfs_globals_json(const struct stfs_torch *torch, struct json_object *object);

#endif
