# SPDX-License-Identifier: MIT
"""Random edits through a writable mount, beside a directory in memory: after each the two are equal, and after each
commit the official loader agrees (docs/writing.md)."""
import contextlib
import hashlib
import json
import os
import pathlib
import random
import subprocess
import sys
import time

import pytest

import editing
import filesystems
import models
import reader
from conftest import NIGHTLY, SLOW
from walk import Walk, Wrong

STEPS = 4000 if NIGHTLY else 400
# Without commits of their own; with commits underneath all the time; each overwrite staged; other ways to serve.
WAYS = [
    (["rw,autosync=0,autosync_max=0"], []),
    (["rw,autosync=0.05,autosync_max=0.1"], []),
    (["rw,autosync=0,autosync_max=0,overwrite=staged,view=both"], []),
    (["rw,autosync=0,autosync_max=0,view=npy"], ["-s"]),
    (["rw,autosync=0.05,autosync_max=0.1,overwrite=staged"], ["-s"]),
    (["rw,autosync=0,autosync_max=0,readers=ignore,cache=always"], []),
    (["rw,autosync=0.05,autosync_max=0.1,readers=ignore,cache=never"], []),
]


@contextlib.contextmanager
def volume(kind, mount, folder, size=512 << 20):
    """The folder of a new file system of that kind; no mount of a model in it is left at the end."""
    with filesystems.mounted(kind, folder, size) as path:
        try:
            yield path
        finally:
            wrong = mount.clean_up()
            mount.mounts.clear()
            assert not wrong, wrong


def first_model(folder, sharded):
    tensors = {"a": ("F32", [40, 25], None), "b": ("BF16", [7, 3], None), "c": ("U8", [65537], None),
               "d": ("I64", [], None), "e.weight": ("F16", [512, 300], None), "f.bias": ("F4", [3, 8], None),
               "g/h": ("BOOL", [0, 5], None), "i.json": ("C64", [4096], None), "k~": ("F8_E4M3", [10], None),
               "keep": ("F64", [2, 50], None)}
    if not sharded:
        return models.write_model(folder / "model/m.safetensors", tensors, {"format": "pt"})
    items = list(tensors.items())
    return editing.write_sharded(folder / "model", {
        f"model-{i + 1:05}-of-00003.safetensors": dict(items[i::3]) for i in range(3)})


def story(walk, steps, seed):
    """What a failure needs to be played again."""
    text = "\n".join(f"    {edit!r}," for edit in walk.log[-40:])
    where = os.environ.get("STFS_WALKS")
    if where:
        with open(os.path.join(where, f"{seed}.py".replace(" ", "-")), "w") as file:
            file.write("\n".join(map(repr, walk.log)))
    return f"seed {seed!r}, options {walk.options} {walk.daemon_args}, edit {len(walk.log)}; the last ones:\n{text}"


@pytest.mark.parametrize("way", range(len(WAYS)))
@pytest.mark.parametrize("sharded", [False, True], ids=["file", "shards"])
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs"])
def test_random_edits_equal_a_directory_in_memory(kind, sharded, way, mount, stfs, tmp_path):
    seed = f"{kind} {sharded} {way}" + os.environ.get("STFS_SEED", "")
    rng = random.Random(seed)
    with volume(kind, mount, tmp_path) as folder:
        options, daemon_args = WAYS[way]
        walk = Walk(mount, stfs, first_model(folder, sharded), options, daemon_args)
        try:
            for _ in range(STEPS):
                walk.play(walk.draw(rng))
            walk.finish()
        except (Wrong, OSError, AssertionError) as error:
            log = walk.mounted.stderr()
            raise Wrong(f"{error}\n{story(walk, STEPS, seed)}\nthe daemon: {log[-2000:]}") from error
        finally:
            walk.drop()


# --- readers while bytes move -------------------------------------------------------------------

TENSORS, WORDS = 40, 640 << 10  # of 5 MB


