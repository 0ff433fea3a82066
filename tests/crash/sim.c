/* SPDX-License-Identifier: MIT */
#include "sim.h"

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/io.h"

#define FILES_MAX 64
#define OPS_MAX 40000
#define NAME_LEN 256
#define UNMAPPED 0

/* A file: what it holds, and where its blocks lie on the disk. */
struct file {
	char *bytes;
	size_t len;
	uint64_t *map; /* physical block numbers; UNMAPPED: a hole */
	size_t blocks;
	char name[NAME_LEN]; /* "" when it has none */
	ino_t inode;         /* of the real file, now */
	bool used;
};

enum kind { OP_CREATE, OP_UNLINK, OP_RENAME, OP_WRITE, OP_TRUNCATE, OP_COLLAPSE, OP_INSERT, OP_CLONE, OP_SYNC,
	    OP_SYNC_FOLDER };

struct op {
	enum kind kind;
	int file, other; /* numbers in files */
	uint64_t at, len;
	char *data;      /* of a write */
	uint64_t *map;   /* of a write: the blocks that it was given; of a clone: all */
	size_t blocks;
	char name[NAME_LEN], to[NAME_LEN];
};

struct state {
	struct file files[FILES_MAX];
};

struct sim_saved {
	struct state base;
	struct op *ops;
	size_t count;
};

static char root[4096];
static struct sim_abilities able;
static uint64_t seed, next_physical;
static struct state base; /* when recording began */
static struct state now;
static struct op *ops;
static size_t op_count;
static bool recording;
static bool first_run; /* what is recorded is no recovery */
static bool crashed;   /* and the next is one */
static void (*on_poison)(void);

static uint64_t random_below(uint64_t bound)
{
	uint64_t z = seed += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return bound ? (z ^ z >> 31) % bound : 0;
}

/* ---- Files in memory ---- */

static void *copy_of(const void *bytes, size_t len)
{
	void *copy = malloc(len ? len : 1);

	ck_assert_ptr_nonnull(copy);
	if (len)
		memcpy(copy, bytes, len);
	return copy;
}

static void free_state(struct state *s)
{
	for (int i = 0; i < FILES_MAX; i++) {
		free(s->files[i].bytes);
		free(s->files[i].map);
	}
	memset(s, 0, sizeof(*s));
}

static void copy_state(struct state *to, const struct state *from)
{
	free_state(to);
	*to = *from;
	for (int i = 0; i < FILES_MAX; i++) {
		to->files[i].bytes = copy_of(from->files[i].bytes, from->files[i].len);
		to->files[i].map = copy_of(from->files[i].map, from->files[i].blocks * sizeof(uint64_t));
	}
}

static void set_len(struct file *f, size_t len)
{
	size_t blocks = (len + SIM_BLOCK - 1) / SIM_BLOCK;

	f->bytes = realloc(f->bytes, len ? len : 1);
	f->map = realloc(f->map, (blocks ? blocks : 1) * sizeof(*f->map));
	ck_assert(f->bytes && f->map);
	if (len > f->len)
		memset(f->bytes + f->len, 0, len - f->len);
	for (size_t b = f->blocks; b < blocks; b++)
		f->map[b] = UNMAPPED;
	f->len = len;
	f->blocks = blocks;
}

/* A place on the disk; now and then somewhere else, so that there are many extents. */
static uint64_t allocate(void)
{
	next_physical += random_below(4) ? 1 : 3 + random_below(50);
	return next_physical;
}

static void write_bytes(struct file *f, const struct op *op, size_t from, size_t len)
{
	if (op->at + from + len > f->len)
		set_len(f, op->at + from + len);
	memcpy(f->bytes + op->at + from, op->data + from, len);
	for (size_t b = (op->at + from) / SIM_BLOCK; len && b <= (op->at + from + len - 1) / SIM_BLOCK; b++)
		if (f->map[b] == UNMAPPED)
			f->map[b] = op->map[b - op->at / SIM_BLOCK];
}

