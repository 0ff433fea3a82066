# SPDX-License-Identifier: MIT
"""stfs edit --batch: many edits in one commit"""
import json
import os
import subprocess

import numpy as np
import pytest

import models
from editing import Unchanged, assert_sharded, refused, sharded_tensors, state, write_sharded


@pytest.fixture
def model(make_model):
    return make_model("m/model.safetensors", {
        name: ("F32", [i + 2], None) for i, name in enumerate(["a", "b", "c", "ema.a", "ema.b", "sp ace"])},
        {"format": "pt", "note": "x"})


@pytest.fixture
def batch(stfs, tmp_path):
    def run(model, text, *args, check=True):
        path = tmp_path / "edits.txt"
        path.write_text(text)
        return stfs("edit", model, "--batch", path, *args, check=check)
    return run


def test_every_kind_of_edit(stfs, batch, model, make_model, tmp_path):
    other = make_model("o/other.safetensors", {"x.1": ("U8", [4], None), "x.2": ("U8", [5], None)})
    np.save(tmp_path / "new one.npy", np.ones((2, 3), "<f4"))
    (tmp_path / "raw").write_bytes(b"12345678")
    before, given = state(model)[0], state(other)[0]
    done = batch(model, f"""# a comment
        rm 'ema.*'                       # and another
        mv a tmp
          mv b a
        mv tmp b                         # swapped

        put "n e w" "{tmp_path}/new one.npy"
        put raw {tmp_path}/raw --dtype U16 --shape 2,2
        put sp\\ ace=raw={tmp_path}/raw --dtype U8 --shape 8
        cp {other}:x.*
        cp {other}:x.1 renamed
        cp :c copy
        rename --sub 's/^x\\./y./' --prefix copy=copied
        metadata --set format=tf --unset note
    """.replace("sp\\ ace=raw=", "sp\\ ace="))
    want = {"a": before["b"], "b": before["a"], "c": before["c"], "copied": before["c"],
            "sp ace": ("U8", [8], b"12345678"), "raw": ("U16", [2, 2], b"12345678"),
            "n e w": ("F32", [2, 3], np.ones(6, "<f4").tobytes()),
            "y.1": given["x.1"], "y.2": given["x.2"], "renamed": given["x.1"]}
    assert state(model) == (want, {"format": "tf"})
    assert "removed 2 tensors" in done.stdout and "renamed 6 tensors" in done.stdout


def test_a_line_sees_those_before_it(batch, model):
    before = state(model)[0]
    batch(model, "mv a z\nrm z\ncp :b d\nmv d e\nrename --sub s/e$/f/ e\n")
    del before["a"]
    assert state(model)[0] == before | {"f": before["b"]}


def test_standard_input(stfs, model):
    stfs("edit", "--batch", "-", model, input="rm a\nrm b")
    assert set(state(model)[0]) == {"c", "ema.a", "ema.b", "sp ace"}


@pytest.mark.parametrize("line, said", [
    ("rm nothing", 'no tensor "nothing"'), ("mv a b", "--replace"), ("frobnicate a", "frobnicate: no such edit"),
    ("ls", "no such edit"), ("create x", "no such edit"), ("rm", "say which"), ("rm 'a", "' is not closed"),
    ('rm "a', '" is not closed'), ("rm a\\", "a backslash stands last"), ("put x /no/such", "No such file"),
    ("rm a --dry-run", "--dry-run"), ("rm a -n", "-n"), ("metadata --edit", "no place in a batch"), ("metadata", "say what"),
    ("cp /no/such.safetensors:x", "No such file"), ("cp x --create", "no place"), ("rename a", "--sub"),
    ("rename --sub s/a/b", "--sub"), ("rename --sub s/^a$/b/", "two tensors"), ("put --shape", "argument"),
    ("metadata --set =\\", "backslash"), ("edit --batch x", "no such edit")])
def test_a_wrong_line_changes_nothing(batch, model, line, said):
    with Unchanged(model.parent):
        done = batch(model, f"rm c\n\n{line}\nrm a\n", check=False)
    assert done.returncode == 1 and done.stdout == "", done
    assert "edits.txt, line 3: " in done.stderr and said in done.stderr and "nothing was changed" in done.stderr


def test_refusals(stfs, batch, model, tmp_path):
    refused(stfs, "edit", model, code=64)
    refused(stfs, "edit", model, "--batch", tmp_path / "none")
    refused(stfs, "edit", model, "rm", "a", code=64)
    with Unchanged(model.parent):
        assert "nothing to change" in batch(model, "# nothing\n\n").stdout
        assert batch(model, "rm a\0b\n", check=False).returncode == 1


def test_dry_run(batch, model):
    with Unchanged(model.parent):
        done = batch(model, "rm a\nmv b z\nmetadata --set k=v\n", "-n", "--json")
    plan = json.loads(done.stdout)
    assert plan["counts"] == {"added": 0, "replaced": 0, "removed": 1, "renamed": 1, "set": 1, "unset": 0}
    assert [e["edit"] for e in plan["edits"]] == ["remove", "rename", "set"]


def test_sharded(batch, tmp_path):
    folder = write_sharded(tmp_path / "s", {
        "m-1.safetensors": {f"layers.{i}.w": ("F32", [64], None) for i in range(4)},
        "m-2.safetensors": {f"layers.{i}.w": ("F32", [64], None) for i in range(4, 8)}}, {"format": "pt"})
    before = sharded_tensors(folder)
    batch(folder, "rm layers.1.w layers.5.w\nrename --sub s/layers/h/\ncp :h.2.w h.2.copy\nmetadata --set k=v\n")
    wanted = {k.replace("layers", "h"): v for k, v in before.items() if k[7] not in "15"}
    assert_sharded(folder, wanted | {"h.2.copy": before["layers.2.w"]})


def test_ten_thousand_puts_within_the_limit_on_files(stfs, model, tmp_path):
    lines, folder = [], tmp_path / "files"
    folder.mkdir()
    for i in range(10_000):
        (folder / str(i)).write_bytes(i.to_bytes(4, "little") * (i % 7))
        lines.append(f"put t.{i} {folder}/{i} --dtype U32 --shape {i % 7}\n")
    for i in range(5):
        (folder / f"big{i}").write_bytes(bytes([i]) * (3 << 20))
        lines.insert(i * 2000, f"put big.{i} {folder}/big{i} --dtype U8 --shape {3 << 20}\n")
    (tmp_path / "edits").write_text("".join(lines))
    done = subprocess.run(["sh", "-c", 'ulimit -n 100; exec "$@"', "sh", stfs.path, "edit", model, "--batch",
                           tmp_path / "edits"], capture_output=True, text=True, env=stfs.env)
    assert done.returncode == 0, done.stderr
    found = state(model)[0]
    assert len(found) == 10_011
    assert all(found[f"t.{i}"] == ("U32", [i % 7], i.to_bytes(4, "little") * (i % 7)) for i in range(10_000))
    assert all(found[f"big.{i}"][2] == bytes([i]) * (3 << 20) for i in range(5))


def test_ten_thousand_edits(stfs, make_model, batch):
    model = make_model("m/many.safetensors", {f"t.{i}": ("U8", [i % 3], None) for i in range(10_000)})
    batch(model, "".join(f"rm t.{i}\n" if i % 2 else f"mv t.{i} u.{i}\n" for i in range(10_000)))
    assert set(state(model)[0]) == {f"u.{i}" for i in range(0, 10_000, 2)}
