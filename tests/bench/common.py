# SPDX-License-Identifier: MIT
"""What the benchmarks share: mounting the candidates, medians, tables."""
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("STFS_BUILD", ROOT / "build"))
DAEMON = BUILD / "src/fs/safetensorsfs"


def write_header(file, tensors, metadata=None):
    """Writes length word and header of {name: (dtype, shape, bytes)}; returns the data's start."""
    header, offset = {}, 0
    if metadata:
        header["__metadata__"] = metadata
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    return 8 + len(text)


class Mounted:
    """A mount made by a command that daemonises; unmounted at the end."""

    def __init__(self, command, path):
        self.path = pathlib.Path(path)
        self.path.mkdir(exist_ok=True)
        subprocess.run([str(c) for c in command] + [str(self.path)], check=True,
                       stdout=subprocess.DEVNULL)

    def __enter__(self):
        return self.path

    def __exit__(self, *_):
        for _ in range(50):
            if subprocess.run(["fusermount3", "-u", str(self.path)], stderr=subprocess.DEVNULL).returncode == 0:
                return
            time.sleep(0.1)
        raise RuntimeError(f"{self.path}: still busy")


def have(*programs):
    """Whether all of the programs are on the PATH."""
    return all(shutil.which(p) for p in programs)


def spread(values):
    """Median, least and most of some figures."""
    return statistics.median(values), min(values), max(values)
