# SPDX-License-Identifier: MIT
"""The two judges of a file, ours and the official loader, in a form that can be compared."""
import os
import pathlib
import subprocess

import safetensors


ROOT = pathlib.Path(__file__).resolve().parents[2]
JUDGE = ROOT / os.environ.get("STFS_BUILD", "build") / "tests/stfs-judge"


class Verdict:
    """One line of the judge (tests/tools/judge.c)."""

    def __init__(self, line):
        self.path, self.official, self.level, rules, *more = line.split("\t")
        self.findings = [] if rules == "-" else [tuple(f.rsplit("@", 1)) for f in rules.split(",")]
        self.rules = {rule for rule, _ in self.findings}
        self.table, self.metadata = None, None
        if more:
            self.table = sorted(map(_tensor, more[0].split(","))) if more[0] != "-" else []
            self.metadata = _pairs(more[1])

    @property
    def accepted(self):
        return self.level in ("note", "deviation")

    @property
    def name_table(self):
        """As official_table(): what every reader can know."""
        return sorted((name, dtype, shape, end - begin) for name, dtype, shape, begin, end in self.table)


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
    """A judge process that is asked one file after another."""

    def __init__(self, *options):
        self.process = subprocess.Popen([JUDGE, *options], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.stdout.close()
        assert self.process.wait() == 0, "the judge died"

    def ask(self, path):
        self.process.stdin.write(os.fsencode(path) + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line.endswith(b"\n"), f"the judge died of {path}"
        return Verdict(line.decode().rstrip("\n"))


def official_verdict(path):
    """What safe_open says: ("ok", tensors by offset, metadata), or ("error", message, None)."""
    try:
        with safetensors.safe_open(path, framework="np") as f:
            names = list(f.offset_keys())
            slices = [f.get_slice(name) for name in names]
            table = [(name, s.get_dtype(), tuple(s.get_shape())) for name, s in zip(names, slices)]
            return "ok", table, f.metadata()
    except safetensors.SafetensorError as error:
        return "error", str(error), None


def official_table(data):
    """The tensors as deserialize() gives them: (name, dtype, shape, bytes), sorted."""
    return sorted((name, t["dtype"], tuple(t["shape"]), bytes(t["data"]))
                  for name, t in safetensors.deserialize(data))
