# SPDX-License-Identifier: MIT
"""Random edits through a writable mount, beside a directory in memory: after each the two are equal, and after each
commit the official loader agrees (docs/writing.md)."""
import contextlib
import errno
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import editing
import filesystems
import models
import reader
from conftest import NIGHTLY, SLOW
from test_underneath import outcome
from test_underneath_writable import COULD_NOT_COMMIT
from walk import Walk, Wrong

STEPS = 4000 if NIGHTLY else 300
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


def story(walk, seed):
    text = "\n".join(f"    {edit!r}," for edit in walk.log[-40:])
    where = os.environ.get("STFS_WALKS")
    if where:
        with open(os.path.join(where, f"{seed}.py".replace(" ", "-")), "w") as file:
            file.write("\n".join(map(repr, walk.log)))
    return f"seed {seed!r}, options {walk.options} {walk.daemon_args}, edit {len(walk.log)}; the last ones:\n{text}"


@contextlib.contextmanager
def told(walk, seed):
    """A failure comes with what is needed to play it again."""
    try:
        yield
    except (Wrong, OSError, AssertionError) as error:
        raise Wrong(f"{error}\n{story(walk, seed)}\nthe daemon: {walk.mounted.stderr()[-2000:]}") from error
    finally:
        walk.drop()


PLACES = [(kind, sharded) for kind in ("ext4", "xfs", "btrfs", "tmpfs") for sharded in (False, True)]
WALKS = [(*place, (number + more) % len(WAYS)) for number, place in enumerate(PLACES)
         for more in (range(len(WAYS)) if NIGHTLY else (0, 3))]


@pytest.mark.parametrize("kind,sharded,way", WALKS, ids=[f"{k}-{'shards' if s else 'file'}-{w}" for k, s, w in WALKS])
def test_random_edits_equal_a_directory_in_memory(kind, sharded, way, mount, stfs, tmp_path):
    """STFS_SEED makes it other edits; STFS_WALKS names a folder for those of a walk that failed."""
    seed = f"{kind} {sharded} {way}" + os.environ.get("STFS_SEED", "")
    rng = random.Random(seed)
    with volume(kind, mount, tmp_path) as folder:
        options, daemon_args = WAYS[way]
        walk = Walk(mount, stfs, first_model(folder, sharded), options, daemon_args)
        with told(walk, seed):
            for _ in range(STEPS):
                walk.play(walk.draw(rng))
            walk.finish()


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

    def write(self, number, path):
        """Another edition."""
        self.editions[number] += 1
        self.state.writing(number, self.editions[number])
        data = reader.content(number, self.editions[number], self.words[number]).tobytes()
        fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        for at in range(0, len(data), 1 << 20):
            os.pwrite(fd, data[at:at + (1 << 20)], at)
        os.close(fd)

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
        number = self.rng.choice(sorted(self.names))
        self.write(number, self.path(number))
        self.state.written(number, self.editions[number])

    def replace(self):
        """By another file: cut to nothing, it would kill who has it mapped, as any file would."""
        number = self.rng.choice(sorted(self.names))
        self.write(number, f"{self.root}/.new")
        self.state.replacing(number)
        os.rename(f"{self.root}/.new", self.path(number))
        self.state.replacing(number)

    def step(self):
        edits = [self.remove, self.rename, self.rename, self.metadata, self.append, self.append, self.overwrite, self.replace]
        for edit in self.rng.choices(edits, k=self.rng.randrange(1, 4)):
            edit()


def fill(file, size):
    for _ in range(size >> 20):
        file.write(bytes(1 << 20))


