#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Fails when an #include points upwards: a folder of src/ may include only what it rests on.

The rule is ALLOWED below (docs/architecture.md draws it). Prints TAP, a case a folder.
"""
import pathlib
import re
import sys

ALLOWED = {
    "base": set(),
    "format": {"base"},
    "layout": {"base", "format"},
    "codec": {"base", "format"},
    "commit": {"base", "format", "layout"},
    "store": {"base", "format", "layout", "codec", "commit"},
    "ops": {"base", "format", "layout", "codec", "commit", "store"},
    "fs": {"base", "format", "store"},
    "cli": {"base", "format", "codec", "store", "ops"},
}
ONLY_FUSE = "fs"  # the only folder that may include libfuse
INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]', re.M)


def faults(folder, path):
    """What is wrong with the includes of one file."""
    for kind, name in INCLUDE.findall(path.read_text()):
        if kind == "<":
            if name.startswith("fuse") and folder != ONLY_FUSE:
                yield f"{path}: <{name}> belongs to src/{ONLY_FUSE} alone"
            continue
        head, _, rest = name.partition("/")
        if not rest:
            yield f'{path}: write "{folder}/{name}", with its folder'
        elif head != folder and head not in ALLOWED[folder]:
            yield f'{path}: "{name}" points upwards: src/{folder} may use {sorted(ALLOWED[folder])}'


def main(root):
    src = pathlib.Path(root) / "src"
    folders = sorted(p.name for p in src.iterdir() if p.is_dir())
    print(f"1..{len(folders)}")
    failed = False
    for number, folder in enumerate(folders, 1):
        files = sorted((src / folder).glob("*.[ch]"))
        found = [f for path in files for f in faults(folder, path)]
        if folder not in ALLOWED:
            found = [f"src/{folder} is in no layer: name it in tests/layers.py"]
        elif not files:
            found = [f"src/{folder} holds no source"]
        failed |= bool(found)
        print(f"{'not ok' if found else 'ok'} {number} - src/{folder}")
        for line in found:
            print(f"# {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
