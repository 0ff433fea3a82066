# SPDX-License-Identifier: MIT
"""The programs that people use on files, on the real model and on one sharded by the hub's own code."""
import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy
import pytest

import models

KINDS = ("whole", "sharded")


def tool(*words, check=True, cwd=None, input=None, text=True):
    """Runs a program; with check, exit code 0 and not a word of complaint."""
    if not shutil.which(os.fspath(words[0])):
        pytest.fail(f"{words[0]} is not installed", pytrace=False)
    done = subprocess.run([*map(os.fspath, words)], capture_output=True, text=text, cwd=cwd, input=input,
                          env=dict(os.environ, LC_ALL="C.UTF-8"), timeout=300)
    if check:
        assert (done.returncode, done.stderr) == (0, "" if text else b""), (words, done.stderr)
    return done


def lines(*words, **kw):
    return tool(*words, **kw).stdout.splitlines()


@pytest.fixture(params=KINDS)
def official(request, real_model):
    """(path of a model, {name: (dtype, shape, bytes)} by the official loader)"""
    if request.param == "whole":
        return real_model, models.official_tensors(real_model)
    folder = request.getfixturevalue("sharded_model")
    return folder, models.official_tensors(*models.shards(folder))


@pytest.fixture
def mounted(mount, official):
    """(folder, {file: bytes} of what is to be in it); names of real models need no escapes."""
    path, tensors = official
    folder = mount(path).path
    wanted = {name: data for name, (_, _, data) in tensors.items()}
    for name, (dtype, shape, _) in tensors.items():
        sidecar = json.loads((folder / f"{name}.json").read_text())
        assert (sidecar["dtype"], sidecar["shape"]) == (dtype, shape)
        wanted[f"{name}.json"] = (folder / f"{name}.json").read_bytes()
    if (folder / "__metadata__.json").exists():
        wanted["__metadata__.json"] = (folder / "__metadata__.json").read_bytes()
    return folder, wanted


def contents(folder):
    return {name: (folder / name).read_bytes() for name in os.listdir(folder)}


def test_sha256sum_equals_the_official_loader(official, mount):
    path, tensors = official
    folder = mount(path).path
    found = dict(reversed(line.split("  ", 1)) for line in lines("sha256sum", *sorted(tensors), cwd=folder))
    assert found == {name: hashlib.sha256(data).hexdigest() for name, (_, _, data) in tensors.items()}


@pytest.mark.parametrize("options", [[], ["cache=always"], ["cache=never"]])
def test_md5sum_in_every_mode(official, mount, options):
    path, tensors = official
    folder = mount(path, *options).path
    for _ in range(2):
        found = dict(reversed(line.split("  ", 1)) for line in lines("md5sum", *sorted(tensors), cwd=folder))
        assert found == {name: hashlib.md5(data).hexdigest() for name, (_, _, data) in tensors.items()}


def test_find(mounted):
    folder, wanted = mounted
    assert sorted(lines("find", ".", "-type", "f", cwd=folder)) == sorted(f"./{name}" for name in wanted)
    sized = lines("find", ".", "-type", "f", "-printf", "%s %P\n", cwd=folder)
    sizes = dict(line.split(" ", 1)[::-1] for line in sized)
    assert sizes == {name: str(len(data)) for name, data in wanted.items()}
    assert lines("find", ".", "-newermt", "2100-01-01", cwd=folder) == []
    assert len(lines("find", ".", "-name", "*.json", cwd=folder)) == sum(n.endswith(".json") for n in wanted)


def test_ls(mounted):
    folder, wanted = mounted
    rows = [line.split(None, 6) for line in lines("ls", "-lR", "--time-style=+%s", folder)[2:]]
    listed = {row[6]: int(row[4]) for row in rows}
    assert listed == {name: len(data) for name, data in wanted.items()}
    assert {row[0] for row in rows} <= {"-r--r--r--", "-r--------", "-r--r-----"}


@pytest.mark.parametrize("flags", ["-a", "-r", "-rL"])
def test_cp(mounted, tmp_path, flags):
    folder, wanted = mounted
    tool("cp", flags, folder, tmp_path / "copy")
    assert contents(tmp_path / "copy") == wanted
    if flags == "-a":
        for name in wanted:
            assert os.stat(tmp_path / "copy" / name).st_mtime_ns == os.stat(folder / name).st_mtime_ns
            assert os.stat(tmp_path / "copy" / name).st_mode == os.stat(folder / name).st_mode


