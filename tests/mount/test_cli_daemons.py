# SPDX-License-Identifier: MIT
"""stfs status and umount with daemons that are stopped, silent, or lie: a few lines of FUSE protocol play those."""
import ctypes
import json
import os
import select
import shutil
import signal
import struct
import subprocess
import threading
import time

import pytest

from conftest import SLOW

USER, STRANGER = 65534, 65533
LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE, FLUSH, INIT = 1, 2, 3, 14, 15, 17, 18, 25, 26
FSYNC, OPENDIR, READDIR, RELEASEDIR, FSYNCDIR, INTERRUPT, BATCH_FORGET = 20, 27, 28, 29, 30, 36, 42
FOPEN_DIRECT_IO = 1
PR_SET_DUMPABLE, PR_SET_NAME = 4, 15
ATTR = "QQQQQQIIIIIIIIII"
TIME = 10 * SLOW  # seconds; a hang is for ever

libc = ctypes.CDLL(None, use_errno=True)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts by itself")


class FakeDaemon(threading.Thread):
    """Serves a file .stfs with `text` in it; takes up requests of `silent` and never answers them."""

    def __init__(self, point, text=b"", silent=(), source="fake"):
        super().__init__(daemon=True)
        self.text, self.silent, self.stopping = text, set(silent), False
        self.asked = threading.Event()  # something that it does not answer
        self.fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        data = f"fd={self.fd},rootmode=40000,user_id={USER},group_id={USER},allow_other"
        if libc.mount(os.fsencode(source), os.fsencode(point), b"fuse.safetensorsfs", 0, data.encode()) != 0:
            raise OSError(ctypes.get_errno(), "mount")
        self.start()

    def run(self):
        while not self.stopping:
            if not select.select([self.fd], [], [], 0.05)[0]:
                continue
            try:
                request = os.read(self.fd, 1 << 18)
            except OSError:
                break  # unmounted
            _, opcode, unique, node = struct.unpack_from("<IIQQ", request)
            if opcode in self.silent:
                self.asked.set()
            if opcode in self.silent or opcode in (FORGET, BATCH_FORGET, INTERRUPT):
                continue
            if opcode in (FSYNC, FSYNCDIR):
                self.commit(unique)
            else:
                self.answer(unique, *self.reply(opcode, node, request[40:]))
        self.at_end()
        os.close(self.fd)  # whoever still waits is told so

    def answer(self, unique, error, body=b""):
        os.write(self.fd, struct.pack("<IiQ", 16 + len(body), -error, unique) + body)

    def commit(self, unique):
        """An fsync of .stfs or the directory, to be answered now or later."""
        self.answer(unique, 0)

    def at_end(self):
        """When it is unmounted, or stopped."""

    def attr(self, node):
        mode = 0o40755 if node == 1 else 0o100444
        return struct.pack("<" + ATTR, node, len(self.text), 0, 0, 0, 0, 0, 0, 0, mode, 1, USER, USER, 0, 4096, 0)

    def reply(self, opcode, node, body):
        if opcode == INIT:
            return 0, struct.pack("<IIIIHHIIHH32x", 7, 31, 0, 0, 1, 1, 4096, 1, 0, 0)
        if opcode == LOOKUP:
            return (0, struct.pack("<QQQQII", 2, 0, 0, 0, 0, 0) + self.attr(2)) if body == b".stfs\0" else (2, b"")
        if opcode == GETATTR:
            return 0, struct.pack("<QII", 0, 0, 0) + self.attr(node)
        if opcode in (OPEN, OPENDIR):
            return 0, struct.pack("<QII", 0, FOPEN_DIRECT_IO if opcode == OPEN else 0, 0)
        if opcode == READ:
            offset, size = struct.unpack_from("<8xQI", body)
            return 0, self.text[offset:offset + size]
        if opcode == STATFS:
            return 0, bytes(80)
        return (0, b"") if opcode in (FLUSH, RELEASE, READDIR, RELEASEDIR) else (38, b"")

    def stop(self):
        self.stopping = True
        self.join()


@pytest.fixture
def fake(fuse_device, tmp_path):
    """fake(text, silent): a directory with such a daemon"""
    daemons = []

    def make(text=b"", silent=()):
        point = tmp_path / f"fake{len(daemons)}"
        point.mkdir()
        daemons.append((FakeDaemon(point, text, silent), point))
        return point
    yield make
    for daemon, point in daemons:
        daemon.stop()
        subprocess.run(["umount", "-l", point], stderr=subprocess.DEVNULL)


@pytest.fixture
def stopped(mount, small_model):
    """A mount whose daemon is stopped; at the end it goes on."""
    made = mount(small_model)
    os.kill(made.pid, signal.SIGSTOP)
    yield made
    if made.ended(0) is None:
        os.kill(made.pid, signal.SIGCONT)


@pytest.fixture
def impostor():
    """impostor(user): the number of a process of this user that is called as our daemon is"""
    children = []

    def make(user):
        ready, told = os.pipe()
        child = os.fork()
        if child == 0:
            libc.prctl(PR_SET_NAME, b"safetensorsfs", 0, 0, 0)
            os.setuid(user)
            libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # /proc shows whose it is
            os.write(told, b"1")
            while True:
                signal.pause()
        os.read(ready, 1)
        os.close(ready)
        os.close(told)
        children.append(child)
        return child
    yield make
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def state_of(stfs, point):
    return json.loads(stfs("status", "--json", point, timeout=TIME).stdout)["state"]


# --- a daemon that is stopped -------------------------------------------------------------------


