/* SPDX-License-Identifier: MIT */
/* The pure parts of the daemon: its command line, paths that no shell has seen, the INIT reply. */
#include "stfs_check.h"

#include <errno.h>
#include <getopt.h>
#include <linux/fuse.h>
#include <pwd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fs/expand.h"
#include "fs/init_reply.h"
#include "fs/options.h"

#define COUNT STFS_CHECK_COUNT

/* --- options ------------------------------------------------------------------------------- */

/* Parses words separated by '|'; the words live on in `line`, a copy that the caller frees. */
static int parse(const char *words, char **line, struct stfs_options *options, struct stfs_err *err)
{
	char *argv[32], *rest, *word;
	int argc = 0;

	*line = rest = strdup(words);
	while ((word = strsep(&rest, "|")) && argc < 31)
		argv[argc++] = word;
	argv[argc] = NULL;
	optind = 0; /* glibc: begin anew */
	return stfs_options_parse(argc, argv, options, err);
}

static void check_parses(const char *words, struct stfs_options *options)
{
	struct stfs_err err = STFS_ERR_INIT;
	char *line;
	int r = parse(words, &line, options, &err);

	ck_assert_msg(r == 0, "\"%s\": %d, %s", words, r, err.message);
	free(line);
}

START_TEST(options_defaults)
{
	struct stfs_options o;

	check_parses("safetensorsfs|model|point", &o);
	ck_assert_str_eq(o.model, "model");
	ck_assert_str_eq(o.mountpoint, "point");
	ck_assert_ptr_null(o.log_file);
	ck_assert_int_eq(o.view, STFS_VIEW_RAW);
	ck_assert_int_eq(o.cache, STFS_CACHE_AUTO);
	ck_assert(!o.hide_sidecars && !o.xattr && !o.allow_other && !o.foreground && !o.debug);
	ck_assert(!o.single_thread && !o.help && !o.version && !o.fake && !o.verbose && !o.helper);
	ck_assert(!o.uid_set && !o.gid_set && !o.fmask_set && !o.dmask_set);
	ck_assert_uint_eq(o.max_read, 0);
	ck_assert_uint_eq(o.fuse.len, 0);
	ck_assert(!o.read_only && !o.cow && !o.create && !o.overwrite && !o.force);
	ck_assert(!o.staged && !o.ignore_readers);
	ck_assert_uint_eq(o.autosync, 2000);
	ck_assert_uint_eq(o.autosync_max, 30000);
	ck_assert_uint_eq(o.spool_limit, UINT64_C(4) << 30);
	ck_assert_ptr_null(o.spool);
	stfs_options_free(&o);
}
END_TEST

START_TEST(options_of_our_own)
{
	struct stfs_options o;

	check_parses("x|-o|view=both,sidecars=hidden,cache=never,xattr|-o|uid=7,gid=8|m|p|--log-file=l", &o);
	ck_assert_int_eq(o.view, STFS_VIEW_BOTH);
	ck_assert_int_eq(o.cache, STFS_CACHE_NEVER);
	ck_assert(o.hide_sidecars && o.xattr && o.uid_set && o.gid_set);
	ck_assert_uint_eq(o.uid, 7);
	ck_assert_uint_eq(o.gid, 8);
	ck_assert_str_eq(o.log_file, "l");
	stfs_options_free(&o);
}
END_TEST

/* The last word counts, wherever it stands. */
START_TEST(options_last_wins)
{
	struct stfs_options o;

	check_parses("x|-oview=npy,sidecars=hidden|m|p|-oview=raw,sidecars=shown,umask=77,fmask=7|"
		     "--log-file=a|--log-file|b", &o);
	ck_assert_int_eq(o.view, STFS_VIEW_RAW);
	ck_assert(!o.hide_sidecars && o.fmask_set && o.dmask_set);
	ck_assert_uint_eq(o.fmask, 07);
	ck_assert_uint_eq(o.dmask, 077);
	ck_assert_str_eq(o.log_file, "b");
	stfs_options_free(&o);
}
END_TEST

