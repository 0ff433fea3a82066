/* SPDX-License-Identifier: MIT */
#include "ops/scan.h"

#include <errno.h>
#include <inttypes.h>

#include "base/arith.h"
#include "base/cleanup.h"

static const struct stfs_str of_none = {NULL, 0};

static struct stfs_scan_globals count_globals(const struct stfs_torch *torch)
{
	struct stfs_scan_globals counts = {{0}};
	size_t count = torch ? stfs_torch_global_count(torch) : 0;

	for (size_t i = 0; i < count; i++)
		counts.of_verdict[stfs_torch_global(torch, i).verdict]++;
	return counts;
}

struct stfs_scan_globals stfs_scan_globals(const struct stfs_torch *torch, const struct stfs_suspects *suspects)
{
	struct stfs_scan_globals counts = count_globals(torch);

	counts.of_verdict[STFS_GLOBAL_REFUSED] += suspects->count + suspects->more;
	return counts;
}

/* One finding of all of them: each is listed with the globals. */
static int say_harmless(const struct stfs_torch *torch, struct stfs_findings *findings)
{
	size_t count = stfs_torch_global_count(torch), harmless = count_globals(torch).of_verdict[STFS_GLOBAL_HARMLESS];
	char module[STFS_QUOTED_MAX], name[STFS_QUOTED_MAX];

	for (size_t i = 0; i < count; i++) {
		struct stfs_torch_global global = stfs_torch_global(torch, i);

		if (global.verdict == STFS_GLOBAL_HARMLESS)
			return stfs_findings_add(findings, STFS_RULE_HARMLESS_GLOBAL, STFS_NO_POSITION, of_none,
						 "%s.%s%s: makes a plain value, but torch.load refuses it with "
						 "weights_only=True", stfs_quote(global.module, module),
						 stfs_quote(global.name, name), harmless > 1 ? " and others" : "");
	}
	return 0;
}

static int say_remarks(const struct stfs_torch_remarks *remarks, enum stfs_rule rule, struct stfs_findings *findings)
{
	char quoted[STFS_QUOTED_MAX];
	int r = 0;

	for (size_t i = 0; r == 0 && i < remarks->count; i++) {
		const struct stfs_torch_remark *remark = &remarks->items[i];

		if (remark->name.len)
			r = stfs_findings_add(findings, rule, STFS_NO_POSITION, remark->name, "\"%s\": %.*s",
					      stfs_quote(remark->name, quoted), (int)stfs_min_u64(remark->text.len, 400),
					      remark->text.ptr);
		else
			r = stfs_findings_add(findings, rule, STFS_NO_POSITION, of_none, "%.*s",
					      (int)stfs_min_u64(remark->text.len, 400), remark->text.ptr);
	}
	findings->counts[rule] += remarks->more;
	return r;
}

static int say_outsized(const struct stfs_torch *torch, struct stfs_findings *findings)
{
	const struct stfs_torch_tensor *tensors;
	char quoted[STFS_QUOTED_MAX];
	uint32_t count;
	int r = 0;

	tensors = stfs_torch_tensors(torch, &count);
	for (uint32_t i = 0; r == 0 && i < count; i++)
		if (tensors[i].outsized)
			r = stfs_findings_add(findings, STFS_RULE_OUTSIZED_TENSOR, STFS_NO_POSITION, tensors[i].name,
					      "tensor \"%s\" has %" PRIu64 " bytes, more than the file: its elements are "
					      "repeated, or deflated", stfs_quote(tensors[i].name, quoted), tensors[i].bytes);
	return r;
}

/* ---- Storages ---- */

struct verifying {
	const struct stfs_progress *progress;
	uint64_t done, total;
};

static int tell(void *data, uint64_t bytes)
{
	struct verifying *state = data;

	state->done += bytes;
	if (state->progress->tell)
		state->progress->tell(state->progress->data, state->done, state->total);
	return 0;
}

/* Whether a storage is to be verified: it has a CRC, and what is inflated so far leaves room for it. */
static bool is_verified(const struct stfs_torch_storage *storage, uint64_t *room)
{
	if (!storage->has_crc)
		return false;
	if (!storage->deflated)
		return true;
	if (storage->size > *room)
		return false;
	*room -= storage->size;
	return true;
}

static int say_unverified(const struct stfs_torch_storage *storage, uint64_t file_len, struct stfs_findings *findings)
{
	char quoted[STFS_QUOTED_MAX];

	return stfs_findings_add(findings, STFS_RULE_UNVERIFIED_STORAGE, storage->offset, of_none,
				 "storage \"%s\" would be inflated to %" PRIu64 " bytes, and is not, in a file of %" PRIu64,
				 stfs_quote(storage->key, quoted), storage->size, file_len);
}

static int verify_one(struct stfs_torch *torch, uint32_t number, struct verifying *state,
		      struct stfs_findings *findings)
{
	struct stfs_err why = STFS_ERR_INIT;
	int r = stfs_torch_verify(torch, number, tell, state, &why);

	if (r != -EBADMSG)
		return r;
	return stfs_findings_add(findings, STFS_RULE_DAMAGED_STORAGE, why.position, of_none, "%s", why.message);
}

