# SPDX-License-Identifier: MIT
"""The directory: what it lists, what opens though it is not listed, and what it says of each file."""
import contextlib
import ctypes
import errno
import hashlib
import json
import os
import pathlib
import random
import re
import struct
import threading

import pytest

import models
from conftest import MountFailed

SIDECARS, VIEWS = ("shown", "hidden"), ("raw", "npy", "both")
FILE_NAME_MAX = 240
SCRATCH_ENDINGS = ("~", ".swp", ".part", ".partial", ".crdownload")
SCRATCH_NAMES = ("4913", "Thumbs.db", "desktop.ini")


# --- the oracle: docs/names.md, written a second time ------------------------------------------


def reserved(file):
    """Whether a file name would mean something else than a tensor."""
    return (file.startswith(".") or file.endswith(SCRATCH_ENDINGS) or file in SCRATCH_NAMES
            or re.fullmatch(r"(?s)#.+#", file) is not None
            or file.endswith((".json", ".npy")) or file == "__metadata__")


def spelled(name):
    """The characters of a name, each as it stands in a file name."""
    return [b"%%%02X" % ord(c) if c < " " or c in "\x7f/%" or (i == 0 and c == ".") else c.encode()
            for i, c in enumerate(name)]


def file_name(name):
    """The file name of a tensor."""
    if not name:
        return "%empty"
    pieces = spelled(name)
    file = b"".join(pieces)
    if len(file) <= FILE_NAME_MAX and reserved(file.decode()):
        file = file[:-1] + b"%%%02X" % file[-1]
    if len(file) > FILE_NAME_MAX:
        file = b""
        for piece in pieces:
            if len(file) + len(piece) > FILE_NAME_MAX - 34:
                break
            file += piece
        file += b"%~" + hashlib.sha256(name.encode()).hexdigest()[:32].encode()
    return file.decode()


def tensor_name(folder, file):
    """The tensor's name from its file name, and for a long one from its sidecar."""
    if file == "%empty":
        return ""
    if re.search(r"%~[0-9a-f]{32}$", file):
        return json.loads((folder / f"{file}.json").read_text())["name"]
    return re.sub("%([0-9A-F]{2})", lambda m: chr(int(m[1], 16)), file)


def expected_listing(tensors, metadata=False, view="raw", sidecars="shown"):
    """tensors: {name: dtype}"""
    found = {"__metadata__.json"} if metadata else set()
    for name, dtype in tensors.items():
        file, numpy_has_it = file_name(name), models.BITS[dtype] >= 8
        if view != "npy" or not numpy_has_it:
            found.add(file)
        if view != "raw" and numpy_has_it:
            found.add(f"{file}.npy")
        if sidecars == "shown":
            found.add(f"{file}.json")
    return found


def listing(folder):
    """What a directory lists; fails when a name comes twice."""
    names = os.listdir(folder)
    assert len(names) == len(set(names)), "a name is listed twice"
    return set(names)


def refusal(path):
    """The errno of lstat, or None."""
    try:
        os.lstat(path)
    except OSError as error:
        return error.errno
    return None


# --- what is listed and what opens ------------------------------------------------------------


@pytest.mark.parametrize("sidecars", SIDECARS)
@pytest.mark.parametrize("view", VIEWS)
def test_views(mount, make_model, view, sidecars):
    model = make_model("all.safetensors", {f"t.{d}": (d, [3, 8], None) for d in models.BITS},
                       {"format": "pt"})
    folder = mount(model, f"view={view}", f"sidecars={sidecars}").path
    assert listing(folder) == expected_listing({f"t.{d}": d for d in models.BITS}, True, view, sidecars)
    for dtype, bits in models.BITS.items():
        data = models.pattern(dtype, [3, 8], f"t.{dtype}")
        assert (folder / f"t.{dtype}").read_bytes() == data
        assert json.loads((folder / f"t.{dtype}.json").read_text())["dtype"] == dtype
        if bits < 8:
            assert refusal(folder / f"t.{dtype}.npy") == errno.ENOENT
        else:
            assert (folder / f"t.{dtype}.npy").read_bytes().endswith(data)
    assert json.loads((folder / ".stfs").read_text())["options"]["view"] == view


