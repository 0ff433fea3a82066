# SPDX-License-Identifier: MIT
"""Fixtures of the mount tests: the two programs, real mounts, and models to mount.

A mount that cannot be made FAILS its test: nothing here skips because of the machine. Every
daemon must end with exit code 0 and every program without a word from a sanitizer; a test that
wants otherwise says so through `Mount.exit_codes`.
"""
import contextlib
import ctypes
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

import models

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("STFS_BUILD", "build")
DAEMON = BUILD / "src/fs/safetensorsfs"
STFS = BUILD / "src/cli/stfs"
NIGHTLY = os.environ.get("STFS_NIGHTLY", "") not in ("", "0")
# A valgrind or sanitizer run is slower; every wait below is multiplied by this.
SLOW = float(os.environ.get("STFS_TEST_SLOWNESS", "1"))
HANG = 240 * SLOW    # seconds after which the daemons of a test are killed
PATIENCE = 30 * SLOW  # seconds for a mount to answer, or a daemon to end
PR_SET_CHILD_SUBREAPER = 36


def real_model_path():
    """The real model where it was fetched, or None."""
    given = os.environ.get("STFS_REAL_MODEL")
    if given:
        return pathlib.Path(given).resolve()
    found = sorted((ROOT / "build/real").glob("**/model.safetensors"))
    return found[0] if found else None


def pytest_configure(config):
    # Daemons that go to the background become children of this process: their exit codes can be read.
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def pytest_report_header(config):
    return [f"programs: {BUILD}",
            f"real model: {real_model_path() or 'ABSENT, a generated one stands in'}",
            f"corpora: {os.environ.get('STFS_CORPORA') or 'ABSENT (STFS_CORPORA is not set)'}",
            f"nightly: {'yes' if NIGHTLY else 'no'}"]


