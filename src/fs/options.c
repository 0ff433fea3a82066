/* SPDX-License-Identifier: MIT */
#include "fs/options.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "fs/expand.h"

const char stfs_options_help[] =
"usage: safetensorsfs [options] MODEL MOUNTPOINT\n"
"\n"
"Mount a .safetensors model as a directory: every tensor is a file of its raw\n"
"bytes with a .json beside it that holds dtype and shape. MODEL is a file, the\n"
"index of a sharded model, or a folder that holds one of them. A PyTorch\n"
"checkpoint can be mounted too, read-only; nothing in it is run.\n"
"\n"
"  safetensorsfs model.safetensors /mnt/m\n"
"  ls -l /mnt/m\n"
"  cat /mnt/m/lm_head.weight.json\n"
"  stfs umount /mnt/m\n"
"\n"
"Edits are made with any program: cp, mv, rm, dd, rsync, np.save, np.memmap. They\n"
"enter the model when it is synced: by `stfs sync`, an fsync, some quiet time, or\n"
"the unmounting. A model in a shared cache, with other hard links, or without\n"
"permission to write is mounted read-only.\n"
"\n"
"  -o OPTION[,OPTION...]    mount options, see below\n"
"  -f, --foreground         stay in the foreground, log to the terminal\n"
"  -d, --debug              as -f, and print every request\n"
"  -s                       serve with a single thread\n"
"      --log-file=FILE      append later messages to FILE (default: syslog)\n"
"  -h, --help               this text\n"
"  -V, --version            versions of safetensorsfs and libfuse\n"
"\n"
"options for -o:\n"
"  ro                       read-only\n"
"  rw                       read and write (default, where the model allows it)\n"
"  cow                      write, but never to the model: `stfs save` keeps it\n"
"  create                   make a new model; with overwrite: or in place of one\n"
"  force                    write also to a model that a cache or links share\n"
"  autosync=S               commit after S seconds without a change (default: 2;\n"
"                           0: never)\n"
"  autosync_max=S           and S seconds after the first change (default: 30)\n"
"  overwrite=direct|staged  whether bytes within a tensor go to the model at once\n"
"                           (default), or all together at the next commit\n"
"  readers=spare|ignore     whether a commit makes a new file rather than move\n"
"                           bytes that another program may be reading (default)\n"
"  spool=DIR                where edits wait (default: beside the model)\n"
"  spool_limit=SIZE         commit when so much waits there (default: 4G)\n"
"  view=raw|npy|both        what ls shows: tensors as x (default), as x.npy,\n"
"                           or both; all of them always open\n"
"  sidecars=shown|hidden    whether ls shows x.json (default: shown)\n"
"  xattr                    answer user.safetensors.* (makes ls -l slower)\n"
"  uid=N, gid=N             owner (default: that of the model file)\n"
"  umask=M, fmask=M, dmask=M  octal permission bits to take away, of all, of\n"
"                           files, of the directory\n"
"  cache=auto|always|never  use of the page cache (default: auto: large tensors\n"
"                           are read directly, mapped and small ones cached)\n"
"  allow_other              let other users in (implies default_permissions)\n"
"  noatime, nosuid, nodev, noexec, ...  as for mount(8)\n";

#define AUTOSYNC_MS 2000
#define AUTOSYNC_MAX_MS 30000
#define SPOOL_LIMIT (4ull << 30)

enum kind {
	SWALLOW, /* mount(8) and systemd know it, we need not */
	PASS,    /* for libfuse or the kernel, with its value */
	FLAG,    /* a bool at `where` */
	APPLY,   /* a function */
	REFUSE,  /* known, and not possible */
};

struct rule {
	const char *name; /* ends in '=' when it takes a value; in '*' when it is a prefix */
	enum kind kind;
	size_t where;
	int (*apply)(struct stfs_options *options, const char *value, struct stfs_err *err);
};

