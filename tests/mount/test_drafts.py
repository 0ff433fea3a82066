# SPDX-License-Identifier: MIT
"""Files that mean nothing before they are complete: x.npy, x.json and __metadata__.json while they are written, and
what becomes of them when others remove, replace, read or sync them, or the mount ends, meanwhile."""
import io
import json
import os

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


def opened(path, data=b"", flags=os.O_WRONLY | os.O_CREAT | os.O_TRUNC):
    """A descriptor of a file with this in it, not yet closed."""
    fd = os.open(path, flags, 0o644)
    assert os.write(fd, data) == len(data)
    return fd


def official(made):
    return models.official_tensors(made.model)


# --- removed while it is written ---------------------------------------------------------------------------


@pytest.mark.parametrize("again", [True, False])
def test_a_removed_array_does_not_take_in_the_next(made, stfs, again):
    first = opened(made.path / "n.npy", b"half an array")
    os.unlink(made.path / "n.npy")
    assert not os.path.exists(made.path / "n.npy")
    array = np.arange(4, dtype=np.float32)
    if again:
        np.save(made.path / "n.npy", array)
    os.write(first, b" and more")
    os.ftruncate(first, 3)
    os.close(first)
    assert sorted(os.listdir(made.path)) == sorted(["n", "n.json"] * again + ["x", "x.json", "y", "y.json"])
    stfs("sync", made.path)
    assert official(made).get("n") == (("F32", [4], array.tobytes()) if again else None)


@pytest.mark.parametrize("file,first,second", [
    ("x.json", '{"dtype":"F32","shape":[2,4]}', '{"dtype":"U8","shape":[32]}'),
    ("__metadata__.json", '{"by":"rename"}', '{"by":"writing"}'),
])
def test_a_replaced_text_does_not_take_in_the_next(made, stfs, file, first, second):
    reader = opened(made.path / file, flags=os.O_RDWR | os.O_CREAT)
    (made.path / ".t").write_text(first)
    os.rename(made.path / ".t", made.path / file)
    (made.path / file).write_text(second)
    os.close(reader)
    stfs("sync", made.path)
    shown = json.loads((made.path / file).read_text())
    assert shown == shown | json.loads(second)
    assert official(made)["x"][0] == ("U8" if file == "x.json" else "F32")
