# SPDX-License-Identifier: MIT
"""PyTorch checkpoints through `ls`, `info`, `cat`, `map` and a mount: the same as torch.load(weights_only=True)."""
import contextlib
import errno
import hashlib
import json
import mmap
import os
import pathlib
import random
import re
import subprocess
import sys
import threading
import time
import zipfile

import numpy as np
import pytest
import torch

import checkpoints
import models
from conftest import MountFailed
from test_directory import skip_if_sanitized

SAMPLE = checkpoints.sample()
MIB = 1 << 20


@pytest.fixture
def saved(tmp_path):
    """saved(checkpoint, name="c.pt", form="zip"): a file of it"""
    return lambda checkpoint, name="c.pt", form="zip": checkpoints.save(checkpoint, tmp_path / name, form)


def big_endian(path, out):
    """As torch on a big-endian machine writes it: every element turned round."""
    storages = {}

    def turn(name, data):
        if name == "byteorder":
            return b"big"
        if not name.startswith("data/"):
            return data
        width = storages[name.partition("/")[2]]
        return np.frombuffer(data, f"u{width}").byteswap().tobytes() if width > 1 else data

    widths = {"FloatStorage": 4, "ComplexFloatStorage": 4, "ComplexDoubleStorage": 8, "LongStorage": 8,
              "BFloat16Storage": 2}
    pickled = dict(checkpoints.entries(path))[f"{pathlib.Path(path).stem}/data.pkl"].decode("latin-1")
    for kind, key in re.findall(r"ctorch\n(\w+)\nq.X.\0\0\0(\d+)q", pickled):
        storages[key] = widths[kind]
    return checkpoints.rewrite(path, out, turn)


def make(kind, path):
    """A checkpoint of that kind, and what it holds."""
    if kind in ("zip", "legacy"):
        return checkpoints.save(SAMPLE, path, kind), checkpoints.listing(SAMPLE)
    if kind == "deflated":
        plain = checkpoints.save(SAMPLE, path.with_name("plain.pt"))
        return checkpoints.rewrite(plain, path, method=zipfile.ZIP_DEFLATED), checkpoints.listing(SAMPLE)
    # Storages one a type, so that each class stands before its key.
    tensors = {"f": torch.randn(30, 40).t(), "c": torch.randn(6, 7, dtype=torch.complex64),
               "z": torch.randn(6, 7, dtype=torch.complex128).t(), "i": torch.arange(1000), "b":
               torch.randn(99).bfloat16(), "large": torch.arange(1 << 20).t()}
    plain = checkpoints.save({k: t for k, t in tensors.items() if k != "large"}, path.with_name("plain.pt"))
    return big_endian(plain, path), checkpoints.listing({k: t for k, t in tensors.items() if k != "large"})


KINDS = ["zip", "legacy", "deflated", "big-endian"]


@pytest.mark.parametrize("kind", KINDS)
def test_ls_and_cat(stfs, tmp_path, kind):
    path, wanted = make(kind, tmp_path / "c.pt")
    if kind == "zip":  # of the legacy form torch cannot read unsigned integers itself
        assert checkpoints.listing(torch.load(path, weights_only=True)) == wanted
    found = json.loads(stfs("ls", "--json", path).stdout)["tensors"]
    assert {t["name"]: (t["dtype"], t["shape"], t["bytes"]) for t in found} == \
        {name: (dtype, shape, len(data)) for name, (dtype, shape, data) in wanted.items()}
    data = path.read_bytes()
    for tensor in found:
        want = wanted[tensor["name"]][2]
        assert stfs("cat", path, tensor["name"], text=False).stdout == want, tensor["name"]
        if tensor["offset"] is not None:
            assert data[tensor["offset"]:tensor["offset"] + len(want)] == want
    offsets = {t["name"]: t["offset"] for t in found}
    if kind in ("zip", "legacy"):
        assert offsets["plain"] == offsets["tied"] is not None and offsets["rows"] is not None
        assert offsets["transposed"] is offsets["columns"] is offsets["expanded"] is None


