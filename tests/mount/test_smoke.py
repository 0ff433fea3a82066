# SPDX-License-Identifier: MIT
"""The main job: a model mounted, listed and read; every byte equal to the official loader's."""
import hashlib
import json
import threading

import numpy
import pytest

import models


def sums(tensors):
    """{name: sha256 of its bytes} of what official_tensors() returned."""
    return {name: hashlib.sha256(data).hexdigest() for name, (_, _, data) in tensors.items()}


def mounted_sums(mounted, names):
    """The same, read through a mount (names that need no encoding)."""
    return {name: hashlib.sha256((mounted.path / name).read_bytes()).hexdigest() for name in names}


def test_listing(mount, small_model):
    mounted = mount(small_model)
    assert sorted(p.name for p in mounted.path.iterdir()) == [
        "__metadata__.json", "embed.weight", "embed.weight.json", "layer.0.bias", "layer.0.bias.json",
        "steps", "steps.json"]
    assert (mounted.path / "embed.weight").stat().st_size == 32 * 8 * 4


def test_sidecar(mount, small_model):
    mounted = mount(small_model)
    assert (mounted.path / "layer.0.bias.json").read_text() == \
        '{"dtype":"BF16","shape":[24],"descr":"<V2","ml_dtype":"bfloat16"}\n'
    assert json.loads((mounted.path / "__metadata__.json").read_text()) == {"format": "pt"}


def test_memmap(mount, small_model):
    mounted = mount(small_model)
    sidecar = json.loads((mounted.path / "embed.weight.json").read_text())
    mapped = numpy.memmap(mounted.path / "embed.weight", dtype=sidecar["descr"], mode="r",
                          shape=tuple(sidecar["shape"]))
    wanted = models.official_tensors(small_model)["embed.weight"]
    assert mapped.tobytes() == wanted[2]
    del mapped


def test_read_only(mount, small_model):
    mounted = mount(small_model)
    assert "ro" in mounted.entry()["options"]
    assert mounted.entry()["fstype"] == "fuse.safetensorsfs"
    with pytest.raises(OSError):
        (mounted.path / "new").write_bytes(b"x")


def test_background(mount, small_model):
    mounted = mount(small_model, foreground=False)
    assert mounted.proc is None and mounted.pid
    assert (mounted.path / "steps").stat().st_size == 8
    assert mounted.unmount() == 0


def test_every_byte_of_the_real_model(mount, real_model):
    wanted = sums(models.official_tensors(real_model))
    assert mounted_sums(mount(real_model), wanted) == wanted


def test_every_byte_of_a_sharded_model(mount, sharded_model):
    wanted = sums(models.official_tensors(*models.shards(sharded_model)))
    assert mounted_sums(mount(sharded_model), wanted) == wanted


def test_every_byte_by_the_verb(stfs, all_dtypes_model):
    for name, (_, _, data) in models.official_tensors(all_dtypes_model).items():
        assert stfs("cat", all_dtypes_model, name, text=False).stdout == data


@pytest.mark.threads
def test_many_readers(mount, all_dtypes_model):
    mounted = mount(all_dtypes_model)
    wanted = sums(models.official_tensors(all_dtypes_model))
    results = []

    def reader():
        for _ in range(20):
            results.append(sorted(p.name for p in mounted.path.iterdir()) and
                           mounted_sums(mounted, wanted) == wanted)
    readers = [threading.Thread(target=reader) for _ in range(8)]
    for thread in readers:
        thread.start()
    for thread in readers:
        thread.join()
    assert results == [True] * 160
