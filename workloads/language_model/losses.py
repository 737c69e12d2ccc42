"""Head and cross-entropy, plain and chunked (without materializing the logits of all tokens).

BLOOM-560M has 250,880 logits per token, as many again in float32 for the softmax and once more for
its gradient: 5 GB at 2,048 tokens. The chunked loss computes the logits of a block of rows at a
time, and from them the loss and the gradients of the hidden states and of the head's weight, so
that nothing is computed twice (as Liger-Kernel does).

Shape suffixes: B batch, T tokens, N tokens of all sequences of the batch, R a block of them,
W width, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from refsys.errors import ArgumentError

# Target of positions that do not count in the loss.
IGNORED = -1

# Maximum of the default chunk size, tokens.
_ROWS = 256


def usual_rows(tokens: int) -> int:
    """Return the default chunk size: half of the tokens, at most 256."""
    return min(_ROWS, -(-tokens // 2))


def plain_cross_entropy(
    hidden_NW: Tensor, weight_VW: Tensor, targets_N: Tensor, *, losses: torch.dtype
) -> Tensor:
    """Return the mean of logsumexp(h Wᵀ) − (h Wᵀ)[target] over positions with a target.

    Args:
        hidden_NW: Hidden states.
        weight_VW: Weight of the head, cast to the dtype of the hidden states.
        targets_N: int64; IGNORED for positions without a target.
        losses: Dtype of the softmax and of the loss.

    Returns:
        A scalar; 0 if no position has a target.
    """
    logits_NV = F.linear(hidden_NW, weight_VW.to(hidden_NW.dtype)).to(losses)
    total = F.cross_entropy(logits_NV, targets_N, ignore_index=IGNORED, reduction="sum")
    return total / _count(targets_N, losses)


class TiedGradient:
    """Head's part of the gradient of a weight that is tied to the embedding.

    The backward pass of `lookup` adds the embedding's part in place and returns the sum, so that
    there is one gradient of the size of the vocabulary instead of three. Use one object per forward
    and backward pass.

    Attributes:
        share_VW: Gradient from the head, set between its backward pass and that of the lookup.
    """

    share_VW: Tensor | None = None


def lookup(ids_BT: Tensor, weight_VW: Tensor, tied: TiedGradient, dtype: torch.dtype) -> Tensor:
    """Return rows [B, T, W] of a tied weight; its gradient includes the part of the head."""
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
    """Compute `plain_cross_entropy` with the logits of `rows` tokens at a time.

    Args:
        hidden_NW: See `plain_cross_entropy`.
        weight_VW: See `plain_cross_entropy`.
        targets_N: See `plain_cross_entropy`.
        losses: See `plain_cross_entropy`.
        rows: Tokens per chunk.
        tied: Receives the gradient of the weight, which is then not returned to autograd.

    Raises:
        ArgumentError: `rows` is less than 1.
    """
    if rows < 1:
        raise ArgumentError(f"rows={rows} is less than 1, the smallest chunk")
    weight_VW = weight_VW if tied is None else weight_VW.detach()
    differentiate = torch.is_grad_enabled()
    return _ChunkedCrossEntropy.apply(
        hidden_NW, weight_VW, targets_N, losses, rows, differentiate, tied
    )


def _count(targets_N: Tensor, dtype: torch.dtype) -> Tensor:
    return (targets_N != IGNORED).sum().clamp(min=1).to(dtype)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Chunked loss that computes gradients in the forward pass; the backward pass scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NW: Tensor,
        weight_VW: Tensor,
        targets_N: Tensor,
        losses: torch.dtype,
        rows: int,
        differentiate: bool,
        tied: TiedGradient | None,
    ) -> Tensor:
        cast_VW = weight_VW.to(hidden_NW.dtype)
        share = 1.0 / _count(targets_N, losses)
        loss = torch.zeros((), dtype=losses, device=hidden_NW.device)
        grad_hidden_NW = torch.empty_like(hidden_NW) if differentiate else None
        grad_weight_VW = torch.zeros_like(weight_VW) if differentiate else None
        parts = zip(hidden_NW.split(rows), targets_N.split(rows), strict=True)
        for number, (hidden_RW, targets_R) in enumerate(parts):
            scales_R1 = ((targets_R != IGNORED) * share).unsqueeze(1)
            indices_R1 = targets_R.clamp(min=0).unsqueeze(1)
            logits_RV = (hidden_RW @ cast_VW.t()).to(losses)
            target_logits_R1 = logits_RV.gather(1, indices_R1)
            largest_R1 = logits_RV.amax(1, keepdim=True)
            # In place: the following tensors reuse the memory of the logits.
            weights_RV = logits_RV.sub_(largest_R1).exp_()
            sums_R1 = weights_RV.sum(1, keepdim=True)
            loss += ((sums_R1.log() + largest_R1 - target_logits_R1) * scales_R1).sum()
            if grad_hidden_NW is None or grad_weight_VW is None:
                continue
            # (softmax − one-hot of the target) · share of the position in the mean.
            grad_RV = weights_RV.mul_(scales_R1 / sums_R1).scatter_add_(1, indices_R1, -scales_R1)
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
            raise RuntimeError("the chunked loss can be differentiated only once")
        hidden_NW, weight_VW = ctx.gradients
        # Autograd takes over a gradient without a copy only if there is no other reference to it.
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
        assert share_VW is not None, "the backward pass of the head must come first"
        rows_NW = grad_BTW.flatten(0, 1).to(share_VW.dtype)
        return None, share_VW.index_add_(0, ids_BT.flatten(), rows_NW), None, None


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a b to `total`, in the dtype of `total`."""
    if a.dtype == total.dtype:
        # Not addmm_, whose FLOPs the counter of torch does not include.
        torch.addmm(total, a, b, out=total)
    else:
        total += a @ b