static const struct {
	const char *words;
	bool foreground, debug, single_thread, help, version, fake, verbose, helper;
} flag_cases[] = {
	{.words = "safetensorsfs|-f|m|p", .foreground = true},
	{.words = "safetensorsfs|--foreground|m|p", .foreground = true},
	{.words = "safetensorsfs|-d|m|p", .foreground = true, .debug = true},
	{.words = "safetensorsfs|-odebug|m|p", .foreground = true, .debug = true},
	{.words = "safetensorsfs|m|p|-sf", .foreground = true, .single_thread = true},
	{.words = "/a/mount.b/safetensorsfs|-f|m|p", .foreground = true},
	{.words = "safetensorsfs|-h", .help = true},
	{.words = "safetensorsfs|--help|m|p|q", .help = true},
	{.words = "safetensorsfs|-V", .version = true},
	/* mount(8) means other things by the same letters. */
	{.words = "mount.safetensorsfs|m|p|-f", .helper = true, .fake = true},
	{.words = "/sbin/mount.fuse.safetensorsfs|m|p|-sfnv|-N|/proc/1/ns/mnt|-o|rw|-t|fuse.x",
	 .helper = true, .fake = true, .verbose = true},
	{.words = "mount.safetensorsfs|-h", .helper = true, .help = true},
	{.words = "mount.safetensorsfs|-V", .helper = true, .version = true},
};

START_TEST(options_flags)
{
	struct stfs_options o;

	check_parses(flag_cases[_i].words, &o);
	ck_assert_int_eq(o.foreground, flag_cases[_i].foreground);
	ck_assert_int_eq(o.debug, flag_cases[_i].debug);
	ck_assert_int_eq(o.single_thread, flag_cases[_i].single_thread);
	ck_assert_int_eq(o.help, flag_cases[_i].help);
	ck_assert_int_eq(o.version, flag_cases[_i].version);
	ck_assert_int_eq(o.fake, flag_cases[_i].fake);
	ck_assert_int_eq(o.verbose, flag_cases[_i].verbose);
	ck_assert_int_eq(o.helper, flag_cases[_i].helper);
	stfs_options_free(&o);
}
END_TEST

/* Whether the model may be written, and how. rw says nothing: mount(8) passes it when nobody chose. */
static const struct {
	const char *words;
	bool read_only, cow, create, overwrite, force;
} mode_cases[] = {
	{.words = "x|m|p|-o|rw"},
	{.words = "x|m|p|-o|ro", .read_only = true},
	/* The last of these two counts, in one list or in several. */
	{.words = "x|m|p|-o|ro,rw"},
	{.words = "x|m|p|-o|rw,ro", .read_only = true},
	{.words = "x|-o|rw|m|p|-o|ro", .read_only = true},
	{.words = "x|-o|ro|m|p|-o|noatime,rw"},
	{.words = "x|m|p|-o|cow", .cow = true},
	{.words = "x|m|p|-o|create", .create = true},
	{.words = "x|m|p|-o|create,overwrite", .create = true, .overwrite = true},
	{.words = "x|-o|overwrite|m|p|-o|create", .create = true, .overwrite = true},
	{.words = "x|m|p|-o|force", .force = true},
	{.words = "x|m|p|-o|create,force", .create = true, .force = true},
	{.words = "x|m|p|-o|rw,cow", .cow = true},
	{.words = "x|m|p|-o|create,overwrite,rw", .create = true, .overwrite = true},
	{.words = "x|m|p|-o|ro,cow,rw", .cow = true},
	{.words = "mount.x|m|p|-o|rw,noauto,force,user", .force = true},
	{.words = "mount.x|m|p|-o|rw,nofail,cow", .cow = true},
	{.words = "mount.x|m|p|-o|ro,nofail", .read_only = true},
};

START_TEST(options_modes)
{
	struct stfs_options o;

	check_parses(mode_cases[_i].words, &o);
	ck_assert_int_eq(o.read_only, mode_cases[_i].read_only);
	ck_assert_int_eq(o.cow, mode_cases[_i].cow);
	ck_assert_int_eq(o.create, mode_cases[_i].create);
	ck_assert_int_eq(o.overwrite, mode_cases[_i].overwrite);
	ck_assert_int_eq(o.force, mode_cases[_i].force);
	ck_assert(!o.staged); /* overwrite and overwrite= are two options */
	ck_assert_uint_eq(o.fuse.len, strstr(mode_cases[_i].words, "noatime") ? strlen(",noatime") : 0);
	stfs_options_free(&o);
}
END_TEST

