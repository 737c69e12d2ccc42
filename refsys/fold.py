"""Structure prediction: samples from the model with the published sampler (Algorithm 18).

Several ranks divide an example among them: each computes its rows of pairs and its atoms. No rank
holds a whole pair tensor, and the noise does not depend on the number of ranks.

Shape suffixes: B batch (one), D samples, A atoms, O owned atoms, R owned tokens, N tokens, K bins.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refsys.batch import Batch
from refsys.data.batches.atom_features import crop_atoms
from refsys.data.batches.construction import ExampleSpec, example_batch
from refsys.data.store.store import Example
from refsys.errors import DivergedError
from refsys.losses.confidence import LARGEST_ERROR, of_atoms
from refsys.model.alphafold3 import AlphaFold3, TrunkState
from refsys.model.chunks import ALL_AT_ONCE, Chunks
from refsys.model.context import Context
from refsys.model.diffusion import DiffusionConditioning, SamplerConfig
from refsys.ops.rounds import equal_rounds
from refsys.parallel import Layout
from refsys.parallel.batch_layouts import Layouts, SingleRankLayouts

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
        chunks: Rows of pairs and samples that are computed at once.
    """

    samples: int = 5
    cycles: int = 4
    alignment_rows: int = 1024
    seed: int = 0
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    chunks: Chunks = ALL_AT_ONCE


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


class Prediction(NamedTuple):
    """Output of the model for one example: all atoms, on every rank.

    Attributes:
        positions_DA3: Sampled positions in the dtype of coordinates, ångström.
        plddt_DA: Predicted lDDT, 0 to 100; 0 for padded atoms.
        ptm_D: Predicted TM-score, 0 to 1.
    """

    positions_DA3: Tensor
    plddt_DA: Tensor
    ptm_D: Tensor


def fold(
    model: AlphaFold3,
    example: Example,
    config: FoldConfig,
    device: torch.device,
    on_stage: Callable[[str], None] = lambda stage: None,
    *,
    layouts: Layouts | None = None,
) -> Folded:
    """Sample structures of an uncropped example.

    Args:
        model: Initialized model on `device`, the same on every rank.
        example: Records of the example.
        config: Options of sampling.
        device: Device that computes.
        on_stage: Called before each stage with its name: see `InferencePass.phases`.
        layouts: Division of the example among ranks, each of which calls this function and returns
            the same structures; one rank if None.

    Raises:
        ArgumentError: the example has fewer tokens or windows of atoms than there are ranks.
        DataError: a record is damaged.
        DivergedError: the model returns positions that are not finite.
    """
    spec = inference_spec(
        example.tokens,
        config.alignment_rows,
        seed=config.seed,
        cycles=config.cycles,
        templates=model.config.templates,
    )
    batch = example_batch(example, spec, step=0)
    layouts = layouts or SingleRankLayouts()
    layouts.plan(batch)
    try:
        prediction = predict(model, batch.to(device), layouts.of(batch), config, on_stage)
    except DivergedError as error:
        raise DivergedError(f"{example.entry}: {error}") from None
    rows = crop_atoms(example, np.arange(example.tokens))
    return Folded(
        rows,
        prediction.positions_DA3[:, : len(rows)].float().cpu().numpy(),
        prediction.plddt_DA[:, : len(rows)].float().cpu().numpy(),
        prediction.ptm_D.float().cpu().numpy(),
    )


def inference_spec(
    tokens: int, alignment_rows: int, *, seed: int, cycles: int, templates: int, atoms: int = 0
) -> ExampleSpec:
    """Return the specification of the batch of one example.

    Args:
        tokens: Size of the token axis; an example with more is cropped.
        alignment_rows: MSA depth, rows.
        seed: Seed of the crop and the MSA rows.
        cycles: Recycling iterations, each with MSA rows of its own.
        templates: Size of the template axis.
        atoms: Size of the atom axis; 0 is as many as the example needs.
    """
    return ExampleSpec(
        tokens=tokens,
        alignment_rows=alignment_rows,
        crop="contiguous",
        seed=seed,
        whole=True,
        cycles=cycles,
        atoms=atoms,
        templates=templates,
    )


