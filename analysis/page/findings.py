"""Findings at full size: the report's first screen, computed from recorded traces of whole steps.

Each finding is a sentence and a figure. The records are committed ones (``results/recorded``); a
finding whose records are missing is left out, and the page says which command makes them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pandas as pd

from analysis.frame import frame
from analysis.methods import PREDICTED
from analysis.page.numbers import (
    PUBLISHED,
    Number,
    derived,
    gigabytes,
    number,
    significant,
    value_of,
)
from analysis.page.volumes import draw_volumes
from analysis.paper import draw
from analysis.paper.selection import language_model, training
from analysis.paper.sharding import by_ranks, longest
from analysis.published import PublishedSeries
from analysis.scheme_volumes import DAP, OURS, multiplications
from bench.records.record import RecordJson

PEAK, CALLS, SENT = "peak_tracked_bytes", "operator_calls", "collective_bytes"
# Size whose traces are repeated by ``foldperf report --retrace``, and size of the memory's parts.
RETRACED_TOKENS, PARTS_TOKENS = 384, 768
# Memory of the devices of the longest examples. Unit: B.
_MEMORY = 64e9
EAGER, FUSED = "reference", "triton"
# Part of a sentence: words, or a number.
Part = str | Number


@dataclass(frozen=True, slots=True)
class Finding:
    """Finding of the first screen.

    Attributes:
        name: File name of the figure, without suffix.
        title: Finding in a few words.
        sentence: Finding with its numbers.
        records: Records of the figure.
        draw: Function that returns the matplotlib figure.
        settings: Configuration of the compared systems.
    """

    name: str
    title: str
    sentence: tuple[Part, ...]
    records: tuple[RecordJson, ...]
    draw: Callable[[], Any] = field(compare=False)
    settings: str = ""

    @property
    def text(self) -> str:
        """Sentence as plain text, with the method of each number."""
        return "".join(
            part if isinstance(part, str) else f"{part} ({part.method})" for part in self.sentence
        )


def find(
    records: Sequence[RecordJson], published: Sequence[PublishedSeries] = ()
) -> tuple[list[Finding], list[str]]:
    """Return the findings, and the titles of those whose records are missing.

    Args:
        records: Recorded traces of any cases.
        published: Published numbers.
    """
    table = frame(records)
    findings, missing = [], []
    for title, make in _FINDINGS.items():
        finding = make(title, table, published) if len(table) else None
        if finding is None:
            missing.append(title)
        else:
            findings.append(finding)
    return findings, missing


def _by_size(rows: pd.DataFrame) -> dict[int, RecordJson]:
    """Return the records of a selection by their tokens."""
    return {int(n): record for n, record in zip(rows["tokens"], rows["record"], strict=True)}


def _peak(title: str, table: pd.DataFrame, published: Sequence[PublishedSeries]) -> Finding | None:
    """Return the finding on peak memory against tokens."""
    eager, ours = _by_size(training(table, EAGER)), _by_size(training(table, FUSED))
    llm = _by_size(language_model(table))
    shared = sorted(n for n in set(ours) & set(llm) if n >= RETRACED_TOKENS)
    if len(shared) < 2 or not eager:
        return None
    first, last = shared[0], shared[-1]
    sentence: list[Part] = [
        f"From {first:,} to {last:,} tokens a fused training step of AlphaFold 3 goes from ",
        _bytes(ours[first]),
        " to ",
        _bytes(ours[last]),
        ", one of BLOOM-560M from ",
        _bytes(llm[first]),
        " to ",
        _bytes(llm[last]),
    ]
    peaks = published_peaks(published).get("MegaFold", {})
    if peaks:
        most = max(peaks)
        sentence += ["; MegaFold's takes ", Number(gigabytes(peaks[most]), PUBLISHED)]
        sentence += [f" at {most:,} on an H200"]
    return Finding(
        "full_peak_memory",
        title,
        (*sentence, "."),
        (*eager.values(), *ours.values(), *llm.values()),
        partial(draw, "peak_memory", table),
        _settings(ours[last], llm[last]),
    )


def published_peaks(published: Sequence[PublishedSeries]) -> dict[str, dict[int, float]]:
    """Return MegaFold's published peaks on an H200, by system and tokens. Unit: B."""
    return {
        series.system: {int(p.at): p.value * 1e9 for p in series.points if p.at and p.value}
        for series in published
        if series.name == "MegaFold"
        and series.quantity == "peak_allocated_bytes"
        and series.axis == "tokens"
        and series.device == "H200"
    }


