# SPDX-License-Identifier: MIT
"""PyTorch checkpoints for the tests: made by torch, altered by hand, and what they hold."""
import io
import zipfile
import zlib

import torch

# Names of torch's types in a safetensors file.
DTYPES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.int32: "I32",
    torch.int64: "I64", torch.uint16: "U16", torch.uint32: "U32", torch.uint64: "U64", torch.float16: "F16",
    torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64", torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ", torch.float8_e8m0fnu: "F8_E8M0",
    torch.complex128: "F64", torch.complex32: "F16",
}


def raw(tensor):
    """Its bytes in C order, little-endian."""
    tensor = tensor.detach().contiguous()
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def listing(checkpoint, prefix=""):
    """{name: (dtype, shape, bytes)} of all tensors, with the names that they are shown under."""
    found = {}
    items = checkpoint.items() if isinstance(checkpoint, dict) else enumerate(checkpoint)
    for key, value in items:
        name = f"{prefix}{key}"
        if isinstance(value, torch.Tensor):
            extra = [2] if value.dtype in (torch.complex128, torch.complex32) else []
            found[name] = (DTYPES[value.dtype], [*value.shape, *extra], raw(value))
        elif isinstance(value, (dict, list, tuple)):
            found.update(listing(value, f"{name}."))
    return found


def sample():
    """Tensors of every kind that has a place of its own in the code."""
    generator = torch.Generator().manual_seed(7)
    base = torch.randn(300, 411, generator=generator)
    made = {
        "plain": base, "transposed": base.t(), "columns": base[:, 3:200:7], "rows": base[10:20],
        "permuted": torch.randn(4, 5, 6, 7, generator=generator).permute(2, 0, 3, 1),
        "expanded": torch.randn(1, 9, generator=generator).expand(6, 9), "flat": base.view(-1)[5:500],
        "scalar": torch.tensor(1.5), "empty": torch.zeros(0, 4), "empty_strided": torch.zeros(4, 0).t(),
        "one": torch.tensor([3], dtype=torch.int16), "channels_last":
        torch.randn(2, 3, 8, 9, generator=generator).to(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(torch.randn(7, generator=generator)),
        "nested": {"lr": 0.5, "list": [torch.arange(6), {"deep": torch.arange(4).reshape(2, 2).t()}]},
        "complex": torch.randn(5, 3, dtype=torch.complex64, generator=generator),
        "complex_t": torch.randn(5, 3, dtype=torch.complex128, generator=generator).t(),
        "large": torch.randn(700, 900, generator=generator),
        "large_t": torch.randn(900, 700, generator=generator).t(),
        "epoch": 12, "note": "text", "flag": True, "none": None,
    }
    for dtype in DTYPES:
        if not dtype.is_complex:
            bits = torch.randint(0, 255, (3, 8, dtype.itemsize), dtype=torch.uint8, generator=generator)
            made[f"of.{DTYPES[dtype]}"] = (bits & 1).bool()[..., 0] if dtype is torch.bool else \
                bits.view(dtype)[..., 0].contiguous()
    made["tied"] = made["plain"]
    return made


def save(checkpoint, path, form="zip"):
    torch.save(checkpoint, path, _use_new_zipfile_serialization=form == "zip")
    return path


def entries(path):
    """[(name, bytes)] of a checkpoint of the zip form, in the order of the archive."""
    with zipfile.ZipFile(path) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def rewrite(path, out, change=lambda name, data: data, method=zipfile.ZIP_STORED):
    """A checkpoint with change(name without the folder, bytes) as the content of each entry; None drops it."""
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in entries(path):
            data = change(name.partition("/")[2], data)
            if data is not None:
                archive.writestr(zipfile.ZipInfo(name), data, method)
    return out


def offset_of(path, name):
    """The byte of the file at which an entry's data begins; the name without the folder."""
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.filename.partition("/")[2] == name:
                with open(path, "rb") as file:
                    file.seek(info.header_offset + 26)
                    return info.header_offset + 30 + sum(int.from_bytes(file.read(2), "little") for _ in range(2))
    raise KeyError(name)


def deflated_zeros(path, size):
    """A checkpoint of one U8 tensor of so many zeros, deflated; nothing of that length is in memory."""
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(16, dtype=torch.uint8)}, buffer)
    buffer.seek(0)
    piece, packer, crc, left = bytes(1 << 20), zlib.compressobj(1, zlib.DEFLATED, -15), 0, size
    packed = []
    while left:
        now = piece[:left]
        packed.append(packer.compress(now))
        crc, left = zlib.crc32(now, crc), left - len(now)
    packed = b"".join([*packed, packer.flush()])
    number = size.to_bytes(4, "little")
    with zipfile.ZipFile(buffer) as archive:
        content = [(name, archive.read(name)) for name in archive.namelist()]
    body, directory = bytearray(), bytearray()
    for name, data in content:
        method, length, check = 0, len(data), zlib.crc32(data)
        if name.endswith("data.pkl"):
            # BININT1 16 is the storage's length, and the tensor's.
            data = data.replace(b"K\x10", b"J" + number)
            length, check = len(data), zlib.crc32(data)
        if name.endswith("data/0"):
            method, length, check, data = 8, size, crc, packed
        fields = method.to_bytes(2, "little") + bytes(4) + b"".join(
            value.to_bytes(4, "little") for value in (check, len(data), length)) + len(name).to_bytes(2, "little") + bytes(2)
        directory += b"PK\1\2\x14\0\x14\0\0\0" + fields + bytes(10) + len(body).to_bytes(4, "little") + name.encode()
        body += b"PK\3\4\x14\0\0\0" + fields + name.encode() + data
    end = b"PK\5\6" + bytes(4) + 2 * len(content).to_bytes(2, "little") + len(directory).to_bytes(4, "little") + \
        len(body).to_bytes(4, "little") + bytes(2)
    path.write_bytes(body + directory + end)
    return path
