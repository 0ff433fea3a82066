# SPDX-License-Identifier: MIT
"""Random sequences of edits by the verbs, beside a model in memory, on every file system: after each commit
the official loader gives the same tensors and the same metadata, and nothing else is left in the folder."""
import contextlib
import mmap
import os
import random
import subprocess

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import filesystems
from conftest import NIGHTLY

SIZES = [0, 1, 4095, 4096, 4097, 8192, 12288, 100_000, 1 << 20, (1 << 20) + 7, 3 << 20]
ROUNDS = 120 if NIGHTLY else 25
TYPES = [np.uint8, np.float16, np.float32, np.int64]


class Oracle:
    """The model as it should be: arrays and metadata, and the verbs that change both."""

    def __init__(self, folder, stfs, seed):
        self.random, self.folder, self.stfs = random.Random(seed), folder, stfs
        self.path = folder / "model/m.safetensors"
        self.path.parent.mkdir()
        self.tensors, self.metadata = {}, {"format": "pt"}
        for i in range(6):
            self.tensors[f"layers.{i}.weight"] = self.array()
        save_file(self.tensors, self.path, self.metadata)

    def array(self):
        size, dtype = self.random.choice(SIZES), np.dtype(self.random.choice(TYPES))
        data = self.random.randbytes(size // dtype.itemsize * dtype.itemsize)
        flat = np.frombuffer(data, dtype)
        return flat.reshape(-1, 1) if self.random.random() < 0.3 else flat

    def name(self):
        return self.random.choice(sorted(self.tensors))

    def file_of(self, array, number=0):
        path = self.folder / f"new{number}.npy"
        np.save(path, array)
        return path

    def edits(self):
        return [self.put, self.put, self.replace, self.remove, self.rename, self.swap, self.set, self.batch,
                self.resize, self.glob_rename, self.compact, self.copy]

    def put(self):
        name, array = f"new.{self.random.randrange(1000)}", self.array()
        self.stfs("put", self.path, name, self.file_of(array))
        self.tensors[name] = array

    def replace(self):
        name, array = self.name(), self.array()
        self.stfs("put", self.path, name, self.file_of(array))
        self.tensors[name] = array

    def resize(self):
        """The same tensor a few rows longer or shorter, as raw bytes over a pipe."""
        name = self.name()
        old = self.tensors[name].reshape(-1)
        array = np.concatenate([old, old[:3]]) if self.random.random() < 0.5 else old[: len(old) // 2]
        names = {np.uint8: "U8", np.float16: "F16", np.float32: "F32", np.int64: "I64"}
        self.stfs("put", self.path, name, "-", "--dtype", names[array.dtype.type], "--shape", str(len(array)),
                  input=array.tobytes(), text=False)
        self.tensors[name] = array

    def remove(self):
        name = self.name()
        self.stfs("rm", self.path, name)
        del self.tensors[name]

    def rename(self):
        name, new = self.name(), f"renamed.{self.random.randrange(10_000)}"
        self.stfs("mv", self.path, name, new)
        self.tensors[new] = self.tensors.pop(name)

    def swap(self):
        a, b = self.name(), self.name()
        if a == b:
            return
        self.stfs("edit", self.path, "--batch", "-", input=f"mv {a} tmp\nmv {b} {a}\nmv tmp {b}\n")
        self.tensors[a], self.tensors[b] = self.tensors[b], self.tensors[a]

    def glob_rename(self):
        self.stfs("rename", self.path, "--sub", r"s/^new\.([0-9])/old.\1/", check=False)
        self.tensors = {("old." + k[4:] if k.startswith("new.") and k[4:5].isdigit() else k): v
                        for k, v in self.tensors.items()}

    def set(self):
        key = f"key{self.random.randrange(5)}"
        if key in self.metadata and self.random.random() < 0.5:
            self.stfs("metadata", self.path, "--unset", key)
            del self.metadata[key]
        else:
            value = "x" * self.random.choice([0, 10, 5000])
            self.stfs("metadata", self.path, "--set", f"{key}={value}")
            self.metadata[key] = value

    def batch(self):
        lines = []
        for i in range(self.random.randrange(2, 12)):
            if self.random.random() < 0.4 and len(self.tensors) > 1:
                name = self.name()
                lines.append(f"rm {name}")
                del self.tensors[name]
            else:
                name, array = f"batch.{self.random.randrange(50)}", self.array()
                lines.append(f"put {name} {self.file_of(array, i)}")
                self.tensors[name] = array
        self.stfs("edit", self.path, "--batch", "-", input="\n".join(lines))

    def compact(self):
        self.stfs("compact", self.path)

    def copy(self):
        name, new = self.name(), f"copy.{self.random.randrange(100)}"
        if new not in self.tensors:
            self.stfs("cp", f"{self.path}:{name}", f"{self.path}:{new}")
            self.tensors[new] = self.tensors[name]

    def check(self, what):
        assert os.listdir(self.path.parent) == [self.path.name], what
        with safe_open(self.path, "np") as f:
            assert sorted(f.keys()) == sorted(self.tensors), what
            assert (f.metadata() or {}) == self.metadata, what
            for name in f.keys():
                got, want = f.get_tensor(name), self.tensors[name]
                assert got.dtype == want.dtype and got.shape == want.shape, (what, name)
                assert got.tobytes() == want.tobytes(), (what, name)


@pytest.mark.parametrize("seed", range(4 if NIGHTLY else 1))
@pytest.mark.parametrize("kind", filesystems.KINDS)
def test_random_edits_equal_a_model_in_memory(kind, seed, stfs, tmp_path):
    with filesystems.mounted(kind, tmp_path, 1 << 30) as folder:
        oracle = Oracle(folder, stfs, f"{kind} {seed}")
        for round_ in range(ROUNDS):
            if not oracle.tensors:
                oracle.put()
            edit = oracle.random.choice(oracle.edits())
            edit()
            oracle.check(f"{kind}, seed {seed}, round {round_}: {edit.__name__}")


@pytest.mark.parametrize("kind", filesystems.KINDS)
def test_a_program_that_holds_tensors_keeps_them(kind, stfs, tmp_path):
    """What the official loader has mapped stays as it is, whatever is edited meanwhile."""
    with filesystems.mounted(kind, tmp_path, 512 << 20) as folder:
        path = folder / "m.safetensors"
        tensors = {f"t{i:02}": np.random.default_rng(i).integers(0, 255, 3000 + 517 * i, np.uint8)
                   for i in range(24)}
        save_file(tensors, path)
        new = tmp_path / "new.npy"
        np.save(new, np.arange(50_000, dtype=np.float32))
        edits = [["metadata", path, "--set", "k=" + "x" * 20_000], ["rm", path, "t00", "t01"],
                 ["put", path, "fresh", new], ["put", path, "t05", new], ["mv", path, "t07", "a" * 5000],
                 ["rm", path, "t2*"], ["compact", path]]
        for edit in edits:
            with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
                start = 8 + int.from_bytes(held[:8], "little")
                before = bytes(held[start:])
                stfs(*edit)
                assert bytes(held[start:])[:len(before)] == before, (kind, edit[0])
            with safe_open(path, "np") as file:
                assert len(list(file.keys())) > 0


# --- a disk that is nearly full ---------------------------------------------------------------------------


def fill_all_but(folder, room):
    """Bytes which nothing compresses, until the disk is full; then so many of them go."""
    with open(folder / "filler", "wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while file.write(random.randbytes(1 << 20)):
                os.fsync(file.fileno())
        file.truncate(os.fstat(file.fileno()).st_size - room)
    subprocess.run(["sync", "-f", folder], check=True)


def test_the_journal_takes_room_as_well(stfs, tmp_path):
    """Where nothing can be shifted, the header keeps what a tensor before it leaves, and all of it is journaled."""
    with filesystems.mounted("tmpfs", tmp_path, 20 << 20) as folder:
        model, new = folder / "m.safetensors", np.arange((4 << 20) + 1000, dtype=np.uint8)
        save_file({"t": np.zeros(4 << 20, np.uint8), "u": np.ones(1 << 20, np.uint8)}, model)
        np.save(tmp_path / "new.npy", new)
        fill_all_but(folder, 11 << 20)
        before = model.read_bytes()
        done = stfs("put", "-n", model, "t", tmp_path / "new.npy", check=False)
        assert done.returncode == 1 and "needs 12.0 MiB of disk for a while, 11.0 MiB are free" in done.stdout
        done = stfs("put", model, "t", tmp_path / "new.npy", check=False)
        assert done.returncode == 1 and "the change needs 125" in done.stderr and " are free" in done.stderr
        assert model.read_bytes() == before and sorted(os.listdir(folder)) == ["filler", "m.safetensors"]
        (folder / "filler").unlink()
        stfs("put", model, "t", tmp_path / "new.npy")
        with safe_open(model, "np") as file:
            assert np.array_equal(file.get_tensor("t"), new)


@pytest.mark.parametrize("room", [9, 10, 11, 12, 14, 18, 24])
def test_bytes_that_are_written_over_others_take_new_blocks(room, stfs, tmp_path):
    """On a file system that copies on write: all of the change, or nothing, and never a commit that stops half-way."""
    with filesystems.mounted("btrfs", tmp_path, 128 << 20) as folder:
        model, rng = folder / "m.safetensors", np.random.default_rng(room)
        tensors = {f"t{i:02}": rng.integers(0, 256, 2_000_000 + i, np.uint8) for i in range(12)}
        save_file(tensors, model)
        new = {"t01": 2_500_000, "t04": 1_000_000, "t05": 2_500_000, "t09": 4097, "t10": 2_500_000}
        new = {name: rng.integers(0, 256, size, np.uint8) for name, size in new.items()}
        for name, array in new.items():
            np.save(tmp_path / f"{name}.npy", array)
        fill_all_but(folder, room << 20)
        done = stfs("put", model, *(f"{name}={tmp_path / name}.npy" for name in new), check=False)
        assert sorted(os.listdir(folder)) == ["filler", "m.safetensors"], done.stderr
        assert done.returncode == 0 or "No space left" in done.stderr or " are free" in done.stderr
        with safe_open(model, "np") as file:
            for name, array in (tensors if done.returncode else tensors | new).items():
                assert np.array_equal(file.get_tensor(name), array)