def _calls(title: str, table: pd.DataFrame, published: Sequence[PublishedSeries]) -> Finding | None:
    """Return the finding on calls by kind of operator."""
    del published
    size = RETRACED_TOKENS
    ours = _by_size(training(table, EAGER)).get(size)
    llm = _by_size(language_model(table)).get(size)
    fused = _by_size(training(table, FUSED)).get(size)
    if ours is None or llm is None or fused is None:
        return None
    ratio = (value_of(ours, CALLS) or 0) / (value_of(llm, CALLS) or 1)
    sentence: list[Part] = [
        f"At {size} tokens a step of AlphaFold 3 calls ",
        _count(ours, CALLS),
        " operators, one of BLOOM-560M ",
        _count(llm, CALLS),
        ": ",
        derived([ours, llm], CALLS, f"{significant(ratio)} times"),
        " as many; with fused operators ",
        _count(fused, CALLS),
    ]
    return Finding(
        "full_calls_by_operator",
        title,
        (*sentence, "."),
        (ours, fused, llm),
        partial(draw, "calls_by_operator", table),
        _settings(ours, llm),
    )


def _states(
    title: str, table: pd.DataFrame, published: Sequence[PublishedSeries]
) -> Finding | None:
    """Return the finding on the parts of the memory."""
    del published
    size = PARTS_TOKENS
    record = _by_size(training(table, FUSED)).get(size)
    eager = _by_size(training(table, EAGER)).get(size)
    llm = _by_size(language_model(table)).get(size)
    if record is None or eager is None or llm is None:
        return None
    parts = _parts(record, PEAK)
    largest = max(parts, key=lambda state: parts[state])
    sentence: list[Part] = [
        f"At {size} tokens, ",
        number(record, f"{PEAK}.{largest}", gigabytes(parts[largest])),
        " of ",
        _bytes(record),
        f" are {largest.replace('optimizer', 'optimizer state')}; parameters, gradients and "
        "optimizer state are ",
        number(record, PEAK, _state_share(record)),
        ", in BLOOM-560M ",
        number(llm, PEAK, _state_share(llm)),
    ]
    return Finding(
        "full_memory_by_state",
        title,
        (*sentence, "."),
        (eager, record, llm),
        partial(draw, "memory_at_768", table),
        _settings(record, llm),
    )


def _state_share(record: RecordJson) -> str:
    """Return the share of the peak that outlives a step, as a percentage."""
    lasting = [f"{PEAK}.{state}" for state in ("parameters", "optimizer", "gradients")]
    total = value_of(record, PEAK) or 1.0
    return f"{100 * sum(value_of(record, name) or 0.0 for name in lasting) / total:.0f} %"


def _longest(
    title: str, table: pd.DataFrame, published: Sequence[PublishedSeries]
) -> Finding | None:
    """Return the finding on the longest sequence against the number of devices."""
    del published
    nearest = {
        ranks: (length, _nearest(rows, _MEMORY))
        for ranks, rows in by_ranks(table).items()
        if (length := longest(rows, _MEMORY)) is not None
    }
    if len(nearest) < 2:
        return None
    fewest, most = min(nearest), max(nearest)
    (short, first), (long, last) = nearest[fewest], nearest[most]
    held = [
        Number(f"{length:,.0f} tokens", PREDICTED, (record["run_id"],), PEAK)
        for length, record in nearest.values()
    ]
    growth, ideal = significant(long / short), significant((most / fewest) ** 0.5)
    sentence: list[Part] = [
        f"In {_MEMORY / 1e9:.0f} GB a device, {counted(fewest)} a training step of ",
        held[0],
        f", {counted(most)} one of ",
        held[-1],
        ": ",
        Number(f"{growth} times", PREDICTED, (first["run_id"], last["run_id"]), PEAK),
        f" as long, where the square root is {ideal}",
    ]
    return Finding(
        "full_longest_tokens",
        title,
        (*sentence, "."),
        tuple(record for _, record in nearest.values()),
        partial(draw, "longest_tokens", table),
        _settings(last),
    )


