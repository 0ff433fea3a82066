# SPDX-License-Identifier: MIT
"""stfs info"""
import json

import models


def info(stfs, model):
    return json.loads(stfs("info", "--json", model).stdout)


def test_numbers(stfs, all_dtypes_model):
    found = info(stfs, all_dtypes_model)
    tensors = models.official_tensors(all_dtypes_model)
    _, start = models.read_header(all_dtypes_model)
    assert found["tensors"] == 22 and found["parameters"] == 22 * 24
    assert found["bytes"] == sum(len(data) for _, _, data in tensors.values())
    assert found["size"] == all_dtypes_model.stat().st_size == found["header_bytes"] + found["bytes"]
    assert found["header_bytes"] == start
    assert found["tolerant"] is False and found["sharded"] is False
    assert {k: v["bytes"] for k, v in found["dtypes"].items()} == \
        {d: models.nbytes(d, [3, 8]) for d in models.BITS}
    assert found["metadata"] is None


def test_for_people(stfs, small_model):
    out = stfs("info", small_model).stdout
    for word in ("tensors     3", "281", "embed.weight", "[32,8]", "BF16", "format  pt"):
        assert word in out


def test_largest(stfs, small_model):
    assert [t["name"] for t in info(stfs, small_model)["largest"]] == ["embed.weight", "layer.0.bias", "steps"]


def test_slack_and_alignment(stfs, make_model):
    model = make_model("odd.safetensors", {"a": ("F32", [2], None)}, align=1,
                       header='{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}} ')
    found = info(stfs, model)
    assert found["slack"] == 1 and found["alignment"] == (8 + 55) & -(8 + 55)
    assert found["unaligned"] == 1
    assert info(stfs, make_model("s.safetensors", {"a": ("F32", [2], None)}, slack=4096))["slack"] >= 4096


def test_metadata_in_full_for_programs(stfs, make_model):
    metadata = {"format": "pt", "long": "x\n" * 5000, "": "empty", "nul\0key": "\0\x1b[31m\x9b", "ü": "\u202e"}
    model = make_model("m.safetensors", {"a": ("U8", [1], None)}, metadata)
    assert info(stfs, model)["metadata"] == metadata
    out = stfs("info", model).stdout
    assert "\x1b" not in out and "\x9b" not in out and "\u202e" not in out and "(10000 bytes)" in out
    assert all(len(line) < 200 for line in out.splitlines())


def test_empty_model(stfs, make_model):
    model = make_model("none.safetensors", {})
    assert info(stfs, model)["tensors"] == 0
    assert "tensors     0" in stfs("info", model).stdout


def test_sharded(stfs, sharded_model):
    for path in sharded_model, next(sharded_model.glob("*.index.json")):
        found = info(stfs, path)
        files = models.shards(sharded_model)
        assert found["sharded"] and [f["file"] for f in found["files"]] == [f.name for f in files]
        assert found["total_size"] == found["bytes"]
        assert found["size"] == sum(f.stat().st_size for f in files)
    assert f"shards      {len(files)}, total_size" in stfs("info", sharded_model).stdout


def test_tolerant(stfs, small_model):
    small_model.write_bytes(small_model.read_bytes()[:-1])
    done = stfs("info", "--json", small_model)
    assert json.loads(done.stdout)["tolerant"] is True and json.loads(done.stdout)["tensors"] == 2
    assert done.stderr.count("\n") == 1 and "the official loader refuses" in done.stderr


def test_refused(stfs, small_model):
    small_model.write_bytes(b"\xff" * 100)
    done = stfs("info", small_model, check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert "rule header-too-large" in done.stderr and "stfs check" in done.stderr
