/* SPDX-License-Identifier: MIT */
/* Models and trees of the oracle, opened, closed and recovered. */
#include "stfs_folder.h"
#include "tree_oracle_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/cleanup.h"

/* ---- Opening and closing ---- */

const char *model_path(void)
{
	return at(setup.sharded ? "m.safetensors.index.json" : "m.safetensors");
}

static void bind_files(void)
{
	uint32_t number;

	for (struct file *f = files; f < files + FILES; f++) {
		if (!f->used)
			continue;
		if (f->was < 0) {
			free_file(f);
			continue;
		}
		f->name = f->was;
		f->scratch = -1;
		f->opens = f->writers = 0;
		f->own.is = f->staged = f->rewritten = f->known = f->taken = false;
		f->settled = true;
		set_bytes(&f->now, &f->disk);
		ck_assert_int_eq(stfs_tree_find(tree, stfs_str_from(name_text(f->name)), &number), 0);
		f->node = stfs_tree_named(tree, number);
		ck_assert_uint_ne(f->node, STFS_NO_NUMBER);
	}
	for (int i = 0; i < NAMES; i++)
		declared[i].is = text_removed[i] = false;
	metadata = disk_metadata;
	metadata_staged = false;
}

static void open_tree(void)
{
	bool there = access(model_path(), F_OK) == 0;
	const struct stfs_tree_options options = {
		.path = model_path(), .staged = setup.staged,
		.mode = setup.mode == STFS_TREE_CREATE && there ? STFS_TREE_RW : setup.mode};
	struct stfs_err err = STFS_ERR_INIT;

	ck_assert_msg(stfs_tree_open(&options, &tree, &err) == 0, "%s", err.message);
	bind_files();
	oracle_check("opened");
}

void oracle_reopen(void)
{
	stfs_tree_close(tree);
	open_tree();
	oracle_check_disk("reopened");
}

/* The model after a recovery: the old one or the new one. */
static void settle_on(const struct stfs_model *model)
{
	STFS_AUTO_BUF struct stfs_buf why = STFS_BUF_INIT;
	bool fresh = !is_model(model, false, &why);
	struct stfs_tensor_ref ref;

	oracle_met.recovered_old += !fresh;
	ck_assert_msg(!fresh || is_model(model, true, &why), "neither old nor new: %s", stfs_buf_cstr(&why));
	if (fresh)
		apply();
	/* What was to be written in place may be there, or not. */
	for (uint32_t id = 0; id < stfs_model_ids(model); id++) {
		if (!stfs_model_tensor(model, id, &ref))
			continue;
		for (struct file *f = files; f < files + FILES; f++)
			if (f->used && f->was >= 0 && stfs_str_is(ref.name, name_text(f->was)))
				ck_assert_int_eq(stfs_model_pread(model, &ref, f->disk.data, f->disk.len, 0),
						 (ssize_t)f->disk.len);
	}
}

bool oracle_resume(void)
{
	struct stfs_err err = STFS_ERR_INIT;

	if (!stfs_edit_is_stuck(tree->edit))
		return false; /* but the bytes of a sync that failed cannot be trusted */
	oracle_met.resumed++;
	busy = true;
	ck_assert_msg(stfs_tree_resume(tree, &err) == 0, "%s", err.message);
	settle_on(tree->model);
	busy = false;
	ck_assert(!tree->stuck);
	oracle_check("resumed");
	return true;
}

void oracle_recover(void)
{
	enum stfs_recovered what;
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_model *model;

	oracle_met.stuck++;
	stfs_tree_close(tree);
	tree = NULL;
	busy = true;
	ck_assert_msg(stfs_recover(model_path(), 0, &what, &err) == 0, "%s", err.message);
	model = open_model("recovered");
	settle_on(model);
	stfs_model_close(model);
	busy = false;
	open_tree();
	oracle_check_disk("recovered");
}

/* A file of every `step`-th name from `first` on. */
static void make_file(const char *name, int first, int step, struct stfs_buf *index)
{
	struct stfs_err err = STFS_ERR_INIT;
	int fd = memfd_create("bytes", MFD_CLOEXEC);
	struct stfs_edit *edit;
	uint64_t offset = 0;

	ck_assert_msg(stfs_edit_create(at(name), 0, &edit, &err) == 0, "%s", err.message);
	for (int i = first; i < NAMES - 2; i += step) {
		struct file *f = new_file(0);
		uint64_t len = pick_len();

		f->was = i;
		f->disk_type = (struct type){.is = true, .dtype = STFS_U8, .rank = 1, .dims = {len}, .bytes = len};
		ck_assert_int_eq(stfs_buf_add(&f->disk, random_bytes(len), len), 0);
		ck_assert_int_eq(pwrite(fd, f->disk.data, len, (off_t)offset), (ssize_t)len);
		ck_assert_int_eq(stfs_edit_put(edit, stfs_str_from(name_text(i)), STFS_U8, &len, 1,
					       (struct stfs_source){.fd = fd, .offset = offset}, &err), 0);
		offset += len;
		stfs_buf_printf(index, "%s\"%s\":\"%s\"", index->len ? "," : "", name_text(i), name);
	}
	ck_assert_msg(stfs_edit_commit(edit, NULL, NULL, &err) == 0, "%s", err.message);
	stfs_edit_close(edit);
	close(fd);
}

static void make_model(void)
{
	STFS_AUTO_BUF struct stfs_buf index = STFS_BUF_INIT;
	char name[40];
	FILE *file;

	if (!setup.sharded) {
		make_file("m.safetensors", 0, 1, &index);
		return;
	}
	for (int shard = 0; shard < SHARDS; shard++) {
		snprintf(name, sizeof(name), "m-%d.safetensors", shard);
		make_file(name, shard, SHARDS, &index);
	}
	file = fopen(model_path(), "we");
	ck_assert_ptr_nonnull(file);
	fprintf(file, "{\"weight_map\":{%s}}", stfs_buf_cstr(&index));
	ck_assert_int_eq(fclose(file), 0);
}

void oracle_begin(const struct oracle_setup *wanted)
{
	setup = *wanted;
	state = setup.seed;
	memset(files, 0, sizeof(files));
	memset(declared, 0, sizeof(declared));
	memset(text_removed, 0, sizeof(text_removed));
	memset(&trap, 0, sizeof(trap));
	metadata = disk_metadata = 0;
	metadata_staged = busy = false;
	make_folder("tree");
	oracle_use_traps();
	if (setup.mode != STFS_TREE_CREATE)
		make_model();
	open_tree();
	oracle_check_disk("opened");
}

void oracle_end(void)
{
	oracle_commit(true);
	oracle_check("at the end");
	oracle_check_disk("at the end");
	oracle_close_files();
	if (tree->edit) /* no block was forgotten */
		ck_assert_uint_eq(stfs_tree_spooled(tree), 0);
	stfs_tree_close(tree);
	tree = NULL;
	for (struct file *f = files; f < files + FILES; f++)
		free_file(f);
	remove_folder();
}

struct stfs_tree *oracle_tree(void)
{
	return tree;
}
