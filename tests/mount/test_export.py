# SPDX-License-Identifier: MIT
"""stfs export-pytorch, with torch as the judge"""
import collections
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import time
import zipfile

import pytest
import torch

import models
from conftest import SLOW
from filesystems import mounted

TYPES = {
    "BOOL": torch.bool, "F4": torch.float4_e2m1fn_x2, "U8": torch.uint8, "I8": torch.int8, "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E8M0": torch.float8_e8m0fnu, "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz, "I16": torch.int16, "U16": torch.uint16, "F16": torch.float16,
    "BF16": torch.bfloat16, "I32": torch.int32, "U32": torch.uint32, "F32": torch.float32, "C64": torch.complex64,
    "F64": torch.float64, "I64": torch.int64, "U64": torch.uint64,
}
SHAPES = [[6], [], [3, 4], [0], [5, 0, 2], [2, 1, 3, 2], [1] * 70, [70000]]


def every_type():
    """Every bit pattern that chance brings: NaNs with payloads, signed zeros, infinities."""
    return {f"{dtype}.{i}": (dtype, shape, None) for dtype in TYPES for i, shape in enumerate(SHAPES)
            if dtype != "F4" or shape and shape[-1] % 2 == 0}


def torch_shape(dtype, shape):
    return (*shape[:-1], shape[-1] // 2) if dtype == "F4" else tuple(shape)


def raw(tensor):
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def state_of(loaded):
    return [(name, t.dtype, tuple(t.shape), raw(t)) for name, t in loaded.items()]


def expected(tensors):
    return [(name, TYPES[dtype], torch_shape(dtype, shape),
             models.pattern(dtype, shape, name) if data is None else data)
            for name, (dtype, shape, data) in tensors.items()]


def load(path):
    """What torch makes of it, by both ways the same."""
    read, mapped = (torch.load(path, weights_only=True, mmap=mmap) for mmap in (False, True))
    assert list(read) == list(mapped) and type(read) is type(mapped) is collections.OrderedDict
    assert state_of({k: v for k, v in read.items() if k != "__metadata__"}) == \
        state_of({k: v for k, v in mapped.items() if k != "__metadata__"})
    return read


def judge_zip(path):
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        for entry in archive.infolist():
            assert entry.compress_type == zipfile.ZIP_STORED
    if shutil.which("unzip"):
        done = subprocess.run(["unzip", "-tqq", path], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def without_id(path):
    """The bytes of an archive but for those that depend on the writer: the id, and its checksums."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry, = (e for e in archive.infolist() if e.filename.endswith(".data/serialization_id"))
    at = data.index(b"PK\1\2", entry.header_offset)
    name = data.index(entry.filename.encode(), at + 46 * len(archive.infolist()))
    content = at - 24 - 40 if entry.header_offset >= 2**32 else at - 16 - 40
    data[content:content + 48] = bytes(48)
    data[name - 46 + 16:name - 46 + 20] = bytes(4)
    return bytes(data)


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "model.pt"


def refused(stfs, out, *args):
    """Fails, and leaves the folder as it was; what is said."""
    before = sorted((e.name, e.stat().st_size, e.stat().st_ino) for e in os.scandir(out.parent))
    done = stfs("export-pytorch", *args, check=False)
    assert done.returncode == 1 and done.stdout == "", done
    assert sorted((e.name, e.stat().st_size, e.stat().st_ino) for e in os.scandir(out.parent)) == before
    return done.stderr


# --- what is written --------------------------------------------------------------------------


def test_every_type_bit_for_bit(stfs, make_model, out):
    tensors = every_type()
    done = stfs("export-pytorch", make_model("m.safetensors", tensors), out)
    assert done.stdout.startswith(f"wrote {len(tensors)} tensors (") and done.stderr == ""
    loaded = load(out)
    assert state_of(loaded) == expected(tensors)
    assert not any(t.requires_grad for t in loaded.values())
    assert len({t.untyped_storage().data_ptr() for t in loaded.values() if t.numel()}) == \
        sum(t.numel() > 0 for t in loaded.values())
    judge_zip(out)
    umask = os.umask(0)
    os.umask(umask)
    assert out.stat().st_mode & 0o777 == 0o666 & ~umask and os.listdir(out.parent) == [out.name]


def test_is_to_the_byte_what_torch_saves(stfs, make_model, out, tmp_path):
    tensors = every_type() | {f"layer.{i}.weight": ("F32", [i % 7, 3], None) for i in range(2000)}
    stfs("export-pytorch", make_model("m.safetensors", tensors), out)
    state = collections.OrderedDict((k, v.clone()) for k, v in torch.load(out, weights_only=True).items())
    again = tmp_path / "again" / out.name
    again.parent.mkdir()
    torch.save(state, again)
    assert without_id(out) == without_id(again)
    assert state_of(load(again)) == expected(tensors)


@pytest.mark.parametrize("count", [0, 1, 2, 1000, 1001, 10000])
def test_any_number_of_tensors(stfs, make_model, out, count):
    tensors = {f"layers.{i}": ("I16", [i % 3], None) for i in range(count)}
    stfs("export-pytorch", make_model("m.safetensors", tensors), out)
    assert state_of(load(out)) == expected(tensors)
    judge_zip(out)


def test_storages_lie_where_torch_calculates(stfs, make_model, out, monkeypatch):
    """torch checks its calculation against the archive when it is told to."""
    from torch.utils.serialization import config
    tensors = every_type()
    stfs("export-pytorch", make_model("m.safetensors", tensors), out)
    monkeypatch.setenv("TORCH_SERIALIZATION_DEBUG", "1")
    with config.patch("load.calculate_storage_offsets", True):
        assert state_of(load(out)) == expected(tensors)
    with zipfile.ZipFile(out) as archive, open(out, "rb") as f:
        for entry in archive.infolist():
            f.seek(entry.header_offset + 26)
            name, extra = struct.unpack("<HH", f.read(4))
            assert (entry.header_offset + 30 + name + extra) % 64 == 0


def test_the_same_model_gives_the_same_file(stfs, small_model, out):
    stfs("export-pytorch", small_model, out)
    first = out.read_bytes()
    stfs("export-pytorch", "--overwrite", small_model, out)
    assert out.read_bytes() == first


ODD = ["", ".", "..", "/", "a/b", "../../etc/passwd", "a\nb", "a\0b", "'; import os #", 'say "no"', "q\x00R.", "\\x",
       "\x80", "e\u0301\u00e9", "\U0001f332", "__class__", "storage", "cpu", "0", "1", "data.pkl", "byteorder",
       "x" * 70000, "a.b", "a"]


def test_odd_names(stfs, make_model, out):
    tensors = {name: ("F32", [2], None) for name in ODD}
    stfs("export-pytorch", make_model("m.safetensors", tensors), out)
    assert state_of(load(out)) == expected(tensors)
    judge_zip(out)


@pytest.mark.parametrize("name, folder", [
    ("a b.c.pt", "a b.c"), ("noext", "noext"), ("gr\u00fc\u00df.pt", "archive"), ("x:y\n.pt", "x_y_"),
    (".pt", "archive"), ("..pt", "archive"), (b"\xff.pt", "archive"), ("y" * 250 + ".pt", "y" * 250)])
def test_the_archives_folder(stfs, small_model, out, name, folder):
    path = os.path.join(os.fsencode(out.parent), os.fsencode(name))
    stfs("export-pytorch", small_model, path)
    with open(path, "rb") as f:
        assert {n.split("/")[0] for n in zipfile.ZipFile(f).namelist()} == {folder}
        f.seek(0)
        assert torch.load(f, weights_only=True)


@pytest.mark.parametrize("seed", range(6))
def test_random_models(stfs, make_model, out, seed):
    rnd = random.Random(seed)
    tensors = {}
    for i in range(rnd.randrange(60)):
        dtype = rnd.choice(list(TYPES))
        shape = [rnd.choice([0, 1, 2, 3, 17, 300]) for _ in range(rnd.randrange(4))]
        if dtype == "F4":
            shape = [*shape, 2 * rnd.randrange(5)]
        tensors["".join(rnd.choice("ab.\u00e9\n'0") for _ in range(rnd.randrange(12))) + str(i)] = (dtype, shape, None)
    stfs("export-pytorch", make_model("m.safetensors", tensors), out)
    assert state_of(load(out)) == expected(tensors)


def test_pieces_and_zeros(stfs, make_model, out):
    """Tensors around the size of the pieces that are copied; those of zeros are not written at all."""
    sizes = [(1 << 20) + d for d in (-200, -64, -1, 0, 1, 64)] + [(3 << 20) + 5, 9 << 20]
    tensors = {f"{kind}{size}": ("U8", [size], bytes(size) if kind == "zeros" else None)
               for size in sizes for kind in ("noise", "zeros")}
    tensors["end of zeros"] = ("U8", [5 << 20], bytes((5 << 20) - 1) + b"\1")
    stfs("export-pytorch", make_model("m.safetensors", tensors), out)
    assert state_of(load(out)) == expected(tensors)
    judge_zip(out)


def test_sharded(stfs, sharded_model, out):
    index, = sharded_model.glob("*.index.json")
    wanted = models.official_tensors(*models.shards(sharded_model))
    for model in sharded_model, index:
        stfs("export-pytorch", "-q", "--overwrite", model, out)
        loaded = load(out)
        assert {k: (t.dtype, tuple(t.shape), raw(t)) for k, t in loaded.items()} == \
            {k: (TYPES[dtype], torch_shape(dtype, shape), data) for k, (dtype, shape, data) in wanted.items()}


def test_loads_into_a_module(stfs, tmp_path, out):
    from safetensors.torch import save_file
    module = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.BatchNorm1d(5))
    save_file(module.state_dict(), tmp_path / "m.safetensors")
    stfs("export-pytorch", tmp_path / "m.safetensors", out)
    other = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.BatchNorm1d(5))
    other.load_state_dict(torch.load(out, weights_only=True))
    assert state_of(other.state_dict()) == state_of(module.state_dict())


# --- metadata ---------------------------------------------------------------------------------


def test_metadata(stfs, make_model, out):
    metadata = {"format": "pt", "": "", "a\n'b": "\u00e9" * 3, "long": "x" * 70000}
    model = make_model("m.safetensors", {"w": ("F32", [2], None)}, metadata)
    done = stfs("export-pytorch", model, out)
    assert "4 metadata keys are left out" in done.stderr and "--metadata" in done.stderr
    assert list(load(out)) == ["w"]
    assert stfs("export-pytorch", "-q", "--overwrite", model, out).stderr == ""
    done = stfs("export-pytorch", "--overwrite", "--metadata", model, out)
    assert done.stderr == "" and "and 4 metadata keys" in done.stdout
    loaded = load(out)
    assert list(loaded) == ["w", "__metadata__"] and loaded["__metadata__"] == metadata


def test_metadata_that_are_not_there(stfs, make_model, out):
    model = make_model("m.safetensors", {"w": ("F32", [2], None)})
    assert stfs("export-pytorch", "--metadata", model, out).stderr == ""
    assert list(load(out)) == ["w"]


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, shape, why", [
    ("F6_E2M3", [4], "no such type"), ("F6_E3M2", [2, 2], "no such type"), ("F4", [2, 3], "is odd"),
    ("U8", [0, 1 << 40, 1 << 40], "63 bits"), ("I8", [1] * 256, "255 dimensions")])
def test_what_torch_cannot_have(stfs, make_model, out, dtype, shape, why):
    model = make_model("m.safetensors", {"fine": ("F32", [2], None), "b\nad": (dtype, shape, None)})
    said = refused(stfs, out, model, out)
    assert f'tensor "b\\x0aad" ({dtype})' in said and why in said and "1 of 2 tensors" in said


def test_many_that_torch_cannot_have(stfs, make_model, out):
    said = refused(stfs, out, make_model("m.safetensors", {f"t{i}": ("F6_E2M3", [4], None) for i in range(50)}), out)
    assert said.count("no such type") == 20 and "and 30 more" in said and "50 of 50 tensors" in said


def test_what_is_there_is_kept(stfs, small_model, out):
    out.write_bytes(b"mine")
    out.chmod(0o640)
    assert "--overwrite" in refused(stfs, out, small_model, out)
    assert out.read_bytes() == b"mine"
    stfs("export-pytorch", "--overwrite", small_model, out)
    assert load(out) and out.stat().st_mode & 0o777 == 0o640
    assert os.listdir(out.parent) == [out.name]


def test_never_onto_the_model(stfs, small_model, out, sharded_model, tmp_path):
    before = small_model.read_bytes()
    assert "is the model itself" in refused(stfs, small_model, "--overwrite", small_model, small_model)
    os.link(small_model, out)
    assert "is the model itself" in refused(stfs, out, "--overwrite", small_model, out)
    out.unlink()
    out.symlink_to(small_model)
    assert "no regular file" in refused(stfs, out, "--overwrite", small_model, out)
    assert small_model.read_bytes() == before
    sharded = tmp_path / "sharded"
    shutil.copytree(sharded_model, sharded)
    for part in [*models.shards(sharded), *sharded.glob("*.index.json")]:
        assert "is the model itself" in refused(stfs, part, "--overwrite", sharded, part)


def test_places_that_are_none(stfs, small_model, out, tmp_path):
    assert "no regular file" in refused(stfs, out, "--overwrite", small_model, out.parent)
    assert "No such file" in refused(stfs, out, small_model, tmp_path / "none/x.pt")
    assert "no name for a file" in refused(stfs, out, small_model, f"{out.parent}/")
    assert "no regular file" in refused(stfs, out, "--overwrite", small_model, "/dev/null")


def test_a_damaged_model(stfs, small_model, out):
    with open(small_model, "r+b") as f:
        f.truncate(small_model.stat().st_size - 1)
    assert "stfs check" in refused(stfs, out, small_model, out)


def test_usage(stfs, small_model):
    for args in ([], [small_model], [small_model, "a", "b"], ["-Z", small_model, "a"]):
        assert stfs("export-pytorch", *args, check=False).returncode == 64


# --- plans and reports ------------------------------------------------------------------------


def test_dry_run(stfs, small_model, out):
    planned = json.loads(stfs("export-pytorch", "-n", "--json", small_model, out).stdout)
    assert os.listdir(out.parent) == [] and planned["dry_run"] and planned["fits"]
    text = stfs("export-pytorch", "-n", small_model, out).stdout
    assert text.startswith("would write ") and " are free" in text
    done = json.loads(stfs("export-pytorch", "--json", small_model, out).stdout)
    assert done["bytes"] == planned["bytes"] == out.stat().st_size and not done["dry_run"]
    assert done["tensors"] == len(load(out)) and done["tensor_bytes"] == sum(len(raw(t)) for t in load(out).values())
    assert stfs("export-pytorch", "-q", "--overwrite", small_model, out).stdout == ""


def test_no_room(stfs, make_model, out, tmp_path):
    model = make_model("m.safetensors", {"w": ("U8", [8 << 20], None)})
    with mounted("tmpfs", tmp_path, 4 << 20) as folder:
        place = folder / "model.pt"
        said = refused(stfs, place, model, place)
        assert "needs 8390107" in said and "the disk has room for 4194304" in said
        done = stfs("export-pytorch", "-n", "--json", model, place, check=False)
        assert done.returncode == 1 and not json.loads(done.stdout)["fits"]
        place.write_bytes(b"old")
        refused(stfs, place, "--overwrite", model, place)
        assert place.read_bytes() == b"old"


def test_a_file_that_may_not_grow(stfs_path, program_env, make_model, out):
    model = make_model("m.safetensors", {"w": ("U8", [8 << 20], None)})
    done = subprocess.run(["sh", "-c", 'ulimit -f 2048; exec "$@"', "sh", stfs_path, "export-pytorch", model, out],
                          env=program_env, capture_output=True, text=True)
    assert done.returncode == 1 and "File too large" in done.stderr and os.listdir(out.parent) == []


# --- in the middle ----------------------------------------------------------------------------


@pytest.fixture
def long_model(make_model):
    """A model that takes a while: some gigabytes of zeros, which the disk does not have."""
    model = make_model("long.safetensors", {"first": ("U8", [64], None)})
    size = 3 << 30
    header = json.dumps({"first": {"dtype": "U8", "shape": [64], "data_offsets": [0, 64]},
                         "zeros": {"dtype": "U8", "shape": [size], "data_offsets": [64, 64 + size]}}).encode()
    with open(model, "wb") as f:
        f.write(len(header).to_bytes(8, "little") + header + bytes(range(64)))
        f.truncate(8 + len(header) + 64 + size)
    return model


def wait_until_busy(process):
    """Until it has read some of the model."""
    until = time.monotonic() + 30 * SLOW
    while time.monotonic() < until:
        with open(f"/proc/{process.pid}/io") as f:
            if int(f.readline().split()[1]) > 100 << 20:
                return
        assert process.poll() is None, "it has ended already"
        time.sleep(0.005)
    pytest.fail("it reads nothing")


# A file without a name needs its descriptor's entry in /proc to get one.
WITHOUT_PROC = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc/$$/fd && exec "$@"', "sh"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
@pytest.mark.parametrize("named", [False, True])
def test_a_signal_leaves_nothing(stfs_path, program_env, long_model, out, how, named):
    out.write_bytes(b"old")
    process = subprocess.Popen([*(WITHOUT_PROC if named else []), stfs_path, "export-pytorch", "--overwrite", long_model,
                                out], env=program_env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until_busy(process)
    process.send_signal(how)
    stdout, stderr = process.communicate(timeout=60 * SLOW)
    assert process.returncode == -how and stdout == "" and out.read_bytes() == b"old"
    assert "interrupted" in stderr or how == signal.SIGKILL
    left = {".model.pt.stfs-new"} if named and how == signal.SIGKILL else set()
    assert set(os.listdir(out.parent)) == {out.name} | left


@pytest.mark.parametrize("overwrite", [False, True])
def test_where_files_have_names(stfs_path, program_env, small_model, out, overwrite):
    """And what a kill left there goes."""
    (out.parent / ".model.pt.stfs-new").write_bytes(b"half")
    if overwrite:
        out.write_bytes(b"old")
    subprocess.run([*WITHOUT_PROC, stfs_path, "export-pytorch", "--overwrite", small_model, out],
                   env=program_env, check=True, capture_output=True)
    assert os.listdir(out.parent) == [out.name] and load(out)


def test_ignored_signals_stay_ignored(stfs_path, program_env, long_model, out):
    process = subprocess.Popen(["sh", "-c", 'trap "" HUP; exec "$@"', "sh", stfs_path, "export-pytorch", "-q",
                                long_model, out], env=program_env)
    wait_until_busy(process)
    process.send_signal(signal.SIGHUP)
    assert process.wait(60 * SLOW) == 0
    assert out.exists()


def test_a_model_that_changes_meanwhile(stfs_path, program_env, long_model, out):
    process = subprocess.Popen([stfs_path, "export-pytorch", long_model, out], env=program_env, stderr=subprocess.PIPE,
                               text=True)
    wait_until_busy(process)
    with open(long_model, "r+b") as f:
        f.seek(-1, os.SEEK_END)
        f.write(b"x")
    _, stderr = process.communicate(timeout=60 * SLOW)
    assert process.returncode == 1 and "wrote to the file" in stderr and os.listdir(out.parent) == []


def test_a_model_that_is_cut_short_meanwhile(stfs_path, program_env, long_model, out):
    process = subprocess.Popen([stfs_path, "export-pytorch", long_model, out], env=program_env, stderr=subprocess.PIPE,
                               text=True)
    wait_until_busy(process)
    os.truncate(long_model, 300 << 20)
    _, stderr = process.communicate(timeout=60 * SLOW)
    assert process.returncode == 1 and 'tensor "zeros" cannot be read' in stderr and os.listdir(out.parent) == []


def test_memory_does_not_follow_the_model(stfs_path, program_env, long_model, out):
    process = subprocess.Popen([stfs_path, "export-pytorch", "-q", long_model, out], env=program_env)
    wait_until_busy(process)
    most = 0
    while process.poll() is None:
        with open(f"/proc/{process.pid}/status") as f:
            most = max([most, *(int(line.split()[1]) for line in f if line.startswith("VmHWM"))])
        time.sleep(0.01)
    assert process.returncode == 0 and 0 < most < 256 << 10  # KiB; a sanitizer has much for itself


# --- beyond 4 GiB -----------------------------------------------------------------------------


class Layout:
    """A file for torch.save() that keeps the small writes, with where they went."""

    def __init__(self):
        self.at, self.parts = 0, []

    def write(self, data):
        size = memoryview(data).nbytes
        if size < 1 << 16:
            self.parts.append((self.at, bytes(data)))
        self.at += size
        return size

    def flush(self):
        pass


@pytest.mark.nightly
def test_beyond_4_gib(stfs, tmp_path, out):
    """Needs 4.3 GB below pytest's folder for a moment; almost all of it zeros, which are not written."""
    large = (1 << 32) + 5
    tensors = {"a": ("U8", [10]), "large": ("U8", [large]), "c": ("F32", [7]), "none": ("F32", [0])}
    header, at = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = models.nbytes(dtype, shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with open(tmp_path / "m.safetensors", "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text + b"0123456789first")
        f.seek(8 + len(text) + 10 + large - 4)
        f.write(b"last" + bytes(range(28)))
    place = out.parent / "archive.pt"  # as torch calls what it does not write to a file
    stfs("export-pytorch", tmp_path / "m.safetensors", place)
    loaded = torch.load(place, weights_only=True, mmap=True)
    assert raw(loaded["a"]) == b"0123456789" and raw(loaded["c"]) == bytes(range(28)) and loaded["none"].numel() == 0
    assert raw(loaded["large"][:5]) == b"first" and raw(loaded["large"][-4:]) == b"last"
    layout = Layout()
    torch.save(loaded, layout)
    assert layout.at == place.stat().st_size
    with open(place, "rb") as f, zipfile.ZipFile(place) as archive:
        assert archive.read("archive/data/2") == bytes(range(28))
        for at, data in layout.parts:
            f.seek(at)
            mine = f.read(len(data))
            if b"archive/.data/serialization_id" in data and data.startswith(b"PK\1\2"):
                mine, data = mine[:data.index(b"archive/.data") - 30], data[:data.index(b"archive/.data") - 30]
            if not data.isdigit() and mine[:4] != b"PK\7\x08":
                assert mine == data, at
