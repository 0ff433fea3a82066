# SPDX-License-Identifier: MIT
"""The checkpoints of STFS_CORPORA through the verbs and through a mount: what torch reads is read, bit for bit, or
refused with a reason; nothing hangs, and memory is bounded. Without STFS_CORPORA each test is skipped aloud."""
import hashlib
import json
import os
import pathlib
import subprocess
import sys

import pytest

from conftest import MountFailed

TESTS = pathlib.Path(__file__).resolve().parents[1]
SECONDS = 20 * float(os.environ.get("STFS_TEST_SLOWNESS", "1"))
MEMORY = 256 << 10  # KiB, a sanitizer's own included
LARGEST = 64 << 20  # bytes of a tensor that are read: strides of 0 make any number
BY_CAT = 40         # tensors of a file that are read one by one; through the mount all are


def recorded():
    """(file, what is recorded of it, whether it is hostile)"""
    if not os.environ.get("STFS_CORPORA"):
        return [pytest.param(None, None, None, id="absent", marks=pytest.mark.skip(
            reason="STFS_CORPORA is not set: no corpora to judge by"))]
    root = (TESTS.parent / os.environ["STFS_CORPORA"]).resolve()
    found = []
    for corpus in ("checkpoints", "checkpoints/gopickle", "pickles"):
        every = json.loads((root / corpus / "expected.json").read_text())
        for name, want in sorted(every.items()):
            if "same_tensors_as" in want:
                want = dict(want, tensors=every[want["same_tensors_as"]].get("tensors", []))
            found.append(pytest.param(root / corpus / name, want, corpus == "pickles", id=f"{corpus}/{name}"))
    return found


def name_of(path, namesakes):
    """What a path of keys is called; the later of two of a name get a suffix."""
    parts = [repr(key) if isinstance(key, (bool, type(None))) else str(key) for key in path]
    name = ".".join(part.encode("utf-8", "backslashreplace").decode() for part in parts) if path else "tensor"
    name = "__metadata__~2" if name == "__metadata__" else name
    namesakes[name] = namesakes.get(name, 0) + 1
    return name if namesakes[name] == 1 else f"{name}~{namesakes[name]}"


def expected(want):
    """{name: sha256} of the tensors that must be there; None where it is not recorded or sparse."""
    namesakes, found = {}, {}
    for tensor in want.get("tensors", []):
        name = name_of(tensor["path"], namesakes)
        if "layout" not in tensor:
            found[name] = tensor.get("sha256")
    return found


# A program counts the memory of whoever started it as its own: so a small one does.
STARTER = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[2:]).returncode
open(sys.argv[1], "w").write(f"{code} {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss}")
"""


def run(stfs, tmp_path, *args):
    """A CompletedProcess that took neither long nor much memory, whatever its verdict."""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", STARTER, tmp_path / "usage", stfs.path, *args], env=stfs.env,
                          capture_output=True, timeout=SECONDS, check=True)
    done.returncode, memory = map(int, (tmp_path / "usage").read_text().split())
    assert done.returncode >= 0 and memory < MEMORY, f"{memory} KiB: {done.stderr}"
    return done


def may_be_read(want, hostile):
    """Whether torch refuses it only for what we read all the same, or takes what it need not."""
    return want["torch"] == "ok" or hostile or \
        any(word in want["error"] for word in ("Unsupported global", "Unsupported operand"))


def judge_refusal(done, want, hostile):
    assert done.returncode == 1 and not done.stdout
    assert len(done.stderr) > 40, "no reason"
    assert want["torch"] != "ok" or hostile, f"torch reads it: {done.stderr.decode()}"


def listed(stfs, tmp_path, path, want, hostile):
    """What ls says, or None when it refuses, as it should."""
    done = run(stfs, tmp_path, "ls", "--json", path)
    if done.returncode:
        judge_refusal(done, want, hostile)
        return None
    assert may_be_read(want, hostile), want["error"]
    return {t["name"]: t for t in json.loads(done.stdout)["tensors"]}


def sha(data):
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("path, want, hostile", recorded())
def test_verbs(stfs, tmp_path, path, want, hostile):
    found = listed(stfs, tmp_path, path, want, hostile)
    code = run(stfs, tmp_path, "check", "--json", path)
    verdict = json.loads(code.stdout)
    assert code.returncode == ["clean", "deviations", "refused", "unreadable", "dangerous"].index(verdict["verdict"])
    if found is None:
        assert verdict["verdict"] in ("refused", "dangerous")
        return
    assert verdict["verdict"] in ("clean", "deviations") or (hostile and verdict["verdict"] == "refused")
    tensors = expected(want)
    assert set(tensors) <= set(found)
    for name in list(tensors)[:BY_CAT]:
        if found[name]["bytes"] > LARGEST:
            assert run(stfs, tmp_path, "cat", path, name).returncode == 1
            continue
        # No word of a command holds a NUL: as ls shows it.
        done = run(stfs, tmp_path, "cat", "--force", path, name.replace("\0", "\\x00"))
        assert done.returncode == 0 and len(done.stdout) == found[name]["bytes"]
        assert tensors[name] in (None, sha(done.stdout)) or len(tensors[name]) != 64, name


@pytest.mark.parametrize("path, want, hostile", recorded())
def test_mount(stfs, mount, tmp_path, path, want, hostile):
    found = listed(stfs, tmp_path, path, want, hostile)
    if found is None:
        with pytest.raises(MountFailed) as failed:
            mount(path)
        assert str(path) in str(failed.value)
        return
    made, tensors, names = mount(path), expected(want), {}
    for entry in os.scandir(made.path):
        if entry.name.endswith(".json") and entry.name != "__metadata__.json":
            file = entry.name.removesuffix(".json")
            side = json.loads((made.path / entry.name).read_text())
            names[side["name"] if "name" in side else decoded(file)] = file
    assert set(names) == set(found)
    for name, wanted in tensors.items():
        if name not in names or found[name]["bytes"] > LARGEST:
            continue
        data = (made.path / names[name]).read_bytes()
        assert len(data) == found[name]["bytes"]
        assert wanted in (None, sha(data)) or len(wanted) != 64, name


def decoded(file):
    """The name of a tensor behind a file's, without those that are hashed."""
    out, at, raw = b"", 0, os.fsencode(file)
    if file == "%empty":
        return ""
    while at < len(raw):
        if raw[at:at + 1] == b"%":
            out, at = out + bytes([int(raw[at + 1:at + 3], 16)]), at + 3
        else:
            out, at = out + raw[at:at + 1], at + 1
    return out.decode()
