"""Structure prediction: samples from the model with the published sampler (Algorithm 18).

Shape suffixes: B batch (one), D samples, A atoms, N tokens, K bins.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refsys.data.batches.atom_features import crop_atoms
from refsys.data.batches.construction import ExampleSpec, example_batch
from refsys.data.store.store import Example
from refsys.errors import DivergedError
from refsys.losses.confidence import LARGEST_ERROR, of_atoms
from refsys.model.alphafold3 import AlphaFold3
from refsys.model.context import Context
from refsys.model.diffusion import SamplerConfig
from refsys.parallel import SingleRank

# Least number of tokens in the scale of the TM-score (Zhang and Skolnick 2004).
_FEWEST_TOKENS = 19


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldConfig:
    """Options of sampling.

    Attributes:
        samples: Number of structures.
        cycles: Recycling iterations.
        alignment_rows: MSA depth, rows.
        seed: Seed of all random streams.
        sampler: Schedule of noise levels.
    """

    samples: int = 5
    cycles: int = 4
    alignment_rows: int = 1024
    seed: int = 0
    sampler: SamplerConfig = field(default_factory=SamplerConfig)


@dataclass(frozen=True, slots=True)
class Folded:
    """Predicted structures of one example, in the order of sampling.

    Attributes:
        rows: [A] row of each atom in the structure record.
        positions: [D, A, 3] float32, ångström.
        plddt: [D, A] float32, predicted lDDT, 0 to 100.
        ptm: [D] float32, predicted TM-score, 0 to 1.
    """

    rows: NDArray[np.int64]
    positions: NDArray[np.float32]
    plddt: NDArray[np.float32]
    ptm: NDArray[np.float32]


@torch.no_grad()
def fold(
    model: AlphaFold3,
    example: Example,
    config: FoldConfig,
    device: torch.device,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Folded:
    """Sample structures of an uncropped example.

    Args:
        model: Initialized model on `device`.
        example: Records of the example.
        config: Options of sampling.
        device: Device that computes.
        on_stage: Called before each stage with its name: trunk, sampling, confidence.

    Raises:
        DataError: a record is damaged.
        DivergedError: the model returns positions that are not finite.
    """
    spec = ExampleSpec(
        tokens=example.tokens,
        alignment_rows=config.alignment_rows,
        crop="contiguous",
        seed=config.seed,
        whole=True,
        cycles=config.cycles,
        templates=model.config.templates,
    )
    batch = example_batch(example, spec, step=0).to(device)
    context = Context(
        layout=SingleRank(batch.sizes["token"], batch.sizes["atom"]),
        seed=None,
        step=0,
        example=batch["example"].unsqueeze(1),
    )
    on_stage("trunk")
    state = model.trunk(batch, context, config.cycles)
    condition = model.condition(state, batch, context)
    on_stage("sampling")
    positions_BDA3 = model.rollout(
        condition,
        batch,
        context,
        seed=config.seed,
        samples=config.samples,
        sampler=config.sampler,
    )
    if not torch.isfinite(positions_BDA3).all():
        raise DivergedError(f"{example.entry}: the model gives positions that are not finite")
    on_stage("confidence")
    plddt, ptm = [], []
    for sample in range(config.samples):
        confidence = model.predict_confidence(state, positions_BDA3[:, sample], batch, context)
        plddt.append(expected_lddt(of_atoms(confidence.plddt_BRMK, batch, context.layout))[0])
        ptm.append(predicted_tm_score(confidence.pae_BRNK, batch["token_mask"])[0])
    rows = crop_atoms(example, np.arange(example.tokens))
    return Folded(
        rows,
        positions_BDA3[0, :, : len(rows)].float().cpu().numpy(),
        torch.stack(plddt)[:, : len(rows)].float().cpu().numpy(),
        torch.stack(ptm).float().cpu().numpy(),
    )


def expected_lddt(logits: Tensor) -> Tensor:
    """Return predicted lDDT […], 0 to 100, from logits […, K] over equal bins of 0 to 1."""
    count = logits.shape[-1]
    centers = (torch.arange(count, device=logits.device) + 0.5) * (100.0 / count)
    return (logits.float().softmax(-1) * centers).sum(-1)


def predicted_tm_score(logits_BNNK: Tensor, mask_BN: Tensor) -> Tensor:
    """Return pTM [B], the largest expected TM-score over frames (supplement, section 5.9.1).

    Args:
        logits_BNNK: Logits over equal bins of the error of token j in the frame of token i.
        mask_BN: False for padded tokens.
    """
    count = logits_BNNK.shape[-1]
    width = LARGEST_ERROR / count
    error_K = (torch.arange(count, device=logits_BNNK.device) + 0.5) * width
    tokens_B = mask_BN.sum(-1)
    scale_B = 1.24 * (tokens_B.clamp(min=_FEWEST_TOKENS) - 15.0) ** (1.0 / 3.0) - 1.8
    score_BK = 1.0 / (1.0 + (error_K / scale_B.unsqueeze(1)).square())
    score_BNN = torch.einsum("bijk,bk->bij", logits_BNNK.float().softmax(-1), score_BK)
    frame_score_BN = (score_BNN * mask_BN.unsqueeze(1)).sum(-1) / tokens_B.clamp(min=1).unsqueeze(1)
    return (frame_score_BN * mask_BN).amax(-1)