/* Moves blocks of content and map together: `count` blocks from `from` to `to`. What they leave is a hole. */
static void move_blocks(struct file *f, size_t from, size_t to, size_t count)
{
	size_t end = (from > to ? from : to) + count, bytes;

	if (end * SIM_BLOCK > f->len && end > f->blocks)
		set_len(f, end * SIM_BLOCK);
	bytes = count * SIM_BLOCK;
	if (from * SIM_BLOCK + bytes > f->len)
		bytes = f->len - from * SIM_BLOCK;
	if (to * SIM_BLOCK + bytes > f->len)
		bytes = f->len - to * SIM_BLOCK; /* the last block of an insert */
	memmove(f->bytes + to * SIM_BLOCK, f->bytes + from * SIM_BLOCK, bytes);
	memmove(f->map + to, f->map + from, count * sizeof(*f->map));
	for (size_t b = from; b < from + count; b++) {
		if (b >= to && b < to + count)
			continue;
		f->map[b] = UNMAPPED;
		memset(f->bytes + b * SIM_BLOCK, 0,
		       f->len - b * SIM_BLOCK < SIM_BLOCK ? f->len - b * SIM_BLOCK : SIM_BLOCK);
	}
}

/* Blocks [at, ...) that lie one behind the other on the disk, or are holes: up to `end`. */
static size_t run_of(const struct file *f, size_t at, size_t end)
{
	size_t n = 1;

	while (at + n < end && (f->map[at] == UNMAPPED ? f->map[at + n] == UNMAPPED
						       : f->map[at + n] == f->map[at] + n))
		n++;
	return n;
}

/* A collapse of which `parts` extents have moved; all and the length when there are no more. */
static void collapse(struct file *f, uint64_t offset, uint64_t len, size_t parts)
{
	size_t at = offset / SIM_BLOCK, gap = len / SIM_BLOCK, from = at + gap, blocks = f->blocks;
	size_t tail = f->len;

	for (size_t b = at; b < from; b++)
		f->map[b] = UNMAPPED;
	memset(f->bytes + offset, 0, len);
	while (from < blocks && parts > 0) {
		size_t n = run_of(f, from, blocks);

		parts -= f->map[from] != UNMAPPED;
		move_blocks(f, from, from - gap, n);
		from += n;
	}
	if (from >= blocks && parts > 0)
		set_len(f, tail - len);
}

static void insert(struct file *f, uint64_t offset, uint64_t len, size_t parts)
{
	size_t at = offset / SIM_BLOCK, gap = len / SIM_BLOCK, end = f->blocks, tail = f->len;

	set_len(f, tail + len);
	while (end > at && parts > 0) {
		size_t n = 1;

		/* Extents from the back. */
		while (end - n > at && (f->map[end - 1] == UNMAPPED
						? f->map[end - n - 1] == UNMAPPED
						: f->map[end - n - 1] == f->map[end - 1] - n))
			n++;
		parts -= f->map[end - 1] != UNMAPPED;
		move_blocks(f, end - n, end - n + gap, n);
		end -= n;
	}
	if (f->len != tail + len)
		set_len(f, tail + len);
}

static size_t extents_of(const struct file *f, size_t from)
{
	size_t count = 0;

	for (size_t b = from; b < f->blocks; b += run_of(f, b, f->blocks))
		count += f->map[b] != UNMAPPED;
	return count;
}

static int named(const struct state *s, const char *name)
{
	for (int i = 0; i < FILES_MAX; i++)
		if (s->files[i].used && strcmp(s->files[i].name, name) == 0)
			return i;
	return -1;
}

/* The call, on files in memory. Of a write bytes [from, from + len). */
static void apply(struct state *s, const struct op *op, size_t from, size_t len)
{
	struct file *f = op->file >= 0 ? &s->files[op->file] : NULL;
	int victim;

	switch (op->kind) {
	case OP_CREATE:
		f->used = true;
		strcpy(f->name, op->name);
		break;
	case OP_UNLINK:
		f->name[0] = '\0';
		break;
	case OP_RENAME:
		victim = named(s, op->to);
		if (victim >= 0)
			s->files[victim].name[0] = '\0';
		strcpy(f->name, op->to);
		break;
	case OP_WRITE: write_bytes(f, op, from, len); break;
	case OP_TRUNCATE: set_len(f, op->at); break;
	case OP_COLLAPSE: collapse(f, op->at, op->len, SIZE_MAX); break;
	case OP_INSERT: insert(f, op->at, op->len, SIZE_MAX); break;
	case OP_CLONE:
		set_len(f, 0);
		set_len(f, op->len);
		memcpy(f->bytes, op->data, op->len);
		memcpy(f->map, op->map, op->blocks * sizeof(*op->map));
		break;
	case OP_SYNC:
	case OP_SYNC_FOLDER:
		break;
	}
}

