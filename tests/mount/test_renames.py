# SPDX-License-Identifier: MIT
"""Renames between all forms of a tensor, while the kernel remembers every file: its entry of the old name goes with a
rename, and must not lead to what the old name means by then (docs/writing.md)."""
import contextlib
import errno
import json
import os
import random
import subprocess

import numpy as np
import pytest

import models
import writing
from conftest import NIGHTLY
from test_writing import told
from walk import NAMES, SCRATCH, Walk, refused, same
from writing import file_name

STEPS = 3000 if NIGHTLY else 250
FEW = [name for name in NAMES if name not in ("sedQwErTy", "l.json.AbC")][:7]
SMALL = [0, 8, 96, 4096, 140_000]
FORMS = ("", ".npy", ".json")


class Renames(Walk):
    """Everything that could be there is looked up, opened and listed before each edit, and so remembered."""

    def remember(self):
        os.listdir(self.root)
        with os.scandir(self.root) as entries:
            for entry in entries:
                entry.stat()
        for name in FEW:
            for form in FORMS:
                with contextlib.suppress(FileNotFoundError):
                    os.stat(self.path(file_name(name) + form))
                    self.read(file_name(name) + form)

    def draw(self, rng):
        kinds = [(8, "rename"), (8, "rename_npy"), (8, "rename_elsewhere"), (3, "backup"), (4, "to_scratch"),
                 (4, "from_scratch"), (3, "save_npy_rename"), (2, "type_rename"), (4, "save_npy"), (3, "create"),
                 (4, "pwrite"), (4, "pwrite_npy"), (4, "map_npy"), (3, "unlink"), (1, "unlink_npy"), (1, "unlink_sidecar"),
                 (2, "type"), (1, "sync")]
        while True:
            kind = rng.choices([k for _, k in kinds], [w for w, _ in kinds])[0]
            args = getattr(self, f"draw_{kind}")(rng)
            if args is not None:
                return (kind, *args)

    def pick_any_name(self, rng):
        return rng.choice(FEW)

    def size(self, rng):
        return rng.choice(SMALL)

    def play(self, edit, check_seed=None):
        self.remember()
        super().play(edit, check_seed)
        self.check_all()
        for name in FEW:
            if name not in self.oracle.tensors:
                self.check_absent(file_name(name))
                self.check_absent(file_name(name) + ".npy")
                if name not in self.oracle.declared:
                    self.check_absent(file_name(name) + ".json")

    # --- mv x.npy y.npy ---

    def draw_rename_npy(self, rng):
        file = self.pick(rng)
        if not file or not self.oracle.has_npy(self.oracle.node(file)):
            return None
        return file, self.pick_any_name(rng)

    def do_rename_npy(self, file, name):
        return self.do_rename(file, name, True)

    # --- what mv copies ---

    def draw_rename_elsewhere(self, rng):
        """Of a form to another, which is refused, and not half done."""
        file, name = self.pick(rng), self.pick_any_name(rng)
        fit = self.oracle.node(file).typing()[0] if file else "none"
        if fit == "none" or not self.oracle.has_npy(self.oracle.node(file)):
            return None
        target = rng.choice([file_name(name) + form for form in FORMS] + SCRATCH[:2] + [file_name(name) + ".npy~"])
        return file + rng.choice(FORMS), target

    def do_rename_elsewhere(self, source, target):
        def form(file):
            return "~" if writing.is_scratch(file) else next(f for f in (".npy", ".json", "") if file.endswith(f))

        stem = source.removesuffix(form(source))
        node = self.oracle.node(stem)
        if source == target or not node or node.name is None or not self.oracle.has_npy(node):
            return ()
        if form(source) == form(target) != ".json" or form(source) in ("", ".json") and form(target) == "~":
            return ()  # those are other edits
        with refused(errno.EXDEV):
            os.rename(self.path(source), self.path(target))
        return [stem]

    def draw_backup(self, rng):
        names = [n for n, node in self.oracle.tensors.items() if node.typing()[0] != "none"]
        return (rng.choice([*sorted(names), None]), rng.choice(SCRATCH)) if names else None

    def do_backup(self, name, scratch):
        """mv x.json x.json~: a copy. None: of the metadata."""
        if name is None and not self.oracle.metadata or name is not None and name not in self.oracle.tensors:
            return ()
        file = "__metadata__.json" if name is None else file_name(name) + ".json"
        text = self.read(file)
        os.rename(self.path(file), self.path(scratch))
        old = self.oracle.scratch.get(scratch)
        if old:
            self.oracle.replace(old)
        node = self.oracle.create(scratch, None)
        self.oracle.write(node, text, 0)
        # What becomes of the one is nothing to the other.
        if name is None:
            self.do_metadata([self.seed(None) % 50 + 1], "write")
        same(self.read(scratch), text, scratch)
        return [scratch]


