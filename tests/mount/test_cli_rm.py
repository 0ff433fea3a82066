# SPDX-License-Identifier: MIT
"""stfs rm, and what every editing verb shares: refusals, dry runs, results, sharded models."""
import fcntl
import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

import models
from editing import (Unchanged, assert_sharded, files, refused, sharded_tensors, state, write_sharded)

ODD = ["\x1b[31mred", "a\nb", "q\"uote", "back\\slash", "nul\0byte", "", "日本", "a[0]", "a0", "*", "-dash",
       "x" * 300, "sp ace", "k=v", "colon:name", "sl/ash", "%41"]


@pytest.fixture
def layers(make_model):
    """layers.N.weight and .bias for some N, of sizes that fill no blocks, and a block-multiple one."""
    return make_model("m/layers.safetensors", {
        f"layers.{i}.{part}": ("F16", [size], None)
        for i in (10, 2, 1) for part, size in (("weight", 2048 * i), ("bias", 3 * i))}, {"format": "pt"})


@pytest.fixture
def odd(make_model):
    return make_model("m/odd.safetensors", {name: ("U8", [i + 1], None) for i, name in enumerate(ODD)})


@pytest.fixture
def sharded(tmp_path):
    return write_sharded(tmp_path / "sharded", {
        "model-00001-of-00002.safetensors": {f"layers.{i}.{p}": ("F32", [64], None)
                                             for i in range(4) for p in ("weight", "bias")},
        "model-00002-of-00002.safetensors": {f"layers.{i}.{p}": ("F32", [64], None)
                                             for i in range(4, 8) for p in ("weight", "bias")},
    }, {"format": "pt"})


def check_valid(stfs, path):
    assert stfs("check", path, check=False).returncode in (0, 1)


def test_one(stfs, layers):
    before, metadata = state(layers)
    done = stfs("rm", layers, "layers.2.weight")
    del before["layers.2.weight"]
    assert state(layers) == (before, metadata)
    assert done.stdout.startswith("removed 1 tensor (8.0 KiB); wrote ") and done.stderr == ""
    check_valid(stfs, layers)
    assert os.listdir(layers.parent) == [layers.name], "nothing is left beside the model"


def test_globs(stfs, layers):
    before, metadata = state(layers)
    stfs("rm", layers, "*.bias", "layers.1.*", "--exclude", "layers.10.*", "--include", "layers.2.weight")
    assert state(layers) == ({k: v for k, v in before.items() if k.startswith("layers.10.")}, metadata)


def test_everything(stfs, layers):
    stfs("rm", layers, "*", "-q")
    assert state(layers) == ({}, {"format": "pt"})
    check_valid(stfs, layers)


@pytest.mark.parametrize("name", [n for n in ODD if "\0" not in n])
def test_names_of_every_kind_mean_themselves_alone(stfs, odd, name):
    before, _ = state(odd)
    stfs("rm", odd, "--", name)
    del before[name]
    assert state(odd)[0] == before


def test_a_name_as_ls_shows_it(stfs, odd):
    before, _ = state(odd)
    stfs("rm", odd, "nul\\x00byte", "a\\x0ab")
    del before["nul\0byte"], before["a\nb"]
    assert state(odd)[0] == before


def test_what_matches_nothing_changes_nothing(stfs, layers):
    said = refused(stfs, "rm", layers, "layers.1.bias", "layers.1.wieght")
    assert 'no tensor "layers.1.wieght" (did you mean "layers.1.weight"' in said
    said = refused(stfs, "rm", layers, "*.bias", "nothing*")
    assert 'no tensor matches "nothing*"' in said
    refused(stfs, "rm", layers, code=64)


def test_dry_run(stfs, layers):
    with Unchanged(layers.parent):
        done = stfs("rm", layers, "*.bias", "--dry-run")
        plan = json.loads(stfs("rm", layers, "*.bias", "-n", "--json").stdout)
    assert done.stdout.startswith("would remove 3 tensors (78 B)\n  remove \"layers.10.bias\" (60 B)\n")
    assert " are free\n" in done.stdout
    assert plan["dry_run"] is True and plan["fits"] is True and plan["counts"]["removed"] == 3
    assert [e["name"] for e in plan["edits"]] == ["layers.10.bias", "layers.2.bias", "layers.1.bias"]
    assert plan["changed"] == 78 and len(plan["files"]) == 1
    result = json.loads(stfs("rm", layers, "*.bias", "--json").stdout)
    assert result["dry_run"] is False and result["counts"] == plan["counts"]
    assert {k: result[k] for k in ("changed", "written", "moved", "header")} == \
        {k: plan[k] for k in ("changed", "written", "moved", "header")}, "the plan is what was done"
    assert "layers.1.bias" not in state(layers)[0]


def test_quiet(stfs, layers):
    assert stfs("rm", layers, "layers.1.bias", "--quiet").stdout == ""


