# SPDX-License-Identifier: MIT
"""stfs cat"""
import hashlib
import io
import json
import os
import subprocess

import numpy
import pytest

import models
import terminal


@pytest.mark.parametrize("how", ["pipe", "file", "output", "append"])
def test_every_dtype_every_way_out(stfs, all_dtypes_model, tmp_path, how):
    for name, (_, _, data) in models.official_tensors(all_dtypes_model).items():
        out = tmp_path / "out"
        out.unlink(missing_ok=True)
        if how == "pipe":
            assert stfs("cat", all_dtypes_model, name, text=False).stdout == data
            continue
        if how == "output":
            assert stfs("cat", all_dtypes_model, name, "--output", out).stdout == ""
        else:
            with out.open("ab" if how == "append" else "wb") as stdout:
                subprocess.run([stfs.path, "cat", all_dtypes_model, name], stdout=stdout, check=True, env=stfs.env)
        assert out.read_bytes() == data


def test_every_tensor_of_a_sharded_model(stfs, sharded_model):
    official = models.official_tensors(*models.shards(sharded_model))
    for name in sorted(official)[::7]:
        got = stfs("cat", sharded_model, name, text=False).stdout
        assert hashlib.sha256(got).digest() == hashlib.sha256(official[name][2]).digest()


def test_large_through_a_slow_pipe(stfs, make_model):
    model = make_model("large.safetensors", {"a": ("U8", [1], None), "large": ("U8", [5 << 20], None)})
    data = models.official_tensors(model)["large"][2]
    process = subprocess.Popen(f'"{stfs.path}" cat "{model}" large | dd bs=999 status=none', shell=True,
                               stdout=subprocess.PIPE, env=stfs.env)
    assert process.stdout.read() == data
    process.stdout.close()
    assert process.wait() == 0


def test_written_to_during_the_copy(stfs, make_model):
    """What came out may be of old and new bytes: that is no success."""
    model = make_model("large.safetensors", {"large": ("U8", [1 << 20], None)})
    process = subprocess.Popen([stfs.path, "cat", model, "large"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               bufsize=0, env=stfs.env)
    assert process.stdout.read(1)
    with model.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"new")
    out, err = process.communicate()
    assert process.returncode == 1 and b"wrote to the file during the copy" in err
    again = stfs("cat", model, "large", text=False).stdout
    assert len(out) + 1 == len(again) == 1 << 20


def test_pipe_that_does_not_block(stfs, make_model):
    model = make_model("large.safetensors", {"large": ("U8", [1 << 20], None)})
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    process = subprocess.Popen([stfs.path, "cat", model, "large"], stdout=writing, env=stfs.env)
    os.close(writing)
    got = b""
    while piece := os.read(reading, 3000):
        got += piece
    os.close(reading)
    assert process.wait() == 0 and got == models.official_tensors(model)["large"][2]


def test_npy(stfs, all_dtypes_model):
    for name, (dtype, shape, data) in models.official_tensors(all_dtypes_model).items():
        if models.BITS[dtype] < 8:
            done = stfs("cat", "--npy", all_dtypes_model, name, check=False)
            assert done.returncode == 1 and done.stdout == "" and "NumPy has no such arrays" in done.stderr
            continue
        array = numpy.load(io.BytesIO(stfs("cat", "--npy", all_dtypes_model, name, text=False).stdout))
        assert list(array.shape) == shape and array.tobytes() == data


def test_sidecar(stfs, small_model):
    assert stfs("cat", "--json", small_model, "layer.0.bias").stdout == \
        '{"dtype":"BF16","shape":[24],"descr":"<V2","ml_dtype":"bfloat16"}\n'


def test_sidecar_as_mounted(stfs, mount, make_model):
    model = make_model("m.safetensors", {"a": ("F32", [1, 2], None), "n" * 400: ("U8", [3], None)})
    mounted = mount(model)
    for name in "a", "n" * 400:
        wanted = stfs("cat", "--json", model, name).stdout
        assert wanted in [p.read_text() for p in mounted.path.glob("*.json")]
    assert json.loads(wanted)["name"] == "n" * 400


def test_names_of_every_kind(stfs, make_model):
    names = {"\x1b[0m": "\\x1b[0m", "nul\0": "nul\\x00", "back\\slash": "back\\x5cslash", "-x": "-x", "": "",
             "*": "*"}
    model = make_model("evil.safetensors", {n: ("U8", [5], None) for n in names})
    official = models.official_tensors(model)
    for name, shown in names.items():
        assert stfs("cat", model, "--", shown, text=False).stdout == official[name][2]
        if "\0" not in name:
            assert stfs("cat", model, "--", name, text=False).stdout == official[name][2]


