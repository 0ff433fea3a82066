# SPDX-License-Identifier: MIT
"""stfs put"""
import io
import json
import os
import subprocess

import ml_dtypes
import numpy as np
import pytest

import models
from editing import (Unchanged, assert_sharded, files, refused, sharded_tensors, state, write_sharded)

NUMPY = {"BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "F16": "<f2", "U32": "<u4", "I32": "<i4",
         "F32": "<f4", "C64": "<c8", "U64": "<u8", "I64": "<i8", "F64": "<f8"}


@pytest.fixture
def model(make_model):
    return make_model("m/model.safetensors", {
        "embed": ("BF16", [6, 4], None), "w": ("F32", [3, 5], None), "ids": ("I64", [4], None),
        "fp4": ("F4", [4, 6], None), "scale": ("F32", [], None), "none": ("F32", [0, 7], None)}, {"format": "pt"})


@pytest.fixture
def file(tmp_path):
    def write(name, data):
        path = tmp_path / name
        if isinstance(data, np.ndarray):
            np.save(path, data)
        else:
            path.write_bytes(data)
        return path
    return write


def check(path, before, **changed):
    """The model is as before but for what changed."""
    tensors, metadata = before
    assert state(path) == (tensors | changed, metadata)


# --- NumPy ----------------------------------------------------------------------------------------


def test_npy(stfs, model, file):
    before = state(model)
    array = np.arange(12, dtype="<f8").reshape(3, 4)
    done = stfs("put", model, "new.one", file("a.npy", array))
    check(model, before, **{"new.one": ("F64", [3, 4], array.tobytes())})
    assert done.stdout.startswith("added 1 tensor (96 B); wrote 96 B")
    assert list(models.read_header(model)[0])[-1] == "new.one"
    assert os.listdir(model.parent) == [model.name]


@pytest.mark.parametrize("dtype", NUMPY)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 1, 2)])
def test_npy_of_every_type(stfs, model, file, dtype, shape):
    array = np.ones(shape, NUMPY[dtype])
    stfs("put", model, "x", file("a.npy", array))
    assert state(model)[0]["x"] == (dtype, list(shape), array.tobytes())


@pytest.mark.parametrize("shape", [(3, 4), (1, 5), (5, 1), (2, 3, 4), (4, 1, 3, 2), (700, 1300), (0, 3), (7,)])
@pytest.mark.parametrize("dtype", ["<f4", "u1", "<c8", "<i2"])
def test_fortran_order(stfs, model, file, shape, dtype):
    array = np.asfortranarray(np.random.default_rng(1).integers(0, 100, shape).astype(dtype))
    stfs("put", model, "x", file("a.npy", array))
    found = state(model)[0]["x"]
    assert found[1:] == (list(shape), np.ascontiguousarray(array).tobytes())


def test_fortran_order_of_standard_input(stfs, model):
    array = np.asfortranarray(np.arange(6000, dtype="<i4").reshape(60, 100))
    text = io.BytesIO()
    np.save(text, array)
    stfs("put", model, "x", "-", "--npy", input=text.getvalue(), text=False)
    assert state(model)[0]["x"] == ("I32", [60, 100], np.ascontiguousarray(array).tobytes())


def test_types_that_numpy_lacks(stfs, model, file):
    half = np.arange(24).reshape(6, 4).astype(ml_dtypes.bfloat16)
    stfs("put", model, "new", file("a.npy", half))
    stfs("put", model, "embed", file("a.npy", half))
    assert state(model)[0]["new"] == state(model)[0]["embed"] == ("BF16", [6, 4], half.tobytes())
    small = np.arange(8).astype(ml_dtypes.float8_e4m3fn)
    said = refused(stfs, "put", model, "f8", file("b.npy", small))
    assert "b.npy: " in said
    stfs("put", model, "f8", file("b.npy", small), "--dtype", "F8_E4M3")
    assert state(model)[0]["f8"] == ("F8_E4M3", [8], small.tobytes())
    stfs("put", model, "f8", file("b.npy", small[:4]))
    assert state(model)[0]["f8"] == ("F8_E4M3", [4], small[:4].tobytes()), "it stays what it was"
    stfs("put", model, "f85", file("c.npy", small.astype(ml_dtypes.float8_e5m2)))
    assert state(model)[0]["f85"][0] == "F8_E5M2"


@pytest.mark.parametrize("spoil, said", [
    (lambda b: b[:-1], "cut short"), (lambda b: b + b"x", "behind the array"), (lambda b: b[:40], ""),
    (lambda b: b"", ""), (lambda b: b"raw bytes", ""), (lambda b: b.replace(b"<f4", b">f4"), ""),
    (lambda b: b.replace(b"<f4", b"|O "), ""), (lambda b: b.replace(b"(3, 5)", b"(3, x)"), "")])