@pytest.mark.parametrize("kind", KINDS)
def test_mount(mount, tmp_path, kind):
    path, wanted = make(kind, tmp_path / "c.pt")
    made = mount(path)
    assert {n for n in os.listdir(made.path) if not n.endswith(".json")} == set(wanted)
    for name, (dtype, shape, data) in wanted.items():
        file = made.path / name
        assert file.stat().st_size == len(data)
        assert file.read_bytes() == data, name
        side = json.loads((made.path / f"{name}.json").read_text())
        assert (side["dtype"], side["shape"]) == (dtype, shape)
        array = np.load(f"{file}.npy", mmap_mode="r" if data else None)
        assert list(array.shape) == shape and array.tobytes() == data
        if data:
            with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
                assert mapped[:] == data


@pytest.mark.parametrize("kind", ["zip", "legacy", "deflated"])
def test_pieces_of_any_size(mount, tmp_path, kind):
    path, wanted = make(kind, tmp_path / "c.pt")
    made = mount(path, "cache=never")
    chosen = random.Random(3)
    for name in ("large", "large_t", "complex_t", "permuted", "columns"):
        data = wanted[name][2]
        with open(made.path / name, "rb", buffering=0) as file:
            for _ in range(200):
                at, size = chosen.randrange(len(data) + 9), chosen.choice([1, 7, 4096, 70000, 300000])
                assert os.pread(file.fileno(), size, at) == data[at:at + size], (name, at, size)


@pytest.mark.threads
@pytest.mark.parametrize("kind", ["zip", "deflated"])
def test_many_readers(mount, tmp_path, kind):
    """Strided and deflated tensors are put together by several threads at once."""
    path, wanted = make(kind, tmp_path / "c.pt")
    made, wrong = mount(path, "cache=never"), []

    def read(seed):
        chosen = random.Random(seed)
        for _ in range(60):
            name = chosen.choice(["large", "large_t", "transposed", "plain", "complex_t"])
            data = wanted[name][2]
            at = chosen.randrange(len(data))
            with open(made.path / name, "rb", buffering=0) as file:
                if os.pread(file.fileno(), 200000, at) != data[at:at + 200000]:
                    wrong.append((name, at))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_values_are_metadata(stfs, mount, saved):
    path = saved(SAMPLE)
    wanted = {"epoch": "12", "note": "text", "flag": "true", "none": "null", "nested.lr": "0.5"}
    assert json.loads((mount(path).path / "__metadata__.json").read_text()) == wanted
    info = json.loads(stfs("info", "--json", path).stdout)
    assert info["metadata"] == wanted and info["header_bytes"] == 0
    said = info["files"][0]["checkpoint"]
    assert said["form"] == "zip" and {"name": "tied", "to": "plain"} in said["tied"] and said["leaves"] == 5
    text = stfs("info", path).stdout
    assert "PyTorch checkpoint (zip)" in text and "by a second name" in text and "header" not in text


def test_what_is_not_shown_is_said(stfs, saved):
    path = saved({"q": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "w": torch.ones(3),
                  "rng": b"\0\xff" * 9})
    done = stfs("ls", "--names", path)
    assert done.stdout == "w\n" and '"q" (quantised' in done.stderr
    info = json.loads(stfs("info", "--json", path).stdout)["files"][0]["checkpoint"]
    assert [r["name"] for r in info["refused"]] == ["q"] and [r["name"] for r in info["left_out"]] == ["rng"]
    assert "left out (1)" in stfs("info", path).stdout


def test_the_name_does_not_matter(stfs, tmp_path):
    path = checkpoints.save({"w": torch.arange(3)}, tmp_path / "model.safetensors")
    assert stfs("ls", "--names", path).stdout == "w\n"
    text = tmp_path / "letter.pt"
    text.write_text("(Let me begin: this is no pickle at all, whatever its first byte says.)\n")
    assert "not a safetensors file" in stfs("ls", text, check=False).stderr


