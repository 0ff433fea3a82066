# SPDX-License-Identifier: MIT
"""stfs import-pytorch, import-pytorch-inplace: torch and the official safetensors judge, bit for bit."""
import contextlib
import hashlib
import json
import mmap
import os
import pathlib
import random
import re
import resource
import signal
import subprocess
import tempfile
import time
import zipfile

import pytest
import safetensors.torch
import torch

import filesystems
from conftest import NIGHTLY, SLOW
from editing import Unchanged, state
from test_directory import skip_if_sanitized

MIB = 1 << 20
DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
          torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
          torch.complex64: "C64", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2"}


def raw(tensor):
    """A tensor's bytes, as a safetensors file has them."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def entry(tensor):
    return DTYPES[tensor.dtype], list(tensor.shape), raw(tensor)


def flat(value, prefix=""):
    """{dotted name: what a file has of the tensor}"""
    if isinstance(value, torch.Tensor):
        return {prefix or "tensor": entry(value)}
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    return {name: tensor for key, item in pairs
            for name, tensor in flat(item, f"{prefix}.{key}" if prefix else str(key)).items()}


def everything():
    """A checkpoint of all kinds of tensors and values, from a fixed seed."""
    torch.manual_seed(1)
    base = torch.randn(60, 7)
    tensors = {str(d): torch.randint(0, 2, (3, 5)).to(d) for d in DTYPES if "float8" not in str(d)}
    tensors["f8"] = torch.randn(6, 4).to(torch.float8_e4m3fn)
    tensors["f8b"] = torch.randn(9).to(torch.float8_e5m2)
    return {
        "plain": tensors,
        "views": [base, base[10:20], base.t(), base[:, 2], base[::3, 1::2], base.reshape(-1)[5:6]],
        "odd": {"u": torch.arange(7, dtype=torch.uint8), "h": torch.ones(3, dtype=torch.float16),
                "empty": torch.empty(0, 4), "scalar": torch.tensor(2.5)},
        "wide": torch.randn(4, 3, 8, 8).contiguous(memory_format=torch.channels_last),
        "large": torch.randn(700, 300).t(),
        "epoch": 3, "name": "ä\n", "ratio": 0.1, "none": None, "flags": [True, {"deep": -1}],
    }


def save(value, path, legacy=False):
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    return path


def rewrite(path, change):
    """Writes a zip anew, of what `change` makes of (name, bytes): (name, bytes, method)."""
    with zipfile.ZipFile(path) as old:
        items = [(info.filename, old.read(info)) for info in old.infolist()]
    with zipfile.ZipFile(path, "w") as new:
        for name, data in items:
            name, data, method = change(name, data)
            new.writestr(zipfile.ZipInfo(name), data, method)
    return path


def swap(name, data):
    """Of a checkpoint of 4-byte numbers alone: as a big-endian machine writes it."""
    if name.endswith("byteorder"):
        return name, b"big", zipfile.ZIP_STORED
    if "/data/" in name:
        data = b"".join(data[i:i + 4][::-1] for i in range(0, len(data), 4))
    return name, data, zipfile.ZIP_STORED


def refused(stfs, *args, **given):
    """The message of a verb that fails and leaves nothing."""
    folder = os.path.dirname(args[-1])
    before = sorted(os.listdir(folder))
    done = stfs(*args, check=False, **given)
    assert done.returncode == 1, done
    assert sorted(os.listdir(folder)) == before
    return done.stderr


# ---- import-pytorch ----


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("verb", ["import-pytorch", "import-pytorch-inplace"])
def test_all_kinds(stfs, tmp_path, legacy, verb):
    value = everything()
    path, out = save(value, tmp_path / "c.pt", legacy), tmp_path / "m.safetensors"
    done = stfs(verb, path, out, "--duplicate")
    tensors, metadata = state(out)
    assert tensors == flat(value)
    assert metadata == {"format": "pt", "epoch": "3", "name": "ä\n", "ratio": "0.1", "none": "null",
                        "flags.0": "true", "flags.1.deep": "-1"}
    official = safetensors.torch.load_file(out)
    assert {name: entry(tensor) for name, tensor in official.items()} == tensors
    assert "added" in done.stdout
    stays = ["c.pt"] if verb == "import-pytorch" else []
    assert sorted(os.listdir(tmp_path)) == [*stays, "m.safetensors", "sanitizer"]
    assert stfs("check", "-q", out, check=False).returncode == 0


@pytest.mark.parametrize("verb", ["import-pytorch", "import-pytorch-inplace"])
@pytest.mark.parametrize("change", [swap, lambda name, data: (name, data, zipfile.ZIP_DEFLATED)])
def test_big_endian_and_deflated(stfs, tmp_path, verb, change):
    value = {"a": torch.randn(50, 3), "b": torch.randn(7).t(), "c": torch.randn(40, 30).t(),
             "i": torch.arange(9, dtype=torch.int32)}
    path, out = rewrite(save(value, tmp_path / "c.pt"), change), tmp_path / "m.safetensors"
    stfs(verb, path, out)
    assert state(out)[0] == flat(value)


def test_module_and_tied(stfs, tmp_path):
    torch.manual_seed(2)
    model = torch.nn.TransformerEncoderLayer(16, 2, 32)
    weights = model.state_dict()
    weights["head"] = weights["linear1.weight"]
    weights["again"] = weights["linear1.weight"].view(16, 32)  # the same bytes, another shape: no tie
    out = tmp_path / "m.safetensors"
    stfs("import-pytorch", save(weights, tmp_path / "c.pt"), out)
    tensors, metadata = state(out)
    assert metadata == {"format": "pt", "head": "linear1.weight"}
    assert tensors == {name: tensor for name, tensor in flat(weights).items() if name != "head"}
    # As save_model() tells it.
    safetensors.torch.save_model(torch.nn.ModuleDict({"a": model, "b": model}), tmp_path / "official.safetensors")
    assert state(tmp_path / "official.safetensors")[1]["b.linear1.weight"] == "a.linear1.weight"
    listed = json.loads(stfs("import-pytorch", tmp_path / "c.pt", out, "--overwrite", "--json").stdout)
    assert listed["checkpoint"]["tied"] == [{"name": "head", "text": "linear1.weight"}]
    assert listed["counts"]["added"] == len(tensors)


def test_a_part_of_a_training_run(stfs, tmp_path):
    torch.manual_seed(3)
    weights = {"model.w": torch.randn(5, 5), "model.b": torch.randn(5)}
    value = {"epoch": 1, "state_dict": weights, "optimizer_states": [{"state": {0: {"exp_avg": torch.randn(5, 5)}}}]}
    out = tmp_path / "m.safetensors"
    done = stfs("import-pytorch", save(value, tmp_path / "c.ckpt"), out, "--only", "state_dict.", "--strip-prefix",
                "state_dict.", "--no-metadata")
    assert state(out) == (flat(weights), {"format": "pt"})
    assert "added 2 tensors" in done.stdout
    assert "no name of its tensors begins" in refused(stfs, "import-pytorch", "--only", "weights.", tmp_path / "c.ckpt",
                                                      tmp_path / "n.safetensors")
    # Two that would be called the same.
    save({"a": {"w": torch.ones(1)}, "w": torch.ones(2)}, tmp_path / "two.pt")
    assert 'would be called "w"' in refused(stfs, "import-pytorch", "--strip-prefix", "a.", tmp_path / "two.pt",
                                            tmp_path / "n.safetensors")


def test_refused_tensors_stop_it(stfs, tmp_path):
    value = {"w": torch.ones(3), "q": torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8), "s": {1, 2}}
    path, out = save(value, tmp_path / "c.pt"), tmp_path / "m.safetensors"
    assert "--skip-refused" in refused(stfs, "import-pytorch", path, out)
    done = stfs("import-pytorch", "--skip-refused", path, out)
    assert 'refused "q": quantised' in done.stdout and 'left out "s"' in done.stdout
    assert state(out)[0] == {"w": entry(value["w"])}
    class_file = tmp_path / "evil.pt"
    torch.save({"f": os.system}, class_file)
    assert ".system" in refused(stfs, "import-pytorch", class_file, tmp_path / "n.safetensors")
    class_file.write_bytes(b"<!DOCTYPE html>")
    assert "web page" in refused(stfs, "import-pytorch", class_file, tmp_path / "n.safetensors")


def test_bombs_cost_nothing(stfs, tmp_path):
    value = {"bomb": torch.zeros(1).expand(1 << 30), "w": torch.ones(3)}
    path, out = save(value, tmp_path / "c.pt"), tmp_path / "m.safetensors"
    began = time.monotonic()
    assert "--outsized" in refused(stfs, "import-pytorch", path, out)
    assert time.monotonic() - began < 5 * SLOW
    save({"small": torch.ones(2).repeat(3).as_strided((5 << 20,), (0,))}, path)
    stfs("import-pytorch", "--outsized", path, out)
    assert state(out)[0]["small"][2] == b"\0\0\x80\x3f" * (5 << 20)


@pytest.mark.parametrize("verb", ["import-pytorch", "import-pytorch-inplace"])
def test_damage_is_found(stfs, tmp_path, verb):
    tensor = torch.arange(100000, dtype=torch.int32)
    path, out = save({"w": tensor}, tmp_path / "c.pt"), tmp_path / "m.safetensors"
    data = bytearray(path.read_bytes())
    data[data.index(raw(tensor)[400:800]) + 100] ^= 1
    path.write_bytes(data)
    with Unchanged(tmp_path):
        assert 'CRC of storage "0" is wrong' in refused(stfs, verb, path, out)
    stfs(verb, "--no-verify", path, out)
    assert state(out)[0]["w"][2] != raw(tensor)


def test_what_is_there_is_kept(stfs, tmp_path):
    path, out = save({"w": torch.ones(3)}, tmp_path / "c.pt"), tmp_path / "m.safetensors"
    out.write_bytes(b"something")
    with Unchanged(tmp_path):
        assert "--overwrite" in refused(stfs, "import-pytorch", path, out)
        assert "the checkpoint itself" in refused(stfs, "import-pytorch", "--overwrite", path, path)
        stfs("import-pytorch", "-n", "--overwrite", path, out)
        stfs("import-pytorch-inplace", "-n", path)
        assert "exists" in refused(stfs, "import-pytorch-inplace", path, out)
    for words in (["import-pytorch"], ["import-pytorch", path], ["import-pytorch", path, out, out],
                  ["import-pytorch-inplace"]):
        assert stfs(*words, check=False).returncode == 64
    stfs("import-pytorch", "--overwrite", path, out)
    os.link(path, tmp_path / "other.pt")
    assert "--force" in refused(stfs, "import-pytorch-inplace", path)


def test_metadata_come_back(stfs, make_model, tmp_path):
    """From a model to a checkpoint and back, twice; leaves of a checkpoint, too."""
    metadata = {"format": "np", "": "", "a.b": "1", "a\n'b": "\u00e9" * 3, "long": "x" * 70000, "__metadata__.x": "y"}
    model = make_model("m.safetensors", {"w": ("F32", [2], None)}, metadata)
    path, out = tmp_path / "c.pt", tmp_path / "out.safetensors"
    for _ in range(2):
        stfs("export-pytorch", "-q", "--overwrite", "--metadata", model, path)
        stfs("import-pytorch", "-q", "--overwrite", path, out)
        assert state(out)[1] == metadata
        model = out
    stfs("import-pytorch-inplace", "-q", path)
    assert state(path) == state(out)

    weight = torch.ones(3)
    save({"w": weight, "tied": weight, "epoch": 3, "args": {"lr": 0.1}}, path)
    stfs("import-pytorch", "-q", "--overwrite", path, out)
    first = state(out)
    assert first[1] == {"format": "pt", "tied": "w", "epoch": "3", "args.lr": "0.1"}
    stfs("export-pytorch", "-q", "--overwrite", "--metadata", out, path)
    stfs("import-pytorch", "-q", "--overwrite", path, out)
    assert state(out) == first
    stfs("import-pytorch", "-q", "--overwrite", "--no-metadata", path, out)
    assert state(out)[1] == {"format": "pt"}


def test_metadata_of_the_same_key(stfs, tmp_path):
    weight = torch.ones(3)
    path = save({"w": weight, "tied": weight, "epoch": 3, "__metadata__": {"epoch": "4", "tied": "x", "n": 1}},
                tmp_path / "c.pt")
    done = stfs("import-pytorch", path, tmp_path / "m.safetensors")
    assert state(tmp_path / "m.safetensors")[1] == {"format": "pt", "tied": "w", "epoch": "4", "n": "1"}
    for key in ("epoch", "tied"):
        assert f'left out "{key}": another value has its name in the metadata' in done.stdout


def test_names_that_cannot_be_had(stfs, tmp_path):
    """They are refused before the file is changed."""
    (tmp_path / "here").mkdir()
    path = save({"w": torch.ones(3)}, tmp_path / "here" / "c.pt")
    link = tmp_path / "link.pt"
    link.symlink_to(path)
    with filesystems.mounted("tmpfs", tmp_path, 4 * MIB) as other, Unchanged(tmp_path / "here"):
        for name, why in ((tmp_path / "no" / "m", "No such file"), (path, "exists"), (other / "m", "another file system"),
                          (f"{tmp_path}/here/", "Is a directory|is no name"), (tmp_path / ("n" * 300), "name too long")):
            done = stfs("import-pytorch-inplace", path, name, check=False)
            assert done.returncode == 1 and re.search(why, done.stderr), (name, done)
        assert f"is a link to {path}" in refused(stfs, "import-pytorch-inplace", link, tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()
    stfs("import-pytorch-inplace", link)
    assert link.is_symlink() and state(path)[0] == {"w": entry(torch.ones(3))}


def test_what_others_share_is_guarded(stfs, tmp_path):
    blobs = tmp_path / "models--org--name" / "blobs"
    snapshot = tmp_path / "models--org--name" / "snapshots" / "1"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    save({"w": torch.ones(3)}, blobs / "0123abcd")
    (snapshot / "pytorch_model.bin").symlink_to("../../blobs/0123abcd")
    plain = save({"w": torch.ones(3)}, tmp_path / "plain.pt")
    plain.chmod(0o444)
    for path, why in ((snapshot / "pytorch_model.bin", "is in a cache"), (snapshot, "is in a cache"),
                      (plain, "read-only for its owner")):
        with Unchanged(tmp_path):
            message = refused(stfs, "import-pytorch-inplace", path)
            assert why in message and "--force" in message
    stfs("import-pytorch-inplace", "--force", snapshot / "pytorch_model.bin")
    stfs("import-pytorch-inplace", "--force", plain)
    assert state(plain)[0] == state(snapshot / "pytorch_model.bin")[0] == {"w": entry(torch.ones(3))}


def test_who_has_it_open_keeps_the_old_bytes(stfs, tmp_path):
    value = {"w": torch.randn(700), "t": torch.randn(50, 20).t()}
    path = save(value, tmp_path / "c.pt")
    old = path.read_bytes()
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        stfs("import-pytorch-inplace", path)
        assert mapped[:] == old and file.read() == old
    assert state(path)[0] == flat(value)


@pytest.mark.parametrize("verb", ["import-pytorch", "import-pytorch-inplace"])
def test_another_program_writes_meanwhile(stfs, stfs_path, program_env, tmp_path, verb):
    path, out = save({"w": torch.zeros(16 * MIB)}, tmp_path / "c.pt"), tmp_path / "m.safetensors"
    old = hashlib.sha256(path.read_bytes()).digest()
    child = subprocess.Popen([stfs_path, verb, path, out], env=program_env, stderr=subprocess.PIPE, text=True)
    while child.poll() is None:
        os.utime(path)
    with child:
        message = child.stderr.read()
    assert child.returncode == 1, message
    assert ("wrote to it while it was being read" if verb == "import-pytorch" else "has changed it since") in message
    assert hashlib.sha256(path.read_bytes()).digest() == old and not out.exists()


def test_memory_stays_flat(stfs_path, program_env, tmp_path):
    torch.manual_seed(4)
    path = save({"a": torch.randn(16 * MIB), "b": torch.randn(4096, 4096)}, tmp_path / "c.pt")
    skip_if_sanitized(stfs_path)
    for verb, words in (("import-pytorch", [path, tmp_path / "m.safetensors"]), ("import-pytorch-inplace", [path])):
        subprocess.run([stfs_path, verb, "-q", *words], env=program_env, check=True, preexec_fn=lambda:
                       resource.setrlimit(resource.RLIMIT_DATA, (16 * MIB, 16 * MIB)))


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become another user")
@pytest.mark.parametrize("verb", ["import-pytorch", "import-pytorch-inplace"])
def test_no_second_thread(stfs_path, tmp_path, verb):
    """Where there may be none CRCs are checked all the same."""
    skip_if_sanitized(stfs_path)  # a sanitizer wants threads of its own
    user = 50000 + os.getpid() % 10000

    def alone():
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)

    value = {"a": torch.arange(5000, dtype=torch.int32), "b": torch.ones(3)}
    with tempfile.TemporaryDirectory(prefix="stfs-alone-") as folder:
        os.chown(folder, user, user)
        path, out = save(value, pathlib.Path(folder) / "c.pt"), pathlib.Path(folder) / "m.safetensors"
        os.chown(path, user, user)
        data = path.read_bytes()
        path.write_bytes(data.replace(raw(value["a"])[80:90], bytes(10)))
        with open(stfs_path, "rb") as program:  # its folder may be root's alone
            words = [f"/proc/self/fd/{program.fileno()}", verb, path, out]
            given = {"pass_fds": [program.fileno()], "capture_output": True, "text": True, "preexec_fn": alone}
            assert "CRC of storage" in subprocess.run(words, **given).stderr
            path.write_bytes(data)
            subprocess.run(words, check=True, **given)
        assert state(out)[0] == flat(value)


# ---- Checkpoints in parts ----


def save_parts(folder, parts):
    """A checkpoint in parts as the hub has them; the index."""
    folder.mkdir()
    names = [f"pytorch_model-{i:05}-of-{len(parts):05}.bin" for i in range(1, len(parts) + 1)]
    for name, value in zip(names, parts):
        save(value, folder / name)
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": {
        tensor: name for name, value in zip(names, parts) for tensor in flat(value)}}))
    return index


def test_parts_become_one_model(stfs, tmp_path):
    torch.manual_seed(9)
    shared = torch.randn(4)
    parts = [{"a.w": torch.randn(3, 5), "a.v": torch.randn(6, 4).t(), "step": 1}, {"b.w": shared, "tied": shared},
             {"c.w": torch.arange(5), "step": 2, "__metadata__": {"k": "v"}}]
    index, out = save_parts(tmp_path / "m", parts), tmp_path / "m.safetensors"
    wanted = {name: tensor for part in parts for name, tensor in flat(part).items()}
    for given in (index, index.parent):
        done = stfs("import-pytorch", "--overwrite", given, out)
        tensors, metadata = state(out)
        assert tensors == {name: tensor for name, tensor in wanted.items() if name != "tied"}
        assert metadata == {"format": "pt", "tied": "b.w", "step": "1", "k": "v"}
        assert "added 4 tensors" in done.stdout and 'left out "step": another value' in done.stdout
    stfs("import-pytorch", "-q", "--overwrite", "--duplicate", index, out)
    assert state(out)[0] == wanted
    done = stfs("import-pytorch", "--overwrite", "--only", "c.", "--json", index, out)
    assert state(out)[0] == flat({"c.w": parts[2]["c.w"]}) and json.loads(done.stdout)["checkpoint"]["outside"] == 4
    assert "no name of its tensors" in refused(stfs, "import-pytorch", "--only", "d", index, tmp_path / "n")


def test_parts_that_are_refused(stfs, tmp_path):
    parts = [{"a": torch.zeros(5000)}, {"b": torch.ones(3)}]
    index, out = save_parts(tmp_path / "m", parts), tmp_path / "m.safetensors"
    first, second = (index.parent / f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2))
    with Unchanged(tmp_path):
        for path in (first, second, index):
            assert "the checkpoint itself" in refused(stfs, "import-pytorch", "--overwrite", index, path)
        for given in (index, index.parent):
            assert "none of them can become it" in refused(stfs, "import-pytorch-inplace", given)
    data = bytearray(second.read_bytes())
    save({"b": torch.zeros(1).expand(1 << 26)}, second)
    assert "--outsized" in refused(stfs, "import-pytorch", index, out)
    save({"b": torch.ones(3), "a": torch.ones(2)}, second)
    assert "\"a\"" in refused(stfs, "import-pytorch", index, out)
    second.write_bytes(data.replace(raw(torch.ones(3)), raw(torch.ones(3))[::-1]))
    assert 'CRC of storage "0" is wrong' in refused(stfs, "import-pytorch", index, out)
    safetensors.torch.save_file({"b": torch.ones(3)}, second)
    assert "is no PyTorch checkpoint" in refused(stfs, "import-pytorch", index, out)
    second.unlink()
    assert "00002-of-00002.bin" in refused(stfs, "import-pytorch", index, out)
    second.write_bytes(data)
    (index.parent / f".{first.name}.stfs-journal").write_bytes(b"")
    assert "stfs recover" in refused(stfs, "import-pytorch", index, out)


# ---- The corpora ----


def simple_name(path):
    """The dotted name of what torch has at this path; None where it is changed or shown otherwise."""
    if not path:
        return "tensor"
    plain = all(isinstance(p, (str, int)) and "\ufffd" not in str(p) for p in path)
    return ".".join(map(str, path)) if plain else None


def corpus(corpora, name):
    for folder in (corpora / name, corpora / name / "gopickle"):
        if (folder / "expected.json").exists():
            for file, expected in sorted(json.loads((folder / "expected.json").read_text()).items()):
                yield folder / file, expected


def agrees(tensors, expected):
    """What differs from torch's tensors: names where they are simple, bytes in any case."""
    names = [simple_name(tensor["path"]) for tensor in expected["tensors"]]
    found = {hashlib.sha256(data).hexdigest() for _, _, data in tensors.values()}
    for tensor in expected["tensors"]:
        name = simple_name(tensor["path"])
        if "sha256" not in tensor:
            continue
        if tensor["sha256"] not in found:
            yield f"{tensor['path']} is missing"
        elif name in tensors and names.count(name) == 1 and \
                hashlib.sha256(tensors[name][2]).hexdigest() != tensor["sha256"]:
            yield f"{name} has other bytes"


