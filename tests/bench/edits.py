#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What an edit costs, by verb, beside what a user would otherwise do: load and save with the official
library, pure_safetensors (in place, with holes), sft-cli (writes a new file), and, for bytes that are new,
writing them to a plain file with fsync (dd conv=fsync).

    tests/bench/edits.py --size 2048 /mnt/ext4 /mnt/xfs

Each folder is measured by itself. Every candidate works on a copy of the model that was just written and
synced, so the page cache is warm for all of them; the extents of that copy are said. The peers are
installed into --peers DIR if they are not there.
"""
import argparse
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import time

import common

STFS = common.BUILD / "src/cli/stfs"
MIB = 1 << 20
PEERS = {"pure": ["pure-safetensors==0.3.2", "marshmallow<4", "numpy", "safetensors"], "sft": ["sft-cli==0.2.2"]}
# The tensor that is edited, of 64 MiB; the new one is as large.
VICTIM, FRESH = "layers.3.weight", "layers.99.weight"

OFFICIAL = """
import sys
from safetensors import safe_open
from safetensors.numpy import save_file
import numpy as np
path, what, source = sys.argv[1:4]
with safe_open(path, "np") as f:
    tensors, meta = {k: f.get_tensor(k) for k in f.keys()}, f.metadata() or {}
if what == "delete": del tensors["%(victim)s"]
if what == "rename": tensors["renamed"] = tensors.pop("%(victim)s")
if what == "metadata": meta["format"] = "pt"
if what in ("add", "replace"):
    tensors["%(victim)s" if what == "replace" else "%(fresh)s"] = np.fromfile(source, np.float32).reshape(-1, 1024)
save_file(tensors, path + ".new", meta)
import os
fd = os.open(path + ".new", os.O_RDONLY); os.fsync(fd); os.close(fd)
os.replace(path + ".new", path)
""" % {"victim": VICTIM, "fresh": FRESH}

PURE = """
import sys
import numpy as np
from pure_safetensors import SafeTensors
path, what, source = sys.argv[1:4]
with SafeTensors(path, "r+") as f:
    tensors = f.as_numpy()
    if what == "delete": del tensors["%(victim)s"]
    if what == "rename": tensors["renamed"] = tensors["%(victim)s"]; del tensors["%(victim)s"]
    if what in ("add", "replace"):
        tensors["%(victim)s" if what == "replace" else "%(fresh)s"] = np.fromfile(source, np.float32).reshape(-1, 1024)