def start(program, *args):
    return subprocess.Popen([sys.executable, str(pathlib.Path(__file__).with_name(program)), *map(str, args)],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize("kind,readers", [("ext4", "ignore"), ("xfs", "spare")] + (
    [("ext4", "spare"), ("xfs", "ignore")] if NIGHTLY else []))
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


# --- of one tensor the others hear nothing ---------------------------------------------------------


def test_tensors_keep_their_time_when_another_is_committed(mount_rw, stfs, small_model):
    """rsync and make see what has changed by it."""
    os.utime(small_model, (10**9, 10**9))
    made = mount_rw(small_model, "cache=never")
    (made.path / "embed.weight").unlink()
    (made.path / "new").write_bytes(b"abcd")
    (made.path / "new.json").write_text('{"dtype":"U8","shape":[4]}')
    stfs("sync", made.path)
    names = ("steps", "steps.json", "layer.0.bias", "__metadata__.json")
    assert {name: os.stat(made.path / name).st_mtime for name in names} == dict.fromkeys(names, 10**9)
    assert os.stat(made.path / "new").st_mtime > 10**9


def test_a_tensor_that_two_shards_hold_goes_from_both(mount_rw, stfs, tmp_path):
    """Else the other one would come to light in its place."""
    folder = editing.write_sharded(tmp_path / "s", {
        "model-00001-of-00002.safetensors": {"a": ("U8", [4], None), "b": ("U8", [4], None)},
        "model-00002-of-00002.safetensors": {"a": ("U8", [5], None), "c": ("U8", [4], None)}})
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace('"a": "model-00002', '"a": "model-00001'))
    made = mount_rw(folder)
    (made.path / "a").unlink()
    (made.path / "a.json").unlink()
    stfs("sync", made.path)
    assert sorted(os.listdir(made.path)) == ["b", "b.json", "c", "c.json"]
    np.save(made.path / "a.npy", np.arange(3, dtype=np.uint8))
    os.rename(made.path / "b", made.path / "d")
    stfs("sync", made.path)
    made.unmount()
    assert sorted((name, shape) for name, (_, shape, _) in editing.sharded_tensors(folder).items()) == [
        ("a", [3]), ("c", [4]), ("d", [4])]
    assert "\"a\"" in stfs("ls", folder, "--json").stdout


# --- a small disk ---------------------------------------------------------------------------


def test_small_tensors_take_little_of_a_small_disk(mount, stfs, tmp_path):
    """The spool gives out blocks of 64 KiB; what counts is what was written to them."""
    with volume("tmpfs", mount, tmp_path, 48 << 20) as folder:
        made = mount(folder / "m.safetensors", "create,autosync=0,autosync_max=0")
        for number in range(1500):
            (made.path / f"t{number}").write_bytes(b"abcd")
            (made.path / f"t{number}.json").write_text('{"dtype":"U8","shape":[4]}')
        assert os.stat(made.path / "t0").st_blocks <= 8
        stfs("sync", made.path)
        assert len(models.official_tensors(made.model)) == 1500


def test_bytes_that_would_not_fit_twice_are_refused(mount, stfs, tmp_path):
    """When they are written, not when they are committed."""
    with volume("tmpfs", mount, tmp_path, 64 << 20) as folder:
        made = mount(models.write_model(folder / "m.safetensors", {"a": ("U8", [4], None)}), "rw,autosync=0,autosync_max=0")
        with open(made.path / "new", "wb", buffering=0) as file:
            assert outcome(fill, file, 64 << 20) == errno.ENOSPC
            written = file.tell()
        assert 16 << 20 < written <= 32 << 20
        (made.path / "new.json").write_text(json.dumps({"dtype": "U8", "shape": [written]}))
        stfs("sync", made.path)
        assert models.official_tensors(made.model)["new"][1] == [written]


def test_gaps_that_the_model_has_no_room_for_are_refused(mount, tmp_path):
    """A sparse file is as large in the model as any other. With the spool elsewhere that has room for more."""
    (tmp_path / "other").mkdir()
    with filesystems.mounted("tmpfs", tmp_path / "other", 256 << 20) as spool, \
            volume("tmpfs", mount, tmp_path, 64 << 20) as folder:
        made = mount(models.write_model(folder / "m.safetensors", {"a": ("U8", [4], None)}),
                     f"rw,autosync=0,autosync_max=0,spool={spool}")
        with open(made.path / "new", "wb", buffering=0) as file:
            assert outcome(file.truncate, 1 << 50) == errno.ENOSPC
            assert outcome(os.pwrite, file.fileno(), b"x", 100 << 20) == errno.ENOSPC
            assert os.fstat(file.fileno()).st_size == 0
            file.truncate(20 << 20)
            assert outcome(fill, file, 100 << 20) == errno.ENOSPC
            assert 40 << 20 < file.tell() <= 64 << 20


def end_unable(made):
    """Unmounts, though not all can be committed."""
    made.exit_codes = {COULD_NOT_COMMIT}
    os.kill(made.pid, signal.SIGTERM)
    made.judge()


