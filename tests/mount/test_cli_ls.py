# SPDX-License-Identifier: MIT
"""stfs ls"""
import json
import subprocess

import pytest

import models
import terminal

EVIL = ["\x1b[31mred", "a\nb", "tab\t", "q\"uote", "back\\slash", "\x9b2J", "nul\0byte", "", "日本", "\u202eturn",
        "a[0]", "*", "-dash", "x" * 300]


@pytest.fixture
def evil_model(make_model):
    return make_model("evil.safetensors", {name: ("U8", [i], None) for i, name in enumerate(EVIL)})


@pytest.fixture
def layers_model(make_model):
    return make_model("layers.safetensors", {
        f"layers.{i}.{part}": ("F16", [size], None)
        for i in (10, 2, 1) for part, size in (("weight", i * 8), ("bias", i))})


def names(stfs, *args):
    """As --json has them, which no name can upset."""
    return [t["name"] for t in json.loads(stfs("ls", "--json", *args).stdout)["tensors"]]


def test_table(stfs, small_model):
    lines = stfs("ls", small_model).stdout.splitlines()
    assert lines[0].split() == ["name", "dtype", "shape", "size", "share"]
    assert lines[1].split() == ["embed.weight", "F32", "[32,8]", "1.0", "KiB", "94.8%"]
    assert lines[3].split() == ["steps", "I64", "[]", "8", "B", "0.7%"]
    assert lines[4].split() == ["total:", "3", "tensors", "1.1", "KiB", "100.0%"]
    assert not any(line.endswith(" ") for line in lines)
    assert stfs("ls", "--bytes", small_model).stdout.splitlines()[1].split()[3] == "1024"


def test_natural_order(stfs, layers_model):
    order = ["layers.1.bias", "layers.1.weight", "layers.2.bias", "layers.2.weight", "layers.10.bias",
             "layers.10.weight"]
    assert names(stfs, layers_model) == order
    assert names(stfs, "-r", layers_model) == order[::-1]
    assert stfs("ls", "--names", layers_model).stdout.splitlines() == order
    assert stfs("ls", "-0", layers_model).stdout == "".join(f"{name}\0" for name in order)


def test_sort(stfs, layers_model):
    header, _ = models.read_header(layers_model)
    assert names(stfs, "--sort", "offset", layers_model) == list(header)
    sizes = [header[n]["data_offsets"][1] - header[n]["data_offsets"][0]
             for n in names(stfs, "--sort=size", layers_model)]
    assert sizes == sorted(sizes, reverse=True)


def test_globs(stfs, layers_model):
    assert names(stfs, layers_model, "*.bias") == ["layers.1.bias", "layers.2.bias", "layers.10.bias"]
    assert names(stfs, layers_model, "layers.?.*", "--exclude", "*.weight") == ["layers.1.bias", "layers.2.bias"]
    assert names(stfs, layers_model, "--include", "layers.2.*") == ["layers.2.bias", "layers.2.weight"]
    assert names(stfs, "--exclude=*.1*", "--exclude", "*.weight", layers_model) == ["layers.2.bias"]
    assert "total: 3 of 6 tensors" in stfs("ls", layers_model, "*.bias").stdout


def test_a_glob_that_matches_nothing(stfs, layers_model):
    done = stfs("ls", "--names", layers_model, "*.bias", "none*", check=False)
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 3
    assert done.stderr == f"stfs: {layers_model}: no tensor matches 'none*'\n"


def test_json(stfs, all_dtypes_model):
    found = json.loads(stfs("ls", "--json", all_dtypes_model).stdout)
    official, data = models.official_tensors(all_dtypes_model), all_dtypes_model.read_bytes()
    assert found["count"] == 22 and len(found["tensors"]) == 22
    for t in found["tensors"]:
        assert (t["dtype"], t["shape"], data[t["offset"]:t["offset"] + t["bytes"]]) == official[t["name"]]
        assert t["file"] == all_dtypes_model.name


