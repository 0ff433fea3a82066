# SPDX-License-Identifier: MIT
"""stfs check: verdicts, reports, exit codes. (The corpora are judged in test_corpora.py.)"""
import json
import shutil

import pytest

import models

ENTRY = '{"dtype":"U8","shape":[4],"data_offsets":[0,4]}'


def check(stfs, *paths):
    done = stfs("check", "--json", *paths, check=False)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def made(make_model, header, data=b"1234"):
    return make_model("made.safetensors", {"x": ("U8", [len(data)], data)}, header=header)


def rules(report):
    return {d["rule"] for d in report["deviations"]} | \
        {d["rule"] for f in report["files"] for d in f["deviations"] if d["level"] != "note"}


def test_clean(stfs, small_model):
    code, report = check(stfs, small_model)
    assert code == 0 and report["verdict"] == "clean" and report["official"] == "ok" and report["tolerant"]
    file, = report["files"]
    assert file["size"] == small_model.stat().st_size and file["tensors"] == file["intact"] == 3
    assert file["header_bytes"] == models.read_header(small_model)[1]
    assert stfs("check", small_model).stdout == f"{small_model}: clean (1 file, 3 tensors)\n"


@pytest.mark.parametrize("header, code, official, rule", [
    (" {\"x\":%s}" % ENTRY, 1, "ok", "leading-space"),
    ("{\"__metadata__\":null,\"x\":%s}" % ENTRY, 1, "ok", "metadata-null"),
    ("{\"x\":%s,\"x\":%s}" % (ENTRY, ENTRY), 2, "ok", "duplicate-key"),
    ("{\"x\":[\"U8\",[4],[0,4]]}", 2, "ok", "entry-array"),
    ("{\"x\":{\"dtype\":\"U9\",\"shape\":[4],\"data_offsets\":[0,4]}}", 2, "error", "dtype-unknown"),
    ("{\"x\":%s" % ENTRY, 2, "error", "json-syntax"),
    ("{\"x\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[1,4]}}", 2, "error", "hole"),
])
def test_verdicts(stfs, make_model, header, code, official, rule):
    model = made(make_model, header)
    got, report = check(stfs, model)
    assert (got, report["official"]) == (code, official) and rule in rules(report)
    assert report["verdict"] == ["clean", "deviations", "refused"][code]
    text = stfs("check", model, check=False)
    assert text.returncode == code and rule in text.stdout and "official loader" in text.stdout
    quiet = stfs("check", "-q", model, check=False)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (code, "", "")


def test_every_deviation_with_its_place(stfs, make_model):
    header = '{"a":{"dtype":"U9","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[-1],"data_offsets":[4,8]}}'
    _, report = check(stfs, made(make_model, header, b"12345678"))
    found = {d["rule"]: d for d in report["files"][0]["deviations"]}
    assert found["dtype-unknown"]["tensor"] == "a" and found["shape-type"]["tensor"] == "b"
    assert found["dtype-unknown"]["position"] == 8 + header.index('U9')
    assert found["shape-type"]["position"] == 8 + header.index("-1")
    assert found["dtype-unknown"]["level"] == "error"


def test_unreadable(stfs, tmp_path):
    (tmp_path / "empty").mkdir()
    for path in tmp_path / "none", tmp_path / "empty", "/dev/null":
        code, report = check(stfs, path)
        assert code == 3 and report["verdict"] == "unreadable" and report["official"] == "error"
        assert report["tolerant"] is False
        assert stfs("check", path, check=False).stdout.count("\n") >= 1


def test_several(stfs, small_model, make_model):
    bad = made(make_model, "{")
    code, reports = check(stfs, small_model, bad, small_model)
    assert code == 2 and [r["verdict"] for r in reports] == ["clean", "refused", "clean"]
    assert check(stfs, bad, small_model.parent / "none")[0] == 3


def test_truncated(stfs, make_model):
    model = make_model("t.safetensors", {f"t{i}": ("U8", [100], None) for i in range(300)})
    model.write_bytes(model.read_bytes()[:-20050])
    code, report = check(stfs, model)
    file, = report["files"]
    assert code == 2 and report["tolerant"] is True
    assert (file["tensors"], file["intact"]) == (300, 99)
    assert file["counts"]["truncated"] == 201
    assert [d["tensor"] for d in file["deviations"]] == [f"t{i}" for i in range(99, 199)]
    text = stfs("check", model, check=False).stdout
    assert "and 101 more of truncated" in text and "99 of 300 tensors are complete" in text
    assert "stfs cat" in text and "mount" in text