START_TEST(options_of_commits)
{
	struct stfs_options o;

	check_parses("x|m|p|-o|overwrite=staged,readers=ignore,autosync=5,autosync_max=60,spool_limit=20G,spool=/s", &o);
	ck_assert(o.staged && o.ignore_readers && !o.overwrite && !o.create);
	ck_assert_uint_eq(o.autosync, 5000);
	ck_assert_uint_eq(o.autosync_max, 60000);
	ck_assert_uint_eq(o.spool_limit, UINT64_C(20) << 30);
	ck_assert_str_eq(o.spool, "/s");
	stfs_options_free(&o);
	/* The last word counts; either alone leaves the other as it was. */
	check_parses("x|m|p|-o|overwrite=staged,readers=ignore,autosync=5,spool=/s,spool_limit=1|-o|overwrite=direct,"
		     "readers=spare,autosync=7,spool=/t,spool_limit=0", &o);
	ck_assert(!o.staged && !o.ignore_readers);
	ck_assert_uint_eq(o.autosync, 7000);
	ck_assert_uint_eq(o.autosync_max, 30000);
	ck_assert_uint_eq(o.spool_limit, 0);
	ck_assert_str_eq(o.spool, "/t");
	stfs_options_free(&o);
	check_parses("x|m|p|-o|create,overwrite,overwrite=staged", &o);
	ck_assert(o.create && o.overwrite && o.staged);
	stfs_options_free(&o);
}
END_TEST

/* Seconds as milliseconds; what is not 0 does not become 0, which means never. */
static const struct {
	const char *value;
	unsigned milliseconds;
} seconds_cases[] = {
	{"0", 0}, {"0.0", 0}, {"1", 1000}, {"2.5", 2500}, {"0.25", 250}, {".5", 500}, {"0.0001", 1},
	{"86400", 86400000}, {"007", 7000}, {"3.", 3000}, {"1.0009", 1000}, {"0.0000", 0}, {"86400.000", 86400000},
};

START_TEST(options_seconds)
{
	struct stfs_options o;
	char words[128];

	snprintf(words, sizeof(words), "x|m|p|-o|autosync=%s", seconds_cases[_i].value);
	check_parses(words, &o);
	ck_assert_uint_eq(o.autosync, seconds_cases[_i].milliseconds);
	ck_assert_uint_eq(o.autosync_max, 30000);
	stfs_options_free(&o);
	snprintf(words, sizeof(words), "x|m|p|-o|autosync_max=%s", seconds_cases[_i].value);
	check_parses(words, &o);
	ck_assert_uint_eq(o.autosync_max, seconds_cases[_i].milliseconds);
	ck_assert_uint_eq(o.autosync, 2000);
	stfs_options_free(&o);
}
END_TEST

static const struct {
	const char *value;
	uint64_t bytes;
} size_cases[] = {
	{"0", 0}, {"1", 1}, {"4096", 4096}, {"1K", 1024}, {"500M", UINT64_C(500) << 20}, {"4G", UINT64_C(4) << 30},
	{"2T", UINT64_C(2) << 40}, {"0G", 0}, {"18446744073709551615", UINT64_MAX},
	{"16777215T", UINT64_C(16777215) << 40}, /* the most that fits */
};

START_TEST(options_sizes)
{
	struct stfs_options o;
	char words[128];

	snprintf(words, sizeof(words), "x|m|p|-o|spool_limit=%s", size_cases[_i].value);
	check_parses(words, &o);
	ck_assert_uint_eq(o.spool_limit, size_cases[_i].bytes);
	stfs_options_free(&o);
}
END_TEST

/* What libfuse gets to hear: commas and backslashes of a value escaped, everything else left out. */
static const struct {
	const char *words, *fuse;
} fuse_cases[] = {
	{"x|m|p|-o|ro,rw,defaults,user,user=joe,users,noauto,nofail,_netdev", ""},
	{"x|m|p|-o|x-systemd.automount,X-mount.mkdir=7,comment=a b,relatime,lazytime,nonempty", ""},
	{"x|m|p|-o|,,,", ""},
	{"x|m|p|-o|noatime,view=npy,nosuid", ",noatime,nosuid"},
	{"x|m|p|-o|noatime|-o|nodev", ",noatime,nodev"},
	{"x|m|p|-o|fsname=a\\,b\\\\c", ",fsname=a\\,b\\\\c"},
	{"x|m|p|-o|fsname=a\\b", ",fsname=a\\\\b"},
	{"x|m|p|-o|allow_other", ",allow_other,default_permissions"},
	{"x|m|p|-o|create,overwrite,force,overwrite=staged,readers=ignore,autosync=1,autosync_max=2,spool=/s,"
	 "spool_limit=1", ""},
	{"x|m|p|-o|max_read=65536", ",max_read=65536"},
	{"mount.x|m|p|-o|rw,nosuid|-s|-o|nonsense,nodev", ",nosuid,nodev"},
};