import os
fd = os.open(path, os.O_RDONLY); os.fsync(fd); os.close(fd)
""" % {"victim": VICTIM, "fresh": FRESH}


def timed(command):
    begin = time.perf_counter()
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    took = time.perf_counter() - begin
    if done.returncode:
        return None, done.stderr.strip().splitlines()[-1:] or ["failed"]
    return took, done.stdout


def stfs_command(what, model, source):
    return {
        "delete": [STFS, "rm", model, VICTIM],
        "rename": [STFS, "mv", model, VICTIM, "renamed"],
        "metadata": [STFS, "metadata", model, "--set", "format=pt"],
        "add": [STFS, "put", model, FRESH, source, "--dtype", "F32", "--shape", "16384,1024"],
        "replace": [STFS, "put", model, VICTIM, source, "--dtype", "F32", "--shape", "16384,1024"],
    }[what]


def sft_command(sft, what, model):
    out = str(model) + ".sft"
    return {
        "delete": [sft, "strip", model, f"--exclude={VICTIM}", "-o", out],
        "rename": [sft, "rename", model, "--sub", re.escape(VICTIM), "--sub", "renamed", "-o", out],
        "metadata": [sft, "metadata", model, "--set", "format=pt", "-o", out],
    }.get(what)


def extents(path):
    done = subprocess.run(["filefrag", str(path)], capture_output=True, text=True)
    found = re.search(r"(\d+) extents? found", done.stdout)
    return int(found[1]) if found else 0


def make_model(path, size):
    """Tensors of 64 MiB, a few of a block and a few odd ones, laid out as the official writer does."""
    tensors = {f"layers.{i}.weight": ("F32", [16384, 1024], 64 * MIB) for i in range(size // 64)}
    tensors |= {f"layers.{i}.norm": ("F32", [1024], 4096) for i in range(size // 64)}
    tensors |= {f"layers.{i}.bias": ("F32", [768], 3072) for i in range(size // 64)}
    with open(path, "wb") as file:
        common.write_header(file, dict(sorted(tensors.items())))
        piece = os.urandom(MIB)
        for _ in range(sum(t[2] for t in tensors.values()) // MIB):
            file.write(piece)
        file.write(piece[:sum(t[2] for t in tensors.values()) % MIB])


def fresh_copy(base, model):
    for leftover in model.parent.glob(model.name + "*"):
        leftover.unlink()
    subprocess.run(["cp", "--reflink=never", str(base), str(model)], check=True)
    subprocess.run(["sync", str(model)], check=True)


def measure(folder, base, source, what, candidates, rounds):
    """Medians in milliseconds by candidate."""
    model, times = folder / "m.safetensors", {}
    for number in range(max(rounds)):
        for name, command in candidates(what, model, source).items():
            if command is None or number >= rounds[name not in ("stfs", "plain")]:
                continue
            fresh_copy(base, model)
            took, out = timed(command)
            times.setdefault(name, []).append(took)
            if took is None:
                print(f"  {name} {what}: {out[0]}", file=sys.stderr)
    return {n: statistics.median(t) * 1000 if None not in t else None for n, t in times.items()}


def peers_at(folder):
    for name, packages in PEERS.items():
        if not (folder / name / "bin/python").exists():
            subprocess.run([sys.executable, "-m", "venv", str(folder / name)], check=True)
            subprocess.run([str(folder / name / "bin/pip"), "-q", "install"] + packages, check=True)
    return folder / "pure/bin/python", folder / "sft/bin/sft"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=pathlib.Path)
    parser.add_argument("--size", type=int, default=2048, help="MiB of the model")
    parser.add_argument("--rounds", type=int, nargs=2, default=(5, 1), help="of stfs and dd; of the others")
    parser.add_argument("--peers", type=pathlib.Path, default=pathlib.Path("/tmp/stfs-peers"))
    options = parser.parse_args()
    pure, sft = peers_at(options.peers)

    def candidates(what, model, source):
        return {"stfs": stfs_command(what, model, source),
                "plain": ["dd", f"if={source}", f"of={model}.plain", "bs=16M", "conv=fsync"]
                         if what in ("add", "replace") else None,
                "official": [pure, "-c", OFFICIAL, model, what, source],
                "pure": [pure, "-c", PURE, model, what, source] if what != "metadata" else None,
                "sft": sft_command(sft, what, model)}

    for folder in options.folders:
        work = folder / "stfs-bench"
        work.mkdir(exist_ok=True)
        try:
            base, source = work / "base", work / "new.bin"
            make_model(base, options.size)
            source.write_bytes(os.urandom(64 * MIB))
            fresh_copy(base, work / "m.safetensors")
            kind = subprocess.run(["stat", "-f", "-c", "%T", str(folder)], capture_output=True, text=True).stdout.strip()
            print(f"\n{folder.name} ({kind}), {options.size} MiB in {extents(work / 'm.safetensors')} extents, "
                  f"page cache warm, medians of {options.rounds[0]} (others: {options.rounds[1]}), ms\n")
            print("| edit | stfs | official load + save | pure_safetensors | sft-cli | plain write + fsync |\n|---|---|---|---|---|---|")
            for what in ("delete", "rename", "metadata", "add", "replace"):
                got = measure(work, base, source, what, candidates, options.rounds)
                cells = [f"{got['stfs']:.1f}"]
                for name in ("official", "pure", "sft", "plain"):
                    value = got.get(name)
                    cells.append("" if name not in got else "failed" if value is None
                                 else f"{value:.0f} ({value / got['stfs']:.1f}x)")
                print(f"| {what} | " + " | ".join(cells) + " |", flush=True)
        finally:
            shutil.rmtree(work)


if __name__ == "__main__":
    main()
