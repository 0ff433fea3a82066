#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Many small edits, and edits of a model that is large: 10,000 tensors of 4 KiB added in one batch and in 100
commits, beside writing the model anew with the official library each time; and 300 names changed in a sparse
sharded Llama 3 of 70 billion parameters (141 GB, 30 files).

    tests/bench/many.py /mnt/ext4 /mnt/xfs
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import time

import common

STFS = common.BUILD / "src/cli/stfs"
COUNT, SIZE = 10_000, 4096


def timed(command, **given):
    begin = time.perf_counter()
    subprocess.run([str(c) for c in command], check=True, stdout=subprocess.DEVNULL, **given)
    return time.perf_counter() - begin


def lines_of(source, begin, end):
    return "".join(f"put small.{i} {source} --dtype F32 --shape {SIZE // 4}\n" for i in range(begin, end))


def small_tensors(folder):
    """Seconds of one commit of all, of 100 commits, and of one save by the official library."""
    model, source = folder / "m.safetensors", folder / "small.bin"
    source.write_bytes(os.urandom(SIZE))
    times = []
    for commits in (1, 100):
        with open(model, "wb") as file:
            common.write_header(file, {"a": ("F32", [1 << 20], 4 << 20)})
            file.write(bytes(4 << 20))
        begin = time.perf_counter()
        for i in range(commits):
            step = COUNT // commits
            timed([STFS, "edit", model, "--batch", "-"], input=lines_of(source, i * step, (i + 1) * step).encode())
        times.append(time.perf_counter() - begin)
    try:
        import numpy as np
        from safetensors.numpy import load_file, save_file
        begin = time.perf_counter()
        tensors = load_file(model)
        tensors |= {f"small.{i}": np.zeros(SIZE // 4, np.float32) for i in range(COUNT)}
        save_file(tensors, model)
        fd = os.open(model, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        times.append(time.perf_counter() - begin)
    except ImportError:
        times.append(None)
    return times


def llama_70b(folder):
    """Headers of Llama 3 70B over holes, 30 files; seconds of a rename of 300 keys."""
    d, f, layers = 8192, 28672, 80
    names = {"model.embed_tokens.weight": 128256 * d, "lm_head.weight": 128256 * d, "model.norm.weight": d}
    for i in range(layers):
        p = f"model.layers.{i}."
        names |= {p + "self_attn.q_proj.weight": d * d, p + "self_attn.o_proj.weight": d * d,
                  p + "self_attn.k_proj.weight": d * 1024, p + "self_attn.v_proj.weight": d * 1024,
                  p + "mlp.gate_proj.weight": d * f, p + "mlp.up_proj.weight": d * f,
                  p + "mlp.down_proj.weight": d * f, p + "input_layernorm.weight": d,
                  p + "post_attention_layernorm.weight": d}
    total, shards, index = 2 * sum(names.values()), [{}], {}
    for name, elements in names.items():
        if sum(s[2] for s in shards[-1].values()) > total / 30:
            shards.append({})
        shards[-1][name] = ("BF16", [elements], 2 * elements)
    for number, tensors in enumerate(shards, 1):
        file_name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        with open(folder / file_name, "wb") as file:
            start = common.write_header(file, tensors, {"format": "pt"})
            file.truncate(start + sum(t[2] for t in tensors.values()))
        index |= dict.fromkeys(tensors, file_name)
    (folder / "model.safetensors.index.json").write_text(json.dumps(
        {"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))}, indent=2) + "\n")
    subprocess.run(["sync", "-f", str(folder)], check=True)
    took = timed([STFS, "rename", folder, "--sub", r"s/mlp\.(gate|up|down)_proj/ffn.\1/"])
    subprocess.run([STFS, "check", folder], check=True, stdout=subprocess.DEVNULL)
    again = timed([STFS, "rename", folder, "--sub", r"s/self_attn\.([qkvo])_proj/attn.\1/"])
    return total, len(shards), took, again


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=pathlib.Path)
    options = parser.parse_args()
    print("| file system | 10,000 in one commit, s | in 100 commits | official load + save, once | "
          "240 names of a 141 GB model, ms | 320 more |\n|---|---|---|---|---|---|")
    for folder in options.folders:
        work = folder / "stfs-bench-many"
        work.mkdir()
        try:
            one, hundred, official = small_tensors(work)
            for leftover in work.iterdir():
                leftover.unlink()
            total, shards, took, again = llama_70b(work)
            save = f"{official:.2f}" if official else ""
            print(f"| {folder.name} | {one:.2f} | {hundred:.2f} | {save} | {took * 1000:.0f} | {again * 1000:.0f} |",
                  flush=True)
        finally:
            shutil.rmtree(work)


if __name__ == "__main__":
    main()
