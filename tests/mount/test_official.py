# SPDX-License-Identifier: MIT
"""Our reader against the official loader: every file gets the same verdict, every file that both
take the same tensors, and what we write in its place is taken too."""
import pathlib
import random
import re
import sys

import pytest

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "tools")]

import generate  # noqa: E402
import judging  # noqa: E402

CASES = list(generate.cases())
SHARDED = list(generate.sharded_cases())
RULES = re.findall(r'\[STFS_RULE_\w+\] = \{"([a-z0-9-]+)", STFS_LEVEL_(\w+)',
                   (TESTS.parent / "src/format/rules.c").read_text())


@pytest.fixture(scope="module")
def judge():
    with judging.Judge("-t", "-w") as judge:
        yield judge


def compare(judge, path, data, thorough):
    """Judges one file; `thorough` also by safe_open, which gives the metadata. Returns our verdict."""
    path.write_bytes(data)
    verdict = judge.ask(path)
    contents = judging.official_contents(data)
    assert verdict.official == ("error" if contents is None else "ok"), verdict.findings
    if thorough:
        official, table, metadata = judging.official_verdict(path)
        assert verdict.official == official, table
    if contents is None:
        assert verdict.level == "error"
        return verdict
    assert verdict.level == "refused" if judging.readers_disagree(data) else verdict.accepted, verdict.findings
    assert verdict.contents(data) == contents
    if not verdict.accepted:
        return verdict
    again = path.with_name(path.name + ".again")
    rewritten = again.read_bytes()
    again.unlink()
    assert judging.official_contents(rewritten) == contents, "what we write is not what was there"
    assert int.from_bytes(rewritten[:8], "little") % 8 == 0
    if thorough:
        assert verdict.metadata == metadata
        assert sorted(verdict.by_offset()) == sorted(table)
        again.write_bytes(rewritten)
        assert judging.official_verdict(again)[2] == (metadata or None)
    return verdict


@pytest.mark.parametrize("name,rules,data", CASES, ids=[c[0] for c in CASES])
def test_minimal_file(judge, tmp_path, name, rules, data):
    found = compare(judge, tmp_path / f"{name}.safetensors", data, True).rules
    assert found - {"unaligned-data"} == set(rules) - {"unaligned-data"}
    assert "unaligned-data" in found or "unaligned-data" not in rules


@pytest.mark.parametrize("name,rules,model,files", SHARDED, ids=[c[0] for c in SHARDED])
def test_minimal_sharded_model(judge, tmp_path, name, rules, model, files):
    for file, data in files.items():
        (tmp_path / file).write_bytes(data)
    assert judge.ask(tmp_path / model).rules == set(rules)


# Rules that no safetensors file can break: mount/test_checkpoints_check.py.
OF_CHECKPOINTS = {"checkpoint", "damaged-storage", "harmless-global", "refused-tensor", "outsized-tensor",
                  "unverified-storage", "left-out", "checkpoint-note", "two-formats", "not-all-searched"}


def test_every_rule_is_broken_by_a_minimal_file():
    assert len(RULES) > 30
    broken = {rule for case in CASES + SHARDED for rule in case[1]}
    assert broken == {name for name, _ in RULES} - OF_CHECKPOINTS
    assert len({c[0] for c in CASES}) == len(CASES)


@pytest.mark.parametrize("name,data", [(c[0], c[2]) for c in CASES], ids=[c[0] for c in CASES])
def test_corpus_is_what_the_generator_makes(name, data):
    """tests/corpus is kept by `generate.py corpus`; what fuzzing adds to it is not named here."""
    found = [p.read_bytes() for p in (TESTS / "corpus").glob(f"*/{name}.safetensors")]
    assert found == [data]


@pytest.mark.parametrize("path", sorted((TESTS / "corpus").glob("*/*")), ids=lambda p: p.name)
def test_corpus_file(judge, tmp_path, path):
    verdict = compare(judge, tmp_path / path.name, path.read_bytes(), True)
    assert verdict.accepted == (path.parent.name == "ok")


def run_random(judge, path, seed, count):
    rng = random.Random(seed)
    accepted = 0
    for number in range(count):
        data = generate.random_file(rng)
        try:
            accepted += compare(judge, path, data, number % 10 == 0).accepted
        except AssertionError:
            path.write_bytes(data)
            raise AssertionError(f"file {number} of seed {seed}, kept as {path}")  # the cause is chained
    assert count // 5 < accepted < count * 4 // 5, "the generator makes too few of one kind"


@pytest.mark.parametrize("seed", range(10))
def test_random_files(judge, tmp_path, seed):
    run_random(judge, tmp_path / "random.safetensors", seed, 1000)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(1000, 1050))
def test_many_random_files(judge, tmp_path, seed):
    run_random(judge, tmp_path / "random.safetensors", seed, 20000)