/* ---- The calls ---- */

static int number_of(int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return -1;
	for (int i = 0; i < FILES_MAX; i++)
		if (now.files[i].used && now.files[i].inode == st.st_ino)
			return i;
	return -1;
}

static struct op *note(enum kind kind, int file)
{
	struct op *op;

	ck_assert_uint_lt(op_count, OPS_MAX);
	op = &ops[op_count++];
	*op = (struct op){.kind = kind, .file = file, .other = -1};
	return op;
}

/* The call is noted, done in memory, and forgotten again unless it is to be recorded. */
static void done(struct op *op)
{
	apply(&now, op, 0, op->len);
	if (recording)
		return;
	free(op->data);
	free(op->map);
	op_count--;
}

static void poisoned(void)
{
	void (*hook)(void) = on_poison;

	on_poison = NULL;
	if (hook)
		hook();
}

static ssize_t sim_pwrite(int fd, const void *bytes, size_t len, off_t offset)
{
	int file = number_of(fd);
	ssize_t put = pwrite(fd, bytes, len, offset);
	struct op *op;

	if (put <= 0 || file < 0)
		return put;
	/* The length was set with the record: a mark changes no more than bytes. */
	if (first_run && len > 8 && memcmp(bytes, "STFSMRK1", 8) == 0)
		ck_assert_uint_le((uint64_t)offset + len, now.files[file].len);
	op = note(OP_WRITE, file);
	op->at = (uint64_t)offset;
	op->len = (uint64_t)put;
	op->data = copy_of(bytes, (size_t)put);
	op->blocks = (op->at + op->len - 1) / SIM_BLOCK - op->at / SIM_BLOCK + 1;
	op->map = malloc(op->blocks * sizeof(*op->map));
	for (size_t b = 0; b < op->blocks; b++)
		op->map[b] = allocate();
	done(op);
	if (len == 8 && offset == 0 && ((const unsigned char *)bytes)[7] & 0x80)
		poisoned();
	return put;
}

static ssize_t sim_copy_file_range(int from, off_t *from_at, int to, off_t *to_at, size_t len, unsigned flags)
{
	errno = EXDEV; /* let it go through pwrite */
	return -1;
}

static int sim_fsync(int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -1;
	if (S_ISDIR(st.st_mode))
		done(note(OP_SYNC_FOLDER, -1));
	else if (number_of(fd) >= 0)
		done(note(OP_SYNC, number_of(fd)));
	return 0;
}

static int sim_ftruncate(int fd, off_t len)
{
	int file = number_of(fd);
	struct op *op;

	if (ftruncate(fd, len) < 0)
		return -1;
	if (file < 0)
		return 0;
	op = note(OP_TRUNCATE, file);
	op->at = (uint64_t)len;
	done(op);
	return 0;
}

/* The real file becomes what the one in memory is. */
static void write_through(int fd, const struct file *f)
{
	ck_assert_int_eq(ftruncate(fd, 0), 0);
	ck_assert_int_eq(pwrite(fd, f->bytes, f->len, 0), f->len);
}

static int sim_fallocate(int fd, int mode, off_t offset, off_t len)
{
	bool is_collapse = mode == FALLOC_FL_COLLAPSE_RANGE;
	int file = number_of(fd);
	struct op *op;

	if (mode == FALLOC_FL_KEEP_SIZE)
		return 0;
	if (!able.shift || file < 0) {
		errno = EOPNOTSUPP;
		return -1;
	}
	if (offset % SIM_BLOCK || len % SIM_BLOCK ||
	    (uint64_t)offset + (is_collapse ? (uint64_t)len : 0) >= now.files[file].len) {
		errno = EINVAL;
		return -1;
	}
	op = note(is_collapse ? OP_COLLAPSE : OP_INSERT, file);
	op->at = (uint64_t)offset;
	op->len = (uint64_t)len;
	done(op);
	write_through(fd, &now.files[file]);
	return 0;
}

static int sim_clone(int to, int from)
{
	int file = number_of(to), other = number_of(from);
	struct op *op;

	if (!able.clone) {
		errno = EOPNOTSUPP;
		return -1;
	}
	op = note(OP_CLONE, file);
	op->len = now.files[other].len;
	op->blocks = now.files[other].blocks;
	op->data = copy_of(now.files[other].bytes, op->len);
	op->map = copy_of(now.files[other].map, op->blocks * sizeof(*op->map));
	done(op);
	write_through(to, &now.files[file]);
	return 0;
}