def test_sharded(stfs, sharded):
    before = sharded_tensors(sharded)
    other = files(sharded)["model-00002-of-00002.safetensors"]
    stfs("rm", sharded, "layers.1.*", "layers.2.bias")
    wanted = {k: v for k, v in before.items() if not k.startswith("layers.1.") and k != "layers.2.bias"}
    assert_sharded(sharded, wanted)
    assert files(sharded)["model-00002-of-00002.safetensors"] == other, "what is not concerned is not touched"
    stfs("rm", sharded / "model.safetensors.index.json", "*.bias")
    assert_sharded(sharded, {k: v for k, v in wanted.items() if not k.endswith(".bias")})
    check_valid(stfs, sharded)


def test_sharded_dry_run(stfs, sharded):
    with Unchanged(sharded):
        plan = json.loads(stfs("rm", sharded, "*.bias", "-n", "--json").stdout)
        text = stfs("rm", sharded, "*.bias", "-n").stdout
    assert {f["file"] for f in plan["files"]} == {p.name for p in sharded.iterdir()}
    assert "model.safetensors.index.json: the index is written anew" in text


def test_the_whole_of_a_shard(stfs, sharded):
    before = sharded_tensors(sharded)
    stfs("rm", sharded, *[f"layers.{i}.*" for i in range(4)])
    assert_sharded(sharded, {k: v for k, v in before.items() if int(k.split(".")[1]) >= 4})


# --- what holds a command back ------------------------------------------------------------------


def test_link_into_a_cache(stfs, layers, tmp_path):
    blob = tmp_path / "hub/models--org--name/blobs/abc"
    blob.parent.mkdir(parents=True)
    layers.rename(blob)
    link = tmp_path / "hub/models--org--name/snapshots/1/model.safetensors"
    link.parent.mkdir(parents=True)
    link.symlink_to("../../blobs/abc")
    said = refused(stfs, "rm", link, "*.bias", folder=tmp_path)
    assert "--force" in said
    before = state(blob)[0]
    stfs("rm", link, "*.bias", "--force")
    assert link.is_symlink() and state(blob)[0] == {k: v for k, v in before.items() if "bias" not in k}


def test_hard_links(stfs, layers):
    os.link(layers, layers.parent / "second")
    assert "--force" in refused(stfs, "rm", layers, "*.bias")


def test_read_only_file(stfs, layers):
    layers.chmod(0o444)
    assert "--force" in refused(stfs, "rm", layers, "*.bias")


@pytest.mark.parametrize("how", [fcntl.LOCK_EX, fcntl.LOCK_SH])
def test_locked_model(stfs, layers, how):
    with open(layers, "rb") as held:
        fcntl.flock(held, how)
        assert str(layers) in refused(stfs, "rm", layers, "*.bias")
    stfs("rm", layers, "*.bias")


def test_mounted_model(stfs, mount, layers):
    mount(layers)
    assert str(layers) in refused(stfs, "rm", layers, "*.bias")


def test_refused_models(stfs, make_model, tmp_path):
    hole = make_model("h/hole.safetensors", {"a": ("U8", [4], None)}, tail=b"xx")
    assert "`stfs compact`" in refused(stfs, "rm", hole, "a")
    assert "No such file" in refused(stfs, "rm", tmp_path / "h/none", "a")
    (tmp_path / "h/text").write_text("hello")
    refused(stfs, "rm", tmp_path / "h/text", "a")


def test_options_that_are_none(stfs, layers):
    refused(stfs, "rm", layers, "a", "--readers=kill", code=64)
    refused(stfs, "rm", layers, "a", "--nonsense", code=64)
    with Unchanged(layers.parent):
        assert stfs("rm", check=False).returncode == 64


def test_readers(stfs, layers):
    before, _ = state(layers)
    with open(layers, "rb") as reader:
        old = reader.read()
        stfs("rm", layers, "layers.10.weight")
        reader.seek(0)
        assert reader.read() == old, "who has it open keeps the old model"
        stfs("rm", layers, "layers.2.weight", "--readers=ignore")
    assert state(layers)[0] == {k: v for k, v in before.items()
                                if k not in ("layers.10.weight", "layers.2.weight")}


def test_no_right_to_write(stfs_path):
    """Another user, who may read the model but not write to it."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to run as another user")
    with tempfile.TemporaryDirectory(prefix="stfs-user-") as made:
        folder = pathlib.Path(made)
        folder.chmod(0o755)
        program = shutil.copy(stfs_path, folder / "stfs")
        model = models.write_model(folder / "m.safetensors", {"a": ("U8", [4], None)})
        with Unchanged(folder):
            done = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", program, "rm",
                                   model, "a"], capture_output=True, text=True)
        assert done.returncode == 1 and f"{model}: Permission denied" in done.stderr