static int number(const char *option, const char *text, int base, unsigned long most,
		  unsigned long *out, struct stfs_err *err)
{
	char *end;

	errno = 0;
	*out = strtoul(text, &end, base);
	if (errno || end == text || *end || *text < '0' || *text > '9' || *out > most)
		return base == 8 ? stfs_err_set(err, -EINVAL, STFS_NO_POSITION,
						"%s: \"%s\" is not an octal number from 0 to %lo", option, text, most)
				 : stfs_err_set(err, -EINVAL, STFS_NO_POSITION,
						"%s: \"%s\" is not a number from 0 to %lu", option, text, most);
	return 0;
}

static int set_uid(struct stfs_options *options, const char *value, struct stfs_err *err)
{
	unsigned long id;
	int r = number("uid", value, 10, (uid_t)-2, &id, err);

	options->uid = (uid_t)id;
	options->uid_set = r == 0;
	return r;
}

static int set_gid(struct stfs_options *options, const char *value, struct stfs_err *err)
{
	unsigned long id;
	int r = number("gid", value, 10, (gid_t)-2, &id, err);

	options->gid = (gid_t)id;
	options->gid_set = r == 0;
	return r;
}

static int set_fmask(struct stfs_options *options, const char *value, struct stfs_err *err)
{
	unsigned long mask;
	int r = number("umask, fmask or dmask", value, 8, 0777, &mask, err);

	options->fmask = (mode_t)mask;
	options->fmask_set = r == 0;
	return r;
}

static int set_dmask(struct stfs_options *options, const char *value, struct stfs_err *err)
{
	unsigned long mask;
	int r = number("umask, fmask or dmask", value, 8, 0777, &mask, err);

	options->dmask = (mode_t)mask;
	options->dmask_set = r == 0;
	return r;
}

static int set_umask(struct stfs_options *options, const char *value, struct stfs_err *err)
{
	int r = set_fmask(options, value, err);

	return r < 0 ? r : set_dmask(options, value, err);
}

/* The position of `value` among NULL-ended `words`, or -EINVAL with the words in `err`. */
static int choose(const char *option, const char *value, const char *const *words, struct stfs_err *err)
{
	STFS_AUTO_BUF struct stfs_buf list = STFS_BUF_INIT;

	for (int i = 0; words[i]; i++) {
		if (strcmp(words[i], value) == 0)
			return i;
		stfs_buf_printf(&list, "%s%s", i ? ", " : "", words[i]);
	}
	return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "%s=%s: it must be one of %s", option, value,
			    stfs_buf_cstr(&list));
}

static int set_view(struct stfs_options *options, const char *value, struct stfs_err *err)
{
	static const char *const words[] = {"raw", "npy", "both", NULL};
	int chosen = choose("view", value, words, err);

	if (chosen >= 0)
		options->view = (enum stfs_view)chosen;
	return chosen < 0 ? chosen : 0;
}

static int set_cache(struct stfs_options *options, const char *value, struct stfs_err *err)
{
	static const char *const words[] = {"auto", "always", "never", NULL};
	int chosen = choose("cache", value, words, err);

	if (chosen >= 0)
		options->cache = (enum stfs_cache)chosen;
	return chosen < 0 ? chosen : 0;
}

static int set_sidecars(struct stfs_options *options, const char *value, struct stfs_err *err)
{
	static const char *const words[] = {"shown", "hidden", NULL};
	int chosen = choose("sidecars", value, words, err);

	options->hide_sidecars = chosen == 1;
	return chosen < 0 ? chosen : 0;
}

static int set_max_read(struct stfs_options *options, const char *value, struct stfs_err *err)
{
	unsigned long bytes;
	int r = number("max_read", value, 10, UINT_MAX, &bytes, err);

	if (r < 0)
		return r;
	/* For the kernel by way of libfuse, which wants to hear it in INIT too (fs/session.c). */
	options->max_read = (unsigned)bytes;
	return stfs_buf_printf(&options->fuse, ",max_read=%u", options->max_read);
}

static int set_log_file(struct stfs_options *options, const char *value, struct stfs_err *err)
{
	free(options->log_file);
	return stfs_expand_path(value, &options->log_file, err);
}

