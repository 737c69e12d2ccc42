"""``foldperf fold``."""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli import options, ranks

if TYPE_CHECKING:
    import torch

    from refsys.data.store.store import Example
    from refsys.fold import Folded
    from refsys.model.alphafold3 import AlphaFold3

SUMMARY = "sample structures of a prepared entry and write them as mmCIF files"
EXAMPLE = (
    "foldperf fold 1ubq --checkpoint runs/tiny --samples 5 --out folded\n"
    "  foldperf fold 1ubq --context-ranks 2 --checkpoint runs/tiny --out folded"
)
# Options that decide how the structures are computed, those of training.
_COMPUTATION = (
    "context_ranks",
    "exchange_chunks",
    "exchange",
    "node_ranks",
    "channel_groups",
    "chunk_rows",
    "chunk_samples",
    "collective_timeout",
)
# Options that must be equal on all ranks, beside those.
_RESULT = "entry preset precision samples steps cycles alignment_rows seed checkpoint".split()


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options: entry, weights, sampler, ranks, output."""
    from refsys.config import PRESETS
    from refsys.options import options_of
    from refsys.run_config import RunConfig

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
    for leaf in options_of(RunConfig):
        if leaf.field in _COMPUTATION:
            options.add_option(parser, leaf)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--out", type=Path, default=Path("folded"), help="folder of the results")
    options.add_store(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write one mmCIF file a sample, best first, and their confidence as JSON; then print.

    With several ranks this process starts them through `torchrun`, unless `torchrun` started it.
    All of them compute; the first one writes and prints.
    """
    from bench.errors import UsageError
    from refsys.fold import FoldConfig, fold
    from refsys.model.diffusion import SamplerConfig
    from refsys.options import configured
    from refsys.parallel.exchanges import row_slab_layouts
    from refsys.parallel.mesh import join
    from refsys.parallel.monitor import reporting, uninstall
    from refsys.precision import precision
    from refsys.run_config import RunConfig
    from refsys.training.build import chunks_of

    try:
        import gemmi  # noqa: F401
    except ImportError:
        raise UsageError("writing mmCIF needs gemmi: pip install 'foldperf[data]'") from None
    chosen = {name: getattr(arguments, name) for name in _COMPUTATION}
    config = configured(RunConfig, {k: value for k, value in chosen.items() if value is not None})
    count = config.parallel.context_ranks
    if count > 1 and not ranks.are_started():
        _example(arguments, count)
        _make_folder(arguments.out)
        return ranks.start(count, arguments.device, arguments.words)
    if count > 1:
        ranks.die_with_launcher()
    device = ranks.device(arguments.device)
    same = {name: str(getattr(arguments, name)) for name in _RESULT}
    joined = join(config.parallel, device, run=same)
    with joined.one_error():
        example = _example(arguments, count)
        if joined.is_first:
            _make_folder(arguments.out)
        model, weights = _model(arguments, device)
    layouts = None
    if count > 1:
        layouts = row_slab_layouts(
            config.parallel,
            model.config,
            example.tokens,
            joined.context_group,
            joined.context_agreement,
            itemsize=precision(arguments.precision).activations.itemsize,
        )
    sampling = FoldConfig(
        samples=arguments.samples,
        cycles=arguments.cycles,
        alignment_rows=arguments.alignment_rows or model.config.alignment_rows,
        seed=arguments.seed,
        sampler=SamplerConfig(steps=arguments.steps),
        chunks=chunks_of(config, example.tokens, device),
    )
    if joined.is_first and not arguments.checkpoint:
        print("foldperf: no --checkpoint: the weights are random", file=sys.stderr)
    on_stage = _Stages(example.tokens) if joined.is_first else _ignore
    with reporting():
        done = fold(model, example, sampling, device, on_stage, layouts=layouts)
        if joined.is_first:
            _write(arguments, example, done, weights)
    joined.barrier()
    uninstall()
    return 0


def _example(arguments: argparse.Namespace, count: int) -> "Example":
    """Return the records of the entry, whose checksums are right.

    Raises:
        ArgumentError: it has fewer tokens than there are ranks.
        DataError: it is not prepared, or damaged.
    """
    from refsys.data.store.store import Store
    from refsys.errors import ArgumentError

    example = Store(options.store(arguments)).open(arguments.entry)
    example.verify()
    if example.tokens < count:
        raise ArgumentError(
            f"{example.entry}: {example.tokens} tokens are too few for {count} ranks"
        )
    return example


def _make_folder(folder: Path) -> None:
    """Make the folder of the results.

    Raises:
        DataError: it cannot be made.
    """
    from refsys.errors import DataError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror}") from None


def _model(arguments: argparse.Namespace, device: "torch.device") -> "tuple[AlphaFold3, str]":
    """Return the model with the averaged weights of a checkpoint or random ones, and their name.

    Raises:
        CheckpointError: the checkpoint cannot be used.
    """
    from refsys.config import preset
    from refsys.precision import precision
    from refsys.training.alphafold3_step import AlphaFold3Training
    from refsys.training.checkpoint import latest, load_weights
    from refsys.training.stages import STAGES

    training = AlphaFold3Training(
        preset(arguments.preset),
        precision(arguments.precision),
        stage=STAGES["initial"],
        samples=1,
        seed=arguments.seed,
        device=device,
    )
    if not arguments.checkpoint:
        training.initialize()
        return training.model, f"random, seed {arguments.seed}"
    checkpoint = latest(arguments.checkpoint)
    load_weights(checkpoint, training, averaged=True)
    return training.model, str(checkpoint)


def _write(arguments: argparse.Namespace, example: "Example", done: "Folded", weights: str) -> None:
    """Write the structures, best first, and the report; then print.

    Raises:
        DataError: a file cannot be written.
    """
    from refsys.data.formats.write_mmcif import write_mmcif
    from refsys.errors import DataError
    from refsys.files import write_json

    scores = [
        {"plddt": float(plddt.mean()), "ptm": float(ptm)}
        for plddt, ptm in zip(done.plddt, done.ptm, strict=True)
    ]
    order = sorted(range(len(scores)), key=lambda sample: -scores[sample]["plddt"])
    structures: list[dict[str, Any]] = []
    for number, sample in enumerate(order, start=1):
        name = f"{example.entry}-{number}.cif"
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


def _ignore(stage: str) -> None:
    del stage


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
