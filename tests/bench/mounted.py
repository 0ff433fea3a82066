#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What an edit costs through the mount: the program that makes it, and the sync that brings it into the model; beside
the same edit by verb, by the official library (load, save), and, for bytes that are new, writing them to a
plain file with fsync. The one-row edit is np.memmap of one row of a tensor and its flush, timed within the program;
its verb is `stfs put` of the whole tensor, there being none for a row. Other writers leave no room behind the header:
the first edit that needs some makes it. What adding and replacing take from then on has rows of its own.

    tests/bench/mounted.py --size 2048 /mnt/ext4 /mnt/xfs

Copies, cache and peers as for edits.py. The mount is there before the clock starts, and unmounted after it
stops.
"""
import argparse
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

import common
import edits
from edits import FRESH, MIB, STFS, VICTIM

DAEMON = common.BUILD / "src/fs/safetensorsfs"
SIDECAR = '{"dtype":"F32","shape":[16384,1024]}\n'
ROW = """
import sys, time
import numpy as np
begin = time.perf_counter()
a = np.memmap(sys.argv[1], np.float32, "r+", shape=(16384, 1024))
a[77] = 1.5
a.flush()
print(time.perf_counter() - begin)
"""
OFFICIAL_ROW = edits.OFFICIAL.replace('if what == "delete"', f'if what == "row": tensors["{VICTIM}"][77] = 1.5\nif what == "delete"')


def copy(source, target):
    """As cp does it."""
    subprocess.run(["cp", str(source), str(target)], check=True)


def edit(what, mount, source):
    """The edit by the programs that a user takes."""
    if what == "delete":
        os.unlink(mount / VICTIM)
    elif what == "rename":
        os.rename(mount / VICTIM, mount / "renamed")
    elif what == "metadata":
        (mount / "__metadata__.json").write_text('{"format":"pt"}')
    elif what == "add":
        (mount / f"{FRESH}.json").write_text(SIDECAR)
        copy(source, mount / FRESH)
    elif what == "replace":
        copy(source, mount / VICTIM)
    elif what == "row":
        done = subprocess.run([sys.executable, "-c", ROW, str(mount / VICTIM)], check=True, capture_output=True, text=True)
        return float(done.stdout)  # without the start of Python and NumPy
    folder = os.open(mount, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    return None


def through_mount(what, model, source):
    mount = model.parent / "mnt"
    mount.mkdir(exist_ok=True)
    subprocess.run([str(DAEMON), "-o", "autosync=0,autosync_max=0", str(model), str(mount)], check=True)
    try:
        begin = time.perf_counter()
        own = edit(what, mount, source)
        return time.perf_counter() - begin if own is None else own
    finally:
        subprocess.run([str(STFS), "umount", str(mount)], check=True)


def candidates(python, what, model, source):
    row = what == "row"
    return {
        "mount": lambda: through_mount(what, model, source),
        "stfs": edits.stfs_command("replace" if row else what, model, source),
        "official": [python, "-c", OFFICIAL_ROW, model, what, source],
        "plain": ["dd", f"if={source}", f"of={model}.plain", "bs=16M", "conv=fsync"]
                 if what in ("add", "replace") else None,
    }


def make_edited(base, edited):
    """A model that stfs has edited before."""
    shutil.copyfile(base, edited)
    subprocess.run([str(STFS), "put", "-q", str(edited), "before", "-", "--dtype", "U8", "--shape", "8"], input=bytes(8), check=True)


def measure(work, base, source, what, python, rounds):
    model, times = work / "m.safetensors", {}
    for number in range(max(rounds)):
        for name, how in candidates(python, what, model, source).items():
            if how is None or number >= rounds[name == "official"]:
                continue
            edits.fresh_copy(base, model)
            times.setdefault(name, []).append(how() if callable(how) else edits.timed(how)[0])
    return {n: statistics.median(t) * 1000 for n, t in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=pathlib.Path)
    parser.add_argument("--size", type=int, default=2048, help="MiB of the model")
    parser.add_argument("--rounds", type=int, nargs=2, default=(5, 1), help="of all but the official library; of that")
    parser.add_argument("--python", default=sys.executable, help="one with the official library")
    options = parser.parse_args()
    for folder in options.folders:
        work = folder / "stfs-bench"
        work.mkdir(exist_ok=True)
        try:
            base, source = work / "base", work / "new.bin"
            edits.make_model(base, options.size)
            make_edited(base, work / "edited")
            source.write_bytes(os.urandom(64 * MIB))
            print(f"\n{folder.name}, {options.size} MiB, page cache warm, medians of {options.rounds[0]} "
                  f"(official: {options.rounds[1]}), ms\n")
            print("| edit | through the mount | by verb | official load + save | plain write + fsync |\n|---|---|---|---|---|")
            for row in ("delete", "rename", "metadata", "add", "add again", "replace", "replace again", "row"):
                what, _, again = row.partition(" ")
                got = measure(work, work / "edited" if again else base, source, what, options.python, options.rounds)
                cells = [f"{got['mount']:.1f}", f"{got['stfs']:.1f}",
                         f"{got['official']:.0f} ({got['official'] / got['mount']:.1f}x)",
                         f"{got['plain']:.0f} (mount {got['mount'] / got['plain']:.2f}x)" if "plain" in got else ""]
                print(f"| {row} | " + " | ".join(cells) + " |", flush=True)
        finally:
            shutil.rmtree(work)


if __name__ == "__main__":
    main()
