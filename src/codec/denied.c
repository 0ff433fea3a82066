/* SPDX-License-Identifier: MIT */
#include "codec/denied.h"

#include <errno.h>
#include <stdlib.h>

/* Names between spaces. */
static const struct {
	const char *module, *names;
} list[] = {
#define OS \
	" system popen execl execle execlp execlpe execv execve execvp execvpe spawnl spawnle spawnlp spawnlpe" \
	" spawnv spawnve spawnvp spawnvpe posix_spawn posix_spawnp startfile fork forkpty kill killpg remove unlink" \
	" rmdir removedirs rename renames replace chmod chown link symlink truncate putenv environ open fdopen "
	{"os", OS}, {"posix", OS}, {"nt", OS}, {"posixpath", " os "}, {"ntpath", " os "},
#define BUILTINS \
	" eval exec execfile compile open file input __import__ getattr setattr delattr globals locals vars breakpoint" \
	" apply map filter type memoryview reload exit quit "
	{"builtins", BUILTINS}, {"__builtin__", BUILTINS},
	{"subprocess", " Popen run call check_call check_output getoutput getstatusoutput "},
	{"commands", " getoutput getstatusoutput "}, {"popen2", " popen2 popen3 popen4 Popen3 "},
	{"sys", " modules exit settrace setprofile meta_path path_hooks "},
	{"shutil", " rmtree move copy copyfile copytree unpack_archive "},
	{"runpy", " run_module run_path _run_code _run_module_as_main "},
	{"pty", " spawn fork "}, {"platform", " popen "}, {"timeit", " timeit repeat "},
	{"importlib", " import_module __import__ reload "}, {"imp", " load_source load_module load_dynamic "},
	{"pkgutil", " resolve_name get_loader "}, {"pydoc", " locate pipepager tempfilepager "},
	{"code", " interact InteractiveInterpreter InteractiveConsole "}, {"codeop", " compile_command "},
	{"bdb", " Bdb "}, {"pdb", " run runeval runcall Pdb "}, {"profile", " run runctx Profile "},
	{"cProfile", " run runctx Profile "}, {"trace", " Trace "}, {"doctest", " debug_script testfile "},
	{"ctypes", " CDLL PyDLL WinDLL cdll windll pythonapi LibraryLoader "}, {"_ctypes", " dlopen call_function "},
	{"cffi", " FFI "}, {"operator", " attrgetter itemgetter methodcaller "}, {"_operator", " attrgetter itemgetter methodcaller "},
	{"functools", " partial reduce partialmethod "}, {"itertools", " starmap "},
	{"types", " CodeType FunctionType MethodType ModuleType "}, {"new", " code function "},
	{"marshal", " loads load "}, {"pickle", " loads load Unpickler "}, {"_pickle", " loads load Unpickler "},
	{"cPickle", " loads load "}, {"dill", " loads load "}, {"cloudpickle", " loads load "},
	{"joblib", " load "}, {"joblib.numpy_pickle", " load "}, {"pandas", " read_pickle eval "},
	{"shelve", " open "}, {"yaml", " load unsafe_load "}, {"jsonpickle", " decode "},
	{"socket", " socket create_connection create_server "}, {"ssl", " SSLSocket "},
	{"http.client", " HTTPConnection HTTPSConnection "}, {"urllib", " urlopen urlretrieve "},
	{"urllib.request", " urlopen urlretrieve Request "}, {"requests", " get post request "},
	{"requests.api", " get post request "}, {"ftplib", " FTP "}, {"smtplib", " SMTP "}, {"telnetlib", " Telnet "},
	{"webbrowser", " open "}, {"asyncio", " create_subprocess_shell create_subprocess_exec run "},
	{"asyncio.unix_events", " _UnixSubprocessTransport "}, {"multiprocessing", " Process Pool "},
	{"multiprocessing.util", " spawnv_passfds "}, {"_posixsubprocess", " fork_exec "}, {"threading", " Thread "},
	{"signal", " signal raise_signal "}, {"pathlib", " os io Path.write_text Path.unlink "},
	{"tempfile", " NamedTemporaryFile mkstemp "}, {"io", " open open_code FileIO "}, {"_io", " open open_code FileIO "},
	{"zipimport", " zipimporter "}, {"site", " addsitedir execsitecustomize "}, {"pip", " main "},
	{"pip._internal", " main "}, {"venv", " create "}, {"ensurepip", " bootstrap "}, {"lib2to3.pgen2.grammar", " Grammar.loads "},
	{"torch", " load "}, {"torch.serialization", " load "}, {"torch.storage", " _load_from_bytes "},
	{"torch.hub", " load "}, {"torch.jit", " load "}, {"torch.utils.collect_env", " run "},
	{"torch.utils.cpp_extension", " load load_inline "}, {"torch._inductor.codecache", " compile_file "},
	{"numpy", " load fromfile memmap "}, {"numpy.testing._private.utils", " runstring "},
	{"numpy.f2py.crackfortran", " getlincoef param_eval _eval_length "},
};
#define MODULES (sizeof(list) / sizeof(list[0]))