def test_defaults_are_raw_and_shown(mount, small_model):
    options = json.loads((mount(small_model).path / ".stfs").read_text())["options"]
    assert (options["view"], options["sidecars"], options["xattr"]) == ("raw", "shown", False)


def test_unlisted_files_open_before_anything_was_listed(mount, small_model):
    folder = mount(small_model, "sidecars=hidden").path
    assert (folder / "embed.weight.npy").read_bytes()[:6] == b"\x93NUMPY"
    assert (folder / "embed.weight.json").read_bytes().startswith(b'{"dtype":"F32"')
    assert (folder / ".stfs").read_bytes().startswith(b"{")


def test_status_is_hidden_private_and_json(mount, small_model):
    mounted = mount(small_model)
    assert ".stfs" not in listing(mounted.path)
    assert os.lstat(mounted.path / ".stfs").st_mode & 0o7777 == 0o400
    status = json.loads((mounted.path / ".stfs").read_text())
    assert status["pid"] == mounted.pid
    assert (status["mode"], status["tensors"], status["tolerant"]) == ("ro", 3, False)
    assert os.path.samefile(status["model"], small_model)
    assert status["mountpoint"] == os.path.realpath(mounted.path)
    assert [f["state"] for f in status["files"]] == ["fresh"]


def test_no_metadata_no_file(mount, make_model):
    folder = mount(make_model("m.safetensors", {"x": ("U8", [2], None)})).path
    assert listing(folder) == {"x", "x.json"}
    assert refusal(folder / "__metadata__.json") == errno.ENOENT


def test_empty_metadata_has_a_file(mount, make_model):
    folder = mount(make_model("m.safetensors", {"x": ("U8", [2], None)}, {})).path
    assert "__metadata__.json" in listing(folder)
    assert json.loads((folder / "__metadata__.json").read_text()) == {}


def test_metadata_keeps_every_character(mount, make_model):
    wanted = {"": "", "a\"b\\": "\0\x01\x1f\x7f\u2028 é😀\n\t", "long": "x" * 300_000, "/": "{}[],:"}
    folder = mount(make_model("m.safetensors", {}, wanted)).path
    text = (folder / "__metadata__.json").read_text()
    assert json.loads(text) == wanted and list(json.loads(text)) == list(wanted)
    assert os.stat(folder / "__metadata__.json").st_size == len(text.encode())


def test_model_without_tensors(mount, make_model):
    folder = mount(make_model("m.safetensors", {})).path
    assert listing(folder) == set()
    assert refusal(folder / "x") == errno.ENOENT


def test_sidecars_of_all_dtypes(mount, all_dtypes_model):
    numpy_names = {"BOOL": "|b1", "U8": "|u1", "I8": "|i1", "I16": "<i2", "U16": "<u2", "F16": "<f2",
                   "I32": "<i4", "U32": "<u4", "F32": "<f4", "C64": "<c8", "F64": "<f8", "I64": "<i8",
                   "U64": "<u8"}
    ml_dtypes = {"BF16": "bfloat16", "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn",
                 "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz",
                 "F8_E5M2FNUZ": "float8_e5m2fnuz"}
    folder = mount(all_dtypes_model).path
    for dtype, bits in models.BITS.items():
        wanted = {"dtype": dtype, "shape": [3, 8]}
        if bits >= 8:
            wanted["descr"] = numpy_names.get(dtype, {8: "|V1", 16: "<V2"}.get(bits))
        if dtype in ml_dtypes:
            wanted["ml_dtype"] = ml_dtypes[dtype]
        text = (folder / f"t.{dtype}.json").read_text()
        assert json.loads(text) == wanted
        assert text == json.dumps(wanted, separators=(",", ":")) + "\n"


# --- names ------------------------------------------------------------------------------------