def test_outsized(stfs, saved, mount, tmp_path):
    path = saved({"huge": torch.ones(1).expand(1 << 28), "w": torch.ones(2)})
    done = stfs("cat", path, "huge", check=False)
    assert done.returncode == 1 and done.stdout == "" and "--force" in done.stderr
    assert stfs("cat", path, "w", text=False).stdout == checkpoints.raw(torch.ones(2))
    made = mount(path)
    with open(made.path / "huge", "rb", buffering=0) as file:
        assert os.fstat(file.fileno()).st_size == 1 << 30
        assert os.pread(file.fileno(), 100000, (1 << 30) - 100000) == checkpoints.raw(torch.ones(25000))
    head = subprocess.run(f"'{stfs.path}' cat --force '{path}' huge | head -c 40", shell=True, env=stfs.env,
                          stdout=subprocess.PIPE, check=True, timeout=60)
    assert head.stdout == checkpoints.raw(torch.ones(10))


# ---- Never written ----


@pytest.mark.parametrize("args", [
    ["rm", "M", "plain"], ["rm", "-n", "M", "plain"], ["mv", "M", "plain", "x"], ["put", "M", "x=F"],
    ["cp", "M:plain", "M:x"], ["rename", "M", "--prefix", "a=b"], ["metadata", "M", "--set", "a=b"],
    ["compact", "M"], ["rm", "--force", "M", "plain"]])
def test_editing_verbs_refuse(stfs, saved, tmp_path, args):
    path = saved(SAMPLE)
    before = path.read_bytes()
    np.save(tmp_path / "f.npy", np.zeros(3))
    words = [w.replace("M", str(path)) if w in ("M", "M:plain", "M:x") else w.replace("F", str(tmp_path / "f.npy"))
             if w == "x=F" else w for w in args]
    done = stfs(*words, check=False)
    assert done.returncode == 1 and "import-pytorch" in done.stderr, done
    assert path.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"c.pt", "f.npy", "sanitizer"}


def test_mounted_read_only_unless_asked_otherwise(mount, saved):
    path = saved(SAMPLE)
    made = mount(path, mode="")
    assert "mounted read-only" in made.stderr() and "import-pytorch" in made.stderr()
    status = json.loads((made.path / ".stfs").read_text())
    assert status["mode"] == "ro" and "import-pytorch" in status["readonly_because"]
    for action in (lambda: (made.path / "plain").write_bytes(b""), lambda: (made.path / "plain").unlink(),
                   lambda: (made.path / "new").write_bytes(b"x")):
        with pytest.raises(OSError) as caught:
            action()
        assert caught.value.errno == errno.EROFS
    made.unmount()
    for mode in ("rw", "cow", "force"):
        with pytest.raises(MountFailed) as failed:
            mount(path, mode=mode)
        assert "import-pytorch" in str(failed.value)


def test_copied_into_a_model(stfs, saved, tmp_path):
    path, out = saved(SAMPLE), tmp_path / "out.safetensors"
    stfs("cp", path, out, "--create")
    assert models.official_tensors(out) == checkpoints.listing(SAMPLE)
    assert models.read_header(out)[0]["__metadata__"]["epoch"] == "12"


# ---- Several files ----


@pytest.fixture
def in_parts(tmp_path):
    """A folder as transformers writes it, and what it holds."""
    folder = tmp_path / "model"
    folder.mkdir()
    tensors = {f"layer.{i}.w": torch.randn(5, i + 1).t() for i in range(6)}
    weights = {}
    for part in (1, 2):
        file = f"pytorch_model-{part:05}-of-00002.bin"
        torch.save({name: t for i, (name, t) in enumerate(tensors.items()) if i % 2 == part - 1}, folder / file)
        weights.update({name: file for i, name in enumerate(tensors) if i % 2 == part - 1})
    size = sum(t.numel() * 4 for t in tensors.values())
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {"total_size": size}, "weight_map": weights}))
    (folder / "config.json").write_text("{}")
    return folder, checkpoints.listing(tensors)


