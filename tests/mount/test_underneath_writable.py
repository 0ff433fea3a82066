# SPDX-License-Identifier: MIT
"""The model of a writable mount changes underneath: nothing is committed over it, and no edit is lost.

A writable mount looks after the header every five seconds, and at every commit; until then its reads are of
the model as it was.
"""
import errno
import json
import os
import struct
import subprocess

import pytest

import models
from conftest import SLOW, MountFailed
from editing import state as tensors_of
from editing import write_sharded
from test_underneath import (LARGE, MIB, alive, data_of, model, once_read, outcome, overwrite,  # noqa: F401 (a fixture)
                             rewrite_header, state, status, wait_until)

COULD_NOT_COMMIT = 32
N = ("F32", [2], b"12345678")


def edit(mounted, name="n"):
    """A new tensor, N."""
    (mounted.path / name).write_bytes(N[2])
    (mounted.path / f"{name}.json").write_text(json.dumps({"dtype": N[0], "shape": N[1]}))


def sync(mounted):
    """What an fsync of the directory ends with: None or an errno."""
    fd = os.open(mounted.path, os.O_RDONLY)
    try:
        return outcome(os.fsync, fd)
    finally:
        os.close(fd)


def rescue_file(path):
    return path.parent / f".{path.name}.stfs-rescue"


def gone_stale(mounted, name="large"):
    """Waits until the watch has seen that the header is another."""
    return wait_until(lambda: outcome(once_read, mounted.path / name) == errno.ESTALE)


def end_with_rescue(mounted, path):
    """Unmounts; the edits are found in the rescue file, which is a model itself."""
    mounted.exit_codes = {COULD_NOT_COMMIT}
    mounted.unmount()
    assert tensors_of(rescue_file(path))[0]["n"] == N
    assert "rescue file" in mounted.stderr()


