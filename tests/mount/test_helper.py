# SPDX-License-Identifier: MIT
"""The mount helper: its command line, what it says and ends with, and how it lives and dies."""
import contextlib
import errno
import fcntl
import json
import mmap
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time

import pytest

import models
from conftest import PATIENCE, MountFailed, mount_entry
from editing import state

USAGE, MODEL, MOUNT = 1, 2, 32


def mounts_below(folder):
    """Mount points in a folder, the topmost first."""
    found = []
    for line in pathlib.Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        where = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), line.split(" ")[4])
        if where.startswith(f"{folder}/"):
            found.append(where)
    return found[::-1]


@pytest.fixture(autouse=True)
def nothing_stays_mounted(tmp_path):
    """Whatever a command line of these tests did by mistake is undone, and told."""
    yield
    left = mounts_below(os.path.realpath(tmp_path))
    for where in left:
        subprocess.run(["fusermount3", "-uz", where], check=False)
    assert left == []


@pytest.fixture
def run(nothing_stays_mounted, daemon_path, program_env):
    """run(*words, name="safetensorsfs" ...): the program, which is expected to end by itself."""
    def start(*words, **kw):
        env = dict(program_env, **kw.pop("env", {}))
        return subprocess.run([str(daemon_path), *map(os.fspath, words)], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, errors="surrogateescape", env=env,
                              timeout=PATIENCE, **kw)
    return start


def wait_for_exit(pid):
    """Exit code of a daemon that was started in the background; it is a child of ours by now."""
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"the daemon {pid} did not end")


class Launched:
    """A mount made by a command line of the test's own."""

    def __init__(self, done, path):
        self.done, self.path = done, pathlib.Path(path)
        assert done.returncode == 0, done.stderr
        self.status = json.loads((self.path / ".stfs").read_text())

    def unmount(self):
        subprocess.run(["fusermount3", "-u", self.path], check=True)
        return wait_for_exit(self.status["pid"])


@pytest.fixture
def launch(nothing_stays_mounted, fuse_device, daemon_path, program_env):
    """launch(words, at, program=..., env=..., cwd=...): in the background; unmounted in the end."""
    launched = []

    def start(words, at, program=daemon_path, env=None, cwd=None):
        done = subprocess.run([str(program), *map(os.fspath, words)], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=PATIENCE, cwd=cwd,
                              errors="surrogateescape", env=dict(program_env, **(env or {})))
        launched.append(Launched(done, at))
        return launched[-1]
    yield start
    assert [made.unmount() for made in reversed(launched)] == [0] * len(launched)


@pytest.fixture
def helper_program(daemon_path, tmp_path):
    """helper_program(type): the program under the name by which mount(8) calls it."""
    def link(type):
        path = tmp_path / f"sbin/mount.{type}"
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(daemon_path)
        return path
    return link


TYPES = ("safetensorsfs", "fuse.safetensorsfs")


# --- words that are refused -------------------------------------------------------------------