@pytest.mark.parametrize("flags", [["--sparse=always"], ["--reflink=auto"], ["--sparse=never"]])
def test_cp_of_one_tensor(mounted, tmp_path, flags):
    folder, wanted = mounted
    largest = max(wanted, key=lambda name: len(wanted[name]))
    tool("cp", *flags, folder / largest, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == wanted[largest]


def test_rsync_and_again(mounted, tmp_path):
    folder, wanted = mounted
    tool("rsync", "-a", f"{folder}/", tmp_path / "copy")
    assert contents(tmp_path / "copy") == wanted
    assert lines("rsync", "-a", "--itemize-changes", f"{folder}/", tmp_path / "copy") == []
    assert lines("rsync", "-rc", "--itemize-changes", "--size-only", f"{folder}/", tmp_path / "copy") == []
    changed = min(wanted)
    os.chmod(tmp_path / "copy" / changed, 0o600)
    (tmp_path / "copy" / changed).write_bytes(b"other")
    assert [line.split(" ", 1)[1] for line in
            lines("rsync", "-a", "--itemize-changes", f"{folder}/", tmp_path / "copy")] == [changed]


def test_tar(mounted, tmp_path):
    folder, wanted = mounted
    (tmp_path / "copy").mkdir()
    tool("tar", "cf", tmp_path / "all.tar", "-C", folder, ".")
    tool("tar", "xf", tmp_path / "all.tar", "-C", tmp_path / "copy")
    assert contents(tmp_path / "copy") == wanted
    assert tool("tar", "df", tmp_path / "all.tar", "-C", folder).stdout == ""


def test_diff_and_cmp(mounted, tmp_path):
    folder, wanted = mounted
    tool("cp", "-r", folder, tmp_path / "copy")
    assert tool("diff", "-r", folder, tmp_path / "copy").stdout == ""
    largest = max(wanted, key=lambda name: len(wanted[name]))
    tool("cmp", folder / largest, tmp_path / "copy" / largest)
    os.chmod(tmp_path / "copy" / largest, 0o600)
    with open(tmp_path / "copy" / largest, "r+b") as file:
        file.seek(len(wanted[largest]) - 1)
        file.write(bytes([wanted[largest][-1] ^ 1]))
    assert tool("diff", "-rq", folder, tmp_path / "copy", check=False).returncode == 1
    differs = tool("cmp", folder / largest, tmp_path / "copy" / largest, check=False)
    assert differs.returncode == 1 and f"byte {len(wanted[largest])}" in differs.stdout


@pytest.mark.parametrize("block, skip, count", [(1, 12345, 100), (4096, 3, 7), (65537, 1, 2), (1 << 20, 0, 3),
                                                (1 << 20, 1, 1), (333, 0, 5000)])
def test_dd(mounted, block, skip, count):
    folder, wanted = mounted
    largest = max(wanted, key=lambda name: len(wanted[name]))
    got = tool("dd", f"if={folder / largest}", f"bs={block}", f"skip={skip}", f"count={count}", "status=none",
               text=False).stdout
    assert got == wanted[largest][block * skip:block * (skip + count)] and got


def test_dd_with_direct_flag(mounted):
    folder, wanted = mounted
    largest = max(wanted, key=lambda name: len(wanted[name]))
    got = tool("dd", f"if={folder / largest}", "bs=1M", "iflag=direct", "status=none", text=False).stdout
    assert got == wanted[largest]


def test_counting(mounted):
    folder, wanted = mounted
    for name in sorted(wanted)[:40]:
        for program in ["wc", "-c", name], ["stat", "-c", "%s", name]:
            assert tool(*program, cwd=folder).stdout.split()[0] == str(len(wanted[name]))
        assert tool("cat", name, cwd=folder, text=False).stdout == wanted[name]
    total = sum(len(data) for data in wanted.values())
    assert int(tool("du", "-sb", "--apparent-size", folder).stdout.split()[0]) in range(total, total + 4097)


def test_head_tail_and_od(mounted):
    folder, wanted = mounted
    largest = max(wanted, key=lambda name: len(wanted[name]))
    assert tool("head", "-c", "1000", folder / largest, text=False).stdout == wanted[largest][:1000]
    assert tool("tail", "-c", "1000", folder / largest, text=False).stdout == wanted[largest][-1000:]
    floats = tool("od", "-An", "-tx1", "-v", "-j", "4096", "-N", "64", folder / largest).stdout
    assert bytes.fromhex(floats) == wanted[largest][4096:4160]


def test_grep(mounted):
    folder, wanted = mounted
    found = lines("grep", "-rl", '"shape"', folder)
    assert sorted(os.path.basename(path) for path in found) == sorted(
        name for name in wanted if name.endswith(".json") and name != "__metadata__.json")


def test_json_tool(mounted):
    folder, wanted = mounted
    for name in [n for n in sorted(wanted) if n.endswith(".json")][:10] + [".stfs"]:
        done = tool(sys.executable, "-m", "json.tool", folder / name)
        assert json.loads(done.stdout)


def test_numpy_on_every_tensor(official, mount):
    path, tensors = official
    folder = mount(path).path
    for name, (dtype, shape, data) in tensors.items():
        sidecar = json.loads((folder / f"{name}.json").read_text())
        loaded = numpy.load(folder / f"{name}.npy", mmap_mode="r")
        mapped = loaded
        if data:
            mapped = numpy.memmap(folder / name, dtype=sidecar["descr"], mode="r", shape=tuple(shape))
        assert loaded.shape == mapped.shape == tuple(shape)
        assert loaded.tobytes() == mapped.tobytes() == data
        del loaded, mapped


def test_torch_reads_a_tensor(mount, real_model):
    import torch
    from safetensors import safe_open
    folder = mount(real_model).path
    with safe_open(real_model, "pt") as model:
        for name in list(model.keys())[:20]:
            wanted = model.get_tensor(name)
            if wanted.dtype != torch.float32 or not wanted.numel():
                continue
            got = torch.from_file(str(folder / name), shared=False, size=wanted.numel()).reshape(wanted.shape)
            assert torch.equal(got, wanted)
            assert torch.equal(torch.from_numpy(numpy.load(folder / f"{name}.npy")), wanted)


def test_shells_walk_it(mounted):
    """Globs and loops, as one types them."""
    folder, wanted = mounted
    script = 'for f in *.json; do test -s "$f" || exit 1; done; set -- *; echo $#'
    assert tool("sh", "-c", script, cwd=folder).stdout.strip() == str(len(wanted))


def test_archive_of_odd_names(mount, make_model, tmp_path):
    """What cannot be a plain name goes through tar, rsync and cp and comes back the same."""
    names = ["", "..", "a/b", "x", "x.json", "a\nb", "\0", "%", "-rf", " ", "n" * 300, "é", "*"]
    folder = mount(make_model("m.safetensors", {n: ("U8", [i], None) for i, n in enumerate(names)})).path
    wanted = contents(folder)
    assert len(wanted) == 2 * len(names)
    tool("tar", "cf", tmp_path / "a.tar", "-C", folder, ".")
    (tmp_path / "tar").mkdir()
    tool("tar", "xf", tmp_path / "a.tar", "-C", tmp_path / "tar")
    tool("rsync", "-a", f"{folder}/", tmp_path / "rsync")
    tool("cp", "-a", folder, tmp_path / "cp")
    assert contents(tmp_path / "tar") == contents(tmp_path / "rsync") == contents(tmp_path / "cp") == wanted
    listed = tool("find", folder, "-type", "f", "-print0").stdout.split("\0")[:-1]
    assert len(listed) == len(wanted)


def test_ls_asks_for_no_attributes_twice(mount, small_model):
    """ls -l looks for ACLs and labels; without -o xattr the kernel asks once and remembers."""
    mounted = mount(small_model, daemon_args=["-d"])
    tool("ls", "-lZ", mounted.path, check=False)
    tool("getfattr", "-d", mounted.path / "steps", check=False)
    assert mounted.stderr().count("GETXATTR") <= 1


def test_getfattr(mount, small_model):
    folder = mount(small_model, "xattr").path
    text = tool("getfattr", "-d", "layer.0.bias", cwd=folder).stdout
    assert 'user.safetensors.dtype="BF16"' in text and 'user.safetensors.shape="[24]"' in text
    shape = tool("getfattr", "-n", "user.safetensors.shape", "--only-values", "steps", cwd=folder)
    assert shape.stdout == "[]"
    without = tool("getfattr", "-d", mount(small_model).path / "steps", check=False)
    assert "user.safetensors" not in without.stdout
