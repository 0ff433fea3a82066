# SPDX-License-Identifier: MIT
"""stfs sync: what is said of a commit, with daemons that say what docs/writing.md has; and real ones."""
import errno
import json
import os
import pty
import re
import signal
import subprocess
import threading

import pytest

import models
from conftest import SLOW
from editing import sharded_tensors, state, write_sharded
from test_cli_daemons import TIME, FakeDaemon, needs_root
from test_docs import complete

NOTHING = {"count": 0, "bytes": 0, "items": []}


def said(**fields):
    """The text of .stfs of a writable mount in which nothing is pending, but for these fields."""
    return {"version": "0.1.0", "pid": 0, "model": "/nowhere/m.safetensors", "mountpoint": "/m", "mode": "rw",
            "files": [{"file": "m.safetensors", "size": 1, "state": "fresh"}], "state": "clean",
            "pending": NOTHING, "refused": [], "last_commit": None, "last_error": None} | fields


def edit(name, change, size=0, waits=None, **more):
    return {"name": name, "change": change, "bytes": size, "waits": waits} | more


def pending(*items):
    return {"count": len(items), "bytes": sum(item["bytes"] for item in items), "items": list(items)}


def commit(number, **fields):
    return {"number": number, "time": 1700000000, "trigger": "sync", "added": 0, "replaced": 0, "removed": 0,
            "renamed": 0, "retyped": 0, "metadata": False, "bytes": 0, "names": [], "as_bytes": []} | fields


class Writer(FakeDaemon):
    """Says `before` until .stfs or the directory is synced, then `after`; answers that with `error`, or holds it."""

    def __init__(self, point, before, after, error, holds, end):
        self.point, self.after, self.error, self.holds, self.end = point, after, error, holds, end
        self.syncs, self.held, self.holding = 0, None, threading.Event()
        super().__init__(point, json.dumps(before).encode())

    def say(self, fields):
        self.text = json.dumps(fields).encode()

    def commit(self, unique):
        self.syncs += 1
        if self.holds:
            self.held = unique
            self.holding.set()
        else:
            self.release(unique)

    def release(self, unique=None):
        self.say(self.after)
        self.answer(unique or self.held, self.error)

    def at_end(self):
        if self.end:
            self.end()


@pytest.fixture
def writer(fuse_device, tmp_path):
    """writer(before, after, error=0, holds=False, end=None): a Writer; `end` is called when it is unmounted"""
    made = []

    def make(before, after=None, error=0, holds=False, end=None):
        point = tmp_path / f"w{len(made)}"
        point.mkdir()
        made.append(Writer(point, before, after or before, error, holds, end))
        return made[-1]
    yield make
    for daemon in made:
        daemon.stop()
        subprocess.run(["umount", "-l", daemon.point], stderr=subprocess.DEVNULL)


# --- what is said -------------------------------------------------------------------------------


@needs_root
def test_what_was_committed(stfs, writer):
    done = commit(8, added=1, replaced=1, removed=1, bytes=12 << 20, names=[
        {"name": "n", "change": "new"}, {"name": "layer.0", "change": "replaced"},
        {"name": "old", "change": "removed"}])
    made = writer(said(state="pending", last_commit=commit(7)), said(last_commit=done))
    assert stfs("sync", made.point).stdout == (
        f"{made.point}: committed 3 tensors (1 added, 1 replaced, 1 removed), 12.0 MiB\n"
        '  added     "n"\n  replaced  "layer.0"\n  removed   "old"\n')
    assert made.syncs == 1


