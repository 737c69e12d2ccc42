"""Losses of the trunk, each the same scalar on every rank.

A loss is the mean over examples of each example's mean, like the confidence losses. An example
without a valid entry counts as zero: it is multiplied by zero, not skipped, so that every rank runs
the same graph.

Shape suffixes: B batch, R owned tokens, N all tokens, K bins.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from refsys.batch import Batch
from refsys.model.trunk import TrunkOutput
from refsys.parallel import Layout
from refsys.precision import Precision

# First and last edge between bins of the distogram, ångström.
FIRST_EDGE = 2.3125
LAST_EDGE = 21.6875
# Weight of the resolved head relative to the distogram (AlphaFold 2 supplement, section 1.9).
RESOLVED_WEIGHT = 0.01


def trunk_loss(output: TrunkOutput, batch: Batch, layout: Layout, precision: Precision) -> Tensor:
    """Return the scalar loss for training the trunk alone."""
    distogram = distogram_loss(output.distogram_BRNK, batch, layout, precision)
    resolved = resolved_loss(output.resolved_BR2, batch, layout, precision)
    return distogram + RESOLVED_WEIGHT * resolved


def distogram_loss(
    logits_BRNK: Tensor, batch: Batch, layout: Layout, precision: Precision
) -> Tensor:
    """Return the mean cross-entropy of binned representative-atom distances over resolved pairs.

    Args:
        logits_BRNK: Logits of this rank's rows.
        batch: Replicated on every rank; `pseudo_beta` and its mask are the labels.
        layout: Owned rows.
        precision: Dtypes of distances and loss.

    Returns:
        A scalar, the same on every rank.
    """
    positions_BN3 = batch["pseudo_beta"].to(precision.coordinates)
    mask_BN = batch["pseudo_beta_mask"]
    local_BR3 = layout.local(positions_BN3, axis=1)
    distances_BRN = (local_BR3.unsqueeze(2) - positions_BN3.unsqueeze(1)).square().sum(-1).sqrt()
    edges = torch.linspace(
        FIRST_EDGE,
        LAST_EDGE,
        logits_BRNK.shape[-1] - 1,
        dtype=precision.coordinates,
        device=distances_BRN.device,
    )
    target_BRN = torch.bucketize(distances_BRN, edges)
    errors_BRN = F.cross_entropy(
        logits_BRNK.to(precision.losses).permute(0, 3, 1, 2), target_BRN, reduction="none"
    )
    valid_BRN = layout.local(mask_BN, axis=1).unsqueeze(2) & mask_BN.unsqueeze(1)
    return _mean(errors_BRN, valid_BRN, layout, precision)


def resolved_loss(logits_BR2: Tensor, batch: Batch, layout: Layout, precision: Precision) -> Tensor:
    """Return the mean cross-entropy of resolved representative atoms over unpadded tokens."""
    target_BR = layout.local(batch["pseudo_beta_mask"], axis=1).long()
    errors_BR = F.cross_entropy(
        logits_BR2.to(precision.losses).transpose(1, 2), target_BR, reduction="none"
    )
    return _mean(errors_BR, layout.local(batch["token_mask"], axis=1), layout, precision)


def _mean(errors: Tensor, valid: Tensor, layout: Layout, precision: Precision) -> Tensor:
    layout = layout.named("losses")
    total_B = layout.sum_ranks((errors * valid).flatten(1).sum(1))
    count_B = layout.sum_ranks(valid.flatten(1).sum(1).to(precision.losses))
    return (total_B / count_B.clamp(min=1.0)).mean()
