#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Opening a model of 100,000 tensors: mounting it and ls -l, beside the official safe_open.

Candidates take turns in every round; medians and ratios are printed, and the daemon's memory against
the header's size.

    tests/bench/opening.py [--tensors N] [--rounds N]
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import common  # noqa: E402

SAFE_OPEN = "import time, sys; from safetensors import safe_open; t = time.perf_counter(); " \
            "f = safe_open(sys.argv[1], 'np'); print(time.perf_counter() - t)"


def timed(command):
    """Seconds that a command takes."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def memory(mount):
    """RssAnon and page tables of the daemon behind a mount, in bytes."""
    pid = json.loads((mount / ".stfs").read_text())["pid"]
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return sum(int(fields[k].split()[0]) * 1024 for k in ("RssAnon", "VmPTE"))


def main():
    """Runs all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tensors", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    figures = {k: [] for k in ("safe_open", "stfs check", "mount", "ls -l", "ls -l again", "find")}
    with tempfile.TemporaryDirectory() as name:
        model, point = pathlib.Path(name) / "many.safetensors", pathlib.Path(name) / "m"
        tensors = {f"model.layers.{i // 10}.self_attn.q_proj_{i % 10}.weight": ("F32", [4, 8], 128)
                   for i in range(options.tensors)}
        with open(model, "wb") as file:
            start = common.write_header(file, tensors, {"format": "pt"})
            file.truncate(start + 128 * options.tensors)
        for turn in range(options.rounds + 1):
            row = {"safe_open": float(subprocess.run([sys.executable, "-c", SAFE_OPEN, model], check=True,
                                                     capture_output=True, text=True).stdout),
                   "stfs check": timed([common.BUILD / "src/cli/stfs", "check", "-q", model])}
            begin = time.perf_counter()
            with common.Mounted([common.DAEMON, model], point):
                row["mount"] = time.perf_counter() - begin
                row["ls -l"] = timed(["ls", "-l", point])
                row["ls -l again"] = timed(["ls", "-l", point])
                row["find"] = timed(["find", point])
                used = memory(point)
            if turn:
                for key, value in row.items():
                    figures[key].append(value)
    reference = common.spread(figures["safe_open"])[0]
    print(f"{options.tensors} tensors, header {start - 8} bytes, {options.rounds} rounds")
    print("| | median ms | of safe_open |\n|---|---|---|")
    for key, values in figures.items():
        middle = common.spread(values)[0]
        print(f"| {key} | {middle * 1e3:.0f} | {middle / reference:.2f} |")
    print(f"RssAnon + page tables after listing: {used} bytes = {used / (start - 8):.2f} x the header")


if __name__ == "__main__":
    main()
