"""How much text equals a protein: searches by their laws, and comparisons that a record can say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.catalogue import catalogue
from workloads.errors import WorkloadError
from workloads.language_model import matching
from workloads.language_model.matching import GRANULE, LONGEST, longest_within, sequence_of_flops
from workloads.language_model.presets import PRESETS
from workloads.predicted_costs import predicted_costs
from workloads.transformer import counterpart

WORKLOAD = catalogue()["transformer"]
TRUNK = catalogue()["alphafold3-trunk"]


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FOLDPERF_HOME", str(tmp_path))
    return tmp_path / "costs"


@given(target=st.integers(1, 10**16), linear=st.integers(1, 10**9), square=st.integers(0, 10**6))
def test_no_length_has_nearer_flops(target, linear, square):
    def flops(tokens):
        return linear * tokens + square * tokens**2

    if flops(LONGEST) < target:
        with pytest.raises(WorkloadError, match="more than 1,048,576 tokens take"):
            sequence_of_flops(flops, target)
        return
    found = sequence_of_flops(flops, target)
    for other in {max(1, found - 1), found + 1}:
        assert abs(flops(found) - target) <= abs(flops(other) - target)


@given(
    base=st.integers(0, 10**9),
    knee=st.integers(0, 10**5),
    rates=st.tuples(st.integers(0, 10**4), st.integers(1, 10**6)),
    limit=st.integers(1, 10**11),
)
def test_no_longer_sequence_fits(base, knee, rates, limit):
    """Peaks are flat or slow at first, and then grow faster."""
    traced = []

    def peak(tokens):
        traced.append(tokens)
        return base + rates[0] * tokens + rates[1] * max(0, tokens - knee)

    if peak(GRANULE) > limit:
        with pytest.raises(WorkloadError, match="are too few"):
            longest_within(peak, limit)
    elif peak(LONGEST) <= limit:
        with pytest.raises(WorkloadError, match="more than 1,048,576 tokens take"):
            longest_within(peak, limit)
    else:
        traced.clear()
        found = longest_within(peak, limit)
        # Nothing much longer than the answer is traced, and not much is traced at all.
        assert max(traced) <= max(4 * found, 4 * GRANULE)
        assert len(set(traced)) <= 36
        assert peak(found) <= limit < peak(found + GRANULE)


@pytest.mark.parametrize("name", PRESETS)
def test_step_flops_equal_the_facts(name):
    config = WORKLOAD.configure({"preset": name, "tokens": 100, "batch": 2})
    assert WORKLOAD.facts(config).step_flops == 2 * PRESETS[name].step_flops(100)


def test_equal_tokens_are_the_usual_comparison():
    config = WORKLOAD.configure({"tokens": 48})
    assert config["sequence"] == 48
    assert WORKLOAD.configure(config) == config
    assert WORKLOAD.title(config) == "transformer preset=bloom-tiny tokens=48 variant=fair"
    assert WORKLOAD.labels(config)["variant"] == "fair, float32, equal tokens"
    with pytest.raises(WorkloadError, match=r"sequence=50, but equal=tokens makes it 48; leave"):
        WORKLOAD.configure({"tokens": 48, "sequence": 50})


def test_equal_flops_are_alphafold3s(cache_folder, monkeypatch):
    other = catalogue()["alphafold3"]
    counted = []
    facts = type(other).facts
    monkeypatch.setattr(
        type(other), "facts", lambda *case: counted.append(facts(*case)) or counted[-1]
    )
    config = WORKLOAD.configure({"tokens": 16, "equal": "flops"})
    (target,) = (found.step_flops for found in counted)
    case = other.configure({"preset": "tiny", "tokens": 16, "entry": "synthetic"})
    assert counterpart(config) == case
    found = WORKLOAD.facts(config)
    assert found.step_flops == pytest.approx(target, rel=1 / int(config["sequence"]))
    assert config["sequence"] > 4 * config["tokens"]
    labels = WORKLOAD.labels(config)
    assert labels["tokens"] == 16
    assert labels["variant"] == "fair, float32, equal FLOPs to alphafold3 tiny"
    assert "equal=flops" in WORKLOAD.title(config)
    assert any("equal FLOPs to alphafold3 tiny at 16 tokens, off by" in n for n in found.notes)
    # Counted once: what was counted is in the cache folder.
    assert len(list(cache_folder.iterdir())) == 1
    assert WORKLOAD.configure({"tokens": 16, "equal": "flops"}) == config
    assert WORKLOAD.configure(config) == config
    assert len(counted) == 1


@pytest.mark.parametrize("checkpointing", [False, True])
def test_equal_memory_is_the_longest_sequence_that_fits(monkeypatch, checkpointing):
    limit = 60_000_000
    monkeypatch.setattr(matching, "peak_bytes", lambda *_: limit)
    axes = {"equal": "memory", "checkpointing": checkpointing}
    config = WORKLOAD.configure(axes)
    sequence = int(config["sequence"])

    def peak(tokens):
        return predicted_costs(
            WORKLOAD, WORKLOAD.configure({**axes, "equal": "tokens", "tokens": tokens})
        )

    assert peak(sequence).peak.nbytes <= limit < peak(sequence + GRANULE).peak.nbytes
    assert "equal memory to alphafold3 tiny" in WORKLOAD.labels(config)["variant"]
    assert any("a multiple of 64 that fits" in note for note in WORKLOAD.facts(config).notes)


def test_too_little_memory_is_said(monkeypatch):
    monkeypatch.setattr(matching, "peak_bytes", lambda *_: 1_000_000)
    with pytest.raises(WorkloadError, match=r"0\.001 GB are too few: a sequence of 64 tokens"):
        WORKLOAD.configure({"equal": "memory"})


def test_a_cost_is_kept_by_case_and_computed_where_nothing_can_be_kept(tmp_path, monkeypatch):
    config = WORKLOAD.configure({})
    made = []

    def cost(config=config, what="cost"):
        return matching.kept(what, WORKLOAD, config, lambda: made.append(1) or len(made))

    assert [cost(), cost()] == [1, 1]
    assert cost(what="other") == 2
    assert cost(WORKLOAD.configure({"batch": 2})) == 3
    for path in (tmp_path / "costs").iterdir():
        path.write_text("{", encoding="utf-8")
    assert [cost(), cost()] == [4, 4]
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("FOLDPERF_HOME", str(tmp_path / "file"))
    assert [cost(), cost()] == [5, 6]
