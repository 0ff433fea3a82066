# SPDX-License-Identifier: MIT
"""Programs that people edit with: editors, NumPy, rsync, a file manager, sed, tar. Their own ways of saving are what is
tested: temporary names, renames, backups, mappings."""
import errno
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import models
from conftest import SLOW, abort_connection

TENSORS = {"a": ("F32", [4, 6], None), "big": ("F32", [512, 600], None), "half": ("BF16", [3, 5], None)}


@pytest.fixture
def edited(mount_rw, make_model):
    """A mount of TENSORS, and how the model is seen by the official loader."""
    made = mount_rw(make_model("m.safetensors", TENSORS, {"format": "pt"}))
    return made, lambda: models.official_tensors(made.model)


def need(program):
    found = shutil.which(program)
    assert found, f"{program} is missing: scripts/setup test installs it"
    return found


def run(*command, **kw):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, **kw)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def sidecar(path):
    return json.loads(path.read_text())


# --- NumPy ------------------------------------------------------------------------------------------------


def test_np_save_of_a_new_tensor(edited, stfs):
    made, official = edited
    array = np.arange(12, dtype=np.int16).reshape(3, 4)
    np.save(made.path / "new.npy", array)
    assert (made.path / "new").read_bytes() == array.tobytes()
    assert sidecar(made.path / "new.json") == {"dtype": "I16", "shape": [3, 4], "descr": "<i2"}
    stfs("sync", made.path)
    assert official()["new"] == ("I16", [3, 4], array.tobytes())


@pytest.mark.parametrize("dtype", ["<f4", "<i8", "|u1"])
def test_np_save_over_a_tensor(edited, stfs, dtype):
    made, official = edited
    array = np.arange(20).astype(dtype).reshape(4, 5)
    np.save(made.path / "a.npy", np.asfortranarray(array))
    assert (np.load(made.path / "a.npy") == array).all()
    stfs("sync", made.path)
    assert official()["a"][2] == array.tobytes() and official()["a"][1] == [4, 5]


def test_np_load_mapped_for_writing(edited, stfs):
    made, official = edited
    array = np.load(made.path / "big.npy", mmap_mode="r+")
    array[7] = 2.5
    array.flush()
    raw = np.memmap(made.path / "big", np.float32, "r", shape=(512, 600))
    assert (raw[7] == 2.5).all() and (np.fromfile(made.path / "big", np.float32)[7 * 600:8 * 600] == 2.5).all()
    # Within the tensor, and flushed: it is in the model, without a commit.
    assert official()["big"][2][7 * 2400:8 * 2400] == np.full(600, 2.5, np.float32).tobytes()


def test_a_mapping_of_the_raw_bytes_shows_in_the_npy(edited):
    made, _ = edited
    seen = np.load(made.path / "big.npy", mmap_mode="r")
    before = float(seen[3, 3])
    raw = np.memmap(made.path / "big", np.float32, "r+", shape=(512, 600))
    raw[3, 3] = before + 1
    raw.flush()
    assert float(seen[3, 3]) == before + 1


@pytest.mark.parametrize("how", ["renamed", "removed", "removed as .npy", "replaced as .npy"])
def test_an_open_file_is_read_on_when_its_name_goes(edited, how):
    """x.npy and x.json belong to the name, and x to the tensor: fstat of what goes by another may be refused, no more."""
    made, _ = edited
    files = {"removed as .npy": ["a", "a.npy"], "replaced as .npy": ["a"]}.get(how, ["a", "a.npy", "a.json"])
    found = {file: (made.path / file).read_bytes() for file in files}
    fds = {file: os.open(made.path / file, os.O_RDONLY) for file in files}
    if how == "renamed":
        (made.path / "a").rename(made.path / "b")
    elif how == "replaced as .npy":
        (made.path / "big.npy").rename(made.path / "a.npy")
    else:
        (made.path / ("a.npy" if "as" in how else "a")).unlink()
    for file, fd in fds.items():
        for _ in range(2):
            assert os.pread(fd, 1 << 20, 0) == found[file], file
            assert os.lseek(fd, 0, os.SEEK_END) == len(found[file]), file
            try:
                assert os.fstat(fd).st_size == len(found[file])
            except OSError as error:
                assert error.errno == errno.ESTALE and not (how == "renamed" and file == "a"), file
        os.close(fd)