struct stfs_denied_pair {
	uint32_t module, name; /* texts */
	uint32_t next;         /* another pair of the same name, or STFS_NO_NUMBER */
};

/* The next of the words between spaces; empty at their end. */
static struct stfs_str next_word(const char **rest)
{
	const char *begin = *rest + strspn(*rest, " ");
	size_t len = strcspn(begin, " ");

	*rest = begin + len;
	return stfs_str_slice(begin, len);
}

bool stfs_denied_is(struct stfs_str module, struct stfs_str name)
{
	struct stfs_str word;

	for (size_t i = 0; i < MODULES; i++) {
		const char *rest = list[i].names;

		if (!stfs_str_is(module, list[i].module))
			continue;
		while ((word = next_word(&rest)).len)
			if (stfs_str_equal(word, name))
				return true;
	}
	return false;
}

/* ---- Pairs ---- */

static struct stfs_str text_of(const void *owner, uint32_t number)
{
	return ((const struct stfs_denied *)owner)->texts[number].text;
}

/* The number of a text, which is added when it is new. */
static uint32_t number_of(struct stfs_denied *denied, struct stfs_str text)
{
	uint32_t *slot = stfs_nametable_slot(&denied->table, text, text_of, denied);

	if (*slot == STFS_NO_NUMBER) {
		*slot = denied->text_count;
		denied->texts[denied->text_count++] = (struct stfs_denied_text){text, STFS_NO_NUMBER, STFS_NO_NUMBER};
	}
	return *slot;
}

static void add_pairs(struct stfs_denied *denied, uint32_t module, const char *names)
{
	struct stfs_str word;

	denied->texts[module].as_module = denied->pair_count;
	while ((word = next_word(&names)).len) {
		uint32_t name = number_of(denied, word);

		denied->pairs[denied->pair_count] = (struct stfs_denied_pair){
			.module = module, .name = name, .next = denied->texts[name].as_name};
		denied->texts[name].as_name = denied->pair_count++;
	}
}

int stfs_denied_init(struct stfs_denied *denied)
{
	uint32_t words = MODULES;
	struct stfs_sipkey key;
	int r = stfs_sipkey_random(&key);

	*denied = (struct stfs_denied){0};
	for (size_t i = 0; i < MODULES; i++)
		for (const char *rest = list[i].names; next_word(&rest).len;)
			words++;
	if (r == 0)
		r = stfs_nametable_make(&denied->table, &key, words);
	denied->texts = calloc(words, sizeof(*denied->texts));
	denied->pairs = calloc(words, sizeof(*denied->pairs));
	if (r < 0 || !denied->texts || !denied->pairs) {
		stfs_denied_free(denied);
		return r < 0 ? r : -ENOMEM;
	}
	for (size_t i = 0; i < MODULES; i++)
		add_pairs(denied, number_of(denied, stfs_str_from(list[i].module)), list[i].names);
	return 0;
}

void stfs_denied_free(struct stfs_denied *denied)
{
	stfs_nametable_free(&denied->table);
	free(denied->texts);
	free(denied->pairs);
	*denied = (struct stfs_denied){0};
}

int stfs_denied_see(struct stfs_denied *denied, struct stfs_str text,
		    int (*found)(void *data, struct stfs_str module, struct stfs_str name), void *data)
{
	const uint32_t number = *stfs_nametable_slot(&denied->table, text, text_of, denied);
	struct stfs_denied_text *texts = denied->texts;
	int r = 0;

	if (number == STFS_NO_NUMBER || texts[number].seen)
		return 0;
	texts[number].seen = true;
	for (uint32_t i = texts[number].as_module; r == 0 && i < denied->pair_count; i++) {
		if (denied->pairs[i].module != number)
			break;
		if (texts[denied->pairs[i].name].seen)
			r = found(data, text, texts[denied->pairs[i].name].text);
	}
	for (uint32_t i = texts[number].as_name; r == 0 && i != STFS_NO_NUMBER; i = denied->pairs[i].next)
		if (texts[denied->pairs[i].module].seen)
			r = found(data, texts[denied->pairs[i].module].text, text);
	return r;
}
