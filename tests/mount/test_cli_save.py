# SPDX-License-Identifier: MIT
"""stfs save: what a mount shows as a new model, judged by the official loader."""
import json
import os
import signal
import struct
import subprocess
import sys

import pytest

import models
from editing import Unchanged, sharded_tensors, state, write_sharded
from test_cli_create import odd  # noqa: F401 (a fixture)
from test_cli_daemons import GETATTR, LOOKUP, READ, READDIR, TIME, FakeDaemon, needs_root
from test_cli_sync import put, said


def header_names(path):
    """The tensors of a file in the order of its header."""
    return [name for name in models.read_header(path)[0] if name != "__metadata__"]


def refused(stfs, *args, folder):
    with Unchanged(folder):
        done = stfs("save", *args, check=False)
    assert done.returncode == 1 and done.stdout == "" and done.stderr.startswith("stfs: "), done
    return done.stderr


# --- any mount ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["view=raw", "view=npy", "view=both", "sidecars=hidden",
                                     "view=npy,sidecars=hidden"])
def test_all_of_it(stfs, mount, odd, tmp_path, options):  # noqa: F811
    made, out = mount(odd, options), tmp_path / "out.safetensors"
    done = stfs("save", made.path, out)
    assert state(out) == state(odd) and done.stdout.startswith("added ")
    assert header_names(out) == header_names(odd), "in the order of the listing"
    assert stfs("check", "-q", out, check=False).returncode <= 1


def test_sharded(stfs, mount, tmp_path):
    folder = write_sharded(tmp_path / "sharded", {
        "model-1.safetensors": {"b": ("F32", [4], None)}, "model-2.safetensors": {"a": ("U8", [3], None)}}, {"k": "v"})
    made = mount(folder)
    stfs("save", made.path, tmp_path / "out.safetensors")
    assert state(tmp_path / "out.safetensors") == (sharded_tensors(folder), {"k": "v"})


def test_real_model(stfs, mount, real_model, tmp_path):
    stfs("save", mount(real_model).path, tmp_path / "out.safetensors", timeout=300)
    assert state(tmp_path / "out.safetensors") == state(real_model)


def test_empty(stfs, mount, make_model, tmp_path):
    stfs("save", mount(make_model("e.safetensors", {})).path, tmp_path / "out.safetensors")
    assert state(tmp_path / "out.safetensors") == ({}, None)


def test_what_is_there_is_kept(stfs, mount, small_model, tmp_path):
    made, out = mount(small_model), tmp_path / "out.safetensors"
    out.write_bytes(b"mine")
    assert "--overwrite" in refused(stfs, made.path, out, folder=tmp_path / "x")
    assert out.read_bytes() == b"mine"
    stfs("save", made.path, out, "--overwrite")
    assert state(out) == state(small_model)


def test_dry_run(stfs, mount, small_model, tmp_path):
    made, out = mount(small_model), tmp_path / "out.safetensors"
    plan = json.loads(stfs("save", made.path, out, "-n", "--json").stdout)
    assert plan["dry_run"] and plan["counts"]["added"] == 3 and plan["files"][0]["kind"] == "new"
    assert not out.exists()
    assert "would add 3 tensors" in stfs("save", made.path, out, "--dry-run").stdout
    found = json.loads(stfs("save", made.path, out, "--json").stdout)
    assert not found["dry_run"] and [e["name"] for e in found["edits"] if e["edit"] == "add"] == header_names(small_model)


def test_the_mounted_model_itself(stfs, mount, small_model, tmp_path):
    made = mount(small_model)
    link = tmp_path / "link.safetensors"
    link.symlink_to(small_model)
    before = small_model.read_bytes()
    for out in small_model, link, tmp_path / "mnt1/../small.safetensors":
        for args in [], ["--overwrite"]:
            done = stfs("save", made.path, out, *args, check=False)
            assert done.returncode == 1 and "the very model that" in done.stderr
            assert "save to another file" in done.stderr
    hard = tmp_path / "hard.safetensors"
    hard.hardlink_to(small_model)
    assert "is mounted" in stfs("save", made.path, hard, "--overwrite", check=False).stderr
    assert small_model.read_bytes() == before and link.is_symlink()


def test_model_of_a_folder_and_of_another_mount(stfs, mount, make_model, tmp_path):
    first = make_model("one/model.safetensors", {"a": ("U8", [4], None)})
    second = make_model("two.safetensors", {"b": ("U8", [4], None)})
    made, _ = mount(first.parent), mount(second)
    assert "the very model that" in stfs("save", made.path, first, "--overwrite", check=False).stderr
    assert "is mounted" in stfs("save", made.path, second, "--overwrite", check=False).stderr