def test_npy_that_is_none(stfs, model, file, spoil, said):
    text = io.BytesIO()
    np.save(text, np.ones((3, 5), "<f4"))
    path = file("bad.npy", spoil(text.getvalue()))
    with Unchanged(model.parent):
        done = stfs("put", model, "w", path, check=False)
    assert done.returncode == 1 and f"{model}: {path}: " in done.stderr and said in done.stderr


def test_npy_options(stfs, model, file):
    path = file("a.npy", np.arange(15, dtype="<f4").reshape(3, 5))
    whole = path.read_bytes()
    assert "not I32" in refused(stfs, "put", model, "w", path, "--dtype", "I32")
    stfs("put", model, "w", path, "--shape", "5,3")
    assert state(model)[0]["w"] == ("F32", [5, 3], whole[-60:])
    refused(stfs, "put", model, "w", path, "--shape", "5,4")
    stfs("put", model, "bytes", path, "--raw", "--dtype", "U8", "--shape", str(len(whole)))
    assert state(model)[0]["bytes"] == ("U8", [len(whole)], whole)
    plain = file("a.data", whole)
    stfs("put", model, "again", plain, "--npy")
    assert state(model)[0]["again"] == ("F32", [3, 5], whole[-60:])


# --- raw bytes ------------------------------------------------------------------------------------


def test_raw_with_options(stfs, model, file):
    before = state(model)
    data = os.urandom(60)
    stfs("put", model, "r", file("r", data), "--dtype", "BF16", "--shape", "5, 6")
    check(model, before, r=("BF16", [5, 6], data))
    stfs("put", model, "r", file("r", data[:4]), "--dtype=F32", "--shape=")
    check(model, before, r=("F32", [], data[:4]))
    for args in (["--dtype", "F32"], ["--shape", "15"], []):
        said = refused(stfs, "put", model, "q", file("r", data), *args)
        assert "--shape" in said
    refused(stfs, "put", model, "q", file("r", data), "--dtype", "F32", "--shape", "16")
    refused(stfs, "put", model, "q", file("r", data), "--dtype", "F128", "--shape", "16", code=64)
    refused(stfs, "put", model, "q", file("r", data), "--dtype", "F32", "--shape", "1,x", code=64)
    refused(stfs, "put", model, "q", file("r", data), "--dtype", "F4", "--shape", "3,5")


def test_raw_with_a_sidecar(stfs, model, file):
    data = os.urandom(24)
    path = file("s", data)
    file("s.json", stfs("cat", "--json", model, "embed").stdout.encode().replace(b"[6,4]", b"[3,4]"))
    stfs("put", model, "s", path)
    assert state(model)[0]["s"] == ("BF16", [3, 4], data)
    stfs("put", model, "s", path, "--shape", "12")
    assert state(model)[0]["s"] == ("BF16", [12], data)
    file("s.json", b'{"dtype":"BF16","shape":[3,5]}')
    assert "24 bytes" in refused(stfs, "put", model, "s", path)
    file("s.json", b'{"dtype":')
    assert "sidecar" in refused(stfs, "put", model, "s", path)


def test_raw_as_what_is_there(stfs, model, file):
    before = state(model)
    data = {"embed": os.urandom(48), "ids": os.urandom(32), "fp4": os.urandom(12), "scale": os.urandom(4)}
    for name, content in data.items():
        stfs("put", model, name, file("raw", content))
    check(model, before, **{n: (*before[0][n][:2], c) for n, c in data.items()})


def test_rows_come_and_go(stfs, model, file):
    before = state(model)
    want = {}
    for name, dtype, rows, row, shape in (("embed", "BF16", 9, 8, [9, 4]), ("ids", "I64", 1, 8, [1]),
                                          ("fp4", "F4", 2, 3, [2, 6]), ("w", "F32", 0, 20, [0, 5])):
        data = os.urandom(rows * row)
        stfs("put", model, name, file("rows", data))
        want[name] = (dtype, shape, data)
    check(model, before, **want)
    for name, size in (("embed", 9), ("scale", 8), ("none", 4), ("ids", 7)):
        said = refused(stfs, "put", model, name, file("odd", os.urandom(size)))
        assert "--dtype" in said or name == "scale"


def test_standard_input(stfs, model):
    before = state(model)
    data = stfs("cat", model, "w", text=False).stdout
    stfs("put", model, "embed", "-", "--dtype", "F32", "--shape", "[15]", input=data, text=False)
    check(model, before, embed=("F32", [15], data))
    big = os.urandom(3 << 20)
    stfs("put", model, "big", "-", "--dtype", "U8", "--shape", str(len(big)), input=big, text=False)
    assert state(model)[0]["big"][2] == big
    with Unchanged(model.parent):
        stfs("put", model, "x", "-", "--dtype", "U8", "--shape", "3", check=False, input=b"ab", text=False)