def test_in_parts(stfs, mount, in_parts):
    folder, wanted = in_parts
    for path in (folder, folder / "pytorch_model.bin.index.json"):
        assert {t["name"] for t in json.loads(stfs("ls", "--json", path).stdout)["tensors"]} == set(wanted)
    made = mount(folder)
    for name, (_, _, data) in wanted.items():
        assert (made.path / name).read_bytes() == data
        assert stfs("cat", folder, name, text=False).stdout == data
    assert stfs("check", folder).returncode == 0
    made.unmount()
    assert "import-pytorch" in stfs("rm", folder, "layer.0.w", check=False).stderr


def test_a_folder_with_both(stfs, in_parts):
    folder, _ = in_parts
    models.write_model(folder / "model.safetensors", {"x": ("U8", [1], None)})
    assert stfs("ls", "--names", folder).stdout == "x\n"
    for file in [*folder.glob("*.safetensors"), *folder.glob("*.index.json")]:
        file.unlink()
    done = stfs("ls", folder, check=False)
    assert done.returncode == 1 and "holds 2 checkpoints and no index" in done.stderr
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    assert len(stfs("ls", "--names", folder).stdout.split()) == 3


# ---- The file changes underneath ----


def read(path):
    """Its bytes, or the errno."""
    try:
        return path.read_bytes()
    except OSError as error:
        return error.errno


def state(made):
    return json.loads((made.path / ".stfs").read_text())["files"][0]["state"]


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_data_is_changed(mount, saved, form):
    """Touched: what is read is what is there."""
    tensors = {"a": torch.zeros(1000), "b": torch.ones(40, 30).t()}
    path = saved(tensors, form=form)
    made = mount(path, "cache=never")
    assert (made.path / "a").read_bytes() == bytes(4000)
    at = path.read_bytes().index(checkpoints.raw(torch.ones(1200)))
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(checkpoints.raw(torch.full((1200,), 2.0)))
    assert (made.path / "b").read_bytes() == checkpoints.raw(torch.full((1200,), 2.0))
    os.utime(path)
    assert (made.path / "a").read_bytes() == bytes(4000)
    assert state(made) == "touched"


@pytest.mark.parametrize("form", ["zip", "zip without CRCs", "legacy"])
def test_the_pickle_is_changed(mount, saved, form):
    """Stale, for ever, even when the old one is put back."""
    torch.serialization.set_crc32_options(form == "zip")
    try:
        path = saved({"alpha": torch.arange(1000), "beta": torch.ones(40, 30).t()}, form=form.split()[0])
    finally:
        torch.serialization.set_crc32_options(True)
    made = mount(path, "cache=never")
    before = path.read_bytes()
    for data in (before.replace(b"alpha", b"gamma", 1), before):
        with open(path, "r+b") as file:
            file.write(data)
        os.utime(path)
        assert read(made.path / "alpha") == read(made.path / "beta") == errno.ESTALE
    assert state(made) == "stale"


def test_the_directory_is_changed(mount, saved):
    path = saved({"a": torch.arange(1000), "b": torch.ones(40, 30).t()})
    made = mount(path, "cache=never")
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\1\2")
    data[at + 16] ^= 1  # a CRC
    with open(path, "r+b") as file:
        file.write(data)
    assert read(made.path / "a") == errno.ESTALE