CHANGES = {
    "rewritten": rewrite_header,
    "poisoned": lambda path: overwrite(path, 0, struct.pack("<Q", 1 << 63)),  # as an in-place commit does it
    "longer": lambda path: overwrite(path, 0, struct.pack("<Q", models.read_header(path)[1])),
    "emptied": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("change", CHANGES)
def test_header_rewritten(mount_rw, model, change):  # noqa: F811
    """Reads: ESTALE, sticky, within seconds. A commit: ESTALE. What was written is kept, and can be read."""
    mounted = mount_rw(model, "cache=never")
    before = model.read_bytes()
    edit(mounted)
    fd = os.open(mounted.path / "large", os.O_RDONLY)
    try:
        assert len(os.pread(fd, MIB, 0)) == MIB
        CHANGES[change](model)
        assert gone_stale(mounted)
        for size in 1, 4096, MIB:
            assert outcome(os.pread, fd, size, 0) == errno.ESTALE
        for name in "first", "first.npy", "last":
            assert outcome(once_read, mounted.path / name) == errno.ESTALE
        assert once_read(mounted.path / "n") == N[2]
        assert state(mounted) == "stale" and status(mounted)["last_error"]
        changed = model.read_bytes()
        assert sync(mounted) == errno.ESTALE
        assert model.read_bytes() == changed
        model.write_bytes(before)  # too late: in between it was another model
        assert outcome(os.pread, fd, 1, 0) == errno.ESTALE
        assert sync(mounted) == errno.ESTALE and alive(mounted)
    finally:
        os.close(fd)
    assert status(mounted)["pending"]["count"] == 1
    end_with_rescue(mounted, model)
    assert model.read_bytes() == before


@pytest.mark.parametrize("change", CHANGES)
def test_commit_before_the_watch_has_looked(mount_rw, model, change):  # noqa: F811
    """However soon it comes."""
    mounted = mount_rw(model)
    edit(mounted)
    CHANGES[change](model)
    changed = model.read_bytes()
    assert sync(mounted) == errno.ESTALE
    assert model.read_bytes() == changed
    assert state(mounted) == "stale" and status(mounted)["last_error"]
    assert outcome(once_read, mounted.path / "first") == errno.ESTALE
    end_with_rescue(mounted, model)
    assert model.read_bytes() == changed


def test_nothing_pending_when_the_header_changes(mount_rw, model):  # noqa: F811
    mounted = mount_rw(model)
    rewrite_header(model)
    changed = model.read_bytes()
    assert gone_stale(mounted) and sync(mounted) is None
    mounted.unmount()
    assert model.read_bytes() == changed and not rescue_file(model).exists()


@pytest.mark.parametrize("opened", ["before", "after"])
def test_overwrites_after_the_header_has_changed(mount_rw, model, opened):  # noqa: F811
    """They would hit other bytes than those of the tensor."""
    mounted = mount_rw(model)
    fd = os.open(mounted.path / "first", os.O_RDWR) if opened == "before" else None
    rewrite_header(model)
    changed = model.read_bytes()
    assert gone_stale(mounted)
    if fd is None:
        fd = outcome(os.open, mounted.path / "first", os.O_RDWR)
    if fd != errno.ESTALE:
        try:
            answers = [outcome(os.pwrite, fd, b"EDIT", 0), outcome(os.fsync, fd)]
        finally:
            os.close(fd)
        assert errno.ESTALE in answers
    assert model.read_bytes() == changed


@pytest.mark.parametrize("page_cache", [True, False])
def test_an_fsync_does_not_vouch_for_a_file_that_was_replaced(mount_rw, model, make_model, page_cache):  # noqa: F811
    """What is overwritten in place goes to a file that nobody can open any more."""
    mounted = mount_rw(model, "cache=always" if page_cache else "cache=never")
    fd = os.open(mounted.path / "first", os.O_RDWR)
    try:
        os.pwrite(fd, b"first", 0)
        os.fsync(fd)
        os.replace(make_model("other.safetensors", {"o": ("U8", [3], None)}), model)
        answers = [outcome(os.pwrite, fd, b"EDIT", 0), outcome(os.fsync, fd)]
    finally:
        os.close(fd)
    mounted.exit_codes = {0, COULD_NOT_COMMIT}
    assert errno.ESTALE in answers


def test_a_replaced_file_is_told_to_everybody_who_wrote_to_it(mount_rw, model, make_model):  # noqa: F811
    """Not only to the first who asks."""
    mounted = mount_rw(model)
    files = [os.open(mounted.path / name, os.O_RDWR) for name in ("first", "large")]
    mounted.exit_codes = {COULD_NOT_COMMIT}
    try:
        for fd in files:
            os.pwrite(fd, b"EDIT", 0)
        os.replace(make_model("other.safetensors", {"o": ("U8", [3], None)}), model)
        assert [outcome(os.fsync, fd) for fd in files] == [errno.ESTALE] * 2
    finally:
        for fd in files:
            os.close(fd)
    assert sync(mounted) == errno.ESTALE and status(mounted)["last_error"]


def test_header_rewritten_under_private_edits(mount_rw, model):  # noqa: F811
    mounted = mount_rw(model, "cache=never", mode="cow")
    edit(mounted)
    with (mounted.path / "first").open("r+b") as out:
        out.write(b"mine")
    rewrite_header(model)
    changed = model.read_bytes()
    assert gone_stale(mounted)
    assert outcome(once_read, mounted.path / "first") == errno.ESTALE, "a part of it is the model's"
    assert once_read(mounted.path / "n") == N[2] and state(mounted) == "stale"
    mounted.unmount()
    assert model.read_bytes() == changed and not rescue_file(model).exists()


def replace(path):
    other = models.write_model(path.parent / "other.safetensors", {"o": ("U8", [3], b"xyz")})
    os.replace(other, path)


@pytest.mark.parametrize("change", [replace, os.unlink, lambda path: path.rename(path.parent / "elsewhere")])
def test_replaced(mount_rw, model, change):  # noqa: F811
    """Reads go on, of the old file. A commit is refused."""
    mounted = mount_rw(model)
    places = data_of(model)
    edit(mounted)
    change(model)
    found = model.read_bytes() if model.exists() else None
    for name, (_, data) in places.items():
        assert once_read(mounted.path / name) == data
    assert once_read(mounted.path / "n") == N[2]
    assert sync(mounted) == errno.ESTALE and state(mounted) == "replaced"
    assert "in its place" in status(mounted)["last_error"]
    assert status(mounted)["pending"]["count"] == 1 and status(mounted)["state"] == "pending"
    end_with_rescue(mounted, model)
    assert (model.read_bytes() if model.exists() else None) == found


def test_the_next_mount_takes_up_what_was_rescued(mount, mount_rw, model):  # noqa: F811
    mounted = mount_rw(model)
    edit(mounted)
    replace(model)
    end_with_rescue(mounted, model)
    reading = mount(model, mode="ro")
    assert sorted(os.listdir(reading.path)) == ["o", "o.json"] and rescue_file(model).exists(), "ro changes nothing"
    reading.unmount()
    mounted = mount_rw(model)
    assert once_read(mounted.path / "n") == N[2]
    assert "could not commit" in mounted.stderr() and not rescue_file(model).exists()
    assert tensors_of(model)[0] == {"o": ("U8", [3], b"xyz"), "n": N}


def test_what_was_rescued_does_not_fit_the_new_model(mount_rw, model):  # noqa: F811
    """It stays where it is, and whoever mounts hears of it."""
    mounted = mount_rw(model)
    edit(mounted)
    (mounted.path / "first").unlink()
    replace(model)
    end_with_rescue(mounted, model)
    mounted = mount_rw(model)
    assert sorted(os.listdir(mounted.path)) == ["o", "o.json"]
    assert '"first"' in mounted.stderr() and (".stfs-rescue" in mounted.stderr() or "rescue file" in mounted.stderr())
    mounted.unmount()
    assert tensors_of(rescue_file(model))[0]["n"] == N and tensors_of(model)[0] == {"o": ("U8", [3], b"xyz")}


def test_a_commit_is_tried_again_only_on_request(mount, model):  # noqa: F811
    """autosync fails like any other; the daemon does not try it again and again, and says it once."""
    mounted = mount(model, "autosync=0.1,autosync_max=0.2", mode="rw")
    replace(model)
    edit(mounted)
    assert wait_until(lambda: status(mounted)["last_error"])
    assert not wait_until(lambda: mounted.stderr().count("\n") > 1, seconds=2), mounted.stderr()
    end_with_rescue(mounted, model)


@pytest.mark.parametrize("left", [LARGE // 2, 1])
def test_cut_short(mount_rw, model, left):  # noqa: F811
    """What is not there any more is EIO, never zeros; a commit would move what is left: it is refused."""
    mounted = mount_rw(model, "cache=never")
    places = data_of(model)
    edit(mounted)
    os.truncate(model, places["large"][0] + left)
    found = model.read_bytes()
    assert outcome(once_read, mounted.path / "large") == errno.EIO
    assert outcome(once_read, mounted.path / "last") == errno.EIO
    assert once_read(mounted.path / "first") == places["first"][1]
    assert sync(mounted) in (errno.ESTALE, errno.EIO) and model.read_bytes() == found
    assert state(mounted) == "truncated" and alive(mounted)
    end_with_rescue(mounted, model)
    assert model.read_bytes() == found


@pytest.mark.parametrize("name", ["last", "large"])
@pytest.mark.parametrize("log", [True, False])
def test_a_read_that_fails_is_told(mount_rw, model, name, log):  # noqa: F811
    """Once, in the log, and in .stfs: whoever reads sees no more than EIO."""
    mounted = mount_rw(model, "cache=never", daemon_args=[f"--log-file={model.parent / 'log'}"] if log else [])
    os.truncate(model, data_of(model)[name][0] + 10)
    for _ in range(3):
        assert outcome(once_read, mounted.path / name) == errno.EIO
    said = (model.parent / "log").read_text() if log else mounted.stderr()
    assert said.count("cut short") == 1 and said.count("\n") == 1, said
    assert status(mounted)["last_error"]


def test_appended_to(mount_rw, model):  # noqa: F811
    """Bytes behind the last tensor are somebody's: they are not cut off."""
    mounted = mount_rw(model)
    edit(mounted)
    with model.open("ab") as out:
        out.write(b"more")
    found = model.read_bytes()
    assert sync(mounted) == errno.ESTALE and model.read_bytes() == found
    for name, (_, data) in data_of(model).items():
        assert once_read(mounted.path / name) == data
    end_with_rescue(mounted, model)


@pytest.mark.parametrize("cache", ["auto", "always", "never"])
def test_data_overwritten_in_place(mount_rw, model, cache):  # noqa: F811
    """It cannot be told from what the mount writes itself: a commit goes ahead and keeps it."""
    mounted = mount_rw(model, f"cache={cache}")
    position, data = data_of(model)["first"]
    edit(mounted)
    overwrite(model, position, b"theirs")
    assert sync(mounted) is None
    mounted.unmount()
    assert tensors_of(model)[0]["first"] == ("U8", [5000], b"theirs" + data[6:])
    assert tensors_of(model)[0]["n"] == N


def test_our_own_changes_are_not_somebody_elses(mount, model):  # noqa: F811
    """Past several looks of the watch: every commit changes the header, and all writes the times."""
    mounted = mount(model, "autosync=0.2,autosync_max=0.5,cache=never", mode="rw")
    wanted = {name: data for name, (_, data) in data_of(model).items()}
    for turn in range(25):
        edit(mounted, f"n.{turn}")
        with (mounted.path / "first").open("r+b") as out:
            out.write(b"%5d" % turn)
        if turn % 4 == 3:
            (mounted.path / f"n.{turn - 1}").unlink()
        wait_until(lambda: False, seconds=0.5)
        assert once_read(mounted.path / "large") == wanted["large"]
        assert once_read(mounted.path / "first") == b"%5d" % turn + wanted["first"][5:]
        assert state(mounted) == "fresh" and status(mounted)["last_error"] is None
    assert status(mounted)["last_commit"]["number"] > 5
    assert mounted.stderr() == ""
    mounted.unmount()
    assert set(tensors_of(model)[0]) == {*wanted, *(f"n.{i}" for i in range(25) if i % 4 != 2)}


def test_one_of_two_shards_changes(mount_rw, tmp_path):
    folder = write_sharded(tmp_path / "s", {
        f"part-{i}.safetensors": {f"x{i}": ("U8", [200_000], None)} for i in (1, 2)})
    mounted = mount_rw(folder, "cache=never")
    edit(mounted)
    models.write_model(folder / "part-2.safetensors", {"y": ("U8", [7], None)})
    changed = {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}
    assert gone_stale(mounted, "x2")
    assert once_read(mounted.path / "x1") == models.pattern("U8", [200_000], "x1")
    assert [f["state"] for f in status(mounted)["files"]] == ["fresh", "stale"]
    assert sync(mounted) == errno.ESTALE
    mounted.exit_codes = {COULD_NOT_COMMIT}
    mounted.unmount()
    found = {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}
    assert found == changed
    assert [tensors_of(path)[0]["n"] for path in folder.glob(".*.stfs-rescue")] == [N]


def test_somebody_makes_the_model_that_is_to_be_made(mount_rw, make_model, tmp_path):
    """-o create without overwrite: the commit does not put its file in the place of another."""
    path = tmp_path / "new.safetensors"
    mounted = mount_rw(path, mode="create")
    edit(mounted)
    assert not path.exists()
    make_model("new.safetensors", {"o": ("U8", [3], b"xyz")})
    assert sync(mounted) in (errno.EEXIST, errno.ESTALE)
    end_with_rescue(mounted, path)
    assert tensors_of(path)[0] == {"o": ("U8", [3], b"xyz")}


def test_folder_of_the_model_moves(mount_rw, make_model, tmp_path):
    """It is held by its descriptor: the commit finds the model where it is."""
    found = make_model("a/b/m.safetensors", {"x": ("U8", [100_000], None)})
    mounted = mount_rw(found)
    edit(mounted)
    (tmp_path / "a").rename(tmp_path / "c")
    assert sync(mounted) is None and state(mounted) == "fresh"
    mounted.unmount()
    assert tensors_of(tmp_path / "c/b/m.safetensors")[0]["n"] == N
    assert not (tmp_path / "a").exists()


def test_folder_deleted(mount_rw, make_model):
    """Nowhere is left for the edits: the daemon says that they are lost, and ends with an error."""
    found = make_model("a/m.safetensors", {"x": ("U8", [1000], None)})
    mounted = mount_rw(found)
    edit(mounted)
    found.unlink()
    found.parent.rmdir()
    assert sync(mounted) in (errno.ESTALE, errno.ENOENT)
    assert once_read(mounted.path / "x") == models.pattern("U8", [1000], "x")
    mounted.exit_codes = {COULD_NOT_COMMIT}
    mounted.unmount()
    assert "LOST" in mounted.stderr()


@pytest.mark.parametrize("commit", ["sync", "sync a file", "autosync", "signal", "unmount"])
def test_model_inside_the_mount_point(mount, make_model, tmp_path, commit):
    """The mount hides its own model, which is open, as is its folder. Should the daemon ask for it by its path, it
    asks itself, and waits for an answer.
    """
    found = make_model("here/m.safetensors", {"x": ("U8", [300_000], None)})
    mounted = mount(found, "autosync=0.5" if commit == "autosync" else "autosync=0,autosync_max=0", mode="rw",
                    mountpoint=tmp_path / "here")
    edit(mounted)
    if commit.startswith("sync"):
        words = ["sync", mounted.path / "n" if "file" in commit else mounted.path]
    elif commit == "autosync":
        words = ["sh", "-c", 'while ! grep -q \'"number": 1\' "$0"; do sleep 0.1; done', mounted.path / ".stfs"]
    else:
        words = ["kill", str(mounted.pid)] if commit == "signal" else ["fusermount3", "-u", mounted.path]
    begun = subprocess.Popen(words)
    try:
        assert begun.wait(10 * SLOW) == 0
        if commit in ("signal", "unmount"):
            assert mounted.ended(10 * SLOW) == 0
        else:
            assert status(mounted)["state"] == "clean"
            mounted.unmount()
    except (AssertionError, subprocess.TimeoutExpired):
        mount.abort(mounted)
        begun.kill()
        begun.wait()
        raise
    assert os.listdir(found.parent) == ["m.safetensors"]
    assert tensors_of(found)[0]["n"] == N


def test_another_program_holds_the_lock_at_the_end(mount_rw, mount, model):  # noqa: F811
    """Nobody can: the mount has it until its last commit is done."""
    mounted = mount_rw(model)
    edit(mounted)
    with pytest.raises(MountFailed):
        mount(model, mode="rw")
    mounted.unmount()
    assert tensors_of(model)[0]["n"] == N


def test_lazy_unmount_under_a_file_that_is_being_written(mount_rw, model):  # noqa: F811
    """What is written before the last close is in the last commit."""
    mounted = mount_rw(model)
    fd = os.open(mounted.path / "n", os.O_WRONLY | os.O_CREAT)
    try:
        os.write(fd, b"1234")
        subprocess.run(["fusermount3", "-uz", mounted.path], check=True)
        assert mounted.entry() is None and mounted.ended(0) is None
        os.write(fd, b"5678")
    finally:
        os.close(fd)
    assert mounted.ended() == 0
    assert tensors_of(model)[0]["n"] == ("U8", [8], N[2])


def test_model_on_a_mount(mount_rw, make_model):
    """A model whose bytes are a tensor of another model: FUSE over FUSE. Its folder takes no journal."""
    inner = make_model("inner.safetensors", {"x": ("U8", [300_000], None)}).read_bytes()
    outer = make_model("outer.safetensors", {"inner": ("U8", [len(inner)], inner)})
    below = mount_rw(outer)
    above = mount_rw(below.path / "inner")
    with (above.path / "x").open("r+b") as out:
        out.write(b"EDIT")
        out.flush()
        os.fsync(out.fileno())
    above.unmount()
    below.unmount()
    inner = inner[:-300_000] + b"EDIT" + inner[-300_000 + 4:]
    assert tensors_of(outer)[0] == {"inner": ("U8", [len(inner)], inner)}
