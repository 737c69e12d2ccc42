"""``foldperf fold``."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from bench.cli import options

SUMMARY = "sample structures of a prepared entry and write them as mmCIF files"
EXAMPLE = "foldperf fold 1ubq --checkpoint runs/tiny --samples 5 --out folded"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options: entry, weights, sampler, output."""
    from refsys.config import PRESETS

    parser.add_argument("entry", help="a prepared structure")
    parser.add_argument(
        "--checkpoint", type=Path, help="a run's folder or a checkpoint (default: random weights)"
    )
    parser.add_argument("--preset", choices=list(PRESETS), default="tiny", help="model size")
    parser.add_argument("--precision", default="float32", help="float32, bfloat16 or float64")
    parser.add_argument(
        "--samples", type=options.at_least(1), default=5, help="number of structures"
    )
    parser.add_argument(
        "--steps", type=options.at_least(1), default=200, help="steps of the sampler"
    )
    parser.add_argument(
        "--cycles", type=options.at_least(1), default=4, help="recycling iterations"
    )
    parser.add_argument(
        "--alignment-rows", type=options.at_least(1), help="MSA depth (default: the preset's)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--out", type=Path, default=Path("folded"), help="folder of the results")
    options.add_store(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write one mmCIF file a sample, best first, and their confidence as JSON; then print."""
    from bench.devices import find_device
    from bench.errors import UsageError
    from refsys.config import preset
    from refsys.data.formats.write_mmcif import write_mmcif
    from refsys.data.store.store import Store
    from refsys.errors import DataError
    from refsys.files import write_json
    from refsys.fold import FoldConfig, fold
    from refsys.model.diffusion import SamplerConfig
    from refsys.precision import precision
    from refsys.training.alphafold3_step import AlphaFold3Training
    from refsys.training.checkpoint import latest, load_weights
    from refsys.training.stages import STAGES

    try:
        import gemmi  # noqa: F401
    except ImportError:
        raise UsageError("writing mmCIF needs gemmi: pip install 'foldperf[data]'") from None
    example = Store(options.store(arguments)).open(arguments.entry)
    example.verify()
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{arguments.out}: cannot be written: {error.strerror}") from None
    config, device = preset(arguments.preset), find_device(arguments.device).torch_device
    training = AlphaFold3Training(
        config,
        precision(arguments.precision),
        stage=STAGES["initial"],
        samples=1,
        seed=arguments.seed,
        device=device,
    )
    if arguments.checkpoint:
        weights = str(latest(arguments.checkpoint))
        load_weights(Path(weights), training, averaged=True)
    else:
        weights = f"random, seed {arguments.seed}"
        training.initialize()
        print("foldperf: no --checkpoint: the weights are random", file=sys.stderr)
    done = fold(
        training.model,
        example,
        FoldConfig(
            samples=arguments.samples,
            cycles=arguments.cycles,
            alignment_rows=arguments.alignment_rows or config.alignment_rows,
            seed=arguments.seed,
            sampler=SamplerConfig(steps=arguments.steps),
        ),
        device,
        _Stages(example.tokens),
    )
    scores = [
        {"plddt": float(plddt.mean()), "ptm": float(ptm)}
        for plddt, ptm in zip(done.plddt, done.ptm, strict=True)
    ]
    order = sorted(range(len(scores)), key=lambda sample: -scores[sample]["plddt"])
    structures: list[dict[str, Any]] = []
    for rank, sample in enumerate(order, start=1):
        name = f"{example.entry}-{rank}.cif"
        write_mmcif(
            arguments.out / name,
            example.structure,
            done.rows,
            done.positions[sample],
            done.plddt[sample],
        )
        structures.append({"file": name, "sample": sample, **scores[sample]})
    try:
        write_json(
            arguments.out / f"{example.entry}.json",
            {
                "entry": example.entry,
                "weights": weights,
                "preset": arguments.preset,
                "seed": arguments.seed,
                "steps": arguments.steps,
                "cycles": arguments.cycles,
                "structures": structures,
            },
        )
    except OSError as error:
        raise DataError(f"{arguments.out}: cannot be written: {error.strerror}") from None
    for structure in structures:
        print(
            f"{arguments.out / structure['file']}: pLDDT {structure['plddt']:.1f}, "
            f"pTM {structure['ptm']:.2f}"
        )
    return 0


class _Stages:
    """Printer of the name of each stage and the duration of the one before."""

    def __init__(self, tokens: int) -> None:
        print(f"folding {tokens} tokens", file=sys.stderr)
        self._began = time.monotonic()
        self._stage = ""

    def __call__(self, stage: str) -> None:
        now = time.monotonic()
        if self._stage:
            print(f"  {self._stage}: {now - self._began:.1f} s", file=sys.stderr, flush=True)
        self._stage, self._began = stage, now
