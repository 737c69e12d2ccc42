"""Smooth-LDDT on Triton kernels, as one custom operator.

Forward saves positions and label, and two sums for each sample; no pair of atoms is ever stored.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from refsys.ops.planes.triton import PartialSums, reduce
from refsys.ops.triton_backend import (
    custom_operator,
    dense,
    launch,
    launch_options,
    tiles,
    unsupported_by_triton,
)
from refsys.ops.workspace import workspace


def unsupported_reason(
    x: Tensor,
    truth: Tensor,
    resolved: Tensor,
    radius: Tensor,
    *,
    block: int,
    atoms: tuple[int, int] | None = None,
) -> str | None:
    """See `refsys.ops.backend.Implementation`."""
    del block, atoms
    if x.dtype != torch.float32:
        return f"positions are taken in float32, not in {x.dtype}"
    return unsupported_by_triton(x, truth, resolved, radius)


def smooth_lddt(
    x: Tensor,
    truth: Tensor,
    resolved: Tensor,
    radius: Tensor,
    *,
    block: int,
    atoms: tuple[int, int] | None = None,
) -> Tensor:
    """See `refsys.ops.smooth_lddt.smooth_lddt`."""
    del block
    scores: Tensor = forward(x, truth, resolved, radius, *(atoms or (0, x.shape[2])))[0]
    return scores


@custom_operator("smooth_lddt")
def forward(
    x: Tensor, truth: Tensor, resolved: Tensor, radius: Tensor, begin: int, end: int
) -> tuple[Tensor, Tensor]:
    """Return the scores; and [batch, sample, 2], the sum of the pairs' scores and their number.

    Pairs start from the atoms [begin, end).
    """
    batch, samples, atoms, _three = x.shape
    options = launch_options("smooth_lddt.forward", x)
    count = tiles(end - begin, options["BLOCK_Q"])
    partials = workspace(
        "smooth_lddt.planes", (batch * samples, count, 2), dtype=torch.float32, device=x.device
    )
    launch(
        "smooth_lddt.forward",
        (count, samples, batch),
        *_inputs(x, truth, resolved, radius),
        partials,
        atoms,
        begin,
        end,
        **options,
    )
    sums = x.new_empty((batch, samples, 2), dtype=torch.float32)
    reduce(PartialSums(partials, sums.view(batch * samples, 2)))
    return (sums[..., 0] / sums[..., 1].clamp(min=1.0)).to(x.dtype), sums


@custom_operator("smooth_lddt_backward")
def backward(
    grad: Tensor,
    x: Tensor,
    truth: Tensor,
    resolved: Tensor,
    radius: Tensor,
    sums: Tensor,
    begin: int,
    end: int,
) -> Tensor:
    """Return the gradient of the positions."""
    batch, samples, atoms, _three = x.shape
    gradient = x.new_empty(x.shape)
    options = launch_options("smooth_lddt.backward", x)
    launch(
        "smooth_lddt.backward",
        (tiles(atoms, options["BLOCK_Q"]), samples, batch),
        *_inputs(x, truth, resolved, radius),
        dense("smooth_lddt.gradient", grad, grad.dtype),
        sums,
        gradient,
        atoms,
        begin,
        end,
        **options,
    )
    return gradient


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    *tensors, begin, end = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.atoms = begin, end


def _backward(ctx: Any, grad: Tensor | None, _unused: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 6
    return backward(grad, *ctx.saved_tensors, *ctx.atoms), *(None,) * 5


forward.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula([torch.ops.foldperf.smooth_lddt, torch.ops.foldperf.smooth_lddt_backward])
def _flops(*_args: Any, **_options: Any) -> int:
    """Return 0: there is no matrix product."""
    return 0


def _inputs(x: Tensor, truth: Tensor, resolved: Tensor, radius: Tensor) -> tuple[Tensor, ...]:
    return tuple(
        dense(f"smooth_lddt.{name}", tensor, tensor.dtype)
        for name, tensor in (
            ("x", x),
            ("truth", truth),
            ("resolved", resolved),
            ("radius", radius),
        )
    )
