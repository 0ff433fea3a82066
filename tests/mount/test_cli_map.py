# SPDX-License-Identifier: MIT
"""stfs map"""
import json
import struct
import xml.dom.minidom

import pytest

import models
import terminal


def segments(stfs, model):
    file, = json.loads(stfs("map", "--json", model).stdout)["files"]
    at = 0
    for s in file["segments"]:
        assert s["begin"] == at and s["end"] >= at, "segments follow each other without a gap"
        at = s["end"]
    assert at >= file["size"]
    for kind, total in file["totals"].items():
        assert total == sum(s["end"] - s["begin"] for s in file["segments"] if s["kind"] == kind)
    return [(s["kind"], s.get("tensor"), s["end"] - s["begin"]) for s in file["segments"]]


def picture(stfs, model):
    """The SVG, parsed; it stands alone."""
    text = stfs("map", "--svg", "-", model).stdout
    root = xml.dom.minidom.parseString(text.encode()).documentElement
    assert root.tagName == "svg" and "http" not in text.replace("http://www.w3.org/2000/svg", "")
    return root


def write(path, entries, data, slack=0):
    text = json.dumps(entries).encode() + b" " * slack
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path, 8 + len(text) - slack


def entry(begin, end):
    return {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}


def test_plain(stfs, small_model):
    found = segments(stfs, small_model)
    assert [f for f in found if f[0] == "tensor"] == [
        ("tensor", "embed.weight", 1024), ("tensor", "layer.0.bias", 48), ("tensor", "steps", 8)]
    assert {f[0] for f in found} <= {"header", "slack", "tensor"}


def test_all_that_can_be_wrong(stfs, tmp_path):
    path, header = write(tmp_path / "w.safetensors", {
        "a": entry(0, 10), "b": entry(15, 25), "c": entry(20, 30), "inside": entry(21, 23), "empty": entry(30, 30),
        "d": entry(30, 40), "e": entry(40, 60)}, b"x" * 50, slack=7)
    assert segments(stfs, path) == [
        ("header", None, header), ("slack", None, 7), ("tensor", "a", 10), ("hole", None, 5), ("tensor", "b", 5),
        ("overlap", "c", 1), ("overlap", "inside", 4), ("tensor", "c", 5), ("tensor", "empty", 0),
        ("tensor", "d", 10), ("tensor", "e", 10), ("missing", "e", 10)]
    done = stfs("map", path)
    for word in "header", "slack", "hole", "overlap", "missing, of e":
        assert word in done.stdout
    assert "is refused" in done.stderr
    titles = [t.firstChild.data for t in picture(stfs, path).getElementsByTagName("title")]
    assert any(t.startswith("hole\n5 B, bytes") for t in titles)


def test_trailing_bytes(stfs, tmp_path):
    path, _ = write(tmp_path / "w.safetensors", {"a": entry(0, 10)}, b"x" * 15)
    assert segments(stfs, path)[-1] == ("trailing", None, 5)


def test_header_that_cannot_be_read(stfs, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"\xff" * 100)
    assert segments(stfs, path) == [("unknown", None, 100)]
    path, header = write(tmp_path / "v.safetensors", {"a": entry(0, 4), "b": dict(entry(4, 8), dtype="U9")}, b"12345678")
    assert segments(stfs, path) == [("header", None, header), ("tensor", "a", 4), ("unknown", None, 4)]
    path.write_bytes(b"")
    assert segments(stfs, path) == []
    assert stfs("map", path).returncode == 0
    picture(stfs, path)


def test_offsets_of_any_size(stfs, tmp_path):
    path, _ = write(tmp_path / "w.safetensors", {
        "a": entry(0, 4), "b": {"dtype": "U8", "shape": [2 ** 63], "data_offsets": [4, 2 ** 63 + 4]},
        "r": {"dtype": "U8", "shape": [0], "data_offsets": [9, 3]},
        "o": {"dtype": "U8", "shape": [1], "data_offsets": [2 ** 64 - 2, 2 ** 64 - 1]}}, b"1234")
    segments(stfs, path)
    stfs("map", path)
    picture(stfs, path)


def test_a_small_hole_in_a_large_file_shows(stfs, tmp_path):
    path, _ = write(tmp_path / "w.safetensors", {"a": entry(0, 3_000_000), "b": entry(3_000_008, 6_000_000)},
                    b"\0" * 6_000_000)
    bar = stfs("map", path).stdout.splitlines()[1:5]
    assert sum(line.count("x") for line in bar) == 1 and [len(line) for line in bar] == [78] * 4
    hole, = [g for g in picture(stfs, path).getElementsByTagName("g")
             if g.getElementsByTagName("title")[0].firstChild.data.startswith("hole")]
    assert float(hole.getElementsByTagName("rect")[0].getAttribute("width")) >= 3


def test_width_and_colour(stfs, small_model):
    lines = stfs("map", "--width", "40", small_model).stdout.splitlines()
    assert [len(line) for line in lines[1:5]] == [40] * 4
    assert "\x1b" not in "".join(lines)
    code, out, _ = terminal.run([stfs.path, "map", small_model], env=stfs.env)
    assert code == 0 and b"\x1b[38;5;" in out
    _, out, _ = terminal.run([stfs.path, "map", small_model], env=dict(stfs.env, NO_COLOR="1"))
    assert b"\x1b" not in out


def test_names_in_the_picture(stfs, make_model):
    names = ["<a>&\"'", "\x1b\0", "]]>", "\ufffe\uffff", "日本"]
    model = make_model("e.safetensors", {n: ("U8", [100], None) for n in names})
    titles = [t.firstChild.data.split("\n")[0] for t in picture(stfs, model).getElementsByTagName("title")]
    for shown in "<a>&\\x22'", "\\x1b\\x00", "]]>", "\ufffd\ufffd", "日本":
        assert shown in titles


def test_many_tensors_make_a_bounded_picture(stfs, make_model, tmp_path):
    import random
    dice = random.Random(7)
    model = make_model("many.safetensors", {
        f"layer.{i}": ("U8", [dice.choice([0, 1, 50, 3000])], None) for i in range(20000)})
    root = picture(stfs, model)
    assert 20 < len(root.getElementsByTagName("rect")) < 4000
    assert len(stfs("map", model).stdout.splitlines()) < 120
    # every other tensor taken out: ten thousand holes
    header, start = models.read_header(model)
    data = model.read_bytes()[start:]
    write(model, dict(list(header.items())[::2]), data)
    assert len(picture(stfs, model).getElementsByTagName("rect")) < 15000
    assert len(stfs("map", model).stdout.splitlines()) < 600


def test_sharded(stfs, sharded_model, tmp_path):
    files = json.loads(stfs("map", "--json", sharded_model).stdout)["files"]
    assert [f["file"] for f in files] == [f.name for f in models.shards(sharded_model)]
    out = stfs("map", sharded_model).stdout
    for f in files:
        assert f["file"] in out
    stfs("map", "--svg", tmp_path / "s.svg", sharded_model)
    text = (tmp_path / "s.svg").read_text()
    assert all(f["file"] in text for f in files)


@pytest.mark.parametrize("folder", ["bad-inputs", "mutated"])
def test_segments_of_every_file_of_the_corpora(stfs, corpora, folder):
    for path in sorted((corpora / folder).glob("*.safetensors"))[::9]:
        segments(stfs, path)
        stfs("map", path)
        picture(stfs, path)