static int set_ro(struct stfs_options *options, const char *value, struct stfs_err *err)
{
	options->read_only = true;
	options->asked_rw = false;
	return 0;
}

/* What mount(8) passes when nobody chose; the last of ro and rw counts. */
static int set_rw(struct stfs_options *options, const char *value, struct stfs_err *err)
{
	options->read_only = false;
	options->asked_rw = !options->helper;
	return 0;
}

static int set_overwrite(struct stfs_options *options, const char *value, struct stfs_err *err)
{
	static const char *const words[] = {"direct", "staged", NULL};
	int chosen = choose("overwrite", value, words, err);

	options->staged = chosen == 1;
	return chosen < 0 ? chosen : 0;
}

static int set_readers(struct stfs_options *options, const char *value, struct stfs_err *err)
{
	static const char *const words[] = {"spare", "ignore", NULL};
	int chosen = choose("readers", value, words, err);

	options->ignore_readers = chosen == 1;
	return chosen < 0 ? chosen : 0;
}

/*
 * Seconds, with a fraction, as milliseconds: digits and a point alone, for strtod(3) also takes hexadecimal
 * numbers, exponents, "inf" and blanks. What is more than 0 is at least a millisecond.
 */
static int seconds(const char *option, const char *text, unsigned *out, struct stfs_err *err)
{
	const unsigned most = 86400 * 1000;
	unsigned ms = 0, unit = 1000;
	bool rest = false, digits = false;
	const char *p;

	for (p = text; *p >= '0' && *p <= '9' && ms <= most; p++, digits = true)
		ms = 10 * ms + 1000 * (unsigned)(*p - '0');
	if (*p == '.')
		for (p++; *p >= '0' && *p <= '9'; p++, digits = true) {
			unit /= 10;
			ms += unit * (unsigned)(*p - '0');
			rest |= !unit && *p != '0';
		}
	if (!digits || *p || ms > most || (ms == most && rest))
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "%s: \"%s\" is not a number of seconds from 0 to "
				    "86400, as 2 or 0.5", option, text);
	*out = ms + (ms == 0 && rest);
	return 0;
}

static int set_autosync(struct stfs_options *options, const char *value, struct stfs_err *err)
{
	return seconds("autosync", value, &options->autosync, err);
}

static int set_autosync_max(struct stfs_options *options, const char *value, struct stfs_err *err)
{
	return seconds("autosync_max", value, &options->autosync_max, err);
}

/* A number of bytes, or one with K, M, G or T behind it (powers of 1024). */
static int set_spool_limit(struct stfs_options *options, const char *value, struct stfs_err *err)
{
	static const char units[] = "KMGT";
	const char *unit;
	char *end;
	unsigned long long bytes;
	int shift = 0;

	errno = 0;
	bytes = strtoull(value, &end, 10);
	unit = *end && end != value ? strchr(units, *end) : NULL;
	if (unit) {
		shift = 10 * (int)(unit - units + 1);
		end++;
	}
	if (errno || end == value || *end || *value < '0' || *value > '9' || bytes > (UINT64_MAX >> shift))
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "spool_limit: \"%s\" is not a size such as "
				    "500M or 4G (0: no limit)", value);
	options->spool_limit = (uint64_t)bytes << shift;
	return 0;
}

static int set_spool(struct stfs_options *options, const char *value, struct stfs_err *err)
{
	free(options->spool);
	return stfs_expand_path(value, &options->spool, err);
}

static int set_allow_other(struct stfs_options *options, const char *value, struct stfs_err *err)
{
	/* Without default_permissions a file that its owner alone may read is open to everybody. */
	options->allow_other = true;
	return stfs_buf_puts(&options->fuse, ",allow_other,default_permissions");
}

