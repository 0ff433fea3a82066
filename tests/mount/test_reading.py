# SPDX-License-Identifier: MIT
"""Reading: every byte where an oracle has it, by every way in and in every mode of the cache."""
import errno
import io
import json
import mmap
import os
import pathlib
import random
import re
import stat
import struct
import threading

import numpy
import pytest

import models

CACHES = ("auto", "always", "never")
MIB = 1 << 20
# Around pages, around what is copied and what is mapped, around what is read directly.
SIZES = [0, 1, 4095, 4096, 4097, 65535, 65536, 65537, 131071, 131072, 131073, MIB - 1, MIB + 3,
         3 * MIB + 17]
READS = [0, 1, 511, 4095, 4096, 4097, 65535, 65536, 65537, 131071, 131072, 131073, MIB, MIB + 1]


def sanitized(daemon_path):
    binary = daemon_path.read_bytes()
    return b"__asan_init" in binary or b"__tsan_init" in binary


def numpy_header(descr, shape):
    """What numpy.save() writes before the data."""
    out = io.BytesIO()
    numpy.lib.format.write_array_header_1_0(
        out, {"descr": descr, "fortran_order": False, "shape": tuple(shape)})
    return out.getvalue()


@pytest.fixture
def open_file():
    """open_file(path, flags=0): a descriptor that is closed when the test ends, before the mounts are."""
    opened = []

    def make(path, flags=0):
        opened.append(os.open(path, os.O_RDONLY | flags))
        return opened[-1]
    yield make
    for fd in opened:
        os.close(fd)


@pytest.fixture
def sized_model(make_model):
    """Tensors of the sizes above, data at an odd position; (path, {file: bytes}) with the .npy forms."""
    path = make_model("sized.safetensors", {f"s{n}": ("U8", [n], None) for n in SIZES}, align=1, slack=1)
    header, start = models.read_header(path)
    if start % 2 == 0:  # as unaligned as can be
        path = make_model("sized.safetensors", {f"s{n}": ("U8", [n], None) for n in SIZES}, align=1, slack=2)
        header, start = models.read_header(path)
    assert start % 2 == 1
    data = path.read_bytes()[start:]
    wanted = {name: data[slice(*entry["data_offsets"])] for name, entry in header.items()}
    wanted.update({f"s{n}.npy": numpy_header("|u1", [n]) + wanted[f"s{n}"] for n in SIZES})
    return path, wanted


def spots(length, chosen):
    """Offsets that matter in a file, and some that do not."""
    edges = {0, 1, 127, 128, 129, 4096, 65536, 131072, length}
    near = {edge + d for edge in edges for d in (-65537, -4096, -1, 0, 1)}
    return sorted(at for at in near if 0 <= at <= length + 1) + \
        [chosen.randrange(length + 1) for _ in range(20)]


def check_reads(fd, wanted, chosen, count=150):
    """Random reads of the sizes and at the offsets above."""
    at_most = len(wanted) + 10
    places = spots(len(wanted), chosen)
    for _ in range(count):
        offset = chosen.choice(places)
        size = chosen.choice(READS + [chosen.randrange(at_most)])
        got = os.pread(fd, size, offset)
        assert got == wanted[offset:offset + size], f"{size} bytes at {offset} of {len(wanted)}"


@pytest.mark.parametrize("cache", CACHES)
def test_random_reads(mount, sized_model, open_file, cache):
    path, wanted = sized_model
    folder = mount(path, f"cache={cache}").path
    chosen = random.Random(11)
    for name, data in wanted.items():
        check_reads(open_file(folder / name), data, chosen)
        assert os.stat(folder / name).st_size == len(data)


@pytest.mark.parametrize("flags", [["-s"], []])
def test_whole_files(mount, sized_model, flags):
    path, wanted = sized_model
    folder = mount(path, daemon_args=flags).path
    for name, data in wanted.items():
        assert (folder / name).read_bytes() == data


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("block", [1000, 4096, 65536, 100_001, MIB])
def test_sequential_reads(mount, sized_model, open_file, cache, block):
    """With the small ones the file changes over to the page cache in between: nothing may show."""
    path, wanted = sized_model
    folder = mount(path, f"cache={cache}").path
    for name in f"s{3 * MIB + 17}", f"s{MIB + 3}.npy", "s131073.npy":
        for _ in range(3):
            fd = open_file(folder / name)
            assert b"".join(iter(lambda fd=fd: os.read(fd, block), b"")) == wanted[name]


