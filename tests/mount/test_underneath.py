# SPDX-License-Identifier: MIT
"""The model changes underneath, by another program: right bytes or an error, and the daemon lives."""
import errno
import json
import mmap
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time

import pytest

import models

MIB = 1 << 20
LARGE = 3 * MIB + 17


def status(mounted):
    return json.loads((mounted.path / ".stfs").read_text())


def state(mounted):
    found, = {f["state"] for f in status(mounted)["files"]}
    return found


def alive(mounted):
    """The daemon runs and answers."""
    return mounted.ended(0) is None and bool(os.listdir(mounted.path))


def outcome(action, *args):
    """What a call returned, or the errno it ended with."""
    try:
        return action(*args)
    except OSError as error:
        return error.errno


def once_read(path):
    with open(path, "rb") as file:
        return file.read()


def filled(value, size):
    return bytes([value]) * size


@pytest.fixture
def model(make_model):
    """first (small), large, last (small): bytes that are never zero"""
    chosen = random.Random(9)
    tensors = {name: ("U8", [size], bytes(chosen.choices(range(1, 256), k=size)))
               for name, size in (("first", 5000), ("large", LARGE), ("last", 9000))}
    return make_model("model.safetensors", tensors, {"format": "pt"})


def data_of(model):
    """{name: (position in the file, bytes)}"""
    header, start = models.read_header(model)
    text = model.read_bytes()
    places = {name: e["data_offsets"] for name, e in header.items() if name != "__metadata__"}
    return {name: (start + begin, text[start + begin:start + end]) for name, (begin, end) in places.items()}


def overwrite(path, position, data):
    """In place, as another program would."""
    fd = os.open(path, os.O_WRONLY)
    try:
        assert os.pwrite(fd, data, position) == len(data)
    finally:
        os.close(fd)


# --- cut short --------------------------------------------------------------------------------