def test_near_names(stfs, small_model):
    done = stfs("cat", small_model, "embed.wieght", check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == (f'stfs: {small_model}: no tensor "embed.wieght" (did you mean "embed.weight"?)\n')
    assert '"embed.weight"' in stfs("cat", small_model, "embde", check=False).stderr
    assert "`stfs ls` lists them" in stfs("cat", small_model, "nothing alike", check=False).stderr


def test_not_to_a_terminal(stfs, small_model):
    code, out, err = terminal.run([stfs.path, "cat", small_model, "steps"], env=stfs.env)
    assert code == 1 and out == b"" and b"--output" in err
    assert terminal.run([stfs.path, "cat", "--force", small_model, "steps"], env=stfs.env)[0] == 0
    assert terminal.run([stfs.path, "cat", "--json", small_model, "steps"], env=stfs.env)[0] == 0


def test_the_model_is_never_the_output(stfs, small_model, sharded_model, tmp_path):
    before = small_model.read_bytes()
    link = tmp_path / "link"
    link.hardlink_to(small_model)
    for out in small_model, link:
        done = stfs("cat", small_model, "steps", "-o", out, check=False)
        assert done.returncode == 1 and "is the model itself" in done.stderr
        assert stfs("map", small_model, "--svg", out, check=False).returncode == 1
    with small_model.open("ab") as out:
        done = subprocess.run([stfs.path, "cat", small_model, "steps"], stdout=out, stderr=subprocess.PIPE,
                              env=stfs.env)
    assert done.returncode == 1 and small_model.read_bytes() == before
    shard = models.shards(sharded_model)[-1]
    size = shard.stat().st_size
    name = next(iter(models.read_header(shard)[0]))
    assert stfs("cat", sharded_model, name, "-o", shard, check=False).returncode == 1
    assert shard.stat().st_size == size


def test_output_replaces_a_longer_file(stfs, small_model, tmp_path):
    out = tmp_path / "out"
    out.write_bytes(b"x" * 5000)
    stfs("cat", small_model, "steps", "-o", out)
    assert out.stat().st_size == 8
    assert stfs("cat", small_model, "steps", "-o", "-", text=False).stdout == out.read_bytes()
    assert stfs("cat", small_model, "steps", "-o", "/dev/null").stdout == ""
    done = stfs("cat", small_model, "steps", "-o", tmp_path / "no/out", check=False)
    assert done.returncode == 1 and f"{tmp_path}/no/out: No such file" in done.stderr


def test_complete_tensors_of_a_truncated_model(stfs, small_model):
    official = models.official_tensors(small_model)
    small_model.write_bytes(small_model.read_bytes()[:-1])
    done = stfs("cat", small_model, "layer.0.bias", text=False)
    assert done.stdout == official["layer.0.bias"][2] and b"official loader refuses" in done.stderr
    assert stfs("cat", small_model, "steps", check=False).returncode == 1


def test_does_not_write_over_the_index(stfs, make_model, tmp_path):
    make_model("m/a.safetensors", {"x": ("U8", [4], None)})
    index = tmp_path / "m/model.safetensors.index.json"
    index.write_text('{"weight_map":{"x":"a.safetensors"}}')
    done = stfs("cat", "-o", index, tmp_path / "m", "x", check=False)
    assert done.returncode == 1 and "is the model itself" in done.stderr
    assert index.read_text() == '{"weight_map":{"x":"a.safetensors"}}'


def test_no_room_is_said_before_anything_is_written(stfs, tmp_path):
    """A tensor of 8 TiB, all hole: both numbers, and no half a file."""
    size = 1 << 43
    header = f'{{"w":{{"dtype":"U8","shape":[{size}],"data_offsets":[0,{size}]}}}}'
    header += " " * (-len(header) % 8)
    model = tmp_path / "large.safetensors"
    with open(model, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header.encode())
        try:
            file.truncate(8 + len(header) + size)
        except OSError:
            pytest.skip("this file system has no files of 8 TiB")
    done = stfs("cat", "-o", tmp_path / "out", model, "w", check=False)
    assert done.returncode == 1 and str(size) in done.stderr and "room" in done.stderr
    assert not (tmp_path / "out").exists()
