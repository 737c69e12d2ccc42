"""Damaged files give a value or a one-line error; the fuzzer reports other outcomes."""

import os
import re
import time
from pathlib import Path

import pytest
from support.fuzzing import Target, fuzz, targets
from support.mutations import mutated

from refsys.errors import DataError

# `make fuzz` reads 20,000.
INPUTS = 500


def test_damaged_files_give_a_value_or_a_one_line_error(sources, tmp_path):
    kinds = targets(sources, tmp_path)
    outcome = fuzz(kinds, range(INPUTS), tmp_path)
    assert not outcome.faults, outcome.faults[0][2]
    assert sum(outcome.ended.values()) == INPUTS
    for target, *_ in kinds:
        assert outcome.ended[target.name, "error"] > INPUTS / 100, target.name
    values = {name for name, kind in outcome.ended if kind == "value"}
    assert values >= {"mmCIF", "A3M", "Stockholm", "record"}


def test_mutation_is_a_function_of_its_seed():
    content = bytes(range(256)) * 4
    mutations = [mutated(content, seed) for seed in range(200)]
    assert mutations == [mutated(content, seed) for seed in range(200)]
    assert len(set(mutations)) > 180
    assert all(isinstance(mutated(b"", seed), bytes) for seed in range(50))


def hang(path):
    time.sleep(3_600)


def eat(path):
    bytearray(b"x") * (450 * 2**20)


def die(path):
    os._exit(3)


def leak(path):
    raise ValueError("not ours")


def chatter(path):
    raise DataError("two\nlines")


@pytest.mark.parametrize(
    ("read", "fault"),
    [
        (hang, "no end within 3 s"),
        (eat, r"took 4\d\d MiB"),
        (die, "died with status 3"),
        (leak, "ValueError: not ours"),
        (chatter, ""),
    ],
)
def test_fuzzer_reports_faults_of_readers(tmp_path, monkeypatch, read, fault):
    monkeypatch.setattr("support.fuzzing.LONGEST_S", 3.0 if read is hang else 60.0)
    monkeypatch.setattr("support.fuzzing.MOST_BYTES", 300 * 2**20)
    sound = [Target("sound", b"a", ".x", Path.read_bytes)]
    outcome = fuzz([sound, [Target("bad", b"a", ".x", read)]], range(3), tmp_path)
    assert [(number, name) for number, name, _ in outcome.faults] == [(1, "bad")]
    for _, _, what in outcome.faults:
        assert re.search(fault, what)
    assert outcome.ended["sound", "value"] == 2