@pytest.mark.parametrize("words, named", [
    ([], "MODEL"), (["m"], "MOUNTPOINT"), (["m", "d", "e"], "more"),
    (["--nonsense", "m", "d"], "--nonsense"), (["-x", "m", "d"], "-x"), (["-fx", "m", "d"], "-x"),
    (["m", "d", "-o"], "-o"), (["m", "d", "--log-file"], "--log-file"), (["--help=x"], "--help=x"),
    (["-o", "nonsense", "m", "d"], "nonsense"), (["-o", "ro,nonsense=5,xattr", "m", "d"], "nonsense=5"),
    (["-o", "allow_others", "m", "d"], "allow_others"), (["-o", "view", "m", "d"], "view"),
    (["-o", "xattr=1", "m", "d"], "xattr=1"), (["-o", "force=1", "m", "d"], "force=1"),
    (["-o", "ro,cow", "m", "d"], "only one"), (["-o", "rw,cow,create", "m", "d"], "only one"),
    (["-o", "overwrite", "m", "d"], "create"), (["-o", "overwrite=always", "m", "d"], "direct, staged"),
    (["-o", "readers=kill", "m", "d"], "spare, ignore"), (["-o", "autosync=soon", "m", "d"], "soon"),
    (["-o", "autosync_max=-1", "m", "d"], "-1"), (["-o", "spool_limit=much", "m", "d"], "much"),
    (["-o", "view=fancy", "m", "d"], "raw, npy, both"), (["-o", "view=", "m", "d"], "raw, npy, both"),
    (["-o", "cache=yes", "m", "d"], "auto, always, never"),
    (["-o", "sidecars=no", "m", "d"], "shown, hidden"),
    (["-o", "uid=root", "m", "d"], "root"), (["-o", "uid=-1", "m", "d"], "-1"),
    (["-o", "uid=4294967295", "m", "d"], "4294967295"), (["-o", "gid=", "m", "d"], '""'),
    (["-o", "gid=99999999999999999999", "m", "d"], "99999999999999999999"),
    (["-o", "umask=9", "m", "d"], "9"), (["-o", "fmask=01000", "m", "d"], "01000"),
    (["-o", "dmask=7x", "m", "d"], "7x"), (["-o", "max_read=many", "m", "d"], "many"),
])
def test_wrong_words(run, tmp_path, words, named):
    done = run(*words, cwd=tmp_path)
    assert done.returncode == USAGE and done.stdout == ""
    assert done.stderr.startswith("safetensorsfs: ") and done.stderr.count("\n") == 1
    assert named in done.stderr
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("words, named", [
    (["m", "d", "-x"], "-x"), (["m", "d", "-o", "nonsense"], "nonsense"), (["m"], "MOUNTPOINT"),
    (["$NOT_SET_ANYWHERE/m", "d"], "NOT_SET_ANYWHERE"), (["~no-such-user/m", "d"], "no-such-user"),
    (["m", "d", "-o", "log_file=$NOT_SET_ANYWHERE"], "NOT_SET_ANYWHERE"), (["m", "${d"], "{d"),
])
def test_wrong_words_to_the_helper(helper_program, program_env, tmp_path, words, named):
    done = subprocess.run([helper_program("safetensorsfs"), *words], capture_output=True, text=True,
                          cwd=tmp_path, env=program_env)
    assert done.returncode == USAGE and named in done.stderr, done.stderr


def test_sloppy_helper_ignores_unknown_options(launch, helper_program, small_model, tmp_path):
    """mount -s: tolerate sloppy options rather than fail."""
    (tmp_path / "m").mkdir()
    made = launch([small_model, tmp_path / "m", "-s", "-o", "rw,nonsense"], tmp_path / "m",
                  program=helper_program("safetensorsfs"))
    assert made.status["mode"] == "rw"


# --- help and version -------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["-h"], ["--help"], ["-f", "-h", "x"], ["-o", "xattr", "--help"]])
def test_help(run, words):
    done = run(*words)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("usage: safetensorsfs") and done.stdout.endswith("\n")
    assert not done.stdout.endswith("\n\n")
    assert max(map(len, done.stdout.splitlines())) <= 80
    for word in ("-o", "-f", "-d", "-s", "-h", "-V", "--log-file", "view=", "sidecars=", "xattr", "uid=",
                 "gid=", "umask=", "fmask=", "dmask=", "cache=", "allow_other", "umount", "ro ", "rw ", "cow ",
                 "create ", "overwrite", "force ", "autosync=", "autosync_max=", "overwrite=direct|staged",
                 "readers=spare|ignore", "spool=", "spool_limit=", "stfs sync", "stfs save"):
        assert word in done.stdout


@pytest.mark.parametrize("word", ["-V", "--version"])
def test_version(run, word):
    done = run(word)
    assert done.returncode == 0
    assert re.fullmatch(r"safetensorsfs \d+\.\d+\.\d+ \(libfuse [\d.]+\S*\)\n", done.stdout)


# --- models that cannot be mounted ------------------------------------------------------------


def make_fifo(path):
    os.mkfifo(path)


def make_socket(path):
    here = os.getcwd()
    with socket.socket(socket.AF_UNIX) as made:
        os.chdir(path.parent)  # a path of a socket must be short
        try:
            made.bind(path.name)
        finally:
            os.chdir(here)


def make_loop(path):
    path.symlink_to(path)


UNREADABLE = {
    "missing": lambda path: None, "empty": lambda path: path.touch(), "folder": pathlib.Path.mkdir,
    "fifo": make_fifo, "socket": make_socket, "loop": make_loop,
    "device": lambda path: path.symlink_to("/dev/zero"), "null": lambda path: path.symlink_to("/dev/null"),
    "terminal": lambda path: path.symlink_to("/dev/tty"), "dangling": lambda path: path.symlink_to("nowhere"),
    "text": lambda path: path.write_text("this is not a model, whatever its name says\n"),
    "zeros": lambda path: path.write_bytes(bytes(100)),
    "page": lambda path: path.write_text("<!DOCTYPE html><html>" * 9),
    "pointer": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "proc": lambda path: path.symlink_to("/proc/self/mem"),
}