def test_stopped_daemon(stfs, stopped, tmp_path):
    assert state_of(stfs, stopped.path) == "does not answer"
    text = stfs("status", stopped.path, timeout=TIME).stdout
    assert "does not answer" in text and "`stfs umount -l` detaches" in text
    assert "does not answer" in stfs("status", timeout=TIME).stdout
    shown = json.loads(stfs("status", "--json", stopped.model, timeout=TIME).stdout)
    assert [m["state"] for m in shown] == ["does not answer"]
    done = stfs("umount", stopped.path, check=False, timeout=TIME)
    assert done.returncode == 1 and stopped.entry()
    assert "does not answer" in done.stderr and f"`stfs umount -l {stopped.path}`" in done.stderr
    assert stfs("umount", "-l", stopped.path, timeout=TIME).stderr == ""
    assert not stopped.entry()


@pytest.mark.parametrize("name", ["link", "mnt1/", "mnt1//", "../%s/mnt1", "./mnt1"])
def test_detaches_a_stopped_one_by_any_name(stfs, stopped, tmp_path, name):
    (tmp_path / "link").symlink_to(stopped.path)
    stfs("umount", "-l", name.replace("%s", tmp_path.name), timeout=TIME, cwd=tmp_path)
    assert not stopped.entry()


def test_goes_on_where_it_was(stfs, stopped):
    assert stfs("umount", stopped.path, check=False, timeout=TIME).returncode == 1
    os.kill(stopped.pid, signal.SIGCONT)
    assert state_of(stfs, stopped.path) == "fresh"
    stfs("umount", stopped.path)
    assert not stopped.entry() and stopped.ended() == 0


def test_all_are_asked_at_a_time(stfs, mount, small_model):
    mounts = [mount(small_model) for _ in range(6)]
    for made in mounts[::2]:
        os.kill(made.pid, signal.SIGSTOP)
    try:
        begin = time.monotonic()
        found = {m["mountpoint"]: m["state"] for m in json.loads(stfs("status", "--json").stdout)}
        assert time.monotonic() - begin < 5 * SLOW
        assert [found[str(m.path)] for m in mounts] == ["does not answer", "fresh"] * 3
    finally:
        for made in mounts[::2]:
            os.kill(made.pid, signal.SIGCONT)


# --- a daemon of somebody else ------------------------------------------------------------------


@needs_root
@pytest.mark.parametrize("silent", [STATFS, LOOKUP, OPEN, READ, FLUSH])
def test_request_that_is_taken_up_and_never_answered(stfs, fake, silent):
    """Whoever made it cannot even be killed."""
    point = fake(b"{}", {silent})
    assert state_of(stfs, point) == "does not answer"
    assert str(point) in stfs("status", timeout=TIME).stdout
    done = stfs("umount", point, check=False, timeout=TIME)
    assert done.returncode == 1 and "does not answer" in done.stderr
    stfs("umount", "-l", point, timeout=TIME)
    assert not os.path.ismount(point)


@needs_root
@pytest.mark.parametrize("text", [b"", b"[]", b"{\"pid\":", b"\0\xff" * 99, b"[" * 9999])
def test_nonsense(stfs, fake, text):
    point = fake(text)
    assert state_of(stfs, point) == "unknown"
    assert "its daemon is not known" in stfs("umount", "-v", point, timeout=TIME).stderr
    assert not os.path.ismount(point)


@needs_root
def test_endless_status(stfs, fake):
    class Endless(bytes):
        def __len__(self):
            return 0

        def __getitem__(self, where):
            return b" " * (where.stop - where.start)
    assert state_of(stfs, fake(Endless())) in ("unknown", "does not answer")


@needs_root
def test_model_in_a_mount_that_does_not_answer(stfs, fake, small_model):
    silent = fake(b"{}", {LOOKUP})
    other = fake(json.dumps({"model": f"{silent}/model.safetensors"}).encode())
    assert str(other) in stfs("status", timeout=TIME).stdout
    done = stfs("status", small_model, check=False, timeout=TIME)
    assert done.returncode == 1 and "not mounted" in done.stderr
    assert stfs("status", silent / "x", check=False, timeout=TIME).returncode == 1


@needs_root
def test_waits_for_no_process_of_strangers(stfs, fake, impostor):
    for pid in impostor(STRANGER), os.getpid(), 1, -1, 2**31 - 1:
        point = fake(json.dumps({"pid": pid}).encode())
        assert "not waiting" in stfs("umount", "-v", point, timeout=TIME).stderr


@needs_root
def test_waits_for_the_daemon_of_the_mounts_user(stfs, fake, impostor, program_env):
    pid = impostor(USER)
    point = fake(json.dumps({"pid": pid}).encode())
    waiting = subprocess.Popen([stfs.path, "umount", point], env=program_env, stderr=subprocess.PIPE, text=True)
    assert f"waiting for the daemon, process {pid}" in waiting.stderr.readline()
    assert waiting.poll() is None
    os.kill(pid, signal.SIGKILL)
    assert waiting.wait(TIME) == 0
    waiting.stderr.close()


# --- without fusermount3 ------------------------------------------------------------------------


@needs_root
def test_no_fusermount(stfs, fake, tmp_path):
    point = fake(b"{}")
    done = subprocess.run([shutil.which("setpriv"), "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin",
                           stfs.path, "umount", point], env=dict(stfs.env, PATH="/nonexistent"),
                          capture_output=True, text=True)
    assert done.returncode == 1 and os.path.ismount(point)
    assert "No such file or directory" in done.stderr and "install fuse3" in done.stderr