@pytest.mark.parametrize("way", ["rw", "rw,view=npy", "rw,view=both,autosync=0.05,autosync_max=0.1", "rw,cache=always"])
def test_random_renames_of_remembered_files(way, mount, stfs, make_model):
    tensors = {"a": ("F32", [40, 25], None), "b": ("BF16", [8, 3], None), "c": ("U8", [4096], None), "d": ("I64", [], None),
               "e.weight": ("F16", [512, 300], None), "keep": ("F64", [2, 50], None)}
    seed = f"renames {way}" + os.environ.get("STFS_SEED", "")
    rng = random.Random(seed)
    options = [way] if "autosync" in way else [way, "autosync=0,autosync_max=0"]
    walk = Renames(mount, stfs, make_model("m.safetensors", tensors, {"format": "pt"}), options)
    with told(walk, seed):
        for _ in range(STEPS):
            walk.play(walk.draw(rng))
        walk.finish()


ARRAY = np.arange(24, dtype=np.float32).reshape(4, 6)
OTHER = np.full((3, 2), 7, np.float32)


@pytest.fixture
def edited(mount_rw, make_model):
    """A mount whose every file is known to the kernel."""
    made = mount_rw(make_model("m.safetensors", {"x": ("F32", [4, 6], ARRAY.tobytes()), "y": ("F32", [24], bytes(96))}))
    for file in ("x", "x.npy", "x.json", "y", "y.npy", "y.json"):
        (made.path / file).read_bytes()
        (made.path / file).stat()
    return made, lambda: {name: data for name, (_, _, data) in models.official_tensors(made.model).items()}


@pytest.mark.parametrize("target", ["y", "z"])
@pytest.mark.parametrize("look", [False, True])
def test_a_renamed_npy_is_no_file_of_its_old_name(edited, stfs, target, look):
    made, official = edited
    os.rename(made.path / "x.npy", made.path / f"{target}.npy")
    if look:
        os.stat(made.path / f"{target}.npy")
    np.save(made.path / "x.npy", OTHER)
    assert (np.load(made.path / f"{target}.npy") == ARRAY).all() and (np.load(made.path / "x.npy") == OTHER).all()
    mapped = np.load(made.path / f"{target}.npy", mmap_mode="r+")
    mapped[1] = -1
    mapped.flush()
    del mapped
    assert (np.fromfile(made.path / "x", np.float32) == 7).all()
    stfs("sync", made.path)
    wanted = ARRAY.copy()
    wanted[1] = -1
    left = {} if target == "y" else {"y": bytes(96)}
    assert official() == {"x": OTHER.tobytes(), target: wanted.tobytes(), **left}


@pytest.mark.parametrize("target", ["y", "z"])
def test_what_the_kernel_remembers_is_not_written_to(edited, stfs, target):
    """Its entries of x, y and their sidecars lead nowhere; each is the first to be used after the rename."""
    made, official = edited
    with open(made.path / "y", "rb") as old:
        os.rename(made.path / "x.npy", made.path / f"{target}.npy")
        os.truncate(made.path / target, 48)
        assert len(old.read()) == 96
    os.rename(made.path / f"{target}.npy", made.path / "w.npy")
    (made.path / f"{target}.json").write_bytes(writing.sidecar("I8", [5]))
    (made.path / target).write_bytes(b"12345")
    os.rename(made.path / "w.npy", made.path / "x.npy")
    os.utime(made.path / "x.json", (5, 5))
    os.chmod(made.path / "x", 0o600)
    assert os.stat(made.path / "x.json").st_mtime == 5 and os.stat(made.path / "x").st_mode & 0o777 == 0o600
    stfs("sync", made.path)
    left = {} if target == "y" else {"y": bytes(96)}
    assert official() == {"x": ARRAY.tobytes()[:48], target: b"12345", **left}
    assert models.official_tensors(made.model)[target][:2] == ("I8", [5])


def test_who_reads_a_file_that_is_gone_brings_it_not_back(edited):
    """A read of cached pages asks for attributes, which are those of the open file, not of the name."""
    made, _ = edited
    with open(made.path / "x", "rb", buffering=0) as old:
        os.unlink(made.path / "x.npy")
        assert old.read() == ARRAY.tobytes() and not os.path.exists(made.path / "x")