START_TEST(options_for_libfuse)
{
	struct stfs_options o;

	check_parses(fuse_cases[_i].words, &o);
	stfs_check_str_eq(stfs_buf_str(&o.fuse), stfs_str_from(fuse_cases[_i].fuse),
			  fuse_cases[_i].words);
	stfs_options_free(&o);
}
END_TEST

static const struct {
	const char *words, *named;
} refused_cases[] = {
	{"x", "MODEL and MOUNTPOINT"},
	{"x|m", "MOUNTPOINT is missing"},
	{"x|m|p|q", "more than"},
	{"x|-q|m|p", "\"-q\""},
	{"x|--foreground|-sq|m|p", "\"-q\""},
	{"x|--nonsense|m|p", "\"--nonsense\""},
	{"x|--nonsense=1|m|p", "\"--nonsense=1\""},
	{"x|--help=1", "\"--help=1\""},
	{"x|m|p|-o", "\"-o\""},
	{"x|m|p|--log-file", "\"--log-file\""},
	{"x|m|p|-o|nonsense", "\"nonsense\""},
	{"x|m|p|-o|rw,non\\,sense", "\"non,sense\""},
	{"x|m|p|-o|view", "\"view\""},
	{"x|m|p|-o|views=raw", "\"views=raw\""},
	{"x|m|p|-o|ro=1", "\"ro=1\""},
	{"x|m|p|-o|xattrs", "\"xattrs\""},
	{"x|m|p|-o|view=RAW", "raw, npy, both"},
	{"x|m|p|-o|sidecars=", "shown, hidden"},
	{"x|m|p|-o|cache=1", "auto, always, never"},
	{"x|m|p|-o|uid=", "\"\""},
	{"x|m|p|-o|uid=4294967295", "4294967295"}, /* -1: "no user" */
	{"x|m|p|-o|uid=-1", "-1"},
	{"x|m|p|-o|uid= -7", "\" -7\""},
	{"x|m|p|-o|gid=0x10", "0x10"},
	{"x|m|p|-o|gid=18446744073709551616", "18446744073709551616"},
	{"x|m|p|-o|umask=8", "octal"},
	{"x|m|p|-o|umask=1000", "octal"},
	{"x|m|p|-o|dmask=-1", "octal"},
	{"x|m|p|-o|max_read=x", "\"x\""},
	{"mount.x|m", "MOUNTPOINT is missing"},
	{"mount.x|m|p|-q", "\"-q\""},
	{"mount.x|m|p|--foreground", "\"--\""}, /* letters only: "-" is the first unknown one */
	{"mount.x|m|p|-N", "\"-N\""},
	{"mount.x|m|p|-o|nonsense", "\"nonsense\""},
	/* One mode at a time. */
	{"x|m|p|-o|ro,cow", "only one of ro, cow and create"},
	{"x|m|p|-o|cow,ro", "only one of ro, cow and create"},
	{"x|m|p|-o|ro|-o|create", "only one of ro, cow and create"},
	{"x|m|p|-o|cow,create", "only one of ro, cow and create"},
	{"x|m|p|-o|rw,ro,create", "only one of ro, cow and create"},
	{"mount.x|m|p|-o|ro,noauto,cow", "only one of ro, cow and create"},
	{"x|m|p|-o|overwrite", "overwrite is for create"},
	{"x|m|p|-o|cow,overwrite", "overwrite is for create"},
	{"x|m|p|-o|force,overwrite", "overwrite is for create"},
	{"x|m|p|-o|remount", "unmount it"},
	{"x|m|p|-o|remount,rw", "unmount it"},
	{"x|m|p|-o|rw=1", "\"rw=1\""},
	{"x|m|p|-o|cow=1", "\"cow=1\""},
	{"x|m|p|-o|create=x", "\"create=x\""},
	{"x|m|p|-o|force=yes", "\"force=yes\""},
	{"x|m|p|-o|overwrite=", "direct, staged"},
	{"x|m|p|-o|create,overwrite=yes", "direct, staged"},
	{"x|m|p|-o|readers", "\"readers\""},
	{"x|m|p|-o|readers=", "spare, ignore"},
	{"x|m|p|-o|readers=Spare", "spare, ignore"},
	{"x|m|p|-o|autosync", "\"autosync\""},
	{"x|m|p|-o|autosync=", "autosync: \"\""},
	{"x|m|p|-o|autosync=-1", "autosync: \"-1\""},
	{"x|m|p|-o|autosync=never", "autosync: \"never\""},
	{"x|m|p|-o|autosync=2s", "autosync: \"2s\""},
	{"x|m|p|-o|autosync=nan", "autosync: \"nan\""},
	{"x|m|p|-o|autosync=inf", "autosync: \"inf\""},
	{"x|m|p|-o|autosync=86401", "autosync: \"86401\""},
	{"x|m|p|-o|autosync=86400.0001", "autosync: \"86400.0001\""},
	{"x|m|p|-o|autosync=4294968", "autosync: \"4294968\""}, /* 704 in 32 bits of milliseconds */
	{"x|m|p|-o|autosync=0x10", "autosync: \"0x10\""},
	{"x|m|p|-o|autosync= 2", "autosync: \" 2\""},
	{"x|m|p|-o|autosync=+2", "autosync: \"+2\""},
	{"x|m|p|-o|autosync=.", "autosync: \".\""},
	{"x|m|p|-o|autosync=1.2.3", "autosync: \"1.2.3\""},
	{"x|m|p|-o|autosync=1e1", "autosync: \"1e1\""},
	{"x|m|p|-o|autosync=2\\,5", "autosync: \"2,5\""},
	{"x|m|p|-o|autosync_max=", "autosync_max: \"\""},
	{"x|m|p|-o|autosync_max=1e9", "autosync_max: \"1e9\""},
	{"x|m|p|-o|spool_limit", "\"spool_limit\""},
	{"x|m|p|-o|spool_limit=", "spool_limit: \"\""},
	{"x|m|p|-o|spool_limit=-1", "spool_limit: \"-1\""},
	{"x|m|p|-o|spool_limit= -1", "spool_limit: \" -1\""},
	{"x|m|p|-o|spool_limit=+4G", "spool_limit: \"+4G\""},
	{"x|m|p|-o|spool_limit=G", "spool_limit: \"G\""},
	{"x|m|p|-o|spool_limit=4g", "spool_limit: \"4g\""},
	{"x|m|p|-o|spool_limit=4GB", "spool_limit: \"4GB\""},
	{"x|m|p|-o|spool_limit=4GG", "spool_limit: \"4GG\""},
	{"x|m|p|-o|spool_limit=1.5G", "spool_limit: \"1.5G\""},
	{"x|m|p|-o|spool_limit=0x10", "spool_limit: \"0x10\""},
	{"x|m|p|-o|spool_limit=many", "spool_limit: \"many\""},
	{"x|m|p|-o|spool_limit=16777216T", "spool_limit: \"16777216T\""},
	{"x|m|p|-o|spool_limit=18446744073709551616", "spool_limit: \"18446744073709551616\""},
	{"x|m|p|-o|spool", "\"spool\""},
	{"x|m|p|-o|spool=$STFS_TEST_UNSET/s", "STFS_TEST_UNSET"},
};

