# SPDX-License-Identifier: MIT
"""Verbs, help and usage errors of the companion program."""
import os
import subprocess

import pytest

EDITING = ["put", "rm", "mv", "rename", "cp", "metadata", "edit", "create", "compact", "save", "import-pytorch",
           "import-pytorch-inplace"]
VERBS = ["info", "ls", "cat", "check", "map", *EDITING, "recover", "export-pytorch", "mount", "umount", "status", "sync"]


def judge_help(done):
    assert done.stderr == ""
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []
    assert done.stdout.isascii()


def test_overview(stfs):
    done = stfs("--help")
    judge_help(done)
    for verb in VERBS:
        assert f"\n  {verb} " in done.stdout
    assert stfs("help").stdout == stfs("-h").stdout == done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb(stfs, verb):
    done = stfs(verb, "--help")
    judge_help(done)
    assert done.stdout.startswith(f"stfs {verb}: ")
    assert f"usage: stfs {verb} " in done.stdout
    assert f"\n  stfs {verb}" in done.stdout, "no example"
    assert stfs("help", verb).stdout == done.stdout


@pytest.mark.parametrize("verb", EDITING)
def test_options_of_every_editing_verb(stfs, verb):
    text = stfs(verb, "--help").stdout
    for option in "--dry-run", "--json", "--quiet", "--force", "--readers":
        assert option in text


def test_version(stfs):
    assert stfs("--version").stdout.startswith("stfs 0.")


def test_nothing_asked(stfs):
    done = stfs(check=False)
    assert done.returncode == 64 and done.stdout == "" and "usage:" in done.stderr


@pytest.mark.parametrize("word, meant", [("lz", "ls"), ("inof", "info"), ("unmount", "umount"), ("ch", "check"),
                                         ("renmae", "rename"), ("meta", "metadata"), ("copmact", "compact"), ("export", "export-pytorch"), ("snyc", "sync")])
def test_unknown_verb(stfs, word, meant):
    done = stfs(word, check=False)
    assert done.returncode == 64 and done.stdout == ""
    assert f"stfs: {word}: no such verb (did you mean" in done.stderr and meant in done.stderr


@pytest.mark.parametrize("args", [
    ["info"], ["info", "a", "b"], ["info", "--nonsense", "a"], ["ls"], ["ls", "--sort", "colour", "a"],
    ["ls", "--sort"], ["cat", "a"], ["cat", "--npy", "--json", "a", "b"], ["check"], ["map"],
    ["map", "--width", "9x", "a"], ["map", "--json", "--svg", "x", "a"], ["mount", "a"], ["umount"],
    ["status", "a", "b"], ["ls", "-Z", "a"], ["help", "nonsense"], ["put"], ["put", "a"], ["rm"], ["mv", "a", "b"], ["cp", "a"],
    ["rename", "a", "b"], ["metadata"], ["edit", "a"], ["create"], ["compact"], ["recover", "a", "b"],
    ["rm", "-Z", "a", "b"], ["sync"], ["sync", "-Z", "a"], ["export-pytorch", "a"], ["save", "a"], ["put", "a", "b", "c", "--dtype"], ["metadata", "a", "--set", "x"]])
def test_usage_errors(stfs, args):
    done = stfs(*args, check=False)
    assert done.returncode == 64 and done.stdout == ""
    assert done.stderr.startswith("stfs: ")


def test_a_model_that_is_not_there(stfs, tmp_path):
    for verb in "info", "ls", "map":
        done = stfs(verb, tmp_path / "none", check=False)
        assert done.returncode == 1 and done.stdout == ""
        assert done.stderr == f"stfs: {tmp_path}/none: No such file or directory\n"


def test_full_disk(stfs_path, program_env, small_model):
    for args in (["ls", small_model], ["--help"], ["ls", "--json", small_model], ["check", small_model],
                 ["cat", small_model, "steps"], ["map", "--svg", "-", small_model]):
        with open("/dev/full", "w") as full:
            done = subprocess.run([stfs_path, *args], stdout=full, stderr=subprocess.PIPE, text=True,
                                  env=program_env)
        assert done.returncode == 1
        assert "No space left on device" in done.stderr


def test_closed_standard_output(stfs_path, program_env, small_model):
    before = small_model.read_bytes()
    for args in (["ls", small_model], ["cat", small_model, "steps"]):
        done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", stfs_path, *args], env=program_env,
                              stderr=subprocess.PIPE, text=True)
        assert done.returncode == 1
        assert done.stderr.startswith("stfs: ")
    assert small_model.read_bytes() == before


@pytest.mark.parametrize("ignored", [False, True])
def test_reader_that_goes_away(stfs_path, program_env, make_model, ignored):
    """Quiet, whether SIGPIPE kills or is ignored (as a parent may have it)."""
    model = make_model("large.safetensors", {f"tensor.{i}": ("U8", [64], None) for i in range(20000)}
                       | {"large": ("U8", [4 << 20], None)})
    for args in (["ls", model], ["cat", model, "large"], ["ls", "--json", model]):
        reading, writing = os.pipe()
        process = subprocess.Popen([stfs_path, *args], stdout=writing, stderr=subprocess.PIPE,
                                   env=program_env, restore_signals=not ignored)
        os.close(writing)
        os.read(reading, 10)
        os.close(reading)
        assert process.stderr.read() == b""
        process.stderr.close()
        assert process.wait() in ((141,) if ignored else (141, -13))