def test_a_rename_copies_nothing(edited):
    """It is the way to rename where only arrays are listed, whatever their size."""
    made, _ = edited
    os.rename(made.path / "x.npy", made.path / "z.npy")
    said = json.loads((made.path / ".stfs").read_text())
    assert said["pending"]["items"] == [{"name": "z", "change": "renamed", "from": "x", "bytes": 96, "waits": None}]
    assert said["spool"]["used"] == 0


@pytest.mark.parametrize("file", ["z", ".z", "x.npy~", "z.json", "__metadata__.json"])
def test_an_array_becomes_no_other_form_by_a_rename(edited, file):
    made, official = edited
    with pytest.raises(OSError) as caught:
        os.rename(made.path / "x.npy", made.path / file)
    assert caught.value.errno == errno.EXDEV
    assert (np.load(made.path / "x.npy") == ARRAY).all() and not (made.path / file).exists()
    if file in ("z", ".z", "x.npy~"):
        with_header = (made.path / "x.npy").read_bytes()
        subprocess.run(["mv", made.path / "x.npy", made.path / file], check=True)
        assert (made.path / file).read_bytes() == with_header and not (made.path / "x.npy").exists()
        os.rename(made.path / file, made.path / "x.npy")  # and back again
        assert (np.load(made.path / "x.npy") == ARRAY).all() and (made.path / "x").read_bytes() == ARRAY.tobytes()


@pytest.mark.parametrize("file", ["x.npy", "x.json", "y.npy", "y.json"])
def test_a_file_that_is_being_written_keeps_its_name(edited, stfs, file):
    """The draft belongs to the number of its name, which a rename would take from it."""
    made, official = edited
    text = (made.path / file).read_bytes()
    with open(made.path / file, "wb", buffering=0) as out:
        out.write(text)
        with pytest.raises(OSError) as caught:
            os.rename(made.path / "x.npy", made.path / "y.npy")
        assert caught.value.errno == errno.EXDEV
    stfs("sync", made.path)
    assert official() == {"x": ARRAY.tobytes(), "y": bytes(96)}


def test_a_backup_of_a_sidecar_is_a_copy(edited, stfs):
    """The kernel's entry of x.json is that of the backup then."""
    made, official = edited
    text = (made.path / "x.json").read_bytes()
    os.rename(made.path / "x.json", made.path / "x.json~")
    (made.path / "x.json").write_bytes(writing.sidecar("U8", [96]))
    assert (made.path / "x.json~").read_bytes() == text
    (made.path / "x.json~").write_bytes(b"anything")
    assert json.loads((made.path / "x.json").read_bytes())["dtype"] == "U8"
    stfs("sync", made.path)
    assert models.official_tensors(made.model)["x"][:2] == ("U8", [96])


@pytest.mark.parametrize("size", [24, 1 << 17])
@pytest.mark.parametrize("change", ["x z", "y x", "y.npy x.npy", "x x~", "x", "x.npy"])
def test_a_mapping_of_a_npy_stays_with_its_tensor(change, size, mount_rw, make_model, stfs):
    """Its pages are those of an inode that was told from the name, and the name is that of another tensor then."""
    array, other = np.arange(size, dtype=np.float32), np.full(size, 7, np.float32)
    made = mount_rw(make_model("m.safetensors", {"x": ("F32", [size], array.tobytes()), "y": ("F32", [size], other.tobytes())}))
    mapped = np.load(made.path / "x.npy", mmap_mode="r+")
    mapped[0] = 1
    mapped.flush()
    old, *new = [made.path / word for word in change.split()]
    os.rename(old, new[0]) if new else os.unlink(old)
    if not change.startswith("y"):
        np.save(made.path / "x.npy", other)
    second = np.load(made.path / "x.npy", mmap_mode="r+")
    assert mapped[1] == 1 and second[1] == 7
    mapped[2] = -5
    mapped.flush()
    second[3] = -9
    second.flush()
    array[[0, 2]], other[3] = (1, -5), -9
    assert (mapped == array).all() and (second == other).all() and (np.load(made.path / "x.npy") == other).all()
    assert (made.path / "x").read_bytes() == other.tobytes()
    if new and new[0].name in ("z", "x~"):
        assert new[0].read_bytes() == array.tobytes()
    del mapped, second
    stfs("sync", made.path)
    assert models.official_tensors(made.model)["x"][2] == other.tobytes()


def test_why_a_tensor_that_became_scratch_stays_in_the_model(edited, stfs):
    made, official = edited
    os.rename(made.path / "x", made.path / "x~")
    item, = json.loads((made.path / ".stfs").read_text())["pending"]["items"]
    assert item["name"] == "x" and item["change"] == "removed" and "scratch file" in item["waits"]
    stfs("sync", made.path)
    assert sorted(official()) == ["y"] and (made.path / "x~").read_bytes() == ARRAY.tobytes()
