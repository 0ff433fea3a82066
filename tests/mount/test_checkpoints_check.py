# SPDX-License-Identifier: MIT
"""`check` of PyTorch checkpoints: a scanner's answer, and its exit code."""
import argparse
import collections
import json
import os
import pickle
import time

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
    path.write_bytes(b"\x80\x02c\x1b[31mos\x9b\nsys\x07tem\n.")
    done = stfs("check", path, check=False, text=False)
    assert done.returncode == DANGEROUS and b"\x1b" not in done.stdout and b"\x07" not in done.stdout
    done = stfs("check", "--json", path, check=False, text=False)
    assert b"\x1b" not in done.stdout and json.loads(done.stdout)["verdict"] == "dangerous"
