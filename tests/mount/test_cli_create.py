# SPDX-License-Identifier: MIT
"""stfs create"""
import json
import os

import numpy as np
import pytest

import models
from editing import Unchanged, refused, state


@pytest.fixture
def npy(tmp_path):
    def write(name, array):
        np.save(tmp_path / name, array)
        return tmp_path / name
    return write


def test_from_files(stfs, tmp_path, npy):
    out = tmp_path / "out/new.safetensors"
    out.parent.mkdir()
    w, b = np.random.default_rng(0).standard_normal((30, 40)), np.arange(7)
    (tmp_path / "raw").write_bytes(b"abcdef")
    (tmp_path / "raw.json").write_text('{"dtype":"U8","shape":[2,3]}')
    done = stfs("create", out, f"w={npy('w.npy', w)}", f"b={npy('b.npy', b)}", f"r={tmp_path}/raw", "--metadata",
                "format=pt", "--metadata", "k=v=w")
    assert state(out) == ({"w": ("F64", [30, 40], w.tobytes()), "b": ("I64", [7], b.tobytes()),
                           "r": ("U8", [2, 3], b"abcdef")}, {"format": "pt", "k": "v=w"})
    assert done.stdout.startswith("added 3 tensors (")
    assert os.listdir(out.parent) == [out.name]
    assert stfs("check", "-q", out, check=False).returncode == 0
    assert out.stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_empty(stfs, tmp_path):
    stfs("create", tmp_path / "empty.safetensors")
    assert state(tmp_path / "empty.safetensors") == ({}, None)


def test_raw_with_options(stfs, tmp_path):
    (tmp_path / "ids.bin").write_bytes(bytes(range(64)))
    stfs("create", tmp_path / "m/../n.safetensors", f"ids={tmp_path}/ids.bin", "--dtype", "I64", "--shape", "2,4",
         check=False)
    stfs("create", tmp_path / "o.safetensors", f"ids={tmp_path}/ids.bin", "--dtype", "I64", "--shape", "2,4")
    assert state(tmp_path / "o.safetensors")[0] == {"ids": ("I64", [2, 4], bytes(range(64)))}


def test_what_is_there_is_kept(stfs, small_model, tmp_path, npy):
    w = npy("w.npy", np.ones(3, "<f4"))
    assert "--overwrite" in refused(stfs, "create", small_model, f"w={w}")
    with Unchanged(tmp_path):
        stfs("create", small_model, "w=/no/such", "--overwrite", check=False)
    stfs("create", small_model, f"w={w}", "--overwrite")
    assert state(small_model) == ({"w": ("F32", [3], np.ones(3, "<f4").tobytes())}, None)


def test_refusals(stfs, tmp_path, npy):
    w = npy("w.npy", np.ones(3, "<f4"))
    with Unchanged(tmp_path):
        for args, code in ((["n.safetensors", "w"], 64), ([], 64), (["n.safetensors", "--metadata", "k"], 64),
                           (["n.safetensors", "w=/no/such"], 1), (["no/folder/n.safetensors", f"w={w}"], 1),
                           (["n.safetensors", f"__metadata__={w}"], 1), ([".", f"w={w}"], 1),
                           (["n.safetensors", "--from", "/no/such"], 1)):
            done = stfs("create", *args, check=False, cwd=tmp_path)
            assert done.returncode == code and done.stderr.startswith("stfs: "), args


def test_dry_run(stfs, tmp_path, npy):
    w = npy("w.npy", np.ones(3, "<f4"))
    with Unchanged(tmp_path):
        plan = json.loads(stfs("create", tmp_path / "n.safetensors", f"w={w}", "-n", "--json").stdout)
    assert plan["files"][0]["kind"] == "new" and plan["counts"]["added"] == 1


# --- a folder --------------------------------------------------------------------------------------


@pytest.fixture
def odd(make_model):
    """All dtypes, and names that are no file names."""
    return make_model("odd.safetensors", {
        **{f"t.{d}": (d, [3, 8], None) for d in models.BITS},
        **{name: ("F32", [2, 2], None) for name in ("sl/ash", ".dot", "x.json", "y.npy", "", "%", "a\nb", "nul\0",
                                                    "x" * 400, "日本", "tilde~", "__metadata__ ", "..")},
        "empty": ("F32", [0, 3], None), "scalar": ("I64", [], None)}, {"format": "pt", "k": "v\n"})


@pytest.mark.parametrize("view", ["raw", "npy", "both"])
def test_a_mounted_model_copied_out_and_back(stfs, mount, odd, tmp_path, view):
    mounted = mount(odd, f"view={view}")
    out, copy = tmp_path / "back.safetensors", tmp_path / "copy"
    copy.mkdir()
    for name in os.listdir(mounted.path):
        (copy / name).write_bytes((mounted.path / name).read_bytes())
    stfs("create", out, "--from", copy)
    assert state(out) == state(odd)
    stfs("create", tmp_path / "direct.safetensors", "--from", mounted.path)
    assert state(tmp_path / "direct.safetensors") == state(odd)


def test_folder_refusals(stfs, tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "w").write_bytes(b"1234")
    out = tmp_path / "n.safetensors"
    args = ("create", out, "--from", folder)
    assert f"{folder}/w: raw bytes of what" in refused(stfs, *args, folder=tmp_path)
    (folder / "w.json").write_text('{"dtype":"F32","shape":[1]}')
    (folder / "v.json").write_text('{"dtype":"F32","shape":[1]}')
    assert "v.json: a sidecar whose tensor is not there" in refused(stfs, *args, folder=tmp_path)
    (folder / "v.json").unlink()
    (folder / "a%2").write_bytes(b"")
    assert "is no file name of a tensor" in refused(stfs, *args, folder=tmp_path)
    (folder / "a%2").unlink()
    (folder / "__metadata__.json").write_text('{"a":1}')
    assert "__metadata__.json" in refused(stfs, *args, folder=tmp_path)
    (folder / "__metadata__.json").unlink()
    (folder / ".hidden").write_bytes(b"x")
    (folder / "w~").write_bytes(b"x")
    stfs(*args)
    assert state(out)[0] == {"w": ("F32", [1], b"1234")}, "scratch is left out"


def test_many_files(stfs, tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    for i in range(3000):
        (folder / f"t.{i}").write_bytes(i.to_bytes(4, "little"))
        (folder / f"t.{i}.json").write_text('{"dtype":"U32","shape":[1]}')
    stfs("create", tmp_path / "n.safetensors", "--from", folder)
    found = state(tmp_path / "n.safetensors")[0]
    assert len(found) == 3000 and found["t.2999"][2] == (2999).to_bytes(4, "little")
    assert list(models.read_header(tmp_path / "n.safetensors")[0])[:3] == ["t.0", "t.1", "t.2"]
