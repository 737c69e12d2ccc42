"""The head and its cross-entropy, plain and without ever holding the logits of all tokens.

The logits of BLOOM-560M are 250,880 for each token, and as many again in float32 for the softmax
and once more for its gradient: at 2,048 tokens 5 GB. Here the logits of some rows at a time give
the loss and, at once, the gradients of the hidden states and of the head's weight, so that nothing
is computed twice (as Liger-Kernel does).

Shape suffixes: B batch, T tokens, N tokens of the whole batch, R some of them, W width,
V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from refsys.errors import ArgumentError

# The target of a position that has none.
IGNORED = -1

# Where nothing else is said, a chunk is half of the tokens and never more than this many.
_ROWS = 256


def usual_rows(tokens: int) -> int:
    """Tokens whose logits exist at once, where nothing else is said."""
    return min(_ROWS, -(-tokens // 2))


def plain_cross_entropy(
    hidden_NW: Tensor, weight_VW: Tensor, targets_N: Tensor, *, losses: torch.dtype
) -> Tensor:
    """Mean of logsumexp(h Wᵀ) − (h Wᵀ)[target] over the positions that have a target.

    Args:
        hidden_NW: Hidden states.
        weight_VW: The head's weight, cast to the dtype of the hidden states.
        targets_N: int64; IGNORED where there is none.
        losses: Dtype of the softmax and of the loss.

    Returns:
        A scalar; 0 if no position has a target.
    """
    logits_NV = F.linear(hidden_NW, weight_VW.to(hidden_NW.dtype)).to(losses)
    total = F.cross_entropy(logits_NV, targets_N, ignore_index=IGNORED, reduction="sum")
    return total / _count(targets_N, losses)


class TiedGradient:
    """The head's share of the gradient of a weight that is also the embedding's.

    `lookup` adds its own share to it in place and hands on the sum, so that there is one gradient
    as large as the vocabulary and not three. One is for one forward and backward pass.

    Attributes:
        share_VW: The head's share, between its backward pass and the lookup's.
    """

    share_VW: Tensor | None = None


def lookup(ids_BT: Tensor, weight_VW: Tensor, tied: TiedGradient, dtype: torch.dtype) -> Tensor:
    """[B, T, W]: the rows of the weight, whose gradient gets the head's share, too."""
    return _Lookup.apply(ids_BT, weight_VW, tied, dtype)


def chunked_cross_entropy(
    hidden_NW: Tensor,
    weight_VW: Tensor,
    targets_N: Tensor,
    *,
    losses: torch.dtype,
    rows: int,
    tied: TiedGradient | None = None,
) -> Tensor:
    """`plain_cross_entropy`, the logits of `rows` tokens at a time.

    Args:
        hidden_NW: As there.
        weight_VW: As there.
        targets_N: As there.
        losses: As there.
        rows: Tokens whose logits exist at once.
        tied: Takes the gradient of the weight, which autograd then does not get from here.

    Raises:
        ArgumentError: `rows` is less than 1.
    """
    if rows < 1:
        raise ArgumentError(f"rows={rows} is less than 1")
    weight_VW = weight_VW if tied is None else weight_VW.detach()
    wanted = torch.is_grad_enabled()
    return _ChunkedCrossEntropy.apply(hidden_NW, weight_VW, targets_N, losses, rows, wanted, tied)


def _count(targets_N: Tensor, dtype: torch.dtype) -> Tensor:
    return (targets_N != IGNORED).sum().clamp(min=1).to(dtype)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Makes the gradients in the forward pass; the backward pass scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NW: Tensor,
        weight_VW: Tensor,
        targets_N: Tensor,
        losses: torch.dtype,
        rows: int,
        wanted: bool,
        tied: TiedGradient | None,
    ) -> Tensor:
        cast_VW = weight_VW.to(hidden_NW.dtype)
        share = 1.0 / _count(targets_N, losses)
        loss = torch.zeros((), dtype=losses, device=hidden_NW.device)
        grad_hidden_NW = torch.empty_like(hidden_NW) if wanted else None
        grad_weight_VW = torch.zeros_like(weight_VW) if wanted else None
        parts = zip(hidden_NW.split(rows), targets_N.split(rows), strict=True)
        for number, (hidden_RW, targets_R) in enumerate(parts):
            scales_R1 = ((targets_R != IGNORED) * share).unsqueeze(1)
            places_R1 = targets_R.clamp(min=0).unsqueeze(1)
            logits_RV = (hidden_RW @ cast_VW.t()).to(losses)
            chosen_R1 = logits_RV.gather(1, places_R1)
            largest_R1 = logits_RV.amax(1, keepdim=True)
            # From here on in the memory of the logits.
            weights_RV = logits_RV.sub_(largest_R1).exp_()
            sums_R1 = weights_RV.sum(1, keepdim=True)
            loss += ((sums_R1.log() + largest_R1 - chosen_R1) * scales_R1).sum()
            if grad_hidden_NW is None or grad_weight_VW is None:
                continue
            # (softmax − one-hot of the target) · share of the position in the mean.
            grad_RV = weights_RV.mul_(scales_R1 / sums_R1).scatter_add_(1, places_R1, -scales_R1)
            cast_RV = grad_RV.to(hidden_NW.dtype)
            del logits_RV, weights_RV, grad_RV
            grad_hidden_NW[number * rows :][:rows] = cast_RV @ cast_VW
            _add_product(grad_weight_VW, cast_RV.t(), hidden_RW)
        ctx.gradients = grad_hidden_NW, grad_weight_VW
        ctx.tied = tied
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the chunked loss is differentiated once")
        hidden_NW, weight_VW = ctx.gradients
        # A gradient is handed on, and not copied, if nobody else holds it.
        ctx.gradients = None
        grad_weight_VW = weight_VW.mul_(grad)
        if ctx.tied is not None:
            ctx.tied.share_VW, grad_weight_VW = grad_weight_VW, None
        return hidden_NW.mul_(grad), grad_weight_VW, None, None, None, None, None


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, ids_BT: Tensor, weight_VW: Tensor, tied: TiedGradient, dtype: torch.dtype
    ) -> Tensor:
        ctx.save_for_backward(ids_BT)
        ctx.tied = tied
        return F.embedding(ids_BT, weight_VW).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTW: Tensor) -> tuple[Tensor | None, ...]:
        (ids_BT,) = ctx.saved_tensors
        share_VW, ctx.tied.share_VW = ctx.tied.share_VW, None
        assert share_VW is not None, "the head's backward pass comes first"
        rows_NW = grad_BTW.flatten(0, 1).to(share_VW.dtype)
        return None, share_VW.index_add_(0, ids_BT.flatten(), rows_NW), None, None


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Adds a b to `total`; a product of another dtype is summed in that of the total."""
    if a.dtype == total.dtype:
        # Not in its in-place form, whose FLOPs torch does not count.
        torch.addmm(total, a, b, out=total)
    else:
        total += a @ b
