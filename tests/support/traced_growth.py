"""Growth of the costs of a training step with the length of the example, traced.

As a script, print peak memory, FLOPs, bytes and launches of AlphaFold 3 `full` and of BLOOM-560M at
384 to 3,072 tokens, their exponents, and the forward FLOPs of each part beside closed forms; fail
if one differs by more than 2 %:
``PYTHONPATH=.:tests python tests/support/traced_growth.py``.
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import log
from typing import Any

import numpy as np
import torch

from refsys.costs.trace import Trace
from support.closed_forms import MODULES, forward
from workloads.catalogue import catalogue
from workloads.language_model.presets import PRESETS
from workloads.predicted_costs import predicted_costs

TOKENS = (384, 768, 1536, 3072)
ROWS, SAMPLES = 1024, 48
# Of the closed forms.
TOLERANCE = 0.02
ALPHAFOLD3 = {
    "preset": "full",
    "precision": "bfloat16",
    "backend": "triton",
    "entry": "synthetic",
    "alignment_rows": ROWS,
    "samples": SAMPLES,
}
BLOOM = {"preset": "bloom-560m", "precision": "bfloat16"}
WORKLOADS: Mapping[str, Mapping[str, Any]] = {"alphafold3": ALPHAFOLD3, "transformer": BLOOM}
_FORWARD = frozenset({"trunk", "rollout", "diffusion", "forward"})


def traced(name: str, tokens: int, **axes: Any) -> Trace:
    """Return the trace of a step of a workload on one rank."""
    workload = catalogue()[name]
    config = workload.configure({**WORKLOADS[name], "tokens": tokens, **axes})
    return predicted_costs(workload, config)


def quantities(trace: Trace) -> dict[str, int]:
    """Return the costs of a step whose growth is of interest."""
    return {
        "peak bytes": trace.peak.nbytes,
        "FLOPs": trace.total("flops"),
        "tensor bytes": trace.total("nbytes"),
        "launches": trace.total("launches"),
    }


def exponents(tokens: Sequence[int], values: Sequence[float]) -> list[float]:
    """Return the exponent between each length and the next."""
    points = pairwise(zip(tokens, values, strict=True))
    return [log(y / x) / log(m / n) for (n, x), (m, y) in points]


def fitted_exponent(tokens: Sequence[int], values: Sequence[float]) -> float:
    """Return the exponent of the power law with the least squares of logarithms."""
    return float(np.polyfit(np.log(tokens), np.log(values), 1)[0])


def forward_flops(trace: Trace) -> dict[str, int]:
    """Return the FLOPs of each part in the forward phases, recomputation left out."""
    spent: Counter[str] = Counter()
    for origin, cost in trace.costs.items():
        if origin.phase in _FORWARD:
            for part, modules in MODULES.items():
                spent[part] += cost.flops * origin.module.startswith(modules)
    return dict(spent)


def alphafold3_ratios(trace: Trace, tokens: int) -> dict[str, float]:
    """Return the forward FLOPs of each part over its closed form."""
    return over_closed_forms(trace, forward(tokens, samples=SAMPLES, rows=ROWS))


def over_closed_forms(trace: Trace, expected: Mapping[str, float]) -> dict[str, float]:
    """Return the forward FLOPs of each part over those expected."""
    return {part: flops / expected[part] for part, flops in forward_flops(trace).items()}


def bloom_ratios(trace: Trace, tokens: int) -> dict[str, float]:
    """Return the FLOPs of a step over 6 N + 14 L d s for each token.

    Of these 2 L d s are the attention logits that the fused backward computes again.
    """
    model = PRESETS[str(BLOOM["preset"])]
    again = 2 * model.blocks * model.width * tokens
    return {"step": trace.total("flops") / (model.step_flops(tokens) + tokens * again)}


RATIOS = {"alphafold3": alphafold3_ratios, "transformer": bloom_ratios}


def main() -> int:
    """Print all tables; return 1 if FLOPs differ from a closed form."""
    torch.set_num_threads(1)
    holds = True
    for name in WORKLOADS:
        traces = {tokens: traced(name, tokens) for tokens in TOKENS}
        print(f"{name}: {', '.join(f'{count:,}' for count in TOKENS)} tokens")
        table = [quantities(trace) for trace in traces.values()]
        for quantity in table[0]:
            values = [row[quantity] for row in table]
            local = " ".join(f"{value:.2f}" for value in exponents(TOKENS, values))
            shown = " ".join(f"{value:.4g}" for value in values)
            print(
                f"  {quantity}: {shown}; exponents {local}, fitted "
                f"{fitted_exponent(TOKENS, values):.2f}"
            )
        print("  over the closed forms:")
        for tokens, trace in traces.items():
            ratios = RATIOS[name](trace, tokens)
            holds &= all(abs(ratio - 1) <= TOLERANCE for ratio in ratios.values())
            print(f"    {tokens} {' '.join(f'{p} {r:.4f}' for p, r in ratios.items())}", flush=True)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