START_TEST(options_refused)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct stfs_options o;
	char *line;

	ck_assert_int_eq(parse(refused_cases[_i].words, &line, &o, &err), -EINVAL);
	ck_assert_msg(strstr(err.message, refused_cases[_i].named) != NULL, "\"%s\": \"%s\" does not name %s",
		      refused_cases[_i].words, err.message, refused_cases[_i].named);
	ck_assert_ptr_null(strchr(err.message, '\n'));
	stfs_options_free(&o);
	free(line);
}
END_TEST

/* Only the helper is called without a shell. */
START_TEST(options_expand_for_the_helper_alone)
{
	struct stfs_options o;

	setenv("STFS_TEST_DIR", "/a b", 1);
	check_parses("safetensorsfs|$STFS_TEST_DIR/m|~/p|--log-file=$STFS_TEST_DIR|-o|fsname=$X", &o);
	ck_assert_str_eq(o.model, "$STFS_TEST_DIR/m");
	ck_assert_str_eq(o.mountpoint, "~/p");
	ck_assert_str_eq(o.log_file, "$STFS_TEST_DIR");
	stfs_options_free(&o);
	setenv("HOME", "/home/somebody", 1);
	check_parses("mount.safetensorsfs|${STFS_TEST_DIR}/m|~/p|-o|log_file=~/log", &o);
	ck_assert_str_eq(o.model, "/a b/m");
	ck_assert_str_eq(o.mountpoint, "/home/somebody/p");
	ck_assert_str_eq(o.log_file, "/home/somebody/log");
	stfs_options_free(&o);
	/* The shell expands no ~ within a word: what stands behind = is expanded everywhere. */
	check_parses("safetensorsfs|m|p|-o|spool=~/s,log_file=$STFS_TEST_DIR/log", &o);
	ck_assert_str_eq(o.spool, "/home/somebody/s");
	ck_assert_str_eq(o.log_file, "/a b/log");
	stfs_options_free(&o);
}
END_TEST

