"""Matching of sequence lengths: laws of the searches, and the comparisons in records."""

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
def test_sequence_of_flops_returns_the_closest_length(target, linear, square):
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
def test_longest_within_returns_the_longest_sequence_that_fits(base, knee, rates, limit):
    """Peaks are piecewise linear and convex."""
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
        # The search traces few lengths, none of them much longer than the result.
        assert max(traced) <= max(4 * found, 4 * GRANULE)
        assert len(set(traced)) <= 36
        assert peak(found) <= limit < peak(found + GRANULE)


@pytest.mark.parametrize("name", PRESETS)
def test_step_flops_of_presets_equal_the_static_costs(name):
    config = WORKLOAD.configure({"preset": name, "tokens": 100, "batch": 2})
    assert WORKLOAD.static_costs(config).step_flops == 2 * PRESETS[name].step_flops(100)


def test_default_comparison_is_at_equal_tokens():
    config = WORKLOAD.configure({"tokens": 48})
    assert config.sequence == 48
    assert WORKLOAD.configure(WORKLOAD.values(config)) == config
    assert WORKLOAD.title(config) == "transformer preset=bloom-tiny tokens=48 variant=fair"
    assert WORKLOAD.labels(config)["variant"] == "fair, float32, equal tokens"
    with pytest.raises(WorkloadError, match=r"sequence=50, but equal=tokens makes it 48; leave"):
        WORKLOAD.configure({"tokens": 48, "sequence": 50})


def test_equal_flops_match_those_of_alphafold3(cache_folder, monkeypatch):
    other = catalogue()["alphafold3"]
    counted = []
    static_costs = type(other).static_costs
    monkeypatch.setattr(
        type(other),
        "static_costs",
        lambda *case: counted.append(static_costs(*case)) or counted[-1],
    )
    config = WORKLOAD.configure({"tokens": 16, "equal": "flops"})
    (target,) = (found.step_flops for found in counted)
    case = other.configure({"preset": "tiny", "tokens": 16, "entry": "synthetic"})
    assert counterpart(config) == case
    found = WORKLOAD.static_costs(config)
    assert found.step_flops == pytest.approx(target, rel=1 / config.sequence)
    assert config.sequence > 4 * config.tokens
    labels = WORKLOAD.labels(config)
    assert labels["tokens"] == 16
    assert labels["variant"] == "fair, float32, equal FLOPs to alphafold3 tiny"
    assert "equal=flops" in WORKLOAD.title(config)
    assert any("equal FLOPs to alphafold3 tiny at 16 tokens, off by" in n for n in found.notes)
    # The count is cached.
    assert len(list(cache_folder.iterdir())) == 1
    assert WORKLOAD.configure({"tokens": 16, "equal": "flops"}) == config
    assert WORKLOAD.configure(WORKLOAD.values(config)) == config
    assert len(counted) == 1


@pytest.mark.parametrize("checkpointing", [False, True])
def test_equal_memory_selects_the_longest_sequence_that_fits(monkeypatch, checkpointing):
    limit = 60_000_000
    monkeypatch.setattr(matching, "peak_bytes", lambda *_: limit)
    axes = {"equal": "memory", "checkpointing": checkpointing}
    config = WORKLOAD.configure(axes)
    sequence = config.sequence

    def peak(tokens):
        return predicted_costs(
            WORKLOAD, WORKLOAD.configure({**axes, "equal": "tokens", "tokens": tokens})
        )

    assert peak(sequence).peak.nbytes <= limit < peak(sequence + GRANULE).peak.nbytes
    assert "equal memory to alphafold3 tiny" in WORKLOAD.labels(config)["variant"]
    assert any("a multiple of 64 that fits" in note for note in WORKLOAD.static_costs(config).notes)


def test_equal_memory_raises_when_the_shortest_sequence_does_not_fit(monkeypatch):
    monkeypatch.setattr(matching, "peak_bytes", lambda *_: 1_000_000)
    with pytest.raises(WorkloadError, match=r"0\.001 GB are too few: a sequence of 64 tokens"):
        WORKLOAD.configure({"equal": "memory"})


def test_costs_are_cached_by_case_and_recomputed_without_a_writable_cache(tmp_path, monkeypatch):
    config = WORKLOAD.configure({})
    computed = []

    def cost(config=config, quantity="cost"):
        compute = lambda: computed.append(1) or len(computed)  # noqa: E731
        return matching.cached(quantity, WORKLOAD, config, compute)

    assert [cost(), cost()] == [1, 1]
    assert cost(quantity="other") == 2
    assert cost(WORKLOAD.configure({"batch": 2})) == 3
    for path in (tmp_path / "costs").iterdir():
        path.write_text("{", encoding="utf-8")
    assert [cost(), cost()] == [4, 4]
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("FOLDPERF_HOME", str(tmp_path / "file"))
    assert [cost(), cost()] == [5, 6]
