# SPDX-License-Identifier: MIT
"""What is written about the programs against what they say themselves."""
import pathlib
import re
import subprocess

import pytest

import models

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMPLETION = ROOT / "docs/completion/stfs"


def options(help_text):
    """The options that a help text names in its lists: --long and -s."""
    lines = re.findall(r"^ {2,6}((?:-\w, )?--?[a-zA-Z0-9][\w-]*)", help_text, re.M)
    return {option for line in lines for option in line.split(", ")}


def verbs(stfs):
    """The verbs that the overview lists."""
    return re.findall(r"^  (?!stfs )([a-z]+) +\S", stfs("--help").stdout, re.M)


def manual(name):
    """The source of a manual page."""
    return (ROOT / "docs/man" / name).read_text()


def manual_options(page):
    """The options that it documents, as a reader sees them."""
    lists = re.findall(r"\bFl ([-\w]+(?: , [-\w]+)*)", page)
    return {f"-{option}" for found in lists for option in found.split(" , ")}


def test_manual_of_every_verb(stfs):
    page = manual("stfs.1")
    found = verbs(stfs)
    assert {"mount", "umount", "status", "info", "ls", "cat", "check", "map", "put", "recover"} <= set(found)
    for verb in found:
        assert re.search(rf"^\.It Cm {verb}\b", page, re.M), f"{verb} is not in stfs.1"
        missing = options(stfs("help", verb).stdout) - {"--help"} - manual_options(page)
        assert not missing, f"{verb} {missing} is not in stfs.1"


def test_manual_of_the_daemon(daemon_path, program_env):
    text = subprocess.run([daemon_path, "--help"], capture_output=True, text=True, check=True,
                          env=program_env).stdout
    page = manual("safetensorsfs.1")
    assert options(text) <= manual_options(page)
    mount_options = text.partition("options for -o:")[2]
    listed = re.findall(r"^  (\w+(?:=[^\s,]+)?(?:, \w+(?:=[^\s,]+)?)*)", mount_options, re.M)
    names = {word.partition("=")[0] for line in listed for word in line.split(", ")}
    assert {"view", "sidecars", "uid", "gid", "umask", "cache", "allow_other"} <= names
    documented = re.findall(r"\bCm (\w+(?: (?:Ns = Ns \S+(?: \w)? , Cm |, )\w+)*)", page)
    assert names <= {name for found in documented for name in re.findall(r"\w+", found)}


def complete(stfs, *words, cwd):
    """What bash offers for the last of the words."""
    script = """
        source "$1"; shift
        compopt() { :; }
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
        "_$1"
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(["bash", "--norc", "-c", script, "bash", COMPLETION, *words], env=stfs.env,
                          cwd=cwd, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return [line for line in done.stdout.split("\n") if line]


@pytest.fixture
def folder(tmp_path):
    """A working folder with two models and something else in it."""
    where = tmp_path / "cwd"
    tensors = {name: ("U8", [1], None) for name in ("layer.0.bias", "layer.0.weight", "a b", "it's", "[q]")}
    models.write_model(where / "m.safetensors", tensors)
    models.write_model(where / "two words.safetensors", tensors)
    (where / "m.txt").touch()
    return where


@pytest.mark.parametrize("words, wanted", [
    (["u"], ["umount"]),
    (["ls", "m"], ["m.safetensors"]),
    (["check", "t"], ["two words.safetensors"]),
    (["cat", "m.safetensors", "layer.0.w"], ["layer.0.weight"]),
    (["cat", "--npy", "m.safetensors", "layer."], ["layer.0.bias", "layer.0.weight"]),
    (["cat", "two\\ words.safetensors", "a"], ["a\\ b"]),
    (["cat", "m.safetensors", "[q"], ["\\[q\\]"]),
    (["ls", "m.safetensors", "it"], ["it\\'s"]),
    (["ls", "--sort", "s"], ["size"]),
    (["ls", "--excl"], ["--exclude"]),
    (["mount", "m.safetensors", "d", "-o", "xattr,view=n"], ["xattr,view=npy"]),
    (["cat", "absent.safetensors", ""], []),
    (["rm", "m.safetensors", "layer.0.bias", "layer.0.w"], ["layer.0.weight"]),
    (["mv", "--replace", "m.safetensors", "it"], ["it\\'s"]),
    (["rename", "--sub", "s/a/b/", "m.safetensors", "[q"], ["\\[q\\]"]),
    (["put", "m.safetensors", "layer.0.b"], ["layer.0.bias"]),
    (["put", "m.safetensors", "layer.0.bias", "m.t"], ["m.txt"]),
    (["put", "m.safetensors", "layer.0.bias=m.t"], ["layer.0.bias=m.txt"]),
    (["put", "--dtype", "F8_E4M3F"], ["F8_E4M3FNUZ"]),
    (["cp", "m.safetensors:layer.0.b"], ["m.safetensors:layer.0.bias"]),
    (["cp", "m.safetensors:x", "m.s"], ["m.safetensors"]),
    (["compact", "--punch"], ["--punch-zeros"]),
    (["edit", "--readers", "i"], ["ignore"]),
])
def test_completion(stfs, folder, words, wanted):
    assert complete(stfs, "stfs", *words, cwd=folder) == wanted


def test_completion_of_the_daemon(stfs, folder):
    assert complete(stfs, "safetensorsfs", "m", cwd=folder) == ["m.safetensors"]
    assert complete(stfs, "safetensorsfs", "-o", "sidecars=h", cwd=folder) == ["sidecars=hidden"]