START_TEST(help_fits_a_terminal)
{
	const char *line = stfs_options_help, *end;

	for (; *line; line = end + 1) {
		end = strchr(line, '\n');
		ck_assert_ptr_nonnull(end);
		ck_assert_msg(end - line <= 80, "%td columns: %.*s", end - line, (int)(end - line), line);
		ck_assert(end[1] || end > line); /* no blank line at the end */
	}
}
END_TEST

/* --- expand -------------------------------------------------------------------------------- */

static const struct {
	const char *path, *want;
} expand_cases[] = {
	{"", ""},
	{"/a/b", "/a/b"},
	{"~", "/home/h"},
	{"~/", "/home/h/"},
	{"~/a~b", "/home/h/a~b"},
	{"/~", "/~"},
	{"a~", "a~"},
	{"~root", "*"}, /* from the password file */
	{"~root/x", "*/x"},
	{"\\~", "~"},
	{"\\~/a", "~/a"},
	{"$A", "one"},
	{"${A}", "one"},
	{"$A/$A", "one/one"},
	{"${A}${B_2}x", "onetwo threex"},
	{"$B_2.x", "two three.x"},
	{"$A-x", "one-x"},
	{"$EMPTY", ""},
	{"x$EMPTY/y", "x/y"},
	{"\\$A", "$A"},
	{"a\\$A$A", "a$Aone"},
	{"\\\\", "\\\\"},
	{"a\\b", "a\\b"},
	{"\\\\$A", "\\$A"}, /* only \$ and \~ are special: the second backslash belongs to the $ */
	{"$NEST", "$A ~"}, /* what a variable holds is not looked at again */
	{"`id` $(id)x", NULL},
	{"*?[a]{b}", "*?[a]{b}"},
};

START_TEST(expand_table)
{
	struct stfs_err err = STFS_ERR_INIT;
	const char *path = expand_cases[_i].path, *want = expand_cases[_i].want;
	char *out = NULL, *expected = NULL;
	struct passwd *root;
	int r;

	setenv("HOME", "/home/h", 1);
	setenv("A", "one", 1);
	setenv("B_2", "two three", 1);
	setenv("EMPTY", "", 1);
	setenv("NEST", "$A ~", 1);
	r = stfs_expand_path(path, &out, &err);
	if (!want) {
		ck_assert_int_eq(r, -EINVAL);
		ck_assert_ptr_null(out);
		return;
	}
	ck_assert_msg(r == 0, "%s: %s", path, err.message);
	if (want[0] == '*' && path[0] == '~') {
		root = getpwnam("root");
		ck_assert_ptr_nonnull(root);
		ck_assert_int_gt(asprintf(&expected, "%s%s", root->pw_dir, want + 1), 0);
	}
	ck_assert_str_eq(out, expected ? expected : want);
	free(expected);
	free(out);
}
END_TEST

static const struct {
	const char *path, *named;
} expand_refused_cases[] = {
	{"$NOT_SET", "$NOT_SET"},
	{"a/${NOT_SET}/b", "NOT_SET"},
	{"$", "not the name"},
	{"a$/b", "not the name"},
	{"$$", "not the name"},
	{"${", "not the name"},
	{"${}", "not the name"},
	{"${A", "not the name"},
	{"${A-b}", "not the name"},
	{"$\xc3\xa9", "not the name"},
	{"~no-such-user-here", "no-such-user-here"},
	{"~no-such-user-here/x", "no-such-user-here"},
};