def test_max_read(mount, sized_model):
    path, wanted = sized_model
    folder = mount(path, "max_read=8192").path
    for name in f"s{3 * MIB + 17}", f"s{MIB + 3}.npy", "s4097":
        assert (folder / name).read_bytes() == wanted[name]


def test_read_far_beyond(mount, small_model, open_file):
    mounted = mount(small_model, "cache=never")
    fd, last = open_file(mounted.path / "embed.weight"), models.pattern("F32", [32, 8], "embed.weight")[1023:]
    for offset in 1023, 1024, 1025, 1 << 31, 1 << 32, 1 << 40, (1 << 63) - 200_000:
        assert os.pread(fd, 4096, offset) == (b"" if offset >= 1024 else last)
        assert os.pread(fd, 100_000, offset - 1000)[1000:] == (b"" if offset >= 1024 else last)
    assert json.loads((mounted.path / ".stfs").read_text())["last_error"] is None
    with pytest.raises(OSError) as refused:
        os.pread(fd, 1, -1)
    assert refused.value.errno == errno.EINVAL
    assert os.pread(fd, 0, 0) == b""


def test_seeking(mount, small_model, open_file):
    fd = open_file(mount(small_model).path / "embed.weight")
    assert os.lseek(fd, 0, os.SEEK_END) == 1024
    assert os.lseek(fd, 0, os.SEEK_DATA) == 0 and os.lseek(fd, 0, os.SEEK_HOLE) == 1024
    os.lseek(fd, -1, os.SEEK_END)
    assert os.read(fd, 2) == models.pattern("F32", [32, 8], "embed.weight")[-1:]
    with pytest.raises(OSError) as refused:
        os.lseek(fd, 1025, os.SEEK_DATA)
    assert refused.value.errno == errno.ENXIO


# --- types and shapes -------------------------------------------------------------------------


def test_all_dtypes(mount, make_model):
    """Scalars, vectors without elements and matrices of all 22, as the official loader has them."""
    tensors = {}
    for dtype, bits in models.BITS.items():
        tensors[f"{dtype}.empty"] = (dtype, [0], None)
        tensors[f"{dtype}.empty2"] = (dtype, [5, 0, 7], None)
        tensors[f"{dtype}.matrix"] = (dtype, [4, 6], None)
        if bits >= 8:
            tensors[f"{dtype}.scalar"] = (dtype, [], None)
    path = make_model("types.safetensors", tensors)
    folder = mount(path).path
    official = models.official_tensors(path)
    assert set(official) == set(tensors)
    for name, (_, shape, data) in official.items():
        assert (folder / name).read_bytes() == data
        assert json.loads((folder / f"{name}.json").read_text())["shape"] == shape


def test_numpy_reads_every_type(mount, all_dtypes_model):
    folder = mount(all_dtypes_model).path
    for name, (dtype, shape, data) in models.official_tensors(all_dtypes_model).items():
        if models.BITS[dtype] < 8:
            continue
        sidecar = json.loads((folder / f"{name}.json").read_text())
        for mode in None, "r", "c":
            array = numpy.load(folder / f"{name}.npy", mmap_mode=mode)
            assert (list(array.shape), array.dtype.str) == \
                (shape, numpy.dtype(sidecar["descr"]).str)
            assert array.tobytes() == data
            del array
        assert (folder / f"{name}.npy").read_bytes() == numpy_header(sidecar["descr"], shape) + data


@pytest.mark.parametrize("shape", [[], [0], [1], [3, 0], [2, 3, 4], [1] * 60, [10 ** 6]])
def test_numpy_header(mount, make_model, shape):
    folder = mount(make_model("m.safetensors", {"x": ("I16", shape, None)})).path
    data = models.pattern("I16", shape, "x")
    assert (folder / "x.npy").read_bytes() == numpy_header("<i2", shape) + data
    assert numpy.load(folder / "x.npy").shape == tuple(shape)


def test_npy_header_longer_than_a_page(mount, make_model, open_file):
    """Rank 3000: the boundary to the data lies anywhere in a request."""
    shape, data = [1] * 2999 + [200_000], random.Random(5).randbytes(200_000)
    path = make_model("m.safetensors", {"x": ("U8", shape, data)})
    wanted = numpy_header("|u1", shape) + data
    fd = open_file(mount(path).path / "x.npy")
    for offset in range(0, len(wanted), 4093):
        assert os.pread(fd, 70_000, offset) == wanted[offset:offset + 70_000]