NAMES = [
    "", " ", "/", "//", ".", "..", "a/b", "/a", "a/", "../../etc/passwd", "a/../b", "\0", "a\0b", "\n",
    "a\nb\n", "\r\t\x1b[31m", "\x7f", "%", "%%", "%41", "%2F", "%empty", "%~", "100%", "x", "x.json",
    "x.json.json", "x.json.json.json", "x.npy", "x.npy.json", ".json", ".npy", ".stfs", ".hidden",
    "__metadata__.json", "__metadata__.npy", "a~", "~", "x.swp", "x.part", "4913", "Thumbs.db",
    "#a#", "##", "é", "e\u0301", "漢字", "😀", "\ufeff", "\u2028", "\\", "a\\nb", "*?[]", "-rf", "$(id)",
    "a b", " lead", "trail ", "trail.", "CON", "nul", "lost+found", "A", "a", "model.layers.0.weight",
    "n" * 240, "n" * 241, "n" * 255, "n" * 4096, "n" * 1_000_000, "n" * 999_999 + "m", "漢" * 80,
    "漢" * 81, "é" * 200, "/" * 80, "/" * 81, "x" * 239 + "~", "x" * 237 + "~", "x" * 235 + ".json",
    "n" * 206 + "%~" + "0" * 32,
]


def test_names_round_trip(mount, make_model):
    """Name to file to sidecar to name, whatever else the model holds."""
    wanted = {name: ("U8", [i % 5], None) for i, name in enumerate(NAMES)}
    folder = mount(make_model("names.safetensors", wanted)).path
    for name in NAMES:  # before the kernel has learned them from a listing
        file = file_name(name)
        assert tensor_name(folder, file) == name
        assert (folder / file).read_bytes() == models.pattern("U8", wanted[name][1], name)
        sidecar = json.loads((folder / f"{file}.json").read_text())
        assert sidecar["shape"] == wanted[name][1]
        assert sidecar.get("name") == (name if "%~" in file and not file.endswith("%~") else None)
    assert listing(folder) == expected_listing({name: "U8" for name in NAMES})


def test_random_names_round_trip(mount, make_model):
    chosen = random.Random(7)
    letters = list("ab.~#%/\\ \0\n\x7fé漢😀") + [".json", ".npy", "__metadata__", "%25", "x" * 60]
    names = {"".join(chosen.choices(letters, k=chosen.randrange(8))) for _ in range(2000)}
    names -= {"__metadata__"}
    folder = mount(make_model("names.safetensors", {n: ("U8", [1], None) for n in names})).path
    assert listing(folder) == expected_listing(dict.fromkeys(names, "U8"))
    assert {tensor_name(folder, f) for f in listing(folder) if not f.endswith(".json")} == names


def test_json_beside_json(mount, make_model):
    folder = mount(make_model("m.safetensors", {
        "x": ("U8", [1], b"1"), "x.json": ("U8", [2], b"22"), "x.json.json": ("U8", [3], b"333"),
        "__metadata__.json": ("U8", [4], b"4444")}, {"k": "v"})).path
    assert json.loads((folder / "x.json").read_text())["shape"] == [1]
    assert (folder / "x.jso%6E").read_bytes() == b"22"
    assert (folder / "x.json.jso%6E").read_bytes() == b"333"
    assert (folder / "__metadata__.jso%6E").read_bytes() == b"4444"
    assert json.loads((folder / "__metadata__.json").read_text()) == {"k": "v"}
    assert refusal(folder / "x.json.json") == errno.EINVAL


