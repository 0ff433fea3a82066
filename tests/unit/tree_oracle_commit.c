/* SPDX-License-Identifier: MIT */
/* What a commit has to take, its calls, and what it makes of the model. */
#include "tree_oracle_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/io.h"

/* A commit that the disk had no room for is tried again without the largest files. */
static bool retried;
static size_t noted_count; /* what it had taken when that was noted */

/* ---- What a commit has to take: docs/writing.md, "A commit" ---- */

static bool is_asked(const struct file *f)
{
	for (size_t i = 0; i < request->count; i++)
		if (request->nodes[i] == f->node)
			return true;
	return false;
}

/* Whether what is removed but open goes in all the same: its bytes are kept. */
static bool is_asked_away(const struct file *f)
{
	const struct file *heir = named(f->was);

	return f->scratch >= 0 || request->all || (heir && is_asked(heir));
}

static bool is_removable(const struct file *f)
{
	return request->end || tree->nodes[f->node].detached || (!f->opens && f->scratch < 0) ||
	       (!retried && is_asked_away(f));
}

static bool is_evacuated(const struct file *f)
{
	return !retried && !request->end && f->was >= 0 && f->name < 0 && !tree->nodes[f->node].detached &&
	       (f->scratch >= 0 || f->opens) && is_asked_away(f);
}

/* Whether it has no reason of its own against it, and the type that it will have. */
static bool is_ready(struct file *f)
{
	unsigned changes = changes_of(f);
	bool asked = request->all || request->end || is_asked(f);
	enum stfs_fit how = fit(f, &f->taken_type);

	if (changes == STFS_CHANGE_REMOVED)
		return is_removable(f);
	if (!(changes & (STFS_CHANGE_NEW | STFS_CHANGE_REPLACED | STFS_CHANGE_RETYPED)))
		return true;
	if (changes & (STFS_CHANGE_NEW | STFS_CHANGE_REPLACED) && f->writers && !is_asked(f) && !request->end)
		return false;
	if (how == STFS_FIT_ROWS && f->rewritten && !asked && f->now.len < (f->own.is ? f->own.bytes : f->disk_type.bytes))
		return false;
	if ((how == STFS_FIT_NONE && !asked) || (how == STFS_FIT_NOT && !request->end))
		return false;
	if (how == STFS_FIT_NOT && !(changes & (STFS_CHANGE_NEW | STFS_CHANGE_REPLACED)))
		f->taken_type = f->disk_type;
	else if (how == STFS_FIT_NONE || how == STFS_FIT_NOT)
		f->taken_type = (struct type){.is = true, .dtype = STFS_U8, .rank = 1, .dims = {f->now.len},
					      .bytes = f->now.len};
	return true;
}

/* Who is in the model under the name that it wants, or that its heir leaves to it. */
static bool is_blocked(const struct file *f)
{
	const struct file *heir = f->name < 0 ? named(f->was) : NULL;

	if (f->name < 0)
		return heir && !heir->expected;
	for (const struct file *g = files; g < files + FILES; g++)
		if (g->used && g != f && g->was == f->name && !g->expected)
			return true;
	return false;
}

static void leave_out_blocked(void)
{
	bool again = true;

	while (again) {
		again = false;
		for (struct file *f = files; f < files + FILES; f++) {
			if (!f->used || !f->expected || !is_blocked(f))
				continue;
			f->expected = false;
			oracle_met.blocked++;
			again = true;
		}
	}
}

static void expect(void)
{
	for (struct file *f = files; f < files + FILES; f++) {
		f->taken = false;
		if (f->used && is_evacuated(f)) {
			oracle_met.evacuated++;
			if (!f->own.is) {
				f->own = f->disk_type;
				f->own.is = true;
				f->own.serial = ++serials;
			}
		}
		f->expected = f->used && changes_of(f) && is_ready(f);
		/* When no more than the type is wanted and it does not fit, nothing is left to take. */
		if (f->expected && changes_of(f) == STFS_CHANGE_RETYPED && fit(f, &(struct type){0}) == STFS_FIT_NOT)
			f->expected = false;
	}
	leave_out_blocked();
}

/* Without the largest, of those that bring bytes. */
static void expect_what_fits(void)
{
	uint64_t largest = 0, most = 0;

	retried = true;
	expect();
	for (struct file *f = files; f < files + FILES; f++) {
		if (!f->used || !f->expected || !(changes_of(f) & (STFS_CHANGE_NEW | STFS_CHANGE_REPLACED)))
			continue;
		largest = f->now.len > largest ? f->now.len : largest;
		if (tree->nodes[f->node].taking)
			most = f->now.len > most ? f->now.len : most;
	}
	for (struct file *f = files; f < files + FILES; f++)
		if (f->used && f->expected && changes_of(f) & (STFS_CHANGE_NEW | STFS_CHANGE_REPLACED) &&
		    f->now.len > most && !tree->nodes[f->node].taking)
			f->expected = false;
	ck_assert(trap.hit && trap.with_errno == ENOSPC && (most < largest || largest == 0));
	leave_out_blocked();
	oracle_met.retried++;
}

