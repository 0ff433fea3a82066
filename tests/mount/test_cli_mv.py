# SPDX-License-Identifier: MIT
"""stfs mv and stfs rename"""
import json
import re

import pytest

import models
from editing import assert_sharded, refused, sharded_tensors, state, write_sharded


@pytest.fixture
def model(make_model):
    return make_model("m/model.safetensors", {
        name: ("F32", [i + 1], None)
        for i, name in enumerate(["h.0.w", "h.0.b", "h.1.w", "h.1.b", "wte", "日本", "nul\0x", ""])}, {"k": "v"}, slack=4096)


def renamed(before, change):
    return {change(name): value for name, value in before.items()}


def test_mv(stfs, model):
    before, metadata = state(model)
    data = model.read_bytes()[models.read_header(model)[1]:]
    done = stfs("mv", model, "wte", "embed.weight")
    assert state(model) == (renamed(before, lambda n: "embed.weight" if n == "wte" else n), metadata)
    assert "renamed 1 tensor" in done.stdout
    assert model.read_bytes().endswith(data), "only the header is written"
    assert list(models.read_header(model)[0]).index("embed.weight") == 5, "it keeps its place"


def test_mv_to_names_of_every_kind(stfs, model):
    for old, new in (("wte", "a\nb"), ("日本", "x" * 4000), ("", "-dash"), ("nul\\x00x", "é\u0301"), ("h.0.w", "")):
        before, metadata = state(model)
        stfs("mv", model, "--", old, new)
        true = old.replace("\\x00", "\0")
        assert state(model) == (renamed(before, lambda n: new if n == true else n), metadata)


def test_mv_onto_another(stfs, model):
    before, metadata = state(model)
    said = refused(stfs, "mv", model, "h.0.w", "h.1.w")
    assert '"h.1.w"' in said and "--replace" in said
    refused(stfs, "mv", model, "h.0.w", "h.1.w", "--force")
    done = stfs("mv", model, "h.0.w", "h.1.w", "--replace")
    before["h.1.w"] = before.pop("h.0.w")
    assert state(model) == (before, metadata) and "removed 1 tensor" in done.stdout


def test_mv_refusals(stfs, model):
    assert 'no tensor "h.0.x" (did you mean' in refused(stfs, "mv", model, "h.0.x", "y")
    assert "already" in refused(stfs, "mv", model, "wte", "wte")
    refused(stfs, "mv", model, "wte", "__metadata__")
    refused(stfs, "mv", model, "wte", b"\xff\xfe")
    refused(stfs, "mv", model, "wte", code=64)
    refused(stfs, "mv", model, "a", "b", "c", code=64)


@pytest.mark.parametrize("rule, change", [
    ("s/^h\\.([0-9]+)/layers.\\1/", lambda n: re.sub(r"^h\.(\d+)", r"layers.\1", n)),
    ("s|\\.|/|g", lambda n: n.replace(".", "/")),
    ("s/W/_/i", lambda n: n.replace("w", "_", 1)),
    ("s/w$/<&>/", lambda n: re.sub("w$", "<w>", n)),
    ("s/w$/\\&\\\\/", lambda n: re.sub("w$", r"&\\", n)),
    ("s,h\\,*,H\\,,", lambda n: re.sub("h", "H,", n)),
    ("s/(h)\\.([01])\\.(.)/\\3.\\2.\\1/", lambda n: re.sub(r"(h)\.([01])\.(.)", r"\3.\2.\1", n)),
    ("s/./<&>/g", lambda n: re.sub("[^\0]", r"<\g<0>>", n)),
    ("s/x*/-/g", lambda n: re.sub("x*", "-", n) if "x" not in n else "-n-u-l-\0-"),
    ("s/^/model./", lambda n: "model." + n),
    ("s/$/!/g", lambda n: n + "!"),
])
def test_sub(stfs, model, rule, change):
    before, metadata = state(model)
    stfs("rename", model, "--sub", rule)
    assert state(model) == (renamed(before, change), metadata)


def test_prefix_and_several_rules(stfs, model):
    before, metadata = state(model)
    done = stfs("rename", model, "--prefix", "h.=layers.", "--sub", "s/w$/weight/", "--sub", "s/b$/bias/", "h.*",
                "--exclude", "h.1.b")
    want = {"h.0.w": "layers.0.weight", "h.0.b": "layers.0.bias", "h.1.w": "layers.1.weight"}
    assert state(model) == (renamed(before, lambda n: want.get(n, n)), metadata)
    assert '  rename "h.0.w" -> "layers.0.weight"\n' in done.stdout
    assert "renamed 3 tensors; wrote 0 B, moved 0 B" in done.stdout


def test_swap(stfs, model):
    before, metadata = state(model)
    stfs("rename", model, "--sub", "s/^h.0/tmp/", "--sub", "s/^h.1/h.0/", "--sub", "s/^tmp/h.1/")
    swap = {"0": "1", "1": "0"}
    assert state(model) == (renamed(before, lambda n: re.sub(r"^h\.([01])", lambda m: "h." + swap[m[1]], n)), metadata)


def test_collisions_are_told_together(stfs, model):
    said = refused(stfs, "rename", model, "--sub", "s/^h.[01]/h.1/")
    assert '"h.1.b", "h.1.w" would be the name of two tensors' in said
    said = refused(stfs, "rename", model, "--sub", "s/^h.0/h.1/", "h.0.*")
    assert '"h.1.b", "h.1.w"' in said


@pytest.mark.parametrize("rule", ["", "s", "s/a", "s/a/b", "s//b/", "y/a/b/", "s/(/b/", "s/a/\\1/", "s/a/b/z", "s/[/b/"])
def test_rules_that_are_none(stfs, model, rule):
    refused(stfs, "rename", model, "--sub", rule, code=64)


def test_rename_refusals(stfs, model):
    assert "no name is changed" in refused(stfs, "rename", model, "--sub", "s/nothing/x/")
    assert "no tensor" in refused(stfs, "rename", model, "--sub", "s/a/b/", "nope.*")
    refused(stfs, "rename", model, code=64)
    refused(stfs, "rename", model, "--prefix", "noequals", code=64)
    refused(stfs, "rename", model, "--sub", "s/^wte$/__metadata__/")


def test_many(stfs, make_model):
    model = make_model("m/many.safetensors", {f"model.layers.{i}.weight": ("U8", [i % 5], None) for i in range(5000)})
    before, _ = state(model)
    done = stfs("rename", model, "--prefix", "model.=")
    assert state(model)[0] == renamed(before, lambda n: n.removeprefix("model."))
    assert "  ... and 4990 more\n" in done.stdout
    plan = json.loads(stfs("rename", model, "--prefix", "layers.=h.", "-n", "--json").stdout)
    assert len(plan["edits"]) == 5000 and plan["edits"][0] == {
        "edit": "rename", "name": "layers.0.weight", "to": "h.0.weight"}


def test_sharded(stfs, tmp_path):
    folder = write_sharded(tmp_path / "s", {
        "a.safetensors": {"h.0.w": ("F32", [4], None), "h.1.w": ("F32", [4], None)},
        "b.safetensors": {"h.2.w": ("F32", [4], None), "top": ("F32", [4], None)}})
    before = sharded_tensors(folder)
    stfs("rename", folder, "--sub", "s/^h/layers/")
    wanted = renamed(before, lambda n: n.replace("h.", "layers."))
    assert_sharded(folder, wanted)
    stfs("mv", folder, "top", "layers.0.w", "--replace")
    wanted["layers.0.w"] = wanted.pop("top")
    assert_sharded(folder, wanted)