static const struct rule rules[] = {
	{"ro", APPLY, 0, set_ro}, {"rw", APPLY, 0, set_rw},
	{"cow", FLAG, offsetof(struct stfs_options, cow), NULL},
	{"create", FLAG, offsetof(struct stfs_options, create), NULL},
	{"overwrite", FLAG, offsetof(struct stfs_options, overwrite), NULL},
	{"force", FLAG, offsetof(struct stfs_options, force), NULL},
	{"overwrite=", APPLY, 0, set_overwrite},
	{"readers=", APPLY, 0, set_readers},
	{"autosync=", APPLY, 0, set_autosync},
	{"autosync_max=", APPLY, 0, set_autosync_max},
	{"spool=", APPLY, 0, set_spool},
	{"spool_limit=", APPLY, 0, set_spool_limit},
	{"view=", APPLY, 0, set_view},
	{"sidecars=", APPLY, 0, set_sidecars},
	{"cache=", APPLY, 0, set_cache},
	{"xattr", FLAG, offsetof(struct stfs_options, xattr), NULL},
	{"uid=", APPLY, 0, set_uid},
	{"gid=", APPLY, 0, set_gid},
	{"umask=", APPLY, 0, set_umask},
	{"fmask=", APPLY, 0, set_fmask},
	{"dmask=", APPLY, 0, set_dmask},
	{"log_file=", APPLY, 0, set_log_file},
	{"max_read=", APPLY, 0, set_max_read},
	{"allow_other", APPLY, 0, set_allow_other}, {"remount", REFUSE, 0, NULL},
	{"debug", FLAG, offsetof(struct stfs_options, debug), NULL},
	/* For libfuse, and through it the kernel. */
	{"default_permissions", PASS, 0, NULL}, {"auto_unmount", PASS, 0, NULL},
	{"allow_root", PASS, 0, NULL}, {"fsname=", PASS, 0, NULL},
	{"nosuid", PASS, 0, NULL}, {"suid", PASS, 0, NULL}, {"nodev", PASS, 0, NULL}, {"dev", PASS, 0, NULL}, {"noexec", PASS, 0, NULL},
	{"exec", PASS, 0, NULL}, {"noatime", PASS, 0, NULL}, {"atime", PASS, 0, NULL},
	{"sync", PASS, 0, NULL}, {"async", PASS, 0, NULL}, {"dirsync", PASS, 0, NULL},
	/* What fstab and systemd hold for themselves. */
	{"defaults", SWALLOW, 0, NULL}, {"user", SWALLOW, 0, NULL}, {"user=", SWALLOW, 0, NULL},
	{"users", SWALLOW, 0, NULL}, {"nouser", SWALLOW, 0, NULL}, {"owner", SWALLOW, 0, NULL},
	{"group", SWALLOW, 0, NULL}, {"auto", SWALLOW, 0, NULL}, {"noauto", SWALLOW, 0, NULL},
	{"fail", SWALLOW, 0, NULL}, {"nofail", SWALLOW, 0, NULL}, {"_netdev", SWALLOW, 0, NULL},
	{"comment=", SWALLOW, 0, NULL}, {"x-*", SWALLOW, 0, NULL}, {"X-*", SWALLOW, 0, NULL},
	{"relatime", SWALLOW, 0, NULL}, {"norelatime", SWALLOW, 0, NULL},
	{"strictatime", SWALLOW, 0, NULL}, {"lazytime", SWALLOW, 0, NULL},
	{"diratime", SWALLOW, 0, NULL}, {"nodiratime", SWALLOW, 0, NULL},
	{"nostrictatime", SWALLOW, 0, NULL}, {"nolazytime", SWALLOW, 0, NULL},
	{"nousers", SWALLOW, 0, NULL}, {"noowner", SWALLOW, 0, NULL}, {"nogroup", SWALLOW, 0, NULL},
	{"silent", SWALLOW, 0, NULL}, {"loud", SWALLOW, 0, NULL},
	{"iversion", SWALLOW, 0, NULL}, {"noiversion", SWALLOW, 0, NULL},
	{"mand", SWALLOW, 0, NULL}, {"nomand", SWALLOW, 0, NULL},
	{"subtype=", SWALLOW, 0, NULL}, {"nonempty", SWALLOW, 0, NULL},
};

