#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writing a model as a PyTorch checkpoint: stfs export-pytorch beside torch.save(load_file(...)).

The model is in the page cache, the new file is synced. Candidates take turns in every round; medians, ratios, and
the most memory that each had. torch's seconds come twice: of the whole program, and without the import of torch.

    tests/bench/exporting.py [--size MiB] [--rounds N] [FOLDER]
"""
import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import common  # noqa: E402

# VmHWM and not ru_maxrss, which a process has from the one that started it.
TORCH = """
import os, sys, time, torch
from safetensors.torch import load_file
begin = time.perf_counter()
torch.save(load_file(sys.argv[1]), sys.argv[2])
fd = os.open(sys.argv[2], os.O_RDONLY)
os.fsync(fd)
print(time.perf_counter() - begin, next(l.split()[1] for l in open("/proc/self/status") if l.startswith("VmHWM")))
"""


def make(path, size):
    """A model of noise, in tensors of 64 MiB and of 4 KiB."""
    piece = 64 << 20
    tensors = {f"large.{i}": ("BF16", [piece // 2], piece) for i in range(size // piece)}
    tensors |= {f"small.{i}": ("F32", [1024], 4096) for i in range(500)}
    noise = os.urandom(piece)
    with open(path, "wb") as file:
        common.write_header(file, tensors)
        for i, (_, _, length) in enumerate(tensors.values()):
            file.write(noise[i:length] + noise[:min(i, length)])


def by_stfs(model, out):
    """Seconds, and KiB at most (sampled)."""
    begin = time.perf_counter()
    process = subprocess.Popen([common.BUILD / "src/cli/stfs", "export-pytorch", "-q", model, out])
    most = 0
    while process.poll() is None:
        lines = pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines()
        most = max([most, *(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))])
        time.sleep(0.01)
    assert process.returncode == 0
    return time.perf_counter() - begin, most


def by_torch(model, out):
    """Seconds of the program, seconds without the imports, KiB at most."""
    begin = time.perf_counter()
    inner, most = subprocess.run([sys.executable, "-c", TORCH, model, out], check=True, capture_output=True,
                                 text=True).stdout.split()
    return time.perf_counter() - begin, float(inner), int(most)


def main():
    """Runs all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("folder", nargs="?")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        model, out = pathlib.Path(name) / "m.safetensors", pathlib.Path(name) / "m.pt"
        make(model, options.size << 20)
        for turn in range(options.rounds + 1):
            os.sync()
            row = by_stfs(model, out)
            out.unlink()
            os.sync()
            row += by_torch(model, out)
            out.unlink()
            if turn:  # the first finds nothing in the cache
                rows.append(row)
    mine, memory, whole, inner, theirs = (common.spread(column)[0] for column in zip(*rows))
    print(f"stfs   {mine:.2f} s (1.00), {memory / 1024:.0f} MiB at most")
    print(f"torch  {whole:.2f} s ({whole / mine:.2f}), {inner:.2f} s ({inner / mine:.2f}) without the import, "
          f"{theirs / 1024:.0f} MiB at most")


if __name__ == "__main__":
    main()
