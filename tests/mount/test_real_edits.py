# SPDX-License-Identifier: MIT
"""The edits that people make to a real model, by the verbs: strip it, extract a component, rename by a
pattern, edit metadata, put a tensor. After each the official loader must take the file, and tensors that
were not meant must have the sha256 that they had."""
import hashlib
import os
import shutil

import numpy
import pytest
from safetensors import safe_open

import editing
import models

LAYER = "encoder.layer.2."  # in the middle of the file
TARGET = f"{LAYER}output.dense.weight"


def judge(path):
    """{name: (dtype, shape, sha256)} and metadata, when the official loader loads all of it as torch does."""
    found = {name: (dtype, shape, hashlib.sha256(data).hexdigest())
             for name, (dtype, shape, data) in models.official_tensors(path).items()}
    with safe_open(path, "pt") as file:
        assert sorted(file.keys()) == sorted(found)
        for name in file.keys():
            assert list(file.get_tensor(name).shape) == found[name][1]
        return found, file.metadata()


def without(tensors, *prefixes):
    return {name: value for name, value in tensors.items() if not name.startswith(prefixes)}


def only(tensors, prefix):
    """Those of a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def entry(array):
    return "F32", list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()


def random_array(shape):
    return numpy.random.default_rng(4).standard_normal(shape, dtype=numpy.float32)


class Edited:
    """A private copy of the real model; .tensors and .metadata are what the official loader found in it."""

    def __init__(self, source, folder):
        folder.mkdir()
        self.path = folder / "model.safetensors"
        shutil.copyfile(source, self.path)  # not its permissions: the source may be read-only
        self.tensors, self.metadata = judge(self.path)

    def holds(self, tensors, metadata=...):
        """Asserts that it holds just these tensors, and that nothing was left beside it."""
        assert judge(self.path) == (tensors, self.metadata if metadata is ... else metadata)
        assert os.listdir(self.path.parent) == [self.path.name]


@pytest.fixture
def edited(real_model, tmp_path):
    return Edited(real_model, tmp_path / "model")


def test_the_model_has_what_the_tests_edit(edited):
    assert len(only(edited.tensors, LAYER)) > 10 and len(only(edited.tensors, "pooler.")) == 2
    assert edited.tensors[TARGET][0] == "F32"


def test_strip(stfs, edited):
    before = edited.path.stat().st_size
    stfs("rm", edited.path, "pooler.*", f"{LAYER}*")
    wanted = without(edited.tensors, "pooler.", LAYER)
    edited.holds(wanted)
    gone = sum(models.nbytes(*edited.tensors[name][:2]) for name in edited.tensors.keys() - wanted.keys())
    assert edited.path.stat().st_size <= before - gone + 8192  # what a header may keep in reserve


def test_dry_run_changes_nothing(stfs, edited):
    with editing.Unchanged(edited.path.parent):
        assert f'remove "{LAYER}' in stfs("rm", "--dry-run", edited.path, f"{LAYER}*").stdout


def test_extract_into_a_new_file_and_back(stfs, edited, tmp_path):
    part = tmp_path / "part.safetensors"
    with editing.Unchanged(edited.path.parent):
        stfs("cp", f"{edited.path}:{LAYER}*", part, "--create", "--strip-prefix", LAYER)
    assert judge(part) == (only(edited.tensors, LAYER), edited.metadata)

    stfs("rm", edited.path, f"{LAYER}*")
    edited.holds(without(edited.tensors, LAYER))
    stfs("cp", part, edited.path, "--add-prefix", LAYER)
    edited.holds(edited.tensors)
    stfs("cp", part, edited.path, "--replace", "--add-prefix", LAYER)
    edited.holds(edited.tensors)


def test_rename_by_a_pattern(stfs, edited):
    stfs("rename", edited.path, "--sub", r"s/^encoder\.layer\.([0-9]+)\./transformer.blocks.\1./")
    renamed = {name.replace("encoder.layer.", "transformer.blocks."): value for name, value in edited.tensors.items()}
    assert renamed.keys() != edited.tensors.keys()
    edited.holds(renamed)
    stfs("rename", edited.path, "--prefix", "transformer.blocks.=encoder.layer.")
    edited.holds(edited.tensors)


def test_metadata(stfs, edited, tmp_path):
    card = tmp_path / "card.md"
    card.write_text("# A model\n\n\"quoted\" \\ ünïcode\n" * 500)
    stfs("metadata", edited.path, "--clear")
    edited.holds(edited.tensors, None)
    stfs("metadata", edited.path, "--set", "format=pt")
    edited.holds(edited.tensors, {"format": "pt"})
    stfs("metadata", edited.path, "--set", f"card=@{card}")
    edited.holds(edited.tensors, {"format": "pt", "card": card.read_text()})
    assert stfs("metadata", edited.path, "--get", "card").stdout.rstrip("\n") == card.read_text().rstrip("\n")
    stfs("metadata", edited.path, "--unset", "card")
    edited.holds(edited.tensors, {"format": "pt"})


@pytest.mark.parametrize("more_rows", [0, 1, -1])
def test_put(stfs, edited, tmp_path, more_rows):
    rows, columns = edited.tensors[TARGET][1]
    array = random_array((rows + more_rows, columns))
    numpy.save(tmp_path / "new.npy", array)
    stfs("put", edited.path, TARGET, tmp_path / "new.npy")
    edited.holds(edited.tensors | {TARGET: entry(array)})


def test_add(stfs, edited, tmp_path):
    array = random_array((1000, 384))
    numpy.save(tmp_path / "new.npy", array)
    stfs("put", edited.path, "classifier.weight", tmp_path / "new.npy")
    edited.holds(edited.tensors | {"classifier.weight": entry(array)})


def everything(folder):
    """A batch of all of the above in one commit."""
    array = random_array((77, 384))
    numpy.save(folder / "new.npy", array)
    text = (f"rm 'pooler.*' '{LAYER}*'\nput classifier.weight '{folder}/new.npy'\n"
            "rename --prefix encoder.layer.=h.\nmetadata --set format=pt --set by=stfs\n")
    return text, entry(array)


def test_all_in_one_commit(stfs, edited, tmp_path, mount):
    text, added = everything(tmp_path)
    stfs("edit", edited.path, "--batch", "-", input=text)
    wanted = {name.replace("encoder.layer.", "h."): value
              for name, value in without(edited.tensors, "pooler.", LAYER).items()} | {"classifier.weight": added}
    edited.holds(wanted, edited.metadata | {"format": "pt", "by": "stfs"})
    assert stfs("check", edited.path).returncode == 0
    mounted = mount(edited.path)
    assert {name: hashlib.sha256((mounted.path / name).read_bytes()).hexdigest() for name in wanted} == \
        {name: digest for name, (_, _, digest) in wanted.items()}


def test_all_in_one_commit_of_a_sharded_model(stfs, sharded_model, tmp_path):
    folder = tmp_path / "sharded"
    shutil.copytree(sharded_model, folder)
    before = editing.sharded_tensors(folder)
    text, _ = everything(tmp_path)
    stfs("edit", folder, "--batch", "-", input=text)
    wanted = {name.replace("encoder.layer.", "h."): value
              for name, value in without(before, "pooler.", LAYER).items()}
    array = random_array((77, 384))
    editing.assert_sharded(folder, wanted | {"classifier.weight": ("F32", [77, 384], array.tobytes())})
    for shard in models.shards(folder):
        assert judge(shard)[1]["by"] == "stfs"
