# SPDX-License-Identifier: MIT
"""`check` of PyTorch checkpoints: a scanner's answer, and its exit code."""
import argparse
import collections
import json
import io
import os
import pickle
import struct
import tarfile
import time
import warnings
import zipfile

import pytest
import torch

import checkpoints

CLEAN, DEVIATIONS, REFUSED, UNREADABLE, DANGEROUS = range(5)


class Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.fixture
def saved(tmp_path):
    return lambda checkpoint, name="c.pt", form="zip": checkpoints.save(checkpoint, tmp_path / name, form)


def check(stfs, path, code, *args):
    """What it says of one file, for programs; its exit code is `code`."""
    done = stfs("check", "--json", *args, path, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["verdict"] == ["clean", "deviations", "refused", "unreadable", "dangerous"][code]
    assert stfs("check", "-q", *args, path, check=False).returncode == code
    return said, said["files"][0]


def rules(file):
    return set(file["counts"])


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_clean(stfs, saved, form):
    said, file = check(stfs, saved({"w": torch.ones(3), "t": torch.ones(2, 3).t(), "epoch": 3}, form=form), CLEAN)
    assert file["form"] == form and file["tensors"] == said["tensors"] == 2
    assert file["global_counts"] == {"allowed": len(file["globals"]), "harmless": 0, "refused": 0}
    assert said["official"] is file["official"] is None
    assert {(g["module"], g["name"]) for g in file["globals"]} == {
        ("torch._utils", "_rebuild_tensor_v2"), ("torch", "FloatStorage"), ("collections", "OrderedDict")}


@pytest.mark.parametrize("value", [argparse.Namespace(lr=1), collections.defaultdict(int)])
def test_harmless(stfs, saved, value):
    path = saved({"w": torch.ones(3), "args": value})
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    _, file = check(stfs, path, DEVIATIONS)
    assert "harmless-global" in rules(file) and file["global_counts"]["harmless"] >= 1
    assert stfs("ls", "--names", path).stdout == "w\n"


def test_what_cannot_be_shown(stfs, saved):
    _, file = check(stfs, saved({"q": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)}), DEVIATIONS)
    assert rules(file) == {"refused-tensor"} and file["deviations"][0]["tensor"] == "q"
    _, file = check(stfs, saved({"x": torch.ones(1).expand(1 << 20)}, "x.pt"), DEVIATIONS)
    assert rules(file) == {"outsized-tensor"}


@pytest.mark.parametrize("form", ["zip", "legacy", "raw"])
def test_dangerous(stfs, saved, tmp_path, form):
    """Nothing runs; the global is named with the byte at which it stands."""
    canary = tmp_path / "canary"
    value = {"w": torch.ones(3), "evil": Runs(f"touch '{canary}'")}
    path = tmp_path / "c.pt"
    if form == "raw":
        path.write_bytes(pickle.dumps(Runs(f"touch '{canary}'"), protocol=0))
    else:
        saved(value, form=form)
    _, file = check(stfs, path, DANGEROUS)
    found, = [g for g in file["globals"] if g["verdict"] == "refused"]
    assert found["name"] == "system"
    pickled = dict(checkpoints.entries(path))["c/data.pkl"] if form == "zip" else path.read_bytes()
    assert pickled[found["byte"]:].startswith(f"c{found['module']}\nsystem\n".encode())
    text = stfs("check", path, check=False).stdout
    assert "dangerous" in text and f"{found['module']}.system" in text and "weights_only=False" in text
    for verb in ("ls", "info"):
        done = stfs(verb, path, check=False)
        assert done.returncode == 1 and f"{found['module']}.system" in done.stderr and "stfs check" in done.stderr
    assert stfs("map", path, check=False).returncode == 0
    assert not canary.exists()


@pytest.mark.parametrize("deflated", [False, True])
def test_damaged(stfs, saved, tmp_path, deflated):
    path = saved({"a": torch.arange(50000), "b": torch.arange(9)})
    if deflated:
        path = checkpoints.rewrite(path, tmp_path / "d.pt", method=8)
    data = bytearray(path.read_bytes())
    at = checkpoints.offset_of(path, "data/0") + 30000
    data[at] ^= 0x40
    path.write_bytes(data)
    said, file = check(stfs, path, REFUSED)
    assert rules(file) - {"outsized-tensor"} == {"damaged-storage"} and said["tensors"] == 2
    check(stfs, path, DEVIATIONS if deflated else CLEAN, "--fast")
    assert "get it anew" in stfs("check", path, check=False).stdout


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_cut_short(stfs, saved, form):
    path = saved({"a": torch.arange(50000), "b": torch.arange(9)}, form=form)
    os.truncate(path, 90000)
    said, file = check(stfs, path, REFUSED)
    assert rules(file) == {"checkpoint"} and said["tensors"] == 0


EVIL = b"cevil\nrun\n)R0"  # on no list of what does harm
OF_TORCH = [pickle.dumps(value, 2) for value in (0x1950a86a20f9469cfc6c, 1001, {"little_endian": True})]


