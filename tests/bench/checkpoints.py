#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Making a model of a PyTorch checkpoint: stfs import-pytorch and import-pytorch-inplace beside torch.load() and
save_file(), with and without mmap, and pure_safetensors' import, which checks no CRC.

    tests/bench/checkpoints.py [--size MiB] [--rounds N] [--peers DIR] FOLDER...

Each candidate works on a copy of the checkpoint that was just written and synced, so that the page cache is warm for
all; all wait for the disk. They take turns in every round; medians, ratios, the most memory of each. Seconds of
Python programs are without the imports. pure_safetensors is installed into --peers when it is not there.
"""
import argparse
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import common

STFS = common.BUILD / "src/cli/stfs"
MIB = 1 << 20
PEERS = ["pure-safetensors==0.3.2", "fickle", "attrs", "marshmallow<4", "numpy", "tqdm"]

# VmHWM and not ru_maxrss, which a process has from the one that started it.
AFTER = """
fd = os.open(out, os.O_RDONLY)
os.fsync(fd)
print(time.perf_counter() - begin, next(l.split()[1] for l in open("/proc/self/status") if l.startswith("VmHWM")))
"""
TORCH = """
import os, sys, time, torch
from safetensors.torch import save_file
path, out, mmap = sys.argv[1:]
begin = time.perf_counter()
save_file(torch.load(path, weights_only=True, mmap=mmap == "mmap"), out)
""" + AFTER
PURE = """
import os, pathlib, sys, time
from pure_safetensors.ext.torch import PyTorchSafetensorsConverter, PyTorchSafetensorsInplaceConverter
path, out, how = map(pathlib.Path, sys.argv[1:])
begin = time.perf_counter()
if str(how) == "new":
    PyTorchSafetensorsConverter.convert_file_to_file(torch_checkpoint=path, safe_tensors=out)
else:
    out = path
    PyTorchSafetensorsInplaceConverter.convert_inplace(torch_checkpoint=path)
""" + AFTER
MAKE = """
import sys, torch
state, size = {}, int(sys.argv[2])
for i in range(size // 64):
    noise = torch.randint(-32768, 32768, (32 << 20,), dtype=torch.int16).view(torch.bfloat16)
    state[f"layers.{i}.weight"] = noise[:16 << 20].reshape(4096, -1).clone()
    state[f"layers.{i}.mlp"] = noise[16 << 20:].reshape(-1, 4096).clone()
    state[f"layers.{i}.norm"] = torch.randn(4096)
    state[f"layers.{i}.steps"] = torch.tensor(i)
torch.save(state, sys.argv[1])
"""


def by_stfs(*words):
    """Seconds, and KiB at most (sampled)."""
    begin = time.perf_counter()
    process = subprocess.Popen([STFS, *words])
    most = 0
    while process.poll() is None:
        lines = pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines()
        most = max([most, *(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))])
        time.sleep(0.01)
    assert process.returncode == 0
    return time.perf_counter() - begin, most


def by_python(script, *words, path=None):
    """The same of a script, which says it itself; None when it fails."""
    env = dict(os.environ, PYTHONPATH=str(path)) if path else None
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, env=env)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    seconds, most = done.stdout.split()[-2:]
    return float(seconds), int(most)


def candidates(peers):
    """{name: a function of a checkpoint and a new file}"""
    found = {
        "stfs import-pytorch": lambda c, o: by_stfs("import-pytorch", "-q", c, o),
        "... --no-verify": lambda c, o: by_stfs("import-pytorch", "-q", "--no-verify", c, o),
        "stfs import-pytorch-inplace": lambda c, o: by_stfs("import-pytorch-inplace", "-q", c),
        "torch.load(mmap=True), save_file": lambda c, o: by_python(TORCH, c, o, "mmap"),
        "torch.load, save_file": lambda c, o: by_python(TORCH, c, o, "read"),
    }
    if peers:
        found["pure_safetensors"] = lambda c, o: by_python(PURE, c, o, "new", path=peers)
        found["pure_safetensors, in place"] = lambda c, o: by_python(PURE, c, o, "inplace", path=peers)
    return found


def measure(folder, options, peers):
    """Prints a table of one folder."""
    figures, failed = {}, {}
    with tempfile.TemporaryDirectory(dir=folder) as name:
        source, copy, out = (pathlib.Path(name) / n for n in ("source.pt", "c.pt", "m.safetensors"))
        subprocess.run([sys.executable, "-c", MAKE, source, str(options.size)], check=True)
        for _ in range(options.rounds):
            for what, run in candidates(peers).items():
                shutil.copyfile(source, copy)
                os.sync()
                result = run(copy, out)
                copy.unlink(missing_ok=True)
                out.unlink(missing_ok=True)
                if isinstance(result, str):
                    failed[what] = result
                else:
                    figures.setdefault(what, []).append(result)
    print(f"\n{folder}: {options.size} MiB, {options.rounds} rounds\n\n| | seconds | memory at most |\n|---|---|---|")
    mine = statistics.median(s for s, _ in figures["stfs import-pytorch"])
    for what, rows in figures.items():
        seconds, most = statistics.median(s for s, _ in rows), max(m for _, m in rows)
        print(f"| {what} | {seconds:.2f} ({seconds / mine:.2f}) | {most >> 10} MiB |")
    for what, message in failed.items():
        print(f"| {what} | {message} | |")


def main():
    """Runs all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", type=pathlib.Path)
    parser.add_argument("folders", nargs="+")
    options = parser.parse_args()
    if options.peers and not (options.peers / "pure_safetensors").exists():
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--target", options.peers, *PEERS], check=True)
    for folder in options.folders:
        measure(folder, options, options.peers)


if __name__ == "__main__":
    main()
