# SPDX-License-Identifier: MIT
"""A writable mount beside a directory in memory: what the tests of writing compare.

`Oracle` is the directory as docs/writing.md has it: nodes, names, types, what a commit takes. `Walk` does one
edit after the other on both; each is a tuple of plain values, so that a walk can be played again, or in
part: an edit whose files are not there does nothing.
"""
import ctypes
import errno
import io
import json
import random

import numpy as np

import models

DESCR = {"BOOL": "|b1", "U8": "|u1", "I8": "|i1", "F8_E5M2": "|V1", "F8_E4M3": "|V1", "F8_E8M0": "|V1",
         "F8_E4M3FNUZ": "|V1", "F8_E5M2FNUZ": "|V1", "I16": "<i2", "U16": "<u2", "F16": "<f2", "BF16": "<V2",
         "I32": "<i4", "U32": "<u4", "F32": "<f4", "C64": "<c8", "F64": "<f8", "I64": "<i8", "U64": "<u8"}
RESERVED_ENDS = (".json", ".npy")


def file_name(name):
    """The file name of a tensor name as these tests use them: docs/names.md has all the rules."""
    text = name.replace("%", "%25").replace("/", "%2F")
    if text.endswith(RESERVED_ENDS) or text.endswith("~"):
        text = f"{text[:-1]}%{ord(text[-1]):02X}"
    return "%2E" + text[1:] if text.startswith(".") else text


def is_scratch(file):
    return file.startswith(".") or file.endswith(("~", ".swp", ".part"))


def noise(seed, size):
    """Bytes that differ in every place from those of other seeds, more or less."""
    return random.Random(seed).randbytes(size)


class Base:
    """A tensor as the model has it."""

    def __init__(self, name, dtype, shape, data):
        self.name, self.dtype, self.shape, self.data = name, dtype, list(shape), data
        self.loose = range(0)  # where a write went past the end: the kernel may have split it there, or not


