# SPDX-License-Identifier: MIT
"""What is written about the programs against what they say themselves."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

import models
from conftest import BUILD

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMPLETION = ROOT / "docs/completion/stfs"


def options(help_text):
    """The options that a help text names in its lists: --long and -s."""
    lines = re.findall(r"^ {2,6}((?:-\w, )?--?[a-zA-Z0-9][\w-]*)", help_text, re.M)
    return {option for line in lines for option in line.split(", ")}


def verbs(stfs):
    """The verbs that the overview lists."""
    return re.findall(r"^  (?!stfs )([a-z][a-z-]*) +\S", stfs("--help").stdout, re.M)


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
    (where / "old.pth").touch()
    return where


@pytest.mark.parametrize("words, wanted", [
    (["u"], ["umount"]),
    (["ls", "m"], ["m.safetensors"]),
    (["check", "t"], ["two words.safetensors"]),
    (["check", "o"], ["old.pth"]),
    (["check", "--f"], ["--fast"]),
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


README = (ROOT / "README.md").read_text()


def readme_commands():
    """(verb, long options) of every stfs command in the README's blocks and quoted words."""
    blocks = re.findall(r"^    (?:\$ )?(stfs [a-z]+.*)$", README, re.M) + re.findall(r"`(stfs [a-z]+[^`]*)`", README)
    for line in blocks:
        command = re.split(r" [|#] ", line)[0]
        yield command.split()[1], re.findall(r" (--[a-z-]+)", command)


def test_commands_of_the_readme(stfs):
    known, found = set(verbs(stfs)), list(readme_commands())
    assert {"rm", "put", "cp", "rename", "metadata", "edit", "recover", "check"} <= {verb for verb, _ in found}
    for verb, used in found:
        assert verb in known | {"help"}, verb
        missing = set(used) - (options(stfs("help", verb).stdout) if verb != "help" else set())
        assert not missing, f"stfs {verb} has no {missing}"


def test_links_of_the_documents():
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
            file, _, anchor = target.partition("#")
            there = (page.parent / file) if file else page
            assert there.exists(), f"{page.name}: {target}"
            titles = re.findall(r"^#+ (.*)$", there.read_text(), re.M) if anchor else []
            anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert not anchor or anchor in anchors, f"{page.name}: {target}"


def test_links_of_the_installed_documents():
    """What is installed of them lies so that links and named folders are there, and none leads to what is not."""
    plan = json.loads((BUILD / "meson-info/intro-install_plan.json").read_text())
    placed = {pathlib.Path(source): pathlib.Path(file["destination"]) for files in plan.values()
              for source, file in files.items()}
    pages = {source: there for source, there in placed.items() if source.suffix == ".md"}
    assert len(pages) >= 10
    there = {str(path) for path in placed.values()}
    for source, page in pages.items():
        for target in re.findall(r"\]\((?!https?:|#)([^)\s#]+)", source.read_text()):
            assert os.path.normpath(page.parent / target) in there, f"{source.name}, installed: {target}"
    systemd = next(path for path in placed.values() if path.name == "mnt-model.mount").parent
    assert systemd == next(page for page in pages.values() if page.name == "README.md").parent / "docs/systemd"


def test_quotes_of_the_manual_pages():
    """A quoting macro in a line of another goes on to the end of it: the next one nests in it."""
    for page in sorted((ROOT / "docs/man").glob("*.[18]")):
        for line in page.read_text().split("\n"):
            assert not re.search(r"^\..*\b(Ql|Dq|Sq) .* (Ql|Dq|Sq|No) ", line), f"{page.name}: {line}"


def session(text, block):
    """[(command, lines that it shows)] of the indented block of a document that begins with a line."""
    found = []
    for line in text[text.index(f"\n    {block}"):].split("\n\n")[0].strip("\n").split("\n"):
        if line.startswith("    $ "):
            found.append((line[6:], []))
        else:
            found[-1][1].append(line[4:])
    return found


def told(text):
    """What it says, but for costs, and for the order of a dict of the official loader's."""
    return [sorted(re.findall(r"[\w.-]+", line.partition(";")[0])) for line in text.splitlines()]


def test_first_edit_of_the_readme(stfs, real_model, tmp_path):
    """The session of the README, run again; on the real model it says the same."""
    shutil.copyfile(real_model, tmp_path / "model.safetensors")
    real = real_model.stat().st_size == 90868376
    env = dict(stfs.env, PATH=f"{pathlib.Path(sys.executable).parent}:{stfs.env['PATH']}")
    shown = session(README, "$ stfs rm --dry-run")
    assert len(shown) == 6
    for command, wanted in shown:
        if not real:
            command = command.replace("layer.5", "layer.3")
        done = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=tmp_path, env=env, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120, check=False)
        assert done.returncode == 0 and done.stderr == "", (command, done)
        if real and "--dry-run" not in command:  # a plan is the file system's affair
            assert told(done.stdout) == told("\n".join(wanted)), command


def test_first_edit_through_a_mount_of_the_readme(stfs, daemon_path, real_model, tmp_path):
    """The same of the session in the mount."""
    shutil.copyfile(real_model, tmp_path / "model.safetensors")
    real = real_model.stat().st_size == 90868376
    env = dict(stfs.env, PATH=f"{pathlib.Path(sys.executable).parent}:{stfs.env['PATH']}")
    shown = session(README, "$ rm m/encoder")
    assert len(shown) == 8 and shown[-1][0] == "stfs umount m"
    # Not that two seconds pass between two lines of it, on a slow machine.
    subprocess.run([daemon_path, "-o", "autosync=0", "model.safetensors", "m"], cwd=tmp_path, env=env, check=True)
    for command, wanted in shown:
        if not real:
            command = command.replace("layer.5", "layer.3").replace("pooler.dense.bias", "embeddings.LayerNorm.bias")
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=env, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120, check=False)
        assert done.returncode == 0 and done.stderr == "", (command, done)
        if real:
            assert told(done.stdout.replace(f"{tmp_path}/", "")) == told("\n".join(wanted)), command