def names(file):
    return {f"{g['module']}.{g['name']}" for g in file["globals"] if g["verdict"] == "refused"}


def zipped(*members, **changes):
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", **changes) as archive:
        warnings.simplefilter("ignore")  # a name twice
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, archive.compression)
    return out.getvalue()


def tarred(*members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


SMALL = [("c/data.pkl", b"\x80\x02}."), ("c/version", b"3\n")]
HIDDEN = [("c/data.pkl", b"\x80\x02" + EVIL + b"}."), ("c/version", b"3\n")]
BROKEN = {
    "crc": zipped(*HIDDEN).replace(b"evil", b"live").replace(b"live", b"bad1"),
    "twice": zipped(*HIDDEN, *SMALL),
    "case": zipped(("c/DATA.PKL", HIDDEN[0][1]), *SMALL),
    "no_directory": zipped(*HIDDEN)[:-60],
    "deflated": zipped(*HIDDEN, compression=zipfile.ZIP_DEFLATED)[:-60],
    "other_member": zipped(*SMALL, ("d/other", HIDDEN[0][1]))[:-60],
    "behind_what_is_refused": zipped(("c/data.pkl", b"\x80\x02ctorch\nTensor\n}b" + HIDDEN[0][1][2:]), SMALL[1]),
    "first_opcode_int": b"I1\n0" + OF_TORCH[0][2:] + b"".join(OF_TORCH[1:]) + HIDDEN[0][1],
    "first_opcode_text": b"\x8c\x0100" + OF_TORCH[0][2:] + b"".join(OF_TORCH[1:]) + HIDDEN[0][1],
    "raw_text": b"S'x'\n0" + HIDDEN[0][1][2:],
    "raw_number": b"K\x010" + HIDDEN[0][1][2:],
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 10) + b"X\x08\0\0\0AAAAABBBBBBBB" + EVIL + b"N.",
    "tar": tarred(("pickle", b"\x80\x02}."), ("pickle", HIDDEN[0][1])),
}


@pytest.mark.parametrize("name", BROKEN)
def test_dangerous_though_broken(stfs, tmp_path, name):
    """The rule that it breaks is told, and what others would find in it."""
    path = tmp_path / "c.pt"
    path.write_bytes(BROKEN[name])
    _, file = check(stfs, path, DANGEROUS)
    assert names(file) == {"bad1.run" if name == "crc" else "evil.run"}
    found = [g for g in file["globals"] if g["verdict"] == "refused"]
    assert all(g["searched"] for g in found) and (found[0].get("member") == "c/data.pkl") == (name == "deflated")
    if "member" not in found[0]:
        assert BROKEN[name][found[0]["byte"]:].startswith(b"c" + found[0]["module"].encode() + b"\nrun\n")
    assert {d["level"] for d in file["deviations"]} == {"error"}
    assert stfs("ls", path, check=False).returncode == 1
    assert "run" in stfs("check", path, check=False).stdout


def test_broken_and_not_dangerous(stfs, tmp_path):
    for number, data in enumerate([zipped(*SMALL)[:-60], zipped(*SMALL, *SMALL), b"\x80\x02\xff", b"I1\n", b"hello"]):
        path = tmp_path / f"{number}.pt"
        path.write_bytes(data)
        _, file = check(stfs, path, REFUSED)
        assert not file.get("globals")


def test_a_member_that_torch_does_not_read(stfs, tmp_path):
    path = tmp_path / "c.pt"
    path.write_bytes(zipped(*SMALL, ("d/data.pkl", HIDDEN[0][1])))
    _, file = check(stfs, path, DANGEROUS)
    assert names(file) == {"evil.run"}
    path.write_bytes(zipped(*SMALL, ("c/data/0", HIDDEN[0][1])))
    check(stfs, path, CLEAN)


class Named(pickle.Unpickler):
    """What a pickle wants called; nothing is."""

    def find_class(self, module, name):
        self.named = f"{module}.{name}"
        return dict


