# SPDX-License-Identifier: MIT
"""A random walk through a writable mount, beside writing.Oracle: one edit after the other, each compared.

An edit is a tuple of a method's name and plain values, chosen by `draw`; one that does not apply any more, as when
a shorter walk is played, does nothing.
"""
import collections
import contextlib
import errno
import json
import mmap
import os
import pathlib
import random
import stat
import time

import models
import writing
from writing import file_name, is_scratch, noise

SIZES = [0, 1, 2, 511, 4095, 4096, 4097, 8192, 12288, 65535, 65536, 65537, 131072, 200_001, 1 << 20, (3 << 20) + 5]
NAMES = ["a", "b", "c", "d", "e.weight", "f.bias", "g/h", "i.json", "j.npy", "k~", "é", "sedQwErTy", "l.json.AbC"]
SCRATCH = [".a.AbC123", ".b.json.XyZ789", "c~", ".goutputstream-1", "d.swp"]
TYPES = ["F32", "BF16", "U8", "I64", "F16", "BOOL", "F8_E4M3", "C64", "F4"]
MOST = 24 << 20  # bytes in all


class Wrong(AssertionError):
    """The mount and the oracle do not agree."""


def expect(condition, *words):
    if not condition:
        raise Wrong(" ".join(map(str, words)))


def same(found, wanted, what):
    """Bytes are equal; where not, says where."""
    if bytes(found) == bytes(wanted):
        return
    at = next((i for i, (x, y) in enumerate(zip(found, wanted)) if x != y), min(len(found), len(wanted)))
    raise Wrong(f"{what}: {len(found)} bytes instead of {len(wanted)}, another from byte {at} on: "
                f"{bytes(found[at:at + 16]).hex()} instead of {bytes(wanted[at:at + 16]).hex()}")


@contextlib.contextmanager
def refused(*codes):
    """The system call inside fails with one of these errors."""
    try:
        yield
    except OSError as error:
        expect(error.errno in codes, f"{error} instead of", *[errno.errorcode[c] for c in codes])
    else:
        raise Wrong(f"it succeeded instead of {[errno.errorcode[c] for c in codes]}")


class Handle:
    """An open descriptor of a node."""

    def __init__(self, fd, node):
        self.fd, self.node = fd, node


