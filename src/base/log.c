/* SPDX-License-Identifier: MIT */
#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>

struct target {
	stfs_log_sink *sink;
	enum stfs_log_level most;
	void *data;
};

/* A front end changes its target once or twice, each time into the next slot: who is logging at that
 * moment reads one target or the other, never half of each. */
static struct target slots[4];
static _Atomic unsigned last_slot;
static _Atomic(const struct target *) current;

void stfs_log_set(stfs_log_sink *sink, enum stfs_log_level most, void *data)
{
	struct target *slot = &slots[atomic_fetch_add(&last_slot, 1) % 4];

	*slot = (struct target){.sink = sink, .most = most, .data = data};
	atomic_store(&current, slot);
}

void stfs_log(enum stfs_log_level level, const char *format, ...)
{
	const struct target *target = atomic_load(&current);
	char line[2048];
	va_list args;

	if (!target || !target->sink || level > target->most)
		return;
	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	target->sink(level, line, target->data);
}