@pytest.mark.parametrize("file, wanted", [
    (b"nope", errno.ENOENT), (b"nope.json", errno.ENOENT), (b"nope.npy", errno.ENOENT),
    (b".nope", errno.ENOENT), (b"nope~", errno.ENOENT), (b".json", errno.ENOENT),
    (b"n" * 240, errno.ENOENT), (b"n" * 240 + b".json", errno.ENOENT), (b"n" * 255, errno.ENAMETOOLONG),
    (b"n" * 206 + b"%~" + b"0" * 32, errno.ENOENT), (b"%empty", errno.ENOENT),
    (b"100%", errno.EINVAL), (b"%2f", errno.EINVAL), (b"%41", errno.EINVAL), (b"a%2Eb", errno.EINVAL),
    (b"%C3%A9", errno.EINVAL), (b"__metadata__", errno.EINVAL), (b"__metadata__.npy", errno.EINVAL),
    (b"x~.json", errno.EINVAL), (b"x.npy.json", errno.EINVAL), (b"%Empty", errno.EINVAL),
    (b"caf\xe9", errno.EILSEQ), (b"\xff.json", errno.EILSEQ), (b"\xed\xa0\x80", errno.EILSEQ),
    (b"\xc0\xaf", errno.EILSEQ), (b"x/y", errno.ENOTDIR), (b"nope/y", errno.ENOENT),
])
def test_refused_names(mount, make_model, file, wanted):
    folder = mount(make_model("m.safetensors", {"x": ("U8", [1], None)})).path
    for _ in range(2):  # the second answer may come from the kernel's memory
        assert refusal(os.fsencode(folder) + b"/" + file) == wanted


def test_names_beyond_name_max(mount, make_model):
    folder = mount(make_model("m.safetensors", {"x": ("U8", [1], None)})).path
    for length in 256, 1024, 1025, 4000:
        assert refusal(folder / ("n" * length)) in (errno.ENOENT, errno.ENAMETOOLONG)


# --- attributes -------------------------------------------------------------------------------


def attributes(st):
    return (st.st_ino, st.st_mode, st.st_nlink, st.st_uid, st.st_gid, st.st_size, st.st_blocks,
            st.st_blksize, st.st_mtime_ns, st.st_atime_ns, st.st_ctime_ns)


def test_listing_and_lookup_agree(mount, all_dtypes_model):
    """The attributes that came with a listing are those that a lookup finds."""
    looked_up, listed = mount(all_dtypes_model, "view=both"), mount(all_dtypes_model, "view=both")
    names = sorted(expected_listing({f"t.{d}": d for d in models.BITS}, view="both"))
    wanted = {name: attributes(os.lstat(looked_up.path / name)) for name in names}
    with os.scandir(listed.path) as entries:
        found = {e.name: (e.inode(), e.is_file(follow_symlinks=False), attributes(e.stat())) for e in entries}
    assert found == {name: (st[0], True, st) for name, st in wanted.items()}
    assert len({st[0] for st in wanted.values()}) == len(names), "two files share an inode number"


def test_attributes(mount, small_model):
    os.utime(small_model, ns=(1_234_567_890_123_456_789, 1_357_913_579_246_801_357))
    small_model.chmod(0o640)
    folder = mount(small_model).path
    for name, size in (("embed.weight", 1024), ("steps", 8), ("layer.0.bias.json", None),
                       ("steps.npy", 128 + 8), ("__metadata__.json", None)):
        st = os.stat(folder / name)
        assert st.st_size == len((folder / name).read_bytes()) == (size or st.st_size)
        assert st.st_blocks == (st.st_size + 511) // 512
        assert st.st_mtime_ns == 1_357_913_579_246_801_357
        assert (st.st_uid, st.st_gid) == (small_model.stat().st_uid, small_model.stat().st_gid)
        assert st.st_mode == 0o100440 and st.st_nlink == 1
        assert st.st_blksize == 1 << 20
    assert os.stat(folder).st_mode == 0o40550
    assert os.stat(folder).st_mtime_ns == 1_357_913_579_246_801_357


def test_strictest_shard_decides_who_may_read(mount, tmp_path, make_model):
    """A shard that only its owner may read is not opened to others by its neighbour's mode."""
    for i, mode in enumerate((0o644, 0o600)):
        make_model(f"s/part-{i}.safetensors", {f"x{i}": ("U8", [4], None)}).chmod(mode)
    (tmp_path / "s/model.safetensors.index.json").write_text(json.dumps(
        {"metadata": {"total_size": 8},
         "weight_map": {"x0": "part-0.safetensors", "x1": "part-1.safetensors"}}))
    folder = mount(tmp_path / "s").path
    assert listing(folder) == expected_listing({"x0": "U8", "x1": "U8"})
    assert os.stat(folder / "x1").st_mode & 0o777 == 0o400


