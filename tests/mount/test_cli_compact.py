# SPDX-License-Identifier: MIT
"""stfs compact and stfs recover"""
import json
import os

import pytest

import models
from editing import Unchanged, refused, state, write_sharded


def write_holes(path):
    """A model with a hole before, between and behind its tensors, which the official loader refuses."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
                         "b": {"dtype": "U8", "shape": [3], "data_offsets": [20, 23]}}).encode()
    header += b" " * (-len(header) % 8)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"----AAAABBBB--------ccc-----")
    return path


def test_holes(stfs, tmp_path):
    model = write_holes(tmp_path / "m/holes.safetensors")
    assert stfs("check", model, check=False).returncode == 2 or stfs("check", model, check=False).returncode == 3
    assert "`stfs compact`" in refused(stfs, "rm", model, "a")
    with Unchanged(model.parent):
        stfs("compact", model, "--dry-run")
    stfs("compact", model)
    assert state(model)[0] == {"a": ("F32", [2], b"AAAABBBB"), "b": ("U8", [3], b"ccc")}
    assert stfs("check", model, check=False).returncode == 0
    stfs("rm", model, "a")


def test_alignment_and_slack(stfs, make_model):
    model = make_model("m/m.safetensors", {"odd": ("U8", [3], None), "w": ("F64", [100], None)}, slack=10_000)
    before, size = state(model), model.stat().st_size
    assert "unaligned" in stfs("check", "--json", model, check=False).stdout
    stfs("compact", model)
    assert state(model) == before and model.stat().st_size <= size - 9000
    assert "unaligned" not in stfs("check", "--json", model).stdout


def test_again_is_nothing(stfs, make_model):
    model = make_model("m/m.safetensors", {"w": ("F64", [100], None)}, slack=100)
    stfs("compact", model)
    with Unchanged(model.parent):
        stfs("compact", model)


def zeros_model(make_model, path="m/zeros.safetensors"):
    data = os.urandom(5000) + bytes(1 << 20) + os.urandom(9000) + bytes(300_000)
    return make_model(path, {"first": ("U8", [777], None), "pruned": ("U8", [len(data)], data),
                             "second": ("U8", [1 << 18], bytes(1 << 18)), "last": ("F32", [10], None)})


def test_punch_zeros(stfs, make_model):
    model = zeros_model(make_model)
    blocks, before = model.stat().st_blocks, state(model)
    with Unchanged(model.parent):
        plan = json.loads(stfs("compact", "--punch-zeros", "-n", "--json", model).stdout)
    assert model.stat().st_blocks == blocks
    done = json.loads(stfs("compact", "--punch-zeros", "--json", model).stdout)
    freed = (blocks - model.stat().st_blocks) * 512
    assert state(model) == before
    assert done["deallocated"] >= (1 << 20) + 500_000 and abs(plan["deallocated"] - done["deallocated"]) <= 16384
    assert freed > 1_000_000
    again = json.loads(stfs("compact", "--punch-zeros", "--json", model).stdout)
    assert again["deallocated"] <= 16384 and state(model) == before, "holes are not looked at again"
    assert "deallocated" in stfs("compact", "--punch-zeros", model).stdout


def test_sharded(stfs, tmp_path):
    folder = write_sharded(tmp_path / "s", {"a.safetensors": {"x": ("U8", [1], None), "y": ("F32", [8], None)},
                                            "b.safetensors": {"z": ("U8", [200_000], bytes(200_000))}})
    before = [state(folder / "a.safetensors"), state(folder / "b.safetensors")]
    stfs("compact", folder, "--punch-zeros")
    assert [state(folder / "a.safetensors"), state(folder / "b.safetensors")] == before
    assert (folder / "b.safetensors").stat().st_blocks * 512 < 100_000


def test_truncated(stfs, small_model):
    small_model.write_bytes(small_model.read_bytes()[:-3])
    refused(stfs, "compact", small_model)
    assert "stfs cp" in refused(stfs, "rm", small_model, "steps")


def test_usage(stfs):
    assert stfs("compact", check=False).returncode == 64
    assert stfs("recover", check=False).returncode == 64


def test_recover_of_a_healthy_model(stfs, small_model, tmp_path):
    with Unchanged(small_model.parent):
        assert stfs("recover", small_model).stdout == "nothing to recover\n"
        assert json.loads(stfs("recover", "--json", small_model).stdout)["recovered"] == "nothing"
        assert stfs("recover", "-q", small_model).stdout == ""
        done = stfs("recover", tmp_path / "none", check=False)
    assert done.returncode == 1 and "No such file" in done.stderr