static int sim_clone_range(int to, uint64_t to_at, int from, uint64_t from_at, uint64_t len)
{
	char *bytes;
	ssize_t put;

	if (!able.clone || to_at % SIM_BLOCK || from_at % SIM_BLOCK || len % SIM_BLOCK) {
		errno = able.clone ? EINVAL : EOPNOTSUPP;
		return -1;
	}
	bytes = malloc(len ? len : 1);
	ck_assert_int_eq(pread(from, bytes, len, (off_t)from_at), len);
	put = len ? sim_pwrite(to, bytes, len, (off_t)to_at) : 0;
	free(bytes);
	return put == (ssize_t)len ? 0 : -1;
}

static int sim_fiemap(int fd, struct fiemap *map)
{
	const struct file *f = &now.files[number_of(fd)];
	uint64_t end = map->fm_start + map->fm_length;
	uint32_t n = 0;
	size_t run;

	for (size_t b = map->fm_start / SIM_BLOCK; b < f->blocks && b * SIM_BLOCK < end; b += run) {
		run = run_of(f, b, f->blocks);
		if (f->map[b] == UNMAPPED)
			continue;
		if (n == map->fm_extent_count)
			break;
		map->fm_extents[n++] = (struct fiemap_extent){.fe_logical = b * SIM_BLOCK,
			.fe_physical = f->map[b] * SIM_BLOCK, .fe_length = run * SIM_BLOCK};
	}
	map->fm_mapped_extents = n;
	return 0;
}

static int sim_openat(int folder, const char *name, int flags, mode_t mode)
{
	int fd = openat(folder, name, flags, mode), i = 0;
	struct stat st;
	struct op *op;

	if (fd < 0 || !(flags & O_EXCL || (flags & O_TMPFILE) == O_TMPFILE) || fstat(fd, &st) < 0)
		return fd;
	/* A number that a file without a name had before. */
	if (number_of(fd) >= 0)
		now.files[number_of(fd)].inode = 0;
	while (i < FILES_MAX && now.files[i].used)
		i++;
	ck_assert_int_lt(i, FILES_MAX);
	op = note(OP_CREATE, i);
	strcpy(op->name, flags & O_CREAT ? name : "");
	now.files[i].inode = st.st_ino;
	done(op);
	return fd;
}

static int sim_renameat2(int old_folder, const char *old_name, int folder, const char *name, unsigned flags)
{
	struct op *op;

	if (renameat2(old_folder, old_name, folder, name, flags) < 0)
		return -1;
	op = note(OP_RENAME, named(&now, old_name));
	strcpy(op->name, old_name);
	strcpy(op->to, name);
	done(op);
	return 0;
}

static int sim_unlinkat(int folder, const char *name, int flags)
{
	struct op *op;

	if (unlinkat(folder, name, flags) < 0)
		return -1;
	op = note(OP_UNLINK, named(&now, name));
	strcpy(op->name, name);
	done(op);
	return 0;
}

static struct stfs_io calls;

/* ---- The folder ---- */

static void empty_folder(void)
{
	DIR *dir = opendir(root);
	struct dirent *entry;

	ck_assert_ptr_nonnull(dir);
	while ((entry = readdir(dir)))
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			ck_assert_int_eq(unlinkat(dirfd(dir), entry->d_name, 0), 0);
	closedir(dir);
}

/* Puts the files in memory into the folder; those without a name are gone. */
static void put_folder(struct state *s)
{
	char path[sizeof(root) + NAME_LEN];
	struct stat st;
	int fd;

	empty_folder();
	for (int i = 0; i < FILES_MAX; i++) {
		struct file *f = &s->files[i];

		if (!f->used || !f->name[0]) {
			free(f->bytes);
			free(f->map);
			*f = (struct file){0};
			continue;
		}
		snprintf(path, sizeof(path), "%s/%s", root, f->name);
		fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		ck_assert_int_ge(fd, 0);
		ck_assert_int_eq(pwrite(fd, f->bytes, f->len, 0), f->len);
		ck_assert_int_eq(fstat(fd, &st), 0);
		f->inode = st.st_ino;
		close(fd);
	}
}