static int verify_all(const struct stfs_shard *shard, const struct stfs_scan_options *options,
		      struct stfs_findings *findings)
{
	const uint64_t most = stfs_max_u64(STFS_SCAN_INFLATED_MAX, 4 * stfs_min_u64(shard->size, INT64_MAX / 4));
	struct verifying state = {.progress = &options->progress};
	const struct stfs_torch_storage *storages;
	uint64_t room = most;
	uint32_t count, without = 0;
	int r = 0;

	storages = stfs_torch_storages(shard->torch, &count);
	for (uint32_t i = 0; i < count; i++)
		state.total += is_verified(&storages[i], &room) ? storages[i].size : 0;
	room = most;
	for (uint32_t i = 0; r == 0 && i < count; i++) {
		without += !storages[i].has_crc;
		if (is_verified(&storages[i], &room))
			r = verify_one(shard->torch, i, &state, findings);
		else if (storages[i].has_crc)
			r = say_unverified(&storages[i], shard->size, findings);
	}
	if (r == 0 && without)
		r = stfs_findings_add(findings, STFS_RULE_CHECKPOINT_NOTE, STFS_NO_POSITION, of_none,
				      "%" PRIu32 " storage%s: no CRC stands in the file, so damage would not show", without,
				      without == 1 ? "" : "s");
	return r;
}

/* ---- The whole ---- */

/* `to` is empty. */
static int copy_findings(const struct stfs_findings *from, struct stfs_findings *to)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < from->count; i++)
		r = stfs_findings_add(to, from->items[i].rule, from->items[i].position,
				      stfs_str_slice(from->items[i].tensor, from->items[i].tensor_len), "%s",
				      from->items[i].message);
	memcpy(to->counts, from->counts, sizeof(to->counts)); /* of a rule not all are kept */
	return r;
}

int stfs_scan_make(const struct stfs_shard *shard, const struct stfs_scan_options *options,
		   struct stfs_findings *findings)
{
	const struct stfs_torch *torch = shard->torch;
	int r = copy_findings(&shard->findings, findings);

	if (r == 0 && !torch)
		return 0;
	if (r == 0)
		r = say_harmless(torch, findings);
	if (r == 0)
		r = say_remarks(stfs_torch_refused(torch), STFS_RULE_REFUSED_TENSOR, findings);
	if (r == 0)
		r = say_outsized(torch, findings);
	if (r == 0)
		r = say_remarks(stfs_torch_left_out(torch), STFS_RULE_LEFT_OUT, findings);
	if (r == 0)
		r = say_remarks(stfs_torch_notes(torch), STFS_RULE_CHECKPOINT_NOTE, findings);
	return r == 0 && shard->header && !options->fast ? verify_all(shard, options, findings) : r;
}

/* ---- What else it is ---- */

/* Of a sound archive there is nothing to be searched but what torch does not read. */
static int look_at_unread(const struct stfs_shard *shard, struct stfs_suspects *suspects)
{
	STFS_AUTO_FREE uint64_t *headers = NULL;
	uint32_t count;
	int r = stfs_torch_unread_members(shard->torch, &headers, &count);

	return r < 0 ? r : stfs_suspects_find_members(shard->fd, shard->size, headers, count, suspects);
}

static int look_for_suspects(const struct stfs_shard *shard, const struct stfs_scan_options *options,
			     struct stfs_suspects *suspects)
{
	struct verifying state = {.progress = &options->progress, .total = shard->size};
	unsigned flags = options->fast ? STFS_SUSPECTS_QUICKLY : 0;

	if (shard->torch && shard->header && stfs_torch_form(shard->torch) == STFS_TORCH_ZIP)
		return look_at_unread(shard, suspects);
	if (shard->torch)
		flags |= shard->header ? STFS_SUSPECTS_BEHIND : STFS_SUSPECTS_WHOLE;
	return stfs_suspects_find(shard->fd, shard->size, flags, tell, &state, suspects);
}

int stfs_scan_suspects(const struct stfs_shard *shard, const struct stfs_scan_options *options,
		       struct stfs_suspects *suspects, struct stfs_findings *findings)
{
	int r;

	*suspects = (struct stfs_suspects){0};
	r = look_for_suspects(shard, options, suspects);
	if (r == 0 && shard->torch)
		r = stfs_suspects_drop_known(suspects, shard->torch);
	if (r == 0 && shard->header && (suspects->is_pickle || suspects->is_zip || suspects->is_tar))
		r = stfs_findings_add(findings, STFS_RULE_TWO_FORMATS, STFS_NO_POSITION, of_none, "it is %s too: who goes "
				      "by other bytes than its header reads something else in it",
				      suspects->is_pickle ? "a pickle" : suspects->is_zip ? "a zip archive" : "a tar archive");
	if (r == 0 && suspects->incomplete)
		r = stfs_findings_add(findings, STFS_RULE_NOT_ALL_SEARCHED, STFS_NO_POSITION, of_none, "not all of it was "
				      "searched for globals: it is too large, or made to be");
	return r;
}