@pytest.mark.parametrize("mode", [[], ["-o", "ro"], ["-o", "cow"]])
@pytest.mark.parametrize("foreground", [["-f"], []])
@pytest.mark.parametrize("kind", UNREADABLE)
def test_model_cannot_be_read(run, tmp_path, kind, foreground, mode):
    """Code 2, the file named, at once; and the mount point that was made for it is gone again."""
    path, absent, there = tmp_path / "the-model.safetensors", tmp_path / "absent", tmp_path / "there"
    UNREADABLE[kind](path)
    there.mkdir()
    for mountpoint in absent, there:
        done = run(*foreground, *mode, path, mountpoint)
        assert done.returncode == MODEL, done.stderr
        assert "the-model.safetensors" in done.stderr and done.stderr.startswith("safetensorsfs: ")
        assert done.stderr.count("\n") == 1, done.stderr
        assert mount_entry(mountpoint) is None
    assert not absent.exists() and there.is_dir()


def test_folder_of_two_models_names_both(run, make_model, tmp_path):
    for name in "one", "two":
        make_model(f"d/{name}.safetensors", {"x": ("U8", [1], None)})
    done = run(tmp_path / "d", tmp_path / "m")
    assert done.returncode == MODEL
    assert "one.safetensors" in done.stderr and "two.safetensors" in done.stderr


def test_missing_shard_is_named(run, make_model, tmp_path):
    make_model("d/a.safetensors", {"x": ("U8", [1], None)})
    (tmp_path / "d/model.safetensors.index.json").write_text(json.dumps(
        {"metadata": {}, "weight_map": {"x": "a.safetensors", "y": "gone.safetensors"}}))
    done = run(tmp_path / "d", tmp_path / "m")
    assert done.returncode == MODEL and "gone.safetensors" in done.stderr


@pytest.mark.parametrize("mode", ["ro", "rw", "", "force", "cow"])
@pytest.mark.parametrize("damage", ["longer", "cut"])
def test_damaged_model_is_mounted_with_a_word(mount, make_model, damage, mode):
    """But no commit touches it: without ro and cow it is mounted read-only, and force does not help."""
    model = make_model("m.safetensors", {"x": ("U8", [9], None), "y": ("U8", [5], None)},
                       tail=b"more" if damage == "longer" else b"")
    if damage == "cut":
        os.truncate(model, model.stat().st_size - 1)
    before = model.read_bytes()
    mounted = mount(model, mode=mode)
    assert "damaged" in mounted.stderr() and "stfs check" in mounted.stderr()
    status = json.loads((mounted.path / ".stfs").read_text())
    assert status["tolerant"] and status["mode"] == ("cow" if mode == "cow" else "ro")
    assert ("readonly_because" in status) == (mode not in ("ro", "cow"))
    assert ("-o cow" in mounted.stderr()) == (mode not in ("ro", "cow")) and "-o force" not in mounted.stderr()
    assert (mounted.path / "x").read_bytes() == models.pattern("U8", [9], "x")
    mounted.unmount()
    assert model.read_bytes() == before


# --- mount points -----------------------------------------------------------------------------


def make_dead_mount(mount, model):
    """A mount whose daemon was killed."""
    mounted = mount(model)
    mounted.exit_codes = None
    os.kill(mounted.pid, signal.SIGKILL)
    assert mounted.ended() == -signal.SIGKILL
    with pytest.raises(OSError) as dead:
        os.listdir(mounted.path)
    assert dead.value.errno == errno.ENOTCONN
    return mounted