static bool matches(const struct rule *rule, const char *word)
{
	size_t len = strlen(rule->name);
	char last = rule->name[len - 1];

	if (last == '*')
		return strncmp(word, rule->name, len - 1) == 0;
	return last == '=' ? strncmp(word, rule->name, len) == 0 : strcmp(word, rule->name) == 0;
}

/* libfuse splits at commas: those in a value need a backslash. */
static void pass_on(struct stfs_buf *fuse, const char *word)
{
	stfs_buf_putc(fuse, ',');
	for (; *word; word++) {
		if (*word == ',' || *word == '\\')
			stfs_buf_putc(fuse, '\\');
		stfs_buf_putc(fuse, *word);
	}
}

static int apply_word(struct stfs_options *options, const char *word, bool sloppy, struct stfs_err *err)
{
	for (size_t i = 0; i < sizeof(rules) / sizeof(*rules); i++) {
		if (!matches(&rules[i], word))
			continue;
		if (rules[i].kind == PASS)
			pass_on(&options->fuse, word);
		else if (rules[i].kind == FLAG)
			*(bool *)((char *)options + rules[i].where) = true;
		else if (rules[i].kind == APPLY)
			return rules[i].apply(options, word + strlen(rules[i].name), err);
		else if (rules[i].kind == REFUSE)
			return stfs_err_set(err, -EINVAL, STFS_NO_POSITION,
					    "a mount cannot be changed: unmount it, and mount it anew");
		return stfs_buf_status(&options->fuse);
	}
	if (sloppy)
		return 0;
	return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "unknown option \"%s\" (see safetensorsfs --help)",
			    word);
}

/* One -o argument: words between commas; \, stands for a comma and \\ for a backslash. */
static int apply_list(struct stfs_options *options, const char *list, bool sloppy, struct stfs_err *err)
{
	STFS_AUTO_BUF struct stfs_buf word = STFS_BUF_INIT;
	const char *p = list;
	int r = 0;

	while (r == 0 && *p) {
		stfs_buf_clear(&word);
		for (; *p && *p != ','; p++) {
			if (*p == '\\' && (p[1] == ',' || p[1] == '\\'))
				p++;
			stfs_buf_putc(&word, *p);
		}
		if (*p == ',')
			p++;
		if (!stfs_buf_cstr(&word))
			return -ENOMEM;
		if (word.len)
			r = apply_word(options, word.data, sloppy, err);
	}
	return r;
}

static int take_paths(struct stfs_options *options, int count, char **words, struct stfs_err *err)
{
	int r = 0;

	if (count != 2)
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "%s (see safetensorsfs --help)",
				    count < 1   ? "MODEL and MOUNTPOINT are missing"
				    : count < 2 ? "MOUNTPOINT is missing"
						: "more than MODEL and MOUNTPOINT was given");
	if (options->helper) { /* no shell has expanded what stands in fstab */
		r = stfs_expand_path(words[0], &options->model, err);
		return r < 0 ? r : stfs_expand_path(words[1], &options->mountpoint, err);
	}
	options->model = strdup(words[0]);
	options->mountpoint = strdup(words[1]);
	return options->model && options->mountpoint ? 0 : -ENOMEM;
}

/* A flag without a short form; above every character. */
enum { LOG_FILE = 256 };

/* Names what getopt() stopped at, c being what it returned: ':' for want of a value, else '?'. */
static int refuse_flag(char **argv, int c, const char *known, struct stfs_err *err)
{
	char letter[] = {'-', (char)optopt, '\0'};
	/* A letter that we do not know may stand among others; all else is a word of its own. */
	bool strange = c == '?' && optopt && optopt < LOG_FILE && !strchr(known, optopt);

	return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "%s \"%s\" (see safetensorsfs --help)",
			    c == ':'                 ? "a value is missing behind"
			    : strange || optopt == 0 ? "unknown flag"
						     : "no value belongs to",
			    strange ? letter : argv[optind - 1]);
}

