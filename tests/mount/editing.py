# SPDX-License-Identifier: MIT
"""What the tests of the editing verbs share: a model before and after, as the official loader has it."""
import hashlib
import json
import pathlib

import models


def state(path):
    """({name: (dtype, shape, bytes)}, metadata) of one file, as the official loader returns it."""
    header, _ = models.read_header(path)
    return models.official_tensors(path), header.get("__metadata__")


def files(folder):
    """{name: sha256} of every file of a folder."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(pathlib.Path(folder).rglob("*")) if path.is_file()}


class Unchanged:
    """with Unchanged(folder): whatever happens inside leaves every file of it as it was."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)

    def __enter__(self):
        self.before = files(self.folder)

    def __exit__(self, kind, *rest):
        if kind is None:
            assert files(self.folder) == self.before


def refused(stfs, *args, code=1, folder=None, input=None):
    """Runs a verb that must fail and change nothing; what it wrote to stderr."""
    with Unchanged(folder or pathlib.Path(args[1]).parent):
        done = stfs(*args, check=False, input=input)
    assert done.returncode == code, done
    assert done.stdout == "" and done.stderr.startswith("stfs: "), done
    return done.stderr


def assert_sharded(folder, wanted):
    """A sharded model holds exactly {name: (dtype, shape, bytes)}, and its index says so."""
    folder = pathlib.Path(folder)
    index, = folder.glob("*.safetensors.index.json")
    found, held = {}, {}
    parsed = json.loads(index.read_text())
    for path in sorted(folder.glob("*.safetensors")):
        tensors = models.official_tensors(path)
        assert not set(tensors) & set(found), "a name in two shards"
        found |= tensors
        held |= {name: path.name for name in tensors}
    assert found == wanted
    assert parsed["weight_map"] == held
    if "total_size" in parsed.get("metadata", {}):
        assert parsed["metadata"]["total_size"] == sum(len(t[2]) for t in found.values())


def write_sharded(folder, shards, metadata=None):
    """A sharded model of {file name: tensors of models.write_model()}; returns its folder."""
    folder = pathlib.Path(folder)
    total, weight_map = 0, {}
    for file, tensors in shards.items():
        models.write_model(folder / file, tensors, metadata)
        for name, (dtype, shape, _) in tensors.items():
            weight_map[name] = file
            total += models.nbytes(dtype, shape)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2))
    return folder


def sharded_tensors(folder):
    """{name: (dtype, shape, bytes)} of all shards."""
    return models.official_tensors(*sorted(pathlib.Path(folder).glob("*.safetensors")))
