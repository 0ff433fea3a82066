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
"index of a sharded model, or a folder that holds one of them.\n"
"\n"
"  safetensorsfs model.safetensors /mnt/m\n"
"  ls -l /mnt/m\n"
"  cat /mnt/m/lm_head.weight.json\n"
"  stfs umount /mnt/m\n"
"\n"
"This version mounts read-only.\n"
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
"  ro, rw, noatime, nosuid, nodev, noexec, ...  as for mount(8)\n";

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
	if (errno || end == text || *end || *text == '-' || *out > most)
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

static int set_allow_other(struct stfs_options *options, const char *value, struct stfs_err *err)
{
	/* Without default_permissions a file that its owner alone may read is open to everybody. */
	options->allow_other = true;
	return stfs_buf_puts(&options->fuse, ",allow_other,default_permissions");
}

static const struct rule rules[] = {
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
	/* Every mount is read-only for now; rw is what mount(8) says when nobody chose. */
	{"ro", SWALLOW, 0, NULL}, {"rw", SWALLOW, 0, NULL},
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

int stfs_options_parse(int argc, char **argv, struct stfs_options *options, struct stfs_err *err)
{
	const char *base = strrchr(argv[0], '/');
	int r;

	*options = (struct stfs_options){.helper = strncmp(base ? base + 1 : argv[0], "mount.", 6) == 0};
	opterr = 0;
	r = options->helper ? parse_helper(argc, argv, options, err)
			    : parse_command(argc, argv, options, err);
	if (r == 0 && options->debug)
		options->foreground = true;
	if (r == -ENOMEM)
		stfs_err_errno(err, r, "options");
	return r;
}

void stfs_options_free(struct stfs_options *options)
{
	free(options->model);
	free(options->mountpoint);
	free(options->log_file);
	stfs_buf_free(&options->fuse);
}
