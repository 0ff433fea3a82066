/* SPDX-License-Identifier: MIT */
#include "ops/near.h"

#include "base/arith.h"

/* Bytes of a string that are compared: the cost is their product. */
#define COMPARED 96

unsigned stfs_near_distance(struct stfs_str a, struct stfs_str b)
{
	size_t rows = stfs_min_u64(a.len, COMPARED), columns = stfs_min_u64(b.len, COMPARED);
	unsigned line[COMPARED + 1], diagonal, above, best;

	for (size_t j = 0; j <= columns; j++)
		line[j] = (unsigned)j;
	for (size_t i = 1; i <= rows; i++) {
		diagonal = line[0];
		line[0] = (unsigned)i;
		for (size_t j = 1; j <= columns; j++) {
			above = line[j];
			best = diagonal + (a.ptr[i - 1] != b.ptr[j - 1]);
			if (above + 1 < best)
				best = above + 1;
			if (line[j - 1] + 1 < best)
				best = line[j - 1] + 1;
			line[j] = best;
			diagonal = above;
		}
	}
	return line[columns];
}

/* The smallest distance to one of the parts that dots divide a name into. */
static unsigned nearest_part(struct stfs_str wanted, struct stfs_str name)
{
	size_t begin = 0, slack = 1 + wanted.len / 4;
	unsigned best = UINT32_MAX, distance;

	for (size_t end = 0; end <= name.len; end++) {
		if (end < name.len && name.ptr[end] != '.')
			continue;
		if (end - begin + slack >= wanted.len && end - begin <= wanted.len + slack) {
			distance = stfs_near_distance(
				wanted, stfs_str_slice(name.ptr + begin, end - begin));
			best = distance <= slack && distance < best ? distance : best;
		}
		begin = end + 1;
	}
	return best;
}

/* 0 is nearest; UINT32_MAX: not alike at all. */
static unsigned rank(struct stfs_str wanted, struct stfs_str name)
{
	size_t apart = wanted.len > name.len ? wanted.len - name.len : name.len - wanted.len;
	unsigned distance;

	if (wanted.len && memmem(name.ptr, name.len, wanted.ptr, wanted.len))
		return (unsigned)stfs_min_u64(1 + apart / 8, 100);
	distance = apart > wanted.len / 3 + 1 ? UINT32_MAX : stfs_near_distance(wanted, name);
	return distance <= wanted.len / 3 + 1 ? distance : nearest_part(wanted, name);
}

void stfs_near_offer(struct stfs_near *near, struct stfs_str name, uint32_t number)
{
	unsigned mine = rank(near->wanted, name);
	size_t at;

	for (at = near->count; at > 0 && near->ranks[at - 1] > mine; at--)
		if (at < STFS_NEAR_MAX) {
			near->ranks[at] = near->ranks[at - 1];
			near->numbers[at] = near->numbers[at - 1];
		}
	if (mine == UINT32_MAX || at == STFS_NEAR_MAX)
		return;
	near->ranks[at] = mine;
	near->numbers[at] = number;
	near->count += near->count < STFS_NEAR_MAX;
}

size_t stfs_near_tensors(const struct stfs_model *model, struct stfs_str name,
			 uint32_t ids[STFS_NEAR_MAX])
{
	struct stfs_near near = {.wanted = name};
	struct stfs_tensor_ref ref;

	for (uint32_t id = 0; id < stfs_model_ids(model); id++)
		if (stfs_model_tensor(model, id, &ref))
			stfs_near_offer(&near, ref.name, id);
	memcpy(ids, near.numbers, near.count * sizeof(*ids));
	return near.count;
}