def test_statfs_is_that_of_the_file_system_below(mount, small_model):
    here, below = os.statvfs(mount(small_model).path), os.statvfs(small_model)
    assert (here.f_bsize, here.f_frsize, here.f_blocks, here.f_namemax) == \
        (below.f_bsize, below.f_frsize, below.f_blocks, 255)
    assert here.f_files == 3 and here.f_bavail <= here.f_blocks
    assert here.f_flag & os.ST_RDONLY


# --- reading the directory itself -------------------------------------------------------------


def getdents(fd, size):
    """Entries of one getdents64(2): [(name, inode, position behind it)]"""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.getdents64.restype = ctypes.c_ssize_t
    buffer = ctypes.create_string_buffer(size)
    got = libc.getdents64(fd, buffer, ctypes.c_size_t(size))
    if got < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    entries, at = [], 0
    while at < got:
        inode, position, length, _ = struct.unpack_from("<QqHB", buffer.raw, at)
        name = buffer.raw[at + 19:at + length].split(b"\0")[0]
        entries.append((name, inode, position))
        at += length
    return entries


def read_all(fd, size):
    entries = []
    while more := getdents(fd, size):
        entries += more
    return entries


def open_directory(path):
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY)


@pytest.fixture
def many_files(mount, make_model):
    """A mount of 500 tensors with names of every length to 240."""
    names = [f"{i:03}." + "n" * (i % 237) for i in range(500)]
    return mount(make_model("many.safetensors", {n: ("U8", [], None) for n in names})).path


def test_tiny_buffers(many_files):
    fd = open_directory(many_files)
    try:
        wanted = read_all(fd, 1 << 20)
        assert len(wanted) == 1002
        for size in 280, 281, 512, 4095, 4096, 4097, 70_000:
            os.lseek(fd, 0, os.SEEK_SET)
            assert read_all(fd, size) == wanted
        os.lseek(fd, 0, os.SEEK_SET)
        with pytest.raises(OSError) as refused:
            getdents(fd, 16)
        assert refused.value.errno == errno.EINVAL
    finally:
        os.close(fd)


def test_positions_are_stable(many_files):
    """Any position leads to the same entries again, in this and in a fresh open."""
    first, second = open_directory(many_files), open_directory(many_files)
    try:
        entries = read_all(first, 1 << 20)
        for i in random.Random(1).sample(range(len(entries) - 1), 100):
            for fd in first, second:
                os.lseek(fd, entries[i][2], os.SEEK_SET)
                assert getdents(fd, 280)[0] == entries[i + 1]
        os.lseek(first, entries[-1][2], os.SEEK_SET)
        assert getdents(first, 280) == []
        os.lseek(first, 1 << 40, os.SEEK_SET)
        assert getdents(first, 280) == []
    finally:
        os.close(first)
        os.close(second)


