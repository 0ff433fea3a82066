# SPDX-License-Identifier: MIT
"""stfs metadata"""
import json
import os

import pytest

import models
import terminal
from editing import Unchanged, refused, state, write_sharded

WORKFLOW = json.dumps({"nodes": list(range(300)), "text": "line\nbreak \"quoted\" \u00e9"})


@pytest.fixture
def model(make_model):
    return make_model("m/model.safetensors", {"w": ("F32", [8], None)}, {
        "format": "pt", "prompt": WORKFLOW, "evil": "\x1b[31mred\x07", "": "empty key"}, slack=4096)


def test_show(stfs, model):
    with Unchanged(model.parent):
        text = stfs("metadata", model).stdout
        found = json.loads(stfs("metadata", model, "--json").stdout)
    assert found == state(model)[1]
    assert "format" in text and "\\x1b[31mred" in text and "\x1b" not in text
    assert len(text.splitlines()) == 4 and f"({len(WORKFLOW.encode())} bytes" in text


def test_show_none(stfs, make_model):
    model = make_model("n.safetensors", {"w": ("F32", [8], None)})
    assert stfs("metadata", model).stdout == ""
    assert json.loads(stfs("metadata", model, "--json").stdout) == {}


def test_get(stfs, model):
    assert stfs("metadata", model, "--get", "prompt").stdout == WORKFLOW
    assert stfs("metadata", model, "--get", "evil").stdout == "\x1b[31mred\x07"
    assert stfs("metadata", model, "--get", "").stdout == "empty key"
    assert json.loads(stfs("metadata", model, "--get", "prompt", "--json").stdout) == WORKFLOW
    code, out, _ = terminal.run([stfs.path, "metadata", model, "--get", "evil"], env=stfs.env)
    assert code == 0 and out == b"\\x1b[31mred\\x07\n"
    done = stfs("metadata", model, "--get", "fromat", check=False)
    assert done.returncode == 1 and 'no metadata "fromat" (did you mean "format"' in done.stderr


def test_set(stfs, model):
    tensors, metadata = state(model)
    data = model.read_bytes()[models.read_header(model)[1]:]
    done = stfs("metadata", model, "--set", "format=tf", "--set", "a=b=c", "--set", "empty=", "--set", "é=日本\n")
    wanted = metadata | {"format": "tf", "a": "b=c", "empty": "", "é": "日本\n"}
    assert state(model) == (tensors, wanted)
    assert list(state(model)[1]) == list(wanted), "keys keep their order"
    assert model.read_bytes().endswith(data) and "set 4 metadata keys; wrote 0 B" in done.stdout


def test_set_from_files(stfs, model, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("# A model\n" * 2000)
    stfs("metadata", model, "--set", f"readme=@{readme}", "--set", "at=@@home", "--set", "in=@-", input="typed")
    found = state(model)[1]
    assert (found["readme"], found["at"], found["in"]) == (readme.read_text(), "@home", "typed")
    assert "No such file" in refused(stfs, "metadata", model, "--set", "x=@/no/such")
    (tmp_path / "binary").write_bytes(b"ab\xff")
    assert "byte 2" in refused(stfs, "metadata", model, "--set", f"x=@{tmp_path}/binary")


def test_add_format(stfs, make_model):
    model = make_model("n.safetensors", {"w": ("F32", [8], None)})
    stfs("metadata", model, "--set", "format=pt")
    assert state(model)[1] == {"format": "pt"}


def test_unset_and_clear(stfs, model):
    tensors, metadata = state(model)
    stfs("metadata", model, "--unset", "prompt", "--unset", "")
    assert state(model) == (tensors, {"format": "pt", "evil": "\x1b[31mred\x07"})
    assert 'did you mean "format"' in refused(stfs, "metadata", model, "--unset", "formt", "--set", "a=b")
    stfs("metadata", model, "--clear", "--set", "only=this")
    assert state(model) == (tensors, {"only": "this"})
    stfs("metadata", model, "--set", "x=y", "--clear")
    assert state(model) == (tensors, None), "an empty object is not written"


def test_nothing_to_change(stfs, model):
    stfs("metadata", model, "--clear")
    with Unchanged(model.parent):
        assert "nothing to change" in stfs("metadata", model, "--clear").stdout


def test_dry_run(stfs, model):
    with Unchanged(model.parent):
        plan = json.loads(stfs("metadata", model, "--set", "a=b", "-n", "--json").stdout)
    assert plan["counts"]["set"] == 1 and plan["edits"] == [{"edit": "set", "key": "a"}]


def editor(tmp_path, script):
    path = tmp_path / "editor"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {"EDITOR": str(path), "VISUAL": "", "TMPDIR": str(tmp_path)}


def test_edit(stfs, model, tmp_path):
    tensors, metadata = state(model)
    stfs("metadata", model, "--edit", env=editor(tmp_path, """sed -i 's/"pt"/"np"/' "$1" """))
    assert state(model) == (tensors, metadata | {"format": "np"})
    stfs("metadata", model, "--edit", env=editor(tmp_path, """printf '{"k":"v"}' > "$1" """))
    assert state(model) == (tensors, {"k": "v"})
    assert not list(tmp_path.glob("metadata-*")), "the text is gone when it was taken"


def test_edit_unchanged(stfs, model, tmp_path):
    with Unchanged(model.parent):
        assert "nothing to change" in stfs("metadata", model, "--edit", env=editor(tmp_path, "true")).stdout


@pytest.mark.parametrize("text", ['{"a":1}', '{"a":"b"', "", "[]", '{"a":"1","a":"2"}', '{"a":{}}'])
def test_edit_to_what_does_not_parse(stfs, model, tmp_path, text):
    with Unchanged(model.parent):
        done = stfs("metadata", model, "--edit", check=False, env=editor(tmp_path, f"printf '%s' '{text}' > \"$1\""))
    kept, = tmp_path.glob("metadata-*")
    assert done.returncode == 1 and str(kept) in done.stderr and kept.read_text() == text


def test_edit_that_fails(stfs, model, tmp_path):
    with Unchanged(model.parent):
        done = stfs("metadata", model, "--edit", check=False, env=editor(tmp_path, "exit 3"))
    assert done.returncode == 1 and "nothing was changed" in done.stderr


def test_refusals(stfs, model):
    for args in (["--set", "novalue"], ["--get", "a", "--set", "a=b"], ["more"]):
        refused(stfs, "metadata", model, *args, code=64)
    model.chmod(0o444)
    assert stfs("metadata", model, "--get", "format").stdout == "pt", "reading needs no right to write"
    refused(stfs, "metadata", model, "--set", "a=b")


def test_sharded(stfs, tmp_path):
    folder = write_sharded(tmp_path / "s", {"a.safetensors": {"x": ("U8", [1], None)},
                                            "b.safetensors": {"y": ("U8", [2], None)}}, {"format": "pt", "old": "1"})
    index = (folder / "model.safetensors.index.json").read_bytes()
    stfs("metadata", folder, "--set", "new=2", "--unset", "old")
    for file in ("a", "b"):
        assert state(folder / f"{file}.safetensors")[1] == {"format": "pt", "new": "2"}
    assert (folder / "model.safetensors.index.json").read_bytes() == index
    assert os.listdir(folder).sort() == ["a.safetensors", "b.safetensors", "model.safetensors.index.json"].sort()