def predict(
    model: AlphaFold3,
    batch: Batch,
    layout: Layout,
    config: FoldConfig,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> Prediction:
    """Sample structures of a batch of one example, and their confidence.

    Args:
        model: Initialized model.
        batch: Features, on the device of the model.
        layout: Tokens and atoms that this rank computes.
        config: Options of sampling.
        on_stage: As for `fold`.

    Raises:
        DivergedError: the model returns positions that are not finite.
    """
    inference = InferencePass(model, batch, layout, config)
    for stage, run in inference.phases.items():
        on_stage(stage)
        run()
        inference.check_positions()
    assert inference.prediction is not None, "the last phase returns a prediction"
    return inference.prediction


class InferencePass:
    """Prediction of the structures of one example, phase by phase.

    Nothing in a phase reads a value back to the host, so that a prediction can be traced.

    Attributes:
        prediction: Output, once all phases have run.
    """

    def __init__(self, model: AlphaFold3, batch: Batch, layout: Layout, config: FoldConfig) -> None:
        """See `predict`; nothing runs."""
        self.prediction: Prediction | None = None
        self._model, self._batch, self._config = model, batch, config
        self._context = Context(
            layout=layout,
            seed=None,
            step=0,
            example=batch["example"].unsqueeze(1),
            chunks=config.chunks,
            in_place=True,
        )
        self._state: TrunkState | None = None
        self._condition: DiffusionConditioning | None = None
        self._positions_BDA3: Tensor | None = None

    @property
    def phases(self) -> dict[str, Callable[[], None]]:
        """Function of each phase, in order; each is called once."""
        return {
            "trunk": self._trunk,
            "conditioning": self._conditioning,
            "sampling": self._sampling,
            "confidence": self._confidence,
        }

    def check_positions(self) -> None:
        """Wait for the sampled positions, if there are any, and check them.

        Raises:
            DivergedError: they are not finite.
        """
        if self._positions_BDA3 is not None and not torch.isfinite(self._positions_BDA3).all():
            raise DivergedError("the model gives positions that are not finite")

    @torch.no_grad()
    def _trunk(self) -> None:
        self._state = self._model.trunk(self._batch, self._context, self._config.cycles)

    @torch.no_grad()
    def _conditioning(self) -> None:
        assert self._state is not None, "the trunk comes first"
        self._condition = self._model.condition(self._state, self._batch, self._context)

    @torch.no_grad()
    def _sampling(self) -> None:
        assert self._condition is not None, "the conditioning comes first"
        config = self._config
        self._positions_BDA3 = self._model.rollout(
            self._condition,
            self._batch,
            self._context,
            seed=config.seed,
            samples=config.samples,
            sampler=config.sampler,
        )
        # The biases of all blocks are larger than the trunk's output.
        self._condition = None

    @torch.no_grad()
    def _confidence(self) -> None:
        state, positions_BDA3 = self._state, self._positions_BDA3
        assert state is not None, "the trunk comes first"
        assert positions_BDA3 is not None, "sampling comes first"
        samples, atoms = positions_BDA3.shape[1:3]
        plddt_DA = torch.empty(samples, atoms, device=positions_BDA3.device)
        ptm_D = plddt_DA.new_empty(samples)
        for sample in equal_rounds(range(samples)):
            plddt_BA, ptm_B = _scores(
                self._model, state, positions_BDA3[:, sample], self._batch, self._context
            )
            plddt_DA[sample], ptm_D[sample] = plddt_BA[0], ptm_B[0]
        self.prediction = Prediction(positions_BDA3[0], plddt_DA, ptm_D)
        self._state = self._positions_BDA3 = None


def _scores(
    model: AlphaFold3, state: TrunkState, positions_BA3: Tensor, batch: Batch, context: Context
) -> tuple[Tensor, Tensor]:
    """Return pLDDT [B, A] and pTM [B] of a structure."""
    heads = context.layout.named("heads")
    confidence = model.predict_confidence(state, positions_BA3, batch, context)
    plddt_BO = expected_lddt(of_atoms(confidence.plddt_BRMK, batch, heads))
    # Padding reads any token.
    plddt_BO = plddt_BO * heads.local_atoms(batch["atom_mask"], 1)
    ptm_B = predicted_tm_score(confidence.pae_BRNK, batch["token_mask"], context)
    return heads.gather_atoms(plddt_BO, 1), ptm_B


def expected_lddt(logits: Tensor) -> Tensor:
    """Return predicted lDDT […], 0 to 100, from logits […, K] over equal bins of 0 to 1."""
    count = logits.shape[-1]
    centers = (torch.arange(count, device=logits.device) + 0.5) * (100.0 / count)
    return (logits.float().softmax(-1) * centers).sum(-1)


def predicted_tm_score(logits_BRNK: Tensor, mask_BN: Tensor, context: Context) -> Tensor:
    """Return pTM [B], the largest expected TM-score over frames (supplement, section 5.9.1).

    Args:
        logits_BRNK: Logits over equal bins of the error of token j in the frame of owned token i.
        mask_BN: False for padded tokens.
        context: Layout, and rows that are computed at once.
    """
    frame_score_BR = context.by_rows(_frame_scores, logits_BRNK, mask_BN)
    frame_score_BN = context.layout.named("heads").gather_tokens(frame_score_BR, 1)
    return (frame_score_BN * mask_BN).amax(-1)


def _frame_scores(logits_BRNK: Tensor, mask_BN: Tensor) -> Tensor:
    """Return the expected TM-score [B, R] in the frame of each owned token."""
    count = logits_BRNK.shape[-1]
    width = LARGEST_ERROR / count
    error_K = (torch.arange(count, device=logits_BRNK.device) + 0.5) * width
    tokens_B = mask_BN.sum(-1)
    scale_B = 1.24 * (tokens_B.clamp(min=_FEWEST_TOKENS) - 15.0) ** (1.0 / 3.0) - 1.8
    score_BK = 1.0 / (1.0 + (error_K / scale_B.unsqueeze(1)).square())
    score_BRN = torch.einsum("brnk,bk->brn", logits_BRNK.float().softmax(-1), score_BK)
    return (score_BRN * mask_BN.unsqueeze(1)).sum(-1) / tokens_B.clamp(min=1).unsqueeze(1)