def pytest_collection_modifyitems(config, items):
    if NIGHTLY:
        return
    long = [item for item in items if item.get_closest_marker("nightly")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


# --- programs ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def corpora():
    """The folder with the test data of STFS_CORPORA; a test that needs it is skipped aloud."""
    given = os.environ.get("STFS_CORPORA")
    if not given:
        pytest.skip("STFS_CORPORA is not set: no corpora to judge by")
    path = (ROOT / given).resolve()
    assert path.is_dir(), f"STFS_CORPORA={given} is not a directory"
    return path


@pytest.fixture
def program_env(tmp_path):
    """The environment of every program under test.

    Fails the test if a sanitizer reported, or if a mount is left under tmp_path.
    """
    reports = tmp_path / "sanitizer"
    reports.mkdir()
    logged = f"log_path={reports}/report:exitcode=99"
    # Not the width that pytest-xdist gives its workers, nor anybody's taste in colours.
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    env.update(
        LC_ALL="C.UTF-8",
        # As installed, where both programs lie in one folder.
        PATH=f"{DAEMON.parent}:{STFS.parent}:{os.environ['PATH']}",
        ASAN_OPTIONS=f"{logged}:detect_leaks=1:detect_stack_use_after_return=1",
        UBSAN_OPTIONS=f"{logged}:print_stacktrace=1:halt_on_error=1",
        TSAN_OPTIONS=f"{logged}:second_deadlock_stack=1:suppressions={ROOT}/tests/tsan.supp",
        LSAN_OPTIONS="print_suppressions=0",
    )
    yield env
    wrong = [f"{path} was left mounted" for path in detach_below(tmp_path)]
    found = sorted(reports.iterdir())
    if found:
        wrong += ["a sanitizer reported:", *(f.read_text(errors="replace") for f in found)]
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


class Stfs:
    """Runs the companion program: stfs("ls", model, "--json").stdout"""

    def __init__(self, path, env):
        self.path, self.env = path, env

    def __call__(self, *args, check=True, input=None, text=True, env=None, timeout=120, cwd=None):
        """A CompletedProcess with stdout and stderr. check: exit code 0 is required."""
        given = {"input": input} if input is not None else {"stdin": subprocess.DEVNULL}
        done = subprocess.run([str(self.path), *map(os.fspath, args)], capture_output=True, text=text,
                              errors="surrogateescape" if text else None, timeout=timeout * SLOW,
                              env=dict(self.env, **(env or {})), cwd=cwd, **given)
        assert done.returncode >= 0, f"stfs {args} died of signal {-done.returncode}: {done.stderr}"
        if check:
            assert done.returncode == 0, f"stfs {args} ended with {done.returncode}: {done.stderr}"
        return done


@pytest.fixture(scope="session")
def stfs_path():
    """The companion program's path, for tests that need nothing mounted."""
    if not os.access(STFS, os.X_OK):
        pytest.fail(f"{STFS} is not built", pytrace=False)
    return STFS


@pytest.fixture
def stfs(stfs_path, program_env):
    """stfs(*args, check=True, input=None, text=True, env=None, timeout=120, cwd=None)"""
    return Stfs(stfs_path, program_env)


@pytest.fixture(scope="session")
def daemon_path():
    """The mount daemon's path."""
    if not os.access(DAEMON, os.X_OK):
        pytest.fail(f"{DAEMON} is not built", pytrace=False)
    return DAEMON


# --- mounts -----------------------------------------------------------------------------------


def mount_table():
    """Every mount as {"path", "source", "fstype", "options", "super", "device"}."""
    for line in pathlib.Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        left, _, right = line.partition(" - ")
        left, right = left.split(" "), right.split(" ")
        path = left[4].encode("utf-8", "surrogateescape").decode("unicode_escape")
        yield {"path": path.encode("latin-1").decode("utf-8", "surrogateescape"), "source": right[1],
               "fstype": right[0], "options": left[5].split(","), "super": right[2].split(","),
               "device": left[2]}


def mount_entry(path):
    """The topmost mount at path, see mount_table(), or None."""
    wanted, found = os.path.realpath(path.parent) + "/" + path.name, None
    for entry in mount_table():
        if entry["path"] == wanted:
            found = entry
    return found


def detach_below(folder):
    """Detaches every mount below a folder; their paths. Whatever removes the folder must not walk in."""
    inside = os.path.realpath(folder) + "/"
    left = [entry["path"] for entry in mount_table() if entry["path"].startswith(inside)]
    for path in reversed(left):
        subprocess.run(["fusermount3", "-uz", path], check=True)
    return left


def abort_connection(entry, folder):
    """Ends what waits for a daemon that does not answer, be it the daemon itself, which nothing can kill then.

    Whoever looks through all mounts (findmnt, mkfs) hangs with it until that is done. entry: of the mount table;
    folder: where fusectl can be mounted, which takes root, unless it is.
    """
    control = pathlib.Path("/sys/fs/fuse/connections")
    mounted = not any(control.iterdir()) and os.geteuid() == 0
    if mounted:
        control = pathlib.Path(folder)
        control.mkdir(exist_ok=True)
        subprocess.run(["mount", "-i", "-t", "fusectl", "none", control], check=True)
    try:
        (control / entry["device"].partition(":")[2] / "abort").write_text("1")
    finally:
        if mounted:
            subprocess.run(["umount", "-i", control], check=True)


def daemon_pids(mountpoint):
    """Processes of the daemon under test that were told of this mount point."""
    pids = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if (entry.name.isdigit() and os.path.samefile(entry / "exe", DAEMON)
                    and os.fsencode(mountpoint) in (entry / "cmdline").read_bytes().split(b"\0")):
                pids.append(int(entry.name))
        except OSError:
            continue
    return pids


# The mount options that say whether a model can be written, and how.
MODES = {"ro", "rw", "cow", "create", "force"}


class MountFailed(Exception):
    """The daemon ended instead of mounting; .returncode (None: it hung) and .stderr say why."""

    def __init__(self, returncode, stderr):
        super().__init__(f"the daemon ended with {returncode}: {stderr}")
        self.returncode, self.stderr = returncode, stderr


class Mount:
    """One mount: .path, .model, .pid, .proc (None in the background), .log, .entry()"""

    def __init__(self, model, path, log):
        self.model, self.path, self.log = model, path, log
        self.proc = self.pid = None
        self.exit_codes = {0}  # what the daemon may end with; None: anything (a test that kills it)
        self._ended = None

    def entry(self):
        """Its line of the mount table, see mount_entry(), or None."""
        return mount_entry(self.path)

    def stderr(self):
        """What the daemon wrote to the terminal so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def ended(self, timeout=PATIENCE):
        """Waits for the very daemon of this mount: its exit code (-N: signal N); None: it runs on."""
        limit = time.monotonic() + timeout
        while self._ended is None and self.pid is not None:
            if self.proc:
                self._ended = self.proc.poll()
            else:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self._ended = os.waitstatus_to_exitcode(status) if pid else None
            if self._ended is None:
                if time.monotonic() > limit:
                    return None
                time.sleep(0.005)
        return self._ended

    def unmount(self, check=True):
        """Unmounts with fusermount3 -u and waits for the daemon; EBUSY is tried again for a while."""
        limit = time.monotonic() + PATIENCE / 3
        while self.entry():
            done = subprocess.run(["fusermount3", "-u", self.path], capture_output=True, text=True)
            if done.returncode and time.monotonic() > limit:
                assert not check, f"fusermount3 -u {self.path}: {done.stderr}"
                return None
            if done.returncode:
                time.sleep(0.05)
        code = self.ended()
        if check:
            self.judge()
        return code

    def judge(self):
        """Asserts that the daemon has ended as it should."""
        code = self.ended()
        assert code is not None, f"the daemon {self.pid} outlives its mount: {self.stderr()}"
        assert self.exit_codes is None or code in self.exit_codes, \
            f"the daemon ended with {code}: {self.stderr()}"

    def clean_up(self):
        """Leaves nothing behind, whatever the test did; returns what was wrong."""
        wrong = []
        self.unmount(check=False)
        if self.entry():
            wrong.append(f"{self.path} stayed busy: lazy unmount")
            while self.entry() and subprocess.run(["fusermount3", "-uz", self.path]).returncode == 0:
                pass
        try:
            self.judge()
        except AssertionError as error:
            wrong.append(str(error))
        if self.ended(0) is None and self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            self.ended()
        return wrong


def words_of(options):
    """The words of -o arguments, without their values."""
    return {word.partition("=")[0] for option in options for word in option.split(",")}


class Mounter:
    """The `mount` fixture; see its docstring."""

    def __init__(self, daemon, env, tmp_path):
        self.daemon, self.env, self.tmp_path = daemon, env, tmp_path
        self.mounts, self.hung, self.started = [], False, 0

    def __call__(self, model, *options, mode=None, daemon_args=(), foreground=True, mountpoint=None, env=None,
                 cwd=None):
        assert mode is None or not words_of(options) & MODES, f"mode={mode} and {options}"
        if mode is None and not words_of(options) & MODES:
            mode = "ro"
        options = (*([mode] if mode else []), *options)
        self.started += 1  # not the mounts: one that failed has its number too
        number = self.started
        where = pathlib.Path(mountpoint or self.tmp_path / f"mnt{number}")
        made = Mount(pathlib.Path(model), where, self.tmp_path / f"daemon{number}.log")
        if mountpoint is None:
            where.mkdir()
        told = [str(self.daemon), *(["-f"] if foreground else []), *map(os.fspath, daemon_args)]
        for option in options:
            told += ["-o", option]
        told += [os.fspath(model), os.fspath(where)]
        with made.log.open("wb") as log:
            made.proc = subprocess.Popen(told, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=cwd,
                                         env=dict(self.env, **(env or {})))
        made.pid = made.proc.pid
        self.mounts.append(made)
        if foreground:
            self._await(made)
        else:
            self._adopt(made)
        os.stat(made.path)  # answers only when the daemon does
        return made

    def _fail(self, made):
        code = made.ended(0)
        if code is None:
            made.proc.kill()
            made.proc.wait()
        made.pid = None
        self.mounts.remove(made)
        raise MountFailed(code, made.stderr())

    def _await(self, made):
        """In the foreground: until the mount table has it."""
        limit = time.monotonic() + PATIENCE
        while not made.entry():
            if made.ended(0) is not None or time.monotonic() > limit:
                self._fail(made)
            time.sleep(0.005)

    def _adopt(self, made):
        """In the background: the started process ends when the mount answers, its child serves."""
        if made.ended() != 0:
            self._fail(made)
        pids = daemon_pids(made.path)
        assert len(pids) == 1 and made.entry(), \
            f"exit code 0, but daemons {pids}, mount {made.entry()}: {made.stderr()}"
        made.proc, made.pid, made._ended = None, pids[0], None

    def kill(self):
        """The watchdog: a hang becomes a failure."""
        self.hung = True
        for made in self.mounts:
            if made.ended(0) is None and made.pid is not None:
                os.kill(made.pid, signal.SIGKILL)
                self.abort(made)

    def abort(self, made):
        """Lets go whoever waits for a daemon that hangs; see abort_connection()."""
        entry = made.entry()
        if entry:
            with contextlib.suppress(OSError, subprocess.CalledProcessError):
                abort_connection(entry, self.tmp_path / "fusectl")

    def clean_up(self):
        wrong = [f"a daemon was killed after {HANG:.0f} s"] if self.hung else []
        for made in reversed(self.mounts):
            wrong += made.clean_up()
        return wrong


@pytest.fixture(scope="session")
def fuse_device():
    """Fails where nothing can be mounted: these tests never skip in silence."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        pytest.fail(f"/dev/fuse: {error.strerror}. The mount tests need a machine that can mount FUSE "
                    "file systems (in a container: --device /dev/fuse --cap-add SYS_ADMIN)", pytrace=False)
    if not shutil.which("fusermount3"):
        pytest.fail("fusermount3 is missing: install fuse3", pytrace=False)