@pytest.mark.parametrize("foreground", [["-f"], []])
def test_mount_point_that_cannot_be_used(run, small_model, tmp_path, foreground):
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere/at/all")
    for name in "file", "absent/below", "loop", "dangling", "file/below", "n" * 300:
        done = run(*foreground, small_model, tmp_path / name)
        assert done.returncode == MOUNT and name in done.stderr, (name, done.stderr)
    assert not (tmp_path / "absent").exists() and (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("foreground", [["-f"], []])
def test_dead_mount_names_the_cure(mount, run, small_model, foreground):
    dead = make_dead_mount(mount, small_model)
    done = run(*foreground, small_model, dead.path)
    assert done.returncode == MOUNT
    assert f"stfs umount {dead.path}" in done.stderr


def test_absent_mount_point_is_made(mount, small_model, tmp_path):
    for foreground in True, False:
        where = tmp_path / f"made{foreground}"
        mounted = mount(small_model, foreground=foreground, mountpoint=where)
        assert len(os.listdir(where)) == 7
        mounted.unmount()


def test_mount_over_a_folder_with_files(mount, small_model, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("kept")
    mounted = mount(small_model, mountpoint=tmp_path / "full")
    assert "mine" not in os.listdir(mounted.path)
    mounted.unmount()
    assert (tmp_path / "full/mine").read_text() == "kept"


def test_mount_over_a_mount(launch, small_model, make_model, tmp_path):
    other = make_model("other.safetensors", {"other": ("U8", [1], None)})
    launch([small_model, tmp_path / "m"], tmp_path / "m")
    above = launch([other, tmp_path / "m"], tmp_path / "m")
    assert sorted(os.listdir(tmp_path / "m")) == ["other", "other.json"]
    assert above.status["tensors"] == 1


def test_mount_point_through_a_link(launch, small_model, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    made = launch([small_model, tmp_path / "link"], tmp_path / "real")
    assert made.status["mountpoint"] == os.path.realpath(tmp_path / "real")


@pytest.mark.parametrize("model, where", [
    ("small.safetensors", "mnt"), ("./small.safetensors", "./mnt/"),
    ("mnt/../small.safetensors", "mnt/../mnt"),
])
def test_relative_paths(launch, small_model, tmp_path, model, where):
    (tmp_path / "mnt").mkdir()
    made = launch([model, where], tmp_path / "mnt", cwd=tmp_path)
    assert made.status["mountpoint"] == os.path.realpath(tmp_path / "mnt")
    assert os.path.samefile(made.status["model"], small_model)
    assert os.readlink(f"/proc/{made.status['pid']}/cwd") == "/"


def test_mount_on_the_current_folder(launch, small_model, tmp_path):
    (tmp_path / "mnt").mkdir()
    launch(["../small.safetensors", "."], tmp_path / "mnt", cwd=tmp_path / "mnt")


def test_relative_absent_mount_point_is_removed_again(run, tmp_path):
    for foreground in [], ["-f"]:
        assert run(*foreground, "missing", "absent", cwd=tmp_path).returncode == MODEL
        assert not (tmp_path / "absent").exists()


ODD = ["with space", "comma,comma", "back\\slash", "a,b\\,c\\", "quote'\"", "new\nline", "tab\t", "%20",
       "ünï", "#hash", "$HOME", "~", "*?[]", "\x01", b"\xff\xfe not UTF-8", "-o", "x=y", "a:b"]


@pytest.mark.parametrize("foreground", [True, False])
@pytest.mark.parametrize("name", ODD)
def test_odd_paths(mount, tmp_path, name, foreground):
    """As the shell gives them: nothing in them is interpreted."""
    folder = tmp_path / os.fsdecode(name)
    folder.mkdir()
    model = models.write_model(folder / "m.safetensors", {"x": ("U8", [3], b"abc")})
    (folder / "mnt").mkdir()
    mounted = mount(model, foreground=foreground, mountpoint=folder / "mnt")
    assert (mounted.path / "x").read_bytes() == b"abc"
    status = json.loads((mounted.path / ".stfs").read_bytes().decode())
    if not isinstance(name, bytes):
        assert status["model"] == str(model) and status["mountpoint"] == os.path.realpath(folder / "mnt")
    assert mounted.entry()["fstype"] == "fuse.safetensorsfs"


def test_source_in_the_mount_table(mount, small_model):
    assert mount(small_model).entry()["source"] == str(small_model)


# --- options ----------------------------------------------------------------------------------

SWALLOWED = ["defaults", "user", "user=joe", "users", "nouser", "owner", "group", "auto", "noauto", "nofail",
             "_netdev", "x-systemd.automount", "x-systemd.device-timeout=5", "X-mount.mkdir",
             "comment=a remark", "relatime", "norelatime", "strictatime", "nostrictatime", "lazytime",
             "nolazytime", "diratime", "nodiratime", "silent", "loud", "iversion", "noiversion", "mand",
             "nomand", "nousers", "noowner", "nogroup", "nonempty", "subtype=x"]
PASSED = ["default_permissions", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime", "atime",
          "sync", "async", "dirsync", "fsname=other", "max_read=65536", "auto_unmount", "allow_root"]


@pytest.mark.parametrize("mode", ["ro", "rw"])
def test_generic_options_are_swallowed(mount, small_model, mode):
    mounted = mount(small_model, *SWALLOWED, mode=mode)
    assert mode in mounted.entry()["options"]
    mounted.unmount()
    mounted = mount(small_model, ",".join(SWALLOWED), mode=mode)
    assert (mounted.path / "steps").stat().st_size == 8


@pytest.mark.parametrize("option", PASSED)
def test_options_for_the_kernel(mount, small_model, option):
    mounted = mount(small_model, option)
    assert (mounted.path / "steps").stat().st_size == 8
    entry = mounted.entry()
    if option in ("nosuid", "nodev", "noexec", "noatime"):
        assert option in entry["options"]
    elif option in ("default_permissions", "max_read=65536", "dirsync", "sync"):
        assert option in entry["super"]
    elif option == "fsname=other":
        assert entry["source"] == "other"


def test_auto_unmount_outlives_a_killed_daemon(mount, small_model):
    mounted = mount(small_model, "auto_unmount")
    mounted.exit_codes = None
    os.kill(mounted.pid, signal.SIGKILL)
    limit = time.monotonic() + PATIENCE
    while mounted.entry() and time.monotonic() < limit:
        time.sleep(0.01)
    assert mounted.entry() is None


# --- to the background and out of it ----------------------------------------------------------


def test_answers_when_the_command_ends(mount, small_model, tmp_path):
    for _ in range(50):
        mounted = mount(small_model, foreground=False, mountpoint=tmp_path / "m")
        assert len(os.listdir(mounted.path)) == 7
        assert mounted.unmount() == 0


def test_the_terminal_is_let_go(launch, small_model, tmp_path):
    """Pipes of the caller are closed; no controlling terminal; the folder is not kept busy."""
    made = launch([small_model, tmp_path / "m"], tmp_path / "m")
    process = pathlib.Path(f"/proc/{made.status['pid']}")
    assert {os.readlink(process / f"fd/{fd}") for fd in range(3)} == {"/dev/null"}
    assert os.readlink(process / "cwd") == "/"
    assert os.getsid(made.status["pid"]) == made.status["pid"]
    assert made.done.stdout == made.done.stderr == ""


@pytest.mark.parametrize("closed", ["<&-", "<&- >&-", "<&- >&- 2>&-", ">&- 2>&-"])
def test_started_with_closed_descriptors(launch, daemon_path, small_model, tmp_path, closed):
    """What is opened in their place must not be taken for standard input or output."""
    script = tmp_path / "start"
    script.write_text(f'#!/bin/sh\nexec "{daemon_path}" "$@" {closed}\n')
    script.chmod(0o755)
    launch([small_model, tmp_path / "m"], tmp_path / "m", program=script)
    assert (tmp_path / "m/steps").read_bytes() == models.pattern("I64", [], "steps")
    assert (tmp_path / "m/embed.weight").stat().st_size == 1024


@pytest.mark.parametrize("foreground", [True, False])
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_unmount(mount, small_model, sent, foreground):
    mounted = mount(small_model, foreground=foreground)
    os.kill(mounted.pid, sent)
    assert mounted.ended() == 0
    assert mounted.entry() is None and os.listdir(mounted.path) == []


@pytest.mark.parametrize("foreground", [True, False])
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_commit(mount_rw, small_model, sent, foreground):
    before = state(small_model)[0]
    mounted = mount_rw(small_model, foreground=foreground)
    (mounted.path / "steps").unlink()
    (mounted.path / "raw").write_bytes(b"12")
    assert state(small_model)[0] == before
    os.kill(mounted.pid, sent)
    assert mounted.ended() == 0
    assert mounted.entry() is None and os.listdir(mounted.path) == []
    del before["steps"]
    assert state(small_model)[0] == before | {"raw": ("U8", [2], b"12")}


def test_signal_while_a_mapping_is_dirty(mount_rw, small_model):
    """What was written through it, and never synced, is in the model."""
    models.write_model(small_model, {"embed.weight": ("U8", [64 << 20], bytes(64 << 20))})
    mounted = mount_rw(small_model)
    fd = os.open(mounted.path / "embed.weight", os.O_RDWR)
    try:
        mapping = mmap.mmap(fd, 0)
        mapping[:] = b"EDIT" * (16 << 20)
        os.kill(mounted.pid, signal.SIGTERM)
        assert mounted.ended() == 0
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)
    assert models.official_tensors(small_model)["embed.weight"][2] == b"EDIT" * (16 << 20)


def test_signal_while_a_file_is_open(mount, small_model):
    mounted = mount(small_model)
    fd = os.open(mounted.path / "embed.weight", os.O_RDONLY)
    os.kill(mounted.pid, signal.SIGTERM)
    try:
        assert mounted.ended() == 0
        assert mounted.entry() is None
        with pytest.raises(OSError) as gone:
            os.pread(fd, 1, 0)
        assert gone.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    finally:
        with contextlib.suppress(OSError):  # nobody is there to hear of the close
            os.close(fd)


def test_busy_mount_stays(mount, small_model):
    mounted = mount(small_model)
    with open(mounted.path / "embed.weight", "rb"):
        done = subprocess.run(["fusermount3", "-u", mounted.path], capture_output=True)
        assert done.returncode != 0 and mounted.ended(0) is None
    assert mounted.unmount() == 0


def test_debug_prints_requests_in_the_foreground(mount, small_model):
    mounted = mount(small_model, daemon_args=["-d"], foreground=True)
    os.listdir(mounted.path)
    assert "READDIRPLUS" in mounted.stderr() and mounted.ended(0) is None


def test_single_thread(mount, small_model):
    def threads(mounted):
        readers = [threading.Thread(target=os.listdir, args=(mounted.path,)) for _ in range(8)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        (mounted.path / "steps").read_bytes()
        return len(os.listdir(f"/proc/{mounted.pid}/task"))
    single, many = threads(mount(small_model, daemon_args=["-s"])), threads(mount(small_model))
    assert single < many <= single + 6


# --- where messages go ------------------------------------------------------------------------


def cut_and_read(model, mountpoint):
    """Makes the daemon say something."""
    os.truncate(model, model.stat().st_size - 1)
    with pytest.raises(OSError):
        (mountpoint / "steps").read_bytes()


@pytest.mark.parametrize("foreground", [True, False])
@pytest.mark.parametrize("word", ["--log-file={}", "-olog_file={}"])
def test_log_file(mount, small_model, tmp_path, word, foreground):
    log = tmp_path / "the log"
    log.write_text("kept\n")
    mounted = mount(small_model, daemon_args=[word.format(log)], foreground=foreground)
    cut_and_read(small_model, mounted.path)
    lines = log.read_text().splitlines()
    assert lines[0] == "kept" and len(lines) == 2
    assert re.match(rf"\d{{4}}-\d\d-\d\dT\S+ safetensorsfs\[{mounted.pid}\]: .*cut short", lines[1])
    assert "cut short" not in mounted.stderr()


def test_foreground_logs_to_the_terminal(mount, small_model):
    mounted = mount(small_model)
    cut_and_read(small_model, mounted.path)
    assert "cut short" in mounted.stderr()


def test_relative_log_file(launch, small_model, tmp_path):
    made = launch(["-o", "ro", small_model, "m", "--log-file", "log"], tmp_path / "m", cwd=tmp_path)
    cut_and_read(small_model, made.path)
    assert "cut short" in (tmp_path / "log").read_text()


def test_log_file_that_cannot_be_written(run, small_model, tmp_path):
    done = run(small_model, tmp_path / "m", "--log-file", tmp_path / "absent/log")
    assert done.returncode == USAGE and "absent/log" in done.stderr
    assert not (tmp_path / "m").exists()


# --- called by mount(8) -----------------------------------------------------------------------


@pytest.mark.parametrize("words, mode", [("rw,", "rw"), ("ro,", "ro"), ("", "rw"), ("rw,ro,", "ro"),
                                         ("rw,cow,", "cow")])
@pytest.mark.parametrize("type", TYPES)
def test_called_as_mount_calls(launch, helper_program, small_model, tmp_path, type, words, mode):
    """mount.TYPE SPEC DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE.SUBTYPE]"""
    (tmp_path / "m").mkdir()
    made = launch([small_model, tmp_path / "m", "-v", "-n", "-o", f"{words}noexec,nosuid,nodev,user,view=npy",
                   "-t", "fuse.safetensorsfs"], tmp_path / "m", program=helper_program(type))
    assert made.status["options"]["view"] == "npy" and made.status["mode"] == mode
    assert {"ro" if mode == "ro" else "rw", "noexec", "nosuid", "nodev"} <= set(mount_entry(made.path)["options"])


def test_fake(helper_program, program_env, small_model, tmp_path):
    done = subprocess.run([helper_program("safetensorsfs"), small_model, tmp_path / "m", "-f", "-o", "rw"],
                          env=program_env, capture_output=True, text=True)
    assert done.returncode == 0 and mount_entry(tmp_path / "m") is None
    assert not (tmp_path / "m").exists()


def test_home_and_variables(launch, helper_program, small_model, tmp_path):
    """No shell has seen what stands in fstab."""
    (tmp_path / "m $x").mkdir()
    made = launch(["${WHERE}/small.safetensors", "~/m \\$x", "-o", "log_file=$WHERE/log"], tmp_path / "m $x",
                  program=helper_program("safetensorsfs"),
                  env={"HOME": str(tmp_path), "WHERE": str(tmp_path)})
    assert made.status["mountpoint"] == os.path.realpath(tmp_path / "m $x")
    assert (tmp_path / "log").exists()


def test_nothing_is_run(launch, helper_program, tmp_path):
    names, program = ("$(touch run)`touch run`;&|", "a\\b"), helper_program("safetensorsfs")
    for i, name in enumerate(names):
        folder = tmp_path / name
        folder.mkdir()
        models.write_model(folder / "m.safetensors", {"x": ("U8", [1], None)})
        written = str(folder).replace("$", "\\$")
        where = tmp_path / f"m{i}"
        launch([f"{written}/m.safetensors", where], where, program=program, cwd=tmp_path)
    assert not (tmp_path / "run").exists()


NAMESPACE = """
set -e
mount -t overlay overlay -o "lowerdir=$TMP/sbin:/usr/sbin" /usr/sbin
{}
"""


@pytest.fixture
def mount8(daemon_path, program_env, helper_program, tmp_path, fuse_device):
    """mount8(script): a shell with the helpers in /usr/sbin, in a mount namespace of its own."""
    if os.geteuid() != 0:
        pytest.skip("mount(8) with a helper in a namespace of its own takes root")
    for type in TYPES:
        helper_program(type)

    def start(script):
        return subprocess.run(["unshare", "-m", "--propagation", "slave", "sh", "-c",
                               NAMESPACE.format(script)], capture_output=True, text=True, cwd=tmp_path,
                              env=dict(program_env, TMP=str(tmp_path)), timeout=PATIENCE)
    return start


def reap(text):
    """The daemons whose status files a script has printed end with 0."""
    pids = [int(pid) for pid in re.findall(r'"pid":\s*(\d+)', text)]
    assert pids and [wait_for_exit(pid) for pid in pids] == [0] * len(pids)


@pytest.mark.parametrize("words, mode", [("", "rw"), ("-r", "ro"), ("-o ro", "ro"), ("-w", "rw"), ("-o cow", "rw")])
@pytest.mark.parametrize("type", TYPES)
def test_mount8(mount8, small_model, tmp_path, type, words, mode):
    (tmp_path / "m").mkdir()
    done = mount8(f'mount -t {type} {words} -o noauto,nofail,user,x-systemd.automount,view=npy,sidecars=hidden '
                  '"$TMP/small.safetensors" "$TMP/m"; ls "$TMP/m"; cat "$TMP/m/.stfs"; '
                  'findmnt -no FSTYPE,OPTIONS "$TMP/m"; umount "$TMP/m"; ls "$TMP/m"')
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("__metadata__.json\nembed.weight.npy\nlayer.0.bias.npy\nsteps.npy\n{")
    assert re.search(rf"^fuse\.safetensorsfs +{mode},", done.stdout, re.M)
    assert f'"mode": "{"cow" if "cow" in words else mode}"' in done.stdout
    reap(done.stdout)


def test_mount8_of_a_shared_model(mount8, small_model, tmp_path):
    """It always passes rw, which is no wish to write: the same line, and code 0."""
    (tmp_path / "m").mkdir()
    small_model.chmod(0o444)
    done = mount8('mount -t safetensorsfs "$TMP/small.safetensors" "$TMP/m"; cat "$TMP/m/.stfs"; '
                  'findmnt -no FSTYPE,OPTIONS "$TMP/m"; umount "$TMP/m"')
    assert done.returncode == 0 and "-o cow" in done.stderr and "-o force" in done.stderr, done.stderr
    assert re.search(r"^fuse\.safetensorsfs +ro,", done.stdout, re.M) and '"readonly_because"' in done.stdout
    reap(done.stdout)


def test_edits_below_mount8(mount8, small_model, tmp_path):
    """umount(8) without our helper for it: the daemon commits what it has when it is told to go."""
    (tmp_path / "m").mkdir()
    before = state(small_model)
    done = mount8('mount -t safetensorsfs -o autosync=0,autosync_max=0 "$TMP/small.safetensors" "$TMP/m"; '
                  'cat "$TMP/m/.stfs"; rm "$TMP/m/steps"; printf abc > "$TMP/m/n"; '
                  'echo \'{"dtype":"U8","shape":[3]}\' > "$TMP/m/n.json"; umount "$TMP/m"')
    assert done.returncode == 0 and done.stderr == "", done.stderr
    reap(done.stdout)
    tensors = dict(before[0], n=("U8", [3], b"abc"))
    del tensors["steps"]
    assert state(small_model) == (tensors, before[1])


def test_fstab(mount8, make_model, tmp_path):
    make_model("a b/m.safetensors", {"x": ("U8", [3], b"abc")})
    (tmp_path / "m").mkdir()
    (tmp_path / "fstab").write_text(f"{tmp_path}/a\\040b/m.safetensors {tmp_path}/m safetensorsfs "
                                    "ro,noauto,nofail,_netdev,x-systemd.automount,comment=x,uid=7 0 0\n")
    done = mount8('mount -T fstab "$TMP/m"; cat "$TMP/m/x" "$TMP/m/.stfs"; stat -c "uid %u" "$TMP/m/x"; '
                  'umount "$TMP/m"')
    assert done.returncode == 0 and done.stdout.startswith("abc{") and "uid 7" in done.stdout, done.stderr
    assert '"mode": "ro"' in done.stdout
    reap(done.stdout)


def test_mount8_passes_the_exit_code_on(mount8, tmp_path):
    (tmp_path / "m").mkdir()
    for words, code in (('"$TMP/gone" "$TMP/m"', MODEL), ('-o nonsense "$TMP/gone" "$TMP/m"', USAGE),
                        ('-f "$TMP/gone" "$TMP/m"', 0)):
        done = mount8(f"mount -t safetensorsfs {words} || exit $?")
        assert done.returncode == code, done.stderr
        assert code == 0 or "safetensorsfs: " in done.stderr


# --- what applications do ---------------------------------------------------------------------


def test_locks(mount, small_model):
    path = mount(small_model).path / "steps"
    with open(path, "rb") as first, open(path, "rb") as second:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(BlockingIOError):
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(first, fcntl.LOCK_UN)
        fcntl.flock(second, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.lockf(first, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_a_failed_mount_raises_in_these_tests(mount, small_model):
    """The harness itself: a daemon that ends is not taken for a mount."""
    with pytest.raises(MountFailed) as failed:
        mount(small_model, "nonsense")
    assert failed.value.returncode == USAGE


def test_names_from_files_do_not_steer_the_terminal(run, tmp_path):
    """A shard's name is the file's own word: it is shown, not obeyed."""
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "\x1b]0;owned\x07\nforged"}}))
    done = run(index, tmp_path / "m")
    assert done.returncode == 2
    assert "\x1b" not in done.stderr and "\x07" not in done.stderr and "owned" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_log_is_not_written_into_the_model(run, small_model, tmp_path):
    before = pathlib.Path(small_model).read_bytes()
    done = run(f"--log-file={small_model}", small_model, tmp_path / "m")
    assert done.returncode == 1 and "into the model" in done.stderr
    assert pathlib.Path(small_model).read_bytes() == before


def test_a_pipe_for_a_log_does_not_hang(run, small_model, tmp_path):
    os.mkfifo(tmp_path / "log")
    done = run(f"--log-file={tmp_path / 'log'}", small_model, tmp_path / "m")
    assert done.returncode == 1 and "log" in done.stderr


def test_remount_says_what_to_do(run, small_model, tmp_path):
    done = run("-o", "remount,ro", small_model, tmp_path / "m")
    assert done.returncode == 1 and "unmount" in done.stderr