def test_into_the_mount(stfs, mount, small_model):
    made = mount(small_model)
    done = stfs("save", made.path, made.path / "x.safetensors", check=False)
    assert done.returncode == 1 and "lies in the mount itself" in done.stderr


def test_not_ours(stfs, mount, small_model, tmp_path):
    out = tmp_path / "out.safetensors"
    for point, words in (("/proc", "type proc"), (tmp_path, "nothing is mounted here"), (tmp_path / "none", "No such")):
        assert words in stfs("save", point, out, check=False).stderr
    for args in [], [tmp_path], [tmp_path, out, out]:
        assert stfs("save", *args, check=False).returncode == 64
    made = mount(small_model)
    os.kill(made.pid, signal.SIGSTOP)
    try:
        assert "does not answer" in stfs("save", made.path, out, check=False, timeout=TIME).stderr
    finally:
        os.kill(made.pid, signal.SIGCONT)
    assert "No such file" in stfs("save", made.path, tmp_path / "no/folder/out", check=False).stderr
    assert not out.exists()


def test_damaged_model(stfs, mount, small_model, tmp_path):
    with small_model.open("r+b") as file:
        file.truncate(small_model.stat().st_size - 4)
    made, out = mount(small_model), tmp_path / "out.safetensors"
    assert "the model is damaged" in stfs("save", made.path, out).stderr
    assert set(state(out)[0]) == {"embed.weight", "layer.0.bias"}


def test_model_that_is_cut_short_meanwhile(stfs, mount, make_model, tmp_path):
    model = make_model("m.safetensors", {"a": ("U8", [1 << 20], None), "b": ("U8", [1 << 20], None)})
    made, out = mount(model), tmp_path / "out.safetensors"
    os.truncate(model, 1 << 20)
    done = stfs("save", made.path, out, check=False)
    assert done.returncode == 1 and not out.exists()
    assert sorted(os.listdir(tmp_path)) == sorted({"m.safetensors", "mnt1", "daemon1.log", "sanitizer"})


MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def test_memory_is_flat(stfs, mount, make_model, tmp_path):
    """256 MiB of tensors in a quarter of that, a sanitizer's own memory included."""
    model = make_model("m.safetensors", {f"t.{i}": ("U8", [16 << 20], bytes(16 << 20)) for i in range(16)})
    made, out = mount(model), tmp_path / "out.safetensors"
    # Not from here: a process counts as much as the one that it was forked from.
    done = subprocess.run([sys.executable, "-c", MEASURE, stfs.path, "save", "-q", made.path, out], env=stfs.env,
                          capture_output=True, text=True, check=True)
    assert out.stat().st_size > 256 << 20
    assert int(done.stdout) < 64 << 10, "KiB"


# --- a mount with files that are no tensors (yet) -----------------------------------------------


class Shelf(FakeDaemon):
    """A mount with these files in it, in this order, and .stfs."""

    def __init__(self, point, files, status):
        self.files = [(b".stfs", json.dumps(status).encode()), *((os.fsencode(n), d) for n, d in files.items())]
        super().__init__(point)

    def attr(self, node):
        self.text = self.files[node - 2][1] if node > 1 else b""
        return super().attr(node)

    def reply(self, opcode, node, body):
        if opcode == LOOKUP:
            found = [i for i, (name, _) in enumerate(self.files) if name + b"\0" == body]
            if not found:
                return 2, b""
            return 0, struct.pack("<QQQQII", found[0] + 2, 0, 60, 60, 0, 0) + self.attr(found[0] + 2)
        if opcode in (READ, GETATTR) and node > 1:
            self.text = self.files[node - 2][1]
        if opcode == READDIR:
            offset, = struct.unpack_from("<8xQ", body)
            listed = enumerate(self.files[1:], 1)
            return 0, b"".join(struct.pack("<QQII", i + 2, i, len(name), 8) + name + bytes(-len(name) % 8)
                               for i, (name, _) in listed if i > offset)
        return super().reply(opcode, node, body)


@pytest.fixture
def shelf(fuse_device, tmp_path):
    """shelf(files, **status): the path of such a mount"""
    made = []

    def make(files, **status):
        point = tmp_path / f"shelf{len(made)}"
        point.mkdir()
        made.append((Shelf(point, files, said(**status)), point))
        return point
    yield make
    for daemon, point in made:
        daemon.stop()
        subprocess.run(["umount", "-l", point], stderr=subprocess.DEVNULL)