START_TEST(expand_refused)
{
	struct stfs_err err = STFS_ERR_INIT;
	char *out = NULL;

	unsetenv("NOT_SET");
	setenv("A", "one", 1);
	ck_assert_int_eq(stfs_expand_path(expand_refused_cases[_i].path, &out, &err), -EINVAL);
	ck_assert_ptr_null(out);
	ck_assert_msg(strstr(err.message, expand_refused_cases[_i].named) != NULL, "\"%s\"", err.message);
}
END_TEST

START_TEST(expand_home_without_variable)
{
	struct stfs_err err = STFS_ERR_INIT;
	struct passwd *entry = getpwuid(getuid());
	char *out = NULL;

	if (!entry)
		return; /* a user without an entry has no home either: refused, see above */
	unsetenv("HOME");
	ck_assert_int_eq(stfs_expand_path("~", &out, &err), 0);
	ck_assert_str_eq(out, entry->pw_dir);
	free(out);
}
END_TEST

/* No text, however odd, is read beyond its end or gives more than variables and homes can. */
START_TEST(expand_random)
{
	static const char letters[] = "$${}\\~/Ax_ ";
	uint64_t state = stfs_check_seed();

	setenv("HOME", "/h", 1);
	setenv("A", "one", 1);
	for (int turn = 0; turn < 20000; turn++) {
		struct stfs_err err = STFS_ERR_INIT;
		size_t len = stfs_check_below(&state, 12);
		char *path = malloc(len + 1), *out = NULL; /* exactly as large: a sanitizer sees */
		int r;

		for (size_t i = 0; i < len; i++)
			path[i] = letters[stfs_check_below(&state, sizeof(letters) - 1)];
		path[len] = '\0';
		r = stfs_expand_path(path, &out, &err);
		ck_assert_msg(r == 0 ? out != NULL : r == -EINVAL && !out && err.message[0], "\"%s\"", path);
		if (r == 0 && !strpbrk(path, "$~\\"))
			ck_assert_str_eq(out, path);
		free(out);
		free(path);
	}
}
END_TEST

/* --- the INIT reply ------------------------------------------------------------------------ */

#define EXT (1u << 30)
#define PARALLEL_DIROPS (1u << 18)
#define KILLPRIV_V2 (1u << 28)
#define ALLOW_MMAP (1u << 4) /* of flags2 */

/* Protocol 7.36 and later, spelled out: the system's header may be older. */
struct reply {
	uint32_t major, minor, max_readahead, flags;
	uint16_t max_background, congestion_threshold;
	uint32_t max_write, time_gran;
	uint16_t max_pages, map_alignment;
	uint32_t flags2;
	uint32_t unused[7];
};
_Static_assert(sizeof(struct reply) == 64, "as the kernel has it");
_Static_assert(offsetof(struct reply, flags) == offsetof(struct fuse_init_out, flags), "flags");

static const struct {
	uint32_t offered, offered2, flags, flags2, want, want2;
} init_cases[] = {
	{0, 0, 0, 0, 0, 0},
	{~0u, ~0u, 0, 0, EXT | PARALLEL_DIROPS | KILLPRIV_V2, ALLOW_MMAP},
	{~0u, 0, 0, 0, EXT | PARALLEL_DIROPS | KILLPRIV_V2, 0},
	{EXT, ALLOW_MMAP, 0, 0, EXT, ALLOW_MMAP},
	{EXT, ~ALLOW_MMAP, 0, 0, EXT, 0},
	{PARALLEL_DIROPS, ALLOW_MMAP, 0, 0, PARALLEL_DIROPS, 0}, /* no EXT: no second word */
	{KILLPRIV_V2, 0, 0x21, 0, KILLPRIV_V2 | 0x21, 0},
	/* What libfuse has set stays set, on a libfuse that knows these flags too. */
	{~0u, ~0u, 0x80000000u | EXT, 0x11, 0x80000000u | EXT | PARALLEL_DIROPS | KILLPRIV_V2, 0x11},
	{0, 0, EXT, 0x10, EXT, 0x10},
	{0, ALLOW_MMAP, EXT, 0, EXT, ALLOW_MMAP},
};

START_TEST(init_reply_table)
{
	struct reply reply, before;

	memset(&reply, 0xa5, sizeof(reply));
	reply.flags = init_cases[_i].flags;
	reply.flags2 = init_cases[_i].flags2;
	before = reply;
	ck_assert(stfs_init_reply_complete(init_cases[_i].offered, init_cases[_i].offered2, &reply,
					   sizeof(reply)));
	ck_assert_uint_eq(reply.flags, init_cases[_i].want);
	ck_assert_uint_eq(reply.flags2, init_cases[_i].want2);
	before.flags = reply.flags;
	before.flags2 = reply.flags2;
	ck_assert_mem_eq(&reply, &before, sizeof(reply)); /* and nothing else */
}
END_TEST

