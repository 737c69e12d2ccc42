"""Workloads and common axes of the figures' cases, and the commands that simulate them.

The cases themselves are those of `bench.simulation.published_cases` and
`bench.simulation.paper_cases`.
"""

PUBLISHED_CASES = (
    "python -m bench.simulation.published_cases --out results/recorded/predictions.jsonl"
)
PAPER_CASES = "python -m bench.simulation.paper_cases --out results/recorded/paper.jsonl"
# Workloads of the figures.
TRAINING, LANGUAGE_MODEL, PIPELINE = "alphafold3", "transformer", "pipeline"
MICROBENCHMARKS, OPERATORS = "microbenchmarks", "operators"
H200, MI250 = "NVIDIA H200", "AMD Instinct MI250"
# Axes of a training step of the full model that the figures have in common.
SETTINGS = {
    **{"workload": TRAINING, "preset": "full", "precision": "bfloat16", "entry": "synthetic"},
    **{"stage": "initial", "cycles": 2, "samples": 48, "alignment_rows": 1024, "batch": 1},
    **{"offload_checkpoints": False, "chunk_rows": 0, "chunk_samples": 0, "status": "ok"},
}
