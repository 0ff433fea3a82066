#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Reads of one large tensor: raw pread of the model file, safetensorsfs, squashfuse_ll, bindfs.

All candidates take turns within each round (A B C D, A B C D, ...), fio does the reading (psync and
mmap engines), the page cache is warm, medians are printed with the share of raw pread. The tensor
begins at an offset that is not a multiple of the page size, as in real files.

    tests/bench/reads.py [--size MiB] [--rounds N] [--json FILE] [--dir FOLDER]
"""
import argparse
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import common  # noqa: E402

# name, fio arguments, what is reported
JOBS = [
    ("seq 1 MiB", ["--rw=read", "--bs=1m"], "GB/s"),
    ("seq 128 KiB", ["--rw=read", "--bs=128k"], "GB/s"),
    ("seq 4 KiB", ["--rw=read", "--bs=4k", "--io_size=128m"], "GB/s"),
    ("random 1 MiB", ["--rw=randread", "--bs=1m"], "GB/s"),
    ("random 4 KiB", ["--rw=randread", "--bs=4k", "--io_size=64m"], "µs"),
    ("mmap seq 1 MiB", ["--rw=read", "--bs=1m", "--ioengine=mmap"], "GB/s"),
]


def make_files(folder, size):
    """The model, with its large tensor behind a small odd one, and the tensor alone as a file."""
    model, alone = folder / "model.safetensors", folder / "alone"
    alone.mkdir()
    with open(model, "wb") as file, open(alone / "w", "wb") as single:
        start = common.write_header(file, {"bias": ("U8", [13], 13), "w": ("U8", [size], size)}) + 13
        file.write(b"b" * 13)
        for _ in range(size >> 20):
            block = os.urandom(1 << 20)
            file.write(block)
            single.write(block)
    return model, alone, start


def fio(path, offset, size, arguments):
    """One run; bytes a second and mean latency in seconds."""
    command = ["fio", "--name=r", "--readonly", "--invalidate=0", f"--filename={path}", f"--offset={offset}",
               f"--size={size}", "--ioengine=psync", "--output-format=json", "--randseed=7", *arguments]
    out = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    read = out["jobs"][0]["read"]
    return read["bw_bytes"], read["clat_ns"]["mean"] / 1e9


def mount_commands(folder, model, alone):
    """name -> command: the file systems that this machine has."""
    commands = {"safetensorsfs": [common.DAEMON, model]}
    if common.have("squashfuse_ll", "mksquashfs"):
        image = folder / "image.sqfs"
        subprocess.run(["mksquashfs", alone, image, "-noD", "-noI", "-quiet"], check=True,
                       stdout=subprocess.DEVNULL)
        commands["squashfuse_ll"] = ["squashfuse_ll", image]
    if common.have("bindfs"):
        commands["bindfs"] = ["bindfs", alone]
    return commands


def measure(folder, model, alone, start, size, rounds):
    """results[job][candidate] = list of figures, a figure a round.

    Every job has mounts of its own: safetensorsfs learns from how a file is read.
    """
    results = {}
    commands = mount_commands(folder, model, alone)
    for job, arguments, unit in JOBS:
        rows = results.setdefault(job, {name: [] for name in ["raw pread", *commands]})
        with contextlib.ExitStack() as stack:
            found = {"raw pread": (model, start)}
            for name, command in commands.items():
                path = stack.enter_context(common.Mounted(command, folder / f"m-{name}"))
                found[name] = (path / "w", 0)
            for turn in range(rounds + 1):
                for name, (path, offset) in found.items():
                    rate, latency = fio(path, offset, size, arguments)
                    if turn:  # the first round warms the caches
                        rows[name].append(rate / 1e9 if unit == "GB/s" else latency * 1e6)
    return results


def show(results):
    """The table, medians with the share of raw pread (above 1 is faster)."""
    names = list(next(iter(results.values())))
    print("| reads | " + " | ".join(names) + " |")
    print("|---|" + "---|" * len(names))
    for job, _, unit in JOBS:
        cells = []
        raw = common.spread(results[job]["raw pread"])[0]
        for name in names:
            value = common.spread(results[job][name])[0]
            share = value / raw if unit == "GB/s" else raw / value
            cells.append(f"{value:.2f} {unit} ({share:.2f})")
        print(f"| {job} | " + " | ".join(cells) + " |")


def main():
    """Runs all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1024, help="of the tensor, in MiB (default: 1024)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="write all figures to this file")
    parser.add_argument("--dir", help="folder for the files (default: the system's temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        folder = pathlib.Path(name)
        size = options.size << 20
        model, alone, start = make_files(folder, size)
        results = measure(folder, model, alone, start, size, options.rounds)
    show(results)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