def test_a_type_that_numpy_lacks_is_kept(edited, stfs):
    made, official = edited
    array = np.load(made.path / "half.npy")
    assert array.dtype == np.dtype("V2")
    np.save(made.path / "half.npy", array)
    np.save(made.path / "copy.npy", array)
    stfs("sync", made.path)
    assert official()["half"][:2] == official()["copy"][:2] == ("BF16", [3, 5])


@pytest.mark.parametrize("file", ["x.npy", "a.npy"])
def test_an_array_that_no_tensor_can_be_is_refused_at_close(edited, file):
    made, _ = edited
    old = sorted(os.listdir(made.path)), (made.path / "a").read_bytes()
    for array in (np.arange(6, dtype=">f4"), np.array(["text"]), np.zeros(3, "V1")):
        buffer = io.BytesIO()
        np.save(buffer, array)
        with pytest.raises(OSError, match="Invalid argument"):
            with open(made.path / file, "wb", buffering=0) as out:
                out.write(buffer.getvalue())
    # One that ends early as well.
    with pytest.raises(OSError, match="Invalid argument"):
        with open(made.path / file, "wb", buffering=0) as out:
            np.save(buffer := io.BytesIO(), np.zeros(100))
            out.write(buffer.getvalue()[:-1])
    refused = json.loads((made.path / ".stfs").read_text())["refused"]
    assert [r["file"] for r in refused] == [file] and "bytes" in refused[0]["why"]
    assert (sorted(os.listdir(made.path)), (made.path / "a").read_bytes()) == old


# --- rsync, cp, tar ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--whole-file", "--inplace", "--no-whole-file"])
def test_rsync_of_one_tensor_between_two_mounts(edited, mount_rw, make_model, stfs, option):
    made, official = edited
    source = make_model("other.safetensors", {"big": ("F32", [512, 600], os.urandom(512 * 2400)), "z": ("U8", [3], None)})
    os.utime(source, (10 ** 9, 10 ** 9))  # rsync looks at size and time alone
    other = mount_rw(source)
    run(need("rsync"), "-a", option, other.path / "big", other.path / "big.json", made.path)
    assert run("rsync", "-ai", "--dry-run", other.path / "big", other.path / "big.json", made.path) == ""
    stfs("sync", made.path)
    assert official()["big"] == models.official_tensors(other.model)["big"]
    assert not [f for f in os.listdir(made.path) if f.startswith(".")]


COPIERS = {
    "cp -r": lambda source, target: run("cp", "-r", f"{source}/.", target),
    "cp -a": lambda source, target: run("cp", "-a", f"{source}/.", target),
    "rsync -a": lambda source, target: run(need("rsync"), "-a", f"{source}/", f"{target}/"),
    "rsync -a --inplace": lambda source, target: run(need("rsync"), "-a", "--inplace", f"{source}/", f"{target}/"),
    "tar x": lambda source, target: run("sh", "-c", f"tar -C '{source}' -cf - . | tar -C '{target}' -xf -"),
    "shutil": lambda source, target: shutil.copytree(source, target, dirs_exist_ok=True),
}


@pytest.mark.parametrize("how", COPIERS)
def test_an_exported_directory_becomes_the_same_model(mount, mount_rw, make_model, stfs, tmp_path, how):
    tensors = dict(TENSORS, **{"a/b%": ("I8", [7], None), "scalar": ("F64", [], None), "empty": ("F16", [0, 3], None),
                               "n" * 300: ("U8", [5], None), "f4": ("F4", [6], None)})
    source = mount(make_model("source.safetensors", tensors, {"format": "pt", "k": "v\n\""}))
    shutil.copytree(source.path, tmp_path / "export")
    made = mount_rw(tmp_path / "new.safetensors", "create")
    COPIERS[how](tmp_path / "export", made.path)
    stfs("umount", made.path)
    assert models.official_tensors(made.model) == models.official_tensors(source.model)
    assert models.read_header(made.model)[0]["__metadata__"] == {"format": "pt", "k": "v\n\""}


def test_tar_over_a_model_keeps_its_types(edited, stfs, tmp_path):
    """tar removes a file before it creates it anew."""
    made, official = edited
    (tmp_path / "a").write_bytes(bytes(96))
    run("tar", "-C", tmp_path, "-cf", tmp_path / "a.tar", "a")
    run("tar", "-C", made.path, "--unlink-first", "-xf", tmp_path / "a.tar")
    stfs("sync", made.path)
    assert official()["a"] == ("F32", [4, 6], bytes(96))