/* At the first call of a commit that has begun: T3, what it has taken is what is there now. */
static void note(void)
{
	if (noted)
		expect_what_fits();
	noted = true;
	noted_count = tree->taking_count;
	for (struct file *f = files; f < files + FILES; f++) {
		if (!f->used)
			continue;
		f->taken = tree->nodes[f->node].taking != NULL;
		ck_assert_msg(f->taken == f->expected, "node %u (name %d, in the model %d, changes %x) taken: %d, want %d; "
			      "all %d, end %d, fit %d, writers %u, rewritten %d", f->node, f->name, f->was,
			      changes_of(f), f->taken, f->expected, request->all, request->end,
			      (int)fit(f, &(struct type){0}), f->writers, f->rewritten);
		oracle_met.taken += f->taken;
		oracle_met.left_out += !f->taken && changes_of(f);
		f->staged_since = f->touched_since = false;
		f->to = f->name;
		f->taken_serial = f->own.is ? f->own.serial : 0;
		if (f->taken)
			set_bytes(&f->taken_bytes, f->was >= 0 && !f->staged ? &f->disk : &f->now);
	}
	taken_metadata = metadata_staged ? metadata : disk_metadata;
	metadata_since = false;
}

/* The commit has been done: its model is that of the directory. */
void apply(void)
{
	for (struct file *f = files; f < files + FILES; f++) {
		if (!f->used || !f->taken)
			continue;
		f->taken = false;
		f->was = f->to;
		f->staged = f->staged_since;
		if (f->to < 0) {
			stfs_buf_clear(&f->disk);
			if (!is_alive(f))
				free_file(f);
			continue;
		}
		set_bytes(&f->disk, &f->taken_bytes);
		f->disk_type = f->taken_type;
		if (f->own.is && f->own.serial == f->taken_serial)
			f->own.is = false;
		f->settled |= !f->own.is;
		/* Another layer since then may be on its way to the model by now: take the tree's word. */
		f->rewritten = f->rewritten && f->touched_since && tree && tree->nodes[f->node].rewritten;
	}
	disk_metadata = taken_metadata;
	metadata_staged = metadata_since;
	applied = true;
	oracle_met.commits++;
}

/* What waited for nothing but the commit to end is in the model now. */
static void drained(void)
{
	for (struct file *f = files; f < files + FILES; f++)
		if (is_alive(f) && f->was >= 0 && !tree->nodes[f->node].content)
			set_bytes(&f->disk, &f->now);
}

/* ---- Calls ---- */

static struct stfs_io calls;

/* Whether this call is made without the lock. */
static bool is_free(void)
{
	if (pthread_rwlock_trywrlock(&tree->lock) != 0)
		return false;
	pthread_rwlock_unlock(&tree->lock);
	return true;
}

static void disturb(void)
{
	if (applied)
		drained();
	for (size_t n = below(3); n > 0; n--) {
		oracle_met.midway++;
		oracle_change();
	}
	if (below(6) == 0) {
		oracle_check("in the middle of a commit");
	}
}

/* A call of a commit: whether it fails. */
static bool fails(enum oracle_call kind)
{
	if (busy || !request)
		return false;
	if (tree->committing && (!noted || (!applied && tree->model == model_before && noted_count != tree->taking_count)))
		note();
	if (noted && !applied && tree->model != model_before && is_free())
		apply();
	if (noted && setup.midway && !request->end && below(4) == 0 && is_free())
		disturb();
	if (!trap.armed || trap.kind != kind || (trap.count_down > 1 && trap.count_down--) ||
	    (trap.count_down == 0 && !trap.for_ever))
		return false;
	trap.count_down = 0;
	trap.hit = true;
	errno = trap.with_errno;
	return true;
}

static ssize_t trap_pread(int fd, void *buffer, size_t len, off_t offset)
{
	return fails(CALL_PREAD) ? -1 : pread(fd, buffer, len, offset);
}

static ssize_t trap_pwrite(int fd, const void *bytes, size_t len, off_t offset)
{
	return fails(CALL_PWRITE) ? -1 : pwrite(fd, bytes, len, offset);
}

static ssize_t trap_copy(int from, off_t *from_at, int to, off_t *to_at, size_t len, unsigned flags)
{
	return fails(CALL_COPY) ? -1 : copy_file_range(from, from_at, to, to_at, len, flags);
}

