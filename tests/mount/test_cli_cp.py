# SPDX-License-Identifier: MIT
"""stfs cp"""
import json
import os

import pytest

import models
from editing import Unchanged, assert_sharded, files, refused, sharded_tensors, state, write_sharded


@pytest.fixture
def sd(make_model):
    """A checkpoint of two components."""
    return make_model("m/sd.safetensors", {
        "first_stage_model.encoder.w": ("F16", [30, 3], None),
        "first_stage_model.decoder.w": ("F16", [5000], None),
        "model.unet.w": ("F32", [100, 10], None),
        "model.unet.b": ("F4", [2, 4], None)}, {"format": "pt", "prompt": "x" * 100})


@pytest.fixture
def other(make_model):
    return make_model("m/other.safetensors", {"a": ("U8", [3], None), "b": ("I64", [2], None)}, {"mine": "1"})


def test_into_another(stfs, sd, other):
    source, before = files(sd.parent)["sd.safetensors"], state(other)
    done = stfs("cp", f"{sd}:model.*", other)
    unet = {k: v for k, v in state(sd)[0].items() if k.startswith("model.")}
    assert state(other) == (before[0] | unet, before[1])
    assert files(sd.parent)["sd.safetensors"] == source
    assert "added 2 tensors (3.9 KiB); wrote 3.9 KiB" in done.stdout


def test_under_another_name(stfs, sd, other):
    before = state(other)[0]
    stfs("cp", f"{sd}:model.unet.w", f"{other}:new:name")
    assert state(other)[0] == before | {"new:name": state(sd)[0]["model.unet.w"]}
    stfs("cp", f"{other}:new:name", f"{other}:a", "--replace")
    assert state(other)[0]["a"] == state(sd)[0]["model.unet.w"]
    assert "cannot all be called" in refused(stfs, "cp", f"{sd}:model.*", f"{other}:x", folder=sd.parent)


def test_extract_a_component_and_back(stfs, sd):
    vae = sd.parent / "vae.safetensors"
    before = state(sd)
    stfs("cp", f"{sd}:first_stage_model.*", vae, "--create", "--strip-prefix", "first_stage_model.")
    assert state(vae) == ({k.removeprefix("first_stage_model."): v for k, v in before[0].items()
                           if k.startswith("first")}, before[1])
    stfs("rm", sd, "first_stage_model.*")
    stfs("cp", vae, sd, "--add-prefix", "first_stage_model.")
    assert state(sd) == before
    stfs("cp", vae, sd, "--add-prefix=first_stage_model.", "--replace")
    assert state(sd) == before


def test_create(stfs, sd, other):
    new = sd.parent / "new.safetensors"
    assert "--overwrite" in refused(stfs, "cp", sd, other, "--create", folder=sd.parent)
    assert "--create" in refused(stfs, "cp", sd, new, folder=sd.parent)
    refused(stfs, "cp", sd, new, "--overwrite", folder=sd.parent, code=64)
    stfs("cp", sd, other, new, "--create", "--exclude", "*.w")
    assert set(state(new)[0]) == {"model.unet.b", "a", "b"} and state(new)[1] == state(sd)[1]
    stfs("cp", f"{sd}:*.w", new, "--create", "--overwrite")
    assert state(new)[0] == {k: v for k, v in state(sd)[0].items() if k.endswith(".w")}
    assert stfs("check", "-q", new, check=False).returncode in (0, 1)


def test_within_a_model(stfs, sd):
    before = state(sd)
    stfs("cp", f"{sd}:model.*", sd, "--strip-prefix", "model.", "--add-prefix", "ema.")
    added = {"ema." + k.removeprefix("model."): v for k, v in before[0].items() if k.startswith("model.")}
    assert state(sd) == (before[0] | added, before[1])
    stfs("cp", f"{sd}:first_stage_model.decoder.w", f"{sd}:model.unet.b", "--replace")
    assert state(sd)[0]["model.unet.b"] == before[0]["first_stage_model.decoder.w"]


def test_within_a_model_by_another_path(stfs, sd, tmp_path):
    (tmp_path / "link").symlink_to(sd)
    before = state(sd)[0]
    stfs("cp", f"{tmp_path}/link:model.unet.w", f"{sd}:tied")
    assert state(sd)[0] == before | {"tied": before["model.unet.w"]}


