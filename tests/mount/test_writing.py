# SPDX-License-Identifier: MIT
"""Random edits through a writable mount, beside a directory in memory: after each the two are equal, and after each
commit the official loader agrees (docs/writing.md)."""
import os
import random

import pytest

import editing
import filesystems
import models
from conftest import NIGHTLY
from walk import Walk, Wrong

STEPS = 4000 if NIGHTLY else 400
# Without commits of their own; with commits underneath all the time; each overwrite staged; other ways to serve.
WAYS = [
    (["rw,autosync=0,autosync_max=0"], []),
    (["rw,autosync=0.05,autosync_max=0.1"], []),
    (["rw,autosync=0,autosync_max=0,overwrite=staged,view=both"], []),
    (["rw,autosync=0,autosync_max=0,view=npy"], ["-s"]),
    (["rw,autosync=0.05,autosync_max=0.1,overwrite=staged"], ["-s"]),
    (["rw,autosync=0,autosync_max=0,readers=ignore,cache=always"], []),
    (["rw,autosync=0.05,autosync_max=0.1,readers=ignore,cache=never"], []),
]


def first_model(folder, sharded):
    tensors = {"a": ("F32", [40, 25], None), "b": ("BF16", [7, 3], None), "c": ("U8", [65537], None),
               "d": ("I64", [], None), "e.weight": ("F16", [512, 300], None), "f.bias": ("F4", [3, 8], None),
               "g/h": ("BOOL", [0, 5], None), "i.json": ("C64", [4096], None), "k~": ("F8_E4M3", [10], None),
               "keep": ("F64", [2, 50], None)}
    if not sharded:
        return models.write_model(folder / "model/m.safetensors", tensors, {"format": "pt"})
    items = list(tensors.items())
    return editing.write_sharded(folder / "model", {
        f"model-{i + 1:05}-of-00003.safetensors": dict(items[i::3]) for i in range(3)})


def story(walk, steps, seed):
    """What a failure needs to be played again."""
    text = "\n".join(f"    {edit!r}," for edit in walk.log[-40:])
    where = os.environ.get("STFS_WALKS")
    if where:
        with open(os.path.join(where, f"{seed}.py".replace(" ", "-")), "w") as file:
            file.write("\n".join(map(repr, walk.log)))
    return f"seed {seed!r}, options {walk.options} {walk.daemon_args}, edit {len(walk.log)}; the last ones:\n{text}"


@pytest.mark.parametrize("way", range(len(WAYS)))
@pytest.mark.parametrize("sharded", [False, True], ids=["file", "shards"])
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs"])
def test_random_edits_equal_a_directory_in_memory(kind, sharded, way, mount, stfs, tmp_path):
    seed = f"{kind} {sharded} {way}" + os.environ.get("STFS_SEED", "")
    rng = random.Random(seed)
    with filesystems.mounted(kind, tmp_path, 512 << 20) as folder:
        options, daemon_args = WAYS[way]
        walk = Walk(mount, stfs, first_model(folder, sharded), options, daemon_args)
        try:
            for _ in range(STEPS):
                walk.play(walk.draw(rng))
            walk.finish()
        except (Wrong, OSError, AssertionError) as error:
            log = walk.mounted.stderr()
            raise Wrong(f"{error}\n{story(walk, STEPS, seed)}\nthe daemon: {log[-2000:]}") from error
        finally:
            walk.drop()
            mount.clean_up()