def two_formats(path, data):
    """A safetensors file whose length begins as the opcode UNICODE: its text ends at the first newline of `data`."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
    header = header.ljust(0x156)
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def test_a_safetensors_file_that_is_a_pickle(stfs, tmp_path):
    path = two_formats(tmp_path / "m.safetensors", b"\n0" + EVIL + b"N.")
    unpickled = Named(open(path, "rb"))
    unpickled.load()
    assert unpickled.named == "evil.run"
    said, file = check(stfs, path, DANGEROUS)
    assert names(file) == {"evil.run"} and rules(file) - {"unaligned-data"} == {"two-formats"}
    assert said["official"] == "ok" and "form" not in file
    text = stfs("check", path, check=False).stdout
    assert "evil.run" in text and "it is a pickle too" in text and "weights_only=False" in text
    assert stfs("ls", "--names", path).stdout == "w\n"
    path = two_formats(tmp_path / "m.safetensors", b"\n0ctorch\nSize\n)R.")
    assert rules(check(stfs, path, DEVIATIONS)[1]) - {"unaligned-data"} == {"two-formats"}
    path = two_formats(tmp_path / "m.safetensors", b"\n." + bytes(100))
    assert not rules(check(stfs, path, CLEAN)[1]) - {"unaligned-data"}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_safetensors_file_that_is_an_archive(stfs, tmp_path, method):
    path = two_formats(tmp_path / "m.safetensors", bytes(1000) + zipped(*HIDDEN, compression=method))
    assert zipfile.is_zipfile(path)
    _, file = check(stfs, path, DANGEROUS)
    assert names(file) == {"evil.run"} and "two-formats" in rules(file)
    path = two_formats(tmp_path / "m.safetensors", bytes(1000) + zipped(*SMALL))
    assert "two-formats" in rules(check(stfs, path, DEVIATIONS)[1])


def test_several_and_a_folder(stfs, saved, tmp_path):
    clean = saved({"w": torch.ones(3)}, "clean.pt")
    evil = saved({"evil": Runs("true")}, "evil.pt")
    odd = saved({"w": torch.ones(3), "n": argparse.Namespace()}, "odd.pt")
    done = stfs("check", "--json", clean, odd, check=False)
    assert done.returncode == DEVIATIONS and [m["verdict"] for m in json.loads(done.stdout)] == ["clean", "deviations"]
    assert stfs("check", clean, evil, odd, check=False).returncode == DANGEROUS
    assert stfs("check", clean, tmp_path / "absent.pt", check=False).returncode == UNREADABLE
    assert stfs("check", evil, tmp_path / "absent.pt", check=False).returncode == DANGEROUS
    folder = tmp_path / "folder"
    folder.mkdir()
    os.rename(odd, folder / "pytorch_model.bin")
    assert stfs("check", folder, check=False).returncode == DEVIATIONS


def test_a_bomb_is_not_inflated(stfs, tmp_path):
    path = checkpoints.deflated_zeros(tmp_path / "c.pt", 3 << 29)
    begin = time.monotonic()
    _, file = check(stfs, path, DEVIATIONS)
    assert rules(file) == {"outsized-tensor", "unverified-storage"} and time.monotonic() - begin < 5


def test_a_million_globals(stfs, tmp_path):
    """All are judged, and of each verdict so many are listed."""
    path = tmp_path / "c.pkl"
    path.write_bytes(b"\x80\x02" + b"cos\nsystem\n0" * 1000000 + b"ctorch\nSize\n.")
    begin = time.monotonic()
    _, file = check(stfs, path, DANGEROUS)
    assert file["global_counts"] == {"allowed": 1, "harmless": 0, "refused": 1000000}
    assert len(file["globals"]) == 10001
    text = stfs("check", path, check=False).stdout
    assert len(text) < 20000 and "and 999900 more that are refused" in text
    assert time.monotonic() - begin < 20


def test_names_that_a_terminal_would_obey(stfs, tmp_path):
    path = tmp_path / "c.pkl"
    path.write_bytes(b"\x80\x02c\x1b31mos\xc2\x9b\nsys\x07tem\n.")
    done = stfs("check", path, check=False, text=False)
    assert done.returncode == DANGEROUS and b"\x1b" not in done.stdout and b"\x07" not in done.stdout
    done = stfs("check", "--json", path, check=False, text=False)
    assert b"\x1b" not in done.stdout and json.loads(done.stdout)["verdict"] == "dangerous"


@pytest.mark.parametrize("text", [b"color: red\nsize: 3\n", b"col a, b\n1,2\n3,4\n", b"class Foo:\n    pass\n",
                                  b"c\xff\xfe\xfd\n\xff\xfe\nzzz", b"collections\n\xcb\n."])
def test_text_is_no_danger(stfs, tmp_path, text):
    """Though it begins as a global of a pickle does: no module is called so, or CPython cannot decode it."""
    (tmp_path / "t").write_bytes(text)
    done = stfs("check", tmp_path / "t", check=False)
    assert done.returncode == REFUSED and "refused" in done.stdout


@pytest.mark.parametrize("start", [b"", b"N0", b"I1\n0", b"K\x010"])
@pytest.mark.parametrize("names", [rb"V\u006fs\nVsys\u0074em\n", rb"Vos\nVs\u0079stem\n", rb"Vos\nS's\171stem'\n",
                                   rb"VcProfile\nN0Vrun\nN0"])
def test_names_that_are_not_there_as_they_are(stfs, tmp_path, start, names):
    """A pickle without PROTO that CPython runs: its globals are made up of escapes, or something stands between them."""
    (tmp_path / "e").write_bytes(start + names.replace(rb"\n", b"\n") + b"\x93Vtouch\n\x85R.")
    done = stfs("check", tmp_path / "e", check=False)
    assert done.returncode == DANGEROUS, done.stdout
