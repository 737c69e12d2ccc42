"""Records of traced steps of the full model and of BLOOM-560M, with all numbers of the findings."""

from itertools import count

from bench.records.metrics import Value, as_json, missing
from support.measured import FACTS
from support.records import VALIDATOR, a_record

_NUMBERS = count(10_000)
_TRACED, _PREDICTED = "traced with shapes alone", "time model over a trace"
_ALPHAFOLD = {
    **{"preset": "full", "precision": "bfloat16", "stage": "initial", "entry": "synthetic"},
    **{"cycles": 2, "samples": 48, "batch": 1, "alignment_rows": 1024, "checkpointing": True},
    **{"offload_checkpoints": False, "chunk_rows": 0, "chunk_samples": 0},
}
_BLOOM = {
    **{"preset": "bloom-560m", "precision": "bfloat16", "variant": "fair", "equal": "tokens"},
    **{"batch": 1, "checkpointing": False},
}


def traced(tokens: int, ranks: int = 1, *, backend: str = "triton", llm: bool = False) -> dict:
    """Return a valid record of a traced step.

    Args:
        tokens: Tokens of an example.
        ranks: Ranks that divide it.
        backend: Backend of AlphaFold 3's operators.
        llm: Whether the step is of BLOOM-560M.
    """
    number = next(_NUMBERS)
    digits = f"{number:020x}"
    calls = {"linear": 300, "copy": 700} if llm else {"linear": 9000, "copy": 30_000, "softmax": 9}
    states = {
        **{"parameters": 2_000_000_000, "optimizer": 4_000_000_000, "gradients": 1_000_000_000},
        "activations": 10**6 * tokens if llm else 27_000 * tokens**2 // ranks,
    }
    values = {
        "operator_calls": Value(sum(calls.values()), _TRACED, quality="counted"),
        "peak_tracked_bytes": Value(sum(states.values()), _TRACED, quality="counted"),
        "step_time_s": missing("nothing is measured: the case is simulated", _TRACED),
        "predicted_step_time_s": Value(1e-6 * tokens**2, _PREDICTED, quality="degraded"),
        "collective_bytes": Value(900 * tokens**2 * (ranks - 1), _TRACED, quality="counted"),
    }
    values |= {f"operator_calls.{kind}": Value(n, _TRACED) for kind, n in calls.items()}
    values |= {f"peak_tracked_bytes.{state}": Value(n, _TRACED) for state, n in states.items()}
    name = "transformer" if llm else "alphafold3"
    config = {"tokens": tokens} | (_BLOOM if llm else {**_ALPHAFOLD, "backend": backend})
    config |= {} if llm else {"context_ranks": ranks, "shard_parameters": ranks > 1}
    labels = {
        **{"tokens": tokens, "series": f"{name} {config['preset']}", "synthetic": True},
        "variant": "fair, bfloat16" if llm else f"{backend}, bfloat16, context_ranks={ranks}",
    }
    record = a_record(
        number,
        "ok",
        cell_id=digits,
        facts=FACTS,
        sweep="simulation",
        workload={
            **{"name": name, "config": config, "config_sha256": digits, "labels": labels},
            **{"inputs": {}, "source_sha256": None, "ranks": ranks},
        },
        metrics=as_json(values),
        breakdown={"collective_bytes": {"triangle_multiplication": 700 * tokens**2 * (ranks - 1)}},
    )
    record["devices"] = [
        record["devices"][0]
        | {"vendor": "nvidia", "name": "NVIDIA H200 (simulated)", "kind": "cuda"}
    ]
    VALIDATOR.validate(record)
    return record


TRACES = [
    *(traced(n) for n in (384, 768, 1536, 3072)),
    *(traced(n, llm=True) for n in (384, 768, 1536, 3072)),
    *(traced(n, backend="reference") for n in (384, 768)),
    *(traced(n, ranks) for n, ranks in ((3072, 4), (4096, 8), (8192, 32))),
]