@pytest.mark.parametrize("command", ["rm {0}/a*", "rm -r {0}/*", "find {0} -name 'a*' -delete", "rm {0}/a.json {0}/a",
                                     "{1} -c 'import glob, os; [os.unlink(f) for f in glob.glob(\"{0}/a*\")]'"])
def test_all_files_of_a_tensor_can_be_removed(edited, stfs, command):
    made, official = edited
    run("sh", "-c", command.format(made.path, sys.executable))
    assert not [f for f in os.listdir(made.path) if f.startswith("a")]
    stfs("sync", made.path)
    assert "a" not in official()


# --- editors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["backupcopy=no", "backupcopy=yes", "backupcopy=auto", "backup", "nowritebackup"])
def test_vim_on_a_sidecar(edited, stfs, setting):
    made, official = edited
    run(need("vim.tiny"), "-es", "-u", "NONE", "-c", f"set {setting} backupdir=.", "-c", "%s/4,6/24/", "-c", "wq",
        made.path / "a.json", cwd=made.path)
    assert sidecar(made.path / "a.json")["shape"] == [24]
    stfs("sync", made.path)
    assert official()["a"][:2] == ("F32", [24]) and sorted(official()) == sorted(TENSORS)


def test_sed_in_place(edited, stfs):
    made, official = edited
    run("sed", "-i", "s/4,6/6,4/", made.path / "a.json")
    run("sed", "-i", "s/pt/tf/", made.path / "__metadata__.json")
    stfs("sync", made.path)
    assert official()["a"][:2] == ("F32", [6, 4])
    assert models.read_header(made.model)[0]["__metadata__"] == {"format": "tf"}


def test_a_text_that_does_not_parse_is_refused(edited, stfs):
    made, official = edited
    for file, text, why in (("a.json", "{", "a.json"), ("a.json", '{"dtype":"F33","shape":[4,6]}', "F33"),
                            ("__metadata__.json", '{"k": 1}', "string")):
        old = (made.path / file).read_text()
        with pytest.raises(OSError, match="Invalid argument"):
            with open(made.path / file, "w") as out:
                out.write(text)
        with open(made.path / file, "r+") as out:
            out.truncate(0)
            out.write(text)
            out.flush()
            with pytest.raises(OSError, match="Invalid argument"):
                os.fsync(out.fileno())
            out.truncate(0)
            out.seek(0)
            out.write(old)
        temporary = made.path / ".tmp"
        temporary.write_text(text)
        with pytest.raises(OSError, match="Invalid argument"):
            os.rename(temporary, made.path / file)
        temporary.unlink()
        assert (made.path / file).read_text() == old
        assert any(why in r["why"] or why == r["file"] for r in json.loads((made.path / ".stfs").read_text())["refused"])
    stfs("sync", made.path)
    assert official()["a"][:2] == ("F32", [4, 6])


def test_a_file_managers_copy(edited, stfs):
    made, official = edited
    for file in ("a", "a.json"):
        run(need("gio"), "copy", made.path / file, made.path / file.replace("a", "copy", 1))
    stfs("sync", made.path)
    assert official()["copy"] == official()["a"]


def test_a_child_process_that_ends_has_not_closed_the_file(edited, stfs):
    """It closes its copies of the descriptors: what is half written stays out of the model, though whole rows are there."""
    made, official = edited
    before = official()
    with open(made.path / "a", "wb", buffering=0) as file:
        file.write(bytes(48))
        run("true", pass_fds=[file.fileno()])
        stfs("sync", made.path)
        assert official() == before
        file.write(bytes(48))
    stfs("sync", made.path)
    assert official()["a"] == ("F32", [4, 6], bytes(96))


