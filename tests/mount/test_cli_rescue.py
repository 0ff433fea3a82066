# SPDX-License-Identifier: MIT
"""Edits that came through a pipe and could not be committed: kept beside the model, and taken up later."""
import os
import shutil

from safetensors import safe_open

import models


def test_bytes_of_a_pipe_outlast_a_model_that_was_replaced(stfs, stfs_path, tmp_path):
    """The model is another one when the pipe ends: nothing is committed over it, nothing is lost."""
    import subprocess
    model = models.write_model(tmp_path / "m.safetensors", {"a": ("U8", [4000], None), "b": ("F32", [10], None)})
    data = os.urandom(300_000)
    running = subprocess.Popen([stfs_path, "put", model, "new", "-", "--dtype", "U8", "--shape", "300000"],
                               stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    running.stdin.write(data[:200_000])
    running.stdin.flush()
    shutil.copy(model, tmp_path / "other")
    os.rename(tmp_path / "other", model)
    _, said = running.communicate(data[200_000:])
    assert running.returncode == 1
    assert b"another file in its place" in said and b"stfs recover" in said
    kept = tmp_path / ".m.safetensors.stfs-rescue"
    with safe_open(kept, "np") as file:
        assert file.get_tensor("new").tobytes() == data
    with safe_open(model, "np") as file:
        assert sorted(file.keys()) == ["a", "b"]
    assert "rescue" in stfs("recover", model).stdout
    with safe_open(model, "np") as file:
        assert sorted(file.keys()) == ["a", "b", "new"]
        assert file.get_tensor("new").tobytes() == data
    assert not kept.exists()


def test_a_poisoned_model_without_its_journal_is_no_success(stfs, tmp_path):
    """recover and check say what is missing, and not that there is nothing to do."""
    model = models.write_model(tmp_path / "m.safetensors", {"a": ("U8", [4000], None)})
    with open(model, "r+b") as file:
        file.seek(7)
        file.write(b"\x80")
    done = stfs("recover", model, check=False)
    assert done.returncode == 1 and "journal" in done.stderr
    assert "journal" in stfs("check", model, check=False).stdout