@pytest.fixture
def mount(fuse_device, daemon_path, program_env, tmp_path):
    """mount(model, *options, mode=None, daemon_args=(), foreground=True, mountpoint=None, env=None, cwd=None)

    Each option is one -o argument. The mount is read-only (-o ro) unless one of MODES is among them, or
    given as `mode`; mode="" gives none, which leaves it to the daemon. Returns a Mount that answers, or
    raises MountFailed. A mount point is made under tmp_path unless one is given. At the end of the test each
    mount is taken down; the test fails if it was still busy, or if its daemon did not end with exit code 0.
    """
    mounter = Mounter(daemon_path, program_env, tmp_path)
    watchdog = threading.Timer(HANG, mounter.kill)
    watchdog.daemon = True
    watchdog.start()
    yield mounter
    watchdog.cancel()
    wrong = mounter.clean_up()
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


@pytest.fixture
def mount_rw(mount):
    """mount_rw(model, *options, mode="rw", ...): a writable mount, otherwise as mount()

    One of MODES among the options stands in for `mode`. Nothing is committed by itself, but when a test syncs
    or unmounts, unless an option says when (autosync, autosync_max).
    """
    def make(model, *options, mode="rw", **kw):
        words = words_of(options)
        quiet = [] if words & {"autosync", "autosync_max"} else ["autosync=0,autosync_max=0"]
        return mount(model, *quiet, *options, mode=None if words & MODES else mode, **kw)
    return make


