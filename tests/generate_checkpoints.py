#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Small PyTorch checkpoints, good and bad, without torch: where fuzzing begins (tests/fuzz/checkpoints).

  generate_checkpoints.py DIR
"""
import io
import pathlib
import struct
import sys
import tarfile
import zipfile

LEGACY_HEAD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}."
DATA = struct.pack("<24f", *range(24))


def text(string):
    return b"X" + struct.pack("<I", len(string)) + string.encode()


def numbers(*values):
    return b"(" + b"".join(b"J" + struct.pack("<i", v) for v in values) + b"t"


def glob(module, name):
    return f"c{module}\n{name}\n".encode()


def storage(kind="FloatStorage", count=24, tail=b""):
    module = "torch.storage" if kind == "UntypedStorage" else "torch"
    return b"(" + text("storage") + glob(module, kind) + text("0") + text("cpu") + \
        b"J" + struct.pack("<i", count) + tail + b"tQ"


def tensor(size, stride, offset=0, tail=b"", store=None):
    return glob("torch._utils", "_rebuild_tensor_v2") + b"(" + (store or storage(tail=tail)) + \
        b"K" + bytes([offset]) + numbers(*size) + numbers(*stride) + b"\x89}tR"


def typed(name, count):
    return glob("torch._utils", "_rebuild_tensor_v3") + b"(" + storage("UntypedStorage", 96) + b"K\0" + \
        numbers(count) + numbers(1) + b"\x89}" + glob("torch", name) + b"tR"


def pairs(**values):
    return b"}(" + b"".join(text(k) + v for k, v in values.items()) + b"u"


def zipped(pickle, deflate=False, order=b"little"):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED) as archive:
        for name, content in (("data.pkl", b"\x80\x02" + pickle + b"."), ("byteorder", order), ("data/0", DATA),
                              ("version", b"3\n")):
            info = zipfile.ZipInfo("m/" + name)
            info.compress_type = archive.compression
            archive.writestr(info, content)
    return out.getvalue()


def legacy(pickle):
    return LEGACY_HEAD + b"\x80\x02" + pickle + b".\x80\x02]" + text("0") + b"a." + struct.pack("<q", 24) + DATA


def tarred():
    members = {
        "pickle": b"}X\1\0\0\0aX\2\0\0\x0011Qs.",
        "storages": b"K\1.(K\7X\3\0\0\0cpuctorch\nFloatStorage\nt." + struct.pack("<q", 24) + DATA +
                    b"]((K\x08K\7K\2K\x14te.",
        "tensors": b"K\1.(K\x0bK\7ctorch\nFloatTensor\nt." + struct.pack("<6q", 2, 3, 2, 4, 1, 2),
    }
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def cases():
    plain = tensor((4, 6), (6, 1))
    transposed = tensor((6, 4), (1, 6))
    yield "zip", zipped(pairs(w=plain, t=transposed, n=b"K\5"))
    yield "zip-deflated", zipped(pairs(t=transposed), deflate=True)
    yield "zip-big-endian", zipped(pairs(t=transposed, c=typed("complex128", 6)), order=b"big")
    yield "types", zipped(pairs(a=typed("complex32", 24), b=typed("float4_e2m1fn_x2", 96), c=typed("uint16", 48)))
    yield "zip-refused-global", zipped(pairs(a=b"cos\nsystem\n" + text("ls") + b"\x85R"))
    yield "zip-cut-off", zipped(pairs(w=plain))[:-30]
    yield "legacy", legacy(pairs(w=tensor((4, 6), (6, 1), tail=b"N"), t=tensor((5,), (0,), tail=b"N")))
    yield "legacy-view", legacy(tensor((2, 2), (3, 1), 1, tail=text("v") + b"K\2K\x08\x87"))
    yield "legacy-outside", legacy(tensor((4, 6), (7, 1), tail=b"N"))
    yield "legacy-cycle", legacy(b"}q\0" + text("x") + b"h\0s")
    yield "legacy-parameter", legacy(glob("collections", "OrderedDict") + b")R(" + text("p") +
                                     glob("torch._utils", "_rebuild_parameter") + b"(" +
                                     tensor((3,), (1,), tail=b"N") + b"\x88}tRu")
    yield "legacy-sparse", legacy(glob("torch._utils", "_rebuild_sparse_tensor") +
                                  glob("torch.serialization", "_get_layout") + text("torch.sparse_coo") + b"\x85R(" +
                                  tensor((1, 2), (2, 1), tail=b"N") + tensor((2,), (1,), tail=b"N") +
                                  glob("torch", "Size") + b"K\2\x85\x85Rt\x86R")
    yield "protocol-4", legacy(b"\x8c\6torch._\x8c\1x\x93")
    yield "names", legacy(b"}(" + text("a.b") + b"K\1" + text("a") + pairs(b=b"K\2") + b"K\1NG?\xe0\0\0\0\0\0\0\x88" +
                          b"K\1K\2\x86I1\nX\3\0\0\0\xed\xa0\x80L5L\nC\1\xff]u")
    # What fuzzing found: a text of nothing, a shape of 2^62 bytes, names that a message had to cut.
    yield "text-of-nothing", legacy(b"V\n")
    yield "legacy-enormous", legacy(tensor((1 << 30, 1 << 30), (0, 0), tail=b"N"))
    yield "long-names", b"\x80\2c" + b"\x01" * 50 + "é".encode() * 60 + b"\n" + b"\x01" * 49 + "é".encode() * 60 + b"\n."
    yield "tar", tarred()
    yield "pickle-alone", b"\x80\x02cos\nsystem\n."


def main(folder):
    out = pathlib.Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    for name, data in cases():
        (out / f"{name}.pt").write_bytes(data)


if __name__ == "__main__":
    main(sys.argv[1]) if len(sys.argv) == 2 else sys.exit(__doc__)