def test_refusals(stfs, sd, other):
    folder = sd.parent
    said = refused(stfs, "cp", f"{sd}:model.unet.x", other, folder=folder)
    assert 'no tensor "model.unet.x" (did you mean' in said and str(sd) in said
    said = refused(stfs, "cp", f"{sd}:model.unet.w", f"{other}:a", folder=folder)
    assert '"a" is there already' in said and "--replace" in said
    said = refused(stfs, "cp", f"{sd}:model.unet.w", f"{sd}:model.unet.w", other, folder=folder)
    assert "two of the tensors" in said
    assert "No such file" in refused(stfs, "cp", f"{folder}/none.safetensors:x", other, folder=folder)
    refused(stfs, "cp", sd, code=64, folder=folder)


def test_paths_with_colons(stfs, sd, make_model):
    odd = make_model("m/a:b:c.safetensors", {"x:y": ("U8", [4], None), "b:c.safetensors": ("U8", [5], None)})
    stfs("cp", f"{odd}:x:y", f"{sd}:n")
    assert state(sd)[0]["n"] == state(odd)[0]["x:y"]
    new = odd.parent / "d:e.safetensors"
    stfs("cp", odd, f"{new}", "--create")
    assert state(new)[0] == state(odd)[0]


def test_dry_run(stfs, sd, other):
    with Unchanged(sd.parent):
        plan = json.loads(stfs("cp", f"{sd}:*.w", other, "-n", "--json").stdout)
        made = json.loads(stfs("cp", sd, sd.parent / "n.safetensors", "--create", "-n", "--json").stdout)
    assert plan["counts"]["added"] == 3 and plan["written"] == sum(e["bytes"] for e in plan["edits"])
    assert made["files"][0]["kind"] == "new" and made["files"][0]["new_bytes"] > 0


def test_sharded(stfs, sd, tmp_path):
    folder = write_sharded(tmp_path / "s", {
        "m-1.safetensors": {f"layers.{i}.w": ("F32", [64], None) for i in range(4)},
        "m-2.safetensors": {f"layers.{i}.w": ("F32", [64], None) for i in range(4, 8)}}, {"format": "pt"})
    before = sharded_tensors(folder)
    stfs("cp", f"{sd}:model.*", folder)
    unet = {k: v for k, v in state(sd)[0].items() if k.startswith("model.")}
    assert_sharded(folder, before | unet)
    stfs("cp", f"{folder}:layers.1.w", f"{folder}:layers.6.w", "--replace")
    assert_sharded(folder, before | unet | {"layers.6.w": before["layers.1.w"]})
    one = tmp_path / "one.safetensors"
    stfs("cp", f"{folder}:layers.*", one, "--create")
    assert state(one) == ({**before, "layers.6.w": before["layers.1.w"]}, {"format": "pt"})


def test_a_truncated_source(stfs, sd, other):
    before, tensors = state(other)[0], state(sd)[0]
    sd.write_bytes(sd.read_bytes()[:-3])
    assert "model.unet.b" in refused(stfs, "cp", f"{sd}:model.unet.b", other, folder=sd.parent)
    stfs("cp", f"{sd}:*.w", other)
    assert state(other)[0] == before | {k: v for k, v in tensors.items() if k.endswith(".w")}


def test_a_source_in_the_cache(stfs, tmp_path):
    """A sharded model as the hub's cache holds it: links to files that are called by their hash."""
    folder = write_sharded(tmp_path / "s", {"m-1.safetensors": {"a": ("U8", [3], None)},
                                            "m-2.safetensors": {"b": ("U8", [4], None)}})
    blobs, snapshot = tmp_path / "models--o--n/blobs", tmp_path / "models--o--n/snapshots/1"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(number))
        (blobs / str(number)).chmod(0o444)
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    out = tmp_path / "out.safetensors"
    stfs("cp", f"{snapshot}:b", out, "--create")
    assert state(out)[0] == {"b": models.official_tensors(blobs / "1")["b"]}
    refused(stfs, "rm", snapshot, "a", folder=tmp_path)


def test_a_source_that_cannot_be_written(stfs, sd, other):
    os.chmod(sd, 0o444)
    with open(sd, "rb"):
        stfs("cp", f"{sd}:model.unet.b", other)
    assert state(other)[0]["model.unet.b"] == state(sd)[0]["model.unet.b"]