TYPED = {"b": b"1234", "b.json": b'{"dtype":"F32","shape":[1]}', "a": b"12", "a.json": b'{"dtype":"U8","shape":[2]}',
         "__metadata__.json": b'{"k":"v"}'}


@needs_root
def test_shelf(stfs, shelf, tmp_path):
    out = tmp_path / "out.safetensors"
    stfs("save", shelf(TYPED | {".x": b"1", "a~": b"1", "4913": b"1"}, mode="cow"), out)
    assert state(out) == ({"b": ("F32", [1], b"1234"), "a": ("U8", [2], b"12")}, {"k": "v"})
    assert header_names(out) == ["b", "a"]


@needs_root
def test_shelf_with_files_that_have_no_type(stfs, shelf, tmp_path):
    out = tmp_path / "out.safetensors"
    point = shelf(TYPED | {"raw": b"12345", "w": b"123", "w.json": b'{"dtype":"F32","shape":[2]}', "e": b""})
    done = stfs("save", point, out, check=False)
    assert done.returncode == 1 and not out.exists() and done.stdout == ""
    for words in '"raw" has no type yet', '"w" has 3 bytes, its type 8', '"e" has no type yet', "NAME.json", "--raw":
        assert words in done.stderr
    stfs("save", "--raw", point, out)
    assert state(out)[0] == {"b": ("F32", [1], b"1234"), "a": ("U8", [2], b"12"), "raw": ("U8", [5], b"12345"),
                             "w": ("U8", [3], b"123"), "e": ("U8", [0], b"")}


@needs_root
def test_shelf_with_a_sidecar_that_is_none(stfs, shelf, tmp_path):
    point = shelf({"w": b"123", "w.json": b"{"})
    done = stfs("save", "--raw", point, tmp_path / "out.safetensors", check=False)
    assert done.returncode == 1 and f"{point}/w: its sidecar: " in done.stderr


@needs_root
def test_shelf_with_many_files_without_a_type(stfs, shelf, tmp_path):
    done = stfs("save", shelf({f"raw.{i}": b"x" for i in range(25)}), tmp_path / "out.safetensors", check=False)
    assert done.stderr.count("has no type yet") == 20 and "... and 5 more" in done.stderr


# --- edits --------------------------------------------------------------------------------------


def test_private_edits(stfs, mount_rw, small_model, tmp_path):
    made, out = mount_rw(small_model, "cow"), tmp_path / "out.safetensors"
    before, was = state(small_model), small_model.read_bytes()
    put(made, "n", bytes(range(24)), "F32", [2, 3])
    (made.path / "steps").unlink()
    (made.path / "layer.0.bias").rename(made.path / "bias")
    with (made.path / "embed.weight").open("r+b") as file:
        file.write(b"\1\2\3\4")
    (made.path / "__metadata__.json").write_text('{"format":"pt","k":"v"}')
    stfs("save", made.path, out)
    embed = before[0]["embed.weight"]
    assert state(out) == ({"embed.weight": (*embed[:2], b"\1\2\3\4" + embed[2][4:]),
                           "bias": before[0]["layer.0.bias"], "n": ("F32", [2, 3], bytes(range(24)))},
                          {"format": "pt", "k": "v"})
    assert small_model.read_bytes() == was
    assert f"`stfs save {made.path} OUT`" in stfs("sync", made.path, check=False).stderr
    stfs("umount", made.path)
    assert small_model.read_bytes() == was


def test_edits_that_are_not_committed_yet(stfs, mount_rw, small_model, tmp_path):
    made, out = mount_rw(small_model), tmp_path / "out.safetensors"
    put(made, "n", bytes(4), "F32", [1])
    stfs("save", made.path, out)
    assert set(state(out)[0]) == {*state(small_model)[0], "n"}
    done = stfs("save", made.path, small_model, "--overwrite", check=False)
    assert done.returncode == 1 and "stfs sync" in done.stderr


def test_files_without_a_type(stfs, mount_rw, small_model, tmp_path):
    made, out = mount_rw(small_model, "cow"), tmp_path / "out.safetensors"
    put(made, "raw", b"12345")
    put(made, "w", b"123", "F32", [2])
    for name in ".hidden", "x~":
        put(made, name, b"scratch")
    done = stfs("save", made.path, out, check=False)
    assert done.returncode == 1 and not out.exists()
    assert '"raw" has no type yet' in done.stderr and '"w" has 3 bytes, its type 8' in done.stderr
    assert "NAME.json" in done.stderr and "--raw" in done.stderr
    stfs("save", made.path, out, "--raw")
    assert state(out)[0] == state(small_model)[0] | {"raw": ("U8", [5], b"12345"), "w": ("U8", [3], b"123")}