def test_a_local_header_is_changed(mount, saved):
    """Its padding, shorter: the archive is sound, and its bytes begin elsewhere."""
    path = saved({"a": torch.arange(1000)})
    made = mount(path, "cache=never")
    at = checkpoints.offset_of(path, "data/0")
    with open(path, "r+b") as file:
        data = file.read()
        field = data.rindex(b"PK\3\4", 0, at) + 28
        assert int.from_bytes(data[field:field + 2], "little")
        file.seek(field)
        file.write(bytes(2))
    assert read(made.path / "a") == errno.ESTALE


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_cut_short(mount, saved, form):
    """An error, and no death: a zip archive without its end is no checkpoint any more."""
    tensors = {"a": torch.arange(1000), "b": torch.ones(600, 700), "c": torch.ones(500, 900).t()}
    path = saved(tensors, form=form)
    made = mount(path, "cache=never")
    with contextlib.ExitStack() as stack:
        opened = {name: stack.enter_context(open(made.path / name, "rb", buffering=0)) for name in tensors}
        for size in (path.stat().st_size * 2 // 3, path.stat().st_size // 3, 3000, 0):
            os.truncate(path, size)
            for name, file in opened.items():
                try:  # of several requests the first may still be answered
                    assert checkpoints.raw(tensors[name]).startswith(os.pread(file.fileno(), 1 << 23, 0))
                except OSError as error:
                    assert error.errno in ((errno.EIO, errno.ESTALE) if form == "legacy" else (errno.ESTALE,))
            assert made.ended(0) is None and "a" in os.listdir(made.path)


def test_replaced_by_another(mount, saved, tmp_path):
    """Who renames a new file over it leaves us the old one."""
    path = saved({"a": torch.arange(1000)})
    made = mount(path, "cache=never")
    os.rename(saved({"a": torch.arange(1000) + 1}, "new.pt"), path)
    assert (made.path / "a").read_bytes() == checkpoints.raw(torch.arange(1000))


# ---- Size ----


def anonymous(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) << 10


def test_memory_does_not_follow_the_tensors(mount, saved, daemon_path, stfs):
    skip_if_sanitized(daemon_path)
    path = saved({"a": torch.zeros(16 << 20), "b": torch.zeros(4096, 4096).t()})
    made = mount(path)
    for name in ("a", "b"):
        with open(made.path / name, "rb", buffering=0) as file:
            while file.read(MIB):
                pass
    assert anonymous(made.pid) < 24 * MIB
    code = ("import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")
    for name in ("a", "b"):
        done = subprocess.run([sys.executable, "-c", code, stfs.path, "cat", path, name], env=stfs.env, check=True,
                              capture_output=True, text=True)
        assert int(done.stdout) < 48 << 10


def test_deflated_and_large(stfs, mount, tmp_path):
    """Above what is kept inflated it is read on from where the last read ended."""
    size = 80 * MIB
    path = checkpoints.deflated_zeros(tmp_path / "c.pt", size)
    assert stfs("cat", "--force", path, "w", text=False).stdout == bytes(size)
    with open(mount(path).path / "w", "rb", buffering=0) as file:
        assert file.read(MIB) == bytes(MIB)
        assert os.pread(file.fileno(), 100, size - 50) == bytes(50)


def test_map(stfs, saved):
    """Segments follow each other from 0 to the end; every shown byte is a tensor's."""
    for form in ("zip", "legacy"):
        path = saved(SAMPLE, f"{form}.pt", form)
        file, = json.loads(stfs("map", "--json", path).stdout)["files"]
        at = 0
        for segment in file["segments"]:
            assert segment["begin"] == at < segment["end"]
            at = segment["end"]
        assert at == path.stat().st_size
        assert {s["kind"] for s in file["segments"]} <= {"container", "tensor", "unused"}
        assert file["totals"]["tensor"] > sum(len(data) for _, _, data in checkpoints.listing(
            {k: SAMPLE[k] for k in ("plain", "large", "large_t")}).values())
        assert "container" in stfs("map", path).stdout
        assert stfs("map", "--svg", "-", path).stdout.startswith("<svg")


def test_many_tensors(stfs, saved):
    path = saved({f"t.{i}": torch.tensor([i]) for i in range(20000)})
    begin = time.monotonic()
    found = json.loads(stfs("ls", "--json", path).stdout)
    assert found["count"] == 20000 and time.monotonic() - begin < 10
    digest = hashlib.sha256(stfs("cat", path, "t.19999", text=False).stdout).hexdigest()
    assert digest == hashlib.sha256(checkpoints.raw(torch.tensor([19999]))).hexdigest()