def test_a_pipe(stfs, model, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    writer = subprocess.Popen(["sh", "-c", f"printf 123456 > {tmp_path}/fifo"])
    stfs("put", model, "p", tmp_path / "fifo", "--dtype", "U8", "--shape", "2,3")
    assert writer.wait() == 0 and state(model)[0]["p"] == ("U8", [2, 3], b"123456")


def test_the_model_itself_as_a_file(stfs, model):
    whole = model.read_bytes()
    stfs("put", model, "self", model, "--dtype", "U8", "--shape", str(len(whole)))
    assert state(model)[0]["self"][2] == whole


# --- several, names, refusals ---------------------------------------------------------------------


def test_pairs(stfs, model, file):
    before = state(model)
    a, b = file("a.npy", np.ones(3, "<f4")), file("x=b.npy", np.zeros(2, "<i8"))
    done = stfs("put", model, f"w={a}", f"new={b}", f"\u00e9 \u65e5={a}")
    ones = ("F32", [3], np.ones(3, "<f4").tobytes())
    check(model, before, **{"w": ones, "new": ("I64", [2], bytes(16)), "\u00e9 \u65e5": ones})
    assert "added 2 tensors (28 B), replaced 1 tensor (12 B)" in done.stdout
    said = refused(stfs, "put", model, f"ok={a}", "bad=/no/such.npy")
    assert "/no/such.npy: No such file" in said
    refused(stfs, "put", model, f"ok={a}", "nofile", f"b={b}", code=64)
    refused(stfs, "put", model, f"c={a}", f"d={b}", "--shape", "2", code=64)


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 5000, "-dash", "sl/ash", "%", "\u202e", "eq=ual"])
def test_names_of_every_kind(stfs, model, file, name):
    before = state(model)
    stfs("put", model, "--", name, file("a.npy", np.ones(3, "<f4")))
    check(model, before, **{name: ("F32", [3], np.ones(3, "<f4").tobytes())})


def test_refusals(stfs, model, file, tmp_path):
    good = file("a.npy", np.ones(3, "<f4"))
    refused(stfs, "put", model, "__metadata__", good)
    refused(stfs, "put", model, b"\xff", good)
    refused(stfs, "put", model, "x", tmp_path)
    refused(stfs, "put", model, code=64)
    refused(stfs, "put", model, "x", code=64)
    assert "No such file" in refused(stfs, "put", tmp_path / "m/none", "x", good)


def test_dry_run(stfs, model, file):
    good = file("a.npy", np.ones(3000, "<f4"))
    with Unchanged(model.parent):
        text = stfs("put", model, "w", good, "-n").stdout
        plan = json.loads(stfs("put", model, "x", good, "-n", "--json").stdout)
    assert text.startswith('would replace 1 tensor (11.7 KiB)\n  replace "w" (11.7 KiB)\n')
    assert plan["edits"] == [{"edit": "add", "name": "x", "bytes": 12000}] and plan["written"] == 12000
    result = json.loads(stfs("put", model, "x", good, "--json").stdout)
    assert result["written"] == 12000 and result["counts"]["added"] == 1


def test_sharded(stfs, tmp_path, file):
    folder = write_sharded(tmp_path / "s", {
        "m-1.safetensors": {f"layers.{i}.w": ("F32", [64], None) for i in range(4)},
        "m-2.safetensors": {f"layers.{i}.w": ("F32", [64], None) for i in range(4, 8)}})
    wanted = sharded_tensors(folder)
    first = files(folder)["m-1.safetensors"]
    new = np.arange(64, dtype="<f4")
    stfs("put", folder, f"layers.5.w={file('a.npy', new)}", f"layers.6.b={file('b.npy', new[:7])}")
    wanted |= {"layers.5.w": ("F32", [64], new.tobytes()), "layers.6.b": ("F32", [7], new[:7].tobytes())}
    assert_sharded(folder, wanted)
    assert files(folder)["m-1.safetensors"] == first
    stfs("put", folder, "layers.0.w", file("c.npy", new.reshape(8, 8)[:3]))
    wanted["layers.0.w"] = ("F32", [3, 8], new[:24].tobytes())
    assert_sharded(folder, wanted)


def test_torch_reads_it(stfs, model, file):
    from safetensors.numpy import load_file
    array = np.random.default_rng(0).standard_normal((33, 17)).astype("<f4")
    stfs("rm", model, "embed", "fp4")
    stfs("put", model, "r", file("r.npy", array))
    assert (load_file(model)["r"] == array).all()