def test_damage_that_tolerance_can_live_with(stfs, small_model):
    small_model.write_bytes(small_model.read_bytes() + b"tail")
    code, report = check(stfs, small_model)
    assert code == 2 and report["tolerant"] and rules(report) == {"trailing-bytes"}
    assert "its tensors are all there" in stfs("check", small_model, check=False).stdout


@pytest.mark.parametrize("start, word", [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
    (b"<!DOCTYPE html><html>not found</html>", "web page"), (b"PK\3\4" + bytes(40), "zip"),
    (b"GGUF" + bytes(40), "GGUF")])
def test_what_it_looks_like(stfs, tmp_path, start, word):
    path = tmp_path / "m.safetensors"
    path.write_bytes(start)
    assert word in stfs("check", path, check=False).stdout


def test_nothing_that_a_terminal_obeys(stfs, make_model, tmp_path):
    name = "\x1b[31m\0\x9b\u202e"
    header = json.dumps({name: {"dtype": "\x1b]", "shape": [4], "data_offsets": [0, 4]}}, ensure_ascii=False)
    model = made(make_model, header.replace("\\u001b", "\\u001b"))
    for args in ["check"], ["check", "--json"]:
        out = stfs(*args, model, check=False).stdout
        assert not [c for c in out if (ord(c) < 32 and c != "\n") or 0x7f <= ord(c) < 0xa0 or c == "\u202e"]
    assert check(stfs, model)[1]["files"][0]["deviations"][0]["tensor"] == name
    odd = tmp_path / "odd\x1b[0m\udcff\n"
    odd.write_bytes(b"short")
    out = stfs("check", odd, check=False).stdout
    assert "\x1b" not in out and "\\x1b[0m\\xff\\x0a" in out
    assert check(stfs, odd)[1]["model"].endswith("odd\x1b[0m\ufffd\n")


# --- sharded ------------------------------------------------------------------------------------


@pytest.fixture
def shards(make_model, tmp_path):
    """A model of two shards and its index, as an object to change and write."""
    make_model("s/model-00001-of-00002.safetensors", {"a": ("U8", [4], None), "b": ("U8", [4], None)})
    make_model("s/model-00002-of-00002.safetensors", {"c": ("U8", [4], None)})
    first, second = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    index = {"metadata": {"total_size": 12}, "weight_map": {"a": first, "b": first, "c": second}}
    folder = tmp_path / "s"

    def write():
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return folder
    write()
    write.index, write.folder = index, folder
    return write


def test_sharded_clean(stfs, shards, sharded_model):
    assert check(stfs, shards())[0] == 0
    code, report = check(stfs, sharded_model)
    assert code == 0 and len(report["files"]) == len(models.shards(sharded_model))


def test_sharded_deviations(stfs, shards):
    shards.index["metadata"]["total_size"] = 13
    del shards.index["weight_map"]["b"]
    code, report = check(stfs, shards())
    assert code == 1 and rules(report) == {"total-size", "tensor-not-in-index"}
    assert report["official"] == "ok"


def test_sharded_missing_tensor(stfs, shards):
    shards.index["weight_map"]["d"] = shards.index["weight_map"]["c"]
    code, report = check(stfs, shards())
    assert code == 2 and rules(report) == {"tensor-missing"} and report["deviations"][0]["tensor"] == "d"


def test_sharded_one_file_bad(stfs, shards):
    bad = shards.folder / "model-00002-of-00002.safetensors"
    bad.write_bytes(bad.read_bytes()[:-1])
    code, report = check(stfs, shards())
    assert code == 2 and [f["verdict"] for f in report["files"]] == ["clean", "refused"]
    assert bad.name in stfs("check", shards.folder, check=False).stdout


def test_sharded_file_missing(stfs, shards):
    (shards.folder / "model-00001-of-00002.safetensors").unlink()
    code, report = check(stfs, shards())
    assert code == 3 and [f["verdict"] for f in report["files"]] == ["unreadable", "clean"]
    assert "No such file" in stfs("check", shards.folder, check=False).stdout


def test_index_that_says_nonsense(stfs, shards):
    shards.index["weight_map"]["a"] = "../elsewhere.safetensors"
    code, report = check(stfs, shards())
    assert code == 2 and report["verdict"] == "refused" and rules(report) == {"index"}


def test_snapshot_of_links(stfs, shards, tmp_path):
    snapshot = tmp_path / "models--x/snapshots/0"
    blobs = tmp_path / "models--x/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for i, file in enumerate(sorted(shards().iterdir())):
        shutil.move(file, blobs / f"{i:040x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{i:040x}")
    assert check(stfs, snapshot)[0] == 0
    assert stfs("ls", "--names", snapshot).stdout == "a\nb\nc\n"