class Node:
    """A file with bytes. `own`: a type other than that of the base."""

    def __init__(self, data=b"", base=None):
        self.data = base.data if base else bytearray(data)
        self.base, self.own, self.settled = base, None, base is not None
        self.staged = base is None
        self.name = self.file = None  # of a tensor; of a scratch file
        self.writers = set()          # the handles that have written
        self.opens = set()
        self.names = set()            # since the last commit that is known to have taken it
        self.rewritten = False        # from the beginning, since it was committed
        self.ended = False            # removed by way of its .npy: fstat of the raw file may be refused
        self.kept = False             # removed but open: all bytes are in the spool
        self.bare = False             # somebody has removed its .json: its type goes with it

    def type(self):
        if self.own:
            return self.own
        return (self.base.dtype, self.base.shape) if self.base else None

    def typing(self):
        """(fit, dtype, shape): "none", "exact", "rows" or "not"."""
        kind = self.type()
        if not kind:
            return "none", None, None
        dtype, shape = kind[0], list(kind[1])
        size = len(self.data)
        if models.nbytes(dtype, shape) == size:
            return "exact", dtype, shape
        if self.settled and shape:
            bits = models.BITS[dtype]
            for dim in shape[1:]:
                bits *= dim
            if bits and bits % 8 == 0 and size % (bits // 8) == 0:
                return "rows", dtype, [size // (bits // 8), *shape[1:]]
        return "not", dtype, shape

    def is_short(self):
        """It has fewer bytes than its type."""
        return len(self.data) < models.nbytes(*self.type())

    def settle(self):
        if self.own and not self.settled and not self.writers:
            self.settled = self.typing()[0] == "exact"

    def stage(self):
        """From now on its bytes are not those of the base."""
        if not self.staged:
            self.data = bytearray(self.data)
            self.staged = True

    def changes(self):
        if not self.base:
            return {"new"} if self.name is not None else set()
        if self.name is None:
            return {"removed"}
        found = {"renamed"} if self.base.name != self.name else set()
        if self.staged:
            found.add("replaced")
        elif self.own:
            found.add("retyped")
        return found


class Oracle:
    """The directory. `direct`: a write within a tensor goes to the model; else it is staged."""

    def __init__(self, tensors, metadata, direct=True):
        self.direct = direct
        self.declared, self.scratch = {}, {}  # of names without a tensor: (dtype, shape, settled)
        self.gone = []  # nodes that were removed and are still in the model, or open
        self.load(tensors, metadata)

    def load(self, tensors, metadata):
        """As mounted."""
        self.tensors = {}
        for name, (dtype, shape, data) in tensors.items():
            node = Node(base=Base(name, dtype, shape, bytearray(data)))
            node.name = name
            node.names = {name}
            self.tensors[name] = node
        self.metadata = self.base_metadata = metadata
        self.declared, self.scratch, self.gone = {}, {}, []

    # --- names ---

    def node(self, file):
        """The node of a raw file name, or None."""
        return self.scratch.get(file) if is_scratch(file) else self.by_file(file)

    def by_file(self, file):
        for name, node in self.tensors.items():
            if file_name(name) == file:
                return node
        return None

    def give(self, node, file, name):
        """The name is free. `name` is None of scratch."""
        if name is None:
            node.file = file
            self.scratch[file] = node
            return
        node.name = name
        node.names.add(name)
        self.tensors[name] = node
        declared = self.declared.pop(name, None)
        node.bare = node.kept = False
        if declared and not node.own and not node.base:
            node.own, node.settled = declared[:2], declared[2]

    def take(self, node):
        if node.name is not None:
            del self.tensors[node.name]
        if node.file is not None:
            del self.scratch[node.file]
        node.name = node.file = None

    def create(self, file, name):
        node = Node()
        self.give(node, file, name)
        return node

    def replace(self, node):
        """Another has its name now."""
        self.take(node)
        self.gone.append(node)

    def remove(self, node):
        """Its sidecar stays, unless it was removed before."""
        name, (fit, dtype, shape) = node.name, node.typing()
        if name is not None and fit != "none" and not node.bare:
            self.declared[name] = (dtype, shape, node.settled)
        self.replace(node)

    def remove_sidecar(self, name):
        node = self.tensors.get(name)
        if node:
            node.bare = True
        else:
            del self.declared[name]

    def rename(self, node, file, name):
        old = self.tensors.get(name) if name is not None else self.scratch.get(file)
        if old is node:
            return
        if old and name is not None and not node.own and not node.base:
            if old.type():
                node.own, node.settled = old.type(), old.settled
        if old:
            self.replace(old)
        self.take(node)
        self.give(node, file, name)

    # --- bytes ---

    def write(self, node, data, offset):
        if not data:
            return
        end = offset + len(data)
        if self.direct and not node.staged and offset < len(node.data) < end:
            node.base.loose = range(min([offset, *node.base.loose[:1]]), len(node.data))
        if not self.direct or end > len(node.data):
            node.stage()
        if end > len(node.data):
            node.data.extend(bytes(end - len(node.data)))
        node.data[offset:end] = data

    def resize(self, node, size, rewrite=False):
        if size == len(node.data) and not rewrite:
            return
        node.stage()
        node.rewritten |= size == 0
        if size < len(node.data):
            del node.data[size:]
        else:
            node.data.extend(bytes(size - len(node.data)))

    def declare(self, name, dtype, shape):
        node = self.tensors.get(name)
        if not node:
            self.declared[name] = (dtype, list(shape), False)
            return
        node.bare = False
        base = node.base
        if base and base.dtype == dtype and base.shape == list(shape):
            node.own, node.settled = None, True
            return
        node.own, node.settled = (dtype, list(shape)), False
        node.settled = node.typing()[0] == "exact"

    def adopt(self, name, dtype, shape, data):
        """What a .npy file does."""
        node = self.tensors.get(name)
        if not node:
            self.declared.pop(name, None)
            node = Node()
            self.give(node, None, name)
        node.stage()
        node.data[:] = data
        node.own, node.settled = (dtype, list(shape)), True

    # --- commits ---

    def waits(self, node, everything, itself, end):
        """(why it is left out or None, whether it is refused, whether it goes in as bytes)"""
        changes = node.changes()
        if changes == {"removed"}:
            node.kept |= everything or node.file is not None  # its bytes, for who has it open
            return (None if node.kept or end or not node.opens else "open"), False, False
        if changes & {"new", "replaced"} and node.writers and not itself and not end:
            return "writing", False, False
        if not changes & {"new", "replaced", "retyped"}:
            return None, False, False
        fit = node.typing()[0]
        if fit == "none":
            return (None, False, True) if everything or itself or end else ("no type", False, False)
        if fit == "rows" and node.rewritten and not (everything or itself or end) and node.is_short():
            return "short", False, False
        if fit == "not":
            if end:
                return None, False, bool(changes & {"new", "replaced"})
            return "not", True, False
        return None, False, False

    def commit(self, everything=True, itself=None, end=False):
        """What the model has afterwards; (refused, nodes that were left out)."""
        taken, left, refused = {}, [], False
        nodes = [*self.tensors.values(), *self.scratch.values(), *self.gone]
        for node in nodes:
            if not node.changes():
                continue
            if itself and node.base and node.name is None and self.tensors.get(node.base.name) is itself:
                node.kept = True  # it stands in the way of what is asked for: its bytes go to the spool
            why, misfit, as_bytes = self.waits(node, everything, node is itself, end)
            refused |= misfit and (everything or node is itself)
            if why:
                left.append(node)
            else:
                taken[node] = as_bytes
        bases = {node.base.name: node for node in nodes if node.base}
        again = True
        while again:
            again = False
            for node in list(taken):
                # Whose name is that of one that stays; and who is needed until his heir comes.
                holder = bases.get(node.name) if node.name is not None else self.tensors.get(node.base.name)
                if holder and holder is not node and holder not in taken:
                    del taken[node]
                    left.append(node)
                    again = True
        for node, as_bytes in taken.items():
            if node.name is None:
                if not node.own:
                    node.own = (node.base.dtype, node.base.shape)
                node.base = None
                node.data = bytearray(node.data)
                node.staged = True
                continue
            fit, dtype, shape = node.typing()
            if as_bytes:
                dtype, shape = "U8", [len(node.data)]
            elif node.base and not node.staged and (fit == "not" or not node.own):
                dtype, shape = node.base.dtype, node.base.shape
            node.base = Base(node.name, dtype, shape, node.data)
            node.own, node.settled, node.staged, node.rewritten = None, True, False, False
            node.names = {node.name}
        self.gone = [node for node in self.gone if node.base or node.opens]
        self.base_metadata = self.metadata
        return refused, left

    def fsync(self, node):
        """As commit(), for one file: (error number or 0, what was left out)."""
        refused, left = self.commit(everything=False, itself=node)
        if node not in left or node.name is None:
            return 0, left
        return errno.EINVAL if node.typing()[0] == "not" else errno.EBUSY, left

    def committed(self):
        """({name: base}, metadata) of the model."""
        nodes = [*self.tensors.values(), *self.scratch.values(), *self.gone]
        return {n.base.name: n.base for n in nodes if n.base}, self.base_metadata

    def pending(self):
        """{(name, change)} as .stfs has it."""
        found = set()
        for node in [*self.tensors.values(), *self.scratch.values(), *self.gone]:
            for change in ("new", "removed", "replaced", "renamed", "retyped"):
                if change in node.changes():
                    found.add((node.name if node.name is not None else node.base.name, change))
                    break
        return found

    # --- what the mount shows ---

    def has_npy(self, node):
        fit, dtype, _ = node.typing()
        return node.name is not None and fit in ("exact", "rows") and dtype in DESCR

    def listing(self, view):
        found = set(self.scratch)
        for name, node in self.tensors.items():
            file = file_name(name)
            npy = self.has_npy(node)
            if view != "npy" or not npy:
                found.add(file)
            if view != "raw" and npy:
                found.add(file + ".npy")
            if node.typing()[0] != "none":
                found.add(file + ".json")
        found |= {file_name(name) + ".json" for name in self.declared}
        if self.metadata:
            found.add("__metadata__.json")
        return found


def sidecar(dtype, shape):
    return json.dumps({"dtype": dtype, "shape": list(shape)}).encode()


def npy(dtype, shape, data, fortran=False):
    """The bytes of a .npy file, as np.save writes them."""
    out = io.BytesIO()
    descr = np.dtype(DESCR[dtype])
    array = np.frombuffer(data, descr).reshape(shape)
    if dtype == "BF16":
        np.lib.format.write_array_header_1_0(out, {"descr": "<V2", "fortran_order": fortran, "shape": tuple(shape)})
    else:
        header = {"descr": np.lib.format.dtype_to_descr(descr), "fortran_order": fortran, "shape": tuple(shape)}
        np.lib.format.write_array_header_1_0(out, header)
    out.write(array.tobytes("F" if fortran else "C"))
    return out.getvalue()


def read_npy(raw):
    """(descr, shape, bytes behind the header)"""
    file = io.BytesIO(raw)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    assert not fortran
    return dtype, list(shape), file.read()


def fallocate(fd, mode, offset, length):
    """fallocate(2), which Python does not have."""
    if ctypes.CDLL(None, use_errno=True).fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)) < 0:
        raise OSError(ctypes.get_errno(), "fallocate")
