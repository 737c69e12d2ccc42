"""Building a trainer from the configuration of a run."""

from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily

from refsys.batch import ALPHAFOLD3_FIELDS, TRUNK_FIELDS, Batch
from refsys.config import ModelConfig
from refsys.data.batches.atom_features import LIGAND_BONDS
from refsys.data.batches.construction import BONDS_PER_TOKEN
from refsys.model.chunks import Chunks
from refsys.parallel.data_parallel import GradientAverage, stacked_blocks
from refsys.parallel.exchanges import row_slab_layouts
from refsys.parallel.mesh import RunRanks, abstract_ranks
from refsys.precision import precision
from refsys.run_config import DEFAULT_BACKEND, FULL, RunConfig
from refsys.training.alphafold3_step import AlphaFold3Training
from refsys.training.checkpoint import load_weights
from refsys.training.loading import Batches, placeholders
from refsys.training.step import Training, TrunkTraining
from refsys.training.trainer import Trainer


def build_training(
    config: RunConfig, device: torch.device | None = None, model: ModelConfig | None = None
) -> Training:
    """Return the model and optimizer of a run, without weights.

    Args:
        config: Configuration without sizes of 0.
        device: Device of the model; the default device if None.
        model: Hyper-parameters in place of the preset's.
    """
    options: dict[str, Any] = {
        "seed": config.seed,
        "cycles": config.model.cycles,
        "draw_cycles": config.model.sample_cycles,
        "checkpointing": config.memory.checkpointing,
        "offload_checkpoints": config.memory.offload_checkpoints,
        "chunks": chunks_of(config, config.data.tokens, device),
        "dropout": config.model.dropout,
        "optimizer": config.optimizer,
        "device": device,
    }
    model, table = model or config.preset, precision(config.precision)
    if config.model.model != FULL:
        return TrunkTraining(model, table, **options)
    samples = config.model.samples
    return AlphaFold3Training(model, table, stage=config.stage, samples=samples, **options)


def chunks_of(config: RunConfig, tokens: int, device: torch.device | None = None) -> Chunks:
    """Return the chunks of a run.

    By default, a quarter of a context rank's rows is computed at once, unless kernels fuse them:
    the widest intermediate of a pair row is eight times as wide as the row.

    Args:
        config: Ranks, backend and memory options.
        tokens: Tokens of an example.
        device: Device of the model; the default device if None.
    """
    ranks, backend, rows = config.parallel.context_ranks, config.backend, config.memory.chunk_rows
    on_device = (device or torch.get_default_device()).type != "cpu"
    fused = backend == "triton" or (backend == DEFAULT_BACKEND and on_device)
    if not rows and ranks > 1 and not fused:
        rows = -(-tokens // (4 * ranks))
    return Chunks(rows=rows, samples=config.memory.chunk_samples)


def initialize(training: Training, config: RunConfig) -> None:
    """Set the weights that a run starts from.

    Raises:
        CheckpointError: the checkpoint to start from cannot be used.
    """
    if config.model.start:
        load_weights(Path(config.model.start), training, averaged=False)
    else:
        training.initialize()


def build_trainer(
    config: RunConfig,
    training: Training,
    batches: Batches,
    ranks: RunRanks | None = None,
    *,
    done: int = 0,
) -> Trainer:
    """Return the trainer of a run on one rank.

    Args:
        config: Configuration without sizes of 0.
        training: Model and optimizer, with their weights.
        batches: Batches of this rank.
        ranks: Ranks of the run; None for one.
        done: Steps that were done before.
    """
    training.relabel = batches.relabel
    average = entry = None
    if ranks is not None and ranks.count > 1:
        entry = training.entry
        if entry is None:
            average = _gradient_average(training, ranks.context_ranks)
        if ranks.context_ranks > 1:
            training.layouts = row_slab_layouts(
                config.parallel,
                config.preset,
                config.data.tokens,
                ranks.context_group,
                ranks.context_agreement,
                itemsize=precision(config.precision).activations.itemsize,
            )
    return Trainer(config, training, batches, average=average, entry=entry, done=done)


def build_abstract_trainer(config: RunConfig, training: Training) -> Trainer:
    """Return a trainer whose batches are placeholders, for tracing under fake tensors.

    Args:
        config: Configuration without sizes of 0, the atom axis included.
        training: Model and optimizer, built under fake tensors. With several ranks, the process
            group has as many.
    """
    average, parallel = None, config.parallel
    if parallel.data_ranks * parallel.context_ranks > 1:
        # A mesh reads its ranks, which fake tensors do not have.
        with unset_fake_temporarily():
            ranks = abstract_ranks(parallel)
        if parallel.shard_parameters:
            training.shard(ranks)
        else:
            average = _gradient_average(training, parallel.context_ranks)
        if parallel.context_ranks > 1:
            training.layouts = row_slab_layouts(
                parallel,
                config.preset,
                config.data.tokens,
                ranks.context_group,
                itemsize=precision(config.precision).activations.itemsize,
                traced=True,
            )
    training.materialize_moments()
    batches = placeholders(lambda: placeholder_batch(config))
    return Trainer(config, training, batches, average=average, entry=training.entry)


def _gradient_average(training: Training, context_ranks: int) -> GradientAverage:
    """Return the average of replicated parameters' gradients over all ranks."""
    blocks = stacked_blocks(training.model)
    return GradientAverage(training.parameters, context_ranks=context_ranks, blocks=blocks)


def placeholder_batch(config: RunConfig) -> Batch:
    """Return one rank's batch of a run's shapes, on the default device."""
    full = config.model.model == FULL
    tokens = config.data.tokens
    sizes = {
        "token": tokens,
        "alignment_row": config.data.alignment_rows,
        "cycle": config.model.cycles,
        "bond": tokens * BONDS_PER_TOKEN,
    }
    if full:
        sizes |= {
            "atom": config.data.atoms,
            "template": config.preset.templates,
            "ligand_bond": LIGAND_BONDS,
        }
    fields = ALPHAFOLD3_FIELDS if full else TRUNK_FIELDS
    examples = config.data.batch // config.parallel.data_ranks
    return Batch.empty(fields, batch=examples, **sizes)