def test_everything_that_torch_loads(stfs, corpora, tmp_path):
    out, copy, wrong, count = tmp_path / "m.safetensors", tmp_path / "copy.pt", [], 0
    for path, expected in corpus(corpora, "checkpoints"):
        done = stfs("import-pytorch", "-q", "--overwrite", "--duplicate", "--skip-refused", path, out, check=False)
        if expected["torch"] != "ok":
            continue
        if done.returncode:
            wrong.append(f"{path.name}: {done.stderr}")
            continue
        count += 1
        refused_ones = [t for t in expected["tensors"] if "sha256" not in t or t["dtype"].startswith("torch.q")]
        if not refused_ones:
            wrong += [f"{path.name}: {what}" for what in agrees(state(out)[0], expected)]
        copy.write_bytes(path.read_bytes())
        stfs("import-pytorch-inplace", "-q", "--duplicate", "--skip-refused", copy)
        if state(copy) != state(out):
            wrong.append(f"{path.name}: another model in place")
    assert not wrong, "\n".join(wrong)
    assert count > 50


def test_hostile_files(stfs, corpora, tmp_path):
    out, wrong = tmp_path / "m.safetensors", []
    for path, expected in corpus(corpora, "pickles"):
        began = time.monotonic()
        done = stfs("import-pytorch", "-q", "--overwrite", path, out, check=False)
        if time.monotonic() - began > 5 * SLOW:
            wrong.append(f"{path.name}: {time.monotonic() - began:.1f} s")
        if done.returncode not in (0, 1):
            wrong.append(f"{path.name}: {done}")
        if done.returncode == 0 and expected["torch"] == "ok":
            wrong += [f"{path.name}: {what}" for what in agrees({**state(out)[0], **tied(out)}, expected)]
        copy = tmp_path / "copy.pt"
        copy.write_bytes(path.read_bytes())
        again = stfs("import-pytorch-inplace", "-q", copy, check=False)
        if (again.returncode == 0) != (done.returncode == 0):
            wrong.append(f"{path.name}: in place {again.stderr}, else {done.stderr}")
        if again.returncode and copy.read_bytes() != path.read_bytes():
            wrong.append(f"{path.name}: changed though it was refused")
    assert not wrong, "\n".join(wrong)