static int sim_fstatvfs(int fd, struct statvfs *fs)
{
	int r = fstatvfs(fd, fs);

	if (r == 0 && able.room) {
		fs->f_frsize = 1;
		fs->f_bavail = able.room;
	}
	return r;
}

static void take_folder(void)
{
	DIR *dir = opendir(root);
	struct dirent *entry;
	struct stat st;
	int fd, i = 0;

	ck_assert_ptr_nonnull(dir);
	free_state(&now);
	while ((entry = readdir(dir))) {
		struct file *f = &now.files[i];

		if (entry->d_name[0] == '.' && strchr("./", entry->d_name[1] ? entry->d_name[1] : '.'))
			continue;
		fd = openat(dirfd(dir), entry->d_name, O_RDONLY | O_CLOEXEC);
		ck_assert(fd >= 0 && fstat(fd, &st) == 0);
		f->used = true;
		strcpy(f->name, entry->d_name);
		f->inode = st.st_ino;
		set_len(f, (size_t)st.st_size);
		ck_assert_int_eq(pread(fd, f->bytes, f->len, 0), f->len);
		for (size_t b = 0; b < f->blocks; b++)
			f->map[b] = allocate();
		close(fd);
		i++;
	}
	closedir(dir);
}

void sim_begin(const char *folder, struct sim_abilities abilities, uint64_t random_seed)
{
	calls = stfs_io_system;
	calls.pwrite = sim_pwrite;
	calls.copy_file_range = sim_copy_file_range;
	calls.fsync = sim_fsync;
	calls.ftruncate = sim_ftruncate;
	calls.fallocate = sim_fallocate;
	calls.clone = sim_clone;
	calls.clone_range = sim_clone_range;
	calls.fiemap = sim_fiemap;
	calls.fstatvfs = sim_fstatvfs;
	calls.openat = sim_openat;
	calls.renameat2 = sim_renameat2;
	calls.unlinkat = sim_unlinkat;
	snprintf(root, sizeof(root), "%s", folder);
	able = abilities;
	seed = random_seed;
	ops = calloc(OPS_MAX, sizeof(*ops));
	ck_assert_ptr_nonnull(ops);
	take_folder();
	stfs_io = &calls;
}

static void forget_ops(void)
{
	for (size_t i = 0; i < op_count; i++) {
		free(ops[i].data);
		free(ops[i].map);
	}
	op_count = 0;
}

void sim_end(void)
{
	stfs_io = &stfs_io_system;
	forget_ops();
	free(ops);
	ops = NULL;
	recording = false;
	free_state(&base);
	free_state(&now);
}

void sim_record(void)
{
	forget_ops();
	copy_state(&base, &now);
	recording = true;
	first_run = !crashed;
}

size_t sim_calls(void)
{
	return op_count;
}

const char *sim_name(size_t call)
{
	static const char *const kinds[] = {"create", "unlink", "rename", "write", "truncate", "collapse", "insert",
					    "clone", "fsync", "fsync folder"};
	static char line[600];

	if (call >= op_count)
		return "after the last";
	snprintf(line, sizeof(line), "%s %s%s at %llu, %llu bytes", kinds[ops[call].kind],
		 ops[call].file >= 0 ? now.files[ops[call].file].name : "", ops[call].to,
		 (unsigned long long)ops[call].at, (unsigned long long)ops[call].len);
	return line;
}

void sim_on_poison(void (*hook)(void))
{
	on_poison = hook;
}

void sim_count_inserts(size_t *all, size_t *at_0)
{
	*all = *at_0 = 0;
	for (size_t i = 0; i < op_count; i++) {
		*all += ops[i].kind == OP_INSERT;
		*at_0 += ops[i].kind == OP_INSERT && ops[i].at == 0;
	}
}

/* ---- Crashes ---- */

static bool is_folder_op(const struct op *op)
{
	return op->kind == OP_CREATE || op->kind == OP_UNLINK || op->kind == OP_RENAME;
}

/* The number of calls, of those before `call`, that an fsync has made durable for this file. */
static size_t durable(int file, size_t call)
{
	for (size_t i = call; i > 0; i--)
		if (file >= 0 ? ops[i - 1].kind == OP_SYNC && ops[i - 1].file == file
			      : ops[i - 1].kind == OP_SYNC_FOLDER)
			return i;
	return 0;
}