def enlarge(folder):
    subprocess.run(["mount", "-o", "remount,size=512m", folder], check=True)


@pytest.mark.parametrize("same", [True, False], ids=["same model", "other model"])
def test_what_a_full_disk_has_no_room_for_twice_is_kept_in_pieces(same, mount, stfs, tmp_path):
    """And nothing else is lost with it."""
    with volume("ext4", mount, tmp_path, 256 << 20) as folder:
        rows = np.arange(40 << 18, dtype=np.uint32).reshape(40, -1)
        model = models.write_model(folder / "m.safetensors", {"a": ("U32", list(rows.shape), rows.tobytes()),
                                                              "b": ("U8", [9], None)})
        (folder / "others").mkdir()
        with open(folder / "others/file", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize - (28 << 20))
        made = mount(model, "rw,autosync=0,autosync_max=0")
        row = np.arange(1 << 18, dtype=np.uint32) + 7
        with open(made.path / "a", "ab") as file:
            file.write(row.tobytes())
        np.save(made.path / "good.npy", np.arange(3.0))
        with open(made.path / "holes", "wb") as file:
            file.truncate(12 << 20)
        (made.path / "holes.json").write_text(json.dumps({"dtype": "U8", "shape": [12 << 20]}))
        fds = [os.open(made.path / name, os.O_RDONLY) for name in ("a", "good")]
        assert [outcome(os.fsync, fd) for fd in fds] == [errno.ENOSPC, None]
        for fd in fds:
            os.close(fd)
        assert "good" in models.official_tensors(model), "what there is room for is committed"
        np.save(made.path / "good.npy", np.arange(4.0))
        end_unable(made)
        shutil.rmtree(folder / "others")
        if not same:
            stfs("metadata", model, "--set", "other=1")
            done = stfs("recover", model, check=False)
            assert done.returncode == 1 and "is not this one" in done.stderr
            return
        stfs("recover", model)
        found = models.official_tensors(model)
        assert found["a"] == ("U32", [41, 1 << 18], rows.tobytes() + row.tobytes())
        assert found["good"] == ("F64", [4], np.arange(4.0).tobytes())
        assert found["holes"] == ("U8", [12 << 20], bytes(12 << 20)) and set(found) == {"a", "b", "good", "holes"}
        assert not list(folder.glob(".m*"))


def test_a_spool_elsewhere_keeps_what_the_model_has_no_room_for(mount, stfs, tmp_path):
    (tmp_path / "other").mkdir()
    with filesystems.mounted("tmpfs", tmp_path / "other", 128 << 20) as spool, \
            volume("tmpfs", mount, tmp_path, 32 << 20) as folder:
        model = models.write_model(folder / "m.safetensors", {"a": ("U8", [9], None)})
        made = mount(model, f"rw,autosync=0,autosync_max=0,spool={spool}")
        array = np.arange(5 << 19, dtype=np.uint64)
        np.save(made.path / "new.npy", array)
        with open(folder / "others", "wb", buffering=0) as file:
            fill(file, 24 << 20)
        end_unable(made)
        rescue, = spool.iterdir()
        assert str(spool) in made.stderr()
        enlarge(folder)
        shutil.move(rescue, folder)
        stfs("recover", model)
        found = models.official_tensors(model)
        assert found["new"] == ("U64", [5 << 19], array.tobytes()) and set(found) == {"a", "new"}


def test_more_edits_than_the_room_for_their_description(mount, stfs, tmp_path):
    """The header of a rescue file grows beyond what the spool has left for it."""
    names = [f"{number:05}-{'n' * 200}" for number in range(12000)]
    model = models.write_model(tmp_path / "m.safetensors", {name: ("U8", [1], b"x") for name in names})
    made = mount(model, "rw,autosync=0,autosync_max=0")
    for name in names:
        os.rename(made.path / name, made.path / f"r{name}")
    np.save(made.path / "new.npy", np.arange(5))
    os.rename(model, tmp_path / "kept")
    models.write_model(model, {"other": ("U8", [3], None)})
    end_unable(made)
    os.replace(tmp_path / "kept", model)
    stfs("recover", model)
    found = models.official_tensors(model)
    assert set(found) == {f"r{name}" for name in names} | {"new"} and found["new"][2] == np.arange(5).tobytes()


# --- many at the same time ----------------------------------------------------------------------