def tied(out):
    """Tied tensors under the names that were dropped."""
    tensors, metadata = state(out)
    return {name: tensors[kept] for name, kept in metadata.items() if kept in tensors}


# ---- In place ----


def big(seed, mib):
    """A checkpoint of some size, with small, odd and transposed ones among its tensors."""
    torch.manual_seed(seed)
    value = {f"layer.{i}.weight": torch.randint(-9999, 9999, (mib * MIB // 16 + 37 * i,), dtype=torch.int16)
             for i in range(8)}
    value.update({f"layer.{i}.steps": torch.tensor(i) for i in range(8)})
    value["bias"] = torch.randn(11)
    value["turned"] = torch.randn(120, 90).t()
    return value


def fill(folder, left):
    """Takes all room but so many bytes."""
    filesystems.run("sync", "-f", folder)
    space = os.statvfs(folder)
    rest = space.f_bavail * space.f_frsize - left
    if rest > 0:
        with open(folder / "filler", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, rest)
            os.fsync(file.fileno())


@pytest.mark.parametrize("kind", filesystems.KINDS)
@pytest.mark.parametrize("room", [True, False])
def test_in_place_on_file_systems(stfs, tmp_path, kind, room):
    value = big(5, 48)
    with filesystems.mounted(kind, tmp_path, 400 * MIB) as folder:
        path = save(value, folder / "c.pt")
        if not room and kind == "btrfs":  # what is overwritten needs new room there
            fill(folder, 12 * MIB)
            with Unchanged(folder):
                assert "are free" in refused(stfs, "import-pytorch-inplace", path)
            return
        if not room:
            fill(folder, 12 * MIB)
        plan = json.loads(stfs("import-pytorch-inplace", "-n", "--json", path).stdout)
        assert plan["fits"] and (room or plan["files"][0]["kind"] == "in-place")
        stfs("import-pytorch-inplace", path)
        assert state(path)[0] == flat(value)
        assert [name for name in os.listdir(folder) if name.startswith(".c.pt")] == []


def test_no_room_to_assemble(stfs, tmp_path):
    torch.manual_seed(6)
    with filesystems.mounted("tmpfs", tmp_path, 100 * MIB) as folder:
        path = save({"turned": torch.randn(2048, 2048).t(), "w": torch.ones(5)}, folder / "c.pt")
        fill(folder, 8 * MIB)
        with Unchanged(folder):
            message = refused(stfs, "import-pytorch-inplace", path)
        assert "needs" in message and "are free" in message


def journal_of(path):
    return path.parent / f".{path.name}.stfs-journal"


def loads(load, path):
    """The tensors that a loader gives; None when it refuses."""
    try:
        return flat(load(path))
    except Exception:
        return None


@pytest.mark.parametrize("kind", ["ext4", "xfs", "tmpfs"])
def test_killed_in_the_middle(stfs, stfs_path, program_env, tmp_path, kind):
    value, seen = big(7, 64), {"old": 0, "new": 0, "between": 0}
    # What looks for leaks at the end complains when it is killed with the rest.
    killed = dict(program_env, ASAN_OPTIONS=program_env["ASAN_OPTIONS"] + ":detect_leaks=0")
    want = flat(value)
    chance = random.Random(7)
    with filesystems.mounted(kind, tmp_path, 400 * MIB) as folder:
        path = save(value, folder / "c.pt")
        old = tmp_path / "old.pt"
        old.write_bytes(path.read_bytes())
        fill(folder, 6 * MIB)
        took = 0.5
        for trial in range(40 if NIGHTLY else 12):
            began = time.monotonic()
            child = subprocess.Popen([stfs_path, "import-pytorch-inplace", "-q", "--no-verify", path], env=killed)
            if trial:
                time.sleep(took * chance.random())
                with contextlib.suppress(ProcessLookupError):
                    child.send_signal(signal.SIGKILL)
            child.wait()
            if not trial:
                took = time.monotonic() - began
            interrupted = journal_of(path).exists()
            for load in (torch.load, safetensors.torch.load_file):
                assert loads(load, path) in (None, want), "a loader got other tensors"
            if interrupted:
                assert "stfs recover" in stfs("import-pytorch", path, tmp_path / "x", check=False).stderr
                assert "stfs recover" in stfs("import-pytorch-inplace", path, check=False).stderr
                stfs("recover", path)
            if path.read_bytes() == old.read_bytes():
                seen["old"] += 1
            else:
                assert state(path)[0] == want
                seen["between" if interrupted else "new"] += 1
                with open(path, "r+b") as file:  # the old one again, in the room that it has
                    file.write(old.read_bytes())
                    file.truncate()
                    os.fsync(file.fileno())
            assert [name for name in os.listdir(folder) if name.startswith(".c.pt") and "new" not in name] == []
    assert seen["new"] and sum(seen.values()) > 10, seen


def test_torch_refuses_it_half_way(stfs, tmp_path, stfs_path, program_env):
    """Cut off right behind each fsync of a slide, by strace: no loader gives other tensors."""
    if subprocess.run(["strace", "-V"], capture_output=True).returncode:
        pytest.skip("no strace")
    value = big(8, 2)
    want = flat(value)
    with filesystems.mounted("tmpfs", tmp_path, 16 * MIB) as folder:
        path = save(value, folder / "c.pt")
        old = path.read_bytes()
        fill(folder, MIB)
        for number in range(1, 40):
            done = subprocess.run(["strace", "-f", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e",
                                   f"inject=fsync,fdatasync:signal=KILL:when={number}", stfs_path,
                                   "import-pytorch-inplace", "-q", path], env=program_env, capture_output=True)
            for load in (torch.load, safetensors.torch.load_file):
                assert loads(load, path) in (None, want), number
            stfs("recover", path)
            assert path.read_bytes() == old or state(path)[0] == want
            path.write_bytes(old)
            if done.returncode == 0:
                break
        assert number > 5