def test_rows_are_added_as_soon_as_a_file_is_closed(edited, stfs):
    """Its release comes some time after close(2), here not at all: whoever comes next need not wait for it."""
    made, official = edited
    (made.path / "x.json").write_text('{"dtype":"F32","shape":[4,2]}')
    with open(made.path / "x", "wb", buffering=0) as file:
        file.write(bytes(24))
        os.close(os.dup(file.fileno()))  # not all rows of the type: it waits for them
        assert sidecar(made.path / "x.json")["shape"] == [4, 2] and not (made.path / "x.npy").exists()
        file.write(bytes(8))
        os.close(os.dup(file.fileno()))
        (made.path / "x").write_bytes(b"12345678" * 3)
        assert sidecar(made.path / "x.json")["shape"] == [3, 2]
        with open(made.path / "x", "ab") as rows:
            rows.write(b"abcdefgh")
        assert sidecar(made.path / "x.json")["shape"] == [4, 2]
        with open(made.path / "x", "ab") as rows:
            rows.write(b"abcdefgh")
    stfs("sync", made.path)
    assert official()["x"] == ("F32", [5, 2], b"12345678" * 3 + b"abcdefgh" * 2)


@pytest.mark.parametrize("options", [[], ["--keep-size"], ["--zero-range"], ["--zero-range", "--keep-size"]])
def test_room_that_is_not_there_is_not_promised(edited, tmp_path, options):
    """As rsync --preallocate asks: for a new file, and behind the end of a tensor."""
    made, official = edited
    found = os.statvfs(tmp_path)
    before = official()
    for name, size in ("new", 0), ("a", 96):
        file = made.path / name
        file.touch()
        done = subprocess.run([need("fallocate"), *options, "--length", str(found.f_bavail * found.f_frsize), file],
                              capture_output=True, text=True, check=False)
        assert done.returncode == 1 and "No space left" in done.stderr
        assert file.stat().st_size == size
        run("fallocate", *options, "--length", "96", file)
        assert file.stat().st_size == (size if "--keep-size" in options else 96)
    (made.path / "new").unlink()
    made.unmount()
    if "--zero-range" not in options:
        assert official() == before


# --- unmounting -------------------------------------------------------------------------------------------


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_stfs_umount_leaves_the_new_model(edited, stfs):
    made, official = edited
    for i in range(20):
        (made.path / f"t{i}.json").write_text('{"dtype":"U8","shape":[1000000]}')
        (made.path / f"t{i}").write_bytes(bytes([i]) * 1000000)
    stfs("umount", made.path)
    assert len(official()) == 3 + 20


def test_fusermount_does_not_wait_but_the_daemon_finishes(edited):
    made, official = edited
    (made.path / "a").unlink()
    made.unmount()  # fusermount3 -u, then waits for the daemon
    assert sorted(official()) == ["big", "half"]


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP"])
def test_a_signal_commits(edited, name):
    made, official = edited
    (made.path / "a").unlink()
    run("kill", f"-{name}", made.pid)
    assert made.ended() == 0 and sorted(official()) == ["big", "half"]


BUSY = """
import os, sys
import numpy as np
path, kind = sys.argv[1:]
array = np.load(path + ".npy", mmap_mode="r" if kind == "reads" else "r+")
fd = os.open(path, os.O_RDWR)
print(flush=True)
at = 0
while True:
    at = (at + 1024) % array.size
    if kind == "reads":
        array.sum()
    elif kind == "maps":
        array[at] = at
    else:
        os.pwrite(fd, bytes(65536), 65536)
"""


@pytest.mark.parametrize("daemon_args", [[], ["-s"]])
def test_a_signal_ends_a_mount_that_is_busy_with_both_forms(mount_rw, make_model, tmp_path, daemon_args):
    """To drop pages of one form that the other has changed takes answers to requests for these pages."""
    for turn in range(5):
        made = mount_rw(make_model(f"{turn}.safetensors", {"x": ("F32", [1 << 20], None), "old": ("U8", [5], None)}),
                        daemon_args=daemon_args)
        programs = [subprocess.Popen([sys.executable, "-c", BUSY, made.path / "x", kind], stdout=subprocess.PIPE,
                                     stderr=subprocess.DEVNULL) for kind in ("writes", "reads", "maps", "writes", "maps")]
        try:
            for program in programs:
                program.stdout.readline()
            (made.path / "old").rename(made.path / "new")
            time.sleep(0.5)
            entry = made.entry()
            os.kill(made.pid, signal.SIGTERM)
            code = made.ended(15 * SLOW)
            if code is None:  # though it may be unmounted
                abort_connection(entry, tmp_path / "fusectl")
            assert code == 0, "it hangs"
        finally:
            for program in programs:
                program.kill()
                program.wait()
                program.stdout.close()
        assert sorted(models.official_tensors(made.model)) == ["new", "x"]