static int trap_fsync(int fd)
{
	return fails(CALL_FSYNC) ? -1 : fsync(fd);
}

static int trap_ftruncate(int fd, off_t len)
{
	return fails(CALL_FTRUNCATE) ? -1 : ftruncate(fd, len);
}

static int trap_fallocate(int fd, int mode, off_t offset, off_t len)
{
	return fails(CALL_FALLOCATE) ? -1 : fallocate(fd, mode, offset, len);
}

static int trap_openat(int folder, const char *name, int flags, mode_t mode)
{
	return fails(CALL_OPENAT) ? -1 : openat(folder, name, flags, mode);
}

static int trap_renameat2(int old_folder, const char *old_name, int folder, const char *name, unsigned flags)
{
	return fails(CALL_RENAMEAT2) ? -1 : renameat2(old_folder, old_name, folder, name, flags);
}

static int trap_unlinkat(int folder, const char *name, int flags)
{
	return fails(CALL_UNLINKAT) ? -1 : unlinkat(folder, name, flags);
}

static void *trap_mmap(void *address, size_t len, int prot, int flags, int fd, off_t offset)
{
	return fails(CALL_MMAP) ? MAP_FAILED : mmap(address, len, prot, flags, fd, offset);
}

void oracle_use_traps(void)
{
	calls = stfs_io_system;
	calls.pread = trap_pread;
	calls.pwrite = trap_pwrite;
	calls.copy_file_range = trap_copy;
	calls.fsync = trap_fsync;
	calls.ftruncate = trap_ftruncate;
	calls.fallocate = trap_fallocate;
	calls.openat = trap_openat;
	calls.renameat2 = trap_renameat2;
	calls.unlinkat = trap_unlinkat;
	calls.mmap = trap_mmap;
	stfs_io = &calls;
}

void oracle_arm(enum oracle_call kind, size_t number, int with_errno, bool for_ever)
{
	trap.armed = true;
	trap.hit = false;
	trap.kind = kind;
	trap.count_down = number;
	trap.with_errno = with_errno;
	trap.for_ever = for_ever;
}

bool oracle_disarm(void)
{
	trap.armed = false;
	return trap.hit;
}

/* ---- Commits ---- */

static int commit(const struct stfs_commit_request *what)
{
	struct stfs_commit_report report;
	struct stfs_err err = STFS_ERR_INIT;
	size_t count = 0;
	int r;

	request = what;
	model_before = tree->model;
	noted = applied = retried = false;
	if (!tree->stuck && tree->edit)
		expect();
	for (const struct file *f = files; f < files + FILES; f++)
		count += f->used && f->expected;
	r = stfs_tree_commit(tree, what, &report, &err);
	request = NULL;
	ck_assert_msg(r == 0 || trap.hit, "commit: %d: %s", r, err.message);
	ck_assert_int_eq(err.code < 0, r < 0 || report.refused || report.no_room);
	ck_assert(!report.no_room || retried);
	if (tree->edit && tree->model != model_before && !applied) {
		ck_assert(noted);
		apply();
	}
	ck_assert(applied || r < 0 || !tree->edit || count == 0);
	oracle_met.failed += r < 0;
	if (r == 0 && tree->edit) {
		ck_assert_uint_eq(report.listed, noted ? noted_count : 0);
		metadata_staged &= noted;
	}
	stfs_commit_report_free(&report);
	if (tree->edit)
		drained();
	if (tree->stuck)
		return r;
	for (struct file *f = files; f < files + FILES; f++) {
		f->taken = false;
		if (f->used && r < 0 && !tree->nodes[f->node].type) /* it was not evacuated */
			f->own.is = false;
		if (f->used && f->was < 0 && !is_alive(f)) /* it was removed while it was taken */
			free_file(f);
	}
	return r;
}

/* Nobody reads them behind the last commit. */
static void drop_unnamed(void)
{
	for (int i = 0; i < SCRATCHES; i++)
		if (scratched(i))
			remove_file(scratched(i));
	for (struct file *f = files; f < files + FILES; f++)
		while (f->used && f->opens && !is_linked(f))
			close_file(f);
}

int oracle_commit(bool end)
{
	struct stfs_commit_request what = {.all = end || below(2), .end = end};
	uint32_t nodes[3];
	bool left_out[3];
	struct file *asked[3];

	if (end)
		drop_unnamed();
	what.nodes = nodes;
	what.left_out = left_out;
	for (size_t n = end ? 0 : below(3); what.count < n; what.count++) {
		asked[what.count] = pick(any);
		if (!asked[what.count])
			break;
		nodes[what.count] = asked[what.count]->node;
		left_out[what.count] = false;
	}
	return commit(&what);
}