def test_npy_header_of_version_2(mount, make_model, open_file):
    """A dict beyond 65535 bytes; NumPy itself stops at rank 64, but writes such a header."""
    shape = [1] * 30_000 + [4]
    path = make_model("m.safetensors", {"x": ("U8", shape, b"abcd")})
    text = (mount(path).path / "x.npy").read_bytes()
    assert text[:8] == b"\x93NUMPY\x02\x00" and text.endswith(b"\nabcd")
    length, = struct.unpack("<I", text[8:12])
    assert len(text) == 12 + length + 4 and (12 + length) % 64 == 0


# --- mappings ---------------------------------------------------------------------------------


def mapped(path, flags, length=0):
    fd = os.open(path, os.O_RDONLY)
    try:
        return mmap.mmap(fd, length, flags=flags, prot=mmap.PROT_READ)
    finally:
        os.close(fd)


@pytest.mark.parametrize("flags", [mmap.MAP_SHARED, mmap.MAP_PRIVATE])
@pytest.mark.parametrize("cache", CACHES)
def test_mappings(mount, sized_model, cache, flags):
    path, wanted = sized_model
    mounted = mount(path, f"cache={cache}")
    allowed = json.loads((mounted.path / ".stfs").read_text())["kernel"]["direct_io_mmap"]
    for name, data in wanted.items():
        if not data:
            continue
        if cache == "never" and flags == mmap.MAP_SHARED and not allowed:
            with pytest.raises(OSError) as refused:
                mapped(mounted.path / name, flags)
            assert refused.value.errno == errno.ENODEV
            continue
        with mapped(mounted.path / name, flags) as view:
            assert view[:] == data
            page = len(data) - len(data) % mmap.PAGESIZE
            assert view[page:] == data[page:]


def test_private_mapping_is_copied_on_write(mount, sized_model):
    path, wanted = sized_model
    folder = mount(path).path
    array = numpy.load(folder / f"s{MIB + 3}.npy", mmap_mode="c")
    array[:] = 7
    del array
    assert (folder / f"s{MIB + 3}.npy").read_bytes() == wanted[f"s{MIB + 3}.npy"]
    assert path.read_bytes().endswith(wanted[f"s{3 * MIB + 17}"])


def test_memmap_of_a_large_tensor(mount, sized_model):
    path, wanted = sized_model
    folder = mount(path).path
    view = numpy.memmap(folder / f"s{3 * MIB + 17}", mode="r", dtype="u1")
    assert view.tobytes() == wanted[f"s{3 * MIB + 17}"]
    again = numpy.memmap(folder / f"s{3 * MIB + 17}", mode="r", dtype="u1", offset=65_537)
    assert again.tobytes() == wanted[f"s{3 * MIB + 17}"][65_537:]
    del view, again


def test_mapping_and_reading_at_once(mount, sized_model, open_file):
    path, wanted = sized_model
    folder, name = mount(path).path, f"s{3 * MIB + 17}"
    direct = open_file(folder / name)
    with mapped(folder / name, mmap.MAP_SHARED) as view:
        for at in range(0, len(wanted[name]), 100_003):
            assert view[at:at + 1000] == os.pread(direct, 1000, at) == wanted[name][at:at + 1000]
            fresh = open_file(folder / name)
            assert os.pread(fresh, 200_000, at) == wanted[name][at:at + 200_000]


def test_writable_mapping_is_refused(mount, small_model, open_file):
    fd = open_file(mount(small_model).path / "embed.weight")
    with pytest.raises(PermissionError):
        mmap.mmap(fd, 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE)