def counted(devices: int) -> str:
    """Return a number of devices as the subject of a sentence."""
    return "one device holds" if devices == 1 else f"{devices} devices hold"


def _nearest(rows: pd.DataFrame, memory: float) -> RecordJson:
    """Return the record whose peak is nearest to a memory."""
    away = (rows[PEAK] / memory - 1).abs().astype("float64")
    record: RecordJson = rows["record"].loc[away.idxmin()]
    return record


def _volumes(
    title: str, table: pd.DataFrame, published: Sequence[PublishedSeries]
) -> Finding | None:
    """Return the finding on the bytes that a rank sends for triangle multiplications.

    Bytes of this system are traced. Those of other schemes follow from the ratio of closed forms.
    """
    del published
    divided = {
        ranks: rows["record"].iloc[-1] for ranks, rows in by_ranks(table).items() if ranks > 1
    }
    sent = {ranks: _multiplied_bytes(record) for ranks, record in divided.items()}
    if len(sent) < 2 or not all(sent.values()):
        return None
    most = max(sent)
    record, tokens = divided[most], _tokens(divided[most])
    factors = {p: _ratio(DAP, p) for p in sent}
    sentence: list[Part] = [
        f"On {most} ranks a rank sends ",
        number(record, SENT, gigabytes(sent[most])),
        f" for the triangle multiplications of a step of {tokens:,} tokens; gathering as in DAP "
        "would send ",
        Number(gigabytes(sent[most] * factors[most]), PREDICTED, (record["run_id"],), SENT),
    ]
    each = {p: sent[p] / _tokens(divided[p]) ** 2 for p in sent}
    return Finding(
        "full_bytes_by_scheme",
        title,
        (*sentence, "."),
        tuple(divided.values()),
        partial(draw_volumes, each, {p: each[p] * factors[p] for p in each}),
        _settings(record),
    )


def _multiplied_bytes(record: RecordJson) -> float:
    return float(record["breakdown"].get(SENT, {}).get("triangle_multiplication", 0))


def _ratio(scheme: str, ranks: int) -> float:
    """Return the volume of a scheme's triangle multiplications over that of this system."""
    theirs, ours = multiplications(scheme, ranks), multiplications(OURS, ranks)
    return sum(theirs) / sum(ours)


_FINDINGS: dict[str, Callable[[str, pd.DataFrame, Sequence[PublishedSeries]], Finding | None]] = {
    "Peak memory against length": _peak,
    "Calls by operator": _calls,
    "Parts of the memory": _states,
    "Longest example against devices": _longest,
    "Bytes sent by sharding scheme": _volumes,
}


def _tokens(record: RecordJson) -> int:
    return int(record["workload"]["labels"]["tokens"])


def _bytes(record: RecordJson) -> Number:
    return number(record, PEAK, gigabytes(value_of(record, PEAK) or 0.0))


def _count(record: RecordJson, metric: str) -> Number:
    return number(record, metric, f"{value_of(record, metric) or 0:,.0f}")


def _parts(record: RecordJson, metric: str) -> dict[str, float]:
    begin = f"{metric}."
    return {
        name.removeprefix(begin): value["value"]
        for name, value in record["metrics"].items()
        if name.startswith(begin) and value["value"]
    }


def _settings(*records: RecordJson) -> str:
    """Return the configuration of each system in words."""
    labels = [record["workload"]["labels"] for record in records]
    return "; ".join(f"{label['series']}: {label['variant']}" for label in labels)
