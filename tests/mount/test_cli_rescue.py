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


def test_what_was_kept_waits_for_the_model_it_is_for(stfs, mount, tmp_path):
    """Beside another model it is named, with what does not fit and what to do; that it was tried leaves no trace."""
    model = models.write_model(tmp_path / "m.safetensors", {"a": ("U8", [4000], None), "b": ("F32", [10], None)})
    mounted = mount(model, "autosync=0,autosync_max=0", mode="rw")
    os.unlink(mounted.path / "a")
    os.rename(model, tmp_path / "right")
    models.write_model(model, {"b": ("F32", [10], None)})
    mounted.exit_codes = {32}
    mounted.unmount()
    kept = tmp_path / ".m.safetensors.stfs-rescue"
    before = kept.read_bytes()
    for words in ["recover", model], ["recover", "--json", model]:
        done = stfs(*words, check=False)
        assert done.returncode == 1 and f"{kept.name} cannot be taken up: no tensor \"a\"; " in done.stderr
        assert "move the file away" in done.stderr and kept.read_bytes() == before
    mounted = mount(model, mode="rw")
    assert "mounted read-only" in mounted.stderr() and kept.name in mounted.stderr()
    mounted.unmount()
    os.rename(tmp_path / "right", model)
    assert "committed" in stfs("recover", model).stdout and not kept.exists()
    assert sorted(models.read_header(model)[0].keys() - {"__metadata__"}) == ["b"]


def test_rescue_files_and_journals_that_are_none(stfs, mount, tmp_path):
    """A link is not followed, and what is no rescue file is named: the model is read all the same."""
    model = models.write_model(tmp_path / "m.safetensors", {"a": ("U8", [4000], None)})
    elsewhere = models.write_model(tmp_path / "elsewhere", {"x": ("U8", [4], None)})
    found = model.read_bytes(), elsewhere.read_bytes()
    for suffix, make, said in (("rescue", "link", "is a link: it is not believed"),
                               ("journal", "link", "is a link: it is not believed"),
                               ("journal", "folder", "is not a regular file: it is not believed"),
                               ("rescue", "text", "m.safetensors: its rescue file cannot be read (")):
        beside = tmp_path / f".m.safetensors.stfs-{suffix}"
        {"link": lambda: beside.symlink_to(elsewhere), "folder": beside.mkdir,
         "text": lambda: beside.write_text("hello\n")}[make]()
        done = stfs("recover", model, check=False)
        assert done.returncode == 1 and said in done.stderr and beside.name in done.stderr, (suffix, make)
        mounted = mount(model, mode="rw")
        assert "mounted read-only" in mounted.stderr() and said in mounted.stderr() and beside.name in mounted.stderr()
        assert (mounted.path / "a").stat().st_size == 4000
        mounted.unmount()
        beside.rmdir() if make == "folder" else beside.unlink()
    assert (model.read_bytes(), elsewhere.read_bytes()) == found


def test_a_poisoned_model_without_its_journal_is_no_success(stfs, tmp_path):
    """recover and check say what is missing, and not that there is nothing to do."""
    model = models.write_model(tmp_path / "m.safetensors", {"a": ("U8", [4000], None)})
    with open(model, "r+b") as file:
        file.seek(7)
        file.write(b"\x80")
    done = stfs("recover", model, check=False)
    assert done.returncode == 1 and "journal" in done.stderr
    assert "journal" in stfs("check", model, check=False).stdout
