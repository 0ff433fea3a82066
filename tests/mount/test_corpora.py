# SPDX-License-Identifier: MIT
"""The corpora of STFS_CORPORA (bad-inputs and mutated): the official verdict as recorded there, ours
as decided (level "refused" for what readers disagree on), the recorded tensors, in bounded time and memory. Without STFS_CORPORA
each test is skipped aloud."""
import hashlib
import json
import os
import pathlib
import sys
import time

import pytest

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "tools")]

import judging  # noqa: E402

SECONDS = 0.1 * float(os.environ.get("STFS_TEST_SLOWNESS", "1"))
SLACK = 16 << 20  # bytes of a process that has read nothing, and then some


def recorded():
    """(file, what is recorded of it) of both corpora."""
    if not os.environ.get("STFS_CORPORA"):
        return [pytest.param(None, None, id="absent", marks=pytest.mark.skip(
            reason="STFS_CORPORA is not set: no corpora to judge by"))]
    root = (TESTS.parent / os.environ["STFS_CORPORA"]).resolve()
    found = []
    for corpus in ("bad-inputs", "mutated"):
        for name, expected in sorted(json.loads((root / corpus / "expected.json").read_text()).items()):
            found.append(pytest.param(root / corpus / name, expected, id=f"{corpus}/{name}"))
    return found


@pytest.fixture(scope="module")
def judge():
    with judging.Judge("-t") as judge:
        yield judge


@pytest.mark.parametrize("path,expected", recorded())
def test_verdict_and_tensors(judge, path, expected):
    verdict = judge.ask(path)
    assert verdict.official == expected["official"], verdict.findings
    if verdict.official == "error":
        assert verdict.level == "error"
        return
    data = path.read_bytes()
    assert verdict.level == "refused" if judging.readers_disagree(data) else verdict.accepted, verdict.findings
    if "listing" in expected:
        assert [(name, dtype, list(shape), len(tensor), hashlib.sha256(tensor).hexdigest())
                for name, dtype, shape, tensor in verdict.contents(data)] == \
            sorted(map(tuple, expected["listing"]))
    assert len(verdict.contents(data)) == expected.get("tensors", len(expected.get("listing", [])))
    if verdict.accepted and "metadata" in expected:
        metadata = verdict.metadata
        if expected["metadata"] and "__large__" in expected["metadata"]:
            metadata = {"__large__": len(metadata)}  # of large ones the count alone is recorded
        assert metadata == expected["metadata"]


@pytest.mark.parametrize("path,expected", recorded())
def test_time_and_memory(path, expected):
    """A process a file, the quickest of three; its memory against the header's length."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    header = length if length <= size - 8 else 0
    best = float("inf")
    for _ in range(3):
        begin = time.monotonic()
        with judging.Judge("-m") as judge:
            verdict = judge.ask(path)
        best = min(best, time.monotonic() - begin)
        if best < SECONDS:
            break
    assert best < SECONDS
    # 0: a sanitizer's memory, which says nothing; the plain build measures it.
    assert verdict.memory <= 5 * header + SLACK
