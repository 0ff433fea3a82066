# SPDX-License-Identifier: MIT
"""The judges of a file, ours and the official loader, in a form that can be compared."""
import json
import os
import pathlib
import subprocess

import safetensors

ROOT = pathlib.Path(__file__).resolve().parents[2]
JUDGE = ROOT / os.environ.get("STFS_BUILD", "build") / "tests/stfs-judge"


class Verdict:
    """One line of the judge (tests/tools/judge.c)."""

    def __init__(self, line, options):
        self.path, self.official, self.level, rules, *more = line.split("\t")
        self.findings = [] if rules == "-" else [tuple(f.rsplit("@", 1)) for f in rules.split(",")]
        self.rules = {rule for rule, _ in self.findings}
        if "-t" in options:
            table = more.pop(0)
            self.table = [] if table == "-" else [_tensor(t) for t in table.split(",")]
            self.metadata = _pairs(more.pop(0))
        if "-m" in options:
            self.memory = int(more.pop(0))

    @property
    def accepted(self):
        return self.level in ("note", "deviation")

    def contents(self, data):
        """As official_contents(), of the file with these bytes."""
        start = 8 + int.from_bytes(data[:8], "little")
        return sorted((name, dtype, shape, data[start + begin:start + end])
                      for name, dtype, shape, begin, end in self.table)

    def by_offset(self):
        """The tensors as the official loader orders them: (name, dtype, shape)."""
        return [t[:3] for t in sorted(self.table, key=lambda t: t[3:])]


def _tensor(text):
    name, dtype, shape, begin, end = text.split(":")
    return (bytes.fromhex(name).decode(), dtype, tuple(map(int, shape.split("x"))) if shape else (),
            int(begin), int(end))


def _pairs(text):
    if text == "-":
        return None
    pairs = [p.split(":") for p in text.split(",")] if text else []
    return {bytes.fromhex(k).decode(): bytes.fromhex(v).decode() for k, v in pairs}


class Judge:
    """A judge process that is asked one file after another; options as those of judge.c."""

    def __init__(self, *options):
        if not os.access(JUDGE, os.X_OK):
            raise FileNotFoundError(f"{JUDGE} is not built (STFS_BUILD names the build folder)")
        self.options = options
        self.process = subprocess.Popen([JUDGE, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.process.stdin.close()
        self.process.stdout.close()
        code = self.process.wait()
        assert kind or code == 0, f"the judge ended with {code}"

    def ask(self, path):
        self.process.stdin.write(os.fsencode(path) + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line.endswith(b"\n"), f"the judge died of {path}"
        return Verdict(line.decode().rstrip("\n"), self.options)


def official_verdict(path):
    """What safe_open says: ("ok", tensors by offset, metadata), or ("error", message, None)."""
    try:
        with safetensors.safe_open(path, framework="np") as f:
            slices = [(name, f.get_slice(name)) for name in f.offset_keys()]
            table = [(name, s.get_dtype(), tuple(s.get_shape())) for name, s in slices]
            return "ok", table, f.metadata()
    except safetensors.SafetensorError as error:
        return "error", str(error), None


def official_contents(data):
    """The tensors as deserialize() gives them: (name, dtype, shape, bytes), sorted; None: refused."""
    try:
        return sorted((name, t["dtype"], tuple(t["shape"]), bytes(t["data"]))
                      for name, t in safetensors.deserialize(data))
    except safetensors.SafetensorError:
        return None


def readers_disagree(data):
    """Whether a file that the official loader takes has one of the three forms that we refuse:
    duplicate keys of any kind, entries as arrays, dtypes as objects (Python's json is the judge)."""
    twice = []

    def members(pairs):
        if len({key for key, _ in pairs}) < len(pairs):
            twice.append(pairs)
        return dict(pairs)

    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + length].decode(), object_pairs_hook=members)
    entries = [e for name, e in header.items() if name != "__metadata__"]
    return bool(twice) or any(isinstance(e, list) or not isinstance(e["dtype"], str) for e in entries)