/* Older protocols answer with 8 or 24 bytes: left alone. */
START_TEST(init_reply_too_short)
{
	for (size_t len = 0; len <= sizeof(struct reply); len++) {
		unsigned char *reply = malloc(len ? len : 1), zero[sizeof(struct reply)] = {0};
		bool done;

		memset(reply, 0, len);
		done = stfs_init_reply_complete(~0u, ~0u, reply, len);
		ck_assert_int_eq(done, len >= offsetof(struct reply, flags2) + 4);
		ck_assert_int_eq(memcmp(reply, zero, len) != 0, done);
		free(reply);
	}
}
END_TEST

/* Never a flag that the kernel did not offer: it would refuse the mount or, worse, believe it. */
START_TEST(init_reply_random)
{
	uint64_t state = stfs_check_seed();

	for (int turn = 0; turn < 20000; turn++) {
		uint32_t offered = (uint32_t)stfs_check_random(&state);
		uint32_t offered2 = (uint32_t)stfs_check_random(&state);
		struct reply reply = {.flags = (uint32_t)stfs_check_random(&state) & offered};

		ck_assert(stfs_init_reply_complete(offered, offered2, &reply, sizeof(reply)));
		ck_assert_uint_eq(reply.flags & ~offered, 0);
		ck_assert_uint_eq(reply.flags2 & ~offered2, 0);
		ck_assert(reply.flags & EXT || !reply.flags2);
	}
}
END_TEST

/* A descriptor that read(2) fails on as /dev/fuse does; this one is called in place of the library's. */
enum { FAILING_FD = 1 << 20 };
static int failing_errno;

ssize_t read(int fd, void *buffer, size_t len)
{
	if (fd != FAILING_FD)
		return syscall(SYS_read, fd, buffer, len);
	errno = failing_errno;
	return -1;
}

static const int end_cases[][2] = {{ENODEV, ENODEV}, {ECONNABORTED, ENODEV}, {EINTR, EINTR}, {ENOENT, ENOENT}};

START_TEST(end_of_the_mount)
{
	char buffer[64] = {0};

	failing_errno = end_cases[_i][0];
	ck_assert_int_eq(stfs_init_reply_read(FAILING_FD, buffer, sizeof(buffer), NULL), -1);
	ck_assert_int_eq(errno, end_cases[_i][1]);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("fs");
	TCase *options = tcase_create("options"), *expand = tcase_create("expand");
	TCase *init = tcase_create("init_reply");

	tcase_add_test(options, options_defaults);
	tcase_add_test(options, options_of_our_own);
	tcase_add_test(options, options_last_wins);
	tcase_add_loop_test(options, options_flags, 0, COUNT(flag_cases));
	tcase_add_loop_test(options, options_modes, 0, COUNT(mode_cases));
	tcase_add_test(options, options_of_commits);
	tcase_add_loop_test(options, options_seconds, 0, COUNT(seconds_cases));
	tcase_add_loop_test(options, options_sizes, 0, COUNT(size_cases));
	tcase_add_loop_test(options, options_for_libfuse, 0, COUNT(fuse_cases));
	tcase_add_loop_test(options, options_refused, 0, COUNT(refused_cases));
	tcase_add_test(options, options_expand_for_the_helper_alone);
	tcase_add_test(options, help_fits_a_terminal);
	suite_add_tcase(suite, options);
	tcase_add_loop_test(expand, expand_table, 0, COUNT(expand_cases));
	tcase_add_loop_test(expand, expand_refused, 0, COUNT(expand_refused_cases));
	tcase_add_test(expand, expand_home_without_variable);
	tcase_add_test(expand, expand_random);
	suite_add_tcase(suite, expand);
	tcase_add_loop_test(init, init_reply_table, 0, COUNT(init_cases));
	tcase_add_test(init, init_reply_too_short);
	tcase_add_test(init, init_reply_random);
	tcase_add_loop_test(init, end_of_the_mount, 0, COUNT(end_cases));
	suite_add_tcase(suite, init);
	return stfs_check_main(suite);
}