@needs_root
@pytest.mark.parametrize("done, words", [
    (commit(1, renamed=1, names=[{"name": "b\n", "from": "a", "change": "renamed"}]),
     'committed 1 tensor (1 renamed)\n  renamed  "a" -> "b\\x0a"\n'),
    (commit(1, metadata=True), "committed the metadata\n"),
    (commit(1, added=1, metadata=True, bytes=3, names=[{"name": "x", "change": "new"}]),
     'committed 1 tensor (1 added) and the metadata, 3 B\n  added  "x"\n'),
    (commit(3, removed=1, names=[{"name": "x", "change": "removed"}]),
     'committed 1 tensor (1 removed), in the last of 3 commits\n  removed  "x"\n'),
    (None, "nothing to commit\n"),
])
def test_words(stfs, writer, done, words):
    made = writer(said(), said(last_commit=done))
    assert stfs("sync", made.point).stdout == f"{made.point}: {words}"


@needs_root
def test_many_names(stfs, writer):
    names = [{"name": f"t.{i}", "change": "new"} for i in range(100)]
    made = writer(said(), said(last_commit=commit(1, added=5000, names=names)))
    lines = stfs("sync", made.point).stdout.splitlines()
    assert lines[0].endswith("committed 5,000 tensors (5,000 added)")
    assert len(lines) == 22 and lines[20] == '  added  "t.19"' and lines[21] == "  ... and 4980 more"


@needs_root
def test_bytes_for_want_of_a_type(stfs, writer):
    done = commit(1, added=2, bytes=8, names=[{"name": "a/b", "change": "new"}, {"name": "c", "change": "new"}],
                  as_bytes=["a/b", "c"])
    made = writer(said(), said(last_commit=done))
    text = stfs("sync", made.point).stdout
    assert '"a/b", "c" had no type and went in as bytes (U8)' in text
    assert f"> {made.point}/a%2Fb.json\n" in text


@needs_root
def test_what_fits_no_type(stfs, writer):
    """Everything else is committed; the rest is named with its reason."""
    waiting = [edit("w", "replaced", 10, "10 bytes are no whole rows of F32 [2,3]"),
               edit("half", "new", 4, "open for writing"), edit("fine", "removed")]
    made = writer(said(state="pending", pending=pending(*waiting)),
                  said(state="pending", pending=pending(*waiting), last_commit=commit(
                      1, added=1, names=[{"name": "n", "change": "new"}])), errno.EINVAL)
    done = stfs("sync", made.point, check=False)
    assert done.returncode == 1 and "committed 1 tensor (1 added)" in done.stdout
    assert '"w" (replaced) waits: 10 bytes are no whole rows of F32 [2,3]\n' in done.stderr
    assert '"half" (new) waits: open for writing\n' in done.stderr and '"fine"' not in done.stderr
    assert "NAME.json" in done.stderr and "as bytes (U8)" in done.stderr
    quiet = stfs("sync", "-q", made.point, check=False)
    assert quiet.returncode == 1 and quiet.stdout == "" and '"w" (replaced) waits' in quiet.stderr


@needs_root
def test_open_for_writing_is_no_failure(stfs, writer):
    left = said(state="pending", pending=pending(edit("half", "new", 4, "open for writing")))
    made = writer(left, left)
    assert stfs("sync", made.point).stdout == \
        f'{made.point}: nothing to commit\n  left out: "half" (open for writing)\n'


@needs_root
@pytest.mark.parametrize("error, why", [(errno.ENOSPC, "needs 5 bytes, 3 are free"), (errno.EIO, None),
                                        (errno.ESTALE, "another file is in its place")])