@pytest.mark.parametrize("kind,options", [("ext4", "rw,autosync=0.05,autosync_max=0.1"),
                                          ("tmpfs", "rw,autosync=0,autosync_max=0,overwrite=staged")])
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


# --- edits that stay the mount's own ------------------------------------------------------------


@pytest.mark.parametrize("sharded", [False, True], ids=["file", "shards"])
@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
def test_private_edits_leave_the_model_as_it_was(kind, sharded, mount, stfs, tmp_path):
    rng = random.Random(f"cow {kind} {sharded}" + os.environ.get("STFS_SEED", ""))
    with volume(kind, mount, tmp_path) as folder:
        model = first_model(folder, sharded)
        before = editing.files(folder)
        walk = Walk(mount, stfs, model, ["cow"], [])
        with told(walk, "cow"):
            for _ in range(STEPS // 2):
                edit = walk.draw(rng)
                if edit[0] not in ("sync", "fsync", "fsync_dir", "remount"):
                    walk.play(edit)
            assert editing.files(folder) == before
            walk.fit()
            walk.check_all()
            for how in (["--raw"], ["--raw", "--overwrite"]):
                stfs("save", *how, walk.root, tmp_path / "saved.safetensors")
            walk.check_saved(tmp_path / "saved.safetensors")
            walk.drop()
            stfs("umount", walk.root)
        assert editing.files(folder) == before


# --- new models ---------------------------------------------------------------------------------

WAYS_TO_COPY = {
    "cp": "cp {source}/* {target}/",
    "cp -r": "cp -r {source}/. {target}/",
    "cp -a": "cp -a {source}/. {target}/",
    "rsync -a": "rsync -a {source}/ {target}/",
    "rsync -a --inplace": "rsync -a --inplace {source}/ {target}/",
    "rsync -a --whole-file": "rsync -a --whole-file {source}/ {target}/",
    "tar": "tar -C {source} -cf - . | tar -C {target} -xf -",
    "tar by names": "tar -C {source} --sort=name -cf - . | tar -C {target} -xf -",
    "cat": "for f in {source}/*; do cat $f > {target}/$(basename $f); done",
    "cp, backwards": "for f in $(ls -r {source}); do cp {source}/$f {target}/; done",
    "dd": "for f in {source}/*; do dd if=$f of={target}/$(basename $f) bs=3000 status=none; done",
    "arrays": "cp {source}/*.npy {target}/ && cp {source}/__metadata__.json {target}/",
}


@pytest.mark.parametrize("how", WAYS_TO_COPY)
@pytest.mark.parametrize("autosync", ["0", "0.05"])
def test_a_model_is_copied_from_mount_to_mount(autosync, how, mount, stfs, tmp_path):
    tensors = {name: (dtype, shape, None) for name, (dtype, shape) in {
        "a": ("F32", [40, 25]), "b": ("BF16", [7, 3]), "c": ("U8", [65537]), "d": ("I64", []), "e.weight": ("F16", [512, 300]),
        "g/h": ("BOOL", [0, 5]), "i.json": ("C64", [4096]), "k~": ("I8", [10]), "large": ("F64", [1 << 18])}.items()}
    if how != "arrays":
        tensors |= {"packed": ("F4", [3, 8], None), "eight": ("F8_E4M3", [77], None), "x" * 300: ("U16", [5], None)}
    metadata = {"format": "pt", "é": "ü\n"}
    source = mount(models.write_model(tmp_path / "source.safetensors", tensors, metadata), "ro", "view=" + (
        "npy" if how == "arrays" else "raw"))
    target = mount(tmp_path / "target.safetensors", "create", f"autosync={autosync},autosync_max={autosync}")
    command = WAYS_TO_COPY[how].format(source=source.path, target=target.path)
    done = subprocess.run(["bash", "-c", f"set -eo pipefail; {command}"], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done
    wanted = editing.state(source.model)
    for path in sorted(source.path.iterdir()):
        if path.name.endswith(".json"):
            assert json.loads((target.path / path.name).read_text()) == json.loads(path.read_text())
        else:
            assert (target.path / path.name).read_bytes() == path.read_bytes(), path.name
    assert stfs("sync", target.path).stderr == ""
    assert editing.state(target.model) == wanted
    stfs("umount", target.path)
    assert editing.state(target.model) == wanted
    assert sorted(p.name for p in tmp_path.glob(".*")) == []