def test_names_of_every_kind(stfs, evil_model):
    assert sorted(names(stfs, evil_model)) == sorted(EVIL)
    assert stfs("ls", "-0", evil_model).stdout == "".join(f"{name}\0" for name in names(stfs, evil_model))


@pytest.mark.parametrize("args", [[], ["--json"], ["--names"], ["--sort", "size"]])
def test_nothing_that_a_terminal_obeys(stfs, evil_model, args):
    code, out, err = terminal.run([stfs.path, "ls", *args, evil_model], env=stfs.env)
    assert code == 0 and err == b""
    text = out.decode()
    assert not [c for c in text if (ord(c) < 32 and c != "\n") or 0x7f <= ord(c) < 0xa0 or c == "\u202e"]
    piped = stfs("ls", evil_model).stdout
    assert not [c for c in piped if (ord(c) < 32 and c != "\n") or 0x7f <= ord(c) < 0xa0]


def test_patterns_for_names_of_every_kind(stfs, evil_model):
    assert names(stfs, evil_model, "a[0]") == ["a[0]"], "a name to the letter matches itself"
    assert names(stfs, evil_model, "nul?byte") == ["nul\0byte"]
    assert names(stfs, evil_model, "??") == ["日本"]
    assert sorted(names(stfs, evil_model, "*")) == sorted(EVIL)


def test_width(stfs, evil_model):
    for columns in 60, 80, 132:
        _, out, _ = terminal.run([stfs.path, "ls", evil_model], columns=columns, env=stfs.env)
        for line in out.decode().splitlines():
            wide = sum(2 if c in "日本" else 1 for c in line)
            assert wide <= columns, line
    assert "x" * 300 in stfs("ls", evil_model).stdout, "nothing is cut where there is no terminal"


def test_shards(stfs, sharded_model):
    table = stfs("ls", "--shards", sharded_model).stdout
    for file in models.shards(sharded_model):
        held = set(models.read_header(file)[0]) - {"__metadata__"}
        for name in held:
            line, = [row for row in table.splitlines() if row.startswith(name + " ")]
            assert line.endswith(file.name)
        assert {t["name"] for t in json.loads(stfs("ls", "--json", sharded_model).stdout)["tensors"]
                if t["file"] == file.name} == held


def test_many(stfs, make_model):
    model = make_model("many.safetensors", {f"model.layers.{i}.weight": ("U8", [i % 5], None) for i in range(30000)})
    lines = stfs("ls", model).stdout.splitlines()
    assert len(lines) == 30002 and lines[3].startswith("model.layers.2.weight ")
    assert len(json.loads(stfs("ls", "--json", model).stdout)["tensors"]) == 30000


def test_tolerant(stfs, small_model):
    small_model.write_bytes(small_model.read_bytes()[:-1])
    done = stfs("ls", "--names", small_model)
    assert done.stdout == "embed.weight\nlayer.0.bias\n" and "official loader refuses" in done.stderr


def test_more_shards_than_the_limit_on_files(stfs, make_model, tmp_path):
    count = 100
    for i in range(count):
        make_model(f"many/m-{i}.safetensors", {f"t{i}": ("U8", [1], None)})
    index = tmp_path / "many/model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {f"t{i}": f"m-{i}.safetensors" for i in range(count)}}))
    done = subprocess.run(["sh", "-c", 'ulimit -Sn 40; exec "$@"', "sh", stfs.path, "ls", "--json", index],
                          capture_output=True, text=True, env=stfs.env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["count"] == count


def test_one_long_name_does_not_pad_the_others(stfs, make_model):
    names = [f"t{i}" for i in range(40)] + ["n" * 100_000]
    model = make_model("m.safetensors", {n: ("U8", [1], None) for n in names})
    assert len(stfs("ls", model).stdout) < 100_000
    assert "n" * 100_000 in stfs("ls", "--names", model).stdout.split()


def test_a_shape_of_very_many_dimensions_is_shortened(stfs, make_model):
    model = make_model("m.safetensors", {"x": ("U8", [1] * 5000, None)})
    assert "5000 in all" in stfs("ls", model).stdout