/* mount(8) calls: mount.TYPE SPEC DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE.SUBTYPE]. */
static int parse_helper(int argc, char **argv, struct stfs_options *options, struct stfs_err *err)
{
	static const char flags[] = ":sfnvhVN:o:t:";
	bool sloppy = false;
	const char *lists[16];
	int c, count = 0, r = 0;

	while ((c = getopt(argc, argv, flags)) != -1) {
		switch (c) {
		case 's': sloppy = true; break;
		case 'f': options->fake = true; break;
		case 'v': options->verbose = true; break;
		case 'h': options->help = true; return 0;
		case 'V': options->version = true; return 0;
		case 'o':
			if (count == sizeof(lists) / sizeof(*lists))
				return stfs_err_set(err, -EINVAL, STFS_NO_POSITION,
						    "more than %d lists of options", count);
			lists[count++] = optarg;
			break;
		case 'n': case 'N': case 't': break;
		default:
			return refuse_flag(argv, c, flags, err);
		}
	}
	for (int i = 0; r == 0 && i < count; i++)
		r = apply_list(options, lists[i], sloppy, err);
	return r < 0 ? r : take_paths(options, argc - optind, argv + optind, err);
}

static int parse_command(int argc, char **argv, struct stfs_options *options, struct stfs_err *err)
{
	static const char flags[] = ":hVfdso:";
	static const struct option longs[] = {
		{"help", no_argument, NULL, 'h'},       {"version", no_argument, NULL, 'V'},
		{"foreground", no_argument, NULL, 'f'}, {"debug", no_argument, NULL, 'd'},
		{"options", required_argument, NULL, 'o'}, {"log-file", required_argument, NULL, LOG_FILE},
		{NULL, 0, NULL, 0},
	};
	int c, r = 0;

	while (r == 0 && (c = getopt_long(argc, argv, flags, longs, NULL)) != -1) {
		switch (c) {
		case 'h': options->help = true; return 0;
		case 'V': options->version = true; return 0;
		case 'f': options->foreground = true; break;
		case 'd': options->debug = true; break;
		case 's': options->single_thread = true; break;
		case 'o': r = apply_list(options, optarg, false, err); break;
		case LOG_FILE:
			free(options->log_file);
			options->log_file = strdup(optarg);
			r = options->log_file ? 0 : -ENOMEM;
			break;
		default:
			return refuse_flag(argv, c, flags, err);
		}
	}
	return r < 0 ? r : take_paths(options, argc - optind, argv + optind, err);
}

static int check_modes(const struct stfs_options *o, struct stfs_err *err)
{
	if (o->read_only + o->cow + o->create > 1)
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "only one of ro, cow and create can be");
	if (o->overwrite && !o->create)
		return stfs_err_set(err, -EINVAL, STFS_NO_POSITION, "overwrite is for create: a model that is there "
				    "is changed without it");
	return 0;
}

int stfs_options_parse(int argc, char **argv, struct stfs_options *options, struct stfs_err *err)
{
	const char *base = strrchr(argv[0], '/');
	int r;

	*options = (struct stfs_options){.helper = strncmp(base ? base + 1 : argv[0], "mount.", 6) == 0,
					 .autosync = AUTOSYNC_MS, .autosync_max = AUTOSYNC_MAX_MS,
					 .spool_limit = SPOOL_LIMIT};
	opterr = 0;
	r = options->helper ? parse_helper(argc, argv, options, err)
			    : parse_command(argc, argv, options, err);
	if (r == 0 && options->debug)
		options->foreground = true;
	if (r == 0 && !options->help && !options->version)
		r = check_modes(options, err);
	if (r == -ENOMEM)
		stfs_err_errno(err, r, "options");
	return r;
}

void stfs_options_free(struct stfs_options *options)
{
	free(options->model);
	free(options->mountpoint);
	free(options->log_file);
	free(options->spool);
	stfs_buf_free(&options->fuse);
}