@pytest.mark.parametrize("cache", CACHES)
def test_direct_opens(mount, sized_model, open_file, cache):
    path, wanted = sized_model
    folder = mount(path, f"cache={cache}").path
    buffer = mmap.mmap(-1, 4 * MIB)
    for name in f"s{3 * MIB + 17}", "s4097", "s131072", "s65537.npy":
        fd = open_file(folder / name, os.O_DIRECT)
        for offset, size in (0, 4 * MIB), (4096, 65536), (512, 512), (len(wanted[name]) // 512 * 512, 4096):
            got = os.preadv(fd, [memoryview(buffer)[:size]], offset)
            assert buffer[:got] == wanted[name][offset:offset + size]


# --- what the kernel keeps --------------------------------------------------------------------


def reads_logged(mounted):
    """READ requests that a daemon with -d has printed."""
    return len(re.findall(r"\bREAD\b", mounted.stderr()))


def reads_caused(mounted, action):
    """READ requests that an action made; each is printed before it is answered."""
    before = reads_logged(mounted)
    action()
    return reads_logged(mounted) - before


@pytest.fixture
def large(mount, sized_model):
    """(mount with -d, path of a large tensor, its bytes)"""
    path, wanted = sized_model
    mounted = mount(path, daemon_args=["-d"])
    return mounted, mounted.path / f"s{3 * MIB + 17}", wanted[f"s{3 * MIB + 17}"]


def test_large_tensors_bypass_the_page_cache(large):
    mounted, path, _ = large
    assert all(reads_caused(mounted, path.read_bytes) >= 3 for _ in range(3))


def test_small_tensors_stay_in_the_page_cache(large):
    mounted, _, _ = large
    small = mounted.path / "s65537"
    assert reads_caused(mounted, small.read_bytes) > 0
    assert reads_caused(mounted, small.read_bytes) == 0
    assert reads_caused(mounted, lambda: mapped(small, mmap.MAP_SHARED)[:]) == 0


def test_mapped_tensors_move_to_the_page_cache(large):
    mounted, path, data = large
    with mapped(path, mmap.MAP_SHARED) as view:
        assert view[:] == data
    path.read_bytes()
    assert reads_caused(mounted, path.read_bytes) == 0
    assert path.read_bytes() == data


def test_tensors_read_in_small_pieces_move_to_the_page_cache(large, open_file):
    mounted, path, data = large
    fd = open_file(path)
    pieces = b"".join(os.read(fd, 4096) for _ in range(300))
    assert pieces == data[:len(pieces)]
    path.read_bytes()
    assert reads_caused(mounted, path.read_bytes) == 0


def test_random_small_reads_stay_direct(large, open_file):
    """Nothing is gained there by pages that are not asked for again."""
    mounted, path, data = large
    fd, chosen = open_file(path), random.Random(2)
    for _ in range(400):
        at = chosen.randrange(len(data) - 4096)
        assert os.pread(fd, 4096, at) == data[at:at + 4096]
    assert all(reads_caused(mounted, path.read_bytes) >= 3 for _ in range(3))


def test_never_means_never(mount, sized_model):
    mounted = mount(sized_model[0], "cache=never", daemon_args=["-d"])
    small = mounted.path / "s4096"
    assert all(reads_caused(mounted, small.read_bytes) > 0 for _ in range(3))


# --- many readers, large files, little memory -------------------------------------------------


@pytest.mark.threads
@pytest.mark.parametrize("cache", CACHES)
def test_sixteen_readers(mount, sized_model, cache):
    path, wanted = sized_model
    folder = mount(path, f"cache={cache}").path
    names, wrong = [n for n in wanted if wanted[n]], []

    def read(seed):
        chosen = random.Random(seed)
        try:
            for _ in range(40):
                name = chosen.choice(names)
                fd = os.open(folder / name, os.O_RDONLY)
                try:
                    check_reads(fd, wanted[name], chosen, count=5)
                finally:
                    os.close(fd)
                if chosen.random() < 0.1:
                    with mapped(folder / name, mmap.MAP_PRIVATE) as view:
                        assert view[:] == wanted[name]
        except Exception as error:  # to the main thread
            wrong.append(error)
    readers = [threading.Thread(target=read, args=(i,)) for i in range(16)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert wrong == []


GIB = 1 << 30


def write_sparse(path, sizes):
    """A model of U8 tensors that are holes but for marks; {name: (position in the file, size)}"""
    entries, end = {}, 0
    for name, size in sizes.items():
        entries[name] = {"dtype": "U8", "shape": [size], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(entries).encode()
    start = 8 + len(text)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        out.truncate(start + end)
    fd = os.open(path, os.O_WRONLY)
    chosen = random.Random(4)
    for at in [4 * GIB - 100_000 + k * 7001 for k in range(30)] + [start, start + end - 5000]:
        if at + 5000 <= start + end:
            os.pwrite(fd, chosen.randbytes(5000), at)
    os.close(fd)
    return {name: (start + e["data_offsets"][0], sizes[name]) for name, e in entries.items()}


@pytest.fixture
def sparse_model(tmp_path):
    """Just over 5 GiB that take no room: (path, {name: (position, size)})"""
    path = tmp_path / "sparse.safetensors"
    yield path, write_sparse(path, {"low": 3 * GIB + 1, "over": 2 * GIB + 12_345, "high": MIB + 1})
    path.unlink()


@pytest.mark.parametrize("cache", CACHES)
def test_beyond_four_gigabytes(mount, sparse_model, open_file, cache):
    path, places = sparse_model
    folder, below = mount(path, f"cache={cache}").path, open_file(path)
    chosen = random.Random(8)
    for name, (start, size) in places.items():
        assert os.stat(folder / name).st_size == size
        fd = open_file(folder / name)
        near = [at - start for at in (4 * GIB - 70_000, 4 * GIB - 1, 4 * GIB, 4 * GIB + 50_000)
                if 0 <= at - start < size]
        for at in near + [0, size - 5000, size - 1, size] + [chosen.randrange(size) for _ in range(5)]:
            for length in 1, 4096, 70_000, MIB:
                wanted = os.pread(below, min(length, size - at), start + at)
                assert os.pread(fd, length, at) == wanted


def test_mapping_beyond_four_gigabytes(mount, sparse_model, open_file):
    path, places = sparse_model
    start, size = places["over"]
    with mapped(mount(path).path / "over", mmap.MAP_SHARED) as view:
        at = 4 * GIB - start - 60_000
        assert any(view[at:at + 120_000])
        assert view[at:at + 120_000] == os.pread(open_file(path), 120_000, start + at)


def limited(mount, tmp_path, limit):
    """Lets every daemon of this test start with an address space of so many bytes."""
    script = tmp_path / "limited"
    script.write_text(f'#!/bin/sh\nexec prlimit --as={limit} "{mount.daemon}" "$@"\n')
    script.chmod(0o755)
    mount.daemon = script


def test_a_model_that_cannot_be_mapped(mount, sparse_model, tmp_path, daemon_path, open_file):
    if sanitized(daemon_path):
        pytest.skip("a sanitizer needs more address space than there is to take away")
    path, places = sparse_model
    limited(mount, tmp_path, 2 * GIB)
    mounted = mount(path)
    assert str(path) not in pathlib.Path(f"/proc/{mounted.pid}/maps").read_text(), "mapped after all"
    below = open_file(path)
    for name, (start, size) in places.items():
        fd = open_file(mounted.path / name)
        for at in 0, max(0, min(size - 1, 4 * GIB - start)), size - 100_000:
            for length in 1, 65537, MIB:
                assert os.pread(fd, length, at) == os.pread(below, min(length, size - at), start + at)


def test_a_mapped_model_is_mapped(mount, small_model):
    """What the test above looks for is there without the limit."""
    mounted = mount(small_model)
    assert str(small_model) in pathlib.Path(f"/proc/{mounted.pid}/maps").read_text()


def page_tables(pid):
    """VmPTE in bytes."""
    return int(re.search(r"VmPTE:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) << 10


def test_page_tables_stay_bounded(mount, tmp_path, daemon_path):
    """Without being laid anew the mapping would keep 2 MiB of page tables a GiB: 6 MiB here."""
    if sanitized(daemon_path):
        pytest.skip("the page tables of a sanitizer are not the daemon's")
    path = tmp_path / "sparse.safetensors"
    (start, size), = write_sparse(path, {"x": 3 * GIB + 5}).values()
    mounted = mount(path)
    fd, model = os.open(mounted.path / "x", os.O_RDONLY), os.open(path, os.O_RDONLY)
    most, buffer = 0, bytearray(MIB)
    try:
        os.posix_fadvise(model, 0, 0, os.POSIX_FADV_RANDOM)
        for at in range(0, size - MIB, MIB):
            os.preadv(model, [buffer], start + at)  # single pages: large ones need no page tables
            assert os.preadv(fd, [buffer], at) == MIB
            if at % (64 * MIB) == 0:
                most = max(most, page_tables(mounted.pid))
    finally:
        os.close(fd)
        os.close(model)
        path.unlink()
    assert MIB // 2 < most < 2 * MIB, "more: never laid anew; less: not mapped in pages, nothing was tested"


def readers_of_everything(path, data, rounds, wrong):
    fd = os.open(path, os.O_RDONLY)
    try:
        for _ in range(rounds):
            for at in range(0, len(data), MIB):
                if os.pread(fd, MIB, at) != data[at:at + MIB]:
                    wrong.append(at)
    except OSError as error:
        wrong.append(error)
    finally:
        os.close(fd)


@pytest.mark.threads
def test_mapping_is_laid_anew_under_readers(mount, make_model):
    """Four readers pass the mark of a gigabyte several times while the others are being answered."""
    data, wrong = random.Random(6).randbytes(8 * MIB + 11), []
    path = make_model("m.safetensors", {"x": ("U8", [len(data)], data)})
    mounted = mount(path, "cache=never")
    readers = [threading.Thread(target=readers_of_everything, args=(mounted.path / "x", data, 120, wrong))
               for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert json.loads((mounted.path / ".stfs").read_text())["last_error"] is None


# --- nothing can be written -------------------------------------------------------------------


def refused(action, *args, **kw):
    """The errno that an action ends with."""
    with pytest.raises(OSError) as caught:
        action(*args, **kw)
    return caught.value.errno


def answers_to_writes(folder):
    """{what was tried in a mount of small_model: its errno}"""
    x, new = folder / "embed.weight", folder / "new"
    attempts = [
        (os.open, x, os.O_WRONLY), (os.open, x, os.O_RDWR), (os.open, x, os.O_RDWR | os.O_TRUNC),
        (os.open, x, os.O_WRONLY | os.O_APPEND), (os.open, new, os.O_CREAT | os.O_WRONLY),
        (os.open, folder / ".x.Ab12Cd", os.O_CREAT | os.O_RDWR), (os.open, folder, os.O_TMPFILE | os.O_RDWR),
        (os.unlink, x), (os.rename, x, new), (os.mkdir, new), (os.link, x, new), (os.symlink, "x", new),
        (os.mkfifo, new), (os.truncate, x, 0), (os.chmod, x, 0o600), (os.chown, x, 0, 0),
        (os.utime, x), (os.setxattr, x, "user.a", b"b"), (os.removexattr, x, "user.a"),
        (os.mknod, new, 0o600 | stat.S_IFREG), (os.unlink, folder / "__metadata__.json"),
        (os.open, folder / "embed.weight.npy", os.O_RDWR), (os.open, folder / ".stfs", os.O_WRONLY),
    ]
    return {f"{call.__name__} {[str(a) for a in args]}": refused(call, *args) for call, *args in attempts}


def test_every_write_is_refused(mount, small_model):
    before = small_model.read_bytes()
    folder = mount(small_model).path
    answers = answers_to_writes(folder)
    assert set(answers.values()) == {errno.EROFS}, answers
    assert refused(os.rmdir, folder) in (errno.EBUSY, errno.EROFS)
    assert small_model.read_bytes() == before


# --- extended attributes ----------------------------------------------------------------------


def test_no_attributes_unless_asked_for(mount, small_model):
    x = mount(small_model).path / "embed.weight"
    assert refused(os.getxattr, x, "user.safetensors.dtype") == errno.ENOTSUP
    assert refused(os.listxattr, x) == errno.ENOTSUP


def test_attributes_on_request(mount, small_model):
    folder = mount(small_model, "xattr").path
    _, start = models.read_header(small_model)
    wanted = {"dtype": b"BF16", "shape": b"[24]", "name": b"layer.0.bias", "file": small_model.name.encode(),
              "offset": str(start + 1024).encode()}
    for file in "layer.0.bias", "layer.0.bias.json", "layer.0.bias.npy":
        path = folder / file
        assert set(os.listxattr(path)) == {f"user.safetensors.{k}" for k in wanted}
        assert {k: os.getxattr(path, f"user.safetensors.{k}") for k in wanted} == wanted
    assert os.getxattr(folder / "steps", "user.safetensors.shape") == b"[]"
    assert refused(os.getxattr, folder / "steps", "user.other") == errno.ENODATA
    assert refused(os.getxattr, folder / "steps", "security.selinux") == errno.ENODATA
    assert os.listxattr(folder) == os.listxattr(folder / "__metadata__.json") == []
    assert refused(os.getxattr, folder / "__metadata__.json", "user.safetensors.dtype") == errno.ENODATA


def test_attribute_larger_than_an_attribute_can_be(mount, make_model):
    name = "n" * 100_000
    folder = mount(make_model("m.safetensors", {name: ("U8", [1], None)}), "xattr").path
    file, = [f for f in os.listdir(folder) if not f.endswith(".json")]
    assert os.getxattr(folder / file, "user.safetensors.dtype") == b"U8"
    assert refused(os.getxattr, folder / file, "user.safetensors.name") in (errno.E2BIG, errno.ERANGE)