def test_failures(stfs, writer, error, why):
    made = writer(said(), said(state="pending", last_error=why), error)
    done = stfs("sync", made.point, check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == f"stfs: {made.point}: not committed: {os.strerror(error)}" + (f" ({why})\n" if why else "\n")


@needs_root
def test_private_edits(stfs, writer):
    clean = writer(said(mode="cow"))
    assert "nothing was edited" in stfs("sync", clean.point).stdout and clean.syncs == 0
    made = writer(said(mode="cow", pending=pending(edit("x", "new", 4))))
    done = stfs("sync", made.point, check=False)
    assert done.returncode == 1 and made.syncs == 0 and f"`stfs save {made.point} OUT`" in done.stderr


@needs_root
def test_json(stfs, writer):
    done = commit(4, added=1, names=[{"name": "n", "change": "new"}])
    waiting = edit("half", "new", 4, "open for writing")
    good = writer(said(last_commit=commit(3)), said(last_commit=done, pending=pending(waiting, edit("x", "new"))))
    found = json.loads(stfs("sync", "--json", good.point).stdout)
    assert found == {"mountpoint": str(good.point), "mode": "rw", "commits": 1, "commit": done,
                     "waiting": [waiting], "error": None}
    bad = writer(said(), said(last_error="disk"), errno.EIO)
    done = stfs("sync", "--json", good.point, bad.point, "/proc", check=False)
    found = json.loads(done.stdout)
    assert done.returncode == 1 and [m["mountpoint"] for m in found] == [str(good.point), str(bad.point), "/proc"]
    assert found[0]["error"] is None and "disk" in found[1]["error"] and "type proc" in found[2]["error"]


@needs_root
def test_several_and_quiet(stfs, writer):
    first, second = writer(said()), writer(said())
    assert stfs("sync", first.point, second.point).stdout.count("nothing to commit") == 2
    assert stfs("sync", "-q", first.point, second.point).stdout == ""
    assert first.syncs == second.syncs == 2


# --- waiting ------------------------------------------------------------------------------------


def on_terminal(stfs, *args):
    """Runs it with stderr on a terminal: (process, a function that gives what is shown so far)."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen([stfs.path, *map(os.fspath, args)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=theirs, env=stfs.env, text=True)
    os.close(theirs)
    return process, ours


def read_until(fd, wanted):
    text = ""
    while wanted not in text:
        text += os.read(fd, 4096).decode()
    return text


@needs_root
def test_a_long_commit_on_a_terminal(stfs, writer):
    made = writer(said(), said(last_commit=commit(1, added=1)), holds=True)
    process, terminal = on_terminal(stfs, "sync", made.point)
    try:
        assert made.holding.wait(TIME)
        made.say(said(state="committing", progress={"done": 1 << 30, "total": 4 << 30}))
        shown = read_until(terminal, "%")
        assert re.search(r"\rcommitting, [2-9]\d* s, 25% of 4.0 GiB \(Ctrl-C", shown)
        made.release()
        assert read_until(terminal, "\r\x1b[K").endswith("\r\x1b[K")
        assert process.wait(TIME) == 0 and "committed 1 tensor" in process.stdout.read()
    finally:
        process.kill()
        process.stdout.close()
        os.close(terminal)


@needs_root
def test_a_long_commit_elsewhere_is_silent(stfs, writer):
    made = writer(said(), holds=True)
    timer = threading.Timer(3, made.release)
    timer.start()
    done = stfs("sync", made.point, timeout=TIME)
    assert done.stderr == "" and "nothing to commit" in done.stdout
    timer.join()


@needs_root
def test_interrupted_waiting(stfs, writer):
    """Ctrl-C ends the waiting, not the commit."""
    made = writer(said(), holds=True)
    process = subprocess.Popen([stfs.path, "sync", made.point], env=stfs.env, stdout=subprocess.PIPE)
    assert made.holding.wait(TIME)
    process.send_signal(signal.SIGINT)
    assert process.wait(TIME) == -signal.SIGINT
    process.stdout.close()
    made.release()


# --- mounts that do not answer ------------------------------------------------------------------


@needs_root
def test_daemon_that_ends_meanwhile(stfs, writer):
    made = writer(said(), holds=True)
    process = subprocess.Popen([stfs.path, "sync", made.point], env=stfs.env, stderr=subprocess.PIPE, text=True)
    assert made.holding.wait(TIME)
    made.stop()
    assert process.wait(TIME) == 1
    assert "its daemon ended while it was to commit" in process.stderr.read()
    process.stderr.close()
    assert "its daemon has ended; `stfs umount" in stfs("sync", made.point, check=False).stderr


def test_stopped_daemon(stfs, mount, small_model):
    made = mount(small_model)
    os.kill(made.pid, signal.SIGSTOP)
    try:
        done = stfs("sync", made.path, check=False, timeout=TIME)
        assert done.returncode == 1 and "does not answer" in done.stderr
    finally:
        os.kill(made.pid, signal.SIGCONT)


def test_not_ours(stfs, tmp_path):
    done = stfs("sync", "/proc", tmp_path, tmp_path / "none", check=False)
    assert done.returncode == 1 and done.stdout == ""
    for text in "/proc: a mount of type proc", f"{tmp_path}: nothing is mounted here", "No such file":
        assert text in done.stderr


def test_read_only_mount(stfs, mount, small_model):
    made = mount(small_model, "ro")
    done = stfs("sync", made.path)
    assert done.stdout == f"{made.path}: mounted read-only, nothing to commit\n" and done.stderr == ""
    assert stfs("sync", "-q", made.path).stdout == ""
    found = json.loads(stfs("sync", "--json", made.path).stdout)
    assert (found["mode"], found["commits"], found["commit"], found["error"]) == ("ro", 0, None, None)


@needs_root
def test_why_it_is_read_only(stfs, writer):
    made = writer(said(mode="ro", readonly_because="it is in a cache"))
    assert "nothing to commit (it is in a cache)" in stfs("sync", made.point).stdout and made.syncs == 0


@needs_root
def test_completion(stfs, writer, small_model, tmp_path):
    made = writer(said())
    for words in ["sync"], ["sync", "-q"], ["save"]:
        assert complete(stfs, "stfs", *words, str(made.point)[:-1], cwd=tmp_path) == [str(made.point)]
    assert complete(stfs, "stfs", "save", made.point, "sm", cwd=tmp_path) == ["small.safetensors"]
    assert complete(stfs, "stfs", "mount", "-o", "rw,autosync_m", cwd=tmp_path) == ["rw,autosync_max="]
    assert complete(stfs, "safetensorsfs", "-o", "overwrite=s", cwd=tmp_path) == ["overwrite=staged"]


# --- a daemon that writes -----------------------------------------------------------------------


def put(made, name, data, dtype=None, shape=None):
    (made.path / name).write_bytes(data)
    if dtype:
        (made.path / f"{name}.json").write_text(json.dumps({"dtype": dtype, "shape": shape}))


def test_edits_reach_the_model(stfs, mount_rw, small_model):
    made = mount_rw(small_model)
    before = state(small_model)
    put(made, "n", bytes(24), "F32", [2, 3])
    put(made, "steps", b"\1" * 8)
    (made.path / "layer.0.bias").unlink()
    assert state(small_model) == before
    text = stfs("sync", made.path).stdout
    assert "committed 3 tensors (1 added, 1 replaced, 1 removed)" in text
    for line in '  added     "n"', '  replaced  "steps"', '  removed   "layer.0.bias"':
        assert line in text
    found, metadata = state(small_model)
    assert found == {"embed.weight": before[0]["embed.weight"], "steps": ("I64", [], b"\1" * 8),
                     "n": ("F32", [2, 3], bytes(24))} and metadata == before[1]
    assert "nothing to commit" in stfs("sync", made.path).stdout


def test_metadata_and_renames(stfs, mount_rw, small_model):
    made = mount_rw(small_model)
    (made.path / "__metadata__.json").write_text('{"k":"v"}')
    (made.path / "steps").rename(made.path / "count")
    text = stfs("sync", made.path).stdout
    assert "1 renamed" in text and "the metadata" in text and '"steps" -> "count"' in text
    assert models.read_header(small_model)[0]["__metadata__"] == {"k": "v"}


def test_new_file_without_a_type(stfs, mount_rw, small_model):
    made = mount_rw(small_model)
    put(made, "raw", b"12345")
    assert '"raw" had no type and went in as bytes' in stfs("sync", made.path).stdout
    assert state(small_model)[0]["raw"] == ("U8", [5], b"12345")
    (made.path / "raw.json").write_text('{"dtype":"U8","shape":[5,1]}')
    assert "1 retyped" in stfs("sync", made.path).stdout
    assert state(small_model)[0]["raw"] == ("U8", [5, 1], b"12345")


def test_file_of_the_wrong_size(stfs, mount_rw, small_model):
    made = mount_rw(small_model)
    before = state(small_model)[0]
    put(made, "embed.weight", b"123")
    put(made, "n", bytes(4), "F32", [1])
    done = stfs("sync", made.path, check=False)
    assert done.returncode == 1 and '"embed.weight" (replaced) waits: ' in done.stderr
    assert "1 added" in done.stdout
    assert state(small_model)[0] == before | {"n": ("F32", [1], bytes(4))}
    put(made, "embed.weight", before["embed.weight"][2])
    stfs("sync", made.path)
    assert state(small_model)[0] == before | {"n": ("F32", [1], bytes(4))}


def test_file_that_is_open_for_writing(stfs, mount_rw, small_model):
    made = mount_rw(small_model)
    with (made.path / "n").open("wb") as out:
        out.write(b"1234")
        out.flush()
        assert 'left out: "n" (open for writing)' in stfs("sync", made.path).stdout
    assert "n" not in state(small_model)[0]
    assert "1 added" in stfs("sync", made.path).stdout


def test_last_tensor_of_a_sharded_model(stfs, mount_rw, tmp_path):
    """Its index has to name a file: all others go, and that one when another has come."""
    one = {"dtype": "U8", "shape": [4]}
    folder = write_sharded(tmp_path / "s", {f"model-0000{i}-of-00002.safetensors": {f"t{i}": ("U8", [4], None)}
                                            for i in (1, 2)}, {"k": "v"})
    made = mount_rw(folder)
    for name in os.listdir(made.path):
        (made.path / name).unlink()
    done = stfs("sync", made.path, check=False)
    assert done.returncode == 1 and "a sharded model keeps a tensor" in done.stderr and "U8" not in done.stderr
    assert sorted(sharded_tensors(folder)) == ["t1"] and os.listdir(made.path) == []
    (made.path / "new").write_bytes(b"abcd")
    (made.path / "new.json").write_text(json.dumps(one))
    stfs("sync", made.path)
    assert sorted(sharded_tensors(folder)) == ["new"]
    (made.path / "new").unlink()
    (made.path / "new.json").unlink()
    made.unmount()
    assert "left as it was" in made.stderr() and sorted(sharded_tensors(folder)) == ["new"]


def test_model_that_was_replaced_underneath(stfs, mount_rw, make_model, small_model, tmp_path):
    """ESTALE: nothing is committed over another file, and the edits are kept."""
    made = mount_rw(small_model)
    made.exit_codes = None
    put(made, "n", bytes(4), "F32", [1])
    os.rename(make_model("other.safetensors", {"o": ("U8", [3], None)}), small_model)
    done = stfs("sync", made.path, check=False)
    assert done.returncode == 1 and "not committed" in done.stderr
    assert set(state(small_model)[0]) == {"o"}


def test_commit_of_a_large_tensor_shows_progress(stfs, mount_rw, make_model):
    """Runs through whether it is slow or not; what is shown on a terminal is of a known form."""
    model = make_model("large.safetensors", {"a": ("U8", [1 << 20], None), "b": ("U8", [64 << 20], None)})
    made = mount_rw(model)
    with (made.path / "n").open("wb") as out:
        for _ in range(256 if SLOW == 1 else 32):
            out.write(bytes(1 << 20))
    process, terminal = on_terminal(stfs, "sync", made.path)
    assert process.wait(120 * SLOW) == 0
    os.set_blocking(terminal, False)
    try:
        shown = os.read(terminal, 1 << 20).decode()
    except OSError:  # nothing was shown
        shown = ""
    assert re.fullmatch(r"(\rcommitting, \d+ s[^\r]*\x1b\[K)*(\r\x1b\[K)?", shown)
    assert "committed 1 tensor (1 added)" in process.stdout.read()
    process.stdout.close()
    os.close(terminal)