class Walk:
    """`mount(model, *options)` mounts; `stfs` runs verbs; `options`: of the mount."""

    def __init__(self, mount, stfs, model, options, daemon_args=()):
        self.mounter, self.stfs, self.model = mount, stfs, pathlib.Path(model)
        self.options, self.daemon_args = options, daemon_args
        words = dict(o.partition("=")[::2] for o in ",".join(options).split(","))
        self.view = words.get("view", "raw")
        self.automatic = words.get("autosync", "2") != "0"
        tensors, metadata = self.official()
        self.private = "cow" in words
        self.oracle = writing.Oracle(tensors, metadata, words.get("overwrite") != "staged" and not self.private)
        self.handles = {}
        self.unsure = set()   # names whose tensors in the model are not known
        self.gone = collections.deque(maxlen=6)
        self.log = []
        self.seeds = 0
        self.mounted = mount(model, *options, daemon_args=daemon_args)
        self.root = self.mounted.path

    # --- what is there ---

    def files(self):
        return sorted(self.model.glob("*.safetensors")) if self.model.is_dir() else [self.model]

    def official(self):
        """The model as the official loader has it."""
        metadata = {}
        for path in self.files():
            metadata |= models.read_header(path)[0].get("__metadata__") or {}
        return models.official_tensors(*self.files()), metadata or None

    def path(self, file):
        return f"{self.root}/{file}"

    def read(self, file):
        with open(self.path(file), "rb", buffering=0) as f:
            return f.readall()

    # --- comparing ---

    def check_raw(self, file, node, rng):
        """All bytes of a small file, some of a large one."""
        size = len(node.data)
        found = os.stat(self.path(file))
        expect(stat.S_ISREG(found.st_mode), file, "is no file")
        expect(found.st_size == size, file, "has", found.st_size, "bytes for stat, not", size)
        fd = os.open(self.path(file), os.O_RDONLY)
        try:
            if size <= 200_001 or rng is None:
                got = bytearray()
                while piece := os.pread(fd, 1 << 20, len(got)):
                    got += piece
                same(got, node.data, file)
                return
            for _ in range(3):
                at, length = rng.randrange(size), rng.choice([1, 4096, 100_000, 1 << 20])
                same(os.pread(fd, length, at), node.data[at:at + length], f"{file} from {at} on")
            same(os.pread(fd, 100, size - 7), node.data[-7:], f"the end of {file}")
        finally:
            os.close(fd)

    def check_type(self, name, node):
        file = file_name(name)
        fit, dtype, shape = node.typing() if node else ("not", *self.oracle.declared[name][:2])
        if fit == "none":
            self.check_absent(file + ".json")
        else:
            text = json.loads(self.read(file + ".json"))
            found = text["dtype"], text["shape"]
            if fit == "not" and self.automatic and shape:  # so many rows as the last commit had
                found, shape = (found[0], found[1][1:]), shape[1:]
            expect(found == (dtype, shape), f"{file}.json: {text}, not {dtype} {shape}")
        if node and self.oracle.has_npy(node):
            size = os.stat(self.path(file + ".npy")).st_size
            raw = self.read(file + ".npy")
            expect(size == len(raw), f"{file}.npy: {size} bytes for stat, {len(raw)} read")
            kind, dims, data = writing.read_npy(raw)
            expect(kind.itemsize == models.BITS[dtype] // 8 and dims == shape, f"{file}.npy: {kind} {dims}")
            same(data, node.data, f"{file}.npy")
        else:
            self.check_absent(file + ".npy")

    def check_absent(self, file):
        for call in (os.stat, lambda p: os.close(os.open(p, os.O_RDONLY))):
            try:
                call(self.path(file))
            except OSError as error:
                expect(error.errno == errno.ENOENT, f"{file}, which is not there: {error}")
            else:
                raise Wrong(f"{file} is there and should not be")

    def check_metadata(self):
        wanted = self.oracle.metadata
        if wanted:
            expect(json.loads(self.read("__metadata__.json")) == wanted, "__metadata__.json:",
                   self.read("__metadata__.json"), "not", wanted)
        else:
            self.check_absent("__metadata__.json")

    def check_list(self):
        found, wanted = sorted(os.listdir(self.root)), sorted(self.oracle.listing(self.view))
        expect(found == wanted, "listed without being there:", sorted(set(found) - set(wanted)), "; not listed:",
               sorted(set(wanted) - set(found)))

    def check_handles(self, rng):
        for key, handle in list(self.handles.items()):
            size = len(handle.node.data)
            if handle.node.ended:
                with refused(errno.ESTALE):
                    os.fstat(handle.fd)
            else:
                found = os.fstat(handle.fd).st_size
                expect(found == size, f"descriptor {key}: {found} bytes for fstat, not {size}")
            at = rng.randrange(size + 1)
            same(os.pread(handle.fd, 5000, at), handle.node.data[at:at + 5000], f"descriptor {key} from {at} on")

    def check(self, touched, rng):
        """What an edit touched, and something else."""
        self.check_list()
        for file in self.gone:
            if is_scratch(file) and file not in self.oracle.scratch:
                self.check_absent(file)
            elif not is_scratch(file) and not self.oracle.by_file(file):
                self.check_absent(file)
                self.check_absent(file + ".npy")
        for name, node in self.oracle.tensors.items():
            size = os.stat(self.path(file_name(name))).st_size
            expect(size == len(node.data), file_name(name), "has", size, "bytes for stat, not", len(node.data))
        some = set(touched)
        if self.oracle.tensors:
            some |= {file_name(n) for n in rng.sample(sorted(self.oracle.tensors), min(2, len(self.oracle.tensors)))}
        for file in sorted(some):
            node = self.oracle.node(file)
            if node:
                self.check_raw(file, node, rng)
            if node and node.name is not None:
                self.check_type(node.name, node)
        for name in self.oracle.declared:
            self.check_type(name, None)
        self.check_metadata()
        self.check_handles(rng)

    def check_all(self):
        self.check_list()
        for name, node in self.oracle.tensors.items():
            self.check_raw(file_name(name), node, None)
            self.check_type(name, node)
        for file, node in self.oracle.scratch.items():
            self.check_raw(file, node, None)
        self.check_metadata()

    def check_pending(self):
        """.stfs tells what is pending."""
        said = json.loads(self.read(".stfs"))
        expect(said["last_error"] is None and not said.get("last_commit_error"), ".stfs:", said)
        if self.automatic:
            return
        found = {(item["name"], item["change"]) for item in said["pending"]["items"] if item["change"] != "metadata"}
        expect(found == self.oracle.pending(), f"pending: {sorted(found)}, not {sorted(self.oracle.pending())}")

    def check_model(self):
        """The official loader agrees about what was committed."""
        tensors, metadata = self.official()
        wanted, wanted_metadata = self.oracle.committed()
        names = (set(tensors) | set(wanted)) - self.unsure
        expect(names <= set(tensors), "not in the model:", sorted(names - set(tensors)))
        expect(names <= set(wanted), "in the model without being wanted:", sorted(names - set(wanted)))
        for name in sorted(names):
            (dtype, shape, data), want = tensors[name], wanted[name]
            expect((dtype, shape) == (want.dtype, want.shape), f"{name} is {dtype} {shape} in the model, not {want.dtype} "
                   f"{want.shape}")
            data, loose = bytearray(data), slice(want.loose.start, want.loose.stop)
            data[loose] = want.data[loose]
            same(data, want.data, f"{name} in the model")
        expect(metadata == (wanted_metadata or None), f"metadata {metadata} in the model, not {wanted_metadata}")

    def fit(self):
        """Gives types that fit to what has another."""
        for name, node in list(self.oracle.tensors.items()):
            if node.typing()[0] == "not":
                self.do_type(name, "U8", [len(node.data)])

    def check_saved(self, path):
        """A file that was saved has what the mount shows; what has no type is bytes there."""
        tensors, wanted = models.official_tensors(path), {}
        for name, node in self.oracle.tensors.items():
            fit, dtype, shape = node.typing()
            wanted[name] = ("U8", [len(node.data)]) if fit == "none" else (dtype, shape)
        found = {name: tensor[:2] for name, tensor in tensors.items()}
        expect(found == wanted, f"saved: {sorted(found.items() ^ wanted.items())}" if set(found) != set(wanted) else
               f"saved: {[(n, found[n], wanted[n]) for n in found if found[n] != wanted[n]]}")
        for name, node in self.oracle.tensors.items():
            same(tensors[name][2], node.data, f"{name}, saved")
        expect((models.read_header(path)[0].get("__metadata__") or None) == self.oracle.metadata, "metadata, saved")

    # --- choosing ---

    def pick(self, rng, scratch=False):
        # TODO(bug 13): "keep" as any other; without it shards may come to have no tensor at all
        files = [file_name(n) for n in self.oracle.tensors if n != "keep"] + (list(self.oracle.scratch) if scratch else [])
        return rng.choice(sorted(files)) if files else None

    def pick_any_name(self, rng):
        return rng.choice(NAMES)

    def total(self):
        return sum(len(n.data) for n in [*self.oracle.tensors.values(), *self.oracle.scratch.values(),
                                         *self.oracle.gone])

    def size(self, rng):
        most = MOST - self.total()
        return rng.choice([s for s in SIZES if s <= most] or [0])

    def shape_of(self, rng, dtype, size):
        """A shape of that type with so many bytes, or about."""
        count = size * 8 // models.BITS[dtype]
        if dtype == "F4":
            count -= count % 2
        if count == 1 and rng.random() < 0.5:
            return []
        columns = rng.choice([c for c in (1, 2, 3, 4, 8, 16) if count % c == 0])
        return rng.choice([[count], [count // columns, columns], [1, count]])

    def draw(self, rng):
        """The next edit."""
        kinds = [(6, "create"), (4, "overwrite"), (8, "pwrite"), (5, "append"), (3, "append_rows"), (5, "resize"),
                 (5, "map"), (3, "map_npy"), (6, "unlink"), (7, "rename"), (3, "to_scratch"), (3, "from_scratch"),
                 (4, "copy_range"), (4, "fallocate"), (6, "type"), (3, "type_rename"), (2, "bad_type"),
                 (4, "save_npy"), (2, "save_npy_rename"), (4, "rsync"), (2, "metadata"), (1, "bad_metadata"),
                 (2, "utimens"), (3, "open"), (3, "close"), (6, "fd_write"), (3, "fd_resize"), (3, "fsync"),
                 (2, "fsync_dir"), (3, "sync"), (1, "remount"), (2, "exclusive"), (2, "pwrite_npy"),
                 (1, "new_scratch"), (2, "unlink_sidecar"), (1, "unlink_npy")]
        while True:
            kind = rng.choices([k for _, k in kinds], [w for w, _ in kinds])[0]
            args = getattr(self, f"draw_{kind}")(rng)
            if args is not None:
                return (kind, *args)

    def seed(self, rng):
        self.seeds += 1
        return self.seeds

    def play(self, edit, check_seed=None):
        """Does one edit on both, and compares."""
        self.log.append(edit)
        rng = random.Random(f"{check_seed or len(self.log)}")
        touched = getattr(self, f"do_{edit[0]}")(*edit[1:]) or ()
        self.check(touched, rng)
        if len(self.log) % 10 == 0:
            self.check_pending()

    # --- raw files ---

    def draw_create(self, rng):
        name = self.pick_any_name(rng)
        if name in self.oracle.tensors:
            return None
        return name, self.size(rng), self.seed(rng), rng.choice([1 << 20, 1 << 20, 5000])

    def put(self, file, name, data, piece, flags=0):
        """open(..., "wb"), write, close."""
        node = self.oracle.node(file)
        fd = os.open(self.path(file), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | flags, 0o644)
        if node:
            self.oracle.resize(node, 0, rewrite=True)
        else:
            node = self.oracle.create(file, name)
        node.writers.add("now")
        node.opens.add("now")
        for at in range(0, len(data), piece):
            os.write(fd, data[at:at + piece])
        self.oracle.write(node, data, 0)
        node.writers.discard("now")
        node.opens.discard("now")
        os.close(fd)
        node.settle()
        return node

    def do_create(self, name, size, seed, piece):
        file = file_name(name)
        self.put(file, name, noise(seed, size), max(piece, size // 50 + 1))
        return [file]

    def draw_overwrite(self, rng):
        """As cp does: mostly with a size that fits."""
        file = self.pick(rng)
        if not file:
            return None
        size = len(self.oracle.node(file).data) if rng.random() < 0.7 else self.size(rng)
        return file, size, self.seed(rng)

    def do_overwrite(self, file, size, seed):
        node = self.oracle.node(file)
        if not node:
            return ()
        with self.changes_mtime(file, size or len(node.data)):
            self.put(file, node.name, noise(seed, size), 1 << 20)
        return [file]

    @contextlib.contextmanager
    def changes_mtime(self, file, really=True):
        before = os.stat(self.path(file)).st_mtime_ns
        yield
        after = os.stat(self.path(file)).st_mtime_ns
        expect(after != before or not really, f"{file}: st_mtime is {after} after it was written, {before} before")

    def draw_pwrite(self, rng):
        file = self.pick(rng, scratch=True)
        if not file or not self.oracle.node(file).data:
            return None
        size = len(self.oracle.node(file).data)
        at = rng.choice([0, rng.randrange(size), max(0, size - 1), 4096 * rng.randrange(size // 4096 + 1)])
        length = rng.choice([1, 10, 4096, 4097, 70_000, size])
        if rng.random() < 0.9:  # mostly within
            at = min(at, size - 1)
            length = min(length, size - at)
        elif self.total() + at + length - size > MOST:
            return None
        return file, at, length, self.seed(rng), rng.random() < 0.2

    def do_pwrite(self, file, at, length, seed, sync):
        node = self.oracle.node(file)
        if not node:
            return ()
        data = noise(seed, length)
        with self.changes_mtime(file):
            fd = os.open(self.path(file), os.O_RDWR)
            expect(os.pwrite(fd, data, at) == length, "a short write")
            self.oracle.write(node, data, at)
            node.writers.add("now")
            node.opens.add("now")
            if sync:
                self.fsync(fd, node)
            node.writers.discard("now")
            node.opens.discard("now")
            os.close(fd)
            node.settle()
        return [file]

    def draw_append(self, rng):
        file = self.pick(rng, scratch=True)
        length = rng.choice([1, 3, 4096, 4097, 60_000])
        return (file, length, self.seed(rng)) if file and self.total() + length < MOST else None

    def do_append(self, file, length, seed):
        node = self.oracle.node(file)
        if not node:
            return ()
        data = noise(seed, length)
        with self.changes_mtime(file), open(self.path(file), "ab", buffering=0) as f:
            f.write(data)
            self.oracle.write(node, data, len(node.data))
        node.settle()
        return [file]

    def draw_append_rows(self, rng):
        file = self.pick(rng)
        fit, dtype, shape = self.oracle.node(file).typing() if file else ("none", None, None)
        if fit in ("none", "not") or not shape or 0 in shape:
            return None
        row = len(self.oracle.node(file).data) // shape[0]
        rows = rng.choice([1, 2, 7])
        return (file, row * rows, self.seed(rng)) if row and self.total() + row * rows < MOST else None

    do_append_rows = do_append

    def draw_resize(self, rng):
        file = self.pick(rng, scratch=True)
        if not file:
            return None
        node = self.oracle.node(file)
        size = len(node.data)
        new = rng.choice([self.size(rng), size // 2, size + 1, max(0, size - 1), size + 4096, size])
        fit, _, shape = node.typing()
        if fit in ("exact", "rows") and shape and shape[0] and rng.random() < 0.6:
            new = size // shape[0] * rng.randrange(shape[0] + 1)
        return (file, new) if self.total() + new - size < MOST else None

    def do_resize(self, file, size):
        node = self.oracle.node(file)
        if not node:
            return ()
        with self.changes_mtime(file, size != len(node.data)):
            os.truncate(self.path(file), size)
            self.oracle.resize(node, size)
        node.settle()
        return [file]

    # --- mappings ---

    def draw_map(self, rng):
        file = self.pick(rng)
        size = len(self.oracle.node(file).data) if file else 0
        if not size:
            return None
        at = rng.randrange(size)
        return file, at, min(rng.choice([1, 100, 4096, 100_000]), size - at), self.seed(rng), rng.random() < 0.6

    def write_mapped(self, file, head, at, node, data, flush):
        """Writes to a mapping of the whole file, whose first `head` bytes are none of the tensor's."""
        fd = os.open(self.path(file), os.O_RDWR)
        with mmap.mmap(fd, head + len(node.data)) as mapped:
            same(mapped[head + at:head + at + len(data)], node.data[at:at + len(data)], f"{file}, mapped, from {at} on")
            mapped[head + at:head + at + len(data)] = data
            self.oracle.write(node, data, at)
            if flush:
                node.writers.add("now")
                self.sync_file(mapped.flush, node)
                node.writers.discard("now")
        os.close(fd)
        node.settle()

    def do_map(self, file, at, length, seed, flush):
        node = self.oracle.node(file)
        if not node or at + length > len(node.data):
            return ()
        data = noise(seed, length)
        self.write_mapped(file, 0, at, node, data, flush)
        return [file]

    def draw_map_npy(self, rng):
        found = self.draw_map(rng)
        return found if found and self.oracle.has_npy(self.oracle.node(found[0])) else None

    def do_map_npy(self, file, at, length, seed, flush):
        node = self.oracle.node(file)
        if not node or at + length > len(node.data) or not self.oracle.has_npy(node):
            return ()
        data = noise(seed, length)
        head = os.stat(self.path(file + ".npy")).st_size - len(node.data)
        self.write_mapped(file + ".npy", head, at, node, data, flush)
        return [file]

    def draw_pwrite_npy(self, rng):
        found = self.draw_map_npy(rng)
        return found[:4] if found else None

    def do_pwrite_npy(self, file, at, length, seed):
        node = self.oracle.node(file)
        if not node or at + length > len(node.data) or not self.oracle.has_npy(node):
            return ()
        data = noise(seed, length)
        with self.changes_mtime(file), open(self.path(file + ".npy"), "r+b", buffering=0) as f:
            head = os.fstat(f.fileno()).st_size - len(node.data)
            os.pwrite(f.fileno(), data, head + at)
            self.oracle.write(node, data, at)
            with refused(errno.EINVAL):
                os.pwrite(f.fileno(), b"X", 3)
        node.settle()
        return [file]

    # --- names ---

    def draw_unlink(self, rng):
        file = self.pick(rng, scratch=True)
        return (file,) if file else None

    def do_unlink(self, file, through=""):
        node = self.oracle.node(file)
        if not node:
            return ()
        os.unlink(self.path(file + through))
        node.ended = bool(through)
        self.oracle.remove(node)
        self.gone.append(file)
        return [file]

    def draw_unlink_npy(self, rng):
        file = self.pick(rng)
        return (file,) if file and self.oracle.has_npy(self.oracle.node(file)) else None

    def do_unlink_npy(self, file):
        node = self.oracle.node(file)
        if not node or not self.oracle.has_npy(node):
            return ()
        return self.do_unlink(file, ".npy")

    def draw_unlink_sidecar(self, rng):
        names = [n for n, node in self.oracle.tensors.items() if node.typing()[0] != "none"]
        names += list(self.oracle.declared)
        return (rng.choice(sorted(names)),) if names else None

    def do_unlink_sidecar(self, name):
        node = self.oracle.tensors.get(name)
        if name not in self.oracle.declared and (not node or node.typing()[0] == "none"):
            return ()
        os.unlink(self.path(file_name(name) + ".json"))
        self.oracle.remove_sidecar(name)
        return [file_name(name)]

    def draw_rename(self, rng):
        file, name = self.pick(rng), self.pick_any_name(rng)
        return (file, name, rng.random() < 0.1) if file else None

    def do_rename(self, file, name, as_npy):
        node = self.oracle.node(file)
        if not node:
            return ()
        new = file_name(name)
        if not as_npy or node.name is None or node.name == name or not self.oracle.has_npy(node):
            os.rename(self.path(file), self.path(new))
        elif node.opens:
            with refused(errno.EXDEV):
                os.rename(self.path(file + ".npy"), self.path(new + ".npy"))
            return [file]
        else:
            self.rename_npy(file, new)
            if name in self.oracle.tensors:
                self.oracle.tensors[name].ended = True
        self.oracle.rename(node, new, name)
        if new != file:
            self.gone.append(file)
        return [file, new]

    def rename_npy(self, file, new):
        """EXDEV as long as the raw file is open, and the release of a file comes later than its close(2)."""
        end = time.monotonic() + 10
        while True:
            try:
                return os.rename(self.path(file + ".npy"), self.path(new + ".npy"))
            except OSError as error:
                expect(error.errno == errno.EXDEV and time.monotonic() < end, f"mv of a .npy: {error}")

    def draw_to_scratch(self, rng):
        file = self.pick(rng, scratch=True)
        return (file, rng.choice(SCRATCH)) if file else None

    def do_to_scratch(self, file, new):
        node = self.oracle.node(file)
        if not node:
            return ()
        os.rename(self.path(file), self.path(new))
        self.oracle.rename(node, new, None)
        if new != file:
            self.gone.append(file)
        return [file, new]

    def draw_from_scratch(self, rng):
        files = sorted(self.oracle.scratch)
        return (rng.choice(files), self.pick_any_name(rng), False) if files else None

    do_from_scratch = do_rename

    def draw_new_scratch(self, rng):
        return rng.choice(SCRATCH), self.size(rng), self.seed(rng)

    def do_new_scratch(self, file, size, seed):
        self.put(file, None, noise(seed, size), 1 << 20)
        return [file]

    def draw_exclusive(self, rng):
        return (rng.choice(NAMES), self.seed(rng))

    def do_exclusive(self, name, seed):
        file = file_name(name)
        if name in self.oracle.tensors:
            with refused(errno.EEXIST):
                os.open(self.path(file), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        else:
            self.put(file, name, noise(seed, 64), 64, os.O_EXCL)
        return [file]

    def draw_rsync(self, rng):
        name = self.pick_any_name(rng)
        size = self.size(rng)
        if name in self.oracle.tensors and rng.random() < 0.7:
            size = len(self.oracle.tensors[name].data)
        return name, size, self.seed(rng), rng.randrange(1, 10**9)

    def do_rsync(self, name, size, seed, mtime):
        """Written under a name of its own, then renamed."""
        new = file_name(name)
        temporary = f".{new}.AbC123"
        self.put(temporary, None, noise(seed, size), 1 << 20)
        node = self.oracle.scratch[temporary]
        os.chmod(self.path(temporary), 0o600)
        os.utime(self.path(temporary), ns=(mtime, mtime))
        os.rename(self.path(temporary), self.path(new))
        self.oracle.rename(node, new, name)
        expect(os.stat(self.path(new)).st_mtime_ns == mtime, f"{new}: st_mtime is not what it was set to")
        self.gone.append(temporary)
        return [new]

    def draw_utimens(self, rng):
        file = self.pick(rng, scratch=True)
        return (file, rng.randrange(1, 2 * 10**18)) if file else None

    def do_utimens(self, file, mtime):
        if not self.oracle.node(file):
            return ()
        os.utime(self.path(file), ns=(mtime, mtime))
        expect(os.stat(self.path(file)).st_mtime_ns == mtime, f"{file}: st_mtime is not what it was set to")
        return [file]

    # --- from one to the other ---

    def draw_copy_range(self, rng):
        a, b = self.pick(rng, scratch=True), self.pick(rng, scratch=True)
        if not a or a == b:
            return None
        size, room = len(self.oracle.node(a).data), len(self.oracle.node(b).data)
        start, at = rng.randrange(size + 1), rng.randrange(room + 1)
        length = rng.choice([1, 4096, 70_000, size])
        if rng.random() < 0.8:
            length = min(length, room - at)
        return (a, start, b, at, length) if length and self.total() + length < MOST else None

    def do_copy_range(self, a, start, b, at, length):
        source, target = self.oracle.node(a), self.oracle.node(b)
        if not source or not target or source is target:
            return ()
        fds = os.open(self.path(a), os.O_RDONLY), os.open(self.path(b), os.O_RDWR)
        data = bytes(source.data[start:start + length])
        done = 0
        while done < length:
            got = os.copy_file_range(*fds, length - done, start + done, at + done)
            if got == 0:
                break
            done += got
        for fd in fds:
            os.close(fd)
        expect(done == len(data), f"copy_file_range copied {done} bytes, not {len(data)}")
        self.oracle.write(target, data, at)
        target.settle()
        return [a, b]

    def draw_fallocate(self, rng):
        file = self.pick(rng, scratch=True)
        if not file:
            return None
        size = len(self.oracle.node(file).data)
        at, length = rng.randrange(size + 2), rng.choice([1, 4096, 10_000, size + 1])
        mode = rng.choice([0, 1, 3, 0x10, 0x11])
        grows = mode in (0, 0x10) and at + length > size
        if grows and (rng.random() < 0.5 or self.total() + length > MOST):
            return None
        return file, mode, at, length

    def do_fallocate(self, file, mode, at, length):
        node = self.oracle.node(file)
        if not node:
            return ()
        fd = os.open(self.path(file), os.O_RDWR)
        writing.fallocate(fd, mode, at, length)
        os.close(fd)
        if mode in (0, 0x10) and at + length > len(node.data):
            size = len(node.data)
            self.oracle.resize(node, at + length)
            length = max(0, size - at) if at < size else 0
        if mode in (3, 0x10, 0x11):
            self.oracle.write(node, bytes(max(0, min(length, len(node.data) - at))), at)
        node.settle()
        return [file]

    # --- types ---

    def draw_type(self, rng, fits=0.85):
        name = self.pick_any_name(rng)
        dtype = rng.choice(TYPES)
        node = self.oracle.tensors.get(name)
        if not node:
            return name, dtype, self.shape_of(rng, dtype, self.size(rng))
        shape = self.shape_of(rng, dtype, len(node.data))
        if models.nbytes(dtype, shape) != len(node.data) and rng.random() < fits:
            dtype, shape = "U8", [len(node.data)]
        if rng.random() > fits and not self.automatic:
            shape = [3, *shape]
        return name, dtype, shape

    def do_type(self, name, dtype, shape):
        with open(self.path(file_name(name) + ".json"), "wb") as f:
            f.write(writing.sidecar(dtype, shape))
        self.oracle.declare(name, dtype, shape)
        return [file_name(name)]

    def draw_type_rename(self, rng):
        name, dtype, shape = self.draw_type(rng)
        temporary = rng.choice([f".{file_name(name)}.json.AbC", "sedXyZ123", f"{file_name(name)}.json.AbC"])
        if "%" in file_name(name) and not is_scratch(temporary):
            temporary = "sedXyZ123"  # an escape that is needed at the end only
        return (name, dtype, shape, temporary) if not self.oracle.node(temporary) else None

    def do_type_rename(self, name, dtype, shape, temporary):
        """As rsync, sed -i and editors write."""
        if self.oracle.node(temporary) or temporary in self.oracle.declared:
            return ()
        with open(self.path(temporary), "wb") as f:
            f.write(writing.sidecar(dtype, shape))
        os.rename(self.path(temporary), self.path(file_name(name) + ".json"))
        self.oracle.declare(name, dtype, shape)
        self.gone.append(temporary)
        return [file_name(name)]

    def draw_bad_type(self, rng):
        bad = [b'{"dtype":"F33","shape":[1]}', b"{", b'{"dtype":"F32"}', b"\0\0\0", b'{"dtype":"F32","shape":[-1]}']
        return self.pick_any_name(rng), rng.choice(bad), rng.random() < 0.5

    def do_bad_type(self, name, text, by_rename):
        file = file_name(name) + ".json"
        if by_rename:
            with open(self.path(".bad"), "wb") as f:
                f.write(text)
            with refused(errno.EINVAL):
                os.rename(self.path(".bad"), self.path(file))
            os.unlink(self.path(".bad"))
        else:
            fd = os.open(self.path(file), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.write(fd, text)
            with refused(errno.EINVAL):
                os.close(fd)
        return [file_name(name)]

    def draw_save_npy(self, rng):
        name, dtype = self.pick_any_name(rng), rng.choice([t for t in TYPES if t not in ("F8_E4M3", "F4", "BF16")])
        shape = self.shape_of(rng, dtype, self.size(rng))
        return name, dtype, shape, self.seed(rng), rng.random() < 0.2

    def do_save_npy(self, name, dtype, shape, seed, fortran):
        data = noise(seed, models.nbytes(dtype, shape))
        with open(self.path(file_name(name) + ".npy"), "wb") as f:
            f.write(writing.npy(dtype, shape, data, fortran))
        self.oracle.adopt(name, dtype, shape, data)
        return [file_name(name)]

    draw_save_npy_rename = draw_save_npy

    def do_save_npy_rename(self, name, dtype, shape, seed, fortran):
        data = noise(seed, models.nbytes(dtype, shape))
        temporary = f".{file_name(name)}.npy.XyZ"
        with open(self.path(temporary), "wb") as f:
            f.write(writing.npy(dtype, shape, data, fortran))
        os.rename(self.path(temporary), self.path(file_name(name) + ".npy"))
        self.oracle.adopt(name, dtype, shape, data)
        self.gone.append(temporary)
        return [file_name(name)]

    def draw_metadata(self, rng):
        if rng.random() < 0.3:
            return (None, "remove")
        return ([rng.choice([0, 1, 100, 5000]) for i in range(rng.randrange(4))], rng.choice(["write", "rename"]))

    def do_metadata(self, sizes, how):
        """Sizes of values."""
        metadata = {f"key{i}": "x" * size for i, size in enumerate(sizes or ())}
        path = self.path("__metadata__.json")
        if self.model.is_dir():
            return ()  # TODO(bug 10): shards without tensors keep what they have
        if how == "remove":
            if not self.oracle.metadata:
                return ()
            os.unlink(path)
        elif how == "write":
            with open(path, "w") as f:
                json.dump(metadata, f)
        else:
            with open(self.path(".__metadata__.json.AbC"), "w") as f:
                json.dump(metadata, f)
            os.rename(self.path(".__metadata__.json.AbC"), path)
        self.oracle.metadata = metadata or None
        return ()

    def draw_bad_metadata(self, rng):
        return (rng.choice(['{"a": 1}', "[]", "{", '{"a": {}}']),)

    def do_bad_metadata(self, text):
        fd = os.open(self.path("__metadata__.json"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.write(fd, text.encode())
        with refused(errno.EINVAL):
            os.close(fd)

    # --- descriptors that stay open ---

    def draw_open(self, rng):
        file = self.pick(rng, scratch=True)
        if not file or len(self.handles) >= 5:
            return None
        return self.seed(rng), file, rng.choice([os.O_RDWR, os.O_RDWR, os.O_RDONLY])

    def do_open(self, key, file, flags):
        node = self.oracle.node(file)
        if not node:
            return ()
        fd = os.open(self.path(file), flags)
        handle = self.handles[key] = Handle(fd, node)
        handle.flags = flags
        node.opens.add(key)
        return [file]

    def draw_close(self, rng):
        return (rng.choice(sorted(self.handles)),) if self.handles else None

    def do_close(self, key):
        handle = self.handles.pop(key, None)
        if handle:
            os.close(handle.fd)
            handle.node.opens.discard(key)
            handle.node.writers.discard(key)
            handle.node.settle()

    def writable(self, rng):
        keys = sorted(k for k, h in self.handles.items() if h.flags == os.O_RDWR)
        return rng.choice(keys) if keys else None

    def draw_fd_write(self, rng):
        key = self.writable(rng)
        if key is None:
            return None
        size = len(self.handles[key].node.data)
        at, length = rng.randrange(size + 1), rng.choice([1, 100, 4096, 70_000])
        if rng.random() < 0.7:
            length = min(length, size - at)
        return (key, at, length, self.seed(rng)) if length and self.total() + length < MOST else None

    def do_fd_write(self, key, at, length, seed):
        handle = self.handles.get(key)
        if not handle:
            return ()
        data = noise(seed, length)
        os.pwrite(handle.fd, data, at)
        self.oracle.write(handle.node, data, at)
        handle.node.writers.add(key)
        return ()

    def draw_fd_resize(self, rng):
        key = self.writable(rng)
        if key is None:
            return None
        size = len(self.handles[key].node.data)
        new = rng.choice([0, size // 2, size + 100, size])
        return (key, new) if self.total() + new - size < MOST else None

    def do_fd_resize(self, key, size):
        handle = self.handles.get(key)
        if not handle or handle.node.ended:
            return ()
        os.ftruncate(handle.fd, size)
        self.oracle.resize(handle.node, size)
        handle.node.writers.add(key)
        return ()

    # --- committing ---

    def learn(self, left):
        """After a commit: what is not known of the model, when there were others before it unasked."""
        if not self.automatic:
            return
        unsure = set()
        left = [*left, *(node for node in self.oracle.gone if node.opens)]
        again = True
        while again:
            again = False
            for node in {*left, *self.oracle.tensors.values(), *self.oracle.scratch.values(), *self.oracle.gone}:
                names = node.names | ({node.base.name} if node.base else set())
                if (node in left or names & unsure) and not names <= unsure:
                    unsure |= names
                    again = True
        self.unsure = unsure

    def committed(self, left, wanted=None):
        self.learn(left)
        self.check_model()

    def sync_file(self, call, node):
        """fsync or msync of an open file, by `call`."""
        nothing = node.file is not None or self.private  # scratch, and what stays the mount's own, is not committed
        code, left = (0, []) if nothing else self.oracle.fsync(node)
        if self.automatic and code in (0, errno.EBUSY):
            # Whether its name is another's in the model depends on what was committed before.
            try:
                call()
            except OSError as error:
                expect(error.errno == errno.EBUSY, f"fsync: {error}")
                left.append(node)
        elif code:
            with refused(code):
                call()
        else:
            call()
        return left

    def fsync(self, fd, node):
        return self.sync_file(lambda: os.fsync(fd), node)

    def draw_fsync(self, rng):
        file = self.pick(rng)
        return (file,) if file else None

    def do_fsync(self, file):
        node = self.oracle.node(file)
        if not node or node.name is None:
            return ()
        fd = os.open(self.path(file), os.O_RDONLY)
        node.opens.add("now")
        left = self.fsync(fd, node)
        node.opens.discard("now")
        os.close(fd)
        self.committed(left)
        return [file]

    def draw_fsync_dir(self, rng):
        return ()

    def do_fsync_dir(self):
        refuses, left = self.oracle.commit()
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if refuses:
                with refused(errno.EINVAL):
                    os.fsync(fd)
            else:
                os.fsync(fd)
        finally:
            os.close(fd)
        self.committed(left)
        self.check_all()

    draw_sync = draw_fsync_dir

    def do_sync(self):
        refuses, left = self.oracle.commit()
        done = self.stfs("sync", self.root, check=False)
        expect(done.returncode == (1 if refuses else 0), f"stfs sync ended with {done.returncode}: {done.stderr}")
        self.committed(left)
        self.check_all()

    draw_remount = draw_fsync_dir

    def do_remount(self):
        for key in list(self.handles):
            self.do_close(key)
        self.unmount()
        self.mounted = self.mounter(self.model, *self.options, daemon_args=self.daemon_args)
        self.root = self.mounted.path
        tensors, metadata = self.official()
        self.oracle.load(tensors, metadata)
        self.gone.clear()
        self.check_all()

    def unmount(self):
        _, left = self.oracle.commit(end=True)
        done = self.stfs("umount", self.root, check=False)
        expect(done.returncode == 0, f"stfs umount ended with {done.returncode}: {done.stderr}")
        expect(self.mounted.ended() == 0, f"the daemon ended with {self.mounted.ended()}")
        self.unsure = set()
        self.learn(left)
        self.check_model()
        left = sorted(p.name for p in (self.model if self.model.is_dir() else self.model.parent).iterdir()
                      if p.name.startswith("."))
        expect(not left, "left beside the model:", left)

    def finish(self):
        for key in list(self.handles):
            self.do_close(key)
        self.unmount()

    def drop(self):
        """Closes what is open in the mount, also in the midst of an edit that failed, so that it can be unmounted."""
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/self/fd/{fd}").startswith(f"{self.root}/"):
                    os.close(int(fd))
        self.handles.clear()