@pytest.mark.threads
def test_listed_and_looked_up_by_many_at_once(many_files):
    names, wrong = sorted(listing(many_files)), []

    def visit(seed):
        chosen = random.Random(seed)
        for _ in range(5):
            if sorted(os.listdir(many_files)) != names:
                wrong.append("listing")
            for name in chosen.sample(names, 200):
                if refusal(many_files / name) is not None or refusal(many_files / f"{name}~") is None:
                    wrong.append(name)
    visitors = [threading.Thread(target=visit, args=(i,)) for i in range(8)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    assert wrong == []


# --- size -------------------------------------------------------------------------------------


def anonymous_memory(pid):
    """RssAnon in bytes."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) << 10


def header_length(path):
    with open(path, "rb") as model:
        return struct.unpack("<Q", model.read(8))[0]


def skip_if_sanitized(daemon_path):
    if b"__asan_init" in daemon_path.read_bytes() or b"__tsan_init" in daemon_path.read_bytes():
        pytest.skip("the memory of a sanitizer is not the daemon's")


HEADER_FACTOR, SLACK = 5, 4 << 20


def write_many(path, count):
    """A model of `count` one-byte tensors; returns their names."""
    names = [f"model.layers.{i // 12}.block.{i % 12}.weight" for i in range(count)]
    entries = ",".join(f'"{n}":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{i + 1}]}}'
                       for i, n in enumerate(names))
    models.write_model(path, {}, header="{" + entries + "}", tail=bytes(i % 251 for i in range(count)))
    return names


def test_hundred_thousand_tensors(mount, tmp_path):
    names = write_many(tmp_path / "big.safetensors", 100_000)
    folder = mount(tmp_path / "big.safetensors").path
    with os.scandir(folder) as entries:
        found = [(e.name, e.stat().st_size) for e in entries]
    assert len(found) == 200_000
    assert {n for n, _ in found} == set(names) | {f"{n}.json" for n in names}
    assert {size for n, size in found if not n.endswith(".json")} == {1}
    for i in random.Random(3).sample(range(100_000), 200):
        assert (folder / names[i]).read_bytes() == bytes([i % 251])


def test_memory_follows_the_header(mount, tmp_path, daemon_path):
    skip_if_sanitized(daemon_path)
    model = tmp_path / "big.safetensors"
    write_many(model, 100_000)
    mounted = mount(model)
    limit = HEADER_FACTOR * header_length(model) + SLACK
    assert anonymous_memory(mounted.pid) < limit
    for _ in range(2):
        with os.scandir(mounted.path) as entries:
            assert sum(1 for e in entries if e.stat().st_size) == 200_000
    assert anonymous_memory(mounted.pid) < limit


def test_memory_of_one_tensor_of_huge_rank(mount, tmp_path, daemon_path):
    """A header of 8 MB that is one shape: every stat of its sidecar writes the text anew."""
    skip_if_sanitized(daemon_path)
    dims = ",".join("1" * 4_000_000)
    model = models.write_model(tmp_path / "rank.safetensors", {}, tail=b"x", header=(
        '{"t":{"dtype":"U8","shape":[' + dims + '],"data_offsets":[0,1]}}'))
    mounted = mount(model)
    assert (mounted.path / "t").read_bytes() == b"x"
    readers = [threading.Thread(target=lambda: (mounted.path / "t.json").read_bytes()) for _ in range(8)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert (mounted.path / "t.json").read_text() == \
        '{"dtype":"U8","shape":[' + dims + '],"descr":"|u1"}\n'
    for _ in range(3):
        assert listing(mounted.path) == {"t", "t.json"}
    assert anonymous_memory(mounted.pid) < HEADER_FACTOR * header_length(model) + SLACK


# --- hostile models ---------------------------------------------------------------------------


def read_everything(folder):
    """{file: bytes} of all that is listed and the NumPy views of it."""
    found = {name: (folder / name).read_bytes() for name in listing(folder)}
    for name in found:
        if not name.endswith(".json"):
            try:
                (folder / f"{name}.npy").read_bytes()
            except FileNotFoundError:
                pass
    return found


def check_listed(folder, tensors):
    """tensors: the `listing` of an expected.json, [name, dtype, shape, bytes, sha256] each"""
    names = listing(folder) - {"__metadata__.json"}
    assert names == expected_listing({t[0]: t[1] for t in tensors})
    for name, dtype, shape, length, digest in tensors:
        data = (folder / file_name(name)).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (length, digest), name
        sidecar = json.loads((folder / f"{file_name(name)}.json").read_text())
        assert (sidecar["dtype"], sidecar["shape"]) == (dtype, shape), name


def try_model(mount, path, expected):
    """Mounted as expected, or refused with the right exit code and a word; what was wrong."""
    try:
        mounted = mount(path)
    except MountFailed as failed:
        if failed.returncode == 2 and path.name in failed.stderr:
            return None
        return f"{path.name}: exit code {failed.returncode}, {failed.stderr!r}"
    try:
        read_everything(mounted.path)
        if "listing" in expected:
            check_listed(mounted.path, expected["listing"])
        elif expected["official"] == "error":
            status = json.loads((mounted.path / ".stfs").read_text())
            assert status["tolerant"] and "damaged" in mounted.stderr()
        return None if mounted.ended(0) is None else f"{path.name}: the daemon died"
    except (AssertionError, OSError, ValueError) as error:
        return f"{path.name}: {error}"
    finally:
        mounted.unmount()


def groups_of(folder):
    """Batches of the corpus, so that workers can share it: the first letters of its files."""
    given = os.environ.get("STFS_CORPORA")
    path = pathlib.Path(__file__).resolve().parents[2] / given / folder if given else None
    if not path or not path.is_dir():
        return ["absent"]
    return sorted({f.name.split("_")[0] for f in path.glob("*.safetensors")})


def try_all(mount, paths, expected):
    assert paths
    wrong = [try_model(mount, path, expected[path.name]) for path in paths]
    return [w for w in wrong if w]


@pytest.mark.parametrize("group", groups_of("bad-inputs"))
def test_bad_inputs(mount, corpora, group):
    expected = json.loads((corpora / "bad-inputs/expected.json").read_text())
    assert try_all(mount, sorted((corpora / "bad-inputs").glob(f"{group}_*.safetensors")), expected) == []


@pytest.mark.parametrize("part", range(4))
def test_mutated(mount, corpora, part):
    expected = json.loads((corpora / "mutated/expected.json").read_text())
    paths = sorted((corpora / "mutated").glob("*.safetensors"))[part::4]
    assert try_all(mount, paths, expected) == []


def test_every_official_name_is_mounted(mount, corpora):
    """What the official loader and the specification both take is never refused."""
    expected = json.loads((corpora / "bad-inputs/expected.json").read_text())
    for name in sorted(expected):
        if name.startswith("name") and expected[name]["official"] == "ok":
            mounted = mount(corpora / "bad-inputs" / name)
            names = {tensor_name(mounted.path, f) for f in listing(mounted.path) if not f.endswith(".json")}
            assert len(names) == expected[name]["tensors"]
            if "listing" in expected[name]:
                assert names == {tensor[0] for tensor in expected[name]["listing"]}
            mounted.unmount()


def test_open_files_share_their_made_up_text(mount, tmp_path, daemon_path):
    """Metadata and sidecars can be as long as the header: a copy for every open would be a bomb."""
    skip_if_sanitized(daemon_path)
    dims = ",".join("1" * 1_000_000)
    model = models.write_model(tmp_path / "long.safetensors", {}, tail=b"x", header=(
        f'{{"__metadata__":{{"k":"{"v" * 2_000_000}"}},'
        f'"t":{{"dtype":"U8","shape":[{dims}],"data_offsets":[0,1]}}}}'))
    mounted = mount(model)
    before = anonymous_memory(mounted.pid)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context((mounted.path / name).open("rb"))
                 for name in ("__metadata__.json", "t.json") for _ in range(40)]
        assert {f.read(8) for f in files} == {b'{\n  "k":', b'{"dtype"'}
        assert anonymous_memory(mounted.pid) - before < 12 << 20
    assert json.loads((mounted.path / "t.json").read_bytes())["shape"] == [1] * 1_000_000


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("modes,expected", [((0o600, 0o600), 0o400), ((0o644, 0o640), 0o400),
                                            ((0o644, 0o644), 0o444)])
def test_shards_of_several_owners(mount, tmp_path, modes, expected):
    """Nobody reads through the mount a shard that its own file keeps from them."""
    names = [f"model-{i}.safetensors" for i in (0, 1)]
    for i, name in enumerate(names):
        path = models.write_model(tmp_path / "m" / name, {f"t{i}": ("U8", [4], None)})
        os.chown(path, 65534 if i == 0 else 0, 65534 if i == 0 else 0)
        path.chmod(modes[i])
    index = {"metadata": {"total_size": 8}, "weight_map": {f"t{i}": n for i, n in enumerate(names)}}
    (tmp_path / "m" / "model.safetensors.index.json").write_text(json.dumps(index))
    folder = mount(tmp_path / "m").path
    for name in ("t0", "t1", "t1.json"):
        status = (folder / name).stat()
        assert (status.st_uid, status.st_mode & 0o777) == (0, expected)
