# SPDX-License-Identifier: MIT
"""Models for the tests: written and read here byte by byte, and read by the official loader."""
import json
import pathlib
import random
import struct

# Bits an element takes, in the order in which the official writer sorts.
BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8,
    "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16,
    "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64,
    "U64": 64,
}


def nbytes(dtype, shape):
    """Bytes of a tensor; its bits must fill whole bytes."""
    bits = BITS[dtype]
    for dim in shape:
        bits *= dim
    assert bits % 8 == 0, f"{dtype} {shape} does not end on a byte"
    return bits // 8


def pattern(dtype, shape, seed=0):
    """Deterministic bytes for a tensor, valid ones where not every byte is (BOOL)."""
    data = random.Random(f"{dtype} {list(shape)} {seed}").randbytes(nbytes(dtype, shape))
    return bytes(b & 1 for b in data) if dtype == "BOOL" else data


def write_model(path, tensors, metadata=None, *, align=8, slack=0, tail=b"", header=None):
    """Writes a .safetensors file without the official library and returns its path.

    tensors: {name: (dtype, shape, bytes or None)}; None takes pattern(). The data lies in the
    order of the dict, without gaps. metadata: an object of strings. align: the data begins at a
    multiple of it; slack: that many spaces more; tail: bytes after the last tensor; header: JSON
    text that stands in place of the one made here (for malformed files).
    """
    entries, blobs, end = {}, [], 0
    if metadata is not None:
        entries["__metadata__"] = metadata
    for name, (dtype, shape, data) in tensors.items():
        data = pattern(dtype, shape, name) if data is None else bytes(data)
        entries[name] = {"dtype": dtype, "shape": list(shape),
                         "data_offsets": [end, end + len(data)]}
        end += len(data)
        blobs.append(data)
    if header is None:
        header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False)
    text = header.encode() if isinstance(header, str) else header
    text += b" " * (-len(text) % align + slack)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for blob in blobs:
            out.write(blob)
        out.write(tail)
    return path


def read_header(path):
    """The header of a valid file: (its JSON object, where the data begins)."""
    with open(path, "rb") as f:
        length, = struct.unpack("<Q", f.read(8))
        return json.loads(f.read(length)), 8 + length


def official_tensors(*paths):
    """{name: (dtype, shape, bytes)} as the official loader returns them, for all dtypes."""
    import safetensors
    found = {}
    for path in paths:
        for name, entry in safetensors.deserialize(pathlib.Path(path).read_bytes()):
            found[name] = (entry["dtype"], list(entry["shape"]), bytes(entry["data"]))
    return found


def shards(folder):
    """The shard files that the index of a sharded model names, sorted."""
    folder = pathlib.Path(folder)
    index, = folder.glob("*.safetensors.index.json")
    return sorted({folder / name for name in json.loads(index.read_text())["weight_map"].values()})
