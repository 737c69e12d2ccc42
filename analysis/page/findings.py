"""Findings at full size: the report's first screen, computed from recorded traces of whole steps.

Each finding is a sentence and a figure. The records are committed ones (``results/recorded``); a
finding whose records are missing is left out, and the page says which command makes them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pandas as pd

from analysis.frame import frame
from analysis.methods import PREDICTED, TRACED
from analysis.page import drawings
from analysis.page.numbers import (
    PUBLISHED,
    Number,
    derived,
    gigabytes,
    number,
    significant,
    value_of,
)
from analysis.published import PublishedSeries
from analysis.scheme_volumes import DAP, OURS, multiplications
from bench.records.record import RecordJson

ALPHAFOLD, LLM = "alphafold3", "transformer"
PEAK, CALLS, SENT = "peak_tracked_bytes", "operator_calls", "collective_bytes"
# Size whose traces are repeated by ``foldperf report --retrace``, and size of the memory's parts.
RETRACED_TOKENS, PARTS_TOKENS = 384, 768
# Memory of the devices that the figures have as lines. Unit: B.
DEVICES = (80e9, 141e9)
# Axes that the traces of a figure have in common.
_FULL = {
    **{"preset": "full", "precision": "bfloat16", "backend": "triton", "stage": "initial"},
    **{"cycles": 2, "samples": 48, "batch": 1, "alignment_rows": 1024, "entry": "synthetic"},
    **{"checkpointing": True, "offload_checkpoints": False, "chunk_rows": 0, "chunk_samples": 0},
}
_BLOOM = {
    **{"preset": "bloom-560m", "precision": "bfloat16", "config_variant": "fair"},
    **{"equal": "tokens", "batch": 1, "checkpointing": False},
}

# Part of a sentence: words, or a number.
Part = str | Number
# Records by number of tokens.
BySize = Mapping[int, RecordJson]


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


def traced(table: pd.DataFrame, workload: str, axes: Mapping[str, Any]) -> pd.DataFrame:
    """Return the rows of a workload's traced training steps with those axes, sizes ascending.

    Traces do not depend on the device: one record of each case is returned, the newest.
    """
    chosen = (table["workload"] == workload) & (table["status"] == "ok")
    chosen &= (table["ranks"] == table["context_ranks"]) & (table[f"{PEAK}_method"] == TRACED)
    for name, value in axes.items():
        if name not in table:
            return table.iloc[:0]
        chosen &= (table[name] == value).fillna(False).astype(bool)
    chosen &= table["record"].map(lambda record: not record["notes"].get("idea_left_out"))
    rows = table[chosen].sort_values(["tokens", "started_at", "run_id"], kind="stable")
    return rows.drop_duplicates(["tokens", "context_ranks"], keep="last")


def _by_size(table: pd.DataFrame, workload: str, axes: Mapping[str, Any]) -> dict[int, RecordJson]:
    rows = traced(table, workload, {**axes, "context_ranks": 1})
    return {int(n): record for n, record in zip(rows["tokens"], rows["record"], strict=True)}


def _peak(title: str, table: pd.DataFrame, published: Sequence[PublishedSeries]) -> Finding | None:
    """Return the finding on peak memory against tokens."""
    ours, llm = _by_size(table, ALPHAFOLD, _FULL), _by_size(table, LLM, _BLOOM)
    shared = sorted(n for n in set(ours) & set(llm) if n >= RETRACED_TOKENS)
    if len(shared) < 2:
        return None
    first, last = shared[0], shared[-1]
    points = published_peaks(published)
    sentence: list[Part] = [
        f"From {first:,} to {last:,} tokens a training step of AlphaFold 3 goes from ",
        _bytes(ours[first]),
        " to ",
        _bytes(ours[last]),
        ", one of BLOOM-560M from ",
        _bytes(llm[first]),
        " to ",
        _bytes(llm[last]),
    ]
    mega = points.get("MegaFold", {})
    if mega:
        most = max(mega)
        sentence += ["; MegaFold's is ", Number(gigabytes(mega[most]), PUBLISHED)]
        sentence += [f" at {most:,} on an H200"]
    return Finding(
        "full_peak_memory",
        title,
        (*sentence, "."),
        (*ours.values(), *llm.values()),
        partial(drawings.draw_peaks, _values(ours, PEAK), _values(llm, PEAK), points, DEVICES),
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
    eager = {**_FULL, "backend": "reference"}
    ours = _by_size(table, ALPHAFOLD, eager).get(size)
    llm = _by_size(table, LLM, _BLOOM).get(size)
    if ours is None or llm is None:
        return None
    fused = _by_size(table, ALPHAFOLD, _FULL).get(size)
    ratio = (value_of(ours, CALLS) or 0) / (value_of(llm, CALLS) or 1)
    sentence: list[Part] = [
        f"At {size} tokens a step of AlphaFold 3 calls ",
        _count(ours, CALLS),
        " operators, one of BLOOM-560M ",
        _count(llm, CALLS),
        ": ",
        derived([ours, llm], CALLS, f"{significant(ratio)} times"),
        " as many",
    ]
    if fused is not None:
        sentence += ["; with fused operators ", _count(fused, CALLS)]
    kept = tuple(record for record in (ours, fused, llm) if record is not None)
    named = {"AlphaFold 3": ours, "AlphaFold 3, fused": fused, "BLOOM-560M": llm}
    return Finding(
        "full_operator_calls",
        title,
        (*sentence, "."),
        kept,
        partial(
            drawings.draw_calls,
            {label: _parts(record, CALLS) for label, record in named.items() if record},
        ),
        _settings(ours, llm),
    )


def _states(
    title: str, table: pd.DataFrame, published: Sequence[PublishedSeries]
) -> Finding | None:
    """Return the finding on the parts of the memory."""
    del published
    sizes = _by_size(table, ALPHAFOLD, _FULL)
    record = sizes.get(PARTS_TOKENS)
    if record is None:
        return None
    parts = _parts(record, PEAK)
    total = value_of(record, PEAK) or 1.0
    fixed = [f"{PEAK}.{state}" for state in ("parameters", "optimizer", "gradients")]
    share = sum(value_of(record, metric) or 0 for metric in fixed) / total
    ranked = sorted(parts, key=lambda state: -parts[state])
    sentence: list[Part] = [f"At {PARTS_TOKENS} tokens, of ", _bytes(record), ": "]
    for state in ranked[:2]:
        metric = f"{PEAK}.{state}"
        sentence += [number(record, metric, gigabytes(parts[state])), f" of {state}, "]
    sentence += [
        "and ",
        number(record, PEAK, f"{100 * share:.0f} %"),
        " of parameters, gradients and optimizer state together",
    ]
    stacks = {n: _parts(r, PEAK) for n, r in sizes.items() if n >= 256}
    return Finding(
        "full_memory_by_state",
        title,
        (*sentence, "."),
        tuple(sizes[n] for n in stacks),
        partial(drawings.draw_states, stacks, PARTS_TOKENS),
        _settings(record),
    )


def _longest(
    title: str, table: pd.DataFrame, published: Sequence[PublishedSeries]
) -> Finding | None:
    """Return the finding on the longest sequence against the number of devices."""
    rows = traced(table, ALPHAFOLD, _FULL)
    rows = rows[rows[PEAK] <= DEVICES[-1]]
    longest = {
        int(ranks): group["record"].iloc[-1] for ranks, group in rows.groupby("context_ranks")
    }
    if len(longest) < 3 or 1 not in longest:
        return None
    lengths = {ranks: _tokens(record) for ranks, record in longest.items()}
    most = max(longest)
    single, several = longest[1], longest[most]
    growth = lengths[most] / lengths[1]
    sentence: list[Part] = [
        f"In {DEVICES[-1] / 1e9:.0f} GB a device, one device holds a training step of ",
        number(single, PEAK, f"{lengths[1]:,} tokens"),
        f", {most} devices together one of ",
        number(several, PEAK, f"{lengths[most]:,} tokens"),
        ": ",
        derived([single, several], PEAK, f"{significant(growth)} times"),
        f" as long (the square root of {most} is {significant(most**0.5)})",
    ]
    others = {
        series.system: {int(p.at): p.value for p in series.points if p.at and p.value}
        for series in published
        if series.quantity == "longest_tokens" and series.axis == "devices"
    }
    return Finding(
        "full_longest_tokens",
        title,
        (*sentence, "."),
        tuple(longest.values()),
        partial(drawings.draw_longest, lengths, others),
        _settings(several),
    )


def _volumes(
    title: str, table: pd.DataFrame, published: Sequence[PublishedSeries]
) -> Finding | None:
    """Return the finding on the bytes that a rank sends for triangle multiplications.

    Bytes of this system are traced. Those of other schemes follow from the ratio of closed forms.
    """
    del published
    rows = traced(table, ALPHAFOLD, _FULL)
    divided = {
        int(ranks): group["record"].iloc[-1]
        for ranks, group in rows[rows["context_ranks"] > 1].groupby("context_ranks")
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
        partial(drawings.draw_volumes, each, {DAP: {p: each[p] * factors[p] for p in each}}),
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


def _values(records: BySize, metric: str) -> dict[int, float]:
    return {n: value_of(record, metric) or 0.0 for n, record in records.items()}


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