def check_cut(fd, data, position, length_left):
    """Every read is right, or short, or an error; beyond the end there is nothing, not even zeros."""
    chosen = random.Random(10)
    left = max(0, length_left - position)  # bytes of the tensor that are still there
    spots = [at + d for at in (0, left, left // 4096 * 4096, len(data) - 1)
             for d in (-MIB, -100_000, -4096, -1, 0, 1, 100)]
    for offset in [s for s in spots if 0 <= s < len(data)] + [chosen.randrange(len(data)) for _ in range(20)]:
        for size in 1, 100, 4096, 65537, 200_000, MIB, 2 * MIB:
            got, wanted = outcome(os.pread, fd, size, offset), data[offset:offset + size]
            what = f"{size} bytes at {offset}, {left} left: {str(got)[:60]}"
            if got == errno.EIO:
                assert offset + len(wanted) > left, f"{what}, and all are there"
            else:  # a prefix where the kernel asked in several pieces
                assert wanted.startswith(got) and 0 < len(got) <= left - offset, what


@pytest.mark.parametrize("cut", [LARGE // 2, LARGE // 2 // 4096 * 4096, 1, LARGE - 1, 0])
def test_truncated(mount, model, cut):
    mounted = mount(model, "cache=never")
    places = data_of(model)
    position, data = places["large"]
    fd = os.open(mounted.path / "large", os.O_RDONLY)
    try:
        assert os.pread(fd, MIB, 0) == data[:MIB]
        os.truncate(model, position + cut)
        check_cut(fd, data, position, position + cut)
    finally:
        os.close(fd)
    assert once_read(mounted.path / "first") == places["first"][1]
    assert outcome(once_read, mounted.path / "last") == errno.EIO
    assert outcome(once_read, mounted.path / "last.npy") == errno.EIO
    assert json.loads((mounted.path / "last.json").read_text())["shape"] == [9000]
    assert state(mounted) == "truncated"
    assert alive(mounted)


@pytest.mark.parametrize("cache", ["auto", "always"])
def test_truncated_with_page_cache(mount, model, cache):
    """What the kernel still keeps may be served, but never other bytes."""
    mounted = mount(model, f"cache={cache}")
    places = data_of(model)
    once_read(mounted.path / "first")
    os.truncate(model, places["large"][0] + 10_000)
    for name, (_, data) in places.items():
        for file in name, f"{name}.npy":
            got = outcome(once_read, mounted.path / file)
            assert got == errno.EIO or got[-len(data):] == data
    assert once_read(mounted.path / "first") == places["first"][1]
    assert state(mounted) == "truncated" and alive(mounted)


def test_truncated_and_grown_again(mount, model):
    """The bytes are zeros then, and the file is no longer what it was: never the old ones."""
    mounted = mount(model, "cache=never")
    position, data = data_of(model)["large"]
    size = model.stat().st_size
    os.truncate(model, position + 1000)
    assert outcome(once_read, mounted.path / "large") == errno.EIO
    os.truncate(model, size)
    got = outcome(once_read, mounted.path / "large")
    assert got == data[:1000] + bytes(LARGE - 1000)
    assert state(mounted) == "touched" and alive(mounted)


TOUCH = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    view = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
first = view[0]
print("mapped", flush=True)
sys.stdin.readline()
print(view[int(sys.argv[2])], flush=True)
"""


@pytest.mark.parametrize("cache", ["auto", "always", "never"])
def test_mapped_access_beyond_the_end_kills_the_client_only(mount, model, cache):
    mounted = mount(model, f"cache={cache}")
    position, _ = data_of(model)["large"]
    client = subprocess.Popen([sys.executable, "-c", TOUCH, mounted.path / "large", str(LARGE - 10)],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert client.stdout.readline() == "mapped\n"
    os.truncate(model, position + 200_000)
    output, _ = client.communicate("\n")
    assert client.returncode == -signal.SIGBUS, output
    assert alive(mounted) and state(mounted) == "truncated"


def test_cut_within_the_header(mount, model):
    mounted = mount(model, "cache=never")
    once_read(mounted.path / "first")
    os.truncate(model, 100)
    for name in "first", "large", "last.npy":
        assert outcome(once_read, mounted.path / name) in (errno.ESTALE, errno.EIO)
    assert alive(mounted)


def test_cut_to_nothing(mount, model):
    mounted = mount(model, "cache=never")
    os.truncate(model, 0)
    assert outcome(once_read, mounted.path / "large") in (errno.ESTALE, errno.EIO)
    assert alive(mounted)


@pytest.mark.threads
def test_cut_while_it_is_read(mount, model):
    """Eight readers; the file is cut shorter and shorter, and grown again."""
    mounted = mount(model, "cache=never")
    position, data = data_of(model)["large"]
    size, wrong, stop = model.stat().st_size, [], threading.Event()

    def read(seed):
        chosen = random.Random(seed)
        fd = os.open(mounted.path / "large", os.O_RDONLY)
        while not stop.is_set():
            at = chosen.randrange(LARGE)
            got = outcome(os.pread, fd, 300_000, at)
            # zeros: of the grown file; a tear between both is a race that no check can see
            if got != errno.EIO and any(g not in (0, w) for g, w in zip(got, data[at:at + 300_000])):
                wrong.append(at)
        os.close(fd)
    readers = [threading.Thread(target=read, args=(i,)) for i in range(8)]
    for reader in readers:
        reader.start()
    for keep in range(20, 0, -1):
        os.truncate(model, position + LARGE * keep // 21)
        os.truncate(model, size)
    os.truncate(model, position + 1)
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == [] and alive(mounted)
    assert len(mounted.stderr().splitlines()) <= 1, "not once, but for each reply that failed"


def test_what_was_cut_is_said_once(mount, model):
    """In the log file, by name, and not for each of a thousand reads."""
    log = model.parent / "log"
    mounted = mount(model, "cache=never", daemon_args=[f"--log-file={log}"], foreground=False)
    os.truncate(model, data_of(model)["large"][0] + 1)
    fd = os.open(mounted.path / "large", os.O_RDONLY)
    try:
        for _ in range(50):
            assert outcome(os.pread, fd, MIB, 1 << 20) == errno.EIO
    finally:
        os.close(fd)
    assert len(log.read_text().splitlines()) <= 3
    assert status(mounted)["last_error"]


# --- replaced, deleted ------------------------------------------------------------------------


def test_replaced_by_rename(mount, model, make_model):
    """The old file goes on being served, whole."""
    mounted = mount(model)
    places = data_of(model)
    other = make_model("other.safetensors", {"first": ("U8", [7], None), "new": ("U8", [5], None)})
    os.replace(other, model)
    for name, (_, data) in places.items():
        assert once_read(mounted.path / name) == data
    assert not (mounted.path / "new").exists()
    assert state(mounted) == "replaced" and alive(mounted)


def test_deleted(mount, model):
    mounted = mount(model)
    places = data_of(model)
    model.unlink()
    for name, (_, data) in places.items():
        assert once_read(mounted.path / name) == data
    assert state(mounted) == "replaced" and alive(mounted)


def test_moved_with_its_folder(mount, make_model, tmp_path):
    model = make_model("a/b/m.safetensors", {"x": ("U8", [100_000], None)})
    mounted = mount(model)
    (tmp_path / "a").rename(tmp_path / "c")
    assert once_read(mounted.path / "x") == models.pattern("U8", [100_000], "x")
    assert state(mounted) == "fresh"


def test_folder_deleted(mount, make_model):
    model = make_model("a/m.safetensors", {"x": ("U8", [1000], None)})
    mounted = mount(model)
    model.unlink()
    model.parent.rmdir()
    assert once_read(mounted.path / "x") == models.pattern("U8", [1000], "x")
    assert state(mounted) == "replaced"


def test_link_turned_elsewhere(mount, model, make_model, tmp_path):
    """As a hub cache does on an update: the name leads to another file."""
    link = tmp_path / "link.safetensors"
    link.symlink_to(model)
    mounted = mount(link)
    assert state(mounted) == "fresh"
    other = make_model("other.safetensors", {"y": ("U8", [7], None)})
    link.unlink()
    link.symlink_to(other)
    assert once_read(mounted.path / "first") == data_of(model)["first"][1]
    assert state(mounted) == "replaced"


# --- overwritten in place ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["first", "large"])
@pytest.mark.parametrize("cache", ["auto", "always", "never"])
def test_new_opens_see_new_bytes(mount, model, cache, name):
    mounted = mount(model, f"cache={cache}")
    position, data = data_of(model)[name]
    for turn in range(3):  # the first reads are kept by the kernel
        assert once_read(mounted.path / name) == data
        assert once_read(mounted.path / f"{name}.npy").endswith(data)
        data = filled(turn + 1, len(data))
        overwrite(model, position, data)
    assert once_read(mounted.path / name) == data
    assert once_read(mounted.path / f"{name}.npy").endswith(data)
    assert once_read(mounted.path / "last") == data_of(model)["last"][1]
    assert state(mounted) == "touched"


def test_direct_reads_of_an_open_file_see_new_bytes(mount, model):
    mounted = mount(model)
    position, data = data_of(model)["large"]
    fd = os.open(mounted.path / "large", os.O_RDONLY)
    try:
        assert os.pread(fd, MIB, 0) == data[:MIB]
        overwrite(model, position, filled(3, LARGE))
        for size in 1, 4096, 70_000, MIB:
            assert os.pread(fd, size, 5) == filled(3, size)
    finally:
        os.close(fd)


def test_a_mapping_opened_afterwards_sees_new_bytes(mount, model):
    mounted = mount(model)
    position, _ = data_of(model)["large"]
    for value in 5, 6:
        overwrite(model, position, filled(value, LARGE))
        with open(mounted.path / "large", "rb") as file, \
                mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
            assert view[:] == filled(value, LARGE)


def test_a_chmod_counts_as_a_change(mount, model):
    """It cannot be told from data written with the old mtime put back; reads go on all the same."""
    mounted = mount(model)
    model.chmod(0o600)
    assert once_read(mounted.path / "first") == data_of(model)["first"][1]
    assert state(mounted) == "touched"


def test_appended_to(mount, model):
    """Bytes behind the last tensor are nobody's: reads go on."""
    mounted = mount(model)
    with open(model, "ab") as out:
        out.write(b"more")
    for name, (_, data) in data_of(model).items():
        assert once_read(mounted.path / name) == data
    assert state(mounted) == "touched"


# --- the header -------------------------------------------------------------------------------


def rewrite_header(model):
    """Swaps the places of two tensors of one size; the length of the header stays."""
    header, start = models.read_header(model)
    header["first"]["data_offsets"], header["last"]["data_offsets"] = [0, 5000], [LARGE, LARGE + 9000]
    text = json.dumps(header, separators=(",", ":")).encode()
    overwrite(model, 8, text.ljust(start - 8)[:start - 8])


@pytest.mark.parametrize("change", [
    rewrite_header,
    lambda model: overwrite(model, 0, struct.pack("<Q", 1 << 63)),  # as an in-place commit poisons it
    lambda model: overwrite(model, 0, struct.pack("<Q", models.read_header(model)[1])),
    lambda model: model.write_bytes(b""),
])
def test_header_rewritten(mount, model, change):
    """ESTALE, sticky: the offsets in memory are of another file."""
    mounted = mount(model, "cache=never")
    before = model.read_bytes()
    fd = os.open(mounted.path / "large", os.O_RDONLY)
    try:
        assert len(os.pread(fd, MIB, 0)) == MIB
        change(model)
        for size in 1, 4096, MIB:
            assert outcome(os.pread, fd, size, 0) == errno.ESTALE
        assert outcome(os.open, mounted.path / "first", os.O_RDONLY) == errno.ESTALE
        assert state(mounted) == "stale" and status(mounted)["last_error"]
        model.write_bytes(before)  # too late: in between it was another model
        assert outcome(os.pread, fd, 1, 0) == errno.ESTALE
        assert outcome(os.open, mounted.path / "first.npy", os.O_RDONLY) == errno.ESTALE
    finally:
        os.close(fd)
    assert (mounted.path / "first.json").read_text() and alive(mounted)


def test_a_new_mount_sees_the_new_header(mount, model, make_model):
    mounted = mount(model)
    make_model("model.safetensors", {"other": ("U8", [3], b"abc")})
    assert outcome(once_read, mounted.path / "first") == errno.ESTALE
    assert once_read(mount(model).path / "other") == b"abc"


def test_one_of_two_shards_changes(mount, make_model, tmp_path):
    for i in 1, 2:
        make_model(f"s/part-{i}.safetensors", {f"x{i}": ("U8", [200_000], None)})
    (tmp_path / "s/model.safetensors.index.json").write_text(json.dumps(
        {"metadata": {"total_size": 400_000},
         "weight_map": {f"x{i}": f"part-{i}.safetensors" for i in (1, 2)}}))
    mounted = mount(tmp_path / "s", "cache=never")
    make_model("s/part-2.safetensors", {"y": ("U8", [7], None)})
    assert once_read(mounted.path / "x1") == models.pattern("U8", [200_000], "x1")
    assert outcome(once_read, mounted.path / "x2") == errno.ESTALE
    assert [f["state"] for f in status(mounted)["files"]] == ["fresh", "stale"]


# --- the mount point --------------------------------------------------------------------------


def test_mount_point_cannot_be_removed(mount, small_model):
    mounted = mount(small_model)
    assert outcome(os.rmdir, mounted.path) == errno.EBUSY
    assert outcome(os.rename, mounted.path, mounted.path.parent / "elsewhere") == errno.EBUSY
    assert alive(mounted)


def test_folder_of_the_mount_point_moves(mount, small_model, tmp_path):
    """The mount goes along; unmounting by the new name ends the daemon."""
    (tmp_path / "a").mkdir()
    mounted = mount(small_model, mountpoint=tmp_path / "a/m")
    (tmp_path / "a").rename(tmp_path / "b")
    try:
        assert (tmp_path / "b/m/steps").stat().st_size == 8
    finally:
        subprocess.run(["fusermount3", "-u", tmp_path / "b/m"], check=True)
    assert mounted.ended() == 0


def test_model_inside_the_mount_point(mount, make_model, tmp_path):
    """The mount hides its own model, which is open: nothing is asked for by name."""
    model = make_model("here/m.safetensors", {"x": ("U8", [300_000], None)})
    mounted = mount(model, mountpoint=tmp_path / "here")
    assert sorted(os.listdir(mounted.path)) == ["x", "x.json"]
    assert once_read(mounted.path / "x") == models.pattern("U8", [300_000], "x")
    assert state(mounted) == "fresh"


def test_lazy_unmount_under_an_open_file(mount, model):
    """The daemon serves what is open to its end, and ends then."""
    mounted = mount(model)
    fd = os.open(mounted.path / "large", os.O_RDONLY)
    try:
        subprocess.run(["fusermount3", "-uz", mounted.path], check=True)
        assert mounted.entry() is None and mounted.ended(0) is None
        assert os.pread(fd, MIB, 0) == data_of(model)["large"][1][:MIB]
    finally:
        os.close(fd)
    assert mounted.ended() == 0


def test_model_on_a_mount(mount, make_model, tmp_path):
    """A model whose bytes are a tensor of another model: FUSE over FUSE."""
    inner = make_model("inner.safetensors", {"x": ("U8", [300_000], None)}).read_bytes()
    outer = make_model("outer.safetensors", {"inner": ("U8", [len(inner)], inner)})
    below = mount(outer)
    above = mount(below.path / "inner")
    assert once_read(above.path / "x") == models.pattern("U8", [300_000], "x")
    above.unmount()


def test_cut_that_no_fstat_shows(mount, make_model):
    """The kernel goes on showing the old size of a model on a mount: only the copy itself fails."""
    inner = make_model("inner.safetensors", {"x": ("U8", [3 * MIB], None)}).read_bytes()
    outer = make_model("outer.safetensors", {"inner": ("U8", [len(inner)], inner)})
    below = mount(outer)
    above = mount(below.path / "inner", "cache=never")
    os.truncate(outer, outer.stat().st_size - 2 * MIB)
    fd = os.open(above.path / "x", os.O_RDONLY)
    try:
        for _ in range(20):
            assert outcome(os.pread, fd, MIB, 2 * MIB) == errno.EIO
            assert outcome(os.pread, fd, 4096, 2 * MIB) == errno.EIO
        assert len(os.pread(fd, 100_000, 0)) == 100_000
    finally:
        os.close(fd)
    assert status(above)["last_error"] and alive(above) and alive(below)
    assert above.stderr().count("\n") == 1, above.stderr()
    above.unmount()


def listed_mtime(path):
    """What stat says, from the kernel's cache if it has it."""
    return path.stat().st_mtime_ns


def wait_until(condition, seconds=20):
    """Looks again and again; whether it came to be."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


def test_a_change_by_another_program_shows_in_the_times(mount, tmp_path):
    """Attributes are kept by the kernel for ever: the daemon must take them back by itself."""
    model = tmp_path / "m.safetensors"
    models.write_model(model, {"w": ("U8", [4096], b"a" * 4096), "v": ("U8", [200000], b"v" * 200000)})
    mounted = mount(model)
    before = listed_mtime(mounted.path / "w")
    with open(model, "r+b") as file:
        file.seek(-10, os.SEEK_END)
        file.write(b"z" * 10)
    assert wait_until(lambda: listed_mtime(mounted.path / "w") != before)
    assert listed_mtime(mounted.path / "v") == model.stat().st_mtime_ns
    assert (mounted.path / "v").read_bytes().endswith(b"z" * 10)
    assert subprocess.run(["stat", "-c", "%Y", mounted.path / "w.npy"], check=True).returncode == 0


def test_rsync_sees_a_change_by_another_program(mount, tmp_path):
    """A second rsync from the mount copies what changed in between, of the same size."""
    model, copy = tmp_path / "m.safetensors", tmp_path / "copy"
    models.write_model(model, {"w": ("U8", [4096], b"a" * 4096)})
    os.utime(model, (1_600_000_000, 1_600_000_000))  # rsync compares whole seconds
    mounted = mount(model)
    subprocess.run(["rsync", "-a", f"{mounted.path}/", f"{copy}/"], check=True)
    before = listed_mtime(mounted.path / "w")
    with open(model, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"z")
    assert wait_until(lambda: listed_mtime(mounted.path / "w") != before)
    subprocess.run(["rsync", "-a", f"{mounted.path}/", f"{copy}/"], check=True)
    assert (copy / "w").read_bytes() == b"a" * 4095 + b"z"


def test_a_change_with_the_old_mtime_put_back(mount, tmp_path):
    """Only the ctime tells that the data changed: a new open must not get the kept pages."""
    model = models.write_model(tmp_path / "m.safetensors", {"w": ("U8", [4096], b"a" * 4096)})
    mounted = mount(model)
    assert (mounted.path / "w").read_bytes() == b"a" * 4096
    times = model.stat()
    with open(model, "r+b") as file:
        file.seek(-4096, os.SEEK_END)
        file.write(b"z" * 4096)
    os.utime(model, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (mounted.path / "w").read_bytes() == b"z" * 4096
    assert state(mounted) == "touched"