class Mover:
    """Edits after which the bytes of most tensors lie elsewhere."""

    def __init__(self, root, state, rng):
        self.root, self.state, self.rng = root, state, rng
        self.names = {number: f"t{number:03}" for number in range(TENSORS)}
        self.words = dict.fromkeys(self.names, WORDS)
        self.editions = dict.fromkeys(self.names, 0)

    def path(self, number):
        return f"{self.root}/{self.names[number]}"

    def write(self, number, flags):
        """Another edition."""
        self.editions[number] += 1
        self.state.writing(number, self.editions[number])
        data = reader.content(number, self.editions[number], self.words[number]).tobytes()
        fd = os.open(self.path(number), os.O_WRONLY | flags)
        for at in range(0, len(data), 1 << 20):
            os.pwrite(fd, data[at:at + (1 << 20)], at)
        os.close(fd)
        if not flags:
            self.state.written(number, self.editions[number])

    def first(self):
        return min(self.names)

    def remove(self):
        if len(self.names) < 10:
            return
        number = self.rng.choice([self.first(), self.rng.choice(sorted(self.names))])
        os.unlink(self.path(number))
        os.unlink(self.path(number) + ".json")
        del self.names[number]

    def rename(self):
        number = self.rng.choice(sorted(self.names))
        new = f"t{number:03}-{'n' * self.rng.randrange(200)}{self.rng.randrange(10**6)}"
        os.rename(self.path(number), f"{self.root}/{new}")
        self.names[number] = new

    def metadata(self):
        with open(f"{self.root}/__metadata__.json", "w") as file:
            json.dump({"key": "x" * self.rng.choice([1, 5000, 100_000])}, file)

    def append(self):
        number = self.rng.choice([self.first(), self.rng.choice(sorted(self.names))])
        more = self.rng.choice([1, 512, 100_000])
        rows = reader.content(number, self.editions[number], self.words[number] + more)[-more:]
        with open(self.path(number), "ab", buffering=0) as file:
            file.write(rows.tobytes())
        self.words[number] += more

    def overwrite(self):
        self.write(self.rng.choice(sorted(self.names)), 0)

    def replace(self):
        self.write(self.rng.choice(sorted(self.names)), os.O_TRUNC)

    def step(self):
        edits = [self.remove, self.rename, self.rename, self.metadata, self.append, self.append, self.overwrite, self.replace]
        for edit in self.rng.choices(edits, k=self.rng.randrange(1, 4)):
            edit()


def start(program, *args):
    return subprocess.Popen([sys.executable, str(pathlib.Path(__file__).with_name(program)), *map(str, args)],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize("readers", ["spare", "ignore"])
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_readers_never_meet_wrong_bytes(kind, readers, mount, tmp_path):
    with volume(kind, mount, tmp_path, 2 << 30) as folder:
        arrays = {f"t{n:03}": ("U64", [WORDS], reader.content(n, 0, WORDS).tobytes()) for n in range(TENSORS)}
        model = models.write_model(folder / "m.safetensors", arrays)
        made = mount(model, f"rw,autosync=0,autosync_max=0,readers={readers}")
        state = reader.State(tmp_path / "state", TENSORS)
        programs = [start("reader.py", made.path, tmp_path / "state", f"{kind} {n}") for n in range(3)]
        mover = Mover(made.path, state, random.Random(f"{kind} {readers}"))
        end, steps = time.monotonic() + (300 if NIGHTLY else 6) * SLOW, 0
        try:
            while time.monotonic() < end and all(p.poll() is None for p in programs):
                mover.step()
                fd = os.open(made.path, os.O_RDONLY | os.O_DIRECTORY)
                os.fsync(fd)
                os.close(fd)
                steps += 1
        finally:
            state.words[0] = 1
            said = [p.communicate(timeout=60 * SLOW)[0] for p in programs]
        assert all(p.returncode == 0 for p in programs), [*zip([p.returncode for p in programs], said), made.stderr()]
        assert all(text.startswith("read") for text in said) and steps > 2, (steps, said)
        found = models.official_tensors(model)
        assert sorted(found) == sorted(mover.names.values())
        for number, name in mover.names.items():
            words = reader.content(number, mover.editions[number], mover.words[number])
            assert found[name] == ("U64", [mover.words[number]], words.tobytes()), name
        made.unmount()


# --- many at the same time ----------------------------------------------------------------------


@pytest.mark.parametrize("options", ["rw,autosync=0.05,autosync_max=0.1", "rw,autosync=0,autosync_max=0,overwrite=staged"])
@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
def test_programs_beside_each_other(kind, options, mount, stfs, tmp_path):
    count, seconds = (16, 600) if NIGHTLY else (8, 5)
    with volume(kind, mount, tmp_path, 1 << 30) as folder:
        made = mount(first_model(folder, False), options)
        programs = [start("client.py", made.path, number, seconds) for number in range(count)]
        said = []
        try:
            for program in programs:
                said.append(program.communicate(timeout=(seconds + 60) * SLOW)[0])
        finally:
            for program in programs:
                if program.poll() is None:
                    program.kill()
        assert all(p.returncode == 0 for p in programs), "\n".join(said)
        stfs("sync", made.path)
        wanted = {}
        for text in said:
            wanted |= json.loads(text)["own"]
        found = {name: [dtype, shape, hashlib.sha256(data).hexdigest()] for name, (dtype, shape, data) in
                 models.official_tensors(made.model).items() if name.startswith("client")}
        assert found == wanted
        stfs("umount", made.path)
