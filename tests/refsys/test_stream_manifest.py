"""The manifest lists all streams in use, and the documentation shows the manifest."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from refsys import streams
from refsys.data.batches.construction import ExampleSpec
from refsys.data.batches.examples import Examples
from refsys.data.batches.sampling import EPOCHS
from refsys.data.batches.synthetic import synthetic_batch
from refsys.run_config import run_config
from refsys.stream_manifest import STREAMS, stream_of
from refsys.training.train import train

PAGE = Path(__file__).resolve().parents[2] / "docs" / "pipeline.md"
# Streams of the measuring code, and of features that the entries below do not have.
ELSEWHERE = {
    *("sweep order", "timing gate cases", "timing gate turns", "operator argument"),
    *("conventional", "templates/<chain>"),
}


@pytest.fixture(scope="module")
def used(store, tmp_path_factory):
    """Return the names of the streams that batches and a training step use."""
    names = set()
    original = streams.stream_key

    def recording(seed, stream):
        names.add(stream)
        return original(seed, stream)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "stream_key", recording)
        spec = ExampleSpec(tokens=32, alignment_rows=8, whole=True)
        examples = Examples(store, ["8vkf", "1kd8", "5vht"], spec)
        for step in range(12):
            _ = examples[step]
        # Orders of epochs are cached: this configuration appears in no other test.
        _ = Examples(store, ["8vkf"], replace(spec, sampling=EPOCHS, seed=987))[0]
        synthetic_batch(spec, 0)
        config = run_config(
            preset="tiny",
            model="alphafold3",
            entries=("8vkf",),
            tokens=16,
            alignment_rows=4,
            workers=0,
        )
        train(config, store, tmp_path_factory.mktemp("run"), steps=1)
    return names


def test_manifest_contains_all_streams_of_a_training_step(used):
    found = {stream_of(name).name for name in used}
    assert found == {stream.name for stream in STREAMS} - ELSEWHERE


def test_manifest_contains_all_streams_named_in_the_sources():
    named = set()
    for package in ("refsys", "workloads", "bench"):
        for path in (PAGE.parents[1] / package).rglob("*.py"):
            for match in re.findall(
                r"Draw\(\s*[^,()]+,\s*f?\"([^\"]+)\"", path.read_text(encoding="utf-8")
            ):
                named.add(match.split("/")[0].split("{")[0])
    named.discard("")
    assert {"example", "crop", "cycles", "synthetic", "sweep order", "conventional"} <= named
    for name in named:
        assert any(stream.name.startswith(name) for stream in STREAMS), name


def test_stream_of_returns_one_entry_and_raises_for_unknown_names(used):
    # `rows/<cycle>/paired` precedes `rows/<cycle>/<chain>`, which matches it as well.
    assert stream_of("rows/0/paired").name == "rows/<cycle>/paired"
    assert stream_of("rows/1/3").name == "rows/<cycle>/<chain>"
    with pytest.raises(KeyError, match="unheard-of"):
        stream_of("unheard-of")
    assert len({stream.name for stream in STREAMS}) == len(STREAMS)


def test_documentation_table_equals_the_manifest():
    rows = re.findall(
        r"^\| `([^|]+)` \| ([^|]+) \| ([^|]+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert rows == [tuple(stream) for stream in STREAMS]
