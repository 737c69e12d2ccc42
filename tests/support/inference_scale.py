"""Inference at the widths of the full model, traced; nothing is computed.

As a script, print the peak of each phase of the whole model's inference at 30,720 tokens on 64 and
1,024 ranks, and the time that the traces take:
``PYTHONPATH=.:tests python tests/support/inference_scale.py [TOKENS RANKS]``.
"""

import dataclasses
import sys
from time import process_time
from typing import Any

import torch

from refsys.config import PRESETS, ModelConfig
from refsys.costs.prediction import predict
from refsys.costs.trace import Trace
from support.traced_steps import MODEL as SHALLOW
from workloads.catalogue import catalogue
from workloads.inference import abstract_program

__all__ = ["MODEL", "UNIT_BYTES", "traced_inference"]

FULL: ModelConfig = PRESETS["full"]
# The biases of all blocks of the token transformer are in memory together.
MODEL: ModelConfig = dataclasses.replace(SHALLOW, token_blocks=FULL.token_blocks)
# Of a pair representation, for each pair of tokens.
UNIT_BYTES = FULL.c_z * torch.bfloat16.itemsize
WORKLOAD = catalogue()["alphafold3-inference"]


def case(tokens: int, ranks: int, **axes: Any) -> Any:
    """Return the case: fused kernels, a sixteenth of a rank's rows at once, but 8 at least."""
    return WORKLOAD.configure(
        {
            "preset": "full",
            "tokens": tokens,
            "entry": "synthetic",
            "precision": "bfloat16",
            "backend": "triton",
            "context_ranks": ranks,
            "chunk_rows": min(max(8, tokens // (16 * ranks)), tokens // ranks),
        }
        | axes
    )


def traced_inference(
    tokens: int, ranks: int, model: ModelConfig | None = None, **axes: Any
) -> Trace:
    """Return the costs of one rank.

    Args:
        tokens: Tokens of the example.
        ranks: Context ranks.
        model: Hyper-parameters in place of the full model's.
        axes: Axes of the case.
    """
    config = case(tokens, ranks, **axes)
    return predict(lambda: abstract_program(config, model or FULL), ranks=ranks)


def main() -> int:
    """Print peaks by phase, their largest origins, and the time of each trace."""
    cases = (
        [tuple(map(int, sys.argv[1:3]))] if len(sys.argv) > 2 else [(30_720, 64), (30_720, 1024)]
    )
    torch.set_num_threads(1)
    for tokens, ranks in cases:
        start = process_time()
        trace = traced_inference(tokens, ranks)
        seconds, unit = process_time() - start, tokens**2 * UNIT_BYTES / ranks
        print(f"{tokens} tokens on {ranks} ranks, {seconds:.0f} CPU-s; U = {unit / 2**30:.3f} GiB")
        for phase, peak in trace.phase_peaks.items():
            score = tokens**2 / (ranks * peak.nbytes / 1e9)
            print(
                f"  {phase}: {peak.nbytes / unit:.2f} U, {peak.nbytes / 1e9:.1f} GB, {score:,.0f}"
            )
            for origin, nbytes in sorted(peak.by_origin.items(), key=lambda kv: -kv[1])[:12]:
                print(f"    {nbytes / unit:.3f} U {' '.join(origin)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