static void apply_torn(struct state *s, const struct op *op)
{
	uint64_t from, len;

	if (random_below(2))
		return;
	from = random_below(3) ? 0 : random_below(op->len);
	len = random_below(3) ? op->len - from : random_below(op->len - from + 1);
	/* Sectors are written whole. */
	if (op->len > 512) {
		from -= (op->at + from) % 512 < from ? (op->at + from) % 512 : 0;
		len = from + len < op->len ? len - (len > 512 ? (op->at + from + len) % 512 : 0) : len;
	} else {
		from = 0;
		len = op->len;
	}
	if (len)
		apply(s, op, from, len);
}

/* What a power cut before `call` leaves. */
static void apply_cut(struct state *s, size_t call)
{
	size_t folder_synced = durable(-1, call), cut[FILES_MAX];
	size_t folder_cut = folder_synced + random_below(call - folder_synced + 1);
	/* Most file systems keep the order of a folder's changes; nobody promises it. */
	bool in_order = random_below(2);

	for (int f = 0; f < FILES_MAX; f++) {
		cut[f] = durable(f, call);
		cut[f] += random_below(call - cut[f] + 1);
	}
	for (size_t i = 0; i < call; i++) {
		const struct op *op = &ops[i];
		bool shifted = false;

		if (is_folder_op(op)) {
			if (i < folder_synced || (in_order ? i < folder_cut : !random_below(2)) || (op->kind == OP_CREATE && !op->name[0]))
				apply(s, op, 0, op->len);
			else if (op->kind == OP_CREATE)
				s->files[op->file].used = true; /* there, but without a name */
			continue;
		}
		if (op->file < 0)
			continue;
		/* A shift flushes what was written before it; the changes of a file's shape keep their order. */
		for (size_t k = i; k < cut[op->file]; k++)
			shifted |= ops[k].file == op->file &&
				   (ops[k].kind == OP_COLLAPSE || ops[k].kind == OP_INSERT);
		if (i < durable(op->file, call) || shifted || (op->kind != OP_WRITE && i < cut[op->file]))
			apply(s, op, 0, op->len);
		else if (op->kind == OP_WRITE)
			apply_torn(s, op);
	}
}

size_t sim_parts(size_t call)
{
	size_t count;

	if (call >= op_count || (ops[call].kind != OP_COLLAPSE && ops[call].kind != OP_INSERT))
		return 0;
	copy_state(&now, &base);
	for (size_t i = 0; i < call; i++)
		apply(&now, &ops[i], 0, ops[i].len);
	count = extents_of(&now.files[ops[call].file], ops[call].at / SIM_BLOCK);
	return count + 1;
}

void sim_crash(size_t call, enum sim_policy policy, size_t part)
{
	copy_state(&now, &base);
	if (policy == SIM_CUT) {
		apply_cut(&now, call);
	} else {
		for (size_t i = 0; i < call; i++)
			apply(&now, &ops[i], 0, ops[i].len);
		if (part && ops[call].kind == OP_COLLAPSE)
			collapse(&now.files[ops[call].file], ops[call].at, ops[call].len, part - 1);
		else if (part)
			insert(&now.files[ops[call].file], ops[call].at, ops[call].len, part - 1);
	}
	put_folder(&now);
}

struct sim_saved *sim_save(void)
{
	struct sim_saved *saved = calloc(1, sizeof(*saved));

	ck_assert_ptr_nonnull(saved);
	copy_state(&saved->base, &base);
	saved->ops = ops;
	saved->count = op_count;
	ops = calloc(OPS_MAX, sizeof(*ops));
	ck_assert_ptr_nonnull(ops);
	op_count = 0;
	crashed = true;
	first_run = false;
	return saved;
}

void sim_record_on(const struct sim_saved *saved, size_t count)
{
	forget_ops();
	copy_state(&base, &saved->base);
	for (; op_count < count; op_count++) {
		ops[op_count] = saved->ops[op_count];
		ops[op_count].data = ops[op_count].data ? copy_of(ops[op_count].data, ops[op_count].len) : NULL;
		ops[op_count].map = ops[op_count].map
			? copy_of(ops[op_count].map, ops[op_count].blocks * sizeof(uint64_t)) : NULL;
	}
	recording = true;
}

void sim_restore(struct sim_saved *saved)
{
	forget_ops();
	free(ops);
	crashed = false;
	ops = saved->ops;
	op_count = saved->count;
	copy_state(&base, &saved->base);
	free_state(&saved->base);
	free(saved);
}
