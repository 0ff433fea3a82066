# SPDX-License-Identifier: MIT
"""Files that mean nothing before they are complete: x.npy, x.json and __metadata__.json while they are written, and
what becomes of them when others remove, replace, read or sync them, or the mount ends, meanwhile."""
import contextlib
import errno
import io
import json
import os
import signal
import threading
import time

import numpy as np
import pytest

import models

TENSORS = {"x": ("F32", [8], None), "y": ("F32", [8], None)}


@pytest.fixture
def made(mount_rw, make_model):
    return mount_rw(make_model("m.safetensors", TENSORS))


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.fixture
def begin(made):
    """begin(file, data=b"", mode="wb"): a file with this in it, which stays open until the test ends."""
    begun = []

    def begin(file, data=b"", mode="wb"):
        begun.append(open(made.path / file, mode, buffering=0))
        assert begun[-1].write(data) == len(data)
        return begun[-1]
    yield begin
    for file in begun:
        with contextlib.suppress(OSError):
            file.close()


def official(made):
    return models.official_tensors(made.model)


# --- removed while it is written ---------------------------------------------------------------------------


@pytest.mark.parametrize("again", [True, False])
def test_a_removed_array_does_not_take_in_the_next(made, begin, stfs, again):
    first = begin("n.npy", b"half an array")
    os.unlink(made.path / "n.npy")
    assert not os.path.exists(made.path / "n.npy")
    array = np.arange(4, dtype=np.float32)
    if again:
        np.save(made.path / "n.npy", array)
    first.write(b" and more")
    first.truncate(3)
    first.close()
    assert sorted(os.listdir(made.path)) == sorted(["n", "n.json"] * again + ["x", "x.json", "y", "y.json"])
    stfs("sync", made.path)
    assert official(made).get("n") == (("F32", [4], array.tobytes()) if again else None)


@pytest.mark.parametrize("file,first,second", [
    ("x.json", '{"dtype":"F32","shape":[2,4]}', '{"dtype":"U8","shape":[32]}'),
    ("__metadata__.json", '{"by":"rename"}', '{"by":"writing"}'),
])
def test_a_replaced_text_does_not_take_in_the_next(made, begin, stfs, file, first, second):
    other = begin(file, mode="r+b" if file == "x.json" else "wb")
    (made.path / ".t").write_text(first)
    os.rename(made.path / ".t", made.path / file)
    (made.path / file).write_text(second)
    other.close()
    stfs("sync", made.path)
    shown = json.loads((made.path / file).read_text())
    assert shown == shown | json.loads(second)
    assert official(made)["x"][0] == ("U8" if file == "x.json" else "F32")


# --- fsync ------------------------------------------------------------------------------------------------


def fsync(file):
    """0 or the errno."""
    try:
        os.fsync(file.fileno())
    except OSError as error:
        return error.errno
    return 0


@pytest.mark.parametrize("there", [True, False])
def test_fsync_of_a_sidecar_commits_its_tensor(made, begin, there):
    """Also of one that was there before: no 0 for a type that is not in the model."""
    name = "x" if there else "new"
    if not there:
        (made.path / name).write_bytes(bytes(32))
    sidecar = begin(f"{name}.json", b'{"dtype":"F32","shape":[3]}')
    assert fsync(sidecar) == errno.EINVAL
    text = b'{"dtype":"F32","shape":[2,4]}'
    sidecar.truncate(0)
    sidecar.seek(0)
    sidecar.write(text)
    assert fsync(sidecar) == 0 and official(made)[name][:2] == ("F32", [2, 4])


# --- read while it is written ----------------------------------------------------------------------------


@pytest.mark.threads
def test_who_opens_an_array_while_it_is_saved_has_an_array(made):
    """Whenever it was opened: in the end it reads as what was saved."""
    data = npy(np.arange(64, dtype=np.float32))
    (made.path / "n.npy").write_bytes(data)
    saved, files = threading.Event(), []

    def save():
        while not saved.is_set():
            (made.path / "n.npy").write_bytes(data)

    writer = threading.Thread(target=save)
    writer.start()
    try:
        for _ in range(400):
            with contextlib.suppress(FileNotFoundError):
                files.append(open(made.path / "n.npy", "rb", buffering=0))
            time.sleep(0.001)
    finally:
        saved.set()
        writer.join()
    wrong = {file.read() for file in files} - {data}
    for file in files:
        file.close()
    assert wrong == set()


# --- Fortran order ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape,dtype", [
    ((0, 5), "<f4"), ((1, 1), "<f8"), ((7,), "<i8"), ((3, 5, 7), "|u1"), ((1500, 1601), "<f4"), ((40000, 63), "<f8"),
    ((3, 700_001), "<i4"), ((700_001, 3), "<i4"), ((3, 400_000, 5), "|u1"), ((61, 1, 67, 2, 71, 11), "<i2"),
    ((2,) * 21, "<f4"), ((2113, 3001), "|u1")])
def test_an_array_in_fortran_order(made, shape, dtype):
    array = np.random.default_rng(7).integers(0, 256, (*shape, np.dtype(dtype).itemsize), np.uint8).view(dtype)[..., 0]
    np.save(made.path / "f.npy", np.asfortranarray(array))
    assert (made.path / "f").read_bytes() == array.tobytes()


@pytest.mark.parametrize("file", ["n.npy", "y.json", "__metadata__.json"])
def test_a_reader_that_closes_completes_nothing(made, begin, file):
    """Nor is it told what is wrong with what another has written so far."""
    begin(file, npy(np.arange(12))[:-1])
    with open(made.path / file, "rb") as reader:
        assert reader.read()
    assert file not in (made.path / ".stfs").read_text()


# --- the end of the mount ---------------------------------------------------------------------------------


def end(made):
    os.kill(made.pid, signal.SIGTERM)
    assert made.ended() == 0
    return made.stderr()


def test_what_is_complete_at_the_end_is_committed(made, begin):
    array = np.arange(12, dtype=np.int32).reshape(3, 4)
    begin("n.npy", npy(array))
    begin("x.npy", npy(np.asfortranarray(array)))
    begin("y.json", b'{"dtype":"F32","shape":[2,4]}')
    begin("__metadata__.json", b'{"a":"b"}')
    assert end(made) == ""
    found = official(made)
    assert found["n"] == found["x"] == ("I32", [3, 4], array.tobytes()) and found["y"][:2] == ("F32", [2, 4])
    assert models.read_header(made.model)[0]["__metadata__"] == {"a": "b"}


def test_what_is_not_complete_at_the_end_is_named(made, begin):
    """An array is kept as the bytes that it is, unless that would cost one that is there."""
    before, half = official(made), npy(np.arange(12))[:-1]
    begin("n.npy", half)
    for file, data in (("x.npy", half), ("y.json", b"{"), ("__metadata__.json", b"{")):
        begin(file, data)
    said = end(made)
    assert official(made) == dict(before, n=("U8", [len(half)], half))
    for file, what in (("n.npy", "bytes (U8)"), ("x.npy", "LOST"), ("y.json", "LOST"), ("__metadata__.json", "LOST")):
        assert [line for line in said.splitlines() if f"{file}: still being written" in line and what in line], said


def test_what_is_removed_at_the_end_is_gone(made, begin):
    begin("n.npy", npy(np.arange(12)))
    os.unlink(made.path / "n.npy")
    begin("y.json", b"")
    before = official(made)
    end(made)
    assert official(made) == before