# --- models -----------------------------------------------------------------------------------


@pytest.fixture
def make_model(tmp_path):
    """make_model(name or path, tensors, metadata=None, ...): see models.write_model()"""
    return lambda path, *args, **kw: models.write_model(tmp_path / path, *args, **kw)


@pytest.fixture
def small_model(make_model):
    """Three plain tensors and metadata; small.safetensors"""
    return make_model("small.safetensors", {
        "embed.weight": ("F32", [32, 8], None),
        "layer.0.bias": ("BF16", [24], None),
        "steps": ("I64", [], None),
    }, {"format": "pt"})


@pytest.fixture
def all_dtypes_model(make_model):
    """One tensor of each of the 22 dtypes, named after it; all.safetensors"""
    return make_model("all.safetensors", {f"t.{d}": (d, [3, 8], None) for d in models.BITS})


def once(tmp_path_factory, name, make):
    """A folder made by make(folder) once for all workers of the session."""
    from filelock import FileLock
    base = tmp_path_factory.getbasetemp()
    base = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    folder, ready = base / name, base / f"{name}.ready"
    with FileLock(base / f"{name}.lock"):
        if not ready.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            ready.touch()
    return folder


@pytest.fixture(scope="session")
def real_model(tmp_path_factory):
    """The real model, or where it cannot be had a generated one (the header of the run says which)."""
    found = real_model_path()
    if found:
        return found
    return once(tmp_path_factory, "generated", lambda folder: subprocess.run(
        [sys.executable, ROOT / "scripts/make-model", folder / "model.safetensors"], check=True),
    ) / "model.safetensors"


@pytest.fixture(scope="session")
def sharded_model(tmp_path_factory, real_model):
    """The folder of the real model in shards, cut by huggingface_hub's own code."""
    def cut(folder):
        from huggingface_hub import save_torch_state_dict
        from safetensors.torch import load_file
        save_torch_state_dict(load_file(real_model), folder, max_shard_size=real_model.stat().st_size // 5)
        assert len(models.shards(folder)) > 1
    return once(tmp_path_factory, "sharded", cut)
