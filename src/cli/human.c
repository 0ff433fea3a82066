/* SPDX-License-Identifier: MIT */
#include "cli/human.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/cleanup.h"

/* `number` in the largest unit of which it has one or more, three digits of it. */
static void scaled(uint64_t number, double base, const char *const units[], struct stfs_buf *out)
{
	double value = (double)number;
	size_t unit = 0;

	while (units[unit + 1] && value >= (unit ? base - 0.05 : base)) {
		value /= base;
		unit++;
	}
	if (unit == 0)
		stfs_buf_printf(out, "%" PRIu64 "%s", number, units[0]);
	else
		stfs_buf_printf(out, "%.1f%s", value, units[unit]);
}

void stfs_human_size(uint64_t bytes, bool exact, struct stfs_buf *out)
{
	static const char *const units[] = {" B", " KiB", " MiB", " GiB",
					    " TiB", " PiB", " EiB", NULL};

	if (exact)
		stfs_buf_printf(out, "%" PRIu64, bytes);
	else
		scaled(bytes, 1024, units, out);
}

void stfs_human_amount(uint64_t number, struct stfs_buf *out)
{
	static const char *const units[] = {"", " K", " M", " B", " T", NULL};

	scaled(number, 1000, units, out);
}

void stfs_human_count(uint64_t number, struct stfs_buf *out)
{
	char digits[24];
	int len = snprintf(digits, sizeof(digits), "%" PRIu64, number);

	for (int i = 0; i < len; i++) {
		if (i && (len - i) % 3 == 0)
			stfs_buf_putc(out, ',');
		stfs_buf_putc(out, digits[i]);
	}
}

void stfs_human_share(uint64_t part, uint64_t whole, struct stfs_buf *out)
{
	double share = whole ? 100.0 * (double)part / (double)whole : 0;

	if (part && share < 0.05)
		stfs_buf_puts(out, "<0.1%");
	else
		stfs_buf_printf(out, "%.1f%%", share);
}

/* NumPy has no more dimensions; a header can hold millions. */
#define RANK_SHOWN 64

void stfs_human_shape(const struct stfs_tensor_ref *ref, struct stfs_buf *out)
{
	STFS_AUTO_FREE uint64_t *dims = stfs_model_shape(ref);

	uint32_t rank = ref->tensor->rank, shown = rank > RANK_SHOWN ? RANK_SHOWN : rank;

	stfs_buf_putc(out, '[');
	for (uint32_t i = 0; dims && i < shown; i++)
		stfs_buf_printf(out, "%s%" PRIu64, i ? "," : "", dims[i]);
	if (shown < rank)
		stfs_buf_printf(out, ",... %" PRIu32 " in all", rank);
	stfs_buf_putc(out, ']');
}
